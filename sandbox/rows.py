"""Rows of DPM's tables. The fields of Entry, Replica, Symlink and Comment are columns of their tables."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class User(NamedTuple):
    uid: int
    name: str
    vo: str
    banned: int = 0


class Group(NamedTuple):
    gid: int
    name: str


class Pool(NamedTuple):
    name: str
    defsize: int
    s_type: str = "P"


class FileSystem(NamedTuple):
    pool: str
    server: str
    fs: str
    status: int = 0


class QuotaToken(NamedTuple):
    """`total` and `unused` in bytes; `path` is None for a token of the SRM days."""

    s_token: str
    u_token: str
    pool: str
    total: int
    unused: int
    gids: tuple[int, ...]
    path: str | None


class Entry(NamedTuple):
    """A row of Cns_file_metadata; text is what its bytes are in UTF-8."""

    fileid: int
    parent_fileid: int
    guid: str | None
    name: str
    filemode: int
    nlink: int
    owner_uid: int
    gid: int
    filesize: int
    atime: int
    mtime: int
    ctime: int
    fileclass: int
    status: str
    csumtype: str
    csumvalue: str
    acl: str
    xattr: str | None


class Replica(NamedTuple):
    """A row of Cns_file_replica, without its row number."""

    fileid: int
    nbaccesses: int
    ctime: int
    atime: int
    ptime: int
    ltime: int
    r_type: str | None
    status: str
    f_type: str
    setname: str | None
    poolname: str
    host: str
    fs: str
    sfn: str
    xattr: str | None


class Symlink(NamedTuple):
    fileid: int
    linkname: str | None


class Comment(NamedTuple):
    u_fileid: int
    comments: str


class DiskFile(NamedTuple):
    """A file to be written for a replica."""

    path: Path
    content: bytes


Row = Entry | Replica | Symlink | Comment | DiskFile
