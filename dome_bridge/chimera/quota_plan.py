"""Which quotatokens dCache can enforce as quotas of groups, where it has no space manager: pure.

A quota holds for all files of a group, wherever they lie. So it stands for a token exactly if the
files below the token are of one group, and this group has no files, nor another token, elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dome_bridge.chimera.space_plan import Space, covering

LARGEST_GID = 2**31 - 1
LARGEST_LIMIT = 2**63 - 1


class Used(NamedTuple):
    """Files of a group below a directory where a storage group begins; path None: above all of these."""

    gid: int
    path: str | None
    files: int
    used: int


@dataclass(frozen=True)
class GroupQuota:
    """In bytes."""

    gid: int
    limit: int
    used: int
    space: Space


@dataclass(frozen=True)
class LostQuota:
    """A token whose limit nobody will enforce, and why."""

    space: Space
    reason: str


@dataclass(frozen=True)
class QuotaPlan:
    quotas: tuple[GroupQuota, ...]
    lost: tuple[LostQuota, ...]


def plan_quotas(spaces: Iterable[Space], usage: Iterable[Used]) -> QuotaPlan:
    """usage: of all files there are."""
    spaces = tuple(spaces)
    below: defaultdict[str | None, set[int]] = defaultdict(set)
    places: defaultdict[int, set[str | None]] = defaultdict(set)
    total: defaultdict[int, int] = defaultdict(int)
    for found in usage:
        space = covering(found.path, spaces) if found.path else None
        path = space.path if space else None
        below[path].add(found.gid)
        places[found.gid].add(path)
        total[found.gid] += found.used
    for space in spaces:
        for gid in space.gids:
            places[gid].add(space.path)
    judged = [_judged(space, below[space.path], places, total) for space in spaces]
    return QuotaPlan(
        tuple(each for each in judged if isinstance(each, GroupQuota)),
        tuple(each for each in judged if isinstance(each, LostQuota)),
    )


def _judged(
    space: Space, gids: set[int], places: Mapping[int, set[str | None]], total: Mapping[int, int]
) -> GroupQuota | LostQuota:
    what, gids = ("its files are", gids) if gids else ("it is", set(space.gids))
    if len(gids) != 1:
        return LostQuota(space, f"{what} of {len(gids) or 'no'} groups")
    (gid,) = gids
    if gid == 0:
        return LostQuota(space, "its files are of root's group")
    if gid > LARGEST_GID:
        return LostQuota(space, f"the gid {gid} is too large for dCache")
    if elsewhere := sorted(path or "no quotatoken" for path in places[gid] - {space.path}):
        return LostQuota(space, f"gid {gid} has files or quota elsewhere, too ({elsewhere[0]})")
    return GroupQuota(gid, min(space.size, LARGEST_LIMIT), min(total.get(gid, 0), LARGEST_LIMIT), space)
