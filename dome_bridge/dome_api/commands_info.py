"""dome_info: the one command that answers everybody, with the sentences that probes look for."""

from __future__ import annotations

from dome_bridge import __version__
from dome_bridge.auth.principal import Kind, Principal
from dome_bridge.dome_api.admission import ANYBODY
from dome_bridge.dome_api.command import Commands
from dome_bridge.dome_api.head import Call
from dome_bridge.dome_api.wire import Answer

commands = Commands()

_PEOPLE = (Kind.USER, Kind.CAPABILITY, Kind.GROUP)

DOME_VERSION = "1.15.2"
"""The last release of DOME; tools print it, and some compare."""


@commands.get("dome_info", ANYBODY)
async def info(call: Call) -> Answer:
    """What this service is, and whether the peer may use it."""
    peer = call.request.peer
    lines = [
        f"dome [{DOME_VERSION}] running as head",
        "Server PID: 0 - Thread Index: 0 ",
        f"Your DN: {peer.dn}",
        "",
        *_standing(call.request.principal, call.auth_settings.direct_users),
    ]
    return Answer.text("".join(f"{line}\r\n" for line in lines))


def _standing(principal: Principal, users_may: bool) -> list[str]:
    """The original goes on with its environment; here that would only be something to leak."""
    may_call = principal.is_peer if principal.kind not in _PEOPLE else users_may
    if may_call:
        return ["ACCESS TO DOME GRANTED.", f"SERVER_SOFTWARE=dome-bridge/{__version__}"]
    return [
        "ACCESS TO DOME DENIED.",
        "Your client certificate is not authorized to directly access dome. Sorry :-)",
    ]
