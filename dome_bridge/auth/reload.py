"""What is read from files while the bridge runs: looked at again and again, replaced as a whole.

Files are looked at by their stamps and read only if those have changed, in a thread. What cannot be read
leaves in force what was read before. Files that belong together are often replaced one by one: they are read
when they have stopped changing for a moment, or after a while in any case.
"""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

logger = logging.getLogger(__name__)

WITHIN_SECONDS = 60.0

SETTLE_SECONDS = 2.0
"""What has not changed for so long is complete."""

SETTLE_LOOKS = 5
"""What has not stopped changing by then is read nevertheless."""

DEPTH = 2
"""How far below a directory is looked: vomsdir has one for each VO."""

T = TypeVar("T")

Stamp = tuple[object, ...]
Sleep = Callable[[float], Awaitable[None]]


class ReloadObserver(Protocol):
    """Is told of every attempt to read something again. what: one of a few names."""

    def reload_ended(self, what: str, *, failed: bool) -> None: ...


class Loaded(NamedTuple, Generic[T]):
    """generation: 1 for what was read at the start, one more for each replacement."""

    value: T
    generation: int


class Watched(Generic[T]):
    """Something that is read from files.

    load: reads it, in a thread, given what was read before or None; an error keeps that. paths: files and
    directories; those that are links are followed. count: figures for the log, before and after. accepted: is
    called on the event loop with each value, the first one too. looked_at: after each look, changed or not.
    """

    def __init__(
        self,
        what: str,
        load: Callable[[T | None], T],
        paths: Iterable[Path],
        *,
        count: Callable[[T], Mapping[str, int]] | None = None,
        accepted: Callable[[T], object] | None = None,
        looked_at: Callable[[T], object] | None = None,
        observer: ReloadObserver | None = None,
    ) -> None:
        self.what = what
        self._load = load
        self._paths = tuple(paths)
        self._count = count
        self._accepted = accepted
        self._looked_at = looked_at
        self._observer = observer
        self._loaded: Loaded[T] | None = None
        self._stamp: Stamp = ()
        self._trouble = ""

    @property
    def current(self) -> Loaded[T]:
        assert self._loaded is not None, f"{self.what}: start() comes first"
        return self._loaded

    @property
    def value(self) -> T:
        return self.current.value

    @property
    def generation(self) -> int:
        return self.current.generation

    @property
    def is_failing(self) -> bool:
        """What the files hold now cannot be used."""
        return bool(self._trouble)

    async def start(self) -> None:
        """Reads it for the first time. Raises what `load` raises."""
        stamp = await asyncio.to_thread(stamp_of, self._paths)
        self._accept(await asyncio.to_thread(self._load, None), stamp)
        self._call(self._looked_at)

    async def look(self, *, settle_seconds: float = 0.0, sleep: Sleep = asyncio.sleep) -> None:
        """Reads it again if it has changed, or could not be read the last time."""
        stamp = await asyncio.to_thread(stamp_of, self._paths)
        if stamp != self._stamp and settle_seconds:
            stamp = await self._settled(stamp, settle_seconds, sleep)
        # With an error it is read though nothing has changed: a full table of files may have been all.
        if stamp != self._stamp or self._trouble:
            await self._read(stamp)
        self._call(self._looked_at)

    async def _settled(self, stamp: Stamp, seconds: float, sleep: Sleep) -> Stamp:
        for _ in range(SETTLE_LOOKS):
            await sleep(seconds)
            before, stamp = stamp, await asyncio.to_thread(stamp_of, self._paths)
            if stamp == before:
                break
        return stamp

    async def _read(self, stamp: Stamp) -> None:
        try:
            value = await asyncio.to_thread(self._load, self.value)
        except Exception as exc:  # noqa: BLE001 - the boundary: whatever files hold, the old value stays in force
            self._complain(exc, stamp)
            return
        # The stamp is from before the reading: what changes during it is seen at the next look.
        self._accept(value, stamp)

    def _accept(self, value: T, stamp: Stamp) -> None:
        before = self._loaded
        generation = before.generation + 1 if before else 1
        self._loaded, self._stamp, self._trouble = Loaded(value, generation), stamp, ""
        counts = self._counts(before.value if before else None, value)
        logger.info(
            "%s what=%s generation=%d%s", "read again" if before else "read", self.what, generation, counts
        )
        self._tell(failed=False)
        self._call(self._accepted)

    def _complain(self, exc: Exception, stamp: Stamp) -> None:
        """Once for each change, not at every look."""
        trouble = f"{type(exc).__name__}: {' '.join(str(exc).split())}"
        if (stamp, trouble) != (self._stamp, self._trouble):
            logger.error(
                "cannot be read again, what was read before stays in force what=%s generation=%d error=%s",
                *(self.what, self.generation, trouble),
            )
        self._stamp, self._trouble = stamp, trouble
        self._tell(failed=True)

    def _counts(self, before: T | None, after: T) -> str:
        if self._count is None:
            return ""
        old, new = self._count(before) if before is not None else {}, self._count(after)
        return "".join(
            f" {name}={old[name]}->{new[name]}" if name in old else f" {name}={new[name]}" for name in new
        )

    def _tell(self, *, failed: bool) -> None:
        if self._observer is not None:
            self._observer.reload_ended(self.what, failed=failed)

    def _call(self, listener: Callable[[T], object] | None) -> None:
        if listener is None:
            return
        try:
            listener(self.value)
        except Exception:
            logger.exception("what was read could not be announced what=%s", self.what)


class Reloader:
    """Looks at everything that is watched, so that changes are in force within so many seconds.

    within_seconds: a look takes place twice as often, so that there is time to wait for half of a set and to
    read. sleep: for tests.
    """

    def __init__(
        self,
        watched: Sequence[Watched[Any]],
        *,
        within_seconds: float = WITHIN_SECONDS,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._watched = tuple(watched)
        self._pause = within_seconds / 2
        self._settle_seconds = min(SETTLE_SECONDS, within_seconds / 4 / SETTLE_LOOKS)
        self._sleep = sleep
        self._requested = asyncio.Event()

    async def start(self) -> None:
        """Reads all for the first time, in order. Raises the first error."""
        for each in self._watched:
            await each.start()

    def request(self) -> None:
        """Has all looked at now, as after SIGHUP: whoever sends it has finished changing files."""
        self._requested.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until stop."""
        while await self._rest(stop):
            is_requested = self._requested.is_set()
            self._requested.clear()
            if is_requested:
                logger.info("asked to read files again")
            await self._look(0.0 if is_requested else self._settle_seconds)

    async def _look(self, settle_seconds: float) -> None:
        """At each on its own: a large directory does not keep the ban file waiting."""
        async with asyncio.TaskGroup() as group:
            for each in self._watched:
                group.create_task(self._look_at(each, settle_seconds))

    async def _look_at(self, watched: Watched[Any], settle_seconds: float) -> None:
        try:
            await watched.look(settle_seconds=settle_seconds, sleep=self._sleep)
        except Exception:
            logger.exception("looking for changes failed what=%s", watched.what)

    async def _rest(self, stop: asyncio.Event) -> bool:
        """Whether to go on."""
        pauses = (self._sleep(self._pause), self._requested.wait(), stop.wait())
        tasks = [asyncio.ensure_future(pause) for pause in pauses]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        return not stop.is_set()


def stamp_of(paths: Iterable[Path]) -> Stamp:
    """What changes when a file is written, replaced, made readable, added or removed. Blocking."""
    return tuple(mark for path in paths for mark in _marks(path, DEPTH))


def _marks(path: Path, depth: int) -> Iterator[Stamp]:
    try:
        status = path.stat()
        # With the time of the inode's change: size and time of writing can be given back, rights be changed.
        yield (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        entries = sorted(path.iterdir()) if depth and stat.S_ISDIR(status.st_mode) else []
    except OSError as exc:
        yield (path, exc.errno)
        return
    for entry in entries:
        yield from _marks(entry, depth - 1)
