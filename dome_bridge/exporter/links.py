"""The link feed: what has to exist in the pool directories of a disk server, a JSON object a line.

Read from the bridge's own table in the Chimera database, which the mirror writes in the very transaction
that writes the location: what is here has its inode, and dCache will not delete it as unknown. The
last line is a cursor; asked again with it, the feed has what changed since, withdrawn links included.

A feed is read in pages, each in a short transaction of its own, in the order in which rows changed. What
changes while it is read comes once more, later on or in the next feed, since the cursor is of the
instant of the first page.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import asyncpg

from dome_bridge.chimera import stage, state, target
from dome_bridge.chimera.state import Phase, Site
from dome_bridge.config import Config
from dome_bridge.errors import StateError

PAGE_LINES = 10_000

_CURSOR = re.compile(r"([0-9A-F]{16})-(\d{1,20})-(\d{1,18})", re.A)
_POSITION = re.compile(rf"({_CURSOR.pattern})@(\d{{1,18}})\.(\d{{1,9}})\.(\d{{1,18}})\.(\d{{1,19}})", re.A)


@dataclass(frozen=True)
class Cursor:
    """Where a feed ended. cluster: of the PostgreSQL server, whose transactions are counted."""

    instance_id: str
    cluster: int
    transaction: int

    def __str__(self) -> str:
        return f"{self.instance_id}-{self.cluster}-{self.transaction}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises StateError for what no feed has printed."""
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise StateError(
                f"{text[:80]!r} is no cursor of a link feed: give the one of its last line as it stands, or "
                "ask for everything, without a cursor"
            )
        return cls(found[1], int(found[2]), int(found[3]))


@dataclass(frozen=True)
class Position:
    """Within a feed, behind a row. end: its cursor to be. first: the transaction that it begins with."""

    end: Cursor
    first: int
    pool: int = 0
    changed: int = 0
    fileid: int = 0

    def __str__(self) -> str:
        return f"{self.end}@{self.first}.{self.pool}.{self.changed}.{self.fileid}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what is no place."""
        found = _POSITION.fullmatch(text)
        return cls(Cursor.parse(found[1]), *map(int, found.groups()[4:])) if found else None

    def behind(self, pool: LinkPool) -> tuple[int, int]:
        """Transaction and entry, in the order of the pool's rows."""
        if pool.id == self.pool:
            return self.changed, self.fileid
        return self.first, -1


@dataclass(frozen=True)
class LinkPool:
    """A pool of the server. `tail` ends each of its lines: pool, file system and directory."""

    id: int
    name: str
    tail: str


@dataclass(frozen=True)
class Page:
    """Lines of a feed. next: where it goes on; a cursor at the end."""

    lines: Sequence[str]
    next: Position | Cursor

    def encode(self) -> bytes:
        key = "cursor" if isinstance(self.next, Cursor) else "next"
        return "".join(f"{line}\n" for line in (*self.lines, json.dumps({key: str(self.next)}))).encode()


class LinkFeed:
    """For one site; may be asked by anybody at any time."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def page(
        self, server: str, *, since: str = "", checksums: bool = False, limit: int = PAGE_LINES
    ) -> Page:
        """One page, through a connection of its own. since: a cursor, "" for everything, or a page's `next`.

        Raises StateError if there is no such server, or the cursor is no good.
        """
        async with self._opened(checksums=checksums) as reader:
            return await reader.page(server, since, limit)

    async def blocks(
        self, server: str, *, since: str = "", checksums: bool = False, limit: int = PAGE_LINES
    ) -> AsyncGenerator[bytes, None]:
        """The whole feed, whole lines at a time. One that does not end with its cursor is not complete."""
        async with self._opened(checksums=checksums) as reader:
            while True:
                page = await reader.page(server, since, limit)
                if isinstance(page.next, Cursor):
                    yield page.encode()
                    return
                yield "".join(f"{line}\n" for line in page.lines).encode()
                since = str(page.next)

    @asynccontextmanager
    async def _opened(self, *, checksums: bool) -> AsyncIterator[_Reader]:
        conn = await target.connect(self._config.chimera)
        try:
            async with target.told("reading the links"):
                site = await state.load_site(conn)
                await state.upgrade(conn)
                sql = _statements(site, checksums=checksums)
                await conn.execute(sql["functions"])
                yield _Reader(conn, site, sql, self._config.dcache.pool_dir)
        finally:
            await target.close(conn)


class _Reader:
    def __init__(self, conn: asyncpg.Connection, site: Site, sql: Mapping[str, str], pool_dir: str) -> None:
        self._conn, self._site, self._sql, self._pool_dir = conn, site, sql, pool_dir

    async def page(self, server: str, since: str, limit: int) -> Page:
        # One snapshot: a first page's cursor must be of the instant that its lines are of.
        async with self._conn.transaction(isolation="repeatable_read", readonly=True):
            place = await self._place(since)
            pools = await self._pools(server)
            if not since and (await state.progress(self._conn)).phase is not Phase.COMMITTED:
                await self._require_coverage(server)
            return await self._read(place, pools, limit)

    async def _place(self, since: str) -> Position:
        row = await self._conn.fetchrow(self._sql["instant"])
        # The system identifier is a signed number there.
        here = Cursor(self._site.instance_id, row["cluster"] % 2**64, row["oldest"])
        place = Position.parse(since)
        if place is not None:
            _require_same(place.end, here, row["next"])
            return place
        if not since:
            return Position(here, 0)
        there = Cursor.parse(since)
        _require_same(there, here, row["next"])
        return Position(here, there.transaction)

    async def _pools(self, server: str) -> tuple[LinkPool, ...]:
        rows = await self._conn.fetch(self._sql["pools"], server.lower())
        if not rows:
            known = ", ".join(row["server"] for row in await self._conn.fetch(self._sql["servers"]))
            raise StateError(
                f"{server!r} has no file system in dpm_fs: give one of {known}"
                if known
                else "nothing is mirrored yet, so there is nothing to link: start `dome-bridge run` first"
            )
        return tuple(
            LinkPool(row["id"], row["pool"], _tail(row["pool"], row["fs"], self._pool_dir)) for row in rows
        )

    async def _require_coverage(self, server: str) -> None:
        if lacking := await self._conn.fetchval(self._sql["uncovered"], server.lower()):
            raise StateError(
                f"{lacking} locations on {server} were mirrored by an older dome-bridge that noted no links: "
                "run `dome-bridge verify --repair` once, then ask again"
            )

    async def _read(self, place: Position, pools: Sequence[LinkPool], limit: int) -> Page:
        lines: list[str] = []
        for pool in pools:
            if pool.id < place.pool:
                continue
            wanted = limit - len(lines)
            behind = place.behind(pool)
            rows = await self._conn.fetch(self._sql["page"], pool.id, pool.name, pool.tail, *behind, wanted)
            lines += [row["line"] for row in rows]
            if len(rows) == wanted:
                last = rows[-1]
                return Page(lines, Position(place.end, place.first, pool.id, last["changed"], last["fileid"]))
        return Page(lines, place.end)


def _require_same(there: Cursor, here: Cursor, next_transaction: int) -> None:
    same = (there.instance_id, there.cluster) == (here.instance_id, here.cluster)
    if not same or there.transaction > next_transaction:
        raise StateError(
            "the cursor is of another mirror or another database server (Chimera was initialised anew, "
            "moved or restored): ask for everything once, without a cursor"
        )


def _statements(site: Site, *, checksums: bool) -> Mapping[str, str]:
    adler32 = stage.fill("dome_bridge.chimera", "links.sql", site)["adler32"]
    return stage.fill("dome_bridge.chimera", "links.sql", site, adler32=adler32 if checksums else "")


def _tail(pool: str, fs: bytes, pool_dir: str) -> str:
    text = fs.decode("utf-8", "surrogateescape")
    path = pool_dir.format(fs=text.rstrip("/"), pool=pool)
    return f",{json.dumps({'pool': pool, 'fs': text, 'path': path}, separators=(',', ':'))[1:]}"
