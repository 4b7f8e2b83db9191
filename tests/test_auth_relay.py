"""xrootd behind a shared port: bytes pass unchanged, both ways, at the pace of the slower side.

With sockets whose every byte is ours, and with a real xrootd and its clients.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from dome_bridge.config import Endpoint
from dome_bridge.dome_api import xrootd_relay
from sandbox.servers import free_port
from tests.fixtures.http import read_answer
from tests.fixtures.listeners import (
    ASKING,
    LOCAL,
    PATIENCE,
    Hall,
    Place,
    Site,
    in_uvloop,
    listening,
    make_listeners,
    make_site,
)
from tests.fixtures.xrootd import XrootdServer, needs_xrootd

HANDSHAKE = bytes(12) + b"\0\0\0\4\0\0\7\xdc"
PROTOCOL_REQUEST = b"\0\0\x0b\xbe\0\0\5\x11" + bytes(16)
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"))


class Upstream:
    """In xrootd's place. accepted: each connection, a plain socket that the test reads and writes."""

    def __init__(self) -> None:
        self._listening = socket.create_server((LOCAL, 0))
        self._listening.setblocking(False)
        self.endpoint = Endpoint(LOCAL, self._listening.getsockname()[1])

    async def accept(self) -> socket.socket:
        async with asyncio.timeout(PATIENCE):
            client, _ = await asyncio.get_running_loop().sock_accept(self._listening)
        return client

    def close(self) -> None:
        self._listening.close()


class Line(NamedTuple):
    """A client's connection through the shared port, and the one that came out of it."""

    client: socket.socket
    server: socket.socket

    async def send(self, end: socket.socket, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_sendall(end, data)

    async def receive(self, end: socket.socket, size: int = MEGABYTE) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.get_running_loop().sock_recv(end, size)

    async def is_ended(self, end: socket.socket) -> bool:
        try:
            return await self.receive(end) == b""
        except ConnectionError:
            return True

    async def receive_all(self, end: socket.socket) -> bytes:
        pieces = []
        while piece := await self.receive(end):
            pieces.append(piece)
        return b"".join(pieces)


async def connected(port: int) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, (LOCAL, port))
    return client


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture
async def place(site: Site, upstream: Upstream) -> AsyncIterator[Place]:
    async with listening("mixed", tls=site.tls, upstream=upstream.endpoint) as place:
        yield place


@asynccontextmanager
async def line(place: Place, upstream: Upstream) -> AsyncIterator[Line]:
    """With xrootd's handshake sent and received."""
    with await connected(place.port) as client:
        client.sendall(HANDSHAKE)
        with await upstream.accept() as server:
            both = Line(client, server)
            assert await both.receive(server) == HANDSHAKE
            yield both


@pytest.mark.parametrize("cut", [1, 5, 12, 16, 19, 20, 44])
async def test_handshake_is_handed_on_in_one_piece_however_it_comes(
    place: Place, upstream: Upstream, cut: int
) -> None:
    """xrootd resets a connection on which fewer than twenty bytes have come when it looks."""
    first = HANDSHAKE + PROTOCOL_REQUEST
    with await connected(place.port) as client:
        client.sendall(first[:cut])
        await asyncio.sleep(0.05)
        if cut < 44:
            client.sendall(first[cut:])
        with await upstream.accept() as server:
            both = Line(client, server)
            seen = await both.receive(server)
            assert len(seen) >= len(HANDSHAKE)
            while len(seen) < len(first):
                seen += await both.receive(server)
    assert seen == first


async def test_bytes_pass_unchanged_in_both_directions(place: Place, upstream: Upstream) -> None:
    up, down = os.urandom(3 * MEGABYTE), os.urandom(3 * MEGABYTE)
    async with line(place, upstream) as both:

        async def say(end: socket.socket, data: bytes) -> None:
            await both.send(end, data)
            end.shutdown(socket.SHUT_WR)

        _, _, received, answered = await asyncio.gather(
            say(both.client, up),
            say(both.server, down),
            both.receive_all(both.server),
            both.receive_all(both.client),
        )
    assert (received == up, answered == down) == (True, True)


async def test_side_that_has_said_all_still_hears(place: Place, upstream: Upstream) -> None:
    async with line(place, upstream) as both:
        both.client.shutdown(socket.SHUT_WR)
        assert await both.receive(both.server) == b""
        await both.send(both.server, b"the answer")
        assert await both.receive(both.client) == b"the answer"
        both.server.shutdown(socket.SHUT_WR)
        assert await both.receive(both.client) == b""


@pytest.mark.parametrize("talker", ["client", "server"])
async def test_sender_is_held_back_by_a_receiver_that_does_not_read(
    place: Place, upstream: Upstream, talker: str
) -> None:
    async with line(place, upstream) as both:
        sender, receiver = (both.client, both.server) if talker == "client" else (both.server, both.client)
        sent, piece = 0, bytes(64 * 1024)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                while True:
                    await asyncio.get_running_loop().sock_sendall(sender, piece)
                    sent += len(piece)
        # What the kernel's buffers of four sockets hold, and no more.
        assert sent < 32 * MEGABYTE
        received = 0
        while received < sent:
            received += len(await both.receive(receiver))


async def test_others_are_served_while_a_fast_transfer_goes_on(
    place: Place, upstream: Upstream, site: Site
) -> None:
    async with line(place, upstream) as both:

        async def swallow() -> None:
            while await both.receive(both.server):
                pass

        async def flood() -> None:
            while True:
                await both.send(both.client, bytes(256 * 1024))
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(swallow()), asyncio.create_task(flood())]
        for context in (None, site.client()):
            reader, writer = await asyncio.open_connection(LOCAL, place.port, ssl=context)
            for _ in range(5):
                writer.write(ASKING)
                assert (await asyncio.wait_for(read_answer(reader), 5)).status == 200
            writer.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_transfer_between_fast_ends_leaves_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xrootd_relay, "PIECE_BYTES", 1024)
    turns, pairs = 0, [socket.socketpair() for _ in range(2)]
    (sender, source), (sink, receiver) = pairs
    with sender, source, sink, receiver:
        source.setblocking(False)
        sink.setblocking(False)
        sender.sendall(bytes(64 * 1024))
        sender.shutdown(socket.SHUT_WR)
        transfer = asyncio.create_task(xrootd_relay.pump(source, sink))
        while not transfer.done():
            turns += 1
            await asyncio.sleep(0)
    assert turns >= 64


@pytest.mark.parametrize("loser", ["client", "server"])
async def test_connection_lost_on_one_side_ends_the_other(
    place: Place, upstream: Upstream, loser: str
) -> None:
    async with line(place, upstream) as both:
        lost, left = (both.client, both.server) if loser == "client" else (both.server, both.client)
        lost.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        lost.close()
        assert await both.is_ended(left)


async def test_xrootd_that_is_down_closes_the_connection_and_is_told(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = Endpoint(LOCAL, free_port())
    async with listening("mixed", tls=site.tls, upstream=endpoint) as place:
        with await connected(place.port) as client:
            client.sendall(HANDSHAKE)
            assert await Line(client, client).is_ended(client)
    assert f"xrootd cannot be reached upstream={endpoint}" in caplog.text


async def test_xrootd_is_named_by_a_host_name_too(site: Site, upstream: Upstream) -> None:
    endpoint = Endpoint("localhost", upstream.endpoint.port)
    async with (
        listening("mixed", tls=site.tls, upstream=endpoint) as place,
        line(place, upstream) as both,
    ):
        await both.send(both.server, b"welcome")
        assert await both.receive(both.client) == b"welcome"


async def test_end_of_the_listeners_cuts_the_line(site: Site, upstream: Upstream) -> None:
    listeners = make_listeners(Hall(), "mixed", tls=site.tls, upstream=upstream.endpoint)
    await listeners.start()
    async with line(Place(Hall(), listeners), upstream) as both:
        async with asyncio.timeout(2):
            await listeners.stop()
        assert await both.is_ended(both.client)
        assert await both.is_ended(both.server)


async def test_l5_relayed_connections_count_for_their_source(site: Site, upstream: Upstream) -> None:
    async with listening(
        "mixed", tls=site.tls, upstream=upstream.endpoint, connections_per_source=1
    ) as place:
        async with line(place, upstream):
            with await connected(place.port) as second:
                assert await Line(second, second).is_ended(second)
            assert place.hall.rules == ["L5"]
        await asyncio.sleep(0.05)
        async with line(place, upstream):
            pass


async def pass_in_uvloop(site: Site) -> None:
    data, upstream = os.urandom(2 * MEGABYTE), Upstream()
    async with listening("mixed", tls=site.tls, upstream=upstream.endpoint) as place:
        async with line(place, upstream) as both:
            for source, sink in ((both.client, both.server), (both.server, both.client)):
                sending = asyncio.create_task(both.send(source, data))
                received = b""
                while len(received) < len(data):
                    received += await both.receive(sink)
                await sending
                assert received == data
            both.client.shutdown(socket.SHUT_WR)
            assert await both.is_ended(both.server)
            await both.send(both.server, b"last words")
            assert await both.receive(both.client) == b"last words"
        async with line(place, upstream) as both:
            await place.listeners.stop()
            assert await both.is_ended(both.client)
    upstream.close()


async def test_bytes_pass_in_uvloop(site: Site) -> None:
    await in_uvloop(pass_in_uvloop(site))


# The real thing


@pytest.fixture(scope="module")
async def xrootd() -> AsyncIterator[XrootdServer]:
    async with XrootdServer() as xrootd:
        yield xrootd


@pytest.fixture
async def shared(site: Site, xrootd: XrootdServer) -> AsyncIterator[Place]:
    endpoint = Endpoint(LOCAL, xrootd.port)
    async with listening("mixed", tls=site.tls, upstream=endpoint) as place:
        yield place


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@needs_xrootd
async def test_xrdfs_lists_and_changes_the_namespace_through_the_shared_port(
    shared: Place, xrootd: XrootdServer
) -> None:
    server = f"{LOCAL}:{shared.port}"
    await xrootd.run_client(xrootd.xrdfs, server, "mkdir", "/made")
    assert (xrootd.data / "made").is_dir()
    assert "/made" in await xrootd.run_client(xrootd.xrdfs, server, "ls", "/")
    await xrootd.run_client(xrootd.xrdfs, server, "rmdir", "/made")
    assert not (xrootd.data / "made").exists()
    assert shared.hall.contacts == []


@needs_xrootd
async def test_xrdcp_copies_both_ways_while_http_and_tls_go_on_beside(
    shared: Place, xrootd: XrootdServer, site: Site, tmp_path: Path
) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(8 * MEGABYTE))
    url = f"root://{LOCAL}:{shared.port}//copied"
    copying = asyncio.Event()

    async def ask_beside(context: ssl.SSLContext | None) -> int:
        asked = 0
        reader, writer = await asyncio.open_connection(LOCAL, shared.port, ssl=context)
        while not copying.is_set() or not asked:
            writer.write(ASKING)
            assert (await asyncio.wait_for(read_answer(reader), PATIENCE)).status == 200
            asked += 1
            await asyncio.sleep(0.005)
        writer.transport.abort()
        return asked

    beside = [asyncio.create_task(ask_beside(context)) for context in (None, site.client())]
    try:
        await xrootd.run_client(xrootd.xrdcp, "--nopbar", str(source), url)
        await xrootd.run_client(xrootd.xrdcp, "--nopbar", url, str(back))
    finally:
        copying.set()
    asked = await asyncio.gather(*beside)
    assert digest(xrootd.data / "copied") == digest(source) == digest(back)
    assert min(asked) > 3
    assert {contact.transport.value for contact in shared.hall.contacts} == {"plain", "tls"}


@needs_xrootd
async def test_several_clients_of_xrootd_at_a_time_get_what_is_theirs(
    shared: Place, xrootd: XrootdServer, tmp_path: Path
) -> None:
    sources = [tmp_path / f"source{number}" for number in range(3)]
    for source in sources:
        source.write_bytes(os.urandom(MEGABYTE))
    base = f"root://{LOCAL}:{shared.port}/"
    await asyncio.gather(
        *(xrootd.run_client(xrootd.xrdcp, "--nopbar", str(each), f"{base}/{each.name}") for each in sources)
    )
    assert [digest(xrootd.data / each.name) for each in sources] == [digest(each) for each in sources]


@needs_xrootd
async def test_xrootd_that_ends_is_noticed_and_its_return_too(site: Site) -> None:
    async with (
        XrootdServer() as xrootd,
        listening("mixed", tls=site.tls, upstream=Endpoint(LOCAL, xrootd.port)) as place,
    ):
        server = f"{LOCAL}:{place.port}"
        await xrootd.run_client(xrootd.xrdfs, server, "ls", "/")
        with await connected(place.port) as client:
            client.sendall(HANDSHAKE + PROTOCOL_REQUEST)
            both = Line(client, client)
            assert await both.receive(client)
            await xrootd.kill()
            assert await both.is_ended(client)
        await xrootd.start()
        await xrootd.run_client(xrootd.xrdfs, server, "ls", "/")
