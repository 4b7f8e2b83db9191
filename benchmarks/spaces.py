"""Files/s into the space manager's database: all of them in bulk, what has changed, and one by one.

A made-up site is copied into Chimera and its quotatokens become reservations. The whole load and
the loads after it are the path of the cutover; beside them stands the same table filled with the
triggers at work, which is what dCache's own way of making a reservation's files would cost.

    .venv/bin/python -m benchmarks.spaces --files 1000000 --changes 20000
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from dome_bridge.chimera import target
from dome_bridge.config import ChimeraConfig, Config, DpmConfig, SpacemanagerConfig
from dome_bridge.exporter.follow import Follower
from dome_bridge.exporter.initialise import initialise
from dome_bridge.exporter.service import Unobserved, copy_if_needed
from dome_bridge.exporter.session import Session, open_session
from dome_bridge.exporter.space_load import Loaded, load_spaces
from dome_bridge.exporter.spaces import settle_model
from sandbox import catalog
from sandbox.chimera_schema import create_chimera, create_spacemanager
from sandbox.servers import MariaServer, PostgresServer
from sandbox.site import SiteOptions

CNS, DPM = "cns_db", "dpm_db"
SINGLE_ROWS = 5_000
"""Files that go in one by one: enough for a rate."""

POSTGRES_OPTIONS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}


@dataclass(frozen=True)
class Options:
    files: int
    changes: int


@dataclass(frozen=True)
class Bench:
    maria: MariaServer
    postgres: PostgresServer
    options: Options

    def config(self) -> Config:
        maria = self.maria
        return Config(
            dpm=DpmConfig(
                host=maria.host,
                port=maria.port,
                user=maria.user,
                password=maria.password,
                cns_db=CNS,
                dpm_db=DPM,
            ),
            chimera=ChimeraConfig(dsn=self.postgres.dsn("chimera"), timezone="Europe/Zurich"),
            spacemanager=SpacemanagerConfig(
                enabled=True, dsn=self.postgres.dsn("spacemanager"), overbooked="shrink"
            ),
        )


async def prepare(bench: Bench) -> None:
    await catalog.create_schemas(bench.maria, CNS, DPM)
    await bench.maria.grant(CNS, DPM)
    await catalog.make_site(bench.maria, CNS, DPM, SiteOptions(files=bench.options.files))
    await create_chimera(bench.postgres, "chimera", "10.2")
    await create_spacemanager(bench.postgres, "spacemanager")
    await initialise(bench.config())


async def change_files(bench: Bench) -> None:
    """Files all over the catalog grow by a byte."""
    await bench.maria.execute(
        f"UPDATE {CNS}.Cns_file_metadata e JOIN (SELECT fileid FROM {CNS}.Cns_file_metadata"
        f" WHERE filemode & 61440 = 32768 ORDER BY CRC32(fileid) LIMIT {bench.options.changes}) some"
        " ON some.fileid = e.fileid SET e.filesize = e.filesize + 1"
    )


async def load(session: Session, what: str) -> Loaded:
    loaded = await load_spaces(session)
    rate = loaded.rows / loaded.seconds
    print(f"{what:<28} {loaded.rows:>9} rows {loaded.seconds:>8.2f} s {rate:>10.0f} rows/s", flush=True)
    return loaded


async def load_one_by_one(bench: Bench) -> None:
    """Takes files away and puts them in again, each with a statement and the triggers at work."""
    async with bench.postgres.connect("spacemanager") as conn:
        rows = await conn.fetch(
            "DELETE FROM srmspacefile WHERE id IN (SELECT id FROM srmspacefile LIMIT $1)"
            " RETURNING vogroup, spacereservationid, sizeinbytes, creationtime, pnfsid, state",
            SINGLE_ROWS,
        )
        begun = time.perf_counter()
        async with conn.transaction():
            for row in rows:
                await conn.execute(
                    "INSERT INTO srmspacefile (vogroup, spacereservationid, sizeinbytes, creationtime,"
                    " pnfsid, state) VALUES ($1, $2, $3, $4, $5, $6)",
                    *row,
                )
        seconds = time.perf_counter() - begun
    rate = len(rows) / seconds
    print(f"{'one by one, with triggers':<28} {len(rows):>9} rows {seconds:>8.2f} s {rate:>10.0f} rows/s")


async def measure(bench: Bench) -> None:
    await prepare(bench)
    async with open_session(bench.config()) as session:
        if not await target.try_applier_lock(session.conn):
            raise RuntimeError("another process applies changes to the database of the benchmark")
        await copy_if_needed(session, observer=Unobserved())
        async with session.mirror() as mirror:
            await settle_model(mirror, bench.config())
            follower = Follower(mirror, batch=20_000)
            await follower.drain()
            await load(session, "everything")
            await load(session, "nothing has changed")
            await change_files(bench)
            await follower.drain()
            await load(session, f"{bench.options.changes} files have changed")
    await load_one_by_one(bench)


async def run(options: Options) -> None:
    async with MariaServer() as maria, PostgresServer(options=POSTGRES_OPTIONS) as postgres:
        await measure(Bench(maria, postgres, options))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="regular files (100000)")
    parser.add_argument("--changes", type=int, default=5_000, help="files that change afterwards (5000)")
    given = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(Options(given.files, given.changes)))


if __name__ == "__main__":
    main()
