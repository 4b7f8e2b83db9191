"""Who is believed: [auth] and [[auth.issuer]] from the file, with what DPM's own file adds to them."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dome_bridge.auth.groups import is_root
from dome_bridge.auth.scopes import Area
from dome_bridge.config_auth import AuthConfig, IssuerConfig
from dome_bridge.config_auth_kinds import AUDIENCES, BASE_PATHS, ISSUER_URL, VO_NAME
from dome_bridge.config_keys import nth
from dome_bridge.config_kinds import subject
from dome_bridge.config_secrets import SIGNING_KEY_LENGTH, read_signing_key, warn_if_loose
from dome_bridge.dpm.domehead import DomeheadConf
from dome_bridge.errors import ConfigError

logger = logging.getLogger(__name__)

AUTHORIZED = "glb.auth.authorizeDN"
SIGNING_KEY = "glb.restclient.xrdhttpkey"
ALLOWED_AUDIENCE = "head.oidc.allowaudience"
ALLOWED_ISSUER = "head.oidc.allowissuer"

_DEMANDED = {
    "name": 'a short one such as name = "atlas"',
    "issuer": "the `iss` of its tokens, to the letter",
    "base_path": "the directory that its tokens are for",
}


def auth_config(
    given: Mapping[str, Any], head: DomeheadConf, where: str, *, serves: bool = True
) -> AuthConfig:
    """given: with those keys of DPM's file that have one of their own there."""
    settings = dict(given)
    tables = settings.pop("issuer", None)
    issuers = _inherited_issuers(head) if tables is None else tables
    settings["issuers"] = _issuers(issuers, where)
    settings["authorize_dn"] = tuple(
        dict.fromkeys((*given.get("authorize_dn", ()), *_listed(head, AUTHORIZED, subject)))
    )
    if "audience" not in given:
        settings["audience"] = tuple(_listed(head, ALLOWED_AUDIENCE, _audience))
    settings["xrdhttp_secret"] = _signing_key(given, "xrdhttp_secret_file", where, serves) or head.values.get(
        SIGNING_KEY, ""
    )
    settings["xrdhttp_old_secret"] = _signing_key(given, "xrdhttp_old_secret_file", where, serves)
    if settings["xrdhttp_old_secret"] and not settings["xrdhttp_secret"]:
        raise ConfigError(
            f"{where}: auth.xrdhttp_old_secret_file is given, but no key that is in use:"
            " add auth.xrdhttp_secret_file"
        )
    return AuthConfig(**settings)


def _signing_key(given: Mapping[str, Any], name: str, where: str, serves: bool) -> str:
    file = given.get(name)
    return read_signing_key(file, f"{where}: auth.{name}", serves=serves) if file else ""


def check_inherited_key(auth: AuthConfig, head: DomeheadConf) -> None:
    """That of DPM's file, as a file of its own is checked when it is read. XrdHttp takes no shorter one."""
    length = len(auth.xrdhttp_secret)
    if 0 < length < SIGNING_KEY_LENGTH:
        raise ConfigError(
            f"{head.source}: {SIGNING_KEY}: has {length} characters, XrdHttp takes no key of fewer than"
            f" {SIGNING_KEY_LENGTH}: give all servers a longer one, here or in auth.xrdhttp_secret_file"
        )
    if length and auth.xrdhttp_secret_file is None:
        warn_if_loose(Path(head.source))


def _listed(head: DomeheadConf, origin: str, parse: Callable[[str], str]) -> Iterator[str]:
    for text in head.lists.get(origin, ()):
        try:
            yield parse(text)
        except ValueError as error:
            _warn_unusable(head, origin, text, error)


def _warn_unusable(head: DomeheadConf, origin: str, text: str, error: ValueError) -> None:
    logger.warning(
        "an entry of domehead.conf counts for nothing key=%s file=%s value=%r reason=%s",
        f"{origin}[]",
        head.source,
        text,
        error,
    )


def _audience(text: str) -> str:
    (audience,) = AUDIENCES.parse([text.strip('" ')])
    return str(audience)


def _issuers(given: Sequence[Mapping[str, Any]], where: str) -> tuple[IssuerConfig, ...]:
    issuers: list[IssuerConfig] = []
    for number, one in enumerate(given, 1):
        issuer = _issuer(one, nth(where, number, len(given), one))
        for other in issuers:
            _check_distinct(issuer, other, where)
        issuers.append(issuer)
    return tuple(issuers)


def _issuer(given: Mapping[str, Any], where: str) -> IssuerConfig:
    for name, remedy in _DEMANDED.items():
        if not given.get(name):
            raise ConfigError(f"{where}: auth.issuer.{name} is missing: add {remedy}")
    plain = {name: value for name, value in given.items() if name != "map"}
    issuer = IssuerConfig(**plain, **given.get("map", {}))
    if is_root(issuer.vo):
        raise ConfigError(f"{where}: auth.issuer.vo: nothing may be mapped to root: name the VO")
    try:
        Area(issuer.base_path, issuer.exclude_paths)
    except ValueError as error:
        raise ConfigError(f"{where}: auth.issuer.exclude_paths: {error}") from None
    return issuer


def _check_distinct(issuer: IssuerConfig, other: IssuerConfig, where: str) -> None:
    for key in ("name", "issuer"):
        value = getattr(issuer, key)
        if value == getattr(other, key):
            raise ConfigError(f"{where}: auth.issuer.{key}: two tables have {value}: put them into one")


def _inherited_issuers(head: DomeheadConf) -> list[dict[str, Any]]:
    """The issuers that DPM's file allows. It does not name their VO: by DPM's custom the directory does."""
    paths: dict[str, list[str]] = {}
    for text in head.lists.get(ALLOWED_ISSUER, ()):
        try:
            path, url = _allowed_issuer(text)
        except ValueError as error:
            _warn_unusable(head, ALLOWED_ISSUER, text, error)
        else:
            paths.setdefault(url, []).append(path)
    names: list[str] = []
    for several in paths.values():
        names.append(_name_after(several[0], names))
    return [
        {"name": name, "vo": _vo_of(several[0]), "issuer": url, "base_path": tuple(several)}
        for name, (url, several) in zip(names, paths.items(), strict=True)
    ]


def _allowed_issuer(text: str) -> tuple[str, str]:
    found = re.fullmatch(r'\s*("?)(\S+?)\1\s+("?)(https:\S+?)\3\s*', text)
    if found is None:
        raise ValueError('not of the form "base path" "https:// URL of the issuer"')
    (path,) = BASE_PATHS.parse(found[2].rstrip("/"))
    return path, ISSUER_URL.parse(found[4])


def _name_after(path: str, taken: Sequence[str]) -> str:
    last = re.sub(r"[^a-z0-9_-]", "-", path.rpartition("/")[2].lower())
    name = last.lstrip("_-")[:28] or "issuer"
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)


def _vo_of(path: str) -> str:
    try:
        return str(VO_NAME.parse(path.rpartition("/")[2]))
    except ValueError:
        return ""
