"""The quarantine: its reasons in words and in SQL, and how its rows get their paths."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import asyncpg
import pytest

from dome_bridge.chimera import quarantine, state
from dome_bridge.chimera import schema as chimera_schema
from dome_bridge.chimera.quarantine import ENTRY, FACT, REASONS, QuarantineRow, listing
from dome_bridge.chimera.state import Site
from dome_bridge.statements import load

DOCS = Path(__file__).parent.parent / "docs" / "reference" / "quarantine.md"
FACT_STATEMENTS = {"replicas", "replicas_unplaced", "replicas_at_fault", "checksums", "facts"}
REASON_LITERAL = re.compile(r"'([a-z][a-z0-9]*(?:-[a-z0-9]+)+)'")


def reasons_in_sql() -> dict[str, set[str]]:
    """Reason -> scopes, as the mapping writes them."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for filename in ("project.sql", "apply.sql"):
        for name, text in load("dome_bridge.chimera", filename).items():
            for reason in REASON_LITERAL.findall(text):
                found[reason].add(FACT if name in FACT_STATEMENTS else ENTRY)
    return found


def test_every_reason_of_the_mapping_is_explained_and_no_other() -> None:
    assert {name: set(reason.scopes) for name, reason in REASONS.items()} == reasons_in_sql()


def test_reasons_are_in_alphabetical_order() -> None:
    assert list(REASONS) == sorted(REASONS)


def test_reference_has_the_table_of_reasons() -> None:
    assert quarantine.reference() in DOCS.read_text(encoding="utf-8")


@pytest.fixture
async def conn(chimera_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(chimera_dsn)
    yield conn
    await conn.close()


@pytest.fixture
async def site(conn: asyncpg.Connection) -> Site:
    layout = await chimera_schema.inspect(conn)
    site = await state.plan_site(conn, layout, root_fileid=1, timezone="UTC", source="test")
    async with conn.transaction():
        await state.create(conn, site)
    return site


async def mirror_directory(conn: asyncpg.Connection, site: Site, fileid: int, parent: int, name: str) -> None:
    await conn.execute(
        """INSERT INTO t_inodes (ipnfsid, itype, imode, inlink, iuid, igid, isize, iio, ictime, iatime,
               imtime, icrtime, igeneration, inumber)
           VALUES ($1, 16384, 493, 2, 0, 0, 512, 2, now(), now(), now(), now(), 0, $2)""",
        site.pnfsid(fileid),
        site.inumber(fileid),
    )
    await conn.execute(
        "INSERT INTO t_dirs (iparent, ichild, iname) VALUES ($1, $2, $3)",
        site.inumber(parent),
        site.inumber(fileid),
        name,
    )


async def report(
    conn: asyncpg.Connection,
    fileid: int,
    parent: int | None,
    name: bytes | None,
    *,
    scope: str = ENTRY,
    reason: str = "no-replica",
    subject: str = "",
) -> None:
    await conn.execute(
        """INSERT INTO dome_bridge.quarantine (fileid, scope, reason, subject, detail, parent, name)
           VALUES ($1::text::numeric, $2, $3, $4, 'so it is', $5, $6)""",
        str(fileid),
        scope,
        reason,
        subject,
        parent,
        name,
    )


async def paths(conn: asyncpg.Connection, site: Site, *, page_rows: int = 3) -> dict[int, str]:
    return {row.fileid: row.path async for row in listing(conn, site, page_rows=page_rows)}


async def test_path_goes_through_mirrored_directories(conn: asyncpg.Connection, site: Site) -> None:
    await mirror_directory(conn, site, 10, 1, "dpm")
    await mirror_directory(conn, site, 11, 10, "Übungen")
    await report(conn, 20, 11, b"lost")
    await report(conn, 21, 1, b"at the root")
    await report(conn, 11, 10, "Übungen".encode(), scope=FACT, reason="acl-invalid")
    assert await paths(conn, site) == {
        11: "/dpm/Übungen",
        20: "/dpm/Übungen/lost",
        21: "/at the root",
    }


async def test_path_follows_a_rename_of_a_directory_above(conn: asyncpg.Connection, site: Site) -> None:
    await mirror_directory(conn, site, 10, 1, "before")
    await report(conn, 20, 10, b"f")
    await conn.execute("UPDATE t_dirs SET iname = 'after' WHERE ichild = $1", site.inumber(10))
    assert await paths(conn, site) == {20: "/after/f"}


async def test_path_goes_through_quarantined_directories(conn: asyncpg.Connection, site: Site) -> None:
    await mirror_directory(conn, site, 10, 1, "dpm")
    await report(conn, 30, 10, b"d\xff", reason="name-not-utf8")
    await report(conn, 31, 30, b"below", reason="parent-absent")
    await report(conn, 32, 31, b"file", reason="parent-absent")
    assert await paths(conn, site) == {
        30: "/dpm/d\\xff",
        31: "/dpm/d\\xff/below",
        32: "/dpm/d\\xff/below/file",
    }


async def test_path_without_a_way_to_the_root_begins_with_a_question_mark(
    conn: asyncpg.Connection, site: Site
) -> None:
    await report(conn, 40, 10**15, b"orphan", reason="parent-absent")
    await report(conn, 41, 40, b"child", reason="parent-absent")
    await report(conn, 42, None, b"rootless", reason="parent-absent")
    await report(conn, 43, None, None, reason="name-empty")
    await report(conn, 44, 0, b"second root", reason="parent-absent")
    assert await paths(conn, site) == {
        40: "?/orphan",
        41: "?/orphan/child",
        42: "?/rootless",
        43: "?/",
        44: "?/second root",
    }


async def test_cycles_end(conn: asyncpg.Connection, site: Site) -> None:
    await report(conn, 50, 51, b"a", reason="parent-absent")
    await report(conn, 51, 50, b"b", reason="parent-absent")
    await report(conn, 52, 51, b"file", reason="parent-absent")
    await report(conn, 53, 53, b"own parent", reason="parent-absent")
    found = await paths(conn, site)
    assert found[52] == "?/b/file"
    assert found[53] == "?/own parent"
    assert all(path.startswith("?/") for path in found.values())


async def test_fact_of_the_root_has_the_path_of_the_root(conn: asyncpg.Connection, site: Site) -> None:
    await report(conn, 1, 0, b"/", scope=FACT, reason="acl-invalid")
    assert await paths(conn, site) == {1: "/"}


async def test_fileid_of_64_bits_is_listed(conn: asyncpg.Connection, site: Site) -> None:
    await report(conn, 2**64 - 1, 1, b"big", reason="id-out-of-range")
    assert await paths(conn, site) == {2**64 - 1: "/big"}


async def test_every_row_can_be_written_as_json(conn: asyncpg.Connection, site: Site) -> None:
    await report(conn, 60, 1, b'half\xed\xa0\x80\0\n"')
    await report(conn, 61, 1, b"f", scope=FACT, reason="time-out-of-range", subject="mtime")
    rows: list[QuarantineRow] = [row async for row in listing(conn, site)]
    lines = [json.dumps(row.as_json(), ensure_ascii=False).encode() for row in rows]
    first, second = (json.loads(line) for line in lines)
    keys = ["fileid", "path", "scope", "reason", "detail", "first_seen", "last_seen"]
    assert list(first) == keys
    assert first["path"] == '/half\\xed\\xa0\\x80\0\n"'
    assert second["detail"] == "mtime: so it is"


async def test_rows_of_all_pages_come_once_and_in_order(conn: asyncpg.Connection, site: Site) -> None:
    for fileid in range(100, 120):
        await report(conn, fileid, 1, b"f%d" % fileid)
    rows = [row.fileid async for row in listing(conn, site, page_rows=7)]
    assert rows == list(range(100, 120))


async def test_listing_that_is_stopped_leaves_no_transaction(conn: asyncpg.Connection, site: Site) -> None:
    for fileid in range(100, 110):
        await report(conn, fileid, 1, b"f")
    async with aclosing(listing(conn, site, page_rows=2)) as rows:
        await anext(rows)
    assert not conn.is_in_transaction()
