"""The first copy: interrupted, overtaken by writers, at odd sizes, and exact in what it writes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import datetime

import pytest

from dome_bridge.chimera import state
from dome_bridge.chimera.state import Phase
from dome_bridge.dpm import read
from sandbox.chimera_schema import CHIMERA_VERSIONS
from sandbox.servers import MariaServer
from sandbox.writer import CatalogWriter
from tests.fixtures.databases import DpmSite
from tests.fixtures.mirror import HOME, POOLS, Mirrored, connected

old_and_new = pytest.mark.parametrize("chimera_version", ["8.2", "10.2"])


async def plant(mirrored: Mirrored, directories: int = 4, files: int = 5) -> list[int]:
    """Directories whose files have mixed fileids, so that ranges share them."""
    paths = [f"{HOME}/d{number}" for number in range(directories)]
    for path in paths:
        await mirrored.catalog.mkdir(path)
    return [await mirrored.catalog.file(f"{path}/f{number}") for number in range(files) for path in paths]


class StoppedError(Exception):
    """Stands for a kill after some range."""


@pytest.mark.parametrize("ranges", [1, 2, 4, 6])
async def test_copy_goes_on_behind_the_last_finished_range(mirrored: Mirrored, ranges: int) -> None:
    await plant(mirrored)
    told: list[tuple[str, int]] = []

    def stop_after_some(step: str, entries: int, expected: int) -> None:
        told.append((step, entries))
        if len(told) > ranges:
            raise StoppedError

    with pytest.raises(StoppedError):
        await mirrored.snapshot(range_entries=4, workers=1, advance=stop_after_some)
    done = await finished_ranges(mirrored)
    report = await mirrored.snapshotter(range_entries=4, workers=1).run()
    assert report.resumed
    assert done.items() <= (await finished_ranges(mirrored)).items(), "a finished range was copied again"
    await mirrored.follow()
    await mirrored.require_agreement(is_fresh=True)


async def finished_ranges(mirrored: Mirrored) -> dict[tuple[str, int], datetime]:
    rows = await mirrored.conn.fetch("SELECT step, lo, done_at FROM dome_bridge.snapshot_range")
    return {(row["step"], row["lo"]): row["done_at"] for row in rows}


async def test_cancelled_copy_can_be_finished(mirrored: Mirrored) -> None:
    await plant(mirrored)
    await mirrored.copy_small_tables()
    under_way = asyncio.Event()
    copying = asyncio.create_task(
        mirrored.snapshotter(
            range_entries=2, workers=2, advance=lambda step, entries, expected: under_way.set()
        ).run()
    )
    await under_way.wait()
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert (await state.progress(mirrored.conn)).phase is Phase.SNAPSHOT
    await mirrored.snapshotter(range_entries=2, workers=2).run()
    assert (await state.progress(mirrored.conn)).phase is Phase.FOLLOWING
    await mirrored.follow()
    await mirrored.require_agreement(is_fresh=True)


@old_and_new
async def test_ranges_that_share_directories_are_copied_by_many_workers(mirrored: Mirrored) -> None:
    await plant(mirrored, directories=8, files=30)
    await mirrored.snapshot(range_entries=10, workers=4)
    await mirrored.require_agreement(is_fresh=True)


@old_and_new
async def test_name_exchanged_between_two_ranges_is_settled_by_the_follower(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    first, *_, last = await plant(mirrored, directories=1, files=9)
    swapped = False

    async def swap() -> None:
        for old, new in (("f0", "t"), ("f8", "f0"), ("t", "f8")):
            await catalog.move(f"{HOME}/d0/{old}", f"{HOME}/d0/{new}")

    async def next_range(*args: object) -> read.Range | None:
        nonlocal swapped
        found = await original(*args)  # type: ignore[arg-type]
        if found is not None and found.lo > first and not swapped:
            swapped = True
            await swap()
        return found

    original = read.next_range
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "next_range", next_range)
        await mirrored.snapshot(range_entries=4, workers=1)
    assert swapped
    await mirrored.follow()
    assert await mirrored.path(first) == f"{HOME}/d0/f8"
    assert await mirrored.path(last) == f"{HOME}/d0/f0"
    await mirrored.require_agreement()


@pytest.mark.parametrize("seed", [1, 2])
async def test_writer_busy_during_the_copy_leaves_no_difference(
    mirrored: Mirrored, dpm_site: DpmSite, seed: int
) -> None:
    print(f"seed {seed}")
    await plant(mirrored, files=20)
    writer = CatalogWriter(
        lambda: connected(dpm_site), random.Random(seed), cns=dpm_site.cns, dpm=dpm_site.dpm, linger=0.02
    )
    stop = asyncio.Event()
    writing = asyncio.create_task(writer.run(stop=stop))
    try:
        await asyncio.sleep(0.3)
        await mirrored.snapshot(range_entries=5)
    finally:
        stop.set()
        await writing
    await mirrored.follow()
    await mirrored.require_agreement()


@pytest.mark.parametrize("chimera_version", CHIMERA_VERSIONS)
async def test_catalog_of_nothing_but_its_root_is_copied(mirrored: Mirrored) -> None:
    session = mirrored.catalog.session
    await session.execute(f"DELETE FROM {session.metadata} WHERE fileid <> 1")
    report = await mirrored.snapshot()
    assert report.entries == 0 or report.entries == 1
    await mirrored.follow()
    await mirrored.require_agreement()


async def test_sparse_ids_are_copied(mirrored: Mirrored) -> None:
    counter = f"{mirrored.catalog.session.cns}.Cns_unique_id"
    files = []
    for highest in (10**6, 10**9, 2**40, 2**61):
        await mirrored.catalog.execute(f"UPDATE {counter} SET id = %s", highest)
        await mirrored.catalog.mkdir(f"{HOME}/d{highest}")
        files.append(await mirrored.catalog.file(f"{HOME}/d{highest}/f"))
    await mirrored.snapshot(range_entries=3)
    assert None not in [await mirrored.path(file) for file in files]
    await mirrored.require_agreement(is_fresh=True)


async def test_directory_older_than_its_parent_is_copied(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    await catalog.mkdir(f"{HOME}/old")
    file = await catalog.file(f"{HOME}/old/f")
    for number in range(40):
        await catalog.mkdir(f"{HOME}/d{number}")
    await catalog.mkdir(f"{HOME}/new")
    await catalog.move(f"{HOME}/old", f"{HOME}/new/old")
    await mirrored.snapshot(range_entries=2)
    assert await mirrored.path(file) == f"{HOME}/new/old/f"
    await mirrored.require_agreement(is_fresh=True)


@pytest.fixture
async def small_packets(maria: MariaServer) -> AsyncIterator[None]:
    """New connections have the smallest max_allowed_packet that servers have by default."""
    ((before,),) = await maria.fetch("SELECT @@GLOBAL.max_allowed_packet")
    await maria.execute("SET GLOBAL max_allowed_packet = 1048576")
    yield
    await maria.execute("SET GLOBAL max_allowed_packet = %s", (before,))


@pytest.mark.usefixtures("small_packets")
async def test_rows_too_large_for_one_value_are_read_one_by_one(
    mirrored: Mirrored, caplog: pytest.LogCaptureFixture
) -> None:
    note = "n" * 60_000
    for number in range(20):
        await mirrored.catalog.file(f"{HOME}/f{number}", xattr=f'{{"note": "{note}"}}', acl="A6101,C60,F40")
    with caplog.at_level("INFO", logger=read.__name__):
        await mirrored.snapshot(range_entries=1000)
    assert "read row by row" in caplog.text
    await mirrored.require_agreement(is_fresh=True)


@pytest.mark.parametrize(
    ("epoch", "local"),
    [
        (0, "1970-01-01 01:00:00"),
        (1_711_846_799, "2024-03-31 01:59:59"),
        (1_711_846_800, "2024-03-31 03:00:00"),
        (1_729_987_199, "2024-10-27 01:59:59"),
        (1_729_989_000, "2024-10-27 02:30:00"),
        (1_729_992_600, "2024-10-27 02:30:00"),
        (2**31 - 1, "2038-01-19 04:14:07"),
    ],
)
async def test_times_are_wall_clock_times_of_the_head_node(
    mirrored: Mirrored, epoch: int, local: str
) -> None:
    times = dict.fromkeys(("atime", "mtime", "ctime"), epoch)
    file = await mirrored.catalog.file(f"{HOME}/f", **times)
    await mirrored.snapshot()
    columns = "imtime::text, ictime::text, iatime::text, icrtime::text"
    assert await mirrored.value(file, f"ARRAY[{columns}]") == [local] * 4
    await mirrored.require_agreement(is_fresh=True)


async def test_columns_that_dcache_reads_are_as_dcache_writes_them(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    file, link = await catalog.file(f"{HOME}/empty", size=0), await catalog.symlink(f"{HOME}/l", "zwölf")
    directory = await catalog.fileid(HOME)
    await mirrored.snapshot()
    columns = "ARRAY[itype, inlink, isize, iio, igeneration, iaccess_latency, iretention_policy]"
    assert await mirrored.value(file, columns) == [32768, 1, 0, 3, 0, 1, 2]
    assert await mirrored.value(link, columns) == [40960, 1, 6, 1, 0, None, None]
    assert await mirrored.value(directory, columns) == [16384, 2, 512, 2, 0, None, None]
    assert await mirrored.pools(file) == [POOLS[0]]


async def test_small_ranges_give_what_one_large_range_gives(mirrored: Mirrored) -> None:
    await plant(mirrored)
    report = await mirrored.snapshot(range_entries=10**6, workers=1)
    assert report.entries > 20
    await mirrored.require_agreement(is_fresh=True)
