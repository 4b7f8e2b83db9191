"""What could not be translated: the quarantine as an operator reads it, and every reason in it.

`REASONS` is the only list of reasons in words. The mapping decides in SQL; a test compares
both, and docs/reference/quarantine.md with what `python -m dome_bridge.chimera.quarantine` prints.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import asyncpg

from dome_bridge.chimera import stage
from dome_bridge.chimera.state import Site

Scope = Literal["entry", "fact"]
ENTRY: Scope = "entry"
FACT: Scope = "fact"

PAGE_ROWS = 2_000
"""Rows whose paths are looked up together."""

LOST = "?"
"""Begins a path whose upper part is not known: the parent does not exist, or is its own descendant."""


@dataclass(frozen=True)
class Reason:
    """Why something is missing in Chimera, what that means for the site, and what helps.

    scopes: `entry` when the entry is absent, `fact` when it is there without something.
    """

    scopes: tuple[Scope, ...]
    meaning: str
    remedy: str


_RENAME = "rename it with `mv` of dmlite-shell or, if that fails, in the database"
_DROP_IF_UNUSED = "nothing, or delete the entry if nobody misses it"

REASONS: Mapping[str, Reason] = MappingProxyType(
    {
        "acl-invalid": Reason(
            (FACT,),
            "The ACL does not parse or breaks a rule of DPM. The entry has its mode bits only: named users "
            "and groups lose what the ACL gave them.",
            "set the ACL anew with `acl` of dmlite-shell",
        ),
        "being-deleted": Reason(
            (FACT,),
            "This replica is in status D: DPM is removing it, or gave up half-way. The file has others.",
            "delete the replica with `replicadel` of dmlite-shell, which frees its disk space",
        ),
        "being-written": Reason(
            (ENTRY, FACT),
            "The replica is in status P: an upload under way or, if older than a day, an abandoned one. "
            "A file with no other replica is absent until the upload ends.",
            "let the upload end; delete files of abandoned uploads",
        ),
        "checksum-invalid": Reason(
            (FACT,),
            "The value is no checksum of its kind (digits, length). The file is there without it; dCache "
            "computes one when a pool checks the file.",
            "have it recomputed with `getchecksum` of dmlite-shell, or leave it",
        ),
        "checksum-unsupported": Reason(
            (FACT,),
            "dCache has no checksum of this type (CRC32, for one). The file is there without it.",
            "nothing; a supported checksum can be computed with `getchecksum` of dmlite-shell",
        ),
        "duplicate-name": Reason(
            (ENTRY,),
            "Another entry of this directory has the same name and a smaller fileid. DPM's unique index "
            "normally forbids that.",
            _RENAME + ", and restore the unique index on (parent_fileid, name)",
        ),
        "id-out-of-range": Reason(
            (ENTRY,),
            "The fileid is so large that no inumber can be computed from it, or the row has none.",
            "copy the file to a new name and delete the old one; correct Cns_unique_id",
        ),
        "inumber-taken": Reason(
            (ENTRY,),
            "dCache wrote before the cutover, and gave the number of this entry to something of its own.",
            "stop dCache's doors until the cutover, and remove what it made (detail has its id)",
        ),
        "name-empty": Reason((ENTRY,), "The entry has no name.", _RENAME),
        "name-has-slash": Reason((ENTRY,), "The name contains a slash.", _RENAME),
        "name-magic": Reason(
            (FACT,),
            "dCache's NFS door takes names that begin with .( for commands; the entry is there, but out of "
            "reach by NFS.",
            _RENAME,
        ),
        "name-not-utf8": Reason(
            (ENTRY,),
            "The name is not valid UTF-8, or contains a NUL byte, and dCache can store neither.",
            _RENAME,
        ),
        "name-reserved": Reason((ENTRY,), "The name is . or .. and would not be reachable.", _RENAME),
        "name-taken": Reason(
            (ENTRY,),
            "Chimera has an entry of its own under this name in the same directory, such as /lost+found.",
            "remove dCache's entry if it is not needed, or rename DPM's",
        ),
        "name-too-long": Reason((ENTRY,), "The name is longer than the 255 characters of dCache.", _RENAME),
        "no-replica": Reason(
            (ENTRY,),
            "The file has no replica: nothing of it is on any disk.",
            "delete the entry, and tell its owner",
        ),
        "no-usable-replica": Reason(
            (ENTRY,),
            "None of the file's replicas can become a location; the detail has the reason of each.",
            "repair the replicas (their reasons stand in this table), or delete the file",
        ),
        "owner-out-of-range": Reason(
            (ENTRY,),
            "Owner or group is missing, or does not fit the signed 32-bit columns of dCache. It is not "
            "replaced by another, who would get rights that nobody gave him.",
            "set both with `chown` and `chgrp` of dmlite-shell",
        ),
        "parent-absent": Reason(
            (ENTRY,),
            "The directory above is itself absent from Chimera, does not exist in DPM, is not a directory, "
            "or lies below the entry.",
            "repair the directory above; delete or move orphans and cycles in the database",
        ),
        "refused-by-chimera": Reason(
            (ENTRY,),
            "PostgreSQL refused the row for a reason that dome-bridge did not foresee; the detail has its "
            "words.",
            "report it with the detail; renaming or copying the entry may help meanwhile",
        ),
        "replica-missing": Reason(
            (FACT,),
            "The disk server has no such file, as `dpm-pool-link` reported. A file without another replica "
            "is absent, as nothing of it could be read.",
            "bring the file system back, or restore the file, and report again; else delete the replica",
        ),
        "replica-on-non-file": Reason(
            (FACT,),
            "A replica is registered for a directory or a symbolic link. The entry is there without it.",
            "delete the replica in the database; look first whether a file lost it",
        ),
        "replica-size": Reason(
            (FACT,),
            "The file on the disk server has another size than the catalog says, as `dpm-pool-link` "
            "reported. dCache would call it broken and not serve it.",
            "compare checksums: correct the size in the catalog, or delete the replica",
        ),
        "replica-status": Reason(
            (FACT,),
            "The replica has a status other than available, being written and being deleted.",
            "set the status to `-` if the file on disk is good, else delete the replica",
        ),
        "second-in-pool": Reason(
            (FACT,),
            "The file has another replica on the same file system, and dCache keeps one copy per pool.",
            "nothing; deleting the second replica frees its space",
        ),
        "sfn-claimed-twice": Reason(
            (FACT,),
            "Another file has a replica with the same path. Which of them the bytes belong to cannot be "
            "told, so neither gets the location.",
            "find out by size and checksum, and delete the other file or replica",
        ),
        "sfn-not-plain": Reason(
            (FACT,),
            "The replica's path is missing, ends with a slash, has a NUL byte, or has . or .. as a part: it "
            "is no file of its file system.",
            "correct the sfn in Cns_file_replica",
        ),
        "size-out-of-range": Reason(
            (ENTRY,),
            "The size is missing or beyond 2^63 - 1 bytes.",
            "set filesize in the database to the size on disk",
        ),
        "status-deleted": Reason(
            (ENTRY,),
            "The entry is marked as deleted (status D) by a legacy daemon.",
            _DROP_IF_UNUSED,
        ),
        "symlink-not-followed": Reason(
            (FACT,),
            "The link is there with its target, but dCache does not open files through targets with "
            "non-ASCII bytes or backslashes.",
            "make the link anew with a relative ASCII target, if its users need it",
        ),
        "symlink-target-empty": Reason((ENTRY,), "The symbolic link has an empty target.", _DROP_IF_UNUSED),
        "symlink-target-not-utf8": Reason(
            (ENTRY,),
            "The link's target is not valid UTF-8, or contains a NUL byte.",
            "make the link anew",
        ),
        "symlink-without-target": Reason(
            (ENTRY,), "The symbolic link has no row in Cns_symlinks.", _DROP_IF_UNUSED
        ),
        "time-out-of-range": Reason(
            (FACT,),
            "A modification or change time is missing or before 1970; the other one stands in for it, or "
            "1970-01-02 where both are bad.",
            "nothing",
        ),
        "type-unknown": Reason(
            (ENTRY,),
            "The mode says neither file, directory nor symbolic link.",
            "set the type bits of filemode in the database, or delete the entry",
        ),
        "unknown-filesystem": Reason(
            (FACT,),
            "No file system in dpm_fs holds the replica's path: its server or file system was removed, or is "
            "in several pools of which the replica names none.",
            "register the file system again (`fsadd`), or delete the replica",
        ),
        "xattr-invalid": Reason(
            (FACT,),
            "The extended attributes are no JSON object, so checksums in them are lost. DPM's own stat "
            "fails on them as well.",
            "correct or empty the xattr column",
        ),
    }
)


class QuarantineRow(NamedTuple):
    """A line of the quarantine. `path` is valid text: bytes that are not UTF-8 stand as \\xNN in it."""

    fileid: int
    path: str
    scope: str
    reason: str
    detail: str
    first_seen: datetime
    last_seen: datetime

    def as_json(self) -> dict[str, Any]:
        return {
            **self._asdict(),
            "first_seen": self.first_seen.isoformat(),
            "last_seen": self.last_seen.isoformat(),
        }


async def listing(
    conn: asyncpg.Connection, site: Site, *, page_rows: int = PAGE_ROWS
) -> AsyncGenerator[QuarantineRow, None]:
    """All rows by fileid, as they were at the beginning, through a cursor in a read-only transaction.

    `conn` is busy until the end. Who stops earlier ends the transaction with `aclose`.
    """
    sql = stage.fill("dome_bridge.chimera", "quarantine.sql", site)
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        cursor = await conn.cursor(sql["rows"])
        while page := await cursor.fetch(page_rows):
            tops = await _ways_down(conn, sql["ways_up"], site, page)
            for row in page:
                yield _line(row, tops, site)


async def _ways_down(
    conn: asyncpg.Connection, ways_up: str, site: Site, page: Sequence[asyncpg.Record]
) -> dict[int, str]:
    """The path of each parent in the page."""
    parents = {row["parent"] for row in page if row["parent"] is not None}
    found = await conn.fetch(ways_up, list(parents))
    return {
        row["start"]: _joined("" if row["top"] == site.root_fileid else LOST, row["names"]) for row in found
    }


def _line(row: asyncpg.Record, tops: Mapping[int, str], site: Site) -> QuarantineRow:
    fileid = int(row["fileid"])
    path = "/" if fileid == site.root_fileid else _joined(tops.get(row["parent"], LOST), [row["name"]])
    detail = f"{row['subject']}: {row['detail']}" if row["subject"] else row["detail"]
    return QuarantineRow(
        fileid, path, row["scope"], row["reason"], detail, row["first_seen"], row["last_seen"]
    )


def _joined(top: str, names: Iterable[bytes | None]) -> str:
    return "/".join([top, *((name or b"").decode("utf-8", "backslashreplace") for name in names)])


def reference() -> str:
    """The table of docs/reference/quarantine.md."""
    rows = (
        f"| `{name}` | {', '.join(reason.scopes)} | {reason.meaning} | {reason.remedy} |"
        for name, reason in REASONS.items()
    )
    return "\n".join(
        ("| reason | scope | what it means | what helps |", "| --- | --- | --- | --- |", *rows, "")
    )


if __name__ == "__main__":
    sys.stdout.write(reference())
