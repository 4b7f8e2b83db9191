"""Passes xrootd's own protocol on to the xrootd behind a shared port, unread and unchanged.

One buffer's worth is on its way in each direction: as long as one end does not take what has come,
nothing more is read from the other, and TCP holds its sender back.
"""

from __future__ import annotations

import asyncio
import logging
import socket

from dome_bridge.config import Endpoint

logger = logging.getLogger(__name__)

PIECE_BYTES = 64 * 1024
CONNECT_SECONDS = 10.0

# Neither side speaks for hours when a client holds files open; a dead one is found out after four minutes.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 120), (socket.TCP_KEEPINTVL, 30), (socket.TCP_KEEPCNT, 4))


class XrootdRelay:
    """upstream: where xrootd listens."""

    def __init__(self, upstream: Endpoint, *, connect_seconds: float = CONNECT_SECONDS) -> None:
        self._upstream = upstream
        self._connect_seconds = connect_seconds

    async def pass_on(self, client: socket.socket) -> None:
        """Until both sides have said all, or one is lost. The client's socket stays the caller's."""
        try:
            async with asyncio.timeout(self._connect_seconds):
                upstream = await _connected(self._upstream)
        except OSError as exc:  # a TimeoutError, too
            logger.warning("xrootd cannot be reached upstream=%s error=%s", self._upstream, exc or "time-out")
            return
        with upstream:
            await _exchange(client, upstream)


async def _connected(endpoint: Endpoint) -> socket.socket:
    """To the first of its addresses that answers. Raises OSError."""
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, kind, protocol, _, address in await loop.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM
    ):
        upstream = socket.socket(family, kind, protocol)
        try:
            upstream.setblocking(False)
            await loop.sock_connect(upstream, address)
        except OSError as exc:
            upstream.close()
            failure = exc
        except BaseException:
            upstream.close()
            raise
        else:
            return upstream
    raise failure or OSError("it has no address")


async def _exchange(client: socket.socket, upstream: socket.socket) -> None:
    for each in (client, upstream):
        _prepare(each)
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(pump(client, upstream))
            both.create_task(pump(upstream, client))
    except* OSError as lost:
        logger.debug("xrootd connection lost error=%s", lost.exceptions[0])


def _prepare(end: socket.socket) -> None:
    """Small messages go at once, and a peer that has vanished is noticed."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in _KEEPALIVE:
        end.setsockopt(socket.IPPROTO_TCP, option, value)


async def pump(source: socket.socket, sink: socket.socket) -> None:
    """Until the source says no more, which the sink is told while the other direction goes on.

    The first read takes all that has come before the relay was chosen, at least xrootd's handshake, and
    hands it on in one write.
    """
    loop = asyncio.get_running_loop()
    while piece := await loop.sock_recv(source, PIECE_BYTES):
        await loop.sock_sendall(sink, piece)
        # Neither call waits while both ends are fast, and nobody else would have a turn.
        await asyncio.sleep(0)
    sink.shutdown(socket.SHUT_WR)
