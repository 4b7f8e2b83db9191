"""Rows into a private MariaDB, fast: multi-row INSERTs of text as the bytes that it has in UTF-8."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from sandbox.rows import Comment, DiskFile, Entry, Replica, Row, Symlink

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from sandbox.servers import MariaServer

ROWS_PER_INSERT = 2000

TABLES: dict[type[Row], str] = {
    Entry: "Cns_file_metadata",
    Replica: "Cns_file_replica",
    Symlink: "Cns_symlinks",
    Comment: "Cns_user_metadata",
}

Batch = tuple[list[bytes], list[bytes]]


def connected(maria: MariaServer, schema: str | None = None) -> AbstractAsyncContextManager[Any]:
    """An administrator's connection in the character set of DPM's daemons; text columns come as bytes."""
    return maria.connect(schema, charset="latin1", use_unicode=False)


class BulkLoader:
    """Multi-row INSERTs; the next ones are put together in a thread while the server works on these.

    Entries and what refers to them go over two connections at once, without foreign key checks.
    """

    def __init__(self, maria: MariaServer) -> None:
        self._maria = maria
        self._stack = AsyncExitStack()
        self._connections: list[Any] = []

    async def __aenter__(self) -> BulkLoader:
        for _ in range(2):
            connection = await self._stack.enter_async_context(connected(self._maria))
            await connection.query("SET SESSION foreign_key_checks = 0, unique_checks = 0, sql_mode = ''")
            self._connections.append(connection)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def execute(self, sql: str) -> None:
        await self._connections[0].query(sql)

    async def insert(self, columns: str, rows: Iterable[Sequence[object]]) -> None:
        """Insert rows into "table (columns)"; text is stored as the bytes that it has in UTF-8."""
        if sql := insert_statement(columns, rows):
            await self._connections[0].query(sql)

    async def load(self, cns: str, rows: Iterator[Row]) -> None:
        """Insert rows of any kind into the name server's tables, and write the disk files among them."""
        batches = _batches(cns, rows)
        async with asyncio.TaskGroup() as running:
            current: list[asyncio.Task[None]] = []
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                await asyncio.gather(*current)
                current = [
                    running.create_task(_run(connection, statements))
                    for connection, statements in zip(self._connections, batch, strict=True)
                ]


async def _run(connection: Any, statements: list[bytes]) -> None:
    for statement in statements:
        await connection.query(statement)


def _batches(cns: str, rows: Iterator[Row]) -> Iterator[Batch]:
    pending: dict[type[Row], list[Row]] = {kind: [] for kind in TABLES}
    for row in rows:
        if isinstance(row, DiskFile):
            write_disk_file(row)
            continue
        pending[type(row)].append(row)
        if len(pending[Entry]) >= ROWS_PER_INSERT:
            yield _drain(cns, pending)
    yield _drain(cns, pending)


def _drain(cns: str, pending: dict[type[Row], list[Row]]) -> Batch:
    """Statements for the entries, and for all that refers to entries."""
    batch: Batch = ([], [])
    for kind, rows in pending.items():
        columns = f"`{cns}`.{TABLES[kind]} ({', '.join(kind._fields)})"
        if statement := insert_statement(columns, rows):
            batch[kind is not Entry].append(statement)
        rows.clear()
    return batch


def write_disk_file(file: DiskFile) -> None:
    file.path.parent.mkdir(parents=True, exist_ok=True)
    file.path.write_bytes(file.content)


def insert_statement(columns: str, rows: Iterable[Sequence[object]]) -> bytes:
    """One INSERT for all rows; empty when there are none. Lone surrogates become the bytes they stand for."""
    values = ",".join(["(" + ",".join([literal(value) for value in row]) + ")" for row in rows])
    return f"INSERT INTO {columns} VALUES {values}".encode("utf-8", "surrogateescape") if values else b""


def literal(value: object) -> str:
    if value is None:
        return "NULL"
    if type(value) is int:
        return str(value)
    text = str(value)
    if "\\" in text or "'" in text or "\0" in text:
        text = text.replace("\\", "\\\\").replace("'", "\\'").replace("\0", "\\0")
    return f"'{text}'"
