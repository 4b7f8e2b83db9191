"""What a cutover leaves for people, in a directory of its own: each kind of file has a writer here.

Writers get the same facts, and return the names of the files that they wrote. They must be
repeatable: a cutover that goes on after a kill writes them again.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from dome_bridge.chimera.state import Site
from dome_bridge.errors import CutoverError
from dome_bridge.exporter.cutover_record import last_report
from dome_bridge.statements import load

_SQL = load("dome_bridge.chimera", "cutover.sql")

DIRECTORY_MODE = 0o750
HOMES = ("/var/lib/dome-bridge",)


@dataclass(frozen=True)
class Context:
    """For writers: the target's connection, the site, and the cutover's number."""

    conn: asyncpg.Connection
    site: Site
    cutover: int
    directory: Path


Writer = Callable[[Context], Awaitable[Sequence[str]]]


def home(environment: Mapping[str, str] = os.environ) -> Path:
    """Where directories of cutovers are made, unless one is named: the first of them that can be written."""
    of_systemd = environment.get("STATE_DIRECTORY", "").split(":")[0]
    candidates = [Path(path) for path in (of_systemd, *HOMES) if path]
    for path in candidates:
        with suppress(OSError):
            path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            if os.access(path, os.W_OK | os.X_OK):
                return path
    return Path(tempfile.gettempdir()) / f"dome-bridge-{os.getuid()}"


def prepare(directory: Path) -> Path:
    """Makes the directory, before the fence stands. Raises CutoverError if it cannot be written."""
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as exc:
        raise CutoverError(
            f"the directory for the report, {directory}, cannot be written ({exc}): name another one with "
            "--artifacts"
        ) from exc
    return directory.absolute()


async def write(context: Context, writers: Iterable[Writer]) -> list[str]:
    """Names of all files, in their directory."""
    names: list[str] = []
    for writer in writers:
        names += await writer(context)
    return names


async def write_report(context: Context) -> Sequence[str]:
    """The cutover as it is now, for people (report.md) and for programs (report.json)."""
    row = await context.conn.fetchrow(_SQL["last"])
    report = await last_report(context.conn)
    quarantine = await context.conn.fetchrow(_SQL["quarantine"])
    facts = {
        "cutover": context.cutover,
        "state": report.state.value,
        "reason": report.reason,
        "started_at": row["started_at"].isoformat(),
        "fence_seconds": round(report.fence_seconds, 3),
        "steps": [
            {"name": name, "seconds": round(seconds, 3), "detail": report.details[name]}
            for name, seconds in report.steps
        ],
        "gates": json.loads(row["gates"]),
        "skipped_gates": list(row["skipped"]),
        "tally": json.loads(row["tally"] or "null"),
        "uploads_left_out": json.loads(row["uploads"]),
        "quarantine": dict(quarantine),
    }
    texts = {"report.json": json.dumps(facts, indent=1) + "\n", "report.md": markdown(facts)}
    await asyncio.to_thread(_write_all, context.directory, texts)
    return sorted(texts)


WRITERS: tuple[Writer, ...] = (write_report,)


def _write_all(directory: Path, texts: Mapping[str, str]) -> None:
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    for name, text in texts.items():
        unfinished = directory / f".{name}"
        unfinished.write_text(text)
        unfinished.replace(directory / name)


def markdown(facts: Mapping[str, Any]) -> str:
    """To paste into a ticket."""
    lines = [f"# Cutover {facts['cutover']}: {facts['state']}", ""]
    if facts["reason"]:
        lines += [facts["reason"], ""]
    lines += [f"Begun at {facts['started_at']}; the fence stood for {facts['fence_seconds']:.1f} s.", ""]
    lines += _table(
        ("step", "seconds", "what it found"),
        [(step["name"], f"{step['seconds']:.2f}", step["detail"]) for step in facts["steps"]],
    )
    lines += ["## Gates", ""]
    lines += _table(("gate", "holds", ""), [_gate(gate) for gate in facts["gates"]])
    if tally := facts["tally"]:
        lines += ["## Counted on both sides", "", f"{tally['entries']} entries.", ""]
        for part in ("pools", "tokens"):
            rows = [(each["name"], str(each["copies"]), str(each["bytes"])) for each in tally[part]]
            lines += _table((part[:-1], "copies", "bytes"), rows)
    lines += ["## Left out", "", f"{facts['quarantine']['entries']} entries are in the quarantine.", ""]
    uploads = facts["uploads_left_out"]
    lines += _table(
        ("upload", "age in seconds", "replica", "why"),
        [
            (each["path"] or f"fileid {each['fileid']}", str(each["age_seconds"]), each["replica"], WHY)
            for each in uploads
        ],
    )
    return "\n".join(lines)


WHY = "it had not ended when the fence was shut"


def _gate(gate: Mapping[str, Any]) -> tuple[str, str, str]:
    holds = "yes" if gate["ok"] else "skipped" if gate["skipped"] else "no"
    return gate["id"], holds, gate["message"]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    lines = [heads, ["---"] * len(heads), *rows]
    return [*("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines), ""]
