"""dome_info: the one command that answers everybody, with the sentences that probes look for."""

from __future__ import annotations

import os

from dome_bridge import __version__
from dome_bridge.dome_api.command import Access, Commands
from dome_bridge.dome_api.head import Call
from dome_bridge.dome_api.wire import Answer

commands = Commands()

DOME_VERSION = "1.15.2"
"""The last release of DOME; tools print it, and some compare."""


@commands.get("dome_info", access=Access.ANYBODY)
async def info(call: Call) -> Answer:
    """What this service is, and whether the peer may use it."""
    peer = call.request.peer
    lines = [
        f"dome [{DOME_VERSION}] running as head",
        f"Server PID: {os.getpid()} - Thread Index: 0 ",
        f"Your DN: {peer.dn}",
        "",
        *_standing(await call.head.authoriser.is_authorised(peer)),
    ]
    return Answer.text("".join(f"{line}\r\n" for line in lines))


def _standing(is_authorised: bool) -> list[str]:
    """The original goes on with its environment; here that would only be something to leak."""
    if is_authorised:
        return ["ACCESS TO DOME GRANTED.", f"SERVER_SOFTWARE=dome-bridge/{__version__}"]
    return [
        "ACCESS TO DOME DENIED.",
        "Your client certificate is not authorized to directly access dome. Sorry :-)",
    ]
