"""DPM's POSIX ACLs: the text in `Cns_file_metadata.acl`, and what it grants.

The text is a comma-separated list of `<type><perm><id>`: `A` owner, `B` user, `C` owning
group, `D` group, `E` mask, `F` other, in lower case the default entries that a directory
hands down. An `Acl` is valid by construction; whatever the column holds beyond that is an
`AclError`. Rights are the usual bits: 4 read, 2 write, 1 execute (pass through).
"""

from __future__ import annotations

import enum
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dome_bridge.errors import BridgeError

READ = 4
WRITE = 2
EXECUTE = 1
ALL_RIGHTS = READ | WRITE | EXECUTE

MAX_ID = 2**32 - 1

_ENTRY = re.compile(rb"([A-Fa-f])([0-7])([0-9]{1,10})")
_SHOWN_BYTES = 80


class AclError(BridgeError, ValueError):
    """An ACL text that DPM's own rules do not allow."""


class Tag(enum.IntEnum):
    """Whom an entry speaks of, numbered as in dmlite's `AclEntry`."""

    OWNER = 1
    USER = 2
    OWNING_GROUP = 3
    GROUP = 4
    MASK = 5
    OTHER = 6


class AclEntry(NamedTuple):
    """One entry. Tuples compare in the order in which DPM stores entries."""

    default: bool
    tag: Tag
    id: int
    perm: int


@dataclass(frozen=True, slots=True)
class Rights:
    """What each class of users gets, the mask already applied."""

    owner: int
    group: int
    other: int
    users: Mapping[int, int]
    groups: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Acl:
    """A valid ACL in stored order. Raises AclError when dmlite would refuse the entries."""

    entries: tuple[AclEntry, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", tuple(sorted(self.entries)))
        for fault in _faults(self.entries):
            raise AclError(
                f"ACL {_shown(format(self))}: {fault}; set it anew with the acl command of dmlite-shell"
            )

    @property
    def has_defaults(self) -> bool:
        return self.entries[-1].default

    def rights(self, *, default: bool = False) -> Rights:
        """The access rights, or with `default` those of the default entries (which must exist).

        The perm of the owner and other entries is returned as it stands; when DPM checks an
        access it takes these two from the mode bits.
        """
        perms = {(e.tag, e.id): e.perm for e in self.entries if e.default is default}
        single = {tag: perm for (tag, _), perm in perms.items()}
        mask = single.get(Tag.MASK, ALL_RIGHTS)
        return Rights(
            owner=single[Tag.OWNER],
            group=single[Tag.OWNING_GROUP] & mask,
            other=single[Tag.OTHER],
            users={id_: perm & mask for (tag, id_), perm in perms.items() if tag is Tag.USER},
            groups={id_: perm & mask for (tag, id_), perm in perms.items() if tag is Tag.GROUP},
        )


class Inherited(NamedTuple):
    """ACL (None: none) and full mode of a new entry."""

    acl: Acl | None
    mode: int


def parse(text: bytes) -> Acl:
    """The ACL of a non-empty column value. Raises AclError.

    Entries may come in any order; an empty column means "no ACL" and is not for this function.
    """
    return Acl(parse_entries(text))


def parse_entries(text: bytes) -> tuple[AclEntry, ...]:
    """The entries as they stand, whether they make a valid ACL or not: DPM evaluates both.

    Raises AclError for what is no entry.
    """
    return tuple(_parse_entry(item, text) for item in text.split(b","))


def format(acl: Acl) -> bytes:
    """The text as dmlite writes it: sorted by type and id, ids in decimal without leading zeros."""
    return b",".join(_format_entry(entry) for entry in acl.entries)


def granted(acl: Acl | None, mode: int, owner: int, group: int, uid: int, gids: Collection[int]) -> int:
    """The rights that DPM grants on an entry; see `granted_by`."""
    return granted_by(acl.entries if acl else (), mode, owner, group, uid, gids)


def granted_by(
    entries: Sequence[AclEntry], mode: int, owner: int, group: int, uid: int, gids: Collection[int]
) -> int:
    """The rights that DPM grants on an entry, as dmlite's `checkPermissions` decides.

    entries: of its ACL, which need not be valid; none: it has no ACL. `gids` are the user's groups
    without the banned ones. The owner's rights and those of "other" are the mode's even with an ACL,
    and the owning group is the entry's own, whatever ids the ACL's `A` and `C` carry.
    """
    if uid == 0:
        return ALL_RIGHTS
    if uid == owner:
        return mode >> 6 & ALL_RIGHTS
    access = [entry for entry in entries if not entry.default]
    if not access:
        return (mode >> 3 if group in gids else mode) & ALL_RIGHTS
    mask = next((entry.perm for entry in access if entry.tag is Tag.MASK), None)
    for entry in access:
        if entry.tag is Tag.USER and entry.id == uid:
            return entry.perm & (ALL_RIGHTS if mask is None else mask)
    owning = next((entry.perm for entry in access if entry.tag is Tag.OWNING_GROUP), mode >> 3 & ALL_RIGHTS)
    if mask is None and group in gids:
        return owning
    matched = [entry.perm for entry in access if entry.tag is Tag.GROUP and entry.id in gids]
    if group in gids:
        matched.append(owning)
    return _union(matched) & (ALL_RIGHTS if mask is None else mask) if matched else mode & ALL_RIGHTS


def inherit(parent: Acl | None, mode: int, owner: int, group: int) -> Inherited:
    """ACL and mode of an entry created below `parent` with the creation mode `mode` (type bits included).

    dmlite leaves the perm of the entry before in inherited user, group and mask entries; here
    they get the parent's. Files inherit too.
    """
    if parent is None or not parent.has_defaults:
        return Inherited(None, mode)
    handed_down = [entry for entry in parent.entries if entry.default]
    access = [_inherited_entry(entry, mode, owner, group) for entry in handed_down]
    kept = handed_down if stat.S_ISDIR(mode) else []
    perms = {entry.tag: entry.perm for entry in access}
    bits = perms[Tag.OWNER] << 6 | perms[Tag.OWNING_GROUP] << 3 | perms[Tag.OTHER]
    return Inherited(Acl((*access, *kept)), mode & ~0o777 | bits)


def _inherited_entry(entry: AclEntry, mode: int, owner: int, group: int) -> AclEntry:
    match entry.tag:
        case Tag.OWNER:
            return AclEntry(False, entry.tag, owner, entry.perm & mode >> 6)
        case Tag.OWNING_GROUP:
            return AclEntry(False, entry.tag, group, entry.perm & mode >> 3)
        case Tag.OTHER:
            return AclEntry(False, entry.tag, entry.id, entry.perm & mode)
    return entry._replace(default=False)


def _parse_entry(item: bytes, text: bytes) -> AclEntry:
    match = _ENTRY.fullmatch(item)
    if match is None or int(match[3]) > MAX_ID:
        raise AclError(
            f"ACL text {_shown(text)}: {_shown(item)} is not a type letter, a digit 0-7 and an id up to"
            f" {MAX_ID}; set the ACL anew with the acl command of dmlite-shell"
        )
    letter = match[1]
    tag = Tag(ord(letter.upper()) - ord("@"))
    return AclEntry(letter.islower(), tag, int(match[3]), int(match[2]))


def _format_entry(entry: AclEntry) -> bytes:
    letter = chr((ord("`") if entry.default else ord("@")) + entry.tag)
    return f"{letter}{entry.perm}{entry.id}".encode("ascii")


def _faults(entries: tuple[AclEntry, ...]) -> Iterator[str]:
    if any(not (0 <= e.perm <= ALL_RIGHTS and 0 <= e.id <= MAX_ID) for e in entries):
        yield f"perms are 0 to {ALL_RIGHTS}, ids 0 to {MAX_ID}"
    if len({entry[:3] for entry in entries}) < len(entries):
        yield "two entries of the same type and id"
    yield from _faults_of_half([e.tag for e in entries if not e.default], "A, C and F", "E for its B or D")
    defaults = [e.tag for e in entries if e.default]
    if defaults:
        yield from _faults_of_half(defaults, "a, c and f", "e for its b or d")


def _faults_of_half(tags: list[Tag], required: str, mask: str) -> Iterator[str]:
    count = Counter(tags)
    if any(count[tag] != 1 for tag in (Tag.OWNER, Tag.OWNING_GROUP, Tag.OTHER)):
        yield f"it needs exactly one entry of each of {required}"
    if (count[Tag.USER] or count[Tag.GROUP]) and not count[Tag.MASK]:
        yield f"it needs an entry {mask}"
    if count[Tag.MASK] > 1:
        yield "it has more than one mask entry"


def _union(perms: list[int]) -> int:
    union = 0
    for perm in perms:
        union |= perm
    return union


def _shown(text: bytes) -> str:
    shown = text[:_SHOWN_BYTES].decode("ascii", "backslashreplace")
    return repr(shown + ("…" if len(text) > _SHOWN_BYTES else ""))
