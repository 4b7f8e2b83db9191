"""What a disk server reports of its files: replicas whose file is missing or has another size.

A replica that is reported becomes a fact in the quarantine, without a location, as long as the
report contradicts the catalog. Nothing is believed blindly: only what the catalog has as wanted
counts, and a report that would empty a pool is more likely about a disk that is not mounted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import asyncpg

from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase, Site
from dome_bridge.config import Config
from dome_bridge.errors import StateError
from dome_bridge.statements import load

_SQL = load("dome_bridge.chimera", "links.sql")

ALWAYS_BELIEVED = 100
"""Replicas of a pool that may be missing without a question."""

BELIEVED_SHARE = 0.01

MISSING, SIZE, FOUND = "missing", "size", "found"
MAX_SIZE = 2**63 - 1


class Reported(NamedTuple):
    """A line that concerns us. size: what was found; None: no file."""

    fileid: int
    pool: str
    pfn: bytes
    problem: str
    size: int | None


@dataclass
class Taken:
    """What became of a report. other: lines about problems that are the disk server's own."""

    withheld: int = 0
    restored: int = 0
    outdated: int = 0
    other: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "other": dict(self.other)}


async def take_report(config: Config, lines: Iterable[str], *, even_if_many: bool = False) -> Taken:
    """Notes it in one transaction; the mirror applies it with its next batch.

    Raises StateError for a line that is none of a report, after the commit of a cutover, and if a pool
    would lose many of its files, unless even_if_many.
    """
    conn = await target.connect(config.chimera)
    try:
        async with target.told("noting a disk server's report"):
            site = await state.load_site(conn)
            await state.upgrade(conn)
            async with conn.transaction():
                return await _take(conn, site, lines, even_if_many=even_if_many)
    finally:
        await target.close(conn)


async def _take(conn: asyncpg.Connection, site: Site, lines: Iterable[str], *, even_if_many: bool) -> Taken:
    if (await state.progress(conn)).phase is Phase.COMMITTED:
        raise StateError(
            "the cutover is committed, Chimera belongs to dCache: look for files that are gone with dCache's "
            "own tools (`rep ls` of the pool, `chimera` for the entry)"
        )
    taken = Taken()
    reported = list(_understood(lines, site, taken))
    at_fault = [each for each in reported if each.problem != FOUND]
    good = [each for each in reported if each.problem == FOUND]
    noted = await conn.fetch(_SQL["reported"], *_columns(at_fault, with_pool=True))
    if not even_if_many:
        await _require_few(conn, Counter(row["pool"] for row in noted))
    await conn.execute(
        _SQL["note_findings"], *([row[key] for row in noted] for key in ("fileid", "pfn", "size"))
    )
    taken.withheld, taken.outdated = len(noted), len(at_fault) - len(noted)
    fileids, pfns, _ = _columns(good)
    taken.restored = await conn.fetchval(_SQL["drop_findings"], fileids, pfns)
    return taken


def _columns(reported: Iterable[Reported], *, with_pool: bool = False) -> tuple[list[Any], ...]:
    rows = list(reported)
    pools = ([row.pool for row in rows],) if with_pool else ()
    return [row.fileid for row in rows], *pools, [row.pfn for row in rows], [row.size for row in rows]


async def _require_few(conn: asyncpg.Connection, withheld: Mapping[str, int]) -> None:
    rows = await conn.fetch(_SQL["wanted"], list(withheld))
    links = {row["pool"]: row["links"] for row in rows}
    for pool, count in withheld.items():
        if count > max(ALWAYS_BELIEVED, BELIEVED_SHARE * links.get(pool, 0)):
            raise StateError(
                f"the report would take {count} of {links.get(pool, 0)} files of {pool} out of Chimera: see "
                "that its file system is mounted and whole, and report again; if they are gone indeed, "
                "add --even-if-many"
            )


def _understood(lines: Iterable[str], site: Site, taken: Taken) -> Iterable[Reported]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            problem = str(row["problem"])
            if problem in (MISSING, SIZE, FOUND):
                yield _reported(row, problem, site)
            else:
                taken.other[problem] += 1
        except (ValueError, KeyError, TypeError) as exc:
            raise StateError(
                f"line {number} of the report is none of `dpm-pool-link --report` ({exc}): give the file as "
                "it was written, of this site"
            ) from exc


def _reported(row: Mapping[str, Any], problem: str, site: Site) -> Reported:
    fileid = int(row["pnfsid"][20:], 16)
    if row["pnfsid"] != site.pnfsid(fileid):
        raise ValueError(f"{row['pnfsid'][:40]} is no id of this site")
    size = row["found"] if problem == SIZE else None
    if problem == SIZE and not (isinstance(size, int) and 0 <= size <= MAX_SIZE):
        raise ValueError("found is no size")
    return Reported(
        fileid, str(row["pool"]), str.encode(row["pfn"], "utf-8", "surrogateescape"), problem, size
    )
