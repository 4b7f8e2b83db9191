"""Who may do what in the namespace: DPM's rules over entries that have been read already.

Pure: the entries come from `catalog`, the ids from `people`.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.scopes import Capability, Grants
from dome_bridge.dome_api.catalog import Entry
from dome_bridge.dpm import acl
from dome_bridge.dpm.acl import EXECUTE, READ, WRITE, AclError
from dome_bridge.errors import ApiError

__all__ = [
    "EXECUTE",
    "READ",
    "WRITE",
    "Subject",
    "can_see",
    "group_of_new",
    "may",
    "may_replace",
    "may_traverse",
    "require",
    "require_groups",
    "require_scope",
]


@dataclass(frozen=True, slots=True)
class Subject:
    """On whose behalf a command runs.

    gids: of the user's groups that are not banned, the first being the primary one. Root: uid 0.
    is_enrolled: whether the user and all groups have their numbers; who has none owns nothing yet.
    scopes: of a token with capabilities, which alone decide then; DPM's permissions do not count.
    """

    uid: int
    gids: tuple[int, ...]
    name: str = ""
    is_enrolled: bool = True
    scopes: Grants | None = None

    @property
    def is_root(self) -> bool:
        return self.uid == 0


ROOT = Subject(0, (0,), "root")


def may(subject: Subject, entry: Entry, wanted: int) -> bool:
    """Whether all the wanted rights (READ, WRITE, EXECUTE) are granted on an entry.

    Raises ApiError 403 for an ACL that cannot be read: nobody but root and the owner passes it.
    """
    if subject.is_root or subject.scopes is not None:
        return True
    try:
        entries = acl.parse_entries(entry.acl_text) if entry.acl_text and subject.uid != entry.uid else ()
    except AclError as exc:
        raise ApiError(403, f"permission denied on fileid {entry.fileid}: {exc}") from exc
    granted = acl.granted_by(entries, entry.mode, entry.uid, entry.gid, subject.uid, subject.gids)
    return wanted & ~granted == 0


def may_traverse(subject: Subject, ancestors: Iterable[Entry]) -> bool:
    return all(may(subject, ancestor, EXECUTE) for ancestor in ancestors)


def can_see(subject: Subject, lineage: Sequence[Entry]) -> bool:
    """As dome_getstatinfo asks for it: the way is open, and the directory at its end can be read.

    lineage: from the root to the directory of what is looked at, empty if that does not exist.
    """
    return may_traverse(subject, lineage[:-1]) and all(may(subject, each, READ) for each in lineage[-1:])


def may_replace(subject: Subject, parent: Entry, entry: Entry) -> bool:
    """Whether an entry may be removed from its directory, or renamed: the rule of the sticky bit.

    The right to write into the directory is another question.
    """
    if subject.scopes is not None or not parent.mode & stat.S_ISVTX:
        return True
    return subject.uid in (entry.uid, parent.uid) or may(subject, entry, WRITE)


def require(granted: bool, text: str) -> None:
    """Raises ApiError 403 with that text unless granted."""
    if not granted:
        raise ApiError(403, text)


def group_of_new(subject: Subject, parent: Entry) -> int:
    """The group of an entry that the subject makes. Raises ApiError 403 for somebody without any.

    Number 0 is the system's and nobody else's.
    """
    if parent.mode & stat.S_ISGID:
        return parent.gid
    require_groups(bool(subject.gids), parent)
    return subject.gids[0]


def require_groups(has_groups: bool, parent: Entry) -> None:
    """Raises ApiError 403 for somebody in no group, of whom nothing new could have one."""
    text = f"in '{parent.name}' only who is in a group can make something: the user is in none that counts"
    require(has_groups or bool(parent.mode & stat.S_ISGID), text)


def require_scope(
    subject: Subject, wanted: Collection[Capability], path: str, *, is_file: bool = False
) -> None:
    """For what depends on what a path leads to, and so is known only when that is looked at.

    Only a token with capabilities is asked, which needs one of those. Raises AuthError 403.
    """
    scopes = subject.scopes
    if scopes is None or scopes.permits(wanted, path, is_file=is_file):
        return
    raise AuthError(
        403,
        "M1",
        Reason.SCOPE,
        f"as things are at {path!a}, this needs {' or '.join(sorted(wanted))}",
        wanted=scopes.needed(wanted, path),
    )
