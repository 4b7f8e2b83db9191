"""The daemon: what it answers over HTTP, what it tells systemd, and how it starts and ends."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from dome_bridge.chimera import target
from dome_bridge.chimera.state import Phase
from dome_bridge.config import Config
from dome_bridge.daemon import Daemon
from dome_bridge.errors import ConfigError, SourceError, StateError
from dome_bridge.exporter.cutover import cut_over
from dome_bridge.exporter.cutover_plan import State
from dome_bridge.exporter.gates import GATES
from dome_bridge.exporter.initialise import initialise
from dome_bridge.exporter.journal import JOURNAL_TABLE
from dome_bridge.exporter.rehearsal import rehearse
from dome_bridge.notify import Notifier
from sandbox.catalog import make_site
from sandbox.proxy import FaultyProxy
from sandbox.servers import MariaServer, free_port
from sandbox.site import SiteOptions
from tests.fixtures.command import Bridge, assert_tidy, bridge_for, until
from tests.fixtures.cutover import Ready, agreed
from tests.fixtures.databases import DpmSite
from tests.fixtures.snapshot import bridge_config
from tests.fixtures.systemd import Systemd, listening_systemd

FILES = 200
COMMIT_SECONDS = 'dome_bridge_cutover_step_duration_seconds{step="commit"}'


class Asked:
    """A running daemon and its monitoring listener."""

    def __init__(self, daemon: Daemon, task: asyncio.Task[None]) -> None:
        self.daemon = daemon
        self.task = task

    async def get(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.daemon.listener.port}/{path}"
        async with aiohttp.ClientSession() as client, client.get(url) as answer:
            return answer.status, await answer.text()

    async def metric(self, name: str) -> float:
        code, text = await self.get("metrics")
        assert code == 200
        values = [line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")]
        assert values, f"no metric {name}"
        return float(values[0])

    async def is_well(self) -> bool:
        return (await self.get("healthz"))[0] == 200

    async def is_in(self, phase: Phase) -> bool:
        return bool(await self.metric(f'dome_bridge_phase{{phase="{phase}"}}'))


@asynccontextmanager
async def daemon(config: Config, *, notifier: Notifier | None = None) -> AsyncIterator[Asked]:
    """A daemon that must end well, leaving no task."""
    before = asyncio.all_tasks()
    stop = asyncio.Event()
    made = Daemon(config, stop=stop, notifier=notifier or Notifier(), monitoring_port=0)
    task = asyncio.create_task(made.run())
    try:
        await until(lambda: is_serving(made, task), 20, "the listener")
        yield Asked(made, task)
    finally:
        stop.set()
        await asyncio.wait_for(task, 20)
    await until(lambda: asyncio.all_tasks() <= before, 2, "all tasks have ended")


def is_serving(made: Daemon, task: asyncio.Task[None]) -> bool:
    if task.done():
        task.result()
    try:
        return made.listener.port > 0
    except RuntimeError:
        return False


@pytest.fixture
async def config(maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str) -> Config:
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SiteOptions(files=FILES), rotten=True)
    made = bridge_config(dpm_site, chimera_dsn)
    made = replace(made, exporter=replace(made.exporter, heartbeat_seconds=0.3))
    await initialise(made)
    return made


async def test_daemon_that_follows_answers_on_every_path(config: Config) -> None:
    async with daemon(config) as asked:
        await until(lambda: asked.is_in(Phase.FOLLOWING), 30, "following")
        await until(lambda: lag_below(asked, 3), 10, "little lag")
        assert await asked.get("healthz") == (200, "ok\n")
        code, text = await asked.get("status")
        assert code == 200
        status = json.loads(text)
        assert status["phase"] == "following"
        assert status["lag_seconds"] < 5
        assert status["source_reachable"] is True
        assert status["cutover"] is None
        code, page = await asked.get("")
        assert code == 200
        assert "following" in page
        assert await asked.metric("dome_bridge_snapshot_entries_total") > FILES


async def lag_below(asked: Asked, seconds: float) -> bool:
    return await asked.metric("dome_bridge_mirror_lag_seconds") < seconds


async def test_source_that_goes_away_makes_the_daemon_unwell_until_it_is_back(
    config: Config, dpm_site: DpmSite
) -> None:
    async with FaultyProxy(dpm_site.host, dpm_site.port) as proxy:
        dpm = replace(config.dpm, host=proxy.host, port=proxy.port, unix_socket="")
        async with daemon(replace(config, dpm=dpm)) as asked:
            await until(lambda: lag_below(asked, 3), 30, "following")
            await proxy.stop()
            await until(lambda: is_unwell(asked), 10, "unwell")
            _, why = await asked.get("healthz")
            assert "cannot connect" in why or "lost the database server" in why
            assert why.count("\n") == 1
            assert config.dpm.password not in why
            code, text = await asked.get("status")
            assert code == 200
            assert json.loads(text)["source_reachable"] is False
            await proxy.heal()
            await until(asked.is_well, 30, "well again")


async def is_unwell(asked: Asked) -> bool:
    return not await asked.is_well()


async def test_heartbeats_that_stop_arriving_let_the_lag_grow(config: Config, maria: MariaServer) -> None:
    async with daemon(config) as asked:
        await until(lambda: lag_below(asked, 3), 30, "following")
        # A lock on the journal: the database answers, and nothing moves.
        async with maria.connect(config.dpm.cns_db) as connection, connection.cursor() as cursor:
            await cursor.execute(f"LOCK TABLES {JOURNAL_TABLE} WRITE")
            before = await asked.metric("dome_bridge_mirror_lag_seconds")
            await asyncio.sleep(3)
            assert await asked.metric("dome_bridge_mirror_lag_seconds") >= before + 2
            await cursor.execute("UNLOCK TABLES")
        await until(lambda: lag_below(asked, 3), 20, "caught up")


async def test_commit_ends_the_mirror_and_the_figures_stay(
    config: Config, maria: MariaServer, state_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it the gates and the predicted fence are shown, after it how long the steps took."""
    monkeypatch.setattr("dome_bridge.daemon.REFRESH_SECONDS", 0.5)
    async with daemon(config) as asked:
        await until(lambda: is_verified(config), 30, "a verify pass")
        await until(lambda: lag_below(asked, 3), 20, "little lag")
        await Ready(config, maria).accept_quarantine()
        assert math.isnan(await asked.metric("dome_bridge_cutover_predicted_fence_seconds"))
        predicted = (await rehearse(config)).predicted_fence_seconds
        await until(lambda: is_predicted(asked, predicted), 10, "the predicted fence")
        await until(lambda: shows_gates(asked, list(GATES)), 10, "the gates")
        report = await cut_over(config, confirm=agreed)
        assert report.state is State.COMMITTED
        await until(lambda: asked.is_in(Phase.COMMITTED), 10, "committed")
        assert await asked.is_well()
        assert not asked.task.done()
        await until(lambda: shows_gates(asked, []), 10, "no gates")
    async with daemon(config) as asked:
        await until(lambda: asked.is_in(Phase.COMMITTED), 10, "committed")
        await until(lambda: shows_commit(asked), 10, "the steps")
        assert await asked.metric(COMMIT_SECONDS) == pytest.approx(dict(report.steps)["commit"])


async def shows_commit(asked: Asked) -> bool:
    return COMMIT_SECONDS in (await asked.get("metrics"))[1]


async def is_predicted(asked: Asked, seconds: float) -> bool:
    return await asked.metric("dome_bridge_cutover_predicted_fence_seconds") == pytest.approx(seconds)


async def shows_gates(asked: Asked, wanted: list[str]) -> bool:
    gates = json.loads((await asked.get("status"))[1])["gates"]
    return gates is not None and [gate["id"] for gate in gates] == wanted


async def is_verified(config: Config) -> bool:
    conn = await target.connect(config.chimera)
    try:
        return bool(
            await conn.fetchval("SELECT count(*) FROM dome_bridge.verify_run WHERE finished_at IS NOT NULL")
        )
    finally:
        await target.close(conn)


async def test_start_without_init_ends_before_anything_is_served(dpm_site: DpmSite, chimera_dsn: str) -> None:
    made = Daemon(
        bridge_config(dpm_site, chimera_dsn),
        stop=asyncio.Event(),
        notifier=Notifier(),
        monitoring_port=0,
    )
    with pytest.raises(StateError, match="dome-bridge init"):
        await made.run()
    with pytest.raises(RuntimeError):
        assert made.listener.port


async def test_start_without_a_source_ends_with_the_setting_to_look_at(config: Config) -> None:
    dpm = replace(config.dpm, unix_socket="", port=free_port())
    made = Daemon(replace(config, dpm=dpm), stop=asyncio.Event(), notifier=Notifier(), monitoring_port=0)
    with pytest.raises(SourceError, match=r"\[dpm\] host and port"):
        await made.run()


async def test_monitoring_port_in_use_ends_the_start(config: Config) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        made = Daemon(
            config, stop=asyncio.Event(), notifier=Notifier(), monitoring_port=taken.getsockname()[1]
        )
        with pytest.raises(ConfigError, match=r"\[monitoring\] address and port"):
            await made.run()


# As systemd runs it: a process of its own.


@pytest.fixture
async def bridge(
    maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str, tmp_path: Path
) -> AsyncIterator[Bridge]:
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SiteOptions(files=FILES))
    async with bridge_for(tmp_path, dpm_site, chimera_dsn) as line:
        await line.good("init")
        yield line


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    with listening_systemd() as listener:
        yield listener


async def test_systemd_is_told_of_readiness_progress_and_the_end(bridge: Bridge, systemd: Systemd) -> None:
    environment = {"NOTIFY_SOCKET": str(systemd.address), "WATCHDOG_USEC": "1000000"}
    running = bridge.start("run", environment=environment)
    await until(lambda: systemd.has_heard("READY=1"), 20, "READY")
    await until(lambda: systemd.has_heard("WATCHDOG=1"), 5, "a ping")
    assert not systemd.has_heard("STOPPING=1")
    running.terminate()
    done = await running.wait(10)
    assert done.code == 0
    assert systemd.has_heard("STOPPING=1")
    assert systemd.told.index("READY=1") < systemd.told.index("STOPPING=1")
    assert_tidy(done.err)


async def test_systemd_is_not_told_of_readiness_when_the_start_fails(
    bridge: Bridge, systemd: Systemd
) -> None:
    bridge.configure({"dpm": {"port": free_port()}})
    done = await bridge.start("run", environment={"NOTIFY_SOCKET": str(systemd.address)}).wait(20)
    assert done.code == 2
    assert not systemd.has_heard("READY=1")


async def test_sigterm_in_the_first_copy_ends_with_exit_code_0(bridge: Bridge) -> None:
    bridge.configure({"exporter": {"snapshot_range": 1}})
    running = bridge.start("run")
    await running.logged("snapshot step=")
    running.terminate()
    done = await running.wait(10)
    assert done.code == 0
    assert_tidy(done.err)
    assert (await bridge.good("status"))["phase"] == "snapshot"


async def test_state_taken_away_ends_the_daemon_with_one_line_and_exit_code_2(
    bridge: Bridge, chimera_dsn: str, maria: MariaServer
) -> None:
    running = bridge.start("run")
    await running.logged("snapshot finished")
    conn = await target.connect(bridge_config_of(chimera_dsn).chimera)
    try:
        await conn.execute("ALTER SCHEMA dome_bridge RENAME TO taken_away")
        await conn.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await target.close(conn)
    done = await running.wait(30)
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert last.startswith("dome-bridge: ")
    assert "dome-bridge init" in last
    assert "Traceback" not in last


def bridge_config_of(chimera_dsn: str) -> Config:
    site = DpmSite("127.0.0.1", 1, "", "nobody", "", "cns_db", "dpm_db")
    return bridge_config(site, chimera_dsn)
