"""Capture of catalog changes: the journal table and the triggers that fill it.

Installed once by `init`, looked at whenever the mirror starts, removed by `complete`.
Installing again is harmless and completes a half-made set.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from dome_bridge.dpm.grants import Need, current_account, read_grants
from dome_bridge.dpm.schema import SourceLayout
from dome_bridge.dpm.source import AccessError, Source
from dome_bridge.errors import CaptureError
from dome_bridge.exporter.capture_triggers import capture_triggers
from dome_bridge.exporter.journal import CREATE_JOURNAL, JOURNAL_COLUMNS, JOURNAL_TABLE
from dome_bridge.exporter.triggers import (
    CAPTURE_PREFIX,
    Patience,
    StandingTrigger,
    Trigger,
    compare,
    drop_sql,
    insist,
    require_rights,
    sees_triggers,
    set_under_lock,
    standing_triggers,
)

logger = logging.getLogger(__name__)

_JOURNAL_COLUMNS = """
SELECT c.COLUMN_NAME, t.ENGINE FROM information_schema.TABLES t
JOIN information_schema.COLUMNS c ON c.TABLE_SCHEMA = t.TABLE_SCHEMA AND c.TABLE_NAME = t.TABLE_NAME
WHERE t.TABLE_SCHEMA = %s AND t.TABLE_NAME = %s
ORDER BY c.ORDINAL_POSITION"""
_ACCOUNTS = "SELECT CONCAT(User, '@', Host) FROM mysql.user"


class CaptureStatus(StrEnum):
    MISSING = "missing"
    """Nothing of ours is there"""
    CURRENT = "current"
    INCOMPLETE = "incomplete"
    """Some of our triggers, or the journal, are missing: changes were lost"""
    OUTDATED = "outdated"
    """Complete, but some trigger does not do what this version wants"""
    UNKNOWN = "unknown"
    """The account may not see triggers"""


@dataclass(frozen=True)
class CaptureState:
    """What of the capture stands; names of triggers are without schema."""

    status: CaptureStatus
    missing: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()
    foreign: tuple[StandingTrigger, ...] = ()
    """Triggers on catalog tables that are not ours"""
    has_journal: bool = False

    @property
    def is_current(self) -> bool:
        return self.status is CaptureStatus.CURRENT


class DefinerFinding(NamedTuple):
    """An account that our triggers run as and that may be gone; then every write of DPM would fail."""

    definer: str
    triggers: tuple[str, ...]
    message: str


def rights_needed(source: Source) -> tuple[Need, ...]:
    """What the account of `init` must hold, for itself and as definer of the triggers."""
    cns, dpm = source.cns_name, source.dpm_name
    return (
        *(Need(right, cns) for right in ("SELECT", "INSERT", "DELETE", "CREATE", "DROP")),
        *(Need(right, cns) for right in ("TRIGGER", "LOCK TABLES")),
        *(Need(right, dpm) for right in ("SELECT", "TRIGGER", "LOCK TABLES")),
    )


def rights_to_follow(source: Source) -> tuple[Need, ...]:
    """What the account of the running mirror must hold."""
    cns, dpm = source.cns_name, source.dpm_name
    return (
        *(Need(right, schema) for schema in (cns, dpm) for right in ("SELECT", "TRIGGER")),
        *(Need(right, cns, JOURNAL_TABLE) for right in ("INSERT", "DELETE")),
    )


async def inspect(source: Source, layout: SourceLayout) -> CaptureState:
    """Looks without touching; UNKNOWN when the account lacks the TRIGGER privilege."""
    columns = await _journal_columns(source)
    if not sees_triggers(await read_grants(source), source):
        return CaptureState(CaptureStatus.UNKNOWN, has_journal=bool(columns))
    standing = await standing_triggers(source)
    compared = compare(capture_triggers(layout, source.cns_name, source.dpm_name), standing)
    nothing = len(compared.missing) == len(compared.wanted)
    return CaptureState(
        _status(nothing, bool(compared.missing), bool(compared.outdated), bool(columns)),
        missing=tuple(trigger.name for trigger in compared.missing),
        outdated=tuple(trigger.name for trigger in compared.outdated),
        foreign=_foreign(standing, layout),
        has_journal=bool(columns),
    )


def _status(nothing: bool, missing: bool, outdated: bool, has_journal: bool) -> CaptureStatus:
    if nothing and not has_journal:
        return CaptureStatus.MISSING
    if missing or not has_journal:
        return CaptureStatus.INCOMPLETE
    return CaptureStatus.OUTDATED if outdated else CaptureStatus.CURRENT


def _foreign(standing: Sequence[StandingTrigger], layout: SourceLayout) -> tuple[StandingTrigger, ...]:
    catalog = {name.lower() for name in (*layout.cns_columns, *layout.dpm_columns)}
    return tuple(found for found in standing if found.is_foreign and found.table.lower() in catalog)


async def install(
    source: Source,
    layout: SourceLayout,
    *,
    lock_wait_seconds: int = 2,
    attempts: int = 30,
    pause_seconds: float = 1.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> bool:
    """Makes what is missing or outdated; False when everything stood already.

    source: of the administrator. Raises PrivilegeError before anything is made, CaptureError if
    the site has triggers of its own on the tables or a table stays busy through all attempts.
    """
    await require_rights(source, rights_needed(source), "install the change capture")
    standing = await standing_triggers(source)
    _refuse_foreign(_foreign(standing, layout))
    made_journal = await _ensure_journal(source)
    compared = compare(capture_triggers(layout, source.cns_name, source.dpm_name), standing)
    patience = Patience(lock_wait_seconds, attempts, pause_seconds=pause_seconds, sleep=sleep)
    for table, triggers in _by_table(compared.to_make).items():
        await _set(source, table, triggers, patience)
    return made_journal or bool(compared.to_make)


def _refuse_foreign(foreign: Sequence[StandingTrigger]) -> None:
    if foreign:
        names = ", ".join(f"{found.name} on {found.schema}.{found.table}" for found in foreign)
        raise CaptureError(
            f"the catalog has triggers that are not ours: {names}; "
            "find out who made them, and drop them before the migration"
        )


async def _ensure_journal(source: Source) -> bool:
    if found := await _journal_columns(source):
        engine, names = found
        if names != JOURNAL_COLUMNS or engine.lower() != "innodb":
            raise CaptureError(
                f"{source.cns}.{JOURNAL_TABLE} is not our journal (engine {engine}, columns "
                f"{', '.join(names)}); rename or drop that table"
            )
        return False
    await source.execute(CREATE_JOURNAL.format(cns=source.cns))
    return True


async def _journal_columns(source: Source) -> tuple[str, tuple[str, ...]] | None:
    rows = await source.fetch(_JOURNAL_COLUMNS, (source.cns_name, JOURNAL_TABLE))
    if not rows:
        return None
    return (rows[0][1] or b"").decode(), tuple(name.decode() for name, _ in rows)


def _by_table(triggers: Sequence[Trigger]) -> dict[str, list[Trigger]]:
    grouped: defaultdict[str, list[Trigger]] = defaultdict(list)
    for trigger in triggers:
        grouped[trigger.qualified_table].append(trigger)
    return grouped


async def _set(source: Source, table: str, triggers: Sequence[Trigger], patience: Patience) -> None:
    async def attempt() -> None:
        await set_under_lock(source, triggers)

    await insist(
        source, attempt, purpose=f"set the triggers on {table}", patience=patience, error=CaptureError
    )
    logger.info("capture triggers set: table=%s triggers=%d", table, len(triggers))


async def remove(
    source: Source,
    *,
    lock_wait_seconds: int = 2,
    attempts: int = 30,
    pause_seconds: float = 1.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> bool:
    """Drops the triggers, then the journal; False when there was nothing. The fence is left alone."""
    await require_rights(source, rights_needed(source), "remove the change capture")
    patience = Patience(lock_wait_seconds, attempts, pause_seconds=pause_seconds, sleep=sleep)
    ours = [found for found in await standing_triggers(source) if found.name.startswith(CAPTURE_PREFIX)]
    for found in ours:
        await _drop(source, drop_sql(found.schema, found.name), f"drop the trigger {found.name}", patience)
    has_journal = await _journal_columns(source) is not None
    statement = f"DROP TABLE IF EXISTS {source.cns}.{JOURNAL_TABLE}"
    await _drop(source, statement, f"drop the journal {JOURNAL_TABLE}", patience)
    return bool(ours) or has_journal


async def _drop(source: Source, statement: str, purpose: str, patience: Patience) -> None:
    async def attempt() -> None:
        await source.execute(statement)

    await insist(source, attempt, purpose=purpose, patience=patience, error=CaptureError)


async def definer_findings(source: Source) -> list[DefinerFinding]:
    """Definers of our triggers that do not exist, or of which this account cannot tell."""
    by_definer: defaultdict[str, list[str]] = defaultdict(list)
    for found in await standing_triggers(source):
        if not found.is_foreign:
            by_definer[found.definer].append(found.name)
    accounts = await _accounts(source)
    itself = (await current_account(source)).replace("'", "")
    return [
        DefinerFinding(definer, tuple(names), _definer_message(definer, known=accounts is not None))
        for definer, names in by_definer.items()
        if definer != itself and (accounts is None or definer not in accounts)
    ]


async def _accounts(source: Source) -> set[str] | None:
    try:
        return {row[0].decode() for row in await source.fetch(_ACCOUNTS)}
    except AccessError:
        return None


def _definer_message(definer: str, *, known: bool) -> str:
    if known:
        return (
            f"the triggers run as {definer}, an account that does not exist: every write of DPM fails; "
            "create it again, or run dome-bridge complete and init with another account"
        )
    return f"the triggers run as {definer}; this account cannot tell whether it still exists: keep it"
