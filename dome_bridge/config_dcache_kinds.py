"""What the keys of [dcache] take, beside the kinds of `config_kinds`."""

from __future__ import annotations

import re

from dome_bridge.config_kinds import Kind, any_text, host_name, several

_FQAN = r"(?:/[A-Za-z0-9_.@+-]+)+(?:/Role=[A-Za-z0-9_.@+-]+)?(?:/Capability=[A-Za-z0-9_.@+-]+)?"
_FQANS = re.compile(rf"{_FQAN}(?:,{_FQAN})*")
_TOKEN_GROUPS = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}:(?:/[A-Za-z0-9_.-]+)+(?:,(?:/[A-Za-z0-9_.-]+)+)*")


def _full_name(value: object) -> str:
    return host_name(value).lower() if value != "" else ""


def _account(value: object) -> str:
    text = any_text(value)
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", text):
        raise ValueError
    if text == "root":
        raise ValueError("pools must not run as root")
    return text


def _fqan_set(value: object) -> str:
    text = any_text(value)
    if not _FQANS.fullmatch(text):
        raise ValueError("a set is FQANs with commas between them, the primary one first")
    return text


def _token_group_set(value: object) -> str:
    text = any_text(value)
    if not _TOKEN_GROUPS.fullmatch(text):
        raise ValueError("a set is the name of an issuer, a colon, and groups with commas between them")
    return text


HOST_NAME = Kind("host name, or empty", _full_name)
ACCOUNT = Kind("name of an account", _account)
FQAN_SETS = several('array of sets such as "/vo/Role=production,/vo"', _fqan_set)
TOKEN_GROUP_SETS = several('array of sets such as "issuer:/vo/group,/vo"', _token_group_set)
