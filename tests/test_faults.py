"""Kills, cuts and silence at random moments: they cost time and nothing else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from dome_bridge.chimera import target
from dome_bridge.config import load
from dome_bridge.daemon import Daemon
from dome_bridge.dpm.fenced import is_fenced
from dome_bridge.dpm.source import Source, StatementError
from dome_bridge.exporter import service, session
from dome_bridge.exporter.cutover_plan import State
from dome_bridge.exporter.journal import JOURNAL_TABLE, Journal
from dome_bridge.notify import Notifier
from sandbox.acceptance import acceptance_failures
from sandbox.catalog import make_site
from sandbox.proxy import FaultyProxy
from sandbox.servers import MariaServer, PostgresServer
from sandbox.site import SiteOptions
from sandbox.writer import WILD, CatalogWriter
from tests.fixtures.command import Bridge, Running, assert_tidy, bridge_for, until
from tests.fixtures.databases import DpmSite
from tests.fixtures.source import dpm_config

FILES = 1500


@pytest.fixture(params=[20261122, 7], ids=lambda seed: f"seed-{seed}")
def seed(request: pytest.FixtureRequest) -> int:
    print(f"seed={request.param}")
    return int(request.param)


@pytest.fixture
async def bridge(
    maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str, tmp_path: Path
) -> AsyncIterator[Bridge]:
    """A made-up site with rot in it, initialised; nothing is copied yet."""
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SiteOptions(files=FILES), rotten=True)
    async with bridge_for(tmp_path, dpm_site, chimera_dsn) as line:
        line.configure({"exporter": {"snapshot_range": 200, "batch": 300}})
        await line.good("init")
        yield line


def writer_of(maria: MariaServer, site: DpmSite, rng: random.Random) -> CatalogWriter:
    return CatalogWriter(
        lambda: maria.connect(as_dpmmgr=True),
        rng,
        cns=site.cns,
        dpm=site.dpm,
        weights=WILD,
        linger=0.1,
    )


@asynccontextmanager
async def writing(writer: CatalogWriter) -> AsyncIterator[None]:
    """Writes until the end of the block, in which the writer must not have failed."""
    stop = asyncio.Event()
    task = asyncio.create_task(writer.run(stop=stop))
    try:
        yield
    finally:
        stop.set()
        report = await task
        print(f"attempted={report.attempted} deadlocks={report.deadlocks} reconnects={report.reconnects}")
    assert report.done.total() > 20, report


async def phase_is(bridge: Bridge, phase: str) -> bool:
    found = await bridge("status")
    return found.code == 0 and found.json["phase"] == phase


async def agree(bridge: Bridge, site: DpmSite, chimera_dsn: str) -> None:
    """Drains, compares all entries, and asks what dCache would."""
    synced = await bridge.good("sync", "--once")
    assert synced["phase"] == "following"
    verified = await bridge("verify")
    assert verified.code == 0, verified.out
    assert (verified.json["missing"], verified.json["extra"], verified.json["different"]) == (0, 0, 0)
    async with await Source.connect(dpm_config(site)) as source:
        assert await source.fetchval(f"SELECT COUNT(*) FROM {source.cns}.{JOURNAL_TABLE}") == 0
    conn = await asyncpg.connect(chimera_dsn)
    try:
        assert await acceptance_failures(conn) == {}
    finally:
        await conn.close()


async def stop(daemon: Running) -> None:
    daemon.terminate()
    done = await daemon.wait(20)
    assert done.code == 0, done.err[-3000:]
    assert_tidy(done.err)


@pytest.mark.long
async def test_daemon_killed_at_random_moments_loses_nothing(
    maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str, bridge: Bridge, seed: int
) -> None:
    rng = random.Random(seed)
    async with writing(writer_of(maria, dpm_site, rng)):
        for life in range(10):
            daemon = bridge.start("run")
            # The first lives are too short for the whole first copy.
            await asyncio.sleep(rng.uniform(0.8, 1.8) if life < 4 else rng.uniform(0.9, 3.0))
            daemon.kill()
            assert_tidy((await daemon.wait()).err)
        daemon = bridge.start("run")
        await until(lambda: phase_is(bridge, "following"), 60, "following")
    await stop(daemon)
    await agree(bridge, dpm_site, chimera_dsn)


async def crash_at_random(
    server: MariaServer | PostgresServer, rng: random.Random, *, times: int, pause: float
) -> None:
    for _ in range(times):
        await asyncio.sleep(rng.uniform(0.3, pause))
        await server.kill()
        await asyncio.sleep(rng.uniform(0.0, 1.0))
        await server.start()


@pytest.mark.long
async def test_source_server_killed_and_restarted_is_met_again(
    mortal_maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str, bridge: Bridge, seed: int
) -> None:
    rng = random.Random(seed)
    daemon = bridge.start("run")
    async with writing(writer_of(mortal_maria, dpm_site, rng)):
        await crash_at_random(mortal_maria, rng, times=5, pause=4.0)
        await until(lambda: phase_is(bridge, "following"), 60, "following")
    assert daemon.is_running, daemon.log[-3000:]
    await stop(daemon)
    await agree(bridge, dpm_site, chimera_dsn)


@pytest.mark.long
async def test_target_server_killed_and_restarted_is_met_again(
    mortal_postgres: PostgresServer,
    maria: MariaServer,
    dpm_site: DpmSite,
    chimera_dsn: str,
    bridge: Bridge,
    seed: int,
) -> None:
    rng = random.Random(seed)
    daemon = bridge.start("run")
    async with writing(writer_of(maria, dpm_site, rng)):
        await crash_at_random(mortal_postgres, rng, times=5, pause=4.0)
        await until(lambda: phase_is(bridge, "following"), 60, "following")
    assert daemon.is_running, daemon.log[-3000:]
    await stop(daemon)
    await agree(bridge, dpm_site, chimera_dsn)


async def metric(bridge: Bridge, name: str) -> float:
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"http://127.0.0.1:{bridge.port}/metrics") as got,
    ):
        for line in (await got.text()).splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    raise AssertionError(f"no metric {name}")


async def health(bridge: Bridge) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"http://127.0.0.1:{bridge.port}/healthz") as got,
    ):
        return got.status, await got.text()


async def follows(bridge: Bridge) -> bool:
    try:
        return (await health(bridge))[0] == 200 and await metric(bridge, "dome_bridge_mirror_lag_seconds") < 3
    except aiohttp.ClientError:
        return False


def through(proxy: FaultyProxy) -> Mapping[str, object]:
    return {"host": proxy.host, "port": proxy.port}


@pytest.mark.long
async def test_cut_source_connection_makes_lag_grow_and_is_made_again(
    dpm_site: DpmSite, chimera_dsn: str, bridge: Bridge
) -> None:
    async with FaultyProxy(dpm_site.host, dpm_site.port) as proxy:
        bridge.configure({"dpm": through(proxy)})
        daemon = bridge.start("run")
        await until(lambda: follows(bridge), 60, "following")
        await proxy.cut()
        await until(lambda: follows(bridge), 30, "following again")
        await proxy.stop()
        lag = await metric(bridge, "dome_bridge_mirror_lag_seconds")
        await asyncio.sleep(3)
        assert await metric(bridge, "dome_bridge_mirror_lag_seconds") > lag + 2
        code, why = await health(bridge)
        assert code == 503
        assert "database server" in why
        await proxy.heal()
        await until(lambda: follows(bridge), 40, "following after the healing")
        await stop(daemon)
    await agree(bridge_without_proxy(bridge), dpm_site, chimera_dsn)


def bridge_without_proxy(bridge: Bridge) -> Bridge:
    bridge.configure()
    return bridge


@pytest.mark.long
async def test_deaf_source_makes_lag_grow_and_is_given_up_after_a_time(
    dpm_site: DpmSite, chimera_dsn: str, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In process, for the time that a statement may take is not for an administrator to set."""
    monkeypatch.setattr(session, "STATEMENT_SECONDS", 3.0)
    monkeypatch.setattr(service, "HEARTBEAT_TIMEOUT", 2.0)
    async with FaultyProxy(dpm_site.host, dpm_site.port) as proxy:
        bridge.configure({"dpm": through(proxy)})
        ended = asyncio.Event()
        daemon = Daemon(load(bridge.file, {}), stop=ended, notifier=Notifier(), monitoring_port=bridge.port)
        running = asyncio.create_task(daemon.run())
        try:
            await until(lambda: follows(bridge), 60, "following")
            proxy.go_deaf()
            await asyncio.sleep(5)
            assert await metric(bridge, "dome_bridge_mirror_lag_seconds") > 4
            assert (await health(bridge))[0] == 503
            await proxy.heal()
            await until(lambda: follows(bridge), 60, "following after the deafness")
        finally:
            ended.set()
            await asyncio.wait_for(running, 30)
    await agree(bridge_without_proxy(bridge), dpm_site, chimera_dsn)


@pytest.mark.long
async def test_stop_while_the_source_is_deaf_ends_within_half_a_minute(
    dpm_site: DpmSite, bridge: Bridge
) -> None:
    async with FaultyProxy(dpm_site.host, dpm_site.port) as proxy:
        bridge.configure({"dpm": through(proxy)})
        daemon = bridge.start("run")
        await until(lambda: follows(bridge), 60, "following")
        proxy.go_deaf()
        await asyncio.sleep(1)
        daemon.terminate()
        assert (await daemon.wait(30)).code == 0
        assert_tidy(daemon.log)


# The cutover, killed in each of its steps. Each stall keeps one step from ending and no other.


@asynccontextmanager
async def dump_running(site: DpmSite, chimera_dsn: str) -> AsyncIterator[None]:
    """An open transaction that has read a catalog table: no trigger can be made or dropped."""
    async with await Source.connect(dpm_config(site)) as source:
        await source.execute("START TRANSACTION")
        await source.fetch("SELECT COUNT(*) FROM Cns_file_metadata")
        yield
        await source.execute("ROLLBACK")


@asynccontextmanager
async def in_chimera(chimera_dsn: str, statement: str) -> AsyncIterator[None]:
    """A transaction with the statement's locks, for as long as the server lives."""
    conn = await asyncpg.connect(chimera_dsn)
    try:
        await conn.execute("BEGIN")
        await conn.execute(statement)
        yield
    finally:
        with suppress(OSError, asyncpg.PostgresError):
            await conn.close()


def applier_elsewhere(site: DpmSite, chimera_dsn: str) -> AbstractAsyncContextManager[None]:
    return in_chimera(chimera_dsn, f"SELECT pg_advisory_xact_lock({target.LOCKS}, {target.APPLIER})")


def small_table_locked(site: DpmSite, chimera_dsn: str) -> AbstractAsyncContextManager[None]:
    return in_chimera(chimera_dsn, "LOCK TABLE dome_bridge.dpm_group IN ACCESS EXCLUSIVE MODE")


def gate_in_use(site: DpmSite, chimera_dsn: str) -> AbstractAsyncContextManager[None]:
    return in_chimera(chimera_dsn, f"SELECT pg_advisory_xact_lock_shared({target.LOCKS}, {target.GATE})")


Stall = Callable[[DpmSite, str], AbstractAsyncContextManager[None]]

STALLS: dict[State, Stall] = {
    State.PREPARING: gate_in_use,
    State.FENCING: dump_running,
    State.QUIET: applier_elsewhere,
    State.DRAINED: small_table_locked,
}


@pytest.fixture
async def ready(bridge: Bridge, dpm_site: DpmSite) -> Bridge:
    """Copied and compared, with a heartbeat; nothing but the administrator's word is missing."""
    bridge.configure({"exporter": {"lock_wait_seconds": 1.0, "max_lag_seconds": 600.0}})
    async with await Source.connect(dpm_config(dpm_site)) as source:
        await Journal(source).write_heartbeat()
    await bridge.good("sync", "--once")
    await bridge.good("verify")
    await bridge.accept_quarantine()
    return bridge


async def state_of(chimera_dsn: str) -> str | None:
    conn = await asyncpg.connect(chimera_dsn)
    try:
        found = await conn.fetchval("SELECT state FROM dome_bridge.cutover ORDER BY id DESC LIMIT 1")
    finally:
        await conn.close()
    return None if found is None else str(found)


async def kill_in(
    wanted: State, ready: Bridge, site: DpmSite, chimera_dsn: str, *command: str, stall: Stall
) -> None:
    """Starts the command, waits for the state in which it hangs, and kills it there."""

    async def is_reached() -> bool:
        return await state_of(chimera_dsn) == wanted

    async with stall(site, chimera_dsn):
        running = ready.start(*command)
        await until(is_reached, 30, f"{wanted}: {running.log}")
        await asyncio.sleep(0.4)
        assert await is_reached()
        running.kill()
        await running.wait()
    await no_cutover_left(chimera_dsn)


async def no_cutover_left(chimera_dsn: str) -> None:
    """The killed one's sessions end as soon as the servers notice."""

    async def is_gone() -> bool:
        conn = await asyncpg.connect(chimera_dsn)
        try:
            return not await conn.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'dome-bridge'"
            )
        finally:
            await conn.close()

    await until(is_gone, 20, "sessions of the killed cutover are gone")


async def is_writable(site: DpmSite) -> bool:
    async with await Source.connect(dpm_config(site)) as source:
        try:
            await source.execute("UPDATE Cns_file_metadata SET mtime = mtime + 1 WHERE fileid = 1")
        except StatementError as exc:
            if not is_fenced(exc):
                raise
            return False
    return True


async def assert_committed(ready: Bridge, site: DpmSite, chimera_dsn: str) -> None:
    assert await state_of(chimera_dsn) == State.COMMITTED
    assert (await ready.good("status"))["phase"] == "committed"
    assert not await is_writable(site)
    conn = await asyncpg.connect(chimera_dsn)
    try:
        assert await acceptance_failures(conn) == {}
    finally:
        await conn.close()


async def assert_given_back(ready: Bridge, site: DpmSite, chimera_dsn: str) -> None:
    assert await state_of(chimera_dsn) == State.ABORTED
    assert await is_writable(site)
    await agree(ready, site, chimera_dsn)


@pytest.mark.long
@pytest.mark.parametrize("state", STALLS)
async def test_cutover_killed_in_a_step_goes_on_to_the_commit(
    maria: MariaServer, ready: Bridge, dpm_site: DpmSite, chimera_dsn: str, state: State
) -> None:
    await kill_in(state, ready, dpm_site, chimera_dsn, "cutover", "--yes", stall=STALLS[state])
    again = await ready("cutover", "--yes")
    assert again.code == 0, again.err
    assert again.json["state"] == "committed"
    await assert_committed(ready, dpm_site, chimera_dsn)


@pytest.mark.long
@pytest.mark.parametrize("state", STALLS)
async def test_cutover_killed_in_a_step_can_be_aborted(
    maria: MariaServer, ready: Bridge, dpm_site: DpmSite, chimera_dsn: str, state: State
) -> None:
    await kill_in(state, ready, dpm_site, chimera_dsn, "cutover", "--yes", stall=STALLS[state])
    aborted = await ready("cutover", "--abort")
    assert aborted.code == 0, aborted.err
    assert aborted.json["state"] == "aborted"
    await assert_given_back(ready, dpm_site, chimera_dsn)


@pytest.mark.long
@pytest.mark.parametrize("again", [("cutover", "--abort"), ("cutover", "--yes")], ids=["abort", "cutover"])
async def test_abort_killed_while_it_lifts_the_fence_is_finished_by_either_command(
    ready: Bridge, dpm_site: DpmSite, chimera_dsn: str, again: tuple[str, ...]
) -> None:
    await kill_in(State.QUIET, ready, dpm_site, chimera_dsn, "cutover", "--yes", stall=applier_elsewhere)
    await kill_in(State.ABORTING, ready, dpm_site, chimera_dsn, "cutover", "--abort", stall=dump_running)
    done = await ready(*again)
    assert done.code == (0 if "--abort" in again else 1), done.err
    assert done.json["state"] == "aborted"
    await assert_given_back(ready, dpm_site, chimera_dsn)


@pytest.mark.long
async def test_cutover_killed_at_random_moments_ends_in_one_of_two_ways(
    maria: MariaServer, ready: Bridge, dpm_site: DpmSite, chimera_dsn: str, seed: int
) -> None:
    """Kills between and inside steps, the fence half raised or half lifted, with the daemon beside it."""
    rng = random.Random(seed)
    daemon = ready.start("run")
    await until(lambda: follows(ready), 60, "following")
    for _ in range(4):
        running = ready.start("cutover", "--yes")
        await asyncio.sleep(rng.uniform(0.9, 2.2))
        running.kill()
        await running.wait()
        if await state_of(chimera_dsn) == State.COMMITTED:
            break
        if rng.random() < 0.5:
            running = ready.start("cutover", "--abort")
            await asyncio.sleep(rng.uniform(0.9, 1.8))
            running.kill()
            await running.wait()
    if await state_of(chimera_dsn) != State.COMMITTED:
        await until(lambda: taken_up(ready), 60, "a last cutover")
    assert daemon.is_running
    await stop(daemon)
    await assert_committed(ready, dpm_site, chimera_dsn)


async def taken_up(ready: Bridge) -> bool:
    """The first run may only finish an abort, or meet the sessions of a killed one."""
    done = await ready("cutover", "--yes")
    assert_tidy(done.err)
    return done.code == 0 and done.json["state"] == "committed"


@pytest.fixture
async def fence_admin(maria: MariaServer, ready: Bridge) -> AsyncIterator[Mapping[str, object]]:
    """An account that may see whose transactions are open."""
    password = "fence-secret"
    await maria.execute(f"CREATE USER 'fence_admin'@'%' IDENTIFIED BY '{password}'")
    await maria.execute("GRANT ALL PRIVILEGES ON *.* TO 'fence_admin'@'%'")
    try:
        yield {
            "admin_user": "fence_admin",
            "admin_password_file": str(ready.secret("admin-password", password)),
        }
    finally:
        await maria.execute("DROP USER 'fence_admin'@'%'")


async def test_cutover_that_takes_too_long_is_aborted_and_names_who_was_in_the_way(
    ready: Bridge, dpm_site: DpmSite, chimera_dsn: str, fence_admin: Mapping[str, object]
) -> None:
    exporter = {"lock_wait_seconds": 1.0, "max_lag_seconds": 600.0, "max_fence_seconds": 4.0}
    ready.configure({"dpm": fence_admin, "exporter": exporter})
    async with await Source.connect(dpm_config(dpm_site)) as dump:
        await dump.execute("START TRANSACTION")
        await dump.fetch("SELECT COUNT(*) FROM Cns_file_metadata")
        number = dump.connection_id
        done = await ready("cutover", "--yes")
    assert done.code == 1
    assert done.json["state"] == "aborted"
    assert f"connection {number} " in done.json["reason"]
    await assert_given_back(ready, dpm_site, chimera_dsn)


@pytest.mark.long
@pytest.mark.parametrize("kind", [MariaServer, PostgresServer])
async def test_database_killed_behind_the_fence_gives_the_catalog_back(
    mortal_maria: MariaServer,
    mortal_postgres: PostgresServer,
    ready: Bridge,
    dpm_site: DpmSite,
    chimera_dsn: str,
    kind: type[MariaServer | PostgresServer],
) -> None:
    mortal = mortal_maria if kind is MariaServer else mortal_postgres
    async with applier_elsewhere(dpm_site, chimera_dsn):
        running = ready.start("cutover", "--yes")
        await until(lambda: is_state(chimera_dsn, State.QUIET), 30, "fenced")
        await mortal.kill()
    await asyncio.sleep(2)
    await mortal.start()
    done = await running.wait(60)
    assert_tidy(done.err)
    assert done.code == 1
    assert done.json["state"] == "aborted"
    await assert_given_back(ready, dpm_site, chimera_dsn)


async def is_state(chimera_dsn: str, wanted: State) -> bool:
    return await state_of(chimera_dsn) == wanted


LONELY_CHAIN = (9_000_001, 9_000_002, 9_000_003, 9_000_004)


async def plant_chain(site: DpmSite) -> None:
    """Directories, one in the other."""
    async with await Source.connect(dpm_config(site)) as source:
        for parent, fileid in zip((1, *LONELY_CHAIN), LONELY_CHAIN, strict=False):
            await source.execute(
                "INSERT INTO Cns_file_metadata (fileid, parent_fileid, name, filemode, nlink, owner_uid, gid,"
                " filesize, atime, mtime, ctime, fileclass, status, guid, csumtype, csumvalue, acl, xattr)"
                " VALUES (%s, %s, %s, 16877, 1, 0, 0, 0, 1400000000, 1400000000, 1400000000, 0, '-',"
                " NULL, '', '', '', '{}')",
                (fileid, parent, f"chain{fileid}"),
            )
        await source.execute(f"UPDATE Cns_file_metadata SET status = 'D' WHERE fileid = {LONELY_CHAIN[0]}")


async def test_kill_while_a_subtree_comes_back_leaves_nothing_of_it_behind(
    bridge: Bridge, dpm_site: DpmSite, chimera_dsn: str
) -> None:
    """The deeper levels are found through the upper ones, which are mirrored by then."""
    await plant_chain(dpm_site)
    await bridge.good("sync", "--once")
    async with await Source.connect(dpm_config(dpm_site)) as source:
        await source.execute(f"UPDATE Cns_file_metadata SET status = '-' WHERE fileid = {LONELY_CHAIN[0]}")
    deep = f"SELECT FROM dome_bridge.quarantine WHERE fileid = {LONELY_CHAIN[2]} FOR UPDATE"
    async with in_chimera(chimera_dsn, deep):
        running = bridge.start("sync", "--once")
        await until(lambda: waits_for_a_lock(chimera_dsn), 20, "stalled in the middle")
        running.kill()
        await running.wait()
    await no_cutover_left(chimera_dsn)
    await agree(bridge, dpm_site, chimera_dsn)


async def waits_for_a_lock(chimera_dsn: str) -> bool:
    conn = await asyncpg.connect(chimera_dsn)
    try:
        return bool(
            await conn.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )
    finally:
        await conn.close()
