"""What the hand-over adds to a cutover: a gate for the logins, and dCache's files among what is written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dome_bridge.config import Config
from dome_bridge.exporter.artifacts import Context, Writer
from dome_bridge.exporter.findings import Finding, Severity
from dome_bridge.exporter.gates import FurtherGate, Gate
from dome_bridge.handover import tree
from dome_bridge.handover.generate import generate
from dome_bridge.handover.logins import check_logins

DIRECTORY = "dcache"
"""Below the directory of the cutover."""


def logins_gate(config: Config) -> FurtherGate:
    async def judge() -> Gate:
        report = await check_logins(config)
        errors = [each for each in report.findings if each.severity is Severity.ERROR]
        return Gate(
            "logins",
            not errors,
            f"{report.attempts} logins rehearsed, {_worst(errors)}",
            "none may fail",
            remedy="see `dome-bridge logins --check`" if errors else "",
        )

    return judge


def configuration_writer(config: Config) -> Writer:
    async def write(context: Context) -> Sequence[str]:
        configuration = await generate(config)
        await asyncio.to_thread(tree.write, configuration, context.directory / DIRECTORY)
        return [f"{DIRECTORY}/{file.path}" for file in configuration.files]

    return write


def _worst(errors: Sequence[Finding]) -> str:
    return f"{len(errors)} fail: {errors[0].message}" if errors else "all as in DPM or told"
