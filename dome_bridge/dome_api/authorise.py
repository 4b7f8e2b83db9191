"""Which peers may call at all: the servers of the site, and the DNs that the site names.

DOME looks for `CN=<host>` anywhere in a DN, which takes disk10 for disk1. Here a DN names a host
only if it has exactly one CN, and that is the host's name, perhaps after `host/`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection

from dome_bridge.dome_api.catalog import text_of
from dome_bridge.dome_api.request import Peer
from dome_bridge.dome_api.sql import sql
from dome_bridge.dpm.pool import ConnectionPool
from dome_bridge.dpm.source import Source

logger = logging.getLogger(__name__)

RELOAD_SECONDS = 1.0
"""So long a disk server that an administrator has added or removed keeps its old standing."""

_COMMON_NAME = re.compile(r"/CN=((?:[^/]|/(?![A-Za-z][A-Za-z0-9.]*=))*)")


def host_of(dn: str) -> str:
    """The host that a DN in slash form names, in lower case; "" if it names none, or more than one CN."""
    names = _COMMON_NAME.findall(dn)
    if len(names) != 1:
        return ""
    return str(names[0]).removeprefix("host/").lower()


class Authoriser:
    """clock: seconds that only go forward."""

    def __init__(
        self,
        database: ConnectionPool,
        *,
        dns: Collection[str],
        hosts: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._dns = frozenset(dns)
        self._own_hosts = frozenset(host.lower() for host in hosts)
        self._disk_servers: frozenset[str] = frozenset()
        self._read_at: float | None = None
        self._clock = clock

    async def is_authorised(self, peer: Peer) -> bool:
        """Whether a peer is one of the site's. Raises SourceError if the disk servers cannot be read."""
        if not peer.dn:
            return False
        if peer.dn in self._dns:
            return True
        host = host_of(peer.dn)
        return bool(host) and (host in self._own_hosts or host in await self._servers())

    async def _servers(self) -> frozenset[str]:
        now = self._clock()
        if self._read_at is None or now - self._read_at > RELOAD_SECONDS:
            self._disk_servers = await self._database.read(_disk_servers)
            self._read_at = now
        return self._disk_servers


async def _disk_servers(source: Source) -> frozenset[str]:
    rows = await source.fetch(sql(source, "disk_servers"))
    return frozenset(text_of(server).lower() for (server,) in rows)
