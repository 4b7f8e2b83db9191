"""The dCache pools that take DPM's file systems over: names, directories, what will be in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from dome_bridge.chimera import state, target
from dome_bridge.config import Config
from dome_bridge.dpm import small_tables as dpm
from dome_bridge.dpm.small_tables import FileSystem
from dome_bridge.dpm.source import Source
from dome_bridge.exporter import pool_checks
from dome_bridge.exporter.disk_answers import DiskServers, FileSystemAnswer
from dome_bridge.exporter.findings import Finding, Severity
from dome_bridge.exporter.session import Databases, open_databases
from dome_bridge.exporter.small_tables import dcache_pool
from dome_bridge.statements import load

_SQL = load("dome_bridge.chimera", "check.sql")

LONG_NAME = 100
"""Characters of a pool name; longer ones are a nuisance in every listing."""

PROTECTED = ("/home", "/root", "/usr", "/boot", "/etc")
"""What ProtectHome and ProtectSystem of dCache's systemd units hide or make read-only."""

DISABLED, READ_ONLY = 1, 2
FILESYSTEM_TYPES = (b"", b"filesystem")

_USAGE = """
SELECT r.host, r.fs, r.poolname, COUNT(*), SUM(IF(m.filesize <= 9223372036854775807, m.filesize, 0))
FROM {cns}.Cns_file_replica r JOIN {cns}.Cns_file_metadata m ON m.fileid = r.fileid
WHERE r.status = '-'
GROUP BY r.host, r.fs, r.poolname"""

CHECKS: Mapping[str, str] = {
    "pool-disabled": "a file system is disabled or read-only in DPM",
    "pool-name-long": f"a pool's name has more than {LONG_NAME} characters",
    "pool-path-protected": "a file system lies where systemd keeps dCache out",
    "pool-path-unusable": "a file system is no plain absolute path",
    "pool-shared-filesystem": "several DPM pools share a file system",
    "pool-type": "a DPM pool is not made of file systems",
    **pool_checks.CHECKS,
}


class Usage(NamedTuple):
    """Files with an available replica in a pool, and their bytes."""

    files: int
    bytes: int


@dataclass(frozen=True)
class PlannedPool:
    """A dCache pool: `path` is its directory on `server`.

    files and bytes are None when not asked for, size and free without an answer of the disk server.
    """

    name: str
    server: str
    fs: str
    dpm_pool: str
    path: str
    files: int | None = None
    bytes: int | None = None
    size: int | None = None
    free: int | None = None
    findings: tuple[Finding, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "findings": [finding.as_json() for finding in self.findings]}


@dataclass(frozen=True)
class PoolPlan:
    """All pools, by name."""

    pools: tuple[PlannedPool, ...]

    @property
    def ok(self) -> bool:
        return not any(finding.severity is Severity.ERROR for finding in self.findings)

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(finding for pool in self.pools for finding in pool.findings)

    def as_json(self) -> dict[str, Any]:
        return {"pools": [pool.as_json() for pool in self.pools]}


async def plan(config: Config, disks: DiskServers | None = None) -> tuple[PlannedPool, ...]:
    """What `dome-bridge pools` shows, contents included; the errors of connecting have exit code 2."""
    async with open_databases(config) as databases:
        return (await plan_pools(databases, disks=disks)).pools


async def plan_pools(
    databases: Databases, *, usage: bool = True, disks: DiskServers | None = None
) -> PoolPlan:
    """The pools for what stands in dpm_fs now.

    usage: count files and bytes as well, in Chimera once the first copy is complete, before in
    DPM (some minutes for ten million files, and by columns that may be stale). disks: are asked for
    what they have; with usage also for a few replicas each.
    """
    filesystems = await dpm.filesystems(databases.source)
    pools = await dpm.pools(databases.source, databases.layout)
    types = {pool.poolname: pool.pooltype or b"" for pool in pools}
    made = make_plan(filesystems, types, databases.config.dcache.pool_dir)
    if usage:
        made = _with_usage(made, await _usage(databases, filesystems))
    return await _with_answers(made, disks, databases.source if usage else None)


async def _with_answers(made: PoolPlan, disks: DiskServers | None, source: Source | None) -> PoolPlan:
    if disks is None:
        return PoolPlan(tuple(_with_findings(pool, [pool_checks.NOT_ASKED]) for pool in made.pools))
    heard = await pool_checks.ask(made.pools, disks, source)
    told = [_with_sizes(pool, heard.plausible(pool)) for pool in made.pools]
    return PoolPlan(tuple(_with_findings(pool, pool_checks.judge(pool, heard, made.pools)) for pool in told))


def _with_sizes(pool: PlannedPool, answer: FileSystemAnswer | None) -> PlannedPool:
    return pool if answer is None else replace(pool, size=answer.size, free=answer.free)


def _with_findings(pool: PlannedPool, more: Iterable[Finding]) -> PlannedPool:
    return replace(pool, findings=(*pool.findings, *more))


def make_plan(filesystems: Sequence[FileSystem], types: Mapping[bytes, bytes], pool_dir: str) -> PoolPlan:
    """types: DPM's pooltype by pool. pool_dir: template with {fs} and {pool}."""
    sharers = Counter((_folded(fs.server), _plain(fs.fs)) for fs in filesystems)
    planned: dict[str, PlannedPool] = {}
    for fs in filesystems:
        pool = _planned(fs, pool_dir)
        shared = sharers[_folded(fs.server), _plain(fs.fs)] > 1
        found = _findings(pool, fs, types.get(fs.poolname, b""), shared=shared)
        planned.setdefault(pool.name, replace(pool, findings=tuple(found)))
    return PoolPlan(tuple(planned[name] for name in sorted(planned)))


def _planned(fs: FileSystem, pool_dir: str) -> PlannedPool:
    name = dcache_pool(fs)
    path = pool_dir.format(fs=_text(fs.fs).rstrip("/"), pool=name)
    return PlannedPool(name, _text(fs.server), _text(fs.fs), _text(fs.poolname), path)


def _findings(pool: PlannedPool, fs: FileSystem, pooltype: bytes, *, shared: bool) -> Iterable[Finding]:
    where = f"{pool.server}:{pool.fs}"
    if not _is_usable(fs.fs):
        yield Finding(
            "pool-path-unusable",
            Severity.ERROR,
            f"the file system {where} of pool {pool.dpm_pool} is no plain absolute path",
            "correct its row in dpm_fs",
        )
    if pooltype.lower() not in FILESYSTEM_TYPES:
        yield Finding(
            "pool-type",
            Severity.ERROR,
            f"the DPM pool {pool.dpm_pool} is of type {_text(pooltype)}: its files are no files of {where}",
            "drain this pool to one of file systems first",
        )
    if shared:
        yield Finding(
            "pool-shared-filesystem",
            Severity.WARNING,
            f"{where} is in several DPM pools: each of the dCache pools would count all of its free space",
            "set pool.size of each of them to its share",
        )
    if _is_protected(pool.fs):
        yield Finding(
            "pool-path-protected",
            Severity.WARNING,
            f"{where} is hidden from dCache or read-only by ProtectHome or ProtectSystem of its systemd unit",
            "override both in a drop-in of dcache@DOMAIN.service, or mount the file system elsewhere",
        )
    if len(pool.name) > LONG_NAME:
        yield Finding(
            "pool-name-long",
            Severity.WARNING,
            f"the pool name {pool.name} has {len(pool.name)} characters",
            "nothing, but lists of pools will be hard to read",
        )
    if fs.status in (DISABLED, READ_ONLY):
        yield Finding(
            "pool-disabled",
            Severity.INFO,
            f"{where} is {'disabled' if fs.status == DISABLED else 'read-only'} in DPM; it is mirrored",
            "decide whether its pool takes writes in dCache",
        )


def _is_usable(fs: bytes) -> bool:
    text = fs.decode("utf-8", "replace")
    return (
        text.startswith("/")
        and text.isprintable()
        and "\ufffd" not in text
        and not {".", ".."} & set(text.split("/"))
    )


def _is_protected(fs: str) -> bool:
    return any(PurePosixPath(fs).is_relative_to(folder) for folder in PROTECTED)


def _folded(server: bytes) -> bytes:
    return server.lower()


def _plain(fs: bytes) -> bytes:
    return fs.rstrip(b"/")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _with_usage(made: PoolPlan, usage: Mapping[str, Usage]) -> PoolPlan:
    nothing = Usage(0, 0)
    return PoolPlan(tuple(replace(pool, **usage.get(pool.name, nothing)._asdict()) for pool in made.pools))


async def _usage(databases: Databases, filesystems: Sequence[FileSystem]) -> dict[str, Usage]:
    async with target.told("counting the files of each pool"):
        if await _is_copied(databases):
            rows = await databases.conn.fetch(_SQL["pool_usage"])
            return {row["pool"]: Usage(row["files"], int(row["bytes"])) for row in rows}
    return await _usage_in_dpm(databases.source, filesystems)


async def _is_copied(databases: Databases) -> bool:
    if not await state.exists(databases.conn):
        return False
    return (await state.progress(databases.conn)).snapshot_finished is not None


async def _usage_in_dpm(source: Source, filesystems: Sequence[FileSystem]) -> dict[str, Usage]:
    names = {(_folded(fs.server), _plain(fs.fs), fs.poolname): dcache_pool(fs) for fs in filesystems}
    usage: dict[str, Usage] = {}
    for host, fs, poolname, files, size in await source.fetch(_USAGE.format(cns=source.cns)):
        name = names.get((_folded(host or b""), _plain(fs or b""), poolname or b""))
        if name is not None:
            before = usage.get(name, Usage(0, 0))
            usage[name] = Usage(before.files + int(files), before.bytes + int(size or 0))
    return usage
