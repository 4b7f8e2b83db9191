"""Requests/s and latency of the DOME API, through the real command line over real sockets.

`dome-bridge run --only api` serves a made-up site in a process of its own; this process plays the
clients, each with a keep-alive connection, one request at a time, as davix does. Beside each line
stands the cheapest round trip of the same connections (an unknown command), so that the machine and
this client can be told from the commands. The disk server lives in this process; it is there to be online,
and removes the files of uploads after they have been measured: no data are moved.

    .venv/bin/python -m benchmarks.dome_api --seconds 3
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import uvloop

from sandbox.bulk import connected
from sandbox.catalog import create_schemas, make_site
from sandbox.disk_node import DiskNode
from sandbox.servers import MariaServer, free_port
from sandbox.site import SiteOptions

CNS, DPM = "cns_db", "dpm_db"
FRONTEND = "/DC=org/DC=example/CN=frontend.example.org"
USER = "/DC=org/DC=example/CN=Bench User"
NOBODY = ""
"""As an administrator's tools call."""

SERVER, FS, POOL = "bench-disk.example.org", "/srv/bench", "bench"
MIB, TIB = 2**20, 2**40
HOME = "/dpm/example.org/home/bench"
STORED = f"{HOME}/writes/stored"
"""The one file that has a replica which can be read."""

SIZES = (1, 100, 10_000)
FIRST_FILEID = 900_000_000
START_SECONDS = 30.0
WARM_UP_SECONDS = 0.3

CONFIG = """\
[dpm]
domehead_conf = ""
host = "{host}"
port = {port}
user = "{user}"
password_file = "{directory}/password"
[exporter]
enabled = false
[api]
enabled = true
host_names = ["head.example.org"]
[[api.listen]]
port = {api_port}
[disk]
addresses = ["{server}=127.0.0.1:{disk_port}"]
[auth]
authorize_dn = ["{frontend}"]
gridmap_file = "{directory}/mapfile"
[monitoring]
port = {monitoring_port}
"""


class Asked(NamedTuple):
    """One request: verb, command, parameters. is_last: what it belongs to is complete with it."""

    method: str
    command: str
    parameters: dict[str, str]
    is_last: bool = True


Requests: TypeAlias = Generator[Asked, str, None]
"""Without end; is sent the answer to each."""


def nothing() -> Iterator[Asked]:
    return iter(())


@dataclass(frozen=True)
class Case:
    """requests: of each client, by its number. cleaning: what is to be asked when all have ended."""

    name: str
    requests: Callable[[int], Requests]
    cleaning: Callable[[], Iterator[Asked]] = nothing


@dataclass(frozen=True)
class Measured:
    """Latencies in seconds."""

    case: str
    clients: int
    seconds: float
    latencies: Sequence[float]

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, percent: int) -> float:
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[percent - 1]


class Client:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, asked: Asked, *, user: str = USER, expected: int = 200) -> str:
        """The text of the answer. Raises RuntimeError for any other status."""
        body = json.dumps(asked.parameters).encode()
        head = (
            f"{asked.method} /domehead/command/{asked.command} HTTP/1.1\r\nHost: head\r\n"
            f"x-ssl-client-verify: SUCCESS\r\nx-ssl-client-s-dn: {FRONTEND}\r\n"
            f"remoteclientdn: {user}\r\nremoteclientgroups: {'bench' if user else ''}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        text = (await self._reader.readexactly(length)).decode()
        status = int(answer[9:12])
        if status != expected:
            raise RuntimeError(f"{asked}: {status} {text}")
        return text


def repeated(asked: Asked) -> Callable[[int], Requests]:
    def requests(client: int) -> Requests:
        while True:
            yield asked

    return requests


def created_and_unlinked(client: int) -> Requests:
    """Both in turn, each client in the same directory under names of its own."""
    for number in itertools.count():
        path = f"{HOME}/writes/c{client}.{number}"
        yield Asked("POST", "dome_create", {"path": path, "mode": "436"}, is_last=False)
        yield Asked("POST", "dome_unlink", {"lfn": path})


class Uploads:
    """Complete uploads without data: all into one directory, charged to one quotatoken."""

    def __init__(self) -> None:
        self._paths: list[str] = []

    def requests(self, client: int) -> Requests:
        for number in itertools.count():
            path = f"{HOME}/writes/u{client}.{number}"
            self._paths.append(path)
            yield from uploaded(path)

    def cleaning(self) -> Iterator[Asked]:
        while self._paths:
            yield Asked("POST", "dome_unlink", {"lfn": self._paths.pop()})


def uploaded(path: str) -> Requests:
    """The place is asked for, and reported to have the file now."""
    place = json.loads((yield Asked("POST", "dome_put", {"lfn": path}, is_last=False)))
    done = {
        "server": place["host"],
        "pfn": place["pfn"],
        "size": "1000",
        "checksumtype": "checksum.adler32",
        "checksumvalue": "0a1b2c3d",
    }
    yield Asked("POST", "dome_putdone", done)


def cases() -> list[Case]:
    stat = Asked("GET", "dome_getstatinfo", {"lfn": f"{HOME}/d100/entry00042.root"})
    listings = [
        Case(f"getdir, {size:,} entries", repeated(Asked("GET", "dome_getdir", {"path": f"{HOME}/d{size}"})))
        for size in SIZES
    ]
    uploads = Uploads()
    return [
        Case("getstatinfo, path of 6 names", repeated(stat)),
        *listings,
        Case("create, then unlink", created_and_unlinked),
        Case("put, then putdone", uploads.requests, uploads.cleaning),
        Case("get", repeated(Asked("GET", "dome_get", {"lfn": STORED}))),
    ]


async def _connect(port: int) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", port))


async def measure(case: Case, port: int, clients: int, seconds: float, *, expected: int = 200) -> Measured:
    connections = [await _connect(port) for _ in range(clients)]
    latencies: list[float] = []

    async def play(number: int) -> None:
        end = time.perf_counter() + WARM_UP_SECONDS + seconds
        requests = case.requests(number)
        asked = next(requests)
        while True:
            began = time.perf_counter()
            answer = await connections[number].ask(asked, expected=expected)
            now = time.perf_counter()
            if now - (end - seconds) > 0:
                latencies.append(now - began)
            if now > end and asked.is_last:
                return
            asked = requests.send(answer)

    began = time.perf_counter() + WARM_UP_SECONDS
    await asyncio.gather(*map(play, range(clients)))
    measured = Measured(case.name, clients, time.perf_counter() - began, latencies)
    left = case.cleaning()
    await asyncio.gather(*(_ask_all(connection, left) for connection in connections))
    return measured


async def _ask_all(connection: Client, requests: Iterator[Asked]) -> None:
    """requests: may be shared with other connections."""
    for asked in requests:
        await connection.ask(asked)


async def furnish(maria: MariaServer) -> None:
    """Directories of the sizes to be listed, and one to write in, for everybody; no disk server is left."""
    fileids = itertools.count(FIRST_FILEID)
    async with connected(maria, CNS) as connection, connection.cursor() as cursor:
        await cursor.execute(
            "SELECT fileid FROM Cns_file_metadata WHERE name = 'home' ORDER BY fileid LIMIT 1"
        )
        ((home,),) = await cursor.fetchall()
        insert = (
            "INSERT INTO Cns_file_metadata (fileid, parent_fileid, name, filemode, nlink, owner_uid, gid,"
            " filesize, atime, mtime, ctime, fileclass, status, csumtype, csumvalue, acl, xattr)"
            " VALUES (%s, %s, %s, %s, %s, 101, 101, 1, 1, 1, 1, 0, '-', '', '', '', %s)"
        )
        bench = next(fileids)
        await cursor.execute(insert, (bench, home, "bench", 0o40777, len(SIZES) + 1, ""))
        await cursor.execute(insert, (next(fileids), bench, "writes", 0o40777, 0, ""))
        for size in SIZES:
            directory = next(fileids)
            await cursor.execute(insert, (directory, bench, f"d{size}", 0o40777, size, ""))
            rows = [
                (
                    next(fileids),
                    directory,
                    f"entry{number:05d}.root",
                    0o100664,
                    1,
                    '{"checksum.adler32": "0a1b2c3d"}',
                )
                for number in range(size)
            ]
            await cursor.executemany(insert, rows)
        await cursor.execute("UPDATE Cns_unique_id SET id = %s", (next(fileids),))
        await cursor.execute(f"DELETE FROM {DPM}.dpm_fs")
        await connection.commit()


async def set_up_storage(port: int) -> None:
    """What an administrator does for a new disk server and a new group; and one upload."""
    client = await _connect(port)
    fs = {"poolname": POOL, "server": SERVER, "fs": FS}
    token = {"path": HOME, "poolname": POOL, "quotaspace": str(TIB), "groups": "bench"}
    for asked in (
        Asked("POST", "dome_newgroup", {"groupname": "bench"}),
        Asked("POST", "dome_addpool", {"poolname": POOL, "pool_defsize": str(MIB)}),
        Asked("POST", "dome_addfstopool", fs),
        Asked("POST", "dome_setquotatoken", {**token, "description": "bench"}),
    ):
        await client.ask(asked, user=NOBODY)
    upload = uploaded(STORED)
    place = await client.ask(next(upload))
    await client.ask(upload.send(place))


@asynccontextmanager
async def disk_server(directory: Path) -> AsyncIterator[DiskNode]:
    place = directory / "disk"
    place.mkdir()
    async with DiskNode(SERVER, {FS: place}, capacities={FS: TIB}) as disk:
        yield disk


@asynccontextmanager
async def api(maria: MariaServer, directory: Path, disk: DiskNode) -> AsyncIterator[int]:
    """The API in a process of its own; yields its port."""
    port = free_port()
    (directory / "password").write_text(maria.password)
    (directory / "password").chmod(0o600)
    (directory / "mapfile").touch()
    config = directory / "dome-bridge.toml"
    config.write_text(
        CONFIG.format(
            host=maria.host,
            port=maria.port,
            user=maria.user,
            directory=directory,
            api_port=port,
            server=SERVER,
            disk_port=disk.port,
            frontend=FRONTEND,
            monitoring_port=free_port(),
        )
    )
    with (directory / "api.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dome_bridge", "--config", str(config), "run", "--only", "api"),
            stdout=log,
            stderr=log,
        )
    try:
        await until_up(port, process, directory / "api.log")
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def until_up(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.returncode is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise RuntimeError(f"the API does not come up: {await asyncio.to_thread(log.read_text)}")


def _row(measured: Measured, bare: Measured) -> list[str]:
    return [
        measured.case,
        str(measured.clients),
        f"{measured.rate:,.0f}",
        *(f"{measured.percentile(percent) * 1000:,.1f}" for percent in (50, 95, 99)),
        f"{bare.rate:,.0f}",
    ]


def print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        name, *figures = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join((name.strip().ljust(widths[0]), *figures)))


async def run(files: int, clients: Sequence[int], seconds: float, only: str) -> None:
    async with MariaServer("--innodb-buffer-pool-size=512M") as maria:
        await create_schemas(maria, CNS, DPM)
        await maria.grant(CNS, DPM)
        await make_site(maria, CNS, DPM, SiteOptions(files=files))
        await furnish(maria)
        rows = [["command", "clients", "requests/s", "p50 ms", "p95 ms", "p99 ms", "bare requests/s"]]
        async with disk_server(maria.directory) as disk, api(maria, maria.directory, disk) as port:
            await set_up_storage(port)
            bare = Case("unknown command", repeated(Asked("GET", "dome_nothing", {})))
            for number in clients:
                floor = await measure(bare, port, number, seconds, expected=418)
                rows += [
                    _row(await measure(case, port, number, seconds), floor)
                    for case in cases()
                    if re.search(only, case.name)
                ]
    print(f"\nDOME API over a catalog of {files:,} files, {os.cpu_count()} cores for servers and clients\n")
    print_table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dome_api", description="Speed of the DOME API."
    )
    parser.add_argument("--files", type=int, default=20_000, help="regular files of the made-up site")
    parser.add_argument("--clients", default="1,32", help="numbers of clients at a time, with commas")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    parser.add_argument("--only", default="", help="cases in whose names this pattern is found")
    given = parser.parse_args()
    clients = [int(number) for number in given.clients.split(",")]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(given.files, clients, given.seconds, given.only))


if __name__ == "__main__":
    main()
