"""What the bridge remembers, in the schema `dome_bridge` of the Chimera database."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from dome_bridge.chimera import ids
from dome_bridge.chimera.schema import ChimeraLayout
from dome_bridge.errors import SchemaError, StateError
from dome_bridge.statements import load

_SQL = load("dome_bridge.chimera", "state.sql")

STATE_VERSION = 1


class Phase(enum.StrEnum):
    """Where in its life a site is."""

    UNINITIALISED = "uninitialised"
    SNAPSHOT = "snapshot"
    FOLLOWING = "following"
    FENCED = "fenced"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled-back"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Site:
    """What was fixed at initialisation and never changes."""

    instance_id: str
    inumber_offset: int
    root_fileid: int
    root_inumber: int
    root_link_base: int
    links_count_files: bool
    chimera_version: str
    timezone: str
    source: str

    def pnfsid(self, fileid: int) -> str:
        return ids.ROOT_PNFSID if fileid == self.root_fileid else ids.pnfsid(self.instance_id, fileid)

    def inumber(self, fileid: int) -> int:
        return self.root_inumber if fileid == self.root_fileid else fileid + self.inumber_offset


@dataclass(frozen=True)
class Progress:
    """How far the mirror is. heartbeat_at: the source server's clock, seconds since 1970."""

    phase: Phase
    phase_since: datetime
    snapshot_started: datetime | None
    snapshot_finished: datetime | None
    snapshot_top: int | None
    entries_expected: int | None
    heartbeat_at: int | None
    marker: str | None
    applied_at: datetime | None
    journal_applied: int


async def exists(conn: asyncpg.Connection) -> bool:
    return bool(await conn.fetchval(_SQL["exists"]))


async def plan_site(
    conn: asyncpg.Connection, layout: ChimeraLayout, *, root_fileid: int, timezone: str, source: str
) -> Site:
    """The facts of a new site; nothing is written."""
    sequence = await conn.fetchval(_SQL["inumber_sequence"])
    highest = await conn.fetchval(_SQL["highest_inumber"].format(sequence=sequence))
    base = await conn.fetchval(_SQL["root_link_base"], layout.root_inumber, layout.links_count_files)
    return Site(
        instance_id=ids.new_instance_id(),
        inumber_offset=ids.offset_beyond(highest),
        root_fileid=root_fileid,
        root_inumber=layout.root_inumber,
        root_link_base=base,
        links_count_files=layout.links_count_files,
        chimera_version=layout.version,
        timezone=timezone,
        source=source,
    )


async def create(conn: asyncpg.Connection, site: Site) -> None:
    """Makes the state tables and notes the site, in the caller's transaction."""
    try:
        await conn.execute(_SQL["create"])
    except asyncpg.InsufficientPrivilegeError as exc:
        raise SchemaError(
            "the account of [chimera] dsn may not create the schema dome_bridge: "
            "let the database owner run `GRANT CREATE ON DATABASE` for it"
        ) from exc
    await conn.execute(_SQL["upgrade"])
    await conn.execute(
        _SQL["insert_site"],
        STATE_VERSION,
        site.instance_id,
        site.inumber_offset,
        site.root_fileid,
        site.root_inumber,
        site.root_link_base,
        site.links_count_files,
        site.chimera_version,
        site.timezone,
        site.source,
    )
    await conn.execute(_SQL["insert_progress"])


async def is_upgraded(conn: asyncpg.Connection) -> bool:
    """Of a state that exists."""
    return bool(await conn.fetchval(_SQL["is_upgraded"]))


async def upgrade(conn: asyncpg.Connection) -> None:
    """Adds what an earlier version of the bridge did not make."""
    if await is_upgraded(conn):
        return
    async with conn.transaction():
        await conn.fetchval("SELECT pg_advisory_xact_lock(hashtext('dome_bridge.upgrade'))")
        await conn.execute(_SQL["upgrade"])


async def drop(conn: asyncpg.Connection) -> None:
    await conn.execute(_SQL["drop"])


async def load_site(conn: asyncpg.Connection) -> Site:
    """The site's facts; StateError before `init`."""
    if not await exists(conn):
        raise StateError("this Chimera database knows no bridge yet: run `dome-bridge init` first")
    row = await conn.fetchrow(_SQL["site"])
    if row is None or row["state_version"] != STATE_VERSION:
        found = None if row is None else row["state_version"]
        raise StateError(
            f"the schema dome_bridge has state version {found}, this program knows {STATE_VERSION}: "
            "use the version of dome-bridge that made it"
        )
    values = dict(row)
    del values["state_version"]
    return Site(**values)


def require_same(site: Site, *, layout: ChimeraLayout, root_fileid: int, timezone: str) -> None:
    """Refuses when a fact that was fixed at initialisation is another now."""
    changes = (
        ("Chimera's version by its columns", site.chimera_version, layout.version),
        ("Chimera's root inumber", site.root_inumber, layout.root_inumber),
        ("DPM's root fileid", site.root_fileid, root_fileid),
        ("[chimera] timezone", site.timezone, timezone),
    )
    for what, before, now in changes:
        if before != now:
            raise StateError(
                f"{what} was {before} at `dome-bridge init` and is {now} now: set it back, "
                "or start again: `dome-bridge complete --abandon`, a new Chimera database, `dome-bridge init`"
            )


async def progress(conn: asyncpg.Connection) -> Progress:
    row = await conn.fetchrow(_SQL["progress"])
    if row is None:
        raise StateError("dome_bridge.progress is empty: the state was damaged, start again with `init`")
    values = dict(row)
    return Progress(phase=Phase(values.pop("phase")), **values)


async def set_phase(conn: asyncpg.Connection, phase: Phase) -> None:
    await conn.execute(_SQL["set_phase"], phase.value)


async def note_applied(
    conn: asyncpg.Connection, changes: int, heartbeat_at: int | None, marker: str | None
) -> None:
    """In the transaction that applied them: so many journal rows, and what came in-band with them."""
    await conn.execute(_SQL["note_applied"], changes, heartbeat_at, marker)


async def note_changed(conn: asyncpg.Connection, fileids: Sequence[int]) -> None:
    """In the transaction that applied them: entries that a cutover under way has to look at again."""
    await conn.execute(_SQL["note_changed"], fileids)


async def note_capture_renewed(conn: asyncpg.Connection) -> None:
    """Triggers had to be made again: what was verified before says nothing any more."""
    await conn.execute(_SQL["capture_renewed"])


async def begin_snapshot(conn: asyncpg.Connection, top: int, expected: int) -> None:
    await conn.execute(_SQL["forget_ranges"])
    await conn.execute(_SQL["begin_snapshot"], top, expected)


async def finish_snapshot(conn: asyncpg.Connection) -> None:
    await conn.execute(_SQL["finish_snapshot"])


async def note_range(conn: asyncpg.Connection, step: str, lo: int, hi: int, entries: int) -> None:
    await conn.execute(_SQL["range_done"], step, lo, hi, entries)


@dataclass(frozen=True)
class StepProgress:
    """How far a step of the snapshot is: everything up to `reached` is copied."""

    reached: int
    entries: int


async def step_progress(conn: asyncpg.Connection, step: str) -> StepProgress:
    """Ranges may finish out of order; only the part without a gap counts as reached."""
    reached = entries = 0
    for row in await conn.fetch(_SQL["ranges_done"], step):
        if row["lo"] > reached + 1:
            break
        # Borders shift when entries vanish between two runs.
        reached = max(reached, row["hi"])
        entries += row["entries"]
    return StepProgress(reached, entries)


@dataclass(frozen=True)
class Agreement:
    """Entries in Chimera that are ours, the root included, and entries left out."""

    mirrored: int
    quarantined: int


async def agreement(conn: asyncpg.Connection, site: Site) -> Agreement:
    """Exact counts; a scan of the primary key's index."""
    prefix = f"0000{site.instance_id}"
    row = await conn.fetchrow(_SQL["agreement"], prefix + "0" * 16, prefix + "F" * 16)
    return Agreement(row["mirrored"] + 1, row["quarantined"])
