"""Connections before anything is known of them: accepted, counted, and kept waiting for their first bytes.

Not asyncio's server: it makes a transport at once, which leaves no place for limits nor for a context
for each connection, it hides handshakes that fail, and in Python 3.11 one that is stopped between the
accept and the making of the transport forgets the socket, which its client then waits on in vain.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dome_bridge.dome_api.first_bytes import XROOTD_HANDSHAKE_BYTES, Spoken

logger = logging.getLogger(__name__)

BACKLOG = 512
SOCKET_MODE = 0o660
ACCEPTED_AT_A_TIME = 64
PAUSE_SECONDS = 1.0
"""For the listener, when this process or the machine has no descriptor left."""

LOOK_AGAIN_SECONDS = 0.01
LONGEST_LOOK_SECONDS = 0.32

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Serve = Callable[[socket.socket], Coroutine[Any, Any, None]]


class FrontDoor:
    """Runs `serve` with each connection of a listening socket, in a task of its own, and owns those tasks.

    serve: when it ends the connection is closed, unless `handed_on` has been called.
    """

    def __init__(self, listening: socket.socket, serve: Serve) -> None:
        self._listening = listening
        self._serve = serve
        self._paused: asyncio.TimerHandle | None = None
        self.serving: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """0 for a Unix socket."""
        return 0 if self._listening.family == socket.AF_UNIX else int(self._listening.getsockname()[1])

    def open(self) -> None:
        self._resume()

    def close(self) -> None:
        """No new connections; the present ones go on."""
        if self._paused is not None:
            self._paused.cancel()
        asyncio.get_running_loop().remove_reader(self._listening)
        self._listening.close()

    def _resume(self) -> None:
        self._paused = None
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _pause(self, exc: OSError) -> None:
        logger.error("no connection can be accepted error=%s: raise the limit of open files", exc.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening)
        self._paused = loop.call_later(PAUSE_SECONDS, self._resume)

    def _accept(self) -> None:
        """Not `loop.sock_accept`: cancelled at the wrong moment it loses the connection."""
        for _ in range(ACCEPTED_AT_A_TIME):
            try:
                client, _ = self._listening.accept()
            except OSError as exc:
                if exc.errno in _EXHAUSTED:
                    self._pause(exc)
                return
            client.setblocking(False)
            task = asyncio.create_task(self._serve(client))
            self.serving.add(task)
            task.add_done_callback(partial(self._served, client))

    def _served(self, client: socket.socket, task: asyncio.Task[None]) -> None:
        # Here and not in the task: one that is cancelled before its first step never runs.
        client.close()
        self.serving.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.error("connection failed", exc_info=exc)


def bound_socket(place: Path | tuple[str, int]) -> socket.socket:
    """Listens at a path or at an IP address and port. Raises OSError."""
    listening = socket.socket(_family(place), socket.SOCK_STREAM)
    try:
        if isinstance(place, Path):
            _bind_for_group(listening, place)
        else:
            _bind_address(listening, place)
        listening.setblocking(False)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _family(place: Path | tuple[str, int]) -> socket.AddressFamily:
    if isinstance(place, Path):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in place[0] else socket.AF_INET


def _bind_address(listening: socket.socket, place: tuple[str, int]) -> None:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listening.family == socket.AF_INET6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listening.bind(place)


def _bind_for_group(listening: socket.socket, path: Path) -> None:
    """Nobody can connect before it listens, so its mode holds from the first connection on.

    The web server is in its group; nobody else may connect, for whoever does is believed.
    """
    if path.is_socket() and not _is_answered(path):
        path.unlink()
    listening.bind(str(path))
    path.chmod(SOCKET_MODE)


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        return client.connect_ex(str(path)) == 0


class Crowd:
    """Counts who is there at a time, by where he comes from."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._present: Counter[str] = Counter()

    @contextmanager
    def joined(self, source: str, *, is_exempt: bool = False) -> Iterator[bool]:
        """Whether there is a place for one more. Those that are exempt take none."""
        if is_exempt:
            yield True
        elif self._present[source] >= self._limit:
            yield False
        else:
            self._present[source] += 1
            try:
                yield True
            finally:
                self._present[source] -= 1
                if not self._present[source]:
                    del self._present[source]


def handed_on(client: socket.socket) -> socket.socket:
    """The same connection, for a transport that closes it in its own time; `client` is left without one."""
    return socket.socket(fileno=client.detach())


def source_of(address: str) -> str:
    """What limits count: an IPv4 address, or the /64 of an IPv6 address, which is one customer's."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), 64), strict=False))


def address_of(client: socket.socket) -> str:
    """The other end's, "" for a Unix socket or one that has gone already."""
    if client.family == socket.AF_UNIX:
        return ""
    try:
        return str(client.getpeername()[0])
    except OSError:
        return ""


async def first_spoken(client: socket.socket, tell: Callable[[bytes], Spoken | None]) -> Spoken | None:
    """What `tell` makes of the first bytes, which stay unread. None: the client has gone.

    Raises OSError if the connection is lost.
    """
    pause, seen = LOOK_AGAIN_SECONDS, b""
    while True:
        await _readable(client)
        before, seen = seen, client.recv(XROOTD_HANDSHAKE_BYTES, socket.MSG_PEEK)
        if not seen:
            return None
        if (verdict := tell(seen)) is not None:
            return verdict
        # What is left unread keeps the socket readable, so the next bytes cannot be waited for.
        pause = LOOK_AGAIN_SECONDS if len(seen) > len(before) else min(2 * pause, LONGEST_LOOK_SECONDS)
        await asyncio.sleep(pause)


async def _readable(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(client, arrived.set)
    try:
        await arrived.wait()
    finally:
        loop.remove_reader(client)
