"""What a refusal tells a client: no more than it needs to come back with something better.

The precise reason is for the log. Texts are fixed: nothing of what the client sent comes back but its DN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from dome_bridge.auth.authenticate import Evidence, Method
from dome_bridge.auth.principal import Principal
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.throttle import ThrottledError
from dome_bridge.dome_api.wire import Answer
from dome_bridge.errors import ApiError

RETRY_AFTER_SECONDS = 60

_ERRORS: Mapping[int, tuple[str, str]] = {
    400: ("invalid_request", "The request holds a credential in a form that cannot be accepted"),
    401: ("invalid_token", "The token is not valid here"),
    403: ("insufficient_scope", "The token does not allow this request"),
}

PATH_TEXT = "The request names a path that is not absolute, is too long, or holds dots or control characters"

_TEXTS: Mapping[int, str] = {
    400: "The request's credentials are malformed or contradict each other",
    401: "Authentication is needed: show a certificate, or a token that is valid here",
    429: "Too many requests with bad credentials came from your address: wait",
    503: "The keys of the token's issuer are not available: try again later",
}


def refusal(exc: AuthError, principal: Principal, evidence: Evidence, *, realm: str) -> Answer:
    """realm: a name of this head, for the challenge."""
    headers = []
    has_token = principal.token is not None or evidence.method is Method.TOKEN
    if exc.status == 401 or has_token:
        headers.append(("WWW-Authenticate", _challenge(exc, realm, has_token=has_token)))
    if isinstance(exc, ThrottledError):
        headers.append(("Retry-After", str(max(1, math.ceil(exc.retry_after)))))
    elif exc.status == 503:
        headers.append(("Retry-After", str(RETRY_AFTER_SECONDS)))
    return Answer(exc.status, _text(exc, evidence, has_token).encode(), headers=tuple(headers))


def forbidden(exc: ApiError, principal: Principal, *, realm: str) -> Answer:
    """What DPM's permissions say no to, in the command's own words."""
    answer = Answer.text(exc.text, exc.status)
    if principal.token is None:
        return answer
    insufficient = AuthError(403, "G2", Reason.GROUP, exc.text)
    challenge = _challenge(insufficient, realm, has_token=True)
    return replace(answer, headers=(("WWW-Authenticate", challenge),))


def _challenge(exc: AuthError, realm: str, *, has_token: bool) -> str:
    """RFC 6750: without a token no error is named."""
    parts = [f'realm="{realm}"']
    if has_token and exc.status in _ERRORS:
        error, description = _ERRORS[exc.status]
        parts += [f'error="{error}"', f'error_description="{description}"']
        if exc.status == 403 and exc.wanted:
            parts.append(f'scope="{exc.wanted}"')
    return "Bearer " + ", ".join(parts)


def _text(exc: AuthError, evidence: Evidence, has_token: bool) -> str:
    if exc.status == 400 and exc.reason is Reason.PATH:
        return PATH_TEXT
    if exc.status != 403:
        return _TEXTS.get(exc.status, _TEXTS[400])
    if has_token:
        return _ERRORS[403][1]
    # DOME's own words, which old tools know
    return f"{evidence.channel.dn} is unauthorized. Sorry :-)"
