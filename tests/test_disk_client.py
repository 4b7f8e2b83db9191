"""The client for disk nodes and the sandbox's disk node, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import logging
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.config_sections import DiskConfig
from dome_bridge.dome_api.disk_client import (
    DiskAnswer,
    DiskClient,
    DiskRefusedError,
    DiskUnknownError,
    DiskUnreachableError,
)
from dome_bridge.dome_api.disk_tls import client_tls
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.wire import Parameters, Tree
from dome_bridge.errors import ConfigError, DiskError
from sandbox.disk_node import DiskNode

KEY = "0123456789abcdef0123456789abcdef"
HEAD = "/DC=org/DC=example/CN=head.example.org"
SERVER = "disk1.example.org"
FS = "/srv/dpm/fs1"
PFN = f"{FS}/atlas/2024-05-01/file.7.1714521600"
ALICE = RemoteUser("/DC=org/CN=Alice Tester", "192.0.2.7", ("atlas", "atlas/Role=production"))
ROOT = RemoteUser()
OK = b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok"


class RawDisk:
    """A socket that says `says`, or what that makes of the request, and then closes, resets or hangs."""

    def __init__(
        self,
        says: bytes | Callable[[bytes], bytes] = OK,
        then: str = "keep",
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.says, self.then, self.tls = says, then, tls
        self.heard: list[bytes] = []
        self.connections: set[asyncio.StreamWriter] = set()
        self.most_connections = self.accepted = 0
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> RawDisk:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self.connections):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        self.accepted += 1
        self.most_connections = max(self.most_connections, len(self.connections))
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await self._answer(reader, writer)
        finally:
            self.connections.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(dict(header_lines(head)).get("content-length", "0"))
        self.heard.append(head + await reader.readexactly(length))
        writer.write(self.says if isinstance(self.says, bytes) else self.says(self.heard[-1]))
        await writer.drain()
        if self.then == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if self.then in ("close", "reset"):
            writer.close()
        if self.then == "hang":
            await reader.read()


def header_lines(request: bytes) -> list[tuple[str, str]]:
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)]


def client_of(port: int, *, secret: str = KEY, dn: str = HEAD, **config: Any) -> DiskClient:
    """A client to which every server is 127.0.0.1:port."""
    seconds = {"connect_seconds": 5.0, "request_seconds": 5.0}
    disk = DiskConfig(**{**seconds, **config})
    return DiskClient(disk, secret=secret, dn=dn, host="192.0.2.1", resolve=lambda _: ("127.0.0.1", port))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[DiskNode]:
    file = tmp_path / PFN.removeprefix(f"{FS}/")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"data")
    async with DiskNode(SERVER, {FS: tmp_path}, secret=KEY) as node:
        yield node


@pytest.fixture
async def client(node: DiskNode) -> AsyncIterator[DiskClient]:
    async with client_of(node.port) as client:
        yield client


def exists(node: DiskNode, pfn: str = PFN) -> bool:
    file = node.file(pfn)
    assert file is not None
    return file.exists()


async def test_removed_file_is_gone_and_its_absence_is_success(node: DiskNode, client: DiskClient) -> None:
    await client.remove(SERVER, PFN, ALICE)
    assert not exists(node)
    await client.remove(SERVER, PFN, ALICE)
    assert [(call.method, call.command, call.parameters, call.user) for call in node.calls] == [
        ("POST", "dome_pfnrm", {"pfn": PFN}, ALICE)
    ] * 2


async def test_node_learns_from_the_token_that_the_head_asks(node: DiskNode, client: DiskClient) -> None:
    await client.remove(SERVER, PFN, ROOT)
    signed = node.calls[0].signed
    assert signed is not None
    assert (signed.dn, signed.host) == (HEAD, "192.0.2.1")
    assert node.calls[0].headers == {}


@pytest.mark.parametrize("dn", ["/CN=50% R&D", "/CN=a+b c", "/O=Universität", "/CN=%41", "/CN=x=y?#;"])
async def test_any_dn_of_the_head_survives_the_query(node: DiskNode, dn: str) -> None:
    async with client_of(node.port, dn=dn) as client:
        await client.remove(SERVER, PFN, ROOT)
    assert [call.signed.dn for call in node.calls if call.signed] == [dn]


async def test_body_of_delreplica_is_forwarded_with_the_pfn_that_was_checked(
    node: DiskNode, client: DiskClient
) -> None:
    body: dict[str, Tree] = {"server": SERVER, "pfn": "/elsewhere", "more": {"list": ["1", ""]}}
    await client.remove(SERVER, PFN, ALICE, body=body)
    assert node.calls[0].parameters == {**body, "pfn": PFN}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_request_is_exactly_what_xrdhttp_understands(method: str) -> None:
    async with RawDisk() as disk, client_of(disk.port, secret="") as client:
        answer = await client.call(SERVER, method, "dome_x", {"pfn": "/ü"}, ALICE)
    head, _, body = disk.heard[0].partition(b"\r\n\r\n")
    assert answer == DiskAnswer(200, "ok")
    assert Parameters.from_body(body).tree() == {"pfn": "/ü"}
    assert "/ü".encode() in body
    first, *lines = head.decode().split("\r\n")
    assert first == f"{method} /domedisk/command/dome_x HTTP/1.1"
    assert sorted(lines) == [
        "Connection: close",
        f"Content-Length: {len(body)}",
        f"Host: 127.0.0.1:{disk.port}",
        "User-Agent: dome-bridge",
        f"remoteclientdn: {ALICE.dn}",
        "remoteclientgroups: atlas,atlas/Role=production",
        f"remoteclienthost: {ALICE.host}",
    ]


async def test_request_without_parameters_and_user_has_no_body_and_no_user() -> None:
    async with RawDisk() as disk, client_of(disk.port, url_prefix="/domedisk/") as client:
        await client.call(SERVER, "GET", "dome_getspaceinfo", {}, ROOT)
    head, _, body = disk.heard[0].partition(b"\r\n\r\n")
    assert head.startswith(b"GET /domedisk/command/dome_getspaceinfo?xrdhttptk=")
    assert (body, b"remoteclient" in head, b"chunked" in head) == (b"", False, False)


async def test_text_beyond_ascii_goes_out_as_utf8() -> None:
    async with RawDisk() as disk, client_of(disk.port) as client:
        await client.remove(SERVER, PFN, RemoteUser("/CN=Zoë 𝔘", "", ("größe",)))
    assert "remoteclientdn: /CN=Zoë 𝔘\r\n".encode() in disk.heard[0]
    assert "remoteclientgroups: größe\r\n".encode() in disk.heard[0]


@given(st.binary(max_size=30).filter(lambda name: b"\0" not in name and b"/" not in name))
async def test_any_name_is_sent_in_its_bytes(wire: tuple[RawDisk, DiskClient], name: bytes) -> None:
    disk, client = wire
    pfn = f"{FS}/x" + name.decode("utf-8", "surrogateescape")
    await client.remove(SERVER, pfn, ROOT)
    body = disk.heard[-1].partition(b"\r\n\r\n")[2].decode("utf-8", "surrogateescape")
    assert json.loads(body) == {"pfn": pfn}


@pytest.fixture(scope="module")
async def wire() -> AsyncIterator[tuple[RawDisk, DiskClient]]:
    async with RawDisk() as disk, client_of(disk.port) as client:
        yield disk, client


async def test_proxy_of_the_environment_is_not_used(
    node: DiskNode, client: DiskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    await client.remove(SERVER, PFN, ALICE)
    assert len(node.calls) == 1


async def test_cookies_are_not_sent_back() -> None:
    says = OK.replace(b"Connection:", b"Set-Cookie: a=b; Path=/\r\nConnection:")
    async with RawDisk(says) as disk:
        # By name: aiohttp keeps no cookies of addresses anyway.
        client = DiskClient(DiskConfig(port=disk.port), secret="", dn="", host="")
        async with client:
            for _ in range(2):
                await client.remove("localhost", PFN, ROOT)
    assert b"cookie" not in disk.heard[1].lower()


async def test_second_answer_to_a_request_is_not_taken_for_that_to_the_next() -> None:
    async with RawDisk(OK + b"HTTP/1.1 400 Unknown\r\nContent-Length: 0\r\n\r\n") as disk:
        async with client_of(disk.port) as client:
            for _ in range(3):
                await client.remove(SERVER, PFN, ROOT)
                await asyncio.sleep(0)
        assert (disk.accepted, len(disk.heard)) == (3, 3)


async def test_no_more_connections_to_a_server_than_allowed() -> None:
    async with RawDisk() as disk, client_of(disk.port, connections_per_server=3) as client:
        await asyncio.gather(*(client.remove(SERVER, PFN, ROOT) for _ in range(30)))
        assert len(disk.heard) == 30
        assert disk.most_connections <= 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 422, 500, 507])
async def test_answer_of_an_error_is_a_refusal(node: DiskNode, client: DiskClient, status: int) -> None:
    node.refuse(status, "Rm of ü failed\r\nbecause")
    with pytest.raises(DiskRefusedError) as refusal:
        await client.remove(SERVER, PFN, ALICE)
    assert (refusal.value.status, refusal.value.text) == (status, "Rm of ü failed\r\nbecause")
    assert f"{SERVER}: dome_pfnrm: not done: it answered {status} 'Rm of ü failed because'" in str(
        refusal.value
    )
    assert exists(node)


@pytest.mark.parametrize("status", [201, 204, 302, 307, 502, 503, 504])
async def test_answer_that_no_disk_daemon_gives_leaves_the_outcome_unknown(status: int) -> None:
    says = b"HTTP/1.1 %d X\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n" % status
    async with RawDisk(says) as disk, client_of(disk.port) as client:
        with pytest.raises(DiskUnknownError, match=str(status)):
            await client.remove(SERVER, PFN, ALICE)
        assert len(disk.heard) == 1


async def test_server_error_on_a_page_is_not_the_daemon_s() -> None:
    page = b"<html>Internal Server Error</html>"
    says = b"HTTP/1.1 500 X\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page)
    async with RawDisk(says) as disk, client_of(disk.port) as client:
        with pytest.raises(DiskUnknownError, match="500"):
            await client.remove(SERVER, PFN, ALICE)


@pytest.mark.parametrize(
    ("says", "then"),
    [
        (b"", "close"),
        (b"", "reset"),
        (b"", "hang"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "keep"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "keep"),
        (b"\0\0\0\0\0\0\x07\xdc", "close"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "close"),
        (b"HTTP/1.1 422 Unknown\r\nContent-Le", "reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nRm suc", "close"),
        (b"HTTP/1.1 422 Unknown\r\nContent-Length: 10\r\n\r\nRm suc", "reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nRm suc", "hang"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nRm su\r\n", "close"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "hang"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 5_000_000, "keep"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n", "keep"),
    ],
)
async def test_without_a_complete_answer_the_outcome_is_unknown(says: bytes, then: str) -> None:
    async with RawDisk(says, then) as disk, client_of(disk.port) as client:
        with pytest.raises(DiskUnknownError, match="may have been done"):
            await client.call(SERVER, "POST", "dome_pfnrm", {"pfn": PFN}, ALICE, timeout=0.3)
        assert len(disk.heard) == 1


async def test_answer_that_ends_with_the_connection_is_complete() -> None:
    says = b"HTTP/1.0 200 OK\r\n\r\nRm successful."
    async with RawDisk(says, "close") as disk, client_of(disk.port) as client:
        answer = await client.call(SERVER, "POST", "dome_pfnrm", {"pfn": PFN}, ALICE)
    assert answer.text == "Rm successful."


@pytest.mark.parametrize(
    ("fault", "removed"),
    [("remove_then_hang", True), ("remove_then_cut", True), ("hang", False), ("cut", False)],
)
async def test_deaf_or_cutting_disk_may_or_may_not_have_removed_the_file(
    node: DiskNode, client: DiskClient, fault: str, removed: bool
) -> None:
    getattr(node, fault)()
    with pytest.raises(DiskUnknownError):
        await client.call(SERVER, "POST", "dome_pfnrm", {"pfn": PFN}, ALICE, timeout=0.3)
    assert (len(node.calls), exists(node)) == (1, not removed)
    node.heal()
    await client.remove(SERVER, PFN, ALICE)


async def test_slow_disk_is_waited_for_as_long_as_configured(node: DiskNode) -> None:
    node.slow(0.3)
    async with client_of(node.port, connect_seconds=0.1, request_seconds=0.1) as client:
        with pytest.raises(DiskUnknownError, match="no answer in time"):
            await client.remove(SERVER, PFN, ALICE)
    async with client_of(node.port, connect_seconds=0.1, request_seconds=5) as client:
        await client.remove(SERVER, PFN, ALICE)


async def test_disk_that_is_off_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with client_of(port) as client:
        with pytest.raises(DiskUnreachableError, match="nothing was sent: Connection refused"):
            await client.remove(SERVER, PFN, ALICE)


async def test_disk_that_takes_no_connection_is_unreachable() -> None:
    async with (
        RawDisk(then="hang") as disk,
        client_of(disk.port, scheme="https", connect_seconds=0.2) as client,
    ):
        with pytest.raises(DiskUnreachableError, match="no connection in time"):
            await client.remove(SERVER, PFN, ALICE)
        assert disk.heard == []


async def test_request_that_waited_in_vain_for_a_free_connection_was_not_sent() -> None:
    config: dict[str, Any] = {"connections_per_server": 1, "connect_seconds": 0.2, "request_seconds": 60.0}
    async with RawDisk(b"", "hang") as disk, client_of(disk.port, **config) as client:
        under_way = asyncio.create_task(client.remove(SERVER, PFN, ALICE))
        while not disk.heard:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        async with asyncio.timeout(5):
            with pytest.raises(DiskUnreachableError, match="no connection in time"):
                await client.remove(SERVER, PFN, ALICE)
        assert len(disk.heard) == 1
    with pytest.raises(DiskUnknownError):
        await under_way


async def test_closed_client_sends_nothing(node: DiskNode) -> None:
    client = client_of(node.port)
    await client.start()
    with pytest.raises(RuntimeError):
        await client.start()
    await client.close()
    await client.close()
    with pytest.raises(DiskUnreachableError):
        await client.remove(SERVER, PFN, ALICE)
    assert node.calls == []


async def heard(node: DiskNode) -> None:
    async with asyncio.timeout(5):
        while not node.calls:  # noqa: ASYNC110 - the log has no event
            await asyncio.sleep(0.005)


async def test_closing_makes_requests_under_way_unknown(node: DiskNode, client: DiskClient) -> None:
    node.remove_then_hang()
    removal = asyncio.create_task(client.remove(SERVER, PFN, ALICE))
    await heard(node)
    await client.close()
    with pytest.raises(DiskUnknownError):
        await removal


async def test_cancelled_request_leaves_no_task_and_no_connection(node: DiskNode) -> None:
    async with RawDisk(b"", "hang") as disk, client_of(disk.port) as client:
        before = asyncio.all_tasks()
        removal = asyncio.create_task(client.remove(SERVER, PFN, ALICE))
        while not disk.heard:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        serving = asyncio.all_tasks() - before - {removal}
        removal.cancel()
        with pytest.raises(asyncio.CancelledError):
            await removal
        async with asyncio.timeout(5):
            while disk.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert asyncio.all_tasks() - before - serving == set()


@pytest.mark.parametrize(
    ("server", "pfn", "user", "problem"),
    [
        ("disk/x", PFN, ROOT, "host name"),
        ("user@disk", PFN, ROOT, "host name"),
        ("disk 1", PFN, ROOT, "host name"),
        ("disk\r\n1", PFN, ROOT, "host name"),
        ("disk1\n", PFN, ROOT, "host name"),
        ("disk:80", PFN, ROOT, "host name"),
        ("dísk", PFN, ROOT, "host name"),
        ("disk..org", PFN, ROOT, "host name"),
        ("d" * 64, PFN, ROOT, "host name"),
        ("d." * 130 + "d", PFN, ROOT, "host name"),
        ("", PFN, ROOT, "host name"),
        (SERVER, PFN, RemoteUser("/CN=a\r\nremoteclientgroups: root"), "remoteclientdn has control"),
        (SERVER, PFN, RemoteUser("/CN=a", "h\n"), "remoteclienthost has control"),
        (SERVER, PFN, RemoteUser("/CN=a", "h", ("x\0",)), "remoteclientgroups has control"),
        (SERVER, PFN, RemoteUser("/CN=Zo\udceb"), "remoteclientdn is not UTF-8"),
        (SERVER, PFN, RemoteUser(" ë "), "is root's"),
        (SERVER, PFN, RemoteUser("/CN=a", "h", ("atlas,root",)), "comma"),
        (SERVER, f"{PFN}\0.txt", ROOT, "NUL"),
        (SERVER, f"{FS}/../fs2/x", ROOT, "without .."),
        (SERVER, "relative", ROOT, "absolute"),
        (SERVER, "", ROOT, "absolute"),
    ],
)
async def test_hostile_values_are_refused_before_anything_is_sent(
    wire: tuple[RawDisk, DiskClient], server: str, pfn: str, user: RemoteUser, problem: str
) -> None:
    disk, client = wire
    accepted = disk.accepted
    with pytest.raises(DiskUnreachableError, match=problem) as refusal:
        await client.remove(server, pfn, user)
    assert disk.accepted == accepted
    assert str(refusal.value).isprintable()


async def test_nul_deep_in_a_body_is_refused(client: DiskClient) -> None:
    for body in ({"x": {"y": ["\0"]}}, {"\0": "x"}):
        with pytest.raises(DiskUnreachableError, match="NUL"):
            await client.remove(SERVER, PFN, ROOT, body=body)


def test_client_that_signs_needs_a_host_name() -> None:
    with pytest.raises(ConfigError):
        DiskClient(DiskConfig(), secret=KEY, dn=HEAD, host="")


def everything_said(error: BaseException | None) -> str:
    said = ""
    while error is not None:
        said += f"{error!r} {error} {vars(error)}"
        error = error.__cause__ or error.__context__
    return said


def unknown_command(request: bytes) -> bytes:
    text = b"Command '%s' unknown for a POST request." % request.split(b" ")[1]
    return b"HTTP/1.1 418 Unknown\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)


@pytest.mark.parametrize(
    ("says", "then"), [(unknown_command, "keep"), (b"garbage\r\n\r\n", "keep"), (b"", "close"), (b"", "hang")]
)
async def test_neither_errors_nor_logs_have_the_token(
    says: bytes | Callable[[bytes], bytes], then: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with RawDisk(says, then) as disk, client_of(disk.port) as client:
        with pytest.raises(DiskError) as failure:
            await client.call(SERVER, "POST", "dome_pfnrm", {"pfn": PFN}, ALICE, timeout=0.3)
    token = disk.heard[0].partition(b"xrdhttptk=")[2].partition(b"&")[0].decode()
    said = everything_said(failure.value) + caplog.text
    assert "dome_pfnrm" in said
    assert [secret for secret in (token, KEY) if secret in said] == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file with the key and the certificate of 127.0.0.1, its own issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "host.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(scope="module")
def ca_dir(certificate: Path) -> Path:
    """As grid CAs lie there: under the hashes of their names."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is needed to hash the names of CAs")
    directory = certificate.parent / "certificates"
    directory.mkdir()
    (directory / "ca.pem").write_bytes(certificate.read_bytes())
    subprocess.run(["openssl", "rehash", str(directory)], check=True, capture_output=True)
    return directory


async def test_disk_over_https_is_shown_the_certificate_and_must_have_its_own(
    certificate: Path, ca_dir: Path
) -> None:
    disk_config = DiskConfig(scheme="https", certificate=certificate, key=certificate, ca_dir=ca_dir)
    strict = serving(certificate)
    strict.verify_mode = ssl.CERT_REQUIRED
    strict.load_verify_locations(certificate)
    async with RawDisk(tls=strict) as disk:
        async with DiskClient(
            disk_config,
            secret="",
            dn="",
            host="",
            resolve=lambda _: ("127.0.0.1", disk.port),
            tls=client_tls(disk_config),
        ) as client:
            await client.remove("127.0.0.1", PFN, ALICE)
            with pytest.raises(DiskUnreachableError, match="TLS"):
                await client.remove(SERVER, PFN, ALICE)
        assert len(disk.heard) == 1


def test_certificate_that_cannot_be_used_is_named(certificate: Path, tmp_path: Path) -> None:
    missing = DiskConfig(scheme="https", certificate=tmp_path / "none", key=certificate, ca_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"disk\.certificate .*none"):
        client_tls(missing)
    with pytest.raises(ConfigError, match=r"disk\.ca_dir"):
        client_tls(replace(missing, ca_dir=tmp_path / "none"))
    assert client_tls(DiskConfig()) is None


async def test_disk_with_an_untrusted_certificate_is_told_nothing(certificate: Path) -> None:
    async with RawDisk(tls=serving(certificate)) as disk, client_of(disk.port, scheme="https") as client:
        with pytest.raises(DiskUnreachableError, match="TLS"):
            await client.remove(SERVER, PFN, ALICE)
        assert disk.heard == []
