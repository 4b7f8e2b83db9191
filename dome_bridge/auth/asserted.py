"""For whom a trusted peer calls: the headers `remoteclient…`, and who may send them.

Without a user a peer acts for itself. Clients of old with a built-in root context say so by the name
`root`, with or without the group `root`: nobody else is ever called so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from dome_bridge.auth.dn import canonical
from dome_bridge.auth.groups import group_of_fqan
from dome_bridge.auth.refusal import AuthError, Reason

ROOT = "root"
MAX_NAME_BYTES = 255

PREFIX = "remoteclient"
USER, GROUPS, HOST = f"{PREFIX}dn", f"{PREFIX}groups", f"{PREFIX}host"

_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_RFC_FORM = re.compile(r"[A-Za-z][A-Za-z0-9-]* *=")
_LABEL = r"[0-9A-Za-z_](?:[0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?")


def is_plain(value: str) -> bool:
    """Whether a header's value is UTF-8 text without control characters."""
    return not _UNFIT.search(value)


@dataclass(frozen=True, slots=True)
class Asserted:
    """What the headers say. has_identity: one of those that name somebody was there, even if empty."""

    user: str = ""
    groups: tuple[str, ...] = ()
    host: str = ""
    has_identity: bool = False

    @property
    def is_nobody(self) -> bool:
        """No user is named: the peer calls on its own account."""
        return self.user in ("", ROOT)

    @classmethod
    def from_headers(cls, headers: Iterable[tuple[str, str]]) -> Asserted:
        """Raises AuthError 400 for an identity that could be read in two ways."""
        found = _single(headers)
        groups = found.get(GROUPS, "")
        return cls(
            user=found.get(USER, ""),
            groups=tuple(filter(None, groups.split(","))),
            host=found.get(HOST, ""),
            has_identity=USER in found or GROUPS in found,
        )

    def checked(self) -> Asserted:
        """Of a trusted peer, with names in DPM's form. Raises AuthError 403, or 400 for a bad host."""
        if self.host and not _is_host(self.host):
            raise AuthError(400, "N4", Reason.MALFORMED, f"{HOST} is neither an address nor a host name")
        user = _canonical_user(self.user)
        groups = tuple(dict.fromkeys(map(group_of_fqan, self.groups)))
        if user in ("", ROOT):
            _require_root_alone(groups)
        elif is_root(user) or any(map(is_root, groups)):
            raise AuthError(
                403, "G7", Reason.GROUP, "nobody is called root, or in the group root, but the head"
            )
        for name in (user, *groups):
            if len(name.encode()) > MAX_NAME_BYTES:
                raise AuthError(403, "U4", Reason.NAME, f"a name is longer than {MAX_NAME_BYTES} bytes")
        return Asserted(user, groups, self.host, self.has_identity)


def is_root(name: str) -> bool:
    """Blanks and case are not told apart by every database."""
    return name.strip().lower() == ROOT


def _is_host(text: str) -> bool:
    """A host's name, or an IP address, with or without the brackets that xrootd puts around it."""
    if _HOST_NAME.fullmatch(text):
        return True
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ip_address(inner)
    except ValueError:
        return False
    return True


def _single(headers: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        name = name.lower()
        if not name.startswith(PREFIX):
            continue
        if name in found:
            raise AuthError(400, "N4", Reason.DUPLICATE, f"the header {name} is given twice")
        if not is_plain(value):
            raise AuthError(
                400, "N4", Reason.MALFORMED, f"the header {name} holds control characters or is not UTF-8"
            )
        # Only HTTP's own blanks: any other is part of a name, and a name of its own.
        found[name] = value.strip(" \t")
    return found


def _canonical_user(name: str) -> str:
    """What is no DN stays as it is: DPM has users of other names."""
    is_slash_form = name.startswith("/")
    if not is_slash_form and not _RFC_FORM.match(name):
        return name
    try:
        return canonical(name)
    except ValueError as exc:
        if not is_slash_form:
            return name
        raise AuthError(403, "N8", Reason.NAME, f"{USER} is no DN: {exc}") from exc


def _require_root_alone(groups: tuple[str, ...]) -> None:
    if groups not in ((), (ROOT,)):
        raise AuthError(403, "N4", Reason.GROUP, f"{GROUPS} without a user in {USER}")
