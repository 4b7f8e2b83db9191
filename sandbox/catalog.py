"""DPM's two databases on a private server: made empty, or filled with a made-up site.

The tables come from `dpm_schema/`, the site from `sandbox.site`, which knows no
database. A catalog made here without `rotten` holds nothing that a mirror would have
to leave out, so a test can ask for exact equality.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.bulk import BulkLoader, connected
from sandbox.rotten import plant_rot
from sandbox.rows import FileSystem, Pool, QuotaToken
from sandbox.site import FOREVER, SiteOptions, SitePlan, plan_site
from sandbox.vos import POOLS

if TYPE_CHECKING:
    from sandbox.servers import MariaServer

STANDARD_SITE = SiteOptions()
SCHEMA_DIR = Path(__file__).parent / "dpm_schema"


@dataclass(frozen=True)
class Site:
    """What `make_site` made; the entries of `rotten` come on top of the numbers."""

    domain: str
    files: int
    directories: int  # the root included
    symlinks: int
    replicas: int
    last_fileid: int
    pools: tuple[Pool, ...]
    filesystems: tuple[FileSystem, ...]
    quotatokens: tuple[QuotaToken, ...]
    rotten: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def entries(self) -> int:
        return self.files + self.directories + self.symlinks

    @property
    def home(self) -> str:
        return f"/dpm/{self.domain}/home"


def script_statements(name: str) -> list[str]:
    """The statements of a file in `dpm_schema/`."""
    script = (SCHEMA_DIR / name).read_text(encoding="ascii")
    lines = (line for line in script.splitlines() if not line.startswith("--"))
    return [statement for part in "\n".join(lines).split(";\n") if (statement := part.strip().rstrip(";"))]


async def run_schema_script(maria: MariaServer, schema: str, name: str) -> None:
    """Run a file of `dpm_schema/` in a database; one that is filled can be taken to another version so."""
    statements = script_statements(name)
    async with connected(maria, schema) as connection:
        for statement in statements:
            await connection.query(statement)


async def create_schemas(
    maria: MariaServer, cns: str, dpm: str, *, cns_version: str = "3.2.0", binary_path: bool = True
) -> None:
    """Drop both databases and make them again, empty but for versions, counters and the root.

    `cns_version` is 3.2.0, or 3.1.0 for a name server without `xattr` columns; `binary_path=False`
    gives quota tokens the case-insensitive path of an upgraded site.
    """
    async with connected(maria) as connection:
        for schema in (cns, dpm):
            await connection.query(f"DROP DATABASE IF EXISTS `{schema}`")
            await connection.query(f"CREATE DATABASE `{schema}` DEFAULT CHARACTER SET latin1")
    await run_schema_script(maria, cns, "cns_db.sql")
    await run_schema_script(maria, dpm, "dpm_db.sql")
    if cns_version == "3.1.0":
        await run_schema_script(maria, cns, "cns_db_to_3_1_0.sql")
    if not binary_path:
        await run_schema_script(maria, dpm, "dpm_db_upgraded_path.sql")


async def make_site(
    maria: MariaServer, cns: str, dpm: str, options: SiteOptions = STANDARD_SITE, *, rotten: bool = False
) -> Site:
    """Fill new databases of version 3.2.0 with a made-up site; `rotten` adds a specimen of each rotten thing.

    With `options.disk_root` the replicas' files are written too. Raises SiteError when a path does not fit.
    """
    plan = await asyncio.to_thread(plan_site, options)
    async with BulkLoader(maria) as loader:
        await loader.load(cns, plan.rows())
        await _finish_tree(loader, cns, plan)
        await _fill_people(loader, cns, plan)
        await _fill_disks(loader, dpm, plan)
    specimens = await plant_rot(maria, cns, dpm, options.domain) if rotten else {}
    return Site(
        domain=options.domain,
        files=options.files,
        directories=len(plan.directories),
        symlinks=plan.symlinks,
        replicas=plan.replicas,
        last_fileid=plan.last_fileid,
        pools=POOLS,
        filesystems=plan.filesystems,
        quotatokens=tuple(plan.tokens),
        rotten=specimens,
    )


async def _finish_tree(loader: BulkLoader, cns: str, plan: SitePlan) -> None:
    await loader.execute(
        f"UPDATE `{cns}`.Cns_file_metadata SET nlink = {plan.root.children} WHERE fileid = 1"
    )
    await loader.execute(f"UPDATE `{cns}`.Cns_unique_id SET id = {plan.last_fileid}")
    await loader.execute(f"UPDATE `{cns}`.Cns_unique_uid SET id = {max(user.uid for user in plan.users)}")
    await loader.execute(f"UPDATE `{cns}`.Cns_unique_gid SET id = {max(group.gid for group in plan.groups)}")


async def _fill_people(loader: BulkLoader, cns: str, plan: SitePlan) -> None:
    await loader.insert(
        f"`{cns}`.Cns_userinfo (userid, username, user_ca, banned, xattr)",
        [(user.uid, user.name, "", user.banned, None) for user in plan.users],
    )
    await loader.insert(
        f"`{cns}`.Cns_groupinfo (gid, groupname, banned, xattr)",
        [(group.gid, group.name, 0, None) for group in plan.groups],
    )


async def _fill_disks(loader: BulkLoader, dpm: str, plan: SitePlan) -> None:
    policies = (0, 0, 604800, 7200, 2592000, 43200, "maxfreespace", "lru", "none", "fifo", "0", "R")
    await loader.insert(
        f"`{dpm}`.dpm_pool (poolname, defsize, gc_start_thresh, gc_stop_thresh, def_lifetime,"
        " defpintime, max_lifetime, maxpintime, fss_policy, gc_policy, mig_policy, rs_policy, `groups`,"
        " ret_policy, s_type)",
        [(pool.name, pool.defsize, *policies, pool.s_type) for pool in POOLS],
    )
    await loader.insert(
        f"`{dpm}`.dpm_fs (poolname, server, fs, status, weight)", [(*place, 1) for place in plan.filesystems]
    )
    await loader.insert(
        f"`{dpm}`.dpm_space_reserv (s_token, client_dn, s_uid, s_gid, ret_policy, ac_latency, s_type,"
        " u_token, t_space, g_space, u_space, poolname, assign_time, expire_time, `groups`, path)",
        [_token_row(token, plan.root.time) for token in plan.tokens],
    )


def _token_row(token: QuotaToken, assigned: int) -> tuple[object, ...]:
    groups = ",".join(str(gid) for gid in token.gids)
    policies = ("_", "0", "-") if token.path else ("R", "O", "P")
    return (
        token.s_token, "(unknown)", 0, 0, *policies, token.u_token, token.total, token.total, token.unused,
        token.pool, assigned, FOREVER, groups, token.path,
    )  # fmt: skip
