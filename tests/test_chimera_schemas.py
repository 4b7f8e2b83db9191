"""The made-up dCache databases behave as dCache's own, as far as a mirror relies on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from sandbox.acceptance import CHECKS, acceptance_failures
from sandbox.chimera_schema import CHIMERA_VERSIONS, chimera_script, create_chimera
from sandbox.servers import PostgresServer

ROOT_ID = "0" * 36
DIRECTORY, FILE, LINK = 16384, 32768, 40960

NEW_INODE = (
    "INSERT INTO t_inodes"
    " (ipnfsid, itype, imode, inlink, iuid, igid, isize, iio, ictime, iatime, imtime, inumber)"
    " VALUES (repeat($1, 36), 32768, 420, 1, 1, 1, 0, 3, now(), now(), now(), $2)"
)
COLUMN = """
    SELECT column_default, is_identity FROM information_schema.columns
     WHERE table_name = 't_inodes' AND column_name = $1"""

every_version = pytest.mark.parametrize("chimera_version", CHIMERA_VERSIONS)


@pytest.fixture
async def chimera(chimera_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(chimera_dsn)
    yield connection
    await connection.close()


async def create(
    chimera: asyncpg.Connection, name: str, kind: int, *, parent: int = 1, suffix: str = ""
) -> int:
    sql = f"SELECT f_create_inode95{suffix}($1, $2, $3, $4, 493, $5, 10, 20, 512, 2, localtimestamp)"
    pnfsid = "0000" + (name.encode().hex() + f"{parent:X}").upper().zfill(32)
    return int(await chimera.fetchval(sql, parent, name, pnfsid, kind, 2 if kind == DIRECTORY else 1))


async def link_count(chimera: asyncpg.Connection, inumber: int) -> int:
    return int(await chimera.fetchval("SELECT inlink FROM t_inodes WHERE inumber = $1", inumber))


async def store(chimera: asyncpg.Connection, inumber: int, pool: str = "pool1") -> None:
    await chimera.execute(
        "UPDATE t_inodes SET iio = 3, iaccess_latency = 1, iretention_policy = 2 WHERE inumber = $1", inumber
    )
    await chimera.execute(
        "INSERT INTO t_locationinfo VALUES ($1, 1, 10, localtimestamp, localtimestamp, 1, $2)", inumber, pool
    )


@every_version
async def test_new_database_passes_acceptance(chimera: asyncpg.Connection) -> None:
    assert await acceptance_failures(chimera) == {}


@every_version
async def test_new_database_holds_root_and_lost_and_found(chimera: asyncpg.Connection) -> None:
    rows = await chimera.fetch("SELECT ipnfsid, imode, inlink, isize, inumber FROM t_inodes ORDER BY inumber")
    assert [tuple(row) for row in rows] == [
        (ROOT_ID, 0o777, 2, 512, 1),
        ("1".zfill(36), 0o700, 2, 512, 2),
    ]
    assert await chimera.fetchval("SELECT inumber2path(2)") == "/lost+found"
    assert await chimera.fetchval("SELECT count(*) FROM databasechangelog") > 0
    assert await chimera.fetchval("SELECT locked FROM databasechangeloglock") is False


@every_version
async def test_version_is_told_by_columns_and_tables(
    chimera: asyncpg.Connection, chimera_version: str
) -> None:
    release = tuple(int(part) for part in chimera_version.split("."))
    has_qos = await chimera.fetchrow(COLUMN, "iqos_state")
    resolver = await chimera.fetchval("SELECT count(*) FROM pg_proc WHERE proname = 'resolve_path'")
    assert bool(has_qos) == (release >= (9, 2))
    assert (await chimera.fetchval("SELECT to_regclass('t_lazy_wcc')") is not None) == (release >= (9, 1))
    assert bool(resolver) == (release >= (8, 2))


@every_version
async def test_sequences_have_the_names_that_dcache_gave_them(
    chimera: asyncpg.Connection, chimera_version: str
) -> None:
    tags = await chimera.fetchval("SELECT pg_get_serial_sequence('t_tags_inodes', 'itagid')")
    inodes = await chimera.fetchval("SELECT pg_get_serial_sequence('t_inodes', 'inumber')")
    assert (inodes, tags) == ("public.t_inodes_inumber_seq", "public.t_tags_inodes2_itagid_seq")
    assert await chimera.fetchval("SELECT last_value FROM t_inodes_inumber_seq") == 2
    column = await chimera.fetchrow(COLUMN, "inumber")
    assert column["is_identity"] == ("YES" if chimera_version in {"11.2", "12.0"} else "NO")


@every_version
async def test_explicit_inumber_is_accepted(chimera: asyncpg.Connection) -> None:
    await chimera.execute(NEW_INODE, "A", 1000)
    assert "sequence of inodes behind the data" in await acceptance_failures(chimera)


@every_version
async def test_creating_entries_counts_links_by_the_rule_of_the_version(
    chimera: asyncpg.Connection, chimera_version: str
) -> None:
    directory = await create(chimera, "dir", DIRECTORY)
    await create(chimera, "below", DIRECTORY, parent=directory)
    await store(chimera, await create(chimera, "file", FILE, parent=directory))
    old_rule = chimera_version in {"7.2", "8.2"}
    assert await link_count(chimera, directory) == (4 if old_rule else 3)
    assert await link_count(chimera, 1) == 3
    assert await acceptance_failures(chimera) == {}


async def test_creating_existing_name_gives_minus_one(chimera: asyncpg.Connection) -> None:
    await create(chimera, "twice", FILE)
    sql = "SELECT f_create_inode95(1, 'twice', repeat('B', 36), 32768, 420, 1, 0, 0, 0, 2, localtimestamp)"
    assert await chimera.fetchval(sql) == -1


async def test_lazy_creation_reaches_parent_when_propagated(chimera: asyncpg.Connection) -> None:
    await create(chimera, "dir", DIRECTORY, suffix="_lazy_wcc")
    await create(chimera, "file", FILE, suffix="_lazy_wcc")
    assert await link_count(chimera, 1) == 2
    await chimera.execute("SELECT f_propagate_wcc()")
    assert await link_count(chimera, 1) == 3
    assert await chimera.fetchval("SELECT igeneration FROM t_inodes WHERE inumber = 1") == 2
    assert await chimera.fetchval("SELECT count(*) FROM t_lazy_wcc") == 0


@every_version
async def test_deleted_inode_leaves_its_locations_in_the_trash(chimera: asyncpg.Connection) -> None:
    inumber = await create(chimera, "file", FILE)
    await store(chimera, inumber, "pool7")
    pnfsid = await chimera.fetchval("SELECT inumber2pnfsid($1)", inumber)
    await chimera.execute("DELETE FROM t_dirs WHERE ichild = $1", inumber)
    await chimera.execute("DELETE FROM t_inodes WHERE inumber = $1", inumber)
    trash = await chimera.fetch("SELECT ipnfsid, itype, ilocation FROM t_locationinfo_trash ORDER BY itype")
    assert [tuple(row) for row in trash] == [(pnfsid, 1, "pool7"), (pnfsid, 2, "")]
    assert await chimera.fetchval("SELECT count(*) FROM t_locationinfo") == 0


async def test_deleting_id_that_is_in_the_trash_already_fails(chimera: asyncpg.Connection) -> None:
    await chimera.execute(NEW_INODE, "C", 3)
    await chimera.execute("DELETE FROM t_inodes WHERE inumber = 3")
    await chimera.execute(NEW_INODE, "C", 3)
    with pytest.raises(asyncpg.UniqueViolationError):
        await chimera.execute("DELETE FROM t_inodes WHERE inumber = 3")


async def test_tags_keep_directory_from_being_deleted(chimera: asyncpg.Connection) -> None:
    tag = await chimera.fetchval(
        "INSERT INTO t_tags_inodes (imode, inlink, iuid, igid, isize, ictime, iatime, imtime, ivalue)"
        " VALUES (33188, 1, 0, 0, 3, now(), now(), now(), 'abc') RETURNING itagid"
    )
    assert tag == 1
    inumber = await create(chimera, "tagged", DIRECTORY)
    await chimera.execute("INSERT INTO t_tags VALUES ($1, $2, 1, 'sGroup')", inumber, tag)
    await chimera.execute("DELETE FROM t_dirs WHERE ichild = $1", inumber)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await chimera.execute("DELETE FROM t_inodes WHERE inumber = $1", inumber)


@pytest.fixture
async def tree(chimera: asyncpg.Connection) -> dict[str, int]:
    """/a/b/file, /a/up -> ../a/b, /a/abs -> /a/b/file, /a/odd -> a target beyond ASCII."""
    a = await create(chimera, "a", DIRECTORY)
    b = await create(chimera, "b", DIRECTORY, parent=a)
    made = {"a": a, "b": b, "file": await create(chimera, "file", FILE, parent=b)}
    for name, target in (("up", "../a/b"), ("abs", "/a/b/file"), ("odd", "bé")):
        made[name] = await create(chimera, name, LINK, parent=a)
        await chimera.execute("INSERT INTO t_inodes_data VALUES ($1, $2)", made[name], target.encode())
    await create(chimera, "bé", DIRECTORY, parent=a)
    return made


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b/file", "file"),
        ("a/./b/../b/file", "file"),
        ("a//b", "a"),
        ("a/up/file", "file"),
        ("a/abs", "file"),
        ("a/odd", None),
        ("a/nothing", None),
    ],
)
async def test_path_is_walked_as_dcache_does(
    chimera: asyncpg.Connection, tree: dict[str, int], path: str, expected: str | None
) -> None:
    found = await chimera.fetchval("SELECT path2inumber(1, $1)", path)
    assert found == (tree[expected] if expected else None)


async def test_path_with_links_is_resolved(chimera: asyncpg.Connection, tree: dict[str, int]) -> None:
    assert await chimera.fetchval("SELECT resolve_path(1, '/a/up/file')") == "/a/b/file"
    assert await chimera.fetchval("SELECT inumber2path($1)", tree["b"]) == "/a/b"
    assert await chimera.fetchval("SELECT inumber2path(1)") == ""


async def test_upgraded_site_has_serial_columns_and_another_root(postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(await create_chimera(postgres, "upgraded", "12.0", is_upgraded=True))
    try:
        assert await connection.fetchval("SELECT pnfsid2inumber($1)", ROOT_ID) == 4711
        column = await connection.fetchrow(COLUMN, "inumber")
        assert "nextval" in column["column_default"]
        assert await create(connection, "dir", DIRECTORY, parent=4711) == 4713
        assert await acceptance_failures(connection) == {}
    finally:
        await connection.close()
        await postgres.drop_database("upgraded")


def test_unknown_version_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"12\.0"):
        chimera_script("3.0")


DEFECTS = {
    "inode without name": "DELETE FROM t_dirs WHERE ichild = 2",
    "inode not reachable from the root": "DELETE FROM t_dirs WHERE ichild = 2",
    "illegal name": "UPDATE t_dirs SET iname = '..' WHERE ichild = 2",
    "illegal identifier, type, mode or state": "UPDATE t_inodes SET imode = 16895 WHERE inumber = 2",
    "directory of a size other than 512": "UPDATE t_inodes SET isize = 4096 WHERE inumber = 2",
    "directory with two names": "INSERT INTO t_dirs VALUES (1, 2, 'again')",
    "directory with a wrong link count": "UPDATE t_inodes SET inlink = 3 WHERE inumber = 1",
    "name in something other than a directory": "UPDATE t_inodes SET itype = 32768 WHERE inumber = 1",
    "file not stored, online, replica or located": "UPDATE t_inodes SET itype = 32768 WHERE inumber = 2",
    "location of something other than a file": "INSERT INTO t_locationinfo VALUES"
    " (2, 1, 10, now(), now(), 1, 'p')",
    "symbolic link whose target is missing or of another length": "UPDATE t_inodes SET itype = 40960"
    " WHERE inumber = 2",
    "checksum that dCache cannot parse": "INSERT INTO t_inodes_checksum VALUES (2, 1, 'ABC')",
    "trash naming a living inode": "INSERT INTO t_locationinfo_trash VALUES"
    " (lpad('1', 36, '0'), 2, '', 0, now(), now(), 1)",
    "tag of another length than its content": "INSERT INTO t_tags_inodes VALUES"
    " (1, 33188, 1, 0, 0, 9, now(), now(), now(), 'abc')",
    "sequence of inodes behind the data": "UPDATE t_inodes SET inumber = 99 WHERE inumber = 2",
    "sequence of tags behind the data": "INSERT INTO t_tags_inodes VALUES"
    " (99, 33188, 1, 0, 0, 3, now(), now(), now(), 'abc')",
    "tag on something other than a directory": "INSERT INTO t_tags_inodes VALUES"
    " (1, 33188, 1, 0, 0, 3, now(), now(), now(), 'abc'); INSERT INTO t_tags VALUES (2, 1, 1, 't');"
    " UPDATE t_inodes SET itype = 32768 WHERE inumber = 2",
    "file with two names": "UPDATE t_inodes SET itype = 32768 WHERE inumber = 2;"
    " INSERT INTO t_dirs VALUES (1, 2, 'again')",
    "directory without a tag of its parent": "INSERT INTO t_tags_inodes VALUES"
    " (1, 33188, 1, 0, 0, 3, now(), now(), now(), 'abc'); INSERT INTO t_tags VALUES (1, 1, 1, 't');"
    " UPDATE t_inodes SET ipnfsid = repeat('D', 36) WHERE inumber = 2",
    "name without inode": "ALTER TABLE t_dirs DROP CONSTRAINT t_dirs_ichild_fkey;"
    " INSERT INTO t_dirs VALUES (1, 77, 'ghost')",
}


@pytest.mark.parametrize("defect", [*CHECKS, "directory with a wrong link count"])
async def test_defect_is_found_by_acceptance(chimera: asyncpg.Connection, defect: str) -> None:
    await chimera.execute(DEFECTS[defect])
    assert defect in await acceptance_failures(chimera)


@pytest.fixture
async def spaces(spacemanager_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(spacemanager_dsn)
    await connection.execute(
        "INSERT INTO srmaccesslatency VALUES (0, 'NEARLINE'), (1, 'ONLINE');"
        "INSERT INTO srmretentionpolicy VALUES (0, 'CUSTODIAL'), (1, 'OUTPUT'), (2, 'REPLICA');"
        "INSERT INTO srmlinkgroup (name, availablespaceinbytes, reservedspaceinbytes) VALUES ('lg', 1000, 0)"
    )
    yield connection
    await connection.close()


RESERVE = (
    "INSERT INTO srmspace"
    " (linkgroupid, sizeinbytes, creationtime, state, usedspaceinbytes, allocatedspaceinbytes)"
    " VALUES (2, $1, 0, 0, $2, 0) RETURNING id"
)


async def booked(spaces: asyncpg.Connection) -> tuple[int, int]:
    row = await spaces.fetchrow("SELECT availablespaceinbytes, reservedspaceinbytes FROM srmlinkgroup")
    return row[0], row[1]


async def test_reservation_takes_and_returns_space_of_its_link_group(spaces: asyncpg.Connection) -> None:
    space = await spaces.fetchval(RESERVE, 600, 0)
    assert await booked(spaces) == (400, 600)
    await spaces.execute("UPDATE srmspace SET sizeinbytes = 700 WHERE id = $1", space)
    assert await booked(spaces) == (300, 700)
    await spaces.execute("UPDATE srmspace SET state = 1 WHERE id = $1", space)
    assert await booked(spaces) == (1000, 0)


async def test_stored_file_turns_reserved_space_into_used(spaces: asyncpg.Connection) -> None:
    space = await spaces.fetchval(RESERVE, 600, 0)
    await spaces.execute(
        "INSERT INTO srmspacefile (spacereservationid, sizeinbytes, creationtime, pnfsid, state)"
        " VALUES ($1, 100, 0, repeat('A', 36), 1)",
        space,
    )
    assert await spaces.fetchval("SELECT allocatedspaceinbytes FROM srmspace") == 100
    await spaces.execute("UPDATE srmspacefile SET state = 2")
    assert tuple(await spaces.fetchrow("SELECT usedspaceinbytes, allocatedspaceinbytes FROM srmspace")) == (
        100,
        0,
    )
    assert await booked(spaces) == (400, 500)
    await spaces.execute("DELETE FROM srmspacefile")
    assert await booked(spaces) == (400, 600)


@pytest.mark.parametrize(("size", "used", "state"), [(2000, 0, "23D01"), (10, 5, "23D02")])
async def test_impossible_reservation_is_refused(
    spaces: asyncpg.Connection, size: int, used: int, state: str
) -> None:
    with pytest.raises(asyncpg.PostgresError) as refused:
        await spaces.fetchval(RESERVE, size, used)
    assert refused.value.sqlstate == state
