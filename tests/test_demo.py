"""The demo, as an administrator would start it: a whole migration with the real command line."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.api_clients import ADMINISTRATOR, ApiUser, ClientReport, DomeAnswer, DomeClient
from sandbox.demo_score import Score
from sandbox.pool_links import PoolLinks

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
    assert re.search(r"rolled back +│ DPM is written to, and followed", output)
    linked = r"links made +│ [1-9]\d*, [1-9]\d* with the adler32 that Chimera says *│?$"
    assert re.search(linked, output, re.M)
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
        {"summed": 0},
        {"returned": False},
        {"api": ClientReport(taken=0, refused=2, read_meanwhile=1)},
        {"api": ClientReport(taken=5, refused=0, read_meanwhile=1)},
        {"api": ClientReport(taken=5, refused=2, read_meanwhile=0)},
        {"api": ClientReport(taken=5, refused=2, read_meanwhile=1, complaints=["dome_getdir: 418"])},
    ],
)
def test_single_flaw_spoils_the_score(changes: dict[str, Any]) -> None:
    api = ClientReport(taken=5, refused=2, read_meanwhile=1)
    good = Score(source=12, mirrored=10, quarantined=2, links=8, summed=8, api=api, returned=True)
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


CONTENT = b"12345"
ADLER32 = f"{zlib.adler32(CONTENT):08x}"


def _pool_links(fs: Path, size: int = 5, adler32: str = ADLER32, *, linked: bool = True) -> PoolLinks:
    pool = {"name": "p", "server": "disk01", "fs": str(fs), "dpm_pool": "data", "path": f"{fs}/dcache/p"}
    (fs / "file").write_bytes(CONTENT)
    if linked:
        (fs / "dcache/p/data").mkdir(parents=True)
        (fs / "dcache/p/data" / PNFSID).hardlink_to(fs / "file")
    sfn = f"disk01:{fs}/file".encode()
    return PoolLinks([pool], [(7, size, b"data", b"disk01", sfn, adler32.encode(), None)])


def test_link_with_size_and_checksum_of_chimera_is_good(tmp_path: Path) -> None:
    links = _pool_links(tmp_path)
    located = [(PNFSID, 5, "p", ADLER32)]
    links.look(located)
    links.expect_no_other(located)
    links.expect_all_linked(except_for=set())
    assert (links.links, links.summed, links.complaints) == (1, 1, [])


@pytest.mark.parametrize("row", [(PNFSID, 6, "p", ADLER32), (PNFSID, 5, "p", "00000bad")])
def test_size_or_checksum_that_differs_in_chimera_is_a_complaint(
    tmp_path: Path, row: tuple[str, int, str, str | None]
) -> None:
    links = _pool_links(tmp_path)
    links.look([row])
    assert len(links.complaints) == 1


def test_checksum_that_dpm_has_wrong_itself_is_no_complaint(tmp_path: Path) -> None:
    links = _pool_links(tmp_path, adler32="00000bad")
    links.look([(PNFSID, 5, "p", "00000bad")])
    assert (links.summed, links.complaints) == (0, [])


def test_real_file_without_a_link_is_a_complaint(tmp_path: Path) -> None:
    links = _pool_links(tmp_path, linked=False)
    links.look([(PNFSID, 5, "p", ADLER32)])
    assert len(links.complaints) == 1


def test_file_without_location_is_a_complaint_unless_listed(tmp_path: Path) -> None:
    links = _pool_links(tmp_path, linked=False)
    links.expect_all_linked(except_for={7})
    assert links.complaints == []
    links.expect_all_linked(except_for=set())
    assert len(links.complaints) == 1


def test_link_that_chimera_does_not_know_is_a_complaint(tmp_path: Path) -> None:
    links = _pool_links(tmp_path)
    links.expect_no_other([])
    assert len(links.complaints) == 1


def test_row_without_such_a_file_is_only_counted(tmp_path: Path) -> None:
    links = _pool_links(tmp_path, 2**31, linked=False)
    links.look([(PNFSID, 2**31, "p", None)])
    assert (links.without_file, links.complaints, links.links) == (1, [], 0)
