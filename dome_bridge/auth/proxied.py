"""What the web server of this machine says about its client, in headers that it sets itself."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

from dome_bridge.auth.asserted import is_plain
from dome_bridge.auth.refusal import AuthError, Reason

VERIFIED = "SUCCESS"
FORWARDED = "x-forwarded-for"

_BLOCK = re.compile(
    r"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.*?)-----END (?:X509 |TRUSTED )?CERTIFICATE-----", re.S
)


class ProxiedHeaders(NamedTuple):
    """Names of headers, in lower case."""

    verify: str
    dn: str
    certificate: str


class Told(NamedTuple):
    """chain: DER, as far as the web server gives it. dn: only if the chain is not given."""

    dn: str = ""
    chain: tuple[bytes, ...] = ()
    address: str = ""


def identity_of(headers: Sequence[tuple[str, str]], names: ProxiedHeaders) -> Told:
    """Without a good verification nobody. Raises AuthError 400 for an identity given twice."""
    verified = _single(headers, names.verify)
    dn = _single(headers, names.dn)
    certificates = _single(headers, names.certificate)
    address = last_hop(headers)
    if verified != VERIFIED:
        return Told(address=address)
    if certificates:
        return Told(chain=_chain(certificates, names.certificate), address=address)
    return Told(dn=dn, address=address)


def _single(headers: Sequence[tuple[str, str]], name: str) -> str:
    values = [value for header, value in headers if header.lower() == name]
    if len(values) > 1:
        raise AuthError(
            400, "Y2", Reason.DUPLICATE, f"the header {name} is given twice: httpd must set it, not add to it"
        )
    if not all(map(is_plain, values)):
        raise AuthError(
            400, "Y2", Reason.MALFORMED, f"the header {name} holds control characters or is not UTF-8"
        )
    value = values[0].strip() if values else ""
    # httpd's word for a variable that has no value
    return "" if value == "(null)" else value


def last_hop(headers: Sequence[tuple[str, str]]) -> str:
    forwarded = [value for header, value in headers if header.lower() == FORWARDED]
    return forwarded[-1].rpartition(",")[2].strip() if forwarded and is_plain(forwarded[-1]) else ""


def _chain(text: str, name: str) -> tuple[bytes, ...]:
    """From PEM with its lines joined by blanks, as httpd gives it, or percent-encoded, as others do."""
    found = certificates_in(unquote(text) if "%" in text else text)
    if not found:
        raise AuthError(400, "Y2", Reason.MALFORMED, f"the header {name} holds no certificate in PEM")
    return found


def certificates_in(text: str) -> tuple[bytes, ...]:
    """All that are in a text of PEM blocks, DER. Raises AuthError 400 for a broken one."""
    try:
        blocks = _BLOCK.findall(text)
        return tuple(base64.b64decode(re.sub(r"\s", "", block), validate=True) for block in blocks)
    except binascii.Error as exc:
        raise AuthError(400, "Y2", Reason.MALFORMED, f"broken PEM: {exc}") from exc
