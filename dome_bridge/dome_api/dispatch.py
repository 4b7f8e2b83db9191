"""Gives the disk servers what a queue starts, each order by a task of its own.

What a failure means for an order:

- refused: it is forgotten. Who still wants it asks again, as clients do every few seconds;
- nothing was sent: it waits again in its place, and its server is left alone for a while;
- sent, but without an answer: it may be under way, so it counts as running until its server reports
  or the time-out is over.

The original leaves all three running until the time-out, and so keeps others from the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic

from dome_bridge.dome_api.cluster import Activity, Cluster
from dome_bridge.dome_api.disk_client import DiskRefusedError, DiskUnreachableError
from dome_bridge.dome_api.work_queue import OrderT, WorkQueue
from dome_bridge.errors import DiskError

logger = logging.getLogger(__name__)

REST_SECONDS = 10.0
"""What a server is left alone after it could not be reached."""


def seems_reachable(cluster: Cluster, server: str) -> bool:
    """Not after a poll without an answer; a server that is unknown or not polled yet may answer."""
    mine = [each for each in cluster.filesystems if each.server == server]
    return not mine or any(each.activity is not Activity.BROKEN for each in mine)


class Dispatcher(Generic[OrderT]):
    """name: of the work, for the log. send: gives an order to its server.

    is_ready: see WorkQueue.start.
    """

    def __init__(
        self,
        name: str,
        queue: WorkQueue[OrderT],
        send: Callable[[OrderT], Awaitable[None]],
        is_ready: Callable[[OrderT], bool],
        *,
        tick_seconds: float,
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        self._name = name
        self._queue = queue
        self._send = send
        self._is_ready = is_ready
        self._tick_seconds = tick_seconds
        self._rest_seconds = rest_seconds
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Something has changed in the queue."""
        self._changed.set()

    async def run_forever(self) -> None:
        """Looks at the queue whenever it is woken, and every so often, until it is cancelled."""
        async with asyncio.TaskGroup() as sending:
            while True:
                self._expire()
                for order in self._queue.start(self._is_ready):
                    sending.create_task(self._give(order))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._tick_seconds):
                        await self._changed.wait()
                self._changed.clear()

    def _expire(self) -> None:
        overdue = self._queue.expire()
        for key in overdue.dropped:
            logger.info("%s given up: nobody asks or reports any more key=%r", self._name, key)
        for key in overdue.again:
            logger.warning("%s waits again: its disk server has gone silent key=%r", self._name, key)

    async def _give(self, order: OrderT) -> None:
        try:
            await self._send(order)
        except DiskUnreachableError as exc:
            logger.warning("%s has to wait key=%r error=%s", self._name, order.key, exc)
            self._queue.rest(order.server, self._rest_seconds)
            self._queue.put_back(order.key)
        except DiskRefusedError as exc:
            logger.warning("%s refused key=%r error=%s", self._name, order.key, exc)
            self._queue.finish(order.key)
        except DiskError as exc:
            logger.warning("%s may be under way key=%r error=%s", self._name, order.key, exc)
        except Exception:
            # One order must not end the dispatch of all others.
            logger.exception("%s not sent key=%r", self._name, order.key)
            self._queue.finish(order.key)
        else:
            return
        # Its place may be another's now.
        self.wake()
