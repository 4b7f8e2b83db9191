"""`check` on sound and rotten sites: what it finds, and that it leaves no trace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dome_bridge.chimera import target
from dome_bridge.chimera.quarantine import REASONS
from dome_bridge.config import ChimeraConfig, Config
from dome_bridge.dpm.schema import read_layout
from dome_bridge.dpm.source import Source
from dome_bridge.errors import BridgeError
from dome_bridge.exporter import capture
from dome_bridge.exporter import check as checks
from dome_bridge.exporter.check import CHECKS, CheckReport, check
from dome_bridge.exporter.findings import Finding, Severity
from dome_bridge.exporter.gate_findings import CHECKS as GATE_CHECKS
from dome_bridge.exporter.gate_findings import read_gates
from dome_bridge.exporter.initialise import initialise
from dome_bridge.exporter.rehearsal import rehearse
from sandbox.catalog import create_schemas, make_site
from sandbox.servers import MariaServer, PostgresServer
from sandbox.site import SiteOptions
from tests.fixtures.cutover import Ready
from tests.fixtures.databases import DpmSite
from tests.fixtures.snapshot import bridge_config, copy_catalog
from tests.fixtures.source import dpm_config, writer

SMALL = SiteOptions(files=150)
DOCS = Path(__file__).parent.parent / "docs" / "reference" / "checks.md"


@pytest.fixture
async def config(maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str) -> Config:
    """Of a sound site."""
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SMALL)
    return bridge_config(dpm_site, chimera_dsn)


@pytest.fixture
async def rotten_config(maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str) -> Config:
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SMALL, rotten=True)
    return bridge_config(dpm_site, chimera_dsn)


@pytest.fixture
async def conn(chimera_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(chimera_dsn)
    yield conn
    await conn.close()


def with_admin(config: Config, maria: MariaServer) -> Config:
    admin = replace(config.dpm, admin_user=maria.admin_user, admin_password=maria.admin_password)
    return replace(config, dpm=admin)


async def quick(config: Config) -> CheckReport:
    return await check(config, forecast=False)


def found(report: CheckReport, name: str) -> Finding:
    [finding] = [finding for finding in report.findings if finding.id == name]
    return finding


def ids(report: CheckReport, *severities: Severity) -> set[str]:
    return {finding.id for finding in report.findings if finding.severity in severities or not severities}


async def execute(site: DpmSite, *statements: str) -> None:
    async with writer(site) as cursor:
        for statement in statements:
            await cursor.execute(statement)


async def source_contents(maria: MariaServer, site: DpmSite) -> dict[str, Any]:
    schemas = (site.cns, site.dpm)
    tables = await maria.fetch(
        "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema IN (%s, %s)",
        schemas,
    )
    contents: dict[str, Any] = {
        f"{schema}.{table}": (await maria.fetch(f"CHECKSUM TABLE `{schema}`.`{table}`"))[0][1]
        for schema, table in tables
    }
    contents["triggers"] = await maria.fetch(
        "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema IN (%s, %s)", schemas
    )
    return contents


async def chimera_contents(conn: asyncpg.Connection) -> dict[str, Any]:
    names = await conn.fetch(
        "SELECT n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'"
    )
    contents: dict[str, Any] = {"relations": sorted(tuple(row) for row in names)}
    for schema, table, kind in contents["relations"]:
        if kind == b"r":
            rows = await conn.fetch(f'SELECT t::text FROM "{schema}"."{table}" t')
            contents[f"{schema}.{table}"] = sorted(row[0] for row in rows)
        if kind == b"S":
            contents[f"{schema}.{table}"] = await conn.fetchval(
                f'SELECT last_value FROM "{schema}"."{table}"'
            )
    functions = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    contents["functions"] = await conn.fetchval(functions)
    return contents


async def test_sound_site_has_information_only(config: Config) -> None:
    report = await check(config)
    assert report.ok
    assert ids(report, Severity.ERROR) == set()
    # the made-up site has a file system that two pools share, and quotatokens of several groups
    assert ids(report, Severity.WARNING) <= {"pool-shared-filesystem", "space-quota-lost"}
    informed = {"source", "source-size", "chimera", "capture", "pool-not-asked", "space-model"}
    assert informed <= ids(report, Severity.INFO)


async def test_rotten_site_has_warnings_and_no_errors(rotten_config: Config) -> None:
    report = await check(rotten_config)
    assert report.ok
    warned = ids(report, Severity.WARNING)
    assert {f"quarantine-{reason}" for reason in ("acl-invalid", "parent-absent", "no-replica")} <= warned
    assert {"abandoned-uploads", "quotatoken-path"} <= warned
    assert found(report, "quarantine-acl-invalid").count == 17
    assert found(report, "quarantine-acl-invalid").remedy == REASONS["acl-invalid"].remedy
    assert found(report, "quotatoken-path").count == 5
    assert found(report, "abandoned-uploads").count == 2


async def test_reason_of_both_scopes_is_one_finding(rotten_config: Config) -> None:
    finding = found(await check(rotten_config), "quarantine-being-written")
    assert finding.count == 2
    assert "1 entry would be left out" in finding.message
    assert "1 fact would be dropped" in finding.message


@pytest.mark.parametrize("initialised", [False, True])
async def test_nothing_is_written_to_either_database(
    rotten_config: Config, maria: MariaServer, dpm_site: DpmSite, conn: asyncpg.Connection, initialised: bool
) -> None:
    if initialised:
        await initialise(rotten_config)
    before = await source_contents(maria, dpm_site), await chimera_contents(conn)
    await check(rotten_config)
    assert (await source_contents(maria, dpm_site), await chimera_contents(conn)) == before
    assert await conn.fetchval("SELECT to_regnamespace('dome_bridge') IS NOT NULL") is initialised


async def test_gates_are_shown_as_they_stand_and_nothing_is_tried(
    ready: Ready, conn: asyncpg.Connection, maria: MariaServer, dpm_site: DpmSite
) -> None:
    before = await source_contents(maria, dpm_site), await chimera_contents(conn)
    report = await quick(ready.config)
    assert (await source_contents(maria, dpm_site), await chimera_contents(conn)) == before
    assert [finding.id for finding in report.findings if finding.id in GATE_CHECKS] == list(GATE_CHECKS)
    assert found(report, "gate-lag").severity is Severity.INFO
    untried = found(report, "gate-rollback-proven")
    assert untried.severity is Severity.WARNING
    assert "run `dome-bridge rehearse`" in untried.message
    assert report.ok
    await rehearse(ready.config)
    tried = found(await quick(ready.config), "gate-rollback-proven")
    assert (tried.severity, "tried 0.0 h ago" in tried.message) == (Severity.INFO, True)


async def test_there_are_no_gates_before_init(config: Config) -> None:
    assert not ids(await quick(config)) & set(GATE_CHECKS)
    assert await read_gates(config) == ()


async def test_without_forecast_the_quarantine_is_not_predicted(rotten_config: Config) -> None:
    assert not any(name.startswith("quarantine-") for name in ids(await quick(rotten_config)))


async def test_every_finding_is_in_the_list_of_checks(rotten_config: Config) -> None:
    report = await check(rotten_config)
    known = set(CHECKS) | {f"quarantine-{reason}" for reason in REASONS}
    assert ids(report) <= known


def test_reference_has_the_table_of_checks() -> None:
    assert checks.reference() in DOCS.read_text(encoding="utf-8")


async def test_report_as_json_has_the_promised_keys(config: Config) -> None:
    report = (await quick(config)).as_json()
    assert report["ok"] is True
    assert all(set(one) == {"id", "severity", "message", "remedy", "count"} for one in report["findings"])
    assert {one["severity"] for one in report["findings"]} <= {"error", "warning", "info"}


async def test_findings_come_in_the_order_of_the_list(rotten_config: Config) -> None:
    names = [finding.id for finding in (await quick(rotten_config)).findings]
    assert names == sorted(names, key=list(CHECKS).index)


async def test_messages_are_one_line(rotten_config: Config) -> None:
    report = await check(rotten_config)
    assert all("\n" not in finding.message + finding.remedy for finding in report.findings)


async def test_unreachable_database_is_an_error_and_no_finding(config: Config) -> None:
    gone = ChimeraConfig(dsn="postgresql://dcache@127.0.0.1:1/chimera", timezone="UTC")
    with pytest.raises(BridgeError) as info:
        await quick(replace(config, chimera=gone))
    assert info.value.exit_code == 2


class TestSource:
    async def test_account_that_may_only_read_gets_the_grants(
        self, config: Config, maria: MariaServer, dpm_site: DpmSite
    ) -> None:
        await maria.execute("CREATE USER 'looker'@'localhost' IDENTIFIED BY 'x'")
        try:
            for schema in (dpm_site.cns, dpm_site.dpm):
                await maria.execute(f"GRANT SELECT ON `{schema}`.* TO 'looker'@'localhost'")
            report = await quick(replace(config, dpm=dpm_config(dpm_site, user="looker", password="x")))
        finally:
            await maria.execute("DROP USER 'looker'@'localhost'")
        assert ids(report, Severity.ERROR) == {"source-init-rights", "source-fence-rights"}
        assert ids(report, Severity.WARNING) >= {"source-follow-rights", "capture"}
        assert "GRANT INSERT, DELETE, CREATE" in found(report, "source-init-rights").remedy

    async def test_rights_of_the_administrator_are_enough(
        self, config: Config, maria: MariaServer, dpm_site: DpmSite
    ) -> None:
        assert (await quick(with_admin(config, maria))).ok

    async def test_binary_log_without_trust_is_an_error(self, chimera_dsn: str) -> None:
        async with MariaServer("--log-bin=binlog", "--server-id=1") as server:
            site = DpmSite(server.host, server.port, "", server.user, server.password, "cns_db", "dpm_db")
            await make_databases(server, site)
            report = await quick(bridge_config(site, chimera_dsn))
            assert ids(report, Severity.ERROR) == {"source-binary-log"}
            await server.execute("SET GLOBAL log_bin_trust_function_creators = 1")
            assert (await quick(bridge_config(site, chimera_dsn))).ok

    async def test_foreign_trigger_is_an_error(self, config: Config, dpm_site: DpmSite) -> None:
        await execute(
            dpm_site, "CREATE TRIGGER theirs BEFORE INSERT ON Cns_symlinks FOR EACH ROW SET @theirs = 1"
        )
        finding = found(await quick(config), "source-foreign-triggers")
        assert finding.severity is Severity.ERROR
        assert "theirs" in finding.message

    async def test_long_transaction_is_a_warning_that_names_it(
        self, config: Config, maria: MariaServer, dpm_site: DpmSite
    ) -> None:
        patient = replace(config, exporter=replace(config.exporter, lock_wait_seconds=1.0))
        async with writer(dpm_site, autocommit=False) as cursor:
            await cursor.execute("UPDATE Cns_file_metadata SET atime = atime + 1 WHERE fileid = 1")
            await asyncio.sleep(1.5)
            finding = found(await quick(with_admin(patient, maria)), "source-transactions")
        assert finding.severity is Severity.WARNING
        assert "dpmmgr" in finding.message

    async def test_account_without_process_right_is_told_so(self, config: Config) -> None:
        finding = found(await quick(config), "source-transactions")
        assert finding.severity is Severity.INFO
        assert "GRANT PROCESS" in finding.remedy

    async def test_lost_unique_index_is_a_warning(self, config: Config, dpm_site: DpmSite) -> None:
        await execute(dpm_site, "ALTER TABLE Cns_file_metadata DROP INDEX file_full_id")
        assert found(await quick(config), "source-unique-names").severity is Severity.WARNING

    async def test_definer_that_is_gone_is_an_error(
        self, config: Config, maria: MariaServer, dpm_site: DpmSite
    ) -> None:
        await maria.execute("CREATE USER 'goner'@'localhost' IDENTIFIED BY 'x'")
        for schema in (dpm_site.cns, dpm_site.dpm):
            await maria.execute(f"GRANT ALL ON `{schema}`.* TO 'goner'@'localhost'")
        async with await Source.connect(dpm_config(dpm_site, user="goner", password="x")) as goner:
            await capture.install(goner, await read_layout(goner))
        await maria.execute("DROP USER 'goner'@'localhost'")
        assert found(await quick(with_admin(config, maria)), "source-definers").severity is Severity.ERROR
        # dpmmgr may not read the list of accounts
        assert found(await quick(config), "source-definers").severity is Severity.WARNING


class TestCapture:
    async def test_before_init_it_is_no_problem(self, config: Config) -> None:
        assert found(await quick(config), "capture").severity is Severity.INFO

    async def test_after_init_it_is_complete(self, config: Config) -> None:
        await initialise(config)
        report = await quick(config)
        assert found(report, "capture").message == "changes are captured"
        assert report.ok

    async def test_dropped_trigger_is_an_error(self, config: Config, dpm_site: DpmSite) -> None:
        await initialise(config)
        await execute(dpm_site, "DROP TRIGGER dome_bridge_capture_cns_symlinks_insert")
        finding = found(await quick(config), "capture")
        assert finding.severity is Severity.ERROR
        assert "verify --repair" in finding.remedy

    async def test_triggers_of_an_earlier_site_are_mentioned(
        self, config: Config, conn: asyncpg.Connection
    ) -> None:
        await initialise(config)
        await conn.execute("DROP SCHEMA dome_bridge CASCADE")
        assert "left from an earlier one" in found(await quick(config), "capture").message


class TestChimera:
    async def test_tags_at_the_root_are_an_error_before_init(
        self, config: Config, conn: asyncpg.Connection
    ) -> None:
        await conn.execute(
            """WITH made AS (
                   INSERT INTO t_tags_inodes
                       (imode, inlink, iuid, igid, isize, ictime, iatime, imtime, ivalue)
                   VALUES (33188, 1, 0, 0, 1, now(), now(), now(), 'x') RETURNING itagid)
               INSERT INTO t_tags (inumber, itagname, itagid, isorign)
               SELECT inumber, 'sGroup', itagid, 1 FROM made, t_inodes WHERE ipnfsid = repeat('0', 36)"""
        )
        report = await quick(config)
        assert not report.ok
        assert "sGroup" in found(report, "chimera-root-tags").message

    async def test_tags_at_the_root_are_ours_after_the_copy(self, config: Config) -> None:
        await copy_catalog(config)
        report = await quick(config)
        assert not {"chimera-root-tags", "chimera-content", "chimera-trash"} & ids(report)

    async def test_content_of_its_own_is_a_warning(self, config: Config, conn: asyncpg.Connection) -> None:
        await add_inode(conn, "0000" + "A" * 32)
        for _ in ("before init", "after"):
            finding = found(await quick(config), "chimera-content")
            assert (finding.severity, finding.count) == (Severity.WARNING, 1)
            await initialise(config)

    async def test_zone_that_postgresql_does_not_know_is_an_error(self, config: Config) -> None:
        mars = replace(config, chimera=replace(config.chimera, timezone="Mars/Phobos"))
        assert "chimera-timezone" in ids(await quick(mars), Severity.ERROR)

    async def test_another_zone_than_at_init_is_an_error(self, config: Config) -> None:
        await initialise(config)
        other = replace(config, chimera=replace(config.chimera, timezone="Asia/Taipei"))
        assert "timezone" in found(await quick(other), "site").message

    async def test_account_without_rights_on_the_database_gets_the_grants(
        self, config: Config, chimera_dsn: str, postgres: PostgresServer
    ) -> None:
        database = chimera_dsn.rpartition("/")[2]
        await postgres.run_sql(f'REVOKE TEMPORARY ON DATABASE "{database}" FROM public', database)
        await postgres.run_sql(f'REVOKE CREATE, TEMPORARY ON DATABASE "{database}" FROM dcache', database)
        report = await check(config)
        assert ids(report, Severity.ERROR) == {"chimera-create-right", "chimera-temporary-right"}
        assert (
            f'GRANT CREATE ON DATABASE "{database}" TO "dcache"'
            in found(report, "chimera-create-right").remedy
        )

    async def test_trash_of_our_files_is_a_warning(self, config: Config, conn: asyncpg.Connection) -> None:
        site = (await initialise(config)).site
        await conn.execute(
            """INSERT INTO t_locationinfo_trash (ipnfsid, itype, ilocation, ipriority, ictime, iatime, istate)
               VALUES ($1, 1, 'pool', 10, now(), now(), 1), ($2, 1, 'pool', 10, now(), now(), 1)""",
            site.pnfsid(7),
            "0000" + "B" * 32,
        )
        finding = found(await quick(config), "chimera-trash")
        assert (finding.severity, finding.count) == (Severity.WARNING, 1)

    async def test_dcache_that_is_connected_is_a_warning(self, config: Config, chimera_dsn: str) -> None:
        dcache = await asyncpg.connect(
            chimera_dsn, server_settings={"application_name": "PostgreSQL JDBC Driver"}
        )
        try:
            assert found(await quick(config), "chimera-clients").severity is Severity.WARNING
        finally:
            await dcache.close()

    async def test_other_clients_are_information(self, config: Config, chimera_dsn: str) -> None:
        psql = await asyncpg.connect(chimera_dsn, server_settings={"application_name": "psql"})
        try:
            finding = found(await quick(config), "chimera-clients")
        finally:
            await psql.close()
        assert finding.severity is Severity.INFO
        assert "psql as dcache" in finding.message

    async def test_running_mirror_is_told_and_not_disturbed(
        self, config: Config, conn: asyncpg.Connection
    ) -> None:
        assert "daemon" not in ids(await quick(config))
        assert await target.try_applier_lock(conn)
        assert "daemon" in ids(await quick(config), Severity.INFO)


class TestPoolsAndTokens:
    async def test_two_names_of_a_server_are_a_warning(self, config: Config, dpm_site: DpmSite) -> None:
        await execute(
            dpm_site,
            f"INSERT INTO `{dpm_site.dpm}`.dpm_fs (poolname, server, fs, status, weight)"
            " VALUES ('data', 'DISK01.example.com', '/srv/new', 0, 1)",
        )
        finding = found(await quick(config), "pool-server-names")
        assert "DISK01.example.com, disk01.example.org" in finding.message
        assert finding.count == 2

    async def test_no_file_systems_are_a_warning(self, config: Config, dpm_site: DpmSite) -> None:
        await execute(dpm_site, f"DELETE FROM `{dpm_site.dpm}`.dpm_fs")
        assert found(await quick(config), "pool-none").severity is Severity.WARNING

    async def test_findings_of_pools_are_told_once(self, config: Config, dpm_site: DpmSite) -> None:
        await execute(dpm_site, f"UPDATE `{dpm_site.dpm}`.dpm_fs SET fs = CONCAT('/home', fs)")
        finding = found(await quick(config), "pool-path-protected")
        assert finding.count > 5
        assert "and " in finding.message.rpartition("; ")[2]

    async def test_token_outside_the_sized_depths_is_a_warning(
        self, config: Config, dpm_site: DpmSite
    ) -> None:
        await execute(
            dpm_site,
            f"INSERT INTO `{dpm_site.dpm}`.dpm_space_reserv (s_token, u_token, path)"
            " VALUES ('s', 'TOP', '/dpm')",
        )
        finding = found(await quick(config), "quotatoken-depth")
        assert "TOP at /dpm" in finding.message

    async def test_recent_uploads_are_not_abandoned(self, config: Config, dpm_site: DpmSite) -> None:
        await execute(
            dpm_site,
            "UPDATE Cns_file_replica SET status = 'P', ctime = UNIX_TIMESTAMP() - 3000 LIMIT 3",
        )
        assert "abandoned-uploads" not in ids(await quick(config))
        strict = replace(config, api=replace(config.api, abandoned_upload_hours=1))
        await execute(dpm_site, "UPDATE Cns_file_replica SET ctime = ctime - 660 WHERE status = 'P' LIMIT 2")
        assert found(await quick(strict), "abandoned-uploads").count == 2

    async def test_deletions_that_are_ours_and_not_finished_are_counted(
        self, config: Config, dpm_site: DpmSite
    ) -> None:
        await execute(dpm_site, "UPDATE Cns_file_replica SET status = 'D' LIMIT 3")
        assert "interrupted-deletions" not in ids(await quick(config))
        await execute(
            dpm_site,
            """UPDATE Cns_file_replica SET xattr = '{"dome_bridge.deleting": "unlink,-,1,ab"}'
               WHERE status = 'D' LIMIT 2""",
        )
        assert found(await quick(config), "interrupted-deletions").count == 2


async def make_databases(server: MariaServer, site: DpmSite) -> None:
    await create_schemas(server, site.cns, site.dpm)
    await server.grant(site.cns, site.dpm)
    await make_site(server, site.cns, site.dpm, SMALL)


async def add_inode(conn: asyncpg.Connection, pnfsid: str) -> None:
    await conn.execute(
        """INSERT INTO t_inodes (ipnfsid, itype, imode, inlink, iuid, igid, isize, iio, ictime, iatime,
               imtime, icrtime, igeneration)
           VALUES ($1, 16384, 493, 2, 0, 0, 512, 2, now(), now(), now(), now(), 0)""",
        pnfsid,
    )


def secrets_of(config: Config) -> Iterable[str]:
    return filter(None, (config.dpm.password, config.chimera.dsn.split(":")[2].split("@")[0]))


async def test_no_secret_is_told(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    report = await check(config)
    told = caplog.text + " ".join(finding.message + finding.remedy for finding in report.findings)
    assert not [secret for secret in secrets_of(config) if f":{secret}@" in told]
