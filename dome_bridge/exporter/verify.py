"""Verify: projects every range again and compares it with Chimera.

A first look at a range runs beside the follower and can only suspect. A suspect is looked
at again while no batch is under way, together with the journal as of the same instant: it
counts as a mismatch only if no change of it waits there. So a writer can never be the
cause of a mismatch, and a mismatch is never explained away by one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import asyncpg

from dome_bridge.chimera import stage, state, target
from dome_bridge.chimera.state import Phase, Progress
from dome_bridge.config import Config
from dome_bridge.dpm import read
from dome_bridge.errors import StateError
from dome_bridge.exporter import small_tables
from dome_bridge.exporter.follow import Follower
from dome_bridge.exporter.journal import Journal
from dome_bridge.exporter.mirror import Mirror
from dome_bridge.exporter.session import open_session
from dome_bridge.staging import MAX_FILEID
from dome_bridge.statements import load

logger = logging.getLogger(__name__)

MISSING = "missing"
EXTRA = "extra"
DIFFERENT = "different"

SETTLE_PAUSE = 0.5
SUSPECTS_AT_ONCE = 2_000
EXAMPLES = 20


@dataclass(frozen=True)
class Mismatch:
    """One entry that differs: kind is missing, extra or different."""

    fileid: int
    kind: str
    detail: str


@dataclass
class VerifyReport:
    """Counted in entries. unsettled: changed so often that they could not be judged; a pass with such
    entries is not clean.

    resumed_at: what an earlier, interrupted run had compared. seconds: that run's included.
    """

    compared: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    repaired: int = 0
    unsettled: int = 0
    resumed_at: int = 0
    seconds: float = 0.0
    examples: list[Mismatch] = field(default_factory=list)
    finished: bool = False

    @property
    def mismatches(self) -> int:
        return self.missing + self.extra + self.different

    @property
    def remaining(self) -> int:
        return self.mismatches - self.repaired

    def add(self, found: Mismatch) -> None:
        setattr(self, found.kind, getattr(self, found.kind) + 1)
        if len(self.examples) < EXAMPLES:
            self.examples.append(found)


Settle = Callable[[], Awaitable[None]]
"""Lets the journal move on: drains it, or waits for the daemon that does."""


class Verifier:
    """Compares with the connections of a mirror that nobody else uses.

    entries_per_second: throttle, None for full speed. settle_seconds: how long suspects
    with waiting changes are looked at again before they are called unsettled.
    """

    def __init__(
        self,
        mirror: Mirror,
        *,
        range_entries: int,
        settle: Settle,
        entries_per_second: int | None = None,
        settle_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._mirror = mirror
        self._projection = mirror.projection
        self._source = mirror.source
        self._conn = mirror.conn
        self._journal = Journal(mirror.source)
        self._range_entries = range_entries
        self._settle = settle
        self._entries_per_second = entries_per_second
        self._settle_seconds = settle_seconds
        self._clock = clock
        self._sleep = sleep
        self._sql = load_runs()
        self._compare = stage.fill("dome_bridge.chimera", "compare.sql", mirror.projection.site)
        self._want_links = load("dome_bridge.chimera", "links.sql")["want_links"]

    async def run(
        self,
        *,
        kind: str,
        repair: bool = False,
        resume: bool = True,
        stop: asyncio.Event | None = None,
        advance: Callable[[VerifyReport], None] = lambda report: None,
    ) -> VerifyReport:
        """A whole pass; with `resume` an unfinished one of this kind is continued."""
        run, cursor, report = await self._begin(kind, resume=resume)
        unsettled: set[int] = set()
        while stop is None or not stop.is_set():
            begun = self._clock()
            after = cursor
            cursor, compared, found = await self._verify_range(after, unsettled)
            if cursor >= MAX_FILEID and unsettled:
                judged, unsettled = await self._judge(unsettled)
                found += judged
            report.unsettled = len(unsettled)
            repaired = await self._repair(found) if repair and found else 0
            report.compared += compared
            report.repaired += repaired
            for mismatch in found:
                report.add(mismatch)
            report.seconds += self._clock() - begun
            await self._note(run, cursor, report, found, repaired=bool(repaired))
            if cursor >= MAX_FILEID:
                report.finished = True
                await self._conn.execute(self._sql["finish"], run)
            advance(report)
            if report.finished:
                break
            await self._throttle(compared, self._clock() - begun)
        return report

    async def check_ids(self, fileids: Iterable[int]) -> tuple[list[Mismatch], set[int]]:
        """Among these entries: the mismatches, and those that could not be judged."""
        return await self._judge(await self._suspects_among(sorted(set(fileids))))

    async def _begin(self, kind: str, *, resume: bool) -> tuple[int, int, VerifyReport]:
        row = await self._conn.fetchrow(self._sql["unfinished"], kind) if resume else None
        if row is None:
            await self._conn.execute(self._sql["forget_unfinished"], kind)
            return await self._conn.fetchval(self._sql["begin"], kind), 0, VerifyReport()
        logger.info("verify goes on run=%d cursor=%d", row["id"], row["cursor"])
        counts = {
            key: row[key] for key in ("compared", "missing", "extra", "different", "repaired", "seconds")
        }
        return row["id"], row["cursor"], VerifyReport(resumed_at=row["compared"], **counts)

    async def _verify_range(self, after: int, unsettled: set[int]) -> tuple[int, int, list[Mismatch]]:
        found = await read.next_range(self._source, after, MAX_FILEID, self._range_entries)
        is_last = found is None or found.entries < self._range_entries
        hi = MAX_FILEID if is_last or found is None else found.hi
        compared, suspects = await self._look(after + 1, hi)
        mismatches, left = await self._judge(suspects)
        unsettled |= left
        return hi, compared, mismatches

    async def _look(self, lo: int, hi: int) -> tuple[int, set[int]]:
        async with self._conn.transaction():
            async with self._source.snapshot():
                await self._projection.stage_range(lo, hi)
            await self._projection.widen_to_mirrored(lo, hi)
            compared = await self._conn.fetchval("SELECT count(*) FROM scope")
            return compared, set(await self._compare_scope())

    async def _suspects_among(self, fileids: list[int]) -> set[int]:
        suspects: set[int] = set()
        for first in range(0, len(fileids), self._range_entries):
            async with self._conn.transaction():
                async with self._source.snapshot():
                    await self._projection.stage_ids(fileids[first : first + self._range_entries])
                suspects.update(await self._compare_scope())
        return suspects

    async def _compare_scope(self) -> dict[int, Mismatch]:
        await self._projection.project_rows(unique_names=False)
        await self._projection.recall_decisions()
        await self._projection.project_presence(mirrored=True)
        await self._conn.execute(self._want_links)
        found: dict[int, Mismatch] = {}
        for name, statement in self._compare.items():
            kind = name if name in (MISSING, EXTRA) else DIFFERENT
            for fileid, detail in await self._conn.fetch(statement):
                found.setdefault(fileid, Mismatch(fileid, kind, detail))
        return found

    async def _judge(self, suspects: set[int]) -> tuple[list[Mismatch], set[int]]:
        """Of the suspects: those that differ with nothing waiting, and those that could not be judged."""
        mismatches: list[Mismatch] = []
        give_up = self._clock() + self._settle_seconds
        while suspects:
            unsettled: set[int] = set()
            for chunk in _chunks(sorted(suspects)):
                real, waiting = await self._judge_chunk(chunk)
                mismatches += real
                unsettled |= waiting
            suspects = unsettled
            if suspects and self._clock() >= give_up:
                logger.warning("entries keep changing and were not judged count=%d", len(suspects))
                break
            if suspects:
                await self._settle()
        return mismatches, suspects

    async def _judge_chunk(self, fileids: list[int]) -> tuple[list[Mismatch], set[int]]:
        async with (
            target.closed_gate(self._conn),
            self._source.snapshot(),
            self._conn.transaction(),
        ):
            await self._refuse_committed()
            if await small_tables.moved_servers(self._conn):
                # The follower ended before it placed their files anew: any location may be old.
                return [], set(fileids)
            waiting = {row.fileid for row in await self._journal.pending(fileids)}
            waiting.update(row[0] for row in await self._conn.fetch(self._sql["awakened"], fileids))
            # What hangs on a directory that waits is judged by the directory that Chimera still has.
            await self._projection.stage_ids([fileid for fileid in fileids if fileid not in waiting])
            found = await self._compare_scope()
            waiting |= await self._with_waiting_rivals(sorted(found))
        real = [mismatch for fileid, mismatch in sorted(found.items()) if fileid not in waiting]
        return real, waiting

    async def _refuse_committed(self) -> None:
        """Asked with the gate closed, because the commit closes it too: what follows is still ours."""
        if (await state.progress(self._conn)).phase is Phase.COMMITTED:
            raise StateError("the cutover was committed meanwhile: Chimera belongs to dCache, verify ends")

    async def _with_waiting_rivals(self, fileids: list[int]) -> set[int]:
        """Those whose claim on a replica path depends on an entry with changes waiting."""
        if not await self._have_waiting_rivals(fileids):
            return set()
        return {fileid for fileid in fileids if await self._have_waiting_rivals([fileid])}

    async def _have_waiting_rivals(self, fileids: list[int]) -> bool:
        rivals = await read.rivals(self._source, fileids)
        rivals.update(row[0] for row in await self._conn.fetch(self._sql["former_rivals"], fileids))
        return bool(await self._journal.pending(rivals))

    async def _repair(self, mismatches: list[Mismatch]) -> int:
        """Through the normal apply path; counts those that agree afterwards."""
        fileids = [mismatch.fileid for mismatch in mismatches]
        async with target.closed_gate(self._conn), self._source.snapshot():
            await self._refuse_committed()
            await self._mirror.apply_ids(fileids, mend=True)
        mismatches_left, unsettled = await self.check_ids(fileids)
        remaining = {mismatch.fileid for mismatch in mismatches_left}
        return len(set(fileids) - remaining - unsettled)

    async def _note(
        self, run: int, cursor: int, report: VerifyReport, found: list[Mismatch], *, repaired: bool
    ) -> None:
        async with self._conn.transaction():
            await self._conn.execute(
                self._sql["advance"],
                run,
                cursor,
                report.compared,
                report.missing,
                report.extra,
                report.different,
                report.repaired,
                report.seconds,
                report.unsettled,
            )
            await self._conn.executemany(
                self._sql["mismatch"],
                [(run, str(m.fileid), m.kind, m.detail, repaired) for m in found[:SUSPECTS_AT_ONCE]],
            )

    async def _throttle(self, compared: int, seconds: float) -> None:
        if self._entries_per_second:
            await self._sleep(max(0.0, compared / self._entries_per_second - seconds))


def _chunks(fileids: list[int]) -> Iterable[list[int]]:
    return (fileids[first : first + SUSPECTS_AT_ONCE] for first in range(0, len(fileids), SUSPECTS_AT_ONCE))


def load_runs() -> Mapping[str, str]:
    return load("dome_bridge.chimera", "verify.sql")


@dataclass(frozen=True)
class LastVerify:
    """The newest finished pass that began after the triggers were (last) made.

    age_seconds: since its end. mismatches: that remained after it. by_kind: as found, before any
    repair. last_clean: Unix time of the end of the newest clean pass.
    """

    age_seconds: float
    mismatches: int
    unsettled: int
    by_kind: Mapping[str, int]
    last_clean: float | None


async def last_verify(conn: asyncpg.Connection) -> LastVerify | None:
    """None before the first finished pass."""
    row = await conn.fetchrow(load_runs()["last"])
    if row is None:
        return None
    by_kind = {kind: row[kind] for kind in (MISSING, EXTRA, DIFFERENT)}
    return LastVerify(row["age"], row["mismatches"], row["unsettled"], by_kind, row["last_clean"])


Advance = Callable[[str, int, int], None]


async def verify_site(config: Config, *, repair: bool, resume: bool, advance: Advance) -> VerifyReport:
    """`dome-bridge verify`: with the daemon following, or draining the journal itself where none runs."""
    async with open_session(config) as session, session.mirror() as mirror, session.mirror() as applier:
        progress = await state.progress(session.conn)
        _require_following(progress)
        expected = await read.count_entries(session.source)
        settle = _settle(applier, config.exporter.batch)
        await settle()
        verifier = Verifier(mirror, range_entries=config.exporter.snapshot_range, settle=settle)
        return await verifier.run(
            kind="command",
            repair=repair,
            resume=resume,
            advance=lambda report: advance("entries", report.compared, expected),
        )


def _require_following(progress: Progress) -> None:
    if progress.snapshot_finished is None:
        raise StateError("the first copy is not complete: let `dome-bridge run` or `sync --once` finish it")
    if progress.phase is Phase.COMMITTED:
        raise StateError(
            "the cutover is committed: dCache may have changed Chimera, there is nothing to compare"
        )


def _settle(applier: Mirror, batch: int) -> Settle:
    """Applies the journal if nobody else does, else waits for who does."""
    follower = Follower(applier, batch=batch)

    async def settle() -> None:
        if await target.try_applier_lock(applier.conn):
            try:
                await follower.drain()
            finally:
                await target.release_applier_lock(applier.conn)
        else:
            await asyncio.sleep(SETTLE_PAUSE)

    return settle
