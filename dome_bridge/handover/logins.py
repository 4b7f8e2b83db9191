"""The login rehearsal: what dCache's files make of everybody who may come, compared with DPM.

The files are read back from their text, so that edited ones can be judged as well. Who may come: every user
with files, with the groups that his files have, with those of the grid-mapfile, and with what `[dcache]
fqan_sets` adds; strangers with those sets; each token issuer's tokens, with and without groups.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dome_bridge.auth.dn import canonical
from dome_bridge.auth.groups import group_of_fqan, mapped
from dome_bridge.config import Config, IssuerConfig
from dome_bridge.exporter.findings import Finding, Severity
from dome_bridge.exporter.session import Databases, open_databases
from dome_bridge.handover import tree
from dome_bridge.handover.facts import read_site
from dome_bridge.handover.files import make_configuration
from dome_bridge.handover.gplazma import (
    BANS,
    GPLAZMA,
    SESSIONS,
    Gplazma,
    Login,
    LoginRefusedError,
    parse_steps,
)
from dome_bridge.handover.identities import (
    banned_dns,
    is_banned_by,
    is_group_banned,
    names_of,
    token_groups,
    usable_groups,
)
from dome_bridge.handover.multimap import Principal, fqan_in_normal_form
from dome_bridge.handover.site import Group, Person, Site, several

CHECKS: Mapping[str, str] = {
    "login-refused": "somebody whom DPM lets in cannot log in",
    "login-ambiguous": "a login would end with several user names, uids or primary gids",
    "login-uid": "somebody would have another uid, so his files are not his",
    "login-gid": "the primary gid would be another",
    "login-gids-missing": "somebody would miss groups that he has in DPM",
    "login-gids-more": "somebody would have groups that DPM does not give him with these credentials",
    "login-ban-lost": "somebody whom DPM bans would be let in",
    "login-root": "a login would be root",
    "login-stranger": "members whom DPM has no number for share an account per group; DPM gives each his own",
    "login-plain-certificate": "certificates without VOMS attributes get a gid that owns nothing",
    "login-line-ignored": "gPlazma passes over a line of a multi-map file",
    "owner-unknown": "files belong to a uid that no user of DPM has",
    "owner-group-unknown": "files belong to a gid that no group of DPM has",
    "fqan-unknown": "`[dcache] fqan_sets` or `token_group_sets` names a group that DPM does not have",
}

SEVERE = frozenset(
    {
        "login-refused",
        "login-ambiguous",
        "login-uid",
        "login-gid",
        "login-gids-missing",
        "login-ban-lost",
        "login-root",
        "login-line-ignored",
        "fqan-unknown",
    }
)

UNSEEN_SUBJECT = "somebody-whom-dpm-has-not-seen"
STRANGER = "/DC=org/DC=example/CN=Somebody whom DPM has not seen"
EXAMPLES = 3


class Expected(NamedTuple):
    """What DPM makes of somebody. uid: None for whom it would give a number only then."""

    uid: int | None
    gids: tuple[int, ...]
    is_banned: bool = False


@dataclass(frozen=True)
class Attempt:
    """who: for people. spellings: principals that stand for one another, such as forms of a DN."""

    who: str
    credentials: tuple[str, ...]
    spellings: tuple[tuple[Principal, ...], ...]
    expected: Expected
    is_token: bool = False


@dataclass(frozen=True)
class Difference:
    """`check`: an id of CHECKS."""

    check: str
    who: str
    credentials: tuple[str, ...]
    detail: str

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "credentials": list(self.credentials)}


@dataclass(frozen=True)
class LoginReport:
    """attempts: how many logins were tried."""

    attempts: int
    differences: tuple[Difference, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not any(finding.severity is Severity.ERROR for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "attempts": self.attempts,
            "differences": [difference.as_json() for difference in self.differences],
            "findings": [finding.as_json() for finding in self.findings],
        }


async def check_logins(config: Config, etc: Path | None = None) -> LoginReport:
    """etc: a directory such as /etc/dcache whose files are judged; None for those that would be made now."""
    async with open_databases(config) as databases:
        return await rehearse_logins(databases, etc)


async def rehearse_logins(databases: Databases, etc: Path | None = None) -> LoginReport:
    """For the gates of the cutover. Raises ConfigError for files that gPlazma would not start with."""
    site = await read_site(databases)
    # Seconds on a large site.
    return await asyncio.to_thread(_rehearse_files, site, etc)


def _rehearse_files(site: Site, etc: Path | None) -> LoginReport:
    return rehearse(site, make_configuration(site).etc_texts if etc is None else read_login_files(etc))


def read_login_files(etc: Path) -> dict[str, str]:
    """Blocking. Those that gplazma.conf names, and the ban and session files."""
    texts = tree.read_tree(etc, iter((GPLAZMA, BANS, SESSIONS)))
    steps = parse_steps(texts.get(GPLAZMA, ""))
    maps = (Path(step.settings["gplazma.multimap.file"]).name for step in steps if step.plugin == "multimap")
    return texts | tree.read_tree(etc, maps)


def rehearse(site: Site, texts: Mapping[str, str]) -> LoginReport:
    """texts: the files by their names below /etc/dcache."""
    usual = Gplazma(texts)
    gplazmas = [usual]
    if site.release.ban_file_may_keep_last_only:
        gplazmas.append(Gplazma(texts, ban_file_keeps_last_only=True))
    attempts = tuple(attempts_of(site))
    found: dict[Difference, None] = {}
    for attempt in attempts:
        for gplazma in gplazmas:
            found.update(dict.fromkeys(_compared(site, gplazma, attempt)))
    differences = tuple(found)
    findings = (*_configured_findings(site), *_owner_findings(site), *_line_findings(usual))
    return LoginReport(len(attempts), differences, (*findings, *_summed(differences)))


def attempts_of(site: Site) -> Iterator[Attempt]:
    """Each once."""
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for attempt in (*_certificates(site), *_tokens(site)):
        if (attempt.who, attempt.credentials) not in seen:
            seen.add((attempt.who, attempt.credentials))
            yield attempt


def _certificates(site: Site) -> Iterator[Attempt]:
    extra = [tuple(map(fqan_in_normal_form, text.split(","))) for text in site.dcache.fqan_sets]
    groups = tuple(usable_groups(site))
    for user, gids in _users_with_files(site):
        own = [_proxy(site, group) for group in groups if group.gid in gids]
        for fqans in dict.fromkeys([(), *own, *extra]):
            yield _certificate(site, user.name, fqans)
    for fqans in dict.fromkeys([*(_proxy(site, group) for group in groups), *extra]):
        yield _certificate(site, STRANGER, fqans)
    yield from _banned(site, groups)


def _banned(site: Site, groups: Sequence[Group]) -> Iterator[Attempt]:
    """Those whom the ban file has besides, and somebody known in a group that is banned."""
    usable = next((group for group in groups if not is_group_banned(site, group)), None)
    for dn in sorted(banned_dns(site.bans)):
        yield _certificate(site, dn, _proxy(site, usable) if usable else ())
    known = next((user.name for user, _ in _users_with_files(site) if not is_banned_by(site, user)), STRANGER)
    for group in groups:
        if is_group_banned(site, group):
            yield _certificate(site, known, _proxy(site, group))


def _users_with_files(site: Site) -> Iterator[tuple[Person, set[int]]]:
    """Banned ones too, who may have none, and members of the grid-mapfile; DNs only."""
    gids: dict[int, set[int]] = {}
    for owner in site.owners:
        gids.setdefault(owner.uid, set()).add(owner.gid)
    for user in site.users:
        may_come = user.uid in gids or is_banned_by(site, user) or user.name in site.gridmap
        if may_come and user.uid > 0 and user.name.startswith("/") and _is_canonical(user.name):
            yield user, gids.get(user.uid, set())


def _is_canonical(name: str) -> bool:
    try:
        return canonical(name) == name
    except ValueError:
        return False


def _proxy(site: Site, group: Group) -> tuple[str, ...]:
    """The FQANs of a proxy for this group: the groups above it come along, as VOMS has it."""
    fqan = group.fqan
    parts = fqan.partition("/Role=")[0].split("/")[1:]
    above = ["/" + "/".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return tuple(dict.fromkeys((fqan, *(one for one in above if group_of_fqan(one) in site.group_of_name))))


def _certificate(site: Site, dn: str, fqans: tuple[str, ...]) -> Attempt:
    voms = tuple(Principal("fqan", fqan, place == 0) for place, fqan in enumerate(fqans))
    spellings = tuple((Principal("dn", spelling), *voms) for spelling in names_of(dn) or (dn,))
    return Attempt(dn, fqans, spellings, _expected(site, dn, fqans or site.gridmap.get(dn, ())))


def _expected(site: Site, name: str, groups: Sequence[str]) -> Expected:
    """As DOME does it: the first group is primary and its ban counts, other banned ones are not there."""
    person = site.user_of_name.get(name)
    found = [site.group_of_name.get(group_of_fqan(group)) for group in groups]
    first = found[0] if found else None
    is_banned = (is_banned_by(site, person) if person else site.bans.against_name(name) is not None) or bool(
        first and is_group_banned(site, first)
    )
    gids = [group.gid for group in found if group and not is_group_banned(site, group)]
    return Expected(person.uid if person else None, tuple(dict.fromkeys(gids)), is_banned)


def _tokens(site: Site) -> Iterator[Attempt]:
    for issuer in site.auth.issuers:
        sets = [(), *_token_group_sets(site, issuer)]
        for sub in _subjects(site, issuer):
            for groups in dict.fromkeys(sets):
                yield _token(site, issuer, sub, groups)


def _subjects(site: Site, issuer: IssuerConfig) -> Iterator[str]:
    """Those with a number, and one without."""
    prefix = f"jwt:{issuer.name}:"
    names = (
        *(user.name for user in site.users),
        *(name for name in site.bans.names if isinstance(name, str)),
    )
    known = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    yield from dict.fromkeys((*known, *issuer.subject_map, UNSEEN_SUBJECT))


def _token_group_sets(site: Site, issuer: IssuerConfig) -> Iterator[tuple[str, ...]]:
    top = f"/{issuer.vo}"
    for name, _ in token_groups(site, issuer):
        yield tuple(dict.fromkeys((top, name)))
    for text in site.dcache.token_group_sets:
        alias, _, groups = text.partition(":")
        if alias == issuer.name:
            yield tuple(groups.split(","))


def _token(site: Site, issuer: IssuerConfig, sub: str, groups: tuple[str, ...]) -> Attempt:
    principals = (
        Principal("op", issuer.name),
        Principal("oidc", f"{sub}@{issuer.name}"),
        *(Principal("oidcgrp", group) for group in groups),
    )
    user = issuer.subject_map.get(sub) or issuer.username or f"jwt:{issuer.name}:{sub}"
    names = mapped(groups, issuer.vo, issuer.allowed_groups, issuer.group_map) if groups else issuer.groups
    expected = _expected(site, user, names)
    if site.bans.against_name(f"jwt:{issuer.name}:{sub}") is not None:
        expected = expected._replace(is_banned=True)
    return Attempt(f"{sub}@{issuer.name}", groups, (principals,), expected, is_token=True)


def _compared(site: Site, gplazma: Gplazma, attempt: Attempt) -> Iterator[Difference]:
    for principals in attempt.spellings:
        try:
            login = gplazma.login(principals)
        except LoginRefusedError as refusal:
            if not attempt.expected.is_banned:
                several_found = "exactly one" in str(refusal) and "none" not in str(refusal)
                yield _difference(
                    attempt, "login-ambiguous" if several_found else "login-refused", str(refusal)
                )
        else:
            for check, detail in _judged(site, attempt, login):
                yield _difference(attempt, check, detail)


def _judged(site: Site, attempt: Attempt, login: Login) -> Iterator[tuple[str, str]]:
    expected = attempt.expected
    if expected.is_banned:
        yield "login-ban-lost", f"DPM bans him, dCache lets him in as {login.username}"
        return
    if 0 in (login.uid, *login.gids):
        yield "login-root", f"uid {login.uid}, gids {_numbers(login.gids)}"
    if expected.uid is None:
        yield "login-stranger", f"{login.username} with uid {login.uid}; DPM would make a new one"
    elif login.uid != expected.uid:
        yield "login-uid", f"uid {login.uid} instead of {expected.uid}"
    yield from _judged_groups(site, attempt, login)


def _judged_groups(site: Site, attempt: Attempt, login: Login) -> Iterator[tuple[str, str]]:
    expected, nogroup = attempt.expected.gids, site.dcache.nogroup_gid
    if not expected and login.gid == nogroup:
        yield "login-plain-certificate", f"gid {nogroup} instead of none"
    elif expected and login.gid != expected[0] and attempt.is_token and login.gid in expected:
        yield "login-gids-more", f"primary gid {login.gid} instead of {expected[0]}"
    elif expected and login.gid != expected[0]:
        yield "login-gid", f"primary gid {login.gid} instead of {expected[0]}"
    if missing := set(expected) - login.gids:
        yield "login-gids-missing", f"without the gids {_numbers(missing)}"
    if more := login.gids - set(expected) - {nogroup}:
        yield "login-gids-more", f"with the gids {_numbers(more)} besides"


def _difference(attempt: Attempt, check: str, detail: str) -> Difference:
    return Difference(check, attempt.who, attempt.credentials, detail)


def _numbers(gids: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(gids)))


def _configured_findings(site: Site) -> Iterator[Finding]:
    issuers = {issuer.name: issuer for issuer in site.auth.issuers}
    names = {group_of_fqan(fqan) for text in site.dcache.fqan_sets for fqan in text.split(",")}
    unknown = {f"/{name}" for name in names if name not in site.group_of_name}
    for text in site.dcache.token_group_sets:
        alias, _, groups = text.partition(":")
        known = {name for name, _ in token_groups(site, issuers[alias])} if alias in issuers else set()
        unknown |= {f"{alias}:{group}" for group in groups.split(",") if group not in known}
    if unknown:
        text = f"{several(sorted(unknown))}: DPM has no such group, so dCache gives it no gid"
        remedy = "correct dcache.fqan_sets and dcache.token_group_sets, or let the group use DPM once"
        yield Finding("fqan-unknown", Severity.ERROR, text, remedy, len(unknown))


def _owner_findings(site: Site) -> Iterator[Finding]:
    users, groups = {user.uid for user in site.users}, {group.gid for group in site.groups}
    yield from _ownerless("owner-unknown", "user", users, ((owner.uid, owner.files) for owner in site.owners))
    yield from _ownerless(
        "owner-group-unknown", "group", groups, ((owner.gid, owner.files) for owner in site.owners)
    )


def _ownerless(
    check: str, what: str, known: Collection[int], files: Iterable[tuple[int, int]]
) -> Iterator[Finding]:
    count: Counter[int] = Counter()
    for number, several_files in files:
        if number not in known and number:
            count[number] += several_files
    if count:
        numbers = several(str(number) for number in sorted(count))
        text = f"{count.total()} files belong to the numbers {numbers}, which no {what} of DPM has"
        remedy = f"nothing, if these {what}s are gone for good; else add them to DPM"
        yield Finding(check, Severity.WARNING, text, remedy, len(count))


def _line_findings(gplazma: Gplazma) -> Iterator[Finding]:
    if gplazma.warnings:
        text = f"gPlazma passes over {several(gplazma.warnings)}"
        yield Finding(
            "login-line-ignored", Severity.ERROR, text, "correct these lines", len(gplazma.warnings)
        )


_REMEDIES = {
    "login-refused": "add a line for him to a multi-map file; `dome-bridge logins --check --json` lists all",
    "login-ambiguous": "let user name, uid and primary gid come from one line only",
    "login-uid": "correct the uid in multi-mapfile.users to that of Cns_userinfo",
    "login-gid": "let the primary FQAN's line be the first that gives a primary gid",
    "login-gids-missing": "add the groups to multi-mapfile.groups",
    "login-gids-more": "nothing if he may have these groups; `dome-bridge logins --check --json` lists all",
    "login-ban-lost": "correct ban.conf; one `ban group:` for all is the safe way",
    "login-root": "map nobody to 0",
    "login-stranger": "nothing; give people who come often a line with a uid of their own",
    "login-plain-certificate": "nothing: in DPM they have no group; the grid-mapfile can give them one",
}


def _summed(differences: Collection[Difference]) -> Iterator[Finding]:
    for check in CHECKS:
        found = [difference for difference in differences if difference.check == check]
        if found:
            people = list(dict.fromkeys(difference.who for difference in found))
            first = found[0]
            with_what = f" with {', '.join(first.credentials)}" if first.credentials else ""
            who = several(map(ascii, people), EXAMPLES)
            text = f"{CHECKS[check]}: {who}; the first{with_what}: {first.detail}"
            severity = Severity.ERROR if check in SEVERE else Severity.INFO
            yield Finding(check, severity, text, _REMEDIES[check], len(found))
