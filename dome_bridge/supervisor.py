"""One parent for the two processes of the bridge: starts them, keeps them running, ends them in order.

A first copy at full speed must not be felt by a client of the API, nor a burst of clients by the
mirror; so each has a process of its own, and the end of one is no end of the other. A child talks
to its parent as a service does to systemd: readiness, pings and a line of status, each child on a
socket of its own. All children hold a pipe that ends with the parent, however it ends.

A database that only one part needs may be away for hours, at the start as well: the other part
serves meanwhile. Only a wrong setting, which no waiting will mend, ends the start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path

from dome_bridge import __version__
from dome_bridge.errors import BridgeError, ConfigError
from dome_bridge.notify import Notifier

logger = logging.getLogger(__name__)

LIFELINE = "DOME_BRIDGE_LIFELINE"
"""Variable with the descriptor of the pipe that ends with the parent."""

API_REPORT = "DOME_BRIDGE_API_REPORT"
"""Variable with the path of the socket on which the API's process reports to the mirror's."""

FAILED = "failed: "
"""What the status of a child begins with when it ends by a wrong setting."""

HINDERED = "hindered: "
"""The same when it ends by what may be otherwise at the next attempt: a database is away, say."""

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
WELL_SECONDS = 60.0
"""After so long without trouble the next end is treated as the first."""

START_SECONDS = 120.0
"""What a child gets to become ready, as in the unit."""

HOPE_SECONDS = 100.0
"""What they all get until one is ready; systemd would end us a little later, without a word."""

HESITATION_SECONDS = 60.0
"""How long systemd is not told that one is ready because of another of which nothing is known yet."""

SILENCE_SECONDS = 150.0
"""A child that has not pinged for so long hangs; less if systemd is less patient with us."""

LONGEST_DIRECTORY = 90
"""Bytes; the address of a Unix socket has 107, its own name included."""

WATCH_SECONDS = 0.5
ORPHAN_SECONDS = 30.0


class Part(StrEnum):
    """What runs in a process of its own."""

    EXPORTER = "exporter"
    API = "api"


# Clients first: what they still write is mirrored. The API finishes requests for 20 s, the mirror its batch
# for 10 s; all of it is less than TimeoutStopSec of the unit.
END_SECONDS: Mapping[Part, float] = {Part.API: 25.0, Part.EXPORTER: 20.0}

Command = Callable[[Part], Sequence[str]]


class PartError(BridgeError):
    """A part cannot be started: configuration or surroundings are wrong, and it says how."""

    exit_code = ConfigError.exit_code


def last_words(error: BridgeError) -> str:
    """The status of a part that ends by an error of its own."""
    return f"{FAILED if isinstance(error, ConfigError) else HINDERED}{error}"


class _Channel:
    """The socket on which a child tells how it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        try:
            self._socket.bind(str(path))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def lines(self) -> Iterator[str]:
        """What was told since the last time."""
        with suppress(BlockingIOError):
            while True:
                yield from self._socket.recv(65536).decode(errors="replace").splitlines()

    def close(self) -> None:
        self._socket.close()


class Child:
    """A part in a process of its own, started again whenever it ends by itself.

    environ: of the process. silence_seconds: how often it must be heard of. changed: is called
    when `is_ready` or `status` may be different. is_start: whether a wrong setting ends everything.
    """

    def __init__(
        self,
        part: Part,
        command: Sequence[str],
        environ: Mapping[str, str],
        channel: _Channel,
        *,
        lifeline: int,
        silence_seconds: float,
        changed: Callable[[], None],
        is_start: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.part = part
        self.status = "starting"
        self.trouble = ""
        self._command = command
        self._environ = environ
        self._channel = channel
        self._lifeline = lifeline
        self._silence_seconds = silence_seconds
        self._changed = changed
        self._is_start = is_start
        self._clock = clock
        self._sleep = sleep
        self._ending = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._heard_at = clock()
        self._ready_at: float | None = None
        self._was_ready = False
        self._pause = 0.0
        self._is_killed = False

    @property
    def is_ready(self) -> bool:
        return self._ready_at is not None

    @property
    def is_stuck(self) -> bool:
        """It hangs, and killing it has not helped."""
        return self._overdue() > self._silence_seconds / 2

    @property
    def has_ended(self) -> bool:
        """At least once, by itself."""
        return bool(self.trouble)

    async def keep(self) -> None:
        """Until `end`. Raises PartError for a wrong setting at the start."""
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._listen)
        try:
            while not self._ending.is_set():
                code = await self._live()
                if not self._ending.is_set():
                    await self._recover(code)
        finally:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())

    async def _live(self) -> int:
        """One life, from start to end; its exit code."""
        self._heard_at, self._ready_at, self._is_killed = self._clock(), None, False
        self._tell(f"starting again, after: {self.trouble}" if self.trouble else "starting")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environ,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(self._lifeline,),
                # Ctrl-C is for the parent, which ends its children in order.
                start_new_session=True,
            )
        except OSError as exc:
            self.status = f"{HINDERED}it cannot be started: {exc.strerror or exc}"
            return 1
        logger.info("part started part=%s pid=%d", self.part, self._process.pid)
        if self._ending.is_set():
            self._signal(signal.SIGTERM)
        code = await self._process.wait()
        self._process = None
        self._listen()
        return code

    async def _recover(self, code: int) -> None:
        reason = _reason(code, self.status)
        if self.status.startswith(FAILED) and not self._was_ready and self._is_start():
            raise PartError(reason)
        pause = self._next_pause()
        self.trouble, self._ready_at = reason, None
        self._tell(f"starts again in {pause:g} s: {reason}")
        logger.error("part ended, it is started again part=%s in=%gs reason=%s", self.part, pause, reason)
        await self._rest(pause)

    def _next_pause(self) -> float:
        """Grows from one end to the next, unless it was well in between."""
        was_well = self._ready_at is not None and self._clock() - self._ready_at >= WELL_SECONDS
        is_first = was_well or not self._pause
        self._pause = FIRST_PAUSE if is_first else min(2 * self._pause, LONGEST_PAUSE)
        return self._pause

    async def _rest(self, seconds: float) -> None:
        """Sleeps, but not beyond `end`."""
        tasks = asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def end(self, keeping: asyncio.Task[None], seconds: float) -> None:
        """Ends the process and the task that keeps it, after `seconds` with SIGKILL."""
        self._ending.set()
        self._signal(signal.SIGTERM)
        await asyncio.wait((keeping,), timeout=seconds)
        if not keeping.done():
            logger.error("part does not end: killing it part=%s seconds=%g", self.part, seconds)
            self._signal(signal.SIGKILL)
            await asyncio.wait((keeping,))
        logger.info("part has ended part=%s", self.part)

    def reload(self) -> None:
        """Tells it that files have changed. One that is starting reads them anyway, and would die of it."""
        if self.is_ready and not self._ending.is_set():
            self._signal(signal.SIGHUP)

    def kill_if_silent(self) -> None:
        """A process that hangs ends here, and is started again."""
        if self._overdue() > 0 and not self._is_killed:
            silent = self._clock() - self._heard_at
            logger.error("part is silent: killing it part=%s seconds=%.0f", self.part, silent)
            self._is_killed = True
            self._signal(signal.SIGKILL)

    def _overdue(self) -> float:
        """Seconds since it should have been heard of; 0 when all is well, and while it is ended."""
        if self._process is None or self._ending.is_set():
            return 0.0
        allowed = self._silence_seconds if self.is_ready else START_SECONDS
        return max(0.0, self._clock() - self._heard_at - allowed)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _listen(self) -> None:
        for line in self._channel.lines():
            self._heard_at = self._clock()
            key, _, value = line.partition("=")
            if (key, value) == ("READY", "1"):
                self._ready_at, self._was_ready = self._clock(), True
            elif key == "STATUS":
                self.status = value
        self._changed()

    def _tell(self, status: str) -> None:
        self.status = status
        self._changed()


def _reason(code: int, status: str) -> str:
    """Why a process has ended; for an error of its own in its own words."""
    if code < 0:
        return f"killed by signal {-code} ({signal.strsignal(-code)})"
    for prefix in (FAILED, HINDERED):
        if code and status.startswith(prefix):
            return status.removeprefix(prefix)
    return f"it ended with exit code {code}, see the log"


class Supervisor:
    """`dome-bridge run` with both parts.

    command: what starts a part; it ends well after SIGTERM. notifier: to systemd. end_seconds: what
    each part gets to end, in this order.
    """

    def __init__(
        self,
        command: Command,
        *,
        stop: asyncio.Event,
        notifier: Notifier,
        environ: Mapping[str, str],
        end_seconds: Mapping[Part, float] = END_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._command = command
        self._stop = stop
        self._end_seconds = end_seconds
        self._notifier = notifier
        self._environ = environ
        self._clock = clock
        self._sleep = sleep
        self._is_announced = False
        self._began_at = clock()
        self.children: list[Child] = []

    def reload(self) -> None:
        """SIGHUP is for the API: the mirror reads nothing again."""
        for child in self.children:
            if child.part is Part.API:
                child.reload()

    async def run(self) -> None:
        """Until stop. Raises PartError if the start is hopeless, and leaves no process."""
        with ExitStack() as stack:
            directory = stack.enter_context(private_directory(self._environ))
            lifeline = stack.enter_context(_lifeline())
            self.children = [self._child(part, directory, lifeline, stack) for part in Part]
            async with asyncio.TaskGroup() as group:
                feeding = group.create_task(self._notifier.feed_watchdog(self._is_well))
                try:
                    failed = await self._keep()
                finally:
                    feeding.cancel()
        if failed:
            raise failed[0]

    async def _keep(self) -> list[BaseException]:
        """Until stop, or until the start is hopeless; all have ended then. What made it so."""
        self._began_at = self._clock()
        keeping = {child: asyncio.ensure_future(child.keep()) for child in self.children}
        watching = asyncio.ensure_future(self._watch())
        stopping = asyncio.ensure_future(self._stop.wait())
        tasks = (*keeping.values(), watching, stopping)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (watching, stopping):
                task.cancel()
            self._notifier.stopping()
            for part, seconds in self._end_seconds.items():
                for child in (child for child in self.children if child.part is part):
                    await child.end(keeping[child], seconds)
        errors = (task.exception() for task in tasks if task.done() and not task.cancelled())
        return [error for error in errors if error is not None]

    def _child(self, part: Part, directory: Path, lifeline: int, stack: ExitStack) -> Child:
        channel = _Channel(directory / part)
        stack.callback(channel.close)
        silence = min(SILENCE_SECONDS, (self._notifier.watchdog_seconds or 2 * SILENCE_SECONDS) / 2)
        # WATCHDOG_PID is ours: with it a child would not ping.
        environ = {name: value for name, value in self._environ.items() if name != "WATCHDOG_PID"}
        environ |= {
            "NOTIFY_SOCKET": str(channel.path),
            "WATCHDOG_USEC": str(int(silence * 1e6)),
            LIFELINE: str(lifeline),
            API_REPORT: str(directory / "report"),
        }
        return Child(
            part,
            self._command(part),
            environ,
            channel,
            lifeline=lifeline,
            silence_seconds=silence,
            changed=self._show,
            is_start=lambda: not self._is_announced,
            clock=self._clock,
            sleep=self._sleep,
        )

    async def _watch(self) -> None:
        """Raises PartError if no part has become ready in time; otherwise it does not end."""
        while self._is_announced or self._age() < HOPE_SECONDS:
            await self._sleep(WATCH_SECONDS)
            for child in self.children:
                child.kill_if_silent()
            self._show()
        troubles = "; ".join(f"{child.part}: {child.trouble or child.status}" for child in self.children)
        raise PartError(f"no part became ready within {HOPE_SECONDS:g} s: {troubles}")

    def _age(self) -> float:
        return self._clock() - self._began_at

    def _is_well(self) -> bool:
        """For systemd, which would end both: one that crashed or hangs is healed here, if it can be."""
        return not any(child.is_stuck for child in self.children)

    def _show(self) -> None:
        if not self._is_announced and self._has_started():
            self._is_announced = True
            self._notifier.ready(f"dome-bridge {__version__}")
        self._notifier.status("; ".join(f"{child.part}: {child.status}" for child in self.children))

    def _has_started(self) -> bool:
        """One is ready, and it is known how the others fare: systemd would end what waits for all of them."""
        if not any(child.is_ready for child in self.children):
            return False
        is_known = all(child.is_ready or child.has_ended for child in self.children)
        return is_known or self._age() >= HESITATION_SECONDS


@contextmanager
def private_directory(environ: Mapping[str, str]) -> Iterator[Path]:
    """For sockets, closed to everybody else and removed at the end; where systemd says, if it does."""
    runtime = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or None
    remedy = "set TMPDIR to a directory with a short path where this account may write"
    try:
        made = tempfile.TemporaryDirectory(prefix="dome-bridge-", dir=runtime)
    except OSError as exc:
        raise ConfigError(f"cannot make a directory for sockets: {exc}; {remedy}") from exc
    with made as directory:
        if len(os.fsencode(directory)) > LONGEST_DIRECTORY:
            raise ConfigError(f"the path {directory} is too long for sockets: {remedy}")
        yield Path(directory)


@contextmanager
def _lifeline() -> Iterator[int]:
    """The end for the children. Nothing is ever written: it ends when nobody has the other one."""
    theirs, ours = os.pipe()
    try:
        yield theirs
    finally:
        os.close(ours)
        os.close(theirs)


def hold_lifeline(environ: Mapping[str, str]) -> None:
    """Ends this process when its supervisor is no more; nothing where there is none.

    In a thread of its own: it must not depend on what the process is doing.
    """
    if descriptor := environ.get(LIFELINE):
        threading.Thread(target=_hang_on, args=(int(descriptor),), name="lifeline", daemon=True).start()


def _hang_on(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    logger.error("the supervisor is gone: ending")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_SECONDS)
    os._exit(1)
