"""The mirror as a service: who applies, when it stops, and what it does when something goes wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest

from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase
from dome_bridge.config import Config
from dome_bridge.dpm.source import Source
from dome_bridge.errors import StateError
from dome_bridge.exporter.follow import Batch
from dome_bridge.exporter.initialise import initialise
from dome_bridge.exporter.journal import Journal, JournalKind
from dome_bridge.exporter.mirror import Applied
from dome_bridge.exporter.service import MirrorService, Unobserved, sync_once
from dome_bridge.exporter.verify import VerifyReport, last_verify
from sandbox.catalog import make_site
from sandbox.servers import MariaServer, PostgresServer
from sandbox.site import SiteOptions
from tests.fixtures.command import until
from tests.fixtures.databases import DpmSite
from tests.fixtures.snapshot import bridge_config

FILES = 300


class Record(Unobserved):
    """What an observer was told."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.ranges = 0
        self.batches: list[Batch] = []
        self.failures: list[str] = []
        self.verified_passes = 0
        self.applied_calls = 0

    def phase_changed(self, phase: Phase) -> None:
        if self.phases[-1:] != [phase]:
            self.phases.append(phase)

    def snapshot_advanced(self, entries: int, expected: int) -> None:
        self.ranges += 1

    def applied(self, applied: Applied) -> None:
        self.applied_calls += 1

    def batch_applied(self, batch: Batch) -> None:
        self.batches.append(batch)

    def apply_failed(self, reason: str) -> None:
        self.failures.append(reason)

    def verified(self, report: VerifyReport) -> None:
        self.verified_passes += report.finished

    @property
    def heartbeats(self) -> int:
        return sum(batch.heartbeat_at is not None for batch in self.batches)

    @property
    def changes(self) -> int:
        return sum(batch.changes for batch in self.batches)


class Running:
    """A service in a task of the test."""

    def __init__(self, config: Config) -> None:
        self.record = Record()
        self.stop = asyncio.Event()
        self.service = MirrorService(config, stop=self.stop, observer=self.record)
        self.task = asyncio.create_task(self.service.run())

    @property
    def is_following(self) -> bool:
        return bool(self.record.batches)

    async def end(self, seconds: float = 10) -> float:
        """Stops it; returns how long that took."""
        begun = time.monotonic()
        self.stop.set()
        await asyncio.wait_for(self.task, seconds)
        return time.monotonic() - begun


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Running]:
    """A service that must end well."""
    service = Running(config)
    try:
        yield service
    finally:
        await service.end()


@pytest.fixture
async def config(maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str) -> Config:
    """Initialised, with nothing copied yet; batches and ranges are small."""
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SiteOptions(files=FILES))
    made = bridge_config(dpm_site, chimera_dsn)
    exporter = replace(made.exporter, snapshot_range=40, snapshot_workers=1, heartbeat_seconds=0.3)
    made = replace(made, exporter=exporter)
    await initialise(made)
    return made


async def progress(config: Config) -> state.Progress:
    conn = await target.connect(config.chimera)
    try:
        return await state.progress(conn)
    finally:
        await target.close(conn)


async def write(config: Config, statement: str) -> None:
    async with await Source.connect(config.dpm) as source:
        await source.execute(statement)


async def test_service_copies_then_follows_then_verifies(config: Config) -> None:
    async with running(config) as service:
        await until(lambda: is_verified(config), 30, "a verify pass")
        await until(lambda: service.record.heartbeats > 1, 10, "heartbeats")
    assert service.record.phases == [Phase.SNAPSHOT, Phase.FOLLOWING]
    assert service.record.ranges > 3
    assert service.record.failures == []
    assert service.service.last_error == ""
    assert (await progress(config)).snapshot_finished is not None


async def is_verified(config: Config) -> bool:
    conn = await target.connect(config.chimera)
    try:
        verified = await last_verify(conn)
    finally:
        await target.close(conn)
    return verified is not None and verified.mismatches == 0


async def test_observer_is_told_when_a_verify_pass_is_finished(config: Config) -> None:
    async with running(config) as service:
        await until(lambda: is_verified(config), 30, "a verify pass")
        await until(lambda: service.record.verified_passes == 1, 2, "the observer knows")


async def test_stop_in_the_first_copy_is_quick_and_the_next_start_goes_on(config: Config) -> None:
    slow = replace(config, exporter=replace(config.exporter, snapshot_range=2))
    service = Running(slow)
    await until(lambda: service.record.ranges > 5, 20, "some ranges")
    assert await service.end() < 5
    assert (await progress(config)).snapshot_finished is None
    copied = await _copied(config)
    async with running(config) as service:
        await until(lambda: service.is_following, 30, "following")
    assert copied
    assert await _copied(config) >= copied
    assert (await sync_once(config, advance=lambda *told: None)).agrees


async def _copied(config: Config) -> int:
    conn = await target.connect(config.chimera)
    try:
        return int(await conn.fetchval("SELECT coalesce(sum(entries), 0) FROM dome_bridge.snapshot_range"))
    finally:
        await target.close(conn)


async def test_stop_while_following_finishes_the_batch_within_five_seconds(config: Config) -> None:
    async with running(config) as service:
        await until(lambda: service.is_following, 30, "following")
        await write(config, "UPDATE Cns_file_metadata SET mtime = 1234567890")
        assert await service.end() < 5
    async with await Source.connect(config.dpm) as source:
        waiting = await Journal(source).backlog()
    applied = (await progress(config)).journal_applied
    assert applied == service.record.changes
    assert waiting + applied >= FILES


async def test_second_service_waits_and_takes_over_when_the_first_ends(config: Config) -> None:
    first = Running(config)
    await until(lambda: first.is_following, 30, "the first follows")
    async with running(config) as second:
        await asyncio.sleep(1)
        assert not second.is_following
        assert second.record.failures == []
        await first.end()
        await until(lambda: second.is_following, 10, "the second follows")


async def test_second_service_that_waits_can_be_stopped(config: Config) -> None:
    async with running(config) as first:
        await until(lambda: first.is_following, 30, "the first follows")
        second = Running(config)
        await asyncio.sleep(0.5)
        assert await second.end() < 5


async def test_offline_sync_beside_a_service_is_refused(config: Config) -> None:
    async with running(config) as service:
        await until(lambda: service.is_following, 30, "following")
        with pytest.raises(StateError, match="stop the daemon"):
            await sync_once(config, advance=lambda *told: None)


async def test_lost_connections_are_made_again(
    config: Config, maria: MariaServer, postgres: PostgresServer
) -> None:
    async with running(config) as service:
        await until(lambda: service.is_following, 30, "following")
        for row in await maria.fetch(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE USER = %s AND DB = %s",
            (maria.user, config.dpm.cns_db),
        ):
            await maria.execute(f"KILL {row[0]}")
        await until(lambda: "source-lost" in service.record.failures, 10, "the loss is noticed")
        seen = len(service.record.batches)
        await until(lambda: len(service.record.batches) > seen, 15, "following again")
        await end_sessions(postgres, config)
        await until(lambda: "target-lost" in service.record.failures, 10, "the loss is noticed")
        seen = len(service.record.batches)
        await until(lambda: len(service.record.batches) > seen, 15, "following again")
    assert service.service.last_error == ""


async def end_sessions(postgres: PostgresServer, config: Config) -> None:
    database = config.chimera.dsn.rpartition("/")[2]
    async with postgres.connect() as conn:
        await conn.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database
        )


async def test_journal_that_grew_old_without_a_reader_loses_its_heartbeats_only(config: Config) -> None:
    await sync_once(config, advance=lambda *told: None)
    async with await Source.connect(config.dpm) as source:
        for _ in range(30):
            await source.execute(
                "INSERT INTO dome_bridge_journal (kind, op, at) VALUES (%s, '-', 1000)",
                (JournalKind.HEARTBEAT,),
            )
    await write(config, "UPDATE Cns_file_metadata SET mtime = 1234567890 WHERE filemode & 61440 = 32768")
    async with running(config) as service:
        await until(lambda: service.record.changes >= FILES, 20, "the changes")
    heartbeat = (await progress(config)).heartbeat_at
    assert heartbeat is not None
    assert heartbeat > 1000


async def test_service_on_a_committed_site_ends_by_itself(config: Config) -> None:
    await sync_once(config, advance=lambda *told: None)
    conn = await target.connect(config.chimera)
    await state.set_phase(conn, Phase.COMMITTED)
    await target.close(conn)
    service = Running(config)
    await asyncio.wait_for(service.task, 10)
    assert service.service.is_over
    assert not service.is_following


async def test_state_that_was_taken_away_ends_the_service_with_the_reason(
    config: Config, postgres: PostgresServer
) -> None:
    service = Running(config)
    await until(lambda: service.is_following, 30, "following")
    conn = await asyncpg.connect(config.chimera.dsn)
    await conn.execute("ALTER SCHEMA dome_bridge RENAME TO taken_away")
    await conn.close()
    await end_sessions(postgres, config)
    with pytest.raises(StateError, match="dome-bridge init"):
        await asyncio.wait_for(service.task, 20)
