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


async def test_benchmark_of_authentication_prints_figures_of_every_check_and_handshake() -> None:
    options = ("--files", "100", "--clients", "2", "--seconds", "0.05", "--rounds", "1")
    checks, connections = (await output_of("benchmarks.auth", *options)).split("Over TLS 1.3")
    assert [line.rsplit(maxsplit=2)[0] for line in checks.splitlines()[-8:] if line] == [
        "token RS256, seen for the first time",
        "token RS256, remembered",
        "token ES256, seen for the first time",
        "token ES256, remembered",
        "XrdHttp request",
        "chain, certificate",
        "chain, proxy with VOMS",
    ]
    rows = [line.rsplit(maxsplit=3) for line in connections.splitlines()[-8:]]
    assert {row[0].split(",")[0] for row in rows} == {
        "connection",
        "getstatinfo by certificate",
        "getstatinfo by token",
    }
    assert all(float(row[2].replace(",", "")) > 0 for row in rows)


@pytest.mark.long
async def test_benchmark_of_the_cutover_prints_the_length_of_the_fence() -> None:
    out = await output_of("benchmarks.cutover", "--sizes", "300")
    assert float(out.splitlines()[-1].removeprefix("fence in all")) > 0


async def test_benchmark_of_the_api_prints_figures_of_uploads_and_downloads() -> None:
    options = ("--files", "100", "--clients", "1,2", "--seconds", "0.1", "--only", "^put|^get$")
    out = await output_of("benchmarks.dome_api", *options)
    rows = [line.rsplit(maxsplit=6) for line in out.splitlines()[-4:]]
    assert [(row[0], row[1]) for row in rows] == [
        (case, clients) for clients in "12" for case in ("put, then putdone", "get")
    ]
    assert all(float(figure.replace(",", "")) > 0 for row in rows for figure in row[2:])


async def test_benchmark_of_the_links_prints_ratios() -> None:
    out = await output_of("benchmarks.links", "--files", "50")
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        "cp -al",
        "dpm-pool-link link",
        "dpm-pool-link link, all there",
        "dpm-pool-link undo",
        "dpm-pool-link verify",
    ]
