"""Which subjects a CA may issue: the signing policies of Globus and the namespaces of IGTF.

Names are in canonical slash form. Parsing raises ValueError with line and reason; a CA with a file that does
not parse may issue nothing, which is `NOTHING`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dome_bridge.auth.dn import canonical
from dome_bridge.auth.name_pattern import NamePattern


@dataclass(frozen=True)
class Rule:
    """issuer: "" is the CA that the file belongs to."""

    issuer: str
    is_permission: bool
    pattern: NamePattern


@dataclass(frozen=True)
class Policy:
    rules: tuple[Rule, ...]

    def permits(self, issuer: str, subject: str) -> bool:
        """Whether the CA with this name, whose file this is, may issue this subject. A denial wins."""
        verdicts = {
            rule.is_permission
            for rule in self.rules
            if rule.issuer in ("", issuer) and rule.pattern.matches(subject)
        }
        return verdicts == {True}


NOTHING = Policy(())

_MAX_LINE = 8192

_STATEMENT = re.compile(r"(?P<keyword>[A-Za-z_]+)\s+(?P<authority>\S+)\s+(?P<argument>\S.*)")
_COMMENT = re.compile(r"""^#.*|\s#[^'"]*$""")
_QUOTED = r"""(?:"[^"]*"|'[^']*')"""
_QUOTED_LIST = re.compile(rf"{_QUOTED}(?:\s*{_QUOTED})*")

_NAMESPACE = re.compile(
    r'TO\s+ISSUER\s+(?:(?P<self>SELF)|"(?P<issuer>[^"]+)")\s+'
    r'(?P<verdict>PERMIT|DENY)\s+SUBJECT\s+"(?P<pattern>[^"]+)"\s*(?:#.*)?',
    re.IGNORECASE,
)


def parse_signing_policy(text: str) -> Policy:
    """Of `<hash>.signing_policy`. Only `CA:sign` is a right that counts, and it needs conditions."""
    rules: list[Rule] = []
    issuer, may_sign = "", False
    for number, line in _lines(text):
        if not (line := _COMMENT.sub("", line).strip()):
            continue
        with _line(number):
            keyword, authority, argument = _statement(line)
            match keyword:
                case "pos_rights":
                    may_sign = (authority, _unquoted(argument).lower()) == ("globus", "ca:sign")
                case "cond_subjects":
                    if issuer and may_sign and authority == "globus":
                        rules += _permissions(issuer, argument)
                case _:
                    issuer, may_sign = _ca(keyword, authority, argument), False
    return Policy(tuple(rules))


def parse_namespaces(text: str) -> Policy:
    """Of `<hash>.namespaces`."""
    rules = []
    for number, statement in _joined(text):
        with _line(number):
            rules.append(_rule(statement))
    return Policy(tuple(rules))


def _rule(statement: str) -> Rule:
    found = _NAMESPACE.fullmatch(statement)
    if not found:
        raise ValueError(
            f'expected TO Issuer "<name>"|SELF PERMIT|DENY Subject "<expression>", got {statement[:128]!a}'
        )
    issuer = "" if found["self"] else canonical(found["issuer"])
    is_permission = found["verdict"].upper() == "PERMIT"
    return Rule(issuer, is_permission, NamePattern.of_expression(found["pattern"]))


def _statement(line: str) -> tuple[str, str, str]:
    found = _STATEMENT.fullmatch(line)
    if not found:
        raise ValueError(f"expected a keyword, an authority and a value, got {line[:128]!a}")
    return found["keyword"].lower(), found["authority"].lower(), found["argument"]


def _ca(keyword: str, authority: str, argument: str) -> str:
    """The name of the CA whose block begins, "" for one that this file cannot be about."""
    if not keyword.startswith("access_id_"):
        raise ValueError(f"{keyword[:64]!a} is not understood")
    if (keyword, authority) != ("access_id_ca", "x509"):
        return ""
    try:
        return canonical(_unquoted(argument))
    except ValueError:
        return ""


def _permissions(issuer: str, argument: str) -> list[Rule]:
    return [Rule(issuer, True, NamePattern.of_wildcards(pattern)) for pattern in _listed(argument)]


def _listed(argument: str) -> list[str]:
    """The patterns in a condition: in quotes each, and usually in other quotes together."""
    if len(_quoted_list(argument)) > 1:
        return _quoted_list(argument)
    inner = _unquoted(argument)
    return _quoted_list(inner) or [inner]


def _quoted_list(text: str) -> list[str]:
    if not _QUOTED_LIST.fullmatch(text.strip()):
        return []
    return [quoted[1:-1] for quoted in re.findall(_QUOTED, text)]


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """The statements, which a backslash continues on the next line, with the number of their first line."""
    statement, first = "", 0
    for number, line in [*_lines(text), (0, "")]:
        if line.startswith("#"):
            continue
        first = first or number
        statement += line.removesuffix("\\") + " "
        if not line.endswith("\\"):
            if statement.strip():
                yield first, statement.strip()
            statement, first = "", 0


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        if len(line) > _MAX_LINE:
            raise ValueError(f"line {number} has more than {_MAX_LINE} characters")
        yield number, line.strip()


@contextmanager
def _line(number: int) -> Iterator[None]:
    try:
        yield
    except ValueError as exc:
        raise ValueError(f"line {number}: {exc}") from exc
