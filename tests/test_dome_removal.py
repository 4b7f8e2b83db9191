"""Removing files with real disk servers: whatever a disk does, rows, files and sizes agree in the end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from dome_bridge.dome_api.deletion_mark import Deletion
from dome_bridge.dome_api.removal import (
    Finished,
    finish_known_deletions,
)
from dome_bridge.dome_api.replica_names import is_in_file_system
from tests.fixtures.source import writer
from tests.fixtures.storage import (
    ALICE,
    BOB,
    BOTH,
    DISK1,
    DISK2,
    HOME,
    TOKEN,
    Answered,
    Removal,
    Storage,
    marked,
    replicas,
    until,
)


async def test_unlinked_file_is_gone_with_its_replicas(storage: Storage) -> None:
    both = await storage.make("f", DISK1, DISK2)
    assert await storage.size() == 200
    assert await storage.unlink("f", ALICE) == Answered(200)
    assert not await storage.exists("f")
    assert [await storage.replica(replica.replicaid) for replica in both] == [None, None]
    assert not any(storage.file(replica.rfn).exists() for replica in both)
    assert await storage.size() == 0


async def test_disk_is_told_the_pfn_and_the_user(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    await storage.unlink("f", ALICE)
    [call] = storage.disks[DISK1].calls
    assert (call.command, call.user) == ("dome_pfnrm", ALICE)
    assert call.parameters == {"pfn": replica.rfn.removeprefix(f"{DISK1}:")}


async def test_replica_is_marked_before_its_file_is_touched(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    storage.disks[DISK1].slow(0.1)
    running = asyncio.create_task(storage.unlink("f"))
    await until(lambda: bool(storage.disks[DISK1].calls))
    mark = await marked(storage, replica)
    assert storage.file(replica.rfn).exists()
    assert mark is not None
    assert (mark.deletion, mark.status) == (Deletion.UNLINK, "-")
    assert (await running).status == 200


async def test_file_without_replicas_is_unlinked(storage: Storage) -> None:
    await storage.make("f")
    assert await storage.unlink("f") == Answered(200)
    assert not await storage.exists("f")


async def test_link_is_unlinked_and_not_followed(storage: Storage) -> None:
    await storage.make("elsewhere", DISK1)
    await storage.make_link("l")
    assert await storage.unlink("l") == Answered(200)
    assert not await storage.exists("l")
    assert await storage.exists("elsewhere")


async def test_space_of_an_unlinked_file_stays_charged_to_its_token(storage: Storage) -> None:
    await storage.make("f", DISK1, token=TOKEN)
    before = await storage.unused_space()
    await storage.unlink("f")
    assert await storage.unused_space() == before


@pytest.mark.parametrize(
    ("lfn", "status"),
    [("", 422), ("/", 422), (HOME, 422), (f"{HOME}/none", 404), (f"{HOME}/none/f", 404), ("none", 404)],
)
async def test_what_is_no_file_is_not_unlinked(storage: Storage, lfn: str, status: int) -> None:
    assert (await storage.post("dome_unlink", lfn=lfn)).status == status


async def test_dot_after_a_file_does_not_make_it_its_own_directory(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    everybody = "UPDATE {{cns}}.Cns_file_metadata SET filemode = 33279 WHERE fileid = {}"
    await storage.sql(everybody.format(replica.fileid))
    assert (await storage.unlink("f/.", ALICE)).status == 404
    assert await storage.exists("f")


@pytest.mark.parametrize(
    ("mode", "status"), [(0o777, 200), (0o771, 403), (0o776, 403), (0o1777, 403)], ids=oct
)
async def test_rights_on_the_directory_decide(storage: Storage, mode: int, status: int) -> None:
    await storage.make_directory(mode=mode)
    storage.faults = []
    storage.faults = await storage.new_faults()
    [replica] = await storage.make("f", DISK1)
    assert (await storage.unlink("f", BOB)).status == status
    assert storage.file(replica.rfn).exists() == (status != 200)


@pytest.mark.parametrize("servers", [(), (DISK1,)], ids=["empty", "with a replica"])
async def test_rights_that_are_taken_away_meanwhile_count(storage: Storage, servers: tuple[str, ...]) -> None:
    await storage.make("f", *servers)
    parent = await storage.entry(storage.directory)
    async with writer(storage.site, autocommit=False) as cursor:
        await cursor.execute(f"UPDATE Cns_file_metadata SET filemode = 16877 WHERE fileid = {parent.fileid}")
        running = asyncio.create_task(storage.unlink("f", BOB))
        await asyncio.sleep(0.1)
        assert not running.done()
        await cursor.execute("COMMIT")
        assert (await running).status == 403
    assert await storage.exists("f")
    assert not storage.disks[DISK1].calls


async def test_directory_that_is_closed_meanwhile_keeps_its_replicas(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    parent = await storage.entry(storage.directory)
    async with writer(storage.site, autocommit=False) as cursor:
        await cursor.execute(f"UPDATE Cns_file_metadata SET filemode = 16832 WHERE fileid = {parent.fileid}")
        running = asyncio.create_task(storage.delete(replica, BOB))
        await asyncio.sleep(0.1)
        await cursor.execute("COMMIT")
        assert (await running).status == 403
    assert not storage.disks[DISK1].calls


@pytest.mark.parametrize("server", ["old.test", "DISK1.test"])
async def test_nothing_is_removed_when_one_replica_is_in_no_known_file_system(
    storage: Storage, server: str
) -> None:
    replica, lost = await storage.make("f", DISK1, DISK2)
    rfn = f"{server}:/storage/disk1/fs1/f"
    await storage.sql(f"UPDATE {{cns}}.Cns_file_replica SET sfn = '{rfn}' WHERE rowid = {lost.replicaid}")
    assert await storage.unlink("f") == Answered(500, f"No filesystem matches replica '{rfn}'")
    assert storage.file(replica.rfn).exists()
    assert not storage.disks[DISK1].calls
    assert await storage.replica(replica.replicaid) == replica


async def test_replica_without_a_path_is_reported(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    await storage.sql(f"UPDATE {{cns}}.Cns_file_replica SET sfn = 'd:' WHERE rowid = {replica.replicaid}")
    assert await storage.unlink("f") == Answered(500, "Incorrect replica rfn 'd:'")


async def test_replica_that_somebody_else_calls_deleted_is_removed(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1, statuses="D")
    assert (await storage.unlink("f")).status == 200
    assert not storage.file(replica.rfn).exists()


async def test_replica_that_comes_while_a_file_is_unlinked_goes_with_it(storage: Storage) -> None:
    await storage.make("f", DISK1)
    storage.disks[DISK1].slow(0.15)
    running = asyncio.create_task(storage.unlink("f"))
    await until(lambda: bool(storage.disks[DISK1].calls))
    await storage.add("f", DISK2)
    [late] = [each for each in await replicas(storage, "f") if each.host == DISK2]
    assert (await running).status == 200
    assert not await storage.exists("f")
    assert not storage.file(late.rfn).exists()


async def test_file_moved_while_it_is_unlinked_is_gone_all_the_same(storage: Storage) -> None:
    new = await storage.entry(storage.directory)
    old = await storage.entry(await storage.make_directory())
    [replica] = await storage.make("f", DISK1)
    storage.disks[DISK1].slow(0.05)
    running = asyncio.create_task(storage.unlink("f"))
    await until(lambda: bool(storage.disks[DISK1].calls))
    change = "UPDATE Cns_file_metadata SET {} WHERE fileid = {}"
    async with writer(storage.site, autocommit=False) as cursor:
        # The directories stay locked until the rows of the file are to go.
        for directory, links in ((new, 1), (old, -1)):
            await cursor.execute(change.format(f"nlink = nlink + {links}", directory.fileid))
        await until(lambda: not storage.file(replica.rfn).exists())
        await asyncio.sleep(0.1)
        await cursor.execute(change.format(f"parent_fileid = {new.fileid}", replica.fileid))
        await cursor.execute(change.format("filesize = 0", old.fileid))
        await cursor.execute(change.format("filesize = 100", new.fileid))
        await cursor.execute("COMMIT")
        assert (await running).status == 200
    assert await storage.replica(replica.replicaid) is None
    assert await storage.new_faults() == []


@BOTH
async def test_refusal_leaves_everything_as_it_was(storage: Storage, remove: Removal) -> None:
    [replica] = await storage.make("f", DISK1, token=TOKEN)
    replica = await storage.change_replica(replica, xattr=b'{"pool" :"pool01" , "n": 1}')
    storage.disks[DISK1].refuse(422, "no")
    answer = await remove(storage, "f", replica)
    assert answer.status == 500
    assert "422" in answer.text
    assert await storage.replica(replica.replicaid) == replica
    assert await storage.size() == 100
    storage.disks[DISK1].heal()
    assert (await remove(storage, "f", replica)).status == 200


async def test_of_many_who_are_refused_none_leaves_a_mark(storage: Storage) -> None:
    both = await storage.make("f", DISK1, DISK2)
    storage.disks[DISK1].refuse(422, "no")
    answers = await asyncio.gather(*(storage.unlink("f") for _ in range(4)), storage.delete(both[0]))
    assert [answer.status for answer in answers] == [500] * 5
    assert [await storage.replica(each.replicaid) for each in both] == both
    assert storage.head.unfinished == set()


async def test_second_refusal_gives_back_what_the_first_could_not(storage: Storage) -> None:
    gone, kept = await storage.make("f", DISK1, DISK2)
    kept = await storage.change_replica(kept, xattr=b'{"n" : 1}')
    storage.disks[DISK1].slow(0.2)
    storage.disks[DISK2].refuse(422, "no")
    running = asyncio.create_task(storage.unlink("f"))
    await until(lambda: bool(storage.disks[DISK1].calls))
    async with storage.fence():
        assert (await running).status == 500
    assert await marked(storage, kept) is not None
    assert (await storage.unlink("f")).status == 500
    assert await replicas(storage, "f") == [kept]
    assert storage.head.unfinished == set()
    assert not storage.head.refused
    assert await storage.replica(gone.replicaid) is None


@BOTH
async def test_unreachable_disk_leaves_everything_as_it_was(storage: Storage, remove: Removal) -> None:
    [replica] = await storage.make("f", DISK1)
    await storage.disks[DISK1].stop()
    try:
        assert (await remove(storage, "f", replica)).status == 500
        assert await storage.replica(replica.replicaid) == replica
        assert storage.head.unfinished == set()
    finally:
        await storage.disks[DISK1].start()
    assert (await remove(storage, "f", replica)).status == 200


@pytest.mark.parametrize("text", [b"{not json", b'{"k": "' + b"x" * 1005 + b'"}', b'{"a": {"b": []}}'])
async def test_attributes_come_back_to_the_byte(storage: Storage, text: bytes) -> None:
    [replica] = await storage.make("f", DISK1)
    replica = await storage.change_replica(replica, xattr=text)
    storage.disks[DISK1].refuse(500, "no")
    assert (await storage.unlink("f")).status == 500
    assert await storage.replica(replica.replicaid) == replica


async def test_replica_whose_file_is_gone_is_not_given_back_when_the_next_disk_is_dead(
    storage: Storage,
) -> None:
    gone, kept = await storage.make("f", DISK1, DISK2)
    await storage.disks[DISK2].stop()
    try:
        assert (await storage.unlink("f")).status == 500
    finally:
        await storage.disks[DISK2].start()
    assert await storage.replica(gone.replicaid) is None
    assert await storage.replica(kept.replicaid) == kept
    assert storage.file(kept.rfn).exists()
    assert await storage.size() == 100
    assert (await storage.unlink("f")).status == 200


@BOTH
async def test_lost_answer_leaves_the_mark_and_the_finisher_goes_on(
    storage: Storage, remove: Removal
) -> None:
    [replica] = await storage.make("f", DISK1)
    storage.disks[DISK1].remove_then_cut()
    assert (await remove(storage, "f", replica)).status == 500
    assert await marked(storage, replica) is not None
    assert await storage.size() == 100
    storage.disks[DISK1].heal()
    assert await finish_known_deletions(storage.head, older_than=0) == Finished(done=1, left=0)
    assert not await storage.exists("f")
    assert await storage.size() == 0
    assert storage.head.unfinished == set()


async def test_refusal_after_a_lost_answer_gives_nothing_back(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    storage.disks[DISK1].remove_then_cut()
    await storage.unlink("f")
    first = await marked(storage, replica)
    storage.disks[DISK1].refuse(422, "no")
    async with storage.another_process() as head:
        assert (await replace(storage, head=head).unlink("f")).status == 500
        assert head.unfinished == {replica.replicaid}
    assert await marked(storage, replica) == first
    storage.disks[DISK1].heal()
    assert (await storage.unlink("f")).status == 200


async def test_attempt_does_not_undo_what_another_has_taken_over(storage: Storage) -> None:
    first, second = await storage.make("f", DISK1, DISK2)
    storage.disks[DISK1].slow(0.2)
    waiting = asyncio.create_task(storage.unlink("f"))
    await until(lambda: bool(storage.disks[DISK1].calls))
    storage.disks[DISK1].slow(0)
    storage.disks[DISK2].remove_then_cut()
    async with storage.another_process() as head:
        assert (await replace(storage, head=head).unlink("f")).status == 500
    assert not storage.file(second.rfn).exists()
    storage.disks[DISK2].refuse(422, "no")
    assert (await waiting).status == 500
    assert await storage.replica(first.replicaid) is None
    assert await marked(storage, second) is not None
    storage.disks[DISK2].heal()
    assert await finish_known_deletions(storage.head, older_than=0) == Finished(done=1, left=0)


async def test_of_many_who_unlink_one_file_one_succeeds(storage: Storage) -> None:
    both = await storage.make("f", DISK1, DISK2)
    answers = await asyncio.gather(*(storage.unlink("f") for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [200, *[404] * 7]
    assert not any(storage.file(replica.rfn).exists() for replica in both)
    assert await storage.size() == 0


async def test_of_many_who_delete_one_replica_one_succeeds(storage: Storage) -> None:
    replica, _ = await storage.make("f", DISK1, DISK2, token=TOKEN)
    space = await storage.unused_space()
    answers = await asyncio.gather(*(storage.delete(replica) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [200, *[404] * 7]
    assert await storage.size() == 100
    assert await storage.unused_space() == space + 100


async def test_of_many_who_unlink_an_empty_file_or_a_link_one_succeeds(storage: Storage) -> None:
    await storage.make("f")
    await storage.make_link("l")
    for name in ("f", "l"):
        answers = await asyncio.gather(*(storage.unlink(name) for _ in range(8)))
        assert sorted(answer.status for answer in answers) == [200, *[404] * 7]


async def test_many_files_of_one_tree_are_unlinked_at_once(storage: Storage) -> None:
    names = [f"f{number}" for number in range(12)]
    for name in names:
        await storage.make(name, DISK1)
    upper = storage.directory
    await storage.make_directory()
    for name in names:
        await storage.make(name, DISK2)
    lower = storage.directory
    paths = [f"{directory}/{name}" for name in names for directory in (upper, lower)]
    answers = await asyncio.gather(*(storage.post("dome_unlink", lfn=path) for path in paths))
    assert {answer.status for answer in answers} == {200}


async def test_deleted_replica_gives_its_space_back_and_the_file_stays(storage: Storage) -> None:
    replica, other = await storage.make("f", DISK1, DISK2, token=TOKEN)
    space = await storage.unused_space()
    pfn = replica.rfn.removeprefix(f"{DISK1}:")
    answer = await storage.delete(replica)
    assert answer == Answered(200, f"Deleted '{pfn}' in server '{DISK1}'. Have a nice day.")
    assert await replicas(storage, "f") == [other]
    assert not storage.file(replica.rfn).exists()
    assert await storage.size() == 100
    assert await storage.unused_space() == space + 100


async def test_entry_goes_with_its_last_replica(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    assert (await storage.delete(replica)).status == 200
    assert not await storage.exists("f")
    assert await storage.size() == 0


async def test_second_deletion_of_a_replica_fails_harmlessly(storage: Storage) -> None:
    replica, _ = await storage.make("f", DISK1, DISK2)
    assert (await storage.delete(replica)).status == 200
    assert (await storage.delete(replica)).status == 404
    assert await storage.size() == 100
    assert len(storage.disks[DISK1].calls) == 1


async def test_cancelled_additional_upload_changes_no_counter(storage: Storage) -> None:
    _, upload = await storage.make("f", DISK1, DISK2, statuses="-P", token=TOKEN)
    space = await storage.unused_space()
    assert (await storage.delete(upload)).status == 200
    assert await storage.size() == 100
    assert await storage.unused_space() == space


async def test_unlink_takes_off_what_was_added_and_nothing_for_an_unfinished_upload(storage: Storage) -> None:
    await storage.make("f", DISK1, DISK2, statuses="-P")
    assert await storage.size() == 100
    await storage.make("g", DISK1)
    assert (await storage.unlink("f")).status == 200
    assert await storage.size() == 100


async def test_cancelled_first_upload_leaves_nothing(storage: Storage) -> None:
    [upload] = await storage.make("f", DISK1, size=0, statuses="P", token=TOKEN)
    space = await storage.unused_space()
    assert (await storage.delete(upload)).status == 200
    assert not await storage.exists("f")
    assert await storage.unused_space() == space


async def test_what_the_client_sent_goes_to_the_disk(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    pfn = replica.rfn.removeprefix(f"{DISK1}:")
    await storage.delete(replica, ALICE, more="é", number=5)
    [call] = storage.disks[DISK1].calls
    assert call.parameters == {"server": DISK1, "pfn": pfn, "more": "é", "number": "5"}
    assert call.user == ALICE


async def test_replica_registered_twice_for_a_file_goes_as_a_whole(storage: Storage) -> None:
    first, second = await storage.make("f", DISK1, DISK2)
    await storage.sql(
        f"UPDATE {{cns}}.Cns_file_replica SET sfn = '{first.rfn}' WHERE rowid = {second.replicaid}"
    )
    assert (await storage.delete(first)).status == 200
    assert not await storage.exists("f")
    assert await storage.size() == 0


@pytest.mark.parametrize(
    ("server", "pfn", "status"),
    [
        ("", "/f", 422),
        (DISK1, "", 422),
        (DISK1, "storage/disk1/fs1/f", 404),
        (DISK1, "/storage/disk1/fs11/f", 404),
        (DISK2, "/storage/disk1/fs1/f", 404),
        (DISK1, "/storage/disk1/fs1/none", 404),
    ],
)
async def test_replica_that_there_is_not_cannot_be_deleted(
    storage: Storage, server: str, pfn: str, status: int
) -> None:
    assert (await storage.post("dome_delreplica", server=server, pfn=pfn)).status == status
    assert not storage.disks[DISK1].calls


async def test_replica_of_a_directory_cannot_be_deleted(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    home = await storage.entry(HOME)
    move = "UPDATE {{cns}}.Cns_file_replica SET fileid = {} WHERE rowid = {}"
    await storage.sql(move.format(home.fileid, replica.replicaid))
    assert (await storage.delete(replica)).status == 400
    await storage.sql(move.format(replica.fileid, replica.replicaid))


async def test_replica_behind_a_closed_directory_cannot_be_deleted(storage: Storage) -> None:
    await storage.make_directory(mode=0o700)
    [replica] = await storage.make("f", DISK1)
    assert (await storage.delete(replica, BOB)).status == 403
    assert not storage.disks[DISK1].calls


@pytest.mark.parametrize(
    ("server", "pfn", "known"),
    [
        ("d", "/fs", True),
        ("d", "/fs/f", True),
        ("d", "/fs2/f", False),
        ("d", "/f", False),
        ("D", "/fs/f", False),
        ("e", "/f", True),
    ],
)
def test_file_system_is_known_by_server_and_mount_point(server: str, pfn: str, known: bool) -> None:
    assert is_in_file_system(server, pfn, [("d", "/fs"), ("e", "/")]) == known
