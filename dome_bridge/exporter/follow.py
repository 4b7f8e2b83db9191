"""Follows the journal: reads the keys that changed, applies their present state, deletes those rows.

A batch is read in one consistent snapshot of the source, so a key's state is never older
than the key. It is committed in PostgreSQL before its journal rows are deleted: a kill in
between repeats the batch, which changes nothing. Only what came in-band counts as applied:
heartbeats and markers are noted in the transaction that applied everything read with them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import asyncpg

from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase
from dome_bridge.dpm import read
from dome_bridge.exporter import small_tables
from dome_bridge.exporter.journal import Journal, JournalKind, JournalRow
from dome_bridge.exporter.mirror import Applied, Mirror
from dome_bridge.exporter.small_tables import ALL_SMALL_TABLES
from dome_bridge.staging import MAX_FILEID

logger = logging.getLogger(__name__)

PAGE = 20_000
"""Files of a moved server that are placed anew at a time."""


@dataclass
class Batch:
    """What one batch was. changes: catalog rows of the journal, heartbeats and markers not counted.

    is_over: the cutover is committed; nothing was applied and nothing will be.
    heartbeat_at, source_now: the youngest heartbeat in it and the time of reading, both by the
    source server's clock, in seconds since 1970.
    """

    is_over: bool = False
    rows: int = 0
    changes: int = 0
    heartbeat_at: int | None = None
    source_now: float | None = None
    markers: list[str] = field(default_factory=list)
    applied: Applied = field(default_factory=Applied)

    @property
    def was_idle(self) -> bool:
        return self.changes == 0 and not self.markers


class Follower:
    """Applies the journal with one mirror. The caller holds the applier lock."""

    def __init__(self, mirror: Mirror, *, batch: int) -> None:
        self._mirror = mirror
        self._conn = mirror.conn
        self._source = mirror.source
        self._layout = mirror.projection.layout
        self._journal = Journal(mirror.source)
        self._batch = batch

    async def apply_batch(self) -> Batch:
        """One batch; an idle one when the journal is empty."""
        async with target.passing_gate(self._conn):
            # Looked at inside the gate: the cutover commits while it holds the gate alone.
            if (await state.progress(self._conn)).phase is Phase.COMMITTED:
                return Batch(is_over=True)
            await self._place_anew()
            async with self._source.snapshot():
                rows = await self._journal.read_batch(self._batch)
                batch = await self._apply(rows)
            await self._place_anew()
        await self._journal.delete(row.seq for row in rows)
        return batch

    async def drain(self) -> int:
        """Batches until one finds no catalog change; returns how many changes were applied."""
        changes = 0
        while not (batch := await self.apply_batch()).was_idle or batch.rows >= self._batch:
            changes += batch.changes
        return changes

    async def _apply(self, rows: list[JournalRow]) -> Batch:
        batch = _summary(rows)
        if not rows:
            batch.applied.add(await self._mirror.apply_awakened())
            return batch
        if batch.heartbeat_at is not None:
            batch.source_now = float(await self._source.fetchval("SELECT UNIX_TIMESTAMP()"))
        await self._copy_small_tables({row.kind for row in rows} & set(ALL_SMALL_TABLES), batch)
        fileids = {row.fileid for row in rows if row.kind.has_fileid}
        if any(not 0 < fileid <= MAX_FILEID for fileid in fileids):
            await self._mirror.note_beyond()
        batch.applied.add(await self._mirror.apply_ids(fileids, at_commit=partial(_note, batch, fileids)))
        return batch

    async def _copy_small_tables(self, kinds: Iterable[JournalKind], batch: Batch) -> None:
        changed = sorted(kinds)
        if not changed:
            return
        async with self._conn.transaction():
            await small_tables.copy_small_tables(self._source, self._layout, self._conn, changed)
            if JournalKind.QUOTATOKENS in changed:
                batch.applied.add(await self._mirror.apply_tokens())

    async def _place_anew(self) -> None:
        """Files on servers whose file systems came, went or changed their pool."""
        servers = await small_tables.moved_servers(self._conn)
        if not servers:
            return
        logger.info("file systems changed servers=%s", b", ".join(servers).decode("utf-8", "replace"))
        by_path = partial(read.files_on, self._source, servers)
        for page_of in (by_path, partial(small_tables.unplaced, self._conn)):
            async for fileids in _pages(page_of):
                async with self._source.snapshot():
                    await self._mirror.apply_ids(fileids)
        await small_tables.forget_moved(self._conn, servers)


async def _pages(page_of: Callable[[int, int], Awaitable[list[int]]]) -> AsyncIterator[list[int]]:
    after = 0
    while fileids := await page_of(after, PAGE):
        yield fileids
        after = fileids[-1]


def _summary(rows: Iterable[JournalRow]) -> Batch:
    batch = Batch()
    for row in rows:
        batch.rows += 1
        if row.kind is JournalKind.HEARTBEAT:
            # The last one, not the greatest: the server's clock may have been set back.
            batch.heartbeat_at = row.at
        elif row.kind is JournalKind.MARKER:
            batch.markers.append((row.nonce or b"").decode("ascii", "replace"))
        else:
            batch.changes += 1
    return batch


async def _note(batch: Batch, fileids: Iterable[int], conn: asyncpg.Connection) -> None:
    marker = batch.markers[-1] if batch.markers else None
    await state.note_applied(conn, batch.changes, batch.heartbeat_at, marker)
    await state.note_changed(conn, [fileid for fileid in fileids if 0 < fileid <= MAX_FILEID])
