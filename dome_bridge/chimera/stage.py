"""A session that stages DPM rows: its temporary functions, tables and statements.

The site's constants are written into the SQL once per session, so that PostgreSQL can
inline them; no value from a catalog ever gets there.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping

import asyncpg

from dome_bridge.chimera.state import Site
from dome_bridge.staging import StagedTable
from dome_bridge.statements import load

Statements = Mapping[str, str]

_STAGE = load("dome_bridge.chimera", "stage.sql")


def fill(package: str, filename: str, site: Site, **more: str) -> Statements:
    """The statements of a file with the site's constants in them."""
    constants = {**_constants(site), **more}
    return {name: _filled(text, constants) for name, text in load(package, filename).items()}


def _constants(site: Site) -> dict[str, str]:
    return {
        "offset": str(site.inumber_offset),
        "root_fileid": str(site.root_fileid),
        "root_inumber": str(site.root_inumber),
        "root_link_base": str(site.root_link_base),
        "instance_id": site.instance_id,
        "links_count_files": str(site.links_count_files).lower(),
        "timezone": "'" + site.timezone.replace("'", "''") + "'",
    }


def _filled(text: str, constants: Mapping[str, str]) -> str:
    for name, value in constants.items():
        text = text.replace("{" + name + "}", value)
    return text


async def prepare(
    conn: asyncpg.Connection,
    site: Site,
    checksum_kinds: Iterable[tuple[str, str | None, int | None, int | None]],
    *,
    permanent: bool = True,
) -> None:
    """Sets a fresh session up. `permanent`: for a Chimera that is mirrored; else for a forecast only."""
    constants = _constants(site)
    tables = ("settings", "functions", "tables", "apply_tables" if permanent else "check_tables")
    for name in tables:
        await conn.execute(_filled(_STAGE[name], constants))
    await conn.copy_records_to_table(
        "checksum_kind",
        records=list(checksum_kinds),
        columns=["name", "legacy", "itype", "digits"],
    )


async def copy(conn: asyncpg.Connection, staged: StagedTable, lines: AsyncIterable[bytes]) -> None:
    """Copies COPY text into a staging table."""
    await conn.copy_to_table(staged.name, source=lines, columns=list(staged.columns), format="text")
