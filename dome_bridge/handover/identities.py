"""Who is who in dCache: the lines of the multi-map files and the bans, from DPM's users and groups.

DPM's numbers stay. The chain is made so that every login ends with exactly one user name, one uid and one
primary gid: user names come from one line only, which of the files has it first stops the search. Whoever is
banned gets the group `BANNED` besides, and ban.conf bans that: of several bans of one type some releases
of dCache keep the last one only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dome_bridge.auth.bans import Bans
from dome_bridge.auth.dn import DistinguishedName, canonical, parse
from dome_bridge.auth.groups import group_of_fqan, is_root
from dome_bridge.config import IssuerConfig
from dome_bridge.exporter.findings import Finding, Severity
from dome_bridge.handover.multimap import MapLine, Matcher, Principal, matcher, quoted
from dome_bridge.handover.site import Group, Person, Site, several

BANNED = "dpm-banned"

CHECKS: Mapping[str, str] = {
    "group-unusable": "DPM's name of a group cannot be one of dCache",
    "group-gid-0": "a group has the number 0, which is root's",
    "group-twice": "two groups of DPM are one FQAN",
    "user-unusable": "DPM's name of a user cannot be written into a multi-map file",
    "user-uid-0": "a user has the number 0, which is root's",
    "user-twice": "two users of DPM are one DN, with different numbers",
    "user-not-grid": "a user of DPM is known by neither a DN nor a token",
    "number-taken": "a number that the configuration gives away is in use in DPM",
    "ban-not-expressible": "dCache cannot ban what our ban file bans",
    "token-user-unknown": "an issuer's fixed user has no number in DPM",
    "token-group-unknown": "an issuer's tokens are mapped to a group that DPM does not have",
    "gridmap-group-unknown": "the grid-mapfile names a group that DPM does not have",
}

_EMAIL_KEYWORDS = ("/emailAddress=", "/E=", "/Email=")
"""One attribute, under the names that releases of dCache's X.509 library print."""


@dataclass(frozen=True)
class Identities:
    """The multi-map files line by line. banned: what ban.conf says about whom, for people to read."""

    groups: tuple[MapLine, ...]
    tokens: tuple[MapLine, ...]
    users: tuple[MapLine, ...]
    fallback: tuple[MapLine, ...]
    banned: tuple[str, ...]
    findings: tuple[Finding, ...]


def make_identities(site: Site) -> Identities:
    findings: list[Finding] = [*_number_findings(site), *_ban_findings(site.bans)]
    groups = tuple(usable_groups(site, findings))
    users = tuple(_usable_users(site, findings))
    return Identities(
        groups=(*_token_groups(site, groups, findings), *_group_lines(site, groups)),
        tokens=tuple(_token_users(site, users)),
        users=tuple(_user_lines(site, users, findings)),
        fallback=tuple(_fallback(site, groups, findings)),
        banned=tuple(_banned(site, groups, users)),
        findings=tuple(findings),
    )


def pool_account(site: Site, gid: int) -> tuple[Principal, Principal]:
    """User name and uid of those members of a group that DPM had no number for."""
    return Principal("username", f"vo{gid}"), Principal("uid", str(site.dcache.fallback_uid + gid))


def is_banned_by(site: Site, person: Person) -> bool:
    return person.is_banned or site.bans.against_name(person.name) is not None


def is_group_banned(site: Site, group: Group) -> bool:
    return group.is_banned or site.bans.against_group(group.name) is not None


def token_groups(site: Site, issuer: IssuerConfig) -> Iterator[tuple[str, Group]]:
    """Groups that its tokens may name, with those of DPM that they stand for."""
    named = {group.fqan: group.name for group in site.groups if "/Role=" not in group.name}
    allowed = issuer.allowed_groups or (f"/{issuer.vo}",)
    for name, target in sorted({**named, **issuer.group_map}.items()):
        group = site.group_of_name.get(issuer.group_map.get(name, target))
        own = _is_in(name, f"/{issuer.vo}") and any(_is_in(name, top) for top in allowed)
        if own and group is not None:
            yield name, group


def _is_in(name: str, top: str) -> bool:
    return name == top or name.startswith(top.rstrip("/") + "/")


def usable_groups(site: Site, findings: list[Finding] | None = None) -> Iterator[Group]:
    """Those that dCache can have, each once; findings: told of the others."""
    findings = [] if findings is None else findings
    taken: dict[str, Group] = {}
    for group in sorted(site.groups, key=lambda group: (group.name, group.gid)):
        if is_root(group.name):
            continue
        trouble = _trouble_with(group, taken)
        if trouble is not None:
            findings.append(trouble)
            continue
        taken[group.name] = group
        yield group


def _trouble_with(group: Group, taken: Mapping[str, Group]) -> Finding | None:
    where = f"the group {group.name!a} of DPM"
    if group.gid <= 0:
        text = f"{where} has the number {group.gid}; its members would be root's"
        return Finding(
            "group-gid-0", Severity.WARNING, text, "give it a number above 0 in Cns_groupinfo and its files"
        )
    if (normal := group_of_fqan(group.name)) != group.name or group.name in taken:
        text = f"{where} is {normal!a}, whatever its number {group.gid}; it is left out"
        remedy = "give its files the number of the other one, and delete its row in Cns_groupinfo"
        return Finding("group-twice", Severity.WARNING, text, remedy)
    try:
        matcher(f"fqan:{group.fqan}")
        quoted(group.fqan)
    except ValueError as exc:
        return Finding(
            "group-unusable",
            Severity.WARNING,
            f"{where} is left out: {exc}",
            "rename it, or nobody can log in as it",
        )
    return None


def _group_lines(site: Site, groups: Iterable[Group]) -> Iterator[MapLine]:
    for group in groups:
        primary, any_place = (Matcher("fqan", group.fqan, flag) for flag in (True, None))
        if is_group_banned(site, group):
            # In second place it is merely not there, as in DPM.
            yield MapLine(primary, (Principal("group", BANNED),))
        else:
            yield MapLine(primary, (Principal("gid", str(group.gid), True),))
            yield MapLine(any_place, (Principal("gid", str(group.gid)),))


def _usable_users(site: Site, findings: list[Finding]) -> Iterator[Person]:
    """One for each name, in canonical form; with the number that stands by that form."""
    found: dict[str, Person] = {}
    others: list[str] = []
    for user in sorted(site.users, key=lambda user: (user.uid, user.name)):
        if user.uid <= 0:
            if not is_root(user.name):
                findings.append(_root_user(user))
            continue
        name = _canonical_name(user.name)
        if name is None:
            others.append(user.name)
            continue
        first = found.get(name)
        if first is not None and first.uid != user.uid:
            findings.append(_twice(first, user))
        if first is None or user.name == name:
            found[name] = Person(user.uid, name, user.is_banned or bool(first and first.is_banned))
    if others:
        text = f"{several(map(ascii, others))}: neither DN nor token, they cannot log in to dCache"
        remedy = "nothing, unless people use these names"
        findings.append(Finding("user-not-grid", Severity.INFO, text, remedy, len(others)))
    yield from sorted(found.values(), key=lambda user: (user.uid, user.name))


def _canonical_name(name: str) -> str | None:
    if name.startswith("jwt:"):
        return name
    try:
        return canonical(name) if name.startswith("/") else None
    except ValueError:
        return None


def _root_user(user: Person) -> Finding:
    return Finding(
        "user-uid-0",
        Severity.WARNING,
        f"the user {user.name!a} has the number {user.uid}: he would be root in dCache, and is left out",
        "give him a number above 0 in Cns_userinfo",
    )


def _twice(first: Person, user: Person) -> Finding:
    return Finding(
        "user-twice",
        Severity.WARNING,
        f"the users {first.uid} and {user.uid} are both {user.name!a}: files of one of them become foreign",
        "give the files of one of them to the other in DPM, and delete his row in Cns_userinfo",
    )


def names_of(dn: str) -> tuple[str, ...]:
    """All spellings under which dCache may know a certificate, but those that no file can hold."""
    name = parse(dn)
    plain = "".join(_plainly(name))
    spelt = [dn, plain, *(plain.replace(_EMAIL_KEYWORDS[0], other) for other in _EMAIL_KEYWORDS[1:])]
    return tuple(dict.fromkeys(spelling for spelling in spelt if _is_writable(spelling)))


def _plainly(name: DistinguishedName) -> Iterator[str]:
    """With the characters themselves instead of their bytes."""
    for rdn in name.slash.split("/")[1:]:
        text = re.sub(
            r"(?:\\x[0-9A-F]{2})+",
            lambda found: bytes.fromhex(found[0].replace("\\x", "")).decode("utf-8", "surrogateescape"),
            rdn,
        )
        yield f"/{text}"


def _is_writable(spelling: str) -> bool:
    try:
        quoted(spelling)
        spelling.encode()
    except ValueError:
        return False
    return True


def _user_lines(site: Site, users: Sequence[Person], findings: list[Finding]) -> Iterator[MapLine]:
    unusable = []
    for user in users:
        if user.name.startswith("jwt:"):
            continue
        spellings = names_of(user.name)
        if not spellings:
            unusable.append(user.name)
        targets = (*_account(user, site), *_plain_gids(site, user.name))
        for spelling in spellings:
            yield MapLine(Matcher("dn", spelling, None), targets)
    if unusable:
        text = f"{several(map(ascii, unusable))}: characters that a multi-map file cannot hold"
        remedy = "let them use another certificate, and give it their number in multi-mapfile.users"
        findings.append(Finding("user-unusable", Severity.WARNING, text, remedy, len(unusable)))
    yield from _banned_strangers(site, users)
    named = {group_of_fqan(name) for names in site.gridmap.values() for name in names}
    if missing := sorted(named - site.group_of_name.keys()):
        text = f"the grid-mapfile names {several(map(ascii, missing))}, which DPM has no group for"
        remedy = "correct the grid-mapfile; nobody gets these groups"
        findings.append(Finding("gridmap-group-unknown", Severity.ERROR, text, remedy, len(missing)))


def _account(user: Person, site: Site) -> tuple[Principal, ...]:
    marks = (Principal("group", BANNED),) if is_banned_by(site, user) else ()
    return (Principal("username", f"u{user.uid}"), Principal("uid", str(user.uid)), *marks)


def _banned_strangers(site: Site, users: Iterable[Person]) -> Iterator[MapLine]:
    """Those whom the ban file bans before they have ever come."""
    known = {user.name for user in users}
    for dn in sorted(banned_dns(site.bans)):
        if dn not in known:
            for spelling in names_of(dn):
                yield MapLine(Matcher("dn", spelling, None), (Principal("group", BANNED),))


def _plain_gids(site: Site, dn: str) -> tuple[Principal, ...]:
    """Groups of a certificate without VOMS attributes: the grid-mapfile's, else one that owns nothing."""
    names = site.gridmap.get(dn, ())
    first = site.group_of_name.get(group_of_fqan(names[0])) if names else None
    if first is not None and is_group_banned(site, first):
        return ()  # so without attributes there is no login, as in DPM
    gids = _gids(site, names) or [site.dcache.nogroup_gid]
    return tuple(Principal("gid", str(gid), place == 0) for place, gid in enumerate(gids))


def _gids(site: Site, names: Iterable[str]) -> list[int]:
    found = (site.group_of_name.get(group_of_fqan(name)) for name in names)
    return [group.gid for group in found if group and not is_group_banned(site, group)]


def _fallback(site: Site, groups: Iterable[Group], findings: list[Finding]) -> Iterator[MapLine]:
    for group in groups:
        if not is_group_banned(site, group):
            yield MapLine(Matcher("fqan", group.fqan, True), pool_account(site, group.gid))
    for issuer in site.auth.issuers:
        yield from _issuer_account(site, issuer, findings)


def _issuer_account(site: Site, issuer: IssuerConfig, findings: list[Finding]) -> Iterator[MapLine]:
    """Whose account tokens of subjects without one of their own run on."""
    gids = _gids(site, issuer.groups)
    fixed = _user_named(site, issuer.username) if issuer.username else None
    if issuer.username and fixed is None:
        text = f"tokens of {issuer.name} are for {issuer.username!a}, who has no number in DPM"
        remedy = "let him use DPM once, or set auth.issuer.map.username to somebody whom DPM knows"
        findings.append(Finding("token-user-unknown", Severity.ERROR, text, remedy))
    account = _account(fixed, site) if fixed else pool_account(site, gids[0]) if gids else ()
    if account:
        yield MapLine(Matcher("op", issuer.name, None), account)


def _user_named(site: Site, name: str) -> Person | None:
    return next((user for user in site.users if user.uid > 0 and _canonical_name(user.name) == name), None)


def _token_groups(site: Site, groups: Sequence[Group], findings: list[Finding]) -> Iterator[MapLine]:
    usable = {group.name for group in groups}
    by_token: dict[str, set[int]] = {}
    for issuer in site.auth.issuers:
        gids = _gids(site, issuer.groups)
        if gids:
            targets = tuple(Principal("gid", str(gid), nth == 0) for nth, gid in enumerate(gids))
            yield MapLine(Matcher("op", issuer.name, None), targets)
        named = {*issuer.groups, *issuer.group_map.values()}
        if unknown := sorted(name for name in named if group_of_fqan(name) not in usable):
            text = f"tokens of {issuer.name} are mapped to {several(unknown)}, which DPM has no group for"
            remedy = "correct auth.issuer.map.groups or group_map, or let the group use DPM once"
            findings.append(Finding("token-group-unknown", Severity.ERROR, text, remedy, len(unknown)))
        for name, group in token_groups(site, issuer):
            if group.name in usable and not is_group_banned(site, group):
                by_token.setdefault(name, set()).add(group.gid)
    for name, numbers in sorted(by_token.items()):
        yield MapLine(
            Matcher("oidcgrp", name, None), tuple(Principal("gid", str(gid)) for gid in sorted(numbers))
        )


def _token_users(site: Site, users: Iterable[Person]) -> Iterator[MapLine]:
    """Subjects with a number of their own."""
    known = {user.name: user for user in users}
    for issuer in site.auth.issuers:
        subjects: dict[str, Person] = {}
        prefix = f"jwt:{issuer.name}:"
        if not issuer.username:
            subjects = {name.removeprefix(prefix): known[name] for name in known if name.startswith(prefix)}
        for sub, target in issuer.subject_map.items():
            if target in known:
                subjects[sub] = known[target]
        for sub, person in sorted(subjects.items()):
            if _is_writable(sub) and not sub.startswith("sha256:"):
                yield MapLine(Matcher("oidc", f"{sub}@{issuer.name}", None), _account(person, site))
        yield from _banned_subjects(site, issuer, subjects)


def _banned_subjects(site: Site, issuer: IssuerConfig, known: Mapping[str, Person]) -> Iterator[MapLine]:
    prefix = f"jwt:{issuer.name}:"
    for name in sorted(one for one in site.bans.names if isinstance(one, str) and one.startswith(prefix)):
        sub = name.removeprefix(prefix)
        if not (sub in known and is_banned_by(site, known[sub])) and _is_writable(sub):
            yield MapLine(Matcher("oidc", f"{sub}@{issuer.name}", None), (Principal("group", BANNED),))


def banned_dns(bans: Bans) -> set[str]:
    return {
        name.slash for name in bans.names if isinstance(name, DistinguishedName) and not name.is_ambiguous
    }


def _banned(site: Site, groups: Iterable[Group], users: Iterable[Person]) -> Iterator[str]:
    """As ban.conf would write it: DNs, FQANs, subjects of tokens."""
    dns = {user.name for user in users if user.name.startswith("/") and is_banned_by(site, user)}
    for dn in sorted(dns | banned_dns(site.bans)):
        yield from (f"dn:{spelling}" for spelling in names_of(dn))
    yield from (f"fqan:{group.fqan}" for group in groups if is_group_banned(site, group))
    tokens = {user.name for user in users if user.name.startswith("jwt:") and is_banned_by(site, user)}
    tokens |= {name for name in site.bans.names if isinstance(name, str) and name.startswith("jwt:")}
    yield from sorted(filter(str.isprintable, tokens))


def _ban_findings(bans: Bans) -> Iterator[Finding]:
    networks = bans.counts["addresses"]
    if networks:
        yield Finding(
            "ban-not-expressible",
            Severity.WARNING,
            f"the ban file has {networks} addresses or networks, which gPlazma cannot ban",
            "ban them in the firewalls of the head node and the disk nodes",
            networks,
        )


def _number_findings(site: Site) -> Iterator[Finding]:
    gids = {group.gid for group in site.groups} | {owner.gid for owner in site.owners}
    if site.dcache.nogroup_gid in gids:
        yield Finding(
            "number-taken",
            Severity.ERROR,
            f"the gid {site.dcache.nogroup_gid} of certificates without a group is in use in DPM",
            "set dcache.nogroup_gid to a number that no group and no file has",
        )
    uids = {user.uid for user in site.users} | {owner.uid for owner in site.owners}
    accounts = {site.dcache.fallback_uid + group.gid for group in site.groups}
    if taken := sorted(uids & accounts):
        yield Finding(
            "number-taken",
            Severity.ERROR,
            f"the uids {several(map(str, taken))} would be given to members of groups, and are in use in DPM",
            "set dcache.fallback_uid higher than every uid of DPM",
            len(taken),
        )
