"""A TCP proxy that can fail in the ways networks do: refuse, delay, cut, and go deaf.

A client is given the proxy's host and port instead of the server's. Faults apply to
connections that exist as well as to new ones, and end with heal().
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from sandbox.acceptor import Acceptor

CHUNK_BYTES = 64 * 1024


class FaultyProxy:
    """Forwards loopback connections to `host:port` or to a Unix socket."""

    def __init__(self, host: str = "", port: int = 0, *, unix_socket: str | Path = "") -> None:
        self.target = (host, port)
        self.unix_socket = str(unix_socket)
        self.host, self.port = "127.0.0.1", 0
        self.delay = 0.0  # seconds before each chunk, in both directions
        self.forwarded_bytes = 0
        self._hearing = asyncio.Event()
        self._hearing.set()
        self._acceptor = Acceptor(self._serve)

    @property
    def is_deaf(self) -> bool:
        return not self._hearing.is_set()

    @property
    def accepted(self) -> int:
        return self._acceptor.accepted

    async def start(self) -> None:
        """Listen, on the same port again after a stop."""
        if not self._acceptor.is_open:
            self.port = self._acceptor.open(self.host, self.port)

    async def stop(self) -> None:
        """Refuse new connections and cut the present ones, as a server that is down."""
        await self._acceptor.close()

    async def cut(self) -> None:
        """Reset the present connections; new ones are accepted."""
        await self._acceptor.cut()

    def go_deaf(self) -> None:
        """Accept and swallow: no byte is passed on and no answer comes, as behind a dead router."""
        self._hearing.clear()

    async def heal(self) -> None:
        """End all faults. Connections that lost bytes to deafness are cut."""
        self.delay = 0.0
        if self.is_deaf:
            await self.cut()
            self._hearing.set()
        await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _serve(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            await self._forward(reader, writer)
        finally:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_deaf:
            await self._swallow(reader)
            return
        try:
            far_reader, far_writer = await self._connect()
        except OSError:
            return
        try:
            await self._join((reader, far_writer), (far_reader, writer))
        finally:
            far_writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.unix_socket:
            return await asyncio.open_unix_connection(self.unix_socket)
        return await asyncio.open_connection(*self.target)

    async def _join(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        """Pump both ways until both have ended."""
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for reader, writer in ways:
                    group.create_task(self._pump(reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.is_deaf:
                continue
            writer.write(chunk)
            await writer.drain()
            self.forwarded_bytes += len(chunk)
        writer.write_eof()

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(CHUNK_BYTES):
            pass
