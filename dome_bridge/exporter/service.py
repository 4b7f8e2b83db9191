"""The mirror as a service: first copy if needed, then follow, with heartbeats and background verify.

One process applies at a time: the applier lock says which. Connections that are lost are
made again, with growing pauses; what was under way is repeated from the state in the
databases. Four tasks belong to the service, and it ends only when all have ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import asyncpg

from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase
from dome_bridge.config import Config
from dome_bridge.dpm import source as dpm_source
from dome_bridge.errors import BridgeError, StateError
from dome_bridge.exporter import cutover
from dome_bridge.exporter.follow import Batch, Follower
from dome_bridge.exporter.journal import Journal
from dome_bridge.exporter.mirror import Applied, Mirror
from dome_bridge.exporter.session import Session, WatchedSource, open_session
from dome_bridge.exporter.small_tables import (
    ALL_SMALL_TABLES,
    copy_small_tables,
    forget_moved,
    moved_servers,
)
from dome_bridge.exporter.snapshot import ENTRIES, Snapshot, SnapshotReport
from dome_bridge.exporter.spaces import choose_model, settle_model
from dome_bridge.exporter.verify import Verifier, VerifyReport

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
LOCK_POLL_SECONDS = 2.0
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
OLD_HEARTBEAT_SECONDS = 120
SETTLE_SECONDS = 0.5
CAPTURE_SECONDS = 30.0
"""How often the follower makes sure that its triggers still stand."""
HEARTBEAT_TIMEOUT = 30.0
FENCE_SECONDS = 30.0
"""How often a fence is looked for that has outlived its command."""
STOP_SECONDS = 10.0
"""After a stop, for the batch under way; what is cut short then is repeated at the next start."""


class Observer(Protocol):
    """Told what happens, for metrics and the journal of the system. Must not raise."""

    def phase_changed(self, phase: Phase) -> None: ...

    def snapshot_advanced(self, entries: int, expected: int) -> None: ...

    def applied(self, applied: Applied) -> None: ...

    def batch_applied(self, batch: Batch) -> None: ...

    def apply_failed(self, reason: str) -> None: ...

    def verified(self, report: VerifyReport) -> None: ...


class Unobserved:
    """An observer that does not care."""

    def phase_changed(self, phase: Phase) -> None: ...

    def snapshot_advanced(self, entries: int, expected: int) -> None: ...

    def applied(self, applied: Applied) -> None: ...

    def batch_applied(self, batch: Batch) -> None: ...

    def apply_failed(self, reason: str) -> None: ...

    def verified(self, report: VerifyReport) -> None: ...


@dataclass
class Synced:
    """What `sync --once` did."""

    snapshot: SnapshotReport = field(default_factory=SnapshotReport)
    journal_applied: int = 0
    quarantined: int = 0
    phase: Phase = Phase.FOLLOWING
    agrees: bool = False


Advance = Callable[[str, int, int], None]


async def take_applier_lock(
    conn: asyncpg.Connection, *, stop: asyncio.Event | None = None, sleep: Callable[[float], Awaitable[None]]
) -> bool:
    """Waits for the lock while another process applies; False if stopped before."""
    waits = 0
    while not await target.try_applier_lock(conn):
        if stop is not None and stop.is_set():
            return False
        if waits % 15 == 0:
            logger.info("waiting: another dome-bridge process applies changes to this Chimera database")
        waits += 1
        await sleep(LOCK_POLL_SECONDS)
    return True


async def _hand_over_lock(session: Session, mirror: Mirror) -> None:
    """From the session to the connection that applies: with that connection the lock goes, too."""
    await target.release_applier_lock(session.conn)
    if not await target.try_applier_lock(mirror.conn):
        raise StateError("another dome-bridge process began to apply changes at this moment: try again")


async def copy_if_needed(
    session: Session, *, observer: Observer, advance: Advance = lambda step, entries, expected: None
) -> SnapshotReport:
    """The first copy, or the rest of it. The caller holds the applier lock."""
    progress = await state.progress(session.conn)
    if progress.snapshot_finished is not None:
        return SnapshotReport()
    observer.phase_changed(Phase.SNAPSHOT)
    if progress.snapshot_started is None:
        async with session.conn.transaction():
            await copy_small_tables(session.source, session.layout, session.conn, ALL_SMALL_TABLES)
            # Nothing is placed yet that would have to be placed anew.
            await forget_moved(session.conn, await moved_servers(session.conn))
            await choose_model(session)

    def advanced(step: str, entries: int, expected: int) -> None:
        if step == ENTRIES:
            observer.snapshot_advanced(entries, expected)
        advance(step, entries, expected)

    snapshot = Snapshot(
        session.source,
        session.conn,
        session.open_mirror,
        session.close_mirror,
        workers=session.config.exporter.snapshot_workers,
        range_entries=session.config.exporter.snapshot_range,
        confirm=partial(target.require_applier, server_pid=session.conn.get_server_pid()),
        advance=advanced,
        note=observer.applied,
    )
    report = await snapshot.run()
    logger.info(
        "snapshot finished entries=%d seconds=%.1f resumed=%s", report.entries, report.seconds, report.resumed
    )
    return report


async def sync_once(config: Config, *, advance: Advance) -> Synced:
    """Copies what is missing and drains the journal once."""
    async with open_session(config) as session:
        await session.require_capture()
        await refuse_ended(session.conn)
        if not await target.try_applier_lock(session.conn):
            raise StateError(
                "another dome-bridge process applies changes: stop the daemon for an offline sync, "
                "or look at its `dome-bridge status`"
            )
        synced = Synced()
        synced.snapshot = await copy_if_needed(session, observer=Unobserved(), advance=advance)
        async with session.mirror() as mirror:
            await _hand_over_lock(session, mirror)
            await settle_model(mirror, config)
            synced.journal_applied = await Follower(mirror, batch=config.exporter.batch).drain()
        synced.phase = (await state.progress(session.conn)).phase
        counts = await state.agreement(session.conn, session.site)
        synced.quarantined = counts.quarantined
        entries = await session.source.fetchval(
            f"SELECT COUNT(*) FROM {session.source.cns}.Cns_file_metadata"
        )
        waiting = await Journal(session.source).backlog()
        synced.agrees = waiting > 0 or entries == counts.mirrored + counts.quarantined
        return synced


async def refuse_ended(conn: asyncpg.Connection) -> None:
    phase = (await state.progress(conn)).phase
    if phase is Phase.COMMITTED:
        raise StateError(
            "the cutover is committed: Chimera belongs to dCache now, nothing is mirrored any more"
        )


class MirrorService:
    """Runs until `stop` is set, or until the cutover is committed: then it `is_over`.

    last_activity: monotonic time of the last batch, range or failed attempt, for watchdogs; a
    database that is away is no reason to restart us. last_error: empty when all is well.
    """

    def __init__(
        self,
        config: Config,
        *,
        stop: asyncio.Event,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._config = config
        self._stop = stop
        self._observer = observer
        self._clock = clock
        self._sleep = sleep
        self._following = asyncio.Event()
        self.last_activity = clock()
        self.last_error = ""
        self.is_over = False

    async def run(self) -> None:
        """Raises StateError when going on cannot help; everything else is tried again."""
        try:
            await self._run_tasks()
        except* StateError as failed:
            raise failed.exceptions[0] from None

    async def _run_tasks(self) -> None:
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(self._again("heartbeat", self._beat)),
                group.create_task(self._again("verify", self._verify)),
                group.create_task(self._again("fence", self._watch_fence)),
            ]
            try:
                await self._until_stopped(self._again("mirror", self._mirror), grace=STOP_SECONDS)
            finally:
                for task in helpers:
                    task.cancel()

    async def _again(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Repeats the work after failures, each logged as one line; what cannot pass is raised."""
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            begun = self._clock()
            try:
                await work()
                return
            except Exception as exc:
                if isinstance(exc, StateError):
                    raise
                self._failed(name, exc)
            pause = FIRST_PAUSE if self._clock() - begun > LONGEST_PAUSE else min(pause * 2, LONGEST_PAUSE)
            await self._pause(pause)

    def _failed(self, name: str, exc: Exception) -> None:
        expected = isinstance(exc, BridgeError) or dpm_source.is_lost(exc) or target.is_lost(exc)
        self.last_error = f"{name}: {type(exc).__name__}: {exc}"
        self.last_activity = self._clock()
        self._observer.apply_failed(_reason(exc))
        logger.error("task=%s failed error=%s: %s", name, type(exc).__name__, exc, exc_info=not expected)

    async def _pause(self, seconds: float) -> None:
        """Sleeps, but not beyond the stop."""
        sleeping = asyncio.ensure_future(self._sleep(seconds))
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((sleeping, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            stopping.cancel()

    async def _mirror(self) -> None:
        async with open_session(self._config) as session:
            if not await take_applier_lock(session.conn, stop=self._stop, sleep=self._pause):
                return
            phase = (await state.progress(session.conn)).phase
            self._observer.phase_changed(phase)
            if phase is Phase.COMMITTED:
                logger.info("the cutover is committed: nothing is mirrored any more")
                self.is_over = True
                return
            await session.require_capture()
            if await self._until_stopped(self._copy(session)):
                await self._follow(session)

    async def _copy(self, session: Session) -> None:
        def advanced(step: str, entries: int, expected: int) -> None:
            self.last_activity = self._clock()
            logger.info("snapshot step=%s entries=%d of=%d", step, entries, expected)

        await copy_if_needed(session, observer=self._observer, advance=advanced)
        await Journal(session.source).prune_heartbeats(OLD_HEARTBEAT_SECONDS)

    async def _until_stopped(self, work: Coroutine[Any, Any, None], *, grace: float = 0.0) -> bool:
        """True if the work was finished; `grace` seconds after a stop it is cut short, to be repeated."""
        task = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and grace:
                await asyncio.wait((task,), timeout=grace)
            if task.done():
                await task
                return True
            logger.info("stopped in the middle of the work: it is repeated at the next start")
            return False
        finally:
            stopping.cancel()
            task.cancel()
            await asyncio.wait((task,))

    async def _follow(self, session: Session) -> None:
        self._observer.phase_changed((await state.progress(session.conn)).phase)
        async with session.mirror() as mirror:
            mirror.told = self._be_active
            await target.release_applier_lock(session.conn)
            if not await take_applier_lock(mirror.conn, stop=self._stop, sleep=self._pause):
                return
            await settle_model(mirror, self._config)
            follower = Follower(mirror, batch=self._config.exporter.batch)
            self._following.set()
            looked = self._clock()
            try:
                while not self._stop.is_set() and await self._apply_batch(follower):
                    if self._clock() - looked >= CAPTURE_SECONDS:
                        looked = self._clock()
                        await session.require_capture()
            finally:
                self._following.clear()

    def _be_active(self) -> None:
        self.last_activity = self._clock()

    async def _apply_batch(self, follower: Follower) -> bool:
        batch = await follower.apply_batch()
        if batch.is_over:
            self._observer.phase_changed(Phase.COMMITTED)
            logger.info("the cutover was committed: the mirror ends")
            self.is_over = True
            return False
        self.last_activity = self._clock()
        self.last_error = ""
        self._observer.batch_applied(batch)
        if batch.rows < self._config.exporter.batch:
            await self._pause(POLL_SECONDS)
        return True

    async def _beat(self) -> None:
        """Heartbeats go through the journal like any change, from the first copy on."""
        source = await WatchedSource.open(self._config.dpm, statement_seconds=HEARTBEAT_TIMEOUT)
        try:
            journal = Journal(source)
            while not self._stop.is_set():
                await journal.write_heartbeat()
                await self._pause(self._config.exporter.heartbeat_seconds)
        finally:
            await source.close()

    async def _watch_fence(self) -> None:
        """A cutover that was killed must not keep DPM read-only until somebody looks."""
        while not self._stop.is_set():
            await self._following.wait()
            await self._pause(FENCE_SECONDS)
            if lifted := await cutover.lift_orphaned(self._config):
                logger.error(
                    "a cutover was left behind by its command: %s; DPM takes writes again", lifted.reason
                )

    async def _verify(self) -> None:
        while not self._stop.is_set():
            await self._following.wait()
            await self._verify_once()
            await self._pause(self._config.exporter.verify_interval_seconds)

    async def _verify_once(self) -> None:
        settings = self._config.exporter
        async with open_session(self._config) as session, session.mirror() as mirror:
            if (await state.progress(session.conn)).phase is not Phase.FOLLOWING:
                return
            verifier = Verifier(
                mirror,
                range_entries=min(settings.snapshot_range, settings.verify_entries_per_second),
                settle=lambda: self._pause(SETTLE_SECONDS),
                entries_per_second=settings.verify_entries_per_second,
                clock=self._clock,
                sleep=self._pause,
            )
            report = await verifier.run(kind="background", stop=self._stop, advance=self._observer.verified)
        if report.finished:
            logger.info(
                "verify finished compared=%d missing=%d extra=%d different=%d seconds=%.1f",
                report.compared,
                report.missing,
                report.extra,
                report.different,
                report.seconds,
            )


def _reason(exc: BaseException) -> str:
    if dpm_source.is_lost(exc):
        return "source-lost"
    if target.is_lost(exc):
        return "target-lost"
    return type(exc).__name__
