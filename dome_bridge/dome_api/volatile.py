"""Which paths are served by volatile pools: files that are missing there may exist elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dome_bridge.dome_api.catalog import names_of
from dome_bridge.dome_api.cluster import Cluster
from dome_bridge.dome_api.quotatokens import QuotaToken, read_quotatokens, tokens_at, upward

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call


def pools_that_pull(cluster: Cluster) -> set[str]:
    """Those with a file system that files can be pulled onto."""
    return {each.pool for each in cluster.filesystems if cluster.can_pull(each)}


def leads_to(pools: set[str], tokens: Iterable[QuotaToken], path: str) -> bool:
    """Whether a token on the path, or on any directory above it, belongs to one of the pools."""
    mine = [token for token in tokens if token.pool in pools]
    return any(tokens_at(mine, each) for each in upward(path))


async def can_be_pulled(call: Call, path: str) -> bool:
    """Never a path with dots: it would lead a program to another place than the one that was checked."""
    pools = pools_that_pull(call.cluster)
    # Most sites have no volatile pool, and need no query.
    if not pools or not {".", ".."}.isdisjoint(names_of(path)):
        return False
    return leads_to(pools, await call.database.read(read_quotatokens), path)
