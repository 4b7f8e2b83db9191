"""Who calls, and for whom: roles, host identities and the headers in which peers name their users."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from sandbox.pki import Credential, Policy
from sandbox.servers import MariaServer
from tests.fixtures.gate import ADMIN, ALICE, BANNED, DTEAM, METHODS, Gate, Reply, eventually, open_gate

STAT, HERE = "dome_getstatinfo", {"lfn": DTEAM}
Headers = list[tuple[str, str]]

INFO = {"dome_info"}
FOR_USERS = {
    "dome_access", "dome_accessreplica", "dome_getstatinfo", "dome_get", "dome_getdir", "dome_put",
    "dome_create", "dome_makedir", "dome_unlink", "dome_removedir", "dome_rename", "dome_setsize",
    "dome_getcomment", "dome_setcomment", "dome_readlink", "dome_symlink", "dome_chksum",
    "dome_getdirspaces", "dome_getquotatoken", "dome_getreplicavec", "dome_getreplicainfo",
    "dome_setmode", "dome_setacl", "dome_setowner", "dome_updatexattr",
}  # fmt: skip
"""Of the table in section 8: all that is not marked node, admin, front-end or disk."""
OF_DISKS = {
    "dome_putdone", "dome_addreplica", "dome_delreplica", "dome_updatereplica", "dome_updatexattr",
    "dome_chksumstatus", "dome_pullstatus", "dome_getspaceinfo", "dome_statpool", "dome_access",
    "dome_accessreplica", "dome_getreplicainfo", "dome_getreplicavec", "dome_getstatinfo",
}  # fmt: skip
OF_FRONTENDS = {
    "dome_getidmap", "dome_getuser", "dome_getusersvec", "dome_getgroup", "dome_getgroupsvec",
    "dome_getspaceinfo", "dome_statpool", "dome_getquotatoken",
}  # fmt: skip
ADMINISTRATION = {
    "dome_addpool", "dome_modifypool", "dome_rmpool", "dome_addfstopool", "dome_modifyfs", "dome_rmfs",
    "dome_setquotatoken", "dome_modquotatoken", "dome_delquotatoken", "dome_newuser", "dome_updateuser",
    "dome_deleteuser", "dome_newgroup", "dome_updategroup", "dome_deletegroup",
}  # fmt: skip
TO_DISKS = {"dome_statpfn", "dome_pfnrm", "dome_dochksum", "dome_pull", "dome_makespace"}
"""What only the head asks, and only disk servers answer."""

FOR_ALICE: Headers = [("remoteclientdn", ALICE), ("remoteclientgroups", "dteam")]
FOR_ROOT: Headers = [("remoteclientdn", "root"), ("remoteclientgroups", "root")]
EVERYTHING = {*FOR_USERS, *OF_DISKS, *OF_FRONTENDS, *ADMINISTRATION, *INFO}

# By certificate and asserted user: the commands that are open.
OPEN: dict[tuple[str, str], set[str]] = {
    ("head", ""): EVERYTHING,
    ("head", "alice"): EVERYTHING,
    ("head", "root"): EVERYTHING,
    ("admin", ""): EVERYTHING,
    ("admin", "alice"): EVERYTHING,
    ("disk1", ""): {*OF_DISKS, *OF_FRONTENDS, *INFO},
    ("disk1", "root"): {*OF_DISKS, *OF_FRONTENDS, *INFO},
    ("disk1", "alice"): {*OF_DISKS, *OF_FRONTENDS, *FOR_USERS, *INFO},
    ("frontend", ""): {*OF_FRONTENDS, *INFO},
    ("frontend", "root"): {*OF_FRONTENDS, *INFO},
    ("frontend", "alice"): {*OF_FRONTENDS, *FOR_USERS, *INFO},
    ("alice", ""): {*FOR_USERS, *INFO},
    ("stranger", ""): {*FOR_USERS, *INFO},
    ("nobody", ""): INFO,
}
ASSERTED: dict[str, Headers] = {"": [], "alice": FOR_ALICE, "root": FOR_ROOT}


@pytest.fixture(scope="module")
async def gate(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gate]:
    async with open_gate(maria, tmp_path_factory.mktemp("gate")) as gate:
        yield gate


@pytest.fixture(scope="module")
async def closed_gate(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gate]:
    """Of a site where neither users nor the doors on disk servers call."""
    directory = tmp_path_factory.mktemp("closed")
    async with open_gate(maria, directory, direct_users=False, disk_nodes_are_frontends=False) as gate:
        yield gate


def who(gate: Gate, name: str) -> Credential | None:
    return None if name == "nobody" else getattr(gate.grid, name)


async def let_in(gate: Gate, caller: str, user: str) -> set[str]:
    """The commands that are not refused for who calls. They get no parameters, so that none does anything."""
    found = set()
    for command in METHODS:
        reply = await gate.ask(command, {}, certificate=who(gate, caller), headers=ASSERTED[user])
        is_refused = reply.status in (401, 403) and reply.rule in ("N6", "H5")
        if not is_refused:
            found.add(command)
        elif caller != "nobody":
            assert reply.body.endswith(" is unauthorized. Sorry :-)")
    return found


def test_every_command_is_in_the_table() -> None:
    assert {*EVERYTHING, *TO_DISKS} >= set(METHODS)
    assert set(METHODS) >= EVERYTHING


@pytest.mark.parametrize(("caller", "user"), OPEN)
async def test_n6_each_role_has_its_commands(gate: Gate, caller: str, user: str) -> None:
    assert await let_in(gate, caller, user) - TO_DISKS == OPEN[caller, user]


@pytest.mark.parametrize(
    ("caller", "user", "may"),
    [
        ("disk1", "", {*OF_DISKS, *INFO}),
        ("disk1", "alice", {*OF_DISKS, *INFO}),
        ("frontend", "alice", {*OF_FRONTENDS, *FOR_USERS, *INFO}),
        ("alice", "", INFO),
    ],
)
async def test_n6_site_may_close_itself_to_users_and_doors_on_disks(
    closed_gate: Gate, caller: str, user: str, may: set[str]
) -> None:
    assert await let_in(closed_gate, caller, user) - TO_DISKS == may


async def test_direct_users_closes_to_tokens_but_those_that_a_peer_passes_on(closed_gate: Gate) -> None:
    gate = closed_gate
    for token in (gate.dteam.token("storage.read:/"), gate.dteam.token(groups=["/dteam"])):
        for certificate in (None, gate.grid.alice):
            assert (await gate.ask(STAT, HERE, token=token, certificate=certificate)).status == 403
        assert (await gate.ask(STAT, HERE, token=token, certificate=gate.grid.frontend)).status == 200


async def test_n6_refusal_tells_the_log_how_to_give_full_trust(gate: Gate) -> None:
    reply = await gate.ask("dome_newgroup", {"groupname": "x"}, certificate=gate.grid.disk1)
    assert (reply.status, reply.rule) == (403, "N6")
    assert "authorize_dn" in reply.audit["reason"]
    assert "authorize_dn" not in reply.body


ROLES = {"head": "head", "admin": "head", "disk1": "disk", "frontend": "frontend", "alice": "user"}


@pytest.mark.parametrize("name", ROLES)
async def test_n1_peers_are_known_by_their_certificates(gate: Gate, name: str) -> None:
    reply = await gate.ask("dome_info", certificate=who(gate, name))
    assert reply.audit["role"] == ROLES[name]


async def role_of(gate: Gate, credential: Credential) -> str:
    return (await gate.ask("dome_info", certificate=credential)).audit["role"]


@pytest.mark.parametrize(
    ("subject", "names", "role"),
    [
        ("/CN=anything", ["disk1.test"], "disk"),
        ("/CN=anything", ["DISK1.test"], "disk"),
        ("/CN=anything", ["elsewhere.test", "disk1.test"], "disk"),
        ("/CN=disk1.test", [], "disk"),
        ("/CN=host/disk1.test", [], "disk"),
        ("/CN=disk1.test", ["elsewhere.test"], "user"),
        ("/CN=disk1.test.evil.test", [], "user"),
        ("/CN=notdisk1.test", [], "user"),
        ("/CN=disk1", [], "user"),
        ("/OU=CN=disk1.test/CN=x", [], "user"),
        ("/CN=disk1.test/CN=x", [], "user"),
        ("/CN=x/CN=disk1.test", [], "user"),
        ("/CN=x/disk1.test", [], "user"),
        ("/CN=anything", ["*.test"], "user"),
        ("/CN=*.test", [], "user"),
        ("/CN=anything", ["xdisk1.test"], "user"),
        ("/CN=anything", ["disk1.test.evil.test"], "user"),
    ],
)
async def test_n2_host_is_who_its_certificate_names_exactly(
    gate: Gate, subject: str, names: list[str], role: str
) -> None:
    assert await role_of(gate, gate.grid.ca.issue(subject, hosts=names)) == role


async def test_n3_p5_proxy_of_a_host_is_no_host(gate: Gate) -> None:
    for host in (gate.grid.disk1, gate.grid.head, gate.grid.frontend):
        assert await role_of(gate, host.proxy()) == "user"
        assert await role_of(gate, host.proxy(Policy.LIMITED)) == "user"


async def test_n3_p4_administrator_is_one_through_full_proxies_only(gate: Gate) -> None:
    admin = gate.grid.admin
    assert await role_of(gate, admin.proxy().proxy()) == "head"
    for limited in (
        admin.proxy(Policy.LIMITED),
        admin.proxy().proxy(Policy.LIMITED),
        admin.proxy(Policy.LIMITED).proxy(),
    ):
        assert await role_of(gate, limited) == "user"
        assert (await gate.ask("dome_addpool", {}, certificate=limited)).status == 403
        assert (await gate.ask(STAT, HERE, certificate=limited)).status == 200


async def test_x4_common_name_of_a_user_is_not_cut_off(gate: Gate) -> None:
    other = gate.grid.user(f"{ADMIN}/CN=Bob")
    reply = await gate.ask(STAT, HERE, certificate=other)
    assert (reply.audit["role"], reply.audit["user"]) == ("user", f"{ADMIN}/CN=Bob")


@pytest.mark.parametrize("name", ["remoteclientdn", "RemoteClientGroups", "REMOTECLIENTDN"])
@pytest.mark.parametrize("value", [ALICE, "dteam", "root", ""])
async def test_n4_user_may_not_name_anybody(gate: Gate, name: str, value: str) -> None:
    for command in (STAT, "dome_info", "dome_nothing"):
        reply = await gate.ask(command, HERE, certificate=gate.grid.alice, headers=[(name, value)])
        assert (reply.status, reply.rule) == (403, "N4")
        assert (await gate.ask(command, HERE, headers=[(name, value)])).status == 401


async def test_n4_host_that_a_user_names_is_ignored(gate: Gate) -> None:
    headers = [("remoteclienthost", "192.0.2.99")]
    reply = await gate.ask(STAT, HERE, certificate=gate.grid.alice, headers=headers)
    assert (reply.status, reply.audit["peer"]) == (200, "127.0.0.1")


@pytest.mark.parametrize("name", ["remoteclientdn", "remoteclientgroups", "remoteclienthost"])
@pytest.mark.parametrize("caller", ["frontend", "head", "alice"])
async def test_n4_header_given_twice_is_malformed(gate: Gate, name: str, caller: str) -> None:
    for first, second in (("dteam", "dteam"), ("", "dteam")):
        headers = [(name, first), (name.upper(), second)]
        reply = await gate.ask(STAT, HERE, certificate=who(gate, caller), headers=headers)
        assert (reply.status, reply.rule) == (400, "N4")


@pytest.mark.parametrize("value", ["/CN=J\udcfcrgen", "/CN=\x01x", "/CN=a\tb", "/CN=\x7f", "/CN=\x85"])
async def test_n4_value_that_is_no_plain_text_is_malformed(gate: Gate, value: str) -> None:
    headers = [("remoteclientdn", value)]
    reply = await gate.ask(STAT, HERE, certificate=gate.grid.frontend, headers=headers)
    assert reply.status == 400


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("remoteclientdn", "")],
        [("remoteclientdn", "root")],
        FOR_ROOT,
        [("remoteclientgroups", "root")],
        [("remoteclientgroups", "")],
    ],
)
async def test_n4_root_means_nobody(gate: Gate, headers: Headers) -> None:
    reply = await gate.ask(STAT, HERE, certificate=gate.grid.head, headers=headers)
    assert (reply.status, reply.audit["auth"], reply.audit["user"]) == (200, "node", "")
    assert (await gate.ask(STAT, HERE, certificate=gate.grid.frontend, headers=headers)).status == 403
    assert (await gate.ask("dome_getusersvec", certificate=gate.grid.frontend, headers=headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("remoteclientdn", ALICE), ("remoteclientgroups", "root")],
        [("remoteclientdn", ALICE), ("remoteclientgroups", "dteam,root")],
        [("remoteclientdn", ALICE), ("remoteclientgroups", "/root/Role=NULL")],
        [("remoteclientdn", "root"), ("remoteclientgroups", "dteam")],
        [("remoteclientdn", "Root")],
        [("remoteclientgroups", "dteam")],
        [("remoteclientgroups", "root,dteam")],
        [("remoteclientdn", ""), ("remoteclientgroups", "dteam")],
    ],
)
@pytest.mark.parametrize("caller", ["frontend", "head", "admin", "disk1"])
async def test_n4_g7_root_with_others_is_refused(gate: Gate, headers: Headers, caller: str) -> None:
    for command in (STAT, "dome_getspaceinfo"):
        reply = await gate.ask(command, HERE, certificate=who(gate, caller), headers=headers)
        assert (reply.status, reply.audit["decision"]) == (403, "deny")


@pytest.mark.parametrize(
    ("host", "status"),
    [("192.0.2.1", 200), ("2001:db8::1", 200), ("wn1.test", 200), ("a b", 400), ("x\x22", 400), ("<x>", 400)],
)
async def test_n4_asserted_host_is_an_address_or_a_name(gate: Gate, host: str, status: int) -> None:
    headers = [*FOR_ALICE, ("remoteclienthost", host)]
    assert (await gate.ask(STAT, HERE, certificate=gate.grid.frontend, headers=headers)).status == status


OWN, FOREIGN = (
    f"disk{number}.test:/storage/disk{number}/fs1/dteam/2017-01-01/xattr_ck.{number}.1" for number in (1, 2)
)


def report(server: int, name: str) -> tuple[str, dict[str, object]]:
    rfn = (OWN, FOREIGN)[server - 1]
    host, _, pfn = rfn.partition(":")
    lfn = f"{DTEAM}/xattr_ck"
    parameters: dict[str, dict[str, object]] = {
        "dome_putdone": {"server": host, "pfn": pfn, "size": 1},
        "dome_addreplica": {"rfn": f"{rfn}.new", "lfn": lfn},
        "dome_updatereplica": {"rfn": rfn},
        "dome_delreplica": {"server": host, "pfn": f"{pfn}.none"},
        "dome_chksumstatus": {"lfn": lfn, "pfn": rfn, "status": "aborted", "checksum-type": "md5"},
        "dome_pullstatus": {"lfn": lfn, "server": host, "pfn": pfn, "status": "pending"},
        "dome_accessreplica": {"rfn": rfn, "mode": 4},
        "dome_getreplicainfo": {"rfn": rfn},
        "dome_getstatinfo": {"rfn": rfn},
    }
    return name, parameters[name]


REPORTS = (
    "dome_putdone", "dome_addreplica", "dome_updatereplica", "dome_delreplica", "dome_chksumstatus",
    "dome_pullstatus",
)  # fmt: skip
LOOKS = ("dome_accessreplica", "dome_getreplicainfo", "dome_getstatinfo")


@pytest.mark.parametrize("command", REPORTS)
@pytest.mark.parametrize("user", ASSERTED)
async def test_n5_disk_server_reports_for_itself_only(gate: Gate, command: str, user: str) -> None:
    replies = [
        await gate.ask(*report(server, command), certificate=gate.grid.disk1, headers=ASSERTED[user])
        for server in (2, 1)
    ]
    assert (replies[0].status, replies[0].rule) == (403, "N5")
    assert replies[1].rule != "N5"


@pytest.mark.parametrize("command", LOOKS)
async def test_n5_n6_disk_server_on_its_own_account_looks_at_its_replicas_only(
    gate: Gate, command: str
) -> None:
    for user, other in (("", 403), ("root", 403), ("alice", 200)):
        headers = ASSERTED[user]
        own, foreign = [
            await gate.ask(*report(server, command), certificate=gate.grid.disk1, headers=headers)
            for server in (1, 2)
        ]
        assert (own.status, foreign.status) == (200, other)
    assert (await gate.ask(*report(2, command), certificate=gate.grid.disk2)).status == 200


async def test_n5_replica_is_known_by_its_number_too(gate: Gate) -> None:
    number = {"replicaid": 4}
    for command in ("dome_updatereplica", "dome_getreplicainfo"):
        assert (await gate.ask(command, number, certificate=gate.grid.disk1)).rule == "N5"
        assert (await gate.ask(command, number, certificate=gate.grid.disk2)).status == 200


@pytest.mark.parametrize("headers", [[], FOR_ROOT, [("remoteclientdn", "root")]])
async def test_n5_disk_server_changes_attributes_of_files_that_it_has(gate: Gate, headers: Headers) -> None:
    async def ask(name: str, credential: Credential) -> Reply:
        parameters = {"lfn": f"{DTEAM}/{name}", "xattr": "{}"}
        return await gate.ask("dome_updatexattr", parameters, certificate=credential, headers=headers)

    assert (await ask("legacy_ad", gate.grid.disk1)).status == 200
    assert (await ask("legacy_ad", gate.grid.disk2)).rule == "N5"
    assert (await ask("with_guid", gate.grid.disk1)).rule == "N5"
    assert (await ask("xattr_ck", gate.grid.disk2)).status == 200


async def test_n7_disk_servers_are_told_who_asks(gate: Gate) -> None:
    await gate.wait_for_disks()
    disk = gate.disks["disk1.test"]
    forged = [("remoteclienthost", "192.0.2.66")]
    asserted = [*FOR_ALICE, ("remoteclienthost", "192.0.2.5")]
    for name, certificate, headers, host in (
        ("legacy_ad", gate.grid.alice, forged, "127.0.0.1"),
        ("migrated", gate.grid.frontend, asserted, "192.0.2.5"),
    ):
        disk.calls.clear()
        question = {"lfn": f"{DTEAM}/{name}", "checksum-type": "md5", "force-recalc": "true"}
        reply = await gate.ask("dome_chksum", question, certificate=certificate, headers=headers)
        assert reply.status == 202
        await eventually(lambda: [call for call in disk.calls if call.command == "dome_dochksum"])
        (call,) = (call for call in disk.calls if call.command == "dome_dochksum")
        assert (call.user.dn, call.user.host) == (ALICE, host)


async def test_n8_asserted_names_are_canonical(gate: Gate) -> None:
    for name in (",".join(reversed(ALICE.strip("/").split("/"))), ALICE.replace("DC=test", "DC=test", 1)):
        headers = [("remoteclientdn", name), ("remoteclientgroups", "/dteam/Role=NULL,dteam")]
        audit = (await gate.ask(STAT, HERE, certificate=gate.grid.frontend, headers=headers)).audit
        assert (audit["user"], audit["groups"]) == (ALICE, "dteam")
    odd = [("remoteclientdn", "/CN=Jürgen/Email=j@x.test")]
    audit = (await gate.ask(STAT, HERE, certificate=gate.grid.frontend, headers=odd)).audit
    assert audit["user"] == r"/CN=J\\xC3\\xBCrgen/emailAddress=j@x.test"


@pytest.mark.parametrize("caller", ["frontend", "head", "admin"])
async def test_n8_asserted_user_may_be_banned(gate: Gate, caller: str) -> None:
    for headers in (
        [("remoteclientdn", BANNED)],
        [("remoteclientdn", ALICE), ("remoteclientgroups", "bannedvo,dteam")],
    ):
        reply = await gate.ask(STAT, HERE, certificate=who(gate, caller), headers=headers)
        assert (reply.status, reply.audit["decision"]) == (403, "deny")
    second = [("remoteclientdn", ALICE), ("remoteclientgroups", "dteam,bannedvo")]
    assert (await gate.ask(STAT, HERE, certificate=who(gate, caller), headers=second)).status == 200


async def test_n8_groups_of_vos_that_the_site_does_not_serve_are_not_made(gate: Gate) -> None:
    groups = "dteam/new,strangers,strangers/Role=x,atlas/new"
    headers = [("remoteclientdn", ALICE), ("remoteclientgroups", groups)]
    path = {"path": f"{DTEAM}/made-by-alice"}
    reply = await gate.ask("dome_makedir", path, certificate=gate.grid.frontend, headers=headers)
    assert reply.status in (200, 403)
    headers = [("remoteclientdn", ALICE), ("remoteclientgroups", f"dteam,{groups}")]
    assert (
        await gate.ask("dome_makedir", path, certificate=gate.grid.frontend, headers=headers)
    ).status == 200
    names = {str(name) for (name,) in await gate.rows("SELECT groupname FROM Cns_groupinfo")}
    assert {"dteam/new", "atlas/new"} <= names
    assert not {"strangers", "strangers/Role=x"} & names


async def test_u1_name_that_could_be_read_in_two_ways_is_refused(gate: Gate) -> None:
    parts = [(NameOID.DOMAIN_COMPONENT, "test"), (NameOID.DOMAIN_COMPONENT, "dmlite")]
    parts.append((NameOID.ORGANIZATIONAL_UNIT_NAME, "users/CN=Dome Admin"))
    ambiguous = gate.grid.ca.issue(x509.Name([x509.NameAttribute(*part) for part in parts]), purposes=None)
    reply = await gate.ask(STAT, HERE, certificate=ambiguous)
    assert (reply.status, reply.rule) == (403, "U1")


async def test_peer_resolves_dots_before_any_check(gate: Gate) -> None:
    path = {"lfn": f"{DTEAM}/../atlas/./../dteam//sub/"}
    for certificate, headers in ((gate.grid.head, []), (gate.grid.frontend, FOR_ALICE)):
        reply = await gate.ask(STAT, path, certificate=certificate, headers=headers)
        assert (reply.status, reply.json["name"]) == (200, "sub")
