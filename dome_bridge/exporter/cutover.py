"""Carries a cutover out: gates, fence, drain, recheck, commit; or the way back.

`cutover_plan` decides, this does. Whatever fails, or takes longer than the fence may stand,
leads back: the fence is lifted and DPM goes on as if nothing had happened. Running it again
continues a cutover that was killed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase
from dome_bridge.config import Config
from dome_bridge.dpm import read
from dome_bridge.dpm.source import Source
from dome_bridge.errors import BridgeError, CutoverError, StateError
from dome_bridge.exporter import capture, cutover_plan, fence
from dome_bridge.exporter.cutover_plan import Gate, Readings, State, Step, Thresholds
from dome_bridge.exporter.follow import Follower
from dome_bridge.exporter.journal import Journal
from dome_bridge.exporter.mirror import Mirror
from dome_bridge.exporter.session import Session, admin_source, open_session
from dome_bridge.exporter.small_tables import ALL_SMALL_TABLES, copy_small_tables, moved_servers
from dome_bridge.exporter.verify import Verifier, last_verify
from dome_bridge.statements import load

logger = logging.getLogger(__name__)

_SQL = load("dome_bridge.chimera", "cutover.sql")

RECENT_SECONDS = 900
"""A replica that became available so shortly before, of a file of size 0, was perhaps cut by the fence."""

NEWEST = 10_000
"""Entries with the highest fileids that are compared once more behind the fence."""

POLL_SECONDS = 0.1
SAY_SECONDS = 5.0
RETURN_SECONDS = 120.0
"""How long the way back is tried while a database is away."""

RETURN_PAUSE = 1.0
FAILURES = (BridgeError, *target.DRIVER_ERRORS)


@dataclass
class CutoverReport:
    """fence_seconds: from the attempt to raise the fence to the commit, or to its lifting."""

    state: State
    reason: str = ""
    fence_seconds: float = 0.0
    steps: list[tuple[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Clock:
    """Time as the cutover sees it; injected in tests."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


async def gates(session: Session, admin: Source) -> tuple[Gate, ...]:
    """Reads everything the gates judge; changes nothing but a probe table of ours in DPM's database."""
    settings = session.config.exporter
    progress = await state.progress(session.conn)
    verified = await last_verify(session.conn)
    readings = Readings(
        snapshot_complete=progress.snapshot_finished is not None,
        lag=await _lag(session, progress.heartbeat_at),
        backlog=await Journal(session.source).backlog(),
        verify_age=None if verified is None else verified.age_seconds,
        verify_mismatches=0 if verified is None else verified.mismatches,
        trash=await session.conn.fetchval(_SQL["trash"]),
        fence_possible=await _why_no_fence(admin),
        foreign_triggers=await _foreign_triggers(session),
        verify_unsettled=0 if verified is None else verified.unsettled,
        capture=await _what_is_wrong_with_capture(admin, session),
    )
    return cutover_plan.judge(
        readings, Thresholds(max_lag=settings.max_lag_seconds, verify_max_age=settings.verify_max_age_seconds)
    )


async def _lag(session: Session, heartbeat_at: int | None) -> float | None:
    if heartbeat_at is None:
        return None
    return float(await session.source.fetchval("SELECT UNIX_TIMESTAMP()")) - heartbeat_at


async def _what_is_wrong_with_capture(admin: Source, session: Session) -> str:
    """With the administrator's eyes, who can see all triggers."""
    found = await capture.inspect(admin, session.layout)
    if found.is_current:
        return ""
    broken = ", ".join((*found.missing, *found.outdated)[:5]) or "the journal"
    return (
        f"the change capture is {found.status} ({broken}): changes may have been lost; run "
        "`dome-bridge init`, then `dome-bridge verify --repair`"
    )


async def _why_no_fence(admin: Source) -> str:
    try:
        await fence.prove_fence_possible(admin)
    except BridgeError as exc:
        return str(exc)
    return ""


async def _foreign_triggers(session: Session) -> tuple[str, ...]:
    found = await capture.inspect(session.source, session.layout)
    return tuple(f"{trigger.name} on {trigger.table}" for trigger in found.foreign)


class Cutover:
    """One run of the command; `carry_on` until an end."""

    def __init__(self, session: Session, admin: Source, mirror: Mirror, *, clock: Clock) -> None:
        self._session = session
        self._admin = admin
        self._mirror = mirror
        self._conn = session.conn
        self._clock = clock
        self._id = 0
        self._nonce = ""
        self._state = State.ABORTED
        self._deadline = float("inf")

    async def find_open(self) -> bool:
        """Takes up a cutover that was begun and has not ended."""
        row = await self._conn.fetchrow(_SQL["open"])
        if row is None:
            return False
        self._id, self._nonce, self._state = row["id"], row["nonce"], State(row["state"])
        logger.info("cutover %d is taken up in state=%s", self._id, self._state)
        return True

    async def has_yet_to_fence(self) -> bool:
        if self._state is not State.FENCING:
            return False
        return await fence.fence_state(self._admin, self._session.layout) is not fence.FenceState.STANDING

    async def catch_up(self) -> None:
        """Without a daemon nobody follows: then the journal is drained here, heartbeat included."""
        if (await state.progress(self._conn)).snapshot_finished is None:
            return
        if await target.try_applier_lock(self._mirror.conn):
            try:
                await Journal(self._session.source).write_heartbeat()
                await Follower(self._mirror, batch=self._session.config.exporter.batch).drain()
            finally:
                await target.release_applier_lock(self._mirror.conn)

    async def begin(self, judged: tuple[Gate, ...]) -> None:
        """Records the intent; nothing stands yet."""
        self._nonce = secrets.token_hex(16)
        record = json.dumps([gate._asdict() for gate in judged])
        self._id = await self._conn.fetchval(_SQL["begin"], State.FENCING.value, self._nonce, record)
        self._state = State.FENCING

    async def carry_on(self, max_fence_seconds: float) -> CutoverReport:
        """To an end. Raises CutoverError if a step fails or the fence stands too long: it must be given up.

        These connections may then be gone, or cut in the middle of a statement.
        """
        self._deadline = self._clock.monotonic() + max_fence_seconds
        try:
            async with asyncio.timeout(max_fence_seconds) as limit:
                await self._to_end()
            return await self.report()
        except FAILURES as exc:
            late = f"not done within {max_fence_seconds:.0f} s ([exporter] max_fence_seconds)"
            raise CutoverError(
                f"{self._waiting_for()}: {late if limit.expired() else exc or type(exc).__name__}"
            ) from exc
        except asyncio.CancelledError:
            logger.error(
                "interrupted in state=%s, the fence may stand: run `dome-bridge cutover` to go on, "
                "or `dome-bridge cutover --abort` to go back",
                self._state,
            )
            raise

    async def give_up(self, reason: str) -> CutoverReport:
        """Lifts the fence and returns to following."""
        logger.error("cutover %d is given up: %s", self._id, reason)
        if self._state is not State.ABORTING:
            await self._enter(cutover_plan.give_up(self._state), reason)
        await self._to_end()
        return await self.report()

    async def report(self) -> CutoverReport:
        row = await self._conn.fetchrow(_SQL["last"])
        steps = [(step["name"], step["seconds"]) for step in await self._conn.fetch(_SQL["steps"], row["id"])]
        return CutoverReport(State(row["state"]), row["reason"], row["fence_seconds"] or 0.0, steps)

    def _waiting_for(self) -> str:
        move = cutover_plan.move(self._state)
        return move.step.value if move else self._state.value

    async def _to_end(self) -> None:
        while (move := cutover_plan.move(self._state)) is not None:
            begun = self._clock.monotonic()
            logger.info("cutover step=%s", move.step)
            detail = await self._do(move.step)
            seconds = self._clock.monotonic() - begun
            await self._conn.execute(_SQL["step"], self._id, move.step.value, seconds, detail)
            logger.info("cutover step=%s done seconds=%.2f %s", move.step, seconds, detail)
            if move.after is not State.COMMITTED:
                await self._enter(move.after)
            self._state = move.after

    async def _enter(self, to: State, reason: str = "") -> None:
        """Writes the state, and the phase that it means, in one transaction."""
        phase = {State.FENCED: Phase.FENCED, State.COMMITTED: Phase.COMMITTED, State.ABORTED: Phase.FOLLOWING}
        async with self._conn.transaction():
            await self._conn.execute(_SQL["set_state"], self._id, to.value, reason)
            if to in phase:
                await state.set_phase(self._conn, phase[to])
        self._state = to

    async def _do(self, step: Step) -> str:
        match step:
            case Step.RAISE_FENCE:
                return await self._raise_fence()
            case Step.DRAIN:
                return await self._drain()
            case Step.RECHECK:
                return await self._recheck()
            case Step.COMMIT:
                return await self._commit()
            case Step.LIFT_FENCE:
                return await self._lift_fence()
        raise ValueError(f"no way to do {step}")

    async def _raise_fence(self) -> str:
        remaining = self._deadline - self._clock.monotonic()
        lock_wait = max(1, round(min(self._session.config.exporter.lock_wait_seconds, remaining / 3)))
        await self._conn.execute(_SQL["fence_attempted"], self._id)
        await fence.raise_fence(
            self._admin,
            self._session.layout,
            # It gives up by itself before our own limit, and then says who was in the way.
            deadline_seconds=max(1.0, remaining - 2 * lock_wait),
            lock_wait_seconds=lock_wait,
            sleep=self._clock.sleep,
            clock=self._clock.monotonic,
        )
        return "DPM is read-only"

    async def _drain(self) -> str:
        """The marker is written behind the fence: when it is applied, so is everything before it."""
        journal = Journal(self._session.source)
        await journal.write_marker(self._nonce.encode())
        follower = Follower(self._mirror, batch=self._session.config.exporter.batch)
        said = self._clock.monotonic()
        while not await self._is_drained(journal):
            if await target.try_applier_lock(self._mirror.conn):
                await follower.drain()
            else:
                await self._clock.sleep(POLL_SECONDS)
            if self._clock.monotonic() - said >= SAY_SECONDS:
                said = self._clock.monotonic()
                logger.info("waiting for the journal to drain backlog=%d", await journal.backlog())
        return "the marker was applied and the journal is empty"

    async def _is_drained(self, journal: Journal) -> bool:
        progress = await state.progress(self._conn)
        return progress.marker == self._nonce and await journal.backlog(limit=1) == 0

    async def _recheck(self) -> str:
        await fence_must_stand(self._admin, self._session)
        if wrong := await _what_is_wrong_with_capture(self._admin, self._session):
            raise CutoverError(wrong)
        await self._recheck_small_tables()
        newest = await read.newest_fileids(self._session.source, NEWEST)
        verifier = Verifier(
            self._mirror,
            range_entries=self._session.config.exporter.snapshot_range,
            settle=lambda: self._clock.sleep(POLL_SECONDS),
            clock=self._clock.monotonic,
            sleep=self._clock.sleep,
        )
        mismatches, unsettled = await verifier.check_ids(newest)
        if unsettled:
            raise CutoverError(
                f"{len(unsettled)} of the newest entries could not be compared (fileid {min(unsettled)}): "
                "changes of them wait although the journal was drained"
            )
        if mismatches:
            first = mismatches[0]
            raise CutoverError(
                f"{len(mismatches)} of the {len(newest)} newest entries differ (fileid {first.fileid}: "
                f"{first.detail}): run `dome-bridge verify --repair` and look for the cause"
            )
        await self._compare_counts()
        cut = await read.empty_uploads(self._session.source, newest, RECENT_SECONDS)
        if cut:
            logger.warning("the fence may have cut these uploads, their size is 0: fileids=%s", cut)
        uploads = f"; size 0, perhaps cut uploads: fileids {cut}" if cut else ""
        return f"{len(newest)} newest entries agree{uploads}"

    async def _recheck_small_tables(self) -> None:
        async with self._conn.transaction():
            await copy_small_tables(self._session.source, self._session.layout, self._conn, ALL_SMALL_TABLES)
        if moved := await moved_servers(self._conn):
            names = b", ".join(moved).decode("utf-8", "replace")
            raise CutoverError(
                f"file systems on {names} changed without a journal row: abort, and run `dome-bridge verify`"
            )

    async def _compare_counts(self) -> None:
        entries = await read.count_entries(self._session.source)
        counts = await state.agreement(self._conn, self._session.site)
        if entries != counts.mirrored + counts.quarantined:
            raise CutoverError(
                f"DPM has {entries} entries, Chimera {counts.mirrored} and the quarantine "
                f"{counts.quarantined}: run `dome-bridge verify --repair` and look for the cause"
            )

    async def _commit(self) -> str:
        """With the gate held alone: the daemon's next batch finds the site committed."""
        async with target.closed_gate(self._conn):
            await fence_must_stand(self._admin, self._session)
            if not await self._is_drained(Journal(self._session.source)):
                raise CutoverError("the journal is not empty behind the fence: something still writes to DPM")
            if trash := await self._conn.fetchval(_SQL["trash"]):
                raise CutoverError(f"{trash} rows of t_locationinfo_trash: dCache's cleaner runs, stop it")
            async with self._conn.transaction():
                await self._conn.execute(await self._sequences())
                await self._enter(State.COMMITTED)
        return "Chimera belongs to dCache"

    async def _sequences(self) -> str:
        names = {
            "{inumber_sequence}": ("t_inodes", "inumber"),
            "{itagid_sequence}": ("t_tags_inodes", "itagid"),
        }
        statement = _SQL["finish_sequences"]
        for placeholder, column in names.items():
            name = await self._conn.fetchval("SELECT pg_get_serial_sequence($1, $2)", *column)
            statement = statement.replace(placeholder, name)
        return statement

    async def lift_stray_fence(self) -> CutoverReport:
        """A fence without a record, as a damaged or foreign state leaves it."""
        await self._lift_fence()
        return CutoverReport(State.ABORTED, "there was no cutover under way")

    async def _lift_fence(self) -> str:
        await fence.lift_fence(self._admin, sleep=self._clock.sleep, clock=self._clock.monotonic)
        return "DPM takes writes again"


async def fence_must_stand(admin: Source, session: Session) -> None:
    found = await fence.fence_state(admin, session.layout)
    if found is not fence.FenceState.STANDING:
        raise CutoverError(
            f"the fence is {found} although it was raised: somebody dropped its triggers; "
            "abort with `dome-bridge cutover --abort` and find out who"
        )


Confirm = Callable[[tuple[Gate, ...]], Awaitable[bool]]


@asynccontextmanager
async def _opened(config: Config, clock: Clock) -> AsyncIterator[tuple[Session, Source, Cutover]]:
    """Alone: an abort beside a commit could give the catalog to both sides."""
    async with open_session(config) as session, admin_source(config) as admin, session.mirror() as mirror:
        if not await session.conn.fetchval(_SQL["lock"], target.LOCKS, target.CUTOVER):
            raise StateError(
                "another `dome-bridge cutover` is at work on this site: let it end, or interrupt it first"
            )
        yield session, admin, Cutover(session, admin, mirror, clock=clock)


async def cut_over(config: Config, *, confirm: Confirm, clock: Clock | None = None) -> CutoverReport:
    """The whole command. `confirm` sees the gates and may decline: then nothing happened."""
    clock = clock or Clock()
    async with _opened(config, clock) as (session, admin, cutover):
        await _refuse_committed(session, "the cutover is committed already")
        if not await cutover.find_open():
            await cutover.catch_up()
            await cutover.begin(await _pass_gates(session, admin, confirm))
        elif await cutover.has_yet_to_fence():
            # Killed before the fence stood, perhaps long ago: what was judged then says nothing now.
            await cutover.catch_up()
            await _pass_gates(session, admin, confirm)
        try:
            return await cutover.carry_on(config.exporter.max_fence_seconds)
        except CutoverError as exc:
            reason = str(exc)
    return await _go_back(config, reason, clock)


async def _refuse_committed(session: Session, message: str) -> None:
    if (await state.progress(session.conn)).phase is Phase.COMMITTED:
        raise StateError(message)


async def _pass_gates(session: Session, admin: Source, confirm: Confirm) -> tuple[Gate, ...]:
    judged = await gates(session, admin)
    refused = [gate for gate in judged if not gate.ok]
    if refused:
        reasons = "; ".join(f"{gate.id}: {gate.message}" for gate in refused)
        raise CutoverError(f"the cutover was not begun: {reasons}")
    if not await confirm(judged):
        raise CutoverError("the cutover was not confirmed; nothing was done")
    return judged


async def _go_back(config: Config, reason: str, clock: Clock) -> CutoverReport:
    """Gives the cutover up on new connections, waiting for databases that are away."""
    latest = clock.monotonic() + RETURN_SECONDS
    while True:
        try:
            async with _opened(config, clock) as (_, _, cutover):
                # Not open any more: the commit went through, and only its answer was lost.
                return await cutover.give_up(reason) if await cutover.find_open() else await cutover.report()
        except FAILURES as exc:
            logger.warning("the way back is blocked error=%s", exc)
            if clock.monotonic() >= latest:
                raise CutoverError(
                    f"{reason}; the way back failed, too ({exc}), and the fence may stand: run "
                    "`dome-bridge cutover --abort` as soon as both databases answer"
                ) from exc
        await clock.sleep(RETURN_PAUSE)


async def abort(config: Config, *, clock: Clock | None = None) -> CutoverReport:
    """Undoes a cutover that has not committed; lifts a fence that stands without a record, too."""
    async with _opened(config, clock or Clock()) as (session, _, cutover):
        await _refuse_committed(session, "the cutover is committed: it cannot be aborted any more")
        if await cutover.find_open():
            return await cutover.give_up("aborted by the administrator")
        return await cutover.lift_stray_fence()
