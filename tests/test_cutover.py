"""The cutover on real databases: what it refuses, what it leaves behind, and every way back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase
from dome_bridge.config import Config
from dome_bridge.dpm.source import Source
from dome_bridge.errors import CutoverError, StateError
from dome_bridge.exporter import cutover, cutover_steps
from dome_bridge.exporter.cutover_plan import STEPS, State
from dome_bridge.exporter.fence import FenceState, raise_fence
from dome_bridge.exporter.follow import Follower
from dome_bridge.exporter.gates import GATES, Gate
from dome_bridge.exporter.initialise import complete
from dome_bridge.exporter.journal import JOURNAL_TABLE, Journal
from dome_bridge.exporter.service import MirrorService, Unobserved
from dome_bridge.exporter.session import Session, open_session
from tests.fixtures.cutover import FILES, Ready, agreed, at_the_decision, declined, in_state
from tests.fixtures.databases import DpmSite
from tests.fixtures.snapshot import bridge_config


@asynccontextmanager
async def service(config: Config) -> AsyncIterator[asyncio.Task[None]]:
    """The mirror running beside the test."""
    stop = asyncio.Event()
    task = asyncio.create_task(MirrorService(config, stop=stop, observer=Unobserved()).run())
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait_for(task, 15)


Damage = Callable[[Ready], Awaitable[object]]


async def forget_heartbeats(ready: Ready) -> None:
    await ready.alter("UPDATE dome_bridge.progress SET heartbeat_at = NULL")


async def age_heartbeat(ready: Ready) -> None:
    await ready.alter("UPDATE dome_bridge.progress SET heartbeat_at = heartbeat_at - 1000")


async def forget_verify(ready: Ready) -> None:
    await ready.alter("DELETE FROM dome_bridge.verify_run")


async def age_verify(ready: Ready) -> None:
    await ready.alter("UPDATE dome_bridge.verify_run SET finished_at = finished_at - interval '1 day'")


async def fail_verify(ready: Ready) -> None:
    [fileid] = await ready.files(1)
    await ready.alter("UPDATE t_inodes SET isize = isize + 1 WHERE inumber = $1", await ready.inumber(fileid))
    assert await ready.verify() == 1


async def drop_a_trigger(ready: Ready) -> None:
    await ready.maria.execute(
        "DROP TRIGGER dome_bridge_capture_cns_file_metadata_update", database=ready.config.dpm.cns_db
    )


async def leave_unsettled(ready: Ready) -> None:
    await ready.alter("UPDATE dome_bridge.verify_run SET unsettled = 3")


async def leave_copy_unfinished(ready: Ready) -> None:
    await ready.alter("UPDATE dome_bridge.progress SET snapshot_finished = NULL")


async def trash_a_file(ready: Ready) -> None:
    [fileid] = await ready.files(1)
    await ready.alter(
        "INSERT INTO t_locationinfo_trash (ipnfsid, itype, ilocation, ipriority, ictime, iatime, istate)"
        " SELECT ipnfsid, 1, 'pool', 10, now(), now(), 1 FROM t_inodes WHERE inumber = $1",
        await ready.inumber(fileid),
    )


async def revoke_lock_tables(ready: Ready) -> None:
    await ready.maria.revoke(ready.config.dpm.cns_db, privileges="LOCK TABLES")


async def add_foreign_trigger(ready: Ready) -> None:
    await ready.maria.execute(
        "CREATE TRIGGER audit BEFORE INSERT ON Cns_symlinks FOR EACH ROW SET @seen = 1",
        database=ready.config.dpm.cns_db,
    )


@pytest.mark.parametrize(
    ("damage", "gate", "part"),
    [
        (forget_heartbeats, "lag", "dome-bridge run"),
        (age_heartbeat, "lag", "at most 30 s"),
        (forget_verify, "verify-clean", "run `dome-bridge verify`"),
        (age_verify, "verify-clean", "at most 21600 s"),
        (fail_verify, "verify-clean", "1 mismatches"),
        (leave_copy_unfinished, "snapshot-complete", "first copy"),
        (drop_a_trigger, "capture-current", "dome-bridge init"),
        (leave_unsettled, "verify-clean", "could not judge 3"),
        (trash_a_file, "trash-empty", "1 rows of t_locationinfo_trash"),
        (revoke_lock_tables, "fence-possible", "GRANT LOCK TABLES"),
        (add_foreign_trigger, "no-foreign-triggers", "audit on Cns_symlinks"),
    ],
)
async def test_gate_that_does_not_hold_is_named_and_nothing_is_begun(
    ready: Ready, damage: Damage, gate: str, part: str
) -> None:
    await damage(ready)
    async with ready.chimera() as daemon:
        # Who follows but lags: without a follower the cutover would drain the journal itself.
        assert await target.try_applier_lock(daemon)
        with pytest.raises(CutoverError) as refused:
            await ready.cut_over()
    message = str(refused.value)
    assert f"{gate}: " in message
    assert part in message
    assert "\n" not in message
    assert [name for name in ("lag", "verify-clean", "trash-empty") if f"{name}: " in message] in ([gate], [])
    await ready.assert_untouched()


async def test_cutover_before_init_is_refused(dpm_site: DpmSite, chimera_dsn: str) -> None:
    with pytest.raises(StateError, match="dome-bridge init"):
        await cutover.cut_over(bridge_config(dpm_site, chimera_dsn), confirm=agreed)


async def test_administrator_who_declines_changes_nothing(ready: Ready) -> None:
    with pytest.raises(CutoverError, match="nothing was done"):
        await cutover.cut_over(ready.config, confirm=declined)
    await ready.assert_untouched()


async def test_administrator_is_shown_every_gate(ready: Ready) -> None:
    shown: list[Gate] = []

    async def look(gates: tuple[Gate, ...]) -> bool:
        shown.extend(gates)
        return False

    with pytest.raises(CutoverError):
        await cutover.cut_over(ready.config, confirm=look)
    assert [gate.id for gate in shown] == list(GATES)
    assert all(gate.ok for gate in shown)


@pytest.mark.parametrize("chimera_version", ["7.2", "9.2", "12.0"])
async def test_cutover_leaves_a_database_that_dcache_can_take(ready: Ready) -> None:
    """Without a daemon: the cutover drains the journal itself."""
    await ready.write(
        "UPDATE Cns_file_metadata SET filesize = 4711 WHERE filemode & 61440 = 32768 AND filesize < 1 << 60"
    )
    report = await ready.cut_over()
    assert report.state is State.COMMITTED
    assert [name for name, _ in report.steps] == list(STEPS)
    assert 0 < report.fence_seconds < 60
    assert (await ready.progress()).phase is Phase.COMMITTED
    assert await ready.fence() is FenceState.STANDING
    await ready.assert_acceptable()
    await complete(ready.config)
    await ready.assert_acceptable()


async def test_new_entries_of_dcache_after_the_commit_get_numbers_of_their_own(ready: Ready) -> None:
    await ready.cut_over()
    for table, column in (("t_inodes", "inumber"), ("t_tags_inodes", "itagid")):
        highest = await ready.ask(f"SELECT max({column}) FROM {table}")
        following = await ready.ask(f"SELECT nextval(pg_get_serial_sequence('{table}', '{column}'))")
        assert following > highest


async def test_cutover_beside_the_daemon_ends_its_mirror(ready: Ready) -> None:
    async with service(ready.config) as mirror:
        await asyncio.sleep(1.0)
        await ready.write("UPDATE Cns_file_metadata SET mtime = 1234567890")
        report = await ready.cut_over()
        assert report.state is State.COMMITTED
        await asyncio.wait_for(asyncio.shield(mirror), 15)
    await ready.assert_acceptable()


async def test_fence_stops_every_write_and_an_abort_lets_them_through_again(ready: Ready) -> None:
    async with held_applier_lock(ready):
        attempt = asyncio.create_task(ready.cut_over(max_fence_seconds=4))
        await in_state(ready, State.QUIET)
        assert not await ready.is_writable()
        report = await attempt
    assert report.state is State.ABORTED
    assert await ready.is_writable()
    await ready.assert_given_back()
    assert await ready.verify() == 0


@asynccontextmanager
async def held_applier_lock(ready: Ready) -> AsyncIterator[None]:
    """Another process seems to apply changes, and does not."""
    async with ready.chimera() as conn:
        assert await target.try_applier_lock(conn)
        yield


async def test_big_backlog_of_small_transactions_is_applied_whole(ready: Ready) -> None:
    """The backlog that is left when the reader stops early (pgcopydb 1049)."""
    fileids = await ready.files(FILES)
    async with await Source.connect(ready.config.dpm) as source:
        for times in range(8):
            for fileid in fileids:
                await source.execute(
                    "UPDATE Cns_file_metadata SET filesize = %s WHERE fileid = %s", (7000 + times, fileid)
                )
        assert await Journal(source).backlog() == 8 * len(fileids)
    report = await ready.cut_over(batch=100)
    assert report.state is State.COMMITTED
    for fileid in fileids:
        size = await ready.ask("SELECT isize FROM t_inodes WHERE inumber = $1", await ready.inumber(fileid))
        assert size == 7007
    await ready.assert_acceptable()


async def test_heartbeat_behind_unapplied_changes_does_not_count_as_applied(ready: Ready) -> None:
    """A keepalive beyond the applied position must not move it (pgcopydb 1050, 1048)."""
    before = (await ready.progress()).heartbeat_at
    await asyncio.sleep(1.1)
    [fileid] = await ready.files(1)
    for _ in range(3):
        await ready.write("UPDATE Cns_file_metadata SET mtime = mtime + 1 WHERE fileid = %s", fileid)
    await ready.beat()
    async with open_session(ready.config) as session, session.mirror() as mirror:
        follower = Follower(mirror, batch=1)
        for _ in range(3):
            assert (await follower.apply_batch()).changes == 1
            assert (await state.progress(session.conn)).heartbeat_at == before
        await follower.apply_batch()
        after = (await state.progress(session.conn)).heartbeat_at
    assert before is not None
    assert after is not None
    assert after > before


async def test_heartbeats_alone_do_not_end_the_drain_of_changes_behind_them(ready: Ready) -> None:
    for fileid in await ready.files(5):
        for _ in range(6):
            await ready.beat()
        await ready.write("UPDATE Cns_file_metadata SET mtime = mtime + 1 WHERE fileid = %s", fileid)
    async with open_session(ready.config) as session, session.mirror() as mirror:
        assert await Follower(mirror, batch=3).drain() == 5
        assert await Journal(session.source).backlog() == 0


async def test_marker_of_an_older_attempt_is_ignored(ready: Ready) -> None:
    async with await Source.connect(ready.config.dpm) as source:
        await Journal(source).write_marker(b"an older attempt")
    await ready.sync()
    assert (await ready.progress()).marker == "an older attempt"
    async with held_applier_lock(ready):
        report = await ready.cut_over(max_fence_seconds=3)
    assert report.state is State.ABORTED
    assert report.reason.startswith("drain: ")
    await ready.assert_given_back()


async def test_marker_of_an_aborted_attempt_does_not_serve_the_next(ready: Ready) -> None:
    async with held_applier_lock(ready):
        assert (await ready.cut_over(max_fence_seconds=2)).state is State.ABORTED
    await ready.beat()
    await ready.sync()
    first = (await ready.progress()).marker
    assert (await ready.cut_over()).state is State.COMMITTED
    assert (await ready.progress()).marker not in (None, first)


async def test_newest_entry_that_differs_stops_the_cutover_by_its_fileid(ready: Ready) -> None:
    """The last rows are what a switch loses (Spirit 156)."""
    [newest] = await ready.files(1, newest_first=True)
    await ready.alter("UPDATE t_inodes SET imode = 1 WHERE inumber = $1", await ready.inumber(newest))
    report = await ready.cut_over()
    assert report.state is State.ABORTED
    assert f"fileid {newest}" in report.reason
    assert "verify --repair" in report.reason
    assert await ready.fence() is FenceState.ABSENT
    assert await ready.verify(repair=True) == 1
    assert await ready.verify() == 0
    assert (await ready.cut_over()).state is State.COMMITTED


async def test_count_that_differs_stops_the_cutover(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the rows must not pass (gh-ost 444)."""
    monkeypatch.setattr(cutover_steps, "NEWEST", 1)
    [oldest] = await ready.files(1)
    inumber = await ready.inumber(oldest)
    for table, column in (("t_dirs", "ichild"), ("t_inodes", "inumber")):
        await ready.alter(f"DELETE FROM {table} WHERE {column} = $1", inumber)
    await ready.alter("DELETE FROM t_locationinfo_trash")
    report = await ready.cut_over()
    assert report.state is State.ABORTED
    assert "entries, Chimera and the quarantine" in report.reason
    await ready.verify(repair=True)
    await ready.assert_given_back()


async def test_fence_with_a_hole_stops_the_commit(ready: Ready) -> None:
    async with at_the_decision(ready) as attempt:
        await ready.maria.execute(
            "DROP TRIGGER dome_bridge_fence_cns_symlinks_insert", database=ready.config.dpm.cns_db
        )
    report = await attempt
    assert report.state is State.ABORTED
    assert "somebody dropped its triggers" in report.reason
    await ready.assert_given_back()


async def test_change_that_slips_through_a_hole_stops_the_commit(ready: Ready) -> None:
    """The fence stands again when it is looked at, but the journal tells."""
    async with at_the_decision(ready) as attempt, await Source.connect(ready.config.dpm) as source:
        await source.execute(f"INSERT INTO {JOURNAL_TABLE} (kind, fileid, op) VALUES (1, 1, 'U')")
    report = await attempt
    assert report.state is State.ABORTED
    assert "the journal is not empty" in report.reason
    await ready.assert_given_back()


async def test_trash_row_of_a_mirrored_file_stops_the_commit(ready: Ready) -> None:
    async with at_the_decision(ready) as attempt:
        await trash_a_file(ready)
    report = await attempt
    assert report.state is State.ABORTED
    assert "t_locationinfo_trash" in report.reason


async def test_committed_site_refuses_everything_that_would_write(ready: Ready) -> None:
    await ready.cut_over()
    refused: tuple[Callable[[], Awaitable[object]], ...] = (
        ready.cut_over,
        lambda: cutover.abort(ready.config),
        ready.sync,
        ready.verify,
        lambda: complete(ready.config, abandon=True),
    )
    for attempt in refused:
        with pytest.raises(StateError, match="committed"):
            await attempt()
    assert await ready.fence() is FenceState.STANDING
    async with service(ready.config) as mirror:
        await asyncio.wait_for(asyncio.shield(mirror), 15)


async def test_complete_before_the_commit_is_refused(ready: Ready) -> None:
    with pytest.raises(StateError, match="not committed"):
        await complete(ready.config)
    assert (await ready.progress()).phase is Phase.FOLLOWING


async def test_abort_without_a_cutover_says_so(ready: Ready) -> None:
    report = await cutover.abort(ready.config)
    assert report.state is State.ABORTED
    assert "no cutover under way" in report.reason
    assert await ready.is_writable()


async def test_fence_that_stands_without_a_record_is_lifted_by_an_abort(ready: Ready) -> None:
    async with open_session(ready.config) as session:
        await raise_alone(session)
    assert not await ready.is_writable()
    await cutover.abort(ready.config)
    assert await ready.is_writable()


async def raise_alone(session: Session) -> None:

    await raise_fence(session.source, session.layout)


async def test_fence_that_is_cut_short_in_the_middle_of_a_lock_wait_is_given_up(ready: Ready) -> None:
    """Our own limit is shorter than one wait for the tables."""
    async with long_transaction(ready):
        report = await ready.cut_over(max_fence_seconds=0.7, lock_wait_seconds=5)
    assert report.state is State.ABORTED
    assert report.reason.startswith("raise-fence: ")
    await ready.assert_given_back()


async def test_long_transaction_ends_the_cutover_and_is_named(ready: Ready) -> None:
    async with long_transaction(ready) as number:
        report = await ready.cut_over(max_fence_seconds=4, lock_wait_seconds=1)
        assert report.state is State.ABORTED
        assert f"connection {number} " in report.reason
        await ready.assert_given_back()
    assert (await ready.cut_over()).state is State.COMMITTED


@asynccontextmanager
async def long_transaction(ready: Ready) -> AsyncIterator[int]:
    """Reads a table and does not end: a dump."""
    async with await Source.connect(ready.config.dpm) as source:
        await source.execute("START TRANSACTION")
        await source.fetch("SELECT COUNT(*) FROM Cns_file_metadata")
        yield source.connection_id
        await source.execute("ROLLBACK")


async def test_second_cutover_or_abort_beside_one_at_work_is_refused(ready: Ready) -> None:
    """Both at once could lift the fence behind the commit."""
    async with at_the_decision(ready) as attempt:
        with pytest.raises(StateError, match="another `dome-bridge cutover` is at work"):
            await cutover.abort(ready.config)
        with pytest.raises(StateError, match="another `dome-bridge cutover` is at work"):
            await ready.cut_over()
    assert (await attempt).state is State.COMMITTED


async def test_database_connections_lost_behind_the_fence_lead_back(ready: Ready) -> None:
    async with at_the_decision(ready) as attempt:
        for row in await ready.maria.fetch(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE DB IN (%s, %s)",
            (ready.config.dpm.cns_db, ready.config.dpm.dpm_db),
        ):
            await ready.maria.execute(f"KILL {row[0]}")
    assert (await attempt).state is State.ABORTED
    await ready.assert_given_back()


async def test_chimera_connections_lost_behind_the_fence_lead_back(ready: Ready) -> None:
    async with at_the_decision(ready) as attempt:
        await ready.ask(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'dome-bridge'"
            " AND pid <> pg_backend_pid()"
        )
    assert (await attempt).state is State.ABORTED
    await ready.assert_given_back()


async def test_interrupted_cutover_is_taken_up_where_it_was(
    ready: Ready, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_the_decision(ready) as attempt:
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
    assert "cutover --abort" in caplog.text
    assert not await ready.is_writable()
    report = await ready.cut_over()
    assert report.state is State.COMMITTED
    assert await ready.ask("SELECT count(*) FROM dome_bridge.cutover") == 1
