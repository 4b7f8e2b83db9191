"""Where the replica of a file goes: DPM's rules for choosing a file system, and for the name of a file on it.

Pure: the state of the cluster comes from `cluster`, chance and the time from the caller.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from dome_bridge.dome_api.catalog import MAX_NAME_BYTES, Replica, bytes_of, split_rfn
from dome_bridge.dome_api.cluster import Cluster, FileSystem
from dome_bridge.errors import ApiError

MIB = 1024 * 1024

NAMES_TO_VO = 4
"""`/dpm/<domain>/home/<vo>`: the fourth name is the directory on the disk."""


@dataclass(frozen=True, slots=True)
class Hints:
    """What a client asks for. fs: a path, or `server:/path` as dmlite-shell gives it."""

    pool: str = ""
    host: str = ""
    fs: str = ""

    @property
    def is_given(self) -> bool:
        return bool(self.pool or self.host or self.fs)

    def is_met_by(self, each: FileSystem) -> bool:
        """Names are compared as they stand."""
        server, path = _split_place(self.fs)
        return (
            self.pool in ("", each.pool)
            and self.host in ("", each.server)
            and server in ("", each.server)
            and path in ("", each.path)
        )

    def __str__(self) -> str:
        return f"pool: '{self.pool}' host: '{self.host}' fs: '{self.fs}'"


NO_HINTS = Hints()


def _split_place(fs: str) -> tuple[str, str]:
    if fs.startswith("/"):
        return "", fs
    server, colon, path = fs.partition(":")
    return (server, path) if colon else ("", fs)


def candidates(cluster: Cluster, hints: Hints) -> list[FileSystem]:
    """What is good for writing and asked for."""
    return [each for each in cluster.filesystems if each.is_writable and hints.is_met_by(each)]


def without_replicas(filesystems: Iterable[FileSystem], replicas: Iterable[Replica]) -> list[FileSystem]:
    """Those that have none of the replicas, whatever their status."""
    places = [split_rfn(replica.rfn) for replica in replicas]
    return [each for each in filesystems if not any(each.holds(*place) for place in places)]


def with_room(cluster: Cluster, filesystems: Iterable[FileSystem], needed: int) -> list[FileSystem]:
    """Those with so many bytes free; a volatile one makes room, it has only to be large enough."""
    return [each for each in filesystems if _room(cluster, each) >= needed]


def _room(cluster: Cluster, each: FileSystem) -> int:
    return each.physical if cluster.can_pull(each) else each.free


def choose(filesystems: Sequence[FileSystem], random: Random) -> FileSystem:
    """One by chance, the more free MiB the likelier. At least one must be given."""
    by_room = sorted(filesystems, key=lambda each: each.free, reverse=True)
    weights = [each.free // MIB for each in by_room]
    total = sum(weights)
    if total == 0:
        return random.choice(by_room)
    draw = random.randrange(total)
    for each, weight in zip(by_room, weights, strict=True):
        if draw < weight:
            return each
        draw -= weight
    raise AssertionError("the draw is below the sum of the weights")


@dataclass(frozen=True)
class Choice:
    """File systems to choose from. needed: bytes that must be free."""

    cluster: Cluster
    filesystems: Sequence[FileSystem]
    needed: int
    random: Random

    def for_file(self) -> FileSystem:
        """For the first replica of a new file. Raises ApiError 507 if all are full."""
        return self._one_of(self.filesystems)

    def beside(self, replicas: Iterable[Replica], lfn: str) -> FileSystem:
        """For one more replica. Raises ApiError 507 if all have one already, or are full."""
        left = without_replicas(self.filesystems, replicas)
        if not left:
            raise ApiError(507, f"No filesystems can host an additional replica for lfn:'{lfn}'")
        return self._one_of(left)

    def _one_of(self, filesystems: Iterable[FileSystem]) -> FileSystem:
        roomy = with_room(self.cluster, filesystems, self.needed)
        if not roomy:
            raise ApiError(507, "All matching filesystems are full.")
        return choose(roomy, self.random)


def vo_of(lfn: str, names: Sequence[str]) -> str:
    """names: of the path without dots. Raises ApiError 422 for a path that is too short."""
    if len(names) < NAMES_TO_VO:
        raise ApiError(422, f"Unable to get vo name from the lfn: '{lfn}'")
    return names[NAMES_TO_VO - 1]


def new_pfn(filesystem: FileSystem, vo: str, name: str, number: int, when: float) -> str:
    """`<fs>/<vo>/<local date>/<name>.<number>.<epoch>`; of a long name the beginning is kept.

    Only the purging of volatile pools looks at it again, at the directories.
    """
    suffix = f".{number}.{int(when)}"
    stem = name
    while len(bytes_of(stem)) + len(suffix) > MAX_NAME_BYTES:
        stem = stem[:-1]
    day = time.strftime("%Y-%m-%d", time.localtime(when))
    return f"{filesystem.path.rstrip('/')}/{vo}/{day}/{stem}{suffix}"
