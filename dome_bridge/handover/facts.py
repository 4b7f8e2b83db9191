"""Reads what the hand-over needs to know of a site, from DPM's databases, Chimera and the settings."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from dome_bridge.auth.bans import Bans, load_bans
from dome_bridge.chimera import space_plan, state, target
from dome_bridge.chimera.space_plan import LeftOutReason
from dome_bridge.config import Config
from dome_bridge.dome_api import gridmap
from dome_bridge.dpm import small_tables
from dome_bridge.dpm.small_tables import Quotatoken
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ConfigError
from dome_bridge.exporter.pool_plan import plan_pools
from dome_bridge.exporter.session import Databases
from dome_bridge.exporter.small_tables import dcache_pool
from dome_bridge.handover.site import Database, DiskPool, Group, Owner, Person, QuotaToken, Site
from dome_bridge.statements import load

_SQL = load("dome_bridge.handover", "facts.sql")

_HOMES = """
SELECT domain.name, vo.name FROM {cns}.Cns_file_metadata dpm
JOIN {cns}.Cns_file_metadata domain ON domain.parent_fileid = dpm.fileid
JOIN {cns}.Cns_file_metadata home ON home.parent_fileid = domain.fileid AND home.name = 'home'
LEFT JOIN {cns}.Cns_file_metadata vo
  ON vo.parent_fileid = home.fileid AND vo.filemode BETWEEN 16384 AND 20479
WHERE dpm.parent_fileid = %s AND dpm.name = 'dpm'"""
_OWNERS = """
SELECT owner_uid, gid, COUNT(*) FROM {cns}.Cns_file_metadata
WHERE filemode BETWEEN 32768 AND 36863 GROUP BY owner_uid, gid"""

ENABLED = 0


async def read_site(databases: Databases, *, owners: bool = True, with_spaces: bool | None = None) -> Site:
    """owners: count whose files there are; that reads all of the catalog, in Chimera if the first copy is
    complete. with_spaces: None for what the settings say.
    """
    config, source = databases.config, databases.source
    homes = await source.fetch(_HOMES.format(cns=source.cns), (databases.layout.root_fileid,))
    volatile, planned = await _pools(databases)
    pools = tuple(pool for pool in planned if pool.is_plain)
    bans, mapped = await asyncio.to_thread(_read_files, config)
    return Site(
        dcache=config.dcache,
        head=head_host(config),
        domains=tuple(sorted({_text(row[0]) for row in homes})),
        vo_dirs=tuple(sorted({_text(row[1]) for row in homes if row[1]})),
        users=tuple(
            Person(row.userid, _text(row.username), bool(row.banned))
            for row in await small_tables.users(source)
        ),
        groups=tuple(
            Group(row.gid, _text(row.groupname), bool(row.banned))
            for row in await small_tables.groups(source)
        ),
        tokens=tuple(map(_token, await small_tables.quotatokens(source, databases.layout))),
        pools=pools,
        owners=await _owners(databases) if owners else (),
        left_out=tuple(f"{pool.server}:{pool.fs}" for pool in planned if not pool.is_plain),
        volatile=volatile,
        gridmap=mapped,
        bans=bans,
        auth=config.auth,
        tls=config.api.tls,
        chimera=Database.of(config.chimera),
        with_spaces=config.spacemanager.enabled if with_spaces is None else with_spaces,
    )


def head_host(config: Config) -> str:
    """What is configured, or what DPM's head calls itself, or this machine."""
    names = (config.dcache.head_host, *config.api.host_names)
    conf = config.domehead
    if conf is not None:
        names = (*names, conf.values.get("glb.myhostname", ""))
    return next((name for name in names if name), socket.getfqdn()).lower()


async def _pools(databases: Databases) -> tuple[frozenset[str], tuple[DiskPool, ...]]:
    """DPM's volatile pools, and those of dCache."""
    rows = await small_tables.pools(databases.source, databases.layout)
    volatile = frozenset(_text(row.poolname) for row in rows if row.s_type == b"V")
    filesystems = await small_tables.filesystems(databases.source)
    enabled = {dcache_pool(fs) for fs in filesystems if (fs.status or 0) == ENABLED}
    planned = (await plan_pools(databases, usage=False)).pools
    return volatile, tuple(
        DiskPool(one.name, one.server.lower(), one.fs, one.path, one.dpm_pool, one.name in enabled)
        for one in planned
    )


def _token(row: Quotatoken) -> QuotaToken:
    path = space_plan.plain_path(row.path)
    return QuotaToken(
        (row.u_token or b"").decode("utf-8", "surrogateescape"),
        _text(row.poolname or b""),
        "" if isinstance(path, LeftOutReason) else path,
        row.t_space or 0,
        space_plan.gids_of(row.groups),
    )


async def _owners(databases: Databases) -> tuple[Owner, ...]:
    async with target.told("counting whose files there are"):
        if await _is_copied(databases):
            rows = await databases.conn.fetch(_SQL["owners"])
            return tuple(Owner(row["uid"], row["gid"], row["files"]) for row in rows)
    return await _owners_in_dpm(databases.source)


async def _is_copied(databases: Databases) -> bool:
    if not await state.exists(databases.conn):
        return False
    return (await state.progress(databases.conn)).snapshot_finished is not None


async def _owners_in_dpm(source: Source) -> tuple[Owner, ...]:
    rows = await source.fetch(_OWNERS.format(cns=source.cns))
    return tuple(sorted(Owner(int(row[0] or 0), int(row[1] or 0), int(row[2])) for row in rows))


def _read_files(config: Config) -> tuple[Bans, dict[str, tuple[str, ...]]]:
    return load_bans(config.auth.ban_file), _gridmap(config.auth.gridmap_file)


def _gridmap(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        return gridmap.parse(path.read_bytes().decode("utf-8", "surrogateescape"))
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise ConfigError(
            f"{path}: cannot be read ({exc.strerror}): make the grid-mapfile readable for this account, or"
            " set auth.gridmap_file to another"
        ) from exc


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
