"""The commands that set properties of an entry, against a real database, one by one and many at once."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pymysql.constants import ER

from dome_bridge.dome_api.commands_set import commands
from dome_bridge.dome_api.disk_client import DiskClient
from dome_bridge.dome_api.head import Call, Head
from dome_bridge.dome_api.properties import MAX_ACL_BYTES, MAX_XATTR_BYTES, follow
from dome_bridge.dome_api.request import RemoteUser, Request
from dome_bridge.dome_api.wire import Parameters
from dome_bridge.dpm import acl
from dome_bridge.dpm.acl import Tag
from dome_bridge.dpm.fenced import FENCE_MESSAGE, FENCE_SQLSTATE, is_fenced
from dome_bridge.dpm.pool import ConnectionPool
from dome_bridge.dpm.source import ER_SIGNAL_EXCEPTION, Source, StatementError
from dome_bridge.errors import ApiError
from sandbox.servers import MariaServer
from tests.fixtures.databases import DpmSite
from tests.fixtures.dome import Silent, golden_config, golden_databases, load_golden_catalog

USERS = "/DC=test/DC=dmlite/OU=users"
ROOT = RemoteUser()
ALICE = RemoteUser(f"{USERS}/CN=Alice Tester", groups=("dteam",))
ALICE_OF_TWO = replace(ALICE, groups=("dteam", "atlas", "bannedvo"))
BOB = RemoteUser(f"{USERS}/CN=Bob Tester", groups=("atlas",))
BANNED = RemoteUser(f"{USERS}/CN=Banned Guy", groups=("dteam",))

HOME = "/dpm/test/home"
DTEAM = f"{HOME}/dteam"
FILE = f"{DTEAM}/legacy_ad"
FILE_ID, LINK_ID, DIRECTORY_ID, UNREMARKED_ID = 20, 23, 28, 21
UNREMARKED = f"{DTEAM}/legacy_md"


@dataclass(frozen=True)
class Catalog:
    """The recorded catalog, and the commands over it."""

    maria: MariaServer
    site: DpmSite
    head: Head

    async def post(self, command: str, user: RemoteUser = ROOT, /, **body: object) -> bytes:
        """The body of the answer. Raises ApiError for a refusal."""
        found = commands.find("POST", command)
        assert found is not None
        parameters = Parameters.from_body(json.dumps(body).encode())
        answer = await found.run(Call(self.head, Request("POST", "", command, parameters, user=user)))
        assert answer.status == 200
        return answer.body

    async def status(self, command: str, user: RemoteUser = ROOT, /, **body: object) -> int:
        try:
            await self.post(command, user, **body)
        except ApiError as exc:
            refusal = exc
        else:
            return 200
        assert "\n" not in refusal.text
        return refusal.status

    async def column(self, fileid: int, name: str) -> Any:
        rows = await self.rows(f"SELECT {name} FROM Cns_file_metadata WHERE fileid = {fileid}")
        return rows[0][0]

    async def text(self, fileid: int, name: str) -> str:
        value = await self.column(fileid, name)
        return "" if value is None else bytes(value).decode()

    async def mode(self, fileid: int) -> int:
        return stat.S_IMODE(await self.column(fileid, "filemode"))

    async def owner(self, fileid: int) -> tuple[int, int]:
        return await self.column(fileid, "owner_uid"), await self.column(fileid, "gid")

    async def entry(self, fileid: int) -> tuple[Any, ...]:
        return tuple((await self.rows(f"SELECT * FROM Cns_file_metadata WHERE fileid = {fileid}"))[0])

    async def comments(self, fileid: int) -> list[bytes]:
        query = f"SELECT comments FROM Cns_user_metadata WHERE u_fileid = {fileid}"
        return [row[0] for row in await self.rows(query)]

    async def rows(self, query: str) -> list[Any]:
        async def work(source: Source) -> list[Any]:
            await source.execute(f"USE {source.cns}")
            return await source.fetch(query)

        return await self.head.database.read(work)

    async def execute(self, statement: str) -> None:
        async def work(source: Source) -> None:
            await source.execute(f"USE {source.cns}")
            await source.execute(statement)

        await self.head.database.read(work)

    async def age(self) -> None:
        await self.execute("UPDATE Cns_file_metadata SET ctime = 1")


@pytest.fixture(scope="module")
async def head(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Catalog]:
    async with golden_databases(maria) as site:
        made = _catalog(maria, site, tmp_path_factory.mktemp("head"))
        yield made
        await made.head.database.close()


def _catalog(maria: MariaServer, site: DpmSite, directory: Path) -> Catalog:
    config = golden_config(site, directory)
    database = ConnectionPool(config.dpm, 8)
    disks = DiskClient(config.disk, secret="", dn="", host="")
    return Catalog(maria, site, Head.over(config, database, disks, Silent(), hosts=("head",)))


@pytest.fixture
async def api(head: Catalog) -> Catalog:
    await load_golden_catalog(head.maria, head.site.cns, head.site.dpm)
    await head.age()
    return head


PATH_KEY = dict.fromkeys(("dome_setcomment", "dome_updatexattr"), "lfn")
CHANGES: dict[str, dict[str, object]] = {
    "dome_setmode": {"mode": "384"},
    "dome_setowner": {"uid": 102, "gid": 102},
    "dome_setsize": {"size": 5},
    "dome_setacl": {"acl": "A60,C60,F00"},
    "dome_setcomment": {"comment": "new"},
    "dome_updatexattr": {"xattr": "{}"},
}


@pytest.mark.parametrize(("command", "change"), CHANGES.items())
async def test_what_cannot_be_meant_or_found_is_refused(
    api: Catalog, command: str, change: dict[str, object]
) -> None:
    key = PATH_KEY.get(command, "path")
    before = await api.entry(FILE_ID)
    assert await api.status(command, **change) == 422
    assert await api.status(command, **change, **{key: ""}) == 422
    for nowhere in (
        f"{DTEAM}/none",
        f"{FILE}/below",
        "relative",
        f"{DTEAM}/{'x' * 300}",
        f"{DTEAM}/lnk_dir/in_sub",
    ):
        assert await api.status(command, **change, **{key: nowhere}) == 404, nowhere
    assert await api.status(command, BOB, **change, **{key: FILE}) == 403
    assert await api.status(command, BANNED, **change, **{key: FILE}) == 403
    assert await api.entry(FILE_ID) == before


@pytest.mark.parametrize("command", ["dome_setmode", "dome_setcomment", "dome_updatexattr"])
async def test_fileid_wins_over_the_path(api: Catalog, command: str) -> None:
    key = PATH_KEY.get(command, "path")
    before = await api.entry(FILE_ID)
    body = {**CHANGES[command], key: FILE}
    assert await api.status(command, **body, fileid=9999) == 404
    assert await api.status(command, **body, fileid=-1) == 404
    assert await api.status(command, **body, fileid=UNREMARKED_ID) == 200
    assert await api.entry(FILE_ID) == before
    assert await api.comments(FILE_ID) == [b"a legacy comment"]
    assert await api.status(command, **body, fileid="no number") == 200
    assert await api.entry(FILE_ID) != before or await api.comments(FILE_ID) == [b"new"]


async def test_mode_is_set_without_type_bits_and_the_acl_stays(api: Catalog) -> None:
    await api.post("dome_setmode", ALICE, path=FILE, mode=str(0o040750))
    assert await api.column(FILE_ID, "filemode") == stat.S_IFREG | 0o750
    assert await api.text(FILE_ID, "acl") == "A6101,C60,F40"
    assert await api.column(FILE_ID, "ctime") > 1


async def test_mode_of_an_entry_without_acl_leaves_it_without(api: Catalog) -> None:
    await api.execute(f"UPDATE Cns_file_metadata SET acl = NULL WHERE fileid = {FILE_ID}")
    await api.post("dome_setmode", path=FILE, mode="420")
    assert await api.column(FILE_ID, "acl") is None


async def test_mode_that_is_missing_or_no_number_is_zero(api: Catalog) -> None:
    await api.post("dome_setmode", path=FILE, mode="abc")
    assert await api.mode(FILE_ID) == 0
    await api.post("dome_setmode", path=FILE, mode="4095")
    await api.post("dome_setmode", path=FILE)
    assert await api.mode(FILE_ID) == 0


async def test_mode_may_be_set_by_whoever_may_write(api: Catalog) -> None:
    await api.execute(f"UPDATE Cns_file_metadata SET gid = 102, acl = '' WHERE fileid = {FILE_ID}")
    await api.post("dome_setmode", BOB, path=FILE, mode="438")
    assert await api.mode(FILE_ID) == 0o666
    assert await api.status("dome_setmode", BOB, fileid=22, mode="438") == 403


async def test_root_gives_an_entry_away_and_its_acl_follows(api: Catalog) -> None:
    await api.post("dome_setowner", path=f"{DTEAM}/acl_named", uid="102", gid=102, follow="false")
    assert await api.owner(32) == (102, 102)
    assert await api.text(32, "acl") == "A6102,B4102,C6102,D4102,E60,F00"
    assert await api.mode(32) == 0o660
    assert await api.column(32, "ctime") > 1


async def test_default_entries_keep_their_ids_when_the_owner_changes(api: Catalog) -> None:
    await api.post("dome_setowner", path=DTEAM, uid=101, gid=102)
    assert await api.text(6, "acl") == "A7101,C7102,F50,a70,c7101,f50"


async def test_acl_that_cannot_be_read_survives_a_change_of_owner(api: Catalog) -> None:
    await api.execute(f"UPDATE Cns_file_metadata SET acl = 'rotten' WHERE fileid = {FILE_ID}")
    await api.post("dome_setowner", path=FILE, uid=102, gid=102)
    assert await api.owner(FILE_ID) == (102, 102)
    assert await api.text(FILE_ID, "acl") == "rotten"


@pytest.mark.parametrize("keep", [2**32 - 1, "4294967295", "-1", -1])
async def test_minus_one_keeps_owner_or_group(api: Catalog, keep: object) -> None:
    await api.post("dome_setowner", path=FILE, uid=keep, gid="102")
    assert await api.owner(FILE_ID) == (101, 102)
    await api.post("dome_setowner", path=FILE, uid="0", gid=keep)
    assert await api.owner(FILE_ID) == (0, 102)
    assert await api.text(FILE_ID, "acl") == "A60,C6102,F40"


@pytest.mark.parametrize(
    "owner",
    [
        {"uid": "101"},
        {"gid": "101"},
        {"uid": "alice", "gid": "101"},
        {"uid": 9999, "gid": 101},
        {"uid": 101, "gid": 9999},
        {"uid": -2, "gid": -1},
        {"uid": -1, "gid": 2**31},
    ],
)
async def test_owner_that_nobody_is_is_refused(api: Catalog, owner: dict[str, object]) -> None:
    assert await api.status("dome_setowner", path=FILE, **owner) == 422
    assert await api.owner(FILE_ID) == (101, 101)


async def test_owner_of_today_is_no_change_whoever_asks(api: Catalog) -> None:
    for owner in ({"uid": 101, "gid": 101}, {"uid": -1, "gid": -1}, {"uid": -1, "gid": 101}):
        assert await api.status("dome_setowner", BOB, path=FILE, **owner) == 200
    assert await api.column(FILE_ID, "ctime") == 1


@pytest.mark.parametrize(
    ("user", "uid", "gid", "status"),
    [
        (ALICE_OF_TWO, -1, 102, 200),
        (ALICE_OF_TWO, 101, 102, 200),
        (ALICE_OF_TWO, 102, 102, 403),
        (ALICE_OF_TWO, -1, 103, 403),
        (ALICE_OF_TWO, -1, 104, 403),
        (ALICE_OF_TWO, -1, 0, 403),
        (ALICE, -1, 102, 403),
        (BOB, -1, 102, 403),
        (BOB, 102, -1, 403),
        (ROOT, 102, 104, 200),
    ],
)
async def test_owner_gives_only_to_groups_of_her_own(
    api: Catalog, user: RemoteUser, uid: int, gid: int, status: int
) -> None:
    assert await api.status("dome_setowner", user, path=FILE, uid=uid, gid=gid) == status
    changed = {"uid": uid if uid > 0 else 101, "gid": gid} if status == 200 else {"uid": 101, "gid": 101}
    assert await api.owner(FILE_ID) == (changed["uid"], changed["gid"])


@pytest.mark.parametrize(
    ("path", "fileid"),
    [
        (f"{DTEAM}/lnk_abs", FILE_ID),
        (f"{DTEAM}/lnk_rel", FILE_ID),
        (f"{DTEAM}/lnk_dir", DIRECTORY_ID),
        (f"{DTEAM}/lnk_dir/", DIRECTORY_ID),
        (f"{DTEAM}/lnk_dir/.", DIRECTORY_ID),
        (f"{DTEAM}/lnk_dir/in_sub", 29),
        (f"{DTEAM}/lnk_dir/../lnk_dir/in_sub", 29),
        (f"{DTEAM}/sub/in_sub", 29),
        ("/", 2),
    ],
)
async def test_links_are_followed_where_asked(api: Catalog, path: str, fileid: int) -> None:
    await api.post("dome_setowner", path=path, uid=102, gid=102, follow="true")
    assert await api.owner(fileid) == (102, 102)
    assert await api.owner(LINK_ID) == (101, 101)


@pytest.mark.parametrize(
    "path",
    [
        f"{DTEAM}/lnk_broken",
        f"{DTEAM}/lnk_loop",
        f"{DTEAM}/lnk_loop/x",
        f"{DTEAM}/lnk_dir/none",
        f"{DTEAM}/lnk_abs/x",
        "dpm",
        f"{DTEAM}/sub/.." * 200,
    ],
)
async def test_links_to_nowhere_are_not_found(api: Catalog, path: str) -> None:
    assert await api.status("dome_setowner", path=path, uid=102, gid=102, follow=True) == 404


async def test_link_without_a_target_is_not_found(api: Catalog) -> None:
    await api.execute(f"DELETE FROM Cns_symlinks WHERE fileid = {LINK_ID}")
    assert await api.status("dome_setowner", path=f"{DTEAM}/lnk_abs", uid=-1, gid=-1, follow=True) == 404


async def test_names_in_the_targets_of_links_count_too(api: Catalog) -> None:
    detour = f"/{'dpm/../' * 60}"
    targets = {f"{detour}{DTEAM[1:]}/legacy_ad": 200, f"{detour * 2}{DTEAM[1:]}/legacy_ad": 404}
    for target, status in targets.items():
        await api.execute(f"UPDATE Cns_symlinks SET linkname = '{target}' WHERE fileid = {LINK_ID}")
        path = f"{detour}{DTEAM[1:]}/lnk_abs"
        assert await api.status("dome_setowner", path=path, uid=-1, gid=-1, follow=True) == status


@pytest.mark.parametrize("path", [f"/{'dpm/../' * 127}x", f"/{'dpm/../' * 100}{DTEAM[1:]}/lnk_loop"])
async def test_winding_way_costs_one_query_for_each_name(api: Catalog, path: str) -> None:
    async def queries(source: Source) -> int:
        return int((await source.fetch("SHOW SESSION STATUS LIKE 'Questions'"))[0][1])

    async with api.head.database.connection() as source:
        before = await queries(source)
        with suppress(ApiError):
            assert await follow(source, path) is None
        assert await queries(source) - before <= 300


async def test_links_are_followed_before_the_transaction_that_changes_what_they_lead_to(
    api: Catalog,
) -> None:
    path = f"{DTEAM}/lnk_dir/in_sub"
    request = api.status("dome_setowner", path=path, uid=102, gid=102, follow=True)
    assert await meanwhile(api, "UPDATE Cns_file_metadata SET name = 'y' WHERE fileid = 29", request) == 404
    assert await api.owner(29) == (101, 101)


async def test_link_itself_is_changed_unless_it_is_to_be_followed(api: Catalog) -> None:
    await api.post("dome_setowner", path=f"{DTEAM}/lnk_abs", uid=102, gid=102, follow="no")
    assert await api.owner(LINK_ID) == (102, 102)
    assert await api.owner(FILE_ID) == (101, 101)


@pytest.mark.parametrize("size", ["0", 99, "9999999999999", str(2**63 - 1)])
async def test_size_is_set(api: Catalog, size: str | int) -> None:
    parent = await api.entry(6)
    await api.post("dome_setsize", ALICE, path=FILE, size=size)
    assert await api.column(FILE_ID, "filesize") == int(size)
    assert await api.column(FILE_ID, "ctime") > 1
    assert await api.entry(6) == parent


@pytest.mark.parametrize("size", ["-3", "", "1.5", "many", str(2**63), None])
async def test_size_that_is_none_is_refused(api: Catalog, size: str | None) -> None:
    given_size = {} if size is None else {"size": size}
    assert await api.status("dome_setsize", path=FILE, **given_size) == 422
    assert await api.column(FILE_ID, "ctime") == 1


async def test_owner_may_set_the_size_of_what_she_may_not_write(api: Catalog) -> None:
    await api.execute(f"UPDATE Cns_file_metadata SET filemode = 32768 WHERE fileid = {FILE_ID}")
    assert await api.status("dome_setmode", ALICE, path=FILE, mode=420) == 403
    assert await api.status("dome_setsize", ALICE, path=FILE, size=1) == 200


@pytest.mark.parametrize(
    ("fileid", "path", "sent", "stored", "mode"),
    [
        (FILE_ID, FILE, "A6101,C60,F40", "A6101,C6101,F40", 0o664),
        (FILE_ID, FILE, "F00,E60,C6101,B4102,A60", "A6101,B4102,C6101,E60,F00", 0o660),
        (FILE_ID, FILE, "A7999,D7102,C7999,E50,F10", "A7101,C7101,D7102,E50,F10", 0o751),
        (DIRECTORY_ID, f"{DTEAM}/sub", "A7,C7,F5", None, 0o775),
        (DIRECTORY_ID, f"{DTEAM}/sub", "A70,C50,F50,a7999,c70,f50", "A7101,C5101,F50,a7999,c70,f50", 0o755),
        (35, f"{DTEAM}/sticky", "A70,C50,F50", "A70,C50,F50", 0o1755),
    ],
)
async def test_acl_gets_the_owners_ids_and_gives_the_mode(
    api: Catalog, fileid: int, path: str, sent: str, stored: str | None, mode: int
) -> None:
    status = await api.status("dome_setacl", path=path, acl=sent)
    assert status == (200 if stored else 422)
    assert await api.mode(fileid) == mode
    assert await api.text(fileid, "acl") == (stored or "")
    assert (await api.column(fileid, "ctime") > 1) is (stored is not None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A60",
        "garbage",
        "Z99,Q1",
        "A60,B4102,C60,F00",
        "A60,A6101,C60,F00",
        "A80,C60,F00",
        "A60,C60,F00,a70,c70,f50",
        "A60,C60,F00,é",
        ",".join(["A60", *(f"B4{uid}" for uid in range(1000, 1600)), "C60", "E60", "F00"]),
    ],
)
async def test_acl_that_no_file_can_have_is_refused(api: Catalog, text: str) -> None:
    before = await api.entry(FILE_ID)
    assert await api.status("dome_setacl", ALICE, path=FILE, acl=text) == 422
    assert await api.entry(FILE_ID) == before


async def test_endless_acl_is_refused_without_a_look_at_it_or_at_the_path(api: Catalog) -> None:
    for text in ("B71," * 250_000, "A60,C60,F00" + " " * 1_000_000):
        assert await api.status("dome_setacl", path=f"{DTEAM}/none", acl=text) == 422
    wordy = ",".join(["A60", *(f"B4{uid:010}" for uid in range(1000, 1400)), "C60", "E60", "F00"])
    assert len(wordy) > MAX_ACL_BYTES
    assert await api.status("dome_setacl", path=FILE, acl=wordy) == 200


async def test_acl_is_the_owners_and_not_that_of_whoever_may_write(api: Catalog) -> None:
    await api.execute(
        f"UPDATE Cns_file_metadata SET filemode = {0o100666}, acl = '' WHERE fileid = {FILE_ID}"
    )
    assert await api.status("dome_setacl", BOB, path=FILE, acl="A60") == 403
    assert await api.status("dome_setacl", ALICE, path=FILE, acl="A60,C40,F00") == 200


async def test_comment_is_answered_as_it_was_sent(api: Catalog) -> None:
    text = 'hello "wörld" / \\ end'
    assert json.loads(await api.post("dome_setcomment", ALICE, lfn=UNREMARKED, comment=text)) == {
        "comment": text
    }
    assert await api.comments(UNREMARKED_ID) == [text.encode()]
    assert json.loads(await api.post("dome_setcomment", ALICE, lfn=UNREMARKED)) == {"comment": ""}
    assert await api.comments(UNREMARKED_ID) == [b""]
    assert await api.column(UNREMARKED_ID, "ctime") == 1


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("c" * 255, "c" * 255),
        ("c" * 300, "c" * 255),
        ("é" * 200, "é" * 127),
        ("a" + "é" * 127, "a" + "é" * 127),
    ],
)
async def test_of_a_long_comment_the_beginning_is_kept_in_whole_characters(
    api: Catalog, text: str, stored: str
) -> None:
    assert json.loads(await api.post("dome_setcomment", fileid=FILE_ID, comment=text)) == {"comment": text}
    assert await api.comments(FILE_ID) == [stored.encode()]


@pytest.mark.parametrize(
    ("sent", "stored", "pair"),
    [
        ('{"k":"v/w"}', r'{"k": "v\/w"}', ("AD", "0a1b2c3d")),
        ('{"checksum.adler32":"deadbeef","type":0}',
         '{"checksum.adler32": "deadbeef", "type": "0"}', ("AD", "deadbeef")),
        ('{"checksum.sha1":"00","checksum.MD5":12,"checksum.adler32":"1"}',
         '{"checksum.sha1": "00", "checksum.MD5": "12", "checksum.adler32": "1"}', ("MD", "12")),
        ('{"a":1,"b":[1,2.50],"c":{"d":"e","f":true},"g":null,"h":[],"i":{}}',
         '{"a": "1", "b": ["1", "2.50"], "c": {"d": "e", "f": "true"}, "g": "null", "h": "", "i": ""}',
         ("AD", "0a1b2c3d")),
        ('{"z":1e5,"a":"first","a":"second"}', '{"z": "1e5", "a": "first"}', ("AD", "0a1b2c3d")),
        ("", "{}", ("AD", "0a1b2c3d")),
        ({"an": "object"}, "{}", ("AD", "0a1b2c3d")),
    ],
)  # fmt: skip
async def test_attributes_are_replaced_as_text(
    api: Catalog, sent: object, stored: str, pair: tuple[str, str]
) -> None:
    await api.post("dome_updatexattr", ALICE, lfn=FILE, xattr=sent)
    assert await api.text(FILE_ID, "xattr") == stored
    assert (await api.text(FILE_ID, "csumtype"), await api.text(FILE_ID, "csumvalue")) == pair
    assert await api.column(FILE_ID, "ctime") == 1


async def test_legacy_checksum_that_is_not_there_stays_away(api: Catalog) -> None:
    await api.execute(
        f"UPDATE Cns_file_metadata SET csumtype = NULL, csumvalue = NULL WHERE fileid = {FILE_ID}"
    )
    await api.post("dome_updatexattr", lfn=FILE, xattr='{"checksum.sha256": "00"}')
    assert await api.column(FILE_ID, "csumtype") is None
    assert await api.column(FILE_ID, "csumvalue") is None


@pytest.mark.parametrize(
    "text",
    [
        "notjson",
        " ",
        '"text"',
        "[1]",
        "{",
        '{"a": NaN}',
        '{"a\\"b": "x"}',
        '{"a": "\\ud800"}',
        '{"\\udc80": "x"}',
        '{"a": "' + "x" * MAX_XATTR_BYTES + '"}',
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "{" + " " * 1_000_000 + "}",
    ],
)
async def test_attributes_that_others_could_not_read_are_refused(api: Catalog, text: str) -> None:
    before = await api.entry(FILE_ID)
    assert await api.status("dome_updatexattr", ALICE, lfn=FILE, xattr=text) == 422
    assert await api.status("dome_updatexattr", ALICE, lfn=f"{DTEAM}/none", xattr=text) == 422
    assert await api.entry(FILE_ID) == before


async def test_comments_of_many_at_once_are_one_row(api: Catalog) -> None:
    texts = [f"comment {number}" for number in range(16)]
    await asyncio.gather(*(api.post("dome_setcomment", lfn=UNREMARKED, comment=text) for text in texts))
    (stored,) = await api.comments(UNREMARKED_ID)
    assert stored.decode() in texts


async def test_comments_on_many_entries_at_once_are_all_kept(api: Catalog) -> None:
    fileids = (21, 22, 23, 24, 25, 26, 28, 29, 31, 32, 33, 34, 35, 36, 37)
    await asyncio.gather(*(api.post("dome_setcomment", fileid=one, comment=f"of {one}") for one in fileids))
    assert [await api.comments(one) for one in fileids] == [[f"of {one}".encode()] for one in fileids]


async def test_owner_mode_and_acl_set_by_many_at_once_fit_together(api: Catalog) -> None:
    acls = ("A70,C50,F50", "A60,B4102,C70,E40,F00", "A60,C60,F60")
    await asyncio.gather(
        *(api.post("dome_setowner", path=FILE, uid=101 + n % 3, gid=101 + n % 2) for n in range(12)),
        *(api.post("dome_setacl", path=FILE, acl=acls[n % 3]) for n in range(12)),
        *(api.post("dome_setmode", path=FILE, mode=0o600 + n) for n in range(6)),
    )
    stored = acl.parse((await api.text(FILE_ID, "acl")).encode())
    own = {item.tag: item.id for item in stored.entries}
    assert (own[Tag.OWNER], own[Tag.OWNING_GROUP]) == await api.owner(FILE_ID)


async def meanwhile(api: Catalog, statement: str, request: Coroutine[Any, Any, int]) -> int:
    """The status of a request that had its look-up behind it when another writer's change was committed."""
    async with api.head.database.connection() as source:
        await source.execute(f"USE {source.cns}")
        await source.execute("START TRANSACTION")
        await source.execute(statement)
        waiting = asyncio.create_task(request)
        await until_somebody_waits_for_a_lock(api.maria)
        await source.execute("COMMIT")
    return await waiting


async def until_somebody_waits_for_a_lock(maria: MariaServer) -> None:
    for _ in range(60):
        await asyncio.sleep(0.12)  # asked more often the server repeats its last answer
        if await maria.fetch("SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"):
            return
    raise AssertionError("nobody waits for a lock")


@pytest.mark.parametrize(("command", "change"), CHANGES.items())
async def test_entry_given_away_between_look_up_and_change_is_left_alone(
    api: Catalog, command: str, change: dict[str, object]
) -> None:
    request = api.status(command, ALICE_OF_TWO, **{PATH_KEY.get(command, "path"): FILE}, **change)
    giving_away = f"UPDATE Cns_file_metadata SET owner_uid = 102, gid = 103 WHERE fileid = {FILE_ID}"
    assert await meanwhile(api, giving_away, request) == 403
    assert await api.column(FILE_ID, "ctime") == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE Cns_file_metadata SET name = 'another' WHERE fileid = 31",
        "UPDATE Cns_file_metadata SET parent_fileid = 28 WHERE fileid = 31",
        "DELETE FROM Cns_file_metadata WHERE fileid = 31",
    ],
)
async def test_entry_that_has_gone_between_look_up_and_change_is_not_found(
    api: Catalog, statement: str
) -> None:
    await api.execute("DELETE FROM Cns_file_replica WHERE fileid = 31")
    assert (
        await meanwhile(api, statement, api.status("dome_setsize", path=f"{DTEAM}/migrated", size=1)) == 404
    )


@asynccontextmanager
async def refusing(
    api: Catalog, sqlstate: str, message: str, number: int = ER_SIGNAL_EXCEPTION
) -> AsyncIterator[None]:
    """No entry and no comment can be changed: the database fails with these words and this number."""
    places = {"changing": "UPDATE ON `{}`.Cns_file_metadata", "remarking": "INSERT ON `{}`.Cns_user_metadata"}
    signal = f"SIGNAL SQLSTATE '{sqlstate}' SET MESSAGE_TEXT = '{message}', MYSQL_ERRNO = {number}"
    try:
        for name, place in places.items():
            place = place.format(api.site.cns)
            await api.maria.execute(
                f"CREATE TRIGGER `{api.site.cns}`.{name} BEFORE {place} FOR EACH ROW {signal}"
            )
        yield
    finally:
        for name in places:
            await api.maria.execute(f"DROP TRIGGER IF EXISTS `{api.site.cns}`.{name}")


FAILURES = {"dome_setmode": 400, "dome_setacl": 400, "dome_setcomment": 400, "dome_updatexattr": 422}


async def test_value_that_the_database_cannot_take_has_the_status_of_the_protocol(api: Catalog) -> None:
    async with refusing(api, "22001", "too long", ER.DATA_TOO_LONG):
        for command, status in FAILURES.items():
            key = PATH_KEY.get(command, "path")
            assert await api.status(command, **{key: FILE}, **CHANGES[command]) == status, command


@pytest.mark.parametrize("number", [ER.LOCK_WAIT_TIMEOUT, ER.PARSE_ERROR, ER_SIGNAL_EXCEPTION])
async def test_failure_that_is_not_the_clients_is_no_refusal(api: Catalog, number: int) -> None:
    async with refusing(api, "45000", "out of order", number):
        for command, change in CHANGES.items():
            with pytest.raises(StatementError) as failure:
                await api.post(command, **{PATH_KEY.get(command, "path"): FILE}, **change)
            assert failure.value.number == number, command


async def test_fence_is_told_from_other_failures(api: Catalog) -> None:
    async with refusing(api, FENCE_SQLSTATE, FENCE_MESSAGE):
        for command, change in CHANGES.items():
            with pytest.raises(StatementError) as refusal:
                await api.post(command, **{PATH_KEY.get(command, "path"): FILE}, **change)
            assert is_fenced(refusal.value), command
