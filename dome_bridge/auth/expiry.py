"""A reminder in the log that the host certificate ends soon: without it nobody can connect."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

logger = logging.getLogger(__name__)

DAY = 86400.0
WARNED_DAYS = 14


class ExpiryReminder:
    """Says it once a day, and at once for another certificate. now: seconds since 1970."""

    def __init__(self, file: object, *, now: Callable[[], float] = time.time) -> None:
        self._file = file
        self._now = now
        self._said: tuple[float, float] | None = None

    def check(self, not_after: float) -> None:
        """not_after: seconds since 1970."""
        now = self._now()
        if not_after - now > WARNED_DAYS * DAY or self._was_said(not_after, now):
            return
        self._said = (not_after, now)
        end = datetime.fromtimestamp(not_after, UTC).isoformat(timespec="seconds")
        if not_after <= now:
            logger.error("the host certificate has expired: renew it file=%s not_after=%s", self._file, end)
        else:
            days = (not_after - now) / DAY
            logger.warning(
                "the host certificate expires in %.0f days: renew it file=%s not_after=%s",
                days,
                self._file,
                end,
            )

    def _was_said(self, not_after: float, now: float) -> bool:
        """Of this certificate, today, and while it had not expired yet if it has now."""
        if self._said is None or self._said[0] != not_after or now - self._said[1] >= DAY:
            return False
        return (self._said[1] >= not_after) == (now >= not_after)
