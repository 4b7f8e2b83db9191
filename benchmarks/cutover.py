"""Seconds that the fence stands in a cutover, for catalogs of several sizes: it must not grow with them.

A made-up site is copied and compared, the mirror follows as `dome-bridge run` does, and somebody
changes files at a steady rate until the fence refuses it. Then the cutover is carried out as the command
does it. What it counts and compares as a whole comes before the fence, and has a column of its own.
Each round but the last is rolled back.

    .venv/bin/python -m benchmarks.cutover --sizes 100000,1000000 --rounds 3
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from benchmarks.snapshot import CNS, DPM, MARIADB_OPTIONS, POSTGRES_OPTIONS
from dome_bridge.chimera import target
from dome_bridge.config import ChimeraConfig, Config, DpmConfig
from dome_bridge.dpm.fenced import is_fenced
from dome_bridge.dpm.source import Source, StatementError
from dome_bridge.exporter import cutover, quarantine_acceptance, rollback
from dome_bridge.exporter.cutover import Terms
from dome_bridge.exporter.cutover_plan import State, Step
from dome_bridge.exporter.cutover_record import CutoverReport
from dome_bridge.exporter.cutover_steps import Options as Choices
from dome_bridge.exporter.gates import Gate
from dome_bridge.exporter.initialise import initialise
from dome_bridge.exporter.journal import Journal
from dome_bridge.exporter.service import MirrorService, Unobserved, sync_once
from dome_bridge.exporter.verify import verify_site
from sandbox import catalog
from sandbox.chimera_schema import create_chimera
from sandbox.servers import MariaServer, PostgresServer
from sandbox.site import SiteOptions

SETTLE_SECONDS = 2.0
"""The follower has taken up the writer's changes by then."""


@dataclass(frozen=True)
class Options:
    """rate: changes/s until the fence."""

    sizes: tuple[int, ...]
    rounds: int
    rate: int


@dataclass
class Result:
    """Of one size, round by round."""

    files: int
    entries: int = 0
    reports: list[CutoverReport] = field(default_factory=list)

    def fence_seconds(self) -> list[float]:
        return [report.fence_seconds for report in self.reports]

    def seconds(self, step: str) -> float:
        return statistics.median(dict(report.steps)[step] for report in self.reports)


@dataclass(frozen=True)
class Bench:
    maria: MariaServer
    postgres: PostgresServer
    files: int
    rate: int
    directory: Path

    @property
    def config(self) -> Config:
        maria = self.maria
        dpm = DpmConfig(
            host=maria.host,
            port=maria.port,
            user=maria.user,
            password=maria.password,
            cns_db=CNS,
            dpm_db=DPM,
        )
        return Config(
            dpm=dpm, chimera=ChimeraConfig(dsn=self.postgres.dsn("chimera"), timezone="Europe/Zurich")
        )

    async def prepare(self) -> int:
        """Everything up to the gates; the number of entries."""
        await catalog.create_schemas(self.maria, CNS, DPM)
        await self.maria.grant(CNS, DPM)
        await catalog.make_site(self.maria, CNS, DPM, SiteOptions(files=self.files))
        await create_chimera(self.postgres, "chimera", "10.2")
        await initialise(self.config)
        async with await Source.connect(self.config.dpm) as source:
            await Journal(source).write_heartbeat()
        await sync_once(self.config, advance=_silent)
        report = await verify_site(self.config, repair=False, resume=False, advance=_silent)
        if report.mismatches:
            raise RuntimeError(f"{report.mismatches} entries differ after the first copy")
        await self._accept_quarantine()
        return report.compared

    async def _accept_quarantine(self) -> None:
        conn = await target.connect(self.config.chimera)
        try:
            found = await quarantine_acceptance.read_quarantine(conn)
        finally:
            await target.close(conn)
        await quarantine_acceptance.accept(self.config, found.token)

    async def cut_over(self) -> CutoverReport:
        """With a mirror that follows and a user who writes."""
        choices = Choices(upload_wait_seconds=0.0, artifacts=self.directory)
        async with _following(self.config):
            writing = asyncio.create_task(self._write())
            await asyncio.sleep(SETTLE_SECONDS)
            report = await cutover.cut_over(self.config, confirm=_agreed, terms=Terms(choices))
            await writing
        if report.state is not State.COMMITTED:
            raise RuntimeError(f"the cutover was given up: {report.reason}")
        return report

    async def _write(self) -> None:
        """Changes files all over the catalog, one by one, until the fence stands."""
        rng, begun, done = random.Random(1), time.perf_counter(), 0
        async with await Source.connect(self.config.dpm) as source:
            highest = int(await source.fetchval(f"SELECT MAX(fileid) FROM {source.cns}.Cns_file_metadata"))
            statement = (
                f"UPDATE {source.cns}.Cns_file_metadata SET filesize = filesize + 1"
                " WHERE fileid >= %s AND filemode & 61440 = 32768 ORDER BY fileid LIMIT 1"
            )
            while True:
                try:
                    await source.execute(statement, (rng.randrange(highest),))
                except StatementError as exc:
                    if not is_fenced(exc):
                        raise
                    return
                done += 1
                await asyncio.sleep(max(0.0, begun + done / self.rate - time.perf_counter()))

    async def go_back(self) -> None:
        await rollback.roll_back(self.config, confirm=_anything)
        await verify_site(self.config, repair=False, resume=False, advance=_silent)


def _silent(step: str, entries: int, expected: int) -> None:
    """Nobody watches."""


async def _agreed(gates: tuple[Gate, ...]) -> bool:
    return True


async def _anything(what: str) -> bool:
    return True


@asynccontextmanager
async def _following(config: Config) -> AsyncIterator[None]:
    stop = asyncio.Event()
    service = asyncio.create_task(MirrorService(config, stop=stop, observer=Unobserved()).run())
    try:
        yield
    finally:
        stop.set()
        await service


async def measure(files: int, options: Options) -> Result:
    result = Result(files)
    with tempfile.TemporaryDirectory() as directory:
        async with (
            MariaServer(*MARIADB_OPTIONS) as maria,
            PostgresServer(options=POSTGRES_OPTIONS) as postgres,
        ):
            bench = Bench(maria, postgres, files, options.rate, Path(directory))
            result.entries = await bench.prepare()
            for number in range(options.rounds):
                if number:
                    await bench.go_back()
                result.reports.append(await bench.cut_over())
                print(_line(result.reports[-1]), flush=True)
    return result


def _line(report: CutoverReport) -> str:
    steps = ", ".join(f"{name} {seconds:.2f}" for name, seconds in report.steps)
    return f"  fence {report.fence_seconds:.2f} s: {steps}\n  {report.details[Step.RECHECK]}"


def show(results: Sequence[Result]) -> None:
    """Medians of the rounds."""
    names = [name for name, _ in results[0].reports[0].steps if name != Step.COUNT]
    print(f"{'entries':<20}" + "".join(f"{result.entries:>12,}" for result in results))
    print(f"{'count, before':<20}" + "".join(f"{result.seconds(Step.COUNT):>12.2f}" for result in results))
    for name in names:
        print(f"{name:<20}" + "".join(f"{result.seconds(name):>12.2f}" for result in results))
    fences = [statistics.median(result.fence_seconds()) for result in results]
    print(f"{'fence in all':<20}" + "".join(f"{seconds:>12.2f}" for seconds in fences))


async def run(options: Options) -> None:
    results = []
    for files in options.sizes:
        print(f"{files:,} files, load {os.getloadavg()[0]:.1f}", flush=True)
        results.append(await measure(files, options))
    show(results)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", default="100000", help="numbers of regular files (100000)")
    parser.add_argument("--rounds", type=int, default=1, help="cutovers at each size; medians are shown (1)")
    parser.add_argument("--rate", type=int, default=200, help="changes/s until the fence (200)")
    given = parser.parse_args(arguments)
    sizes = tuple(int(size) for size in given.sizes.split(","))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(Options(sizes, given.rounds, given.rate)))


if __name__ == "__main__":
    main()
