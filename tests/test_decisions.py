"""What becomes of each rotten thing: mirrored whole, mirrored without one fact, or left out, and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dome_bridge.chimera import state
from dome_bridge.chimera.ids import pnfsid
from dome_bridge.chimera.pools import pool_name
from dome_bridge.chimera.quarantine import REASONS
from sandbox.acceptance import acceptance_failures
from sandbox.catalog import Site, create_schemas, make_site
from sandbox.chimera_schema import create_chimera
from sandbox.rotten import ADLER
from sandbox.servers import MariaServer, PostgresServer
from sandbox.site import SiteOptions
from tests.fixtures.databases import DpmSite, unique_name
from tests.fixtures.snapshot import bridge_config, copy_catalog

LEFT_OUT: Mapping[str, tuple[str, ...]] = {
    "being-written": ("replica_only_p",),
    "id-out-of-range": ("fileid_beyond_2_63", "fileid_2_63_minus_1", "fileid_2_64_minus_1"),
    "name-empty": ("name_empty", "null_name"),
    "name-has-slash": ("name_slash",),
    "name-not-utf8": (
        *("name_not_utf8", "name_truncated_utf8", "name_utf8_surrogate", "name_nul"),
        "directory_not_utf8",
    ),
    "name-reserved": ("name_dot", "name_dotdot"),
    "no-replica": ("replica_none", "replica_none_empty_file"),
    "no-usable-replica": (
        *("replica_server_unknown", "replica_fs_unknown", "replica_only_d", "sfn_shared_by_files"),
        *("replica_sfn_without_host", "replica_sfn_relative", "replica_sfn_outside_fs"),
        *("replica_sfn_other_host", "replica_sfn_empty", "replica_sfn_null", "replica_sfn_nul"),
        *("replica_status_null", "replica_status_unknown"),
    ),
    "owner-out-of-range": (
        *("uid_beyond_2_31", "uid_of_minus_one", "gid_beyond_2_31", "directory_uid_beyond_2_31"),
        "null_owner",
    ),
    "parent-absent": (
        *("orphan_file", "orphan_directory", "child_of_orphan", "cycle", "child_of_cycle", "own_parent"),
        *("child_of_unmappable", "grandchild_of_unmappable", "grandchild_link_of_unmappable"),
        *("second_root", "child_of_file", "child_of_symlink", "null_parent_fileid"),
    ),
    "size-out-of-range": ("size_2_63", "size_2_64_minus_1", "null_filesize"),
    "status-deleted": ("file_status_d",),
    "symlink-target-empty": ("symlink_target_empty",),
    "symlink-target-not-utf8": ("symlink_target_not_utf8", "symlink_target_nul"),
    "symlink-without-target": ("symlink_without_target", "symlink_target_null"),
    "type-unknown": ("type_socket", "type_fifo", "type_missing", "null_filemode"),
}
LACKING: Mapping[str, tuple[str, ...]] = {
    "acl-invalid": (
        *("acl_garbage", "acl_not_utf8", "acl_nul", "acl_perm_8", "acl_no_perm", "acl_no_other", "acl_cut"),
        *("acl_owner_twice", "acl_named_twice", "acl_no_mask", "acl_unknown_kind", "acl_id_too_large"),
        *("acl_negative_id", "acl_spaces", "acl_trailing_comma", "acl_default_on_file"),
        "directory_acl_garbage",
    ),
    "being-deleted": ("good_replica_d_and_online",),
    "being-written": ("good_replica_p_and_online",),
    "checksum-invalid": (
        *("checksum_adler_too_long", "checksum_adler_not_hex", "checksum_md5_too_short"),
        *("checksum_md5_not_hex", "checksum_spaces", "checksum_prefix_0x", "checksum_xattr_adler_not_hex"),
        *("checksum_xattr_null", "checksum_xattr_object", "checksum_xattr_empty", "checksum_bad_beside_good"),
    ),
    "checksum-unsupported": (
        *("checksum_crc32_decimal", "checksum_crc32_hex", "checksum_unknown_type"),
        *("checksum_xattr_crc32", "checksum_xattr_unknown"),
    ),
    "name-magic": ("name_magic", "directory_name_magic"),
    "replica-on-non-file": ("good_directory_with_replica", "good_symlink_with_replica"),
    "second-in-pool": ("good_sfn_twice_in_file", "good_two_replicas_in_one_pool"),
    "symlink-not-followed": ("good_symlink_target_non_ascii", "good_symlink_target_backslash"),
    "time-out-of-range": ("times_negative", "null_facts", "directory_null_facts"),
    "unknown-filesystem": ("good_replica_unknown_and_online",),
    "xattr-invalid": (
        *("xattr_not_utf8", "xattr_broken", "xattr_nul_escape", "xattr_lone_surrogate_escape", "xattr_array"),
        *("xattr_scalar", "xattr_null", "xattr_trailing_garbage", "xattr_not_json", "xattr_nul"),
    ),
}
WHOLE = (
    "good_top",
    *("good_name_trailing_space", "good_name_leading_space", "good_name_newline", "good_name_tab_and_escape"),
    *("good_name_backslash", "good_name_255_bytes", "good_name_255_bytes_multibyte", "good_name_composed"),
    *("good_name_decomposed", "good_name_case_a", "good_name_case_b", "good_name_copy_marks"),
    *("good_file_used_as_parent", "good_symlink_used_as_parent", "good_deep", "good_deep_file"),
    *("nlink_negative", "nlink_too_large", "file_nlink_negative", "file_nlink_two"),
    *("good_times_of_2038", "good_times_zero", "good_size_largest", "good_directory_size_2_64_minus_1"),
    *("good_owner_unknown", "mode_beyond_type", "good_mode_zero", "good_file_status_m", "file_status_empty"),
    *("good_acl_unsorted", "good_acl_of_former_owner", "good_acl_long", "symlink_acl"),
    *("xattr_over_1000_bytes", "xattr_too_deep", "directory_xattr_broken", "good_xattr_nested"),
    *("good_xattr_key_twice", "good_xattr_spaces", "good_replica_xattr_broken"),
    *("checksum_type_alone", "checksum_value_alone", "checksum_xattr_number", "checksum_xattr_wrong_case"),
    *("good_checksum_adler_short", "good_checksum_adler_upper", "good_checksum_type_lower"),
    *("good_checksum_sha256", "good_checksum_xattr_upper", "good_checksum_xattr_wins"),
    "good_checksum_on_directory",
    *("replica_pool_unknown", "replica_columns_null", "replica_sfn_not_utf8"),
    *("good_replica_host_empty", "good_replica_host_other_case", "good_replica_sfn_host_other_case"),
    *("good_replica_token_unknown", "good_replica_volatile", "good_replica_fs_trailing_slash"),
    *("good_symlink_loop", "good_symlink_out_of_tree", "good_symlink_target_long"),
    *("good_symlink_row_on_file", "good_symlink_row_on_directory"),
)
FACT_ROWS = {"times_negative": 2, "null_facts": 2, "directory_null_facts": 2}
"""Where a reason holds for more than one fact."""


def cases(*groups: Mapping[str, Iterable[str]]) -> list[str]:
    return [case for group in groups for named in group.values() for case in named]


@dataclass
class Copy:
    """A rotten site and its first copy."""

    site: Site
    conn: asyncpg.Connection
    bridge: state.Site

    async def quarantined(self) -> dict[int, list[tuple[str, str]]]:
        found = defaultdict(list)
        for row in await self.conn.fetch("SELECT fileid, scope, reason FROM dome_bridge.quarantine"):
            found[int(row["fileid"])].append((row["scope"], row["reason"]))
        return found

    async def one(self, case: str, query: str) -> Any:
        """The first value of a query on the inumber ($1) of a case."""
        return await self.conn.fetchval(query, self.bridge.inumber(self.site.rotten[case][0]))


@pytest.fixture(scope="module")
async def copy(maria: MariaServer, postgres: PostgresServer) -> AsyncIterator[Copy]:
    cns, dpm, chimera = unique_name("cns"), unique_name("dpm"), unique_name("chimera")
    try:
        await create_schemas(maria, cns, dpm)
        await maria.grant(cns, dpm)
        site = await make_site(maria, cns, dpm, SiteOptions(files=200), rotten=True)
        dsn = await create_chimera(postgres, chimera, "10.2")
        where = DpmSite(maria.host, maria.port, maria.unix_socket, maria.user, maria.password, cns, dpm)
        await copy_catalog(bridge_config(where, dsn))
        conn = await asyncpg.connect(dsn)
        yield Copy(site, conn, await state.load_site(conn))
        await conn.close()
    finally:
        await maria.drop_database(cns, dpm)
        await postgres.drop_database(chimera)


def test_every_specimen_has_one_decision(copy: Copy) -> None:
    decided = Counter([*cases(LEFT_OUT, LACKING), *WHOLE])
    assert set(decided) == set(copy.site.rotten)
    assert max(decided.values()) == 1


def test_every_decision_has_a_reason_of_the_reference() -> None:
    for scope, group in (("entry", LEFT_OUT), ("fact", LACKING)):
        assert all(scope in REASONS[reason].scopes for reason in group)


async def test_specimens_are_in_the_quarantine_as_decided(copy: Copy) -> None:
    expected = {
        fileid: [(scope, reason)] * FACT_ROWS.get(case, 1)
        for scope, group in (("entry", LEFT_OUT), ("fact", LACKING))
        for reason, named in group.items()
        for case in named
        for fileid in copy.site.rotten[case]
    }
    assert await copy.quarantined() == expected


async def test_specimens_are_in_chimera_as_decided(copy: Copy) -> None:
    mirrored = {row[0] for row in await copy.conn.fetch("SELECT ipnfsid FROM t_inodes")}

    def present(names: Iterable[str]) -> set[str]:
        ids = {name: copy.site.rotten[name] for name in names}
        return {name for name in ids if any(_pnfsid(copy, fileid) in mirrored for fileid in ids[name])}

    assert present(cases(LEFT_OUT)) == set()
    assert present([*cases(LACKING), *WHOLE]) == {*cases(LACKING), *WHOLE}


def _pnfsid(copy: Copy, fileid: int) -> str:
    return pnfsid(copy.bridge.instance_id, fileid) if fileid < 2**62 else "beyond"


async def test_dcache_can_take_over_what_is_left(copy: Copy) -> None:
    assert await acceptance_failures(copy.conn) == {}


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("good_name_trailing_space", "trailing "),
        ("good_name_leading_space", " leading"),
        ("good_name_newline", "two\nlines"),
        ("good_name_tab_and_escape", "tab\tescape\x1b[1m"),
        ("good_name_backslash", "back\\slash\\n"),
        ("good_name_255_bytes", "n" * 255),
        ("good_name_255_bytes_multibyte", "é" * 127 + "x"),
        ("good_name_composed", "caf\u00e9"),
        ("good_name_decomposed", "cafe\u0301"),
        ("good_name_case_a", "Case"),
        ("good_name_case_b", "case"),
        ("good_name_copy_marks", "\\N"),
        ("name_magic", ".(get)(f)(checksums)"),
    ],
)
async def test_odd_name_is_kept(copy: Copy, case: str, name: str) -> None:
    assert await copy.one(case, "SELECT iname FROM t_dirs WHERE ichild = $1") == name


@pytest.mark.parametrize(
    ("case", "sums"),
    [
        ("good_checksum_adler_short", [f"1:{ADLER}"]),
        ("good_checksum_adler_upper", [f"1:{ADLER}"]),
        ("good_checksum_type_lower", [f"1:{ADLER}"]),
        ("good_checksum_sha256", ["5:" + "ab" * 32]),
        ("good_checksum_xattr_upper", [f"1:{ADLER}"]),
        ("good_checksum_xattr_wins", [f"1:{ADLER}"]),
        ("checksum_bad_beside_good", [f"1:{ADLER}"]),
        ("checksum_xattr_number", ["1:12345678"]),
        ("checksum_xattr_wrong_case", []),
        ("checksum_type_alone", []),
        ("checksum_value_alone", []),
        ("checksum_crc32_hex", []),
        ("checksum_prefix_0x", []),
        ("xattr_broken", []),
        ("good_checksum_on_directory", []),
    ],
)
async def test_checksums_of_a_specimen(copy: Copy, case: str, sums: list[str]) -> None:
    query = "SELECT coalesce(array_agg(itype || ':' || isum), '{}') FROM t_inodes_checksum WHERE inumber = $1"
    assert await copy.one(case, query) == sums


@pytest.mark.parametrize(
    ("case", "place"),
    [
        ("replica_pool_unknown", 0),
        ("replica_columns_null", 0),
        ("replica_sfn_not_utf8", 0),
        ("good_replica_host_empty", 0),
        ("good_replica_host_other_case", 0),
        ("good_replica_sfn_host_other_case", 0),
        ("good_replica_token_unknown", 0),
        ("good_replica_fs_trailing_slash", 0),
        ("good_sfn_twice_in_file", 0),
        ("good_two_replicas_in_one_pool", 0),
        ("good_replica_p_and_online", 1),
        ("good_replica_d_and_online", 1),
        ("good_replica_unknown_and_online", 1),
    ],
)
async def test_file_is_located_where_its_path_lies(copy: Copy, case: str, place: int) -> None:
    filesystem = copy.site.filesystems[place]
    pool = pool_name(filesystem.server, filesystem.fs, filesystem.pool)
    query = "SELECT array_agg(ilocation) FROM t_locationinfo WHERE inumber = $1"
    assert await copy.one(case, query) == [pool]


@pytest.mark.parametrize("case", ["good_directory_with_replica", "good_symlink_with_replica"])
async def test_replica_of_something_other_than_a_file_gives_no_location(copy: Copy, case: str) -> None:
    assert await copy.one(case, "SELECT count(*) FROM t_locationinfo WHERE inumber = $1") == 0


@pytest.mark.parametrize(
    ("case", "links"),
    [("nlink_negative", 2), ("nlink_too_large", 2), ("file_nlink_negative", 1), ("file_nlink_two", 1)],
)
async def test_link_count_is_counted_not_copied(copy: Copy, case: str, links: int) -> None:
    assert await copy.one(case, "SELECT inlink FROM t_inodes WHERE inumber = $1") == links


@pytest.mark.parametrize(
    ("case", "time"),
    [
        ("good_times_of_2038", "2038-01-19 04:14:07"),
        ("good_times_zero", "1970-01-01 01:00:00"),
        ("times_negative", "1970-01-02 00:00:00"),
        ("null_facts", "1970-01-02 00:00:00"),
        ("directory_null_facts", "1970-01-02 00:00:00"),
    ],
)
async def test_time_is_the_head_nodes_or_stands_in(copy: Copy, case: str, time: str) -> None:
    assert await copy.one(case, "SELECT imtime::text FROM t_inodes WHERE inumber = $1") == time


@pytest.mark.parametrize(
    ("case", "mode"),
    [("mode_beyond_type", 0o644), ("good_mode_zero", 0), ("acl_garbage", 0o644), ("symlink_acl", 0o777)],
)
async def test_mode_has_permission_bits_only(copy: Copy, case: str, mode: int) -> None:
    assert await copy.one(case, "SELECT imode FROM t_inodes WHERE inumber = $1") == mode


@pytest.mark.parametrize(("case", "aces"), [("good_acl_long", 300), ("acl_no_mask", 0), ("symlink_acl", 0)])
async def test_acl_is_whole_or_gone(copy: Copy, case: str, aces: int) -> None:
    assert await copy.one(case, "SELECT count(*) FROM t_acl WHERE inumber = $1") == aces


@pytest.mark.parametrize(
    ("case", "target"),
    [
        ("good_symlink_target_non_ascii", "/dpm/Übungen/данные"),
        ("good_symlink_target_backslash", "back\\slash\\101"),
        ("good_symlink_loop", "good_symlink_loop"),
        ("good_symlink_out_of_tree", "../../../../../../etc/passwd"),
        ("good_symlink_target_long", "/" + "t" * 4000),
        ("good_symlink_row_on_file", None),
        ("good_symlink_row_on_directory", None),
    ],
)
async def test_target_belongs_to_links_alone(copy: Copy, case: str, target: str | None) -> None:
    found = await copy.one(case, "SELECT ifiledata FROM t_inodes_data WHERE inumber = $1")
    assert found == (target.encode() if target else None)


async def test_sizes_at_the_border_are_exact(copy: Copy) -> None:
    size = "SELECT isize FROM t_inodes WHERE inumber = $1"
    assert await copy.one("good_size_largest", size) == 2**63 - 1
    assert await copy.one("good_directory_size_2_64_minus_1", size) == 512


async def test_owner_without_a_name_stays_a_number(copy: Copy) -> None:
    owner = "SELECT iuid || ':' || igid FROM t_inodes WHERE inumber = $1"
    assert await copy.one("good_owner_unknown", owner) == "31000:31001"


async def test_deep_file_hangs_on_the_root(copy: Copy) -> None:
    path = await copy.one("good_deep_file", "SELECT inumber2path($1)")
    assert path == f"{copy.site.home}/rotten{'/d' * 140}/good_deep_file"


def test_documentation_names_every_reason_decided_here() -> None:
    text = (Path(__file__).parent.parent / "docs" / "reference" / "quarantine.md").read_text(encoding="utf-8")
    assert all(f"| `{reason}` |" in text for reason in (*LEFT_OUT, *LACKING))
