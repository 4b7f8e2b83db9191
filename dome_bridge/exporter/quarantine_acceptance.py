"""Whether somebody has looked at what is left out: by count and hash, so that new entries ask again."""

from __future__ import annotations

import asyncpg

from dome_bridge.config import Config
from dome_bridge.errors import StateError
from dome_bridge.exporter.gates import Quarantine
from dome_bridge.exporter.session import open_session
from dome_bridge.statements import load

_SQL = load("dome_bridge.chimera", "cutover.sql")


async def read_quarantine(conn: asyncpg.Connection) -> Quarantine:
    """Entries only: what single facts are lost is known by the list, and costs no file."""
    row = await conn.fetchrow(_SQL["quarantine"])
    return Quarantine(row["entries"], row["digest"], await conn.fetchval(_SQL["accepted"]) or "")


async def accept(config: Config, token: str) -> Quarantine:
    """Notes that these entries, and no others, may be left out. Raises StateError if they are others now."""
    async with open_session(config) as session, session.conn.transaction():
        found = await read_quarantine(session.conn)
        if token != found.token:
            raise StateError(
                f"the quarantine has changed: it is {found.token} now, not {token}; look at `dome-bridge "
                "quarantine` again"
            )
        await session.conn.execute(_SQL["accept"], token)
        return await read_quarantine(session.conn)
