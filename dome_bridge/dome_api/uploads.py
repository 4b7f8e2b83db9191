"""An upload in the catalog: a replica that is being populated, until its file is on the disk.

Beginning one is a transaction, and so is ending it. Nothing is left of one that is refused half way,
by the write fence or a kill: no entry without its replica, no replica that counts in some sizes only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from stat import S_IFREG

from dome_bridge.dome_api import catalog, checksum_record
from dome_bridge.dome_api.catalog import Entry, Replica, bytes_of
from dome_bridge.dome_api.changes import (
    FIRST_SIZED_DEPTH,
    NewEntry,
    add_to_sizes,
    create_entry,
    locked_again,
    set_size,
)
from dome_bridge.dome_api.cluster import FileSystem
from dome_bridge.dome_api.deletion_mark import BEING_POPULATED
from dome_bridge.dome_api.permissions import Subject
from dome_bridge.dome_api.placement import Choice
from dome_bridge.dome_api.properties import MAX_XATTR_BYTES, set_attributes
from dome_bridge.dome_api.quotatokens import QuotaToken
from dome_bridge.dome_api.sql import sql
from dome_bridge.dpm import checksum, xattr
from dome_bridge.dpm.pool import ConnectionPool
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError

logger = logging.getLogger(__name__)

FILE_MODE = S_IFREG | 0o664
PERMANENT = "P"

PFN_ATTEMPTS = 5
"""At a name that nothing has yet; more than one is needed once in a lifetime."""

SCAN_ROWS = 100_000


@dataclass(frozen=True)
class NewReplica:
    """A place for a file that is to come. token: which the space is charged to."""

    filesystem: FileSystem
    pfn: str
    token: QuotaToken | None = None

    @property
    def rfn(self) -> str:
        return f"{self.filesystem.server}:{self.pfn}"

    @property
    def xattr_text(self) -> bytes:
        """The token's name may be left out, a text that is too long could be read by nobody."""
        attributes = {"pool": self.filesystem.pool, "filesystem": self.filesystem.path}
        if self.token:
            text = xattr.serialise({**attributes, "accountedspacetokenname": self.token.u_token})
            if len(text) <= MAX_XATTR_BYTES:
                return text
        return xattr.serialise(attributes)


@dataclass(frozen=True)
class Upload:
    """What is to begin. pfn: gives another name each time."""

    lfn: str
    choice: Choice
    token: QuotaToken | None
    pfn: Callable[[FileSystem], str]

    def onto(self, filesystem: FileSystem) -> NewReplica:
        return NewReplica(filesystem, self.pfn(filesystem), self.token)


async def begin_file(
    database: ConnectionPool,
    upload: Upload,
    filesystem: FileSystem,
    *,
    parent: Entry,
    name: str,
    subject: Subject,
) -> NewReplica:
    """A new entry with its first replica. Raises as `create_entry` does."""
    return await _begun(database, partial(_begin_file, upload, filesystem, parent, name, subject))


async def begin_additional(database: ConnectionPool, upload: Upload, entry: Entry) -> NewReplica:
    """One more replica of a file as a look-up has found it, where it has none yet.

    Raises GoneError, and ApiError as `Choice.beside` does.
    """
    return await _begun(database, partial(_begin_additional, upload, entry))


class _PfnTakenError(Exception):
    """Another replica has got the same name."""


async def _begun(database: ConnectionPool, begin: Callable[[Source], Awaitable[NewReplica]]) -> NewReplica:
    for _ in range(PFN_ATTEMPTS):
        try:
            return await database.transact(begin)
        except _PfnTakenError as exc:
            logger.warning("name of a replica was taken rfn=%r", str(exc))
    raise ApiError(500, "no name for the replica could be found that no other has: try again")


async def _begin_file(
    upload: Upload, filesystem: FileSystem, parent: Entry, name: str, subject: Subject, source: Source
) -> NewReplica:
    replica = upload.onto(filesystem)
    fileid = await create_entry(source, parent, NewEntry(name, FILE_MODE), subject)
    await _register(source, fileid, replica)
    return replica


async def _begin_additional(upload: Upload, entry: Entry, source: Source) -> NewReplica:
    locked = await locked_again(source, entry)
    present = await catalog.replicas_of(source, locked.fileid, locked=True)
    replica = upload.onto(upload.choice.beside(present, upload.lfn))
    await _register(source, locked.fileid, replica)
    return replica


async def _register(source: Source, fileid: int, new: NewReplica) -> None:
    """Raises _PfnTakenError unless the name is the replica's alone."""
    place = new.filesystem
    setname = bytes_of(new.token.s_token) if new.token else None
    columns = tuple(map(bytes_of, (place.pool, place.server, place.path, new.rfn)))
    states = (BEING_POPULATED.encode(), PERMANENT.encode())
    await source.execute(sql(source, "insert_replica"), (fileid, *states, setname, *columns, new.xattr_text))
    # Only now: a look before it would lock the gap in the index that all uploads of the day go into.
    rows = await source.fetch(catalog.statement(source, "replicas_by_rfn_locked"), (bytes_of(new.rfn),))
    if len(rows) != 1:
        raise _PfnTakenError(new.rfn)


@dataclass(frozen=True, slots=True)
class Checksum:
    """As it is stored. key: with the prefix `checksum.`."""

    key: str
    value: str

    @classmethod
    def sent(cls, key: str, value: str) -> Checksum | None:
        """None if neither is given. Raises ApiError 422 or 400 for one that cannot be stored."""
        if not key and not value:
            return None
        if not key or not value:
            raise ApiError(422, "checksumtype and checksumvalue belong together: one of them is empty")
        if not key.startswith(checksum.PREFIX):
            raise ApiError(422, f"Invalid checksum type {key[:40]!a}: it must be checksum.<name>")
        return cls(checksum.PREFIX + checksum_record.name_of(key), checksum_record.require_value(value))

    @property
    def name(self) -> str:
        return self.key.removeprefix(checksum.PREFIX)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that is on its disk now. size: in bytes."""

    rfn: str
    size: int
    checksum: Checksum | None = None


async def upload_under_way(source: Source, rfn: str) -> Replica:
    """Raises ApiError: 500, as in DOME, if there is no such replica, 422 if nobody is populating it."""
    replica = await catalog.replica_by_rfn(source, rfn)
    if replica is None:
        raise _not_accessible(rfn, "was the file deleted, or never put?")
    return _require_under_way(replica)


def _not_accessible(rfn: str, why: str) -> ApiError:
    return ApiError(500, f"Not accessible '{rfn}': Replica not found: {why}")


def _require_under_way(replica: Replica) -> Replica:
    if replica.status != BEING_POPULATED:
        raise ApiError(
            422,
            f"Invalid status for replica '{replica.rfn}': it is '{replica.status}', no upload is under way",
        )
    return replica


async def finish_upload(database: ConnectionPool, arrival: Arrival, *, depth: int) -> None:
    """Makes the replica available and counts it. depth: `[api] directory_size_depth`.

    Raises as `upload_under_way` does, and ApiError 422 if the file is gone.
    """
    await database.transact(partial(_finish, arrival, depth))


async def _finish(arrival: Arrival, depth: int, source: Source) -> None:
    found = await upload_under_way(source, arrival.rfn)
    # Were the file moved just now, its size would go to where it was: as if it had been moved after this.
    lineage = await _lineage(source, found.fileid)
    if sized := [directory.fileid for directory in lineage][FIRST_SIZED_DEPTH : depth + 1]:
        await source.fetch(sql(source, "lock_directories"), (sized,))
    entry = await catalog.locked_entry(source, found.fileid)
    if entry is None or not entry.is_file:
        raise _without_file(found)
    replica = await catalog.locked_replica(source, found.replicaid)
    if replica is None or (replica.fileid, replica.rfn) != (found.fileid, found.rfn):
        raise _not_accessible(found.rfn, "it was deleted or renamed just now")
    await _complete(source, _require_under_way(replica), entry, arrival)
    await add_to_sizes(source, lineage, arrival.size, depth)
    if replica.setname:
        await source.execute(sql(source, "charge_space"), (arrival.size, bytes_of(replica.setname)))


def _without_file(replica: Replica) -> ApiError:
    return ApiError(422, f"the file of replica '{replica.rfn}' is gone: fileid {replica.fileid}")


async def _lineage(source: Source, fileid: int) -> tuple[Entry, ...]:
    entry = await catalog.entry_by_fileid(source, fileid)
    try:
        return await catalog.lineage_of(source, entry) if entry else ()
    except ApiError:
        # An orphan: there is nothing above it to be counted in.
        return ()


async def _complete(source: Source, replica: Replica, entry: Entry, arrival: Arrival) -> None:
    text = replica.xattr_text
    if found := arrival.checksum:
        _log_difference(entry, found)
        text = checksum_record.for_replica(replica, found.name, found.value)
        await set_attributes(source, entry, checksum_record.for_file(entry, found.name, found.value))
    await source.execute(sql(source, "complete_replica"), (text, replica.replicaid))
    await set_size(source, entry, arrival.size)


def _log_difference(entry: Entry, found: Checksum) -> None:
    known = checksum_record.of_file(entry).get(found.name.lower())
    if known and not checksum_record.is_same(found.name, known, found.value):
        logger.error(
            "upload has another checksum than its file fileid=%d kind=%s before=%r now=%r",
            *(entry.fileid, found.name, known, found.value),
        )


@dataclass(frozen=True, slots=True)
class AbandonedUploads:
    """Uploads that began long ago and never ended. oldest: Unix time, 0 without any."""

    count: int
    oldest: int


async def abandoned_uploads(
    source: Source,
    older_than_seconds: float,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AbandonedUploads:
    """Reads the whole table of replicas, as no index leads to a status, and rests as long as it reads."""
    clock = asyncio.get_running_loop().time
    count, oldest = 0, 0
    row = await source.fetchrow(sql(source, "replica_bounds"))
    first, last = row if row and row[0] is not None else (1, 0)
    for start in range(first, last + 1, SCAN_ROWS):
        began = clock()
        values = (start, start + SCAN_ROWS - 1, int(older_than_seconds))
        found = await source.fetchrow(sql(source, "abandoned_uploads"), values)
        if found and found[0]:
            count += int(found[0])
            oldest = min(oldest or int(found[1]), int(found[1]))
        await sleep(clock() - began)
    return AbandonedUploads(count, oldest)
