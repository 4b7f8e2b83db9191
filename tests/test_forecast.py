"""The forecast against the quarantine that a real first copy of the same catalog makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from dome_bridge.config import Config
from dome_bridge.exporter.forecast import DIRECTORIES, ENTRIES, Forecast, forecast, has_unique_names
from dome_bridge.exporter.projection import Projection
from dome_bridge.exporter.session import open_databases
from sandbox.catalog import make_site
from sandbox.servers import MariaServer
from sandbox.site import SiteOptions
from tests.fixtures.databases import DpmSite
from tests.fixtures.snapshot import bridge_config, copy_catalog
from tests.fixtures.source import writer

ALL = 10**6
SMALL = SiteOptions(files=200)

Findings = Counter[tuple[str, str, int]]


@pytest.fixture
async def rotten_site(maria: MariaServer, dpm_site: DpmSite) -> DpmSite:
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SMALL, rotten=True)
    return dpm_site


@pytest.fixture
async def config(rotten_site: DpmSite, chimera_dsn: str) -> Config:
    return bridge_config(rotten_site, chimera_dsn)


@pytest.fixture
async def conn(chimera_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(chimera_dsn)
    yield conn
    await conn.close()


async def foresee(config: Config, **options: Any) -> Forecast:
    async with open_databases(config) as databases:
        return await forecast(databases, **options)


def findings(made: Forecast) -> Findings:
    return Counter(
        (found.scope, found.reason, example.fileid) for found in made.foreseen for example in found.examples
    )


async def quarantined(conn: asyncpg.Connection) -> Findings:
    rows = await conn.fetch("SELECT scope, reason, fileid FROM dome_bridge.quarantine")
    return Counter((row["scope"], row["reason"], int(row["fileid"])) for row in rows)


async def execute(site: DpmSite, *statements: str) -> None:
    async with writer(site) as cursor:
        for statement in statements:
            await cursor.execute(statement)


def directory(fileid: int, parent: int, name: str) -> str:
    return (
        "INSERT INTO Cns_file_metadata (fileid, parent_fileid, name, filemode, nlink, owner_uid, gid,"
        " filesize, atime, mtime, ctime, fileclass, status)"
        f" VALUES ({fileid}, {parent}, '{name}', 16877, 0, 0, 0, 0, 9e8, 9e8, 9e8, 0, '-')"
    )


@pytest.mark.parametrize("range_entries", [50_000, 40])
async def test_forecast_is_what_the_first_copy_quarantines(
    config: Config, conn: asyncpg.Connection, range_entries: int
) -> None:
    made = await foresee(config, range_entries=range_entries, examples=ALL)
    await copy_catalog(config)
    assert findings(made) == await quarantined(conn)
    assert sum(made.counts.values()) == sum(findings(made).values()) > 100


async def test_forecast_does_not_depend_on_the_ranges_of_the_copy(
    config: Config, conn: asyncpg.Connection
) -> None:
    made = await foresee(config, examples=ALL)
    await copy_catalog(config, range_entries=40)
    assert findings(made) == await quarantined(conn)


async def test_forecast_after_the_first_copy_is_the_same(config: Config, conn: asyncpg.Connection) -> None:
    await copy_catalog(config)
    assert findings(await foresee(config, examples=ALL)) == await quarantined(conn)


async def test_names_given_twice_are_foreseen_where_the_index_is_lost(
    config: Config, rotten_site: DpmSite, conn: asyncpg.Connection
) -> None:
    await execute(
        rotten_site,
        "ALTER TABLE Cns_file_metadata DROP INDEX file_full_id",
        directory(10**9, 1, "twice"),
        directory(10**9 + 500, 1, "twice"),
        directory(10**9 + 501, 1, "twice "),
        directory(10**9 + 502, 10**9 + 500, "below"),
    )
    made = await foresee(config, range_entries=20, examples=ALL)
    await copy_catalog(config)
    assert findings(made) == await quarantined(conn)
    assert made.counts["entry", "duplicate-name"] == 1


async def test_name_that_dcache_holds_itself_is_foreseen(
    config: Config, rotten_site: DpmSite, conn: asyncpg.Connection
) -> None:
    await execute(rotten_site, directory(10**6, 1, "lost+found"), directory(10**6 + 1, 10**6, "below"))
    made = await foresee(config, examples=ALL)
    await copy_catalog(config)
    assert findings(made) == await quarantined(conn)
    assert made.counts["entry", "name-taken"] == 1


@pytest.mark.parametrize("kind", [0o40000, 0o100000])
async def test_row_that_cannot_be_projected_costs_itself_only(
    config: Config, rotten_site: DpmSite, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    before = await foresee(config)
    async with writer(rotten_site) as cursor:
        await cursor.execute(
            f"SELECT fileid FROM Cns_file_metadata WHERE filemode & 61440 = {kind} AND nlink < 2"
            " AND filesize > 0 AND fileid < 250000 ORDER BY fileid LIMIT 1"
        )
        [(victim,)] = await cursor.fetchall()
    project_rows = Projection.project_rows

    async def fail_with_the_victim(self: Projection, *, unique_names: bool) -> None:
        await project_rows(self, unique_names=unique_names)
        await self.conn.execute(f"SELECT 1 / (fileid - {victim}) FROM stage_entry")

    monkeypatch.setattr(Projection, "project_rows", fail_with_the_victim)
    made = await foresee(config)
    assert made.counts["entry", "refused-by-chimera"] == 1
    assert {example.fileid for found in made.foreseen for example in found.examples} >= {victim}
    below = made.counts["entry", "parent-absent"] - before.counts["entry", "parent-absent"]
    assert below == 0 if kind == 0o100000 else below > 0


async def test_a_sound_site_has_no_forecast(maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str) -> None:
    site = await make_site(maria, dpm_site.cns, dpm_site.dpm, SMALL)
    made = await foresee(bridge_config(dpm_site, chimera_dsn))
    assert made == Forecast(site.entries, ())


async def test_examples_are_few_and_counts_complete(config: Config) -> None:
    made = await foresee(config, examples=2)
    assert {len(found.examples) <= 2 for found in made.foreseen} == {True}
    assert made.counts["fact", "acl-invalid"] == 17


async def test_progress_is_told_for_both_passes(config: Config) -> None:
    told: list[tuple[str, int, int]] = []
    made = await foresee(
        config, range_entries=100, advance=lambda step, done, expected: told.append((step, done, expected))
    )
    assert {step for step, _, _ in told} == {DIRECTORIES, ENTRIES}
    # the entries whose ids no inumber can hold are in no range
    assert [done for step, done, _ in told if step == ENTRIES][-1] == made.entries - 3


async def test_unique_index_is_recognised(config: Config, rotten_site: DpmSite) -> None:
    async with open_databases(config) as databases:
        assert await has_unique_names(databases.source)
        await execute(rotten_site, "ALTER TABLE Cns_file_metadata DROP INDEX file_full_id")
        assert not await has_unique_names(databases.source)
