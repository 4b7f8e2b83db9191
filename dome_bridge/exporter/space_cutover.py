"""What spaces add to a cutover: a gate before the fence, and the last load behind it.

Nearly all is loaded before, by `dome-bridge spaces --load`; behind the fence, where nothing moves any
more, only what has changed since. That is a writer's work: it comes after the drain and the
comparisons, before the decision, and may be repeated.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import asyncpg

from dome_bridge.chimera import stage, state
from dome_bridge.chimera.state import Phase
from dome_bridge.config import Config
from dome_bridge.exporter.artifacts import Context, Writer
from dome_bridge.exporter.findings import Severity
from dome_bridge.exporter.gates import FurtherGate, Gate
from dome_bridge.exporter.group_quotas import load_quotas
from dome_bridge.exporter.session import Session, open_databases, open_session
from dome_bridge.exporter.space_findings import judge
from dome_bridge.exporter.space_load import load_spaces
from dome_bridge.exporter.space_survey import survey

GATE = "spaces"
REPORT = "spaces.json"

MOST_CHANGES = 200_000
"""Files and directories that may wait for the load behind the fence: some ten to twenty seconds."""


def spaces_gate(config: Config) -> FurtherGate:
    async def read() -> Gate:
        async with open_session(config) as session:
            sql = stage.fill("dome_bridge.chimera", "spaces.sql", session.site)
            model = await session.conn.fetchrow(sql["model"])
            waiting = await session.conn.fetchval(sql["count_changes"])
        return _judged(model, waiting, await _errors(config), is_enabled=config.spacemanager.enabled)

    return read


async def _errors(config: Config) -> list[str]:
    if not config.spacemanager.enabled:
        return []
    async with open_databases(config) as databases:
        found = judge(await survey(databases, deep=False))
    return [finding.message for finding in found if finding.severity is Severity.ERROR]


def _judged(model: asyncpg.Record, waiting: int, errors: Sequence[str], *, is_enabled: bool) -> Gate:
    if model["reservations"] != is_enabled:
        return Gate(
            GATE,
            ok=False,
            value="directories have the tags of dCache's other model of space",
            remedy="restart the daemon, or run `dome-bridge sync --once` without one",
        )
    if not is_enabled:
        return Gate(GATE, ok=True, value="no space manager: quotas of groups are written behind the fence")
    if errors:
        return Gate(GATE, ok=False, value=errors[0], remedy="see `dome-bridge spaces`")
    if model["loaded_at"] is None:
        return Gate(GATE, ok=False, value="nothing is loaded yet", remedy="run `dome-bridge spaces --load`")
    return Gate(
        GATE,
        ok=waiting <= MOST_CHANGES,
        value=f"reservations are loaded, {waiting} changes wait",
        threshold=f"at most {MOST_CHANGES}",
        remedy="" if waiting <= MOST_CHANGES else "run `dome-bridge spaces --load` again",
    )


def spaces_writer(config: Config) -> Writer:
    async def write(context: Context) -> Sequence[str]:
        file = context.directory / REPORT
        # After the commit only reports are written again: what was loaded before it is dCache's now.
        if (await state.progress(context.conn)).phase is Phase.COMMITTED:
            return [REPORT] if await asyncio.to_thread(file.exists) else []
        async with open_session(config) as session:
            done = await _load(session)
        text = json.dumps(done, indent=2, sort_keys=True) + "\n"
        await asyncio.to_thread(file.write_text, text)
        return [REPORT]

    return write


async def _load(session: Session) -> dict[str, Any]:
    if not session.config.spacemanager.enabled:
        quotas = await load_quotas(session)
        return {
            "quotas": [
                {"gid": each.gid, "limit": each.limit, "used": each.used} for each in quotas.plan.quotas
            ],
            "foreign": list(quotas.foreign),
            "lost": [{"token": each.space.name, "reason": each.reason} for each in quotas.plan.lost],
        }
    loaded = await load_spaces(session, is_fenced=True)
    return {
        "whole": loaded.is_whole,
        "rows": loaded.rows,
        "seconds": round(loaded.seconds, 3),
        "reservations": {str(number): vars(each) for number, each in loaded.reservations.items()},
        "link_groups": {name: vars(each) for name, each in loaded.link_groups.items()},
    }
