"""`rehearse`: everything of a cutover that changes nothing, on the live site, with its times.

What can be done is done: gates, fence and its lifting on a table of ours, the counting, a marker
through the journal, the comparison. What would change something is done in a transaction that is
rolled back. What a real fence needs is extrapolated from that, and kept for the forecast.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase
from dome_bridge.config import Config
from dome_bridge.dpm import read
from dome_bridge.errors import CutoverError, StateError
from dome_bridge.exporter import cutover_steps, fence, fence_forecast, gate_readings, gates
from dome_bridge.exporter.cutover import DEFAULT_TERMS, Cutover, Terms, opened
from dome_bridge.exporter.cutover_plan import Step
from dome_bridge.exporter.cutover_steps import Waiting
from dome_bridge.exporter.fence_forecast import Costs
from dome_bridge.exporter.gates import Gate
from dome_bridge.exporter.journal import Journal
from dome_bridge.exporter.small_tables import ALL_SMALL_TABLES, copy_small_tables
from dome_bridge.exporter.snapshot import ANALYZED
from dome_bridge.statements import load

_SQL = load("dome_bridge.chimera", "cutover.sql")

MARKER_SECONDS = 60.0
"""How long a marker may take through the journal; longer says that nobody follows."""

APPLY_FACTOR = 3.0
"""Applying an entry costs about so many times as much as comparing it."""

ENOUGH = 500
"""A backlog from which the speed of the drain can be told."""

UPLOAD_TABLES = 3
"""Whose triggers are made anew when the fence is shut."""


@dataclass
class Rehearsal:
    """steps: as measured, or extrapolated. differences: of the counting, in words."""

    gates: tuple[Gate, ...]
    steps: list[tuple[str, float]] = field(default_factory=list)
    predicted_fence_seconds: float = 0.0
    differences: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not gates.refused(self.gates) and not self.differences

    def as_json(self) -> dict[str, Any]:
        return {
            "gates": [gate.as_json() for gate in self.gates],
            "predicted_fence_seconds": round(self.predicted_fence_seconds, 3),
            "steps": [{"name": name, "seconds": round(seconds, 3)} for name, seconds in self.steps],
            "differences": self.differences,
        }


async def rehearse(config: Config, *, terms: Terms = DEFAULT_TERMS) -> Rehearsal:
    """Alone like a cutover. Raises StateError where there is nothing to rehearse."""
    async with opened(config, terms) as cutover:
        await _require_following(cutover)
        return await _Rehearsing(cutover, config, terms).run()


async def _require_following(cutover: Cutover) -> None:
    if await cutover.record.find_open():
        raise StateError(
            f"a cutover is under way in state {cutover.record.state}: go on with `dome-bridge cutover`, "
            "or end it with `dome-bridge cutover --abort`"
        )
    phase = (await state.progress(cutover.session.conn)).phase
    if phase is not Phase.FOLLOWING:
        raise StateError(f"the site is in phase {phase}: there is nothing to rehearse")


class _Rehearsing:
    def __init__(self, cutover: Cutover, config: Config, terms: Terms) -> None:
        self._cutover = cutover
        self._config = config
        self._terms = terms
        self._session = cutover.session
        self._conn = cutover.session.conn
        self._clock = terms.clock
        self._journal = Journal(cutover.session.source)
        self._measured: list[tuple[str, float]] = []
        self._rate = fence_forecast.CHANGES_PER_SECOND
        self._differences: list[str] = []

    async def run(self) -> Rehearsal:
        await self._measure("catch-up", self._catch_up)
        proof = await fence.prove_fence(self._cutover.admin, clock=self._clock.monotonic)
        await self._measure(Step.COUNT, self._count)
        self._measured += self._extrapolated(proof.seconds)
        await self._measure(Step.DRAIN, self._marker)
        await self._measure(Step.COPY_SMALL_TABLES, self._copy_and_roll_back)
        await self._measure(Step.RECHECK, self._recheck)
        await self._measure(Step.RECOUNT, self._recount)
        await self._measure(Step.FINISH_DATABASE, self._analyze_and_roll_back)
        await self._measure(Step.COMMIT, self._close_gate)
        return await self._concluded()

    async def _measure(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        self._terms.say(f"rehearsing {name}")
        begun = self._clock.monotonic()
        await work()
        self._measured.append((str(name), self._clock.monotonic() - begun))

    async def _concluded(self) -> Rehearsal:
        costs = Costs(
            {name: seconds for name, seconds in self._measured if name not in ("catch-up", Step.COUNT)},
            self._rate,
        )
        predicted = costs.fence_seconds(await self._journal.backlog())
        judged = await gate_readings.judged(
            self._session,
            self._cutover.admin,
            self._terms.limits(self._config),
            skip=self._terms.options.skip_gates,
            abandoned_seconds=self._terms.options.abandoned_seconds,
        )
        options = self._terms.options
        judged = await gates.with_further(judged, options.further_gates, skip=options.skip_gates)
        noted = json.dumps([gate.as_json() for gate in judged])
        await self._conn.execute(_SQL["note_rehearsal"], noted, costs.as_json(), predicted)
        return Rehearsal(judged, self._measured, predicted, self._differences)

    async def _catch_up(self) -> None:
        """The usual work of the mirror, if no daemon does it; a backlog shows how fast it goes."""
        backlog = await self._journal.backlog()
        begun = self._clock.monotonic()
        await self._cutover.steps.catch_up()
        seconds = self._clock.monotonic() - begun
        if backlog >= ENOUGH and await self._journal.backlog(limit=1) == 0:
            self._rate = backlog / max(seconds, 0.001)

    def _extrapolated(self, trigger_seconds: float) -> list[tuple[str, float]]:
        source = self._session.source
        triggers = fence.fence_triggers(self._session.layout, source.cns_name, source.dpm_name)
        return [
            (Step.RAISE_FENCE.value, trigger_seconds * len(triggers)),
            (Step.SHUT_FENCE.value, trigger_seconds * UPLOAD_TABLES),
        ]

    async def _count(self) -> None:
        tally = await self._cutover.steps.counter().count_all(_uncounted)
        self._differences = tally.differences()

    async def _marker(self) -> None:
        """Through the journal, as the last row of a drain."""
        nonce = f"rehearsal {self._clock.monotonic():.6f}"
        await self._journal.write_marker(nonce.encode())
        waiting = Waiting(self._terms.say, self._clock)
        while (await state.progress(self._conn)).marker != nonce:
            if waiting.seconds > MARKER_SECONDS:
                raise CutoverError(
                    f"a marker was not applied within {MARKER_SECONDS:.0f} s: see `dome-bridge status`"
                )
            await self._cutover.steps.apply_batch()
            await waiting.for_("a marker to come through the journal")
        await target.release_applier_lock(self._cutover.steps.applier)

    async def _copy_and_roll_back(self) -> None:
        transaction = self._conn.transaction()
        await transaction.start()
        try:
            await copy_small_tables(self._session.source, self._session.layout, self._conn, ALL_SMALL_TABLES)
        finally:
            await transaction.rollback()

    async def _recheck(self) -> None:
        begun = self._clock.monotonic()
        newest = await read.newest_fileids(self._session.source, cutover_steps.NEWEST)
        await self._cutover.steps.verifier().check_ids(newest)
        if len(newest) >= ENOUGH and self._rate == fence_forecast.CHANGES_PER_SECOND:
            seconds = max(self._clock.monotonic() - begun, 0.001)
            self._rate = len(newest) / seconds / APPLY_FACTOR

    async def _recount(self) -> None:
        """For its time only: on a live site entries change meanwhile."""
        newest = await read.newest_fileids(self._session.source, cutover_steps.NEWEST)
        await self._cutover.steps.counter().count_ids(newest)

    async def _analyze_and_roll_back(self) -> None:
        transaction = self._conn.transaction()
        await transaction.start()
        try:
            for table in ANALYZED:
                await self._conn.execute(f"ANALYZE {table}")
        finally:
            await transaction.rollback()

    async def _close_gate(self) -> None:
        async with target.closed_gate(self._conn):
            pass


async def _uncounted(entries: int) -> None: ...
