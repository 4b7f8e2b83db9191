"""Where a request carries its bearer token: the header or the query, once and only once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

from dome_bridge.auth.refusal import AuthError, Reason

# Padding is not part of a token either, but that is the token's fault and not the request's.
_HEADER = re.compile(r"bearer ([A-Za-z0-9_.=-]+)", re.IGNORECASE)
_QUERY = re.compile(r"(?:bearer )?([A-Za-z0-9_.=-]+)", re.IGNORECASE)

QUERY_NAME = "authz"
SIGNATURE_NAME = "xrdhttptk"


def token_of(headers: Iterable[tuple[str, str]], raw_target: str) -> str | None:
    """The token; None without one. Raises AuthError 400 for a malformed one or more than one."""
    in_header = [value for name, value in headers if name.lower() == "authorization"]
    in_query = _in_query(raw_target)
    if len(in_header) + len(in_query) > 1:
        raise AuthError(400, "H3", Reason.DUPLICATE, "more than one token is given")
    if in_header:
        return _matched(_HEADER, in_header[0], "H1", "the header Authorization")
    if in_query:
        return _matched(_QUERY, in_query[0], "H2", f"the parameter {QUERY_NAME}")
    return None


def is_given(headers: Iterable[tuple[str, str]], raw_target: str) -> bool:
    """Whether there is anything where a token would be, good or not."""
    return bool(_in_query(raw_target)) or any(name.lower() == "authorization" for name, _ in headers)


def without_token(raw_target: str) -> str:
    """A request target for logs and messages: without the signature of a signed request, too."""
    path, mark, query = raw_target.partition("?")
    kept = [piece for piece in query.split("&") if _name_of(piece) not in (QUERY_NAME, SIGNATURE_NAME)]
    return path + mark + "&".join(kept) if kept and mark else path


def _in_query(raw_target: str) -> list[str]:
    _, _, query = raw_target.partition("?")
    return [unquote(piece.partition("=")[2]) for piece in query.split("&") if _is_token(piece)]


def _is_token(piece: str) -> bool:
    return _name_of(piece) == QUERY_NAME


def _name_of(piece: str) -> str:
    return unquote(piece.partition("=")[0])


def _matched(pattern: re.Pattern[str], value: str, rule: str, where: str) -> str:
    found = pattern.fullmatch(value)
    if found is None:
        raise AuthError(400, rule, Reason.MALFORMED, f"{where} does not hold one bearer token")
    return found[1]
