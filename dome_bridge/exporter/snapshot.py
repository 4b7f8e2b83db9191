"""The first copy: all directories, then all else, in ranges of fileids.

Directories come first so that every entry finds its parent. Ranges are independent; a few
workers take them in turn, so that one reads from MariaDB while another projects in
PostgreSQL. Each range is noted in the transaction that copied it: after a kill the copy goes
on behind the last range without a gap. What changes meanwhile is in the journal.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import asyncpg

from dome_bridge.chimera import state
from dome_bridge.chimera.state import Progress
from dome_bridge.dpm import read
from dome_bridge.dpm.read import Range
from dome_bridge.dpm.source import Source
from dome_bridge.exporter.mirror import Applied, AtCommit, Mirror

logger = logging.getLogger(__name__)

DIRECTORIES = "directories"
ENTRIES = "entries"
STEPS = (DIRECTORIES, ENTRIES)

DIRECTORY_RANGE_FACTOR = 8
"""A range of the first step covers more ids: about one entry in ten is a directory."""

ANALYZED = (
    "t_inodes",
    "t_dirs",
    "t_locationinfo",
    "t_inodes_checksum",
    "t_inodes_data",
    "t_tags",
    "t_tags_inodes",
    "t_acl",
)


@dataclass
class SnapshotReport:
    """entries: rows of Cns_file_metadata read. seconds: of this run, without earlier ones."""

    entries: int = 0
    mirrored: int = 0
    seconds: float = 0.0
    resumed: bool = False


Advance = Callable[[str, int, int], None]
"""Told after each range: step, entries read so far in it, entries expected."""

OpenMirror = Callable[[], Awaitable[Mirror]]
CloseMirror = Callable[[Mirror], Awaitable[None]]


def _silent(step: str, entries: int, expected: int) -> None:
    logger.debug("snapshot step=%s entries=%d expected=%d", step, entries, expected)


async def _nothing(conn: asyncpg.Connection) -> None: ...


class Snapshot:
    """Copies what is not copied yet.

    open_mirror, close_mirror: make and end a worker's connections. The caller holds the
    applier lock and has the triggers standing; `confirm` runs in each range's transaction and
    raises if that is so no more.
    """

    def __init__(
        self,
        source: Source,
        conn: asyncpg.Connection,
        open_mirror: OpenMirror,
        close_mirror: CloseMirror,
        *,
        workers: int,
        range_entries: int,
        confirm: AtCommit = _nothing,
        advance: Advance = _silent,
        note: Callable[[Applied], None] = lambda applied: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._conn = conn
        self._open_mirror = open_mirror
        self._close_mirror = close_mirror
        self._workers = workers
        self._range_entries = range_entries
        self._confirm = confirm
        self._advance = advance
        self._note = note
        self._clock = clock
        self._report = SnapshotReport()

    async def run(self) -> SnapshotReport:
        """Until everything up to the top fileid at the beginning is copied."""
        begun = self._clock()
        progress = await self._begin()
        assert progress.snapshot_top is not None
        for step in STEPS:
            await self._run_step(step, progress.snapshot_top, progress.entries_expected or 0)
            await self._settle()
        for table in ANALYZED:
            await self._conn.execute(f"ANALYZE {table}")
        await state.finish_snapshot(self._conn)
        self._report.seconds = self._clock() - begun
        return self._report

    async def _begin(self) -> Progress:
        progress = await state.progress(self._conn)
        if progress.snapshot_started is not None and progress.snapshot_finished is None:
            self._report.resumed = True
            return progress
        top = await read.highest_fileid(self._source)
        expected = await read.count_entries(self._source)
        async with self._conn.transaction():
            await state.begin_snapshot(self._conn, top, expected)
        return await state.progress(self._conn)

    async def _run_step(self, step: str, top: int, expected: int) -> None:
        done = await state.step_progress(self._conn, step)
        logger.info("snapshot step=%s reached=%d top=%d", step, done.reached, top)
        count = _Count(step, done.entries, expected)
        self._advance(step, count.entries, expected)
        ranges = self._ranges(step, done.reached, top)
        # Tags of a directory are copied from its parent: that order needs a single worker.
        workers = 1 if step == DIRECTORIES else self._workers
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._work(ranges, count))
        except ExceptionGroup as failures:
            # The first failure ended the others; it is the one that says what to do.
            raise failures.exceptions[0] from None

    async def _ranges(self, step: str, after: int, top: int) -> AsyncIterator[Range]:
        entries = self._range_entries * (DIRECTORY_RANGE_FACTOR if step == DIRECTORIES else 1)
        while found := await read.next_range(self._source, after, top, entries):
            yield found
            after = found.hi

    async def _work(self, ranges: AsyncIterator[Range], count: _Count) -> None:
        mirror = await self._open_mirror()
        try:
            while (found := await count.take(ranges)) is not None:
                await self._copy(mirror, found, count)
        finally:
            await self._close_mirror(mirror)

    async def _copy(self, mirror: Mirror, found: Range, count: _Count) -> None:
        async def note(conn: asyncpg.Connection) -> None:
            await self._confirm(conn)
            await state.note_range(conn, count.step, found.lo, found.hi, found.entries)

        applied = await mirror.apply_range(
            found.lo, found.hi, directories=count.step == DIRECTORIES, at_commit=note
        )
        count.entries += found.entries
        self._report.mirrored += applied.mirrored
        if count.step == ENTRIES:
            self._report.entries += found.entries
        self._note(applied)
        self._advance(count.step, count.entries, count.expected)

    async def _settle(self) -> None:
        """What the ranges left: ids that do not fit, and entries whose directory came after them."""
        mirror = await self._open_mirror()
        try:
            await mirror.note_beyond()
            async with mirror.source.snapshot():
                await mirror.apply_claimants()
        finally:
            await self._close_mirror(mirror)


class _Count:
    """What the workers of one step share."""

    def __init__(self, step: str, entries: int, expected: int) -> None:
        self.step = step
        self.entries = entries
        self.expected = expected
        self._lock = asyncio.Lock()

    async def take(self, ranges: AsyncIterator[Range]) -> Range | None:
        async with self._lock:
            return await anext(ranges, None)
