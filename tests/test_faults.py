"""Kills, cuts and silence at random moments: they cost time and nothing else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dome_bridge.dpm.source import Source
from dome_bridge.exporter.journal import JOURNAL_TABLE
from sandbox.catalog import make_site
from sandbox.servers import MariaServer, PostgresServer
from sandbox.site import SiteOptions
from sandbox.writer import TAME, WILD, CatalogWriter
from tests.fixtures.acceptance import acceptance_failures
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
