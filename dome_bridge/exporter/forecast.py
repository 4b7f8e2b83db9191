"""What would be quarantined: the mapping run over the whole catalog, its results only counted.

The same projection as the mirror's, against a tree that exists in temporary tables alone, so
that both databases stay as they are. Directories come first: whatever does not hang on the
root through directories that can be mirrored is absent with them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from dome_bridge.chimera import stage, state, target
from dome_bridge.chimera.state import Site
from dome_bridge.dpm import read, small_tables
from dome_bridge.dpm.source import Source
from dome_bridge.exporter.mirror import UNFIT
from dome_bridge.exporter.projection import Projection
from dome_bridge.exporter.session import Databases
from dome_bridge.exporter.small_tables import dcache_pool
from dome_bridge.staging import MAX_FILEID

logger = logging.getLogger(__name__)

DIRECTORIES = "directories"
ENTRIES = "entries"
DIRECTORY_RANGE_FACTOR = 8
"""Ranges of the directory pass cover more ids: about one entry in ten is a directory."""

EXAMPLES = 5

Advance = Callable[[str, int, int], None]
"""Told after each range: pass, entries gone through so far in it, entries expected."""

_UNIQUE_NAMES = """
SELECT INDEX_NAME FROM information_schema.STATISTICS
WHERE TABLE_SCHEMA = %s AND TABLE_NAME = 'Cns_file_metadata' AND NON_UNIQUE = 0
GROUP BY INDEX_NAME
HAVING COUNT(*) = 2 AND SUM(LOWER(COLUMN_NAME) IN ('parent_fileid', 'name')) = 2"""
_NAMESAKES = """
SELECT e.fileid FROM {cns}.Cns_file_metadata e
JOIN (SELECT parent_fileid, name FROM {cns}.Cns_file_metadata
      GROUP BY parent_fileid, name HAVING COUNT(*) > 1) d
  ON d.parent_fileid = e.parent_fileid AND d.name = e.name
WHERE e.fileid <= {top}"""


@dataclass(frozen=True)
class Example:
    """One entry, and what the quarantine would say of it."""

    fileid: int
    detail: str


@dataclass
class Foreseen:
    """The rows that the quarantine will have with this scope (`entry` or `fact`) and reason."""

    scope: str
    reason: str
    count: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class Forecast:
    """entries: rows of Cns_file_metadata gone through."""

    entries: int
    foreseen: tuple[Foreseen, ...]

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """Quarantine rows by scope and reason."""
        return {(found.scope, found.reason): found.count for found in self.foreseen}


def _silent(step: str, entries: int, expected: int) -> None:
    logger.debug("forecast step=%s entries=%d expected=%d", step, entries, expected)


async def forecast(
    databases: Databases,
    *,
    range_entries: int | None = None,
    examples: int = EXAMPLES,
    advance: Advance = _silent,
) -> Forecast:
    """Goes through the whole catalog on connections of its own; minutes for ten million entries.

    Exact for a catalog that stands still. range_entries: `[exporter] snapshot_range` by default.
    """
    entries = range_entries or databases.config.exporter.snapshot_range
    async with target.told("predicting the quarantine"), _open_projection(databases) as projection:
        return await _Forecaster(projection, entries, examples, advance).run()


async def has_unique_names(source: Source) -> bool:
    """Whether the source itself sees to it that a directory has no two entries of one name."""
    return bool(await source.fetch(_UNIQUE_NAMES, (source.cns_name,)))


@asynccontextmanager
async def _open_projection(databases: Databases) -> AsyncIterator[Projection]:
    config = databases.config
    site = await _site(databases)
    async with AsyncExitStack() as stack:
        source = await Source.connect(config.dpm)
        stack.push_async_callback(source.close)
        conn = await target.connect(config.chimera)
        stack.push_async_callback(target.close, conn)
        yield await Projection.open(source, databases.layout, conn, site, permanent=False)


async def _site(databases: Databases) -> Site:
    if await state.exists(databases.conn):
        return await state.load_site(databases.conn)
    return await state.plan_site(
        databases.conn,
        databases.chimera,
        root_fileid=databases.layout.root_fileid,
        timezone=databases.config.chimera.timezone,
        source=databases.source.address,
    )


class _Forecaster:
    """One run over the catalog."""

    def __init__(self, projection: Projection, range_entries: int, examples: int, advance: Advance) -> None:
        self._projection = projection
        self._source = projection.source
        self._conn = projection.conn
        self._range_entries = range_entries
        self._examples = examples
        self._advance = advance
        self._sql = stage.fill("dome_bridge.chimera", "forecast.sql", projection.site)
        self._found: dict[tuple[str, str], Foreseen] = {}

    async def run(self) -> Forecast:
        await self._prepare()
        top = await read.highest_fileid(self._source)
        expected = await read.count_entries(self._source)
        await self._walk(DIRECTORIES, top, expected)
        await self._decide_directories()
        await self._walk(ENTRIES, top, expected)
        await self._count_beyond()
        return Forecast(expected, tuple(self._found[key] for key in sorted(self._found)))

    async def _prepare(self) -> None:
        await self._conn.execute(self._sql["prepare"])
        await self._conn.execute(self._sql["read_only"])
        filesystems = list(dict.fromkeys(fs[:3] for fs in await small_tables.filesystems(self._source)))
        named = [small_tables.FileSystem(*place, None) for place in filesystems]
        await self._conn.execute(
            self._sql["pool_map"],
            [fs.server for fs in named],
            [fs.fs for fs in named],
            [fs.poolname for fs in named],
            [dcache_pool(fs) for fs in named],
        )
        if not await has_unique_names(self._source):
            await self._find_namesakes()

    async def _find_namesakes(self) -> None:
        """Names given twice can stand far apart: they are decided all at once, before the ranges."""
        rows = await self._source.fetch(_NAMESAKES.format(cns=self._source.cns, top=MAX_FILEID))
        async with self._source.snapshot(), self._conn.transaction():
            await self._projection.stage_ids([int(row[0]) for row in rows])
            await self._projection.project_rows(unique_names=False)
            await self._conn.execute(self._sql["note_namesakes"])

    async def _walk(self, step: str, top: int, expected: int) -> None:
        directories = step == DIRECTORIES
        entries = self._range_entries * (DIRECTORY_RANGE_FACTOR if directories else 1)
        after = done = 0
        while found := await read.next_range(self._source, after, top, entries):
            await self._take(found.lo, found.hi, directories=directories)
            after, done = found.hi, done + found.entries
            self._advance(step, done, expected)

    async def _take(self, lo: int, hi: int, *, directories: bool) -> None:
        """One range. As in the mirror, a row that PostgreSQL cannot project is found by halving."""
        try:
            async with self._source.snapshot(), self._conn.transaction():
                await self._project(lo, hi, directories=directories)
                await (self._keep_directories() if directories else self._count_entries())
        except UNFIT as exc:
            logger.info("range does not fit and is halved lo=%d hi=%d error=%s", lo, hi, exc)
            await self._take_halves(lo, hi, exc, directories=directories)

    async def _take_halves(self, lo: int, hi: int, error: Exception, *, directories: bool) -> None:
        if lo == hi:
            await self._refuse(Example(lo, str(error)), directories=directories)
            return
        middle = (lo + hi) // 2
        await self._take(lo, middle, directories=directories)
        await self._take(middle + 1, hi, directories=directories)

    async def _refuse(self, refused: Example, *, directories: bool) -> None:
        if directories:
            await self._conn.execute(self._sql["refuse_directory"], refused.fileid, refused.detail)
        else:
            self._add("entry", "refused-by-chimera", 1, [refused])

    async def _project(self, lo: int, hi: int, *, directories: bool) -> None:
        await self._projection.stage_range(lo, hi, directories=directories)
        await self._projection.project_rows(unique_names=True)
        await self._conn.execute(self._sql["namesakes"])
        await self._projection.project_taken()

    async def _keep_directories(self) -> None:
        await self._conn.execute(self._sql["note_directories"])
        await self._conn.execute(self._sql["note_directory_facts"])

    async def _decide_directories(self) -> None:
        async with self._conn.transaction():
            await self._conn.execute(self._sql["reach_directories"])
            await self._conn.execute(self._sql["leave_out_unreached"])
            await self._tally("foreseen_directory")

    async def _count_entries(self) -> None:
        await self._projection.project_presence(mirrored=False)
        await self._tally("foreseen_entry")

    async def _tally(self, view: str) -> None:
        rows = await self._conn.fetch(self._sql["tally"].replace("{foreseen}", view), self._examples)
        for row in rows:
            examples = map(Example, row["fileids"] or (), row["details"] or ())
            self._add(row["scope"], row["reason"], row["findings"], examples)

    async def _count_beyond(self) -> None:
        beyond = await read.entries_beyond(self._source)
        if beyond:
            examples = (Example(entry.fileid, f"fileid is beyond {MAX_FILEID}") for entry in beyond)
            self._add("entry", "id-out-of-range", len(beyond), examples)

    def _add(self, scope: str, reason: str, count: int, examples: Iterable[Example]) -> None:
        found = self._found.setdefault((scope, reason), Foreseen(scope, reason))
        found.count += count
        found.examples = [*found.examples, *examples][: self._examples]


def by_reason(forecast: Forecast) -> Mapping[str, tuple[Foreseen, ...]]:
    """The parts of a forecast, those of both scopes together."""
    reasons = dict.fromkeys(found.reason for found in forecast.foreseen)
    return {
        reason: tuple(found for found in forecast.foreseen if found.reason == reason) for reason in reasons
    }
