"""Settings that have changed in the file, but count only after a restart: for the log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from dome_bridge.config import Config

_NOT_SETTINGS = frozenset({"path", "domehead"})

_OF_AUTH = frozenset(
    {
        "gridmap_file",
        "ban_file",
        "xrdhttp_secret",
        "xrdhttp_secret_file",
        "xrdhttp_old_secret_file",
        "reload_seconds",
        "failures_per_second",
        "failures_burst",
        "connections_per_source",
        "handshakes",
        "handshake_seconds",
        "first_byte_seconds",
        "header_seconds",
        "body_seconds",
    }
)
"""Those that are made use of where something is opened; requests are judged by the others at once."""


def late_keys(before: Config, after: Config) -> Iterator[str]:
    """The names of the keys, with their tables."""
    for each in fields(Config):
        if each.name in _NOT_SETTINGS:
            continue
        for key in _changed(each.name, getattr(before, each.name), getattr(after, each.name)):
            table, _, name = key.partition(".")
            if table != "auth" or name in _OF_AUTH:
                yield key


def _changed(key: str, before: Any, after: Any) -> Iterator[str]:
    if before == after:
        return
    if not is_dataclass(before):
        yield key
        return
    for each in fields(before):
        yield from _changed(f"{key}.{each.name}", getattr(before, each.name), getattr(after, each.name))
