"""The cluster watched over real sockets: who is asked when, and what an answer or none does."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dome_bridge.config import DiskConfig
from dome_bridge.dome_api.cluster import (
    Activity,
    Cluster,
    Space,
    Status,
)
from dome_bridge.dome_api.cluster_watch import ClusterWatch
from dome_bridge.dome_api.disk_client import DiskClient
from dome_bridge.dpm.pool import ConnectionPool
from sandbox.disk_node import DiskNode, SpaceReport
from sandbox.disk_store import Room
from sandbox.servers import MariaServer
from tests.fixtures.databases import DpmSite
from tests.fixtures.dome import SECRET, golden_databases
from tests.fixtures.source import dpm_config

SERVERS = ("one.test", "two.test", "three.test")
PATHS = ("/srv/fs1", "/srv/fs2")


@dataclass
class Site:
    """Three disk servers with a file system each, and a watch over them. states: all there were."""

    maria: MariaServer
    dpm: DpmSite
    disks: dict[str, DiskNode]
    database: ConnectionPool
    client: DiskClient
    states: list[Cluster] = field(default_factory=list)

    def cluster_changed(self, cluster: Cluster) -> None:
        self.states.append(cluster)

    def watch(self, poll_seconds: float = 60.0, **options: Any) -> ClusterWatch:
        return ClusterWatch(self.database, self.client, self, poll_seconds=poll_seconds, **options)

    async def read(self) -> ClusterWatch:
        """A watch that knows what the database has."""
        watch = self.watch()
        await watch.reread()
        return watch

    async def sql(self, statement: str) -> None:
        await self.maria.execute(statement.format(dpm=f"`{self.dpm.dpm}`"))

    async def known_to_dpm(self, *servers: str, status: int = 0) -> None:
        """These and no others."""
        await self.sql("DELETE FROM {dpm}.dpm_fs")
        for server in servers:
            await self.add(server, status=status)

    async def add(self, server: str, *, path: str = PATHS[0], status: int = 0) -> None:
        await self.sql(
            "INSERT INTO {dpm}.dpm_fs (poolname, server, fs, status, weight) "
            f"VALUES ('main', '{server}', '{path}', {status}, 1)"
        )

    def polls(self, server: str) -> int:
        return len(self.disks[server].calls)


@pytest.fixture(scope="module")
async def common(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with golden_databases(maria) as dpm, AsyncExitStack() as stack:
        disks = {}
        for server in SERVERS:
            place = tmp_path_factory.mktemp(server)
            disk = DiskNode(server, {PATHS[0]: place}, secret=SECRET, capacities={PATHS[0]: 1000})
            disks[server] = await stack.enter_async_context(disk)
        database = ConnectionPool(dpm_config(dpm), 2)
        stack.push_async_callback(database.close)
        client = DiskClient(
            DiskConfig(connect_seconds=2.0, request_seconds=2.0),
            secret=SECRET,
            dn="/CN=head",
            host="head",
            resolve=lambda server: (disks[server].address, disks[server].port),
        )
        await stack.enter_async_context(client)
        site = Site(maria, dpm, disks, database, client)
        await site.sql("DELETE FROM {dpm}.dpm_fs")
        await site.sql("UPDATE {dpm}.dpm_pool SET poolname = 'main' ORDER BY rowid LIMIT 1")
        yield site


@pytest.fixture
async def site(common: Site) -> AsyncIterator[Site]:
    """All servers well and known to DPM."""
    await common.known_to_dpm(*SERVERS)
    common.states.clear()
    yield common
    for disk in common.disks.values():
        disk.heal()
        disk.calls.clear()
        disk.store.capacities[PATHS[0]] = 1000


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the watch has logged, by level."""
    caplog.set_level(logging.INFO, logger="dome_bridge.dome_api.cluster_watch")
    return lambda: [record.levelname for record in caplog.records]


def activities(cluster: Cluster) -> dict[str, Activity]:
    return {each.server: each.activity for each in cluster.filesystems}


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - nobody sets an event for it
            await asyncio.sleep(0.005)


async def end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_nothing_is_usable_before_the_first_poll(site: Site) -> None:
    cluster = (await site.read()).cluster
    assert cluster.servers == SERVERS
    assert set(activities(cluster).values()) == {Activity.UNKNOWN}
    assert not any(each.is_writable or each.is_readable for each in cluster.filesystems)
    assert cluster.pools["main"].name == "main"
    assert site.states == [cluster]


async def test_poll_makes_all_servers_online_with_the_room_they_measure(site: Site) -> None:
    site.disks["two.test"].report_space(SpaceReport({PATHS[0]: Room(7, 9)}))
    watch = await site.read()
    await watch.poll()
    assert set(activities(watch.cluster).values()) == {Activity.ONLINE}
    assert [(each.free, each.physical) for each in watch.cluster.filesystems] == [
        (1000, 1000),
        (7, 9),
        (1000, 1000),
    ]
    assert watch.cluster.space("main") == Space(2007, 2009)
    assert site.states[-1] is watch.cluster


async def test_all_servers_are_asked_before_any_has_answered(site: Site) -> None:
    for disk in site.disks.values():
        disk.hang()
    watch = await site.read()
    poll = asyncio.create_task(watch.poll())
    await until(lambda: all(site.polls(server) == 1 for server in SERVERS))
    assert not poll.done()
    await end(poll)


async def test_silent_server_delays_the_news_of_no_other(site: Site) -> None:
    site.disks["one.test"].hang()
    watch = await site.read()
    poll = asyncio.create_task(watch.poll())
    await until(lambda: list(activities(watch.cluster).values()) == [0, 1, 1])
    assert not poll.done()
    site.disks["one.test"].refuse(403, "not now")
    await poll
    assert list(activities(watch.cluster).values()) == [2, 1, 1]


async def test_server_that_is_gone_is_broken_until_it_answers_again(
    site: Site, log: Callable[[], list[str]]
) -> None:
    disk = site.disks["two.test"]
    watch = await site.read()
    await watch.poll()
    assert log() == ["INFO"] * 3
    await disk.stop()
    await watch.poll()
    await watch.poll()
    assert activities(watch.cluster)["two.test"] is Activity.BROKEN
    assert log()[3:] == ["ERROR", "INFO"]
    assert not watch.cluster.is_answering("two.test")
    assert watch.cluster.is_broken("two.test", f"{PATHS[0]}/f")
    assert watch.cluster.space("main") == Space(2000, 2000)
    await disk.start()
    await watch.poll()
    assert set(activities(watch.cluster).values()) == {Activity.ONLINE}
    assert log()[5:] == ["INFO"]


async def test_lost_server_keeps_its_last_figures(site: Site) -> None:
    watch = await site.read()
    await watch.poll()
    site.disks["three.test"].refuse(403, "who are you")
    await watch.poll()
    lost = watch.cluster.filesystems[2]
    assert (lost.activity, lost.free, lost.physical) == (Activity.BROKEN, 1000, 1000)


@pytest.mark.parametrize(
    "report",
    [
        SpaceReport(body=b""),
        SpaceReport(body=b"{"),
        SpaceReport(body=b"[]"),
        SpaceReport(body=b"null"),
        SpaceReport(body=b"[" * 100_000),
        SpaceReport(body=b'{"fsinfo": ""}'),
        SpaceReport(server="another.test"),
        SpaceReport(missing=PATHS),
        SpaceReport({PATHS[0]: Room(10, 9)}),
    ],
    ids=["nothing", "half", "list", "null", "deep", "empty", "another server", "no file system", "absurd"],
)
async def test_answer_that_says_nothing_changes_nothing(site: Site, report: SpaceReport) -> None:
    watch = await site.read()
    await watch.poll()
    before = watch.cluster
    site.disks["one.test"].report_space(report)
    await watch.poll_server("one.test")
    assert watch.cluster == before


async def test_disk_that_its_server_cannot_read_is_broken_alone(site: Site, tmp_path: Path) -> None:
    site.disks["one.test"].file_systems[PATHS[1]] = tmp_path / "unmounted"
    await site.add("one.test", path=PATHS[1])
    watch = await site.read()
    await watch.poll()
    del site.disks["one.test"].file_systems[PATHS[1]]
    found = {each.path: each.activity for each in watch.cluster.filesystems if each.server == "one.test"}
    assert found == {PATHS[0]: Activity.ONLINE, PATHS[1]: Activity.BROKEN}
    assert watch.cluster.is_answering("one.test")


async def test_reread_takes_the_settings_and_keeps_what_was_heard(site: Site) -> None:
    watch = await site.read()
    await watch.poll()
    await site.known_to_dpm(*reversed(SERVERS), status=Status.READ_ONLY)
    cluster = await watch.reread()
    assert cluster.servers == SERVERS[::-1]
    assert {(each.status, each.activity, each.free) for each in cluster.filesystems} == {(2, 1, 1000)}
    assert cluster.space("main") == Space(0, 3000)


async def test_server_that_was_removed_is_forgotten_and_not_asked_again(site: Site) -> None:
    watch = await site.read()
    await watch.poll()
    await site.known_to_dpm("one.test")
    await watch.reread()
    await watch.poll()
    assert watch.cluster.servers == ("one.test",)
    assert [site.polls(server) for server in SERVERS] == [2, 1, 1]
    await site.known_to_dpm("one.test", "two.test")
    await watch.reread()
    assert activities(watch.cluster)["two.test"] is Activity.UNKNOWN


async def test_answer_of_a_server_that_was_removed_meanwhile_is_let_go(site: Site) -> None:
    watch = await site.read()
    site.disks["two.test"].slow(0.2)
    poll = asyncio.create_task(watch.poll())
    await until(lambda: site.polls("two.test") == 1)
    await site.known_to_dpm("one.test")
    await watch.reread()
    await poll
    assert watch.cluster.servers == ("one.test",)


async def test_answer_that_comes_during_a_reread_is_not_lost(site: Site) -> None:
    watch = await site.read()
    await asyncio.gather(watch.poll(), *(watch.reread() for _ in range(5)))
    assert set(activities(watch.cluster).values()) == {Activity.ONLINE}


async def test_new_server_can_be_asked_at_once(site: Site) -> None:
    await site.known_to_dpm("one.test")
    watch = await site.read()
    await site.known_to_dpm("one.test", "three.test")
    await watch.reread()
    await watch.poll_server("three.test")
    assert activities(watch.cluster) == {"one.test": Activity.UNKNOWN, "three.test": Activity.ONLINE}


async def test_watch_rereads_and_polls_again_and_again(site: Site) -> None:
    await site.known_to_dpm("one.test")
    watch = site.watch(poll_seconds=0.05)
    task = asyncio.create_task(watch.run_forever())
    await until(lambda: watch.cluster.is_answering("one.test"))
    await site.known_to_dpm(*SERVERS)
    await until(lambda: all(map(watch.cluster.is_answering, SERVERS)))
    await site.disks["three.test"].stop()
    await until(lambda: activities(watch.cluster)["three.test"] is Activity.BROKEN)
    await site.disks["three.test"].start()
    await until(lambda: all(map(watch.cluster.is_answering, SERVERS)))
    await end(task)


async def test_next_round_waits_for_the_rest_of_the_interval(site: Site) -> None:
    await site.known_to_dpm("one.test")
    task = asyncio.create_task(site.watch(clock=lambda: 0.0).run_forever())
    await until(lambda: site.polls("one.test") == 1)
    await asyncio.sleep(0.1)
    assert site.polls("one.test") == 1
    await end(task)


async def test_round_that_took_an_interval_is_followed_by_the_next_at_once(site: Site) -> None:
    await site.known_to_dpm("one.test")
    seconds = itertools.cycle([0.0, 61.0])
    task = asyncio.create_task(site.watch(clock=lambda: next(seconds)).run_forever())
    await until(lambda: site.polls("one.test") >= 3)
    await end(task)


async def test_watch_outlives_a_database_that_refuses(site: Site, log: Callable[[], list[str]]) -> None:
    watch = site.watch(poll_seconds=0.05)
    task = asyncio.create_task(watch.run_forever())
    await until(lambda: all(map(watch.cluster.is_answering, SERVERS)))
    before = watch.cluster
    await site.sql("RENAME TABLE {dpm}.dpm_fs TO {dpm}.dpm_fs_away")
    try:
        await until(lambda: log().count("WARNING") >= 2)
        assert watch.cluster == before
    finally:
        await site.sql("RENAME TABLE {dpm}.dpm_fs_away TO {dpm}.dpm_fs")
    await site.known_to_dpm("one.test")
    await until(lambda: watch.cluster.servers == ("one.test",))
    assert not task.done()
    await end(task)


async def test_poll_that_is_cancelled_ends_all_its_requests(site: Site) -> None:
    for disk in site.disks.values():
        disk.hang()
    watch = await site.read()
    tasks = asyncio.all_tasks()
    poll = asyncio.create_task(watch.poll())
    await until(lambda: all(site.polls(server) == 1 for server in SERVERS))
    await end(poll)
    assert poll.cancelled()
    await until(lambda: asyncio.all_tasks() <= tasks | _of_servers())
    assert set(activities(watch.cluster).values()) == {Activity.UNKNOWN}


def _of_servers() -> set[asyncio.Task[Any]]:
    """Tasks of the disk servers' own, which run in the same loop."""
    return {task for task in asyncio.all_tasks() if "poll" not in repr(task.get_coro())}


async def test_figures_are_whole_bytes_as_the_wire_has_them(site: Site) -> None:
    big = 2**62 + 1
    body = {"fsinfo": {"one.test": {PATHS[0]: {"freespace": str(big), "physicalsize": str(big)}}}}
    site.disks["one.test"].report_space(SpaceReport(body=json.dumps(body).encode()))
    watch = await site.read()
    await watch.poll_server("one.test")
    assert watch.cluster.filesystems[0].free == big


async def test_silent_server_does_not_keep_others_from_their_next_poll(site: Site) -> None:
    site.disks["one.test"].hang()
    watch = site.watch(poll_seconds=0.05)
    task = asyncio.create_task(watch.run_forever())
    await asyncio.wait_for(until(lambda: site.polls("two.test") >= 3), 1.5)
    assert site.polls("one.test") == 1
    await end(task)


async def test_server_whose_disks_are_disabled_is_announced_once(
    site: Site, log: Callable[[], list[str]]
) -> None:
    await site.known_to_dpm(*SERVERS, status=Status.DISABLED)
    watch = await site.read()
    await watch.poll()
    await watch.poll()
    assert log() == ["INFO"] * len(SERVERS)


async def test_late_failure_does_not_undo_what_was_heard_since(site: Site) -> None:
    disk = site.disks["one.test"]
    watch = await site.read()
    disk.hang()
    early = asyncio.create_task(watch.poll_server("one.test"))
    await until(lambda: site.polls("one.test") == 1)
    disk.heal()
    await watch.poll_server("one.test")
    assert activities(watch.cluster)["one.test"] is Activity.ONLINE
    await early
    assert activities(watch.cluster)["one.test"] is Activity.ONLINE
