"""The space manager's database: filled in bulk, it is what row-by-row insertion would have made."""

from __future__ import annotations

import json
import random
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from dome_bridge.chimera import spacemanager
from dome_bridge.config import SpacemanagerConfig
from dome_bridge.errors import CutoverError, StateError
from dome_bridge.exporter.artifacts import Context
from dome_bridge.exporter.space_compare import compare_spaces
from dome_bridge.exporter.space_cutover import spaces_gate, spaces_writer
from dome_bridge.exporter.spaces import note_free, settle_model
from sandbox.chimera_schema import create_spacemanager
from sandbox.servers import PostgresServer
from tests.fixtures.databases import unique_name
from tests.fixtures.mirror import HOME, POOLS, Catalog, Mirrored
from tests.fixtures.reservations import (
    FREE,
    SpaceSite,
    contents,
    deepest_above,
    insert_row_by_row,
    open_spaces,
)

TRIGGERS = "SELECT bool_and(tgenabled = 'O') FROM pg_trigger WHERE NOT tgisinternal"


@pytest.fixture
async def spaces(mirrored: Mirrored, spacemanager_dsn: str) -> AsyncIterator[SpaceSite]:
    async with open_spaces(mirrored, spacemanager_dsn) as opened:
        yield opened


@pytest.fixture
async def row_by_row(postgres: PostgresServer) -> AsyncIterator[asyncpg.Connection]:
    name = unique_name("spacemanager")
    conn = await asyncpg.connect(await create_spacemanager(postgres, name))
    yield conn
    await conn.close()
    await postgres.drop_database(name)


class _RandomSite:
    """Random changes of directories, tokens and files below one directory."""

    def __init__(self, catalog: Catalog, seed: int) -> None:
        self._catalog = catalog
        self._random = random.Random(seed)
        self._folders = [f"{HOME}/r"]
        self._files: list[str] = []
        self._count = 0

    async def begin(self) -> None:
        await self._catalog.mkdir(self._folders[0])

    async def change(self, times: int) -> None:
        steps = (self._folder, self._file, self._file, self._file, self._token, self._remove, self._move)
        for _ in range(times):
            self._count += 1
            await self._random.choice(steps)()

    async def _folder(self) -> None:
        path = f"{self._random.choice(self._folders)}/d{self._count}"
        await self._catalog.mkdir(path)
        self._folders.append(path)

    async def _file(self) -> None:
        path = f"{self._random.choice(self._folders)}/f{self._count}"
        place = self._random.choice((0, 1, None))
        await self._catalog.file(path, size=self._random.choice((0, 1, 10**6, 10**10)), place=place)
        self._files.append(path)

    async def _token(self) -> None:
        tokens = self._catalog.tokens
        path = self._random.choice([*self._folders, f"{HOME}/nowhere"])
        await self._catalog.execute(f"DELETE FROM {tokens} WHERE path = %s", path)
        if self._random.random() < 0.7:
            await self._catalog.token(path, f"T{self._count}")
            size = self._random.choice((0, 10**7, 10**12))
            await self._catalog.execute(f"UPDATE {tokens} SET t_space = %s WHERE path = %s", size, path)

    async def _remove(self) -> None:
        if self._files:
            await self._catalog.unlink(self._files.pop(self._random.randrange(len(self._files))))

    async def _move(self) -> None:
        source, target = self._random.choice(self._folders), self._random.choice(self._folders)
        if source == self._folders[0] or target == source or target.startswith(f"{source}/"):
            return
        moved = f"{target}/m{self._count}"
        await self._catalog.move(source, moved)
        for paths in (self._folders, self._files):
            paths[:] = [
                moved + path.removeprefix(source) if f"{path}/".startswith(f"{source}/") else path
                for path in paths
            ]


async def tagged_and_expected(spaces: SpaceSite) -> tuple[dict[str, str], dict[str, str]]:
    """WriteToken of each directory, and the id of the deepest token whose path covers it."""
    conn = spaces.mirrored.conn
    rows = await conn.fetch(
        "SELECT inumber2path(t.inumber), convert_from(c.ivalue, 'UTF8') FROM t_tags t"
        " JOIN t_tags_inodes c USING (itagid) WHERE t.itagname = 'WriteToken'"
    )
    tokens = await conn.fetch(
        "SELECT convert_from(t.path, 'UTF8') AS path, r.id FROM dome_bridge.dpm_token t"
        " JOIN dome_bridge.space_reservation r USING (s_token)"
        " WHERE path2inumber(1, ltrim(convert_from(t.path, 'UTF8'), '/')) IS NOT NULL"
    )
    ids = {row["path"]: str(row["id"]) for row in tokens}
    folders = await conn.fetch("SELECT inumber2path(inumber) FROM t_inodes WHERE itype = 16384")
    deepest = {row[0]: deepest_above(ids, row[0]) for row in folders}
    return dict(tuple(row) for row in rows), {path: ids[top] for path, top in deepest.items() if top}


@pytest.mark.parametrize("seed", [1, 2])
async def test_bulk_load_and_deltas_are_equal_to_row_by_row_insertion(
    spaces: SpaceSite, row_by_row: asyncpg.Connection, seed: int
) -> None:
    site = _RandomSite(spaces.mirrored.catalog, seed)
    await site.begin()
    await site.change(25)
    await spaces.mirrored.snapshot_and_follow()
    is_whole = [(await spaces.load()).is_whole]
    for _ in range(3):
        await site.change(14)
        await spaces.mirrored.follow()
        is_whole.append((await spaces.load()).is_whole)
        await insert_row_by_row(spaces, row_by_row)
        assert await spaces.contents() == await contents(row_by_row)
        assert await compare_spaces(spaces.session) == []
        tagged, expected = await tagged_and_expected(spaces)
        assert tagged == expected
    assert is_whole == [True, False, False, False]
    assert await spaces.conn.fetchval(TRIGGERS)
    assert (await spaces.mirrored.verify()).mismatches == 0


async def test_a_site_with_everything_that_can_be_odd(
    spaces: SpaceSite, caplog: pytest.LogCaptureFixture
) -> None:
    """One database for many situations, as each costs a second."""
    mirrored, catalog = spaces.mirrored, spaces.mirrored.catalog
    for path in ("a", "a/inner", "b"):
        await catalog.mkdir(f"{HOME}/{path}")
    await catalog.token(f"{HOME}/a", "OUTER")
    await catalog.token(f"{HOME}/a/inner", "INNER")
    await catalog.token(f"{HOME}/missing", "MISSING")
    await catalog.token(None, "LEGACY")
    await catalog.token("/", "ROOT")
    await catalog.file(f"{HOME}/a/two copies", size=10)
    await catalog.replica(await catalog.fileid(f"{HOME}/a/two copies"), 1)
    await catalog.file(f"{HOME}/a/no copy", filesize=10, place=None)
    await catalog.file(f"{HOME}/a/inner/file", size=7)
    await catalog.file(f"{HOME}/b/outside", size=1000)
    await mirrored.snapshot_and_follow()

    # nested tokens, missing directories, files in the quarantine, copies count once
    loaded = await spaces.load()
    assert (loaded.is_whole, loaded.rows) == (True, 2)
    assert await spaces.used() == {"OUTER": 10, "INNER": 7}
    assert [row[0] for row in await spaces.conn.fetch("SELECT name FROM srmaccesslatency ORDER BY id")] == [
        "NEARLINE",
        "ONLINE",
    ]
    next_id = await spaces.conn.fetchval("SELECT nextval('srmspace_id_seq')")
    assert next_id > max(loaded.reservations)

    # nothing has changed
    again = await spaces.load()
    assert (again.is_whole, again.rows) == (False, 0)

    # a file moves to another token, one grows, one comes out of the quarantine, one goes
    await catalog.move(f"{HOME}/a/two copies", f"{HOME}/a/inner/moved")
    await catalog.update(await catalog.fileid(f"{HOME}/a/inner/file"), filesize=8)
    await catalog.replica(await catalog.fileid(f"{HOME}/a/no copy"))
    await mirrored.follow()
    assert await compare_spaces(spaces.session) != []
    assert (await spaces.load()).rows == 3
    assert await spaces.used() == {"OUTER": 10, "INNER": 18}
    assert await compare_spaces(spaces.session) == []

    # a kill after the other database has committed, before it was noted here
    before = await spaces.contents()
    await mirrored.conn.execute("UPDATE dome_bridge.space_model SET loaded_at = NULL")
    assert (await spaces.load()).is_whole
    assert await spaces.contents() == before

    # a kill in the middle of it
    await catalog.unlink(f"{HOME}/a/inner/moved")
    await mirrored.follow()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spacemanager, "give_back", killed)
        with pytest.raises(RuntimeError, match="killed"):
            await spaces.load()
    assert await spaces.contents() == before
    assert await spaces.conn.fetchval(TRIGGERS)
    assert (await spaces.load()).rows == 1
    assert await compare_spaces(spaces.session) == []

    # somebody has touched a sum: everything is written anew
    await spaces.conn.execute(
        "ALTER TABLE srmspace DISABLE TRIGGER USER; UPDATE srmspace SET usedspaceinbytes = 1;"
        " ALTER TABLE srmspace ENABLE TRIGGER USER"
    )
    assert len(await compare_spaces(spaces.session)) >= 2
    assert (await spaces.load()).is_whole
    assert await compare_spaces(spaces.session) == []

    # a token comes, another goes; the link group of its pool stays
    await catalog.execute(f"DELETE FROM {catalog.tokens} WHERE u_token = 'INNER'")
    await catalog.token(f"{HOME}/b", "B")
    await mirrored.follow()
    await spaces.load()
    assert await spaces.used() == {"OUTER": 18, "B": 1000}
    assert await compare_spaces(spaces.session) == []

    await require_refusals(spaces, caplog)


async def killed(conn: asyncpg.Connection) -> None:
    raise RuntimeError("killed")


async def require_refusals(spaces: SpaceSite, caplog: pytest.LogCaptureFixture) -> None:
    # overbooked: refused, but for a cutover that is behind its fence
    await note_free(spaces.session.conn, dict.fromkeys(POOLS, 10**6))
    with pytest.raises(CutoverError, match="more than what is free"):
        await spaces.load()
    fenced = await spaces.load(is_fenced=True)
    assert fenced.link_groups["writer-main-linkgroup"].lacking > 0
    assert "overbooked" in caplog.text
    await note_free(spaces.session.conn, dict.fromkeys(POOLS, FREE))
    await spaces.load()

    # what dCache has made stays
    await spaces.conn.execute(FOREIGN_SPACE)
    with pytest.raises(StateError, match="reservations that dome-bridge has not made"):
        await spaces.load()
    await spaces.conn.execute("DELETE FROM srmspace WHERE id = 4711")
    await spaces.conn.execute(
        "INSERT INTO srmspacefile (spacereservationid, sizeinbytes, creationtime, pnfsid, state)"
        " SELECT min(id), 1, 0, '0000' || repeat('F', 32), 2 FROM srmspace"
    )
    with pytest.raises(StateError, match="files that DPM does not have"):
        await spaces.load()
    await spaces.conn.execute("DELETE FROM srmspacefile WHERE pnfsid LIKE '0000FFFF%'")
    await spaces.load()

    # and so does everything after the commit
    await spaces.mirrored.conn.execute("UPDATE dome_bridge.progress SET phase = 'committed'")
    with pytest.raises(StateError, match="belong to dCache"):
        await spaces.load()


FOREIGN_SPACE = """
INSERT INTO srmspace (id, linkgroupid, sizeinbytes, creationtime, state, usedspaceinbytes,
    allocatedspaceinbytes)
SELECT 4711, min(id), 1, 0, 0, 0, 0 FROM srmlinkgroup"""


async def test_shrunk_reservations_fit_into_what_is_free(
    mirrored: Mirrored, spacemanager_dsn: str, tmp_path: Path
) -> None:
    async with open_spaces(mirrored, spacemanager_dsn, overbooked="shrink") as spaces:
        for name in "ab":
            await mirrored.catalog.mkdir(f"{HOME}/{name}")
            await mirrored.catalog.token(f"{HOME}/{name}", name)
        await mirrored.catalog.file(f"{HOME}/a/file", size=5000)
        await mirrored.snapshot_and_follow()
        await note_free(spaces.session.conn, dict.fromkeys(POOLS, 10**6))
        config = spaces.session.config
        gate = await spaces_gate(config)()
        assert (gate.ok, gate.value) == (False, "nothing is loaded yet")
        loaded = await spaces.load()
        total = loaded.link_groups["writer-main-linkgroup"]
        assert total.lacking == 0
        assert 0 <= total.available < 2
        assert await spaces.used() == {"a": 5000, "b": 0}
        # what a cutover asks, and what it does behind the fence
        await mirrored.catalog.file(f"{HOME}/b/late", size=1)
        await mirrored.follow()
        gate = await spaces_gate(config)()
        # The directory counts as well if the mirror looks at it for the new file.
        assert gate.ok
        assert re.fullmatch("reservations are loaded, [12] changes wait", gate.value)
        context = Context(mirrored.conn, spaces.session.site, 1, tmp_path)
        assert await spaces_writer(config)(context) == ["spaces.json"]
        written = json.loads((tmp_path / "spaces.json").read_text())
        assert (written["whole"], written["rows"]) == (False, 1)
        assert await spaces.used() == {"a": 5000, "b": 1}
        # a running space manager is not disturbed
        dcache = await asyncpg.connect(
            spacemanager_dsn, server_settings={"application_name": "PostgreSQL JDBC Driver"}
        )
        with pytest.raises(StateError, match="dCache is connected"):
            await spaces.load()
        await dcache.close()
        # the other model: no reservation is named any more
        settings = replace(config, spacemanager=SpacemanagerConfig())
        assert "other model" in (await spaces_gate(settings)()).value
        assert await settle_model(mirrored.mirror, settings)
        assert not await settle_model(mirrored.mirror, settings)
        assert await mirrored.conn.fetchval("SELECT count(*) FROM t_tags WHERE itagname = 'WriteToken'") == 0
        with pytest.raises(StateError, match="carry no ids"):
            await spaces.load()
        assert (await spaces_gate(settings)()).ok
        await spaces_writer(settings)(context)
        assert set(json.loads((tmp_path / "spaces.json").read_text())) == {"quotas", "foreign", "lost"}
        await mirrored.require_agreement()
