"""What a disk node has: real files below the directories of its file systems, their room and checksums.

Nothing here knows the protocol. All of it blocks: call it in a thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

PIECE_BYTES = 256 * 1024

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class Room(NamedTuple):
    """Bytes of a file system, and whether it can be used: activity 1 is online, 2 broken."""

    free: int
    physical: int
    activity: int = 1


BROKEN = Room(0, 0, 2)


class StoredFile(NamedTuple):
    """A file by the name that DPM has for it."""

    pfn: str
    size: int


class DiskStore:
    """mounts: from the path that DPM knows to the directory that has the files. A mount counts as the
    node's own from the moment that the head has named it, if the node learns; else at once.

    capacities: bytes of the file systems that are to look smaller than what they lie on. full: no byte
    more is taken, wherever.
    """

    def __init__(
        self, mounts: Mapping[str, Path], capacities: Mapping[str, int] | None = None, *, learns: bool = False
    ) -> None:
        self.mounts = dict(mounts)
        self.capacities = dict(capacities or {})
        self.full = False
        self._learns = learns
        self._learned: dict[str, None] = {}
        self._writing = threading.Lock()

    @property
    def own(self) -> list[str]:
        """The paths of the file systems that the node knows to be its own."""
        return list(self._learned if self._learns else self.mounts)

    def learn(self, paths: Iterable[str]) -> None:
        self._learned.update(dict.fromkeys(paths))

    def forget(self) -> None:
        self._learned.clear()

    def file(self, pfn: str, *, own: bool = False) -> Path | None:
        """Where the file `pfn` is on this machine; None if it is in no file system, or in none of the node's.

        Never outside of them: a pfn with ".." is in none.
        """
        path = self.filesystem(pfn, own=own)
        return None if path is None else self.mounts[path] / pfn[len(path) :].lstrip("/")

    def filesystem(self, pfn: str, *, own: bool = False) -> str | None:
        """The first one that the file lies on."""
        if "\0" in pfn or ".." in pfn.split("/"):
            return None
        paths = [path for path in self.mounts if not own or path in self.own]
        return next((path for path in paths if f"{pfn}/".startswith(f"{path.rstrip('/')}/")), None)

    def room(self, path: str) -> Room:
        """The real one, or what is left of the capacity that was set."""
        try:
            found = os.statvfs(self.mounts[path])
        except (OSError, KeyError):
            return BROKEN
        free, physical = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        if path in self.capacities:
            physical = self.capacities[path]
            free = max(0, physical - self._used(path))
        return Room(0 if self.full else free, physical)

    def write(self, handle: BinaryIO, path: str, piece: bytes) -> None:
        """Add to a file of the file system `path`. Raises OSError ENOSPC if that is full."""
        with self._writing:
            capacity = self.capacities.get(path)
            if self.full or (capacity is not None and self._used(path) + len(piece) > capacity):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            handle.write(piece)
            handle.flush()

    def oldest_files(self, path: str, vo: str) -> list[StoredFile]:
        """The files of a VO, those of the oldest date directory first."""
        dates = [each for each in (self.mounts[path] / vo).glob("*") if _DATE.fullmatch(each.name)]
        return [
            StoredFile(f"{path.rstrip('/')}/{vo}/{date.name}/{file.name}", _size(file))
            for date in sorted(dates)
            for file in sorted(each for each in date.iterdir() if each.is_file())
        ]

    def _used(self, path: str) -> int:
        found = os.walk(self.mounts[path])
        return sum(_size(Path(directory, name)) for directory, _, names in found for name in names)


def _size(file: Path) -> int:
    """0 if it has been removed meanwhile."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


class UnknownChecksumError(ValueError):
    """There is no checksum of that name."""


class _Sum(Protocol):
    def update(self, piece: bytes, /) -> None: ...
    def text(self) -> str: ...


class _Rolling:
    """A checksum of 32 bits: what zlib makes of a value and the next piece."""

    def __init__(self, step: Callable[[bytes, int], int], value: int, form: str) -> None:
        self._step, self._value, self._form = step, value, form

    def update(self, piece: bytes, /) -> None:
        self._value = self._step(piece, self._value)

    def text(self) -> str:
        return format(self._value, self._form)


class _Hashed:
    def __init__(self, name: str) -> None:
        self._hash = hashlib.new(name)

    def update(self, piece: bytes, /) -> None:
        self._hash.update(piece)

    def text(self) -> str:
        return self._hash.hexdigest()


def _sum(kind: str) -> _Sum:
    match kind:
        case "adler32":
            return _Rolling(zlib.adler32, 1, "08x")
        case "crc32":
            # The tool of the original prints it in decimal first, and the first word counts.
            return _Rolling(zlib.crc32, 0, "d")
        case "md5" | "sha1" | "sha224" | "sha256":
            return _Hashed(kind)
    raise UnknownChecksumError(f"I don't know how to calculate this checksum: {kind}")


def checksum(
    file: Path, kind: str, *, pause: Callable[[], float] = lambda: 0.0, stop: threading.Event | None = None
) -> str:
    """As the original's tool prints it. Raises UnknownChecksumError, and OSError for an unreadable file.

    pause: seconds to wait before each piece. stop: ends it early, with a result that means nothing.
    """
    stop = stop or threading.Event()
    found = _sum(kind)
    with file.open("rb") as handle:
        while not stop.wait(pause()) and (piece := handle.read(PIECE_BYTES)):
            found.update(piece)
    return found.text()
