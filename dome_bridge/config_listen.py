"""Where the DOME API listens: what the keys of [[api.listen]], [api.proxied] and [api.tls] mean together."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dome_bridge.config_auth import AuthConfig, TlsConfig
from dome_bridge.config_keys import nth
from dome_bridge.config_secrets import GROUP_AND_OTHERS, refuse_if_open
from dome_bridge.config_sections import ApiConfig, ListenConfig, ProxiedConfig
from dome_bridge.errors import ConfigError

TLS_PROTOCOLS = frozenset({"https", "mixed"})
PLAIN_PROTOCOLS = frozenset({"http", "mixed"})


def listeners(given: Sequence[Mapping[str, Any]], where: str) -> tuple[ListenConfig, ...]:
    listeners: list[ListenConfig] = []
    for number, one in enumerate(given, 1):
        listener = _listener(one, f"{nth(where, number, len(given), one)}: api.listen")
        if listener.place in [other.place for other in listeners]:
            raise ConfigError(f"{where}: api.listen: two listeners on {listener.place}: remove one of them")
        listeners.append(listener)
    return tuple(listeners)


def _listener(given: Mapping[str, Any], where: str) -> ListenConfig:
    listener = ListenConfig(**given)
    if listener.unix_socket is None:
        if not listener.port:
            raise ConfigError(f"{where}: nowhere to listen: add port = 8094, or a unix_socket")
    elif both := [name for name in ("address", "port") if name in given]:
        raise ConfigError(f"{where}: {both[0]} and unix_socket are both given: keep one of them")
    _check_reach(listener, where)
    _check_upstream(listener, where)
    return listener


def _check_reach(listener: ListenConfig, where: str) -> None:
    if listener.unix_socket is not None:
        if listener.protocol != "proxied":
            raise ConfigError(
                f"{where}.unix_socket: only a proxied listener may have a socket, this one is"
                f" {listener.protocol}: give it an address and a port"
            )
    elif listener.protocol == "proxied" and not ipaddress.ip_address(listener.address).is_loopback:
        raise ConfigError(
            f"{where}.address: a proxied listener must be on the loopback interface or a unix_socket, got"
            f" {listener.address}: whoever reaches it can claim to be any DN; listen on 127.0.0.1 or ::1"
        )


def _check_upstream(listener: ListenConfig, where: str) -> None:
    upstream = listener.xrootd_upstream
    if upstream is None:
        return
    if listener.protocol != "mixed":
        raise ConfigError(
            f"{where}.xrootd_upstream: only a mixed listener passes xrootd on, this one is"
            f' {listener.protocol}: remove the key, or set protocol = "mixed"'
        )
    if upstream.port == listener.port and upstream.host in (listener.address, "localhost"):
        raise ConfigError(
            f"{where}.xrootd_upstream: {upstream} is this listener itself: name the port that xrootd has"
        )


def proxied(given: Mapping[str, Any], where: str) -> ProxiedConfig:
    proxied = ProxiedConfig(**given)
    if len({proxied.verify_header, proxied.dn_header, proxied.cert_header}) < 3:
        raise ConfigError(f"{where}: api.proxied: two of its headers are the same: give each its own name")
    return proxied


def check_listeners(api: ApiConfig, auth: AuthConfig, where: str) -> None:
    """What the listeners of an enabled API need beside their own keys."""
    if not api.listen:
        raise ConfigError(
            f"{where}: api.enabled is true but nothing listens: add the three lines"
            ' `[[api.listen]]`, `port = 8094`, `protocol = "proxied"`'
        )
    for listener in api.listen:
        if listener.protocol in PLAIN_PROTOCOLS and not auth.xrdhttp_secret:
            raise ConfigError(
                f"{where}: api.listen: {listener.protocol} on {listener.place} takes signed requests, but"
                " there is no key to check them with: add auth.xrdhttp_secret_file"
            )
    if any(listener.protocol in TLS_PROTOCOLS for listener in api.listen):
        _check_key_pair(api.tls, where)


def _check_key_pair(tls: TlsConfig, where: str) -> None:
    """Whether there is one, and closed. Only the server needs to read it, not every command."""
    for name in ("certificate", "key"):
        file: Path = getattr(tls, name)
        try:
            file.stat()
        except OSError as error:
            raise ConfigError(
                f"{where}: api.tls.{name}: {file} cannot be read ({error.strerror}): a listener with TLS"
                " needs it; name the right file"
            ) from error
    refuse_if_open(tls.key, GROUP_AND_OTHERS, f"{where}: api.tls.key")
