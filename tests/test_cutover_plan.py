"""The cutover's state machine: whatever happens, there is a way on, and never are there two masters."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dome_bridge.exporter.cutover_plan import (
    DCACHE_MAY_START,
    ENDS,
    FENCE_MAY_STAND,
    MOVES,
    Gate,
    Readings,
    State,
    Step,
    Thresholds,
    give_up,
    judge,
    may_give_up,
    move,
)

GOOD = Readings(
    snapshot_complete=True,
    lag=0.5,
    backlog=3,
    verify_age=60.0,
    verify_mismatches=0,
    trash=0,
    fence_possible="",
    foreign_triggers=(),
)
LIMITS = Thresholds(max_lag=30, verify_max_age=3600)
REQUIRED_ORDER = [Step.RAISE_FENCE, Step.DRAIN, Step.RECHECK, Step.COMMIT]
FENCE_PARTS = 3


class Migration(RuleBasedStateMachine):
    """A program that follows the plan, dies at any moment, and finds nothing but the record again.

    `recorded` is what the database knows, `fence` how many parts of the fence stand, `passed` the
    steps that were done since the fence was begun.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recorded: State | None = None
        self.running: State | None = None
        self.fence = 0
        self.passed: list[Step] = []

    def is_under_way(self) -> bool:
        return self.recorded is not None and self.recorded not in ENDS

    @precondition(lambda self: not self.is_under_way() and self.recorded is not State.COMMITTED)
    @rule()
    def begin(self) -> None:
        self.recorded = self.running = State.FENCING
        self.passed = []

    @precondition(lambda self: self.is_under_way() and self.running is None)
    @rule()
    def take_up(self) -> None:
        self.running = self.recorded

    @precondition(lambda self: self.running is not None)
    @rule()
    def step_goes_well(self) -> None:
        assert self.running is not None
        taken = move(self.running)
        assert taken is not None
        self.passed.append(taken.step)
        self.fence = {Step.RAISE_FENCE: FENCE_PARTS, Step.LIFT_FENCE: 0}.get(taken.step, self.fence)
        self._enter(taken.after)

    @precondition(lambda self: self.running is not None)
    @rule(parts=st.integers(0, FENCE_PARTS), dies=st.booleans())
    def step_is_left_half_done(self, parts: int, dies: bool) -> None:
        """Fence steps leave any part of it; a failure decides to go back, a kill decides nothing."""
        assert self.running is not None
        taken = move(self.running)
        assert taken is not None
        if taken.step in (Step.RAISE_FENCE, Step.LIFT_FENCE):
            self.fence = parts
        if dies:
            self.running = None
        elif self.running is not State.ABORTING:
            self._enter(give_up(self.running))

    @precondition(lambda self: self.running is not None)
    @rule()
    def is_killed_between_steps(self) -> None:
        self.running = None

    @precondition(lambda self: self.is_under_way())
    @rule()
    def administrator_aborts(self) -> None:
        assert self.recorded is not None
        self._enter(give_up(self.recorded))

    @precondition(lambda self: self.recorded is State.COMMITTED)
    @rule()
    def commit_is_tried_to_be_undone(self) -> None:
        with pytest.raises(ValueError, match="cannot be given up"):
            give_up(State.COMMITTED)

    def _enter(self, state: State) -> None:
        self.recorded = state
        self.running = None if state in ENDS else state

    @invariant()
    def record_tells_that_a_fence_may_stand(self) -> None:
        if self.fence:
            assert self.recorded in FENCE_MAY_STAND

    @invariant()
    def only_one_side_takes_writes(self) -> None:
        dpm_writes, dcache_writes = self.fence == 0, self.recorded in DCACHE_MAY_START
        assert not (dpm_writes and dcache_writes)

    @invariant()
    def aborted_means_that_dpm_can_go_on(self) -> None:
        if self.recorded is State.ABORTED:
            assert self.fence == 0

    @invariant()
    def committed_means_that_every_step_was_done_in_order(self) -> None:
        if self.recorded is State.COMMITTED:
            assert self.passed == REQUIRED_ORDER
            assert self.fence == FENCE_PARTS

    @invariant()
    def there_is_a_way_to_an_end(self) -> None:
        if not self.is_under_way():
            return
        assert self.recorded is not None
        assert may_give_up(self.recorded)
        assert walk(self.recorded) in ENDS
        assert walk(give_up(self.recorded)) is State.ABORTED


def walk(state: State) -> State:
    """Where a run without failures ends."""
    for _ in State:
        taken = move(state)
        if taken is None:
            break
        state = taken.after
    return state


TestMigration = Migration.TestCase
TestMigration.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("state", sorted(ENDS))
def test_end_has_no_way_on_and_none_back(state: State) -> None:
    assert move(state) is None
    assert not may_give_up(state)
    with pytest.raises(ValueError, match="cannot be given up"):
        give_up(state)


def test_every_other_state_has_a_step_of_its_own() -> None:
    assert set(MOVES) == set(State) - ENDS
    assert len({taken.step for taken in MOVES.values()}) == len(MOVES)


def test_given_up_twice_stays_aborting() -> None:
    assert give_up(give_up(State.FENCED)) is State.ABORTING


def test_good_readings_pass_every_gate() -> None:
    assert [gate for gate in judge(GOOD, LIMITS) if not gate.ok] == []


@pytest.mark.parametrize(
    ("change", "gate", "part"),
    [
        ({"snapshot_complete": False}, "snapshot-complete", "sync --once"),
        ({"lag": None}, "lag", "dome-bridge run"),
        ({"lag": 30.1}, "lag", "30.1 s, at most 30 s"),
        ({"verify_age": None}, "verify-clean", "dome-bridge verify"),
        ({"verify_age": 3601.0}, "verify-clean", "3601 s ago, at most 3600 s"),
        ({"verify_mismatches": 2}, "verify-clean", "2 mismatches"),
        ({"trash": 1}, "trash-empty", "remove these rows"),
        ({"fence_possible": "GRANT this"}, "fence-possible", "GRANT this"),
        ({"foreign_triggers": ("audit on t",)}, "no-foreign-triggers", "audit on t"),
    ],
)
def test_single_bad_reading_fails_its_gate_alone(change: dict[str, object], gate: str, part: str) -> None:
    refused = [found for found in judge(GOOD._replace(**change), LIMITS) if not found.ok]  # type: ignore[arg-type]
    assert [found.id for found in refused] == [gate]
    assert part in refused[0].message


def test_lag_and_verify_at_their_limits_pass() -> None:
    readings = GOOD._replace(lag=30.0, verify_age=3600.0)
    assert all(gate.ok for gate in judge(readings, LIMITS))


def test_gates_are_shown_in_a_fixed_order() -> None:
    names = [Gate(*gate).id for gate in judge(GOOD, LIMITS)]
    assert names == [
        "snapshot-complete",
        "lag",
        "verify-clean",
        "capture-current",
        "trash-empty",
        "fence-possible",
        "no-foreign-triggers",
    ]
