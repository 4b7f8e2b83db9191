"""One specimen of everything that is wrong in some DPM catalog, each under a known fileid.

DPM's tables accept far more than its daemons write: decades of crashes, consistency tools
and hand-written SQL have left such rows on real sites. Cases whose name begins with `good_`
only look rotten. The text of a case may hold bytes that are not UTF-8, as lone surrogates.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sandbox.bulk import BulkLoader
from sandbox.rows import Entry, FileSystem, Replica, Row, Symlink
from sandbox.site import FOREVER

if TYPE_CHECKING:
    from sandbox.servers import MariaServer

BORN = 1_400_000_000
ADLER = "0a1b2c3d"
SYMLINK_MODE = stat.S_IFLNK | 0o777
HOST_OF_NO_POOL = "gone.example.org"


def raw(data: bytes) -> str:
    """Text that is stored as just these bytes."""
    return data.decode("utf-8", "surrogateescape")


class Plot:
    """Collects specimens below one directory; counts fileids up from a base."""

    def __init__(self, base: int, parent: int, filesystems: list[FileSystem]) -> None:
        self.rows: list[Row] = []
        self.cases: dict[str, list[int]] = {}
        self.filesystems = filesystems
        self._last = base
        self.top = self.directory("good_top", parent_fileid=parent, name="rotten")

    def entry(self, case: str, **changes: Any) -> int:
        """A row of its own, a regular file by default; without a name it is called after its case."""
        self._last += 1
        fileid = changes.pop("fileid", self._last)
        number = len(self.cases.setdefault(case, []))
        name = f"{case}_{number}" if number else case
        entry = Entry(
            fileid, getattr(self, "top", 0), None, name, stat.S_IFREG | 0o644, 1, 101, 101, 1000,
            BORN, BORN, BORN, 0, "-", "", "", "", None,
        )._replace(**changes)  # fmt: skip
        self.rows.append(entry)
        self.cases[case].append(fileid)
        return int(fileid)

    def directory(self, case: str, **changes: Any) -> int:
        return self.entry(case, **{"filemode": stat.S_IFDIR | 0o755, "filesize": 0, "nlink": 0} | changes)

    def file(self, case: str, **changes: Any) -> int:
        """A regular file with a good replica."""
        fileid = self.bare_file(case, **changes)
        self.replica(fileid)
        return fileid

    def bare_file(self, case: str, **changes: Any) -> int:
        return self.entry(case, **changes)

    def replica(self, fileid: int, place: int = 0, **changes: Any) -> None:
        """By default a good one, on one of the known file systems."""
        fs = self.filesystems[place]
        sfn = f"{fs.server}:{fs.fs}/rotten/2014-05-13/f.{len(self.rows)}.{BORN}"
        made = Replica(
            fileid, 0, BORN, BORN, BORN, BORN, None, "-", "P", None, fs.pool, fs.server, fs.fs, sfn, None
        )
        self.rows.append(made._replace(**changes))

    def symlink(self, case: str, target: str | None, **changes: Any) -> int:
        fileid = self.entry(case, **{"filemode": SYMLINK_MODE, "filesize": 0} | changes)
        self.rows.append(Symlink(fileid, target))
        return fileid

    def with_link_counts(self) -> list[Row]:
        """The rows, directories having the number of their children unless a count was planted."""
        children: dict[int, int] = {}
        for row in self.rows:
            if isinstance(row, Entry):
                children[row.parent_fileid] = children.get(row.parent_fileid, 0) + 1
        return [
            row._replace(nlink=children.get(row.fileid, 0))
            if isinstance(row, Entry) and row.nlink == 0
            else row
            for row in self.rows
        ]


def plant_names(plot: Plot) -> None:
    names = {
        "name_not_utf8": raw(b"caf\xe9"),
        "name_truncated_utf8": raw(b"caf\xc3"),
        "name_utf8_surrogate": raw(b"half\xed\xa0\x80"),
        "name_empty": "",
        "name_slash": "a/b",
        "name_dot": ".",
        "name_dotdot": "..",
        "name_magic": ".(get)(f)(checksums)",
        "name_nul": "a\0b",
        "good_name_trailing_space": "trailing ",
        "good_name_leading_space": " leading",
        "good_name_newline": "two\nlines",
        "good_name_tab_and_escape": "tab\tescape\x1b[1m",
        "good_name_backslash": "back\\slash\\n",
        "good_name_255_bytes": "n" * 255,
        "good_name_255_bytes_multibyte": "é" * 127 + "x",
        "good_name_composed": "caf\u00e9",
        "good_name_decomposed": "cafe\u0301",
        "good_name_case_a": "Case",
        "good_name_case_b": "case",
        "good_name_copy_marks": "\\N",
    }
    for case, name in names.items():
        plot.file(case, name=name)
    plot.directory("directory_name_magic", name=".(id)(x)")


def plant_tree(plot: Plot) -> None:
    plot.file("orphan_file", parent_fileid=10**15)
    lost = plot.directory("orphan_directory", parent_fileid=10**15)
    plot.file("child_of_orphan", parent_fileid=lost)
    unmappable = plot.directory("directory_not_utf8", name=raw(b"d\xff"))
    below = plot.directory("child_of_unmappable", parent_fileid=unmappable)
    plot.file("grandchild_of_unmappable", parent_fileid=below)
    plot.symlink("grandchild_link_of_unmappable", "grandchild_of_unmappable", parent_fileid=below)
    first = plot.directory("cycle", nlink=1)
    second = plot.directory("cycle", parent_fileid=first)
    plot.rows = [
        row._replace(parent_fileid=second) if isinstance(row, Entry) and row.fileid == first else row
        for row in plot.rows
    ]
    plot.file("child_of_cycle", parent_fileid=second)
    own = plot.directory("own_parent", nlink=1)
    plot.rows.append(_entry(plot.rows.pop())._replace(parent_fileid=own))
    plot.directory("second_root", parent_fileid=0, name="lost+found")
    parent = plot.file("good_file_used_as_parent")
    plot.file("child_of_file", parent_fileid=parent)
    link = plot.symlink("good_symlink_used_as_parent", "good_top")
    plot.file("child_of_symlink", parent_fileid=link)
    plot.replica(plot.directory("good_directory_with_replica"))
    deep = plot.top
    for _ in range(140):
        deep = plot.directory("good_deep", parent_fileid=deep, name="d")
    plot.file("good_deep_file", parent_fileid=deep)


def _entry(row: Row) -> Entry:
    assert isinstance(row, Entry)
    return row


def plant_numbers(plot: Plot) -> None:
    plot.directory("nlink_negative", nlink=-3)
    plot.directory("nlink_too_large", nlink=77)
    plot.file("file_nlink_negative", nlink=-1)
    plot.file("file_nlink_two", nlink=2)
    plot.file("times_negative", atime=-1, mtime=-86400, ctime=-(2**31))
    plot.file("good_times_of_2038", atime=FOREVER, mtime=FOREVER, ctime=FOREVER)
    plot.file("good_times_zero", atime=0, mtime=0, ctime=0)
    plot.file("size_2_63", filesize=2**63)
    plot.file("size_2_64_minus_1", filesize=2**64 - 1)
    plot.file("good_size_largest", filesize=2**63 - 1)
    plot.directory("good_directory_size_2_64_minus_1", filesize=2**64 - 1)
    plot.file("fileid_beyond_2_63", fileid=2**63 + 5)
    plot.file("fileid_2_63_minus_1", fileid=2**63 - 1)
    plot.file("fileid_2_64_minus_1", fileid=2**64 - 1)
    plot.file("uid_beyond_2_31", owner_uid=2**31)
    plot.file("uid_of_minus_one", owner_uid=2**32 - 1)
    plot.file("gid_beyond_2_31", gid=2**32 - 2)
    plot.directory("directory_uid_beyond_2_31", owner_uid=2**31)
    plot.file("good_owner_unknown", owner_uid=31000, gid=31001)
    plot.file("type_socket", filemode=stat.S_IFSOCK | 0o644)
    plot.file("type_fifo", filemode=stat.S_IFIFO | 0o644)
    plot.file("type_missing", filemode=0o644)
    plot.file("mode_beyond_type", filemode=0o1100644)
    plot.file("good_mode_zero", filemode=stat.S_IFREG)


def plant_status(plot: Plot) -> None:
    plot.file("file_status_d", status="D")
    plot.file("good_file_status_m", status="m")
    plot.file("file_status_empty", status="")
    facts = (
        "nlink",
        "atime",
        "mtime",
        "ctime",
        "status",
        "csumtype",
        "csumvalue",
        "acl",
        "xattr",
        "fileclass",
    )
    plot.file("null_facts", **dict.fromkeys(facts))
    plot.directory("directory_null_facts", **dict.fromkeys(facts))
    plot.file("null_owner", owner_uid=None, gid=None)
    for column in ("name", "filemode", "filesize", "parent_fileid"):
        plot.file(f"null_{column}", **{column: None})


def plant_acls(plot: Plot) -> None:
    texts = {
        "garbage": "hello",
        "not_utf8": raw(b"A6101,C\xff"),
        "nul": "A6101,C4101\0,F40",
        "perm_8": "A8101,C40101,F40",
        "no_perm": "A,C,F",
        "no_other": "A6101,C4101",
        "owner_twice": "A6101,A6102,C4101,F40",
        "named_twice": "A6101,B4102,B6102,C4101,E70,F40",
        "no_mask": "A6101,B4102,C4101,F40",
        "unknown_kind": "A6101,C4101,F40,X70",
        "id_too_large": "A6101,B799999999999,C4101,E70,F40",
        "negative_id": "A6101,B7-1,C4101,E70,F40",
        "spaces": "A6101, C4101, F40",
        "trailing_comma": "A6101,C4101,F40,",
        "cut": "A6101,B4102,C41",
    }
    for case, text in texts.items():
        plot.file(f"acl_{case}", acl=text)
    plot.directory("directory_acl_garbage", acl="A70,C50,F50,a70")
    plot.file("acl_default_on_file", acl="A6101,C4101,F40,a70,c50,f50")
    plot.file("good_acl_unsorted", acl="F40,C4101,A6101")
    plot.file("good_acl_of_former_owner", acl="A6999,C4998,F40")
    many = ",".join(f"B4{uid}" for uid in range(1000, 1300))
    plot.file("good_acl_long", acl=f"A6101,{many},C4101,E70,F40")
    plot.symlink("symlink_acl", "good_top", acl="A7101,C5101,F50")


def plant_xattrs(plot: Plot) -> None:
    texts = {
        "not_utf8": raw(b'{"note": "caf\xe9"}'),
        "broken": '{"checksum.adler32": "0a1b2c3d"',
        "nul_escape": '{"note": "a\\u0000b"}',
        "lone_surrogate_escape": '{"note": "\\ud800"}',
        "array": '["checksum.adler32"]',
        "scalar": "42",
        "null": "null",
        "trailing_garbage": '{"a": 1} x',
        "not_json": "checksum.adler32=0a1b2c3d",
        "nul": '{"note": "a\0b"}',
        "over_1000_bytes": '{"note": "' + "x" * 1500 + '"}',
        "too_deep": '{"a": ' * 200 + "1" + "}" * 200,
    }
    for case, text in texts.items():
        plot.file(f"xattr_{case}", xattr=text)
    plot.directory("directory_xattr_broken", xattr="{")
    plot.file("good_xattr_nested", xattr='{"a": {"b": [1, "\\/x"]}, "c": true}')
    plot.file("good_xattr_key_twice", xattr='{"a": "1", "a": "2"}')
    plot.file("good_xattr_spaces", xattr="  ")
    replica_of = plot.bare_file("good_replica_xattr_broken")
    plot.replica(replica_of, xattr="{")


def plant_checksums(plot: Plot) -> None:
    legacy = {
        "adler_too_long": ("AD", "123456789"),
        "adler_not_hex": ("AD", "0a1b2c3z"),
        "md5_too_short": ("MD", "d41d8cd98f00b204"),
        "md5_not_hex": ("MD", "z" * 32),
        "crc32_decimal": ("CS", "3405691582"),
        "crc32_hex": ("CS", "cafebabe"),
        "unknown_type": ("XX", "0a1b2c3d"),
        "spaces": ("AD", "0a1b 2c3"),
        "prefix_0x": ("AD", "0x0a1b2c"),
        "type_alone": ("AD", ""),
        "value_alone": ("", ADLER),
    }
    for case, (csumtype, csumvalue) in legacy.items():
        plot.file(f"checksum_{case}", csumtype=csumtype, csumvalue=csumvalue)
    extended = {
        "xattr_adler_not_hex": '{"checksum.adler32": "xyz"}',
        "xattr_crc32": '{"checksum.crc32": "cafebabe"}',
        "xattr_unknown": '{"checksum.whirlpool": "00ff"}',
        "xattr_number": '{"checksum.adler32": 12345678}',
        "xattr_null": '{"checksum.adler32": null}',
        "xattr_object": '{"checksum.adler32": {"value": "0a1b2c3d"}}',
        "xattr_empty": '{"checksum.adler32": ""}',
        "xattr_wrong_case": f'{{"Checksum.adler32": "{ADLER}"}}',
    }
    for case, xattr in extended.items():
        plot.file(f"checksum_{case}", xattr=xattr)
    plot.file("good_checksum_adler_short", csumtype="AD", csumvalue="a1b2c3d")
    plot.file("good_checksum_adler_upper", csumtype="AD", csumvalue="0A1B2C3D")
    plot.file("good_checksum_type_lower", csumtype="ad", csumvalue=ADLER)
    plot.file("good_checksum_sha256", xattr='{"checksum.sha256": "' + "ab" * 32 + '"}')
    plot.file("good_checksum_xattr_upper", xattr=f'{{"checksum.ADLER32": "{ADLER}"}}')
    conflict = f'{{"checksum.adler32": "{ADLER}"}}'
    plot.file("good_checksum_xattr_wins", csumtype="AD", csumvalue="ffffffff", xattr=conflict)
    plot.file("checksum_bad_beside_good", csumtype="MD", csumvalue="bad", xattr=conflict)
    plot.directory("good_checksum_on_directory", csumtype="AD", csumvalue=ADLER)


def plant_replicas(plot: Plot) -> None:
    first, second = plot.filesystems[:2]
    pfn = f"{first.fs}/rotten/2014-05-13"
    odd: dict[str, dict[str, Any]] = {
        "server_unknown": {"host": HOST_OF_NO_POOL, "sfn": f"{HOST_OF_NO_POOL}:{pfn}/unknown-server"},
        "fs_unknown": {"fs": "/srv/unknown", "sfn": f"{first.server}:/srv/unknown/f"},
        "pool_unknown": {"poolname": "nosuchpool"},
        "sfn_without_host": {"sfn": f"{pfn}/no-host"},
        "sfn_relative": {"sfn": f"{first.server}:rotten/f"},
        "sfn_outside_fs": {"sfn": f"{first.server}:/elsewhere/f"},
        "sfn_other_host": {
            "sfn": f"{second.server if second.server != first.server else 'x'}:{pfn}/other-host"
        },
        "sfn_empty": {"sfn": ""},
        "sfn_null": {"sfn": None},
        "sfn_not_utf8": {"sfn": raw(f"{first.server}:{pfn}/".encode() + b"caf\xe9")},
        "sfn_nul": {"sfn": f"{first.server}:{pfn}/a\0b"},
        "columns_null": {"poolname": None, "host": None, "fs": None},
        "status_null": {"status": None},
        "status_unknown": {"status": "x"},
        "only_p": {"status": "P"},
        "only_d": {"status": "D"},
    }
    for case, changes in odd.items():
        plot.replica(plot.bare_file(f"replica_{case}"), **changes)
    fine: dict[str, dict[str, Any]] = {
        "host_empty": {"host": ""},
        "host_other_case": {"host": first.server.upper()},
        "sfn_host_other_case": {"sfn": f"{first.server.upper()}:{pfn}/host-case"},
        "token_unknown": {"setname": "00000000-0000-0000-0000-000000000000"},
        "volatile": {"f_type": "V", "r_type": "S"},
        "fs_trailing_slash": {"fs": f"{first.fs}/"},
    }
    for case, changes in fine.items():
        plot.replica(plot.bare_file(f"good_replica_{case}"), **changes)
    plot.bare_file("replica_none")
    plot.bare_file("replica_none_empty_file", filesize=0)
    plant_several_replicas(plot, f"{first.server}:{pfn}")


def plant_several_replicas(plot: Plot, folder: str) -> None:
    same = plot.bare_file("good_sfn_twice_in_file")
    plot.replica(same, sfn=f"{folder}/twice")
    plot.replica(same, sfn=f"{folder}/twice")
    for _ in range(2):
        plot.replica(plot.bare_file("sfn_shared_by_files"), sfn=f"{folder}/shared")
    crowded = plot.bare_file("good_two_replicas_in_one_pool")
    plot.replica(crowded)
    plot.replica(crowded)
    mixed = {"good_replica_p_and_online": "P", "good_replica_d_and_online": "D"}
    for case, status in mixed.items():
        fileid = plot.bare_file(case)
        plot.replica(fileid, status=status)
        plot.replica(fileid, place=1)
    half = plot.bare_file("good_replica_unknown_and_online")
    plot.replica(half, host=HOST_OF_NO_POOL, fs="/x", sfn=f"{HOST_OF_NO_POOL}:/x/f")
    plot.replica(half, place=1)


def plant_symlinks(plot: Plot) -> None:
    plot.entry("symlink_without_target", filemode=SYMLINK_MODE, filesize=0)
    targets = {
        "symlink_target_null": None,
        "symlink_target_empty": "",
        "symlink_target_nul": "a\0b",
        "symlink_target_not_utf8": raw(b"caf\xe9"),
        "good_symlink_target_non_ascii": "/dpm/Übungen/данные",
        "good_symlink_target_backslash": "back\\slash\\101",
        "good_symlink_loop": "good_symlink_loop",
        "good_symlink_out_of_tree": "../../../../../../etc/passwd",
        "good_symlink_target_long": "/" + "t" * 4000,
    }
    for case, target in targets.items():
        plot.symlink(case, target)
    plot.rows.append(Symlink(plot.file("good_symlink_row_on_file"), "/dpm"))
    plot.rows.append(Symlink(plot.directory("good_symlink_row_on_directory"), "/dpm"))
    plot.replica(plot.symlink("good_symlink_with_replica", "/dpm"))


THEMES = (
    plant_names,
    plant_tree,
    plant_numbers,
    plant_status,
    plant_acls,
    plant_xattrs,
    plant_checksums,
    plant_replicas,
    plant_symlinks,
)


async def plant_rot(maria: MariaServer, cns: str, dpm: str, domain: str) -> dict[str, tuple[int, ...]]:
    """Insert all specimens below /dpm/<domain>/home/rotten; returns their fileids by case.

    The catalog must have that home directory (or the root alone) and at least two file systems.
    Every case is also the name of its entry where the name is not itself the specimen.
    """
    known = await maria.fetch(f"SELECT poolname, server, fs, status FROM `{dpm}`.dpm_fs ORDER BY rowid")
    filesystems = [FileSystem._make(row) for row in known]
    ((base,),) = await maria.fetch(f"SELECT id FROM `{cns}`.Cns_unique_id")
    home = await _find_home(maria, cns, domain)
    plot = Plot(base + 1000, home, filesystems)
    for plant in THEMES:
        plant(plot)
    async with BulkLoader(maria) as loader:
        await loader.load(cns, iter(plot.with_link_counts()))
        await loader.execute(f"UPDATE `{cns}`.Cns_file_metadata SET nlink = nlink + 1 WHERE fileid = {home}")
        await loader.execute(f"UPDATE `{cns}`.Cns_unique_id SET id = {base + 1000 + len(plot.rows)}")
        await _plant_tokens(loader, dpm, domain, filesystems[0].pool)
    return {case: tuple(fileids) for case, fileids in plot.cases.items()}


async def _plant_tokens(loader: BulkLoader, dpm: str, domain: str, pool: str) -> None:
    """Quota tokens whose path leads nowhere, to a file, or is not UTF-8."""
    rotten = f"/dpm/{domain}/home/rotten"
    paths: Iterable[str] = (
        f"{rotten}/no such directory",
        f"{rotten}/good_mode_zero",
        rotten + raw(b"/d\xff"),
        "relative/path",
        "",
    )
    rows = [
        (f"deadbeef-0000-0000-0000-{number:012d}", f"ROTTEN{number}", 10**12, 10**12, -5, pool, "0", path)
        for number, path in enumerate(paths)
    ]
    await loader.insert(
        f"`{dpm}`.dpm_space_reserv (s_token, u_token, t_space, g_space, u_space, poolname, `groups`, path)",
        rows,
    )


async def _find_home(maria: MariaServer, cns: str, domain: str) -> int:
    here = 1
    for name in ("dpm", domain, "home"):
        found = await maria.fetch(
            f"SELECT fileid FROM `{cns}`.Cns_file_metadata WHERE parent_fileid = %s AND name = %s",
            (here, name),
        )
        if not found:
            return 1
        here = int(found[0][0])
    return here
