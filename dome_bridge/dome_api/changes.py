"""Changes the namespace, as DPM's own statements do; every function belongs into a transaction.

Two clients that want the same meet at a locked row: the id counter for new entries, the entry
itself for all else. What was read before the transaction began must be read again, locked.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

from pymysql.constants import ER

from dome_bridge.dome_api import catalog
from dome_bridge.dome_api.catalog import MAX_NAME_BYTES, Entry, bytes_of
from dome_bridge.dome_api.permissions import WRITE, Subject, group_of_new, may, require
from dome_bridge.dome_api.sql import sql
from dome_bridge.dpm import acl
from dome_bridge.dpm.acl import Acl, AclError
from dome_bridge.dpm.source import Source, StatementError
from dome_bridge.errors import ApiError

MAX_TARGET_BYTES = 4095
FIRST_SIZED_DEPTH = 2
"""`/` and `/dpm` have no size; the deepest that has one is `[api] directory_size_depth`."""


class ExistsError(ApiError):
    """Something of that name is there already."""

    def __init__(self, name: str, parent: Entry) -> None:
        super().__init__(409, f"'{name}' exists already in fileid {parent.fileid}")


class GoneError(ApiError):
    """What the path led to has been removed or renamed meanwhile."""

    def __init__(self, what: str) -> None:
        super().__init__(404, f"{what} is gone: somebody else has removed or renamed it at the same time")


@dataclass(frozen=True)
class NewEntry:
    """What is to be created. mode: with the type bits. target: of a symbolic link."""

    name: str
    mode: int
    target: str = ""


def require_name(name: str) -> str:
    """`name` if an entry may have it. Raises ApiError 422."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ApiError(422, f"'{name}' cannot be the name of an entry")
    if len(bytes_of(name)) > MAX_NAME_BYTES:
        raise ApiError(422, f"the name '{name[:40]}…' is longer than {MAX_NAME_BYTES} bytes")
    return name


async def create_entry(
    source: Source, parent: Entry, new: NewEntry, subject: Subject, *, needs: int = WRITE
) -> int:
    """Inserts an entry below `parent` with the ACL and group that it inherits, counts it, returns its fileid.

    needs: rights on the parent, looked at again when it is locked. Raises ExistsError, GoneError for
    a parent that has gone, ApiError 422 for a bad name or parent and 403 without the rights or a group.
    """
    name = require_name(new.name)
    fileid = await _next_fileid(source)
    parent = await _locked_parent(source, parent, subject, needs)
    gid = group_of_new(subject, parent)
    mode = new.mode | (parent.mode & stat.S_ISGID)
    inherited = acl.inherit(None if stat.S_ISLNK(mode) else _default_acl(parent), mode, subject.uid, gid)
    nlink = 0 if stat.S_ISDIR(mode) else 1
    text = acl.format(inherited.acl) if inherited.acl else b""
    values = (fileid, parent.fileid, bytes_of(name), inherited.mode, nlink, subject.uid, gid, text)
    await _insert(source, values, name, parent)
    if new.target:
        await source.execute(sql(source, "insert_link_target"), (fileid, bytes_of(new.target)))
    await count_children(source, parent.fileid, 1)
    return fileid


async def _insert(source: Source, values: tuple[object, ...], name: str, parent: Entry) -> None:
    """The unique index finds a name that is taken; to look before would lock the gap around it."""
    try:
        await source.execute(sql(source, "insert_entry"), values)
    except StatementError as exc:
        if exc.number != ER.DUP_ENTRY:
            raise
        fileid = values[0]
        assert isinstance(fileid, int)
        if await catalog.shared_entry(source, fileid) is not None:
            raise ApiError(
                500, f"fileid {fileid} is in use already: set Cns_unique_id to the greatest fileid there is"
            ) from exc
        raise ExistsError(name, parent) from exc


async def _next_fileid(source: Source) -> int:
    last = await source.fetchval(sql(source, "last_fileid"))
    fileid = int(last or 0) + 1
    await source.execute(sql(source, "first_fileid" if last is None else "next_fileid"), (fileid,))
    return fileid


async def _locked_parent(source: Source, parent: Entry, subject: Subject, needs: int) -> Entry:
    parent = await locked_again(source, parent)
    if not parent.is_directory:
        raise ApiError(422, f"'{parent.name}' (fileid {parent.fileid}) is not a directory")
    require(may(subject, parent, needs), f"not enough rights on '{parent.name}' (fileid {parent.fileid})")
    return parent


async def locked_again(source: Source, entry: Entry, *, shared: bool = False) -> Entry:
    """An entry that a look-up has found, as it is now, kept so until the transaction ends.

    shared: others may read it. Raises GoneError if it is not where it was found any more.
    """
    lock = catalog.shared_entry if shared else catalog.locked_entry
    locked = await lock(source, entry.fileid)
    if locked is None or (locked.parent, locked.name) != (entry.parent, entry.name):
        raise GoneError(f"'{entry.name}' (fileid {entry.fileid})")
    return locked


def _default_acl(parent: Entry) -> Acl | None:
    """Raises ApiError 422: entries below an ACL that cannot be read would be open to the wrong people."""
    try:
        return parent.acl
    except AclError as exc:
        raise ApiError(422, f"nothing can be created in fileid {parent.fileid}: {exc}") from exc


async def count_children(source: Source, directory: int, change: int) -> None:
    """Corrects a directory's number of children, and its times."""
    await source.execute(sql(source, "count_children"), (change, directory))


async def delete_entry(source: Source, entry: Entry) -> None:
    """Removes an entry with what refers to it but replicas, and uncounts it; the entry is locked already."""
    for name in ("delete_link_target", "delete_comment", "delete_entry"):
        await source.execute(sql(source, name), (entry.fileid,))
    await count_children(source, entry.parent, -1)


async def move_entry(source: Source, entry: Entry, directory: int, name: str) -> None:
    """Gives an entry another name or place; it is locked already, and so are both directories."""
    await source.execute(sql(source, "move_entry"), (directory, bytes_of(name), entry.fileid))
    if directory == entry.parent:
        await source.execute(sql(source, "touch_directory"), (directory,))
        return
    await count_children(source, entry.parent, -1)
    await count_children(source, directory, 1)


async def add_to_sizes(source: Source, lineage: Iterable[Entry], change: int, deepest: int) -> None:
    """Adds `change` bytes to the directories above a file that have a size; none becomes negative.

    lineage: from the root on. deepest: `[api] directory_size_depth`.
    """
    directories = [directory.fileid for directory in lineage][FIRST_SIZED_DEPTH : deepest + 1]
    if not directories or not change:
        return
    if change > 0:
        await source.execute(sql(source, "grow_directories"), (change, directories))
    else:
        await source.execute(sql(source, "shrink_directories"), (-change, -change, directories))


async def set_owner_mode_acl(
    source: Source, entry: Entry, *, uid: int, gid: int, mode: int, acl_text: bytes
) -> None:
    """mode: the permission bits; the type stays the entry's own."""
    full = stat.S_IFMT(entry.mode) | stat.S_IMODE(mode)
    await source.execute(sql(source, "set_owner_mode_acl"), (uid, gid, full, acl_text, entry.fileid))


async def set_size(source: Source, entry: Entry, size: int) -> None:
    """Sizes of the directories above stay as they are."""
    await source.execute(sql(source, "set_size"), (size, entry.fileid))
