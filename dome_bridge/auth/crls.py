"""Certificate revocation lists: read from the trust directory, never by OpenSSL, and asked for a whole path.

OpenSSL's own CRL flags either refuse every CA without a list or look at the leaf only, which is a proxy.
A list belongs to a CA by name and signature: of two CAs with the same name each has its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import TypeVar

from cryptography import x509

from dome_bridge.auth.certificate import UNREADABLE, Certificate, reason, verifies
from dome_bridge.auth.dn import DistinguishedName
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.subject_hash import subject_hash

logger = logging.getLogger(__name__)

_Kind = TypeVar("_Kind", bound=x509.ExtensionType)


class CrlPolicy(StrEnum):
    REQUIRE = "require"
    IF_PRESENT = "if-present"
    OFF = "off"


@dataclass(frozen=True, slots=True, eq=False)
class Crl:
    """parsed: with a signature that nobody has verified yet. next_update: None if it promises no other."""

    parsed: x509.CertificateRevocationList
    issuer: x509.Name
    last_update: datetime
    next_update: datetime | None
    number: int
    serials: frozenset[int]
    covers_users: bool
    covers_cas: bool
    _signers: dict[bytes, bool] = field(default_factory=dict)

    def is_signed_by(self, issuer: Certificate) -> bool:
        """Remembered: a list may be long, and its few possible issuers are CAs of valid paths."""
        if (known := self._signers.get(issuer.der)) is None:
            usage = issuer.key_usage
            known = self._signers[issuer.der] = (usage is None or usage.crl_sign) and verifies(
                issuer.key, self.parsed, self.parsed.tbs_certlist_bytes
            )
        return known

    def is_current(self, now: datetime) -> bool:
        return self.last_update <= now and (self.next_update is None or now <= self.next_update)

    def covers(self, certificate: Certificate) -> bool:
        return self.covers_cas if certificate.is_ca else self.covers_users


def read_crl(data: bytes) -> Crl:
    """PEM or DER. Raises ValueError, with the reason on one line, also for lists that we cannot use."""
    try:
        is_pem = b"-----BEGIN" in data
        parsed = x509.load_pem_x509_crl(data) if is_pem else x509.load_der_x509_crl(data)
        return _read(parsed)
    except UNREADABLE as exc:
        raise ValueError(reason(exc)) from exc


class MissingCrls:
    """Says once a day which CA has no list."""

    def __init__(self) -> None:
        self._told: dict[str, date] = {}

    def tell(self, issuer: str, now: datetime) -> None:
        if self._told.get(issuer) != now.date():
            self._told[issuer] = now.date()
            logger.warning(
                "no CRL of the CA %r: its revoked certificates are accepted; install fetch-crl, "
                "or set crl_policy to require or off",
                issuer,
            )


@dataclass(frozen=True, eq=False)
class RevocationLists:
    """broken: by hash of the CA, as file names have it, why a file with this hash cannot be used."""

    by_issuer: Mapping[x509.Name, tuple[Crl, ...]] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    missing: MissingCrls = field(default_factory=MissingCrls)

    def require_unrevoked(
        self,
        certificate: Certificate,
        issuer: Certificate,
        policy: str,
        now: datetime,
        namesakes: Sequence[Certificate] = (),
    ) -> datetime | None:
        """Raises AuthError. Returns when the list that was asked expires, None if none was or never.

        namesakes: CAs of the issuer's name in the trust directory, whose lists are not the issuer's.
        """
        if policy == CrlPolicy.OFF:
            return None
        named = self.by_issuer.get(issuer.subject, ())
        own = [crl for crl in named if crl.is_signed_by(issuer) and crl.covers(certificate)]
        current = [crl for crl in own if crl.is_current(now)]
        if current:
            newest = max(current, key=lambda crl: (crl.last_update, crl.number))
            _require_unlisted(certificate, issuer, newest)
            return newest.next_update
        if trouble := self._trouble(own, named, issuer, namesakes):
            raise _no_answer(certificate, issuer, trouble)
        if policy == CrlPolicy.REQUIRE:
            raise _no_answer(certificate, issuer, "there is none, and crl_policy requires one")
        self.missing.tell(_slash(issuer), now)
        return None

    def _trouble(
        self, own: Iterable[Crl], named: Iterable[Crl], issuer: Certificate, namesakes: Sequence[Certificate]
    ) -> str:
        """Why the lists that are there do not help."""
        for crl in own:
            return f"it is valid from {crl.last_update:%Y-%m-%d %H:%M} until {_until(crl)}: run fetch-crl"
        for crl in named:
            if not any(crl.is_signed_by(each) for each in (issuer, *namesakes)):
                return "its signature is not the CA's: run fetch-crl"
        if self.broken and (reason := self.broken.get(subject_hash(issuer.subject))):
            return f"its file cannot be used ({reason}): run fetch-crl"
        return ""


def _read(parsed: x509.CertificateRevocationList) -> Crl:
    extensions = parsed.extensions
    _refuse_unusable(extensions)
    users, cas = _coverage(extensions)
    return Crl(
        parsed=parsed,
        issuer=parsed.issuer,
        last_update=parsed.last_update_utc,
        next_update=parsed.next_update_utc,
        number=_number(extensions),
        serials=frozenset(entry.serial_number for entry in parsed),
        covers_users=users,
        covers_cas=cas,
    )


def _refuse_unusable(extensions: x509.Extensions) -> None:
    for extension in extensions:
        if isinstance(extension.value, x509.DeltaCRLIndicator):
            raise ValueError("it is a delta CRL")
        if extension.critical and not isinstance(extension.value, x509.IssuingDistributionPoint):
            raise ValueError(f"critical extension {extension.oid.dotted_string} is not understood")


def _coverage(extensions: x509.Extensions) -> tuple[bool, bool]:
    """Whether end-entity certificates and those of CAs would be listed in it."""
    point = _value(extensions, x509.IssuingDistributionPoint)
    if point is None:
        return True, True
    if point.indirect_crl or point.only_some_reasons or point.only_contains_attribute_certs:
        raise ValueError("its issuing distribution point is of indirect or partial lists")
    return not point.only_contains_ca_certs, not point.only_contains_user_certs


def _number(extensions: x509.Extensions) -> int:
    number = _value(extensions, x509.CRLNumber)
    return number.crl_number if number else 0


def _value(extensions: x509.Extensions, kind: type[_Kind]) -> _Kind | None:
    return next((each.value for each in extensions if isinstance(each.value, kind)), None)


def _require_unlisted(certificate: Certificate, issuer: Certificate, crl: Crl) -> None:
    if certificate.serial in crl.serials:
        raise AuthError(
            401,
            "C1",
            Reason.REVOKED,
            f"{_slash(issuer)!a} has revoked serial {certificate.serial:x}, the certificate of "
            f"{DistinguishedName.from_x509(certificate.subject).slash!a}",
        )


def _no_answer(certificate: Certificate, issuer: Certificate, trouble: str) -> AuthError:
    return AuthError(
        401,
        "C1",
        Reason.CRL,
        f"whether {DistinguishedName.from_x509(certificate.subject).slash!a} is revoked cannot be told: "
        f"the CRL of {_slash(issuer)!a} is missing or no good, {trouble}",
    )


def _until(crl: Crl) -> str:
    return f"{crl.next_update:%Y-%m-%d %H:%M}" if crl.next_update else "ever"


def _slash(certificate: Certificate) -> str:
    return DistinguishedName.from_x509(certificate.subject).slash
