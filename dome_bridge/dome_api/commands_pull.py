"""The command by which disk servers tell of the files that they fetch into volatile pools."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

from dome_bridge.auth.roles import speaks_for
from dome_bridge.dome_api import checksum_record
from dome_bridge.dome_api.admission import from_disks
from dome_bridge.dome_api.command import Commands, Integer, Key, Text
from dome_bridge.dome_api.uploads import Arrival, Checksum, finish_upload
from dome_bridge.dome_api.wire import Answer
from dome_bridge.dpm.checksum import PREFIX
from dome_bridge.errors import ApiError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

logger = logging.getLogger(__name__)

commands = Commands()


@commands.post("dome_pullstatus", from_disks("server"))
async def pullstatus(
    call: Call,
    lfn: Text = "",
    pfn: Text = "",
    server: Text = "",
    kind: Annotated[Text, Key("checksum-type")] = "",
    status: Text = "",
    reason: Text = "",
    checksum: Text = "",
    filesize: Integer = 0,
) -> Answer:
    """A disk server tells that it is fetching a file (pending), has done so or could not (aborted)."""
    if not pfn:
        raise ApiError(422, "pfn cannot be empty.")
    if not lfn:
        raise ApiError(422, "lfn cannot be empty.")
    if not server:
        raise ApiError(422, "server cannot be empty.")
    _require_its_turn(call, lfn, server, status)
    match status:
        case "pending":
            call.head.pulls.reported(lfn, server)
        case "aborted":
            logger.warning("file not pulled lfn=%r server=%r pfn=%r reason=%r", lfn, server, pfn, reason)
            call.head.pulls.ended(lfn)
        case "done":
            await _arrived(call, lfn, server, Arrival(f"{server}:{pfn}", filesize, _checksum(kind, checksum)))
        case _:
            raise ApiError(422, "The status provided is not recognized.")
    return Answer.EMPTY


def _checksum(kind: str, value: str) -> Checksum | None:
    """None if there is none: the script that pulls may not have made one, or nobody has named a kind."""
    if not kind.removeprefix(PREFIX) or not value:
        return None
    return Checksum(PREFIX + checksum_record.name_of(kind), checksum_record.require_value(value))


def _require_its_turn(call: Call, lfn: str, server: str, status: str) -> None:
    """Raises ApiError 422 for a report on what another server fetches; a file that is there counts always."""
    if status == "done" or _is_at_it(call, lfn, server):
        return
    logger.warning("report on a pull of another server is not taken lfn=%r server=%r", lfn, server)
    raise ApiError(422, f"'{lfn}' is fetched by another server than {server}")


def _is_at_it(call: Call, lfn: str, server: str) -> bool:
    """Nobody else is."""
    other = call.head.pulls.server_of(lfn)
    return not other or speaks_for({other.lower()}, server, call.auth_settings.same_server)


async def _arrived(call: Call, lfn: str, server: str, arrival: Arrival) -> None:
    try:
        if arrival.size < 0:
            raise ApiError(422, f"{arrival.size} is no size of a file")
        await finish_upload(call.database, arrival, depth=call.head.config.api.directory_size_depth)
    finally:
        if _is_at_it(call, lfn, server):
            call.head.pulls.ended(lfn)
