"""The benchmark that the documents quote still runs; its figures are nobody's concern here."""

from __future__ import annotations

import asyncio
import sys

import pytest


@pytest.mark.long
async def test_benchmark_of_the_first_copy_prints_a_ratio() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.snapshot", "--sizes", "300", "--rounds", "1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert "ratio" in out.decode()
