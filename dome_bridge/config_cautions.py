"""What the settings allow but nobody should want without a reason: lines for the log at start."""

from __future__ import annotations

from collections.abc import Iterator

from dome_bridge.config_auth import AuthConfig, IssuerConfig
from dome_bridge.config_listen import PLAIN_PROTOCOLS
from dome_bridge.config_sections import ApiConfig


def cautions(api: ApiConfig, auth: AuthConfig) -> Iterator[str]:
    """For the start of the API, and for whoever checks a configuration."""
    for listener in api.listen:
        if listener.protocol in PLAIN_PROTOCOLS:
            yield (
                f"{listener.protocol} on {listener.place} takes plain HTTP: its signature leaves out the body"
                " and the user that is named, and holds for ten minutes; let the other servers use TLS"
            )
    if auth.user_key == "dn+ca" and auth.authorize_dn:
        yield (
            "the DNs of auth.authorize_dn count whichever CA has issued them, though user_key is dn+ca: see"
            " that the signing policies let one CA only issue each"
        )
    for issuer in auth.issuers:
        yield from _of_issuer(issuer, auth)


def _of_issuer(issuer: IssuerConfig, auth: AuthConfig) -> Iterator[str]:
    if issuer.max_lifetime_s == 0:
        yield f"tokens of issuer {issuer.name} may live for ever: max_lifetime_s is 0"
    if auth.audience or issuer.audience:
        return
    if issuer.accept_any_audience:
        yield (
            f"tokens of issuer {issuer.name} are accepted only if they are meant for any service: no audience"
            " is configured; add the URL of each endpoint to auth.audience"
        )
    else:
        yield (
            f"no token of issuer {issuer.name} can be accepted: no audience is configured and"
            " accept_any_audience is false; add the URL of each endpoint to auth.audience"
        )
