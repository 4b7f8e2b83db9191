"""The write fence on a real MariaDB: what it stops, what it lets through, and that it is all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from dome_bridge.dpm.fenced import FENCE_SQLSTATE, is_fenced
from dome_bridge.dpm.schema import SourceLayout, read_layout
from dome_bridge.dpm.source import Source, StatementError
from dome_bridge.errors import FenceError, PrivilegeError
from dome_bridge.exporter import capture
from dome_bridge.exporter.fence import (
    PROBE_TABLE,
    FenceState,
    fence_state,
    fence_triggers,
    lift_fence,
    prove_fence_possible,
    raise_fence,
)
from dome_bridge.exporter.journal import Journal
from dome_bridge.exporter.triggers import FENCE_PREFIX, standing_triggers
from sandbox.servers import MariaServer
from tests.fixtures.databases import DpmSite
from tests.fixtures.source import dpm_config, writer

CATALOG = (
    "INSERT INTO Cns_file_metadata (fileid, parent_fileid, name, filemode, filesize, atime, mtime) "
    "VALUES (10, 1, 'file', 33204, 5, 1, 1), (11, 1, 'link', 41471, 0, 1, 1)",
    "INSERT INTO Cns_file_replica (rowid, fileid, nbaccesses, atime, ptime, ltime, ctime, status, sfn) "
    "VALUES (1, 10, 0, 1, 1, 1, 1, '-', 'd:/f')",
    "INSERT INTO Cns_symlinks (fileid, linkname) VALUES (11, 'file')",
    "INSERT INTO Cns_user_metadata (u_fileid, comments) VALUES (10, 'c')",
    "INSERT INTO Cns_userinfo (userid, username, banned) VALUES (1, 'u', 0)",
    "INSERT INTO Cns_groupinfo (gid, groupname, banned) VALUES (1, 'g', 0)",
    "INSERT INTO {dpm}.dpm_pool (poolname, defsize) VALUES ('p', 1)",
    "INSERT INTO {dpm}.dpm_fs (poolname, server, fs, status, weight) VALUES ('p', 's', '/f', 0, 1)",
    "INSERT INTO {dpm}.dpm_space_reserv (s_token, u_space) VALUES ('t', 1)",
)
REFUSED = (
    "INSERT INTO Cns_file_metadata (fileid, parent_fileid, name) VALUES (20, 1, 'new')",
    "UPDATE Cns_file_metadata SET name = 'x' WHERE fileid = 10",
    "UPDATE Cns_file_metadata SET name = 'file ' WHERE fileid = 10",
    "UPDATE Cns_file_metadata SET atime = 9, mtime = 9 WHERE fileid = 10",
    "UPDATE Cns_file_metadata SET guid = 'x' WHERE fileid = 10",
    "UPDATE Cns_file_metadata SET nlink = 9 WHERE fileid = 10",
    "UPDATE Cns_file_metadata SET xattr = '' WHERE fileid = 10",
    "DELETE FROM Cns_file_metadata WHERE fileid = 99 OR name = 'file'",
    "INSERT INTO Cns_file_replica (fileid, sfn) VALUES (10, 'd:/g')",
    "UPDATE Cns_file_replica SET ctime = 9 WHERE rowid = 1",
    "UPDATE Cns_file_replica SET status = 'D' WHERE rowid = 1",
    "UPDATE Cns_file_replica SET nbaccesses = 1, setname = 'x' WHERE rowid = 1",
    "DELETE FROM Cns_file_replica WHERE fileid = 10",
    "INSERT INTO Cns_symlinks (fileid, linkname) VALUES (10, 'x')",
    "UPDATE Cns_symlinks SET linkname = 'x'",
    "DELETE FROM Cns_symlinks",
    "INSERT INTO Cns_user_metadata (u_fileid) VALUES (11)",
    "UPDATE Cns_user_metadata SET comments = 'x'",
    "DELETE FROM Cns_user_metadata",
    "INSERT INTO Cns_userinfo (userid, username) VALUES (2, 'v')",
    "UPDATE Cns_userinfo SET banned = 1",
    "DELETE FROM Cns_userinfo",
    "INSERT INTO Cns_groupinfo (gid, groupname) VALUES (2, 'h')",
    "UPDATE Cns_groupinfo SET banned = 1",
    "DELETE FROM Cns_groupinfo",
    "INSERT INTO {dpm}.dpm_pool (poolname) VALUES ('q')",
    "UPDATE {dpm}.dpm_pool SET defsize = 2",
    "DELETE FROM {dpm}.dpm_pool",
    "INSERT INTO {dpm}.dpm_fs (poolname, server, fs) VALUES ('p', 's', '/g')",
    "UPDATE {dpm}.dpm_fs SET status = 1",
    "DELETE FROM {dpm}.dpm_fs",
    "INSERT INTO {dpm}.dpm_space_reserv (s_token) VALUES ('u')",
    "UPDATE {dpm}.dpm_space_reserv SET u_space = 2",
    "DELETE FROM {dpm}.dpm_space_reserv",
)
PASSING = (
    "SELECT * FROM Cns_file_metadata",
    "UPDATE Cns_file_metadata SET atime = 9 WHERE fileid = 10",
    "UPDATE Cns_file_replica SET nbaccesses = nbaccesses + 1, atime = 9, ptime = 9, ltime = 9",
    "UPDATE Cns_file_metadata SET name = 'file' WHERE fileid = 10",
    "UPDATE Cns_file_metadata SET name = 'x' WHERE fileid = 99",
    "UPDATE {dpm}.dpm_unique_id SET id = 5",
    "DELETE FROM {dpm}.dpm_req",
)


@pytest.fixture
async def source(dpm_site: DpmSite) -> AsyncIterator[Source]:
    async with await Source.connect(dpm_config(dpm_site)) as source:
        await run(source, CATALOG)
        yield source


@pytest.fixture
async def layout(source: Source) -> SourceLayout:
    return await read_layout(source)


async def run(source: Source, statements: Sequence[str]) -> None:
    for statement in statements:
        await source.execute(statement.replace("{dpm}", source.dpm))


async def connection_id(cursor: Any) -> int:
    await cursor.execute("SELECT CONNECTION_ID()")
    [(number,)] = await cursor.fetchall()
    return int(number)


async def admin(site: DpmSite, maria: MariaServer) -> Source:
    config = dpm_config(site, admin_user=maria.admin_user, admin_password=maria.admin_password)
    return await Source.connect(config, admin=True)


async def test_every_change_of_the_catalog_is_refused(source: Source, layout: SourceLayout) -> None:
    await raise_fence(source, layout)
    for statement in REFUSED:
        with pytest.raises(StatementError, match="dome-bridge fence") as info:
            await run(source, [statement])
        assert is_fenced(info.value), statement
        assert (info.value.sqlstate, info.value.number) == (FENCE_SQLSTATE, 1644)


async def test_reads_and_access_bookkeeping_pass(source: Source, layout: SourceLayout) -> None:
    await raise_fence(source, layout)
    await run(source, PASSING)
    assert await source.fetchval("SELECT nbaccesses FROM Cns_file_replica") == 1


async def test_catalog_can_be_written_again_after_lifting(source: Source, layout: SourceLayout) -> None:
    await raise_fence(source, layout)
    assert await lift_fence(source)
    await run(source, [statement for statement in REFUSED if "DELETE" not in statement])
    assert await standing_triggers(source) == []


async def test_other_error_is_not_taken_for_the_fence(source: Source) -> None:
    with pytest.raises(StatementError) as info:
        await source.execute("SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'dome-bridge fence'")
    assert not is_fenced(info.value)


async def test_state_follows_what_stands(source: Source, layout: SourceLayout) -> None:
    assert await fence_state(source, layout) is FenceState.ABSENT
    await raise_fence(source, layout)
    assert await fence_state(source, layout) is FenceState.STANDING
    await source.execute(f"DROP TRIGGER {FENCE_PREFIX}cns_symlinks_delete")
    assert await fence_state(source, layout) is FenceState.PARTIAL
    await lift_fence(source)
    assert await fence_state(source, layout) is FenceState.ABSENT


async def test_raising_and_lifting_twice_is_harmless(source: Source, layout: SourceLayout) -> None:
    await raise_fence(source, layout)
    before = await standing_triggers(source)
    await raise_fence(source, layout)
    assert await standing_triggers(source) == before
    assert await lift_fence(source)
    assert not await lift_fence(source)


async def test_partial_fence_is_completed(source: Source, layout: SourceLayout) -> None:
    await raise_fence(source, layout)
    await source.execute(f"DROP TRIGGER {FENCE_PREFIX}cns_symlinks_delete")
    await raise_fence(source, layout)
    assert await fence_state(source, layout) is FenceState.STANDING


async def test_missing_optional_table_needs_no_fence(source: Source) -> None:
    await source.execute("DROP TABLE Cns_user_metadata")
    layout = await read_layout(source)
    await raise_fence(source, layout)
    assert await fence_state(source, layout) is FenceState.STANDING
    assert len(await standing_triggers(source)) == 24


async def test_trigger_names_fit(layout: SourceLayout) -> None:
    triggers = fence_triggers(layout, "cns_db", "dpm_db")
    assert len(triggers) == 27
    assert max(len(trigger.name) for trigger in triggers) <= 64


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE Cns_file_metadata SET mtime = 9 WHERE fileid = 10",
        "UPDATE {dpm}.dpm_space_reserv SET t_space = 9",
        "SELECT * FROM Cns_symlinks",
    ],
)
async def test_open_transaction_keeps_the_fence_down_and_is_named(
    source: Source, layout: SourceLayout, dpm_site: DpmSite, maria: MariaServer, statement: str
) -> None:
    await capture.install(source, layout)
    async with await admin(dpm_site, maria) as source_admin, writer(dpm_site, autocommit=False) as cursor:
        holder = await connection_id(cursor)
        await cursor.execute(statement.replace("{dpm}", source.dpm))
        started = asyncio.get_running_loop().time()
        with pytest.raises(
            FenceError, match=rf"oldest first: connection {holder} \(dpmmgr@\w+, \d+ s, Sleep\)"
        ):
            await raise_fence(
                source_admin, layout, deadline_seconds=2, lock_wait_seconds=1, pause_seconds=0.1
            )
        assert asyncio.get_running_loop().time() - started < 6
        assert await fence_state(source, layout) is FenceState.ABSENT
        await cursor.execute("COMMIT")
        await raise_fence(source_admin, layout, deadline_seconds=5)
    expected = 0 if statement.startswith("SELECT") else 1
    assert await Journal(source).backlog() == expected


async def test_fence_goes_up_when_the_transaction_ends_and_its_change_is_journalled(
    source: Source, layout: SourceLayout, dpm_site: DpmSite
) -> None:
    await capture.install(source, layout)
    async with writer(dpm_site, autocommit=False) as cursor:
        await cursor.execute("UPDATE Cns_file_metadata SET mtime = 9 WHERE fileid = 10")
        raising = asyncio.create_task(raise_fence(source, layout, lock_wait_seconds=30))
        await asyncio.sleep(0.3)
        assert not raising.done()
        await cursor.execute("UPDATE Cns_file_metadata SET ctime = 9 WHERE fileid = 10")
        await cursor.execute("COMMIT")
        await raising
    assert [row.fileid for row in await Journal(source).read_batch(10)] == [10, 10]


async def write_until_fenced(site: DpmSite) -> list[str]:
    """Transactions over two databases; returns the tables that were written in the one that was refused."""
    async with await Source.connect(dpm_config(site)) as client:
        updates = {
            "Cns_symlinks": "UPDATE Cns_symlinks SET linkname = CONCAT(linkname, 'x') WHERE fileid = 11",
            "dpm_fs": f"UPDATE {client.dpm}.dpm_fs SET weight = weight + 1",
        }
        while True:
            written: list[str] = []
            await client.execute("BEGIN")
            for table, update in updates.items():
                if not await passes(client, update):
                    await client.execute("ROLLBACK")
                    return written
                written.append(table)
            await client.execute("COMMIT")


async def passes(client: Source, statement: str) -> bool:
    try:
        await client.execute(statement)
    except StatementError as exc:
        if not is_fenced(exc):
            raise
        return False
    return True


async def test_no_transaction_meets_half_a_fence_while_it_is_raised(
    source: Source, layout: SourceLayout, dpm_site: DpmSite
) -> None:
    for _ in range(5):
        writers = [asyncio.create_task(write_until_fenced(dpm_site)) for _ in range(3)]
        await asyncio.sleep(0.1)
        await raise_fence(source, layout, lock_wait_seconds=10)
        assert await asyncio.gather(*writers) == [[], [], []]
        await lift_fence(source)


async def test_transaction_in_the_opposite_order_is_a_deadlock_and_journals_nothing(
    source: Source, layout: SourceLayout, dpm_site: DpmSite
) -> None:
    await capture.install(source, layout)
    async with await Source.connect(dpm_config(dpm_site)) as client:
        await client.execute("BEGIN")
        await client.execute("DELETE FROM Cns_symlinks WHERE fileid = 11")
        raising = asyncio.create_task(raise_fence(source, layout, lock_wait_seconds=30))
        await asyncio.sleep(0.3)
        with pytest.raises(StatementError) as info:
            await client.execute("DELETE FROM Cns_file_metadata WHERE fileid = 11")
        assert info.value.number == 1213
        await client.execute("ROLLBACK")
        await raising
    assert await Journal(source).backlog() == 0
    assert await source.fetchval("SELECT COUNT(*) FROM Cns_symlinks") == 1


async def test_lifting_waits_for_a_reader_and_names_it(
    source: Source, layout: SourceLayout, dpm_site: DpmSite, maria: MariaServer
) -> None:
    await raise_fence(source, layout)
    async with await admin(dpm_site, maria) as source_admin, writer(dpm_site, autocommit=False) as cursor:
        holder = await connection_id(cursor)
        await cursor.execute("SELECT * FROM Cns_file_metadata")
        with pytest.raises(FenceError, match=rf"lift the fence.*connection {holder} "):
            await lift_fence(source_admin, deadline_seconds=1, lock_wait_seconds=1)
        await cursor.execute("COMMIT")
        assert await lift_fence(source_admin)
    assert await fence_state(source, layout) is FenceState.ABSENT


async def test_failure_half_way_leaves_nothing(source: Source, layout: SourceLayout) -> None:
    stale = f"{FENCE_PREFIX}dpm_space_reserv_delete"
    await source.execute(f"CREATE TRIGGER {stale} BEFORE DELETE ON Cns_file_metadata FOR EACH ROW SET @a = 1")
    columns = {**layout.dpm_columns, "dpm_fs": ("rowid",)}
    broken = SourceLayout(**(vars(layout) | {"dpm_columns": columns, "cns_columns": _with_a_ghost(layout)}))
    with pytest.raises(StatementError, match="ghost"):
        await raise_fence(source, broken)
    assert await fence_state(source, layout) is FenceState.ABSENT
    await run(source, ["UPDATE Cns_symlinks SET linkname = 'x'"])


def _with_a_ghost(layout: SourceLayout) -> dict[str, tuple[str, ...]]:
    return {**layout.cns_columns, "Cns_file_replica": ("rowid", "ghost")}


async def test_probe_proves_and_leaves_nothing(source: Source) -> None:
    await prove_fence_possible(source)
    await prove_fence_possible(source)
    assert await standing_triggers(source) == []
    assert await source.fetch(f"SHOW TABLES LIKE '{PROBE_TABLE}'") == []


async def test_account_without_rights_gets_the_grants_to_type(
    source: Source, layout: SourceLayout, dpm_site: DpmSite, maria: MariaServer
) -> None:
    await maria.execute("CREATE USER 'reader'@'localhost' IDENTIFIED BY 'x'")
    try:
        for schema in (dpm_site.cns, dpm_site.dpm):
            await maria.execute(f"GRANT SELECT ON `{schema}`.* TO 'reader'@'localhost'")
        async with await Source.connect(dpm_config(dpm_site, user="reader", password="x")) as reader:
            grant = f"GRANT TRIGGER, LOCK TABLES ON {reader.dpm}.* TO 'reader'@'localhost'"
            for action in (raise_fence(reader, layout), prove_fence_possible(reader)):
                with pytest.raises(PrivilegeError, match=grant.replace(".", r"\.").replace("*", r"\*")):
                    await action
            with pytest.raises(PrivilegeError, match=f"GRANT TRIGGER ON {reader.cns}"):
                await fence_state(reader, layout)
    finally:
        await maria.execute("DROP USER 'reader'@'localhost'")
