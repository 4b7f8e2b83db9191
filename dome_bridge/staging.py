"""The staged columns: what the DPM side reads and the Chimera side projects.

This is the one thing that both sides know. `dpm.read` has an expression for each
column, `chimera/stage.sql` a table with the same columns; a test compares the three.
Rows arrive unchanged: bytes as bytes, numbers as numbers, nothing mended.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_FILEID = 2**62 - 1
"""Largest fileid that can be mirrored: inumber = fileid + offset has to stay below 2^63."""

BEYOND = -1
"""Stands for a parent_fileid above MAX_FILEID: no mirrored entry ever has it."""

DIRECTORY = 0o040000
FILE = 0o100000
SYMLINK = 0o120000
TYPE_BITS = 0o170000


class StagedTable(NamedTuple):
    """A staging table and its columns, in the order in which they are copied."""

    name: str
    columns: tuple[str, ...]


ENTRY = StagedTable(
    "stage_entry",
    (
        "fileid",
        "parent",
        "name",
        "mode",
        "owner",
        "grp",
        "size",
        "atime",
        "mtime",
        "ctime",
        "status",
        "csumtype",
        "csumvalue",
        "acl",
        "xattr",
    ),
)
REPLICA = StagedTable(
    "stage_replica", ("rowid", "fileid", "status", "poolname", "host", "fs", "sfn", "claimed")
)
SYMLINK_TARGET = StagedTable("stage_symlink", ("fileid", "linkname"))

STAGED = (ENTRY, REPLICA, SYMLINK_TARGET)
