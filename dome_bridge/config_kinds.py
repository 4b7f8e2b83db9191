"""What a configuration key takes: the kinds of values, each with its check and its words.

`parse` turns TOML's value into ours or raises ValueError, perhaps with a reason; it never
quotes a secret.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit
from zoneinfo import available_timezones

from dome_bridge.auth.dn import canonical


@dataclass(frozen=True)
class Kind:
    """What a key takes. `parse` turns TOML's value into ours or raises ValueError, perhaps with a reason."""

    label: str
    parse: Callable[[object], Any]


def described(kind: Kind, doc: str, *, default: str | None = None) -> dict[str, Any]:
    """A field's metadata. `default` is for the reference where the value is only known on the machine."""
    return {"kind": kind, "doc": doc, "default": default}


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def any_text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


def one_text(value: object) -> str:
    text = any_text(value)
    if not text or any(sign.isspace() for sign in text):
        raise ValueError
    return text


def whole(low: int, high: int) -> Kind:
    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"whole number from {low} to {high}", parse)


def seconds(high: float = math.inf) -> Kind:
    def parse(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError
        if not (math.isfinite(value) and 0 < value <= high):
            raise ValueError
        return float(value)

    limit = "" if high == math.inf else f", at most {high:g}"
    return Kind(f"seconds, above 0{limit}", parse)


def _path(value: object) -> Path | None:
    text = any_text(value)
    if text and not text.startswith("/"):
        raise ValueError("it must begin with /")
    return Path(text) if text else None


def _socket(value: object) -> str:
    return str(_path(value) or "")


def _schema_name(value: object) -> str:
    text = one_text(value)
    if not re.fullmatch(r"[0-9A-Za-z_$-]{1,64}", text):
        raise ValueError
    return text


def iana_zone(value: object) -> str:
    name = one_text(value)
    # ZoneInfo alone would also open posix/…, right/… and whatever else lies in that directory.
    if name not in available_timezones():
        close = difflib.get_close_matches(name, available_timezones(), 1)
        raise ValueError(f"did you mean {close[0]}?" if close else "no such zone in this machine's tzdata")
    return name


def _dcache_version(value: object) -> str:
    if isinstance(value, float):
        raise ValueError("write it in quotes")
    text = one_text(value)
    if not re.fullmatch(r"\d{1,3}\.\d{1,3}", text, re.ASCII):
        raise ValueError
    if tuple(map(int, text.split("."))) < (7, 2):
        raise ValueError("older ones are not supported")
    return text


def _pool_dir(value: object) -> str:
    text = one_text(value)
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError:
        raise ValueError("a brace is not closed") from None
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise ValueError("only {fs} and {pool} are replaced")
    if {name for _, name, _, _ in parts if name is not None} != {"fs", "pool"}:
        raise ValueError("it needs {fs} and {pool}, and no other braces")
    # Hard links end at the border of a file system.
    if not text.startswith("{fs}/") or ".." in text.split("/"):
        raise ValueError("the pool must lie on the DPM file system: begin with {fs}/")
    return text


def _postgresql_url(value: object) -> str:
    text = one_text(value)
    # The reasons must not quote the URL: what urlsplit takes for a port may be half of a password.
    unescaped = "special characters of user and password must be percent-encoded"
    try:
        parts = urlsplit(text)
        parameters = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise ValueError(unescaped) from None
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError("it must begin with postgresql://")
    if parts.fragment or text.count("@") > 1 or "@" in parts.path + parts.query:
        raise ValueError(unescaped)
    if not _are_hosts(parts.netloc.rpartition("@")[2]):
        raise ValueError(f"host or port is wrong, or {unescaped}")
    if not (parts.path.strip("/") or parameters.get("dbname") or parameters.get("database")):
        raise ValueError("it names no database")
    return text


def _are_hosts(text: str) -> bool:
    hosts = [
        re.fullmatch(r"(?:\[[0-9a-fA-F:.]+\]|[^\[\]:]+)(?::(\d{1,5}))?", host) for host in text.split(",")
    ]
    return not text or all(host is not None and int(host[1] or 1) in range(1, 65536) for host in hosts)


def _file(value: object) -> Path:
    path = _path(value)
    if path is None:
        raise ValueError
    return path


def _socket_path(value: object) -> Path | None:
    path = _path(value)
    # sockaddr_un ends there.
    if path is not None and len(str(path).encode()) > 107:
        raise ValueError("longer than the 107 bytes that the name of a socket may have")
    return path


def _ip_address(value: object) -> str:
    """In its shortest form, so that equal ones compare equal."""
    try:
        return str(ipaddress.ip_address(one_text(value)))
    except ValueError:
        raise ValueError from None


def _url_prefix(value: object) -> str:
    text = one_text(value)
    if text.endswith("/"):
        raise ValueError("without / at the end")
    if not re.fullmatch(r"(?:/[0-9A-Za-z._~-]+)+", text):
        raise ValueError
    return text


def _header(value: object) -> str:
    """In lower case, since case does not count there."""
    text = one_text(value)
    # `token` of RFC 9110.
    if not re.fullmatch(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+", text):
        raise ValueError
    if text.lower().startswith("remoteclient"):
        raise ValueError("DOME's clients set that one themselves")
    return text.lower()


def host_name(value: object) -> str:
    text = one_text(value)
    if not re.fullmatch(r"[0-9A-Za-z_](?:[0-9A-Za-z._-]{0,251}[0-9A-Za-z_])?", text):
        raise ValueError("not a host name")
    return text


def subject(value: object) -> str:
    """A DN in canonical form, freed of the double quotes that DOME allows around one."""
    text = any_text(value).strip()
    quotes = text.startswith('"') + text.endswith('"')
    if quotes == 1 or text == '"':
        raise ValueError("a double quote is missing")
    if quotes:
        text = text[1:-1].strip()
    # A client without a certificate has the empty DN.
    if not text:
        raise ValueError("a DN is empty")
    return canonical(text)


class ServerAddress(NamedTuple):
    """server: as DPM's database writes it. host, port: where it is reached."""

    server: str
    host: str
    port: int


def _server_address(value: object) -> ServerAddress:
    """`disk1.example.org=192.0.2.1:1095`; an IPv6 address stands in brackets."""
    match = re.fullmatch(r"([^=]+)=(\[[0-9a-fA-F:.]+\]|[^:\[\]]+):(\d{1,5})", one_text(value), re.ASCII)
    if match is None or not 0 < int(match[3]) < 65536:
        raise ValueError("not of the form server=host:port")
    return ServerAddress(host_name(match[1]), match[2].strip("[]"), int(match[3]))


def _server_addresses(value: object) -> tuple[ServerAddress, ...]:
    addresses = tuple(map(_server_address, array(value)))
    if len({address.server for address in addresses}) < len(addresses):
        raise ValueError("a server stands there twice")
    return addresses


def array(value: object) -> Sequence[object]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError
    return value


def several(label: str, parse_one: Callable[[object], str]) -> Kind:
    def parse(value: object) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(parse_one, array(value))))

    return Kind(label, parse)


def one_of(*words: str) -> Kind:
    def parse(value: object) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return Kind(" or ".join(f'"{word}"' for word in words), parse)


FLAG = Kind("true or false", _flag)
TEXT = Kind("text without blanks", one_text)
FREE_TEXT = Kind("text", any_text)
PATH = Kind("absolute path, or empty", _path)
SOCKET = Kind("absolute path, or empty", _socket)
SCHEMA_NAME = Kind("name of a database", _schema_name)
ZONE = Kind("IANA time zone", iana_zone)
PORT = whole(1, 65535)
DSN = Kind("postgresql:// URL", _postgresql_url)
DCACHE_VERSION = Kind('dCache release such as "10.2", from 7.2 on', _dcache_version)
POOL_DIR = Kind("path with {fs} and {pool}", _pool_dir)
FILE = Kind("absolute path", _file)
SOCKET_PATH = Kind("absolute path, or empty", _socket_path)
IP_ADDRESS = Kind("IP address such as 127.0.0.1 or ::1", _ip_address)
URL_PREFIX = Kind("path such as /domehead", _url_prefix)
HEADER = Kind("name of an HTTP header", _header)
HOST_NAMES = several("array of host names", host_name)
SERVER_ADDRESSES = Kind("array of server=host:port", _server_addresses)
SUBJECTS = several("array of DNs", subject)
PROTOCOL = one_of("proxied", "mixed", "https", "http")
SCHEME = one_of("http", "https")
OVERBOOKED = one_of("refuse", "shrink")
