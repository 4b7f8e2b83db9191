"""What the head knows of its pools, file systems and disk servers: pure values and rules.

A `Cluster` is one state and never changes; reading the database, or hearing from a disk server,
makes the next. `cluster_watch` does that and keeps the newest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NamedTuple


class Status(IntEnum):
    """What an administrator has set: `dpm_fs.status`."""

    ACTIVE = 0
    DISABLED = 1
    READ_ONLY = 2


class Activity(IntEnum):
    """What the newest poll has found. Unknown: not polled yet."""

    UNKNOWN = 0
    ONLINE = 1
    BROKEN = 2


class PoolStatus(IntEnum):
    """As `dome_statpool` says it."""

    WRITABLE = 0
    DISABLED = 1
    READ_ONLY = 2


class Space(NamedTuple):
    """Bytes: `free` of what is good for writing, `total` of what is good for reading."""

    free: int
    total: int


class Report(NamedTuple):
    """What a disk server says of one of its file systems, in bytes."""

    free: int
    physical: int
    activity: Activity = Activity.ONLINE


def lies_on(mount: str, pfn: str) -> bool:
    """Whether a path is that of a file system or below it, by its text."""
    path = mount.rstrip("/")
    return pfn == path or pfn.startswith(f"{path}/")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A row of dpm_fs, and what its server has last said of it."""

    pool: str
    server: str
    path: str
    status: int = Status.ACTIVE
    activity: Activity = Activity.UNKNOWN
    free: int = 0
    physical: int = 0

    @property
    def is_writable(self) -> bool:
        return self.status == Status.ACTIVE and self.activity is Activity.ONLINE

    @property
    def is_readable(self) -> bool:
        return self.status != Status.DISABLED and self.activity is Activity.ONLINE

    def holds(self, server: str, pfn: str) -> bool:
        """Whether a file lies on it, by server and path."""
        return server == self.server and lies_on(self.path, pfn)


@dataclass(frozen=True, slots=True)
class Pool:
    """A row of dpm_pool. defsize: bytes that an upload finds free at least. s_type: P, V or -."""

    name: str
    defsize: int
    s_type: str

    @property
    def is_volatile(self) -> bool:
        return self.s_type.upper() == "V"


@dataclass(frozen=True)
class Cluster:
    """All pools and file systems, each in the order of their rows."""

    pools: Mapping[str, Pool] = field(default_factory=dict)
    filesystems: tuple[FileSystem, ...] = ()

    @property
    def servers(self) -> tuple[str, ...]:
        """Each once, in order of appearance."""
        return tuple(dict.fromkeys(each.server for each in self.filesystems))

    def is_answering(self, server: str) -> bool:
        """Whether the newest poll has heard of it."""
        return any(each.activity is Activity.ONLINE for each in self.filesystems if each.server == server)

    def of_pool(self, name: str) -> list[FileSystem]:
        return [each for each in self.filesystems if each.pool == name]

    def find(self, server: str, pfn: str) -> FileSystem | None:
        """The first file system that a file lies on."""
        return next((each for each in self.filesystems if each.holds(server, pfn)), None)

    def is_broken(self, server: str, pfn: str) -> bool:
        """Whether a file lies where the newest poll has heard nothing."""
        found = self.find(server, pfn)
        return found is not None and found.activity is Activity.BROKEN

    def space(self, pool: str) -> Space:
        mine = self.of_pool(pool)
        return Space(
            free=sum(each.free for each in mine if each.is_writable),
            total=sum(each.physical for each in mine if each.is_readable),
        )

    def pool_status(self, pool: str) -> PoolStatus:
        mine = self.of_pool(pool)
        if any(each.is_writable for each in mine):
            return PoolStatus.WRITABLE
        return PoolStatus.READ_ONLY if any(each.is_readable for each in mine) else PoolStatus.DISABLED

    def can_pull(self, each: FileSystem) -> bool:
        """Whether files can be pulled onto it: on a volatile pool, and larger than that pool's defsize."""
        pool = self.pools.get(each.pool)
        return pool is not None and pool.is_volatile and each.physical > pool.defsize

    def reread(self, pools: Iterable[Pool], filesystems: Iterable[FileSystem]) -> Cluster:
        """With the rows as they are now; what is known of a file system that stays is kept."""
        known = {(each.server, each.path): each for each in self.filesystems}
        return Cluster(
            {pool.name: pool for pool in pools},
            tuple(_with_what_is_known(each, known.get((each.server, each.path))) for each in filesystems),
        )

    def heard(self, server: str, reports: Mapping[str, Report]) -> Cluster:
        """After a server's answer. A file system that it does not name keeps its state."""
        return self._changed(server, lambda each: _reported(each, reports.get(each.path)))

    def lost(self, server: str) -> Cluster:
        """After a poll without an answer: all file systems of the server are broken."""
        return self._changed(server, lambda each: replace(each, activity=Activity.BROKEN))

    def _changed(self, server: str, change: Callable[[FileSystem], FileSystem]) -> Cluster:
        return replace(
            self,
            filesystems=tuple(change(each) if each.server == server else each for each in self.filesystems),
        )


def _with_what_is_known(each: FileSystem, known: FileSystem | None) -> FileSystem:
    if known is None:
        return each
    return replace(each, activity=known.activity, free=known.free, physical=known.physical)


def _reported(each: FileSystem, report: Report | None) -> FileSystem:
    if report is None:
        return each
    return replace(each, activity=report.activity, free=report.free, physical=report.physical)


def reports_of(answer: Mapping[str, object], server: str) -> dict[str, Report] | None:
    """What a disk's `dome_getspaceinfo` says of its file systems; None if that cannot be read."""
    filesystems = answer.get("fsinfo")
    mine = filesystems.get(server) if isinstance(filesystems, Mapping) else None
    if not isinstance(mine, Mapping):
        return None
    reports = {str(path): _report(values) for path, values in mine.items()}
    return {path: report for path, report in reports.items() if report is not None}


def _report(values: object) -> Report | None:
    if not isinstance(values, Mapping):
        return None
    try:
        free, physical = int(str(values["freespace"])), int(str(values["physicalsize"]))
    except (KeyError, ValueError):
        return None
    if not 0 <= free <= physical:
        return None
    broken = str(values.get("activitystatus")) == str(int(Activity.BROKEN))
    return Report(free, physical, Activity.BROKEN if broken else Activity.ONLINE)
