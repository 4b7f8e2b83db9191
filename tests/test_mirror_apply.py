"""What applying leaves behind: no trash of ours, nothing of dCache's touched, nothing twice."""

from __future__ import annotations

import pytest

from dome_bridge.errors import TargetError
from sandbox.acceptance import acceptance_failures
from tests.fixtures.mirror import HOME, Mirrored

FOREIGN_ID = "0000FEEDFACEFEEDFACE" + "0" * 16
STALE = "INSERT INTO t_locationinfo_trash VALUES ($1, $2, $3, 10, localtimestamp, localtimestamp, 1)"


async def create_in_dcache(mirrored: Mirrored, parent: int, name: str, pnfsid: str = FOREIGN_ID) -> int:
    """As dCache's own namespace code does it."""
    sql = "SELECT f_create_inode95($1, $2, $3, 32768, 420, 1, 10, 20, 5, 3, localtimestamp)"
    return int(await mirrored.conn.fetchval(sql, mirrored.inumber(parent), name, pnfsid))


async def test_every_kind_of_deletion_leaves_no_trash(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    directory = await catalog.mkdir(f"{HOME}/d")
    for name in ("unlinked", "broken", "d/inside", "replaced"):
        await catalog.file(f"{HOME}/{name}")
    await catalog.symlink(f"{HOME}/link", "target")
    await mirrored.snapshot_and_follow()
    await catalog.unlink(f"{HOME}/unlinked")
    await catalog.unlink(f"{HOME}/link")
    await catalog.unlink(f"{HOME}/replaced")
    await catalog.file(f"{HOME}/replaced")
    await catalog.update(await catalog.fileid(f"{HOME}/broken"), owner_uid=2**31)
    await catalog.update(directory, name="a/b")
    await mirrored.follow()
    assert await mirrored.trash() == []
    await mirrored.require_agreement()


async def test_trash_of_the_same_id_from_earlier_is_no_obstacle(mirrored: Mirrored) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f")
    await mirrored.snapshot_and_follow()
    ((pool,), pnfsid) = await mirrored.pools(file), mirrored.session.site.pnfsid(file)
    for itype, location in ((1, pool), (2, ""), (1, "elsewhere")):
        await mirrored.conn.execute(STALE, pnfsid, itype, location)
    await mirrored.catalog.unlink(f"{HOME}/f")
    await mirrored.follow()
    assert await mirrored.trash() == []
    await mirrored.require_agreement()


async def test_trash_of_dcaches_own_files_stays(mirrored: Mirrored) -> None:
    await mirrored.catalog.file(f"{HOME}/f")
    await mirrored.snapshot_and_follow()
    await mirrored.conn.execute(STALE, FOREIGN_ID, 1, "pool")
    await mirrored.catalog.unlink(f"{HOME}/f")
    await mirrored.follow()
    assert await mirrored.trash() == [FOREIGN_ID]


@pytest.mark.parametrize("below", ["d", "d/inner"])
async def test_what_dcache_wrote_below_a_deleted_directory_is_named_and_kept(
    mirrored: Mirrored, below: str
) -> None:
    catalog = mirrored.catalog
    await catalog.mkdir(f"{HOME}/d")
    await catalog.mkdir(f"{HOME}/d/inner")
    await mirrored.snapshot_and_follow()
    foreign = await create_in_dcache(mirrored, await catalog.fileid(f"{HOME}/{below}"), "dcaches-own")
    await catalog.rmdir(f"{HOME}/d/inner")
    await catalog.rmdir(f"{HOME}/d")
    with pytest.raises(TargetError, match=f"dCache has written {HOME}/{below}/dcaches-own below") as caught:
        await mirrored.follow()
    assert "\n" not in str(caught.value)
    assert await mirrored.conn.fetchval("SELECT inumber2path($1)", foreign) == f"{HOME}/{below}/dcaches-own"
    assert await catalog.journalled() != []
    await mirrored.conn.execute("DELETE FROM t_dirs WHERE ichild = $1", foreign)
    await mirrored.conn.execute("DELETE FROM t_inodes WHERE inumber = $1", foreign)
    await mirrored.conn.execute("TRUNCATE t_locationinfo_trash")
    await mirrored.follow()
    await mirrored.require_agreement()


async def test_entry_of_dcache_in_a_mirrored_directory_is_left_alone(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    home = await catalog.fileid(HOME)
    await mirrored.snapshot_and_follow()
    foreign = await create_in_dcache(mirrored, home, "f")
    file = await catalog.file(f"{HOME}/f")
    await mirrored.follow()
    assert await mirrored.quarantined(file) == [("entry", "name-taken")]
    assert await mirrored.conn.fetchval("SELECT isize FROM t_inodes WHERE inumber = $1", foreign) == 5
    await catalog.move(f"{HOME}/f", f"{HOME}/g")
    await mirrored.follow()
    assert await mirrored.path(file) == f"{HOME}/g"
    assert await mirrored.conn.fetchval("SELECT inumber2path($1)", foreign) == f"{HOME}/f"
    assert foreign > mirrored.inumber(file), "dCache's next number is beyond the mirror's"


async def test_applying_again_changes_nothing(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    fileids = [await catalog.mkdir(f"{HOME}/d"), await catalog.symlink(f"{HOME}/l", "t")]
    fileids += [await catalog.file(f"{HOME}/d/f", acl="A6101,B4102,C6101,E60,F00")]
    await mirrored.snapshot_and_follow()
    async with mirrored.mirror.source.snapshot():
        applied = await mirrored.mirror.apply_ids([1, *fileids, 10**6])
    assert applied.changes == {}
    await mirrored.require_agreement()


async def test_inumbers_and_names_stay_with_their_pnfsid(mirrored: Mirrored) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f")
    await mirrored.snapshot_and_follow()
    before = await mirrored.value(file, "ipnfsid || inumber || icrtime")
    await mirrored.catalog.move(f"{HOME}/f", "/dpm/moved")
    await mirrored.catalog.update(file, filesize=12, filemode=0o100600)
    await mirrored.follow()
    assert await mirrored.value(file, "ipnfsid || inumber || icrtime") == before
    await mirrored.require_agreement()


async def test_sequence_runs_ahead_of_what_is_created_later(mirrored: Mirrored) -> None:
    await mirrored.snapshot_and_follow()
    await mirrored.catalog.execute(f"UPDATE {mirrored.catalog.session.cns}.Cns_unique_id SET id = 50000000")
    file = await mirrored.catalog.file(f"{HOME}/f")
    await mirrored.follow()
    assert file == 50_000_001
    assert await acceptance_failures(mirrored.conn) == {}
    await create_in_dcache(mirrored, 1, "dcaches-own")


async def test_repair_of_a_directory_brings_more_than_one_chunk_back(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = mirrored.catalog
    directory = await catalog.mkdir(f"{HOME}/d", name="a/b")
    fileids = [await catalog.file(f"{HOME}/a{number}", parent_fileid=directory) for number in range(7)]
    await mirrored.snapshot_and_follow()
    assert await mirrored.quarantined(fileids[0]) == [("entry", "parent-absent")]
    monkeypatch.setattr("dome_bridge.exporter.mirror.APPLY_CHUNK", 3)
    await catalog.update(directory, name="d")
    await mirrored.follow()
    assert await mirrored.path(fileids[-1]) == f"{HOME}/d/a6"
    await mirrored.require_agreement()
