"""gPlazma's decision on a login, from the text of its files: a small model of dCache's plugins.

Only what the bridge writes, and what a site is likely to add, is modelled: x509, voms and oidc, multimap,
banfile, omnisession. A file with another plugin in the phases auth, map or account is refused, because no
prediction would be worth anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from dome_bridge.errors import ConfigError
from dome_bridge.handover.multimap import MultiMap, Principal, principal, words

PHASES = ("auth", "map", "account", "session", "identity")
MODIFIERS = ("optional", "sufficient", "required", "requisite")

AUTH_PLUGINS: Mapping[str, frozenset[str]] = {
    "x509": frozenset({"dn"}),
    "voms": frozenset({"fqan"}),
    "oidc": frozenset({"oidc", "oidcgrp", "op", "email", "entitlement"}),
}
"""What principals they find in credentials."""

CLASSES: Mapping[str, str] = {
    "org.globus.gsi.gssapi.jaas.GlobusPrincipal": "dn",
    "javax.security.auth.kerberos.KerberosPrincipal": "kerberos",
    "org.dcache.auth.FQANPrincipal": "fqan",
    "org.dcache.auth.LoginNamePrincipal": "name",
    "org.dcache.auth.UserNamePrincipal": "username",
    "org.dcache.auth.UidPrincipal": "uid",
    "org.dcache.auth.GidPrincipal": "gid",
    "org.dcache.auth.GroupNamePrincipal": "group",
    "org.dcache.auth.EmailAddressPrincipal": "email",
    "org.dcache.auth.OidcSubjectPrincipal": "oidc",
}
BUILT_IN_ALIASES = ("dn", "kerberos", "fqan", "name")

GPLAZMA, BANS, SESSIONS = "gplazma.conf", "ban.conf", "omnisession.conf"

_ATTRIBUTE = re.compile(r"(?:root|home|prefix):/\S*|read-only|max-upload:\d+(?:\.\d+)?\s*[kMGTP]?i?B")

Principals = frozenset[Principal]


class Step(NamedTuple):
    """A line of gplazma.conf."""

    phase: str
    modifier: str
    plugin: str
    settings: Mapping[str, str]


class LoginRefusedError(Exception):
    """Why gPlazma says no."""


@dataclass(frozen=True)
class Login:
    """gids: all of them, the primary one too. ban: whether it is banned, "perhaps" where that depends on
    dCache's patch release.
    """

    username: str
    uid: int
    gid: int
    gids: frozenset[int]


def parse_steps(text: str) -> tuple[Step, ...]:
    """Raises ConfigError for a line that gPlazma would not understand."""
    return tuple(
        _parse_step(line, number)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip() and not line.lstrip().startswith("#")
    )


def _parse_step(line: str, number: int) -> Step:
    parts = line.split()
    settings = dict(part.partition("=")[::2] for part in parts[3:])
    if len(parts) < 3 or parts[0] not in PHASES or parts[1] not in MODIFIERS:
        raise ConfigError(f"{GPLAZMA}: line {number} is not `phase modifier plugin [key=value ...]`")
    return Step(parts[0], parts[1], parts[2], settings)


def parse_bans(text: str, *, keeps_last_only: bool) -> Principals:
    """Who is banned. keeps_last_only: as the plugin with the fault reads it, which has one ban for each type.

    Raises ConfigError: a bad line makes every login fail.
    """
    aliases = {name: name for name in BUILT_IN_ALIASES}
    bans: list[tuple[str, str]] = []
    for line in filter(None, (line.strip() for line in text.split("\n"))):
        if line.startswith("#"):
            continue
        if found := re.fullmatch(r"alias\s+([^:=]+)=(.*)", line):
            aliases[found[1].strip()] = _type_of_class(found[2].strip(), line)
        elif found := re.fullmatch(r"ban\s+([^:]+):(.*)", line):
            bans.append((found[1], found[2]))
        else:
            raise ConfigError(f"{BANS}: {line!r} is neither `alias name=class` nor `ban type:value`")
    named = [(aliases.get(kind) or _type_of_class(kind, kind), value) for kind, value in bans]
    return frozenset(
        Principal(kind, value) for kind, value in (dict(named).items() if keeps_last_only else named)
    )


def _type_of_class(name: str, where: str) -> str:
    try:
        return CLASSES[name]
    except KeyError:
        raise ConfigError(f"{BANS}: {where!r}: no such class or alias: add an alias for it") from None


class Sessions:
    """omnisession.conf: which attributes a login gets."""

    def __init__(self, rules: Iterable[tuple[Principal | None, tuple[str, ...]]]) -> None:
        self._rules = tuple(rules)

    @classmethod
    def parse(cls, text: str) -> Sessions:
        """Raises ConfigError: one bad line disables the whole file."""
        lines = [line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]
        try:
            return cls(_parse_session(line) for line in lines)
        except ValueError as exc:
            raise ConfigError(f"{SESSIONS}: {exc}: no login works with this file") from exc

    def attributes(self, principals: Principals) -> dict[str, str]:
        """By kind; the first line that fits gives it, DEFAULT those that are still missing."""
        fitting = [attributes for predicate, attributes in self._rules if predicate in principals]
        defaults = [attributes for predicate, attributes in self._rules if predicate is None]
        found: dict[str, str] = {}
        for attribute in (one for attributes in (*fitting, *defaults) for one in attributes):
            found.setdefault(attribute.partition(":")[0], attribute.partition(":")[2])
        return found


def _parse_session(line: str) -> tuple[Principal | None, tuple[str, ...]]:
    predicate, *attributes = words(line.strip())
    for attribute in attributes:
        if not _ATTRIBUTE.fullmatch(attribute):
            raise ValueError(f"{attribute!r} is no attribute")
    return (None if predicate == "DEFAULT" else principal(predicate)), tuple(attributes)


class Gplazma:
    """gPlazma with its files; `texts` by path below /etc/dcache."""

    def __init__(self, texts: Mapping[str, str], *, ban_file_keeps_last_only: bool = False) -> None:
        self.steps = parse_steps(_text(texts, GPLAZMA))
        self.maps: dict[str, MultiMap] = {}
        self._refuse_unknown()
        for step in self._of("map"):
            name = PurePosixPath(step.settings.get("gplazma.multimap.file", "multi-mapfile")).name
            self.maps[name] = MultiMap.parse(_text(texts, name))
        bans = texts.get(BANS, "")
        self._bans = parse_bans(bans, keeps_last_only=ban_file_keeps_last_only)
        self._sessions = Sessions.parse(_text(texts, SESSIONS))

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(f"{name}: {text}" for name, read in self.maps.items() for text in read.warnings)

    def login(self, presented: Iterable[Principal]) -> Login:
        """Raises LoginRefusedError."""
        principals = self._authenticated(frozenset(presented))
        principals = self._mapped(principals)
        login = _identity(principals)
        self._account(principals)
        self._session(principals)
        return login

    def _of(self, phase: str) -> list[Step]:
        return [step for step in self.steps if step.phase == phase]

    def _refuse_unknown(self) -> None:
        known = {"auth": AUTH_PLUGINS.keys(), "map": {"multimap"}, "account": {"banfile"}}
        for step in self.steps:
            if step.phase in known and step.plugin not in known[step.phase]:
                raise ConfigError(
                    f"{GPLAZMA}: the plugin {step.plugin} in the phase {step.phase} is not modelled: logins"
                    " cannot be rehearsed with it"
                )

    def _authenticated(self, presented: Principals) -> Principals:
        found: set[Principal] = set()

        def find(step: Step) -> None:
            mine = {one for one in presented if one.type in AUTH_PLUGINS[step.plugin]}
            if not mine:
                raise LoginRefusedError(f"{step.plugin}: no such credential")
            found.update(mine)

        _run(self._of("auth"), find)
        if not found:
            raise LoginRefusedError("no credential was recognised")
        return frozenset(found)

    def _mapped(self, principals: Principals) -> Principals:
        found = set(principals)

        def add(step: Step) -> None:
            name = PurePosixPath(step.settings.get("gplazma.multimap.file", "multi-mapfile")).name
            added = self.maps[name].map(found)
            if added is None:
                raise LoginRefusedError(f"no line of {name} fits")
            found.update(added)

        _run(self._of("map"), add)
        return frozenset(found)

    def _account(self, principals: Principals) -> None:
        def judge(step: Step) -> None:
            if not self._bans.isdisjoint(principals):
                raise LoginRefusedError("banned")

        _run(self._of("account"), judge)

    def _session(self, principals: Principals) -> None:
        plugins = {step.plugin for step in self._of("session")}
        found = self._sessions.attributes(principals) if "omnisession" in plugins else {}
        for kind in ("root", "home"):
            if kind not in found:
                raise LoginRefusedError(f"{SESSIONS} gives no {kind} directory")


def _run(steps: Iterable[Step], work: Callable[[Step], None]) -> None:
    """The modifiers, as in PAM. Raises LoginRefusedError."""
    failed: LoginRefusedError | None = None
    for step in steps:
        try:
            work(step)
        except LoginRefusedError as refusal:
            if step.modifier == "requisite":
                raise
            if step.modifier == "required":
                failed = failed or refusal
        else:
            if step.modifier == "sufficient":
                break
    if failed is not None:
        raise failed


def _identity(principals: Principals) -> Login:
    names = sorted({one.value for one in principals if one.type == "username"})
    uids = sorted({int(one.value) for one in principals if one.type == "uid"})
    gids = [one for one in principals if one.type == "gid"]
    primaries = sorted({int(one.value) for one in gids if one.is_primary})
    for what, found in (("user name", names), ("uid", uids), ("primary gid", primaries)):
        if len(found) != 1:
            given = ", ".join(map(str, found)) or "none"
            raise LoginRefusedError(f"exactly one {what} is needed, there is {given}")
    return Login(names[0], uids[0], primaries[0], frozenset(int(one.value) for one in gids))


def _text(texts: Mapping[str, str], name: str) -> str:
    try:
        return texts[name]
    except KeyError:
        raise ConfigError(f"{name} is missing: make it with `dome-bridge dcache-config`") from None
