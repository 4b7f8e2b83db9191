"""The audit log: what a line has, that nothing in it can be forged, and that no log has a credential."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from typing import Any, cast

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.auth import audit
from dome_bridge.auth.audit import (
    CUT,
    FIELDS,
    LONGEST_VALUE,
    MAX_VALUE_BYTES,
    AuditLine,
    CredentialFilter,
    Decision,
    escaped,
    handshake_failed,
    keep_credentials_out_of_logs,
    without_credentials,
    write,
)
from dome_bridge.auth.principal import Channel, Kind, Principal, Role, ValidToken

PAIR = re.compile(r'([a-z]+)="((?:[^"\\]|\\.)*)"')
ESCAPE = re.compile(rb'\\(?:x([0-9A-F]{2})|(["\\]))')

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"
CANARY = "CANARYcanary0123"

TOKEN = ValidToken(
    issuer="atlas",
    sub="1234",
    jti="id-1",
    kid="key-1",
    expires=0.0,
    jwt_name="jwt:atlas:1234",
    username="/CN=mapped",
    groups=(),
    vo_groups=("atlas",),
    grants=cast(Any, None),
    has_capability=True,
)
BOTH = Principal(
    Kind.CAPABILITY,
    Role.USER,
    user="/CN=mapped",
    groups=("atlas", "atlas/prod"),
    channel=Channel(dn="/DC=org/CN=Ada"),
    token=TOKEN,
)
LINE = AuditLine(
    at=1_795_000_000.1234,
    decision=Decision.ALLOW,
    req="r-1",
    peer="192.0.2.1",
    cmd="dome_rename",
    path="/a",
    dst="/b",
    who=BOTH,
    rule="S4",
    status=200,
    seconds=0.01234,
)


def fields(line: str) -> dict[str, str]:
    """As a strict reader takes a line apart; a line that is anything else is an error."""
    found = PAIR.findall(line)
    assert " ".join(f'{name}="{value}"' for name, value in found) == line
    assert [name for name, _ in found] == list(FIELDS)
    return dict(found)


def unescaped(value: str) -> bytes:
    return ESCAPE.sub(
        lambda found: bytes.fromhex(found[1].decode()) if found[1] else found[2], value.encode()
    )


def test_a1_line_has_all_fields_in_their_order() -> None:
    assert str(LINE) == (
        'ts="2026-11-18T11:06:40.123+00:00" req="r-1" peer="192.0.2.1" cmd="dome_rename" path="/a" dst="/b" '
        'auth="token-capability" user="/CN=mapped" groups="atlas,atlas/prod" iss="atlas" sub="1234" '
        'jti="id-1" kid="key-1" chan="/DC=org/CN=Ada" role="user" decision="allow" rule="S4" status="200" '
        'ms="12.3" reason=""'
    )


def test_a1_anonymous_line_has_them_too() -> None:
    found = fields(str(AuditLine(0.0, Decision.DENY)))
    said = {name: value for name, value in found.items() if value}
    assert said == {
        "ts": "1970-01-01T00:00:00.000+00:00",
        "auth": "anonymous",
        "role": "nobody",
        "decision": "deny",
        "ms": "0.0",
    }


def test_a1_failed_handshake_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dome.audit"):
        handshake_failed(0.0, "2001:db8::1", "10: certificate has expired", seconds=0.5)
    (record,) = caplog.records
    assert record.name == "dome.audit"
    found = fields(record.getMessage())
    assert (found["peer"], found["rule"], found["decision"]) == ("2001:db8::1", "TLS5", "deny")
    assert (found["reason"], found["ms"], found["status"]) == ("10: certificate has expired", "500.0", "")


def test_a2_denial_is_a_warning_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dome.audit"):
        write(LINE)
        write(replace(LINE, decision=Decision.DENY, rule="S4", status=403, reason='no scope for "/b"'))
    (record,) = caplog.records
    found = fields(record.getMessage())
    assert (found["decision"], found["status"], found["reason"]) == ("deny", "403", r"no scope for \"/b\"")


FORGERIES = [
    'x" decision="allow',
    "x\\",
    'x\\" decision=\\"allow',
    "x\r\nts=",
    "x\n",
    "\u2028\u2029\x85\x1b[2J\x00\x7f",
    "Jürgen \udce9 \ud800",
    "'`$(id)",
]


@pytest.mark.parametrize("text", FORGERIES)
@pytest.mark.parametrize("field", ["path", "dst", "req", "peer", "cmd", "rule", "reason"])
def test_a3_value_forges_neither_line_nor_field(text: str, field: str) -> None:
    found = fields(str(replace(LINE, **cast(Any, {field: text}))))
    assert found == fields(str(LINE)) | {field: found[field]}


@pytest.mark.parametrize("text", FORGERIES)
def test_a3_names_and_claims_forge_nothing_either(text: str) -> None:
    token = replace(TOKEN, issuer=text, sub=text, jti=text, kid=text)
    who = replace(BOTH, user=text, groups=(text, text), channel=Channel(dn=text), token=token)
    found = fields(str(replace(LINE, who=who)))
    changed = {"user", "groups", "iss", "sub", "jti", "kid", "chan"}
    same = set(FIELDS) - changed
    assert {name: found[name] for name in same} == {name: fields(str(LINE))[name] for name in same}


@given(st.text(st.characters(), max_size=700))
def test_a3_any_value_is_printable_limited_and_can_be_read_back(text: str) -> None:
    found = escaped(text)
    assert found.isascii()
    assert found.isprintable()
    assert len(found) <= MAX_VALUE_BYTES
    assert PAIR.fullmatch(f'v="{found}"')
    data = text.encode("utf-8", "surrogatepass")
    if max(text, default="") >= "\udc80" and any("\udc80" <= c <= "\udcff" for c in text):
        return  # bytes of a request that are not UTF-8
    if len(found) < MAX_VALUE_BYTES - 2:
        assert unescaped(found) == data
    else:
        assert unescaped(found.removesuffix("..."))[:100] == data[:100]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a" * 512, "a" * 512),
        ("a" * 513, "a" * 509 + "..."),
        ("é" * 64, r"\xC3\xA9" * 64),
        ("é" * 65, r"\xC3\xA9" * 63 + r"\xC3..."),
        ("a" + '"' * 300, "a" + '\\"' * 254 + "..."),
        ("\udce9", r"\xE9"),
        ("\ud800", r"\xED\xA0\x80"),
    ],
)
def test_a3_value_is_cut_at_512_bytes_between_two_characters(text: str, found: str) -> None:
    assert escaped(text) == found


# A4


LEAKS = [
    f"GET /domehead/command/dome_get?authz={CANARY}&x=1 HTTP/1.1",
    f"GET /x?authz=Bearer%20{CANARY} HTTP/1.1",
    f"GET /x?authz=Bearer%20{CANARY}#fragment",
    f"GET /x?AUTHZ={CANARY}",
    f"/x%3Fauthz%3D{CANARY}",
    f"authz='{CANARY}'",
    f'path="/f?authz={CANARY}" status=200',
    f"/f?xrdhttptk={CANARY}&xrdhttptime=1",
    f"{{'authz': '{CANARY}'}}",
    f"<MultiDictProxy('authz': 'Bearer {CANARY}')>",
    f"Authorization: Bearer {CANARY}",
    f"authorization:bearer {CANARY}",
    f"b'Authorization: Bearer\\x00{CANARY}'",
    f"Authorization: Basic {CANARY} {CANARY}",
    f"<CIMultiDict('Host': 'x', 'Authorization': 'Bearer {CANARY}')>",
    f"((b'Authorization', b'Bearer {CANARY}'),)",
    f'{{"Authorization": "Bearer {CANARY}"}}',
    f'"{{\\"Authorization\\": \\"Bearer {CANARY}\\"}}"',
    f"Got more than 200 bytes when reading: b'Bearer {CANARY}...'.",
    f"header Basic {CANARY}{CANARY}",
    f"Proxy-Authorization: Negotiate {CANARY}",
    f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----",
    f"-----BEGIN EC PRIVATE KEY-----\n{CANARY}",
]


@pytest.mark.parametrize("text", LEAKS)
def test_a4_credential_is_cut_out(text: str) -> None:
    found = without_credentials(text)
    assert CANARY not in found
    assert CUT in found
    assert without_credentials(found).count(CUT) == found.count(CUT)


@pytest.mark.parametrize("text", [JWT, f"token {JWT} is bad", f"/dpm/f%20{JWT}", JWT[:60], f"({JWT})"])
def test_a4_token_is_known_by_its_form(text: str) -> None:
    assert "eyJ" not in without_credentials(text)
    assert "c2ln" not in without_credentials(text)


@pytest.mark.parametrize(
    "text",
    [
        "a bearer token came over plain HTTP",
        "more than one bearer token",
        'Bearer realm="dome"',
        "the certificate lacks Basic Constraints",
        "the header Authorization is given twice",
        "user eyjafjallajokull",
        "/dpm/example.org/home/atlas/eyJ.root",
        "authzdb",
        "192.0.2.1 GET /domehead/command/dome_get?xrdhttptime=1 200",
    ],
)
def test_a4_other_text_stays(text: str) -> None:
    assert without_credentials(text) == text


def test_a4_rest_of_the_line_stays() -> None:
    assert (
        without_credentials(f"GET /x?authz={CANARY}&a=b HTTP/1.1 400")
        == f"GET /x?authz={CUT}&a=b HTTP/1.1 400"
    )
    assert (
        without_credentials(f"'Authorization': 'Bearer {CANARY}', 'A': 'b'")
        == f"'Authorization': '{CUT}', 'A': 'b'"
    )


@given(st.text("ab \\\"'=&authz:Bearer", max_size=60))
def test_a3_cutting_never_opens_a_quoted_value(text: str) -> None:
    line = f'path="{escaped(f"?authz={text}")}" decision="deny"'
    cleaned = without_credentials(line)
    assert PAIR.findall(cleaned)[-1:] == [("decision", "deny")]
    assert len(PAIR.findall(cleaned)) == 2


def test_a4_audit_line_has_no_credential_of_a_path() -> None:
    found = str(replace(LINE, path=f"/f?authz=Bearer {CANARY}", reason=f"token {JWT}"))
    assert CANARY not in found
    assert "eyJ" not in found
    assert fields(found)["path"] == f"/f?authz={CUT}"


@pytest.fixture
def printed() -> Iterator[StringIO]:
    """What a handler of the root logger prints, with the record factory put back at the end."""
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    root, factory = logging.getLogger(), logging.getLogRecordFactory()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    keep_credentials_out_of_logs()
    keep_credentials_out_of_logs()
    yield stream
    logging.setLogRecordFactory(factory)
    root.setLevel(level)
    root.removeHandler(handler)


@pytest.mark.parametrize(
    "name", ["dome_bridge.dome_api.x", "dome.audit", "aiohttp.server", "aiohttp.access", "asyncio"]
)
def test_a4_record_is_cleaned_wherever_it_holds_the_credential(name: str, printed: StringIO) -> None:
    logger = logging.getLogger(name)
    logger.warning("plain ?authz=%s", CANARY)
    logger.warning("argument %s", {"Authorization": f"Bearer {CANARY}"})
    logger.warning("mapping %(a)s", {"a": f"Bearer {CANARY}"})
    try:
        try:
            raise ValueError(f"Bearer {CANARY}")
        except ValueError as exc:
            raise RuntimeError("outer") from exc
    except RuntimeError:
        logger.exception("failed")
    text = printed.getvalue()
    assert CANARY not in text
    assert text.count(CUT) >= 4
    assert "RuntimeError: outer" in text


def test_a4_records_without_a_credential_are_left_alone(printed: StringIO) -> None:
    try:
        raise ValueError("it")
    except ValueError:
        logging.getLogger("dome_bridge").exception("failed a=%s", 1)
    assert "failed a=1\nTraceback" in printed.getvalue()
    assert printed.getvalue().endswith("ValueError: it\n")


def test_a4_filter_lets_every_record_pass_even_a_wrong_one() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "wrong %d", ("text",), None)
    assert CredentialFilter().filter(record)
    assert record.args == ("text",)


async def sent(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read(4096)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a4_errors_of_aiohttp_about_headers_are_logged_without_them(printed: StringIO) -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        raise RuntimeError(f"{request.headers!r} {request.raw_path}")

    log = logging.getLogger("aiohttp.access")
    runner = web.ServerRunner(web.Server(answer, max_field_size=200, max_line_size=200, access_log=log))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    token = CANARY.encode()
    for line in (
        b"GET / HTTP/1.1\r\nAuthorization: Bearer " + token * 40,
        b"GET / HTTP/1.1\r\nAuthorization: " + token * 40,
        b"GET / HTTP/1.1\r\nAuthorization: Bearer\x00" + token,
        b"GET /?authz=" + token * 40 + b" HTTP/1.1",
        b"GET /?authz=" + token + b" HTTP/1.1\r\nAuthorization: Bearer " + token,
        token * 2 + b" / HTTP/1.1",
    ):
        await sent(port, line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    await runner.cleanup()
    text = printed.getvalue()
    assert "LineTooLong: 400" in text
    assert "RuntimeError" in text
    assert CANARY not in text


@pytest.mark.parametrize(
    "hostile",
    [
        "authorization " * 70_000,
        "basic " * 160_000,
        "basic" + " " * 1_000_000,
        "-----BEGIN " * 90_000,
        "-----BEGIN " + "A" * 1_000_000,
        "%41authz" * 120_000,
        "authz='" * 140_000,
        "eyJaaaaaaa " * 90_000,
        ("authorization" + " " * 1000) * 1000,
        "bearer" + "%20" * 330_000,
    ],
    ids=lambda text: text[:20],
)
def test_a3_value_of_any_length_costs_no_more_than_a_short_one(hostile: str) -> None:
    began = time.perf_counter()
    line = str(AuditLine(0.0, Decision.DENY, path=hostile, dst=hostile, reason=hostile))
    assert time.perf_counter() - began < 0.15
    assert len(line) < 3 * 520 + 500


@pytest.mark.parametrize(
    ("before", "secret", "after"),
    [
        ("Authorization: Bearer ", CANARY, ""),
        ("authz=", CANARY, ""),
        ("", f"eyJhbGciOiJFUzI1NiJ9.{CANARY}.c2lnbmF0dXJl", ""),
        ("Basic ", "QWxhZGRpbjpvcGVuIHNlc2FtZQ" * 3, ""),
        ("Negotiate    ", "QWxhZGRpbjpvcGVuIHNlc2FtZQ" * 3, ""),
        ("-----BEGIN PRIVATE KEY-----\n", "MIIEvQIBADANBgkqhkiG9w0BAQ", "\n-----END PRIVATE KEY-----"),
    ],
)
def test_a4_value_that_is_cut_within_a_credential_shows_nothing_of_it(
    before: str, secret: str, after: str
) -> None:
    """What stands before is cut out too, so that the place of the cut comes into view."""
    filler = " ".join(["eyJ" + "x" * 97] * (LONGEST_VALUE // 101))
    pieces = [secret[start : start + 6] for start in range(len(secret) - 6)]
    for shift in range(1, 240, 7):
        text = f"{filler[: LONGEST_VALUE - shift]} {before}{secret}{after}{' ' * 100}"
        line = str(AuditLine(0.0, Decision.DENY, path=text))
        assert not [piece for piece in pieces if piece in line]


def test_logger_is_the_one_that_sites_configure() -> None:
    assert audit.audit_log.name == "dome.audit"
