"""Chimera and space manager databases of several dCache releases, for tests and the demo.

On a site dCache makes its own tables and nothing of this is used. A release is the oldest
supported one plus upgrade files, as dCache itself does it. Each kind is built once a server as
a template, whose name holds a digest of its SQL; a new database is a copy of the template.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import asyncpg

from sandbox.servers import PostgresServer

SQL_DIRECTORY = Path(__file__).parent / "chimera"

CHIMERA_VERSIONS: tuple[str, ...] = ("7.2", "8.2", "9.2", "10.2", "11.2", "12.0")

UPGRADES = {"8.2": "upgrade_8_2.sql", "9.2": "upgrade_9_2.sql"}


async def create_chimera(pg: PostgresServer, name: str, version: str, *, is_upgraded: bool = False) -> str:
    """Create the namespace of a new dCache of the version; returns its DSN, as role `dcache` over TCP.

    With `is_upgraded` it is of a site that began with an old release: sequences are of the serial
    kind whatever the version, and the root's inumber is 4711.
    """
    return await _create_from_template(pg, name, "chimera", chimera_script(version, is_upgraded=is_upgraded))


async def create_spacemanager(pg: PostgresServer, name: str) -> str:
    """Create the space manager's database, the same from 7.2 to 12.0, before its first start."""
    return await _create_from_template(pg, name, "spacemanager", _sql("spacemanager.sql"))


def chimera_script(version: str, *, is_upgraded: bool = False) -> str:
    """The SQL that makes the namespace of the version."""
    if version not in CHIMERA_VERSIONS:
        raise ValueError(f"no schema of Chimera {version}; there are {', '.join(CHIMERA_VERSIONS)}")
    known = CHIMERA_VERSIONS[: CHIMERA_VERSIONS.index(version) + 1]
    files = ["chimera_7_2.sql", *(UPGRADES[past] for past in known if past in UPGRADES)]
    if is_upgraded:
        files.append("upgraded_site.sql")
    elif "11.2" in known:
        files.append("new_11_2.sql")
    return "\n".join(_sql(name) for name in files)


def _sql(name: str) -> str:
    return (SQL_DIRECTORY / name).read_text(encoding="ascii")


async def _create_from_template(pg: PostgresServer, name: str, kind: str, script: str) -> str:
    template = f"{kind}_template_{hashlib.sha256(script.encode()).hexdigest()[:12]}"
    if not await _exists(pg, template):
        await _build_template(pg, template, script)
    await pg.create_database(name, template)
    return pg.dsn(name)


async def _exists(pg: PostgresServer, database: str) -> bool:
    async with pg.connect() as connection:
        return bool(await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database))


async def _build_template(pg: PostgresServer, template: str, script: str) -> None:
    """Build under another name first, so that nobody copies an unfinished template."""
    draft = f"{template}_{secrets.token_hex(4)}"
    await pg.create_database(draft)
    try:
        await pg.run_sql(script, draft)
        async with pg.connect() as connection:
            await connection.execute(f'ALTER DATABASE "{draft}" RENAME TO "{template}"')
    except asyncpg.DuplicateDatabaseError:
        await pg.drop_database(draft)
    except BaseException:
        await pg.drop_database(draft)
        raise
