"""`python -m dome_bridge.dome_api.reference` prints the table of docs/reference/dome-commands.md."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from dome_bridge.auth.scopes import Capability
from dome_bridge.dome_api.admission import Admission, Tokens
from dome_bridge.dome_api.command import Command, Parameter
from dome_bridge.dome_api.commands import COMMANDS

NOBODY = "—"


def reference(commands: Iterable[Command] = COMMANDS) -> str:
    """A row for each command, in alphabetical order."""
    rows = [
        "| command | verb | parameters | for | scope | what it does |",
        "| --- | --- | --- | --- | --- | --- |",
        *map(_row, sorted(commands, key=lambda command: command.name)),
    ]
    return "\n".join(rows) + "\n"


def _row(command: Command) -> str:
    admission = command.admission
    cells = (
        f"`{command.name}`",
        command.method,
        _parameters(command),
        callers(admission),
        scope(admission),
        command.summary,
    )
    return f"| {' | '.join(cells)} |"


def _parameters(command: Command) -> str:
    return ", ".join(map(_parameter, command.parameters)) or "none"


def _parameter(parameter: Parameter) -> str:
    return f"`{parameter.key}`" if parameter.is_demanded else f"[`{parameter.key}`]"


def callers(admission: Admission) -> str:
    """Who may call a command besides the head and the administrators, who may call all."""
    if admission.anybody:
        return "everybody"
    roles = {"users": admission.users, "disks": admission.disk, "front-ends": admission.frontend}
    return ", ".join(role for role, may in roles.items() if may) or NOBODY


def scope(admission: Admission) -> str:
    """What a token must allow on the objects that are named."""
    if admission.anybody:
        return "none"
    match admission.tokens if admission.users else Tokens.NEVER:
        case Tokens.SCOPES:
            *others, last = (one.removeprefix("storage.") for one in Capability if one in admission.needs)
            needed = f"{', '.join(others)} or {last}" if others else last
            return f"{needed}; or host.auth" if admission.host_auth else needed
        case Tokens.GROUPS:
            return "groups only"
    return "host.auth" if admission.host_auth else NOBODY


if __name__ == "__main__":
    sys.stdout.write(reference())
