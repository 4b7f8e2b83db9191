"""The change capture on a real MariaDB: what is journalled, what is not, and how it is installed."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence

import pytest

from dome_bridge.dpm.grants import Grant, Need, parse_grant, parse_roles
from dome_bridge.dpm.schema import SourceLayout, read_layout
from dome_bridge.dpm.source import Source, StatementError
from dome_bridge.errors import CaptureError, PrivilegeError
from dome_bridge.exporter import capture
from dome_bridge.exporter.capture import CaptureStatus
from dome_bridge.exporter.capture_triggers import capture_triggers
from dome_bridge.exporter.fence import lift_fence, raise_fence
from dome_bridge.exporter.journal import Journal
from dome_bridge.exporter.triggers import CAPTURE_PREFIX, standing_triggers
from sandbox.catalog import create_schemas
from sandbox.servers import MariaServer
from tests.fixtures.databases import DpmSite, unique_name
from tests.fixtures.source import dpm_config, writer

Rows = list[tuple[int, int, str]]

TRIGGERS = 24

CATALOG = """
INSERT INTO Cns_file_metadata
    (fileid, parent_fileid, name, filemode, nlink, owner_uid, gid, filesize, atime, mtime, ctime,
     fileclass, status, csumtype, csumvalue, acl)
VALUES
    (10, 1, 'home', 16877, 2, 0, 0, 500, 1, 1, 1, 0, '-', '', '', ''),
    (11, 10, 'file', 33204, 1, 101, 101, 500, 1, 1, 1, 0, '-', 'AD', '00000001', NULL),
    (12, 10, 'link', 41471, 1, 101, 101, 0, 1, 1, 1, 0, '-', NULL, NULL, '');
INSERT INTO Cns_file_replica
    (rowid, fileid, nbaccesses, ctime, atime, ptime, ltime, status, f_type, setname, poolname, host, fs, sfn)
VALUES
    (1, 11, 0, 1, 1, 1, 1, 'P', 'P', 'tok', 'pool', 'disk1', '/srv/1', 'disk1:/srv/1/vo/file.1'),
    (2, 11, 0, 1, 1, 1, 1, '-', 'P', NULL, 'pool', 'disk2', '/srv/1', 'disk2:/srv/1/vo/file.1');
INSERT INTO Cns_symlinks (fileid, linkname) VALUES (12, '/home/file');
INSERT INTO Cns_userinfo (userid, username, user_ca, banned) VALUES (101, '/CN=Zoe', '', 0);
INSERT INTO Cns_groupinfo (gid, groupname, banned) VALUES (101, 'atlas', 0);
INSERT INTO {dpm}.dpm_pool (poolname, defsize, s_type) VALUES ('pool', 1000, '-');
INSERT INTO {dpm}.dpm_fs (poolname, server, fs, status, weight) VALUES
    ('pool', 'disk1', '/srv/1', 0, 1), ('pool', 'disk2', '/srv/1', 0, 1);
INSERT INTO {dpm}.dpm_space_reserv
    (s_token, client_dn, u_token, t_space, g_space, u_space, poolname, `groups`, path)
VALUES ('tok', 'me', 'ATLASDATADISK', 1000, 1000, 500, 'pool', '0,101', '/home')"""

EMPTY_CATALOG = """
DELETE FROM Cns_symlinks;
DELETE FROM Cns_user_metadata;
DELETE FROM Cns_file_replica;
DELETE FROM Cns_file_metadata WHERE fileid <> 1 OR fileid IS NULL;
DELETE FROM Cns_userinfo;
DELETE FROM Cns_groupinfo;
DELETE FROM {dpm}.dpm_fs;
DELETE FROM {dpm}.dpm_pool;
DELETE FROM {dpm}.dpm_space_reserv"""


@pytest.fixture
async def source(dpm_site: DpmSite) -> AsyncIterator[Source]:
    async with await Source.connect(dpm_config(dpm_site)) as source:
        yield source


@pytest.fixture
async def layout(source: Source) -> SourceLayout:
    return await read_layout(source)


@pytest.fixture
async def captured(source: Source, layout: SourceLayout) -> Source:
    """A small catalog under capture, with an empty journal."""
    await capture.install(source, layout)
    await run(source, CATALOG.split(";\n"))
    await source.execute("DELETE FROM dome_bridge_journal")
    return source


@pytest.fixture(scope="module")
async def shared_site(maria: MariaServer) -> AsyncIterator[DpmSite]:
    """For the tests that only change rows: setting triggers anew for each would take most of the time."""
    cns, dpm = unique_name("cns"), unique_name("dpm")
    await create_schemas(maria, cns, dpm)
    await maria.grant(cns, dpm)
    site = DpmSite(maria.host, maria.port, maria.unix_socket, maria.user, maria.password, cns, dpm)
    async with await Source.connect(dpm_config(site)) as source:
        await capture.install(source, await read_layout(source))
    yield site
    await maria.drop_database(cns, dpm)


@pytest.fixture
async def catalog(shared_site: DpmSite) -> AsyncIterator[Source]:
    """The small catalog as it was made, under capture, with an empty journal."""
    async with await Source.connect(dpm_config(shared_site)) as source:
        await run(source, EMPTY_CATALOG.split(";\n"))
        await run(source, CATALOG.split(";\n"))
        await source.execute("DELETE FROM dome_bridge_journal")
        yield source


async def run(source: Source, statements: Sequence[str]) -> None:
    for statement in statements:
        await source.execute(statement.replace("{dpm}", source.dpm))


async def journalled(source: Source) -> Rows:
    return [(int(row.kind), row.fileid, row.op) for row in await Journal(source).read_batch(100)]


META = "UPDATE Cns_file_metadata SET "
REPLICA = "UPDATE Cns_file_replica SET "
TOKEN = "UPDATE {dpm}.dpm_space_reserv SET "

DOME_STATEMENTS: dict[str, tuple[list[str], Rows]] = {
    "create entry": (
        [
            "BEGIN",
            "SELECT id FROM Cns_unique_id FOR UPDATE",
            "UPDATE Cns_unique_id SET id = 20",
            "INSERT INTO Cns_file_metadata (fileid, parent_fileid, name, filemode, nlink, owner_uid, gid, "
            "filesize, atime, mtime, ctime, fileclass, status) "
            "VALUES (20, 10, 'new', 33204, 1, 101, 101, 0, 9, 9, 9, 0, '-')",
            "SELECT nlink FROM Cns_file_metadata WHERE fileid = 10 FOR UPDATE",
            f"{META} nlink = 3, mtime = 9, ctime = 9 WHERE fileid = 10",
            "COMMIT",
        ],
        [(1, 20, "I"), (1, 10, "U")],
    ),
    "create symlink": (
        [
            "INSERT INTO Cns_file_metadata (fileid, parent_fileid, name) VALUES (20, 10, 'l')",
            "INSERT INTO Cns_symlinks (fileid, linkname) VALUES (20, 'file')",
        ],
        [(1, 20, "I"), (3, 20, "I")],
    ),
    "add replica": (
        ["INSERT INTO Cns_file_replica (fileid, status, sfn) VALUES (11, 'P', 'disk1:/srv/1/x')"],
        [(2, 11, "I")],
    ),
    "put done": (
        [
            f"{REPLICA} nbaccesses = 0, ctime = 9, atime = 9, ptime = 9, ltime = 9, f_type = 'P', "
            "status = '-', poolname = 'pool', host = 'disk1', fs = '/srv/1', "
            "sfn = 'disk1:/srv/1/vo/file.1', xattr = '{\"a\": 1}', setname = 'tok' WHERE rowid = 1",
            f"{META} xattr = '{{\"checksum.adler32\": \"00000002\"}}', csumtype = 'AD', "
            "csumvalue = '00000002' WHERE fileid = 11",
            f"{META} filesize = 700, ctime = 9 WHERE fileid = 11",
            "BEGIN",
            f"{META} filesize = filesize + 200 WHERE fileid = 1",
            f"{META} filesize = filesize + 200 WHERE fileid = 10",
            "COMMIT",
            f"{TOKEN} u_space = u_space - 200 WHERE s_token = 'tok'",
        ],
        [(2, 11, "U"), (1, 11, "U"), (1, 11, "U")],
    ),
    "update replica without news": (
        [
            f"{REPLICA} nbaccesses = 5, ctime = 9, atime = 9, ptime = 9, ltime = 9, f_type = 'V', "
            "status = 'P', poolname = 'pool', host = 'disk1', fs = '/srv/1', "
            "sfn = 'disk1:/srv/1/vo/file.1', xattr = '{}', setname = 'other' WHERE rowid = 1"
        ],
        [],
    ),
    "delete replica": (
        [
            "BEGIN",
            "DELETE FROM Cns_file_replica WHERE fileid = 11 AND sfn = 'disk1:/srv/1/vo/file.1'",
            "COMMIT",
        ],
        [(2, 11, "D")],
    ),
    "unlink": (
        [
            "BEGIN",
            "DELETE FROM Cns_symlinks WHERE fileid = 11",
            "DELETE FROM Cns_user_metadata WHERE u_fileid = 11",
            "DELETE FROM Cns_file_replica WHERE fileid = 11",
            "DELETE FROM Cns_file_metadata WHERE fileid = 11",
            f"{META} nlink = 1, mtime = 9, ctime = 9 WHERE fileid = 10",
            "COMMIT",
        ],
        [(2, 11, "D"), (2, 11, "D"), (1, 11, "D"), (1, 10, "U")],
    ),
    "chmod": ([f"{META} filemode = 33184, ctime = 9 WHERE fileid = 11"], [(1, 11, "U")]),
    "chown": ([f"{META} owner_uid = 102, gid = 103, ctime = 9 WHERE fileid = 11"], [(1, 11, "U")]),
    "rename and move": (
        [
            "BEGIN",
            f"{META} name = 'renamed', ctime = 9 WHERE fileid = 11",
            f"{META} parent_fileid = 1, ctime = 9 WHERE fileid = 11",
            f"{META} nlink = 1, mtime = 9, ctime = 9 WHERE fileid = 10",
            f"{META} nlink = 2, mtime = 9, ctime = 9 WHERE fileid = 1",
            "COMMIT",
        ],
        [(1, 11, "U"), (1, 11, "U"), (1, 10, "U"), (1, 1, "U")],
    ),
    "truncate": ([f"{META} filesize = 0, ctime = 1 WHERE fileid = 11"], [(1, 11, "U")]),
    "set xattr": ([f"{META} xattr = '{{}}' WHERE fileid = 11"], [(1, 11, "U")]),
    "set comment": (
        ["INSERT INTO Cns_user_metadata (u_fileid, comments) VALUES (11, 'nice')"],
        [],
    ),
    "new user and group": (
        [
            "INSERT INTO Cns_userinfo (userid, username, user_ca, banned) VALUES (102, '/CN=Y', '', 0)",
            "INSERT INTO Cns_groupinfo (gid, groupname, banned) VALUES (102, 'cms', 0)",
        ],
        [(10, 0, "I"), (11, 0, "I")],
    ),
    "delete user and group": (
        [
            "DELETE FROM Cns_userinfo WHERE username = '/CN=Zoe'",
            "DELETE FROM Cns_groupinfo WHERE groupname = 'atlas'",
        ],
        [(10, 0, "D"), (11, 0, "D")],
    ),
    "new quota token": (
        [
            "INSERT INTO {dpm}.dpm_space_reserv (s_token, u_token, t_space, poolname, `groups`, path) "
            "VALUES (uuid(), 'CMS', 5, 'pool', '0', '/cms')"
        ],
        [(14, 0, "I")],
    ),
    "delete quota token": (
        ["DELETE FROM {dpm}.dpm_space_reserv WHERE path = '/home' AND poolname = 'pool'"],
        [(14, 0, "D")],
    ),
    "delete pool": (
        ["DELETE FROM {dpm}.dpm_fs WHERE poolname = 'pool'", "DELETE FROM {dpm}.dpm_pool"],
        [(13, 0, "D"), (13, 0, "D"), (12, 0, "D")],
    ),
    "new pool and file system": (
        [
            "INSERT INTO {dpm}.dpm_pool (poolname) VALUES ('p2')",
            "INSERT INTO {dpm}.dpm_fs (poolname, server, fs, status, weight) VALUES ('p2', 's', '/', 0, 1)",
        ],
        [(12, 0, "I"), (13, 0, "I")],
    ),
    "rolled back": (
        [
            "BEGIN",
            f"{META} name = 'gone' WHERE fileid = 11",
            "DELETE FROM Cns_file_replica WHERE fileid = 11",
            "UPDATE {dpm}.dpm_fs SET status = 2",
            "ROLLBACK",
        ],
        [],
    ),
}


@pytest.mark.parametrize("operation", DOME_STATEMENTS)
async def test_operation_of_dome_is_journalled(catalog: Source, operation: str) -> None:
    statements, expected = DOME_STATEMENTS[operation]
    await run(catalog, statements)
    assert await journalled(catalog) == expected


META_NEWS = [
    "parent_fileid = 1",
    "name = 'FILE'",
    "name = 'file '",
    "filemode = NULL",
    "owner_uid = 9",
    "gid = 9",
    "filesize = 501",
    "filesize = NULL",
    "mtime = 9",
    "ctime = 9",
    "status = 'm'",
    "csumtype = 'MD'",
    "csumtype = NULL",
    "csumvalue = '00000001 '",
    "acl = ''",
    "acl = 'A70'",
    "xattr = ''",
]
META_NO_NEWS = ["atime = 9", "nlink = 9", "guid = UUID()", "fileclass = 3", "mtime = 1", "name = 'file'"]
REPLICA_NEWS = [
    "status = '-'",
    "poolname = 'POOL'",
    "host = 'disk1 '",
    "host = NULL",
    "fs = '/srv/2'",
    "sfn = 'disk1:/srv/1/vo/file.2'",
]
REPLICA_NO_NEWS = [
    "nbaccesses = 9",
    "ctime = 9, atime = 9, ptime = 9, ltime = 9",
    "setname = NULL",
    "f_type = 'V'",
    "r_type = 'P'",
    "xattr = '{}'",
]
SMALL_NEWS = [
    ("Cns_symlinks", "linkname = '/HOME/file'", [(3, 12, "U")]),
    ("Cns_userinfo", "userid = 9", [(10, 0, "U")]),
    ("Cns_userinfo", "username = '/cn=zoe'", [(10, 0, "U")]),
    ("Cns_userinfo", "user_ca = NULL", [(10, 0, "U")]),
    ("Cns_userinfo", "banned = 2", [(10, 0, "U")]),
    ("Cns_userinfo", "xattr = '{}'", []),
    ("Cns_groupinfo", "gid = 9", [(11, 0, "U")]),
    ("Cns_groupinfo", "groupname = 'atlas '", [(11, 0, "U")]),
    ("Cns_groupinfo", "banned = 1", [(11, 0, "U")]),
    ("Cns_groupinfo", "xattr = '{}'", []),
    ("{dpm}.dpm_pool", "s_type = 'V'", [(12, 0, "U")]),
    ("{dpm}.dpm_pool", "defsize = 9", [(12, 0, "U")]),
    ("{dpm}.dpm_pool", "pooltype = 'filesystem'", [(12, 0, "U")]),
    ("{dpm}.dpm_pool", "gc_start_thresh = 9, `groups` = '0'", []),
    ("{dpm}.dpm_fs", "status = 1", [(13, 0, "U"), (13, 0, "U")]),
    ("{dpm}.dpm_fs", "server = UPPER(server)", [(13, 0, "U"), (13, 0, "U")]),
    ("{dpm}.dpm_fs", "weight = 9", []),
    ("{dpm}.dpm_space_reserv", "rowid = rowid + 7", [(14, 0, "U")]),
    ("{dpm}.dpm_space_reserv", "s_token = 'TOK'", [(14, 0, "U")]),
    ("{dpm}.dpm_space_reserv", "u_token = 'x'", [(14, 0, "U")]),
    ("{dpm}.dpm_space_reserv", "poolname = 'x'", [(14, 0, "U")]),
    ("{dpm}.dpm_space_reserv", "path = '/HOME'", [(14, 0, "U")]),
    ("{dpm}.dpm_space_reserv", "path = NULL", [(14, 0, "U")]),
    ("{dpm}.dpm_space_reserv", "t_space = 9", [(14, 0, "U")]),
    ("{dpm}.dpm_space_reserv", "`groups` = '0,101 '", [(14, 0, "U")]),
    ("{dpm}.dpm_space_reserv", "u_space = 9, g_space = 9, client_dn = 'x', s_uid = 1", []),
]


@pytest.mark.parametrize("change", META_NEWS)
async def test_change_of_an_entry_is_journalled(catalog: Source, change: str) -> None:
    await run(catalog, [f"{META} {change} WHERE fileid = 11"])
    assert await journalled(catalog) == [(1, 11, "U")]


@pytest.mark.parametrize("change", META_NO_NEWS)
async def test_change_of_an_entry_that_chimera_does_not_hold_is_not(catalog: Source, change: str) -> None:
    await run(catalog, [f"{META} {change} WHERE fileid = 11"])
    assert await journalled(catalog) == []


@pytest.mark.parametrize("change", REPLICA_NEWS)
async def test_change_of_a_replica_is_journalled(catalog: Source, change: str) -> None:
    await run(catalog, [f"{REPLICA} {change} WHERE rowid = 1"])
    assert await journalled(catalog) == [(2, 11, "U")]


@pytest.mark.parametrize("change", REPLICA_NO_NEWS)
async def test_change_of_a_replica_that_chimera_does_not_hold_is_not(catalog: Source, change: str) -> None:
    await run(catalog, [f"{REPLICA} {change} WHERE rowid = 1"])
    assert await journalled(catalog) == []


@pytest.mark.parametrize(("table", "change", "expected"), SMALL_NEWS)
async def test_change_of_a_small_table(catalog: Source, table: str, change: str, expected: Rows) -> None:
    await run(catalog, [f"UPDATE {table} SET {change}"])
    assert await journalled(catalog) == expected


async def test_directory_size_is_not_journalled_but_a_directory_turned_file_is(catalog: Source) -> None:
    await run(catalog, [f"{META} filesize = 9 WHERE fileid = 10"])
    assert await journalled(catalog) == []
    await run(catalog, [f"{META} filemode = 33188, filesize = 8 WHERE fileid = 10"])
    assert await journalled(catalog) == [(1, 10, "U")]


async def test_size_of_an_entry_without_mode_is_journalled(catalog: Source) -> None:
    await run(
        catalog, [f"{META} filemode = NULL WHERE fileid = 11", f"{META} filesize = 8 WHERE fileid = 11"]
    )
    assert await journalled(catalog) == [(1, 11, "U")] * 2


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (f"{META} fileid = 99 WHERE fileid = 10", [(1, 10, "U"), (1, 99, "U")]),
        (f"{REPLICA} fileid = 12 WHERE rowid = 1", [(2, 11, "U"), (2, 12, "U")]),
        ("UPDATE Cns_symlinks SET fileid = 11", [(3, 12, "U"), (3, 11, "U")]),
        (f"{META} fileid = NULL WHERE fileid = 10", [(1, 10, "U"), (1, 0, "U")]),
    ],
)
async def test_changed_fileid_journals_both(catalog: Source, statement: str, expected: Rows) -> None:
    await run(catalog, [statement])
    assert await journalled(catalog) == expected


async def test_row_without_fileid_is_journalled_as_zero(catalog: Source) -> None:
    await run(catalog, ["INSERT INTO Cns_file_metadata (parent_fileid, name) VALUES (10, 'odd')"])
    assert await journalled(catalog) == [(1, 0, "I")]


async def test_statement_on_many_rows_journals_each_that_changed(catalog: Source) -> None:
    await run(catalog, [f"{META} mtime = GREATEST(mtime, 2) WHERE parent_fileid = 10", "BEGIN", "COMMIT"])
    assert sorted(await journalled(catalog)) == [(1, 11, "U"), (1, 12, "U")]


async def test_failed_statement_journals_nothing(catalog: Source) -> None:
    with pytest.raises(StatementError):
        await run(catalog, [f"{META} name = 'file' WHERE fileid = 12"])
    assert await journalled(catalog) == []


async def test_rows_appear_when_the_transaction_commits(captured: Source, dpm_site: DpmSite) -> None:
    async with writer(dpm_site, autocommit=False) as cursor:
        await cursor.execute(f"{META} mtime = 9 WHERE fileid = 11")
        assert await journalled(captured) == []
        await cursor.execute("COMMIT")
    assert await journalled(captured) == [(1, 11, "U")]


async def test_change_that_cannot_be_journalled_fails(captured: Source) -> None:
    await captured.execute("RENAME TABLE dome_bridge_journal TO elsewhere")
    with pytest.raises(StatementError, match="dome_bridge_journal"):
        await run(captured, [f"{META} mtime = 9 WHERE fileid = 11"])
    assert await captured.fetchval("SELECT mtime FROM Cns_file_metadata WHERE fileid = 11") == 1
    await run(captured, [f"{META} atime = 9 WHERE fileid = 10"])


async def test_name_server_without_xattr_is_captured(maria: MariaServer, dpm_site: DpmSite) -> None:
    await create_schemas(maria, dpm_site.cns, dpm_site.dpm, cns_version="3.1.0", binary_path=False)
    async with await Source.connect(dpm_config(dpm_site)) as source:
        await capture.install(source, await read_layout(source))
        await run(source, CATALOG.split(";\n"))
        await source.execute("DELETE FROM dome_bridge_journal")
        await run(source, [f"{META} csumvalue = 'x' WHERE fileid = 11", f"{TOKEN} path = '/HOME'"])
        assert await journalled(source) == [(1, 11, "U"), (14, 0, "U")]


def test_trigger_texts_stay_within_what_all_servers_take(layout_of_today: SourceLayout) -> None:
    for trigger in capture_triggers(layout_of_today, "cns_db", "dpm_db"):
        assert len(trigger.name) <= 64
        assert trigger.create_sql.isascii()
        assert "HANDLER" not in trigger.body.upper()


@pytest.fixture
def layout_of_today() -> SourceLayout:
    return SourceLayout((3, 2, 0), (3, 5, 0), True, True, True, True, True, 1, {}, {})


async def test_missing_capture_is_seen(source: Source, layout: SourceLayout) -> None:
    state = await capture.inspect(source, layout)
    assert state.status is CaptureStatus.MISSING
    assert len(state.missing) == TRIGGERS
    assert not state.has_journal


async def test_installing_twice_is_harmless(source: Source, layout: SourceLayout) -> None:
    assert await capture.install(source, layout)
    before = await standing_triggers(source)
    assert not await capture.install(source, layout)
    assert await standing_triggers(source) == before
    assert len(before) == TRIGGERS
    assert (await capture.inspect(source, layout)).is_current


@pytest.mark.parametrize(
    "damage",
    ["DROP TRIGGER dome_bridge_capture_cns_symlinks_delete", "DROP TABLE dome_bridge_journal"],
)
async def test_partial_capture_is_seen_and_completed(
    captured: Source, layout: SourceLayout, damage: str
) -> None:
    await captured.execute(damage)
    assert (await capture.inspect(captured, layout)).status is CaptureStatus.INCOMPLETE
    assert await capture.install(captured, layout)
    assert (await capture.inspect(captured, layout)).is_current
    await run(captured, ["DELETE FROM Cns_symlinks"])
    assert (3, 12, "D") in await journalled(captured)


async def test_outdated_trigger_is_seen_and_replaced(captured: Source, layout: SourceLayout) -> None:
    name = f"{CAPTURE_PREFIX}cns_symlinks_update"
    await captured.execute(f"DROP TRIGGER {name}")
    await captured.execute(
        f"CREATE TRIGGER {name} AFTER UPDATE ON Cns_symlinks FOR EACH ROW SET @nothing = 1"
    )
    state = await capture.inspect(captured, layout)
    assert (state.status, state.outdated) == (CaptureStatus.OUTDATED, (name,))
    assert await capture.install(captured, layout)
    await run(captured, ["UPDATE Cns_symlinks SET linkname = 'x'"])
    assert await journalled(captured) == [(3, 12, "U")]


@pytest.mark.parametrize("table", ["Cns_file_metadata", "Cns_user_metadata", "{dpm}.dpm_fs"])
async def test_foreign_trigger_is_refused_by_name(source: Source, layout: SourceLayout, table: str) -> None:
    schema = f"{source.dpm}." if "dpm_fs" in table else ""
    await run(
        source, [f"CREATE TRIGGER {schema}site_audit AFTER DELETE ON {table} FOR EACH ROW SET @deleted = 1"]
    )
    with pytest.raises(CaptureError, match=f"site_audit on .*{table.removeprefix('{dpm}.')}"):
        await capture.install(source, layout)
    state = await capture.inspect(source, layout)
    assert [found.name for found in state.foreign] == ["site_audit"]
    assert state.status is CaptureStatus.MISSING


async def test_foreign_trigger_on_another_table_is_no_matter(source: Source, layout: SourceLayout) -> None:
    await run(source, ["CREATE TRIGGER {dpm}.audit AFTER DELETE ON {dpm}.dpm_req FOR EACH ROW SET @d = 1"])
    assert await capture.install(source, layout)


async def test_table_with_the_journals_name_is_refused(source: Source, layout: SourceLayout) -> None:
    await source.execute("CREATE TABLE dome_bridge_journal (id INTEGER)")
    with pytest.raises(CaptureError, match="not our journal"):
        await capture.install(source, layout)


async def test_removing_leaves_nothing_and_can_be_repeated(captured: Source, layout: SourceLayout) -> None:
    assert await capture.remove(captured)
    assert (await capture.inspect(captured, layout)).status is CaptureStatus.MISSING
    assert await standing_triggers(captured) == []
    assert not await capture.remove(captured)
    await run(captured, [f"{META} mtime = 9 WHERE fileid = 11"])


async def test_capture_and_fence_do_not_touch_each_other(captured: Source, layout: SourceLayout) -> None:
    await raise_fence(captured, layout)
    assert (await capture.inspect(captured, layout)).is_current
    assert not await capture.install(captured, layout)
    await lift_fence(captured)
    assert (await capture.inspect(captured, layout)).is_current


async def test_busy_table_names_the_connection_that_holds_it(
    source: Source,
    layout: SourceLayout,
    dpm_site: DpmSite,
    maria: MariaServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async with await admin(dpm_site, maria) as source_admin, writer(dpm_site, autocommit=False) as cursor:
        await cursor.execute("SELECT * FROM Cns_file_replica")
        await cursor.execute("SELECT CONNECTION_ID()")
        [(holder,)] = await cursor.fetchall()
        with (
            caplog.at_level(logging.WARNING, "dome_bridge.exporter.triggers"),
            pytest.raises(
                CaptureError, match=f"Cns_file_replica.*2 attempts.*connection {holder} \\(dpmmgr@"
            ),
        ):
            await capture.install(
                source_admin, layout, lock_wait_seconds=1, attempts=2, pause_seconds=7.0, sleep=sleep
            )
        assert f"connection {holder} " in caplog.text
        assert pauses == [7.0]
        assert (await capture.inspect(source, layout)).status is CaptureStatus.INCOMPLETE
        await cursor.execute("COMMIT")
        assert await capture.install(source_admin, layout)
        assert await source_admin.fetchval("SELECT @@SESSION.lock_wait_timeout") == 60
    assert (await capture.inspect(source, layout)).is_current


async def test_busy_table_is_taken_when_it_becomes_free(
    source: Source, layout: SourceLayout, dpm_site: DpmSite
) -> None:
    async with writer(dpm_site, autocommit=False) as cursor:
        await cursor.execute("SELECT * FROM Cns_file_replica")

        async def sleep(seconds: float) -> None:
            await cursor.execute("COMMIT")

        assert await capture.install(source, layout, lock_wait_seconds=1, sleep=sleep)


async def test_without_process_privilege_own_connections_are_named(
    source: Source, layout: SourceLayout, dpm_site: DpmSite
) -> None:
    async with writer(dpm_site, autocommit=False) as cursor:
        await cursor.execute("SELECT * FROM Cns_file_replica")
        with pytest.raises(CaptureError, match=r"PROCESS privilege; .*connection \d+ \(dpmmgr@"):
            await capture.install(source, layout, lock_wait_seconds=1, attempts=1)


async def test_other_readers_wait_no_longer_than_one_short_lock_wait(
    source: Source, layout: SourceLayout, dpm_site: DpmSite
) -> None:
    async with (
        writer(dpm_site, autocommit=False) as holder,
        writer(dpm_site) as reader,
    ):
        await holder.execute("SELECT * FROM Cns_file_metadata")
        installing = asyncio.create_task(capture.install(source, layout, lock_wait_seconds=1, attempts=1))
        await asyncio.sleep(0.3)
        async with asyncio.timeout(3):
            await reader.execute("SELECT * FROM Cns_file_metadata")
        with pytest.raises(CaptureError):
            await installing


async def admin(site: DpmSite, maria: MariaServer) -> Source:
    config = dpm_config(site, admin_user=maria.admin_user, admin_password=maria.admin_password)
    return await Source.connect(config, admin=True)


@pytest.fixture
async def restricted(maria: MariaServer, dpm_site: DpmSite) -> AsyncIterator[Source]:
    """An account that may read both databases and no more."""
    await maria.execute("CREATE USER 'reader'@'localhost' IDENTIFIED BY 'x'")
    try:
        for schema in (dpm_site.cns, dpm_site.dpm):
            await maria.execute(f"GRANT SELECT ON `{schema}`.* TO 'reader'@'localhost'")
        async with await Source.connect(dpm_config(dpm_site, user="reader", password="x")) as source:
            yield source
    finally:
        await maria.execute("DROP USER 'reader'@'localhost'")


async def test_account_without_rights_gets_the_grants_to_type(
    restricted: Source, layout: SourceLayout, maria: MariaServer, dpm_site: DpmSite
) -> None:
    with pytest.raises(PrivilegeError) as info:
        await capture.install(restricted, layout)
    grants = re.findall(r"GRANT [^;()]+ TO 'reader'@'localhost'", str(info.value))
    assert len(grants) == 2
    assert not any("SELECT" in grant for grant in grants)
    for grant in grants:
        await maria.execute(grant)
    async with await Source.connect(dpm_config(dpm_site, user="reader", password="x")) as source:
        assert await capture.install(source, layout)


async def test_account_without_trigger_right_does_not_take_none_for_missing(
    captured: Source, restricted: Source, layout: SourceLayout
) -> None:
    state = await capture.inspect(restricted, layout)
    assert state.status is CaptureStatus.UNKNOWN
    assert state.has_journal


async def test_rights_that_come_through_a_role_count(
    restricted: Source, layout: SourceLayout, maria: MariaServer, dpm_site: DpmSite
) -> None:
    await maria.execute("CREATE ROLE keeper")
    try:
        for schema in (dpm_site.cns, dpm_site.dpm):
            await maria.execute(f"GRANT ALL ON `{schema}`.* TO keeper")
        await maria.execute("GRANT keeper TO 'reader'@'localhost'")
        await restricted.execute("SET ROLE keeper")
        assert (await capture.inspect(restricted, layout)).status is CaptureStatus.MISSING
    finally:
        await maria.execute("DROP ROLE keeper")


async def test_binary_log_needs_trust_or_super(dpm_site: DpmSite) -> None:
    async with MariaServer("--log-bin=log", "--server-id=1", "--binlog-format=MIXED") as logging_server:
        await create_schemas(logging_server, "cns_db", "dpm_db")
        site = DpmSite(
            logging_server.host,
            logging_server.port,
            logging_server.unix_socket,
            logging_server.user,
            logging_server.password,
            "cns_db",
            "dpm_db",
        )
        async with await Source.connect(dpm_config(site)) as source:
            layout = await read_layout(source)
            with pytest.raises(PrivilegeError, match="log_bin_trust_function_creators = 1") as info:
                await capture.install(source, layout)
            assert "GRANT SUPER ON *.* TO 'dpmmgr'@'localhost'" in str(info.value)
            async with await admin(site, logging_server) as source_admin:
                assert await capture.install(source_admin, layout)
                assert await capture.remove(source_admin)
            await logging_server.execute("SET GLOBAL log_bin_trust_function_creators = 1")
            assert await capture.install(source, layout)


async def test_definer_that_was_dropped_is_found(
    layout: SourceLayout, dpm_site: DpmSite, maria: MariaServer
) -> None:
    await maria.execute("CREATE USER 'leaver'@'localhost' IDENTIFIED BY 'x'")
    for schema in (dpm_site.cns, dpm_site.dpm):
        await maria.execute(f"GRANT ALL ON `{schema}`.* TO 'leaver'@'localhost'")
    async with await Source.connect(dpm_config(dpm_site, user="leaver", password="x")) as leaver:
        await capture.install(leaver, layout)
        assert await capture.definer_findings(leaver) == []
    await maria.execute("DROP USER 'leaver'@'localhost'")
    async with await admin(dpm_site, maria) as source_admin:
        [finding] = await capture.definer_findings(source_admin)
    assert finding.definer == "leaver@localhost"
    assert len(finding.triggers) == TRIGGERS
    assert "does not exist" in finding.message
    async with await Source.connect(dpm_config(dpm_site)) as source:
        [finding] = await capture.definer_findings(source)
        assert "cannot tell" in finding.message


@pytest.mark.parametrize(
    ("line", "grant"),
    [
        (
            "GRANT USAGE ON *.* TO `dpmmgr`@`localhost` IDENTIFIED BY PASSWORD '*X'",
            Grant(frozenset({"USAGE"}), "*", "*"),
        ),
        (
            "GRANT ALL PRIVILEGES ON `cns\\_db`.* TO 'dpmmgr'@'localhost' WITH GRANT OPTION",
            Grant(frozenset({"ALL PRIVILEGES"}), "cns\\_db", "*"),
        ),
        (
            "GRANT SELECT, LOCK TABLES, UPDATE (a, b) ON `cns_db`.`T` TO `u`@`%`",
            Grant(frozenset({"SELECT", "LOCK TABLES"}), "cns_db", "T"),
        ),
        ("GRANT `keeper`@`%` TO `u`@`%`", None),
        ("GRANT EXECUTE ON PROCEDURE `a`.`b` TO `u`@`%`", None),
        ("GRANT PROXY ON ''@'' TO 'root'@'localhost' WITH GRANT OPTION", None),
    ],
)
def test_line_of_show_grants_is_parsed(line: str, grant: Grant | None) -> None:
    assert parse_grant(line) == grant


def test_roles_of_show_grants_are_found() -> None:
    assert parse_roles("GRANT `a`@`%`,`b`@`%` TO `u`@`%`") == "`a`@`%`,`b`@`%`"
    assert parse_roles("GRANT SELECT ON `a`.* TO `u`@`%`") is None


@pytest.mark.parametrize(
    ("grant", "need", "covered"),
    [
        (Grant(frozenset({"TRIGGER"}), "cns_db", "*"), Need("TRIGGER", "cns_db"), True),
        (Grant(frozenset({"TRIGGER"}), "cns_db", "T"), Need("TRIGGER", "cns_db"), False),
        (Grant(frozenset({"INSERT"}), "cns_db", "T"), Need("INSERT", "cns_db", "T"), True),
        (Grant(frozenset({"TRIGGER"}), "cns%", "*"), Need("TRIGGER", "cns_db"), True),
        (Grant(frozenset({"TRIGGER"}), "cns\\_db", "*"), Need("TRIGGER", "cns_db"), True),
        (Grant(frozenset({"TRIGGER"}), "cns\\_db", "*"), Need("TRIGGER", "cnsxdb"), False),
        (Grant(frozenset({"TRIGGER"}), "dpm_db", "*"), Need("TRIGGER", "cns_db"), False),
        (Grant(frozenset({"ALL PRIVILEGES"}), "*", "*"), Need("SUPER", "*"), True),
        (Grant(frozenset({"ALL PRIVILEGES"}), "cns_db", "*"), Need("SUPER", "*"), False),
    ],
)
def test_grant_covers_need(grant: Grant, need: Need, covered: bool) -> None:
    assert grant.covers(*need) is covered
