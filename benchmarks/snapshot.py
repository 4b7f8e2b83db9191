"""Entries/s of the first copy, beside raw COPY of the very rows that it makes, in one run.

The copy takes the path of the service, in a process of its own, so that its peak memory is
known. The raw side is the fastest that PostgreSQL can do with the same rows in the same
schema: `COPY ... FROM` of files on the server, table after table in one session, without a
client, a source or a mapping. Both work on the same servers, each time in a new database.

    .venv/bin/python -m benchmarks.snapshot --sizes 100000,400000 --rounds 2 --follow 20000
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import asyncpg
import uvloop

from dome_bridge.chimera import target
from dome_bridge.config import ChimeraConfig, Config, DpmConfig, ExporterConfig
from dome_bridge.exporter.follow import Follower
from dome_bridge.exporter.initialise import initialise
from dome_bridge.exporter.service import Unobserved, copy_if_needed
from dome_bridge.exporter.session import open_session
from sandbox import catalog
from sandbox.chimera_schema import CHIMERA_VERSIONS, create_chimera
from sandbox.servers import MariaServer, PostgresServer
from sandbox.site import SiteOptions

CNS, DPM = "cns_db", "dpm_db"
MIRRORED, RAW = "chimera", "chimera_raw"

TABLES = (
    "t_inodes",
    "t_dirs",
    "t_tags_inodes",
    "t_tags",
    "t_locationinfo",
    "t_inodes_checksum",
    "t_inodes_data",
    "t_acl",
)
"""In an order that the foreign keys allow."""

NEW_ROWS = {"t_inodes": "WHERE inumber > 2", "t_dirs": "WHERE ichild > 2"}
"""Without root and lost+found, which every new database has."""

MARIADB_OPTIONS = ("--innodb-buffer-pool-size=1G",)
POSTGRES_OPTIONS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}
"""Both catalogs fit in memory and no checkpoint falls into a measurement: work is compared, not disks."""

Measured = TypeVar("Measured")


class Copied(NamedTuple):
    """One first copy. Memory of the process in MiB: before it, and the peak."""

    entries: int
    seconds: float
    resident: float
    peak: float


class Followed(NamedTuple):
    """One journal drained, and the peak memory in MiB."""

    changes: int
    seconds: float
    peak: float


@dataclass(frozen=True)
class Options:
    sizes: tuple[int, ...]
    rounds: int
    workers: int
    range_entries: int
    version: str
    updates: int


@dataclass
class Result:
    """What was measured at one size, round by round. raw: seconds."""

    files: int
    copied: list[Copied] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)
    followed: list[Followed] = field(default_factory=list)
    source_mib: float = 0.0
    target_mib: float = 0.0

    @property
    def entries(self) -> int:
        return self.copied[0].entries

    @property
    def copied_rate(self) -> float:
        return self.entries / statistics.median(copied.seconds for copied in self.copied)

    @property
    def raw_rate(self) -> float:
        return self.entries / statistics.median(self.raw)


@dataclass(frozen=True)
class Bench:
    """The servers of the run, and what is to be measured on them."""

    maria: MariaServer
    postgres: PostgresServer
    options: Options

    def config(self) -> Config:
        return Config(
            dpm=DpmConfig(
                host=self.maria.host,
                port=self.maria.port,
                user=self.maria.user,
                password=self.maria.password,
                cns_db=CNS,
                dpm_db=DPM,
            ),
            chimera=ChimeraConfig(dsn=self.postgres.dsn(MIRRORED), timezone="Europe/Zurich"),
            exporter=ExporterConfig(
                snapshot_workers=self.options.workers, snapshot_range=self.options.range_entries
            ),
        )

    def rows_file(self, table: str) -> Path:
        return self.postgres.directory / f"{table}.rows"


def memory(name: str) -> float:
    """VmRSS, or VmHWM (its peak), of this process in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {name}")


def _run(work: Callable[[Config], Coroutine[Any, Any, Measured]], config: Config) -> Measured:
    logging.basicConfig(level=logging.WARNING)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work(config))


async def in_fresh_process(
    work: Callable[[Config], Coroutine[Any, Any, Measured]], config: Config
) -> Measured:
    """Runs it where nothing else has used memory, on the event loop of the daemon."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as processes:
        return await asyncio.get_running_loop().run_in_executor(processes, _run, work, config)


async def copy(config: Config) -> Copied:
    """What `dome-bridge sync` does before it follows."""
    resident = memory("VmRSS")
    async with open_session(config) as session:
        if not await target.try_applier_lock(session.conn):
            raise RuntimeError("another process applies changes to the database of the benchmark")
        begun = time.perf_counter()
        report = await copy_if_needed(session, observer=Unobserved())
        seconds = time.perf_counter() - begun
    return Copied(report.entries, seconds, resident, memory("VmHWM"))


async def follow(config: Config) -> Followed:
    async with open_session(config) as session, session.mirror() as mirror:
        follower = Follower(mirror, batch=config.exporter.batch)
        begun = time.perf_counter()
        changes = await follower.drain()
        seconds = time.perf_counter() - begun
    return Followed(changes, seconds, memory("VmHWM"))


async def new_chimera(bench: Bench, name: str) -> None:
    await bench.postgres.drop_database(name)
    await create_chimera(bench.postgres, name, bench.options.version)
    async with bench.postgres.connect(name) as connection:
        await connection.execute("CHECKPOINT")


async def measure_copy(bench: Bench, result: Result) -> None:
    await new_chimera(bench, MIRRORED)
    await initialise(bench.config())
    result.copied.append(await in_fresh_process(copy, bench.config()))


async def dump_rows(bench: Bench) -> None:
    """Writes what the copy made to files of the server."""
    async with bench.postgres.connect(MIRRORED) as connection:
        for table in TABLES:
            rows = f"SELECT {await _columns(connection, table)} FROM {table} {NEW_ROWS.get(table, '')}"
            await connection.execute(f"COPY ({rows}) TO '{bench.rows_file(table)}'")


async def _columns(connection: asyncpg.Connection, table: str) -> str:
    columns = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0"
        " AND NOT attisdropped ORDER BY attnum",
        table,
    )
    return ", ".join(column["attname"] for column in columns)


async def measure_raw(bench: Bench, result: Result) -> None:
    await new_chimera(bench, RAW)
    async with bench.postgres.connect(RAW) as connection:
        statements = [
            f"COPY {table} ({await _columns(connection, table)}) FROM '{bench.rows_file(table)}'"
            for table in TABLES
        ]
        begun = time.perf_counter()
        for statement in statements:
            await connection.execute(statement)
        result.raw.append(time.perf_counter() - begun)


async def measure_follow(bench: Bench, result: Result) -> None:
    """Files all over the catalog grow by a byte; each is one row in the journal."""
    await bench.maria.execute(
        f"UPDATE {CNS}.Cns_file_metadata e JOIN (SELECT fileid FROM {CNS}.Cns_file_metadata"
        f" WHERE filemode & 61440 = 32768 ORDER BY CRC32(fileid) LIMIT {bench.options.updates}) some"
        " ON some.fileid = e.fileid SET e.filesize = e.filesize + 1, e.mtime = e.mtime + 1,"
        " e.ctime = e.ctime + 1"
    )
    result.followed.append(await in_fresh_process(follow, bench.config()))


async def measure_sizes(bench: Bench, result: Result) -> None:
    tables = ", ".join(
        f"{CNS}.{table}" for table in ("Cns_file_metadata", "Cns_file_replica", "Cns_symlinks")
    )
    await bench.maria.fetch(f"ANALYZE TABLE {tables}")
    ((size,),) = await bench.maria.fetch(
        "SELECT SUM(data_length + index_length) FROM information_schema.tables WHERE table_schema = %s",
        (CNS,),
    )
    async with bench.postgres.connect(MIRRORED) as connection:
        target = await connection.fetchval("SELECT pg_database_size(current_database())")
    result.source_mib, result.target_mib = float(size) / 2**20, target / 2**20


async def require_same_rows(bench: Bench) -> None:
    """Both databases hold as many rows of each table, else the two figures mean nothing."""
    counts = []
    for name in (MIRRORED, RAW):
        async with bench.postgres.connect(name) as connection:
            counts.append([await connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES])
    if counts[0] != counts[1]:
        raise RuntimeError(f"rows of {', '.join(TABLES)} differ: mirrored {counts[0]}, raw {counts[1]}")


async def measure(bench: Bench, files: int) -> Result:
    """All rounds of one size; every other round begins with the raw side."""
    result = Result(files)
    await catalog.create_schemas(bench.maria, CNS, DPM)
    await bench.maria.grant(CNS, DPM)
    await catalog.make_site(bench.maria, CNS, DPM, SiteOptions(files=files))
    for number in range(bench.options.rounds):
        if number % 2:
            await measure_raw(bench, result)
            await measure_copy(bench, result)
        else:
            await measure_copy(bench, result)
            await dump_rows(bench)
            await measure_raw(bench, result)
        await require_same_rows(bench)
        if number == 0:
            await measure_sizes(bench, result)
        if bench.options.updates:
            await measure_follow(bench, result)
        print(_round_line(result, number), flush=True)
    return result


def _round_line(result: Result, number: int) -> str:
    copied, raw = result.copied[number], result.raw[number]
    line = (
        f"files {result.files}, round {number + 1}: copy {copied.seconds:.2f} s, raw COPY {raw:.2f} s,"
        f" ratio {raw / copied.seconds:.2f}"
    )
    if result.followed:
        line += f", follow {result.followed[number].seconds:.2f} s"
    return line


def _copy_table(results: Iterable[Result]) -> list[list[str]]:
    head = ["entries", "copy/s", "raw COPY/s", "ratio", "start MiB", "peak MiB", "DPM MiB", "Chimera MiB"]
    return [head] + [
        [
            f"{result.entries:,}",
            f"{result.copied_rate:,.0f}",
            f"{result.raw_rate:,.0f}",
            f"{result.copied_rate / result.raw_rate:.2f}",
            f"{max(copied.resident for copied in result.copied):.0f}",
            f"{max(copied.peak for copied in result.copied):.0f}",
            f"{result.source_mib:,.0f}",
            f"{result.target_mib:,.0f}",
        ]
        for result in results
    ]


def _follow_table(results: Iterable[Result]) -> list[list[str]]:
    return [["entries", "updates", "seconds", "updates/s", "peak MiB"]] + [
        [
            f"{result.entries:,}",
            f"{result.followed[0].changes:,}",
            f"{(seconds := statistics.median(followed.seconds for followed in result.followed)):.2f}",
            f"{result.followed[0].changes / seconds:,.0f}",
            f"{max(followed.peak for followed in result.followed):.0f}",
        ]
        for result in results
    ]


def _print_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\n{title}\n")
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


async def run(options: Options) -> None:
    async with (
        MariaServer(*MARIADB_OPTIONS) as maria,
        PostgresServer(options=POSTGRES_OPTIONS) as postgres,
    ):
        bench = Bench(maria, postgres, options)
        results = [await measure(bench, files) for files in options.sizes]
    described = (
        f"Chimera of dCache {options.version}, {options.workers} workers, ranges of"
        f" {options.range_entries:,}, {os.cpu_count()} cores, median of {options.rounds}"
    )
    _print_table(f"First copy and raw COPY FROM of the same rows ({described})", _copy_table(results))
    if options.updates:
        _print_table("Follow: one burst of updates of files, from journal to commit", _follow_table(results))


def _arguments() -> Options:
    defaults = ExporterConfig()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.snapshot", description="Entries/s of the first copy and of raw COPY."
    )
    parser.add_argument("--files", type=int, default=100_000, help="regular files of the made-up site")
    parser.add_argument("--sizes", help="several numbers of files, with commas: shows how memory grows")
    parser.add_argument("--rounds", type=int, default=1, help="the two sides take turns; medians are shown")
    parser.add_argument("--workers", type=int, default=defaults.snapshot_workers)
    parser.add_argument("--range", type=int, default=defaults.snapshot_range, help="entries in a range")
    parser.add_argument("--version", choices=CHIMERA_VERSIONS, default="10.2", help="of dCache")
    parser.add_argument(
        "--follow", type=int, nargs="?", const=20_000, default=0, metavar="UPDATES", help="measure follow too"
    )
    given = parser.parse_args()
    sizes = tuple(int(size) for size in given.sizes.split(",")) if given.sizes else (given.files,)
    return Options(sizes, given.rounds, given.workers, given.range, given.version, given.follow)


if __name__ == "__main__":
    asyncio.run(run(_arguments()))
