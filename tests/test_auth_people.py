"""Groups, issuers and bans as requests meet them, and what changes while the service runs."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from cryptography import x509

from sandbox.pki import CLIENT_AUTH, Authority, around_now
from sandbox.servers import MariaServer
from tests.fixtures.dome import HEAD
from tests.fixtures.gate import (
    ALICE,
    ATLAS,
    BANNED,
    DTEAM,
    HEAD_DN,
    HOME,
    Gate,
    Reply,
    eventually,
    open_gate,
)

STAT, HERE = "dome_getstatinfo", {"lfn": DTEAM}
READ = "storage.read:/"
MEMBER = ["/dteam"]


@pytest.fixture(scope="module")
async def gate(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gate]:
    async with open_gate(maria, tmp_path_factory.mktemp("gate")) as gate:
        await gate.do("dome_makedir", path=f"{HOME}/dteam2")
        await gate.do("dome_setmode", path=f"{HOME}/dteam2", mode=0o777)
        await gate.do("dome_makedir", path=f"{DTEAM}/team")
        await gate.do("dome_setmode", path=f"{DTEAM}/team", mode=0o770)
        await gate.do("dome_setacl", path=f"{DTEAM}/team", acl="A70,C70,D7103,E70,F00")
        yield gate


@pytest.fixture
async def settings(gate: Gate) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Changes the file of the configuration, which is as before afterwards."""

    async def change(**changes: object) -> None:
        gate.write_settings(**changes)
        before = gate.generation
        await gate.reloaded(lambda: gate.generation > before)

    yield change
    await change()


@pytest.fixture
async def bans(gate: Gate) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    async def ban(text: str) -> None:
        (gate.directory / "bans").write_text(text)
        before = gate.generation
        await gate.reloaded(lambda: gate.generation > before)

    yield ban
    await ban("")


async def listing(gate: Gate, path: str, groups: list[str]) -> Reply:
    return await gate.ask("dome_getdir", {"path": path}, token=gate.dteam.token(groups=groups))


async def test_g2_groups_decide_by_dpms_permissions(gate: Gate) -> None:
    token = gate.dteam.token("openid", groups=MEMBER)
    assert (await gate.ask("dome_getdir", {"path": f"{DTEAM}/sub"}, token=token)).status == 200
    assert (await gate.ask("dome_makedir", {"path": f"{DTEAM}/by-group"}, token=token)).status == 200
    made = await gate.ask(STAT, {"lfn": f"{DTEAM}/by-group"}, token=token)
    assert made.json["gid"] == "101"
    for command in ("dome_getdir", "dome_makedir", "dome_get"):
        path = f"{DTEAM}/bob_private/x"
        reply = await gate.ask(command, {"path": path, "lfn": path}, token=token)
        assert (reply.status, reply.error) == (403, "insufficient_scope")


async def test_g3_child_group_does_not_imply_its_parent(gate: Gate) -> None:
    reply = await gate.ask(
        "dome_makedir", {"path": f"{DTEAM}/by-child"}, token=gate.dteam.token(groups=["/dteam/sub"])
    )
    assert reply.status == 403
    assert reply.audit["groups"] == "dteam/sub"


async def test_g4_all_groups_count_and_the_first_owns(gate: Gate) -> None:
    groups = ["/dteam/second", "/dteam", "/dteam", "/dteam/second"]
    reply = await gate.ask(
        "dome_makedir", {"path": f"{DTEAM}/by-second"}, token=gate.dteam.token(groups=groups)
    )
    assert (reply.status, reply.audit["groups"]) == (200, "dteam/second,dteam")
    ((gid,),) = await gate.rows("SELECT gid FROM Cns_groupinfo WHERE groupname = 'dteam/second'")
    assert (await gate.do(STAT, lfn=f"{DTEAM}/by-second")).json["gid"] in (str(gid), "101")


@pytest.mark.parametrize("scope", ["storage.read:/x", "compute.create", "storage.poll:/", "compute.cancel"])
async def test_g5_any_capability_makes_groups_worthless(gate: Gate, scope: str) -> None:
    token = gate.dteam.token(f"openid {scope}", groups=MEMBER)
    reply = await gate.ask(STAT, HERE, token=token)
    assert (reply.status, reply.audit["auth"]) == (403, "token-capability")


@pytest.mark.parametrize(
    ("groups", "left"),
    [
        (["/atlas", "/dteam"], "dteam"),
        (["/dteamx", "/dteam/a"], "dteam/a"),
        (["/atlas/dteam"], ""),
        (["/root"], ""),
    ],
)
async def test_g6_g7_groups_of_other_vos_and_root_are_dropped(
    gate: Gate, groups: list[str], left: str
) -> None:
    reply = await gate.ask(STAT, HERE, token=gate.dteam.token(groups=groups))
    assert reply.audit["groups"] == left
    assert reply.audit["auth"] == ("token-group" if left else "token-none")


async def test_g8_i1_group_token_stays_in_its_area(gate: Gate) -> None:
    for token in (gate.dteam.token(groups=MEMBER), gate.dteam.token("storage.read:/ storage.modify:/")):
        for path in (ATLAS, f"{HOME}/dteam2", f"{HOME}/dteam2/missing", HOME, "/", "/dpm", f"{HOME}/vol"):
            for command in (STAT, "dome_getdir", "dome_makedir", "dome_access"):
                reply = await gate.ask(command, {"lfn": path, "path": path, "mode": 4}, token=token)
                assert reply.status == 403
        assert (await gate.ask(STAT, HERE, token=token)).status == 200


async def test_g9_token_and_voms_user_meet_in_one_group(
    gate: Gate, settings: Callable[..., Awaitable[None]]
) -> None:
    await settings(issuer=gate.dteam.table(group_map={"/dteam/prod": "cms/Role=production"}))
    assert (await listing(gate, f"{DTEAM}/team/x", ["/dteam"])).status == 403
    reply = await gate.ask(
        "dome_makedir", {"path": f"{DTEAM}/team/x"}, token=gate.dteam.token(groups=["/dteam/prod"])
    )
    assert (reply.status, reply.audit["groups"]) == (200, "cms/Role=production")


async def test_i2_keys_of_issuers_are_their_own(gate: Gate) -> None:
    old = gate.issuers["dteam-old"]
    assert (await gate.ask(STAT, HERE, token=old.token(READ))).status == 200
    for token in (gate.dteam.token(READ, key=old.key), old.token(READ, key=gate.dteam.key)):
        assert (await gate.ask(STAT, HERE, token=token)).status == 401


async def test_i3_subjects_of_two_issuers_are_two_users(gate: Gate) -> None:
    users = set()
    for issuer in (gate.dteam, gate.issuers["dteam-old"]):
        reply = await gate.ask(STAT, HERE, token=issuer.token(READ))
        assert reply.status == 200
        users.add(reply.audit["user"])
    assert users == {"jwt:dteam:ada-0a1b", "jwt:dteam-old:ada-0a1b"}


async def test_i4_issuers_come_and_go_by_reload(gate: Gate, settings: Callable[..., Awaitable[None]]) -> None:
    old, connection = gate.issuers["dteam-old"], gate.connection()
    token, other = old.token(READ), gate.dteam.token(READ)
    assert (await gate.ask(STAT, HERE, token=token, connection=connection)).status == 200
    await settings(issuer=gate.dteam.table())
    removed = await gate.ask(STAT, HERE, token=token, connection=connection)
    assert (removed.status, removed.rule) == (401, "T2")
    assert (await gate.ask(STAT, HERE, token=other, connection=connection)).status == 200
    await settings(issuer=gate.dteam.table(base_path=f"{HOME}/dteam2") + old.table())
    assert (await gate.ask(STAT, HERE, token=other, connection=connection)).status == 403
    assert (await gate.ask(STAT, HERE, token=token, connection=connection)).status == 200
    await connection.close()


async def test_i4_r3_faulty_settings_keep_the_old_ones(gate: Gate) -> None:
    try:
        for fault in (gate.dteam.table(base_path="/"), gate.dteam.table(issuer="http://x.test"), "nonsense"):
            gate.write_settings(issuer=fault)
            assert gate.service is not None
            gate.service.reload()
            await asyncio.sleep(0.05)
            assert (await gate.ask(STAT, HERE, token=gate.dteam.token(READ))).status == 200
    finally:
        gate.write_settings()


async def test_i5_map_gives_one_user_and_its_groups(
    gate: Gate, settings: Callable[..., Awaitable[None]]
) -> None:
    table = gate.dteam.table() + f'[auth.issuer.map]\nusername = "{ALICE}"\ngroups = ["atlas", "dteam"]\n'
    await settings(issuer=table)
    audit = (await gate.ask(STAT, HERE, token=gate.dteam.token(READ))).audit
    assert (audit["user"], audit["groups"], audit["sub"]) == (ALICE, "atlas,dteam", "ada-0a1b")


@pytest.mark.parametrize("status", [1, 2, 7])
async def test_b1_banned_user_may_nothing_but_ask_for_info(gate: Gate, status: int) -> None:
    name = f"/DC=test/CN=User {secrets.token_hex(4)}"
    user, asserted = gate.grid.user(name), [("remoteclientdn", name), ("remoteclientgroups", "dteam")]
    assert (await gate.ask("dome_makedir", {"path": f"{DTEAM}/x"}, certificate=user)).status == 403
    await gate.do("dome_newuser", username=name, banned=0)
    assert (await gate.ask(STAT, HERE, certificate=user)).status == 200
    await gate.do("dome_updateuser", username=name, banned=status)
    for certificate in (user, user.proxy(), gate.grid.voms.proxy(user, "/dteam")):
        for command in (STAT, "dome_makedir", "dome_nothing"):
            reply = await gate.ask(command, HERE, certificate=certificate)
            assert (reply.status, reply.audit["decision"]) == (403, "deny")
        assert (await gate.ask("dome_info", certificate=certificate)).status == 200
    assert (await gate.ask(STAT, HERE, certificate=gate.grid.frontend, headers=asserted)).status == 403
    assert (await gate.ask(STAT, HERE, certificate=user, token=gate.dteam.token(READ))).status == 403


async def test_b2_token_is_banned_by_both_names(
    gate: Gate, settings: Callable[..., Awaitable[None]], bans: Callable[[str], Awaitable[None]]
) -> None:
    await settings(issuer=gate.dteam.table(subject_map={"mapped": ALICE, "bad": BANNED}))
    token = gate.dteam.token(READ, sub="mapped")
    assert (await gate.ask(STAT, HERE, token=token)).status == 200
    assert (await gate.ask(STAT, HERE, token=gate.dteam.token(READ, sub="bad"))).status == 403
    await bans("jwt:dteam:mapped # stolen\n")
    reply = await gate.ask(STAT, HERE, token=token)
    assert (reply.status, reply.rule) == (403, "B2")
    await bans(f'"{ALICE}" lost her key\n')
    assert (await gate.ask(STAT, HERE, token=token)).status == 403
    assert (await gate.ask(STAT, HERE, certificate=gate.grid.alice)).status == 403


async def test_b3_only_the_primary_group_bans(gate: Gate) -> None:
    voms = gate.grid.voms
    await gate.do("dome_newgroup", groupname="dteam/bad")
    await gate.do("dome_updategroup", groupname="dteam/bad", banned=1)
    first = voms.proxy(gate.grid.alice, "/dteam/bad", "/dteam")
    second = voms.proxy(gate.grid.alice, "/dteam", "/dteam/bad")
    for certificate, token, status in (
        (first, None, 403),
        (second, None, 200),
        (None, gate.dteam.token(groups=["/dteam/bad", "/dteam"]), 403),
        (None, gate.dteam.token(groups=["/dteam", "/dteam/bad"]), 200),
    ):
        reply = await gate.ask(STAT, HERE, certificate=certificate, token=token)
        assert reply.status == status
        if status == 403:
            assert reply.rule == "B3"
    assert (await gate.ask(STAT, HERE, certificate=second)).status == 200


@pytest.mark.parametrize(
    "line",
    [
        f'"{ALICE}" reason',
        '"CN=Alice Tester,OU=users,DC=dmlite,DC=test" reason',
        '"/DC=org/DC=example/CN=Example CA" the whole CA',
        "dteam # the group",
        "/dteam/Role=NULL # as an FQAN",
        "127.0.0.0/8 # addresses",
    ],
)
async def test_b4_b5_ban_file_is_effective_on_open_connections(
    gate: Gate, bans: Callable[[str], Awaitable[None]], line: str
) -> None:
    member = gate.grid.voms.proxy(gate.grid.alice, "/dteam")
    connection = gate.connection(member)
    assert (await gate.ask(STAT, HERE, connection=connection)).status == 200
    await bans(f"{line}\n")
    reply = await gate.ask(STAT, HERE, connection=connection)
    assert (reply.status, reply.audit["decision"]) == (403, "deny")
    assert reply.rule in ("B3", "B4")
    assert (await gate.ask("dome_info", connection=connection)).status == 200
    (gate.directory / "bans").write_text("what is this\n")
    assert gate.service is not None
    gate.service.reload()
    await asyncio.sleep(0.05)
    assert (await gate.ask(STAT, HERE, connection=connection)).status == 403
    await bans("")
    assert (await gate.ask(STAT, HERE, connection=connection)).status == 200
    assert connection.opened == 1
    await connection.close()


async def test_b5_ban_in_the_database_is_effective_on_open_connections(gate: Gate) -> None:
    connection = gate.connection(gate.grid.bob)
    assert (await gate.ask(STAT, HERE, connection=connection)).status == 200
    name = gate.grid.bob.dn
    await gate.execute("UPDATE Cns_userinfo SET banned = 2 WHERE username = %s", name)
    async with asyncio.timeout(10):
        while (await gate.ask(STAT, HERE, connection=connection)).status != 403:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.1)
    await gate.execute("UPDATE Cns_userinfo SET banned = 0 WHERE username = %s", name)
    assert connection.opened == 1
    await connection.close()


async def people(gate: Gate) -> set[str]:
    users = await gate.rows("SELECT username FROM Cns_userinfo")
    groups = await gate.rows("SELECT groupname FROM Cns_groupinfo")
    return {str(name) for (name,) in (*users, *groups)}


async def test_nobody_gets_a_number_by_a_failed_request(gate: Gate) -> None:
    before = await people(gate)
    sub = secrets.token_hex(4)
    newcomer = gate.grid.user(f"/DC=test/CN={sub}")
    capability = gate.dteam.token("storage.create:/elsewhere", sub=sub)
    member = gate.dteam.token(groups=[f"/dteam/{sub}"], sub=sub)
    for path in (f"{DTEAM}/new", f"{DTEAM}/missing/new", ATLAS, f"{DTEAM}/bob_private/x"):
        for command in ("dome_makedir", "dome_put", STAT, "dome_getdir"):
            parameters = {"path": path, "lfn": path}
            for certificate, token in ((newcomer, None), (None, capability), (None, member)):
                await gate.ask(command, parameters, certificate=certificate, token=token)
    assert await people(gate) == before


async def test_concurrent_first_uses_make_one_row(gate: Gate) -> None:
    sub = secrets.token_hex(4)
    token = gate.dteam.token("storage.create:/", sub=sub)
    connections = [gate.connection() for _ in range(6)]
    replies = await asyncio.gather(
        *(
            gate.ask("dome_makedir", {"path": f"{DTEAM}/{sub}-{number}"}, token=token, connection=each)
            for number, each in enumerate(connections)
        )
    )
    for connection in connections:
        await connection.close()
    assert [reply.status for reply in replies] == [200] * 6
    rows = await gate.rows(f"SELECT userid FROM Cns_userinfo WHERE username = 'jwt:dteam:{sub}'")
    assert len(rows) == 1
    assert rows[0][0] > 0


async def test_x7_certificate_that_is_revoked_on_an_open_connection(gate: Gate) -> None:
    user = gate.grid.user("/DC=test/CN=To be revoked")
    connection = gate.connection(user)
    assert (await gate.ask(STAT, HERE, connection=connection)).status == 200
    gate.grid.trust.set_crl(gate.grid.ca, gate.grid.ca.crl(revoked=[user]))
    before = gate.generation
    await gate.reloaded(lambda: gate.generation > before)
    reply = await gate.ask(STAT, HERE, connection=connection)
    assert (reply.status, reply.rule) == (401, "C1")
    assert connection.opened == 1
    await connection.close()


async def test_x7_proxy_that_expires_on_an_open_connection(gate: Gate) -> None:
    proxy = gate.grid.alice.proxy(window=around_now(timedelta(minutes=5), timedelta(seconds=2)))
    connection = gate.connection(proxy)
    assert (await gate.ask(STAT, HERE, connection=connection)).status == 200
    async with asyncio.timeout(10):
        while (reply := await gate.ask(STAT, HERE, connection=connection)).status == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert reply.status == 401
    assert connection.opened == 1
    await connection.close()


async def serial_of(gate: Gate) -> int:
    _, writer = await asyncio.open_connection("127.0.0.1", gate.ports["https"], ssl=gate.context())
    der = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.close()
    return x509.load_der_x509_certificate(der).serial_number


async def test_r4_new_connections_get_the_new_host_certificate(gate: Gate) -> None:
    connection = gate.connection(gate.grid.alice)
    assert (await gate.ask(STAT, HERE, connection=connection)).status == 200
    fresh = gate.grid.host(HEAD_DN, HEAD)
    assert await serial_of(gate) != fresh.certificate.serial_number
    fresh.write_pair(gate.directory)
    assert gate.service is not None
    gate.service.reload()
    async with asyncio.timeout(10):
        while await serial_of(gate) != fresh.certificate.serial_number:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert (await gate.ask(STAT, HERE, connection=connection)).status == 200
    assert connection.opened == 1
    await connection.close()


async def test_r4_new_anchor_counts_for_new_connections(gate: Gate) -> None:
    other = Authority.root("/DC=test/CN=Another CA")
    user = other.issue("/DC=test/CN=Of another CA", purposes=(CLIENT_AUTH,))
    before = len(gate.lines)
    with pytest.raises((OSError, EOFError)):
        await gate.ask(STAT, HERE, certificate=user, connection=gate.connection(user))
    await eventually(lambda: len(gate.lines) > before)
    gate.grid.trust.add(other)
    generation = gate.generation
    await gate.reloaded(lambda: gate.generation > generation)
    connection = gate.connection(user)
    assert (await gate.ask(STAT, HERE, connection=connection)).status == 200
    await connection.close()
