"""The four listeners: what is spoken, who is let in, for how long, and how they end.

Requests are written byte by byte, over real sockets. Names begin with the number of the requirement.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dome_bridge.auth.principal import Transport
from dome_bridge.config import ListenConfig
from dome_bridge.dome_api import http_server
from dome_bridge.dome_api.front_door import Crowd, FrontDoor, bound_socket, handed_on, source_of
from dome_bridge.dome_api.listeners import Listeners, ListenLimits
from dome_bridge.errors import ConfigError
from tests.fixtures.http import HttpConnection, read_answer
from tests.fixtures.listeners import (
    ASKING,
    HEAD,
    LOCAL,
    PATIENCE,
    Hall,
    Place,
    Site,
    ask,
    eventually,
    in_uvloop,
    is_closed,
    listening,
    make_listeners,
    make_site,
)

XROOTD = bytes(12) + b"\0\0\0\4\0\0\7\xdc"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with listening("http") as place:
        yield place


# What is spoken


@pytest.mark.parametrize(
    ("protocol", "transport"), [("http", Transport.PLAIN), ("proxied", Transport.PROXIED)]
)
async def test_contact_tells_transport_and_address(protocol: str, transport: Transport) -> None:
    async with listening(protocol) as place:
        assert (await ask(place.port)).status == 200
    (contact,) = place.hall.contacts
    assert (contact.transport, contact.address, contact.chain) == (transport, LOCAL, ())


async def test_mixed_listener_serves_plain_http_and_tls_side_by_side(site: Site) -> None:
    async with listening("mixed", tls=site.tls) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port, ssl=site.client())
        for _ in range(2):
            writer.write(ASKING)
            assert (await read_answer(reader)).body == b"tls 0 "
            assert (await ask(place.port)).body == b"plain 0 "
        writer.transport.abort()


@pytest.mark.parametrize("cut", [1, 2, 5])
async def test_first_bytes_may_come_one_by_one(site: Site, cut: int) -> None:
    async with listening("mixed", tls=site.tls) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        for piece in (ASKING[:cut], ASKING[cut:]):
            writer.write(piece)
            await asyncio.sleep(0.03)
        assert (await read_answer(reader)).status == 200
        writer.close()


async def test_tls_whose_first_byte_comes_alone_is_recognised(site: Site) -> None:
    async with listening("mixed", tls=site.tls, handshake_seconds=0.1) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        writer.write(b"\x16")
        await asyncio.sleep(0.05)
        writer.write(b"\x03")
        assert await is_closed(reader)
        writer.close()
        assert [failure.reason for failure in place.hall.failures] == [
            "the handshake was not finished within 0.1 s"
        ]


@pytest.mark.parametrize(
    ("protocol", "first"),
    [
        ("mixed", b"\x80\x2e\x01\x00\x02"),
        ("mixed", XROOTD),
        ("https", ASKING),
        ("https", XROOTD),
    ],
)
async def test_tls5_what_is_not_spoken_there_is_closed_without_an_answer(
    site: Site, protocol: str, first: bytes
) -> None:
    async with listening(protocol, tls=site.tls) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        writer.write(first)
        assert await is_closed(reader)
        writer.close()
        assert (place.hall.rules, place.hall.contacts) == (["TLS5"], [])


async def test_client_that_leaves_without_a_word_is_nobodys_business(site: Site) -> None:
    async with listening("mixed", tls=site.tls) as place:
        for option in (None, struct.pack("ii", 1, 0)):
            client = socket.create_connection((LOCAL, place.port))
            if option:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            client.close()
        assert (await ask(place.port)).status == 200
    assert (place.hall.refusals, place.hall.failures) == ([], [])


async def test_ipv6_is_listened_on() -> None:
    try:
        bound_socket(("::1", 0)).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with listening("http", address="::1") as place:
        reader, writer = await asyncio.open_connection("::1", place.port)
        writer.write(ASKING)
        assert (await read_answer(reader)).status == 200
        writer.close()
    assert place.hall.contacts[0].address == "::1"


async def test_unix_socket_has_no_address(tmp_path: Path) -> None:
    path, hall = tmp_path / "api.sock", Hall()
    listeners = Listeners(
        [ListenConfig(unix_socket=path)],
        hall.respond,
        tls=None,
        limits=ListenLimits(),
        admits=hall,
        observer=hall,
        keepalive_seconds=5,
        stop_seconds=5,
    )
    await listeners.start()
    try:
        assert listeners.ports == []
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(ASKING)
        assert (await read_answer(reader)).status == 200
        writer.close()
    finally:
        await listeners.stop()
    assert (hall.contacts[0].transport, hall.contacts[0].address) == (Transport.PROXIED, "")


# Who is let in


@pytest.mark.parametrize("protocol", ["http", "mixed"])
async def test_k6_plain_http_from_elsewhere_is_closed(site: Site, protocol: str) -> None:
    async with listening(protocol, tls=site.tls) as place:
        place.hall.plain.clear()
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        writer.write(ASKING)
        assert await is_closed(reader)
        writer.close()
        assert (place.hall.rules, place.hall.contacts) == (["K6"], [])
        place.hall.plain.add(LOCAL)
        assert (await ask(place.port)).status == 200


async def test_k6_tls_on_a_mixed_port_is_open_to_all(site: Site) -> None:
    async with listening("mixed", tls=site.tls) as place:
        place.hall.plain.clear()
        reader, writer = await asyncio.open_connection(LOCAL, place.port, ssl=site.client())
        writer.write(ASKING)
        assert (await read_answer(reader)).status == 200
        writer.transport.abort()


async def test_k6_web_server_of_this_machine_needs_no_leave() -> None:
    async with listening("proxied") as place:
        place.hall.plain.clear()
        assert (await ask(place.port)).status == 200


async def test_l5_connections_of_a_source_are_limited(place: Place) -> None:
    async with listening("http", connections_per_source=2) as place:
        present = [await asyncio.open_connection(LOCAL, place.port) for _ in range(2)]
        await asyncio.sleep(0.02)
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        assert await is_closed(reader)
        writer.close()
        assert place.hall.refusals == [(LOCAL, "L5", "there are 2 connections from there")]
        present[0][1].transport.abort()
        await asyncio.sleep(0.02)
        assert (await ask(place.port)).status == 200
        present[1][1].transport.abort()


async def test_l5_place_is_free_again_after_every_kind_of_end(site: Site) -> None:
    endings = [b"", ASKING, b"rubbish\r\n\r\n", b"\x16\x03\x01rubbish!", XROOTD, b"\x80rubbish", HEAD]
    async with listening("mixed", tls=site.tls, connections_per_source=1) as place:
        for first in [*endings, *endings]:
            _, writer = await asyncio.open_connection(LOCAL, place.port)
            writer.write(first)
            await asyncio.sleep(0.01)
            writer.transport.abort()
            await asyncio.sleep(0.03)
        assert "L5" not in place.hall.rules
        assert (await ask(place.port)).status == 200


@pytest.mark.parametrize("protocol", ["http", "proxied"])
async def test_l5_known_servers_and_the_web_server_are_not_counted(protocol: str) -> None:
    hall = Hall(unlimited={LOCAL} if protocol == "http" else set())
    async with listening(protocol, hall=hall, connections_per_source=1) as place:
        present = [await asyncio.open_connection(LOCAL, place.port) for _ in range(3)]
        assert (await ask(place.port)).status == 200
        for _, writer in present:
            writer.transport.abort()


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("fe80::1%2", "fe80::/64"),
        ("", ""),
    ],
)
def test_l5_source_is_an_ipv4_address_or_a_64(address: str, source: str) -> None:
    assert source_of(address) == source


def test_l5_crowd_counts_each_source_on_its_own() -> None:
    crowd = Crowd(1)
    with crowd.joined("a") as first, crowd.joined("a") as second, crowd.joined("b") as other:
        assert (first, second, other) == (True, False, True)
        with crowd.joined("a", is_exempt=True) as exempt:
            assert exempt
    with crowd.joined("a") as again:
        assert again


# For how long


@pytest.mark.parametrize("sent", [b"G", b"GET /x HTTP/1.1\r\n", HEAD])
async def test_l7_head_that_does_not_end_is_given_up(sent: bytes) -> None:
    async with listening("http", header_seconds=0.1) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        writer.write(sent)
        assert await is_closed(reader)
        writer.close()
        assert place.hall.rules == ["L7"]


async def test_l7_head_that_trickles_is_given_up_all_the_same() -> None:
    async with listening("http", header_seconds=0.1) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        async with asyncio.timeout(PATIENCE):
            for byte in HEAD * 100:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.01)
                if place.hall.refusals:
                    break
        assert await is_closed(reader)
        writer.close()
        assert place.hall.rules == ["L7"]


async def test_l7_tls_without_a_request_is_given_up(site: Site) -> None:
    async with listening("https", tls=site.tls, header_seconds=0.1) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port, ssl=site.client())
        assert await is_closed(reader)
        writer.close()
        assert place.hall.rules == ["L7"]


async def test_l7_second_request_has_the_same_time_but_an_idle_connection_more() -> None:
    async with listening("http", header_seconds=0.15) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        for pause in (0, 0.3):
            await asyncio.sleep(pause)
            writer.write(ASKING)
            assert (await read_answer(reader)).status == 200
        assert place.hall.refusals == []
        writer.write(HEAD)
        assert await is_closed(reader)
        writer.close()
        assert place.hall.rules == ["L7"]


async def test_l7_slow_answer_and_slow_body_are_none_of_it() -> None:
    hall = Hall(latency=0.15)
    async with listening("http", hall=hall, header_seconds=0.1) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        writer.write(HEAD + b"Content-Length: 3\r\n\r\n")
        for byte in (b"a", b"b", b"c"):
            await asyncio.sleep(0.06)
            writer.write(byte)
        assert (await read_answer(reader)).body == b"plain 0 abc"
        writer.close()
        assert hall.refusals == []


async def test_l7_idle_connection_is_closed_after_its_time() -> None:
    async with listening("http", keepalive_seconds=0.1) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        writer.write(ASKING)
        assert (await read_answer(reader)).status == 200
        assert await is_closed(reader)
        writer.close()


async def test_r4_old_connection_ends_after_the_request_in_work() -> None:
    async with listening("http", connection_seconds=0.1) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        writer.write(ASKING)
        young = await read_answer(reader)
        await asyncio.sleep(0.15)
        writer.write(ASKING)
        old = await read_answer(reader)
        assert (young.status, young.is_last, old.status, old.is_last) == (200, False, 200, True)
        assert await is_closed(reader)
        writer.close()


# How they end


async def test_running_request_is_finished_and_its_connection_closed() -> None:
    hall = Hall(latency=0.2)
    listeners = make_listeners(hall, "http")
    await listeners.start()
    async with HttpConnection(LOCAL, listeners.ports[0]) as client:
        running = asyncio.create_task(client.exchange(ASKING))
        await eventually(lambda: hall.contacts)
        await listeners.stop()
        assert (await running).status == 200


async def test_request_that_does_not_end_is_cut_off() -> None:
    hall = Hall(latency=60)
    listeners = make_listeners(hall, "http", stop_seconds=0.1)
    await listeners.start()
    reader, writer = await asyncio.open_connection(LOCAL, listeners.ports[0])
    writer.write(ASKING)
    await eventually(lambda: hall.contacts)
    async with asyncio.timeout(2):
        await listeners.stop()
    assert await is_closed(reader)
    writer.close()


async def test_nothing_of_a_connection_is_left_in_whatever_state_the_end_finds_it(site: Site) -> None:
    listeners = make_listeners(Hall(), "mixed", tls=site.tls, stop_seconds=0.2)
    await listeners.start()
    clients = []
    for first in (b"", b"\0", b"\x16", b"\x16\x03\x01", HEAD, ASKING):
        clients.append(await asyncio.open_connection(LOCAL, listeners.ports[0]))
        clients[-1][1].write(first)
    clients.append(await asyncio.open_connection(LOCAL, listeners.ports[0], ssl=site.client()))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(PATIENCE):
        await listeners.stop()
    for reader, writer in clients:
        async with asyncio.timeout(1):
            while not reader.at_eof():
                try:
                    await reader.read(1000)
                except ConnectionError:
                    break
        writer.transport.abort()


async def test_client_that_does_not_take_its_leave_is_not_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "CLOSE_SECONDS", 0.1)
    listeners = make_listeners(Hall(), "https", tls=site.tls)
    await listeners.start()
    reader, writer = await asyncio.open_connection(LOCAL, listeners.ports[0], ssl=site.client())
    writer.write(ASKING)
    await read_answer(reader)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(1):
        await listeners.stop()
    writer.transport.abort()


async def test_listeners_end_twice_and_unstarted_and_start_again() -> None:
    listeners = make_listeners(Hall(), "http")
    await listeners.stop()
    for _ in range(2):
        await listeners.start()
        assert (await ask(listeners.ports[0])).status == 200
        await listeners.stop()
        await listeners.stop()
    assert listeners.ports == []


async def test_port_in_use_leaves_nothing_open(place: Place) -> None:
    hall = Hall()
    listen = [ListenConfig(), ListenConfig(port=place.port)]
    listeners = Listeners(
        listen,
        hall.respond,
        tls=None,
        limits=ListenLimits(),
        admits=hall,
        observer=hall,
        keepalive_seconds=5,
        stop_seconds=5,
    )
    with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{place.port}: .*api\.listen"):
        await listeners.start()
    assert listeners.ports == []
    gc.collect()


@pytest.mark.parametrize("protocol", ["https", "mixed"])
async def test_tls_listener_without_a_certificate_does_not_start(protocol: str) -> None:
    with pytest.raises(ConfigError, match=r"\[api\.tls\]"):
        async with listening(protocol):
            pass


async def test_listener_that_has_no_descriptor_left_goes_on_later(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[socket.socket] = []

    async def serve(client: socket.socket) -> None:
        served.append(client)

    class Exhausted:
        """A listening socket; the machine runs out of descriptors once."""

        def __init__(self, real: socket.socket) -> None:
            self._real = real
            self.failures = 1

        def accept(self) -> Any:
            if self.failures:
                self.failures -= 1
                raise OSError(24, "Too many open files")
            return self._real.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    monkeypatch.setattr("dome_bridge.dome_api.front_door.PAUSE_SECONDS", 0.05)
    real = bound_socket((LOCAL, 0))
    door = FrontDoor(Exhausted(real), serve)  # type: ignore[arg-type]
    door.open()
    client = socket.create_connection((LOCAL, door.port))
    await eventually(lambda: served)
    client.close()
    door.close()
    assert "Too many open files" in caplog.text


async def test_connection_that_was_handed_on_is_left_alone_by_the_door() -> None:
    kept: list[socket.socket] = []

    async def serve(client: socket.socket) -> None:
        kept.append(handed_on(client))

    door = FrontDoor(bound_socket((LOCAL, 0)), serve)
    door.open()
    with socket.create_connection((LOCAL, door.port), PATIENCE) as client:
        await eventually(lambda: kept and not door.serving)
        kept[0].sendall(b"still here")
        assert client.recv(100) == b"still here"
        kept[0].close()
    door.close()


async def storm(port: int, requests: list[bytes], count: int) -> None:
    """Connections that come as fast as they can, in the moment when the listeners go."""
    for number in range(count):
        try:
            _, writer = await asyncio.open_connection(LOCAL, port)
        except OSError:
            return
        writer.write(requests[number % len(requests)])
        if number % 3 == 0:
            await asyncio.sleep(0)
        writer.transport.abort()


async def stop_in_a_storm(site: Site) -> None:
    for turn in range(20):
        listeners = make_listeners(Hall(), "mixed", tls=site.tls, stop_seconds=0.2)
        await listeners.start()
        requests = [ASKING, b"\x16\x03\x01", HEAD, b"", b"\0\0"]
        clients = [asyncio.create_task(storm(listeners.ports[0], requests, 50)) for _ in range(4)]
        await asyncio.sleep(0.001 * turn)
        async with asyncio.timeout(PATIENCE):
            await listeners.stop()
        await asyncio.gather(*clients)
        await asyncio.sleep(0)
    gc.collect()


async def test_no_socket_is_lost_when_listeners_stop_in_a_storm(site: Site) -> None:
    """Lost ones are found by the garbage collector, which warns, and warnings are errors."""
    await stop_in_a_storm(site)


async def serve_all_kinds(site: Site, directory: Path) -> None:
    proxy = site.user.proxy()
    async with listening("mixed", tls=site.tls, header_seconds=0.2) as place:
        assert (await ask(place.port)).status == 200
        reader, writer = await asyncio.open_connection(
            LOCAL, place.port, ssl=site.client(proxy, directory / "proxy.pem")
        )
        writer.write(ASKING)
        assert (await read_answer(reader)).body == b"tls 2 "
        writer.transport.abort()
        _, writer = await asyncio.open_connection(LOCAL, place.port)
        writer.write(b"\x16\x03\x01" + b"rubbish" * 20)
        await eventually(lambda: place.hall.failures)
        writer.transport.abort()
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        writer.write(HEAD)
        assert await is_closed(reader)
        writer.close()
        long = replace(site.user, chain=(site.user.certificate,) * 16)
        _, writer = await asyncio.open_connection(
            LOCAL, place.port, ssl=site.client(long, directory / "long.pem")
        )
        await eventually(lambda: len(place.hall.refusals) == 2)
        writer.transport.abort()
    assert list(place.hall.contacts[1].chain) == proxy.ders
    assert place.hall.rules == ["L7", "L3"]


async def test_all_kinds_of_connections_are_served_in_uvloop(site: Site, tmp_path: Path) -> None:
    await in_uvloop(serve_all_kinds(site, tmp_path))


async def test_no_socket_is_lost_in_uvloop(site: Site) -> None:
    await in_uvloop(stop_in_a_storm(site))
