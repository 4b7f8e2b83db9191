"""What DPM itself counts below directories: the sizes that DOME keeps for its quotas."""

from __future__ import annotations

from collections.abc import Iterable

from dome_bridge.dpm.source import Source
from dome_bridge.staging import DIRECTORY, TYPE_BITS

_CHILD = """
SELECT fileid, filemode, filesize FROM {cns}.Cns_file_metadata WHERE parent_fileid = %s AND name = %s"""


async def directory_sizes(source: Source, root_fileid: int, paths: Iterable[str]) -> dict[str, int]:
    """In bytes, of those paths that lead to directories. By copies, not by files, and apt to drift."""
    walk = _Walk(source, root_fileid)
    found = {path: await walk.size(path) for path in dict.fromkeys(paths)}
    return {path: size for path, size in found.items() if size is not None}


class _Walk:
    """Goes down from the root; a directory that several paths share is looked up once."""

    def __init__(self, source: Source, root_fileid: int) -> None:
        self._source = source
        self._seen: dict[str, tuple[int, int] | None] = {"": (root_fileid, 0)}

    async def size(self, path: str) -> int | None:
        found = await self._find(path.rstrip("/"))
        return found[1] if found else None

    async def _find(self, path: str) -> tuple[int, int] | None:
        if path not in self._seen:
            above, _, name = path.rpartition("/")
            parent = await self._find(above)
            self._seen[path] = await self._child(parent[0], name) if parent else None
        return self._seen[path]

    async def _child(self, parent: int, name: str) -> tuple[int, int] | None:
        row = await self._source.fetchrow(_CHILD.format(cns=self._source.cns), (parent, name.encode()))
        if row is None or int(row[1] or 0) & TYPE_BITS != DIRECTORY:
            return None
        return int(row[0]), int(row[2] or 0)
