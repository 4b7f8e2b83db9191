"""HTTP as clients really speak it: what the application answers whatever the command.

The requests are written out byte by byte, over real sockets.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from dome_bridge.auth.audit import audit_log
from dome_bridge.config import ApiConfig, Config, ListenConfig
from dome_bridge.dome_api import application
from dome_bridge.dome_api import service as api_service
from dome_bridge.dome_api.command import Commands
from dome_bridge.dome_api.head import Call
from dome_bridge.dome_api.service import ApiService
from dome_bridge.dome_api.wire import Answer as Answered
from dome_bridge.dpm.schema import read_layout
from dome_bridge.errors import ConfigError
from dome_bridge.exporter.fence import lift_fence, raise_fence
from dome_bridge.exporter.session import admin_source
from sandbox.proxy import FaultyProxy
from sandbox.servers import MariaServer
from tests.fixtures.databases import DpmSite
from tests.fixtures.dome import FRONTEND, HEAD, Silent, golden_config, golden_databases
from tests.fixtures.http import Answer, HttpConnection, read_answer

STAT = "/domehead/command/dome_getstatinfo"
USER = "/DC=test/DC=dmlite/OU=users/CN=Alice Tester"
BANNED = "/DC=test/DC=dmlite/OU=users/CN=Banned Guy"


class Seen(Silent):
    """An observer that remembers the answers."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, int]] = []

    def answered(self, command: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.answers.append((command, status))


@pytest.fixture(scope="module")
async def golden(maria: MariaServer) -> AsyncIterator[DpmSite]:
    async with golden_databases(maria) as site:
        yield site


@pytest.fixture(scope="module")
def config(golden: DpmSite, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return golden_config(golden, tmp_path_factory.mktemp("http"))


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen()


@pytest.fixture(scope="module")
async def service(config: Config, seen: Seen) -> AsyncIterator[ApiService]:
    async with ApiService(config, seen) as service:
        yield service


@pytest.fixture
async def client(service: ApiService) -> AsyncIterator[HttpConnection]:
    async with HttpConnection("127.0.0.1", service.ports[0]) as connection:
        yield connection


def raw(
    method: str,
    target: str,
    body: bytes = b"{}",
    *,
    dn: str = FRONTEND,
    headers: tuple[str, ...] = (),
    length: int | None = None,
) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: head", *headers]
    if dn:
        lines += ["x-ssl-client-verify: SUCCESS", f"x-ssl-client-s-dn: {dn}"]
    if length != -1:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def asking(lfn: str) -> bytes:
    return raw("GET", STAT, json.dumps({"lfn": lfn}).encode())


async def test_answer_has_a_length_and_leaves_the_connection_open(client: HttpConnection) -> None:
    for _ in range(3):
        answer = await client.exchange(asking("/dpm"))
        assert answer.status == 200
        assert answer.framing_faults() == []
        assert json.loads(answer.body)["name"] == "dpm"
    assert client.opened == 1


@pytest.mark.parametrize("encoding", ["gzip", "gzip, deflate, br", "*"])
async def test_answer_is_never_compressed_nor_chunked(client: HttpConnection, encoding: str) -> None:
    request = raw("GET", STAT, b'{"lfn": "/dpm"}', headers=(f"Accept-Encoding: {encoding}", "TE: chunked"))
    assert (await client.exchange(request)).framing_faults() == []


@pytest.mark.parametrize(
    "target",
    [
        STAT,
        f"{STAT}/",
        f"{STAT}///",
        "//domehead//command//dome_getstatinfo",
        "/dome_getstatinfo",
        "/dpm-rest/anything/dome_getstatinfo",
        f"{STAT}?ignored=1",
        f"{STAT}?ignored=/../x%2Fy",
    ],
)
async def test_last_component_of_the_target_is_the_command(client: HttpConnection, target: str) -> None:
    answer = await client.exchange(raw("GET", target, b'{"lfn": "/dpm"}'))
    assert answer.status == 200


@pytest.mark.parametrize(
    "target",
    [
        f"http://head.test:1094{STAT}",
        "/domehead/command/x%2f..%2fdome_getstatinfo",
        "/domehead/command%2Fdome_getstatinfo",
        "/domehead/command/../dome_getstatinfo",
        "/domehead/./command/dome_getstatinfo",
        f"{STAT}/..",
    ],
)
async def test_h8_target_that_could_lead_elsewhere_is_refused(client: HttpConnection, target: str) -> None:
    assert (await client.exchange(raw("GET", target, b'{"lfn": "/dpm"}'))).status == 400
    assert (await client.exchange(asking("/dpm"))).status == 200
    assert client.opened == 1


@pytest.mark.parametrize(
    ("method", "target", "status", "text"),
    [
        (
            "GET",
            "/domehead/command/dome_nosuch",
            418,
            "Command '/domehead/command/dome_nosuch' unknown for a GET",
        ),
        ("GET", "/domehead/command/dome_makedir", 418, "unknown for a GET request. I like your style."),
        ("POST", STAT, 418, "Command 'dome_getstatinfo' unknown for a POST request.  Nice joke, eh ?"),
        ("POST", "/", 418, "Command '' unknown for a POST request."),
        ("PUT", STAT, 405, "PUT is no verb for commands: use GET or POST"),
        ("DELETE", STAT, 405, "DELETE"),
        ("OPTIONS", STAT, 405, "OPTIONS"),
        ("PROPFIND", "/dpm", 405, "PROPFIND"),
    ],
)
async def test_wrong_verb_or_command_is_told(
    client: HttpConnection, method: str, target: str, status: int, text: str
) -> None:
    answer = await client.exchange(raw(method, target))
    assert answer.status == status
    assert text in answer.body.decode()
    assert (await client.exchange(asking("/dpm"))).status == 200
    assert client.opened == 1


async def test_head_is_answered_in_kind(client: HttpConnection) -> None:
    answer = await client.exchange(raw("HEAD", STAT), is_head=True)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert (await client.exchange(asking("/dpm"))).status == 200


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT"])
@pytest.mark.parametrize("command", ["dome_getstatinfo", "dome_nosuch"])
async def test_h6_nobody_is_asked_who_he_is_before_anything_else(
    client: HttpConnection, method: str, command: str
) -> None:
    request = raw(method, f"/x/{command}", b"nonsense", dn="")
    answer = await client.exchange(request, is_head=method == "HEAD")
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == f'Bearer realm="{HEAD}"'


@pytest.mark.parametrize(
    ("command", "closed"), [("dome_addpool", True), ("dome_putdone", True), ("dome_makedir", False)]
)
async def test_user_is_refused_what_is_not_for_users(
    client: HttpConnection, command: str, closed: bool
) -> None:
    answer = await client.exchange(raw("POST", f"/x/{command}", dn=USER))
    assert (answer.status == 403) is closed
    assert (answer.body.decode() == f"{USER} is unauthorized. Sorry :-)") is closed


async def test_site_without_direct_users_refuses_them_all(config: Config) -> None:
    auth = replace(config.auth, direct_users=False)
    async with (
        ApiService(replace(config, auth=auth), Silent()) as service,
        HttpConnection("127.0.0.1", service.ports[0]) as client,
    ):
        answer = await client.exchange(raw("GET", STAT, b'{"lfn": "/dpm"}', dn=USER))
        info = await client.exchange(raw("GET", "/x/dome_info", dn=USER))
    assert (answer.status, answer.body.decode()) == (403, f"{USER} is unauthorized. Sorry :-)")
    assert (info.status, b"ACCESS TO DOME DENIED." in info.body) == (200, True)


@pytest.mark.parametrize("headers", [(), (f"remoteclientdn: {BANNED}", "remoteclientgroups: dteam")])
async def test_b1_banned_user_is_told_what_this_is_and_nothing_else(
    client: HttpConnection, headers: tuple[str, ...]
) -> None:
    dn = FRONTEND if headers else BANNED
    info = await client.exchange(raw("GET", "/x/dome_info", dn=dn, headers=headers))
    other = await client.exchange(raw("GET", STAT, b'{"lfn": "/dpm"}', dn=dn, headers=headers))
    assert (info.status, other.status) == (200, 403)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (f"x-ssl-client-s-dn: {FRONTEND}",),
        (f"x-ssl-client-s-dn: {FRONTEND}", "x-ssl-client-verify: NONE"),
        (f"x-ssl-client-s-dn: {FRONTEND}", "x-ssl-client-verify: FAILED:expired"),
        (f"x-ssl-client-s-dn: {FRONTEND}", "x-ssl-client-verify: success"),
        ("x-ssl-client-verify: SUCCESS",),
        ("x-ssl-client-verify: SUCCESS", "x-ssl-client-s-dn: (null)"),
    ],
)
async def test_dn_without_a_good_verification_is_nobody(
    client: HttpConnection, headers: tuple[str, ...]
) -> None:
    assert (await client.exchange(raw("GET", STAT, dn="", headers=headers))).status == 401


@pytest.mark.parametrize(
    "header",
    [
        f"x-ssl-client-s-dn: {USER}",
        "X-SSL-Client-Verify: SUCCESS",
        "remoteclientdn: /CN=a\r\nRemoteClientDN: /CN=b",
        "remoteclientgroups: a\r\nremoteclientgroups: b",
        "remoteclientdn: /CN=\udcff",
        "remoteclientdn: /CN=a\tb",
    ],
)
async def test_identity_that_can_be_read_in_two_ways_is_refused(client: HttpConnection, header: str) -> None:
    answer = await client.exchange(raw("GET", STAT, b'{"lfn": "/dpm"}', headers=(header,)))
    assert answer.status == 400


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"nonsense", b'{"lfn": ', b"\xff\xfe", b'"text"', b"null"]
)
async def test_body_without_parameters_is_no_error_of_its_own(client: HttpConnection, body: bytes) -> None:
    answer = await client.exchange(raw("GET", STAT, body))
    assert answer.status == 422
    assert (await client.exchange(asking("/dpm"))).status == 200
    assert client.opened == 1


async def test_request_without_any_body_is_answered(client: HttpConnection) -> None:
    assert (await client.exchange(raw("GET", STAT, b"", length=-1))).status == 422


async def test_body_of_a_mebibyte_is_read(client: HttpConnection) -> None:
    body = b'{"lfn": "/dpm", "x": "'
    body += b"y" * (application.MAX_BODY_BYTES - len(body) - 2) + b'"}'
    assert (await client.exchange(raw("GET", STAT, body))).status == 200


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_longer_body_is_refused_and_harms_nobody_else(
    client: HttpConnection, service: ApiService, is_chunked: bool
) -> None:
    body = b"x" * (application.MAX_BODY_BYTES + 1)
    request = raw("GET", STAT, body)
    if is_chunked:
        request = raw("GET", STAT, b"", length=-1, headers=("Transfer-Encoding: chunked",))
        request += b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    async with HttpConnection("127.0.0.1", service.ports[0]) as other:
        refused, answered = await asyncio.gather(client.exchange(request), other.exchange(asking("/dpm")))
    assert refused.status == 413
    assert refused.is_last
    assert answered.status == 200


async def test_chunked_body_is_read_all_the_same(client: HttpConnection) -> None:
    request = raw("GET", STAT, b"", length=-1, headers=("Transfer-Encoding: chunked",))
    assert (await client.exchange(request + b'5\r\n{"lfn\r\na\r\n": "/dpm"}\r\n0\r\n\r\n')).status == 200


async def test_compressed_body_is_not_unpacked(client: HttpConnection) -> None:
    request = raw("GET", STAT, b'{"lfn": "/dpm"}', headers=("Content-Encoding: gzip",))
    assert (await client.exchange(request)).status == 200


async def test_body_that_comes_byte_by_byte_is_waited_for(service: ApiService) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.ports[0])
    for byte in asking("/dpm"):
        writer.write(bytes([byte]))
        await writer.drain()
    assert (await read_answer(reader)).status == 200
    writer.close()


async def test_body_that_never_comes_is_given_up(config: Config) -> None:
    auth = replace(config.auth, body_seconds=0.1)
    async with (
        ApiService(replace(config, auth=auth), Silent()) as service,
        HttpConnection("127.0.0.1", service.ports[0]) as client,
    ):
        answer = await client.exchange(raw("GET", STAT, b'{"lfn"', length=100))
    assert answer.status == 408
    assert answer.is_last


async def test_client_that_goes_away_in_mid_request_harms_nobody(service: ApiService) -> None:
    for cut in (10, 100, len(asking("/dpm")) - 3):
        _, writer = await asyncio.open_connection("127.0.0.1", service.ports[0])
        writer.write(asking("/dpm")[:cut])
        await writer.drain()
        writer.transport.abort()
    async with HttpConnection("127.0.0.1", service.ports[0]) as client:
        assert (await client.exchange(asking("/dpm"))).status == 200


async def test_pipelined_requests_are_answered_in_their_order(service: ApiService) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.ports[0])
    paths = ["/dpm", "/", "/nothing", "/dpm/test"]
    writer.write(b"".join(map(asking, paths)))
    answers = [await read_answer(reader) for _ in paths]
    writer.close()
    assert [answer.status for answer in answers] == [200, 200, 404, 200]
    assert [json.loads(answer.body)["name"] for answer in answers if answer.status == 200] == [
        "dpm",
        "/",
        "test",
    ]


async def test_client_that_waits_for_100_continue_gets_it(service: ApiService) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.ports[0])
    body = b'{"lfn": "/dpm"}'
    head = raw("GET", STAT, b"", length=len(body), headers=("Expect: 100-continue",))
    writer.write(head)
    assert await asyncio.wait_for(reader.readline(), 5) == b"HTTP/1.1 100 Continue\r\n"
    await reader.readline()
    writer.write(body)
    assert (await read_answer(reader)).status == 200
    writer.close()


@pytest.mark.parametrize(
    ("rubbish", "status"),
    [
        (b"\x00\x00\x00\x04 rubbish\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 405),
        (b"GET /x HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 1000 + b"\r\n", 400),
        (b"GET /x HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 400),
        (b"get /x HTTP/1.1\r\n\r\n", 405),
        (b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ],
)
async def test_rubbish_is_answered_in_one_line_and_the_connection_closed(
    service: ApiService, caplog: pytest.LogCaptureFixture, rubbish: bytes, status: int
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.ports[0])
    writer.write(rubbish)
    answer = await asyncio.wait_for(read_answer(reader), 5)
    assert (answer.status, answer.is_last) == (status, True)
    assert answer.framing_faults() == []
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    # A line of the audit log, and nothing else.
    assert [record.name for record in warnings] == [audit_log.name]
    assert 'peer="127.0.0.1"' in warnings[0].getMessage()
    assert 'decision="deny" rule="L1"' in warnings[0].getMessage()


async def test_every_answer_is_observed_under_a_known_name(client: HttpConnection, seen: Seen) -> None:
    seen.answers.clear()
    await client.exchange(asking("/dpm"))
    await client.exchange(asking("/nothing"))
    await client.exchange(raw("GET", "/x/dome_of_the_rock"))
    assert seen.answers == [("dome_getstatinfo", 200), ("dome_getstatinfo", 404), ("unknown", 418)]


async def test_audit_log_has_one_line_a_request_whatever_the_client_sends(
    client: HttpConnection, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"lfn": '/a\nINFO client="/CN=root" status="200"\x1b[2J\xe9'}).encode()
    headers = (f"remoteclientdn: {USER}", "X-Forwarded-For: 203.0.113.9, 192.0.2.7")
    with caplog.at_level(logging.INFO, audit_log.name):
        await client.exchange(raw("GET", STAT, body, headers=headers))
    (line,) = [record.getMessage() for record in caplog.records if record.name == audit_log.name]
    assert line.isascii()
    assert line.isprintable()
    assert 'peer="192.0.2.7" cmd="dome_getstatinfo" path="/a\\x0AINFO client=\\"/CN=root\\"' in line
    assert f'auth="frontend-for-user" user="{USER}"' in line
    assert f'chan="{FRONTEND}" role="head" decision="deny" rule="S7" status="400" ms=' in line


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (raw("GET", STAT, dn=""), 'auth="anonymous" user=""'),
        (raw("GET", STAT, dn=""), 'decision="deny" rule="H5" status="401"'),
        (raw("POST", "/x/dome_addpool", dn=USER), 'decision="deny" rule="N6" status="403"'),
        (raw("GET", STAT, dn=BANNED), 'decision="deny" rule="B1" status="403"'),
        (raw("GET", f"/x%2F{STAT}"), 'decision="deny" rule="H8" status="400"'),
        (raw("POST", "/x/dome_makedir", b'{"path": "/dpm/x"}', dn=USER), 'rule="N1" status="403"'),
        (raw("POST", "/x/dome_makedir", b'{"path": "/dpm/x"}', dn=USER), 'decision="deny"'),
    ],
)
async def test_a2_denial_is_logged_with_its_reason(
    client: HttpConnection, caplog: pytest.LogCaptureFixture, request_: bytes, said: str
) -> None:
    with caplog.at_level(logging.INFO, audit_log.name):
        await client.exchange(request_)
    (line,) = [record.getMessage() for record in caplog.records if record.name == audit_log.name]
    assert said in line
    assert 'reason=""' not in line


async def test_fenced_write_is_told_to_come_again_while_reads_go_on(
    client: HttpConnection, config: Config
) -> None:
    making = raw("POST", "/x/dome_makedir", b'{"path": "/dpm/test/home/fenced", "mode": "493"}')
    strangers = [
        raw("GET", STAT, b'{"lfn": "/dpm/test"}', headers=("remoteclientdn: /CN=never seen",)),
        raw(
            "GET",
            STAT,
            b'{"lfn": "/dpm/test"}',
            headers=(f"remoteclientdn: {USER}", "remoteclientgroups: new"),
        ),
    ]
    async with admin_source(config) as source:
        await raise_fence(source, await read_layout(source))
        try:
            fenced = await client.exchange(making)
            read = await client.exchange(asking("/dpm"))
            unknown = [await client.exchange(request) for request in strangers]
        finally:
            await lift_fence(source)
    assert fenced.status == 503
    assert int(fenced.headers["retry-after"]) > 0
    assert "read-only" in fenced.body.decode()
    assert read.status == 200
    assert [answer.status for answer in unknown] == [200, 200]
    assert (await client.exchange(making)).status == 200


async def test_database_out_of_reach_is_an_answer_until_it_is_back(config: Config, seen: Seen) -> None:
    async with FaultyProxy(config.dpm.host, config.dpm.port) as proxy:
        dpm = replace(config.dpm, host=proxy.host, port=proxy.port, unix_socket="")
        async with (
            ApiService(replace(config, dpm=dpm), seen) as service,
            HttpConnection("127.0.0.1", service.ports[0]) as client,
        ):
            assert (await client.exchange(asking("/dpm"))).status == 200
            await proxy.stop()
            lost = await client.exchange(asking("/dpm"))
            await proxy.heal()
            again = await client.exchange(asking("/dpm"))
    assert (lost.status, "retry-after" in lost.headers) == (503, True)
    assert config.dpm.password not in lost.body.decode()
    assert again.status == 200


async def test_request_that_takes_too_long_is_given_up(config: Config, seen: Seen) -> None:
    async with FaultyProxy(config.dpm.host, config.dpm.port) as proxy:
        dpm = replace(config.dpm, host=proxy.host, port=proxy.port, unix_socket="")
        api = replace(config.api, request_seconds=0.3)
        async with (
            ApiService(replace(config, dpm=dpm, api=api), seen) as service,
            HttpConnection("127.0.0.1", service.ports[0]) as client,
        ):
            proxy.go_deaf()
            assert (await client.exchange(asking("/dpm"))).status == 503
            await proxy.heal()
            assert (await client.exchange(asking("/dpm"))).status == 200


async def test_client_that_does_not_take_its_answer_is_dropped(
    config: Config, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands()

    @commands.get("dome_much")
    async def much(call: Call) -> Answered:
        return Answered(200, b"x" * 64 * 1024 * 1024)

    monkeypatch.setattr(api_service, "COMMANDS", commands)
    config = replace(config, api=replace(config.api, request_seconds=0.3))
    async with ApiService(config, seen) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.ports[0], limit=1024)
        writer.write(raw("GET", "/x/dome_much"))
        await asyncio.sleep(0.6)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(64 * 1024 * 1024)
        writer.close()


async def test_running_request_is_finished_before_the_end(
    config: Config, maria: MariaServer, seen: Seen
) -> None:
    making = raw("POST", "/x/dome_makedir", b'{"path": "/dpm/test/home/late", "mode": "493"}')
    blocking = f"LOCK TABLES `{config.dpm.cns_db}`.Cns_unique_id WRITE; DO SLEEP(0.7); UNLOCK TABLES"
    service = ApiService(config, seen)
    async with service:
        locked = asyncio.create_task(maria.run_sql(blocking))
        await asyncio.sleep(0.3)
        async with HttpConnection("127.0.0.1", service.ports[0]) as client:
            running = asyncio.create_task(client.exchange(making))
            await asyncio.sleep(0.1)
            await service.__aexit__(None, None, None)
            assert (await running).status == 200
    await locked


async def test_unix_socket_is_for_its_group_and_replaces_a_dead_one(config: Config, seen: Seen) -> None:
    path = Path(config.auth.gridmap_file).parent / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    api = ApiConfig(enabled=True, listen=(ListenConfig(unix_socket=path),))
    async with ApiService(replace(config, api=api), seen):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(asking("/dpm"))
        assert (await read_answer(reader)).status == 200
        writer.close()
        with pytest.raises(ConfigError, match=r"api\.sock"):
            await ApiService(replace(config, api=api), seen).__aenter__()


async def test_port_in_use_is_told_with_the_key(config: Config, service: ApiService, seen: Seen) -> None:
    api = replace(config.api, listen=(ListenConfig(port=service.ports[0]),))
    with pytest.raises(ConfigError, match="listen"):
        await ApiService(replace(config, api=api), seen).__aenter__()


def test_answer_type_is_used() -> None:
    assert Answer(200).framing_faults() == ["no content-length"]


@pytest.mark.parametrize(
    ("method", "name", "status"),
    [
        ("GET", "dome_statpfn", 500),
        ("POST", "dome_pfnrm", 500),
        ("POST", "dome_dochksum", 500),
        ("POST", "dome_pull", 500),
        ("POST", "dome_makespace", 400),
    ],
)
async def test_command_of_disk_servers_is_refused_by_name(
    client: HttpConnection, method: str, name: str, status: int
) -> None:
    answer = await client.exchange(raw(method, f"/x/{name}", b'{"pfn": "/srv/f"}'))
    assert (answer.status, answer.body.decode()) == (status, f"{name} only available on disk nodes.")
