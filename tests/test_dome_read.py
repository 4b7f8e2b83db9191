"""The reading commands over the recorded catalog: every status, byte-exact answers, and what they cost."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from dome_bridge import __version__
from dome_bridge.auth.principal import Kind, Principal, Role
from dome_bridge.config import AuthConfig, Config
from dome_bridge.dome_api import catalog, commands_info, commands_read
from dome_bridge.dome_api.command import Commands
from dome_bridge.dome_api.disk_client import DiskClient
from dome_bridge.dome_api.head import Call, Head
from dome_bridge.dome_api.request import Peer, RemoteUser, Request
from dome_bridge.dome_api.wire import Parameters
from dome_bridge.dpm.pool import ConnectionPool
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError
from sandbox.disk_head import user_in
from sandbox.servers import MariaServer
from tests.fixtures.databases import DpmSite
from tests.fixtures.dome import ADMIN, FRONTEND, HEAD, Silent, golden_databases
from tests.fixtures.replay import Line, dialogue
from tests.fixtures.source import dpm_config, writer

DTEAM = "/dpm/test/home/dteam"
DISK1 = "disk1.test:/storage/disk1/fs1/dteam/2017-01-01"
ALICE = RemoteUser("/DC=test/DC=dmlite/OU=users/CN=Alice Tester", groups=("dteam",))
BOB = RemoteUser("/DC=test/DC=dmlite/OU=users/CN=Bob Tester", groups=("atlas",))
ROOT = RemoteUser()

COMMANDS = Commands(commands_read.commands, commands_info.commands)
STATUSES = {
    "dome_getstatinfo": {200, 403, 404, 422},
    "dome_getdir": {200, 403, 404, 422, 500},
    "dome_access": {200, 403, 404, 422, 500},
    "dome_accessreplica": {200, 403, 404, 422},
    "dome_getreplicainfo": {200, 404, 422},
    "dome_getreplicavec": {200, 400},
    "dome_readlink": {200, 400, 404},
    "dome_getcomment": {200, 404},
}


@dataclass(frozen=True)
class Answered:
    """What a client sees."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "surrogateescape")

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Reader:
    """The commands over a catalog of their own."""

    def __init__(self, head: Head, site: DpmSite) -> None:
        self.head = head
        self.site = site

    async def get(self, command: str, user: RemoteUser = ROOT, **parameters: Any) -> Answered:
        body = json.dumps(parameters, ensure_ascii=False).encode("utf-8", "surrogateescape")
        return await self.ask(Request("GET", "", f"dome_{command}", Parameters.from_body(body), user=user))

    async def ask(self, request: Request, auth: AuthConfig | None = None) -> Answered:
        declared = COMMANDS.find("GET", request.command)
        assert declared is not None
        try:
            answer = await declared.run(Call(self.head, request, auth=auth))
        except ApiError as exc:
            return Answered(exc.status, exc.text.encode("utf-8", "surrogateescape"))
        return Answered(answer.status, answer.body)

    async def sql(self, *statements: str) -> None:
        async with writer(self.site) as cursor:
            for statement in statements:
                await cursor.execute(statement)

    async def add(self, fileid: int, parent: int, name: bytes, mode: int = 0o100644, xattr: str = "") -> None:
        await self.sql(
            "INSERT INTO Cns_file_metadata (fileid, parent_fileid, name, filemode, nlink, owner_uid, gid,"
            " filesize, atime, mtime, ctime, fileclass, status, acl, xattr)"
            f" VALUES ({fileid}, {parent}, x'{name.hex()}', {mode}, 1, 0, 0, 0, 1, 2, 3, 0, '-', '',"
            f" '{xattr}')"
        )

    async def directory(self, fileid: int, name: str) -> str:
        await self.add(fileid, 6, name.encode(), 0o040755)
        return f"{DTEAM}/{name}"

    async def statements(self) -> int:
        """So many the server has had from the one connection, this one included."""
        row = await self.head.database.read(
            lambda source: source.fetchrow("SHOW SESSION STATUS LIKE 'Questions'")
        )
        assert row is not None
        return int(row[1])


@pytest.fixture(scope="module")
async def reader(maria: MariaServer) -> AsyncIterator[Reader]:
    config = Config(auth=AuthConfig(authorize_dn=(FRONTEND, ADMIN)))
    async with golden_databases(maria) as site:
        database = ConnectionPool(dpm_config(site), 1)
        disks = DiskClient(config.disk, secret="", dn="", host="")
        yield Reader(Head.over(config, database, disks, Silent(), hosts=(HEAD,)), site)
        await database.close()


# --- as recorded


def recorded(name: str) -> list[Line]:
    """The lines that our commands answer with JSON over the catalog as it was at first."""
    return [
        line
        for line in dialogue(name)
        if COMMANDS.find(line.method, line.command)
        and any(answer.status == 200 and answer.json for answer in line.answers)
    ]


@pytest.mark.parametrize("name", ["head-01-stat", "head-03-replicas", "head-05-get"])
async def test_json_is_byte_for_byte_that_of_the_original(reader: Reader, name: str) -> None:
    same = 0
    for line in recorded(name):
        request = Request(
            line.method,
            line.path,
            line.command,
            Parameters.from_body(line.body),
            user=user_in(line.headers),
        )
        answer = await reader.ask(request)
        same += answer.text in [each.body for each in line.answers]
        # Banned users, bogus entries, the stat hook and echoed names are told otherwise on purpose.
        if answer.status == 200 and '"rfn"' not in answer.text:
            assert answer.text in [each.body for each in line.answers], str(line)
    assert same >= {"head-01-stat": 60, "head-03-replicas": 5, "head-05-get": 8}[name]


# --- getstatinfo


@pytest.mark.parametrize(
    ("parameters", "user", "status", "text"),
    [
        ({}, ROOT, 422, "Not enough parameters."),
        ({"lfn": ""}, ROOT, 422, "Not enough parameters."),
        ({"server": "disk1.test"}, ROOT, 422, "Not enough parameters."),
        ({"pfn": "/storage"}, ROOT, 422, "Not enough parameters."),
        ({"lfn": f"{DTEAM}/none"}, ROOT, 404, "and no volatile filesystem matches."),
        ({"lfn": f"{DTEAM}/none/none"}, ROOT, 404, "Cannot stat the parent of lfn: "),
        ({"lfn": f"{DTEAM}/legacy_ad/x"}, ROOT, 404, "Cannot stat lfn: "),
        ({"lfn": f"{DTEAM}/legacy_ad/x/y"}, ROOT, 404, "Cannot stat the parent of lfn: "),
        ({"lfn": f"{DTEAM}/legacy_ad/.."}, ROOT, 404, "Cannot stat lfn: "),
        ({"lfn": f"{DTEAM}/lnk_dir/in_sub"}, ROOT, 404, "Cannot stat lfn: "),
        ({"lfn": f"{DTEAM}/legacy_ad "}, ROOT, 404, "Cannot stat lfn: "),
        ({"lfn": f"{DTEAM} /legacy_ad"}, ROOT, 404, "Cannot stat the parent of lfn: "),
        ({"lfn": "dpm"}, ROOT, 404, "Cannot stat lfn: 'dpm'"),
        ({"lfn": "dpm/test"}, ROOT, 404, "Cannot stat the parent of lfn: 'dpm/test'"),
        ({"lfn": f"{DTEAM}/bob_private/secret"}, ALICE, 403, f"Need READ access on '{DTEAM}/bob_private'"),
        ({"lfn": f"{DTEAM}/bob_private/secret/x"}, ALICE, 403, "Permission denied on lfn: "),
        ({"rfn": "disk1.test:/nope"}, ROOT, 404, "File not found on rfn: 'disk1.test:/nope'"),
        ({"rfn": "nocolon"}, ROOT, 404, "File not found on rfn: 'nocolon'"),
        ({"rfn": f"{DISK1}/secret.1.1"}, ALICE, 403, "Permission denied on rfn: "),
    ],
)
async def test_stat_that_fails_says_why(
    reader: Reader, parameters: dict[str, str], user: RemoteUser, status: int, text: str
) -> None:
    answer = await reader.get("getstatinfo", user, **parameters)
    assert answer.status == status
    assert text in answer.text
    assert "\n" not in answer.text


@pytest.mark.parametrize(
    ("parameters", "fileid"),
    [
        ({"lfn": "/"}, "2"),
        ({"lfn": "//"}, "2"),
        ({"lfn": "/.."}, "2"),
        ({"lfn": "//dpm//test/"}, "4"),
        ({"lfn": f"{DTEAM}/legacy_ad/"}, "20"),
        ({"lfn": f"{DTEAM}/./sub/../legacy_ad"}, "20"),
        ({"lfn": f"{DTEAM}/sub/."}, "28"),
        ({"lfn": f"{DTEAM}/sub/.."}, "6"),
        ({"lfn": f"{DTEAM}/lnk_abs"}, "23"),
        ({"lfn": f"{DTEAM}/legacy_ad", "rfn": "disk1.test:/nope"}, "20"),
        ({"rfn": f"{DISK1}/legacy_ad.1.1"}, "20"),
        ({"server": "disk1.test", "pfn": "/storage/disk1/fs1/dteam/2017-01-01/legacy_ad.1.1"}, "20"),
    ],
)
async def test_entry_is_found_by_path_or_replica(
    reader: Reader, parameters: dict[str, Any], fileid: str
) -> None:
    assert (await reader.get("getstatinfo", **parameters)).json["fileid"] == fileid


async def test_stat_by_replica_needs_read_on_the_file(reader: Reader) -> None:
    await reader.add(700, 6, b"owner_only", 0o100600)
    await reader.sql(replica_row(700, "disk1.test:/owner_only"))
    answer = await reader.get("getstatinfo", ALICE, rfn="disk1.test:/owner_only")
    assert (answer.status, answer.text) == (403, "Need READ access on rfn: 'disk1.test:/owner_only'")


async def test_replica_of_an_orphan_is_not_found(reader: Reader) -> None:
    await reader.add(701, 999_999, b"orphan")
    await reader.sql(replica_row(701, "disk1.test:/orphan"))
    assert (await reader.get("getstatinfo", rfn="disk1.test:/orphan")).status == 404


def replica_row(fileid: int, rfn: str) -> str:
    return (
        "INSERT INTO Cns_file_replica (fileid, nbaccesses, ctime, atime, ptime, ltime, status, f_type,"
        f" poolname, host, fs, sfn) VALUES ({fileid}, 0, 1, 1, 1, 1, '-', 'P', 'p', 'h', '/f', '{rfn}')"
    )


async def test_unreadable_attributes_do_not_hide_the_entry_and_are_logged_once(
    reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    path = await reader.directory(710, "unreadable")
    for fileid in (711, 712, 713):
        await reader.add(fileid, 710, b"%d" % fileid, xattr="{not json")
    with caplog.at_level(logging.WARNING):
        stat = await reader.get("getstatinfo", lfn=f"{path}/711")
        listing = await reader.get("getdir", path=path)
    assert stat.json["xattrs"] == '{"type": 0}'
    assert [entry["name"] for entry in listing.json["entries"]] == ["711", "712", "713"]
    assert [line for line in caplog.messages if "fileid 711" in line] == caplog.messages
    assert ["count=1" in line for line in caplog.messages] == [True, False]
    assert "count=3" in caplog.messages[1]


# --- getdir


@pytest.mark.parametrize(
    ("parameters", "user", "status", "text"),
    [
        ({}, ROOT, 422, "path"),
        ({"path": ""}, ROOT, 422, "Cannot list an empty path"),
        ({"path": f"{DTEAM}/none/none"}, ROOT, 404, "Cannot stat the parent of path: "),
        ({"path": f"{DTEAM}/none"}, ROOT, 500, "Cannot open dir: "),
        ({"path": f"{DTEAM}/legacy_ad"}, ROOT, 500, "is not a directory"),
        ({"path": f"{DTEAM}/lnk_dir"}, ROOT, 500, "is not a directory"),
        ({"path": "dpm"}, ROOT, 500, "Cannot open dir: "),
        ({"path": f"{DTEAM}/bob_private/sub"}, ALICE, 403, f"Need READ access on '{DTEAM}/bob_private'"),
        ({"path": f"{DTEAM}/bob_private/sub/sub"}, ALICE, 404, "Cannot stat the parent of path: "),
    ],
)
async def test_listing_that_fails_says_why(
    reader: Reader, parameters: dict[str, str], user: RemoteUser, status: int, text: str
) -> None:
    answer = await reader.get("getdir", user, **parameters)
    assert answer.status == status
    assert text in answer.text


async def test_listing_is_in_byte_order_of_the_names_and_tells_their_own_bytes(reader: Reader) -> None:
    path = await reader.directory(720, "ordered")
    for number, name in enumerate([b"b", b"\xc3\xa9", b"B", b"a b", b"a", b"\xff", b"a-"]):
        await reader.add(721 + number, 720, name)
    answer = await reader.get("getdir", path=path)
    entries = answer.json["entries"]
    assert [entry["name"] for entry in entries] == ["B", "a", "a b", "a-", "b", "é", "\udcff"]
    assert [entry["parentfileid"] for entry in entries] == ["720"] * 7
    assert b'"name": "\xff"' in answer.body


async def test_empty_directory_has_the_empty_text_for_entries(reader: Reader) -> None:
    assert (await reader.get("getdir", path="/dpm/test/home/cms")).body == b'{\n    "entries": ""\n}\n'


async def test_rights_on_the_listed_directory_itself_do_not_matter(reader: Reader) -> None:
    answer = await reader.get("getdir", ALICE, path=f"{DTEAM}/bob_private")
    assert [entry["name"] for entry in answer.json["entries"]] == ["secret"]


async def test_directory_above_must_be_readable_and_passable(reader: Reader) -> None:
    for fileid, name, mode in ((730, "only_read", 0o040744), (732, "only_pass", 0o040711)):
        await reader.add(fileid, 6, name.encode(), mode)
        await reader.add(fileid + 1, fileid, b"inner", 0o040755)
        assert (await reader.get("getdir", ALICE, path=f"{DTEAM}/{name}/inner")).status == 403
        assert (await reader.get("getdir", path=f"{DTEAM}/{name}/inner")).status == 200


async def test_directory_of_many_pieces_lists_every_entry_once_and_lets_others_have_turns(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    await reader.directory(740, "many")
    for fileid in range(741, 761):
        await reader.add(fileid, 740, b"%d" % fileid)

    async def children(source: Source) -> list[Any]:
        return await source.fetch(catalog.statement(source, "children"), (740,))

    rows = await reader.head.database.read(children)
    whole = (await commands_read.listing_of(rows)).body()
    monkeypatch.setattr(commands_read, "ENTRIES_AT_A_TIME", 3)
    made = asyncio.create_task(commands_read.listing_of(rows))
    turns = 0
    while not made.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await made).body() == whole
    assert len(json.loads(whole)["entries"]) == 20
    assert turns >= 7


# --- access and accessreplica


@pytest.mark.parametrize(
    ("path", "mode", "user", "status"),
    [
        ("", 4, ROOT, 422),
        ("/", 4, ALICE, 200),
        ("/", 2, ALICE, 403),
        ("///", 4, ROOT, 200),
        (f"{DTEAM}/", 4, BOB, 200),
        (f"{DTEAM}/legacy_ad/", 4, BOB, 200),
        (f"{DTEAM}/legacy_ad", 2, BOB, 403),
        (f"{DTEAM}/legacy_ad", 6, ALICE, 200),
        (f"{DTEAM}/legacy_ad", 7, ALICE, 403),
        (f"{DTEAM}/legacy_ad", 8, BOB, 200),
        (f"{DTEAM}/legacy_ad", -1, BOB, 403),
        (f"{DTEAM}/legacy_ad", "x", BOB, 200),
        (f"{DTEAM}/none", 4, ROOT, 404),
        (f"{DTEAM}/none/none", 4, ROOT, 404),
        (f"{DTEAM}/legacy_ad ", 4, ROOT, 404),
        (f"{DTEAM}/lnk_dir/in_sub", 4, ROOT, 404),
        (f"{DTEAM}/legacy_ad/x", 4, ROOT, 500),
        ("dpm", 4, ROOT, 500),
    ],
)
async def test_access_is_decided_by_the_entry_alone(
    reader: Reader, path: str, mode: object, user: RemoteUser, status: int
) -> None:
    answer = await reader.get("access", user, path=path, mode=mode)
    assert answer.status == status
    assert (answer.body == b"") is (status == 200)


async def test_access_does_not_ask_for_rights_on_the_way(reader: Reader) -> None:
    await reader.add(704, 33, b"open", 0o100644)
    assert (await reader.get("access", ALICE, path=f"{DTEAM}/bob_private/open", mode=4)).status == 200


@pytest.mark.parametrize(
    ("rfn", "mode", "user", "status"),
    [
        ("", 4, ROOT, 422),
        ("nope", 4, ROOT, 404),
        (f"{DISK1}/legacy_ad.1.1", 4, ALICE, 200),
        (f"{DISK1}/legacy_ad.1.1", 0, BOB, 200),
        (f"{DISK1}/legacy_ad.1.1", 8, BOB, 200),
        (f"{DISK1}/legacy_ad.1.1", 1, BOB, 403),
        (f"{DISK1}/legacy_ad.1.1", 2, ROOT, 403),
        (f"{DISK1}/in_sub.1.1", 2, ALICE, 200),
        (f"{DISK1}/in_sub.1.1", 2, BOB, 403),
    ],
)
async def test_replica_may_be_written_only_while_it_is_being_populated(
    reader: Reader, rfn: str, mode: int, user: RemoteUser, status: int
) -> None:
    answer = await reader.get("accessreplica", user, rfn=rfn, mode=mode)
    assert answer.status == status
    assert (answer.body == b"") is (status == 200)


# --- replicas, links, comments


async def test_replica_is_told_with_its_own_name_when_asked_for_by_number(reader: Reader) -> None:
    answer = await reader.get("getreplicainfo", rfn="nope", replicaid=1)
    assert answer.json["rfn"] == f"{DISK1}/legacy_ad.1.1"


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({}, 422),
        ({"rfn": "", "replicaid": 0}, 422),
        ({"replicaid": "x"}, 422),
        ({"replicaid": -1}, 404),
        ({"replicaid": 9999}, 404),
        ({"rfn": "nope"}, 404),
        ({"rfn": f"{DISK1}/legacy_ad.1.1 "}, 404),
    ],
)
async def test_replica_that_is_not_there(reader: Reader, parameters: dict[str, Any], status: int) -> None:
    assert (await reader.get("getreplicainfo", **parameters)).status == status


@pytest.mark.parametrize(
    ("parameters", "replicaids"),
    [
        ({"lfn": f"{DTEAM}/xattr_ck"}, ["3", "4"]),
        ({"fileid": 22}, ["3", "4"]),
        ({"lfn": f"{DTEAM}/legacy_ad", "fileid": 22}, ["1"]),
    ],
)
async def test_replicas_are_told_in_the_order_of_their_numbers(
    reader: Reader, parameters: dict[str, Any], replicaids: list[str]
) -> None:
    answer = await reader.get("getreplicavec", ALICE, **parameters)
    assert [replica["replicaid"] for replica in answer.json["replicas"]] == replicaids


@pytest.mark.parametrize("parameters", [{"lfn": f"{DTEAM}/acl_named"}, {"fileid": 32}, {"lfn": DTEAM}])
async def test_entry_without_replicas_has_an_empty_list(reader: Reader, parameters: dict[str, Any]) -> None:
    answer = await reader.get("getreplicavec", **parameters)
    assert (answer.status, answer.body) == (200, b'{\n    "replicas": ""\n}\n')


@pytest.mark.parametrize("parameters", [{}, {"lfn": ""}, {"lfn": "rel"}, {"lfn": "/none"}, {"fileid": 99}])
async def test_replicas_of_no_entry_are_an_error(reader: Reader, parameters: dict[str, Any]) -> None:
    assert (await reader.get("getreplicavec", **parameters)).status == 400


@pytest.mark.parametrize(
    ("lfn", "status", "text"),
    [
        (f"{DTEAM}/lnk_rel", 200, '"target": "legacy_ad"'),
        (f"{DTEAM}/lnk_rel/", 200, '"target": "legacy_ad"'),
        ("", 404, "Cannot stat lfn: ''"),
        ("lnk_rel", 404, "Cannot stat lfn: "),
        (f"{DTEAM}/none", 404, "Cannot stat lfn: "),
        (f"{DTEAM}/sub", 400, "Not a symlink"),
    ],
)
async def test_link_is_read_without_following_it(reader: Reader, lfn: str, status: int, text: str) -> None:
    answer = await reader.get("readlink", lfn=lfn)
    assert answer.status == status
    assert text in answer.text


async def test_link_without_a_target_row_cannot_be_read(reader: Reader) -> None:
    await reader.add(705, 6, b"targetless", 0o120777)
    answer = await reader.get("readlink", lfn=f"{DTEAM}/targetless")
    assert answer.status == 400
    assert answer.text.startswith("Cannot get link")


@pytest.mark.parametrize(
    ("parameters", "status", "text"),
    [
        ({"lfn": f"{DTEAM}/legacy_ad"}, 200, '"comment": "a legacy comment"'),
        ({"fileid": "20"}, 200, '"comment": "a legacy comment"'),
        ({"lfn": f"{DTEAM}/legacy_md"}, 200, '"comment": ""'),
        ({"fileid": 9999}, 200, '"comment": ""'),
        ({}, 404, "Can't find lfn: ''"),
        ({"fileid": "zz"}, 404, "Can't find lfn: ''"),
        ({"lfn": f"{DTEAM}/none"}, 404, "Can't find lfn: "),
    ],
)
async def test_comment_by_path_or_number(
    reader: Reader, parameters: dict[str, Any], status: int, text: str
) -> None:
    answer = await reader.get("getcomment", **parameters)
    assert answer.status == status
    assert text in answer.text


# --- info


GRANTED, DENIED = "ACCESS TO DOME GRANTED.", "ACCESS TO DOME DENIED."


@pytest.mark.parametrize(
    ("kind", "role", "users_may", "sentence"),
    [
        (Kind.ADMIN, Role.HEAD, False, GRANTED),
        (Kind.NODE, Role.DISK, False, GRANTED),
        (Kind.FRONTEND, Role.FRONTEND, False, GRANTED),
        (Kind.USER, Role.USER, True, GRANTED),
        (Kind.CAPABILITY, Role.USER, True, GRANTED),
        (Kind.GROUP, Role.USER, True, GRANTED),
        (Kind.USER, Role.USER, False, DENIED),
        (Kind.GROUP, Role.USER, False, DENIED),
        (Kind.POWERLESS, Role.USER, True, DENIED),
        (Kind.ANONYMOUS, Role.NOBODY, True, DENIED),
    ],
)
async def test_info_tells_everybody_whether_they_may(
    reader: Reader, kind: Kind, role: Role, users_may: bool, sentence: str
) -> None:
    request = Request("GET", "", "dome_info", Parameters(), Peer(ALICE.dn), principal=Principal(kind, role))
    answer = await reader.ask(request, AuthConfig(direct_users=users_may))
    version, process, name, empty, standing, *rest = answer.text.split("\r\n")
    assert (answer.status, version, name, empty) == (
        200,
        "dome [1.15.2] running as head",
        f"Your DN: {ALICE.dn}",
        "",
    )
    assert process == "Server PID: 0 - Thread Index: 0 "
    assert standing == sentence
    assert (f"SERVER_SOFTWARE=dome-bridge/{__version__}" in rest) is (sentence == GRANTED)


# --- all of them


@pytest.mark.parametrize("command", sorted(STATUSES))
@pytest.mark.parametrize(
    "value",
    [
        *(
            "..",
            ".",
            "/..",
            "//",
            "/./",
            " ",
            "/ ",
            "\n",
            "\x01\x7f",
            "%s",
            "'\\\"`",
            "é中\U0001f600",
            "\udcff",
        ),
        *("/" + "x" * 70_000, "/x" * 300, "/" + "/" * 5000, f"{DTEAM}/" + "../" * 200),
        *(0, -1, 2**70, 1.5, True, None, [], ["/"], {}, {"a": "/"}),
    ],
)
async def test_nothing_that_a_client_sends_is_answered_otherwise_than_documented(
    reader: Reader, command: str, value: object
) -> None:
    keys = ("lfn", "path", "rfn", "fileid", "replicaid", "mode", "server", "pfn")
    for sent in [{key: value} for key in keys] + [dict.fromkeys(keys, value)]:
        answer = await reader.get(command.removeprefix("dome_"), ALICE, **sent)
        assert answer.status in STATUSES[command], f"{sent!r:.100}: {answer.text:.200}"


@pytest.mark.parametrize(
    ("command", "parameters", "most"),
    [
        ("getstatinfo", {"lfn": f"{DTEAM}/legacy_ad"}, 1),
        ("getstatinfo", {"rfn": f"{DISK1}/legacy_ad.1.1"}, 3),
        ("getdir", {"path": DTEAM}, 2),
        ("access", {"path": f"{DTEAM}/legacy_ad"}, 1),
        ("accessreplica", {"rfn": f"{DISK1}/legacy_ad.1.1"}, 2),
        ("getreplicainfo", {"rfn": f"{DISK1}/legacy_ad.1.1"}, 1),
        ("getreplicavec", {"lfn": f"{DTEAM}/legacy_ad"}, 2),
        ("getreplicavec", {"fileid": 20}, 1),
        ("readlink", {"lfn": f"{DTEAM}/lnk_abs"}, 2),
        ("getcomment", {"lfn": f"{DTEAM}/legacy_ad"}, 2),
    ],
)
async def test_round_trips_to_the_database(
    reader: Reader, command: str, parameters: dict[str, Any], most: int
) -> None:
    before = await reader.statements()
    assert (await reader.get(command, **parameters)).status == 200
    assert await reader.statements() - before - 1 <= most
