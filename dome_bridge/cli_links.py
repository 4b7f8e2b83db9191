"""`dome-bridge links`, and what disk servers report back."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from dome_bridge.config import Config
from dome_bridge.errors import ConfigError
from dome_bridge.exporter.disk_report import Taken, take_report
from dome_bridge.exporter.links import LinkFeed

if TYPE_CHECKING:
    from dome_bridge.cli import Context

STANDARD_INPUT = "-"


@click.command()
@click.option("--server", required=True, metavar="NAME", help="Disk server, as dpm_fs has it.")
@click.option("--since", default="", metavar="CURSOR", help="Only what changed since this feed ended.")
@click.option("--checksums", is_flag=True, help="With the adler32 of each file that has one.")
@click.pass_obj
def links(context: Context, server: str, since: str, checksums: bool) -> int:
    """List what has to be in the server's pool directories, a JSON object a line, for `dpm-pool-link`."""
    asyncio.run(_write(context.config(), sys.stdout.buffer, server, since, checksums=checksums))
    return 0


async def _write(config: Config, out: IO[bytes], server: str, since: str, *, checksums: bool) -> None:
    async with aclosing(LinkFeed(config).blocks(server, since=since, checksums=checksums)) as blocks:
        async for block in blocks:
            out.write(block)
    out.flush()


def intake(config: Config, report: str, *, even_if_many: bool) -> Taken:
    """Takes the report of a disk server in. report: a file, or "-"."""
    try:
        text = sys.stdin.read() if report == STANDARD_INPUT else Path(report).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{report}: cannot be read ({exc}): name a report of `dpm-pool-link`") from exc
    return asyncio.run(take_report(config, text.splitlines(), even_if_many=even_if_many))
