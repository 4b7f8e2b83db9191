"""Removes replicas and their files: what will happen is in the database before a disk is asked.

1. A transaction locks the file, looks whether all can be done, and gives each replica the status D
   and a mark: what is under way, the status before, since when, and whose attempt it is.
2. The disk servers remove the files.
3. A transaction takes the rows away, gives their space back and, with the last replica, the entry.

If a disk says that it has not removed a file, what is left of the marks is undone. After anything else
that ends the procedure early (a kill, a lost answer, the write fence) they stay, and `finish_forever` goes
on from there. So the fence stops a removal before a file is touched, or finds it marked.

An attempt that takes over another's marks makes them its own, and puts them back if it has to undo.
It cannot tell what the other one has done; and the other one undoes nothing that is not marked as its
own. So no replica is given back whose file is gone, whatever the order.

No index leads to a status, and replicas are many. A process remembers what it has left itself; what a
killed one has left, its successor finds by reading the whole table when it starts, and once a day.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import NamedTuple

from dome_bridge.dome_api import catalog
from dome_bridge.dome_api.catalog import Entry, Replica, split_rfn
from dome_bridge.dome_api.changes import (
    FIRST_SIZED_DEPTH,
    GoneError,
    add_to_sizes,
    delete_entry,
    locked_again,
)
from dome_bridge.dome_api.cluster import Cluster
from dome_bridge.dome_api.deletion_mark import BEING_DELETED, MARK, Attempt, Deletion, Doomed, Mark
from dome_bridge.dome_api.disk_client import DiskRefusedError, DiskUnreachableError
from dome_bridge.dome_api.head import Head
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.sql import sql
from dome_bridge.dome_api.wire import Tree
from dome_bridge.dpm.fenced import is_fenced
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError, BridgeError, DiskError

logger = logging.getLogger(__name__)

ROUNDS = 5
"""Of an unlink whose file gets further replicas all the time."""

MOVES = 5
"""Times that a file may be moved just while its rows are being taken away."""

GRACE_SECONDS = 120.0
"""What `finish_forever` leaves to those who are at it."""

SCAN_SECONDS = 24 * 3600.0
SCAN_ROWS = 100_000
IDS_PER_QUERY = 1000


async def unlink_file(head: Head, entry: Entry, user: RemoteUser) -> None:
    """Deletes a file or a link as a look-up has found it, with all its replicas.

    Raises GoneError, ApiError 500 for what a disk has not done.
    """
    replicas = await head.database.read(partial(_replicas_of, entry))
    if not replicas and (await settle(head, entry.fileid, (), unmoved=entry)).left == 0:
        return
    for _ in range(ROUNDS):
        if (await _remove(head, entry, Attempt(Deletion.UNLINK, user), rfn=None)).left == 0:
            return
        logger.info("file got another replica while it was unlinked fileid=%d", entry.fileid)
    raise ApiError(500, f"Cannot unlink fileid {entry.fileid}: it gets new replicas all the time; try again")


async def _replicas_of(entry: Entry, source: Source) -> list[Replica]:
    return await catalog.replicas_of(source, entry.fileid)


async def delete_replica(
    head: Head, entry: Entry, rfn: str, user: RemoteUser, body: Mapping[str, Tree]
) -> None:
    """Deletes a replica of a file as a look-up has found it, with the last one the entry too.

    body: what the client has sent, for the disk. Raises as `unlink_file` does.
    """
    settled = await _remove(head, entry, Attempt(Deletion.DELREPLICA, user, body), rfn=rfn)
    if not settled.gone:
        raise GoneError(f"the replica '{rfn}'")


async def _remove(head: Head, entry: Entry, attempt: Attempt, *, rfn: str | None) -> Settled:
    marked: set[int] = set()
    try:
        doomed = await head.database.transact(partial(_mark, head.watch.cluster, entry, attempt, rfn, marked))
        await _remove_files(head, entry, doomed, attempt, marked)
        settled = await settle(head, entry.fileid, doomed, unmoved=None if doomed else entry)
        marked.clear()
        return settled
    finally:
        head.unfinished.update(marked)


async def _mark(
    cluster: Cluster, entry: Entry, attempt: Attempt, rfn: str | None, marked: set[int], source: Source
) -> list[Doomed]:
    """marked: is told which ones, as the connection may be lost while that is committed."""
    await locked_again(source, entry)
    replicas = await catalog.replicas_of(source, entry.fileid, locked=True)
    if rfn is not None:
        replicas = [replica for replica in replicas if replica.rfn == rfn]
        if not replicas:
            raise GoneError(f"the replica '{rfn}'")
    if replicas:
        _require_good_places(replicas, await file_systems(source), cluster)
    doomed = [Doomed.by(attempt, replica) for replica in replicas]
    await write_marks(source, doomed)
    marked.update(each.replica.replicaid for each in doomed)
    return doomed


async def write_marks(source: Source, doomed: Iterable[Doomed]) -> None:
    """The replicas are locked already."""
    for each in doomed:
        text = each.mark.written_into(each.replica.xattr_text)
        await _set_status(source, each.replica, BEING_DELETED, text)


async def _set_status(source: Source, replica: Replica, status: str, xattr_text: bytes) -> None:
    values = (catalog.bytes_of(status), xattr_text, replica.replicaid)
    await source.execute(sql(source, "set_replica_status"), values)


async def file_systems(source: Source) -> list[tuple[str, str]]:
    """Server and mount point of each file system that DPM knows."""
    rows = await source.fetch(sql(source, "filesystems"))
    return [(catalog.text_of(server), catalog.text_of(path)) for _, server, path, _ in rows]


def is_in_file_system(server: str, pfn: str, systems: Iterable[tuple[str, str]]) -> bool:
    """The names of servers are compared as they stand, as DOME does."""
    return any(
        server == known and (pfn == path or pfn.startswith(f"{path.rstrip('/')}/")) for known, path in systems
    )


def _require_good_places(
    replicas: Iterable[Replica], systems: Sequence[tuple[str, str]], cluster: Cluster
) -> None:
    for replica in replicas:
        server, pfn = split_rfn(replica.rfn)
        if not server or not pfn:
            raise ApiError(500, f"Incorrect replica rfn '{replica.rfn}'")
        if not is_in_file_system(server, pfn, systems):
            raise ApiError(500, f"No filesystem matches replica '{replica.rfn}'")
        if cluster.is_broken(server, pfn):
            raise ApiError(500, f"A disabled or broken filesystem is matching replica '{replica.rfn}'")


async def _remove_files(
    head: Head, entry: Entry, doomed: Sequence[Doomed], attempt: Attempt, marked: set[int]
) -> None:
    """In turn, up to the first that is not removed for certain. marked: loses what is not marked any more."""
    for number, each in enumerate(doomed):
        server, pfn = split_rfn(each.replica.rfn)
        try:
            await head.disks.remove(server, pfn, attempt.user, body=attempt.body)
        except DiskError as exc:
            if isinstance(exc, DiskRefusedError | DiskUnreachableError):
                marked -= await _undo(head, entry.fileid, removed=doomed[:number], kept=doomed[number:])
            raise ApiError(500, f"Unable to delete physical replica '{each.replica.rfn}': {exc}") from exc


async def _undo(head: Head, fileid: int, *, removed: Sequence[Doomed], kept: Sequence[Doomed]) -> set[int]:
    """The replicas that have no mark any more; all of them keep theirs if the database refuses."""
    try:
        if removed:
            await settle(head, fileid, removed)
        return await head.database.transact(partial(_take_marks_away, fileid, kept)) | _ids(removed)
    except BridgeError as exc:
        logger.warning("replicas stay marked as being deleted fileid=%d error=%s", fileid, exc)
        return set()


async def _take_marks_away(fileid: int, kept: Sequence[Doomed], source: Source) -> set[int]:
    await catalog.locked_entry(source, fileid)
    now = {each.replicaid: each for each in await catalog.replicas_of(source, fileid, locked=True)}
    freed = set()
    for each in kept:
        replica = now.get(each.replica.replicaid)
        if replica is not None and Mark.of(replica) == each.mark:
            await _set_status(source, replica, each.replica.status, each.replica.xattr_text)
            if Mark.of(each.replica) is None:
                freed.add(replica.replicaid)
    return freed


def _ids(doomed: Iterable[Doomed]) -> set[int]:
    return {each.replica.replicaid for each in doomed}


class Settled(NamedTuple):
    """Replicas of a file. gone: whose rows were taken away just now; left: that it still has."""

    gone: int
    left: int


class _MovedError(Exception):
    """The file went to another directory between a look and the lock."""


async def settle(
    head: Head, fileid: int, removed: Sequence[Doomed], *, unmoved: Entry | None = None
) -> Settled:
    """Takes away the rows of replicas whose files are gone, and the entry with the last one.

    unmoved: the entry must be as it was found, for a file that has no mark yet. Raises GoneError if
    the entry is gone.
    """
    depth = head.config.api.directory_size_depth
    for _ in range(MOVES):
        try:
            return await head.database.transact(partial(_settle, fileid, removed, unmoved, depth))
        except _MovedError:
            logger.debug("file moved while it was removed fileid=%d", fileid)
    raise ApiError(500, f"Cannot unlink fileid {fileid}: it is moved all the time; try again")


async def _settle(
    fileid: int, removed: Sequence[Doomed], unmoved: Entry | None, depth: int, source: Source
) -> Settled:
    found = unmoved or await catalog.entry_by_fileid(source, fileid)
    if found is None:
        raise GoneError(f"fileid {fileid}")
    lineage = await _lineage(source, found)
    await _lock_directories(source, lineage, found.parent, depth if removed else 0)
    entry = await _locked_there(source, found, by_name=unmoved is not None)
    replicas = await catalog.replicas_of(source, fileid, locked=True)
    gone = _still_there(removed, replicas)
    for each in gone:
        await source.execute(sql(source, "delete_replica"), (each.replica.replicaid,))
    left = len(replicas) - len(gone)
    if left == 0:
        await delete_entry(source, entry)
    counted = sum(each.counts_in_directories for each in gone)
    await add_to_sizes(source, lineage, -counted * entry.size, depth)
    await _return_space(source, entry, gone)
    return Settled(len(gone), left)


async def _lineage(source: Source, entry: Entry) -> tuple[Entry, ...]:
    try:
        return await catalog.lineage_of(source, entry)
    except ApiError:
        # An orphan: there is nothing above it to be corrected.
        return ()


async def _lock_directories(source: Source, lineage: Sequence[Entry], parent: int, depth: int) -> None:
    """All that will be changed, in one order: otherwise two removals in neighbouring trees would deadlock."""
    sized = [directory.fileid for directory in lineage][FIRST_SIZED_DEPTH : depth + 1]
    await source.fetch(sql(source, "lock_directories"), ([*sized, parent],))


async def _locked_there(source: Source, found: Entry, *, by_name: bool) -> Entry:
    if by_name:
        return await locked_again(source, found)
    entry = await catalog.locked_entry(source, found.fileid)
    if entry is None:
        raise GoneError(f"fileid {found.fileid}")
    if entry.parent != found.parent:
        raise _MovedError
    return entry


def _still_there(removed: Iterable[Doomed], replicas: Iterable[Replica]) -> list[Doomed]:
    """Those whose rows still mean the file that was removed."""
    rfns = {replica.replicaid: replica.rfn for replica in replicas}
    return [each for each in removed if rfns.get(each.replica.replicaid) == each.replica.rfn]


async def _return_space(source: Source, entry: Entry, gone: Iterable[Doomed]) -> None:
    for each in gone:
        if each.token and entry.size:
            await source.execute(sql(source, "return_space"), (entry.size, catalog.bytes_of(each.token)))


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A replica whose deletion was interrupted. since: Unix time of the last attempt."""

    replicaid: int
    fileid: int
    rfn: str
    deletion: Deletion
    since: int


async def deletions_left(source: Source) -> list[Interrupted]:
    """All that is marked in the catalog, also what is under way. Reads the whole table of replicas."""
    found = []
    for first in await _scan_starts(source):
        for replica in await _marked_from(first, source):
            if mark := Mark.of(replica):
                found.append(
                    Interrupted(replica.replicaid, replica.fileid, replica.rfn, mark.deletion, mark.since)
                )
    return found


async def _scan_starts(source: Source) -> range:
    row = await source.fetchrow(sql(source, "replica_bounds"))
    first, last = row if row and row[0] is not None else (1, 0)
    return range(first, last + 1, SCAN_ROWS)


async def _marked_from(first: int, source: Source) -> list[Replica]:
    statement = catalog.statement(source, "marked_replicas")
    rows = await source.fetch(statement, (first, first + SCAN_ROWS - 1, MARK.encode()))
    return [Replica.from_row(row) for row in rows]


async def _with_ids(replicaids: Sequence[int], source: Source) -> list[Replica]:
    rows = await source.fetch(catalog.statement(source, "replicas_by_ids"), (replicaids,))
    return [Replica.from_row(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Finished:
    """done: replicas that are gone now; left: those that it was time for and that still have a mark."""

    done: int = 0
    left: int = 0


async def finish_forever(
    head: Head, *, stop: asyncio.Event, interval: float = 60.0, older_than: float = GRACE_SECONDS
) -> None:
    """Finishes what was interrupted, now and every `interval` seconds until `stop` is set."""
    async with asyncio.TaskGroup() as group:
        rounds = group.create_task(_finish_again_and_again(head, interval, older_than))
        await stop.wait()
        rounds.cancel()


async def _finish_again_and_again(head: Head, interval: float, older_than: float) -> None:
    clock = asyncio.get_running_loop().time
    next_scan = clock()
    while True:
        try:
            if clock() >= next_scan:
                await finish_deletions(head, older_than=older_than)
                next_scan = clock() + SCAN_SECONDS
            else:
                await finish_known_deletions(head, older_than=older_than)
        except BridgeError as exc:
            logger.warning("deletions could not be finished error=%s", exc)
        except Exception:
            logger.exception("deletions could not be finished")
        await asyncio.sleep(interval)


async def finish_deletions(
    head: Head,
    *,
    older_than: float,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Finished:
    """Finishes what was interrupted more than so many seconds ago, by whatever process.

    Reads the whole table of replicas, and rests as long as it reads.
    """
    clock = asyncio.get_running_loop().time
    work = _Finisher(head, now() - older_than, now)
    for first in await head.database.read(_scan_starts):
        began = clock()
        marked = await head.database.read(partial(_marked_from, first))
        seconds = clock() - began
        await work.finish(marked)
        await sleep(seconds)
    return work.finished


async def finish_known_deletions(
    head: Head, *, older_than: float, now: Callable[[], float] = time.time
) -> Finished:
    """Finishes what this process has left, or met before and could not finish."""
    work = _Finisher(head, now() - older_than, now)
    known = head.unfinished
    replicaids = sorted(known)
    for start in range(0, len(replicaids), IDS_PER_QUERY):
        some = replicaids[start : start + IDS_PER_QUERY]
        found = await head.database.read(partial(_with_ids, some))
        marked = [replica for replica in found if Mark.of(replica)]
        known.difference_update(set(some) - {replica.replicaid for replica in marked})
        await work.finish(marked)
    return work.finished


class _Finisher:
    """One pass over marked replicas; a server that does not answer is not asked again in it.

    due: Unix time; younger marks are left to those who made them. Acts as root, who asked for it
    having been allowed to.
    """

    def __init__(self, head: Head, due: float, now: Callable[[], float]) -> None:
        self._head = head
        self._due = due
        self._now = now
        self._silent: set[str] = set()
        self._is_fenced = False
        self.finished = Finished()

    async def finish(self, marked: Iterable[Replica]) -> None:
        known = self._head.unfinished
        for fileid, replicas in groupby(sorted(marked, key=_by_file), key=_by_file):
            found = list(replicas)
            due = {replica.replicaid for replica in found if self._is_due(replica)}
            servers = {split_rfn(replica.rfn)[0] for replica in found if replica.replicaid in due}
            known.update(replica.replicaid for replica in found)
            gone = set() if self._is_fenced or servers <= self._silent else await self._try(fileid)
            known -= gone
            self._count(done=len(gone), left=len(due - gone))

    def _is_due(self, replica: Replica) -> bool:
        mark = Mark.of(replica)
        return mark is not None and mark.since <= self._due

    def _count(self, *, done: int, left: int) -> None:
        self.finished = Finished(self.finished.done + done, self.finished.left + left)

    async def _try(self, fileid: int) -> set[int]:
        """The replicas that are gone now."""
        try:
            return await self._finish_file(fileid)
        except BridgeError as exc:
            self._is_fenced = is_fenced(exc)
            logger.warning("deletion could not be finished fileid=%d error=%s", fileid, exc)
            return set()

    async def _finish_file(self, fileid: int) -> set[int]:
        attempt = Attempt(Deletion.DELREPLICA, RemoteUser(), since=int(self._now()))
        doomed = await self._head.database.transact(partial(_take_over, fileid, self._due, attempt))
        removed = [each for each in doomed if await self._is_removed(each)]
        if removed:
            with suppress(GoneError):  # finished by another
                await settle(self._head, fileid, removed)
            logger.info("deletion finished fileid=%d replicas=%d", fileid, len(removed))
        return _ids(removed)

    async def _is_removed(self, doomed: Doomed) -> bool:
        server, pfn = split_rfn(doomed.replica.rfn)
        if server in self._silent:
            return False
        try:
            await self._head.disks.remove(server, pfn, RemoteUser())
        except DiskError as exc:
            if not isinstance(exc, DiskRefusedError):
                self._silent.add(server)
            logger.warning("replica stays marked as being deleted rfn=%s error=%s", doomed.replica.rfn, exc)
            return False
        return True


def _by_file(replica: Replica) -> int:
    return replica.fileid


async def _take_over(fileid: int, due: float, attempt: Attempt, source: Source) -> list[Doomed]:
    """A new mark keeps other finishers off, and the attempt that made the old one from undoing it."""
    await catalog.locked_entry(source, fileid)
    replicas = await catalog.replicas_of(source, fileid, locked=True)
    doomed = [
        Doomed.by(attempt, replica)
        for replica in replicas
        if (mark := Mark.of(replica)) is not None and mark.since <= due
    ]
    await write_marks(source, doomed)
    return doomed
