"""Reads catalog rows as text that PostgreSQL's COPY takes, thousands of rows in one value.

MariaDB builds the lines and glues them together; Python hands bytes from one socket to
the other and never looks at a row. Text travels as hexadecimal digits, so neither the
character set of a column nor anything in a name can do harm on the way. GROUP_CONCAT cuts
in silence, so each line ends with its own newline and is counted against COUNT(*): a
value that came short is read again row by row.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dome_bridge.dpm.schema import SourceLayout
from dome_bridge.dpm.source import ER_CUT_VALUE_GROUP_CONCAT, Source, StatementError
from dome_bridge.staging import BEYOND, ENTRY, MAX_FILEID, REPLICA, SYMLINK_TARGET, StagedTable

logger = logging.getLogger(__name__)

_NULL = "0x5C4E"
"""COPY's \\N, written so that no sql_mode reads it otherwise."""

CHUNK_ROWS = 2_000
"""Rows that one value should hold: some 600 kB of text, below a 1 MB max_allowed_packet."""


def _number(column: str) -> str:
    return f"IFNULL({column}, {_NULL})"


def _bytes(column: str) -> str:
    return f"IFNULL(CONCAT(0x5C5C78, HEX({column})), {_NULL})"


def _nonempty(column: str) -> str:
    return f"IF({column} = '', {_NULL}, {_bytes(column)})"


_ENTRY_SQL = {
    "fileid": "e.fileid",
    "parent": f"IFNULL(IF(e.parent_fileid > {MAX_FILEID}, {BEYOND}, e.parent_fileid), {_NULL})",
    "name": _bytes("e.name"),
    "mode": _number("e.filemode"),
    "owner": _number("e.owner_uid"),
    "grp": _number("e.gid"),
    "size": _number("e.filesize"),
    "atime": _number("e.atime"),
    "mtime": _number("e.mtime"),
    "ctime": _number("e.ctime"),
    "status": _bytes("e.status"),
    "csumtype": _bytes("e.csumtype"),
    "csumvalue": _bytes("e.csumvalue"),
    "acl": _nonempty("e.acl"),
    "xattr": f"IF(e.xattr = '' OR e.xattr = '{{}}', {_NULL}, {_bytes('e.xattr')})",
}
_REPLICA_SQL = {
    "rowid": "r.rowid",
    "fileid": "r.fileid",
    "status": _bytes("r.status"),
    "poolname": _bytes("r.poolname"),
    "host": _bytes("r.host"),
    "fs": _bytes("r.fs"),
    "sfn": _bytes("r.sfn"),
    "claimed": "IF(EXISTS(SELECT 1 FROM {replica} o WHERE o.sfn = r.sfn AND o.fileid <> r.fileid), 't', 'f')",
}
_SYMLINK_SQL = {"fileid": "s.fileid", "linkname": _bytes("s.linkname")}


@dataclass(frozen=True)
class Reading:
    """How the rows of one staged table are read: columns, table with alias, key."""

    staged: StagedTable
    line: str
    table: str
    key: str
    condition: str = ""


class Range(NamedTuple):
    """A closed range of fileids and how many entries stand in it."""

    lo: int
    hi: int
    entries: int


def readings(source: Source, layout: SourceLayout, *, directories: bool | None = None) -> tuple[Reading, ...]:
    """The three readings. `directories` takes only directories (True) or all else (False)."""
    tables = {"replica": f"{source.cns}.Cns_file_replica"}
    entry_sql = dict(_ENTRY_SQL) if layout.has_xattr else {**_ENTRY_SQL, "xattr": _NULL}
    kind = "" if directories is None else f"AND IFNULL(e.filemode & 61440 = 16384, 0) = {int(directories)}"
    return (
        _reading(ENTRY, entry_sql, f"{source.cns}.Cns_file_metadata e", "e.fileid", tables, kind),
        _reading(REPLICA, _REPLICA_SQL, f"{source.cns}.Cns_file_replica r", "r.fileid", tables),
        _reading(SYMLINK_TARGET, _SYMLINK_SQL, f"{source.cns}.Cns_symlinks s", "s.fileid", tables),
    )


def _reading(
    staged: StagedTable,
    expressions: dict[str, str],
    table: str,
    key: str,
    tables: dict[str, str],
    condition: str = "",
) -> Reading:
    columns = (expressions[column].replace("{replica}", tables["replica"]) for column in staged.columns)
    line = f"CONCAT(CONCAT_WS(0x09, {', '.join(columns)}), 0x0A)"
    return Reading(staged, line, table, key, condition)


async def lines_of_range(source: Source, reading: Reading, lo: int, hi: int) -> AsyncIterator[bytes]:
    """COPY text of all rows with lo <= fileid <= hi, in chunks that adapt to how dense the ids are."""
    width = CHUNK_ROWS
    start = lo
    while start <= hi:
        end = min(start + width - 1, hi)
        rows, text = await _glued(source, reading, f"{reading.key} BETWEEN {start} AND {end}")
        if text:
            yield text
        width = _next_width(width, rows)
        start = end + 1


def _next_width(width: int, rows: int) -> int:
    if rows == 0:
        return width * 16
    if rows < CHUNK_ROWS // 2:
        return width * 2
    if rows > CHUNK_ROWS * 2:
        return max(width // 2, 1)
    return width


async def lines_of_ids(source: Source, reading: Reading, fileids: Sequence[int]) -> AsyncIterator[bytes]:
    """COPY text of the rows of these fileids."""
    for first in range(0, len(fileids), CHUNK_ROWS):
        ids = ",".join(str(fileid) for fileid in fileids[first : first + CHUNK_ROWS])
        _, text = await _glued(source, reading, f"{reading.key} IN ({ids})")
        if text:
            yield text


async def _glued(source: Source, reading: Reading, where: str) -> tuple[int, bytes]:
    rest = f"FROM {reading.table} WHERE {where} {reading.condition}"
    try:
        found = await source.fetchrow(f"SELECT COUNT(*), GROUP_CONCAT({reading.line} SEPARATOR '') {rest}")
    except StatementError as exc:
        if exc.number != ER_CUT_VALUE_GROUP_CONCAT:
            raise
        found = (1, b"")
    rows, text = (int(found[0]), bytes(found[1] or b"")) if found else (0, b"")
    if text.count(b"\n") == rows and (not text or text.endswith(b"\n")):
        return rows, text
    lines = [bytes(row[0]) for row in await source.fetch(f"SELECT {reading.line} {rest}")]
    logger.info("read row by row table=%s rows=%d where=%.80s", reading.table, len(lines), where)
    return len(lines), b"".join(lines)


async def next_range(source: Source, after: int, top: int, entries: int) -> Range | None:
    """The next at most `entries` entries beyond `after`; None when there are none up to `top`."""
    found = await source.fetchrow(
        f"SELECT COUNT(*), MAX(fileid) FROM (SELECT fileid FROM {source.cns}.Cns_file_metadata "
        "WHERE fileid > %s AND fileid <= %s ORDER BY fileid LIMIT %s) page",
        (after, top, entries),
    )
    if found is None or not found[0]:
        return None
    return Range(after + 1, int(found[1]), int(found[0]))


async def fileids(source: Source, lo: int, hi: int, *, directories: bool) -> list[int]:
    """The fileids of a range: of directories, or of all else."""
    rows = await source.fetch(
        f"SELECT fileid FROM {source.cns}.Cns_file_metadata WHERE fileid BETWEEN %s AND %s "
        "AND IFNULL(filemode & 61440 = 16384, 0) = %s",
        (lo, hi, int(directories)),
    )
    return [int(row[0]) for row in rows]


async def highest_fileid(source: Source) -> int:
    value = await source.fetchval(
        f"SELECT MAX(fileid) FROM {source.cns}.Cns_file_metadata WHERE fileid <= {MAX_FILEID}"
    )
    return int(value or 0)


async def newest_fileids(source: Source, limit: int) -> list[int]:
    """The highest fileids: what was created last."""
    rows = await source.fetch(
        f"SELECT fileid FROM {source.cns}.Cns_file_metadata WHERE fileid <= {MAX_FILEID} "
        "ORDER BY fileid DESC LIMIT %s",
        (limit,),
    )
    return [int(row[0]) for row in rows]


async def empty_uploads(source: Source, fileids: Sequence[int], seconds: int) -> list[int]:
    """Of these, files of size 0 with a replica that became available within the last so many seconds.

    putdone sets the replica's status and the file's size in two transactions.
    """
    found: list[int] = []
    for first in range(0, len(fileids), CHUNK_ROWS):
        ids = ",".join(str(fileid) for fileid in fileids[first : first + CHUNK_ROWS])
        rows = await source.fetch(
            f"SELECT DISTINCT e.fileid FROM {source.cns}.Cns_file_metadata e "
            f"JOIN {source.cns}.Cns_file_replica r ON r.fileid = e.fileid "
            f"WHERE e.fileid IN ({ids}) AND e.filesize = 0 AND e.filemode & 61440 = 32768 "
            "AND r.status = '-' AND r.ctime >= UNIX_TIMESTAMP() - %s",
            (seconds,),
        )
        found += [int(row[0]) for row in rows]
    return found


async def count_entries(source: Source) -> int:
    """Exact number of entries; an index scan, some seconds for ten million."""
    return int(await source.fetchval(f"SELECT COUNT(*) FROM {source.cns}.Cns_file_metadata"))


class BeyondEntry(NamedTuple):
    """An entry whose fileid no inumber can hold: too large, 0 or NULL (0 here, told by its rowid)."""

    fileid: int
    rowid: int
    parent: int
    name: bytes


async def entries_beyond(source: Source) -> list[BeyondEntry]:
    rows = await source.fetch(
        f"SELECT fileid, rowid, parent_fileid, name FROM {source.cns}.Cns_file_metadata "
        f"WHERE fileid > {MAX_FILEID} OR fileid = 0 OR fileid IS NULL ORDER BY rowid"
    )
    return [
        BeyondEntry(int(fileid or 0), int(rowid), int(parent or 0), bytes(name or b""))
        for fileid, rowid, parent, name in rows
    ]


async def files_on(source: Source, servers: Sequence[bytes], after: int, limit: int) -> list[int]:
    """Fileids, ascending and beyond `after`, that have a replica whose path names one of these servers."""
    if not servers:
        return []
    prefixes = " OR ".join(["(sfn >= %s AND sfn < %s)"] * len(servers))
    bounds = [bound for server in servers for bound in (server + b":", server + b";")]
    rows = await source.fetch(
        f"SELECT DISTINCT fileid FROM {source.cns}.Cns_file_replica "
        f"WHERE fileid > %s AND ({prefixes}) ORDER BY fileid LIMIT %s",
        (after, *bounds, limit),
    )
    return [int(row[0]) for row in rows]


async def rivals(source: Source, fileids: Sequence[int]) -> set[int]:
    """Other fileids that have a replica with the same sfn as one of these."""
    found: set[int] = set()
    for first in range(0, len(fileids), CHUNK_ROWS):
        ids = ",".join(str(fileid) for fileid in fileids[first : first + CHUNK_ROWS])
        rows = await source.fetch(
            f"SELECT DISTINCT o.fileid FROM {source.cns}.Cns_file_replica r "
            f"JOIN {source.cns}.Cns_file_replica o ON o.sfn = r.sfn AND o.fileid <> r.fileid "
            f"WHERE r.fileid IN ({ids})"
        )
        found.update(int(row[0]) for row in rows)
    return found
