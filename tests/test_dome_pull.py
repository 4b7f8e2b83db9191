"""Volatile pools: files that exist elsewhere are found by the site's program and fetched by disk servers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.config import QueueConfig
from dome_bridge.dome_api import commands_get
from dome_bridge.dome_api.catalog import Replica
from dome_bridge.dome_api.cluster import Activity, Cluster, FileSystem, Pool
from dome_bridge.dome_api.head import Call
from dome_bridge.dome_api.quotatokens import QuotaToken
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.stat_hook import DEFAULT_MODE, ExternalStat, StatHook, parsed
from dome_bridge.dome_api.volatile import can_be_pulled, leads_to, pools_that_pull
from dome_bridge.errors import ApiError
from sandbox.servers import MariaServer
from tests.fixtures.queues import TICK_SECONDS, Said, Site, eventually, queue_site
from tests.fixtures.storage import ALICE, DISK2, Answered, room, until

VOLATILE = "/dpm/test/home/vol"
MOUNT = "/storage/disk2/fs2"
TOKEN = "36b3eb00-e674-11f1-8e24-02fc00000001"
DATA = b"from elsewhere " * 1000
DEFSIZE = "1048576"

numbers = count(1)


@dataclass
class Elsewhere:
    """Where disk servers fetch files from: holds them back until `release`, or breaks."""

    is_broken: bool = False
    prints: str = ""
    fetched: list[tuple[str, int]] = field(default_factory=list)
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, lfn: str, file: Path, needed: int) -> str:
        self.fetched.append((lfn, needed))
        await self._released.wait()
        if self.is_broken:
            raise OSError("nothing there")
        await asyncio.to_thread(file.write_bytes, DATA)
        return self.prints

    def release(self) -> None:
        self._released.set()


@pytest.fixture(scope="module")
async def golden(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with queue_site(maria, tmp_path_factory.mktemp("disks")) as site:
        yield site


@pytest.fixture
async def site(golden: Site) -> AsyncIterator[Site]:
    golden.forget_reports()
    golden.disks[DISK2].pull_hook = None
    async with room(golden.storage):
        yield golden
        assert await golden.storage.new_faults() == []


@pytest.fixture
def elsewhere(site: Site) -> Elsewhere:
    elsewhere = Elsewhere()
    site.disks[DISK2].pull_hook = elsewhere
    return elsewhere


@pytest.fixture
async def served(site: Site) -> AsyncIterator[Site]:
    async with site.head():
        await polled(site)
        yield site


async def polled(site: Site) -> None:
    """A head knows nothing of its disk servers until they have answered."""

    async def is_online() -> bool:
        said = await site.ask("dome_statpool", poolname="poolvol")
        return said.status == 200 and json.loads(said.text)["poolinfo"]["poolvol"]["poolstatus"] == "0"

    await eventually(is_online)


def new_path() -> str:
    return f"{VOLATILE}/f{next(numbers)}"


async def get(site: Site, lfn: str) -> Said:
    return await site.ask("dome_get", lfn=lfn)


async def got(site: Site, lfn: str) -> dict[str, Any]:
    """What a client gets that asks until it is there."""
    async with asyncio.timeout(10):
        while (said := await get(site, lfn)).status == 202:  # noqa: ASYNC110 - as clients do
            await asyncio.sleep(0.01)
    assert said.status == 200, said
    return dict(said.values)


async def replica_of(site: Site, lfn: str) -> Replica:
    [replica] = await site.storage.replicas((await site.storage.entry(lfn)).fileid)
    return replica


async def report(site: Site, replica: Replica, lfn: str, /, **more: Any) -> Said:
    pfn = replica.rfn.removeprefix(f"{DISK2}:")
    body = {"lfn": lfn, "pfn": pfn, "server": DISK2, "checksum_type": "", "status": "done"} | more
    return await site.report("dome_pullstatus", DISK2, **body)


async def begun(site: Site) -> tuple[str, Replica]:
    """A file that is being pulled, as far as the catalog knows."""
    lfn = new_path()
    assert (await get(site, lfn)).status == 202
    return lfn, await replica_of(site, lfn)


async def size_of(site: Site, path: str) -> int:
    return (await site.storage.entry(path)).size


async def unused(site: Site) -> int:
    query = f"SELECT u_space FROM {{dpm}}.dpm_space_reserv WHERE s_token = '{TOKEN}'"
    return int(await site.storage.value(query))


async def test_missing_file_is_pulled_and_can_be_read(served: Site, elsewhere: Elsewhere) -> None:
    lfn = new_path()
    size, space = await size_of(served, VOLATILE), await unused(served)
    assert (await get(served, lfn)).status == 202
    replica = await replica_of(served, lfn)
    assert replica.status == "P"
    elsewhere.release()
    pfn = replica.rfn.removeprefix(f"{DISK2}:")
    assert await got(served, lfn) == {"0": {"server": DISK2, "pfn": pfn, "filesystem": MOUNT}}
    assert (await replica_of(served, lfn)).status == "-"
    assert await size_of(served, lfn) == len(DATA)
    assert await size_of(served, VOLATILE) == size + len(DATA)
    assert await unused(served) == space - len(DATA)
    assert served.storage.file(replica.rfn).read_bytes() == DATA
    [call] = [call for call in served.disks[DISK2].calls if call.command == "dome_pull"]
    assert call.parameters == {"lfn": lfn, "pfn": pfn, "neededspace": DEFSIZE}
    assert call.user == RemoteUser(ALICE.dn, ALICE.host)


async def test_clients_that_ask_again_do_not_have_it_pulled_again(served: Site, elsewhere: Elsewhere) -> None:
    lfn = new_path()
    said = await asyncio.gather(*(get(served, lfn) for _ in range(5)))
    assert {each.status for each in said} == {202}
    await until(lambda: len(elsewhere.fetched) == 1)
    assert (await get(served, lfn)).status == 202
    elsewhere.release()
    await got(served, lfn)
    assert elsewhere.fetched == [(lfn, int(DEFSIZE))]


async def test_pull_goes_on_when_the_head_is_started_again(site: Site, elsewhere: Elsewhere) -> None:
    async with site.head():
        await polled(site)
        lfn, _ = await begun(site)
        await until(lambda: len(elsewhere.fetched) == 1)
    site.forget_reports()
    # Ticks of a disk server on a busy machine come late.
    async with site.head(tick_seconds=30.0):
        await polled(site)
        assert (await get(site, lfn)).status == 202
        await until(lambda: len(site.reports("dome_pullstatus", "pending")) >= 2)
        elsewhere.release()
        await got(site, lfn)
    assert len(elsewhere.fetched) == 1


async def test_aborted_pull_leaves_the_queue_and_can_be_asked_for_again(
    served: Site, elsewhere: Elsewhere
) -> None:
    elsewhere.is_broken = True
    elsewhere.release()
    lfn, replica = await begun(served)
    await until(lambda: bool(served.reports("dome_pullstatus", "aborted")))
    assert (await replica_of(served, lfn)).status == "P"
    elsewhere.is_broken = False
    await got(served, lfn)
    assert (await replica_of(served, lfn)).rfn == replica.rfn


async def test_no_more_is_pulled_at_a_time_than_one_server_may(site: Site, elsewhere: Elsewhere) -> None:
    async with site.head(pulls=QueueConfig(max_per_server=1)):
        await polled(site)
        first, second = [(await begun(site))[0] for _ in range(2)]
        await until(lambda: len(site.reports("dome_pullstatus", "pending")) >= 5)
        assert [lfn for lfn, _ in elsewhere.fetched] == [first]
        elsewhere.release()
        await got(site, second)
    assert [lfn for lfn, _ in elsewhere.fetched] == [first, second]


async def test_question_that_meets_the_end_of_a_pull_does_not_begin_another(
    served: Site, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    lfn, _ = await begun(served)
    look = can_be_pulled

    async def slow_look(call: Call, path: str) -> bool:
        """The file arrives while a client's question is being answered."""
        elsewhere.release()
        while call.head.pulls.is_pulling(lfn):  # noqa: ASYNC110 - nobody sets an event for it
            await asyncio.sleep(0.005)
        return await look(call, path)

    monkeypatch.setattr(commands_get, "can_be_pulled", slow_look)
    assert (await get(served, lfn)).status == 202
    await got(served, lfn)
    await asyncio.sleep(5 * TICK_SECONDS)
    assert [fetched for fetched, _ in elsewhere.fetched] == [lfn]


async def test_checksum_of_a_pulled_file_is_kept(served: Site) -> None:
    lfn, replica = await begun(served)
    more = {"checksum_type": "adler32", "checksum": "deadbeef", "filesize": "47"}
    assert await report(served, replica, lfn, **more) == Said(200, "")
    assert (await replica_of(served, lfn)).attributes["checksum.adler32"] == "deadbeef"
    entry = await served.storage.entry(lfn)
    assert (entry.size, entry.csumtype, entry.csumvalue) == (47, b"AD", b"deadbeef")


async def test_checksum_without_a_kind_is_nobodys(served: Site) -> None:
    lfn, replica = await begun(served)
    assert await report(served, replica, lfn, checksum="deadbeef", filesize="47") == Said(200, "")
    assert (await served.storage.entry(lfn)).attributes == {}


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"pfn": ""}, 422),
        ({"lfn": ""}, 422),
        ({"status": "finished"}, 422),
        ({"status": ""}, 422),
        ({"status": "pending"}, 200),
        ({"status": "aborted", "reason": "no"}, 200),
        ({"pfn": "/storage/disk2/fs2/none"}, 500),
        ({"server": "disk1.test"}, 403),
        ({"filesize": "-1"}, 422),
        ({"filesize": "5", "checksum_type": "adler32", "checksum": "a b"}, 400),
    ],
)
async def test_reports_that_do_not_end_a_pull(served: Site, more: Mapping[str, str], status: int) -> None:
    lfn, replica = await begun(served)
    assert (await report(served, replica, lfn, **more)).status == status
    assert (await replica_of(served, lfn)).status == "P"


async def test_end_that_is_reported_twice_counts_once(served: Site) -> None:
    lfn, replica = await begun(served)
    size = await size_of(served, VOLATILE)
    assert (await report(served, replica, lfn, filesize="47")).status == 200
    assert (await report(served, replica, lfn, filesize="47")).status == 422
    assert await size_of(served, VOLATILE) == size + 47


async def test_fenced_catalog_takes_no_pulled_file(served: Site) -> None:
    lfn, replica = await begun(served)
    async with served.storage.fence():
        assert (await report(served, replica, lfn, filesize="47")).status == 503
    assert (await replica_of(served, lfn)).status == "P"


def hook(directory: Path, script: str) -> Path:
    program = directory / "stat hook"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


async def stat(site: Site, lfn: str, script: str, directory: Path, **settings: Any) -> Answered:
    async with site.head(stat_hook=hook(directory, script), **settings):
        await polled(site)
        said = await site.ask("dome_getstatinfo", lfn=lfn)
        return Answered(said.status, said.text)


async def test_missing_file_of_a_volatile_pool_is_looked_for_elsewhere(site: Site, tmp_path: Path) -> None:
    script = 'test "$#:$1" = "1:/dpm/test/home/vol/a b;c" && echo noise && echo ">>>>> STAT 123 33188"'
    answer = await stat(site, f"{VOLATILE}/a b;c", script, tmp_path)
    assert answer.status == 200
    assert json.loads(answer.text) == {
        "fileid": "0",
        "parentfileid": "0",
        "size": "123",
        "mode": "33188",
        "atime": "0",
        "mtime": "0",
        "ctime": "0",
        "uid": "0",
        "gid": "0",
        "nlink": "0",
        "acl": "",
        "name": "",
        "xattrs": "{}",
    }


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 1", 404),
        ("echo '>>>>> STAT 1 33188'; exit 1", 404),
        ("echo nothing", 500),
        ("exec yes", 500),
        ("sleep 60 & wait", 404),
    ],
)
async def test_what_the_program_does_not_know_is_not_there(
    site: Site, tmp_path: Path, script: str, status: int
) -> None:
    lfn = f"{VOLATILE}/none"
    answer = await stat(site, lfn, script, tmp_path, stat_hook_seconds=0.3)
    assert answer == Answered(status, f"Cannot remotely stat lfn: '{lfn}'")


@pytest.mark.parametrize(
    "lfn",
    [
        "/dpm/test/home/dteam/none",
        f"{VOLATILE}/none/none",
        f"{VOLATILE}x",
        "vol/none",
    ],
)
async def test_other_files_are_not_looked_for_elsewhere(site: Site, tmp_path: Path, lfn: str) -> None:
    answer = await stat(site, lfn, f"touch {tmp_path}/called; echo '>>>>> STAT 1 33188'", tmp_path)
    assert answer.status == 404
    assert not (tmp_path / "called").exists()


async def test_site_without_a_program_says_so(site: Site) -> None:
    async with site.head(stat_hook=None):
        await polled(site)
        said = await site.ask("dome_getstatinfo", lfn=f"{VOLATILE}/none")
    assert said == Said(500, "Invalid stat hook.")


async def asked(program: Path, lfn: str = "/f", seconds: float = 5.0) -> ExternalStat | int:
    try:
        return await StatHook(program, seconds).stat(lfn)
    except ApiError as exc:
        return exc.status


async def test_program_sees_nothing_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOME_BRIDGE_PASSWORD", "secret")
    output = tmp_path / "environment"
    await asked(hook(tmp_path, f"env > {output}; pwd >> {output}; ls /proc/self/fd >> {output}"))
    text = output.read_text()
    assert "secret" not in text
    assert f"PWD={os.sep}\n" in text


async def test_program_is_ended_with_all_it_has_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = hook(tmp_path, f"sleep 60 & echo $! > {pids}; echo $$ >> {pids}; wait")
    assert await asked(program, seconds=0.2) == 404
    await until(lambda: not any(is_alive(int(pid)) for pid in pids.read_text().split()))


async def test_program_is_ended_when_the_client_goes_away(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    task = asyncio.create_task(asked(hook(tmp_path, f"echo $$ > {pids}; sleep 60")))
    await until(lambda: pids.exists() and bool(pids.read_text()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not is_alive(int(pids.read_text())))


def is_alive(pid: int) -> bool:
    """A process that has ended and is still in the table counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda path: path / "none", 500),
        (lambda path: path, 500),
        (lambda path: hook(path, "echo '>>>>> STAT 7 33188'"), ExternalStat(7, 33188)),
    ],
)
async def test_program_that_cannot_be_started(
    tmp_path: Path, make: Callable[[Path], Path], status: int | ExternalStat
) -> None:
    assert await asked(make(tmp_path)) == status


async def test_name_that_no_program_can_be_given_is_not_there(tmp_path: Path) -> None:
    assert await asked(hook(tmp_path, "echo '>>>>> STAT 7 33188'"), lfn="/a\0b") == 404


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b">>>>> STAT 123 33188\n", ExternalStat(123, 33188)),
        (b"one\ntwo >>>>> STAT 123 33188", ExternalStat(123, 33188)),
        (b">>>>> STAT 123\n", ExternalStat(123)),
        (b">>>>> STAT 123 420\n", ExternalStat(123, 33188)),
        (b'{"size": 5}', ExternalStat(5, DEFAULT_MODE)),
        (b'{"size": "5", "mode": "16877", "mtime": 7, "name": "x"}', ExternalStat(5, 16877, mtime=7)),
        (b"", None),
        (b">>>>> STAT -1 33188\n", None),
        (b">>>>> STAT x\n", None),
        (b">>>>> STAT 9999999999999999999 33188\n", None),
        (b">>>>> STAT 1 4294967296\n", None),
        (b"[5]", None),
        (b"{}", None),
        (b'{"mode": 33188}', None),
        (b'{"size": -5}', None),
        (b'{"size": 5.5}', None),
        (b'{"size": 5, "mode": [1]}', None),
    ],
)
def test_output_of_the_program(output: bytes, expected: ExternalStat | None) -> None:
    assert parsed(output) == expected


@given(st.binary(max_size=80))
def test_any_output_is_understood_or_not(output: bytes) -> None:
    parsed(output)
    parsed(b">>>>> STAT " + output)


def token(path: str, pool: str) -> QuotaToken:
    return QuotaToken("id", "name", pool, path, 1, 1, (0,))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/dpm/a", True),
        ("/dpm/a/b/c", True),
        ("/dpm/a/permanent/c", True),
        ("/dpm/ab", False),
        ("/dpm", False),
        ("", False),
    ],
)
def test_any_token_above_a_path_can_make_it_volatile(path: str, expected: bool) -> None:
    tokens = [token("/dpm/a", "vol"), token("/dpm/a/permanent", "disk"), token("/", "vol"), token("", "vol")]
    assert leads_to({"vol"}, tokens, path) is expected


def test_pool_pulls_if_it_is_volatile_and_has_room_for_more_than_its_defsize() -> None:
    pools = {name: Pool(name, 100, kind) for name, kind in [("v", "V"), ("w", "v"), ("p", "P")]}
    sizes = [("v", 100), ("w", 101), ("p", 101)]
    systems = tuple(
        FileSystem(pool, "disk1", f"/{pool}", activity=Activity.ONLINE, physical=size) for pool, size in sizes
    )
    assert pools_that_pull(Cluster(pools, systems)) == {"w"}
