"""The claims of a token whose signature is good: dates, audience, version, subject (T8 to T16).

All dates are compared here and not in a library, whose leeway would prolong a token's life.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, NoReturn

from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.trace import Trace, shown, untold

ANY_AUDIENCE = "https://wlcg.cern.ch/jwt/v1/any"
"""The audience of tokens for any service whatever."""

MAX_SKEW_SECONDS = 300

_DATES_BELOW = 2**53
_VERSION = re.compile(r"([0-9]+)\.[0-9]+", re.ASCII)
_SUBJECT = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)


class Terms(NamedTuple):
    """What the tokens of an issuer must fulfil. max_lifetime: seconds, 0 for any. skew: of its clock."""

    audiences: Collection[str]
    max_lifetime: float
    skew: float


class Claims(NamedTuple):
    """What counts of a token, scopes and groups aside. expires: seconds since 1970."""

    sub: str
    jti: str
    expires: float


def check(claims: Mapping[str, object], terms: Terms, now: float, trace: Trace = untold) -> Claims:
    """Raises AuthError 401 by the first of T8 to T16 that does not hold."""
    expires = _check_dates(claims, terms, now, trace)
    _check_audience(claims.get("aud"), terms.audiences, trace)
    _check_version(claims.get("wlcg.ver"), trace)
    return Claims(_subject(claims, trace), _token_id(claims, trace), expires)


def _check_dates(claims: Mapping[str, object], terms: Terms, now: float, trace: Trace) -> float:
    skew = min(terms.skew, MAX_SKEW_SECONDS)
    expires = _date(claims, "exp", "T8")
    if not now < expires:
        _refuse("T8", Reason.EXPIRED, f"token expired at {_time(expires)}, {now - expires:.0f} s ago")
    trace("T8", "it expires in %.0f s", expires - now)
    if "nbf" in claims:
        _check_begun("nbf", _date(claims, "nbf", "T9"), now, skew, "T9")
    trace("T9", "its validity has begun")
    issued = _date(claims, "iat", "T10")
    _check_begun("iat", issued, now, skew, "T10")
    trace("T10", "it was issued %.0f s ago", now - issued)
    if terms.max_lifetime and expires - issued > terms.max_lifetime:
        _refuse(
            "T11",
            Reason.LIFETIME,
            f"token lives for {expires - issued:.0f} s, its issuer may give {terms.max_lifetime:.0f} s",
        )
    trace("T11", "it lives for %.0f s, of at most %s", expires - issued, terms.max_lifetime or "any time")
    return expires


def _date(claims: Mapping[str, object], name: str, rule: str) -> float:
    value = claims.get(name)
    if name not in claims:
        _refuse(rule, Reason.MISSING, f"token has no {name}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse(rule, Reason.MALFORMED, f"token's {name} is no number")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds >= _DATES_BELOW:
        _refuse(rule, Reason.MALFORMED, f"token's {name} is no possible date")
    return seconds


def _check_begun(name: str, begins: float, now: float, skew: float, rule: str) -> None:
    if begins > now + skew:
        _refuse(
            rule,
            Reason.NOT_YET_VALID,
            f"token's {name} {_time(begins)} is {begins - now:.0f} s ahead, more than {skew:.0f} s",
        )


def _check_audience(audience: object, accepted: Collection[str], trace: Trace) -> None:
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or not named or not all(isinstance(one, str) for one in named):
        reason = Reason.MISSING if audience is None else Reason.MALFORMED
        _refuse("T12", reason, "token's aud is missing, or neither a string nor an array of strings")
    for one in named:
        if one in accepted:
            trace("T12", "it is meant for %a", one)
            return
    _refuse("T12", Reason.AUDIENCE, f"token is meant for {shown(audience)}, none of which is a name of ours")


def _check_version(version: object, trace: Trace) -> None:
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        _refuse("T13", Reason.VERSION, f"token's wlcg.ver is {shown(version)}, not of the form 1.0")
    if match[1] != "1":
        _refuse("T13", Reason.VERSION, f"token's wlcg.ver is {shown(version)}, known is version 1")
    trace("T13", "it is of version %s", version)


def _subject(claims: Mapping[str, object], trace: Trace) -> str:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        _refuse("T15", Reason.NAME, f"token's sub is {shown(subject)}, not 1 to 255 printable characters")
    trace("T15", "its subject is %a", subject)
    return subject


def _token_id(claims: Mapping[str, object], trace: Trace) -> str:
    jti = claims.get("jti")
    if not isinstance(jti, str):
        _refuse("T16", Reason.MISSING, "token has no jti, or it is no string")
    trace("T16", "its jti is %a", jti)
    return jti


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f}"


def _refuse(rule: str, reason: Reason, message: str) -> NoReturn:
    raise AuthError(401, rule, reason, message)
