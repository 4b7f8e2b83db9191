"""The queues of work for disk servers: the rules against a plain model, and the dispatch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dome_bridge.dome_api.cluster import Activity, Cluster, FileSystem
from dome_bridge.dome_api.disk_client import DiskRefusedError, DiskUnknownError, DiskUnreachableError
from dome_bridge.dome_api.dispatch import Dispatcher, seems_reachable
from dome_bridge.dome_api.work_queue import WorkQueue

TIMEOUT = 180.0
MAX_TOTAL = 3
MAX_PER_SERVER = 2

keys = st.integers(0, 5)
servers = st.sampled_from(["disk1", "disk2", "disk3"])


@dataclass(frozen=True)
class Job:
    key: int
    server: str = "disk1"
    text: str = ""


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def queue_of(
    clock: Clock, *, max_total: int = MAX_TOTAL, max_per_server: int = MAX_PER_SERVER
) -> WorkQueue[Job]:
    return WorkQueue(max_total=max_total, max_per_server=max_per_server, timeout_seconds=TIMEOUT, clock=clock)


@dataclass
class Known:
    """What the model knows of a key. running: the server it runs on, "" while it waits."""

    job: Job | None
    running: str = ""
    asked: float = -1e9
    heard: float = -1e9


class QueueRules(RuleBasedStateMachine):
    """The model is a list in the order of the line; it is searched from the beginning each time."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue = queue_of(self.clock)
        self.model: dict[int, Known] = {}
        self.line: list[int] = []
        self.resting: dict[str, float] = {}
        self.counter = 0

    @rule(key=keys, server=servers)
    def ask(self, key: int, server: str) -> None:
        self.counter += 1
        job = Job(key, server, str(self.counter))
        self.queue.ask(job)
        if key not in self.model:
            self.line.append(key)
        known = self.model.setdefault(key, Known(None))
        known.job, known.asked = job, self.clock.now

    @rule(key=keys, server=servers)
    def hear(self, key: int, server: str) -> None:
        self.queue.hear(key, server)
        known = self.model.setdefault(key, Known(None))
        known.running, known.heard = known.running or server, self.clock.now
        self.line = [each for each in self.line if each != key]

    @rule(key=keys)
    def finish(self, key: int) -> None:
        self.queue.finish(key)
        self.forget(key)

    @rule(unreachable=st.sets(servers))
    def start(self, unreachable: set[str]) -> None:
        expected = []
        for key in self.line:
            job = self.model[key].job
            assert job is not None
            usable = job.server not in unreachable and self.resting.get(job.server, -1.0) <= self.clock.now
            if usable and self.running() < MAX_TOTAL and self.running(job.server) < MAX_PER_SERVER:
                self.model[key].running, self.model[key].heard = job.server, self.clock.now
                expected.append(job)
        self.line = [key for key in self.line if not self.model[key].running]
        assert self.queue.start(lambda job: job.server not in unreachable) == expected

    @rule(key=keys)
    def put_back(self, key: int) -> None:
        self.queue.put_back(key)
        if key in self.model and self.model[key].running:
            self.back_to_line(key)

    @rule(server=servers, seconds=st.floats(0, 2 * TIMEOUT))
    def rest(self, server: str, seconds: float) -> None:
        self.queue.rest(server, seconds)
        self.resting[server] = self.clock.now + seconds

    @rule(seconds=st.sampled_from([0.5, TIMEOUT / 2, TIMEOUT]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def expire(self) -> None:
        due = self.clock.now - TIMEOUT
        waiting = [key for key in self.line if self.model[key].asked <= due]
        silent = [key for key, known in self.model.items() if known.running and known.heard <= due]
        again = [key for key in silent if self.model[key].job and self.model[key].asked > due]
        dropped = [*waiting, *(key for key in silent if key not in again)]
        overdue = self.queue.expire()
        assert sorted(map(str, overdue.dropped)) == sorted(map(str, dropped))
        assert sorted(map(str, overdue.again)) == sorted(map(str, again))
        for key in dropped:
            self.forget(key)
        for key in [each for each in overdue.again if isinstance(each, int)]:
            self.back_to_line(key)

    @precondition(lambda self: self.model)
    @invariant()
    def same_keys_are_known(self) -> None:
        assert len(self.queue) == len(self.model)
        for key in range(6):
            assert (key in self.queue) == (key in self.model)
            assert self.queue.is_running(key) == bool(key in self.model and self.model[key].running)

    def running(self, server: str = "") -> int:
        return sum(bool(known.running) and server in ("", known.running) for known in self.model.values())

    def back_to_line(self, key: int) -> None:
        self.model[key].running = ""
        if self.model[key].job is None:
            del self.model[key]
        else:
            self.line.insert(0, key)

    def forget(self, key: int) -> None:
        self.model.pop(key, None)
        self.line = [each for each in self.line if each != key]


TestQueueRules = QueueRules.TestCase
TestQueueRules.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_more_than_the_limit_may_run_after_a_restart_but_nothing_is_added() -> None:
    queue = queue_of(Clock())
    for key in range(MAX_TOTAL + 1):
        queue.hear(key, f"disk{key}")
    queue.ask(Job(9, "disk9"))
    assert queue.start() == []
    assert len(queue) == MAX_TOTAL + 2


def test_silent_order_is_tried_again_for_a_client_that_asked_after_a_restart() -> None:
    clock = Clock()
    queue = queue_of(clock)
    queue.hear(1, "disk1")
    clock.now += TIMEOUT - 1
    queue.ask(Job(1))
    assert queue.start() == []
    clock.now += 1
    assert queue.expire().again == [1]
    assert queue.start() == [Job(1)]


@dataclass
class Disks:
    """Servers that do as they are told: `fails` has the error of a server, `hangs` those that say nothing."""

    fails: dict[str, Exception] = field(default_factory=dict)
    hangs: set[str] = field(default_factory=set)
    got: list[Job] = field(default_factory=list)

    async def send(self, job: Job) -> None:
        self.got.append(job)
        if job.server in self.hangs:
            await asyncio.sleep(3600)
        if error := self.fails.get(job.server):
            raise error


@asynccontextmanager
async def dispatching(
    queue: WorkQueue[Job],
    send: Callable[[Job], Awaitable[None]],
    *,
    is_ready: Callable[[Job], bool] = lambda job: True,
    tick_seconds: float = 3600.0,
) -> AsyncIterator[Dispatcher[Job]]:
    dispatcher = Dispatcher("job", queue, send, is_ready, tick_seconds=tick_seconds, rest_seconds=60.0)
    task = asyncio.create_task(dispatcher.run_forever())
    try:
        yield dispatcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nobody sets an event for it
            await asyncio.sleep(0)


async def test_order_is_sent_the_moment_it_is_asked_for() -> None:
    queue, disks = queue_of(Clock()), Disks()
    async with dispatching(queue, disks.send) as dispatcher:
        queue.ask(Job(1))
        dispatcher.wake()
        await settled(lambda: disks.got == [Job(1)])
    assert queue.is_running(1)


async def test_server_that_says_nothing_does_not_keep_others_waiting() -> None:
    queue, disks = queue_of(Clock(), max_total=10), Disks(hangs={"disk1"})
    for key in range(5):
        queue.ask(Job(key, "disk1"))
    queue.ask(Job(9, "disk2"))
    async with dispatching(queue, disks.send):
        await settled(lambda: Job(9, "disk2") in disks.got)
    assert [job.server for job in disks.got].count("disk1") == MAX_PER_SERVER


async def test_server_that_is_known_to_be_lost_is_given_nothing_and_takes_no_place() -> None:
    queue, disks = queue_of(Clock(), max_total=1), Disks()
    queue.ask(Job(1, "disk1"))
    queue.ask(Job(2, "disk2"))
    async with dispatching(queue, disks.send, is_ready=lambda job: job.server != "disk1"):
        await settled(lambda: bool(disks.got))
    assert disks.got == [Job(2, "disk2")]
    assert 1 in queue


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (DiskRefusedError("no", status=500, text="File puller is disabled."), False),
        (DiskUnreachableError("no"), True),
    ],
)
async def test_order_that_is_not_taken_makes_room_for_others(error: Exception, is_kept: bool) -> None:
    queue, disks = queue_of(Clock(), max_total=1), Disks({"disk1": error})
    queue.ask(Job(1, "disk1"))
    queue.ask(Job(2, "disk2"))
    async with dispatching(queue, disks.send):
        await settled(lambda: Job(2, "disk2") in disks.got)
    assert (1 in queue) is is_kept


async def test_order_that_could_not_be_sent_keeps_its_place_and_its_server_gets_a_rest() -> None:
    clock = Clock()
    queue, disks = queue_of(clock, max_per_server=1), Disks({"disk1": DiskUnreachableError("no")})
    queue.ask(Job(1))
    queue.ask(Job(2))
    async with dispatching(queue, disks.send, tick_seconds=0.001):
        await settled(lambda: bool(disks.got) and not queue.is_running(1))
        await asyncio.sleep(0.02)
        assert disks.got == [Job(1)]
        disks.fails.clear()
        clock.now += 60
        await settled(lambda: queue.is_running(1))
    assert disks.got == [Job(1), Job(1)]


async def test_order_without_an_answer_counts_as_running_until_the_time_is_over() -> None:
    clock = Clock()
    queue, disks = queue_of(clock), Disks({"disk1": DiskUnknownError("cut")})
    queue.ask(Job(1))
    async with dispatching(queue, disks.send, tick_seconds=0.001):
        await settled(lambda: bool(disks.got))
        await asyncio.sleep(0.01)
        assert queue.is_running(1)
        clock.now += TIMEOUT
        await settled(lambda: 1 not in queue)


async def test_order_that_breaks_the_sender_ends_no_other(caplog: pytest.LogCaptureFixture) -> None:
    queue, disks = queue_of(Clock()), Disks({"disk1": RuntimeError("a defect")})
    queue.ask(Job(1, "disk1"))
    async with dispatching(queue, disks.send) as dispatcher:
        await settled(lambda: 1 not in queue)
        queue.ask(Job(2, "disk2"))
        dispatcher.wake()
        await settled(lambda: Job(2, "disk2") in disks.got)
    assert "a defect" in caplog.text


@pytest.mark.parametrize(
    ("activities", "expected"),
    [
        ([], True),
        ([Activity.UNKNOWN], True),
        ([Activity.BROKEN], False),
        ([Activity.BROKEN, Activity.ONLINE], True),
    ],
)
def test_server_is_lost_when_nothing_of_it_works(activities: list[Activity], expected: bool) -> None:
    mine = [FileSystem("pool", "disk1", f"/fs{n}", activity=each) for n, each in enumerate(activities)]
    other = FileSystem("pool", "disk2", "/fs", activity=Activity.BROKEN)
    assert seems_reachable(Cluster({}, (*mine, other)), "disk1") is expected
