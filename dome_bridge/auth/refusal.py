"""Why somebody is not believed, or may not: what every check of this room raises."""

from __future__ import annotations

from enum import StrEnum

from dome_bridge.errors import BridgeError


class Reason(StrEnum):
    """The `reason` of `dome_bridge_auth_failures_total`: never anything that a client sends."""

    MISSING = "missing"
    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    DUPLICATE = "duplicate"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    SIGNATURE = "signature"
    ALGORITHM = "algorithm"
    UNKNOWN_KEY = "unknown-key"
    NO_KEYS = "no-keys"
    UNKNOWN_ISSUER = "unknown-issuer"
    AUDIENCE = "audience"
    LIFETIME = "lifetime"
    VERSION = "version"
    UNTRUSTED = "untrusted"
    REVOKED = "revoked"
    CRL = "crl"
    NAMESPACE = "namespace"
    PROXY = "proxy"
    NAME = "name"
    VOMS = "voms"
    CONTRADICTION = "contradiction"
    TRANSPORT = "transport"
    BANNED = "banned"
    ROLE = "role"
    SCOPE = "scope"
    GROUP = "group"
    PATH = "path"
    RATE = "rate"
    HANDSHAKE = "handshake"


class AuthError(BridgeError):
    """A request is refused. The message is for the audit line and holds no credential.

    status: of the answer. rule: the number of the requirement that decided, see `rules`. wanted: the scopes
    that would have done, in RFC 6750's form. The answer says no more than the status and, for tokens, one
    of RFC 6750's error codes.
    """

    def __init__(self, status: int, rule: str, reason: Reason, message: str, *, wanted: str = "") -> None:
        super().__init__(message)
        self.wanted = wanted
        self.status = status
        self.rule = rule
        self.reason = reason
