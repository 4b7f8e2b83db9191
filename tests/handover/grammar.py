"""Readers of dCache's files, written from their grammar and not from what writes them."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field


def meaningful(text: str) -> Iterator[str]:
    """Lines without comments and empty ones; a backslash at the end continues a line."""
    joined = re.sub(r"\\\n\s*", "", text)
    for line in joined.split("\n"):
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


def properties(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in meaningful(text):
        key, sign, value = line.partition("=")
        assert sign, line
        assert key.strip() not in found, f"{key} stands there twice"
        found[key.strip()] = value.strip()
    return found


@dataclass
class Service:
    name: str
    settings: dict[str, str] = field(default_factory=dict)


@dataclass
class Domain:
    name: str
    settings: dict[str, str] = field(default_factory=dict)
    services: list[Service] = field(default_factory=list)

    def service(self, name: str) -> Service:
        [found] = [service for service in self.services if service.name == name]
        return found


def layout(text: str) -> dict[str, Domain]:
    """Domains by name; a domain's own section comes before those of its services."""
    domains: dict[str, Domain] = {}
    settings: dict[str, str] | None = None
    for line in meaningful(text):
        if section := re.fullmatch(r"\[([A-Za-z0-9_.${}-]+)(?:/([a-z-]+))?\]", line):
            domain, service = section[1], section[2]
            if service is None:
                assert domain not in domains
                domains[domain] = Domain(domain)
                settings = domains[domain].settings
            else:
                domains[domain].services.append(Service(service))
                settings = domains[domain].services[-1].settings
        else:
            key, sign, value = line.partition("=")
            assert sign, line
            assert settings is not None
            assert key.strip() not in settings
            settings[key.strip()] = value.strip()
    return domains


@dataclass
class Link:
    ugroups: list[str]
    preferences: dict[str, int] = field(default_factory=dict)
    pgroups: list[str] = field(default_factory=list)


@dataclass
class PoolSelection:
    """PoolManager's selection unit, fed with its commands."""

    units: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    ugroups: dict[str, set[str]] = field(default_factory=dict)
    pools: set[str] = field(default_factory=set)
    pgroups: dict[str, set[str]] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    link_groups: dict[str, set[str]] = field(default_factory=dict)
    allowed: dict[str, dict[str, bool]] = field(default_factory=dict)
    regex: bool | None = None

    @classmethod
    def fed(cls, text: str) -> PoolSelection:
        selection = cls()
        for line in meaningful(text):
            psu, verb, what, *arguments = line.split()
            assert psu == "psu", line
            getattr(selection, f"_{verb}")(what, *arguments)
        return selection

    def _set(self, what: str, *arguments: str) -> None:
        if what == "regex":
            self.regex = arguments == ("on",)
        elif what == "allpoolsactive":
            assert arguments == ("off",)
        elif what == "link":
            for argument in arguments[1:]:
                name, _, value = argument.removeprefix("-").partition("=")
                assert name in {"readpref", "writepref", "cachepref", "p2ppref"}
                self.links[arguments[0]].preferences[name] = int(value)
        else:
            assert what == "linkGroup"
            flag, group, value = arguments
            assert flag.removesuffix("Allowed") in {"online", "nearline", "replica", "output", "custodial"}
            self.allowed[group][flag] = {"true": True, "false": False}[value]

    def _create(self, what: str, *arguments: str) -> None:
        if what == "unit":
            kind, unit = arguments
            assert kind in {"-net", "-store", "-protocol", "-dcache"}
            assert unit not in self.units[kind]
            if kind == "-store":
                assert re.fullmatch(r"(?:[^\s:@]+:[^\s:@]+|\*)@[^\s:@]+", unit), unit
            self.units[kind].add(unit)
        elif what == "link":
            name, *ugroups = arguments
            assert set(ugroups) <= set(self.ugroups)
            assert name not in self.links
            self.links[name] = Link(ugroups)
        elif what == "pool":
            assert re.fullmatch(r"[A-Za-z0-9_.-]+", arguments[0])
            self.pools.add(arguments[0])
        elif what == "linkGroup":
            self.link_groups[arguments[0]] = set()
            # A new one allows all but ONLINE.
            self.allowed[arguments[0]] = {"onlineAllowed": False}
        else:
            groups = {"ugroup": self.ugroups, "pgroup": self.pgroups}[what]
            assert arguments[0] not in groups
            groups[arguments[0]] = set()

    def _addto(self, what: str, group: str, member: str) -> None:
        if what == "ugroup":
            assert any(member in units for units in self.units.values()), member
            self.ugroups[group].add(member)
        elif what == "pgroup":
            assert member in self.pools
            self.pgroups[group].add(member)
        elif what == "link":
            assert member in self.pgroups
            self.links[group].pgroups.append(member)
        else:
            assert what == "linkGroup"
            assert member in self.links
            self.link_groups[group].add(member)

    def select(self, preference: str, store_class: str) -> set[str]:
        """Pools that a request may go to; store_class as `store:group`."""
        unit = self.store_unit(store_class)
        if unit is None:
            return set()
        fitting = [link for link in self.links.values() if self._fits(link, unit)]
        return {
            pool
            for link in fitting
            if link.preferences[preference] > 0
            for pgroup in link.pgroups
            for pool in self.pgroups[pgroup]
        }

    def store_unit(self, store_class: str) -> str | None:
        """With `regex off`: the one named exactly so, else the one for all."""
        wanted = (f"{store_class}@osm", "*@osm", "*@*")
        return next((unit for unit in wanted if unit in self.units["-store"]), None)

    def _fits(self, link: Link, store: str) -> bool:
        members = set().union(*(self.ugroups[ugroup] for ugroup in link.ugroups))
        return store in members and "*/*" in members and {"0.0.0.0/0.0.0.0", "::/0"} <= members


def link_group_authorization(text: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in text.split("\n"):
        if line.startswith("#"):
            continue
        if not line.strip():
            current = None
        elif found := re.fullmatch(r"LinkGroup (\S+)", line):
            current = groups.setdefault(found[1], [])
        else:
            assert current is not None, line
            assert re.fullmatch(r"(?:/[\w.-]+)+(?:/Role=(?:[\w.-]+|\*))?", line), line
            current.append(line)
    return groups


NaiveMap = list[tuple[str, list[str]]]


def multi_map(text: str) -> NaiveMap:
    """First word and targets of every line; every line must make sense."""
    lines = []
    for line in text.split("\n"):
        if line.strip() and not line.strip().startswith("#"):
            first, *targets = shlex.split(line)
            assert targets, line
            for word in (first, *targets):
                assert re.match(r"(dn|email|gid|group|fqan|kerberos|oidc|oidcgrp|uid|username|op):.", word), (
                    word
                )
            lines.append((first, targets))
    return lines


def naive_mapping(lines: NaiveMap, presented: set[str]) -> set[str] | None:
    """The rules word by word: all lines apply, `,true` asks for the primary, the first primary gid stays."""
    has_primary = any(re.fullmatch(r"gid:\d+,true", word) for word in presented)
    plain = {
        word.removesuffix(",true") if word.startswith(("fqan:", "gid:", "group:")) else word
        for word in presented
    }
    fitting = [targets for first, targets in lines if first in presented or first in plain]
    if not fitting:
        return None
    added: set[str] = set()
    for word in (word for targets in fitting for word in targets):
        if re.fullmatch(r"gid:\d+,true", word):
            added.add(word.removesuffix(",true") if has_primary else word)
            has_primary = True
        else:
            added.add(word)
    return added
