"""POSIX ACLs as DPM writes them: text, inheritance from default entries, and the mode that follows."""

from __future__ import annotations

from typing import NamedTuple


class AclEntry(NamedTuple):
    kind: str
    perm: int
    id: int

    def __str__(self) -> str:
        return f"{self.kind}{self.perm}{self.id}"


def acl_text(entries: list[AclEntry]) -> str:
    return ",".join(str(entry) for entry in sorted(entries, key=lambda entry: (entry.kind, entry.id)))


def inherited_entries(defaults: list[AclEntry], mode: int, uid: int, gid: int) -> list[AclEntry]:
    """The access entries of a new entry: owner, group and other limited by its mode, the rest copied."""
    limits = {"A": (mode >> 6 & 7, uid), "C": (mode >> 3 & 7, gid), "F": (mode & 7, 0)}
    entries = []
    for default in defaults:
        kind = default.kind.upper()
        limit, owner = limits.get(kind, (7, default.id))
        entries.append(AclEntry(kind, default.perm & limit, owner))
    return entries


def mode_of(entries: list[AclEntry]) -> int:
    perms = {entry.kind: entry.perm for entry in entries if entry.kind in "ACEF"}
    return perms["A"] << 6 | (perms["C"] & perms.get("E", 7)) << 3 | perms["F"]


def plain_acl(mode: int, uid: int, gid: int) -> list[AclEntry]:
    return [AclEntry("A", mode >> 6 & 7, uid), AclEntry("C", mode >> 3 & 7, gid), AclEntry("F", mode & 7, 0)]


def as_defaults(entries: list[AclEntry]) -> list[AclEntry]:
    return [AclEntry(entry.kind.lower(), entry.perm, entry.id) for entry in entries]
