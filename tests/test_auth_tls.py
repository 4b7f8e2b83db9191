"""TLS of the listeners: versions, strength, no resumption, and the chain that a client sends.

Clients are Python's and openssl's. Names begin with the number of the requirement.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from dome_bridge.auth.principal import Transport
from dome_bridge.config import TlsConfig
from dome_bridge.dome_api import server_tls
from dome_bridge.dome_api.http_server import ListenLimits
from dome_bridge.dome_api.server_tls import client_chain, load_server_tls
from dome_bridge.errors import ConfigError
from sandbox.pki import Authority, expired, rsa_key, trust_directory
from tests.fixtures.http import Answer, read_answer
from tests.fixtures.listeners import (
    ASKING,
    HEAD,
    HOST_NAME,
    LOCAL,
    PATIENCE,
    Place,
    Site,
    eventually,
    listening,
    make_site,
)

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is missing")

LAST = HEAD + b"Connection: close\r\n\r\n"
BEARER = HEAD + b"Authorization: Bearer a.b.c\r\n\r\n"

EXPIRED, KEY_TOO_SMALL, UNKNOWN_ISSUER = 10, 66, 20


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture
async def place(site: Site) -> AsyncIterator[Place]:
    async with listening("https", tls=site.tls) as place:
        yield place


async def exchange(port: int, context: ssl.SSLContext, request: bytes = ASKING) -> Answer:
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(LOCAL, port, ssl=context)
        try:
            writer.write(request)
            return await read_answer(reader)
        finally:
            writer.transport.abort()


async def refused(port: int, context: ssl.SSLContext, request: bytes = ASKING) -> None:
    """In TLS 1.3 a client has finished its handshake before the server looks at its certificate."""
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await exchange(port, context, request)


async def s_client(port: int, *options: str, typed: bytes = LAST, linger: float = 0) -> str:
    """What openssl prints. linger: how long it is left alone after typing."""
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"{LOCAL}:{port}", *options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin is not None
    process.stdin.write(typed)
    await process.stdin.drain()
    await asyncio.sleep(linger)
    try:
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()
    return output.decode(errors="replace")


async def test_tls1_certificate_token_and_neither_are_taken_on_one_port(
    place: Place, site: Site, tmp_path: Path
) -> None:
    with_certificate = site.client(site.user, tmp_path / "user.pem")
    for context, request in ((with_certificate, ASKING), (site.client(), BEARER), (site.client(), ASKING)):
        assert (await exchange(place.port, context, request)).status == 200
    # A client that has no chain of its own adds the CA that it believes itself.
    sent = (site.user.ders[0], site.ca.der)
    assert [contact.chain for contact in place.hall.contacts] == [sent, (), ()]
    assert {contact.transport for contact in place.hall.contacts} == {Transport.TLS}
    assert {contact.address for contact in place.hall.contacts} == {LOCAL}
    assert dict(place.hall.headers[1])["Authorization"] == "Bearer a.b.c"


@needs_openssl
@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
async def test_tls2_old_version_is_refused(place: Place, version: str) -> None:
    await s_client(place.port, version, "-cipher", "DEFAULT:@SECLEVEL=0")
    assert [failure.reason for failure in place.hall.failures] == ["unsupported protocol"]
    assert place.hall.contacts == []


@needs_openssl
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_tls2_newer_version_is_spoken(place: Place, version: str) -> None:
    assert "200 OK" in await s_client(place.port, version, "-ign_eof")
    assert place.hall.failures == []


@needs_openssl
async def test_tls2_weak_cipher_is_refused(place: Place) -> None:
    await s_client(place.port, "-tls1_2", "-cipher", "aNULL:eNULL:@SECLEVEL=0")
    assert [failure.reason for failure in place.hall.failures] == ["no shared cipher"]


async def test_tls2_proxy_with_a_key_of_1024_bits_ends_the_handshake(
    place: Place, site: Site, tmp_path: Path
) -> None:
    context = site.client()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.load_cert_chain(site.user.proxy(key=rsa_key(9, bits=1024)).write(tmp_path / "weak.pem"))
    await refused(place.port, context)
    await eventually(lambda: place.hall.failures)
    (failure,) = place.hall.failures
    assert (failure.verify_code, place.hall.contacts) == (KEY_TOO_SMALL, [])


async def test_tls2_proxy_with_a_key_of_2048_bits_is_taken(place: Place, site: Site, tmp_path: Path) -> None:
    context = site.client(site.user.proxy(key=rsa_key()), tmp_path / "strong.pem")
    assert (await exchange(place.port, context)).status == 200


def session_of(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[bool | None, ssl.SSLSession | None]:
    """Whether the session was resumed, and the one there is after an answer has come."""
    with (
        socket.create_connection((LOCAL, port), PATIENCE) as plain,
        context.wrap_socket(plain, session=session) as secure,
    ):
        secure.sendall(ASKING)
        assert secure.recv(1000)
        return secure.session_reused, secure.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("option", [ssl.OP_NO_TICKET, ssl.Options(0)])
async def test_tls3_saved_session_is_not_resumed(
    place: Place, site: Site, tmp_path: Path, version: ssl.TLSVersion, option: ssl.Options
) -> None:
    context = site.client(site.user, tmp_path / "user.pem")
    context.minimum_version = context.maximum_version = version
    context.options |= option
    _, session = await asyncio.to_thread(session_of, place.port, context, None)
    is_resumed, _ = await asyncio.to_thread(session_of, place.port, context, session)
    assert is_resumed is False
    assert [len(contact.chain) for contact in place.hall.contacts] == [2, 2]


@needs_openssl
async def test_tls3_openssl_cannot_resume_either(place: Place) -> None:
    output = await s_client(place.port, "-tls1_2", "-reconnect", typed=b"Q\n", linger=0.5)
    assert output.count("New, TLSv1.2") >= 2
    assert "Reused" not in output


@needs_openssl
async def test_tls4_renegotiation_is_refused(place: Place) -> None:
    output = await s_client(place.port, "-tls1_2", typed=b"R\n", linger=0.3)
    assert "RENEGOTIATING" in output
    assert "no renegotiation" in output


async def test_tls5_failure_is_told_with_address_and_openssls_verdict(
    place: Place, site: Site, tmp_path: Path
) -> None:
    await refused(place.port, site.client(site.ca.user(window=expired()), tmp_path / "expired.pem"))
    stranger = Authority.root("/DC=org/CN=Nobody's CA").user()
    await refused(place.port, site.client(stranger, tmp_path / "stranger.pem"))
    await eventually(lambda: len(place.hall.failures) == 2)
    assert place.hall.failures[0] == (LOCAL, EXPIRED, "certificate has expired")
    assert place.hall.failures[1].verify_code == UNKNOWN_ISSUER
    assert place.hall.contacts == []


async def test_tls5_connection_that_breaks_off_in_the_handshake_is_told(place: Place) -> None:
    _, writer = await asyncio.open_connection(LOCAL, place.port)
    writer.write(b"\x16\x03\x01\x02\x00\x01")
    await asyncio.sleep(0.05)
    writer.transport.abort()
    await eventually(lambda: place.hall.failures)
    assert place.hall.failures == [(LOCAL, None, "the connection was lost in the handshake")]


async def test_tls5_rubbish_after_the_first_bytes_is_told(place: Place) -> None:
    reader, writer = await asyncio.open_connection(LOCAL, place.port)
    writer.write(b"\x16\x03\x01" + b"rubbish" * 20)
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()
    ((address, code, reason),) = place.hall.failures
    assert (address, code) == (LOCAL, None)
    assert reason


@pytest.mark.parametrize("protocol", ["https", "http", "mixed", "proxied"])
async def test_tls6_socket_that_says_nothing_is_closed(site: Site, protocol: str) -> None:
    async with listening(protocol, tls=site.tls, first_byte_seconds=0.1) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()
    assert [(each.rule, each.reason) for each in place.hall.refusals] == [
        ("TLS6", "nothing said within 0.1 s")
    ]


async def test_tls6_handshake_that_is_not_finished_is_closed(site: Site) -> None:
    async with listening("https", tls=site.tls, handshake_seconds=0.1) as place:
        reader, writer = await asyncio.open_connection(LOCAL, place.port)
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()
    assert place.hall.failures == [(LOCAL, None, "the handshake was not finished within 0.1 s")]


async def test_tls6_handshakes_at_a_time_are_limited_but_not_those_of_known_servers(site: Site) -> None:
    async with listening("https", tls=site.tls, handshakes=2) as place:
        slow = [await asyncio.open_connection(LOCAL, place.port) for _ in range(2)]
        for _, writer in slow:
            writer.write(b"\x16\x03\x01")
        await asyncio.sleep(0.05)
        await refused(place.port, site.client())
        assert place.hall.refusals == [(LOCAL, "L5", "2 handshakes are going on")]
        place.hall.unlimited.add(LOCAL)
        assert (await exchange(place.port, site.client())).status == 200
        place.hall.unlimited.clear()
        for _, writer in slow:
            writer.transport.abort()
        await eventually(lambda: len(place.hall.failures) == 2)
        assert (await exchange(place.port, site.client())).status == 200


async def test_l5_one_source_does_not_get_all_handshakes(site: Site) -> None:
    async with listening("https", tls=site.tls, handshakes=8) as place:
        slow = [
            await asyncio.open_connection(LOCAL, place.port, local_addr=("127.0.0.3", 0)) for _ in range(6)
        ]
        for _, writer in slow:
            writer.write(b"\x16\x03\x01")
        await eventually(lambda: len(place.hall.refusals) == 4)
        assert set(place.hall.refusals) == {("127.0.0.3", "L5", "2 handshakes with that source are going on")}
        assert (await exchange(place.port, site.client())).status == 200
        for _, writer in slow:
            writer.transport.abort()


def test_l5_a_quarter_of_the_handshakes_is_for_one_source() -> None:
    assert ListenLimits(handshakes=200).handshakes_of_source == 50
    assert ListenLimits(handshakes=1).handshakes_of_source == 2


@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_tls7_proxies_are_taken_and_their_whole_chain_is_known(
    place: Place, site: Site, tmp_path: Path, depth: int
) -> None:
    proxy = site.user
    for _ in range(depth):
        proxy = proxy.proxy()
    assert (await exchange(place.port, site.client(proxy, tmp_path / "proxy.pem"))).status == 200
    (contact,) = place.hall.contacts
    assert list(contact.chain) == proxy.ders
    assert len(contact.chain) == depth + 1


async def test_tls8_chain_is_as_the_client_sent_it_whatever_its_order(
    place: Place, site: Site, tmp_path: Path
) -> None:
    proxy = site.ca.sub().user("Grace Hopper").proxy()
    shuffled = replace(proxy, chain=(site.user.certificate, *reversed(proxy.chain)))
    assert (await exchange(place.port, site.client(shuffled, tmp_path / "shuffled.pem"))).status == 200
    (contact,) = place.hall.contacts
    assert list(contact.chain) == shuffled.ders


async def test_tls8_requests_of_one_connection_share_what_is_kept_with_it(place: Place, site: Site) -> None:
    reader, writer = await asyncio.open_connection(LOCAL, place.port, ssl=site.client())
    for _ in range(2):
        writer.write(ASKING)
        await read_answer(reader)
    writer.transport.abort()
    await exchange(place.port, site.client())
    first, second, other = place.hall.contacts
    assert first.kept is second.kept
    assert first.kept is not other.kept


class NewerConnection:
    """A connection as Python 3.13 has it."""

    def __init__(self, chain: list[bytes]) -> None:
        self._chain = chain

    def getpeercert(self, binary_form: bool = False) -> bytes | None:
        assert binary_form
        return self._chain[0] if self._chain else None

    def get_unverified_chain(self) -> list[bytes]:
        assert self._chain, "it fails without a certificate"
        return self._chain


@pytest.mark.parametrize("chain", [[], [b"leaf"], [b"leaf", b"issuer"]])
def test_tls8_public_way_of_newer_pythons_is_taken_where_it_exists(chain: list[bytes]) -> None:
    connection: Any = NewerConnection(chain)
    assert client_chain(connection) == tuple(chain)


async def test_tls8_python_that_gives_no_chain_does_not_start(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_tls, "_READERS", (object,))
    with pytest.raises(ConfigError, match="certificates that a client sends"):
        async with listening("https", tls=site.tls):
            pass
    async with listening("proxied"):
        pass


async def test_tls9_rejected_certificate_ends_the_connection_though_a_token_follows(
    place: Place, site: Site, tmp_path: Path
) -> None:
    proxy = site.user.proxy(window=expired())
    await refused(place.port, site.client(proxy, tmp_path / "expired.pem"), BEARER)
    await eventually(lambda: place.hall.failures)
    assert [failure.verify_code for failure in place.hall.failures] == [EXPIRED]
    assert place.hall.contacts == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o660])
def test_tls11_key_that_others_can_open_is_refused(site: Site, tmp_path: Path, mode: int) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(site.tls.key.read_bytes())
    key.chmod(mode)
    with pytest.raises(ConfigError, match=rf"api\.tls\.key: .*mode {mode:04o}.*chmod"):
        load_server_tls(replace(site.tls, key=key))


def broken(tls: TlsConfig, what: str, ca: Authority, directory: Path) -> TlsConfig:
    other = directory / "other.pem"
    other.touch(mode=0o600)
    match what:
        case "key of another certificate":
            return replace(tls, key=ca.host(HOST_NAME).write_pair(directory)[1])
        case "no key":
            return replace(tls, key=directory / "none.pem")
        case "empty key":
            return replace(tls, key=other)
        case "no certificate":
            return replace(tls, certificate=directory / "none.pem")
        case "rubbish for a certificate":
            other.write_bytes(b"-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n")
            return replace(tls, certificate=other)
        case "no directory of CAs":
            return replace(tls, ca_dir=other)
    raise AssertionError(what)


@pytest.mark.parametrize(
    ("what", "key"),
    [
        ("key of another certificate", "api.tls.certificate"),
        ("no key", "api.tls.key"),
        ("empty key", "api.tls.key"),
        ("no certificate", "api.tls.certificate"),
        ("rubbish for a certificate", "api.tls.certificate"),
        ("no directory of CAs", "api.tls.ca_dir"),
    ],
)
def test_tls11_broken_credentials_are_told_in_a_line(site: Site, tmp_path: Path, what: str, key: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_server_tls(broken(site.tls, what, site.ca, tmp_path))
    assert key in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_tls11_key_with_a_password_is_refused_and_not_asked_for(site: Site, tmp_path: Path) -> None:
    certificate, key = site.ca.host(HOST_NAME, key=rsa_key()).write_pair(tmp_path)
    key.write_bytes(
        rsa_key().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigError, match="encrypted with a password"):
        load_server_tls(replace(site.tls, certificate=certificate, key=key))


def test_tls4_and_7_flags_are_set_whatever_the_defaults_of_python(site: Site) -> None:
    context = load_server_tls(site.tls).context()
    assert ssl.OP_NO_RENEGOTIATION in context.options
    assert ssl.VERIFY_ALLOW_PROXY_CERTS in context.verify_flags
    assert ssl.VERIFY_X509_STRICT not in context.verify_flags


@needs_openssl
async def test_tls11_no_list_of_client_cas_is_sent(place: Place) -> None:
    assert "No client certificate CA names sent" in await s_client(place.port, "-ign_eof")


async def test_tls11_chain_of_the_host_certificate_is_shown(tmp_path: Path, site: Site) -> None:
    certificate, key = site.ca.sub().host(HOST_NAME).write_pair(tmp_path)
    async with listening("https", tls=replace(site.tls, certificate=certificate, key=key)) as place:
        assert (await exchange(place.port, site.client())).status == 200


def test_r5_end_of_the_host_certificate_is_known(site: Site) -> None:
    shown = x509.load_pem_x509_certificate(site.tls.certificate.read_bytes())
    assert load_server_tls(site.tls).not_after == shown.not_valid_after_utc


def test_a4_key_is_not_shown_by_accident(site: Site) -> None:
    secret = site.tls.key.read_text().splitlines()[1]
    assert secret not in repr(load_server_tls(site.tls))


async def test_r4_new_connections_have_the_new_certificate_and_trust_at_once(
    site: Site, tmp_path: Path
) -> None:
    newcomer = Authority.root("/DC=org/DC=example/CN=Newcomer CA")
    certificate, key = newcomer.host(HOST_NAME).write_pair(tmp_path)
    renewed = replace(
        site.tls, certificate=certificate, key=key, ca_dir=trust_directory(tmp_path / "cas", newcomer).path
    )
    served = load_server_tls(site.tls)
    async with listening("https", tls=lambda: served.context()) as place:
        assert (await exchange(place.port, site.client())).status == 200
        served = load_server_tls(renewed)
        await refused(place.port, site.client())
        user = replace(site, ca=newcomer).client(newcomer.user(), tmp_path / "user.pem")
        assert (await exchange(place.port, user)).status == 200
        assert [bool(contact.chain) for contact in place.hall.contacts] == [False, True]


async def test_l3_chain_of_more_than_16_certificates_is_not_taken(
    place: Place, site: Site, tmp_path: Path
) -> None:
    junk = tuple(site.ca.user().certificate for _ in range(16))
    for extra, is_taken in ((15, True), (16, False)):
        credential = replace(site.user, chain=junk[:extra])
        client = site.client(credential, tmp_path / f"{extra}.pem")
        if is_taken:
            assert (await exchange(place.port, client)).status == 200
        else:
            await refused(place.port, client)
    assert [len(contact.chain) for contact in place.hall.contacts] == [16]
    ((address, rule, reason),) = place.hall.refusals
    assert (address, rule) == (LOCAL, "L3")
    assert "17 certificates" in reason


async def test_l3_chain_of_more_than_64_kib_is_not_taken(place: Place, site: Site, tmp_path: Path) -> None:
    filler = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.2"), b"x" * 33_000)
    large = site.ca.user(extensions=[(filler, False)])
    assert (await exchange(place.port, site.client(large, tmp_path / "one.pem"))).status == 200
    twice = replace(large, chain=(large.certificate,))
    await refused(place.port, site.client(twice, tmp_path / "two.pem"))
    assert place.hall.rules == ["L3"]


async def test_tls_that_cannot_be_set_up_closes_the_connection_and_says_so(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def unable() -> ssl.SSLContext:
        raise OSError("no such directory")

    async with listening("https", tls=unable) as place:
        await refused(place.port, site.client())
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "TLS cannot be set up" in record.getMessage()
