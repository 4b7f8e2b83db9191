"""The connections and facts that every command works with.

A `Session` has one connection to each database; workers open further pairs through it. It
checks once, at the start, that both databases are what they were at `init`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import asyncpg

from dome_bridge.chimera import schema as chimera_schema
from dome_bridge.chimera import state, target
from dome_bridge.chimera.schema import ChimeraLayout
from dome_bridge.chimera.state import Site
from dome_bridge.config import Config, DpmConfig
from dome_bridge.dpm.schema import SourceLayout, read_layout
from dome_bridge.dpm.source import Source
from dome_bridge.errors import CaptureError
from dome_bridge.exporter import capture
from dome_bridge.exporter.capture import CaptureStatus
from dome_bridge.exporter.mirror import Mirror
from dome_bridge.exporter.projection import Projection

logger = logging.getLogger(__name__)

STATEMENT_SECONDS = 600.0
"""No statement of ours takes the source longer; it is more than counting the largest catalog needs."""


class WatchedSource(Source):
    """A source whose statements end: a server that has gone silent becomes a lost connection."""

    # ruff: noqa: ASYNC109 -- the timeout keyword is the base's

    statement_seconds = STATEMENT_SECONDS

    @classmethod
    async def open(
        cls, dpm: DpmConfig, *, admin: bool = False, statement_seconds: float | None = None
    ) -> Self:
        """Connects. statement_seconds: None for the usual limit of a statement."""
        source = await cls.connect(dpm, admin=admin)
        assert isinstance(source, cls)
        source.statement_seconds = statement_seconds or STATEMENT_SECONDS
        return source

    async def fetch(
        self, sql: str, args: Sequence[object] = (), *, timeout: float | None = None
    ) -> list[tuple[Any, ...]]:
        return await super().fetch(sql, args, timeout=timeout or self.statement_seconds)

    async def execute(self, sql: str, args: Sequence[object] = (), *, timeout: float | None = None) -> int:
        return await super().execute(sql, args, timeout=timeout or self.statement_seconds)


@dataclass(frozen=True)
class Databases:
    """Both databases, known to be of the right kind; nothing is said of an `init`."""

    config: Config
    source: Source
    layout: SourceLayout
    conn: asyncpg.Connection
    chimera: ChimeraLayout


@asynccontextmanager
async def open_databases(config: Config) -> AsyncIterator[Databases]:
    """Connects to both and checks their kinds; the errors have exit code 2."""
    async with AsyncExitStack() as stack:
        source = await WatchedSource.open(config.dpm)
        stack.push_async_callback(source.close)
        layout = await read_layout(source)
        conn = await target.connect(config.chimera)
        stack.push_async_callback(target.close, conn)
        async with target.told("looking at the Chimera database"):
            chimera = await chimera_schema.inspect(conn)
        yield Databases(config, source, layout, conn, chimera)


@asynccontextmanager
async def admin_source(config: Config) -> AsyncIterator[Source]:
    """A connection that may create triggers: `[dpm] admin_user`, or `user` where there is none."""
    source = await WatchedSource.open(config.dpm, admin=bool(config.dpm.admin_user))
    try:
        yield source
    finally:
        await source.close()


@dataclass(frozen=True)
class Session:
    """Open connections of an initialised site."""

    config: Config
    source: Source
    layout: SourceLayout
    conn: asyncpg.Connection
    site: Site

    async def open_mirror(self) -> Mirror:
        """A mirror with connections of its own; end it with `close_mirror`."""
        source = await WatchedSource.open(self.config.dpm)
        try:
            conn = await target.connect(self.config.chimera)
        except BaseException:
            await source.close()
            raise
        try:
            return await Mirror.open(source, self.layout, conn, self.site)
        except BaseException:
            await _close_pair(source, conn)
            raise

    async def close_mirror(self, mirror: Mirror) -> None:
        await _close_pair(mirror.source, mirror.conn)

    @asynccontextmanager
    async def mirror(self) -> AsyncIterator[Mirror]:
        mirror = await self.open_mirror()
        try:
            yield mirror
        finally:
            await self.close_mirror(mirror)

    @asynccontextmanager
    async def projection(self) -> AsyncIterator[Projection]:
        """A pair of connections that only projects, for verify."""
        async with AsyncExitStack() as stack:
            source = await WatchedSource.open(self.config.dpm)
            stack.push_async_callback(source.close)
            conn = await target.connect(self.config.chimera)
            stack.push_async_callback(target.close, conn)
            yield await Projection.open(source, self.layout, conn, self.site)

    async def require_capture(self) -> None:
        """Refuses to mirror when changes could be missed."""
        found = await capture.inspect(self.source, self.layout)
        if found.status is CaptureStatus.UNKNOWN:
            logger.warning("capture cannot be inspected: the account lacks TRIGGER; status=%s", found.status)
            return
        if not found.is_current:
            broken = ", ".join((*found.missing, *found.outdated)[:5]) or "the journal"
            raise CaptureError(
                f"the change capture is {found.status} ({broken}): changes may have been lost; run "
                "`dome-bridge init` to set it up again, then `dome-bridge verify --repair`"
            )


async def _close_pair(source: Source, conn: asyncpg.Connection) -> None:
    try:
        await source.close()
    finally:
        await target.close(conn)


@asynccontextmanager
async def open_session(config: Config) -> AsyncIterator[Session]:
    """Connects, checks the kinds, and refuses if anything fixed at `init` has changed."""
    async with open_databases(config) as databases:
        async with target.told("reading the bridge's state"):
            site = await state.load_site(databases.conn)
            await state.upgrade(databases.conn)
        state.require_same(
            site,
            layout=databases.chimera,
            root_fileid=databases.layout.root_fileid,
            timezone=config.chimera.timezone,
        )
        yield Session(config, databases.source, databases.layout, databases.conn, site)
