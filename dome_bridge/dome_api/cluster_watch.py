"""Keeps the state of the cluster: rereads the database, polls all disk servers side by side.

A server that does not answer costs nobody else time: each is polled by a task of its own, and
its answer counts the moment it is there.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from dome_bridge.dome_api.catalog import text_of
from dome_bridge.dome_api.cluster import Cluster, FileSystem, Pool, Report, reports_of
from dome_bridge.dome_api.disk_client import DiskClient
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.sql import sql
from dome_bridge.dpm.pool import ConnectionPool
from dome_bridge.dpm.source import Source
from dome_bridge.errors import BridgeError, DiskError

logger = logging.getLogger(__name__)


class ClusterObserver(Protocol):
    """Is told of every new state."""

    def cluster_changed(self, cluster: Cluster) -> None: ...


class ClusterWatch:
    """poll_seconds: from one poll's beginning to the next. clock: seconds that only go forward."""

    def __init__(
        self,
        database: ConnectionPool,
        disks: DiskClient,
        observer: ClusterObserver,
        *,
        poll_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._disks = disks
        self._observer = observer
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._cluster = Cluster()
        self._rereading = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._newest: dict[str, int] = {}

    @property
    def cluster(self) -> Cluster:
        """The newest state."""
        return self._cluster

    async def reread(self) -> Cluster:
        """Pools and file systems as the database has them now."""
        # One at a time: an answer from before a change must not come after one from behind it.
        async with self._rereading:
            pools, filesystems = await self._database.read(_read)
            self._change(self._cluster.reread(pools, filesystems))
        return self._cluster

    async def poll(self) -> None:
        """Asks every server once, all at the same time; returns when the last has answered or is given up."""
        async with asyncio.TaskGroup() as group:
            for server in self._cluster.servers:
                group.create_task(self.poll_server(server))

    async def poll_server(self, server: str) -> None:
        """Asks one server how much room it has; without an answer its file systems are broken."""
        asked = next(self._numbers)
        try:
            answer = await self._disks.call(server, "GET", "dome_getspaceinfo", {}, RemoteUser())
        except DiskError as exc:
            if self._is_news(server, asked):
                self._lost(server, exc)
            return
        reports = _reports(answer.text, server)
        if reports is None:
            logger.warning("disk server says nothing about its file systems server=%s", server)
        elif self._is_news(server, asked):
            self._heard(server, self._cluster.heard(server, reports))

    def _is_news(self, server: str, asked: int) -> bool:
        """Whether nothing that was asked later has been answered before."""
        is_news = asked > self._newest.get(server, 0)
        if is_news:
            self._newest[server] = asked
        return is_news

    async def run_forever(self) -> None:
        """Rereads and polls, at once and then every so often, until it is cancelled.

        A server that is still being waited for is left out of a round, and holds up nobody else's.
        """
        polls: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                began = self._clock()
                await self._attempt(self.reread)
                polls = {server: poll for server, poll in polls.items() if not poll.done()}
                for server in set(self._cluster.servers) - polls.keys():
                    polls[server] = group.create_task(self._attempt(partial(self.poll_server, server)))
                await asyncio.sleep(max(0.0, began + self._poll_seconds - self._clock()))

    async def _attempt(self, step: Callable[[], Awaitable[object]]) -> None:
        try:
            await step()
        except BridgeError as exc:
            logger.warning("the state of the cluster grows old error=%s", exc)
        except Exception:
            logger.exception("the state of the cluster grows old")

    def _heard(self, server: str, cluster: Cluster) -> None:
        if not self._was_online(server):
            logger.info("disk server answers server=%s", server)
        self._change(cluster)

    def _lost(self, server: str, why: DiskError) -> None:
        if self._was_online(server):
            logger.error("disk server lost server=%s error=%s", server, why)
        else:
            logger.info("disk server still does not answer server=%s error=%s", server, why)
        self._change(self._cluster.lost(server))

    def _was_online(self, server: str) -> bool:
        return self._cluster.is_answering(server)

    def _change(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._observer.cluster_changed(cluster)


def _reports(text: str, server: str) -> dict[str, Report] | None:
    try:
        return reports_of(json.loads(text), server)
    except (ValueError, AttributeError, RecursionError):
        return None


async def _read(source: Source) -> tuple[list[Pool], list[FileSystem]]:
    pools = await source.fetch(sql(source, "pools"))
    filesystems = await source.fetch(sql(source, "filesystems"))
    return (
        [Pool(text_of(name), int(size or 0), text_of(kind)) for name, size, kind in pools],
        [
            FileSystem(text_of(pool), text_of(server), text_of(path), int(status or 0))
            for pool, server, path, status in filesystems
        ],
    )
