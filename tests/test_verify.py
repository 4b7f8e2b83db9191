"""Verify finds damage, whatever it is, and nothing else, whoever writes meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from dome_bridge.exporter import verify
from dome_bridge.exporter.mirror import Applied, Mirror
from dome_bridge.exporter.verify import VerifyReport
from sandbox.dpm_statements import text
from sandbox.writer import TAME, WILD, CatalogWriter
from tests.fixtures.databases import DpmSite
from tests.fixtures.mirror import HOME, PLACES, Mirrored, connected, open_mirrored, until

NOT_UTF8 = text(b"caf\xe9")

# $1 is the inumber of the entry
FILE_DAMAGES = {
    "lost location": ("DELETE FROM t_locationinfo WHERE inumber = $1", "lacks location"),
    "location in another pool": (
        "UPDATE t_locationinfo SET ilocation = 'other' WHERE inumber = $1", "lacks location"
    ),
    "location off line": ("UPDATE t_locationinfo SET istate = 0 WHERE inumber = $1", "lacks location"),
    "location on tape": (
        "INSERT INTO t_locationinfo VALUES ($1, 0, 10, now(), now(), 1, 'osm://x')", "has location"
    ),
    "size": ("UPDATE t_inodes SET isize = isize + 1 WHERE inumber = $1", "size 8 for 7"),
    "mode": ("UPDATE t_inodes SET imode = 511 WHERE inumber = $1", "mode 511 for"),
    "owner": ("UPDATE t_inodes SET iuid = 5, igid = 6 WHERE inumber = $1", "uid 5 for"),
    "state": ("UPDATE t_inodes SET iio = 2 WHERE inumber = $1", "iio 2 for 3"),
    "nearline": ("UPDATE t_inodes SET iaccess_latency = 0 WHERE inumber = $1", "access latency"),
    "no policy": ("UPDATE t_inodes SET iretention_policy = NULL WHERE inumber = $1", "retention policy"),
    "time": ("UPDATE t_inodes SET imtime = imtime + interval '1 hour' WHERE inumber = $1", "mtime"),
    "type": ("UPDATE t_inodes SET itype = 40960 WHERE inumber = $1", "type 40960 for 32768"),
    "links of a file": ("UPDATE t_inodes SET inlink = 2 WHERE inumber = $1", "inlink 2 for 1"),
    "name": ("UPDATE t_dirs SET iname = 'wrong' WHERE ichild = $1", "name f in"),
    "second name": (
        "INSERT INTO t_dirs (iparent, ichild, iname)"
        " SELECT iparent, ichild, 'again' FROM t_dirs WHERE ichild = $1", "name f in"
    ),
    "lost name": ("DELETE FROM t_dirs WHERE ichild = $1", "name f in"),
    "checksum": ("UPDATE t_inodes_checksum SET isum = 'ffffffff' WHERE inumber = $1", "checksum"),
    "lost checksum": ("DELETE FROM t_inodes_checksum WHERE inumber = $1", "lacks checksum adler32"),
    "strange checksum": (
        "INSERT INTO t_inodes_checksum VALUES ($1, 2, repeat('a', 32))", "has checksum of type 2"
    ),
    "lost ace": ("DELETE FROM t_acl WHERE inumber = $1 AND ace_order = 0", "lacks ace 0"),
    "ace of another": ("UPDATE t_acl SET who_id = 9 WHERE inumber = $1 AND who = 0", "lacks ace"),
    "strange ace": ("INSERT INTO t_acl VALUES ($1, 99, 1, 0, 1, 0, 5, 0)", "has ace 99"),
    "stray target": ("INSERT INTO t_inodes_data VALUES ($1, 'x')", "link target"),
    "strange quarantine row": (
        "INSERT INTO dome_bridge.quarantine (fileid, scope, reason, detail)"
        " SELECT $1 - inumber_offset, 'fact', 'checksum-invalid', '' FROM dome_bridge.site",
        "quarantine has checksum-invalid",
    ),
}  # fmt: skip
DIRECTORY_DAMAGES = {
    "links of a directory": ("UPDATE t_inodes SET inlink = 9 WHERE inumber = $1", "inlink 9 for"),
    "lost tag": ("DELETE FROM t_tags WHERE inumber = $1 AND itagname = 'sGroup'", "lacks tag sGroup"),
    "origin that is none": (
        "UPDATE t_tags SET isorign = 0 WHERE inumber = $1 AND itagname = 'sGroup'", "lacks tag sGroup"
    ),
    "content of a tag": (
        "UPDATE t_tags_inodes SET ivalue = 'x', isize = 1 WHERE itagid ="
        " (SELECT itagid FROM t_tags WHERE inumber = $1 AND itagname = 'sGroup')", "content of tag sGroup"
    ),
    "links of a tag": (
        "UPDATE t_tags_inodes SET inlink = inlink + 1 WHERE itagid ="
        " (SELECT itagid FROM t_tags WHERE inumber = $1 AND itagname = 'sGroup')", "content of tag sGroup"
    ),
    "strange tag": (
        "INSERT INTO t_tags SELECT $1, itagid, 0, 'cacheClass' FROM t_tags LIMIT 1", "has tag cacheClass"
    ),
}  # fmt: skip

LOSE = """
    CREATE FUNCTION pg_temp.lose(gone bigint) RETURNS void LANGUAGE sql AS $$
        DELETE FROM t_dirs WHERE ichild = gone;
        DELETE FROM t_inodes WHERE inumber = gone;
        TRUNCATE t_locationinfo_trash;
    $$"""


@pytest.fixture
async def mirrored(dpm_site: DpmSite, chimera_dsn: str) -> AsyncIterator[Mirrored]:
    async with open_mirrored(dpm_site, chimera_dsn) as mirrored:
        await mirrored.conn.execute(LOSE)
        yield mirrored


async def require_found_and_mended(mirrored: Mirrored, fileid: int, kind: str, detail: str) -> None:
    first, second = await mirrored.verify(), await mirrored.verify()
    assert counts(first) == counts(second), "two runs with nothing between them disagree"
    assert [(found.fileid, found.kind) for found in first.examples] == [(fileid, kind)]
    assert detail in first.examples[0].detail
    repairing = await mirrored.verify(repair=True)
    assert (repairing.repaired, repairing.remaining) == (1, 0)
    clean = await mirrored.verify()
    assert (clean.mismatches, clean.unsettled) == (0, 0), clean.examples
    await mirrored.require_agreement()


def counts(report: VerifyReport) -> tuple[int, ...]:
    return (report.compared, report.missing, report.extra, report.different, report.unsettled)


@pytest.mark.long
async def test_damage_of_a_file_is_found_and_mended(mirrored: Mirrored) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f", acl="A6101,B4102,C6101,D4103,E60,F00")
    await mirrored.snapshot_and_follow()
    for name, (damage, detail) in FILE_DAMAGES.items():
        print(name)
        await mirrored.conn.execute(damage, mirrored.inumber(file))
        await require_found_and_mended(mirrored, file, "different", detail)


async def test_lost_inode_is_found_and_written_again(mirrored: Mirrored) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f", acl="A6101,B4102,C6101,D4103,E60,F00")
    await mirrored.snapshot_and_follow()
    await mirrored.conn.execute("SELECT pg_temp.lose($1)", mirrored.inumber(file))
    await require_found_and_mended(mirrored, file, "missing", "no inode")


@pytest.mark.parametrize("chimera_version", ["8.2", "10.2"])
async def test_damage_of_a_directory_is_found_and_mended(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    await catalog.mkdir(f"{HOME}/d")
    directory = await catalog.mkdir(f"{HOME}/d/origin")
    await catalog.mkdir(f"{HOME}/d/origin/below")
    await catalog.token(f"{HOME}/d/origin", "TOKEN")
    await mirrored.snapshot_and_follow()
    for name, (damage, detail) in DIRECTORY_DAMAGES.items():
        print(name)
        await mirrored.conn.execute(damage, mirrored.inumber(directory))
        first = await mirrored.verify()
        assert detail in {found.fileid: found.detail for found in first.examples}[directory]
        repairing = await mirrored.verify(repair=True)
        assert repairing.remaining == 0
        assert (await mirrored.verify()).mismatches == 0
        await mirrored.require_agreement()


async def test_damage_of_a_symlink_is_found_and_mended(mirrored: Mirrored) -> None:
    link = await mirrored.catalog.symlink(f"{HOME}/l", "target")
    await mirrored.snapshot_and_follow()
    await mirrored.conn.execute(
        "UPDATE t_inodes_data SET ifiledata = 'tarGet' WHERE inumber = $1", mirrored.inumber(link)
    )
    await require_found_and_mended(mirrored, link, "different", "link target")


async def test_inode_of_ours_without_an_entry_is_found_and_removed(mirrored: Mirrored) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f")
    await mirrored.snapshot_and_follow()
    await mirrored.catalog.unlink(f"{HOME}/f")
    await mirrored.catalog.execute(f"DELETE FROM {mirrored.catalog.journal} WHERE fileid = %s", file)
    await mirrored.follow()
    await require_found_and_mended(mirrored, file, "extra", "inode without DPM entry")
    assert await mirrored.trash() == []


async def test_extra_inode_beyond_the_highest_fileid_is_found(mirrored: Mirrored) -> None:
    await mirrored.snapshot_and_follow()
    site = mirrored.session.site
    await mirrored.conn.execute(
        "INSERT INTO t_inodes (ipnfsid, itype, imode, inlink, iuid, igid, isize, iio, ictime, iatime, imtime,"
        " inumber) VALUES ($1, 32768, 420, 1, 1, 1, 0, 3, now(), now(), now(), $2)",
        site.pnfsid(4242),
        site.inumber(4242),
    )
    await mirrored.conn.execute(
        "INSERT INTO t_dirs (iparent, ichild, iname) VALUES ($1, $2, 'x')",
        site.root_inumber,
        site.inumber(4242),
    )
    await require_found_and_mended(mirrored, 4242, "extra", "inode without DPM entry")


async def test_missing_quarantine_row_is_found_and_written_again(mirrored: Mirrored) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f", place=None)
    await mirrored.snapshot_and_follow()
    await mirrored.conn.execute("DELETE FROM dome_bridge.quarantine")
    await require_found_and_mended(mirrored, file, "different", "quarantine lacks no-replica")


async def test_missing_directory_comes_back_with_everything_below(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    directory, file = await catalog.mkdir(f"{HOME}/d"), await catalog.file(f"{HOME}/d/f")
    await mirrored.snapshot_and_follow()
    await mirrored.conn.execute("DELETE FROM t_tags WHERE inumber = $1", mirrored.inumber(directory))
    for fileid in (file, directory):
        await mirrored.conn.execute("SELECT pg_temp.lose($1)", mirrored.inumber(fileid))
    found = await mirrored.verify(repair=True)
    assert (found.missing >= 1, found.remaining) == (True, 0)
    assert (await mirrored.verify(repair=True)).remaining == 0
    await mirrored.require_agreement()


# what waits in the journal


@pytest.mark.parametrize("range_entries", [1, 100])
async def test_changes_that_wait_in_the_journal_are_no_mismatches(
    mirrored: Mirrored, range_entries: int
) -> None:
    catalog = mirrored.catalog
    for name in ("a", "b", "c"):
        await catalog.mkdir(f"{HOME}/{name}")
        await catalog.file(f"{HOME}/{name}/f")
    await mirrored.snapshot_and_follow()
    for old, new in (("a", "t"), ("b", "a"), ("t", "b")):
        await catalog.move(f"{HOME}/{old}", f"{HOME}/{new}")
    await catalog.mkdir(f"{HOME}/new")
    await catalog.move(f"{HOME}/c", f"{HOME}/new/c")
    await catalog.file(f"{HOME}/new/c/g")
    await catalog.unlink(f"{HOME}/a/f")
    await catalog.token(f"{HOME}/new", "TOKEN")
    await catalog.session.delete(catalog.filesystems, server=PLACES[1].server)
    report = await mirrored.verify(range_entries=range_entries)
    assert (report.mismatches, report.unsettled) == (0, 0), report.examples
    await mirrored.follow()
    await mirrored.require_agreement()


async def test_children_of_a_directory_whose_change_waits_are_no_mismatches(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    directory = await catalog.mkdir(f"{HOME}/d")
    await catalog.file(f"{HOME}/d/f")
    await mirrored.snapshot_and_follow()
    for name in (NOT_UTF8, "good"):
        await catalog.update(directory, name=name)
        report = await mirrored.verify(range_entries=100)
        assert (report.mismatches, report.unsettled) == (0, 0), report.examples


async def test_children_that_a_kill_left_to_be_awakened_are_no_mismatches(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = mirrored.catalog
    directory = await catalog.mkdir(f"{HOME}/d")
    file = await catalog.file(f"{HOME}/d/f")
    await catalog.update(directory, name=NOT_UTF8)
    await mirrored.snapshot_and_follow()

    async def killed(mirror: Mirror) -> Applied:
        raise KilledError

    await catalog.update(directory, name="good")
    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "apply_awakened", killed)
        with pytest.raises(KilledError):
            await mirrored.follow()
    assert (await mirrored.path(directory), await mirrored.path(file)) == (f"{HOME}/good", None)
    report = await mirrored.verify()
    assert (report.mismatches, report.unsettled) == (0, 0), report.examples
    await mirrored.require_agreement()


class KilledError(Exception):
    """Stands for the end of the process."""


async def test_rival_of_a_file_whose_change_waits_is_no_mismatch(mirrored: Mirrored) -> None:
    catalog, session = mirrored.catalog, mirrored.catalog.session
    first, second = await catalog.file(f"{HOME}/first"), await catalog.file(f"{HOME}/second")
    await mirrored.snapshot_and_follow()
    ((sfn,),) = await session.rows(f"SELECT BINARY sfn FROM {session.replica} WHERE fileid = %s", first)
    for shared in (sfn, sfn + b".apart"):
        await session.update(session.replica, {"fileid": second}, sfn=text(shared))
        report = await mirrored.verify(range_entries=100)
        assert (report.mismatches, report.unsettled) == (0, 0), report.examples


@pytest.mark.parametrize("range_entries", [1, 100])
async def test_entries_left_out_for_chimeras_sake_are_no_mismatches(
    mirrored: Mirrored, range_entries: int
) -> None:
    catalog = mirrored.catalog
    await catalog.mkdir("/lost+found")
    await catalog.file("/lost+found/f")
    await catalog.file(f"{HOME}/same")
    younger = await catalog.file(f"{HOME}/other")
    await catalog.execute(
        f"ALTER TABLE {catalog.session.metadata} DROP INDEX file_full_id, ADD INDEX (parent_fileid, name)"
    )
    await catalog.update(younger, name="same")
    await mirrored.snapshot_and_follow()
    report = await mirrored.verify(range_entries=range_entries)
    assert report.mismatches == 0, report.examples


async def test_entry_that_never_rests_is_not_judged(mirrored: Mirrored) -> None:
    directory = await mirrored.catalog.mkdir(f"{HOME}/hot")
    await mirrored.snapshot_and_follow()
    ticks = iter(range(10**6))

    async def settle() -> None:
        await mirrored.follow()
        await mirrored.catalog.update(directory, mtime=1_700_000_000 + next(ticks))

    await settle()
    verifier = mirrored.verifier(settle=settle, settle_seconds=20, clock=lambda: float(next(ticks)))
    report = await verifier.run(kind="test")
    assert (report.mismatches, report.unsettled) == (0, 1)


@pytest.mark.parametrize(("seed", "preset"), [(1, "tame"), (2, "wild"), (3, "wild")])
async def test_busy_writer_is_never_a_mismatch(
    mirrored: Mirrored, dpm_site: DpmSite, seed: int, preset: str
) -> None:
    print(f"seed {seed} preset {preset}")
    await mirrored.snapshot_and_follow()
    writer = CatalogWriter(
        lambda: connected(dpm_site),
        random.Random(seed),
        cns=dpm_site.cns,
        dpm=dpm_site.dpm,
        weights=TAME if preset == "tame" else WILD,
        linger=0.02,
    )
    stop, follower = asyncio.Event(), mirrored.follower(batch=50)
    writing = asyncio.create_task(writer.run(operations=800, stop=stop))
    is_judged = asyncio.Event()
    following = asyncio.create_task(until(is_judged.is_set, follower.apply_batch))
    verifier = mirrored.verifier(range_entries=20, settle=lambda: asyncio.sleep(0.02))
    try:
        while not writing.done():
            report = await verifier.run(kind="test")
            assert report.mismatches == 0, report.examples
    finally:
        stop.set()
        await writing
        is_judged.set()
        await following
    await follower.drain()
    assert (await verifier.run(kind="test")).mismatches == 0
    await mirrored.require_agreement()


# the pass itself


async def test_interrupted_pass_goes_on_where_it_was(mirrored: Mirrored) -> None:
    for number in range(12):
        await mirrored.catalog.file(f"{HOME}/f{number}")
    await mirrored.snapshot_and_follow()
    await mirrored.conn.execute("UPDATE t_inodes SET isize = 99 WHERE inumber = $1", mirrored.inumber(7))
    stop = asyncio.Event()
    verifier = mirrored.verifier(range_entries=4)

    def stop_behind_the_damage(report: VerifyReport) -> None:
        if report.different:
            stop.set()

    partial = await verifier.run(kind="test", stop=stop, advance=stop_behind_the_damage)
    assert (partial.finished, partial.different) == (False, 1)
    whole = await verifier.run(kind="test")
    assert (whole.finished, whole.different) == (True, 1)
    assert whole.compared == 17
    afresh = await verifier.run(kind="test", resume=False)
    assert (afresh.compared, afresh.different) == (17, 1)


async def test_last_pass_is_remembered(mirrored: Mirrored) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f")
    await mirrored.snapshot_and_follow()
    assert await verify.last_verify(mirrored.conn) is None
    await mirrored.verify()
    last = await verify.last_verify(mirrored.conn)
    assert last is not None
    assert (last.mismatches, last.last_clean is not None) == (0, True)
    await mirrored.conn.execute("UPDATE t_inodes SET imode = 0 WHERE inumber = $1", mirrored.inumber(file))
    await mirrored.verify()
    dirty = await verify.last_verify(mirrored.conn)
    assert dirty is not None
    assert (dirty.mismatches, dirty.by_kind["different"], dirty.last_clean) == (1, 1, last.last_clean)
    await mirrored.verify(repair=True)
    mended = await verify.last_verify(mirrored.conn)
    assert mended is not None
    assert mended.mismatches == 0


async def test_throttle_sleeps_what_is_left_of_the_time(mirrored: Mirrored) -> None:
    await mirrored.snapshot_and_follow()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    verifier = mirrored.verifier(range_entries=2, entries_per_second=2, clock=lambda: 0.0, sleep=sleep)
    await verifier.run(kind="test")
    assert slept
    assert set(slept) == {1.0}
