"""The sandbox's disk node, as the head's client and the head see it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from aiohttp import web

from dome_bridge.config_sections import DiskConfig
from dome_bridge.dome_api.disk_client import (
    DiskClient,
    DiskRefusedError,
    DiskUnknownError,
    DiskUnreachableError,
)
from dome_bridge.dome_api.request import RemoteUser
from sandbox.disk_head import HeadAccess
from sandbox.disk_node import DiskNode
from tests.fixtures.disk import (
    ALICE,
    FS,
    KEY,
    PFN,
    SERVER,
    Clock,
    Head,
    Heard,
    client_of,
    clock,
    eventually,
    head,
    order,
    refused,
    served,
    spaces,
    store,
)

__all__ = ["clock", "head", "served"]

ROOT = RemoteUser()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[DiskNode]:
    file = tmp_path / PFN.removeprefix(f"{FS}/")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"data")
    async with DiskNode(SERVER, {FS: tmp_path}, secret=KEY) as node:
        yield node


@pytest.fixture
async def client(node: DiskNode) -> AsyncIterator[DiskClient]:
    async with client_of(node) as client:
        yield client


def exists(node: DiskNode) -> bool:
    file = node.file(PFN)
    assert file is not None
    return file.exists()


async def test_statpfn_tells_size_and_kind(client: DiskClient) -> None:
    answer = await client.call(SERVER, "GET", "dome_statpfn", {"pfn": PFN}, ALICE)
    found = json.loads(answer.text)
    assert (found["size"], int(found["mode"]) & 0o170000, found["isdir"]) == ("4", 0o100000, "false")


async def test_statpfn_looks_outside_of_the_file_systems_only_when_told(
    client: DiskClient, tmp_path: Path
) -> None:
    elsewhere = {"pfn": str(tmp_path), "matchfs": "false"}
    answer = await client.call(SERVER, "GET", "dome_statpfn", elsewhere, ALICE)
    assert json.loads(answer.text)["isdir"] == "true"
    with pytest.raises(DiskRefusedError) as refusal:
        await client.call(SERVER, "GET", "dome_statpfn", {"pfn": str(tmp_path)}, ALICE)
    assert refusal.value.status == 404


async def test_getspaceinfo_has_the_node_s_file_systems(node: DiskNode, client: DiskClient) -> None:
    node.file_systems["/srv/dpm/lost"] = Path("/nonexistent/fs")
    answer = await client.call(SERVER, "GET", "dome_getspaceinfo", {}, ROOT)
    spaces = json.loads(answer.text)["fsinfo"][SERVER]
    assert int(spaces[FS]["physicalsize"]) >= int(spaces[FS]["freespace"]) > 0
    assert [spaces[fs]["activitystatus"] for fs in (FS, "/srv/dpm/lost")] == ["1", "2"]


@pytest.mark.parametrize(
    ("method", "command", "body", "status"),
    [
        ("POST", "dome_pfnrm", {}, 422),
        ("POST", "dome_pfnrm", {"pfn": "relative"}, 404),
        ("POST", "dome_pfnrm", {"pfn": "/elsewhere/file"}, 422),
        ("POST", "dome_pfnrm", {"pfn": f"{FS}/../../etc"}, 422),
        ("POST", "dome_pfnrm", {"pfn": f"{FS}/atlas"}, 422),
        ("GET", "dome_statpfn", {}, 422),
        ("GET", "dome_statpfn", {"pfn": f"{FS}/absent"}, 404),
        ("GET", "dome_pfnrm", {"pfn": PFN}, 418),
        ("POST", "dome_statpfn", {"pfn": PFN}, 418),
        ("POST", "dome_nonsense", {}, 418),
    ],
)
async def test_node_refuses_with_the_original_s_codes(
    node: DiskNode, client: DiskClient, method: str, command: str, body: Mapping[str, str], status: int
) -> None:
    with pytest.raises(DiskRefusedError) as refusal:
        await client.call(SERVER, method, command, body, ALICE)
    assert refusal.value.status == status
    assert exists(node)


async def test_node_started_again_has_its_port(node: DiskNode, client: DiskClient) -> None:
    await node.stop()
    with pytest.raises(DiskUnreachableError):
        await client.remove(SERVER, PFN, ALICE)
    await node.start()
    await client.remove(SERVER, PFN, ALICE)


async def test_node_closes_in_silence_on_a_token_of_another_key(node: DiskNode) -> None:
    async with client_of(node, KEY[::-1]) as client:
        with pytest.raises(DiskUnknownError):
            await client.remove(SERVER, PFN, ALICE)
    assert [error.fault for error in node.refused_tokens] == ["wrong"]
    assert (node.calls, exists(node)) == ([], True)


async def test_servers_by_address_share_a_port(tmp_path: Path) -> None:
    async with DiskNode("127.0.0.2", {FS: tmp_path}, address="127.0.0.2") as two:  # noqa: SIM117
        async with DiskNode("127.0.0.3", {FS: tmp_path}, address="127.0.0.3", port=two.port) as three:
            disk = DiskConfig(port=two.port)
            async with DiskClient(disk, secret="", dn="", host="") as client:
                await client.remove("127.0.0.3", PFN, ROOT)
            assert (len(two.calls), len(three.calls)) == (0, 1)


async def test_fault_outlives_a_restart(node: DiskNode, client: DiskClient) -> None:
    node.remove_then_hang()
    await node.stop()
    await node.start()
    with pytest.raises(DiskUnknownError, match="in time"):
        await client.call(SERVER, "POST", "dome_pfnrm", {"pfn": PFN}, ALICE, timeout=0.2)
    assert not exists(node)


async def test_empty_directory_is_removed_like_a_file(node: DiskNode, client: DiskClient) -> None:
    await client.remove(SERVER, PFN, ALICE)
    await client.remove(SERVER, PFN.rpartition("/")[0], ALICE)
    assert list(node.file_systems[FS].iterdir()) == [node.file(f"{FS}/atlas")]
    assert list((node.file_systems[FS] / "atlas").iterdir()) == []


@pytest.mark.parametrize("size", ["5", "0", ""])
async def test_putdone_tells_the_head_the_size_of_the_file(head: Head, served: DiskNode, size: str) -> None:
    store(served, PFN, b"12345")
    head.answers["dome_putdone"] = lambda _: web.Response(text="dome_putdone successful.")
    given = {"pfn": PFN, "server": "", "size": size, "lfn": "/dpm/x"}
    hint = {"checksumtype": "checksum.adler32", "checksumvalue": "1a0b045d"}
    answer = await order(served, "dome_putdone", **given, **hint)
    assert (answer.status, answer.text) == (200, "dome_putdone successful.")
    assert head.reports("dome_putdone") == [{**given, "server": SERVER, "size": "5", **hint}]
    assert list(head.reports("dome_putdone")[0]) == [*given, *hint]
    assert head.heard[0].user == {
        "remoteclientdn": ALICE.dn,
        "remoteclienthost": ALICE.host,
        "remoteclientgroups": "atlas",
    }


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"pfn": "relative"}, 400),
        ({"pfn": PFN, "checksumtype": "checksum.md5"}, 400),
        ({"pfn": PFN, "checksumvalue": "1"}, 400),
        ({"pfn": PFN, "checksumtype": "md5", "checksumvalue": "1"}, 400),
        ({"pfn": f"{FS}/absent", "size": "4"}, 404),
        ({"pfn": "/elsewhere", "size": "4"}, 404),
        ({"pfn": PFN, "size": "4"}, 400),
    ],
)
async def test_putdone_that_cannot_be_right_does_not_reach_the_head(
    head: Head, served: DiskNode, body: dict[str, str], status: int
) -> None:
    store(served, PFN, b"12345")
    assert (await refused(served, "dome_putdone", **body)).status == status
    assert head.heard == []


async def test_failure_of_the_head_is_a_500_of_putdone(head: Head, served: DiskNode) -> None:
    store(served, PFN, b"12345")
    head.refuses("dome_putdone", 422, "Invalid status for replica")
    refusal = await refused(served, "dome_putdone", pfn=PFN, size="5")
    assert (refusal.status, "Invalid status for replica" in refusal.text) == (500, True)
    served.use_head(HeadAccess("http://127.0.0.1:9/domehead"))
    refusal = await refused(served, "dome_putdone", pfn=PFN, size="5")
    assert (refusal.status, "cannot be reached" in refusal.text) == (500, True)
    assert [told.status for told in served.told] == [422, 0]


async def test_lying_node_reports_another_size(head: Head, served: DiskNode) -> None:
    store(served, PFN, b"12345")
    served.lie_about_size(7)
    await order(served, "dome_putdone", pfn=PFN, size="12", lfn="/dpm/x")
    served.heal()
    await order(served, "dome_putdone", pfn=PFN, size="5", lfn="/dpm/x")
    assert [report["size"] for report in head.reports("dome_putdone")] == ["12", "5"]


DATA = b"some bytes" * 100_000
SUMS = {
    "md5": hashlib.md5(DATA).hexdigest(),
    "adler32": f"{zlib.adler32(DATA):08x}",
    "crc32": str(zlib.crc32(DATA)),
    "sha256": hashlib.sha256(DATA).hexdigest(),
}


@pytest.mark.parametrize("kind", SUMS)
async def test_checksum_is_calculated_and_reported(head: Head, served: DiskNode, kind: str) -> None:
    store(served, PFN, DATA)
    body = {"checksum-type": kind, "update-lfn-checksum": "true", "pfn": PFN, "lfn": "/dpm/x"}
    assert (await order(served, "dome_dochksum", **body)).status == 202
    (report,) = await head.hears("dome_chksumstatus")
    expected = {"lfn": "/dpm/x", "pfn": f"{SERVER}:{PFN}", "checksum-type": kind, "status": "done"}
    assert report == {**expected, "checksum": SUMS[kind], "update-lfn-checksum": "true"}
    assert head.heard[0].user == {"remoteclientdn": ALICE.dn, "remoteclienthost": ALICE.host}


@pytest.mark.parametrize(("kind", "pfn"), [("bad", PFN), ("md5", f"{FS}/absent"), ("md5", "/etc/hostname")])
async def test_checksum_that_cannot_be_had_is_aborted_with_the_reason(
    head: Head, served: DiskNode, kind: str, pfn: str
) -> None:
    store(served, PFN, b"12345")
    await order(served, "dome_dochksum", **{"checksum-type": kind, "pfn": pfn, "lfn": "/dpm/x"})
    (report,) = await head.hears("dome_chksumstatus")
    assert list(report) == ["lfn", "pfn", "checksum-type", "status", "reason"]
    assert report["status"] == "aborted"
    assert "unable to extract checksum" in report["reason"]


async def test_checksum_under_way_is_reported_as_pending(head: Head, served: DiskNode, clock: Clock) -> None:
    store(served, PFN, b"12345")
    served.slow_data(0.3)
    await order(served, "dome_dochksum", **{"checksum-type": "md5", "pfn": PFN, "lfn": "/dpm/x"})
    for count in (1, 2):
        clock.tick()
        await head.hears("dome_chksumstatus", count)
    served.heal()
    reports = await head.hears("dome_chksumstatus", 3)
    assert [report["status"] for report in reports] == ["pending", "pending", "done"]
    assert list(reports[0]) == ["lfn", "pfn", "checksum-type", "status"]
    assert reports[2]["update-lfn-checksum"] == "false"
    assert set(clock.naps) == {10.0}


async def test_node_that_stops_does_not_wait_for_a_checksum(
    head: Head, served: DiskNode, clock: Clock
) -> None:
    store(served, PFN, b"12345")
    served.slow_data(60)
    await order(served, "dome_dochksum", **{"checksum-type": "md5", "pfn": PFN, "lfn": "/dpm/x"})
    await eventually(lambda: bool(clock.naps))
    async with asyncio.timeout(5):
        await served.stop()
    assert head.heard == []


@pytest.mark.parametrize("missing", ["checksum-type", "pfn", "lfn"])
async def test_dochksum_needs_to_know_what_of_which(head: Head, served: DiskNode, missing: str) -> None:
    body = {"checksum-type": "md5", "pfn": PFN, "lfn": "/dpm/x", missing: ""}
    assert (await refused(served, "dome_dochksum", **body)).status == 422
    assert head.heard == []


PULL = {"lfn": "/dpm/x", "pfn": PFN, "neededspace": "1000", "checksum-type": "md5"}


async def test_pulled_file_is_reported_with_size_and_checksum(
    head: Head, served: DiskNode, clock: Clock
) -> None:
    brings = asyncio.Event()

    async def hook(lfn: str, file: Path, needed: int) -> str:
        assert (lfn, needed) == ("/dpm/x", 1000)
        await brings.wait()
        await asyncio.to_thread(file.write_bytes, b"1234567")
        return "fetched\n>>>>> HASH deadbeef\n"

    served.pull_hook = hook
    assert (await order(served, "dome_pull", **PULL)).status == 202
    clock.tick()
    await head.hears("dome_pullstatus")
    brings.set()
    pending, done = await head.hears("dome_pullstatus", 2)
    known = {"lfn": "/dpm/x", "pfn": PFN, "server": SERVER, "checksum-type": "md5"}
    assert pending == {**known, "status": "pending"}
    assert done == {**known, "status": "done", "checksum": "deadbeef", "filesize": "7"}
    assert list(done) == ["lfn", "pfn", "server", "checksum-type", "status", "checksum", "filesize"]


async def test_pull_without_a_file_is_aborted(head: Head, served: DiskNode) -> None:
    async def brings_nothing(*_: object) -> str:
        return ""

    async def fails(*_: object) -> str:
        raise RuntimeError("no such file anywhere")

    served.pull_hook = brings_nothing
    await order(served, "dome_pull", **PULL)
    await head.hears("dome_pullstatus")
    served.pull_hook = fails
    await order(served, "dome_pull", **PULL)
    reports = await head.hears("dome_pullstatus", 2)
    assert [report["status"] for report in reports] == ["aborted", "aborted"]
    assert "no such file anywhere" in reports[1]["reason"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"lfn": ""}, 422),
        ({"pfn": ""}, 422),
        ({"pfn": "/elsewhere/x"}, 422),
        ({"neededspace": "20000000"}, 422),
        ({"neededspace": "0"}, 500),
    ],
)
async def test_pull_that_cannot_be_done_is_refused(
    head: Head, served: DiskNode, body: dict[str, str], status: int
) -> None:
    async def hook(*_: object) -> str:
        raise AssertionError("called")

    served.pull_hook = hook
    assert (await refused(served, "dome_pull", **{**PULL, **body})).status == status
    assert head.heard == []


async def test_pull_without_a_hook_is_refused(served: DiskNode) -> None:
    assert (await refused(served, "dome_pull", **PULL)).status == 500


def deletes(served: DiskNode) -> Callable[[Heard], web.Response]:
    """What a head does with dome_delreplica."""

    def delete(heard: Heard) -> web.Response:
        assert heard.body is not None
        file = served.file(heard.body["pfn"])
        assert file is not None
        file.unlink()
        return web.Response()

    return delete


async def test_makespace_deletes_the_oldest_through_the_head(head: Head, served: DiskNode) -> None:
    for date in ("2024-05-02", "2023-12-31", "2024-05-01"):
        store(served, f"{FS}/atlas/{date}/f", b"x" * 100)
    store(served, f"{FS}/atlas/notadate/f", b"x" * 100)
    store(served, f"{FS}/cms/2020-01-01/f", b"x" * 100)
    head.answers["dome_delreplica"] = deletes(served)
    enough = {"fs": FS, "vo": "atlas", "size": "150"}
    await order(served, "dome_makespace", **enough)
    assert head.heard == []
    await order(served, "dome_makespace", **enough, **{"ensure-space": "false"})
    victims = [f"{FS}/atlas/{date}/f" for date in ("2023-12-31", "2024-05-01")]
    assert head.reports("dome_delreplica") == [{"pfn": pfn, "server": SERVER} for pfn in victims]
    assert (await refused(served, "dome_makespace", fs=FS, vo="atlas", size="20000000")).status == 422
    assert len(head.heard) == 3


async def test_pull_makes_room_among_the_files_of_its_vo(head: Head, served: DiskNode) -> None:
    async def hook(lfn: str, file: Path, needed: int) -> str:
        await asyncio.to_thread(file.write_bytes, b"1")
        return ""

    served.pull_hook = hook
    served.store.capacities[FS] = 1050
    store(served, f"{FS}/atlas/2024-05-02/f", b"x" * 100)
    head.answers["dome_delreplica"] = deletes(served)
    await order(served, "dome_pull", **PULL)
    (report,) = await head.hears("dome_pullstatus")
    assert (report["status"], len(head.reports("dome_delreplica"))) == ("done", 1)


@pytest.mark.parametrize(
    "wrong",
    [{"fs": "/elsewhere"}, {"fs": ""}, {"vo": ""}, {"vo": "../x"}, {"size": "0"}, {"size": "3000000000"}],
)
async def test_makespace_without_sense_is_refused(served: DiskNode, wrong: dict[str, str]) -> None:
    body = {"fs": FS, "vo": "atlas", "size": "150", **wrong}
    assert (await refused(served, "dome_makespace", **body)).status == 400


@pytest.fixture
async def learner(head: Head, clock: Clock, tmp_path: Path) -> AsyncIterator[DiskNode]:
    node = DiskNode(SERVER, {FS: tmp_path}, head=HeadAccess(head.url), learns=True, sleep=clock.sleep)
    store(node, PFN, b"12345")
    async with node:
        yield node


async def test_node_has_no_file_system_before_the_head_names_it(
    head: Head, learner: DiskNode, clock: Clock
) -> None:
    head.knows({"other.example.org": {FS: {}}})
    await head.hears("dome_getspaceinfo")
    assert (head.heard[0].method, head.heard[0].body, head.heard[0].user) == ("GET", None, {})
    assert (await refused(learner, "dome_pfnrm", pfn=PFN)).status == 422
    assert (await refused(learner, "dome_statpfn", pfn=PFN)).status == 404
    assert (await order(learner, "dome_statpfn", pfn=FS, matchfs="false")).status == 200
    assert await spaces(learner) == {}
    head.knows({SERVER: {FS: {}, "/srv/dpm/unmounted": {}}})
    await learner.learn()
    rooms = (await spaces(learner))["fsinfo"][SERVER]
    assert {fs: room["activitystatus"] for fs, room in rooms.items()} == {FS: "1", "/srv/dpm/unmounted": "2"}
    await order(learner, "dome_pfnrm", pfn=PFN)


async def test_node_asks_the_head_at_its_start_and_then_every_so_often(
    head: Head, learner: DiskNode, clock: Clock
) -> None:
    await head.hears("dome_getspaceinfo")
    head.knows({SERVER: {FS: {}}})
    clock.tick()
    await eventually(lambda: len(learner.told) == 2)
    assert (await order(learner, "dome_statpfn", pfn=PFN)).status == 200
    assert set(clock.naps) == {60.0}


@pytest.mark.parametrize("text", ["{}", "garbage", '{"fsinfo": ""}', '{"fsinfo": {"disk1.example.org": ""}}'])
async def test_node_keeps_what_it_knows_until_it_is_restarted(
    head: Head, learner: DiskNode, text: str
) -> None:
    head.knows({SERVER: {FS: {}}})
    await learner.learn()
    head.answers["dome_getspaceinfo"] = lambda _: web.Response(text=text)
    await learner.learn()
    assert (await order(learner, "dome_statpfn", pfn=PFN)).status == 200
    await learner.stop()
    await learner.start()
    assert (await refused(learner, "dome_statpfn", pfn=PFN)).status == 404
