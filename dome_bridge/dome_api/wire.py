"""What DOME puts on the wire: the command in a URL, the parameters in a JSON body, the answers.

The original head reads and writes JSON with boost's property tree, and its clients rely on what
follows from that: every scalar is text, a value that does not convert counts as missing, a body
that does not parse has no parameters, and of a repeated key the first value counts. Names are
bytes to a catalog; in answers those that are not UTF-8 travel through `str` as surrogate escapes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring as _quoted
from typing import ClassVar, NoReturn, TypeAlias

from dome_bridge.errors import ApiError

Tree: TypeAlias = "str | Mapping[str, Tree] | Sequence[Tree]"
_Json: TypeAlias = "str | bool | dict[str, _Json] | list[_Json] | None"

_CODED = re.compile(r"%(?:2f|2e|5c|00)", re.IGNORECASE)
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*")

# Clients nest once (groupnames); the limit keeps everything that walks a body off the interpreter's.
MAX_DEPTH = 32
_BYTE_ORDER_MARK = "\ufeff"

# Where a \u escape names half of a surrogate pair; neither UTF-8 nor surrogate escapes make this character.
_HALF_A_PAIR = "\ud800"
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)

_BLANKS = " \t\n\v\f\r"
_LONGEST_INTEGER = 20
_YES = frozenset({"true", "1", "yes"})

_INDENT = "    "
_CONTROL_ESCAPE = re.compile(r"\\(u00[01][0-9a-f]|.)")
_WITHOUT_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def command_of(raw_path: str) -> str:
    """The last component of a request target, whatever the prefix; empty if there is none.

    Nothing is URL-decoded, as in the original.
    """
    path = raw_path.partition("?")[0]
    if origin := _ORIGIN.match(path):
        path = path[origin.end() :]
    return path.rstrip("/").rpartition("/")[2]


def is_odd_target(raw_path: str) -> bool:
    """Whether a request target could lead two readers to two commands: dots, coded slashes, another host."""
    path = raw_path.partition("?")[0]
    names = path.split("/")
    return not path.startswith("/") or bool(_CODED.search(path)) or "." in names or ".." in names


class ParameterError(ApiError):
    """A parameter that a command cannot do without is missing or of the wrong kind."""

    def __init__(self, problem: str) -> None:
        super().__init__(422, f"Error while parsing json body: {problem}")


class Parameters:
    """The top level of a request's JSON body, with the conversions of boost's property tree."""

    def __init__(self, values: Mapping[str, _Json] | None = None, *, escaped_bytes: bool = False) -> None:
        self._values = values or {}
        self._escaped_bytes = escaped_bytes
        self._plain: Mapping[str, str] = {}
        self.is_too_deep = False
        """The body was nested so deeply that nothing of it was taken."""

    @classmethod
    def from_body(cls, body: bytes) -> Parameters:
        """Never raises: what is empty, malformed, too deep or not an object has no parameters."""
        try:
            document = _parsed(body)
        except ValueError:
            return cls()
        except RecursionError:
            return cls._too_deep()
        if not isinstance(document, dict):
            return cls()
        if _is_too_deep(document):
            return cls._too_deep()
        # Old boost escapes every byte beyond ASCII as \u00XX, so nothing of its bodies is beyond ASCII.
        return cls(document, escaped_bytes=body.isascii())

    @classmethod
    def _too_deep(cls) -> Parameters:
        parameters = cls()
        parameters.is_too_deep = True
        return parameters

    def with_texts(self, texts: Mapping[str, str]) -> Parameters:
        """A copy in which these keys have these texts, which are taken as they are."""
        changed = Parameters({**self._values, **texts})
        changed._escaped_bytes = self._escaped_bytes
        changed._plain = {**self._plain, **texts}
        return changed

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, default: str = "") -> str:
        """Objects and arrays have the text ''. Raises ParameterError for text that has no bytes."""
        if key in self._plain:
            return self._plain[key]
        if key not in self._values:
            return default
        return self._scalar(key, self._values[key])

    def required_text(self, key: str) -> str:
        if key not in self._values:
            raise ParameterError(f"No such node ({key})")
        return self.text(key)

    def integer(self, key: str, default: int = 0, *, bits: int = 64) -> int:
        number = _signed(self.text(key), bits)
        return default if number is None else number

    def unsigned(self, key: str, default: int = 0, *, bits: int = 32) -> int:
        """A negative number wraps around, as C++ streams read it: -1 is the greatest."""
        number = _unsigned(self.text(key), bits)
        return default if number is None else number

    def required_integer(self, key: str, *, bits: int = 64) -> int:
        number = _signed(self.required_text(key), bits)
        return _unconvertible(key, f"a signed {bits}-bit number") if number is None else number

    def required_unsigned(self, key: str, *, bits: int = 32) -> int:
        number = _unsigned(self.required_text(key), bits)
        return _unconvertible(key, f"an unsigned {bits}-bit number") if number is None else number

    def boolean(self, key: str, default: bool = False) -> bool:
        """0, 1, true and false; everything else is the default."""
        text = self.text(key).strip(_BLANKS)
        if text in ("true", "false"):
            return text == "true"
        number = _signed(text, 64)
        return number == 1 if number in (0, 1) else default

    def flag(self, key: str, default: bool = False, *, also: Collection[str] = ()) -> bool:
        """A "string bool": true, 1, yes and `also` are yes, every other value is no."""
        if key not in self._values:
            return default
        text = self.text(key)
        return text in _YES or text in also

    def character(self, key: str, default: str) -> str:
        """One printable ASCII character; everything else is the default."""
        text = self.text(key).strip(_BLANKS)
        return text if len(text) == 1 and text.isascii() and text.isprintable() else default

    def texts(self, key: str) -> list[str]:
        """The scalars in an array or object, '' for each that is none; [] for a scalar or a missing key."""
        value = self._values.get(key)
        if isinstance(value, dict):
            value = list(value.values())
        return [self._scalar(key, item) for item in value] if isinstance(value, list) else []

    def tree(self) -> Mapping[str, Tree]:
        """The whole body, to be rendered again for a disk node. Raises ParameterError like `text`."""
        return self._object("", self._values)

    def _tree(self, key: str, value: _Json) -> Tree:
        match value:
            case dict():
                return self._object(key, value)
            case list():
                return [self._tree(key, item) for item in value]
        return self._scalar(key, value)

    def _object(self, key: str, values: Mapping[str, _Json]) -> dict[str, Tree]:
        return {self._checked(key, name): self._tree(name, value) for name, value in values.items()}

    def _scalar(self, key: str, value: _Json) -> str:
        match value:
            case str():
                return self._checked(key, value)
            case None:
                return "null"
            case bool():
                return "true" if value else "false"
        return ""

    def _checked(self, key: str, text: str) -> str:
        if text.isascii():
            return text
        if _HALF_A_PAIR in text:
            raise ParameterError(f"half of a surrogate pair in the text of {key[:80]!a}; send UTF-8")
        return _joined_bytes(text) if self._escaped_bytes else text


def render(tree: Tree) -> bytes:
    """The JSON document as boost prints it, with raw UTF-8 and plain slashes.

    Below the root an empty list or object is "", because a property tree cannot tell it from text.
    """
    if isinstance(tree, Mapping) and not tree:
        return b"{\n}\n"
    document = _rendered(tree, "\n") + "\n"
    if "\\u00" in document:
        document = _CONTROL_ESCAPE.sub(_in_upper_case, document)
    return _encoded(document)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a client: errors and sentences are plain text, only successes are JSON."""

    EMPTY: ClassVar[Answer]

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain"
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def json(cls, tree: Tree, status: int = 200) -> Answer:
        return cls(status, render(tree), "application/json")

    @classmethod
    def text(cls, text: str, status: int = 200) -> Answer:
        return cls(status, _encoded(text))


Answer.EMPTY = Answer()


def _parsed(body: bytes) -> _Json:
    text = body.decode("utf-8").removeprefix(_BYTE_ORDER_MARK)
    if _SURROGATE_ESCAPE.search(body):
        text = _ESCAPE.sub(_with_lone_surrogate_marked, text)
    document: _Json = _DECODER.decode(text)
    return document


def _with_lone_surrogate_marked(escape: re.Match[str]) -> str:
    return _HALF_A_PAIR if escape[1] else escape[0]


def _first_of_each_key(pairs: list[tuple[str, _Json]]) -> dict[str, _Json]:
    values = dict(pairs)
    if len(values) < len(pairs):
        values = {}
        for key, value in pairs:
            values.setdefault(key, value)
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Numbers stay text: nobody pays for converting a million digits, and none is rounded.
_DECODER = json.JSONDecoder(
    strict=False,
    parse_int=str,
    parse_float=str,
    parse_constant=_refuse_constant,
    object_pairs_hook=_first_of_each_key,
)


def _is_too_deep(document: dict[str, _Json]) -> bool:
    level: list[dict[str, _Json] | list[_Json]] = [document]
    for _ in range(MAX_DEPTH):
        level = [item for node in level for item in _items(node) if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _items(node: dict[str, _Json] | list[_Json]) -> Collection[_Json]:
    return node.values() if isinstance(node, dict) else node


def _joined_bytes(text: str) -> str:
    """The text of which old boost wrote each UTF-8 byte as a character of its own; other text as it is."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _whole_number(text: str) -> int | None:
    text = text.strip(_BLANKS)
    digits = text[1:] if text.startswith(("+", "-")) else text
    if not (digits.isascii() and digits.isdecimal()):
        return None
    digits = digits.lstrip("0")
    if len(digits) > _LONGEST_INTEGER:
        return None
    magnitude = int(digits or "0")
    return -magnitude if text.startswith("-") else magnitude


def _signed(text: str, bits: int) -> int | None:
    number = _whole_number(text)
    limit = 1 << (bits - 1)
    return number if number is not None and -limit <= number < limit else None


def _unsigned(text: str, bits: int) -> int | None:
    number = _whole_number(text)
    limit = 1 << bits
    return number % limit if number is not None and -limit < number < limit else None


def _unconvertible(key: str, kind: str) -> NoReturn:
    raise ParameterError(f"conversion of data to type {kind} failed ({key})")


def _rendered(tree: Tree, line: str) -> str:
    """`line` is the line break with the indentation of the line that the tree begins on."""
    if isinstance(tree, str):
        return _quoted(tree)
    if not tree:
        return '""'
    deeper = line + _INDENT
    if isinstance(tree, Mapping):
        # A directory of ten thousand entries is one document: the call is saved for the many texts.
        members = [
            f"{_quoted(key)}: {_quoted(value) if type(value) is str else _rendered(value, deeper)}"
            for key, value in tree.items()
        ]
        return f"{{{deeper}{f',{deeper}'.join(members)}{line}}}"
    elements = [_rendered(element, deeper) for element in tree]
    return f"[{deeper}{f',{deeper}'.join(elements)}{line}]"


def _in_upper_case(escape: re.Match[str]) -> str:
    code = escape[1]
    return f"\\u{code[1:].upper()}" if len(code) > 1 else escape[0]


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return _WITHOUT_BYTES.sub(_as_escape, text).encode("utf-8", "surrogateescape")


def _as_escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04X}"
