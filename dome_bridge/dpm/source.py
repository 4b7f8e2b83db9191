"""One connection to DPM's MariaDB or MySQL.

DPM's text columns are labelled latin1 and hold whatever bytes the clients sent, in practice
UTF-8. So nothing here is ever transcoded: text comes out as bytes, text parameters go in as
hexadecimal literals, which take the character set of the column they are compared with (its
index stays usable) and need no escaping in any SQL mode.

A connection that was interrupted in the middle of a statement is out of step with the server
and is closed at once; `is_lost` tells the errors after which a new connection can help.
"""

# ruff: noqa: ASYNC109 -- the timeout keyword closes the connection too, which a caller's own would not name

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import aiomysql
import pymysql
from pymysql.constants import CR, ER, FIELD_TYPE

from dome_bridge.errors import BridgeError, PrivilegeError, SchemaError, SourceError

if TYPE_CHECKING:
    from dome_bridge.config import DpmConfig

logger = logging.getLogger(__name__)

Row = tuple[Any, ...]

MIB = 1024 * 1024
DAY = 24 * 60 * 60

GROUP_CONCAT_BYTES = 256 * MIB
"""Asked for each session; `max_allowed_packet` of the server is the limit above it."""

ER_UNKNOWN_SYSTEM_VARIABLE = 1193
ER_CUT_VALUE_GROUP_CONCAT = 1260
ER_SIGNAL_EXCEPTION = 1644
ER_ACCESS_DENIED_NO_PASSWORD = 1698
ER_CONNECTION_KILLED = 1927
ER_CLIENT_INTERACTION_TIMEOUT = 4031

_DENIED = frozenset(
    {
        ER.ACCESS_DENIED_ERROR,
        ER.DBACCESS_DENIED_ERROR,
        ER.TABLEACCESS_DENIED_ERROR,
        ER.COLUMNACCESS_DENIED_ERROR,
        ER.SPECIFIC_ACCESS_DENIED_ERROR,
        ER.PROCACCESS_DENIED_ERROR,
        ER.BINLOG_CREATE_ROUTINE_NEED_SUPER,
        ER_ACCESS_DENIED_NO_PASSWORD,
    }
)
_LOST = frozenset(
    {
        0,  # the driver's own "Not connected"
        CR.CR_CONNECTION_ERROR,
        CR.CR_CONN_HOST_ERROR,
        CR.CR_SERVER_GONE_ERROR,
        CR.CR_SERVER_LOST,
        ER.CON_COUNT_ERROR,
        ER.SERVER_SHUTDOWN,
        ER.NORMAL_SHUTDOWN,
        ER.FORCING_CLOSE,
        ER.NEW_ABORTING_CONNECTION,
        ER_CONNECTION_KILLED,
        ER_CLIENT_INTERACTION_TIMEOUT,
    }
)

_SESSION = (
    "SET NAMES latin1 COLLATE latin1_bin",
    "SET character_set_results = NULL",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    f"SET SESSION group_concat_max_len = {GROUP_CONCAT_BYTES}",
    "SET SESSION net_write_timeout = 3600",
    "SET SESSION net_read_timeout = 600",
    f"SET SESSION wait_timeout = {DAY}",
)
_SESSION_WHERE_KNOWN = (
    "SET SESSION lock_wait_timeout = 60",
    "SET SESSION sql_big_selects = 1",
    "SET SESSION max_statement_time = 0",  # MariaDB: a site's own limit would cut a long range read
    "SET SESSION max_execution_time = 0",  # MySQL's name of the same
    # MariaDB 11.6 and later refuse to lock a row that changed since the transaction's first read
    "SET SESSION innodb_snapshot_isolation = 0",
)


class _NumberedError(BridgeError):
    """Carries what the server said beside the message."""

    def __init__(self, message: str, number: int = 0, sqlstate: str = "") -> None:
        super().__init__(message)
        self.number = number
        self.sqlstate = sqlstate


class StatementError(_NumberedError, SourceError):
    """The server refused a statement; `number` is MySQL's error number, `sqlstate` its class."""


class ConnectionLostError(_NumberedError, SourceError):
    """There is no connection (any more): never made, cut, out of time. Connecting anew may help."""


class AccessError(_NumberedError, PrivilegeError):
    """The account may not do this; `number` is MySQL's error number."""


class MissingDatabaseError(_NumberedError, SchemaError):
    """One of the two databases does not exist under the name in the configuration."""


def is_lost(exc: BaseException) -> bool:
    """Whether connecting again can help: server gone, restarted, out of reach or out of time."""
    return isinstance(exc, ConnectionLostError)


def literal(value: object) -> bytes:
    """The SQL text of a parameter; sequences become a list in parentheses for `IN %s`.

    Text is a hexadecimal literal of its UTF-8 bytes. Raises TypeError for other types and
    ValueError for an empty sequence (`IN ()` is no SQL).
    """
    if value is None:
        return b"NULL"
    if isinstance(value, bool):
        return b"1" if value else b"0"
    if isinstance(value, (int, Decimal)):
        return str(value).encode()
    if isinstance(value, float):
        return repr(value).encode()
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return b"x'" + value.hex().encode() + b"'"
    if isinstance(value, (Sequence, set, frozenset)):
        return _literal_list(value)
    raise TypeError(f"cannot send a {type(value).__name__} to the source database")


def _literal_list(values: Iterable[object]) -> bytes:
    parts = [literal(value) for value in values]
    if not parts:
        raise ValueError("an empty list cannot be sent as an SQL list")
    return b"(" + b",".join(parts) + b")"


def quote_name(name: str) -> str:
    """A schema, table or column name in backticks."""
    return "`" + name.replace("`", "``") + "`"


def parse_version(text: str) -> tuple[int, ...]:
    """`10.11.19-MariaDB-0+deb12u1` as (10, 11, 19)."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


class Source:
    """A connection with autocommit on, bytes in and out.

    Statements of several tasks queue behind each other. After `is_lost` errors, timeouts and
    cancellation inside a statement the connection is closed and stays closed: make a new one.
    """

    def __init__(self, connection: Any, dpm: DpmConfig, user: str) -> None:
        self._connection = connection
        self._statement_lock = asyncio.Lock()
        self.address = _address(dpm)
        self.user = user
        self.cns_name = dpm.cns_db
        self.dpm_name = dpm.dpm_db
        self.cns = quote_name(dpm.cns_db)
        self.dpm = quote_name(dpm.dpm_db)
        self.server_version: tuple[int, ...] = ()
        self.is_mariadb = False
        self.max_allowed_packet = 0
        """Bytes; no row and no GROUP_CONCAT result can be longer."""

    @classmethod
    async def connect(cls, dpm: DpmConfig, *, admin: bool = False, timeout: float = 15.0) -> Source:
        """Connects, prepares the session and checks that both databases exist.

        admin: with `[dpm] admin_user`, if there is one. timeout: seconds for all of it.
        Raises ConnectionLostError, AccessError or MissingDatabaseError.
        """
        user, password = _account(dpm, admin)
        try:
            async with asyncio.timeout(timeout):
                source = cls(await _open(dpm, user, password), dpm, user)
                await source._prepare()
        except TimeoutError as exc:
            raise ConnectionLostError(
                f"no answer from the database server at {_address(dpm)} within {timeout:g} s; "
                "is it up, and are [dpm] host and port right?"
            ) from exc
        except pymysql.Error as exc:
            raise _connect_error(exc, dpm, user, admin) from exc
        except (RuntimeError, ValueError) as exc:
            # the driver's words for an authentication it lacks, or an answer that is not MySQL's
            raise SourceError(f"cannot log in at {_address(dpm)} as {user!r}: {_one_line(exc)}") from exc
        return source

    async def _prepare(self) -> None:
        try:
            await self._prepare_session()
            for name, key in ((self.dpm_name, "dpm_db"), (self.cns_name, "cns_db")):
                await self._use(name, key)
        except BaseException:
            self._connection.close()
            raise

    async def _prepare_session(self) -> None:
        for statement in _SESSION:
            await self.execute(statement)
        for statement in _SESSION_WHERE_KNOWN:
            try:
                await self.execute(statement)
            except StatementError as exc:
                if exc.number != ER_UNKNOWN_SYSTEM_VARIABLE:
                    raise
        version, self.max_allowed_packet = await self._one("SELECT VERSION(), @@max_allowed_packet")
        self.server_version = parse_version(version.decode())
        self.is_mariadb = b"mariadb" in version.lower()

    async def _use(self, name: str, key: str) -> None:
        try:
            await self.execute(f"USE {quote_name(name)}")
        except StatementError as exc:
            if exc.number != ER.BAD_DB_ERROR:
                raise
            raise MissingDatabaseError(
                f"there is no database {name!r} on the server at {self.address}; check [dpm] {key}",
                exc.number,
            ) from exc
        except AccessError as exc:
            raise AccessError(
                f"user {self.user!r} may not use the database {name!r} at {self.address}, or there is none; "
                f"check [dpm] {key}, or give it GRANT SELECT ON {quote_name(name)}.*",
                exc.number,
            ) from exc

    @property
    def is_closed(self) -> bool:
        return bool(self._connection.closed)

    @property
    def connection_id(self) -> int:
        """What the server's process list calls this connection."""
        return int(self._connection.thread_id())

    async def fetch(
        self, sql: str, args: Sequence[object] = (), *, timeout: float | None = None
    ) -> list[Row]:
        """All rows; text comes as bytes, integers as int, dates and other types as bytes.

        timeout: seconds; when they are over the connection is closed and ConnectionLostError
        raised. A GROUP_CONCAT that the server cut short is a StatementError, never a short answer.
        """
        cursor = await self._run(sql, args, timeout)
        return list(cursor.rows)

    async def fetchrow(
        self, sql: str, args: Sequence[object] = (), *, timeout: float | None = None
    ) -> Row | None:
        rows = await self.fetch(sql, args, timeout=timeout)
        return rows[0] if rows else None

    async def fetchval(self, sql: str, args: Sequence[object] = (), *, timeout: float | None = None) -> Any:
        row = await self.fetchrow(sql, args, timeout=timeout)
        return row[0] if row else None

    async def execute(self, sql: str, args: Sequence[object] = (), *, timeout: float | None = None) -> int:
        """Affected rows; an UPDATE counts the rows it changed."""
        cursor = await self._run(sql, args, timeout)
        return int(cursor.rowcount)

    async def _one(self, sql: str) -> Row:
        row = await self.fetchrow(sql)
        assert row is not None
        return row

    async def _run(self, sql: str, args: Sequence[object], timeout: float | None) -> _Cursor:
        statement = sql.encode()
        if args:
            statement %= tuple(literal(arg) for arg in args)
        try:
            async with asyncio.timeout(timeout), self._statement_lock:
                return await self._run_alone(sql, statement)
        except TimeoutError as exc:
            raise ConnectionLostError(
                f"no answer from the database server at {self.address} within {timeout} s "
                f"for: {_beginning(sql)}"
            ) from exc

    async def _run_alone(self, sql: str, statement: bytes) -> _Cursor:
        finished = False
        try:
            cursor: _Cursor = await self._connection.cursor(_Cursor)
            await cursor.execute(statement)
            finished = True
        except pymysql.Error as exc:
            error = self._error(exc, sql)
            finished = not is_lost(error)
            raise error from exc
        finally:
            if not finished:
                self._connection.close()
        cursor.raise_if_cut()
        return cursor

    def _error(self, exc: pymysql.Error, sql: str) -> _NumberedError:
        number, message, sqlstate = _parts(exc)
        where = f"at {self.address} as {self.user!r}"
        if number in _LOST:
            return ConnectionLostError(f"lost the database server {where}: {message}", number, sqlstate)
        if number in _DENIED:
            return AccessError(
                f"{message} ({where}, for: {_beginning(sql)}); GRANT the right or set [dpm] admin_user",
                number,
                sqlstate,
            )
        text = f"the database {where} refused {_beginning(sql)!r}: {message} (error {number})"
        return StatementError(text, number, sqlstate)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[None]:
        """Several reads of one state, in both databases: a consistent snapshot from here to the end."""
        await self.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        try:
            yield
        except BaseException:
            await self.roll_back()
            raise
        await self.execute("COMMIT")

    async def roll_back(self) -> None:
        """Ends a transaction without its changes; where that fails, the connection ends too."""
        if self.is_closed:
            return
        try:
            await self.execute("ROLLBACK", timeout=5.0)
        except BridgeError as exc:
            logger.debug("rolling back failed error=%s", exc)
            self.abandon()

    def abandon(self) -> None:
        """Closes without goodbye: for a connection that is lost or out of step."""
        self._connection.close()

    async def close(self) -> None:
        """Says goodbye to the server if it can; harmless when closed already."""
        try:
            async with asyncio.timeout(2.0):
                await self._connection.ensure_closed()
        except (OSError, pymysql.Error):
            logger.debug("closing without goodbye: address=%s", self.address)
        finally:
            self._connection.close()

    async def __aenter__(self) -> Source:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


class _Cursor(aiomysql.Cursor):  # type: ignore[misc]
    """Keeps the server's warnings instead of sending them through Python's warning filter."""

    server_warnings: tuple[Row, ...] = ()

    async def _show_warnings(self, conn: Any) -> None:
        self.server_warnings = tuple(await conn.show_warnings())

    @property
    def rows(self) -> Sequence[Row]:
        return self._rows or ()

    def raise_if_cut(self) -> None:
        for _, number, message in self.server_warnings:
            if number == ER_CUT_VALUE_GROUP_CONCAT:
                raise StatementError(
                    f"a result longer than max_allowed_packet was cut by the server: {_text(message)}", number
                )


def _decimal(data: bytes) -> int | Decimal:
    """SUM() of integers is DECIMAL on the wire and an integer to everybody."""
    return Decimal(data.decode()) if b"." in data else int(data)


_INTEGERS = (
    FIELD_TYPE.TINY,
    FIELD_TYPE.SHORT,
    FIELD_TYPE.INT24,
    FIELD_TYPE.LONG,
    FIELD_TYPE.LONGLONG,
    FIELD_TYPE.YEAR,
)
_DECODERS: dict[int, Any] = {
    **dict.fromkeys(_INTEGERS, int),
    FIELD_TYPE.FLOAT: float,
    FIELD_TYPE.DOUBLE: float,
    FIELD_TYPE.DECIMAL: _decimal,
    FIELD_TYPE.NEWDECIMAL: _decimal,
}


async def _open(dpm: DpmConfig, user: str, password: str) -> Any:
    return await aiomysql.connect(
        host=dpm.host,
        port=dpm.port,
        unix_socket=dpm.unix_socket or None,
        user=user,
        # the driver encodes with latin1; this makes it send the UTF-8 bytes
        password=password.encode().decode("latin1"),
        charset="latin1",
        use_unicode=False,
        conv=_DECODERS,
        autocommit=True,
        program_name="dome-bridge",
    )


def _account(dpm: DpmConfig, admin: bool) -> tuple[str, str]:
    if admin and dpm.admin_user:
        return dpm.admin_user, dpm.admin_password
    return dpm.user, dpm.password


def _address(dpm: DpmConfig) -> str:
    return f"socket {dpm.unix_socket}" if dpm.unix_socket else f"{dpm.host}:{dpm.port}"


def _connect_error(exc: pymysql.Error, dpm: DpmConfig, user: str, admin: bool) -> _NumberedError:
    number, message, sqlstate = _parts(exc)
    address = _address(dpm)
    prefix = "admin_" if admin and dpm.admin_user else ""
    if number in (ER.ACCESS_DENIED_ERROR, ER_ACCESS_DENIED_NO_PASSWORD):
        return AccessError(
            f"the database server at {address} does not let user {user!r} in: {message}; "
            f"check [dpm] {prefix}user and [dpm] {prefix}password",
            number,
            sqlstate,
        )
    if number in (CR.CR_CONNECTION_ERROR, CR.CR_CONN_HOST_ERROR):
        keys = "is [dpm] unix_socket" if dpm.unix_socket else "are [dpm] host and port"
        cause = _one_line(exc.__cause__) if exc.__cause__ else message
        return ConnectionLostError(
            f"cannot connect to the database server at {address}: {cause}; is it up, and {keys} right?",
            number,
            sqlstate,
        )
    return StatementError(
        f"cannot log in at {address} as {user!r}: {message} (error {number})", number, sqlstate
    )


def _parts(exc: pymysql.Error) -> tuple[int, str, str]:
    number = exc.args[0] if exc.args and isinstance(exc.args[0], int) else 0
    message = exc.args[1] if len(exc.args) > 1 else str(exc)
    return number, _one_line(message), getattr(exc, "sqlstate", None) or ""


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _one_line(value: object) -> str:
    return " ".join(str(value).split())


def _beginning(sql: str, length: int = 80) -> str:
    """Enough to recognise a statement, without its parameters."""
    text = _one_line(sql)
    return text if len(text) <= length else text[:length] + "…"
