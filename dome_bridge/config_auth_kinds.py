"""What the keys of [auth], [[auth.issuer]] and the listeners take, beside the kinds of `config_kinds`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple
from urllib.parse import urlsplit

from dome_bridge.auth.dn import canonical
from dome_bridge.auth.groups import group_of_fqan, is_root, parse_groups
from dome_bridge.auth.refusal import AuthError
from dome_bridge.auth.scopes import Area
from dome_bridge.config_kinds import Kind, any_text, array, host_name, one_of, one_text, several

ALWAYS_ADMITTED = ("RS256", "ES256")
ALGORITHMS_KNOWN = (
    *ALWAYS_ADMITTED,
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES384",
    "ES512",
)
MAX_NAME_BYTES = 255

Network = IPv4Network | IPv6Network


class Endpoint(NamedTuple):
    """host: a name or an IP address, without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _endpoint(value: object) -> Endpoint | None:
    text = any_text(value)
    if not text:
        return None
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+)):(\d{1,5})", text, re.ASCII)
    if match is None or not 0 < int(match[3]) < 65536:
        raise ValueError("not of the form host:port")
    if match[1]:
        return Endpoint(str(ipaddress.IPv6Address(match[1])), int(match[3]))
    return Endpoint(host_name(match[2]), int(match[3]))


def _lower_host(value: object) -> str:
    return host_name(value).lower()


def _host_and_perhaps_port(value: object) -> str:
    text = one_text(value).lower()
    host, colon, port = text.partition(":")
    if colon and not (re.fullmatch(r"\d{1,5}", port, re.ASCII) and 0 < int(port) < 65536):
        raise ValueError("not of the form host or host:port")
    return f"{host_name(host)}{colon}{port}"


def _same_servers(value: object) -> tuple[tuple[str, ...], ...]:
    groups = tuple(tuple(dict.fromkeys(map(_lower_host, array(group)))) for group in array(value))
    if any(len(group) < 2 for group in groups):
        raise ValueError("each array in it needs two names or more")
    names = [name for group in groups for name in group]
    if len(set(names)) < len(names):
        raise ValueError("a name stands in two of its arrays")
    return groups


def _network(value: object) -> Network:
    text = one_text(value)
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(str(error)) from None


def _networks(value: object) -> tuple[Network, ...]:
    return tuple(dict.fromkeys(map(_network, array(value))))


def _algorithms(value: object) -> tuple[str, ...]:
    given = [any_text(one) for one in array(value)]
    for name in given:
        if name not in ALGORITHMS_KNOWN:
            raise ValueError(f"{name[:20]!r} cannot be admitted")
    return tuple(dict.fromkeys((*ALWAYS_ADMITTED, *given)))


def _audience(value: object) -> str:
    text = any_text(value)
    if not text or not text.isprintable() or text != text.strip():
        raise ValueError("an audience is text without blanks around it")
    return text


def _issuer_name(value: object) -> str:
    text = any_text(value)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", text):
        raise ValueError
    return text


def _vo_name(value: object) -> str:
    text = any_text(value)
    if text and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}", text):
        raise ValueError
    return text


def _https_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if not text.startswith("https://") or not parts.hostname or port == 0:
        raise ValueError("it must begin with https:// and a host")
    if parts.query or parts.fragment or "@" in parts.netloc or text[-1:] in "?#":
        raise ValueError("without account, query and fragment")
    return text


def _issuer_url(value: object) -> str:
    text = one_text(value)
    if not text.isascii() or "\\" in text:
        raise ValueError("a URL is ASCII")
    return _https_url(text)


def _jwks_uri(value: object) -> str:
    text = any_text(value)
    if not text:
        return ""
    one_text(text)
    if text.startswith("file:"):
        if not re.fullmatch(r"file:(?://)?/[^/?#][^?#]*", text):
            raise ValueError("a file is named file:///absolute/path")
        return text
    return _https_url(text)


def _user_name(value: object) -> str:
    text = _plain_name(value)
    # DPM's database has one form of each DN.
    return _short_enough(canonical(text) if text.startswith("/") else text)


def _group_name(value: object) -> str:
    text = _plain_name(value)
    if "," in text:
        raise ValueError("a group has no comma")
    return _short_enough(group_of_fqan(text))


def _plain_name(value: object) -> str:
    text = any_text(value)
    if not text or not text.isprintable() or text != text.strip():
        raise ValueError("a name is text without blanks around it")
    if is_root(text):
        raise ValueError("nothing may be mapped to root")
    return text


def _short_enough(name: str) -> str:
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"a name has at most {MAX_NAME_BYTES} bytes")
    return name


def _optional_user(value: object) -> str:
    return _user_name(value) if value != "" else ""


def _token_group(value: object) -> str:
    try:
        return parse_groups([value])[0]
    except AuthError:
        raise ValueError("a group of a token is written /vo or /vo/group") from None


def _token_group_or_below(value: object) -> str:
    text = any_text(value)
    return _token_group(text.removesuffix("/")) + text[len(text.removesuffix("/")) :]


def _subject(value: object) -> str:
    text = any_text(value)
    if not 0 < len(text) <= 255 or not text.isascii() or not text.isprintable():
        raise ValueError("a sub is printable ASCII, 1 to 255 characters")
    return text


def _host_subject(value: object) -> str:
    """With the issuer before it, if one is named."""
    issuer, mark, host = any_text(value).rpartition("host:")
    if not mark or (issuer and not issuer.endswith(":")):
        raise ValueError("a host's sub is written host:<name>, or <issuer>:host:<name>")
    prefix = f"{_issuer_name(issuer[:-1])}:" if issuer else ""
    return f"{prefix}host:{host_name(host)}"


def _table(label: str, left: Callable[[object], str], right: Callable[[object], str]) -> Kind:
    def parse(value: object) -> Mapping[str, str]:
        if not isinstance(value, Mapping):
            raise ValueError
        return {left(key): right(one) for key, one in value.items()}

    return Kind(label, parse)


def _base_paths(value: object) -> tuple[str, ...]:
    paths = (value,) if isinstance(value, str) else tuple(dict.fromkeys(map(any_text, array(value))))
    return Area(paths).base_paths


ENDPOINT = Kind("host:port, or empty", _endpoint)
LOWER_HOST_NAMES = several("array of host names", _lower_host)
JWKS_HOSTS = several("array of host or host:port", _host_and_perhaps_port)
SAME_SERVERS = Kind("array of arrays of host names", _same_servers)
NETWORKS = Kind("array of networks such as 192.0.2.0/24", _networks)
ALGORITHMS = Kind(f"array of {', '.join(ALGORITHMS_KNOWN)}", _algorithms)
AUDIENCES = several("array of audiences", _audience)
ISSUER_NAME = Kind("name of a-z, 0-9, _ and -, at most 32 characters", _issuer_name)
VO_NAME = Kind("name of a VO, or empty", _vo_name)
ISSUER_URL = Kind("https:// URL", _issuer_url)
JWKS_URI = Kind("https: or file: URL, or empty", _jwks_uri)
BASE_PATHS = Kind("absolute path other than /, or array of them", _base_paths)
EXCLUDE_PATHS = several("array of absolute paths", any_text)
USER_OR_EMPTY = Kind("name of a user, or empty", _optional_user)
GROUPS = several("array of groups", _group_name)
TOKEN_GROUPS = several("array of groups such as /vo/group", _token_group_or_below)
SUBJECT_MAP = _table("table of sub = user", _subject, _user_name)
GROUP_MAP = _table("table of token's group = group", _token_group, _group_name)
HOST_SUBJECTS = several("array of host:<name>", _host_subject)
CRL_POLICY = one_of("require", "if-present", "off")
LIMITED_PROXY = one_of("data-only", "deny")
USER_KEY = one_of("dn", "dn+ca")
MODE = one_of("capability+group", "capability", "group")
