"""Where a file can be read: all its replicas that are up, for the front-end to choose from."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from dome_bridge.dome_api import catalog
from dome_bridge.dome_api.admission import READING, STAGE, on_path
from dome_bridge.dome_api.catalog import Replica, Walk, split_rfn
from dome_bridge.dome_api.cluster import Cluster
from dome_bridge.dome_api.command import Commands, Text
from dome_bridge.dome_api.commands_put import Order, new_replica
from dome_bridge.dome_api.deletion_mark import BEING_POPULATED, Mark
from dome_bridge.dome_api.permissions import READ, Subject, may, may_traverse, require, require_scope
from dome_bridge.dome_api.volatile import can_be_pulled
from dome_bridge.dome_api.wire import Answer, Tree
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

commands = Commands()


@commands.get("dome_get", on_path("lfn", needs=READING, is_file=True))
async def get(call: Call, lfn: Text = "") -> Answer:
    """The replicas from which a file can be read; the keys are their places in the list of all.

    What only a volatile pool could have is fetched: 202, ask again.
    """
    if not lfn:
        raise ApiError(404, "Cannot stat the parent of lfn: ''")
    subject = await call.subject()
    endings = call.head.pulls.endings
    found = await call.database.read(partial(_readable, lfn, subject))
    if not found.exists:
        return await _fetched_anew(call, lfn, subject)
    if not found.replicas:
        raise ApiError(404, f"Can't get replicas of '{lfn}': it has none")
    if places := readable_places(call.cluster, found.replicas):
        return Answer.json(places)
    if pending := found.pending:
        require_scope(subject, {STAGE}, lfn)
        return await _fetched(call, lfn, pending, endings)
    raise ApiError(500, f"Unable to find replicas for '{lfn}'")


def readable_places(cluster: Cluster, replicas: Iterable[Replica]) -> dict[str, Tree]:
    """Of the replicas that can be read now, by their places in the list.

    DOME hands out what has the status D. A replica that we are deleting may have lost its file.
    """
    places: dict[str, Tree] = {}
    for number, replica in enumerate(replicas):
        server, pfn = split_rfn(replica.rfn)
        filesystem = cluster.find(server, pfn)
        is_whole = replica.status != BEING_POPULATED and Mark.of(replica) is None
        if is_whole and filesystem is not None and filesystem.is_readable:
            places[str(number)] = {"server": server, "pfn": pfn, "filesystem": filesystem.path}
    return places


class _Found(NamedTuple):
    exists: bool
    replicas: list[Replica]

    @property
    def pending(self) -> Replica | None:
        """The first that is being populated."""
        return next((each for each in self.replicas if each.status == BEING_POPULATED), None)


async def _readable(lfn: str, subject: Subject, source: Source) -> _Found:
    """What is there to be read. As in DOME the rights on the directory decide, not those on the file."""
    found = await catalog.walk(source, lfn)
    if found.parent is None:
        raise ApiError(404, f"Cannot stat the parent of lfn: '{lfn}'")
    require(may_traverse(subject, found.lineage[:-1]), f"Permission denied on lfn: '{lfn}'")
    require(may(subject, found.parent, READ), f"Need READ access on '{found.parent_path}'")
    if not lfn.startswith("/"):
        raise ApiError(422, f"'{lfn}' is not an absolute path")
    if found.entry is None or _is_file_with_dots(found):
        return _Found(exists=False, replicas=[])
    return _Found(exists=True, replicas=await catalog.replicas_of(source, found.entry.fileid))


def _is_file_with_dots(found: Walk) -> bool:
    """A dot after the name of a file would have the rights on the file decide, not those on its directory."""
    entry, parent = found.entry, found.parent
    return entry is not None and parent is not None and entry.is_file and entry.parent != parent.fileid


async def _fetched_anew(call: Call, lfn: str, subject: Subject) -> Answer:
    """A pull of a file that nobody has asked for yet; it begins like an upload, with the same refusals."""
    if not await can_be_pulled(call, lfn):
        raise ApiError(404, f"No available replicas for '{lfn}'")
    require_scope(subject, {STAGE}, lfn)
    try:
        new = await new_replica(call, Order(lfn))
    except ApiError:
        endings = call.head.pulls.endings
        found = await call.database.read(partial(_readable, lfn, subject))
        if not found.pending:
            raise
        # somebody else has asked at the same time
        return await _fetched(call, lfn, found.pending, endings)
    place = new.filesystem
    pulls = await _request(call, lfn, place.server, new.pfn, place.pool, is_new=True)
    return Answer.text(
        f"Enqueued file pull request {place.server}, path {lfn}, check back later.\r\n"
        f"Total pulls in queue right now: {pulls}",
        202,
    )


async def _fetched(call: Call, lfn: str, pending: Replica, endings: int) -> Answer:
    """A pull goes on, or is asked for again: after a restart, or when it was given up.

    endings: of pulls, when the replica was found to be pending. If one has ended since, it may be this
    one, and fetching it again would write over a file that is whole: the client's next question tells.
    """
    if not await can_be_pulled(call, lfn):
        raise ApiError(500, "Only pending replicas are available.")
    server, pfn = split_rfn(pending.rfn)
    if call.head.pulls.endings == endings:
        await _request(call, lfn, server, pfn, pending.pool)
    return Answer.text(f"Refreshed file pull request for {server}, path {lfn}", 202)


async def _request(
    call: Call, lfn: str, server: str, pfn: str, poolname: str, *, is_new: bool = False
) -> int:
    pool = call.cluster.pools.get(poolname)
    needed = pool.defsize if pool else 0
    user = call.disk_user
    return await call.head.pulls.request(lfn, server, pfn, needed, user, is_new=is_new)
