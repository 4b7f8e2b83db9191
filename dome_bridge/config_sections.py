"""The sections of dome-bridge.toml, one frozen dataclass each.

Each field carries what its key takes and a line for the reference, so these classes are the only list of
keys: `config.KEYS` and the tables of docs/reference/config.md come from them. A field without a kind is no
key; it is derived when the file is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import tzlocal

from dome_bridge.config_auth import AuthConfig, IssuerConfig, IssuerMapConfig, TlsConfig
from dome_bridge.config_auth_kinds import ENDPOINT, Endpoint
from dome_bridge.config_dcache_kinds import ACCOUNT, FQAN_SETS, HOST_NAME, TOKEN_GROUP_SETS
from dome_bridge.config_kinds import (
    DCACHE_VERSION,
    DSN,
    FILE,
    FLAG,
    FREE_TEXT,
    HEADER,
    HOST_NAMES,
    IP_ADDRESS,
    OVERBOOKED,
    PATH,
    POOL_DIR,
    PORT,
    PROTOCOL,
    SCHEMA_NAME,
    SCHEME,
    SERVER_ADDRESSES,
    SOCKET,
    SOCKET_PATH,
    TEXT,
    URL_PREFIX,
    ZONE,
    ServerAddress,
    described,
    iana_zone,
    seconds,
    whole,
)
from dome_bridge.config_secrets import redact
from dome_bridge.dpm import domehead
from dome_bridge.errors import ConfigError

__all__ = [
    "REPEATED",
    "SECTIONS",
    "TABLES",
    "ApiConfig",
    "AuthConfig",
    "ChimeraConfig",
    "DcacheConfig",
    "DiskConfig",
    "DpmConfig",
    "Endpoint",
    "ExporterConfig",
    "IssuerConfig",
    "IssuerMapConfig",
    "ListenConfig",
    "MonitoringConfig",
    "PlacementConfig",
    "ProxiedConfig",
    "QueueConfig",
    "SpacemanagerConfig",
    "TlsConfig",
    "machine_zone",
]


def machine_zone() -> str:
    """The IANA name of this machine's time zone. Raises ConfigError if it has a zone without a name."""
    try:
        name = tzlocal.get_localzone_name()
    except (LookupError, ValueError, OSError):
        name = None
    if name is None and not Path("/etc/localtime").exists():
        name = "UTC"
    try:
        return iana_zone(name)
    except ValueError:
        raise ConfigError(
            "the time zone of this machine has no IANA name: set chimera.timezone to the dCache head node's"
        ) from None


@dataclass(frozen=True)
class DpmConfig:
    """DPM's database server, with the catalog and the pools.

    Keys marked * are taken from `domehead_conf` if they are not given here.
    """

    domehead_conf: Path | None = field(
        default=None,
        metadata=described(
            PATH, "DPM's own configuration; empty: do without", default="/etc/domehead.conf, if it is there"
        ),
    )
    host: str = field(default="localhost", metadata=described(TEXT, "* MariaDB's host"))
    unix_socket: str = field(
        default="", metadata=described(SOCKET, "MariaDB's socket, instead of `host` and `port`")
    )
    port: int = field(default=domehead.MYSQL_PORT, metadata=described(PORT, "* MariaDB's port"))
    user: str = field(
        default="dpmmgr", metadata=described(TEXT, "* account that reads the catalog and the journal")
    )
    password: str = field(default="", repr=False, metadata=described(FREE_TEXT, "* its password"))
    password_file: Path | None = field(
        default=None, metadata=described(PATH, "file with the password, instead")
    )
    cns_db: str = field(default="cns_db", metadata=described(SCHEMA_NAME, "* database of the name server"))
    dpm_db: str = field(default="dpm_db", metadata=described(SCHEMA_NAME, "* database of the pool manager"))
    admin_user: str = field(
        default="",
        metadata=described(
            FREE_TEXT, "account for init, fence and complete if `user` may not create triggers"
        ),
    )
    admin_password: str = field(default="", repr=False, metadata=described(FREE_TEXT, "its password"))
    admin_password_file: Path | None = field(
        default=None, metadata=described(PATH, "file with the admin's password, instead")
    )


@dataclass(frozen=True)
class ChimeraConfig:
    """dCache's namespace database, which the bridge fills.

    Without a password here PostgreSQL's own ways hold: peer authentication, or the account's `~/.pgpass`.
    """

    dsn: str = field(
        default="postgresql://dcache@localhost/chimera",
        repr=False,
        metadata=described(DSN, "the Chimera database"),
    )
    password_file: Path | None = field(
        default=None, metadata=described(PATH, "file with the password, instead of one in the URL")
    )
    timezone: str = field(
        default_factory=machine_zone,
        metadata=described(ZONE, "time zone of dCache's head node", default="this machine's"),
    )
    # From password_file. Empty: what the URL has.
    password: str = field(default="", repr=False)

    @property
    def redacted_dsn(self) -> str:
        """The URL for logs and messages, any password in it replaced by ***."""
        return redact(self.dsn)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)


@dataclass(frozen=True)
class SpacemanagerConfig:
    """dCache's space manager, in whose database quotatokens become reservations.

    Disabled, storage units and quotas of groups take their place, and no database but Chimera is written.
    """

    enabled: bool = field(default=False, metadata=described(FLAG, "whether dCache will have a space manager"))
    dsn: str = field(
        default="postgresql://dcache@localhost/spacemanager",
        repr=False,
        metadata=described(DSN, "the space manager's database"),
    )
    password_file: Path | None = field(
        default=None, metadata=described(PATH, "file with the password, instead of one in the URL")
    )
    overbooked: str = field(
        default="refuse",
        metadata=described(
            OVERBOOKED, "what becomes of reservations whose unused parts are more than what is free"
        ),
    )
    # From password_file. Empty: what the URL has.
    password: str = field(default="", repr=False)

    @property
    def redacted_dsn(self) -> str:
        """The URL for logs and messages, any password in it replaced by ***."""
        return redact(self.dsn)


@dataclass(frozen=True)
class ExporterConfig:
    """The mirror: snapshot, follow, verify and the gates of the cutover."""

    enabled: bool = field(default=True, metadata=described(FLAG, "whether `dome-bridge run` mirrors"))
    batch: int = field(
        default=20000, metadata=described(whole(1, 1_000_000), "journal rows applied at a time")
    )
    heartbeat_seconds: float = field(
        default=1.0, metadata=described(seconds(), "interval of the heartbeats that lag is measured with")
    )
    snapshot_workers: int = field(
        default=2, metadata=described(whole(1, 64), "ranges of the first copy in work at the same time")
    )
    snapshot_range: int = field(
        default=50000, metadata=described(whole(1, 10_000_000), "entries in one range of the first copy")
    )
    lock_wait_seconds: float = field(
        default=5.0,
        metadata=described(seconds(60), "wait for a lock to create triggers; DPM's writers queue that long"),
    )
    verify_interval_seconds: float = field(
        default=3600.0, metadata=described(seconds(), "pause between two verify passes in the background")
    )
    verify_entries_per_second: int = field(
        default=20000, metadata=described(whole(1, 100_000_000), "speed limit of verify in the background")
    )
    max_lag_seconds: float = field(
        default=30.0, metadata=described(seconds(), "gate of the cutover: greatest lag of the mirror")
    )
    verify_max_age_seconds: float = field(
        default=21600.0,
        metadata=described(seconds(), "gate of the cutover: greatest age of the last clean verify"),
    )
    max_fence_seconds: float = field(
        default=600.0,
        metadata=described(seconds(), "longest time the fence may stand before the cutover is aborted"),
    )
    upload_wait_seconds: float = field(
        default=60.0,
        metadata=described(seconds(), "wait behind the fence for uploads that were granted before"),
    )
    max_uploads: int = field(
        default=100,
        metadata=described(whole(0, 1_000_000), "gate of the cutover: most uploads under way"),
    )
    artifacts_dir: Path | None = field(
        default=None,
        metadata=described(
            PATH,
            "where each cutover makes a directory for its report; empty: systemd's state directory, or "
            "/var/lib/dome-bridge",
        ),
    )
    postpone_file: Path | None = field(
        default=None,
        metadata=described(PATH, "while this file exists, no cutover is committed; empty: none"),
    )


@dataclass(frozen=True)
class ListenConfig:
    """A listener of the DOME API, one table each: either `address` and `port`, or `unix_socket`.

    `https` is for certificates, proxies and tokens, `http` for signed requests, `mixed` for both and for
    xrootd. `proxied` is plain HTTP behind a web server on this machine, which authenticates the client and
    says in the headers of `[api.proxied]` who it is. It is for the loopback interface or a Unix socket only.
    """

    address: str = field(default="127.0.0.1", metadata=described(IP_ADDRESS, "IP address to listen on"))
    # 0: none; what was loaded has one if it has no unix_socket.
    port: int = field(default=0, metadata=described(PORT, "port to listen on", default="none"))
    protocol: str = field(default="proxied", metadata=described(PROTOCOL, "what is spoken there"))
    unix_socket: Path | None = field(
        default=None, metadata=described(SOCKET_PATH, "socket to listen on, instead of `address` and `port`")
    )
    xrootd_upstream: Endpoint | None = field(
        default=None,
        metadata=described(
            ENDPOINT, "xrootd server that a `mixed` listener passes xrootd on to; empty: none"
        ),
    )

    @property
    def place(self) -> str:
        """Where it listens, for messages: `127.0.0.1:8094`, `[::1]:8094` or the path of the socket."""
        if self.unix_socket is not None:
            return str(self.unix_socket)
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class ProxiedConfig:
    """The headers in which the web server hands the client's identity to a `proxied` listener.

    It must set or unset every one of them in every request, so that none comes from the client.
    """

    verify_header: str = field(
        default="x-ssl-client-verify",
        metadata=described(HEADER, "result of the check, `SUCCESS` if it was good"),
    )
    dn_header: str = field(
        default="x-ssl-client-s-dn", metadata=described(HEADER, "subject of the client's certificate")
    )
    cert_header: str = field(
        default="x-ssl-client-cert",
        metadata=described(
            HEADER, "the certificate and its chain as PEM; without it the subject alone counts"
        ),
    )


@dataclass(frozen=True)
class PlacementConfig:
    """Where a new file goes.

    Keys marked * are taken from `domehead_conf` if they are not given here.
    """

    min_free_mb: int = field(
        default=4096,
        metadata=described(
            whole(0, 1_000_000_000),
            "* MiB that must be free where a pool, server or file system was asked for;"
            " else the quota token's pool says",
        ),
    )


@dataclass(frozen=True)
class QueueConfig:
    """A queue of work for the disk servers.

    `[api.checksums]` is for checksums to be computed, `[api.pulls]` for files to be fetched into volatile
    pools. What is beyond the limits waits. Keys marked * are taken from `domehead_conf` if they are not given
    here.
    """

    max_total: int = field(
        default=10,
        metadata=described(whole(1, 1_000_000), "* most in work at a time, on all servers together"),
    )
    max_per_server: int = field(
        default=2, metadata=described(whole(1, 1_000_000), "* most in work at a time on one server")
    )
    timeout_seconds: float = field(
        default=180.0,
        metadata=described(seconds(), "* dropped if no server reports and no client asks for that long"),
    )


@dataclass(frozen=True)
class ApiConfig:
    """The DOME API, which takes the place of DPM's head daemon.

    Keys marked * are taken from `domehead_conf` if they are not given here.
    """

    enabled: bool = field(
        default=False, metadata=described(FLAG, "whether `dome-bridge run` serves the DOME API")
    )
    url_prefix: str = field(
        default="/domehead", metadata=described(URL_PREFIX, "* what the path of a request begins with")
    )
    host_names: tuple[str, ...] = field(
        default=(), metadata=described(HOST_NAMES, "* names of this head node; empty: this machine's own")
    )
    directory_size_depth: int = field(
        default=6, metadata=described(whole(0, 1000), "* deepest level of directories whose sizes are kept")
    )
    database_connections: int = field(
        default=16, metadata=described(whole(1, 128), "most connections to MariaDB at a time")
    )
    keepalive_seconds: float = field(
        default=75.0, metadata=described(seconds(), "how long an idle connection of a client is kept")
    )
    request_seconds: float = field(
        default=300.0, metadata=described(seconds(), "longest time a request may take; clients wait 300 s")
    )
    tick_seconds: float = field(
        default=10.0, metadata=described(seconds(), "* longest pause between two looks at the queues")
    )
    stat_hook: Path | None = field(
        default=None,
        metadata=described(PATH, "* program that is asked for files missing from a volatile pool"),
    )
    stat_hook_seconds: float = field(
        default=60.0, metadata=described(seconds(), "* longest time that program may take")
    )
    abandoned_upload_hours: int = field(
        default=24,
        metadata=described(whole(1, 100_000), "an upload open for longer is reported; it is never deleted"),
    )
    listen: tuple[ListenConfig, ...] = ()
    tls: TlsConfig = field(default_factory=TlsConfig)
    proxied: ProxiedConfig = field(default_factory=ProxiedConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    checksums: QueueConfig = field(default_factory=QueueConfig)
    pulls: QueueConfig = field(default_factory=QueueConfig)


@dataclass(frozen=True)
class DiskConfig:
    """The head's own requests to the disk servers.

    http is signed with the key of `[auth]`; https needs `certificate` and `key`, whose subject the disk
    servers must trust.

    Keys marked * are taken from `domehead_conf` if they are not given here.
    """

    scheme: str = field(default="http", metadata=described(SCHEME, "how the disk servers are spoken to"))
    port: int = field(default=1095, metadata=described(PORT, "their port; for https 443 unless given"))
    certificate: Path | None = field(
        default=None, metadata=described(PATH, "* the certificate that the head shows, for https")
    )
    key: Path | None = field(default=None, metadata=described(PATH, "* its private key"))
    ca_dir: Path = field(
        default=Path("/etc/grid-security/certificates"),
        metadata=described(FILE, "* directory of the CAs that disk servers' certificates must come from"),
    )
    url_prefix: str = field(
        default="/domedisk", metadata=described(URL_PREFIX, "* what the path of a request begins with")
    )
    connect_seconds: float = field(default=15.0, metadata=described(seconds(), "* wait for a connection"))
    request_seconds: float = field(default=15.0, metadata=described(seconds(), "* wait for an answer"))
    poll_seconds: float = field(
        default=60.0, metadata=described(seconds(), "* interval at which they are asked for their free space")
    )
    connections_per_server: int = field(
        default=8, metadata=described(whole(1, 1000), "most connections to a server at a time")
    )
    addresses: tuple[ServerAddress, ...] = field(
        default=(),
        metadata=described(
            SERVER_ADDRESSES, "where servers are reached that are not reached by name and `port`"
        ),
    )


@dataclass(frozen=True)
class MonitoringConfig:
    """The listener for Prometheus, health checks and the status page."""

    address: str = field(default="127.0.0.1", metadata=described(TEXT, "address to listen on"))
    port: int = field(default=9740, metadata=described(PORT, "port to listen on"))


@dataclass(frozen=True)
class DcacheConfig:
    """The dCache that is to come."""

    version: str = field(
        default="10.2", metadata=described(DCACHE_VERSION, "release to write configuration for")
    )
    pool_dir: str = field(
        default="{fs}/dcache/{pool}",
        metadata=described(POOL_DIR, "directory of a pool on the file system {fs} of DPM"),
    )
    head_host: str = field(
        default="",
        metadata=described(
            HOST_NAME, "full name of its head node; empty: the first of `api.host_names`, or this machine's"
        ),
    )
    pool_user: str = field(
        default="dpmmgr",
        metadata=described(ACCOUNT, "account of the pools; DPM's own, so that no file changes its owner"),
    )
    srm: bool = field(default=True, metadata=described(FLAG, "whether SRM goes on, on port 8446"))
    nogroup_gid: int = field(
        default=65534,
        metadata=described(
            whole(1, 2_147_483_647), "gid of certificates without a group; no file and no group may have it"
        ),
    )
    fallback_uid: int = field(
        default=1_000_000,
        metadata=described(
            whole(1, 1_000_000_000),
            "with a group's gid added, the uid of its members whom DPM has no number for",
        ),
    )
    fqan_sets: tuple[str, ...] = field(
        default=(),
        metadata=described(
            FQAN_SETS, "VOMS proxies to rehearse for each user, besides those that his files tell of"
        ),
    )
    token_group_sets: tuple[str, ...] = field(
        default=(),
        metadata=described(TOKEN_GROUP_SETS, "groups of tokens to rehearse, besides each of DPM's alone"),
    )


# "api.listen" is a table in the section [api].
TABLES: Mapping[str, type[Any]] = {
    "dpm": DpmConfig,
    "chimera": ChimeraConfig,
    "spacemanager": SpacemanagerConfig,
    "exporter": ExporterConfig,
    "api": ApiConfig,
    "api.listen": ListenConfig,
    "api.tls": TlsConfig,
    "api.proxied": ProxiedConfig,
    "api.placement": PlacementConfig,
    "api.checksums": QueueConfig,
    "api.pulls": QueueConfig,
    "auth": AuthConfig,
    "auth.issuer": IssuerConfig,
    "auth.issuer.map": IssuerMapConfig,
    "disk": DiskConfig,
    "monitoring": MonitoringConfig,
    "dcache": DcacheConfig,
}

# Those that may stand there several times.
REPEATED = frozenset({"api.listen", "auth.issuer"})

SECTIONS: Mapping[str, type[Any]] = {name: table for name, table in TABLES.items() if "." not in name}
