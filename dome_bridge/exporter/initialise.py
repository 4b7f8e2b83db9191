"""`init` and `complete`: what is set up before the first copy, and taken away at the end."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import asyncpg

from dome_bridge.chimera import state, target
from dome_bridge.chimera.state import Phase, Site
from dome_bridge.config import Config
from dome_bridge.dpm.source import Source
from dome_bridge.errors import SchemaError, StateError
from dome_bridge.exporter import capture, fence
from dome_bridge.exporter.session import Databases, admin_source, open_databases

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Initialised:
    """The site, and whether it had been initialised before."""

    site: Site
    already: bool


async def initialise(config: Config) -> Initialised:
    """Fixes offset and instance id, makes state, journal and triggers. Harmless when done before.

    The triggers come before the state: if they fail, nothing says that the site is initialised.
    What would refuse the state is looked at before the triggers: nobody would read their journal.
    """
    async with open_databases(config) as databases, admin_source(config) as admin:
        if await _existing(databases) is None:
            await _refuse_used(databases)
        made = await capture.install(
            admin, databases.layout, lock_wait_seconds=max(1, round(config.exporter.lock_wait_seconds))
        )
        existing = await _existing(databases)
        if existing is not None:
            if made:
                await _renewed(databases.conn)
            return Initialised(existing, already=not made)
        async with target.told("making the bridge's state"):
            return Initialised(await _make_state(databases), already=False)


async def _renewed(conn: asyncpg.Connection) -> None:
    logger.warning(
        "triggers were missing or outdated and were made again: changes may have been lost; "
        "run `dome-bridge verify --repair`"
    )
    async with target.told("noting the renewed capture"):
        await state.note_capture_renewed(conn)


async def _existing(databases: Databases) -> Site | None:
    if not await state.exists(databases.conn):
        return None
    site = await state.load_site(databases.conn)
    state.require_same(
        site,
        layout=databases.chimera,
        root_fileid=databases.layout.root_fileid,
        timezone=databases.config.chimera.timezone,
    )
    return site


async def _make_state(databases: Databases) -> Site:
    conn = databases.conn
    async with conn.transaction():
        await _refuse_used(databases)
        site = await state.plan_site(
            conn,
            databases.chimera,
            root_fileid=databases.layout.root_fileid,
            timezone=databases.config.chimera.timezone,
            source=f"{databases.source.address}/{databases.layout.cns_version}",
        )
        await state.create(conn, site)
    logger.info("initialised instance_id=%s offset=%d", site.instance_id, site.inumber_offset)
    return site


async def _refuse_used(databases: Databases) -> None:
    await _refuse_tagged_root(databases.conn, databases.chimera.root_inumber)
    await _refuse_occupied_root(databases)


async def _refuse_tagged_root(conn: asyncpg.Connection, root_inumber: int) -> None:
    names = [
        row["itagname"]
        for row in await conn.fetch("SELECT itagname FROM t_tags WHERE inumber = $1 ORDER BY 1", root_inumber)
    ]
    if names:
        raise SchemaError(
            f"Chimera's root has tags already ({', '.join(names)}): the bridge sets the tags of the whole "
            "tree; remove them with `chimera rmtag / NAME`"
        )


async def _refuse_occupied_root(databases: Databases) -> None:
    """What an abandoned mirror left has other ids: nothing of DPM could be mirrored beside it."""
    rows = await databases.source.fetch(
        f"SELECT name FROM {databases.source.cns}.Cns_file_metadata WHERE parent_fileid = %s",
        (databases.layout.root_fileid,),
    )
    # A lost+found is dCache's own: DPM's is left out as `name-taken`.
    wanted = {row[0].decode("utf-8", "replace") for row in rows} - {"lost+found"}
    taken = await databases.conn.fetchval(
        "SELECT min(iname) FROM t_dirs WHERE iparent = $1 AND iname = ANY($2)",
        databases.chimera.root_inumber,
        sorted(wanted),
    )
    if taken is not None:
        raise SchemaError(
            f"Chimera has a /{taken} already, as DPM has: mirror into a new Chimera database (drop it, "
            "`createdb`, `dcache database update`)"
        )


@dataclass(frozen=True)
class Removal:
    """What `complete` removes, and what comes of the fence, in words."""

    items: tuple[str, ...]
    fence: str


def removal(config: Config, *, abandon: bool = False) -> Removal:
    databases = f"{config.dpm.cns_db} and {config.dpm.dpm_db}"
    items = (
        f"the triggers dome_bridge_capture_* in {databases}",
        f"the table dome_bridge_journal in {config.dpm.cns_db}",
        "the schema dome_bridge (state, quarantine, copies of small tables) in the Chimera database",
    )
    if abandon:
        fence_triggers = f"the triggers dome_bridge_fence_* in {databases}, where a cutover has left them"
        return Removal((*items, fence_triggers), "DPM goes on, and nothing mirrors it any more.")
    return Removal(
        items,
        "DPM's catalog stays read-only for good: the triggers dome_bridge_fence_* are left standing, because "
        "dCache has the files now. There is no rollback afterwards.",
    )


async def planned_removal(config: Config, *, abandon: bool = False) -> Removal:
    """Raises StateError if `complete` would: before anybody is asked."""
    async with open_databases(config) as databases, admin_source(config) as admin:
        await _require_ended(databases, admin, abandon=abandon)
    return removal(config, abandon=abandon)


async def complete(config: Config, *, abandon: bool = False) -> None:
    """Removes triggers, journal and state. Without a commit only if the migration is abandoned.

    After a commit the fence stays: DPM's catalog is history then and must not change any more.
    """
    async with open_databases(config) as databases, admin_source(config) as admin:
        await _require_ended(databases, admin, abandon=abandon)
        if not await target.try_applier_lock(databases.conn):
            raise StateError("the daemon is still running: stop it first (`systemctl stop dome-bridge`)")
        if abandon:
            await fence.lift_fence(admin)
        await capture.remove(admin)
        async with target.told("removing the bridge's state"):
            await state.drop(databases.conn)


async def _require_ended(databases: Databases, admin: Source, *, abandon: bool) -> None:
    if not await state.exists(databases.conn):
        await _refuse_fence_of_nobody(databases, admin, abandon=abandon)
        return
    phase = (await state.progress(databases.conn)).phase
    if phase is not Phase.COMMITTED and not abandon:
        raise StateError(
            f"the site is in phase {phase}, not committed: finish the migration with `dome-bridge cutover`, "
            "or give it up with `dome-bridge complete --abandon`"
        )
    if phase is Phase.COMMITTED and abandon:
        raise StateError("the cutover is committed and cannot be abandoned: run `complete` without --abandon")


async def _refuse_fence_of_nobody(databases: Databases, admin: Source, *, abandon: bool) -> None:
    """After `complete` nothing tells any more that the site was committed, but that its fence stands."""
    found = await fence.fence_state(admin, databases.layout)
    if abandon and found is not fence.FenceState.ABSENT:
        raise StateError(
            f"a fence is {found} and no state says whose: the site may be dCache's already. If it is not, "
            "drop the triggers dome_bridge_fence_* by hand"
        )
