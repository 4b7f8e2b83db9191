"""Patterns of subject names that CAs publish: wildcards and regular expressions, for names in slash form.

Python's `re` takes more time than there is for some expressions (`(a|a)*b`). These come from packages of
CAs and the names from whoever has a certificate, so they are matched here with a set of states instead:
the time is the product of the two lengths at most. What has no meaning for that, as references and looking
around, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from string import ascii_letters, digits
from typing import NoReturn

from dome_bridge.auth.dn import canonical_keyword, escaped

MAX_PATTERN = 512
MAX_SUBJECT = 1024
"""Characters, which are bytes in the slash form. A longer name matches nothing."""

_MAX_STATES = 2000
_MAX_DEPTH = 16

_PRINTABLE = frozenset(map(chr, range(0x20, 0x7F)))
_CLASSES = {
    "d": frozenset(digits),
    "w": frozenset(ascii_letters + digits + "_"),
    "s": frozenset(" "),
}
_CLASSES |= {letter.upper(): _PRINTABLE - characters for letter, characters in _CLASSES.items()}

_KEYWORD = re.compile(r"(?<=/)[A-Za-z][A-Za-z0-9]*(?==)")
_COUNT = re.compile(r"\{(?P<least>[0-9]{1,4})(?P<range>,(?P<most>[0-9]{1,4})?)?\}")


@dataclass(frozen=True)
class Characters:
    accepted: frozenset[str]


@dataclass(frozen=True)
class Sequence:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Choice:
    options: tuple[Node, ...]


@dataclass(frozen=True)
class Repeated:
    part: Node
    least: int
    most: int | None


Node = Characters | Sequence | Choice | Repeated

_ANY = Characters(_PRINTABLE)
_COUNTS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


@dataclass(eq=False)
class NamePattern:
    """States are numbers; the last one made is where a match ends."""

    _steps: list[list[tuple[frozenset[str], int]]] = field(default_factory=list)
    _jumps: list[list[int]] = field(default_factory=list)
    _end: int = 0

    @classmethod
    def of_wildcards(cls, text: str) -> NamePattern:
        """`*` is any text and `?` any character. Raises ValueError with the reason."""
        text = _canonical_keywords(text).replace("\\/", "/").replace("\\+", "+")
        wild: dict[str, Node] = {"*": Repeated(_ANY, 0, None), "?": _ANY}
        return cls._of(Sequence(tuple(wild.get(character) or _literal(character) for character in text)))

    @classmethod
    def of_expression(cls, text: str) -> NamePattern:
        """A regular expression. Raises ValueError with the reason."""
        return cls._of(_Parser(_canonical_keywords(text)).parsed())

    @classmethod
    def _of(cls, node: Node) -> NamePattern:
        pattern = cls()
        pattern._end = pattern._build(node, pattern._state())
        return pattern

    def matches(self, name: str) -> bool:
        """The whole name, in canonical slash form."""
        if len(name) > MAX_SUBJECT:
            return False
        states = self._reached([0])
        for character in name:
            states = self._reached(
                target for state in states for accepted, target in self._steps[state] if character in accepted
            )
            if not states:
                return False
        return self._end in states

    def _reached(self, starts: Iterable[int]) -> set[int]:
        """These states, and those that follow without a character."""
        reached = set(starts)
        waiting = list(reached)
        while waiting:
            for state in self._jumps[waiting.pop()]:
                if state not in reached:
                    reached.add(state)
                    waiting.append(state)
        return reached

    def _state(self) -> int:
        if len(self._steps) >= _MAX_STATES:
            raise ValueError("the pattern is too long with its repetitions written out")
        self._steps.append([])
        self._jumps.append([])
        return len(self._steps) - 1

    def _jump(self, start: int, end: int) -> int:
        self._jumps[start].append(end)
        return end

    def _build(self, node: Node, start: int) -> int:
        """Where one is after this part, which begins at start."""
        match node:
            case Characters(accepted):
                end = self._state()
                self._steps[start].append((accepted, end))
                return end
            case Sequence(parts):
                for part in parts:
                    start = self._build(part, start)
                return start
            case Choice(options):
                end = self._state()
                for option in options:
                    self._jump(self._build(option, self._jump(start, self._state())), end)
                return end
            case Repeated():
                return self._build_repeated(node, start)

    def _build_repeated(self, node: Repeated, start: int) -> int:
        # A state for each round, so that empty parts cannot be repeated without end.
        for _ in range(node.least):
            start = self._build(node.part, self._jump(start, self._state()))
        if node.most is None:
            loop = self._jump(start, self._state())
            self._jump(self._build(node.part, loop), loop)
            return self._jump(loop, self._state())
        end = self._state()
        for _ in range(node.most - node.least):
            self._jump(start, end)
            start = self._build(node.part, self._jump(start, self._state()))
        return self._jump(start, end)


class _Parser:
    """The part of Perl's expressions that namespaces are written in. Each method reads on from `_place`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._depth = 0

    def parsed(self) -> Node:
        node = self._choice()
        if self._place < len(self._text):
            self._fail("a parenthesis that nothing opens")
        return node

    def _choice(self) -> Node:
        options = [self._sequence()]
        while self._took("|"):
            options.append(self._sequence())
        return Choice(tuple(options)) if len(options) > 1 else options[0]

    def _sequence(self) -> Node:
        parts: list[Node] = []
        # The whole name is matched: these two change nothing where they can match at all.
        if not self._depth:
            self._took("^")
        while (character := self._next()) and character not in "|)":
            if character == "$" and not self._depth and self._text[self._place + 1 :][:1] in ("", "|"):
                self._place += 1
                break
            parts.append(self._repeated())
        return Sequence(tuple(parts))

    def _repeated(self) -> Node:
        node = self._atom()
        character = self._next()
        if character == "{":
            least, most = self._count()
        elif character and character in _COUNTS:
            least, most = _COUNTS[character]
            self._place += 1
        else:
            return node
        self._took("?")  # as few as possible: the same, if the whole has to match
        if (character := self._next()) and character in "*+?{":
            self._fail("a repetition of a repetition")
        return Repeated(node, least, most)

    def _count(self) -> tuple[int, int | None]:
        found = _COUNT.match(self._text, self._place)
        if not found:
            self._fail("a brace without a count")
        self._place = found.end()
        least = int(found["least"])
        if not found["range"]:
            return least, least
        most = int(found["most"]) if found["most"] else None
        if most is not None and most < least:
            self._fail("a count that ends before it begins")
        return least, most

    def _atom(self) -> Node:
        character = self._next()
        self._place += 1
        match character:
            case "(":
                return self._group()
            case "[":
                return Characters(self._set())
            case ".":
                return _ANY
            case "\\":
                return Characters(self._escape())
            case "*" | "+" | "?" | "{" | "^" | "$":
                self._fail(f"{character} in a place where it means nothing")
        return _literal(character)

    def _group(self) -> Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._fail("too many parentheses in one another")
        if self._took("?") and not self._took(":"):
            self._fail("(? that is not (?:")
        node = self._choice()
        if not self._took(")"):
            self._fail("a parenthesis that is not closed")
        self._depth -= 1
        return node

    def _escape(self) -> frozenset[str]:
        character = self._next()
        if not character:
            self._fail("a backslash at the end")
        self._place += 1
        if character in _CLASSES:
            return _CLASSES[character]
        if character.isalnum() or character not in _PRINTABLE:
            self._fail(f"the escape \\{character}")
        return frozenset(character)

    def _set(self) -> frozenset[str]:
        is_negated = self._took("^")
        accepted: frozenset[str] = frozenset()
        is_first = True
        while is_first or not self._took("]"):
            is_first = False
            accepted |= self._member()
        return _PRINTABLE - accepted if is_negated else accepted

    def _member(self) -> frozenset[str]:
        """One character of a set, a range of them, or a class."""
        first = self._set_character()
        if self._text[self._place : self._place + 1] != "-" or self._text[self._place + 1 :][:1] in ("", "]"):
            return first
        self._place += 1
        last = self._set_character()
        if len(first) > 1 or len(last) > 1 or min(last) < min(first):
            self._fail("a range that has no sense")
        return frozenset(map(chr, range(ord(min(first)), ord(min(last)) + 1)))

    def _set_character(self) -> frozenset[str]:
        character = self._next()
        self._place += 1
        if character == "\\":
            return self._escape()
        if not character or character not in _PRINTABLE:
            self._fail("a set that is not closed" if not character else "a set with more than ASCII")
        if character == "[" and self._next() in (":", ".", "="):
            self._fail("a named class of characters")
        return frozenset(character)

    def _next(self) -> str:
        """The next character, "" at the end."""
        return self._text[self._place : self._place + 1]

    def _took(self, character: str) -> bool:
        if self._next() != character:
            return False
        self._place += 1
        return True

    def _fail(self, what: str) -> NoReturn:
        raise ValueError(f"the expression {self._text!a} has {what}, at character {self._place}")


def _literal(character: str) -> Node:
    """As it stands in a name, where what is not printable ASCII is several characters."""
    return Sequence(tuple(Characters(frozenset(one)) for one in escaped(character)))


def _canonical_keywords(text: str) -> str:
    if len(text) > MAX_PATTERN:
        raise ValueError(f"a pattern of {len(text)} characters is longer than {MAX_PATTERN}")
    return _KEYWORD.sub(lambda found: canonical_keyword(found[0]), text)
