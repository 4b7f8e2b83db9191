"""Making, changing and removing pools and file systems: what is written, what is refused, who wins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from dome_bridge.dome_api.cluster import FileSystem
from dome_bridge.dome_api.cluster_watch import ClusterWatch
from dome_bridge.dome_api.commands_pools import add_pool
from dome_bridge.dome_api.disk_client import DiskClient
from dome_bridge.dome_api.head import Call, Head
from dome_bridge.dome_api.pool_admin import Place
from dome_bridge.dome_api.request import RemoteUser, Request
from dome_bridge.dome_api.wire import Parameters
from dome_bridge.dpm.pool import ConnectionPool
from dome_bridge.dpm.schema import read_layout
from dome_bridge.exporter.fence import lift_fence, raise_fence
from dome_bridge.exporter.session import admin_source
from sandbox.servers import MariaServer, free_port
from tests.fixtures.admin import ROOM, Answered, Caller, Cluster, running_cluster
from tests.fixtures.dome import HEAD, Silent

DISK1, DISK2 = "disk1.test", "disk2.test"
ALICE = RemoteUser("/DC=test/DC=dmlite/OU=users/CN=Alice Tester", "10.0.0.1", ("dteam",))
GIBIBYTE = 2**30


@pytest.fixture(scope="module")
async def cluster(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with running_cluster(maria, tmp_path_factory.mktemp("pools")) as cluster:
        yield cluster


@pytest.fixture
async def admin(cluster: Cluster) -> AsyncIterator[Caller]:
    yield await cluster.caller()
    for disk in cluster.disks.values():
        disk.heal()
        disk.calls.clear()


@pytest.fixture
async def pool(cluster: Cluster, admin: Caller) -> str:
    """A new one without file systems."""
    name = cluster.name("p")
    assert await admin.post("dome_addpool", poolname=name) == Answered(200, "Pool was created.")
    return name


async def added(admin: Caller, pool: str, server: str, fs: str) -> None:
    answer = await admin.post("dome_addfstopool", poolname=pool, server=server, fs=fs)
    assert answer == Answered(200, "New filesystem added.")


async def pool_row(cluster: Cluster, name: str) -> tuple[Any, ...] | None:
    rows = await cluster.rows(f"SELECT defsize, s_type FROM {{dpm}}.dpm_pool WHERE poolname = '{name}'")
    return rows[0] if rows else None


async def fs_rows(cluster: Cluster, fs: str) -> list[tuple[Any, ...]]:
    """Pool, server, status and weight of those with the path."""
    return await cluster.rows(
        f"SELECT poolname, server, status, weight FROM {{dpm}}.dpm_fs WHERE fs = '{fs}' ORDER BY rowid"
    )


async def told(admin: Caller, server: str, fs: str) -> dict[str, str]:
    """What the head says of a file system."""
    found: dict[str, str] = (await admin.get("dome_getspaceinfo")).json["fsinfo"][server][fs]
    return found


async def test_new_pool_has_the_row_that_dome_gives_it(cluster: Cluster, pool: str) -> None:
    [row] = await cluster.rows(
        "SELECT defsize, gc_start_thresh, gc_stop_thresh, def_lifetime, defpintime, max_lifetime, maxpintime,"
        " fss_policy, gc_policy, mig_policy, rs_policy, `groups`, ret_policy, s_type, pooltype, poolmeta"
        f" FROM {{dpm}}.dpm_pool WHERE poolname = '{pool}'"
    )
    policies = ("maxfreespace", "lru", "none", "fifo", "0", "R", "P")
    assert row == (3 * GIBIBYTE, 0, 0, 604800, 7200, 2592000, 43200, *policies, None, None)


async def test_new_pool_is_known_at_once(admin: Caller, pool: str) -> None:
    assert (await admin.get("dome_statpool", poolname=pool)).json == {
        "poolinfo": {pool: {"s_type": "P", "defsize": str(3 * GIBIBYTE)}}
    }


@pytest.mark.parametrize(
    ("given", "row"),
    [
        ({"pool_stype": "V"}, (3 * GIBIBYTE, "V")),
        ({"pool_defsize": 2**20}, (2**20, "P")),
        ({"pool_defsize": "5497558138880", "pool_stype": "P"}, (5 * 2**40, "P")),
        ({"pool_defsize": " "}, (3 * GIBIBYTE, "P")),
        ({"pool_defsize": 2**63 - 1}, (2**63 - 1, "P")),
    ],
)
async def test_new_pool_has_what_is_given(
    cluster: Cluster, admin: Caller, given: dict[str, Any], row: tuple[int, str]
) -> None:
    name = cluster.name("p")
    assert (await admin.post("dome_addpool", poolname=name, **given)).status == 200
    assert await pool_row(cluster, name) == row


BAD_SIZES = [
    {"pool_defsize": 2**20 - 1},
    {"pool_defsize": -1},
    {"pool_defsize": 0},
    {"pool_defsize": "5G"},
    {"pool_defsize": 2**63},
    {"pool_defsize": True},
]
BAD_NAMES = [
    {"poolname": ""},
    {"poolname": "0123456789abcdef"},
    {"poolname": "\u00e9" * 8},
    {"poolname": "a\nb"},
]


@pytest.mark.parametrize(
    "given", [*BAD_NAMES, *BAD_SIZES, *({"pool_stype": each} for each in ("", "p", "X", "PV", "-"))]
)
async def test_pool_that_cannot_be_is_not_made(
    cluster: Cluster, admin: Caller, given: dict[str, Any]
) -> None:
    before = await cluster.rows("SELECT COUNT(*) FROM {dpm}.dpm_pool")
    answer = await admin.post("dome_addpool", **({"poolname": cluster.name("p")} | given))
    assert answer.status == 422
    assert "\n" not in answer.text
    assert await cluster.rows("SELECT COUNT(*) FROM {dpm}.dpm_pool") == before


async def test_longest_name_of_a_pool_fits(cluster: Cluster, admin: Caller) -> None:
    assert (await admin.post("dome_addpool", poolname="0123456789abcde")).status == 200
    assert await pool_row(cluster, "0123456789abcde")


@pytest.mark.parametrize("blank", ["", " "])
async def test_second_pool_of_a_name_is_refused(admin: Caller, pool: str, blank: str) -> None:
    answer = await admin.post("dome_addpool", poolname=pool + blank, pool_stype="V")
    assert answer == Answered(422, f"poolname '{pool}{blank}' already exists.")


@pytest.mark.parametrize(
    ("given", "row"),
    [
        ({"pool_defsize": 2**30, "pool_stype": "V"}, (2**30, "V")),
        ({"pool_stype": "Volatile"}, (3 * GIBIBYTE, "V")),
        ({"pool_defsize": "1048576", "pool_stype": "-"}, (2**20, "-")),
        ({}, (3 * GIBIBYTE, "P")),
    ],
)
async def test_modified_pool_has_both_properties(
    cluster: Cluster, admin: Caller, pool: str, given: dict[str, Any], row: tuple[int, str]
) -> None:
    await admin.post("dome_modifypool", poolname=pool, pool_defsize=2 * GIBIBYTE, pool_stype="D")
    for _ in range(2):
        answer = await admin.post("dome_modifypool", poolname=pool, **given)
        assert answer == Answered(200, "Pool was modified.")
    assert await pool_row(cluster, pool) == row
    stated = (await admin.get("dome_statpool", poolname=pool)).json["poolinfo"][pool]
    assert (int(stated["defsize"]), stated["s_type"]) == row


@pytest.mark.parametrize(
    "given",
    [*BAD_NAMES, *BAD_SIZES, {"poolname": "none"}, *({"pool_stype": each} for each in ("", "\u00e9", "\t"))],
)
async def test_pool_is_not_modified_to_what_cannot_be(
    cluster: Cluster, admin: Caller, pool: str, given: dict[str, Any]
) -> None:
    assert (await admin.post("dome_modifypool", **({"poolname": pool} | given))).status == 422
    assert await pool_row(cluster, pool) == (3 * GIBIBYTE, "P")


async def test_pool_is_named_to_the_byte(cluster: Cluster, admin: Caller, pool: str) -> None:
    assert (await admin.post("dome_modifypool", poolname=f"{pool} ", pool_stype="V")).status == 422
    assert (await admin.post("dome_rmpool", poolname=f"{pool} ")).status == 200
    assert await pool_row(cluster, pool) == (3 * GIBIBYTE, "P")


async def test_pool_is_removed_with_its_file_systems_in_one_go(
    cluster: Cluster, admin: Caller, pool: str
) -> None:
    other = cluster.name("p")
    await admin.post("dome_addpool", poolname=other)
    mine, theirs = [cluster.mount(DISK1), cluster.mount(DISK2)], cluster.mount(DISK2)
    for server, fs in zip((DISK1, DISK2), mine, strict=True):
        await added(admin, pool, server, fs)
    await added(admin, other, DISK2, theirs)

    assert await admin.post("dome_rmpool", poolname=pool) == Answered(200, "Pool deleted.")
    assert await pool_row(cluster, pool) is None
    assert not any([await fs_rows(cluster, fs) for fs in mine])
    assert await fs_rows(cluster, theirs) == [(other, DISK2, 0, 1)]
    assert (await admin.get("dome_statpool", poolname=pool)).json == {}
    assert mine[0] not in (await admin.get("dome_getspaceinfo")).json["fsinfo"][DISK1]


@pytest.mark.parametrize(("name", "status"), [("none", 200), ("0123456789abcdefg", 200), ("", 422)])
async def test_pool_that_is_not_there_is_removed_as_well(admin: Caller, name: str, status: int) -> None:
    assert (await admin.post("dome_rmpool", poolname=name)).status == status


@pytest.mark.parametrize("status", [{}, {"status": 0}, {"status": "1"}, {"status": 2}, {"status": ""}])
async def test_new_file_system_is_active_and_can_be_used_at_once(
    cluster: Cluster, admin: Caller, pool: str, status: dict[str, Any]
) -> None:
    fs = cluster.mount(DISK1)
    answer = await admin.post("dome_addfstopool", poolname=pool, server=DISK1, fs=fs, **status)
    assert answer == Answered(200, "New filesystem added.")
    assert await fs_rows(cluster, fs) == [(pool, DISK1, 0, 1)]
    assert await told(admin, DISK1, fs) == {
        "poolname": pool,
        "fsstatus": "0",
        "freespace": str(ROOM),
        "physicalsize": str(ROOM),
        "activitystatus": "1",
    }
    assert (await admin.get("dome_statpool", poolname=pool)).json["poolinfo"][pool]["poolstatus"] == "0"


async def test_disk_is_asked_for_the_caller_before_a_file_system_is_written(
    cluster: Cluster, admin: Caller, pool: str
) -> None:
    fs = cluster.mount(DISK1)
    caller = await cluster.caller(ALICE)
    await caller.post("dome_addfstopool", poolname=pool, server=DISK1, fs=fs)
    await caller.post("dome_modifyfs", poolname=pool, server=DISK1, fs=fs, status=2)
    asked = [call for call in cluster.disks[DISK1].calls if call.command == "dome_statpfn"]
    assert [dict(call.parameters) for call in asked] == 2 * [{"pfn": fs, "matchfs": "false", "server": DISK1}]
    assert [(call.method, call.user) for call in asked] == 2 * [("GET", ALICE)]


@pytest.mark.parametrize(
    "given",
    [
        *BAD_NAMES,
        {"poolname": "none"},
        {"poolname": "pool01 "},
        *({"status": each} for each in (3, -1, "x", "1.5")),
        {"server": "d" * 64},
        {"fs": "/" + "f" * 79},
        {"fs": "/srv\n/f"},
        {"fs": ""},
        {"fs": "srv/f"},
        {"fs": "/srv/../etc"},
    ],
)
async def test_file_system_that_cannot_be_is_not_added(
    cluster: Cluster, admin: Caller, pool: str, given: dict[str, Any]
) -> None:
    fs = cluster.mount(DISK1)
    before = await cluster.rows("SELECT COUNT(*) FROM {dpm}.dpm_fs")
    answer = await admin.post("dome_addfstopool", **({"poolname": pool, "server": DISK1, "fs": fs} | given))
    assert answer.status == 422
    assert "\n" not in answer.text
    assert await cluster.rows("SELECT COUNT(*) FROM {dpm}.dpm_fs") == before


async def test_longest_path_of_a_file_system_fits(cluster: Cluster, admin: Caller, pool: str) -> None:
    fs = cluster.mount(DISK1, "/" + "f" * 78)
    await added(admin, pool, DISK1, fs)
    assert await fs_rows(cluster, fs) == [(pool, DISK1, 0, 1)]


@pytest.mark.parametrize("more", ["", "/", "/below", "/below/deep/"])
async def test_file_system_on_another_one_is_refused_before_the_disk_is_asked(
    cluster: Cluster, admin: Caller, pool: str, more: str
) -> None:
    fs = cluster.mount(DISK1)
    await added(admin, pool, DISK1, fs)
    cluster.disks[DISK1].calls.clear()
    answer = await admin.post("dome_addfstopool", poolname="pool01", server=DISK1, fs=fs + more)
    text = f"Filesystem '{fs}{more}' already exists or overlaps an existing filesystem."
    assert answer == Answered(422, text)
    assert cluster.disks[DISK1].calls == []
    assert await fs_rows(cluster, fs) == [(pool, DISK1, 0, 1)]


async def test_same_path_elsewhere_and_a_longer_name_are_other_file_systems(
    cluster: Cluster, admin: Caller, pool: str
) -> None:
    fs = cluster.mount(DISK1)
    for server, path in ((DISK1, fs), (DISK2, fs), (DISK1, f"{fs}0")):
        cluster.mount(server, path)
        await added(admin, pool, server, path)
    assert len(await fs_rows(cluster, fs)) == 2


@pytest.mark.parametrize(
    ("place", "path", "on"),
    [
        (Place("d", "/a/b"), "/a/b", True),
        (Place("d", "/a/b/"), "/a/b", True),
        (Place("d", "/a/b"), "/a/b/", True),
        (Place("d", "/a/b/c"), "/a/b", True),
        (Place("d", "/a"), "/a/b", False),
        (Place("d", "/a/bc"), "/a/b", False),
        (Place("D", "/a/b"), "/a/b", False),
        (Place("d", "/a"), "/", True),
        (Place("d", "/"), "/a", False),
    ],
)
def test_place_is_on_a_file_system_of_its_server_that_it_lies_below(
    place: Place, path: str, on: bool
) -> None:
    assert place.is_on(FileSystem("pool", "d", path)) == on


@pytest.mark.parametrize("fault", ["missing", "refusing", "cut", "off", "no such server"])
async def test_file_system_that_its_server_does_not_confirm_is_not_added(
    cluster: Cluster, admin: Caller, pool: str, fault: str
) -> None:
    server, fs = DISK1, f"/srv/{cluster.name('none')}" if fault == "missing" else cluster.mount(DISK1)
    match fault:
        case "refusing":
            cluster.disks[DISK1].refuse(500, "out of order")
        case "cut":
            cluster.disks[DISK1].cut()
        case "off":
            server, fs = DISK2, cluster.mount(DISK2)
            await cluster.disks[DISK2].stop()
        case "no such server":
            server = "two words"
    answer = await admin.post("dome_addfstopool", poolname=pool, server=server, fs=fs)
    if fault == "off":
        await cluster.disks[DISK2].start()
    assert (answer.status, fs in answer.text) == (500, True)
    assert await fs_rows(cluster, fs) == []


@pytest.mark.parametrize(("status", "pool_status"), [(0, "0"), ("1", "1"), (2, "2")])
async def test_modified_file_system_has_pool_and_status_at_once(
    cluster: Cluster, admin: Caller, pool: str, status: object, pool_status: str
) -> None:
    fs, other = cluster.mount(DISK1), cluster.name("p")
    await admin.post("dome_addpool", poolname=other)
    await added(admin, other, DISK1, fs)
    answer = await admin.post("dome_modifyfs", poolname=pool, server=DISK1, fs=fs, status=status)
    assert answer == Answered(200, "Filesystem modified.")
    assert await fs_rows(cluster, fs) == [(pool, DISK1, int(str(status)), 1)]
    assert (await told(admin, DISK1, fs))["activitystatus"] == "1"
    assert (await admin.get("dome_statpool", poolname=pool)).json["poolinfo"][pool][
        "poolstatus"
    ] == pool_status
    assert "fsinfo" not in (await admin.get("dome_statpool", poolname=other)).json["poolinfo"][other]


async def test_file_system_is_active_again_if_no_status_is_given(
    cluster: Cluster, admin: Caller, pool: str
) -> None:
    fs = cluster.mount(DISK1)
    await added(admin, pool, DISK1, fs)
    for status, stored in (({"status": 2}, 2), ({"status": 2}, 2), ({}, 0), ({}, 0)):
        given = {"poolname": pool, "server": DISK1, "fs": fs, **status}
        assert (await admin.post("dome_modifyfs", **given)).status == 200
        assert await fs_rows(cluster, fs) == [(pool, DISK1, stored, 1)]


@pytest.mark.parametrize(
    "given",
    [
        *BAD_NAMES,
        {"poolname": "none"},
        {"poolname": "pool01 "},
        *({"status": each} for each in (3, -1, "x")),
        {"server": DISK2},
        {"server": ""},
        {"fs": ""},
        {"fs": "/srv/none"},
    ],
)
async def test_file_system_is_not_modified_to_what_cannot_be(
    cluster: Cluster, admin: Caller, pool: str, given: dict[str, Any]
) -> None:
    fs = cluster.mount(DISK1)
    await added(admin, pool, DISK1, fs)
    cluster.disks[DISK1].calls.clear()
    wanted = {"poolname": pool, "server": DISK1, "fs": fs, "status": 1} | given
    assert (await admin.post("dome_modifyfs", **wanted)).status == 422
    assert await fs_rows(cluster, fs) == [(pool, DISK1, 0, 1)]
    assert cluster.disks[DISK1].calls == []


async def test_path_below_a_file_system_is_an_overlap_not_a_file_system(
    cluster: Cluster, admin: Caller, pool: str
) -> None:
    fs = cluster.mount(DISK1)
    await added(admin, pool, DISK1, fs)
    answer = await admin.post("dome_modifyfs", poolname=pool, server=DISK1, fs=f"{fs}/below")
    assert answer == Answered(
        422, f"Filesystem '{fs}/below' already exists or overlaps an existing filesystem."
    )


@pytest.mark.parametrize("fault", ["off", "refusing", "gone"])
async def test_file_system_of_a_dead_server_can_be_taken_out_of_service_but_not_put_into_it(
    cluster: Cluster, admin: Caller, pool: str, fault: str
) -> None:
    disk, fs = cluster.disks[DISK2], cluster.mount(DISK2)
    await added(admin, pool, DISK2, fs)
    match fault:
        case "off":
            await disk.stop()
        case "refusing":
            disk.refuse(500, "out of order")
        case "gone":
            del disk.file_systems[fs]
    given = {"poolname": pool, "server": DISK2, "fs": fs}
    try:
        assert [
            (await admin.post("dome_modifyfs", **given, status=status)).status for status in (2, 1, 0)
        ] == [
            200,
            200,
            500,
        ]
        assert await fs_rows(cluster, fs) == [(pool, DISK2, 1, 1)]
        assert (await told(admin, DISK2, fs))["fsstatus"] == "1"
    finally:
        if fault == "off":
            await disk.start()


async def test_file_system_in_two_pools_cannot_be_in_one_of_them_twice(
    cluster: Cluster, admin: Caller, pool: str
) -> None:
    fs = cluster.mount(DISK1)
    await added(admin, pool, DISK1, fs)
    await cluster.sql(
        "INSERT INTO {dpm}.dpm_fs (poolname, server, fs, status, weight)"
        f" VALUES ('pool01', '{DISK1}', '{fs}', 0, 1)"
    )
    answer = await admin.post("dome_modifyfs", poolname=pool, server=DISK1, fs=fs, status=2)
    assert answer.status == 422
    assert "several pools" in answer.text
    assert await fs_rows(cluster, fs) == [(pool, DISK1, 0, 1), ("pool01", DISK1, 0, 1)]
    answer = await admin.post("dome_rmfs", server=DISK1, fs=fs)
    assert answer == Answered(200, f"Deleted 2 filesystems matching '{fs}' of server '{DISK1}'")
    assert await fs_rows(cluster, fs) == []


async def test_removed_file_system_is_gone_at_once_and_others_are_not(
    cluster: Cluster, admin: Caller, pool: str
) -> None:
    fs = cluster.mount(DISK1)
    for server in (DISK1, DISK2):
        cluster.mount(server, fs)
        await added(admin, pool, server, fs)
    answer = await admin.post("dome_rmfs", server=DISK1, fs=fs)
    assert answer == Answered(200, f"Deleted 1 filesystems matching '{fs}' of server '{DISK1}'")
    assert await fs_rows(cluster, fs) == [(pool, DISK2, 0, 1)]
    assert fs not in (await admin.get("dome_getspaceinfo")).json["fsinfo"][DISK1]
    assert (await admin.post("dome_rmfs", server=DISK1, fs=fs)).status == 422
    assert (await admin.post("dome_rmfs", server=DISK2, fs=fs)).status == 200
    assert (await admin.post("dome_rmfs", server=DISK2, fs=fs)).status == 404
    await added(admin, pool, DISK1, fs)


@pytest.mark.parametrize("given", [{}, {"fs": "/srv/none"}, {"server": DISK1}, {"fs": "f" * 100}])
async def test_path_that_no_server_has_is_not_found(admin: Caller, given: dict[str, str]) -> None:
    assert (await admin.post("dome_rmfs", **given)).status == 404


async def test_dead_server_does_not_keep_its_file_system_from_being_removed(
    cluster: Cluster, admin: Caller, pool: str
) -> None:
    fs = cluster.mount(DISK2)
    await added(admin, pool, DISK2, fs)
    await cluster.disks[DISK2].stop()
    try:
        assert (await admin.post("dome_rmfs", server=DISK2, fs=fs)).status == 200
    finally:
        await cluster.disks[DISK2].start()


async def admins(cluster: Cluster, number: int) -> list[Caller]:
    return [await cluster.caller() for _ in range(number)]


async def test_of_many_who_make_a_pool_one_does(cluster: Cluster, admin: Caller) -> None:
    name = cluster.name("p")
    answers = await asyncio.gather(
        *(each.post("dome_addpool", poolname=name) for each in await admins(cluster, 8))
    )
    assert sorted(answer.status for answer in answers) == [200, *7 * [422]]
    assert await pool_row(cluster, name) == (3 * GIBIBYTE, "P")


async def test_of_many_who_add_a_file_system_to_their_pools_one_does(cluster: Cluster, admin: Caller) -> None:
    fs, pools = cluster.mount(DISK1), [cluster.name("p") for _ in range(6)]
    for name in pools:
        await admin.post("dome_addpool", poolname=name)
    answers = await asyncio.gather(
        *(
            each.post("dome_addfstopool", poolname=name, server=DISK1, fs=fs)
            for each, name in zip(await admins(cluster, 6), pools, strict=True)
        )
    )
    assert sorted(answer.status for answer in answers) == [200, *5 * [422]]
    [(name, *_)] = await fs_rows(cluster, fs)
    assert answers[pools.index(name)].status == 200


async def test_file_systems_that_overlap_are_added_only_as_if_one_after_the_other(
    cluster: Cluster, admin: Caller, pool: str
) -> None:
    top = cluster.mount(DISK1)
    paths = [top, f"{top}/a", f"{top}/a/b", f"{top}/a/b/c", f"{top}/d"]
    for path in paths:
        cluster.mount(DISK1, path)
    answers = await asyncio.gather(
        *(
            each.post("dome_addfstopool", poolname=pool, server=DISK1, fs=path)
            for each, path in zip(await admins(cluster, len(paths)), paths, strict=True)
        )
    )
    rows = await cluster.rows(f"SELECT fs FROM {{dpm}}.dpm_fs WHERE poolname = '{pool}' ORDER BY rowid")
    assert {fs for (fs,) in rows} == {
        path for path, answer in zip(paths, answers, strict=True) if answer.status == 200
    }
    earlier: list[FileSystem] = []
    for (fs,) in rows:
        assert not any(Place(DISK1, fs).is_on(each) for each in earlier)
        earlier.append(FileSystem(pool, DISK1, fs))


async def test_pool_that_is_removed_while_file_systems_come_leaves_none(
    cluster: Cluster, admin: Caller
) -> None:
    for _ in range(3):
        pool, paths = cluster.name("p"), [cluster.mount(DISK1) for _ in range(4)]
        await admin.post("dome_addpool", poolname=pool)
        callers = await admins(cluster, 5)
        adding = (
            each.post("dome_addfstopool", poolname=pool, server=DISK1, fs=fs)
            for each, fs in zip(callers, paths, strict=False)
        )
        removed, *answers = await asyncio.gather(callers[-1].post("dome_rmpool", poolname=pool), *adding)
        assert removed.status == 200
        assert {answer.status for answer in answers} <= {200, 422}
        assert await pool_row(cluster, pool) is None
        assert await cluster.rows(f"SELECT * FROM {{dpm}}.dpm_fs WHERE poolname = '{pool}'") == []


async def test_fenced_pools_are_told_to_come_again(cluster: Cluster, admin: Caller, pool: str) -> None:
    fs, new = cluster.mount(DISK1), cluster.mount(DISK1)
    await added(admin, pool, DISK1, fs)
    config = replace(
        cluster.config,
        dpm=replace(
            cluster.config.dpm,
            admin_user=cluster.maria.admin_user,
            admin_password=cluster.maria.admin_password,
        ),
    )
    place = {"poolname": pool, "server": DISK1}
    async with admin_source(config) as source:
        await raise_fence(source, await read_layout(source))
        try:
            answers = [
                await admin.post("dome_addpool", poolname=cluster.name("p")),
                await admin.post("dome_modifypool", poolname=pool, pool_stype="V"),
                await admin.post("dome_addfstopool", **place, fs=new),
                await admin.post("dome_modifyfs", **place, fs=fs, status=2),
                await admin.post("dome_rmfs", server=DISK1, fs=fs),
                await admin.post("dome_rmpool", poolname=pool),
            ]
        finally:
            await lift_fence(source)
    assert [answer.status for answer in answers] == 6 * [503]
    assert await fs_rows(cluster, fs) == [(pool, DISK1, 0, 1)]
    assert await pool_row(cluster, pool) == (3 * GIBIBYTE, "P")


async def test_change_that_is_done_is_told_so_even_if_it_cannot_be_read_again(cluster: Cluster) -> None:
    config, name = cluster.config, cluster.name("p")
    nowhere = ConnectionPool(replace(config.dpm, host="127.0.0.1", port=free_port(), unix_socket=""), 1)
    database = ConnectionPool(config.dpm, 1)
    disks = DiskClient(config.disk, secret="", dn="", host=HEAD)
    head = replace(
        Head.over(config, database, disks, Silent(), hosts=(HEAD,)),
        watch=ClusterWatch(nowhere, disks, Silent(), poll_seconds=60.0),
    )
    try:
        request = Request("POST", "/x", "dome_addpool", Parameters({"poolname": name}))
        assert (await add_pool(Call(head, request), name)).status == 200
    finally:
        await database.close()
    assert await pool_row(cluster, name) == (3 * GIBIBYTE, "P")
