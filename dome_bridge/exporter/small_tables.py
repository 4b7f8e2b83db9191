"""Keeps the copies of DPM's small tables, and finds out what a change of them touches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import asyncpg

from dome_bridge.chimera.pools import pool_name
from dome_bridge.dpm import small_tables as dpm
from dome_bridge.dpm.schema import SourceLayout
from dome_bridge.dpm.source import Source
from dome_bridge.errors import SourceError
from dome_bridge.exporter.journal import JournalKind
from dome_bridge.statements import load

_SQL = load("dome_bridge.chimera", "small_tables.sql")
_LINKS = load("dome_bridge.chimera", "links.sql")

ALL_SMALL_TABLES = (
    JournalKind.USERS,
    JournalKind.GROUPS,
    JournalKind.POOLS,
    JournalKind.FILESYSTEMS,
    JournalKind.QUOTATOKENS,
)


async def copy_small_tables(
    source: Source, layout: SourceLayout, conn: asyncpg.Connection, kinds: Collection[JournalKind]
) -> None:
    """Replaces the copies of these tables, in the caller's transaction.

    Servers on which a file system came, went or changed its pool are noted as moved: the
    files there have to be placed anew, however often we are killed on the way.
    """
    for kind in kinds:
        if kind is JournalKind.FILESYSTEMS:
            await _copy_filesystems(source, conn)
        else:
            await _replace(conn, kind.name.lower(), await _rows(source, layout, kind))


async def _rows(source: Source, layout: SourceLayout, kind: JournalKind) -> Sequence[tuple[Any, ...]]:
    match kind:
        case JournalKind.USERS:
            return await dpm.users(source)
        case JournalKind.GROUPS:
            return await dpm.groups(source)
        case JournalKind.POOLS:
            return await dpm.pools(source, layout)
        case JournalKind.QUOTATOKENS:
            return await dpm.quotatokens(source, layout)
    raise ValueError(f"{kind!r} is not a small table of its own")


async def _replace(conn: asyncpg.Connection, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
    await conn.execute(_SQL[f"delete_{name}"])
    await conn.executemany(_SQL[f"insert_{name}"], [tuple(row) for row in rows])


async def _copy_filesystems(source: Source, conn: asyncpg.Connection) -> None:
    before = {tuple(row) for row in await conn.fetch(_SQL["filesystems"])}
    filesystems = await dpm.filesystems(source)
    _refuse_same_name(filesystems)
    await _replace(conn, "filesystems", [(*fs, dcache_pool(fs)) for fs in filesystems])
    await conn.execute(_LINKS["note_pools"])
    after = {(fs.poolname, fs.server, fs.fs) for fs in filesystems}
    for server in {server for _, server, _ in before ^ after}:
        await conn.execute(_SQL["note_moved"], server)


async def moved_servers(conn: asyncpg.Connection) -> list[bytes]:
    return [row["server"] for row in await conn.fetch(_SQL["moved"])]


async def forget_moved(conn: asyncpg.Connection, servers: Sequence[bytes]) -> None:
    await conn.execute(_SQL["forget_moved"], list(servers))


async def unplaced(conn: asyncpg.Connection, after: int, limit: int) -> list[int]:
    """Fileids in the quarantine because of where their replicas are, or with servers oddly written."""
    return [row["fileid"] for row in await conn.fetch(_SQL["unplaced"], after, limit)]


def dcache_pool(filesystem: dpm.FileSystem) -> str:
    """The dCache pool of this pool's share of a file system."""
    server, fs, poolname = (
        text.decode("utf-8", "backslashreplace")
        for text in (filesystem.server, filesystem.fs, filesystem.poolname)
    )
    return pool_name(server, fs, poolname)


def _refuse_same_name(filesystems: Sequence[dpm.FileSystem]) -> None:
    names: dict[str, dpm.FileSystem] = {}
    for filesystem in filesystems:
        other = names.setdefault(dcache_pool(filesystem), filesystem)
        if (other.poolname, other.server.lower(), other.fs) != (
            filesystem.poolname,
            filesystem.server.lower(),
            filesystem.fs,
        ):
            raise SourceError(
                f"dpm_fs: {filesystem.server!r}:{filesystem.fs!r} and {other.server!r}:{other.fs!r} would "
                "become one dCache pool; report this, and rename one of the DPM pools"
            )
