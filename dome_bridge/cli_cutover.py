"""`dome-bridge cutover`, `rehearse` and `rollback`: options, questions, tables."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dome_bridge.config import Config
from dome_bridge.exporter import cutover as cutovers
from dome_bridge.exporter import quarantine_acceptance, rehearsal
from dome_bridge.exporter import rollback as rollbacks
from dome_bridge.exporter.artifacts import WRITERS
from dome_bridge.exporter.cutover import Terms
from dome_bridge.exporter.cutover_plan import State
from dome_bridge.exporter.cutover_record import CutoverReport
from dome_bridge.exporter.cutover_steps import Decide, Options
from dome_bridge.exporter.gates import Gate
from dome_bridge.exporter.space_cutover import spaces_gate, spaces_writer
from dome_bridge.handover.at_cutover import configuration_writer, logins_gate

if TYPE_CHECKING:
    from dome_bridge.cli import Context

FINDING = 1

T = TypeVar("T")


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, default=str))


def _add_row(table: Table, *cells: object) -> None:
    """As it stands: nothing in it is markup."""
    words = {True: "yes", False: "no"}
    table.add_row(*(Text(words[cell] if isinstance(cell, bool) else str(cell)) for cell in cells))


def accept_quarantine(config: Config, token: str) -> dict[str, Any]:
    """`dome-bridge quarantine --accept`."""
    return dataclasses.asdict(_run(quarantine_acceptance.accept(config, token)))


@click.command()
@click.option("--abort", is_flag=True, help="Lift the fence and go back to following.")
@click.option("--yes", is_flag=True, help="Do not ask, neither before the fence nor before the commit.")
@click.option(
    "--skip-gate", "skip_gates", multiple=True, metavar="ID", help="Let a gate pass; it is recorded."
)
@click.option(
    "--max-fence", type=click.FloatRange(min=0, min_open=True), help="Seconds that the fence may stand."
)
@click.option("--wait-uploads", type=click.FloatRange(min=0), help="Seconds that uploads are waited for.")
@click.option("--max-uploads", type=click.IntRange(min=0), help="Most uploads to begin with.")
@click.option(
    "--postpone-file", type=click.Path(path_type=Path), help="While it exists, nothing is committed."
)
@click.option(
    "--artifacts", type=click.Path(path_type=Path, file_okay=False), help="Directory of the report."
)
@click.pass_obj
def cutover(
    context: Context,
    abort: bool,
    yes: bool,
    skip_gates: tuple[str, ...],
    max_fence: float | None,
    wait_uploads: float | None,
    max_uploads: int | None,
    postpone_file: Path | None,
    artifacts: Path | None,
) -> int:
    """Fence DPM, drain, compare and commit: Chimera then belongs to dCache."""
    config = context.config()
    settings = config.exporter
    options = Options(
        skip_gates=frozenset(skip_gates),
        further_gates=(logins_gate(config), spaces_gate(config)),
        max_fence_seconds=max_fence,
        upload_wait_seconds=settings.upload_wait_seconds if wait_uploads is None else wait_uploads,
        max_uploads=settings.max_uploads if max_uploads is None else max_uploads,
        abandoned_seconds=3600.0 * config.api.abandoned_upload_hours,
        postpone_file=postpone_file or settings.postpone_file,
        artifacts=artifacts,
        writers=(*WRITERS, configuration_writer(config), spaces_writer(config)),
    )
    terms = Terms(options, decide=_decide(yes), say=_say)
    work = (
        cutovers.abort(config, terms=terms)
        if abort
        else cutovers.cut_over(config, confirm=_confirm(yes), terms=terms)
    )
    report = _run(work)
    _print_cutover(context, report)
    wanted = State.ABORTED if abort else State.COMMITTED
    return 0 if report.state is wanted else FINDING


def _say(text: str) -> None:
    click.echo(text, err=True)


def _confirm(yes: bool) -> cutovers.Confirm:
    async def confirm(gates: tuple[Gate, ...]) -> bool:
        for gate in gates:
            _say(f"{gate.id}: {gate.message}")
        question = "DPM becomes read-only now, and after the commit Chimera belongs to dCache. Go on?"
        return yes or await _asked(question)

    return confirm


def _decide(yes: bool) -> Decide:
    async def decide(found: str) -> bool:
        return yes or await _asked(f"{found}. Commit?")

    return decide


async def _asked(question: str) -> bool:
    """In a thread that nobody waits for: the fence must not stand until somebody has typed."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bool] = loop.create_future()

    def settle(answer: bool) -> None:
        if not answered.done():
            answered.set_result(answer)

    def ask() -> None:
        answer = _typed_line().strip().lower() in ("y", "yes")
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, answer)

    click.echo(f"{question} [y/N]: ", err=True, nl=False)
    threading.Thread(target=ask, daemon=True).start()
    return await answered


def _typed_line() -> str:
    """Without Python's own buffer, whose lock a thread that still reads would hold at the exit."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line.decode(errors="replace")


def _print_cutover(context: Context, report: CutoverReport) -> None:
    steps: list[dict[str, Any]] = [
        {"name": name, "seconds": round(seconds, 3)} for name, seconds in report.steps
    ]
    if context.as_json:
        _print_json(
            {
                "state": report.state.value,
                "reason": report.reason,
                "fence_seconds": round(report.fence_seconds, 3),
                "steps": steps,
                "artifacts": report.artifacts or None,
            }
        )
        return
    table = Table("step", "seconds", "found")
    for step in steps:
        _add_row(table, step["name"], step["seconds"], report.details.get(step["name"], ""))
    _add_row(table, "fence in all", f"{report.fence_seconds:.3f}", "")
    Console().print(table)
    click.echo(f"{report.state}{': ' + report.reason if report.reason else ''}")


@click.command()
@click.option("--skip-gate", "skip_gates", multiple=True, metavar="ID", help="Let a gate pass.")
@click.option(
    "--max-fence", type=click.FloatRange(min=0, min_open=True), help="Seconds that the fence may stand."
)
@click.option("--max-uploads", type=click.IntRange(min=0), help="Most uploads to begin with.")
@click.pass_obj
def rehearse(
    context: Context, skip_gates: tuple[str, ...], max_fence: float | None, max_uploads: int | None
) -> int:
    """Do everything of the cutover that changes nothing, and predict how long the fence would stand."""
    config = context.config()
    settings = config.exporter
    options = Options(
        skip_gates=frozenset(skip_gates),
        further_gates=(logins_gate(config), spaces_gate(config)),
        max_fence_seconds=max_fence,
        max_uploads=settings.max_uploads if max_uploads is None else max_uploads,
        abandoned_seconds=3600.0 * config.api.abandoned_upload_hours,
    )
    found = _run(rehearsal.rehearse(config, terms=Terms(options, say=_say)))
    if context.as_json:
        _print_json(found.as_json())
    else:
        _print_rehearsal(found)
    return 0 if found.ok else FINDING


def _print_rehearsal(found: rehearsal.Rehearsal) -> None:
    gates = Table("gate", "holds", "value, threshold, remedy")
    for gate in found.gates:
        _add_row(gates, gate.id, gate.ok, gate.message)
    steps = Table("step", "seconds")
    for name, seconds in found.steps:
        _add_row(steps, name, f"{seconds:.3f}")
    _add_row(steps, "fence, predicted", f"{found.predicted_fence_seconds:.3f}")
    Console().print(gates, steps)
    for difference in found.differences:
        click.echo(difference)


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--artifacts", type=click.Path(path_type=Path, file_okay=False), help="Directory of the list.")
@click.pass_obj
def rollback(context: Context, yes: bool, artifacts: Path | None) -> int:
    """Go back from the commit to following, as long as dCache has written nothing."""

    async def confirm(what: str) -> bool:
        return yes or await _asked(f"{what}. Go on?")

    terms = Terms(Options(artifacts=artifacts), say=_say)
    done = _run(rollbacks.roll_back(context.config(), confirm=confirm, terms=terms))
    _print_json({"state": done.phase.value}) if context.as_json else click.echo(done.phase.value)
    _say("DPM takes writes again; a mirror that has ended with the commit: systemctl restart dome-bridge")
    return 0
