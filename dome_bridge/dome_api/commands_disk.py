"""Commands of disk servers, which a head refuses in DOME's words instead of not knowing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dome_bridge.dome_api.command import Commands, Handler
from dome_bridge.dome_api.wire import Answer
from dome_bridge.errors import ApiError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

commands = Commands()


def _refusing(name: str, status: int) -> Handler:
    async def refuse(call: Call) -> Answer:
        """Nothing: only disk servers have it."""
        raise ApiError(status, f"{name} only available on disk nodes.")

    return refuse


commands.get("dome_statpfn")(_refusing("dome_statpfn", 500))
commands.post("dome_makespace")(_refusing("dome_makespace", 400))
for _name in ("dome_pfnrm", "dome_dochksum", "dome_pull"):
    commands.post(_name)(_refusing(_name, 500))
