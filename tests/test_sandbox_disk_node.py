"""The sandbox's disk node, as the head's client sees it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from dome_bridge.config_sections import DiskConfig
from dome_bridge.dome_api.disk_client import (
    DiskClient,
    DiskRefusedError,
    DiskUnknownError,
    DiskUnreachableError,
)
from dome_bridge.dome_api.request import RemoteUser
from sandbox.disk_node import DiskNode

KEY = "0123456789abcdef0123456789abcdef"
SERVER = "disk1.example.org"
FS = "/srv/dpm/fs1"
PFN = f"{FS}/atlas/2024-05-01/file.7.1714521600"
ALICE = RemoteUser("/DC=org/CN=Alice Tester", "192.0.2.7", ("atlas",))
ROOT = RemoteUser()


def client_of(node: DiskNode, secret: str = KEY) -> DiskClient:
    disk = DiskConfig(connect_seconds=5.0, request_seconds=5.0)
    return DiskClient(
        disk, secret=secret, dn="/CN=head", host="192.0.2.1", resolve=lambda _: (node.address, node.port)
    )


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
