"""Quotatokens: how much may lie below a directory, in which pool, and for whom.

The rules are pure; tokens and directory sizes are read anew for each request, so that a change
counts at once. Paths are compared as they stand: no dots, doubled slashes or links are followed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from dome_bridge.dome_api.catalog import MAX_NAME_BYTES, NAMES_PER_QUERY, bytes_of, names_of, text_of, walk
from dome_bridge.dome_api.people import ROOT_NAME
from dome_bridge.dome_api.sql import sql
from dome_bridge.dpm.source import Source

PATHS_PER_QUERY = 64

_DOTS = frozenset({".", ".."})


@dataclass(frozen=True, slots=True)
class QuotaToken:
    """A row of dpm_space_reserv.

    s_token: its id. u_token: what people call it. path: "" for a legacy token without one. t_space: the
    quota in bytes. u_space: what legacy daemons take for unused. gids: whose files it takes; none: root's.
    """

    s_token: str
    u_token: str
    pool: str
    path: str
    t_space: int
    u_space: int
    gids: tuple[int, ...]

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> QuotaToken:
        s_token, u_token, pool, path, t_space, u_space, groups = row
        return cls(
            text_of(s_token), text_of(u_token), text_of(pool), text_of(path),
            int(t_space or 0), int(u_space or 0), gids_of(text_of(groups)),
        )  # fmt: skip


def gids_of(groups: str) -> tuple[int, ...]:
    """Each number of a list with commas once, in its order."""
    numbers = (number.strip() for number in groups.split(","))
    return tuple(dict.fromkeys(int(number) for number in numbers if number.isascii() and number.isdecimal()))


async def read_quotatokens(source: Source) -> list[QuotaToken]:
    """All there are, in the order they were made."""
    return [QuotaToken.from_row(row) for row in await source.fetch(sql(source, "quotatokens"))]


def tokens_at(tokens: Iterable[QuotaToken], path: str) -> list[QuotaToken]:
    """Those of exactly that path; none for the empty one."""
    return [token for token in tokens if path and token.path == path]


def covering(tokens: Collection[QuotaToken], path: str) -> list[QuotaToken]:
    """Those at the path itself or its deepest ancestor that has any; one on `/` covers nothing."""
    of_paths = (tokens_at(tokens, each) for each in upward(path))
    return next(filter(None, of_paths), [])


def upward(path: str) -> Iterator[str]:
    """A path and what is left when it is cut at one slash after the other, down to but without `/`."""
    while path and path != "/":
        yield path
        path = path.rpartition("/")[0]


def is_below(path: str, top: str) -> bool:
    """Whether a path leads strictly below another one."""
    top = top.rstrip("/")
    return path.startswith(f"{top}/") and path.rstrip("/") != top


def topmost_below(tokens: Iterable[QuotaToken], path: str) -> list[str]:
    """The paths of tokens strictly below a path that have no other such path above them."""
    below = sorted({token.path for token in tokens if is_below(token.path, path)}, key=len)
    topmost: list[str] = []
    for each in below:
        if not any(is_below(each, other) for other in topmost):
            topmost.append(each)
    return topmost


def space_used(token: QuotaToken, tokens: Iterable[QuotaToken], sizes: Mapping[str, int]) -> int:
    """The size of its directory without what is counted by the topmost tokens below, 0 at least.

    sizes: of the paths of `paths_to_measure`; what is missing there does not exist.
    """
    below = sum(sizes.get(path, 0) for path in topmost_below(tokens, token.path))
    return max(0, sizes.get(token.path, 0) - below)


def paths_to_measure(token: QuotaToken, tokens: Iterable[QuotaToken]) -> list[str]:
    return [token.path, *topmost_below(tokens, token.path)] if token.path else []


async def used_space(source: Source, token: QuotaToken, tokens: Collection[QuotaToken]) -> int:
    """In bytes; costs one query, however many tokens there are below."""
    sizes = await sizes_of(source, paths_to_measure(token, tokens))
    return space_used(token, tokens, sizes) if token.path else 0


def fits(token: QuotaToken, used: int, needed: int) -> bool:
    """Whether there is room for more than the needed bytes."""
    return token.t_space > used and token.t_space - used > needed


def admits(token: QuotaToken, groupnames_by_gid: Mapping[int, str], header_groups: Collection[str]) -> bool:
    """Whether one of the client's groups, by the names it gave, is among those of the token.

    Nobody passes for being root alone: administrators name the group `root`, and number 0 lets it in.
    """
    names = {groupnames_by_gid.get(gid) for gid in token.gids or (0,)}
    return not names.isdisjoint(header_groups)


async def group_names(source: Source, tokens: Iterable[QuotaToken]) -> dict[int, str]:
    """The names of all groups of the tokens that have one, and of root."""
    gids = {gid for token in tokens for gid in token.gids} - {0}
    names: dict[int, str] = {0: ROOT_NAME}
    if gids:
        for gid, name in await source.fetch(sql(source, "group_names"), (sorted(gids),)):
            names.setdefault(int(gid), text_of(name))
    return names


async def sizes_of(source: Source, paths: Iterable[str]) -> dict[str, int]:
    """The sizes of the entries at these paths, without those that do not exist."""
    wanted = list(dict.fromkeys(paths))
    plain = [path for path in wanted if _is_plain(path)]
    sizes: dict[str, int] = {}
    for first in range(0, len(plain), PATHS_PER_QUERY):
        sizes |= await _sizes_of_plain(source, plain[first : first + PATHS_PER_QUERY])
    for path in wanted:
        if not _is_plain(path) and (entry := (await walk(source, path)).entry):
            sizes[path] = entry.size
    return sizes


def _is_plain(path: str) -> bool:
    """Whether one join finds it."""
    names = names_of(path)
    return path.startswith("/") and len(names) < NAMES_PER_QUERY and _DOTS.isdisjoint(names)


async def _sizes_of_plain(source: Source, paths: Sequence[str]) -> dict[str, int]:
    queries: list[str] = []
    args: list[object] = []
    for nth, path in enumerate(paths):
        names = [bytes_of(name) for name in names_of(path)]
        if all(len(name) <= MAX_NAME_BYTES for name in names):
            queries.append(_size_query(len(names), source.cns))
            args += [nth, *(value for name in names for value in (name, len(name)))]
    rows = await source.fetch(" UNION ALL ".join(queries), args) if queries else []
    return {paths[int(nth)]: int(size or 0) for nth, size in rows}


@cache
def _size_query(names: int, cns: str) -> str:
    # Names that differ in trailing blanks are the same to MariaDB, but not of the same length.
    joins = "".join(
        f" JOIN {cns}.Cns_file_metadata e{level} ON e{level}.parent_fileid = e{level - 1}.fileid"
        f" AND e{level}.name = %s AND LENGTH(e{level}.name) = %s"
        for level in range(1, names + 1)
    )
    return (
        f"SELECT %s, e{names}.filesize FROM {cns}.Cns_file_metadata e0{joins}"
        " WHERE e0.parent_fileid = 0 AND e0.name = '/'"
    )
