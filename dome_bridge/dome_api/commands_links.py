"""The link feed for disk servers, page by page: the one command that DOME does not have.

The feed comes from the Chimera database, which this side knows nothing of; whoever starts the API hands
it in. Each disk server gets its own, by its host certificate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dome_bridge.dome_api.admission import from_disks
from dome_bridge.dome_api.command import Commands, Flag, Text
from dome_bridge.dome_api.wire import Answer
from dome_bridge.errors import ApiError, StateError, TargetError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

NDJSON = "application/x-ndjson"


class LinkPage(Protocol):
    """Lines of JSON objects, the last of which says where the feed goes on."""

    def encode(self) -> bytes: ...


class LinkSource(Protocol):
    """Raises StateError for an unknown server and a cursor that is no good, TargetError for no database."""

    async def page(self, server: str, *, since: str = "", checksums: bool = False) -> LinkPage: ...


def link_commands(links: LinkSource) -> Commands:
    commands = Commands()

    @commands.get("dome_getlinks", from_disks("server"))
    async def getlinks(call: Call, server: Text, since: Text = "", checksums: Flag = False) -> Answer:
        """A page of what has to be in a disk server's pool directories, for `dpm-pool-link`."""
        try:
            page = await links.page(server, since=since, checksums=checksums)
        except StateError as exc:
            raise ApiError(409, str(exc)) from exc
        except TargetError as exc:
            raise ApiError(503, str(exc)) from exc
        return Answer(200, page.encode(), NDJSON)

    return commands
