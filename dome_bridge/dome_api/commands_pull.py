"""The command by which disk servers tell of the files that they fetch into volatile pools."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

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
    match status:
        case "pending":
            call.head.pulls.reported(lfn, server)
        case "aborted":
            logger.warning("file not pulled lfn=%r server=%r pfn=%r reason=%r", lfn, server, pfn, reason)
            call.head.pulls.ended(lfn)
        case "done":
            await _arrived(call, lfn, Arrival(f"{server}:{pfn}", filesize, _checksum(kind, checksum)))
        case _:
            raise ApiError(422, "The status provided is not recognized.")
    return Answer.EMPTY


def _checksum(kind: str, value: str) -> Checksum | None:
    """None if there is none: the script that pulls may not have made one, or nobody has named a kind."""
    if not kind.removeprefix(PREFIX) or not value:
        return None
    return Checksum(PREFIX + checksum_record.name_of(kind), checksum_record.require_value(value))


async def _arrived(call: Call, lfn: str, arrival: Arrival) -> None:
    try:
        if arrival.size < 0:
            raise ApiError(422, f"{arrival.size} is no size of a file")
        await finish_upload(call.database, arrival, depth=call.head.config.api.directory_size_depth)
    finally:
        call.head.pulls.ended(lfn)
