"""Accepts connections for servers that are stopped at any moment.

Not asyncio's server: closed between the accept and the making of the transport, it fails on an
assertion and forgets the socket, which its client then waits on in vain.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

BACKLOG = 100

Serve = Callable[[socket.socket], Coroutine[Any, Any, object]]


class Acceptor:
    """Calls `serve` with each connection, in a task of its own."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._listening: socket.socket | None = None
        self._serving: set[asyncio.Task[object]] = set()
        self.accepted = 0

    @property
    def is_open(self) -> bool:
        return self._listening is not None

    def open(self, host: str, port: int) -> int:
        """Listens; returns the port, which port 0 leaves to the system. Raises OSError."""
        self._listening = socket.create_server((host, port), backlog=BACKLOG)
        self._listening.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)
        return int(self._listening.getsockname()[1])

    async def close(self) -> None:
        """Refuses new connections and ends what serves the present ones."""
        listening, self._listening = self._listening, None
        if listening is not None:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
        await self.cut()

    async def cut(self) -> None:
        """Ends what serves the present connections; new ones are accepted."""
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    def _accept(self, listening: socket.socket) -> None:
        try:
            client, _ = listening.accept()
        except OSError:
            return
        client.setblocking(False)
        self.accepted += 1
        task = asyncio.create_task(self._serve(client))
        self._serving.add(task)
        task.add_done_callback(partial(self._served, client))

    def _served(self, client: socket.socket, task: asyncio.Task[object]) -> None:
        self._serving.discard(task)
        # A task that is cancelled before its first step never runs, not even its finally.
        if task.cancelled() or task.exception() is not None:
            client.close()
