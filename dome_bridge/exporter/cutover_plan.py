"""The cutover as a state machine, without I/O.

    (none) --begin--> fencing --fence_stands--> fenced --drained--> drained
      --rechecked--> checked --committed--> committed
    fencing, fenced, drained, checked --give_up--> aborting --fence_lifted--> aborted

Invariants:
- A state is recorded before what it announces is done: `fencing` before the first fence
  trigger, `aborting` before the first is dropped. So whoever finds the record knows what
  may stand.
- DPM can take writes in every state but `fencing` to `checked` and `committed`; dCache may
  start only in `committed`. Both never take writes at once.
- From every state there is a way on (`move`), and up to `checked` a way back (`give_up`).
- `committed` and `aborted` are ends: a new cutover is a new record.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class State(enum.StrEnum):
    FENCING = "fencing"
    FENCED = "fenced"
    DRAINED = "drained"
    CHECKED = "checked"
    COMMITTED = "committed"
    ABORTING = "aborting"
    ABORTED = "aborted"


class Step(enum.StrEnum):
    """What is done in a state; each may be repeated after a kill."""

    RAISE_FENCE = "raise-fence"
    DRAIN = "drain"
    RECHECK = "recheck"
    COMMIT = "commit"
    LIFT_FENCE = "lift-fence"


class Move(NamedTuple):
    """The step of a state, and the state after it went well."""

    step: Step
    after: State


MOVES: Mapping[State, Move] = MappingProxyType(
    {
        State.FENCING: Move(Step.RAISE_FENCE, State.FENCED),
        State.FENCED: Move(Step.DRAIN, State.DRAINED),
        State.DRAINED: Move(Step.RECHECK, State.CHECKED),
        State.CHECKED: Move(Step.COMMIT, State.COMMITTED),
        State.ABORTING: Move(Step.LIFT_FENCE, State.ABORTED),
    }
)

ENDS = frozenset({State.COMMITTED, State.ABORTED})
FENCE_MAY_STAND = frozenset(State) - {State.ABORTED}
DCACHE_MAY_START = frozenset({State.COMMITTED})


def move(state: State) -> Move | None:
    """What to do next; None at the ends."""
    return MOVES.get(state)


def may_give_up(state: State) -> bool:
    return state not in ENDS


def give_up(state: State) -> State:
    """The state after deciding to go back. ValueError at the ends."""
    if not may_give_up(state):
        raise ValueError(f"a cutover that is {state} cannot be given up")
    return State.ABORTING


class Gate(NamedTuple):
    """A condition of the cutover. message: value, threshold, and what to do when it does not hold."""

    id: str
    ok: bool
    message: str


class Readings(NamedTuple):
    """What the gates judge. Seconds; None where nothing was measured yet."""

    snapshot_complete: bool
    lag: float | None
    backlog: int
    verify_age: float | None
    verify_mismatches: int
    trash: int
    fence_possible: str
    """Empty, or why the fence cannot be raised"""
    foreign_triggers: tuple[str, ...]
    verify_unsettled: int = 0
    capture: str = ""
    """Empty, or what is wrong with the triggers that journal changes"""


class Thresholds(NamedTuple):
    """Seconds."""

    max_lag: float
    verify_max_age: float


def judge(readings: Readings, limits: Thresholds) -> tuple[Gate, ...]:
    """All gates, in the order in which they are shown."""
    return (
        Gate(
            "snapshot-complete",
            readings.snapshot_complete,
            "the first copy is complete"
            if readings.snapshot_complete
            else "the first copy is not complete: let `dome-bridge run` or `sync --once` finish it",
        ),
        _lag(readings, limits),
        _verify(readings, limits),
        Gate(
            "capture-current",
            not readings.capture,
            readings.capture or "all changes of the catalog are journalled",
        ),
        Gate(
            "trash-empty",
            readings.trash == 0,
            f"{readings.trash} rows of t_locationinfo_trash"
            + ("" if readings.trash == 0 else ": let dCache's cleaner finish, or remove these rows"),
        ),
        Gate(
            "fence-possible",
            not readings.fence_possible,
            readings.fence_possible or "the fence can be raised and lifted",
        ),
        Gate(
            "no-foreign-triggers",
            not readings.foreign_triggers,
            "no triggers of others on the catalog"
            if not readings.foreign_triggers
            else f"triggers of others on the catalog: {', '.join(readings.foreign_triggers)}; drop them",
        ),
    )


def _lag(readings: Readings, limits: Thresholds) -> Gate:
    if readings.lag is None:
        return Gate("lag", False, "no heartbeat was applied yet: is `dome-bridge run` running?")
    ok = readings.lag <= limits.max_lag
    remedy = "" if ok else ": wait until the mirror has caught up, or look at `dome-bridge status`"
    message = f"lag {readings.lag:.1f} s, at most {limits.max_lag:.0f} s; backlog {readings.backlog}"
    return Gate("lag", ok, message + remedy)


def _verify(readings: Readings, limits: Thresholds) -> Gate:
    if readings.verify_age is None:
        return Gate("verify-clean", False, "there was no verify yet: run `dome-bridge verify`")
    ok = (
        readings.verify_mismatches == 0
        and readings.verify_unsettled == 0
        and readings.verify_age <= limits.verify_max_age
    )
    remedy = "" if ok else ": run `dome-bridge verify --repair`, then `dome-bridge verify`"
    message = (
        f"the last verify left {readings.verify_mismatches} mismatches, could not judge "
        f"{readings.verify_unsettled}, and ended {readings.verify_age:.0f} s ago, "
        f"at most {limits.verify_max_age:.0f} s"
    )
    return Gate("verify-clean", ok, message + remedy)
