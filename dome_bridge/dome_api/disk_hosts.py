"""The disk servers of the site: their names from DPM's database, and the addresses that these have."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress

from dome_bridge.dome_api.catalog import text_of
from dome_bridge.dome_api.sql import sql
from dome_bridge.dpm.pool import ConnectionPool
from dome_bridge.dpm.source import Source
from dome_bridge.errors import BridgeError

logger = logging.getLogger(__name__)

RELOAD_SECONDS = 1.0
"""So long a disk server that an administrator has added or removed keeps its old standing."""

RESOLVE_SECONDS = 60.0

READ_SECONDS = 2.0
"""So long a request waits for newer names than those that are known."""

_LOOK_UPS = threading.BoundedSemaphore(4)
"""At a time."""

Lookup = Callable[[str], Awaitable[frozenset[str]]]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class DiskHosts:
    """clock: seconds that only go forward. lookup: the addresses of a name; none if it has none."""

    def __init__(
        self,
        database: ConnectionPool,
        *,
        own: Collection[str],
        networks: Callable[[], Iterable[Network]],
        lookup: Lookup | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._own = tuple(own)
        self._networks = networks
        self._lookup = lookup or addresses_of
        self._clock = clock
        self._names: frozenset[str] = frozenset()
        self._by_name: dict[str, frozenset[str]] = {}
        self._addresses: frozenset[str] = frozenset()
        self._read_at: float | None = None
        self._reading = asyncio.Lock()
        self._trouble = ""
        self._resolved_at: float | None = None
        self._resolving = asyncio.Lock()

    async def names(self) -> frozenset[str]:
        """In lower case; while the database does not answer, those that it had last.

        Raises SourceError if there never were any.
        """
        if not self._is_fresh():
            async with self._reading:
                if not self._is_fresh():
                    await self._read()
        return self._names

    def _is_fresh(self) -> bool:
        return self._read_at is not None and self._clock() - self._read_at <= RELOAD_SECONDS

    async def _read(self) -> None:
        began = self._clock()
        try:
            async with asyncio.timeout(None if self._read_at is None else READ_SECONDS):
                self._names = await self._database.read(_disk_servers)
        except (BridgeError, TimeoutError) as exc:
            if self._read_at is None:
                raise
            self._complain(str(exc) or f"no answer within {READ_SECONDS:g} s")
        else:
            self._trouble = ""
        # After a failure, too: not every request is to wait for a database that is away.
        self._read_at = began if not self._trouble else self._clock()

    def _complain(self, trouble: str) -> None:
        """Once, not at every look."""
        if not self._trouble:
            logger.warning("disk servers cannot be read, those known stay error=%s", trouble)
        self._trouble = trouble

    def is_unlimited(self, address: str) -> bool:
        """Whether one of the site's own servers is there."""
        return plain_address(address) in self._addresses

    async def may_speak_plainly(self, address: str) -> bool:
        """Whether requests that are signed, but not encrypted, are taken from there."""
        text = plain_address(address)
        if text in self._addresses:
            return True
        try:
            parsed = ipaddress.ip_address(text)
        except ValueError:
            return False
        if parsed.is_loopback or any(parsed in network for network in self._networks()):
            return True
        # It may have been added since they were looked up.
        await self._resolve_after(self._clock() - RELOAD_SECONDS)
        return text in self._addresses

    async def resolve(self) -> None:
        """Looks up the addresses of all names anew; what has none now keeps those that it had."""
        await self._resolve_after(self._clock())

    async def _resolve_after(self, moment: float) -> None:
        """Unless that was begun since: strangers who connect must not have it done for each of them."""
        async with self._resolving:
            if self._resolved_at is None or self._resolved_at < moment:
                self._resolved_at = self._clock()
                await self._resolve()

    async def _resolve(self) -> None:
        try:
            names = sorted({*self._own, *await self.names()})
        except BridgeError as exc:
            logger.warning("disk servers cannot be read error=%s", exc)
            return
        found = await asyncio.gather(*map(self._lookup, names))
        before, none = self._by_name, frozenset[str]()
        self._by_name = {
            name: addresses or before.get(name, none) for name, addresses in zip(names, found, strict=True)
        }
        self._addresses = none.union(*self._by_name.values())

    async def resolve_forever(self) -> None:
        while True:
            await self.resolve()
            await asyncio.sleep(RESOLVE_SECONDS)


def plain_address(address: str) -> str:
    """IPv4 as such, also where it came in IPv6's clothes."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


async def addresses_of(name: str) -> frozenset[str]:
    """By the machine's resolver; none for a name that it does not know.

    In a thread that nobody waits for at the end: where no resolver answers, each name takes many seconds.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[frozenset[str]] = loop.create_future()

    def settle(addresses: frozenset[str]) -> None:
        if not found.done():
            found.set_result(addresses)

    def look() -> None:
        with _LOOK_UPS:
            addresses = _look_up(name)
        # the loop may have ended meanwhile
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, addresses)

    threading.Thread(target=look, name="resolver", daemon=True).start()
    return await found


def _look_up(name: str) -> frozenset[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return frozenset()
    return frozenset(plain_address(str(address[0])) for *_, address in found)


async def _disk_servers(source: Source) -> frozenset[str]:
    rows = await source.fetch(sql(source, "disk_servers"))
    return frozenset(text_of(server).lower() for (server,) in rows)
