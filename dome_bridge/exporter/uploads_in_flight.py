"""Uploads that DPM has granted and that have not ended: replicas in the status P.

No index leads to a status. But each of them is in the quarantine, which the mirror keeps, and
from there the catalog is asked by fileid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import asyncpg

from dome_bridge.chimera.state import Site
from dome_bridge.dpm.source import Source
from dome_bridge.statements import load

_SQL = load("dome_bridge.chimera", "cutover.sql")

ABANDONED_SECONDS = 86400.0
"""Nobody waits for uploads that began so long ago."""

CHUNK = 2_000

_BEING_WRITTEN = """
SELECT fileid, sfn, GREATEST(0, UNIX_TIMESTAMP() - ctime) FROM {cns}.Cns_file_replica
WHERE status = 'P' AND fileid IN %s ORDER BY fileid, rowid"""


@dataclass(frozen=True)
class Upload:
    """age_seconds: since the upload was granted. path: empty where it is not known."""

    fileid: int
    replica: str
    age_seconds: int
    path: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def uploads_in_flight(source: Source, conn: asyncpg.Connection) -> list[Upload]:
    """All of them as far as the mirror has followed, abandoned ones included."""
    fileids = [row["fileid"] for row in await conn.fetch(_SQL["being_written"])]
    found: list[Upload] = []
    for first in range(0, len(fileids), CHUNK):
        statement = _BEING_WRITTEN.format(cns=source.cns)
        rows = await source.fetch(statement, (fileids[first : first + CHUNK],))
        found += [
            Upload(int(fileid), (sfn or b"").decode("utf-8", "backslashreplace"), int(age))
            for fileid, sfn, age in rows
        ]
    return found


def waited_for(uploads: Iterable[Upload], *, abandoned_seconds: float = ABANDONED_SECONDS) -> list[Upload]:
    return [upload for upload in uploads if upload.age_seconds < abandoned_seconds]


async def with_paths(conn: asyncpg.Connection, site: Site, uploads: Sequence[Upload]) -> list[Upload]:
    fileids = sorted({upload.fileid for upload in uploads})
    rows = await conn.fetch(_SQL["path_of"], fileids, site.inumber_offset, site.root_fileid)
    paths = {row["fileid"]: row["path"] for row in rows}
    return [
        Upload(each.fileid, each.replica, each.age_seconds, paths.get(each.fileid, "")) for each in uploads
    ]
