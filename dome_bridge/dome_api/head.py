"""What the commands work with: the catalog's database, the people, the disk nodes."""

from __future__ import annotations

from dataclasses import dataclass

from dome_bridge.config import Config
from dome_bridge.dome_api.authorise import Authoriser
from dome_bridge.dome_api.disk_client import DiskClient
from dome_bridge.dome_api.people import People
from dome_bridge.dome_api.permissions import Subject
from dome_bridge.dome_api.request import Request
from dome_bridge.dpm.pool import ConnectionPool


@dataclass(frozen=True)
class Head:
    """One for the life of the service. fqdn: this machine's name as DPM knows it."""

    config: Config
    database: ConnectionPool
    authoriser: Authoriser
    people: People
    disks: DiskClient
    fqdn: str


@dataclass(frozen=True)
class Call:
    """One request and all that it may touch."""

    head: Head
    request: Request

    @property
    def database(self) -> ConnectionPool:
        return self.head.database

    async def subject(self) -> Subject:
        """On whose behalf the peer calls; people seen for the first time get their numbers here.

        Raises ApiError 403 for somebody who is banned or cannot be given a number.
        """
        return await self.head.people.subject(self.request.user)
