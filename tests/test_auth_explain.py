"""`dome-bridge auth explain`: it decides as the API does, tells each step, and never shows the credential."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.auth import remedies
from dome_bridge.auth.principal import Transport
from dome_bridge.auth.rules import RULES
from dome_bridge.cli import Context
from dome_bridge.cli_auth import auth
from dome_bridge.config import Config, load
from dome_bridge.dome_api.commands import COMMANDS
from dome_bridge.dome_api.explain import explain
from dome_bridge.dome_api.explanation import Explanation
from dome_bridge.dome_api.question import Question, joined, question_of
from dome_bridge.errors import ConfigError
from sandbox.explained import explained
from sandbox.issuer import TokenIssuer
from sandbox.pki import Credential, Policy, around_now
from sandbox.servers import MariaServer
from tests.fixtures.command import PROJECT
from tests.fixtures.gate import (
    ALICE,
    ATLAS,
    BANNED,
    DISK1_DN,
    DTEAM,
    FRONTEND_DN,
    HEAD_DN,
    METHODS,
    Gate,
    Reply,
    open_gate,
    signed_query,
    usual_target,
)

LOCAL = "127.0.0.1"
STAT, HERE = "dome_getstatinfo", {"lfn": DTEAM}
READ = "storage.read:/"
PIECE = 12
"""Characters of a credential of which none may be seen together."""


@pytest.fixture(scope="module")
async def gate(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gate]:
    async with open_gate(maria, tmp_path_factory.mktemp("explain")) as gate:
        yield gate


def settings(gate: Gate) -> Config:
    return load(gate.file, {}, etc=gate.directory, serves=False)


@dataclass(frozen=True)
class Case:
    """A request to both: over a real listener, and to be explained. on: the protocol of the listener."""

    command: str = STAT
    parameters: Mapping[str, object] = field(default_factory=lambda: HERE)
    certificate: Credential | None = None
    token: str | None = None
    headers: Sequence[tuple[str, str]] = ()
    query: str = ""
    method: str = ""
    target: str = ""
    on: str = "https"

    async def reply(self, gate: Gate) -> Reply:
        return await gate.ask(
            self.command,
            self.parameters,
            certificate=self.certificate,
            token=self.token,
            headers=self.headers,
            query=self.query,
            method=self.method,
            target=self.target,
            on=self.on,
        )

    @property
    def text(self) -> str:
        """As it stands on the wire."""
        method = self.method or METHODS.get(self.command, "GET")
        head = [
            f"{method} {self.target or usual_target(self.command, self.query)} HTTP/1.1",
            "Host: dpmhead.test",
        ]
        if self.token is not None:
            head.append(f"Authorization: Bearer {self.token}")
        head += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*head, "", json.dumps(self.parameters)])

    @property
    def question(self) -> Question:
        texts = [self.text, *([self.certificate.pem.decode()] if self.certificate else [])]
        transport = {"https": Transport.TLS, "http": Transport.PLAIN, "proxied": Transport.PROXIED}[self.on]
        return replace(joined(map(question_of, texts)), transport=transport, address=LOCAL)


def signed(command: str = STAT, dn: str = HEAD_DN, **options: Any) -> Case:
    changes = {name: options.pop(name) for name in ("secret", "now", "path") if name in options}
    return Case(command, query=signed_query(command, dn, **changes), on="http", **options)


def proxied(dn: str, verified: str = "SUCCESS", **options: Any) -> Case:
    headers = [("x-ssl-client-verify", verified), ("x-ssl-client-s-dn", dn)]
    return Case(headers=[*headers, *options.pop("headers", [])], on="proxied", **options)


Make = Callable[[Gate], Case]

REFUSED: Mapping[str, Make] = {
    "nobody": lambda gate: Case(),
    "nobody, unknown command": lambda gate: Case("dome_nothing"),
    "two tokens": lambda gate: Case(token="a.b.c", query="authz=a.b.c"),
    "token with a blank": lambda gate: Case(token="a b"),
    "no token at all": lambda gate: Case(token="a.b.c"),
    "unknown issuer": lambda gate: Case(token=gate.dteam.token(READ, iss="https://nobody.test")),
    "expired": lambda gate: Case(token=gate.dteam.token(READ, exp=5)),
    "other audience": lambda gate: Case(token=gate.dteam.token(READ, aud="https://x.test")),
    "unsigned": lambda gate: Case(token=gate.dteam.token(READ, header={"alg": "none"})),
    "unknown key": lambda gate: Case(token=gate.dteam.token(READ, header={"kid": "other"})),
    "signature of another": lambda gate: Case(token=gate.dteam.token(READ, key=gate.issuers["atlas"].key)),
    "critical header": lambda gate: Case(token=gate.dteam.token(READ, header={"crit": ["x"]})),
    "version 2": lambda gate: Case(token=gate.dteam.token(READ, wlcg_ver="2.0")),
    "scope without a path": lambda gate: Case(token=gate.dteam.token("storage.read")),
    "group of no form": lambda gate: Case(token=gate.dteam.token(groups=["dteam"])),
    "issuer without keys": lambda gate: Case(token=gate.silent.token(READ)),
    "token that may nothing": lambda gate: Case(token=gate.dteam.token("openid")),
    "group of another VO": lambda gate: Case(token=gate.dteam.token(groups=["/atlas"])),
    "other area": lambda gate: Case(parameters={"lfn": ATLAS}, token=gate.dteam.token(READ)),
    "other area by group": lambda gate: Case(
        parameters={"lfn": ATLAS}, token=gate.dteam.token(groups=["/dteam"])
    ),
    "other scope": lambda gate: Case(
        "dome_getdir", {"path": DTEAM}, token=gate.dteam.token("storage.read:/x")
    ),
    "administration by token": lambda gate: Case("dome_addpool", {}, token=gate.dteam.token(READ)),
    "base path removed": lambda gate: Case(
        "dome_removedir", {"path": DTEAM}, token=gate.dteam.token("storage.modify:/")
    ),
    "dots": lambda gate: Case(parameters={"lfn": f"{DTEAM}/../x"}, token=gate.dteam.token(READ)),
    "place named by a token": lambda gate: Case(
        "dome_put", {"lfn": f"{DTEAM}/x", "host": "disk1.test"}, token=gate.dteam.token("storage.create:/")
    ),
    "replica that is none": lambda gate: Case(
        parameters={"rfn": "disk1.test:/no"}, token=gate.dteam.token(READ)
    ),
    "token and named user": lambda gate: Case(
        token=gate.dteam.token(READ), headers=[("remoteclientdn", ALICE)]
    ),
    "token of a banned subject's connection": lambda gate: Case(
        token=gate.dteam.token(READ), certificate=gate.grid.banned
    ),
    "banned": lambda gate: Case(certificate=gate.grid.banned),
    "banned, by proxy": lambda gate: Case(certificate=gate.grid.banned.proxy()),
    "user who names another": lambda gate: Case(
        certificate=gate.grid.alice, headers=[("remoteclientdn", ALICE)]
    ),
    "nobody names a user": lambda gate: Case(headers=[("remoteclientdn", ALICE)]),
    "user administers": lambda gate: Case("dome_addpool", {}, certificate=gate.grid.alice),
    "front-end administers": lambda gate: Case("dome_addpool", {}, certificate=gate.grid.frontend),
    "banned by a front-end": lambda gate: Case(
        certificate=gate.grid.frontend, headers=[("remoteclientdn", BANNED), ("remoteclientgroups", "dteam")]
    ),
    "root by a front-end": lambda gate: Case(
        certificate=gate.grid.frontend, headers=[("remoteclientdn", ALICE), ("remoteclientgroups", "root")]
    ),
    "user named twice": lambda gate: Case(
        certificate=gate.grid.frontend, headers=[("remoteclientdn", ALICE), ("RemoteClientDN", ALICE)]
    ),
    "disk for another": lambda gate: Case(
        "dome_putdone", {"server": "disk2.test", "pfn": "/x", "size": "1"}, certificate=gate.grid.disk1
    ),
    "independent proxy": lambda gate: Case(certificate=gate.grid.alice.proxy(Policy.INDEPENDENT)),
    "limited proxy of the administrator": lambda gate: Case(
        "dome_addpool", {}, certificate=gate.grid.admin.proxy(Policy.LIMITED)
    ),
    "bad certificate with a token": lambda gate: Case(
        token=gate.dteam.token(READ), certificate=gate.grid.alice.proxy(Policy.INDEPENDENT)
    ),
    "unsigned request": lambda gate: Case(on="http"),
    "signed with another key": lambda gate: signed(secret="another key, with thirty-two and more"),
    "signed long ago": lambda gate: signed(now=1_000_000_000),
    "signed by a user": lambda gate: signed(dn=ALICE),
    "signed without a name": lambda gate: signed(dn=""),
    "signed by two names": lambda gate: signed(dn=f"{DISK1_DN}/CN=x"),
    "token over plain HTTP": lambda gate: signed(token=gate.dteam.token(READ)),
    "front-end administers, signed": lambda gate: signed("dome_addpool", FRONTEND_DN, parameters={}),
    "not verified by httpd": lambda gate: proxied(HEAD_DN, "NONE"),
    "verified twice": lambda gate: proxied(HEAD_DN, headers=[("X-SSL-Client-Verify", "SUCCESS")]),
    "user of httpd administers": lambda gate: proxied(ALICE, command="dome_addpool", parameters={}),
    "no name from httpd": lambda gate: proxied("nonsense"),
    "odd path": lambda gate: Case(certificate=gate.grid.alice, target="/domehead/../command/dome_getdir"),
    "unknown command": lambda gate: Case("dome_nothing", certificate=gate.grid.alice),
    "wrong verb": lambda gate: Case(certificate=gate.grid.alice, method="POST"),
    "odd verb": lambda gate: Case(certificate=gate.grid.alice, method="DELETE"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refusal_has_the_status_and_the_rule_of_the_audit_line(gate: Gate, name: str) -> None:
    case = REFUSED[name](gate)
    reply = await case.reply(gate)
    explained = await explain(settings(gate), case.question)
    assert (explained.status, explained.rule) == (reply.status, reply.rule)
    assert reply.status >= 400
    assert explained.rule in RULES
    assert explained.advice or reply.status in (405, 418)
    if "www-authenticate" in reply.headers:
        assert f"WWW-Authenticate: {reply.headers['www-authenticate']}" in explained.told
    shown_without_credential(explained, case.token)


ALLOWED: Mapping[str, Make] = {
    "info for nobody": lambda gate: Case("dome_info", {}),
    "token with a capability": lambda gate: Case(token=gate.dteam.token(READ)),
    "token with a group": lambda gate: Case(token=gate.dteam.token(groups=["/dteam"])),
    "token in the query": lambda gate: Case(query=f"authz=Bearer%20{gate.dteam.token(READ)}"),
    "host.auth": lambda gate: Case(
        "dome_getspaceinfo", {}, token=gate.dteam.token("host.auth", sub="host:monitor.test")
    ),
    "token beside a certificate": lambda gate: Case(token=gate.dteam.token(READ), certificate=gate.grid.bob),
    "user": lambda gate: Case(certificate=gate.grid.alice),
    "user with VOMS attributes": lambda gate: Case(
        certificate=gate.grid.voms.proxy(gate.grid.alice, "/dteam")
    ),
    "head": lambda gate: Case("dome_getspaceinfo", {}, certificate=gate.grid.head),
    "administrator by proxy": lambda gate: Case("dome_getspaceinfo", {}, certificate=gate.grid.admin.proxy()),
    "user of a front-end": lambda gate: Case(
        certificate=gate.grid.frontend, headers=[("remoteclientdn", ALICE), ("remoteclientgroups", "dteam")]
    ),
    "signed by a disk server": lambda gate: signed("dome_getspaceinfo", DISK1_DN, parameters={}),
    "behind httpd": lambda gate: proxied(ALICE),
}


@pytest.mark.parametrize("name", ALLOWED)
async def test_what_is_allowed_has_the_principal_of_the_audit_line(gate: Gate, name: str) -> None:
    case = ALLOWED[name](gate)
    reply = await case.reply(gate)
    explained = await explain(settings(gate), case.question)
    assert (explained.status, explained.rule) == (200, reply.rule)
    assert (reply.status, reply.audit["decision"]) == (200, "allow")
    who = explained.principal
    assert who is not None
    assert (who.kind, who.role, who.user) == (reply.audit["auth"], reply.audit["role"], reply.audit["user"])
    groups = explained.standing.user.groups if explained.standing else ()
    assert ",".join(groups) == reply.audit["groups"]
    assert explained.evidence.channel.dn == reply.audit["chan"]
    shown_without_credential(explained, case.token)


def shown_without_credential(explained: Explanation, token: str | None) -> None:
    shown = "\n".join(explained.lines()) + json.dumps(explained.as_json())
    assert re.search(r"^(ALLOWED|REFUSED) ", shown, re.M)
    assert pieces_of(token or "", shown) == []


def pieces_of(token: str, shown: str) -> list[str]:
    """Of its last segment, the signature, and of the segments before it."""
    return [
        segment[at : at + PIECE]
        for segment in token.split(".")
        for at in range(len(segment) - PIECE + 1)
        if segment[at : at + PIECE] in shown
    ]


# What is told of a credential alone


async def told_of(gate: Gate, *texts: str, config: Config | None = None, **changes: Any) -> Explanation:
    question = replace(joined(map(question_of, texts)), **changes)
    return await explain(config or settings(gate), question)


async def test_token_alone_is_told_scope_by_scope(gate: Gate) -> None:
    token = gate.dteam.token("storage.read:/data storage.create:/data/new/ openid")
    explained = await told_of(gate, f"{token}\n")
    shown = "\n".join(explained.lines())
    assert explained.status == 200
    assert f"storage.read on '{DTEAM}/data' and below it: list a directory, read data, stat" in shown
    assert f"storage.create on '{DTEAM}/data/new' and below it, and it as a directory: create" in shown
    assert "dome_getdir" in (explained.commands or ())
    assert "dome_addpool" not in (explained.commands or ())
    assert "user        jwt:dteam:ada-0a1b, who has no number yet" in shown
    rules = [step.rule for step in explained.steps]
    assert [each for each in rules if each[0] == "T"] == [
        *("T3", "T4", "T5", "T2", "T7", "T6", "T1", "T8", "T9", "T10", "T11", "T12", "T13", "T15", "T16")
    ]


async def test_powerless_token_is_refused_without_a_command(gate: Gate) -> None:
    explained = await told_of(gate, gate.dteam.token("openid"))
    assert (explained.status, explained.rule, explained.commands) == (403, "S6", ())


async def test_insufficient_token_is_told_which_scope_would_do(gate: Gate) -> None:
    question = question_of(gate.dteam.token("storage.read:/x"))
    asked = question.asking("GET", "dome_getdir", json.dumps({"path": f"{DTEAM}/data"}).encode())
    explained = await explain(settings(gate), asked)
    assert explained.rule == "S4"
    assert explained.advice.endswith("enough would be storage.read:/data")


async def test_certificate_alone_is_told_with_its_groups(gate: Gate) -> None:
    proxy = gate.grid.voms.proxy(gate.grid.alice, "/dteam/Role=production", "/dteam")
    explained = await told_of(gate, proxy.pem.decode())
    shown = "\n".join(explained.lines())
    assert explained.status == 200
    assert f"connection  {ALICE} by a proxy" in shown
    assert "groups      dteam/Role=production, dteam" in shown
    assert {"X1", "X3", "P1", "V5", "N1", "B1"} <= {step.rule for step in explained.steps}


async def test_certificates_of_two_files_are_one_chain(gate: Gate) -> None:
    proxy = gate.grid.alice.proxy()
    leaf, *rest = (f"-----BEGIN {each}" for each in proxy.pem.decode().split("-----BEGIN ")[1:])
    explained = await told_of(gate, leaf, "".join(rest))
    assert explained.status == 200


async def test_certificate_is_handed_over_as_httpd_does_it(gate: Gate) -> None:
    explained = await told_of(gate, gate.grid.alice.pem.decode(), transport=Transport.PROXIED)
    assert (explained.status, explained.evidence.channel.dn) == (200, ALICE)


async def test_permissions_on_the_path_are_told_to_users(gate: Gate) -> None:
    question = joined([question_of(gate.grid.alice.pem.decode())])
    asked = question.asking("GET", "dome_getdir", json.dumps({"path": f"{DTEAM}/bob_private"}).encode())
    (there,) = (await explain(settings(gate), asked)).there
    assert "a directory of uid" in there
    assert "the way there is open to him; he may nothing" in there


async def test_expired_certificate_is_said_to_end_the_handshake(gate: Gate) -> None:
    old = gate.grid.alice.proxy(window=around_now(timedelta(hours=2), -timedelta(hours=1)))
    explained = await told_of(gate, old.pem.decode())
    assert (explained.status, explained.rule) == (401, "X3")
    assert any("TLS5" in note for note in explained.notes)


async def test_k6_plain_http_from_elsewhere_has_no_answer(gate: Gate) -> None:
    question = replace(signed().question, address="192.0.2.7")
    explained = await explain(settings(gate), question)
    assert (explained.status, explained.rule, explained.told) == (0, "K6", "")
    assert "without an answer" in "\n".join(explained.lines())


async def test_settings_that_serve_nobody_are_noted(gate: Gate) -> None:
    config = settings(gate)
    listen = tuple(each for each in config.api.listen if each.protocol == "proxied")
    proxied_only = replace(config, api=replace(config.api, listen=listen))
    off = replace(config, api=replace(config.api, enabled=False))
    token = gate.dteam.token(READ)
    assert "no listener" in (await told_of(gate, token, config=proxied_only)).notes[0]
    assert "not enabled" in (await told_of(gate, token, config=off)).notes[0]


# When something is missing


def unreachable(config: Config) -> Config:
    with socket.socket() as free:
        free.bind((LOCAL, 0))
        port = free.getsockname()[1]
    return replace(config, dpm=replace(config.dpm, host=LOCAL, unix_socket="", port=port))


async def test_without_the_database_all_else_is_decided_and_the_rest_is_named(gate: Gate) -> None:
    config = unreachable(settings(gate))
    outside = Case("dome_getdir", {"path": ATLAS}, token=gate.dteam.token(READ))
    inside = Case("dome_getdir", {"path": DTEAM}, token=gate.dteam.token(READ))
    of_head = Case("dome_getspaceinfo", {}, certificate=gate.grid.head)
    of_user = Case(parameters={"rfn": "disk1.test:/x"}, certificate=gate.grid.banned)
    of_door = Case(
        certificate=gate.grid.frontend, headers=[("remoteclientdn", ALICE), ("remoteclientgroups", "x")]
    )
    explained = [
        await explain(config, each.question) for each in (outside, inside, of_head, of_user, of_door)
    ]
    assert [(each.status, each.rule) for each in explained] == [
        (403, "I1"),
        (200, "M1"),
        (200, "N6"),
        (200, "N1"),
        (200, "N6"),
    ]
    for each in explained:
        assert "bans, numbers and what a request names were not looked at" in each.notes[0]
        assert each.standing is None
        assert each.is_alone
        assert ", uid " not in "\n".join(each.lines())


async def test_host_that_may_be_a_disk_server_is_named_without_the_database(gate: Gate) -> None:
    case = Case("dome_getspaceinfo", {}, certificate=gate.grid.disk1)
    explained = await explain(unreachable(settings(gate)), case.question)
    assert (explained.status, explained.rule) == (403, "N6")
    assert "if disk1.test is a disk server in DPM's database, its role is disk" in explained.notes
    assert "as far as can be told without DPM's database" in "\n".join(explained.lines())


async def test_ban_file_counts_without_the_database(gate: Gate, tmp_path: Path) -> None:
    file = tmp_path / "bans"
    file.write_text(f'"{ALICE}" # has left\n')
    config = unreachable(settings(gate))
    banned = replace(config, auth=replace(config.auth, ban_file=file))
    explained = await told_of(gate, gate.grid.alice.pem.decode(), config=banned)
    assert (explained.status, explained.rule) == (403, "B4")
    file.write_text("nonsense\n")
    explained = await told_of(gate, gate.grid.alice.pem.decode(), config=banned)
    assert explained.status == 200
    assert any("ban file was not looked at" in note for note in explained.notes)


async def test_unreachable_issuer_is_named_and_others_are_not_asked(gate: Gate, tmp_path: Path) -> None:
    async with TokenIssuer(tmp_path, name="down") as down, TokenIssuer(tmp_path, name="other") as other:
        issuers = (down.configured(), other.configured())
        token = down.token(scope=READ)
        await down.stop()
        config = with_issuers(gate, tmp_path, *issuers)
        explained = await told_of(gate, token, config=config)
        assert (explained.status, explained.rule) == (503, "H9")
        assert "cannot be fetched" in explained.reason
        assert "openid-configuration" in explained.advice
        assert other.requests.total() == 0


async def test_kept_keys_count_while_the_issuer_is_away_and_none_are_written(
    gate: Gate, tmp_path: Path
) -> None:
    kept = tmp_path / "jwks"
    kept.mkdir()
    async with TokenIssuer(tmp_path, name="away") as away:
        token = away.token(scope=READ)
        config = with_issuers(gate, kept, away.configured())
        assert (await told_of(gate, token, config=config)).status == 200
        assert list(kept.iterdir()) == []
        (kept / "away.json").write_text(
            json.dumps({"issuer": away.url, "fetched": away.now(), "keys": [away.key.jwk]})
        )
        await away.stop()
        assert (await told_of(gate, token, config=config)).status == 200


def with_issuers(gate: Gate, kept: Path, *issuers: Any) -> Config:
    config = settings(gate)
    audience = ("https://dpmhead.example.org",)
    return replace(config, auth=replace(config.auth, issuers=issuers, jwks_cache_dir=kept, audience=audience))


async def test_nobody_gets_a_number_by_being_explained(gate: Gate) -> None:
    count = "SELECT (SELECT COUNT(*) FROM Cns_userinfo), (SELECT COUNT(*) FROM Cns_groupinfo)"
    before = await gate.rows(count)
    body = {"path": f"{DTEAM}/made", "mode": "493"}
    for case in (
        Case("dome_makedir", body, token=gate.dteam.token("storage.create:/", sub="never-seen")),
        Case("dome_makedir", body, certificate=gate.grid.voms.proxy(gate.grid.stranger, "/dteam/never")),
        Case(
            "dome_makedir",
            body,
            certificate=gate.grid.frontend,
            headers=[("remoteclientdn", "/CN=Never"), ("remoteclientgroups", "dteam/never")],
        ),
        Case(
            "dome_getidmap", {"username": "/CN=Never", "groupnames": ["dteam/no"]}, certificate=gate.grid.head
        ),
    ):
        assert (await explain(settings(gate), case.question)).status == 200
    assert await gate.rows(count) == before


# What is read


@pytest.mark.parametrize(
    "written", ["{}", "  {}\n", "Bearer {}\r\n", "Authorization: Bearer {}\n", "\ufeffbearer {}"]
)
def test_token_is_found_however_it_is_written(written: str) -> None:
    question = question_of(written.format("aaa.bbb.ccc"))
    assert question.headers == (("Authorization", "Bearer aaa.bbb.ccc"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither a token"),
        ("two words", "neither a token"),
        ("a.b.c\nd.e.f\n", "neither a token"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no certificate in it"),
        ("-----BEGIN CERTIFICATE-----\nA*\n-----END CERTIFICATE-----\n", "broken PEM"),
    ],
)
def test_anything_else_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        question_of(text)
    assert "\n" not in str(caught.value)


def test_body_of_a_request_is_kept_to_the_letter() -> None:
    question = question_of(
        'POST /domehead/command/dome_makedir HTTP/1.1\r\nHost: h\r\n\r\n{"path": "/a\\n\\nb"}\n\n '
    )
    assert (question.command, question.body) == ("dome_makedir", b'{"path": "/a\\n\\nb"}\n\n ')


def test_two_requests_are_not_explained_together() -> None:
    with pytest.raises(ConfigError, match="two requests"):
        joined([Case().question, Case("dome_getdir").question])


def test_command_is_not_asked_of_a_request() -> None:
    with pytest.raises(ConfigError, match="leave --command out"):
        Case().question.asking("GET", "dome_getdir", b"{}")


@pytest.mark.parametrize("body", [b"[]", b"nonsense", b"[" * 100_000, b""])
def test_parameters_that_are_no_object_are_refused(body: bytes) -> None:
    with pytest.raises(ConfigError, match="JSON object"):
        question_of("a.b.c").asking("GET", "dome_getdir", body)


# What is to be done


def raised_rules() -> set[str]:
    """Numbers in the sources where a check may fail."""
    found = set()
    for folder in ("auth", "dome_api"):
        for path in (PROJECT / "dome_bridge" / folder).glob("*.py"):
            if path.stem in ("rules", "remedies", "explain", "explanation", "xrdhttp"):
                continue
            text = re.sub(r"trace\(\s*\"[^\"]+\"", "", path.read_text())
            found |= set(re.findall(r'"((?:TLS|MX|[A-Z])[0-9]{1,2})"', text))
    return found & set(RULES)


def test_every_rule_that_refuses_somebody_has_a_next_step() -> None:
    harmless = {"H7", "T14", "A1", "N3", "G2", "M6"}
    assert raised_rules() - harmless - set(remedies.REMEDIES) == set()
    assert set(remedies.REMEDIES) <= set(RULES)


# The command itself


async def command(
    gate: Gate, *arguments: str, given: str = "", file: Path | None = None
) -> tuple[int, str, str]:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "dome_bridge", "--config", str(file or gate.file), *arguments],
        cwd=PROJECT,
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


async def test_command_reads_a_token_from_standard_input_and_a_certificate_from_a_file(
    gate: Gate, tmp_path: Path
) -> None:
    proxy = gate.grid.alice.proxy().write(tmp_path / "x509up")
    token = gate.dteam.token(READ)
    body = json.dumps({"path": DTEAM})
    code, out, err = await command(
        gate,
        "-vv",
        "--json",
        "auth",
        "explain",
        "-",
        str(proxy),
        "--command",
        "dome_getdir",
        "--body",
        body,
        given=token,
    )
    found = json.loads(out)
    assert (code, found["allowed"], found["rule"]) == (0, True, "M1")
    assert found["principal"]["dn"] == ALICE
    assert found["principal"]["subject"] == "ada-0a1b"
    assert pieces_of(token, out + err) == []
    assert pieces_of("".join(proxy.read_text().split()), out + err) == []


async def test_command_refuses_with_code_1_and_shows_nothing_of_the_token(gate: Gate, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token := gate.dteam.token(READ, exp=5))
    code, out, err = await command(gate, "-vv", "auth", "explain", str(file))
    assert code == 1
    assert re.search(r"^NO  T8 ", out, re.M)
    assert re.search(r"^next +fetch a new token", out, re.M)
    assert pieces_of(token, out + err) == []


@pytest.mark.parametrize("given_as", [lambda token: token, lambda token: token[1:], lambda token: token * 20])
def test_token_on_the_command_line_is_not_repeated(gate: Gate, given_as: Callable[[str], str]) -> None:
    token = gate.dteam.token(READ)
    done = CliRunner().invoke(auth, ["explain", given_as(token)], obj=Context(gate.file, as_json=False))
    assert isinstance(done.exception, ConfigError)
    assert re.search("on the command line others could see it|cannot be read", str(done.exception))
    assert pieces_of(token, f"{done.exception} {done.output}") == []


def test_token_in_the_place_of_a_command_is_not_repeated(gate: Gate) -> None:
    token = gate.dteam.token(READ)
    context = Context(gate.file, as_json=False)
    for arguments in ([token], ["explain", "--command", token], ["explain", "--body", token]):
        done = CliRunner().invoke(auth, arguments, obj=context, input="a.b.c")
        assert done.exit_code == 2
        assert pieces_of(token, done.output) == []


async def test_keys_that_others_may_read_are_no_reason_to_stop(gate: Gate, tmp_path: Path) -> None:
    loose = tmp_path / "secret"
    loose.write_text((gate.directory / "secret").read_text())
    loose.chmod(0o644)
    host_key = tmp_path / "hostkey.pem"
    host_key.write_text("nobody looks at it")
    host_key.chmod(0o644)
    text = gate.file.read_text()
    text = text.replace(str(gate.directory / "secret"), str(loose)).replace(
        str(gate.directory / "hostkey.pem"), str(host_key)
    )
    file = tmp_path / "bridge.toml"
    file.touch(mode=0o600)
    file.write_text(text)
    with pytest.raises(ConfigError, match="open to others"):
        load(file, {}, etc=tmp_path)
    code, out, err = await command(gate, "auth", "explain", file=file, given=signed().text)
    assert code == 0, out + err


async def test_example_of_the_how_to_is_what_the_command_prints(maria: MariaServer, tmp_path: Path) -> None:
    printed = "\n".join(f"    {line}".rstrip() for line in (await explained(maria, tmp_path)).splitlines())
    page = (PROJECT / "docs/howto/tokens.md").read_text()
    assert without_times(printed) in without_times(page), (
        "replace the example by the output of `python -m sandbox.explained`"
    )


def without_times(text: str) -> str:
    text = re.sub(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b", "(date)", text)
    text = re.sub(r"(expires in|issued) -?\d+ s", r"\1 (some) s", text)
    return re.sub(r"(token has|jti is) '?[0-9a-f]+'?", r"\1 (any)", text)


# No output has any of the credential

_ODD = st.sampled_from(["", ".", "=", '"', "\\", "\n", " ", "Bearer ", "eyJ", "..", "\x00", "é"])


@pytest.fixture(scope="module")
def alone(gate: Gate) -> Config:
    """Nothing is waited for."""
    return unreachable(settings(gate))


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_no_output_has_a_piece_of_a_token(
    gate: Gate, alone: Config, caplog: pytest.LogCaptureFixture
) -> None:
    whole = gate.dteam.token(READ)
    caplog.set_level(logging.DEBUG)

    @given(
        cut=st.integers(0, len(whole)),
        put=_ODD,
        skip=st.integers(0, 3),
        where=st.sampled_from(["alone", "header", "query", "path", "signed", "body", "verb", "name"]),
    )
    def shown(cut: int, put: str, skip: int, where: str) -> None:
        token = whole[:cut] + put + whole[cut + skip :]
        caplog.clear()
        try:
            text = asyncio.run(explained_text(alone, written(token, where)))
        except ConfigError as exc:
            text = str(exc)
        assert pieces_of(whole.rpartition(".")[2], text + caplog.text) == []

    shown()


def written(token: str, where: str) -> str:
    """The token in its place, or in one where nobody expects it."""
    request = {
        "header": f"GET /domehead/command/dome_info HTTP/1.1\nAuthorization: Bearer {token}\n\n",
        "query": f"GET /domehead/command/dome_info?authz={token} HTTP/1.1\n\n",
        "path": f"GET /domehead/command/{token} HTTP/1.1\n\n",
        "signed": f"GET /domehead/command/dome_info?xrdhttptk={token}&xrdhttptime=1 HTTP/1.1\n\n",
        "body": f"POST /domehead/command/dome_makedir HTTP/1.1\n\n{token}",
        "verb": f"{token} /domehead/command/dome_info HTTP/1.1\n\n",
        "name": f"GET /domehead/command/dome_info HTTP/1.1\n{token}: x\n\n",
    }
    return request.get(where, token)


async def explained_text(config: Config, text: str) -> str:
    explained = await explain(config, question_of(text))
    return "\n".join(explained.lines()) + json.dumps(explained.as_json())


def test_commands_are_all_of_one_verb() -> None:
    """Which is why --command needs none."""
    assert len({each.name for each in COMMANDS}) == len(list(COMMANDS))
