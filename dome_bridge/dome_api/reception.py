"""What becomes of a connection: heard first, then given to HTTP, to TLS and HTTP, or to xrootd, or closed."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dome_bridge.auth.contact import Contact
from dome_bridge.auth.principal import Transport
from dome_bridge.config import ListenConfig
from dome_bridge.dome_api.first_bytes import Spoken, spoken
from dome_bridge.dome_api.front_door import Crowd, address_of, first_spoken, handed_on, source_of
from dome_bridge.dome_api.http_server import Connection, HttpServer, ListenLimits, Observer
from dome_bridge.dome_api.xrootd_relay import XrootdRelay

logger = logging.getLogger(__name__)

TLS_GOODBYE_SECONDS = 5.0
"""For the client to say that it has taken all, before the connection is dropped."""

MakeTls = Callable[[], ssl.SSLContext]
"""A fresh context for one connection."""


class Admits(Protocol):
    """Whose connections are let in. Addresses are texts without a port."""

    def is_unlimited(self, address: str) -> bool:
        """Whether one of the site's own servers is there, whose connections are not counted."""

    async def may_speak_plainly(self, address: str) -> bool:
        """Whether plain HTTP is taken from there: registered disk servers, this host, configured networks."""


@dataclass(frozen=True)
class Premises:
    """What all listeners share. settled: tasks of connections that HTTP has, which end in its own order."""

    server: HttpServer
    tls: MakeTls | None
    limits: ListenLimits
    admits: Admits
    observer: Observer
    crowd: Crowd
    handshakes: Crowd
    handshakes_of_source: Crowd
    long_fields: frozenset[str]
    settled: set[asyncio.Task[None]] = field(default_factory=set)


class Reception:
    """Receives the connections of one listener."""

    def __init__(self, listen: ListenConfig, premises: Premises) -> None:
        self._is_proxied = listen.protocol == "proxied"
        self._premises = premises
        self._limits = premises.limits
        self._relay = XrootdRelay(listen.xrootd_upstream) if listen.xrootd_upstream else None
        self._tell, self._spoken = _LANGUAGES[listen.protocol]

    async def receive(self, client: socket.socket) -> None:
        """From the first byte to the last. Whatever happens, nothing of it is left behind."""
        address = address_of(client)
        # Behind a web server all connections come from that, which has limits of its own.
        is_exempt = self._is_proxied or self._premises.admits.is_unlimited(address)
        with self._premises.crowd.joined(source_of(address), is_exempt=is_exempt) as has_place:
            if not has_place:
                limit = self._limits.connections_per_source
                self._turn_away(address, "L5", f"there are {limit} connections from there")
            elif heard := await self._heard(client, address):
                await self._serve(heard, client, address, is_exempt=is_exempt)

    async def _heard(self, client: socket.socket, address: str) -> Spoken | None:
        try:
            async with asyncio.timeout(self._limits.first_byte_seconds):
                return await first_spoken(client, self._tell)
        except TimeoutError:
            self._turn_away(address, "TLS6", f"nothing said within {self._limits.first_byte_seconds:g} s")
        except OSError as exc:
            logger.debug("connection lost before it began address=%s error=%s", address, exc)
        return None

    async def _serve(self, heard: Spoken, client: socket.socket, address: str, *, is_exempt: bool) -> None:
        if heard not in self._spoken:
            self._turn_away(address, "TLS5", f"what is spoken is {heard}")
        elif heard is Spoken.TLS:
            await self._serve_tls(client, address, is_exempt=is_exempt)
        elif heard is Spoken.HTTP:
            await self._serve_plainly(client, address)
        elif self._relay is not None:
            await self._relay.pass_on(client)
        else:
            self._turn_away(address, "TLS5", "xrootd is not passed on here")

    async def _serve_plainly(self, client: socket.socket, address: str) -> None:
        premises = self._premises
        if self._is_proxied:
            contact = Contact(Transport.PROXIED, address)
            connection = premises.server.connection(contact, long_fields=premises.long_fields)
        elif await self._may_speak_plainly(address):
            connection = premises.server.connection(Contact(Transport.PLAIN, address))
        else:
            self._turn_away(address, "K6", "plain HTTP is not taken from there")
            return
        self._settle()
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, handed_on(client))
        await connection.closed

    async def _may_speak_plainly(self, address: str) -> bool:
        try:
            async with asyncio.timeout(self._limits.first_byte_seconds):
                return await self._premises.admits.may_speak_plainly(address)
        except TimeoutError:
            return False

    async def _serve_tls(self, client: socket.socket, address: str, *, is_exempt: bool) -> None:
        premises, source = self._premises, source_of(address)
        connection = premises.server.connection(Contact(Transport.TLS, address))
        with (
            premises.handshakes.joined("", is_exempt=is_exempt) as is_open,
            premises.handshakes_of_source.joined(source, is_exempt=is_exempt) as has_place,
        ):
            if is_open and has_place:
                await self._shake_hands(connection, client)
            else:
                connection.give_up()
                most, whose = self._limits.handshakes_of_source, " with that source"
                if not is_open:
                    most, whose = self._limits.handshakes, ""
                self._turn_away(address, "L5", f"{most} handshakes{whose} are going on")
        self._settle()
        await connection.closed

    async def _shake_hands(self, connection: Connection, client: socket.socket) -> None:
        assert self._premises.tls is not None
        address = connection.contact.address
        try:
            context = self._premises.tls()
        except OSError as exc:
            logger.error("TLS cannot be set up address=%s error=%s", address, exc)
            connection.give_up()
            return
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                handed_on(client),
                ssl=context,
                ssl_handshake_timeout=self._limits.handshake_seconds,
                ssl_shutdown_timeout=TLS_GOODBYE_SECONDS,
            )
        except OSError as exc:
            code, reason = _fault(exc, self._limits.handshake_seconds)
            self._premises.observer.handshake_failed(address, code, reason)
        finally:
            connection.give_up()

    def _settle(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._premises.settled.add(task)
        task.add_done_callback(self._premises.settled.discard)

    def _turn_away(self, address: str, rule: str, reason: str) -> None:
        self._premises.observer.turned_away(address, rule, reason)


def _anything(first: bytes) -> Spoken | None:
    """Where only HTTP is spoken, whatever comes is answered as if it were."""
    return Spoken.HTTP if first else None


_LANGUAGES = {
    "https": (spoken, {Spoken.TLS}),
    "http": (_anything, {Spoken.HTTP}),
    "proxied": (_anything, {Spoken.HTTP}),
    "mixed": (spoken, {Spoken.TLS, Spoken.HTTP, Spoken.XROOTD}),
}


def _fault(exc: OSError, seconds: float) -> tuple[int | None, str]:
    """OpenSSL's verify code, if there is one, and what went wrong."""
    match exc:
        case ssl.SSLCertVerificationError():
            return exc.verify_code, exc.verify_message
        case ssl.SSLError():
            return None, (exc.reason or str(exc)).lower().replace("_", " ")
        case ConnectionAbortedError():
            return None, f"the handshake was not finished within {seconds:g} s"
    return None, "the connection was lost in the handshake"
