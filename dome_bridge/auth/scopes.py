"""What the scopes of a token allow, and where: capabilities inside the area of its issuer.

A scope path is relative to the base paths of the area, percent-encoded, and compared by components as
text. A request path is full and in the normal form of `normal_path`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple, NoReturn
from urllib.parse import quote, unquote_to_bytes

from dome_bridge.auth.paths import Parts, fault_of, joined, normal_path, parts_of, resolved_path
from dome_bridge.auth.refusal import AuthError, Reason

__all__ = [
    "COMPUTE",
    "MEANING",
    "Area",
    "Capability",
    "Grants",
    "Operation",
    "Scope",
    "Scopes",
    "granting",
    "normal_path",
    "parse_scopes",
    "resolved_path",
]

MAX_SCOPES = 256

SHOWN_CHARACTERS = 100
"""Of a scope, in the message that refuses it."""

_WORDS = re.compile(r"[\x20\x21\x23-\x5B\x5D-\x7E]*")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DOTS = frozenset({".", ".."})


class Capability(StrEnum):
    """The storage capabilities, the least powerful of those that read or write first."""

    READ = "storage.read"
    CREATE = "storage.create"
    MODIFY = "storage.modify"
    STAGE = "storage.stage"
    POLL = "storage.poll"


_BY_NAME = {capability.value: capability for capability in Capability}

COMPUTE = frozenset({"compute.read", "compute.modify", "compute.create", "compute.cancel"})
"""Grant nothing here, but a token that has one is no group token."""


class Operation(StrEnum):
    """What a capability can be good for on the paths that its scope matches."""

    READ = "read data"
    STAT = "stat"
    LIST = "list a directory"
    CREATE = "create a file or directory where nothing is"
    MOVE_FILE = "rename a file to where nothing is"
    OVERWRITE = "overwrite or truncate a file"
    DELETE = "delete"
    RENAME = "rename a file or directory"
    COMMENT = "set a comment"
    RECALL = "trigger, cancel or release a recall"
    POLL = "ask for the locality"


_CREATING = frozenset({Operation.CREATE, Operation.MOVE_FILE, Operation.STAT})

MEANING: Mapping[Capability, frozenset[Operation]] = {
    Capability.READ: frozenset({Operation.READ, Operation.STAT, Operation.LIST}),
    Capability.CREATE: _CREATING,
    Capability.MODIFY: _CREATING
    | {Operation.OVERWRITE, Operation.DELETE, Operation.RENAME, Operation.COMMENT},
    Capability.STAGE: frozenset({Operation.RECALL, Operation.POLL, Operation.STAT}),
    Capability.POLL: frozenset({Operation.POLL}),
}
"""All that a capability grants; what is not here it does not grant."""

_LEADING = frozenset({Capability.CREATE, Capability.MODIFY})
"""These also make the directories that lead to their path."""


def granting(operation: Operation) -> frozenset[Capability]:
    """The capabilities of which each alone is enough."""
    return frozenset(capability for capability, granted in MEANING.items() if operation in granted)


class Scope(NamedTuple):
    """A capability on a path. is_directory: the path ends with a slash."""

    capability: Capability
    parts: Parts
    is_directory: bool

    def matches(self, parts: Parts, *, is_file: bool) -> bool:
        """parts: relative to a base path. is_file: no directory will do."""
        depth = len(self.parts)
        if parts[:depth] != self.parts:
            return False
        return len(parts) > depth or not (self.is_directory and is_file)

    def has_leading(self, parts: Parts) -> bool:
        """Whether these are the parts of a directory above the path."""
        return len(parts) < len(self.parts) and self.parts[: len(parts)] == parts


class Scopes(NamedTuple):
    """The claim `scope`. has_capability: it holds a defined one, also of those that grant nothing here."""

    storage: tuple[Scope, ...] = ()
    has_capability: bool = False


def parse_scopes(claim: object) -> Scopes:
    """Raises AuthError 401 for a claim of which any part is wrong (S1-S3). Without a claim: pass ""."""
    storage: list[Scope] = []
    has_capability = False
    for word in _words(claim):
        name, _, path = word.partition(":")
        if name in COMPUTE:
            has_capability = True
        elif name in _BY_NAME:
            storage.append(_scope(word, _BY_NAME[name], path))
    return Scopes(tuple(storage), has_capability or bool(storage))


def _words(claim: object) -> list[str]:
    if not isinstance(claim, str):
        raise AuthError(401, "S1", Reason.MALFORMED, "the claim scope is not a string")
    if not _WORDS.fullmatch(claim):
        raise AuthError(
            401, "S1", Reason.MALFORMED, "the claim scope holds characters that no scope may have"
        )
    words = [word for word in claim.split(" ") if word]
    if len(words) > MAX_SCOPES:
        raise AuthError(401, "L1", Reason.TOO_LARGE, f"the token has more than {MAX_SCOPES} scopes")
    return words


def _scope(word: str, capability: Capability, path: str) -> Scope:
    if not path.startswith("/"):
        _refuse(word, "its path is missing or does not begin with '/'")
    names = path[1:].split("/")
    is_directory = not names[-1]
    parts = tuple(_part(word, name) for name in (names[:-1] if is_directory else names))
    return Scope(capability, parts, is_directory)


def _part(word: str, name: str) -> str:
    """A component after percent-decoding it once."""
    if not name:
        _refuse(word, "a component of its path is empty")
    if _BROKEN_ESCAPE.search(name):
        _refuse(word, "a percent sign in its path is not followed by two hexadecimal digits")
    try:
        part = unquote_to_bytes(name).decode("utf-8")
    except UnicodeDecodeError:
        _refuse(word, "its path is not UTF-8")
    if part in _DOTS or "/" in part or "\0" in part:
        _refuse(word, "a component of its path is '.' or '..', or holds '/' or NUL")
    return part


def _refuse(word: str, fault: str) -> NoReturn:
    raise AuthError(401, "S3", Reason.SCOPE, f"scope {word[:SHOWN_CHARACTERS]!a}: {fault}")


@dataclass(frozen=True)
class Area:
    """Where an issuer's tokens may go: below its base paths, but not where a path is excluded.

    Base paths are full. An excluded path is full, or relative to each base path if it is written like a
    scope's. Raises ValueError, with the reason, for what no configuration may have (I5).
    """

    base_paths: tuple[str, ...]
    exclude_paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.base_paths:
            raise ValueError("at least one base path is needed")
        for path in (*self.base_paths, *self.exclude_paths):
            _require_normal(path)
        if "/" in self.base_paths:
            raise ValueError(
                "the base path '/' is the whole namespace: name the directory of the issuer's VO"
            )
        for path in self.exclude_paths:
            _require_inside(path, self._bases)

    @cached_property
    def _bases(self) -> tuple[Parts, ...]:
        return tuple(parts_of(path) for path in self.base_paths)

    @cached_property
    def _excluded(self) -> tuple[Parts, ...]:
        """All of them full."""
        return tuple(full for path in self.exclude_paths for full in _full_forms(parts_of(path), self._bases))

    def covers(self, path: str) -> bool:
        """Whether a path is a base path or below one, and not excluded (I1)."""
        return any(True for _ in self.relative(path))

    def is_base(self, path: str) -> bool:
        return parts_of(path) in self._bases

    def is_anchored(self, path: str) -> bool:
        """A base or excluded path, or a directory above one: moved or removed, it would take these along."""
        parts = parts_of(path)
        return any(_is_within(fixed, parts) for fixed in (*self._bases, *self._excluded))

    def relative(self, path: str) -> Iterator[Parts]:
        """The path from each base path that it is in; nothing for one that is excluded."""
        parts = parts_of(path)
        if any(_is_within(parts, excluded) for excluded in self._excluded):
            return
        for base in self._bases:
            if _is_within(parts, base):
                yield parts[len(base) :]


def _is_within(parts: Parts, top: Parts) -> bool:
    return parts[: len(top)] == top


def _require_normal(path: str) -> None:
    if fault := fault_of(path):
        raise ValueError(f"the path {path!a} cannot be used: {fault}")
    normal = joined(parts_of(path))
    if normal != path:
        raise ValueError(f"the path {path!a} is not in normal form: write {normal!a}")


def _require_inside(path: str, bases: Collection[Parts]) -> None:
    """A misspelt full path must not be taken for a relative one, which would exclude nothing."""
    parts = parts_of(path)
    if any(_is_within(base, parts) for base in bases):
        raise ValueError(f"the excluded path {path!a} leaves nothing of a base path")
    is_full = any(_is_within(parts, base) for base in bases)
    if not is_full and any(parts[0] == base[0] for base in bases):
        raise ValueError(f"the excluded path {path!a} is not below a base path")


def _full_forms(parts: Parts, bases: Collection[Parts]) -> list[Parts]:
    if any(_is_within(parts, base) for base in bases):
        return [parts]
    return [base + parts for base in bases]


@dataclass(frozen=True)
class Grants:
    """What a token may do in its issuer's area. Without a capability only the area counts."""

    area: Area
    storage: tuple[Scope, ...] = ()
    has_capability: bool = False

    def covers(self, path: str) -> bool:
        return self.area.covers(path)

    def is_base(self, path: str) -> bool:
        return self.area.is_base(path)

    def permits(self, capabilities: Collection[Capability], path: str, *, is_file: bool = False) -> bool:
        """Whether one of the capabilities is granted on a path (S2, S4). Those on other paths do not help.

        is_file: what is at the path, or is to be, is no directory; a scope path that ends with a slash is.
        """
        return any(
            scope.capability in capabilities and scope.matches(parts, is_file=is_file)
            for parts in self.area.relative(path)
            for scope in self.storage
        )

    def leads_to(self, path: str) -> bool:
        """Whether a path is above one where the token creates: the directory may be made there (S5)."""
        return any(
            scope.capability in _LEADING and scope.has_leading(parts)
            for parts in self.area.relative(path)
            for scope in self.storage
        )

    def needed(self, capabilities: Collection[Capability], path: str) -> str:
        """The scope that would be enough, for the answer that refuses; "" where none would."""
        name = next((each for each in Capability if each in capabilities), None)
        parts = next(self.area.relative(path), None)
        if name is None or parts is None:
            return ""
        try:
            return f"{name}:{joined([quote(part, safe='', errors='strict') for part in parts])}"
        except UnicodeEncodeError:
            # A name that is not UTF-8 cannot be written in a scope.
            return ""
