"""The cutover's state machine: whatever happens, there is a way on, and never are there two masters."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dome_bridge.chimera.state import Phase
from dome_bridge.exporter.cutover_plan import (
    DCACHE_MAY_WRITE,
    ENDS,
    FENCE_MAY_STAND,
    FENCE_STANDS,
    FORWARD,
    MOVES,
    PHASES,
    STEPS,
    Event,
    ForbiddenError,
    State,
    Step,
    after,
    may,
    move,
    number,
)

PARTS = 3
"""Of the fence: each trigger is one, and any of them may stand."""


class Migration(RuleBasedStateMachine):
    """Programs that follow the plan, die at any moment, and find nothing but the record again.

    `recorded`, `phase`: what the Chimera database has. `fence`: how many parts stand in DPM's.
    `is_open`: whether it lets uploads end. `passed`: steps that are behind this attempt. `at_work`: whether
    a program is there that goes on by itself. `has_written`: whether dCache has taken a write.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recorded: State | None = None
        self.phase = Phase.FOLLOWING
        self.at_work = False
        self.fence = 0
        self.is_open = False
        self.passed: list[Step] = []
        self.has_written = False

    def is_under_way(self) -> bool:
        return self.recorded is not None and self.recorded not in ENDS

    @property
    def state(self) -> State:
        assert self.recorded is not None
        return self.recorded

    def _record(self, to: State) -> None:
        self.recorded = to
        self.phase = PHASES.get(to, self.phase)
        self.at_work = self.at_work and to not in ENDS

    def _effect(self, step: Step) -> None:
        if step is Step.RAISE_FENCE:
            self.fence, self.is_open = PARTS, True
        if step is Step.SHUT_FENCE:
            self.fence, self.is_open = PARTS, False
        if step in (Step.LIFT_FENCE, Step.GIVE_BACK):
            self.fence = 0

    @precondition(lambda self: not self.is_under_way() and self.recorded is not State.COMMITTED)
    @rule()
    def begin(self) -> None:
        self.passed, self.at_work = [], True
        self._record(State.PREPARING)

    @precondition(lambda self: self.is_under_way() and not self.at_work)
    @rule()
    def run_again(self) -> None:
        self.at_work = True

    @precondition(lambda self: self.at_work)
    @rule()
    def step_goes_well(self) -> None:
        step = MOVES[self.state].step
        self._effect(step)
        self.passed.append(step)
        self._record(after(self.state, Event.DONE))

    @precondition(lambda self: self.at_work)
    @rule()
    def killed_between_effect_and_record(self) -> None:
        """Also: the answer to the record's transaction was lost, and it was not committed."""
        self._effect(MOVES[self.state].step)
        self._killed()

    @precondition(lambda self: self.at_work)
    @rule()
    def killed_behind_the_record(self) -> None:
        """The transaction was committed, its answer never came."""
        self.step_goes_well()
        self.at_work = False

    @precondition(lambda self: self.at_work)
    @rule(parts=st.integers(0, PARTS), dies=st.booleans())
    def step_is_left_half_done(self, parts: int, dies: bool) -> None:
        """A fence step leaves any part of it; a failure decides to go back, a kill decides nothing."""
        step = MOVES[self.state].step
        if step is Step.RAISE_FENCE:
            self.fence = max(self.fence, parts)
        elif step in (Step.LIFT_FENCE, Step.GIVE_BACK):
            self.fence = min(self.fence, parts)
        elif step is Step.SHUT_FENCE and parts == 0:
            # It replaces one trigger after the other: one may be missing.
            self.fence = PARTS - 1
        self._killed() if dies else self._failed()

    @precondition(lambda self: self.at_work)
    @rule()
    def killed_between_steps(self) -> None:
        self._killed()

    def _killed(self) -> None:
        assert after(self.state, Event.KILLED) is self.state
        self.at_work = False

    def _failed(self) -> None:
        self._record(after(self.state, Event.FAILED))

    @precondition(lambda self: self.is_under_way() and self.recorded is not State.RETURNING)
    @rule()
    def administrator_aborts(self) -> None:
        self._record(after(self.state, Event.ABORT))
        self.at_work = True

    @precondition(lambda self: self.recorded is State.COMMITTED and not self.has_written)
    @rule()
    def administrator_rolls_back(self) -> None:
        self._record(after(self.state, Event.ROLL_BACK))
        self.at_work = True

    @precondition(lambda self: self.recorded in DCACHE_MAY_WRITE)
    @rule()
    def dcache_writes(self) -> None:
        self.has_written = True

    @precondition(lambda self: self.recorded is not None)
    @rule(event=st.sampled_from(Event))
    def event_that_has_no_place_changes_nothing(self, event: Event) -> None:
        if not may(self.state, event):
            with pytest.raises(ForbiddenError):
                after(self.state, event)

    @invariant()
    def record_tells_that_a_fence_may_stand(self) -> None:
        if self.fence:
            assert self.recorded in FENCE_MAY_STAND

    @invariant()
    def record_does_not_claim_a_fence_that_has_a_hole(self) -> None:
        if self.recorded in FENCE_STANDS:
            assert self.fence == PARTS
            assert not self.is_open

    @invariant()
    def only_one_side_takes_writes(self) -> None:
        dpm_writes = self.fence < PARTS or self.is_open
        assert not (dpm_writes and self.recorded in DCACHE_MAY_WRITE)

    @invariant()
    def dpm_has_its_catalog_back_at_every_other_end(self) -> None:
        if self.recorded in (State.ABORTED, State.RETURNED):
            assert self.fence == 0
            assert self.phase is Phase.FOLLOWING

    @invariant()
    def what_dcache_has_written_is_never_given_up(self) -> None:
        if self.has_written:
            assert self.recorded is State.COMMITTED

    @invariant()
    def committed_means_that_every_step_was_done_in_order(self) -> None:
        if self.recorded is State.COMMITTED:
            assert self.passed == list(STEPS)
            assert self.phase is Phase.COMMITTED

    @invariant()
    def both_refuse_only_while_there_is_a_way_to_an_end(self) -> None:
        if not self.is_under_way():
            return
        assert walk(self.state) in ENDS
        if self.state is not State.RETURNING:
            assert walk(after(self.state, Event.ABORT)) is State.ABORTED

    @invariant()
    def fence_that_may_stand_is_seen_in_the_phase(self) -> None:
        """Monitoring is alarmed by it."""
        if self.fence:
            assert self.phase in (Phase.FENCED, Phase.COMMITTED, Phase.ROLLED_BACK)


def walk(state: State) -> State:
    """Where a run without failures ends."""
    for _ in State:
        taken = move(state)
        if taken is None:
            break
        state = taken.after
    return state


TestMigration = Migration.TestCase
TestMigration.settings = settings(max_examples=250, stateful_step_count=50, deadline=None)


@pytest.mark.parametrize("state", sorted(ENDS))
def test_end_has_no_way_on_and_no_failure(state: State) -> None:
    assert move(state) is None
    for event in (Event.DONE, Event.FAILED, Event.ABORT):
        with pytest.raises(ForbiddenError, match=event.name):
            after(state, event)


@pytest.mark.parametrize("state", sorted(set(State) - {State.COMMITTED, State.RETURNING}))
def test_only_what_was_committed_can_be_rolled_back(state: State) -> None:
    assert not may(state, Event.ROLL_BACK)


def test_rollback_that_was_begun_cannot_be_aborted() -> None:
    assert not may(State.RETURNING, Event.ABORT)
    assert after(State.RETURNING, Event.FAILED) is State.RETURNING
    assert after(State.RETURNING, Event.ROLL_BACK) is State.RETURNING


@pytest.mark.parametrize("state", sorted(FORWARD))
def test_failure_and_abort_lead_back_from_every_step(state: State) -> None:
    assert after(state, Event.FAILED) is after(state, Event.ABORT) is State.ABORTING
    assert walk(state) is State.COMMITTED


def test_kill_changes_nothing() -> None:
    assert [after(state, Event.KILLED) for state in State] == list(State)


def test_every_state_but_the_ends_has_a_step_of_its_own() -> None:
    assert set(MOVES) == set(State) - ENDS
    assert len({taken.step for taken in MOVES.values()}) == len(MOVES)


def test_steps_are_numbered_from_one_and_ways_back_are_not() -> None:
    assert [number(step) for step in STEPS] == list(range(1, len(STEPS) + 1))
    assert number(Step.LIFT_FENCE) == number(Step.GIVE_BACK) == 0


def test_marker_is_written_where_nobody_can_write_any_more() -> None:
    """A position taken before the last writer was blocked loses what he writes (Vitess 16563)."""
    drained = next(state for state, taken in MOVES.items() if taken.step is Step.DRAIN)
    assert drained in FENCE_STANDS
