"""The groups that VOMS attributes and tokens name, as groups of DPM.

Order is kept everywhere: the first group is the primary one, which new entries get and whose ban counts.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping

from dome_bridge.auth.refusal import AuthError, Reason

logger = logging.getLogger(__name__)

MAX_GROUPS = 128
MAX_NAME_BYTES = 255

_GROUP = re.compile(r"(?:/[a-zA-Z0-9][a-zA-Z0-9_.-]*)+")
_NULLS = re.compile(r"/Role=NULL(?=(?:/Capability=[^/]*)?\Z)|/Capability=NULL\Z")


def group_of_fqan(fqan: str) -> str:
    """The name of a group in DPM: without the leading slash and the parts that say nothing (V7)."""
    return _NULLS.sub("", fqan).removeprefix("/")


def is_root(name: str) -> bool:
    """Whether a name is the system's group, however the database may compare names (G7)."""
    return group_of_fqan(name).strip().casefold() == "root"


def usable(names: Iterable[str]) -> tuple[str, ...]:
    """Groups of DPM, each once and never root. Raises AuthError 403 for a name that is too long (U4)."""
    found = tuple(dict.fromkeys(name for name in names if not is_root(name)))
    for name in found:
        if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES:
            raise AuthError(
                403,
                "U4",
                Reason.GROUP,
                f"the group that begins with {name[:100]!a} is longer than {MAX_NAME_BYTES} bytes",
            )
    return found


def parse_groups(claim: object) -> tuple[str, ...]:
    """The claim `wlcg.groups` as it stands. Raises AuthError 401 (G1). Without a claim: pass []."""
    if not isinstance(claim, list):
        raise _malformed("the claim wlcg.groups is not an array")
    if len(claim) > MAX_GROUPS:
        raise AuthError(401, "G1", Reason.TOO_LARGE, f"the token has more than {MAX_GROUPS} groups")
    for group in claim:
        if not (isinstance(group, str) and _GROUP.fullmatch(group)):
            raise _malformed("an element of wlcg.groups is no group name")
    return tuple(claim)


def mapped(
    groups: Iterable[str], vo: str, allowed: Collection[str], group_map: Mapping[str, str]
) -> tuple[str, ...]:
    """The DPM groups of a token's: those of the issuer's VO, and of `allowed` unless that is empty.

    An allowed group stands for itself and those below it; with a slash at its end, only for those.
    """
    groups = tuple(groups)
    own = [group for group in groups if _is_in(group, f"/{vo}")]
    kept = [group for group in own if not allowed or any(_is_in(group, top) for top in allowed)]
    if len(kept) < len(groups):
        logger.warning(
            "groups of a token are not its issuer's to give vo=%s dropped=%s",
            vo,
            ",".join(group for group in groups if group not in kept),
        )
    return usable(group_of_fqan(group_map.get(group, group)) for group in kept)


def _is_in(group: str, top: str) -> bool:
    return group == top or group.startswith(top.rstrip("/") + "/")


def _malformed(problem: str) -> AuthError:
    return AuthError(401, "G1", Reason.MALFORMED, problem)
