"""The staged columns are the same for who reads, for who stages, and in their contract."""

from __future__ import annotations

import pytest

from dome_bridge.dpm import read
from dome_bridge.staging import STAGED, StagedTable
from tests.fixtures.mirror import Mirrored

every_table = pytest.mark.parametrize("staged", STAGED, ids=[staged.name for staged in STAGED])
EXPRESSIONS = {"stage_entry": "_ENTRY_SQL", "stage_replica": "_REPLICA_SQL", "stage_symlink": "_SYMLINK_SQL"}


@every_table
def test_reader_has_an_expression_for_every_column_and_no_other(staged: StagedTable) -> None:
    assert tuple(getattr(read, EXPRESSIONS[staged.name])) == staged.columns


async def test_staging_tables_have_the_columns_of_the_contract(mirrored: Mirrored) -> None:
    for staged in STAGED:
        rows = await mirrored.mirror.conn.fetch(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0"
            " AND NOT attisdropped ORDER BY attnum",
            f"pg_temp.{staged.name}",
        )
        assert tuple(row[0] for row in rows) == staged.columns


async def test_rows_arrive_unchanged(mirrored: Mirrored) -> None:
    names = ("tab\tnew\nline", "back\\slash", "\\N", "Ü", "quote'\"", "\udce9", "x" * 255)
    for number, name in enumerate(names):
        fileid = await mirrored.catalog.file(f"/dpm/f{number}", acl="A60,C60,F40")
        await mirrored.catalog.update(fileid, name=name, filesize=2**64 - 1, xattr=f'{{"k": "{number}"}}')
    mirror = mirrored.mirror
    async with mirror.source.snapshot(), mirror.conn.transaction():
        await mirror.projection.stage_range(1, 10**6)
        rows = await mirror.conn.fetch("SELECT name, size, acl, csumtype FROM stage_entry WHERE fileid > 5")
    assert {row["name"] for row in rows} == {name.encode("utf-8", "surrogateescape") for name in names}
    assert {(row["size"], row["acl"], row["csumtype"]) for row in rows} == {
        (2**64 - 1, b"A60,C60,F40", b"AD")
    }


async def test_staging_tables_are_empty_after_a_transaction(mirrored: Mirrored) -> None:
    await mirrored.catalog.file("/dpm/f")
    await mirrored.snapshot_and_follow()
    tables = await mirrored.mirror.conn.fetch(
        "SELECT relname::text FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'"
    )
    filled = [
        name
        for (name,) in tables
        if name != "checksum_kind"
        and await mirrored.mirror.conn.fetchval(f"SELECT EXISTS (SELECT FROM pg_temp.{name})")
    ]
    assert (len(tables) > 10, filled) == (True, [])
