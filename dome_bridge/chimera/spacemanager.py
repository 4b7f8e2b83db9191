"""Connections to the space manager's database, and whether it is one that can be filled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from dome_bridge.chimera import target
from dome_bridge.chimera.target import DRIVER_ERRORS, LOCKS, STATEMENT_SECONDS, one_line
from dome_bridge.errors import PrivilegeError, SchemaError, StateError, TargetError
from dome_bridge.statements import load

if TYPE_CHECKING:
    from dome_bridge.config import SpacemanagerConfig

SQL: Mapping[str, str] = load("dome_bridge.chimera", "spacemanager.sql")

SPACES = 5
CONNECT_SECONDS = 15.0
LOCK_SECONDS = 10
"""How long a running space manager's transactions are waited for."""


@asynccontextmanager
async def opened(spaces: SpacemanagerConfig) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database that dCache has made; errors name the setting to look at."""
    conn = await _connect(spaces)
    try:
        async with target.told("looking at the space manager's database"):
            await _inspect(conn)
        yield conn
    finally:
        await target.close(conn)


async def _connect(spaces: SpacemanagerConfig) -> asyncpg.Connection:
    where = spaces.redacted_dsn
    try:
        return await asyncpg.connect(
            spaces.dsn,
            password=spaces.password or None,
            timeout=CONNECT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            server_settings={"application_name": "dome-bridge", "lock_timeout": f"{LOCK_SECONDS}s"},
        )
    except asyncpg.InvalidCatalogNameError as exc:
        raise SchemaError(
            f"{where}: there is no such database; make it with `createdb`, run `dcache database update`, "
            "or correct [spacemanager] dsn"
        ) from exc
    except asyncpg.InvalidAuthorizationSpecificationError as exc:
        raise PrivilegeError(
            f"{where}: {one_line(exc)}; correct the account or password in [spacemanager] dsn or "
            "password_file, and look at pg_hba.conf"
        ) from exc
    except DRIVER_ERRORS as exc:
        raise TargetError(
            f"cannot connect to {where}: {one_line(exc)}; is PostgreSQL running, and is [spacemanager] dsn "
            "right?"
        ) from exc


async def _inspect(conn: asyncpg.Connection) -> None:
    name = await conn.fetchval("SELECT current_database()")
    made = await conn.fetchval(SQL["made_by_dcache"])
    lacking = [row["name"] for row in await conn.fetch(SQL["lacking"])]
    if not made or lacking or not await conn.fetchval(SQL["changes"]):
        what = f"it has no {lacking[0]}" if lacking else "databasechangelog is missing or empty"
        raise SchemaError(
            f"database {name} was not made by dCache's space manager ({what}): run `dcache database update` "
            "on the head node first, or correct [spacemanager] dsn"
        )
    if await conn.fetchval(SQL["locked"]):
        raise SchemaError(
            f"database {name}: databasechangeloglock is set: a schema update of dCache runs or died; let it "
            "end, or run `dcache database releaseLocks`, then try again"
        )
    if others := [row["relname"] for row in await conn.fetch(SQL["not_owned"])]:
        account = await conn.fetchval("SELECT current_user")
        raise PrivilegeError(
            f"database {name}: account {account} does not own {others[0]}, whose triggers must rest while it "
            "is filled: use the owner of the tables (usually `dcache`) in [spacemanager] dsn"
        )


async def running(conn: asyncpg.Connection) -> int:
    """Sessions of dCache in this database."""
    return int(await conn.fetchval(SQL["jdbc_clients"]))


async def take(conn: asyncpg.Connection) -> None:
    """In the caller's transaction: nobody else fills it, and no trigger of these tables fires."""
    if not await conn.fetchval(SQL["lock"], LOCKS, SPACES):
        raise StateError("another dome-bridge process fills the space manager's database: let it end first")
    try:
        await conn.execute(SQL["disable_triggers"])
    except asyncpg.LockNotAvailableError as exc:
        raise StateError(
            f"the tables of the space manager are in use for more than {LOCK_SECONDS} s: stop dCache's "
            "spacemanager service while they are filled"
        ) from exc


async def give_back(conn: asyncpg.Connection) -> None:
    """Before the commit. No event may be pending, as of deferred constraints."""
    await conn.execute(SQL["enable_triggers"])
