"""The files themselves: text, place, owner and mode of each, from a site. Pure, and always the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dome_bridge.auth.claims import ANY_AUDIENCE
from dome_bridge.config import IssuerConfig
from dome_bridge.exporter.findings import Finding, Severity
from dome_bridge.handover import accounting, layouts, pool_manager
from dome_bridge.handover.identities import BANNED, Identities, make_identities, usable_groups
from dome_bridge.handover.layouts import WEBDAV_PORT, Host, make_hosts
from dome_bridge.handover.multimap import MapLine, text_of
from dome_bridge.handover.pool_manager import make_setup
from dome_bridge.handover.site import Site, several

ETC = "/etc/dcache"
PUBLIC, PRIVATE = 0o644, 0o640

_CRL_MODES = {"require": "REQUIRE", "if-present": "IF_VALID", "off": "IGNORE"}

CHECKS: Mapping[str, str] = {
    "release-unsupported": "the release of dCache is older than those that files are made for",
    "release-unknown": "the release of dCache is newer than those that were looked at",
    "head-host-unknown": "the head node has no full name",
    "domain-none": "there is no directory /dpm/<domain>/home",
    "domain-several": "there are several directories /dpm/<domain>/home",
    "vo-without-group": "a VO has a directory and no group in DPM",
    "issuer-paths": "an issuer has several base paths, dCache knows one",
    "issuer-rules": "an issuer's tokens can do more in dCache than in DPM",
    "issuer-groups-shared": "dCache does not look who names a group",
    "issuer-audiences-shared": "an audience of one issuer counts for all in dCache",
}


@dataclass(frozen=True)
class ConfigFile:
    """path: below the directory that all are written to. install: where it belongs on `host`."""

    path: str
    install: str
    host: str
    owner: str
    mode: int
    text: str

    @property
    def etc_path(self) -> str | None:
        """Below /etc/dcache; None for a file that belongs elsewhere."""
        return self.install.removeprefix(f"{ETC}/") if self.install.startswith(f"{ETC}/") else None


@dataclass(frozen=True)
class Configuration:
    """files: by path."""

    files: tuple[ConfigFile, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not any(finding.severity is Severity.ERROR for finding in self.findings)

    @property
    def etc_texts(self) -> dict[str, str]:
        return {file.etc_path: file.text for file in self.files if file.etc_path is not None}

    def as_json(self) -> dict[str, Any]:
        return {
            "files": [file.path for file in self.files],
            "findings": [finding.as_json() for finding in self.findings],
        }


@dataclass(frozen=True)
class _Draft:
    """A file before it is rendered; data: what its template needs besides the site."""

    path: str
    title: str
    template: str
    origin: tuple[str, ...]
    data: Mapping[str, Any]
    host: str = "every host of dCache"
    install: str = ""
    mode: int = PUBLIC
    owner: str = "root:root"


def make_configuration(site: Site) -> Configuration:
    identities = make_identities(site)
    drafts = [*_common(site), *_login_files(site, identities), *_pool_manager_files(site)]
    drafts += [draft for host in make_hosts(site) for draft in _host_files(host)]
    files = {draft.path: _rendered(site, draft) for draft in drafts}
    findings = (
        *_site_findings(site),
        *_issuer_findings(site),
        *make_setup(site).findings,
        *layouts.findings(site),
        *identities.findings,
        *accounting.findings(site),
    )
    return Configuration(tuple(files[path] for path in sorted(files)), findings)


def _common(site: Site) -> Iterator[_Draft]:
    yield _Draft(
        "dcache.conf",
        "Settings of all of dCache",
        "dcache.conf.j2",
        ("From [dcache], [chimera], [auth] and [spacemanager] of dome-bridge.toml, and Cns_groupinfo.",),
        {
            "crl_mode": _CRL_MODES[site.auth.crl_policy],
            "audiences": _audiences(site),
            "providers": _providers(site),
            "gid_mapping": _gid_mapping(site),
        },
    )


def _gid_mapping(site: Site) -> list[str]:
    """For StAR, which allows each gid once."""
    groups = sorted(usable_groups(site), key=lambda group: group.gid)
    named = {group.gid: group.fqan for group in reversed(groups)}
    return [f"{gid}={named[gid]}" for gid in sorted(named)]


def _login_files(site: Site, identities: Identities) -> Iterator[_Draft]:
    yield _head_file(
        "gplazma.conf",
        "Who is let in: the steps of a login",
        "gplazma.conf.j2",
        ("The same for every site; without token issuers a step less.",),
        {"providers": _providers(site)},
    )
    yield _map_file("groups", "Numbers of groups", "Cns_groupinfo and [[auth.issuer]]", identities.groups)
    if site.auth.issuers:
        yield _map_file("tokens", "Subjects of tokens", "Cns_userinfo and subject_map", identities.tokens)
    yield _map_file("users", "DNs of certificates", "Cns_userinfo and the grid-mapfile", identities.users)
    yield _map_file(
        "fallback",
        "Accounts of those whom DPM did not know, one for each group",
        "Cns_groupinfo and dcache.fallback_uid",
        identities.fallback,
    )
    yield _head_file(
        "omnisession.conf", "What a login sees of the namespace", "omnisession.conf.j2", ("All of it.",), {}
    )
    yield _head_file(
        "ban.conf",
        "Who is kept out",
        "ban.conf.j2",
        ("From `banned` in Cns_userinfo and Cns_groupinfo, and auth.ban_file.",),
        {"banned": identities.banned, "banned_group": BANNED},
    )


def _map_file(suffix: str, title: str, source: str, lines: Iterable[MapLine]) -> _Draft:
    texts = tuple(map(text_of, lines))
    return _head_file(
        f"multi-mapfile.{suffix}", title, "multi-mapfile.j2", (f"From {source}.",), {"lines": texts}
    )


def _head_file(
    path: str, title: str, template: str, origin: tuple[str, ...], data: Mapping[str, Any]
) -> _Draft:
    return _Draft(
        path, title, template, origin, data, host="the head node", mode=PRIVATE, owner="root:dcache"
    )


def _pool_manager_files(site: Site) -> Iterator[_Draft]:
    setup = make_setup(site)
    yield _Draft(
        "poolmanager.conf",
        "Which pools take and give which files",
        "poolmanager.conf.j2",
        (
            "From dpm_fs, dpm_pool, dpm_space_reserv and the directories of the VOs.",
            "It counts until PoolManager has started once; from then on use its command `reload`.",
        ),
        {"setup": setup},
        host="the head node",
        install="/var/lib/dcache/config/poolmanager.conf",
        owner="dcache:dcache",
    )
    yield _Draft(
        "LinkGroupAuthorization.conf",
        "Who may reserve space",
        "LinkGroupAuthorization.conf.j2",
        ("From dpm_space_reserv and Cns_groupinfo.",),
        {"setup": setup},
        host="the head node",
    )


def _host_files(host: Host) -> Iterator[_Draft]:
    yield _Draft(
        f"layouts/{host.layout}.conf",
        f"Services of {host.name}",
        "layout.j2",
        ("From dpm_fs and [dcache] of dome-bridge.toml.",),
        {"layout": host},
        host=host.name,
    )
    drop_ins = (
        (host.has_doors, layouts.DOORS, "doors.service.j2", "Port 443 for the doors"),
        (bool(host.pools), host.pool_domain, "pools.service.j2", "Account and file systems of the pools"),
    )
    for is_needed, domain, template, title in drop_ins:
        unit = f"dcache@{domain}.service.d/dome-bridge.conf"
        if is_needed:
            yield _Draft(
                f"systemd/{host.layout}/{unit}",
                title,
                template,
                ("From dpm_fs and [dcache] of dome-bridge.toml.",),
                {"layout": host},
                host=host.name,
                install=f"/etc/systemd/system/{unit}",
            )


def _rendered(site: Site, draft: _Draft) -> ConfigFile:
    install = draft.install or f"{ETC}/{draft.path}"
    head = (
        _environment()
        .get_template("header.j2")
        .render(
            title=draft.title,
            origin=draft.origin,
            install=install,
            host=draft.host,
            owner=draft.owner,
            mode=draft.mode,
            release=site.release,
        )
    )
    body = _environment().get_template(draft.template).render(site=site, **draft.data)
    return ConfigFile(draft.path, install, draft.host, draft.owner, draft.mode, head + body)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dome_bridge.handover"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 -- no HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["systemd"] = _systemd_word
    return environment


def _systemd_word(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if set(escaped) & set(" \t'\"\\") else escaped


def _audiences(site: Site) -> list[str]:
    """What is configured, and this head node itself."""
    own = (f"https://{site.head}", f"https://{site.head}:{WEBDAV_PORT}", site.head)
    configured = (*site.auth.audience, *(one for issuer in site.auth.issuers for one in issuer.audience))
    for_any = (ANY_AUDIENCE,) if any(issuer.accept_any_audience for issuer in site.auth.issuers) else ()
    return list(dict.fromkeys((*for_any, *(one for one in configured if not set(one) & set(" \\")), *own)))


def _providers(site: Site) -> list[tuple[str, str]]:
    return [(issuer.name, _provider(issuer)) for issuer in site.auth.issuers]


def _provider(issuer: IssuerConfig) -> str:
    prefix = f"-prefix={issuer.base_path[0]}"
    quoted = f'"{prefix}"' if " " in prefix else prefix
    return f"{issuer.issuer} -profile=wlcg {quoted}"


def _site_findings(site: Site) -> Iterator[Finding]:
    release = site.release
    if not release.is_supported:
        text = f"files are made for dCache 8.2 and newer, not for {release}"
        yield Finding(
            "release-unsupported", Severity.ERROR, text, "install a newer one and set dcache.version"
        )
    elif not release.is_known:
        text = f"dCache {release} is newer than what was looked at; the files are those for 12.0"
        yield Finding("release-unknown", Severity.WARNING, text, "read dCache's release notes")
    if "." not in site.head:
        text = f"the head node has the name {site.head!a}, which others cannot reach it by"
        yield Finding("head-host-unknown", Severity.WARNING, text, "set dcache.head_host")
    if not site.domains:
        text = "the catalog has no directory /dpm/<domain>/home, so no VOs"
        yield Finding("domain-none", Severity.ERROR, text, "make it in DPM, or migrate another catalog")
    elif len(site.domains) > 1:
        text = f"there are homes of {several(site.domains)}; the VOs of all of them are taken"
        yield Finding("domain-several", Severity.INFO, text, "nothing", len(site.domains))
    strangers = [vo for vo in site.vo_dirs if vo not in site.group_of_name]
    if strangers:
        names = several(map(ascii, strangers))
        text = f"DPM has no groups for the VOs' directories {names}: nobody logs in for them"
        remedy = "nothing if they are left over; else add the group to DPM"
        yield Finding("vo-without-group", Severity.INFO, text, remedy, len(strangers))


def _issuer_findings(site: Site) -> Iterator[Finding]:
    for issuer in site.auth.issuers:
        if len(issuer.base_path) > 1:
            yield Finding(
                "issuer-paths",
                Severity.WARNING,
                f"tokens of {issuer.name} count below {issuer.base_path[0]} only, no longer below"
                f" {several(issuer.base_path[1:])}",
                "put the most important path first in auth.issuer.base_path",
            )
        if rules := _rules_lost(issuer):
            yield Finding(
                "issuer-rules",
                Severity.WARNING,
                f"dCache has nothing like {several(rules)} of the issuer {issuer.name}",
                "decide whether its tokens may do more than in DPM, or take the issuer out",
            )
    yield from _sharing_findings(site)


def _rules_lost(issuer: IssuerConfig) -> list[str]:
    rules = ["exclude_paths"] if issuer.exclude_paths else []
    return rules + ([f"mode {issuer.mode!r}"] if issuer.mode != "capability+group" else [])


def _sharing_findings(site: Site) -> Iterator[Finding]:
    issuers = site.auth.issuers
    if len({issuer.vo for issuer in issuers}) > 1:
        text = "every issuer can name the groups of every VO: dCache does not look who names a group"
        remedy = (
            "admit issuers that you trust with all VOs, or remove the lines oidcgrp: of multi-mapfile.groups"
        )
        yield Finding("issuer-groups-shared", Severity.WARNING, text, remedy)
    if len(issuers) > 1 and (
        any(issuer.audience for issuer in issuers)
        or len({issuer.accept_any_audience for issuer in issuers}) > 1
    ):
        text = "the audiences of all issuers count for each of them in dCache"
        yield Finding(
            "issuer-audiences-shared", Severity.INFO, text, "nothing, unless audiences keep VOs apart"
        )


ALL_CHECKS: Mapping[str, str] = {
    **CHECKS,
    **pool_manager.CHECKS,
    **layouts.CHECKS,
    **accounting.CHECKS,
}
