"""Prints the commands' part of docs/reference/cli.md, from the program itself.

.venv/bin/python -m sandbox.cli_reference
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import click

from dome_bridge.cli import cli


def reference() -> str:
    """Everything from "## Options of every command" to the end of the page."""
    context = click.Context(cli, info_name="dome-bridge")
    parts = ["## Options of every command\n", *_options(cli, context)]
    for name in sorted(cli.commands):
        parts += ["", *_command(name, cli.commands[name], context)]
    return "\n".join(parts) + "\n"


def _command(name: str, command: click.Command, parent: click.Context, level: str = "##") -> Iterator[str]:
    """With those of a group below it, one level deeper."""
    context = click.Context(command, info_name=name, parent=parent)
    pieces = " ".join(command.collect_usage_pieces(context))
    yield f"{level} `{context.command_path}`\n"
    yield inspect.cleandoc(command.help or "")
    yield f"\n    {context.command_path} {pieces}"
    options = list(_options(command, context))
    if options:
        yield ""
        yield from options
    if isinstance(command, click.Group):
        for below in sorted(command.commands):
            yield ""
            yield from _command(below, command.commands[below], context, f"{level}#")


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    parameters = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    records = [parameter.get_help_record(context) for parameter in parameters]
    rows = [record for record in records if record is not None and "--help" not in record[0]]
    if not rows:
        return
    yield "| option | meaning |"
    yield "| --- | --- |"
    for option, meaning in rows:
        yield f"| `{option.replace('|', ', ')}` | {' '.join(meaning.split())} |"


if __name__ == "__main__":
    sys.stdout.write(reference())
