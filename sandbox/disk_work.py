"""What a disk node does after it has answered 202: the work itself, and its reports to the head."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from dome_bridge.dome_api.request import RemoteUser
from sandbox.disk_head import HeadClient
from sandbox.disk_store import UnknownChecksumError, checksum

logger = logging.getLogger(__name__)

PullHook = Callable[[str, Path, int], Awaitable[str]]
"""Brings a file: from lfn, the file to write and the bytes needed to what the hook of a site would print.

`>>>>> HASH <value>` in it gives the checksum. Whatever it raises aborts the pull.
"""

Sleep = Callable[[float], Awaitable[None]]
Job = Callable[[], Coroutine[Any, Any, Mapping[str, str]]]
"""Does the work and returns what the last report has besides `done`. Raises AbortedError."""

_HASH_MARK = ">>>>> HASH "


class AbortedError(Exception):
    """The work cannot be finished; the message is the reason that the head gets."""


class BackgroundWork:
    """Runs jobs until `stop`, each with a report `pending` every so often and one at its end."""

    def __init__(self, head: HeadClient, *, tick_seconds: float, sleep: Sleep) -> None:
        self._head = head
        self._tick_seconds = tick_seconds
        self._sleep = sleep
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def report(self, command: str, report: Mapping[str, str], user: RemoteUser, job: Job) -> None:
        """Start the job. command, report: how the head is told, without the status."""
        # The head knows a requester by DN and address; groups are not passed on.
        self.spawn(self._reported(command, report, RemoteUser(user.dn, user.host), job))

    async def stop(self) -> None:
        """What is not finished is given up, without a word to the head."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("work of a disk node ended", exc_info=error)

    async def _reported(self, command: str, report: Mapping[str, str], user: RemoteUser, job: Job) -> None:
        async def tell(**ending: str) -> None:
            await self._head.call("POST", command, {**report, **ending}, user)

        work = asyncio.create_task(job())
        try:
            while not await self._is_done_in_a_tick(work):
                await tell(status="pending")
            await tell(**await _ending(work))
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _is_done_in_a_tick(self, work: asyncio.Task[Mapping[str, str]]) -> bool:
        tick = asyncio.ensure_future(self._sleep(self._tick_seconds))
        try:
            await asyncio.wait({work, tick}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tick.cancel()
            await asyncio.gather(tick, return_exceptions=True)
        return work.done()


async def _ending(work: asyncio.Task[Mapping[str, str]]) -> dict[str, str]:
    try:
        return {"status": "done", **await work}
    except AbortedError as error:
        return {"status": "aborted", "reason": str(error)}


def checksum_job(file: Path | None, kind: str, extra: Mapping[str, str], pause: Callable[[], float]) -> Job:
    """Reads the file. pause: seconds before each piece."""

    async def job() -> Mapping[str, str]:
        if file is None:
            raise AbortedError(_no_sum("the file is on no filesystem of this server"))
        try:
            return {"checksum": await _checksum(file, kind, pause), **extra}
        except (OSError, UnknownChecksumError) as error:
            raise AbortedError(_no_sum(str(error))) from error

    return job


def _no_sum(reason: str) -> str:
    return f"Could not find magic string, unable to extract checksum. ERROR: {reason}\n"


async def _checksum(file: Path, kind: str, pause: Callable[[], float]) -> str:
    """Cancelled, it waits for the end of the piece that is being read: the thread must not outlive it."""
    stop = threading.Event()
    reading = asyncio.ensure_future(asyncio.to_thread(checksum, file, kind, pause=pause, stop=stop))
    try:
        return await asyncio.shield(reading)
    finally:
        stop.set()
        await asyncio.gather(reading, return_exceptions=True)


def pull_job(hook: PullHook, lfn: str, file: Path, needed: int) -> Job:
    """Brings a file from elsewhere."""

    async def job() -> Mapping[str, str]:
        try:
            said = await hook(lfn, file, needed)
            size = (await asyncio.to_thread(file.stat)).st_size
        except Exception as error:
            raise AbortedError(f"File pull failed: {error or type(error).__name__}") from error
        return {"checksum": _hash_in(said), "filesize": str(size)}

    return job


def _hash_in(said: str) -> str:
    words = said.partition(_HASH_MARK)[2].split()
    return words[0] if words else ""
