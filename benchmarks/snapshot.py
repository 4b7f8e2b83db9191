"""Entries/s of the first copy beside raw COPY of the very rows that it makes, in one run.

The copy takes the path of the service, in a process of its own, so that its peak memory is
known. The raw side is the fastest that PostgreSQL can do with the same rows in the same
schema: `COPY ... FROM` of server-side text files, table after table in one session, with no
client, no source and no mapping. Both work on the same servers, each time in a new database.

    .venv/bin/python -m benchmarks.snapshot --sizes 100000,400000 --rounds 2 --follow
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import asyncpg
import uvloop

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
"""In an order that satisfies the foreign keys."""

MARIADB_OPTIONS = ("--innodb-buffer-pool-size=1G", "--innodb-log-file-size=256M")
POSTGRES_OPTIONS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}
"""Both catalogs fit in memory: it is the work that is compared, not the disk."""


class Copied(NamedTuple):
    """One first copy. Memory in MiB: after the imports, and the peak; disconnected processes not counted."""

    entries: int
    seconds: float
    resident: float
    peak: float


class Followed(NamedTuple):
    changes: int
    seconds: float


@dataclass(frozen=True)
class Options:
    sizes: tuple[int, ...]
    rounds: int
    workers: int
    range_entries: int
    version: str
    updates: int


@dataclass
class Rounds:
    """What was measured at one size. `raw` in seconds, sizes in MiB."""

    files: int
    entries: int = 0
    copied: list[Copied] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)
    followed: list[Followed] = field(default_factory=list)
    source_mib: float = 0.0
    target_mib: float = 0.0

    @property
    def copied_rate(self) -> float:
        return self.entries / statistics.median(copied.seconds for copied in self.copied)

    @property
    def raw_rate(self) -> float:
        return self.entries / statistics.median(self.raw)


@dataclass(frozen=True)
class Bench:
    """The two servers of the run."""

    maria: MariaServer
    postgres: PostgresServer
    options: Options
    processes: ProcessPoolExecutor

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

    @asynccontextmanager
    async def administrator(self, database: str) -> AsyncIterator[asyncpg.Connection]:
        async with self.postgres.connect(database) as connection:
            yield connection

    def rows_file(self, table: str) -> Path:
        return self.postgres.directory / f"{table}.rows"


def memory(name: str) -> float:
    """A line of /proc/self/status in MiB: VmRSS, or VmHWM, the peak of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {name}")


def run_copy(config: Config) -> Copied:
    """In a process of its own: what `dome-bridge sync` does before it follows."""
    logging.basicConfig(level=logging.WARNING)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_copy(config))


async def _copy(config: Config) -> Copied:
    resident = memory("VmRSS")
    async with open_session(config) as session:
        begun = time.perf_counter()
        report = await copy_if_needed(session, observer=Unobserved())
        seconds = time.perf_counter() - begun
    return Copied(report.entries, seconds, resident, memory("VmHWM"))


def run_follow(config: Config) -> Followed:
    """In a process of its own: applies what is in the journal."""
    logging.basicConfig(level=logging.WARNING)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_follow(config))


async def _follow(config: Config) -> Followed:
    async with open_session(config) as session, session.mirror() as mirror:
        follower = Follower(mirror, batch=config.exporter.batch)
        begun = time.perf_counter()
        changes = await follower.drain()
        return Followed(changes, time.perf_counter() - begun)


async def _new_chimera(bench: Bench, name: str) -> None:
    await bench.postgres.drop_database(name)
    await create_chimera(bench.postgres, name, bench.options.version)
    async with bench.administrator(name) as connection:
        await connection.execute("CHECKPOINT")


async def measure_copy(bench: Bench, rounds: Rounds) -> None:
    await _drop_capture(bench)
    await _new_chimera(bench, MIRRORED)
    await initialise(bench.config())
    copied = await _in_process(bench, run_copy)
    rounds.copied.append(copied)
    rounds.entries = copied.entries


async def _in_process[Result](bench: Bench, work: Work[Result]) -> Result: ...
