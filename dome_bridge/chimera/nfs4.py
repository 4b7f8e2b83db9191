"""dCache's NFSv4 ACLs: the rows of `t_acl`, and what they grant.

An access control entry (ACE) allows or denies bits to a principal. For each bit the first
entry that matches the user and mentions the bit decides; a bit that no entry mentions is
decided by the mode, so an ACL adds to the mode and does not replace it (dCache:
`AclMapper`, `ACLPermissionHandler` chained with `PosixPermissionHandler`).
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from typing import NamedTuple

READ = 4
WRITE = 2
EXECUTE = 1
ALL_RIGHTS = READ | WRITE | EXECUTE

NO_ID = -1


class RsType(enum.IntEnum):
    """`t_acl.rs_type`: what the inode is. Symbolic links count as files."""

    DIRECTORY = 0
    FILE = 1


class AceType(enum.IntEnum):
    """`t_acl.type`. dCache reads any value but 0 as deny."""

    ALLOW = 0
    DENY = 1


class Who(enum.IntEnum):
    """`t_acl.who`. Only USER and GROUP have a `who_id`."""

    USER = 0
    GROUP = 1
    OWNER = 2
    OWNING_GROUP = 3
    EVERYONE = 4
    ANONYMOUS = 5
    AUTHENTICATED = 6


class AceFlag(enum.IntFlag):
    """`t_acl.flags`."""

    FILE_INHERIT = 0x1
    DIRECTORY_INHERIT = 0x2
    INHERIT_ONLY = 0x8
    IDENTIFIER_GROUP = 0x40


class Access(enum.IntFlag):
    """`t_acl.access_msk`. The first three bits have another name on a directory."""

    READ_DATA = LIST_DIRECTORY = 0x1
    WRITE_DATA = ADD_FILE = 0x2
    APPEND_DATA = ADD_SUBDIRECTORY = 0x4
    READ_NAMED_ATTRIBUTES = 0x8
    WRITE_NAMED_ATTRIBUTES = 0x10
    EXECUTE = 0x20
    DELETE_CHILD = 0x40
    READ_ATTRIBUTES = 0x80
    WRITE_ATTRIBUTES = 0x100
    DELETE = 0x10000
    READ_ACL = 0x20000
    WRITE_ACL = 0x40000
    WRITE_OWNER = 0x80000
    SYNCHRONIZE = 0x100000


FILE_ACCESS = {
    READ: Access.READ_DATA,
    WRITE: Access.WRITE_DATA | Access.APPEND_DATA,
    EXECUTE: Access.EXECUTE,
}
# dCache removes or renames an entry by the directory's DELETE_CHILD, which POSIX has in its w.
DIRECTORY_ACCESS = {
    READ: Access.LIST_DIRECTORY,
    WRITE: Access.ADD_FILE | Access.ADD_SUBDIRECTORY | Access.DELETE_CHILD,
    EXECUTE: Access.EXECUTE,
}


class Ace(NamedTuple):
    """A row of `t_acl`, without the inode and the order."""

    rs_type: int
    type: int
    access_msk: int
    who: int
    who_id: int = NO_ID
    flags: int = 0


def access_mask(rights: int, rs_type: int) -> Access:
    """The access bits that r (4), w (2) and x (1) stand for on a directory or a file."""
    table = DIRECTORY_ACCESS if rs_type == RsType.DIRECTORY else FILE_ACCESS
    mask = Access(0)
    for right, bits in table.items():
        if rights & right:
            mask |= bits
    return mask


def evaluate(
    aces: Iterable[Ace],
    imode: int,
    owner: int,
    group: int,
    is_directory: bool,
    uid: int,
    gids: Collection[int],
) -> int:
    """The rights r (4), w (2), x (1) that dCache grants; a right counts when all its access bits do."""
    if uid == 0:
        return ALL_RIGHTS
    rs_type = RsType.DIRECTORY if is_directory else RsType.FILE
    allowed, denied = _decided(aces, owner, group, is_directory, uid, gids)
    by_mode = access_mask(_mode_rights(imode, owner, group, uid, gids), rs_type)
    access = allowed | (by_mode & ~denied)
    return sum(right for right in (READ, WRITE, EXECUTE) if not access_mask(right, rs_type) & ~access)


def inherited(aces: Iterable[Ace], is_directory: bool) -> tuple[Ace, ...]:
    """The entries that dCache gives to an entry created in a directory with `aces`."""
    inheriting = AceFlag.FILE_INHERIT | (AceFlag.DIRECTORY_INHERIT if is_directory else 0)
    dropped = AceFlag.INHERIT_ONLY | (0 if is_directory else AceFlag.FILE_INHERIT | AceFlag.DIRECTORY_INHERIT)
    rs_type = RsType.DIRECTORY if is_directory else RsType.FILE
    return tuple(
        ace._replace(rs_type=rs_type, flags=ace.flags & ~dropped) for ace in aces if ace.flags & inheriting
    )


def _decided(
    aces: Iterable[Ace], owner: int, group: int, is_directory: bool, uid: int, gids: Collection[int]
) -> tuple[int, int]:
    allowed = denied = 0
    for ace in aces:
        if is_directory and ace.flags & AceFlag.INHERIT_ONLY:
            continue
        if not _matches(ace, owner, group, uid, gids):
            continue
        undecided = ace.access_msk & ~(allowed | denied)
        if ace.type == AceType.ALLOW:
            allowed |= undecided
        else:
            denied |= undecided
    return allowed, denied


def _matches(ace: Ace, owner: int, group: int, uid: int, gids: Collection[int]) -> bool:
    match ace.who:
        case Who.USER:
            return ace.who_id == uid
        case Who.GROUP:
            return ace.who_id in gids
        case Who.OWNER:
            return owner == uid
        case Who.OWNING_GROUP:
            return group in gids
    return ace.who in (Who.EVERYONE, Who.AUTHENTICATED)


def _mode_rights(imode: int, owner: int, group: int, uid: int, gids: Collection[int]) -> int:
    if uid == owner:
        return imode >> 6 & ALL_RIGHTS
    return (imode >> 3 if group in gids else imode) & ALL_RIGHTS
