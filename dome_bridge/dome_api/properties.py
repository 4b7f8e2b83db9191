"""The properties of an entry that clients set: owner, ACL, extended attributes, comment.

First the rules, which are pure; then the statements, which belong into a transaction that has
locked the entry already. Mode and size are set by `changes`, as creating entries needs them too.
"""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from pymysql.constants import ER

from dome_bridge.dome_api import catalog
from dome_bridge.dome_api.catalog import MAX_NAME_BYTES, Entry, bytes_of, names_of, text_of
from dome_bridge.dome_api.permissions import Subject, require
from dome_bridge.dome_api.sql import sql
from dome_bridge.dpm import acl, checksum, xattr
from dome_bridge.dpm.acl import Acl, AclEntry, AclError, Tag
from dome_bridge.dpm.checksum import LegacyChecksum
from dome_bridge.dpm.source import Source, StatementError
from dome_bridge.dpm.xattr import XattrError
from dome_bridge.errors import ApiError

logger = logging.getLogger(__name__)

MAX_ACL_BYTES = 3900
MAX_ACL_CHARACTERS = 4 * MAX_ACL_BYTES
"""As a client may write it, with superfluous zeros say; all others wait while it is read."""

MAX_XATTR_BYTES = 1023
"""DPM's own programs read no more: of an entry with longer attributes they say that it is not there."""

MAX_XATTR_CHARACTERS = 16 * MAX_XATTR_BYTES
"""As a client may write them: with blanks, and with six characters for each that is escaped."""

MAX_COMMENT_BYTES = 255
MAX_LINKS = 16
MAX_NAMES = 256
"""On the way to an entry, those in the targets of links included."""

KEEP = 0xFFFFFFFF
"""The number that stands for "as it is" in a change of owner or group, as in chown(2)."""

_Texts: TypeAlias = "str | Sequence[_Texts] | Mapping[str, _Texts]"
_SHOWN_CHARACTERS = 160


@dataclass(frozen=True)
class Owner:
    """Who an entry belongs to."""

    uid: int
    gid: int

    @classmethod
    def of(cls, entry: Entry) -> Owner:
        return cls(entry.uid, entry.gid)

    def applied_to(self, entry: Entry) -> Owner:
        """With the entry's own numbers where this one says KEEP."""
        return Owner(
            entry.uid if self.uid == KEEP else self.uid,
            entry.gid if self.gid == KEEP else self.gid,
        )


def require_may_give(subject: Subject, entry: Entry, owner: Owner) -> None:
    """Root gives anything to anybody, owners give to groups they are in. Raises ApiError 403."""
    if subject.is_root:
        return
    require(owner.uid == entry.uid, f"Only root can set the owner of fileid {entry.fileid}")
    require(subject.uid == entry.uid, f"Only root or the owner can set the group of fileid {entry.fileid}")
    require(owner.gid in subject.gids, f"The user is not in the group with gid {owner.gid}")


def acl_of_owner(entry: Entry, owner: Owner) -> bytes:
    """The entry's ACL when it belongs to `owner`; one that cannot be read stays as it is."""
    try:
        present = entry.acl
    except AclError as exc:
        logger.warning("ACL left as it is fileid=%d error=%s", entry.fileid, exc)
        return entry.acl_text
    return acl.format(_owned_by(present, owner)) if present else b""


def _owned_by(present: Acl, owner: Owner) -> Acl:
    ids = {Tag.OWNER: owner.uid, Tag.OWNING_GROUP: owner.gid}

    def owned(one: AclEntry) -> AclEntry:
        return one if one.default else one._replace(id=ids.get(one.tag, one.id))

    return Acl(tuple(owned(one) for one in present.entries))


def require_plausible_acl(text: str) -> None:
    """Raises ApiError 422 for a text too long to be looked at."""
    if len(text) > MAX_ACL_CHARACTERS:
        raise _too_long_acl()


def _too_long_acl() -> ApiError:
    return ApiError(422, f"an acl must not be longer than {MAX_ACL_BYTES} bytes: leave out entries")


@dataclass(frozen=True)
class Access:
    """What an ACL makes of an entry: the text to be stored, and the permission bits."""

    acl_text: bytes
    mode: int

    @classmethod
    def from_acl(cls, entry: Entry, text: str) -> Access:
        """With an ACL that a client wants for an entry. Raises ApiError 422 for one it cannot have."""
        try:
            wanted = _owned_by(acl.parse(bytes_of(text)), Owner.of(entry))
        except AclError as exc:
            raise ApiError(422, f"Cannot validate acl: '{_shown(text)}' err: {exc}") from exc
        if wanted.has_defaults and not entry.is_directory:
            raise ApiError(422, "Defaults can be only applied to directories")
        stored = acl.format(wanted)
        if len(stored) > MAX_ACL_BYTES:
            raise _too_long_acl()
        rights = wanted.rights()
        bits = rights.owner << 6 | rights.group << 3 | rights.other
        return cls(stored, stat.S_IMODE(entry.mode) & ~0o777 | bits)


@dataclass(frozen=True)
class Attributes:
    """Extended attributes as they are stored. checksum: for the legacy columns, None: they stay."""

    text: bytes
    checksum: LegacyChecksum | None

    @classmethod
    def from_json(cls, text: str) -> Attributes:
        """From the object that a client sends; no text means no attributes. Raises ApiError 422."""
        if len(text) > MAX_XATTR_CHARACTERS:
            raise ApiError(
                422, f"{len(text)} characters are too many for {MAX_XATTR_BYTES} bytes of attributes"
            )
        try:
            values = _parsed(text) if text else {}
            stored = xattr.serialise(values)
        except (ValueError, RecursionError) as exc:
            raise ApiError(422, f"Invalid xattr content: '{_shown(text)}' err: {_shown(str(exc))}") from exc
        if len(stored) > MAX_XATTR_BYTES:
            raise ApiError(
                422,
                f"{len(stored)} bytes of attributes are too many: DPM reads only {MAX_XATTR_BYTES}",
            )
        return cls(stored, checksum.legacy_pair(values))


def _parsed(text: str) -> Mapping[str, _Texts]:
    """All scalars become the text that they are written in, and what is empty becomes '', as in DOME."""
    document = json.loads(
        text,
        strict=False,
        parse_int=str,
        parse_float=str,
        parse_constant=_refuse_constant,
        object_pairs_hook=_first_of_each_key,
    )
    if not isinstance(document, dict):
        raise XattrError("it is not a JSON object")
    return {_checked(key): _texts(value) for key, value in document.items()}


def _texts(value: object) -> _Texts:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case list():
            return [_texts(item) for item in value] or ""
        case dict():
            return {_checked(key): _texts(item) for key, item in value.items()} or ""
    return _checked(str(value))


def _checked(text: str) -> str:
    """Raises UnicodeEncodeError for half of a surrogate pair, which no other reader could make sense of."""
    text.encode()
    return text


def _first_of_each_key(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in pairs:
        values.setdefault(key, value)
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise XattrError(f"{name} is not a number in JSON")


def _shown(text: str) -> str:
    shown = text[:_SHOWN_CHARACTERS] + ("…" if len(text) > _SHOWN_CHARACTERS else "")
    return " ".join(shown.split())


@dataclass(frozen=True)
class _Step:
    """An entry on the way. target: of a symbolic link."""

    fileid: int
    mode: int
    target: str = ""

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)


class _Way:
    """The names that are still to be gone through, those of the links met on the way included."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._ahead: list[str] = []
        self._names = 0
        self._links = 0
        self._insert(path)

    def __iter__(self) -> Iterator[str]:
        while self._ahead:
            yield self._ahead.pop()

    def turn(self, target: str) -> None:
        """Goes on along the target of a link. Raises ApiError 404 for too many."""
        self._links += 1
        if self._links > MAX_LINKS:
            raise ApiError(404, f"more than {MAX_LINKS} symbolic links on the way to '{_shown(self._path)}'")
        self._insert(target)

    def _insert(self, path: str) -> None:
        names = names_of(path)
        self._names += len(names)
        if self._names > MAX_NAMES:
            raise ApiError(404, f"more than {MAX_NAMES} names on the way to '{_shown(self._path)}'")
        self._ahead += reversed(names)


async def follow(source: Source, path: str) -> Entry | None:
    """The entry that a path leads to when the symbolic links in it are followed, the last name included.

    Every name costs a query. Raises ApiError 404 for links that lead in a circle, or too far.
    """
    if not path.startswith("/"):
        return None
    root = await catalog.root(source)
    line, way = [_Step(root.fileid, root.mode)], _Way(path)
    for name in way:
        if name == "..":
            if not line[-1].is_directory:
                return None
            del line[max(1, len(line) - 1) :]
        elif name != ".":
            step = await _step(source, line[-1], name)
            if step is None:
                return None
            if step.is_symlink:
                way.turn(step.target)
                line = line[:1] if step.target.startswith("/") else line
            else:
                line.append(step)
    return await catalog.entry_by_fileid(source, line[-1].fileid)


async def _step(source: Source, directory: _Step, name: str) -> _Step | None:
    """None if there is no such entry, or it is a link without a target."""
    wanted = bytes_of(name)
    if len(wanted) > MAX_NAME_BYTES:
        return None
    row = await source.fetchrow(sql(source, "step_on_path"), (directory.fileid, wanted))
    # MariaDB takes names that differ in trailing blanks for the same.
    if row is None or row[2] != wanted:
        return None
    step = _Step(int(row[0]), int(row[1] or 0), text_of(row[3]))
    return None if step.is_symlink and not step.target else step


async def set_attributes(source: Source, entry: Entry, attributes: Attributes) -> None:
    """Replaces all attributes; no time changes with them, as in DOME."""
    code, value = attributes.checksum or (None, None)
    await source.execute(sql(source, "set_xattr"), (attributes.text, code, value, entry.fileid))


async def set_comment(source: Source, entry: Entry, comment: str) -> None:
    """Replaces the comment; of a long one its beginning is kept, as by DOME and its database."""
    stored = bytes_of(comment)
    if len(stored) > MAX_COMMENT_BYTES:
        logger.warning("comment cut fileid=%d bytes=%d kept=%d", entry.fileid, len(stored), MAX_COMMENT_BYTES)
        stored = stored[:MAX_COMMENT_BYTES].decode(errors="ignore").encode()
    try:
        await source.execute(sql(source, "insert_comment"), (entry.fileid, stored))
    except StatementError as exc:
        if exc.number != ER.DUP_ENTRY:
            raise
        # Looking for a row that is not there would lock out everybody who comments on a neighbour.
        await source.execute(sql(source, "set_comment"), (stored, entry.fileid))
