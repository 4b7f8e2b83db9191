"""The faulty proxy: each fault as a client sees it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from sandbox.proxy import FaultyProxy
from sandbox.servers import MariaServer, PostgresServer

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[FaultyProxy]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with FaultyProxy(*server.sockets[0].getsockname()) as proxy:
        yield proxy
    server.close()
    await server.wait_closed()


@pytest.fixture
async def client(proxy: FaultyProxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    yield reader, writer
    writer.transport.abort()


async def exchange(client: Streams, data: bytes = b"ping", seconds: float = 5) -> bytes:
    reader, writer = client
    writer.write(data)
    return await asyncio.wait_for(reader.read(1000), seconds)


async def test_bytes_pass_both_ways(proxy: FaultyProxy, client: Streams) -> None:
    assert await exchange(client) == b"ping"
    assert (proxy.accepted, proxy.forwarded_bytes) == (1, 8)


async def test_stopped_proxy_refuses_until_healed(proxy: FaultyProxy, client: Streams) -> None:
    await exchange(client)
    await proxy.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(proxy.host, proxy.port)
    await proxy.heal()
    again = await asyncio.open_connection(proxy.host, proxy.port)
    assert await exchange(again) == b"ping"
    again[1].transport.abort()


@pytest.mark.parametrize("turns", range(6))
async def test_client_that_arrives_while_the_proxy_stops_leaves_no_open_socket(
    proxy: FaultyProxy, turns: int
) -> None:
    """asyncio's own server, closed between the accept and the transport, forgets the socket."""
    with socket.create_connection((proxy.host, proxy.port)) as client:
        for _ in range(turns):
            await asyncio.sleep(0)
        await proxy.stop()
        client.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.to_thread(client.recv, 1) == b""
    gc.collect()


async def test_cut_ends_present_connections_only(proxy: FaultyProxy, client: Streams) -> None:
    await exchange(client)
    await proxy.cut()
    with pytest.raises((ConnectionError, EOFError)):
        assert await client[0].readexactly(1)
    again = await asyncio.open_connection(proxy.host, proxy.port)
    assert await exchange(again) == b"ping"
    again[1].transport.abort()


async def test_delay_slows_each_direction(proxy: FaultyProxy, client: Streams) -> None:
    proxy.delay = 0.1
    started = time.monotonic()
    await exchange(client)
    assert time.monotonic() - started >= 0.2


async def test_deaf_proxy_accepts_and_never_answers(proxy: FaultyProxy, client: Streams) -> None:
    await exchange(client)
    proxy.go_deaf()
    newcomer = await asyncio.open_connection(proxy.host, proxy.port)
    for streams in (client, newcomer):
        with pytest.raises(TimeoutError):
            await exchange(streams, seconds=0.1)
    await proxy.heal()
    newcomer[1].transport.abort()
    again = await asyncio.open_connection(proxy.host, proxy.port)
    assert await exchange(again) == b"ping"
    again[1].transport.abort()


async def test_end_of_one_direction_is_passed_on(proxy: FaultyProxy, client: Streams) -> None:
    reader, writer = client
    writer.write(b"last words")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 5) == b"last words"


async def test_unreachable_server_closes_connection() -> None:
    async with FaultyProxy(unix_socket="/nonexistent.sock") as proxy:
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        with pytest.raises((ConnectionError, EOFError)):
            await reader.readexactly(1)
        writer.transport.abort()


async def test_postgresql_behind_proxy_answers_again_after_deafness(postgres: PostgresServer) -> None:
    async with FaultyProxy(postgres.host, postgres.port) as proxy:
        dsn = postgres.dsn("postgres").replace(f":{postgres.port}/", f":{proxy.port}/")
        connection = await asyncpg.connect(dsn)
        proxy.go_deaf()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncpg.connect(dsn), 0.3)
        await proxy.heal()
        connection.terminate()
        connection = await asyncpg.connect(dsn)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()


async def test_mariadb_socket_is_reachable_over_tcp(mortal_maria: MariaServer) -> None:
    async with FaultyProxy(unix_socket=mortal_maria.unix_socket) as proxy:
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        assert b"MariaDB" in await asyncio.wait_for(reader.read(100), 5)
        writer.transport.abort()
