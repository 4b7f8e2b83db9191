"""One certificate, read to the end: what the rules of a path ask about, and whose signature it bears.

Everything is decoded when it is read, so that nothing malformed turns up in the middle of a decision. Names
are compared whatever their string types, which cryptography's own `verify_directly_issued_by` does not do.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import ExtensionOID

PROXY_CERT_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
DRAFT_PROXY_CERT_INFO = x509.ObjectIdentifier("1.3.6.1.4.1.3536.1.222")

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 16384
MAX_EXPONENT_BITS = 64
MIN_EC_BITS = 224
WEAK_HASHES = (hashes.MD5, hashes.SHA1)

# What cryptography raises for structures that it cannot read; a warning, where warnings are errors.
UNREADABLE = (
    Warning,
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

# As far as OpenSSL knows them; names of CAs' policies are its business.
_UNDERSTOOD = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.CERTIFICATE_POLICIES,
    ExtensionOID.CRL_DISTRIBUTION_POINTS,
    ExtensionOID.NAME_CONSTRAINTS,
    ExtensionOID.POLICY_CONSTRAINTS,
    ExtensionOID.POLICY_MAPPINGS,
    ExtensionOID.INHIBIT_ANY_POLICY,
    ExtensionOID.OCSP_NO_CHECK,
    x509.ObjectIdentifier("2.16.840.1.113730.1.1"),  # nsCertType
    PROXY_CERT_INFO,
}

# Many roots have the serial number 0, and some grid tools made negative ones: of no consequence here.
warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't positive")
warnings.filterwarnings("ignore", message="Attribute's length must be")

_Kind = TypeVar("_Kind", bound=x509.ExtensionType)

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """Equal only to itself; `der` tells whether two are the same."""

    der: bytes
    parsed: x509.Certificate
    subject: x509.Name
    issuer: x509.Name
    key: PublicKey
    extensions: x509.Extensions
    not_before: datetime
    not_after: datetime

    @property
    def serial(self) -> int:
        return self.parsed.serial_number

    @property
    def is_proxy(self) -> bool:
        return self.extension(PROXY_CERT_INFO) is not None

    @property
    def is_self_issued(self) -> bool:
        return self.subject == self.issuer

    @property
    def basic_constraints(self) -> x509.BasicConstraints | None:
        return self._value(x509.BasicConstraints)

    @property
    def is_ca(self) -> bool:
        constraints = self.basic_constraints
        return constraints is not None and constraints.ca

    @property
    def is_authority(self) -> bool:
        """Whether it may sign certificates, as a root also by the rules from before X.509 version 3."""
        constraints, usage = self.basic_constraints, self.key_usage
        if usage is not None and not usage.key_cert_sign:
            return False
        if constraints is not None:
            return constraints.ca
        return self.is_root and (usage is not None or self.parsed.version is x509.Version.v1)

    @property
    def key_usage(self) -> x509.KeyUsage | None:
        return self._value(x509.KeyUsage)

    @property
    def purposes(self) -> Iterable[x509.ObjectIdentifier] | None:
        """The extended key usage; None: any."""
        return self._value(x509.ExtendedKeyUsage)

    @property
    def subject_key_identifier(self) -> bytes | None:
        identifier = self._value(x509.SubjectKeyIdentifier)
        return identifier.digest if identifier else None

    @property
    def is_root(self) -> bool:
        """Self-signed, as far as names and key identifiers tell."""
        return self.names_as_issuer(self)

    @property
    def unknown_critical(self) -> str:
        """The first critical extension that nobody here understands, as OID."""
        for extension in self.extensions:
            if extension.critical and extension.oid not in _UNDERSTOOD:
                return str(extension.oid.dotted_string)
        return ""

    def extension(self, oid: x509.ObjectIdentifier) -> x509.Extension[x509.ExtensionType] | None:
        return next((each for each in self.extensions if each.oid == oid), None)

    def dns_names(self) -> list[str] | None:
        """Of the subject alternative name; None if there is none of this kind."""
        names = self._value(x509.SubjectAlternativeName)
        return (names.get_values_for_type(x509.DNSName) or None) if names else None

    def names_as_issuer(self, other: Certificate) -> bool:
        """By name and key identifier, as OpenSSL looks for issuers; it says nothing about the signature."""
        if self.issuer != other.subject:
            return False
        authority = self._value(x509.AuthorityKeyIdentifier)
        return authority is None or _fits(authority, other)

    def is_signed_by(self, other: Certificate) -> bool:
        return verifies(other.key, self.parsed, self.parsed.tbs_certificate_bytes)

    def _value(self, kind: type[_Kind]) -> _Kind | None:
        return next((each.value for each in self.extensions if isinstance(each.value, kind)), None)


def read_certificate(der: bytes) -> Certificate:
    """Raises ValueError with the reason, on one line."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        return _read(der, certificate)
    except UNREADABLE as exc:
        raise ValueError(reason(exc)) from exc


def reason(exc: Exception) -> str:
    """The words of an exception of cryptography on one line."""
    return " ".join(str(exc).split()) or type(exc).__name__


def verifies(
    key: PublicKey, signed: x509.Certificate | x509.CertificateRevocationList, content: bytes
) -> bool:
    """Whether this key has signed it, by an algorithm that we know. content: what the signature is over."""
    try:
        parameters, digest = signed.signature_algorithm_parameters, signed.signature_hash_algorithm
        match key, parameters, digest:
            case rsa.RSAPublicKey(), padding.PKCS1v15() | padding.PSS(), hashes.HashAlgorithm():
                key.verify(signed.signature, content, parameters, digest)
            case ec.EllipticCurvePublicKey(), ec.ECDSA(), _:
                key.verify(signed.signature, content, parameters)
            case ((ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey()), None, None):
                key.verify(signed.signature, content)
            case _:
                return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def weakness(certificate: Certificate) -> str:
    """What OpenSSL's security level 2 has against its key."""
    key = certificate.key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        return f"an RSA key of {key.key_size} bits, at least {MIN_RSA_BITS} are needed"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < MIN_EC_BITS:
        return f"an EC key of {key.key_size} bits, at least {MIN_EC_BITS} are needed"
    return ""


def has_weak_signature(certificate: Certificate) -> bool:
    try:
        return isinstance(certificate.parsed.signature_hash_algorithm, WEAK_HASHES)
    except UnsupportedAlgorithm:
        return False


def _read(der: bytes, certificate: x509.Certificate) -> Certificate:
    key = certificate.public_key()
    if not isinstance(key, PublicKey):
        raise ValueError(f"a public key of an unsupported kind ({type(key).__name__})")
    if isinstance(key, rsa.RSAPublicKey):
        _require_quick(key)
    return Certificate(
        der=der,
        parsed=certificate,
        subject=certificate.subject,
        issuer=certificate.issuer,
        key=key,
        extensions=certificate.extensions,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _require_quick(key: rsa.RSAPublicKey) -> None:
    """Signatures of keys that nobody uses in earnest take so long to verify that it would be an attack."""
    if key.key_size > MAX_RSA_BITS or key.public_numbers().e.bit_length() > MAX_EXPONENT_BITS:
        raise ValueError(f"an RSA key that is too large ({key.key_size} bits)")


def _fits(authority: x509.AuthorityKeyIdentifier, issuer: Certificate) -> bool:
    return _fits_key(authority, issuer) and _fits_name_and_serial(authority, issuer)


def _fits_key(authority: x509.AuthorityKeyIdentifier, issuer: Certificate) -> bool:
    own = issuer.subject_key_identifier
    return None in (own, authority.key_identifier) or own == authority.key_identifier


def _fits_name_and_serial(authority: x509.AuthorityKeyIdentifier, issuer: Certificate) -> bool:
    if authority.authority_cert_serial_number not in (None, issuer.serial):
        return False
    names = authority.authority_cert_issuer or ()
    directory = [each.value for each in names if isinstance(each, x509.DirectoryName)]
    return not directory or directory[0] == issuer.issuer
