"""Checksums: asked for by clients, calculated by real disk servers, entered into the catalog."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import md5
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.config import QueueConfig
from dome_bridge.dome_api import checksum_record, commands_checksum
from dome_bridge.dome_api.catalog import Entry, Replica
from dome_bridge.dome_api.checksums import Sum
from dome_bridge.dome_api.cluster import Cluster
from dome_bridge.dome_api.properties import MAX_XATTR_BYTES
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dpm import checksum, xattr
from dome_bridge.dpm.source import Source
from sandbox.servers import MariaServer
from tests.fixtures.queues import Said, Site, eventually, queue_site
from tests.fixtures.storage import ALICE, DISK1, DISK2, room

DATA = b"0123456789" * 50_000
ADLER32 = f"{zlib.adler32(DATA):08x}"
MD5 = md5(DATA).hexdigest()
CRC32 = str(zlib.crc32(DATA))


@pytest.fixture(scope="module")
async def golden(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with queue_site(maria, tmp_path_factory.mktemp("disks")) as site:
        yield site


@pytest.fixture
async def site(golden: Site) -> AsyncIterator[Site]:
    golden.forget_reports()
    async with room(golden.storage):
        yield golden
        assert await golden.storage.new_faults() == []


@pytest.fixture
async def served(site: Site) -> AsyncIterator[Site]:
    async with site.head():
        yield site


async def make(site: Site, name: str, *servers: str, **more: Any) -> list[Replica]:
    replicas = await site.storage.make(name, *servers, **more)
    for replica in replicas:
        site.storage.file(replica.rfn).write_bytes(DATA)
    return replicas


async def ask(site: Site, name: str, kind: str = "adler32", **more: Any) -> Said:
    return await site.ask("dome_chksum", lfn=site.storage.path(name), checksum_type=kind, **more)


async def answer(site: Site, name: str, kind: str = "adler32", **more: Any) -> dict[str, str]:
    """What a client gets that asks until it is there."""
    async with asyncio.timeout(10):
        while (said := await ask(site, name, kind, **more)).status == 202:  # noqa: ASYNC110 - as clients do
            await asyncio.sleep(0.01)
    assert said.status == 200, said
    return said.values


async def report(site: Site, replica: Replica, name: str, **more: Any) -> Said:
    body = {"lfn": site.storage.path(name), "pfn": replica.rfn, "checksum_type": "adler32"} | more
    return await site.report("dome_chksumstatus", replica.host, **body)


async def attributes(site: Site, name: str) -> dict[str, Any]:
    return dict((await site.storage.entry(site.storage.path(name))).attributes)


async def legacy(site: Site, name: str) -> tuple[bytes, bytes]:
    entry = await site.storage.entry(site.storage.path(name))
    return entry.csumtype, entry.csumvalue


async def give(site: Site, name: str, **columns: str) -> None:
    """Columns of a file, as somebody else has written them."""
    entry = await site.storage.entry(site.storage.path(name))
    changes = ", ".join(f"{column} = '{value}'" for column, value in columns.items())
    cns = site.storage.site.cns
    await site.storage.maria.execute(
        f"UPDATE {cns}.Cns_file_metadata SET {changes} WHERE fileid = {entry.fileid}"
    )


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("legacy_ad", "adler32", "0a1b2c3d"),
        ("legacy_ad", "checksum.adler32", "0a1b2c3d"),
        ("legacy_md", "md5", "0123456789abcdef0123456789abcdef"),
        ("xattr_ck", "adler32", "11223344"),
    ],
)
async def test_stored_checksum_is_told_at_once(served: Site, name: str, kind: str, expected: str) -> None:
    said = await served.ask("dome_chksum", lfn=f"/dpm/test/home/dteam/{name}", checksum_type=kind)
    assert (said.status, said.values) == (200, {"status": "found", "checksum": expected})


async def test_checksum_of_a_replica_is_told_with_that_of_its_file(served: Site) -> None:
    rfn = "disk2.test:/storage/disk2/fs1/dteam/2017-01-01/xattr_ck.2.1"
    lfn = "/dpm/test/home/dteam/xattr_ck"
    said = await served.ask("dome_chksum", lfn=lfn, pfn=rfn, checksum_type="adler32")
    assert said.values == {"status": "found", "checksum": "11223344", "pfn-checksum": "99999999"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"checksum_type": ""}, 422),
        ({"checksum_type": "checksum."}, 422),
        ({"checksum_type": "sha256"}, 422),
        ({"checksum_type": "ADLER32"}, 422),
        ({"checksum_type": "adler32", "lfn": "/dpm/test/home/dteam/none"}, 404),
        ({"checksum_type": "adler32", "lfn": ""}, 404),
        ({"checksum_type": "adler32", "lfn": "/dpm/test/home/dteam"}, 404),
        ({"checksum_type": "adler32", "lfn": "/dpm/test/home/dteam/with_guid"}, 404),
        ({"checksum_type": "adler32", "lfn": "/dpm/test/home/dteam/sub/in_sub"}, 404),
        ({"checksum_type": "adler32", "pfn": "disk1.test:/storage/disk1/fs1/none"}, 404),
        ({"checksum_type": "adler32", "force_recalc": "true", "lfn": "/dpm/test/home/dteam/none"}, 404),
    ],
)
async def test_what_cannot_be_calculated_is_refused(served: Site, body: dict[str, Any], status: int) -> None:
    said = await served.ask("dome_chksum", **{"lfn": "/dpm/test/home/dteam/legacy_ad", **body})
    assert said.status == status


@pytest.mark.parametrize(("kind", "expected"), [("adler32", ADLER32), ("md5", MD5), ("crc32", CRC32)])
async def test_missing_checksum_is_calculated_by_the_disk_server(
    served: Site, kind: str, expected: str
) -> None:
    [replica] = await make(served, "f", DISK1)
    first = await ask(served, "f", kind)
    assert first.status == 202
    assert first.values == {
        "status": "enqueued",
        "server": DISK1,
        "pfn": replica.rfn.removeprefix(f"{DISK1}:"),
        "queue-size": "1",
    }
    assert await answer(served, "f", kind) == {"status": "found", "checksum": expected}
    assert await attributes(served, "f") == {f"checksum.{kind}": expected}
    [stored] = await served.storage.replicas(replica.fileid)
    assert stored.attributes == {f"checksum.{kind}": expected}
    assert (stored.status, stored.rfn, stored.ptime) == ("-", replica.rfn, replica.ptime)
    code = {"adler32": b"AD", "md5": b"MD", "crc32": b"CS"}[kind]
    assert await legacy(served, "f") == (code, expected.encode())


async def test_disk_server_is_told_what_to_do_and_for_whom_but_no_groups(served: Site) -> None:
    [replica] = await make(served, "f", DISK1)
    await ask(served, "f")
    await answer(served, "f")
    [call] = [call for call in served.disks[DISK1].calls if call.command == "dome_dochksum"]
    assert call.parameters == {
        "checksum-type": "adler32",
        "update-lfn-checksum": "true",
        "pfn": replica.rfn.removeprefix(f"{DISK1}:"),
        "lfn": served.storage.path("f"),
    }
    assert call.user == RemoteUser(ALICE.dn, ALICE.host)


async def test_clients_that_ask_again_do_not_have_it_calculated_again(served: Site) -> None:
    await make(served, "f", DISK1, DISK2)
    served.disks[DISK1].slow_data(0.05)
    served.disks[DISK2].slow_data(0.05)
    found = await asyncio.gather(*(answer(served, "f") for _ in range(5)))
    assert {each["checksum"] for each in found} == {ADLER32}
    assert len(served.orders("dome_dochksum")) == 1


async def test_checksum_of_a_replica_does_not_replace_that_of_its_file(served: Site) -> None:
    replicas = await make(served, "f", DISK1, DISK2)
    await give(served, "f", csumtype="AD", csumvalue="00000001")
    found = await answer(served, "f", pfn=replicas[1].rfn)
    assert found == {"status": "found", "checksum": "00000001", "pfn-checksum": ADLER32}
    stored = await served.storage.replicas(replicas[0].fileid)
    assert [each.attributes for each in stored] == [{}, {"checksum.adler32": ADLER32}]


async def test_other_attributes_and_checksums_stay_where_they_are(served: Site) -> None:
    [replica] = await make(served, "f", DISK1)
    await give(
        served,
        "f",
        csumtype="MD",
        csumvalue=MD5,
        xattr='{"mine": "a/b", "type": 0, "list": [1, {"x": true}]}',
    )
    await served.storage.change_replica(replica, xattr=b'{"pool": "pool01", "checksum.md5": "77"}')
    await answer(served, "f")
    assert await attributes(served, "f") == {
        "mine": "a/b",
        "type": 0,
        "list": [1, {"x": True}],
        "checksum.md5": MD5,
        "checksum.adler32": ADLER32,
    }
    assert await legacy(served, "f") == (b"MD", MD5.encode())
    [stored] = await served.storage.replicas(replica.fileid)
    assert stored.attributes == {"pool": "pool01", "checksum.md5": "77", "checksum.adler32": ADLER32}


async def test_several_checksums_at_the_same_moment_are_all_kept(served: Site) -> None:
    [replica] = await make(served, "f", DISK1)
    sums = {"adler32": ADLER32, "md5": MD5, "crc32": CRC32, "sha256": "ab" * 32, "sha1": "cd" * 20}
    said = await asyncio.gather(
        *(
            report(served, replica, "f", checksum_type=kind, status="done", checksum=value)
            for kind, value in sums.items()
        )
    )
    assert {each.status for each in said} == {200}
    expected = {f"checksum.{kind}": value for kind, value in sums.items()}
    assert await attributes(served, "f") == expected
    [stored] = await served.storage.replicas(replica.fileid)
    assert stored.attributes == expected


async def test_old_checksum_is_not_the_answer_while_a_new_one_is_demanded(served: Site) -> None:
    await make(served, "f", DISK1)
    await give(served, "f", csumtype="AD", csumvalue="00000001")
    served.disks[DISK1].slow_data(0.05)
    assert (await ask(served, "f", force_recalc="true")).status == 202
    assert (await ask(served, "f", force_recalc="false")).status == 202
    assert (await answer(served, "f"))["checksum"] == ADLER32
    assert await legacy(served, "f") == (b"AD", ADLER32.encode())


async def test_client_that_demands_it_with_every_question_gets_an_answer(served: Site) -> None:
    await make(served, "f", DISK1)
    await give(served, "f", csumtype="AD", csumvalue="00000001")
    assert (await answer(served, "f", force_recalc="true"))["checksum"] == ADLER32
    assert len(served.orders("dome_dochksum")) == 1
    assert (await ask(served, "f", force_recalc="true")).status == 202


async def test_demand_that_meets_the_end_of_a_calculation_does_not_begin_another(
    served: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    [replica] = await make(served, "f", DISK1)
    await give(served, "f", csumtype="AD", csumvalue="00000001")
    served.disks[DISK1].slow_data(0.2)
    assert (await ask(served, "f", force_recalc="true")).status == 202
    look = commands_checksum._look_up

    async def slow_look(asked: Sum, cluster: Cluster, source: Source) -> commands_checksum._Found:
        """The result comes while a client's question is being answered."""
        found = await look(asked, cluster, source)
        await eventually_told(served, "done")
        return found

    monkeypatch.setattr(commands_checksum, "_look_up", slow_look)
    said = await ask(served, "f", force_recalc="true")
    assert (said.status, said.values.get("checksum")) == (200, ADLER32)
    assert len(served.orders("dome_dochksum")) == 1
    assert replica.rfn.endswith(served.orders("dome_dochksum")[0]["pfn"])


async def test_demand_for_the_file_is_not_lost_to_a_question_about_a_replica(site: Site) -> None:
    first, second = [(await make(site, name, DISK1))[0] for name in ("first", "second")]
    await give(site, "second", csumtype="AD", csumvalue="00000001")
    site.disks[DISK1].slow_data(0.02)
    async with site.head(checksums=QueueConfig(max_total=1)):
        await ask(site, "first")
        await ask(site, "second", force_recalc="true")
        await answer(site, "second", pfn=second.rfn)
        assert (await answer(site, "second"))["checksum"] == ADLER32
    assert first.rfn.endswith(site.orders("dome_dochksum")[0]["pfn"])
    assert site.orders("dome_dochksum")[1]["update-lfn-checksum"] == "false"


async def test_aborted_calculation_leaves_the_queue_and_can_be_asked_for_again(served: Site) -> None:
    [replica] = await make(served, "f", DISK1)
    served.storage.file(replica.rfn).unlink()
    await ask(served, "f")
    await eventually_told(served, "aborted")
    served.storage.file(replica.rfn).write_bytes(DATA)
    said = await ask(served, "f")
    assert (said.status, said.values["queue-size"]) == (202, "1")
    assert (await answer(served, "f"))["checksum"] == ADLER32


async def eventually_told(site: Site, status: str, count: int = 1) -> None:
    async def is_told() -> bool:
        return len(site.reports("dome_chksumstatus", status)) >= count

    await eventually(is_told)


async def test_calculation_goes_on_when_the_head_is_started_again(site: Site) -> None:
    await make(site, "f", DISK1)
    site.disks[DISK1].slow_data(0.2)
    async with site.head():
        await ask(site, "f")
        await eventually_told(site, "pending")
    site.forget_reports()
    async with site.head():
        await eventually_told(site, "pending")
        said = await ask(site, "f")
        assert (said.status, said.values["queue-size"]) == (202, "1")
        assert (await answer(site, "f"))["checksum"] == ADLER32
    assert len(site.orders("dome_dochksum")) == 1
    assert [told.status for told in site.reports("dome_chksumstatus", "done")] == [200]


async def test_dead_disk_server_does_not_keep_others_waiting_and_gets_its_work_later(site: Site) -> None:
    for number in range(5):
        await make(site, f"dead{number}", DISK1)
    await make(site, "f", DISK2)
    await site.disks[DISK1].stop()
    try:
        async with site.head(checksums=QueueConfig(max_total=2)):
            for number in range(5):
                assert (await ask(site, f"dead{number}")).status == 202
            assert (await answer(site, "f"))["checksum"] == ADLER32
            await site.disks[DISK1].start()
            assert (await answer(site, "dead0"))["checksum"] == ADLER32
    finally:
        await site.disks[DISK1].stop()
        await site.disks[DISK1].start()


async def test_replica_on_a_server_that_answers_is_taken(site: Site) -> None:
    await site.disks[DISK1].stop()
    try:
        async with site.head():
            for number in range(4):
                await make(site, f"f{number}", DISK1, DISK2)
                assert (await answer(site, f"f{number}"))["checksum"] == ADLER32
    finally:
        await site.disks[DISK1].start()
    assert len(site.orders("dome_dochksum", DISK2)) == 4


@pytest.mark.parametrize("limits", [QueueConfig(max_total=1), QueueConfig(max_per_server=1)], ids=str)
async def test_no_more_is_calculated_at_a_time_than_allowed(site: Site, limits: QueueConfig) -> None:
    names = ["f1", "f2", "f3"]
    for name in names:
        await make(site, name, DISK1)
    site.disks[DISK1].slow_data(0.02)
    async with site.head(checksums=limits):
        for size, name in enumerate(names, 1):
            assert (await ask(site, name)).values["queue-size"] == str(size)
        for ended, name in enumerate(names):
            await eventually_told(site, "done", ended)
            assert len(site.orders("dome_dochksum")) <= ended + 1
            await answer(site, name)
    ordered = [order["lfn"] for order in site.orders("dome_dochksum")]
    assert ordered == [site.storage.path(name) for name in names]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"checksum_type": "", "status": "pending"}, 422),
        ({"checksum_type": 'a"b', "status": "pending"}, 422),
        ({"pfn": "", "status": "pending"}, 422),
        ({"status": ""}, 422),
        ({"status": "finished"}, 422),
        ({"status": "pending"}, 200),
        ({"status": "aborted", "reason": "no"}, 200),
        ({"status": "done", "checksum": ""}, 400),
        ({"status": "done", "checksum": "1" * 129}, 400),
        ({"status": "done", "checksum": "a b"}, 400),
        ({"status": "done", "checksum": "1", "lfn": "/dpm/test/home/dteam/none"}, 404),
        ({"status": "done", "checksum": "1", "lfn": "/dpm/test/home/dteam/legacy_ad"}, 404),
        ({"status": "done", "checksum": "1", "pfn": "disk1.test:/none"}, 404),
        ({"status": "done", "checksum": "1"}, 200),
    ],
)
async def test_reports_are_answered_as_by_the_original(
    served: Site, more: dict[str, str], status: int
) -> None:
    [replica] = await make(served, "f", DISK1)
    assert (await report(served, replica, "f", **more)).status == status
    assert await attributes(served, "f") == (
        {"checksum.adler32": "1"} if (status, more["status"]) == (200, "done") else {}
    )


@pytest.mark.parametrize("status", ["P", "D"])
async def test_checksum_of_half_a_file_is_not_taken(served: Site, status: str) -> None:
    [replica] = await make(served, "f", DISK1, statuses=status)
    assert (await ask(served, "f")).status == 404
    assert (await report(served, replica, "f", status="done", checksum="1")).status == 404
    assert await attributes(served, "f") == {}


async def test_fenced_catalog_takes_no_checksum(served: Site) -> None:
    [replica] = await make(served, "f", DISK1)
    async with served.storage.fence():
        assert (await report(served, replica, "f", status="done", checksum="1")).status == 503
    assert await attributes(served, "f") == {}


async def test_difference_between_file_and_replica_is_logged(
    served: Site, caplog: pytest.LogCaptureFixture
) -> None:
    [replica] = await make(served, "f", DISK1)
    await give(served, "f", csumtype="AD", csumvalue="ABCDEF01")
    await report(served, replica, "f", status="done", checksum="abcdef01")
    assert "another checksum" not in caplog.text
    await report(served, replica, "f", status="done", checksum="abcdef02")
    assert "another checksum" in caplog.text


NAMES = st.sampled_from(["adler32", "md5", "crc32", "sha256"])
VALUES = st.text("0123456789abcdef", min_size=1, max_size=40)
ENTRY = Entry(7, 1, "f", 0o100644, 1, 0, 0, 0, 0, 0, 0, 0, "-", b"", b"", b"", b"")
REPLICA = Replica(1, 7, 0, 0, 0, 0, "-", "P", "", "pool", "disk1", "/fs", "disk1:/fs/f", b"")
STORED = st.dictionaries(
    st.one_of(st.text("abc/é", max_size=5), NAMES.map("checksum.{}".format)), VALUES, max_size=5
)


@given(STORED, st.sampled_from([b"", b"AD", b"MD", b"cs", b"XX"]), VALUES, NAMES, VALUES)
def test_nothing_but_the_one_checksum_changes_in_a_file(
    stored: dict[str, str], csumtype: bytes, csumvalue: str, name: str, value: str
) -> None:
    entry = replace(
        ENTRY, csumtype=csumtype, csumvalue=csumvalue.encode(), xattr_text=xattr.serialise(stored)
    )
    known = checksum.merge(entry.csumtype, entry.csumvalue, entry.attributes)
    changed = checksum_record.for_file(entry, name, value)
    attributes = xattr.parse(changed.text)
    assert checksum.merge(None, None, attributes) == {**known, name: value}
    if changed.checksum:
        code, legacy_value = (text.encode() for text in changed.checksum)
        columns = checksum.merge(code, legacy_value, {})
        assert columns.items() <= checksum.merge(None, None, attributes).items()
    others = {key: each for key, each in attributes.items() if not key.startswith("checksum.")}
    assert others == {key: each for key, each in stored.items() if not key.startswith("checksum.")}
    assert [key for key in attributes if key in stored] == list(stored)


@given(STORED, NAMES, VALUES)
def test_nothing_but_the_one_checksum_changes_in_a_replica(
    stored: dict[str, str], name: str, value: str
) -> None:
    replica = replace(REPLICA, xattr_text=xattr.serialise(stored))
    changed = xattr.parse(checksum_record.for_replica(replica, name, value))
    assert changed == {**stored, f"checksum.{name}": value}


def test_checksum_takes_the_place_of_one_in_another_case() -> None:
    replica = replace(REPLICA, xattr_text=b'{"checksum.ADLER32": "1", "a": "b"}')
    assert checksum_record.for_replica(replica, "adler32", "2") == b'{"checksum.adler32": "2", "a": "b"}'


@pytest.mark.parametrize("text", [b"{broken", b'{"a": "' + b"x" * (MAX_XATTR_BYTES - 20) + b'"}'])
def test_attributes_that_have_no_place_for_it_stay_and_the_old_columns_take_it(text: bytes) -> None:
    assert checksum_record.for_replica(replace(REPLICA, xattr_text=text), "adler32", "2") == text
    changed = checksum_record.for_file(replace(ENTRY, xattr_text=text), "adler32", "2")
    assert (changed.text, changed.checksum) == (text, ("AD", "2"))
    taken = replace(ENTRY, xattr_text=text, csumtype=b"MD", csumvalue=b"1")
    assert checksum_record.for_file(taken, "adler32", "2").checksum is None
    assert checksum_record.for_file(taken, "md5", "2").checksum == ("MD", "2")


@pytest.mark.parametrize(
    ("kind", "one", "other", "expected"),
    [
        ("adler32", "ABcd0001", "abCD0001", True),
        ("adler32", "abcd0001", "abcd0002", False),
        ("crc32", "3735928559", "DEADBEEF", True),
        ("crc32", "deadbeef", "3735928559", True),
        ("crc32", "305419896", "12345678", True),
        ("crc32", "deadbeef", "deadbeee", False),
        ("crc32", "nonsense", "12", False),
        ("md5", "3735928559", "deadbeef", False),
    ],
)
def test_checksums_are_compared_whatever_their_form(kind: str, one: str, other: str, expected: bool) -> None:
    assert checksum_record.is_same(kind, one, other) is expected
