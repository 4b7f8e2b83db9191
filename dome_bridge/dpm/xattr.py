"""The JSON text in DPM's `xattr` columns, read leniently and written exactly as dmlite writes it.

It differs from the standard library's JSON: `/` is written as `\\/`, non-ASCII bytes and keys
stand as they are. Reading accepts both forms, raw control characters, and bytes that are not
UTF-8 (kept through surrogate escapes); of a key that occurs twice the first value counts, as
in dmlite's look-ups.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TypeAlias

from dome_bridge.errors import BridgeError

Json: TypeAlias = "bool | int | float | Decimal | str | Sequence[Json] | Mapping[str, Json] | None"

DELETION_MARK = "dome_bridge.deleting"
"""Key in the attributes of a replica whose deletion the DOME API has begun."""

_SHORT_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "/": "\\/",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}
# Lone surrogates outside the range of surrogate escapes have no bytes and must stay escapes.
_ESCAPED = re.compile(r'["\\/\x00-\x1f\x7f\ud800-\udc7f\udd00-\udfff]')
_UNFIT_FOR_KEY = re.compile(r'["\\\x00-\x1f\ud800-\udc7f\udd00-\udfff]')
_SHOWN_BYTES = 80
_REMEDY = "correct the column or set it to {}"


class XattrError(BridgeError, ValueError):
    """An xattr text that is not a JSON object, or attributes that DPM's form cannot hold."""


def parse(text: bytes | None) -> dict[str, Json]:
    """The attributes in stored order; NULL, empty and blank columns have none. Raises XattrError."""
    if text is None or not text.strip():
        return {}
    try:
        attributes = json.loads(
            text.decode("utf-8", "surrogateescape"),
            strict=False,
            parse_float=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_first_of_each_key,
        )
    except (ValueError, RecursionError) as error:
        raise XattrError(f"xattr {_shown(text)} is not JSON ({error}); {_REMEDY}") from error
    if not isinstance(attributes, dict):
        raise XattrError(f"xattr {_shown(text)} is not a JSON object; {_REMEDY}")
    return attributes


def serialise(attributes: Mapping[str, Json]) -> bytes:
    """The text for the column. Raises XattrError for keys and numbers that DPM could not read back."""
    return _object(attributes).encode("utf-8", "surrogateescape")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _first_of_each_key(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    attributes: dict[str, Json] = {}
    for key, value in pairs:
        attributes.setdefault(key, value)
    return attributes


def _object(attributes: Mapping[str, Json]) -> str:
    return "{" + ", ".join(f"{_key(key)}: {_value(value)}" for key, value in attributes.items()) + "}"


def _key(key: str) -> str:
    # dmlite does not escape keys: such a key would make the whole text unreadable.
    if _UNFIT_FOR_KEY.search(key):
        raise XattrError(
            f"xattr key {key!r} cannot be stored; leave out quotes, backslashes and control characters"
        )
    return f'"{key}"'


def _value(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + _ESCAPED.sub(_escape, value) + '"'
        case int() | float() | Decimal():
            return _number(value)
        case Mapping():
            return _object(value)
    return "[" + ", ".join(_value(item) for item in value) + "]"


def _number(value: int | float | Decimal) -> str:
    if not Decimal(value).is_finite():
        raise XattrError(f"xattr value {value} is not a JSON number; store it as a string")
    return str(value)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return _SHORT_ESCAPES.get(character) or f"\\u{ord(character):04x}"


def _shown(text: bytes) -> str:
    shown = text[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return repr(shown + ("…" if len(text) > _SHOWN_BYTES else ""))
