"""`dpm-pool-link` against a real head: the feed by the API, for a disk server's host certificate."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dome_bridge.config import ListenConfig, TlsConfig
from dome_bridge.dome_api.service import ApiService
from dome_bridge.exporter.links import LinkFeed, Page
from sandbox.pki import Authority, Credential, TrustDirectory
from sandbox.servers import MariaServer, PostgresServer
from tests.fixtures.dome import Silent
from tests.fixtures.links import RealDisk, open_linked
from tests.fixtures.mirror import HOME
from tests.fixtures.pool_link import PROGRAM

DISK, OTHER, HEAD = "disk05.example.org", "disk02.example.org", "head.example.org"


class SmallPages(LinkFeed):
    """So that a few files make several."""

    async def page(self, server: str, *, since: str = "", checksums: bool = False, limit: int = 2) -> Page:
        return await super().page(server, since=since, checksums=checksums, limit=limit)


@dataclass
class Served:
    """The head with its API, a disk server with files, and whoever asks."""

    disk: RealDisk
    directory: Path
    ca: Authority
    port: int

    def arguments(self, command: str, *options: str, server: str = DISK, shows: str = DISK) -> list[str]:
        state = [] if command == "verify" else ["--state", str(self.directory / "state")]
        return [
            *(sys.executable, str(PROGRAM), command, *state),
            *("--feed", f"https://localhost:{self.port}", "--server", server),
            *("--cert", str(self.directory / f"{shows}cert.pem")),
            *("--key", str(self.directory / f"{shows}key.pem")),
            *("--ca-dir", str(self.directory / "certificates"), "--progress", "0"),
            *("--report", str(self.directory / "report"), *options),
        ]

    def issue(self, name: str) -> None:
        self.ca.host(name).write_pair(self.directory, name)

    async def run(self, *arguments: str, **who: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *self.arguments(*arguments, **who), stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
        return process.returncode or 0, said.decode()


@pytest.fixture(scope="module")
async def served(
    maria: MariaServer, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    directory = tmp_path_factory.mktemp("served")
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(open_linked(maria, postgres))
        disk = RealDisk(site, DISK, directory / "fs", f"{HOME}/served")
        await disk.register()
        await site.follow()
        ca = Authority.root()
        TrustDirectory(directory / "certificates").add(ca)
        port = await stack.enter_async_context(_api(disk, directory, ca.host("localhost", HEAD)))
        found = Served(disk, directory, ca, port)
        for name in (DISK, OTHER, "stranger.example.org"):
            found.issue(name)
        yield found


@asynccontextmanager
async def _api(disk: RealDisk, directory: Path, host: Credential) -> AsyncIterator[int]:
    certificate, key = host.write_pair(directory)
    (directory / "mapfile").write_text("")
    config = disk.site.config
    tls = TlsConfig(certificate=certificate, key=key, ca_dir=directory / "certificates")
    listen = (ListenConfig(address="127.0.0.1", port=0, protocol="https"),)
    config = replace(
        config,
        api=replace(config.api, enabled=True, host_names=(HEAD,), listen=listen, tls=tls),
        auth=replace(config.auth, gridmap_file=directory / "mapfile", jwks_cache_dir=None),
    )
    async with ApiService(config, Silent(), links=SmallPages(config), stop_seconds=1.0) as service:
        yield service.ports[0]


async def test_links_follow_uploads_and_deletions_of_a_site(served: Served) -> None:
    disk = served.disk
    kept = {await disk.upload(f"kept{number}", b"k" * number) for number in range(5)}
    gone = await disk.upload("gone", b"soon deleted")
    await disk.site.follow()
    code, said = await served.run("link")
    assert (code, disk.links()) == (0, kept | {gone}), said
    await disk.delete("gone")
    new = await disk.upload("new", b"just come")
    await disk.site.follow()
    code, said = await served.run("link")
    assert (code, disk.links()) == (0, kept | {new}), said
    assert "1 linked, 1 removed" in said


async def test_verify_compares_checksums_of_chimera_with_the_data(served: Served) -> None:
    content = b"what is summed up"
    good, bad = [await served.disk.upload(name, content) for name in ("good", "bad")]
    for fileid, value in ((good, f"{zlib.adler32(content):08x}"), (bad, "00000bad")):
        await served.disk.site.catalog.update(fileid, csumtype="AD", csumvalue=value)
    await served.disk.site.follow()
    await served.run("link")
    code, said = await served.run("verify", "--adler32", "100")
    assert code == 1, said
    rows = [json.loads(line) for line in (served.directory / "report").read_text().splitlines()]
    assert {(int(row["pnfsid"][20:], 16), row["problem"]) for row in rows} == {(bad, "checksum")}
    await served.disk.site.catalog.unlink(f"{served.disk.home}/bad")
    await served.disk.site.follow()


async def test_feed_is_followed_until_told_to_stop(served: Served) -> None:
    disk = served.disk
    process = await asyncio.create_subprocess_exec(*served.arguments("link", "--follow", "0.1"))
    try:
        fileid = await disk.upload("followed", b"while it runs")
        await disk.site.follow()
        await _until(lambda: fileid in disk.links())
        await disk.delete("followed")
        await disk.site.follow()
        await _until(lambda: fileid not in disk.links())
    finally:
        process.send_signal(signal.SIGTERM)
        code = await process.wait()
    assert code == 0


async def _until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(("server", "shows"), [(DISK, OTHER), (DISK, "stranger.example.org"), (OTHER, DISK)])
async def test_nobody_gets_the_feed_of_another_server(served: Served, server: str, shows: str) -> None:
    code, said = await served.run("link", server=server, shows=shows)
    assert (code, "answered 403" in said) == (2, True), said


async def test_server_that_the_catalog_does_not_know_is_told_so(served: Served) -> None:
    code, said = await served.run("link", server="", shows=DISK)
    assert (code, "answered 4" in said) == (2, True), said


async def test_certificate_that_cannot_be_read_is_named(served: Served) -> None:
    code, said = await served.run("link", shows="nobody")
    assert (code, "nobodycert.pem" in said) == (2, True), said


async def test_head_of_an_unknown_authority_is_not_believed(served: Served, tmp_path: Path) -> None:
    code, said = await served.run("link", "--ca-dir", str(tmp_path))
    assert (code, "CERTIFICATE_VERIFY_FAILED" in said) == (2, True), said


async def test_killed_at_any_instant_and_run_again_it_completes(served: Served) -> None:
    """What it remembers and what it makes agree whenever it dies."""
    disk = served.disk
    before = disk.links()
    wanted = {await disk.upload(f"many{number}", b"m") for number in range(30)}
    await disk.site.follow()
    for delay in (0.05, 0.12, 0.2):
        process = await asyncio.create_subprocess_exec(
            *served.arguments("link", "--full"), stderr=asyncio.subprocess.DEVNULL
        )
        await asyncio.sleep(delay)
        if process.returncode is None:
            process.kill()
        await process.wait()
    code, said = await served.run("link")
    assert code == 0, said
    assert wanted <= disk.links()
    assert before - wanted <= disk.links()
    undone = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), "undo", "--state", str(served.directory / "state")),
        stderr=asyncio.subprocess.DEVNULL,
        env=dict(os.environ),
    )
    assert await undone.wait() == 0
    assert disk.links() == set()
