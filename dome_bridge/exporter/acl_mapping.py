"""From DPM's POSIX ACLs to dCache's mode bits and NFSv4 entries, right by right the same.

The two evaluate differently: POSIX picks the class that fits the user best, dCache takes for
each bit the first entry that matches. The order of the entries makes up for it; the reasoning
is in docs/discussion/acl.md. The result depends on the ACL text and the mode alone, never on
who owns the entry, so that it can be computed once per distinct pair.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, reduce
from operator import or_
from typing import NamedTuple, TypeAlias

from dome_bridge.chimera import nfs4
from dome_bridge.chimera.nfs4 import Ace, AceFlag, AceType, RsType, Who
from dome_bridge.dpm import acl as posix
from dome_bridge.dpm.acl import ALL_RIGHTS, Acl, AclError, Rights

# The columns of t_acl are signed 32-bit integers.
MAX_CHIMERA_ID = 2**31 - 1

SYMLINK_IMODE = 0o777

_HANDED_DOWN = AceFlag.FILE_INHERIT | AceFlag.DIRECTORY_INHERIT | AceFlag.INHERIT_ONLY
_READ_METADATA = nfs4.Access.READ_ATTRIBUTES | nfs4.Access.READ_ACL


class ChimeraAcl(NamedTuple):
    """`t_inodes.imode` and the rows of `t_acl` in `ace_order`."""

    imode: int
    aces: tuple[Ace, ...]


class Untranslatable(NamedTuple):
    """An ACL that is lost, why, and the `t_inodes.imode` that stands without it."""

    reason: str
    imode: int


Translation: TypeAlias = ChimeraAcl | Untranslatable


class _Grant(NamedTuple):
    """Rights that one principal is explicitly allowed and denied; the rest falls to later entries."""

    who: Who
    who_id: int
    allow: int
    deny: int


@lru_cache(maxsize=1 << 14)
def chimera_acl(text: bytes, filemode: int) -> Translation:
    """What the `acl` and `filemode` columns become in Chimera; an empty text means no ACL.

    Never raises. An Untranslatable has the mode bits as DPM has them, or, when the ACL could be
    read, with the owning group's bits corrected.
    """
    if stat.S_ISLNK(filemode):
        return ChimeraAcl(SYMLINK_IMODE, ())
    if not text:
        return ChimeraAcl(stat.S_IMODE(filemode), ())
    try:
        acl = posix.parse(text)
    except AclError as error:
        return Untranslatable(str(error), stat.S_IMODE(filemode))
    try:
        return to_chimera(acl, filemode)
    except AclError as error:
        return Untranslatable(str(error), _imode(filemode, acl.rights()))


def to_chimera(acl: Acl, filemode: int) -> ChimeraAcl:
    """Mode and entries that give everybody in dCache the rights that `acl` and `filemode` give in DPM.

    Raises AclError for default entries on anything but a directory, and for ids that do not
    fit into `t_acl`.
    """
    _check_storable(acl, filemode)
    access = acl.rights()
    mode = Rights(filemode >> 6 & ALL_RIGHTS, access.group, filemode & ALL_RIGHTS, {}, {})
    # DPM takes the rights of the owner and of "other" from the mode, whatever A and F say.
    wanted = replace(access, owner=mode.owner, other=mode.other)
    rs_type = RsType.DIRECTORY if stat.S_ISDIR(filemode) else RsType.FILE
    aces = list(_aces(wanted, mode, rs_type, AceFlag(0)))
    if acl.has_defaults:
        # dCache gives a new entry the directory's own mode when the client names none.
        aces += _aces(acl.rights(default=True), mode, rs_type, _HANDED_DOWN)
    return ChimeraAcl(_imode(filemode, access), tuple(aces))


def _imode(filemode: int, access: Rights) -> int:
    # With an ACL, DPM's stored group bits hold the mask or are stale.
    return stat.S_IMODE(filemode) & ~0o070 | access.group << 3


def _check_storable(acl: Acl, filemode: int) -> None:
    if acl.has_defaults and not stat.S_ISDIR(filemode):
        raise AclError(
            f"ACL {posix.format(acl)[:80].decode()!r}: default entries on something that is not a directory;"
            " set it anew with the acl command of dmlite-shell"
        )
    for entry in acl.entries:
        if entry.tag in (posix.Tag.USER, posix.Tag.GROUP) and entry.id > MAX_CHIMERA_ID:
            raise AclError(
                f"ACL entry for id {entry.id}: Chimera holds ids up to {MAX_CHIMERA_ID};"
                " remove the entry with the acl command of dmlite-shell"
            )


def _aces(wanted: Rights, mode: Rights, rs_type: RsType, flags: AceFlag) -> Iterator[Ace]:
    """The entries that turn what `mode` grants into what is `wanted`.

    OWNER@, GROUP@, EVERYONE@ and every deny name only the bits that need it.
    """
    everyone = _everyone(wanted, mode)
    groups = _groups(wanted, mode, everyone)
    users = _users(wanted)
    later = [*users, *groups, everyone]
    for grant in (_owner(wanted, mode, later), *users):
        yield from _both(grant, rs_type, flags)
    for grant in groups:
        yield from _both(grant._replace(deny=0), rs_type, flags)
    for grant in groups:
        yield from _both(grant._replace(allow=0), rs_type, flags)
    yield from _both(everyone, rs_type, flags)


def _everyone(wanted: Rights, mode: Rights) -> _Grant:
    allow, deny = wanted.other & ~mode.other, mode.other & ~wanted.other
    return _Grant(Who.EVERYONE, nfs4.NO_ID, allow, deny)


def _groups(wanted: Rights, mode: Rights, everyone: _Grant) -> list[_Grant]:
    """A named group's members would else get what "other" gets, the owning group's its mode bits."""
    named = [_Grant(Who.GROUP, gid, perm, wanted.other & ~perm) for gid, perm in wanted.groups.items()]
    remaining = mode.group & ~everyone.deny | everyone.allow
    endangered = _union(grant.deny for grant in named) | ~remaining
    owning = _Grant(Who.OWNING_GROUP, nfs4.NO_ID, wanted.group & endangered, remaining & ~wanted.group)
    return [owning, *named]


def _users(wanted: Rights) -> list[_Grant]:
    """A named user gets neither more nor less for being in any of the groups."""
    elsewhere = wanted.group | wanted.other | _union(wanted.groups.values())
    return [
        _Grant(Who.USER, uid, perm, elsewhere & ~perm)
        for uid, perm in wanted.users.items()
        if uid != 0  # root may do everything in both
    ]


def _owner(wanted: Rights, mode: Rights, later: list[_Grant]) -> _Grant:
    """The owner may be any of the named users and in any of the groups."""
    denied_later = _union(grant.deny for grant in later)
    allowed_later = _union(grant.allow for grant in later)
    allow = wanted.owner & (denied_later | ~mode.owner)
    deny = ~wanted.owner & (allowed_later | mode.owner)
    return _Grant(Who.OWNER, nfs4.NO_ID, allow, deny)


def _both(grant: _Grant, rs_type: RsType, flags: AceFlag) -> Iterator[Ace]:
    if grant.who is Who.GROUP:
        flags |= AceFlag.IDENTIFIER_GROUP
    if grant.allow:
        access = nfs4.access_mask(grant.allow, rs_type) | _READ_METADATA
        yield Ace(rs_type, AceType.ALLOW, access, grant.who, grant.who_id, flags)
    if grant.deny:
        access = nfs4.access_mask(grant.deny, rs_type)
        yield Ace(rs_type, AceType.DENY, access, grant.who, grant.who_id, flags)


def _union(rights: Iterable[int]) -> int:
    return reduce(or_, rights, 0)
