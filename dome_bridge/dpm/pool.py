"""A few connections to DPM's databases, shared by many requests.

Every piece of work has a connection to itself, so its statements never queue behind another's.
Work may be repeated: a read after a lost connection, a transaction also after a deadlock. It
must therefore change nothing but the database.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from pymysql.constants import ER

from dome_bridge.config import DpmConfig
from dome_bridge.dpm.source import ConnectionLostError, Source, StatementError, is_lost

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[Source], Awaitable[T]]
Sleep = Callable[[float], Awaitable[None]]

ATTEMPTS = 12
"""Of a transaction that keeps losing deadlocks; with the pauses below less than a second in all."""

LOCK_WAIT_SECONDS = 10

READERS_SHARE = 4
"""One connection of so many is never for transactions: those may wait for locks while others only read."""

_DEFEATED = frozenset({ER.LOCK_DEADLOCK, ER.CHECKREAD})
PAUSE_SECONDS = 0.01


class ConnectionPool:
    """At most `size` connections, made when they are needed and kept until `close`."""

    def __init__(self, dpm: DpmConfig, size: int, *, sleep: Sleep = asyncio.sleep) -> None:
        self._dpm = dpm
        self._free = asyncio.Semaphore(size)
        self._writing = asyncio.Semaphore(max(1, size - size // READERS_SHARE))
        self._idle: list[Source] = []
        self._sleep = sleep
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Source]:
        """One that nobody else uses; waits for it as long as it takes."""
        async with self._free:
            source = self._take_idle() or await self._connect()
            try:
                yield source
            finally:
                await self._give_back(source)

    async def read(self, work: Work[T]) -> T:
        """What `work` returns; after a lost connection it is done once more on a new one."""
        try:
            async with self.connection() as source:
                return await work(source)
        except ConnectionLostError as exc:
            logger.info("reading again after a lost connection error=%s", exc)
        self._forget_idle()
        async with self.connection() as source:
            return await work(source)

    async def transact(self, work: Work[T]) -> T:
        """What `work` returns, committed; rolled back if it raises.

        Transactions never take all connections, so that reading goes on while they wait. One that
        lost a deadlock, or its connection before the commit was sent, is done again from its
        beginning. ConnectionLostError from the commit itself means that nobody knows whether it took
        place.
        """
        for attempt in range(1, ATTEMPTS):
            try:
                return await self._transact_once(work)
            except _RolledBackError as exc:
                if exc.lost and attempt > 1:
                    raise exc.cause from exc.cause.__cause__
                logger.debug("transaction again attempt=%d error=%s", attempt, exc.cause)
            await self._sleep(PAUSE_SECONDS * attempt * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        try:
            return await self._transact_once(work)
        except _RolledBackError as exc:
            raise exc.cause from exc.cause.__cause__

    async def _transact_once(self, work: Work[T]) -> T:
        async with self._writing, self.connection() as source:
            try:
                await source.execute("START TRANSACTION")
                result = await work(source)
            except Exception as exc:
                await source.roll_back()
                if is_lost(exc):
                    self._forget_idle()
                if is_lost(exc) or (isinstance(exc, StatementError) and exc.number in _DEFEATED):
                    raise _RolledBackError(exc) from exc
                raise
            except BaseException:
                await source.roll_back()
                raise
            await source.execute("COMMIT")
        return result

    async def close(self) -> None:
        """Idle connections now, those in use when they are given back."""
        self._closed = True
        idle, self._idle = self._idle, []
        for source in idle:
            await source.close()

    def _take_idle(self) -> Source | None:
        while self._idle:
            source = self._idle.pop()
            if not source.is_closed:
                return source
        return None

    async def _connect(self) -> Source:
        source = await Source.connect(self._dpm)
        try:
            await source.execute(f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}")
        except BaseException:
            await source.close()
            raise
        return source

    async def _give_back(self, source: Source) -> None:
        if self._closed:
            await source.close()
        elif not source.is_closed:
            self._idle.append(source)

    def _forget_idle(self) -> None:
        """What was idle while the server went away is lost as well, most likely."""
        for source in self._idle:
            source.abandon()
        self._idle.clear()


class _RolledBackError(Exception):
    """The transaction is rolled back for certain, and another attempt may do better."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.lost = is_lost(cause)
