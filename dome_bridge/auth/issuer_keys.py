"""The keys of one issuer, kept fresh in the background (D7 to D10, H9).

A token is checked with the keys that are there; it waits for a fetch only if its own key is not among them,
or if there are none at all, and such a fetch is made at most once a minute. While an issuer is down its last
keys count until they are too old. Every issuer has a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dome_bridge.auth.discovery import Fetched
from dome_bridge.auth.key_store import Kept, KeyStore
from dome_bridge.auth.keyset import Key, KeySet, KeySetError
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.trace import shown

log = logging.getLogger(__name__)

HOUR = 3600.0
DAY = 24 * HOUR

ON_DEMAND_SECONDS = 60.0
"""Shortest time between two fetches that tokens cause."""

_MIN_REFRESH = 1 * HOUR
_MAX_REFRESH = 6 * HOUR
_FIRST_RETRY = 60.0
_LAST_RETRY = 15 * 60.0
_CLOCK_SKEW = 300.0

Fetch = Callable[[], Awaitable[Fetched]]
"""Raises KeySetError."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """refresh: seconds between two fetches. keep: how long keys count while there is no newer answer."""

    refresh: float = 6 * HOUR
    keep: float = 2 * DAY

    def pause(self, max_age: float | None) -> float:
        """Until the next fetch; an issuer may ask for an earlier one."""
        if max_age is not None and _MIN_REFRESH <= max_age <= _MAX_REFRESH:
            return min(max_age, self.refresh)
        return self.refresh


FILE_REFRESH = 60.0
"""Seconds between two looks at keys in a local file, which cost nothing."""


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """Where the keys of an issuer stand, for metrics. fetched: seconds since 1970; None: never.

    failures: fetches in a row that failed; error: why the last one did.
    """

    issuer: str
    usable: bool
    keys: int
    fetched: float | None
    failures: int
    error: str


class IssuerKeys:
    """Keys of the issuer `name`; usable between `start` and `stop`.

    now: seconds since 1970. store: where they are kept over a restart, if anywhere.
    """

    def __init__(
        self,
        name: str,
        fetch: Fetch,
        *,
        schedule: Schedule | None = None,
        store: KeyStore | None = None,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self._fetch = fetch
        self._schedule = schedule or Schedule()
        self._store = store
        self._now = now
        self._sleep = sleep
        self._kept: Kept | None = None
        self._max_age: float | None = None
        self._failures = 0
        self._error = ""
        self._demanded = float("-inf")
        self._keeper: asyncio.Task[None] | None = None
        self._under_way: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes what was kept, and begins to fetch; does not wait for the issuer."""
        if self._store is not None:
            self._take_kept(await asyncio.to_thread(self._store.load))
        self._keeper = asyncio.create_task(self._keep_fresh(), name=f"keys of issuer {self.name}")
        self._refreshing()

    async def stop(self) -> None:
        """Harmless when not started."""
        tasks = [task for task in (self._keeper, self._under_way) if task is not None]
        self._keeper = self._under_way = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def key(self, kid: str) -> Key:
        """The key of this name, fetched if need be. Raises AuthError: 401 by T7, or 503 by H9."""
        if (found := self._known(kid)) is None:
            await self._refresh_on_demand()
            found = self._known(kid)
        if found is not None:
            return found
        if self.current is None:
            raise AuthError(
                503,
                "H9",
                Reason.NO_KEYS,
                f"issuer {self.name} has no keys that can be used: {self._error or 'it was not reached yet'}",
            )
        raise AuthError(401, "T7", Reason.UNKNOWN_KEY, f"issuer {self.name} has no key {shown(kid)}")

    @property
    def current(self) -> KeySet | None:
        """The keys that count now; None if they are too old or there never were any."""
        if self._kept is None or self._now() - self._kept.fetched >= self._schedule.keep:
            return None
        return self._kept.keys

    @property
    def status(self) -> KeyStatus:
        current = self.current
        return KeyStatus(
            self.name,
            current is not None,
            len(current.keys) if current else 0,
            self._kept.fetched if self._kept else None,
            self._failures,
            self._error,
        )

    def _known(self, kid: str) -> Key | None:
        current = self.current
        return current.get(kid) if current else None

    async def _refresh_on_demand(self) -> None:
        """One fetch for all who ask meanwhile; none if there was one for this reason lately."""
        if self._under_way is None:
            now = self._now()
            if 0 <= now - self._demanded < ON_DEMAND_SECONDS:
                return
            self._demanded = now
        # Waiting like this, a caller who is cancelled takes nothing away from the others.
        await asyncio.wait({self._refreshing()})

    def _refreshing(self) -> asyncio.Task[None]:
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._refresh(), name=f"key fetch of issuer {self.name}")
            self._under_way.add_done_callback(self._forget)
        return self._under_way

    def _forget(self, task: asyncio.Task[None]) -> None:
        if self._under_way is task:
            self._under_way = None

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.wait({self._refreshing()})
            await self._sleep(self._pause())

    def _pause(self) -> float:
        if self._failures:
            return min(_FIRST_RETRY * 2.0 ** min(self._failures - 1, 10), _LAST_RETRY)
        return self._schedule.pause(self._max_age)

    async def _refresh(self) -> None:
        try:
            await self._take(await self._fetch())
        except KeySetError as error:
            self._note_failure(str(error))
        except Exception as error:
            log.exception("keys could not be fetched issuer=%s", self.name)
            self._note_failure(f"{type(error).__name__}, see the log")

    def _note_failure(self, reason: str) -> None:
        self._failures += 1
        self._error = reason
        level = logging.WARNING if self.current is not None else logging.ERROR
        log.log(level, "keys were not refreshed issuer=%s %s: %s", self.name, self._age(), reason)

    def _age(self) -> str:
        if self._kept is None:
            return "its tokens are refused: there are no keys"
        age = self._now() - self._kept.fetched
        if age < self._schedule.keep:
            return f"keys_age_h={age / HOUR:.1f} counted_until_h={self._schedule.keep / HOUR:.0f}"
        return f"its tokens are refused: keys_age_h={age / HOUR:.1f}"

    async def _take(self, fetched: Fetched) -> None:
        before = self._kept.keys if self._kept else None
        is_new = before != fetched.keys
        # An unchanged key set stays the same object, for those who remember what was checked with it.
        keys = fetched.keys if before is None or is_new else before
        self._kept = Kept(keys, self._now())
        self._max_age, self._failures, self._error = fetched.max_age, 0, ""
        if is_new:
            self._log_change(before, keys)
        if self._store is not None:
            await asyncio.to_thread(self._store.save, keys, self._kept.fetched)

    def _log_change(self, before: KeySet | None, keys: KeySet) -> None:
        old = set(before.keys) if before else set()
        log.info(
            "keys are taken issuer=%s before=%d after=%d new=%a gone=%a",
            self.name,
            len(old),
            len(keys.keys),
            sorted(set(keys.keys) - old),
            sorted(old - set(keys.keys)),
        )
        for reason in keys.skipped:
            log.warning("a key is not used issuer=%s %s", self.name, reason)
        if not keys.keys:
            log.error("its tokens are refused: none of its keys can be used issuer=%s", self.name)

    def _take_kept(self, kept: Kept | None) -> None:
        if kept is None:
            return
        age = self._now() - kept.fetched
        if not -_CLOCK_SKEW <= age < self._schedule.keep:
            log.warning("kept keys are ignored issuer=%s: they are %.1f days old", self.name, age / DAY)
            return
        self._kept = kept
        log.info(
            "kept keys are taken issuer=%s keys=%d age_h=%.1f", self.name, len(kept.keys.keys), age / HOUR
        )
