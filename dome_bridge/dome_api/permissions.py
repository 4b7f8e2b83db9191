"""Who may do what in the namespace: DPM's rules over entries that have been read already.

Pure: the entries come from `catalog`, the ids from `people`.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

from dome_bridge.dome_api.catalog import Entry
from dome_bridge.dpm import acl
from dome_bridge.dpm.acl import EXECUTE, READ, WRITE, AclError
from dome_bridge.errors import ApiError

__all__ = ["EXECUTE", "READ", "WRITE", "Subject", "may", "may_replace", "may_traverse", "require"]


@dataclass(frozen=True, slots=True)
class Subject:
    """On whose behalf a command runs.

    gids: of the user's groups that are not banned, the first being the primary one. Root: uid 0.
    """

    uid: int
    gids: tuple[int, ...]
    name: str = ""

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    @property
    def primary_gid(self) -> int:
        """What new entries get; 0 for somebody without groups."""
        return self.gids[0] if self.gids else 0


ROOT = Subject(0, (0,), "root")


def may(subject: Subject, entry: Entry, wanted: int) -> bool:
    """Whether all the wanted rights (READ, WRITE, EXECUTE) are granted on an entry.

    Raises ApiError 403 for an ACL that cannot be read: nobody but root and the owner passes it.
    """
    if subject.is_root:
        return True
    try:
        entries = acl.parse_entries(entry.acl_text) if entry.acl_text and subject.uid != entry.uid else ()
    except AclError as exc:
        raise ApiError(403, f"permission denied on fileid {entry.fileid}: {exc}") from exc
    granted = acl.granted_by(entries, entry.mode, entry.uid, entry.gid, subject.uid, subject.gids)
    return wanted & ~granted == 0


def may_traverse(subject: Subject, ancestors: Iterable[Entry]) -> bool:
    return all(may(subject, ancestor, EXECUTE) for ancestor in ancestors)


def may_replace(subject: Subject, parent: Entry, entry: Entry) -> bool:
    """Whether an entry may be removed from its directory, or renamed: the rule of the sticky bit.

    The right to write into the directory is another question.
    """
    if not parent.mode & stat.S_ISVTX:
        return True
    return subject.uid in (entry.uid, parent.uid) or may(subject, entry, WRITE)


def require(granted: bool, text: str) -> None:
    """Raises ApiError 403 with that text unless granted."""
    if not granted:
        raise ApiError(403, text)
