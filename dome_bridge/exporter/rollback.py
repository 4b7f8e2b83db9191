"""`rollback`: from a commit back to following, as long as dCache has written nothing.

DPM's catalog has stood still behind its fence, and so has the journal. Whether Chimera has, its
data must show. The look and the record of the decision are one transaction in which nobody writes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dome_bridge.chimera import state
from dome_bridge.chimera.state import Phase
from dome_bridge.config import Config
from dome_bridge.errors import CutoverError, StateError
from dome_bridge.exporter import artifacts, capture, dcache_writes, gate_readings
from dome_bridge.exporter.cutover import DEFAULT_TERMS, Cutover, Terms, opened
from dome_bridge.exporter.cutover_plan import Event, State
from dome_bridge.exporter.cutover_record import take_last
from dome_bridge.statements import load

logger = logging.getLogger(__name__)

_CUTOVER_SQL = load("dome_bridge.chimera", "cutover.sql")
_SQL = load("dome_bridge.chimera", "rollback.sql")

LOCK_TIMEOUT = "5s"

Confirm = Callable[[str], Awaitable[bool]]
"""Shown what was found out, and what it cannot tell."""


@dataclass(frozen=True)
class RolledBack:
    """phase: of the site now. again: a rollback that was begun before was finished."""

    phase: Phase
    again: bool = False


async def roll_back(config: Config, *, confirm: Confirm, terms: Terms = DEFAULT_TERMS) -> RolledBack:
    """Raises StateError without a commit, CutoverError if dCache has written or is at work."""
    async with opened(config, terms) as cutover:
        again = await _take_up(cutover)
        await _require_capture(cutover)
        if not again:
            await _decide(cutover, confirm, terms)
        await cutover.finish()
        return RolledBack((await state.progress(cutover.session.conn)).phase, again)


async def _take_up(cutover: Cutover) -> bool:
    """True if a rollback was begun already: then dCache's writes were looked for before."""
    last = await take_last(cutover.session.conn)
    if last is not None:
        cutover.record.take_over(last)
        if last.state in (State.COMMITTED, State.RETURNING):
            return last.state is State.RETURNING
    phase = (await state.progress(cutover.session.conn)).phase
    raise StateError(
        f"the site is in phase {phase}, not committed: there is nothing to roll back; a cutover under way is "
        "undone with `dome-bridge cutover --abort`"
    )


async def _require_capture(cutover: Cutover) -> None:
    found = await capture.inspect(cutover.admin, cutover.session.layout)
    if wrong := gate_readings.what_is_wrong_with(found):
        raise StateError(
            f"{wrong}: the mirror could not go on from here; begin again with a new Chimera database"
        )


async def _decide(cutover: Cutover, confirm: Confirm, terms: Terms) -> None:
    """With Chimera held still from the look to the record."""
    if not await confirm(
        "DPM takes writes again, and dCache must not start. Whether dCache has written is looked for in "
        f"Chimera's data; {dcache_writes.CANNOT_SEE}"
    ):
        raise CutoverError("the rollback was not confirmed; nothing was done")
    conn = cutover.session.conn
    async with conn.transaction():
        await conn.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        await conn.execute(_SQL["hold_still"])
        await _refuse_what_dcache_wrote(cutover, terms)
        await cutover.record.enter(Event.ROLL_BACK, reason="rolled back by the administrator")
        # What was verified before says nothing of what comes now.
        await state.note_capture_renewed(conn)


async def _refuse_what_dcache_wrote(cutover: Cutover, terms: Terms) -> None:
    session = cutover.session
    if clients := await session.conn.fetch(_CUTOVER_SQL["jdbc_clients"]):
        raise CutoverError(f"dCache is connected ({clients[0]['application']}): stop it, then roll back")
    row = await session.conn.fetchrow(_CUTOVER_SQL["last"])
    found = await dcache_writes.find_writes(
        session.conn, session.source, session.site, row["id"], json.loads(row["baseline"])
    )
    if not found:
        return
    directory = artifacts.prepare(cutover.steps.artifacts_directory())
    path = await dcache_writes.write_journal(directory, found)
    raise CutoverError(
        f"dCache has written since the commit ({dcache_writes.summary(found)}), and DPM knows nothing of it: "
        f"no way back; all of it is listed in {path}"
    )
