"""gPlazma's multi-map files: their lines, and what the multimap plugin makes of them.

A model of `GplazmaMultiMapFile` and `GplazmaMultiMapPlugin` of dCache, so that a login can be rehearsed
without a running dCache.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

GROUP_TYPES = frozenset({"gid", "group", "fqan"})
"""Principals that can be a primary one."""

TYPES = GROUP_TYPES | {
    "dn",
    "email",
    "kerberos",
    "oidc",
    "oidcgrp",
    "uid",
    "username",
    "entitlement",
    "op",
    "roles",
}

_NUMBERS = frozenset({"gid", "uid"})
_WORD = re.compile(r'\s*(?:"(?P<quoted>[^"]*)"|(?P<bare>[^\s"]+))(?=\s|$)')
_NULLS = re.compile(r"/Role=NULL(?=/Capability=|$)|/Capability=NULL$")
_FQAN = re.compile(r"(?:/[\w.@+-]+)+(?:/Role=[\w.@+-]+)?(?:/Capability=[\w.@+-]+)?")


class Principal(NamedTuple):
    """is_primary: for groups only."""

    type: str
    value: str
    is_primary: bool = False

    def __str__(self) -> str:
        return f"{self.type}:{self.value}{',true' if self.is_primary else ''}"


class Matcher(NamedTuple):
    """is_primary: None if it does not matter."""

    type: str
    value: str
    is_primary: bool | None

    def matches(self, principal: Principal) -> bool:
        return (
            self.type == principal.type
            and self.value == principal.value
            and self.is_primary in (None, principal.is_primary)
        )


@dataclass(frozen=True)
class MapLine:
    """`number`: of the line in its file, 0 for one that is not in a file yet."""

    matcher: Matcher
    targets: tuple[Principal, ...]
    number: int = 0


def fqan_in_normal_form(text: str) -> str:
    """Without the parts that say nothing."""
    return _NULLS.sub("", text)


def principal(word: str) -> Principal:
    """Raises ValueError with the reason."""
    kind, value, flag = _split(word)
    return Principal(kind, value, bool(flag))


def matcher(word: str) -> Matcher:
    """Raises ValueError with the reason."""
    return Matcher(*_split(word))


def _split(word: str) -> tuple[str, str, bool | None]:
    kind, colon, value = word.partition(":")
    if not colon:
        raise ValueError(f"no colon in {word!r}")
    if kind not in TYPES:
        raise ValueError(f"unknown type {kind!r} in {word!r}")
    flag: bool | None = None
    if kind in GROUP_TYPES and "," in value:
        value, _, text = value.partition(",")
        if "," in text:
            raise ValueError(f"too many commas in {word!r}")
        flag = text.lower() == "true"
    return kind, _checked(kind, value), flag


def _checked(kind: str, value: str) -> str:
    if not value:
        raise ValueError(f"a {kind} is empty")
    if kind in _NUMBERS and not re.fullmatch(r"\d+", value, re.ASCII):
        raise ValueError(f"{kind} {value!r} is no number")
    if kind == "fqan":
        value = fqan_in_normal_form(value)
        if not _FQAN.fullmatch(value):
            raise ValueError(f"{value!r} is no FQAN")
    return value


def words(line: str) -> list[str]:
    """Raises ValueError for quotes that are not closed."""
    found: list[str] = []
    place = 0
    while line[place:].strip():
        word = _WORD.match(line, place)
        if word is None:
            raise ValueError(f"quotes are not closed or not around a whole word at character {place + 1}")
        found.append(word["bare"] if word["quoted"] is None else word["quoted"])
        place = word.end()
    return found


class MultiMap:
    """The lines of a file that make sense; `warnings` of those that are passed over."""

    def __init__(self, lines: Iterable[MapLine], warnings: Sequence[str] = ()) -> None:
        self.lines = tuple(lines)
        self.warnings = tuple(warnings)
        self._by_value: dict[tuple[str, str], list[int]] = {}
        for place, line in enumerate(self.lines):
            self._by_value.setdefault(line.matcher[:2], []).append(place)

    @classmethod
    def parse(cls, text: str) -> MultiMap:
        lines, warnings = [], []
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                try:
                    lines.append(_parse_line(line, number))
                except ValueError as exc:
                    warnings.append(f"line {number}: {exc}")
        return cls(lines, warnings)

    def map(self, principals: Collection[Principal]) -> frozenset[Principal] | None:
        """What is added to the principals of a login; None if the plugin fails, as no line matches.

        Every line counts whose first word is one of the principals that came in. One group at most becomes
        primary: the one that is known before, else that of the first line of the file.
        """
        places = sorted({place for one in principals for place in self._places(one)})
        if not places:
            return None
        has_primary = any(one.type == "gid" and one.is_primary for one in principals)
        added: list[Principal] = []
        for target in (target for place in places for target in self.lines[place].targets):
            if target.type == "gid" and target.is_primary:
                added.append(target._replace(is_primary=not has_primary))
                has_primary = True
            else:
                added.append(target)
        return frozenset(added)

    def _places(self, one: Principal) -> Iterator[int]:
        for place in self._by_value.get((one.type, one.value), ()):
            if self.lines[place].matcher.matches(one):
                yield place


def _parse_line(line: str, number: int) -> MapLine:
    first, *others = words(line.strip())
    if not others:
        raise ValueError("nothing is mapped to")
    return MapLine(matcher(first), tuple(map(principal, others)), number)


def quoted(word: str) -> str:
    """As it stands in a file. Raises ValueError for what no file can hold."""
    if '"' in word or "\\" in word or not word.isprintable():
        raise ValueError(f"{word!r} cannot be written into a multi-map file")
    return f'"{word}"' if re.search(r"[\s#']", word) else word


def text_of(line: MapLine) -> str:
    kind, value, flag = line.matcher
    suffix = "" if flag is None else f",{str(flag).lower()}"
    return " ".join((quoted(f"{kind}:{value}{suffix}"), *(quoted(str(target)) for target in line.targets)))
