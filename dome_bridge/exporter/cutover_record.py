"""The record of a cutover in the Chimera database: what a restart goes by.

Each change of state is one transaction with the phase that it means and with what the step has
found; a step that was repeated adds its seconds.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from dome_bridge.chimera import state, target
from dome_bridge.errors import StateError
from dome_bridge.exporter import cutover_plan
from dome_bridge.exporter.cutover_plan import Event, State, Step
from dome_bridge.exporter.gates import Gate
from dome_bridge.statements import load

_SQL = load("dome_bridge.chimera", "cutover.sql")


@dataclass
class CutoverReport:
    """fence_seconds: from the attempt to raise the fence to the commit, or to its lifting."""

    state: State
    reason: str = ""
    fence_seconds: float = 0.0
    steps: list[tuple[str, float]] = field(default_factory=list)
    artifacts: str = ""
    details: dict[str, str] = field(default_factory=dict)
    """What each step has said, by its name"""


class Record:
    """An open cutover; without `id` none was begun or found."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn
        self.id = 0
        self.nonce = ""
        self.state = State.ABORTED
        self.skipped: frozenset[str] = frozenset()

    async def find_open(self) -> bool:
        """Takes up a cutover that was begun and has not ended."""
        row = await self._conn.fetchrow(_SQL["open"])
        if row is None:
            return False
        self._take(row)
        return True

    def _take(self, row: asyncpg.Record) -> None:
        self.id, self.nonce, self.state = row["id"], row["nonce"], State(row["state"])
        self.skipped = frozenset(row["skipped"])

    def take_over(self, other: Record) -> None:
        """Goes on with another one, which may have ended."""
        self.id, self.nonce, self.state, self.skipped = other.id, other.nonce, other.state, other.skipped

    async def begin(self, judged: Sequence[Gate], skipped: Collection[str]) -> None:
        """A new attempt, with a marker of its own; nothing stands yet."""
        self.nonce, self.state, self.skipped = secrets.token_hex(16), State.PREPARING, frozenset(skipped)
        async with self._conn.transaction():
            await self._conn.execute(_SQL["forget_changed"])
            self.id = await self._conn.fetchval(
                _SQL["begin"], self.state.value, self.nonce, _gates(judged), sorted(skipped)
            )

    async def judged_again(self, judged: Sequence[Gate], skipped: Collection[str]) -> None:
        self.skipped = frozenset(skipped)
        await self._conn.execute(_SQL["set_gates"], self.id, _gates(judged), sorted(skipped))

    async def enter(self, event: Event, *, reason: str = "") -> None:
        """What follows from the event, and the phase that it means, in one transaction."""
        to = cutover_plan.after(self.state, event)
        async with self._conn.transaction():
            await self._write(to, reason)
        self.state = to

    async def done(self, step: Step, seconds: float, detail: str, **found: Any) -> None:
        """The step, what it has found, and the state after it. found: tally, uploads, artifacts, baseline."""
        to = cutover_plan.after(self.state, Event.DONE)
        async with self._conn.transaction():
            await self._conn.execute(_SQL["step"], self.id, step.value, seconds, detail)
            for name, value in found.items():
                text = value if isinstance(value, str) else json.dumps(value)
                await self._conn.execute(_SQL[f"set_{name}"], self.id, text)
            await self._write(to, "")
        self.state = to

    async def _write(self, to: State, reason: str) -> None:
        status = await self._conn.execute(_SQL["set_state"], self.id, to.value, reason, self.state.value)
        if status != "UPDATE 1":
            raise StateError(
                f"cutover {self.id} is no longer {self.state}: another process has gone on with it; "
                "see `dome-bridge status`"
            )
        if to in cutover_plan.PHASES:
            await state.set_phase(self._conn, cutover_plan.PHASES[to])

    async def changed(self) -> list[int]:
        """What was applied since it was begun."""
        return [row["fileid"] for row in await self._conn.fetch(_SQL["changed"], self.id)]

    async def take_changed(self) -> list[int]:
        """The same, and forgets it: what changes later is noted anew."""
        async with target.closed_gate(self._conn):
            return sorted(row["fileid"] for row in await self._conn.fetch(_SQL["take_changed"], self.id))


def _gates(judged: Sequence[Gate]) -> str:
    return json.dumps([gate.as_json() for gate in judged])


async def take_last(conn: asyncpg.Connection) -> Record | None:
    """The newest cutover, ended or not."""
    row = await conn.fetchrow(_SQL["last"])
    if row is None:
        return None
    record = Record(conn)
    record._take(row)
    return record


async def last_report(conn: asyncpg.Connection) -> CutoverReport:
    """Of the newest cutover."""
    row = await conn.fetchrow(_SQL["last"])
    if row is None:
        return CutoverReport(State.ABORTED, "there was no cutover under way")
    steps = await conn.fetch(_SQL["steps"], row["id"])
    return CutoverReport(
        State(row["state"]),
        row["reason"],
        row["fence_seconds"],
        [(step["name"], step["seconds"]) for step in steps],
        row["artifacts"] or "",
        {step["name"]: step["detail"] for step in steps},
    )
