"""The table of rules: complete, documented, and the only source of the numbers that the code refuses with."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dome_bridge.auth import rules
from dome_bridge.auth.rules import GROUPS, RULES

PROJECT = Path(__file__).parent.parent
PAGE = PROJECT / "docs" / "reference" / "auth-rules.md"
ROOMS = [*PROJECT.glob("dome_bridge/auth/*.py"), *PROJECT.glob("dome_bridge/dome_api/*.py")]

LAST = {
    "TLS": 11,
    "K": 7,
    "Y": 5,
    "H": 9,
    "T": 18,
    "D": 10,
    "S": 8,
    "G": 9,
    "I": 5,
    "M": 6,
    "MX": 8,
    "X": 7,
    "P": 6,
    "C": 3,
    "V": 9,
    "N": 8,
    "U": 5,
    "B": 5,
    "R": 5,
    "A": 5,
    "L": 7,
}


def test_every_rule_has_a_sentence_once() -> None:
    numbers = [number for group in GROUPS.values() for number in group]
    assert numbers == [f"{letter}{number + 1}" for letter, last in LAST.items() for number in range(last)]
    assert len(set(RULES.values())) == len(numbers)


@pytest.mark.parametrize("rule", RULES)
def test_sentence_is_one_line_that_a_table_can_hold(rule: str) -> None:
    assert re.fullmatch(r"[^|\n]+[^|\n.]\.", RULES[rule])
    assert rules.meaning(rule) == RULES[rule]


def test_number_that_there_is_not_means_nothing() -> None:
    assert rules.meaning("T19") == ""


def test_page_ends_with_what_the_module_prints() -> None:
    assert PAGE.read_text().endswith(f"\n\n{rules.reference()}")


def literals(path: Path) -> Iterator[str]:
    """All that looks like the number of a rule, whichever call it is an argument of."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"\A(?:TLS|MX|[A-Z])\d{1,2}\Z", node.value)


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_number_in_the_code_is_a_rule(path: Path) -> None:
    assert set(literals(path)) <= set(RULES)


def refused_with(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "AuthError":
            rule = node.args[1]
            if isinstance(rule, ast.Constant):
                yield str(rule.value)


def test_every_refusal_names_a_rule() -> None:
    named = [rule for path in ROOMS for rule in refused_with(path)]
    assert "S3" in named
    assert set(named) <= set(RULES)
