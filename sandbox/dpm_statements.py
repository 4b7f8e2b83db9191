"""The statements by which DPM's daemons change their databases, in their order and transactions.

What DOME issues for a create, a putdone, an unlink and so on, over one connection, as a random
writer or a scenario calls it. Text is sent as the bytes that it has in UTF-8 to columns labelled
latin1, as DPM does; bytes that are not UTF-8 are lone surrogates.
"""

from __future__ import annotations

import asyncio
import random
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
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


def text(value: bytes | str) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


class Session:
    """One connection to DPM's server, in autocommit except within `transaction`.

    `linger`: longest pause in seconds that is made now and then in the middle of an operation and before a commit;
    `rollbacks`: share of the transactions that end in a rollback.
    """

    def __init__(
        self,
        connection: Any,
        cns: str,
        dpm: str,
        rng: random.Random,
        *,
        linger: float = 0.0,
        rollbacks: float = 0.0,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.connection = connection
        self.rng = rng
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

    async def pick(self, kind: int, *, at_least: int = ROOT_FILEID + 1, size_known: bool = False) -> Node:
        """An entry of the type at random, never the root."""
        ((last,),) = await self.rows(f"SELECT IFNULL(MAX(id), 1) FROM {self.cns}.Cns_unique_id")
        start = self.rng.randrange(at_least, max(at_least, last) + 1)
        for lowest in (start, at_least):
            found = await self.rows(
                f"{self._select_node} WHERE fileid >= %s AND filemode & 61440 = %s"
                f"{' AND filesize > 0' if size_known else ''} ORDER BY fileid LIMIT 1",
                lowest,
                kind,
            )
            if found:
                return self._node(found[0])
        raise NothingToDo(f"no entry of type {kind:o}")

    async def pick_replica(self, condition: str = "1 = 1") -> Copy:
        ((first, last),) = await self.rows(
            f"SELECT IFNULL(MIN(rowid), 1), IFNULL(MAX(rowid), 1) FROM {self.replica}"
        )
        for lowest in (self.rng.randrange(first, last + 1), first):
            found = await self.rows(
                f"SELECT rowid, fileid, CAST(sfn AS BINARY), CAST(setname AS BINARY) FROM {self.replica}"
                f" WHERE rowid >= %s AND sfn IS NOT NULL AND {condition} ORDER BY rowid LIMIT 1",
                lowest,
            )
            if found:
                rowid, fileid, sfn, setname = found[0]
                return Copy(rowid, fileid, text(sfn), None if setname is None else text(setname))
        raise NothingToDo("no replica")

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
        return Node(row[0], row[1], text(row[2]), *row[3:])

    def _bytes(self, sql: str, args: tuple[object, ...]) -> bytes:
        complete = sql % tuple(literal(value) for value in args) if args else sql
        return complete.encode("utf-8", "surrogateescape")

    async def _roll_back(self) -> None:
        try:
            await self.execute("ROLLBACK")
        except (pymysql.err.Error, OSError):
            self.connection.close()


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
        await session.execute(
            f"UPDATE {session.metadata} SET nlink = %s, mtime = UNIX_TIMESTAMP(), ctime = UNIX_TIMESTAMP()"
            " WHERE fileid = %s",
            found[0][0] + change,
            parent,
        )


async def create_entry(
    session: Session, parent: Node, name: str, mode: int, *, acl: str = "", target: str | None = None
) -> int:
    """File, directory or (with a target) symlink; returns its fileid."""
    async with session.transaction():
        fileid = await next_id(session, "Cns_unique_id")
        gid = parent.gid if parent.mode & stat.S_ISGID else session.rng.choice((parent.gid, 101, 102))
        await session.execute(
            f"INSERT INTO {session.metadata} (fileid, parent_fileid, name, filemode, nlink, owner_uid, gid, filesize,"
            " atime, mtime, ctime, fileclass, status, csumtype, csumvalue, acl, xattr) VALUES (%s, %s, %s, %s, %s, %s,"
            " %s, 0, UNIX_TIMESTAMP(), UNIX_TIMESTAMP(), UNIX_TIMESTAMP(), 0, '-', '', '', %s, '')",
            fileid, parent.fileid, name, mode, int(stat.S_IFMT(mode) != DIRECTORY), parent.uid or 101, gid, acl,
        )  # fmt: skip
        if target is not None:
            await session.execute(
                f"INSERT INTO {session.symlinks} (fileid, linkname) VALUES (%s, %s)", fileid, target
            )
        await count_child(session, parent.fileid, 1)
    return fileid


async def add_replica(
    session: Session, fileid: int, place: Place, path: str, *, setname: str | None = None
) -> Copy:
    """In status P, as dome_put leaves it; `path` is below the file system."""
    sfn = f"{place.server}:{place.fs}/{path}"
    escaped = place.fs.replace("/", "\\/")
    xattr = f'{{"pool": "{place.pool}", "filesystem": "{escaped}", "accountedspacetokenname": "TOKEN"}}'
    await session.execute(
        f"INSERT INTO {session.replica} (fileid, nbaccesses, ctime, atime, ptime, ltime, r_type, status, f_type,"
        " setname, poolname, host, fs, sfn, xattr) VALUES (%s, 0, UNIX_TIMESTAMP(), UNIX_TIMESTAMP(),"
        " UNIX_TIMESTAMP(), UNIX_TIMESTAMP(), NULL, 'P', 'P', %s, %s, %s, %s, %s, %s)",
        fileid, setname, place.pool, place.server, place.fs, sfn, xattr,
    )  # fmt: skip
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
    assignments = [f"{column} = %s" if column in changes else f"{column} = {column}" for column in columns]
    values = [changes[column] for column in columns if column in changes]
    times = "ctime = UNIX_TIMESTAMP(), atime = UNIX_TIMESTAMP(), ptime = UNIX_TIMESTAMP(), ltime = UNIX_TIMESTAMP()"
    await session.execute(
        f"UPDATE {session.replica} SET {times}, {', '.join(assignments)} WHERE rowid = %s", *values, rowid
    )


async def set_checksum(session: Session, fileid: int, adler32: str) -> None:
    await session.execute(
        f"UPDATE {session.metadata} SET xattr = %s, csumtype = 'AD', csumvalue = %s WHERE fileid = %s",
        f'{{"checksum.adler32": "{adler32}"}}',
        adler32,
        fileid,
    )


async def set_size(session: Session, fileid: int, size: int) -> None:
    await session.execute(
        f"UPDATE {session.metadata} SET filesize = %s, ctime = UNIX_TIMESTAMP() WHERE fileid = %s",
        size,
        fileid,
    )


async def account(session: Session, fileid: int, change: int) -> None:
    """Add to the sizes of the ancestors that have one; a size that would become negative stays."""
    line = (await session.ancestry(fileid))[:-1][FIRST_SIZED_DEPTH : LAST_SIZED_DEPTH + 1]
    operator = "+" if change >= 0 else "-"
    async with session.transaction():
        for ancestor in line:
            try:
                await session.execute(
                    f"UPDATE {session.metadata} SET filesize = filesize {operator} %s WHERE fileid = %s",
                    abs(change),
                    ancestor.fileid,
                )
            except pymysql.err.MySQLError as error:
                if error.args[0] != OUT_OF_RANGE:
                    raise


async def charge_token(session: Session, s_token: str, change: int) -> None:
    async with session.transaction():
        await session.execute(
            f"UPDATE {session.dpm}.dpm_space_reserv SET u_space = u_space + %s WHERE s_token = %s",
            change,
            s_token,
        )


async def unlink(session: Session, node: Node) -> None:
    """Delete an entry with all that refers to it; sizes of its replicas are given back before."""
    copies = await session.rows(f"SELECT rowid FROM {session.replica} WHERE fileid = %s", node.fileid)
    for _ in copies:
        await account(session, node.fileid, -node.size)
    async with session.transaction():
        await delete_rows(session, node)


async def delete_rows(session: Session, node: Node) -> None:
    await session.execute(f"DELETE FROM {session.symlinks} WHERE fileid = %s", node.fileid)
    await session.execute(f"DELETE FROM {session.comments} WHERE u_fileid = %s", node.fileid)
    await session.execute(f"DELETE FROM {session.replica} WHERE fileid = %s", node.fileid)
    if await session.execute(f"DELETE FROM {session.metadata} WHERE fileid = %s", node.fileid):
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
        await session.execute(
            f"DELETE FROM {session.replica} WHERE fileid = %s AND sfn = %s", copy.fileid, copy.sfn
        )
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
            await session.execute(
                f"UPDATE {session.metadata} SET name = %s, ctime = UNIX_TIMESTAMP() WHERE fileid = %s",
                name,
                node.fileid,
            )
        if parent == node.parent:
            await session.execute(
                f"UPDATE {session.metadata} SET atime = UNIX_TIMESTAMP(), mtime = UNIX_TIMESTAMP(),"
                " ctime = UNIX_TIMESTAMP() WHERE fileid = %s",
                parent,
            )
            return
        await session.execute(
            f"UPDATE {session.metadata} SET parent_fileid = %s, ctime = UNIX_TIMESTAMP() WHERE fileid = %s",
            parent,
            node.fileid,
        )
        await count_child(session, node.parent, -1)
        await count_child(session, parent, 1)


async def set_owner_and_mode(
    session: Session, node: Node, *, uid: int, gid: int, mode: int, acl: str = ""
) -> None:
    """chmod, chown and setacl are this one statement; an empty ACL leaves the old one."""
    keep = ", acl = %s" if acl else ""
    await session.execute(
        f"UPDATE {session.metadata} SET owner_uid = %s, gid = %s, filemode = (filemode & 61440) | %s{keep},"
        " ctime = UNIX_TIMESTAMP() WHERE fileid = %s",
        *(uid, gid, mode & 0o7777, *([acl] if acl else []), node.fileid),
    )
