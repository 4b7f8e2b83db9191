"""Where a file can be read, and the files that volatile pools fetch when somebody wants them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from dome_bridge.dome_api.catalog import Replica
from dome_bridge.dome_api.cluster import Activity, Status
from dome_bridge.dome_api.deletion_mark import Attempt, Deletion, Doomed
from dome_bridge.dome_api.removal import write_marks
from dome_bridge.dome_api.request import RemoteUser
from sandbox.servers import MariaServer
from tests.fixtures.storage import ALICE, BOB, DISK1, DISK2, HOME, MOUNTS, ROOT, Answered, room
from tests.fixtures.uploads import ADMIN, Uploads, golden_uploads

VOLATILE = HOME.replace("dteam", "vol")


@pytest.fixture(scope="module")
async def golden(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Uploads]:
    async with golden_uploads(maria, tmp_path_factory.mktemp("disks")) as uploads:
        yield uploads


@pytest.fixture
async def uploads(golden: Uploads) -> AsyncIterator[Uploads]:
    await golden.online()
    async with room(golden):
        yield golden


def place(replica: Replica) -> dict[str, str]:
    return {"server": replica.host, "pfn": replica.rfn.partition(":")[2], "filesystem": replica.fs}


async def places(uploads: Uploads, name: str = "f", user: RemoteUser = ADMIN) -> dict[str, dict[str, str]]:
    answer = await uploads.get(name, user)
    assert answer.status == 200, answer
    found: dict[str, dict[str, str]] = json.loads(answer.text)
    return found


@pytest.mark.parametrize(
    ("lfn", "user", "status"),
    [
        ("", ALICE, 404),
        ("/", ALICE, 404),
        ("rel", ALICE, 422),
        ("rel/f", ALICE, 404),
        (f"{HOME}/none", ALICE, 404),
        (f"{HOME}/none/none", ALICE, 404),
        (f"{HOME}/{'n' * 300}", ALICE, 404),
        (f"{HOME}/a\0b", ALICE, 404),
        (f"{HOME}/bob_private/secret", ALICE, 403),
        (f"{HOME}/bob_private/none/f", BOB, 404),
        (f"{HOME}/acl_named", ALICE, 404),
        (f"{HOME}/sub", ALICE, 404),
        (f"{HOME}/lnk_abs", ALICE, 404),
        (f"{HOME}/legacy_ad/.", ALICE, 404),
        (f"{HOME}/legacy_ad/f", ALICE, 404),
        (f"{HOME}/sub/in_sub", ALICE, 500),
        (f"{HOME}/legacy_md", ALICE, 500),
        (f"{HOME}/legacy_ad", ALICE, 200),
        (f"{HOME}/sub/../legacy_ad", ALICE, 200),
        (f"{HOME}/bob_private/secret", BOB, 200),
        (f"{HOME}/bob_private/secret", ROOT, 200),
    ],
)
async def test_status_of_an_answer(uploads: Uploads, lfn: str, user: RemoteUser, status: int) -> None:
    assert (await uploads.post("dome_get", user, lfn=lfn)).status == status


async def test_all_replicas_are_told_by_their_places_in_the_list(uploads: Uploads) -> None:
    one, _, three = await uploads.make("f", DISK1, DISK1, DISK2, statuses="-P-")
    assert await places(uploads) == {"0": place(one), "2": place(three)}


async def test_rights_on_the_directory_decide_and_not_those_on_the_file(uploads: Uploads) -> None:
    [replica] = await uploads.make("f", DISK1)
    await uploads.sql(
        f"UPDATE {{cns}}.Cns_file_metadata SET filemode = 32768 WHERE fileid = {replica.fileid}"
    )
    assert (await uploads.get("f", ALICE)).status == 200


async def test_file_below_a_closed_directory_is_not_told(uploads: Uploads) -> None:
    open_directory = await uploads.close_above_open_directory()
    assert (await uploads.get(f"{open_directory}/f", ALICE)).status == 403
    assert (await uploads.get(f"{open_directory}/f")).status == 404


async def test_replica_that_somebody_else_is_deleting_is_told(uploads: Uploads) -> None:
    one, two = await uploads.make("f", DISK1, DISK2, statuses="D-")
    assert await places(uploads) == {"0": place(one), "1": place(two)}


async def test_replica_that_we_are_deleting_is_not_told(uploads: Uploads) -> None:
    one, two = await uploads.make("f", DISK1, DISK2)
    attempt = Attempt(Deletion.DELREPLICA, ROOT)
    await uploads.transact(write_marks, [Doomed.by(attempt, one)])
    assert await places(uploads) == {"1": place(two)}
    await uploads.transact(write_marks, [Doomed.by(attempt, two)])
    assert (await uploads.get("f")).status == 500


@pytest.mark.parametrize(
    ("changes", "is_told"),
    [
        ({"status": Status.READ_ONLY}, True),
        ({"status": Status.DISABLED}, False),
        ({"activity": Activity.BROKEN}, False),
        ({"activity": Activity.UNKNOWN}, False),
        ({"free": 0}, True),
    ],
)
async def test_replica_is_told_if_its_file_system_can_be_read(
    uploads: Uploads, changes: dict[str, object], is_told: bool
) -> None:
    one, two = await uploads.make("f", DISK1, DISK2)
    uploads.change(DISK1, MOUNTS[DISK1], **changes)
    assert await places(uploads) == ({"0": place(one)} if is_told else {}) | {"1": place(two)}


async def test_server_is_compared_as_it_stands(uploads: Uploads) -> None:
    [replica] = await uploads.make("f", DISK1)
    await uploads.sql(
        "UPDATE {cns}.Cns_file_replica SET sfn = REPLACE(sfn, 'disk1.test', 'DISK1.test') "
        f"WHERE rowid = {replica.replicaid}"
    )
    assert await uploads.get("f") == Answered(500, f"Unable to find replicas for '{uploads.path('f')}'")


async def test_upload_can_be_read_when_it_is_done(uploads: Uploads) -> None:
    replica = await uploads.put("f", ALICE)
    assert await uploads.get("f") == Answered(500, "Only pending replicas are available.")
    await uploads.done(replica, 5)
    assert await places(uploads) == {"0": place(replica)}


# --- volatile pools ---


async def test_missing_file_of_a_volatile_pool_is_fetched(uploads: Uploads) -> None:
    lfn = f"{VOLATILE}/missing"
    answer = await uploads.get(lfn)
    assert answer.status == 202
    assert answer.text.startswith(f"Enqueued file pull request {DISK2}, path {lfn}, check back later.\r\n")
    assert answer.text.endswith("in queue right now: 1")
    entry = await uploads.entry(lfn)
    [replica] = await uploads.replicas(entry.fileid)
    assert (replica.status, replica.pool, replica.fs) == ("P", "poolvol", "/storage/disk2/fs2")
    assert uploads.head.pulls.is_pulling(lfn)
    uploads.head.pulls.ended(lfn)
    assert (await uploads.get(lfn)).status == 202
    assert uploads.head.pulls.is_pulling(lfn)
    uploads.head.pulls.ended(lfn)
    assert len(await uploads.replicas(entry.fileid)) == 1


async def test_missing_file_that_many_want_is_fetched_once(uploads: Uploads) -> None:
    for lfn in (f"{VOLATILE}/wanted{number}" for number in range(3)):
        answers = await asyncio.gather(*(uploads.get(lfn) for _ in range(6)))
        assert [answer.status for answer in answers] == [202] * 6
        assert len(uploads.head.pulls) == 1
        assert len(await uploads.replicas((await uploads.entry(lfn)).fileid)) == 1
        uploads.head.pulls.ended(lfn)


async def test_refusal_of_a_place_is_that_of_the_file(uploads: Uploads) -> None:
    lfn = f"{VOLATILE}/refused"
    assert (await uploads.get(lfn, ROOT)).status == 403
    uploads.change(DISK2, "/storage/disk2/fs2", status=Status.READ_ONLY)
    assert (await uploads.get(lfn)).status == 400
    assert await uploads.find(lfn) is None
    assert len(uploads.head.pulls) == 0


async def test_volatile_file_system_that_is_too_small_fetches_nothing(uploads: Uploads) -> None:
    uploads.change(DISK2, "/storage/disk2/fs2", physical=1024 * 1024)
    assert (await uploads.get(f"{VOLATILE}/none")).status == 404
