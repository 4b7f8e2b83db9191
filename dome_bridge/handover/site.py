"""A site as the hand-over sees it: people, groups, tokens, pools and hosts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote, urlsplit

from dome_bridge.auth.bans import Bans
from dome_bridge.auth.groups import is_root
from dome_bridge.chimera import space_plan
from dome_bridge.config import AuthConfig, ChimeraConfig, DcacheConfig, TlsConfig
from dome_bridge.handover.releases import Release

POSTGRESQL_PORT = 5432

_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?")


@dataclass(frozen=True)
class Person:
    """A row of DPM's user table; `name` is a DN, or that of a token's subject."""

    uid: int
    name: str
    is_banned: bool = False


@dataclass(frozen=True)
class Group:
    """A row of DPM's group table: an FQAN without its first slash."""

    gid: int
    name: str
    is_banned: bool = False

    @property
    def fqan(self) -> str:
        return f"/{self.name}"

    @property
    def is_for_people(self) -> bool:
        return self.gid > 0 and not is_root(self.name)


@dataclass(frozen=True)
class QuotaToken:
    """name: bytes that are not UTF-8 are lone surrogates. path: empty for one that stands for no directory.
    size: bytes. gids: unknown ones too, without 0.
    """

    name: str
    pool: str
    path: str
    size: int = 0
    gids: tuple[int, ...] = ()

    @property
    def vo(self) -> str:
        """The VO that its directory is tagged with."""
        return space_plan.store_of(self.path)

    @property
    def store_unit(self) -> str:
        name = self.name.encode("utf-8", "surrogateescape")
        return space_plan.storage_unit(self.vo, space_plan.group_of(name))


@dataclass(frozen=True)
class DiskPool:
    """A dCache pool. is_writable: its file system takes new files in DPM."""

    name: str
    server: str
    fs: str
    path: str
    dpm_pool: str
    is_writable: bool = True

    @property
    def is_plain(self) -> bool:
        """Whether layouts and units can name it: they have escapes and substitutions of their own."""
        is_path = self.path.startswith("/") and self.path.isprintable() and self.path == self.path.strip()
        return (
            is_path
            and not any(sign in self.path for sign in ("\\", "${", "\ufffd"))
            and _HOST.fullmatch(self.server) is not None
        )


@dataclass(frozen=True, order=True)
class Owner:
    """How many files a uid and a gid have together."""

    uid: int
    gid: int
    files: int


@dataclass(frozen=True)
class Database:
    """Where Chimera is, without any password. host: with a port that is not the usual one."""

    host: str
    name: str
    user: str

    @classmethod
    def of(cls, chimera: ChimeraConfig) -> Database:
        parts = urlsplit(chimera.dsn)
        host = parts.hostname or "localhost"
        if parts.port not in (None, POSTGRESQL_PORT):
            host = f"{host}:{parts.port}"
        return cls(host, parts.path.strip("/"), unquote(parts.username or "dcache"))


@dataclass(frozen=True)
class Site:
    """vo_dirs: names of the directories below /dpm/<domain>/home. left_out: file systems that no layout can
    name. volatile: DPM's pools of files that expire. gridmap: groups by canonical DN. with_spaces: dCache's
    space manager is to be used.
    """

    dcache: DcacheConfig
    head: str
    domains: tuple[str, ...]
    vo_dirs: tuple[str, ...]
    users: tuple[Person, ...]
    groups: tuple[Group, ...]
    tokens: tuple[QuotaToken, ...]
    pools: tuple[DiskPool, ...]
    left_out: tuple[str, ...] = ()
    owners: tuple[Owner, ...] = ()
    volatile: frozenset[str] = frozenset()
    gridmap: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bans: Bans = field(default_factory=Bans)
    auth: AuthConfig = field(default_factory=AuthConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    chimera: Database = field(default_factory=lambda: Database("localhost", "chimera", "dcache"))
    with_spaces: bool = False

    @cached_property
    def release(self) -> Release:
        return Release.parse(self.dcache.version)

    @cached_property
    def group_of_gid(self) -> Mapping[int, Group]:
        """Without root's; the first, should several have the number."""
        return {group.gid: group for group in reversed(self.groups) if group.is_for_people}

    @cached_property
    def group_of_name(self) -> Mapping[str, Group]:
        """Without root's."""
        return {group.name: group for group in reversed(self.groups) if group.is_for_people}

    @cached_property
    def user_of_name(self) -> Mapping[str, Person]:
        """Without root."""
        return {user.name: user for user in reversed(self.users) if user.uid > 0}

    @cached_property
    def placed_tokens(self) -> tuple[QuotaToken, ...]:
        """Those that stand for a directory."""
        return tuple(token for token in self.tokens if token.path)

    @cached_property
    def dpm_pools(self) -> tuple[str, ...]:
        return tuple(sorted({pool.dpm_pool for pool in self.pools}))

    @cached_property
    def servers(self) -> tuple[str, ...]:
        return tuple(sorted({pool.server for pool in self.pools}))

    def pools_of(self, server: str) -> tuple[DiskPool, ...]:
        return tuple(pool for pool in self.pools if pool.server == server)


def short_name(host: str) -> str:
    """What dCache calls `host.name`."""
    return host.split(".")[0]


def several(items: Iterable[str], most: int = 5) -> str:
    """Some of them, for messages."""
    names = list(items)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
