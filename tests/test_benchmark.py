"""The benchmarks that the documents quote still run; their figures are nobody's concern here."""

from __future__ import annotations

import asyncio
import sys

import pytest


async def output_of(benchmark: str, *options: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", benchmark, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


@pytest.mark.long
async def test_benchmark_of_the_first_copy_prints_a_ratio() -> None:
    assert "ratio" in await output_of("benchmarks.snapshot", "--sizes", "300", "--rounds", "1")


async def test_benchmark_of_the_api_prints_figures_of_uploads_and_downloads() -> None:
    options = ("--files", "100", "--clients", "1,2", "--seconds", "0.1", "--only", "^put|^get$")
    out = await output_of("benchmarks.dome_api", *options)
    rows = [line.rsplit(maxsplit=6) for line in out.splitlines()[-4:]]
    assert [(row[0], row[1]) for row in rows] == [
        (case, clients) for clients in "12" for case in ("put, then putdone", "get")
    ]
    assert all(float(figure.replace(",", "")) > 0 for row in rows for figure in row[2:])
