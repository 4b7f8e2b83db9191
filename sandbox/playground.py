"""A whole made-up site with a bridge on it, for the demo and for trying things out.

Private MariaDB and PostgreSQL servers, DPM's databases with a made-up site whose files are
on disk, the disk servers that have them, an empty Chimera, and a configuration file. The
bridge itself is only ever used through its command line, in processes of its own, as an
administrator would, and through its API.

All files lie in the directory of the MariaDB server, so that they are deleted with it even
when we are killed. Processes that name that directory on their command line end then, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from dome_bridge.dome_api.request import RemoteUser
from sandbox.api_clients import FRONT_END, ApiUser, ApiWriter, DomeClient
from sandbox.catalog import Site, create_schemas, make_site
from sandbox.chimera_schema import create_chimera
from sandbox.disk_node import DiskNode
from sandbox.operations import OWN, Operation
from sandbox.people import Population
from sandbox.servers import LOOPBACK, MariaServer, PostgresServer, SandboxError, free_port
from sandbox.site import SiteOptions
from sandbox.vos import VOS
from sandbox.writer import TAME, CatalogWriter, WriterReport

PROJECT = Path(__file__).parent.parent
CNS, DPM, CHIMERA = "cns_db", "dpm_db", "chimera"
CHIMERA_VERSION = "10.2"
TIMEZONE = "Europe/Zurich"
OUTPUT_COLUMNS = 96
STOP_SECONDS = 30.0
POLL_SECONDS = 0.1
INTERRUPTED = 130
AUDIT_LOG = " dome.audit: "
DOMAIN = "example.org"
DEAD_SERVERS = tuple(f"{OWN}{number}.{DOMAIN}" for number in range(3))
"""Disk servers that the random writer adds to the catalog: there is nothing behind them."""
NOBODY_LISTENS = f"{LOOPBACK}:1"

CONFIG = """\
[dpm]
domehead_conf = ""
host = "{host}"
port = {port}
user = "{user}"
password_file = "{directory}/dpm-password"

[chimera]
dsn = "{dsn}"
password_file = "{directory}/chimera-password"
timezone = "{timezone}"

[exporter]
snapshot_range = {snapshot_range}

[api]
enabled = true
host_names = ["head.{domain}"]

[[api.listen]]
address = "127.0.0.1"
port = {api_port}
protocol = "proxied"

[auth]
authorize_dn = ["{front_end}"]
gridmap_file = "{directory}/mapfile"
xrdhttp_secret_file = "{directory}/xrdhttp-key"

[disk]
addresses = {disk_addresses}

[monitoring]
port = {monitoring_port}
"""


class CommandError(SandboxError):
    """A command of dome-bridge ended otherwise than it must in this play."""


@dataclass(frozen=True)
class Outcome:
    """What a command left. `output` is its standard output, `said` its standard error."""

    code: int
    output: str
    said: str

    def json(self) -> Any:
        return json.loads(self.output)

    def lines(self) -> list[Any]:
        """Output of one JSON object a line."""
        return [json.loads(line) for line in self.output.splitlines()]


@dataclass(frozen=True)
class Playground:
    """Where everything is."""

    maria: MariaServer
    postgres: PostgresServer
    site: Site
    directory: Path
    disks: Sequence[DiskNode]
    monitoring_port: int
    api_port: int

    @property
    def monitoring(self) -> str:
        return f"http://{LOOPBACK}:{self.monitoring_port}"

    @property
    def api(self) -> str:
        """The address of the DOME API, up to the name of a command."""
        return f"http://{LOOPBACK}:{self.api_port}/domehead/command"

    @property
    def config(self) -> Path:
        return self.directory / "dome-bridge.toml"

    @property
    def daemon_log(self) -> Path:
        return self.directory / "daemon.log"

    async def bridge(self, *arguments: str, wanted: int = 0) -> Outcome:
        """Runs a command to its end; CommandError if it does not exit with the wanted code."""
        process = await self.start(*arguments)
        try:
            output, said = await process.communicate()
        finally:
            await end(process, signal.SIGKILL)
        outcome = Outcome(process.returncode or 0, output.decode(), said.decode())
        if outcome.code != wanted:
            raise CommandError(
                f"`dome-bridge {shlex.join(arguments)}` ended with code {outcome.code} instead of {wanted}: "
                f"{outcome.said or outcome.output}"
            )
        return outcome

    async def start(self, *arguments: str, log: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
        """Starts a command; an interrupt of the terminal is for us alone."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dome_bridge", "--config", str(self.config), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self._environment(),
            cwd=PROJECT,
            start_new_session=True,
        )

    def _environment(self) -> Mapping[str, str]:
        reports = {"STATE_DIRECTORY": str(self.directory)}
        return {**os.environ, **reports, "COLUMNS": str(OUTPUT_COLUMNS), "NO_COLOR": "1"}

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """`dome-bridge run` in the background; stopped at the end as systemd would."""
        with self.daemon_log.open("ab") as log:
            process = await self.start("run", log=log.fileno())
        try:
            yield process
        finally:
            await end(process, signal.SIGTERM)

    async def status(self) -> dict[str, Any] | None:
        """What the daemon's listener says; None while it does not answer."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
                session.get(f"{self.monitoring}/status") as answer,
            ):
                return dict(await answer.json()) if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None

    def daemon_words(self) -> str:
        """The end of the daemon's log, without the requests to the API."""
        lines = self.daemon_log.read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if AUDIT_LOG not in line][-20:])

    @asynccontextmanager
    async def writer(
        self,
        *,
        weights: Mapping[Operation, float] = TAME,
        connections: int = 4,
        interval: float = 0.1,
        seed: int = 1,
    ) -> AsyncIterator[CatalogWriter]:
        """A random writer changes DPM's catalog meanwhile, as daemons and administrators would."""
        writer = CatalogWriter(
            lambda: self.maria.connect(as_dpmmgr=True),
            random.Random(seed),
            weights=weights,
            connections=connections,
            linger=0.1,
            interval=interval,
        )
        stop = asyncio.Event()
        writing: asyncio.Task[WriterReport] = asyncio.create_task(writer.run(stop=stop))
        try:
            yield writer
        finally:
            stop.set()
            await writing

    @asynccontextmanager
    async def clients(self, *, interval: float = 0.25, seed: int = 1) -> AsyncIterator[ApiWriter]:
        """Users write through the API meanwhile, one of each organisation."""
        rng = random.Random(seed)
        places = [place for place in self.site.filesystems if place.status == 0]
        async with DomeClient(self.api) as door:
            users = [
                ApiUser(door, user, home, places, random.Random(rng.getrandbits(64)), f"{number}")
                for number, (user, home) in enumerate(self.robots())
            ]
            writer = ApiWriter(door, users, interval=interval)
            stop = asyncio.Event()
            writing = asyncio.create_task(writer.run(stop=stop))
            try:
                yield writer
            finally:
                stop.set()
                await writing

    def robots(self) -> list[tuple[RemoteUser, str]]:
        """For each organisation its production robot, and where it is at home."""
        robots = Population(self.site.domain, self.site.files).users[: len(VOS)]
        return [
            (RemoteUser(robot.name, groups=(robot.vo,)), f"{self.site.home}/{robot.vo}") for robot in robots
        ]


async def end(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Ends a process, in the end with SIGKILL; harmless if it has ended."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@asynccontextmanager
async def open_playground(files: int, *, rotten: bool = True) -> AsyncIterator[Playground]:
    """Starts the servers, makes the site and the configuration; at the end nothing is left of them."""
    async with AsyncExitStack() as stack:
        maria = await stack.enter_async_context(MariaServer())
        postgres = await stack.enter_async_context(PostgresServer())
        await create_schemas(maria, CNS, DPM)
        options = SiteOptions(files=files, domain=DOMAIN, disk_root=maria.directory / "disks")
        site = await make_site(maria, CNS, DPM, options, rotten=rotten)
        await create_chimera(postgres, CHIMERA, CHIMERA_VERSION)
        key = secrets.token_hex(32)
        disks = [await stack.enter_async_context(node) for node in _disk_nodes(site, key)]
        playground = Playground(maria, postgres, site, maria.directory, disks, free_port(), free_port())
        _write_configuration(playground, key)
        yield playground


def _disk_nodes(site: Site, key: str) -> list[DiskNode]:
    """The site's disk servers; they keep the files where the catalog says that they are."""
    servers: dict[str, dict[str, Path]] = {}
    for place in site.filesystems:
        servers.setdefault(place.server, {})[place.fs] = Path(place.fs)
    return [DiskNode(server, paths, address=LOOPBACK, secret=key) for server, paths in servers.items()]


def _write_configuration(playground: Playground, key: str) -> None:
    maria, postgres, directory = playground.maria, playground.postgres, playground.directory
    text = CONFIG.format(
        host=maria.host,
        port=maria.port,
        user=maria.user,
        dsn=f"postgresql://{postgres.user}@{postgres.host}:{postgres.port}/{CHIMERA}",
        timezone=TIMEZONE,
        directory=directory,
        snapshot_range=max(200, playground.site.files // 20),
        monitoring_port=playground.monitoring_port,
        api_port=playground.api_port,
        domain=DOMAIN,
        front_end=FRONT_END,
        disk_addresses=json.dumps(_disk_addresses(playground.disks), indent=4),
    )
    playground.config.write_text(text)
    (directory / "mapfile").write_text(
        "".join(f'"{robot.dn}" {robot.groups[0]}\n' for robot, _ in playground.robots())
    )
    _write_secret(directory / "dpm-password", maria.password)
    _write_secret(directory / "chimera-password", postgres.password)
    _write_secret(directory / "xrdhttp-key", key)


def _disk_addresses(disks: Sequence[DiskNode]) -> list[str]:
    alive = [f"{node.server}={node.address}:{node.port}" for node in disks]
    return [*alive, *(f"{server}={NOBODY_LISTENS}" for server in DEAD_SERVERS)]


def _write_secret(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(secret + "\n")


def site_size(text: str) -> int:
    """For argparse."""
    files = int(text)
    if not 100 <= files <= 10_000_000:
        raise argparse.ArgumentTypeError("100 files at least, 10000000 at most")
    return files


def play(work: Coroutine[Any, Any, int]) -> int:
    """Runs to the end; Ctrl-C and SIGTERM end it early with everything cleaned up. Returns the exit code."""
    try:
        return asyncio.run(_stoppable(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED


async def _stoppable(work: Coroutine[Any, Any, int]) -> int:
    task = asyncio.current_task()
    assert task is not None
    # Both: in the background of a shell Python finds SIGINT ignored, and leaves it so.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await work
