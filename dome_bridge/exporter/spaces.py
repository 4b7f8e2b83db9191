"""The plan of spaces for what DPM has, or for what the mirror has made of it; and which model is in force."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping

import asyncpg

from dome_bridge.chimera import space_plan, stage, state
from dome_bridge.chimera.space_plan import Model, SpacePlan, TokenRow, plan_spaces, text_of
from dome_bridge.chimera.state import Phase
from dome_bridge.config import Config
from dome_bridge.dpm import small_tables as dpm
from dome_bridge.dpm.schema import SourceLayout
from dome_bridge.dpm.source import Source
from dome_bridge.errors import StateError
from dome_bridge.exporter.mirror import Mirror
from dome_bridge.exporter.session import Session
from dome_bridge.exporter.small_tables import dcache_pool

logger = logging.getLogger(__name__)

ENABLED = 0


def model_of(config: Config) -> Model:
    return Model.SPACE_MANAGER if config.spacemanager.enabled else Model.STORAGE_UNITS


async def plan_of_dpm(
    source: Source,
    layout: SourceLayout,
    config: Config,
    *,
    directories: Collection[str] | None = None,
    vos: Iterable[str] = (),
    ids: Mapping[str, int] | None = None,
) -> SpacePlan:
    """For what stands in DPM's database now. directories: paths that exist, None if nobody has looked."""
    pools: defaultdict[str, list[str]] = defaultdict(list)
    for filesystem in await dpm.filesystems(source):
        pools[text_of(filesystem.poolname)].append(dcache_pool(filesystem))
    return plan_spaces(
        [TokenRow(*token) for token in await dpm.quotatokens(source, layout)],
        model=model_of(config),
        pools=pools,
        groups={group.gid: text_of(group.groupname) for group in await dpm.groups(source)},
        directories=directories,
        vos=vos,
        ids=ids or {},
    )


async def mirrored_plan(conn: asyncpg.Connection, sql: stage.Statements) -> SpacePlan:
    """The tokens whose directories stand in Chimera, as of the caller's snapshot.

    With a space manager those that have a reservation, whose id is in the tags.
    """
    pools: defaultdict[str, list[str]] = defaultdict(list)
    for row in await conn.fetch(sql["filesystems"]):
        pools[text_of(row["poolname"])].append(row["dcache_pool"])
    has_reservations = (await conn.fetchrow(sql["model"]))["reservations"]
    ids = await _standing_ids(conn, sql) if has_reservations else {}
    rows = [TokenRow(*row) for row in await conn.fetch(sql["tokens"])]
    return plan_spaces(
        [
            row._replace(t_space=int(row.t_space or 0))
            for row in rows
            if not has_reservations or text_of(row.s_token) in ids
        ],
        model=Model.SPACE_MANAGER if has_reservations else Model.STORAGE_UNITS,
        pools=pools,
        groups={row["gid"]: text_of(row["groupname"]) for row in await conn.fetch(sql["groups"])},
        directories={row["path"] for row in await conn.fetch(sql["origins"])},
        ids=ids,
    )


async def _standing_ids(conn: asyncpg.Connection, sql: stage.Statements) -> dict[str, int]:
    tagged = {row["id"] for row in await conn.fetch(sql["tagged"])}
    rows = await conn.fetch(sql["allotted"])
    return {text_of(row["s_token"]): row["id"] for row in rows if row["id"] in tagged}


async def require_mirrored(conn: asyncpg.Connection) -> None:
    """Refuses where Chimera is not the whole site yet, or not ours any more."""
    progress = await state.progress(conn)
    if progress.phase is Phase.COMMITTED:
        raise StateError(
            "the cutover is committed: spaces belong to dCache now, and are not written any more"
        )
    if progress.snapshot_finished is None:
        raise StateError(
            "the first copy is not complete: load spaces when `dome-bridge status` says following"
        )


async def reservation_ids(conn: asyncpg.Connection) -> dict[str, int]:
    """By s_token, as far as they are allotted; none before `init`."""
    if not await state.exists(conn) or not await conn.fetchval(
        "SELECT to_regclass('dome_bridge.space_reservation') IS NOT NULL"
    ):
        return {}
    rows = await conn.fetch("SELECT s_token, id FROM dome_bridge.space_reservation")
    return {text_of(row["s_token"]): row["id"] for row in rows}


async def settle_model(mirror: Mirror, config: Config) -> bool:
    """Sets the tags of the configured model; True if they were those of the other one.

    The caller holds the applier lock.
    """
    sql = stage.fill("dome_bridge.chimera", "spaces.sql", mirror.projection.site)
    model = await mirror.conn.fetchrow(sql["model"])
    if model["reservations"] == config.spacemanager.enabled:
        return False
    logger.info("directories are tagged anew model=%s", model_of(config))
    async with mirror.conn.transaction():
        await mirror.conn.execute(sql["choose_model"], config.spacemanager.enabled)
        await mirror.apply_tokens()
    return True


async def choose_model(session: Session) -> None:
    """Before the first copy: it sets the tags of the configured model itself."""
    sql = stage.fill("dome_bridge.chimera", "spaces.sql", session.site)
    await session.conn.execute(sql["choose_model"], session.config.spacemanager.enabled)


async def note_free(conn: asyncpg.Connection, free: Mapping[str, int]) -> None:
    """What disk servers have said is free, in bytes by dCache pool."""
    await conn.executemany(
        "INSERT INTO dome_bridge.pool_space (pool, free) VALUES ($1, $2) "
        "ON CONFLICT (pool) DO UPDATE SET free = excluded.free, asked_at = now()",
        list(free.items()),
    )


async def free_of_link_groups(conn: asyncpg.Connection, sql: stage.Statements) -> dict[str, int]:
    """In bytes, for the link groups of all of whose pools it is known."""
    free = {row["pool"]: row["free"] for row in await conn.fetch(sql["free"])}
    rows = [
        dpm.FileSystem(row["poolname"], row["server"], row["fs"], row["status"])
        for row in await conn.fetch(sql["filesystems"])
    ]
    return free_by_link_group(rows, free)


def free_by_link_group(filesystems: Iterable[dpm.FileSystem], free: Mapping[str, int]) -> dict[str, int]:
    """What is free on a file system of several DPM pools is divided: dCache would count it for each."""
    rows = list(filesystems)
    sharers = Counter((row.server.lower(), row.fs.rstrip(b"/")) for row in rows)
    known: defaultdict[str, int] = defaultdict(int)
    unknown: set[str] = set()
    for row in rows:
        group = space_plan.link_group_name(text_of(row.poolname))
        known[group] += 0
        if (row.status or 0) != ENABLED:
            continue
        found = free.get(dcache_pool(row))
        if found is None:
            unknown.add(group)
        else:
            known[group] += found // sharers[row.server.lower(), row.fs.rstrip(b"/")]
    return {group: total for group, total in known.items() if group not in unknown}
