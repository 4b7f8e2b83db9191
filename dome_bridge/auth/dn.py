"""Distinguished names: of certificates, in OpenSSL's slash form, and in that of RFC 2253 and 4514.

Names are compared attribute by attribute, whatever string type a certificate wrote them in. A user is known
by the canonical slash form: what OpenSSL before 3.0 prints, with `/` and `+` in values left as they are.
That form cannot be read back for every name; a name for which it cannot is ambiguous and nobody's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from cryptography import x509
from pyasn1.codec.der import decoder
from pyasn1.error import PyAsn1Error
from pyasn1.type import char

from dome_bridge.auth.refusal import AuthError, Reason

Attribute = tuple[str, str]
"""OID and value. Of text in slash form with an attribute that nobody knows: its keyword and the value."""

Rdn = tuple[Attribute, ...]

MAX_TEXT = 4096
"""Of a name in any text form; longer ones are not looked at."""

MAX_USER_NAME = 255
"""Bytes of a user name, as wide as the column of DPM's user table."""

COMMON_NAME = "2.5.4.3"
_EMAIL = "1.2.840.113549.1.9.1"
_UID = "0.9.2342.19200300.100.1.1"
_TITLE = "2.5.4.12"

_SHORT_NAMES = {
    "0.9.2342.19200300.100.1.25": "DC",
    "2.5.4.6": "C",
    "2.5.4.8": "ST",
    "2.5.4.7": "L",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    COMMON_NAME: "CN",
    "2.5.4.4": "SN",
    "2.5.4.42": "GN",
    _TITLE: "T",
    "2.5.4.5": "serialNumber",
    _UID: "UID",
    _EMAIL: "emailAddress",
}

# What OpenSSL and Globus of any age have printed besides; written as the dotted OID where there is no
# short name above.
_OTHER_KEYWORDS = {
    "Email": _EMAIL,
    "E": _EMAIL,
    "EMAIL": _EMAIL,
    "email": _EMAIL,
    "EMAILADDRESS": _EMAIL,
    "USERID": _UID,
    "userId": _UID,
    "title": _TITLE,
    "street": "2.5.4.9",
    "STREET": "2.5.4.9",
    "postalCode": "2.5.4.17",
    "description": "2.5.4.13",
    "businessCategory": "2.5.4.15",
    "name": "2.5.4.41",
    "initials": "2.5.4.43",
    "generationQualifier": "2.5.4.44",
    "x500UniqueIdentifier": "2.5.4.45",
    "dnQualifier": "2.5.4.46",
    "pseudonym": "2.5.4.65",
    "organizationIdentifier": "2.5.4.97",
    "unstructuredName": "1.2.840.113549.1.9.2",
    "jurisdictionL": "1.3.6.1.4.1.311.60.2.1.1",
    "jurisdictionST": "1.3.6.1.4.1.311.60.2.1.2",
    "jurisdictionC": "1.3.6.1.4.1.311.60.2.1.3",
    "mail": "0.9.2342.19200300.100.1.3",
}

_LONG_NAMES = {
    "domainComponent": "0.9.2342.19200300.100.1.25",
    "countryName": "2.5.4.6",
    "stateOrProvinceName": "2.5.4.8",
    "localityName": "2.5.4.7",
    "organizationName": "2.5.4.10",
    "organizationalUnitName": "2.5.4.11",
    "commonName": COMMON_NAME,
    "surname": "2.5.4.4",
    "givenName": "2.5.4.42",
    "streetAddress": "2.5.4.9",
}

_OID_OF = {short: oid for oid, short in _SHORT_NAMES.items()} | _OTHER_KEYWORDS
# RFC 4514 keywords are the same in upper and lower case.
_OID_OF_ANY_CASE = {keyword.casefold(): oid for keyword, oid in (_OID_OF | _LONG_NAMES).items()}

_OID = r"[0-9]+(?:\.[0-9]+)+"
_IS_OID = re.compile(_OID)
# After a backslash it is a slash or plus of the value, as OpenSSL writes it since 3.0.
_BOUNDARY = re.compile(rf"(?<!\\)(?P<sign>[/+])(?P<keyword>[A-Za-z][A-Za-z0-9.-]{{0,63}}|{_OID})=")
# Only what the slash form has to escape is unescaped; `\x41` are the four characters that they look like.
_SLASH_ESCAPE = re.compile(rb"\\(?:([/+])|x([01][0-9A-Fa-f]|7[Ff]|[89A-Fa-f][0-9A-Fa-f]))")

_RFC_KEYWORD = re.compile(rf" *(?:[Oo][Ii][Dd]\.)?(?P<keyword>[A-Za-z][A-Za-z0-9-]*|{_OID}) *= *")
_RFC_PIECE = r'\\(?:[0-9A-Fa-f]{2}|[ #=",+;<>\\])'
_RFC_HEX = re.compile(r"#(?P<hex>(?:[0-9A-Fa-f]{2})+) *")
_RFC_QUOTED = re.compile(rf'"(?P<quoted>(?:[^"\\]|{_RFC_PIECE})*)" *')
# Blanks belong to a value only between its other characters.
_RFC_PLAIN = re.compile(rf'(?P<plain>(?: *(?:[^\\",;+<> ]|{_RFC_PIECE}))*) *')
_RFC_ESCAPE = re.compile(rb"\\(?:([0-9A-Fa-f]{2})|(.))", re.DOTALL)

_WIDE = {char.BMPString: "utf-16-be", char.UniversalString: "utf-32-be"}
_NARROW = (
    char.UTF8String,
    char.PrintableString,
    char.IA5String,
    char.TeletexString,
    char.NumericString,
    char.VisibleString,
)


@dataclass(frozen=True, eq=False)
class DistinguishedName:
    """rdns: in the order of the certificate. Bytes that are not UTF-8 are lone surrogates."""

    rdns: tuple[Rdn, ...]

    @classmethod
    def from_x509(cls, name: x509.Name) -> DistinguishedName:
        return cls(
            tuple(tuple((part.oid.dotted_string, _text(part.value)) for part in rdn) for rdn in name.rdns)
        )

    @classmethod
    def from_slash(cls, text: str) -> DistinguishedName:
        """Of old and new OpenSSL's spelling, a mixture of them, and with characters that should be escaped.

        Raises ValueError with the reason.
        """
        starts = [found for found in _BOUNDARY.finditer(text) if _is_boundary(found)]
        if not starts or starts[0].start() or starts[0]["sign"] != "/":
            raise ValueError(
                f"a name in slash form begins with a slash, an attribute and =, not {text[:64]!a}"
            )
        ends = [found.start() for found in starts[1:]] + [len(text)]
        rdns: list[list[Attribute]] = []
        for found, end in zip(starts, ends, strict=True):
            if found["sign"] == "/":
                rdns.append([])
            value = _unescaped(text[found.end() : end])
            rdns[-1].append((_OID_OF.get(found["keyword"], found["keyword"]), value))
        return cls(tuple(map(tuple, rdns)))

    @classmethod
    def from_rfc4514(cls, text: str) -> DistinguishedName:
        """Of RFC 2253 too, with its quotes and semicolons. As OpenSSL does, a multi-valued RDN is reversed
        like the whole. Raises ValueError with the reason.
        """
        rdns: list[list[Attribute]] = [[]]
        for attribute, separator in _rfc_attributes(text):
            rdns[-1].insert(0, attribute)
            if separator in (",", ";"):
                rdns.append([])
        return cls(tuple(map(tuple, reversed(rdns))))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DistinguishedName):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @cached_property
    def _key(self) -> tuple[Rdn, ...]:
        # An RDN is a set: certificates keep it in the order of its encoding, texts in any.
        return tuple(tuple(sorted(rdn)) for rdn in self.rdns)

    @cached_property
    def slash(self) -> str:
        """The canonical slash form."""
        return "".join(
            ("+" if later else "/") + _SHORT_NAMES.get(oid, oid) + "=" + escaped(value)
            for rdn in self.rdns
            for later, (oid, value) in enumerate(rdn)
        )

    @cached_property
    def ambiguity(self) -> str:
        """Why the slash form cannot stand for this name, "" if it can."""
        if not self.rdns:
            return "it is empty"
        for oid, value in self._attributes():
            if any(unicodedata.category(character) == "Cc" for character in value):
                return f"there is a control character in {_SHORT_NAMES.get(oid, oid)}"
        try:
            return (
                "" if DistinguishedName.from_slash(self.slash) == self else "its slash form is another name"
            )
        except ValueError:
            return "its slash form is none"

    @property
    def is_ambiguous(self) -> bool:
        return bool(self.ambiguity)

    @property
    def is_multivalued(self) -> bool:
        return any(len(rdn) > 1 for rdn in self.rdns)

    @property
    def common_names(self) -> tuple[str, ...]:
        return tuple(value for oid, value in self._attributes() if oid == COMMON_NAME)

    def _attributes(self) -> Iterator[Attribute]:
        for rdn in self.rdns:
            yield from rdn

    def __str__(self) -> str:
        return self.slash


def parse(text: str) -> DistinguishedName:
    """Of any text form. Raises ValueError with the reason."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"a name of {len(text)} characters is longer than {MAX_TEXT}")
    if text.startswith("/"):
        return DistinguishedName.from_slash(text)
    return DistinguishedName.from_rfc4514(text)


def canonical(text: str) -> str:
    """The canonical slash form of any text form. Raises ValueError for text that is no name, or ambiguous."""
    name = parse(text)
    if name.ambiguity:
        raise ValueError(f"the name {text[:256]!a} cannot be used: {name.ambiguity}")
    return name.slash


def host_of(text: str) -> str:
    """The host that a DN in slash form names, in lower case; "" if it names none, or there is any doubt."""
    if not text.startswith("/"):
        return ""
    try:
        name = parse(text)
    except ValueError:
        return ""
    # An attribute that nobody knows may as well be a part of the value before it.
    if name.is_ambiguous or name.is_multivalued or _has_unknown(name) or len(name.common_names) != 1:
        return ""
    host = name.common_names[0].removeprefix("host/")
    # Some letters of other alphabets have an ASCII letter for their lower case.
    return host.lower() if host.isascii() else ""


def user_name(name: DistinguishedName, *, is_peer: bool = False) -> str:
    """The canonical slash form, or AuthError. is_peer: for a server or an administrator, who have to have a
    name without multi-valued RDNs.
    """
    trouble = name.ambiguity
    if is_peer and not trouble and name.is_multivalued:
        trouble = "an RDN of several attributes is not accepted for servers and administrators"
    if trouble:
        raise AuthError(403, "U1", Reason.NAME, f"the name {name.slash[:256]!a} cannot be used: {trouble}")
    if len(name.slash) > MAX_USER_NAME:
        raise AuthError(
            403, "U4", Reason.NAME, f"the name {name.slash[:64]!a}... is longer than {MAX_USER_NAME} bytes"
        )
    return name.slash


def canonical_keyword(keyword: str) -> str:
    """As the slash form has it; one that nobody knows stays as it is."""
    oid = _OID_OF.get(keyword, keyword)
    return _SHORT_NAMES.get(oid, oid)


def _is_boundary(found: re.Match[str]) -> bool:
    """A plus is a common character; it begins an attribute only where that is one."""
    keyword = found["keyword"]
    return found["sign"] == "/" or keyword in _OID_OF or _IS_OID.fullmatch(keyword) is not None


def _has_unknown(name: DistinguishedName) -> bool:
    return not all(_IS_OID.fullmatch(oid) for rdn in name.rdns for oid, _ in rdn)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def escaped(value: str) -> str:
    """As a value stands in the slash form: what is not printable ASCII is its bytes in hexadecimal."""
    return "".join(
        chr(byte) if 0x20 <= byte <= 0x7E else f"\\x{byte:02X}"
        for byte in value.encode("utf-8", "surrogateescape")
    )


def _unescaped(value: str) -> str:
    return _SLASH_ESCAPE.sub(
        lambda found: found[1] or bytes.fromhex(found[2].decode()), value.encode("utf-8", "surrogateescape")
    ).decode("utf-8", "surrogateescape")


def _rfc_attributes(text: str) -> Iterator[tuple[Attribute, str]]:
    """Each with the separator that follows it, "" after the last one."""
    place, separator = 0, ","
    while separator:
        keyword = _RFC_KEYWORD.match(text, place)
        if not keyword:
            raise ValueError(f"no attribute and = at character {place} of the name {text[:256]!a}")
        value, place = _rfc_value(text, keyword.end())
        separator = text[place : place + 1]
        if separator and separator not in ",;+":
            raise ValueError(f"{separator!a} at character {place} of the name {text[:256]!a} is not escaped")
        place += 1
        yield (_rfc_oid(keyword["keyword"]), value), separator


def _rfc_oid(keyword: str) -> str:
    if _IS_OID.fullmatch(keyword):
        return keyword
    try:
        return _OID_OF_ANY_CASE[keyword.casefold()]
    except KeyError:
        raise ValueError(f"there is no attribute {keyword[:64]!a}, write it as an OID") from None


def _rfc_value(text: str, place: int) -> tuple[str, int]:
    """The value that begins here, and where it ends."""
    if found := _RFC_HEX.match(text, place):
        return _ber_text(bytes.fromhex(found["hex"])), found.end()
    if text.startswith("#", place):
        raise ValueError(f"the value at character {place} of the name {text[:256]!a} is not hexadecimal")
    if found := _RFC_QUOTED.match(text, place):
        return _rfc_unescaped(found["quoted"]), found.end()
    found = _RFC_PLAIN.match(text, place)
    assert found
    return _rfc_unescaped(found["plain"]), found.end()


def _rfc_unescaped(value: str) -> str:
    return _RFC_ESCAPE.sub(
        lambda found: bytes.fromhex(found[1].decode()) if found[1] else found[2],
        value.encode("utf-8", "surrogateescape"),
    ).decode("utf-8", "surrogateescape")


def _ber_text(data: bytes) -> str:
    """Of one encoded string, as the hexadecimal form of a value holds it."""
    try:
        value, rest = decoder.decode(data)
    except PyAsn1Error as exc:
        raise ValueError(f"the hexadecimal value #{data.hex()[:64]} is no encoded string") from exc
    if rest or type(value) not in (*_WIDE, *_NARROW):
        raise ValueError(f"the hexadecimal value #{data.hex()[:64]} is no encoded string")
    return bytes(value.asOctets()).decode(_WIDE.get(type(value), "utf-8"), "surrogateescape")
