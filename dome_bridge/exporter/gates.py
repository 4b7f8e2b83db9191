"""The gates of the cutover: what must hold before DPM is made read-only. Pure.

Each gate tests one invariant and nothing else, says its value, what it must be, and what to do.
One that does not hold refuses the cutover by name; `--skip-gate` lets it pass, and is recorded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

GATES: Mapping[str, str] = MappingProxyType(
    {
        "snapshot-complete": "the first copy is complete",
        "lag": "the mirror is not far behind",
        "drain": "what waits can be drained, and the rest be done, while the fence may stand",
        "verify-clean": "a verify that is not old found no difference and judged every entry",
        "quarantine-accepted": "somebody has looked at all entries that are left out",
        "uploads": "not too many uploads are under way",
        "capture-current": "all changes are journalled: triggers and journal stand as `init` made them",
        "no-foreign-triggers": "nobody else has triggers on the catalog",
        "fence-possible": "a table of ours could be fenced, and refused a write",
        "rollback-proven": "that fence could be lifted again, and the write went through",
        "sequences": "dCache's next numbers are free",
        "trash-empty": "dCache's cleaner has no work waiting",
        "chimera-version": "the Chimera database is of the version that `init` saw",
        "dcache-stopped": "dCache is not connected, and has made nothing of its own",
        "other-writers": "no other account is connected to DPM's database",
    }
)

FURTHER: Mapping[str, str] = MappingProxyType(
    {
        "logins": "whoever has files gets one user name, one uid and one primary gid in dCache",
        "spaces": "what quotatokens become in dCache is loaded, but for the last changes",
    }
)
"""Those of other rooms, which a command adds."""


@dataclass(frozen=True)
class Gate:
    """value, threshold: in words. remedy: empty where it holds."""

    id: str
    ok: bool
    value: str
    threshold: str = ""
    remedy: str = ""
    skipped: bool = False

    @property
    def passes(self) -> bool:
        return self.ok or self.skipped

    @property
    def message(self) -> str:
        """One line with all of it."""
        said = f"{self.value}, {self.threshold}" if self.threshold else self.value
        said = said if self.ok or not self.remedy else f"{said}: {self.remedy}"
        return f"{said} (skipped)" if self.skipped and not self.ok else said

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "message": self.message}


@dataclass(frozen=True)
class Quarantine:
    """Entries that are left out, but for uploads under way. digest: of what they are."""

    entries: int
    digest: str
    accepted: str = ""
    """What was accepted last, as `token`"""

    @property
    def token(self) -> str:
        return f"{self.entries}:{self.digest}"


@dataclass(frozen=True)
class Limits:
    """Thresholds. Seconds, but for the number of uploads."""

    max_lag: float
    verify_max_age: float
    max_fence: float
    max_uploads: int = 100


@dataclass(frozen=True)
class Readings:
    """What the gates judge. Seconds; None where nothing was measured yet, or cannot be seen.

    Where a reading is a text it says what is wrong, and is empty where nothing is.
    """

    snapshot_complete: bool
    lag: float | None
    backlog: int
    predicted_fence: float
    verify_age: float | None
    verify_mismatches: int
    verify_unsettled: int
    quarantine: Quarantine
    uploads: int
    capture: str
    foreign_triggers: tuple[str, ...]
    fence_possible: str
    rollback: str
    sequences: str
    trash: int
    chimera_version: tuple[str, str]
    """at `init`, and now"""
    dcache: tuple[str, ...]
    """Signs of a dCache at work"""
    other_writers: tuple[str, ...] = ()
    unseen_writers: str = ""
    """What of the process list cannot be told"""
    probed: str = field(default="", kw_only=True)
    """When fence and rollback were proven, if not just now"""


FurtherGate = Callable[[], Awaitable[Gate]]
"""A gate of another room, which reads what it needs by itself."""


async def with_further(
    judged: Iterable[Gate], further: Iterable[FurtherGate], *, skip: Collection[str] = ()
) -> tuple[Gate, ...]:
    """One that is skipped is judged all the same, so that the record says what was let pass."""
    added = [await gate() for gate in further]
    return (*judged, *(replace(gate, skipped=True) if gate.id in skip else gate for gate in added))


def judge(readings: Readings, limits: Limits, *, skip: Collection[str] = ()) -> tuple[Gate, ...]:
    """All gates, in the order of `GATES`."""
    judged = (_JUDGES[name](readings, limits) for name in GATES)
    return tuple(replace(gate, skipped=True) if gate.id in skip else gate for gate in judged)


def refused(gates: Iterable[Gate]) -> tuple[Gate, ...]:
    return tuple(gate for gate in gates if not gate.passes)


def reasons(gates: Iterable[Gate]) -> str:
    return "; ".join(f"{gate.id}: {gate.message}" for gate in gates)


def unknown(names: Iterable[str]) -> list[str]:
    """Those that are no gate's."""
    return sorted(set(names) - set(GATES) - set(FURTHER))


def _snapshot(readings: Readings, limits: Limits) -> Gate:
    return Gate(
        "snapshot-complete",
        readings.snapshot_complete,
        f"the first copy is {'' if readings.snapshot_complete else 'not '}complete",
        remedy="let `dome-bridge run` or `sync --once` finish it",
    )


def _lag(readings: Readings, limits: Limits) -> Gate:
    if readings.lag is None:
        return Gate("lag", False, "no heartbeat was applied yet", remedy="is `dome-bridge run` running?")
    return Gate(
        "lag",
        readings.lag <= limits.max_lag,
        f"lag {readings.lag:.1f} s with a backlog of {readings.backlog}",
        f"at most {limits.max_lag:.0f} s",
        "wait until the mirror has caught up, or look at `dome-bridge status`",
    )


def _drain(readings: Readings, limits: Limits) -> Gate:
    return Gate(
        "drain",
        readings.predicted_fence <= limits.max_fence,
        f"the fence would stand for about {readings.predicted_fence:.0f} s, uploads not counted",
        f"at most {limits.max_fence:.0f} s",
        "wait until the backlog is smaller, or allow more with --max-fence",
    )


def _verify(readings: Readings, limits: Limits) -> Gate:
    if readings.verify_age is None:
        return Gate("verify-clean", False, "there was no verify yet", remedy="run `dome-bridge verify`")
    return Gate(
        "verify-clean",
        readings.verify_mismatches == 0
        and readings.verify_unsettled == 0
        and readings.verify_age <= limits.verify_max_age,
        f"the last verify left {readings.verify_mismatches} mismatches, could not judge "
        f"{readings.verify_unsettled}, and ended {readings.verify_age:.0f} s ago",
        f"at most {limits.verify_max_age:.0f} s",
        "run `dome-bridge verify --repair`, then `dome-bridge verify`",
    )


def _quarantine(readings: Readings, limits: Limits) -> Gate:
    found = readings.quarantine
    ok = found.entries == 0 or found.accepted == found.token
    changed = " now, other ones were accepted" if found.accepted else ", not accepted"
    return Gate(
        "quarantine-accepted",
        ok,
        f"{found.entries} entries are left out{'' if ok else changed}",
        remedy=f"look at `dome-bridge quarantine`, then `dome-bridge quarantine --accept {found.token}`",
    )


def _uploads(readings: Readings, limits: Limits) -> Gate:
    return Gate(
        "uploads",
        readings.uploads <= limits.max_uploads,
        f"{readings.uploads} uploads are under way",
        f"at most {limits.max_uploads}",
        "stop transfers to the site and wait, or allow more with --max-uploads",
    )


def _capture(readings: Readings, limits: Limits) -> Gate:
    return Gate(
        "capture-current",
        not readings.capture,
        readings.capture or "all changes of the catalog are journalled",
        remedy="run `dome-bridge init`, then `dome-bridge verify --repair`",
    )


def _foreign_triggers(readings: Readings, limits: Limits) -> Gate:
    names = ", ".join(readings.foreign_triggers)
    return Gate(
        "no-foreign-triggers",
        not names,
        f"triggers of others on the catalog: {names or 'none'}",
        remedy="find out who made them, and drop them",
    )


def _fence(readings: Readings, limits: Limits) -> Gate:
    good = "a table of ours could be fenced, and refused a write"
    return Gate(
        "fence-possible", not readings.fence_possible, (readings.fence_possible or good) + _when(readings)
    )


def _rollback(readings: Readings, limits: Limits) -> Gate:
    good = "its fence could be lifted again, and the write went through"
    return Gate(
        "rollback-proven",
        not readings.rollback,
        (readings.rollback or good) + _when(readings),
        remedy="without this right there is no way back",
    )


def _when(readings: Readings) -> str:
    return f" ({readings.probed})" if readings.probed else ""


def _sequences(readings: Readings, limits: Limits) -> Gate:
    return Gate(
        "sequences",
        not readings.sequences,
        readings.sequences or "dCache's next numbers are free",
        remedy="run `dome-bridge verify --repair`, and find out who set them back",
    )


def _trash(readings: Readings, limits: Limits) -> Gate:
    return Gate(
        "trash-empty",
        readings.trash == 0,
        f"{readings.trash} rows of t_locationinfo_trash",
        remedy="let dCache's cleaner finish, or remove these rows",
    )


def _version(readings: Readings, limits: Limits) -> Gate:
    before, now = readings.chimera_version
    return Gate(
        "chimera-version",
        before == now,
        f"Chimera's schema is that of dCache {now}",
        f"at `init` it was that of {before}",
        "begin again with a new mirror, or put back the database of before the update",
    )


def _dcache(readings: Readings, limits: Limits) -> Gate:
    return Gate(
        "dcache-stopped",
        not readings.dcache,
        "; ".join(readings.dcache) or "dCache is not connected, and has made nothing of its own",
        remedy="stop dCache until the commit, and remove what it made",
    )


def _writers(readings: Readings, limits: Limits) -> Gate:
    seen = "; ".join(readings.other_writers) or "no other account is connected to DPM's database"
    unseen = f" ({readings.unseen_writers})" if readings.unseen_writers else ""
    return Gate(
        "other-writers",
        not readings.other_writers,
        seen + unseen,
        remedy="stop and mask their services (`systemctl mask --now dpm dpnsdaemon srmv2.2 …`): watchdogs "
        "and puppet start them again",
    )


_JUDGES: Mapping[str, Callable[[Readings, Limits], Gate]] = {
    "snapshot-complete": _snapshot,
    "lag": _lag,
    "drain": _drain,
    "verify-clean": _verify,
    "quarantine-accepted": _quarantine,
    "uploads": _uploads,
    "capture-current": _capture,
    "no-foreign-triggers": _foreign_triggers,
    "fence-possible": _fence,
    "rollback-proven": _rollback,
    "sequences": _sequences,
    "trash-empty": _trash,
    "chimera-version": _version,
    "dcache-stopped": _dcache,
    "other-writers": _writers,
}
