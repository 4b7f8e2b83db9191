"""Reading the namespace: entries, directories, replicas, links and comments.

Symbolic links are never followed. Who may see what is DPM's own rule, command by command: some
ask for rights on the parent, some on the entry, some for none at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import partial

from dome_bridge.auth.scopes import Capability
from dome_bridge.dome_api import catalog
from dome_bridge.dome_api.admission import CHANGING, READING, SEEING, WRITING, on_path
from dome_bridge.dome_api.catalog import Entry, Replica, Walk
from dome_bridge.dome_api.command import Commands, Integer, Text, Unsigned
from dome_bridge.dome_api.head import Call
from dome_bridge.dome_api.objects import Listing, Unreadable, character_code, replica_object, xstat
from dome_bridge.dome_api.permissions import (
    EXECUTE,
    READ,
    WRITE,
    Subject,
    may,
    may_traverse,
    require,
    require_scope,
)
from dome_bridge.dome_api.volatile import can_be_pulled
from dome_bridge.dome_api.wire import Answer, Tree
from dome_bridge.dpm.acl import ALL_RIGHTS
from dome_bridge.dpm.source import Row, Source
from dome_bridge.errors import ApiError

logger = logging.getLogger(__name__)

commands = Commands()

ENTRIES_AT_A_TIME = 500
"""So many are made into an answer before others have their turn: some three milliseconds."""


@commands.get(
    "dome_getstatinfo", on_path("lfn", needs=SEEING, ids=("rfn", "server:pfn"), disk=True, sees_leading=True)
)
async def getstatinfo(
    call: Call, lfn: Text = "", rfn: Text = "", server: Text = "", pfn: Text = ""
) -> Answer:
    """An entry, by path or by one of its replicas."""
    if lfn:
        found = await _stat_path(call, lfn)
        if found.entry is None:
            return await _stat_elsewhere(call, found)
        _require_scope_on(await call.subject(), SEEING, lfn, found.entry, leads=True)
        return _told(partial(xstat, _as_far_as_seen(call, lfn, found.entry)))
    if rfn or (server and pfn):
        return _told(partial(xstat, await _stat_replica(call, rfn or f"{server}:{pfn}")))
    raise ApiError(422, "Not enough parameters.")


@commands.get("dome_getdir", on_path("path", needs=READING))
async def getdir(call: Call, path: Text) -> Answer:
    """What is in a directory, in byte order of the names."""
    if not path:
        raise ApiError(422, "Cannot list an empty path")
    subject = await call.subject()

    async def children(source: Source) -> list[Row]:
        directory = _directory(subject, await catalog.walk(source, path))
        return await source.fetch(catalog.statement(source, "children"), (directory.fileid,))

    listing = await listing_of(await call.database.read(children))
    _log_unreadable(listing.unreadable)
    return Answer(200, listing.body(), "application/json")


@commands.get("dome_access", on_path("path", needs=SEEING, disk=True))
async def access(call: Call, path: Text = "", mode: Unsigned = 0) -> Answer:
    """Whether the user has rights on an entry; those on the way to it do not matter."""
    if not path:
        raise ApiError(422, "Empty rfn")
    subject = await call.subject()
    _require_access_scopes(subject, mode, path)
    found = await call.database.read(lambda source: catalog.walk(source, path))
    if found.entry is None:
        raise _not_accessible(found)
    _require_access_scopes(subject, mode, path, found.entry)
    require(may(subject, found.entry, mode & ALL_RIGHTS), f"Not accessible '{path}' err: permission denied")
    return Answer.EMPTY


@commands.get("dome_accessreplica", on_path(needs=SEEING, ids=("rfn",), disk=True))
async def accessreplica(call: Call, rfn: Text = "", mode: Unsigned = 0) -> Answer:
    """Whether the user has rights on a replica's file; to write, the replica must be being populated."""
    if not rfn:
        raise ApiError(422, "Empty rfn")
    subject = await call.subject()
    replica, entry = await call.database.read(lambda source: _replica_and_entry(source, rfn))
    if replica is None or entry is None:
        raise ApiError(
            404, f"Cannot stat rfn: '{rfn}' err: 2 what: 'no such replica, or its file is missing'"
        )
    if call.scopes is not None:
        path = await call.database.read(partial(catalog.path_of, entry))
        _require_access_scopes(subject, mode, path, entry)
    require(may(subject, entry, mode & ALL_RIGHTS), f"Not accessible '{rfn}'")
    status = character_code(replica.status)
    require(not mode & WRITE or replica.status == "P", f"Not accessible with replica status {status} '{rfn}'")
    return Answer.EMPTY


@commands.get(
    "dome_getreplicainfo", on_path(needs=READING, ids=("replicaid", "rfn"), disk=True, is_unchecked=True)
)
async def getreplicainfo(call: Call, rfn: Text = "", replicaid: Integer = 0) -> Answer:
    """A replica, by its number or its name."""
    if replicaid:
        wanted = f"replicaid: {replicaid}"
        replica = await call.database.read(lambda source: catalog.replica_by_id(source, replicaid))
    elif rfn:
        wanted = f"rfn: '{rfn}'"
        replica = await call.database.read(lambda source: catalog.replica_by_rfn(source, rfn))
    else:
        raise ApiError(422, "Need a replica filename or a replicaid")
    if replica is None:
        raise ApiError(404, f"Cannot retrieve {wanted} err: 402 what: 'no such replica'")
    return _told(partial(replica_object, replica))


@commands.get(
    "dome_getreplicavec",
    on_path("lfn", needs=READING, ids=("fileid",), disk=True, is_file=True, is_unchecked=True),
)
async def getreplicavec(call: Call, lfn: Text = "", fileid: Integer = 0) -> Answer:
    """All replicas of an entry, by path or number."""
    if lfn:
        wanted = f"lfn {lfn}"
        replicas = await call.database.read(lambda source: _replicas_of_path(source, lfn))
    else:
        wanted = f"fileid {fileid}"
        replicas = await call.database.read(lambda source: _replicas_of_fileid(source, fileid))
    if replicas is None:
        raise ApiError(400, f"Can't get replicas of {wanted} err: 2 what: 'no such entry'")
    return _told(lambda unreadable: {"replicas": [replica_object(each, unreadable) for each in replicas]})


@commands.get("dome_readlink", on_path("lfn", needs=SEEING, is_file=True, is_unchecked=True))
async def readlink(call: Call, lfn: Text = "") -> Answer:
    """The target of a symbolic link."""

    async def target_of(source: Source) -> str | None:
        entry = (await catalog.walk(source, lfn)).entry
        if entry is None:
            raise ApiError(404, f"Cannot stat lfn: '{lfn}'")
        if not entry.is_symlink:
            raise ApiError(400, f"Not a symlink lfn: '{lfn}'")
        return await catalog.link_target(source, entry.fileid)

    target = await call.database.read(target_of)
    if target is None:
        raise ApiError(400, f"Cannot get link lfn: '{lfn}': the catalog has no target for it")
    return Answer.json({"target": target})


@commands.get("dome_getcomment", on_path("lfn", needs=SEEING, ids=("fileid",), is_unchecked=True))
async def getcomment(call: Call, lfn: Text = "", fileid: Integer = 0) -> Answer:
    """The comment on an entry, by path or number; empty without one."""
    subject = await call.subject()

    async def comment(source: Source) -> str:
        if fileid:
            return await catalog.comment_of(source, fileid)
        entry = (await catalog.walk(source, lfn)).entry
        if entry is None:
            raise ApiError(404, f"Can't find lfn: '{lfn}'")
        _require_scope_on(subject, SEEING, lfn, entry)
        return await catalog.comment_of(source, entry.fileid)

    return Answer.json({"comment": await call.database.read(comment)})


def _require_access_scopes(subject: Subject, mode: int, path: str, entry: Entry | None = None) -> None:
    """What each right that is asked for comes to in capabilities; to pass through, any is enough.

    entry: when it is known; before, no more is refused than what would be refused of any.
    """
    _require_scope_on(subject, SEEING, path, entry)
    if mode & READ:
        _require_scope_on(subject, READING, path, entry)
    if mode & WRITE:
        is_file = entry is not None and not entry.is_directory
        _require_scope_on(subject, CHANGING if is_file else WRITING, path, entry)


def _require_scope_on(
    subject: Subject, wanted: Collection[Capability], path: str, entry: Entry | None, *, leads: bool = False
) -> None:
    """entry: what is at the path, if that is known. leads: the directories on the way will do as well."""
    scopes = subject.scopes
    if leads and scopes is not None and scopes.leads_to(path):
        return
    require_scope(subject, wanted, path, is_file=entry is not None and not entry.is_directory)


def _as_far_as_seen(call: Call, lfn: str, entry: Entry) -> Entry:
    """Of a directory that only leads to where a token creates it learns the type and that it is there."""
    if call.scopes is None or call.scopes.permits(SEEING, lfn):
        return entry
    return Entry.of_type(entry.name, entry.mode)


def _told(tell: Callable[[Unreadable], Tree]) -> Answer:
    unreadable = Unreadable()
    answer = Answer.json(tell(unreadable))
    _log_unreadable(unreadable)
    return answer


def _log_unreadable(unreadable: Unreadable) -> None:
    if unreadable.count:
        logger.warning(
            "attributes left out of an answer count=%d first=%s", unreadable.count, unreadable.first
        )


async def _stat_path(call: Call, lfn: str) -> Walk:
    subject = await call.subject()
    found = await call.database.read(lambda source: catalog.walk(source, lfn))
    if found.parent is None:
        raise ApiError(404, f"Cannot stat the parent of lfn: '{lfn}'")
    require(
        may_traverse(subject, found.lineage[:-1]),
        f"Permission denied on lfn: '{lfn}' err: 13 what: 'no right to pass through an ancestor'",
    )
    require(may(subject, found.parent, READ), f"Need READ access on '{found.parent_path}'")
    return found


async def _stat_elsewhere(call: Call, found: Walk) -> Answer:
    """What a volatile pool could fetch; the site's own program knows whether it exists."""
    is_below_directory = found.parent is not None and found.parent.is_directory
    if is_below_directory and await can_be_pulled(call, found.path):
        return Answer.json((await call.head.stat_hook.stat(found.path)).xstat)
    what = f"Entry '{found.name}' not found under '{found.parent_path}'"
    raise ApiError(
        404, f"Cannot stat lfn: '{found.path}' err: 2 what: '{what}' and no volatile filesystem matches."
    )


async def _stat_replica(call: Call, rfn: str) -> Entry:
    subject = await call.subject()

    async def entry_with_lineage(source: Source) -> tuple[Entry, tuple[Entry, ...]]:
        _, entry = await _replica_and_entry(source, rfn)
        if entry is None:
            raise ApiError(404, f"File not found on rfn: '{rfn}' err: 2 what: 'no such replica, or no file'")
        return entry, await catalog.lineage_of(source, entry)

    entry, lineage = await call.database.read(entry_with_lineage)
    require(
        may_traverse(subject, lineage),
        f"Permission denied on rfn: '{rfn}' err: 13 what: 'no right to pass through an ancestor'",
    )
    require(may(subject, entry, READ), f"Need READ access on rfn: '{rfn}'")
    return entry


async def _replica_and_entry(source: Source, rfn: str) -> tuple[Replica | None, Entry | None]:
    replica = await catalog.replica_by_rfn(source, rfn)
    return replica, await catalog.entry_by_fileid(source, replica.fileid) if replica else None


def _directory(subject: Subject, found: Walk) -> Entry:
    """What is to be listed. As in DPM the rights count that the user has on the directory above it."""
    if found.parent is None:
        raise ApiError(404, f"Cannot stat the parent of path: '{found.path}'")
    require(may_traverse(subject, found.lineage[:-1]), f"Permission denied on path: '{found.path}'")
    require(
        may(subject, found.parent, READ | EXECUTE),
        f"Need READ access on '{found.parent_path}'",
    )
    if found.entry is None or not found.entry.is_directory:
        what = "is not a directory" if found.entry else "not found"
        raise ApiError(500, f"Cannot open dir: '{found.path}' err: '{found.name}' {what}")
    return found.entry


async def listing_of(rows: list[Row]) -> Listing:
    """The entries of a directory, with turns for others in between if there are many."""
    listing = Listing()
    for start in range(0, len(rows), ENTRIES_AT_A_TIME):
        if start:
            await asyncio.sleep(0)
        listing.add(Entry.from_row(row) for row in rows[start : start + ENTRIES_AT_A_TIME])
    return listing


def _not_accessible(found: Walk) -> ApiError:
    """DOME knows "not found" from a path that could never lead anywhere."""
    if not found.path.startswith("/"):
        return ApiError(500, f"Error accessing '{found.path}': it is not an absolute path")
    if found.parent and found.parent.is_file:
        return ApiError(500, f"Error accessing '{found.path}': '{found.parent_path}' is not a directory")
    return ApiError(404, f"File not found '{found.path}'")


async def _replicas_of_path(source: Source, lfn: str) -> list[Replica] | None:
    entry = (await catalog.walk(source, lfn)).entry
    return None if entry is None else await catalog.replicas_of(source, entry.fileid)


async def _replicas_of_fileid(source: Source, fileid: int) -> list[Replica] | None:
    replicas = await catalog.replicas_of(source, fileid)
    if not replicas and await catalog.entry_by_fileid(source, fileid) is None:
        return None
    return replicas
