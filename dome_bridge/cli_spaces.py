"""`dome-bridge spaces`, and what else asks the disk servers for the exporter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dome_bridge.config import Config
from dome_bridge.disk_inquiry import disk_servers
from dome_bridge.exporter import check, pool_plan
from dome_bridge.exporter.check import CheckReport
from dome_bridge.exporter.findings import Finding, Severity
from dome_bridge.exporter.forecast import Advance
from dome_bridge.exporter.group_quotas import QuotasLoaded, load_quotas
from dome_bridge.exporter.pool_plan import PlannedPool
from dome_bridge.exporter.session import open_databases, open_session
from dome_bridge.exporter.space_compare import compare_spaces
from dome_bridge.exporter.space_findings import judge
from dome_bridge.exporter.space_load import Loaded, load_spaces
from dome_bridge.exporter.space_survey import Survey, survey
from dome_bridge.exporter.spaces import note_free

if TYPE_CHECKING:
    from dome_bridge.cli import Context

FINDING = 1


async def checked(config: Config, *, forecast: bool, advance: Advance) -> CheckReport:
    async with disk_servers(config) as disks:
        return await check.check(config, forecast=forecast, advance=advance, disks=disks)


async def planned_pools(config: Config) -> tuple[PlannedPool, ...]:
    async with disk_servers(config) as disks:
        return await pool_plan.plan(config, disks)


@dataclass
class _Outcome:
    """What the command has seen and done. differences: None if nothing was compared."""

    survey: Survey
    findings: tuple[Finding, ...]
    loaded: Loaded | None = None
    quotas: QuotasLoaded | None = None
    differences: list[str] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def is_refused(self) -> bool:
        return any(finding.severity is Severity.ERROR for finding in self.findings)

    @property
    def ok(self) -> bool:
        return not self.is_refused and not self.differences

    def as_json(self) -> dict[str, Any]:
        loaded = None
        if self.loaded is not None:
            loaded = {
                "whole": self.loaded.is_whole,
                "rows": self.loaded.rows,
                "seconds": round(self.loaded.seconds, 3),
            }
        written = None if self.quotas is None else len(self.quotas.plan.quotas) - len(self.quotas.foreign)
        return {
            **self.survey.as_json(),
            "findings": [finding.as_json() for finding in self.findings],
            "loaded": loaded,
            "quotas_written": written,
            "differences": self.differences,
        }


@click.command()
@click.option("--load", "is_loading", is_flag=True, help="Write reservations and their files, or quotas.")
@click.option("--compare", "is_comparing", is_flag=True, help="Compare each reservation with its files.")
@click.pass_obj
def spaces(context: Context, is_loading: bool, is_comparing: bool) -> int:
    """Show what quotatokens become in dCache; write it on demand.

    Without options nothing is written. Exit code 1: an error among the findings, or a difference; then
    nothing is loaded either.
    """
    outcome = asyncio.run(_spaces(context.config(), is_loading=is_loading, is_comparing=is_comparing))
    if context.as_json:
        click.echo(json.dumps(outcome.as_json(), default=str))
    else:
        _print(outcome)
    return 0 if outcome.ok else FINDING


async def _spaces(config: Config, *, is_loading: bool, is_comparing: bool) -> _Outcome:
    async with disk_servers(config) as disks, open_databases(config) as databases:
        plan = await pool_plan.plan_pools(databases, usage=False, disks=disks)
        free = {pool.name: pool.free for pool in plan.pools if pool.free is not None}
        seen = await survey(databases, free=free or None)
        outcome = _Outcome(seen, judge(seen))
    if is_loading and not outcome.is_refused:
        await _load(config, free, outcome)
    if is_comparing and config.spacemanager.enabled:
        async with open_session(config) as session:
            outcome.differences = await compare_spaces(session)
    return outcome


async def _load(config: Config, free: Mapping[str, int], outcome: _Outcome) -> None:
    async with open_session(config) as session:
        await note_free(session.conn, free)
        if config.spacemanager.enabled:
            outcome.loaded = await load_spaces(session)
        else:
            outcome.quotas = await load_quotas(session)
            outcome.notes += [
                f"the quota of gid {gid} is not ours and stays" for gid in outcome.quotas.foreign
            ]


def _print(outcome: _Outcome) -> None:
    facts = outcome.survey.as_json()
    _table(("id", "name", "path", "pool", "unit", "size", "used", "files", "used_in_dpm"), facts["spaces"])
    _table(("name", "free", "reserved", "available", "lacking"), facts["link_groups"], title="link groups")
    _table(("gid", "limit", "used", "token"), facts["quotas"], title="quotas")
    findings = [finding.as_json() for finding in outcome.findings]
    _table(("severity", "id", "count", "message", "remedy"), findings, title="findings")
    if outcome.loaded is not None:
        how = "everything" if outcome.loaded.is_whole else "what had changed"
        click.echo(f"loaded {how}: {outcome.loaded.rows} files in {outcome.loaded.seconds:.1f} s")
    if outcome.differences is not None:
        click.echo("\n".join(outcome.differences) or "reservations agree with their files")
    for note in outcome.notes:
        click.echo(note)


def _table(keys: Sequence[str], rows: Iterable[Mapping[str, Any]], *, title: str = "") -> None:
    table = Table(*(key.replace("_", " ") for key in keys), title=title or None)
    for row in rows:
        table.add_row(*(Text("" if row[key] is None else str(row[key])) for key in keys))
    if table.row_count:
        Console().print(table)
