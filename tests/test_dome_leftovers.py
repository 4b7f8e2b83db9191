"""What is left behind is counted and never touched."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dome_bridge.dome_api.leftovers import count_forever, count_leftovers
from sandbox.servers import MariaServer
from tests.fixtures.dome import Silent
from tests.fixtures.storage import golden_storage


class Counted(Silent):
    """Remembers the counts."""

    def __init__(self) -> None:
        self.counts: list[tuple[int, int]] = []

    def leftovers_counted(self, uploads: int, deletions: int) -> None:
        self.counts.append((uploads, deletions))


async def test_old_uploads_and_known_deletions_are_counted(maria: MariaServer, tmp_path: Path) -> None:
    counted = Counted()
    async with golden_storage(maria, tmp_path) as storage:
        await maria.execute(
            f"UPDATE `{storage.site.cns}`.Cns_file_replica SET ctime = UNIX_TIMESTAMP() - 3600 * 25"
        )
        await maria.execute(
            f"UPDATE `{storage.site.cns}`.Cns_file_replica SET status = 'D', xattr = %s "
            "WHERE status <> 'P' ORDER BY rowid LIMIT 2",
            ['{"dome_bridge.deleting": "unlink,-,1,ab"}'],
        )
        replicas = f"SELECT * FROM `{storage.site.cns}`.Cns_file_replica"
        before = await maria.fetch(replicas)
        uploads = len(await maria.fetch(f"{replicas} WHERE status = 'P'"))
        await count_leftovers(storage.head, counted)
        assert await maria.fetch(replicas) == before
    assert uploads > 0
    assert counted.counts == [(uploads, 2)]


async def test_counting_goes_on_after_a_failure(
    maria: MariaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rests = asyncio.Queue[float]()

    async def sleep(seconds: float) -> None:
        await rests.put(seconds)
        await asyncio.sleep(0.01)

    counted = Counted()
    async with golden_storage(maria, tmp_path) as storage:
        await maria.execute(
            f"RENAME TABLE `{storage.site.cns}`.Cns_file_replica TO `{storage.site.cns}`.away"
        )
        task = asyncio.create_task(count_forever(storage.head, counted, sleep=sleep))
        await asyncio.wait_for(rests.get(), 5)
        assert counted.counts == []
        await maria.execute(
            f"RENAME TABLE `{storage.site.cns}`.away TO `{storage.site.cns}`.Cns_file_replica"
        )
        async with asyncio.timeout(5):
            while not counted.counts:
                await rests.get()
        task.cancel()
    assert "uploads could not be counted" in caplog.text
