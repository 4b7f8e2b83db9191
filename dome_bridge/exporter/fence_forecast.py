"""How long the fence would stand: from what rehearsals, and earlier attempts, have measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

import asyncpg

from dome_bridge.statements import load

_SQL = load("dome_bridge.chimera", "cutover.sql")

HISTORY = 5
"""Rehearsals that a forecast looks at."""

CHANGES_PER_SECOND = 1_000.0
"""What the mirror drains where nothing was measured yet; it is a cautious number."""


@dataclass(frozen=True)
class Costs:
    """seconds: of each step but the drain. changes_per_second: of the drain."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    changes_per_second: float = CHANGES_PER_SECOND

    def fence_seconds(self, backlog: int) -> float:
        """Uploads that are waited for are not in it: nobody knows how long they take."""
        return sum(self.seconds.values()) + backlog / max(self.changes_per_second, 1.0)

    def as_json(self) -> str:
        return json.dumps({"seconds": dict(self.seconds), "changes_per_second": self.changes_per_second})


async def load_costs(conn: asyncpg.Connection) -> Costs:
    """The middle of the last rehearsals."""
    return combined([_parsed(row["steps"]) for row in await conn.fetch(_SQL["rehearsals"], HISTORY)])


async def predicted_fence_seconds(conn: asyncpg.Connection) -> float | None:
    """For monitoring: what the last rehearsals predicted; None before the first."""
    rows = await conn.fetch(_SQL["rehearsals"], HISTORY)
    return median(row["predicted_fence_seconds"] for row in rows) if rows else None


def combined(history: list[Costs]) -> Costs:
    if not history:
        return Costs()
    names = {name for costs in history for name in costs.seconds}
    seconds = {name: median(costs.seconds.get(name, 0.0) for costs in history) for name in sorted(names)}
    return Costs(seconds, median(costs.changes_per_second for costs in history))


def _parsed(text: str) -> Costs:
    found = json.loads(text)
    return Costs(found["seconds"], found["changes_per_second"])
