"""`dcache-config` and `logins`: what dCache is to be started with, and who can log in to it then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dome_bridge.exporter.findings import Finding
from dome_bridge.handover import tree
from dome_bridge.handover.generate import generate
from dome_bridge.handover.logins import LoginReport, check_logins

if TYPE_CHECKING:
    from dome_bridge.cli import Context

FINDING = 1


@click.command("dcache-config")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory to write to; the only thing that is changed.",
)
@click.option(
    "--diff",
    "etc",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Show what a live /etc/dcache has otherwise.",
)
@click.pass_obj
def dcache_config(context: Context, out: Path | None, etc: Path | None) -> int:
    """Write the configuration of dCache: layouts, pools, logins, units of systemd.

    Every file says where it belongs. Nothing on this machine is changed but DIRECTORY. Exit code 1: an error
    was found, or --diff found a difference.
    """
    if out is None and etc is None:
        raise click.UsageError("name a directory with --out, or a live /etc/dcache with --diff")
    made = asyncio.run(generate(context.config()))
    if out is not None:
        tree.write(made, out)
    lines = list(tree.diff(made, etc)) if etc is not None else []
    if context.as_json:
        click.echo(json.dumps({**made.as_json(), **({"diff": lines} if etc is not None else {})}))
    else:
        for line in lines:
            click.echo(line)
        if out is not None:
            _print_files(file.path for file in made.files)
        _print_findings(made.findings)
    return 0 if made.ok and not lines else FINDING


@click.command()
@click.option("--check", is_flag=True, required=True, help="Rehearse every login. Changes nothing.")
@click.option(
    "--etc",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Judge the files of this directory, such as /etc/dcache, instead of those that would be made.",
)
@click.pass_obj
def logins(context: Context, check: bool, etc: Path | None) -> int:
    """Try every user with files, group and token on dCache's login chain, and compare with DPM."""
    report = asyncio.run(check_logins(context.config(), etc))
    if context.as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        _print_report(report)
    return 0 if report.ok else FINDING


def _print_report(report: LoginReport) -> None:
    _print_findings(report.findings)
    click.echo(f"{report.attempts} logins tried, {len(report.differences)} differences from DPM")


def _print_files(paths: Iterable[str]) -> None:
    for path in paths:
        click.echo(path)


def _print_findings(findings: Iterable[Finding]) -> None:
    table = Table("severity", "id", "count", "finding", "remedy")
    for one in findings:
        cells = (one.severity, one.id, one.count, one.message, one.remedy)
        table.add_row(*(Text(str(cell)) for cell in cells))
    if table.row_count:
        Console().print(table)
