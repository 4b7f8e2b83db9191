"""The fixtures give what their names promise."""

from __future__ import annotations

import aiomysql
import asyncpg

from sandbox.servers import MariaServer, PostgresServer
from tests.fixtures.databases import DpmSite


async def test_dpm_site_is_usable_by_dpmmgr_over_tcp(dpm_site: DpmSite) -> None:
    connection = await aiomysql.connect(
        host=dpm_site.host, port=dpm_site.port, user=dpm_site.user, password=dpm_site.password
    )
    async with connection.cursor() as cursor:
        await cursor.execute(f"SELECT COUNT(*) FROM {dpm_site.cns}.Cns_file_metadata")
        await cursor.execute(f"CREATE TABLE {dpm_site.cns}.journal (a INT)")
        await cursor.execute(
            f"CREATE TRIGGER {dpm_site.cns}.noted AFTER INSERT ON {dpm_site.cns}.Cns_file_metadata"
            " FOR EACH ROW INSERT INTO journal VALUES (1)"
        )
        await cursor.execute(f"SELECT COUNT(*) FROM {dpm_site.dpm}.dpm_pool")
    connection.close()


async def test_chimera_dsn_is_of_dcaches_role(chimera_dsn: str) -> None:
    connection = await asyncpg.connect(chimera_dsn)
    assert await connection.fetchval("SELECT session_user") == "dcache"
    owners = await connection.fetch("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert [row[0] for row in owners] == ["dcache"]
    await connection.close()


async def test_external_servers_serve_the_same_fixtures(
    mortal_maria: MariaServer, mortal_postgres: PostgresServer
) -> None:
    """What DOME_BRIDGE_TEST_MYSQL and DOME_BRIDGE_TEST_POSTGRES do, against our own servers."""
    maria = MariaServer.external(f"mysql://root@localhost?unix_socket={mortal_maria.unix_socket}")
    await maria.prepare_external()
    await maria.run_sql("SELECT 1")
    secret, port = mortal_postgres.admin_password, mortal_postgres.port
    postgres = PostgresServer.external(f"postgresql://postgres:{secret}@127.0.0.1:{port}")
    await postgres.prepare_external()
    await postgres.create_database("outside")
    async with postgres.connect("outside", "dcache") as connection:
        assert await connection.fetchval("SELECT current_user") == "dcache"
    await postgres.drop_database("outside")
