"""Fetches documents of issuers: few bytes, little time, no redirects, no inner addresses (D4 to D6, TLS10).

The addresses that a name resolves to are checked where the connection is about to be made with them, so a
name that resolves differently the next time gains nothing. Each fetch has a connection of its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from dome_bridge.auth.discovery import MAX_DOCUMENT_BYTES, Answer
from dome_bridge.auth.keyset import KeySetError

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""The numeric addresses of a host, for connections to a port."""

_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?([0-9]{1,9})\"?\s*(?:,|$)", re.ASCII | re.IGNORECASE)
_UNCACHED = re.compile(r"(?:^|[\s,])no-(?:store|cache)\s*(?:[,=]|$)", re.ASCII | re.IGNORECASE)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Which not every Python knows: local NAT64, examples, segment routing, addresses of a site.
_INNER = tuple(map(ipaddress.IPv6Network, ("64:ff9b:1::/48", "3fff::/20", "5f00::/16", "fec0::/10")))


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one fetch."""

    connect_seconds: float = 5.0
    total_seconds: float = 10.0
    body_bytes: int = MAX_DOCUMENT_BYTES


class IssuerHttp:
    """A `Get` for the documents of one issuer. ca_file: None for the system's authorities."""

    def __init__(
        self,
        *,
        ca_file: Path | None,
        allow_private_address: bool,
        limits: Limits | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        self._ca_file = ca_file
        self._allows_private = allow_private_address
        self._limits = limits or Limits()
        self._lookup = lookup or addresses_of

    async def __call__(self, address: URL) -> Answer:
        """Raises KeySetError, whatever goes wrong."""
        context = await asyncio.to_thread(self._tls)
        try:
            async with (
                asyncio.timeout(self._limits.total_seconds),
                self._session(context) as session,
                session.get(address, allow_redirects=False) as response,
            ):
                return await self._answer(response)
        except TimeoutError:
            raise KeySetError(
                f"{address} gave no answer in time: connect within {self._limits.connect_seconds:g} s,"
                f" be done within {self._limits.total_seconds:g} s"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise KeySetError(f"{address} cannot be fetched: {_one_line(error)}") from None

    def _session(self, context: ssl.SSLContext) -> aiohttp.ClientSession:
        resolver = _GuardedResolver(self._lookup, allows_private=self._allows_private)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=context, resolver=resolver, use_dns_cache=False, force_close=True
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": "dome-bridge",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            },
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=self._limits.connect_seconds,
                sock_connect=self._limits.connect_seconds,
            ),
            auto_decompress=False,
        )

    def _tls(self) -> ssl.SSLContext:
        """Made anew for each fetch, so that a changed file counts. Reads files."""
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:
            raise KeySetError(
                f"ca_file {self._ca_file} cannot be used ({error.strerror or error}): set it to a PEM file"
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Set by Python from 3.13 on; grid CAs issue certificates that do not pass it.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context

    async def _answer(self, response: aiohttp.ClientResponse) -> Answer:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ValueError("the answer is compressed though it was not asked for")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > self._limits.body_bytes:
                raise ValueError(f"the answer is larger than {self._limits.body_bytes} bytes")
        return Answer(response.status, bytes(body), _max_age(response))


class _GuardedResolver(AbstractResolver):
    """Hands out addresses to connect to, and none for a name that has an inner one."""

    def __init__(self, lookup: Lookup, *, allows_private: bool) -> None:
        self._lookup = lookup
        self._allows_private = allows_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = [ipaddress.ip_address(address) for address in await self._lookup(host, port)]
        for address in found:
            if not (self._allows_private or is_public(address)):
                raise KeySetError(
                    f"{host} has the private address {address}: if that is right, set allow_private_address"
                )
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in found
        ]

    async def close(self) -> None:
        """Nothing is held."""


async def addresses_of(host: str, port: int) -> list[str]:
    """By the machine's own resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is of the Internet at large, also where IPv6 carries it for IPv4."""
    carried = _carried(address) if isinstance(address, IPv6Address) else None
    if carried is not None:
        return is_public(carried)
    if any(address in network for network in _INNER):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _carried(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _max_age(response: aiohttp.ClientResponse) -> float | None:
    control = ",".join(response.headers.getall("Cache-Control", ()))
    match = _MAX_AGE.search(control)
    return float(match[1]) if match and not _UNCACHED.search(control) else None


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())
