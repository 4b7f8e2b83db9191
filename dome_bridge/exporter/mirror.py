"""Applies the present state of DPM entries to Chimera: for a set of fileids, or for a range.

One call is one PostgreSQL transaction, complete in itself: afterwards every entry of the
scope, and everything below it, is either mirrored or in the quarantine, link counts, tags
and sequences included. Repeating a call changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import asyncpg

from dome_bridge.chimera import stage, target
from dome_bridge.chimera.state import Site
from dome_bridge.dpm import read
from dome_bridge.dpm.schema import SourceLayout
from dome_bridge.dpm.source import Source
from dome_bridge.errors import TargetError
from dome_bridge.exporter.projection import Projection
from dome_bridge.staging import MAX_FILEID

logger = logging.getLogger(__name__)

SEQUENCE_HEADROOM = 10**9
"""The inumber sequence is kept at least half as far ahead: what dCache makes before its time must
not take numbers that DPM's next entries will need."""

APPLY_CHUNK = 50_000
"""Entries in one transaction at the most: a directory that comes back may awaken millions."""

DEADLOCK_TRIES = 5

UNFIT = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.CardinalityViolationError,
    asyncpg.ProgramLimitExceededError,
)
"""What PostgreSQL says to rows that it will not take, in whatever order they come."""

NOTHING_REFUSED: Mapping[int, str] = MappingProxyType({})

AtCommit = Callable[[asyncpg.Connection], Awaitable[None]]
"""Runs inside the applying transaction: what is noted there is true exactly if the batch is."""

_CHANGES = {
    "update_root": ("t_inodes", "update"),
    "unlink_names": ("t_dirs", "delete"),
    "unlink_gone_names": ("t_dirs", "delete"),
    "link_names": ("t_dirs", "insert"),
    "delete_locations": ("t_locationinfo", "delete"),
    "upsert_locations": ("t_locationinfo", "upsert"),
    "delete_checksums": ("t_inodes_checksum", "delete"),
    "upsert_checksums": ("t_inodes_checksum", "upsert"),
    "delete_targets": ("t_inodes_data", "delete"),
    "upsert_targets": ("t_inodes_data", "upsert"),
    "delete_acls": ("t_acl", "delete"),
    "upsert_acls": ("t_acl", "upsert"),
    "delete_tags": ("t_tags", "delete"),
    "upsert_tags": ("t_tags", "upsert"),
    "delete_inodes": ("t_inodes", "delete"),
    "insert_inodes": ("t_inodes", "insert"),
    "insert_names": ("t_dirs", "insert"),
    "insert_locations": ("t_locationinfo", "insert"),
    "insert_checksums": ("t_inodes_checksum", "insert"),
}
"""Which statement counts as which change of which table, for the metrics."""


@dataclass
class Applied:
    """What one call did. changes: rows by (table, operation)."""

    changes: dict[tuple[str, str], int] = field(default_factory=dict)
    mirrored: int = 0

    def count(self, table: str, operation: str, rows: int) -> None:
        if rows:
            self.changes[table, operation] = self.changes.get((table, operation), 0) + rows

    def add(self, other: Applied) -> None:
        for (table, operation), rows in other.changes.items():
            self.count(table, operation, rows)
        self.mirrored += other.mirrored


class _WiderScopeError(Exception):
    """Other entries have to be decided together with these: begin again with them."""

    def __init__(self, fileids: Iterable[int]) -> None:
        super().__init__("scope too narrow")
        self.fileids = set(fileids)


class Mirror:
    """Applies projections. Not for concurrent use: each worker has its own."""

    def __init__(self, projection: Projection, sequence: str) -> None:
        self._projection = projection
        self.told: Callable[[], None] = lambda: None
        """Told after each transaction: sign of life while much is applied at once."""
        self._conn = projection.conn
        site = projection.site
        self._apply = {
            **stage.fill("dome_bridge.chimera", "apply.sql", site, inumber_sequence=sequence),
            **stage.fill("dome_bridge.chimera", "links.sql", site),
        }
        self._tags = stage.fill("dome_bridge.chimera", "tags.sql", site)

    @classmethod
    async def open(cls, source: Source, layout: SourceLayout, conn: asyncpg.Connection, site: Site) -> Mirror:
        projection = await Projection.open(source, layout, conn, site)
        sequence = await conn.fetchval("SELECT pg_get_serial_sequence('t_inodes', 'inumber')")
        return cls(projection, sequence)

    @property
    def source(self) -> Source:
        return self._projection.source

    @property
    def conn(self) -> asyncpg.Connection:
        return self._conn

    @property
    def projection(self) -> Projection:
        return self._projection

    async def apply_ids(
        self, fileids: Iterable[int], *, at_commit: AtCommit | None = None, mend: bool = False
    ) -> Applied:
        """Makes Chimera agree with DPM for these fileids, and for those that they awaken.

        The caller holds `source.snapshot()`. mend: also count links and tags afresh (repair).
        `at_commit` runs in the last transaction: when it is committed, all of them are.
        """
        async with target.passing_gate(self._conn):
            total = await self._apply_chunks(sorted(set(fileids)), mend=mend)
            total.add(await self.apply_awakened())
            if at_commit is not None:
                async with self._conn.transaction():
                    await at_commit(self._conn)
        return total

    async def _apply_chunks(self, fileids: Sequence[int], *, mend: bool = False) -> Applied:
        total = Applied()
        for first in range(0, len(fileids), APPLY_CHUNK):
            total.add(await self._apply_surely(fileids[first : first + APPLY_CHUNK], mend=mend))
            self.told()
        return total

    async def apply_awakened(self) -> Applied:
        """What is noted as awakened, level by level, also by a process that was killed since.

        The caller holds `source.snapshot()`.
        """
        total = Applied()
        async with target.passing_gate(self._conn):
            while waiting := await self._conn.fetch(self._apply["awakened"], APPLY_CHUNK):
                total.add(await self._apply_chunks([row["fileid"] for row in waiting]))
        return total

    async def apply_claimants(self) -> Applied:
        """All files that claimed a path together with another, judged once more.

        The caller holds `source.snapshot()`.
        """
        await self._conn.execute(self._apply["awaken_claimants"])
        return await self.apply_awakened()

    async def apply_range(
        self, lo: int, hi: int, *, directories: bool, at_commit: AtCommit | None = None
    ) -> Applied:
        """The first copy of a range: directories, or all else. Takes its own snapshot of the source.

        What it awakens is left to `apply_awakened`: ranges run side by side, that must not.
        """
        async with target.passing_gate(self._conn):
            try:
                return await self._apply_range(lo, hi, directories=directories, at_commit=at_commit)
            except (*UNFIT, asyncpg.TransactionRollbackError) as exc:
                # Often an entry took another's name while the copy was under way.
                logger.info("range is applied with care lo=%d hi=%d reason=%s", lo, hi, target.one_line(exc))
            return await self._apply_range_with_care(lo, hi, directories=directories, at_commit=at_commit)

    async def _apply_range(
        self, lo: int, hi: int, *, directories: bool, at_commit: AtCommit | None
    ) -> Applied:
        if not await self._conn.fetchval(self._apply["fresh_range"], lo, hi, directories):
            return await self._apply_range_with_care(lo, hi, directories=directories, at_commit=at_commit)
        async with self._conn.transaction():
            # The source is let go at once: whoever wants its tables, such as the fence, need not wait.
            async with self.source.snapshot():
                await self._projection.stage_range(lo, hi, directories=directories)
            await self._projection.project_rows(unique_names=True)
            await self._projection.project_presence(mirrored=False)
            result = await self._insert(directories=directories)
            if at_commit is not None:
                await at_commit(self._conn)
        return result

    async def _apply_range_with_care(
        self, lo: int, hi: int, *, directories: bool, at_commit: AtCommit | None
    ) -> Applied:
        fileids = await self._ids_in_range(lo, hi, directories=directories)
        async with self.source.snapshot():
            result = await self._apply_chunks(sorted(fileids))
        if at_commit is not None:
            async with self._conn.transaction():
                await at_commit(self._conn)
        return result

    async def _ids_in_range(self, lo: int, hi: int, *, directories: bool) -> set[int]:
        found = set(await read.fileids(self.source, lo, hi, directories=directories))
        async with self._conn.transaction():
            await self._projection.widen_to_mirrored(lo, hi)
            found.update(row[0] for row in await self._conn.fetch("SELECT fileid FROM scope"))
        return found

    async def _apply_surely(self, fileids: Sequence[int], *, mend: bool) -> Applied:
        """No row may stop the mirror: what PostgreSQL refuses is found by halving, and left out."""
        try:
            return await self._apply_wide_enough(fileids, mend=mend)
        except UNFIT as exc:
            if len(fileids) == 1:
                return await self._refuse(fileids[0], exc, mend=mend)
            logger.warning(
                "halving a batch that does not fit entries=%d error=%s", len(fileids), target.one_line(exc)
            )
        total = Applied()
        middle = len(fileids) // 2
        for half in (fileids[:middle], fileids[middle:]):
            total.add(await self._apply_surely(half, mend=mend))
        return total

    async def _refuse(self, fileid: int, error: Exception, *, mend: bool) -> Applied:
        logger.error("entry left out fileid=%d error=%s", fileid, target.one_line(error))
        detail = f"Chimera refused the entry: {target.one_line(error)}"
        return await self._apply_wide_enough([fileid], mend=mend, refused={fileid: detail})

    async def _apply_wide_enough(
        self, fileids: Sequence[int], *, mend: bool, refused: Mapping[int, str] = NOTHING_REFUSED
    ) -> Applied:
        wanted, tries = set(fileids), 0
        while True:
            try:
                async with self._conn.transaction():
                    # Ranges of the first copy that need care meet in the same directories.
                    await target.take_link_lock(self._conn)
                    return await self._apply_once(sorted(wanted), mend=mend, refused=refused)
            except _WiderScopeError as wider:
                logger.debug("scope widened by=%d", len(wider.fileids - wanted))
                wanted |= wider.fileids
            except asyncpg.TransactionRollbackError as exc:
                tries += 1
                if tries >= DEADLOCK_TRIES:
                    raise
                logger.info(
                    "applying again after a deadlock entries=%d error=%s", len(wanted), target.one_line(exc)
                )

    async def _apply_once(self, fileids: Sequence[int], *, mend: bool, refused: Mapping[int, str]) -> Applied:
        await self._projection.stage_ids(fileids)
        for fileid in refused:
            for name in ("disarm", "disarm_replicas", "disarm_symlink"):
                await self._conn.execute(self._apply[name], fileid)
        await self._require_rivals()
        await self._projection.project_rows(unique_names=False)
        for fileid, detail in refused.items():
            await self._conn.execute(self._apply["refuse"], fileid, detail)
        await self._require_displaced()
        await self._projection.project_presence(mirrored=True)
        return await self._update(mend=mend)

    async def _require_rivals(self) -> None:
        """Replica rows with one path belong to one decision, whoever of them changed."""
        wider = {row[0] for row in await self._conn.fetch(self._apply["rivals"])}
        claimed = [row[0] for row in await self._conn.fetch(self._apply["claimed"])]
        in_scope = (
            {row[0] for row in await self._conn.fetch("SELECT fileid FROM scope")} if claimed else set()
        )
        wider |= await read.rivals(self.source, claimed) - in_scope
        wider = {fileid for fileid in wider if fileid <= MAX_FILEID}
        if wider:
            raise _WiderScopeError(wider)

    async def _require_displaced(self) -> None:
        wider = {row["fileid"] for row in await self._conn.fetch(self._apply["displaced"])}
        if wider:
            raise _WiderScopeError(wider)

    async def _insert(self, *, directories: bool) -> Applied:
        result = Applied()
        await self._run(result, ["insert_inodes", "insert_names"])
        if not directories:
            await self._run(result, ["insert_locations", "want_links", "upsert_links"])
            await self._run(result, ["insert_checksums", "upsert_targets"])
            await self._run(result, ["report_directories", "note_odd_hosts"])
        await self._run(result, ["upsert_acls", "report_quarantine", "note_claims"])
        if directories or self._projection.site.links_count_files:
            # Workers whose files share directories would meet in different orders.
            await target.take_link_lock(self._conn)
            await self._run(result, ["inserted_names", "link_counts"])
        if directories:
            await self._run(result, ["update_root"])
            await self._retag(result)
        # Only a directory can awaken anything.
        await self._finish(result, may_awaken=directories)
        return result

    async def _update(self, *, mend: bool) -> Applied:
        result = Applied()
        await self._find_gone()
        await self._run(result, ["orphan_descendants", "orphan_descendants_facts"])
        await self._run(result, ["unlink_names", "unlink_gone_names"])
        inodes = await self._conn.fetchrow(self._apply["upsert_inodes"])
        result.count("t_inodes", "insert", inodes["inserted"])
        result.count("t_inodes", "update", inodes["updated"])
        await self._run(result, ["update_root", "link_names", "link_counts"])
        await self._run(result, ["delete_locations", "upsert_locations"])
        await self._run(result, ["want_links", "withdraw_links", "withdraw_links_below", "upsert_links"])
        await self._run(result, ["forget_findings"])
        await self._run(result, ["delete_checksums", "upsert_checksums"])
        await self._run(result, ["delete_targets", "upsert_targets", "delete_acls", "upsert_acls"])
        await self._retag_if_needed(result, mend=mend)
        # A stale trash row of the same id would make the delete trigger fail.
        await self._run(result, ["delete_trash", "delete_inodes", "delete_trash", "delete_trash_of_living"])
        await self._run(result, ["clear_quarantine", "report_quarantine", "clear_claims", "note_claims"])
        await self._run(result, ["clear_odd_hosts", "note_odd_hosts", "settle_awakened"])
        if mend:
            await self._run(result, ["recount_links"])
        await self._finish(result)
        return result

    async def _find_gone(self) -> None:
        await self._conn.execute(self._apply["gone"])
        foreign = await self._conn.fetchval(self._apply["gone_foreign"])
        if foreign is not None:
            raise TargetError(
                f"dCache has written {foreign} below a directory that DPM no longer has: stop dCache's doors "
                "until the cutover, and remove what it wrote"
            )

    async def _retag_if_needed(self, result: Applied, *, mend: bool) -> None:
        if mend:
            await self._conn.execute(self._tags["retag_scope"])
        if mend or await self._conn.fetchval(self._tags["directories_changed"]):
            await self._retag(result)
        if mend:
            await self._conn.execute(self._tags["restore_contents"])
            await self._conn.execute(self._tags["recount_uses"])

    async def note_beyond(self) -> None:
        """Keeps the list of entries whose fileid is too large for any inumber."""
        beyond = await read.entries_beyond(self.source)
        async with self._conn.transaction():
            await self._conn.execute(self._apply["clear_beyond"])
            for entry in beyond:
                parent = entry.parent if entry.parent <= MAX_FILEID else None
                detail = f"fileid {entry.fileid or 'NULL or 0'} is not in 1..{MAX_FILEID}"
                subject = f"row {entry.rowid}"
                await self._conn.execute(
                    self._apply["report_beyond"], str(entry.fileid), subject, detail, parent, entry.name
                )

    async def apply_tokens(self) -> Applied:
        """Tags every directory anew whose quotatoken came, went or changed. In the caller's transaction."""
        result = Applied()
        await self._retag(result)
        return result

    async def _retag(self, result: Applied) -> None:
        for name in ("token_dirs", "allot_reservations", "wanted_origins"):
            await self._conn.execute(self._tags[name])
        for name in ("origin_changes", "note_space_values", "change_origin_values"):
            await self._conn.execute(self._tags[name])
        dropped = [row["itagid"] for row in await self._conn.fetch(self._tags["drop_origins"])]
        for name in (
            "make_origins",
            "retag_linked",
            "retag_below",
            "retag_ours",
            "wanted_tags",
            "uses_before",
        ):
            await self._conn.execute(self._tags[name])
            self.told()
        for name in ("delete_tags", "delete_gone_tags", "upsert_tags"):
            self._note(result, name, await self._conn.execute(self._tags[name]))
            self.told()
        for name in ("note_space_directories", "uses_after", "note_uses"):
            await self._conn.execute(self._tags[name])
        await self._conn.execute(self._tags["drop_contents"], dropped)

    async def _finish(self, result: Applied, *, may_awaken: bool = True) -> None:
        mirrored, highest = await self._conn.fetchrow(self._apply["outcome"])
        result.mirrored = mirrored
        if highest is not None:
            ahead = highest + SEQUENCE_HEADROOM
            await self._conn.fetchval(self._apply["advance_sequences"], ahead, ahead - SEQUENCE_HEADROOM // 2)
        await self._conn.execute(self._apply["note_space_changes"])
        if may_awaken:
            await self._conn.execute(self._apply["note_awakened"])

    async def _run(self, result: Applied, names: Iterable[str]) -> None:
        for name in names:
            self._note(result, name, await self._conn.execute(self._apply[name]))
            self.told()

    def _note(self, result: Applied, name: str, status: str) -> None:
        if name in _CHANGES:
            result.count(*_CHANGES[name], int(status.rsplit(" ", 1)[-1]))
