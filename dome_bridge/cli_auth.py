"""`dome-bridge auth`: what is decided of a credential, for the administrator who wonders why."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dome_bridge.auth.audit import keep_credentials_out_of_logs
from dome_bridge.auth.principal import Transport
from dome_bridge.config import load
from dome_bridge.dome_api.commands import COMMANDS
from dome_bridge.dome_api.explain import explain
from dome_bridge.dome_api.question import Question, joined, question_of
from dome_bridge.errors import ConfigError

if TYPE_CHECKING:
    from dome_bridge.cli import Context

FINDING = 1
STANDARD_INPUT = "-"


class _Discreet(click.Group):
    """Does not repeat what it does not know: it may be a token in the wrong place."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f"no such command, there is: {', '.join(self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Discreet)
def auth() -> None:
    """Who is believed, and what he may."""


@auth.command("explain")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--command", "command", metavar="NAME", help="Ask for this command, such as dome_getdir.")
@click.option("--body", metavar="JSON", help="""Its parameters, such as '{"path": "/dpm"}'.""")
@click.option(
    "--over",
    type=click.Choice([each.value for each in Transport]),
    help="How it comes in.  [tls; a signed request: plain]",
)
@click.option("--from", "address", default="", metavar="ADDRESS", help="Where it comes from.")
@click.pass_obj
def explain_command(
    context: Context,
    files: tuple[str, ...],
    command: str | None,
    body: str | None,
    over: str | None,
    address: str,
) -> int:
    """Prints step by step what would be decided, and by which rule.

    FILE holds a token, certificates in PEM, or an HTTP request as it stands on the wire; "-" or none is
    standard input. Several files belong together, such as a token and the certificate of the connection. The
    credential itself is never printed, and nothing is changed. Exit code 1: it would be refused.
    """
    keep_credentials_out_of_logs()
    question = _question(files or (STANDARD_INPUT,), over, address)
    if command:
        question = question.asking(_verb_of(command), command, (body or "{}").encode())
    elif body:
        raise click.UsageError("--body is for --command")
    # It serves nobody, so that a key which others may read is no reason to stop.
    config = load(context.config_path, os.environ, serves=False)
    explanation = asyncio.run(explain(config, question))
    if context.as_json:
        click.echo(json.dumps(explanation.as_json()))
    else:
        click.echo("\n".join(explanation.lines()))
    return 0 if explanation.is_allowed else FINDING


def _question(files: tuple[str, ...], over: str | None, address: str) -> Question:
    question = joined(question_of(_read(file)) for file in dict.fromkeys(files))
    transport = Transport(over) if over else None
    return Question(
        question.headers, question.chain, question.method, question.target, question.body, transport, address
    )


def _verb_of(command: str) -> str:
    verbs = [each.method for each in COMMANDS if each.name == command]
    if not verbs:
        raise click.UsageError("--command is none that the API has: see docs/reference/dome-commands.md")
    return verbs[0]


def _read(file: str) -> str:
    """The messages do not repeat the argument where it may be a credential instead of a file's name."""
    try:
        return _bytes(file).decode()
    except FileNotFoundError:
        raise ConfigError(
            "a file that was named does not exist: put the token into one that only you may read, or give it"
            " on standard input; on the command line others could see it"
        ) from None
    except (OSError, ValueError) as exc:
        if isinstance(exc, UnicodeDecodeError):
            raise ConfigError("what was given is not text: of a certificate in DER make PEM first") from None
        reason = exc.strerror if isinstance(exc, OSError) else "no name of a file"
        raise ConfigError(
            f"a file that was named cannot be read ({reason}): name one that you may read"
        ) from None


def _bytes(file: str) -> bytes:
    if file != STANDARD_INPUT:
        return Path(file).read_bytes()
    if sys.stdin.isatty():
        click.echo("reading a token, certificates or a request from the terminal; end with Ctrl-D", err=True)
    return sys.stdin.buffer.read()
