"""What the commands work with: the catalog's database, the people, the disk nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

from dome_bridge.auth.scopes import Area, Grants
from dome_bridge.config import AuthConfig, Config
from dome_bridge.dome_api.catalog import Entry
from dome_bridge.dome_api.checksums import Checksums
from dome_bridge.dome_api.cluster import Cluster
from dome_bridge.dome_api.cluster_watch import ClusterObserver, ClusterWatch
from dome_bridge.dome_api.deletion_mark import Doomed
from dome_bridge.dome_api.disk_client import DiskClient
from dome_bridge.dome_api.people import People
from dome_bridge.dome_api.permissions import Subject, require_groups
from dome_bridge.dome_api.pulls import Pulls
from dome_bridge.dome_api.request import RemoteUser, Request
from dome_bridge.dome_api.standing import Standing
from dome_bridge.dome_api.stat_hook import StatHook
from dome_bridge.dpm.pool import ConnectionPool


@dataclass(frozen=True)
class Head:
    """One for the life of the service. hosts: this machine's names, the one it goes by first."""

    config: Config
    database: ConnectionPool
    people: People
    disks: DiskClient
    watch: ClusterWatch
    checksums: Checksums
    pulls: Pulls
    stat_hook: StatHook
    hosts: tuple[str, ...]
    unfinished: set[int] = field(default_factory=set)
    """Replicas that this process has left with a mark: see `removal`."""
    refused: dict[int, Doomed] = field(default_factory=dict)
    """Of these, by replicaid, the ones that were certainly not removed, as they were without a mark."""
    turns: WeakValueDictionary[int, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    """By fileid: whoever removes replicas of a file waits for his turn."""

    @property
    def fqdn(self) -> str:
        return self.hosts[0]

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
            people=people or People(database, config.auth.gridmap_file),
            disks=disks,
            watch=watch,
            checksums=Checksums(disks, watch, api.checksums, tick_seconds=api.tick_seconds),
            pulls=Pulls(disks, watch, api.pulls, tick_seconds=api.tick_seconds),
            stat_hook=StatHook(api.stat_hook, api.stat_hook_seconds),
            hosts=tuple(hosts),
        )


@dataclass(frozen=True)
class Call:
    """One request and all that it may touch.

    standing: of its principal; without one he is looked up. auth: as it was read last, if not with the rest.
    vos: that are configured.
    """

    head: Head
    request: Request
    standing: Standing | None = None
    auth: AuthConfig | None = None
    vos: frozenset[str] = frozenset()

    @property
    def database(self) -> ConnectionPool:
        return self.head.database

    @property
    def cluster(self) -> Cluster:
        """Pools and file systems, as they were last read and heard of."""
        return self.head.watch.cluster

    @property
    def auth_settings(self) -> AuthConfig:
        return self.auth or self.head.config.auth

    @property
    def scopes(self) -> Grants | None:
        """Of a token with capabilities, which alone decide then."""
        return self.standing.subject.scopes if self.standing else None

    @property
    def area(self) -> Area | None:
        """Where the request's token may go at all; None without a token."""
        token = self.request.principal.token
        return token.grants.area if token else None

    @property
    def disk_user(self) -> RemoteUser:
        """For whom disk servers are called: the user, or the server that calls on its own account."""
        user = self.request.user
        return user if user.dn else RemoteUser(self.request.peer.dn, user.host)

    async def subject(self) -> Subject:
        """On whose behalf the peer calls, as far as he is known."""
        if self.standing is not None:
            return self.standing.subject
        is_reading = self.request.method == "GET"
        return await self.head.people.subject(self.request.user, is_reading=is_reading)

    async def enrolled(self, parent: Entry) -> Subject:
        """The same with a number for the user and for each group, for who is to own something in `parent`.

        Belongs after the check that he may make it. Raises ApiError 403 for who cannot be given one.
        """
        subject = await self.subject()
        if subject.is_enrolled or self.standing is None:
            return subject
        require_groups(bool(self.standing.user.groups), parent)
        enrolled = await self.head.people.subject(self.standing.user)
        return replace(enrolled, scopes=subject.scopes)
