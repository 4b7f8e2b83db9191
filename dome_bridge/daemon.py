"""Puts the parts of the daemons together: mirror or API, monitoring, systemd; start and stop in order.

Nothing here decides anything: the services mirror and serve, the listener answers, and a refresher
counts for both what is too slow to count at each scrape. With both parts there is a process for
each, below a supervisor.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from dome_bridge import __version__
from dome_bridge.api_report import Report, read_report, served_report
from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase
from dome_bridge.config import Config
from dome_bridge.dome_api.service import ApiService
from dome_bridge.dpm.source import Source
from dome_bridge.errors import BridgeError, ConfigError
from dome_bridge.exporter.fence_forecast import predicted_fence_seconds
from dome_bridge.exporter.follow import Batch
from dome_bridge.exporter.gate_findings import read_gates
from dome_bridge.exporter.gates import Gate
from dome_bridge.exporter.links import LinkFeed
from dome_bridge.exporter.mirror import Applied
from dome_bridge.exporter.service import MirrorService
from dome_bridge.exporter.session import open_session
from dome_bridge.exporter.verify import VerifyReport, last_verify
from dome_bridge.metrics import ApiMetrics, Metrics
from dome_bridge.monitoring import MonitoringListener, Providers
from dome_bridge.notify import Notifier
from dome_bridge.status import EntryCache, Status, quarantined_by_reason, read_status
from dome_bridge.supervisor import API_REPORT, LIFELINE, Command, Part, Supervisor, hold_lifeline, last_words

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 15.0
COUNT_EVERY = 40
"""Exact counts of all entries are taken every so many refreshes: ten minutes."""

STALLED_SECONDS = 600.0
"""No batch, range or attempt for so long means that the mirror hangs."""

PROBE_SECONDS = 5.0
"""How often the API's process looks whether the catalog's database answers, and how long it waits for it."""


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
    """`dome-bridge run --only exporter`.

    api_report: where the API's process reports, if there is one whose monitoring is ours.
    """

    def __init__(
        self,
        config: Config,
        *,
        stop: asyncio.Event,
        notifier: Notifier,
        monitoring_port: int | None = None,
        api_report: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._stop = stop
        self._notifier = notifier
        self._api_report = api_report
        self._clock = clock
        self.metrics = Metrics()
        self._observer = MetricsObserver(self.metrics)
        self._entries = EntryCache()
        self._gates: tuple[Gate, ...] | None = None
        self._service = MirrorService(config, stop=stop, observer=self._observer)
        self.listener = MonitoringListener(
            config.monitoring,
            Providers(self._exposition, self._status, self._health),
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

    def reload(self) -> None:
        """Nothing of the mirror is read again while it runs."""
        logger.info("asked to read files again: the mirror takes its settings at the start only")

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
            self.metrics.fence_predicted(await predicted_fence_seconds(conn))
            verified = await last_verify(conn)
            if verified is not None:
                self.metrics.verified(verified.by_kind, last_clean=verified.last_clean)
        self._gates = await read_gates(self._config)

    def _show(self, status: Status) -> None:
        self._observer.phase_changed(status.phase)
        if status.journal_backlog is not None:
            self.metrics.backlog_counted(status.journal_backlog)
        self._notifier.status(f"{status.phase}, lag {_seconds(status.lag_seconds)}")
        if status.cutover is not None:
            self.metrics.cutover_begun()
            for step in status.cutover.steps:
                self.metrics.cutover_step(step.name, step.seconds)

    async def _status(self) -> Mapping[str, object]:
        """Gates as they were at the last refresh."""
        return await _status_json(self._config, self._entries, self._gates)

    async def _exposition(self) -> bytes:
        report = await self._report_of_api()
        return self.metrics.exposition() + (report.exposition if report else b"")

    async def _health(self) -> str | None:
        report = await self._report_of_api()
        reasons = [self._sickness(), report.sickness if report else None]
        return "; ".join(filter(None, reasons)) or None

    async def _report_of_api(self) -> Report | None:
        return await read_report(self._api_report) if self._api_report else None

    def _sickness(self) -> str | None:
        if not self._is_alive():
            return f"the mirror has made no progress for {self._clock() - self._service.last_activity:.0f} s"
        if self._service.last_error:
            return self._service.last_error
        lag, limit = self.metrics.lag_seconds(), 10 * self._config.exporter.max_lag_seconds
        if self._observer.phase in (Phase.FOLLOWING, Phase.FENCED) and lag > limit:
            return f"the mirror lags {lag:.0f} s behind, more than {limit:.0f} s"
        return None


class ApiDaemon:
    """`dome-bridge run --only api`.

    report: where the mirror's process, which has the monitoring, reads how we are; None: it is ours.
    """

    def __init__(
        self,
        config: Config,
        *,
        stop: asyncio.Event,
        notifier: Notifier,
        report: Path | None = None,
        monitoring_port: int | None = None,
    ) -> None:
        self._config = config
        self._stop = stop
        self._notifier = notifier
        self._report = report
        self._sickness: str | None = None
        self.metrics = ApiMetrics(is_alone=report is None)
        self.service = ApiService(config, self.metrics, links=LinkFeed(config))
        self.listener = MonitoringListener(
            config.monitoring,
            Providers(self._exposition, partial(_status_json, config, EntryCache()), self._health),
            port=monitoring_port,
        )

    async def run(self) -> None:
        """Until stop; requests that run then are finished. Raises what is wrong at the start."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.service)
            await self._open_monitoring(stack)
            self._notifier.ready(f"dome-bridge {__version__}")
            stack.callback(self._notifier.stopping)
            async with asyncio.TaskGroup() as group:
                helpers = [
                    group.create_task(self._probe()),
                    group.create_task(self._notifier.feed_watchdog(lambda: True)),
                ]
                await self._stop.wait()
                for task in helpers:
                    task.cancel()

    def reload(self) -> None:
        """Has certificates, bans, issuers and the like looked at now."""
        self.service.reload()

    async def _open_monitoring(self, stack: AsyncExitStack) -> None:
        if self._report is not None:
            await stack.enter_async_context(served_report(self._report, self._compose))
        else:
            await self.listener.start()
            stack.push_async_callback(self.listener.stop)

    async def _probe(self) -> None:
        while True:
            try:
                await (await Source.connect(self._config.dpm, timeout=PROBE_SECONDS)).close()
                self._sickness = None
            except BridgeError as exc:
                self._sickness = f"api: {exc}"
            except Exception as exc:  # noqa: BLE001 - the boundary of a task: clients are served whatever it finds
                logger.warning("looking at the database failed error=%s: %s", type(exc).__name__, exc)
            self._notifier.status(self._sickness or "serving")
            await asyncio.sleep(PROBE_SECONDS)

    def _compose(self) -> Report:
        return Report(self._sickness, self.metrics.exposition())

    async def _exposition(self) -> bytes:
        return self.metrics.exposition()

    async def _health(self) -> str | None:
        return self._sickness


async def _status_json(
    config: Config, entries: EntryCache, gates: tuple[Gate, ...] | None = None
) -> Mapping[str, object]:
    async with AsyncExitStack() as stack:
        conn = await target.connect(config.chimera, timeout=5.0)
        stack.push_async_callback(target.close, conn)
        source = await _source_if_reachable(config, stack)
        status = await read_status(source, conn, entries=await entries.current(source, conn))
        return replace(status, gates=gates).as_json()


async def _source_if_reachable(config: Config, stack: AsyncExitStack) -> Source | None:
    try:
        source = await Source.connect(config.dpm, timeout=3.0)
    except BridgeError:
        return None
    stack.push_async_callback(source.close)
    return source


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} s"


class _Runnable(Protocol):
    async def run(self) -> None: ...

    def reload(self) -> None: ...


async def run_daemon(
    config: Config, only: Part | None, command: Command, environ: Mapping[str, str] = os.environ
) -> int:
    """With SIGTERM and SIGINT bound to a clean end, SIGHUP to reading files again; the exit code.

    only: the part to run, None for those that are enabled. command: what runs a part in a process
    of its own. Below a supervisor an error is told to it, which says it once for all.
    """
    stop, notifier = asyncio.Event(), Notifier.from_environ(environ)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    hold_lifeline(environ)
    error: BaseException | None = None
    try:
        chosen = _chosen(config, _parts(config, only), command, stop, notifier, environ)
        loop.add_signal_handler(signal.SIGHUP, chosen.reload)
        await chosen.run()
    except* BridgeError as group:
        error = group.exceptions[0]
    if isinstance(error, BridgeError):
        notifier.status(last_words(error))
        if LIFELINE not in environ:
            raise error
        return error.exit_code
    logger.info("ended at %s", datetime.now(UTC).isoformat(timespec="seconds"))
    return 0


def _parts(config: Config, only: Part | None) -> list[Part]:
    """Raises ConfigError if there is none."""
    enabled = {Part.EXPORTER: config.exporter.enabled, Part.API: config.api.enabled}
    parts = [part for part in Part if enabled[part] and only in (None, part)]
    if not parts:
        missing = f"[{only}] enabled is" if only else "[exporter] enabled and [api] enabled are both"
        raise ConfigError(f"nothing to run: {missing} false; set what is to run to true")
    return parts


def _chosen(
    config: Config,
    parts: list[Part],
    command: Command,
    stop: asyncio.Event,
    notifier: Notifier,
    environ: Mapping[str, str],
) -> _Runnable:
    if len(parts) > 1:
        return Supervisor(command, stop=stop, notifier=notifier, environ=environ)
    path = environ.get(API_REPORT)
    report = Path(path) if path else None
    if parts == [Part.API]:
        return ApiDaemon(config, stop=stop, notifier=notifier, report=report)
    return Daemon(config, stop=stop, notifier=notifier, api_report=report)
