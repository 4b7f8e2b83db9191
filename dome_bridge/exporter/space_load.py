"""Fills the space manager's database: reservations for quotatokens, a row for each file below them.

Millions of rows go in with the triggers off, in one transaction, and the sums are set once. From
then on the mirror notes what changes, so that loading again, behind the fence, costs only that.
Every load may be repeated: it replaces what the bridge has made, refuses what it has not, and a
kill leaves the state before it, or after it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from dome_bridge.chimera import spacemanager, stage, target
from dome_bridge.chimera.space_plan import Space, SpacePlan
from dome_bridge.chimera.space_sums import LinkGroupSums, Reserved, grown, shrunk, sums
from dome_bridge.chimera.spacemanager import SQL
from dome_bridge.errors import CutoverError, StateError
from dome_bridge.exporter.session import Session
from dome_bridge.exporter.space_survey import FOREIGN_REMEDY, foreign_content
from dome_bridge.exporter.spaces import free_of_link_groups, mirrored_plan, require_mirrored

logger = logging.getLogger(__name__)

CHUNKS_AHEAD = 64
LARGEST_SUM = 2**62
"""Bytes; what a rotten catalog says beyond that fits into no column of the space manager."""

_COLUMNS = ("vogroup", "spacereservationid", "sizeinbytes", "creationtime", "pnfsid", "state")


@dataclass
class Loaded:
    """What one load did. is_whole: everything was written anew, not only what had changed.

    rows: files written or taken away. reservations: as they stand now, by id.
    """

    is_whole: bool = False
    rows: int = 0
    seconds: float = 0.0
    reservations: dict[int, Reserved] = field(default_factory=dict)
    link_groups: dict[str, LinkGroupSums] = field(default_factory=dict)


async def load_spaces(
    session: Session, *, is_fenced: bool = False, clock: Callable[[], float] = time.monotonic
) -> Loaded:
    """Makes the space manager's database agree with Chimera as the mirror has left it.

    is_fenced: overbooked reservations are written as they are, since a refusal would help nobody then.
    Raises StateError if the database holds what is not ours, or is in use; CutoverError if reservations
    are overbooked and `[spacemanager] overbooked` says so.
    """
    begun = clock()
    async with (
        spacemanager.opened(session.config.spacemanager) as spaces,
        target.told("filling the space manager's database"),
    ):
        loaded = await _Loader(session, spaces, is_fenced=is_fenced).run()
    loaded.seconds = clock() - begun
    logger.info(
        "spaces loaded whole=%s reservations=%d rows=%d seconds=%.1f",
        loaded.is_whole,
        len(loaded.reservations),
        loaded.rows,
        loaded.seconds,
    )
    return loaded


class _Loader:
    """One run, with a connection to each of the two databases."""

    def __init__(self, session: Session, spaces: asyncpg.Connection, *, is_fenced: bool) -> None:
        self._site = session.site
        self._shrinks = session.config.spacemanager.overbooked == "shrink"
        self._is_fenced = is_fenced
        self._conn = session.conn
        self._spaces = spaces
        self._sql = stage.fill("dome_bridge.chimera", "spaces.sql", session.site)
        self._made_link_groups: list[str] = []

    async def run(self) -> Loaded:
        await self._require_tags()
        if sessions := await spacemanager.running(self._spaces):
            raise StateError(
                f"dCache is connected to the space manager's database ({sessions} sessions): stop its "
                "spacemanager service until the cutover is committed"
            )
        async with self._spaces.transaction():
            await spacemanager.take(self._spaces)
            await self._refuse_foreign()
            before = await self._used_as_left()
            async with self._chimera_at_rest(anew=before is None) as last_change:
                loaded = await self._write(before)
            await spacemanager.give_back(self._spaces)
        await self._note(loaded, last_change)
        if loaded.is_whole:
            await self._spaces.execute("ANALYZE srmspacefile")
        return loaded

    async def _require_tags(self) -> None:
        await require_mirrored(self._conn)
        model = await self._conn.fetchrow(self._sql["model"])
        if not model["reservations"]:
            raise StateError(
                "directories carry no ids of reservations yet: [spacemanager] enabled was false when the "
                "daemon was started; restart it, or run `dome-bridge sync --once` if there is none"
            )

    async def _refuse_foreign(self) -> None:
        if problem := await foreign_content(self._conn, self._spaces):
            raise StateError(f"the space manager's database: {problem}: {FOREIGN_REMEDY}")

    async def _used_as_left(self) -> dict[int, int] | None:
        """What the last load has left, by reservation; None: everything is to be written anew."""
        model = await self._conn.fetchrow(self._sql["model"])
        if not model["is_noting"] or model["loaded_at"] is None:
            return None
        noted = {
            row["id"]: row["loaded_used"]
            for row in await self._conn.fetch(self._sql["allotted"])
            if row["loaded_used"] is not None
        }
        rows = await self._spaces.fetch(SQL["reservations"])
        if any(row["state"] != 0 or row["allocated"] != 0 for row in rows):
            return None
        found = {row["id"]: row["used"] for row in rows}
        return found if found == noted and LARGEST_SUM not in found.values() else None

    @asynccontextmanager
    async def _chimera_at_rest(self, *, anew: bool) -> AsyncIterator[int]:
        """A snapshot of Chimera between two batches, and the last change that it shows."""
        transaction = self._conn.transaction(isolation="repeatable_read")
        async with target.closed_gate(self._conn):
            if anew:
                await self._begin_noting()
            await transaction.start()
            try:
                last_change = int(await self._conn.fetchval(self._sql["last_change"]))
            except BaseException:
                await transaction.rollback()
                raise
        try:
            await self._conn.execute(self._sql["settings"])
            yield last_change
        finally:
            if not self._conn.is_closed():
                await transaction.rollback()

    async def _begin_noting(self) -> None:
        async with self._conn.transaction():
            await self._conn.execute(self._sql["begin_noting"])
            await self._conn.execute(self._sql["forget_all_changes"])

    async def _write(self, before: Mapping[int, int] | None) -> Loaded:
        plan = await mirrored_plan(self._conn, self._sql)
        loaded = Loaded(is_whole=before is None)
        await self._spaces.execute(SQL["enumerations"])
        if before is None:
            await self._spaces.execute(SQL["forget_files"])
            await self._spaces.execute(SQL["forget_reservations"])
        await self._put_reservations(plan)
        if before is None:
            used = await self._put_all_files(plan, loaded)
        else:
            used = await self._put_changed_files(plan, before, loaded)
        await self._forget_others(plan)
        await self._put_sums(plan, used, loaded)
        await self._advance_sequence()
        return loaded

    async def _put_reservations(self, plan: SpacePlan) -> None:
        made = {row["id"]: row["created_ms"] for row in await self._conn.fetch(self._sql["allotted"])}
        for name in dict.fromkeys(space.link_group for space in plan.spaces):
            if await self._spaces.execute(SQL["put_link_group"], name) == "INSERT 0 1":
                self._made_link_groups.append(name)
        for space in plan.spaces:
            assert space.id is not None
            await self._spaces.execute(
                SQL["put_reservation"],
                space.id,
                space.owner,
                _within(space.size),
                made[space.id],
                space.name or space.path,
                space.link_group,
            )

    async def _put_all_files(self, plan: SpacePlan, loaded: Loaded) -> dict[int, int]:
        status = await self._copy(self._sql["all_files"], plan.spaces, "srmspacefile")
        loaded.rows = int(status.rsplit(" ", 1)[-1])
        return {row["id"]: int(row["used"]) for row in await self._spaces.fetch(SQL["files"])}

    async def _put_changed_files(
        self, plan: SpacePlan, before: Mapping[int, int], loaded: Loaded
    ) -> dict[int, int]:
        await self._spaces.execute(SQL["change_table"])
        await self._copy(self._sql["changed_files"], plan.spaces, "file_change")
        await self._spaces.execute(SQL["analyze_changes"])
        used = dict(before)
        for name in ("delete_changed", "update_changed", "insert_changed"):
            for row in await self._spaces.fetch(SQL[name]):
                used[row["id"]] = used.get(row["id"], 0) + int(row["change"])
                loaded.rows += row["files"]
        return used

    async def _copy(self, query: str, spaces: Sequence[Space], table: str) -> str:
        """Rows of Chimera into a table of the space manager, without looking at them."""
        chunks: asyncio.Queue[bytes | None] = asyncio.Queue(CHUNKS_AHEAD)
        ids, owners = [space.id for space in spaces], [space.owner for space in spaces]

        async def read() -> None:
            await self._conn.copy_from_query(query, ids, owners, output=chunks.put, format="text")
            await chunks.put(None)

        async def received() -> AsyncIterator[bytes]:
            while (chunk := await chunks.get()) is not None:
                yield chunk

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(read())
                writing = group.create_task(
                    self._spaces.copy_to_table(
                        table, source=received(), columns=list(_COLUMNS), format="text"
                    )
                )
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return str(writing.result())

    async def _forget_others(self, plan: SpacePlan) -> None:
        await self._spaces.execute(SQL["forget_reservations_but"], [space.id for space in plan.spaces])
        used = {space.link_group for space in plan.spaces}
        noted = [row["name"] for row in await self._conn.fetch(self._sql["link_groups"])]
        await self._spaces.execute(SQL["forget_link_groups"], [name for name in noted if name not in used])

    async def _put_sums(self, plan: SpacePlan, used: Mapping[int, int], loaded: Loaded) -> None:
        free = await free_of_link_groups(self._conn, self._sql)
        for name in dict.fromkeys(space.link_group for space in plan.spaces):
            mine = {
                space.id: grown(_within(space.size), _within(used.get(space.id, 0)))
                for space in plan.spaces
                if space.link_group == name and space.id is not None
            }
            mine = self._fitted(name, mine, free.get(name))
            total = sums(mine, free.get(name))
            loaded.reservations |= mine
            loaded.link_groups[name] = total
            for number, reserved in mine.items():
                await self._spaces.execute(SQL["set_reservation"], number, reserved.size, reserved.used)
            available, held = (_within(total.available), _within(total.reserved))
            await self._spaces.execute(SQL["set_link_group"], name, available, held)

    def _fitted(self, name: str, mine: Mapping[int, Reserved], free: int | None) -> dict[int, Reserved]:
        lacking = sums(mine, free).lacking
        if not lacking or free is None:
            return dict(mine)
        if self._shrinks:
            logger.warning("reservations are made smaller link_group=%s lacking_bytes=%d", name, lacking)
            return shrunk(mine, free)
        if not self._is_fenced:
            raise CutoverError(
                f"link group {name}: the unused parts of its reservations are {lacking} bytes more than what "
                'is free: lower quotas with `quotatokenmod`, or set [spacemanager] overbooked = "shrink"'
            )
        logger.warning("reservations are overbooked link_group=%s lacking_bytes=%d", name, lacking)
        return dict(mine)

    async def _advance_sequence(self) -> None:
        if sequence := await self._spaces.fetchval(SQL["sequence"]):
            await self._spaces.fetchval(SQL["advance_sequence"].replace("{sequence}", sequence))

    async def _note(self, loaded: Loaded, last_change: int) -> None:
        """After the commit there: a kill in between only makes the next load do this one's work again."""
        numbers = list(loaded.reservations)
        async with self._conn.transaction():
            await self._conn.execute(
                self._sql["note_used"], numbers, [loaded.reservations[number].used for number in numbers]
            )
            for name in self._made_link_groups:
                await self._conn.execute(self._sql["note_link_group"], name)
            await self._conn.execute(self._sql["forget_changes"], last_change)
            await self._conn.execute(self._sql["note_loaded"])


def _within(number: int) -> int:
    return max(-LARGEST_SUM, min(LARGEST_SUM, number))
