"""How a check tells what it has found, for whoever wants to see every step of a decision.

A check that holds is told with its requirement's number, in the order of the checks; one that does not hold
is an AuthError. Arguments are put into the text by the listener, as in logging, so that a decision nobody
watches pays nothing for it. What a client sent goes in as %a, which leaves no control characters.
"""

from __future__ import annotations

from typing import Protocol

_SHOWN_CHARACTERS = 100


class Trace(Protocol):
    """Is told of each check that held: the requirement's number, and what was found."""

    def __call__(self, rule: str, text: str, *args: object) -> None: ...


def untold(rule: str, text: str, *args: object) -> None:
    """The trace of a decision that nobody watches."""


def shown(value: object) -> str:
    """A value that a client sent, for a message: escaped, and not longer than a message may be."""
    text = ascii(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
