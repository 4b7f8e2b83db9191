"""The gates of the cutover: each tests one thing, says what helps, and is passed by by name only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dome_bridge.exporter.fence_forecast import CHANGES_PER_SECOND, Costs, combined
from dome_bridge.exporter.gates import (
    GATES,
    Gate,
    Limits,
    Quarantine,
    Readings,
    judge,
    reasons,
    refused,
    unknown,
)
from dome_bridge.exporter.writers import Connection
from dome_bridge.exporter.writers import judge as judge_writers

GOOD = Readings(
    snapshot_complete=True,
    lag=0.5,
    backlog=3,
    predicted_fence=4.0,
    verify_age=60.0,
    verify_mismatches=0,
    verify_unsettled=0,
    quarantine=Quarantine(12, "abc", accepted="12:abc"),
    uploads=2,
    capture="",
    foreign_triggers=(),
    fence_possible="",
    rollback="",
    sequences="",
    trash=0,
    chimera_version=("9.2", "9.2"),
    dcache=(),
)
LIMITS = Limits(max_lag=30, verify_max_age=3600, max_fence=600, max_uploads=100)

BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"snapshot_complete": False}, "snapshot-complete", "sync --once"),
    ({"lag": None}, "lag", "dome-bridge run"),
    ({"lag": 30.1}, "lag", "lag 30.1 s with a backlog of 3, at most 30 s"),
    ({"predicted_fence": 601.0}, "drain", "--max-fence"),
    ({"verify_age": None}, "verify-clean", "dome-bridge verify"),
    ({"verify_age": 3601.0}, "verify-clean", "3601 s ago, at most 3600 s"),
    ({"verify_mismatches": 2}, "verify-clean", "2 mismatches"),
    ({"verify_unsettled": 3}, "verify-clean", "could not judge 3"),
    ({"quarantine": Quarantine(12, "abc")}, "quarantine-accepted", "--accept 12:abc"),
    ({"quarantine": Quarantine(13, "abd", "12:abc")}, "quarantine-accepted", "other ones were accepted"),
    ({"quarantine": Quarantine(12, "abd", "12:abc")}, "quarantine-accepted", "--accept 12:abd"),
    ({"uploads": 101}, "uploads", "at most 100"),
    ({"capture": "a trigger is missing"}, "capture-current", "dome-bridge init"),
    ({"foreign_triggers": ("audit on t",)}, "no-foreign-triggers", "audit on t"),
    ({"fence_possible": "GRANT this"}, "fence-possible", "GRANT this"),
    ({"rollback": "may not drop"}, "rollback-proven", "no way back"),
    ({"sequences": "inumber is at 1"}, "sequences", "inumber is at 1"),
    ({"trash": 1}, "trash-empty", "remove these rows"),
    ({"chimera_version": ("9.2", "11")}, "chimera-version", "at `init` it was that of 9.2"),
    ({"dcache": ("2 sessions",)}, "dcache-stopped", "stop dCache"),
    ({"other_writers": ("3 connections of dpns",)}, "other-writers", "systemctl mask"),
]


def test_good_readings_pass_every_gate_in_a_fixed_order() -> None:
    gates = judge(GOOD, LIMITS)
    assert [gate.id for gate in gates] == list(GATES)
    assert refused(gates) == ()


@pytest.mark.parametrize(("change", "gate", "part"), BAD)
def test_single_bad_reading_fails_its_gate_alone(change: dict[str, Any], gate: str, part: str) -> None:
    """A gate that looks at more than its own invariant blocks what it should not (GitLab 320809)."""
    failed = refused(judge(replace(GOOD, **change), LIMITS))
    assert [found.id for found in failed] == [gate]
    assert part in failed[0].message
    assert "\n" not in reasons(failed)


def test_every_gate_can_fail() -> None:
    assert {gate for _, gate, _ in BAD} == set(GATES)


@pytest.mark.parametrize(("change", "gate", "part"), BAD)
def test_gate_is_skipped_by_its_name_and_says_so(change: dict[str, Any], gate: str, part: str) -> None:
    bad = replace(GOOD, **change)
    assert refused(judge(bad, LIMITS, skip={gate})) == ()
    assert refused(judge(bad, LIMITS, skip=set(GATES) - {gate})) != ()
    skipped = next(found for found in judge(bad, LIMITS, skip={gate}) if found.id == gate)
    assert skipped.message.endswith("(skipped)")
    assert (skipped.as_json()["ok"], skipped.as_json()["skipped"]) == (False, True)


def test_value_at_its_limit_passes() -> None:
    at_limit = replace(GOOD, lag=30.0, verify_age=3600.0, uploads=100, predicted_fence=600.0)
    assert refused(judge(at_limit, LIMITS)) == ()


def test_empty_quarantine_needs_no_acceptance() -> None:
    assert refused(judge(replace(GOOD, quarantine=Quarantine(0, "d41")), LIMITS)) == ()


def test_name_that_is_no_gate_is_found() -> None:
    assert unknown(["lag", "lagg"]) == ["lagg"]


def test_remedy_is_said_only_where_it_is_needed() -> None:
    assert Gate("g", True, "fine", "at most 3", "do this").message == "fine, at most 3"
    assert Gate("g", False, "bad", "at most 3", "do this").message == "bad, at most 3: do this"


def test_fence_is_predicted_from_costs_and_backlog() -> None:
    assert Costs().fence_seconds(int(CHANGES_PER_SECOND * 2)) == pytest.approx(2.0)
    assert Costs({"raise-fence": 1.0, "recheck": 0.5}, 100.0).fence_seconds(300) == pytest.approx(4.5)


def test_single_slow_rehearsal_does_not_make_the_forecast() -> None:
    history = [
        Costs({"recheck": seconds}, rate) for seconds, rate in ((1.0, 900.0), (60.0, 10.0), (2.0, 800.0))
    ]
    assert combined(history) == Costs({"recheck": 2.0}, 800.0)


CONNECTIONS = [
    Connection(1, "dpmmgr", "localhost", "cns_db", ""),
    Connection(2, "dpmmgr", "localhost", "cns_db", "UPDATE t"),
    Connection(3, "dpmmgr", "disk01.example.org", "dpm_db", ""),
    Connection(4, "dpns", "localhost", "cns_db", "INSERT INTO Cns_file_metadata VALUES"),
    Connection(5, "dpns", "localhost", "cns_db", ""),
    Connection(6, "nagios", "localhost", "", "SELECT 1"),
]


def test_other_accounts_and_other_hosts_are_told_with_what_they_do() -> None:
    found = judge_writers(
        CONNECTIONS, own=1, accounts={"dpmmgr"}, schemas={"cns_db", "dpm_db"}, sees_all=True
    )
    assert found.others == (
        "1 connections of dpmmgr from disk01.example.org, idle",
        "2 connections of dpns from localhost, at work with 'INSERT INTO Cns_file_metadata VALUES'",
    )
    assert found.unseen == "2 connections of our own account on this host may be DPM's or ours"


def test_who_may_not_see_others_says_so() -> None:
    found = judge_writers(CONNECTIONS[:1], own=1, accounts={"dpmmgr"}, schemas={"cns_db"}, sees_all=False)
    assert found.others == ()
    assert "PROCESS" in found.unseen
