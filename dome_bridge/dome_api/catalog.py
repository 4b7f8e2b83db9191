"""Reads the namespace: entries by path, by fileid and by replica, always from the database.

A path costs one query: the table is joined to itself once for each name. Nothing is kept between
two requests, so another writer's change is seen at once. Symbolic links are never followed.

Names and paths are text whose bytes outside of UTF-8 are carried by surrogate escapes.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any

from dome_bridge.dome_api.sql import sql
from dome_bridge.dpm import acl, xattr
from dome_bridge.dpm.acl import Acl
from dome_bridge.dpm.source import Row, Source
from dome_bridge.dpm.xattr import Json
from dome_bridge.errors import ApiError

MAX_NAME_BYTES = 255
MAX_RFN_BYTES = 4095

NAMES_PER_QUERY = 16
"""A query may join 61 tables; real paths have some eight names."""

DEEPEST = 256
"""Levels; DPM follows 128. Beyond that a tree bites its own tail."""

_NUMBERS = (
    "fileid",
    "parent_fileid",
    "filemode",
    "nlink",
    "owner_uid",
    "gid",
    "filesize",
    "atime",
    "mtime",
    "ctime",
    "fileclass",
)
_TEXTS = ("name", "status", "csumtype", "csumvalue", "acl", "xattr")
_REPLICA_COLUMNS = (
    "rowid",
    "fileid",
    "nbaccesses",
    "atime",
    "ptime",
    "ltime",
    "status",
    "f_type",
    "setname",
    "poolname",
    "host",
    "fs",
    "sfn",
    "xattr",
)
_NUMBERED = len(_NUMBERS)
_DOTS = frozenset({".", ".."})


def text_of(column: bytes | None) -> str:
    """A column's bytes as the text that goes over the wire; NULL is empty."""
    return (column or b"").decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """The bytes that a text stands for; see `text_of`."""
    return text.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of Cns_file_metadata. Times are Unix seconds, `mode` has the type bits, sizes are bytes."""

    fileid: int
    parent: int
    name: str
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    atime: int
    mtime: int
    ctime: int
    fileclass: int
    status: str
    csumtype: bytes
    csumvalue: bytes
    acl_text: bytes
    xattr_text: bytes

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Entry:
        """row: the columns of `_NUMBERS` and `_TEXTS`; NULL stands for 0 and the empty text."""
        return cls._of(
            [int(number or 0) for number in row[:_NUMBERED]], [text or b"" for text in row[_NUMBERED:]]
        )

    @classmethod
    def from_packed(cls, packed: bytes) -> Entry:
        """packed: what `_packed` makes of the same columns."""
        parts = packed.split(b",")
        return cls._of(
            list(map(int, parts[:_NUMBERED])), [bytes.fromhex(part.decode()) for part in parts[_NUMBERED:]]
        )

    @classmethod
    def _of(cls, numbers: Sequence[int], texts: Sequence[bytes]) -> Entry:
        fileid, parent, mode, nlink, uid, gid, size, atime, mtime, ctime, fileclass = numbers
        name, status, csumtype, csumvalue, acl_text, xattr_text = texts
        return cls(
            fileid, parent, text_of(name), mode, nlink, uid, gid, size, atime, mtime, ctime, fileclass,
            text_of(status), csumtype, csumvalue, acl_text, xattr_text,
        )  # fmt: skip

    @classmethod
    def of_type(cls, name: str, mode: int) -> Entry:
        """All that somebody learns who may know no more than what sort of thing there is."""
        return cls._of([0, 0, stat.S_IFMT(mode), *[0] * (_NUMBERED - 3)], [bytes_of(name), *[b""] * 5])

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def acl(self) -> Acl | None:
        """None without one. Raises AclError."""
        return acl.parse(self.acl_text) if self.acl_text else None

    @property
    def attributes(self) -> dict[str, Json]:
        """Raises XattrError."""
        return xattr.parse(self.xattr_text)


@dataclass(frozen=True, slots=True)
class Replica:
    """A row of Cns_file_replica. status: - P D; kind: P V. rfn: `server:path`."""

    replicaid: int
    fileid: int
    nbaccesses: int
    atime: int
    ptime: int
    ltime: int
    status: str
    kind: str
    setname: str
    pool: str
    host: str
    fs: str
    rfn: str
    xattr_text: bytes

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Replica:
        replicaid, fileid, nbaccesses, atime, ptime, ltime = (int(number or 0) for number in row[:6])
        status, kind, setname, pool, host, fs, rfn = (text_of(column) for column in row[6:13])
        return cls(
            replicaid, fileid, nbaccesses, atime, ptime, ltime, status, kind, setname, pool, host, fs, rfn,
            row[13] or b"",
        )  # fmt: skip

    @property
    def attributes(self) -> dict[str, Json]:
        """Raises XattrError."""
        return xattr.parse(self.xattr_text)


@dataclass(frozen=True, slots=True)
class Walk:
    """What a path leads to.

    lineage: from the root to the parent of the last name, empty if the parent does not exist.
    name: the last name of the path, "" for the root. entry: None if there is none.
    """

    path: str
    name: str
    lineage: tuple[Entry, ...]
    entry: Entry | None

    @property
    def parent(self) -> Entry | None:
        """The root is its own parent."""
        return self.lineage[-1] if self.lineage else None

    @property
    def parent_path(self) -> str:
        return "/" + "/".join(names_of(self.path)[:-1])


def names_of(path: str) -> list[str]:
    """The names in a path; doubled and trailing slashes mean nothing."""
    return [name for name in path.split("/") if name]


def split_rfn(rfn: str) -> tuple[str, str]:
    """Server and path of `server:path`; without a colon both are the whole text, as in dmlite."""
    server, colon, pfn = rfn.partition(":")
    return (server, pfn) if colon else (rfn, rfn)


def _columns(alias: str) -> str:
    return ", ".join(f"{alias}.{column}" for column in (*_NUMBERS, *_TEXTS))


def _packed(alias: str) -> str:
    """All columns of an entry as one: the driver takes longer over a column than over its bytes."""
    numbers = [f"IFNULL({alias}.{column}, 0)" for column in _NUMBERS[1:]]
    texts = [f"IFNULL(HEX({alias}.{column}), '')" for column in _TEXTS]
    # CONCAT is NULL where there is no such entry; CONCAT_WS alone would not be.
    return f"CONCAT({alias}.fileid, ',', CONCAT_WS(',', {', '.join([*numbers, *texts])}))"


@cache
def _replica_columns() -> str:
    return ", ".join(f"r.{column}" for column in _REPLICA_COLUMNS)


def statement(source: Source, name: str) -> str:
    """A statement of catalog.sql with the columns it reads."""
    return _filled(sql(source, name))


@cache
def _filled(text: str) -> str:
    return text.replace("{entry}", _columns("e0")).replace("{replica}", _replica_columns())


@cache
def _descent(names: int, metadata: str) -> str:
    columns = ", ".join(_packed(f"e{level}") for level in range(names + 1))
    joins = "".join(
        f" LEFT JOIN {metadata} e{level} ON e{level}.parent_fileid = e{level - 1}.fileid"
        f" AND e{level}.name = %s"
        for level in range(1, names + 1)
    )
    return f"SELECT {columns} FROM {metadata} e0{joins} WHERE e0.parent_fileid = %s AND e0.name = %s"


@cache
def _ascent(levels: int, metadata: str) -> str:
    columns = ", ".join(_packed(f"e{level}") for level in range(levels))
    joins = "".join(
        f" LEFT JOIN {metadata} e{level} ON e{level}.fileid = e{level - 1}.parent_fileid"
        for level in range(1, levels)
    )
    return f"SELECT {columns} FROM {metadata} e0{joins} WHERE e0.fileid = %s"


def _metadata(source: Source) -> str:
    return f"{source.cns}.Cns_file_metadata"


def _entries_of(row: Row | None) -> list[Entry]:
    """The entries that stand side by side in a row, up to the first that is missing."""
    return [Entry.from_packed(packed) for packed in takewhile(lambda packed: packed is not None, row or ())]


async def root(source: Source) -> Entry:
    """Raises ApiError if the catalog has none."""
    found = _entries_of(await source.fetchrow(_descent(0, _metadata(source)), (0, "/")))
    if not found:
        raise ApiError(500, "the catalog has no root: insert the entry / with parent 0")
    return found[0]


async def walk(source: Source, path: str) -> Walk:
    """Where a path leads. A relative one leads nowhere, but its parent is the root, as in DPM.

    `.` and `..` are resolved on the way; what stands before a `..` must be a directory.
    """
    names = names_of(path)
    if not names:
        top = await root(source)
        return Walk(path, "", (top,), top if path.startswith("/") else None)
    *above, name = names
    if not path.startswith("/"):
        return Walk(path, name, () if above else (await root(source),), None)
    parent_names = await _without_dots(source, above)
    if parent_names is None:
        return Walk(path, name, (), None)
    if name in _DOTS:
        lineage = await _complete_line(source, parent_names)
        all_names = await _without_dots(source, names)
        line = () if all_names is None else await _complete_line(source, all_names)
        return Walk(path, name, lineage, line[-1] if line else None)
    line = tuple(await _descend(source, [*parent_names, name]))
    depth = len(parent_names) + 1
    return Walk(path, name, line[:depth] if len(line) >= depth else (), line[depth] if line[depth:] else None)


async def _without_dots(source: Source, names: Sequence[str]) -> list[str] | None:
    """The names that remain when the dots are followed; None if they lead through what is no directory."""
    if len(names) > DEEPEST:
        return None
    plain: list[str] = []
    for name in names:
        if name == "..":
            line = await _complete_line(source, plain)
            if not line or not line[-1].is_directory:
                return None
            del plain[-1:]
        elif name != ".":
            plain.append(name)
    return plain


async def _complete_line(source: Source, names: Sequence[str]) -> tuple[Entry, ...]:
    """From the root to the entry that plain names lead to; empty if they lead nowhere."""
    line = await _descend(source, names)
    return tuple(line) if len(line) == len(names) + 1 else ()


async def _descend(source: Source, names: Sequence[str]) -> list[Entry]:
    """The root and what plain names lead to, as far as they lead."""
    line: list[Entry] = []
    # No entry has a longer name, and a packet to the database has its limits.
    wanted = ["/", *takewhile(lambda name: len(name) <= MAX_NAME_BYTES, names)]
    while len(line) < len(wanted):
        first, *rest = wanted[len(line) : len(line) + NAMES_PER_QUERY]
        parent = line[-1].fileid if line else 0
        query = _descent(len(rest), _metadata(source))
        found = _entries_of(await source.fetchrow(query, (*map(bytes_of, rest), parent, bytes_of(first))))
        for entry, name in zip(found, [first, *rest], strict=False):
            # MariaDB takes names that differ in trailing blanks for the same.
            if entry.name != name:
                return line
            line.append(entry)
        if len(found) <= len(rest):
            break
    return line


async def lineage_of(source: Source, entry: Entry) -> tuple[Entry, ...]:
    """All ancestors of an entry, the root first. Raises ApiError 404 if one is missing."""
    upward: list[Entry] = []
    parent = entry.parent
    while parent:
        found = _entries_of(await source.fetchrow(_ascent(NAMES_PER_QUERY, _metadata(source)), (parent,)))
        upward += found
        if not found or len(upward) > DEEPEST:
            raise ApiError(404, f"an ancestor of fileid {entry.fileid} is missing: the entry is an orphan")
        parent = found[-1].parent
    return tuple(reversed(upward))


async def path_of(entry: Entry, source: Source) -> str:
    """In full. Raises ApiError 404 for an orphan."""
    lineage = await lineage_of(source, entry)
    return "/" + "/".join(each.name for each in (*lineage[1:], entry))


async def entry_by_fileid(source: Source, fileid: int) -> Entry | None:
    return await _entry(source, "entry_by_fileid", fileid)


async def locked_entry(source: Source, fileid: int) -> Entry | None:
    """As it is now, kept so until the transaction ends."""
    return await _entry(source, "entry_locked", fileid)


async def shared_entry(source: Source, fileid: int) -> Entry | None:
    """As it is now; others may read it, but not change it, until the transaction ends."""
    return await _entry(source, "entry_shared", fileid)


async def locked_child(source: Source, parent: int, name: str) -> Entry | None:
    """The entry of that name, or of one that MariaDB takes for the same (trailing blanks)."""
    return await _entry(source, "child_locked", parent, bytes_of(name))


async def has_children(source: Source, fileid: int) -> bool:
    """Nothing can come into an empty directory until the transaction ends."""
    return await source.fetchrow(sql(source, "any_child_locked"), (fileid,)) is not None


async def replicas_of(source: Source, fileid: int, *, locked: bool = False) -> list[Replica]:
    """In order of their ids; `locked`: as they are now, kept so until the transaction ends."""
    name = "replicas_locked" if locked else "replicas_of_fileid"
    return [Replica.from_row(row) for row in await source.fetch(statement(source, name), (fileid,))]


async def replica_by_rfn(source: Source, rfn: str) -> Replica | None:
    """The oldest one, should there be several."""
    if len(bytes_of(rfn)) > MAX_RFN_BYTES:
        return None
    return await _replica(source, "replica_by_rfn", bytes_of(rfn))


async def replica_by_id(source: Source, replicaid: int) -> Replica | None:
    return await _replica(source, "replica_by_id", replicaid)


async def locked_replica(source: Source, replicaid: int) -> Replica | None:
    """As it is now, kept so until the transaction ends."""
    return await _replica(source, "replica_locked", replicaid)


async def link_target(source: Source, fileid: int) -> str | None:
    target = await source.fetchrow(sql(source, "link_target"), (fileid,))
    return text_of(target[0]) if target else None


async def comment_of(source: Source, fileid: int) -> str:
    """Empty without one."""
    return text_of(await source.fetchval(sql(source, "comment"), (fileid,)))


async def _entry(source: Source, name: str, *args: object) -> Entry | None:
    row = await source.fetchrow(statement(source, name), args)
    return Entry.from_row(row) if row else None


async def _replica(source: Source, name: str, *args: object) -> Replica | None:
    row = await source.fetchrow(statement(source, name), args)
    return Replica.from_row(row) if row else None
