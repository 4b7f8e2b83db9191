"""Requests over plain HTTP, signed as XrdHttp does: what the finished listener believes, and of whom."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dome_bridge.config import load
from dome_bridge.errors import ConfigError
from sandbox.servers import MariaServer
from tests.fixtures.dome import SECRET
from tests.fixtures.gate import (
    ADMIN,
    ALICE,
    DISK1_DN,
    DTEAM,
    FRONTEND_DN,
    HEAD_DN,
    PREFIX,
    Gate,
    open_gate,
    signed_query,
    usual_target,
)

STAT, HERE = "dome_getstatinfo", {"lfn": DTEAM}
OLD_SECRET = "the secret of last year, which also has more than 32 characters"
ASSERTED = [("remoteclientdn", ALICE), ("remoteclientgroups", "dteam")]


@pytest.fixture(scope="module")
async def gate(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gate]:
    directory = tmp_path_factory.mktemp("gate")
    old = directory / "old-secret"
    old.touch(mode=0o600)
    old.write_text(OLD_SECRET)
    async with open_gate(maria, directory, xrdhttp_old_secret_file=str(old)) as gate:
        yield gate


async def status_of(gate: Gate, query: str, *, method: str = "", target: str = "") -> int:
    target = target or usual_target(STAT, query)
    return (await gate.ask(STAT, HERE, method=method, target=target, on="http")).status


@pytest.mark.parametrize(
    ("dn", "auth", "role"),
    [
        (HEAD_DN, "node", "head"),
        (DISK1_DN, "node", "disk"),
        (ADMIN, "admin", "head"),
        ("/CN=disk2.test", "node", "disk"),
    ],
)
async def test_k1_server_of_the_site_is_served(gate: Gate, dn: str, auth: str, role: str) -> None:
    reply = await gate.ask_signed(STAT, HERE, dn=dn)
    audit = reply.audit
    assert (reply.status, audit["auth"], audit["role"], audit["chan"]) == (200, auth, role, dn)


async def test_k1_frontend_asserts_a_user(gate: Gate) -> None:
    reply = await gate.ask_signed(STAT, HERE, dn=FRONTEND_DN, headers=ASSERTED)
    audit = reply.audit
    assert (reply.status, audit["auth"], audit["user"]) == (200, "frontend-for-user", ALICE)
    assert (await gate.ask_signed(STAT, HERE, dn=FRONTEND_DN)).status == 403


@pytest.mark.parametrize("dn", [ALICE, "/CN=elsewhere.test", "/O=nobody"])
@pytest.mark.parametrize("command", [STAT, "dome_info", "dome_nothing"])
async def test_k1_everybody_else_is_refused(gate: Gate, dn: str, command: str) -> None:
    for headers in ([], ASSERTED):
        reply = await gate.ask_signed(command, HERE, dn=dn, headers=headers)
        assert (reply.status, reply.challenge) == (403, None)
    assert reply.body == f"{dn} is unauthorized. Sorry :-)"


GOOD: dict[str, Any] = {"name": "disk1", "vorg": "dteam", "host": "192.0.2.10"}


async def test_k2_all_parameters_are_signed(gate: Gate) -> None:
    assert await status_of(gate, signed_query(STAT, HEAD_DN, **GOOD)) == 200


@pytest.mark.parametrize("name", ["xrdhttpname", "xrdhttpvorg", "xrdhttphost", "xrdhttpdn", "xrdhttptime"])
@pytest.mark.parametrize("change", ["changed", "left out", "given twice", "given twice the same", "empty"])
async def test_k2_no_parameter_may_change(gate: Gate, name: str, change: str) -> None:
    good = (piece.partition("=") for piece in signed_query(STAT, HEAD_DN, **GOOD).split("&"))
    values = {key: value for key, _, value in good}
    other = str(int(time.time()) - 1) if name == "xrdhttptime" else values[name] + "x"
    pieces = [f"{key}={value}" for key, value in values.items() if key != name]
    match change:
        case "changed":
            pieces.append(f"{name}={other}")
        case "given twice":
            pieces += [f"{name}={values[name]}", f"{name}={other}"]
        case "given twice the same":
            pieces += [f"{name}={values[name]}"] * 2
        case "empty":
            pieces.append(f"{name}=")
    assert await status_of(gate, "&".join(pieces)) == 403


@pytest.mark.parametrize("name", ["name", "vorg"])
async def test_k2_no_parameter_may_be_added(gate: Gate, name: str) -> None:
    assert await status_of(gate, f"{signed_query(STAT)}&xrdhttp{name}=x") == 403


@pytest.mark.parametrize("age", [598, -598])
async def test_k2_clocks_may_be_ten_minutes_apart(gate: Gate, age: int) -> None:
    assert await status_of(gate, signed_query(STAT, now=time.time() - age)) == 200


@pytest.mark.parametrize("age", [602, -602, 10**6, 10**9])
async def test_k2_stale_signature_is_refused(gate: Gate, age: int) -> None:
    reply = await gate.ask_signed(STAT, HERE, now=time.time() - age)
    assert (reply.status, reply.rule) == (403, "K2")


async def test_k2_signature_is_for_one_key_verb_and_command(gate: Gate) -> None:
    assert await status_of(gate, signed_query(STAT, secret="x" * 40)) == 403
    assert await status_of(gate, signed_query(STAT, method="POST")) == 403
    assert await status_of(gate, signed_query(STAT), method="POST") == 403
    assert await status_of(gate, signed_query("dome_getdir")) == 403
    assert await status_of(gate, signed_query(STAT, path=f"/elsewhere/{STAT}")) == 403


def with_signature(query: str, change: str) -> str:
    signature, rest = query.split("&", 1)
    return f"{change.replace('{}', signature.partition('=')[2])}&{rest}"


@pytest.mark.parametrize(
    "change",
    [
        "x=1",
        "xrdhttptk=",
        "xrdhttptk=A",
        "xrdhttptk={}A",
        "xrdhttptk={}&xrdhttptk={}",
        "xrdhttptk=AAAAAAAAAAAAAAAAAAAAAA%3D%3D",
        "xrdhttptk=%20{}",
        "XRDHTTPTK={}",
    ],
)
async def test_k2_broken_signature_is_refused(gate: Gate, change: str) -> None:
    assert await status_of(gate, with_signature(signed_query(STAT), change)) == 403


@pytest.mark.parametrize("length", [0, 8, 20, 23])
async def test_k2_part_of_a_signature_is_refused(gate: Gate, length: int) -> None:
    query = signed_query(STAT)
    signature = (
        query.split("&")[0].partition("=")[2].replace("%3D", "=").replace("%2B", "+").replace("%2F", "/")
    )
    assert len(signature) == 24
    assert await status_of(gate, with_signature(query, f"xrdhttptk={signature[:length]}")) == 403


def with_sign(sign: str) -> str:
    """A good query whose signature has that sign in it."""
    now = time.time()
    queries = (signed_query(STAT, now=now - age) for age in range(500))
    return next(query for query in queries if sign in query.split("&")[0])


async def test_k2_plus_is_a_plus(gate: Gate) -> None:
    query = with_sign("%2B")
    assert await status_of(gate, query) == 200
    assert await status_of(gate, query.replace("%2B", "+")) == 200
    assert await status_of(gate, query.replace("%2B", "%20")) == 403
    assert await status_of(gate, query.replace("%2B", "-")) == 403
    assert await status_of(gate, with_sign("%2F").replace("%2F", "_")) == 403


async def test_k2_doubled_slashes_are_collapsed(gate: Gate) -> None:
    query = signed_query(STAT)
    assert await status_of(gate, "", target=f"/{PREFIX}//{STAT}?{query}") == 200
    assert await status_of(gate, "", target=f"/elsewhere{PREFIX}/{STAT}?{query}") == 403


async def test_k2_path_is_decoded_once(gate: Gate) -> None:
    query = signed_query(STAT, path=f"/dome head/command/{STAT}")
    assert await status_of(gate, "", target=f"/dome%20head/command/{STAT}?{query}") == 200
    assert await status_of(gate, "", target=f"/dome%2520head/command/{STAT}?{query}") == 403


async def test_k2_every_request_of_a_connection_is_verified(gate: Gate) -> None:
    connection = gate.connection(on="http")
    replies = []
    for query in (signed_query(STAT), "", signed_query(STAT, ALICE), signed_query(STAT, secret="x" * 40)):
        replies.append(await gate.ask(STAT, HERE, query=query, connection=connection))
    await connection.close()
    assert [reply.status for reply in replies] == [200, 403, 403, 403]


@pytest.mark.parametrize(
    "dn",
    [
        "",
        "%20",
        "/O=x",
        "/CN=disk1.test/CN=x",
        "/CN=x/CN=disk1.test",
        "/CN=disk1.test.evil",
        "/CN=xdisk1.test",
        "/CN=disk1",
        "/O=CN=disk1.test",
        "disk1.test",
        f"{ADMIN}/CN=proxy",
        f"{ADMIN}x",
        "/CN=Dome Admin",
    ],
)
async def test_k3_name_that_is_no_servers_is_refused(gate: Gate, dn: str) -> None:
    reply = await gate.ask_signed(STAT, HERE, dn=dn)
    assert reply.status == 403
    assert reply.rule in ("K1", "K3")


@pytest.mark.parametrize("dn", ["/CN=host/disk1.test", "/O=x/CN=DISK1.TEST"])
async def test_k3_host_is_the_one_common_name(gate: Gate, dn: str) -> None:
    reply = await gate.ask_signed(STAT, HERE, dn=dn)
    assert (reply.status, reply.audit["role"]) == (200, "disk")


async def test_k3_configured_names_are_compared_in_canonical_form(gate: Gate) -> None:
    backwards = ",".join(reversed(ADMIN.strip("/").split("/")))
    reply = await gate.ask_signed(STAT, HERE, dn=backwards)
    assert (reply.status, reply.audit["chan"], reply.audit["auth"]) == (200, ADMIN, "admin")


async def test_k4_older_secret_is_accepted_during_a_change(gate: Gate) -> None:
    assert await status_of(gate, signed_query(STAT, secret=OLD_SECRET)) == 200


@pytest.mark.parametrize("secret", ["x" * 31, ""])
async def test_k4_listener_needs_a_long_secret(gate: Gate, tmp_path: Path, secret: str) -> None:
    file = tmp_path / "secret"
    file.touch(mode=0o600)
    file.write_text(secret)
    gate.write_settings(xrdhttp_secret_file=str(file))
    try:
        with pytest.raises(ConfigError):
            load(gate.file, {}, etc=tmp_path)
    finally:
        gate.write_settings()


async def test_k4_secret_is_in_no_log(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for query in (signed_query(STAT), signed_query(STAT, now=5), f"xrdhttptk={SECRET}"):
            await status_of(gate, query.replace(" ", "%20"))
    assert SECRET not in caplog.text
    assert OLD_SECRET not in caplog.text


@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize("is_good", [True, False])
@pytest.mark.parametrize("place", ["header", "query"])
async def test_k5_bearer_token_is_refused_unread(
    gate: Gate, is_signed: bool, is_good: bool, place: str
) -> None:
    token = gate.dteam.token("storage.read:/") if is_good else "a.b.c"
    query = signed_query(STAT) if is_signed else ""
    if place == "query":
        reply = await gate.ask(STAT, HERE, query=f"{query}&authz={token}", on="http")
    else:
        reply = await gate.ask(STAT, HERE, query=query, token=token, on="http")
    assert (reply.status, reply.rule, reply.error) == (400, "K5", "invalid_request")
    assert (reply.audit["sub"], reply.audit["iss"]) == ("", "")
    assert token not in reply.line
    assert "revoked" in reply.audit["reason"]


@pytest.mark.parametrize("command", [STAT, "dome_info", "dome_nothing"])
async def test_k5_request_without_signature_is_refused(gate: Gate, command: str) -> None:
    for headers in ([], ASSERTED, [("x-ssl-client-verify", "SUCCESS"), ("x-ssl-client-s-dn", ADMIN)]):
        reply = await gate.ask(command, HERE, headers=headers, on="http")
        assert (reply.status, reply.challenge) == (403, None)


async def test_k7_head_signs_what_it_asks_of_disk_servers(gate: Gate) -> None:
    """The disk servers of these tests verify it as XrdHttp does, and refuse what is not signed."""
    await gate.wait_for_disks()
    calls = [call for disk in gate.disks.values() for call in disk.calls]
    assert {(call.signed.dn, bool(call.signed.host)) for call in calls if call.signed} == {
        ("/CN=dpmhead.test", True)
    }
    assert all(call.signed for call in calls)
