"""Counts and bytes per pool and storage group, in DPM and in Chimera, by ways of their own.

A count that goes through the mapping would repeat its errors. So DPM's numbers come from plain
sums of its rows, and Chimera's from plain sums of dCache's. What is in the quarantine, in part or
as a whole, is left out on both sides; so is, on a live site, what waits in the journal: that is
counted again behind the fence, with everything that has changed since.

The whole catalog is counted before the fence, range by range, so the fence does not grow with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from dome_bridge.chimera import target
from dome_bridge.dpm import read
from dome_bridge.dpm import small_tables as dpm
from dome_bridge.dpm.source import Source
from dome_bridge.errors import CutoverError
from dome_bridge.exporter.journal import JOURNAL_TABLE, JournalKind
from dome_bridge.exporter.mirror import Mirror
from dome_bridge.exporter.small_tables import dcache_pool, moved_servers
from dome_bridge.staging import MAX_FILEID
from dome_bridge.statements import load

_STATEMENTS = load("dome_bridge.chimera", "tally.sql")
_SQL = {
    name: text.replace("{token_of_parent}", _STATEMENTS["token_of_parent"])
    for name, text in _STATEMENTS.items()
}

CHUNK = 2_000
STRAY = "(by their path)"
"""Copies whose columns host, fs and poolname do not tell where they are: only their path does."""

MOVES_SECONDS = 60.0
"""How long files of a moved server are waited for: until then no location can be judged."""

_COPIES = """
SELECT e.parent_fileid, r.host, r.fs, r.poolname,
       IFNULL(LEFT(CAST(r.sfn AS BINARY), LENGTH(r.host) + LENGTH(r.fs) + 2)
              = CAST(CONCAT(r.host, ':', r.fs, '/') AS BINARY), 0) AS is_plain,
       COUNT(*), SUM(e.filesize)
FROM {cns}.Cns_file_metadata e JOIN {cns}.Cns_file_replica r ON r.fileid = e.fileid
WHERE {where} AND r.status = '-' AND e.filemode & 61440 = 32768
GROUP BY e.parent_fileid, r.host, r.fs, r.poolname, is_plain"""
_ENTRIES = "SELECT COUNT(*) FROM {cns}.Cns_file_metadata e WHERE {where}"
_WAITING = "SELECT DISTINCT fileid FROM {journal} WHERE kind <= %s AND {where}"


class Place(NamedTuple):
    """token: the storage group, `OSMTemplate:sGroup`."""

    pool: str
    token: str


class Sum(NamedTuple):
    copies: int
    bytes: int

    def plus(self, other: Sum) -> Sum:
        return Sum(self.copies + other.copies, self.bytes + other.bytes)


NOTHING = Sum(0, 0)


@dataclass
class Side:
    """What one database says."""

    entries: int = 0
    places: dict[Place, Sum] = field(default_factory=dict)

    def add(self, place: Place, found: Sum) -> None:
        self.places[place] = self.places.get(place, NOTHING).plus(found)

    def of(self, part: str) -> dict[str, Sum]:
        """By `pool` or by `token`."""
        summed: dict[str, Sum] = {}
        for place, found in self.places.items():
            name = getattr(place, part)
            summed[name] = summed.get(name, NOTHING).plus(found)
        return summed

    def merge(self, other: Side) -> None:
        self.entries += other.entries
        for place, found in other.places.items():
            self.add(place, found)


@dataclass
class Tally:
    """Both sides. uncounted: entries that were left out because changes of them waited."""

    dpm: Side = field(default_factory=Side)
    chimera: Side = field(default_factory=Side)
    uncounted: int = 0

    def merge(self, other: Tally) -> None:
        self.dpm.merge(other.dpm)
        self.chimera.merge(other.chimera)
        self.uncounted += other.uncounted

    def differences(self) -> list[str]:
        """In words; empty when both sides agree."""
        found = []
        if self.dpm.entries != self.chimera.entries:
            found.append(
                f"DPM has {self.dpm.entries} entries, Chimera and the quarantine {self.chimera.entries}"
            )
        found += _differences("storage group", self.dpm.of("token"), self.chimera.of("token"))
        found += _differences("pool", *_placed(self.dpm.of("pool"), self.chimera.of("pool")))
        return found

    def as_json(self) -> dict[str, Any]:
        by = {part: _as_json(self.chimera.of(part)) for part in ("pool", "token")}
        return {
            "entries": self.dpm.entries,
            "uncounted": self.uncounted,
            "pools": by["pool"],
            "tokens": by["token"],
        }


def _as_json(sums: Mapping[str, Sum]) -> list[dict[str, Any]]:
    return [
        {"name": name, "copies": found.copies, "bytes": found.bytes} for name, found in sorted(sums.items())
    ]


def _placed(ours: dict[str, Sum], theirs: dict[str, Sum]) -> tuple[dict[str, Sum], dict[str, Sum]]:
    """Stray copies may be in any pool: then only the sum of all pools can be compared, and none may lack."""
    stray = ours.pop(STRAY, None)
    if stray is None:
        return ours, theirs
    lacking = {name: found for name, found in ours.items() if theirs.get(name, NOTHING).copies < found.copies}
    if lacking:
        return lacking, {name: theirs.get(name, NOTHING) for name in lacking}
    return {"all": _total(ours.values()).plus(stray)}, {"all": _total(theirs.values())}


def _total(sums: Iterable[Sum]) -> Sum:
    total = NOTHING
    for found in sums:
        total = total.plus(found)
    return total


def _differences(what: str, ours: Mapping[str, Sum], theirs: Mapping[str, Sum]) -> Iterator[str]:
    for name in sorted(ours.keys() | theirs.keys()):
        before, after = ours.get(name, NOTHING), theirs.get(name, NOTHING)
        if before != after:
            yield (
                f"{what} {name}: DPM has {before.copies} copies with {before.bytes} bytes, "
                f"Chimera {after.copies} with {after.bytes}"
            )


Advance = Callable[[int], Awaitable[None]]
"""Told after each range how many entries were counted."""


class Counter:
    """Counts with the connections of a mirror that nobody else uses meanwhile."""

    def __init__(
        self,
        mirror: Mirror,
        *,
        range_entries: int,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._mirror = mirror
        self._source: Source = mirror.source
        self._conn = mirror.conn
        self._site = mirror.projection.site
        self._range_entries = range_entries
        self._sleep = sleep
        self._pools: Mapping[tuple[bytes, bytes, bytes], str] = MappingProxyType({})

    async def count_all(self, advance: Advance) -> Tally:
        """Each range while no batch is under way, together with the journal as of the same instant."""
        await self._learn_pools()
        tally, after = Tally(), 0
        while after < MAX_FILEID:
            found = await read.next_range(self._source, after, MAX_FILEID, self._range_entries)
            is_last = found is None or found.entries < self._range_entries
            hi = MAX_FILEID if is_last or found is None else found.hi
            tally.merge(await self._count_range(after + 1, hi))
            await advance(tally.dpm.entries)
            after = hi
        return tally

    async def count_ids_live(self, fileids: Sequence[int]) -> Tally:
        """These alone, as `count_all` does it; what waits in the journal is left out."""
        await self._learn_pools()
        tally = Tally()
        for first in range(0, len(fileids), CHUNK):
            chunk = list(fileids[first : first + CHUNK])
            tally.merge(await self._while_still(partial(self._count_settled, chunk)))
        return tally

    async def count_ids(self, fileids: Sequence[int]) -> Tally:
        """Behind the fence, where nothing moves."""
        await self._learn_pools()
        tally = Tally()
        for first in range(0, len(fileids), CHUNK):
            chunk = list(fileids[first : first + CHUNK])
            async with self._source.snapshot():
                tally.merge(await self._count_chunk(chunk))
        return tally

    async def _learn_pools(self) -> None:
        filesystems = await dpm.filesystems(self._source)
        self._pools = {(fs.server, fs.fs, fs.poolname): dcache_pool(fs) for fs in filesystems}

    async def _count_range(self, lo: int, hi: int) -> Tally:
        return await self._while_still(partial(self._count_still_range, lo, hi))

    async def _while_still(self, count: Callable[[], Awaitable[Tally]]) -> Tally:
        """Counts while no batch is under way, and the journal is as of the same instant."""
        for _ in range(round(MOVES_SECONDS)):
            async with target.closed_gate(self._conn), self._source.snapshot():
                if not await moved_servers(self._conn):
                    return await count()
            await self._sleep(1.0)
        raise CutoverError(
            f"files of moved file systems are being placed anew for more than {MOVES_SECONDS:.0f} s: "
            "is `dome-bridge run` at work? try again when `dome-bridge status` shows no backlog"
        )

    async def _count_still_range(self, lo: int, hi: int) -> Tally:
        waiting = await self._waiting(f"fileid BETWEEN {lo:d} AND {hi:d}")
        held = await self._conn.fetch(_SQL["quarantined_range"], lo, hi)
        left_out = sorted({*waiting, *(row["fileid"] for row in held)})
        offset, instance = self._site.inumber_offset, self._site.instance_id
        tally = Tally(uncounted=len(waiting))
        tally.dpm.entries = await self._entries(_between(lo, hi, waiting))
        tally.chimera.entries = await self._conn.fetchval(
            _SQL["entries_range"], offset, lo, hi, waiting, instance
        )
        tally.chimera.entries += self._root_counts(lo, hi, waiting)
        await self._add_copies(tally.dpm, _between(lo, hi, left_out))
        rows = await self._conn.fetch(_SQL["places_range"], offset, lo, hi, left_out, instance)
        _add_places(tally.chimera, rows)
        return tally

    async def _waiting(self, where: str) -> list[int]:
        statement = _WAITING.format(journal=f"{self._source.cns}.{JOURNAL_TABLE}", where=where)
        rows = await self._source.fetch(statement, (JournalKind.SYMLINK,))
        return sorted(int(row[0]) for row in rows)

    async def _count_settled(self, fileids: Sequence[int]) -> Tally:
        waiting = set(await self._waiting(f"fileid IN ({_listed(fileids)})"))
        settled = [fileid for fileid in fileids if fileid not in waiting]
        tally = await self._count_chunk(settled) if settled else Tally()
        tally.uncounted = len(waiting)
        return tally

    def _root_counts(self, lo: int, hi: int, waiting: Sequence[int]) -> int:
        """It is dCache's own inode, with a pnfsid of zeros."""
        root = self._site.root_fileid
        return int(lo <= root <= hi and root not in waiting)

    async def _count_chunk(self, fileids: list[int]) -> Tally:
        offset, instance = self._site.inumber_offset, self._site.instance_id
        held = {row["fileid"] for row in await self._conn.fetch(_SQL["quarantined_ids"], fileids)}
        whole = [fileid for fileid in fileids if fileid not in held]
        tally = Tally()
        tally.dpm.entries = await self._entries(_among(fileids))
        tally.chimera.entries = await self._conn.fetchval(_SQL["entries_ids"], offset, fileids, instance)
        tally.chimera.entries += int(self._site.root_fileid in fileids)
        if whole:
            await self._add_copies(tally.dpm, _among(whole))
            _add_places(tally.chimera, await self._conn.fetch(_SQL["places_ids"], offset, whole, instance))
        return tally

    async def _entries(self, where: str) -> int:
        return int(await self._source.fetchval(_ENTRIES.format(cns=self._source.cns, where=where)))

    async def _add_copies(self, side: Side, where: str) -> None:
        parents: list[int] = []
        pools: list[str] = []
        copies: list[int] = []
        sizes: list[int] = []
        for parent, host, fs, pool, is_plain, files, size in await self._source.fetch(
            _COPIES.format(cns=self._source.cns, where=where)
        ):
            known = self._pools.get((host or b"", fs or b"", pool or b"")) if is_plain else None
            parents.append(self._site.inumber(int(parent or 0)))
            pools.append(known or STRAY)
            copies.append(int(files))
            sizes.append(int(size or 0))
        _add_places(side, await self._conn.fetch(_SQL["grouped"], parents, pools, copies, sizes))


def _add_places(side: Side, rows: Iterable[Any]) -> None:
    for row in rows:
        side.add(Place(row["pool"], row["token"]), Sum(row["copies"], int(row["bytes"] or 0)))


def _between(lo: int, hi: int, without: Sequence[int]) -> str:
    where = f"e.fileid BETWEEN {lo:d} AND {hi:d}"
    return f"{where} AND e.fileid NOT IN ({_listed(without)})" if without else where


def _among(fileids: Sequence[int]) -> str:
    return f"e.fileid IN ({_listed(fileids)})"


def _listed(fileids: Sequence[int]) -> str:
    return ",".join(f"{fileid:d}" for fileid in fileids)
