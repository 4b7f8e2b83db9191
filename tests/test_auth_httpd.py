"""A `proxied` listener behind a real httpd: what its headers say, and what a client cannot make them say."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dome_bridge.auth.proxied import ProxiedHeaders, identity_of
from dome_bridge.config import ProxiedConfig
from sandbox.pki import Authority
from tests.fixtures.http import read_answer
from tests.fixtures.httpd import HttpdServer, needs_httpd
from tests.fixtures.listeners import HEAD, LOCAL, PATIENCE, Hall, Site, listening, make_site

pytestmark = needs_httpd

HEADERS = ProxiedConfig()
NAMES = ProxiedHeaders(HEADERS.verify_header, HEADERS.dn_header, HEADERS.cert_header)


class Behind(NamedTuple):
    site: Site
    httpd: HttpdServer
    hall: Hall


@pytest.fixture(scope="module")
async def behind(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Behind]:
    site = make_site(tmp_path_factory.mktemp("site"))
    async with (
        listening("proxied", long_fields=frozenset({HEADERS.cert_header})) as place,
        HttpdServer(f"{LOCAL}:{place.port}", site.tls, HEADERS) as httpd,
    ):
        yield Behind(site, httpd, place.hall)


async def headers_of(behind: Behind, context: ssl.SSLContext, *sent: str) -> list[tuple[str, str]]:
    """What the listener gets when a client sends these headers to httpd."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(LOCAL, behind.httpd.port, ssl=context)
        writer.write(HEAD + "".join(f"{line}\r\n" for line in sent).encode() + b"\r\n")
        assert (await read_answer(reader)).status == 200
        writer.transport.abort()
    return behind.hall.headers[-1]


async def test_y3_chain_of_the_client_arrives_as_it_sent_it(behind: Behind, tmp_path: Path) -> None:
    user = behind.site.ca.sub().user("Grace Hopper")
    told = identity_of(await headers_of(behind, behind.site.client(user, tmp_path / "user.pem")), NAMES)
    assert list(told.chain) == user.ders


async def test_y3_without_a_certificate_nobody_is_told(behind: Behind) -> None:
    headers = dict(await headers_of(behind, behind.site.client()))
    assert headers[HEADERS.verify_header] == "NONE"
    assert headers[HEADERS.dn_header] == "(null)"
    told = identity_of(list(headers.items()), NAMES)
    assert (told.chain, told.dn) == ((), "")


async def test_y2_identity_that_the_client_sends_itself_does_not_arrive(behind: Behind) -> None:
    forged = [
        f"{HEADERS.verify_header}: SUCCESS",
        f"{HEADERS.verify_header.upper()}: SUCCESS",
        f"{HEADERS.dn_header}: /CN=forged",
        f"{HEADERS.cert_header}: forged",
    ]
    headers = await headers_of(behind, behind.site.client(), *forged)
    told = identity_of(headers, NAMES)
    assert (told.chain, told.dn) == ((), "")
    values = [value for name, value in headers if name.lower() == HEADERS.verify_header]
    assert values == ["NONE"]
    assert "forged" not in str(headers)


async def test_y4_last_hop_is_the_clients_address_whatever_it_says(behind: Behind) -> None:
    headers = await headers_of(behind, behind.site.client(), "X-Forwarded-For: 203.0.113.9")
    assert identity_of(headers, NAMES).address == LOCAL
    assert dict(headers)["X-Forwarded-For"] == f"203.0.113.9, {LOCAL}"


async def test_y5_bearer_token_arrives(behind: Behind) -> None:
    headers = await headers_of(behind, behind.site.client(), "Authorization: Bearer a.b.c")
    assert dict(headers)["Authorization"] == "Bearer a.b.c"


async def test_y3_dn_is_in_slash_form(behind: Behind, tmp_path: Path) -> None:
    user = behind.site.user
    headers = dict(await headers_of(behind, behind.site.client(user, tmp_path / "user.pem")))
    assert (headers[HEADERS.verify_header], headers[HEADERS.dn_header]) == ("SUCCESS", user.dn)


@pytest.mark.parametrize("who", ["proxy", "stranger"])
async def test_tls9_certificate_that_httpd_rejects_ends_the_connection(
    behind: Behind, tmp_path: Path, who: str
) -> None:
    """Proxies are among them: mod_ssl does not know of them."""
    other = Authority.root("/DC=org/CN=Nobody's CA").user()
    credential = behind.site.user.proxy() if who == "proxy" else other
    context = behind.site.client(credential, tmp_path / "client.pem")
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await headers_of(behind, context)
