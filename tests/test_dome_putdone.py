"""Ending uploads: every answer, what is counted, and that nothing is ever left half done."""

from __future__ import annotations

import asyncio
import time

import pytest

from dome_bridge.dome_api.catalog import Entry, Replica, bytes_of
from dome_bridge.dome_api.cluster import FileSystem
from dome_bridge.dome_api.deletion_mark import Attempt, Deletion, Doomed
from dome_bridge.dome_api.quotatokens import QuotaToken
from dome_bridge.dome_api.removal import write_marks
from dome_bridge.dome_api.uploads import (
    AbandonedUploads,
    NewReplica,
    abandoned_uploads,
)
from dome_bridge.dpm import xattr
from dome_bridge.dpm.fenced import FENCE_MESSAGE, FENCE_SQLSTATE
from tests.fixtures.storage import ALICE, DISK1, ROOT, TOKEN, Answered
from tests.fixtures.uploads import GIB, Uploads

CLIENTS = 12
REPLICAS = "{cns}.Cns_file_replica"
FENCED = {"message": FENCE_MESSAGE, "state": FENCE_SQLSTATE}


async def test_upload_that_is_done_is_available_and_counted(uploads: Uploads) -> None:
    unused = await uploads.unused_space()
    replica = await uploads.put("f", ALICE)
    await uploads.sql(
        f"UPDATE {REPLICAS} SET ctime = 1, atime = 1, nbaccesses = 3 WHERE rowid = {replica.replicaid}"
    )
    assert await uploads.done(replica, 1000) == Answered(200, "dome_putdone successful.")
    done = await uploads.replica(replica.replicaid)
    assert done is not None
    assert (done.status, done.nbaccesses, done.xattr_text) == ("-", 3, replica.xattr_text)
    assert min(done.atime, done.ptime, done.ltime) >= time.time() - 60
    assert (await uploads.entry(uploads.path("f"))).size == 1000
    assert await uploads.size() == 1000
    assert await uploads.unused_space() == unused - 1000


async def test_space_of_a_token_may_become_negative(uploads: Uploads) -> None:
    unused = await uploads.unused_space()
    replica = await uploads.put("f", ALICE)
    assert (await uploads.done(replica, unused + 5)).status == 200
    assert await uploads.unused_space() == -5
    await uploads.unlink("f", ALICE)
    await uploads.sql(f"UPDATE {{dpm}}.dpm_space_reserv SET u_space = {unused} WHERE s_token = '{TOKEN}'")


async def test_upload_is_done_once(uploads: Uploads) -> None:
    replica = await uploads.put("f", ALICE)
    answers = await asyncio.gather(*(uploads.done(replica, 100) for _ in range(4)))
    assert sorted(answer.status for answer in answers) == [200, 422, 422, 422]
    assert await uploads.size() == 100


async def test_size_of_every_upload_at_once_is_counted(uploads: Uploads) -> None:
    async def upload(number: int) -> int:
        replica = await uploads.put(f"f{number}", ALICE)
        return (await uploads.done(replica, 10)).status

    assert await asyncio.gather(*map(upload, range(CLIENTS))) == [200] * CLIENTS
    assert await uploads.size() == 10 * CLIENTS


async def test_additional_replica_counts_once_more(uploads: Uploads) -> None:
    await uploads.make("f", DISK1, size=100)
    replica = await uploads.put("f", additionalreplica="true")
    unused = await uploads.unused_space()
    assert (await uploads.done(replica, 100)).status == 200
    assert await uploads.size() == 200
    assert await uploads.unused_space() == unused - 100


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"pfn": ""}, 422),
        ({"server": ""}, 422),
        ({"server": "none"}, 500),
        ({"pfn": "/none"}, 500),
        ({"pfn": "/" + "p" * 5000}, 500),
        ({"size": -1}, 422),
        ({"checksumtype": "checksum.adler32"}, 422),
        ({"checksumvalue": "1a0b045d"}, 422),
        ({"checksumtype": "adler32", "checksumvalue": "1a0b045d"}, 422),
        ({"checksumtype": "checksum.", "checksumvalue": "1a0b045d"}, 422),
        ({"checksumtype": 'checksum."', "checksumvalue": "1a0b045d"}, 422),
        ({"checksumtype": "checksum.md5", "checksumvalue": "f" * 129}, 400),
    ],
)
async def test_upload_that_cannot_be_ended(uploads: Uploads, changes: dict[str, object], status: int) -> None:
    replica = await uploads.put("f", ALICE)
    server, _, pfn = replica.rfn.partition(":")
    sent = {"server": server, "pfn": pfn, "size": "5", **changes}
    before = await uploads.rows()
    assert (await uploads.post("dome_putdone", ALICE, **sent)).status == status
    assert await uploads.rows() == before


async def test_disk_is_asked_for_a_size_that_is_not_told(uploads: Uploads) -> None:
    replica = await uploads.put("f", ALICE)
    server, _, pfn = replica.rfn.partition(":")
    file = uploads.file(replica.rfn)
    assert (await uploads.post("dome_putdone", ALICE, server=server, pfn=pfn)).status == 500
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * 21)
    uploads.disks[server].calls.clear()
    assert (await uploads.post("dome_putdone", ALICE, server=server, pfn=pfn, size="0")).status == 200
    [call] = uploads.disks[server].calls
    assert (call.method, call.command, call.parameters, call.user) == (
        "GET",
        "dome_statpfn",
        {"pfn": pfn},
        ALICE,
    )
    assert await uploads.size() == (await uploads.entry(uploads.path("f"))).size == 21


async def test_disk_that_tells_no_size_leaves_the_upload_open(uploads: Uploads) -> None:
    replica = await uploads.put("f", ALICE)
    before = await uploads.rows()
    uploads.disks[replica.host].refuse(500, "no")
    assert (await uploads.done(replica, 0)).status == 500
    assert await uploads.rows() == before


async def test_disk_is_not_asked_about_an_upload_that_is_not_open(uploads: Uploads) -> None:
    [replica] = await uploads.make("f", DISK1)
    uploads.disks[DISK1].calls.clear()
    assert (await uploads.done(replica, 0)).status == 422
    assert uploads.disks[DISK1].calls == []


async def test_upload_whose_file_is_unlinked_cannot_be_ended(uploads: Uploads) -> None:
    replica = await uploads.put("f", ALICE)
    doomed = Doomed.by(Attempt(Deletion.UNLINK, ROOT), replica)
    await uploads.transact(write_marks, [doomed])
    assert (await uploads.done(replica, 100)).status == 422
    assert (await uploads.unlink("f")).status == 200
    assert (await uploads.done(replica, 100)).status == 500
    assert await uploads.size() == 0


async def test_ending_and_unlinking_at_once_leave_all_or_nothing(uploads: Uploads) -> None:
    for number in range(6):
        replica = await uploads.put(f"f{number}", ALICE)
        done, unlinked = await asyncio.gather(uploads.done(replica, 100), uploads.unlink(f"f{number}"))
        assert (done.status, unlinked.status) in {(200, 200), (500, 200), (422, 200)}
    assert await uploads.size() in range(0, 700, 100)


@pytest.mark.parametrize(("failure", "status"), [({}, 500), (FENCED, 503)])
@pytest.mark.parametrize("table", [REPLICAS, "{cns}.Cns_file_metadata", "{dpm}.dpm_space_reserv"])
async def test_ending_that_fails_half_way_changes_nothing(
    uploads: Uploads, table: str, failure: dict[str, str], status: int
) -> None:
    replica = await uploads.put("f", ALICE)
    before, unused = await uploads.rows(), await uploads.unused_space()
    async with uploads.refusing(table, "UPDATE", **failure):
        answer = await uploads.done(replica, 5, checksumtype="checksum.adler32", checksumvalue="0000000f")
        assert answer.status == status
    assert (await uploads.rows(), await uploads.unused_space()) == (before, unused)
    assert (await uploads.done(replica, 5)).status == 200


async def test_orphan_is_ended_without_directories(uploads: Uploads) -> None:
    replica = await uploads.put("f", ALICE)
    parent = (await uploads.entry(uploads.directory)).fileid
    change = "UPDATE {{cns}}.Cns_file_metadata SET parent_fileid = {} WHERE fileid = {}"
    await uploads.sql(change.format(999_999, replica.fileid))
    assert (await uploads.done(replica, 5)).status == 200
    await uploads.sql(change.format(parent, replica.fileid))
    assert await uploads.size() == 0
    await uploads.sql(f"UPDATE {{cns}}.Cns_file_metadata SET filesize = 0 WHERE fileid = {replica.fileid}")


# --- checksums ---


async def end_with(uploads: Uploads, replica: Replica, kind: str, value: str) -> tuple[Entry, Replica]:
    answer = await uploads.done(replica, 5, checksumtype=kind, checksumvalue=value)
    assert answer.status == 200, answer
    entry = await uploads.entry(uploads.path("f"))
    [done] = [each for each in await uploads.replicas(entry.fileid) if each.replicaid == replica.replicaid]
    return entry, done


async def test_checksum_of_an_upload_is_its_replicas_and_its_files(uploads: Uploads) -> None:
    entry, replica = await end_with(uploads, await uploads.put("f", ALICE), "checksum.adler32", "1a0b045d")
    assert replica.attributes["checksum.adler32"] == "1a0b045d"
    assert replica.attributes["accountedspacetokenname"] == "DTEAM_TOKEN"
    assert entry.attributes == {"checksum.adler32": "1a0b045d"}
    assert (entry.csumtype, entry.csumvalue) == (b"AD", b"1a0b045d")


async def test_checksum_that_the_legacy_columns_cannot_hold_is_in_the_attributes(uploads: Uploads) -> None:
    entry, _ = await end_with(uploads, await uploads.put("f", ALICE), "checksum.sha512", "a" * 128)
    assert entry.attributes == {"checksum.sha512": "a" * 128}
    assert (entry.csumtype, entry.csumvalue) == (b"", b"")


async def test_other_checksums_and_attributes_of_the_file_stay(uploads: Uploads) -> None:
    await uploads.make("f", DISK1, size=5)
    known = {"custom": "v/al", "checksum.ADLER32": "00000001"}
    await uploads.sql(
        f"UPDATE {{cns}}.Cns_file_metadata SET xattr = x'{xattr.serialise(known).hex()}', csumtype = 'MD', "
        f"csumvalue = '{'0' * 32}' WHERE fileid = {(await uploads.entry(uploads.path('f'))).fileid}"
    )
    replica = await uploads.put("f", additionalreplica="true")
    entry, _ = await end_with(uploads, replica, "checksum.adler32", "0000000f")
    assert entry.attributes == {"custom": "v/al", "checksum.adler32": "0000000f", "checksum.md5": "0" * 32}
    assert (entry.csumtype, entry.csumvalue) == (b"AD", b"0000000f")


@pytest.mark.parametrize(("value", "is_logged"), [("1A0B045D", False), ("1a0b045e", True)])
async def test_checksum_that_differs_from_the_files_is_only_logged(
    uploads: Uploads, caplog: pytest.LogCaptureFixture, value: str, is_logged: bool
) -> None:
    await end_with(uploads, await uploads.put("f", ALICE), "checksum.adler32", "1a0b045d")
    replica = await uploads.put("f", additionalreplica="true")
    entry, _ = await end_with(uploads, replica, "checksum.adler32", value)
    assert ("another checksum" in caplog.text) is is_logged
    assert entry.csumvalue == value.encode()


@pytest.mark.parametrize("text", ["nonsense", xattr.serialise({"custom": "x" * 980}).decode()])
async def test_attributes_without_room_for_a_checksum_stay_as_they_are(uploads: Uploads, text: str) -> None:
    replica = await uploads.put("f", ALICE)
    stored = f"x'{bytes_of(text).hex()}'"
    await uploads.sql(
        f"UPDATE {{cns}}.Cns_file_metadata SET xattr = {stored} WHERE fileid = {replica.fileid}"
    )
    await uploads.sql(f"UPDATE {REPLICAS} SET xattr = {stored} WHERE rowid = {replica.replicaid}")
    entry, done = await end_with(uploads, replica, "checksum.md5", "0" * 32)
    assert entry.xattr_text == done.xattr_text == text.encode()
    assert (entry.csumtype, entry.csumvalue, done.status) == (b"MD", b"0" * 32, "-")


def _token(*, u_token: str) -> QuotaToken:
    return QuotaToken("s", u_token, "pool", "/dpm", GIB, GIB, (0,))


def test_name_of_a_token_is_left_out_where_it_has_no_room() -> None:
    filesystem = FileSystem("pool", "disk", "/fs")
    token = _token(u_token="\x01" * 255)
    assert xattr.parse(NewReplica(filesystem, "/fs/f", token).xattr_text) == {
        "pool": "pool",
        "filesystem": "/fs",
    }


# --- abandoned uploads ---


async def test_uploads_that_began_long_ago_are_counted(uploads: Uploads) -> None:
    rested: list[float] = []

    async def rest(seconds: float) -> None:
        rested.append(seconds)

    async def abandoned() -> AbandonedUploads:
        return await uploads.head.database.read(
            lambda source: abandoned_uploads(source, 24 * 3600, sleep=rest)
        )

    before = await abandoned()
    replicas = [await uploads.put(f"f{number}", ALICE) for number in range(3)]
    for replica, hours in zip(replicas, (23, 25, 1_000_000), strict=True):
        await uploads.sql(
            f"UPDATE {REPLICAS} SET ctime = GREATEST(UNIX_TIMESTAMP() - 3600 * {hours}, 7) "
            f"WHERE rowid = {replica.replicaid}"
        )
    assert await abandoned() == AbandonedUploads(before.count + 2, 7)
    assert rested
    await uploads.sql(f"DELETE FROM {REPLICAS} WHERE ctime = 7")
