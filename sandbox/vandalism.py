"""What careless admins, crashes and old tools do to a DPM catalog, and how it is repaired.

Each `break_` operation remembers what it broke, so that `repair_entry` and its like can mend
it later: an entry that was left out of a mirror must come back by itself.
"""

from __future__ import annotations

from sandbox.dpm_statements import (
    DIRECTORY,
    FILE,
    NOW,
    SYMLINK,
    Node,
    NothingToDo,
    Session,
    text,
)
from sandbox.operations import draw_adler, insert_filesystem

BAD_NAMES = (b"caf\xe9", b"", b"a/b", b".", b"..", b".(get)(x)(y)", b"a\0b", b"\xff\xfe", b"trail ")
BAD_ACLS = (
    b"garbage",
    b"A8101,C40,F00",
    b"A6101",
    b"\xff\xfe",
    b"A6101,B4102,C6101,F00",
    b"A6101,C4101,F40,",
)
BAD_XATTRS = (b'{"a": "caf\xe9"}', b'{"a": ', b'{"a": "\\u0000"}', b"[1]", b"3", b"nonsense")
BAD_CHECKSUMS = (("AD", "xyz"), ("AD", "123456789"), ("MD", "abc"), ("CS", "deadbeef"), ("XX", "0a1b2c3d"))
BAD_NUMBERS = (
    ("filesize", 2**63),
    ("filesize", 2**64 - 1),
    ("owner_uid", 2**31),
    ("gid", 2**32 - 1),
    ("nlink", -5),
    ("mtime", -1),
    ("ctime", -(2**31)),
    ("filemode", 0o140644),
    ("filemode", 0),
    ("status", "D"),
    ("filesize", None),
    ("filemode", None),
    ("owner_uid", None),
    ("mtime", None),
)
BAD_TARGETS = (b"caf\xe9", b"", None, "ü".encode(), b"a\0b")
BAD_REPLICAS: tuple[dict[str, object], ...] = (
    {"host": "gone.example.org", "fs": "/srv/gone", "sfn": "gone.example.org:/srv/gone/f"},
    {"sfn": "no-host"},
    {"sfn": ""},
    {"sfn": "twice.example.org:/srv/fs1/shared"},
    {"poolname": "nosuchpool"},
    {"host": ""},
    {"status": "D"},
    {"status": None},
    {"fs": None, "host": None},
)


async def pick_any(session: Session) -> Node:
    return await session.pick(session.rng.choice((DIRECTORY, FILE, FILE, SYMLINK)))


async def break_column(session: Session, node: Node, column: str, value: object) -> None:
    stored = text(value) if isinstance(value, bytes) else value
    await session.update(session.metadata, {"fileid": node.fileid}, **{column: stored})
    session.ledger.broken.append(node.fileid)


async def break_name(session: Session) -> None:
    await break_column(session, await pick_any(session), "name", session.rng.choice(BAD_NAMES))


async def break_acl(session: Session) -> None:
    await break_column(session, await pick_any(session), "acl", session.rng.choice(BAD_ACLS))


async def break_xattr(session: Session) -> None:
    await break_column(session, await pick_any(session), "xattr", session.rng.choice(BAD_XATTRS))


async def break_number(session: Session) -> None:
    await break_column(session, await pick_any(session), *session.rng.choice(BAD_NUMBERS))


async def break_checksum(session: Session) -> None:
    file = await session.pick(FILE)
    kind, value = session.rng.choice(BAD_CHECKSUMS)
    await break_column(session, file, "csumtype", kind)
    await break_column(session, file, "csumvalue", value)


async def break_symlink(session: Session) -> None:
    link = await session.pick(SYMLINK)
    target = session.rng.choice(BAD_TARGETS)
    if session.rng.random() < 0.3:
        await session.delete(session.symlinks, fileid=link.fileid)
    else:
        linkname = None if target is None else text(target)
        await session.update(session.symlinks, {"fileid": link.fileid}, linkname=linkname)
    session.ledger.broken.append(link.fileid)


async def add_stray_symlink_row(session: Session) -> None:
    file = await session.pick(FILE)
    await session.insert(session.symlinks, fileid=file.fileid, linkname="/stray")


async def break_replica(session: Session) -> None:
    copy = await session.pick_replica()
    changes = session.rng.choice(BAD_REPLICAS)
    await session.update(session.replica, {"rowid": copy.rowid}, **changes)
    session.ledger.broken.append(copy.fileid)


async def share_sfn(session: Session) -> None:
    """A second row, of the same or another file, for a replica that has one already."""
    copy = await session.pick_replica()
    other = copy.fileid if session.rng.random() < 0.5 else (await session.pick(FILE)).fileid
    same = "ctime, atime, ptime, ltime, status, f_type, poolname, host, fs, sfn"
    await session.execute(
        f"INSERT INTO {session.replica} (fileid, nbaccesses, {same})"
        f" SELECT %s, 0, {same} FROM {session.replica} WHERE rowid = %s",
        other,
        copy.rowid,
    )
    session.ledger.broken.append(other)


async def reassign_replica(session: Session) -> None:
    """A replica row is given to another file: two files change with one row."""
    copy, file = await session.pick_replica(), await session.pick(FILE)
    await session.update(session.replica, {"rowid": copy.rowid}, fileid=file.fileid)


async def repair_entry(session: Session) -> None:
    """Give something that was broken a sane value in every column."""
    if not session.ledger.broken:
        raise NothingToDo("nothing is broken")
    fileid = session.ledger.broken.pop(session.rng.randrange(len(session.ledger.broken)))
    children = await session.rows(
        f"SELECT 1 FROM {session.metadata} WHERE parent_fileid = %s LIMIT 1", fileid
    )
    links = await session.rows(f"SELECT 1 FROM {session.symlinks} WHERE fileid = %s", fileid)
    await session.update(
        session.metadata,
        {"fileid": fileid},
        name=f"repaired-{fileid}",
        filemode=0o40775 if children else 0o120777 if links else 0o100664,
        **{"nlink": 1, "owner_uid": 101, "gid": 101, "filesize": 77, "status": "-"},
        **dict.fromkeys(("mtime", "ctime", "atime"), NOW),
        **dict.fromkeys(("csumtype", "csumvalue", "acl", "xattr"), ""),
    )
    if links:
        await session.update(session.symlinks, {"fileid": fileid}, linkname="/dpm")
    await repair_replicas(session, fileid)


async def repair_replicas(session: Session, fileid: int) -> None:
    place = await session.pick_place()
    for (rowid,) in await session.rows(f"SELECT rowid FROM {session.replica} WHERE fileid = %s", fileid):
        await session.update(
            session.replica,
            {"rowid": rowid},
            poolname=place.pool,
            host=place.server,
            fs=place.fs,
            sfn=f"{place.server}:{place.fs}/vo/repaired/{rowid}",
            status="-",
        )


async def orphan_children(session: Session) -> None:
    """Delete the row of a directory that still has something in it."""
    entry = await session.pick(session.rng.choice((FILE, DIRECTORY)))
    parent = await session.node(entry.parent)
    if parent.parent == 0 or len(await session.ancestry(parent.fileid)) < 5:
        raise NothingToDo("too near to the root")
    await session.delete(session.metadata, fileid=parent.fileid)


async def find_orphan(session: Session) -> Node:
    fileid, *_ = await session.row(
        f"SELECT c.fileid FROM {session.metadata} c"
        f" LEFT JOIN {session.metadata} p ON p.fileid = c.parent_fileid"
        " WHERE p.fileid IS NULL AND c.parent_fileid > 0 LIMIT 1"
    )
    return await session.node(fileid)


async def adopt_orphan(session: Session) -> None:
    orphan, parent = await find_orphan(session), await session.pick(DIRECTORY)
    await session.update(
        session.metadata,
        {"fileid": orphan.fileid},
        parent_fileid=parent.fileid,
        name=f"found-{orphan.fileid}",
    )


async def restore_directory(session: Session) -> None:
    """Put the missing directory of an orphan back, under its old fileid."""
    orphan, parent = await find_orphan(session), await session.pick(DIRECTORY)
    await session.insert(
        session.metadata,
        fileid=orphan.parent,
        parent_fileid=parent.fileid,
        name=f"restored-{orphan.parent}",
        filemode=DIRECTORY | 0o755,
        **{"nlink": 1, "owner_uid": 101, "gid": 101, "filesize": 0, "fileclass": 0, "status": "-"},
        **dict.fromkeys(("atime", "mtime", "ctime"), NOW),
    )


async def make_cycle(session: Session) -> None:
    """A directory is moved below its own child, or into itself."""
    inner = await session.pick(DIRECTORY)
    line = await session.ancestry(inner.fileid)
    outer = session.rng.choice(line[4:]) if len(line) > 4 else None
    if outer is None:
        raise NothingToDo("too near to the root")
    await session.update(session.metadata, {"fileid": outer.fileid}, parent_fileid=inner.fileid)
    session.ledger.cycles.append((outer.fileid, outer.parent))


async def repair_cycle(session: Session) -> None:
    if not session.ledger.cycles:
        raise NothingToDo("no cycle of ours")
    fileid, parent = session.ledger.cycles.pop()
    await session.update(session.metadata, {"fileid": fileid}, parent_fileid=parent)


async def delete_file_row_alone(session: Session) -> None:
    """As on servers where the foreign keys were lost: the replicas stay behind."""
    file = await session.pick(FILE)
    await session.execute("SET SESSION foreign_key_checks = 0")
    try:
        await session.delete(session.metadata, fileid=file.fileid)
    finally:
        await session.execute("SET SESSION foreign_key_checks = 1")


async def delete_replicas_of_server(session: Session) -> None:
    """A disk server is gone; its replicas are deleted in one statement, the files stay."""
    place = await session.pick_place()
    await session.execute(
        f"DELETE FROM {session.replica} WHERE host = %s ORDER BY rowid DESC LIMIT 10", place.server
    )


async def delete_used_filesystem(session: Session) -> None:
    ((count,),) = await session.rows(f"SELECT COUNT(*) FROM {session.dpm}.dpm_fs")
    if count < 4:
        raise NothingToDo("few file systems are left")
    place = await session.pick_place()
    await session.delete(f"{session.dpm}.dpm_fs", poolname=place.pool, server=place.server, fs=place.fs)
    session.ledger.lost_places.append(place)


async def restore_filesystem(session: Session) -> None:
    if not session.ledger.lost_places:
        raise NothingToDo("no file system is missing")
    await insert_filesystem(session, session.ledger.lost_places.pop())


async def mend_checksum(session: Session) -> None:
    file = await session.pick(FILE)
    adler = draw_adler(session.rng)
    await session.update(session.metadata, {"fileid": file.fileid}, csumtype="AD", csumvalue=adler, xattr="")
