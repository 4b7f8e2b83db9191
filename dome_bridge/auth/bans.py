"""Who is banned: by the status of users and groups in DPM's tables, and by a file of the site.

The file has one entry per line with its reason, see docs/reference/ban-file.md. What an entry is, a name,
a group or an address, is told from its form; a form that could be a slip of the pen is refused, and then
the whole file: half a list would look like a whole one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from dome_bridge.auth.dn import canonical, parse
from dome_bridge.auth.entitlements import jwt_name
from dome_bridge.auth.groups import group_of_fqan
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.errors import ConfigError

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_JWT_NAME = 255
"""Bytes; in the user name of a longer one there is a digest."""

REMEMBERED_NAMES = 4096

_QUOTED = re.compile(r'"(?P<value>[^"]+)"\s+(?:#\s*)?(?P<reason>[^\s#].*)')
_BARE = re.compile(r'(?P<value>[^"#\s].*?)\s+#\s*(?P<reason>\S.*)')
# Line ends in the strict sense: others that Python knows may stand in a name.
_LINE_END = re.compile(r"\r?\n")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

_SLASH_DN = re.compile(r"/(?:[A-Za-z][A-Za-z0-9.-]*|[0-9]+(?:\.[0-9]+)+)=")
_RFC_DN = re.compile(r"(?:[A-Za-z][A-Za-z0-9-]*|(?:[Oo][Ii][Dd]\.)?[0-9]+(?:\.[0-9]+)+) *=")
_JWT = re.compile(r"jwt:(?P<issuer>[a-z0-9][a-z0-9_-]{0,31}):(?P<sub>[\x20-\x7e]{1,255})")
_ADDRESS = re.compile(r"[0-9.]+(?:[/-].*)?|\[?[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*(?:[%/\]].*)?")
_NAME = r"[A-Za-z0-9_.@+-]+"
_GROUP = re.compile(rf"/?{_NAME}(?:/{_NAME})*(?:/Role={_NAME})?(?:/Capability={_NAME})?")

_NO_STATUS: Mapping[str, int] = MappingProxyType({})

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class BanFileError(ConfigError):
    """The ban file cannot be read, or a line of it makes no sense."""


class Ban(NamedTuple):
    """One line. value: a key of `Bans.names` or `Bans.groups`, or a network."""

    value: Hashable | Network
    reason: str


class _Prefix(NamedTuple):
    version: int
    length: int


@dataclass(frozen=True, slots=True)
class Bans:
    """What a ban file says; reasons by whom they are for.

    names: of subjects, as users or as CAs, and of tokens. groups: in DPM's form. networks: by version and
    length of the prefix, then by the prefix itself.
    """

    names: Mapping[Hashable, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[_Prefix, Mapping[int, str]] = field(default_factory=dict)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many entries there are of each sort."""
        addresses = sum(len(each) for each in self.networks.values())
        return {"names": len(self.names), "groups": len(self.groups), "addresses": addresses}

    def reason_against(
        self, names: Iterable[str], groups: Sequence[str] = (), address: str = ""
    ) -> str | None:
        """Why somebody is banned, None if he is not. names: in any form, of the CAs too. groups: the primary
        first, the others do not matter here.
        """
        found = [self.against_name(name) for name in names]
        found += [self.against_group(group) for group in groups[:1]]
        found.append(self.against_address(address))
        return next((reason for reason in found if reason is not None), None)

    def against_name(self, name: str) -> str | None:
        return self.names.get(_name_key(name)) if self.names and name else None

    def against_group(self, group: str) -> str | None:
        return self.groups.get(group_of_fqan(group))

    def against_address(self, text: str) -> str | None:
        """Of an address that stands in a network of the file; other text is in none."""
        address = address_of(text) if self.networks else None
        if address is None:
            return None
        for prefix, reasons in self.networks.items():
            if prefix.version == address.version:
                reason = reasons.get(_leading_bits(address, prefix.length))
                if reason is not None:
                    return reason
        return None


@dataclass(frozen=True, slots=True)
class Caller:
    """All that is known of whoever asks.

    names: the subject of the connection's certificate, the `jwt:` name, the user that it is mapped to or that
    is asserted. authorities: subjects of the CAs in the certificate's path. groups: the primary first.
    addresses: of the connection, and of the client that a trusted peer speaks for.
    """

    names: tuple[str, ...] = ()
    authorities: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


def unbanned_groups(
    caller: Caller,
    bans: Bans,
    user_status: Mapping[str, int] = _NO_STATUS,
    group_status: Mapping[str, int] = _NO_STATUS,
) -> tuple[str, ...]:
    """The groups that count for somebody who is not banned (B3). Raises AuthError 403 for one who is.

    user_status, group_status: those of the caller's names and groups that DPM's tables have a row for; 0 is
    not banned, whatever else there is bans (B1).
    """
    _refuse_by_file(caller, bans)
    for name in caller.names:
        if status := user_status.get(name, 0):
            raise _banned(_rule_of(name, "B1"), f"user {name!a}", f"status {status} in DPM's user table")
    kept = []
    for place, group in enumerate(caller.groups):
        reason = _against_group(group, bans, group_status)
        if reason is None:
            kept.append(group)
        elif place == 0:
            raise _banned("B3", f"primary group {group!a}", reason)
    return tuple(kept)


def _refuse_by_file(caller: Caller, bans: Bans) -> None:
    for address in caller.addresses:
        if (reason := bans.against_address(address)) is not None:
            raise _banned("B4", f"address {address!a}", reason)
    for authority in caller.authorities:
        if (reason := bans.against_name(authority)) is not None:
            raise _banned("B4", f"CA {authority!a}", reason)
    for name in caller.names:
        if (reason := bans.against_name(name)) is not None:
            raise _banned(_rule_of(name, "B4"), f"user {name!a}", reason)


def _against_group(group: str, bans: Bans, group_status: Mapping[str, int]) -> str | None:
    if status := group_status.get(group, 0):
        return f"status {status} in DPM's group table"
    return bans.against_group(group)


def _rule_of(name: str, otherwise: str) -> str:
    return "B2" if name.startswith("jwt:") else otherwise


def _banned(rule: str, who: str, reason: str) -> AuthError:
    return AuthError(403, rule, Reason.BANNED, f"{who} is banned: {reason}")


def address_of(text: str) -> Address | None:
    """An IPv4 address in IPv6 clothes is taken out of them; None for what is no address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def load_bans(path: Path | None) -> Bans:
    """Blocking. Raises BanFileError. None: a site without such a file bans nobody by it."""
    if path is None:
        return Bans()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"it is longer than {MAX_FILE_BYTES} bytes: ban networks instead of addresses")
        return parse_bans(data.decode("utf-8-sig"))
    except OSError as exc:
        raise BanFileError(
            f"ban file {path}: it cannot be read ({exc.strerror}): make it readable for this account, or"
            " empty if nobody is to be banned"
        ) from exc
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise BanFileError(
            f"ban file {path}: line {line} is not UTF-8: write other bytes of a DN as \\xHH"
        ) from exc
    except ValueError as exc:
        raise BanFileError(f"ban file {path}: {exc}") from exc


def parse_bans(text: str) -> Bans:
    """Raises ValueError that names line, fault and remedy."""
    names: dict[Hashable, str] = {}
    groups: dict[str, str] = {}
    networks: dict[_Prefix, dict[int, str]] = {}
    for number, line in enumerate(_LINE_END.split(text), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            value, reason = _parse_line(line.strip())
        except ValueError as exc:
            raise ValueError(f"line {number}: {exc}") from exc
        if isinstance(value, Network):
            prefix = _Prefix(value.version, value.prefixlen)
            networks.setdefault(prefix, {})[_leading_bits(value.network_address, value.prefixlen)] = reason
        elif isinstance(value, str) and not value.startswith("jwt:"):
            groups[value] = reason
        else:
            names[value] = reason
    return Bans(names, groups, networks)


def _parse_line(line: str) -> Ban:
    if _CONTROL.search(line):
        raise ValueError("there is a control character: remove it, or write it as \\xHH if it is in a DN")
    found = (_QUOTED if line.startswith('"') else _BARE).fullmatch(line)
    if not found:
        raise ValueError('an entry is followed by " # " and the reason; quotes around an entry are closed')
    return Ban(_parse_value(found["value"].strip()), found["reason"].strip())


def _parse_value(value: str) -> Hashable | Network:
    if value.startswith("jwt:"):
        return _parse_jwt(value)
    if _SLASH_DN.match(value) or _RFC_DN.match(value):
        canonical(value)  # for what it refuses
        return parse(value)
    if _ADDRESS.fullmatch(value):
        return _parse_network(value)
    if not _GROUP.fullmatch(value):
        raise ValueError(
            f"{value[:100]!a} is no DN, jwt: name, group, FQAN, address or prefix; a reason begins after #"
        )
    return group_of_fqan(value)


def _parse_jwt(value: str) -> str:
    if not _JWT.fullmatch(value):
        raise ValueError(
            f"{value[:100]!a} is not jwt:, an issuer's name from the configuration, a colon and the subject"
        )
    return _jwt_key(value)


def _parse_network(value: str) -> Network:
    try:
        network = ipaddress.ip_network(value)
    except ValueError as exc:
        raise ValueError(
            f"{exc}: write an address, or a prefix such as 192.0.2.0/24 or 2001:db8::/32"
        ) from exc
    if network.prefixlen == 0:
        raise ValueError(f"{value} would ban everybody, the site's own servers too")
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped:
        raise ValueError(f"{value} stands for IPv4: write it in IPv4's own form")
    return network


def _leading_bits(address: Address, length: int) -> int:
    return int(address) >> (address.max_prefixlen - length)


@lru_cache(maxsize=REMEMBERED_NAMES)
def _name_key(name: str) -> Hashable:
    """The same for all forms of a name. What is no name at all stands for itself."""
    try:
        if name.startswith("jwt:"):
            return _jwt_key(name)
        return parse(name) if name.startswith("/") or _RFC_DN.match(name) else name
    except ValueError:
        return name


def _jwt_key(name: str) -> str:
    """The name by which users of tokens are known, for a subject that is too long the one with its digest."""
    if len(name) <= MAX_JWT_NAME:
        return name
    issuer, _, sub = name.removeprefix("jwt:").partition(":")
    return jwt_name(issuer, sub)
