"""The command that removes files and symbolic links."""

from __future__ import annotations

import stat
from functools import partial
from typing import TYPE_CHECKING

from dome_bridge.dome_api.admission import CHANGING, on_path
from dome_bridge.dome_api.catalog import Entry, walk
from dome_bridge.dome_api.command import Commands, Text
from dome_bridge.dome_api.permissions import EXECUTE, WRITE, Subject, may, may_replace, require
from dome_bridge.dome_api.removal import unlink_file
from dome_bridge.dome_api.target import Target
from dome_bridge.dome_api.wire import Answer
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

commands = Commands()


@commands.post("dome_unlink", on_path("lfn", needs=CHANGING, is_file=True, spares_base=True))
async def unlink(call: Call, lfn: Text = "") -> Answer:
    """Removes a file with all its replicas, or a symbolic link."""
    if not lfn:
        raise ApiError(422, "Empty lfn.")
    subject = await call.subject()
    entry = await call.database.read(partial(_removable, lfn, subject))
    target = Target(entry, partial(_require_rights, lfn, subject))
    await unlink_file(call.head, target, call.disk_user)
    return Answer.EMPTY


async def _removable(lfn: str, subject: Subject, source: Source) -> Entry:
    """What the path leads to, if the subject may remove it."""
    found = await walk(source, lfn)
    parent, entry = found.parent, found.entry
    if parent is None:
        raise ApiError(404, f"Cannot get parent of '{lfn}'")
    _require_listing(found.parent_path, subject, parent)
    if entry is None:
        raise ApiError(404, f"Cannot stat '{lfn}'")
    if entry.is_directory:
        raise ApiError(422, f"Cannot unlink a directory '{lfn}'")
    if entry.parent != parent.fileid:
        # A dot after the name of a file would have the rights on the file decide, not those on its directory.
        raise ApiError(404, f"Cannot stat '{lfn}': it is not a directory")
    _require_rights(lfn, subject, parent, entry)
    return entry


def _require_listing(path: str, subject: Subject, directory: Entry) -> None:
    require(may(subject, directory, EXECUTE), f"Not enough permissions to list on '{path}'")


def _require_rights(lfn: str, subject: Subject, parent: Entry, entry: Entry) -> None:
    """As in DOME, the sticky rule takes the place of the right to write into the directory."""
    _require_listing(parent.name, subject, parent)
    if parent.mode & stat.S_ISVTX:
        text = f"Not enough permissions (sticky bit set) to unlink '{lfn}'"
        require(may_replace(subject, parent, entry), text)
    else:
        require(may(subject, parent, WRITE), f"Not enough permissions to unlink '{lfn}'")
