"""The steps of a cutover: what each does in the two databases. Each may be done again after a kill.

`cutover_plan` says which comes when; nothing here changes the record. A step returns what it has
found, and raises when the cutover must be given up. Who waits says every few seconds for what.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from dome_bridge.chimera import state, target
from dome_bridge.dpm import read
from dome_bridge.dpm.source import Source
from dome_bridge.errors import CutoverError
from dome_bridge.exporter import artifacts, capture, fence, gate_readings
from dome_bridge.exporter.artifacts import WRITERS, Writer
from dome_bridge.exporter.cutover_plan import Step
from dome_bridge.exporter.cutover_record import Record
from dome_bridge.exporter.follow import Follower
from dome_bridge.exporter.gates import FurtherGate
from dome_bridge.exporter.journal import Journal
from dome_bridge.exporter.mirror import Mirror
from dome_bridge.exporter.session import Session
from dome_bridge.exporter.small_tables import ALL_SMALL_TABLES, copy_small_tables, moved_servers
from dome_bridge.exporter.snapshot import ANALYZED
from dome_bridge.exporter.tally import Counter
from dome_bridge.exporter.triggers import Patience
from dome_bridge.exporter.uploads_in_flight import Upload, uploads_in_flight, waited_for, with_paths
from dome_bridge.exporter.verify import Mismatch, Verifier
from dome_bridge.statements import load

_SQL = load("dome_bridge.chimera", "cutover.sql")

RECENT_SECONDS = 900
"""A replica that became available so shortly before, of a file of size 0, was perhaps cut by the fence."""

NEWEST = 10_000
"""Entries with the highest fileids that are compared once more behind the fence."""

CHANGED = 50_000
"""Of what changed since the cutover was begun, so many are compared row by row; all are counted."""

ROUNDS = 5
FEW = 1_000
"""What has changed during the count is compared before the fence, until so few have changed during that."""

SETTLE_SECONDS = 5.0
"""Behind the fence nothing changes any more: entries that wait longer than that wait for nothing."""

POLL_SECONDS = 0.1
SAY_SECONDS = 5.0
LISTED = 3


@dataclass(frozen=True)
class Clock:
    """Time as the cutover sees it; injected in tests."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


Say = Callable[[str], None]
"""Tells the administrator, in a line."""

Decide = Callable[[str], Awaitable[bool]]
"""Asked behind the fence, with what was found, whether to commit."""


@dataclass(frozen=True)
class Options:
    """What the administrator may choose. None: as configured, or as usual.

    upload_wait_seconds: for uploads that were granted before the fence. postpone_file: while it is
    there, the commit is not decided. artifacts: the directory for the report. writers, further_gates:
    what other rooms add.
    """

    skip_gates: frozenset[str] = frozenset()
    max_fence_seconds: float | None = None
    upload_wait_seconds: float = 60.0
    max_uploads: int = 100
    abandoned_seconds: float = 86400.0
    postpone_file: Path | None = None
    artifacts: Path | None = None
    writers: tuple[Writer, ...] = WRITERS
    further_gates: tuple[FurtherGate, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """detail: for the report. found: what is recorded with the step."""

    detail: str
    found: Mapping[str, Any] = field(default_factory=dict)


class Waiting:
    """Says from time to time what is waited for."""

    def __init__(self, say: Say, clock: Clock) -> None:
        self._say = say
        self._clock = clock
        self._begun = clock.monotonic()
        self._said = self._begun

    async def for_(self, what: str, seconds: float = POLL_SECONDS) -> None:
        now = self._clock.monotonic()
        if now - self._said >= SAY_SECONDS:
            self._said = now
            self._say(f"waiting for {what}, for {now - self._begun:.0f} s now")
        await self._clock.sleep(seconds)

    @property
    def seconds(self) -> float:
        return self._clock.monotonic() - self._begun


class Steps:
    """admin: may make triggers. mirror: nobody else uses it. deadline: of the fence, by the clock."""

    def __init__(
        self,
        session: Session,
        admin: Source,
        mirror: Mirror,
        record: Record,
        *,
        options: Options,
        decide: Decide,
        say: Say,
        clock: Clock,
    ) -> None:
        self._session = session
        self._admin = admin
        self._mirror = mirror
        self._record = record
        self._conn = session.conn
        self._journal = Journal(session.source)
        self._options = options
        self._decide_by = decide
        self._say = say
        self._clock = clock
        self.deadline = float("inf")

    async def do(self, step: Step) -> Outcome:
        work: Mapping[Step, Callable[[], Awaitable[Outcome]]] = {
            Step.COUNT: self._count,
            Step.RAISE_FENCE: self._raise_fence,
            Step.AWAIT_UPLOADS: self._await_uploads,
            Step.SHUT_FENCE: self._shut_fence,
            Step.DRAIN: self._drain,
            Step.COPY_SMALL_TABLES: self._copy_small_tables,
            Step.RECHECK: self._recheck,
            Step.RECOUNT: self._recount,
            Step.FINISH_DATABASE: self._finish_database,
            Step.WRITE_ARTIFACTS: self._write_artifacts,
            Step.DECIDE: self._decide,
            Step.COMMIT: self._commit,
            Step.LIFT_FENCE: self._lift_fence,
            Step.GIVE_BACK: self._lift_fence,
        }
        return await work[step]()

    async def catch_up(self) -> None:
        """Without a daemon nobody follows: then what is in the journal now is applied here, with a heartbeat.

        Not until it is empty: writers that never pause would keep it from ever being so.
        """
        if (await state.progress(self._conn)).snapshot_finished is None:
            return
        if await target.try_applier_lock(self._mirror.conn):
            try:
                await self._journal.write_heartbeat()
                follower = self._follower()
                while (await follower.apply_batch()).rows >= self._session.config.exporter.batch:
                    pass
            finally:
                await target.release_applier_lock(self._mirror.conn)

    @property
    def applier(self) -> asyncpg.Connection:
        """Which holds the applier lock, if we do."""
        return self._mirror.conn

    async def apply_batch(self) -> None:
        """One, if no daemon does that."""
        await self._apply(self._follower())

    def _follower(self) -> Follower:
        return Follower(self._mirror, batch=self._session.config.exporter.batch)

    async def _count(self) -> Outcome:
        waiting = Waiting(self._say, self._clock)

        async def advance(entries: int) -> None:
            await waiting.for_(f"the counting of the catalog, {entries} entries so far", 0.0)

        tally = await self.counter().count_all(advance)
        if found := tally.differences():
            raise CutoverError(_first("the two sides differ", found) + REPAIR)
        await self._compare_meanwhile_changed()
        detail = f"{tally.dpm.entries} entries on both sides, {tally.uncounted} were changing"
        return Outcome(detail, {"tally": tally.as_json()})

    async def _compare_meanwhile_changed(self) -> None:
        """The longer the counting, the more has changed since: the fence must not stand longer for that.

        What is left out as it waits in the journal is noted again when it is applied. A kill leads to
        another count of everything.
        """
        for _ in range(ROUNDS):
            await self.catch_up()
            changed = await self._record.take_changed()
            mismatches, _unsettled = await self.verifier().check_ids(changed)
            if mismatches:
                raise CutoverError(_mismatch("entries that changed meanwhile", mismatches))
            tally = await self.counter().count_ids_live(changed)
            if found := tally.differences():
                raise CutoverError(_first("the two sides differ", found) + REPAIR)
            if len(changed) <= FEW:
                return

    def counter(self) -> Counter:
        return Counter(
            self._mirror,
            range_entries=self._session.config.exporter.snapshot_range,
            sleep=self._clock.sleep,
        )

    async def _raise_fence(self) -> Outcome:
        await fence.raise_fence(
            self._admin,
            self._session.layout,
            open_to_uploads=True,
            # It gives up by itself before our own limit, and then says who was in the way.
            deadline_seconds=max(1.0, self._remaining() - 2 * self._lock_wait()),
            lock_wait_seconds=self._lock_wait(),
            sleep=self._clock.sleep,
            clock=self._clock.monotonic,
        )
        return Outcome("DPM is read-only, but for uploads that it had granted")

    def _remaining(self) -> float:
        return self.deadline - self._clock.monotonic()

    def _lock_wait(self) -> int:
        configured = self._session.config.exporter.lock_wait_seconds
        return max(1, round(min(configured, self._remaining() / 3)))

    async def _await_uploads(self) -> Outcome:
        """None can begin any more; each that ends is followed like any change.

        All of them are known once a marker is applied. The journal need not be empty: sizes, times
        and attributes can still be set.
        """
        marker = f"{self._record.nonce}-fenced"
        await self._journal.write_marker(marker.encode())
        waiting = Waiting(self._say, self._clock)
        follower = self._follower()
        while True:
            await self._apply(follower)
            followed = (await state.progress(self._conn)).marker == marker
            under_way = await uploads_in_flight(self._session.source, self._conn)
            young = waited_for(under_way, abandoned_seconds=self._options.abandoned_seconds)
            if followed and not young:
                return Outcome("no upload was under way")
            if waiting.seconds >= self._options.upload_wait_seconds:
                return Outcome(f"{len(young)} uploads did not end in time")
            await waiting.for_(_uploads_in_words(young, self._options.upload_wait_seconds))

    async def _apply(self, follower: Follower) -> None:
        if await target.try_applier_lock(self._mirror.conn):
            await follower.apply_batch()

    async def _shut_fence(self) -> Outcome:
        patience = Patience(
            self._lock_wait(),
            seconds=max(1.0, self._remaining() - 2 * self._lock_wait()),
            sleep=self._clock.sleep,
            clock=self._clock.monotonic,
        )
        await fence.shut_fence(self._admin, self._session.layout, patience=patience)
        await self._require_fence()
        return Outcome("nobody can write any more")

    async def _drain(self) -> Outcome:
        """The marker is written behind the shut fence: when it is applied, so is everything before it."""
        await self._journal.write_marker(self._record.nonce.encode())
        waiting = Waiting(self._say, self._clock)
        follower = self._follower()
        while not await self._is_drained():
            await self._apply(follower)
            backlog = await self._journal.backlog(limit=100_000)
            await waiting.for_(f"the marker in the journal, behind {backlog} changes", 0.02)
        left_out = await uploads_in_flight(self._session.source, self._conn)
        listed = await with_paths(self._conn, self._session.site, left_out)
        detail = f"the marker was applied, the journal is empty; {len(listed)} uploads are left out"
        found = {"uploads": [upload.as_json() for upload in listed]}
        return Outcome(detail + _named(listed), found)

    async def _is_drained(self) -> bool:
        progress = await state.progress(self._conn)
        return progress.marker == self._record.nonce and await self._journal.backlog(limit=1) == 0

    async def _copy_small_tables(self) -> Outcome:
        async with self._conn.transaction():
            await copy_small_tables(self._session.source, self._session.layout, self._conn, ALL_SMALL_TABLES)
        if moved := await moved_servers(self._conn):
            names = b", ".join(moved).decode("utf-8", "replace")
            raise CutoverError(
                f"file systems on {names} changed without a journal row: abort, and run `dome-bridge verify`"
            )
        return Outcome("users, groups, pools and tokens are copied")

    async def _recheck(self) -> Outcome:
        await self._require_fence()
        found = await capture.inspect(self._admin, self._session.layout)
        if wrong := gate_readings.what_is_wrong_with(found):
            raise CutoverError(f"{wrong}; run `dome-bridge init`, then `dome-bridge verify --repair`")
        newest = await read.newest_fileids(self._session.source, NEWEST)
        changed = await self._record.changed()
        mismatches, unsettled = await self.verifier().check_ids({*newest, *changed[-CHANGED:]})
        if unsettled:
            raise CutoverError(
                f"{len(unsettled)} of the newest entries could not be compared (fileid {min(unsettled)}): "
                "changes of them wait although the journal was drained"
            )
        if mismatches:
            raise CutoverError(_mismatch("the newest and changed entries", mismatches))
        cut = await read.empty_uploads(self._session.source, newest, RECENT_SECONDS)
        uploads = f"; size 0, perhaps cut uploads: fileids {cut}" if cut else ""
        return Outcome(f"{len(newest)} newest and {len(changed)} changed entries agree{uploads}")

    def verifier(self) -> Verifier:
        return Verifier(
            self._mirror,
            range_entries=self._session.config.exporter.snapshot_range,
            settle=lambda: self._clock.sleep(POLL_SECONDS),
            settle_seconds=SETTLE_SECONDS,
            clock=self._clock.monotonic,
            sleep=self._clock.sleep,
        )

    async def _recount(self) -> Outcome:
        """What has changed since the whole was counted; nothing else can have."""
        newest = await read.newest_fileids(self._session.source, NEWEST)
        again = sorted({*newest, *await self._record.changed()})
        tally = await self.counter().count_ids(again)
        if found := tally.differences():
            raise CutoverError(_first("the two sides differ behind the fence", found) + REPAIR)
        return Outcome(f"{len(again)} entries, newest and changed, have the same sums on both sides")

    async def _finish_database(self) -> Outcome:
        await self._conn.execute(await gate_readings.with_sequences(self._conn, "finish_sequences"))
        for table in ANALYZED:
            await self._conn.execute(f"ANALYZE {table}")
        return Outcome("sequences are ahead of the data, tables are analyzed")

    def artifacts_directory(self) -> Path:
        home = self._session.config.exporter.artifacts_dir or artifacts.home()
        return self._options.artifacts or home / f"cutover-{self._record.id}"

    async def _write_artifacts(self) -> Outcome:
        names, directory = await self.write_artifacts()
        return Outcome(f"{', '.join(names)} in {directory}", {"artifacts": str(directory)})

    async def write_artifacts(self) -> tuple[list[str], Path]:
        directory = artifacts.prepare(self.artifacts_directory())
        context = artifacts.Context(self._conn, self._session.site, self._record.id, directory)
        return await artifacts.write(context, self._options.writers), directory

    async def _decide(self) -> Outcome:
        waiting = Waiting(self._say, self._clock)
        flag = self._options.postpone_file
        while flag is not None and flag.exists():
            await waiting.for_(f"the removal of {flag}, which postpones the commit", SAY_SECONDS / 10)
        if not await self._decide_by("everything agrees on both sides; DPM is read-only"):
            raise CutoverError("the commit was declined")
        return Outcome(f"decided after {waiting.seconds:.1f} s")

    async def _commit(self) -> Outcome:
        """With the gate held alone: the daemon's next batch finds the site committed.

        The caller records the state while it is still held, see `while_committing`.
        """
        await self._require_fence()
        if not await self._is_drained():
            raise CutoverError("the journal is not empty behind the fence: something still writes to DPM")
        trash = "harmful_trash" if "trash-empty" in self._record.skipped else "trash"
        if rows := await self._conn.fetchval(_SQL[trash]):
            raise CutoverError(f"{rows} rows of t_locationinfo_trash: dCache's cleaner runs, stop it")
        if "dcache-stopped" not in self._record.skipped and (signs := await self._signs_of_dcache()):
            raise CutoverError(f"dCache was started before the commit ({'; '.join(signs)}): stop it")
        return Outcome("Chimera belongs to dCache", {"baseline": await self._baseline()})

    async def _signs_of_dcache(self) -> tuple[str, ...]:
        return await gate_readings.signs_of_dcache(self._session)

    async def _baseline(self) -> str:
        """What tells later whether dCache has written."""
        row = await self._conn.fetchrow(await gate_readings.with_sequences(self._conn, "sequences"))
        root = self._session.site.root_inumber
        generation = await self._conn.fetchval("SELECT igeneration FROM t_inodes WHERE inumber = $1", root)
        return json.dumps({"inumber": row["inumber"], "itagid": row["itagid"], "root_generation": generation})

    async def _require_fence(self) -> None:
        await fence_must_stand(self._admin, self._session)

    async def _lift_fence(self) -> Outcome:
        await fence.lift_fence(self._admin, sleep=self._clock.sleep, clock=self._clock.monotonic)
        return Outcome("DPM takes writes again")


REPAIR = ": run `dome-bridge verify --repair` and look for the cause"


async def fence_must_stand(admin: Source, session: Session) -> None:
    found = await fence.fence_state(admin, session.layout)
    if found is not fence.FenceState.STANDING:
        raise CutoverError(
            f"the fence is {found} although it was raised: somebody dropped its triggers; "
            "abort with `dome-bridge cutover --abort` and find out who"
        )


def _mismatch(among: str, mismatches: Sequence[Mismatch]) -> str:
    first = mismatches[0]
    return f"{len(mismatches)} of {among} differ (fileid {first.fileid}: {first.detail}){REPAIR}"


def _first(what: str, found: list[str]) -> str:
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return f"{what}: {'; '.join(found[:LISTED])}{more}"


def _uploads_in_words(uploads: list[Upload], limit: float) -> str:
    named = ", ".join(f"fileid {upload.fileid} on {upload.replica}" for upload in uploads[:LISTED])
    return f"{len(uploads)} uploads ({named}), at most {limit:.0f} s" if uploads else "the journal"


def _named(uploads: list[Upload]) -> str:
    return (
        f": {', '.join(each.path or f'fileid {each.fileid}' for each in uploads[:LISTED])}" if uploads else ""
    )
