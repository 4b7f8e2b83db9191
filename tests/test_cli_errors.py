"""What stands in the way of a command: one line that names the remedy, exit code 2, and nothing written."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiomysql
import pytest

from dome_bridge.config import CONFIG_VARIABLE, load
from dome_bridge.exporter.initialise import initialise
from dome_bridge.exporter.service import sync_once
from sandbox.catalog import make_site
from sandbox.chimera_schema import create_chimera
from sandbox.servers import MariaServer, PostgresServer, free_port
from sandbox.site import SiteOptions
from tests.fixtures.command import PROJECT, Bridge, Finished, Sections, assert_tidy, bridge_for
from tests.fixtures.databases import DpmSite, unique_name

FILES = 60
TYPED = "a-secret-that-is-wrong"
"""A wrong password; no output may show it."""

Command = tuple[str, ...]
Contents = dict[str, int]

CHECK, INIT, SYNC, STATUS, VERIFY = ("check",), ("init",), ("sync", "--once"), ("status",), ("verify",)


@dataclass
class Place:
    """A site and all that a fault needs to spoil it. `databases` are those of PostgreSQL that are watched."""

    bridge: Bridge
    site: DpmSite
    maria: MariaServer
    postgres: PostgresServer
    databases: list[str]

    @property
    def chimera(self) -> str:
        return self.databases[0]

    def configure(self, **sections: dict[str, object]) -> None:
        self.bridge.configure(sections)

    async def in_dpm(self, statement: str, database: str = "") -> None:
        await self.maria.execute(statement, database=database or self.site.cns)

    async def in_chimera(self, statement: str) -> None:
        await self.postgres.run_sql(statement, self.chimera)

    async def point_at(self, database: str) -> None:
        """From now on this is the Chimera database."""
        self.databases.insert(0, database)
        self.configure(chimera={"dsn": self.dsn_of(database)})

    def dsn_of(self, database: str, account: str = "dcache") -> str:
        return f"postgresql://{account}@{self.postgres.host}:{self.postgres.port}/{database}"

    async def contents(self) -> Contents:
        """Rows of every table on both sides, and the triggers."""
        found: Contents = {}
        for schema in (self.site.cns, self.site.dpm):
            found[f"{schema}: triggers"] = len(await self.maria.fetch(f"SHOW TRIGGERS FROM `{schema}`"))
            for (table,) in await self.maria.fetch(f"SHOW TABLES FROM `{schema}`"):
                found[f"{schema}.{table}"] = await self._rows(f"`{schema}`.`{table}`")
        for database in self.databases:
            found |= await self._rows_in(database)
        return found

    async def _rows(self, table: str) -> int:
        ((rows,),) = await self.maria.fetch(f"SELECT COUNT(*) FROM {table}")
        return int(rows)

    async def _rows_in(self, database: str) -> Contents:
        async with self.postgres.connect(database) as conn:
            tables = await conn.fetch(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
                " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
            schemas = await conn.fetchval("SELECT count(*) FROM pg_namespace")
            counts = {row[0]: await conn.fetchval(f"SELECT count(*) FROM {row[0]}") for row in tables}
        return {f"{database}: {name}": count for name, count in (counts | {"schemas": schemas}).items()}


@pytest.fixture
async def fresh(
    maria: MariaServer, postgres: PostgresServer, dpm_site: DpmSite, chimera_dsn: str, tmp_path: Path
) -> AsyncIterator[Place]:
    """Nothing has been done with it yet."""
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SiteOptions(files=FILES))
    async with bridge_for(tmp_path, dpm_site, chimera_dsn) as bridge:
        database = chimera_dsn.rpartition("/")[2]
        place = Place(bridge, dpm_site, maria, postgres, [database])
        yield place
        await postgres.start()
        await postgres.drop_database(*(set(place.databases) - {database}))
        with suppress(aiomysql.Error):
            await maria.revoke(f"{dpm_site.dpm}_gone")


@pytest.fixture
async def copied(fresh: Place) -> Place:
    """After `init` and `sync --once`, with a change in the journal that waits to be applied."""
    config = load(fresh.bridge.file, {})
    await initialise(config)
    await sync_once(config, advance=lambda step, entries, expected: None)
    await fresh.in_dpm("UPDATE Cns_file_metadata SET mtime = mtime + 1 WHERE fileid = 1")
    return fresh


def assert_refused(done: Finished, *remedy: str) -> None:
    """One line, and it says all of this."""
    assert done.code == 2, (done.out, done.err)
    assert done.out == ""
    assert done.err.startswith("dome-bridge: ")
    assert done.err.count("\n") == 1
    assert done.err.endswith("\n")
    for words in remedy:
        assert words in done.err


def assert_discreet(done: Finished, place: Place) -> None:
    said = done.out + done.err
    assert_tidy(said)
    for secret in (TYPED, place.site.password, f":{place.postgres.password}@"):
        assert secret not in said


async def assert_all_refused(place: Place, commands: tuple[Command, ...], *remedy: str) -> None:
    for done in await asyncio.gather(*(place.bridge(*command) for command in commands)):
        assert_refused(done, *remedy)
        assert_discreet(done, place)


# --- settings


@dataclass(frozen=True)
class WrongSetting:
    """`sections` as in Bridge.configure; `text` is the whole file instead."""

    name: str
    remedy: str
    sections: Sections | None = None
    text: str = ""


WRONG_SETTINGS = (
    WrongSetting("unknown key", "unknown key dpm.hots: did you mean dpm.host?", {"dpm": {"hots": "head"}}),
    WrongSetting("unknown section", "unknown section [chimaera]: did you mean [chimera]?", {"chimaera": {}}),
    WrongSetting("key without a section", "did you mean dpm.user?", text='user = "dpmmgr"\n'),
    WrongSetting("bad value", "dpm.port: expected", {"dpm": {"port": "many"}}),
    WrongSetting("bad zone", "chimera.timezone: expected", {"chimera": {"timezone": "Europe/Geneve"}}),
    WrongSetting(
        "dsn of another kind", "chimera.dsn: expected", {"chimera": {"dsn": f"mysql://u:{TYPED}@localhost/x"}}
    ),
    WrongSetting("two passwords", "keep one of them", {"dpm": {"password": TYPED}}),
    WrongSetting(
        "no password file",
        "write it, readable by this account",
        {"dpm": {"password_file": "/nonexistent/pw"}},
    ),
    WrongSetting("no TOML", "is not TOML", text=f'[dpm]\npassword = "{TYPED}\n'),
)


@pytest.mark.parametrize("wrong", WRONG_SETTINGS, ids=lambda wrong: wrong.name)
async def test_wrong_setting_is_named_with_its_remedy(tmp_path: Path, wrong: WrongSetting) -> None:
    site = DpmSite("127.0.0.1", free_port(), "", "dpmmgr", TYPED, "cns_db", "dpm_db")
    bridge = Bridge(tmp_path, site, f"postgresql://dcache:{TYPED}@127.0.0.1:{free_port()}/chimera")
    bridge.configure(wrong.sections)
    bridge.file.chmod(0o600)
    if wrong.text:
        bridge.file.write_text(wrong.text)
    for done in await asyncio.gather(bridge("check-config"), bridge("init")):
        assert_refused(done, str(bridge.file), wrong.remedy)
        assert_tidy(done.err)
        assert TYPED not in done.err


async def test_unknown_key_stops_every_command(copied: Place) -> None:
    copied.configure(exporter={"batchsize": 5})
    before = await copied.contents()
    others: tuple[Command, ...] = (("run",), ("pools",), ("quarantine",), ("cutover", "--yes"))
    commands = (CHECK, INIT, SYNC, STATUS, VERIFY, *others, ("complete", "--abandon", "--yes"))
    await assert_all_refused(copied, commands, "unknown key exporter.batchsize: did you mean exporter.batch?")
    assert await copied.contents() == before


async def bare_command(*arguments: str, **environment: str) -> Finished:
    """Without the --config that Bridge gives."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dome_bridge", *arguments),
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


@pytest.mark.parametrize("command", [CHECK, INIT, SYNC, STATUS, VERIFY], ids=" ".join)
async def test_configuration_file_that_is_missing_is_named(tmp_path: Path, command: Command) -> None:
    missing = str(tmp_path / "missing.toml")
    for done in await asyncio.gather(
        bare_command("--config", missing, *command), bare_command(*command, **{CONFIG_VARIABLE: missing})
    ):
        assert_refused(done, f"{missing}: cannot be read", "--config or DOME_BRIDGE_CONFIG")
        assert_tidy(done.err)


@pytest.mark.skipif(
    any(Path(name).exists() for name in ("/etc/dome-bridge/dome-bridge.toml", "/etc/domehead.conf")),
    reason="this machine has a configuration of its own",
)
async def test_machine_without_any_configuration_is_told_where_to_write_it() -> None:
    done = await bare_command("check")
    assert_refused(done, "/etc/dome-bridge/dome-bridge.toml", "/etc/domehead.conf", "write it")


# --- databases


@dataclass(frozen=True)
class Fault:
    """Something wrong with a database. hides_status: `status` cannot do without it, either."""

    name: str
    remedy: tuple[str, ...]
    spoil: Callable[[Place], Awaitable[None]]
    hides_status: bool = False


async def no_cns_db(place: Place) -> None:
    place.configure(dpm={"cns_db": f"{place.site.cns}_gone"})


async def no_dpm_db(place: Place) -> None:
    await place.maria.grant(f"{place.site.dpm}_gone")
    place.configure(dpm={"dpm_db": f"{place.site.dpm}_gone"})


async def wrong_dpm_password(place: Place) -> None:
    place.configure(dpm={"password_file": str(place.bridge.secret("wrong-password", TYPED))})


async def wrong_admin_password(place: Place) -> None:
    place.configure(dpm={"admin_user": place.site.user, "admin_password": TYPED})
    place.bridge.file.chmod(0o600)


async def no_server_on_dpm_port(place: Place) -> None:
    place.configure(dpm={"port": free_port()})


async def cns_of_another_version(place: Place) -> None:
    await place.in_dpm("UPDATE schema_version SET major = 2, minor = 9")


async def dpm_of_another_version(place: Place) -> None:
    await place.in_dpm("UPDATE schema_version_dpm SET minor = 1", place.site.dpm)


async def no_version(place: Place) -> None:
    await place.in_dpm("DELETE FROM schema_version")


async def databases_swapped(place: Place) -> None:
    place.configure(dpm={"cns_db": place.site.dpm, "dpm_db": place.site.cns})


async def column_missing(place: Place) -> None:
    await place.in_dpm("ALTER TABLE Cns_file_metadata DROP COLUMN csumvalue")


async def upgrade_unfinished(place: Place) -> None:
    await place.in_dpm("ALTER TABLE Cns_file_replica DROP COLUMN xattr")


async def no_chimera(place: Place) -> None:
    place.configure(chimera={"dsn": place.dsn_of("chimera_gone")})


async def wrong_chimera_password(place: Place) -> None:
    place.configure(chimera={"password_file": str(place.bridge.secret("wrong-password", TYPED))})


async def wrong_password_in_dsn(place: Place) -> None:
    dsn = place.dsn_of(place.chimera, f"dcache:{TYPED}")
    place.configure(chimera={"dsn": dsn, "password_file": None})
    place.bridge.file.chmod(0o600)


async def unknown_role(place: Place) -> None:
    place.configure(chimera={"dsn": place.dsn_of(place.chimera, "nobody-at-all")})


async def no_server_on_chimera_port(place: Place) -> None:
    dsn = f"postgresql://dcache@{place.postgres.host}:{free_port()}/{place.chimera}"
    place.configure(chimera={"dsn": dsn})


async def empty_chimera(place: Place) -> None:
    name = unique_name("empty")
    await place.postgres.create_database(name)
    await place.point_at(name)


async def chimera_by_hand(place: Place) -> None:
    await place.in_chimera("DELETE FROM databasechangelog")


async def other_dcache_database(place: Place) -> None:
    await place.in_chimera("DROP TABLE t_acl CASCADE")


async def locked_changelog(place: Place) -> None:
    await place.in_chimera("UPDATE databasechangeloglock SET locked = true")


async def old_chimera(place: Place) -> None:
    name = unique_name("old")
    await create_chimera(place.postgres, name, "7.2")
    await place.postgres.run_sql("DROP TABLE t_user_quota CASCADE", name)
    await place.point_at(name)


async def no_root_inode(place: Place) -> None:
    await place.in_chimera("UPDATE t_inodes SET ipnfsid = repeat('1', 36) WHERE ipnfsid = repeat('0', 36)")


async def foreign_owner(place: Place) -> None:
    async with place.postgres.connect(place.chimera) as conn:
        await conn.execute("ALTER TABLE t_dirs OWNER TO postgres")


NOT_DCACHES = ("was not made by dCache", "dcache database update", "[chimera] dsn")
UPGRADE_DPM = ("upgrade DPM's databases with the scripts of its own release",)
WRONG_PASSWORD = ("password authentication failed", "password in [chimera] dsn or password_file")

WAYS = (
    Fault("no cns_db", ("_gone", "check [dpm] cns_db"), no_cns_db),
    Fault("no dpm_db", ("there is no database", "check [dpm] dpm_db"), no_dpm_db),
    Fault(
        "databases swapped", ("no table schema_version", "check [dpm] cns_db and dpm_db"), databases_swapped
    ),
    Fault("DPM's password", ("check [dpm] user and [dpm] password",), wrong_dpm_password),
    Fault("DPM's port", ("is it up", "[dpm] host and port"), no_server_on_dpm_port),
    Fault("no Chimera", ("createdb", "dcache database update", "[chimera] dsn"), no_chimera, True),
    Fault("Chimera's password", WRONG_PASSWORD, wrong_chimera_password, True),
    Fault("Chimera's password in dsn", WRONG_PASSWORD, wrong_password_in_dsn, True),
    Fault("Chimera's role", ("nobody-at-all", "correct the account"), unknown_role, True),
    Fault("Chimera's port", ("is PostgreSQL running", "[chimera] dsn"), no_server_on_chimera_port, True),
)
"""Wrong in the configuration; the databases stay as they are."""

DAMAGES = (
    Fault("cns_db version", ("2.9.0, expected 3.1.0 or 3.2.0", *UPGRADE_DPM), cns_of_another_version),
    Fault("dpm_db version", ("3.1.0, expected 3.4.0 or 3.5.0", *UPGRADE_DPM), dpm_of_another_version),
    Fault("no version", ("expected one with version", "leave only the row"), no_version),
    Fault("column missing", ("lacks csumvalue", *UPGRADE_DPM), column_missing),
    Fault("unfinished upgrade", ("no column xattr", "finish the upgrade"), upgrade_unfinished),
    Fault("empty Chimera", NOT_DCACHES, empty_chimera),
    Fault("empty changelog", NOT_DCACHES, chimera_by_hand),
    Fault("no Chimera table", ("no table t_acl", "correct [chimera] dsn"), other_dcache_database),
    Fault("locked changelog", ("databasechangeloglock", "dcache database releaseLocks"), locked_changelog),
    Fault("older than 7.2", ("older than dCache 7.2", "dcache database update"), old_chimera),
    Fault("no root", ("no root inode", "dcache database update"), no_root_inode),
    Fault("tables of another role", ("lacks SELECT on table t_dirs", "use the owner"), foreign_owner),
)


async def assert_stopped(place: Place, fault: Fault, commands: tuple[Command, ...]) -> None:
    await fault.spoil(place)
    before = await place.contents()
    await assert_all_refused(place, commands, *fault.remedy)
    assert await place.contents() == before


async def assert_stopped_before_init(place: Place, fault: Fault) -> None:
    await assert_stopped(place, fault, (CHECK, INIT))
    assert (await place.contents())[f"{place.site.cns}: triggers"] == 0


async def assert_copy_stopped(place: Place, fault: Fault) -> None:
    await assert_stopped(place, fault, (SYNC, VERIFY, STATUS) if fault.hides_status else (SYNC, VERIFY))


async def test_wrong_way_to_a_database_stops_check_and_init(fresh: Place) -> None:
    for fault in WAYS:
        await assert_stopped_before_init(fresh, fault)


async def test_wrong_way_to_a_database_stops_sync_and_verify_of_a_copied_site(copied: Place) -> None:
    for fault in WAYS:
        await assert_copy_stopped(copied, fault)


@pytest.mark.parametrize("fault", DAMAGES, ids=lambda fault: fault.name)
async def test_unfit_database_stops_check_and_init_before_anything_is_made(
    fresh: Place, fault: Fault
) -> None:
    await assert_stopped_before_init(fresh, fault)


@pytest.mark.parametrize("fault", DAMAGES, ids=lambda fault: fault.name)
async def test_unfit_database_stops_sync_and_verify_of_a_copied_site(copied: Place, fault: Fault) -> None:
    await assert_copy_stopped(copied, fault)


async def test_wrong_admin_password_stops_what_needs_the_administrator(fresh: Place) -> None:
    await wrong_admin_password(fresh)
    before = await fresh.contents()
    await assert_all_refused(fresh, (CHECK, INIT), "admin_password")
    assert await fresh.contents() == before


async def test_status_without_dpm_shows_what_chimera_knows_and_warns_in_one_line(copied: Place) -> None:
    before = await copied.contents()
    for spoil in (wrong_dpm_password, no_server_on_dpm_port, no_cns_db):
        await spoil(copied)
        done = await copied.bridge("status")
        assert done.code == 0
        assert (done.json["phase"], done.json["source_reachable"]) == ("following", False)
        assert done.json["lag_seconds"] is None
        assert "WARNING dome_bridge.cli: DPM's database cannot be reached error=" in done.err
        assert done.err.count("\n") == 1
        assert_discreet(done, copied)
    assert await copied.contents() == before


async def test_mariadb_that_is_down_is_named(mortal_maria: MariaServer, copied: Place) -> None:
    before = await copied.contents()
    await mortal_maria.stop()
    try:
        await assert_all_refused(copied, (CHECK, INIT, SYNC, VERIFY), "is it up", "[dpm] host and port")
    finally:
        await mortal_maria.start()
    assert await copied.contents() == before


async def test_postgresql_that_is_down_is_named(mortal_postgres: PostgresServer, copied: Place) -> None:
    before = await copied.contents()
    await mortal_postgres.stop()
    try:
        await assert_all_refused(
            copied, (CHECK, INIT, SYNC, STATUS, VERIFY), "is PostgreSQL running", "[chimera] dsn"
        )
    finally:
        await mortal_postgres.start()
    assert await copied.contents() == before
