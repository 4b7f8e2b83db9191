"""The findings of docs/reference/hand-over.md; `python -m dome_bridge.handover.reference` prints them."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from dome_bridge.handover import accounting, files, identities, layouts, logins, pool_manager

TABLES: Mapping[str, tuple[Mapping[str, str], ...]] = {
    "Findings of `dcache-config`": (
        files.CHECKS,
        layouts.CHECKS,
        pool_manager.CHECKS,
        identities.CHECKS,
        accounting.CHECKS,
    ),
    "Findings of `logins --check`": (logins.CHECKS,),
}


def reference() -> str:
    return "\n".join(_table(heading, tables) for heading, tables in TABLES.items())


def _table(heading: str, tables: tuple[Mapping[str, str], ...]) -> str:
    rows = (f"| `{name}` | {meaning} |" for table in tables for name, meaning in table.items())
    return "\n".join((f"## {heading}", "", "| id | is about |", "| --- | --- |", *rows, ""))


if __name__ == "__main__":
    sys.stdout.write(reference())
