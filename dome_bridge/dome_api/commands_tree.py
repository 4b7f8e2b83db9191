"""The commands that change the tree: making, removing and renaming entries.

They ask for rights on the directories they change and not on what lies above these, as in DOME.
A look-up tells early what cannot be done; what it has found is locked and looked at again before
anything is changed, so that of several clients who want the same one wins and the others are told.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dome_bridge.dome_api import catalog
from dome_bridge.dome_api.admission import CHANGING, WRITING, Admission, on_path
from dome_bridge.dome_api.catalog import Entry, Walk, bytes_of, names_of, walk
from dome_bridge.dome_api.changes import (
    MAX_TARGET_BYTES,
    ExistsError,
    GoneError,
    NewEntry,
    create_entry,
    delete_entry,
    locked_again,
    move_entry,
    require_name,
    set_size,
)
from dome_bridge.dome_api.command import Commands, Text, Unsigned
from dome_bridge.dome_api.permissions import EXECUTE, WRITE, Subject, may, may_replace, require, require_scope
from dome_bridge.dome_api.refusals import refused_with
from dome_bridge.dome_api.wire import Answer
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

logger = logging.getLogger(__name__)

commands = Commands()

ALL_BITS = 0xFFFFFFFF
"""The mode of a directory for which none is given; the ACL it inherits takes from it."""

CREATE_ATTEMPTS = 4
"""At a file that others make and remove at the same time."""


@commands.post("dome_create", on_path("path", needs=WRITING, is_file=True, spares_base=True))
async def create(call: Call, path: Text = "", mode: Unsigned = 0) -> Answer:
    """Makes an empty file; one without replicas that is there already is truncated."""
    if not path:
        raise ApiError(422, "Empty path")
    subject = await call.subject()
    with _failing_with(422, f"Can't create file '{path}'", unless=(403, 404)):
        await _create_or_truncate(call, path, stat.S_IFREG | stat.S_IMODE(mode), subject)
    return Answer.EMPTY


@commands.post("dome_makedir", on_path("path", needs=WRITING, creates_leading=True))
async def make_directory(call: Call, path: Text = "", mode: Unsigned = ALL_BITS) -> Answer:
    """Makes a directory. One that is there already is a 400, which clients take for success."""
    if not path:
        raise ApiError(422, "No path specified")
    subject = await call.subject()
    with _failing_with(400, f"Cannot create dir '{path}'", unless=(403, 404)):
        place = await _look_up(call, path)
        if place.entry is not None and call.scopes is not None and not call.scopes.permits(WRITING, path):
            # On the way to what the token may write: it is told that the directory is there.
            return Answer.text(f"'{path}' exists already", 409)
        await _create(call, place, stat.S_IFDIR | stat.S_IMODE(mode), subject)
    return Answer.EMPTY


@commands.post("dome_symlink", Admission(users=True, paths=("link",)))
async def make_symbolic_link(call: Call, target: Text = "", link: Text = "") -> Answer:
    """Makes a symbolic link, which may lead nowhere."""
    if not target:
        raise ApiError(422, "Empty link target.")
    if not link:
        raise ApiError(422, "Empty link name.")
    if len(bytes_of(target)) > MAX_TARGET_BYTES:
        raise ApiError(422, f"the target of a link must not be longer than {MAX_TARGET_BYTES} bytes")
    subject = await call.subject()
    with _failing_with(422, f"Cannot create link '{link}'", unless=(403,)):
        place = await _look_up(call, link)
        mode = stat.S_IFLNK | 0o777
        await _create(call, place, mode, subject, target=target, needs=WRITE | EXECUTE)
    return Answer.EMPTY


@commands.post("dome_removedir", on_path("path", needs=CHANGING, spares_base=True))
async def remove_directory(call: Call, path: Text = "") -> Answer:
    """Removes an empty directory."""
    if not names_of(path):
        raise ApiError(422, "Can not remove '/' or empty paths.")
    subject = await call.subject()
    place = await _look_up(call, path)
    entry = place.entry
    if entry is None:
        raise ApiError(404, f"Cannot stat path '{path}'")
    await call.database.transact(lambda source: _remove_directory(source, place, entry, subject))
    return Answer.EMPTY


@commands.post("dome_rename", on_path("oldpath", "newpath", needs=WRITING, spares_base=True))
async def rename(call: Call, oldpath: Text = "", newpath: Text = "") -> Answer:
    """Renames or moves an entry; what has the new name is replaced if nothing is lost with it."""
    if not names_of(oldpath) or not names_of(newpath):
        raise ApiError(422, "Cannot process empty paths or '/'")
    subject = await call.subject()
    with _failing_with(422, f"Cannot rename '{oldpath}' to '{newpath}'", unless=(403,)):
        move = await _look_up_move(call, oldpath, newpath)
        has_moved = await call.database.transact(lambda source: _rename(source, move, subject))
    return Answer.EMPTY if has_moved else Answer.text("Source is the same as destination, that's funny.")


@contextmanager
def _failing_with(status: int, what: str, *, unless: tuple[int, ...]) -> Iterator[None]:
    """Whatever the client asks in vain has the one status that the protocol knows for it."""
    with refused_with(status, what):
        try:
            yield
        except ApiError as exc:
            if exc.status in unless:
                raise
            raise ApiError(status, f"{what}: {exc.text}") from exc


@dataclass(frozen=True)
class _Place:
    """Where a look-up has found an entry, or room for one. lineage: down to its directory."""

    path: str
    name: str
    lineage: tuple[Entry, ...]
    entry: Entry | None

    @property
    def directory(self) -> Entry:
        return self.lineage[-1]

    @classmethod
    def from_walk(cls, found: Walk) -> _Place:
        """No entry is named by a dot at the end of a path. Raises ApiError 404 without a directory."""
        if not found.lineage:
            raise ApiError(404, f"Can't find parent path of '{found.path}'")
        entry = found.entry
        is_named = entry is not None and (entry.parent, entry.name) == (found.lineage[-1].fileid, found.name)
        return cls(found.path, found.name, found.lineage, entry if is_named else None)


async def _look_up(call: Call, path: str) -> _Place:
    return _Place.from_walk(await call.database.read(lambda source: walk(source, path)))


async def _create_or_truncate(call: Call, path: str, mode: int, subject: Subject) -> None:
    for _ in range(CREATE_ATTEMPTS):
        place = await _look_up(call, path)
        _require_rights(subject, place.directory, WRITE)
        try:
            if place.entry is None:
                await _create(call, place, mode, subject)
            else:
                require_scope(subject, CHANGING, path, is_file=True)
                await _truncate(call, path, place.entry, subject)
        except (ExistsError, GoneError) as exc:
            logger.debug("looking again path=%s reason=%s", path, exc)
        else:
            return
    raise ApiError(422, "others make and remove it all the time; try again")


async def _create(
    call: Call, place: _Place, mode: int, subject: Subject, *, target: str = "", needs: int = WRITE
) -> None:
    """Looks before it locks: of those who want what is there already nobody has to wait."""
    _require_rights(subject, place.directory, needs)
    new = NewEntry(require_name(place.name), mode, target)
    if place.entry is not None:
        raise ExistsError(new.name, place.directory)
    if not place.directory.is_directory:
        raise ApiError(422, f"'{place.directory.name}' is not a directory")
    subject = await call.enrolled(place.directory)
    await call.database.transact(
        lambda source: create_entry(source, place.directory, new, subject, needs=needs)
    )


def _require_rights(subject: Subject, directory: Entry, needs: int) -> None:
    require(may(subject, directory, needs), f"Need write access on '{directory.name}'")


async def _truncate(call: Call, path: str, entry: Entry, subject: Subject) -> None:
    async def work(source: Source) -> None:
        found = await locked_again(source, entry)
        if found.is_directory:
            raise ApiError(422, "it is a directory. Can not truncate")
        if await catalog.replicas_of(source, found.fileid, locked=True):
            raise ApiError(403, f"Exists and has replicas. Can not truncate '{path}'")
        is_allowed = subject.uid == found.uid or may(subject, found, WRITE)
        require(is_allowed, f"Not enough permissions to truncate '{path}'")
        await set_size(source, found, 0)

    await call.database.transact(work)


async def _remove_directory(source: Source, place: _Place, entry: Entry, subject: Subject) -> None:
    parent = await locked_again(source, place.directory)
    directory = await locked_again(source, entry)
    if not directory.is_directory:
        raise ApiError(422, f"Not a directory. Can not remove path '{place.path}'")
    if directory.nlink > 0:
        raise ApiError(422, f"Not empty. Can not remove path '{place.path}'")
    require(
        may(subject, parent, WRITE) and may_replace(subject, parent, directory),
        f"Not enough permissions to remove '{place.path}'",
    )
    if await catalog.has_children(source, directory.fileid):
        raise ApiError(422, f"Not empty, although its nlink says so. Can not remove path '{place.path}'")
    await delete_entry(source, directory)


@dataclass(frozen=True)
class _Move:
    """A renaming as it was looked up."""

    entry: Entry
    old: _Place
    new: _Place


async def _look_up_move(call: Call, oldpath: str, newpath: str) -> _Move:
    old, new = await _look_up(call, oldpath), await _look_up(call, newpath)
    if old.entry is None:
        raise ApiError(422, f"Cannot stat path '{oldpath}'")
    require_name(new.name)
    return _Move(old.entry, old, new)


async def _rename(source: Source, move: _Move, subject: Subject) -> bool:
    """False if the entry has the new name already."""
    directories = await _locked_directories(source, move)
    old, new = (directories[place.directory.fileid] for place in (move.old, move.new))
    entry = await locked_again(source, move.entry)
    _require_rights_to_move(subject, entry, old, new)
    _require_scopes_to_move(subject, entry, move)
    if entry.fileid in {ancestor.fileid for ancestor in move.new.lineage}:
        raise ApiError(422, "Destination is descendant of source")
    if not new.is_directory:
        raise ApiError(422, f"'{new.name}' is not a directory")
    return await _move_to(source, entry, new, move, subject)


async def _locked_directories(source: Source, move: _Move) -> dict[int, Entry]:
    """The directories by fileid, locked from the top down.

    Nothing above the new place of a directory can move until the transaction ends: two clients
    who put two directories into each other would make a ring that no path leads to.
    """
    old, new = move.old.lineage, move.new.lineage
    levels = {entry.fileid: (level, entry) for line in (old, new) for level, entry in enumerate(line)}
    parents = {old[-1].fileid, new[-1].fileid}
    above = {entry.fileid for entry in new} if move.entry.is_directory else set()
    locked = {}
    for fileid in sorted(parents | above, key=lambda fileid: (levels[fileid][0], fileid)):
        found = levels[fileid][1]
        locked[fileid] = await locked_again(source, found, shared=fileid not in parents)
    return locked


def _require_rights_to_move(subject: Subject, entry: Entry, old: Entry, new: Entry) -> None:
    require(may(subject, old, WRITE), f"Not enough permissions on origin path '{old.name}'")
    require(may(subject, new, WRITE), f"Not enough permissions on destination path '{new.name}'")
    if entry.is_directory:
        require(may(subject, entry, WRITE), f"Not enough permissions on path '{entry.name}'")
    require(may_replace(subject, old, entry), "Sticky bit set on the parent, and not enough permissions")


def _require_scopes_to_move(subject: Subject, entry: Entry, move: _Move) -> None:
    """A file may be moved by who may create at both places; what else there is, by who may change both."""
    needs = WRITING if entry.is_file else CHANGING
    for path in (move.old.path, move.new.path):
        require_scope(subject, needs, path, is_file=not entry.is_directory)


async def _move_to(source: Source, entry: Entry, directory: Entry, move: _Move, subject: Subject) -> bool:
    name = move.new.name
    taken_by = await catalog.locked_child(source, directory.fileid, name)
    if taken_by is not None and taken_by.fileid != entry.fileid:
        # Before anything is said of what is there.
        for path in (move.old.path, move.new.path):
            require_scope(subject, CHANGING, path, is_file=not entry.is_directory)
        if taken_by.name != name:
            raise ApiError(422, f"the database takes '{taken_by.name}' for the same name")
        await _require_replaceable(source, entry, taken_by, directory, subject)
        await delete_entry(source, taken_by)
    elif taken_by is not None and taken_by.name == name:
        return False
    await move_entry(source, entry, directory.fileid, name)
    return True


async def _require_replaceable(
    source: Source, entry: Entry, old: Entry, directory: Entry, subject: Subject
) -> None:
    if old.is_directory and not entry.is_directory:
        raise ApiError(422, "Source is not directory and destination is.")
    if entry.is_directory and not old.is_directory:
        raise ApiError(422, "Source is a directory and destination is not.")
    require(may_replace(subject, directory, old), "Sticky bit set on the parent of the destination")
    if old.is_directory:
        if old.nlink > 0 or await catalog.has_children(source, old.fileid):
            raise ApiError(422, f"The destination directory '{old.name}' is not empty")
    elif await catalog.replicas_of(source, old.fileid, locked=True):
        raise ApiError(422, f"The destination file '{old.name}' exists and has replicas.")
