"""What is told of file systems, pools, directories and quotatokens, and the rules of quotatokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.dome_api.people import ROOT_NAME
from dome_bridge.dome_api.quotatokens import (
    PATHS_PER_QUERY,
    QuotaToken,
    admits,
    covering,
    fits,
    gids_of,
    paths_to_measure,
    sizes_of,
    space_used,
    tokens_at,
    used_space,
)
from dome_bridge.dpm.source import Source
from sandbox.disk_node import SpaceReport
from sandbox.servers import MariaServer
from tests.fixtures.replay import dialogue
from tests.fixtures.spaces import DISK1, DISK2, HOME, ROOMS, Spaces, golden_spaces

DTEAM, ATLAS, VOLATILE = (
    f"{start}-e674-11f1-8e24-02fc00000001" for start in ("36a86b8b", "36ae47c9", "36b3eb00")
)
QUOTA = 107_374_182_400
HOME_SIZE = 10_000_007_000


@pytest.fixture(scope="module")
async def golden(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Spaces]:
    async with golden_spaces(maria, tmp_path_factory.mktemp("disks")) as spaces:
        yield spaces


@pytest.fixture
async def spaces(golden: Spaces) -> AsyncIterator[Spaces]:
    yield golden
    await golden.restore()


@pytest.fixture
async def well(spaces: Spaces) -> AsyncIterator[Spaces]:
    """For a test that changes file systems or disk servers: afterwards all is as before."""
    yield spaces
    await spaces.sql("UPDATE {dpm}.dpm_fs SET status = 0")
    for server, disk in spaces.disks.items():
        disk.heal()
        disk.report_space(SpaceReport(ROOMS[server]))
    await spaces.head.watch.reread()
    await spaces.head.watch.poll()


async def test_recorded_questions_are_answered_to_the_byte(spaces: Spaces) -> None:
    faults = []
    for line in dialogue("head-07-spaces"):
        answer = await spaces.call(line.method, line.command, line.body)
        recorded = line.answers[1]
        if (answer.status, answer.text) != (recorded.status, recorded.body):
            faults.append((line.seq, str(line), answer))
    # The root has a size as every directory; the original trimmed it to an empty path.
    [(seq, _, root)] = faults
    assert seq == 11
    assert root.json == dialogue("head-07-spaces")[10].answers[1].json | {"dirusedspace": str(HOME_SIZE)}


async def test_without_file_systems_their_list_is_an_empty_object(spaces: Spaces) -> None:
    rows = await spaces.rows("SELECT poolname, server, fs, status, weight FROM {dpm}.dpm_fs ORDER BY rowid")
    await spaces.sql("DELETE FROM {dpm}.dpm_fs")
    try:
        await spaces.head.watch.reread()
        answer = (await spaces.get("dome_getspaceinfo")).json
        pool = (await spaces.get("dome_statpool", poolname="poolvol")).json
    finally:
        for row in rows:
            await spaces.sql(
                "INSERT INTO {dpm}.dpm_fs (poolname, server, fs, status, weight) VALUES (%s, %s, %s, %s, %s)",
                row,
            )
        await spaces.head.watch.reread()
        await spaces.head.watch.poll()
    assert answer["fsinfo"] == {}
    assert answer["poolinfo"]["pool01"] == {"s_type": "P", "defsize": "1073741824"}
    assert pool == {"poolinfo": {"poolvol": {"s_type": "V", "defsize": "1048576"}}}


async def status_of(spaces: Spaces, pool: str) -> tuple[str, str, str]:
    info = (await spaces.get("dome_statpool", poolname=pool)).json["poolinfo"][pool]
    return info["poolstatus"], info["freespace"], info["physicalsize"]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((0, 0), ("0", "170000000000", str(2 * 270_553_174_016))),
        ((0, 2), ("0", "80000000000", str(2 * 270_553_174_016))),
        ((1, 0), ("0", "90000000000", str(270_553_174_016))),
        ((2, 2), ("2", "0", str(2 * 270_553_174_016))),
        ((1, 2), ("2", "0", str(270_553_174_016))),
        ((1, 1), ("1", "0", "0")),
    ],
)
async def test_pool_is_what_its_file_systems_allow(
    well: Spaces, statuses: tuple[int, int], expected: tuple[str, str, str]
) -> None:
    for server, status in zip((DISK1, DISK2), statuses, strict=True):
        await well.sql(
            "UPDATE {dpm}.dpm_fs SET status = %s WHERE server = %s AND poolname = 'pool01'", (status, server)
        )
    await well.head.watch.reread()
    assert await status_of(well, "pool01") == expected
    info = (await well.get("dome_getspaceinfo")).json
    assert info["poolinfo"]["pool01"]["poolstatus"] == "0"  # for each pool, as the original lists them
    assert info["fsinfo"][DISK2]["/storage/disk2/fs1"]["fsstatus"] == str(statuses[1])


async def test_server_that_does_not_answer_has_broken_file_systems(well: Spaces) -> None:
    well.disks[DISK2].cut()
    await well.head.watch.poll()
    info = (await well.get("dome_getspaceinfo")).json
    assert {fs["activitystatus"] for fs in info["fsinfo"][DISK2].values()} == {"2"}
    assert {fs["activitystatus"] for fs in info["fsinfo"][DISK1].values()} == {"1"}
    assert info["poolinfo"]["pool01"]["freespace"] == "80000000000"
    assert await status_of(well, "poolvol") == ("1", "0", "0")
    assert (await well.get("dome_getdirspaces", path="/dpm/test/home/vol")).json["poolfreespace"] == "0"
    token = (await well.get("dome_getquotatoken", path="/dpm/test/home/vol")).json[VOLATILE]
    assert (token["pooltotspace"], token["pathfreespace"]) == ("0", "0")


async def test_directory_is_measured_without_what_other_tokens_below_count(spaces: Spaces) -> None:
    sub = await spaces.make_directory(102, 6, "a", 600)
    await spaces.make_directory(103, sub, "b", 250)
    await spaces.make_token("a-token", f"{HOME}/a", 500)
    await spaces.make_token("b-token", f"{HOME}/a/b", 300, u_token="B", poolname="poolvol")
    home = (await spaces.get("dome_getdirspaces", path=HOME)).json
    assert home["quotausedspace"] == str(HOME_SIZE - 600)
    a = (await spaces.get("dome_getdirspaces", path=f"{HOME}/a//")).json
    assert a == {
        "quotatotspace": "500",
        "quotafreespace": "0",
        "quotausedspace": "350",
        "poolfreespace": "170000000000",
        "dirusedspace": "600",
        "quotatoken": "",
        "poolname": "pool01",
    }
    b = (await spaces.get("dome_getdirspaces", path=f"{HOME}/a/b/not/there")).json
    assert (b["quotatoken"], b["poolname"], b["dirusedspace"]) == ("B", "poolvol", "0")
    assert (b["quotafreespace"], b["quotausedspace"], b["poolfreespace"]) == ("300", "250", "60000000000")


async def test_tokens_of_one_path_add_up_and_the_last_names_them(spaces: Spaces) -> None:
    # Some upgraded databases have the column without its unique key.
    await spaces.alter("DROP INDEX path")
    try:
        await spaces.make_token("second", HOME, 1000, u_token="SECOND", poolname="pool02")
        answer = (await spaces.get("dome_getdirspaces", path=f"{HOME}/sub")).json
        listed = (await spaces.get("dome_getquotatoken", path=HOME)).json
    finally:
        await spaces.restore()
        await spaces.alter("ADD UNIQUE INDEX path (path)")
    assert answer == {
        "quotatotspace": str(QUOTA + 1000),
        "quotafreespace": str(QUOTA + 1000 - 4321),
        "quotausedspace": str(HOME_SIZE),
        "poolfreespace": "240000000000",
        "dirusedspace": "4321",
        "quotatoken": "SECOND",
        "poolname": "pool02",
    }
    assert list(listed) == [DTEAM, "second"]


async def test_token_on_the_root_counts_nowhere_but_is_listed(spaces: Spaces) -> None:
    await spaces.make_token("root", "/")
    for path in ("/", "/dpm"):
        answer = (await spaces.get("dome_getdirspaces", path=path)).json
        assert (answer["quotatoken"], answer["quotatotspace"]) == ("<unknown>", "0")
    assert (await spaces.get("dome_getquotatoken", path="/")).status == 404
    above = await spaces.get("dome_getquotatoken", path=f"{HOME}/sub", getparentdirs=True)
    assert list(above.json) == ["root", DTEAM]
    everything = await spaces.get("dome_getquotatoken", path="/", getsubdirs=True)
    assert list(everything.json) == ["root", ATLAS, DTEAM, VOLATILE]


async def test_legacy_token_without_path_is_only_in_the_list_of_all(spaces: Spaces) -> None:
    await spaces.make_token("legacy", None, 70, u_token=None, groups=None, poolname=None)
    everything = (await spaces.get("dome_getquotatoken", path="/", getsubdirs=True)).json
    assert everything["legacy"] == {
        "path": "",
        "quotatkname": "",
        "quotatkpoolname": "",
        "quotatktotspace": "70",
        "pooltotspace": "0",
        "pathusedspace": "0",
        "pathfreespace": "0",
        "groups": "",
    }
    for parameters in ({"path": ""}, {"path": HOME, "getparentdirs": True, "getsubdirs": True}):
        answer = await spaces.get("dome_getquotatoken", **parameters)
        assert "legacy" not in answer.text


async def test_token_of_a_directory_that_is_gone_is_not_listed(spaces: Spaces) -> None:
    await spaces.make_token("gone", f"{HOME}/gone")
    assert await spaces.get("dome_getquotatoken", path=f"{HOME}/gone") == (
        404,
        f"No quotatokens match path '{HOME}/gone'",
    )
    below = (await spaces.get("dome_getquotatoken", path="/dpm", getsubdirs=True)).json
    assert set(below) == {DTEAM, ATLAS, VOLATILE}


async def test_group_without_a_name_is_unknown(spaces: Spaces) -> None:
    await spaces.sql("UPDATE {dpm}.dpm_space_reserv SET `groups` = '0,999,103' WHERE path = %s", (HOME,))
    token = (await spaces.get("dome_getquotatoken", path=HOME)).json[DTEAM]
    assert list(token["groups"].items()) == [
        ("0", "root"),
        ("999", "<unknown>"),
        ("103", "cms/Role=production"),
    ]


async def test_free_space_of_a_token_ends_where_the_pool_ends(spaces: Spaces) -> None:
    total = 2 * 270_553_174_016
    await spaces.sql("UPDATE {dpm}.dpm_space_reserv SET t_space = %s WHERE path = %s", (total * 2, HOME))
    token = (await spaces.get("dome_getquotatoken", path=HOME)).json[DTEAM]
    assert token["pathfreespace"] == str(total - HOME_SIZE)


async def test_change_by_somebody_else_is_seen_at_once(spaces: Spaces) -> None:
    await spaces.sql("UPDATE {dpm}.dpm_space_reserv SET t_space = 7, u_token = 'X' WHERE path = %s", (HOME,))
    answer = (await spaces.get("dome_getdirspaces", path=HOME)).json
    assert (answer["quotatotspace"], answer["quotatoken"], answer["quotafreespace"]) == ("7", "X", "0")


# What dmlite-shell sends: booleans of JSON, and nothing that is false.
@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"path": "%s/sub", "getparentdirs": true}', [DTEAM]),
        (b'{"path": "%s", "getparentdirs": true}', [DTEAM]),
        (b'{"path": "/dpm/test", "getsubdirs": true}', [ATLAS, DTEAM, VOLATILE]),
        (b'{"getsubdirs": true}', [ATLAS, DTEAM, VOLATILE]),
        (b'{"path": "%s", "getsubdirs": false}', [DTEAM]),
        (b'{"path": "%s/sub", "getparentdirs": "1"}', [DTEAM]),
        (b'{"path": "%s/sub", "getparentdirs": "yes"}', []),
    ],
)
async def test_shell_finds_the_tokens_it_asks_for(spaces: Spaces, body: bytes, found: list[str]) -> None:
    answer = await spaces.call("GET", "dome_getquotatoken", body.replace(b"%s", HOME.encode()))
    assert (list(answer.json) if answer.status == 200 else []) == found


async def measured(spaces: Spaces, *paths: str) -> tuple[dict[str, int], int]:
    """The sizes, and how many questions to the database they took."""

    async def work(source: Source) -> tuple[dict[str, int], int]:
        before = await asked(source)
        sizes = await sizes_of(source, paths)
        return sizes, await asked(source) - before

    return await spaces.head.database.read(work)


async def asked(source: Source) -> int:
    row = await source.fetchrow("SHOW SESSION STATUS LIKE 'Com_select'")
    assert row is not None
    return int(row[1])


async def test_sizes_of_many_paths_take_few_questions(spaces: Spaces) -> None:
    for fileid in range(200, 230):
        await spaces.make_directory(fileid, 6, f"d{fileid}", fileid)
    paths = [f"{HOME}/d{fileid}" for fileid in range(200, 230)]
    assert await measured(spaces, *paths) == ({path: 200 + nth for nth, path in enumerate(paths)}, 1)
    many = [f"{HOME}/missing{nth}" for nth in range(PATHS_PER_QUERY)]
    sizes, questions = await measured(spaces, "/", *many, paths[-1], HOME, "/")
    assert (sizes, questions) == ({"/": HOME_SIZE, HOME: HOME_SIZE, paths[-1]: 229}, 2)
    assert await measured(spaces) == ({}, 0)


async def test_only_names_of_the_same_bytes_are_measured(spaces: Spaces) -> None:
    await spaces.make_directory(102, 6, "blank", 5)
    await spaces.make_directory(103, 6, b"\xff\xfe", 7)
    names = (
        "blank",
        "blank ",
        "BLANK",
        "\udcff\udcfe",
        "x" * 256,
        "",
        ".",
        "sub/..",
        "legacy_ad/..",
        "sub/../..",
    )
    paths = {name: f"{HOME}/{name}" for name in names}
    sizes, _ = await measured(spaces, *paths.values())
    assert {name: sizes[path] for name, path in paths.items() if path in sizes} == {
        "blank": 5,
        "\udcff\udcfe": 7,
        "": HOME_SIZE,
        ".": HOME_SIZE,
        "sub/..": HOME_SIZE,
        "sub/../..": HOME_SIZE,
    }
    assert (await measured(spaces, "", "dpm", "dpm/test"))[0] == {}


async def test_path_deeper_than_one_join_is_measured(spaces: Spaces) -> None:
    path, parent = HOME, 6
    for fileid in range(200, 220):
        parent = await spaces.make_directory(fileid, parent, "deep", fileid)
        path += "/deep"
    assert (await measured(spaces, path))[0] == {path: 219}


async def test_used_space_takes_one_question_however_many_tokens_are_below(spaces: Spaces) -> None:
    for fileid in range(200, 210):
        await spaces.make_directory(fileid, 6, f"d{fileid}", 10)
        await spaces.make_token(f"t{fileid}", f"{HOME}/d{fileid}")
    tokens = await spaces.tokens()
    [token] = tokens_at(tokens, HOME)

    async def work(source: Source) -> tuple[int, int]:
        before = await asked(source)
        return await used_space(source, token, tokens), await asked(source) - before

    assert await spaces.head.database.read(work) == (HOME_SIZE - 100, 1)


def token(path: str, *, t_space: int = 100, gids: tuple[int, ...] = (0,)) -> QuotaToken:
    return QuotaToken(f"id of {path}", "", "pool01", path, t_space, 0, gids)


# Few names, so that tokens lie on and below each other.
NAMES = st.sampled_from(["a", "b", "ab", "a "])
PATHS = st.lists(NAMES, min_size=1, max_size=5).map(lambda names: "/" + "/".join(names))
ODD_PATHS = PATHS | st.sampled_from(["", "/", "//", "/a/", "/a//b", "a/b"])


@given(st.lists(ODD_PATHS, max_size=8), ODD_PATHS)
def test_directory_is_covered_by_the_longest_path_that_it_begins_with(
    token_paths: list[str], path: str
) -> None:
    tokens = [token(each) for each in token_paths]
    beginnings = [
        each for each in token_paths
        if each not in ("", "/") and (path == each or path.startswith(each + "/"))
    ]  # fmt: skip
    deepest = max(beginnings, key=len, default=None)
    assert covering(tokens, path) == [each for each in tokens if each.path == deepest]


@given(st.dictionaries(PATHS, st.integers(0, 10**6), max_size=12), st.sets(PATHS, max_size=8))
def test_each_byte_is_counted_by_the_deepest_token_above_it(
    own_bytes: Mapping[str, int], token_paths: set[str]
) -> None:
    tokens = [token(path) for path in sorted(token_paths)]
    sizes = {
        path: sum(size for place, size in own_bytes.items() if place == path or place.startswith(path + "/"))
        for path in token_paths
    }
    for each in tokens:
        mine = sum(size for place, size in own_bytes.items() if covering(tokens, place) == [each])
        wanted = paths_to_measure(each, tokens)
        assert space_used(each, tokens, {path: sizes[path] for path in wanted}) == mine
        assert len(wanted) == len(set(wanted))


def test_used_space_never_falls_below_nothing() -> None:
    tokens = [token("/a"), token("/a/b")]
    assert space_used(tokens[0], tokens, {"/a": 5, "/a/b": 9}) == 0
    assert space_used(tokens[1], tokens, {}) == 0


def test_token_with_a_slash_at_its_end_takes_nothing_from_the_one_without() -> None:
    tokens = [token("/a"), token("/a/")]
    assert space_used(tokens[0], tokens, {"/a": 5, "/a/": 5}) == 5


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_only_more_room_than_needed_is_enough(t_space: int, used: int, needed: int) -> None:
    assert fits(token("/a", t_space=t_space), used, needed) == (used + needed < t_space)


@pytest.mark.parametrize(
    ("gids", "groups", "passes"),
    [
        ((0, 101), ["dteam"], True),
        ((0, 101), ["atlas", "dteam"], True),
        ((0, 101), ["atlas"], False),
        ((0, 101), ["dteam/Role=production"], False),
        ((0, 101), [], False),
        ((0, 101), [ROOT_NAME], True),
        ((101,), [ROOT_NAME], False),
        ((), [ROOT_NAME], True),
        ((), ["dteam"], False),
        ((0, 999), ["999", "None", "<unknown>"], False),
    ],
)
def test_token_admits_groups_by_name(gids: tuple[int, ...], groups: Sequence[str], passes: bool) -> None:
    assert admits(token("/a", gids=gids), {0: ROOT_NAME, 101: "dteam", 102: "atlas"}, groups) is passes


@pytest.mark.parametrize(
    ("text", "gids"),
    [("0,101,102", (0, 101, 102)), ("", ()), (" 7 ,x,-1,,7", (7,)), ("\u0663", ()), ("0", (0,))],
)
def test_groups_of_a_token_are_the_numbers_in_its_list(text: str, gids: tuple[int, ...]) -> None:
    assert gids_of(text) == gids


async def test_description_comes_back_as_it_is(spaces: Spaces) -> None:
    text = 'a "b"\\/ü'
    await spaces.sql("UPDATE {dpm}.dpm_space_reserv SET u_token = %s WHERE path = %s", (text, HOME))
    assert (await spaces.get("dome_getdirspaces", path=HOME)).json["quotatoken"] == text
