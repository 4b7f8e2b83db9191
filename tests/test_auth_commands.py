"""What tokens may do with each command: the table of the specification, asked at the finished listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from typing import NamedTuple

import pytest

from sandbox.servers import MariaServer
from tests.fixtures.gate import ATLAS, DTEAM, HOME, METHODS, Gate, Reply, open_gate

CAPABILITIES = ("read", "create", "modify", "stage", "poll")
SEEING = {"read", "create", "modify", "stage"}
WRITING = {"create", "modify"}
NEVER: frozenset[str] = frozenset()
M = f"{DTEAM}/m"
"""Where the tests have their entries; in a token it is /m."""

IN_SUB = "disk1.test:/storage/disk1/fs1/dteam/2017-01-01/in_sub.1.1"
LEGACY = "disk1.test:/storage/disk1/fs1/dteam/2017-01-01/legacy_ad.1.1"
READ, WRITE, EXECUTE = 4, 2, 1


class Row(NamedTuple):
    """name: what the row is about. path: from the base on, in the parameter `key` unless an id names it."""

    name: str
    command: str
    path: str
    granted: Collection[str]
    key: str = "lfn"
    more: Mapping[str, object] = {}

    @property
    def parameters(self) -> dict[str, object]:
        named = {self.key: DTEAM + self.path} if self.key else {}
        return {**named, **self.more}


ROWS = (
    Row("access R", "dome_access", "/sub", {"read"}, "path", {"mode": READ}),
    Row("access W on a directory", "dome_access", "/sub", WRITING, "path", {"mode": WRITE}),
    Row("access W on a file", "dome_access", "/legacy_ad", {"modify"}, "path", {"mode": WRITE}),
    Row("access RW on a directory", "dome_access", "/sub", NEVER, "path", {"mode": READ | WRITE}),
    Row("access X", "dome_access", "/sub", SEEING, "path", {"mode": EXECUTE}),
    Row("access none", "dome_access", "/missing", SEEING, "path"),
    Row("accessreplica R", "dome_accessreplica", "/legacy_ad", {"read"}, "", {"rfn": LEGACY, "mode": READ}),
    Row(
        "accessreplica W", "dome_accessreplica", "/sub/in_sub", {"modify"}, "", {"rfn": IN_SUB, "mode": WRITE}
    ),
    Row("accessreplica X", "dome_accessreplica", "/legacy_ad", SEEING, "", {"rfn": LEGACY, "mode": EXECUTE}),
    Row("stat", "dome_getstatinfo", "/legacy_ad", SEEING),
    Row("stat missing", "dome_getstatinfo", "/missing", SEEING),
    Row("stat rfn", "dome_getstatinfo", "/legacy_ad", SEEING, "", {"rfn": LEGACY}),
    Row(
        "stat pfn",
        "dome_getstatinfo",
        "/legacy_ad",
        SEEING,
        "",
        {"server": "disk1.test", "pfn": LEGACY.partition(":")[2]},
    ),
    Row("get", "dome_get", "/legacy_ad", {"read"}),
    Row("get missing", "dome_get", "/missing", {"read"}),
    Row("getdir", "dome_getdir", "/sub", {"read"}, "path"),
    Row("getdir missing", "dome_getdir", "/missing", {"read"}, "path"),
    Row("put over", "dome_put", "/legacy_ad", {"modify"}),
    Row("put below nothing", "dome_put", "/missing/new", WRITING),
    Row("create over", "dome_create", "/legacy_md", NEVER, "path"),
    Row("create over an empty file", "dome_create", "/m/empty", {"modify"}, "path"),
    Row("create below nothing", "dome_create", "/missing/new", WRITING, "path"),
    Row("makedir", "dome_makedir", "/sub", WRITING, "path"),
    Row("makedir below nothing", "dome_makedir", "/missing/new", WRITING, "path"),
    Row("unlink", "dome_unlink", "/missing", {"modify"}),
    Row("removedir", "dome_removedir", "/sub", {"modify"}, "path"),
    Row("removedir missing", "dome_removedir", "/missing", {"modify"}, "path"),
    Row("setsize", "dome_setsize", "/m/empty", {"modify"}, "path", {"size": 0}),
    Row("getcomment", "dome_getcomment", "/legacy_ad", SEEING),
    Row("getcomment by number", "dome_getcomment", "/legacy_ad", SEEING, "", {"fileid": 20}),
    Row("setcomment", "dome_setcomment", "/m/empty", {"modify"}, "lfn", {"comment": "x"}),
    Row("setcomment by number", "dome_setcomment", "/legacy_ad", {"modify"}, "", {"fileid": 20}),
    Row("readlink", "dome_readlink", "/lnk_rel", SEEING),
    Row("chksum known", "dome_chksum", "/legacy_ad", SEEING, "lfn", {"checksum-type": "adler32"}),
    Row("chksum unknown", "dome_chksum", "/migrated", {"read", "modify"}, "lfn", {"checksum-type": "crc32"}),
    Row(
        "chksum anew",
        "dome_chksum",
        "/legacy_ad",
        {"read", "modify"},
        "lfn",
        {"checksum-type": "adler32", "force-recalc": "true"},
    ),
    Row("getdirspaces", "dome_getdirspaces", "/sub", SEEING, "path"),
    Row("getquotatoken", "dome_getquotatoken", "/sub", SEEING, "path"),
    Row("getreplicavec", "dome_getreplicavec", "/legacy_ad", {"read"}),
    Row("getreplicavec by number", "dome_getreplicavec", "/legacy_ad", {"read"}, "", {"fileid": 20}),
    Row("getreplicainfo", "dome_getreplicainfo", "/legacy_ad", {"read"}, "", {"rfn": LEGACY}),
    Row("getreplicainfo by number", "dome_getreplicainfo", "/legacy_ad", {"read"}, "", {"replicaid": 1}),
    Row("setmode", "dome_setmode", "/sub", NEVER, "path", {"mode": 0o755}),
    Row("setacl", "dome_setacl", "/sub", NEVER, "path", {"acl": "A7101,C7101,F50"}),
    Row("setowner", "dome_setowner", "/sub", NEVER, "path", {"uid": 101, "gid": 101}),
    Row("updatexattr", "dome_updatexattr", "/sub", NEVER, "lfn", {"xattr": "{}"}),
    Row("symlink", "dome_symlink", "/m/link", NEVER, "link", {"target": "x"}),
)

CLOSED = (
    "dome_putdone", "dome_addreplica", "dome_delreplica", "dome_updatereplica", "dome_chksumstatus",
    "dome_pullstatus", "dome_statpfn", "dome_pfnrm", "dome_dochksum", "dome_pull", "dome_makespace",
    "dome_getspaceinfo", "dome_statpool", "dome_addpool", "dome_modifypool", "dome_rmpool",
    "dome_addfstopool", "dome_modifyfs", "dome_rmfs", "dome_setquotatoken", "dome_modquotatoken",
    "dome_delquotatoken", "dome_getidmap", "dome_getuser", "dome_getusersvec", "dome_getgroup",
    "dome_getgroupsvec", "dome_newuser", "dome_updateuser", "dome_deleteuser", "dome_newgroup",
    "dome_updategroup", "dome_deletegroup",
)  # fmt: skip
"""Marked node, admin, front-end or head → disk."""


@pytest.fixture(scope="module")
async def gate(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gate]:
    async with open_gate(maria, tmp_path_factory.mktemp("gate")) as gate:
        await gate.wait_for_disks()
        await gate.do("dome_makedir", path=M)
        await gate.do("dome_create", path=f"{M}/empty")
        await gate.do("dome_makedir", path=f"{M}/open")
        await gate.do("dome_setmode", path=f"{M}/open", mode=0o777)
        before = await gate.faults()
        yield gate
        assert await gate.faults() == before


def scope(capability: str, path: str) -> str:
    return f"storage.{capability}:{path}"


def is_refused(reply: Reply) -> bool:
    if reply.status != 403:
        # 500 is what DOME says of a directory that is not there, too
        assert reply.status != 401, reply
        return False
    assert (reply.error, reply.audit["decision"]) == ("insufficient_scope", "deny"), reply
    return True


def test_every_command_is_in_the_table() -> None:
    rows = {row.command for row in ROWS}
    assert {*rows, *CLOSED, "dome_rename", "dome_info"} >= set(METHODS)
    assert set(METHODS) >= {*rows, "dome_rename", "dome_info"}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_m1_capability_and_command(gate: Gate, row: Row, capability: str) -> None:
    async def refuses(*scopes: str) -> bool:
        token = gate.dteam.token(" ".join(scopes))
        return is_refused(await gate.ask(row.command, row.parameters, token=token))

    expected = capability not in row.granted
    assert await refuses(scope(capability, "/")) is expected
    assert await refuses(scope(capability, row.path)) is expected
    others = [scope(capability, each) for each in ("/elsewhere", f"{row.path}x", row.path[:-1])]
    if row.command not in ("dome_makedir", "dome_getstatinfo"):
        # to which the directories on the way are open
        others.append(scope(capability, f"{row.path}/below"))
    assert await refuses(*others)


@pytest.mark.parametrize("row", [row for row in ROWS if row.granted], ids=lambda row: row.name)
async def test_s2_different_capabilities_do_not_combine(gate: Gate, row: Row) -> None:
    others = [each for each in CAPABILITIES if each not in row.granted]
    scopes = [scope(each, row.path) for each in others] + [scope(each, "/other") for each in row.granted]
    reply = await gate.ask(row.command, row.parameters, token=gate.dteam.token(" ".join(scopes)))
    assert is_refused(reply)


@pytest.mark.parametrize("command", CLOSED)
@pytest.mark.parametrize("groups", [None, ["/dteam"]])
async def test_m2_no_token_reaches_administration(gate: Gate, command: str, groups: list[str] | None) -> None:
    if command not in METHODS:
        pytest.skip("the head does not know it at all")
    everything = " ".join(scope(capability, "/") for capability in CAPABILITIES)
    token = gate.dteam.token(groups=groups) if groups else gate.dteam.token(everything)
    for parameters in ({}, {"path": DTEAM, "poolname": "pool01", "server": "disk1.test", "username": "x"}):
        assert (await gate.ask(command, parameters, token=token)).status == 403


@pytest.mark.parametrize("base", [DTEAM, f"{DTEAM}/", f"/{DTEAM}//"])
@pytest.mark.parametrize("groups", [None, ["/dteam"]])
async def test_m2_base_path_is_not_removed_renamed_or_replaced(
    gate: Gate, base: str, groups: list[str] | None
) -> None:
    token = (
        gate.dteam.token(groups=groups) if groups else gate.dteam.token("storage.modify:/ storage.create:/")
    )
    for command, parameters in (
        ("dome_removedir", {"path": base}),
        ("dome_unlink", {"lfn": base}),
        ("dome_rename", {"oldpath": base, "newpath": f"{M}/moved"}),
        ("dome_rename", {"oldpath": f"{M}/empty", "newpath": base}),
        ("dome_put", {"lfn": base}),
        ("dome_create", {"path": base}),
    ):
        reply = await gate.ask(command, parameters, token=token)
        assert (reply.status, reply.rule) == (403, "M2")


@pytest.mark.parametrize("name", ["pool", "host", "fs", "pfn", "additionalreplica"])
@pytest.mark.parametrize("command", ["dome_put", "dome_get", "dome_create", "dome_chksum", "dome_unlink"])
@pytest.mark.parametrize("who", ["token", "group", "user"])
async def test_m3_places_are_not_for_users_to_name(gate: Gate, command: str, name: str, who: str) -> None:
    credentials = {
        "token": {"token": gate.dteam.token("storage.modify:/ storage.read:/")},
        "group": {"token": gate.dteam.token(groups=["/dteam"])},
        "user": {"certificate": gate.grid.alice},
    }
    path = f"{M}/placed"
    parameters = {"lfn": path, "path": path, "checksum-type": "md5", name: "pool01"}
    reply = await gate.ask(command, parameters, **credentials[who])  # type: ignore[arg-type]
    assert (reply.status, reply.rule) == (403, "M3")


BY_ID = (
    ("dome_getcomment", "fileid"),
    ("dome_setcomment", "fileid"),
    ("dome_getreplicavec", "fileid"),
    ("dome_getreplicainfo", "replicaid"),
    ("dome_getreplicainfo", "rfn"),
    ("dome_accessreplica", "rfn"),
    ("dome_getstatinfo", "rfn"),
)


@pytest.mark.parametrize(("command", "name"), BY_ID)
async def test_m4_object_named_by_id_is_authorised_by_its_path(gate: Gate, command: str, name: str) -> None:
    ids: dict[str, tuple[object, object]] = {
        "fileid": (20, 10**9),
        "replicaid": (1, 10**9),
        "rfn": (LEGACY, "disk1.test:/storage/disk1/fs1/nothing"),
    }
    there, nowhere = ids[name]
    everything = " ".join(scope(capability, "/") for capability in SEEING)
    for issuer, groups in (
        (gate.dteam, None),
        (gate.issuers["atlas"], None),
        (gate.issuers["atlas"], ["/atlas"]),
    ):
        token = issuer.token(groups=groups) if groups else issuer.token(everything)
        found = await gate.ask(command, {name: there}, token=token)
        assert (found.status == 403) is (issuer is not gate.dteam), found
        assert (await gate.ask(command, {name: nowhere}, token=token)).status == 403
        assert (await gate.ask(command, {name: -1}, token=token)).status == 403


@pytest.mark.parametrize("number", [7, 8, 5, 2, 101])
async def test_m4_number_of_another_vos_entry_is_refused(gate: Gate, number: int) -> None:
    everything = gate.dteam.token(" ".join(scope(capability, "/") for capability in SEEING))
    members = gate.dteam.token(groups=["/dteam"])
    for command in ("dome_getcomment", "dome_getreplicavec", "dome_setcomment"):
        assert (await gate.ask(command, {"fileid": number}, token=everything)).status == 403
    for command in ("dome_setmode", "dome_updatexattr", "dome_getcomment"):
        assert (await gate.ask(command, {"fileid": number, "xattr": "{}"}, token=members)).status == 403


@pytest.mark.parametrize("command", ["dome_put", "dome_create"])
@pytest.mark.parametrize("round_", range(3))
async def test_m5_of_concurrent_creations_one_wins(gate: Gate, command: str, round_: int) -> None:
    path = f"{M}/race-{command}-{round_}"
    token = gate.dteam.token("storage.create:/m")
    connections = [gate.connection() for _ in range(6)]
    replies = await asyncio.gather(
        *(
            gate.ask(command, {"lfn": path, "path": path}, token=token, connection=each)
            for each in connections
        )
    )
    for connection in connections:
        await connection.close()
    statuses = sorted(reply.status for reply in replies)
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {403, 409}


async def test_m5_of_concurrent_renames_one_wins(gate: Gate) -> None:
    token = gate.dteam.token("storage.create:/m")
    names = [f"{M}/source-{number}" for number in range(5)]
    for name in names:
        await gate.do("dome_create", path=name)
    connections = [gate.connection() for _ in names]
    replies = await asyncio.gather(
        *(
            gate.ask("dome_rename", {"oldpath": name, "newpath": f"{M}/target"}, token=token, connection=each)
            for name, each in zip(names, connections, strict=True)
        )
    )
    for connection in connections:
        await connection.close()
    assert sorted(reply.status for reply in replies) == [200, 403, 403, 403, 403]


RENAMES = (
    ("file", "absent", WRITING),
    ("file", "present", {"modify"}),
    ("directory", "absent", {"modify"}),
    ("directory", "present", {"modify"}),
)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(("source", "target", "granted"), RENAMES)
async def test_m1_rename(
    gate: Gate, source: str, target: str, granted: Collection[str], capability: str
) -> None:
    place = f"/m/rename-{source}-{target}-{capability}"
    make = "dome_create" if source == "file" else "dome_makedir"
    for path in (place, f"{place}/a", f"{place}/b"):
        await gate.do("dome_makedir", path=DTEAM + path)
    await gate.do(make, path=f"{DTEAM}{place}/a/x")
    if target == "present":
        await gate.do(make, path=f"{DTEAM}{place}/b/x")
    paths = {"oldpath": f"{DTEAM}{place}/a/x", "newpath": f"{DTEAM}{place}/b/x"}
    other = "create" if capability == "modify" else "modify"
    for scopes in (
        scope(capability, f"{place}/a"),
        scope(capability, f"{place}/b"),
        f"{scope(capability, f'{place}/a/xy')} {scope(capability, f'{place}/b/x')}",
    ):
        assert is_refused(await gate.ask("dome_rename", paths, token=gate.dteam.token(scopes)))
    if target == "present" or source == "directory":
        mixed = f"{scope(capability, f'{place}/a')} {scope(other, f'{place}/b')}"
        assert is_refused(await gate.ask("dome_rename", paths, token=gate.dteam.token(mixed)))
    reply = await gate.ask("dome_rename", paths, token=gate.dteam.token(scope(capability, place)))
    assert is_refused(reply) is (capability not in granted)


async def test_m1_read_and_stage_to_start_a_pull(gate: Gate) -> None:
    """The one file that the site's own program knows of is in no area; what is pending tells as much."""
    pending = {"lfn": f"{DTEAM}/sub/in_sub"}
    reading = gate.dteam.token("storage.read:/")
    assert is_refused(await gate.ask("dome_get", pending, token=reading))
    both = await gate.ask("dome_get", pending, token=gate.dteam.token("storage.read:/ storage.stage:/"))
    assert both.status == 500
    assert "pending" in both.body


M6 = ("dome_getspaceinfo", "dome_statpool", "dome_getquotatoken")


@pytest.mark.parametrize("sub", ["host:monitor.test", "host:other.test", "monitor.test"])
@pytest.mark.parametrize("wanted", ["host.auth", "openid host.auth", "host.author", "openid", "Host.auth"])
async def test_m6_host_auth_is_for_listed_subjects(gate: Gate, sub: str, wanted: str) -> None:
    token = gate.dteam.token(wanted, sub=sub)
    parameters = {"poolname": "pool01", "path": DTEAM}
    may = sub == "host:monitor.test" and "host.auth" in wanted.split()
    for command in M6:
        assert ((await gate.ask(command, parameters, token=token)).status == 200) is may
    for command in ("dome_getstatinfo", "dome_getdirspaces", "dome_modifypool", "dome_getidmap"):
        assert (await gate.ask(command, {**parameters, "lfn": DTEAM}, token=token)).status == 403


async def test_m6_host_auth_is_no_capability(gate: Gate) -> None:
    token = gate.dteam.token("host.auth", groups=["/dteam"], sub="host:monitor.test")
    reply = await gate.ask("dome_getdir", {"path": DTEAM}, token=token)
    assert (reply.status, reply.audit["auth"]) == (200, "token-group")


@pytest.mark.parametrize("capability", CAPABILITIES)
async def test_s5_leading_directories(gate: Gate, capability: str) -> None:
    top = f"s5-{capability}"
    token = gate.dteam.token(scope(capability, f"/{top}/b/c"))

    async def ask(command: str, path: str) -> int:
        return (await gate.ask(command, {"path": DTEAM + path, "lfn": DTEAM + path}, token=token)).status

    may = capability in WRITING
    assert await ask("dome_getstatinfo", f"/{top}") == (404 if may else 403)
    assert await ask("dome_makedir", f"/{top}/b") == (404 if may else 403)
    assert await ask("dome_put", f"/{top}") == 403
    assert await ask("dome_create", f"/{top}") == 403
    assert await ask("dome_makedir", f"/{top}x") == 403
    assert await ask("dome_makedir", f"/{top}") == (200 if may else 403)
    assert await ask("dome_makedir", f"/{top}") == (409 if may else 403)
    assert await ask("dome_makedir", f"/{top}/bx") == 403
    assert await ask("dome_makedir", f"/{top}/b") == (200 if may else 403)
    assert await ask("dome_makedir", f"/{top}/b/c") == (200 if may else 403)
    assert await ask("dome_makedir", f"/{top}/b/c/d") == (200 if may else 403)
    for command in ("dome_getdir", "dome_removedir", "dome_getcomment", "dome_access", "dome_getdirspaces"):
        assert await ask(command, f"/{top}/b") == 403
    assert await ask("dome_getstatinfo", f"/{top}/x") == 403


async def test_s5_of_a_leading_directory_type_and_existence_are_told(gate: Gate) -> None:
    token = gate.dteam.token("storage.create:/sub/x/y")
    seen = await gate.ask("dome_getstatinfo", {"lfn": f"{DTEAM}/sub"}, token=token)
    whole = await gate.ask("dome_getstatinfo", {"lfn": f"{DTEAM}/sub"}, certificate=gate.grid.head)
    assert seen.status == 200
    assert int(seen.json["mode"]) & 0o170000 == 0o040000
    for name in ("size", "mtime", "uid", "gid", "acl", "fileid"):
        assert seen.json[name] in ("0", "", "-1") or seen.json[name] != whole.json[name], name


S4: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("dome_getstatinfo", "lfn", {}),
    ("dome_get", "lfn", {}),
    ("dome_unlink", "lfn", {}),
    ("dome_chksum", "lfn", {"checksum-type": "adler32"}),
    ("dome_setsize", "path", {"size": 0}),
    ("dome_access", "path", {"mode": READ}),
    ("dome_getreplicavec", "lfn", {}),
    ("dome_getreplicavec", "", {"fileid": 20}),
    ("dome_getreplicainfo", "", {"rfn": LEGACY}),
    ("dome_getreplicainfo", "", {"replicaid": 1}),
    ("dome_accessreplica", "", {"rfn": LEGACY, "mode": READ}),
    ("dome_getstatinfo", "", {"rfn": LEGACY}),
    ("dome_getcomment", "lfn", {}),
    ("dome_getcomment", "", {"fileid": 20}),
    ("dome_setcomment", "lfn", {}),
    ("dome_setcomment", "", {"fileid": 20}),
    ("dome_put", "lfn", {}),
    ("dome_create", "path", {}),
)


@pytest.mark.parametrize(("command", "key", "more"), S4)
async def test_s4_scope_with_a_slash_does_not_match_a_file(
    gate: Gate, command: str, key: str, more: Mapping[str, object]
) -> None:
    path = {key: f"{DTEAM}/legacy_ad"} if key else {}
    token = gate.dteam.token("storage.read:/legacy_ad/ storage.modify:/legacy_ad/")
    assert is_refused(await gate.ask(command, {**path, **more}, token=token))


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("dome_getstatinfo", "lfn"),
        ("dome_getdir", "path"),
        ("dome_access", "path"),
        ("dome_getcomment", "lfn"),
    ],
)
async def test_s4_scope_with_a_slash_matches_a_directory(gate: Gate, command: str, key: str) -> None:
    token = gate.dteam.token("storage.read:/sub/")
    parameters = {key: f"{DTEAM}/sub", "mode": READ}
    assert (await gate.ask(command, parameters, token=token)).status == 200
    parameters[key] = f"{DTEAM}/sub/in_sub"
    assert (await gate.ask(command, parameters, token=token)).status in (200, 500)


async def test_s4_new_file_is_not_made_where_a_directory_is_meant(gate: Gate) -> None:
    token = gate.dteam.token("storage.create:/m/s4/ storage.modify:/m/empty")
    path = {"lfn": f"{M}/s4", "path": f"{M}/s4"}
    for command in ("dome_put", "dome_create"):
        assert is_refused(await gate.ask(command, path, token=token))
    moved = {"oldpath": f"{M}/empty", "newpath": f"{M}/s4"}
    assert is_refused(await gate.ask("dome_rename", moved, token=token))
    assert (await gate.ask("dome_makedir", path, token=token)).status == 200
    assert (await gate.ask("dome_create", {"path": f"{M}/s4/new"}, token=token)).status == 200


ESCAPES = (
    ("storage.read:/m/%65mpty", 200),
    ("storage.read:/m/%2565mpty", 403),
    ("storage.read:/M/empty", 403),
    ("storage.read:/m/empty%00", 401),
    ("storage.read:/m%2Fempty", 401),
    ("storage.read:/m/../m/empty", 401),
    ("storage.read:/ storage.read:", 401),
    ("storage.read:/ storage.read", 401),
    ("storage.read:/ storage.modify:x", 401),
    ("storage.read://m", 401),
    ("Storage.Read:/", 403),
    ("storage.foo:/", 403),
    ("storage.read:/a  storage.read:/m", 200),
    ("storage.read:/\tx", 401),
)


@pytest.mark.parametrize(("scopes", "status"), ESCAPES)
async def test_s1_s2_s3_scopes_as_they_are_written(gate: Gate, scopes: str, status: int) -> None:
    reply = await gate.ask("dome_getstatinfo", {"lfn": f"{M}/empty"}, token=gate.dteam.token(scopes))
    assert reply.status == status


@pytest.mark.parametrize("groups", [None, [], ["/atlas"], ["/dteamx"], ["/root"]])
async def test_s6_token_without_capability_and_usable_group_may_nothing(
    gate: Gate, groups: list[str] | None
) -> None:
    token = gate.dteam.token("openid", groups=groups)
    for command in ("dome_getstatinfo", "dome_getdir", "dome_put", "dome_makedir", "dome_setmode"):
        reply = await gate.ask(command, {"lfn": f"{M}/open", "path": f"{M}/open"}, token=token)
        assert (reply.status, reply.rule, reply.audit["auth"]) == (403, "S6", "token-none")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/{DTEAM}//m/empty/", 200),
        (f"{DTEAM}/m/../m/empty", 400),
        (f"{DTEAM}/./m", 400),
        (f"{DTEAM}/m/empty\n", 400),
        (f"{DTEAM}/m/" + "x" * 256, 400),
        (DTEAM + "/x" * 2100, 400),
        (f"{DTEAM}/%2e%2e", 404),
        (f"{DTEAM}/m%2fempty", 404),
        ("dteam/m", 400),
    ],
)
async def test_s7_paths_of_users_and_tokens(gate: Gate, path: str, status: int) -> None:
    token = gate.dteam.token("storage.read:/")
    assert (await gate.ask("dome_getstatinfo", {"lfn": path}, token=token)).status == status
    assert (await gate.ask("dome_getstatinfo", {"lfn": path}, certificate=gate.grid.alice)).status == status


async def test_s7_what_is_checked_is_what_is_used(gate: Gate) -> None:
    """Escapes of bytes could spell one name in two ways."""
    token = gate.dteam.token("storage.modify:/m/caf%C3%A9")
    body = f'{{"path": "{M}/caf\\u00C3\\u00A9"}}'.encode()
    made = await gate.ask("dome_makedir", body=body, token=token)
    assert made.status == 200
    names = await gate.ask("dome_getdir", {"path": M}, certificate=gate.grid.head)
    assert "café" in [entry["name"] for entry in names.json["entries"]]


async def test_s8_links_are_not_followed(gate: Gate) -> None:
    token = gate.dteam.token("storage.read:/lnk_dir storage.read:/lnk_abs")
    linked = await gate.ask("dome_getstatinfo", {"lfn": f"{DTEAM}/lnk_abs"}, token=token)
    assert int(linked.json["mode"]) & 0o170000 == 0o120000
    assert (await gate.ask("dome_getstatinfo", {"lfn": f"{DTEAM}/lnk_dir/in_sub"}, token=token)).status == 404


@pytest.mark.parametrize("target", [ATLAS, f"{HOME}/missing", "../../atlas", "/", f"{ATLAS}/missing"])
async def test_s8_link_out_of_the_area_is_refused(gate: Gate, target: str) -> None:
    name = f"{M}/out-{abs(hash(target))}"
    await gate.do("dome_symlink", link=name, target=target)
    parameters = {"path": name, "follow": "true", "uid": 4294967295, "gid": 4294967295}
    reply = await gate.ask("dome_setowner", parameters, token=gate.dteam.token(groups=["/dteam"]))
    assert (reply.status, reply.rule) == (403, "S8")


async def test_a_request_that_names_nothing_is_malformed(gate: Gate) -> None:
    token = gate.dteam.token(" ".join(scope(capability, "/") for capability in CAPABILITIES))
    for row in ROWS:
        if row.granted and row.key:
            reply = await gate.ask(row.command, row.more, token=token)
            assert (reply.status, row.command) == (422, row.command)


async def test_getquotatoken_and_getdirspaces_are_cut_to_the_area(gate: Gate) -> None:
    token = gate.dteam.token("storage.read:/")
    everything = {"path": DTEAM, "getsubdirs": "true", "getparentdirs": "true"}
    reply = await gate.ask("dome_getquotatoken", everything, token=token)
    assert {each["path"] for each in reply.json.values()} == {DTEAM}
    assert (
        await gate.ask("dome_getquotatoken", {"path": HOME, "getsubdirs": "true"}, token=token)
    ).status == 403
    atlas = gate.issuers["atlas"].token("storage.read:/")
    assert (await gate.ask("dome_getdirspaces", {"path": ATLAS}, token=atlas)).json[
        "quotatoken"
    ] == "ATLASDATADISK"
