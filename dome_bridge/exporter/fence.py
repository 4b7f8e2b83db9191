"""The write fence: BEFORE triggers that refuse every change of the catalog, whoever makes it.

All of them are made under one LOCK TABLES, which waits for every transaction that has
touched a catalog table. So when the fence stands, whatever was committed before it is in the
journal and nothing can follow; and if it cannot be raised, nothing of it is left.
Reads go on, also those of legacy daemons which count accesses and move pins.

Both sides are served in that instant by MySQL's rules: a transaction that takes tables in
the opposite order (an unlink does) can get error 1213, as in any deadlock, and is rolled back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from enum import StrEnum

from dome_bridge.dpm.fenced import FENCE_MESSAGE, FENCE_SQLSTATE, is_fenced
from dome_bridge.dpm.grants import Need, current_account, lacking, read_grants
from dome_bridge.dpm.schema import SourceLayout
from dome_bridge.dpm.source import Source, StatementError, quote_name
from dome_bridge.errors import FenceError
from dome_bridge.exporter.triggers import (
    FENCE_PREFIX,
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

PROBE_TABLE = "dome_bridge_fence_probe"

CNS_TABLES = (
    *("Cns_file_metadata", "Cns_file_replica", "Cns_symlinks"),
    *("Cns_user_metadata", "Cns_userinfo", "Cns_groupinfo"),
)
DPM_TABLES = ("dpm_pool", "dpm_fs", "dpm_space_reserv")

ACCESS_COLUMNS: Mapping[str, frozenset[str]] = {
    "Cns_file_metadata": frozenset({"atime"}),
    "Cns_file_replica": frozenset({"atime", "nbaccesses", "ptime", "ltime"}),
}
"""Access bookkeeping: an UPDATE that changes nothing else passes."""

_SIGNAL = f"SIGNAL SQLSTATE '{FENCE_SQLSTATE}' SET MESSAGE_TEXT = '{FENCE_MESSAGE}'"


class FenceState(StrEnum):
    ABSENT = "absent"
    PARTIAL = "partial"
    STANDING = "standing"


def rights_needed(source: Source) -> tuple[Need, ...]:
    rights = ("SELECT", "TRIGGER", "LOCK TABLES")
    return (
        *(Need(right, source.cns_name) for right in (*rights, "INSERT", "CREATE", "DROP")),
        *(Need(right, source.dpm_name) for right in rights),
    )


def fence_triggers(layout: SourceLayout, cns: str, dpm: str) -> tuple[Trigger, ...]:
    """Three triggers for each catalog table that exists. cns, dpm: the names of the two schemas."""
    tables = [(cns, name, layout.cns_columns[name]) for name in CNS_TABLES if name in layout.cns_columns]
    tables += [(dpm, name, layout.dpm_columns[name]) for name in DPM_TABLES if name in layout.dpm_columns]
    return tuple(trigger for table in tables for trigger in _triggers_on(*table))


def _triggers_on(schema: str, table: str, columns: Sequence[str]) -> Iterator[Trigger]:
    bodies = {"INSERT": _SIGNAL, "UPDATE": _update_body(table, columns), "DELETE": _SIGNAL}
    for event, body in bodies.items():
        name = f"{FENCE_PREFIX}{table.lower()}_{event.lower()}"
        yield Trigger(schema, table, name, "BEFORE", event, body)


def _update_body(table: str, columns: Sequence[str]) -> str:
    free = ACCESS_COLUMNS.get(table)
    if not free:
        return _SIGNAL
    kept = [quote_name(column) for column in columns if column not in free]
    same = " AND ".join(f"CAST(OLD.{name} AS BINARY) <=> CAST(NEW.{name} AS BINARY)" for name in kept)
    return f"BEGIN IF NOT ({same}) THEN {_SIGNAL}; END IF; END"


async def fence_state(source: Source, layout: SourceLayout) -> FenceState:
    """Raises PrivilegeError if the account may not see triggers: absent must not be a guess."""
    standing = await _fence_of(source)
    compared = compare(fence_triggers(layout, source.cns_name, source.dpm_name), standing)
    if not standing:
        return FenceState.ABSENT
    return FenceState.PARTIAL if compared.to_make else FenceState.STANDING


async def _fence_of(source: Source) -> list[StandingTrigger]:
    if not sees_triggers(await read_grants(source), source):
        account = await current_account(source)
        needs = [Need("TRIGGER", schema) for schema in (source.cns_name, source.dpm_name)]
        raise lacking(needs, account, source, "see whether the fence stands")
    return [found for found in await standing_triggers(source) if found.name.startswith(FENCE_PREFIX)]


async def raise_fence(
    source: Source,
    layout: SourceLayout,
    *,
    deadline_seconds: float = 60.0,
    lock_wait_seconds: int = 2,
    pause_seconds: float = 1.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """When this returns, all earlier transactions on the catalog have ended and no new one can write.

    source: of the administrator. Completes a partial fence; harmless when it stands. On failure
    everything raised is dropped again and FenceError names the connections in the way; only after
    a lost connection or a cancellation a part can be left, for `lift_fence` on a new connection.
    """
    await require_rights(source, rights_needed(source), "raise the fence")
    wanted = fence_triggers(layout, source.cns_name, source.dpm_name)

    async def attempt() -> None:
        to_make = compare(wanted, await standing_triggers(source)).to_make
        if to_make:
            # all tables, also those with their part of the fence: their writers must have ended too
            await set_under_lock(source, wanted)

    patience = Patience(
        lock_wait_seconds, seconds=deadline_seconds, pause_seconds=pause_seconds, sleep=sleep, clock=clock
    )
    try:
        await insist(source, attempt, purpose="raise the fence", patience=patience, error=FenceError)
    except Exception:
        await _drop_what_was_raised(source, patience)
        raise
    logger.info("fence raised: triggers=%d", len(wanted))


async def _drop_what_was_raised(source: Source, patience: Patience) -> None:
    if source.is_closed:
        logger.error("the connection was lost while the fence was raised: lift it on a new connection")
        return
    await _drop_fence(source, patience)


async def lift_fence(
    source: Source,
    *,
    deadline_seconds: float = 60.0,
    lock_wait_seconds: int = 2,
    pause_seconds: float = 1.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Drops whatever stands of the fence; False when there was nothing.

    Raises FenceError, naming the connections in the way, if tables stay busy.
    """
    patience = Patience(
        lock_wait_seconds, seconds=deadline_seconds, pause_seconds=pause_seconds, sleep=sleep, clock=clock
    )
    dropped = await _drop_fence(source, patience)
    logger.info("fence lifted: triggers=%d", dropped)
    return dropped > 0


async def _drop_fence(source: Source, patience: Patience) -> int:
    standing = await _fence_of(source)

    async def attempt() -> None:
        for found in standing:
            await source.execute(drop_sql(found.schema, found.name))

    if standing:
        await insist(source, attempt, purpose="lift the fence", patience=patience, error=FenceError)
    return len(standing)


async def prove_fence_possible(source: Source) -> None:
    """Fences an empty table of our own and drops it; raises PrivilegeError or FenceError when that fails."""
    await require_rights(source, rights_needed(source), "raise the fence")
    table = f"{source.cns}.{PROBE_TABLE}"
    trigger = Trigger(source.cns_name, PROBE_TABLE, f"{PROBE_TABLE}_insert", "BEFORE", "INSERT", _SIGNAL)
    await source.execute(f"DROP TABLE IF EXISTS {table}")
    await source.execute(f"CREATE TABLE {table} (id INTEGER) ENGINE=InnoDB")
    try:
        await set_under_lock(source, [trigger])
        await _expect_refusal(source, f"INSERT INTO {table} (id) VALUES (1)")
    finally:
        if not source.is_closed:
            await source.execute(f"DROP TABLE IF EXISTS {table}")


async def _expect_refusal(source: Source, statement: str) -> None:
    try:
        await source.execute(statement)
    except StatementError as exc:
        if is_fenced(exc):
            return
        raise FenceError(
            f"a fenced table refused a write with another error than the fence's: {exc}"
        ) from exc
    raise FenceError(f"a fenced table at {source.address} took a write; is this a MySQL or MariaDB server?")
