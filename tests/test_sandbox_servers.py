"""Private servers: their accounts, and what survives a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiomysql
import asyncpg
import pytest

from sandbox.servers import MariaServer, PostgresServer, SandboxError

DOOMED_PARENT = """
import asyncio, os, signal
from sandbox.servers import MariaServer, PostgresServer

async def main():
    async with MariaServer() as maria, PostgresServer() as postgres:
        print(maria.directory, postgres.directory, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def disappear(directories: list[Path]) -> bool:
    for _ in range(300):
        if not any(directory.exists() for directory in directories):
            return True
        await asyncio.sleep(0.05)
    return False


@pytest.fixture
async def table(maria: MariaServer) -> str:
    await maria.execute("CREATE DATABASE IF NOT EXISTS survivors")
    await maria.execute("CREATE OR REPLACE TABLE survivors.t (a INT) ENGINE=InnoDB")
    return "survivors.t"


async def test_mariadb_killed_after_commit_keeps_row(mortal_maria: MariaServer, table: str) -> None:
    port = mortal_maria.port
    await mortal_maria.execute(f"INSERT INTO {table} VALUES (7)")
    await mortal_maria.kill()
    with pytest.raises(aiomysql.OperationalError):
        await mortal_maria.fetch("SELECT 1")
    await mortal_maria.start()
    assert await mortal_maria.fetch(f"SELECT a FROM {table}") == [(7,)]
    assert mortal_maria.port == port


async def test_postgresql_killed_after_commit_keeps_row(mortal_postgres: PostgresServer) -> None:
    await mortal_postgres.create_database("survivor")
    await mortal_postgres.run_sql("CREATE TABLE t AS SELECT 7 AS a", "survivor")
    await mortal_postgres.kill()
    with pytest.raises((OSError, asyncpg.PostgresError)):
        await asyncpg.connect(mortal_postgres.dsn("survivor"))
    await mortal_postgres.restart()
    async with mortal_postgres.connect("survivor") as connection:
        assert await connection.fetchval("SELECT a FROM t") == 7
    await mortal_postgres.drop_database("survivor")


async def test_dpmmgr_has_all_rights_on_dpm_databases_only(maria: MariaServer) -> None:
    async with maria.connect(as_dpmmgr=True) as connection, connection.cursor() as cursor:
        await cursor.execute("SHOW GRANTS")
        grants = "\n".join(row[0] for row in await cursor.fetchall())
        assert "ALL PRIVILEGES ON `cns_db`.*" in grants
        assert "ALL PRIVILEGES ON `dpm_db`.*" in grants
        with pytest.raises(aiomysql.OperationalError, match="denied"):
            await cursor.execute("CREATE DATABASE elsewhere")


async def test_script_with_delimiter_is_run(maria: MariaServer) -> None:
    await maria.create_database("scripted")
    script = "DELIMITER //\nCREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END//\n"
    await maria.run_sql(script, "scripted")
    await maria.drop_database("scripted")


async def test_failing_script_tells_the_servers_reason(maria: MariaServer) -> None:
    with pytest.raises(SandboxError, match="no_such_table"):
        await maria.run_sql("SELECT * FROM mysql.no_such_table")


async def test_postgresql_wrong_password_is_refused_over_tcp(postgres: PostgresServer) -> None:
    wrong = postgres.dsn("postgres").replace(f":{postgres.password}@", ":wrong@")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(wrong)


async def test_dropping_database_ends_connections_to_it(postgres: PostgresServer) -> None:
    await postgres.create_database("dropped")
    connection = await asyncpg.connect(postgres.dsn("dropped"))
    await postgres.drop_database("dropped", "never_existed")
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.execute("SELECT 1")
    connection.terminate()


async def test_copy_of_template_holds_its_tables(postgres: PostgresServer) -> None:
    await postgres.create_database("original")
    await postgres.run_sql("CREATE TABLE t AS SELECT 1 AS a", "original")
    await postgres.create_database("copied", template="original")
    async with postgres.connect("copied", "dcache") as connection:
        assert await connection.fetchval("SELECT a FROM t") == 1
    await postgres.drop_database("original", "copied")


async def test_private_servers_do_not_run_as_root(
    mortal_maria: MariaServer, mortal_postgres: PostgresServer
) -> None:
    for server in (mortal_maria, mortal_postgres):
        assert server.directory.stat().st_uid != 0
        assert server.directory.stat().st_mode & 0o077 == 0


async def test_failed_start_leaves_no_directory() -> None:
    server = MariaServer("--no-such-option")
    with pytest.raises(SandboxError, match="no-such-option"):
        await server.start()
    assert not server.directory.exists()


async def test_external_server_is_not_ours_to_stop(mortal_maria: MariaServer) -> None:
    external = MariaServer.external("mysql://root@localhost?unix_socket=" + mortal_maria.unix_socket)
    assert await external.fetch("SELECT 1") == [(1,)]
    with pytest.raises(SandboxError, match="not ours"):
        await external.kill()


async def test_servers_and_directories_end_with_killed_parent(mortal_maria: MariaServer) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DOOMED_PARENT, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
    )
    output, _ = await parent.communicate()
    assert parent.returncode == -signal.SIGKILL
    directories = [Path(os.fsdecode(word)) for word in output.split()]
    assert len(directories) == 2
    assert await disappear(directories)
