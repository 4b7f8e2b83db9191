"""Paths of the namespace as a request gives them, and the one form in which they are checked and used.

A path in JSON is never percent-decoded: `%2e%2e` is a name like any other. Bytes that are not UTF-8 are
carried by surrogate escapes.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from dome_bridge.auth.refusal import AuthError, Reason

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4096

SHOWN_CHARACTERS = 200
"""Of a path, in the message that refuses it."""

Parts: TypeAlias = "tuple[str, ...]"
"""The names in a path, from the top."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_DOTS = frozenset({".", ".."})


def normal_path(text: str) -> str:
    """The path of a user or token with single slashes and none at the end. Raises AuthError 400 (S7)."""
    decoded = _decoded(text)
    fault = "it is not UTF-8" if decoded is None else fault_of(decoded)
    if decoded is None or fault:
        raise AuthError(400, "S7", Reason.PATH, f"path {text[:SHOWN_CHARACTERS]!a} is refused: {fault}")
    return joined(parts_of(decoded))


def resolved_path(text: str) -> str:
    """The path of a trusted peer without `.` and `..`, which are resolved as text (S7).

    A relative path stays as it is: it leads nowhere. Raises AuthError 400 for control characters.
    """
    if _CONTROL.search(text):
        fault = "it holds a control character"
        raise AuthError(400, "S7", Reason.PATH, f"path {text[:SHOWN_CHARACTERS]!a} is refused: {fault}")
    if not text.startswith("/"):
        return text
    parts: list[str] = []
    for name in parts_of(text):
        if name == "..":
            del parts[-1:]
        elif name != ".":
            parts.append(name)
    return joined(parts)


def parts_of(path: str) -> Parts:
    """The names in a path; doubled and trailing slashes mean nothing."""
    return tuple(filter(None, path.split("/")))


def joined(parts: Parts | list[str]) -> str:
    return "/" + "/".join(parts)


def fault_of(path: str) -> str:
    """Why a path cannot be put into the normal form without guessing; "" if it can."""
    if not path.startswith("/"):
        return "it does not begin with '/'"
    if _CONTROL.search(path):
        return "it holds a control character"
    if len(_encoded(path)) > MAX_PATH_BYTES:
        return f"it is longer than {MAX_PATH_BYTES} bytes"
    parts = parts_of(path)
    if not _DOTS.isdisjoint(parts):
        return "it holds '.' or '..'"
    if any(len(_encoded(name)) > MAX_NAME_BYTES for name in parts):
        return f"a name in it is longer than {MAX_NAME_BYTES} bytes"
    return ""


def _decoded(text: str) -> str | None:
    """The same bytes in the one way that they are written; None for half of a surrogate pair.

    Escapes could spell the bytes of a character, and one name would have two texts.
    """
    try:
        return text if text.isascii() else _encoded(text).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
