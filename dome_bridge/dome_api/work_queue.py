"""Work for disk servers: what runs, and what waits for room. Rules only, no I/O.

An order waits until its server, and all servers together, have room for it; then it runs until its
server says that it is over. Servers report every few seconds what they are at, and clients ask again
and again for what they want. So nothing has to be kept beyond a restart: a report about an order that
is not known here makes it known, and a client's question brings the rest.

Nobody is waited for beyond the time-out. An order that waits is dropped when no client has asked for
it for so long. One that runs without a word from its server waits again if a client still asks; else
it is dropped too.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

NEVER = float("-inf")


class Order(Protocol):
    """What is to be done. key: two orders with the same one are the same work."""

    @property
    def key(self) -> Hashable: ...

    @property
    def server(self) -> str: ...


OrderT = TypeVar("OrderT", bound=Order)


@dataclass(slots=True)
class _Waiting(Generic[OrderT]):
    order: OrderT
    asked: float


@dataclass(slots=True)
class _Running(Generic[OrderT]):
    """order: None if only its server knows what it is about."""

    server: str
    order: OrderT | None
    asked: float
    heard: float


class Overdue(NamedTuple):
    """Keys of what the time-out has ended. again: waits for another try."""

    dropped: list[Hashable]
    again: list[Hashable]


class WorkQueue(Generic[OrderT]):
    """max_total, max_per_server: most that are started, on all servers and on one. clock: seconds."""

    def __init__(
        self, *, max_total: int, max_per_server: int, timeout_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._max_total = max_total
        self._max_per_server = max_per_server
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._waiting: OrderedDict[Hashable, _Waiting[OrderT]] = OrderedDict()
        self._running: dict[Hashable, _Running[OrderT]] = {}
        self._resting: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._waiting or key in self._running

    def is_running(self, key: Hashable) -> bool:
        return key in self._running

    def server_of(self, key: Hashable) -> str:
        """Of the server that does it, or shall do it; "" if there is no such order."""
        if running := self._running.get(key):
            return running.server
        waiting = self._waiting.get(key)
        return waiting.order.server if waiting else ""

    def ask(self, order: OrderT) -> None:
        """A client wants it: it goes to the end of the line, or keeps its place. The newest order counts."""
        now = self._clock()
        running = self._running.get(order.key)
        if running is not None:
            running.order, running.asked = order, now
        else:
            # An entry that is there keeps its place.
            self._waiting[order.key] = _Waiting(order, now)

    def hear(self, key: Hashable, server: str) -> None:
        """A disk server is at it, whether it was told by us or by one who was here before."""
        now = self._clock()
        if running := self._running.get(key):
            running.heard = now
            return
        waiting = self._waiting.pop(key, None)
        order, asked = (waiting.order, waiting.asked) if waiting else (None, NEVER)
        self._running[key] = _Running(server, order, asked, now)

    def finish(self, key: Hashable) -> None:
        """It is over, or nobody shall do it any more."""
        self._waiting.pop(key, None)
        self._running.pop(key, None)

    def start(self, is_ready: Callable[[OrderT], bool] = lambda order: True) -> list[OrderT]:
        """What has room now, those first that have waited longest; from now on it counts as running.

        is_ready: whether an order can be given to its server at all; those that cannot wait.
        """
        now = self._clock()
        load = Counter(running.server for running in self._running.values())
        room = self._max_total - len(self._running)
        started: list[OrderT] = []
        for waiting in self._waiting.values():
            if len(started) >= room:
                break
            server = waiting.order.server
            if load[server] >= self._max_per_server or self._is_resting(server, now):
                continue
            if is_ready(waiting.order):
                load[server] += 1
                started.append(waiting.order)
        for order in started:
            asked = self._waiting.pop(order.key).asked
            self._running[order.key] = _Running(order.server, order, asked, heard=now)
        return started

    def put_back(self, key: Hashable) -> None:
        """It was started, but its server has not got it: it waits again, before all others."""
        running = self._running.pop(key, None)
        if running is not None and running.order is not None:
            self._waiting[key] = _Waiting(running.order, running.asked)
            self._waiting.move_to_end(key, last=False)

    def rest(self, server: str, seconds: float) -> None:
        """Nothing is started on that server for so long."""
        self._resting[server] = self._clock() + seconds

    def expire(self) -> Overdue:
        """Ends what has been silent for the time-out."""
        due = self._clock() - self._timeout_seconds
        again: list[Hashable] = []
        dropped = [key for key, waiting in self._waiting.items() if waiting.asked <= due]
        for key, running in self._running.items():
            if running.heard <= due:
                is_wanted = running.order is not None and running.asked > due
                (again if is_wanted else dropped).append(key)
        for key in dropped:
            self.finish(key)
        for key in again:
            self.put_back(key)
        self._resting = {server: end for server, end in self._resting.items() if end > self._clock()}
        return Overdue(dropped, again)

    def _is_resting(self, server: str, now: float) -> bool:
        return self._resting.get(server, NEVER) > now
