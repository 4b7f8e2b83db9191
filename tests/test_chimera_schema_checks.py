"""Which Chimera databases are taken, and what is said of those that are not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from dome_bridge.chimera import target
from dome_bridge.chimera.schema import MIRRORED_TABLES, ChimeraLayout, inspect
from dome_bridge.errors import BridgeError, PrivilegeError, SchemaError, TargetError
from sandbox.chimera_schema import CHIMERA_VERSIONS, create_chimera
from sandbox.servers import PostgresServer
from tests.fixtures.databases import unique_name

LAYOUTS = {
    "7.2": ("7.2", True),
    "8.2": ("7.2", True),
    "9.2": ("9.2", False),
    "10.2": ("9.2", False),
    "11.2": ("11", False),
    "12.0": ("11", False),
}


@pytest.fixture
async def chimera(chimera_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(chimera_dsn)
    yield connection
    await connection.close()


async def refusal(connection: asyncpg.Connection) -> str:
    with pytest.raises(BridgeError) as caught:
        await inspect(connection)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("chimera_version", CHIMERA_VERSIONS)
async def test_supported_version_is_told_by_its_columns(
    chimera: asyncpg.Connection, chimera_version: str
) -> None:
    version, counts_files = LAYOUTS[chimera_version]
    assert await inspect(chimera) == ChimeraLayout(version, counts_files, 1)


@pytest.mark.parametrize("version", CHIMERA_VERSIONS)
async def test_upgraded_site_has_its_own_root(postgres: PostgresServer, version: str) -> None:
    name = unique_name("chimera")
    connection = await asyncpg.connect(await create_chimera(postgres, name, version, is_upgraded=True))
    try:
        layout = await inspect(connection)
    finally:
        await connection.close()
        await postgres.drop_database(name)
    expected, counts_files = LAYOUTS[version]
    # Serial columns stay what they were, and nothing else tells 11 from 9.2.
    assert layout == ChimeraLayout("9.2" if expected == "11" else expected, counts_files, 4711)


async def test_version_9_1_is_told_by_its_link_counts(chimera: asyncpg.Connection) -> None:
    await chimera.execute("ALTER TABLE t_inodes DROP COLUMN iqos_state")
    assert await inspect(chimera) == ChimeraLayout("9.1", False, 1)


@pytest.mark.parametrize(
    "statement", ["DROP TABLE databasechangelog", "DELETE FROM databasechangelog"], ids=["missing", "empty"]
)
async def test_database_that_dcache_did_not_make_is_refused(
    chimera: asyncpg.Connection, statement: str
) -> None:
    await chimera.execute(statement)
    assert "was not made by dCache" in (said := await refusal(chimera))
    assert "run `dcache database update`" in said


async def test_empty_database_is_refused(postgres: PostgresServer) -> None:
    name = unique_name("empty")
    await postgres.create_database(name)
    connection = await asyncpg.connect(postgres.dsn(name))
    try:
        assert f"database {name} was not made by dCache" in await refusal(connection)
    finally:
        await connection.close()
        await postgres.drop_database(name)


async def test_database_of_another_encoding_is_refused(postgres: PostgresServer) -> None:
    name = unique_name("latin1")
    async with postgres.connect() as administrator:
        await administrator.execute(
            f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        await administrator.execute(f'ALTER DATABASE "{name}" OWNER TO dcache')
    connection = await asyncpg.connect(postgres.dsn(name))
    try:
        assert "has encoding LATIN1; dCache needs UTF8" in await refusal(connection)
    finally:
        await connection.close()
        await postgres.drop_database(name)


@pytest.mark.parametrize("table", MIRRORED_TABLES)
async def test_database_without_a_table_of_the_namespace_is_refused(
    chimera: asyncpg.Connection, table: str
) -> None:
    await chimera.execute(f"DROP TABLE {table} CASCADE")
    assert f"has no table {table}" in await refusal(chimera)


async def test_locked_change_log_is_refused(chimera: asyncpg.Connection) -> None:
    await chimera.execute("DELETE FROM databasechangeloglock")
    await chimera.execute("INSERT INTO databasechangeloglock (id, locked) VALUES (1, true)")
    assert "dcache database releaseLocks" in await refusal(chimera)
    await chimera.execute("UPDATE databasechangeloglock SET locked = false")
    await inspect(chimera)


async def test_version_older_than_any_supported_one_is_refused(chimera: asyncpg.Connection) -> None:
    await chimera.execute("ALTER TABLE t_inodes DROP COLUMN iqos_state")
    await chimera.execute("DROP TABLE t_lazy_wcc, t_user_quota CASCADE")
    with pytest.raises(SchemaError, match=r"older than dCache 7\.2"):
        await inspect(chimera)
    await refusal(chimera)


async def test_database_without_a_root_is_refused(chimera: asyncpg.Connection) -> None:
    await chimera.execute("TRUNCATE t_inodes CASCADE")
    assert "has no root inode" in await refusal(chimera)


async def test_account_without_rights_is_told_which(
    chimera: asyncpg.Connection, chimera_dsn: str, postgres: PostgresServer
) -> None:
    role, database = unique_name("reader"), await chimera.fetchval("SELECT current_database()")
    async with postgres.connect() as administrator:
        await administrator.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    await chimera.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        reader = await asyncpg.connect(chimera_dsn, user=role, password="secret")
        try:
            with pytest.raises(PrivilegeError, match=f"account {role} lacks INSERT on table t_"):
                await inspect(reader)
            await refusal(reader)
        finally:
            await reader.close()
    finally:
        async with postgres.connect(database) as administrator:
            await administrator.execute(f"DROP OWNED BY {role}")
            await administrator.execute(f"DROP ROLE {role}")


async def test_account_that_may_read_nothing_is_not_told_of_a_foreign_database(
    chimera_dsn: str, postgres: PostgresServer
) -> None:
    role = unique_name("stranger")
    async with postgres.connect() as administrator:
        await administrator.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        try:
            stranger = await asyncpg.connect(chimera_dsn, user=role, password="secret")
            try:
                with pytest.raises(TargetError, match="permission denied for table databasechangelog"):
                    async with target.told("looking at the Chimera database"):
                        await inspect(stranger)
            finally:
                await stranger.close()
        finally:
            await administrator.execute(f"DROP ROLE {role}")
