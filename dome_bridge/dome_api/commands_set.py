"""The commands that set properties of an entry: mode, owner, size, ACL, comment, attributes.

Look-up, check and change are one transaction: what the path leads to is locked before its
permissions are looked at. Only links are followed before it, as that may take long. As in DOME,
the directories above the entry have no say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.dome_api import catalog, properties
from dome_bridge.dome_api.admission import CHANGING, on_path, on_rights
from dome_bridge.dome_api.catalog import Entry
from dome_bridge.dome_api.changes import locked_again, set_owner_mode_acl
from dome_bridge.dome_api.changes import set_size as set_filesize
from dome_bridge.dome_api.command import Commands, Flag, Integer, Text, Unsigned
from dome_bridge.dome_api.permissions import WRITE, Subject, may, require, require_scope
from dome_bridge.dome_api.properties import KEEP, Access, Attributes, Owner
from dome_bridge.dome_api.refusals import refused_with
from dome_bridge.dome_api.wire import Answer
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

commands = Commands()

REFUSED = "the database refused the change"


@commands.post("dome_setmode", on_rights("path", ids=("fileid",)))
async def set_mode(call: Call, path: Text = "", fileid: Integer = 0, mode: Unsigned = 0) -> Answer:
    """Sets the permission bits; the ACL stays as it is, whatever it says."""
    target = _Target(path, fileid)
    target.require_given("Cannot process empty path and no fileid")
    subject = await call.subject()

    async def work(source: Source) -> None:
        entry = await target.locked_for_writing(source, subject)
        await set_owner_mode_acl(
            source, entry, uid=entry.uid, gid=entry.gid, mode=mode, acl_text=entry.acl_text
        )

    with refused_with(400, REFUSED):
        await call.database.transact(work)
    return Answer.EMPTY


@commands.post("dome_setowner", on_rights("path"))
async def set_owner(
    call: Call, uid: Unsigned, gid: Unsigned, path: Text = "", follow: Flag = False
) -> Answer:
    """Sets owner and group, in the ACL too; -1 and 4294967295 keep what there is."""
    target = _Target(path)
    target.require_given("Path cannot be empty.")
    wanted = Owner(uid, gid)
    await _require_known(call, wanted)
    subject = await call.subject()
    if follow:
        target = await target.followed(call)

    async def work(source: Source) -> None:
        entry = await target.locked(source)
        owner = wanted.applied_to(entry)
        if owner == Owner.of(entry):
            return
        properties.require_may_give(subject, entry, owner)
        acl_text = properties.acl_of_owner(entry, owner)
        await set_owner_mode_acl(
            source, entry, uid=owner.uid, gid=owner.gid, mode=entry.mode, acl_text=acl_text
        )

    await call.database.transact(work)
    return Answer.EMPTY


@commands.post("dome_setsize", on_path("path", needs=CHANGING, is_file=True))
async def set_size(call: Call, path: Text = "", size: Integer = -1) -> Answer:
    """Sets the size of an entry; those of the directories above stay as they are."""
    target = _Target(path)
    target.require_given("Path cannot be empty.")
    if size < 0:
        raise ApiError(422, "Wrong or missing filesize")
    subject = await call.subject()

    async def work(source: Source) -> None:
        entry = await target.locked(source)
        is_allowed = subject.uid == entry.uid or may(subject, entry, WRITE)
        require(is_allowed, f"Can not set the size of '{path}'")
        await set_filesize(source, entry, size)

    await call.database.transact(work)
    return Answer.EMPTY


@commands.post("dome_setacl", on_rights("path"))
async def set_acl(call: Call, path: Text = "", acl: Text = "") -> Answer:
    """Replaces the ACL and sets the mode to what it says; an ACL cannot be taken away."""
    target = _Target(path)
    target.require_given("Empty lfn.")
    if not acl:
        raise ApiError(422, "Empty acl.")
    properties.require_plausible_acl(acl)
    subject = await call.subject()

    async def work(source: Source) -> None:
        entry = await target.locked(source)
        is_allowed = subject.is_root or subject.uid == entry.uid
        require(is_allowed, f"Only the owner or root can set the ACL of '{path}'")
        access = Access.from_acl(entry, acl)
        await set_owner_mode_acl(
            source, entry, uid=entry.uid, gid=entry.gid, mode=access.mode, acl_text=access.acl_text
        )

    with refused_with(400, REFUSED):
        await call.database.transact(work)
    return Answer.EMPTY


@commands.post("dome_setcomment", on_path("lfn", needs=CHANGING, ids=("fileid",)))
async def set_comment(call: Call, lfn: Text = "", fileid: Integer = 0, comment: Text = "") -> Answer:
    """Replaces the comment on an entry; without one it becomes empty."""
    target = _Target(lfn, fileid)
    target.require_given("Cannot process empty paths.")
    subject = await call.subject()

    async def work(source: Source) -> None:
        entry = await target.locked_for_writing(source, subject)
        if lfn and not fileid:
            require_scope(subject, CHANGING, lfn, is_file=not entry.is_directory)
        await properties.set_comment(source, entry, comment)

    with refused_with(400, REFUSED):
        await call.database.transact(work)
    return Answer.json({"comment": comment})


@commands.post("dome_updatexattr", on_rights("lfn", ids=("fileid",), disk=True, owns_file=True))
async def update_attributes(call: Call, lfn: Text = "", fileid: Integer = 0, xattr: Text = "") -> Answer:
    """Replaces all extended attributes; a checksum among them goes into the legacy columns too."""
    target = _Target(lfn, fileid)
    target.require_given("No path or fileid specified.")
    attributes = Attributes.from_json(xattr)
    subject = await call.subject()

    async def work(source: Source) -> None:
        entry = await target.locked_for_writing(source, subject)
        await properties.set_attributes(source, entry, attributes)

    with refused_with(422, REFUSED):
        await call.database.transact(work)
    return Answer.EMPTY


@dataclass(frozen=True)
class _Target:
    """The entry that a client means: by fileid if it gives one, else by path, which may be that of a link.

    found: what the path was seen to lead to.
    """

    path: str
    fileid: int = 0
    found: Entry | None = None

    def __str__(self) -> str:
        return f"fileid: {self.fileid}" if self.fileid else f"lfn: '{self.path}'"

    def require_given(self, otherwise: str) -> None:
        """Raises ApiError 422 with that text if the client means nothing at all."""
        if not self.path and not self.fileid:
            raise ApiError(422, otherwise)

    async def locked(self, source: Source) -> Entry:
        """As it is now, kept so until the transaction ends. Raises ApiError 404."""
        if self.fileid:
            entry = await catalog.locked_entry(source, self.fileid)
        else:
            found = self.found or (await catalog.walk(source, self.path)).entry
            entry = found and await locked_again(source, found)
        if entry is None:
            raise ApiError(404, f"Can't find {self}")
        return entry

    async def followed(self, call: Call) -> _Target:
        """With what the links in the path lead to. Raises ApiError 404."""
        found = await call.database.read(lambda source: properties.follow(source, self.path))
        if found is None and call.area is None:
            raise ApiError(404, f"Can't find {self}")
        if found is None:
            raise AuthError(403, "S8", Reason.PATH, f"{self} leads to nothing")
        if call.area is not None:
            path = await call.database.read(partial(catalog.path_of, found))
            if not call.area.covers(path):
                raise AuthError(403, "S8", Reason.PATH, f"{self} leads out of the token's area")
        return replace(self, found=found)

    async def locked_for_writing(self, source: Source, subject: Subject) -> Entry:
        """Raises ApiError 404, and 403 without the right to write."""
        entry = await self.locked(source)
        require(
            may(subject, entry, WRITE),
            f"Not enough permissions on fileid '{entry.fileid}' lfn: '{self.path}'",
        )
        return entry


async def _require_known(call: Call, owner: Owner) -> None:
    """Raises ApiError 422 for numbers that nobody has."""
    people = call.head.people
    if owner.uid != KEEP and await people.users.by_id(owner.uid) is None:
        raise ApiError(422, f"Invalid uid: {owner.uid}")
    if owner.gid != KEEP and await people.groups.by_id(owner.gid) is None:
        raise ApiError(422, f"Invalid gid: {owner.gid}")
