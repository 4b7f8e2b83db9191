"""Changes of pools and file systems in DPM's database, and the rules that they follow.

What takes a `Source` belongs into a transaction. It begins with locks on all pools, so that of two
administrators who do what cannot be done twice the second sees what the first has done.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from dome_bridge.dome_api.catalog import bytes_of, text_of
from dome_bridge.dome_api.cluster import FileSystem, Pool
from dome_bridge.dome_api.sql import sql
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError


class Place(NamedTuple):
    """Where a file system is, or is to be."""

    server: str
    path: str

    def is_on(self, each: FileSystem) -> bool:
        """Whether it is that file system, or below it. A slash at the end of a path means nothing."""
        return each.holds(self.server, self._trimmed)

    def is_of(self, each: FileSystem) -> bool:
        """Whether it is that file system."""
        return each.server == self.server and each.path.rstrip("/") == self._trimmed

    @property
    def _trimmed(self) -> str:
        return self.path.rstrip("/")


def require_free(place: Place, filesystems: Iterable[FileSystem]) -> None:
    """Raises ApiError 422 for a place that has a file system already, or lies on one.

    As in DOME, one that others lie on is free.
    """
    if any(place.is_on(each) for each in filesystems):
        raise _overlap(place)


def require_known(place: Place, filesystems: Iterable[FileSystem]) -> None:
    """Raises ApiError 422 for a place without a file system, or below another one."""
    there = list(filesystems)
    if any(place.is_on(each) and not place.is_of(each) for each in there):
        raise _overlap(place)
    if not any(place.is_of(each) for each in there):
        raise ApiError(
            422,
            f"Could not modify fs '{place.path}' of server '{place.server}': no pool has it, see qryconf",
        )


def require_pool(name: str, pools: Iterable[str], what: str) -> None:
    """Raises ApiError 422 for a pool that is not there."""
    if name not in pools:
        raise ApiError(422, f"{what}: there is no pool '{name}', make it first")


async def insert_pool(source: Source, pool: Pool) -> None:
    """Raises StatementError, number DUP_ENTRY, if there is one."""
    columns = (bytes_of(pool.name), pool.defsize, bytes_of(pool.s_type))
    await source.execute(sql(source, "insert_pool"), columns)


async def update_pool(source: Source, pool: Pool) -> None:
    """Raises ApiError 422 if there is none."""
    pools = await _locked_pools(source)
    require_pool(pool.name, pools, f"Could not modify pool '{pool.name}'")
    columns = (pool.defsize, bytes_of(pool.s_type), pools[pool.name])
    await source.execute(sql(source, "update_pool"), columns)


async def delete_pool(source: Source, name: str) -> None:
    """With its file systems. Nothing if there is no such pool."""
    pools = await _locked_pools(source)
    if name in pools:
        await source.execute(sql(source, "delete_filesystems_of_pool"), (bytes_of(name),))
        await source.execute(sql(source, "delete_pool"), (pools[name],))


async def insert_filesystem(source: Source, pool: str, place: Place) -> None:
    """Active. Raises ApiError 422 if the place is taken, or there is no such pool."""
    pools, filesystems = await _locked_pools(source), await _locked_filesystems(source)
    require_free(place, filesystems.values())
    require_pool(pool, pools, f"Could not insert new fs '{place.path}' of server '{place.server}'")
    columns = (bytes_of(pool), bytes_of(place.server), bytes_of(place.path))
    await source.execute(sql(source, "insert_filesystem"), columns)


async def update_filesystem(source: Source, pool: str, place: Place, status: int) -> None:
    """Also its pool. Raises ApiError 422 if there is no such file system or pool."""
    pools, filesystems = await _locked_pools(source), await _locked_filesystems(source)
    require_known(place, filesystems.values())
    require_pool(pool, pools, f"Could not modify fs '{place.path}' of server '{place.server}'")
    columns = (bytes_of(pool), status, _rows_of(place, filesystems))
    await source.execute(sql(source, "update_filesystems"), columns)


async def delete_filesystem(source: Source, place: Place) -> int:
    """How many rows it had: one for each pool that it was in.

    Raises ApiError 404 if no server has that path, 422 if only another one has.
    """
    await _locked_pools(source)
    filesystems = await _locked_filesystems(source)
    if not any(Place(each.server, place.path).is_of(each) for each in filesystems.values()):
        raise ApiError(404, f"No filesystem '{place.path}' on any server")
    rows = _rows_of(place, filesystems)
    if not rows:
        raise ApiError(422, f"No filesystem '{place.path}' on server '{place.server}', only on another one")
    await source.execute(sql(source, "delete_filesystems"), (rows,))
    return len(rows)


async def _locked_pools(source: Source) -> dict[str, int]:
    """Their rows by name."""
    rows = await source.fetch(sql(source, "pools_locked"))
    return {text_of(name): int(rowid) for rowid, name in rows}


async def _locked_filesystems(source: Source) -> dict[int, FileSystem]:
    """By row."""
    return {
        int(rowid): FileSystem(text_of(pool), text_of(server), text_of(path), int(status or 0))
        for rowid, pool, server, path, status in await source.fetch(sql(source, "filesystems_locked"))
    }


def _rows_of(place: Place, filesystems: dict[int, FileSystem]) -> list[int]:
    return [rowid for rowid, each in filesystems.items() if place.is_of(each)]


def _overlap(place: Place) -> ApiError:
    return ApiError(422, f"Filesystem '{place.path}' already exists or overlaps an existing filesystem.")
