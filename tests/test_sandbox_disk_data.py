"""The sandbox's disk node with clients that put and get files, and what it says of its room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from sandbox.disk_node import DiskNode, SpaceReport
from sandbox.disk_store import DiskStore, Room, UnknownChecksumError, checksum
from tests.fixtures.disk import (
    ALICE,
    CAPACITY,
    FS,
    PFN,
    SERVER,
    Head,
    clock,
    eventually,
    head,
    order,
    served,
    spaces,
    store,
)

__all__ = ["clock", "head", "served"]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_upload_and_download_are_the_same_bytes(served: DiskNode, http: aiohttp.ClientSession) -> None:
    data, url = bytes(range(256)) * 4096, f"{served.url(PFN)}?token=abc@1@1"
    async with http.put(url, data=data) as response:
        assert response.status == 201
    file = served.file(PFN)
    assert file is not None
    assert file.read_bytes() == data
    async with http.get(url) as response:
        assert (await response.read(), response.content_length) == (data, len(data))
    async with http.delete(url) as response:
        assert (response.status, file.exists()) == (204, False)
    done = [(each.method, each.status, each.size) for each in served.transfers]
    assert done == [("PUT", 201, len(data)), ("GET", 200, len(data)), ("DELETE", 204, 0)]
    assert served.calls == []


async def test_upload_of_a_front_end_is_reported_to_the_head(
    head: Head, served: DiskNode, http: aiohttp.ClientSession
) -> None:
    user = {"remoteclientdn": ALICE.dn, "remoteclientgroups": "atlas,dteam"}
    async with http.put(f"{served.url(PFN)}?token=x&sfn=/dpm/a%20b", data=b"12345", headers=user) as response:
        assert response.status == 201
    (heard,) = head.heard
    assert heard.body == {"pfn": PFN, "lfn": "/dpm/a b", "server": SERVER, "size": "5"}
    assert heard.user == user
    assert heard.headers["x-ssl-client-verify"] == "SUCCESS"
    assert heard.headers["x-ssl-client-s-dn"] == f"/DC=org/DC=example/CN={SERVER}"


async def test_upload_that_the_head_refuses_fails_for_the_client(
    head: Head, served: DiskNode, http: aiohttp.ClientSession
) -> None:
    head.refuses("dome_putdone", 422, "Invalid status for replica")
    async with http.put(f"{served.url(PFN)}?sfn=/dpm/x", data=b"12345") as response:
        assert (response.status, "Invalid status" in await response.text()) == (500, True)


@pytest.mark.parametrize(
    ("method", "pfn", "status"),
    [
        ("GET", f"{FS}/absent", 404),
        ("GET", f"{FS}/atlas", 403),
        ("DELETE", f"{FS}/absent", 404),
        ("PUT", "/elsewhere/file", 404),
        ("PUT", f"{FS}/%2e%2e/file", 404),
        ("PUT", f"{FS}/atlas", 403),
    ],
)
async def test_file_that_cannot_be_had_is_refused(
    served: DiskNode, http: aiohttp.ClientSession, tmp_path: Path, method: str, pfn: str, status: int
) -> None:
    (tmp_path / "atlas").mkdir()
    url = URL(f"http://{served.address}:{served.port}{pfn}", encoded=True)
    async with http.request(method, url) as response:
        assert response.status == status
    assert not (tmp_path.parent / "file").exists()


async def test_data_needs_no_token_of_the_head(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with DiskNode(SERVER, {FS: tmp_path}, secret="x" * 32) as node:
        store(node, PFN, b"data")
        async with http.get(node.url(PFN)) as response:
            assert await response.read() == b"data"
        assert node.refused_tokens == []


@pytest.mark.parametrize("full", [True, False])
async def test_full_disk_takes_no_file_and_keeps_nothing_of_it(
    served: DiskNode, http: aiohttp.ClientSession, full: bool
) -> None:
    if full:
        served.fill()
    else:
        served.store.capacities[FS] = 600_000
    async with http.put(served.url(PFN), data=b"x" * 1_000_000) as response:
        assert response.status == 507
    file = served.file(PFN)
    assert file is not None
    assert not file.exists()
    served.heal()
    async with http.put(served.url(PFN), data=b"x" * 600_000) as response:
        assert response.status == 201


async def test_parallel_uploads_never_take_more_than_there_is(
    served: DiskNode, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    served.store.capacities[FS] = 1_000_000

    async def upload(number: int) -> int:
        async with http.put(served.url(f"{FS}/atlas/{number}"), data=b"x" * 300_000) as response:
            return response.status

    statuses = await asyncio.gather(*(upload(number) for number in range(6)))
    assert set(statuses) == {201, 507}
    sizes = [file.stat().st_size for file in (tmp_path / "atlas").iterdir()]
    assert sizes == [300_000] * statuses.count(201)
    assert sum(sizes) <= 1_000_000


async def test_free_space_follows_the_files(served: DiskNode, http: aiohttp.ClientSession) -> None:
    async with http.put(served.url(PFN), data=b"x" * 1234):
        pass
    room = (await spaces(served))["fsinfo"][SERVER][FS]
    assert room == {"freespace": str(CAPACITY - 1234), "physicalsize": str(CAPACITY), "activitystatus": "1"}
    served.fill()
    assert (await spaces(served))["fsinfo"][SERVER][FS]["freespace"] == "0"


async def test_node_says_of_its_space_what_it_is_told_to(served: DiskNode, tmp_path: Path) -> None:
    served.file_systems["/srv/dpm/fs2"] = tmp_path
    rooms = {FS: Room(-5, 3), "/srv/dpm/fs2": Room(9, 3, 2)}
    served.report_space(SpaceReport(rooms, server="other"))
    assert (await spaces(served))["fsinfo"] == {
        "other": {
            FS: {"freespace": "-5", "physicalsize": "3", "activitystatus": "1"},
            "/srv/dpm/fs2": {"freespace": "9", "physicalsize": "3", "activitystatus": "2"},
        }
    }
    served.report_space(SpaceReport(missing=[FS]))
    assert list((await spaces(served))["fsinfo"][SERVER]) == ["/srv/dpm/fs2"]
    served.report_space(SpaceReport(body=b'{"fsinfo": '))
    assert (await order(served, "dome_getspaceinfo")).text == '{"fsinfo": '
    served.heal()
    assert set((await spaces(served))["fsinfo"][SERVER]) == {FS, "/srv/dpm/fs2"}


async def test_slow_data_ends_with_the_fault(served: DiskNode, http: aiohttp.ClientSession) -> None:
    served.slow_data(0.1)
    began = asyncio.get_running_loop().time()
    async with http.put(served.url(PFN), data=b"x") as response:
        assert response.status == 201
    assert asyncio.get_running_loop().time() - began >= 0.1
    served.heal()
    async with http.get(served.url(PFN)) as response, asyncio.timeout(5):
        assert await response.read() == b"x"


async def test_upload_that_breaks_off_leaves_no_file(served: DiskNode) -> None:
    _, writer = await asyncio.open_connection(served.address, served.port)
    writer.write(f"PUT {PFN} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345".encode())
    file = served.file(PFN)
    assert file is not None
    await eventually(file.exists)
    writer.transport.abort()
    await eventually(lambda: bool(served.transfers))
    assert (served.transfers[0].status, file.exists()) == (0, False)


async def test_node_that_dies_cuts_transfers_and_ends_its_work(
    head: Head, served: DiskNode, http: aiohttp.ClientSession
) -> None:
    store(served, PFN, b"x" * 600_000)
    served.slow_data(0.3)
    before = asyncio.all_tasks()
    await order(served, "dome_dochksum", **{"checksum-type": "md5", "pfn": PFN, "lfn": "/dpm/x"})
    async with http.get(served.url(PFN)) as response:
        await served.stop()
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    assert head.heard == []
    await asyncio.sleep(0)
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()
    await served.start()
    assert (await order(served, "dome_statpfn", pfn=PFN)).status == 200


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("adler32", "00000001"),
        ("crc32", "0"),
        ("md5", "d41d8cd98f00b204e9800998ecf8427e"),
        ("sha1", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
    ],
)
def test_checksum_of_an_empty_file_has_all_its_digits(tmp_path: Path, kind: str, value: str) -> None:
    (tmp_path / "empty").touch()
    assert checksum(tmp_path / "empty", kind) == value


@pytest.mark.parametrize("kind", ["checksum.md5", "MD5", "crc32c", ""])
def test_checksum_of_another_name_is_unknown(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UnknownChecksumError):
        checksum(tmp_path / "absent", kind)


@given(st.lists(st.sampled_from(["fs1", "fs", "..", ".", "", "x", "srv", "dpm"]), max_size=7))
def test_file_is_never_outside_of_its_file_system(names: list[str]) -> None:
    pfn = "/" + "/".join(names)
    file = DiskStore({FS: Path("/data/one"), "/srv/dpm/fs": Path("/data/two")}).file(pfn)
    assert (file is not None) == (f"{pfn}/".startswith((f"{FS}/", "/srv/dpm/fs/")) and ".." not in names)
    assert file is None or file.is_relative_to("/data/one" if f"{pfn}/".startswith(f"{FS}/") else "/data/two")
