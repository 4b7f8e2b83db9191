"""What a request to a listener may look like, and that nothing of one that is refused comes out again.

Requests are written byte by byte, over real sockets. Names begin with the number of the requirement.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp.http
import pytest
from aiohttp import web

from dome_bridge.auth.contact import Contact
from dome_bridge.errors import ConfigError
from tests.fixtures.http import read_answer
from tests.fixtures.listeners import (
    ASKING,
    HEAD,
    LOCAL,
    PATIENCE,
    Hall,
    Place,
    ask,
    eventually,
    is_closed,
    listening,
)

CANARY = "canary-of-the-token"


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with listening("http") as place:
        yield place


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HEAD + b"X: " + b"y" * 16_000 + b"\r\n\r\n", 200),
        (HEAD + b"X: " + b"y" * 16_400 + b"\r\n\r\n", 400),
        (b"GET /" + b"x" * 16_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 200),
        (b"GET /" + b"x" * 16_400 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (HEAD + b"".join(b"X%d: y\r\n" % n for n in range(63)) + b"\r\n", 200),
        (HEAD + b"".join(b"X%d: y\r\n" % n for n in range(65)) + b"\r\n", 400),
        (HEAD + b"Authorization: Bearer " + b"t" * 8192 + b"\r\n\r\n", 200),
        (b"GET /?authz=" + b"t" * 8192 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 200),
    ],
)
async def test_l1_head_within_its_limits_is_taken_and_no_other(
    place: Place, request_: bytes, status: int
) -> None:
    assert (await ask(place.port, request_)).status == status
    assert len(place.hall.contacts) == (status == 200)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"x-ssl-client-cert: " + b"c" * 90_000, 200),
        (b"X-SSL-Client-Cert: " + b"c" * 90_000, 200),
        (b"x-ssl-client-cert: " + b"c" * 100_000, 400),
        (b"x-ssl-client-s-dn: " + b"c" * 16_400, 400),
        (b"Authorization: Bearer " + b"c" * 16_400, 400),
    ],
)
async def test_l1_only_certificates_from_the_web_server_may_be_longer(header: bytes, status: int) -> None:
    async with listening("proxied", long_fields=frozenset({"x-ssl-client-cert"})) as place:
        assert (await ask(place.port, HEAD + header + b"\r\n\r\n")).status == status


SMUGGLED = {
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "list of lengths": HEAD + b"Content-Length: 5, 5\r\n\r\nhello",
    "signed length": HEAD + b"Content-Length: +5\r\n\r\nhello",
    "folded line": HEAD + b"X: a\r\n b\r\n\r\n",
    "line folded with a tab": HEAD + b"X: a\r\n\tb\r\n\r\n",
    "blank before the colon": HEAD + b"Content-Length : 5\r\n\r\nhello",
    "tab before the colon": HEAD + b"Content-Length\t: 5\r\n\r\nhello",
    "blank before the name": b"GET /x HTTP/1.1\r\n Host: h\r\n\r\n",
    "unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks not last": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "bare carriage return": HEAD + b"X: a\rContent-Length: 5\r\n\r\nhello",
    "bare line feed": b"GET /x HTTP/1.1\nHost: h\n\n",
    "nul in a value": HEAD + b"X: a\0b\r\n\r\n",
    "no colon": HEAD + b"nonsense\r\n\r\n",
    "two hosts": HEAD + b"Host: other\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLED)
async def test_th_smuggling_request_that_can_be_read_in_two_ways_is_refused(place: Place, name: str) -> None:
    reader, writer = await asyncio.open_connection(LOCAL, place.port)
    writer.write(SMUGGLED[name] + ASKING)
    answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
    assert (answer.status, answer.is_last) == (400, True)
    assert await is_closed(reader)
    writer.close()
    assert place.hall.contacts == []


async def test_th_smuggling_parser_in_python_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = aiohttp.http_parser.HttpRequestParserPy
    monkeypatch.setattr(aiohttp.http, "HttpRequestParser", parser)
    with pytest.raises(ConfigError, match="AIOHTTP_NO_EXTENSIONS"):
        async with listening("proxied"):
            pass


LEAKY = {
    "too long": f"Authorization: Bearer {CANARY}{'x' * 20_000}\r\n\r\n",
    "too long without an end": f"Authorization: Bearer {CANARY}{'x' * 20_000}",
    "with a nul": f"Authorization: Bearer {CANARY}\0\r\n\r\n",
    "with a blank before the colon": f"Authorization : Bearer {CANARY}\r\n\r\n",
    "folded": f"Authorization: Bearer\r\n {CANARY}\r\n\r\n",
    "before a broken line": f"Authorization: Bearer {CANARY}\r\nno colon\r\n\r\n",
    "in the name": f"Authorization Bearer {CANARY}: x\r\n\r\n",
    "as a length": f"Content-Length: {CANARY}\r\n\r\n",
    "as a coding": f"Transfer-Encoding: {CANARY}\r\n\r\n",
    "among too many": f"Authorization: Bearer {CANARY}\r\n" + "X: y\r\n" * 100 + "\r\n",
}
LEAKY_LINES = {
    "in a long target": f"GET /?authz={CANARY}{'x' * 20_000} HTTP/1.1\r\n\r\n",
    "in a broken target": f"GET http://[/?authz={CANARY} HTTP/1.1\r\n\r\n",
    "in a broken version": f"GET /?authz={CANARY} HTTP/9.9.9\r\n\r\n",
    "as a method": f"{CANARY} / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize(
    "request_",
    [HEAD.decode() + lines for lines in LEAKY.values()] + list(LEAKY_LINES.values()),
    ids=[*LEAKY, *LEAKY_LINES],
)
async def test_a4_token_of_a_broken_request_is_in_no_log_and_no_answer(
    place: Place, caplog: pytest.LogCaptureFixture, request_: str
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = await ask(place.port, request_.encode())
    assert answer.status in (400, 405)
    assert b"\n" not in answer.body
    # aiohttp quotes the first hundred bytes of a field.
    for text in (answer.body.decode(), str(answer.headers), caplog.text):
        assert CANARY[:12] not in text


async def test_a4_failure_of_ours_is_told_without_the_request(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> Any:
        raise RuntimeError("a defect")

    async with listening("http", hall=(hall := Hall())) as place:
        monkeypatch.setattr(place.listeners._premises.server, "_respond", fails)  # type: ignore[union-attr]
        answer = await ask(place.port, HEAD + f"Authorization: Bearer {CANARY}\r\n\r\n".encode())
    assert answer.status == 500
    assert CANARY not in answer.body.decode() + caplog.text
    assert "a defect" in caplog.text
    assert "defect" not in answer.body.decode()
    assert hall.contacts == []


async def test_a4_what_aiohttp_logs_itself_quotes_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(web.Response):
        async def prepare(self, request: web.BaseRequest) -> Any:
            raise ValueError(CANARY)

    class BrokenHall(Hall):
        async def respond(self, request: web.BaseRequest, contact: Contact) -> web.Response:
            return Broken()

    caplog.set_level(logging.DEBUG)
    async with listening("http", hall=BrokenHall()) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        writer.write(ASKING)
        assert await is_closed(reader)
        writer.close()
    assert "connection broken off error=ValueError" in caplog.text
    assert CANARY not in caplog.text


async def test_client_that_goes_away_in_mid_answer_is_no_failure_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class LongWinded(Hall):
        async def respond(self, request: web.BaseRequest, contact: Contact) -> web.Response:
            self.contacts.append(contact)
            response = web.Response(body=bytes(32 * 1024 * 1024))
            await response.prepare(request)
            await response.write_eof()
            return response

    async with listening("http", hall=(hall := LongWinded())) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port, limit=1024)
        writer.write(ASKING)
        await reader.read(100)
        writer.transport.abort()
        await eventually(lambda: hall.contacts)
        await place.listeners.stop()
    assert [each for each in caplog.records if each.levelname in ("WARNING", "ERROR")] == []
