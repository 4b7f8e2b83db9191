"""Defects of other tools' cutovers that became public, as scenarios of ours: what may be believed as applied.

Each is named after the tool and its thread, and is run twice: as it should be, and with one named
step deliberately broken, where the scenario must notice. The rest is in test_cutover_more_defects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncpg
import pytest

from dome_bridge.chimera import state
from dome_bridge.dpm.fenced import is_fenced
from dome_bridge.dpm.source import Source, StatementError
from dome_bridge.errors import BridgeError, CutoverError
from dome_bridge.exporter import cutover, cutover_plan, cutover_steps, fence, service
from dome_bridge.exporter.cutover import Terms
from dome_bridge.exporter.cutover_plan import MOVES, Move, State, Step
from dome_bridge.exporter.cutover_steps import Options, Outcome, Steps, Waiting
from dome_bridge.exporter.follow import Follower
from dome_bridge.exporter.initialise import initialise
from dome_bridge.exporter.journal import JOURNAL_TABLE, Journal, JournalKind, JournalRow
from dome_bridge.exporter.mirror import Applied, Mirror
from dome_bridge.exporter.service import sync_once
from dome_bridge.exporter.session import open_session
from dome_bridge.exporter.snapshot import SnapshotReport
from dome_bridge.exporter.verify import Mismatch, Verifier
from sandbox.catalog import make_site
from sandbox.servers import MariaServer
from sandbox.site import SiteOptions
from tests.fixtures.cutover import Ready, agreed, in_state, silent, terms
from tests.fixtures.databases import DpmSite
from tests.fixtures.defect import (
    SOUND_AND_BROKEN,
    begun,
    fast_clock,
    for_a_while,
    mirror_at_a_standstill,
    noticed,
)
from tests.fixtures.snapshot import bridge_config
from tests.test_cutover_uploads import BEGIN, DONE, size_in_chimera, write

SIZE = "UPDATE Cns_file_metadata SET filesize = %s WHERE fileid = %s"


async def change_one_by_one(ready: Ready, fileids: Iterable[int], size: int) -> None:
    """Each in a transaction of its own."""
    async with await Source.connect(ready.config.dpm) as source:
        for fileid in fileids:
            await source.execute(SIZE, (size, fileid))


async def sizes(ready: Ready, fileids: Iterable[int]) -> set[int]:
    async with ready.chimera() as conn:
        site = await state.load_site(conn)
        inumbers = [site.inumber(fileid) for fileid in fileids]
        rows = await conn.fetch("SELECT isize FROM t_inodes WHERE inumber = ANY($1)", inumbers)
    return {row["isize"] for row in rows}


@SOUND_AND_BROKEN
async def test_pgcopydb_1049_committed_transactions_before_the_end_were_not_applied(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """It ended well when its reader was done, with a backlog of small transactions left.

    Broken: `Steps._is_drained` says yes as soon as the marker is written. (The comparison behind it
    then refuses the commit, and soon: behind the fence nothing is waited for that cannot come.)
    """

    async def once_written(steps: Steps) -> bool:
        return True

    if broken:
        monkeypatch.setattr(Steps, "_is_drained", once_written)
        monkeypatch.setattr(cutover_steps, "SETTLE_SECONDS", 0.5)
    fileids = await ready.files(40)
    async with mirror_at_a_standstill(ready):
        for times in range(3):
            await change_one_by_one(ready, fileids, 7000 + times)
        attempt = asyncio.create_task(ready.cut_over(batch=40))
        await (asyncio.wait((attempt,)) if broken else in_state(ready, State.QUIET))
    report = await attempt
    assert report.fence_seconds < 20
    with noticed(broken, "not applied"):
        assert await sizes(ready, fileids) == {7002}, "transactions before the end were not applied"
        assert report.state is State.COMMITTED
        marker = (await ready.progress()).marker
        assert marker == await ready.ask("SELECT nonce FROM dome_bridge.cutover"), "no marker came through"


@SOUND_AND_BROKEN
async def test_pgcopydb_1050_keepalive_moved_the_position_past_unapplied_commits(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Broken: `Journal.read_batch` lets heartbeats and markers overtake changes."""
    in_turn = Journal.read_batch

    async def overtaking(journal: Journal, limit: int) -> list[JournalRow]:
        rows = await in_turn(journal, 1_000)
        return sorted(rows, key=lambda row: row.kind < JournalKind.HEARTBEAT)[:limit]

    if broken:
        monkeypatch.setattr(Journal, "read_batch", overtaking)
    await ready.alter("UPDATE dome_bridge.progress SET heartbeat_at = 1")
    await change_one_by_one(ready, await ready.files(3), 1)
    async with open_session(ready.config) as session, session.mirror() as mirror:
        await Journal(session.source).write_heartbeat()
        await Journal(session.source).write_marker(b"the end")
        follower = Follower(mirror, batch=1)
        with noticed(broken, "moved past"):
            for _ in range(3):
                await follower.apply_batch()
                found = await ready.progress()
                assert (found.heartbeat_at, found.marker) == (1, None), "the position moved past changes"
        while await Journal(session.source).read_batch(1):
            await follower.apply_batch()
    found = await ready.progress()
    assert found.marker == "the end"
    assert found.heartbeat_at != 1


LOSE_CONNECTION = """
CREATE FUNCTION lose_connection() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END';
CREATE TRIGGER lose_connection BEFORE UPDATE ON t_inodes FOR EACH ROW EXECUTE FUNCTION lose_connection()"""


@SOUND_AND_BROKEN
async def test_pgcopydb_1048_the_requested_end_was_reported_as_the_applied_position(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """The connection to Chimera is lost while a batch with the marker in it is applied.

    Broken: `Mirror.apply_ids` notes the position before the transaction that it speaks of.
    """
    apply_ids = Mirror.apply_ids

    async def noting_first(mirror: Mirror, fileids: Iterable[int], *, at_commit: Any = None) -> Applied:
        async with mirror.conn.transaction():
            await at_commit(mirror.conn)
        return await apply_ids(mirror, fileids)

    if broken:
        monkeypatch.setattr(Mirror, "apply_ids", noting_first)
    before = await ready.progress()
    fileids = await ready.files(1)
    await change_one_by_one(ready, fileids, 4812)
    await ready.alter(LOSE_CONNECTION)
    async with open_session(ready.config) as session, session.mirror() as mirror:
        await Journal(session.source).write_marker(b"the end")
        with pytest.raises((BridgeError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await Follower(mirror, batch=100).apply_batch()
    with noticed(broken, "counts as applied"):
        assert await ready.progress() == before, "what was only read counts as applied"
    await ready.alter("DROP TRIGGER lose_connection ON t_inodes")
    await ready.sync()
    assert (await ready.progress()).marker == "the end"
    assert await sizes(ready, fileids) == {4812}


class StopHereError(Exception):
    """Cuts a first copy short."""


@SOUND_AND_BROKEN
async def test_pgcopydb_427_end_set_before_the_start_and_during_the_copy_was_not_reached(
    maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Set before the follower's first start, then during a copy that is cut short, then it starts anew.

    Broken: `copy_if_needed` believes that the copy covers what waits in the journal, and empties it.
    """
    copy = service.copy_if_needed

    async def emptying(session: Any, **watched: Any) -> SnapshotReport:
        await session.source.execute(f"DELETE FROM {session.source.cns}.{JOURNAL_TABLE}")
        return await copy(session, **watched)

    def stop_here(step: str, entries: int, expected: int) -> None:
        raise StopHereError

    if broken:
        monkeypatch.setattr(service, "copy_if_needed", emptying)
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SiteOptions(files=30))
    site = Ready(bridge_config(dpm_site, chimera_dsn), maria)
    await initialise(site.config)
    async with await Source.connect(site.config.dpm) as source:
        await Journal(source).write_marker(b"before the start")
        with pytest.raises((StopHereError, ExceptionGroup)):
            await sync_once(site.config, advance=stop_here)
        found = await site.progress()
        assert (found.snapshot_finished, found.marker) == (None, None)
        await Journal(source).write_marker(b"during the copy")
    await sync_once(site.config, advance=silent)
    with noticed(broken, "was forgotten"):
        assert (await site.progress()).marker == "during the copy", "the end was forgotten"


async def test_pgcopydb_428_662_end_is_met_at_once_after_a_restart(ready: Ready) -> None:
    """The cutover is gone and its marker waits; whoever goes on has not to wait for it.

    Seen failing with `Steps._drain` that looks every five seconds only, and with `Record._take` that
    takes a new nonce instead of the recorded one.
    """
    async with mirror_at_a_standstill(ready):
        attempt = asyncio.create_task(ready.cut_over())
        await in_state(ready, State.QUIET)
        attempt.cancel()
        await asyncio.wait((attempt,))
    nonce = await ready.ask("SELECT nonce FROM dome_bridge.cutover")
    report = await ready.cut_over()
    assert report.state is State.COMMITTED
    assert (await ready.progress()).marker == nonce
    assert dict(report.steps)[Step.DRAIN] < 3.0


@SOUND_AND_BROKEN
async def test_pgcopydb_643_follow_seemed_to_hang_because_it_did_not_say_what_it_waits_for(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: bool
) -> None:
    """A minute of waits, by a fast clock. Broken: `Waiting.for_` says nothing."""

    async def silently(waiting: Waiting, what: str, seconds: float = 0.1) -> None:
        await waiting._clock.sleep(seconds)

    if broken:
        monkeypatch.setattr(Waiting, "for_", silently)
    said: list[str] = []
    flag = tmp_path / "postpone"
    flag.touch()
    await write(ready, *BEGIN)
    options = Options(upload_wait_seconds=60.0, postpone_file=flag)
    patient = Terms(options, say=said.append, clock=fast_clock(60.0))
    async with begun(ready, patient) as found, AsyncExitStack() as standstill:
        await standstill.enter_async_context(mirror_at_a_standstill(ready))
        async with for_a_while(found.steps.do(Step.DRAIN), 0.4):
            await standstill.aclose()
        await found.steps.do(Step.AWAIT_UPLOADS)
        async with for_a_while(found.steps.do(Step.DECIDE), 0.4):
            flag.unlink()
    with noticed(broken, "said nothing"):
        for what in ("the marker in the journal, behind 2 changes", "uploads (fileid ", str(flag)):
            times = [text for text in said if what in text]
            assert len(times) >= 2, f"it said nothing of {what}: {said}"
            assert times[0].startswith("waiting for ")


@SOUND_AND_BROKEN
async def test_spirit_156_last_rows_were_lost_at_the_switch(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Two changes of the newest files vanish on the way; no count and no sum can tell.

    Broken: `Verifier.check_ids`, by which the newest rows are compared again, compares nothing.
    """

    async def blind(verifier: Verifier, fileids: Iterable[int]) -> tuple[list[Mismatch], set[int]]:
        return [], set()

    if broken:
        monkeypatch.setattr(Verifier, "check_ids", blind)
    newest = await ready.files(2, newest_first=True)
    async with mirror_at_a_standstill(ready):
        for fileid in newest:
            await ready.write("UPDATE Cns_file_metadata SET filemode = 32768 WHERE fileid = %s", fileid)
        attempt = asyncio.create_task(ready.cut_over())
        await in_state(ready, State.QUIET)
        await ready.write(f"DELETE FROM {JOURNAL_TABLE} WHERE kind = 1")
    report = await attempt
    with noticed(broken, "committed without"):
        assert report.state is State.ABORTED, "committed without the last rows"
        assert "2 of the newest and changed entries differ" in report.reason
        assert await ready.is_writable()


@SOUND_AND_BROKEN
async def test_vitess_16563_position_was_taken_before_the_last_writes_were_blocked(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """One transaction is open while the fence goes up, one upload would end just after the marker.

    Broken: `cutover_plan.MOVES` drains before it shuts the fence.
    """
    swapped = {
        **MOVES,
        State.SHUTTING: Move(Step.DRAIN, State.QUIET),
        State.QUIET: Move(Step.SHUT_FENCE, State.DRAINED),
    }
    if broken:
        monkeypatch.setattr(cutover_plan, "MOVES", MappingProxyType(swapped))
    late: list[bool] = []
    do = Steps.do

    async def watched(steps: Steps, step: Step) -> Outcome:
        done = await do(steps, step)
        if step is Step.DRAIN:
            late.append(await is_written(ready, DONE[2]))
        return done

    monkeypatch.setattr(Steps, "do", watched)
    await write(ready, *BEGIN)
    [fileid] = await ready.files(1)
    async with await Source.connect(ready.config.dpm) as open_one:
        await open_one.execute("START TRANSACTION")
        await open_one.execute(SIZE, (4813, fileid))
        attempt = asyncio.create_task(ready.cut_over(Options(upload_wait_seconds=0.0)))
        await in_state(ready, State.FENCING)
        await asyncio.sleep(0.2)
        await open_one.execute("COMMIT")
    report = await attempt
    with noticed(broken, "behind the marker"):
        assert late == [False], "a write was taken behind the marker"
        assert report.state is State.COMMITTED
        assert await sizes(ready, [fileid]) == {4813}, "the open transaction is missing"


async def is_written(ready: Ready, *statements: str) -> bool:
    """False if the fence refuses."""
    try:
        await write(ready, *statements)
    except StatementError as exc:
        if not is_fenced(exc):
            raise
        return False
    return True


@SOUND_AND_BROKEN
async def test_vitess_9400_9453_what_was_open_across_the_switch_was_committed_on_the_old_side(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Two uploads were granted before the fence: one ends behind it and counts, one is left out by name.

    Broken: `raise_fence` refuses everything from the start.
    """
    raise_fence = fence.raise_fence

    async def at_once(*args: Any, open_to_uploads: bool, **named: Any) -> None:
        await raise_fence(*args, **named)

    if broken:
        monkeypatch.setattr(fence, "raise_fence", at_once)
    other = [statement.replace("9000001", "9000002").replace("upload", "never-ends") for statement in BEGIN]
    await write(ready, *BEGIN, *other)
    attempt = asyncio.create_task(ready.cut_over(Options(upload_wait_seconds=0.8)))
    await in_state(ready, State.FENCED)
    has_ended = await is_written(ready, *DONE)
    report = await attempt
    with noticed(broken, "must not end"):
        assert has_ended, "an upload that was granted must not end"
        assert report.state is State.COMMITTED
        assert await size_in_chimera(ready) == 77
        assert "/never-ends" in report.details[Step.DRAIN]
        assert not await is_written(ready, DONE[0].replace("9000001", "9000002"))


@SOUND_AND_BROKEN
async def test_vitess_16794_switch_was_allowed_although_the_way_back_could_not_work(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """The account may make triggers, and loses that right before it could drop one.

    Broken: `fence._lift_probe`, which tries the way back, tries nothing.
    """
    raise_probe = fence._raise_probe

    async def and_lose_the_right(source: Source, *args: Any) -> float:
        seconds = await raise_probe(source, *args)
        await ready.maria.revoke(ready.config.dpm.cns_db, privileges="TRIGGER")
        # A connection looks up the rights on its database when it chooses it.
        await source.execute(f"USE {source.cns}")
        return seconds

    async def untried(source: Source) -> None:
        await fence._drop_probe(source)

    monkeypatch.setattr(fence, "_raise_probe", and_lose_the_right)
    if broken:
        monkeypatch.setattr(fence, "_lift_probe", untried)
    with pytest.raises(CutoverError) as refused:
        await cutover.cut_over(ready.config, confirm=agreed, terms=terms())
    with noticed(broken, "not tried"):
        assert "rollback-proven: " in str(refused.value), "the way back was not tried"
        assert "fence-possible: " not in str(refused.value)
    await ready.maria.grant(ready.config.dpm.cns_db)
    await ready.assert_untouched()
