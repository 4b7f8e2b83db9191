"""Enters a checksum into the attributes of a file or of a replica, beside all that is there already.

Attributes that cannot be read, or would become longer than DPM's own programs read, are left as they
are: a checksum can be calculated again, other people's attributes cannot.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from dome_bridge.dome_api.catalog import Entry, Replica
from dome_bridge.dome_api.properties import MAX_XATTR_BYTES, Attributes
from dome_bridge.dpm import checksum, xattr
from dome_bridge.dpm.checksum import LegacyChecksum
from dome_bridge.dpm.xattr import Json, XattrError
from dome_bridge.errors import ApiError

logger = logging.getLogger(__name__)

LONGEST_VALUE = 128
"""Hex digits of SHA-512."""

_NAME = re.compile(r"[0-9A-Za-z_-]{1,32}")
_VALUE = re.compile(r"[\x21-\x7e]+")
_DECIMAL = re.compile(r"[0-9]+")
_HEX = re.compile(r"[0-9A-Fa-f]{1,8}")


def name_of(text: str) -> str:
    """The name of a checksum, given with or without the prefix. Raises ApiError 422."""
    name = text.removeprefix(checksum.PREFIX)
    if not name:
        raise ApiError(422, "checksum-type cannot be empty.")
    if not _NAME.fullmatch(name):
        raise ApiError(422, f"unknown checksum type {name[:32]!a}")
    return name


def require_value(value: str) -> str:
    """`value` if a checksum can be stored. Raises ApiError 400."""
    if not _VALUE.fullmatch(value) or len(value) > LONGEST_VALUE:
        raise ApiError(400, f"this is no checksum: {value[:LONGEST_VALUE]!a}")
    return value


def is_same(name: str, one: str, other: str) -> bool:
    """Whatever the case; a CRC-32 may be decimal or hex, as DPM's tool has printed both."""
    if one.lower() == other.lower():
        return True
    return name.lower() == "crc32" and not _crc32(one).isdisjoint(_crc32(other))


def _crc32(value: str) -> set[int]:
    """The numbers that it may stand for."""
    numbers = {int(value)} if _DECIMAL.fullmatch(value) else set()
    return numbers | {int(value, 16)} if _HEX.fullmatch(value) else numbers


def of_file(entry: Entry) -> dict[str, str]:
    """The checksums of a file, by name in lower case."""
    return checksum.merge(entry.csumtype, entry.csumvalue, _readable(entry.xattr_text))


def of_replica(replica: Replica) -> dict[str, str]:
    """The checksums of a replica, by name in lower case."""
    return checksum.merge(None, None, _readable(replica.xattr_text))


def for_file(entry: Entry, name: str, value: str) -> Attributes:
    """The attributes of a file with a checksum, and the legacy columns that go with them."""
    owner = f"fileid {entry.fileid}"
    text, attributes = _with_checksum(entry.xattr_text, _legacy(entry), name, value, owner)
    if attributes is None:
        return Attributes(text, _columns_alone(entry, name, value))
    return Attributes(text, checksum.legacy_pair(attributes))


def for_replica(replica: Replica, name: str, value: str) -> bytes:
    """The attributes of a replica with a checksum."""
    return _with_checksum(replica.xattr_text, {}, name, value, f"replica {replica.replicaid}")[0]


def _with_checksum(
    stored: bytes, legacy: Mapping[str, str], name: str, value: str, owner: str
) -> tuple[bytes, Mapping[str, Json] | None]:
    """legacy: what only the legacy columns have. None: nothing could be entered, the text is as it was."""
    try:
        attributes: dict[str, Json] = {
            **xattr.parse(stored),
            **{checksum.PREFIX + kind: other for kind, other in legacy.items()},
        }
        changed = _entered(attributes, name, value)
        text = xattr.serialise(changed)
    except (XattrError, RecursionError) as exc:
        logger.warning("checksum not entered: attributes cannot be read owner=%s error=%s", owner, exc)
        return stored, None
    if len(text) > MAX_XATTR_BYTES:
        logger.warning("checksum not entered: no room owner=%s bytes=%d", owner, len(text))
        return stored, None
    return text, changed


def _entered(attributes: Mapping[str, Json], name: str, value: str) -> dict[str, Json]:
    """In the place of the old one, however that is spelled."""
    changed: dict[str, Json] = {}
    for key, old in attributes.items():
        if key.startswith(checksum.PREFIX) and key.lower() == f"{checksum.PREFIX}{name}".lower():
            changed.setdefault(checksum.PREFIX + name, value)
        else:
            changed[key] = old
    changed.setdefault(checksum.PREFIX + name, value)
    return changed


def _legacy(entry: Entry) -> dict[str, str]:
    """The checksum of the legacy columns if the attributes have none of its kind."""
    known = checksum.merge(None, None, _readable(entry.xattr_text))
    legacy = checksum.merge(entry.csumtype, entry.csumvalue, {})
    return {name: value for name, value in legacy.items() if name not in known}


def _columns_alone(entry: Entry, name: str, value: str) -> LegacyChecksum | None:
    """None if they have no room for it, or hold another kind."""
    pair = checksum.legacy_pair({checksum.PREFIX + name: value})
    is_free = not entry.csumvalue or name.lower() in checksum.merge(entry.csumtype, entry.csumvalue, {})
    return pair if is_free else None


def _readable(text: bytes) -> Mapping[str, Json]:
    try:
        return xattr.parse(text)
    except XattrError:
        return {}
