"""The names of replicas, `server:/path`: which can be a file's, which mean the same file, who has one.

A disk server removes what a name leads to, however it is spelled, so a file must have one name only.
New ones have to be in the normal form. Old sites have others:

- Two rows may have the same name. A file that two rows name is not removed with the first of them.
- A slash may be doubled, mostly where a mount point ended with one. Such a name is as good as the normal
  one, and is sent to the disk as it stands. Whoever else names the file is looked for in the spellings
  that an index leads to: as it stands, the normal one, and those with one doubled slash.
- Names with dots or with a slash at the end, and mount points, are sent to no disk. The replica can be
  given its right name.

The names of servers are compared as they stand, as DOME does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from dome_bridge.dome_api.catalog import Replica, bytes_of, split_rfn, statement, text_of
from dome_bridge.dome_api.cluster import lies_on
from dome_bridge.dome_api.sql import sql
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError

MOST_SLASHES = 16
"""Of a path that may be doubled in what is looked for; real paths have some six."""

_SERVER = re.compile(r"[^\s/:\0]+")
_SLASHES = re.compile("/{2,}")
_DOTS = frozenset({".", ".."})


MountPoint = tuple[str, str]
"""Server and path of a file system, as DPM has them."""


async def mount_points(source: Source) -> list[MountPoint]:
    """Of all file systems that DPM knows."""
    rows = await source.fetch(sql(source, "filesystems"))
    return [(text_of(server), text_of(path)) for _, server, path, _ in rows]


def is_in_file_system(server: str, pfn: str, mounts: Iterable[MountPoint]) -> bool:
    """By the text of the path."""
    return any(server == known and lies_on(path, pfn) for known, path in mounts)


def _has_mount_point(server: str, pfn: str, mounts: Iterable[MountPoint]) -> bool:
    """Whether the path is that of a mount point, or of a directory above one."""
    directory = _as_directory(pfn)
    return any(server == known and _as_directory(path).startswith(directory) for known, path in mounts)


def _as_directory(path: str) -> str:
    return f"{_with_single_slashes(path).rstrip('/')}/"


def normal(rfn: str) -> str:
    """The same name without doubled slashes."""
    server, colon, pfn = rfn.partition(":")
    return f"{server}{colon}{_with_single_slashes(pfn)}"


def _with_single_slashes(path: str) -> str:
    return _SLASHES.sub("/", path)


def spellings(rfn: str) -> set[str]:
    """Other names that rows of the same file are looked for by, and the name itself."""
    plain = normal(rfn)
    places = [found.start() for found in re.finditer("/", plain)][:MOST_SLASHES]
    return {rfn, plain, *(f"{plain[:place]}/{plain[place:]}" for place in places)}


def fault_of(rfn: str, mounts: Iterable[MountPoint]) -> str:
    """Why the name cannot be a file's; empty if it can. Doubled slashes are no fault in this."""
    server, pfn = split_rfn(rfn)
    if not _SERVER.fullmatch(server) or not pfn.startswith("/"):
        return "it is not server:/absolute/path"
    if pfn.endswith("/") or "\0" in pfn or not _DOTS.isdisjoint(pfn.split("/")):
        return "its path has '.' or '..' in it, a NUL, or a slash at the end"
    if _has_mount_point(server, pfn, mounts):
        return "it is a mount point, or a directory above one"
    return ""


def require_new_name(rfn: str, mounts: Iterable[MountPoint] = ()) -> None:
    """Raises ApiError 422 for a name that no replica should get. It may be in a file system nobody knows."""
    fault = fault_of(rfn, mounts) or ("" if rfn == normal(rfn) else "its path has a doubled slash")
    if fault:
        raise ApiError(422, f"'{rfn}' cannot be the name of a replica: {fault}")


async def named_by_others(source: Source, replicas: Sequence[Replica]) -> dict[int, Replica]:
    """By replicaid: another row that names the same file and is none of these, be it of the same entry.

    These are locked already; the others that are found get locked too, after all rows of the entry. Two
    that remove one file each with the same name wait for each other here: the second finds no other row.
    """
    found: set[int] = set()
    for rfn in sorted({replica.rfn for replica in replicas}):
        found |= await _ids(source, rfn)
    found -= {replica.replicaid for replica in replicas}
    others = {normal(other.rfn): other for other in await _locked(source, found)}
    return {
        replica.replicaid: others[normal(replica.rfn)]
        for replica in replicas
        if normal(replica.rfn) in others
    }


async def _ids(source: Source, rfn: str) -> set[int]:
    """Without a lock: one on the index would keep everybody from registering anything nearby."""
    names = sorted(bytes_of(name) for name in spellings(rfn))
    rows = await source.fetch(sql(source, "replicaids_by_rfns"), (names,))
    return {int(replicaid) for (replicaid,) in rows}


async def _locked(source: Source, replicaids: set[int]) -> list[Replica]:
    if not replicaids:
        return []
    rows = await source.fetch(statement(source, "replicas_by_ids_locked"), (sorted(replicaids),))
    return [Replica.from_row(row) for row in rows]
