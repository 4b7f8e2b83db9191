"""The Prometheus metrics of the mirror and of the DOME API, each on a registry of its own.

Methods are named for what happened; whoever it happens to calls them. The lag is worked out
when it is asked for, from the last heartbeat applied and a running clock: it grows when the
follower hangs, when the database is away and when nobody calls anything here any more.
`python -m dome_bridge.metrics` prints the table of docs/reference/metrics.md.
"""

from __future__ import annotations

import math
import platform
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)

from dome_bridge import __version__
from dome_bridge.chimera.state import Phase
from dome_bridge.dome_api.cluster import Activity, Cluster

if TYPE_CHECKING:
    from dome_bridge.auth.authenticate import Method
    from dome_bridge.auth.refusal import Reason
    from dome_bridge.exporter.mirror import Applied

PREFIX = "dome_bridge"

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The text format that every Prometheus reads."""

REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds; from a look-up in memory to what waits for a disk node."""


class Described(NamedTuple):
    """One row of the reference."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str


class _HeartbeatApplied(NamedTuple):
    at: float
    source_ahead: float
    """Seconds that the source server's clock is ahead of ours"""


class Registered:
    """A registry, how metrics are made on it, and what the reference says of them."""

    def __init__(self) -> None:
        # A switch of the whole process: each counter would have a second series that nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.reference: list[Described] = []

    def exposition(self) -> bytes:
        """The text for a scrape, of type CONTENT_TYPE."""
        return generate_latest(self.registry)

    def _build_info(self) -> None:
        name, labels = "build", ("version", "python")
        meaning = "Version of dome-bridge and of Python; always 1."
        values = (__version__, platform.python_version())
        Info(name, meaning, namespace=PREFIX, registry=self.registry).info(
            dict(zip(labels, values, strict=True))
        )
        self._describe(f"{name}_info", "gauge", labels, meaning)

    def _gauge(self, name: str, meaning: str, labels: tuple[str, ...] = ()) -> Gauge:
        self._describe(name, "gauge", labels, meaning)
        return Gauge(name, meaning, labels, namespace=PREFIX, registry=self.registry)

    def _counter(self, name: str, meaning: str, labels: tuple[str, ...] = ()) -> Counter:
        self._describe(name, "counter", labels, meaning)
        return Counter(name, meaning, labels, namespace=PREFIX, registry=self.registry)

    def _histogram(
        self, name: str, meaning: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        self._describe(name, "histogram", labels, meaning)
        return Histogram(name, meaning, labels, namespace=PREFIX, registry=self.registry, buckets=buckets)

    def _describe(self, name: str, kind: str, labels: tuple[str, ...], meaning: str) -> None:
        self.reference.append(Described(f"{PREFIX}_{name}", kind, labels, meaning))


class Metrics(Registered):
    """The mirror's. clock: seconds that only go forward. now: Unix time."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self._clock = clock
        self._now = now
        self._heartbeat: _HeartbeatApplied | None = None
        self._snapshot_entries_seen = 0
        self._make_life()
        self._make_mirror()
        self._make_snapshot()
        self._make_verify()
        self._make_rest()

    def _make_life(self) -> None:
        self._build_info()
        self._phase = self._gauge(
            "phase", "1 for the phase that the site is in, 0 for all others.", ("phase",)
        )
        self.phase_changed(Phase.UNINITIALISED)

    def _make_mirror(self) -> None:
        self._lag = self._gauge(
            "mirror_lag_seconds",
            "Age of the youngest heartbeat applied, on the source server's clock: what was committed in DPM "
            "before that is in Chimera. Grows while anything is stuck. NaN before the first heartbeat.",
        )
        self._lag.set_function(self.lag_seconds)
        self._last_applied = self._gauge(
            "mirror_last_applied_timestamp_seconds",
            "When the last batch was committed in Chimera, Unix time; 0 before the first since the start.",
        )
        self._backlog = self._gauge(
            "journal_backlog_rows",
            "Catalog changes in the journal that are not applied yet, heartbeats not counted; counting ends "
            "at a million. NaN before the first count.",
        )
        self._backlog.set(math.nan)
        self._changes = self._counter(
            "mirror_changes_total",
            "Rows changed in Chimera, by table and operation (insert, update, upsert, delete).",
            ("table", "op"),
        )
        self._errors = self._counter(
            "mirror_apply_errors_total",
            "Batches that failed and are tried again, by the kind of error.",
            ("reason",),
        )

    def _make_snapshot(self) -> None:
        self._snapshot_entries = self._counter(
            "snapshot_entries_total",
            "Entries that the first copy has behind it; after a restart it begins where the copy goes on.",
        )
        self._snapshot_expected = self._gauge(
            "snapshot_entries_expected", "Entries that the catalog had when the first copy began."
        )

    def _make_verify(self) -> None:
        self._compared = self._counter("verify_compared_total", "Entries compared by verify.")
        self._mismatches = self._gauge(
            "verify_mismatches",
            "Entries missing, extra or different in Chimera after the last finished verify.",
            ("kind",),
        )
        self._last_clean = self._gauge(
            "verify_last_clean_timestamp_seconds",
            "When the last verify that left no difference ended, Unix time; 0 if there was none yet.",
        )

    def _make_rest(self) -> None:
        self._quarantined = self._gauge(
            "quarantined_entries",
            "Entries of DPM that are left out of Chimera, by reason; one with two reasons counts for both. "
            "`dome-bridge quarantine` lists them.",
            ("reason",),
        )
        self._step_seconds = self._gauge(
            "cutover_step_duration_seconds",
            "How long a step of the newest cutover attempt took.",
            ("step",),
        )
        self._predicted_fence = self._gauge(
            "cutover_predicted_fence_seconds",
            "How long a cutover would keep DPM read-only, uploads not counted: the median of what the last "
            "five rehearsals have predicted. NaN before the first.",
        )
        self._predicted_fence.set(math.nan)

    def phase_changed(self, phase: Phase) -> None:
        for each in Phase:
            self._phase.labels(each.value).set(each is phase)

    def heartbeat_applied(self, at: float, source_now: float) -> None:
        """at: the heartbeat's time; source_now: what the source server's clock says at this moment.

        Call it at the start too, with the heartbeat that the state remembers.
        """
        self._heartbeat = _HeartbeatApplied(at, source_now - self._clock())

    def lag_seconds(self) -> float:
        """NaN before the first heartbeat."""
        if self._heartbeat is None:
            return math.nan
        return max(0.0, self._clock() + self._heartbeat.source_ahead - self._heartbeat.at)

    def applied(self, applied: Applied) -> None:
        """A batch, or a range of the first copy, is committed in Chimera."""
        for (table, operation), rows in applied.changes.items():
            self._changes.labels(table, operation).inc(rows)
        self._last_applied.set(self._now())

    def apply_failed(self, reason: str) -> None:
        """reason: one of a few words, such as the error's class; never a message."""
        self._errors.labels(reason).inc()

    def backlog_counted(self, rows: int) -> None:
        self._backlog.set(rows)

    def snapshot_advanced(self, entries: int, expected: int) -> None:
        """entries: behind us by now, of this run and those that it continues."""
        self._snapshot_entries.inc(max(0, entries - self._snapshot_entries_seen))
        self._snapshot_entries_seen = max(entries, self._snapshot_entries_seen)
        self._snapshot_expected.set(expected)

    def compared(self, entries: int) -> None:
        """So many more entries were compared."""
        self._compared.inc(entries)

    def verified(self, mismatches: Mapping[str, int], *, last_clean: float | None) -> None:
        """A pass has finished, or the state was read at the start.

        mismatches: by kind. last_clean: Unix time of the newest clean pass's end, None without one.
        """
        self._mismatches.clear()
        for kind, entries in mismatches.items():
            self._mismatches.labels(kind).set(entries)
        self._last_clean.set(last_clean or 0)

    def quarantine_counted(self, by_reason: Mapping[str, int]) -> None:
        self._quarantined.clear()
        for reason, entries in by_reason.items():
            self._quarantined.labels(reason).set(entries)

    def cutover_begun(self) -> None:
        """The steps of an earlier attempt are forgotten."""
        self._step_seconds.clear()

    def cutover_step(self, name: str, seconds: float) -> None:
        self._step_seconds.labels(name).set(seconds)

    def fence_predicted(self, seconds: float | None) -> None:
        """None: nobody has rehearsed."""
        self._predicted_fence.set(math.nan if seconds is None else seconds)


class ApiMetrics(Registered):
    """The DOME API's. is_alone: these are all there are, so the version is among them. now: Unix time."""

    def __init__(self, *, is_alone: bool = False, now: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._now = now
        self._keys_fetched: Callable[[], Mapping[str, float | None]] = dict
        if is_alone:
            self._build_info()
        self._make_requests()
        self._make_cluster()
        self._make_auth()
        self._make_expiries()

    def _make_requests(self) -> None:
        self._requests = self._counter(
            "dome_requests_total",
            "Requests that the DOME API answered, by command and HTTP status.",
            ("command", "code"),
        )
        self._seconds = self._histogram(
            "dome_request_duration_seconds",
            "Time from a request's head to its answer, by command.",
            ("command",),
            REQUEST_BUCKETS,
        )

    def _make_cluster(self) -> None:
        self._disk_up = self._gauge(
            "disk_up", "1 if a disk server has answered the newest poll, 0 if not.", ("server",)
        )
        self._free = self._gauge(
            "fs_free_bytes",
            "Free space on a file system, as its disk server has last said it; none before its first answer.",
            ("server", "fs"),
        )
        self._abandoned = self._gauge(
            "abandoned_uploads",
            "Replicas whose upload began more than `[api] abandoned_upload_hours` ago and never ended, "
            "counted once an hour. NaN before the first count.",
        )
        self._interrupted = self._gauge(
            "interrupted_deletions",
            "Replicas that the API has marked as being deleted, under way or interrupted, counted with the "
            "uploads. NaN before the first count.",
        )
        self.leftovers_counted(math.nan, math.nan)

    def _make_auth(self) -> None:
        self._auth_failures = self._counter(
            "auth_failures_total",
            "Requests and handshakes that were refused, by the credential and the reason.",
            ("method", "reason"),
        )
        self._reload_failing = self._gauge(
            "reload_failing",
            "1 while a change of files cannot be used and what was read before stays in force, 0 otherwise.",
            ("what",),
        )

    def _make_expiries(self) -> None:
        self._not_after = self._gauge(
            "certificate_not_after_timestamp_seconds",
            "When the host certificate expires, Unix time. NaN without one.",
        )
        self._not_after.set(math.nan)
        self._next_update = self._gauge(
            "crl_next_update_timestamp_seconds",
            "When the newest CRL of a CA expires, Unix time; certificates of that CA are refused then.",
            ("ca",),
        )
        self._keys_age = self._gauge(
            "issuer_keys_age_seconds",
            "Time since the keys of a token issuer were last fetched; +Inf if they never were.",
            ("issuer",),
        )

    def leftovers_counted(self, uploads: float, deletions: float) -> None:
        self._abandoned.set(uploads)
        self._interrupted.set(deletions)

    def cluster_changed(self, cluster: Cluster) -> None:
        """What an administrator has removed disappears from the metrics."""
        self._disk_up.clear()
        self._free.clear()
        for each in cluster.filesystems:
            if each.activity is Activity.UNKNOWN:
                continue
            self._disk_up.labels(each.server).set(cluster.is_answering(each.server))
            self._free.labels(each.server, each.path).set(each.free)

    def auth_failed(self, method: Method, reason: Reason) -> None:
        """Both from fixed lists: a client must not be able to make series."""
        self._auth_failures.labels(method.value, reason.value).inc()

    def reload_ended(self, what: str, *, failed: bool) -> None:
        """what: a name from the program."""
        self._reload_failing.labels(what).set(failed)

    def host_certificate_loaded(self, not_after: float) -> None:
        self._not_after.set(not_after)

    def crls_loaded(self, next_updates: Mapping[str, float]) -> None:
        """By subject of the CA. A CA that is not among them any more disappears."""
        self._next_update.clear()
        for ca, at in next_updates.items():
            self._next_update.labels(ca).set(at)

    def issuer_keys_from(self, fetched: Callable[[], Mapping[str, float | None]]) -> None:
        """fetched: when those of each issuer were, Unix time, None for never; asked at each scrape."""
        self._keys_fetched = fetched

    def exposition(self) -> bytes:
        self._keys_age.clear()
        for issuer, at in self._keys_fetched().items():
            self._keys_age.labels(issuer).set(math.inf if at is None else max(0.0, self._now() - at))
        return super().exposition()

    def answered(self, command: str, status: int, seconds: float) -> None:
        """command: one that exists, or one word for all others; a client must not be able to make series."""
        self._requests.labels(command, str(status)).inc()
        self._seconds.labels(command).observe(seconds)


def described() -> list[Described]:
    """All metrics that there are."""
    return [*Metrics().reference, *ApiMetrics().reference]


def reference() -> str:
    """The table of docs/reference/metrics.md."""
    rows = [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |"
        for name, kind, labels, meaning in described()
    ]
    return "\n".join(("| metric | type | labels | meaning |", "| --- | --- | --- | --- |", *rows)) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
