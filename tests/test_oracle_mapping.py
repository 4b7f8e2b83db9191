"""Snapshot and follower against a second derivation of the mapping, with a writer at random."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from sandbox.catalog import make_site
from sandbox.chimera_schema import CHIMERA_VERSIONS, create_chimera
from sandbox.operations import Operation
from sandbox.servers import MariaServer, PostgresServer
from sandbox.site import SiteOptions
from sandbox.writer import TAME, WILD, CatalogWriter
from tests.fixtures.databases import DpmSite, unique_name
from tests.fixtures.mirror import Mirrored, connected, open_mirrored, until

PRESETS: Mapping[str, Mapping[Operation, float]] = {"tame": TAME, "wild": WILD}


@asynccontextmanager
async def made_up(
    maria: MariaServer,
    postgres: PostgresServer,
    where: DpmSite,
    version: str,
    *,
    rotten: bool = False,
    is_upgraded: bool = False,
    files: int = 300,
) -> AsyncIterator[Mirrored]:
    name = unique_name("chimera")
    await make_site(maria, where.cns, where.dpm, SiteOptions(files=files), rotten=rotten)
    try:
        dsn = await create_chimera(postgres, name, version, is_upgraded=is_upgraded)
        async with open_mirrored(where, dsn) as mirrored:
            yield mirrored
    finally:
        await postgres.drop_database(name)


def random_writer(where: DpmSite, seed: int, preset: str) -> CatalogWriter:
    print(f"seed {seed} preset {preset}")
    return CatalogWriter(
        lambda: connected(where),
        random.Random(seed),
        cns=where.cns,
        dpm=where.dpm,
        weights=PRESETS[preset],
        linger=0.05,
    )


async def write_and_follow(mirrored: Mirrored, seed: int, preset: str, operations: int = 400) -> None:
    writer = random_writer(mirrored.dpm_site, seed, preset)
    follower = mirrored.follower(batch=200)
    writing = asyncio.create_task(writer.run(operations=operations, stop=asyncio.Event()))
    await until(writing.done, follower.apply_batch)
    await writing
    await follower.drain()


@pytest.mark.parametrize("is_upgraded", [False, True], ids=["new", "upgraded"])
@pytest.mark.parametrize("version", CHIMERA_VERSIONS)
async def test_copy_of_a_clean_site_is_what_the_specifications_make_of_it(
    maria: MariaServer, postgres: PostgresServer, dpm_site: DpmSite, version: str, is_upgraded: bool
) -> None:
    async with made_up(maria, postgres, dpm_site, version, is_upgraded=is_upgraded) as mirrored:
        await mirrored.snapshot(range_entries=60)
        await mirrored.require_agreement(is_fresh=True)


@pytest.mark.parametrize("version", ["8.2", "12.0"])
async def test_copy_of_a_rotten_site_is_what_the_specifications_make_of_it(
    maria: MariaServer, postgres: PostgresServer, dpm_site: DpmSite, version: str
) -> None:
    async with made_up(maria, postgres, dpm_site, version, rotten=True) as mirrored:
        await mirrored.snapshot(range_entries=60)
        await mirrored.require_agreement(is_fresh=True)


@pytest.mark.long
@pytest.mark.parametrize(
    ("seed", "preset", "version", "is_upgraded"),
    [
        (1, "tame", "7.2", False),
        (2, "tame", "10.2", True),
        (3, "tame", "12.0", False),
        (11, "wild", "8.2", False),
        (12, "wild", "9.2", True),
        (13, "wild", "11.2", False),
    ],
)
async def test_mirror_agrees_after_a_random_writer(
    maria: MariaServer,
    postgres: PostgresServer,
    dpm_site: DpmSite,
    seed: int,
    preset: str,
    version: str,
    is_upgraded: bool,
) -> None:
    async with made_up(
        maria, postgres, dpm_site, version, rotten=preset == "wild", is_upgraded=is_upgraded
    ) as mirrored:
        await mirrored.snapshot(range_entries=200)
        await write_and_follow(mirrored, seed, preset)
        await mirrored.require_agreement()
        report = await mirrored.verify(range_entries=200)
        assert (report.mismatches, report.unsettled) == (0, 0), report.examples
