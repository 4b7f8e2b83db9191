"""Changes of the catalog in every order that DPM can commit them, and what the mirror makes of each."""

from __future__ import annotations

import contextlib
import itertools

import pytest

from dome_bridge.chimera import state
from dome_bridge.chimera.state import Phase
from dome_bridge.dpm import read
from dome_bridge.exporter.journal import Journal
from sandbox.dpm_statements import Place, RolledBack, text
from sandbox.operations import insert_filesystem
from tests.fixtures.mirror import HOME, PLACES, POOLS, Mirrored

NOT_UTF8 = text(b"caf\xe9")


# order of changes


async def test_child_journalled_before_its_parent_waits_for_it(mirrored: Mirrored) -> None:
    await mirrored.snapshot_and_follow()
    catalog = mirrored.catalog
    file = await catalog.file(f"{HOME}/f")
    outer = await catalog.mkdir(f"{HOME}/outer")
    await catalog.mkdir(f"{HOME}/outer/inner")
    await catalog.move(f"{HOME}/f", f"{HOME}/outer/inner/f")
    await catalog.execute(f"DELETE FROM {catalog.journal} WHERE fileid <> %s", file)
    await mirrored.follow(batch=1)
    assert await mirrored.quarantined(file) == [("entry", "parent-absent")]
    await catalog.update(outer, gid=103)
    await catalog.update(await catalog.fileid(f"{HOME}/outer/inner"), gid=103)
    await catalog.update(await catalog.fileid(HOME), gid=103)
    await mirrored.follow(batch=1)
    assert await mirrored.path(file) == f"{HOME}/outer/inner/f"
    await mirrored.require_agreement()


@pytest.mark.parametrize("batch", [1, 3, 500])
async def test_new_tree_is_mirrored_whatever_the_batches(mirrored: Mirrored, batch: int) -> None:
    await mirrored.snapshot_and_follow()
    path = HOME
    for level in range(5):
        path = f"{path}/level{level}"
        await mirrored.catalog.mkdir(path)
        await mirrored.catalog.file(f"{path}/f")
    await mirrored.follow(batch)
    await mirrored.require_agreement()


async def test_renamed_directory_takes_all_below_along(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    await catalog.mkdir(f"{HOME}/a")
    await catalog.mkdir(f"{HOME}/a/b")
    file = await catalog.file(f"{HOME}/a/b/f")
    await mirrored.snapshot_and_follow()
    await catalog.move(f"{HOME}/a", f"{HOME}/renamed")
    assert await mirrored.follow() > 0
    assert await mirrored.path(file) == f"{HOME}/renamed/b/f"
    await mirrored.require_agreement()


async def test_directory_moved_below_one_created_later_arrives(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    await catalog.mkdir(f"{HOME}/old")
    file = await catalog.file(f"{HOME}/old/f")
    await mirrored.snapshot_and_follow()
    await catalog.mkdir(f"{HOME}/new")
    await catalog.move(f"{HOME}/old", f"{HOME}/new/old")
    await mirrored.follow(batch=1)
    assert await mirrored.path(file) == f"{HOME}/new/old/f"
    await mirrored.require_agreement()


@pytest.mark.parametrize("batch", [1, 500])
@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c")], ids=["swap", "rotation"])
async def test_exchanged_names_end_where_they_belong(
    mirrored: Mirrored, names: tuple[str, ...], batch: int
) -> None:
    catalog = mirrored.catalog
    fileids = {name: await catalog.file(f"{HOME}/{name}") for name in names}
    await mirrored.snapshot_and_follow()
    await catalog.move(f"{HOME}/{names[0]}", f"{HOME}/aside")
    for new, old in itertools.pairwise(names):
        await catalog.move(f"{HOME}/{old}", f"{HOME}/{new}")
    await catalog.move(f"{HOME}/aside", f"{HOME}/{names[-1]}")
    await mirrored.follow(batch)
    for name, moved in zip((names[-1], *names), names, strict=False):
        assert await mirrored.path(fileids[moved]) == f"{HOME}/{name}"
    await mirrored.require_agreement()


@pytest.mark.parametrize("batch", [1, 500])
async def test_swapped_directories_keep_their_contents(mirrored: Mirrored, batch: int) -> None:
    catalog = mirrored.catalog
    for name in ("a", "b"):
        await catalog.mkdir(f"{HOME}/{name}")
        await catalog.file(f"{HOME}/{name}/{name}")
    await mirrored.snapshot_and_follow()
    for old, new in (("a", "t"), ("b", "a"), ("t", "b")):
        await catalog.move(f"{HOME}/{old}", f"{HOME}/{new}")
    await mirrored.follow(batch)
    await mirrored.require_agreement()


@pytest.mark.parametrize("batch", [1, 500])
async def test_name_of_a_deleted_file_is_taken_by_its_successor(mirrored: Mirrored, batch: int) -> None:
    catalog = mirrored.catalog
    old = await catalog.file(f"{HOME}/f")
    await mirrored.snapshot_and_follow()
    await catalog.unlink(f"{HOME}/f")
    new = await catalog.file(f"{HOME}/f", size=8)
    await mirrored.follow(batch)
    assert await mirrored.path(old) is None
    assert await mirrored.path(new) == f"{HOME}/f"
    await mirrored.require_agreement()


async def test_multi_row_delete_removes_every_file(mirrored: Mirrored) -> None:
    catalog, session = mirrored.catalog, mirrored.catalog.session
    fileids = [await catalog.file(f"{HOME}/f{number}") for number in range(5)]
    await mirrored.snapshot_and_follow()
    for table in (session.replica, session.metadata):
        await session.execute(f"DELETE FROM {table} WHERE fileid BETWEEN %s AND %s", fileids[0], fileids[-1])
    await mirrored.follow(batch=3)
    assert [await mirrored.path(fileid) for fileid in fileids] == [None] * 5
    await mirrored.require_agreement()


async def test_transaction_that_commits_late_is_not_passed_over(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    early, late = await catalog.file(f"{HOME}/early"), await catalog.file(f"{HOME}/late")
    await mirrored.snapshot_and_follow()
    other = await mirrored.second_writer()
    async with other.session.transaction():
        await other.update(early, name="committed-late")
        await catalog.update(late, name="committed-early")
        assert await mirrored.follow() == 1
        assert await mirrored.path(late) == f"{HOME}/committed-early"
        assert await mirrored.path(early) == f"{HOME}/early"
    assert await mirrored.follow() == 1
    assert await mirrored.path(early) == f"{HOME}/committed-late"
    await mirrored.require_agreement()


async def test_transaction_rolled_back_leaves_nothing(mirrored: Mirrored) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f")
    await mirrored.snapshot_and_follow()
    with contextlib.suppress(RolledBack):
        async with mirrored.catalog.session.transaction():
            await mirrored.catalog.update(file, name="other")
            await mirrored.catalog.mkdir(f"{HOME}/d")
            raise RolledBack
    assert await mirrored.catalog.journalled() == []
    assert await mirrored.follow() == 0
    assert await mirrored.path(file) == f"{HOME}/f"
    await mirrored.require_agreement()


async def test_hundred_changes_of_a_directory_are_one_update(mirrored: Mirrored) -> None:
    directory = await mirrored.catalog.mkdir(f"{HOME}/hot")
    await mirrored.snapshot_and_follow()
    for number in range(100):
        await mirrored.catalog.update(directory, mtime=1_600_000_000 + number)
    batch = await mirrored.follower().apply_batch()
    assert batch.changes == 100
    assert batch.applied.changes == {("t_inodes", "update"): 1}
    await mirrored.require_agreement()


async def test_what_chimera_does_not_hold_is_not_journalled(mirrored: Mirrored) -> None:
    catalog, session = mirrored.catalog, mirrored.catalog.session
    directory, file = await catalog.mkdir(f"{HOME}/d"), await catalog.file(f"{HOME}/d/f")
    await mirrored.snapshot_and_follow()
    await catalog.update(directory, filesize=10**9, nlink=17, atime=5)
    await catalog.update(file, atime=1_700_000_000, guid="0" * 36, fileclass=2)
    await session.execute(
        f"UPDATE {session.replica} SET nbaccesses = nbaccesses + 1, atime = 1, ptime = 2, ltime = 3,"
        " ctime = 4, f_type = 'V', setname = 'x', r_type = 'P'"
    )
    await session.insert(session.comments, u_fileid=file, comments="seen")
    assert await catalog.journalled() == []
    await mirrored.require_agreement()


# facts


async def test_mode_owner_and_times_follow(mirrored: Mirrored) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f")
    await mirrored.snapshot_and_follow()
    await mirrored.catalog.update(file, filemode=0o106640, owner_uid=4711, gid=4712, mtime=1_000_000_000)
    await mirrored.follow()
    assert await mirrored.value(file, "(imode, iuid, igid)") == (0o6640, 4711, 4712)
    assert str(await mirrored.value(file, "imtime")) == "2001-09-09 03:46:40"
    await mirrored.require_agreement()


@pytest.mark.parametrize(
    "acl",
    ["A70,B6102,C50,D7103,E70,F00", "A70,B6102,C50,D7103,E70,F00,a70,c50,f50", "A60,C40,F40"],
)
async def test_acl_comes_changes_and_goes(mirrored: Mirrored, acl: str) -> None:
    directory = await mirrored.catalog.mkdir(f"{HOME}/d")
    await mirrored.snapshot_and_follow()
    for text_of_acl in (acl, "A70,B5104,C70,E70,F00", acl, ""):
        await mirrored.catalog.update(directory, acl=text_of_acl)
        await mirrored.follow()
        await mirrored.require_agreement()


async def test_checksums_follow_and_a_bad_one_is_reported_until_it_is_good(mirrored: Mirrored) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f")
    await mirrored.snapshot_and_follow()
    values = ("deadbeef", "nonsense", "0badcafe")
    for value in values:
        await mirrored.catalog.update(
            file, csumtype="MD", csumvalue="ab" * 16, xattr=f'{{"checksum.adler32": "{value}"}}'
        )
        await mirrored.follow()
        bad = [("fact", "checksum-invalid")] if value == "nonsense" else []
        assert await mirrored.quarantined(file) == bad
        await mirrored.require_agreement()
    await mirrored.catalog.update(file, csumtype="", csumvalue="", xattr=None)
    await mirrored.follow()
    await mirrored.require_agreement()


async def test_symlink_target_follows(mirrored: Mirrored) -> None:
    link = await mirrored.catalog.symlink(f"{HOME}/l", "old/target")
    await mirrored.snapshot_and_follow()
    session = mirrored.catalog.session
    await session.update(session.symlinks, {"fileid": link}, linkname="/new")
    await mirrored.follow()
    assert await mirrored.value(link, "isize") == 4
    await mirrored.require_agreement()
    await session.delete(session.symlinks, fileid=link)
    await mirrored.follow()
    assert await mirrored.quarantined(link) == [("entry", "symlink-without-target")]
    await mirrored.require_agreement()


async def test_file_lives_as_long_as_a_replica_is_available(mirrored: Mirrored) -> None:
    catalog, session = mirrored.catalog, mirrored.catalog.session
    await mirrored.snapshot_and_follow()
    file = await catalog.file(f"{HOME}/f", place=None)
    await mirrored.follow()
    assert await mirrored.quarantined(file) == [("entry", "no-replica")]
    replica = await catalog.replica(file, status="P")
    await mirrored.follow()
    assert await mirrored.quarantined(file) == [("entry", "being-written")]
    await catalog.update_replica(replica.rowid, status="-")
    await mirrored.follow()
    assert (await mirrored.quarantined(file), await mirrored.pools(file)) == ([], [POOLS[0]])
    second = await catalog.replica(file, 1)
    await mirrored.follow()
    assert await mirrored.pools(file) == sorted(POOLS)
    await catalog.update_replica(replica.rowid, status="D")
    await mirrored.follow()
    assert await mirrored.pools(file) == [POOLS[1]]
    await session.delete(session.replica, rowid=second.rowid)
    await mirrored.follow()
    assert await mirrored.quarantined(file) == [("entry", "no-usable-replica")]
    await mirrored.require_agreement()


async def test_replica_given_to_another_file_changes_both(mirrored: Mirrored) -> None:
    catalog, session = mirrored.catalog, mirrored.catalog.session
    first, second = await catalog.file(f"{HOME}/first"), await catalog.file(f"{HOME}/second", place=None)
    await mirrored.snapshot_and_follow()
    await session.execute(f"UPDATE {session.replica} SET fileid = %s WHERE fileid = %s", second, first)
    await mirrored.follow()
    assert await mirrored.path(first) is None
    assert await mirrored.path(second) == f"{HOME}/second"
    await mirrored.require_agreement()


async def test_empty_file_has_its_location(mirrored: Mirrored) -> None:
    await mirrored.snapshot_and_follow()
    file = await mirrored.catalog.file(f"{HOME}/empty", size=0)
    await mirrored.follow()
    assert await mirrored.pools(file) == [POOLS[0]]
    await mirrored.require_agreement()


@pytest.mark.parametrize("chimera_version", ["8.2", "10.2"])
async def test_entry_that_changes_its_type_is_counted_and_tagged_anew(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    full, empty = await catalog.mkdir(f"{HOME}/full"), await catalog.mkdir(f"{HOME}/empty")
    await catalog.file(f"{HOME}/full/f")
    file = await catalog.file(f"{HOME}/file")
    for fileid in (full, empty):
        await catalog.replica(fileid)
    await mirrored.snapshot_and_follow()
    await mirrored.require_agreement()
    for directories, files in (((file,), (full, empty)), ((full, empty), (file,))):
        for fileid in directories:
            await catalog.update(fileid, filemode=0o40755)
        for fileid in files:
            await catalog.update(fileid, filemode=0o100644)
        await mirrored.follow()
        await mirrored.require_agreement()


# rot that comes and goes


async def test_directory_with_an_impossible_name_takes_its_children_out_and_back(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    directory = await catalog.mkdir(f"{HOME}/d")
    inner = await catalog.mkdir(f"{HOME}/d/inner")
    file = await catalog.file(f"{HOME}/d/inner/f")
    await mirrored.snapshot_and_follow()
    await catalog.update(directory, name=NOT_UTF8)
    await mirrored.follow()
    assert await mirrored.quarantined(directory) == [("entry", "name-not-utf8")]
    assert await mirrored.quarantined(inner) == [("entry", "parent-absent")]
    assert await mirrored.quarantined(file) == [("entry", "parent-absent")]
    await mirrored.require_agreement()
    await catalog.update(directory, name="good again")
    await mirrored.follow()
    assert await mirrored.path(file) == f"{HOME}/good again/inner/f"
    await mirrored.require_agreement()


async def test_cycle_leaves_and_its_repair_brings_it_back(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    outer, inner = await catalog.mkdir(f"{HOME}/outer"), await catalog.mkdir(f"{HOME}/outer/inner")
    file = await catalog.file(f"{HOME}/outer/inner/f")
    await mirrored.snapshot_and_follow()
    home = await catalog.fileid(HOME)
    await catalog.update(outer, parent_fileid=inner)
    await mirrored.follow()
    assert [await mirrored.path(fileid) for fileid in (outer, inner, file)] == [None, None, None]
    await mirrored.require_agreement()
    await catalog.update(outer, parent_fileid=home)
    await mirrored.follow()
    assert await mirrored.path(file) == f"{HOME}/outer/inner/f"
    await mirrored.require_agreement()


async def test_orphans_return_with_their_directory(mirrored: Mirrored) -> None:
    catalog, session = mirrored.catalog, mirrored.catalog.session
    directory, file = await catalog.mkdir(f"{HOME}/d"), await catalog.file(f"{HOME}/d/f")
    await mirrored.snapshot_and_follow()
    await session.execute(
        f"CREATE TEMPORARY TABLE kept AS SELECT * FROM {session.metadata} WHERE fileid = %s", directory
    )
    await session.delete(session.metadata, fileid=directory)
    await mirrored.follow()
    assert await mirrored.quarantined(file) == [("entry", "parent-absent")]
    await mirrored.require_agreement()
    await session.execute(f"INSERT INTO {session.metadata} SELECT * FROM kept")
    await mirrored.follow()
    assert await mirrored.path(file) == f"{HOME}/d/f"
    await mirrored.require_agreement()


async def test_files_that_claim_one_path_are_judged_together(mirrored: Mirrored) -> None:
    catalog, session = mirrored.catalog, mirrored.catalog.session
    first, second = await catalog.file(f"{HOME}/first"), await catalog.file(f"{HOME}/second")
    await mirrored.snapshot_and_follow()
    ((sfn,),) = await session.rows(f"SELECT BINARY sfn FROM {session.replica} WHERE fileid = %s", second)
    await session.execute(
        f"UPDATE {session.replica} r, {session.replica} o SET r.sfn = o.sfn"
        " WHERE r.fileid = %s AND o.fileid = %s",
        *(second, first),
    )
    assert {fileid for _, fileid in await catalog.journalled()} == {second}
    await mirrored.follow()
    for file in (first, second):
        assert await mirrored.quarantined(file) == [("entry", "no-usable-replica")]
    await mirrored.require_agreement()
    await session.update(session.replica, {"fileid": second}, sfn=text(sfn))
    await mirrored.follow()
    for file in (first, second):
        assert await mirrored.pools(file) == [POOLS[0]]
    await mirrored.require_agreement()


async def test_younger_of_two_equal_names_comes_when_the_older_goes(mirrored: Mirrored) -> None:
    catalog, session = mirrored.catalog, mirrored.catalog.session
    older, younger = await catalog.file(f"{HOME}/a"), await catalog.file(f"{HOME}/b")
    await catalog.execute(
        f"ALTER TABLE {session.metadata} DROP INDEX file_full_id, ADD INDEX (parent_fileid, name)"
    )
    await mirrored.snapshot_and_follow()
    await catalog.update(younger, name="a")
    await mirrored.follow()
    assert await mirrored.quarantined(younger) == [("entry", "duplicate-name")]
    await mirrored.require_agreement()
    await catalog.update(older, name="z")
    await mirrored.follow()
    assert await mirrored.path(younger) == f"{HOME}/a"
    await mirrored.require_agreement()


async def test_name_that_dcache_holds_is_left_to_dcache(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    directory, file = await catalog.mkdir("/lost+found"), await catalog.file("/lost+found/f")
    await mirrored.snapshot_and_follow()
    assert await mirrored.quarantined(directory) == [("entry", "name-taken")]
    assert await mirrored.quarantined(file) == [("entry", "parent-absent")]
    await mirrored.require_agreement()
    await catalog.move("/lost+found", "/found")
    await mirrored.follow()
    assert await mirrored.path(file) == "/found/f"
    await mirrored.require_agreement()


@pytest.mark.parametrize(
    ("table", "condition"), [("t_dirs", "iname <> 'poison'"), ("t_inodes", "isize <> 666")]
)
async def test_row_that_postgresql_refuses_is_left_out_alone(
    mirrored: Mirrored, table: str, condition: str
) -> None:
    catalog = mirrored.catalog
    await mirrored.snapshot_and_follow()
    await mirrored.conn.execute(f"ALTER TABLE {table} ADD CONSTRAINT no_poison CHECK ({condition})")
    files = [await catalog.file(f"{HOME}/f{number}") for number in range(6)]
    poison = await catalog.file(f"{HOME}/poison", size=666)
    files += [await catalog.file(f"{HOME}/g{number}") for number in range(6)]
    await mirrored.follow()
    assert await mirrored.quarantined(poison) == [("entry", "refused-by-chimera")]
    assert None not in [await mirrored.path(file) for file in files]
    assert await mirrored.catalog.journalled() == []
    assert (await mirrored.verify()).mismatches == 0
    await mirrored.conn.execute(f"ALTER TABLE {table} DROP CONSTRAINT no_poison")
    await catalog.update(poison, gid=103)
    await mirrored.follow()
    await mirrored.require_agreement()


async def test_id_beyond_any_inumber_is_listed_while_it_is_there(mirrored: Mirrored) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f")
    await mirrored.snapshot_and_follow()
    session = mirrored.catalog.session
    await session.delete(session.replica, fileid=file)
    await mirrored.catalog.update(file, fileid=2**63)
    await mirrored.follow()
    assert await mirrored.quarantined(2**63) == [("entry", "id-out-of-range")]
    await mirrored.require_agreement()
    await mirrored.catalog.update(2**63, fileid=file)
    await mirrored.catalog.replica(file)
    await mirrored.follow()
    assert await mirrored.quarantined(2**63) == []
    await mirrored.require_agreement()


# small tables


async def test_files_leave_and_return_with_their_filesystem(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    lost, kept = await catalog.file(f"{HOME}/lost"), await catalog.file(f"{HOME}/kept", place=1)
    both = await catalog.file(f"{HOME}/both")
    await catalog.replica(both, 1)
    await mirrored.snapshot_and_follow()
    await remove_filesystem(mirrored, PLACES[0])
    await mirrored.follow()
    assert await mirrored.quarantined(lost) == [("entry", "no-usable-replica")]
    assert await mirrored.quarantined(both) == [("fact", "unknown-filesystem")]
    assert await mirrored.pools(kept) == [POOLS[1]]
    await mirrored.require_agreement()
    await insert_filesystem(catalog.session, PLACES[0])
    await mirrored.follow()
    assert await mirrored.pools(lost) == [POOLS[0]]
    assert await mirrored.quarantined(both) == []
    await mirrored.require_agreement()


async def remove_filesystem(mirrored: Mirrored, place: Place) -> None:
    await mirrored.catalog.session.delete(mirrored.catalog.filesystems, server=place.server)


async def test_file_whose_path_spells_the_server_otherwise_leaves_with_its_filesystem(
    mirrored: Mirrored,
) -> None:
    catalog = mirrored.catalog
    await catalog.file(f"{HOME}/f")
    await catalog.execute(f"UPDATE {catalog.session.replica} SET sfn = CONCAT('DISK01', SUBSTRING(sfn, 7))")
    await mirrored.snapshot_and_follow()
    await mirrored.require_agreement()
    await remove_filesystem(mirrored, PLACES[0])
    await mirrored.follow()
    await mirrored.require_agreement()


async def test_filesystem_that_changes_its_pool_or_is_divided_moves_its_files(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    file = await catalog.file(f"{HOME}/f")
    await mirrored.snapshot_and_follow()
    await catalog.session.insert(f"{catalog.session.dpm}.dpm_pool", poolname="other", defsize=1, s_type="-")
    await catalog.execute(
        f"UPDATE {catalog.filesystems} SET poolname = 'other' WHERE server = %s", PLACES[0].server
    )
    await mirrored.follow()
    assert await mirrored.pools(file) != [POOLS[0]]
    await mirrored.require_agreement()
    for place in (PLACES[0], PLACES[0]._replace(fs=f"{PLACES[0].fs}/dteam")):
        await insert_filesystem(catalog.session, place)
        await mirrored.follow()
        await mirrored.require_agreement()


async def test_kill_between_a_new_filesystem_list_and_placing_the_files_is_made_good(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f")
    await mirrored.snapshot_and_follow()
    await remove_filesystem(mirrored, PLACES[0])

    async def killed(*args: object) -> list[int]:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(read, "files_on", killed)
        with pytest.raises(KilledError):
            await mirrored.follow()
    assert await mirrored.path(file) is not None
    await mirrored.follow()
    assert await mirrored.quarantined(file) == [("entry", "no-usable-replica")]
    await mirrored.require_agreement()


class KilledError(Exception):
    """Stands for the end of the process."""


async def test_people_and_pools_are_copied(mirrored: Mirrored) -> None:
    await mirrored.snapshot_and_follow()
    session = mirrored.catalog.session
    name = "/DC=org/CN=Some Ü"
    await session.insert(f"{session.cns}.Cns_userinfo", userid=501, username=name, user_ca="", banned=0)
    await session.insert(f"{session.cns}.Cns_groupinfo", gid=601, groupname="vo/Role=x", banned=0)
    await session.insert(f"{session.dpm}.dpm_pool", poolname="spare", defsize=2**40, s_type="V")
    await mirrored.follow()
    users = await mirrored.conn.fetch("SELECT userid, username, banned FROM dome_bridge.dpm_user")
    assert [tuple(row) for row in users] == [(501, name.encode(), 0)]
    assert await mirrored.conn.fetchval("SELECT gid FROM dome_bridge.dpm_group") == 601
    assert await mirrored.conn.fetchval("SELECT count(*) FROM dome_bridge.dpm_pool") == 2
    await session.execute(f"UPDATE {session.cns}.Cns_userinfo SET banned = 2")
    await session.execute(f"DELETE FROM {session.cns}.Cns_groupinfo")
    await mirrored.follow()
    assert await mirrored.conn.fetchval("SELECT banned FROM dome_bridge.dpm_user") == 2
    assert await mirrored.conn.fetchval("SELECT count(*) FROM dome_bridge.dpm_group") == 0


# progress


async def test_heartbeat_counts_only_once_everything_before_it_is_applied(mirrored: Mirrored) -> None:
    await mirrored.snapshot_and_follow()
    journal, follower = Journal(mirrored.session.source), mirrored.follower(batch=1)
    directory = await mirrored.catalog.fileid(HOME)
    await mirrored.catalog.update(directory, gid=103)
    await journal.write_heartbeat()
    await follower.apply_batch()
    assert (await state.progress(mirrored.conn)).heartbeat_at is None
    await mirrored.catalog.update(directory, gid=104)
    batch = await follower.apply_batch()
    assert (batch.changes, batch.was_idle) == (0, True)
    assert (await state.progress(mirrored.conn)).heartbeat_at == batch.heartbeat_at
    assert batch.heartbeat_at is not None
    assert batch.source_now is not None
    assert 0 <= batch.source_now - batch.heartbeat_at < 60


async def test_marker_is_noted_with_what_came_before_it(mirrored: Mirrored) -> None:
    await mirrored.snapshot_and_follow()
    directory = await mirrored.catalog.mkdir(f"{HOME}/d")
    journal = Journal(mirrored.session.source)
    await journal.write_marker(b"nonce-1")
    await mirrored.follow(batch=1)
    progress = await state.progress(mirrored.conn)
    assert (progress.marker, await mirrored.path(directory)) == ("nonce-1", f"{HOME}/d")
    assert await mirrored.follow() == 0
    assert (await state.progress(mirrored.conn)).marker == "nonce-1"


async def test_crash_before_the_journal_is_cleared_repeats_without_harm(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = mirrored.catalog
    await catalog.file(f"{HOME}/gone")
    await mirrored.snapshot_and_follow()
    await catalog.mkdir(f"{HOME}/d")
    await catalog.file(f"{HOME}/d/f")
    await catalog.unlink(f"{HOME}/gone")
    waiting = await catalog.journalled()

    async def killed(journal: Journal, seqs: object) -> int:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "delete", killed)
        with pytest.raises(KilledError):
            await mirrored.follow()
    await mirrored.require_agreement()
    assert await catalog.journalled() == waiting
    batch = await mirrored.follower().apply_batch()
    assert (batch.changes, batch.applied.changes) == (len(waiting), {})
    await mirrored.require_agreement()


async def test_nothing_is_applied_after_the_commit(mirrored: Mirrored) -> None:
    await mirrored.snapshot_and_follow()
    await state.set_phase(mirrored.conn, Phase.COMMITTED)
    directory = await mirrored.catalog.mkdir(f"{HOME}/d")
    batch = await mirrored.follower().apply_batch()
    assert (batch.is_over, await mirrored.path(directory)) == (True, None)
    assert await mirrored.catalog.journalled() != []
