"""Counts what clients have left behind: uploads that never ended, deletions that are not finished.

Nothing is removed here. An upload may still be under way after days, and only its owner knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from dome_bridge.dome_api.head import Head
from dome_bridge.dome_api.removal import deletions_left
from dome_bridge.dome_api.uploads import abandoned_uploads
from dome_bridge.dpm.source import Source
from dome_bridge.errors import BridgeError

logger = logging.getLogger(__name__)

COUNT_SECONDS = 3600.0
"""No index leads to a status: each count reads all replicas, resting as long as it reads."""


class LeftoverObserver(Protocol):
    """Is told of every count. uploads, deletions: replicas."""

    def leftovers_counted(self, uploads: int, deletions: int) -> None: ...


async def count_leftovers(head: Head, observer: LeftoverObserver) -> None:
    """Once. Deletions: all that are marked, also those that are under way just now."""
    seconds = head.config.api.abandoned_upload_hours * 3600
    uploads = await head.database.read(partial(_abandoned, seconds))
    deletions = await head.database.read(deletions_left)
    observer.leftovers_counted(uploads, len(deletions))


async def _abandoned(seconds: float, source: Source) -> int:
    found = await abandoned_uploads(source, seconds)
    if found.count:
        logger.warning("uploads never ended count=%d oldest=%d", found.count, found.oldest)
    return found.count


async def count_forever(
    head: Head,
    observer: LeftoverObserver,
    *,
    interval: float = COUNT_SECONDS,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """At once and then every so many seconds, until it is cancelled."""
    while True:
        try:
            await count_leftovers(head, observer)
        except BridgeError as exc:
            logger.warning("uploads could not be counted error=%s", exc)
        except Exception:
            logger.exception("uploads could not be counted")
        await sleep(interval)
