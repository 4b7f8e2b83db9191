"""Users and groups: numbers for names, given out once, and the commands that administer them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dome_bridge.config import Config
from dome_bridge.dome_api.commands_people import commands
from dome_bridge.dome_api.disk_client import DiskClient
from dome_bridge.dome_api.head import Call, Head
from dome_bridge.dome_api.people import IdentityError, People, Person
from dome_bridge.dome_api.permissions import Subject
from dome_bridge.dome_api.request import RemoteUser, Request
from dome_bridge.dome_api.wire import Parameters
from dome_bridge.dpm.pool import ConnectionPool
from dome_bridge.dpm.source import Source, StatementError
from dome_bridge.errors import ApiError
from sandbox.catalog import create_schemas
from sandbox.servers import MariaServer
from tests.fixtures.databases import DpmSite, unique_name
from tests.fixtures.dome import Silent
from tests.fixtures.source import dpm_config, writer

T = TypeVar("T")
Work = Callable[[Source], Awaitable[T]]

ALICE = "/DC=test/CN=Alice"
BANNED = "/DC=test/CN=Banned"
CAROL = "/DC=test/CN=Carol"
LONG = "/CN=" + "é" * 126
"""One byte too many."""

SEED = (
    f"INSERT INTO Cns_userinfo (userid, username, user_ca, banned, xattr) VALUES "
    f"(0, 'root', '', 0, ''), (101, '{ALICE}', '', 0, '{{\"a\":\"b\"}}'), (102, '{BANNED}', '', 2, NULL)",
    "INSERT INTO Cns_groupinfo (gid, groupname, banned) VALUES "
    "(0, 'root', 0), (101, 'dteam', 0), (102, 'atlas', 0), (103, 'bannedvo', 1)",
    "UPDATE Cns_unique_uid SET id = 102",
    "UPDATE Cns_unique_gid SET id = 103",
)


class WatchedPool(ConnectionPool):
    """Counts what is asked of the database; while `gate` is closed what was read does not get out.

    `held` is released once for everything that has been read.
    """

    def __init__(self, site: DpmSite, size: int) -> None:
        super().__init__(dpm_config(site), size)
        self.asked: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.held = asyncio.Semaphore(0)

    async def read(self, work: Work[T]) -> T:
        self.asked["read"] += 1
        result = await super().read(work)
        self.held.release()
        await self.gate.wait()
        return result

    async def transact(self, work: Work[T]) -> T:
        self.asked["transact"] += 1
        return await super().transact(work)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Place:
    """The people of a site, and what is in its tables."""

    def __init__(self, maria: MariaServer, site: DpmSite, directory: Path) -> None:
        self.maria = maria
        self.site = site
        self.mapfile = directory / "mapfile"
        self.clock = Clock()
        self.pools: list[WatchedPool] = []
        self.people = self.another_head()

    def another_head(self, connections: int = 8) -> People:
        self.pools.append(WatchedPool(self.site, connections))
        return People(self.pools[-1], self.mapfile, clock=self.clock)

    @property
    def pool(self) -> WatchedPool:
        return self.pools[0]

    async def execute(self, sql: str, *args: object) -> int:
        return await self.maria.execute(sql, args, database=self.site.cns)

    async def rows(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        return await self.maria.fetch(sql, args, database=self.site.cns)

    async def user_rows(self, name: str) -> list[int]:
        rows = await self.rows("SELECT userid FROM Cns_userinfo WHERE username = %s ORDER BY rowid", name)
        return [number for (number,) in rows]

    async def group_rows(self, name: str) -> list[int]:
        rows = await self.rows("SELECT gid FROM Cns_groupinfo WHERE groupname = %s ORDER BY rowid", name)
        return [number for (number,) in rows]

    async def gid(self, name: str) -> int:
        (number,) = await self.group_rows(name)
        return number

    async def until_somebody_waits_for_a_lock(self) -> None:
        waiting = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
        for _ in range(60):
            await asyncio.sleep(0.15)  # asked more often the server repeats its last answer
            if (await self.rows(waiting))[0][0]:
                return
        raise AssertionError("nobody waits for a lock")

    async def run(self, name: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Status and JSON, or the text of a refusal."""
        command = commands.find("GET", name) or commands.find("POST", name)
        assert command is not None
        parameters = Parameters.from_body(json.dumps(body or {}).encode())
        request = Request(command.method, f"/domehead/command/{name}", name, parameters)
        try:
            answer = await command.run(Call(self._head(), request))
        except ApiError as exc:
            return exc.status, exc.text
        return answer.status, json.loads(answer.body) if answer.body else ""

    def _head(self) -> Head:
        config = Config(dpm=dpm_config(self.site))
        disks = DiskClient(config.disk, secret="s", dn="/CN=head", host="head")
        return Head.over(config, self.pool, disks, Silent(), hosts=("head",), people=self.people)


@pytest.fixture
async def place(maria: MariaServer, dpm_site: DpmSite, tmp_path: Path) -> AsyncIterator[Place]:
    """A site of its own for a test that changes it."""
    async with seeded(Place(maria, dpm_site, tmp_path)) as place:
        yield place


@pytest.fixture(scope="module")
async def lookups(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """A site for all tests that change nothing."""
    cns, dpm = unique_name("cns"), unique_name("dpm")
    site = DpmSite(maria.host, maria.port, maria.unix_socket, maria.user, maria.password, cns, dpm)
    try:
        await create_schemas(maria, cns, dpm)
        await maria.grant(cns, dpm)
        async with seeded(Place(maria, site, tmp_path_factory.mktemp("people"))) as place:
            yield place
    finally:
        await maria.drop_database(cns, dpm)


@asynccontextmanager
async def seeded(place: Place) -> AsyncIterator[Place]:
    for statement in SEED:
        await place.execute(statement)
    try:
        yield place
    finally:
        for pool in place.pools:
            await pool.close()


def user(dn: str, *groups: str) -> RemoteUser:
    return RemoteUser(dn, "10.0.0.1", groups)


async def test_without_dn_it_is_root_whatever_the_groups(place: Place) -> None:
    assert await place.people.subject(user("", "dteam", "newvo")) == Subject(0, (0,), "root")
    assert not place.pool.asked
    assert await place.group_rows("newvo") == []


async def test_root_is_root_without_a_row(place: Place) -> None:
    await place.execute("DELETE FROM Cns_userinfo WHERE username = 'root'")
    await place.execute("DELETE FROM Cns_groupinfo WHERE groupname = 'root'")
    assert await place.people.subject(user("root", "root")) == Subject(0, (0,), "root")
    assert await place.people.users.by_name("root") == Person("root", 0, 0, "")
    assert await place.people.groups.by_id(0) == Person("root", 0, 0, "")
    assert not place.pool.asked["transact"]


async def test_root_is_number_0_whatever_its_row_says(place: Place) -> None:
    await place.execute("UPDATE Cns_userinfo SET userid = 55 WHERE username = 'root'")
    assert (await place.people.subject(user("root"))).uid == 0
    found = await place.people.users.by_name("root")
    assert found is not None
    assert found.id == 0


async def test_known_user_has_the_groups_in_the_order_they_came(place: Place) -> None:
    subject = await place.people.subject(user(ALICE, "atlas", "dteam", "atlas"))
    assert subject == Subject(101, (102, 101), ALICE)
    assert subject.gids[0] == 102


async def test_known_user_without_groups_has_none(place: Place) -> None:
    assert await place.people.subject(user(ALICE)) == Subject(101, (), ALICE)


async def test_unknown_user_and_groups_are_created_under_the_names_as_received(place: Place) -> None:
    subject = await place.people.subject(user(CAROL, "newvo", " atlas", "/vo/Role=NULL", "dteam", ""))
    assert subject == Subject(103, (104, 105, 106, 101, 107), CAROL)
    assert await place.user_rows(CAROL) == [103]
    assert [await place.gid(name) for name in ("newvo", " atlas", "/vo/Role=NULL", "")] == [
        104,
        105,
        106,
        107,
    ]
    assert await place.rows("SELECT id FROM Cns_unique_uid") == [(103,)]
    assert await place.rows("SELECT id FROM Cns_unique_gid") == [(107,)]
    assert await place.rows("SELECT user_ca, banned, xattr FROM Cns_userinfo WHERE userid = 103") == [
        ("", 0, None)
    ]


@pytest.mark.parametrize("banned", [1, 2, 7])
async def test_banned_user_is_refused(place: Place, banned: int) -> None:
    await place.execute("UPDATE Cns_userinfo SET banned = %s WHERE username = %s", banned, ALICE)
    with pytest.raises(IdentityError, match="is banned") as refusal:
        await place.people.subject(user(ALICE, "dteam"))
    assert refusal.value.status == 403


async def test_banned_group_gives_no_gid(place: Place) -> None:
    assert (await place.people.subject(user(ALICE, "bannedvo", "dteam"))).gids == (101,)


@pytest.mark.parametrize("number", ["0", "NULL", "-1"])
async def test_row_without_a_proper_number_makes_nobody_root(place: Place, number: str) -> None:
    await place.execute(f"UPDATE Cns_userinfo SET userid = {number} WHERE username = %s", ALICE)
    await place.execute(f"UPDATE Cns_groupinfo SET gid = {number} WHERE groupname = 'atlas'")
    with pytest.raises(IdentityError, match="number"):
        await place.people.subject(user(ALICE))
    assert (await place.people.subject(user(CAROL, "atlas", "dteam"))).gids == (101,)
    assert (await place.run("dome_getidmap", {"username": ALICE}))[0] == 422
    assert (await place.run("dome_getuser", {"username": ALICE}))[0] == 404
    status, listed = await place.run("dome_getusersvec")
    shown = {one["username"]: one["userid"] for one in listed["users"]}
    assert (status, shown[ALICE]) == (200, "-1" if number == "NULL" else number)


@pytest.mark.parametrize("name", [LONG, "/CN=a\nb", "/CN=\x7f", "/CN=\x1f"])
async def test_name_that_cannot_be_held_is_refused(place: Place, name: str) -> None:
    for identity in (user(name), user(ALICE, "dteam", name)):
        with pytest.raises(IdentityError) as refusal:
            await place.people.subject(identity)
        assert refusal.value.status == 403
    assert not place.pool.asked


async def test_longest_name_is_taken(place: Place) -> None:
    assert (await place.people.subject(user(LONG[:-1] + "x"))).uid == 103


async def test_more_groups_than_anybody_has_are_refused(place: Place) -> None:
    with pytest.raises(IdentityError, match="1024"):
        await place.people.subject(user(ALICE, *map(str, range(1025))))


@pytest.mark.parametrize(
    "identity", [user(ALICE + " "), user(CAROL, "newvo", "dteam "), user(CAROL, "a", "a ")]
)
async def test_name_that_differs_in_trailing_blanks_is_nobody_else(
    place: Place, identity: RemoteUser
) -> None:
    with pytest.raises(IdentityError) as refusal:
        await place.people.subject(identity)
    assert refusal.value.status == 403
    assert await place.user_rows(CAROL) == []
    assert await place.group_rows("newvo") == []


async def test_name_that_cannot_be_created_costs_no_lock(place: Place) -> None:
    with pytest.raises(IdentityError, match="trailing blanks"):
        await place.people.subject(user(CAROL, "dteam "))
    assert place.pool.asked == {"read": 1}


async def test_name_stored_with_a_trailing_blank_is_found_by_its_bytes_only(place: Place) -> None:
    created = await place.people.subject(user(CAROL + " "))
    assert created.uid == 103
    assert await place.another_head().subject(user(CAROL + " ")) == created
    with pytest.raises(IdentityError):
        await place.people.subject(user(CAROL))


async def test_name_that_the_database_takes_for_another_is_refused(place: Place) -> None:
    await place.execute(
        "ALTER TABLE Cns_userinfo MODIFY username VARCHAR(255) CHARACTER SET latin1 COLLATE latin1_swedish_ci"
    )
    assert (await place.people.subject(user(ALICE))).uid == 101
    with pytest.raises(IdentityError, match="takes it for one that is there"):
        await place.people.subject(user(ALICE.upper()))


async def test_name_that_is_not_utf8_is_found_again(place: Place) -> None:
    name = b"/CN=Jos\xe9".decode("utf-8", "surrogateescape")
    assert (await place.people.subject(user(name))).uid == 103
    assert (await place.another_head().subject(user(name))).uid == 103
    assert await place.rows("SELECT HEX(username) FROM Cns_userinfo WHERE userid = 103") == [
        (b"/CN=Jos\xe9".hex().upper(),)
    ]


@pytest.mark.parametrize("counters", ["as they are", "without rows"])
async def test_many_clients_of_several_heads_agree_on_one_new_user(place: Place, counters: str) -> None:
    if counters == "without rows":
        await place.execute("DELETE FROM Cns_unique_uid")
        await place.execute("DELETE FROM Cns_unique_gid")
    heads = [place.another_head(4) for _ in range(4)]
    identities = [user(CAROL, "vo1", "vo2", "dteam"), user(CAROL, "vo2", "vo1", "dteam")]
    subjects = await asyncio.gather(
        *(heads[n % 4].subject(identities[n // 4 % 2]) for n in range(32)),
    )
    assert {subject.uid for subject in subjects} == {103}
    assert {frozenset(subject.gids) for subject in subjects} == {frozenset({104, 105, 101})}
    assert await place.user_rows(CAROL) == [103]
    assert {*await place.group_rows("vo1"), *await place.group_rows("vo2")} == {104, 105}
    assert await place.rows("SELECT id FROM Cns_unique_uid") == [(103,)]
    assert await place.rows("SELECT id FROM Cns_unique_gid") == [(105,)]


async def test_many_new_users_at_once_get_numbers_of_their_own(place: Place) -> None:
    heads = [place.another_head(4) for _ in range(4)]
    subjects = await asyncio.gather(
        *(heads[n % 4].subject(user(f"/CN=n{n}", f"vo{n % 5}")) for n in range(32)),
    )
    assert sorted(subject.uid for subject in subjects) == list(range(103, 135))
    assert {gid for subject in subjects for gid in subject.gids} == set(range(104, 109))


async def test_one_of_many_creates_a_user_by_command(place: Place) -> None:
    answers = await asyncio.gather(*(place.run("dome_newuser", {"username": CAROL}) for _ in range(16)))
    assert Counter(status for status, _ in answers) == {200: 1, 400: 15}
    assert await place.user_rows(CAROL) == [103]


async def test_writer_that_locks_no_counter_wins_and_is_read_again(place: Place) -> None:
    async with writer(place.site, autocommit=False) as cursor:
        await cursor.execute("INSERT INTO Cns_userinfo (userid, username) VALUES (900, %s)", (CAROL,))
        asking = asyncio.create_task(place.people.subject(user(CAROL, "dteam")))
        await place.until_somebody_waits_for_a_lock()
        await cursor.execute("COMMIT")
        assert await asking == Subject(900, (101,), CAROL)
    assert place.pool.asked == {"read": 2, "transact": 1}
    assert await place.user_rows(CAROL) == [900]


async def test_writer_that_locks_the_counter_is_waited_for(place: Place) -> None:
    async with writer(place.site, autocommit=False) as cursor:
        await cursor.execute("SELECT id FROM Cns_unique_gid FOR UPDATE")
        asking = asyncio.create_task(place.people.subject(user(CAROL, "newvo")))
        await place.until_somebody_waits_for_a_lock()
        await cursor.execute("INSERT INTO Cns_groupinfo (gid, groupname) VALUES (104, 'newvo')")
        await cursor.execute("UPDATE Cns_unique_gid SET id = 104")
        await cursor.execute("COMMIT")
        assert await asking == Subject(103, (104,), CAROL)
    assert place.pool.asked == {"read": 1, "transact": 1}


async def test_lost_or_lagging_counter_never_gives_a_number_twice(place: Place) -> None:
    await place.execute("UPDATE Cns_unique_uid SET id = 7")
    assert (await place.people.subject(user("/CN=one"))).uid == 103
    await place.execute("DELETE FROM Cns_unique_uid")
    assert (await place.people.subject(user("/CN=two"))).uid == 104
    assert await place.rows("SELECT id FROM Cns_unique_uid") == [(104,)]


async def test_number_of_somebody_deleted_is_not_given_again(place: Place) -> None:
    await place.people.subject(user(CAROL))
    await place.people.users.delete(CAROL)
    assert (await place.people.subject(user("/CN=next"))).uid == 104


async def test_no_number_left_refuses_and_creates_nobody(place: Place) -> None:
    await place.execute("UPDATE Cns_unique_uid SET id = 4294967295")
    with pytest.raises(ApiError, match="no number is left") as refusal:
        await place.people.subject(user(CAROL))
    assert refusal.value.status == 500
    assert await place.user_rows(CAROL) == []


async def test_creation_that_is_rolled_back_leaves_no_trace(place: Place) -> None:
    await place.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON Cns_groupinfo FOR EACH ROW SIGNAL SQLSTATE '45000'"
    )
    with pytest.raises(StatementError):
        await place.people.subject(user(CAROL, "newvo"))
    assert await place.user_rows(CAROL) == []
    await place.execute("DROP TRIGGER refuse")
    subject = await place.people.subject(user(CAROL, "newvo"))
    assert await place.user_rows(CAROL) == [subject.uid]
    assert await place.group_rows("newvo") == list(subject.gids)


async def test_known_people_cost_one_query_and_none_within_a_second(place: Place) -> None:
    identity = user(ALICE, "dteam", "atlas")
    await place.people.subject(identity)
    assert place.pool.asked == {"read": 1}
    place.clock.now += 0.9
    await place.people.subject(identity)
    await place.people.idmap(ALICE, ["/atlas"])
    assert place.pool.asked == {"read": 1}
    place.clock.now += 0.2
    await place.people.subject(identity)
    assert place.pool.asked == {"read": 2}


async def test_creation_is_kept(place: Place) -> None:
    first = await place.people.subject(user(CAROL, "newvo"))
    assert await place.people.subject(user(CAROL, "newvo")) == first
    assert place.pool.asked == {"read": 1, "transact": 1}


async def test_simultaneous_look_ups_of_the_same_share_a_query(place: Place) -> None:
    await asyncio.gather(*(place.people.subject(user(ALICE, "dteam")) for _ in range(32)))
    assert place.pool.asked == {"read": 1}


async def test_simultaneous_look_ups_share_a_failure(place: Place) -> None:
    await place.execute("RENAME TABLE Cns_userinfo TO elsewhere")
    outcomes = await asyncio.gather(
        *(place.people.subject(user(ALICE)) for _ in range(8)), return_exceptions=True
    )
    assert all(isinstance(outcome, StatementError) for outcome in outcomes)
    assert place.pool.asked == {"read": 1}
    await place.execute("RENAME TABLE elsewhere TO Cns_userinfo")
    assert (await place.people.subject(user(ALICE))).uid == 101


async def test_whoever_waits_for_somebody_cancelled_looks_up_alone(place: Place) -> None:
    place.pool.gate.clear()
    first, second, third = (asyncio.create_task(place.people.subject(user(ALICE))) for _ in range(3))
    await place.pool.held.acquire()
    first.cancel()
    second.cancel()
    place.pool.gate.set()
    assert (await third).uid == 101
    for cancelled in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await cancelled


@pytest.mark.parametrize("dn", [ALICE, CAROL])
async def test_another_writers_ban_is_seen_after_a_second(place: Place, dn: str) -> None:
    await place.people.subject(user(dn))
    await place.execute("UPDATE Cns_userinfo SET banned = 2 WHERE username = %s", dn)
    place.clock.now += 1
    with pytest.raises(IdentityError):
        await place.people.subject(user(dn))


async def test_our_own_changes_are_seen_at_once(place: Place) -> None:
    await place.people.subject(user(ALICE, "dteam"))
    await place.people.groups.update("dteam", banned=1, xattr="")
    assert (await place.people.subject(user(ALICE, "dteam"))).gids == ()
    await place.people.users.update(ALICE, banned=1, xattr="")
    with pytest.raises(IdentityError):
        await place.people.subject(user(ALICE, "dteam"))
    await place.people.users.delete(ALICE)
    assert (await place.people.subject(user(ALICE))).uid == 103


async def test_look_up_from_before_our_change_is_not_kept(place: Place) -> None:
    place.pool.gate.clear()
    early = asyncio.create_task(place.people.subject(user(ALICE)))
    await place.pool.held.acquire()
    await place.people.users.update(ALICE, banned=2, xattr="")
    place.pool.gate.set()
    assert (await early).uid == 101
    with pytest.raises(IdentityError):
        await place.people.subject(user(ALICE))


async def test_look_up_from_before_our_change_is_not_joined(place: Place) -> None:
    place.pool.gate.clear()
    early = asyncio.create_task(place.people.subject(user(ALICE)))
    await place.pool.held.acquire()
    await place.people.users.update(ALICE, banned=2, xattr="")
    late = asyncio.create_task(place.people.subject(user(ALICE)))
    await asyncio.sleep(0)
    place.pool.gate.set()
    with pytest.raises(IdentityError):
        await late
    await early


async def test_no_more_is_kept_than_the_limit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dome_bridge.dome_api.people._Recent.MOST_KEPT", 2)
    for name in ("dteam", "atlas", "bannedvo"):
        await place.people.subject(user(ALICE, name))
    await place.people.subject(user(ALICE, "bannedvo", "atlas"))
    assert place.pool.asked["read"] == 4
    assert (await place.people.subject(user(ALICE, "dteam", "atlas", "bannedvo"))).gids == (101, 102)


async def test_idmap_normalises_fqans_and_creates_in_their_order(place: Place) -> None:
    fqans = ["/newvo/Role=x", "/dteam/Role=NULL/Capability=NULL", "dteam", "newvo2"]
    status, answer = await place.run("dome_getidmap", {"username": CAROL, "groupnames": fqans})
    assert (status, answer) == (
        200,
        {
            "uid": "103",
            "banned": "0",
            "groups": {
                "newvo/Role=x": {"gid": "104", "banned": "0"},
                "dteam": {"gid": "101", "banned": "0"},
                "newvo2": {"gid": "105", "banned": "0"},
            },
        },
    )
    assert list(answer["groups"]) == ["newvo/Role=x", "dteam", "newvo2"]


@pytest.mark.parametrize("groupnames", [None, [], "", "atlas"])
async def test_idmap_without_groups_takes_those_of_the_gridmap(place: Place, groupnames: object) -> None:
    place.mapfile.write_text(f'"{ALICE}" dteam,atlas\n"{ALICE}" newvo\n')
    body = {"username": ALICE} | ({} if groupnames is None else {"groupnames": groupnames})
    groups = {"dteam": {"gid": "101", "banned": "0"}, "newvo": {"gid": "104", "banned": "0"}}
    assert await place.run("dome_getidmap", body) == (200, {"uid": "101", "banned": "0", "groups": groups})


async def test_idmap_without_any_groups_has_no_such_key(place: Place) -> None:
    assert await place.run("dome_getidmap", {"username": "root"}) == (200, {"uid": "0", "banned": "0"})
    assert await place.run("dome_getidmap", {"username": ""}) == (200, {"uid": "103", "banned": "0"})


async def test_idmap_reports_bans(place: Place) -> None:
    answer = {"uid": "102", "banned": "2", "groups": {"bannedvo": {"gid": "103", "banned": "1"}}}
    assert await place.run("dome_getidmap", {"username": BANNED, "groupnames": ["bannedvo"]}) == (200, answer)


USER = {"username": ALICE, "userid": "101", "banned": "0", "xattr": '{"a":"b"}'}
ROOT_USER = {"username": "root", "userid": "0", "banned": "0", "xattr": ""}
DTEAM = {"groupname": "dteam", "gid": "101", "banned": "0", "xattr": ""}
ROOT_GROUP = {"groupname": "root", "gid": "0", "banned": "0", "xattr": ""}


@pytest.mark.parametrize(
    ("command", "body", "status", "answer"),
    [
        ("dome_getidmap", {}, 422, None),
        ("dome_getidmap", {"groupnames": ["dteam"]}, 422, None),
        ("dome_getidmap", {"username": LONG}, 422, None),
        ("dome_getidmap", {"username": "/CN=a\tb"}, 422, None),
        ("dome_getidmap", {"username": ALICE, "groupnames": ["dteam "]}, 422, None),
        ("dome_getidmap", {"username": "a\0"}, 422, None),
        ("dome_getuser", {"username": ALICE}, 200, USER),
        ("dome_getuser", {"userid": "101", "username": "root"}, 200, USER),
        ("dome_getuser", {"userid": "0"}, 200, ROOT_USER),
        ("dome_getuser", {"userid": -5, "username": "root"}, 200, ROOT_USER),
        ("dome_getuser", {"userid": "-5"}, 400, None),
        ("dome_getuser", {"userid": "4294967295"}, 400, None),
        ("dome_getuser", {"userid": "abc", "username": ""}, 400, None),
        ("dome_getuser", {"userid": "9999"}, 404, None),
        ("dome_getuser", {"username": ALICE + " "}, 404, None),
        ("dome_getuser", {"username": "x" * 900_000}, 404, None),
        ("dome_getgroup", {"groupname": "dteam"}, 200, DTEAM),
        ("dome_getgroup", {"groupid": "101", "groupname": "atlas"}, 200, DTEAM),
        ("dome_getgroup", {"groupid": "0", "groupname": "dteam"}, 200, DTEAM),
        ("dome_getgroup", {"groupid": "0"}, 200, ROOT_GROUP),
        ("dome_getgroup", {"groupid": "abc"}, 422, None),
        ("dome_getgroup", {}, 422, None),
        ("dome_getgroup", {"groupid": "-1"}, 404, None),
        ("dome_getgroup", {"groupname": "dteam "}, 404, None),
        ("dome_newuser", {}, 422, None),
        ("dome_newuser", {"username": ALICE}, 400, None),
        ("dome_newuser", {"username": ALICE + "  "}, 400, None),
        ("dome_newuser", {"username": "root"}, 400, None),
        ("dome_newuser", {"username": LONG}, 400, None),
        ("dome_newuser", {"username": "a\nb"}, 400, None),
        ("dome_newgroup", {"groupname": ""}, 422, None),
        ("dome_newgroup", {"groupname": "dteam"}, 400, None),
        ("dome_deleteuser", {}, 422, None),
        ("dome_deletegroup", {}, 422, None),
        ("dome_deleteuser", {"username": "nobody"}, 200, ""),
        ("dome_deletegroup", {"groupname": LONG}, 200, ""),
        ("dome_updateuser", {}, 422, None),
        ("dome_updateuser", {"userid": "101"}, 422, None),
        ("dome_updateuser", {"username": "nobody"}, 422, None),
        ("dome_updateuser", {"username": ALICE + " "}, 422, None),
        ("dome_updateuser", {"username": LONG}, 422, None),
        ("dome_updateuser", {"uid": "9999"}, 422, None),
        ("dome_updateuser", {"username": ALICE, "xattr": "notjson"}, 422, None),
        ("dome_updateuser", {"username": ALICE, "xattr": "[1]"}, 422, None),
        ("dome_updateuser", {"username": ALICE, "xattr": json.dumps({"a": "b" * 1024})}, 422, None),
        ("dome_updategroup", {}, 422, None),
        ("dome_updategroup", {"gid": "101"}, 422, None),
        ("dome_updategroup", {"groupname": "none", "banned": "1"}, 422, None),
    ],
)  # fmt: skip
async def test_command_answers(
    lookups: Place, command: str, body: dict[str, Any], status: int, answer: Any
) -> None:
    got = await lookups.run(command, body)
    assert got[0] == status, got
    if answer is not None:
        assert got[1] == answer
    else:
        assert got[1].isprintable()
        assert len(got[1]) < 400


async def test_new_user_is_known_at_once_and_listed_last(place: Place) -> None:
    assert await place.run("dome_newuser", {"username": CAROL}) == (200, "")
    carol = {"username": CAROL, "userid": "103", "banned": "0", "xattr": ""}
    assert await place.run("dome_getuser", {"username": CAROL}) == (200, carol)
    status, answer = await place.run("dome_getusersvec")
    assert (status, [one["username"] for one in answer["users"]]) == (200, ["root", ALICE, BANNED, CAROL])


async def test_new_group_is_known_at_once_and_listed_last(place: Place) -> None:
    assert await place.run("dome_newgroup", {"groupname": "newvo"}) == (200, "")
    status, answer = await place.run("dome_getgroupsvec")
    assert (status, [one["gid"] for one in answer["groups"]]) == (200, ["0", "101", "102", "103", "104"])
    assert answer["groups"][-1] == {"groupname": "newvo", "gid": "104", "banned": "0", "xattr": ""}


async def test_no_users_are_an_empty_list(place: Place) -> None:
    await place.execute("DELETE FROM Cns_userinfo")
    assert await place.run("dome_getusersvec") == (200, {"users": ""})


async def test_update_replaces_ban_and_attributes(place: Place) -> None:
    body = {"username": ALICE, "banned": "2", "xattr": '{"uid": 5, "é": "\\/"}'}
    assert await place.run("dome_updateuser", body) == (200, "")
    changed = {**USER, "banned": "2", "xattr": body["xattr"]}
    assert await place.run("dome_getuser", {"username": ALICE}) == (200, changed)
    assert await place.run("dome_updateuser", {"uid": "101", "banned": "x"}) == (200, "")
    assert await place.run("dome_getuser", {"username": ALICE}) == (200, {**USER, "xattr": ""})


async def test_update_without_a_difference_is_done(place: Place) -> None:
    for _ in range(2):
        body = {"groupid": "101", "banned": "1", "xattr": "{}"}
        assert await place.run("dome_updategroup", body) == (200, "")
    changed = {**DTEAM, "banned": "1", "xattr": "{}"}
    assert await place.run("dome_getgroup", {"groupname": "dteam"}) == (200, changed)


async def test_delete_hits_nobody_but_the_one_who_is_named(place: Place) -> None:
    for name in (ALICE + " ", ALICE.lower()):
        assert await place.run("dome_deleteuser", {"username": name}) == (200, "")
    assert await place.user_rows(ALICE) == [101]
    assert await place.run("dome_deleteuser", {"username": ALICE}) == (200, "")
    assert await place.user_rows(ALICE) == []
    assert await place.run("dome_deletegroup", {"groupname": "dteam"}) == (200, "")
    assert await place.group_rows("dteam") == []


async def test_failing_database_is_no_answer(place: Place) -> None:
    await place.execute("RENAME TABLE Cns_groupinfo TO elsewhere")
    with pytest.raises(StatementError):
        await place.run("dome_getidmap", {"username": ALICE})
    with pytest.raises(StatementError):
        await place.run("dome_newgroup", {"groupname": "newvo"})
