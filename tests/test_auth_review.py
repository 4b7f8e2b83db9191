"""What a hostile reading of the finished listeners found, each as the request that showed it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dome_bridge.auth import authenticate
from dome_bridge.config import Config
from dome_bridge.dome_api.doorkeeper import Doorkeeper
from dome_bridge.dome_api.late_settings import late_keys
from dome_bridge.dome_api.pulls import Pulls
from dome_bridge.dpm.source import ConnectionLostError
from sandbox.pki import Credential
from sandbox.servers import MariaServer
from tests.fixtures.dome import MAPFILE
from tests.fixtures.gate import (
    ADMIN,
    ALICE,
    BOB,
    DTEAM,
    HOME,
    PREFIX,
    USERS,
    Gate,
    open_gate,
    signed_query,
)

STAT = "dome_getstatinfo"
MULTI = "/DC=test/O=Admins/CN=Multi+UID=multi"
CARL = f"{USERS}/CN=Carl Nobody"
RITA = f"{USERS}/CN=Rita Root"
SECRET_FILE = f"{DTEAM}/bob_private/secret"
FOR_ALICE = [("remoteclientdn", ALICE), ("remoteclientgroups", "dteam")]
MEMBER = ["/dteam"]
PULLED = f"{HOME}/vol/wanted"


@pytest.fixture(scope="module")
async def gate(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gate]:
    async with open_gate(
        maria,
        tmp_path_factory.mktemp("gate"),
        authorize_dn=[ADMIN, MULTI],
        host_auth=["host:monitor.test", "atlas:host:lone.test"],
    ) as gate:
        (gate.directory / "mapfile").write_text(f'{MAPFILE}"{RITA}" root\n"{RITA}" Root\n')
        await gate.wait_for_disks()
        yield gate


def pulls_of(gate: Gate) -> Pulls:
    """What its head knows to be fetched."""
    assert gate.service is not None
    assert gate.service._listeners is not None
    application = gate.service._listeners._respond.__self__  # type: ignore[attr-defined]
    pulls: Pulls = application._head.pulls
    return pulls


@pytest.fixture(scope="module")
def carl(gate: Gate) -> Credential:
    """In no group at all."""
    return gate.grid.user(CARL)


async def test_h6_body_of_nobody_is_not_looked_at(gate: Gate) -> None:
    deep = b'{"path":' * 40 + b"1" + b"}" * 40
    assert (await gate.ask("dome_rename", body=deep)).status == 401
    body = json.dumps({"oldpath": "/" + "authorization " * 35000, "newpath": "/" + "basic " * 80000})
    began = time.perf_counter()
    reply = await gate.ask("dome_rename", body=body.encode())
    assert (reply.status, reply.rule, reply.audit["path"]) == (401, "H5", "")
    assert time.perf_counter() - began < 0.3


async def test_h6_body_of_a_user_does_not_keep_others_waiting(gate: Gate) -> None:
    body = json.dumps({"oldpath": "/" + "authorization " * 35000, "newpath": "/" + "basic " * 80000})
    began = time.perf_counter()
    assert (await gate.ask("dome_rename", body=body.encode(), certificate=gate.grid.alice)).status == 400
    assert time.perf_counter() - began < 0.3


@pytest.mark.parametrize("group", ["root", "Root"])
async def test_g7_grid_mapfile_gives_nobody_the_group_root(gate: Gate, group: str) -> None:
    reply = await gate.ask("dome_makedir", {"path": f"{DTEAM}/sticky/rita"}, certificate=gate.grid.user(RITA))
    assert (reply.status, reply.audit["groups"]) == (403, "")
    assert not await gate.rows("SELECT 1 FROM Cns_file_metadata WHERE name = 'rita'")
    assert not await gate.rows(f"SELECT 1 FROM Cns_userinfo WHERE username = '{RITA}'")
    assert len(await gate.rows("SELECT 1 FROM Cns_groupinfo WHERE groupname LIKE 'root'")) == 1


@pytest.mark.parametrize(
    ("command", "key"), [("dome_makedir", "path"), ("dome_create", "path"), ("dome_put", "lfn")]
)
async def test_14_3_who_is_in_no_group_makes_nothing(
    gate: Gate, carl: Credential, command: str, key: str
) -> None:
    reply = await gate.ask(command, {key: f"{DTEAM}/sticky/carl"}, certificate=carl)
    assert reply.status == 403
    asserted = [("remoteclientdn", CARL)]
    reply = await gate.ask(
        command, {key: f"{DTEAM}/sticky/carl"}, certificate=gate.grid.frontend, headers=asserted
    )
    assert reply.status == 403
    assert not await gate.rows("SELECT 1 FROM Cns_file_metadata WHERE name = 'carl'")
    assert not await gate.rows(f"SELECT 1 FROM Cns_userinfo WHERE username = '{CARL}'")


async def test_14_3_directory_with_sgid_gives_its_group_to_who_has_none(gate: Gate, carl: Credential) -> None:
    await gate.do("dome_makedir", path=f"{HOME}/atlas/open")
    await gate.do("dome_setmode", path=f"{HOME}/atlas/open", mode=0o2777)
    reply = await gate.ask("dome_makedir", {"path": f"{HOME}/atlas/open/carl-s"}, certificate=carl)
    assert reply.status == 200
    assert await gate.rows("SELECT gid FROM Cns_file_metadata WHERE name = 'carl-s'") == [(102,)]


@pytest.mark.parametrize(
    ("command", "parameters"),
    [
        ("dome_chksum", {"lfn": SECRET_FILE, "checksum-type": "md5"}),
        ("dome_chksum", {"lfn": f"{DTEAM}/bob_private/none", "checksum-type": "md5"}),
        ("dome_getdirspaces", {"path": f"{DTEAM}/bob_private/deeper"}),
        ("dome_getquotatoken", {"path": f"{DTEAM}/bob_private/deeper", "getparentdirs": "true"}),
    ],
)
async def test_m1_what_somebody_cannot_stat_he_learns_nothing_of(
    gate: Gate, carl: Credential, command: str, parameters: dict[str, str]
) -> None:
    assert (await gate.ask(command, parameters, certificate=carl)).status == 403
    assert (await gate.ask(command, parameters, certificate=gate.grid.alice)).status == 403
    by_group = await gate.ask(command, parameters, token=gate.dteam.token(groups=MEMBER))
    assert (by_group.status, by_group.error) == (403, "insufficient_scope")
    assert (await gate.ask(command, parameters, certificate=gate.grid.bob)).status in (200, 202, 404)
    assert (await gate.ask(command, parameters, token=gate.dteam.token("storage.read:/"))).status != 403


async def test_m1_checksum_is_only_calculated_anew_for_who_may_read_the_file(
    gate: Gate, carl: Credential
) -> None:
    asked = {"lfn": f"{DTEAM}/acl_named", "checksum-type": "md5", "force-recalc": "true"}
    assert (await gate.ask("dome_chksum", asked, certificate=carl)).status == 403
    assert (await gate.ask("dome_chksum", asked, certificate=gate.grid.bob)).status != 403


async def test_m1_quotatokens_are_shown_to_who_can_see_their_directories(
    gate: Gate, carl: Credential
) -> None:
    await gate.do("dome_makedir", path=f"{DTEAM}/hidden")
    await gate.do("dome_makedir", path=f"{DTEAM}/hidden/inner")
    await gate.do(
        "dome_setquotatoken",
        path=f"{DTEAM}/hidden/inner", poolname="pool01", quotaspace="10", description="INNER", groups="dteam",
    )  # fmt: skip
    await gate.do("dome_setmode", path=f"{DTEAM}/hidden", mode=0o700)
    for path in ("", HOME):
        asked = {"path": path, "getsubdirs": "true"}
        seen = await gate.ask("dome_getquotatoken", asked, certificate=carl)
        assert {each["quotatkname"] for each in seen.json.values()} == {
            "DTEAM_TOKEN", "ATLASDATADISK", "VOLATILE",
        }  # fmt: skip
        everything = (await gate.do("dome_getquotatoken", **asked)).json
        assert "INNER" in {each["quotatkname"] for each in everything.values()}


async def test_u1_administrators_name_in_text_has_one_attribute_in_each_part(gate: Gate) -> None:
    query = signed_query("dome_newgroup", MULTI)
    signed = await gate.ask("dome_newgroup", {"groupname": "m1"}, query=query, on="http")
    assert (signed.status, signed.rule) == (403, "U1")
    headers = [("x-ssl-client-verify", "SUCCESS"), ("x-ssl-client-s-dn", MULTI)]
    told = await gate.ask("dome_newgroup", {"groupname": "m2"}, headers=headers, on="proxied")
    assert (told.status, told.rule) == (403, "U1")


async def test_m4_name_of_a_replica_is_read_alike_for_check_and_use(gate: Gate) -> None:
    await gate.execute("UPDATE Cns_file_replica SET sfn = 'abc' WHERE rowid = 5")
    await gate.execute("UPDATE Cns_file_replica SET sfn = 'abc:abc' WHERE rowid = 7")
    try:
        token = gate.dteam.token("storage.read:/sub")
        reply = await gate.ask(STAT, {"rfn": "abc"}, token=token)
        assert reply.status != 200 or reply.json["fileid"] == "29"
    finally:
        await gate.execute(
            "UPDATE Cns_file_replica SET sfn = CONCAT('disk1.test:/storage/disk1/fs1/dteam/2017-01-01/',"
            " IF(rowid = 5, 'in_sub.1.1', 'secret.1.1')) WHERE rowid IN (5, 7)"
        )


@pytest.mark.parametrize("target", ["xattr_ck", "sub", "sticky", "bob_private"])
async def test_m5_create_is_not_told_what_it_would_replace(gate: Gate, target: str) -> None:
    moved = {"oldpath": f"{DTEAM}/legacy_ad", "newpath": f"{DTEAM}/{target}"}
    reply = await gate.ask("dome_rename", moved, token=gate.dteam.token("storage.create:/"))
    assert (reply.status, reply.error) == (403, "insufficient_scope")


async def test_n8_front_end_makes_groups_of_served_vos_only(gate: Gate) -> None:
    asked = {"username": f"{USERS}/CN=Mapped", "groupnames": ["/evilvo/Role=admin", "/dteam/Role=new"]}
    reply = await gate.ask("dome_getidmap", asked, certificate=gate.grid.frontend)
    assert reply.status == 200
    assert set(reply.json["groups"]) == {"dteam/Role=new"}
    assert not await gate.rows("SELECT 1 FROM Cns_groupinfo WHERE groupname LIKE 'evilvo%'")
    by_head = {"username": f"{USERS}/CN=Mapped", "groupnames": ["/newvo"]}
    assert set((await gate.do("dome_getidmap", **by_head)).json["groups"]) == {"newvo"}


async def test_n8_front_end_that_asks_for_root_is_told_but_makes_nothing(gate: Gate) -> None:
    before = await gate.rows("SELECT COUNT(*) FROM Cns_groupinfo")
    asked = {"username": "root", "groupnames": ["/root"]}
    reply = await gate.ask("dome_getidmap", asked, certificate=gate.grid.frontend)
    assert reply.json == {"uid": "0", "banned": "0", "groups": {"root": {"gid": "0", "banned": "0"}}}
    for username, group in (("Root", "dteam"), ("/CN=x", "/ROOT"), ("root ", "dteam")):
        asked = {"username": username, "groupnames": [group]}
        assert (await gate.ask("dome_getidmap", asked, certificate=gate.grid.frontend)).status == 422
    assert await gate.rows("SELECT COUNT(*) FROM Cns_groupinfo") == before


@pytest.mark.parametrize("bad", ["a\nb", "a\0b", "a\x07", "a\x7f", "a\x85b"])
async def test_s7_peers_name_no_control_characters(gate: Gate, bad: str) -> None:
    for command, key in ((STAT, "lfn"), ("dome_makedir", "path"), ("dome_access", "path")):
        reply = await gate.ask(
            command, {key: f"{DTEAM}/sub/{bad}"}, certificate=gate.grid.frontend, headers=FOR_ALICE
        )
        assert (reply.status, reply.rule) == (400, "S7")
    moved = {"oldpath": f"{DTEAM}/sub", "newpath": f"{DTEAM}/{bad}"}
    assert (await gate.ask("dome_rename", moved, certificate=gate.grid.admin)).status == 400


async def test_s7_dots_of_peers_are_resolved_as_text(gate: Gate) -> None:
    by_alice = {"certificate": gate.grid.frontend, "headers": FOR_ALICE}
    for path in (
        f"{DTEAM}/missing/../sub",
        f"{DTEAM}/bob_private/./../sub/",
        f"/..//{DTEAM}/legacy_ad/../sub",
    ):
        assert (await gate.ask(STAT, {"lfn": path}, **by_alice)).json["fileid"] == "28"  # type: ignore[arg-type]
    made = await gate.ask("dome_makedir", {"path": f"{DTEAM}/none/../dotted/."}, **by_alice)  # type: ignore[arg-type]
    assert made.status == 200
    assert (await gate.do(STAT, lfn=f"{DTEAM}/dotted")).json["parentfileid"] == "6"


@pytest.mark.parametrize("server", ["", ["disk1.test"], {"a": "disk1.test"}])
@pytest.mark.parametrize("status", ["pending", "aborted", "done"])
async def test_n5_report_of_a_pull_says_whose_it_is(gate: Gate, server: object, status: str) -> None:
    report = {"lfn": PULLED, "pfn": "/storage/disk1/fs1/x", "status": status, "server": server}
    reply = await gate.ask("dome_pullstatus", report, certificate=gate.grid.disk1)
    assert reply.status == 422
    del report["server"]
    assert (await gate.ask("dome_pullstatus", report, certificate=gate.grid.disk1)).status == 422


async def test_n5_disk_server_ends_no_pull_of_another(gate: Gate) -> None:
    def report(server: str, status: str) -> dict[str, str]:
        return {"lfn": PULLED, "pfn": "/storage/x/fs1/x", "server": server, "status": status}

    by_other = {"certificate": gate.grid.disk2}
    pulls = pulls_of(gate)
    assert (await gate.ask("dome_pullstatus", report("disk2.test", "pending"), **by_other)).status == 200  # type: ignore[arg-type]
    assert pulls.is_pulling(PULLED)
    for status in ("pending", "aborted", "done"):
        reply = await gate.ask("dome_pullstatus", report("disk1.test", status), certificate=gate.grid.disk1)
        assert reply.status >= 400
        assert pulls.server_of(PULLED) == "disk2.test"
    assert (await gate.ask("dome_pullstatus", report("DISK2.test", "aborted"), **by_other)).status == 200  # type: ignore[arg-type]
    assert not pulls.is_pulling(PULLED)


@pytest.mark.parametrize("headers", [[], [("remoteclientdn", "root")], [("remoteclientgroups", "root")]])
async def test_n5_disk_server_sets_attributes_of_files_that_it_has(
    gate: Gate, headers: list[tuple[str, str]]
) -> None:
    for path, parameter in ((f"{DTEAM}/legacy_md", {}), ("", {"fileid": "21"})):
        asked = {"lfn": path, "xattr": '{"evil":"1"}', **parameter}
        reply = await gate.ask("dome_updatexattr", asked, certificate=gate.grid.disk1, headers=headers)
        assert (reply.status, reply.rule) == (403, "N5")
    own = {"lfn": f"{DTEAM}/legacy_ad", "xattr": "{}"}
    reply = await gate.ask("dome_updatexattr", own, certificate=gate.grid.disk1, headers=headers)
    assert reply.status == 200


@pytest.mark.parametrize(
    ("command", "key", "more"),
    [
        ("dome_get", "lfn", {}),
        (STAT, "lfn", {}),
        ("dome_setsize", "path", {"size": "1234"}),
        ("dome_unlink", "lfn", {}),
        ("dome_getcomment", "lfn", {}),
        ("dome_access", "path", {"mode": "4"}),
        ("dome_put", "lfn", {}),
        ("dome_chksum", "lfn", {"checksum-type": "md5"}),
    ],
)
async def test_s4_scope_with_a_slash_at_its_end_reaches_no_file(
    gate: Gate, command: str, key: str, more: dict[str, str]
) -> None:
    token = gate.dteam.token("storage.read:/with_guid/ storage.modify:/with_guid/")
    reply = await gate.ask(command, {key: f"{DTEAM}/with_guid", **more}, token=token)
    assert (reply.status, reply.error) == (403, "insufficient_scope")


async def test_a1_line_names_the_address_whatever_is_refused_first(gate: Gate) -> None:
    odd = await gate.ask("dome_info", target="/domehead/command/x%2fdome_info")
    assert (odd.status, odd.rule, odd.audit["peer"]) == (400, "H8", "127.0.0.1")
    connection = gate.connection()
    long = await gate.send(b"GET /x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", connection)
    assert (long.status, long.rule, long.audit["peer"]) == (413, "L2", "127.0.0.1")
    forwarded = await gate.ask(
        "dome_info", target="/x%2fy", headers=[("X-Forwarded-For", "192.0.2.9, 203.0.113.5")], on="proxied"
    )
    assert forwarded.audit["peer"] == "203.0.113.5"


@pytest.mark.parametrize("on", ["https", "proxied"])
async def test_a1_header_that_is_too_long_leaves_a_line(gate: Gate, on: str) -> None:
    reply = await gate.ask("dome_info", headers=[("x-long", "y" * 20_000)], connection=gate.connection(on=on))
    assert (reply.status, reply.rule, reply.audit["peer"]) == (400, "L1", "127.0.0.1")
    assert reply.audit["decision"] == "deny"


async def test_a1_line_of_a_refused_assertion_says_who_asserted_whom(gate: Gate) -> None:
    asked = {"path": DTEAM}
    by_user = await gate.ask(
        "dome_getdir", asked, certificate=gate.grid.alice, headers=[("remoteclientdn", BOB)]
    )
    audit = by_user.audit
    assert (audit["auth"], audit["role"], audit["chan"]) == ("user-x509", "user", ALICE)
    assert (audit["user"], audit["rule"], audit["status"]) == (BOB, "N4", "403")
    bad = [("remoteclientdn", BOB), ("remoteclientgroups", "root")]
    by_peer = await gate.ask("dome_getdir", asked, certificate=gate.grid.frontend, headers=bad)
    assert (by_peer.audit["auth"], by_peer.audit["role"]) == ("frontend-for-user", "frontend")
    assert (by_peer.audit["user"], by_peer.audit["groups"], by_peer.rule) == (BOB, "root", "G7")


async def test_a1_lines_of_host_auth_and_of_numbers_tell_rule_and_path(gate: Gate) -> None:
    host = gate.dteam.token("host.auth", sub="host:monitor.test")
    assert (await gate.ask("dome_getspaceinfo", token=host)).rule == "M6"
    reader = gate.dteam.token("storage.read:/")
    reply = await gate.ask("dome_getcomment", {"fileid": "29"}, token=reader)
    assert (reply.status, reply.audit["path"]) == (200, f"{DTEAM}/sub/in_sub")


async def test_m6_subject_may_be_bound_to_one_issuer(gate: Gate) -> None:
    def token(issuer: str) -> str:
        return gate.issuers[issuer].token("host.auth", sub="host:lone.test")

    assert (await gate.ask("dome_getspaceinfo", token=token("atlas"))).status == 200
    assert (await gate.ask("dome_getspaceinfo", token=token("dteam"))).status == 403


@pytest.mark.parametrize("dn", ["CN=disk1.test,OU=hosts,DC=test", "CN=disk1.test", "CN=frontend.test,O=x"])
async def test_k3_host_is_named_in_slash_form_only(gate: Gate, dn: str) -> None:
    reply = await gate.ask_signed("dome_getspaceinfo", dn=dn)
    assert (reply.status, reply.rule) == (403, "K1")


async def test_h4_answer_for_an_unknown_command_holds_no_token(gate: Gate) -> None:
    token = gate.dteam.token("storage.read:/")
    for target in (f"{PREFIX}/x&authz={token}", f"{PREFIX}/{token}", f"{PREFIX}/authz={token}/y"):
        for method in ("GET", "POST"):
            reply = await gate.ask("x", target=target, token=token, method=method)
            assert reply.status == 418
            assert token.split(".")[2] not in reply.body
            assert token.split(".")[1] not in reply.body


@pytest.mark.parametrize("host", ["%%::[[%", "a b", "-", "x..y", "[10.0.0.1", "y" * 64, "1.2.3.4, 5.6.7.8"])
async def test_n4_host_of_the_client_is_an_address_or_a_name(gate: Gate, host: str) -> None:
    headers = [*FOR_ALICE, ("remoteclienthost", host)]
    reply = await gate.ask(STAT, {"lfn": DTEAM}, certificate=gate.grid.frontend, headers=headers)
    assert (reply.status, reply.rule) == (400, "N4")


@contextmanager
def database_away(gate: Gate) -> Iterator[None]:
    """For the names of disk servers, which are read anew."""
    disks = doorkeeper_of(gate).disks
    database, disks._read_at = disks._database, float("-inf")

    class Gone:
        async def read(self, work: object) -> None:
            raise ConnectionLostError("gone")

    disks._database = Gone()  # type: ignore[assignment]
    try:
        yield
    finally:
        disks._database = database


async def test_h7_info_and_bad_tokens_do_not_need_the_database(gate: Gate) -> None:
    with database_away(gate):
        assert (await gate.ask("dome_info")).status == 200
        assert (await gate.ask("dome_info", token="a.b.c")).status == 401
        assert (await gate.ask("dome_info", certificate=gate.grid.alice)).status == 200
        as_disk = await gate.ask("dome_info", certificate=gate.grid.disk1)
        assert (as_disk.status, as_disk.audit["role"]) == (200, "disk")


def doorkeeper_of(gate: Gate) -> Doorkeeper:
    assert gate.service is not None
    assert gate.service._doorkeeper is not None
    return gate.service._doorkeeper


async def taken(doorkeeper: Doorkeeper, **changes: object) -> None:
    """These keys of [auth], as if they had been read from the file."""
    settings = doorkeeper._settings
    assert settings is not None
    read: Config = settings.value
    doorkeeper._settings_accepted(replace(read, auth=replace(read.auth, **changes)))  # type: ignore[arg-type]
    assert doorkeeper._changing is not None
    await asyncio.wait([doorkeeper._changing])


async def test_r3_settings_that_cannot_be_taken_leave_those_before_in_force(
    gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    doorkeeper = doorkeeper_of(gate)
    before = doorkeeper.standards.auth

    async def fail(auth: object) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(doorkeeper._tokens, "reconfigure", fail)
        await taken(doorkeeper, frontends=("other.test",))
    assert doorkeeper.standards.auth is before
    assert "no room" in caplog.text
    await taken(doorkeeper, frontends=("other.test",))
    assert doorkeeper.standards.frontends == {"other.test"}
    await taken(doorkeeper)
    assert doorkeeper.standards.frontends == {"frontend.test"}


async def test_r1_changes_that_need_a_restart_are_named(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    doorkeeper = doorkeeper_of(gate)
    await taken(doorkeeper, frontends=("other.test",), xrdhttp_secret="y" * 40, failures_burst=7)
    assert "keys=auth.failures_burst,auth.xrdhttp_secret\n" in caplog.text
    assert "y" * 40 not in caplog.text
    caplog.clear()
    await taken(doorkeeper)
    assert "restart" not in caplog.text


def test_r1_keys_of_all_tables_are_compared_but_those_that_count_at_once() -> None:
    before = Config()
    tls = replace(before.api.tls, ca_dir=Path("/ca"))
    after = replace(
        before,
        api=replace(before.api, tls=tls, keepalive_seconds=1.0),
        auth=replace(before.auth, frontends=("x",), ban_file=Path("/bans")),
        path=Path("/other"),
    )
    assert set(late_keys(before, after)) == {"api.tls.ca_dir", "api.keepalive_seconds", "auth.ban_file"}


async def test_b1_ban_of_the_plain_name_counts_where_the_ca_is_part_of_it(gate: Gate) -> None:
    doorkeeper = doorkeeper_of(gate)
    for user_key in ("dn+ca", "dn"):
        await taken(doorkeeper, user_key=user_key)
        connection = gate.connection(gate.grid.banned)
        reply = await gate.ask("dome_getdir", {"path": DTEAM}, connection=connection)
        await connection.close()
        assert (reply.status, reply.rule) == (403, "B1")


async def test_y4_web_server_that_names_no_client_is_warned_of_once(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    doorkeeper_of(gate).authenticator.has_missed_addresses = False
    for _ in range(3):
        await gate.ask("dome_info", on="proxied", headers=[("X-Forwarded-For", "192.0.2.1")])
    assert "X-Forwarded-For" not in caplog.text
    for _ in range(3):
        await gate.ask("dome_info", on="proxied")
    assert caplog.text.count("X-Forwarded-For") == 1


async def test_l4_throttled_sources_certificates_are_not_checked(
    maria: MariaServer,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluated: list[object] = []
    original = authenticate.channel_of

    def counted(*args: object) -> object:
        evaluated.append(args)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(authenticate, "channel_of", counted)
    directory = tmp_path_factory.mktemp("throttled")
    async with open_gate(maria, directory, failures_burst=3, failures_per_second=1) as gate:
        throttle = doorkeeper_of(gate)._throttle
        for _ in range(6):
            throttle.failed("127.0.0.1")
        for certificate in (gate.grid.alice, gate.grid.stranger):
            reply = await gate.ask("dome_getdir", {"path": DTEAM}, certificate=certificate)
            assert (reply.status, reply.rule) == (429, "L4")
        assert not evaluated
        told = [("x-ssl-client-verify", "SUCCESS"), ("x-ssl-client-cert", "x" * 10)]
        assert (await gate.ask("dome_getdir", headers=told, on="proxied")).status == 429
        for peer in (gate.grid.frontend, gate.grid.disk1, gate.grid.admin, gate.grid.admin.proxy()):
            assert (await gate.ask("dome_getspaceinfo", certificate=peer)).status == 200
        assert len(evaluated) == 4
        signed = await gate.ask_signed("dome_getspaceinfo")
        assert signed.status == 200
        forged = await gate.ask_signed("dome_getspaceinfo", secret="x" * 40)
        assert forged.status == 429
        # Who only carries the certificate of a server along is not one.
        posing = replace(gate.grid.alice, chain=(*gate.grid.alice.chain, gate.grid.disk1.certificate))
        assert (await gate.ask("dome_getdir", {"path": DTEAM}, certificate=posing)).status == 429
