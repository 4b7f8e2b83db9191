"""What is known of the spaces of a site before they are loaded: who uses how much, and what is wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import asyncpg

from dome_bridge.chimera import space_plan, spacemanager, stage, state, target
from dome_bridge.chimera.quota_plan import QuotaPlan, Used, plan_quotas
from dome_bridge.chimera.space_plan import Model, Space, SpacePlan, covering, plain_path
from dome_bridge.chimera.space_sums import LinkGroupSums, grown, sums
from dome_bridge.chimera.spacemanager import SQL
from dome_bridge.dpm import small_tables as dpm
from dome_bridge.exporter.directory_sizes import directory_sizes
from dome_bridge.exporter.session import Databases
from dome_bridge.exporter.spaces import free_by_link_group, plan_of_dpm, reservation_ids

FOREIGN_REMEDY = (
    "release such reservations and delete such files in dCache, or their rows, or use a new database"
)


class Content(NamedTuple):
    """Of a space, in Chimera. copies: bytes of all copies, as DPM counts; elsewhere: outside its pool."""

    files: int
    used: int
    copies: int
    elsewhere: int


@dataclass(frozen=True)
class Survey:
    """By token: `dpm_used` what DPM counts, `contents` what Chimera has, None before the first copy.

    free: bytes by link group, where all disk servers have said it. problem: why the space manager's
    database cannot be filled; empty if it can, or has no part in it.
    """

    plan: SpacePlan
    dpm_used: Mapping[str, int]
    contents: Mapping[str, Content] | None
    free: Mapping[str, int]
    quotas: QuotaPlan
    problem: str = ""
    overbooked: str = "refuse"
    link_groups: Mapping[str, LinkGroupSums] = field(default_factory=dict)

    def used(self, space: Space) -> int:
        if self.contents is not None:
            return self.contents[space.token].used
        return self.dpm_used.get(space.token, 0)

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.plan.model.value,
            "recommended": self.plan.recommended.value,
            "spaces": [self._space_as_json(space) for space in self.plan.spaces],
            "link_groups": [
                {"name": name, "free": self.free.get(name), **vars(found)}
                for name, found in sorted(self.link_groups.items())
            ],
            "quotas": [
                {"gid": each.gid, "limit": each.limit, "used": each.used, "token": each.space.name}
                for each in self.quotas.quotas
            ],
            "left_out": [
                {"name": each.name, "path": each.path, "reason": each.reason.value}
                for each in self.plan.left_out
            ],
        }

    def _space_as_json(self, space: Space) -> dict[str, Any]:
        return {
            "id": space.id,
            "name": space.name,
            "path": space.path,
            "pool": space.dpm_pool,
            "link_group": space.link_group,
            "unit": space.unit,
            "size": space.size,
            "used": self.used(space),
            "files": None if self.contents is None else self.contents[space.token].files,
            "used_in_dpm": self.dpm_used.get(space.token, 0),
        }


async def survey(databases: Databases, *, free: Mapping[str, int] | None = None, deep: bool = True) -> Survey:
    """free: bytes by dCache pool, as disk servers have said just now; None for what was noted before.

    deep: goes through all files in Chimera, once the first copy is complete.
    """
    async with target.told("looking at what quotatokens hold"):
        return await _Surveyor(databases).survey(free, deep=deep)


class _Surveyor:
    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._conn = databases.conn
        self._config = databases.config

    async def survey(self, free: Mapping[str, int] | None, *, deep: bool) -> Survey:
        plan, sizes = await self._plan()
        usage: tuple[Used, ...] = ()
        contents: dict[str, Content] | None = None
        if deep and await self._is_copied():
            usage, contents = await self._contents(plan)
        filesystems = await dpm.filesystems(self._databases.source)
        known = free_by_link_group(filesystems, await self._noted_free() if free is None else free)
        dpm_used = {space.token: counted(space, plan.spaces, sizes) for space in plan.spaces}
        found = Survey(
            plan,
            dpm_used,
            contents,
            known,
            plan_quotas(plan.spaces, usage),
            await self._problem(),
            self._config.spacemanager.overbooked,
        )
        return _with_sums(found) if plan.model is Model.SPACE_MANAGER else found

    async def _plan(self) -> tuple[SpacePlan, dict[str, int]]:
        source, layout = self._databases.source, self._databases.layout
        paths = [plain_path(token.path) for token in await dpm.quotatokens(source, layout)]
        wanted = [path for path in paths if not isinstance(path, space_plan.LeftOutReason)]
        sizes = await directory_sizes(source, layout.root_fileid, wanted)
        ids = await reservation_ids(self._conn) if self._config.spacemanager.enabled else {}
        return await plan_of_dpm(source, layout, self._config, directories=sizes, ids=ids), sizes

    async def _is_copied(self) -> bool:
        if not await state.exists(self._conn):
            return False
        return (await state.progress(self._conn)).snapshot_finished is not None

    async def _contents(self, plan: SpacePlan) -> tuple[tuple[Used, ...], dict[str, Content]]:
        sql = stage.fill("dome_bridge.chimera", "spaces.sql", await state.load_site(self._conn))
        usage = tuple(
            Used(row["gid"], row["path"], row["files"], int(row["used"] or 0))
            for row in await self._conn.fetch(sql["used_by_groups"])
        )
        places = [
            (row["path"], row["pool"], int(row["bytes"] or 0))
            for row in await self._conn.fetch(sql["used_by_places"])
        ]
        return usage, contents_of(plan, usage, places)

    async def _noted_free(self) -> dict[str, int]:
        if not await self._conn.fetchval("SELECT to_regclass('dome_bridge.pool_space') IS NOT NULL"):
            return {}
        rows = await self._conn.fetch("SELECT pool, free FROM dome_bridge.pool_space")
        return {row["pool"]: row["free"] for row in rows}

    async def _problem(self) -> str:
        if not self._config.spacemanager.enabled:
            return ""
        async with spacemanager.opened(self._config.spacemanager) as spaces:
            if sessions := await spacemanager.running(spaces):
                return f"dCache is connected to it ({sessions} sessions)"
            return await foreign_content(self._conn, spaces)


def counted(space: Space, spaces: Iterable[Space], sizes: Mapping[str, int]) -> int:
    """As DPM counts what a token uses: its directory without those of the topmost tokens below."""
    below = [other for other in spaces if covering(other.path, [space], strictly=True)]
    topmost = [each for each in below if not covering(each.path, below, strictly=True)]
    return max(0, sizes.get(space.path, 0) - sum(sizes.get(each.path, 0) for each in topmost))


def contents_of(
    plan: SpacePlan, usage: Iterable[Used], places: Iterable[tuple[str | None, str, int]]
) -> dict[str, Content]:
    """places: directory where a storage group begins, dCache pool, bytes of copies there."""
    pools = {group.dpm_pool: set(group.pools) for group in plan.pool_groups}
    files: defaultdict[str, int] = defaultdict(int)
    used: defaultdict[str, int] = defaultdict(int)
    copies: defaultdict[str, int] = defaultdict(int)
    elsewhere: defaultdict[str, int] = defaultdict(int)
    for found in usage:
        if found.path and (space := covering(found.path, plan.spaces)):
            files[space.token] += found.files
            used[space.token] += found.used
    for path, pool, size in places:
        if path and (space := covering(path, plan.spaces)):
            copies[space.token] += size
            elsewhere[space.token] += 0 if pool in pools[space.dpm_pool] else size
    tokens = [space.token for space in plan.spaces]
    return {token: Content(files[token], used[token], copies[token], elsewhere[token]) for token in tokens}


def _with_sums(found: Survey) -> Survey:
    names = dict.fromkeys(space.link_group for space in found.plan.spaces)
    link_groups = {}
    for name in names:
        mine = [space for space in found.plan.spaces if space.link_group == name]
        reserved = {number: grown(space.size, found.used(space)) for number, space in enumerate(mine)}
        link_groups[name] = sums(reserved, found.free.get(name))
    return Survey(**{**vars(found), "link_groups": link_groups})


async def foreign_content(conn: asyncpg.Connection, spaces: asyncpg.Connection) -> str:
    """What the space manager's database has that the bridge has not made, in words; empty if nothing."""
    ids: list[int] = []
    made: list[int] = []
    prefix = ""
    if await state.exists(conn):
        prefix = f"0000{(await state.load_site(conn)).instance_id}"
        ids, made = await _own_reservations(conn)
    if foreign := await spaces.fetch(SQL["foreign_reservations"], ids, made):
        first = foreign[0]
        name = f"id {first['id']} {first['description']!r}"
        return f"it has reservations that dome-bridge has not made ({name})"
    if prefix and (file := await spaces.fetchval(SQL["foreign_file"], prefix)):
        return f"it has files that DPM does not have ({file})"
    if not prefix and (file := await spaces.fetchval(SQL["any_file"])):
        return f"it has files already ({file})"
    return ""


async def _own_reservations(conn: asyncpg.Connection) -> tuple[list[int], list[int]]:
    """Their ids, and when they were made. None in a state that an earlier version has made."""
    if not await conn.fetchval("SELECT to_regclass('dome_bridge.space_reservation') IS NOT NULL"):
        return [], []
    rows = await conn.fetch("SELECT id, created_ms FROM dome_bridge.space_reservation")
    return [row["id"] for row in rows], [row["created_ms"] for row in rows]
