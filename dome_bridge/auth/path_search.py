"""Which chains of issuers lead from a leaf to a root that the site trusts: by name and signature, no more.

Clients send their certificates in any order, with others among them that have nothing to do with it, and
with several of the same name. Roots count only from the trust directory, whatever a client sends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cryptography import x509

from dome_bridge.auth.certificate import Certificate, has_weak_signature, read_certificate
from dome_bridge.auth.dn import DistinguishedName
from dome_bridge.auth.proxies import refuse_other_kinds
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.trust import Trust

MAX_CERTIFICATES = 16
MAX_BYTES = 64 * 1024
MAX_STEPS = 100
"""Enough for any honest chain, too few for one that is made to take long."""


def rebuild(ders: Sequence[bytes], trust: Trust) -> Iterator[tuple[Certificate, ...]]:
    """All paths, the leaf first and a trusted root last. Raises AuthError if there is none.

    ders: the leaf first, for only its key has been proved, the others in any order.
    """
    search = _Search(_received(ders), trust)
    is_found = False
    for path in search.paths():
        is_found = True
        yield path
    if not is_found:
        raise search.refusal()


def _received(ders: Sequence[bytes]) -> list[Certificate]:
    if len(ders) > MAX_CERTIFICATES:
        raise _too_large(f"{len(ders)} certificates are more than {MAX_CERTIFICATES}")
    if (size := sum(map(len, ders))) > MAX_BYTES:
        raise _too_large(f"{size} bytes of certificates are more than {MAX_BYTES}")
    if not ders:
        raise AuthError(401, "X3", Reason.MISSING, "no certificate was sent")
    try:
        leaf = read_certificate(ders[0])
    except ValueError as exc:
        raise AuthError(
            401, "X3", Reason.MALFORMED, f"the client's certificate cannot be read: {exc}"
        ) from exc
    return [leaf, *_readable(ders[1:])]


def _readable(ders: Sequence[bytes]) -> Iterator[Certificate]:
    """What cannot be read may be unrelated; if it is not, it will be missing in the path."""
    for der in ders:
        try:
            yield read_certificate(der)
        except ValueError:
            continue


class _Search:
    def __init__(self, sent: Sequence[Certificate], trust: Trust) -> None:
        self._sent = sent
        self._trust = trust
        self._steps = 0
        self._signed: dict[tuple[bytes, bytes], bool] = {}
        self._longest: tuple[Certificate, ...] = ()

    def paths(self) -> Iterator[tuple[Certificate, ...]]:
        return self._continued((self._sent[0],))

    def refusal(self) -> AuthError:
        """Why there is no path, as far as the longest attempt shows."""
        for place, certificate in enumerate(self._longest):
            if not certificate.is_proxy:
                issuer = self._longest[place + 1] if place + 1 < len(self._longest) else None
                refuse_other_kinds(certificate, issuer)
        return self._dead_end(self._longest[-1])

    def _continued(self, path: tuple[Certificate, ...]) -> Iterator[tuple[Certificate, ...]]:
        self._longest = max(self._longest, path, key=len)
        for issuer in self._issuers(path):
            self._count_step()
            longer = (*path, issuer)
            if issuer.is_root and self._trust.is_anchor(issuer):
                yield longer
            else:
                yield from self._continued(longer)

    def _issuers(self, path: tuple[Certificate, ...]) -> Iterator[Certificate]:
        """The trust directory's first, as OpenSSL does."""
        used = {each.der for each in path}
        for candidate in (*self._trust.named(path[-1].issuer), *self._sent):
            if candidate.der not in used and path[-1].names_as_issuer(candidate):
                used.add(candidate.der)
                if self._is_signed(path[-1], candidate):
                    yield candidate

    def _is_signed(self, certificate: Certificate, issuer: Certificate) -> bool:
        key = (certificate.der, issuer.der)
        if key not in self._signed:
            self._count_step()
            self._signed[key] = certificate.is_signed_by(issuer)
        return self._signed[key]

    def _count_step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise _too_large("so many of its certificates have the same name that the search was given up")

    def _dead_end(self, last: Certificate) -> AuthError:
        subject, issuer = _slash(last.subject), _slash(last.issuer)
        named = [each for each in (*self._trust.named(last.issuer), *self._sent) if each.der != last.der]
        if last.is_root:
            return _untrusted(f"the self-signed {subject!a} is not in the trust directory")
        if not any(each.subject == last.issuer for each in named):
            return _untrusted(
                f"{issuer!a}, issuer of {subject!a}, is neither in the trust directory nor was it sent"
            )
        if has_weak_signature(last):
            return AuthError(
                401, "TLS2", Reason.ALGORITHM, f"the certificate of {subject!a} is signed with MD5 or SHA-1"
            )
        return AuthError(
            401,
            "X3",
            Reason.SIGNATURE,
            f"no known key of {issuer!a} has signed the certificate of {subject!a}",
        )


def _untrusted(message: str) -> AuthError:
    return AuthError(401, "X1", Reason.UNTRUSTED, message)


def _too_large(message: str) -> AuthError:
    return AuthError(401, "L3", Reason.TOO_LARGE, message)


def _slash(name: x509.Name) -> str:
    return DistinguishedName.from_x509(name).slash
