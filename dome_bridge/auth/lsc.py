"""LSC files: which certificates the server of a VO signs with, named instead of kept.

A chain is the name of a certificate, the name of its issuer, those of the next certificate, and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dome_bridge.auth.dn import canonical

Chain = tuple[str, ...]
"""Subject, issuer, subject, issuer … in canonical slash form; the server's certificate is the first."""

_NEXT_CHAIN = re.compile(r"-+ *NEXT CHAIN *-+", re.IGNORECASE)


def parse_lsc(text: str) -> tuple[Chain, ...]:
    """The chains of a file, any of which will do. Raises ValueError with line and reason."""
    chains: list[list[str]] = [[]]
    for number, line in _lines(text):
        if _NEXT_CHAIN.fullmatch(line):
            chains.append([])
        else:
            chains[-1].append(_name(line, number))
    if any(len(chain) % 2 for chain in chains):
        raise ValueError("a chain is not pairs of a subject and its issuer")
    if not any(chains):
        raise ValueError("the file names no chain")
    return tuple(tuple(chain) for chain in chains if chain)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            yield number, line


def _name(line: str, number: int) -> str:
    is_quoted = len(line) > 1 and line[0] == line[-1] and line[0] in "'\""
    try:
        return canonical(line[1:-1].strip() if is_quoted else line)
    except ValueError as exc:
        raise ValueError(f"line {number}: {exc}") from exc
