"""Where issuers' keys may be fetched, and what a fetch may cost (D1 to D6, TLS10)."""

from __future__ import annotations

import ipaddress
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from dome_bridge.auth import discovery
from dome_bridge.auth.discovery import Answer, Fetched, KeySource, key_set_address, metadata_addresses
from dome_bridge.auth.issuer_http import IssuerHttp, Limits, is_public
from dome_bridge.auth.keyset import KeySetError
from sandbox.issuer import HOST, TokenIssuer
from sandbox.pki import Authority

QUICK = Limits(connect_seconds=0.3, total_seconds=0.6)


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[TokenIssuer]:
    async with TokenIssuer(tmp_path, path="/realms/site/") as issuer:
        yield issuer


def source_of(issuer: TokenIssuer, **changes: Any) -> KeySource:
    settings: dict[str, Any] = {"ca_file": issuer.ca_file, "allow_private_address": True}
    return KeySource(issuer.name, issuer.url, **settings | changes)


async def fetched(source: KeySource, limits: Limits = QUICK, **settings: Any) -> Fetched:
    given: dict[str, Any] = {
        "ca_file": source.ca_file,
        "allow_private_address": source.allow_private_address,
        "limits": limits,
    }
    return await discovery.fetch(source, IssuerHttp(**given | settings))


async def failure(source: KeySource, **settings: Any) -> str:
    with pytest.raises(KeySetError) as caught:
        await fetched(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Addresses, without a network.


@pytest.mark.parametrize(
    ("issuer", "addresses"),
    [
        ("https://iam.example.org", ["https://iam.example.org/.well-known/openid-configuration"]),
        ("https://iam.example.org/", ["https://iam.example.org/.well-known/openid-configuration"]),
        (
            "https://iam.example.org:8443/realms/vo",
            [
                "https://iam.example.org:8443/realms/vo/.well-known/openid-configuration",
                "https://iam.example.org:8443/.well-known/openid-configuration/realms/vo",
            ],
        ),
        (
            "https://iam.example.org/vo/",
            [
                "https://iam.example.org/vo/.well-known/openid-configuration",
                "https://iam.example.org/.well-known/openid-configuration/vo",
            ],
        ),
        (
            "https://iam.example.org/a%2Fb",
            [
                "https://iam.example.org/a%2Fb/.well-known/openid-configuration",
                "https://iam.example.org/.well-known/openid-configuration/a%2Fb",
            ],
        ),
    ],
)
def test_d1_metadata_are_looked_for_in_both_places(issuer: str, addresses: list[str]) -> None:
    assert [str(address) for address in metadata_addresses(issuer)] == addresses


def metadata(**members: object) -> bytes:
    usual = {"issuer": "https://iam.example.org", "jwks_uri": "https://iam.example.org/jwk"}
    return json.dumps({**usual, **members}).encode()


IAM = KeySource("vo", "https://iam.example.org")


@pytest.mark.parametrize(
    ("jwks_uri", "hosts"),
    [
        ("https://iam.example.org/jwk", ()),
        ("https://iam.example.org:443/jwk?x=y", ()),
        ("https://IAM.example.org/jwk", ()),
        ("https://keys.example.org/jwk", ("keys.example.org",)),
        ("https://keys.example.org:8443/jwk", ("keys.example.org",)),
        ("https://keys.example.org:8443/jwk", ("other.example.org", "keys.example.org:8443")),
    ],
)
def test_d4_keys_at_the_issuers_or_a_listed_host_are_fetched(jwks_uri: str, hosts: tuple[str, ...]) -> None:
    source = KeySource("vo", "https://iam.example.org", jwks_hosts=hosts)
    assert key_set_address(source, metadata(jwks_uri=jwks_uri)).path == "/jwk"


@pytest.mark.parametrize(
    "jwks_uri",
    [
        "http://iam.example.org/jwk",
        "http://listed.example.org/jwk",
        "https://iam.example.org:8443/jwk",
        "https://other.example.org/jwk",
        "https://iam.example.org.attacker.net/jwk",
        "https://iam.example.org@attacker.net/jwk",
        "https://attacker.net#@iam.example.org/jwk",
        "https://attacker.net\\@iam.example.org/jwk",
        "https://user@iam.example.org/jwk",
        "https://iam.example.org/jwk#x",
        "file:///etc/passwd",
        "ftp://iam.example.org/jwk",
        "gopher://iam.example.org/",
        "data:application/json,{}",
        "//iam.example.org/jwk",
        "/jwk",
        "jwk",
        "",
        "https://",
        "https:///jwk",
        "https://iam.example.org:0/jwk",
        "https://iam.example.org:99999/jwk",
        "https://[::1/jwk",
        "https://keys.example.org:8444/jwk",
        "https://127.0.0.1/jwk",
        "https://[::1]/jwk",
        "https://2130706433/jwk",
        "https://0x7f000001/jwk",
        "https://127.1/jwk",
        "https://127.0.0.1./jwk",
        "https://１２７.0.0.1/jwk",
        5,
        None,
        ["https://iam.example.org/jwk"],
    ],
)
def test_d4_keys_anywhere_else_are_not_fetched(jwks_uri: object) -> None:
    listed = (
        "127.0.0.1",
        "::1",
        "2130706433",
        "0x7f000001",
        "127.1",
        "127.0.0.1.",
        "listed.example.org",
        "keys.example.org:8443",
    )
    source = KeySource("vo", "https://iam.example.org", jwks_hosts=listed, allow_private_address=True)
    with pytest.raises(KeySetError):
        key_set_address(source, metadata(jwks_uri=jwks_uri))


@pytest.mark.parametrize(
    "issuer",
    [
        "https://iam.example.org/",
        "https://IAM.example.org",
        "http://iam.example.org",
        "https://attacker.net",
        None,
        ["https://iam.example.org"],
    ],
)
def test_d3_metadata_of_another_issuer_are_refused(issuer: object) -> None:
    with pytest.raises(KeySetError, match="to the letter"):
        key_set_address(IAM, metadata(issuer=issuer))


@pytest.mark.parametrize("document", [b"", b"[]", b"<html>", b'{"issuer": 1, "issuer": 2}', b"\xff"])
def test_d3_metadata_that_cannot_be_read_are_refused(document: bytes) -> None:
    with pytest.raises(KeySetError, match="cannot be read"):
        key_set_address(IAM, document)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "64:ff9b:1::7f00:1",
        "fec0::1",
        "feff::1",
        "3fff::1",
        "3fff:fff::1",
        "5f00::1",
    ],
)
def test_d4_inner_addresses_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["188.184.100.182", "2001:1458:201:e3::100:178", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_d4_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


# Fetched from a file.


async def test_d2_keys_come_from_a_local_file(issuer: TokenIssuer, tmp_path: Path) -> None:
    file = tmp_path / "key set.json"
    file.write_text(json.dumps({"keys": issuer.published}))
    for uri in (f"file://{file}".replace(" ", "%20"), f"file:{file}"):
        found = await fetched(source_of(issuer, jwks_uri=uri))
        assert set(found.keys.keys) == {"vo-1"}
    assert issuer.requests.total() == 0


async def test_d2_file_that_cannot_be_used_is_named(issuer: TokenIssuer, tmp_path: Path) -> None:
    missing, broken, pipe, large = (tmp_path / name for name in ("missing", "broken", "pipe", "large"))
    broken.write_text("[]")
    os.mkfifo(pipe)
    large.write_bytes(b" " * 300_000)
    said = [
        await failure(source_of(issuer, jwks_uri=f"file://{each}")) for each in (missing, broken, pipe, large)
    ]
    assert "missing cannot be read (No such file" in said[0]
    assert "broken: the key set cannot be read" in said[1]
    assert "pipe is no ordinary file" in said[2]
    assert "large is larger than" in said[3]
    assert "Is a directory" in await failure(source_of(issuer, jwks_uri=f"file://{tmp_path}"))


# Fetched over HTTPS.


async def test_d1_keys_are_found_by_the_metadata(issuer: TokenIssuer) -> None:
    found = await fetched(source_of(issuer))
    assert set(found.keys.keys) == {"vo-1"}
    assert dict(issuer.requests) == {"/realms/site/.well-known/openid-configuration": 1, "/jwks": 1}


async def test_d1_other_form_of_the_address_is_tried_after_404(issuer: TokenIssuer) -> None:
    issuer.behaviour.uses_rfc8414 = True
    assert set((await fetched(source_of(issuer))).keys.keys) == {"vo-1"}
    assert list(issuer.requests) == [
        "/realms/site/.well-known/openid-configuration",
        "/.well-known/openid-configuration/realms/site",
        "/jwks",
    ]


async def test_d1_other_form_is_not_tried_after_another_failure(issuer: TokenIssuer) -> None:
    issuer.behaviour.status = 500
    assert "status 500" in await failure(source_of(issuer))
    assert issuer.requests.total() == 1


async def test_d1_issuer_without_metadata_is_named(issuer: TokenIssuer) -> None:
    said = await failure(
        KeySource("vo", f"{issuer.base}/else", ca_file=issuer.ca_file, allow_private_address=True)
    )
    assert said == f"{issuer.base}/else has no metadata under its well-known addresses: set jwks_uri"


async def test_d2_configured_address_needs_no_metadata(issuer: TokenIssuer) -> None:
    found = await fetched(source_of(issuer, jwks_uri=issuer.jwks_uri))
    assert set(found.keys.keys) == {"vo-1"}
    assert dict(issuer.requests) == {"/jwks": 1}


@pytest.mark.parametrize("uri", ["http://localhost/jwks", "https://127.0.0.1/jwks", "ftp://localhost/jwks"])
async def test_d4_configured_address_is_https_and_a_name(issuer: TokenIssuer, uri: str) -> None:
    assert (await failure(source_of(issuer, jwks_uri=uri))).startswith(f"jwks_uri '{uri}' ")


async def test_d3_lying_issuer_is_not_believed(issuer: TokenIssuer) -> None:
    issuer.behaviour.issuer = issuer.url.rstrip("/")
    assert "is that of the issuer" in await failure(source_of(issuer))
    assert issuer.requests["/jwks"] == 0


async def test_d4_other_port_is_not_asked(issuer: TokenIssuer, tmp_path: Path) -> None:
    async with TokenIssuer(tmp_path, name="inner") as inner:
        issuer.behaviour.jwks_uri = inner.jwks_uri
        assert "are at another host" in await failure(source_of(issuer))
        assert inner.requests.total() == 0


async def test_d4_private_address_is_not_connected_to(issuer: TokenIssuer) -> None:
    said = await failure(source_of(issuer, allow_private_address=False))
    assert "has the private address" in said
    assert "set allow_private_address" in said
    assert issuer.requests.total() == 0


@pytest.mark.parametrize("addresses", [["8.8.8.8", "127.0.0.1"], ["10.0.0.1"], ["2001:db8::1"], ["::1"]])
async def test_d4_name_with_a_private_address_is_not_connected_to(
    issuer: TokenIssuer, addresses: list[str]
) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return addresses

    said = await failure(source_of(issuer, allow_private_address=False), lookup=lookup)
    assert f"{HOST} has the private address" in said
    assert issuer.requests.total() == 0


async def test_d4_address_that_was_checked_is_the_one_connected_to(issuer: TokenIssuer) -> None:
    asked: list[str] = []

    async def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    await fetched(source_of(issuer), lookup=lookup)
    # One look-up for each of the two connections, and nobody else resolves the name.
    assert asked == [HOST, HOST]
    unknown = issuer.jwks_uri.replace(HOST, "rebinding.invalid")
    assert "ertificate" in await failure(source_of(issuer, jwks_uri=unknown), lookup=lookup)


@pytest.mark.parametrize(
    "target", ["https://attacker.example.org/", "/jwks", "http://localhost/", "file:///x"]
)
async def test_d5_redirect_is_not_followed(issuer: TokenIssuer, target: str) -> None:
    issuer.behaviour.redirect = target
    assert "redirects" in await failure(source_of(issuer))
    assert "redirects" in await failure(source_of(issuer, jwks_uri=issuer.jwks_uri))
    assert issuer.requests.total() == 2


async def test_d6_slow_answer_is_given_up(issuer: TokenIssuer) -> None:
    issuer.behaviour.hangs = True
    began = time.monotonic()
    assert "gave no answer in time" in await failure(source_of(issuer))
    assert time.monotonic() - began < 3 * QUICK.total_seconds


async def test_d6_address_where_nobody_answers_is_given_up(issuer: TokenIssuer) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    await issuer.stop()
    assert "cannot be fetched" in await failure(source_of(issuer), lookup=lookup)


def test_d6_limits_are_those_of_the_specification() -> None:
    assert Limits() == Limits(connect_seconds=5, total_seconds=10, body_bytes=256 * 1024)


@pytest.mark.parametrize("surplus", [1, 1_000_000])
async def test_d6_large_answer_is_refused(issuer: TokenIssuer, surplus: int) -> None:
    issuer.behaviour.body = b" " * (Limits().body_bytes + surplus)
    assert "larger than 262144 bytes" in await failure(source_of(issuer))


async def test_d6_largest_answer_is_read(issuer: TokenIssuer) -> None:
    document = json.dumps({"keys": issuer.published}).encode()
    issuer.behaviour.body = document.ljust(Limits().body_bytes)
    assert set((await fetched(source_of(issuer, jwks_uri=issuer.jwks_uri))).keys.keys) == {"vo-1"}


async def test_d6_compressed_answer_is_refused(issuer: TokenIssuer) -> None:
    issuer.behaviour.headers = {"Content-Encoding": "deflate"}
    assert "compressed" in await failure(source_of(issuer))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b'{"keys": [], "keys": []}'])
async def test_d6_answer_that_is_no_key_set_is_refused(issuer: TokenIssuer, body: bytes) -> None:
    issuer.behaviour.body = body
    said = await failure(source_of(issuer, jwks_uri=issuer.jwks_uri))
    assert said.startswith(f"{issuer.jwks_uri}: the key set cannot be read")


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ("max-age=7200", 7200),
        ("public, max-age=7200, must-revalidate", 7200),
        ("Max-Age = 7200", 7200),
        ("s-maxage=7200", None),
        ("no-store, max-age=7200", None),
        ("max-age=-1", None),
        ("max-age=x", None),
        ("", None),
    ],
)
async def test_d7_max_age_of_the_key_set_is_noted(
    issuer: TokenIssuer, control: str, expected: float | None
) -> None:
    issuer.behaviour.headers = {"Cache-Control": control}
    assert (await fetched(source_of(issuer))).max_age == expected


async def test_tls10_server_of_an_unknown_authority_is_refused(issuer: TokenIssuer, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(Authority.root("/CN=Issuer CA").pem)
    assert "ertificate" in await failure(source_of(issuer, ca_file=other))
    assert "ertificate" in await failure(source_of(issuer, ca_file=None))
    assert issuer.requests.total() == 0


async def test_tls10_server_of_another_name_is_refused(issuer: TokenIssuer) -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    url = issuer.jwks_uri.replace(HOST, "iam.example.org")
    assert "ertificate" in await failure(source_of(issuer, jwks_uri=url), lookup=lookup)
    assert issuer.requests.total() == 0


async def test_tls10_ca_file_that_cannot_be_used_is_named(issuer: TokenIssuer, tmp_path: Path) -> None:
    assert "missing.pem cannot be used" in await failure(source_of(issuer, ca_file=tmp_path / "missing.pem"))
    empty = tmp_path / "empty.pem"
    empty.touch()
    assert "empty.pem cannot be used" in await failure(source_of(issuer, ca_file=empty))


async def test_d1_metadata_are_fetched_before_the_key_set() -> None:
    asked: list[URL] = []

    async def get(address: URL) -> Answer:
        asked.append(address)
        return Answer(200, metadata() if "well-known" in address.path else b'{"keys": []}', 4000)

    found = await discovery.fetch(IAM, get)
    assert found.max_age == 4000
    assert [str(address) for address in asked] == [
        "https://iam.example.org/.well-known/openid-configuration",
        "https://iam.example.org/jwk",
    ]
