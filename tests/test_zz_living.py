"""A cluster at work: parallel transfers while one disk server dies and comes back and another fills up.

Afterwards disks, catalog, quota, free space and the mirror in Chimera must tell one and the same story.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dome_bridge.chimera.pools import pool_name
from dome_bridge.dome_api.head import Head
from dome_bridge.dome_api.removal import Finished, deletions_left, finish_deletions
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dpm.pool import ConnectionPool
from sandbox.servers import MariaServer
from tests.fixtures.cluster import (
    CAPACITY,
    FS,
    LARGEST_FILE,
    POOL,
    SERVERS,
    TOKEN,
    TOP,
    Cluster,
    File,
    FrontEnd,
    adler32,
    disk_client,
    running_cluster,
)
from tests.fixtures.dome import Silent, catalog_faults
from tests.fixtures.mirror import Mirrored, until

CLIENTS = 12
STEPS = 100
"""Of all front-ends together, in each part of the story."""

MORTAL, FULL = SERVERS[1], SERVERS[2]
FILES = """
    SELECT e.fileid, CAST(e.name AS BINARY), e.filesize, CAST(e.csumtype AS BINARY),
           CAST(e.csumvalue AS BINARY), CAST(e.xattr AS BINARY)
      FROM {cns}.Cns_file_metadata e WHERE e.filemode & 61440 = 32768"""
REPLICAS = """
    SELECT fileid, CAST(status AS BINARY), CAST(setname AS BINARY), CAST(host AS BINARY),
           CAST(sfn AS BINARY), CAST(xattr AS BINARY)
      FROM {cns}.Cns_file_replica"""
UNUSED = "SELECT u_space FROM {dpm}.dpm_space_reserv WHERE u_token = '" + TOKEN + "'"


class Row(NamedTuple):
    """A file in the catalog."""

    fileid: int
    name: str
    size: int
    kind: str
    value: str
    xattr: str


class ReplicaRow(NamedTuple):
    fileid: int
    status: str
    setname: str
    host: str
    rfn: str
    xattr: str


@dataclass
class Story:
    cluster: Cluster
    mirrored: Mirrored
    maria: MariaServer
    observer: FrontEnd
    """Who looks, and acts where a client's step is to happen at a certain moment."""

    async def steps(self, number: int) -> None:
        """Until the front-ends have gone so many steps on."""
        goal = self.cluster.done["steps"] + number
        await self.until(lambda: self.cluster.done["steps"] >= goal)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():  # noqa: ASYNC110 - nobody sets an event for it
                await asyncio.sleep(0.01)

    async def until_head_says(self, server: str, key: str, value: str) -> None:
        async with asyncio.timeout(30):
            while (await self.space(server))[key] != value:  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.02)

    async def space(self, server: str) -> dict[str, str]:
        answer = await self.observer.ask("dome_getspaceinfo", 200)
        found: dict[str, str] = answer.json["fsinfo"][server][FS]
        return found

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Texts as text."""
        site = self.mirrored.dpm_site
        rows = await self.maria.fetch(query.format(cns=f"`{site.cns}`", dpm=f"`{site.dpm}`"))
        return [tuple(_text(value) for value in row) for row in rows]

    async def unused(self) -> int:
        [(unused,)] = await self.rows(UNUSED)
        return int(unused)


def _text(value: Any) -> Any:
    if value is None:
        return ""
    return bytes(value).decode() if isinstance(value, bytes | bytearray) else value


@asynccontextmanager
async def working(story: Story, front_ends: list[FrontEnd]) -> AsyncIterator[None]:
    """All at once, with the mirror behind them, as long as the context."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(until(stop.is_set, story.mirrored.follow, pause=0.2))
        for each in front_ends:
            group.create_task(each.work(stop))
        try:
            yield
        finally:
            stop.set()


@pytest.fixture
async def story(mirrored: Mirrored, maria: MariaServer, tmp_path: Path) -> AsyncIterator[Story]:
    await mirrored.snapshot_and_follow()
    async with running_cluster(mirrored, tmp_path) as cluster:
        story = Story(cluster, mirrored, maria, await cluster.front_end(user(0), 0))
        for server in SERVERS:
            await story.until_head_says(server, "activitystatus", "1")
        yield story


def user(number: int) -> RemoteUser:
    return RemoteUser(f"/DC=org/DC=example/CN=User {number}", f"192.0.2.{number + 1}", ("dteam",))


async def test_everything_agrees_after_a_server_died_and_came_back_and_another_filled_up(
    story: Story,
) -> None:
    cluster = story.cluster
    unused = await story.unused()
    front_ends = [await cluster.front_end(user(number), number) for number in range(1, CLIENTS + 1)]
    await compete_for_a_name(front_ends)
    async with working(story, front_ends):
        await story.steps(STEPS)
        lost = await kill(story)
        before = dict(cluster.done)
        await story.steps(STEPS)
        alive = {name: cluster.done[name] - before.get(name, 0) for name in ("upload", "download")}
        assert all(alive.values()), alive
        await bring_back(story)
        await fill(story)
        await story.steps(STEPS)
    assert cluster.faults == []
    await settle(story)
    assert lost.lfn not in {file.lfn for file in cluster.living}
    await require_agreement_of_disks_and_catalog(story)
    await require_agreement_of_space(story, unused)
    await require_agreement_of_chimera(story)
    for name in ("upload", "download", "replica", "unlink", "deletion of a replica", "abort"):
        assert cluster.done[name] > 0, (name, cluster.done)
    assert cluster.faults == []


async def compete_for_a_name(front_ends: list[FrontEnd]) -> None:
    """Of many who upload one name one gets it; of many who delete it at least one has done so."""
    lfn = f"{TOP}/only one"
    answers = await asyncio.gather(*(each.ask("dome_put", 200, 422, lfn=lfn) for each in front_ends))
    assert sorted(answer.status for answer in answers) == [200] + [422] * (len(front_ends) - 1)
    answers = await asyncio.gather(*(each.ask("dome_unlink", 200, 404, lfn=lfn) for each in front_ends))
    assert 200 in {answer.status for answer in answers}
    await front_ends[0].ask("dome_getstatinfo", 404, lfn=lfn)


async def kill(story: Story) -> File:
    """A server goes down amid uploads, and amid the deletion of a file of which nobody hears the end."""
    cluster, node = story.cluster, story.cluster.disks[MORTAL]
    sender = await cluster.front_end(user(0), 1)
    lost, unfinished = story.observer.new_file(), sender.new_file(LARGEST_FILE)
    assert await story.observer.upload(lost, host=MORTAL) == "upload"
    node.slow_data(0.5)
    upload = asyncio.create_task(sender.upload(unfinished, host=MORTAL))
    await story.until(lambda: any(f"/{unfinished.name}." in rfn for rfn in cluster.stored()))
    cluster.dead = MORTAL
    node.remove_then_hang()
    deletion = asyncio.create_task(story.observer.delete(lost))
    await story.until(lambda: not any(f"/{lost.name}." in rfn for rfn in cluster.stored()))
    await node.stop()
    assert (await upload, await deletion) == ("upload that failed", "unlink that failed")
    assert 0 in {transfer.status for transfer in node.transfers}
    await story.until_head_says(MORTAL, "activitystatus", "2")
    cluster.avoided.add(MORTAL)
    return lost


async def bring_back(story: Story) -> None:
    story.cluster.avoided.discard(MORTAL)
    story.cluster.disks[MORTAL].heal()
    await story.cluster.disks[MORTAL].start()
    await story.until_head_says(MORTAL, "activitystatus", "1")
    story.cluster.dead = ""


async def fill(story: Story) -> None:
    story.cluster.disks[FULL].fill()
    await story.until_head_says(FULL, "freespace", "0")
    story.cluster.avoided.add(FULL)


async def settle(story: Story) -> None:
    """Front-ends cancel what they could not, and what was interrupted is finished by another process."""
    cluster = story.cluster
    for debt in cluster.debts:
        await story.observer.settle(debt)
    assert (await finished(story)).left == 0
    for file in cluster.files:
        if file.is_doomed and not file.is_gone:
            # The head has undone it, or finished it.
            answer = await story.observer.ask("dome_getstatinfo", 200, 404, lfn=file.lfn)
            file.is_doomed = answer.status == 404


async def finished(story: Story) -> Finished:
    """By a head that remembers nothing."""
    cluster = story.cluster
    database = ConnectionPool(cluster.config.dpm, 2)
    try:
        async with disk_client(cluster.config, cluster.disks) as disks:
            head = Head.over(cluster.config, database, disks, Silent(), hosts=("head",))
            assert await database.read(deletions_left) != []
            result = await finish_deletions(head, older_than=0)
            assert await database.read(deletions_left) == []
            return result
    finally:
        await database.close()


def contents(cluster: Cluster) -> dict[str, bytes]:
    return {rfn: file.read_bytes() for rfn, file in cluster.stored().items()}


async def require_agreement_of_disks_and_catalog(story: Story) -> None:
    rows = {row.name: row for row in map(Row._make, await story.rows(FILES))}
    replicas = [ReplicaRow._make(row) for row in await story.rows(REPLICAS)]
    living = {file.name: file for file in story.cluster.living}
    assert rows.keys() == living.keys()
    assert {row.status for row in replicas} == {"-"}
    stored = contents(story.cluster)
    assert sorted(row.rfn for row in replicas) == sorted(stored)
    names = {row.fileid: row.name for row in rows.values()}
    for replica in replicas:
        assert stored[replica.rfn] == living[names[replica.fileid]].content, replica.rfn
        sums = json.loads(replica.xattr)
        assert sums.get("checksum.adler32", adler32(stored[replica.rfn])) == adler32(stored[replica.rfn])
    assert {row.fileid for row in rows.values()} == {row.fileid for row in replicas}
    for name, row in rows.items():
        file = living[name]
        assert (row.size, row.kind, row.value) == (len(file.content), "AD", file.adler32), row
        assert json.loads(row.xattr)["checksum.adler32"] == file.adler32
    assert await catalog_faults(story.maria, story.mirrored.dpm_site.cns, sizes=True) == []


async def require_agreement_of_space(story: Story, unused: int) -> None:
    """The quota is what is charged, and the head's figures are what the servers measure."""
    stored = contents(story.cluster)
    charged = [row.rfn for row in map(ReplicaRow._make, await story.rows(REPLICAS)) if row.setname]
    spent = sum(size for rfn, size in story.cluster.spent.items() if rfn not in stored)
    assert unused - await story.unused() == sum(len(stored[rfn]) for rfn in charged) + spent
    used = {
        server: sum(len(content) for rfn, content in stored.items() if rfn.startswith(f"{server}:"))
        for server in SERVERS
    }
    free = {server: 0 if server == FULL else CAPACITY - used[server] for server in SERVERS}
    for server in SERVERS:
        await story.until_head_says(server, "freespace", str(free[server]))
        assert story.cluster.disks[server].store.room(FS).free == free[server]
    answer = await story.observer.ask("dome_getspaceinfo", 200)
    pool = answer.json["poolinfo"][POOL]
    assert (pool["freespace"], pool["physicalsize"]) == (str(sum(free.values())), str(3 * CAPACITY))


async def require_agreement_of_chimera(story: Story) -> None:
    mirrored = story.mirrored
    await mirrored.follow()
    await mirrored.require_agreement()
    assert (await mirrored.verify()).mismatches == 0
    assert await mirrored.trash() == []
    fileids = {row.name: row.fileid for row in map(Row._make, await story.rows(FILES))}
    places: dict[int, list[str]] = {}
    for replica in map(ReplicaRow._make, await story.rows(REPLICAS)):
        places.setdefault(replica.fileid, []).append(pool_name(replica.host, FS, POOL))
    for file in story.cluster.living:
        fileid = fileids[file.name]
        assert await mirrored.path(fileid) == file.lfn
        assert await mirrored.value(fileid, "isize") == len(file.content)
        assert await mirrored.pools(fileid) == sorted(places[fileid])
