"""`init` fixes what never changes and refuses what does not fit; `complete` takes everything away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase
from dome_bridge.config import Config
from dome_bridge.dpm.schema import read_layout
from dome_bridge.dpm.source import Source, StatementError
from dome_bridge.errors import BridgeError, SchemaError, StateError
from dome_bridge.exporter.fence import raise_fence
from dome_bridge.exporter.initialise import complete, initialise, planned_removal, removal
from dome_bridge.exporter.session import open_session
from dome_bridge.exporter.triggers import FENCE_PREFIX
from sandbox.chimera_schema import create_chimera
from sandbox.servers import MariaServer, PostgresServer
from tests.fixtures.databases import DpmSite, unique_name
from tests.fixtures.mirror import HOME, open_catalog, open_mirrored
from tests.fixtures.snapshot import bridge_config


@pytest.fixture
def config(dpm_site: DpmSite, chimera_dsn: str) -> Config:
    return bridge_config(dpm_site, chimera_dsn)


@pytest.fixture
async def chimera(chimera_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(chimera_dsn)
    yield connection
    await connection.close()


async def traces_in_dpm(maria: MariaServer, site: DpmSite) -> list[str]:
    """Triggers and tables in DPM's databases that are not DPM's."""
    rows = await maria.fetch(
        "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA IN (%s, %s) UNION ALL"
        " SELECT TABLE_NAME FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA IN (%s, %s) AND TABLE_NAME LIKE 'dome%%'",
        (site.cns, site.dpm, site.cns, site.dpm),
    )
    return sorted(row[0] for row in rows)


def one_line(caught: pytest.ExceptionInfo[BridgeError]) -> str:
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_second_init_finds_everything_done(config: Config) -> None:
    first = await initialise(config)
    second = await initialise(config)
    assert (first.already, second.already) == (False, True)
    assert first.site == second.site


async def test_init_puts_lost_triggers_back_and_keeps_the_site(
    config: Config, maria: MariaServer, dpm_site: DpmSite
) -> None:
    first = await initialise(config)
    before = await traces_in_dpm(maria, dpm_site)
    await maria.execute(f"DROP TRIGGER `{dpm_site.cns}`.`{before[1]}`")
    again = await initialise(config)
    assert (again.already, again.site) == (False, first.site)
    assert await traces_in_dpm(maria, dpm_site) == before


async def test_offset_lies_beyond_everything_that_dcache_has_numbered(
    config: Config, chimera: asyncpg.Connection
) -> None:
    await chimera.execute(
        "INSERT INTO t_inodes (ipnfsid, itype, imode, inlink, iuid, igid, isize, iio, ictime, iatime, imtime,"
        " inumber) VALUES (repeat('A', 36), 32768, 420, 1, 1, 1, 0, 3, now(), now(), now(), 123456789)"
    )
    assert (await initialise(config)).site.inumber_offset == 124_000_000


async def test_offset_lies_beyond_a_sequence_that_is_ahead(
    config: Config, chimera: asyncpg.Connection
) -> None:
    await chimera.execute("SELECT setval('t_inodes_inumber_seq', 7000000)")
    assert (await initialise(config)).site.inumber_offset == 8_000_000


@pytest.mark.parametrize(("version", "counts_files"), [("8.2", True), ("12.0", False)])
async def test_site_of_an_upgraded_dcache_is_noted_as_it_is(
    dpm_site: DpmSite, postgres: PostgresServer, version: str, counts_files: bool
) -> None:
    name = unique_name("chimera")
    dsn = await create_chimera(postgres, name, version, is_upgraded=True)
    try:
        site = (await initialise(bridge_config(dpm_site, dsn))).site
    finally:
        await postgres.drop_database(name)
    assert (site.root_inumber, site.links_count_files, site.root_link_base) == (4711, counts_files, 1)
    assert site.timezone == "Europe/Zurich"
    assert site.root_fileid == 1


async def test_root_that_has_tags_is_refused_and_nothing_is_written(
    config: Config, chimera: asyncpg.Connection, maria: MariaServer, dpm_site: DpmSite
) -> None:
    await chimera.execute(
        "INSERT INTO t_tags_inodes (itagid, imode, inlink, iuid, igid, isize, ictime, iatime, imtime, ivalue)"
        " VALUES (1, 33188, 1, 0, 0, 1, now(), now(), now(), 'x')"
    )
    await chimera.execute("INSERT INTO t_tags VALUES (1, 1, 1, 'sGroup')")
    with pytest.raises(SchemaError) as caught:
        await initialise(config)
    assert "chimera rmtag" in one_line(caught)
    assert not await state.exists(chimera)
    assert await traces_in_dpm(maria, dpm_site) == []


async def test_database_that_does_not_fit_is_refused_and_nothing_is_written(
    config: Config, chimera: asyncpg.Connection, maria: MariaServer, dpm_site: DpmSite
) -> None:
    await chimera.execute("DELETE FROM databasechangelog")
    with pytest.raises(SchemaError) as caught:
        await initialise(config)
    assert "was not made by dCache" in one_line(caught)
    assert await traces_in_dpm(maria, dpm_site) == []


async def test_time_zone_may_not_change_after_init(config: Config) -> None:
    await initialise(config)
    elsewhere = replace(config, chimera=replace(config.chimera, timezone="UTC"))
    with pytest.raises(StateError, match="timezone was Europe/Zurich") as caught:
        await initialise(elsewhere)
    assert one_line(caught)
    with pytest.raises(StateError, match="is UTC now"):
        async with open_session(elsewhere):
            pass


async def test_session_before_init_is_told_to_run_it(config: Config) -> None:
    with pytest.raises(StateError, match="run `dome-bridge init` first"):
        async with open_session(config):
            pass


async def test_state_of_another_version_is_refused(config: Config, chimera: asyncpg.Connection) -> None:
    await initialise(config)
    await chimera.execute("UPDATE dome_bridge.site SET state_version = 99")
    with pytest.raises(StateError, match="state version 99"):
        async with open_session(config):
            pass


async def test_chimera_that_was_upgraded_after_init_is_refused(
    config: Config, chimera: asyncpg.Connection
) -> None:
    await initialise(config)
    await chimera.execute("ALTER TABLE t_inodes DROP COLUMN iqos_state")
    with pytest.raises(StateError, match=r"Chimera's version by its columns was 9\.2"):
        async with open_session(config):
            pass


@pytest.mark.parametrize("phase", [Phase.SNAPSHOT, Phase.FOLLOWING, Phase.FENCED, Phase.ROLLED_BACK])
async def test_complete_before_the_commit_is_refused(
    config: Config, chimera: asyncpg.Connection, phase: Phase
) -> None:
    await initialise(config)
    await state.set_phase(chimera, phase)
    with pytest.raises(StateError, match=f"in phase {phase}, not committed") as caught:
        await complete(config)
    assert "--abandon" in one_line(caught)
    assert await state.exists(chimera)


async def test_abandoned_migration_leaves_nothing_behind(
    dpm_site: DpmSite, chimera_dsn: str, maria: MariaServer, chimera: asyncpg.Connection
) -> None:
    async with open_mirrored(dpm_site, chimera_dsn) as mirrored:
        await mirrored.catalog.file(f"{HOME}/f")
        await mirrored.snapshot_and_follow()
    await complete(mirrored.config, abandon=True)
    assert not await state.exists(chimera)
    assert await traces_in_dpm(maria, dpm_site) == []
    async with open_catalog(dpm_site) as catalog:
        await catalog.file(f"{HOME}/g")


async def test_complete_after_the_commit_removes_state_and_capture(
    config: Config, chimera: asyncpg.Connection, maria: MariaServer, dpm_site: DpmSite
) -> None:
    await initialise(config)
    await state.set_phase(chimera, Phase.COMMITTED)
    with pytest.raises(StateError, match="cannot be abandoned"):
        await complete(config, abandon=True)
    await complete(config)
    assert not await state.exists(chimera)
    assert await traces_in_dpm(maria, dpm_site) == []


async def test_dpm_stays_read_only_after_complete(
    config: Config, chimera: asyncpg.Connection, maria: MariaServer, dpm_site: DpmSite
) -> None:
    await initialise(config)
    async with await Source.connect(config.dpm) as source:
        await raise_fence(source, await read_layout(source))
        await state.set_phase(chimera, Phase.COMMITTED)
        await complete(config)
        traces = await traces_in_dpm(maria, dpm_site)
        assert traces
        assert [name for name in traces if not name.startswith(FENCE_PREFIX)] == []
        with pytest.raises(StatementError, match="read-only while this site moves to dCache"):
            await source.execute(f"INSERT INTO {source.cns}.Cns_groupinfo (gid, groupname) VALUES (1, 'g')")
    with pytest.raises(StateError, match="no state says whose"):
        await complete(config, abandon=True)
    assert await traces_in_dpm(maria, dpm_site) == traces


@pytest.mark.parametrize(
    ("phase", "abandon"), [(Phase.FOLLOWING, False), (Phase.FENCED, False), (Phase.COMMITTED, True)]
)
async def test_nobody_is_asked_about_a_removal_that_is_refused(
    config: Config, chimera: asyncpg.Connection, phase: Phase, abandon: bool
) -> None:
    await initialise(config)
    await state.set_phase(chimera, phase)
    with pytest.raises(StateError):
        await planned_removal(config, abandon=abandon)


async def test_complete_is_refused_while_the_daemon_runs(config: Config, chimera: asyncpg.Connection) -> None:
    await initialise(config)
    async with open_session(config) as session:
        assert await target.try_applier_lock(session.conn)
        with pytest.raises(StateError, match="still running"):
            await complete(config, abandon=True)
    assert await state.exists(chimera)


def test_removal_says_what_goes(config: Config, dpm_site: DpmSite) -> None:
    planned = removal(config)
    items = " ".join(planned.items)
    assert dpm_site.cns in items
    assert "schema dome_bridge" in items
    assert "fence" not in items
    assert "read-only for good" in planned.fence
    assert "dome_bridge_fence_*" in removal(config, abandon=True).items[-1]
