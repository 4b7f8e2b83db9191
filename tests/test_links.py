"""The link feed: complete, only what is in Chimera, and nothing lost between two cursors."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dome_bridge.chimera import state
from dome_bridge.chimera.state import Phase
from dome_bridge.errors import StateError
from dome_bridge.exporter.disk_report import ALWAYS_BELIEVED, Taken, take_report
from dome_bridge.exporter.links import Cursor, LinkFeed, Position
from sandbox.dpm_statements import Place, text
from sandbox.operations import insert_filesystem
from sandbox.servers import MariaServer, PostgresServer
from sandbox.writer import WILD, CatalogWriter
from tests.fixtures.command import bridge_for
from tests.fixtures.databases import DpmSite
from tests.fixtures.links import open_linked
from tests.fixtures.mirror import HOME, PLACES, POOLS, Mirrored, connected
from tests.fixtures.pool_link import program

FIRST, SECOND = (place.server for place in PLACES)

Key = tuple[str, str]


@pytest.fixture(scope="module")
async def site(maria: MariaServer, postgres: PostgresServer) -> AsyncIterator[Mirrored]:
    """One for all tests that keep to files of their own: they look only at those."""
    async with open_linked(maria, postgres) as opened:
        yield opened


@pytest.fixture
async def home(site: Mirrored, request: pytest.FixtureRequest) -> str:
    """A directory for this test alone."""
    path = f"{HOME}/{hashlib.sha256(request.node.name.encode()).hexdigest()}"
    await site.catalog.mkdir(path)
    return path


@dataclass
class Fed:
    """What a disk server would know after a feed."""

    lines: list[dict[str, Any]]
    cursor: str

    def of(self, *pnfsids: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["pnfsid"] in pnfsids]

    def line(self, pnfsid: str) -> dict[str, Any]:
        [found] = self.of(pnfsid)
        return found

    @property
    def ops(self) -> dict[Key, str]:
        return {(line["pool"], line["pnfsid"]): line["op"] for line in self.lines}


async def feed(mirrored: Mirrored, server: str = FIRST, since: str = "", **options: Any) -> Fed:
    blocks = [block async for block in LinkFeed(mirrored.config).blocks(server, since=since, **options)]
    *lines, last = [json.loads(line) for line in b"".join(blocks).splitlines()]
    assert list(last) == ["cursor"]
    fed = Fed(lines, last["cursor"])
    assert len(fed.ops) == len(lines), "an id comes once for a pool"
    return fed


def pnfsid(mirrored: Mirrored, fileid: int) -> str:
    return mirrored.session.site.pnfsid(fileid)


async def _idle() -> None: ...


@dataclass
class Followed:
    """A disk server that takes every feed in, and what it then has."""

    mirrored: Mirrored
    server: str
    cursor: str = ""
    links: dict[Key, tuple[str, int]] = field(default_factory=dict)

    async def catch_up(self, *, limit: int = 5, meanwhile: Callable[[], Awaitable[object]] = _idle) -> None:
        """Page by page, with something going on between them."""
        lines: list[dict[str, Any]] = []
        place = self.cursor
        while True:
            page = await LinkFeed(self.mirrored.config).page(self.server, since=place, limit=limit)
            lines += map(json.loads, page.lines)
            place = str(page.next)
            if isinstance(page.next, Cursor):
                break
            await meanwhile()
        self.cursor = place
        for line in lines:
            if line["op"] == "link":
                self.links[line["pool"], line["pnfsid"]] = line["pfn"], line["size"]
            else:
                self.links.pop((line["pool"], line["pnfsid"]), None)


# --- what is in it


async def test_feed_has_a_line_for_each_location_of_the_server(site: Mirrored, home: str) -> None:
    catalog = site.catalog
    here, there = await catalog.file(f"{home}/here", size=11), await catalog.file(f"{home}/there", place=1)
    both = await catalog.file(f"{home}/both")
    await catalog.replica(both, 1)
    await site.follow()
    ids = {fileid: pnfsid(site, fileid) for fileid in (here, there, both)}
    fed, other = await feed(site), await feed(site, SECOND)
    assert [line["pnfsid"] for line in fed.of(*ids.values())] == [ids[here], ids[both]]
    assert [line["pnfsid"] for line in other.of(*ids.values())] == [ids[there], ids[both]]
    line = fed.line(ids[here])
    assert (line["size"], line["op"], line["fs"], line["pool"]) == (11, "link", "/srv/fs1", POOLS[0])
    assert line["pfn"].startswith(f"/srv/fs1/dteam/2024-05-13/{here}.")
    assert line["path"] == f"/srv/fs1/dcache/{POOLS[0]}"


async def test_lines_have_the_keys_of_the_contract_and_are_understood_on_the_disk_server(
    site: Mirrored, home: str
) -> None:
    gone = pnfsid(site, await site.catalog.file(f"{home}/f"))
    await site.follow()
    await site.catalog.unlink(f"{home}/f")
    kept = pnfsid(site, await site.catalog.file(f"{home}/g"))
    await site.follow()
    lines = (await feed(site)).of(gone, kept)
    assert {line["pnfsid"]: line["op"] for line in lines} == {gone: "unlink", kept: "link"}
    for line in lines:
        assert {"pnfsid", "pfn", "size", "pool", "op"} <= set(line)
        assert program.parse(json.dumps(line)).deleted == (line["op"] == "unlink")


@pytest.mark.parametrize(
    "name", [b"plain", b'quo"te', b"back\\slash", b"tab\tnew\nline\x01\x7f", "Ü€😀".encode(), b'caf\xe9\\"\n']
)
async def test_any_bytes_of_a_path_arrive(site: Mirrored, home: str, name: bytes) -> None:
    file = await site.catalog.file(f"{home}/f", place=None)
    copy = await site.catalog.replica(file)
    path = b"/srv/fs1/dteam/%d" % file + name
    await site.catalog.update_replica(copy.rowid, sfn=text(FIRST.encode() + b":" + path))
    await site.follow()
    line = (await feed(site)).line(pnfsid(site, file))
    assert program.parse(json.dumps(line)).pfn == path
    if name.isascii() or b"\xe9" not in name:
        assert line["pfn"] == path.decode()


async def test_checksums_come_when_asked_for(site: Mirrored, home: str) -> None:
    file = await site.catalog.file(f"{home}/f")
    await site.follow()
    assert (await feed(site, checksums=True)).line(pnfsid(site, file))["adler32"] == "0a1b2c3d"
    assert "adler32" not in (await feed(site)).line(pnfsid(site, file))


async def test_server_is_found_in_any_case(site: Mirrored, home: str) -> None:
    file = await site.catalog.file(f"{home}/f")
    await site.follow()
    assert (await feed(site, FIRST.upper())).of(pnfsid(site, file))


async def test_unknown_server_is_told_which_there_are(site: Mirrored) -> None:
    await site.follow()
    with pytest.raises(StateError, match=SECOND):
        await feed(site, "disk99.example.org")


async def test_before_the_first_copy_there_is_nothing_to_link(mirrored: Mirrored) -> None:
    with pytest.raises(StateError, match="nothing is mirrored yet"):
        await feed(mirrored)


async def test_nothing_is_published_before_its_inode_is_committed(site: Mirrored, home: str) -> None:
    await site.follow()
    file = await site.catalog.file(f"{home}/f")
    seen: list[Fed] = []

    async def look(conn: asyncpg.Connection) -> None:
        seen.append(await feed(site))

    async with site.mirror.source.snapshot(), site.mirror.conn.transaction():
        await site.mirror.apply_ids([file], at_commit=look)
    assert [fed.of(pnfsid(site, file)) for fed in seen] == [[]]
    assert len((await feed(site, since=seen[0].cursor)).of(pnfsid(site, file))) == 1


# --- changes


async def test_deleted_file_is_withdrawn_as_deleted(site: Mirrored, home: str) -> None:
    file = await site.catalog.file(f"{home}/f")
    await site.follow()
    before = await feed(site)
    await site.catalog.unlink(f"{home}/f")
    await site.follow()
    line = (await feed(site, since=before.cursor)).line(pnfsid(site, file))
    published = before.line(pnfsid(site, file))
    assert (line["op"], line["deleted"], line["pfn"]) == ("unlink", True, published["pfn"])


async def test_replica_that_moved_is_withdrawn_there_and_linked_here(site: Mirrored, home: str) -> None:
    file = await site.catalog.file(f"{home}/f", place=None)
    copy = await site.catalog.replica(file)
    await site.follow()
    old, new = await feed(site), await feed(site, SECOND)
    await site.catalog.replica(file, 1)
    await site.catalog.execute(f"DELETE FROM {site.catalog.session.replica} WHERE rowid = %s", copy.rowid)
    await site.follow()
    gone = (await feed(site, since=old.cursor)).line(pnfsid(site, file))
    come = (await feed(site, SECOND, since=new.cursor)).line(pnfsid(site, file))
    assert (gone["op"], gone["deleted"], come["op"]) == ("unlink", True, "link")


async def test_quarantined_file_is_withdrawn_but_not_as_deleted(site: Mirrored, home: str) -> None:
    file = await site.catalog.file(f"{home}/f")
    await site.follow()
    before = await feed(site)
    await site.catalog.update(file, name=text(b"caf\xe9"))
    await site.follow()
    line = (await feed(site, since=before.cursor)).line(pnfsid(site, file))
    assert (line["op"], line["deleted"]) == ("unlink", False)
    await site.catalog.update(file, name="mended")
    await site.follow()
    assert (await feed(site, since=before.cursor)).line(pnfsid(site, file))["op"] == "link"


async def test_everything_below_a_quarantined_directory_is_withdrawn_and_comes_back(
    site: Mirrored,
    home: str,
) -> None:
    directory = await site.catalog.mkdir(f"{home}/d")
    await site.catalog.mkdir(f"{home}/d/e")
    file = await site.catalog.file(f"{home}/d/e/f")
    await site.follow()
    await site.catalog.update(directory, name=text(b"\xff"))
    await site.follow()
    line = (await feed(site)).line(pnfsid(site, file))
    assert (line["op"], line["deleted"]) == ("unlink", False)
    await site.catalog.update(directory, name="d")
    await site.follow()
    assert (await feed(site)).line(pnfsid(site, file))["op"] == "link"
    await site.require_agreement()


async def test_file_deleted_while_it_is_quarantined_is_deleted_after_all(site: Mirrored, home: str) -> None:
    file = await site.catalog.file(f"{home}/f")
    await site.follow()
    await site.catalog.update(file, name=text(b"\xff"))
    await site.follow()
    before = await feed(site)
    for table in (site.catalog.session.replica, site.catalog.session.metadata):
        await site.catalog.execute(f"DELETE FROM {table} WHERE fileid = %s", file)
    await site.follow()
    assert (await feed(site, since=before.cursor)).line(pnfsid(site, file))["deleted"] is True


async def test_new_size_is_published_again(site: Mirrored, home: str) -> None:
    file = await site.catalog.file(f"{home}/f", size=7)
    await site.follow()
    before = await feed(site)
    await site.catalog.update(file, filesize=8)
    await site.follow()
    assert (await feed(site, since=before.cursor)).line(pnfsid(site, file))["size"] == 8


async def test_change_that_is_no_concern_of_disks_is_not_published(site: Mirrored, home: str) -> None:
    file = await site.catalog.file(f"{home}/f")
    await site.follow()
    before = await feed(site)
    await site.catalog.update(file, gid=103)
    await site.follow()
    assert (await feed(site, since=before.cursor)).of(pnfsid(site, file)) == []


async def test_file_system_that_changes_its_pool_moves_all_its_links(site: Mirrored, home: str) -> None:
    catalog = site.catalog
    place = Place(PLACES[0].pool, "disk03.example.org", "/srv/fs3")
    await insert_filesystem(catalog.session, place)
    file = await catalog.file(f"{home}/f", place=None)
    copy = await catalog.replica(file)
    await catalog.update_replica(
        copy.rowid, host=place.server, fs=place.fs, sfn=f"{place.server}:{place.fs}/f", poolname=place.pool
    )
    await site.follow()
    before = await feed(site, place.server)
    await catalog.session.insert(f"{catalog.session.dpm}.dpm_pool", poolname="spare", defsize=1, s_type="P")
    await catalog.execute(
        f"UPDATE {catalog.filesystems} SET poolname = 'spare' WHERE server = %s", place.server
    )
    await site.follow()
    fed = await feed(site, place.server, since=before.cursor)
    old = before.line(pnfsid(site, file))["pool"]
    assert {line["pool"] == old: line["op"] for line in fed.lines} == {True: "unlink", False: "link"}
    assert {line["path"].rpartition("/")[2] for line in fed.lines} == {line["pool"] for line in fed.lines}


# --- cursors


async def test_transaction_that_commits_after_a_later_one_is_not_lost(site: Mirrored, home: str) -> None:
    early = pnfsid(site, file := await site.catalog.file(f"{home}/early"))
    await site.follow()
    before = await feed(site)
    async with site.conn.transaction():
        await site.conn.execute(
            "UPDATE dome_bridge.link SET changed = txid_current(), size = 8 WHERE fileid = $1", file
        )
        late = pnfsid(site, await site.catalog.file(f"{home}/late"))
        await site.follow()
        first = await feed(site, since=before.cursor)
    second = await feed(site, since=first.cursor)
    assert (first.of(early), [line["op"] for line in first.of(late)]) == ([], ["link"])
    assert second.line(early)["size"] == 8
    await site.conn.execute("UPDATE dome_bridge.link SET size = 7 WHERE fileid = $1", file)


@pytest.mark.parametrize("text", ["x", "1-2-3", "00C0FFEE00C0FFEE-1-", "'; DROP TABLE t_inodes --"])
async def test_what_is_no_cursor_is_refused(site: Mirrored, text: str) -> None:
    await site.follow()
    with pytest.raises(StateError, match="no cursor"):
        await feed(site, since=text)


async def test_cursor_of_another_mirror_or_server_is_refused(site: Mirrored) -> None:
    await site.follow()
    cursor = Cursor.parse((await feed(site)).cursor)
    others = (
        Cursor("0" * 16, cursor.cluster, cursor.transaction),
        Cursor(cursor.instance_id, cursor.cluster + 1, cursor.transaction),
        Cursor(cursor.instance_id, cursor.cluster, cursor.transaction + 10**6),
    )
    for other in others:
        with pytest.raises(StateError, match="another mirror"):
            await feed(site, since=str(other))


async def test_row_that_changes_between_two_pages_comes_later_as_it_is_then(
    site: Mirrored, home: str
) -> None:
    before = await feed(site)
    files = [await site.catalog.file(f"{home}/f{number}") for number in range(3)]
    await site.follow()
    disk = Followed(site, FIRST, before.cursor)

    async def delete() -> None:
        if await site.catalog.session.rows(
            f"SELECT 1 FROM {site.catalog.session.metadata} WHERE fileid = %s", files[0]
        ):
            await site.catalog.unlink(f"{home}/f0")
            await site.follow()

    await disk.catch_up(limit=1, meanwhile=delete)
    assert {int(name[20:], 16) for _, name in disk.links} == set(files[1:])
    await disk.catch_up()
    assert {int(name[20:], 16) for _, name in disk.links} == set(files[1:])


def test_place_is_read_as_it_was_written() -> None:
    place = Position(Cursor("00C0FFEE00C0FFEE", 2**64 - 1, 77), 5, 3, 12, 2**62)
    assert Position.parse(str(place)) == place
    assert Position.parse(str(place.end)) is None


@pytest.mark.parametrize("seed", [1])
async def test_disk_server_that_follows_has_what_chimera_has(
    mirrored: Mirrored, dpm_site: DpmSite, seed: int
) -> None:
    writer = CatalogWriter(
        lambda: connected(dpm_site),
        random.Random(seed),
        cns=dpm_site.cns,
        dpm=dpm_site.dpm,
        weights=WILD,
        linger=0.01,
    )
    servers = [Followed(mirrored, FIRST), Followed(mirrored, SECOND)]
    stop = asyncio.Event()
    async with _writing(writer, stop):
        await asyncio.sleep(0.2)
        await mirrored.snapshot(range_entries=6)
        for _ in range(3):
            await asyncio.sleep(0.1)
            await mirrored.follower(batch=7).apply_batch()
            for server in servers:
                await server.catch_up(meanwhile=mirrored.follower(batch=9).apply_batch)
    await mirrored.follow()
    for server in servers:
        await server.catch_up()
        assert server.links == await _located(mirrored, server.server)
        afresh = Followed(mirrored, server.server)
        await afresh.catch_up(limit=1000)
        assert afresh.links == server.links
    report = await mirrored.verify()
    assert (report.missing, report.extra, report.different) == (0, 0, 0)


@asynccontextmanager
async def _writing(writer: CatalogWriter, stop: asyncio.Event) -> AsyncIterator[None]:
    writing = asyncio.create_task(writer.run(stop=stop))
    try:
        yield
    finally:
        stop.set()
        await writing


async def _located(mirrored: Mirrored, server: str) -> dict[Key, tuple[str, int]]:
    """Pool and id by Chimera's tables, path and size by DPM's."""
    rows = await mirrored.conn.fetch(
        "SELECT c.ilocation, n.ipnfsid, n.isize FROM t_locationinfo c JOIN t_inodes n USING (inumber)"
        " JOIN dome_bridge.dpm_fs f ON f.dcache_pool = c.ilocation"
        " WHERE lower(encode(f.server, 'escape')) = $1",
        server,
    )
    links = {}
    for pool, name, size in rows:
        sfns = await mirrored.catalog.session.rows(
            f"SELECT sfn FROM {mirrored.catalog.session.replica} WHERE fileid = %s AND status = '-'"
            " ORDER BY rowid",
            int(name[20:], 16),
        )
        fs = await mirrored.conn.fetchval("SELECT fs FROM dome_bridge.dpm_fs WHERE dcache_pool = $1", pool)
        paths = [sfn.partition(b":") for (sfn,) in sfns]
        [path, *_] = [p for h, _, p in paths if h.decode().lower() == server and p.startswith(fs + b"/")]
        links[pool, name] = path.decode("utf-8", "surrogateescape"), size
    return links


async def test_verify_finds_links_that_are_missing_or_wrong_and_repairs_them(
    site: Mirrored, home: str
) -> None:
    files = [await site.catalog.file(f"{home}/f{number}") for number in range(3)]
    await site.follow()
    wanted = await feed(site)
    await site.conn.execute("DELETE FROM dome_bridge.link WHERE fileid = $1", files[0])
    await site.conn.execute("UPDATE dome_bridge.link SET pfn = '/x' WHERE fileid = $1", files[1])
    with pytest.raises(StateError, match="verify --repair"):
        await feed(site)
    assert (await site.verify()).different == 2
    assert (await site.verify(repair=True)).repaired == 2
    assert sorted(map(str, (await feed(site)).lines)) == sorted(map(str, wanted.lines))


async def test_after_the_commit_what_dcache_deleted_is_not_linked_again(site: Mirrored, home: str) -> None:
    kept, gone, old = [await site.catalog.file(f"{home}/f{number}") for number in range(3)]
    await site.follow()
    await site.catalog.unlink(f"{home}/f2")
    await site.follow()
    ids = [pnfsid(site, file) for file in (kept, gone, old)]
    assert len((await feed(site)).of(*ids)) == 3
    phase = (await state.progress(site.conn)).phase
    await state.set_phase(site.conn, Phase.COMMITTED)
    try:
        await site.conn.execute("DELETE FROM t_dirs WHERE ichild = $1", site.inumber(gone))
        await site.conn.execute("DELETE FROM t_inodes WHERE inumber = $1", site.inumber(gone))
        lines = (await feed(site)).of(*ids)
    finally:
        await state.set_phase(site.conn, phase)
        await site.catalog.update(gone, gid=103)
        await site.follow()
    assert {line["pnfsid"]: line["op"] for line in lines} == {ids[0]: "link", ids[2]: "unlink"}


async def test_what_dcache_has_put_into_a_pool_again_is_not_withdrawn(site: Mirrored, home: str) -> None:
    file = await site.catalog.file(f"{home}/f", place=None)
    copy = await site.catalog.replica(file)
    await site.catalog.replica(file, 1)
    await site.follow()
    await site.catalog.execute(f"DELETE FROM {site.catalog.session.replica} WHERE rowid = %s", copy.rowid)
    await site.follow()
    assert (await feed(site)).line(pnfsid(site, file))["op"] == "unlink"
    await site.conn.execute(
        "INSERT INTO t_locationinfo (inumber, itype, ipriority, ictime, iatime, istate, ilocation)"
        " VALUES ($1, 1, 10, now(), now(), 1, $2)",
        site.inumber(file),
        POOLS[0],
    )
    assert (await feed(site)).of(pnfsid(site, file)) == []
    await site.catalog.update(file, gid=103)
    await site.follow()


async def test_feed_that_is_left_early_leaves_no_connection(site: Mirrored, home: str) -> None:
    for number in range(3):
        await site.catalog.file(f"{home}/f{number}")
    await site.follow()
    before = await _sessions(site)
    blocks = LinkFeed(site.config).blocks(FIRST, limit=1)
    assert b"pnfsid" in await anext(blocks)
    await blocks.aclose()
    await asyncio.sleep(0.05)
    assert await _sessions(site) == before


async def _sessions(mirrored: Mirrored) -> int:
    found: int = await mirrored.conn.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    )
    return found


# --- reports


async def take(mirrored: Mirrored, *rows: dict[str, Any], even_if_many: bool = False) -> Taken:
    return await take_report(mirrored.config, map(json.dumps, rows), even_if_many=even_if_many)


def reported(line: dict[str, Any], problem: str, found: int | None = None) -> dict[str, Any]:
    return {**line, "problem": problem, "found": found, "detail": ""}


@pytest.mark.parametrize(("problem", "found"), [("missing", None), ("size", 3)])
async def test_replica_that_is_reported_has_no_location_until_it_is_good(
    site: Mirrored, home: str, problem: str, found: int | None
) -> None:
    file = await site.catalog.file(f"{home}/f")
    await site.catalog.replica(file, 1)
    await site.follow()
    before = await feed(site)
    taken = await take(site, reported(before.line(pnfsid(site, file)), problem, found))
    assert taken == Taken(withheld=1)
    await site.follow()
    assert await site.quarantined(file) == [("fact", f"replica-{problem}")]
    assert await site.pools(file) == [POOLS[1]]
    line = (await feed(site, since=before.cursor)).line(pnfsid(site, file))
    assert (line["op"], line["deleted"], line["recheck"]) == ("unlink", False, True)
    assert (await site.verify()).different == 0
    assert await take(site, reported(line, "found", 7)) == Taken(restored=1)
    await site.follow()
    assert await site.quarantined(file) == []
    assert (await feed(site)).of(line["pnfsid"]) == before.of(line["pnfsid"])
    await site.require_agreement()


async def test_file_whose_only_replica_is_missing_is_absent(site: Mirrored, home: str) -> None:
    file = await site.catalog.file(f"{home}/f")
    await site.follow()
    await take(site, reported((await feed(site)).line(pnfsid(site, file)), "missing"))
    await site.follow()
    assert await site.path(file) is None
    assert ("entry", "no-usable-replica") in await site.quarantined(file)
    await site.catalog.unlink(f"{home}/f")
    await site.follow()


async def test_size_that_is_corrected_in_the_catalog_ends_the_quarantine(site: Mirrored, home: str) -> None:
    file = await site.catalog.file(f"{home}/f", size=7)
    await site.follow()
    await take(site, reported((await feed(site)).line(pnfsid(site, file)), "size", 3))
    await site.follow()
    await site.catalog.update(file, filesize=3)
    await site.follow()
    assert await site.quarantined(file) == []
    line = (await feed(site)).line(pnfsid(site, file))
    assert (line["op"], line["size"]) == ("link", 3)
    await site.require_agreement()


async def test_report_that_the_catalog_has_overtaken_changes_nothing(site: Mirrored, home: str) -> None:
    file = await site.catalog.file(f"{home}/f")
    await site.follow()
    line = (await feed(site)).line(pnfsid(site, file))
    await site.catalog.unlink(f"{home}/f")
    await site.follow()
    assert await take(site, reported(line, "missing"), reported(line, "size", 7)) == Taken(outdated=2)


async def test_deleted_replica_takes_its_finding_along(site: Mirrored, home: str) -> None:
    file = await site.catalog.file(f"{home}/f")
    await site.follow()
    await take(site, reported((await feed(site)).line(pnfsid(site, file)), "missing"))
    await site.follow()
    await site.catalog.unlink(f"{home}/f")
    await site.follow()
    noted = "SELECT count(*) FROM dome_bridge.disk_finding WHERE fileid = $1"
    assert await site.conn.fetchval(noted, file) == 0
    assert (await feed(site)).line(pnfsid(site, file))["deleted"] is True


async def test_report_that_would_empty_a_pool_is_not_believed(site: Mirrored) -> None:
    await site.follow()
    pool = await site.conn.fetchval("SELECT id FROM dome_bridge.link_pool WHERE pool = $1", POOLS[0])
    fileids = range(10**9, 10**9 + ALWAYS_BELIEVED + 1)
    await site.conn.execute(
        "INSERT INTO dome_bridge.link (fileid, changed, size, pool, pfn)"
        " SELECT n, 1, 7, $1, '/srv/fs1/f' FROM unnest($2::bigint[]) n",
        pool,
        fileids,
    )
    rows = [_row(site, fileid) for fileid in fileids]
    with pytest.raises(StateError, match="mounted"):
        await take(site, *rows)
    noted = "SELECT count(*) FROM dome_bridge.disk_finding WHERE fileid = ANY($1)"
    assert await site.conn.fetchval(noted, fileids) == 0
    assert (await take(site, *rows, even_if_many=True)).withheld == len(rows)
    assert await site.conn.fetchval(noted, fileids) == len(rows)
    await site.follow()


def _row(mirrored: Mirrored, fileid: int, **change: Any) -> dict[str, Any]:
    row = {"pnfsid": pnfsid(mirrored, fileid), "pool": POOLS[0], "pfn": "/srv/fs1/f", "size": 7}
    return {**reported(row, "missing"), **change}


async def test_problems_of_the_disk_server_alone_are_only_counted(site: Mirrored) -> None:
    await site.follow()
    taken = await take(site, _row(site, 5, problem="occupied"), _row(site, 6, problem="occupied"))
    assert taken.as_json() == {"withheld": 0, "restored": 0, "outdated": 0, "other": {"occupied": 2}}


@pytest.mark.parametrize(
    "change", [{"pnfsid": "0000" + "A" * 32}, {"pnfsid": "x"}, {"problem": "size"}, {"pfn": 7}]
)
async def test_line_that_is_none_of_a_report_is_refused(site: Mirrored, change: dict[str, Any]) -> None:
    await site.follow()
    with pytest.raises(StateError, match="line 1"):
        await take(site, _row(site, 5, **change))


async def test_report_after_the_commit_is_refused(site: Mirrored) -> None:
    phase = (await state.progress(site.conn)).phase
    await state.set_phase(site.conn, Phase.COMMITTED)
    try:
        with pytest.raises(StateError, match="committed"):
            await take(site)
    finally:
        await state.set_phase(site.conn, phase)


# --- the command line


async def test_commands_print_the_feed_and_take_a_report_in(
    site: Mirrored, home: str, tmp_path: Path
) -> None:
    file = pnfsid(site, await site.catalog.file(f"{home}/f"))
    await site.follow()
    report = tmp_path / "report"
    async with bridge_for(tmp_path, site.dpm_site, site.config.chimera.dsn) as bridge:
        *lines, last = (await bridge("links", "--server", FIRST, "--checksums")).lines
        [line] = [line for line in lines if line["pnfsid"] == file]
        report.write_text(_ndjson([reported(line, "missing")]))
        assert (await bridge.good("quarantine", "--report", str(report)))["withheld"] == 1
    assert Cursor.parse(last["cursor"])


def _ndjson(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)
