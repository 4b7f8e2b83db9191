"""Where requests come in, and how each listener knows its peers.

`proxied` is plain HTTP behind a web server of this machine, which has authenticated the client
and says so in headers; the settings see to it that nobody else can reach it.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod

from dome_bridge.config import ListenConfig, ProxiedConfig
from dome_bridge.dome_api.application import SERVER, Identify
from dome_bridge.dome_api.request import Peer, is_plain
from dome_bridge.errors import ApiError, ConfigError

logger = logging.getLogger(__name__)

VERIFIED = "SUCCESS"
SOCKET_MODE = 0o660
MAX_HEADER_BYTES = 32 * 1024
"""A user's groups come in one line."""

Respond = Callable[[web.BaseRequest, Identify], Awaitable[web.StreamResponse]]


def proxied_peer(request: web.BaseRequest, headers: ProxiedConfig) -> Peer:
    """Whom the web server has authenticated; without a good verification nobody.

    Raises ApiError 400 for an identity given twice: one of the two would be the client's own.
    """
    verified = _single(request, headers.verify_header)
    dn = _single(request, headers.dn_header)
    _single(request, headers.cert_header)
    forwarded = request.headers.getall("X-Forwarded-For", [])
    address = forwarded[-1].rpartition(",")[2].strip() if forwarded else request.remote or ""
    return Peer(dn if verified == VERIFIED else "", address)


def _single(request: web.BaseRequest, header: str) -> str:
    values = request.headers.getall(header, [])
    if len(values) > 1:
        raise ApiError(400, f"the header {header} is given twice: the web server must set it, not add to it")
    if not all(map(is_plain, values)):
        raise ApiError(400, f"the header {header} holds control characters or is not UTF-8")
    return values[0] if values else ""


class _Connection(web.RequestHandler):
    """Answers in DOME's manner what is no HTTP at all: a line of plain text, and one in the log."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        reason = " ".join(str(message or exc).split())
        logger.info("request that is not understood address=%s error=%s", request.remote, reason)
        if isinstance(exc, BadHttpMethod):
            status, reason = 405, "this is no request for commands: use GET or POST over plain HTTP"
        answer = web.Response(status=status, text=reason, headers={"Server": SERVER, "Connection": "close"})
        answer.force_close()
        return answer


class _Server(web.Server):
    """aiohttp has no parameter for the class that answers such requests."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class Listeners:
    """All listeners, from `start` to `stop`. stop_seconds: what running requests get to finish."""

    def __init__(
        self,
        listen: Sequence[ListenConfig],
        proxied: ProxiedConfig,
        respond: Respond,
        *,
        keepalive_seconds: float,
        stop_seconds: float,
    ) -> None:
        self._listen = listen
        self._proxied = proxied
        self._respond = respond
        self._keepalive_seconds = keepalive_seconds
        self._stop_seconds = stop_seconds
        self._runner: web.ServerRunner | None = None

    @property
    def ports(self) -> list[int]:
        """The TCP ports in use, in the order of the settings."""
        addresses = self._runner.addresses if self._runner else []
        return [address[1] for address in addresses if isinstance(address, tuple)]

    async def start(self) -> None:
        """Raises ConfigError if an address cannot be had; nothing listens then."""
        runner = web.ServerRunner(
            _Server(
                self._answer,
                access_log=None,
                keepalive_timeout=self._keepalive_seconds,
                max_field_size=MAX_HEADER_BYTES,
                max_line_size=MAX_HEADER_BYTES,
                # A compressed body could be of any size; no client sends one.
                auto_decompress=False,
            ),
            handle_signals=False,
            shutdown_timeout=self._stop_seconds,
        )
        await runner.setup()
        try:
            for listen in self._listen:
                await self._open(runner, listen)
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner

    async def stop(self) -> None:
        """Takes no new requests, waits for those that run, then ends them. Harmless when not started."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._respond(request, lambda request: proxied_peer(request, self._proxied))

    async def _open(self, runner: web.ServerRunner, listen: ListenConfig) -> None:
        try:
            if listen.unix_socket is not None:
                await web.SockSite(runner, _bound(listen.unix_socket)).start()
            else:
                await web.TCPSite(runner, listen.address, listen.port).start()
        except OSError as exc:
            raise ConfigError(
                f"cannot listen on {listen.place}: {exc.strerror or exc}; "
                "set [[api.listen]] to a place that is free on this machine"
            ) from exc
        logger.info("api listens place=%s protocol=%s", listen.place, listen.protocol)


def _bound(path: Path) -> socket.socket:
    """Nobody can connect before it listens, so its mode holds from the first connection on.

    The web server is in its group; nobody else may connect, for whoever does is believed.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() and not _is_answered(path):
            path.unlink()
        bound.bind(str(path))
        path.chmod(SOCKET_MODE)
    except BaseException:
        bound.close()
        raise
    return bound


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex(str(path)) == 0
