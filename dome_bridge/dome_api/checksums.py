"""Checksums that are to be calculated: asks the disk servers, and hears from them.

Nothing here touches the database; what a disk server has found is stored by `checksum_record`.

A client that demands a new calculation says so once and then asks like any other. Until it is over
the stored checksum must not be the answer; and when it is over, somebody who demands it with every
question must get an answer some time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from dome_bridge.config import QueueConfig
from dome_bridge.dome_api.catalog import split_rfn
from dome_bridge.dome_api.cluster_watch import ClusterWatch
from dome_bridge.dome_api.disk_client import DiskClient
from dome_bridge.dome_api.dispatch import Dispatcher, seems_reachable
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.work_queue import WorkQueue

FRESH_SECONDS = 30.0
"""So long a demanded calculation that is over is the answer to those who demand it again.

Clients ask every 5 or 15 seconds.
"""


class Sum(NamedTuple):
    """One checksum of one replica; as a client asks for it, rfn may be empty: of whichever replica."""

    lfn: str
    rfn: str
    kind: str


@dataclass(frozen=True, slots=True)
class Calculation:
    """asked: what the client wants. key: what is calculated for it. user: who asks, without groups.

    updates_file: the result replaces the file's own checksum, and not only the replica's.
    """

    key: Sum
    asked: Sum
    user: RemoteUser

    @property
    def updates_file(self) -> bool:
        return not self.asked.rfn

    @property
    def server(self) -> str:
        return split_rfn(self.key.rfn)[0]

    @property
    def pfn(self) -> str:
        return split_rfn(self.key.rfn)[1]


class Checksums:
    """The queue of calculations. clock: seconds that only go forward."""

    def __init__(
        self,
        disks: DiskClient,
        watch: ClusterWatch,
        config: QueueConfig,
        *,
        tick_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._disks = disks
        self._clock = clock
        self._queue: WorkQueue[Calculation] = WorkQueue(
            max_total=config.max_total,
            max_per_server=config.max_per_server,
            timeout_seconds=config.timeout_seconds,
            clock=clock,
        )
        self._dispatcher = Dispatcher(
            "checksum",
            self._queue,
            self._send,
            lambda calculation: seems_reachable(watch.cluster, calculation.server),
            tick_seconds=tick_seconds,
        )
        self._demanded: dict[Sum, Sum] = {}
        self._fresh: dict[Sum, float] = {}
        self.endings = 0
        """Calculations that have ended: who reads the catalog sees by it whether the reading is old."""

    def __len__(self) -> int:
        """Those that run and those that wait."""
        return len(self._queue)

    def __contains__(self, key: Sum | None) -> bool:
        """Whether it runs or waits."""
        return key in self._queue

    def request(self, calculation: Calculation, *, is_demanded: bool = False) -> int:
        """It will be calculated, or is already; returns how many are in the queue now."""
        if is_demanded or calculation.asked in self._demanded:
            self._demanded[calculation.asked] = calculation.key
        self._queue.ask(calculation)
        self._dispatcher.wake()
        return len(self._queue)

    def is_outdated(self, asked: Sum, *, is_demanded: bool) -> bool:
        """Whether a stored checksum must not be told, as a new calculation is demanded or under way.

        It holds for what the catalog has when it is asked, not for what was read before.
        """
        self._forget()
        is_fresh = self._fresh.pop(asked, None) is not None
        return not is_fresh if is_demanded else asked in self._demanded

    def reported(self, key: Sum) -> None:
        """Its disk server is at it, also if nobody here knew."""
        self._queue.hear(key, split_rfn(key.rfn)[0])

    def is_demanded_for_file(self, key: Sum) -> bool:
        """Whether the result must replace the file's checksum, whatever its disk server was told last."""
        return any(demanded == key and not asked.rfn for asked, demanded in self._demanded.items())

    def ended(self, key: Sum, *, is_stored: bool) -> None:
        """Its disk server has stopped. is_stored: with a result, which is in the catalog now."""
        self.endings += 1
        for asked in [asked for asked, demanded in self._demanded.items() if demanded == key]:
            del self._demanded[asked]
            if is_stored:
                self._fresh[asked] = self._clock() + FRESH_SECONDS
        self._queue.finish(key)
        self._dispatcher.wake()

    async def run_forever(self) -> None:
        """Gives calculations to the disk servers until it is cancelled."""
        await self._dispatcher.run_forever()

    def _forget(self) -> None:
        """What has left the queue, and answers that are not fresh any more."""
        self._demanded = {asked: key for asked, key in self._demanded.items() if key in self._queue}
        self._fresh = {asked: end for asked, end in self._fresh.items() if end > self._clock()}

    async def _send(self, calculation: Calculation) -> None:
        body = {
            "checksum-type": calculation.key.kind,
            "update-lfn-checksum": "true" if calculation.updates_file else "false",
            "pfn": calculation.pfn,
            "lfn": calculation.key.lfn,
        }
        await self._disks.call(calculation.server, "POST", "dome_dochksum", body, calculation.user)
