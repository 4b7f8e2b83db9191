"""Files that are to be fetched into volatile pools: asks the disk servers, and hears from them.

Whoever asks for such a file has made its entry and a replica that is being populated; what a disk
server has fetched is entered by `dome_pullstatus`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from dome_bridge.config import QueueConfig
from dome_bridge.dome_api.cluster_watch import ClusterWatch
from dome_bridge.dome_api.disk_client import DiskClient
from dome_bridge.dome_api.dispatch import Dispatcher, seems_reachable
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.work_queue import WorkQueue

QUIET_TICKS = 2
"""After the start disk servers report within a tick what they are at; so long nothing is begun again.

Two that fetch the same file would write over each other.
"""


@dataclass(frozen=True, slots=True)
class Pull:
    """needed: bytes that the disk server makes room for. user: who asked, without groups.

    is_new: nobody can be at it yet.
    """

    lfn: str
    server: str
    pfn: str
    needed: int
    user: RemoteUser
    is_new: bool = False

    @property
    def key(self) -> str:
        return self.lfn


class Pulls:
    """The queue of pulls. clock: seconds that only go forward."""

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
        self._watch = watch
        self._clock = clock
        self.endings = 0
        """Pulls that have ended: who reads the catalog sees by it whether the reading is old."""
        self._quiet_end = clock() + QUIET_TICKS * tick_seconds
        self._queue: WorkQueue[Pull] = WorkQueue(
            max_total=config.max_total,
            max_per_server=config.max_per_server,
            timeout_seconds=config.timeout_seconds,
            clock=clock,
        )
        self._dispatcher = Dispatcher(
            "pull", self._queue, self._send, self._is_ready, tick_seconds=tick_seconds
        )

    def __len__(self) -> int:
        """Those that run and those that wait."""
        return len(self._queue)

    async def request(
        self, lfn: str, server: str, pfn: str, needed: int, user: RemoteUser, *, is_new: bool = False
    ) -> int:
        """The file will be pulled, or is already; returns how many pulls are in the queue now.

        is_new: its replica was made just now, for this.
        """
        self._queue.ask(Pull(lfn, server, pfn, needed, RemoteUser(user.dn, user.host), is_new))
        self._dispatcher.wake()
        return len(self._queue)

    def is_pulling(self, lfn: str) -> bool:
        """Whether it waits or runs."""
        return lfn in self._queue

    def server_of(self, lfn: str) -> str:
        """Who is to fetch it, or does; "" if nobody."""
        return self._queue.server_of(lfn)

    def reported(self, lfn: str, server: str) -> None:
        """Its disk server is at it, also if nobody here knew."""
        self._queue.hear(lfn, server)

    def ended(self, lfn: str) -> None:
        """Its disk server has stopped; what it has fetched is in the catalog now."""
        self.endings += 1
        self._queue.finish(lfn)
        self._dispatcher.wake()

    async def run_forever(self) -> None:
        """Gives pulls to the disk servers until it is cancelled."""
        await self._dispatcher.run_forever()

    def _is_ready(self, pull: Pull) -> bool:
        is_quiet = self._clock() < self._quiet_end and not pull.is_new
        return not is_quiet and seems_reachable(self._watch.cluster, pull.server)

    async def _send(self, pull: Pull) -> None:
        body = {"lfn": pull.lfn, "pfn": pull.pfn, "neededspace": str(pull.needed)}
        await self._disks.call(pull.server, "POST", "dome_pull", body, pull.user)
