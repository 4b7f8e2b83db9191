"""The commands that make, change and remove pools and file systems.

They come from administrators' tools, which leave out what is false, 0 or empty; so a number that is empty
counts as not given. Whoever may call at all may do all of this, as in the original.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated

from dome_bridge.dome_api import pool_admin
from dome_bridge.dome_api.catalog import bytes_of
from dome_bridge.dome_api.cluster import Pool, Status
from dome_bridge.dome_api.command import Codec, Commands, Text
from dome_bridge.dome_api.people import shown
from dome_bridge.dome_api.pool_admin import Place
from dome_bridge.dome_api.refusals import refused_with
from dome_bridge.dome_api.wire import Answer, ParameterError, Parameters
from dome_bridge.errors import ApiError, BridgeError, DiskError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

logger = logging.getLogger(__name__)

commands = Commands()

DEFAULT_DEFSIZE = 3 * 1024**3
LEAST_DEFSIZE = 1024**2
PERMANENT, VOLATILE = "P", "V"

LONGEST: Mapping[str, int] = {"poolname": 15, "server": 63, "fs": 79}
"""Bytes that the columns hold."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _number(parameters: Parameters, key: str, default: int) -> int:
    """-1 for what is no number: a slip of the hand must not pass for the default."""
    if not parameters.text(key).strip():
        return default
    try:
        return parameters.required_integer(key)
    except ParameterError:
        return -1


def _defsize(parameters: Parameters, key: str, default: int = DEFAULT_DEFSIZE) -> int:
    size = _number(parameters, key, default)
    if size < LEAST_DEFSIZE:
        raise ApiError(422, f"Invalid defsize: give at least {LEAST_DEFSIZE} bytes as '{key}'")
    return size


def _status(parameters: Parameters, key: str, default: int = Status.ACTIVE) -> Status:
    try:
        return Status(_number(parameters, key, default))
    except ValueError:
        raise ApiError(
            422, f"Invalid status: give 0 (active), 1 (disabled) or 2 (read-only) as '{key}'"
        ) from None


Defsize = Annotated[int, Codec("bytes", _defsize, _defsize)]
FsStatus = Annotated[Status, Codec("0, 1 or 2", _status, _status)]


@commands.post("dome_addpool")
async def add_pool(
    call: Call, poolname: Text = "", pool_defsize: Defsize = DEFAULT_DEFSIZE, pool_stype: Text = PERMANENT
) -> Answer:
    """Makes a pool, permanent (P) or volatile (V); pool_defsize: bytes that an upload must find free."""
    _require_name(poolname)
    if pool_stype not in (PERMANENT, VOLATILE):
        raise ApiError(422, f"Invalid pool_stype: give {PERMANENT} or {VOLATILE}")
    pool = Pool(poolname, pool_defsize, pool_stype)
    with refused_with(
        422, f"Could not create pool '{poolname}'", twice=f"poolname '{poolname}' already exists."
    ):
        await call.database.transact(partial(pool_admin.insert_pool, pool=pool))
    await _reread(call)
    return Answer.text("Pool was created.")


@commands.post("dome_modifypool")
async def modify_pool(
    call: Call, poolname: Text = "", pool_defsize: Defsize = DEFAULT_DEFSIZE, pool_stype: Text = PERMANENT
) -> Answer:
    """Sets both properties of a pool; of pool_stype the first character counts."""
    _require_name(poolname)
    s_type = pool_stype[:1]
    if not (s_type and s_type.isascii() and s_type.isprintable()):
        raise ApiError(422, f"Invalid pool_stype: give {PERMANENT} or {VOLATILE}")
    pool = Pool(poolname, pool_defsize, s_type)
    with refused_with(422, f"Could not modify pool '{poolname}'"):
        await call.database.transact(partial(pool_admin.update_pool, pool=pool))
    await _reread(call)
    return Answer.text("Pool was modified.")


@commands.post("dome_rmpool")
async def remove_pool(call: Call, poolname: Text = "") -> Answer:
    """Removes a pool and its file systems, not what is on them; a pool that is not there is no error."""
    if not poolname:
        raise ApiError(422, "poolname is empty.")
    await call.database.transact(partial(pool_admin.delete_pool, name=poolname))
    await _reread(call)
    return Answer.text("Pool deleted.")


@commands.post("dome_addfstopool")
async def add_filesystem(
    call: Call, poolname: Text = "", server: Text = "", fs: Text = "", status: FsStatus = Status.ACTIVE
) -> Answer:
    """Adds a file system that its server has; it begins active, whatever the status."""
    _require_name(poolname)
    place = _new_place(server, fs)
    pool_admin.require_free(place, (await call.head.watch.reread()).filesystems)
    try:
        await _ask_disk(call, place)
    except DiskError as exc:
        raise ApiError(500, f"Could not stat fs '{fs}' of server '{server}': {exc}") from exc
    with refused_with(422, f"Could not insert new fs '{fs}' of server '{server}'"):
        await call.database.transact(partial(pool_admin.insert_filesystem, pool=poolname, place=place))
    await _reread(call)
    # Usable at once, unless it is new to the server too: that one asks the head once a minute.
    await call.head.watch.poll_server(server)
    return Answer.text("New filesystem added.")


@commands.post("dome_modifyfs")
async def modify_filesystem(
    call: Call, poolname: Text = "", server: Text = "", fs: Text = "", status: FsStatus = Status.ACTIVE
) -> Answer:
    """Sets pool and status of a file system; only to be active must it be found on its server."""
    _require_name(poolname)
    place = Place(server, fs)
    what = f"Could not modify fs '{fs}' of server '{server}'"
    known = await call.head.watch.reread()
    pool_admin.require_known(place, known.filesystems)
    pool_admin.require_pool(poolname, known.pools, what)
    is_there = await _is_there(call, place, status)
    with refused_with(422, what, twice=f"{what}: it is in several pools: remove it, then add it to one"):
        work = partial(pool_admin.update_filesystem, pool=poolname, place=place, status=status)
        await call.database.transact(work)
    await _reread(call)
    if is_there:
        await call.head.watch.poll_server(server)
    return Answer.text("Filesystem modified.")


@commands.post("dome_rmfs")
async def remove_filesystem(call: Call, server: Text = "", fs: Text = "") -> Answer:
    """Removes a file system from its pool, not what is on it."""
    deleted = await call.database.transact(partial(pool_admin.delete_filesystem, place=Place(server, fs)))
    await _reread(call)
    return Answer.text(f"Deleted {deleted} filesystems matching '{fs}' of server '{server}'")


def _require_name(poolname: str) -> None:
    if not poolname:
        raise ApiError(422, "poolname is empty.")
    _require_fitting("poolname", poolname)


def _new_place(server: str, fs: str) -> Place:
    _require_fitting("server", server)
    _require_fitting("fs", fs)
    if not fs.startswith("/") or ".." in fs.split("/"):
        raise ApiError(422, f"fs {shown(fs)} is not an absolute path")
    return Place(server, fs)


def _require_fitting(key: str, value: str) -> None:
    longest = LONGEST[key]
    if len(bytes_of(value)) > longest or _CONTROL.search(value):
        raise ApiError(422, f"{key} {shown(value)} has more than {longest} bytes or control characters")


async def _is_there(call: Call, place: Place, status: Status) -> bool:
    """Raises ApiError 500 if the file system is not, but has to be.

    What its server does not find, or cannot be asked about, must still be taken out of service.
    """
    try:
        await _ask_disk(call, place)
    except DiskError as exc:
        if status is Status.ACTIVE:
            raise ApiError(
                500, f"Could not stat fs '{place.path}' of server '{place.server}': {exc}"
            ) from exc
        logger.warning("file system taken out of service unseen status=%d error=%s", status, exc)
        return False
    return True


async def _ask_disk(call: Call, place: Place) -> None:
    """Raises DiskError."""
    body = {"pfn": place.path, "matchfs": "false", "server": place.server}
    await call.head.disks.call(place.server, "GET", "dome_statpfn", body, call.disk_user)


async def _reread(call: Call) -> None:
    """What is done is done: if the database fails now, the next regular reading tells."""
    try:
        await call.head.watch.reread()
    except BridgeError as exc:
        logger.warning("changed pools are known only after the next reading error=%s", exc)
