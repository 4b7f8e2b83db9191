"""`python -m dome_bridge.dome_api.reference` prints the table of docs/reference/dome-commands.md."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from dome_bridge.dome_api.command import Command, Parameter
from dome_bridge.dome_api.commands import COMMANDS


def reference(commands: Iterable[Command] = COMMANDS) -> str:
    """A row for each command, in alphabetical order."""
    rows = [
        "| command | verb | parameters | what it does |",
        "| --- | --- | --- | --- |",
        *map(_row, sorted(commands, key=lambda command: command.name)),
    ]
    return "\n".join(rows) + "\n"


def _row(command: Command) -> str:
    return f"| `{command.name}` | {command.method} | {_parameters(command)} | {command.summary} |"


def _parameters(command: Command) -> str:
    return ", ".join(map(_parameter, command.parameters)) or "none"


def _parameter(parameter: Parameter) -> str:
    return f"`{parameter.key}`" if parameter.is_demanded else f"[`{parameter.key}`]"


if __name__ == "__main__":
    sys.stdout.write(reference())
