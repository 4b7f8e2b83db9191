"""What administrators' tools send, sequence by sequence, as dmlite-shell, dome.py and puppet do.

The disk servers know of their file systems only what the head has told them, as real ones.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from dome_bridge.dome_api.request import RemoteUser
from sandbox.servers import MariaServer
from tests.fixtures.admin import ROOM, Cluster, running_cluster
from tests.fixtures.shell import (
    BUILT_IN_ROOT,
    EXISTS,
    GIBIBYTE,
    NOT_FOUND,
    Adapter,
    Executor,
    FrontEnd,
    Shell,
    ToolError,
    Vo,
    accepted,
)

DISK1, DISK2 = "disk1.test", "disk2.test"
AVAILABLE, BEING_POPULATED = "45", "80"

PUPPET_ACL = "d:u::rwx,d:g::rwx,d:o::r-x,u::rwx,g::rwx,o::r-x"


@pytest.fixture(scope="module")
async def cluster(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    directory = tmp_path_factory.mktemp("shell")
    async with running_cluster(maria, directory, poll_seconds=0.1, learns=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
async def shell(cluster: Cluster) -> Shell:
    executor, adapter = await cluster.caller(), await cluster.caller(BUILT_IN_ROOT)
    return Shell(cluster, Executor(executor), Adapter(adapter))


@pytest.fixture
async def vo(cluster: Cluster, shell: Shell) -> Vo:
    """As puppet leaves it behind; the pool has no file systems yet."""
    vo = Vo(cluster.name("vo"), cluster.name("pool"))
    await shell.pooladd(vo.pool)
    await shell.groupadd(vo.name)
    await shell.mkdir(vo.path, parents=True)
    await shell.chgrp(vo.path, vo.name)
    await shell.chmod(vo.path, 0o775)
    await shell.acl(vo.path, PUPPET_ACL)
    return vo


async def file_system(shell: Shell, vo: Vo, server: str) -> str:
    """A new one in the VO's pool that can be used."""
    fs = shell.cluster.mount(server)
    await shell.fsadd(fs, vo.pool, server)
    await shell.until_usable(server, fs)
    return fs


async def token(shell: Shell, vo: Vo, size: int = 50 * GIBIBYTE) -> None:
    await shell.quotatokenset(vo.path, vo.pool, size, "TOKEN", vo.name)


async def test_puppet_makes_a_site_on_which_its_users_can_write(cluster: Cluster, shell: Shell) -> None:
    vo = Vo(cluster.name("puppet"), cluster.name("pool"))
    fs = cluster.mount(DISK1)
    assert f"POOL {vo.pool}" not in await shell.qryconf()
    await shell.pooladd(vo.pool)
    assert f"POOL {vo.pool} DEFSIZE 3.00G" in await shell.qryconf()
    assert f"{DISK1} {fs}" not in await shell.qryconf()
    assert await shell.fsadd(fs, vo.pool, DISK1) == "New filesystem added."
    assert f"{DISK1} {fs} CAPACITY" in await shell.qryconf()
    await shell.groupadd(vo.name)
    await shell.mkdir(vo.path, parents=True)
    await shell.chgrp(vo.path, vo.name)
    await shell.chmod(vo.path, 0o775)
    await shell.acl(vo.path, PUPPET_ACL)
    await shell.quotatokenset(vo.path, vo.pool, 50 * GIBIBYTE, "PUPPET_TOKEN", vo.name)

    gid = (await shell.adapter.get("dome_getgroup", groupname=vo.name))["gid"]
    found = await shell.stat(vo.path)
    assert (found["gid"], int(found["mode"])) == (gid, 0o40775)
    assert found["acl"] == f"A70,C7{gid},F50,a70,c7{gid},f50"

    await shell.until_usable(DISK1, fs)
    member, web = Adapter(await cluster.caller(vo.member)), FrontEnd(cluster, vo.member)
    await member.post("dome_makedir", path=f"{vo.path}/prod", mode="509")
    assert (await web.upload(f"{vo.path}/prod/f", b"data")).startswith(f"{DISK1}:{fs}/{vo.name}/")
    assert await web.download(f"{vo.path}/prod/f") == b"data"
    (found_token,) = (await shell.quotatokenget(f"{vo.path}/prod")).values()
    assert (found_token["quotatkname"], found_token["pathusedspace"]) == ("PUPPET_TOKEN", "4")
    assert found_token["groups"] == {"0": "root", gid: vo.name}


async def test_second_run_of_puppet_changes_nothing(cluster: Cluster, shell: Shell, vo: Vo) -> None:
    fs = await file_system(shell, vo, DISK1)
    await token(shell, vo)
    before = await everything_of(cluster, shell, vo)
    for step in (shell.pooladd(vo.pool), shell.fsadd(fs, vo.pool, DISK1), shell.groupadd(vo.name)):
        with pytest.raises(ToolError) as refusal:
            await step
        assert refusal.value.errno not in (NOT_FOUND, EXISTS)
    await shell.mkdir(vo.path, parents=True)
    await shell.mkdir(vo.path)
    await shell.chgrp(vo.path, vo.name)
    await shell.chmod(vo.path, 0o775)
    await shell.acl(vo.path, PUPPET_ACL)
    await token(shell, vo)
    assert await everything_of(cluster, shell, vo) == before


async def everything_of(cluster: Cluster, shell: Shell, vo: Vo) -> Sequence[object]:
    entry = await shell.stat(vo.path)
    return [
        await cluster.rows("SELECT * FROM {dpm}.dpm_pool"),
        await cluster.rows("SELECT * FROM {dpm}.dpm_fs"),
        await cluster.rows("SELECT * FROM {dpm}.dpm_space_reserv"),
        await cluster.rows("SELECT * FROM {cns}.Cns_groupinfo"),
        {key: entry[key] for key in entry if key != "ctime"},
    ]


async def test_new_disk_server_is_let_in_once_it_has_a_file_system(
    cluster: Cluster, shell: Shell, vo: Vo
) -> None:
    server = f"{cluster.name('new')}.test"
    disk = await cluster.add_server(server)
    await disk.learn()
    assert disk.told[-1].status == 403
    fs = await file_system(shell, vo, server)
    assert disk.store.own == [fs]
    await token(shell, vo)
    assert (await FrontEnd(cluster, vo.member).upload(f"{vo.path}/f", b"x")).startswith(f"{server}:{fs}/")


async def test_fsmodify_0_means_active_although_the_0_is_never_sent(
    cluster: Cluster, shell: Shell, vo: Vo
) -> None:
    fs = await file_system(shell, vo, DISK1)
    for status, mark in ((2, " RDONLY"), (0, ""), (1, " DISABLED"), (0, "")):
        assert await shell.fsmodify(fs, DISK1, vo.pool, status) == "Filesystem modified."
        [line] = [line for line in (await shell.qryconf()).splitlines() if f"{DISK1} {fs}" in line]
        assert line.endswith(f"G{mark}")


async def test_poolmodify_keeps_what_it_does_not_change(shell: Shell, vo: Vo) -> None:
    await shell.poolmodify(vo.pool, pool_defsize=str(5 * GIBIBYTE))
    await shell.poolmodify(vo.pool, pool_stype="V")
    pool = (await shell.adapter.get("dome_statpool", poolname=vo.pool))["poolinfo"][vo.pool]
    assert (pool["s_type"], pool["defsize"]) == ("V", str(5 * GIBIBYTE))


async def test_fsdel_and_pooldel_leave_nothing_behind(cluster: Cluster, shell: Shell, vo: Vo) -> None:
    first, second = await file_system(shell, vo, DISK1), await file_system(shell, vo, DISK2)
    assert await shell.fsdel(first, DISK1) == f"Deleted 1 filesystems matching '{first}' of server '{DISK1}'"
    assert f"{DISK1} {first}" not in await shell.qryconf()
    with pytest.raises(ToolError):
        await shell.fsdel(first, DISK1)
    await shell.pooldel(vo.pool)
    shown = await shell.qryconf()
    assert f"POOL {vo.pool}" not in shown
    assert f"{DISK2} {second}" not in shown


async def test_quotatokens_are_made_shown_changed_and_deleted(cluster: Cluster, shell: Shell, vo: Vo) -> None:
    await file_system(shell, vo, DISK1)
    await shell.mkdir(f"{vo.path}/sub")
    await shell.quotatokenset(vo.path, vo.pool, 10 * GIBIBYTE, "TOP", vo.name)
    await shell.quotatokenset(f"{vo.path}/sub", vo.pool, GIBIBYTE, "SUB", f"{vo.name},dteam")
    # The size 0 is left out, which keeps what is there.
    text = await shell.quotatokenset(vo.path, vo.pool, 0, "TOP2", vo.name)
    assert text == f"Quotatoken written. poolname: '{vo.pool}' t_space: {10 * GIBIBYTE} u_token: 'TOP2'"

    def names(tokens: dict[str, Any]) -> list[str]:
        return [each["quotatkname"] for each in tokens.values()]

    assert names(await shell.quotatokenget(vo.path)) == ["TOP2"]
    assert names(await shell.quotatokenget(f"{vo.path}/sub")) == ["TOP2", "SUB"]
    assert names(await shell.quotatokenget(vo.path, s=True)) == ["TOP2", "SUB"]
    everywhere = await shell.quotatokenget("/", s=True)
    assert {"TOP2", "SUB", "DTEAM_TOKEN"} <= set(names(everywhere))

    [sub] = [key for key, each in everywhere.items() if each["path"] == f"{vo.path}/sub"]
    await shell.executor.post("dome_modquotatoken", tokenid=sub, quotaspace=2 * GIBIBYTE)
    assert (await shell.quotatokenget(f"{vo.path}/sub"))[sub]["quotatktotspace"] == str(2 * GIBIBYTE)
    for path in (vo.path, f"{vo.path}/sub"):
        await shell.executor.post("dome_delquotatoken", path=path, poolname=vo.pool)
    with pytest.raises(ToolError) as none:
        await shell.quotatokenget(vo.path)
    assert none.value.status == 404


async def test_new_user_is_known_to_the_question_that_follows(cluster: Cluster, shell: Shell) -> None:
    name = f"/CN={cluster.name('user')}"
    uid = await shell.useradd(name)
    found = await shell.adapter.get("dome_getuser", username=name)
    xattr = json.dumps({"uid": int(uid), "banned": 2})
    await shell.adapter.post("dome_updateuser", username=name, banned="2", xattr=xattr)
    assert found["banned"] == "0"
    listed = (await shell.adapter.get("dome_getusersvec"))["users"]
    assert [each["banned"] for each in listed if each["username"] == name] == ["2"]
    await shell.adapter.post("dome_deleteuser", username=name)
    with pytest.raises(ToolError):
        await shell.adapter.get("dome_getuser", username=name)


@pytest.mark.parametrize("hint", ["none", "pool", "fs"])
async def test_replicate_puts_a_second_replica_where_it_is_told(
    cluster: Cluster, shell: Shell, vo: Vo, hint: str
) -> None:
    await file_system(shell, vo, DISK1)
    await token(shell, vo)
    lfn = f"{vo.path}/f"
    await FrontEnd(cluster, vo.member).upload(lfn, b"some data")
    fs = await file_system(shell, vo, DISK2)
    hints = {"none": {}, "pool": {"pool": vo.pool}, "fs": {"fs": f"{DISK2}:{fs}"}}[hint]

    place, status = await replicate(cluster, lfn, hints)
    assert status == 201
    assert (place["pool"], place["host"], place["filesystem"]) == (vo.pool, DISK2, fs)
    replicas = (await shell.adapter.get("dome_getreplicavec", lfn=lfn))["replicas"]
    assert [(each["server"], each["status"]) for each in replicas] == [(DISK1, AVAILABLE), (DISK2, AVAILABLE)]
    assert (await shell.stat(lfn))["size"] == "9"
    assert (await shell.stat(vo.path))["size"] == "18"


async def replicate(cluster: Cluster, lfn: str, hints: dict[str, str]) -> tuple[Any, int]:
    """The place that the head gives, and how the copy onto it ends; as AdminUsername, with root's group."""
    admin = await cluster.caller(BUILT_IN_ROOT)
    asked = await admin.post("dome_put", additionalreplica="true", **hints, lfn=lfn)
    place = accepted(asked).json
    return place, await FrontEnd(cluster, BUILT_IN_ROOT).copy(lfn, place)


async def drop(shell: Shell, rfn: str) -> list[int]:
    """A replica is deleted, and once more in case it was not."""
    server, _, pfn = rfn.partition(":")
    statuses = []
    for _ in range(2):
        try:
            answer = await shell.adapter.post("dome_delreplica", server=server, pfn=pfn)
            statuses.append(answer.status)
        except ToolError as error:
            statuses.append(error.status)
    return statuses


async def test_drained_file_system_is_empty_and_every_file_is_whole_elsewhere(
    cluster: Cluster, shell: Shell, vo: Vo
) -> None:
    source = await file_system(shell, vo, DISK1)
    await token(shell, vo)
    web = FrontEnd(cluster, vo.member)
    files = {f"{vo.path}/f{number}": bytes([number]) * 1000 * number for number in range(1, 5)}
    rfns = {await web.upload(lfn, data): lfn for lfn, data in files.items()}
    target = await file_system(shell, vo, DISK2)
    sizes = (await shell.stat(vo.path))["size"]

    await shell.fsmodify(source, DISK1, vo.pool, 2)
    assert await shell.listed(DISK1, source) == list(rfns)
    for old, lfn in rfns.items():
        place, status = await replicate(cluster, lfn, {"pool": vo.pool})
        new = f"{place['host']}:{place['pfn']}"
        assert (status, place["filesystem"]) == (201, target)
        assert (await shell.adapter.get("dome_getreplicainfo", rfn=new))["status"] == AVAILABLE
        assert (await shell.adapter.get("dome_getreplicainfo", rfn=old))["status"] == AVAILABLE
        await shell.adapter.get("dome_statpool", poolname=vo.pool)
        assert await drop(shell, old) == [200, 404]

    assert await shell.listed(DISK1, source) == []
    assert len(await shell.listed(DISK2, target)) == len(files)
    assert {lfn: await web.download(lfn) for lfn in files} == files
    mount = cluster.disks[DISK1].file_systems[source]
    assert [path for path in mount.rglob("*") if path.is_file()] == []
    assert (await shell.stat(vo.path))["size"] == sizes == str(sum(map(len, files.values())))
    await shell.fsdel(source, DISK1)


async def test_copy_that_fails_in_a_drain_leaves_the_file_as_it_was(
    cluster: Cluster, shell: Shell, vo: Vo
) -> None:
    source = await file_system(shell, vo, DISK1)
    await token(shell, vo)
    web, lfn = FrontEnd(cluster, vo.member), f"{vo.path}/f"
    old = await web.upload(lfn, b"precious")
    target = await file_system(shell, vo, DISK2)
    await shell.fsmodify(source, DISK1, vo.pool, 2)
    admin = Adapter(await cluster.caller(BUILT_IN_ROOT))
    place = (await admin.post("dome_put", additionalreplica="true", fs=f"{DISK2}:{target}", lfn=lfn)).json
    cluster.disks[DISK2].fill()
    try:
        assert await FrontEnd(cluster, BUILT_IN_ROOT).copy(lfn, place) == 507
    finally:
        cluster.disks[DISK2].heal()
    new = f"{place['host']}:{place['pfn']}"
    assert (await shell.adapter.get("dome_getreplicainfo", rfn=new))["status"] == BEING_POPULATED
    assert await drop(shell, new) == [200, 404]
    assert await shell.listed(DISK1, source) == [old]
    assert await web.download(lfn) == b"precious"
    assert (await shell.stat(vo.path))["size"] == "8"


async def test_replica_is_renamed_and_deleted_by_hand(cluster: Cluster, shell: Shell, vo: Vo) -> None:
    await file_system(shell, vo, DISK1)
    await token(shell, vo)
    lfn = f"{vo.path}/f"
    rfn = await FrontEnd(cluster, vo.member).upload(lfn, b"x")
    before = await shell.adapter.get("dome_getreplicainfo", rfn=rfn)
    await shell.replicamodify(rfn, f"{rfn}.moved")
    after = await shell.adapter.get("dome_getreplicainfo", rfn=f"{rfn}.moved")
    assert after == {**before, "rfn": f"{rfn}.moved"}
    await shell.replicamodify(f"{rfn}.moved", rfn)
    await shell.replicadel(rfn)
    with pytest.raises(ToolError) as gone:
        await shell.stat(lfn)
    assert gone.value.errno == NOT_FOUND


async def test_checksum_is_calculated_by_the_disk_server_and_remembered(
    cluster: Cluster, shell: Shell, vo: Vo
) -> None:
    await file_system(shell, vo, DISK1)
    await token(shell, vo)
    lfn, data = f"{vo.path}/f", b"summed up"
    await FrontEnd(cluster, vo.member).upload(lfn, data)
    for force in (False, True):
        found = await shell.getchecksum(lfn, "checksum.adler32", force=force)
        assert found == f"{zlib.adler32(data):08x}"
    assert json.loads((await shell.stat(lfn))["xattrs"])["checksum.adler32"] == found


async def test_nothing_is_put_onto_a_file_system_that_is_being_drained(
    cluster: Cluster, shell: Shell, vo: Vo
) -> None:
    fs = await file_system(shell, vo, DISK1)
    await token(shell, vo)
    await shell.fsmodify(fs, DISK1, vo.pool, 2)
    caller = await cluster.caller(vo.member)
    assert (await caller.post("dome_put", lfn=f"{vo.path}/f")).status == 400
    await shell.fsmodify(fs, DISK1, vo.pool, 0)
    assert (await caller.post("dome_put", lfn=f"{vo.path}/f")).status == 200


async def test_quota_is_open_to_the_groups_of_the_token_and_to_the_group_root(
    cluster: Cluster, shell: Shell, vo: Vo
) -> None:
    await file_system(shell, vo, DISK1)
    await token(shell, vo)
    users = {
        vo.member: 200,
        BUILT_IN_ROOT: 200,
        # Nobody's name is root's, but no group of root's comes with it.
        RemoteUser(): 403,
        RemoteUser("root", "", ("dteam",)): 403,
    }
    answers = {}
    for number, user in enumerate(users):
        caller = await cluster.caller(user)
        answers[user] = (await caller.post("dome_put", lfn=f"{vo.path}/f{number}")).status
    assert answers == users


async def test_dome_py_gets_what_it_asks_for(cluster: Cluster, shell: Shell, vo: Vo) -> None:
    fs = await file_system(shell, vo, DISK1)
    tool = await cluster.caller(RemoteUser("root", "", ("root",)), remoteclientaddr="10.0.0.9")
    path = vo.path
    given = {"path": path, "poolname": vo.pool, "quotaspace": "12345678901", "description": "CLITOK"}
    assert (await tool.post("dome_setquotatoken", **given)).status == 200
    [found] = (await tool.get("dome_getquotatoken", path=path, getparentdirs=False)).json.values()
    assert (found["quotatkname"], found["quotatktotspace"]) == ("CLITOK", "12345678901")
    assert (await tool.get("dome_getdirspaces", path=path)).json["quotatotspace"] == "12345678901"
    assert fs in (await tool.get("dome_getspaceinfo")).json["fsinfo"][DISK1]
    assert vo.pool in (await tool.get("dome_statpool", poolname=vo.pool)).json["poolinfo"]

    hints = {"additionalreplica": "", "pool": "", "host": DISK1, "fs": fs}
    place = (await tool.post("dome_put", lfn=f"{path}/f", **hints)).json
    both = {"pool": vo.pool, "host": DISK1, "fs": fs, "additionalreplica": "true"}
    assert (await tool.post("dome_put", lfn=f"{path}/f", **both)).status == 400
    assert (await tool.post("dome_putdone", pfn=place["pfn"], size="5")).status == 422
    done = {"pfn": place["pfn"], "size": "5", "server": DISK1}
    assert [(await tool.post("dome_putdone", **done)).status for _ in range(2)] == [200, 422]
    assert [each["pfn"] for each in (await tool.get("dome_get", lfn=f"{path}/f")).json.values()] == [
        place["pfn"]
    ]
    assert (await tool.post("dome_delreplica", server=DISK1, pfn="/nope")).status == 404
    assert (await tool.post("dome_delreplica", server=DISK1, pfn=place["pfn"])).status == 200
    assert (await tool.post("dome_delquotatoken", path=path, poolname=vo.pool)).status == 200
    assert (await tool.post("dome_pfnrm", pfn="/nope")).status >= 400


async def test_information_providers_see_all_pools_and_tokens(cluster: Cluster, shell: Shell, vo: Vo) -> None:
    first, second = await file_system(shell, vo, DISK1), await file_system(shell, vo, DISK2)
    await token(shell, vo)
    provider = await cluster.caller()
    assert "ACCESS TO DOME GRANTED." in (await provider.get("dome_info")).text
    info = (await provider.get("dome_getspaceinfo")).json
    pool = info["poolinfo"][vo.pool]
    for server, fs in ((DISK1, first), (DISK2, second)):
        assert pool["fsinfo"][server][fs]["freespace"] == info["fsinfo"][server][fs]["freespace"]
    total = 2 * ROOM
    assert (int(pool["physicalsize"]), pool["poolstatus"]) == (total, "0")
    tokens = (await provider.get("dome_getquotatoken", path="/", getsubdirs=True)).json.values()
    mine = [each for each in tokens if each["path"] == vo.path]
    assert [each["pooltotspace"] for each in mine] == [str(total)]
