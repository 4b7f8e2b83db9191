"""Puts the parts of the daemon together: mirror, monitoring, systemd; start and stop in order.

Nothing here decides anything: the service mirrors, the listener answers, and a refresher
counts for both what is too slow to count at each scrape.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime

from dome_bridge import __version__
from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase
from dome_bridge.config import Config
from dome_bridge.dpm.source import Source
from dome_bridge.errors import BridgeError, ConfigError
from dome_bridge.exporter.follow import Batch
from dome_bridge.exporter.mirror import Applied
from dome_bridge.exporter.service import MirrorService
from dome_bridge.exporter.session import open_session
from dome_bridge.exporter.verify import VerifyReport, last_verify
from dome_bridge.metrics import Metrics
from dome_bridge.monitoring import MonitoringListener, Providers
from dome_bridge.notify import Notifier
from dome_bridge.status import EntryCache, Status, quarantined_by_reason, read_status

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 15.0
COUNT_EVERY = 40
"""Exact counts of all entries are taken every so many refreshes: ten minutes."""

STALLED_SECONDS = 600.0
"""No batch, range or attempt for so long means that the mirror hangs."""


class MetricsObserver:
    """Tells the metrics what the mirror does."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._compared = 0
        self.phase = Phase.UNINITIALISED

    def phase_changed(self, phase: Phase) -> None:
        self.phase = phase
        self._metrics.phase_changed(phase)

    def snapshot_advanced(self, entries: int, expected: int) -> None:
        self._metrics.snapshot_advanced(entries, expected)

    def applied(self, applied: Applied) -> None:
        self._metrics.applied(applied)

    def batch_applied(self, batch: Batch) -> None:
        if batch.changes:
            self._metrics.applied(batch.applied)
        if batch.heartbeat_at is not None and batch.source_now is not None:
            self._metrics.heartbeat_applied(batch.heartbeat_at, batch.source_now)

    def apply_failed(self, reason: str) -> None:
        self._metrics.apply_failed(reason)

    def verified(self, report: VerifyReport) -> None:
        """Called after each range; the gauges move when a pass is finished."""
        self._metrics.compared(max(0, report.compared - max(self._compared, report.resumed_at)))
        self._compared = 0 if report.finished else report.compared


class Daemon:
    """`dome-bridge run`."""

    def __init__(
        self,
        config: Config,
        *,
        stop: asyncio.Event,
        notifier: Notifier,
        monitoring_port: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._stop = stop
        self._notifier = notifier
        self._clock = clock
        self.metrics = Metrics()
        self._observer = MetricsObserver(self.metrics)
        self._entries = EntryCache()
        self._service = MirrorService(config, stop=stop, observer=self._observer)
        self.listener = MonitoringListener(
            config.monitoring,
            Providers(self._exposition, self._status_json, self._health),
            port=monitoring_port,
        )

    async def run(self) -> None:
        """Until stop; raises what cannot pass by itself, before anything is served if possible.

        After a commit only the monitoring goes on, so that the last figures can be scraped.
        """
        await self._begin()
        async with AsyncExitStack() as stack:
            await self.listener.start()
            stack.push_async_callback(self.listener.stop)
            self._notifier.ready(f"dome-bridge {__version__}")
            stack.callback(self._notifier.stopping)
            async with asyncio.TaskGroup() as group:
                helpers = [
                    group.create_task(self._refresh()),
                    group.create_task(self._notifier.feed_watchdog(self._is_alive)),
                ]
                try:
                    await self._service.run()
                    await self._stop.wait()
                finally:
                    for task in helpers:
                        task.cancel()

    async def _begin(self) -> None:
        """Errors of configuration and surroundings end the start; later ones are tried again."""
        async with open_session(self._config) as session:
            await session.require_capture()
            progress = await state.progress(session.conn)
            self._observer.phase_changed(progress.phase)
            if progress.heartbeat_at is not None:
                now = float(await session.source.fetchval("SELECT UNIX_TIMESTAMP()"))
                self.metrics.heartbeat_applied(progress.heartbeat_at, now)

    def _is_alive(self) -> bool:
        return self._service.is_over or self._clock() - self._service.last_activity < STALLED_SECONDS

    async def _refresh(self) -> None:
        rounds = 0
        while True:
            try:
                await self._refresh_once(count=rounds % COUNT_EVERY == 0)
                rounds += 1
            except Exception as exc:  # noqa: BLE001 - the boundary of a task: what it counts grows old, and it goes on
                logger.warning("counting for the metrics failed error=%s: %s", type(exc).__name__, exc)
            await asyncio.sleep(REFRESH_SECONDS)

    async def _refresh_once(self, *, count: bool) -> None:
        async with AsyncExitStack() as stack:
            source = await Source.connect(self._config.dpm)
            stack.push_async_callback(source.close)
            conn = await target.connect(self._config.chimera)
            stack.push_async_callback(target.close, conn)
            if count:
                await self._entries.refresh(source, conn)
            entries = await self._entries.current(source, conn)
            self._show(await read_status(source, conn, entries=entries))
            self.metrics.quarantine_counted(await quarantined_by_reason(conn))
            verified = await last_verify(conn)
            if verified is not None:
                self.metrics.verified(verified.by_kind, last_clean=verified.last_clean)

    def _show(self, status: Status) -> None:
        self._observer.phase_changed(status.phase)
        if status.journal_backlog is not None:
            self.metrics.backlog_counted(status.journal_backlog)
        self._notifier.status(f"{status.phase}, lag {_seconds(status.lag_seconds)}")
        if status.cutover is not None:
            self.metrics.cutover_begun()
            for step in status.cutover.steps:
                self.metrics.cutover_step(step.name, step.seconds)

    async def _exposition(self) -> bytes:
        return self.metrics.exposition()

    async def _status_json(self) -> Mapping[str, object]:
        async with AsyncExitStack() as stack:
            conn = await target.connect(self._config.chimera, timeout=5.0)
            stack.push_async_callback(target.close, conn)
            source = await self._source_if_reachable(stack)
            entries = await self._entries.current(source, conn)
            return (await read_status(source, conn, entries=entries)).as_json()

    async def _source_if_reachable(self, stack: AsyncExitStack) -> Source | None:
        try:
            source = await Source.connect(self._config.dpm, timeout=3.0)
        except BridgeError:
            return None
        stack.push_async_callback(source.close)
        return source

    async def _health(self) -> str | None:
        if not self._is_alive():
            return f"the mirror has made no progress for {self._clock() - self._service.last_activity:.0f} s"
        if self._service.last_error:
            return self._service.last_error
        lag, limit = self.metrics.lag_seconds(), 10 * self._config.exporter.max_lag_seconds
        if self._observer.phase in (Phase.FOLLOWING, Phase.FENCED) and lag > limit:
            return f"the mirror lags {lag:.0f} s behind, more than {limit:.0f} s"
        return None


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} s"


async def run_daemon(config: Config, environ: Mapping[str, str] = os.environ) -> None:
    """With SIGTERM and SIGINT bound to a clean end."""
    if not config.exporter.enabled:
        raise ConfigError("nothing to run: [exporter] enabled is false, and this version has nothing else")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await Daemon(config, stop=stop, notifier=Notifier.from_environ(environ)).run()
    except* BridgeError as group:
        raise group.exceptions[0] from None
    logger.info("ended at %s", datetime.now(UTC).isoformat(timespec="seconds"))
