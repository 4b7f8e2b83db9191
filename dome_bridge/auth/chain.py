"""From the certificates that a client has sent to the one path that says who it is.

OpenSSL has looked at the same certificates in the handshake, here or in the web server, but it reports no
path, lets unrelated certificates pass, and knows neither signing policies nor our CRLs. So the path is built
again, from the leaf over its proxies to the end-entity certificate (EEC) and on to a root in the trust
directory, and every rule is checked on it. Where several paths are possible, because CAs have certified
each other, the first good one counts; all of them have the same names up to the EEC.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import pairwise

from cryptography.x509.oid import ExtendedKeyUsageOID

from dome_bridge.auth import proxies as rfc3820
from dome_bridge.auth.certificate import Certificate, has_weak_signature, weakness
from dome_bridge.auth.crls import CrlPolicy
from dome_bridge.auth.dn import DistinguishedName, host_of, user_name
from dome_bridge.auth.path_search import rebuild
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.trace import Trace, untold
from dome_bridge.auth.trust import Trust

_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class LimitedProxy(StrEnum):
    """What proxies with a limited policy are good for."""

    DATA_ONLY = "data-only"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class X509Policy:
    crl_policy: str = CrlPolicy.IF_PRESENT
    max_proxy_depth: int = 10
    limited_proxy: str = LimitedProxy.DATA_ONLY


@dataclass(frozen=True, slots=True)
class Path:
    """proxies: the leaf first. issuers: of the EEC, the nearest first, the last is a root that we trust.

    hosts: names that the EEC proves, in lower case; none through a proxy. expires: seconds since 1970, when
    the first certificate does, or a CRL that was asked.
    """

    proxies: tuple[Certificate, ...]
    eec: Certificate
    issuers: tuple[Certificate, ...]
    dn: DistinguishedName
    hosts: tuple[str, ...]
    is_limited: bool
    expires: float

    @property
    def issuer_names(self) -> tuple[DistinguishedName, ...]:
        return tuple(map(_name, self.issuers))


def evaluate(
    ders: Sequence[bytes], trust: Trust, policy: X509Policy, now: datetime, trace: Trace = untold
) -> Path:
    """Of a client, who may show proxies. ders: the leaf first, the rest in any order. Raises AuthError."""
    return _first_good(rebuild(ders, trust), _Rules(trust, policy, now, trace).of_client)


def evaluate_signer(ders: Sequence[bytes], trust: Trust, policy: X509Policy, now: datetime) -> Path:
    """Of who has signed something for a client, such as a VOMS server: no proxies, and for any purpose."""
    return _first_good(rebuild(ders, trust), _Rules(trust, policy, now, untold).of_signer)


def _first_good(
    paths: Iterable[tuple[Certificate, ...]], examined: Callable[[tuple[Certificate, ...]], Path]
) -> Path:
    first: AuthError | None = None
    for path in paths:
        try:
            return examined(path)
        except AuthError as exc:
            first = first or exc
    assert first, "without any path there is an error"
    raise first


@dataclass(frozen=True, slots=True)
class _Rules:
    trust: Trust
    policy: X509Policy
    now: datetime
    trace: Trace

    def of_client(self, certificates: tuple[Certificate, ...]) -> Path:
        proxies, eec, issuers = _split(certificates)
        self._require_structure(eec, issuers)
        self._require_validity(certificates)
        for certificate in certificates:
            _require_client_purpose(certificate)
        for certificate in (*proxies, eec):
            _require_signing_key(certificate)
        self.trace("X2", "for clients, by the extended key usage of each certificate or without one")
        is_limited = self._of_proxies(proxies, eec)
        dn = _name(eec)
        user_name(dn)
        self.trace("X4", "the end entity is %a", dn.slash)
        self._require_namespaces((eec, *issuers))
        expires = self._require_unrevoked(certificates, (eec, *issuers))
        hosts = () if proxies else hosts_of(eec, dn)
        self.trace("N2", "host names: %s", ", ".join(hosts) or "none")
        return Path(proxies, eec, issuers, dn, hosts, is_limited, expires)

    def of_signer(self, certificates: tuple[Certificate, ...]) -> Path:
        proxies, eec, issuers = _split(certificates)
        if proxies:
            raise AuthError(
                401, "P5", Reason.PROXY, f"{_slash(proxies[0])!a} is a proxy, which signs nothing"
            )
        self._require_structure(eec, issuers)
        self._require_validity(certificates)
        self._require_namespaces(certificates)
        expires = self._require_unrevoked(certificates, certificates)
        return Path((), eec, issuers, _name(eec), (), is_limited=False, expires=expires)

    def _require_structure(self, eec: Certificate, issuers: Sequence[Certificate]) -> None:
        rfc3820.refuse_other_kinds(eec, issuers[0])
        if eec.is_ca or eec.is_authority:
            raise _invalid(eec, "it is a CA, not an end entity")
        _require_authorities(issuers)
        self.trace("X1", "%d issuer(s) up to the trust anchor %a", len(issuers), _slash(issuers[-1]))

    def _require_validity(self, certificates: Sequence[Certificate]) -> None:
        for certificate in certificates:
            if self.now > certificate.not_after:
                raise _invalid(certificate, f"it has expired at {certificate.not_after}", Reason.EXPIRED)
            if self.now < certificate.not_before:
                raise _invalid(
                    certificate, f"it is valid from {certificate.not_before} on", Reason.NOT_YET_VALID
                )
            if oid := certificate.unknown_critical:
                raise _invalid(certificate, f"its critical extension {oid} is not understood")
        _require_strength(certificates)
        self.trace("X3", "%d certificate(s) by name and signature, all valid now", len(certificates))

    def _of_proxies(self, proxies: Sequence[Certificate], eec: Certificate) -> bool:
        is_limited = rfc3820.examine(proxies, eec, self.policy.max_proxy_depth)
        if is_limited and self.policy.limited_proxy == LimitedProxy.DENY:
            raise AuthError(401, "P4", Reason.PROXY, "limited proxies are refused by [auth] limited_proxy")
        if proxies:
            self.trace("P4" if is_limited else "P1", "%d %s proxies", len(proxies), _kind(is_limited))
        return is_limited

    def _require_namespaces(self, certificates: Sequence[Certificate]) -> None:
        for certificate, issuer in pairwise(certificates):
            subject = _name(certificate)
            if not self.trust.permits(issuer, subject):
                raise AuthError(
                    401,
                    "X6",
                    Reason.NAMESPACE,
                    f"the CA {_slash(issuer)!a} may not issue {subject.slash!a} by its namespaces "
                    "or signing policy in the trust directory",
                )
        self.trace("X6", "each CA may issue what it has issued")

    def _require_unrevoked(
        self, certificates: Sequence[Certificate], revocable: Sequence[Certificate]
    ) -> float:
        """When any of it ends. revocable: the EEC and its issuers up to the root, which nobody revokes."""
        ends = [certificate.not_after for certificate in certificates]
        for certificate, issuer in pairwise(revocable):
            next_update = self.trust.crls.require_unrevoked(
                certificate, issuer, self.policy.crl_policy, self.now, self.trust.named(issuer.subject)
            )
            if next_update:
                ends.append(next_update)
        self.trace("C1", "not revoked, by crl_policy %s", self.policy.crl_policy)
        return min(ends).timestamp()


def _split(
    certificates: tuple[Certificate, ...],
) -> tuple[tuple[Certificate, ...], Certificate, tuple[Certificate, ...]]:
    depth = next((place for place, each in enumerate(certificates) if not each.is_proxy), len(certificates))
    if depth + 1 >= len(certificates):
        raise _invalid(certificates[-1], "there is no end-entity certificate below it")
    return certificates[:depth], certificates[depth], certificates[depth + 1 :]


def _require_authorities(issuers: Sequence[Certificate]) -> None:
    """Basic constraints, key usage and path length of the CAs, the nearest first."""
    below = 0
    for issuer in issuers:
        is_top = issuer is issuers[-1]
        if issuer.is_proxy or not issuer.is_authority or not (issuer.is_ca or is_top):
            raise _invalid(issuer, "it has issued a certificate, but is not a CA")
        constraints = issuer.basic_constraints
        longest = constraints.path_length if constraints else None
        if longest is not None and below > longest:
            raise _invalid(issuer, f"it allows {longest} CAs below it, there are {below}")
        below += not issuer.is_self_issued


def _require_strength(certificates: Sequence[Certificate]) -> None:
    """Security level 2 of OpenSSL, which does not ask how the trust anchor is signed."""
    for certificate in certificates:
        if trouble := weakness(certificate):
            raise _invalid(certificate, f"it has {trouble}", Reason.ALGORITHM, rule="TLS2")
        if certificate is not certificates[-1] and has_weak_signature(certificate):
            raise _invalid(certificate, "it is signed with MD5 or SHA-1", Reason.ALGORITHM, rule="TLS2")


def _require_client_purpose(certificate: Certificate) -> None:
    """Of CAs too, as OpenSSL does: what a CA is not for, its certificates are not for either."""
    purposes = certificate.purposes
    if purposes is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise _invalid(
            certificate,
            "its extended key usage lacks clientAuth; public web CAs have stopped giving it, "
            "get a certificate from a grid CA or a private one",
            rule="X2",
        )


def _require_signing_key(certificate: Certificate) -> None:
    usage = certificate.key_usage
    if usage is not None and not usage.digital_signature:
        raise _invalid(certificate, "its key is not for signatures (keyUsage without digitalSignature)")


def hosts_of(eec: Certificate, dn: DistinguishedName) -> tuple[str, ...]:
    """The dNSNames of the alternative name; only without any the one common name. Wildcards name no host."""
    names = eec.dns_names()
    candidates = [host_of(dn.slash)] if names is None else [name.lower() for name in names]
    return tuple(dict.fromkeys(name for name in candidates if _HOST.fullmatch(name)))


def _kind(is_limited: bool) -> str:
    return "limited" if is_limited else "full"


def _name(certificate: Certificate) -> DistinguishedName:
    return DistinguishedName.from_x509(certificate.subject)


def _slash(certificate: Certificate) -> str:
    return _name(certificate).slash


def _invalid(
    certificate: Certificate, trouble: str, reason: Reason = Reason.UNTRUSTED, rule: str = "X3"
) -> AuthError:
    return AuthError(401, rule, reason, f"the certificate of {_slash(certificate)!a} is refused: {trouble}")
