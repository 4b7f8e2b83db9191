"""Removals that a kill or the write fence interrupts: nothing is gone without a trace, all is finished."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.config import DiskConfig
from dome_bridge.dome_api import removal
from dome_bridge.dome_api.catalog import Replica
from dome_bridge.dome_api.deletion_mark import MARK, MAX_XATTR_BYTES, Deletion, Mark
from dome_bridge.dome_api.removal import (
    Finished,
    deletions_left,
    finish_deletions,
    finish_forever,
    finish_known_deletions,
)
from dome_bridge.dpm import xattr
from tests.fixtures.storage import (
    ALICE,
    BOTH,
    DISK1,
    DISK2,
    ROOT,
    TOKEN,
    Removal,
    Storage,
    by_delreplica,
    marked,
    replicas,
    until,
)


@BOTH
async def test_killed_removal_is_finished_by_the_next_process(storage: Storage, remove: Removal) -> None:
    [replica] = await storage.make("f", DISK1, token=TOKEN)
    space = await storage.unused_space()
    storage.disks[DISK1].hang()
    running = asyncio.create_task(remove(storage, "f", replica))
    await until(lambda: bool(storage.disks[DISK1].calls))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    storage.disks[DISK1].heal()
    assert storage.file(replica.rfn).exists()
    async with storage.another_process() as head:
        assert await finish_deletions(head, older_than=0) == Finished(done=1, left=0)
    assert not storage.file(replica.rfn).exists()
    assert not await storage.exists("f")
    assert await storage.size() == 0
    assert await storage.unused_space() == space + (100 if remove is by_delreplica else 0)


async def test_finisher_asks_as_root(storage: Storage) -> None:
    await storage.make("f", DISK1)
    storage.disks[DISK1].cut()
    await storage.unlink("f", ALICE)
    storage.disks[DISK1].heal()
    storage.disks[DISK1].calls.clear()
    await finish_deletions(storage.head, older_than=0)
    assert [call.user for call in storage.disks[DISK1].calls] == [ROOT]


async def test_client_who_asks_again_goes_on_where_the_first_stopped(storage: Storage) -> None:
    both = await storage.make("f", DISK1, DISK2)
    storage.disks[DISK2].remove_then_cut()
    assert (await storage.unlink("f")).status == 500
    assert [await marked(storage, each) is not None for each in both] == [True, True]
    storage.disks[DISK2].heal()
    assert (await storage.unlink("f")).status == 200
    assert await storage.size() == 0


async def test_finisher_leaves_alone_what_is_young_or_not_ours(storage: Storage) -> None:
    [young] = await storage.make("young", DISK1)
    [foreign] = await storage.make("foreign", DISK1, statuses="D")
    storage.disks[DISK1].cut()
    await storage.unlink("young")
    storage.disks[DISK1].heal()
    storage.disks[DISK1].calls.clear()
    assert await finish_deletions(storage.head, older_than=60) == Finished()
    assert not storage.disks[DISK1].calls
    assert await storage.replica(foreign.replicaid) == foreign
    assert young.replicaid in storage.head.unfinished
    assert await finish_deletions(storage.head, older_than=0) == Finished(done=1, left=0)


async def test_mark_of_a_replica_that_has_another_status_means_nothing(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    text = xattr.serialise({MARK: str(Mark(Deletion.UNLINK, "-", 1, "ab"))})
    replica = await storage.change_replica(replica, xattr=text)
    assert await finish_deletions(storage.head, older_than=0) == Finished()
    assert await storage.replica(replica.replicaid) == replica


async def test_finisher_spares_a_replica_that_came_later(storage: Storage) -> None:
    [first] = await storage.make("f", DISK1)
    storage.disks[DISK1].cut()
    await storage.unlink("f")
    storage.disks[DISK1].heal()
    await storage.add("f", DISK2)
    assert await finish_deletions(storage.head, older_than=0) == Finished(done=1, left=0)
    [later] = await replicas(storage, "f")
    assert storage.file(later.rfn).exists()
    assert not storage.file(first.rfn).exists()
    assert await storage.size() == 100


@BOTH
async def test_finisher_leaves_the_file_that_another_entry_claims_too(
    storage: Storage, remove: Removal
) -> None:
    [replica] = await storage.make("f", DISK1)
    storage.disks[DISK1].cut()
    await remove(storage, "f", replica)
    storage.disks[DISK1].heal()
    storage.disks[DISK1].calls.clear()
    [other] = await storage.make("g", DISK1)
    other = await storage.rename(other, replica.rfn)
    assert await finish_deletions(storage.head, older_than=0) == Finished(done=1, left=0)
    assert not await storage.exists("f")
    assert not storage.disks[DISK1].calls
    assert await storage.replica(other.replicaid) == other


async def test_of_two_entries_that_are_left_with_one_file_the_second_removes_it(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    [other] = await storage.make("g", DISK1)
    storage.disks[DISK1].cut()
    await storage.unlink("f")
    await storage.unlink("g")
    storage.disks[DISK1].heal()
    storage.disks[DISK1].calls.clear()
    await storage.rename(other, replica.rfn)
    assert await finish_deletions(storage.head, older_than=0) == Finished(done=2, left=0)
    assert len(storage.disks[DISK1].calls) == 1
    assert not storage.file(replica.rfn).exists()


@pytest.mark.parametrize("pfn", ["/storage/disk1/fs1", "/storage/disk1/fs1/dteam/../f"])
async def test_finisher_asks_for_nothing_that_is_no_name_of_a_file(storage: Storage, pfn: str) -> None:
    [replica] = await storage.make("f", DISK1)
    storage.disks[DISK1].cut()
    await storage.unlink("f")
    storage.disks[DISK1].heal()
    storage.disks[DISK1].calls.clear()
    await storage.rename(replica, f"{DISK1}:{pfn}")
    assert await finish_deletions(storage.head, older_than=0) == Finished(done=0, left=1)
    assert not storage.disks[DISK1].calls
    await storage.rename(replica, replica.rfn)
    assert await finish_deletions(storage.head, older_than=0) == Finished(done=1, left=0)


async def test_finisher_leaves_a_file_alone_that_is_being_unlinked(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    storage.disks[DISK1].slow(0.2)
    running = asyncio.create_task(storage.unlink("f"))
    await until(lambda: bool(storage.disks[DISK1].calls))
    before = await marked(storage, replica)
    assert await finish_deletions(storage.head, older_than=-10) == Finished(done=0, left=1)
    assert await marked(storage, replica) == before
    assert len(storage.disks[DISK1].calls) == 1
    assert (await running).status == 200
    assert replica.replicaid not in storage.head.unfinished


@pytest.mark.parametrize(("seconds", "pause"), [(0.0, 3600.0), (36.0, 3600.0), (60.0, 6000.0)])
def test_table_is_read_again_within_an_hour_unless_that_takes_long(seconds: float, pause: float) -> None:
    assert removal.scan_pause(seconds) == pause


async def test_service_finds_what_another_process_leaves_later(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "scan_pause", lambda _: 0.01)
    task = asyncio.create_task(
        finish_forever(storage.head, stop=asyncio.Event(), interval=0.01, older_than=0)
    )
    async with storage.another_process() as head:
        await storage.make("f", DISK1)
        storage.disks[DISK1].cut()
        await replace(storage, head=head).unlink("f")
    storage.disks[DISK1].heal()
    async with asyncio.timeout(5):
        while await storage.exists("f"):  # noqa: ASYNC110 - nobody sets an event for it
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_finisher_asks_a_silent_server_once_a_pass(storage: Storage) -> None:
    names = ("a", "b", "c")
    for name in names:
        await storage.make(name, DISK1)
        storage.disks[DISK1].cut()
        await storage.unlink(name)
    storage.disks[DISK1].calls.clear()
    assert await finish_deletions(storage.head, older_than=0) == Finished(done=0, left=3)
    assert len({call.parameters["pfn"] for call in storage.disks[DISK1].calls}) == 1
    storage.disks[DISK1].heal()
    assert await finish_known_deletions(storage.head, older_than=0) == Finished(done=3, left=0)


async def test_what_is_left_can_be_told(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    storage.disks[DISK1].cut()
    await storage.delete(replica)
    [left] = await storage.head.database.read(deletions_left)
    assert (left.replicaid, left.fileid, left.rfn) == (replica.replicaid, replica.fileid, replica.rfn)
    assert left.deletion is Deletion.DELREPLICA
    storage.disks[DISK1].heal()
    await finish_deletions(storage.head, older_than=0)
    assert await storage.head.database.read(deletions_left) == []


async def test_whole_table_is_read_in_ranges(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "SCAN_ROWS", 1)
    for name in ("a", "b"):
        await storage.make(name, DISK1)
    storage.disks[DISK1].cut()
    await storage.unlink("a")
    await storage.unlink("b")
    storage.disks[DISK1].heal()
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    assert await finish_deletions(storage.head, older_than=0, sleep=sleep) == Finished(done=2, left=0)
    assert len(pauses) > 2


async def test_service_finishes_at_once_and_again_until_it_is_stopped(storage: Storage) -> None:
    await storage.make("f", DISK1)
    storage.disks[DISK1].cut()
    await storage.unlink("f")
    stop = asyncio.Event()
    task = asyncio.create_task(finish_forever(storage.head, stop=stop, interval=0.01, older_than=0))
    await asyncio.sleep(0.1)
    assert await storage.exists("f")
    storage.disks[DISK1].heal()
    await until(lambda: not storage.head.unfinished)
    assert not await storage.exists("f")
    stop.set()
    await asyncio.wait_for(task, 5)


async def test_service_goes_on_after_a_failure(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    async def failing(*_: object, **__: object) -> Finished:
        calls.append("failed")
        raise ValueError("no")

    monkeypatch.setattr(removal, "finish_deletions", failing)
    task = asyncio.create_task(finish_forever(storage.head, stop=asyncio.Event(), interval=0.001))
    await until(lambda: len(calls) >= 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


PATIENT = DiskConfig()
"""A fence takes its time on a busy machine: no answer may be given up before it stands."""


@BOTH
async def test_fenced_removal_does_nothing(storage: Storage, remove: Removal) -> None:
    [replica] = await storage.make("f", DISK1)
    async with storage.fence():
        assert (await remove(storage, "f", replica)).status == 503
    assert not storage.disks[DISK1].calls
    assert await storage.replica(replica.replicaid) == replica
    assert storage.head.unfinished == set()


@BOTH
async def test_fence_that_rises_while_the_disk_works_finds_the_mark(
    storage: Storage, remove: Removal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.head.disks, "_disk", PATIENT)
    [replica] = await storage.make("f", DISK1)
    storage.disks[DISK1].wait_for(fenced := asyncio.Event())
    running = asyncio.create_task(remove(storage, "f", replica))
    await until(lambda: bool(storage.disks[DISK1].calls))
    async with storage.fence():
        fenced.set()
        assert (await running).status == 503
        assert await marked(storage, replica) is not None
        assert not storage.file(replica.rfn).exists()
        assert await finish_known_deletions(storage.head, older_than=0) == Finished(done=0, left=1)
    storage.disks[DISK1].heal()
    assert (await remove(storage, "f", replica)).status == 200
    assert await storage.size() == 0


async def test_finisher_does_not_try_all_files_against_the_fence(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        await storage.make(name, DISK1)
        storage.disks[DISK1].cut()
        await storage.unlink(name)
    storage.disks[DISK1].heal()
    storage.disks[DISK1].calls.clear()
    caplog.clear()
    async with storage.fence():
        assert await finish_deletions(storage.head, older_than=0) == Finished(done=0, left=2)
    assert [record.msg.split(" ")[:4] for record in caplog.records if record.name == removal.__name__] == [
        ["deletion", "could", "not", "be"]
    ]
    assert not storage.disks[DISK1].calls
    assert await finish_known_deletions(storage.head, older_than=0) == Finished(done=2, left=0)


async def test_refusal_under_the_fence_leaves_the_mark(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.head.disks, "_disk", PATIENT)
    gone, kept = await storage.make("f", DISK1, DISK2)
    storage.disks[DISK1].wait_for(fenced := asyncio.Event())
    storage.disks[DISK2].refuse(422, "no")
    running = asyncio.create_task(storage.unlink("f"))
    await until(lambda: bool(storage.disks[DISK1].calls))
    async with storage.fence():
        fenced.set()
        assert (await running).status == 500
        assert await marked(storage, gone) is not None
        assert await marked(storage, kept) is not None
    storage.disks[DISK1].heal()
    storage.disks[DISK2].heal()
    assert await finish_known_deletions(storage.head, older_than=0) == Finished(done=2, left=0)
    assert not await storage.exists("f")


@given(
    deletion=st.sampled_from(Deletion),
    status=st.sampled_from(["", "-", "P", "D", ",", '"', "\\", "/", "\udcff", "é"]),
    since=st.integers(0, 10**12 - 1),
    attributes=st.dictionaries(
        st.from_regex(r"[a-z.]{1,8}", fullmatch=True), st.text(max_size=400), max_size=4
    ),
)
def test_mark_is_read_as_it_was_written(
    deletion: Deletion, status: str, since: int, attributes: dict[str, str]
) -> None:
    mark = Mark(deletion, status, since, "0a1b2c3d")
    try:
        before = xattr.serialise(attributes)
    except UnicodeEncodeError:
        before = b"{"
    text = mark.written_into(before)
    assert len(text) <= MAX_XATTR_BYTES
    assert Mark.of(replace(BLANK, status="D", xattr_text=text)) == mark
    assert Mark.of(replace(BLANK, status="-", xattr_text=text)) is None


BLANK = Replica(1, 1, 0, 0, 0, 0, "-", "P", "", "", "", "", "", b"")


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"dome_bridge.deleting", b'{"dome_bridge.deleting": 5}', b'{"dome_bridge.deleting": "x"}'],
)
def test_what_is_no_mark_is_not_taken_for_one(text: bytes) -> None:
    assert Mark.of(replace(BLANK, status="D", xattr_text=text)) is None
