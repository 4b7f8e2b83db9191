"""Defects of other tools' cutovers that became public, as scenarios of ours: ways back, gates, liveness.

See test_cutover_defects, of which this is the second part.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import asyncpg
import pytest

from dome_bridge.chimera import state
from dome_bridge.chimera.state import Phase
from dome_bridge.dpm import schema
from dome_bridge.dpm.source import Source
from dome_bridge.errors import BridgeError, CutoverError, FenceError, SchemaError, SourceError
from dome_bridge.exporter import cutover, cutover_plan, cutover_steps, fence, gate_readings
from dome_bridge.exporter.cutover_plan import Event, State, Step
from dome_bridge.exporter.cutover_record import CutoverReport, last_report
from dome_bridge.exporter.cutover_steps import Options
from dome_bridge.exporter.fence import FenceState
from dome_bridge.exporter.fence_forecast import Costs
from dome_bridge.exporter.follow import Follower
from dome_bridge.exporter.initialise import initialise
from dome_bridge.exporter.journal import JOURNAL_TABLE, Journal
from dome_bridge.exporter.service import MirrorService, Unobserved
from dome_bridge.exporter.session import open_session
from dome_bridge.exporter.tally import Tally
from dome_bridge.exporter.verify import LastVerify, verify_site
from tests.fixtures.command import until
from tests.fixtures.cutover import Ready, declined, terms
from tests.fixtures.defect import SOUND_AND_BROKEN, begun, mirror_at_a_standstill, noticed


async def why_refused(ready: Ready, options: Options | None = None) -> str:
    """By the gates. Who passes them is stopped by the administrator: nothing is ever begun."""
    with pytest.raises(CutoverError) as refused:
        await cutover.cut_over(ready.config, confirm=declined, terms=terms(options))
    await ready.assert_untouched()
    return str(refused.value)


@SOUND_AND_BROKEN
async def test_vitess_17326_failure_in_the_middle_left_both_sides_refusing(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """It fails with the fence just shut, and the first attempt to lift it fails as well.

    Broken: `cutover._go_back` leaves everything as it is; then an abort, run twice, helps.
    """
    lift, shut, failures = fence.lift_fence, fence.shut_fence, [True]

    async def shut_and_fail(*args: Any, **named: Any) -> None:
        await shut(*args, **named)
        raise FenceError("made to fail")

    async def fail_once(*args: Any, **named: Any) -> bool:
        if failures:
            failures.pop()
            raise SourceError("made to fail, too")
        return await lift(*args, **named)

    async def stay_here(config: Any, reason: str, given: Any) -> CutoverReport:
        async with ready.chimera() as conn:
            return await last_report(conn)

    monkeypatch.setattr(fence, "shut_fence", shut_and_fail)
    monkeypatch.setattr(fence, "lift_fence", fail_once)
    monkeypatch.setattr(cutover, "RETURN_PAUSE", 0.01)
    if broken:
        monkeypatch.setattr(cutover, "_go_back", stay_here)
    report = await ready.cut_over()
    with noticed(broken, "both sides refuse"):
        assert await ready.is_writable(), "both sides refuse service"
        assert (report.state, report.reason) == (State.ABORTED, "shut-fence: made to fail")
    failures.clear()
    for _ in range(2):
        assert (await cutover.abort(ready.config)).state is State.ABORTED
    await ready.assert_given_back()


@SOUND_AND_BROKEN
async def test_vitess_9525_switch_was_begun_with_a_huge_lag(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Broken: `Costs.fence_seconds` forgets what waits in the journal."""

    def without_backlog(costs: Costs, backlog: int) -> float:
        return sum(costs.seconds.values())

    if broken:
        monkeypatch.setattr(Costs, "fence_seconds", without_backlog)
    async with mirror_at_a_standstill(ready):
        for _ in range(10):
            await ready.write(
                f"INSERT INTO {JOURNAL_TABLE} (kind, fileid, op)"
                " SELECT 1, fileid, 'U' FROM Cns_file_metadata LIMIT 250"
            )
        refused = await why_refused(ready, Options(max_fence_seconds=2.0))
    with noticed(broken, "was begun"):
        assert "drain: the fence would stand for about 2 s" in refused, "the switch was begun"
        assert "--max-fence" in refused


@SOUND_AND_BROKEN
async def test_gh_ost_444_cut_over_with_half_of_the_rows(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Of each second file but the newest nothing is left in Chimera, and no journal tells.

    Broken: `Tally.differences` finds none.
    """

    def none_found(tally: Tally) -> list[str]:
        return []

    if broken:
        monkeypatch.setattr(Tally, "differences", none_found)
    monkeypatch.setattr(cutover_steps, "NEWEST", 1)
    half = "SELECT inumber FROM t_inodes WHERE itype = 32768 ORDER BY inumber LIMIT 125"
    await ready.alter(f"DELETE FROM t_dirs WHERE ichild IN ({half})")
    await ready.alter(
        "DELETE FROM t_inodes WHERE itype = 32768 AND inumber NOT IN (SELECT ichild FROM t_dirs)"
    )
    await ready.alter("DELETE FROM t_locationinfo_trash")
    report = await ready.cut_over()
    with noticed(broken, "half of the rows"):
        assert report.state is State.ABORTED, "it was cut over with half of the rows"
        assert "entries, Chimera and the quarantine" in report.reason
        assert [name for name, _ in report.steps] == [Step.LIFT_FENCE], "it was fenced before it was counted"


@SOUND_AND_BROKEN
async def test_gh_ost_475_748_time_out_while_waiting_for_the_marker_ended_the_migration(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """The attempt ends in time, the copy does not: it is followed on, and the next attempt goes through.

    Broken: `cutover_plan.PHASES` sends an aborted cutover back to the first copy.
    """
    if broken:
        anew = {**cutover_plan.PHASES, State.ABORTED: Phase.SNAPSHOT}
        monkeypatch.setattr(cutover_plan, "PHASES", MappingProxyType(anew))
    before = await ready.progress()
    async with mirror_at_a_standstill(ready):
        report = await ready.cut_over(max_fence_seconds=0.5 if broken else 2.0)
    assert report.state is State.ABORTED
    after = await ready.progress()
    with noticed(broken, "the copy was given up"):
        assert after.phase is Phase.FOLLOWING, "the copy was given up"
        assert after.snapshot_finished == before.snapshot_finished
        assert report.reason.startswith("drain: not done within 2 s")
        await ready.assert_given_back()
        assert (await ready.cut_over()).state is State.COMMITTED


@SOUND_AND_BROKEN
async def test_gh_ost_1637_markers_of_earlier_attempts_were_taken_or_piled_up(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Attempts leave their markers in the journal. Broken: `secrets.token_hex` gives each the same nonce."""
    if broken:
        monkeypatch.setattr(secrets, "token_hex", lambda size: "00" * size)
    async with begun(ready) as found:
        for _ in range(5):
            await Journal(found.session.source).write_marker(found.record.nonce.encode())
            await found.record.enter(Event.ABORT)
            await found.record.done(Step.LIFT_FENCE, 0.0, "")
            await found.record.begin((), ())
        await found.steps.catch_up()
        assert (await ready.progress()).marker is not None
        with noticed(broken, "stale marker"):
            assert not await found.steps._is_drained(), "a stale marker was taken for the new one"
            await found.steps.do(Step.DRAIN)
            assert await found.steps._is_drained()
            assert await Journal(found.session.source).read_batch(10) == [], "markers pile up"
    assert await ready.ask("SELECT count(*) FROM dome_bridge.cutover_change") == 0


@SOUND_AND_BROKEN
async def test_pg_chameleon_119_178_running_was_taken_for_alive(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """A mirror is there, and its heartbeats are written; it has applied none for long.

    Broken: `gate_readings._lag` looks at the youngest heartbeat that was written.
    """

    async def of_the_journal(source: Source, heartbeat_at: int | None) -> float:
        age = f"SELECT UNIX_TIMESTAMP() - MAX(at) FROM {source.cns}.{JOURNAL_TABLE}"
        return float(await source.fetchval(age))

    if broken:
        monkeypatch.setattr(gate_readings, "_lag", of_the_journal)
    await ready.alter("UPDATE dome_bridge.progress SET heartbeat_at = heartbeat_at - 5000")
    async with mirror_at_a_standstill(ready):
        await ready.beat()
        refused = await why_refused(ready)
    with noticed(broken, "taken for alive"):
        assert "lag: lag 50" in refused, "a process is taken for alive that makes no progress"


@asynccontextmanager
async def mirroring(ready: Ready) -> AsyncIterator[MirrorService]:
    """The service beside the test, with short pauses."""

    async def briefly(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.1))

    stop = asyncio.Event()
    found = MirrorService(ready.config, stop=stop, observer=Unobserved(), sleep=briefly)
    task = asyncio.create_task(found.run())
    try:
        yield found
        assert not task.done(), "it is dead"
    finally:
        stop.set()
        await asyncio.wait_for(task, 15)


async def follows(ready: Ready, beat: int, seconds: float = 10.0) -> None:
    """Applies another heartbeat than this."""

    async def has_applied() -> bool:
        return (await ready.progress()).heartbeat_at not in (None, beat)

    await ready.alter("UPDATE dome_bridge.progress SET heartbeat_at = $1", beat)
    await until(has_applied, seconds, "the mirror makes progress")


@SOUND_AND_BROKEN
async def test_pg_chameleon_47_150_87_lost_connection_on_an_idle_source_ended_the_mirror(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Progress shows without any change of the catalog, and comes back after all connections are cut.

    Broken: `MirrorService._again` does not try again.
    """

    async def once(mirror: MirrorService, name: str, work: Any) -> None:
        with suppress(BridgeError, *cutover.FAILURES):
            await work()
        await mirror._stop.wait()

    if broken:
        monkeypatch.setattr(MirrorService, "_again", once)
    async with mirroring(ready):
        await follows(ready, 1)
        databases = (ready.config.dpm.cns_db, ready.config.dpm.dpm_db)
        for (number,) in await ready.maria.fetch(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE DB IN (%s, %s)", databases
        ):
            with suppress(Exception):
                await ready.maria.execute(f"KILL {number}")
        with noticed(broken, "makes progress"):
            await follows(ready, 2, 1.5 if broken else 10.0)


@SOUND_AND_BROKEN
async def test_debezium_flink_cdc_271_log_that_was_lost_while_stopped_was_not_missed(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """While nothing runs a trigger is lost, a file changes, and `init` makes the trigger again.

    The journal is no log of the server: what waits in it is purged by nobody. That triggers were
    away is all that can make a hole. Broken: `note_capture_renewed` notes nothing.
    """

    async def forgotten(conn: asyncpg.Connection) -> None: ...

    if broken:
        monkeypatch.setattr(state, "note_capture_renewed", forgotten)
    [fileid] = await ready.files(1)
    trigger = "dome_bridge_capture_cns_file_metadata_update"
    await ready.maria.execute(f"DROP TRIGGER {trigger}", database=ready.config.dpm.cns_db)
    await ready.write("UPDATE Cns_file_metadata SET filemode = 32768 WHERE fileid = %s", fileid)
    assert "capture-current: " in await why_refused(ready)
    await initialise(ready.config)
    with noticed(broken, "was not missed"):
        refused = await why_refused(ready)
        assert "verify-clean: there was no verify yet" in refused, "a lost change was not missed"
    assert await ready.verify(repair=True) == 1


async def test_debezium_2519_2227_restart_right_after_the_first_start_failed(ready: Ready) -> None:
    """And what waited meanwhile is still there, heartbeats apart, which are pruned.

    Seen failing with `Journal.prune_heartbeats` that prunes all that waits.
    """
    async with mirroring(ready):
        pass
    [fileid] = await ready.files(1)
    async with await Source.connect(ready.config.dpm) as source:
        await source.execute("UPDATE Cns_file_metadata SET filesize = 4814 WHERE fileid = %s", (fileid,))
        await Journal(source).write_heartbeat()
        assert await Journal(source).prune_heartbeats(-10) >= 1
        assert await Journal(source).backlog() == 1
    async with mirroring(ready):
        await follows(ready, 1)
    size = await ready.ask("SELECT isize FROM t_inodes WHERE inumber = $1", await ready.inumber(fileid))
    assert size == 4814


async def test_python_mysql_replication_510_612_columns_moved_under_the_follower(ready: Ready) -> None:
    """Columns are added in front while a follower is at work: it asks for each by its name.

    Announcing a capability to the server, as replicas must (600, 634), is nothing for us: we are none.
    Seen failing with `read._reading` that takes columns by their place in the table.
    """
    [fileid] = await ready.files(1)
    async with open_session(ready.config) as session, session.mirror() as mirror:
        follower = Follower(mirror, batch=100)
        await follower.drain()
        for table in ("Cns_file_metadata", "Cns_file_replica"):
            await ready.maria.execute(
                f"ALTER TABLE {table} ADD COLUMN site_note VARCHAR(9) DEFAULT 'note' FIRST",
                database=ready.config.dpm.cns_db,
            )
        await ready.write("UPDATE Cns_file_metadata SET filesize = 4815 WHERE fileid = %s", fileid)
        assert await follower.drain() == 1
    size = await ready.ask("SELECT isize FROM t_inodes WHERE inumber = $1", await ready.inumber(fileid))
    assert size == 4815
    assert await ready.verify() == 0
    assert (await ready.cut_over()).state is State.COMMITTED
    assert await ready.fence() is FenceState.STANDING


@SOUND_AND_BROKEN
async def test_python_mysql_replication_399_633_stale_schema_was_guessed_at(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """A column that we need is renamed: that is refused by its name, and not found out in a step.

    Broken: `schema._check_tables` compares nothing.
    """

    def unchecked(name: str, tables: Mapping[str, Any], expected: Mapping[str, Any]) -> None: ...

    if broken:
        monkeypatch.setattr(schema, "_check_tables", unchecked)
    await ready.maria.execute(
        "ALTER TABLE Cns_symlinks CHANGE linkname target BLOB", database=ready.config.dpm.cns_db
    )
    with pytest.raises(BridgeError) as refused:
        await cutover.cut_over(ready.config, confirm=declined, terms=terms())
    with noticed(broken, "was guessed at"):
        assert isinstance(refused.value, SchemaError), "the schema was guessed at"
        assert "Cns_symlinks lacks linkname" in str(refused.value)
    assert await ready.ask("SELECT count(*) FROM dome_bridge.cutover") == 0


class StopHereError(Exception):
    """Cuts a verify short."""


async def verify_a_part(ready: Ready) -> None:
    def stop_here(step: str, entries: int, expected: int) -> None:
        raise StopHereError

    in_parts = replace(ready.config, exporter=replace(ready.config.exporter, snapshot_range=50))
    with pytest.raises(StopHereError):
        await verify_site(in_parts, repair=False, resume=False, advance=stop_here)


async def refused_gates(ready: Ready) -> set[str]:
    """Those that fail just now."""
    async with begun(ready) as found:
        limits = terms().limits(ready.config)
        judged = await gate_readings.judged(found.session, found.admin, limits, prove=True)
    await cutover.abort(ready.config)
    return {gate.id for gate in judged if not gate.ok}


@SOUND_AND_BROKEN
async def test_gitlab_273194_preflight_was_content_with_an_unfinished_verification(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """The only verify was cut short. Broken: `gate_readings.last_verify` takes any that was begun."""

    async def begun_last(conn: asyncpg.Connection) -> LastVerify | None:
        found = await conn.fetchval("SELECT missing FROM dome_bridge.verify_run ORDER BY id DESC LIMIT 1")
        return LastVerify(0.0, found, 0, {}, None)

    if broken:
        monkeypatch.setattr(gate_readings, "last_verify", begun_last)
    await ready.alter("DELETE FROM dome_bridge.verify_run")
    await verify_a_part(ready)
    with noticed(broken, "content with a part"):
        refused = await why_refused(ready)
        assert "verify-clean: there was no verify yet" in refused, "it was content with a part"


async def test_gitlab_320809_check_of_something_else_blocked_the_switch(ready: Ready) -> None:
    """A trigger that somebody else has fails its own gate alone, and the override leaves a record.

    Seen failing with `gate_readings.what_is_wrong_with` that takes foreign triggers for a broken capture.
    """
    await ready.maria.execute(
        "CREATE TRIGGER audit BEFORE INSERT ON Cns_symlinks FOR EACH ROW SET @seen = 1",
        database=ready.config.dpm.cns_db,
    )
    assert await refused_gates(ready) == {"no-foreign-triggers"}
    report = await ready.cut_over(Options(skip_gates=frozenset({"no-foreign-triggers"})))
    assert report.state is State.COMMITTED
    assert await ready.ask("SELECT skipped FROM dome_bridge.cutover ORDER BY id DESC LIMIT 1") == [
        "no-foreign-triggers"
    ]
    recorded = json.loads(await ready.ask("SELECT gates FROM dome_bridge.cutover ORDER BY id DESC LIMIT 1"))
    assert [gate["id"] for gate in recorded if not gate["ok"]] == ["no-foreign-triggers"]
