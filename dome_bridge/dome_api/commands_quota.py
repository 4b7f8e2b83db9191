"""The commands that make, change and delete quotatokens.

They come from administrators' tools, which leave out what is false, 0 or empty; so a text that is empty
counts as not given. Whoever may call at all may do all of this, as in the original.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from dome_bridge.dome_api.catalog import bytes_of, text_of, walk
from dome_bridge.dome_api.command import Codec, Commands, Text
from dome_bridge.dome_api.people import ROOT_NAME, is_name, shown
from dome_bridge.dome_api.refusals import refused_with
from dome_bridge.dome_api.sql import sql
from dome_bridge.dome_api.wire import Answer, Parameters
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call
    from dome_bridge.dome_api.request import Request

commands = Commands()

UNNAMED = "(unnamed)"
NOBODY = "(unknown)"
UNWRITTEN = "Cannot write quotatoken into the DB"
TWICE = f"{UNWRITTEN}: another one has its path or its id: choose others"

LONGEST: Mapping[str, int] = {"s_token": 36, "u_token": 255, "pool": 15, "path": 255, "groups": 255}
"""Bytes that the columns hold."""

LONGEST_DN = 255

_LEAST = -(2**63)
"""Of a BIGINT."""


def _space(parameters: Parameters, key: str, default: int | None = None) -> int | None:
    """Raises ApiError 422 for what is no number of bytes."""
    if key not in parameters:
        return default
    space = parameters.required_integer(key)
    if space < 0:
        raise ApiError(422, f"the value of '{key}' is below 0: give the quota in bytes")
    return space


Space = Annotated[int, Codec("bytes", _space, _space)]


@commands.post("dome_setquotatoken")
async def set_quota_token(
    call: Call,
    path: Text = "",
    poolname: Text = "",
    quotaspace: Space | None = None,
    description: Text = "",
    uniqueid: Text = "",
    groups: Text = "",
) -> Answer:
    """Makes the quotatoken of a directory and a pool, or changes what is given of it."""
    change = _Change(_trimmed(path), poolname, quotaspace, description, uniqueid, groups)
    work = partial(_set, change, str(uuid.uuid4()), _creator(call.request))
    with refused_with(422, UNWRITTEN, twice=TWICE):
        return _written(await call.database.transact(work))


@commands.post("dome_modquotatoken")
async def modify_quota_token(
    call: Call,
    tokenid: Text = "",
    path: Text = "",
    poolname: Text = "",
    quotaspace: Space | None = None,
    description: Text = "",
    groups: Text = "",
) -> Answer:
    """Changes what is given of a quotatoken; whether path and pool exist is not looked at."""
    if not tokenid:
        raise ApiError(422, "No token id given: name the quotatoken with 'tokenid'")
    change = _Change(_trimmed(path), poolname, quotaspace, description, "", groups)
    with refused_with(422, UNWRITTEN, twice=TWICE):
        return _written(await call.database.transact(partial(_modify, tokenid, change)))


@commands.post("dome_delquotatoken")
async def delete_quota_token(call: Call, path: Text = "", poolname: Text = "") -> Answer:
    """Deletes the quotatoken of a directory and a pool; the path must be given as it was stored."""
    with refused_with(422, UNWRITTEN, twice=TWICE):
        await call.database.transact(partial(_delete, path, poolname))
    return Answer.text(f"Quotatoken deleted. poolname: '{poolname}'")


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of dpm_space_reserv as far as it can be changed; it begins as one that is to be made.

    rowid: 0 for a new one. groups: numbers, root's first: it is by that one that administrators write.
    """

    rowid: int = 0
    s_token: str = ""
    u_token: str = UNNAMED
    pool: str = ""
    path: str = ""
    t_space: int = 0
    u_space: int = 0
    groups: str = "0"

    @classmethod
    def of(cls, row: Sequence[Any]) -> _Row:
        rowid, s_token, u_token, pool, path, t_space, u_space, groups = row
        return cls(
            int(rowid), text_of(s_token), text_of(u_token), text_of(pool), text_of(path),
            int(t_space or 0), int(u_space or 0), text_of(groups),
        )  # fmt: skip

    def with_space(self, t_space: int) -> _Row:
        """What legacy daemons take for unused changes by as much, and is never more than the whole."""
        unused = min(self.u_space + t_space - self.t_space, t_space)
        return replace(self, t_space=t_space, u_space=max(unused, _LEAST))


@dataclass(frozen=True, slots=True)
class _Change:
    """What a client says of a token; nothing where it is empty or None. groups: names with commas."""

    path: str
    pool: str
    t_space: int | None
    u_token: str
    s_token: str
    groups: str

    def of(self, row: _Row, groups: str) -> _Row:
        """groups: the numbers. Raises ApiError 422 for what is too long."""
        changed = replace(
            row.with_space(row.t_space if self.t_space is None else self.t_space),
            path=self.path or row.path,
            pool=self.pool or row.pool,
            u_token=self.u_token or row.u_token,
            s_token=self.s_token or row.s_token,
            groups=groups or row.groups,
        )
        for name, longest in LONGEST.items():
            if len(bytes_of(getattr(changed, name))) > longest:
                raise ApiError(422, f"the quotatoken's {name} is longer than {longest} bytes")
        return changed


def _trimmed(path: str) -> str:
    """A token with a slash at the end of its path would never count; the root stays what it is."""
    return path.rstrip("/") or path[:1]


def _creator(request: Request) -> str:
    names = (request.user.dn, request.peer.dn)
    return next((name for name in names if name and len(bytes_of(name)) <= LONGEST_DN), NOBODY)


def _written(row: _Row) -> Answer:
    return Answer.text(
        f"Quotatoken written. poolname: '{row.pool}' t_space: {row.t_space} u_token: '{row.u_token}'"
    )


async def _set(change: _Change, new_id: str, creator: str, source: Source) -> _Row:
    # Where there is no such row the place for one is locked: of two clients who would make it one
    # loses a deadlock, and finds the other's row when the transaction is repeated.
    rows = await _locked(source, "quotatokens_of_path_locked", change.path)
    await _require_pool(source, change.pool)
    if (await walk(source, change.path)).entry is None:
        raise ApiError(404, f"Cannot find logical path: {shown(change.path)}")
    groups = await _numbers(source, change.groups)
    row = next((row for row in rows if (row.path, row.pool) == (change.path, change.pool)), None)
    if row is None:
        row = change.of(_Row(s_token=new_id), groups)
        await source.execute(sql(source, "insert_quotatoken"), (*_columns(row), bytes_of(creator)))
        return row
    return await _update(source, change.of(row, groups))


async def _modify(tokenid: str, change: _Change, source: Source) -> _Row:
    rows = await _locked(source, "quotatokens_of_id_locked", tokenid)
    row = next((row for row in rows if row.s_token == tokenid), None)
    if row is None:
        raise ApiError(404, f"No quotatoken has the id {shown(tokenid)}")
    return await _update(source, change.of(row, await _numbers(source, change.groups)))


async def _delete(path: str, pool: str, source: Source) -> None:
    rows = await _locked(source, "quotatokens_of_path_locked", path)
    await _require_pool(source, pool)
    doomed = [row.rowid for row in rows if (row.path, row.pool) == (path, pool)]
    if not doomed:
        raise ApiError(404, f"No quotatoken has the path {shown(path)} and the pool '{pool}'")
    await source.execute(sql(source, "delete_quotatokens"), (doomed,))


async def _require_pool(source: Source, name: str) -> None:
    """A pool without file systems does not count."""
    rows = await source.fetch(sql(source, "pool_with_filesystem"), (bytes_of(name),))
    if name not in [text_of(pool) for (pool,) in rows]:
        raise ApiError(404, f"Cannot find pool: {shown(name)}, or it has no filesystem")


async def _locked(source: Source, statement: str, value: str) -> list[_Row]:
    """Also those that MariaDB takes for the same (trailing blanks).

    Comes first in a transaction: what is read before cannot be locked in a newer state.
    """
    return [_Row.of(row) for row in await source.fetch(sql(source, statement), (bytes_of(value),))]


async def _numbers(source: Source, groups: str) -> str:
    """The numbers of groups by their names, root's first; empty for no names.

    Raises ApiError 422 for a name that is not exactly one of a group.
    """
    if not groups:
        return ""
    names = groups.split(",")
    known = await _known_groups(source, names)
    for name in names:
        if name not in known:
            raise ApiError(422, f"Unable to write quotatoken - Invalid group name: {shown(name)}")
    return ",".join(str(number) for number in dict.fromkeys([0, *(known[name] for name in names)]))


async def _known_groups(source: Source, names: Iterable[str]) -> dict[str, int]:
    known = {ROOT_NAME: 0}
    wanted = [bytes_of(name) for name in names if name and is_name(name)]
    if wanted:
        for name, number in await source.fetch(sql(source, "group_numbers"), (wanted,)):
            # Nobody but root is number 0, whatever a row says.
            if int(number or 0) > 0:
                known.setdefault(text_of(name), int(number))
    return known


async def _update(source: Source, row: _Row) -> _Row:
    await source.execute(sql(source, "update_quotatoken"), (*_columns(row), row.rowid))
    return row


def _columns(row: _Row) -> tuple[object, ...]:
    """In the order of the statements; the guaranteed space is the whole."""
    return (
        bytes_of(row.s_token),
        bytes_of(row.u_token),
        row.t_space,
        row.t_space,
        row.u_space,
        bytes_of(row.pool),
        bytes_of(row.groups) or None,
        # Only one row may have an empty path, but any number has none.
        bytes_of(row.path) or None,
    )
