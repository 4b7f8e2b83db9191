"""Token transport, answers, limits and the audit log, as clients of the finished listeners see them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import AsyncIterator

import pytest

from dome_bridge.auth.audit import FIELDS
from sandbox.issuer import SigningKey
from sandbox.pki import Policy
from sandbox.servers import MariaServer
from tests.fixtures.dome import HEAD
from tests.fixtures.gate import (
    ALICE,
    DTEAM,
    PREFIX,
    Gate,
    Reply,
    eventually,
    open_gate,
    signed_query,
)

ERROR = r"invalid_request|invalid_token|insufficient_scope"
CHALLENGE = re.compile(
    r'Bearer realm="[^"]+"'
    rf'(, error="(?:{ERROR})", error_description="[\x20\x21\x23-\x5b\x5d-\x7e]+"'
    r'(, scope="[\x21\x23-\x5b\x5d-\x7e\x20]+")?)?'
)
STAT, INFO = "dome_getstatinfo", "dome_info"
HERE = {"lfn": DTEAM}
READ = "storage.read:/"
CANARY = "subject-of-the-canary"
GRANTED, DENIED = "ACCESS TO DOME GRANTED.", "ACCESS TO DOME DENIED."
AUDITED = (
    "ts", "req", "peer", "cmd", "path", "dst", "auth", "user", "groups", "iss", "sub", "jti", "kid", "chan",
    "role", "decision", "rule", "status", "ms",
)  # fmt: skip
HOSTILE = 'x" decision="allow\\\r\n\u2028ts="0" é\x07'


@pytest.fixture(scope="module")
async def gate(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gate]:
    async with open_gate(maria, tmp_path_factory.mktemp("gate")) as gate:
        yield gate


@pytest.fixture
def token(gate: Gate) -> str:
    return gate.dteam.token(READ)


def is_well_formed(reply: Reply) -> bool:
    return CHALLENGE.fullmatch(reply.headers["www-authenticate"]) is not None


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
async def test_h1_scheme_is_written_in_any_case(gate: Gate, token: str, scheme: str) -> None:
    reply = await gate.ask(STAT, HERE, headers=[("aUTHORIZATION", f"{scheme} {token}")])
    assert reply.status == 200


@pytest.mark.parametrize(
    "form",
    [
        "Bearer  {}",
        "Bearer\t{}",
        "Bearer",
        "Bearer {} x",
        "Bearer {},x",
        "{}",
        "Basic {}",
        "Bearer{}",
        "Bearer é{}",
    ],
)
async def test_h1_malformed_header_is_an_invalid_request(gate: Gate, token: str, form: str) -> None:
    reply = await gate.ask(STAT, HERE, headers=[("Authorization", form.format(token))])
    assert (reply.status, reply.error, reply.rule) == (400, "invalid_request", "H1")
    assert is_well_formed(reply)


@pytest.mark.parametrize(
    "form", ["authz={}", "authz=Bearer%20{}", "authz=bearer%20{}", "x=1&authz={}", "authz={}&y"]
)
async def test_h2_token_is_taken_from_the_query(gate: Gate, token: str, form: str) -> None:
    reply = await gate.ask(STAT, HERE, query=form.format(token))
    assert (reply.status, reply.audit["auth"]) == (200, "token-capability")


@pytest.mark.parametrize("name", ["access_token", "token", "AUTHZ", "authz2"])
async def test_h2_no_other_parameter_is_a_credential(gate: Gate, token: str, name: str) -> None:
    reply = await gate.ask(STAT, HERE, query=f"{name}={token}")
    assert (reply.status, reply.challenge, reply.audit["auth"]) == (401, {"realm": HEAD}, "anonymous")


@pytest.mark.parametrize(
    "form", ["authz=Bearer%20%20{}", "authz=Bearer+{}", "authz=", "authz", "authz={}%20"]
)
async def test_h2_malformed_parameter_is_an_invalid_request(gate: Gate, token: str, form: str) -> None:
    reply = await gate.ask(STAT, HERE, query=form.format(token))
    assert (reply.status, reply.error) == (400, "invalid_request")


async def test_h2_invalid_token_in_the_query_is_no_anonymous_request(gate: Gate) -> None:
    reply = await gate.ask(INFO, query=f"authz={gate.dteam.token(READ, exp=5)}")
    assert (reply.status, reply.error) == (401, "invalid_token")


@pytest.mark.parametrize("second", ["the same", "another", "an invalid one"])
@pytest.mark.parametrize("places", ["two headers", "header and query", "twice in the query"])
async def test_h3_more_than_one_token_is_an_invalid_request(
    gate: Gate, token: str, places: str, second: str
) -> None:
    other = {"the same": token, "another": gate.dteam.token(READ), "an invalid one": "a.b.c"}[second]
    match places:
        case "two headers":
            headers = [("Authorization", f"Bearer {one}") for one in (token, other)]
            reply = await gate.ask(STAT, HERE, headers=headers)
        case "header and query":
            reply = await gate.ask(STAT, HERE, token=token, query=f"authz={other}")
        case _:
            reply = await gate.ask(STAT, HERE, query=f"authz={token}&%61uthz={other}")
    assert (reply.status, reply.error, reply.rule) == (400, "invalid_request", "H3")


def pieces_of(token: str, text: str) -> list[str]:
    """Those of a token that stand in a text."""
    pieces = [segment[at : at + 20] for segment in token.split(".") for at in range(0, len(segment), 20)]
    return [piece for piece in pieces if len(piece) >= 16 and piece in text]


async def test_h4_a4_no_token_is_in_any_log_or_answer(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    tokens = [
        gate.dteam.token(READ),
        gate.dteam.token(READ, exp=5),
        gate.dteam.token("storage.read:/a/../b"),
        gate.dteam.token(READ, key=SigningKey.elliptic("nobody's")),
    ]
    replies = []
    with caplog.at_level(logging.DEBUG):
        for one in tokens:
            replies += [
                await gate.ask(STAT, HERE, token=one),
                await gate.ask(STAT, HERE, query=f"authz={one}"),
                await gate.ask("dome_nothing", query=f"x=1&authz={one}"),
                await gate.ask("dome_nothing", query=f"x=1&authz={one}", method="POST"),
                await gate.ask(STAT, HERE, headers=[("Authorization", f"Bearer {one} {one}")]),
                await gate.ask(STAT, HERE, query=f"authz={one}", on="http"),
                await gate.ask(STAT, HERE, token=one, on="http"),
                await gate.ask(STAT, HERE, token=one, headers=[("remoteclientdn", one)]),
                await gate.ask(INFO, token=one),
            ]
    said = caplog.text + "".join(f"{reply.headers}{reply.body}{reply.line}" for reply in replies)
    assert [piece for one in tokens for piece in pieces_of(one, said)] == []


async def test_a4_overlong_header_is_neither_logged_nor_answered(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "canary" * 4000
    with caplog.at_level(logging.DEBUG):
        reply = await gate.ask(STAT, HERE, headers=[("Authorization", f"Bearer {secret}")])
    assert reply.status in (400, 431)
    assert "canarycanary" not in caplog.text + reply.body + str(reply.headers)


async def test_a4_signature_of_a_request_is_neither_logged_nor_answered(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    query = signed_query("dome_nothing", method="GET")
    signature = re.search("xrdhttptk=([^&]+)", query)
    assert signature is not None
    with caplog.at_level(logging.DEBUG):
        reply = await gate.ask("dome_nothing", query=query, on="http")
    assert reply.status == 418
    assert signature[1] not in caplog.text + reply.body


async def test_h5_without_credential_no_error_is_named(gate: Gate) -> None:
    reply = await gate.ask(STAT, HERE)
    assert (reply.status, reply.challenge, reply.audit["auth"]) == (401, {"realm": HEAD}, "anonymous")


async def test_h5_unusable_token_is_an_invalid_token(gate: Gate) -> None:
    reply = await gate.ask(STAT, HERE, token=gate.dteam.token(READ, aud="https://elsewhere.test"))
    assert (reply.status, reply.error) == (401, "invalid_token")
    assert is_well_formed(reply)


@pytest.mark.parametrize(
    ("scope", "command", "name", "wanted"),
    [
        ("storage.read:/a", STAT, "lfn", "storage.read:/b"),
        ("storage.read:/", "dome_unlink", "lfn", "storage.modify:/b"),
        ("storage.modify:/", "dome_getdir", "path", "storage.read:/b"),
        ("openid", "dome_getdir", "path", "storage.read:/b"),
        ("openid", "dome_put", "lfn", "storage.create:/b"),
    ],
)
async def test_h5_insufficient_token_is_told_the_scope_that_would_do(
    gate: Gate, scope: str, command: str, name: str, wanted: str
) -> None:
    reply = await gate.ask(command, {name: f"{DTEAM}/b"}, token=gate.dteam.token(scope))
    assert (reply.status, reply.error) == (403, "insufficient_scope")
    assert reply.challenge is not None
    assert reply.challenge["scope"] == wanted
    assert is_well_formed(reply)


async def test_h5_wanted_scope_is_written_as_scopes_are(gate: Gate) -> None:
    reply = await gate.ask(STAT, {"lfn": f'{DTEAM}/a "b" %é'}, token=gate.dteam.token("storage.read:/a"))
    assert reply.challenge is not None
    assert reply.challenge["scope"] == "storage.read:/a%20%22b%22%20%25%C3%A9"


async def test_h5_group_that_may_not_is_told_insufficient_scope(gate: Gate) -> None:
    path = {"path": f"{DTEAM}/bob_private/x"}
    reply = await gate.ask("dome_makedir", path, token=gate.dteam.token(groups=["/dteam"]))
    assert (reply.status, reply.error) == (403, "insufficient_scope")
    assert (reply.audit["decision"], reply.rule, reply.audit["auth"]) == ("deny", "G2", "token-group")


async def test_h5_certificate_that_may_not_is_told_in_domes_words(gate: Gate) -> None:
    reply = await gate.ask("dome_addpool", {"poolname": "p"}, certificate=gate.grid.alice)
    assert (reply.status, reply.challenge) == (403, None)
    assert reply.body == f"{ALICE} is unauthorized. Sorry :-)"


async def test_h5_user_whom_permissions_stop_is_denied_in_the_log(gate: Gate) -> None:
    path = {"path": f"{DTEAM}/bob_private/x"}
    reply = await gate.ask("dome_makedir", path, certificate=gate.grid.alice)
    assert (reply.status, reply.challenge) == (403, None)
    audit = reply.audit
    assert (audit["decision"], audit["auth"], audit["user"]) == ("deny", "user-x509", ALICE)
    assert "write" in audit["reason"].lower()


@pytest.mark.parametrize("path", [f"{DTEAM}/a/../b", "a", f"{DTEAM}/a\0b"])
async def test_h5_malformed_path_is_an_invalid_request(gate: Gate, token: str, path: str) -> None:
    reply = await gate.ask(STAT, {"lfn": path}, token=token)
    assert (reply.status, reply.error, reply.rule) == (400, "invalid_request", "S7")
    assert "path" in reply.body
    assert is_well_formed(reply)


@pytest.mark.parametrize("command", ["dome_nothing", STAT, "dome_addpool", "dome_put", ""])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_h6_nobody_is_told_which_commands_there_are(gate: Gate, command: str, method: str) -> None:
    reply = await gate.ask(command, HERE, method=method)
    assert (reply.status, reply.rule) == (401, "H5")


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100, b'{"lfn": 1}', b"\xff"])
async def test_h6_credential_is_looked_at_before_the_body(gate: Gate, body: bytes) -> None:
    assert (await gate.ask(STAT, body=body)).status == 401
    assert (await gate.ask(STAT, body=body, token="a.b.c")).status == 401


async def test_h6_unknown_command_is_told_to_who_is_known(gate: Gate, token: str) -> None:
    assert (await gate.ask("dome_nothing", token=token)).status == 418
    assert (await gate.ask("dome_nothing", token=gate.dteam.token("openid"))).status == 418
    assert (await gate.ask("dome_nothing", certificate=gate.grid.alice)).status == 418


async def test_order_token_before_contradiction(gate: Gate) -> None:
    headers = [("remoteclientdn", ALICE)]
    for bad in ("a.b.c", gate.dteam.token(READ, exp=5)):
        reply = await gate.ask(STAT, HERE, token=bad, headers=headers)
        assert (reply.status, reply.error) == (401, "invalid_token")


async def test_order_channel_before_token(gate: Gate) -> None:
    refused = gate.grid.alice.proxy(Policy.INDEPENDENT)
    for bad in ("a.b.c", gate.dteam.token(READ)):
        reply = await gate.ask(STAT, HERE, token=bad, certificate=refused)
        assert (reply.status, reply.rule) == (401, "P2")
    headers = [("Authorization", f"Bearer {gate.dteam.token(READ)}")] * 2
    assert (await gate.ask(STAT, HERE, headers=headers, certificate=refused)).rule == "P2"


async def test_order_ban_before_command(gate: Gate) -> None:
    assert (await gate.ask("dome_nothing", certificate=gate.grid.banned)).status == 403


@pytest.mark.parametrize("scope", ["openid", "storage.read:/elsewhere", "storage.poll:/"])
async def test_order_parameters_before_authorisation(gate: Gate, scope: str) -> None:
    reply = await gate.ask(STAT, {"lfn": f"{DTEAM}/../atlas"}, token=gate.dteam.token(scope))
    assert (reply.status, reply.rule) == (400, "S7")


@pytest.mark.parametrize("name", ["legacy_ad", "sub", "nothing", "nothing/below", "sub/in_sub/x"])
@pytest.mark.parametrize(
    "command", [STAT, "dome_get", "dome_getdir", "dome_unlink", "dome_put", "dome_chksum"]
)
async def test_order_authorisation_before_existence(gate: Gate, command: str, name: str) -> None:
    path = f"{DTEAM}/{name}"
    parameters = {"lfn": path, "path": path, "checksum-type": "md5"}
    for scope in ("storage.read:/x storage.modify:/x", "storage.poll:/", "openid"):
        assert (await gate.ask(command, parameters, token=gate.dteam.token(scope))).status == 403


def told(replies: list[Reply]) -> set[tuple[int, bool, bool]]:
    return {(reply.status, GRANTED in reply.body, DENIED in reply.body) for reply in replies}


async def test_h7_info_answers_everybody(gate: Gate) -> None:
    nothing = gate.dteam.token("openid")
    poor = [
        await gate.ask(INFO),
        await gate.ask(INFO, on="proxied"),
        await gate.ask(INFO, token=nothing),
        await gate.ask(INFO, token=nothing, certificate=gate.grid.banned),
    ]
    rich = [
        await gate.ask(INFO, token=gate.dteam.token(READ)),
        await gate.ask(INFO, certificate=gate.grid.alice),
        await gate.ask(INFO, certificate=gate.grid.disk1),
        await gate.ask_signed(INFO),
    ]
    assert told(poor) == {(200, False, True)}
    assert told(rich) == {(200, True, False)}


async def test_h7_info_answers_who_is_banned(gate: Gate) -> None:
    asserted = [("remoteclientdn", gate.grid.banned.dn), ("remoteclientgroups", "dteam")]
    assert (await gate.ask(INFO, certificate=gate.grid.banned)).status == 200
    assert (await gate.ask(INFO, certificate=gate.grid.frontend, headers=asserted)).status == 200


async def test_h7_info_with_an_invalid_credential_is_refused(gate: Gate) -> None:
    assert (await gate.ask(INFO, token="a.b.c")).status == 401
    assert (await gate.ask(INFO, token=gate.dteam.token(READ, exp=5))).status == 401
    assert (await gate.ask(INFO, certificate=gate.grid.alice.proxy(Policy.INDEPENDENT))).status == 401


async def test_h7_info_echoes_nothing_of_the_request(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "environment-canary")
    headers = [("X-Canary", "header-canary"), ("Cookie", "cookie-canary"), ("User-Agent", "agent-canary")]
    body = {"canary": "body-canary"}
    for who in (None, gate.grid.head):
        reply = await gate.ask(INFO, body, headers=headers, query="q=canary", certificate=who)
        assert reply.status == 200
        assert "canary" not in reply.body
        assert str(os.getpid()) not in reply.body


@pytest.mark.parametrize(
    "target",
    [
        f"{PREFIX}/x%2f..%2fdome_getstatinfo",
        f"{PREFIX}/x%2Fdome_getstatinfo",
        f"{PREFIX}/../command/dome_getstatinfo",
        f"{PREFIX}/./dome_getstatinfo",
        f"{PREFIX}/%2e%2e/dome_getstatinfo",
        f"https://{HEAD}{PREFIX}/dome_getstatinfo",
        f"http://elsewhere.test{PREFIX}/dome_getstatinfo",
    ],
)
async def test_h8_odd_target_is_refused(gate: Gate, token: str, target: str) -> None:
    assert (await gate.ask(STAT, HERE, token=token, target=target)).status == 400
    assert (await gate.ask(STAT, HERE, certificate=gate.grid.head, target=target)).status == 400


@pytest.mark.parametrize(
    "target",
    [
        "/dome_getstatinfo",
        f"{PREFIX}//dome_getstatinfo",
        f"/{PREFIX}/dome_getstatinfo//?",
        f"/x{PREFIX}/{STAT}/",
    ],
)
async def test_h8_empty_segments_are_harmless(gate: Gate, token: str, target: str) -> None:
    assert (await gate.ask(STAT, HERE, token=token, target=target)).status == 200


@pytest.mark.parametrize(
    "name", ["dome%5Fgetstatinfo", "DOME_GETSTATINFO", "dome_getstatinfo%20", "dome_getstatinfo;x"]
)
async def test_h8_names_of_commands_are_literal(gate: Gate, token: str, name: str) -> None:
    assert (await gate.ask(STAT, HERE, token=token, target=f"{PREFIX}/{name}")).status == 418


async def test_h9_issuer_whose_keys_were_never_there_is_a_503(gate: Gate) -> None:
    reply = await gate.ask(STAT, HERE, token=gate.silent.token(READ))
    assert (reply.status, reply.rule) == (503, "H9")
    assert int(reply.headers["retry-after"]) > 0


async def test_l1_token_of_more_than_8192_bytes_is_invalid(gate: Gate) -> None:
    long, short = (gate.dteam.token(READ, x="y" * count) for count in (6000, 5500))
    assert len(short) < 8192 < len(long)
    reply = await gate.ask(STAT, HERE, token=long)
    assert (reply.status, reply.error, reply.rule) == (401, "invalid_token", "L1")
    assert (await gate.ask(STAT, HERE, token=short)).status == 200


@pytest.mark.parametrize(("count", "status"), [(256, 200), (257, 401)])
async def test_l1_at_most_256_scopes(gate: Gate, count: int, status: int) -> None:
    scope = " ".join([READ, *(["x"] * (count - 1))])
    assert (await gate.ask(STAT, HERE, token=gate.dteam.token(scope))).status == status


@pytest.mark.parametrize(("count", "status"), [(128, 200), (129, 401)])
async def test_l1_at_most_128_groups(gate: Gate, count: int, status: int) -> None:
    assert (await gate.ask(STAT, HERE, token=gate.dteam.token(groups=["/dteam"] * count))).status == status


async def test_l1_kid_of_more_than_256_characters_is_invalid(gate: Gate) -> None:
    reply = await gate.ask(STAT, HERE, token=gate.dteam.token(READ, header={"kid": "k" * 257}))
    assert (reply.status, reply.error) == (401, "invalid_token")


async def test_l1_at_most_64_header_fields(gate: Gate) -> None:
    few, many = ([(f"x-{number}", "") for number in range(count)] for count in (50, 80))
    assert (await gate.ask(INFO, headers=few)).status == 200
    assert (await gate.ask(INFO, headers=many)).status in (400, 431)


async def test_l1_line_of_more_than_16384_bytes_is_refused(gate: Gate) -> None:
    assert (await gate.ask(INFO, query="x" * 17000)).status in (400, 414, 431)
    assert (await gate.ask(INFO, headers=[("x", "y" * 17000)])).status in (400, 431)


async def test_l2_body_beyond_4_kib_is_read_whole(gate: Gate, token: str) -> None:
    assert (await gate.ask(STAT, {"x": "y" * 100_000, **HERE}, token=token)).status == 200


async def test_l2_body_of_more_than_a_mebibyte_is_refused(gate: Gate, token: str) -> None:
    assert (await gate.ask(STAT, {**HERE, "x": "y" * 2**20}, token=token)).status == 413


@pytest.mark.parametrize(("depth", "status"), [(31, 200), (32, 400), (400_000, 400)])
async def test_l2_body_nested_deeper_than_32_is_refused(
    gate: Gate, token: str, depth: int, status: int
) -> None:
    body = (json.dumps(HERE)[:-1] + ', "x": ' + "[" * depth + "]" * depth + "}").encode()
    assert (await gate.ask(STAT, body=body, token=token)).status == status
    assert (await gate.ask(STAT, body=body, certificate=gate.grid.head)).status == status


async def test_l2_first_of_two_members_is_authorised_and_used(gate: Gate) -> None:
    token = gate.dteam.token("storage.read:/sub")
    good, bad = f"{DTEAM}/sub", f"{DTEAM}/legacy_ad"
    first = await gate.ask(STAT, body=f'{{"lfn": "{good}", "lfn": "{bad}"}}'.encode(), token=token)
    second = await gate.ask(STAT, body=f'{{"lfn": "{bad}", "lfn": "{good}"}}'.encode(), token=token)
    assert (first.status, first.json["name"], second.status) == (200, "sub", 403)


async def test_a1_line_has_all_fields_in_their_order(gate: Gate, token: str) -> None:
    paths = {"oldpath": f"{DTEAM}/a", "newpath": f"{DTEAM}/b"}
    reply = await gate.ask("dome_rename", paths, token=token)
    assert tuple(reply.audit) == FIELDS
    assert FIELDS[: len(AUDITED)] == AUDITED
    assert (reply.audit["path"], reply.audit["dst"]) == (f"{DTEAM}/a", f"{DTEAM}/b")


async def test_a1_both_identities_are_logged(gate: Gate, token: str) -> None:
    audit = (await gate.ask(STAT, HERE, token=token, certificate=gate.grid.alice)).audit
    assert (audit["chan"], audit["sub"], audit["iss"], audit["kid"]) == (
        ALICE, "ada-0a1b", "dteam", "signing-1",
    )  # fmt: skip
    assert (audit["auth"], audit["decision"], audit["status"], audit["peer"]) == (
        "token-capability", "allow", "200", "127.0.0.1",
    )  # fmt: skip
    assert audit["jti"]


@pytest.mark.parametrize(
    ("name", "rule"), [("expired", "T8"), ("audience", "T12"), ("scope", "S3"), ("groups", "G1")]
)
async def test_a1_what_a_refused_token_says_is_logged(gate: Gate, name: str, rule: str) -> None:
    make = gate.dteam.token
    tokens = {
        "expired": make(READ, exp=5, iat=1, sub=CANARY),
        "audience": make(READ, aud="https://elsewhere.test", sub=CANARY),
        "scope": make("storage.read:/../x", sub=CANARY),
        "groups": make(groups=["no group"], sub=CANARY),
    }
    reply = await gate.ask(STAT, HERE, token=tokens[name])
    audit = reply.audit
    assert (reply.status, reply.rule, audit["decision"], audit["auth"]) == (401, rule, "deny", "anonymous")
    assert (audit["iss"], audit["sub"], audit["kid"]) == ("dteam", CANARY, "signing-1")
    assert audit["jti"]


async def test_a1_subject_is_not_logged_without_a_good_signature(gate: Gate) -> None:
    token = gate.dteam.token(READ, key=SigningKey.elliptic("signing-1"), sub=CANARY)
    audit = (await gate.ask(STAT, HERE, token=token)).audit
    assert (audit["iss"], audit["kid"], audit["sub"]) == ("dteam", "signing-1", "")


async def test_a1_unknown_issuer_is_logged_as_it_calls_itself(gate: Gate) -> None:
    reply = await gate.ask(STAT, HERE, token=gate.dteam.token(READ, iss="https://evil.test"))
    assert (reply.status, reply.rule, reply.audit["iss"]) == (401, "T2", "https://evil.test")


async def test_a1_groups_of_the_grid_mapfile_are_logged(gate: Gate) -> None:
    assert (await gate.ask(STAT, HERE, certificate=gate.grid.alice)).audit["groups"] == "dteam"


async def test_a1_failed_handshake_has_a_line(gate: Gate) -> None:
    before = len(gate.lines)
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports["https"])
    writer.write(b"\x16\x03\x01\x00\x05hello")
    await reader.read()
    writer.close()
    await eventually(lambda: len(gate.lines) > before)
    assert 'rule="TLS5"' in gate.lines[-1]
    assert 'decision="deny"' in gate.lines[-1]


async def test_a1_odd_verbs_leave_a_line(gate: Gate, token: str) -> None:
    for method, status in (("DELETE", 405), ("HEAD", 200)):
        reply = await gate.ask(STAT, HERE, token=token, method=method)
        assert (reply.status, reply.audit["status"], reply.audit["cmd"]) == (status, str(status), STAT)


async def test_a2_reason_is_precise_in_the_log_and_general_in_the_answer(gate: Gate) -> None:
    answers, reasons = set(), set()
    for token in (
        gate.dteam.token(READ, exp=5),
        gate.dteam.token(READ, key=SigningKey.elliptic("signing-1")),
        gate.dteam.token(READ, header={"kid": "unknown"}),
        gate.dteam.token(READ, iss="https://evil.test"),
    ):
        reply = await gate.ask(STAT, HERE, token=token)
        assert reply.status == 401
        answers.add((reply.body, reply.headers["www-authenticate"]))
        reasons.add(reply.audit["reason"])
    assert (len(answers), len(reasons)) == (1, 4)


async def test_a3_nothing_is_injected_into_a_line(gate: Gate, token: str) -> None:
    make = gate.dteam.token
    hostile = {"lfn": f"{DTEAM}/{HOSTILE}"}
    for reply in (
        await gate.ask(STAT, hostile, certificate=gate.grid.head),
        await gate.ask(STAT, hostile, token=token),
        await gate.ask(STAT, HERE, token=make(READ, iss=HOSTILE)),
        await gate.ask(STAT, HERE, token=make(READ, header={"kid": HOSTILE})),
        await gate.ask(STAT, HERE, token=make(READ, sub=HOSTILE)),
    ):
        assert reply.line.isascii()
        assert reply.line.isprintable()
        assert tuple(reply.audit) == FIELDS


async def test_a3_values_are_cut_at_512_bytes(gate: Gate) -> None:
    reply = await gate.ask(STAT, {"lfn": f"{DTEAM}/{'é/' * 1000}"}, certificate=gate.grid.head)
    assert 500 < len(reply.audit["path"]) <= 512
