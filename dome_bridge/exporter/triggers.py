"""Triggers on the catalog tables: what stands, and how to set and drop them on a busy server.

Creating or dropping a trigger needs the table for itself. While that waits for a long
transaction (a dump, say) every other user of the table queues behind it, so each wait is
short, the attempt is repeated, and the log names the connections that hold the table.
A set of triggers is made under LOCK TABLES: writers see all of it or nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from dome_bridge.dpm.grants import (
    Grant,
    Need,
    current_account,
    lacking,
    missing_rights,
    read_grants,
)
from dome_bridge.dpm.source import Source, StatementError, quote_name
from dome_bridge.errors import BridgeError, PrivilegeError

logger = logging.getLogger(__name__)

CAPTURE_PREFIX = "dome_bridge_capture_"
FENCE_PREFIX = "dome_bridge_fence_"

ER_LOCK_WAIT_TIMEOUT = 1205
ER_LOCK_DEADLOCK = 1213
_BUSY = frozenset({ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK})

_STANDING = """
SELECT EVENT_OBJECT_SCHEMA, EVENT_OBJECT_TABLE, TRIGGER_NAME, ACTION_TIMING, EVENT_MANIPULATION,
       ACTION_STATEMENT, DEFINER
FROM information_schema.TRIGGERS
WHERE EVENT_OBJECT_SCHEMA IN %s
ORDER BY EVENT_OBJECT_SCHEMA, EVENT_OBJECT_TABLE, TRIGGER_NAME"""
_TRANSACTIONS = """
SELECT p.ID, p.USER, p.HOST, GREATEST(0, TIMESTAMPDIFF(SECOND, t.trx_started, NOW())), p.COMMAND
FROM information_schema.INNODB_TRX t
JOIN information_schema.PROCESSLIST p ON p.ID = t.trx_mysql_thread_id
WHERE p.ID <> CONNECTION_ID() AND IFNULL(p.STATE, '') NOT LIKE 'Waiting for table%%'
ORDER BY t.trx_started, p.ID
LIMIT %s"""
_OWN_CONNECTIONS = """
SELECT ID, USER, HOST, TIME, COMMAND FROM information_schema.PROCESSLIST
WHERE ID <> CONNECTION_ID() ORDER BY TIME DESC LIMIT %s"""
_BINARY_LOG = "SELECT @@log_bin, @@log_bin_trust_function_creators"


class Trigger(NamedTuple):
    """A trigger as we want it."""

    schema: str
    table: str
    name: str
    timing: str
    event: str
    body: str

    @property
    def qualified_table(self) -> str:
        return f"{quote_name(self.schema)}.{quote_name(self.table)}"

    @property
    def create_sql(self) -> str:
        return (
            f"CREATE TRIGGER {qualified_name(self.schema, self.name)} {self.timing} {self.event} "
            f"ON {self.qualified_table} FOR EACH ROW {self.body}"
        )


class StandingTrigger(NamedTuple):
    """A trigger as the server has it; `definer` is `user@host`."""

    schema: str
    table: str
    name: str
    timing: str
    event: str
    body: str
    definer: str

    @property
    def is_foreign(self) -> bool:
        return not self.name.startswith((CAPTURE_PREFIX, FENCE_PREFIX))

    def does_what(self, wanted: Trigger) -> bool:
        """The server may keep other white space than it was given."""
        return (
            self.table.lower() == wanted.table.lower()
            and (self.timing, self.event) == (wanted.timing, wanted.event)
            and self.body.split() == wanted.body.split()
        )


def qualified_name(schema: str, name: str) -> str:
    return f"{quote_name(schema)}.{quote_name(name)}"


def drop_sql(schema: str, name: str) -> str:
    return f"DROP TRIGGER IF EXISTS {qualified_name(schema, name)}"


class Comparison(NamedTuple):
    """Wanted triggers against those that stand."""

    wanted: tuple[Trigger, ...]
    missing: tuple[Trigger, ...]
    outdated: tuple[Trigger, ...]

    @property
    def to_make(self) -> tuple[Trigger, ...]:
        return self.missing + self.outdated


def compare(wanted: Iterable[Trigger], standing: Iterable[StandingTrigger]) -> Comparison:
    by_name = {(found.schema, found.name): found for found in standing}
    missing, outdated, all_wanted = [], [], tuple(wanted)
    for trigger in all_wanted:
        found = by_name.get((trigger.schema, trigger.name))
        if found is None:
            missing.append(trigger)
        elif not found.does_what(trigger):
            outdated.append(trigger)
    return Comparison(all_wanted, tuple(missing), tuple(outdated))


async def standing_triggers(source: Source) -> list[StandingTrigger]:
    """All triggers on tables of the two databases that the account may see (TRIGGER privilege)."""
    rows = await source.fetch(_STANDING, ((source.cns_name, source.dpm_name),))
    return [StandingTrigger(*(part.decode(errors="replace") for part in row)) for row in rows]


def sees_triggers(grants: Sequence[Grant], source: Source) -> bool:
    """Without the privilege the server shows none, which must not be taken for there being none."""
    needs = [Need("TRIGGER", schema) for schema in (source.cns_name, source.dpm_name)]
    return not missing_rights(grants, needs)


async def require_rights(source: Source, needs: Sequence[Need], purpose: str) -> None:
    """Raises PrivilegeError with the GRANT statements that are missing to set triggers."""
    grants = await read_grants(source)
    account = await current_account(source)
    if missing := missing_rights(grants, needs):
        raise lacking(missing, account, source, purpose)
    await _require_trust(source, grants, account)


async def _require_trust(source: Source, grants: Sequence[Grant], account: str) -> None:
    """With the binary log on, MySQL lets only a trusted account create triggers (its error 1419)."""
    row = await source.fetchrow(_BINARY_LOG)
    has_log, trusts_creators = row or (0, 1)
    trusted = ("SUPER", "BINLOG ADMIN") if source.is_mariadb else ("SUPER",)
    if not has_log or trusts_creators or any(not missing_rights(grants, [Need(r, "*")]) for r in trusted):
        return
    raise PrivilegeError(
        f"the binary log is on, so {account} may not create triggers (error 1419); as an administrator of "
        f"{source.address}: SET GLOBAL log_bin_trust_function_creators = 1, and the same in my.cnf, "
        f"or GRANT SUPER ON *.* TO {account} (or set [dpm] admin_user)"
    )


@dataclass(frozen=True)
class Patience:
    """How long to try to get tables for oneself.

    lock_wait_seconds: a single wait, during which everybody else queues behind us.
    attempts and seconds: what is reached first ends the trying.
    """

    lock_wait_seconds: int = 2
    attempts: float = math.inf
    seconds: float = math.inf
    pause_seconds: float = 1.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic


async def insist(
    source: Source,
    work: Callable[[], Awaitable[None]],
    *,
    purpose: str,
    patience: Patience,
    error: type[BridgeError],
) -> None:
    """Repeats the work while other connections hold its tables; raises `error`, naming them, at the end."""
    started = patience.clock()
    attempt = 0
    while True:
        attempt += 1
        try:
            async with _short_lock_wait(source, patience.lock_wait_seconds):
                return await work()
        except StatementError as exc:
            if exc.number not in _BUSY:
                raise
            holders = await describe_holders(source)
            waited = patience.clock() - started
            if attempt >= patience.attempts or waited + patience.pause_seconds >= patience.seconds:
                raise error(
                    f"cannot {purpose}: other connections held the tables in {attempt} attempts over "
                    f"{waited:.0f} s; {holders}; end it, or wait for it, and try again"
                ) from exc
        logger.warning("tables are busy: purpose=%s attempt=%d holders=%s", purpose, attempt, holders)
        await patience.sleep(patience.pause_seconds)


@asynccontextmanager
async def _short_lock_wait(source: Source, seconds: int) -> AsyncIterator[None]:
    usual = await source.fetchval("SELECT @@SESSION.lock_wait_timeout")
    await source.execute("SET SESSION lock_wait_timeout = %s", (seconds,))
    try:
        yield
    finally:
        if not source.is_closed:
            await source.execute("SET SESSION lock_wait_timeout = %s", (usual,))


async def set_under_lock(source: Source, triggers: Sequence[Trigger]) -> None:
    """One attempt to make or replace the triggers with all their tables locked."""
    tables = sorted({trigger.qualified_table for trigger in triggers})
    await source.execute("LOCK TABLES " + ", ".join(f"{table} WRITE" for table in tables))
    try:
        for trigger in triggers:
            await source.execute(drop_sql(trigger.schema, trigger.name))
            await source.execute(trigger.create_sql)
    finally:
        if not source.is_closed:
            await source.execute("UNLOCK TABLES")


async def describe_holders(source: Source, limit: int = 5) -> str:
    """The oldest open transactions of other connections, one of which is in our way."""
    try:
        rows = await source.fetch(_TRANSACTIONS, (limit,))
    except BridgeError:
        return await _describe_own_connections(source, limit)
    if not rows:
        return "no transaction is open any more (see SHOW PROCESSLIST for a LOCK TABLES or a backup)"
    return "open transactions, oldest first: " + _connections(rows)


async def _describe_own_connections(source: Source, limit: int) -> str:
    rows = await source.fetch(_OWN_CONNECTIONS, (limit,))
    known = f"; this account's own connections: {_connections(rows)}" if rows else ""
    return f"whose transaction it is cannot be seen without the PROCESS privilege{known}"


def _connections(rows: Iterable[tuple[int, bytes, bytes, int, bytes]]) -> str:
    return ", ".join(
        f"connection {number} ({(user or b'').decode()}@{(host or b'').decode()}, {seconds} s, "
        f"{(command or b'').decode()})"
        for number, user, host, seconds, command in rows
    )
