"""The commands about checksums: clients ask for them, disk servers tell what they have calculated."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple
from zlib import crc32

from dome_bridge.dome_api import catalog, checksum_record
from dome_bridge.dome_api.admission import CHANGING, READING, SEEING, from_disks, on_path
from dome_bridge.dome_api.catalog import Entry, Replica, bytes_of, split_rfn
from dome_bridge.dome_api.changes import locked_again
from dome_bridge.dome_api.checksums import Calculation, Sum
from dome_bridge.dome_api.cluster import Cluster
from dome_bridge.dome_api.command import Commands, Flag, Key, Text
from dome_bridge.dome_api.deletion_mark import BEING_DELETED, BEING_POPULATED
from dome_bridge.dome_api.permissions import READ, may, require, require_scope
from dome_bridge.dome_api.properties import set_attributes
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.sql import sql
from dome_bridge.dome_api.wire import Answer
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

logger = logging.getLogger(__name__)

commands = Commands()

LOOKS = 3
"""At the catalog, as long as calculations end meanwhile."""

KINDS = ("md5", "crc32", "adler32")
"""What clients may ask for."""

CALCULATING = READING | CHANGING
"""What a token needs to have a disk server read a whole file."""

Kind = Annotated[Text, Key("checksum-type")]


@commands.get("dome_chksum", on_path("lfn", needs=SEEING, is_file=True, is_unchecked=True))
async def chksum(
    call: Call,
    kind: Kind = "",
    lfn: Text = "",
    pfn: Text = "",
    force: Annotated[Flag, Key("force-recalc")] = False,
) -> Answer:
    """The checksum of a file, and of a replica that pfn names by its rfn; 202 while it is calculated."""
    name = checksum_record.name_of(kind)
    if name not in KINDS:
        raise ApiError(422, f"unknown checksum type {name}")
    subject = await call.subject()
    if force:
        require_scope(subject, CALCULATING, lfn, is_file=True)
        await _require_readable(call, lfn)
    asked, checksums = Sum(lfn, pfn, name), call.head.checksums
    for _ in range(LOOKS):
        endings = checksums.endings
        is_outdated = checksums.is_outdated(asked, is_demanded=force)
        found = await call.database.read(partial(_look_up, asked, call.cluster))
        if not is_outdated and found.is_stored:
            return Answer.json({"status": "found", **found.stored})
        # What has left the queue during the look may be in the catalog now.
        if checksums.endings == endings:
            break
    require_scope(subject, CALCULATING, lfn, is_file=True)
    if found.key is None:
        raise ApiError(404, f"The provided LFN does not have any replicas that are complete: '{lfn}'")
    # The disk server is told who asked, but not in which groups that user is.
    user = RemoteUser(call.disk_user.dn, call.disk_user.host)
    return _enqueued(call, Calculation(found.key, asked, user), is_demanded=force)


@commands.post("dome_chksumstatus", from_disks("pfn"))
async def chksumstatus(
    call: Call,
    lfn: Text = "",
    pfn: Text = "",
    kind: Kind = "",
    status: Text = "",
    checksum: Text = "",
    reason: Text = "",
    updates_file: Annotated[Flag, Key("update-lfn-checksum")] = False,
) -> Answer:
    """A disk server tells that it is calculating (pending), has done so or could not (aborted)."""
    name = checksum_record.name_of(kind)
    if not pfn:
        raise ApiError(422, "pfn cannot be empty.")
    key = Sum(lfn, pfn, name)
    match status:
        case "pending":
            call.head.checksums.reported(key)
        case "aborted":
            logger.warning("checksum not calculated rfn=%r kind=%s reason=%r", pfn, name, reason)
            call.head.checksums.ended(key, is_stored=False)
        case "done":
            await _store(call, key, checksum, updates_file=updates_file)
        case _:
            raise ApiError(422, "The status provided is not recognized.")
    return Answer.EMPTY


async def _require_readable(call: Call, lfn: str) -> None:
    """Of people who call by themselves; the original asks for no right, as only servers call it."""
    if call.request.principal.is_peer:
        return
    subject = await call.subject()
    entry, _ = await call.database.read(partial(_file_and_replicas, lfn))
    require(may(subject, entry, READ), f"Need READ access on '{lfn}'")


async def _file_and_replicas(lfn: str, source: Source) -> tuple[Entry, list[Replica]]:
    entry = (await catalog.walk(source, lfn)).entry
    if entry is None:
        raise ApiError(404, f"Cannot stat lfn: '{lfn}'")
    return entry, await catalog.replicas_of(source, entry.fileid)


class _Found(NamedTuple):
    """stored: checksums as an answer has them, empty ones for those that are missing.

    key: what would have to be calculated; None if there is no complete replica.
    """

    stored: Mapping[str, str]
    key: Sum | None

    @property
    def is_stored(self) -> bool:
        return all(self.stored.values())


async def _look_up(asked: Sum, cluster: Cluster, source: Source) -> _Found:
    entry, replicas = await _file_and_replicas(asked.lfn, source)
    stored = {"checksum": checksum_record.of_file(entry).get(asked.kind, "")}
    if asked.rfn:
        replicas = [_of_name(replicas, asked.rfn, asked.lfn)]
        stored["pfn-checksum"] = checksum_record.of_replica(replicas[0]).get(asked.kind, "")
    chosen = _chosen(replicas, asked.lfn, cluster)
    return _Found(stored, asked._replace(rfn=chosen.rfn) if chosen else None)


def _of_name(replicas: Iterable[Replica], rfn: str, lfn: str) -> Replica:
    replica = next((each for each in replicas if each.rfn == rfn), None)
    if replica is None:
        raise ApiError(404, f"The provided PFN '{rfn}' does not correspond to any replica of '{lfn}'")
    return replica


def _chosen(replicas: Iterable[Replica], lfn: str, cluster: Cluster) -> Replica | None:
    """The one to be read. As long as nothing changes it is the same: clients ask again until they have it."""
    complete = [each for each in replicas if each.status not in (BEING_POPULATED, BEING_DELETED)]
    best = [each for each in complete if _is_readable(each, cluster)] or complete
    return best[crc32(bytes_of(lfn)) % len(best)] if best else None


def _is_readable(replica: Replica, cluster: Cluster) -> bool:
    filesystem = cluster.find(*split_rfn(replica.rfn))
    return filesystem is not None and filesystem.is_readable


def _enqueued(call: Call, calculation: Calculation, *, is_demanded: bool) -> Answer:
    size = call.head.checksums.request(calculation, is_demanded=is_demanded)
    answer = {
        "status": "enqueued",
        "server": calculation.server,
        "pfn": calculation.pfn,
        "queue-size": str(size),
    }
    return Answer.json(answer, 202)


async def _store(call: Call, key: Sum, value: str, *, updates_file: bool) -> None:
    is_stored = False
    try:
        if not value:
            raise ApiError(400, "checksum cannot be empty when status is done.")
        checksum_record.require_value(value)
        for_file = updates_file or call.head.checksums.is_demanded_for_file(key)
        await call.database.transact(partial(_enter, key, value, for_file))
        is_stored = True
    finally:
        # Not before it is in the catalog: a client that asks in between would have it calculated again.
        call.head.checksums.ended(key, is_stored=is_stored)


async def _enter(key: Sum, value: str, updates_file: bool, source: Source) -> None:
    """The replica's checksum, and the file's if that is wanted or the file has none."""
    found, _ = await _file_and_replicas(key.lfn, source)
    entry = await locked_again(source, found)
    replicas = await catalog.replicas_of(source, entry.fileid, locked=True)
    replica = _complete(_of_name(replicas, key.rfn, key.lfn))
    text = checksum_record.for_replica(replica, key.kind, value)
    values = (bytes_of(replica.status), text, replica.replicaid)
    await source.execute(sql(source, "set_replica_status"), values)
    present = checksum_record.of_file(entry).get(key.kind.lower())
    if present and not checksum_record.is_same(key.kind, present, value):
        logger.error(
            "replica has another checksum than its file rfn=%r kind=%s file=%r replica=%r",
            *(key.rfn, key.kind, present, value),
        )
    if updates_file or not present:
        await set_attributes(source, entry, checksum_record.for_file(entry, key.kind, value))


def _complete(replica: Replica) -> Replica:
    """Half of a file has a checksum too, but not the file's."""
    if replica.status in (BEING_POPULATED, BEING_DELETED):
        raise ApiError(
            404, f"replica '{replica.rfn}' is being written or deleted, its status is '{replica.status}'"
        )
    return replica
