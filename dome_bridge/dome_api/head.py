"""What the commands work with: the catalog's database, the people, the disk nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from dome_bridge.config import Config
from dome_bridge.dome_api.authorise import Authoriser
from dome_bridge.dome_api.checksums import Checksums
from dome_bridge.dome_api.cluster import Cluster
from dome_bridge.dome_api.cluster_watch import ClusterObserver, ClusterWatch
from dome_bridge.dome_api.deletion_mark import Doomed
from dome_bridge.dome_api.disk_client import DiskClient
from dome_bridge.dome_api.people import People
from dome_bridge.dome_api.permissions import Subject
from dome_bridge.dome_api.pulls import Pulls
from dome_bridge.dome_api.request import Request
from dome_bridge.dome_api.stat_hook import StatHook
from dome_bridge.dpm.pool import ConnectionPool


@dataclass(frozen=True)
class Head:
    """One for the life of the service. fqdn: this machine's name as DPM knows it."""

    config: Config
    database: ConnectionPool
    authoriser: Authoriser
    people: People
    disks: DiskClient
    watch: ClusterWatch
    checksums: Checksums
    pulls: Pulls
    stat_hook: StatHook
    fqdn: str
    unfinished: set[int] = field(default_factory=set)
    """Replicas that this process has left with a mark: see `removal`."""
    refused: dict[int, Doomed] = field(default_factory=dict)
    """Of these, by replicaid, the ones that were certainly not removed, as they were without a mark."""
    turns: WeakValueDictionary[int, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    """By fileid: whoever removes replicas of a file waits for his turn."""

    @classmethod
    def over(
        cls,
        config: Config,
        database: ConnectionPool,
        disks: DiskClient,
        observer: ClusterObserver,
        *,
        hosts: Sequence[str],
        people: People | None = None,
    ) -> Head:
        """A head that has read nothing yet. hosts: its own names, the one it goes by first."""
        api = config.api
        watch = ClusterWatch(database, disks, observer, poll_seconds=config.disk.poll_seconds)
        return cls(
            config=config,
            database=database,
            authoriser=Authoriser(database, dns=config.auth.authorize_dn, hosts=hosts),
            people=people or People(database, api.gridmap_file),
            disks=disks,
            watch=watch,
            checksums=Checksums(disks, watch, api.checksums, tick_seconds=api.tick_seconds),
            pulls=Pulls(disks, watch, api.pulls, tick_seconds=api.tick_seconds),
            stat_hook=StatHook(api.stat_hook, api.stat_hook_seconds),
            fqdn=hosts[0],
        )


@dataclass(frozen=True)
class Call:
    """One request and all that it may touch."""

    head: Head
    request: Request

    @property
    def database(self) -> ConnectionPool:
        return self.head.database

    @property
    def cluster(self) -> Cluster:
        """Pools and file systems, as they were last read and heard of."""
        return self.head.watch.cluster

    async def subject(self) -> Subject:
        """On whose behalf the peer calls; people seen for the first time get their numbers here.

        Raises ApiError 403 for somebody who is banned or cannot be given a number.
        """
        is_reading = self.request.method == "GET"
        return await self.head.people.subject(self.request.user, is_reading=is_reading)
