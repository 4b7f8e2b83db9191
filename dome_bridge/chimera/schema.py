"""What kind of Chimera database this is, told by its columns.

dCache makes and upgrades the tables itself; we look, refuse what we do not know, and
derive the two things that depend on the version: the rule for link counts and whether
a column exists. Nothing here writes.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from dome_bridge.errors import PrivilegeError, SchemaError
from dome_bridge.statements import load

_SQL = load("dome_bridge.chimera", "schema.sql")

MIRRORED_TABLES = (
    "t_inodes",
    "t_dirs",
    "t_locationinfo",
    "t_inodes_checksum",
    "t_inodes_data",
    "t_tags",
    "t_tags_inodes",
    "t_acl",
    "t_locationinfo_trash",
)


@dataclass(frozen=True)
class ChimeraLayout:
    """Facts about a Chimera database.

    version: the oldest dCache that makes these columns: 7.2, 9.1 or 9.2 (11 for
    identity columns); later releases with the same columns give the same name.
    links_count_files: True up to 9.0, where a directory's inlink counts all entries.
    """

    version: str
    links_count_files: bool
    root_inumber: int


OLDEST_POSTGRESQL = 12


async def inspect(conn: asyncpg.Connection) -> ChimeraLayout:
    """Tell the version, or raise SchemaError if dCache has not made this database."""
    if (major := conn.get_server_version().major) < OLDEST_POSTGRESQL:
        raise SchemaError(
            f"PostgreSQL {major} is too old: the bridge needs {OLDEST_POSTGRESQL} or newer; "
            "upgrade the server of the Chimera database first"
        )
    tables = {row["table_name"] for row in await conn.fetch(_SQL["tables"])}
    await _refuse_foreign(conn, tables)
    if "databasechangeloglock" in tables:
        await _refuse_locked(conn)
    await _refuse_unreadable(conn)
    columns = {(row["table_name"], row["column_name"]) for row in await conn.fetch(_SQL["columns"])}
    version = _version(tables, columns, identity=await conn.fetchval(_SQL["identity"]))
    return ChimeraLayout(version, "t_lazy_wcc" not in tables, await _root(conn))


async def _refuse_foreign(conn: asyncpg.Connection, tables: set[str]) -> None:
    name = await conn.fetchval("SELECT current_database()")
    encoding = await conn.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise SchemaError(
            f"database {name} has encoding {encoding}; dCache needs UTF8: "
            "make it with `createdb -E UTF8 -T template0`"
        )
    made = "databasechangelog" in tables and await conn.fetchval(_SQL["changes"])
    if not made:
        raise SchemaError(
            f"database {name} was not made by dCache (databasechangelog is missing or empty): "
            "run `dcache database update` on the head node first, or correct [chimera] dsn"
        )
    missing = sorted(set(MIRRORED_TABLES) - tables)
    if missing:
        raise SchemaError(
            f"database {name} has no table {missing[0]}: it is not a Chimera database, correct [chimera] dsn"
        )


async def _refuse_locked(conn: asyncpg.Connection) -> None:
    if await conn.fetchval(_SQL["locked"]):
        raise SchemaError(
            "databasechangeloglock is set: a schema update of dCache runs or died; let it end, "
            "or run `dcache database releaseLocks`, then try again"
        )


async def _refuse_unreadable(conn: asyncpg.Connection) -> None:
    lacking = [row["right"] for row in await conn.fetch(_SQL["rights"], list(MIRRORED_TABLES))]
    if lacking:
        user = await conn.fetchval("SELECT current_user")
        raise PrivilegeError(
            f"account {user} lacks {lacking[0]}: use the owner of the Chimera tables (usually `dcache`) "
            "in [chimera] dsn"
        )


def _version(tables: set[str], columns: set[tuple[str, str]], *, identity: bool) -> str:
    if ("t_inodes", "iqos_state") in columns:
        return "11" if identity else "9.2"
    if "t_lazy_wcc" in tables:
        return "9.1"
    if "t_user_quota" in tables:
        return "7.2"
    raise SchemaError(
        "this Chimera database is older than dCache 7.2 (table t_user_quota is missing): "
        "let a supported dCache upgrade it with `dcache database update`"
    )


async def _root(conn: asyncpg.Connection) -> int:
    inumber = await conn.fetchval(_SQL["root"])
    if inumber is None:
        raise SchemaError(
            "this Chimera database has no root inode (pnfsid of 36 zeros): run `dcache database update`"
        )
    return int(inumber)
