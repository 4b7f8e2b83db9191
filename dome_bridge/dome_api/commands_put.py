"""The commands that begin an upload and end it; the data go from the client to the disk server."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Annotated, NamedTuple

from dome_bridge.dome_api.admission import CHANGING, WRITING, from_disks, on_path
from dome_bridge.dome_api.catalog import Entry, Replica, Walk, names_of, walk
from dome_bridge.dome_api.changes import ExistsError, require_name
from dome_bridge.dome_api.command import Codec, Commands, Integer, Text
from dome_bridge.dome_api.permissions import WRITE, Subject, may, may_traverse, require, require_scope
from dome_bridge.dome_api.placement import MIB, NO_HINTS, Choice, Hints, candidates, new_pfn, vo_of
from dome_bridge.dome_api.quotatokens import (
    QuotaToken,
    admits,
    covering,
    fits,
    group_names,
    read_quotatokens,
    used_space,
)
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.uploads import (
    Arrival,
    Checksum,
    NewReplica,
    Upload,
    begin_additional,
    begin_file,
    finish_upload,
    upload_under_way,
)
from dome_bridge.dome_api.wire import Answer
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError, DiskError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

commands = Commands()

_ALSO_YES = ("on",)
YesOrOn = Annotated[
    bool,
    Codec(
        "true, 1, yes or on",
        lambda parameters, key, default: parameters.flag(key, default, also=_ALSO_YES),
        lambda parameters, key: parameters.flag(key, also=_ALSO_YES),
    ),
]

# Two processes that started in one second must not count alike: no two replicas have one name.
_numbers = count(secrets.randbelow(2**40))
_chance: Random = SystemRandom()

_DOTS = frozenset({".", ".."})


@commands.post("dome_put", on_path("lfn", needs=WRITING, is_file=True, spares_base=True))
async def put(
    call: Call,
    lfn: Text = "",
    additionalreplica: YesOrOn = False,
    pool: Text = "",
    host: Text = "",
    fs: Text = "",
) -> Answer:
    """Makes a place for a new file, or for one more replica of a file that is there."""
    new = await new_replica(call, Order(lfn, Hints(pool, host, fs), additionalreplica))
    return Answer.json(
        {
            "pool": new.filesystem.pool,
            "host": new.filesystem.server,
            "filesystem": new.filesystem.path,
            "pfn": new.pfn,
        }
    )


@commands.post("dome_putdone", from_disks("server"))
async def putdone(
    call: Call,
    pfn: Text = "",
    server: Text = "",
    size: Integer = 0,
    checksumtype: Text = "",
    checksumvalue: Text = "",
) -> Answer:
    """Makes a replica available whose file is on its disk now; without a size the disk is asked."""
    if not pfn:
        raise ApiError(422, "pfn is empty.")
    if not server:
        raise ApiError(422, "server is empty.")
    if size < 0:
        raise ApiError(422, f"{size} is no size of a file")
    checksum = Checksum.sent(checksumtype, checksumvalue)
    rfn = f"{server}:{pfn}"
    if size == 0:
        await call.database.read(partial(_under_way, rfn))
        size = await _size_on_disk(call, server, pfn)
    depth = call.head.config.api.directory_size_depth
    await finish_upload(call.database, Arrival(rfn, size, checksum), depth=depth)
    return Answer.text("dome_putdone successful.")


async def _under_way(rfn: str, source: Source) -> Replica:
    return await upload_under_way(source, rfn)


async def _size_on_disk(call: Call, server: str, pfn: str) -> int:
    try:
        answer = await call.head.disks.call(server, "GET", "dome_statpfn", {"pfn": pfn}, call.disk_user)
        size = int(json.loads(answer.text)["size"])
    except DiskError as exc:
        raise ApiError(500, f"Cannot stat pfn '{pfn}' on its disk server: {exc}") from exc
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ApiError(500, f"disk server {server} does not tell the size of pfn '{pfn}'") from exc
    if size < 0:
        raise ApiError(500, f"disk server {server} says that pfn '{pfn}' has {size} bytes")
    return size


@dataclass(frozen=True)
class Order:
    """What a client wants a place for. is_additional: beside the replicas that the file has."""

    lfn: str
    hints: Hints = NO_HINTS
    is_additional: bool = False


async def new_replica(call: Call, order: Order) -> NewReplica:
    """A replica that is being populated from now on. Raises ApiError for whatever stands against it."""
    subject = await call.subject()
    place = await call.database.read(partial(_writable_place, order.lfn, subject))
    if place.entry is not None:
        require_scope(subject, CHANGING, place.lfn, is_file=True)
    if order.hints.pool and order.hints.host:
        raise ApiError(400, "The pool hint and the host hint are mutually exclusive.")
    grant = await _grant(call, order.hints, place)
    found = candidates(call.cluster, grant.hints)
    if not found:
        raise ApiError(
            400,
            "No filesystems match the given logical path and placement hints. "
            f"HINT: see that there are writable ones, and the hints: {grant.hints}",
        )
    choice = Choice(call.cluster, found, grant.needed, _chance)
    if order.is_additional:
        return await _beside_others(call, place, grant, choice)
    return await _with_new_file(call, place, grant, choice, subject)


class _Place(NamedTuple):
    """Where a look-up has found a file, or room for one. names: of the path without dots."""

    lfn: str
    name: str
    names: tuple[str, ...]
    parent: Entry
    entry: Entry | None

    @classmethod
    def from_walk(cls, found: Walk, parent: Entry) -> _Place:
        """No entry is named by a dot at the end of a path: rights on it are no rights on its directory."""
        entry = found.entry
        is_named = entry is not None and (entry.parent, entry.name) == (parent.fileid, found.name)
        names = (*(each.name for each in found.lineage[1:]), *([found.name] if found.name else []))
        return cls(found.path, found.name, names, parent, entry if is_named else None)

    @property
    def path(self) -> str:
        """What quotatokens are compared with: the path as it came, as in DOME, unless it has dots.

        With dots another directory's token could be named than that of the directory it leads to.
        """
        return self.lfn if _DOTS.isdisjoint(names_of(self.lfn)) else "/" + "/".join(self.names)


async def _writable_place(lfn: str, subject: Subject, source: Source) -> _Place:
    found = await walk(source, lfn)
    if found.parent is None or not lfn:
        raise ApiError(404, f"Cannot stat the parent of lfn: '{lfn}'")
    require(may_traverse(subject, found.lineage[:-1]), f"Permission denied on lfn: '{lfn}'")
    require(may(subject, found.parent, WRITE), f"Need WRITE access on '{found.parent_path}'")
    return _Place.from_walk(found, found.parent)


class _Grant(NamedTuple):
    """Where a client may put something. needed: bytes that must be free there."""

    hints: Hints
    needed: int
    token: QuotaToken | None = None


async def _grant(call: Call, hints: Hints, place: _Place) -> _Grant:
    """Who names a place needs no quotatoken, and is charged to none."""
    needed = call.head.config.api.placement.min_free_mb * MIB
    if hints.is_given:
        return _Grant(hints, needed)
    quota = await call.database.read(partial(_quota, place.path))
    _require_admitted(call.request.user, place.lfn, quota)
    token = quota.token
    pool = call.cluster.pools.get(token.pool)
    if pool is not None and call.cluster.of_pool(pool.name):
        needed = pool.defsize
    if not fits(token, quota.used, needed):
        raise ApiError(
            507,
            f"Unable to complete put for '{place.lfn}' - quotatoken '{token.u_token}' has insufficient free "
            f"space. minfreespace_bytes: {needed}",
        )
    return _Grant(Hints(pool=token.pool), needed, token)


class _Quota(NamedTuple):
    """The quotatoken of a path. used: bytes; names: of its groups."""

    token: QuotaToken
    used: int
    names: dict[int, str]


async def _quota(path: str, source: Source) -> _Quota:
    tokens = await read_quotatokens(source)
    token = next(iter(covering(tokens, path)), None)
    if token is None:
        raise ApiError(400, "No quotatokens match lfn, and no hints were given.")
    return _Quota(token, await used_space(source, token, tokens), await group_names(source, [token]))


def _require_admitted(user: RemoteUser, lfn: str, quota: _Quota) -> None:
    if admits(quota.token, quota.names, user.groups):
        return
    gids = ",".join(map(str, quota.token.gids))
    raise ApiError(
        403,
        f"Unable to complete put for '{lfn}' - user '{user.dn}' with groups '{','.join(user.groups)}' has no "
        f"write access to quotatoken '{quota.token.u_token}' with gids '{gids}'",
    )


async def _with_new_file(
    call: Call, place: _Place, grant: _Grant, choice: Choice, subject: Subject
) -> NewReplica:
    filesystem = choice.for_file()
    upload = _upload(place, grant, choice)
    what = f"Cannot create logical directories for '{place.lfn}'"
    try:
        require_name(place.name)
        if place.entry is not None:
            raise ExistsError(place.name, place.parent)
        subject = await call.enrolled(place.parent)
        return await begin_file(
            call.database, upload, filesystem, parent=place.parent, name=place.name, subject=subject
        )
    except ApiError as exc:
        if isinstance(exc, ExistsError):
            # Somebody may have been quicker.
            require_scope(subject, CHANGING, place.lfn, is_file=True)
        if exc.status in (409, 422):
            raise ApiError(422, f"{what} : {exc.text}") from exc
        raise


async def _beside_others(call: Call, place: _Place, grant: _Grant, choice: Choice) -> NewReplica:
    if place.entry is None:
        raise ApiError(404, f"Cannot stat lfn: '{place.lfn}': an additional replica needs a file")
    if not place.entry.is_file:
        raise ApiError(400, f"Inode {place.entry.fileid} is not a regular file: '{place.lfn}'")
    return await begin_additional(call.database, _upload(place, grant, choice), place.entry)


def _upload(place: _Place, grant: _Grant, choice: Choice) -> Upload:
    vo = vo_of(place.lfn, place.names)
    return Upload(
        place.lfn,
        choice,
        grant.token,
        pfn=lambda filesystem: new_pfn(filesystem, vo, place.name, next(_numbers), time.time()),
    )
