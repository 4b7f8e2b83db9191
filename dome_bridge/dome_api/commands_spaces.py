"""The commands that tell how much room there is: file systems, pools, directories, quotatokens.

What disk servers have said of their room is in the cluster's state; quotas and directory sizes come from
the database each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple

from dome_bridge.auth.scopes import Area
from dome_bridge.dome_api.admission import SEEING, Admission, on_path
from dome_bridge.dome_api.catalog import bytes_of, walk
from dome_bridge.dome_api.cluster import Cluster, FileSystem, PoolStatus
from dome_bridge.dome_api.command import Codec, Commands, Text
from dome_bridge.dome_api.permissions import Subject, can_see
from dome_bridge.dome_api.quotatokens import (
    QuotaToken,
    covering,
    group_names,
    is_below,
    paths_to_measure,
    read_quotatokens,
    sizes_of,
    space_used,
)
from dome_bridge.dome_api.wire import Answer, Tree, render
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

commands = Commands()

UNKNOWN = "<unknown>"

_Object = dict[str, Tree]

Boolean = Annotated[
    bool,
    Codec(
        "true or 1",
        lambda parameters, key, default: parameters.boolean(key, default),
        lambda parameters, key: parameters.boolean(key),
    ),
]


@commands.get("dome_getspaceinfo", Admission(disk=True, frontend=True, host_auth=True))
async def get_space_info(call: Call) -> Answer:
    """All file systems and pools with their room."""
    cluster = call.cluster
    info: _Object = {"fsinfo": _by_server(cluster.filesystems, _file_system_and_pool)}
    if pools := {name: _listed_pool(cluster, name) for name in _pool_names(cluster)}:
        info["poolinfo"] = pools
    document = render(info)
    if not cluster.filesystems:
        # Clients in Python walk through it, which they cannot do with the text that an empty tree becomes.
        document = document.replace(b'"fsinfo": ""', b'"fsinfo": {}', 1)
    return Answer(200, document, "application/json")


@commands.get("dome_statpool", Admission(disk=True, frontend=True, host_auth=True))
async def stat_pool(call: Call, poolname: Text = "") -> Answer:
    """The room of a pool and of its file systems; an empty object for a pool that does not exist."""
    if not poolname:
        raise ApiError(404, "Pool '' not found.")
    if poolname not in _pool_names(call.cluster):
        return Answer.json({})
    return Answer.json({"poolinfo": {poolname: _pool(call.cluster, poolname)}})


@commands.get("dome_getdirspaces", on_path("path", needs=SEEING, is_unchecked=True))
async def get_dir_spaces(call: Call, path: Text = "") -> Answer:
    """The quota that counts in a directory, and what is left of it and of the pool."""
    if not path:
        raise ApiError(422, "Path '' is empty.")
    if not path.startswith("/"):
        raise ApiError(422, f"Path '{path}' is not an absolute path.")
    quota = await call.database.read(partial(_quota_in, path.rstrip("/") or "/", call.area))
    return Answer.json(_dir_spaces(call.cluster, quota))


@commands.get(
    "dome_getquotatoken",
    on_path("path", needs=SEEING, frontend=True, host_auth=True, is_unchecked=True),
)
async def get_quota_token(
    call: Call, path: Text = "", getsubdirs: Boolean = False, getparentdirs: Boolean = False
) -> Answer:
    """The quotatokens of a directory and, if asked, of those below and above it."""
    path = path.rstrip("/")
    wanted = _Wanted(path, getsubdirs, getparentdirs, call.area, await _viewer(call))
    listing = await call.database.read(partial(_listing, wanted))
    if not listing.tokens:
        raise ApiError(404, f"No quotatokens match path '{path}'")
    return Answer.json({token.s_token: _token(call.cluster, token, listing) for token in listing.tokens})


async def _viewer(call: Call) -> Subject | None:
    """People who call by themselves; servers and services see everything."""
    principal = call.request.principal
    is_service = principal.token is not None and principal.token.is_host
    return None if principal.is_peer or is_service else await call.subject()


def _by_server(filesystems: Iterable[FileSystem], describe: Callable[[FileSystem], _Object]) -> _Object:
    servers: dict[str, _Object] = {}
    for each in filesystems:
        servers.setdefault(each.server, {})[each.path] = describe(each)
    return {**servers}


def _file_system(each: FileSystem) -> _Object:
    return {
        "fsstatus": str(each.status),
        "freespace": str(each.free),
        "physicalsize": str(each.physical),
    }


def _file_system_and_pool(each: FileSystem) -> _Object:
    return {"poolname": each.pool, **_file_system(each), "activitystatus": str(int(each.activity))}


def _pool_names(cluster: Cluster) -> list[str]:
    """Those with a row of their own, and those that only a file system names."""
    return list(dict.fromkeys([*cluster.pools, *(each.pool for each in cluster.filesystems)]))


def _pool(cluster: Cluster, name: str) -> _Object:
    """As the original has the keys: the settings last."""
    filesystems = _filesystems_of(cluster, name)
    return {**_state(cluster, name, cluster.pool_status(name)), **filesystems, **_settings(cluster, name)}


def _listed_pool(cluster: Cluster, name: str) -> _Object:
    """As the original lists all pools: each with the same status, the file systems last."""
    filesystems = _filesystems_of(cluster, name)
    return {**_state(cluster, name, PoolStatus.WRITABLE), **_settings(cluster, name), **filesystems}


def _state(cluster: Cluster, name: str, status: PoolStatus) -> _Object:
    """Nothing for a pool without file systems."""
    if not cluster.of_pool(name):
        return {}
    space = cluster.space(name)
    return {
        "poolstatus": str(int(status)),
        "freespace": str(space.free),
        "physicalsize": str(space.total),
    }


def _filesystems_of(cluster: Cluster, name: str) -> _Object:
    servers = _by_server(cluster.of_pool(name), _file_system)
    return {"fsinfo": servers} if servers else {}


def _settings(cluster: Cluster, name: str) -> _Object:
    pool = cluster.pools.get(name)
    return {"s_type": pool.s_type, "defsize": str(pool.defsize)} if pool else {}


class _Quota(NamedTuple):
    """tokens: those that count in a directory. used: bytes below the last of them. size: the directory's."""

    tokens: list[QuotaToken]
    used: int
    size: int


async def _quota_in(path: str, area: Area | None, source: Source) -> _Quota:
    """area: what lies outside of it does not show."""
    tokens = await read_quotatokens(source)
    if area is not None:
        tokens = [token for token in tokens if token.path and area.covers(token.path)]
    found = covering(tokens, path)
    paths = paths_to_measure(found[-1], tokens) if found else []
    sizes = await sizes_of(source, [path, *paths])
    used = space_used(found[-1], tokens, sizes) if found else 0
    return _Quota(found, used, sizes.get(path, 0))


def _dir_spaces(cluster: Cluster, quota: _Quota) -> _Object:
    total = sum(token.t_space for token in quota.tokens)
    last = quota.tokens[-1] if quota.tokens else None
    return {
        "quotatotspace": str(total),
        # Of the directory that was asked for, not of the one that has the token: as the original has it.
        "quotafreespace": str(max(0, total - quota.size)),
        "quotausedspace": str(quota.used),
        "poolfreespace": str(sum(cluster.space(token.pool).free for token in quota.tokens)),
        "dirusedspace": str(quota.size),
        "quotatoken": last.u_token if last else UNKNOWN,
        "poolname": last.pool if last else UNKNOWN,
    }


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which tokens are asked for. path: without slashes at its end; below an empty one is every token."""

    path: str
    below: bool
    above: bool
    area: Area | None = None
    """What lies outside of it does not show."""
    viewer: Subject | None = None
    """Who calls by himself, and is shown what he can see of the directories."""

    def includes(self, token: QuotaToken) -> bool:
        if self.area is not None and not (token.path and self.area.covers(token.path)):
            return False
        if self.below and (not self.path or is_below(token.path, self.path)):
            return True
        if not token.path:
            return False
        return token.path == self.path or (self.above and is_below(self.path, token.path))


class _Listing(NamedTuple):
    """sizes: of the tokens' directories. groups: names by number."""

    tokens: list[QuotaToken]
    sizes: dict[str, int]
    groups: dict[int, str]


async def _listing(wanted: _Wanted, source: Source) -> _Listing:
    """In the order of the paths; without tokens of directories that are gone."""
    tokens = [token for token in await read_quotatokens(source) if wanted.includes(token)]
    sizes = await sizes_of(source, [token.path for token in tokens if token.path])
    there = [token for token in tokens if not token.path or token.path in sizes]
    if wanted.viewer is not None:
        there = [token for token in there if await _is_seen(source, token.path, wanted.viewer)]
    there.sort(key=lambda token: bytes_of(token.path))
    return _Listing(there, sizes, await group_names(source, there))


async def _is_seen(source: Source, path: str, viewer: Subject) -> bool:
    """A token without a path is nowhere that he could look."""
    if not path:
        return False
    try:
        return can_see(viewer, (await walk(source, path)).lineage)
    except ApiError:
        # An ACL above it cannot be read.
        return False


def _token(cluster: Cluster, token: QuotaToken, listing: _Listing) -> _Object:
    used = listing.sizes.get(token.path, 0)
    pool_total = cluster.space(token.pool).total
    return {
        "path": token.path,
        "quotatkname": token.u_token,
        "quotatkpoolname": token.pool,
        "quotatktotspace": str(token.t_space),
        "pooltotspace": str(pool_total),
        "pathusedspace": str(used),
        "pathfreespace": str(max(0, min(token.t_space, pool_total) - used)),
        "groups": {str(gid): listing.groups.get(gid, UNKNOWN) for gid in token.gids},
    }
