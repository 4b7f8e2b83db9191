"""What the CLI, the monitoring listener and its page all show of a site.

Everything is read from the two databases, nothing from a running daemon, so the command works
when the daemon does not. The lag is the age of the youngest heartbeat applied, on the source
server's clock; it is read after the heartbeat, so it is never shown too small.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dome_bridge import __version__
from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase
from dome_bridge.config import ExporterConfig
from dome_bridge.dpm import read
from dome_bridge.dpm.schema import ER_NO_SUCH_TABLE
from dome_bridge.dpm.source import Source, StatementError
from dome_bridge.errors import SourceError, StateError
from dome_bridge.exporter.gates import Gate
from dome_bridge.exporter.journal import Journal
from dome_bridge.exporter.snapshot import DIRECTORIES, ENTRIES
from dome_bridge.statements import load

logger = logging.getLogger(__name__)

_SQL = load("dome_bridge.chimera", "status.sql")

_SOURCE_NOW = "SELECT UNIX_TIMESTAMP()"
_SOURCE_ESTIMATE = (
    "SELECT TABLE_ROWS FROM information_schema.TABLES"
    " WHERE TABLE_SCHEMA = %s AND TABLE_NAME = 'Cns_file_metadata'"
)

MIRRORING = (Phase.FOLLOWING, Phase.FENCED)
"""Phases in which the mirror must keep up."""


@dataclass(frozen=True)
class Entries:
    """How many entries DPM has and how many Chimera has of them; None is unknown."""

    source: int | None = None
    mirrored: int | None = None
    source_is_estimate: bool = False
    mirrored_is_estimate: bool = False
    counted_at: datetime | None = None


@dataclass(frozen=True)
class SnapshotStatus:
    """The first copy, in two steps that both walk over all entries."""

    started_at: datetime
    finished_at: datetime | None
    step: str
    entries: int
    expected: int | None
    advanced_at: datetime


@dataclass(frozen=True)
class VerifyStatus:
    """last_clean: end of the newest pass that left no difference. mismatches: left by the newest pass."""

    last_clean: datetime | None = None
    mismatches: int | None = None
    finished_at: datetime | None = None
    compared: int | None = None


@dataclass(frozen=True)
class CutoverStep:
    name: str
    seconds: float


@dataclass(frozen=True)
class CutoverStatus:
    """The newest attempt, whatever became of it."""

    id: int
    state: str
    started_at: datetime
    fenced_at: datetime | None
    ended_at: datetime | None
    reason: str
    steps: tuple[CutoverStep, ...] = ()


@dataclass(frozen=True)
class Status:
    """A site at the instant `at` (our clock). What is unknown, or not yet known, is None.

    lag_seconds and heartbeat_at are on the source server's clock. quarantined counts entries
    that are left out, dropped_facts what single entries are without. gates: of the cutover, as they
    stand; none where it cannot begin.
    """

    phase: Phase
    at: datetime
    phase_since: datetime | None = None
    lag_seconds: float | None = None
    heartbeat_at: datetime | None = None
    applied_at: datetime | None = None
    journal_backlog: int | None = None
    journal_applied: int | None = None
    entries: Entries = field(default_factory=Entries)
    quarantined: int | None = None
    dropped_facts: int | None = None
    snapshot: SnapshotStatus | None = None
    verify: VerifyStatus = field(default_factory=VerifyStatus)
    cutover: CutoverStatus | None = None
    gates: tuple[Gate, ...] | None = None
    source_reachable: bool = False
    instance_id: str | None = None
    chimera_version: str | None = None
    version: str = __version__

    def as_json(self) -> dict[str, object]:
        """For JSON; times are ISO 8601 in UTC, durations seconds."""
        return {key: _plain(value) for key, value in vars(self).items()}


def _plain(value: object) -> object:
    if isinstance(value, Gate):
        return value.as_json()
    if is_dataclass(value):
        return {key: _plain(each) for key, each in vars(value).items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    return value.value if isinstance(value, Phase) else value


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def read_status(
    source: Source | None,
    conn: asyncpg.Connection,
    *,
    entries: Entries | None = None,
    now: Callable[[], datetime] = _utc_now,
) -> Status:
    """The site's status; `conn` must not be in a transaction.

    source: None if DPM's database cannot be reached; what only it knows is then unknown. It is
    the same if it goes away meanwhile. entries: None counts them, exactly, which takes some
    seconds for ten million; a daemon passes what `EntryCache.current` gives.
    Raises TargetError, and StateError if another version of dome-bridge made the state.
    """
    async with target.told("reading the status"):
        if not await state.exists(conn):
            return Status(Phase.UNINITIALISED, now(), source_reachable=await _answers(source))
        if entries is None:
            entries = await count_entries(source, conn, now=now)
        mirror = await _read_mirror(conn)
    return await _with_source(source, _assembled(mirror, entries, now()))


@dataclass(frozen=True)
class _MirrorState:
    """One consistent view of the schema dome_bridge."""

    overview: Mapping[str, Any]
    snapshot: SnapshotStatus | None
    verify: VerifyStatus
    cutover: CutoverStatus | None


async def _read_mirror(conn: asyncpg.Connection) -> _MirrorState:
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        await state.load_site(conn)
        overview = await conn.fetchrow(_SQL["overview"])
        if overview is None:
            raise StateError("dome_bridge.progress is empty: the state was damaged, start again with `init`")
        return _MirrorState(
            overview,
            await _read_snapshot(conn, overview),
            await _read_verify(conn),
            await _read_cutover(conn),
        )


async def _read_snapshot(conn: asyncpg.Connection, overview: Mapping[str, Any]) -> SnapshotStatus | None:
    started = overview["snapshot_started"]
    if started is None:
        return None
    steps = {row["step"]: row for row in await conn.fetch(_SQL["snapshot_steps"])}
    step = ENTRIES if ENTRIES in steps else DIRECTORIES
    reached = steps.get(step)
    return SnapshotStatus(
        started_at=started,
        finished_at=overview["snapshot_finished"],
        step=step,
        entries=reached["entries"] if reached else 0,
        expected=overview["entries_expected"],
        advanced_at=reached["done_at"] if reached else started,
    )


async def _read_verify(conn: asyncpg.Connection) -> VerifyStatus:
    row = await conn.fetchrow(_SQL["last_verify"])
    if row is None:
        return VerifyStatus()
    return VerifyStatus(
        last_clean=await conn.fetchval(_SQL["last_clean"]),
        mismatches=row["missing"] + row["extra"] + row["different"] - row["repaired"],
        finished_at=row["finished_at"],
        compared=row["compared"],
    )


async def _read_cutover(conn: asyncpg.Connection) -> CutoverStatus | None:
    row = await conn.fetchrow(_SQL["cutover"])
    if row is None:
        return None
    steps = [CutoverStep(**step) for step in await conn.fetch(_SQL["cutover_steps"], row["id"])]
    return CutoverStatus(**row, steps=tuple(steps))


def _assembled(mirror: _MirrorState, entries: Entries, at: datetime) -> Status:
    overview = mirror.overview
    heartbeat = overview["heartbeat_at"]
    return Status(
        phase=Phase(overview["phase"]),
        at=at,
        phase_since=overview["phase_since"],
        heartbeat_at=None if heartbeat is None else datetime.fromtimestamp(heartbeat, UTC),
        applied_at=overview["applied_at"],
        journal_applied=overview["journal_applied"],
        entries=entries,
        quarantined=overview["quarantined"],
        dropped_facts=overview["dropped_facts"],
        snapshot=mirror.snapshot,
        verify=mirror.verify,
        cutover=mirror.cutover,
        instance_id=overview["instance_id"],
        chimera_version=overview["chimera_version"],
    )


async def _with_source(source: Source | None, status: Status) -> Status:
    if source is None:
        return status
    try:
        source_now = int(await source.fetchval(_SOURCE_NOW))
        backlog = await _backlog(source)
    except SourceError as exc:
        logger.warning("status without DPM's database error=%s", exc)
        return status
    lag = None
    if status.heartbeat_at is not None:
        lag = max(0.0, source_now - status.heartbeat_at.timestamp())
    return replace(status, lag_seconds=lag, journal_backlog=backlog, source_reachable=True)


async def _answers(source: Source | None) -> bool:
    try:
        return source is not None and bool(await source.fetchval(_SOURCE_NOW))
    except SourceError as exc:
        logger.warning("status without DPM's database error=%s", exc)
        return False


async def _backlog(source: Source) -> int | None:
    """None if there is no journal: `complete` was cut short."""
    try:
        return await Journal(source).backlog()
    except StatementError as exc:
        if exc.number != ER_NO_SUCH_TABLE:
            raise
        return None


async def count_entries(
    source: Source | None, conn: asyncpg.Connection, *, now: Callable[[], datetime] = _utc_now
) -> Entries:
    """Exact numbers, by index scans; of an initialised site."""
    counted_at = now()
    async with target.told("counting Chimera's entries"):
        site = await state.load_site(conn)
        mirrored = await conn.fetchval(_SQL["mirrored"], site.instance_id)
    return Entries(await _source_rows(source, read.count_entries), mirrored, counted_at=counted_at)


async def estimate_entries(
    source: Source | None, conn: asyncpg.Connection, *, now: Callable[[], datetime] = _utc_now
) -> Entries:
    """What the two servers' statistics say: at once, tens of per cent off, dCache's own entries included."""
    counted_at = now()
    async with target.told("estimating Chimera's entries"):
        mirrored = await conn.fetchval(_SQL["mirrored_estimate"])
    rows = await _source_rows(source, _estimated_rows)
    return Entries(rows, mirrored, rows is not None, mirrored is not None, counted_at)


async def _estimated_rows(source: Source) -> int | None:
    rows = await source.fetchval(_SOURCE_ESTIMATE, (source.cns_name,))
    return None if rows is None else int(rows)


async def _source_rows(source: Source | None, count: Callable[[Source], Awaitable[int | None]]) -> int | None:
    if source is None:
        return None
    try:
        return await count(source)
    except SourceError as exc:
        logger.warning("DPM's entries cannot be counted error=%s", exc)
        return None


class EntryCache:
    """The last exact count for a daemon that must answer at once.

    `refresh` counts, in the daemon's own time and on connections that nobody waits for;
    `current` gives that count while it is young enough, and an estimate otherwise.
    """

    def __init__(
        self, *, max_age_seconds: float = 3600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._counted: tuple[float, Entries] | None = None

    async def refresh(self, source: Source, conn: asyncpg.Connection) -> None:
        begun = self._clock()
        self._counted = begun, await count_entries(source, conn)

    async def current(self, source: Source | None, conn: asyncpg.Connection) -> Entries:
        if self._counted is not None and self._clock() - self._counted[0] <= self._max_age_seconds:
            return self._counted[1]
        return await estimate_entries(source, conn)


async def quarantined_by_reason(conn: asyncpg.Connection) -> dict[str, int]:
    """Entries left out, by reason; one with two reasons counts for both."""
    async with target.told("counting the quarantine"):
        return {row["reason"]: row["entries"] for row in await conn.fetch(_SQL["quarantined_by_reason"])}


OK, WARNING, CRITICAL, UNKNOWN = range(4)
_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


@dataclass(frozen=True)
class Thresholds:
    """When `nagios` warns and when it is alarmed; all in seconds."""

    lag_warning: float = 30.0
    lag_critical: float = 300.0
    verify_age_warning: float = 21600.0
    snapshot_stall_warning: float = 900.0
    fence_critical: float = 600.0

    @classmethod
    def of(cls, exporter: ExporterConfig) -> Thresholds:
        """The cutover's gates as warnings; ten times its greatest lag is critical."""
        return cls(
            lag_warning=exporter.max_lag_seconds,
            lag_critical=10 * exporter.max_lag_seconds,
            verify_age_warning=exporter.verify_max_age_seconds,
            fence_critical=exporter.max_fence_seconds,
        )


DEFAULT_THRESHOLDS = Thresholds()


def nagios(status: Status, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> tuple[int, str]:
    """Exit code and the one line of a monitoring plugin, performance data after the bar."""
    findings = list(_findings(status, thresholds))
    code = max((severity for severity, _ in findings), default=OK)
    if status.phase is Phase.UNINITIALISED:
        code = UNKNOWN
    said = "; ".join(text for _, text in findings) or _in_brief(status)
    line = f"DOME-BRIDGE {_WORDS[code]} - {status.phase.value}: {said}"
    return code, f"{' '.join(line.replace('|', '/').split())} | {_performance_data(status, thresholds)}"


def _findings(status: Status, limits: Thresholds) -> Iterator[tuple[int, str]]:
    """What is wrong, as severity and words."""
    if status.phase is Phase.UNINITIALISED:
        yield UNKNOWN, "run `dome-bridge init` first"
    if status.phase in (Phase.STOPPED, Phase.ROLLED_BACK):
        yield WARNING, "changes of DPM are not mirrored; start `dome-bridge run`"
    if status.phase in (Phase.SNAPSHOT, *MIRRORING) and not status.source_reachable:
        yield CRITICAL, "DPM's database cannot be reached"
    elif status.phase in MIRRORING:
        yield from _lag_findings(status, limits)
    if status.phase is Phase.SNAPSHOT:
        yield from _snapshot_findings(status, limits)
    if status.phase is Phase.FOLLOWING:
        yield from _verify_findings(status, limits)
    if status.phase is Phase.FENCED and _age(status, status.phase_since) > limits.fence_critical:
        yield CRITICAL, f"the fence stands since {_iso(status.phase_since)}; `dome-bridge cutover --abort`"


def _lag_findings(status: Status, limits: Thresholds) -> Iterator[tuple[int, str]]:
    if status.lag_seconds is None:
        yield WARNING, "no heartbeat was applied yet; is `dome-bridge run` running?"
    elif status.lag_seconds > limits.lag_warning:
        severity = CRITICAL if status.lag_seconds > limits.lag_critical else WARNING
        yield (
            severity,
            f"the mirror is {status.lag_seconds:.0f} s behind, {status.journal_backlog} changes wait",
        )


def _snapshot_findings(status: Status, limits: Thresholds) -> Iterator[tuple[int, str]]:
    copied = status.snapshot
    since = status.phase_since if copied is None else copied.advanced_at
    if _age(status, since) > limits.snapshot_stall_warning:
        yield WARNING, f"the first copy has not moved since {_iso(since)}; is `dome-bridge run` running?"


def _verify_findings(status: Status, limits: Thresholds) -> Iterator[tuple[int, str]]:
    verify = status.verify
    if verify.mismatches:
        yield WARNING, f"verify found {verify.mismatches} mismatches; `dome-bridge verify --repair`"
    elif _age(status, verify.last_clean or status.phase_since) > limits.verify_age_warning:
        yield WARNING, f"the last clean verify ended {_iso(verify.last_clean) or 'never'}"


def _age(status: Status, since: datetime | None) -> float:
    return 0.0 if since is None else (status.at - since).total_seconds()


def _in_brief(status: Status) -> str:
    if status.phase is Phase.SNAPSHOT:
        return _copied(status.snapshot)
    if status.phase is Phase.COMMITTED:
        return f"dCache has the catalog since {_iso(status.phase_since)}"
    return f"lag {status.lag_seconds:.0f} s, {status.journal_backlog} changes wait, " + (
        f"{status.quarantined} entries in quarantine"
    )


def _performance_data(status: Status, limits: Thresholds) -> str:
    lag_limits = f"{limits.lag_warning:g};{limits.lag_critical:g};0"
    return " ".join(
        (
            f"lag={_measured(status.lag_seconds, 's')};{lag_limits}",
            f"backlog={_measured(status.journal_backlog)};;;0",
            f"source={_measured(status.entries.source)};;;0",
            f"mirrored={_measured(status.entries.mirrored)};;;0",
            f"quarantined={_measured(status.quarantined)};;;0",
            f"mismatches={_measured(status.verify.mismatches)};;;0",
        )
    )


def _measured(value: float | None, unit: str = "") -> str:
    return "U" if value is None else f"{value:g}{unit}" if isinstance(value, float) else f"{value}{unit}"


def render(status: Status) -> RenderableType:
    """For a person at a terminal."""
    table = Table.grid(padding=(0, 2))
    for name, value in _lines(status):
        table.add_row(Text(name, style="bold"), Text(value))
    further = [_gate_table(status.gates)] if status.gates else []
    if status.cutover is not None and status.cutover.steps:
        further.append(_cutover_table(status.cutover))
    return Group(table, *further)


def _lines(status: Status) -> Iterator[tuple[str, str]]:
    yield "phase", f"{status.phase.value}{_since(status.phase_since)}"
    yield "DPM's database", "reachable" if status.source_reachable else "cannot be reached"
    if status.phase is Phase.UNINITIALISED:
        return
    if status.snapshot is not None and status.snapshot.finished_at is None:
        yield "first copy", _copied(status.snapshot)
    yield "lag", "unknown" if status.lag_seconds is None else f"{status.lag_seconds:.0f} s"
    yield "changes waiting", _number(status.journal_backlog)
    yield "changes applied", _number(status.journal_applied)
    yield "entries in DPM", _number(status.entries.source, is_estimate=status.entries.source_is_estimate)
    yield (
        "entries mirrored",
        _number(status.entries.mirrored, is_estimate=status.entries.mirrored_is_estimate),
    )
    yield "in quarantine", f"{_number(status.quarantined)} entries"
    yield "dropped facts", _number(status.dropped_facts)
    yield "last clean verify", _iso(status.verify.last_clean) or "never"
    yield "mismatches", _number(status.verify.mismatches)
    if status.cutover is not None:
        yield "cutover", _cutover_words(status.cutover)
    yield "instance id", f"{status.instance_id}, Chimera schema of dCache {status.chimera_version}"


def _gate_table(gates: Sequence[Gate]) -> Table:
    table = Table("gate", "holds", "value, threshold, remedy", title="cutover, gates", title_justify="left")
    for gate in gates:
        table.add_row(Text(gate.id), "yes" if gate.ok else "no", Text(gate.message))
    return table


def _cutover_table(cutover: CutoverStatus) -> Table:
    table = Table("step", "seconds", title=f"cutover {cutover.id}", title_justify="left")
    table.columns[1].justify = "right"
    for step in cutover.steps:
        table.add_row(Text(step.name), f"{step.seconds:.2f}")
    return table


def _cutover_words(cutover: CutoverStatus) -> str:
    reason = f": {cutover.reason}" if cutover.reason else ""
    return f"{cutover.id}, {cutover.state}{_since(cutover.started_at)}{reason}"


def _copied(snapshot: SnapshotStatus | None) -> str:
    if snapshot is None:
        return "the first copy has not begun"
    share = f", {100 * snapshot.entries / snapshot.expected:.0f} %" if snapshot.expected else ""
    return f"{snapshot.step}, {_number(snapshot.entries)} of {_number(snapshot.expected)} entries{share}"


def _number(value: int | None, *, is_estimate: bool = False) -> str:
    return "unknown" if value is None else f"{'about ' if is_estimate else ''}{value:,}"


def _since(moment: datetime | None) -> str:
    return "" if moment is None else f" since {_iso(moment)}"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds")
