"""Carries a cutover out, to its commit or back. `cutover_plan` decides, `cutover_steps` does.

Whatever fails, or takes longer than the fence may stand, leads back: the fence is lifted and DPM
goes on as if nothing had happened. Running it again continues a cutover that was killed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase
from dome_bridge.config import Config
from dome_bridge.dpm.source import Source
from dome_bridge.errors import BridgeError, ConfigError, CutoverError, StateError
from dome_bridge.exporter import artifacts, cutover_plan, fence, gate_readings, gates
from dome_bridge.exporter.cutover_plan import Event, State, Step
from dome_bridge.exporter.cutover_record import CutoverReport, Record, last_report
from dome_bridge.exporter.cutover_steps import Clock, Decide, Options, Say, Steps
from dome_bridge.exporter.gates import Gate, Limits
from dome_bridge.exporter.session import Session, admin_source, open_session
from dome_bridge.statements import load

logger = logging.getLogger(__name__)

_SQL = load("dome_bridge.chimera", "cutover.sql")

RETURN_SECONDS = 120.0
"""How long the way back is tried while a database is away."""

RETURN_PAUSE = 1.0
ALONE_SECONDS = 3.0
"""How long the end of another such command is waited for: servers notice late that a client was killed."""

FAILURES = (BridgeError, *target.DRIVER_ERRORS)


class NotAloneError(StateError):
    """Another command has the locks."""


Confirm = Callable[[tuple[Gate, ...]], Awaitable[bool]]
"""Shown the gates before anything is done."""


def _log_only(text: str) -> None:
    logger.info("%s", text)


async def _agree(found: str) -> bool:
    return True


@dataclass(frozen=True)
class Terms:
    """How a command is carried out. say: what the administrator is told meanwhile."""

    options: Options = field(default_factory=Options)
    decide: Decide = _agree
    say: Say = _log_only
    clock: Clock = field(default_factory=Clock)

    def limits(self, config: Config) -> Limits:
        configured = gate_readings.limits(config.exporter)
        return replace(configured, max_fence=self.max_fence(config), max_uploads=self.options.max_uploads)

    def max_fence(self, config: Config) -> float:
        return self.options.max_fence_seconds or config.exporter.max_fence_seconds


DEFAULT_TERMS = Terms()


class Cutover:
    """One run of a command; `carry_on` until an end."""

    def __init__(self, session: Session, admin: Source, record: Record, steps: Steps, terms: Terms) -> None:
        self.session = session
        self.admin = admin
        self.record = record
        self.steps = steps
        self._terms = terms
        self._clock = terms.clock

    async def has_yet_to_fence(self) -> bool:
        if self.record.state is State.PREPARING:
            return True
        if self.record.state is not State.FENCING:
            return False
        found = await fence.fence_state(self.admin, self.session.layout)
        return found in (fence.FenceState.ABSENT, fence.FenceState.PARTIAL)

    async def carry_on(self) -> CutoverReport:
        """To an end. Raises CutoverError if a step fails or the fence stands too long: it must be given up.

        These connections may then be gone, or cut in the middle of a statement.
        """
        seconds = self._terms.max_fence(self.session.config)
        late = f"not done within {seconds:.0f} s ([exporter] max_fence_seconds, or --max-fence)"
        limit = asyncio.timeout(None)
        try:
            await self._prepare()
            self.steps.deadline = self._clock.monotonic() + seconds
            limit = asyncio.timeout(seconds)
            async with limit:
                await self._to_end()
            return await self._finished()
        except asyncio.CancelledError:
            logger.error(
                "interrupted in state=%s, the fence may stand: run `dome-bridge cutover` to go on, "
                "or `dome-bridge cutover --abort` to go back",
                self.record.state,
            )
            raise
        except FAILURES as exc:
            reason = late if limit.expired() else str(exc) or type(exc).__name__
            raise CutoverError(f"{self._step_name()}: {reason}") from exc
        except Exception as exc:
            logger.exception("cutover step=%s failed unexpectedly", self._step_name())
            raise CutoverError(f"{self._step_name()}: {type(exc).__name__}: {exc}") from exc

    async def give_up(self, reason: str, event: Event = Event.FAILED) -> CutoverReport:
        """Lifts the fence and returns to following."""
        logger.error("cutover %d is given up: %s", self.record.id, reason)
        self._terms.say(f"going back: {reason}")
        if self.record.state is not State.ABORTING:
            await self.record.enter(event, reason=reason)
        return await self.finish()

    async def finish(self) -> CutoverReport:
        """All steps that are left, as long as they take."""
        await self._to_end()
        return await self._finished()

    async def _finished(self) -> CutoverReport:
        """The report has the last step too; without it the cutover is no less committed."""
        try:
            await self.steps.write_artifacts()
        except FAILURES as exc:
            logger.warning("the report was not written error=%s", exc)
        return await last_report(self.session.conn)

    def _step_name(self) -> str:
        move = cutover_plan.move(self.record.state)
        return move.step.value if move else self.record.state.value

    async def _prepare(self) -> None:
        """As long as it takes: nothing stands yet."""
        if self.record.state is State.PREPARING:
            await self._do(cutover_plan.MOVES[State.PREPARING].step)

    async def _to_end(self) -> None:
        while (move := cutover_plan.move(self.record.state)) is not None:
            await self._do(move.step)

    async def _do(self, step: Step) -> None:
        begun = self._clock.monotonic()
        number = cutover_plan.number(step)
        place = f"step {number} of {len(cutover_plan.STEPS)}, {step}" if number else f"{step}"
        logger.info("cutover %s", place)
        self._terms.say(place)
        if step is Step.COMMIT:
            async with target.closed_gate(self.session.conn):
                await self._do_and_record(step, begun)
        else:
            await self._do_and_record(step, begun)

    async def _do_and_record(self, step: Step, begun: float) -> None:
        outcome = await self.steps.do(step)
        seconds = self._clock.monotonic() - begun
        await self.record.done(step, seconds, outcome.detail, **outcome.found)
        logger.info("cutover step=%s done seconds=%.2f %s", step, seconds, outcome.detail)

    async def lift_stray_fence(self, reason: str) -> CutoverReport:
        """A fence without a record, as a damaged or foreign state leaves it."""
        await self.steps.do(Step.LIFT_FENCE)
        return CutoverReport(State.ABORTED, reason)


@asynccontextmanager
async def opened(config: Config, terms: Terms) -> AsyncIterator[Cutover]:
    """Alone: an abort beside a commit could give the catalog to both sides."""
    async with open_session(config) as session, admin_source(config) as admin, session.mirror() as mirror:
        await _be_alone(session, admin, terms.clock)
        record = Record(session.conn)
        steps = Steps(
            session,
            admin,
            mirror,
            record,
            options=terms.options,
            decide=terms.decide,
            say=terms.say,
            clock=terms.clock,
        )
        yield Cutover(session, admin, record, steps, terms)


async def _be_alone(session: Session, admin: Source, clock: Clock) -> None:
    """In both databases: who has lost one of them must not go on in the other."""
    latest = clock.monotonic() + ALONE_SECONDS
    name = "dome_bridge_" + hashlib.sha256(admin.cns_name.encode()).hexdigest()[:32]
    has_record = has_fence = False
    while not (has_record and has_fence):
        has_record = has_record or await session.conn.fetchval(_SQL["lock"], target.LOCKS, target.CUTOVER)
        has_fence = has_fence or await admin.fetchval("SELECT GET_LOCK(%s, 0)", (name,)) == 1
        if has_record and has_fence:
            return
        if clock.monotonic() >= latest:
            raise NotAloneError(
                "another `dome-bridge cutover` is at work on this site: let it end, or interrupt it first"
            )
        await clock.sleep(0.2)


async def cut_over(config: Config, *, confirm: Confirm, terms: Terms = DEFAULT_TERMS) -> CutoverReport:
    """The whole command. `confirm` sees the gates and may decline: then nothing happened."""
    _refuse_unknown(terms.options)
    async with opened(config, terms) as cutover:
        await _refuse_committed(cutover.session, "the cutover is committed already")
        artifacts.prepare(cutover.steps.artifacts_directory().parent)
        if not await cutover.record.find_open():
            await cutover.steps.catch_up()
            judged = await _pass_gates(cutover, confirm, terms)
            await cutover.record.begin(judged, terms.options.skip_gates)
        elif cutover.record.state is State.RETURNING:
            raise StateError("a rollback is under way: finish it with `dome-bridge rollback`")
        elif await cutover.has_yet_to_fence():
            await _judge_again(cutover, confirm, terms)
        try:
            return await cutover.carry_on()
        except CutoverError as exc:
            reason = str(exc)
    return await _go_back(config, reason, terms)


def _refuse_unknown(options: Options) -> None:
    if names := gates.unknown(options.skip_gates):
        known = ", ".join((*gates.GATES, *gates.FURTHER))
        raise ConfigError(f"--skip-gate: there is no gate {names[0]}; the gates are {known}")


async def _judge_again(cutover: Cutover, confirm: Confirm, terms: Terms) -> None:
    """Killed before the fence stood, perhaps long ago: what was judged then says nothing now."""
    await cutover.steps.catch_up()
    try:
        judged = await _pass_gates(cutover, confirm, terms)
    except CutoverError as exc:
        await cutover.give_up(str(exc))
        raise
    await cutover.record.judged_again(judged, terms.options.skip_gates)


async def _refuse_committed(session: Session, message: str) -> None:
    if (await state.progress(session.conn)).phase is Phase.COMMITTED:
        raise StateError(message)


async def _pass_gates(cutover: Cutover, confirm: Confirm, terms: Terms) -> tuple[Gate, ...]:
    judged = await gate_readings.judged(
        cutover.session,
        cutover.admin,
        terms.limits(cutover.session.config),
        skip=terms.options.skip_gates,
        abandoned_seconds=terms.options.abandoned_seconds,
    )
    judged = await gates.with_further(judged, terms.options.further_gates, skip=terms.options.skip_gates)
    if refused := gates.refused(judged):
        raise CutoverError(f"the cutover was not begun: {gates.reasons(refused)}")
    if not await confirm(judged):
        raise CutoverError("the cutover was not confirmed; nothing was done")
    return judged


async def _go_back(config: Config, reason: str, terms: Terms) -> CutoverReport:
    """Gives the cutover up on new connections, waiting for databases that are away."""
    clock = terms.clock
    latest = clock.monotonic() + RETURN_SECONDS
    while True:
        try:
            async with opened(config, terms) as cutover:
                return await _given_up(cutover, reason)
        except FAILURES as exc:
            logger.warning("the way back is blocked error=%s", exc)
            terms.say(f"the way back is blocked, trying again: {exc}")
            if clock.monotonic() >= latest:
                raise CutoverError(
                    f"{reason}; the way back failed, too ({exc}), and the fence may stand: run "
                    "`dome-bridge cutover --abort` as soon as both databases answer"
                ) from exc
        await clock.sleep(RETURN_PAUSE)


async def _given_up(cutover: Cutover, reason: str) -> CutoverReport:
    if await cutover.record.find_open():
        return await cutover.give_up(reason)
    if (await state.progress(cutover.session.conn)).phase is not Phase.COMMITTED:
        # Somebody has ended it meanwhile, and our fence may have come after that.
        await cutover.lift_stray_fence(reason)
    # Otherwise the commit went through, and only its answer was lost.
    return await last_report(cutover.session.conn)


async def abort(config: Config, *, terms: Terms = DEFAULT_TERMS) -> CutoverReport:
    """Undoes a cutover that has not committed; lifts a fence that stands without a record, too."""
    async with opened(config, terms) as cutover:
        await _refuse_committed(
            cutover.session,
            "the cutover is committed: it cannot be aborted any more; see `dome-bridge rollback`",
        )
        if not await cutover.record.find_open():
            return await cutover.lift_stray_fence("there was no cutover under way")
        if cutover.record.state is State.RETURNING:
            raise StateError("a rollback is under way: finish it with `dome-bridge rollback`")
        return await cutover.give_up("aborted by the administrator", Event.ABORT)


LIFTABLE = cutover_plan.FENCE_MAY_STAND & (cutover_plan.FORWARD | {State.ABORTING})


async def lift_orphaned(config: Config, *, terms: Terms = DEFAULT_TERMS) -> CutoverReport | None:
    """Gives up a cutover that was killed, when its fence has stood longer than it may.

    For the daemon: nobody else may be there to see it. None if there is nothing to do, be it that the
    command is still at work: it has locks in both databases, and a limit of its own.
    """
    if not await _has_overstayed(config, terms):
        return None
    try:
        async with opened(config, terms) as cutover:
            if not await cutover.record.find_open() or cutover.record.state not in LIFTABLE:
                return None
            return await cutover.give_up(
                f"its command is gone, and the fence stood longer than {terms.max_fence(config):.0f} s"
            )
    except NotAloneError:
        return None


async def _has_overstayed(config: Config, terms: Terms) -> bool:
    conn = await target.connect(config.chimera)
    try:
        row = await conn.fetchrow(_SQL["fence_age"])
    finally:
        await target.close(conn)
    return row is not None and State(row["state"]) in LIFTABLE and row["age"] > terms.max_fence(config)
