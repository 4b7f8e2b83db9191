"""Checksums in DPM: the kinds there are, and the two places where a file has them.

The legacy pair `csumtype`/`csumvalue` holds one checksum under a two-letter code, the xattr
any number of them under `checksum.<name>`. Both may be there, or either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import NamedTuple

from dome_bridge.dpm.xattr import Json

PREFIX = "checksum."
# Width of Cns_file_metadata.csumvalue.
LEGACY_VALUE_LENGTH = 32


class ChecksumKind(NamedTuple):
    """A checksum as the world names it.

    `name` is the xattr key in lower case without the prefix; `legacy_code` the csumtype;
    `chimera_type` the `t_inodes_checksum.itype`; `digits` the length in hex digits, None where
    the value's form is not fixed. A None means that there is no such thing.
    """

    name: str
    legacy_code: str | None
    chimera_type: int | None
    digits: int | None


CHECKSUM_KINDS = (
    ChecksumKind("adler32", "AD", 1, 8),
    # Decimal or hex, depending on the version of the tool that made it; dCache has no such type.
    ChecksumKind("crc32", "CS", None, None),
    ChecksumKind("md5", "MD", 2, 32),
    ChecksumKind("md4", None, 3, 32),
    ChecksumKind("sha1", None, 4, 40),
    ChecksumKind("sha-1", None, 4, 40),
    ChecksumKind("sha224", None, None, 56),
    ChecksumKind("sha-224", None, None, 56),
    ChecksumKind("sha256", None, 5, 64),
    ChecksumKind("sha-256", None, 5, 64),
    ChecksumKind("sha512", None, 6, 128),
    ChecksumKind("sha-512", None, 6, 128),
)

_BY_NAME = {kind.name: kind for kind in CHECKSUM_KINDS}
_NAME_BY_CODE = {kind.legacy_code: kind.name for kind in CHECKSUM_KINDS if kind.legacy_code}
_HEX = re.compile("[0-9a-f]+")


class LegacyChecksum(NamedTuple):
    """Values for csumtype and csumvalue."""

    code: str
    value: str


def find_kind(name: str) -> ChecksumKind | None:
    """The kind of that name (no prefix, any case), or None for one that nobody here knows."""
    return _BY_NAME.get(name.lower())


def normalise(kind: ChecksumKind, value: str) -> str | None:
    """The value in lower-case hex digits of the right number, or None when it is not one.

    Only Adler-32 is padded: legacy tools drop its leading zeros. Kinds without fixed digits
    have no normal form.
    """
    digits = value.strip().lower()
    if kind.digits is None or not _HEX.fullmatch(digits):
        return None
    if kind.name == "adler32":
        digits = digits.zfill(kind.digits)
    return digits if len(digits) == kind.digits else None


def merge(csumtype: bytes | None, csumvalue: bytes | None, attributes: Mapping[str, Json]) -> dict[str, str]:
    """All checksums of an entry, name (lower case, no prefix) to value as stored.

    The legacy pair counts when both columns are set and the xattr has no checksum of that
    name. An unknown code appears under itself, so that whoever drops it can report it.
    """
    checksums: dict[str, str] = {}
    for name, value in _checksums(attributes):
        checksums.setdefault(name, value)
    code, value = _text(csumtype), _text(csumvalue)
    if code and value:
        checksums.setdefault(_NAME_BY_CODE.get(code.upper(), code.lower()), value)
    return checksums


def legacy_pair(attributes: Mapping[str, Json]) -> LegacyChecksum | None:
    """The first checksum, in key order, that the legacy columns can hold. None: they stay as they are."""
    for name, value in _checksums(attributes):
        kind = find_kind(name)
        if kind and kind.legacy_code and _fits_legacy_column(value):
            return LegacyChecksum(kind.legacy_code, value)
    return None


def _fits_legacy_column(value: str) -> bool:
    return 0 < len(value) <= LEGACY_VALUE_LENGTH and value.isascii() and value.isprintable()


def _checksums(attributes: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    for key, value in attributes.items():
        # The prefix is compared with case, the name without: so does dmlite.
        if key.startswith(PREFIX) and isinstance(value, str | int | float | Decimal):
            yield key.removeprefix(PREFIX).lower(), str(value)


def _text(column: bytes | None) -> str:
    return (column or b"").decode("ascii", "backslashreplace").strip()
