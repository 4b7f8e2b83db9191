"""The demo, as an administrator would start it: a whole migration with the real command line."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.demo import Disks, Score

PROJECT = Path(__file__).parent.parent
SECONDS = 280


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
    assert "Traceback" not in output
    assert not _directory_in(output).exists()
    assert max(map(len, output.splitlines())) <= 100


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_site_leaves_nothing_behind(number: signal.Signals) -> None:
    serve = await _start("sandbox.serve", "--files", "100")
    assert serve.stdout is not None
    seen = ""
    async with asyncio.timeout(SECONDS):
        while "Ctrl-C ends everything" not in seen:
            line = await serve.stdout.readline()
            assert line, seen
            seen += line.decode()
        serve.send_signal(number)
        await serve.communicate()
    assert serve.returncode == 130
    directory = next(word for word in seen.split() if word.endswith("/dome-bridge.toml"))
    assert not Path(directory).parent.exists()


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
    ],
)
def test_single_flaw_spoils_the_score(changes: dict[str, Any]) -> None:
    good = Score(source=12, mirrored=10, quarantined=2, links=8)
    assert good.ok
    assert not replace(good, **changes).ok


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
