from __future__ import annotations
from collections.abc import AsyncIterator
import pytest
from tests.fixtures.databases import DpmSite
from tests.fixtures.mirror import *
from sandbox.dpm_statements import text

@pytest.fixture
async def mirrored(dpm_site: DpmSite, chimera_dsn: str) -> AsyncIterator[Mirrored]:
    async with open_mirrored(dpm_site, chimera_dsn) as m:
        yield m

async def test_verify_dir_broken(mirrored):
    c = mirrored.catalog
    d = await c.mkdir(HOME+"/d"); f = await c.file(HOME+"/d/f")
    await mirrored.snapshot_and_follow()
    await c.update(d, name=text(b"caf\xe9"))
    r = await mirrored.verify(range_entries=100)
    print(r)
    assert r.mismatches == 0

async def test_verify_dir_repaired(mirrored):
    c = mirrored.catalog
    d = await c.mkdir(HOME+"/d"); f = await c.file(HOME+"/d/f")
    await c.update(d, name=text(b"caf\xe9"))
    await mirrored.snapshot_and_follow()
    await c.update(d, name="good")
    r = await mirrored.verify(range_entries=100)
    print(r)
    assert r.mismatches == 0

async def test_verify_rival(mirrored):
    c = mirrored.catalog
    a = await c.file(HOME+"/a"); b = await c.file(HOME+"/b")
    await mirrored.snapshot_and_follow()
    s = c.session
    await s.execute(f"UPDATE {s.replica} r, {s.replica} o SET r.sfn = o.sfn WHERE r.fileid = {b} AND o.fileid = {a}")
    r = await mirrored.verify(range_entries=100)
    print(r)
    assert r.mismatches == 0

async def test_verify_fs_gone(mirrored):
    c = mirrored.catalog
    a = await c.file(HOME+"/a"); b = await c.file(HOME+"/b", place=1)
    await mirrored.snapshot_and_follow()
    await c.execute(f"DELETE FROM {c.filesystems} WHERE server = %s", PLACES[0].server)
    r = await mirrored.verify(range_entries=100)
    print(r)
    assert r.mismatches == 0
    await mirrored.follow()
    await mirrored.require_agreement()

async def test_fs_removed_other_case(mirrored):
    c = mirrored.catalog
    a = await c.file(HOME+"/a")
    await c.execute(f"UPDATE {c.session.replica} SET sfn = CONCAT('DISK01', SUBSTRING(sfn, 7))")
    await mirrored.snapshot_and_follow()
    await mirrored.require_agreement()
    assert await mirrored.pools(a)
    await c.execute(f"DELETE FROM {c.filesystems} WHERE server = %s", PLACES[0].server)
    await mirrored.follow()
    await mirrored.require_agreement()

async def test_dup_winner_gone(mirrored):
    c = mirrored.catalog
    a = await c.file(HOME+"/a"); b = await c.file(HOME+"/b")
    await c.execute(f"ALTER TABLE {c.session.metadata} DROP INDEX file_full_id, ADD INDEX file_full_id (parent_fileid, name)")
    await c.update(b, name="a")
    await mirrored.snapshot_and_follow()
    await mirrored.require_agreement()
    await c.update(a, name="z")
    await mirrored.follow()
    await mirrored.require_agreement()

async def test_refused_verify(mirrored):
    c = mirrored.catalog
    a = await c.file(HOME+"/a"); b = await c.file(HOME+"/b")
    await mirrored.snapshot_and_follow()
    await mirrored.conn.execute("ALTER TABLE t_dirs ADD CHECK (iname <> 'poison')")
    await c.move(HOME+"/a", HOME+"/poison")
    await c.move(HOME+"/b", HOME+"/c")
    await mirrored.follow()
    print(await mirrored.quarantined(a), await mirrored.path(b))
    r = await mirrored.verify(range_entries=100)
    print(r)
    assert r.mismatches == 0

async def test_type_change(mirrored):
    c = mirrored.catalog
    d = await c.mkdir(HOME+"/d"); f = await c.file(HOME+"/d/f"); g = await c.file(HOME+"/g")
    e = await c.mkdir(HOME+"/e")
    await c.replica(d); await c.replica(e)
    await mirrored.snapshot_and_follow()
    await c.update(d, filemode=0o100644)
    await c.update(e, filemode=0o100644)
    await c.update(g, filemode=0o40755)
    await mirrored.follow()
    await mirrored.require_agreement()
    await c.update(d, filemode=0o40755)
    await c.update(e, filemode=0o40755)
    await c.update(g, filemode=0o100644)
    await mirrored.follow()
    await mirrored.require_agreement()

async def test_fs_gone_while_snapshot_restarted(mirrored):
    c = mirrored.catalog
    a = await c.file(HOME+"/a")
    await mirrored.copy_small_tables()
    await c.execute(f"DELETE FROM {c.filesystems} WHERE server = %s", PLACES[0].server)
    await mirrored.snapshotter(range_entries=5, workers=1).run()
    await mirrored.follow()
    await mirrored.require_agreement()

async def test_long_xattr_key(mirrored):
    c = mirrored.catalog
    a = await c.file(HOME+"/a")
    await c.update(a, xattr='{"checksum.%s": "1"}' % ("x"*300))
    await mirrored.snapshot_and_follow()
    await mirrored.require_agreement()
    before = await mirrored.conn.fetchval("select first_seen from dome_bridge.quarantine")
    await c.update(a, gid=104)
    await mirrored.follow()
    assert before == await mirrored.conn.fetchval("select first_seen from dome_bridge.quarantine")

async def test_pool_rename_in_fs(mirrored):
    c = mirrored.catalog
    a = await c.file(HOME+"/a")
    await mirrored.snapshot_and_follow()
    await c.execute(f"INSERT INTO {c.session.dpm}.dpm_pool (poolname, defsize, s_type) VALUES ('other', 1, '-')")
    await c.execute(f"UPDATE {c.filesystems} SET poolname='other' WHERE server = %s", PLACES[0].server)
    await mirrored.follow()
    await mirrored.require_agreement()
    await c.execute(f"INSERT INTO {c.filesystems} (poolname, server, fs, status, weight) VALUES ('writer-main', %s, '/srv/fs1', 0, 1)", PLACES[0].server)
    await mirrored.follow()
    await mirrored.require_agreement()
    await c.execute(f"INSERT INTO {c.filesystems} (poolname, server, fs, status, weight) VALUES ('writer-main', %s, '/srv', 0, 1)", PLACES[0].server)
    await mirrored.follow()
    await mirrored.require_agreement()
    await c.execute(f"UPDATE {c.filesystems} SET server = UPPER(server)")
    await mirrored.follow()
    await mirrored.require_agreement()


async def test_taken_verify(mirrored):
    c = mirrored.catalog
    a = await c.mkdir("/lost+found"); b = await c.file("/lost+found/b")
    await mirrored.snapshot_and_follow()
    await mirrored.require_agreement()
    r = await mirrored.verify(range_entries=100)
    print(r)
    assert r.mismatches == 0
    r = await mirrored.verify(range_entries=1)
    assert r.mismatches == 0

async def test_dup_verify(mirrored):
    c = mirrored.catalog
    a = await c.file(HOME+"/a"); b = await c.file(HOME+"/b")
    await c.execute(f"ALTER TABLE {c.session.metadata} DROP INDEX file_full_id, ADD INDEX file_full_id (parent_fileid, name)")
    await c.update(b, name="a")
    await mirrored.snapshot_and_follow()
    await mirrored.require_agreement()
    r = await mirrored.verify(range_entries=100)
    assert r.mismatches == 0
    r = await mirrored.verify(range_entries=1)
    print(r)
    assert r.mismatches == 0

async def test_verify_token_pending(mirrored):
    c = mirrored.catalog
    a = await c.mkdir(HOME+"/a"); b = await c.mkdir(HOME+"/a/b")
    await mirrored.snapshot_and_follow()
    await c.token(HOME+"/a", "T")
    r = await mirrored.verify(range_entries=1)
    assert r.mismatches == 0
    await mirrored.follow()
    await mirrored.require_agreement()
    await c.move(HOME+"/a", HOME+"/x")
    r = await mirrored.verify(range_entries=100)
    assert r.mismatches == 0
    await c.move(HOME+"/x", HOME+"/y")
    r = await mirrored.verify(range_entries=1)
    assert r.mismatches == 0

async def test_verify_move_pending(mirrored):
    c = mirrored.catalog
    a = await c.mkdir(HOME+"/a"); b = await c.mkdir(HOME+"/a/b"); f = await c.file(HOME+"/a/b/f")
    await mirrored.snapshot_and_follow()
    n = await c.mkdir(HOME+"/n")
    await c.move(HOME+"/a", HOME+"/n/a")
    r = await mirrored.verify(range_entries=100)
    assert r.mismatches == 0, r
    m = await c.mkdir(HOME+"/m")
    await c.move(HOME+"/n", HOME+"/m/n")
    g = await c.file(HOME+"/m/n/g")
    r = await mirrored.verify(range_entries=1)
    assert r.mismatches == 0, r

async def test_verify_swap(mirrored):
    c = mirrored.catalog
    a = await c.file(HOME+"/a"); b = await c.file(HOME+"/b")
    await mirrored.snapshot_and_follow()
    await mirrored.follow()
    for rng in (1,100):
        await c.move(HOME+"/a", HOME+"/t")
        await c.move(HOME+"/b", HOME+"/a")
        await c.move(HOME+"/t", HOME+"/b")
        r = await mirrored.verify(range_entries=rng)
        assert r.mismatches == 0, r
