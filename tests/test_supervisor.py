"""The supervisor: two processes that live on when the other dies, and end in order with their parent."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from dome_bridge.errors import ConfigError
from dome_bridge.notify import Notifier
from dome_bridge.supervisor import Part, PartError, Supervisor, private_directory
from sandbox.catalog import make_site
from sandbox.servers import MariaServer, free_port
from sandbox.site import SiteOptions
from tests.fixtures.command import Bridge, Finished, Running, assert_tidy, bridge_for, until
from tests.fixtures.databases import DpmSite
from tests.fixtures.systemd import Systemd, listening_systemd

PROXIED = {"x-ssl-client-verify": "SUCCESS", "x-ssl-client-s-dn": "/DC=test/CN=frontend.test"}

# A part that starts fast. What it does is in its first argument; it writes what happens to the second.
STUB = """
import os, signal, socket, sys, time
manner, diary = sys.argv[1:]
channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
channel.connect(os.environ["NOTIFY_SOCKET"])
def tell(text):
    channel.send(text.encode())
def note(text):
    with open(diary, "a") as file:
        file.write(f"{text}\\n")
def end(number, frame):
    note("end")
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if manner == "stubborn" else end)
signal.signal(signal.SIGHUP, lambda *_: note("reload"))
note(f"start {os.getpid()}")
is_first = open(diary).read().count("start") == 1
if manner == "refuse" or manner == "sour" and not is_first:
    tell("STATUS=failed: the port is taken")
    sys.exit(2)
if manner in ("hinder", "sour"):
    tell("STATUS=hindered: the database is away")
    sys.exit(2)
if manner == "crash":
    sys.exit(1)
while manner == "hang":
    time.sleep(0.1)
tell("READY=1\\nSTATUS=at work")
if manner == "refuse-later":
    tell("STATUS=failed: the port is taken")
    sys.exit(2)
while True:
    tell("WATCHDOG=1")
    time.sleep(0.1)
"""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Shorter than pytest's own: the addresses of sockets below must not exceed 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="run-") as directory:
        yield Path(directory)


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    with listening_systemd() as listener:
        yield listener


@dataclass
class Family:
    """A supervisor of stubs. pauses: those between two lives, none of which is waited for."""

    directory: Path
    manners: Mapping[Part, str]
    notifier: Notifier = field(default_factory=Notifier)
    environ: Mapping[str, str] = field(default_factory=lambda: {"WATCHDOG_PID": "1"})
    ahead: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stop = asyncio.Event()
        self.supervisor = Supervisor(
            self._command,
            stop=self.stop,
            notifier=self.notifier,
            environ=self.environ,
            end_seconds={Part.API: 0.5, Part.EXPORTER: 0.5},
            clock=self._clock,
            sleep=self._sleep,
        )

    def _command(self, part: Part) -> list[str]:
        return [sys.executable, "-S", "-E", "-c", STUB, self.manners[part], str(self.diary(part))]

    def _clock(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead

    async def _sleep(self, seconds: float) -> None:
        if seconds >= 1:
            self.pauses.append(seconds)
        await asyncio.sleep(min(seconds, 0.02))

    def diary(self, part: Part) -> Path:
        return self.directory / f"{part}.diary"

    def pids(self, part: Part) -> list[int]:
        try:
            lines = self.diary(part).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [int(line.split()[1]) for line in lines if line.startswith("start")]

    def is_ready(self) -> bool:
        children = self.supervisor.children
        return len(children) == 2 and all(child.is_ready for child in children)

    async def kill(self, part: Part, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends it, and waits for the next life."""
        pids = self.pids(part)
        os.kill(pids[-1], number)
        await until(lambda: len(self.pids(part)) > len(pids) and self.is_ready(), 10, f"{part} again")


@asynccontextmanager
async def running(family: Family) -> AsyncIterator[Family]:
    """Both parts are ready; at the end no process is left."""
    task = asyncio.create_task(family.supervisor.run())
    try:
        await until(lambda: task.done() or family.is_ready(), 10, "ready")
        yield family
    finally:
        family.stop.set()
        await asyncio.wait_for(task, 10)
    assert [pid for part in Part for pid in family.pids(part) if is_alive(pid)] == []


def is_alive(pid: int) -> bool:
    """A zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


WELL = {Part.EXPORTER: "well", Part.API: "well"}


async def test_systemd_is_told_once_when_both_are_ready(tmp_path: Path, systemd: Systemd) -> None:
    notifier = Notifier(str(systemd.address), watchdog_seconds=4.0)
    async with running(Family(tmp_path, WELL, notifier)) as family:
        await until(lambda: systemd.has_heard("STATUS=exporter: at work; api: at work"), 5, "status")
        await until(lambda: systemd.has_heard("WATCHDOG=1"), 5, "a ping")
        await family.kill(Part.API)
        assert not systemd.has_heard("STOPPING=1")
    assert systemd.has_heard("STOPPING=1")
    assert systemd.told.count("READY=1") == 1


async def test_part_that_hangs_at_the_start_keeps_systemd_waiting_for_a_minute(
    tmp_path: Path, systemd: Systemd
) -> None:
    family = Family(tmp_path, WELL | {Part.API: "hang"}, Notifier(str(systemd.address)))
    task = asyncio.create_task(family.supervisor.run())
    await until(lambda: systemd.has_heard("STATUS=exporter: at work; api: starting"), 5, "status")
    assert not systemd.has_heard("READY=1")
    family.ahead += 61
    await until(lambda: systemd.has_heard("READY=1"), 5, "READY")
    family.stop.set()
    await asyncio.wait_for(task, 10)


@pytest.mark.parametrize("part", Part)
async def test_part_that_is_hindered_at_the_start_is_tried_again_while_the_other_works(
    tmp_path: Path, systemd: Systemd, part: Part
) -> None:
    (other,) = set(Part) - {part}
    family = Family(tmp_path, WELL | {part: "hinder"}, Notifier(str(systemd.address)))
    task = asyncio.create_task(family.supervisor.run())
    await until(lambda: len(family.pauses) >= 4, 10, "four attempts")
    family.ahead += 101
    await until(lambda: len(family.pauses) >= 5, 10, "another attempt")
    assert family.pauses[:4] == [1, 2, 4, 8]
    assert systemd.has_heard("READY=1")
    status = "; ".join(f"{each}: {{}}" if each is part else f"{each}: at work" for each in Part)
    for words in ("starts again in 4 s: the database is away", "starting again, after: the database is away"):
        assert systemd.has_heard(f"STATUS={status.format(words)}")
    (pid,) = family.pids(other)
    assert is_alive(pid)
    family.stop.set()
    await asyncio.wait_for(task, 10)


async def test_start_is_given_up_when_no_part_becomes_ready_in_time(tmp_path: Path) -> None:
    family = Family(tmp_path, dict.fromkeys(Part, "hinder"))
    task = asyncio.create_task(family.supervisor.run())
    await until(lambda: len(family.pauses) >= 4, 10, "attempts")
    assert not task.done()
    family.ahead += 101
    troubles = "exporter: the database is away; api: the database is away"
    with pytest.raises(PartError, match=f"^no part became ready within 100 s: {troubles}$") as caught:
        await asyncio.wait_for(task, 10)
    assert caught.value.exit_code == 2


async def test_wrong_setting_made_after_the_start_does_not_end_the_other_part(tmp_path: Path) -> None:
    family = Family(tmp_path, WELL | {Part.EXPORTER: "sour"})
    task = asyncio.create_task(family.supervisor.run())
    await until(
        lambda: "port is taken" in str([each.status for each in family.supervisor.children]), 10, "it"
    )
    (pid,) = family.pids(Part.API)
    assert is_alive(pid)
    family.stop.set()
    await asyncio.wait_for(task, 10)


async def test_api_ends_before_the_exporter(tmp_path: Path) -> None:
    async with running(Family(tmp_path, WELL)) as family:
        pass
    ends = [family.diary(part).stat().st_mtime_ns for part in (Part.API, Part.EXPORTER)]
    assert all(family.diary(part).read_text().endswith("end\n") for part in Part)
    assert ends == sorted(ends)


async def test_part_that_is_killed_comes_back_and_the_other_goes_on(tmp_path: Path) -> None:
    async with running(Family(tmp_path, WELL)) as family:
        for part, other in ((Part.API, Part.EXPORTER), (Part.EXPORTER, Part.API)):
            before = family.pids(other)
            await family.kill(part)
            assert family.pids(other) == before
            assert is_alive(before[-1])


async def test_part_that_ends_well_without_being_asked_comes_back(tmp_path: Path) -> None:
    async with running(Family(tmp_path, WELL)) as family:
        await family.kill(Part.API, signal.SIGTERM)


async def test_pauses_grow_to_half_a_minute(tmp_path: Path) -> None:
    family = Family(tmp_path, WELL | {Part.API: "crash"})
    task = asyncio.create_task(family.supervisor.run())
    await until(lambda: len(family.pauses) >= 7, 10, "seven attempts")
    family.stop.set()
    await asyncio.wait_for(task, 10)
    assert family.pauses[:7] == [1, 2, 4, 8, 16, 30, 30]


async def test_pause_is_short_again_after_a_good_minute(tmp_path: Path) -> None:
    async with running(Family(tmp_path, WELL)) as family:
        await family.kill(Part.API)
        await family.kill(Part.API)
        family.ahead += 61
        await family.kill(Part.API)
        assert family.pauses == [1, 2, 1]


async def test_stop_does_not_wait_for_a_pause(tmp_path: Path) -> None:
    async def forever(seconds: float) -> None:
        await asyncio.sleep(600)

    family = Family(tmp_path, WELL | {Part.API: "crash"})
    supervisor = Supervisor(family._command, stop=family.stop, notifier=Notifier(), environ={}, sleep=forever)
    task = asyncio.create_task(supervisor.run())
    await until(
        lambda: "starts again in 1 s" in str([each.status for each in supervisor.children]), 10, "a pause"
    )
    family.stop.set()
    await asyncio.wait_for(task, 5)


async def test_wrong_setting_at_the_start_ends_both_with_the_reason(tmp_path: Path, systemd: Systemd) -> None:
    family = Family(tmp_path, WELL | {Part.API: "refuse"}, Notifier(str(systemd.address)))
    with pytest.raises(PartError, match=r"^the port is taken$") as caught:
        await family.supervisor.run()
    assert caught.value.exit_code == 2
    assert not systemd.has_heard("READY=1")
    assert [pid for pid in family.pids(Part.EXPORTER) if is_alive(pid)] == []


async def test_part_that_was_ready_is_tried_again_whatever_it_says(tmp_path: Path) -> None:
    family = Family(tmp_path, WELL | {Part.API: "refuse-later"})
    task = asyncio.create_task(family.supervisor.run())
    await until(lambda: len(family.pauses) >= 2, 10, "two attempts")
    assert not task.done()
    family.stop.set()
    await asyncio.wait_for(task, 10)


async def test_part_that_hangs_is_killed_and_comes_back(tmp_path: Path, systemd: Systemd) -> None:
    notifier = Notifier(str(systemd.address), watchdog_seconds=3.0)
    async with running(Family(tmp_path, WELL, notifier)) as family:
        await family.kill(Part.EXPORTER, signal.SIGSTOP)
        assert len(family.pids(Part.API)) == 1


async def test_reload_reaches_the_api_and_not_the_exporter(tmp_path: Path) -> None:
    async with running(Family(tmp_path, WELL)) as family:
        family.supervisor.reload()
        await until(lambda: "reload" in family.diary(Part.API).read_text(), 5, "the signal")
    assert "reload" not in family.diary(Part.EXPORTER).read_text()


async def test_part_that_is_starting_is_not_told_to_reload(tmp_path: Path) -> None:
    family = Family(tmp_path, WELL | {Part.API: "hang"})
    task = asyncio.create_task(family.supervisor.run())
    await until(lambda: family.pids(Part.API) != [], 5, "its start")
    family.supervisor.reload()
    await asyncio.sleep(0.3)
    family.stop.set()
    await asyncio.wait_for(task, 10)
    assert "reload" not in family.diary(Part.API).read_text()


async def test_part_that_does_not_end_is_killed(tmp_path: Path) -> None:
    async with running(Family(tmp_path, WELL | {Part.API: "stubborn"})) as family:
        pass
    assert family.diary(Part.EXPORTER).read_text().endswith("end\n")


def test_directory_is_private_and_removed(tmp_path: Path) -> None:
    with private_directory({"RUNTIME_DIRECTORY": f"{tmp_path}:/elsewhere"}) as directory:
        assert directory.parent == tmp_path
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not directory.exists()


@pytest.mark.parametrize(
    ("name", "words"), [("missing", "No such file"), ("x" * 100, "too long for sockets")]
)
def test_directory_that_cannot_hold_sockets_names_the_setting(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / ("x" * 100)).mkdir()
    with (
        pytest.raises(ConfigError, match=f"{words}.*set TMPDIR"),
        private_directory({"RUNTIME_DIRECTORY": str(tmp_path / name)}),
    ):
        pass


# The real ones.


class Site:
    """`dome-bridge run` with both parts."""

    def __init__(self, bridge: Bridge, port: int) -> None:
        self.bridge = bridge
        self.port = port
        self.monitoring = f"http://127.0.0.1:{bridge.port}"
        self.api = f"http://127.0.0.1:{port}/domehead/command/dome_info"

    def start(self, **environment: str) -> Running:
        return self.bridge.start("run", environment={"TMPDIR": str(self.bridge.directory), **environment})

    async def ask(self, url: str) -> tuple[int, str]:
        try:
            async with aiohttp.ClientSession() as client, client.get(url, headers=PROXIED) as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def metrics(self) -> str:
        return (await self.ask(f"{self.monitoring}/metrics"))[1]

    async def healthz(self) -> tuple[int, str]:
        return await self.ask(f"{self.monitoring}/healthz")

    async def is_well(self) -> bool:
        return (await self.healthz())[0] == 200

    async def is_serving(self) -> bool:
        return (await self.ask(self.api))[0] == 200


@pytest.fixture
async def site(
    maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str, tmp_path: Path
) -> AsyncIterator[Site]:
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SiteOptions(files=20))
    async with bridge_for(tmp_path, dpm_site, chimera_dsn) as bridge:
        await bridge.good("init")
        port = free_port()
        bridge.configure({"api": {"enabled": True}, "[api.listen]": {"port": port}})
        yield Site(bridge, port)


def children(pid: int) -> dict[Part, int]:
    """The pids by part."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        if "--only" in words:
            found[Part(words[words.index("--only") + 1])] = int(child)
    return found


async def ended(parent: Running) -> Finished:
    """By SIGTERM, and nothing is left."""
    pids = children(parent.pid).values()
    parent.terminate()
    done = await parent.wait(20)
    assert [pid for pid in pids if is_alive(pid)] == []
    return done


async def test_each_part_survives_the_death_of_the_other(site: Site) -> None:
    parent = site.start()
    await until(site.is_well, 20, "well")
    assert await site.is_serving()
    text = await site.metrics()
    assert 'dome_bridge_dome_requests_total{code="200",command="dome_info"} 1.0' in text
    assert text.count("# TYPE dome_bridge_build_info") == 1
    before = children(parent.pid)

    os.kill(before[Part.API], signal.SIGKILL)
    await until(lambda: is_unwell(site), 5, "unwell")
    code, why = await site.healthz()
    assert (code, why.count("\n")) == (503, 1)
    assert "the DOME API does not answer" in why
    assert "dome_bridge_mirror_lag_seconds" in await site.metrics()
    await until(site.is_well, 20, "well again")
    assert await site.is_serving()

    os.kill(before[Part.EXPORTER], signal.SIGKILL)
    await until(lambda: not is_alive(before[Part.EXPORTER]), 5, "the death of the exporter")
    while not await site.is_well():
        assert await site.is_serving()
        await asyncio.sleep(0.05)
    after = children(parent.pid)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())

    done = await ended(parent)
    assert done.code == 0
    assert_tidy(done.err)
    assert list(site.bridge.directory.glob("dome-bridge-*")) == []


async def is_unwell(site: Site) -> bool:
    return not await site.is_well()


async def test_parts_do_not_outlive_a_supervisor_that_is_killed(site: Site, systemd: Systemd) -> None:
    parent = site.start(NOTIFY_SOCKET=str(systemd.address), WATCHDOG_USEC="60000000")
    await until(lambda: systemd.has_heard("READY=1"), 20, "READY")
    await until(lambda: systemd.has_heard("WATCHDOG=1"), 5, "a ping")
    pids = children(parent.pid).values()
    assert len(pids) == 2
    parent.kill()
    await until(lambda: not any(is_alive(pid) for pid in pids), 10, "the end of both children")


async def test_port_in_use_ends_both_with_the_message_and_exit_code_2(site: Site) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", site.port))
        taken.listen()
        done = await site.start().wait(20)
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert last.startswith(f"dome-bridge: cannot listen on 127.0.0.1:{site.port}: ")
    assert last.endswith("set [[api.listen]] to a place that is free on this machine")
    assert done.err.count("\ndome-bridge: ") == 1
    assert_tidy(done.err)


async def test_api_serves_while_the_mirror_cannot_start(site: Site) -> None:
    port = free_port()
    site.bridge.configure(
        {
            "api": {"enabled": True},
            "[api.listen]": {"port": site.port},
            "chimera": {"dsn": f"postgresql://nobody@127.0.0.1:{port}/none"},
        }
    )
    parent = site.start()
    await parent.logged("part ended, it is started again part=exporter in=2s", 20)
    assert f"127.0.0.1:{port}" in parent.log
    await until(site.is_serving, 10, "answers")
    api = children(parent.pid)[Part.API]
    assert parent.log.count("part started part=api") == 1
    assert is_alive(api)
    assert (await ended(parent)).code == 0


async def test_api_alone_has_the_monitoring(site: Site) -> None:
    site.bridge.configure(
        {
            "exporter": {"enabled": False},
            "api": {"enabled": True},
            "[api.listen]": {"port": site.port},
            "chimera": {"dsn": f"postgresql://nobody@127.0.0.1:{free_port()}/none"},
        }
    )
    parent = site.start()
    await until(site.is_well, 20, "well")
    assert await site.is_serving()
    text = await site.metrics()
    assert 'dome_bridge_dome_requests_total{code="200",command="dome_info"} 1.0' in text
    assert "dome_bridge_build_info" in text
    assert "dome_bridge_mirror_lag_seconds" not in text
    assert (await site.ask(f"{site.monitoring}/status"))[0] == 503
    assert children(parent.pid) == {}
    assert (await ended(parent)).code == 0


@pytest.mark.parametrize(
    ("only", "words"), [((), "are both false"), (("--only", "api"), r"\[api\] enabled is false")]
)
async def test_part_that_is_not_enabled_is_refused(tmp_path: Path, only: tuple[str, ...], words: str) -> None:
    nowhere = DpmSite("127.0.0.1", 1, "", "nobody", "none", "cns_db", "dpm_db")
    async with bridge_for(tmp_path, nowhere, "postgresql://nobody:none@127.0.0.1:1/none") as bridge:
        bridge.configure({"exporter": {"enabled": False}})
        done = await bridge("run", *only)
    assert done.code == 2
    assert re.search(rf"^dome-bridge: nothing to run: .*{words}.*; set ", done.err, re.M)
