"""Names of replicas: files that two rows name, and names that are no file's, are safe from removals."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.dome_api.replica_names import MOST_SLASHES, fault_of, normal, require_new_name, spellings
from dome_bridge.errors import ApiError
from tests.fixtures.storage import (
    BOTH,
    DISK1,
    DISK2,
    MOUNTS,
    TOKEN,
    Removal,
    Storage,
    by_delreplica,
    by_unlink,
    replicas,
)


@BOTH
async def test_file_that_another_entry_claims_too_stays(storage: Storage, remove: Removal) -> None:
    [replica] = await storage.make("f", DISK1, token=TOKEN)
    space = await storage.unused_space()
    [other] = await storage.make("g", DISK1)
    other = await storage.rename(other, replica.rfn)
    assert (await remove(storage, "f", replica)).status == 200
    assert not await storage.exists("f")
    assert await storage.unused_space() == space + (100 if remove is by_delreplica else 0)
    assert not storage.disks[DISK1].calls
    assert await storage.replica(other.replicaid) == other
    assert storage.file(other.rfn).exists()
    assert (await remove(storage, "g", other)).status == 200
    assert not storage.file(other.rfn).exists()
    assert not await storage.exists("g")


async def test_only_the_replica_that_another_entry_claims_stays(storage: Storage) -> None:
    shared, own = await storage.make("f", DISK1, DISK2)
    [other] = await storage.make("g", DISK1)
    await storage.rename(other, shared.rfn)
    assert (await storage.unlink("f")).status == 200
    assert not await storage.exists("f")
    assert storage.file(shared.rfn).exists()
    assert not storage.file(own.rfn).exists()
    assert await storage.size() == 100


async def test_names_that_differ_behind_what_the_index_holds_are_two(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    [other] = await storage.make("g", DISK1)
    long = f"{DISK1}:{MOUNTS[DISK1]}/dteam/{'d' * 200}/{'e' * 60}"
    replica = await storage.rename(replica, f"{long}1")
    other = await storage.rename(other, f"{long}2")
    for each in (replica, other):
        storage.file(each.rfn).parent.mkdir(parents=True, exist_ok=True)
        storage.file(each.rfn).write_bytes(b"x")
    assert (await storage.unlink("f")).status == 200
    assert not storage.file(replica.rfn).exists()
    assert storage.file(other.rfn).exists()


@BOTH
async def test_of_two_entries_that_go_at_once_one_removes_their_file(
    storage: Storage, remove: Removal
) -> None:
    pairs = {}
    for number in range(6):
        [replica] = await storage.make(f"f{number}", DISK1)
        [other] = await storage.make(f"g{number}", DISK1)
        pairs[number] = (replica, await storage.rename(other, replica.rfn))
    answers = await asyncio.gather(
        *(storage.unlink(f"{name}{number}") for number in pairs for name in ("f", "g"))
        if remove is by_unlink
        # It is the name that is to be deleted, so each needs two.
        else (storage.delete(replica) for pair in pairs.values() for replica in pair)
    )
    left = [pair for pair in pairs.values() if await storage.by_rfn(pair[0].rfn)]
    if remove is by_unlink:
        assert {answer.status for answer in answers} == {200}
        assert not left
    for pair in pairs.values():
        assert storage.file(pair[0].rfn).exists() == (pair in left)
    assert len(storage.disks[DISK1].calls) == len(pairs) - len(left)


@BOTH
async def test_doubled_slash_in_a_name_is_the_same_file(storage: Storage, remove: Removal) -> None:
    [replica] = await storage.make("f", DISK1)
    [other] = await storage.make("g", DISK1)
    other = await storage.rename(other, replica.rfn.replace("/dteam/", "//dteam/"))
    assert (await remove(storage, "f", replica)).status == 200
    assert not storage.disks[DISK1].calls
    assert (await remove(storage, "g", other)).status == 200
    assert [call.parameters["pfn"] for call in storage.disks[DISK1].calls] == [
        other.rfn.removeprefix(f"{DISK1}:")
    ]
    assert not storage.file(replica.rfn).exists()


async def test_deleted_name_of_a_file_that_has_it_twice_leaves_the_file(storage: Storage) -> None:
    first, second = await storage.make("f", DISK1, DISK2)
    second = await storage.rename(second, first.rfn.replace("/dteam/", "//dteam/"))
    assert (await storage.delete(first)).status == 200
    assert not storage.disks[DISK1].calls
    assert await replicas(storage, "f") == [second]
    assert (await storage.unlink("f")).status == 200
    assert not storage.file(first.rfn).exists()


@pytest.mark.parametrize(
    "pfn",
    [
        "/storage/disk1/fs1",
        "/storage/disk1/fs1/",
        "/storage/disk1/fs1//",
        "/storage/disk1/fs1/dteam/",
        "/storage/disk1/fs1/dteam/../f",
        "/storage/disk1/fs1/./f",
        "/storage/disk1/fs1/.",
    ],
)
async def test_disk_is_not_asked_to_remove_what_is_no_name_of_a_file(storage: Storage, pfn: str) -> None:
    [replica] = await storage.make("f", DISK1)
    replica = await storage.rename(replica, f"{DISK1}:{pfn}")
    for answer in (await storage.unlink("f"), await storage.delete(replica)):
        assert answer.status == 500
        assert answer.text.startswith(f"Incorrect replica rfn '{DISK1}:{pfn}'")
    assert not storage.disks[DISK1].calls
    assert await storage.replica(replica.replicaid) == replica


SERVERS = st.from_regex(r"[a-z0-9.-]{1,12}", fullmatch=True)
NAMES = st.text(st.characters(blacklist_characters="/\0"), min_size=1, max_size=5)
PATHS = st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=8)


@given(server=SERVERS, names=PATHS)
def test_good_name_is_normal_and_a_doubled_slash_is_found_again(server: str, names: list[str]) -> None:
    rfn = f"{server}:/{'/'.join(names)}"
    require_new_name(rfn, [("elsewhere", rfn.partition(":")[2])])
    assert normal(rfn) == rfn
    for place in range(len(names)):
        doubled = f"{server}:/{'/'.join([*names[:place], f'/{names[place]}', *names[place + 1 :]])}"
        assert normal(doubled) == rfn
        assert fault_of(doubled, []) == ""
        assert doubled in spellings(rfn)
        assert rfn in spellings(doubled)
        with pytest.raises(ApiError, match="doubled slash"):
            require_new_name(doubled)


@given(server=SERVERS, names=PATHS, depth=st.integers(0, 3))
def test_neither_a_mount_point_nor_what_is_above_it_is_a_file(
    server: str, names: list[str], depth: int
) -> None:
    mount = "/" + "/".join(names)
    above = "/" + "/".join(names[: max(1, len(names) - depth)])
    for spelled in (mount, f"{mount}/", mount.replace("/", "//")):
        assert "mount point" in fault_of(f"{server}:{above}", [(server, spelled)])
        assert fault_of(f"{server}:{mount}/f", [(server, spelled)]) == ""
        assert fault_of(f"{server}:{mount}f", [(server, spelled)]) == ""


def test_paths_of_many_directories_are_not_looked_for_in_endless_spellings() -> None:
    assert len(spellings("d:" + "/a" * 2000)) == MOST_SLASHES + 1
