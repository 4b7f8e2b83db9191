"""OpenSSL's hash of a name, by which the files of a trust directory are called.

OpenSSL (crypto/x509/x_name.c, `X509_NAME_hash_ex`) hashes a canonical form: text as UTF-8 in lower case
with single blanks, each RDN a sorted SET, without the outer SEQUENCE. The hash of versions before 1.0 (MD5
over the DER) is not made here: its files are links to the same certificates.
"""

from __future__ import annotations

import hashlib
import re

from cryptography import x509
from cryptography.x509.name import _ASN1Type

_TEXT = {
    _ASN1Type.UTF8String,
    _ASN1Type.BMPString,
    _ASN1Type.UniversalString,
    _ASN1Type.PrintableString,
    _ASN1Type.T61String,
    _ASN1Type.IA5String,
    _ASN1Type.VisibleString,
}
_SPACES = re.compile(r"[ \t\n\v\f\r]+")
_UPPER_TO_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def subject_hash(name: x509.Name) -> str:
    """Eight hex digits, as of `openssl x509 -subject_hash`."""
    canonical = x509.Name(
        x509.RelativeDistinguishedName([_canonical(attribute) for attribute in rdn]) for rdn in name.rdns
    )
    content = _content(canonical.public_bytes())
    return hashlib.sha1(content, usedforsecurity=False).digest()[3::-1].hex()


def _canonical(attribute: x509.NameAttribute[str | bytes]) -> x509.NameAttribute[str | bytes]:
    value = attribute.value
    if isinstance(value, bytes) or attribute._type not in _TEXT:
        return attribute
    plain = _SPACES.sub(" ", value).strip(" ").translate(_UPPER_TO_LOWER)
    return x509.NameAttribute(attribute.oid, plain, _ASN1Type.UTF8String, _validate=False)


def _content(der: bytes) -> bytes:
    """Without the tag and length around it."""
    return der[2:] if der[1] < 0x80 else der[2 + (der[1] & 0x7F) :]
