"""The demo, as an administrator would start it: a whole migration with the real command line."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.api_clients import ADMINISTRATOR, ApiUser, ClientReport, DomeAnswer, DomeClient
from sandbox.demo import Disks, Score

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text()
SECONDS = 280
LAST_LINE = "Ctrl-C ends everything"
BETWEEN = "=== next ==="


async def _start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        cwd=PROJECT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def _directory_in(text: str) -> Path:
    """The temporary directory that demo or serve has told."""
    words = [word for word in text.split() if word.startswith("/") and "dbridge-" in word]
    return Path(words[0])


@pytest.mark.long
async def test_demo_ends_with_both_sides_in_agreement() -> None:
    demo = await _start("sandbox.demo", "--files", "300")
    async with asyncio.timeout(SECONDS):
        output = (await demo.communicate())[0].decode()
    assert demo.returncode == 0, output
    assert "source and target agree" in output
    for row in ("source entries", "mirrored", "quarantined", "mismatches", "lag before the fence", "fence"):
        assert row in output
    for row in ("DOME API, requests", "writes through the API", "refused by the fence with 503"):
        assert row in output
    assert re.search(r"answers unknown to DOME +│ none", output)
    assert "Traceback" not in output
    assert not _directory_in(output).exists()
    assert max(map(len, output.splitlines())) <= 100


async def _start_site() -> tuple[asyncio.subprocess.Process, str]:
    """A site, and what it has printed."""
    serve = await _start("sandbox.serve", "--files", "100")
    assert serve.stdout is not None
    seen = ""
    async with asyncio.timeout(SECONDS):
        while LAST_LINE not in seen:
            line = await serve.stdout.readline()
            assert line, seen
            seen += line.decode()
    return serve, seen


async def _end_site(serve: asyncio.subprocess.Process, number: signal.Signals) -> None:
    async with asyncio.timeout(SECONDS):
        serve.send_signal(number)
        await serve.communicate()


@pytest.mark.long
async def test_terminated_site_leaves_nothing_behind() -> None:
    serve, seen = await _start_site()
    await _end_site(serve, signal.SIGTERM)
    assert serve.returncode == 130
    assert not _directory_in(seen).parent.exists()


@pytest.mark.long
async def test_site_does_what_its_printed_requests_promise_until_ctrl_c() -> None:
    serve, seen = await _start_site()
    lines = _api_lines(seen)
    try:
        said = await _in_a_shell(lines)
    finally:
        await _end_site(serve, signal.SIGINT)
    _require_promised(dict(zip(map(_command, lines), said, strict=True)), said)
    for line in map(_anonymous, lines):
        assert line in _anonymous(README), f"the README must show {line}"
    assert serve.returncode == 130
    assert not _directory_in(seen).parent.exists()


def _api_lines(seen: str) -> list[str]:
    """The lines that can be typed, from the address of the API on."""
    lines = [line.strip() for line in seen.splitlines()]
    return lines[next(n for n, line in enumerate(lines) if line.startswith("api=")) :][:-2]


def _command(line: str) -> str:
    return line.rpartition("/")[2] if line.startswith("as_") else line


async def _in_a_shell(lines: list[str]) -> list[str]:
    """What each line has printed."""
    shell = await asyncio.create_subprocess_exec(
        "sh",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    script = f"\necho '{BETWEEN}'\n".join(lines)
    async with asyncio.timeout(SECONDS):
        said = (await shell.communicate(script.encode()))[0].decode()
    return [part.strip() for part in said.split(BETWEEN)]


def _require_promised(by_command: dict[str, str], said: list[str]) -> None:
    assert _json(by_command["dome_getstatinfo"])["name"] == "dteam"
    identity = _json(by_command["dome_getidmap"])
    assert identity["uid"].isdigit()
    assert list(identity["groups"]) == ["dteam"]
    assert by_command["dome_makedir"] == "[200]"
    mine = {each["name"]: each for each in _json(by_command["dome_getdir"])["entries"]}["mine"]
    assert (mine["uid"], mine["mode"]) == (identity["uid"], str(0o40755))
    assert by_command["dome_unlink"] == "[200]"
    before, _, after = said[-3:]
    assert "/api/replica" in before
    assert "No such file" in after


def _json(said: str) -> dict[str, Any]:
    """The body of an answer with status 200."""
    assert said.endswith("[200]"), said
    body: dict[str, Any] = json.loads(said.removesuffix("[200]"))
    return body


def _anonymous(text: str) -> str:
    """Without what is another one each time."""
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
    return re.sub(r"/\S+/dbridge-\w+/disks/disk\d\d\.example\.org/fs\d/", "DISK/", text)


async def test_demo_of_an_impossible_size_is_refused() -> None:
    demo = await _start("sandbox.demo", "--files", "3")
    output = (await demo.communicate())[0].decode()
    assert demo.returncode == 2
    assert "100 files at least" in output


@pytest.mark.parametrize(
    "changes",
    [
        {"mirrored": 9},
        {"mismatches": 1},
        {"acceptance": ["name without inode"]},
        {"bad_links": ["0000"]},
        {"links": 0},
        {"api": ClientReport(taken=0, refused=2, read_meanwhile=1)},
        {"api": ClientReport(taken=5, refused=0, read_meanwhile=1)},
        {"api": ClientReport(taken=5, refused=2, read_meanwhile=0)},
        {"api": ClientReport(taken=5, refused=2, read_meanwhile=1, complaints=["dome_getdir: 418"])},
    ],
)
def test_single_flaw_spoils_the_score(changes: dict[str, Any]) -> None:
    api = ClientReport(taken=5, refused=2, read_meanwhile=1)
    good = Score(source=12, mirrored=10, quarantined=2, links=8, api=api)
    assert good.ok
    assert not replace(good, **changes).ok


FENCED = DomeAnswer(503, "the catalog is read-only while this site moves to dCache: try again", "10")
DONE = DomeAnswer(200)


def test_refused_writes_are_counted_and_reads_until_the_next_one_is_taken() -> None:
    report = ClientReport()
    report.note("dome_getdir", DONE)
    report.note("dome_makedir", FENCED)
    report.note("dome_getdir", DONE)
    report.note("dome_makedir", DONE)
    report.note("dome_getdir", DONE)
    assert (report.refused, report.read_meanwhile, report.taken) == (1, 1, 1)
    assert (report.requests, report.complaints) == (5, [])


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("dome_getdir", FENCED),
        ("dome_makedir", replace(FENCED, retry_after="")),
        ("dome_makedir", replace(FENCED, text="the request took too long")),
        ("dome_makedir", DomeAnswer(409)),
        ("dome_unlink", DomeAnswer(500, "dome_unlink failed: internal error")),
        ("dome_getdir", DomeAnswer(0)),
    ],
)
def test_answer_that_dome_does_not_know_is_a_complaint(command: str, answer: DomeAnswer) -> None:
    report = ClientReport()
    report.note(command, answer)
    assert len(report.complaints) == 1


def test_moved_directory_takes_what_is_below_with_it() -> None:
    user = ApiUser(DomeClient(""), ADMINISTRATOR, "/home", [], random.Random(1), "")
    user.directories, user.files, user.links = ["/a", "/a/b", "/ab"], {"/a/b/f": []}, ["/a/l"]
    user.moved("/a/b", "/c")
    assert (user.directories, list(user.files), user.links) == (["/a", "/c", "/ab"], ["/c/f"], ["/a/l"])
    user.forget("/a")
    assert (user.directories, list(user.files), user.links) == (["/c", "/ab"], ["/c/f"], [])


PNFSID = "0000ED4DC599FA477B7D" + f"{7:016X}"


def _disks(fs: Path, size: int) -> Disks:
    pool = {"name": "p", "server": "disk01", "fs": str(fs), "dpm_pool": "data", "path": f"{fs}/dcache/p"}
    (fs / "file").write_bytes(b"12345")
    return Disks([pool], [(7, size, b"data", b"disk01", f"disk01:{fs}/file".encode())])


def test_file_is_linked_under_its_id(tmp_path: Path) -> None:
    disks = _disks(tmp_path, 5)
    disks.link_all([(PNFSID, 5, "p")])
    disks.expect_all_linked(except_for=set())
    assert (disks.links, disks.complaints) == (1, [])
    assert (tmp_path / "dcache/p/data" / PNFSID).samefile(tmp_path / "file")


def test_size_that_differs_in_chimera_is_a_complaint(tmp_path: Path) -> None:
    disks = _disks(tmp_path, 5)
    disks.link_all([(PNFSID, 6, "p")])
    assert len(disks.complaints) == 1


def test_file_without_location_is_a_complaint_unless_listed(tmp_path: Path) -> None:
    disks = _disks(tmp_path, 5)
    disks.expect_all_linked(except_for={7})
    assert disks.complaints == []
    disks.expect_all_linked(except_for=set())
    assert len(disks.complaints) == 1


def test_row_without_such_a_file_is_only_counted(tmp_path: Path) -> None:
    disks = _disks(tmp_path, 2**31)
    disks.link_all([(PNFSID, 2**31, "p")])
    assert (disks.without_file, disks.complaints, disks.links) == (1, [], 0)
