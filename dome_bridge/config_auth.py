"""The sections that say who is believed and what he may: [auth], [[auth.issuer]] and [api.tls].

One frozen dataclass each, as in `config_sections`, which has the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dome_bridge.config_auth_kinds import (
    ALGORITHMS,
    ALWAYS_ADMITTED,
    AUDIENCES,
    BASE_PATHS,
    CRL_POLICY,
    EXCLUDE_PATHS,
    GROUP_MAP,
    GROUPS,
    HOST_SUBJECTS,
    ISSUER_NAME,
    ISSUER_URL,
    JWKS_HOSTS,
    JWKS_URI,
    LIMITED_PROXY,
    LOWER_HOST_NAMES,
    MODE,
    NETWORKS,
    SAME_SERVERS,
    SUBJECT_MAP,
    TOKEN_GROUPS,
    USER_KEY,
    USER_OR_EMPTY,
    VO_NAME,
    Network,
)
from dome_bridge.config_kinds import FILE, FLAG, PATH, SUBJECTS, described, seconds, whole


@dataclass(frozen=True)
class TlsConfig:
    """TLS of the `https` and `mixed` listeners, and the CAs that clients' certificates must come from.

    `ca_dir` and `vomsdir` count for the certificates that a `proxied` listener hands over, too.

    Keys marked * are taken from `domehead_conf` if they are not given here, `certificate` and `key` only
    together.
    """

    certificate: Path = field(
        default=Path("/etc/grid-security/hostcert.pem"),
        metadata=described(FILE, "* the host's certificate, with the chain if there is one"),
    )
    key: Path = field(
        default=Path("/etc/grid-security/hostkey.pem"),
        metadata=described(FILE, "* its private key, closed to group and others"),
    )
    ca_dir: Path = field(
        default=Path("/etc/grid-security/certificates"),
        metadata=described(FILE, "* directory of CAs, CRLs and signing policies, as IGTF lays it out"),
    )
    vomsdir: Path = field(
        default=Path("/etc/grid-security/vomsdir"),
        metadata=described(FILE, "directory of the VOMS servers' LSC files"),
    )


@dataclass(frozen=True)
class IssuerMapConfig:
    """Whose account the requests of an issuer's tokens run on."""

    username: str = field(
        default="",
        metadata=described(USER_OR_EMPTY, "one user for all subjects; empty: one for each"),
    )
    groups: tuple[str, ...] = field(
        default=(),
        metadata=described(
            GROUPS, "groups of requests with capabilities, the first is primary; none: `[vo]`"
        ),
    )


@dataclass(frozen=True)
class IssuerConfig:
    """An issuer of bearer tokens, one table each. Several may serve the same VO and the same paths.

    `subject_map` and `group_map` are tables of their own, `[auth.issuer.map]` as well.
    """

    name: str = field(
        default="",
        metadata=described(ISSUER_NAME, "short unique name, for logs and users", default="required"),
    )
    issuer: str = field(
        default="",
        metadata=described(ISSUER_URL, "`iss` of its tokens, to the letter", default="required"),
    )
    base_path: tuple[str, ...] = field(
        default=(),
        metadata=described(
            BASE_PATHS, "where in the namespace its tokens count; scopes begin there", default="required"
        ),
    )
    jwks_uri: str = field(default="", metadata=described(JWKS_URI, "its keys, instead of discovery"))
    vo: str = field(
        default="",
        metadata=described(VO_NAME, "the VO, root of the groups it may name", default="`name`"),
    )
    audience: tuple[str, ...] = field(
        default=(), metadata=described(AUDIENCES, "audiences besides those of `[auth]`")
    )
    accept_any_audience: bool = field(
        default=True, metadata=described(FLAG, "whether WLCG's audience for any service will do")
    )
    max_lifetime_s: int = field(
        default=21600,
        metadata=described(whole(0, 10 * 366 * 86400), "longest life of a token in seconds; 0: no limit"),
    )
    mode: str = field(
        default="capability+group", metadata=described(MODE, "which tokens of it count for something")
    )
    subject_map: Mapping[str, str] = field(
        default_factory=dict,
        metadata=described(SUBJECT_MAP, "users of single subjects", default="{}"),
    )
    group_map: Mapping[str, str] = field(
        default_factory=dict,
        metadata=described(GROUP_MAP, "DPM's groups for groups of tokens", default="{}"),
    )
    allowed_groups: tuple[str, ...] = field(
        default=(),
        metadata=described(TOKEN_GROUPS, "groups that count, with those below them; none: all of the VO"),
    )
    exclude_paths: tuple[str, ...] = field(
        default=(),
        metadata=described(EXCLUDE_PATHS, "paths that no token of it reaches, full or as scopes write them"),
    )
    jwks_hosts: tuple[str, ...] = field(
        default=(), metadata=described(JWKS_HOSTS, "hosts besides its own that may have its keys")
    )
    ca_file: Path | None = field(
        default=None, metadata=described(PATH, "PEM file of the CAs for its servers; empty: the system's")
    )
    allow_private_address: bool = field(
        default=False, metadata=described(FLAG, "whether its servers may have private addresses")
    )
    refresh_hours: int = field(
        default=6, metadata=described(whole(1, 6), "how often its keys are fetched anew")
    )
    keep_days: int = field(
        default=2, metadata=described(whole(1, 4), "how long its keys count while it cannot be reached")
    )
    # From the table map.
    username: str = ""
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # What is left out follows from what is given, wherever the object is made.
        object.__setattr__(self, "vo", self.vo or self.name)
        object.__setattr__(self, "groups", self.groups or ((self.vo,) if self.vo else ()))


@dataclass(frozen=True)
class AuthConfig:
    """Who may use the DOME API, besides the disk servers that DPM's database names.

    Clients of `glb.auth.authorizeDN[]` in `domehead_conf` are added to `authorize_dn`, and without
    `xrdhttp_secret_file` the key is `glb.restclient.xrdhttpkey` from there. Keys marked * are taken from
    there if they are not given here.
    """

    authorize_dn: tuple[str, ...] = field(
        default=(),
        metadata=described(SUBJECTS, "subjects of certificates that are trusted with everything"),
    )
    frontends: tuple[str, ...] = field(
        default=(),
        metadata=described(LOWER_HOST_NAMES, "hosts besides the disk servers that may act for users"),
    )
    disk_nodes_are_frontends: bool = field(
        default=True, metadata=described(FLAG, "whether disk servers may act for users, too")
    )
    same_server: tuple[tuple[str, ...], ...] = field(
        default=(), metadata=described(SAME_SERVERS, "names of one disk server, an array for each")
    )
    direct_users: bool = field(
        default=True, metadata=described(FLAG, "whether users and tokens may call by themselves")
    )
    user_key: str = field(
        default="dn", metadata=described(USER_KEY, "what a user is known by: DN, or DN and CA")
    )
    gridmap_file: Path = field(
        default=Path("/etc/lcgdm-mapfile"), metadata=described(FILE, "* grid-mapfile, DNs and their groups")
    )
    ban_file: Path | None = field(
        default=None, metadata=described(PATH, "file of those who are locked out, besides DPM's bans")
    )
    xrdhttp_secret_file: Path | None = field(
        default=None, metadata=described(PATH, "file with the key that signs requests, as XrdHttp reads it")
    )
    xrdhttp_old_secret_file: Path | None = field(
        default=None, metadata=described(PATH, "file with the key before, accepted during a change")
    )
    plain_http_networks: tuple[Network, ...] = field(
        default=(),
        metadata=described(NETWORKS, "who may use plain HTTP, besides the disk servers and this host"),
    )
    crl_policy: str = field(
        default="if-present", metadata=described(CRL_POLICY, "whether each CA must have a CRL that is valid")
    )
    max_proxy_depth: int = field(
        default=10, metadata=described(whole(0, 100), "most proxies on top of a certificate")
    )
    limited_proxy: str = field(
        default="data-only", metadata=described(LIMITED_PROXY, "what a limited proxy may do")
    )
    audience: tuple[str, ...] = field(
        default=(),
        metadata=described(AUDIENCES, "what tokens may be meant for: the URL of each endpoint and alias"),
    )
    algorithms: tuple[str, ...] = field(
        default=ALWAYS_ADMITTED,
        metadata=described(ALGORITHMS, "signatures of tokens; RS256 and ES256 are always admitted"),
    )
    clock_skew_s: int = field(
        default=60,
        metadata=described(whole(0, 300), "how far an issuer's clock may be ahead, in seconds"),
    )
    host_auth: tuple[str, ...] = field(
        default=(),
        metadata=described(
            HOST_SUBJECTS,
            "subjects that the scope `host.auth` lets read space figures; with `<issuer>:` before it, only"
            " with tokens of the issuer of that name",
        ),
    )
    jwks_cache_dir: Path | None = field(
        default=Path("/var/lib/dome-bridge/jwks"),
        metadata=described(PATH, "where issuers' keys are kept over a restart; empty: nowhere"),
    )
    reload_seconds: float = field(
        default=60.0,
        metadata=described(seconds(3600), "how often certificates, bans and issuers are looked at anew"),
    )
    failures_per_second: int = field(
        default=10, metadata=described(whole(1, 1_000_000), "failed authentications of one source a second")
    )
    failures_burst: int = field(
        default=50, metadata=described(whole(1, 1_000_000), "failed authentications of one source at once")
    )
    connections_per_source: int = field(
        default=200, metadata=described(whole(1, 1_000_000), "most connections of one source")
    )
    handshakes: int = field(
        default=200, metadata=described(whole(1, 1_000_000), "most TLS handshakes at a time")
    )
    handshake_seconds: float = field(
        default=10.0, metadata=described(seconds(), "longest time of a TLS handshake")
    )
    first_byte_seconds: float = field(
        default=10.0, metadata=described(seconds(), "longest time until a client's first byte")
    )
    header_seconds: float = field(
        default=15.0, metadata=described(seconds(), "longest time until a request's header is there")
    )
    body_seconds: float = field(
        default=60.0, metadata=described(seconds(), "longest time until its body is there")
    )
    issuers: tuple[IssuerConfig, ...] = ()
    # The keys themselves. Bytes that are not UTF-8 are lone surrogates: encode with `surrogateescape`.
    xrdhttp_secret: str = field(default="", repr=False)
    xrdhttp_old_secret: str = field(default="", repr=False)
