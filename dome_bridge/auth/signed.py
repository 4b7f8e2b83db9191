"""Requests over plain HTTP that are signed with the key that all servers of a site share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.xrdhttp import TokenError, TokenFault, trimmed, verify

_REASONS: Mapping[TokenFault, Reason] = {
    TokenFault.MISSING: Reason.MISSING,
    TokenFault.MALFORMED: Reason.MALFORMED,
    TokenFault.STALE: Reason.EXPIRED,
    TokenFault.WRONG: Reason.SIGNATURE,
}


@dataclass(frozen=True)
class SignedRequests:
    """secrets: the key, and the one before it while the site changes it. Without any nobody is believed."""

    secrets: tuple[str, ...] = field(default=(), repr=False)

    def verify(self, method: str, raw_target: str, peer: str, now: float) -> str:
        """The DN of the server that has signed. Raises AuthError 403."""
        if not self.secrets:
            raise AuthError(403, "K4", Reason.NO_KEYS, "no key for signed requests is configured")
        error: TokenError | None = None
        for secret in self.secrets:
            try:
                signed = verify(secret, method, raw_target, now=now, peer=peer)
            except TokenError as exc:
                error = exc
                if exc.fault is not TokenFault.WRONG:
                    break
            else:
                return self._named(trimmed(signed.dn))
        assert error is not None
        raise AuthError(403, "K2", _REASONS[error.fault], str(error)) from error

    @staticmethod
    def _named(dn: str) -> str:
        if not dn:
            raise AuthError(403, "K3", Reason.NAME, "the signed request names no DN")
        return dn
