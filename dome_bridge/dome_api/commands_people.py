"""The commands about users and groups. Who may call at all may call them, as in DOME."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from dome_bridge.auth.principal import Role
from dome_bridge.dome_api.admission import Admission
from dome_bridge.dome_api.catalog import bytes_of
from dome_bridge.dome_api.command import Codec, Commands, Text, Texts, Unsigned
from dome_bridge.dome_api.people import IdentityError, IdMap, Person, Register, shown
from dome_bridge.dome_api.wire import Answer, Tree
from dome_bridge.dpm import xattr as attributes
from dome_bridge.dpm.xattr import XattrError
from dome_bridge.errors import ApiError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

commands = Commands()

MAX_XATTR_BYTES = 1023
"""What DPM's own daemons read of it."""

NOT_GIVEN = -1

Int32 = Annotated[
    int,
    Codec(
        "whole number of 32 bits",
        lambda parameters, key, default: parameters.integer(key, default, bits=32),
        lambda parameters, key: parameters.required_integer(key, bits=32),
    ),
]


@commands.get("dome_getidmap", Admission(frontend=True))
async def getidmap(call: Call, username: Text, groupnames: Texts) -> Answer:
    """The numbers of a user and of groups given as FQANs; creates those that there are not yet.

    For a front-end groups of VOs that the site does not serve are left out. Without groups it tells those
    that the grid-mapfile has for the user.
    """
    try:
        may_make_any = call.request.principal.role is Role.HEAD
        vos = None if may_make_any else call.vos
        return Answer.json(_idmap(await call.head.people.idmap(username, groupnames, vos=vos)))
    except IdentityError as exc:
        raise ApiError(422, f"Unable to get id mapping: {exc.text}") from exc


@commands.get("dome_getuser", Admission(frontend=True))
async def getuser(call: Call, userid: Int32 = NOT_GIVEN, username: Text = "") -> Answer:
    """A user, by number or by name."""
    users = call.head.people.users
    if userid >= 0:
        user, wanted = await users.by_id(userid), f"userid {userid}"
    elif username:
        user, wanted = await users.by_name(username), f"username {shown(username)}"
    else:
        raise ApiError(400, "It's a hard life without userid or username, dear friend.")
    return Answer.json(_user(_require_found(user, f"Can't find {wanted}")))


@commands.get("dome_getgroup", Admission(frontend=True))
async def getgroup(call: Call, groupid: Unsigned = NOT_GIVEN, groupname: Text = "") -> Answer:
    """A group, by number or by name."""
    groups = call.head.people.groups
    if groupid > 0 or (groupid == 0 and not groupname):
        group, wanted = await groups.by_id(groupid), f"gid:{groupid}"
    elif groupname:
        group, wanted = await groups.by_name(groupname), f"name:{shown(groupname)}"
    else:
        raise ApiError(422, "Groupname or gid not specified")
    return Answer.json(_group(_require_found(group, f"Can't find group {wanted}")))


@commands.get("dome_getusersvec", Admission(frontend=True))
async def getusersvec(call: Call) -> Answer:
    """All users."""
    return Answer.json({"users": [_user(user) for user in await call.head.people.users.everybody()]})


@commands.get("dome_getgroupsvec", Admission(frontend=True))
async def getgroupsvec(call: Call) -> Answer:
    """All groups."""
    return Answer.json({"groups": [_group(group) for group in await call.head.people.groups.everybody()]})


@commands.post("dome_newuser")
async def newuser(call: Call, username: Text = "") -> Answer:
    """Creates a user."""
    if not username:
        raise ApiError(422, "Empty username")
    await call.head.people.users.create(username)
    return Answer.EMPTY


@commands.post("dome_newgroup")
async def newgroup(call: Call, groupname: Text = "") -> Answer:
    """Creates a group."""
    if not groupname:
        raise ApiError(422, "Empty groupname")
    await call.head.people.groups.create(groupname)
    return Answer.EMPTY


@commands.post("dome_deleteuser")
async def deleteuser(call: Call, username: Text) -> Answer:
    """Deletes a user; files keep the number."""
    await call.head.people.users.delete(username)
    return Answer.EMPTY


@commands.post("dome_deletegroup")
async def deletegroup(call: Call, groupname: Text) -> Answer:
    """Deletes a group; files keep the number."""
    await call.head.people.groups.delete(groupname)
    return Answer.EMPTY


@commands.post("dome_updateuser")
async def updateuser(
    call: Call, username: Text = "", uid: Unsigned = NOT_GIVEN, banned: Int32 = 0, xattr: Text = ""
) -> Answer:
    """Replaces the ban and the attributes of a user, also what is not given: not banned, none."""
    if not username and uid == NOT_GIVEN:
        raise ApiError(422, "No user specified.")
    await _update(call.head.people.users, username, uid, banned, xattr)
    return Answer.EMPTY


@commands.post("dome_updategroup")
async def updategroup(
    call: Call, groupname: Text = "", groupid: Unsigned = NOT_GIVEN, banned: Int32 = 0, xattr: Text = ""
) -> Answer:
    """Replaces the ban and the attributes of a group, also what is not given: not banned, none."""
    if not groupname and groupid == NOT_GIVEN:
        raise ApiError(422, "No group specified.")
    await _update(call.head.people.groups, groupname, groupid, banned, xattr)
    return Answer.EMPTY


async def _update(register: Register, name: str, number: int, banned: int, xattr: str) -> None:
    """name: wins if it is not empty. Raises ApiError 422."""
    _require_attributes(xattr)
    person = None if name else await register.by_id(number)
    found = name or (person.name if person else "")
    if not found or not await register.update(found, banned=banned, xattr=xattr):
        raise ApiError(422, f"Unable to get {shown(name or str(number))}: nobody has that name or number")


def _require_attributes(xattr: str) -> None:
    text = bytes_of(xattr)
    if len(text) > MAX_XATTR_BYTES:
        raise ApiError(422, f"Invalid xattr content: it is longer than {MAX_XATTR_BYTES} bytes")
    try:
        attributes.parse(text)
    except XattrError as exc:
        raise ApiError(422, f"Invalid xattr content: {exc}") from exc


def _require_found(person: Person | None, text: str) -> Person:
    if person is None:
        raise ApiError(404, text)
    return person


def _idmap(idmap: IdMap) -> Tree:
    """Without groups, without the key."""
    user: dict[str, Tree] = {"uid": str(idmap.user.id), "banned": str(idmap.user.banned)}
    groups = {group.name: {"gid": str(group.id), "banned": str(group.banned)} for group in idmap.groups}
    return {**user, "groups": groups} if groups else user


def _user(user: Person) -> Tree:
    return {
        "username": user.name,
        "userid": str(user.id),
        "banned": str(user.banned),
        "xattr": user.xattr,
    }


def _group(group: Person) -> Tree:
    return {
        "groupname": group.name,
        "gid": str(group.id),
        "banned": str(group.banned),
        "xattr": group.xattr,
    }
