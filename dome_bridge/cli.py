"""The command line: parses, calls, prints. What happens is decided elsewhere.

Exit codes: 0 good, 1 a finding or a failed step, 2 wrong usage, configuration or surroundings.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
import uvloop
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from dome_bridge import __version__
from dome_bridge.chimera import quarantine, state, target
from dome_bridge.cli_auth import auth
from dome_bridge.cli_cutover import accept_quarantine, cutover, rehearse, rollback
from dome_bridge.cli_handover import dcache_config, logins
from dome_bridge.cli_links import intake, links
from dome_bridge.cli_spaces import checked, planned_pools, spaces
from dome_bridge.config import Config, load
from dome_bridge.daemon import run_daemon
from dome_bridge.dpm.source import Source
from dome_bridge.errors import BridgeError
from dome_bridge.exporter import initialise, service
from dome_bridge.exporter.gate_findings import read_gates
from dome_bridge.exporter.verify import VerifyReport, verify_site
from dome_bridge.status import UNKNOWN, Status, Thresholds, estimate_entries, nagios, read_status, render
from dome_bridge.supervisor import Part

logger = logging.getLogger(__name__)

PROGRAM = "dome-bridge"

FINDING = 1
USAGE = 2

T = TypeVar("T")

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
JOURNAL_FORMAT = "%(levelname)s %(name)s: %(message)s"


@dataclass(frozen=True)
class Context:
    """What every command gets."""

    config_path: Path | None
    as_json: bool
    verbose: int = 0

    def config(self) -> Config:
        return load(self.config_path, os.environ)


pass_context = click.make_pass_decorator(Context)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file.  [default: $DOME_BRIDGE_CONFIG or /etc/dome-bridge/dome-bridge.toml]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
@click.option("-v", "--verbose", count=True, help="Say more; twice for all there is.")
@click.pass_context
def cli(context: click.Context, config_path: Path | None, as_json: bool, verbose: int) -> None:
    """Takes a running DPM site over to dCache without copying a byte."""
    _log(verbose, daemon=context.invoked_subcommand == "run")
    context.obj = Context(config_path, as_json, verbose)


cli.add_command(auth)
cli.add_command(dcache_config)
cli.add_command(logins)
cli.add_command(links)
cli.add_command(spaces)
cli.add_command(cutover)
cli.add_command(rehearse)
cli.add_command(rollback)


def _log(verbose: int, *, daemon: bool) -> None:
    quiet = logging.INFO if daemon else logging.WARNING
    level = [quiet, logging.INFO, logging.DEBUG][min(verbose, 2)]
    under_systemd = daemon and "JOURNAL_STREAM" in os.environ
    logging.basicConfig(
        level=level, format=JOURNAL_FORMAT if under_systemd else LOG_FORMAT, stream=sys.stderr, force=True
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def main() -> None:
    """Runs a command; what it raises on purpose becomes one line and an exit code."""
    try:
        code = cli.main(prog_name=PROGRAM, standalone_mode=False)
    except BridgeError as exc:
        _fail(str(exc), exc.exit_code)
    except click.exceptions.Abort:
        _fail("interrupted", 130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(USAGE)
    except target.DRIVER_ERRORS as exc:
        logger.debug("the command failed", exc_info=True)
        _fail(f"{type(exc).__name__}: {exc}; if the databases are up, report this with the output of -vv", 1)
    sys.exit(code or 0)


def _fail(message: str, code: int) -> None:
    click.echo(f"{PROGRAM}: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, default=str))


def _print_facts(facts: Mapping[str, object]) -> None:
    table = Table(show_header=False, box=None)
    for key, value in facts.items():
        _add_row(table, key, value)
    Console().print(table)


def _add_row(table: Table, *cells: object) -> None:
    """As it stands: `[chimera] dsn` and a file system `[/srv]` are no markup."""
    table.add_row(*(Text(_in_words(cell)) for cell in cells))


def _in_words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


@cli.command()
@click.option("--no-forecast", is_flag=True, help="Do not read the whole catalog for the forecast.")
@pass_context
def check(context: Context, no_forecast: bool) -> int:
    """Look at both databases: can we, may we, what would be left out. Changes nothing."""
    with _progress("reading") as advance:
        report = _run(checked(context.config(), forecast=not no_forecast, advance=advance))
    findings = [finding.as_json() for finding in report.findings]
    if context.as_json:
        _print_json({"ok": report.ok, "findings": findings})
    else:
        _print_findings(findings)
    return 0 if report.ok else FINDING


def _print_findings(findings: list[dict[str, Any]]) -> None:
    table = Table("severity", "id", "count", "finding", "remedy")
    for finding in findings:
        _add_row(table, *(finding[key] for key in ("severity", "id", "count", "message", "remedy")))
    Console().print(table)


@cli.command()
@pass_context
def init(context: Context) -> int:
    """Fix the ids, and set up state, journal and triggers. Harmless when done before."""
    done = _run(initialise.initialise(context.config()))
    facts = {
        "instance_id": done.site.instance_id,
        "inumber_offset": done.site.inumber_offset,
        "chimera_version": done.site.chimera_version,
        "already": done.already,
    }
    _print_json(facts) if context.as_json else _print_facts(facts)
    return 0


@cli.command()
@click.option("--only", type=click.Choice([part.value for part in Part]), help="Run this part only.")
@pass_context
def run(context: Context, only: str | None) -> int:
    """Run what is enabled until stopped: the mirror, the DOME API, or both in a process each."""
    part = Part(only) if only else None
    return _run(run_daemon(context.config(), part, partial(_part_command, context)))


def _part_command(context: Context, part: Part) -> list[str]:
    """The command line of a process with this part alone, by the interpreter and the options of ours."""
    interpreter = [
        sys.executable,
        *(["-P"] if sys.flags.safe_path else []),
        *(f"-W{each}" for each in sys.warnoptions),
    ]
    config = ["--config", str(context.config_path)] if context.config_path else []
    return [*interpreter, "-m", "dome_bridge", *config, *["-v"] * context.verbose, "run", "--only", part]


@cli.command()
@click.option("--once", is_flag=True, required=True, help="Copy and drain once, then exit.")
@pass_context
def sync(context: Context, once: bool) -> int:
    """Mirror offline: copy what is missing and apply the journal, without a daemon."""
    with _progress("copying") as advance:
        synced = _run(service.sync_once(context.config(), advance=advance))
    facts = {
        "snapshot": {"entries": synced.snapshot.entries, "seconds": round(synced.snapshot.seconds, 3)},
        "journal_applied": synced.journal_applied,
        "quarantined": synced.quarantined,
        "phase": synced.phase.value,
    }
    if context.as_json:
        _print_json(facts)
    else:
        copied = f"{synced.snapshot.entries} entries in {synced.snapshot.seconds:.1f} s"
        _print_facts({**facts, "snapshot": copied})
    return 0 if synced.agrees else FINDING


@contextmanager
def _progress(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar with an estimate of the end on standard error; nothing where that is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(step: str, entries: int, expected: int) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(f"{what} {step}", total=max(expected, 1))
            progress.update(tasks[step], completed=entries, total=max(expected, entries, 1))

        yield advance


@cli.command()
@click.option("--nagios", "as_nagios", is_flag=True, help="One line for Nagios, exit code 0 to 3.")
@pass_context
def status(context: Context, as_nagios: bool) -> int:
    """Show phase, lag, backlog and what was left out."""
    if as_nagios:
        return _nagios(context)
    found = _run(_read_all(context.config()))
    _print_json(found.as_json()) if context.as_json else Console().print(render(found))
    return 0


def _nagios(context: Context) -> int:
    """Whatever keeps us from knowing is UNKNOWN: the usual 2 would be an alarm."""
    try:
        config = context.config()
        code, line = nagios(_run(_read_status(config, exact=False)), Thresholds.of(config.exporter))
    except BridgeError as exc:
        code, line = UNKNOWN, f"DOME-BRIDGE UNKNOWN - {' '.join(str(exc).replace('|', '/').split())}"
    click.echo(line)
    return code


async def _read_all(config: Config) -> Status:
    """With the gates, if both databases answer."""
    found = await _read_status(config, exact=True)
    return dataclasses.replace(found, gates=await read_gates(config)) if found.source_reachable else found


async def _read_status(config: Config, *, exact: bool) -> Status:
    """exact: entries are counted; a probe that comes every minute must not do that to a site."""
    async with AsyncExitStack() as stack:
        conn = await target.connect(config.chimera)
        stack.push_async_callback(target.close, conn)
        try:
            source = await Source.connect(config.dpm)
            stack.push_async_callback(source.close)
        except BridgeError as exc:
            logger.warning("DPM's database cannot be reached error=%s", exc)
            return await read_status(None, conn)
        known = exact or not await state.exists(conn)
        return await read_status(
            source, conn, entries=None if known else await estimate_entries(source, conn)
        )


@cli.command()
@click.option("--repair", is_flag=True, help="Apply entries that differ anew.")
@click.option("--restart", is_flag=True, help="Begin anew instead of going on with an interrupted run.")
@pass_context
def verify(context: Context, repair: bool, restart: bool) -> int:
    """Project every entry again and compare it with Chimera."""
    with _progress("comparing") as advance:
        report = _run(verify_site(context.config(), repair=repair, resume=not restart, advance=advance))
    keys = ("compared", "missing", "extra", "different", "repaired", "seconds")
    facts: dict[str, Any] = {key: getattr(report, key) for key in keys}
    facts["seconds"] = round(report.seconds, 3)
    if context.as_json:
        facts["examples"] = [dataclasses.asdict(example) for example in report.examples]
        _print_json(facts)
    else:
        _print_facts(facts)
        _print_examples(report)
    return FINDING if report.remaining else 0


def _print_examples(report: VerifyReport) -> None:
    for example in report.examples:
        click.echo(f"{example.kind} fileid {example.fileid}: {example.detail}")


@cli.command("quarantine")
@click.option("--report", metavar="FILE", help="Take in what `dpm-pool-link` has reported; - for input.")
@click.option("--even-if-many", is_flag=True, help="Even if a pool loses many of its files by that.")
@click.option("--accept", metavar="COUNT:HASH", help="These entries may be left out, as a gate asks for.")
@pass_context
def list_quarantine(context: Context, report: str | None, even_if_many: bool, accept: str | None) -> int:
    """List what was left out and why, a JSON object a line."""
    if accept:
        _print_json(accept_quarantine(context.config(), accept))
        return 0
    if report:
        _print_json(intake(context.config(), report, even_if_many=even_if_many).as_json())
        return 0
    _run(_list_quarantine(context.config()))
    return 0


async def _list_quarantine(config: Config) -> None:
    async with AsyncExitStack() as stack:
        conn = await target.connect(config.chimera)
        stack.push_async_callback(target.close, conn)
        site = await state.load_site(conn)
        async for row in quarantine.listing(conn, site):
            _print_json(row.as_json())


@cli.command()
@pass_context
def pools(context: Context) -> int:
    """List the dCache pools: one for each server, file system and DPM pool."""
    found = [pool.as_json() for pool in _run(planned_pools(context.config()))]
    if context.as_json:
        _print_json({"pools": found})
    else:
        _print_pools(found)
    severe = any(finding["severity"] == "error" for pool in found for finding in pool["findings"])
    return FINDING if severe else 0


def _print_pools(found: list[dict[str, Any]]) -> None:
    table = Table("pool", "server", "fs", "DPM pool", "files", "bytes", "findings")
    for pool in found:
        findings = ", ".join(finding["id"] for finding in pool["findings"])
        keys = ("name", "server", "fs", "dpm_pool", "files", "bytes")
        _add_row(table, *(pool[key] for key in keys), findings)
    Console().print(table)


@cli.command()
@click.option("--abandon", is_flag=True, help="Give the migration up before a commit.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_context
def complete(context: Context, abandon: bool, yes: bool) -> int:
    """After the commit, remove change capture, journal and state; the fence stays."""
    config = context.config()
    removal = _run(initialise.planned_removal(config, abandon=abandon))
    removed = "\n".join(f"- {item}" for item in removal.items)
    click.echo(f"This removes:\n{removed}\n{removal.fence}", err=True)
    if not (yes or click.confirm("Go on?", err=True)):
        click.echo(f"{PROGRAM}: not confirmed; nothing was removed", err=True)
        return FINDING
    _run(initialise.complete(config, abandon=abandon))
    if context.as_json:
        _print_json({"removed": list(removal.items)})
    return 0


@cli.command("check-config")
@pass_context
def check_config(context: Context) -> int:
    """Read the configuration and say which file it came from."""
    config = context.config()
    source = str(config.path) if config.path else "no file; defaults and /etc/domehead.conf"
    _print_json({"ok": True, "file": source}) if context.as_json else click.echo(f"good: {source}")
    return 0
