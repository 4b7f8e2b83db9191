"""The status of real sites, and what it is made into for Nagios and for people."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import asyncpg
import pytest
from rich.console import Console

from dome_bridge import __version__
from dome_bridge.chimera import state
from dome_bridge.chimera.state import Phase
from dome_bridge.config import ChimeraConfig, Config, ExporterConfig
from dome_bridge.dpm.source import Source
from dome_bridge.errors import StateError, TargetError
from dome_bridge.exporter import small_tables
from dome_bridge.exporter.follow import Follower
from dome_bridge.exporter.gates import Gate
from dome_bridge.exporter.initialise import initialise
from dome_bridge.exporter.journal import Journal
from dome_bridge.exporter.session import Session, open_session
from dome_bridge.exporter.snapshot import Snapshot
from dome_bridge.statements import load
from dome_bridge.status import (
    CutoverStatus,
    CutoverStep,
    Entries,
    EntryCache,
    SnapshotStatus,
    Status,
    Thresholds,
    VerifyStatus,
    count_entries,
    estimate_entries,
    nagios,
    quarantined_by_reason,
    read_status,
    render,
)
from sandbox.catalog import Site, make_site
from sandbox.servers import MariaServer
from sandbox.site import SiteOptions
from tests.fixtures.databases import DpmSite
from tests.fixtures.source import dpm_config

NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
CONTRACT = {
    "phase",
    "lag_seconds",
    "journal_backlog",
    "entries",
    "quarantined",
    "dropped_facts",
    "verify",
    "cutover",
}


@pytest.fixture
def config(dpm_site: DpmSite, chimera_dsn: str) -> Config:
    return Config(dpm=dpm_config(dpm_site), chimera=ChimeraConfig(dsn=chimera_dsn, timezone="Europe/Zurich"))


@pytest.fixture
async def conn(chimera_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(chimera_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def source(config: Config) -> AsyncIterator[Source]:
    async with await Source.connect(config.dpm) as source:
        yield source


@pytest.fixture
async def catalog(maria: MariaServer, dpm_site: DpmSite) -> Site:
    return await make_site(maria, dpm_site.cns, dpm_site.dpm, SiteOptions(files=60))


@pytest.fixture
async def session(catalog: Site, config: Config) -> AsyncIterator[Session]:
    """An initialised site, nothing copied yet."""
    await initialise(config)
    async with open_session(config) as session:
        yield session


async def copy_all(session: Session) -> None:
    async with session.conn.transaction():
        await small_tables.copy_small_tables(
            session.source, session.layout, session.conn, small_tables.ALL_SMALL_TABLES
        )
    await Snapshot(
        session.source,
        session.conn,
        session.open_mirror,
        session.close_mirror,
        workers=1,
        range_entries=1000,
    ).run()


async def follow(session: Session) -> None:
    async with session.mirror() as mirror:
        await Follower(mirror, batch=1000).apply_batch()


def orphan(source: Source, fileid: int = 10**6) -> str:
    return (
        f"INSERT INTO {source.cns}.Cns_file_metadata (fileid, parent_fileid, name, filemode, nlink,"
        f" owner_uid, gid, filesize, atime, mtime, ctime, fileclass, status, csumtype, csumvalue, acl)"
        f" VALUES ({fileid}, 999999, 'lost', 33188, 1, 0, 0, 1, 1, 1, 1, 0, '-', '', '', '')"
    )


# Reading


async def test_site_before_init_is_uninitialised_and_everything_else_unknown(
    source: Source, conn: asyncpg.Connection
) -> None:
    status = await read_status(source, conn)
    assert (status.phase, status.source_reachable) == (Phase.UNINITIALISED, True)
    as_json = status.as_json()
    assert as_json["entries"] == {
        "source": None,
        "mirrored": None,
        "source_is_estimate": False,
        "mirrored_is_estimate": False,
        "counted_at": None,
    }
    assert [as_json[key] for key in ("lag_seconds", "journal_backlog", "quarantined", "cutover")] == [
        None
    ] * 4


async def test_initialised_site_waits_for_its_first_copy(session: Session, catalog: Site) -> None:
    status = await read_status(session.source, session.conn)
    assert status.phase is Phase.SNAPSHOT
    assert (status.lag_seconds, status.snapshot, status.verify.last_clean) == (None, None, None)
    assert (status.entries.source, status.entries.mirrored) == (catalog.entries, 1)
    assert (status.instance_id, status.chimera_version) == (
        session.site.instance_id,
        session.site.chimera_version,
    )


async def test_copied_site_has_as_many_entries_on_both_sides(session: Session, catalog: Site) -> None:
    await copy_all(session)
    status = await read_status(session.source, session.conn)
    assert status.phase is Phase.FOLLOWING
    assert (status.entries.source, status.entries.mirrored) == (catalog.entries, catalog.entries)
    assert (status.quarantined, status.dropped_facts, status.journal_backlog) == (0, 0, 0)
    assert status.snapshot is not None
    assert status.snapshot.finished_at is not None
    assert (status.snapshot.step, status.snapshot.entries) == ("entries", catalog.entries)


async def test_entries_that_dcache_made_are_not_counted(session: Session) -> None:
    before = await count_entries(session.source, session.conn)
    await session.conn.execute(
        "INSERT INTO t_inodes (ipnfsid, itype, imode, inlink, iuid, igid, isize, iio, ictime, iatime, imtime,"
        " icrtime, igeneration) SELECT ipnfsid, 32768, 420, 1, 0, 0, 0, 0, now(), now(), now(), now(), 0"
        " FROM unnest($1::text[]) AS ipnfsid",
        [f"{first:04X}{session.site.instance_id}{'F' * 16}" for first in (1, 0xFFFF)],
    )
    assert (await count_entries(session.source, session.conn)).mirrored == before.mirrored


async def test_lag_is_the_age_of_the_applied_heartbeat_on_the_source_clock(session: Session) -> None:
    await copy_all(session)
    await session.source.execute(
        f"INSERT INTO {session.source.cns}.dome_bridge_journal (kind, op, at)"
        " VALUES (20, '-', UNIX_TIMESTAMP() - 100)"
    )
    await follow(session)
    status = await read_status(session.source, session.conn)
    assert status.lag_seconds is not None
    assert 100 <= status.lag_seconds <= 110
    assert status.applied_at is not None


async def test_lag_grows_while_heartbeats_wait_in_the_journal(session: Session) -> None:
    await copy_all(session)
    await Journal(session.source).write_heartbeat()
    await follow(session)
    await session.conn.execute("UPDATE dome_bridge.progress SET heartbeat_at = heartbeat_at - 1000")
    await Journal(session.source).write_heartbeat()
    status = await read_status(session.source, session.conn)
    assert status.lag_seconds is not None
    assert status.lag_seconds >= 1000
    assert status.journal_backlog == 0


async def test_change_waits_in_the_backlog_and_is_quarantined_when_applied(
    session: Session, catalog: Site
) -> None:
    await copy_all(session)
    await session.source.execute(orphan(session.source))
    assert (await read_status(session.source, session.conn)).journal_backlog == 1
    await follow(session)
    status = await read_status(session.source, session.conn)
    assert (status.journal_backlog, status.journal_applied, status.quarantined) == (0, 1, 1)
    assert (status.entries.source, status.entries.mirrored) == (catalog.entries + 1, catalog.entries)
    assert sum((await quarantined_by_reason(session.conn)).values()) == 1


async def test_dropped_fact_is_not_a_quarantined_entry(session: Session) -> None:
    await session.conn.execute(
        "INSERT INTO dome_bridge.quarantine (fileid, scope, reason, subject, detail) VALUES"
        " (7, 'fact', 'checksum', 'MD', ''), (7, 'fact', 'checksum', 'AD', ''),"
        " (8, 'entry', 'name', '', ''), (8, 'entry', 'size', '', '')"
    )
    status = await read_status(session.source, session.conn)
    assert (status.quarantined, status.dropped_facts) == (1, 2)
    assert await quarantined_by_reason(session.conn) == {"name": 1, "size": 1}


async def test_copy_under_way_shows_its_step_and_how_far_it_is(session: Session) -> None:
    await state.begin_snapshot(session.conn, top=1000, expected=80)
    copied = (await read_status(session.source, session.conn)).snapshot
    assert copied is not None
    assert (copied.step, copied.entries, copied.expected) == ("directories", 0, 80)
    await state.note_range(session.conn, "directories", 1, 1000, 80)
    await state.note_range(session.conn, "entries", 1, 500, 30)
    await state.note_range(session.conn, "entries", 501, 700, 10)
    copied = (await read_status(session.source, session.conn)).snapshot
    assert copied is not None
    assert (copied.step, copied.entries, copied.finished_at) == ("entries", 40, None)


async def test_mismatches_are_those_that_the_newest_finished_verify_left(session: Session) -> None:
    await session.conn.execute(
        "INSERT INTO dome_bridge.verify_run (kind, finished_at, compared, missing, different, repaired)"
        " VALUES ('full', '2024-01-01 00:00Z', 80, 0, 0, 0), ('full', '2024-01-02 00:00Z', 80, 1, 1, 2),"
        " ('full', '2024-01-03 00:00Z', 81, 2, 3, 1), ('full', NULL, 10, 9, 0, 0)"
    )
    verify = (await read_status(session.source, session.conn)).verify
    assert verify.last_clean == datetime(2024, 1, 2, tzinfo=UTC)
    assert (verify.mismatches, verify.compared) == (4, 81)


async def test_newest_cutover_is_shown_with_its_steps_in_order(session: Session) -> None:
    await session.conn.execute(
        "INSERT INTO dome_bridge.cutover (id, state, nonce, reason) VALUES (1, 'aborted', 'n1', 'lag'),"
        " (2, 'fenced', 'n2', '');"
        "INSERT INTO dome_bridge.cutover_step (cutover, name, started_at, seconds) VALUES"
        " (2, 'fence', '2024-01-01 00:00:01Z', 1.5), (2, 'drain', '2024-01-01 00:00:02Z', 0.5),"
        " (1, 'gates', '2024-01-01 00:00Z', 9)"
    )
    cutover = (await read_status(session.source, session.conn)).as_json()["cutover"]
    assert isinstance(cutover, dict)
    assert (cutover["id"], cutover["state"]) == (2, "fenced")
    assert cutover["steps"] == [{"name": "fence", "seconds": 1.5}, {"name": "drain", "seconds": 0.5}]


async def test_json_has_the_keys_that_do_not_change(session: Session) -> None:
    await copy_all(session)
    status = (await read_status(session.source, session.conn)).as_json()
    assert status.keys() >= CONTRACT
    assert json.loads(json.dumps(status)) == status
    assert status["phase"] == "following"
    assert status["version"] == __version__
    assert str(status["at"]).endswith("+00:00")


# What is away


async def test_status_without_the_source_lacks_what_only_it_knows(session: Session) -> None:
    await copy_all(session)
    status = await read_status(None, session.conn)
    assert (status.phase, status.source_reachable) == (Phase.FOLLOWING, False)
    assert (status.lag_seconds, status.journal_backlog, status.entries.source) == (None, None, None)
    assert status.entries.mirrored is not None


async def test_source_that_goes_away_is_the_same_as_none(session: Session, source: Source) -> None:
    await source.close()
    assert (await read_status(source, session.conn)).source_reachable is False


async def test_uninitialised_site_without_the_source_is_told_too(conn: asyncpg.Connection) -> None:
    assert (await read_status(None, conn)).source_reachable is False


async def test_journal_that_is_gone_has_no_backlog(session: Session) -> None:
    await session.source.execute(f"DROP TABLE {session.source.cns}.dome_bridge_journal")
    status = await read_status(session.source, session.conn)
    assert (status.journal_backlog, status.source_reachable) == (None, True)


async def test_state_of_another_version_is_refused(session: Session) -> None:
    await session.conn.execute("UPDATE dome_bridge.site SET state_version = 99")
    with pytest.raises(StateError, match="state version 99"):
        await read_status(session.source, session.conn)


async def test_lost_chimera_database_is_told_in_one_line(source: Source, conn: asyncpg.Connection) -> None:
    await conn.close()
    with pytest.raises(TargetError, match="reading the status") as caught:
        await read_status(source, conn)
    assert "\n" not in str(caught.value)


# Counting


async def test_given_numbers_are_shown_and_not_counted_again(session: Session) -> None:
    given = Entries(7, 5, source_is_estimate=True)
    assert (await read_status(session.source, session.conn, entries=given)).entries is given


async def test_estimate_says_that_it_is_one(session: Session) -> None:
    await copy_all(session)
    entries = await estimate_entries(session.source, session.conn)
    assert (entries.source_is_estimate, entries.mirrored_is_estimate) == (True, True)
    assert entries.source is not None
    assert entries.mirrored is not None
    assert entries.mirrored > 60


async def test_estimate_without_statistics_is_unknown(session: Session) -> None:
    entries = await estimate_entries(None, session.conn)
    assert entries.source is None
    assert entries.source_is_estimate is False


async def test_cache_estimates_until_counted_and_when_the_count_is_old(
    session: Session, catalog: Site
) -> None:
    clock = iter([0.0, 3600.0, 3601.0])
    cache = EntryCache(max_age_seconds=3600, clock=lambda: next(clock))
    assert (await cache.current(session.source, session.conn)).source_is_estimate
    await cache.refresh(session.source, session.conn)
    counted = await cache.current(None, session.conn)
    assert (counted.source, counted.source_is_estimate) == (catalog.entries, False)
    assert (await cache.current(session.source, session.conn)).source_is_estimate


async def test_mirrored_entries_are_counted_through_the_index(session: Session) -> None:
    await copy_all(session)
    await session.conn.execute("SET enable_seqscan = off")
    statement = load("dome_bridge.chimera", "status.sql")["mirrored"]
    plan = "\n".join(
        row[0] for row in await session.conn.fetch(f"EXPLAIN {statement}", session.site.instance_id)
    )
    assert "Seq Scan" not in plan
    assert len(re.findall("Index Cond", plan)) == 2


# Nagios


def following(**changes: Any) -> Status:
    status = Status(
        phase=Phase.FOLLOWING,
        at=NOON,
        phase_since=NOON - timedelta(days=2),
        lag_seconds=1.0,
        heartbeat_at=NOON,
        journal_backlog=3,
        journal_applied=100,
        entries=Entries(80, 79),
        quarantined=1,
        dropped_facts=2,
        verify=VerifyStatus(last_clean=NOON - timedelta(hours=1), mismatches=0),
        source_reachable=True,
        instance_id="00C0FFEE00C0FFEE",
        chimera_version="10.2",
    )
    return dataclasses.replace(status, **changes)


def copying(advanced: timedelta) -> Status:
    started = NOON - timedelta(hours=3)
    copied = SnapshotStatus(started, None, "entries", 40, 80, NOON - advanced)
    return following(phase=Phase.SNAPSHOT, snapshot=copied, lag_seconds=None, phase_since=started)


def test_healthy_mirror_is_ok_with_its_numbers() -> None:
    assert nagios(following()) == (
        0,
        "DOME-BRIDGE OK - following: lag 1 s, 3 changes wait, 1 entries in quarantine"
        " | lag=1s;30;300;0 backlog=3;;;0 source=80;;;0 mirrored=79;;;0 quarantined=1;;;0 mismatches=0;;;0",
    )


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (Status(Phase.UNINITIALISED, NOON, source_reachable=True), 3, "dome-bridge init"),
        (following(lag_seconds=31.0), 1, "31 s behind"),
        (following(lag_seconds=301.0), 2, "301 s behind"),
        (following(lag_seconds=None), 1, "no heartbeat"),
        (following(source_reachable=False, lag_seconds=None), 2, "cannot be reached"),
        (following(verify=VerifyStatus(NOON, mismatches=2)), 1, "2 mismatches"),
        (following(verify=VerifyStatus(NOON - timedelta(hours=7), 0)), 1, "2024-05-01T05:00:00"),
        (following(verify=VerifyStatus()), 1, "verify ended never"),
        (following(verify=VerifyStatus(), phase_since=NOON), 0, "lag 1 s"),
        (copying(timedelta(minutes=1)), 0, "entries, 40 of 80 entries, 50 %"),
        (copying(timedelta(minutes=16)), 1, "has not moved since"),
        (following(phase=Phase.FENCED, phase_since=NOON - timedelta(seconds=5)), 0, "fenced"),
        (following(phase=Phase.FENCED, phase_since=NOON - timedelta(seconds=601)), 2, "--abort"),
        (following(phase=Phase.COMMITTED, lag_seconds=9e5, source_reachable=False), 0, "dCache has"),
        (following(phase=Phase.STOPPED), 1, "not mirrored"),
        (following(phase=Phase.ROLLED_BACK), 1, "not mirrored"),
    ],
)
def test_nagios_code_fits_the_situation(status: Status, code: int, words: str) -> None:
    got, line = nagios(status)
    assert (got, "\n" in line, line.count("|")) == (code, False, 1)
    assert words in line.partition("|")[0]


def test_worst_finding_decides_and_all_are_told() -> None:
    code, line = nagios(following(lag_seconds=400.0, verify=VerifyStatus(NOON, mismatches=2)))
    assert code == 2
    assert "400 s behind" in line
    assert "2 mismatches" in line


def test_unknown_number_is_u_in_the_performance_data() -> None:
    assert "lag=U;30;300;0 backlog=3" in nagios(following(lag_seconds=None))[1]


def test_large_number_is_not_rounded_in_the_performance_data() -> None:
    assert " mirrored=123456789;" in nagios(following(entries=Entries(1, 123456789)))[1]


def test_thresholds_come_from_the_gates_of_the_cutover() -> None:
    limits = Thresholds.of(ExporterConfig(max_lag_seconds=10, verify_max_age_seconds=60, max_fence_seconds=5))
    assert (limits.lag_warning, limits.lag_critical) == (10, 100)
    assert (limits.verify_age_warning, limits.fence_critical) == (60, 5)


# For people


def printed(status: Status) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(render(status))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_person_sees_the_numbers() -> None:
    text = printed(following(entries=Entries(1_000_000, 999_999, source_is_estimate=True)))
    assert re.search(r"lag +1 s", text)
    assert re.search(r"entries in DPM +about 1,000,000", text)
    assert re.search(r"entries mirrored +999,999", text)
    assert re.search(r"last clean verify +2024-05-01T11:00:00\+00:00", text)


def test_gates_are_told_with_what_helps() -> None:
    gate = Gate("lag", False, "lag 31.0 s [high]", "at most 30 s", "wait")
    status = following(gates=(gate,))
    [told] = cast("list[dict[str, object]]", status.as_json()["gates"])
    assert (told["id"], told["ok"], told["message"]) == ("lag", False, gate.message)
    assert json.loads(json.dumps(status.as_json())) == status.as_json()
    assert "lag 31.0 s [high], at most 30 s: wait" in printed(status)


def test_person_sees_the_steps_of_a_cutover() -> None:
    cutover = CutoverStatus(4, "aborted", NOON, None, NOON, "lag [31 s]", (CutoverStep("gates", 0.25),))
    text = printed(following(cutover=cutover))
    assert "4, aborted since 2024-05-01T12:00:00+00:00: lag [31 s]" in text
    assert re.search(r"gates.*0\.25", text)


def test_person_sees_how_far_the_copy_is() -> None:
    assert "entries, 40 of 80 entries, 50 %" in printed(copying(timedelta(0)))


@pytest.mark.parametrize("show", [nagios, printed])
def test_site_without_init_can_be_shown(show: Callable[[Status], object]) -> None:
    assert show(Status(Phase.UNINITIALISED, NOON))
