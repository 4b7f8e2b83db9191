"""What clients write through the DOME API appears in Chimera like anybody's writes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dome_bridge.config import ApiConfig, AuthConfig, ListenConfig
from dome_bridge.dome_api.service import ApiService
from sandbox.disk_node import DiskNode
from tests.fixtures.dome import FRONTEND, SECRET, Silent
from tests.fixtures.http import Answer, HttpConnection
from tests.fixtures.mirror import HOME, PLACES, Mirrored

ALICE = "/DC=org/DC=example/CN=Alice"


class Clients:
    """A front-end that calls for Alice, and one that calls for nobody (root)."""

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection

    async def ask(self, command: str, *, dn: str = ALICE, **values: object) -> Answer:
        body = json.dumps(values).encode()
        headers = ["x-ssl-client-verify: SUCCESS", f"x-ssl-client-s-dn: {FRONTEND}"]
        headers += [f"remoteclientdn: {dn}", "remoteclientgroups: dteam"] if dn else []
        lines = [f"POST /domehead/command/dome_{command} HTTP/1.1", "Host: head", *headers]
        head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", ""))
        return await self._connection.exchange(head.encode() + body)

    async def write(self, command: str, **values: object) -> None:
        answer = await self.ask(command, dn="", **values)
        assert answer.status == 200, (command, values, answer)


@asynccontextmanager
async def serving(mirrored: Mirrored, directory: Path) -> AsyncIterator[tuple[Clients, list[DiskNode]]]:
    """The API over the mirrored catalog, with a disk node at each of its places."""
    config = replace(
        mirrored.config,
        api=ApiConfig(enabled=True, listen=(ListenConfig(),)),
        auth=AuthConfig(authorize_dn=(FRONTEND,), gridmap_file=directory / "none", xrdhttp_secret=SECRET),
    )
    async with AsyncExitStack() as stack:
        disks = []
        for number, place in enumerate(PLACES):
            (directory / f"disk{number}").mkdir()
            disk = DiskNode(place.server, {place.fs: directory / f"disk{number}"}, secret=SECRET)
            disks.append(await stack.enter_async_context(disk))
        found = {disk.server: (disk.address, disk.port) for disk in disks}
        service = ApiService(config, Silent(), resolve=found.__getitem__)
        (port,) = (await stack.enter_async_context(service)).ports
        yield Clients(await stack.enter_async_context(HttpConnection("127.0.0.1", port))), disks


def put_file(disk: DiskNode, pfn: str) -> Path:
    file = disk.file(pfn)
    assert file is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * 7)
    return file


@pytest.fixture
async def clients(mirrored: Mirrored, tmp_path: Path) -> AsyncIterator[tuple[Clients, list[DiskNode]]]:
    await mirrored.snapshot_and_follow()
    async with serving(mirrored, tmp_path) as found:
        yield found


async def test_every_kind_of_write_reaches_chimera(
    mirrored: Mirrored, clients: tuple[Clients, list[DiskNode]]
) -> None:
    head, (disk, _) = clients
    place = PLACES[0]
    directory, file, pfn = f"{HOME}/api", f"{HOME}/api/f", f"{place.fs}/dteam/2026-11-22/f.1.1"
    await head.write("makedir", path=directory, mode="1021")
    await head.write("create", path=file, mode="436")
    put_file(disk, pfn)
    xattr = json.dumps({"pool": place.pool, "filesystem": place.fs})
    await head.write("addreplica", rfn=f"{place.server}:{pfn}", lfn=file, xattr=xattr)
    await head.write("setsize", path=file, size="7")
    await head.write("updatexattr", lfn=file, xattr='{"checksum.adler32": "0b6e0349", "who": "é/x"}')
    await head.write("symlink", target=file, link=f"{directory}/l")
    await head.write("setmode", path=file, mode="416")
    await head.write("setacl", path=directory, acl="A70,B7101,C50,E70,F50,a70,c50,f50")
    await head.write("setcomment", lfn=file, comment="no business of Chimera's")
    await head.write("newuser", username="/CN=new")
    await head.write("newgroup", groupname="newvo")
    await head.write("setowner", path=file, uid="101", gid="101")
    await head.write("rename", oldpath=file, newpath=f"{directory}/g")
    await mirrored.follow()
    await mirrored.require_agreement()
    fileid = await mirrored.catalog.fileid(f"{directory}/g")
    assert await mirrored.pools(fileid) != []
    assert await mirrored.value(fileid, "isize") == 7
    assert (await mirrored.verify()).mismatches == 0


async def test_deletions_reach_chimera_and_leave_no_trash(
    mirrored: Mirrored, clients: tuple[Clients, list[DiskNode]]
) -> None:
    head, (disk, _) = clients
    await mirrored.catalog.mkdir(f"{HOME}/old")
    fileid = await mirrored.catalog.file(f"{HOME}/old/f")
    ((rfn,),) = await mirrored.catalog.session.rows(
        f"SELECT sfn FROM Cns_file_replica WHERE fileid = {fileid}"
    )
    on_disk = put_file(disk, str(rfn.decode() if isinstance(rfn, bytes) else rfn).partition(":")[2])
    await mirrored.follow()
    assert await mirrored.path(fileid) is not None
    await head.write("unlink", lfn=f"{HOME}/old/f")
    await head.write("removedir", path=f"{HOME}/old")
    assert not on_disk.exists()
    await mirrored.follow()
    assert await mirrored.path(fileid) is None
    assert await mirrored.trash() == []
    await mirrored.require_agreement()


async def test_deletion_that_a_dead_disk_holds_up_is_mirrored_as_it_stands(
    mirrored: Mirrored, clients: tuple[Clients, list[DiskNode]]
) -> None:
    head, (disk, _) = clients
    fileid = await mirrored.catalog.file(f"{HOME}/held")
    await mirrored.follow()
    disk.remove_then_cut()
    assert (await head.ask("unlink", dn="", lfn=f"{HOME}/held")).status == 500
    await mirrored.follow()
    await mirrored.require_agreement()
    disk.heal()
    await head.write("unlink", lfn=f"{HOME}/held")
    await mirrored.follow()
    assert await mirrored.path(fileid) is None
    await mirrored.require_agreement()
