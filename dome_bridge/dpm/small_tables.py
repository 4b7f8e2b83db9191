"""DPM's small tables as rows: users, groups, pools, file systems and quotatokens."""

from __future__ import annotations

from typing import NamedTuple

from dome_bridge.dpm.schema import SourceLayout
from dome_bridge.dpm.source import Source


class User(NamedTuple):
    """A DN and its number. banned: 0 no, 1 by ARGUS, 2 locally."""

    userid: int
    username: bytes
    user_ca: bytes | None
    banned: int | None


class Group(NamedTuple):
    """A VO or FQAN, without leading slash, and its number."""

    gid: int
    groupname: bytes
    banned: int | None


class Pool(NamedTuple):
    """defsize in bytes; s_type P permanent, V volatile, - any."""

    poolname: bytes
    defsize: int | None
    s_type: bytes | None
    pooltype: bytes | None


class FileSystem(NamedTuple):
    """status: 0 enabled, 1 disabled, 2 read-only."""

    poolname: bytes
    server: bytes
    fs: bytes
    status: int | None


class Quotatoken(NamedTuple):
    """t_space in bytes; path without trailing slash, None for a token of the legacy daemons."""

    s_token: bytes
    u_token: bytes | None
    poolname: bytes | None
    path: bytes | None
    t_space: int | None
    groups: bytes | None


async def users(source: Source) -> list[User]:
    rows = await source.fetch(f"SELECT userid, username, user_ca, banned FROM {source.cns}.Cns_userinfo")
    return [User(row[0] or 0, row[1] or b"", row[2], row[3]) for row in rows]


async def groups(source: Source) -> list[Group]:
    rows = await source.fetch(f"SELECT gid, groupname, banned FROM {source.cns}.Cns_groupinfo")
    return [Group(row[0] or 0, row[1] or b"", row[2]) for row in rows]


async def pools(source: Source, layout: SourceLayout) -> list[Pool]:
    pooltype = "pooltype" if layout.has_pooltype else "NULL"
    rows = await source.fetch(f"SELECT poolname, defsize, s_type, {pooltype} FROM {source.dpm}.dpm_pool")
    return [Pool(row[0] or b"", *row[1:]) for row in rows]


async def filesystems(source: Source) -> list[FileSystem]:
    rows = await source.fetch(f"SELECT poolname, server, fs, status FROM {source.dpm}.dpm_fs")
    return [FileSystem(row[0] or b"", row[1] or b"", row[2] or b"", row[3]) for row in rows]


async def quotatokens(source: Source, layout: SourceLayout) -> list[Quotatoken]:
    path = "path" if layout.has_path else "NULL"
    rows = await source.fetch(
        f"SELECT s_token, u_token, poolname, {path}, t_space, `groups` "
        f"FROM {source.dpm}.dpm_space_reserv ORDER BY rowid"
    )
    return [Quotatoken(row[0] or b"", *row[1:]) for row in rows]
