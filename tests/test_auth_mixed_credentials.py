"""Several credentials in one request, and requests with different ones on one connection."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from sandbox.pki import Credential, Policy, around_now
from sandbox.servers import MariaServer
from sandbox.voms import extension
from tests.fixtures.gate import ADMIN, ALICE, ATLAS, BANNED, BOB, DTEAM, Gate, eventually, open_gate

STAT, HERE = "dome_getstatinfo", {"lfn": DTEAM}
READ = "storage.read:/"
PRIVATE = {"path": f"{DTEAM}/bob_private"}
"""What only Bob may list, of those with certificates."""


@pytest.fixture(scope="module")
async def gate(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gate]:
    async with open_gate(maria, tmp_path_factory.mktemp("gate")) as gate:
        yield gate


async def test_mx1_token_alone_decides(gate: Gate) -> None:
    grid = gate.grid
    both = await gate.ask("dome_getdir", PRIVATE, token=gate.dteam.token(READ), certificate=grid.stranger)
    assert (both.status, both.audit["auth"]) == (200, "token-capability")
    assert (both.audit["chan"], both.audit["sub"]) == (grid.stranger.dn, "ada-0a1b")
    assert both.audit["user"] == "jwt:dteam:ada-0a1b"


@pytest.mark.parametrize("who", ["bob", "member", "admin", "head", "disk1", "frontend"])
@pytest.mark.parametrize("scope", ["openid", "storage.create:/", "storage.read:/elsewhere", "storage.poll:/"])
async def test_mx2_insufficient_token_does_not_fall_back(gate: Gate, who: str, scope: str) -> None:
    reply = await gate.ask(
        "dome_getdir", PRIVATE, token=gate.dteam.token(scope), certificate=holder(gate, who)
    )
    assert (reply.status, reply.error) == (403, "insufficient_scope")


@pytest.mark.parametrize("who", ["bob", "member", "admin", "head", "disk1", "frontend"])
async def test_mx2_invalid_token_does_not_fall_back(gate: Gate, who: str) -> None:
    for token in ("a.b.c", gate.dteam.token(READ, exp=5), gate.dteam.token(READ, aud="x")):
        for command, parameters in (("dome_getdir", PRIVATE), ("dome_info", {}), ("dome_getspaceinfo", {})):
            reply = await gate.ask(command, parameters, token=token, certificate=holder(gate, who))
            assert (reply.status, reply.error) == (401, "invalid_token")


def holder(gate: Gate, who: str) -> Credential:
    if who == "member":
        return gate.grid.voms.proxy(gate.grid.bob, "/dteam")
    credential: Credential = getattr(gate.grid, who)
    return credential


async def test_mx2_voms_groups_are_not_added_to_those_of_a_token(gate: Gate) -> None:
    member = gate.grid.voms.proxy(gate.grid.alice, "/dteam/Role=production", "/dteam")
    token = gate.dteam.token(groups=["/dteam/other"])
    reply = await gate.ask(STAT, HERE, token=token, certificate=member)
    assert reply.audit["groups"] == "dteam/other"


@pytest.mark.parametrize("who", ["admin", "head", "disk1", "frontend"])
async def test_mx3_peer_with_a_token_has_no_rights_of_its_own(gate: Gate, who: str) -> None:
    certificate = holder(gate, who)
    everything = gate.dteam.token(
        " ".join(f"storage.{name}:/" for name in ("read", "create", "modify", "stage"))
    )
    for command in ("dome_addpool", "dome_getspaceinfo", "dome_putdone", "dome_getidmap", "dome_symlink"):
        reply = await gate.ask(command, {"link": f"{DTEAM}/l"}, token=everything, certificate=certificate)
        assert (reply.status, reply.audit["role"]) == (403, "user")
    assert (await gate.ask(STAT, HERE, token=everything, certificate=certificate)).status == 200
    assert (await gate.ask(STAT, {"lfn": ATLAS}, token=everything, certificate=certificate)).status == 403
    dots = {"lfn": f"{DTEAM}/../dteam"}
    assert (await gate.ask(STAT, dots, token=everything, certificate=certificate)).status == 400


@pytest.mark.parametrize("who", ["frontend", "admin", "disk1", "alice", None])
@pytest.mark.parametrize(
    "header",
    [
        ("remoteclientdn", ALICE),
        ("remoteclientgroups", "dteam"),
        ("remoteclientdn", ""),
        ("RemoteClientDN", "root"),
    ],
)
async def test_mx4_token_and_asserted_user_contradict(
    gate: Gate, who: str | None, header: tuple[str, str]
) -> None:
    certificate = holder(gate, who) if who else None
    token = gate.dteam.token(READ)
    reply = await gate.ask(STAT, HERE, token=token, headers=[header], certificate=certificate)
    assert (reply.status, reply.error, reply.rule) == (400, "invalid_request", "MX4")


async def test_mx4_host_of_the_client_is_no_identity(gate: Gate) -> None:
    headers = [("remoteclienthost", "192.0.2.1")]
    token = gate.dteam.token(READ)
    assert (await gate.ask(STAT, HERE, token=token, headers=headers)).status == 200
    assert (
        await gate.ask(STAT, HERE, token=token, headers=headers, certificate=gate.grid.frontend)
    ).status == 200


async def test_mx5_banned_holder_with_a_token_is_banned(gate: Gate) -> None:
    for token in (gate.dteam.token(READ), gate.dteam.token(groups=["/dteam"])):
        reply = await gate.ask(STAT, HERE, token=token, certificate=gate.grid.banned)
        assert (reply.status, reply.audit["chan"]) == (403, BANNED)
        assert reply.rule == "B1"
    proxied = await gate.ask(STAT, HERE, token=gate.dteam.token(READ), certificate=gate.grid.banned.proxy())
    assert proxied.status == 403


async def test_mx6_certificate_that_tls_rejects_ends_the_connection(gate: Gate) -> None:
    old = gate.grid.alice.proxy(window=around_now(timedelta(hours=2), -timedelta(hours=1)))
    before = len(gate.lines)
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        await gate.ask(STAT, HERE, token=gate.dteam.token(READ), certificate=old)
    await eventually(lambda: len(gate.lines) > before)
    assert "verify code 10" in gate.lines[-1]


@pytest.mark.parametrize("fault", ["independent", "foreign", "critical", "revoked"])
async def test_mx7_certificate_that_fails_later_with_a_token_is_a_401(gate: Gate, fault: str) -> None:
    grid = gate.grid
    match fault:
        case "independent":
            bad = grid.alice.proxy(Policy.INDEPENDENT)
        case "foreign":
            bad = grid.alice.proxy(extensions=[extension(grid.voms.sign(grid.bob, "/dteam"))])
        case "critical":
            statement = grid.voms.statement(grid.alice, "/dteam").with_extension(
                "1.2.3.4", b"", critical=True
            )
            bad = grid.alice.proxy(extensions=[extension(statement.sign(grid.voms.key))])
        case _:
            bad = grid.user("/DC=test/CN=Revoked")
            grid.trust.set_crl(grid.ca, grid.ca.crl(revoked=[bad]))
            before = gate.generation
            await gate.reloaded(lambda: gate.generation > before)
    reply = await gate.ask(STAT, HERE, token=gate.dteam.token(READ), certificate=bad)
    assert (reply.status, reply.audit["sub"]) == (401, "")
    alone = await gate.ask(STAT, HERE, certificate=bad)
    assert alone.status in (401, 403)
    assert (await gate.ask("dome_info", certificate=bad)).status in (401, 403)


async def test_mx8_requests_of_one_connection_are_judged_each_by_itself(gate: Gate) -> None:
    connection = gate.connection(gate.grid.bob)

    async def status(**credentials: str) -> tuple[int, str]:
        reply = await gate.ask("dome_getdir", PRIVATE, connection=connection, **credentials)  # type: ignore[arg-type]
        return reply.status, reply.audit["auth"]

    good, poor = gate.dteam.token(READ), gate.dteam.token("openid")
    assert [
        await status(),
        await status(token=poor),
        await status(),
        await status(token=good),
        await status(token="a.b.c"),
        await status(query=f"authz={good}"),
        await status(),
    ] == [
        (200, "user-x509"),
        (403, "token-none"),
        (200, "user-x509"),
        (200, "token-capability"),
        (401, "anonymous"),
        (200, "token-capability"),
        (200, "user-x509"),
    ]
    assert connection.opened == 1
    await connection.close()


async def test_mx8_without_certificate_nothing_is_kept_of_a_token(gate: Gate) -> None:
    connection = gate.connection()
    token = gate.dteam.token(READ)
    replies = [
        await gate.ask(STAT, HERE, connection=connection, token=each) for each in (None, token, None, token)
    ]
    assert [reply.status for reply in replies] == [401, 200, 401, 200]
    assert connection.opened == 1
    await connection.close()


async def test_mx8_peer_may_speak_for_another_user_each_time(gate: Gate) -> None:
    connection = gate.connection(gate.grid.frontend)
    users = []
    for user in (ALICE, BOB, ADMIN):
        reply = await gate.ask(STAT, HERE, headers=[("remoteclientdn", user)], connection=connection)
        users.append(reply.audit["user"])
    assert users == [ALICE, BOB, ADMIN]
    await connection.close()
