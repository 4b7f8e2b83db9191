"""HTTP on one connection: aiohttp's server, with the time limits and the reticence that it lacks.

aiohttp's own answers to what is no HTTP quote the request, its Authorization header included; here
they are fixed texts. Its parser in Python has let smuggled requests through, so only the one in C is used.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import aiohttp.http
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong

from dome_bridge.auth.contact import Contact
from dome_bridge.dome_api.server_tls import client_chain
from dome_bridge.errors import ConfigError

logger = logging.getLogger(__name__)

SERVER = "dome-bridge"
"""What answers call themselves."""

PROXIED_FIELD_BYTES = 96 * 1024
"""A certificate chain as long as it may be, in PEM: no client can send a field of that length past httpd."""

LINGER_SECONDS = 2.0
"""For the rest of a body that nobody reads: closed at once, its sender might not see the answer."""

CLOSE_SECONDS = 2.0
"""What the last bytes of answers get to leave when the server stops."""

Respond = Callable[[web.BaseRequest, Contact], Awaitable[web.StreamResponse]]


class Observer(Protocol):
    """Is told of connections that end before there is a request that could be answered."""

    def handshake_failed(self, address: str, verify_code: int | None, reason: str) -> None:
        """verify_code: OpenSSL's, if the client's certificate was at fault."""

    def turned_away(self, address: str, rule: str, reason: str) -> None:
        """rule: the number of the requirement by which the connection was closed."""


@dataclass(frozen=True, slots=True)
class ListenLimits:
    """connection_seconds: after that the request in work is the connection's last."""

    connections_per_source: int = 200
    handshakes: int = 200
    first_byte_seconds: float = 10.0
    handshake_seconds: float = 10.0
    header_seconds: float = 15.0
    connection_seconds: float = 3600.0
    chain_certificates: int = 16
    chain_bytes: int = 64 * 1024
    field_bytes: int = 16 * 1024
    fields: int = 64

    @property
    def handshakes_of_source(self) -> int:
        """A part, so that nobody alone can keep the others out."""
        return max(2, self.handshakes // 4)


def require_strict_parser() -> None:
    """Raises ConfigError if aiohttp's parser in C is not the one in use."""
    if aiohttp.http.HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise ConfigError(
            "aiohttp runs without its HTTP parser in C, and the other one lets smuggled requests through:"
            " unset AIOHTTP_NO_EXTENSIONS, or install a build of aiohttp with its extensions"
        )


class _Reticent(logging.LoggerAdapter[logging.Logger]):
    """For aiohttp: its exceptions quote what the client has sent, so only their names are logged."""

    def process(self, msg: object, kwargs: Any) -> tuple[Any, Any]:
        exc = kwargs.get("exc_info")
        name = type(exc if isinstance(exc, BaseException) else sys.exception()).__name__
        return f"connection broken off error={name}", {}

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        super().log(level, msg, **kwargs)


class _Request(web.BaseRequest):
    @property
    def keep_alive(self) -> bool:
        connection = self.protocol
        is_aged = isinstance(connection, Connection) and connection.is_aged
        return super().keep_alive and not is_aged


class HttpServer(web.Server):
    """All HTTP connections; each is made with `connection` and given to the loop."""

    def __init__(
        self, respond: Respond, limits: ListenLimits, observer: Observer, *, keepalive_seconds: float
    ) -> None:
        super().__init__(self._answer, request_factory=self._make)
        self.limits = limits
        self.observer = observer
        self._respond = respond
        self._keepalive_seconds = keepalive_seconds
        self._present: set[Connection] = set()

    def connection(self, contact: Contact, *, long_fields: frozenset[str] = frozenset()) -> Connection:
        """long_fields: headers, in lower case, that may be longer than all others."""
        connection = Connection(
            self,
            contact,
            long_fields,
            loop=self._loop,
            logger=_Reticent(logger),
            access_log=None,
            keepalive_timeout=self._keepalive_seconds,
            lingering_time=LINGER_SECONDS,
            max_headers=self.limits.fields,
            max_line_size=self.limits.field_bytes,
            max_field_size=PROXIED_FIELD_BYTES if long_fields else self.limits.field_bytes,
            # A compressed body could be of any size; no client sends one.
            auto_decompress=False,
        )
        self._present.add(connection)
        connection.closed.add_done_callback(lambda _: self._present.discard(connection))
        return connection

    async def finish(self, seconds: float) -> None:
        """Waits that long for running requests, then ends all connections."""
        # What was taken must have begun, requests too, before idle connections are told from others.
        await asyncio.sleep(0)
        self.pre_shutdown()
        await self.shutdown(seconds)
        if self._present:
            await asyncio.wait([each.closed for each in self._present], timeout=CLOSE_SECONDS)
        for each in list(self._present):
            each.abort()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.request_began()
        try:
            if connection.has_overlong_field(request):
                text = f"a header field is longer than {self.limits.field_bytes} bytes"
                self.observer.turned_away(connection.contact.address, "L1", text)
                return _refusal(400, text)
            return await self._respond(request, connection.contact)
        finally:
            connection.request_ended()

    def _make(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return _Request(message, payload, protocol, writer, task, self._loop)


class Connection(web.RequestHandler):
    """One connection. closed: is done when it is, or when it never came about."""

    def __init__(
        self, server: HttpServer, contact: Contact, long_fields: frozenset[str], **options: Any
    ) -> None:
        super().__init__(server, **options)
        self.contact = contact
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._limits = server.limits
        self._observer = server.observer
        self._long_fields = long_fields
        self._opened_at = self._loop.time()
        self._link: asyncio.Transport | None = None
        self._in_request = False
        self._header_timer: asyncio.TimerHandle | None = None

    @property
    def is_aged(self) -> bool:
        return self._loop.time() - self._opened_at > self._limits.connection_seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Not a subclass of it in every event loop.
        self._link = cast(asyncio.Transport, transport)
        self._await_header()
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._take_chain(tls)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_header()
        super().connection_lost(exc)
        self._link = None
        self.give_up()

    def give_up(self) -> None:
        """For a connection that does not come about; one that has is `closed` when it is lost."""
        if self._link is None and not self.closed.done():
            self.closed.set_result(None)

    def abort(self) -> None:
        if self._link is not None:
            self._link.abort()

    def data_received(self, data: bytes) -> None:
        if data and not self._in_request and self._header_timer is None:
            self._await_header()
        super().data_received(data)

    def request_began(self) -> None:
        self._in_request = True
        self._forget_header()

    def request_ended(self) -> None:
        self._in_request = False

    def has_overlong_field(self, request: web.BaseRequest) -> bool:
        limit = self._limits.field_bytes
        return bool(self._long_fields) and any(
            len(name) + len(value) > limit and name.decode("latin-1").lower() not in self._long_fields
            for name, value in request.raw_headers
        )

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers in DOME's manner: a line of text, and one in the log. Nothing in them is the client's."""
        if isinstance(exc, ConnectionError):
            raise exc
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        if status == 500:
            logger.error("request failed address=%s", request.remote, exc_info=exc)
            return _refusal(500, "internal error, see the log of dome-bridge")
        logger.info("request that is not understood address=%s error=%s", request.remote, type(exc).__name__)
        status, text = self._fault(status, exc)
        self._observer.turned_away(self.contact.address, "L1", text)
        return _refusal(status, text)

    def _fault(self, status: int, exc: BaseException | None) -> tuple[int, str]:
        match exc:
            case BadHttpMethod():
                return 405, "this is no request for commands: use GET or POST over plain HTTP"
            case LineTooLong():
                return status, f"a line or a header field is longer than {self.max_field_size} bytes"
        return status, f"this is no well-formed HTTP request with at most {self.max_headers} header fields"

    def _take_chain(self, tls: ssl.SSLObject) -> None:
        chain = client_chain(tls)
        limits = self._limits
        if len(chain) <= limits.chain_certificates and sum(map(len, chain)) <= limits.chain_bytes:
            self.contact = replace(self.contact, chain=chain)
            return
        reason = f"the client has sent {len(chain)} certificates of {sum(map(len, chain))} bytes"
        self._turn_away("L3", reason)

    def _await_header(self) -> None:
        """From the first byte of a request to the last of its head. A body has its own limit."""
        self._header_timer = self._loop.call_later(self._limits.header_seconds, self._header_is_late)

    def _forget_header(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _header_is_late(self) -> None:
        self._header_timer = None
        self._turn_away("L7", f"no request within {self._limits.header_seconds:g} s")

    def _turn_away(self, rule: str, reason: str) -> None:
        self._observer.turned_away(self.contact.address, rule, reason)
        self.abort()


def _refusal(status: int, text: str) -> web.Response:
    answer = web.Response(status=status, text=text, headers={"Server": SERVER, "Connection": "close"})
    answer.force_close()
    return answer
