"""Rows, rivals and strangers at the edge of what can be mirrored: none may stop or mislead the mirror."""

from __future__ import annotations

import os

import pytest

from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase
from dome_bridge.errors import SchemaError, StateError
from dome_bridge.exporter.initialise import complete, initialise
from sandbox.dpm_statements import text
from tests.fixtures.mirror import HOME, Mirrored


async def test_acl_longer_than_a_btree_entry_loses_itself_only(mirrored: Mirrored) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f", acl=text(os.urandom(20_000)))
    other = await mirrored.catalog.file(f"{HOME}/g")
    await mirrored.snapshot_and_follow()
    assert await mirrored.quarantined(file) == [("fact", "acl-invalid")]
    assert await mirrored.path(file) == f"{HOME}/f"
    await mirrored.catalog.update(other, acl=text(os.urandom(20_000)))
    await mirrored.follow()
    assert await mirrored.quarantined(other) == [("fact", "acl-invalid")]


async def test_number_that_dcache_gave_is_never_overwritten(mirrored: Mirrored) -> None:
    await mirrored.snapshot_and_follow()
    file = await mirrored.catalog.file(f"{HOME}/f")
    await mirrored.conn.execute(
        "INSERT INTO t_inodes (ipnfsid, itype, imode, inlink, iuid, igid, isize, iio, ictime, iatime, imtime,"
        " inumber) VALUES (repeat('A', 36), 32768, 420, 1, 0, 0, 5, 3, now(), now(), now(), $1)",
        mirrored.inumber(file),
    )
    await mirrored.follow()
    assert await mirrored.quarantined(file) == [("entry", "inumber-taken")]
    assert await mirrored.value(file, "isize") == 5
    report = await mirrored.verify()
    assert report.mismatches == 0


async def test_repair_ends_when_the_cutover_was_committed_meanwhile(mirrored: Mirrored) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f")
    await mirrored.snapshot_and_follow()
    await mirrored.conn.execute("UPDATE t_inodes SET isize = 999 WHERE inumber = $1", mirrored.inumber(file))
    await state.set_phase(mirrored.conn, Phase.COMMITTED)
    with pytest.raises(StateError, match="committed meanwhile"):
        await mirrored.verify(repair=True)
    assert await mirrored.value(file, "isize") == 999


async def test_rival_that_goes_during_the_first_copy_frees_its_twin(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    first = await catalog.file(f"{HOME}/first")
    for number in range(12):
        await catalog.file(f"{HOME}/between{number}")
    second = await catalog.file(f"{HOME}/second")
    await catalog.execute(
        f"UPDATE {catalog.session.replica} r JOIN {catalog.session.replica} o ON o.fileid = %s"
        " SET r.sfn = o.sfn WHERE r.fileid = %s",
        first,
        second,
    )

    def rival_goes(step: str, entries: int, expected: int) -> None:
        gone.append(step)

    gone: list[str] = []
    await mirrored.copy_small_tables()
    await mirrored.conn.execute("DELETE FROM dome_bridge.moved_server")
    snapshot = mirrored.snapshotter(range_entries=4, workers=1, advance=rival_goes)
    mirror = await mirrored.session.open_mirror()
    try:
        async with mirror.source.snapshot():
            await mirror.apply_ids([1, *await _parents(mirrored), first])
    finally:
        await mirrored.session.close_mirror(mirror)
    await catalog.unlink(f"{HOME}/second")
    await snapshot.run()
    await mirrored.follow()
    assert await mirrored.quarantined(first) == []
    assert await mirrored.path(first) == f"{HOME}/first"


async def _parents(mirrored: Mirrored) -> list[int]:
    parts = HOME.strip("/").split("/")
    return [await mirrored.catalog.fileid("/" + "/".join(parts[: n + 1])) for n in range(len(parts))]


async def test_strange_checksum_key_does_not_drop_a_good_checksum(mirrored: Mirrored) -> None:
    file = await mirrored.catalog.file(f"{HOME}/f")
    xattr = '{"checksum.1": "x", "checksum.adler32": "0a1b2c3d"}'
    await mirrored.catalog.update(file, xattr=xattr, csumtype="", csumvalue="")
    await mirrored.snapshot_and_follow()
    assert await mirrored.conn.fetch(
        "SELECT itype, isum FROM t_inodes_checksum WHERE inumber = $1", mirrored.inumber(file)
    ) == [(1, "0a1b2c3d")]
    assert await mirrored.quarantined(file) == [("fact", "checksum-unsupported")]


async def test_long_checksum_names_that_begin_alike_do_not_stop_the_mirror(mirrored: Mirrored) -> None:
    long = "a" * 210
    xattr = f'{{"checksum.{long}1": "x", "checksum.{long}2": "y"}}'
    file = await mirrored.catalog.file(f"{HOME}/f", xattr=xattr)
    await mirrored.snapshot_and_follow()
    assert ("fact", "checksum-unsupported") in await mirrored.quarantined(file)


async def test_applier_lock_goes_with_the_connection_that_holds_it(mirrored: Mirrored) -> None:
    assert await target.try_applier_lock(mirrored.mirror.conn)
    pid = mirrored.mirror.conn.get_server_pid()
    await target.require_applier(mirrored.conn, pid)
    assert not await target.try_applier_lock(mirrored.conn)
    await target.release_applier_lock(mirrored.mirror.conn)
    with pytest.raises(Exception, match="applier lock is gone"):
        await target.require_applier(mirrored.conn, pid)


async def test_ranges_with_shifted_borders_are_counted_as_reached(mirrored: Mirrored) -> None:
    for lo, hi in ((1, 10), (11, 30), (15, 40)):
        await state.note_range(mirrored.conn, "entries", lo, hi, 5)
    assert (await state.step_progress(mirrored.conn, "entries")).reached == 40


async def test_init_after_an_abandoned_mirror_asks_for_a_new_database(mirrored: Mirrored) -> None:
    await mirrored.snapshot_and_follow()
    await complete(mirrored.config, abandon=True)
    await mirrored.conn.execute("DELETE FROM t_tags")
    with pytest.raises(SchemaError, match=r"/dpm already.*new Chimera database"):
        await initialise(mirrored.config)
    assert await mirrored.catalog.session.rows("SHOW TRIGGERS") == []
