"""Behind a web server: what it says of its clients, and how often these may fail."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

import pytest

from dome_bridge.config import ProxiedConfig, load
from dome_bridge.errors import ConfigError
from sandbox.pki import Credential, Policy
from sandbox.servers import MariaServer
from tests.fixtures.gate import ADMIN, ALICE, DISK1_DN, DTEAM, FRONTEND_DN, HEAD_DN, Gate, Reply, open_gate

VERIFY, DN, CERTIFICATE = (
    ProxiedConfig().verify_header,
    ProxiedConfig().dn_header,
    ProxiedConfig().cert_header,
)
STAT, HERE = "dome_getstatinfo", {"lfn": DTEAM}
READ = "storage.read:/"
BURST = 50

Headers = list[tuple[str, str]]


@pytest.fixture(scope="module")
async def gate(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gate]:
    async with open_gate(maria, tmp_path_factory.mktemp("gate"), failures_burst=BURST) as gate:
        yield gate


def by_dn(dn: str) -> Headers:
    return [(VERIFY, "SUCCESS"), (DN, dn)]


def pem(credential: Credential) -> str:
    """As httpd has it: on one line."""
    return credential.pem.decode().replace("\n", " ")


def by_chain(credential: Credential, dn: str = "") -> Headers:
    return [(VERIFY, "SUCCESS"), (DN, dn), (CERTIFICATE, pem(credential))]


async def ask(gate: Gate, headers: Sequence[tuple[str, str]], source: str = "", **more: object) -> Reply:
    """source: the client's address."""
    forwarded = [("X-Forwarded-For", source)] if source else []
    return await gate.ask(STAT, HERE, headers=[*headers, *forwarded], on="proxied", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])
def test_y1_listener_beyond_the_loopback_does_not_start(gate: Gate, address: str) -> None:
    text = gate.file.read_text()
    at = text.rindex('address = "127.0.0.1"')
    changed = gate.directory / "beyond.toml"
    changed.touch(mode=0o600)
    changed.write_text(text[:at] + text[at:].replace("127.0.0.1", address, 1))
    with pytest.raises(ConfigError, match="loopback"):
        load(changed, {}, etc=gate.directory)


@pytest.mark.parametrize("name", [VERIFY, DN, CERTIFICATE, VERIFY.upper()])
async def test_y2_header_given_twice_is_refused(gate: Gate, name: str) -> None:
    headers = by_chain(gate.grid.alice, ALICE)
    again = next(value for header, value in headers if header == name.lower())
    for second in (again, "", "other"):
        reply = await ask(gate, [*headers, (name, second)])
        assert (reply.status, reply.rule) == (400, "Y2")


@pytest.mark.parametrize(
    "result", ["", "NONE", "FAILED:expired", "GENEROUS", "success", "SUCCESS2", "(null)"]
)
async def test_y2_without_success_nobody_is_there(gate: Gate, result: str) -> None:
    for identity in (by_dn(ADMIN), by_chain(gate.grid.admin)):
        reply = await ask(gate, [(VERIFY, result), *identity[1:]])
        assert (reply.status, reply.audit["auth"], reply.audit["chan"]) == (401, "anonymous", "")
    assert (await ask(gate, by_dn(ADMIN)[1:])).status == 401


@pytest.mark.parametrize(
    "certificate", ["no PEM", "-----BEGIN CERTIFICATE----- !!! -----END CERTIFICATE-----"]
)
async def test_y2_certificate_that_is_none_is_refused(gate: Gate, certificate: str) -> None:
    assert (await ask(gate, [*by_dn(ADMIN), (CERTIFICATE, certificate)])).status == 400


@pytest.mark.parametrize(
    ("dn", "auth", "user"),
    [
        (ALICE, "user-x509", ALICE),
        (",".join(reversed(ALICE.strip("/").split("/"))), "user-x509", ALICE),
        (ADMIN, "admin", ""),
        (HEAD_DN, "node", ""),
        (DISK1_DN, "node", ""),
    ],
)
async def test_y3_dn_alone_names_users_and_servers(gate: Gate, dn: str, auth: str, user: str) -> None:
    reply = await ask(gate, by_dn(dn))
    assert (reply.status, reply.audit["auth"], reply.audit["user"]) == (200, auth, user)


async def test_y3_frontend_asserts_a_user(gate: Gate) -> None:
    reply = await ask(gate, [*by_dn(FRONTEND_DN), ("remoteclientdn", ALICE)])
    assert (reply.status, reply.audit["user"]) == (200, ALICE)


@pytest.mark.parametrize(
    "dn", [f"{ADMIN}/CN=proxy", f"{DISK1_DN}/CN=12345", "/CN=disk1.test.evil", "/CN=x/CN=disk1.test"]
)
async def test_y3_common_names_are_never_cut_off(gate: Gate, dn: str) -> None:
    reply = await gate.ask("dome_addpool", {"poolname": "p"}, headers=by_dn(dn), on="proxied")
    assert (reply.status, reply.audit["auth"], reply.audit["role"], reply.audit["user"]) == (
        403, "user-x509", "user", dn,
    )  # fmt: skip


async def test_y3_chain_is_evaluated_as_over_tls(gate: Gate) -> None:
    grid = gate.grid
    member = await ask(gate, by_chain(grid.voms.proxy(grid.alice, "/dteam", "/dteam/Role=production")))
    assert (member.status, member.audit["user"]) == (200, ALICE)
    assert member.audit["groups"] == "dteam,dteam/Role=production"
    delegated = await ask(gate, by_chain(grid.admin.proxy(), f"{ADMIN}/CN=12345"))
    assert (delegated.status, delegated.audit["auth"], delegated.audit["chan"]) == (200, "admin", ADMIN)
    limited = await ask(gate, by_chain(grid.admin.proxy(Policy.LIMITED)))
    assert (limited.status, limited.audit["auth"]) == (200, "user-x509")
    host = await ask(gate, by_chain(grid.disk1.proxy()))
    assert host.audit["role"] == "user"


async def test_y3_chain_counts_and_not_the_dn_beside_it(gate: Gate) -> None:
    reply = await ask(gate, by_chain(gate.grid.alice, ADMIN))
    assert (reply.audit["auth"], reply.audit["chan"]) == ("user-x509", ALICE)


async def test_y3_bad_chain_is_refused(gate: Gate) -> None:
    for bad in (gate.grid.alice.proxy(Policy.INDEPENDENT), gate.grid.alice.legacy_proxy()):
        assert (await ask(gate, by_chain(bad))).status == 401


@pytest.mark.parametrize(
    ("forwarded", "peer"),
    [("192.0.2.7", "192.0.2.7"), ("198.51.100.1, 192.0.2.7", "192.0.2.7"), ("2001:db8::7", "2001:db8::7")],
)
async def test_y4_last_address_is_the_peers(gate: Gate, forwarded: str, peer: str) -> None:
    assert (await ask(gate, by_dn(ALICE), forwarded)).audit["peer"] == peer


@pytest.mark.parametrize("on", ["https", "http"])
async def test_y4_address_is_not_believed_elsewhere(gate: Gate, on: str) -> None:
    headers = [("X-Forwarded-For", "192.0.2.7"), *by_dn(ADMIN)]
    if on == "http":
        reply = await gate.ask_signed(STAT, HERE, headers=headers)
    else:
        reply = await gate.ask(STAT, HERE, headers=headers, certificate=gate.grid.alice)
    assert reply.audit["peer"] == "127.0.0.1"
    assert reply.audit["chan"] != ADMIN


@pytest.mark.parametrize("identity", ["nobody", "alice"])
async def test_y5_bearer_tokens_are_accepted(gate: Gate, identity: str) -> None:
    headers = by_dn(ALICE) if identity == "alice" else []
    reply = await ask(gate, headers, token=gate.dteam.token(READ))
    assert (reply.status, reply.audit["auth"]) == (200, "token-capability")
    assert (await ask(gate, headers, token=gate.dteam.token(READ, exp=5))).status == 401


async def fail(gate: Gate, source: str, times: int) -> list[Reply]:
    return [await ask(gate, [], source, token="a.b.c") for _ in range(times)]


async def test_l4_source_that_fails_too_often_waits(gate: Gate) -> None:
    source = "192.0.2.50"
    began = time.monotonic()
    replies = await fail(gate, source, BURST + 60)
    refilled = 10 * (time.monotonic() - began)
    statuses = [reply.status for reply in replies]
    first = statuses.index(429)
    assert BURST <= first <= BURST + refilled + 1
    last = replies[first]
    assert (last.rule, last.challenge, last.audit["decision"]) == ("L4", None, "deny")
    assert int(last.headers["retry-after"]) >= 1
    # a good token is not even looked at
    while (reply := await ask(gate, [], source, token=gate.dteam.token(READ))).status != 429:
        await fail(gate, source, 5)
    assert reply.audit["sub"] == ""
    # and others do not notice
    assert (await ask(gate, [], "192.0.2.51", token=gate.dteam.token(READ))).status == 200


async def test_l4_addresses_of_one_ipv6_network_are_one_source(gate: Gate) -> None:
    for number in range(BURST + 30):
        await fail(gate, f"2001:db8:0:1::{number + 1:x}", 1)
    assert (await fail(gate, "2001:db8:0:1::ffff", 1))[0].status == 429
    assert (await fail(gate, "2001:db8:0:2::1", 1))[0].status == 401


async def test_l4_trusted_peers_are_exempt(gate: Gate) -> None:
    source = "192.0.2.60"
    await fail(gate, source, BURST + 20)
    assert (await ask(gate, by_dn(ALICE), source)).status == 429
    for headers in (by_dn(DISK1_DN), by_chain(gate.grid.head)):
        assert (await ask(gate, headers, source)).status == 200
        assert (await ask(gate, headers, source, token="a.b.c")).status == 401
    assert (await ask(gate, [*by_dn(FRONTEND_DN), ("remoteclientdn", ALICE)], source)).status == 200


async def test_l4_trusted_peers_are_exempt_over_tls(gate: Gate) -> None:
    for _ in range(BURST + 20):
        await gate.ask(STAT, HERE, token="a.b.c")
    assert (await gate.ask(STAT, HERE, token=gate.dteam.token(READ))).status == 429
    assert (await gate.ask(STAT, HERE, certificate=gate.grid.alice)).status == 429
    assert (await gate.ask(STAT, HERE, certificate=gate.grid.disk1)).status == 200
    assert (await gate.ask(STAT, HERE, certificate=gate.grid.admin)).status == 200


async def test_l4_requests_without_credential_are_no_attempts(gate: Gate) -> None:
    source = "192.0.2.70"
    replies = [await ask(gate, [], source) for _ in range(BURST + 20)]
    assert {reply.status for reply in replies} == {401}


async def test_l4_what_a_user_may_not_do_is_no_failure(gate: Gate) -> None:
    source = "192.0.2.80"
    for _ in range(BURST + 20):
        reply = await ask(gate, [], source, token=gate.dteam.token("storage.read:/elsewhere"))
    assert reply.status == 403
