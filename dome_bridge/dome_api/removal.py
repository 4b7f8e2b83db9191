"""Removes replicas and their files: what will happen is in the database before a disk is asked.

1. A transaction locks the file, looks whether all can be done, and gives each replica the status D
   and a mark: what is under way, the status before, since when, and whose attempt it is.
2. The disk servers remove the files.
3. A transaction takes the rows away, gives their space back and, with the last replica, the entry.

If a disk says that it has not removed a file, what is left of the marks is undone. After anything else
that ends the procedure early (a kill, a lost answer, the write fence) they stay, and `finish_forever` goes
on from there. So the fence stops a removal before a file is touched, or finds it marked.

A file that another row of the catalog names too is removed with the last of them: of such a replica only
the row is taken away, in step 3 and unmarked, if the other one is still there when both are locked.

In one process the attempts on a file take turns: when one begins, the marks of those before it are undone,
or stay for good reason. It makes these its own, and puts them back if it has to undo, as nobody knows what
the disk had done. If that is known, a refusal that only the database could not be told of, the replica is
given back as it was before the first mark.

Attempts of two processes may overlap. One that has lost its marks to another undoes nothing. So no replica
is given back whose file is gone, whatever the order. What remains: if the disk refuses both, the second
puts the first one's mark back, not knowing of its refusal, and the file is removed later although both
clients were told that it was not.

No index leads to a status, and replicas are many. A process remembers what it has left itself; what another
one has left is found by reading the whole table, when a process starts and then once an hour, or as much
more rarely as not to be busy with that for more than a hundredth of the time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
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
)
from dome_bridge.dome_api.cluster import Cluster
from dome_bridge.dome_api.deletion_mark import BEING_DELETED, MARK, Attempt, Deletion, Doomed, Mark
from dome_bridge.dome_api.disk_client import DiskRefusedError, DiskUnreachableError
from dome_bridge.dome_api.head import Head
from dome_bridge.dome_api.replica_names import (
    MountPoint,
    fault_of,
    is_in_file_system,
    mount_points,
    named_by_others,
)
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.sql import sql
from dome_bridge.dome_api.target import Target
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

SCAN_SECONDS = 3600.0
SCAN_PAUSES = 100
"""Times that a scan takes, until the next."""

SCAN_ROWS = 100_000
IDS_PER_QUERY = 1000


async def unlink_file(head: Head, target: Target, user: RemoteUser) -> None:
    """Deletes a file or a link with all its replicas.

    Raises GoneError, what the target's check raises, and ApiError 500 for what a disk has not done.
    """
    fileid = target.entry.fileid
    replicas = await head.database.read(partial(_replicas_of, fileid))
    if not replicas and (await settle(head, fileid, Plan(), target=target)).left == 0:
        return
    for _ in range(ROUNDS):
        if (await _Removal(head, target, Attempt(Deletion.UNLINK, user)).run()).left == 0:
            return
        logger.info("file has another replica now than when its unlink began fileid=%d", fileid)
    raise ApiError(500, f"Cannot unlink fileid {fileid}: it gets new replicas all the time; try again")


async def _replicas_of(fileid: int, source: Source) -> list[Replica]:
    return await catalog.replicas_of(source, fileid)


async def delete_replica(
    head: Head, target: Target, rfn: str, user: RemoteUser, body: Mapping[str, Tree]
) -> None:
    """Deletes the replica of that name from a file, with the last one the entry too.

    body: what the client has sent, for the disk. Raises as `unlink_file` does.
    """
    for _ in range(ROUNDS):
        attempt = Attempt(Deletion.DELREPLICA, user, body)
        if (await _Removal(head, target, attempt, rfn).run()).gone:
            return
        logger.info("others have changed the rows of a replica that is being deleted rfn=%r", rfn)
    raise ApiError(500, f"Cannot delete the replica '{rfn}': others change its rows all the time; try again")


class Plan(NamedTuple):
    """What becomes of replicas. doomed: with their files; spared: without, as others name these too."""

    doomed: Sequence[Doomed] = ()
    spared: Sequence[Doomed] = ()

    @property
    def is_empty(self) -> bool:
        return not self.doomed and not self.spared


@dataclass
class _Removal:
    """An attempt to remove replicas of a file: all, or those with the name `rfn`.

    marked: replicas that have our mark, as far as we know.
    """

    head: Head
    target: Target
    attempt: Attempt
    rfn: str | None = None
    marked: set[int] = field(default_factory=set)

    async def run(self) -> Settled:
        fileid = self.target.entry.fileid
        turn = _turn(self.head, fileid)
        async with turn:
            try:
                plan = await self.head.database.transact(self._mark)
                await self._remove_files(plan.doomed)
                target = None if plan.doomed else self.target
                settled = await settle(self.head, fileid, plan, target=target)
                self._forget(self.marked)
                return settled
            finally:
                self.head.unfinished.update(self.marked)

    async def _mark(self, source: Source) -> Plan:
        """Notes what it marks before that is committed, as the connection may be lost then."""
        entry = await self.target.locked(source)
        replicas = await catalog.replicas_of(source, entry.fileid, locked=True)
        if self.rfn is not None:
            replicas = [replica for replica in replicas if replica.rfn == self.rfn]
            if not replicas:
                raise GoneError(f"the replica '{self.rfn}'")
        if replicas:
            _require_good_places(replicas, await mount_points(source), self.head.watch.cluster)
        plan = await _planned(source, [self._doomed(replica) for replica in replicas])
        await write_marks(source, plan.doomed)
        self.marked.update(_ids(plan.doomed))
        return plan

    def _doomed(self, replica: Replica) -> Doomed:
        doomed = Doomed.by(self.attempt, replica)
        refused = self.head.refused.get(replica.replicaid)
        return doomed.over(refused) if refused and Mark.of(replica) == refused.mark else doomed

    async def _remove_files(self, doomed: Sequence[Doomed]) -> None:
        """In turn, up to the first that is not removed for certain."""
        for number, each in enumerate(doomed):
            server, pfn = split_rfn(each.replica.rfn)
            try:
                await self.head.disks.remove(server, pfn, self.attempt.user, body=self.attempt.body)
            except DiskError as exc:
                if isinstance(exc, DiskRefusedError | DiskUnreachableError):
                    await self._undo(removed=doomed[:number], kept=doomed[number:])
                raise ApiError(500, f"Unable to delete physical replica '{each.replica.rfn}': {exc}") from exc

    async def _undo(self, *, removed: Sequence[Doomed], kept: Sequence[Doomed]) -> None:
        """All keep their marks if the database refuses."""
        fileid = self.target.entry.fileid
        try:
            if removed:
                await settle(self.head, fileid, Plan(removed))
                self._forget(_ids(removed))
            freed = await self.head.database.transact(partial(_take_marks_away, fileid, kept))
        except BridgeError as exc:
            logger.warning("replicas stay marked as being deleted fileid=%d error=%s", fileid, exc)
            self.head.refused.update(
                {each.replica.replicaid: each for each in kept if Mark.of(each.replica) is None}
            )
            return
        self._forget(freed)

    def _forget(self, replicaids: Set[int]) -> None:
        """They are gone, or without a mark."""
        self.marked = self.marked - replicaids
        _forget(self.head, replicaids)


def _turn(head: Head, fileid: int) -> asyncio.Lock:
    return head.turns.setdefault(fileid, asyncio.Lock())


def _forget(head: Head, replicaids: Set[int]) -> None:
    head.unfinished.difference_update(replicaids)
    for replicaid in replicaids:
        head.refused.pop(replicaid, None)


async def _planned(source: Source, doomed: Sequence[Doomed]) -> Plan:
    others = await named_by_others(source, [each.replica for each in doomed])
    return Plan(
        [each for each in doomed if each.replica.replicaid not in others],
        [each for each in doomed if each.replica.replicaid in others],
    )


async def write_marks(source: Source, doomed: Iterable[Doomed]) -> None:
    """The replicas are locked already."""
    for each in doomed:
        text = each.mark.written_into(each.replica.xattr_text)
        await _set_status(source, each.replica, BEING_DELETED, text)


async def _set_status(source: Source, replica: Replica, status: str, xattr_text: bytes) -> None:
    values = (catalog.bytes_of(status), xattr_text, replica.replicaid)
    await source.execute(sql(source, "set_replica_status"), values)


def _require_good_places(replicas: Iterable[Replica], mounts: Sequence[MountPoint], cluster: Cluster) -> None:
    for replica in replicas:
        server, pfn = split_rfn(replica.rfn)
        if not server or not pfn:
            raise ApiError(500, f"Incorrect replica rfn '{replica.rfn}'")
        if fault := fault_of(replica.rfn, mounts):
            raise ApiError(
                500, f"Incorrect replica rfn '{replica.rfn}': {fault}; correct it with dome_updatereplica"
            )
        if not is_in_file_system(server, pfn, mounts):
            raise ApiError(500, f"No filesystem matches replica '{replica.rfn}'")
        if cluster.is_broken(server, pfn):
            raise ApiError(500, f"A disabled or broken filesystem is matching replica '{replica.rfn}'")


async def _take_marks_away(fileid: int, kept: Sequence[Doomed], source: Source) -> set[int]:
    """The replicas that have no mark any more."""
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
    """Replicas of a file. gone: whose rows were taken away just now; left: how many it still has."""

    gone: frozenset[int]
    left: int


class _MovedError(Exception):
    """The file went to another directory between a look and the lock."""


async def settle(head: Head, fileid: int, plan: Plan, *, target: Target | None = None) -> Settled:
    """Takes away the rows of replicas whose files are gone or spared, and the entry with the last one.

    target: the file must be as it was found, for one that has no mark yet. Raises GoneError if the entry
    is gone.
    """
    depth = head.config.api.directory_size_depth
    for _ in range(MOVES):
        try:
            settled = await head.database.transact(partial(_settle, fileid, plan, target, depth))
        except _MovedError:
            logger.debug("file moved while it was removed fileid=%d", fileid)
            continue
        for each in plan.spared:
            if each.replica.replicaid in settled.gone:
                logger.info("file stays as others name it too fileid=%d rfn=%r", fileid, each.replica.rfn)
        return settled
    raise ApiError(500, f"Cannot unlink fileid {fileid}: it is moved all the time; try again")


async def _settle(fileid: int, plan: Plan, target: Target | None, depth: int, source: Source) -> Settled:
    found = target.entry if target else await catalog.entry_by_fileid(source, fileid)
    if found is None:
        raise GoneError(f"fileid {fileid}")
    lineage = await _lineage(source, found)
    await _lock_directories(source, lineage, found.parent, 0 if plan.is_empty else depth)
    entry = await (target.locked(source) if target else _locked_there(source, found))
    replicas = await catalog.replicas_of(source, fileid, locked=True)
    gone = await _now_gone(source, plan, replicas)
    for each in gone:
        await source.execute(sql(source, "delete_replica"), (each.replica.replicaid,))
    left = len(replicas) - len(gone)
    if left == 0:
        await delete_entry(source, entry)
    counted = sum(each.counts_in_directories for each in gone)
    await add_to_sizes(source, lineage, -counted * entry.size, depth)
    await _return_space(source, entry, gone)
    return Settled(frozenset(_ids(gone)), left)


async def _now_gone(source: Source, plan: Plan, replicas: Iterable[Replica]) -> list[Doomed]:
    """Of a file that others named, the row stays if they do so no more: the next attempt removes the file."""
    removed, spared = _still_there(plan.doomed, replicas), _still_there(plan.spared, replicas)
    return [*removed, *(await _planned(source, spared)).spared]


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


async def _locked_there(source: Source, found: Entry) -> Entry:
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


async def deletions_left(
    source: Source, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> list[Interrupted]:
    """All that is marked in the catalog, also what is under way.

    Reads the whole table of replicas, and rests as long as it reads.
    """
    clock = asyncio.get_running_loop().time
    found = []
    for first in await _scan_starts(source):
        began = clock()
        for replica in await _marked_from(first, source):
            if mark := Mark.of(replica):
                found.append(
                    Interrupted(replica.replicaid, replica.fileid, replica.rfn, mark.deletion, mark.since)
                )
        await sleep(clock() - began)
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
            if (began := clock()) >= next_scan:
                await finish_deletions(head, older_than=older_than)
                next_scan = clock() + scan_pause(clock() - began)
            else:
                await finish_known_deletions(head, older_than=older_than)
        except BridgeError as exc:
            logger.warning("deletions could not be finished error=%s", exc)
        except Exception:
            logger.exception("deletions could not be finished")
        await asyncio.sleep(interval)


def scan_pause(seconds: float) -> float:
    """How long after a scan that took so many seconds the next one begins."""
    return max(SCAN_SECONDS, SCAN_PAUSES * seconds)


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
            is_vain = self._is_fenced or servers <= self._silent
            gone = frozenset() if is_vain else await self._try(fileid)
            _forget(self._head, gone)
            self._count(done=len(gone), left=len(due - gone))

    def _is_due(self, replica: Replica) -> bool:
        mark = Mark.of(replica)
        return mark is not None and mark.since <= self._due

    def _count(self, *, done: int, left: int) -> None:
        self.finished = Finished(self.finished.done + done, self.finished.left + left)

    async def _try(self, fileid: int) -> frozenset[int]:
        """The replicas that are gone now."""
        try:
            return await self._finish_file(fileid)
        except BridgeError as exc:
            self._is_fenced = is_fenced(exc)
            logger.warning("deletion could not be finished fileid=%d error=%s", fileid, exc)
            return frozenset()

    async def _finish_file(self, fileid: int) -> frozenset[int]:
        turn = _turn(self._head, fileid)
        if turn.locked():  # by a client who is at it
            return frozenset()
        async with turn:
            attempt = Attempt(Deletion.DELREPLICA, RemoteUser(), since=int(self._now()))
            plan = await self._head.database.transact(partial(_take_over, fileid, self._due, attempt))
            plan = plan._replace(doomed=[each for each in plan.doomed if await self._is_removed(each)])
            if plan.is_empty:
                return frozenset()
            try:
                gone = (await settle(self._head, fileid, plan)).gone
            except GoneError:  # finished by another
                gone = frozenset(_ids((*plan.doomed, *plan.spared)))
            logger.info("deletion finished fileid=%d replicas=%d", fileid, len(gone))
            return gone

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


async def _take_over(fileid: int, due: float, attempt: Attempt, source: Source) -> Plan:
    """A new mark keeps other finishers off, and the attempt that made the old one from undoing it."""
    await catalog.locked_entry(source, fileid)
    replicas = await catalog.replicas_of(source, fileid, locked=True)
    marked = [each for each in replicas if (mark := Mark.of(each)) is not None and mark.since <= due]
    mounts = await mount_points(source)
    good = [each for each in marked if not _has_fault(each, mounts)]
    plan = await _planned(source, [Doomed.by(attempt, each) for each in good])
    await write_marks(source, plan.doomed)
    return plan


def _has_fault(replica: Replica, mounts: Sequence[MountPoint]) -> bool:
    """Its name was good when it was marked; somebody has changed it behind our back."""
    if fault := fault_of(replica.rfn, mounts):
        logger.warning("replica stays marked as being deleted rfn=%r error=%s", replica.rfn, fault)
    return bool(fault)
