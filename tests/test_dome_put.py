"""Beginning uploads: every answer, and that nothing is ever left half done."""

from __future__ import annotations

import asyncio
import json
import re
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from random import Random

import pytest

from dome_bridge.dome_api import catalog
from dome_bridge.dome_api.catalog import Entry
from dome_bridge.dome_api.cluster import Activity, Cluster, FileSystem
from dome_bridge.dome_api.permissions import ROOT as ROOT_SUBJECT
from dome_bridge.dome_api.placement import Choice, Hints, candidates
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.uploads import (
    Upload,
    begin_additional,
    begin_file,
)
from dome_bridge.dpm.fenced import FENCE_MESSAGE, FENCE_SQLSTATE
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError
from tests.fixtures.storage import ALICE, BOB, DISK1, DISK2, HOME, MOUNTS, ROOT, TOKEN, Answered
from tests.fixtures.uploads import ADMIN, GIB, Uploads

CLIENTS = 12
ATLAS = HOME.replace("dteam", "atlas")
TOP = HOME.rpartition("/")[0]
REPLICAS = "{cns}.Cns_file_replica"
FENCED = {"message": FENCE_MESSAGE, "state": FENCE_SQLSTATE}


async def test_new_file_is_the_users_and_has_one_replica_that_is_populated(uploads: Uploads) -> None:
    replica = await uploads.put("f", ALICE)
    entry = await uploads.entry(uploads.path("f"))
    assert (entry.mode, entry.uid, entry.gid, entry.size) == (stat.S_IFREG | 0o664, 101, 101, 0)
    assert await uploads.replicas(entry.fileid) == [replica]
    assert (replica.status, replica.kind, replica.setname) == ("P", "P", TOKEN)
    assert (replica.pool, replica.fs) == ("pool01", MOUNTS[replica.host])
    assert replica.attributes == {
        "pool": "pool01",
        "filesystem": replica.fs,
        "accountedspacetokenname": "DTEAM_TOKEN",
    }
    assert not uploads.file(replica.rfn).exists()


async def test_answer_tells_the_place(uploads: Uploads) -> None:
    answer = await uploads.post("dome_put", ADMIN, lfn=uploads.path("f"), fs=f"{DISK2}:{MOUNTS[DISK2]}")
    place = json.loads(answer.text)
    day = time.strftime("%Y-%m-%d")
    assert re.fullmatch(rf"/storage/disk2/fs1/dteam/{day}/f\.[0-9]+\.[0-9]+", place.pop("pfn"))
    assert place == {"pool": "pool01", "host": DISK2, "filesystem": MOUNTS[DISK2]}


@pytest.mark.parametrize(
    ("lfn", "user", "hints", "status"),
    [
        ("", ADMIN, {}, 404),
        ("/", ADMIN, {}, 400),
        ("/", ADMIN, {"pool": "pool01"}, 422),
        ("rel", ADMIN, {}, 400),
        ("rel", ADMIN, {"pool": "pool01"}, 422),
        ("rel/f", ADMIN, {}, 404),
        ("/dpm/test/f", ADMIN, {"pool": "pool01"}, 422),
        (f"{TOP}/f", ADMIN, {}, 400),
        (f"{HOME}/none/f", ADMIN, {}, 404),
        (f"{HOME}/none/f", ADMIN, {"pool": "pool01", "host": DISK1}, 404),
        (f"{HOME}/f", BOB, {}, 403),
        (f"{HOME}/f", BOB, {"pool": "pool01", "host": DISK1}, 403),
        (f"{HOME}/bob_private/f", ALICE, {}, 403),
        (f"{TOP}/cms/none/f", ALICE, {}, 404),
        (f"{HOME}/f", ADMIN, {"pool": "pool01", "host": DISK1}, 400),
        (f"{HOME}/f", ADMIN, {"pool": "none"}, 400),
        (f"{HOME}/f", ADMIN, {"host": "none"}, 400),
        (f"{HOME}/f", ADMIN, {"fs": "none"}, 400),
        (f"{HOME}/f", ROOT, {}, 403),
        (f"{HOME}/f", RemoteUser("root", groups=("ROOT",)), {}, 403),
        (f"{HOME}/legacy_ad", ALICE, {}, 422),
        (f"{HOME}/legacy_ad/", ALICE, {}, 422),
        (f"{HOME}/sub", ALICE, {}, 422),
        (f"{HOME}/lnk_broken", ALICE, {}, 422),
        (f"{HOME}/legacy_ad/f", ALICE, {}, 422),
        (f"{HOME}/sub/.", ALICE, {}, 422),
        (f"{HOME}/sub/..", ALICE, {}, 422),
        (f"{HOME}/{'n' * 256}", ALICE, {}, 422),
        (f"{HOME}/{'n' * 256}/f", ALICE, {}, 404),
        (f"{HOME}/a\0b", ALICE, {}, 422),
        (f"{HOME}/none", ADMIN, {"additionalreplica": "true"}, 404),
        (f"{HOME}/legacy_ad/.", ADMIN, {"additionalreplica": "true"}, 404),
        (f"{HOME}/sub", ADMIN, {"additionalreplica": "on"}, 400),
        (f"{HOME}/lnk_abs", ADMIN, {"additionalreplica": "1"}, 400),
    ],
)
async def test_refusal_changes_nothing(
    uploads: Uploads, lfn: str, user: RemoteUser, hints: dict[str, str], status: int
) -> None:
    before = await uploads.rows()
    assert (await uploads.post("dome_put", user, lfn=lfn, **hints)).status == status
    assert await uploads.rows() == before


async def test_nothing_is_put_below_a_closed_directory(uploads: Uploads) -> None:
    open_directory = await uploads.close_above_open_directory()
    assert (await uploads.post("dome_put", ALICE, lfn=f"{open_directory}/f")).status == 403
    await uploads.put(f"{open_directory}/f", ADMIN)


async def test_put_without_hints_needs_a_token_with_more_than_the_pools_defsize_left(
    uploads: Uploads,
) -> None:
    used = (await uploads.entry(HOME)).size
    set_space = "UPDATE {{dpm}}.dpm_space_reserv SET t_space = {} WHERE s_token = '" + TOKEN + "'"
    before = await uploads.value("SELECT t_space FROM {dpm}.dpm_space_reserv WHERE rowid = 1")
    try:
        await uploads.sql(set_space.format(used + GIB))
        answer = await uploads.post("dome_put", ALICE, lfn=uploads.path("f"))
        assert answer.status == 507
        assert f"minfreespace_bytes: {GIB}" in answer.text
        await uploads.sql(set_space.format(used + GIB + 1))
        await uploads.put("f", ALICE)
    finally:
        await uploads.sql(set_space.format(before))


async def test_put_goes_to_the_pool_of_the_token(uploads: Uploads) -> None:
    replica = await uploads.put(f"{ATLAS}/f", BOB)
    assert (replica.pool, replica.host, replica.fs) == ("pool02", DISK1, "/storage/disk1/fs2")
    assert replica.rfn.startswith(f"{DISK1}:/storage/disk1/fs2/atlas/")


async def test_token_of_a_directory_is_not_had_by_way_of_dots(uploads: Uploads) -> None:
    replica = await uploads.put(f"{HOME}/../atlas/dots", BOB)
    assert (replica.pool, replica.setname[:8]) == ("pool02", "36ae47c9")
    assert replica.rfn.startswith(f"{DISK1}:/storage/disk1/fs2/atlas/")
    replica = await uploads.put(f"{ATLAS}/../../home/./dteam/sub/../dots", ALICE)
    assert replica.rfn.startswith(f"{replica.host}:{replica.fs}/dteam/")


@pytest.mark.parametrize("hints", [{"pool": "pool01"}, {"host": DISK1, "fs": MOUNTS[DISK1]}])
async def test_hint_takes_the_place_of_a_token(uploads: Uploads, hints: dict[str, str]) -> None:
    replica = await uploads.put("f", ROOT, **hints)
    assert (replica.setname, replica.pool) == ("", "pool01")
    assert replica.attributes == {"pool": "pool01", "filesystem": replica.fs}


async def test_hint_asks_for_the_configured_free_space(uploads: Uploads) -> None:
    await uploads.online(free=4 * GIB - 1)
    answer = await uploads.post("dome_put", ADMIN, lfn=uploads.path("f"), pool="pool01")
    assert answer == Answered(507, "All matching filesystems are full.")
    await uploads.online(free=4 * GIB)
    await uploads.put("f", pool="pool01")


async def test_full_file_systems_are_told_before_an_existing_file(uploads: Uploads) -> None:
    await uploads.put("f", ALICE)
    assert (await uploads.post("dome_put", ALICE, lfn=uploads.path("f"))).status == 422
    await uploads.online(free=GIB - 1)
    assert (await uploads.post("dome_put", ALICE, lfn=uploads.path("f"))).status == 507


async def test_only_file_systems_that_are_up_are_chosen(uploads: Uploads) -> None:
    uploads.change(DISK1, MOUNTS[DISK1], activity=Activity.BROKEN)
    replicas = [await uploads.put(f"f{number}", ALICE) for number in range(4)]
    assert {replica.host for replica in replicas} == {DISK2}
    uploads.change(DISK2, MOUNTS[DISK2], status=2)
    assert (await uploads.post("dome_put", ALICE, lfn=uploads.path("f"))).status == 400


async def test_unknown_pool_of_a_token_is_no_place(uploads: Uploads) -> None:
    uploads.watch.show(Cluster())
    assert (await uploads.post("dome_put", ALICE, lfn=uploads.path("f"))).status == 400


async def test_file_below_a_setgid_directory_takes_its_group(uploads: Uploads) -> None:
    await uploads.put(f"{ATLAS}/setgid", ADMIN)
    entry = await uploads.entry(f"{ATLAS}/setgid")
    assert (entry.uid, entry.gid, entry.mode) == (0, 102, 0o102664)


@pytest.mark.parametrize(
    "name", ["a b", " a", "line\nbreak", "ü" * 127, "n" * 255, "a.1.2", "~%&?#:", "\\'\""]
)
async def test_name_stands_in_the_pfn(uploads: Uploads, name: str) -> None:
    replica = await uploads.put(name, ALICE)
    file = replica.rfn.rpartition("/")[2]
    assert len(file.encode()) <= 255
    assert file.startswith(name[:100])
    assert await uploads.done(replica, 5) == Answered(200, "dome_putdone successful.")


async def test_of_many_who_put_one_file_one_does(uploads: Uploads) -> None:
    answers = await asyncio.gather(
        *(uploads.post("dome_put", ALICE, lfn=uploads.path("f")) for _ in range(CLIENTS))
    )
    assert sorted(answer.status for answer in answers) == [200] + [422] * (CLIENTS - 1)
    assert len(await uploads.replicas((await uploads.entry(uploads.path("f"))).fileid)) == 1


async def test_put_while_its_directory_is_removed_leaves_no_orphan(uploads: Uploads) -> None:
    for number in range(6):
        directory = await uploads.make_directory()
        parent = await uploads.entry(directory)
        put, _ = await asyncio.gather(
            uploads.post("dome_put", ADMIN, lfn=f"{directory}/f{number}"),
            uploads.transact(_remove_if_empty, parent),
        )
        assert put.status in (200, 404), put


async def _remove_if_empty(source: Source, directory: Entry) -> None:
    await catalog.locked_entry(source, directory.parent)
    await catalog.locked_entry(source, directory.fileid)
    if not await catalog.has_children(source, directory.fileid):
        await source.execute(
            f"DELETE FROM {source.cns}.Cns_file_metadata WHERE fileid = %s", (directory.fileid,)
        )
        await source.execute(
            f"UPDATE {source.cns}.Cns_file_metadata SET nlink = nlink - 1 WHERE fileid = %s",
            (directory.parent,),
        )


@pytest.mark.parametrize(("failure", "status"), [({}, 500), (FENCED, 503)])
async def test_entry_does_not_stay_without_its_replica(
    uploads: Uploads, failure: dict[str, str], status: int
) -> None:
    before = await uploads.rows()
    async with uploads.refusing(REPLICAS, "INSERT", **failure):
        assert (await uploads.post("dome_put", ALICE, lfn=uploads.path("f"))).status == status
        again = {"additionalreplica": "true", "pool": "pool01"}
        assert (await uploads.post("dome_put", ADMIN, lfn=f"{HOME}/legacy_ad", **again)).status == status
    assert await uploads.rows() == before
    await uploads.put("f", ALICE)


async def test_fence_keeps_uploads_from_beginning_and_ending(uploads: Uploads) -> None:
    replica = await uploads.put("f", ALICE)
    before = await uploads.rows()
    async with uploads.fence():
        assert (await uploads.post("dome_put", ALICE, lfn=uploads.path("g"))).status == 503
        assert (await uploads.done(replica, 100)).status == 503
    assert await uploads.rows() == before
    assert (await uploads.done(replica, 100)).status == 200


# --- additional replicas ---


async def test_additional_replica_goes_where_the_file_has_none(uploads: Uploads) -> None:
    [first] = await uploads.make("f", DISK1)
    entry = await uploads.entry(uploads.path("f"))
    replica = await uploads.put("f", additionalreplica="true")
    assert (replica.fileid, replica.host, replica.status) == (entry.fileid, DISK2, "P")
    assert await uploads.replicas(entry.fileid) == [first, replica]
    assert await uploads.entry(uploads.path("f")) == entry
    answer = await uploads.post("dome_put", ADMIN, lfn=uploads.path("f"), additionalreplica="true")
    assert answer.status == 507
    assert "additional replica" in answer.text


async def test_additional_replica_is_kept_to_its_hint(uploads: Uploads) -> None:
    await uploads.make("f", DISK1)
    wanted = {"additionalreplica": "true", "pool": "pool02", "fs": f"{DISK1}:/storage/disk1/fs2"}
    replica = await uploads.put("f", ROOT, **wanted)
    assert (replica.pool, replica.fs, replica.setname) == ("pool02", "/storage/disk1/fs2", "")


async def test_of_two_additional_replicas_at_once_one_finds_room(uploads: Uploads) -> None:
    await uploads.make("f", DISK1)
    wanted = {"lfn": uploads.path("f"), "additionalreplica": "true"}
    answers = await asyncio.gather(*(uploads.post("dome_put", ADMIN, **wanted) for _ in range(4)))
    assert sorted(answer.status for answer in answers) == [200, 507, 507, 507]


# --- names ---


def given_names(uploads: Uploads, *pfns: str) -> Upload:
    """Names that are given in this order, as if two processes counted alike."""
    names = iter(pfns)
    cluster = uploads.watch.cluster
    found = candidates(cluster, Hints(pool="pool01"))
    return Upload(uploads.directory, Choice(cluster, found, 0, Random(1)), None, lambda _: next(names))


async def test_name_that_a_replica_has_is_given_to_no_other(uploads: Uploads) -> None:
    parent = await uploads.entry(uploads.directory)
    disk1 = uploads.watch.cluster.find(DISK1, MOUNTS[DISK1])
    assert disk1 is not None
    begin = partial(begin_file, uploads.head.database, filesystem=disk1, parent=parent, subject=ROOT_SUBJECT)
    one, two = (f"{uploads.directory}/{name}" for name in "12")
    assert (await begin(given_names(uploads, one), name="a")).pfn == one
    assert (await begin(given_names(uploads, one, one, two), name="b")).pfn == two
    with pytest.raises(ApiError, match="no name for the replica"):
        await begin(given_names(uploads, *[one] * 5), name="c")
    assert not await uploads.exists("c")


async def test_processes_that_count_alike_give_every_replica_a_name_of_its_own(uploads: Uploads) -> None:
    files = [f"f{number}" for number in range(4)]
    for name in files:
        await uploads.make(name)
    entries = [await uploads.entry(uploads.path(name)) for name in files]
    names = [f"{uploads.directory}/{number}" for number in range(40)]

    def counting() -> Callable[[FileSystem], str]:
        numbers = count()
        return lambda _: names[next(numbers)]

    alike = [replace(given_names(uploads), pfn=counting()) for _ in files]
    begun = await asyncio.gather(
        *(
            begin_additional(uploads.head.database, upload, entry)
            for upload, entry in zip(alike, entries, strict=True)
        )
    )
    assert len({replica.rfn for replica in begun}) == len(files)
