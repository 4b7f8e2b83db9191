"""What a look at a site finds: stable ids for scripts, words for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    ERROR = "error"
    """The next command would refuse, or data would be lost"""
    WARNING = "warning"
    """The site should decide"""
    INFO = "info"


@dataclass(frozen=True)
class Finding:
    """`count`: how many things it is about. `remedy` is empty where there is nothing to do."""

    id: str
    severity: Severity
    message: str
    remedy: str = ""
    count: int = 1

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
