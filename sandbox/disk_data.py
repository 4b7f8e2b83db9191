"""The data path of a disk node: PUT, GET and DELETE of a pfn, as its web server would do them.

The location token in the query is not looked at. With `sfn=<lfn>` there as well, a PUT is a complete
upload: the node reports it to the head, as a real front-end does, and a refusal is the answer.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from aiohttp import web

from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.wire import Answer
from sandbox.disk_head import user_in
from sandbox.disk_store import PIECE_BYTES, DiskStore

PutDone = Callable[[dict[str, str], RemoteUser], Awaitable[Answer]]
"""From pfn and lfn of an upload, and whose it is, to the node's own dome_putdone."""

_FILE_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_NO_COMMAND_METHODS = frozenset({"PUT", "DELETE"})


@dataclass(frozen=True)
class Transfer:
    """What was done with a file. status 0: the connection was lost meanwhile. size: bytes passed on."""

    method: str
    pfn: str
    status: int
    size: int = 0


class FileRefusedError(Exception):
    """A file is not given or taken."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class DataPath:
    """seconds_per_piece: how long it waits before each piece of a file. cut: ends what is under way."""

    def __init__(self, store: DiskStore, putdone: PutDone) -> None:
        self.seconds_per_piece = 0.0
        self.transfers: list[Transfer] = []
        self._store = store
        self._putdone = putdone
        self._connections: set[asyncio.Transport | None] = set()

    def pfn_of(self, request: web.BaseRequest) -> str | None:
        """None: the request is for a command."""
        path = unquote_to_bytes(request.raw_path.partition("?")[0]).decode("utf-8", "surrogateescape")
        is_file = request.method in _FILE_METHODS and self._store.file(path, own=True) is not None
        return path if is_file or request.method in _NO_COMMAND_METHODS else None

    async def serve(self, request: web.BaseRequest, pfn: str) -> web.StreamResponse:
        connection = request.transport
        self._connections.add(connection)
        try:
            response, size = await self._served(request, pfn)
            status = response.status
        except FileRefusedError as error:
            response, size, status = web.Response(status=error.status, text=f"{error}\n"), 0, error.status
        except (web.RequestPayloadError, ConnectionError):
            response, size, status = web.Response(status=400), 0, 0
        finally:
            self._connections.discard(connection)
        self.transfers.append(Transfer(request.method, pfn, status, size))
        return response

    def cut(self) -> None:
        for connection in self._connections:
            if connection is not None:
                connection.abort()

    async def _served(self, request: web.BaseRequest, pfn: str) -> tuple[web.StreamResponse, int]:
        file = self._store.file(pfn, own=True)
        if file is None:
            raise FileRefusedError(404, f"{pfn} is on no filesystem of this server")
        try:
            match request.method:
                case "PUT":
                    return await self._take(request, pfn, file)
                case "DELETE":
                    await asyncio.to_thread(file.unlink)
                    return web.Response(status=204), 0
                case _:
                    return await self._give(request, file)
        except ConnectionError:
            raise
        except OSError as error:
            raise _refusal(error) from error

    async def _take(self, request: web.BaseRequest, pfn: str, file: Path) -> tuple[web.StreamResponse, int]:
        size = await self._received(request, pfn, file)
        if lfn := request.query.get("sfn"):
            answer = await self._putdone({"pfn": pfn, "lfn": lfn}, user_in(request.headers.items()))
            if answer.status != 200:
                raise FileRefusedError(answer.status, answer.body.decode("utf-8", "replace"))
        return web.Response(status=201), size

    async def _received(self, request: web.BaseRequest, pfn: str, file: Path) -> int:
        """All of it or nothing: what was written of an upload that ends early is removed."""
        handle = await asyncio.to_thread(_created, file)
        size = None
        try:
            size = await self._written(request, pfn, handle)
        finally:
            _close(handle, file, keep=size is not None)
        return size

    async def _written(self, request: web.BaseRequest, pfn: str, handle: BinaryIO) -> int:
        path = self._store.filesystem(pfn, own=True)
        assert path is not None
        size = 0
        async for piece in request.content.iter_chunked(PIECE_BYTES):
            await asyncio.sleep(self.seconds_per_piece)
            await asyncio.to_thread(self._store.write, handle, path, piece)
            size += len(piece)
        return size

    async def _give(self, request: web.BaseRequest, file: Path) -> tuple[web.StreamResponse, int]:
        handle, length = await asyncio.to_thread(_opened, file)
        try:
            response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
            response.content_length = length
            await response.prepare(request)
            size = 0
            while request.method == "GET" and (piece := await asyncio.to_thread(handle.read, PIECE_BYTES)):
                await asyncio.sleep(self.seconds_per_piece)
                await response.write(piece)
                size += len(piece)
            await response.write_eof()
        finally:
            handle.close()
        return response, size


def _created(file: Path) -> BinaryIO:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.open("wb")


def _close(handle: BinaryIO, file: Path, *, keep: bool) -> None:
    handle.close()
    if not keep:
        file.unlink(missing_ok=True)


def _opened(file: Path) -> tuple[BinaryIO, int]:
    handle = file.open("rb")
    return handle, os.fstat(handle.fileno()).st_size


def _refusal(error: OSError) -> FileRefusedError:
    status = {errno.ENOSPC: 507, errno.ENOENT: 404, errno.EISDIR: 403}.get(error.errno or 0, 500)
    return FileRefusedError(status, error.strerror or str(error))
