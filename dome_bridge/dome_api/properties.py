"""The properties of an entry that clients set: owner, ACL, extended attributes, comment.

First the rules, which are pure; then the statements, which belong into a transaction that has
locked the entry already. Mode and size are set by `changes`, as creating entries needs them too.
"""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from pymysql.constants import ER

from dome_bridge.dome_api import catalog
from dome_bridge.dome_api.catalog import Entry, bytes_of, names_of
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
MAX_XATTR_BYTES = 1023
"""DPM's own programs read no more: of an entry with longer attributes they say that it is not there."""

MAX_COMMENT_BYTES = 255
MAX_LINKS = 16
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
            raise ApiError(422, f"an acl must not be longer than {MAX_ACL_BYTES} bytes: leave out entries")
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


async def follow(source: Source, path: str) -> Entry | None:
    """The entry that a path leads to when the symbolic links in it are followed, the last name included.

    Raises ApiError 404 for links that lead in a circle.
    """
    for _ in range(MAX_LINKS + 1):
        found = (await catalog.walk(source, path)).entry
        if found is not None and not found.is_symlink:
            return found
        redirected = await _past_first_link(source, path)
        if redirected is None:
            return None
        path = redirected
    raise ApiError(404, f"more than {MAX_LINKS} symbolic links on the way to '{_shown(path)}'")


async def _past_first_link(source: Source, path: str) -> str | None:
    """The path with the target of its first symbolic link in the place of the link; None without one."""
    names = names_of(path)
    if not path.startswith("/") or len(names) > catalog.DEEPEST:
        return None
    for count, _ in enumerate(names, 1):
        found = (await catalog.walk(source, "/" + "/".join(names[:count]))).entry
        if found is None:
            return None
        if found.is_symlink:
            target = await catalog.link_target(source, found.fileid)
            above = names[: count - 1] if target and not target.startswith("/") else []
            return "/" + "/".join((*above, *names_of(target), *names[count:])) if target else None
    return None


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
