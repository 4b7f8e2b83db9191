"""The journal of catalog changes in DPM's database: every statement on it but the triggers'.

Rows become visible when their transaction commits, so a lower `seq` can appear after a
higher one. Read from the low end, apply, then delete exactly what was read; never remember
a greatest `seq`. After a lost connection read again instead of repeating a delete: an old
server gives the numbers of deleted rows to new ones when it restarts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import islice
from typing import NamedTuple

from dome_bridge.dpm.source import Source

JOURNAL_TABLE = "dome_bridge_journal"
MAX_NONCE_BYTES = 64

CHUNK = 200
"""Rows in one DELETE, keys in one IN list."""


class JournalKind(IntEnum):
    """What changed; from HEARTBEAT on rows are the bridge's own."""

    METADATA = 1
    REPLICA = 2
    SYMLINK = 3
    USERS = 10
    GROUPS = 11
    POOLS = 12
    FILESYSTEMS = 13
    QUOTATOKENS = 14
    HEARTBEAT = 20
    MARKER = 21

    @property
    def has_fileid(self) -> bool:
        return self <= JournalKind.SYMLINK


class JournalRow(NamedTuple):
    """`op` is I, U, D or -. Heartbeats and markers have `at`, Unix seconds of the source server."""

    seq: int
    kind: JournalKind
    fileid: int
    op: str
    at: int
    nonce: bytes | None


CREATE_JOURNAL = f"""
CREATE TABLE IF NOT EXISTS {{cns}}.{JOURNAL_TABLE} (
    seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    kind TINYINT UNSIGNED NOT NULL,
    fileid BIGINT UNSIGNED NOT NULL DEFAULT 0,
    op CHAR(1) NOT NULL,
    at INT UNSIGNED NOT NULL DEFAULT 0,
    nonce VARBINARY({MAX_NONCE_BYTES}) NULL
) ENGINE=InnoDB"""
JOURNAL_COLUMNS = ("seq", "kind", "fileid", "op", "at", "nonce")

_COLUMNS = ", ".join(JOURNAL_COLUMNS)
_BATCH = "SELECT " + _COLUMNS + " FROM {journal} ORDER BY seq LIMIT %s"
_PENDING = "SELECT " + _COLUMNS + " FROM {journal} WHERE kind <= %s AND fileid IN %s ORDER BY seq"
# Not `seq IN (...)`: on a small table that becomes a scan, which waits for rows being written and locks
# the gaps for new ones. The join looks each number up, and locks nothing but that row.
_DELETE = (
    "DELETE j FROM (SELECT {keys}) AS k STRAIGHT_JOIN {journal} AS j FORCE INDEX (PRIMARY) ON j.seq = k.seq"
)
_HEARTBEAT = "INSERT INTO {journal} (kind, op, at) VALUES (%s, '-', UNIX_TIMESTAMP())"
_MARKER = "INSERT INTO {journal} (kind, op, at, nonce) VALUES (%s, '-', UNIX_TIMESTAMP(), %s)"
_BACKLOG = "SELECT COUNT(*) FROM (SELECT 1 FROM {journal} WHERE kind < %s LIMIT %s) AS bounded"
_OLD_HEARTBEATS = (
    "SELECT seq FROM {journal} WHERE kind = %s AND at < UNIX_TIMESTAMP() - %s ORDER BY seq LIMIT %s"
)


class Journal:
    """The journal as seen through one connection."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._name = f"{source.cns}.{JOURNAL_TABLE}"

    async def read_batch(self, limit: int) -> list[JournalRow]:
        """The committed rows with the lowest numbers."""
        return await self._rows(_BATCH, (limit,))

    async def pending(self, fileids: Iterable[int]) -> list[JournalRow]:
        """The committed rows of these entries, their replicas and symlinks. Reads the whole journal."""
        found: list[JournalRow] = []
        for chunk in _chunks(sorted(set(fileids)), CHUNK):
            found += await self._rows(_PENDING, (JournalKind.SYMLINK, chunk))
        return found

    async def delete(self, seqs: Iterable[int]) -> int:
        """Deletes exactly these rows and returns how many there were."""
        deleted = 0
        for chunk in _chunks(sorted(seqs), CHUNK):
            keys = f"{chunk[0]:d} AS seq" + "".join(f" UNION ALL SELECT {seq:d}" for seq in chunk[1:])
            deleted += await self._source.execute(self._sql(_DELETE).replace("{keys}", keys))
        return deleted

    async def write_heartbeat(self) -> None:
        await self._source.execute(self._sql(_HEARTBEAT), (JournalKind.HEARTBEAT,))

    async def write_marker(self, nonce: bytes) -> None:
        """A row that shows when everything committed before it has been read."""
        if not 0 < len(nonce) <= MAX_NONCE_BYTES:
            raise ValueError(f"a marker's nonce has 1 to {MAX_NONCE_BYTES} bytes, not {len(nonce)}")
        await self._source.execute(self._sql(_MARKER), (JournalKind.MARKER, nonce))

    async def backlog(self, limit: int = 1_000_000) -> int:
        """Catalog changes that wait, heartbeats and markers not counted; counting ends at the limit."""
        count = await self._source.fetchval(self._sql(_BACKLOG), (JournalKind.HEARTBEAT, limit))
        return int(count)

    async def prune_heartbeats(self, older_than_seconds: int, limit: int = 100_000) -> int:
        """Deletes heartbeats that piled up while nobody read the journal; returns how many."""
        rows = await self._source.fetch(
            self._sql(_OLD_HEARTBEATS), (JournalKind.HEARTBEAT, older_than_seconds, limit)
        )
        return await self.delete(row[0] for row in rows)

    async def _rows(self, statement: str, args: Sequence[object]) -> list[JournalRow]:
        return [
            JournalRow(seq, JournalKind(kind), fileid, op.decode(), at, nonce)
            for seq, kind, fileid, op, at, nonce in await self._source.fetch(self._sql(statement), args)
        ]

    def _sql(self, statement: str) -> str:
        return statement.replace("{journal}", self._name)


def _chunks(values: Iterable[int], size: int) -> Iterator[tuple[int, ...]]:
    iterator = iter(values)
    while chunk := tuple(islice(iterator, size)):
        yield chunk
