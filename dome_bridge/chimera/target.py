"""Connections to the Chimera database, and the two locks that order who writes into it.

The applier lock is held for a session by the one process that applies changes. The gate
is taken shared by each batch that is applied and exclusively by a comparison that must
see nothing move for a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from dome_bridge.errors import BridgeError, PrivilegeError, SchemaError, TargetError

if TYPE_CHECKING:
    from dome_bridge.config import ChimeraConfig

LOCKS = 0x444F4D45
APPLIER = 1
GATE = 2
DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that was lost in the middle of a protocol step
    OSError,
    TimeoutError,
)
"""What asyncpg raises: from the server, from its own use, and from a lost connection."""

STATEMENT_SECONDS = 1800.0
"""No statement takes so long; a server that is silent longer is taken for gone."""

LINKS = 3
CUTOVER = 4


async def connect(chimera: ChimeraConfig, *, timeout: float = 15.0) -> asyncpg.Connection:  # noqa: ASYNC109
    """A connection; errors name the setting to look at. timeout: seconds for connecting."""
    where = chimera.redacted_dsn
    try:
        conn = await asyncpg.connect(
            chimera.dsn,
            password=chimera.password or None,
            timeout=timeout,
            command_timeout=STATEMENT_SECONDS,
            statement_cache_size=500,
            server_settings={"application_name": "dome-bridge"},
        )
        await _forgo_compiling(conn)
        return conn
    except asyncpg.InvalidCatalogNameError as exc:
        raise SchemaError(
            f"{where}: there is no such database; make it with `createdb`, run `dcache database update`, "
            "or correct [chimera] dsn"
        ) from exc
    except asyncpg.InvalidAuthorizationSpecificationError as exc:
        raise PrivilegeError(
            f"{where}: {one_line(exc)}; correct the account or password in [chimera] dsn or password_file, "
            "and look at pg_hba.conf"
        ) from exc
    except DRIVER_ERRORS as exc:
        raise TargetError(
            f"cannot connect to {where}: {one_line(exc)}; is PostgreSQL running, and is [chimera] dsn right?"
        ) from exc


async def _forgo_compiling(conn: asyncpg.Connection) -> None:
    """Tables for staging have no statistics, so the planner takes a batch's statements for large ones and
    compiles them each time, which took most of the time of small batches, and so of the fence."""
    if conn.get_server_version() >= (11,):
        await conn.execute("SET jit = off")


def one_line(exc: BaseException) -> str:
    """An error's text without line breaks: it may quote a name that somebody chose."""
    return " ".join(str(exc).split()) or type(exc).__name__


def is_lost(exc: BaseException) -> bool:
    """Whether a new connection may help: the server went away, restarts, or ended our session."""
    lost = (
        asyncpg.PostgresConnectionError,
        asyncpg.InterfaceError,
        asyncpg.OperatorInterventionError,
        asyncpg.CannotConnectNowError,
        asyncpg.TooManyConnectionsError,
        asyncpg.InternalClientError,
        ConnectionError,
        TimeoutError,
        TargetError,
    )
    return isinstance(exc, lost)


@asynccontextmanager
async def told(what: str) -> AsyncIterator[None]:
    """Turns what PostgreSQL says about a statement into a TargetError that names the work."""
    try:
        yield
    except BridgeError:
        raise
    except DRIVER_ERRORS as exc:
        raise TargetError(f"{what}: {one_line(exc)} ({type(exc).__name__})") from exc


async def try_applier_lock(conn: asyncpg.Connection) -> bool:
    """True if this session is now, or already was, the one that applies changes."""
    return bool(await conn.fetchval("SELECT pg_try_advisory_lock($1, $2)", LOCKS, APPLIER))


async def release_applier_lock(conn: asyncpg.Connection) -> None:
    await conn.fetchval("SELECT pg_advisory_unlock($1, $2)", LOCKS, APPLIER)


async def require_applier(conn: asyncpg.Connection, server_pid: int) -> None:
    """Makes sure, in a worker's transaction, that the session of this pid still holds the applier lock."""
    held = await conn.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = $1 "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND classid = $2::bigint AND objid = $3::bigint AND objsubid = 2)",
        server_pid,
        LOCKS,
        APPLIER,
    )
    if not held:
        raise TargetError(
            "the connection that held the applier lock is gone: another process may apply changes; "
            "the first copy goes on when the lock is held again"
        )


@asynccontextmanager
async def passing_gate(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """Around a whole batch of applying transactions: waits while a comparison holds the gate.

    May be nested, and taken by the session that holds the gate itself.
    """
    await conn.fetchval("SELECT pg_advisory_lock_shared($1, $2)", LOCKS, GATE)
    try:
        yield
    finally:
        if not conn.is_closed():
            await conn.fetchval("SELECT pg_advisory_unlock_shared($1, $2)", LOCKS, GATE)


@asynccontextmanager
async def closed_gate(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """Around a comparison: no batch is under way, and none begins, until this ends."""
    await conn.fetchval("SELECT pg_advisory_lock($1, $2)", LOCKS, GATE)
    try:
        yield
    finally:
        if not conn.is_closed():
            await conn.fetchval("SELECT pg_advisory_unlock($1, $2)", LOCKS, GATE)


async def take_link_lock(conn: asyncpg.Connection) -> None:
    """Until the transaction ends, no other one changes link counts of directories it did not make."""
    await conn.fetchval("SELECT pg_advisory_xact_lock($1, $2)", LOCKS, LINKS)


async def close(conn: asyncpg.Connection, *, timeout: float = 5.0) -> None:  # noqa: ASYNC109
    """Ends the session, politely if the server answers in time."""
    try:
        async with asyncio.timeout(timeout):
            await conn.close()
    except DRIVER_ERRORS:
        conn.terminate()
