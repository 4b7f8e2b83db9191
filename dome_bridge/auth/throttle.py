"""How often a source may fail to show who it is: a bucket of tokens for each address or IPv6 /64.

A failure costs a token, a success nothing, so that a busy cluster behind one address never notices.
Requests that were let in side by side may all fail: their source then owes tokens, at most as many as it
could have had.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from dome_bridge.auth.bans import address_of
from dome_bridge.auth.refusal import AuthError, Reason

MOST_SOURCES = 65536
"""Remembered at a time. Beyond that the one that has failed least recently is forgotten."""

IPV6_PREFIX = 64

_LONGEST_NAME = 64


class ThrottledError(AuthError):
    """Nothing of the request was looked at. retry_after: whole seconds, for the header of that name."""

    def __init__(self, source: str, wait: float) -> None:
        super().__init__(429, "L4", Reason.RATE, f"too many failed authentications from {source}")
        self.retry_after = max(1, math.ceil(wait))


class _Bucket(NamedTuple):
    tokens: float
    at: float


class Throttle:
    """Ask `require` before a credential is looked at, tell `failed` when one is no good.

    Neither is for trusted peers. per_second, burst: tokens. clock: seconds that only go forward.
    """

    def __init__(
        self,
        *,
        per_second: float = 10.0,
        burst: int = 50,
        most_sources: int = MOST_SOURCES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._most_sources = most_sources
        self._clock = clock
        # By the time of the last failure. A source that is not here has a full bucket.
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        """How many sources are remembered."""
        return len(self._buckets)

    def wait(self, address: str) -> float:
        """Seconds until a request from there is let in, 0 for at once."""
        tokens = self._tokens(source_of(address), self._clock())
        return max(0.0, (1.0 - tokens) / self._per_second)

    def require(self, address: str) -> None:
        """Raises ThrottledError. address: as text; "" for a Unix socket, which is nobody's in particular."""
        if address and (wait := self.wait(address)) > 0:
            raise ThrottledError(source_of(address), wait)

    def failed(self, address: str) -> None:
        """A credential from there was no good."""
        if not address:
            return
        now, source = self._clock(), source_of(address)
        tokens = max(self._tokens(source, now) - 1.0, -self._burst)
        self._buckets[source] = _Bucket(tokens, now)
        self._buckets.move_to_end(source)
        self._forget(now)

    def _tokens(self, source: str, now: float) -> float:
        bucket = self._buckets.get(source)
        if bucket is None:
            return self._burst
        return min(self._burst, bucket.tokens + (now - bucket.at) * self._per_second)

    def _forget(self, now: float) -> None:
        """Those whose bucket is full again; each failure adds one, so two looks keep pace."""
        for _ in range(2):
            oldest = next(iter(self._buckets))
            if len(self._buckets) <= self._most_sources and self._tokens(oldest, now) < self._burst:
                return
            del self._buckets[oldest]


def source_of(address: str) -> str:
    """Whom a failure is laid to: an IPv4 address, or all of an IPv6 /64, which is one customer's."""
    parsed = address_of(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))
    return str(parsed) if parsed else address[:_LONGEST_NAME]
