"""The metrics: what a scrape sees after what happened, and that the reference tells the truth."""

from __future__ import annotations

import math
import platform
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dome_bridge import __version__, metrics
from dome_bridge.auth.authenticate import Method
from dome_bridge.auth.refusal import Reason
from dome_bridge.chimera.state import Phase
from dome_bridge.dome_api.cluster import Activity, Cluster, FileSystem
from dome_bridge.exporter.mirror import Applied
from dome_bridge.metrics import REQUEST_BUCKETS, ApiMetrics, Metrics, Registered, described

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference" / "metrics.md"
ALERTS = ROOT / "packaging" / "alerts.yml"

CONTRACT = (
    "build_info",
    "phase",
    "mirror_lag_seconds",
    "mirror_last_applied_timestamp_seconds",
    "journal_backlog_rows",
    "mirror_changes_total",
    "mirror_apply_errors_total",
    "snapshot_entries_total",
    "snapshot_entries_expected",
    "verify_compared_total",
    "verify_mismatches",
    "verify_last_clean_timestamp_seconds",
    "quarantined_entries",
    "cutover_step_duration_seconds",
    "cutover_predicted_fence_seconds",
    "dome_requests_total",
    "dome_request_duration_seconds",
    "disk_up",
    "fs_free_bytes",
    "abandoned_uploads",
    "interrupted_deletions",
    "auth_failures_total",
    "reload_failing",
    "certificate_not_after_timestamp_seconds",
    "crl_next_update_timestamp_seconds",
    "issuer_keys_age_seconds",
)


CLUSTER = Cluster(
    filesystems=(
        FileSystem("p", "d1", "/a", activity=Activity.ONLINE, free=7, physical=9),
        FileSystem("p", "d1", "/b", activity=Activity.ONLINE, free=8, physical=9),
        FileSystem("p", "d2", "/a", activity=Activity.BROKEN, free=3, physical=9),
        FileSystem("p", "d3", "/a"),
    )
)


class Clock:
    """Seconds since a start of our own."""

    def __init__(self) -> None:
        self.seconds = 500.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def mirror(clock: Clock) -> Metrics:
    return Metrics(clock=clock, now=lambda: 1_700_000_000.0)


@pytest.fixture
def api() -> ApiMetrics:
    return ApiMetrics()


def value(metrics: Registered, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"dome_bridge_{name}", labels)


def scraped(metrics: Registered) -> set[str]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {sample.name for family in families for sample in family.samples}


# Lag


def test_lag_is_not_a_number_before_the_first_heartbeat(mirror: Metrics) -> None:
    lag = value(mirror, "mirror_lag_seconds")
    assert lag is not None
    assert math.isnan(lag)
    assert b"dome_bridge_mirror_lag_seconds NaN" in mirror.exposition()


def test_lag_grows_while_nothing_happens(mirror: Metrics, clock: Clock) -> None:
    mirror.heartbeat_applied(1000, source_now=1001)
    assert value(mirror, "mirror_lag_seconds") == 1
    clock.seconds += 60
    assert value(mirror, "mirror_lag_seconds") == 61


def test_failures_and_other_changes_do_not_make_the_lag_smaller(mirror: Metrics, clock: Clock) -> None:
    mirror.heartbeat_applied(1000, source_now=1000)
    clock.seconds += 60
    mirror.apply_failed("TargetError")
    mirror.applied(Applied({("t_inodes", "insert"): 1}))
    assert value(mirror, "mirror_lag_seconds") == 60


def test_lag_is_measured_on_the_source_clock(mirror: Metrics, clock: Clock) -> None:
    mirror.heartbeat_applied(1000, source_now=1000)
    clock.seconds += 60
    mirror.heartbeat_applied(9_999_058, source_now=9_999_060)  # somebody set that clock
    assert value(mirror, "mirror_lag_seconds") == 2


def test_lag_is_never_below_zero(mirror: Metrics) -> None:
    mirror.heartbeat_applied(1001, source_now=1000)
    assert value(mirror, "mirror_lag_seconds") == 0


# Events


def test_exactly_one_phase_is_on(mirror: Metrics) -> None:
    mirror.phase_changed(Phase.SNAPSHOT)
    mirror.phase_changed(Phase.FOLLOWING)
    assert {phase for phase in Phase if value(mirror, "phase", phase=phase)} == {Phase.FOLLOWING}
    assert value(mirror, "phase", phase="snapshot") == 0


def test_new_registry_is_of_an_uninitialised_site(mirror: Metrics) -> None:
    assert value(mirror, "phase", phase="uninitialised") == 1


def test_applied_rows_are_counted_by_table_and_operation(mirror: Metrics) -> None:
    assert value(mirror, "mirror_last_applied_timestamp_seconds") == 0
    mirror.applied(Applied({("t_inodes", "insert"): 3, ("t_dirs", "delete"): 1}))
    mirror.applied(Applied({("t_inodes", "insert"): 4}))
    assert value(mirror, "mirror_changes_total", table="t_inodes", op="insert") == 7
    assert value(mirror, "mirror_changes_total", table="t_dirs", op="delete") == 1
    assert value(mirror, "mirror_last_applied_timestamp_seconds") == 1_700_000_000


def test_errors_are_counted_by_reason(mirror: Metrics) -> None:
    mirror.apply_failed("SourceError")
    mirror.apply_failed("SourceError")
    assert value(mirror, "mirror_apply_errors_total", reason="SourceError") == 2


def test_backlog_is_not_a_number_until_counted(mirror: Metrics) -> None:
    backlog = value(mirror, "journal_backlog_rows")
    assert backlog is not None
    assert math.isnan(backlog)
    mirror.backlog_counted(12)
    assert value(mirror, "journal_backlog_rows") == 12


def test_resumed_snapshot_begins_where_it_goes_on_and_never_runs_backwards(mirror: Metrics) -> None:
    mirror.snapshot_advanced(50_000, 200_000)
    mirror.snapshot_advanced(100_000, 200_000)
    assert value(mirror, "snapshot_entries_total") == 100_000
    assert value(mirror, "snapshot_entries_expected") == 200_000
    mirror.snapshot_advanced(0, 200_000)
    mirror.snapshot_advanced(150_000, 200_000)
    assert value(mirror, "snapshot_entries_total") == 150_000


def test_later_verify_replaces_the_mismatches_of_an_earlier_one(mirror: Metrics) -> None:
    mirror.compared(100)
    mirror.compared(20)
    mirror.verified({"missing": 2, "extra": 1}, last_clean=None)
    assert value(mirror, "verify_compared_total") == 120
    assert value(mirror, "verify_mismatches", kind="missing") == 2
    assert value(mirror, "verify_last_clean_timestamp_seconds") == 0
    mirror.verified({"missing": 0, "different": 0}, last_clean=1234.0)
    assert value(mirror, "verify_mismatches", kind="missing") == 0
    assert value(mirror, "verify_mismatches", kind="extra") is None
    assert value(mirror, "verify_last_clean_timestamp_seconds") == 1234


def test_repaired_reason_leaves_the_quarantine_metric(mirror: Metrics) -> None:
    mirror.quarantine_counted({"invalid-name": 3, "orphan": 1})
    mirror.quarantine_counted({"orphan": 2})
    assert value(mirror, "quarantined_entries", reason="orphan") == 2
    assert value(mirror, "quarantined_entries", reason="invalid-name") is None


def test_steps_of_an_earlier_cutover_are_forgotten(mirror: Metrics) -> None:
    mirror.cutover_step("fence", 1.5)
    mirror.cutover_begun()
    mirror.cutover_step("drain", 0.5)
    assert value(mirror, "cutover_step_duration_seconds", step="fence") is None
    assert value(mirror, "cutover_step_duration_seconds", step="drain") == 0.5


def test_fence_is_predicted_once_somebody_has_rehearsed(mirror: Metrics) -> None:
    assert math.isnan(value(mirror, "cutover_predicted_fence_seconds") or 0.0)
    mirror.fence_predicted(2.5)
    assert value(mirror, "cutover_predicted_fence_seconds") == 2.5
    mirror.fence_predicted(None)
    assert math.isnan(value(mirror, "cutover_predicted_fence_seconds") or 0.0)


def test_two_registries_share_nothing(mirror: Metrics) -> None:
    mirror.compared(1)
    assert value(Metrics(), "verify_compared_total") == 0


# The API


def test_answers_are_counted_by_command_and_code(api: ApiMetrics) -> None:
    api.answered("dome_getstatinfo", 200, 0.001)
    api.answered("dome_getstatinfo", 200, 0.001)
    api.answered("dome_getstatinfo", 404, 0.001)
    api.answered("unknown", 418, 0.001)
    assert value(api, "dome_requests_total", command="dome_getstatinfo", code="200") == 2
    assert value(api, "dome_requests_total", command="dome_getstatinfo", code="404") == 1
    assert value(api, "dome_requests_total", command="unknown", code="418") == 1


@pytest.mark.parametrize("bound", REQUEST_BUCKETS)
def test_answer_is_in_all_buckets_from_its_time_on(api: ApiMetrics, bound: float) -> None:
    api.answered("dome_create", 200, bound)
    found = {
        each: value(api, "dome_request_duration_seconds_bucket", command="dome_create", le=str(each))
        for each in REQUEST_BUCKETS
    }
    assert found == {each: float(each >= bound) for each in REQUEST_BUCKETS}
    assert value(api, "dome_request_duration_seconds_sum", command="dome_create") == bound


def test_api_without_a_mirror_tells_its_version(api: ApiMetrics) -> None:
    assert "dome_bridge_build_info" in scraped(ApiMetrics(is_alone=True))
    assert "dome_bridge_build_info" not in scraped(api)


def test_both_expositions_in_one_are_a_good_scrape(mirror: Metrics, api: ApiMetrics) -> None:
    api.answered("dome_create", 200, 1.0)
    families = list(text_string_to_metric_families((mirror.exposition() + api.exposition()).decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert {"dome_bridge_phase", "dome_bridge_dome_requests"} <= set(names)


# The reference


def test_registries_have_the_names_that_do_not_change() -> None:
    assert [each.name for each in described()] == [f"dome_bridge_{name}" for name in CONTRACT]


def test_scrape_gives_what_the_reference_names_and_nothing_else(mirror: Metrics) -> None:
    mirror.applied(Applied({("t_inodes", "insert"): 1}))
    mirror.apply_failed("TargetError")
    mirror.verified({"missing": 0}, last_clean=None)
    mirror.quarantine_counted({"orphan": 1})
    mirror.cutover_step("fence", 1.0)
    assert scraped(mirror) == {each.name for each in mirror.reference}
    assert f'dome_bridge_build_info{{python="{platform.python_version()}",version="{__version__}"}} 1.0' in (
        mirror.exposition().decode()
    )


def test_scrape_of_the_api_gives_what_the_reference_names_and_nothing_else(api: ApiMetrics) -> None:
    api.answered("dome_create", 200, 0.1)
    api.cluster_changed(CLUSTER)
    api.auth_failed(Method.TOKEN, Reason.EXPIRED)
    api.reload_ended("bans", failed=False)
    api.crls_loaded({"/CN=CA": 1.0})
    api.issuer_keys_from(lambda: {"atlas": None})
    histogram = "dome_bridge_dome_request_duration_seconds"
    parts = {f"{histogram}_{part}" for part in ("bucket", "sum", "count")}
    assert scraped(api) == {each.name for each in api.reference} - {histogram} | parts


def test_cluster_shows_what_was_heard_and_forgets_what_is_gone(api: ApiMetrics) -> None:
    api.cluster_changed(CLUSTER)
    text = api.exposition().decode()
    assert 'dome_bridge_disk_up{server="d1"} 1.0' in text
    assert 'dome_bridge_disk_up{server="d2"} 0.0' in text
    assert 'dome_bridge_fs_free_bytes{fs="/b",server="d1"} 8.0' in text
    assert "d3" not in text
    api.cluster_changed(CLUSTER.reread([], CLUSTER.filesystems[:1]))
    text = api.exposition().decode()
    assert 'fs="/a",server="d1"' in text
    assert "d2" not in text
    assert "/b" not in text


def test_refusals_are_counted_by_credential_and_reason(api: ApiMetrics) -> None:
    for _ in range(2):
        api.auth_failed(Method.TOKEN, Reason.EXPIRED)
    api.auth_failed(Method.X509, Reason.REVOKED)
    assert value(api, "auth_failures_total", method="token", reason="expired") == 2
    assert value(api, "auth_failures_total", method="x509", reason="revoked") == 1


def test_reload_fails_until_it_succeeds(api: ApiMetrics) -> None:
    api.reload_ended("bans", failed=True)
    assert value(api, "reload_failing", what="bans") == 1
    api.reload_ended("bans", failed=False)
    assert value(api, "reload_failing", what="bans") == 0


def test_expiries_are_those_of_what_is_in_force(api: ApiMetrics) -> None:
    before = value(api, "certificate_not_after_timestamp_seconds")
    assert before is not None
    assert math.isnan(before)
    api.host_certificate_loaded(1_800_000_000)
    api.crls_loaded({"/CN=A": 1.0, "/CN=B": 2.0})
    api.crls_loaded({"/CN=B": 3.0})
    assert value(api, "certificate_not_after_timestamp_seconds") == 1_800_000_000
    assert value(api, "crl_next_update_timestamp_seconds", ca="/CN=A") is None
    assert value(api, "crl_next_update_timestamp_seconds", ca="/CN=B") == 3


def test_age_of_keys_grows_and_that_of_keys_never_fetched_is_infinite() -> None:
    now, fetched = [1000.0], {"atlas": 400.0, "new": None, "ahead": 1e9}
    api = ApiMetrics(now=lambda: now[0])
    api.issuer_keys_from(lambda: fetched)
    text = api.exposition().decode()
    for issuer, age in (("atlas", "600.0"), ("new", "+Inf"), ("ahead", "0.0")):
        assert f'dome_bridge_issuer_keys_age_seconds{{issuer="{issuer}"}} {age}' in text
    now[0] += 60
    assert 'keys_age_seconds{issuer="atlas"} 660.0' in api.exposition().decode()
    del fetched["new"]
    assert 'issuer="new"' not in api.exposition().decode()


def test_reference_page_has_the_table_of_the_code() -> None:
    assert metrics.reference() in REFERENCE.read_text(), (
        "run `python -m dome_bridge.metrics` and paste its output"
    )


def test_alert_rules_use_only_metrics_that_exist() -> None:
    named = set(re.findall(r"\bdome_bridge_\w+", ALERTS.read_text()))
    assert named <= {each.name for each in described()}
    assert {"dome_bridge_mirror_lag_seconds", "dome_bridge_dome_requests_total"} <= named


def test_alert_rules_name_only_phases_that_exist() -> None:
    named = set(re.findall(r'phase="([^"]+)"', ALERTS.read_text()))
    assert named <= {phase.value for phase in Phase}
