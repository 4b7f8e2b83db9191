"""The outer form of a bearer token: a compact JWS, and what its header may say (T3 to T5, L1).

Nothing is verified here, and no library is asked: those accept duplicate members, padding, other encodings,
and extensions they do not know. Messages quote values of the header, never a segment of the token.
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Mapping
from typing import NamedTuple, NoReturn

from dome_bridge.auth import strict_json
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.trace import Trace, shown, untold

MAX_TOKEN_BYTES = 8192
MAX_KID_CHARACTERS = 256

_SEGMENT = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
# Each would change what the signature means, or what is signed.
_REFUSED_MEMBERS = ("crit", "b64", "cty")


class Jws(NamedTuple):
    """The parts of a token, decoded, none of them verified."""

    header: Mapping[str, object]
    claims: Mapping[str, object]
    signing_input: bytes
    signature: bytes


class Signing(NamedTuple):
    """What the header says about the signature."""

    alg: str
    kid: object


def parse(token: str, trace: Trace = untold) -> Jws:
    """Takes a token apart. Raises AuthError 401 by L1 or T3."""
    if len(token) > MAX_TOKEN_BYTES:
        raise AuthError(
            401, "L1", Reason.TOO_LARGE, f"token has {len(token)} bytes, at most {MAX_TOKEN_BYTES} are read"
        )
    trace("L1", "the token has %d bytes", len(token))
    segments = token.split(".")
    if len(segments) != 3:
        _malformed(f"token has {len(segments)} segments, a signed one has 3")
    header, claims, signature = (
        _decoded(segment, what)
        for segment, what in zip(segments, ("header", "payload", "signature"), strict=True)
    )
    parsed = Jws(
        _members(header, "header"),
        _members(claims, "payload"),
        token[: token.rindex(".")].encode("ascii"),
        signature,
    )
    trace("T3", "it is a compact JWS, header and payload are plain JSON objects")
    return parsed


def check_header(header: Mapping[str, object], algorithms: Collection[str], trace: Trace = untold) -> Signing:
    """Raises AuthError 401 by T4 or T5. `jku`, `jwk` and the like are not looked at."""
    for member in _REFUSED_MEMBERS:
        if member in header:
            raise AuthError(401, "T4", Reason.MALFORMED, f"token's header has {member}, which is refused")
    if "typ" in header:
        _check_type(header["typ"])
    trace("T4", "its type is %a, no extension is asked for", header.get("typ", "not given"))
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in algorithms:
        raise AuthError(
            401,
            "T5",
            Reason.ALGORITHM,
            f"token's algorithm is {shown(alg)}, admitted are {', '.join(algorithms)}",
        )
    trace("T5", "its algorithm %s is admitted", alg)
    return Signing(alg, header.get("kid"))


def _check_type(typ: object) -> None:
    if not isinstance(typ, str) or typ.lower() not in _TYPES:
        raise AuthError(401, "T4", Reason.MALFORMED, f"token's type is {shown(typ)}, not JWT or at+jwt")


def _decoded(segment: str, what: str) -> bytes:
    if not _SEGMENT.fullmatch(segment):
        _malformed(f"token's {what} is empty or not unpadded base64url")
    try:
        data = urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except binascii.Error:
        _malformed(f"token's {what} is cut off: its length is not that of base64url")
    # Unused bits in the last character would make many texts of one token.
    if urlsafe_b64encode(data).rstrip(b"=") != segment.encode("ascii"):
        _malformed(f"token's {what} has bits set behind its last byte")
    return data


def _members(document: bytes, what: str) -> Mapping[str, object]:
    try:
        return strict_json.load_object(document)
    except ValueError as error:
        _malformed(f"token's {what} cannot be read: {error}")


def _malformed(message: str) -> NoReturn:
    raise AuthError(401, "T3", Reason.MALFORMED, message) from None
