"""What a token that has passed all checks is worth here: its user, groups and grants (S, G, 14.2).

Capabilities and groups are never added up: a token that has any capability is no group token, whatever its
issuer's mode is. So a token that was made for one path is not widened by who its owner is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import sha256

from dome_bridge.auth import groups, scopes
from dome_bridge.auth.claims import Claims
from dome_bridge.auth.principal import ValidToken
from dome_bridge.auth.scopes import Area, Grants, Scopes
from dome_bridge.auth.trace import Trace, untold
from dome_bridge.config_auth import IssuerConfig

HOST_SCOPE = "host.auth"

_MAX_NAME_BYTES = 255


def entitled(
    claims: Mapping[str, object],
    checked: Claims,
    *,
    kid: str,
    issuer: IssuerConfig,
    area: Area,
    hosts: Collection[str] = (),
    trace: Trace = untold,
) -> ValidToken:
    """hosts: subjects to whom the scope `host.auth` is of use, some with their issuer's name before them.

    Raises AuthError 401 for scopes or groups.
    """
    scope = claims.get("scope", "")
    found = scopes.parse_scopes(scope)
    trace("S1", "its scopes are %a", scope)
    trace("S3", "the paths of its storage capabilities are in order, there are %d", len(found.storage))
    named = groups.parse_groups(claims.get("wlcg.groups", []))
    trace("G1", "its groups are %a", named)
    counted = _counted(found, issuer)
    return ValidToken(
        issuer=issuer.name,
        sub=checked.sub,
        jti=checked.jti,
        kid=kid,
        expires=checked.expires,
        jwt_name=jwt_name(issuer.name, checked.sub),
        username=_user(issuer, checked.sub),
        groups=_groups(named, found, issuer, trace),
        vo_groups=groups.usable(issuer.groups),
        grants=Grants(area, counted.storage, counted.has_capability),
        has_capability=counted.has_capability,
        is_host=_is_host(checked.sub, issuer, hosts) and HOST_SCOPE in str(scope).split(" "),
    )


def jwt_name(issuer: str, sub: str) -> str:
    """By which a token's subject is known whatever it is mapped to; it fits into a column of names."""
    name = f"jwt:{issuer}:{sub}"
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    return f"jwt:{issuer}:sha256:{sha256(sub.encode()).hexdigest()}"


def _user(issuer: IssuerConfig, sub: str) -> str:
    return issuer.subject_map.get(sub) or issuer.username or jwt_name(issuer.name, sub)


def _is_host(sub: str, issuer: IssuerConfig, hosts: Collection[str]) -> bool:
    return sub.startswith("host:") and (sub in hosts or f"{issuer.name}:{sub}" in hosts)


def _counted(found: Scopes, issuer: IssuerConfig) -> Scopes:
    return Scopes() if issuer.mode == "group" else found


def _groups(named: tuple[str, ...], found: Scopes, issuer: IssuerConfig, trace: Trace) -> tuple[str, ...]:
    if found.has_capability:
        trace("G5", "it has a capability, so that groups do not count")
        return ()
    if issuer.mode == "capability":
        trace("G2", "groups of this issuer do not count, by its mode")
        return ()
    usable = groups.mapped(named, issuer.vo, issuer.allowed_groups, issuer.group_map)
    trace("G6", "groups of DPM that it stands for: %a", usable)
    return usable
