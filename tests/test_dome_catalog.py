"""Where paths lead, and what permissions say: all against a real catalog."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.dome_api import catalog
from dome_bridge.dome_api.catalog import Entry, Walk, bytes_of, names_of, split_rfn, text_of
from dome_bridge.dome_api.permissions import EXECUTE, READ, WRITE, Subject, may, may_replace, may_traverse
from dome_bridge.dpm.pool import ConnectionPool
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError
from sandbox.servers import MariaServer
from tests.fixtures.databases import DpmSite
from tests.fixtures.dome import golden_databases
from tests.fixtures.source import dpm_config

T = TypeVar("T")
DTEAM = "/dpm/test/home/dteam"
ALICE = Subject(101, (101,), "alice")
BOB = Subject(102, (101, 102), "bob")


@pytest.fixture(scope="module")
async def golden(maria: MariaServer) -> AsyncIterator[DpmSite]:
    async with golden_databases(maria) as site:
        yield site


@pytest.fixture(scope="module")
async def pool(golden: DpmSite) -> AsyncIterator[ConnectionPool]:
    made = ConnectionPool(dpm_config(golden), 2)
    yield made
    await made.close()


@pytest.fixture
def walk(pool: ConnectionPool) -> Callable[[str], Awaitable[Walk]]:
    async def walking(path: str) -> Walk:
        return await pool.read(lambda source: catalog.walk(source, path))

    return walking


Walking = Callable[[str], Awaitable[Walk]]


@pytest.mark.parametrize(
    ("path", "found", "parent"),
    [
        ("/", 2, "/"),
        ("//", 2, "/"),
        ("/dpm", 3, "/"),
        (DTEAM, 6, "home"),
        (f"{DTEAM}/", 6, "home"),
        (f"//dpm//test///home/dteam/{''}", 6, "home"),
        (f"{DTEAM}/sub/in_sub", 29, "sub"),
        (f"{DTEAM}/sub/nothing", None, "sub"),
        (f"{DTEAM}/nothing/at/all", None, None),
        ("/nothing", None, "/"),
        ("", None, "/"),
        ("dpm", None, "/"),
        ("dpm/test", None, None),
    ],
)
async def test_path_leads_to(walk: Walking, path: str, found: int | None, parent: str | None) -> None:
    walked = await walk(path)
    assert (walked.entry and walked.entry.fileid) == found
    assert (walked.parent and walked.parent.name) == parent


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (f"{DTEAM}/.", 6),
        (f"{DTEAM}/..", 5),
        (f"{DTEAM}/./sub/../sub/in_sub", 29),
        ("/..", 2),
        ("/../../dpm", 3),
        (f"{DTEAM}/nothing/..", None),
        (f"{DTEAM}/nothing/../sub", None),
        (f"{DTEAM}/legacy_ad/../sub", None),
        (f"{DTEAM}/lnk_dir/..", None),
    ],
)
async def test_dots_are_followed_through_directories_only(
    walk: Walking, path: str, found: int | None
) -> None:
    walked = await walk(path)
    assert (walked.entry and walked.entry.fileid) == found


@pytest.mark.parametrize("path", [f"{DTEAM}/lnk_dir/in_sub", f"{DTEAM}/legacy_ad/x", f"{DTEAM}/lnk_loop/x"])
async def test_nothing_lies_below_links_and_files(walk: Walking, path: str) -> None:
    assert (await walk(path)).entry is None


@pytest.mark.parametrize("path", [f"{DTEAM} ", f"{DTEAM}/sub ", f"{DTEAM} /sub", "/dpm "])
async def test_trailing_blanks_are_part_of_a_name(walk: Walking, path: str) -> None:
    """MariaDB would take the two names for one."""
    assert (await walk(path)).entry is None


async def test_path_of_any_depth_is_followed_to_its_end(pool: ConnectionPool) -> None:
    names = [f"level{number}" for number in range(40)]

    async def make(source: Source) -> tuple[Walk, Walk, tuple[Entry, ...]]:
        parent = 6
        for number, name in enumerate(names):
            await source.execute(
                "INSERT INTO Cns_file_metadata (fileid, parent_fileid, name, filemode, nlink) "
                "VALUES (%s, %s, %s, 16877, 0)",
                (1000 + number, parent, name),
            )
            parent = 1000 + number
        deepest = await catalog.walk(source, f"{DTEAM}/{'/'.join(names)}")
        beyond = await catalog.walk(source, f"{DTEAM}/{'/'.join(names)}/x/y")
        assert deepest.entry is not None
        lineage = await catalog.lineage_of(source, deepest.entry)
        await source.execute("DELETE FROM Cns_file_metadata WHERE fileid >= 1000")
        return deepest, beyond, lineage

    deepest, beyond, lineage = await pool.read(make)
    assert deepest.entry is not None
    assert deepest.entry.fileid == 1039
    assert deepest.lineage == lineage
    assert [entry.name for entry in lineage] == ["/", *names_of(DTEAM), *names[:-1]]
    assert (beyond.entry, beyond.parent) == (None, None)


@pytest.mark.parametrize("dots", ["/.." * 2000, "/x/.." * 500])
async def test_endless_path_leads_nowhere_and_costs_nothing(walk: Walking, dots: str) -> None:
    walked = await walk(DTEAM + dots)
    assert walked.entry is None


@pytest.mark.parametrize("parent", [4711, 1001])
async def test_orphan_and_circle_have_no_ancestors(pool: ConnectionPool, parent: int) -> None:
    orphan = (
        "INSERT INTO Cns_file_metadata (fileid, parent_fileid, name, filemode) VALUES (1001, %s, 'o', 33188)"
    )

    async def look(source: Source) -> None:
        await source.execute(orphan, (parent,))
        try:
            entry = await catalog.entry_by_fileid(source, 1001)
            assert entry is not None
            await catalog.lineage_of(source, entry)
        finally:
            await source.execute("DELETE FROM Cns_file_metadata WHERE fileid = 1001")

    with pytest.raises(ApiError, match="orphan") as info:
        await pool.read(look)
    assert info.value.status == 404


async def test_entry_is_the_same_whichever_way_it_is_read(pool: ConnectionPool) -> None:
    """A look-up by path packs its columns, the others do not."""

    async def both_ways(source: Source) -> list[tuple[Entry | None, Entry | None]]:
        rows = await source.fetch("SELECT name FROM Cns_file_metadata WHERE parent_fileid = 6")
        names = [text_of(name) for (name,) in rows]
        walks = [await catalog.walk(source, f"{DTEAM}/{name}") for name in names]
        return [
            (walked.entry, await catalog.entry_by_fileid(source, walked.entry.fileid if walked.entry else 0))
            for walked in walks
        ]

    pairs = await pool.read(both_ways)
    assert len(pairs) > 10
    assert all(walked == read is not None for walked, read in pairs)


@given(st.binary(max_size=30))
def test_any_bytes_of_a_column_survive_as_text(name: bytes) -> None:
    assert bytes_of(text_of(name)) == name


@pytest.mark.parametrize(
    ("rfn", "parts"),
    [("d1:/a/b", ("d1", "/a/b")), ("d1:/a:b", ("d1", "/a:b")), ("nothing", ("nothing", "nothing"))],
)
def test_rfn_is_split_at_its_first_colon(rfn: str, parts: tuple[str, str]) -> None:
    assert split_rfn(rfn) == parts


def entry(mode: int, uid: int = 101, gid: int = 101, acl_text: bytes = b"") -> Entry:
    return Entry(9, 8, "e", mode, 1, uid, gid, 0, 0, 0, 0, 0, "-", b"", b"", acl_text, b"")


def test_every_ancestor_must_let_the_user_pass() -> None:
    line = [entry(0o40755, 0, 0), entry(0o40710, 0, 101), entry(0o40700, 102, 0)]
    assert may_traverse(ALICE, line[:2])
    assert not may_traverse(ALICE, line)
    assert may_traverse(BOB, line)
    assert not may_traverse(Subject(103, ()), line[:2])


@pytest.mark.parametrize(
    ("subject", "file", "directory", "allowed"),
    [
        (BOB, entry(0o100644), entry(0o41777, 0, 0), False),
        (ALICE, entry(0o100644), entry(0o41777, 0, 0), True),
        (BOB, entry(0o100644), entry(0o41777, 102, 0), True),
        (BOB, entry(0o100664), entry(0o41777, 0, 0), True),
        (BOB, entry(0o100644), entry(0o40777, 0, 0), True),
        (Subject(0, ()), entry(0o100600), entry(0o41777, 102, 0), True),
    ],
)
def test_sticky_directory_keeps_entries_for_their_owners(
    subject: Subject, file: Entry, directory: Entry, allowed: bool
) -> None:
    assert may_replace(subject, directory, file) is allowed


def test_acl_that_cannot_be_read_lets_only_owner_and_root_pass() -> None:
    broken = entry(0o100777, acl_text=b"rubbish")
    assert may(ALICE, broken, READ | WRITE)
    assert may(Subject(0, ()), broken, READ)
    with pytest.raises(ApiError, match="fileid 9") as info:
        may(BOB, broken, READ)
    assert info.value.status == 403


def test_named_user_gets_what_the_mask_leaves() -> None:
    file = entry(0o100640, acl_text=b"A6101,B7102,C4101,E50,F00")
    assert may(BOB, file, READ | EXECUTE)
    assert not may(BOB, file, WRITE)
    assert not may(replace(BOB, uid=103, gids=(7,)), file, READ)


@pytest.mark.parametrize(
    ("text", "subject", "wanted", "allowed"),
    [
        (b"A70,B7102,C50,F50", BOB, READ | WRITE, True),
        (b"A70,B4102,C50,F50", BOB, WRITE, False),
        (b"A70,C70,D7102,F00", replace(BOB, uid=103, gids=(101,)), WRITE, True),
        (b"A70,C40,D7102,F00", replace(BOB, uid=103, gids=(101, 102)), WRITE, False),
        (b"A70,C50,D7102,F00", replace(BOB, uid=103, gids=(102,)), WRITE, True),
        (b"A70,C50,F50,a70,c50", BOB, READ, True),
        (b"a70,c00,f00", BOB, READ, True),
    ],
)
def test_acl_that_is_not_valid_is_evaluated_as_dpm_does(
    text: bytes, subject: Subject, wanted: int, allowed: bool
) -> None:
    assert may(subject, entry(0o100644, acl_text=text), wanted) is allowed
