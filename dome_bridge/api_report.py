"""What the API's process says of itself to the mirror's, which has the one listener for monitoring.

Whoever connects to the Unix socket gets one text and its end: a line of why the API is not well,
empty when it is, and then the metrics. Nothing is asked, and nothing waits for a database.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, cast

logger = logging.getLogger(__name__)

READ_SECONDS = 2.0
"""Less than the listener gives to its providers: the mirror's own metrics must still be in time."""


class Report(NamedTuple):
    """sickness: why the API is not well, None when it is. exposition: the text of its metrics."""

    sickness: str | None
    exposition: bytes = b""

    def text(self) -> bytes:
        line = " ".join((self.sickness or "").split())
        return line.encode(errors="replace") + b"\n" + self.exposition

    @classmethod
    def of(cls, text: bytes) -> Report:
        """Raises ValueError for one that was cut short."""
        sickness, _, exposition = text.partition(b"\n")
        if not text.endswith(b"\n"):
            raise ValueError("its report was cut short")
        return cls(sickness.decode(errors="replace") or None, exposition)


class _Telling(asyncio.Protocol):
    """Says it and hangs up."""

    def __init__(self, compose: Callable[[], Report]) -> None:
        self._compose = compose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of none of asyncio's classes.
        answer = cast(asyncio.WriteTransport, transport)
        answer.write(self._compose().text())
        answer.close()


@asynccontextmanager
async def served_report(path: Path, compose: Callable[[], Report]) -> AsyncIterator[None]:
    """Reports on the socket `path`; one that a killed process left behind is replaced."""
    server = await asyncio.get_running_loop().create_unix_server(lambda: _Telling(compose), str(path))
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


async def read_report(path: Path, *, seconds: float = READ_SECONDS) -> Report:
    """What the API's process says; that it says nothing is a report as well."""
    try:
        async with asyncio.timeout(seconds):
            return Report.of(await _read(path))
    except TimeoutError:
        return Report(f"the DOME API does not answer within {seconds:g} s")
    except FileNotFoundError:
        return Report("the DOME API does not answer: it is not started")
    except OSError as exc:
        return Report(f"the DOME API does not answer: {os.strerror(exc.errno) if exc.errno else exc}")
    except ValueError as exc:
        return Report(f"the DOME API does not answer: {exc}")


async def _read(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        return await reader.read()
    finally:
        writer.close()
