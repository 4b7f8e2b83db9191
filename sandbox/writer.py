"""A random writer for a DPM catalog: many connections, long transactions, rollbacks, races.

What it does is in `sandbox.operations` and `sandbox.vandalism`, how often in the tables
TAME and WILD. It outlives the server: a lost connection is opened again until it is told to stop.
The same seed draws the same operations; their order between connections is the server's.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pymysql

from sandbox import operations as op
from sandbox import vandalism
from sandbox.dpm_statements import Ledger, NothingToDo, RolledBack, Session, Sleep
from sandbox.operations import Operation

Connect = Callable[[], AbstractAsyncContextManager[Any]]

RECONNECT_SECONDS = 0.2
ATTEMPTS = 4
DEADLOCK, LOCK_WAIT_TIMEOUT = 1213, 1205
SERVER_IS_GOING = (1053, 1077, 1079, 1152, 1317, 1927)
FIRST_CLIENT_ERROR = 2000

TAME: dict[Operation, float] = {
    op.upload: 12,
    op.abandon_upload: 2,
    op.finish_abandoned_upload: 3,
    op.make_directory: 5,
    op.make_tree: 2,
    op.make_symlink: 2,
    op.change_symlink_target: 1,
    op.replicate: 2,
    op.drain_replica: 2,
    op.relocate_replica: 2,
    op.touch_replica: 2,
    op.change_replica_status: 1,
    op.change_replica_type: 1,
    op.count_access: 3,
    op.drop_replica: 3,
    op.unlink_file: 5,
    op.unlink_symlink: 1,
    op.rmdir: 3,
    op.purge_directory: 1,
    op.remove_tree: 1,
    op.replace_file: 3,
    op.replace_file_at_once: 2,
    op.rename: 4,
    op.move_file: 4,
    op.move_directory: 4,
    op.move_over_file: 3,
    op.move_over_directory: 1,
    op.swap_names: 4,
    op.rotate_names: 2,
    op.chmod: 2,
    op.chown: 2,
    op.set_acl: 3,
    op.clear_acl: 1,
    op.chown_children: 1,
    op.utime: 2,
    op.touch_access_time: 3,
    op.change_checksum: 3,
    op.change_legacy_checksum: 2,
    op.change_xattr: 2,
    op.truncate: 2,
    op.change_directory_size: 4,
    op.recompute_directory_sizes: 1,
    op.correct_link_count: 1,
    op.set_guid: 1,
    op.set_comment: 1,
    op.migrate_file: 1,
    op.new_user: 0.5,
    op.new_group: 0.5,
    op.change_person: 0.5,
    op.set_token: 1,
    op.change_token: 1,
    op.add_pool: 0.5,
    op.add_filesystem: 0.5,
    op.change_filesystem: 0.5,
    op.enable_filesystems: 0.5,
    op.delete_filesystem: 0.5,
    op.delete_pool: 0.3,
    op.long_transaction: 4,
}

WILD: dict[Operation, float] = TAME | {
    vandalism.break_name: 2,
    vandalism.break_acl: 1,
    vandalism.break_xattr: 1,
    vandalism.break_number: 2,
    vandalism.break_checksum: 1,
    vandalism.break_symlink: 1,
    vandalism.add_stray_symlink_row: 0.5,
    vandalism.break_replica: 2,
    vandalism.share_sfn: 1,
    vandalism.reassign_replica: 1,
    vandalism.repair_entry: 8,
    vandalism.orphan_children: 1,
    vandalism.adopt_orphan: 1,
    vandalism.restore_directory: 1,
    vandalism.make_cycle: 1,
    vandalism.repair_cycle: 1,
    vandalism.delete_file_row_alone: 0.5,
    vandalism.delete_replicas_of_server: 0.5,
    vandalism.delete_used_filesystem: 0.4,
    vandalism.restore_filesystem: 0.6,
    vandalism.mend_checksum: 1,
}


@dataclass
class WriterReport:
    """What was done, by the name of the operation; `refused` by MariaDB's error number."""

    done: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    rolled_back: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    deadlocks: int = 0
    given_up: int = 0
    reconnects: int = 0

    @property
    def attempted(self) -> int:
        counters = (self.done, self.skipped, self.rolled_back, self.refused)
        return sum(counter.total() for counter in counters) + self.given_up


class ConnectionLost(Exception):
    """The server has gone, or ended our connection."""


class DeadlockVictim(Exception):
    """The server gave up our transaction for the sake of another one."""


class CatalogWriter:
    """Changes a catalog at random, over several connections at once.

    `connect` returns a context manager with a new aiomysql connection, of an account that may write both
    databases: `lambda: maria.connect(as_dpmmgr=True)`. `linger` is the longest pause in seconds inside
    operations and open transactions, `rollbacks` the share of transactions that are rolled back,
    `interval` the pause in seconds of a connection between operations.
    """

    def __init__(
        self,
        connect: Connect,
        rng: random.Random,
        *,
        cns: str = "cns_db",
        dpm: str = "dpm_db",
        weights: Mapping[Operation, float] = TAME,
        connections: int = 4,
        linger: float = 0.3,
        rollbacks: float = 0.05,
        interval: float = 0.0,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.report = WriterReport()
        self._connect = connect
        self._rng = rng
        self._cns, self._dpm = cns, dpm
        self._operations, self._weights = list(weights), list(weights.values())
        self._connections = connections
        self._linger, self._rollbacks, self._interval = linger, rollbacks, interval
        self._sleep, self._clock = sleep, clock
        self._ledger = Ledger()
        self._furnishing = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._session: Session | None = None

    async def run(
        self, *, seconds: float | None = None, operations: int | None = None, stop: asyncio.Event
    ) -> WriterReport:
        """Write until the time is over, the number of operations is tried, or `stop` is set."""
        deadline = None if seconds is None else self._clock() + seconds
        limit = None if operations is None else self.report.attempted + operations

        def is_over() -> bool:
            late = deadline is not None and self._clock() >= deadline
            return stop.is_set() or late or (limit is not None and self.report.attempted >= limit)

        seeds = [self._rng.getrandbits(64) for _ in range(self._connections)]
        async with asyncio.TaskGroup() as workers:
            for seed in seeds:
                workers.create_task(self._work(random.Random(seed), is_over))
        return self.report

    async def step(self) -> str:
        """Try one operation over a connection that close() ends; returns the operation's name."""
        while True:
            try:
                if self._session is None:
                    self._session = await self._stack.enter_async_context(self._open(self._rng))
                return await self._attempt(self._session)
            except ConnectionLost:
                await self.close()
                self.report.reconnects += 1
                await self._sleep(RECONNECT_SECONDS)

    async def close(self) -> None:
        self._session = None
        await self._stack.aclose()

    async def _work(self, rng: random.Random, is_over: Callable[[], bool]) -> None:
        while not is_over():
            try:
                async with self._open(rng) as session:
                    while not is_over():
                        await self._attempt(session)
                        await self._sleep(self._interval)
            except ConnectionLost:
                self.report.reconnects += 1
                await self._sleep(RECONNECT_SECONDS)

    @asynccontextmanager
    async def _open(self, rng: random.Random) -> AsyncIterator[Session]:
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(self._connect())
                session = Session(
                    connection, self._cns, self._dpm, rng, ledger=self._ledger, sleep=self._sleep
                )
                await session.prepare()
                async with self._furnishing:
                    await op.furnish(session)
            except (pymysql.err.MySQLError, OSError) as error:
                if is_loss(error):
                    raise ConnectionLost(str(error)) from error
                raise
            session.linger, session.rollbacks = self._linger, self._rollbacks
            yield session

    async def _attempt(self, session: Session) -> str:
        operation = session.rng.choices(self._operations, self._weights)[0]
        name = operation.__name__
        for _ in range(ATTEMPTS):
            try:
                await self._try(session, operation)
            except DeadlockVictim:
                self.report.deadlocks += 1
                if session.rng.random() < 0.3:
                    break
            else:
                return name
        self.report.given_up += 1
        return name

    async def _try(self, session: Session, operation: Operation) -> None:
        name = operation.__name__
        try:
            await operation(session)
        except NothingToDo:
            self.report.skipped[name] += 1
        except RolledBack:
            self.report.rolled_back[name] += 1
        except (pymysql.err.MySQLError, OSError) as error:
            if is_loss(error):
                raise ConnectionLost(str(error)) from error
            if error.args[0] in (DEADLOCK, LOCK_WAIT_TIMEOUT):
                raise DeadlockVictim from error
            self.report.refused[error.args[0]] += 1
        else:
            self.report.done[name] += 1


def is_loss(error: Exception) -> bool:
    """Whether the connection is gone, rather than one statement refused."""
    code = error.args[0] if error.args else 0
    if isinstance(error, OSError) or not isinstance(code, int):
        return True
    return code == 0 or code >= FIRST_CLIENT_ERROR or code in SERVER_IS_GOING
