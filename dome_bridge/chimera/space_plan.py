"""What dCache has in place of DPM's pools and quotatokens: pure, for both of its models of space.

With a space manager each quotatoken becomes a reservation in the link group of its pool, and the
directories below its path carry the reservation's id in the tag WriteToken. Without one the
storage class of a directory, `store:group`, leads to a pool group, and limits are quotas of groups.
`tags.sql` sets the tags of both; the names here are the same as there.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

HSM = "osm"
DEFAULT_GROUP = "default"
DEFAULT_STORE = "dpm"
ROOT_GROUP = "root"
DIGEST_DIGITS = 6

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_VO_DEPTH = 4


class Model(enum.StrEnum):
    """How dCache keeps the shares of a pool apart."""

    SPACE_MANAGER = "space-manager"
    STORAGE_UNITS = "storage-units"


class LeftOutReason(enum.StrEnum):
    """Why a quotatoken becomes no space."""

    NO_PATH = "it has no path"
    ROOT = "its path is /, for which DPM counts nothing"
    PATH = "its path is no plain absolute path in UTF-8"
    NO_DIRECTORY = "its path leads to no directory"
    NO_POOL = "it is of no pool"
    SAME_DIRECTORY = "another quotatoken has the same directory"


class TokenRow(NamedTuple):
    """A row of dpm_space_reserv. groups: gids with commas."""

    s_token: bytes
    u_token: bytes | None
    poolname: bytes | None
    path: bytes | None
    t_space: int | None
    groups: bytes | None


@dataclass(frozen=True)
class Space:
    """What a quotatoken becomes. id: of the reservation, once it has one; it is the value of WriteToken.

    owner: the VO's group, such as /atlas. fqans: of all groups of the token that have a name.
    size: the quota in bytes. store, group: the storage class of the directories below.
    """

    token: str
    name: str
    path: str
    dpm_pool: str
    link_group: str
    size: int
    owner: str
    fqans: tuple[str, ...]
    gids: tuple[int, ...]
    store: str
    group: str
    id: int | None = None

    @property
    def unit(self) -> str:
        """The storage unit of the pool manager."""
        return storage_unit(self.store, self.group)


@dataclass(frozen=True)
class PoolGroup:
    """The dCache pools of one DPM pool. link_group: where its reservations are; None without any."""

    dpm_pool: str
    pools: tuple[str, ...]
    link_group: str | None
    fqans: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    token: str
    name: str
    path: str
    reason: LeftOutReason


@dataclass(frozen=True)
class SpacePlan:
    """spaces: by path. default_units: storage units of VOs' directories that no token begins."""

    model: Model
    pool_groups: tuple[PoolGroup, ...]
    spaces: tuple[Space, ...]
    left_out: tuple[LeftOut, ...] = ()
    default_units: tuple[str, ...] = ()

    @property
    def units(self) -> tuple[str, ...]:
        """Every storage unit that a directory may have."""
        return tuple(sorted({*self.default_units, *(space.unit for space in self.spaces)}))

    @property
    def recommended(self) -> Model:
        """A space manager where a VO's quotas must be told apart, which quotas of groups cannot."""
        stores = Counter(space.store for space in self.spaces)
        several = any(count > 1 for count in stores.values())
        nested = any(covering(space.path, self.spaces, strictly=True) for space in self.spaces)
        return Model.SPACE_MANAGER if several or nested else Model.STORAGE_UNITS

    def of_pool(self, dpm_pool: str) -> tuple[Space, ...]:
        return tuple(space for space in self.spaces if space.dpm_pool == dpm_pool)


def plan_spaces(
    tokens: Iterable[TokenRow],
    *,
    model: Model,
    pools: Mapping[str, Sequence[str]],
    groups: Mapping[int, str],
    directories: Collection[str] | None = None,
    vos: Iterable[str] = (),
    ids: Mapping[str, int] = MappingProxyType({}),
) -> SpacePlan:
    """pools: dCache pools by DPM pool. groups: names by gid. ids: reservations by s_token.

    directories: paths that exist, as `plain_path` writes them; None if nobody has looked.
    vos: the directories /dpm/<domain>/home/<vo>.
    """
    spaces: dict[str, Space] = {}
    left_out: list[LeftOut] = []
    # The first by its text as it stands is the one that tags.sql takes.
    for token in sorted(tokens, key=lambda each: ((each.path or b"").rstrip(b"/"), each.s_token)):
        made = _space(token, groups, directories)
        if isinstance(made, Space) and made.path in spaces:
            made = _left_out(token, LeftOutReason.SAME_DIRECTORY)
        if isinstance(made, LeftOut):
            left_out.append(made)
        else:
            spaces[made.path] = replace(made, id=ids.get(made.token))
    ordered = tuple(spaces[path] for path in sorted(spaces))
    names = sorted({*pools, *(space.dpm_pool for space in ordered)})
    return SpacePlan(
        model=model,
        pool_groups=tuple(_pool_group(name, pools.get(name, ()), ordered) for name in names),
        spaces=ordered,
        left_out=tuple(left_out),
        default_units=tuple(sorted({storage_unit(safe(vo), DEFAULT_GROUP) for vo in vos})),
    )


def _space(
    token: TokenRow,
    groups: Mapping[int, str],
    directories: Collection[str] | None,
) -> Space | LeftOut:
    path = plain_path(token.path)
    pool = text_of(token.poolname)
    if isinstance(path, LeftOutReason):
        return _left_out(token, path)
    if directories is not None and path not in directories:
        return _left_out(token, LeftOutReason.NO_DIRECTORY)
    if not pool:
        return _left_out(token, LeftOutReason.NO_POOL)
    gids = gids_of(token.groups)
    names = [groups[gid] for gid in gids if groups.get(gid, ROOT_GROUP) != ROOT_GROUP]
    store = store_of(path)
    vo = names[0].split("/")[0] if names else store
    return Space(
        token=text_of(token.s_token),
        name=text_of(token.u_token),
        path=path,
        dpm_pool=pool,
        link_group=link_group_name(pool),
        size=token.t_space or 0,
        owner=f"/{vo}",
        fqans=tuple(f"/{name}" for name in names),
        gids=gids,
        store=store,
        group=group_of(token.u_token),
    )


def _left_out(token: TokenRow, reason: LeftOutReason) -> LeftOut:
    return LeftOut(text_of(token.s_token), text_of(token.u_token), text_of(token.path), reason)


def _pool_group(name: str, pools: Sequence[str], spaces: Iterable[Space]) -> PoolGroup:
    mine = [space for space in spaces if space.dpm_pool == name]
    fqans = tuple(dict.fromkeys(fqan for space in mine for fqan in space.fqans or (space.owner,)))
    return PoolGroup(name, tuple(sorted(pools)), link_group_name(name) if mine else None, fqans)


def plain_path(path: bytes | None) -> str | LeftOutReason:
    """As the directory is found by it: without doubled slashes and without one at the end."""
    if not path:
        return LeftOutReason.NO_PATH
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return LeftOutReason.PATH
    parts = [part for part in text.split("/") if part]
    if not text.startswith("/") or {".", ".."} & set(parts):
        return LeftOutReason.PATH
    return "/" + "/".join(parts) if parts else LeftOutReason.ROOT


def gids_of(groups: bytes | None) -> tuple[int, ...]:
    """Each number of a list with commas once, without that of root."""
    numbers = (number.strip() for number in (groups or b"").decode("ascii", "replace").split(","))
    gids = dict.fromkeys(int(number) for number in numbers if number.isascii() and number.isdecimal())
    return tuple(gid for gid in gids if gid)


def covering(path: str, spaces: Iterable[Space], *, strictly: bool = False) -> Space | None:
    """The deepest whose directory is this one or one above it."""
    above = [
        space for space in spaces
        if path.startswith(f"{space.path}/") or (path == space.path and not strictly)
    ]  # fmt: skip
    return max(above, key=lambda space: len(space.path), default=None)


def store_of(path: str) -> str:
    """The VO of a path below /dpm/<domain>/home."""
    parts = path.split("/")[1:]
    is_home = len(parts) >= _VO_DEPTH and parts[0] == "dpm" and parts[2] == "home"
    return safe(parts[3]) if is_home else DEFAULT_STORE


def group_of(name: bytes | None) -> str:
    """A token's name as a storage group."""
    return safe(_escaped(name or b"")) or DEFAULT_GROUP


def storage_unit(store: str, group: str) -> str:
    return f"{store}:{group}@{HSM}"


def link_group_name(dpm_pool: str) -> str:
    """Of what is not safe in commands of the pool manager a digest keeps apart what would look alike."""
    plain = safe(dpm_pool)
    if plain == dpm_pool:
        return f"{plain}-linkgroup"
    digest = hashlib.sha256(dpm_pool.encode("utf-8", "surrogateescape")).hexdigest()[:DIGEST_DIGITS]
    return f"{plain}-{digest}-linkgroup"


def safe(text: str) -> str:
    """What store, group and names of the pool manager may have."""
    return _UNSAFE.sub("_", text)


def _escaped(raw: bytes) -> str:
    """As PostgreSQL's `encode(raw, 'escape')`."""
    return "".join(
        "\\\\" if byte == 0x5C else chr(byte) if 0 < byte < 0x80 else f"\\{byte:03o}" for byte in raw
    )


def text_of(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "backslashreplace")
