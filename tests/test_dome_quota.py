"""Making, changing and deleting quotatokens: what is stored, what is refused, and many clients at once."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dpm.schema import read_layout
from dome_bridge.dpm.source import Source, StatementError
from dome_bridge.exporter.fence import lift_fence, raise_fence
from sandbox.servers import MariaServer
from tests.fixtures.dome import FRONTEND
from tests.fixtures.source import dpm_config
from tests.fixtures.spaces import HOME, Spaces, golden_spaces

SUB = f"{HOME}/sub"
DTEAM = "36a86b8b-e674-11f1-8e24-02fc00000001"
QUOTA = 107_374_182_400
COLUMNS = (
    *("s_token", "client_dn", "s_uid", "s_gid", "ret_policy", "ac_latency", "s_type", "u_token", "t_space"),
    *("g_space", "u_space", "poolname", "expire_time", "`groups`", "path"),
)
ADMIN = RemoteUser("/DC=test/CN=Admin", "10.0.0.1", ("root",))


@pytest.fixture(scope="module")
async def golden(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Spaces]:
    async with golden_spaces(maria, tmp_path_factory.mktemp("disks")) as spaces:
        await spaces.sql("INSERT INTO {dpm}.dpm_pool (poolname, defsize, s_type) VALUES ('empty', 1, 'P')")
        yield spaces


@pytest.fixture
async def spaces(golden: Spaces) -> AsyncIterator[Spaces]:
    yield golden
    await golden.restore()


async def stored(spaces: Spaces, path: str | None = SUB) -> list[dict[str, Any]]:
    """The rows of a path, in the order they were made."""
    rows = await spaces.rows(
        f"SELECT {', '.join(COLUMNS)} FROM {{dpm}}.dpm_space_reserv WHERE path <=> %s ORDER BY rowid", (path,)
    )
    names = [name.strip("`") for name in COLUMNS]
    return [dict(zip(names, row, strict=True)) for row in rows]


async def all_rows(spaces: Spaces) -> list[tuple[Any, ...]]:
    return await spaces.rows("SELECT * FROM {dpm}.dpm_space_reserv ORDER BY rowid")


async def test_new_token_is_stored_like_dome_does(spaces: Spaces) -> None:
    answer = await spaces.post(
        "dome_setquotatoken",
        ADMIN,
        path=SUB,
        poolname="pool01",
        quotaspace=1000,
        description="SHTOK",
        groups="atlas,dteam,root,atlas",
    )
    assert answer == (200, "Quotatoken written. poolname: 'pool01' t_space: 1000 u_token: 'SHTOK'")
    [row] = await stored(spaces)
    assert uuid.UUID(row.pop("s_token"))
    assert row == {
        "client_dn": ADMIN.dn,
        "s_uid": 0,
        "s_gid": 0,
        "ret_policy": "_",
        "ac_latency": "0",
        "s_type": "-",
        "u_token": "SHTOK",
        "t_space": 1000,
        "g_space": 1000,
        "u_space": 1000,
        "poolname": "pool01",
        "expire_time": 2_147_483_647,
        "groups": "0,102,101",
        "path": SUB,
    }
    [(age,)] = await spaces.rows(
        "SELECT UNIX_TIMESTAMP() - assign_time FROM {dpm}.dpm_space_reserv WHERE path = %s", (SUB,)
    )
    assert 0 <= age < 60


async def test_new_token_is_seen_at_once(spaces: Spaces) -> None:
    await spaces.post("dome_setquotatoken", path=f"{SUB}//", poolname="pool02", quotaspace="5000")
    [token] = (await spaces.get("dome_getquotatoken", path=SUB)).json.values()
    assert (token["path"], token["quotatkname"], token["quotatktotspace"]) == (SUB, "(unnamed)", "5000")
    assert token["groups"] == {"0": "root"}
    home = (await spaces.get("dome_getdirspaces", path=HOME)).json
    assert home["quotausedspace"] == str(10_000_007_000 - 4321)


@pytest.mark.parametrize(
    ("user", "peer", "creator"),
    [
        (ADMIN, FRONTEND, ADMIN.dn),
        (RemoteUser(), FRONTEND, FRONTEND),
        (RemoteUser(), "", "(unknown)"),
        (RemoteUser("/CN=" + "x" * 252), FRONTEND, FRONTEND),
    ],
)
async def test_creator_is_the_user_or_else_the_peer(
    spaces: Spaces, user: RemoteUser, peer: str, creator: str
) -> None:
    body = json.dumps({"path": SUB, "poolname": "pool01"}).encode()
    await spaces.call("POST", "dome_setquotatoken", body, user, peer)
    assert [row["client_dn"] for row in await stored(spaces)] == [creator]


async def test_identifier_of_the_client_is_kept(spaces: Spaces) -> None:
    await spaces.post("dome_setquotatoken", path=SUB, poolname="pool01", uniqueid="my-own")
    assert [row["s_token"] for row in await stored(spaces)] == ["my-own"]
    await spaces.post("dome_setquotatoken", path=SUB, poolname="pool01", uniqueid="another")
    assert [row["s_token"] for row in await stored(spaces)] == ["another"]
    await spaces.post("dome_setquotatoken", path=SUB, poolname="pool01")
    assert [row["s_token"] for row in await stored(spaces)] == ["another"]


REFUSED = [
    ({"poolname": "none"}, 404, "Cannot find pool"),
    ({"poolname": ""}, 404, "Cannot find pool"),
    ({"poolname": "empty"}, 404, "Cannot find pool"),
    ({"poolname": "pool01 "}, 404, "Cannot find pool"),
    ({"poolname": "POOL01"}, 404, "Cannot find pool"),
    ({"poolname": "p\n" * 5000}, 404, "Cannot find pool"),
    ({"path": "/p\n" * 5000}, 404, "Cannot find logical path"),
    ({"path": f"{HOME}/none"}, 404, "Cannot find logical path"),
    ({"path": ""}, 404, "Cannot find logical path"),
    ({"path": SUB[1:]}, 404, "Cannot find logical path"),
    ({"path": f"{SUB} "}, 404, "Cannot find logical path"),
    ({"groups": "nobody"}, 422, "Invalid group name: 'nobody'"),
    ({"groups": "dteam, atlas"}, 422, "Invalid group name: ' atlas'"),
    ({"groups": "dteam ,atlas"}, 422, "Invalid group name: 'dteam '"),
    ({"groups": "dteam,"}, 422, "Invalid group name: ''"),
    ({"groups": "101"}, 422, "Invalid group name: '101'"),
    ({"groups": "x" * 300}, 422, "Invalid group name"),
    ({"quotaspace": "10GB"}, 422, "quotaspace"),
    ({"quotaspace": ""}, 422, "quotaspace"),
    ({"quotaspace": None}, 422, "quotaspace"),
    ({"quotaspace": 1.5}, 422, "quotaspace"),
    ({"quotaspace": -1}, 422, "below 0"),
    ({"quotaspace": 2**63}, 422, "quotaspace"),
    ({"description": "é" * 128}, 422, "longer than 255 bytes"),
    ({"uniqueid": "x" * 37}, 422, "longer than 36 bytes"),
    ({"uniqueid": DTEAM}, 422, "another one has its path or its id"),
    ({"path": HOME, "poolname": "pool02"}, 422, "another one has its path or its id"),
    ({"description": "a\0b"}, 422, "NUL"),
]


@pytest.mark.parametrize(("changes", "status", "words"), REFUSED)
async def test_refused_token_changes_nothing(
    spaces: Spaces, changes: dict[str, Any], status: int, words: str
) -> None:
    before = await all_rows(spaces)
    parameters: dict[str, Any] = {"path": SUB, "poolname": "pool01", "quotaspace": 1}
    answer = await spaces.post("dome_setquotatoken", **(parameters | changes))
    assert answer.status == status
    assert words in answer.text
    assert "\n" not in answer.text
    assert len(answer.text) < 300
    assert await all_rows(spaces) == before


async def test_path_too_long_for_the_column_is_refused(spaces: Spaces) -> None:
    sub = await spaces.make_directory(102, 6, "l" * 150)
    await spaces.make_directory(103, sub, "m" * 150)
    path = f"{HOME}/{'l' * 150}/{'m' * 150}"
    answer = await spaces.post("dome_setquotatoken", path=path, poolname="pool01")
    assert answer == (422, "the quotatoken's path is longer than 255 bytes")


async def test_more_groups_than_the_column_holds_are_refused(spaces: Spaces) -> None:
    names = [f"g{number}" for number in range(40)]
    for number, name in enumerate(names):
        await spaces.sql(
            "INSERT INTO {cns}.Cns_groupinfo (gid, groupname, banned) VALUES (%s, %s, 0)",
            (1_000_000 + number, name),
        )
    answer = await spaces.post("dome_setquotatoken", path=SUB, poolname="pool01", groups=",".join(names))
    assert answer == (422, "the quotatoken's groups is longer than 255 bytes")
    assert await stored(spaces) == []


async def test_group_whose_row_has_the_number_of_root_is_none(spaces: Spaces) -> None:
    await spaces.sql("INSERT INTO {cns}.Cns_groupinfo (gid, groupname, banned) VALUES (0, 'evil', 0)")
    try:
        answer = await spaces.post("dome_setquotatoken", path=SUB, poolname="pool01", groups="evil")
    finally:
        await spaces.sql("DELETE FROM {cns}.Cns_groupinfo WHERE groupname = 'evil'")
    assert answer.status == 422


# From a whole of 1000 of which 400 are unused.
@pytest.mark.parametrize(
    ("quota", "unused"),
    [(None, 400), (1000, 400), (1500, 900), (700, 100), (500, -100), (0, -600), (2**63 - 1, 2**63 - 601)],
)
async def test_unused_space_changes_as_the_quota_does(spaces: Spaces, quota: int | None, unused: int) -> None:
    await spaces.make_token("t", SUB, 1000, g_space=5, u_space=400)
    parameters: dict[str, Any] = {} if quota is None else {"quotaspace": quota}
    await spaces.post("dome_setquotatoken", path=SUB, poolname="pool01", **parameters)
    [row] = await stored(spaces)
    whole = 1000 if quota is None else quota
    assert (row["t_space"], row["g_space"], row["u_space"]) == (whole, whole, unused)


async def test_unused_space_is_at_most_the_whole_and_no_less_than_the_column_holds(spaces: Spaces) -> None:
    await spaces.make_token("t", SUB, 1000, u_space=2000)
    await spaces.post("dome_setquotatoken", path=SUB, poolname="pool01", quotaspace=1100)
    assert [row["u_space"] for row in await stored(spaces)] == [1100]
    await spaces.sql(
        "UPDATE {dpm}.dpm_space_reserv SET t_space = %s, u_space = %s WHERE path = %s", (2**64 - 1, -5, SUB)
    )
    await spaces.post("dome_setquotatoken", path=SUB, poolname="pool01", quotaspace=1)
    assert [row["u_space"] for row in await stored(spaces)] == [-(2**63)]


async def test_what_is_not_given_stays(spaces: Spaces) -> None:
    [before] = await stored(spaces, HOME)
    answer = await spaces.post("dome_setquotatoken", path=HOME, poolname="pool01")
    assert answer == (
        200, f"Quotatoken written. poolname: 'pool01' t_space: {QUOTA} u_token: 'DTEAM_TOKEN'"
    )  # fmt: skip
    assert await stored(spaces, HOME) == [before]
    await spaces.post("dome_setquotatoken", path=HOME, poolname="pool01", groups="root")
    assert await stored(spaces, HOME) == [before | {"groups": "0"}]
    await spaces.post("dome_setquotatoken", ADMIN, path=HOME, poolname="pool01", description="new")
    assert await stored(spaces, HOME) == [before | {"groups": "0", "u_token": "new"}]


async def test_clients_that_set_one_token_at_once_make_one_row(spaces: Spaces) -> None:
    paths = (SUB, "/dpm/test/home/cms")
    answers = await asyncio.gather(
        *(
            spaces.post("dome_setquotatoken", path=path, poolname="pool01", quotaspace=space)
            for space in range(1000, 1012)
            for path in paths
        )
    )
    assert {answer.status for answer in answers} == {200}
    for path in paths:
        [row] = await stored(spaces, path)
        assert 1000 <= row["t_space"] < 1012
        assert row["t_space"] == row["g_space"] == row["u_space"]


async def test_without_a_unique_key_clients_still_make_one_row(spaces: Spaces) -> None:
    await spaces.alter("DROP INDEX path")
    try:
        answers = await asyncio.gather(
            *(
                spaces.post("dome_setquotatoken", path=SUB, poolname="pool01", quotaspace=space)
                for space in range(1000, 1008)
            )
        )
        rows = await stored(spaces)
    finally:
        await spaces.restore()
        await spaces.alter("ADD UNIQUE INDEX path (path)")
    assert {answer.status for answer in answers} == {200}
    assert len(rows) == 1


async def test_uploads_meanwhile_are_not_forgotten(spaces: Spaces) -> None:
    await spaces.make_token("t", SUB, 10_000, u_space=10_000)

    async def upload() -> None:
        await spaces.sql("UPDATE {dpm}.dpm_space_reserv SET u_space = u_space - 10 WHERE s_token = 't'")

    quotas = [
        spaces.post("dome_modquotatoken", tokenid="t", quotaspace=space) for space in range(20_000, 20_010)
    ]
    await asyncio.gather(*quotas, *(upload() for _ in range(20)))
    [row] = await stored(spaces)
    assert row["t_space"] - row["u_space"] == 200


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"quotaspace": QUOTA + 5}, {"t_space": QUOTA + 5, "g_space": QUOTA + 5, "u_space": QUOTA + 5}),
        ({"quotaspace": "0"}, {"t_space": 0, "g_space": 0, "u_space": 0}),
        ({"description": "new"}, {"u_token": "new"}),
        ({"description": ""}, {}),
        ({"poolname": "nowhere"}, {"poolname": "nowhere"}),
        ({"path": "/not/there/"}, {"path": "/not/there"}),
        ({"groups": "atlas"}, {"groups": "0,102"}),
        ({}, {}),
    ],
)
async def test_token_is_modified_by_its_id(
    spaces: Spaces, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    [before] = await stored(spaces, HOME)
    answer = await spaces.post("dome_modquotatoken", tokenid=DTEAM, **changes)
    row = before | expected
    assert answer == (
        200,
        "Quotatoken written. poolname: '{poolname}' t_space: {t_space} u_token: '{u_token}'".format_map(row),
    )
    assert await stored(spaces, row["path"]) == [row]
    assert len(await all_rows(spaces)) == 3


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"tokenid": ""}, 422, "token id"),
        ({"tokenid": "unknown"}, 404, "'unknown'"),
        ({"tokenid": f"{DTEAM} "}, 404, "No quotatoken"),
        ({"tokenid": "x" * 5000}, 404, "No quotatoken"),
        ({"groups": "nobody"}, 422, "Invalid group name"),
        ({"quotaspace": "much"}, 422, "quotaspace"),
        ({"poolname": "p" * 16}, 422, "longer than 15 bytes"),
        ({"path": "/" + "p" * 255}, 422, "longer than 255 bytes"),
        ({"path": "/dpm/test/home/atlas"}, 422, "another one has its path"),
    ],
)
async def test_refused_modification_changes_nothing(
    spaces: Spaces, changes: dict[str, Any], status: int, words: str
) -> None:
    before = await all_rows(spaces)
    parameters: dict[str, Any] = {"tokenid": DTEAM, "quotaspace": 1} | changes
    answer = await spaces.post("dome_modquotatoken", **parameters)
    assert answer.status == status
    assert words in answer.text
    assert len(answer.text) < 300
    assert await all_rows(spaces) == before


async def test_token_without_a_path_keeps_none(spaces: Spaces) -> None:
    for name in ("one", "two"):
        await spaces.make_token(name, None)
        assert (await spaces.post("dome_modquotatoken", tokenid=name, quotaspace=5)).status == 200
    rows = await stored(spaces, None)
    assert [(row["s_token"], row["t_space"], row["groups"]) for row in rows] == [
        ("one", 5, None),
        ("two", 5, None),
    ]


async def test_token_is_deleted_by_path_and_pool(spaces: Spaces) -> None:
    assert await spaces.post("dome_delquotatoken", path=HOME, poolname="pool01") == (
        200,
        "Quotatoken deleted. poolname: 'pool01'",
    )
    assert len(await all_rows(spaces)) == 2
    assert (await spaces.get("dome_getquotatoken", path=HOME)).status == 404
    assert (await spaces.post("dome_delquotatoken", path=HOME, poolname="pool01")).status == 404


@pytest.mark.parametrize(
    ("path", "pool"),
    [
        (HOME, "none"),
        (HOME, "empty"),
        (HOME, ""),
        (HOME, "pool02"),
        (HOME, "pool01 "),
        (f"{HOME}/", "pool01"),
        (f"{HOME} ", "pool01"),
        (SUB, "pool01"),
        ("", "pool01"),
    ],
)
async def test_unknown_token_is_not_deleted(spaces: Spaces, path: str, pool: str) -> None:
    await spaces.make_token("legacy", None)
    before = await all_rows(spaces)
    assert (await spaces.post("dome_delquotatoken", path=path, poolname=pool)).status == 404
    assert await all_rows(spaces) == before


async def test_token_stored_with_a_slash_at_its_end_can_be_deleted(spaces: Spaces) -> None:
    await spaces.make_token("odd", f"{SUB}/")
    assert (await spaces.post("dome_delquotatoken", path=f"{SUB}/", poolname="pool01")).status == 200
    assert await stored(spaces, f"{SUB}/") == []


# As dmlite-shell sends them: numbers without quotes, and nothing that is 0 or empty.
async def test_shell_makes_changes_and_deletes_a_token(spaces: Spaces) -> None:
    body = (
        b'{"path": "/dpm/test/home/dteam/sub", "poolname": "pool01", "quotaspace": 10737418240,'
        b' "description": "SHTOK", "groups": "dteam"}'
    )
    assert (await spaces.call("POST", "dome_setquotatoken", body)).status == 200
    found = await spaces.call(
        "GET", "dome_getquotatoken", b'{"path": "%s", "getparentdirs": true}' % SUB.encode()
    )
    tokens = {token["path"]: (name, token["quotatktotspace"]) for name, token in found.json.items()}
    assert tokens[HOME] == (DTEAM, str(QUOTA))
    name, space = tokens[SUB]
    assert space == "10737418240"
    changed = await spaces.call("POST", "dome_modquotatoken", b'{"tokenid": "%s"}' % name.encode())
    assert changed.text == "Quotatoken written. poolname: 'pool01' t_space: 10737418240 u_token: 'SHTOK'"
    gone = b'{"path": "/dpm/test/home/dteam/sub", "poolname": "pool01"}'
    assert (await spaces.call("POST", "dome_delquotatoken", gone)).status == 200
    assert await stored(spaces) == []


async def test_shell_makes_a_token_of_size_0_by_leaving_the_size_out(spaces: Spaces) -> None:
    body = b'{"path": "/dpm/test/home/dteam/sub", "poolname": "pool01", "description": "NOTHING"}'
    answer = await spaces.call("POST", "dome_setquotatoken", body)
    assert answer.text == "Quotatoken written. poolname: 'pool01' t_space: 0 u_token: 'NOTHING'"


async def test_fence_keeps_its_own_answer(spaces: Spaces) -> None:
    before = await all_rows(spaces)
    admin = dpm_config(
        spaces.site, admin_user=spaces.maria.admin_user, admin_password=spaces.maria.admin_password
    )
    async with await Source.connect(admin, admin=True) as source:
        await raise_fence(source, await read_layout(source))
        try:
            for command, parameters in (
                ("dome_setquotatoken", {"path": SUB, "poolname": "pool01"}),
                ("dome_setquotatoken", {"path": HOME, "poolname": "pool01", "quotaspace": 1}),
                ("dome_modquotatoken", {"tokenid": DTEAM, "quotaspace": 1}),
                ("dome_delquotatoken", {"path": HOME, "poolname": "pool01"}),
            ):
                with pytest.raises(StatementError, match="fence"):
                    await spaces.post(command, **parameters)
        finally:
            await lift_fence(source)
    assert await all_rows(spaces) == before


async def test_statement_that_is_wrong_is_no_refusal(spaces: Spaces) -> None:
    await spaces.alter("ADD COLUMN odd INT NOT NULL")
    try:
        with pytest.raises(StatementError, match="odd"):
            await spaces.post("dome_setquotatoken", path=SUB, poolname="pool01")
    finally:
        await spaces.alter("DROP COLUMN odd")
