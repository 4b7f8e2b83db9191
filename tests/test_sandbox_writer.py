"""The random writer: each operation does what it says, races leave no rot, the server may die."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from sandbox import operations as op
from sandbox import vandalism
from sandbox.catalog import make_site
from sandbox.dpm_statements import (
    DIRECTORY,
    FILE,
    SYMLINK,
    Node,
    NothingToDo,
    Place,
    RolledBack,
    Session,
    add_replica,
    create_entry,
    delete_replica,
    move,
    put_done,
    remove_directory,
    unlink,
)
from sandbox.servers import MariaServer
from sandbox.site import SiteOptions
from sandbox.writer import TAME, WILD, CatalogWriter
from tests.fixtures.databases import DpmSite

PLACE = Place("data", "disk01.example.org", "/srv/dpm/fs1")
AFTER_MANY_TRIES = 40


@dataclass(frozen=True)
class Bench:
    """A small made-up site, a session to change it and a way to look at it."""

    maria: MariaServer
    site: DpmSite
    session: Session

    async def value(self, sql: str, *args: object) -> Any:
        found = await self.maria.fetch(sql, args, database=self.site.cns)
        return found[0][0] if found else None

    async def directory(self, name: str = "bench", parent: int = 1) -> Node:
        node = await self.session.node(parent)
        return await self.session.node(await create_entry(self.session, node, name, DIRECTORY | 0o775))

    async def file(self, parent: Node, name: str, size: int = 10) -> Node:
        fileid = await create_entry(self.session, parent, name, FILE | 0o664)
        copy = await add_replica(self.session, fileid, PLACE, f"vo/{fileid}")
        await put_done(self.session, copy, size, "0a1b2c3d")
        return await self.session.node(fileid)

    def writer(self, **options: Any) -> CatalogWriter:
        settings: dict[str, Any] = {"cns": self.site.cns, "dpm": self.site.dpm, "linger": 0.02} | options
        return CatalogWriter(lambda: self.maria.connect(as_dpmmgr=True), random.Random(7), **settings)

    async def orphans(self) -> int:
        return int(
            await self.value(
                "SELECT COUNT(*) FROM Cns_file_metadata c LEFT JOIN Cns_file_metadata p"
                " ON p.fileid = c.parent_fileid WHERE p.fileid IS NULL AND c.fileid <> 1"
            )
        )

    async def entries_out_of_reach(self) -> int:
        """Entries that are not below the root, such as those in a cycle."""
        rows = await self.maria.fetch(
            "SELECT fileid, parent_fileid FROM Cns_file_metadata", database=self.site.cns
        )
        children: dict[int, list[int]] = {}
        for fileid, parent in rows:
            children.setdefault(parent, []).append(fileid)
        reached, waiting = 0, [1]
        while waiting:
            reached += 1
            waiting += children.get(waiting.pop(), [])
        return len(rows) - reached


@asynccontextmanager
async def open_bench(maria: MariaServer, site: DpmSite, **options: Any) -> AsyncIterator[Bench]:
    async with maria.connect(as_dpmmgr=True) as connection:
        session = Session(connection, site.cns, site.dpm, random.Random(1), **options)
        await session.prepare()
        yield Bench(maria, site, session)


@pytest.fixture
async def bench(maria: MariaServer, dpm_site: DpmSite) -> AsyncIterator[Bench]:
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SiteOptions(files=150))
    async with open_bench(maria, dpm_site) as made:
        yield made


async def test_upload_leaves_online_replica_size_and_checksum(bench: Bench) -> None:
    file = await bench.file(await bench.directory(), "f", size=1234)
    assert file.size == 1234
    assert await bench.value("SELECT status FROM Cns_file_replica WHERE fileid = %s", file.fileid) == "-"
    assert (
        await bench.value("SELECT csumvalue FROM Cns_file_metadata WHERE fileid = %s", file.fileid)
        == "0a1b2c3d"
    )


async def test_name_is_stored_as_its_utf8_bytes(bench: Bench) -> None:
    node = await bench.directory("übung 観測 it's \\")
    stored = await bench.value(
        "SELECT CAST(name AS BINARY) FROM Cns_file_metadata WHERE fileid = %s", node.fileid
    )
    assert stored == "übung 観測 it's \\".encode()
    assert node.name == "übung 観測 it's \\"


async def test_sizes_are_added_to_ancestors_of_depth_two_to_six(bench: Bench) -> None:
    line = []
    parent = 1
    for depth in range(1, 9):
        line.append(await bench.directory(f"d{depth}", parent))
        parent = line[-1].fileid
    file = await bench.file(line[-1], "f", size=5)
    sizes = [(await bench.session.node(node.fileid)).size for node in line]
    assert sizes == [0, 5, 5, 5, 5, 5, 0, 0]
    await unlink(bench.session, file)
    assert sum([(await bench.session.node(node.fileid)).size for node in line]) == 0


async def test_link_count_follows_children(bench: Bench) -> None:
    directory = await bench.directory()
    files = [await bench.file(directory, name) for name in ("a", "b")]
    nlink = "SELECT nlink FROM Cns_file_metadata WHERE fileid = %s"
    assert await bench.value(nlink, directory.fileid) == 2
    await unlink(bench.session, files[0])
    assert await bench.value(nlink, directory.fileid) == 1


async def test_deleting_last_replica_deletes_file(bench: Bench) -> None:
    file = await bench.file(await bench.directory(), "f")
    copy = await bench.session.pick_replica(f"fileid = {file.fileid}")
    await delete_replica(bench.session, copy)
    with pytest.raises(NothingToDo):
        await bench.session.node(file.fileid)


async def test_deleting_one_of_two_replicas_keeps_file(bench: Bench) -> None:
    file = await bench.file(await bench.directory(), "f")
    copy = await add_replica(bench.session, file.fileid, PLACE, "vo/second")
    await delete_replica(bench.session, copy)
    assert await bench.session.node(file.fileid)


async def test_directory_with_children_is_not_removed(bench: Bench) -> None:
    directory = await bench.directory()
    await bench.file(directory, "f")
    with pytest.raises(RolledBack):
        await remove_directory(bench.session, directory)
    assert await bench.session.node(directory.fileid)


async def test_moved_directory_takes_its_tree_along(bench: Bench) -> None:
    first, second = await bench.directory("first"), await bench.directory("second")
    file = await bench.file(await bench.directory("inner", first.fileid), "f")
    await move(bench.session, first, second.fileid, "renamed")
    assert await bench.session.path(file.fileid) == "/second/renamed/inner/f"


async def test_abandoned_transaction_leaves_nothing(maria: MariaServer, dpm_site: DpmSite) -> None:
    async with open_bench(maria, dpm_site, rollbacks=1.0) as bench:
        with pytest.raises(RolledBack):
            await bench.directory("never")
        assert await bench.value("SELECT COUNT(*) FROM Cns_file_metadata") == 1
        assert await bench.value("SELECT id FROM Cns_unique_id") == 1


async def test_swapped_names_change_places(bench: Bench) -> None:
    directory = await bench.directory()
    one, two = await bench.file(directory, "one"), await bench.file(directory, "two")
    async with bench.session.transaction():
        await move(bench.session, one, directory.fileid, "spare")
        await move(bench.session, two, directory.fileid, "one")
        await move(bench.session, one, directory.fileid, "two")
    assert (await bench.session.node(one.fileid)).name == "two"
    assert (await bench.session.node(two.fileid)).name == "one"


async def test_wild_cycle_is_closed_and_repaired(bench: Bench) -> None:
    bench.session.rng.seed(4)
    await attempt(vandalism.make_cycle, bench.session)
    assert await bench.entries_out_of_reach() > 0
    await vandalism.repair_cycle(bench.session)
    assert await bench.entries_out_of_reach() == 0


async def test_wild_orphans_are_adopted(bench: Bench) -> None:
    await attempt(vandalism.orphan_children, bench.session)
    before = await bench.orphans()
    assert before > 0
    await vandalism.adopt_orphan(bench.session)
    assert await bench.orphans() == before - 1


async def attempt(operation: op.Operation, session: Session) -> None:
    """Until the operation finds something that it can be done to."""
    for _ in range(AFTER_MANY_TRIES):
        try:
            return await operation(session)
        except (NothingToDo, RolledBack):
            continue
    raise AssertionError(f"{operation.__name__} found nothing to do")


PREPARED_BY: dict[op.Operation, op.Operation] = {
    op.finish_abandoned_upload: op.abandon_upload,
    op.change_person: op.new_user,
    op.delete_filesystem: op.add_filesystem,
    op.rmdir: op.make_directory,
    op.remove_tree: op.make_tree,
    op.move_over_directory: op.make_directory,
    vandalism.repair_entry: vandalism.break_name,
    vandalism.adopt_orphan: vandalism.orphan_children,
    vandalism.restore_directory: vandalism.orphan_children,
    vandalism.repair_cycle: vandalism.make_cycle,
    vandalism.restore_filesystem: vandalism.delete_used_filesystem,
}


async def test_every_operation_finds_something_to_do(bench: Bench) -> None:
    """Also shows that no statement of any operation is refused for its syntax or its types."""
    for operation in WILD:
        if preparation := PREPARED_BY.get(operation):
            await attempt(preparation, bench.session)
        await attempt(operation, bench.session)


async def test_tame_writers_leave_no_orphans_and_no_cycles(bench: Bench) -> None:
    report = await bench.writer(connections=5).run(operations=600, stop=asyncio.Event())
    assert report.attempted >= 600
    assert report.done["upload"] > 20
    assert report.rolled_back.total() > 0
    assert await bench.orphans() == 0
    assert await bench.entries_out_of_reach() == 0


async def test_wild_writers_leave_rot(bench: Bench) -> None:
    report = await bench.writer(weights=WILD, connections=3).run(operations=500, stop=asyncio.Event())
    assert report.done["break_name"] > 0
    assert await bench.value("SELECT COUNT(*) FROM Cns_file_metadata") > 100


async def test_writer_furnishes_an_empty_catalog(maria: MariaServer, dpm_site: DpmSite) -> None:
    async with open_bench(maria, dpm_site) as bench:
        writer = bench.writer(weights={op.upload: 1})
        report = await writer.run(operations=20, stop=asyncio.Event())
        assert report.done["upload"] > 0
        assert await bench.value("SELECT COUNT(*) FROM Cns_file_replica") > 0


async def test_step_does_one_operation_and_names_it(bench: Bench) -> None:
    writer = bench.writer(weights={op.make_directory: 1}, rollbacks=0.0)
    before = await bench.value("SELECT COUNT(*) FROM Cns_file_metadata")
    assert [await writer.step() for _ in range(3)] == ["make_directory"] * 3
    await writer.close()
    made = writer.report.done["make_directory"]
    assert made + writer.report.refused[1062] == 3
    assert await bench.value("SELECT COUNT(*) FROM Cns_file_metadata") == before + made


async def test_writer_ends_when_told_to_stop(bench: Bench) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.3, stop.set)
    async with asyncio.timeout(10):
        report = await bench.writer().run(stop=stop)
    assert report.attempted > 0


async def test_writer_ends_after_its_time(bench: Bench) -> None:
    async with asyncio.timeout(10):
        await bench.writer().run(seconds=0.2, stop=asyncio.Event())


async def test_conflicting_transactions_are_counted_and_survived(bench: Bench) -> None:
    writer = bench.writer(
        weights={op.swap_names: 1, op.long_transaction: 1, op.rename: 1}, connections=6, linger=0.05
    )
    report = await writer.run(operations=250, stop=asyncio.Event())
    assert report.deadlocks > 0
    assert report.done.total() > 50


async def test_writer_survives_death_of_server(mortal_maria: MariaServer, dpm_site: DpmSite) -> None:
    async with open_bench(mortal_maria, dpm_site) as bench:
        stop = asyncio.Event()
        writer = bench.writer()
        running = asyncio.create_task(writer.run(stop=stop))
        await until(lambda: writer.report.attempted > 20)
        await mortal_maria.kill()
        before = writer.report.attempted
        await asyncio.sleep(0.5)
        await mortal_maria.start()
        await until(lambda: writer.report.attempted > before + 20)
        stop.set()
        report = await running
        assert report.reconnects > 0
        assert await bench.orphans() == 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 -- the writer has no event for progress
            await asyncio.sleep(0.02)


def test_tame_preset_has_no_vandalism() -> None:
    assert not [operation for operation in TAME if operation.__module__ == vandalism.__name__]
    assert {operation.__module__ for operation in WILD} == {op.__name__, vandalism.__name__}


async def test_symlink_gets_its_row(bench: Bench) -> None:
    parent = await bench.directory()
    fileid = await create_entry(bench.session, parent, "l", SYMLINK | 0o777, target="../übung")
    assert (
        await bench.value("SELECT linkname FROM Cns_symlinks WHERE fileid = %s", fileid)
        == "../übung".encode()
    )
