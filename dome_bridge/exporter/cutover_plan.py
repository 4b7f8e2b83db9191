"""The cutover as a state machine, without I/O.

    (none) ──begin──► preparing ─► fencing ─► fenced ─► shutting ─► quiet ─► drained ─► copied
      ─► compared ─► counted ─► finished ─► written ─► decided ─► committed
    preparing … decided ──failed, abort──► aborting ─► aborted
    committed ──roll back──► returning ─► returned

An arrow without a word is the step of its state, done (`MOVES`). A kill, and a restart, change
nothing: the record alone says where we are, and each step may be done again. A failure or a
time-out leads back; on the way back it leads nowhere else, and is tried again.

Invariants, for what is recorded in the Chimera database and what stands in DPM's:

- The intent is recorded before it is begun, the fact after it is so: `fencing` before the first
  fence trigger is made, `quiet` after the last; `aborting` and `returning` before the first is
  dropped, `aborted` and `returned` after the last. So a fence stands only where the record says
  that it may (`FENCE_MAY_STAND`), and all of it where the record says that it does (`FENCE_STANDS`).
- dCache may write in `committed` alone; DPM takes no write there. So never do both.
- The record and the phase that everybody else looks at change in one transaction (`PHASES`).
- Up to `decided` there is a way back to an open catalog, and in each state that is no end there
  is a step that leads to one. So never are both refused for good.
- From `fenced` to `shutting` DPM lets uploads end that it had granted, and nothing else; what
  they write is journalled. The marker is written in `quiet`: nothing can follow it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from dome_bridge.chimera.state import Phase


class State(enum.StrEnum):
    PREPARING = "preparing"
    FENCING = "fencing"
    FENCED = "fenced"
    SHUTTING = "shutting"
    QUIET = "quiet"
    DRAINED = "drained"
    COPIED = "copied"
    COMPARED = "compared"
    COUNTED = "counted"
    FINISHED = "finished"
    WRITTEN = "written"
    DECIDED = "decided"
    COMMITTED = "committed"
    ABORTING = "aborting"
    ABORTED = "aborted"
    RETURNING = "returning"
    RETURNED = "returned"


class Step(enum.StrEnum):
    """What is done in a state; each may be repeated after a kill."""

    COUNT = "count"
    RAISE_FENCE = "raise-fence"
    AWAIT_UPLOADS = "await-uploads"
    SHUT_FENCE = "shut-fence"
    DRAIN = "drain"
    COPY_SMALL_TABLES = "copy-small-tables"
    RECHECK = "recheck"
    RECOUNT = "recount"
    FINISH_DATABASE = "finish-database"
    WRITE_ARTIFACTS = "write-artifacts"
    DECIDE = "decide"
    COMMIT = "commit"
    LIFT_FENCE = "lift-fence"
    GIVE_BACK = "give-back"


class Event(enum.Enum):
    """What can happen to a cutover that is recorded."""

    DONE = "the step of the state was done"
    FAILED = "it failed, or took too long"
    KILLED = "whoever did it is gone"
    ABORT = "the administrator wants DPM back"
    ROLL_BACK = "he wants it back after the commit"


class Move(NamedTuple):
    """The step of a state, and the state after it went well."""

    step: Step
    after: State


_FORWARD = (
    (State.PREPARING, Step.COUNT),
    (State.FENCING, Step.RAISE_FENCE),
    (State.FENCED, Step.AWAIT_UPLOADS),
    (State.SHUTTING, Step.SHUT_FENCE),
    (State.QUIET, Step.DRAIN),
    (State.DRAINED, Step.COPY_SMALL_TABLES),
    (State.COPIED, Step.RECHECK),
    (State.COMPARED, Step.RECOUNT),
    (State.COUNTED, Step.FINISH_DATABASE),
    (State.FINISHED, Step.WRITE_ARTIFACTS),
    (State.WRITTEN, Step.DECIDE),
    (State.DECIDED, Step.COMMIT),
)
_AFTER = (*(state for state, _ in _FORWARD[1:]), State.COMMITTED)

MOVES: Mapping[State, Move] = MappingProxyType(
    {
        **{state: Move(step, after) for (state, step), after in zip(_FORWARD, _AFTER, strict=True)},
        State.ABORTING: Move(Step.LIFT_FENCE, State.ABORTED),
        State.RETURNING: Move(Step.GIVE_BACK, State.RETURNED),
    }
)

STEPS: tuple[Step, ...] = tuple(step for _, step in _FORWARD)
"""Those of a cutover that goes well; a step's number is its place here, from 1."""

FORWARD = frozenset(state for state, _ in _FORWARD)
ENDS = frozenset({State.COMMITTED, State.ABORTED, State.RETURNED})

FENCE_STANDS = frozenset(FORWARD - {State.PREPARING, State.FENCING, State.FENCED, State.SHUTTING}) | {
    State.COMMITTED
}
"""States that claim that the whole fence stands, and nobody writes."""

FENCE_MAY_STAND = frozenset(State) - {State.PREPARING, State.ABORTED, State.RETURNED}
DCACHE_MAY_WRITE = frozenset({State.COMMITTED})

PHASES: Mapping[State, Phase] = MappingProxyType(
    {
        State.FENCING: Phase.FENCED,
        State.COMMITTED: Phase.COMMITTED,
        State.ABORTED: Phase.FOLLOWING,
        State.RETURNING: Phase.ROLLED_BACK,
        State.RETURNED: Phase.FOLLOWING,
    }
)
"""What the phase of the site becomes with a state; other states leave it."""


class ForbiddenError(ValueError):
    """There is no such event in this state."""


def move(state: State) -> Move | None:
    """What to do next; None at the ends."""
    return MOVES.get(state)


def after(state: State, event: Event) -> State:
    """The state to record. Raises ForbiddenError: it must not happen, and nothing may be done."""
    if event is Event.KILLED:
        return state
    if event is Event.DONE and state in MOVES:
        return MOVES[state].after
    if event in (Event.FAILED, Event.ABORT) and state in FORWARD:
        return State.ABORTING
    if event in (Event.FAILED, Event.ABORT) and state is State.ABORTING:
        return state
    if event is Event.FAILED and state is State.RETURNING:
        return state
    if event is Event.ROLL_BACK and state in (State.COMMITTED, State.RETURNING):
        return State.RETURNING
    raise ForbiddenError(f"a cutover that is {state} knows no {event.name}: {event.value}")


def may(state: State, event: Event) -> bool:
    try:
        after(state, event)
    except ForbiddenError:
        return False
    return True


def number(step: Step) -> int:
    """From 1; 0 for those of the ways back."""
    return STEPS.index(step) + 1 if step in STEPS else 0
