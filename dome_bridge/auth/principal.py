"""Who a request is: how it came in, what its connection shows, and the one principal that follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dome_bridge.auth.asserted import Asserted
    from dome_bridge.auth.scopes import Grants


class Transport(StrEnum):
    """What a request came over, and so which credentials count."""

    TLS = "tls"
    """Certificate chain and bearer token."""
    PLAIN = "plain"
    """Signed requests of XrdHttp only."""
    PROXIED = "proxied"
    """What the web server of this machine says in headers, and bearer tokens."""


class Kind(StrEnum):
    """The `auth` of an audit line."""

    NODE = "node"
    FRONTEND = "frontend-for-user"
    USER = "user-x509"
    ADMIN = "admin"
    CAPABILITY = "token-capability"
    GROUP = "token-group"
    POWERLESS = "token-none"
    ANONYMOUS = "anonymous"


class Role(StrEnum):
    """What a peer is to this site. Administrators have the head's role."""

    HEAD = "head"
    DISK = "disk"
    FRONTEND = "frontend"
    USER = "user"
    NOBODY = "nobody"


PEERS = frozenset({Role.HEAD, Role.DISK, Role.FRONTEND})
"""The site's own servers and its administrators."""


@dataclass(frozen=True, slots=True)
class Channel:
    """The peer at the other end of the connection. Without a credential all is empty.

    dn: of the end-entity certificate, or of the signed request, in canonical slash form. user: the name of
    its owner in DPM, which is the DN unless the site tells users apart by their CAs, too. hosts: the host
    names that it proves, in lower case. issuers: subjects of the CAs of its path, nearest first. fqans: VOMS
    groups in DPM's form, the primary first. expires: seconds since 1970, of whatever expires first.
    """

    dn: str = ""
    user: str = ""
    hosts: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()
    fqans: tuple[str, ...] = ()
    is_proxy: bool = False
    is_limited: bool = False
    is_multivalued: bool = False
    """The subject has an RDN of several attributes, which no node and no administrator has."""
    expires: float = float("inf")


@dataclass(frozen=True, slots=True)
class ValidToken:
    """A bearer token that has passed all checks. groups: of `wlcg.groups` as they stand in it, or mapped.

    issuer: the configured name. username: by the mapping of its issuer. vo_groups: DPM groups of requests
    with capabilities, the first is primary.
    """

    issuer: str
    sub: str
    jti: str
    kid: str
    expires: float
    jwt_name: str
    """`jwt:<issuer>:<sub>`, by which it is banned whatever it is mapped to."""
    username: str
    groups: tuple[str, ...]
    vo_groups: tuple[str, ...]
    grants: Grants
    has_capability: bool
    is_host: bool = False
    """It has the scope `host.auth` and its subject is one that the site has named for that."""


@dataclass(frozen=True, slots=True)
class Principal:
    """On whose account a request runs.

    user: name in DPM's user table, "" for the system principal within its role's commands. groups: in DPM's
    form, the first is primary; None: the grid-mapfile says. address: the peer's; host: of the machine that
    the user sits at, as far as it is known. grants: where a token is confined to, and what its
    scopes allow there; None without a token.
    """

    kind: Kind
    role: Role
    user: str = ""
    groups: tuple[str, ...] | None = ()
    address: str = ""
    host: str = ""
    channel: Channel = field(default_factory=Channel)
    token: ValidToken | None = None
    asserted: Asserted | None = None
    """What a peer of the site has said about its user, even if that is nobody."""
    is_passed_on: bool = False
    """The token came over the connection of one of the site's own servers."""

    @property
    def grants(self) -> Grants | None:
        return self.token.grants if self.token else None

    @property
    def is_peer(self) -> bool:
        """One of the site's own servers or its administrator, whoever he calls for."""
        return self.role in PEERS


ANONYMOUS = Principal(Kind.ANONYMOUS, Role.NOBODY)
