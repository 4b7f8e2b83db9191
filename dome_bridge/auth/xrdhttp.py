"""The XrdHttp request token: the query string that vouches for a plain-HTTP request.

Signer and verifier hash through one function, so they cannot disagree. Names, order and decoding are
those of XrdHttp (XrdHttpUtils.cc, calcHashes; XrdHttpProtocol.cc, XrdHttpReq.cc); where that one is
lenient (an invalid %-pair cuts the text, the time passes like C's atoi, the last of two values counts) this
one refuses.
Text may stand for any bytes: what is not UTF-8 in a value or a target is kept by surrogateescape.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote_to_bytes

from dome_bridge.errors import BridgeError

VALID_SECONDS = 600
"""How far issue time and clock may be apart, before and after, both ends included."""

_METHOD_CODES: Mapping[str, int] = {
    "GET": 2,
    "HEAD": 3,
    "PUT": 4,
    "OPTIONS": 5,
    "PATCH": 6,
    "DELETE": 7,
    "PROPFIND": 8,
    "MKCOL": 9,
    "MOVE": 10,
    "POST": 11,
}
_OTHER_METHOD = 0

_DIGEST_BYTES = 16
_TOKEN = re.compile(rb"[A-Za-z0-9+/]{22}==")
_OURS = b"xrdhttp"
_TIME_DIGITS = 20
_ORIGIN = re.compile(rb"https?://[^/?]*", re.IGNORECASE)
_BAD_PAIR = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class TokenFault(StrEnum):
    """Why a request is not believed."""

    MISSING = "missing"
    MALFORMED = "malformed"
    STALE = "stale"
    WRONG = "wrong"


class TokenError(BridgeError):
    """A request that no valid token vouches for. The message is for the log and holds no token."""

    def __init__(self, fault: TokenFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Signed:
    """What a token vouches for. Compare a DN with `trimmed` applied to both sides, as XrdHttp does."""

    dn: str = ""
    name: str = ""
    vorg: str = ""
    host: str = ""


def sign(
    secret: str, method: str, path: str, *, now: int, host: str, dn: str = "", name: str = "", vorg: str = ""
) -> str:
    """The query string, without "?", for a request of the decoded `path`.

    Raises ValueError for what no verifier can read back: an empty secret or host, NUL in a text, "&" in vorg.
    """
    signed = Signed(dn, name, vorg, host)
    _check_signable(signed, path)
    token = _token(secret, method, _bytes(path), signed, now)
    parameters = {
        "xrdhttptk": quote(token, safe=""),
        "xrdhttptime": str(now),
        "xrdhttpname": _escaped(name),
        "xrdhttpvorg": _quoted(vorg),
        "xrdhttphost": _escaped(host),
        "xrdhttpdn": _escaped(dn),
    }
    return "&".join(f"{key}={value}" for key, value in parameters.items() if value)


def verify(secret: str, method: str, raw_target: str, *, now: float, peer: str) -> Signed:
    """Who signed the request. Raises TokenError, whose `fault` says why not.

    raw_target: the request target as it came, escapes and all. peer: the client's address as text, which is
    the signed host when the query names none. The time is checked first, so a stale token is called stale
    whatever else is wrong with it.
    """
    path, query = _decoded_target(raw_target)
    parameters = _parameters(query)
    given = parameters.get(b"xrdhttptk", b"")
    if not given or b"xrdhttptime" not in parameters:
        raise TokenError(TokenFault.MISSING, "the request has no token: sign it, or use TLS")
    if not _TOKEN.fullmatch(given):
        raise TokenError(TokenFault.MALFORMED, "xrdhttptk is not 24 characters of base64")
    issued = _issue_time(parameters[b"xrdhttptime"])
    _check_fresh(issued, now)
    signed = Signed(
        dn=_decoded_again(parameters, b"xrdhttpdn"),
        name=_decoded_again(parameters, b"xrdhttpname"),
        vorg=_text(parameters.get(b"xrdhttpvorg", b"")),
        host=_decoded_again(parameters, b"xrdhttphost") or peer,
    )
    expected = _token(secret, method, path, signed, issued)
    if not hmac.compare_digest(given, expected.encode()):
        raise TokenError(
            TokenFault.WRONG, "the request's token does not fit it: compare http.secretkey on both sides"
        )
    return signed


def signer_of(raw_target: str) -> str:
    """The DN that a request names, signed or not. Raises TokenError."""
    _, query = _decoded_target(raw_target)
    return trimmed(_decoded_again(_parameters(query), b"xrdhttpdn"))


def trimmed(text: str) -> str:
    """Without blanks and whatever is not printable ASCII at either end: XrdHttp's form for DOME."""
    kept = [position for position, character in enumerate(text) if "!" <= character <= "~"]
    return text[kept[0] : kept[-1] + 1] if kept else ""


def _token(secret: str, method: str, path: bytes, signed: Signed, issued: int) -> str:
    """The one statement of what is hashed; an absent value contributes nothing, not even its NUL."""
    if not secret:
        raise ValueError("an empty secret signs nothing: set the XrdHttp key")
    code = _METHOD_CODES.get(method, _OTHER_METHOD)
    hashed = hmac.new(_bytes(secret), digestmod=hashlib.sha256)
    hashed.update(re.sub(rb"//+", b"/", path) + b"\0")
    hashed.update(code.to_bytes(2, "little"))
    for value in (signed.name, signed.vorg, signed.host, signed.dn):
        if value:
            hashed.update(_bytes(value) + b"\0")
    hashed.update(b"%d\0" % issued)
    return base64.b64encode(hashed.digest()[:_DIGEST_BYTES]).decode()


def _check_signable(signed: Signed, path: str) -> None:
    if not signed.host:
        raise ValueError("a token without a host depends on the verifier's sockets: give one")
    # NUL separates the hashed values: with one inside, two requests could share a token.
    if any("\0" in text for text in (path, signed.dn, signed.name, signed.vorg, signed.host)):
        raise ValueError("a NUL byte cannot be signed")
    if "&" in signed.vorg:
        raise ValueError("vorg is decoded only once, so a & in it cannot be signed")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _quoted(text: str) -> str:
    return quote(_bytes(text), safe="")


def _escaped(text: str) -> str:
    """For a value that is decoded twice; the first decoding comes before the query is split at "&"."""
    once = _quoted(text)
    return quote(once, safe="") if "%" in text or "&" in text else once


def _decoded_target(raw_target: str) -> tuple[bytes, bytes]:
    path, _, query = _ORIGIN.sub(b"", _bytes(raw_target), count=1).partition(b"?")
    return _unescaped(path), _unescaped(query)


def _unescaped(data: bytes) -> bytes:
    if _BAD_PAIR.search(data):
        raise TokenError(TokenFault.MALFORMED, "the request target has a % without two hexadecimal digits")
    plain = unquote_to_bytes(data)
    if b"\0" in plain:
        raise TokenError(TokenFault.MALFORMED, "the request target has a NUL byte")
    return plain


def _parameters(query: bytes) -> dict[bytes, bytes]:
    """Of the decoded query, without empty values. Of two values for one name either could be meant."""
    pieces = (piece.partition(b"=") for piece in query.split(b"&"))
    pairs = [(key, value) for key, _, value in pieces if key.startswith(_OURS)]
    if len({key for key, _ in pairs}) < len(pairs):
        raise TokenError(TokenFault.MALFORMED, "a parameter of the request's token is given twice")
    return {key: value for key, value in pairs if value}


def _decoded_again(parameters: Mapping[bytes, bytes], key: bytes) -> str:
    return _text(_unescaped(parameters.get(key, b"")))


def _issue_time(text: bytes) -> int:
    if not text.isdigit() or len(text) > _TIME_DIGITS:
        raise TokenError(TokenFault.MALFORMED, "xrdhttptime is not a number of seconds")
    return int(text)


def _check_fresh(issued: int, now: float) -> None:
    age = math.floor(now) - issued
    if abs(age) > VALID_SECONDS:
        raise TokenError(
            TokenFault.STALE,
            f"the request's token was issued {age} s ago, valid are {VALID_SECONDS} s: compare the clocks",
        )
