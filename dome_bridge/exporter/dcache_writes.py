"""What dCache has written into Chimera since the commit, told by the data alone.

It cannot show everything: not reads; not data that lies on a pool and was not registered in the
namespace yet; not a change that was undone to the last column, its generation included.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg

from dome_bridge.chimera import state
from dome_bridge.chimera.state import Site
from dome_bridge.dpm import read
from dome_bridge.dpm.source import Source
from dome_bridge.statements import load

_SQL = load("dome_bridge.chimera", "rollback.sql")

LISTED = 10_000
"""Of each kind but new entries, which are listed all."""

FILE = "dcache-writes.ndjson"

CANNOT_SEE = (
    "it cannot see reads, nor data on a pool that is not registered in the namespace: stop dCache's pools "
    "and doors before, and look into their data directories"
)


@dataclass(frozen=True)
class Write:
    """kind: made, changed, located, named, deleted, tagged or missing. pools: with commas between."""

    kind: str
    pnfsid: str
    path: str
    size: int
    pools: str


async def find_writes(
    conn: asyncpg.Connection, source: Source, site: Site, cutover: int, baseline: dict[str, Any]
) -> list[Write]:
    """In the caller's transaction, which holds the tables still."""
    highest = baseline["inumber"]
    found = _writes("made", await conn.fetch(_SQL["made"], highest))
    generation = baseline["root_generation"]
    found += _writes("changed", await conn.fetch(_SQL["changed"], LISTED, site.instance_id, generation))
    located = await conn.fetch(_SQL["located"], LISTED, highest, site.timezone, cutover)
    found += _writes("located", located)
    found += _writes("named", await conn.fetch(_SQL["named"], LISTED, highest))
    found += _writes("deleted", await conn.fetch(_SQL["deleted"], LISTED))
    found += _writes("tagged", await conn.fetch(_SQL["tagged"], LISTED, baseline["itagid"]))
    return found + await _missing(conn, source, site)


async def _missing(conn: asyncpg.Connection, source: Source, site: Site) -> list[Write]:
    """DPM has not changed since: what it has more than we find was deleted."""
    counts = await state.agreement(conn, site)
    gone = await read.count_entries(source) - counts.mirrored - counts.quarantined
    return [Write("missing", "", f"{gone} entries of DPM are in Chimera no more", 0, "")] if gone > 0 else []


def _writes(kind: str, rows: Iterable[asyncpg.Record]) -> list[Write]:
    return [Write(kind, row["ipnfsid"], row["path"], row["isize"], row["pools"]) for row in rows]


def summary(found: Sequence[Write]) -> str:
    """In a line: how many of each kind, and the first."""
    counts = Counter(write.kind for write in found)
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    first = found[0]
    return f"{told}; the first: {first.kind} {first.path or first.pnfsid}"


async def write_journal(directory: Path, found: Sequence[Write]) -> Path:
    """All of them, an object a line, to copy by hand what must not be lost."""
    path = directory / FILE
    text = "".join(json.dumps(asdict(write)) + "\n" for write in found)
    await asyncio.to_thread(path.write_text, text)
    return path
