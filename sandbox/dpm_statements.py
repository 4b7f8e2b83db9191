"""The statements by which DPM's daemons change their databases, in their order and transactions.

What DOME issues for a create, a putdone, an unlink and so on, over one connection, as a random
writer or a scenario calls it. Text is sent as the bytes that it has in UTF-8 to columns labelled
latin1, as DPM does; bytes that are not UTF-8 are lone surrogates.
"""

from __future__ import annotations

import asyncio
import random
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pymysql

from sandbox.bulk import literal
from sandbox.site import FIRST_SIZED_DEPTH, LAST_SIZED_DEPTH, ROOT_FILEID

OUT_OF_RANGE = 1690
DEEPEST = 128
DIRECTORY, FILE, SYMLINK = stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK

Sleep = Callable[[float], Awaitable[None]]


class NothingToDo(Exception):
    """The catalog has nothing that the operation could be done to."""


class RolledBack(Exception):
    """The transaction was given up on purpose."""


class Node(NamedTuple):
    """What is needed to know of an entry in order to change it."""

    fileid: int
    parent: int
    name: str
    mode: int
    uid: int
    gid: int
    size: int


class Copy(NamedTuple):
    """What is needed to know of a replica in order to change it."""

    rowid: int
    fileid: int
    sfn: str
    setname: str | None


class Place(NamedTuple):
    pool: str
    server: str
    fs: str


class Expression(str):
    """A piece of SQL that stands for a value."""

    __slots__ = ()


NOW = Expression("UNIX_TIMESTAMP()")


def text(value: bytes | str) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


class Ledger:
    """What the sessions of one writer have to know of each other."""

    def __init__(self) -> None:
        self.moving = asyncio.Lock()  # two directories moved at once could become a cycle
        self.broken: list[int] = []
        self.cycles: list[tuple[int, int]] = []  # fileid, former parent
        self.lost_places: list[Place] = []


class Session:
    """One connection to DPM's server, in autocommit except within `transaction`.

    `linger`: longest pause in seconds, made now and then within operations and before commits;
    `rollbacks`: share of the transactions that end in a rollback.
    """

    def __init__(
        self,
        connection: Any,
        cns: str,
        dpm: str,
        rng: random.Random,
        *,
        ledger: Ledger | None = None,
        linger: float = 0.0,
        rollbacks: float = 0.0,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.connection = connection
        self.rng = rng
        self.ledger = ledger or Ledger()
        self.linger = linger
        self.rollbacks = rollbacks
        self.sleep = sleep
        self.in_transaction = False
        self.cns, self.dpm = f"`{cns}`", f"`{dpm}`"
        self.metadata = f"{self.cns}.Cns_file_metadata"
        self.replica = f"{self.cns}.Cns_file_replica"
        self.symlinks = f"{self.cns}.Cns_symlinks"
        self.comments = f"{self.cns}.Cns_user_metadata"

    async def prepare(self) -> None:
        await self.connection.query("SET NAMES latin1")
        await self.connection.query("SET SESSION autocommit = 1, innodb_lock_wait_timeout = 5")

    async def execute(self, sql: str, *args: object) -> int:
        """Returns the number of affected rows."""
        await self.connection.query(self._bytes(sql, args))
        return int(self.connection.affected_rows())

    async def insert(self, table: str, **values: object) -> None:
        columns = ", ".join(f"`{column}`" for column in values)
        marks = ", ".join(["%s"] * len(values))
        await self.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", *values.values())

    async def update(self, table: str, where: Mapping[str, object], **values: object) -> int:
        """Returns the number of changed rows."""
        assignments = ", ".join(f"`{column}` = %s" for column in values)
        conditions = " AND ".join(f"`{column}` = %s" for column in where)
        return await self.execute(
            f"UPDATE {table} SET {assignments} WHERE {conditions}", *values.values(), *where.values()
        )

    async def delete(self, table: str, **where: object) -> int:
        conditions = " AND ".join(f"`{column}` = %s" for column in where)
        return await self.execute(f"DELETE FROM {table} WHERE {conditions}", *where.values())

    async def rows(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        async with self.connection.cursor() as cursor:
            await cursor.execute(self._bytes(sql, args))
            return list(await cursor.fetchall())

    async def row(self, sql: str, *args: object) -> tuple[Any, ...]:
        """The only row, or NothingToDo."""
        found = await self.rows(sql, *args)
        if not found:
            raise NothingToDo(sql)
        return found[0]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Joins the transaction that is open, if one is; raises RolledBack for one that is given up."""
        if self.in_transaction:
            yield
            return
        await self.execute("START TRANSACTION")
        self.in_transaction = True
        try:
            yield
            await self.pause(0.1)
            if self.rng.random() < self.rollbacks:
                raise RolledBack
            await self.execute("COMMIT")
        except BaseException:
            await self._roll_back()
            raise
        finally:
            self.in_transaction = False

    async def pause(self, share: float = 0.05) -> None:
        if self.linger and self.rng.random() < share:
            await self.sleep(self.rng.uniform(0, self.linger))

    async def pick(self, kind: int) -> Node:
        """An entry of the type at random, never the root."""
        for lowest in await self._draw_row(self.metadata):
            found = await self.rows(
                f"{self._select_node} WHERE rowid >= %s AND filemode & 61440 = %s AND fileid <> %s"
                " ORDER BY rowid LIMIT 1",
                *(lowest, kind, ROOT_FILEID),
            )
            if found:
                return self._node(found[0])
        raise NothingToDo(f"no entry of type {kind:o}")

    async def pick_replica(self, condition: str = "1 = 1") -> Copy:
        for lowest in await self._draw_row(self.replica):
            found = await self.rows(
                f"SELECT rowid, fileid, CAST(sfn AS BINARY), CAST(setname AS BINARY) FROM {self.replica}"
                f" WHERE rowid >= %s AND sfn IS NOT NULL AND {condition} ORDER BY rowid LIMIT 1",
                lowest,
            )
            if found:
                rowid, fileid, sfn, setname = found[0]
                return Copy(rowid, fileid, text(sfn), None if setname is None else text(setname))
        raise NothingToDo("no replica")

    async def _draw_row(self, table: str) -> tuple[int, int]:
        """Where to look for a row: from a number at random on, then from the first one on."""
        ((last,),) = await self.rows(f"SELECT MAX(rowid) FROM {table}")
        return self.rng.randrange(1, int(last or 1) + 1), 1

    async def pick_place(self) -> Place:
        places = await self.rows(
            "SELECT CAST(poolname AS BINARY), CAST(server AS BINARY), CAST(fs AS BINARY)"
            f" FROM {self.dpm}.dpm_fs WHERE status = 0 ORDER BY rowid"
        )
        if not places:
            raise NothingToDo("no file system")
        return Place(*map(text, self.rng.choice(places)))

    async def node(self, fileid: int) -> Node:
        return self._node(await self.row(f"{self._select_node} WHERE fileid = %s", fileid))

    async def child(self, parent: int, name: str) -> Node | None:
        found = await self.rows(f"{self._select_node} WHERE parent_fileid = %s AND name = %s", parent, name)
        return self._node(found[0]) if found else None

    async def children(self, parent: int, kind: int, limit: int) -> list[Node]:
        found = await self.rows(
            f"{self._select_node} WHERE parent_fileid = %s AND filemode & 61440 = %s LIMIT {limit}",
            parent,
            kind,
        )
        return [self._node(row) for row in found]

    async def ancestry(self, fileid: int) -> list[Node]:
        """From the root down to the entry; NothingToDo if it hangs in the air or in a circle."""
        line: list[Node] = []
        while fileid:
            line.append(await self.node(fileid))
            fileid = line[-1].parent
            if len(line) > DEEPEST:
                raise NothingToDo("too deep")
        return line[::-1]

    async def path(self, fileid: int) -> str:
        return "/" + "/".join(node.name for node in (await self.ancestry(fileid))[1:])

    @property
    def _select_node(self) -> str:
        return (
            "SELECT fileid, IFNULL(parent_fileid, 0), IFNULL(CAST(name AS BINARY), ''), IFNULL(filemode, 0),"
            f" IFNULL(owner_uid, 0), IFNULL(gid, 0), IFNULL(filesize, 0) FROM {self.metadata}"
        )

    def _node(self, row: tuple[Any, ...]) -> Node:
        fileid, parent, name, *numbers = row
        return Node(int(fileid), int(parent), text(name), *map(int, numbers))

    def _bytes(self, sql: str, args: tuple[object, ...]) -> bytes:
        complete = sql % tuple(map(_written, args)) if args else sql
        return complete.encode("utf-8", "surrogateescape")

    async def _roll_back(self) -> None:
        try:
            await self.execute("ROLLBACK")
        except (pymysql.err.Error, OSError):
            self.connection.close()


def _written(value: object) -> str:
    return value if isinstance(value, Expression) else literal(value)


async def next_id(session: Session, counter: str) -> int:
    """Take the next number of Cns_unique_id, _uid or _gid; belongs into a transaction."""
    table = f"{session.cns}.{counter}"
    found = await session.rows(f"SELECT id FROM {table} FOR UPDATE")
    number = int(found[0][0]) + 1 if found else 1
    await session.execute(
        f"UPDATE {table} SET id = %s" if found else f"INSERT INTO {table} (id) VALUES (%s)", number
    )
    return number


async def count_child(session: Session, parent: int, change: int) -> None:
    """Correct the parent's link count and times; one that has gone meanwhile ends the transaction."""
    found = await session.rows(
        f"SELECT IFNULL(nlink, 0) FROM {session.metadata} WHERE fileid = %s FOR UPDATE", parent
    )
    if not found and change > 0:
        raise RolledBack
    if found:
        nlink = int(found[0][0]) + change
        await session.update(session.metadata, {"fileid": parent}, nlink=nlink, mtime=NOW, ctime=NOW)


async def create_entry(
    session: Session, parent: Node, name: str, mode: int, *, acl: str = "", target: str | None = None
) -> int:
    """File, directory or (with a target) symlink; returns its fileid."""
    async with session.transaction():
        fileid = await next_id(session, "Cns_unique_id")
        gid = parent.gid if parent.mode & stat.S_ISGID else session.rng.choice((parent.gid, 101, 102))
        await session.insert(
            session.metadata,
            fileid=fileid,
            parent_fileid=parent.fileid,
            name=name,
            filemode=mode,
            nlink=int(stat.S_IFMT(mode) != DIRECTORY),
            owner_uid=parent.uid or 101,
            gid=gid,
            filesize=0,
            **dict.fromkeys(("atime", "mtime", "ctime"), NOW),
            fileclass=0,
            status="-",
            csumtype="",
            csumvalue="",
            acl=acl,
            xattr="",
        )
        if target is not None:
            await session.insert(session.symlinks, fileid=fileid, linkname=target)
        await count_child(session, parent.fileid, 1)
    return fileid


async def add_replica(
    session: Session, fileid: int, place: Place, path: str, *, setname: str | None = None
) -> Copy:
    """In status P, as dome_put leaves it; `path` is below the file system."""
    sfn = f"{place.server}:{place.fs}/{path}"
    escaped = place.fs.replace("/", "\\/")
    xattr = f'{{"pool": "{place.pool}", "filesystem": "{escaped}", "accountedspacetokenname": "TOKEN"}}'
    await session.insert(
        session.replica,
        fileid=fileid,
        nbaccesses=0,
        **dict.fromkeys(("ctime", "atime", "ptime", "ltime"), NOW),
        r_type=None,
        status="P",
        f_type="P",
        setname=setname,
        poolname=place.pool,
        host=place.server,
        fs=place.fs,
        sfn=sfn,
        xattr=xattr,
    )
    ((rowid,),) = await session.rows("SELECT LAST_INSERT_ID()")
    return Copy(rowid, fileid, sfn, setname)


async def put_done(session: Session, copy: Copy, size: int, adler32: str | None) -> None:
    """The upload is complete: five changes that commit one by one."""
    await update_replica(session, copy.rowid, status="-")
    await session.pause()
    if adler32 is not None:
        await set_checksum(session, copy.fileid, adler32)
        await session.pause()
    await set_size(session, copy.fileid, size)
    await session.pause()
    await account(session, copy.fileid, size)
    if copy.setname:
        await charge_token(session, copy.setname, -size)


async def update_replica(session: Session, rowid: int, **changes: object) -> None:
    """Rewrites all columns that dome_updatereplica rewrites, with what they held unless it is changed."""
    columns = ("nbaccesses", "f_type", "status", "poolname", "host", "fs", "sfn", "xattr", "setname")
    kept = {column: Expression(f"`{column}`") for column in columns}
    times = dict.fromkeys(("ctime", "atime", "ptime", "ltime"), NOW)
    await session.update(session.replica, {"rowid": rowid}, **times, **kept | changes)


async def set_checksum(session: Session, fileid: int, adler32: str) -> None:
    xattr = f'{{"checksum.adler32": "{adler32}"}}'
    await session.update(session.metadata, {"fileid": fileid}, xattr=xattr, csumtype="AD", csumvalue=adler32)


async def set_size(session: Session, fileid: int, size: int) -> None:
    await session.update(session.metadata, {"fileid": fileid}, filesize=size, ctime=NOW)


async def account(session: Session, fileid: int, change: int) -> None:
    """Add to the sizes of the ancestors that have one; a size that would become negative stays."""
    line = (await session.ancestry(fileid))[:-1][FIRST_SIZED_DEPTH : LAST_SIZED_DEPTH + 1]
    changed = Expression(f"filesize {'+' if change >= 0 else '-'} {abs(change)}")
    async with session.transaction():
        for ancestor in line:
            try:
                await session.update(session.metadata, {"fileid": ancestor.fileid}, filesize=changed)
            except pymysql.err.MySQLError as error:
                if error.args[0] != OUT_OF_RANGE:
                    raise


async def charge_token(session: Session, s_token: str, change: int) -> None:
    async with session.transaction():
        left = Expression(f"u_space + {change}")
        await session.update(f"{session.dpm}.dpm_space_reserv", {"s_token": s_token}, u_space=left)


async def unlink(session: Session, node: Node) -> None:
    """Delete an entry with all that refers to it; sizes of its replicas are given back before."""
    copies = await session.rows(f"SELECT rowid FROM {session.replica} WHERE fileid = %s", node.fileid)
    for _ in copies:
        await account(session, node.fileid, -node.size)
    async with session.transaction():
        await delete_rows(session, node)


async def delete_rows(session: Session, node: Node) -> None:
    await session.delete(session.symlinks, fileid=node.fileid)
    await session.delete(session.comments, u_fileid=node.fileid)
    await session.delete(session.replica, fileid=node.fileid)
    if await session.delete(session.metadata, fileid=node.fileid):
        await count_child(session, node.parent, -1)


async def remove_directory(session: Session, node: Node) -> None:
    """Only if it is empty; looks for children once the row is locked, so that none becomes an orphan."""
    async with session.transaction():
        await session.rows(f"SELECT nlink FROM {session.metadata} WHERE fileid = %s FOR UPDATE", node.fileid)
        if await session.rows(
            f"SELECT fileid FROM {session.metadata} WHERE parent_fileid = %s LIMIT 1 LOCK IN SHARE MODE",
            node.fileid,
        ):
            raise RolledBack
        await delete_rows(session, node)


async def delete_replica(session: Session, copy: Copy) -> None:
    """Together with its file, in a transaction of its own, if it was the last one."""
    node = await session.node(copy.fileid)
    async with session.transaction():
        await session.delete(session.replica, fileid=copy.fileid, sfn=copy.sfn)
    await session.pause()
    await account(session, copy.fileid, -node.size)
    if not await session.rows(f"SELECT rowid FROM {session.replica} WHERE fileid = %s LIMIT 1", copy.fileid):
        async with session.transaction():
            await delete_rows(session, node)
    if copy.setname:
        await charge_token(session, copy.setname, node.size)


async def move(session: Session, node: Node, parent: int, name: str) -> None:
    """Rename, move or both: one row changes whatever lies below; the destination must be free."""
    async with session.transaction():
        if name != node.name:
            await _update_existing(session, node, name=name)
        if parent == node.parent:
            await session.update(session.metadata, {"fileid": parent}, atime=NOW, mtime=NOW, ctime=NOW)
            return
        await _update_existing(session, node, parent_fileid=parent)
        await count_child(session, node.parent, -1)
        await count_child(session, parent, 1)


async def _update_existing(session: Session, node: Node, **values: object) -> None:
    """An entry that has gone meanwhile ends the transaction, as it would leave wrong link counts."""
    if not await session.update(session.metadata, {"fileid": node.fileid}, **values, ctime=NOW):
        raise RolledBack


async def set_owner_and_mode(
    session: Session, node: Node, *, uid: int, gid: int, mode: int, acl: str = ""
) -> None:
    """chmod, chown and setacl are this one statement; an empty ACL leaves the old one."""
    bits = Expression(f"(filemode & 61440) | {mode & 0o7777}")
    given = {"acl": acl} if acl else {}
    await session.update(
        session.metadata, {"fileid": node.fileid}, owner_uid=uid, gid=gid, filemode=bits, ctime=NOW, **given
    )
