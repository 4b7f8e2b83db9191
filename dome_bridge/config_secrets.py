"""Passwords and keys: read from files of their own, and kept out of what is shown."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from dome_bridge.errors import ConfigError

logger = logging.getLogger(__name__)

SECRET_MODE = 0o640
SIGNING_KEY_LENGTH = 32
GROUP_AND_OTHERS = 0o077
OTHERS = 0o007


def redact(dsn: str) -> str:
    """A database URL with every password in it replaced by ***."""
    try:
        parts = urlsplit(dsn)
        parameters = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return "postgresql://***"
    account, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = account.partition(":")
    query = urlencode(
        [(name, "***" if _is_password(name) else value) for name, value in parameters], safe="*/,"
    )
    return f"{parts.scheme}://{user}{colon and ':***'}{at}{hosts}{parts.path}{query and '?' + query}"


def _is_password(parameter: str) -> bool:
    return "password" in parameter.lower()


def has_password(dsn: str) -> bool:
    parts = urlsplit(dsn)
    return bool(parts.password) or any(_is_password(name) for name, _ in parse_qsl(parts.query))


def with_secret(section: str, name: str, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`given` with the secret `name` read from its file, if the key for one is set."""
    file = given.get(f"{name}_file")
    if file is None:
        return dict(given)
    if given.get(name):
        raise ConfigError(
            f"{where}: {section}.{name} and {section}.{name}_file are both given: keep one of them"
        )
    return {**given, name: _read_secret(file, f"{where}: {section}.{name}_file")}


def _read_secret(file: Path, where: str) -> str:
    try:
        secret = re.sub(r"\r?\n\Z", "", file.read_bytes().decode())
    except OSError as error:
        raise ConfigError(
            f"{where}: {file} cannot be read ({error.strerror}): write it, readable by this account"
        ) from error
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: {file} is not UTF-8: write the password alone into it") from None
    if not secret or any(sign in secret for sign in "\0\n"):
        raise ConfigError(f"{where}: {file} must hold one line, the password: write it alone into it")
    warn_if_loose(file)
    return secret


def read_signing_key(file: Path, where: str, *, serves: bool = True) -> str:
    """The key in a file that XrdHttp's `http.secretkey` can name: its first line that is long enough.

    As XrdHttp does, whatever is no letter or digit is cut off both ends of a line first. Bytes that are not
    UTF-8 come as lone surrogates. serves: a file that is open to others is refused.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(
            f"{where}: {file} cannot be read ({error.strerror}): write it, readable by this account"
        ) from error
    keys = (re.sub(rb"\A[^0-9A-Za-z]+|[^0-9A-Za-z]+\Z", b"", line) for line in lines)
    key = next((key for key in keys if len(key) >= SIGNING_KEY_LENGTH), None)
    if key is None:
        raise ConfigError(
            f"{where}: {file} has no line with a key of {SIGNING_KEY_LENGTH} or more characters:"
            " write the one of http.secretkey into it"
        )
    if serves:
        refuse_if_open(file, OTHERS, where)
    warn_if_loose(file)
    return key.decode("utf-8", "surrogateescape")


def refuse_if_open(file: Path, to: int, where: str) -> None:
    """Raises ConfigError if any of the permission bits `to` is set: a key that others know is no key."""
    mode = file.stat().st_mode & 0o777
    if mode & to:
        whom = "group or others" if to == GROUP_AND_OTHERS else "others"
        raise ConfigError(
            f"{where}: {file} is open to {whom} (mode {mode:04o}): chmod it to 0600, and renew the key if"
            " somebody may have read it"
        )


def warn_if_loose(file: Path) -> None:
    mode = file.stat().st_mode & 0o777
    if mode & ~SECRET_MODE & 0o077:
        logger.warning("a secret is open to others, chmod it to 0640 file=%s mode=%04o", file, mode)
