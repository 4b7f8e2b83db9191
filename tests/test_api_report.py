"""What the API's process reports to the mirror's, over a real Unix socket."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.api_report import Report, read_report, served_report


@pytest.fixture
def path() -> Iterator[Path]:
    # A socket's path is short.
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "report"


@given(
    st.none() | st.text(st.characters(exclude_categories=()), min_size=1),
    st.lists(st.binary().filter(lambda line: b"\n" not in line)),
)
def test_report_arrives_as_it_was_but_for_blanks(sickness: str | None, lines: list[bytes]) -> None:
    exposition = b"".join(line + b"\n" for line in lines)
    said = " ".join((sickness or "").encode(errors="replace").decode().split()) or None
    assert Report.of(Report(said, exposition).text()) == Report(said, exposition)


@given(st.integers(min_value=0))
def test_report_that_was_cut_in_a_line_is_refused(size: int) -> None:
    whole = Report("the database\nis away", b"metric 1\nother 22\n").text()
    part = whole[: size % len(whole)]
    if part.endswith(b"\n"):
        assert whole.startswith(Report.of(part).text())
    else:
        with pytest.raises(ValueError, match="cut short"):
            Report.of(part)


async def test_each_reader_gets_the_report_of_its_moment(path: Path) -> None:
    numbers = iter(range(10))
    large = b"x" * 1_000_000
    async with served_report(path, lambda: Report(None, b"metric %d %s\n" % (next(numbers), large))):
        assert await read_report(path) == Report(None, b"metric 0 %s\n" % large)
        assert await read_report(path) == Report(None, b"metric 1 %s\n" % large)


async def test_reason_is_one_line(path: Path) -> None:
    async with served_report(path, lambda: Report("the database\nis away", b"metric 1\n")):
        assert await read_report(path) == Report("the database is away", b"metric 1\n")


async def test_socket_of_a_process_that_was_killed_is_replaced(path: Path) -> None:
    left_behind = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", f"import socket; socket.socket(socket.AF_UNIX).bind({str(path)!r})")
    )
    await left_behind.wait()
    assert (await read_report(path)).sickness == "the DOME API does not answer: Connection refused"
    async with served_report(path, lambda: Report(None)):
        assert await read_report(path) == Report(None)


async def test_api_that_is_not_there_is_a_reason(path: Path) -> None:
    assert await read_report(path) == Report("the DOME API does not answer: it is not started")


async def test_api_that_hangs_is_a_reason_in_time(path: Path) -> None:
    hanging = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hanging.wait()
        writer.close()

    async with await asyncio.start_unix_server(hang, path):
        report = await read_report(path, seconds=0.1)
        hanging.set()
    assert report == Report("the DOME API does not answer within 0.1 s")
