"""Reads what the gates judge. Changes nothing but, when asked for a proof, a table of ours in DPM."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

import asyncpg

from dome_bridge.chimera import schema as chimera_schema
from dome_bridge.chimera import state
from dome_bridge.config import ExporterConfig
from dome_bridge.dpm import read
from dome_bridge.dpm.source import Source
from dome_bridge.errors import BridgeError
from dome_bridge.exporter import capture, fence, fence_forecast, gates, quarantine_acceptance
from dome_bridge.exporter.gates import Gate, Limits, Readings
from dome_bridge.exporter.journal import Journal
from dome_bridge.exporter.session import Session
from dome_bridge.exporter.uploads_in_flight import uploads_in_flight, waited_for
from dome_bridge.exporter.verify import last_verify
from dome_bridge.exporter.writers import other_writers
from dome_bridge.statements import load

_SQL = load("dome_bridge.chimera", "cutover.sql")


def limits(settings: ExporterConfig) -> Limits:
    """As configured."""
    return Limits(
        max_lag=settings.max_lag_seconds,
        verify_max_age=settings.verify_max_age_seconds,
        max_fence=settings.max_fence_seconds,
        max_uploads=settings.max_uploads,
    )


@dataclass(frozen=True)
class _Proven:
    """Empty, or what was wrong. when: empty if just now."""

    fence: str
    rollback: str
    when: str = ""


async def judged(
    session: Session,
    admin: Source,
    limits: Limits,
    *,
    skip: Collection[str] = (),
    prove: bool = True,
    abandoned_seconds: float = 86400.0,
) -> tuple[Gate, ...]:
    """prove: try fence and rollback on a table of ours now; else what the last rehearsal found counts."""
    readings = await read_all(session, admin, prove=prove, abandoned_seconds=abandoned_seconds)
    return gates.judge(readings, limits, skip=skip)


async def read_all(
    session: Session, admin: Source, *, prove: bool = True, abandoned_seconds: float = 86400.0
) -> Readings:
    conn, source = session.conn, session.source
    progress = await state.progress(conn)
    verified = await last_verify(conn)
    backlog = await Journal(source).backlog()
    proven = await _prove(admin) if prove else await _last_proof(conn)
    standing = await capture.inspect(admin, session.layout)
    uploads = waited_for(await uploads_in_flight(source, conn), abandoned_seconds=abandoned_seconds)
    writers = await other_writers(admin, source.user)
    return Readings(
        snapshot_complete=progress.snapshot_finished is not None,
        lag=await _lag(source, progress.heartbeat_at),
        backlog=backlog,
        predicted_fence=(await fence_forecast.load_costs(conn)).fence_seconds(backlog),
        verify_age=None if verified is None else verified.age_seconds,
        verify_mismatches=0 if verified is None else verified.mismatches,
        verify_unsettled=0 if verified is None else verified.unsettled,
        quarantine=await quarantine_acceptance.read_quarantine(conn),
        uploads=len(uploads),
        capture=what_is_wrong_with(standing),
        foreign_triggers=tuple(f"{trigger.name} on {trigger.table}" for trigger in standing.foreign),
        fence_possible=proven.fence,
        rollback=proven.rollback,
        sequences=await _sequences(conn),
        trash=await conn.fetchval(_SQL["trash"]),
        chimera_version=(session.site.chimera_version, await _chimera_version(conn)),
        dcache=await signs_of_dcache(session),
        other_writers=writers.others,
        unseen_writers=writers.unseen,
        probed=proven.when,
    )


async def _lag(source: Source, heartbeat_at: int | None) -> float | None:
    if heartbeat_at is None:
        return None
    return float(await source.fetchval("SELECT UNIX_TIMESTAMP()")) - heartbeat_at


def what_is_wrong_with(found: capture.CaptureState) -> str:
    if found.is_current:
        return ""
    broken = ", ".join((*found.missing, *found.outdated)[:5]) or "the journal"
    return f"the change capture is {found.status} ({broken}): changes may have been lost"


async def _prove(admin: Source) -> _Proven:
    proof = await fence.prove_fence(admin)
    return _Proven(proof.fence, proof.rollback)


async def _last_proof(conn: asyncpg.Connection) -> _Proven:
    row = await conn.fetchrow(_SQL["rehearsals"], 1)
    if row is None:
        never = "not tried yet: run `dome-bridge rehearse`"
        return _Proven(never, never)
    found = {gate["id"]: gate for gate in json.loads(row["gates"])}
    fence_gate, rollback_gate = found["fence-possible"], found["rollback-proven"]
    return _Proven(
        "" if fence_gate["ok"] else fence_gate["value"],
        "" if rollback_gate["ok"] else rollback_gate["value"],
        when=f"tried {row['age'] / 3600:.1f} h ago",
    )


async def sequence_names(conn: asyncpg.Connection) -> dict[str, str]:
    """What stands for them in the statements."""
    columns = {
        "{inumber_sequence}": ("t_inodes", "inumber"),
        "{itagid_sequence}": ("t_tags_inodes", "itagid"),
    }
    return {
        key: await conn.fetchval("SELECT pg_get_serial_sequence($1, $2)", *column)
        for key, column in columns.items()
    }


async def with_sequences(conn: asyncpg.Connection, name: str) -> str:
    statement = _SQL[name]
    for placeholder, sequence in (await sequence_names(conn)).items():
        statement = statement.replace(placeholder, sequence)
    return statement


async def _sequences(conn: asyncpg.Connection) -> str:
    row = await conn.fetchrow(await with_sequences(conn, "sequences"))
    behind = [
        f"{name} is at {row[name]}, the data at {row[f'{name}s']}"
        for name in ("inumber", "itagid")
        if row[name] < row[f"{name}s"]
    ]
    return f"sequences are behind: {'; '.join(behind)}" if behind else ""


async def _chimera_version(conn: asyncpg.Connection) -> str:
    try:
        return (await chimera_schema.inspect(conn)).version
    except BridgeError as exc:
        return f"none that can be told ({exc})"


async def signs_of_dcache(session: Session) -> tuple[str, ...]:
    """Sessions of Java programs, and inodes that neither `init` found nor we made."""
    conn = session.conn
    clients = [
        f"{row['sessions']} sessions of {row['application']} as {row['account']}"
        for row in await conn.fetch(_SQL["jdbc_clients"])
    ]
    highest = session.site.inumber(await read.highest_fileid(session.source) or session.site.root_fileid)
    beyond = max(highest, session.site.inumber_offset)
    made = [
        row["ipnfsid"] for row in await conn.fetch(_SQL["inodes_beyond"], beyond, session.site.instance_id)
    ]
    inodes = [f"inodes that dCache made: {', '.join(made)}"] if made else []
    return (*clients, *inodes)
