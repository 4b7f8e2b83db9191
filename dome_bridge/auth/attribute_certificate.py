"""Attribute certificates of VOMS (RFC 5755 in DER): what stands in them, before anything of it is believed.

`split` cuts the extension of a proxy into its attribute certificates. Of each the authority is read at once,
since that of another site's VO is ignored as it is; everything else when it is asked for. pyasn1 takes some
encodings that are not DER, so what it has read has to encode to the same bytes again. The signature is over
the bytes as they came.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, NoReturn

from cryptography import x509
from pyasn1.codec.der import decoder, encoder
from pyasn1.error import PyAsn1Error
from pyasn1.type import char, namedtype, univ
from pyasn1_modules import rfc5280, rfc5755

from dome_bridge.auth.certificate import Certificate, read_certificate
from dome_bridge.auth.dn import DistinguishedName
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.trace import shown

EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.8005.100.100.5")
FQANS = "1.3.6.1.4.1.8005.100.100.4"
CERTIFICATES = "1.3.6.1.4.1.8005.100.100.10"
NO_REVOCATION = "2.5.29.56"
KEY_IDENTIFIER = "2.5.29.35"
TARGETS = "2.5.29.55"

MAX_EXTENSION_BYTES = 64 * 1024
MAX_ATTRIBUTE_CERTIFICATES = 8
MAX_LISTED_CERTIFICATES = 16
MAX_TARGETS = 128

_V2 = 1
_TIME = re.compile(r"[0-9]{14}Z")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# The last label is no number: an address is no name.
_AUTHORITY = re.compile(
    r"(?P<vo>[A-Za-z0-9][A-Za-z0-9._-]{0,254})"
    rf"://(?=[^:]{{1,253}}:)(?P<host>(?:{_LABEL}\.)*(?![0-9]+:){_LABEL}):(?P<port>[0-9]{{1,5}})"
)
_PORTS = range(1, 65536)
_SEQUENCE = b"\x30"
_TARGET_DEPTH = 3
_TARGET_KINDS = {"uniformResourceIdentifier", "dNSName"}
# Unlike other text, whose bytes are UTF-8 or a part of it.
_WIDE_TEXT = {char.BMPString.tagSet: "utf-16-be", char.UniversalString.tagSet: "utf-32-be"}

_PIECES = univ.SequenceOf(componentType=univ.Any())
_WRAPPED_PIECES = univ.SequenceOf(componentType=_PIECES)
_SIGNED = univ.Sequence(
    componentType=namedtype.NamedTypes(
        namedtype.NamedType("acinfo", univ.Any()),
        namedtype.NamedType("signatureAlgorithm", rfc5280.AlgorithmIdentifier()),
        namedtype.NamedType("signatureValue", univ.BitString()),
    )
)


class Authority(NamedTuple):
    """The VOMS server that an attribute certificate names."""

    vo: str
    host: str
    """In lower case."""


class Holder(NamedTuple):
    """The certificate that the attributes are for: its serial number, and its subject or issuer."""

    name: DistinguishedName
    serial: int


class Validity(NamedTuple):
    not_before: datetime
    not_after: datetime


class KeyIdentifier(NamedTuple):
    """Which certificate has signed, as far as it is said."""

    key: bytes | None
    issuers: tuple[DistinguishedName, ...]
    serial: int | None


class Extension(NamedTuple):
    value: bytes
    is_critical: bool


def refuse(rule: str, reason: Reason, message: str) -> NoReturn:
    raise AuthError(403, rule, reason, f"attribute certificate: {message}")


def split(value: bytes) -> tuple[AttributeCertificate, ...]:
    """All that are in an extension's value."""
    if len(value) > MAX_EXTENSION_BYTES:
        refuse("V9", Reason.TOO_LARGE, f"the extension has {len(value)} bytes, at most {MAX_EXTENSION_BYTES}")
    pieces = _unwrap(value, "V9", "the extension")
    if len(pieces) > MAX_ATTRIBUTE_CERTIFICATES:
        refuse("V9", Reason.TOO_LARGE, f"{len(pieces)} in one proxy, at most {MAX_ATTRIBUTE_CERTIFICATES}")
    return tuple(AttributeCertificate.from_der(piece) for piece in pieces)


@dataclass(frozen=True, slots=True)
class AttributeCertificate:
    """One of them. Properties raise `AuthError` with the requirement that what they look at does not meet.

    signed: the bytes that the signature covers. algorithm: the object identifier of what it was made with.
    """

    signed: bytes
    algorithm: str
    signature: bytes
    authority: Authority
    _info: Any
    _membership: Any

    @classmethod
    def from_der(cls, der: bytes) -> AttributeCertificate:
        outer = _decode(der, _SIGNED, "V9", "it")
        signed = outer["acinfo"].asOctets()
        info = _decode(signed, rfc5755.AttributeCertificateInfo(), "V9", "its signed part")
        if info["version"] != _V2:
            refuse("V9", Reason.VERSION, "it is not of version 2")
        if info["signature"] != outer["signatureAlgorithm"]:
            refuse("V5", Reason.ALGORITHM, "the signature algorithm is another inside than outside")
        bits = outer["signatureValue"]
        if len(bits) % 8:
            refuse("V5", Reason.SIGNATURE, "the signature is not of whole bytes")
        algorithm = str(info["signature"]["algorithm"])
        membership = _membership(info)
        return cls(signed, algorithm, bits.asOctets(), _authority(membership), info, membership)

    @property
    def validity(self) -> Validity:
        period = self._info["attrCertValidityPeriod"]
        return Validity(_time(period["notBeforeTime"]), _time(period["notAfterTime"]))

    @property
    def holder(self) -> Holder:
        holder = self._info["holder"]
        base = holder["baseCertificateID"]
        others = (holder["entityName"], holder["objectDigestInfo"], base["issuerUID"])
        if not base.isValue or any(other.isValue for other in others):
            refuse("V4", Reason.MALFORMED, "the holder is not given by issuer and serial number alone")
        return Holder(_only_directory_name(base["issuer"], "V4", "the holder"), int(base["serial"]))

    @property
    def issuer(self) -> DistinguishedName:
        form = self._info["issuer"]["v2Form"]
        if not form.isValue or form["baseCertificateID"].isValue or form["objectDigestInfo"].isValue:
            refuse("V5", Reason.MALFORMED, "the issuer is not given by its name alone")
        return _only_directory_name(form["issuerName"], "V5", "the issuer")

    @property
    def fqans(self) -> tuple[str, ...]:
        """As they stand there."""
        values = self._membership["values"]
        if any(value.getName() != "octets" for value in values):
            refuse("V6", Reason.MALFORMED, "an FQAN is not an octet string")
        return tuple(value["octets"].asOctets().decode("latin-1") for value in values)

    @property
    def extensions(self) -> dict[str, Extension]:
        found: dict[str, Extension] = {}
        for extension in self._info["extensions"]:
            oid = str(extension["extnID"])
            if oid in found:
                refuse("V8", Reason.DUPLICATE, f"extension {shown(oid)} is there twice")
            found[oid] = Extension(extension["extnValue"].asOctets(), bool(extension["critical"]))
        return found

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The signer's and those above, as they were sent along; none if there is no list."""
        if (extension := self.extensions.get(CERTIFICATES)) is None:
            return ()
        pieces = _unwrap(extension.value, "V5", "the certificate list")
        if len(pieces) > MAX_LISTED_CERTIFICATES:
            refuse("V5", Reason.TOO_LARGE, f"{len(pieces)} certificates, at most {MAX_LISTED_CERTIFICATES}")
        try:
            return tuple(read_certificate(piece) for piece in pieces)
        except (ValueError, x509.InvalidVersion) as exc:
            problem = f"attribute certificate: one of its certificates: {exc}"
            raise AuthError(403, "V5", Reason.MALFORMED, problem) from exc

    @property
    def key_identifier(self) -> KeyIdentifier:
        der = self.extensions[KEY_IDENTIFIER].value
        value = _decode(der, rfc5280.AuthorityKeyIdentifier(), "V8", "the key identifier")
        key, serial = value["keyIdentifier"], value["authorityCertSerialNumber"]
        return KeyIdentifier(
            key.asOctets() if key.isValue else None,
            tuple(_directory_names(value["authorityCertIssuer"], "V8")),
            int(serial) if serial.isValue else None,
        )

    @property
    def targets(self) -> tuple[str, ...] | None:
        """The URIs and DNS names that it may be used at, None for everywhere."""
        if (extension := self.extensions.get(TARGETS)) is None:
            return None
        return tuple(_target_names(extension.value))


def _decode(der: bytes, spec: Any, rule: str, what: str) -> Any:
    try:
        value, rest = decoder.decode(der, asn1Spec=spec)
        is_der = not rest and encoder.encode(value) == der
    except (PyAsn1Error, ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as exc:
        raise AuthError(403, rule, Reason.MALFORMED, f"attribute certificate: {what} is not DER") from exc
    if not is_der:
        refuse(rule, Reason.MALFORMED, f"{what} is not DER, or something follows")
    return value


def _unwrap(der: bytes, rule: str, what: str) -> tuple[bytes, ...]:
    """What is in the one sequence in a sequence, each as it came."""
    sequences = _decode(der, _WRAPPED_PIECES, rule, what)
    if len(sequences) != 1:
        refuse(rule, Reason.MALFORMED, f"{what} is not one sequence in a sequence")
    return tuple(piece.asOctets() for piece in sequences[0])


def _membership(info: Any) -> Any:
    """The value of the one attribute that lists FQANs."""
    values = [attribute["values"] for attribute in info["attributes"] if str(attribute["type"]) == FQANS]
    if len(values) != 1 or len(values[0]) != 1:
        refuse("V6", Reason.MALFORMED, "there is not exactly one list of FQANs")
    return _decode(values[0][0].asOctets(), rfc5755.IetfAttrSyntax(), "V6", "the list of FQANs")


def _authority(membership: Any) -> Authority:
    names = membership["policyAuthority"]
    if not names.isValue or len(names) != 1 or names[0].getName() != "uniformResourceIdentifier":
        refuse("V6", Reason.MALFORMED, "the policy authority is not exactly one URI")
    uri = str(names[0]["uniformResourceIdentifier"])
    found = _AUTHORITY.fullmatch(uri)
    if not found or int(found["port"]) not in _PORTS:
        refuse("V5", Reason.NAME, f"the policy authority {shown(uri)} is not <vo>://<host>:<port>")
    return Authority(found["vo"], found["host"].lower())


def _time(value: Any) -> datetime:
    text = str(value)
    try:
        if _TIME.fullmatch(text):
            return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        pass
    refuse("V3", Reason.MALFORMED, f"{shown(text)} is no time")


def _only_directory_name(names: Any, rule: str, what: str) -> DistinguishedName:
    if names.isValue and len(names) == 1:
        for name in _directory_names(names, rule):
            return name
    refuse(rule, Reason.MALFORMED, f"{what} is not exactly one directory name")


def _directory_names(names: Any, rule: str) -> Iterator[DistinguishedName]:
    for name in names if names.isValue else ():
        if name.getName() == "directoryName":
            yield DistinguishedName(
                tuple(
                    tuple((str(pair["type"]), _text(pair["value"].asOctets(), rule)) for pair in rdn)
                    for rdn in name["directoryName"]["rdnSequence"]
                )
            )


def _text(der: bytes, rule: str) -> str:
    """The value of an attribute of a name, read as `cryptography` reads it in certificates."""
    value = _decode(der, None, rule, "a name")
    if not isinstance(value, char.AbstractCharacterString):
        refuse(rule, Reason.NAME, "a name has a value that is no text")
    try:
        return str(value.asOctets().decode(_WIDE_TEXT.get(value.tagSet, "utf-8")))
    except UnicodeDecodeError as exc:
        raise AuthError(403, rule, Reason.NAME, "attribute certificate: a name is badly encoded") from exc


def _target_names(der: bytes, depth: int = 0) -> Iterator[str]:
    """Targets are in two sequences by RFC 5755, in three of which one is around each target in VOMS."""
    if der[:1] == _SEQUENCE and depth < _TARGET_DEPTH:
        pieces = _decode(der, _PIECES, "V8", "the target information")
        if len(pieces) > MAX_TARGETS:
            refuse("V8", Reason.TOO_LARGE, f"{len(pieces)} targets, at most {MAX_TARGETS}")
        for piece in pieces:
            yield from _target_names(piece.asOctets(), depth + 1)
        return
    target = _decode(der, rfc5755.Target(), "V8", "a target")
    if target.getName() == "targetName" and (name := target["targetName"]).getName() in _TARGET_KINDS:
        yield str(name.getComponent())
