"""Which DPM catalogs are taken and which refused, on a real MariaDB."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dome_bridge.dpm.schema import SourceLayout, read_layout
from dome_bridge.dpm.source import Source
from dome_bridge.errors import SchemaError
from sandbox.catalog import create_schemas
from sandbox.servers import MariaServer
from tests.fixtures.databases import DpmSite
from tests.fixtures.source import dpm_config


@pytest.fixture
async def source(dpm_site: DpmSite) -> AsyncIterator[Source]:
    async with await Source.connect(dpm_config(dpm_site)) as source:
        yield source


async def alter(source: Source, *statements: str) -> None:
    for statement in statements:
        await source.execute(statement.format(dpm=source.dpm))


async def test_fresh_site_is_taken(source: Source) -> None:
    layout = await read_layout(source)
    assert (layout.cns_version, layout.dpm_version) == ((3, 2, 0), (3, 5, 0))
    assert layout.has_xattr
    assert layout.has_replica_xattr
    assert layout.has_account_xattr
    assert layout.has_path
    assert layout.has_pooltype
    assert layout.root_fileid == 1
    assert layout.cns_columns["Cns_user_metadata"] == ("rowid", "u_fileid", "comments")
    assert layout.dpm_columns["dpm_fs"] == ("rowid", "poolname", "server", "fs", "status", "weight")


async def test_name_server_without_xattr_is_taken(maria: MariaServer, dpm_site: DpmSite) -> None:
    await create_schemas(maria, dpm_site.cns, dpm_site.dpm, cns_version="3.1.0", binary_path=False)
    async with await Source.connect(dpm_config(dpm_site)) as source:
        layout = await read_layout(source)
    assert layout.cns_version == (3, 1, 0)
    assert (layout.has_xattr, layout.has_replica_xattr, layout.has_account_xattr) == (False,) * 3
    assert layout.has_path


async def test_pool_manager_without_path_is_taken(source: Source) -> None:
    await alter(
        source,
        "ALTER TABLE {dpm}.dpm_space_reserv DROP COLUMN path",
        "UPDATE {dpm}.schema_version_dpm SET minor = 4",
    )
    layout = await read_layout(source)
    assert layout.dpm_version == (3, 4, 0)
    assert not layout.has_path


async def test_table_of_comments_may_be_missing(source: Source) -> None:
    await alter(source, "DROP TABLE Cns_user_metadata")
    assert "Cns_user_metadata" not in (await read_layout(source)).cns_columns


async def test_layout_is_frozen(source: Source) -> None:
    layout: SourceLayout = await read_layout(source)
    with pytest.raises(AttributeError):
        layout.has_xattr = False  # type: ignore[misc]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE schema_version SET minor = 3", ["version 3.3.0", "3.1.0 or 3.2.0"]),
        ("UPDATE {dpm}.schema_version_dpm SET minor = 6", ["version 3.6.0", "3.4.0 or 3.5.0"]),
        ("DELETE FROM schema_version", ["schema_version has 0 rows"]),
        ("INSERT INTO schema_version VALUES (3, 1, 0)", ["schema_version has 2 rows"]),
        ("DROP TABLE schema_version", ["no table schema_version", "[dpm] cns_db"]),
        ("DROP TABLE {dpm}.dpm_space_reserv", ["no table dpm_space_reserv", "GRANT SELECT"]),
        ("ALTER TABLE Cns_file_replica DROP COLUMN sfn", ["Cns_file_replica lacks sfn"]),
        ("ALTER TABLE {dpm}.dpm_pool DROP COLUMN s_type", ["dpm_pool lacks s_type"]),
        ("ALTER TABLE Cns_file_metadata DROP COLUMN xattr", ["3.2.0", "no column xattr"]),
        ("ALTER TABLE {dpm}.dpm_space_reserv DROP COLUMN path", ["3.5.0", "no column path"]),
        ("ALTER TABLE Cns_groupinfo ENGINE=MyISAM", ["Cns_groupinfo", "engine MyISAM", "ENGINE=InnoDB"]),
        ("DELETE FROM Cns_file_metadata", ["0 rows", "the root"]),
        ("UPDATE Cns_file_metadata SET name = 'x'", ["0 rows", "the root"]),
        ("UPDATE Cns_file_metadata SET filemode = 33188", ["no directory"]),
        ("UPDATE Cns_file_metadata SET fileid = NULL", ["fileid None"]),
    ],
)
async def test_catalog_of_another_kind_is_refused(source: Source, statement: str, words: list[str]) -> None:
    await alter(source, statement)
    with pytest.raises(SchemaError) as info:
        await read_layout(source)
    assert all(word in str(info.value) for word in words), str(info.value)
    assert "\n" not in str(info.value)


async def test_two_roots_are_refused(source: Source) -> None:
    await alter(
        source,
        "ALTER TABLE Cns_file_metadata DROP INDEX file_full_id",
        "INSERT INTO Cns_file_metadata (fileid, parent_fileid, name, filemode) VALUES (9, 0, '/', 16877)",
    )
    with pytest.raises(SchemaError, match="2 rows"):
        await read_layout(source)
