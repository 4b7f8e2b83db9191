"""The gates as `check`, `status` and the monitoring show them: as they stand, with nothing tried out.

Whether the fence can be raised and lifted is what the last rehearsal found. `rehearse` and `cutover`
judge anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase, Site
from dome_bridge.config import Config
from dome_bridge.dpm.source import Source
from dome_bridge.errors import BridgeError
from dome_bridge.exporter import gate_readings
from dome_bridge.exporter.findings import Finding, Severity
from dome_bridge.exporter.gates import GATES, Gate
from dome_bridge.exporter.session import Databases, Session, admin_source, open_databases

logger = logging.getLogger(__name__)

CHECKS: Mapping[str, str] = MappingProxyType(
    {f"gate-{name}": f"gate of the cutover: {meaning}" for name, meaning in GATES.items()}
)

BEFORE_CUTOVER = (Phase.SNAPSHOT, Phase.FOLLOWING)
"""Phases in which there is something to judge."""


async def as_they_stand(databases: Databases, admin: Source, site: Site | None) -> tuple[Gate, ...]:
    """Writes nothing. Empty before `init`, and where no cutover can begin."""
    conn, config = databases.conn, databases.config
    if site is None or not await state.is_upgraded(conn):
        return ()
    if (await state.progress(conn)).phase not in BEFORE_CUTOVER:
        return ()
    session = Session(config, databases.source, databases.layout, conn, site)
    return await gate_readings.judged(
        session,
        admin,
        gate_readings.limits(config.exporter),
        prove=False,
        abandoned_seconds=3600.0 * config.api.abandoned_upload_hours,
    )


async def read_gates(config: Config) -> tuple[Gate, ...] | None:
    """On connections of its own; None if they cannot be told now."""
    try:
        async with (
            open_databases(config) as databases,
            admin_source(config) as admin,
            target.told("judging the gates"),
        ):
            known = await state.exists(databases.conn)
            site = await state.load_site(databases.conn) if known else None
            return await as_they_stand(databases, admin, site)
    except BridgeError as exc:
        logger.warning("gates cannot be judged error=%s", exc)
        return None


def as_findings(gates: Iterable[Gate]) -> Iterator[Finding]:
    """One that does not hold is a warning: it keeps from the cutover, not from the mirror."""
    for gate in gates:
        said = f"{gate.value}, {gate.threshold}" if gate.threshold else gate.value
        if gate.ok:
            yield Finding(f"gate-{gate.id}", Severity.INFO, said)
        else:
            yield Finding(f"gate-{gate.id}", Severity.WARNING, said, gate.remedy)
