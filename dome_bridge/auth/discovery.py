"""Where an issuer has its keys, and how they are fetched (D1 to D4).

Which addresses may be asked is decided here, what a fetch may cost in `issuer_http`. A document that an
issuer publishes can only lead to the issuer's own host or to hosts that the site has listed.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from yarl import URL

from dome_bridge.auth import keyset, strict_json
from dome_bridge.auth.keyset import KeySet, KeySetError
from dome_bridge.auth.trace import shown

MAX_DOCUMENT_BYTES = 256 * 1024

_OPENID = "/.well-known/openid-configuration"
# Whatever a resolver might take for a number is an address in disguise (127.1, 0x7f000001).
_NUMERIC_LABEL = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where the keys of an issuer come from. jwks_uri: https or file, "" for discovery."""

    name: str
    issuer: str
    jwks_uri: str = ""
    jwks_hosts: tuple[str, ...] = ()
    ca_file: Path | None = None
    allow_private_address: bool = False

    @property
    def file(self) -> Path | None:
        """The local file with the keys, if they come from one."""
        scheme, _, rest = self.jwks_uri.partition(":")
        if scheme != "file":
            return None
        return Path(os.fsdecode(unquote_to_bytes(rest.removeprefix("//"))))


class Answer(NamedTuple):
    """A web server's answer. max_age: seconds by its Cache-Control, if it has one."""

    status: int
    body: bytes
    max_age: float | None = None


class Fetched(NamedTuple):
    """A key set as it is now. max_age: for how many seconds its publisher says that it holds."""

    keys: KeySet
    max_age: float | None = None


Get = Callable[[URL], Awaitable[Answer]]
"""Fetches one document. Raises KeySetError."""


async def fetch(source: KeySource, get: Get) -> Fetched:
    """The issuer's keys as they are now. Raises KeySetError, which says of what document."""
    if source.file is not None:
        return Fetched(_loaded(await asyncio.to_thread(_read, source.file), source.jwks_uri))
    if source.jwks_uri:
        address = _checked(source.jwks_uri, "jwks_uri")
    else:
        address = key_set_address(source, await _metadata(source, get))
    answer = await get(address)
    _require_success(answer, address)
    return Fetched(_loaded(answer.body, str(address)), answer.max_age)


def metadata_addresses(issuer: str) -> tuple[URL, ...]:
    """Where the metadata may be, in the order to try."""
    base = _checked(issuer, "issuer")
    path = base.raw_path.rstrip("/")
    first = base.with_path(path + _OPENID, encoded=True)
    return (first, base.with_path(_OPENID + path, encoded=True)) if path else (first,)


def key_set_address(source: KeySource, metadata: bytes) -> URL:
    """The `jwks_uri` of a metadata document. Raises KeySetError if it is not one that may be asked."""
    try:
        members = strict_json.load_object(metadata)
    except ValueError as error:
        raise KeySetError(f"the metadata of {source.issuer} cannot be read: {error}") from None
    if members.get("issuer") != source.issuer:
        raise KeySetError(
            f"the metadata of {source.issuer} is that of the issuer {shown(members.get('issuer'))}:"
            " set `issuer` to the letter as the tokens have it"
        )
    jwks_uri = members.get("jwks_uri")
    if not isinstance(jwks_uri, str):
        raise KeySetError(f"the metadata of {source.issuer} has no jwks_uri: set it in the configuration")
    address = _checked(jwks_uri, f"jwks_uri of {source.issuer}")
    if not _is_listed(address, source):
        raise KeySetError(
            f"the keys of {source.issuer} are at another host, {shown(address.authority)}:"
            " add it to jwks_hosts if that is right"
        )
    return address


def _is_listed(address: URL, source: KeySource) -> bool:
    issuer = URL(source.issuer)
    names = {(address.host or "").lower(), f"{address.host}:{address.port}".lower()}
    return (address.host, address.port) == (issuer.host, issuer.port) or not names.isdisjoint(
        host.lower() for host in source.jwks_hosts
    )


def _checked(text: str, what: str) -> URL:
    """An https URL of a named host, as it will be connected to."""
    try:
        url = URL(text)
        port = url.port
    except ValueError:
        raise KeySetError(f"{what} {shown(text)} is no URL") from None
    if url.scheme != "https" or not url.host or not port:
        raise KeySetError(f"{what} {shown(text)} is not https://host/…")
    if url.user is not None or url.password is not None or url.fragment:
        raise KeySetError(f"{what} {shown(text)} has an account or a fragment in it")
    if _is_address(url.raw_host or ""):
        raise KeySetError(f"{what} {shown(text)} has an IP address for a host: use its name")
    return url


def _is_address(host: str) -> bool:
    return ":" in host or _NUMERIC_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None


async def _metadata(source: KeySource, get: Get) -> bytes:
    for address in metadata_addresses(source.issuer):
        answer = await get(address)
        if answer.status != 404:
            _require_success(answer, address)
            return answer.body
    raise KeySetError(f"{source.issuer} has no metadata under its well-known addresses: set jwks_uri")


def _require_success(answer: Answer, address: URL) -> None:
    if 300 <= answer.status < 400:
        raise KeySetError(f"{address} redirects, which is not followed: set the final address")
    if answer.status != 200:
        raise KeySetError(f"{address} answers with status {answer.status}")


def _loaded(document: bytes, origin: str) -> KeySet:
    try:
        return keyset.load(document)
    except KeySetError as error:
        raise KeySetError(f"{origin}: {error}") from None


def _read(path: Path) -> bytes:
    try:
        # A pipe would wait for its writer for ever.
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise KeySetError(f"{path} is no ordinary file: set jwks_uri to one that holds a key set")
            document = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise KeySetError(f"{path} cannot be read ({error.strerror}): check path and permissions") from None
    if len(document) > MAX_DOCUMENT_BYTES:
        raise KeySetError(f"{path} is larger than {MAX_DOCUMENT_BYTES} bytes")
    return document


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
