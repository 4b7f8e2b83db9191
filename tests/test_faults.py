"""Kills, cuts and silence at random moments: they cost time and nothing else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from dome_bridge.config import load
from dome_bridge.daemon import Daemon
from dome_bridge.dpm.source import Source
from dome_bridge.exporter import service, session
from dome_bridge.exporter.journal import JOURNAL_TABLE
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


async def no_session_left(chimera_dsn: str) -> None:
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

    await until(is_gone, 20, "sessions of the killed command are gone")


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
    await no_session_left(chimera_dsn)
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
