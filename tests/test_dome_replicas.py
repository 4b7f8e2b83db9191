"""Registering and changing replicas: what is kept, what is refused, and many clients at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from dome_bridge.dome_api.catalog import Replica
from dome_bridge.dome_api.deletion_mark import MARK
from dome_bridge.dpm import xattr
from sandbox.servers import MariaServer
from tests.fixtures.source import writer
from tests.fixtures.storage import (
    ALICE,
    BOB,
    DISK1,
    DISK2,
    HOME,
    TOKEN,
    Answered,
    Storage,
    golden_storage,
    room,
)

BAD_NAMES = (
    "nocolon",
    "/storage/disk1/fs1/f",
    ":/storage/disk1/fs1/f",
    "disk1.test:",
    "disk1.test:storage/disk1/fs1/f",
    "disk1.test:/",
    "disk1.test:/storage/disk1/fs1",
    "disk1.test:/storage/disk1",
    "disk1.test:/storage/disk1/fs1/f/",
    "disk1.test:/storage/disk1/fs1//f",
    "disk1.test://storage/disk1/fs1/f",
    "disk1.test:/storage/disk1/fs1/./f",
    "disk1.test:/storage/disk1/fs1/../fs1/f",
    "disk1.test:/storage/disk1/fs1/..",
    "disk1.test:/storage/disk1/fs1/f\0",
    "disk 1.test:/storage/disk1/fs1/f",
    "/disk1.test:/storage/disk1/fs1/f",
)
"""None of them is the one name of a file."""

PLACE = '{"pool": "pool02", "filesystem": "\\/storage\\/disk1\\/fs2", "n": 1}'


@pytest.fixture(scope="module")
async def golden(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Storage]:
    async with golden_storage(maria, tmp_path_factory.mktemp("disks")) as storage:
        yield storage


@pytest.fixture
async def storage(golden: Storage) -> AsyncIterator[Storage]:
    async with room(golden) as storage:
        yield storage


async def added(storage: Storage, rfn: str, **parameters: Any) -> Replica:
    """A replica of a new file that is registered as the parameters say."""
    await storage.make("f")
    fileid = (await storage.entry(storage.path("f"))).fileid
    answer = await storage.post("dome_addreplica", rfn=rfn, fileid=fileid, **parameters)
    assert answer == Answered(200)
    [replica] = await storage.replicas(fileid)
    return replica


def rfn_in(storage: Storage, name: str = "f", server: str = DISK1) -> str:
    """One that no other test has."""
    return f"{server}:/storage/disk1/fs1/{storage.directory.rpartition('/')[2]}/{name}"


async def test_added_replica_has_what_was_given(storage: Storage) -> None:
    rfn = rfn_in(storage)
    replica = await added(storage, rfn, status="P", type="V", setname=TOKEN, xattr=PLACE)
    assert (replica.rfn, replica.host, replica.status, replica.kind) == (rfn, DISK1, "P", "V")
    assert (replica.setname, replica.pool, replica.fs) == (TOKEN, "pool02", "/storage/disk1/fs2")
    assert replica.xattr_text == PLACE.replace(": 1}", ': "1"}').encode()
    assert replica.nbaccesses == 0
    assert replica.atime == replica.ptime == replica.ltime > 1_700_000_000


@pytest.mark.parametrize(
    ("given", "status", "kind"),
    [
        ({}, "-", "P"),
        ({"status": "45", "type": 86}, "-", "V"),
        ({"status": 80, "type": "80"}, "P", "P"),
        ({"status": "D", "type": "D"}, "D", "D"),
        ({"status": "-", "type": ""}, "-", "P"),
        ({"status": "999", "type": "PV"}, "-", "P"),
        ({"status": "\u00c4", "type": "07"}, "-", "P"),
    ],
)
async def test_status_and_type_are_characters_or_their_codes(
    storage: Storage, given: dict[str, Any], status: str, kind: str
) -> None:
    replica = await added(storage, rfn_in(storage), **given)
    assert (replica.status, replica.kind, replica.setname) == (status, kind, "")


async def test_file_can_be_named_by_its_path(storage: Storage) -> None:
    await storage.make("f")
    lfn = storage.path("f")
    assert await storage.post("dome_addreplica", rfn=rfn_in(storage), lfn=lfn) == Answered(200)
    assert len(await storage.replicas((await storage.entry(lfn)).fileid)) == 1


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"rfn": ""}, 422),
        *(({"rfn": rfn}, 422) for rfn in BAD_NAMES),
        ({"fileid": "none"}, 404),
        ({"fileid": 99_999_999}, 404),
        ({"fileid": -1}, 404),
        ({"fileid": None, "lfn": f"{HOME}/none"}, 404),
        ({"fileid": None, "lfn": HOME}, 400),
        ({"fileid": 6}, 400),
        ({"fileid": 23}, 400),
        ({"xattr": "{"}, 422),
        ({"xattr": "[]"}, 422),
        ({"rfn": "d" * 64 + ":/f"}, 400),
        ({"rfn": "d:/" + "f" * 4093}, 400),
        ({"setname": "t" * 37}, 400),
        ({"xattr": '{"pool": "0123456789abcdef"}'}, 400),
        ({"xattr": '{"filesystem": "/' + "f" * 79 + '"}'}, 400),
        ({"xattr": '{"k": "' + "v" * 1100 + '"}'}, 422),
    ],
)
async def test_replica_that_cannot_be_is_not_added(
    storage: Storage, parameters: dict[str, Any], status: int
) -> None:
    await storage.make("f")
    fileid = (await storage.entry(storage.path("f"))).fileid
    wanted: dict[str, Any] = {"rfn": rfn_in(storage), "fileid": fileid} | parameters
    answer = await storage.post("dome_addreplica", **wanted)
    assert answer.status == status, answer
    assert await storage.replicas(fileid) == []


async def test_longest_names_fit(storage: Storage) -> None:
    rfn = "d" * 63 + ":/" + "f" * (4095 - 65)
    replica = await added(storage, rfn, setname="t" * 36, xattr='{"pool": "0123456789abcde"}')
    assert (replica.rfn, len(replica.setname), len(replica.pool)) == (rfn, 36, 15)
    await storage.sql(f"DELETE FROM {{cns}}.Cns_file_replica WHERE rowid = {replica.replicaid}")


async def test_name_that_is_not_ascii_is_kept_to_the_byte(storage: Storage) -> None:
    rfn = rfn_in(storage, "\u00e9\u4e2d")
    assert (await added(storage, rfn)).rfn == rfn


@pytest.mark.parametrize("mode", [0o700, 0o777])
async def test_rights_on_the_way_and_on_the_file_are_needed(storage: Storage, mode: int) -> None:
    await storage.make_directory(mode=mode)
    await storage.make("f")
    fileid = (await storage.entry(storage.path("f"))).fileid
    answer = await storage.post("dome_addreplica", BOB, rfn=rfn_in(storage), fileid=fileid)
    assert answer.status == 403
    assert await storage.replicas(fileid) == []


async def test_rfn_of_another_file_is_refused(storage: Storage) -> None:
    await added(storage, rfn_in(storage))
    await storage.make("g")
    answer = await storage.post("dome_addreplica", rfn=rfn_in(storage), lfn=storage.path("g"))
    assert answer == Answered(403, f"Replica '{rfn_in(storage)}' already registered")


async def test_rfn_that_another_file_has_with_a_doubled_slash_is_refused(storage: Storage) -> None:
    [other] = await storage.make("g", DISK1)
    await storage.make("f")
    await storage.rename(other, other.rfn.replace("/dteam/", "//dteam/"))
    answer = await storage.post("dome_addreplica", rfn=other.rfn, lfn=storage.path("f"))
    assert answer == Answered(403, f"Replica '{other.rfn}' already registered")


async def test_rights_that_are_taken_away_meanwhile_count(storage: Storage) -> None:
    await storage.make("f")
    entry = await storage.entry(storage.path("f"))
    change = "UPDATE Cns_file_metadata SET filemode = {} WHERE fileid = {}"
    await storage.sql(change.format(0o100666, entry.fileid).replace("Cns", "{cns}.Cns"))
    for fileid, mode in ((entry.fileid, 0o100644), (entry.parent, 0o40700)):
        async with writer(storage.site, autocommit=False) as cursor:
            await cursor.execute(change.format(mode, fileid))
            running = asyncio.create_task(
                storage.post("dome_addreplica", BOB, rfn=rfn_in(storage), fileid=entry.fileid)
            )
            await asyncio.sleep(0.1)
            assert not running.done()
            await cursor.execute("COMMIT")
            assert (await running).status == 403
        await storage.sql(change.format(0o100666, entry.fileid).replace("Cns", "{cns}.Cns"))
    assert await storage.replicas(entry.fileid) == []


async def test_of_many_who_add_one_replica_one_succeeds(storage: Storage) -> None:
    rfn = rfn_in(storage)
    for name in ("f", "g"):
        await storage.make(name, size=0)
    paths = [storage.path(name) for name in ("f", "g") * 4]
    answers = await asyncio.gather(*(storage.post("dome_addreplica", rfn=rfn, lfn=path) for path in paths))
    assert sorted(answer.status for answer in answers) == [200, *[403] * 7]
    assert await storage.new_faults() == []


async def test_registration_waits_for_another_writer_who_has_not_committed(storage: Storage) -> None:
    rfn = rfn_in(storage)
    for name in ("f", "g"):
        await storage.make(name)
    other = (await storage.entry(storage.path("g"))).fileid
    async with writer(storage.site, autocommit=False) as cursor:
        await cursor.execute("INSERT INTO Cns_file_replica (fileid, sfn) VALUES (%s, %s)", (other, rfn))
        running = asyncio.create_task(storage.post("dome_addreplica", rfn=rfn, lfn=storage.path("f")))
        await asyncio.sleep(0.1)
        await cursor.execute("COMMIT")
        assert (await running).status == 403


async def test_mark_of_a_deletion_cannot_be_brought_in(storage: Storage) -> None:
    text = xattr.serialise({MARK: "unlink,-,1,ab", "k": "v"}).decode()
    replica = await added(storage, rfn_in(storage), status="D", xattr=text)
    assert replica.xattr_text == b'{"k": "v"}'
    await storage.post("dome_updatereplica", replicaid=replica.replicaid, xattr=text)
    assert await storage.replica(replica.replicaid) == replica


async def test_fenced_registration_says_so(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    async with storage.fence():
        add = await storage.post("dome_addreplica", rfn=rfn_in(storage, "g"), fileid=replica.fileid)
        update = await storage.post("dome_updatereplica", replicaid=replica.replicaid, status="P")
    assert (add.status, update.status) == (503, 503)
    assert await storage.replica(replica.replicaid) == replica


@pytest.fixture
async def replica(storage: Storage) -> Replica:
    """With values in all columns that an update must keep."""
    [replica] = await storage.make("f", DISK1, token=TOKEN)
    await storage.sql(
        "UPDATE {cns}.Cns_file_replica SET nbaccesses = 3, atime = 11, ptime = 12, ltime = 13, "
        f"xattr = '{{{{\"k\":1}}}}' WHERE rowid = {replica.replicaid}"
    )
    found = await storage.replica(replica.replicaid)
    assert found is not None
    assert found.xattr_text == b'{"k":1}'
    return found


@pytest.mark.parametrize(
    ("sent", "changes"),
    [
        ({}, {}),
        ({"status": "80"}, {"status": "P"}),
        ({"status": "D", "type": 86}, {"status": "D", "kind": "V"}),
        ({"status": "none", "type": ""}, {}),
        ({"setname": ""}, {"setname": ""}),
        ({"setname": "other"}, {"setname": "other"}),
        ({"xattr": ""}, {}),
        ({"xattr": "{}"}, {"xattr_text": b"{}"}),
        (
            {"xattr": PLACE},
            {
                "pool": "pool02",
                "fs": "/storage/disk1/fs2",
                "xattr_text": PLACE.replace(": 1}", ': "1"}').encode(),
            },
        ),
        ({"xattr": '{"pool": "p"}'}, {"pool": "p", "xattr_text": b'{"pool": "p"}'}),
    ],
)
@pytest.mark.parametrize("by", ["replicaid", "rfn"])
async def test_update_changes_what_was_sent_and_nothing_else(
    storage: Storage, replica: Replica, sent: dict[str, Any], changes: dict[str, Any], by: str
) -> None:
    answer = await storage.post("dome_updatereplica", **{by: getattr(replica, by)}, **sent)
    assert answer == Answered(200)
    assert await storage.replica(replica.replicaid) == replace(replica, **changes)


async def test_update_with_another_rfn_renames(storage: Storage, replica: Replica) -> None:
    rfn = rfn_in(storage, "new", DISK2)
    answer = await storage.post("dome_updatereplica", replicaid=replica.replicaid, rfn=rfn)
    assert answer == Answered(200)
    assert await storage.replica(replica.replicaid) == replace(replica, rfn=rfn, host=DISK2)


async def test_update_cannot_take_the_name_of_another_replica(storage: Storage, replica: Replica) -> None:
    [other] = await storage.make("g", DISK2)
    answer = await storage.post("dome_updatereplica", replicaid=replica.replicaid, rfn=other.rfn)
    assert answer.status == 403
    assert await storage.replica(replica.replicaid) == replica


async def test_name_that_is_none_can_be_changed_for_a_good_one(storage: Storage, replica: Replica) -> None:
    bad = await storage.rename(replica, replica.rfn.replace("/dteam/", "//dteam/"))
    answer = await storage.post("dome_updatereplica", replicaid=replica.replicaid, rfn=bad.rfn, setname="t")
    assert answer == Answered(200)
    assert await storage.replica(replica.replicaid) == replace(bad, setname="t")
    answer = await storage.post("dome_updatereplica", replicaid=replica.replicaid, rfn=replica.rfn)
    assert answer == Answered(200)
    assert await storage.replica(replica.replicaid) == replace(replica, setname="t")


async def test_file_that_others_may_not_write_keeps_its_replica(storage: Storage, replica: Replica) -> None:
    answer = await storage.post("dome_updatereplica", BOB, replicaid=replica.replicaid, setname="")
    assert answer.status == 403
    assert await storage.replica(replica.replicaid) == replica


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({}, 404),
        ({"replicaid": 99_999_999}, 404),
        ({"rfn": "d:/none"}, 404),
        ({"replicaid": "x"}, 404),
    ],
)
async def test_replica_that_there_is_not_cannot_be_updated(
    storage: Storage, sent: dict[str, Any], status: int
) -> None:
    assert (await storage.post("dome_updatereplica", status="P", **sent)).status == status


@pytest.mark.parametrize(
    "sent",
    [
        {"xattr": "{"},
        {"setname": "t" * 37},
        {"rfn": "d" * 64 + ":/f"},
        *({"rfn": rfn} for rfn in BAD_NAMES),
        {"xattr": '{"pool": "0123456789abcdef"}'},
    ],
)
async def test_update_with_what_does_not_fit_is_refused(
    storage: Storage, replica: Replica, sent: dict[str, Any]
) -> None:
    answer = await storage.post("dome_updatereplica", replicaid=replica.replicaid, **sent)
    assert answer.status == 422
    assert await storage.replica(replica.replicaid) == replica


async def test_replica_behind_a_closed_directory_cannot_be_updated(storage: Storage) -> None:
    await storage.make_directory(mode=0o700)
    [replica] = await storage.make("f", DISK1)
    answer = await storage.post("dome_updatereplica", ALICE, replicaid=replica.replicaid, status="P")
    assert answer.status == 403
    assert await storage.replica(replica.replicaid) == replica


async def test_replica_that_is_being_deleted_cannot_be_updated(storage: Storage) -> None:
    [replica] = await storage.make("f", DISK1)
    storage.disks[DISK1].cut()
    await storage.unlink("f")
    before = await storage.replica(replica.replicaid)
    answer = await storage.post("dome_updatereplica", replicaid=replica.replicaid, status="45", xattr="{}")
    assert answer.status == 404
    assert await storage.replica(replica.replicaid) == before
