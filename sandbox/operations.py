"""What users, daemons and careful admins do to a DPM catalog, as random operations.

None of them leaves rot behind: whatever they race with, no entry loses its parent and no
directory comes to lie below itself. `sandbox.vandalism` has the operations that do.
"""

from __future__ import annotations

import random
import stat
from collections.abc import Awaitable, Callable

from sandbox.dpm_statements import (
    DIRECTORY,
    FILE,
    NOW,
    SYMLINK,
    Expression,
    Node,
    NothingToDo,
    Place,
    Session,
    account,
    add_replica,
    count_child,
    create_entry,
    delete_replica,
    delete_rows,
    move,
    next_id,
    put_done,
    remove_directory,
    set_checksum,
    set_owner_and_mode,
    set_size,
    unlink,
    update_replica,
)
from sandbox.site import FOREVER, ROOT_FILEID

Operation = Callable[[Session], Awaitable[None]]

OWN = "writer"  # begins the names of users, groups, pools and servers that a writer makes
LONGEST_TOKEN_PATH = 255
FEW_NAMES = (
    "data",
    "Data",
    "DATA",
    "übung",
    "u\u0308bung",
    "результат",
    "it's",
    'a "b"',
    "a\\b",
    "x y",
    "%s",
)
ACLS = (
    "A7{uid},C5{gid},F0",
    "A6{uid},B4102,C6{gid},D4102,E60,F00",
    "A7{uid},B7201,B5202,C5{gid},D7103,D0104,E50,F50",
)
DEFAULTS = (",a70,c50,f50", ",a70,b7203,c50,d7102,e70,f00")
TARGETS = (
    "data",
    "../data",
    "/dpm/example.org/home",
    "../../../no/where",
    "/dpm/données",
    "a\\b",
    "./x//y/../z",
)


def draw_name(rng: random.Random) -> str:
    """Mostly a new name, at times one of a few, so that names are met again."""
    return (
        rng.choice(FEW_NAMES)
        if rng.random() < 0.3
        else f"w{rng.getrandbits(40):010x}{rng.choice(('.root', ''))}"
    )


def draw_size(rng: random.Random) -> int:
    return rng.choice((0, 1, rng.randrange(10**4), rng.randrange(10**10), 2**31, 2**40 + 7))


def draw_adler(rng: random.Random) -> str:
    return f"{rng.getrandbits(32) if rng.random() < 0.7 else rng.getrandbits(20):08x}"


def draw_acl(rng: random.Random, node: Node) -> str:
    acl = rng.choice(ACLS).format(uid=node.uid, gid=node.gid)
    has_defaults = stat.S_ISDIR(node.mode) and rng.random() < 0.5
    return acl + rng.choice(DEFAULTS) if has_defaults else acl


async def draw_token(session: Session) -> str | None:
    found = await session.rows(
        f"SELECT CAST(s_token AS BINARY) FROM {session.dpm}.dpm_space_reserv ORDER BY rowid"
    )
    return session.rng.choice(found)[0].decode() if found and session.rng.random() < 0.8 else None


async def furnish(session: Session) -> None:
    """Give an empty catalog what the operations need: a tree, a pool and two file systems."""
    if not await session.rows(f"SELECT 1 FROM {session.dpm}.dpm_fs LIMIT 1"):
        pool = f"{OWN}-main"
        await session.insert(f"{session.dpm}.dpm_pool", poolname=pool, defsize=1 << 30, s_type="P")
        for server in ("disk01.example.org", "disk02.example.org"):
            await insert_filesystem(session, Place(pool, server, "/srv/fs1"))
    if not await session.rows(f"SELECT 1 FROM {session.metadata} WHERE parent_fileid = 1 LIMIT 1"):
        here = await session.node(ROOT_FILEID)
        for name in ("dpm", "example.org", "home", "dteam"):
            here = await session.node(await create_entry(session, here, name, DIRECTORY | 0o775))


async def insert_filesystem(session: Session, place: Place) -> None:
    table = f"{session.dpm}.dpm_fs"
    await session.insert(table, poolname=place.pool, server=place.server, fs=place.fs, status=0, weight=1)


async def begin_upload(session: Session, parent: Node, name: str) -> int:
    fileid = await create_entry(session, parent, name, FILE | 0o664)
    await session.pause()
    return fileid


async def finish_upload(session: Session, fileid: int) -> None:
    rng = session.rng
    path = f"vo/2024-05-13/{rng.getrandbits(48):x}.{fileid}"
    copy = await add_replica(
        session, fileid, await session.pick_place(), path, setname=await draw_token(session)
    )
    await session.pause()
    await put_done(session, copy, draw_size(rng), draw_adler(rng) if rng.random() < 0.8 else None)


async def upload(session: Session) -> None:
    parent = await session.pick(DIRECTORY)
    await finish_upload(session, await begin_upload(session, parent, draw_name(session.rng)))


async def abandon_upload(session: Session) -> None:
    fileid = await begin_upload(session, await session.pick(DIRECTORY), draw_name(session.rng))
    if session.rng.random() < 0.7:
        await add_replica(session, fileid, await session.pick_place(), f"vo/lost/{fileid}")


async def finish_abandoned_upload(session: Session) -> None:
    copy = await session.pick_replica("status = 'P'")
    await put_done(session, copy, draw_size(session.rng), draw_adler(session.rng))


async def make_directory(session: Session) -> None:
    parent = await session.pick(DIRECTORY)
    mode = DIRECTORY | session.rng.choice((0o755, 0o775, 0o2775, 0o700)) | parent.mode & stat.S_ISGID
    await create_entry(session, parent, draw_name(session.rng), mode)


async def make_tree(session: Session) -> None:
    """Several levels, then a file at the bottom."""
    here = await session.pick(DIRECTORY)
    for _ in range(session.rng.randrange(2, 6)):
        here = await session.node(
            await create_entry(session, here, draw_name(session.rng), DIRECTORY | 0o775)
        )
    await finish_upload(session, await begin_upload(session, here, draw_name(session.rng)))


async def make_symlink(session: Session) -> None:
    parent = await session.pick(DIRECTORY)
    await create_entry(
        session, parent, draw_name(session.rng), SYMLINK | 0o777, target=session.rng.choice(TARGETS)
    )


async def change_symlink_target(session: Session) -> None:
    link = await session.pick(SYMLINK)
    await session.update(session.symlinks, {"fileid": link.fileid}, linkname=session.rng.choice(TARGETS))


async def replicate(session: Session) -> None:
    file = await session.pick(FILE)
    copy = await add_replica(
        session, file.fileid, await session.pick_place(), f"vo/copy/{session.rng.getrandbits(48):x}"
    )
    await session.pause()
    await update_replica(session, copy.rowid, status="-")
    await account(session, file.fileid, file.size)


async def drain_replica(session: Session) -> None:
    """Copy to another file system, then delete the old one."""
    old = await session.pick_replica("status = '-'")
    new = await add_replica(
        session, old.fileid, await session.pick_place(), f"vo/drain/{session.rng.getrandbits(48):x}"
    )
    await update_replica(session, new.rowid, status="-")
    await session.pause()
    await delete_replica(session, old)


async def relocate_replica(session: Session) -> None:
    """The same replica on another file system, as after the move of a disk."""
    copy = await session.pick_replica()
    place = await session.pick_place()
    path = copy.sfn.partition(":")[2].rsplit("/", 1)[-1]
    sfn = f"{place.server}:{place.fs}/vo/moved/{path}.{copy.rowid}"
    await update_replica(
        session,
        copy.rowid,
        poolname=place.pool,
        host=place.server,
        fs=place.fs,
        sfn=sfn,
        setname=copy.setname,
    )


async def touch_replica(session: Session) -> None:
    """A rewrite that changes nothing but times."""
    await update_replica(session, (await session.pick_replica()).rowid)


async def change_replica_status(session: Session) -> None:
    copy = await session.pick_replica()
    await update_replica(session, copy.rowid, status=session.rng.choice(("-", "-", "P", "D")))


async def change_replica_type(session: Session) -> None:
    copy = await session.pick_replica()
    await update_replica(
        session, copy.rowid, f_type=session.rng.choice("PPV"), setname=await draw_token(session)
    )


async def count_access(session: Session) -> None:
    copy = await session.pick_replica()
    more, pinned = Expression("nbaccesses + 1"), Expression("UNIX_TIMESTAMP() + 7200")
    await session.update(session.replica, {"rowid": copy.rowid}, nbaccesses=more, atime=NOW, ptime=pinned)


async def drop_replica(session: Session) -> None:
    await delete_replica(session, await session.pick_replica())


async def unlink_file(session: Session) -> None:
    await unlink(session, await session.pick(FILE))


async def unlink_symlink(session: Session) -> None:
    await unlink(session, await session.pick(SYMLINK))


async def rmdir(session: Session) -> None:
    """The first empty directory after a random one."""
    start = (await session.pick(DIRECTORY)).fileid
    found = await session.rows(
        f"SELECT d.fileid FROM {session.metadata} d WHERE d.fileid >= %s AND d.filemode & 61440 = 16384"
        f" AND NOT EXISTS (SELECT 1 FROM {session.metadata} c WHERE c.parent_fileid = d.fileid)"
        " ORDER BY d.fileid LIMIT 1",
        start,
    )
    if not found:
        raise NothingToDo("no empty directory")
    await remove_directory(session, await session.node(found[0][0]))


async def purge_directory(session: Session) -> None:
    """An admin deletes all files of a directory with multi-row statements."""
    parent = (await session.pick(FILE)).parent
    files = await session.children(parent, FILE, 40)
    fileids = ", ".join(str(file.fileid) for file in files)
    async with session.transaction():
        await session.execute(f"DELETE FROM {session.comments} WHERE u_fileid IN ({fileids})")
        await session.execute(f"DELETE FROM {session.replica} WHERE fileid IN ({fileids})")
        await session.execute(f"DELETE FROM {session.symlinks} WHERE fileid IN ({fileids})")
        deleted = await session.execute(f"DELETE FROM {session.metadata} WHERE fileid IN ({fileids})")
        await count_child(session, parent, -deleted)


async def remove_tree(session: Session) -> None:
    """Recursively, as `rm -r`: one transaction for each entry, the directory last."""
    directory = await session.pick(DIRECTORY)
    if await session.children(directory.fileid, DIRECTORY, 1):
        raise NothingToDo("too large to remove")
    for node in [
        *await session.children(directory.fileid, FILE, 50),
        *await session.children(directory.fileid, SYMLINK, 50),
    ]:
        await unlink(session, node)
    await remove_directory(session, directory)


async def replace_file(session: Session) -> None:
    """Unlink and create again under the same name, as an overwrite does."""
    file = await session.pick(FILE)
    parent = await session.node(file.parent)
    await unlink(session, file)
    await session.pause()
    await finish_upload(session, await begin_upload(session, parent, file.name))


async def replace_file_at_once(session: Session) -> None:
    """The same in one transaction; the name may come back as another type."""
    file = await session.pick(FILE)
    parent = await session.node(file.parent)
    async with session.transaction():
        await delete_rows(session, file)
        if session.rng.random() < 0.5:
            await create_entry(session, parent, file.name, DIRECTORY | 0o775)
            return
        fileid = await create_entry(session, parent, file.name, FILE | 0o664)
        await finish_upload(session, fileid)


async def rename(session: Session) -> None:
    node = await session.pick(session.rng.choice((DIRECTORY, FILE, FILE, SYMLINK)))
    await move(session, node, node.parent, draw_name(session.rng))


async def move_file(session: Session) -> None:
    node = await session.pick(session.rng.choice((FILE, FILE, SYMLINK)))
    target = await session.pick(DIRECTORY)
    name = node.name if session.rng.random() < 0.6 else draw_name(session.rng)
    await move(session, node, target.fileid, name)


async def move_directory(session: Session) -> None:
    async with session.ledger.moving:
        directory = await session.pick(DIRECTORY)
        target = await session.pick(DIRECTORY)
        if directory.fileid in {ancestor.fileid for ancestor in await session.ancestry(target.fileid)}:
            raise NothingToDo("the directory cannot move below itself")
        name = directory.name if session.rng.random() < 0.5 else draw_name(session.rng)
        await move(session, directory, target.fileid, name)


async def move_over_file(session: Session) -> None:
    """The destination exists and is unlinked first, in a transaction of its own."""
    node, victim = await session.pick(FILE), await session.pick(FILE)
    if node.fileid == victim.fileid:
        raise NothingToDo("one file only")
    await unlink(session, victim)
    await session.pause()
    await move(session, node, victim.parent, victim.name)


async def move_over_directory(session: Session) -> None:
    """A directory takes the place of an empty one beside it."""
    directory = await session.pick(DIRECTORY)
    for sibling in await session.children(directory.parent, DIRECTORY, 20):
        if sibling.fileid != directory.fileid and not await session.rows(
            f"SELECT 1 FROM {session.metadata} WHERE parent_fileid = %s LIMIT 1", sibling.fileid
        ):
            await remove_directory(session, sibling)
            await move(session, directory, sibling.parent, sibling.name)
            return
    raise NothingToDo("no empty directory beside")


async def swap_names(session: Session) -> None:
    """Two entries of a directory exchange their names within one transaction."""
    first = await session.pick(session.rng.choice((DIRECTORY, FILE)))
    kind = session.rng.choice((DIRECTORY, FILE, FILE))
    others = [node for node in await session.children(first.parent, kind, 20) if node.fileid != first.fileid]
    if not others:
        raise NothingToDo("alone in its directory")
    second = session.rng.choice(others)
    async with session.transaction():
        await move(session, first, first.parent, f"swap-{first.fileid}")
        await move(session, second, second.parent, first.name)
        await move(session, first, first.parent, second.name)


async def rotate_names(session: Session) -> None:
    """Three files move their names round, as log rotation does, with commits in between."""
    nodes = await session.children((await session.pick(FILE)).parent, FILE, 3)
    if len(nodes) < 3:
        raise NothingToDo("fewer than three files here")
    spare = f"rotate-{nodes[0].fileid}"
    await move(session, nodes[0], nodes[0].parent, spare)
    for node, free in ((nodes[1], nodes[0].name), (nodes[2], nodes[1].name), (nodes[0], nodes[2].name)):
        await move(session, node, node.parent, free)


async def chmod(session: Session) -> None:
    node = await session.pick(session.rng.choice((DIRECTORY, FILE)))
    mode = session.rng.choice((0o644, 0o600, 0o755, 0o775, 0o2775, 0o1777, 0))
    await set_owner_and_mode(session, node, uid=node.uid, gid=node.gid, mode=mode)


async def chown(session: Session) -> None:
    node = await session.pick(session.rng.choice((DIRECTORY, FILE, SYMLINK)))
    uid, gid = session.rng.randrange(101, 230), session.rng.randrange(101, 115)
    await set_owner_and_mode(session, node, uid=uid, gid=gid, mode=node.mode)


async def set_acl(session: Session) -> None:
    node = await session.pick(session.rng.choice((DIRECTORY, FILE)))
    acl = draw_acl(session.rng, node)
    await set_owner_and_mode(session, node, uid=node.uid, gid=node.gid, mode=node.mode, acl=acl)


async def clear_acl(session: Session) -> None:
    """DOME cannot; admins do it by hand."""
    node = await session.pick(session.rng.choice((DIRECTORY, FILE)))
    await session.update(session.metadata, {"fileid": node.fileid}, acl="")


async def chown_children(session: Session) -> None:
    """One statement that changes many rows."""
    directory = await session.pick(DIRECTORY)
    uid = session.rng.randrange(101, 230)
    await session.update(session.metadata, {"parent_fileid": directory.fileid}, owner_uid=uid, ctime=NOW)


async def utime(session: Session) -> None:
    node = await session.pick(session.rng.choice((DIRECTORY, FILE)))
    when = session.rng.choice((0, session.rng.randrange(2**31), FOREVER))
    await session.update(session.metadata, {"fileid": node.fileid}, atime=when, mtime=when)


async def touch_access_time(session: Session) -> None:
    node = await session.pick(session.rng.choice((DIRECTORY, FILE, FILE)))
    await session.update(session.metadata, {"fileid": node.fileid}, atime=NOW)


async def change_checksum(session: Session) -> None:
    await set_checksum(session, (await session.pick(FILE)).fileid, draw_adler(session.rng))


async def change_legacy_checksum(session: Session) -> None:
    """As the old daemons do: without the xattr, which wins where it has one."""
    file = await session.pick(FILE)
    rng = session.rng
    kind, value = rng.choice((("AD", draw_adler(rng)), ("MD", f"{rng.getrandbits(128):032x}"), ("", "")))
    await session.update(session.metadata, {"fileid": file.fileid}, csumtype=kind, csumvalue=value)


async def change_xattr(session: Session) -> None:
    node = await session.pick(session.rng.choice((DIRECTORY, FILE)))
    number = session.rng.randrange(1000)
    xattr = session.rng.choice(
        ("", "{}", None, f'{{"note": "a\\/b {number}"}}', f'{{"type": 0, "n": "{number}"}}')
    )
    await session.update(session.metadata, {"fileid": node.fileid}, xattr=xattr)


async def truncate(session: Session) -> None:
    await set_size(session, (await session.pick(FILE)).fileid, draw_size(session.rng))


async def change_directory_size(session: Session) -> None:
    directory = await session.pick(DIRECTORY)
    larger = Expression(f"filesize + {session.rng.randrange(10**9)}")
    await session.update(session.metadata, {"fileid": directory.fileid}, filesize=larger)


async def recompute_directory_sizes(session: Session) -> None:
    """As dmlite-mysql-dirspaces: many rows in one commit."""
    directory = await session.pick(DIRECTORY)
    async with session.transaction():
        for node in [directory, *await session.children(directory.fileid, DIRECTORY, 20)]:
            size = draw_size(session.rng)
            await session.update(session.metadata, {"fileid": node.fileid}, filesize=size)


async def correct_link_count(session: Session) -> None:
    directory = await session.pick(DIRECTORY)
    async with session.transaction():
        ((children,),) = await session.rows(
            f"SELECT COUNT(*) FROM {session.metadata} WHERE parent_fileid = %s", directory.fileid
        )
        await session.update(session.metadata, {"fileid": directory.fileid}, nlink=children)


async def set_guid(session: Session) -> None:
    file = await session.pick(FILE)
    await session.update(session.metadata, {"fileid": file.fileid}, guid=Expression("UUID()"))


async def set_comment(session: Session) -> None:
    node = await session.pick(FILE)
    comment = f"comment {session.rng.randrange(100)}"
    if not await session.update(session.comments, {"u_fileid": node.fileid}, comments=comment):
        await session.insert(session.comments, u_fileid=node.fileid, comments=comment)


async def migrate_file(session: Session) -> None:
    file = await session.pick(FILE)
    await session.update(session.metadata, {"fileid": file.fileid}, status=session.rng.choice("-m"))


async def new_user(session: Session) -> None:
    async with session.transaction():
        uid = await next_id(session, "Cns_unique_uid")
        name = f"/DC=org/DC=example/OU={OWN}/CN=user {uid}"
        await session.insert(
            f"{session.cns}.Cns_userinfo", userid=uid, username=name, user_ca="", banned=0, xattr=None
        )


async def new_group(session: Session) -> None:
    async with session.transaction():
        gid = await next_id(session, "Cns_unique_gid")
        name = f"{OWN}/Role=r{gid}"
        await session.insert(f"{session.cns}.Cns_groupinfo", gid=gid, groupname=name, banned=0, xattr=None)


async def change_person(session: Session) -> None:
    """Ban or allow a user or group of ours, or delete it; its files keep the id."""
    rng = session.rng
    table, column = rng.choice((("Cns_userinfo", "username"), ("Cns_groupinfo", "groupname")))
    table = f"{session.cns}.{table}"
    found = await session.rows(
        f"SELECT CAST({column} AS BINARY) FROM {table} WHERE {column} LIKE '%{OWN}%' ORDER BY rowid"
    )
    if not found:
        raise NothingToDo("none of ours")
    person = {column: rng.choice(found)[0].decode()}
    if rng.random() < 0.3:
        await session.delete(table, **person)
    else:
        await session.update(table, person, banned=rng.randrange(3), xattr=f'{{"n": {rng.randrange(9)}}}')


async def draw_token_path(session: Session) -> str:
    path = await session.path((await session.pick(DIRECTORY)).fileid)
    if len(path.encode("utf-8", "surrogateescape")) > LONGEST_TOKEN_PATH:
        raise NothingToDo("the path is too long for a token")
    return path


async def set_token(session: Session) -> None:
    """Update the token of a directory, or give it one."""
    path, pool = await draw_token_path(session), (await session.pick_place()).pool
    table, space = f"{session.dpm}.dpm_space_reserv", session.rng.randrange(1, 100) << 40
    token = {"u_token": f"TOKEN{session.rng.randrange(100)}", "t_space": space, "g_space": space}
    if not await session.update(table, {"path": path, "poolname": pool}, **token, groups="0,101"):
        await session.insert(
            table,
            s_token=Expression("UUID()"),
            client_dn="(unknown)",
            **{"s_uid": 0, "s_gid": 0, "ret_policy": "_", "ac_latency": "0", "s_type": "-"},
            **token,
            u_space=space,
            poolname=pool,
            assign_time=NOW,
            expire_time=FOREVER,
            groups="101",
            path=path,
        )


async def change_token(session: Session) -> None:
    """Another name, size or place; or none at all any more."""
    s_token = await draw_token(session)
    rng, table = session.rng, f"{session.dpm}.dpm_space_reserv"
    if s_token is None:
        raise NothingToDo("no token")
    token = {"s_token": s_token}
    draw = rng.random()
    if draw < 0.3:
        await session.delete(table, **token)
    elif draw < 0.6:
        await session.update(table, token, path=await draw_token_path(session))
    else:
        larger = Expression(f"t_space + {rng.randrange(10**12)}")
        await session.update(table, token, u_token=f"RENAMED{rng.randrange(100)}", t_space=larger)


async def add_pool(session: Session) -> None:
    """Insert, or update the one that exists."""
    table, pool = f"{session.dpm}.dpm_pool", {"poolname": f"{OWN}{session.rng.randrange(3)}"}
    defsize, s_type = session.rng.randrange(1, 9) << 30, session.rng.choice("PVD-")
    if await session.rows(f"SELECT 1 FROM {table} WHERE poolname = %s", *pool.values()):
        await session.update(table, pool, defsize=defsize, s_type=s_type)
        return
    await session.insert(
        table,
        **pool,
        defsize=defsize,
        **{"gc_start_thresh": 0, "gc_stop_thresh": 0, "def_lifetime": 604800, "defpintime": 7200},
        **{"max_lifetime": 2592000, "maxpintime": 43200, "fss_policy": "maxfreespace", "gc_policy": "lru"},
        **{"mig_policy": "none", "rs_policy": "fifo", "groups": "0", "ret_policy": "R"},
        s_type=s_type,
    )


async def add_filesystem(session: Session) -> None:
    pools = await session.rows(f"SELECT CAST(poolname AS BINARY) FROM {session.dpm}.dpm_pool ORDER BY rowid")
    if not pools:
        raise NothingToDo("no pool")
    server, fs = f"{OWN}{session.rng.randrange(3)}.example.org", f"/srv/new{session.rng.randrange(3)}"
    await insert_filesystem(session, Place(session.rng.choice(pools)[0].decode(), server, fs))


async def change_filesystem(session: Session) -> None:
    """Disable, enable or make read-only; what lies on it stays where it is."""
    place = await session.pick_place()
    where = {"server": place.server, "fs": place.fs}
    await session.update(f"{session.dpm}.dpm_fs", where, status=session.rng.choice((0, 0, 0, 2)))


async def enable_filesystems(session: Session) -> None:
    await session.execute(f"UPDATE {session.dpm}.dpm_fs SET status = 0")


async def delete_filesystem(session: Session) -> None:
    """One of ours that holds nothing."""
    place = await pick_own_place(session)
    used = await session.rows(
        f"SELECT 1 FROM {session.replica} WHERE host = %s AND fs = %s LIMIT 1", place.server, place.fs
    )
    if used:
        raise NothingToDo("in use")
    await session.delete(f"{session.dpm}.dpm_fs", server=place.server, fs=place.fs)


async def pick_own_place(session: Session) -> Place:
    found = await session.rows(
        "SELECT CAST(poolname AS BINARY), CAST(server AS BINARY), CAST(fs AS BINARY)"
        f" FROM {session.dpm}.dpm_fs WHERE server LIKE '{OWN}%' ORDER BY rowid"
    )
    if not found:
        raise NothingToDo("no file system of ours")
    return Place(*(value.decode() for value in session.rng.choice(found)))


async def delete_pool(session: Session) -> None:
    """One of ours; refused while it has file systems."""
    await session.delete(f"{session.dpm}.dpm_pool", poolname=f"{OWN}{session.rng.randrange(3)}")


async def long_transaction(session: Session) -> None:
    """Several changes that commit together, late, while others go on; or not at all."""
    simple = (
        *(upload, replicate, make_directory, make_tree, make_symlink, unlink_file, rename, move_file),
        *(swap_names, chmod, set_acl, change_checksum, change_replica_type, truncate),
    )
    async with session.transaction():
        for _ in range(session.rng.randrange(2, 7)):
            try:
                await session.rng.choice(simple)(session)
            except NothingToDo:
                continue
            await session.pause(0.5)
        await session.pause(1.0)
