"""The write fence: BEFORE triggers that refuse every change of the catalog, whoever makes it.

All of them are made under one LOCK TABLES, which waits for every transaction that has
touched a catalog table. So when the fence stands, whatever was committed before it is in the
journal and nothing can follow; and if it cannot be raised, nothing of it is left.
Reads go on, also those of legacy daemons which count accesses and move pins.

It goes up in two parts. At first it lets those uploads end that DPM had granted before: a
replica that is being written may become available, and its size and checksum be noted. Nothing
can begin any more. Then it is shut, for every writer.

Both sides are served in that instant by MySQL's rules: a transaction that takes tables in
the opposite order (an unlink does) can get error 1213, as in any deadlock, and is rolled back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from dome_bridge.dpm.fenced import FENCE_MESSAGE, FENCE_SQLSTATE, is_fenced
from dome_bridge.dpm.grants import Need, current_account, lacking, read_grants
from dome_bridge.dpm.schema import SourceLayout
from dome_bridge.dpm.source import Source, StatementError, quote_name
from dome_bridge.errors import BridgeError, FenceError
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

UPLOAD_COLUMNS: Mapping[str, frozenset[str]] = {
    "Cns_file_metadata": frozenset({"filesize", "mtime", "ctime", "csumtype", "csumvalue", "xattr"}),
    "dpm_space_reserv": frozenset({"u_space"}),
}
"""What the end of an upload writes besides its replica (putdone, and `addFilesizeToDirs`)."""

_ENDS_UPLOAD = (
    "OLD.`status` = 'P' AND NEW.`status` IN ('P', '-') AND OLD.`fileid` <=> NEW.`fileid` "
    "AND CAST(OLD.`sfn` AS BINARY) <=> CAST(NEW.`sfn` AS BINARY)"
)

_SIGNAL = f"SIGNAL SQLSTATE '{FENCE_SQLSTATE}' SET MESSAGE_TEXT = '{FENCE_MESSAGE}'"


class FenceState(StrEnum):
    ABSENT = "absent"
    PARTIAL = "partial"
    OPEN_TO_UPLOADS = "open to uploads"
    STANDING = "standing"


def rights_needed(source: Source) -> tuple[Need, ...]:
    rights = ("SELECT", "TRIGGER", "LOCK TABLES")
    return (
        *(Need(right, source.cns_name) for right in (*rights, "INSERT", "CREATE", "DROP")),
        *(Need(right, source.dpm_name) for right in rights),
    )


def fence_triggers(
    layout: SourceLayout, cns: str, dpm: str, *, open_to_uploads: bool = False
) -> tuple[Trigger, ...]:
    """Three triggers for each catalog table that exists. cns, dpm: the names of the two schemas."""
    tables = [(cns, name, layout.cns_columns[name]) for name in CNS_TABLES if name in layout.cns_columns]
    tables += [(dpm, name, layout.dpm_columns[name]) for name in DPM_TABLES if name in layout.dpm_columns]
    return tuple(trigger for table in tables for trigger in _triggers_on(*table, open_to_uploads))


def _triggers_on(schema: str, table: str, columns: Sequence[str], open_to_uploads: bool) -> Iterator[Trigger]:
    update = _update_body(table, columns, open_to_uploads)
    for event, body in (("INSERT", _SIGNAL), ("UPDATE", update), ("DELETE", _SIGNAL)):
        name = f"{FENCE_PREFIX}{table.lower()}_{event.lower()}"
        yield Trigger(schema, table, name, "BEFORE", event, body)


def _update_body(table: str, columns: Sequence[str], open_to_uploads: bool) -> str:
    free = ACCESS_COLUMNS.get(table, frozenset())
    if open_to_uploads:
        free |= UPLOAD_COLUMNS.get(table, frozenset())
    if not free:
        return _SIGNAL
    kept = [quote_name(column) for column in columns if column not in free]
    passes = " AND ".join(f"CAST(OLD.{name} AS BINARY) <=> CAST(NEW.{name} AS BINARY)" for name in kept)
    if open_to_uploads and table == "Cns_file_replica":
        passes = f"({passes}) OR ({_ENDS_UPLOAD})"
    return f"BEGIN IF NOT ({passes}) THEN {_SIGNAL}; END IF; END"


async def fence_state(source: Source, layout: SourceLayout) -> FenceState:
    """Raises PrivilegeError if the account may not see triggers: absent must not be a guess."""
    standing = await _fence_of(source)
    if not standing:
        return FenceState.ABSENT
    if not _missing(source, layout, standing):
        return FenceState.STANDING
    if not _missing(source, layout, standing, open_to_uploads=True):
        return FenceState.OPEN_TO_UPLOADS
    return FenceState.PARTIAL


def _missing(
    source: Source,
    layout: SourceLayout,
    standing: Sequence[StandingTrigger],
    *,
    open_to_uploads: bool = False,
) -> tuple[Trigger, ...]:
    wanted = fence_triggers(layout, source.cns_name, source.dpm_name, open_to_uploads=open_to_uploads)
    return compare(wanted, standing).to_make


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
    open_to_uploads: bool = False,
    deadline_seconds: float = 60.0,
    lock_wait_seconds: int = 2,
    pause_seconds: float = 1.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """When this returns, all earlier transactions on the catalog have ended and no new one can write.

    source: of the administrator. open_to_uploads: but for the end of uploads, until `shut_fence`.
    Completes a partial fence; harmless when it stands. On failure everything raised is dropped again
    and FenceError names the connections in the way; only after a lost connection or a cancellation a
    part can be left, for `lift_fence` on a new connection.
    """
    await require_rights(source, rights_needed(source), "raise the fence")
    wanted = fence_triggers(layout, source.cns_name, source.dpm_name, open_to_uploads=open_to_uploads)

    async def attempt() -> None:
        if _missing(source, layout, await _fence_of(source), open_to_uploads=open_to_uploads):
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


async def shut_fence(source: Source, layout: SourceLayout, *, patience: Patience) -> None:
    """Ends the time of uploads; of the tables that they may write their last transactions are waited for.

    Raises FenceError; what stands of the fence is then left as it is.
    """

    async def attempt() -> None:
        if to_make := _missing(source, layout, await _fence_of(source)):
            await set_under_lock(source, to_make)

    await insist(source, attempt, purpose="shut the fence", patience=patience, error=FenceError)
    logger.info("fence shut")


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


class Proof(NamedTuple):
    """What an attempt on a table of ours has shown: empty, or why not. seconds: to make one trigger."""

    fence: str = ""
    rollback: str = ""
    seconds: float = 0.0


async def prove_fence(source: Source, *, clock: Callable[[], float] = time.monotonic) -> Proof:
    """Fences an empty table of our own, is refused, lifts that fence, and writes."""
    try:
        seconds = await _raise_probe(source, clock)
    except BridgeError as exc:
        return Proof(str(exc), "not tried, as no fence could be raised")
    try:
        await _lift_probe(source)
    except BridgeError as exc:
        return Proof(rollback=str(exc), seconds=seconds)
    return Proof(seconds=seconds)


async def prove_fence_possible(source: Source) -> None:
    """The same; raises what kept it from going well."""
    await _raise_probe(source, time.monotonic)
    await _lift_probe(source)


_PROBE_TRIGGER = f"{PROBE_TABLE}_insert"


async def _raise_probe(source: Source, clock: Callable[[], float]) -> float:
    await require_rights(source, rights_needed(source), "raise the fence")
    table = f"{source.cns}.{PROBE_TABLE}"
    trigger = Trigger(source.cns_name, PROBE_TABLE, _PROBE_TRIGGER, "BEFORE", "INSERT", _SIGNAL)
    await source.execute(f"DROP TABLE IF EXISTS {table}")
    await source.execute(f"CREATE TABLE {table} (id INTEGER) ENGINE=InnoDB")
    begun = clock()
    try:
        await set_under_lock(source, [trigger])
        seconds = clock() - begun
        await _expect_refusal(source, f"INSERT INTO {table} (id) VALUES (1)")
    except BaseException:
        await _drop_probe(source)
        raise
    return seconds


async def _lift_probe(source: Source) -> None:
    try:
        await source.execute(drop_sql(source.cns_name, _PROBE_TRIGGER))
        await source.execute(f"INSERT INTO {source.cns}.{PROBE_TABLE} (id) VALUES (1)")
    finally:
        await _drop_probe(source)


async def _drop_probe(source: Source) -> None:
    if not source.is_closed:
        await source.execute(f"DROP TABLE IF EXISTS {source.cns}.{PROBE_TABLE}")


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
