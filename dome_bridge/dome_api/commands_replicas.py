"""The commands that register, change and delete replicas."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from dome_bridge.dome_api import catalog
from dome_bridge.dome_api.admission import from_disks
from dome_bridge.dome_api.catalog import Entry, Replica, bytes_of, split_rfn, statement
from dome_bridge.dome_api.changes import GoneError
from dome_bridge.dome_api.command import Commands, Integer, Key, Text
from dome_bridge.dome_api.deletion_mark import MARK, Mark
from dome_bridge.dome_api.permissions import EXECUTE, WRITE, Subject, may, may_traverse, require
from dome_bridge.dome_api.properties import Attributes
from dome_bridge.dome_api.refusals import refused_with
from dome_bridge.dome_api.removal import delete_replica
from dome_bridge.dome_api.replica_names import (
    is_in_file_system,
    mount_points,
    named_by_others,
    require_new_name,
)
from dome_bridge.dome_api.sql import sql
from dome_bridge.dome_api.target import Target
from dome_bridge.dome_api.wire import Answer
from dome_bridge.dpm import xattr
from dome_bridge.dpm.source import Source
from dome_bridge.dpm.xattr import Json
from dome_bridge.errors import ApiError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

commands = Commands()

AVAILABLE = "-"
PERMANENT = "P"

LONGEST: Mapping[str, int] = {"setname": 36, "pool": 15, "host": 63, "fs": 79, "rfn": 4095}
"""Bytes that the columns hold, or that other readers take."""

Kind = Annotated[Text, Key("type")]
XattrText = Annotated[Text, Key("xattr")]

_CODE = re.compile(r"[0-9]{2,3}")


@commands.post("dome_addreplica", from_disks("rfn"))
async def add_replica(
    call: Call,
    rfn: Text = "",
    fileid: Integer = 0,
    lfn: Text = "",
    status: Text = "",
    kind: Kind = "",
    setname: Text = "",
    attributes: XattrText = "",
) -> Answer:
    """Registers a replica of a file, which is named by its fileid or, without one, by its path."""
    if not rfn:
        raise ApiError(422, "rfn is empty.")
    require_new_name(rfn)
    subject = await call.subject()
    change = _Change(rfn, _character(status), _character(kind), setname, _attributes(attributes))
    entry = await call.database.read(partial(_writable_file, fileid, lfn, subject))
    replica = _require_fitting(change.of(_blank(entry)), 400)
    with refused_with(400, f"Cannot add replica '{rfn}'"):
        await call.database.transact(partial(_register, _writable(entry, subject), replica))
    return Answer.EMPTY


@commands.post("dome_updatereplica", from_disks("rfn", "replicaid"))
async def update_replica(
    call: Call,
    rfn: Text = "",
    replicaid: Integer = 0,
    status: Text = "",
    kind: Kind = "",
    setname: Text = "",
    attributes: XattrText = "",
) -> Answer:
    """Changes what is given of a replica; beside its replicaid, another rfn is its new name.

    DOME asks for no right on the file; but its name would do to have any file read or removed.
    """
    subject = await call.subject()
    sent = call.request.parameters
    change = _Change(
        rfn,
        _character(status),
        _character(kind),
        setname if "setname" in sent else None,
        _attributes(attributes) if attributes else None,
    )
    replica, entry = await call.database.read(partial(_replica_and_file, replicaid, rfn))
    await call.database.read(partial(_require_way, entry, subject))
    await call.database.transact(partial(_update, replica, _writable(entry, subject), change))
    return Answer.EMPTY


@commands.post("dome_delreplica", from_disks("server"))
async def delete(call: Call, server: Text = "", pfn: Text = "") -> Answer:
    """Deletes a replica with its file on the disk server, and the entry with its last replica."""
    if not server or not pfn:
        raise ApiError(422, "server and pfn are needed, one of them is empty")
    if not pfn.startswith("/"):
        raise ApiError(404, f"'{pfn}' is not an absolute path")
    subject = await call.subject()
    rfn = f"{server}:{pfn}"
    entry = await call.database.read(partial(_file_of, server, pfn, rfn, subject))
    target = Target(entry, partial(_require_open, subject))
    await delete_replica(call.head, target, rfn, call.disk_user, call.request.parameters.tree())
    return Answer.text(f"Deleted '{pfn}' in server '{server}'. Have a nice day.")


@dataclass(frozen=True)
class _Change:
    """What a client wants a replica to be; empty or None is what it says nothing about."""

    rfn: str
    status: str
    kind: str
    setname: str | None
    attributes: dict[str, Json] | None

    def of(self, replica: Replica) -> Replica:
        rfn = self.rfn or replica.rfn
        changed = replace(
            replica,
            rfn=rfn,
            host=replica.host if rfn == replica.rfn else split_rfn(rfn)[0],
            status=self.status or replica.status,
            kind=self.kind or replica.kind,
            setname=replica.setname if self.setname is None else self.setname,
        )
        if self.attributes is None:
            return changed
        return replace(
            changed,
            pool=_text(self.attributes.get("pool")) or replica.pool,
            fs=_text(self.attributes.get("filesystem")) or replica.fs,
            xattr_text=xattr.serialise(self.attributes),
        )


def _blank(entry: Entry) -> Replica:
    return Replica(0, entry.fileid, 0, 0, 0, 0, AVAILABLE, PERMANENT, "", "", "", "", "", b"")


def _columns(replica: Replica) -> tuple[bytes | None, ...]:
    """As the statements take them; a replica that is charged to no token has NULL for one."""
    texts = (
        replica.status,
        replica.kind,
        replica.setname,
        replica.pool,
        replica.host,
        replica.fs,
        replica.rfn,
    )
    status, kind, setname, *places = (bytes_of(text) for text in texts)
    return (status, kind, setname or None, *places, replica.xattr_text)


def _character(text: str) -> str:
    """Status and type come as a character or as its decimal code; empty for anything else."""
    if _CODE.fullmatch(text):
        text = chr(int(text))
    return text if len(text) == 1 and text.isascii() and text.isprintable() else ""


def _attributes(text: str) -> dict[str, Json]:
    """All scalars are text. Our own mark, which a client may have read, must not come back with it."""
    attributes = xattr.parse(Attributes.from_json(text).text)
    attributes.pop(MARK, None)
    return attributes


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _require_fitting(replica: Replica, status: int) -> Replica:
    for name, longest in LONGEST.items():
        if len(bytes_of(getattr(replica, name))) > longest:
            raise ApiError(status, f"the replica's {name} is longer than {longest} bytes")
    return replica


async def _writable_file(fileid: int, lfn: str, subject: Subject, source: Source) -> Entry:
    entry = await _file(fileid, lfn, source)
    if entry is None:
        raise ApiError(404, f"Cannot find fileid {fileid} or lfn '{lfn}'")
    if not entry.is_file:
        raise ApiError(400, f"Inode {entry.fileid} is not a regular file")
    await _require_way(entry, subject, source)
    _require_write(subject, entry)
    return entry


async def _file(fileid: int, lfn: str, source: Source) -> Entry | None:
    if fileid or not lfn:
        return await catalog.entry_by_fileid(source, fileid)
    return (await catalog.walk(source, lfn)).entry


async def _require_way(entry: Entry, subject: Subject, source: Source) -> None:
    """Raises ApiError 403 if a directory above the file is closed to the subject."""
    ancestors = await catalog.lineage_of(source, entry)
    require(may_traverse(subject, ancestors), f"Permission denied on fileid {entry.fileid}")


def _require_write(subject: Subject, entry: Entry) -> None:
    require(may(subject, entry, WRITE), f"Can't modify file '{entry.name}'")


def _require_open(subject: Subject, parent: Entry, entry: Entry) -> None:
    require(may(subject, parent, EXECUTE), f"Permission denied on fileid {entry.fileid}")


def _writable(entry: Entry, subject: Subject) -> Target:
    """A file that must be open to the subject, and writable for it, still when it is locked."""

    def check(parent: Entry, entry: Entry) -> None:
        _require_open(subject, parent, entry)
        _require_write(subject, entry)

    return Target(entry, check)


async def _register(target: Target, replica: Replica, source: Source) -> None:
    await target.locked(source)
    await _require_free_name(source, replica)
    await source.execute(sql(source, "insert_replica"), (replica.fileid, *_columns(replica)))


async def _require_free_name(source: Source, replica: Replica) -> None:
    """A good one, and no other replica has it or another spelling of it."""
    require_new_name(replica.rfn, await mount_points(source))
    rows = await source.fetch(statement(source, "replicas_by_rfn_locked"), (bytes_of(replica.rfn),))
    is_taken = any(Replica.from_row(row).replicaid != replica.replicaid for row in rows)
    if is_taken or await named_by_others(source, [replica]):
        raise ApiError(403, f"Replica '{replica.rfn}' already registered")


async def _replica_and_file(replicaid: int, rfn: str, source: Source) -> tuple[Replica, Entry]:
    if replicaid:
        replica = await catalog.replica_by_id(source, replicaid)
    else:
        replica = await catalog.replica_by_rfn(source, rfn)
    if replica is None:
        raise ApiError(404, f"Cannot find the replica with replicaid {replicaid} or rfn '{rfn}'")
    entry = await catalog.entry_by_fileid(source, replica.fileid)
    if entry is None:
        raise ApiError(404, f"Cannot find the file of replica {replica.replicaid}: fileid {replica.fileid}")
    return replica, entry


async def _update(found: Replica, target: Target, change: _Change, source: Source) -> None:
    await target.locked(source)
    replica = await catalog.locked_replica(source, found.replicaid)
    if replica is None or (replica.fileid, replica.rfn) != (found.fileid, found.rfn):
        raise GoneError(f"the replica '{found.rfn}'")
    if Mark.of(replica):
        # With another status or attributes it would be taken for a replica that nobody deletes.
        raise ApiError(404, f"the replica '{replica.rfn}' is being deleted")
    changed = _require_fitting(change.of(replica), 422)
    if changed.rfn != replica.rfn:
        await _require_free_name(source, changed)
    await source.execute(sql(source, "update_replica"), (*_columns(changed), replica.replicaid))


async def _file_of(server: str, pfn: str, rfn: str, subject: Subject, source: Source) -> Entry:
    if not is_in_file_system(server, pfn, await mount_points(source)):
        raise ApiError(404, f"'{pfn}' is in no filesystem of server '{server}'")
    _, entry = await _replica_and_file(0, rfn, source)
    if not entry.is_file:
        raise ApiError(400, f"Inode {entry.fileid} is not a regular file")
    await _require_way(entry, subject, source)
    return entry
