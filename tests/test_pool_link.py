"""`dpm-pool-link` on real directories: what it links, what it leaves alone, what it says."""

from __future__ import annotations

import ast
import errno
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.pool_link import CURSOR, PROGRAM, DiskServer, adler32, pnfsid, program

STANDARD_LIBRARY = {
    *("argparse", "concurrent", "contextlib", "errno", "fcntl", "http", "io", "itertools", "json", "os"),
    *("random", "re", "signal", "socket", "sqlite3", "ssl", "stat", "sys", "threading", "time", "typing"),
    *("urllib", "zlib"),
}
LATER = {"removeprefix", "removesuffix", "isascii", "is_relative_to", "cached_property", "walrus"}


@pytest.fixture
def disk(tmp_path: Path) -> DiskServer:
    server = DiskServer(tmp_path)
    server.fs.mkdir()
    return server


# --- the file itself


def test_program_is_valid_for_python_3_6_with_the_standard_library_alone() -> None:
    tree = ast.parse(PROGRAM.read_text(encoding="utf-8"), feature_version=(3, 6))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= STANDARD_LIBRARY
    assert "annotations" not in PROGRAM.read_text(encoding="utf-8").partition("class ")[0]
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & LATER


def test_program_is_executable_and_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert os.access(PROGRAM, os.X_OK)
    with pytest.raises(SystemExit) as ended:
        program.main(["--help"])
    assert ended.value.code == 0
    assert {"link", "verify", "undo", "cursor"} <= set(capsys.readouterr().out.split())


def test_every_problem_has_a_remedy() -> None:
    assert set(program.ERRNO_PROBLEMS.values()) <= set(program.REMEDIES)


# --- lines


paths = st.binary(min_size=1, max_size=80).map(lambda path: b"/srv/" + path)


@given(paths, st.integers(0, 2**63 - 1), st.integers(1, 2**62), st.booleans())
def test_line_is_read_as_it_was_written(pfn: bytes, size: int, fileid: int, deleted: bool) -> None:
    row = {
        "pnfsid": pnfsid(fileid),
        "pfn": pfn.decode("utf-8", "surrogateescape"),
        "size": size,
        "op": "unlink",
        "deleted": deleted,
        "pool": "p",
        "fs": "/srv",
        "path": "/srv/dcache/p",
    }
    line = program.parse(json.dumps(row))
    assert (line.pfn, line.size, line.pnfsid, line.deleted) == (pfn, size, row["pnfsid"], deleted)


@pytest.mark.parametrize(
    "change",
    [
        {"pnfsid": "../../etc/passwd"},
        {"pnfsid": pnfsid(255).lower()},
        {"pnfsid": "0" * 36},
        {"pnfsid": pnfsid(1) + "\n"},
        {"op": "remove"},
        {"size": -1},
        {"size": "7"},
        {"pool": None, "path": None},
    ],
)
def test_line_that_is_none_is_refused_and_nothing_is_done(disk: DiskServer, change: dict[str, Any]) -> None:
    disk.file(1)
    assert disk.links([{**disk.line(1), **change}]) == 2
    assert disk.names() == []


@given(st.text(alphabet="ab./", max_size=12))
def test_only_plain_paths_below_the_file_system_are_inside(rest: str) -> None:
    path = b"/srv/" + rest.encode()
    inside = program.is_inside(path, b"/srv")
    assert inside == (not {"..", "."} & set(rest.split("/")))
    assert not program.is_inside(path, b"/sr")
    assert not program.is_inside(b"srv/" + rest.encode(), b"/srv")


# --- linking


def test_links_are_made_beside_the_files(disk: DiskServer) -> None:
    files = [disk.file(number) for number in (1, 2, 255)]
    assert disk.links([disk.line(number) for number in (1, 2, 255)]) == 0
    assert disk.names() == [pnfsid(1), pnfsid(2), pnfsid(255)]
    assert all(disk.link(n).samefile(file) for n, file in zip((1, 2, 255), files, strict=True))
    assert disk.report() == []


def test_second_run_changes_nothing(disk: DiskServer) -> None:
    disk.file(1)
    assert disk.links([disk.line(1)]) == 0
    before = disk.link(1).stat().st_nlink
    assert disk.links([disk.line(1)], "--full") == 0
    assert (disk.link(1).stat().st_nlink, before) == (2, 2)


def test_dry_run_changes_nothing_at_all(disk: DiskServer, capsys: pytest.CaptureFixture[str]) -> None:
    disk.file(1)
    before = sorted(path for path in disk.root.rglob("*"))
    assert disk.links([disk.line(1), disk.line(2)], "--dry-run") == 1
    after = sorted(path for path in disk.root.rglob("*") if path.name not in ("feed1", "report"))
    assert after == before
    assert "1 linked" in capsys.readouterr().err


def test_path_that_is_not_utf8_is_linked(disk: DiskServer) -> None:
    raw = os.fsencode(disk.fs) + b"/caf\xe9\n"
    Path(os.fsdecode(raw)).write_bytes(b"seven..")
    line = disk.line(1, raw.decode("utf-8", "surrogateescape"))
    assert disk.links([line]) == 0
    assert disk.link(1).read_bytes() == b"seven.."


def test_created_directories_belong_to_the_owner_of_the_file_system(disk: DiskServer) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give directories away")
    os.chown(disk.fs, 4711, 4712)
    disk.file(1)
    disk.links([disk.line(1)])
    for path in (disk.fs / "dcache", disk.pool_path(), disk.data()):
        assert (path.stat().st_uid, path.stat().st_gid) == (4711, 4712)


@pytest.mark.parametrize("found", [b"", b"sixsix", b"eight888"])
def test_file_of_another_size_is_reported_and_not_linked(disk: DiskServer, found: bytes) -> None:
    disk.file(1, found)
    assert disk.links([disk.line(1)]) == 1
    assert disk.names() == []
    [row] = disk.report()
    assert (row["problem"], row["size"], row["found"]) == ("size", 7, len(found))
    assert row["pfn"] == disk.line(1)["pfn"]


def test_link_goes_when_the_catalog_gets_another_size_than_the_file(disk: DiskServer) -> None:
    file = disk.file(1)
    disk.links([disk.line(1)])
    assert disk.links([disk.line(1, size=8)]) == 1
    assert (disk.problems(), disk.names(), file.stat().st_nlink) == (["size"], [], 1)
    file.write_bytes(b"eight888")
    assert disk.links([]) == 0
    assert disk.names() == [pnfsid(1)]


def test_last_name_stays_whatever_size_the_catalog_gets(disk: DiskServer) -> None:
    file = disk.file(1)
    disk.links([disk.line(1)])
    file.unlink()
    disk.file(1, b"eight888")
    assert disk.links([disk.line(1)]) == 1
    assert disk.link(1).read_bytes() == b"seven.."


def test_missing_file_is_reported_until_it_is_there(disk: DiskServer) -> None:
    disk.file(1)
    assert disk.links([disk.line(1), disk.line(2)]) == 1
    assert [(row["problem"], row["pnfsid"]) for row in disk.report()] == [("missing", pnfsid(2))]
    disk.file(2)
    assert disk.links([]) == 0
    assert disk.link(2).exists()
    assert disk.report() == []


def test_empty_file_is_linked(disk: DiskServer) -> None:
    disk.file(1, b"")
    assert disk.links([disk.line(1, size=0)]) == 0
    assert disk.names() == [pnfsid(1)]


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo"])
def test_what_is_no_file_is_reported_and_not_linked(disk: DiskServer, kind: str) -> None:
    path = disk.file(1).with_name("odd")
    match kind:
        case "symlink":
            path.symlink_to("f.1")
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
    assert disk.links([disk.line(1, path, size=path.lstat().st_size)]) == 1
    assert disk.problems() == ["not-a-file"]
    assert disk.names() == []


@pytest.mark.parametrize("path", ["/etc/hostname", "{fs}/../etc", "{fs}2/f", "{fs}/./f", "{fs}", "f"])
def test_path_outside_of_its_file_system_is_reported(disk: DiskServer, path: str) -> None:
    disk.file(1)
    assert disk.links([disk.line(1), disk.line(2, path.format(fs=disk.fs))]) == 1
    assert disk.problems() == ["outside"]


def test_path_inside_of_the_pool_is_no_path_of_dpm(disk: DiskServer) -> None:
    disk.file(1)
    disk.links([disk.line(1)])
    assert disk.links([disk.line(2, disk.link(1))]) == 1
    assert disk.problems() == ["outside"]


def test_pool_outside_of_its_file_system_is_left_alone(disk: DiskServer) -> None:
    disk.file(1)
    assert disk.links([{**disk.line(1), "path": str(disk.root / "elsewhere")}]) == 2
    assert not (disk.root / "elsewhere").exists()


def test_file_on_another_file_system_is_reported(disk: DiskServer, other_fs: Path) -> None:
    disk.file(1)
    (other_fs / "f").write_bytes(b"seven..")
    (disk.fs / "mounted").symlink_to(other_fs)
    assert disk.links([disk.line(1), disk.line(2, disk.fs / "mounted" / "f")]) == 1
    assert disk.problems() == ["other-filesystem"]


def test_pool_on_another_file_system_is_left_alone(disk: DiskServer, other_fs: Path) -> None:
    disk.file(1)
    (other_fs / "data").mkdir()
    (disk.fs / "dcache").mkdir()
    disk.pool_path().symlink_to(other_fs)
    assert disk.links([disk.line(1)]) == 2
    assert not [*(other_fs / "data").iterdir()]


def test_data_directory_that_is_a_symbolic_link_is_not_followed(disk: DiskServer) -> None:
    disk.file(1)
    disk.pool_path().mkdir(parents=True)
    (disk.root / "trap").mkdir()
    disk.data().symlink_to(disk.root / "trap")
    assert disk.links([disk.line(1)]) == 2
    assert not [*(disk.root / "trap").iterdir()]


@pytest.fixture
def other_fs(disk: DiskServer) -> Iterator[Path]:
    """A directory on another file system than the temporary one."""
    for parent in ("/dev/shm", "/tmp", str(Path.home())):
        if Path(parent).is_dir() and Path(parent).stat().st_dev != disk.fs.stat().st_dev:
            with tempfile.TemporaryDirectory(dir=parent) as directory:
                yield Path(directory)
            return
    pytest.skip("/dev/shm, /tmp and the home directory are on one file system")


def test_name_that_stands_for_another_file_is_never_touched(disk: DiskServer) -> None:
    disk.file(1)
    disk.data().mkdir(parents=True)
    disk.link(1).write_bytes(b"precious")
    assert disk.links([disk.line(1)]) == 1
    assert disk.problems() == ["occupied"]
    assert disk.link(1).read_bytes() == b"precious"


def test_link_follows_a_file_that_dpm_has_replaced(disk: DiskServer) -> None:
    file = disk.file(1)
    disk.links([disk.line(1)])
    file.rename(disk.fs / "kept")
    disk.file(1, b"renewed")
    assert disk.links([disk.line(1)]) == 0
    assert disk.link(1).read_bytes() == b"renewed"


def test_replaced_file_whose_old_data_have_no_other_name_stays_as_it_is(disk: DiskServer) -> None:
    file = disk.file(1)
    disk.links([disk.line(1)])
    file.unlink()
    disk.file(1, b"renewed")
    assert disk.links([disk.line(1)]) == 1
    assert disk.problems() == ["occupied"]
    assert disk.link(1).read_bytes() == b"seven.."


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (errno.EMLINK, "too-many-links"),
        (errno.EPERM, "not-permitted"),
        (errno.EACCES, "no-access"),
        (errno.EXDEV, "other-filesystem"),
        (errno.ENOENT, "missing"),
        (errno.EIO, "error"),
    ],
)
def test_refusal_of_one_link_is_reported_and_the_others_are_made(
    disk: DiskServer, monkeypatch: pytest.MonkeyPatch, number: int, problem: str
) -> None:
    for fileid in (1, 2, 3):
        disk.file(fileid)
    real = os.link

    def link(source: bytes, name: bytes, **options: Any) -> None:
        if source.endswith(b".2"):
            raise OSError(number, os.strerror(number))
        real(source, name, **options)

    monkeypatch.setattr(os, "link", link)
    assert disk.links([disk.line(fileid) for fileid in (1, 2, 3)]) == 1
    assert disk.problems() == [problem]
    assert disk.names() == [pnfsid(1), pnfsid(3)]
    monkeypatch.undo()
    assert disk.links([]) == 0
    assert len(disk.names()) == 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_file_system_that_takes_no_names_is_left_alone_and_tried_again(
    disk: DiskServer, monkeypatch: pytest.MonkeyPatch, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    second = disk.root / "fs2"
    second.mkdir()
    for fileid in (1, 2):
        disk.file(fileid)
    disk.file(3, fs=second)
    lines = [disk.line(1), disk.line(2), disk.line(3, fs=second, pool="pool2")]
    real = os.link

    def link(source: bytes, name: bytes, **options: Any) -> None:
        if b"/fs1/" in source:
            raise OSError(number, os.strerror(number))
        real(source, name, **options)

    monkeypatch.setattr(os, "link", link)
    assert disk.links(lines) == 2
    assert "pool1" in capsys.readouterr().err
    assert (disk.data("pool2", second) / pnfsid(3)).exists()
    assert disk.problems() == []
    monkeypatch.undo()
    program.main(["cursor", "--state", str(disk.state)])
    assert capsys.readouterr().out == "\n", "the next feed must have these lines again"
    assert disk.links(lines) == 0
    assert len(disk.names()) == 2


def test_file_exchanged_while_it_is_linked_is_looked_at_again(
    disk: DiskServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = disk.file(1)
    real = os.link

    def link(source: bytes, name: bytes, **options: Any) -> None:
        monkeypatch.undo()
        file.rename(file.with_name("old"))
        disk.file(1, b"too long now")
        real(source, name, **options)

    monkeypatch.setattr(os, "link", link)
    assert disk.links([disk.line(1)]) == 1
    assert disk.problems() == ["size"]
    assert disk.names() == []


# --- file systems that are not there


def test_unmounted_file_system_is_no_loss_of_files(disk: DiskServer) -> None:
    assert disk.links([disk.line(number) for number in range(1, 5)]) == 2
    assert disk.problems() == []
    assert not (disk.fs / "dcache").exists()


def test_many_missing_files_before_the_first_link_are_not_believed(disk: DiskServer) -> None:
    (disk.fs / "lost+found").mkdir()
    assert disk.links([disk.line(number) for number in range(1, 30)]) == 2
    assert disk.problems() == []


def test_file_system_that_had_links_and_has_no_data_directory_is_unmounted(disk: DiskServer) -> None:
    disk.file(1)
    disk.links([disk.line(1)])
    disk.fs.rename(disk.root / "gone")
    disk.fs.mkdir()
    disk.file(2)
    assert disk.links([disk.line(2), disk.line(3)]) == 2
    assert disk.problems() == []
    assert not (disk.fs / "dcache").exists()


def test_missing_file_system_is_named(disk: DiskServer, capsys: pytest.CaptureFixture[str]) -> None:
    disk.fs.rmdir()
    assert disk.links([disk.line(1)]) == 2
    assert "mount" in capsys.readouterr().err


# --- deletions


def test_file_that_dpm_deleted_loses_its_last_name(disk: DiskServer) -> None:
    file = disk.file(1)
    disk.links([disk.line(1)])
    file.unlink()
    assert disk.links([disk.unlink_line(1)]) == 0
    assert disk.names() == []
    assert disk.problems() == []


def test_last_name_stays_when_asked_for(disk: DiskServer) -> None:
    file = disk.file(1)
    disk.links([disk.line(1)])
    file.unlink()
    assert disk.links([disk.unlink_line(1)], "--keep-last-names") == 1
    assert disk.problems() == ["last-name"]
    assert disk.names() == [pnfsid(1)]


def test_last_name_of_a_file_that_dpm_still_has_in_its_catalog_stays(disk: DiskServer) -> None:
    file = disk.file(1)
    disk.links([disk.line(1)])
    file.unlink()
    assert disk.links([disk.unlink_line(1, deleted=False)]) == 1
    assert disk.problems() == ["last-name"]
    assert disk.link(1).read_bytes() == b"seven.."


@pytest.mark.parametrize("claim", ["true", 1, "yes", None, [True]])
def test_only_a_plain_true_allows_to_remove_a_last_name(disk: DiskServer, claim: object) -> None:
    file = disk.file(1)
    disk.links([disk.line(1)])
    file.unlink()
    assert disk.links([disk.line(1, op="unlink", deleted=claim)]) == 1
    assert disk.link(1).exists()


def test_withheld_file_loses_the_link_and_keeps_its_own_name(disk: DiskServer) -> None:
    file = disk.file(1)
    disk.links([disk.line(1)])
    assert disk.links([disk.unlink_line(1, deleted=False)]) == 0
    assert (disk.names(), file.stat().st_nlink) == ([], 1)


def test_name_that_was_not_made_here_is_never_removed(disk: DiskServer) -> None:
    disk.data().mkdir(parents=True)
    disk.link(1).write_bytes(b"of dCache")
    assert disk.links([disk.unlink_line(1)]) == 1
    assert disk.problems() == ["foreign"]
    assert disk.link(1).read_bytes() == b"of dCache"


def test_name_that_dcache_has_written_anew_is_never_removed(disk: DiskServer) -> None:
    file = disk.file(1)
    disk.links([disk.line(1)])
    file.unlink()
    disk.link(1).rename(disk.root / "elsewhere")
    disk.link(1).write_bytes(b"a copy of dCache")
    assert disk.links([disk.unlink_line(1)]) == 1
    assert disk.problems() == ["foreign"]


@pytest.mark.parametrize("kind", ["symlink", "directory"])
def test_odd_things_in_the_pool_are_never_removed(disk: DiskServer, kind: str) -> None:
    disk.data().mkdir(parents=True)
    if kind == "symlink":
        disk.link(1).symlink_to("nowhere")
    else:
        disk.link(1).mkdir()
    assert disk.links([disk.unlink_line(1)]) == 1
    assert disk.names() == [pnfsid(1)]


def test_two_links_of_one_file_without_dpms_name_do_not_both_go(disk: DiskServer) -> None:
    file = disk.file(1)
    disk.links([disk.line(1), disk.line(1, pool="pool2")])
    file.unlink()
    lines = [disk.unlink_line(1, deleted=False), disk.unlink_line(1, deleted=False, pool="pool2")]
    assert disk.links(lines) == 1
    assert len(disk.names("pool1") + disk.names("pool2")) == 1


def test_deletion_between_publication_and_link_leaves_nothing(disk: DiskServer) -> None:
    disk.file(1)
    disk.file(2)
    feed = [disk.line(1), disk.line(2)]
    Path(disk.line(2)["pfn"]).unlink()
    assert disk.links(feed) == 1
    assert disk.problems() == ["missing"]
    assert disk.links([disk.unlink_line(2)]) == 0
    assert disk.problems() == []
    assert disk.names() == [pnfsid(1)]


def test_rescued_data_are_named_in_the_report(disk: DiskServer) -> None:
    file = disk.file(1)
    disk.links([disk.line(1)])
    file.unlink()
    assert disk.links([disk.line(1)], "--full") == 1
    [row] = disk.report()
    assert row["problem"] == "missing"
    assert "7 bytes" in row["detail"]
    assert disk.link(1).exists()


def test_replica_that_was_reported_is_looked_at_again(disk: DiskServer) -> None:
    disk.file(1)
    assert disk.links([disk.unlink_line(1, deleted=False, recheck=True)]) == 1
    assert disk.problems() == ["found"]
    assert disk.links([disk.line(1)]) == 0
    assert disk.names() == [pnfsid(1)]


def test_dpms_names_are_never_touched(disk: DiskServer) -> None:
    files = {disk.file(number): number for number in range(1, 20)}
    before = {file: (file.stat().st_ino, file.stat().st_mtime_ns, file.stat().st_mode) for file in files}
    disk.links([disk.line(number) for number in files.values()])
    disk.links([disk.unlink_line(number, deleted=number % 2 == 0) for number in files.values()])
    disk.run("undo")
    assert {f: (f.stat().st_ino, f.stat().st_mtime_ns, f.stat().st_mode) for f in files} == before


# --- the feed


def test_feed_without_a_cursor_is_not_complete(disk: DiskServer, capsys: pytest.CaptureFixture[str]) -> None:
    disk.file(1)
    feed = disk.feed([disk.line(1)], cursor=None)
    assert program.main(disk.arguments("link", feed=feed)) == 2
    assert "run again" in capsys.readouterr().err
    assert disk.names() == [pnfsid(1)]


def test_cursor_is_remembered_and_printed(disk: DiskServer, capsys: pytest.CaptureFixture[str]) -> None:
    disk.file(1)
    disk.links([disk.line(1)])
    assert program.main(["cursor", "--state", str(disk.state)]) == 0
    assert capsys.readouterr().out == f"{CURSOR}\n"


def test_second_run_at_a_time_is_refused(disk: DiskServer, capsys: pytest.CaptureFixture[str]) -> None:
    with program.opened_memory(str(disk.state), False):
        assert disk.links([]) == 2
    assert "another dpm-pool-link works" in capsys.readouterr().err


def test_damaged_memory_is_told_in_a_line(disk: DiskServer, capsys: pytest.CaptureFixture[str]) -> None:
    disk.state.mkdir()
    (disk.state / "links.db").write_bytes(b"no database at all, but long enough" * 100)
    assert disk.links([]) == 2
    assert "--state" in capsys.readouterr().err


# --- verify


def test_verify_finds_nothing_where_all_is_as_it_has_to_be(disk: DiskServer) -> None:
    lines = [disk.line(number, adler32=adler32(b"seven..")) for number in range(1, 6)]
    for number in range(1, 6):
        disk.file(number)
    disk.links(lines)
    assert disk.run("verify", [*lines, disk.unlink_line(9)], "--adler32", "3") == 0
    assert disk.report() == []


def test_verify_names_every_kind_of_difference(disk: DiskServer) -> None:
    for number in range(1, 8):
        disk.file(number)
    lines = [disk.line(number, adler32=adler32(b"seven..")) for number in range(1, 7)]
    disk.links([*lines, disk.line(7), disk.line(8)])
    disk.link(1).unlink()
    disk.link(2).unlink()
    disk.link(2).write_bytes(b"seven..")
    disk.file(3, b"longer than that")
    disk.file(4).unlink()
    disk.file(5, b"se7en..")
    (disk.data() / pnfsid(99)).write_bytes(b"")
    assert disk.run("verify", [*lines, disk.unlink_line(7)], "--adler32", "10") == 1
    assert {(row["problem"], int(row["pnfsid"][20:], 16)) for row in disk.report()} == {
        ("not-linked", 1),
        ("other-inode", 2),
        ("size", 3),
        ("missing", 4),
        ("checksum", 5),
        ("left-over", 7),
        ("stranger", 99),
    }


def test_verify_changes_nothing(disk: DiskServer) -> None:
    disk.file(1)
    disk.run("verify", [disk.line(1), disk.unlink_line(2)])
    assert not (disk.fs / "dcache").exists()
    assert not disk.state.exists()


# --- undo


def test_undo_removes_the_links_and_their_directories(disk: DiskServer) -> None:
    files = [disk.file(number) for number in (1, 2)]
    disk.links([disk.line(1), disk.line(2)])
    assert disk.run("undo") == 0
    assert not disk.pool_path().exists()
    assert [file.stat().st_nlink for file in files] == [1, 1]
    assert disk.links([disk.line(1)]) == 0, "and it can begin again"


def test_undo_keeps_what_it_did_not_make_and_last_names(disk: DiskServer) -> None:
    for number in (1, 2, 3):
        disk.file(number)
    disk.links([disk.line(number) for number in (1, 2, 3)])
    Path(disk.line(1)["pfn"]).unlink()
    disk.link(2).unlink()
    disk.link(2).write_bytes(b"other")
    (disk.data() / "note").write_text("mine")
    assert disk.run("undo") == 1
    assert sorted(disk.problems()) == ["foreign", "last-name"]
    assert disk.names() == [pnfsid(1), pnfsid(2), "note"]


def test_undo_does_nothing_when_dry(disk: DiskServer) -> None:
    disk.file(1)
    disk.links([disk.line(1)])
    assert disk.run("undo", None, "--dry-run") == 0
    assert disk.names() == [pnfsid(1)]


def test_undo_of_a_pool_that_dcache_has_used_needs_a_word(disk: DiskServer) -> None:
    disk.file(1)
    disk.links([disk.line(1)])
    (disk.pool_path() / "meta").mkdir()
    assert disk.run("undo") == 2
    assert disk.names() == [pnfsid(1)]
    assert disk.run("undo", None, "--even-if-started") == 0
    assert disk.names() == []


def test_state_of_an_older_link_is_kept_when_the_file_is_exchanged_twice(disk: DiskServer) -> None:
    """A note of a link that is gone must not outlive it."""
    file = disk.file(1)
    disk.links([disk.line(1)])
    disk.link(1).unlink()
    file.rename(disk.fs / "kept")
    file = disk.file(1, b"renewed")
    assert disk.links([disk.line(1)]) == 0
    file.unlink()
    assert disk.links([disk.unlink_line(1)]) == 0
    assert disk.names() == []
    database = sqlite3.connect(disk.state / "links.db")
    assert database.execute("SELECT count(*) FROM made").fetchone() == (0,)
    database.close()


# --- many


@pytest.mark.long
def test_hundred_thousand_files_killed_again_and_again_are_all_linked(disk: DiskServer) -> None:
    number = 100_000
    folder = disk.file(1).parent
    for fileid in range(1, number + 1):
        (folder / f"f.{fileid}").write_bytes(b"seven..")
    feed = disk.feed(disk.line(fileid) for fileid in range(1, number + 1))
    command = [sys.executable, str(PROGRAM), *disk.arguments("link", feed=feed)]
    for seconds in (0.3, 0.7, 1.1):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            time.sleep(seconds)
            process.kill()
    before = len(disk.names())
    assert 0 < before < number, "it was killed in the middle"
    assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0
    assert len(disk.names()) == number
    assert all(path.stat().st_nlink == 2 for path in folder.iterdir())
    gone = range(1, number + 1, 2)
    for fileid in gone:
        (folder / f"f.{fileid}").unlink()
    assert disk.links(disk.unlink_line(fileid) for fileid in gone) == 0
    assert len(disk.names()) == number // 2
    assert disk.run("undo") == 0
    assert disk.names() == []
