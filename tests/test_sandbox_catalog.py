"""The made-up DPM: its tables are those of DPM, and its catalog is sound where it says so."""

from __future__ import annotations

import re
import tempfile
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.catalog import Site, create_schemas, make_site, run_schema_script
from sandbox.posix_acl import acl_text, plain_acl
from sandbox.rows import Entry
from sandbox.servers import MariaServer
from sandbox.site import SiteError, SiteOptions, make_filesystems, plan_site
from tests.fixtures.databases import DpmSite, unique_name

ACL_ENTRY = re.compile(r"[A-Fa-f][0-7][0-9]+")


class Catalog:
    """A made site and a way to ask it; `{c}` and `{d}` in SQL are its databases."""

    def __init__(self, maria: MariaServer, cns: str, dpm: str, site: Site) -> None:
        self.maria, self.cns, self.dpm, self.site = maria, cns, dpm, site

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        statement = sql.replace("{c}", f"`{self.cns}`").replace("{d}", f"`{self.dpm}`")
        return await self.maria.fetch(statement)

    async def value(self, sql: str) -> Any:
        return (await self.rows(sql))[0][0]


async def make_catalog(maria: MariaServer, options: SiteOptions, *, rotten: bool = False) -> Catalog:
    cns, dpm = unique_name("cns"), unique_name("dpm")
    await create_schemas(maria, cns, dpm)
    return Catalog(maria, cns, dpm, await make_site(maria, cns, dpm, options, rotten=rotten))


@pytest.fixture(scope="module")
async def catalog(maria: MariaServer) -> AsyncIterator[Catalog]:
    made = await make_catalog(maria, SiteOptions(files=4000))
    yield made
    await maria.drop_database(made.cns, made.dpm)


@pytest.fixture(scope="module")
async def rotten(maria: MariaServer) -> AsyncIterator[Catalog]:
    made = await make_catalog(maria, SiteOptions(files=50), rotten=True)
    yield made
    await maria.drop_database(made.cns, made.dpm)


@pytest.fixture
def disk_root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as directory:
        yield Path(directory)


async def test_new_schemas_have_versions_root_and_counters(maria: MariaServer, dpm_site: DpmSite) -> None:
    cns, dpm = dpm_site.cns, dpm_site.dpm
    assert await maria.fetch("SELECT * FROM schema_version", database=cns) == [(3, 2, 0)]
    assert await maria.fetch("SELECT * FROM schema_version_dpm", database=dpm) == [(3, 5, 0)]
    assert await maria.fetch("SELECT id FROM Cns_unique_id", database=cns) == [(1,)]
    root = "SELECT fileid, parent_fileid, name, filemode, nlink, status, xattr FROM Cns_file_metadata"
    assert await maria.fetch(root, database=cns) == [(1, 0, "/", 0o40755, 0, "-", "{}")]


async def test_all_tables_are_innodb_and_latin1(maria: MariaServer, dpm_site: DpmSite) -> None:
    tables = await maria.fetch(
        "SELECT DISTINCT engine, table_collation FROM information_schema.tables"
        " WHERE table_schema IN (%s, %s)",
        (dpm_site.cns, dpm_site.dpm),
    )
    assert tables == [("InnoDB", "latin1_swedish_ci")]


async def test_text_columns_compare_bytewise(maria: MariaServer, dpm_site: DpmSite) -> None:
    columns = await maria.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema IN (%s, %s)"
        " AND collation_name <> 'latin1_bin' AND data_type <> 'text'",
        (dpm_site.cns, dpm_site.dpm),
    )
    assert columns == []


@pytest.mark.parametrize(
    ("table", "column", "expected"),
    [
        ("Cns_file_metadata", "fileid", "bigint(20) unsigned"),
        ("Cns_file_metadata", "name", "varchar(255)"),
        ("Cns_file_metadata", "nlink", "int(11)"),
        ("Cns_file_metadata", "filesize", "bigint(20) unsigned"),
        ("Cns_file_metadata", "csumvalue", "varchar(32)"),
        ("Cns_file_replica", "sfn", "blob"),
        ("Cns_file_replica", "fs", "varchar(79)"),
        ("dpm_space_reserv", "u_space", "bigint(20)"),
        ("dpm_fs", "server", "varchar(63)"),
    ],
)
async def test_column_has_type_of_dpm(
    maria: MariaServer, dpm_site: DpmSite, table: str, column: str, expected: str
) -> None:
    found = await maria.fetch(
        "SELECT column_type FROM information_schema.columns"
        " WHERE table_schema IN (%s, %s) AND table_name = %s AND column_name = %s",
        (dpm_site.cns, dpm_site.dpm, table, column),
    )
    assert found == [(expected,)]


async def test_foreign_keys_are_those_of_dpm(maria: MariaServer, dpm_site: DpmSite) -> None:
    found = await maria.fetch(
        "SELECT table_name, column_name, referenced_table_name FROM information_schema.key_column_usage"
        " WHERE table_schema IN (%s, %s) AND referenced_table_name IS NOT NULL ORDER BY table_name",
        (dpm_site.cns, dpm_site.dpm),
    )
    assert found == [
        ("Cns_file_replica", "fileid", "Cns_file_metadata"),
        ("Cns_symlinks", "fileid", "Cns_file_metadata"),
        ("Cns_user_metadata", "u_fileid", "Cns_file_metadata"),
        ("dpm_fs", "poolname", "dpm_pool"),
    ]


async def test_old_versions_lack_xattr_and_binary_path(maria: MariaServer, dpm_site: DpmSite) -> None:
    cns, dpm = dpm_site.cns, dpm_site.dpm
    await create_schemas(maria, cns, dpm, cns_version="3.1.0", binary_path=False)
    assert await maria.fetch("SELECT * FROM schema_version", database=cns) == [(3, 1, 0)]
    columns = "SELECT {} FROM information_schema.columns WHERE table_schema = %s AND column_name = %s"
    assert await maria.fetch(columns.format("COUNT(*)"), (cns, "xattr")) == [(0,)]
    assert await maria.fetch(columns.format("collation_name"), (dpm, "path")) == [("latin1_swedish_ci",)]


async def test_filled_catalog_can_be_taken_to_older_version(maria: MariaServer) -> None:
    made = await make_catalog(maria, SiteOptions(files=20))
    await run_schema_script(maria, made.cns, "cns_db_to_3_1_0.sql")
    assert await made.value("SELECT COUNT(*) FROM {c}.Cns_file_metadata") == made.site.entries
    await maria.drop_database(made.cns, made.dpm)


async def test_site_has_as_many_rows_as_it_says(catalog: Catalog) -> None:
    counts = dict(
        await catalog.rows(
            "SELECT filemode & 61440, COUNT(*) FROM {c}.Cns_file_metadata GROUP BY 1 ORDER BY 1"
        )
    )
    site = catalog.site
    assert counts == {0o40000: site.directories, 0o100000: site.files, 0o120000: site.symlinks}
    assert site.files == 4000
    assert 300 < site.directories < 600
    assert await catalog.value("SELECT COUNT(*) FROM {c}.Cns_file_replica") == site.replicas > site.files
    assert await catalog.value("SELECT COUNT(*) FROM {c}.Cns_symlinks") == site.symlinks > 10
    assert await catalog.value("SELECT MAX(fileid) FROM {c}.Cns_file_metadata") == site.last_fileid
    assert await catalog.value("SELECT id FROM {c}.Cns_unique_id") == site.last_fileid


async def test_link_counts_are_numbers_of_children(catalog: Catalog) -> None:
    wrong = await catalog.rows(
        "SELECT d.fileid FROM {c}.Cns_file_metadata d WHERE d.filemode & 61440 = 16384 AND d.nlink <>"
        " (SELECT COUNT(*) FROM {c}.Cns_file_metadata e WHERE e.parent_fileid = d.fileid)"
    )
    assert wrong == []


async def test_every_entry_hangs_on_the_root(catalog: Catalog) -> None:
    parents = dict(await catalog.rows("SELECT fileid, parent_fileid FROM {c}.Cns_file_metadata"))
    for fileid in parents:
        depth = 0
        while fileid != 1:
            fileid, depth = parents[fileid], depth + 1
            assert depth < 30


async def test_directory_sizes_count_replicas_at_depths_two_to_six(catalog: Catalog) -> None:
    rows = await catalog.rows(
        "SELECT fileid, parent_fileid, filemode & 61440, filesize FROM {c}.Cns_file_metadata"
    )
    copies = dict(await catalog.rows("SELECT fileid, COUNT(*) FROM {c}.Cns_file_replica GROUP BY fileid"))
    parents = {fileid: parent for fileid, parent, _, _ in rows}
    expected = {fileid: 0 for fileid, _, kind, _ in rows if kind == 0o40000}
    for fileid, _, kind, size in rows:
        line = []
        here = parents[fileid]
        while here:
            line.append(here)
            here = parents[here]
        for ancestor in line[::-1][2:7] if kind == 0o100000 else ():
            expected[ancestor] += size * copies[fileid]
    assert {fileid: size for fileid, _, kind, size in rows if kind == 0o40000} == expected
    assert max(expected.values()) > 0


async def test_every_replica_is_usable_and_unique(catalog: Catalog) -> None:
    files = await catalog.value("SELECT COUNT(DISTINCT fileid) FROM {c}.Cns_file_replica WHERE status = '-'")
    assert files == catalog.site.files
    assert (
        await catalog.value("SELECT COUNT(DISTINCT sfn) FROM {c}.Cns_file_replica") == catalog.site.replicas
    )
    lost = await catalog.rows(
        "SELECT r.rowid FROM {c}.Cns_file_replica r LEFT JOIN {d}.dpm_fs f"
        " ON f.poolname = r.poolname AND f.server = r.host AND f.fs = r.fs"
        " WHERE f.rowid IS NULL OR r.sfn NOT LIKE CONCAT(r.host, ':', r.fs, '/%')"
    )
    assert lost == []


async def test_replicas_of_one_file_are_on_different_servers(catalog: Catalog) -> None:
    crowded = await catalog.rows(
        "SELECT fileid FROM {c}.Cns_file_replica GROUP BY fileid HAVING COUNT(*) > COUNT(DISTINCT host)"
    )
    assert crowded == []


async def test_site_has_the_variety_of_a_real_one(catalog: Catalog) -> None:
    metadata = "SELECT COUNT(*) FROM {c}.Cns_file_metadata e"
    assert await catalog.value(
        f"{metadata} JOIN {{c}}.Cns_file_metadata p ON p.fileid = e.parent_fileid AND p.fileid > e.fileid"
    )
    for condition in (
        "acl LIKE '%E%' AND filemode & 61440 = 32768",
        "acl LIKE '%,a7%' AND filemode & 61440 = 16384",
        "filemode & 1024 AND filemode & 61440 = 16384",
        "csumtype = 'AD' AND xattr LIKE '%adler32%'",
        "csumtype = 'AD' AND xattr IS NULL",
        "csumtype = '' AND xattr LIKE '%adler32%'",
        "csumtype = 'MD'",
        "guid IS NOT NULL",
        "filesize = 0 AND filemode & 61440 = 32768",
        "name REGEXP '[^ -~]'",
    ):
        assert await catalog.value(f"{metadata} WHERE {condition}"), condition


async def test_names_are_utf8_stored_bytewise(catalog: Catalog) -> None:
    rows = await catalog.rows("SELECT DISTINCT CAST(name AS BINARY) FROM {c}.Cns_file_metadata")
    names = {name.decode() for (name,) in rows}
    assert {"Übungen", "donne\u0301es", "観測データ"} <= names


async def test_acls_are_well_formed_and_fit_the_mode(catalog: Catalog) -> None:
    rows = await catalog.rows(
        "SELECT CAST(acl AS CHAR), filemode, owner_uid FROM {c}.Cns_file_metadata WHERE acl <> ''"
    )
    assert rows
    for acl, mode, uid in rows:
        entries = acl.split(",")
        assert all(ACL_ENTRY.fullmatch(entry) for entry in entries), acl
        kinds = "".join(entry[0] for entry in entries)
        assert kinds == "".join(sorted(kinds))
        assert {"A", "C", "F"} <= set(kinds)
        assert entries[0] == f"A{mode >> 6 & 7}{uid}"
        assert "E" in kinds or not {"B", "D"} & set(kinds)


async def test_quotatokens_are_on_directories_that_exist(catalog: Catalog) -> None:
    paths = [token.path for token in catalog.site.quotatokens if token.path]
    assert f"{catalog.site.home}/atlas" in paths
    assert f"{catalog.site.home}/atlas/atlasdatadisk" in paths
    for path in paths:
        here = 1
        for name in path.strip("/").split("/"):
            here = await catalog.value(
                f"SELECT fileid FROM {{c}}.Cns_file_metadata WHERE parent_fileid = {here} AND name = '{name}'"
            )
    assert await catalog.value("SELECT COUNT(*) FROM {d}.dpm_space_reserv") == len(paths) + 1


@pytest.mark.parametrize("files", [0, 1, 7])
async def test_smallest_sites_can_be_made(maria: MariaServer, files: int) -> None:
    made = await make_catalog(maria, SiteOptions(files=files))
    assert await made.value("SELECT COUNT(*) FROM {c}.Cns_file_metadata") == made.site.entries
    await maria.drop_database(made.cns, made.dpm)


def test_same_seed_gives_same_site_and_another_does_not() -> None:
    first, second, other = (list(plan_site(SiteOptions(files=300, seed=seed)).rows()) for seed in (5, 5, 6))
    assert first == second
    assert first != other


def test_rows_can_be_streamed_twice() -> None:
    plan = plan_site(SiteOptions(files=100))
    assert list(plan.rows()) == list(plan.rows())


def test_fileids_rise_through_the_stream() -> None:
    fileids = [row.fileid for row in plan_site(SiteOptions(files=500)).rows() if isinstance(row, Entry)]
    assert fileids == sorted(set(fileids))


def test_acl_text_is_ordered_by_kind_then_id() -> None:
    entries = plain_acl(0o754, 9, 8)
    extra = [entries[0]._replace(kind="B", id=number, perm=perm) for number, perm in ((20, 0), (3, 7))]
    assert acl_text(entries + extra) == "A79,B73,B020,C58,F40"


def content_of(sfn: bytes) -> bytes:
    return Path(sfn.decode().partition(":")[2]).read_bytes()


async def test_real_files_have_the_catalogs_size_and_checksum(maria: MariaServer, disk_root: Path) -> None:
    made = await make_catalog(maria, SiteOptions(files=60, disk_root=disk_root, largest_real_file=500))
    rows = await made.rows(
        "SELECT CAST(r.sfn AS BINARY), m.filesize, m.csumtype, m.csumvalue"
        " FROM {c}.Cns_file_replica r JOIN {c}.Cns_file_metadata m USING (fileid)"
    )
    checked = 0
    for sfn, size, csumtype, csumvalue in rows:
        content = content_of(sfn)
        assert len(content) == size < 500
        if csumtype == "AD":
            checked += 1
            assert f"{zlib.adler32(content):08x}" == csumvalue
    assert len(rows) >= 60
    assert checked > 30
    await maria.drop_database(made.cns, made.dpm)


def test_disk_root_that_is_too_long_is_refused() -> None:
    with pytest.raises(SiteError, match="choose a shorter disk_root"):
        make_filesystems(SiteOptions(disk_root=Path("/tmp") / ("x" * 60)))


async def test_every_rotten_case_is_in_the_catalog(rotten: Catalog) -> None:
    cases = rotten.site.rotten
    wanted = {fileid for fileids in cases.values() for fileid in fileids}
    assert len(wanted) == sum(map(len, cases.values()))
    found = {row[0] for row in await rotten.rows("SELECT fileid FROM {c}.Cns_file_metadata")}
    assert wanted <= found
    assert len(cases) > 150


@pytest.mark.parametrize(
    ("case", "column", "value"),
    [
        ("name_not_utf8", "name", b"caf\xe9"),
        ("name_empty", "name", b""),
        ("name_nul", "name", b"a\0b"),
        ("good_name_trailing_space", "name", b"trailing "),
        ("good_name_decomposed", "name", "cafe\u0301".encode()),
        ("size_2_64_minus_1", "filesize", b"18446744073709551615"),
        ("nlink_negative", "nlink", b"-3"),
        ("uid_of_minus_one", "owner_uid", b"4294967295"),
        ("times_negative", "ctime", b"-2147483648"),
        ("xattr_nul_escape", "xattr", b'{"note": "a\\u0000b"}'),
        ("null_name", "name", None),
        ("good_checksum_adler_short", "csumvalue", b"a1b2c3d"),
    ],
)
async def test_rotten_value_is_stored_as_it_is(
    rotten: Catalog, case: str, column: str, value: bytes | None
) -> None:
    (fileid,) = rotten.site.rotten[case]
    stored = await rotten.value(
        f"SELECT CAST({column} AS BINARY) FROM {{c}}.Cns_file_metadata WHERE fileid = {fileid}"
    )
    assert stored == value


async def test_rotten_cycle_is_closed(rotten: Catalog) -> None:
    first, second = rotten.site.rotten["cycle"]
    parents = dict(
        await rotten.rows(
            f"SELECT fileid, parent_fileid FROM {{c}}.Cns_file_metadata WHERE fileid IN ({first}, {second})"
        )
    )
    assert parents == {first: second, second: first}


async def test_rotten_replicas_are_planted(rotten: Catalog) -> None:
    cases = rotten.site.rotten

    async def replicas(case: str) -> list[tuple[Any, ...]]:
        fileids = ", ".join(map(str, cases[case]))
        return await rotten.rows(
            "SELECT CAST(sfn AS BINARY), status, host FROM {c}.Cns_file_replica"
            f" WHERE fileid IN ({fileids})"
        )

    assert await replicas("replica_none") == []
    assert [status for _, status, _ in await replicas("good_replica_p_and_online")] == ["P", "-"]
    (first, second) = await replicas("sfn_shared_by_files")
    assert first[0] == second[0]
    assert (await replicas("good_replica_host_empty"))[0][2] == ""
