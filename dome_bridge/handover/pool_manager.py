"""PoolManager's setup: which pools take and give which files.

Everything can be read from every pool that has it: one link for reading holds every store unit. A DPM pool
becomes a pool group with a link for writing, whose store units are those of the quotatokens in that pool. As
in DPM, where no quotatoken is nothing can be written, unless no quotatoken has a directory at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dome_bridge.chimera.space_plan import DEFAULT_GROUP, link_group_name, safe, storage_unit
from dome_bridge.exporter.findings import Finding, Severity
from dome_bridge.handover.site import QuotaToken, Site, several

EVERY_POOL, EVERY_STORE, READING = "every-pool", "every-store", "reading"
OTHER_UNITS = "*@*"
"""The store unit of directories that have none of the others."""

CHECKS: Mapping[str, str] = {
    "pool-none": "there is no pool",
    "pool-unusable": "the host or path of a file system cannot be written into a layout",
    "pool-volatile": "a pool of DPM is for volatile files, which dCache keeps for good",
    "pool-not-writable": "a DPM pool has quotatokens and no file system that takes files",
    "token-pool-unknown": "a quotatoken is in a pool that does not exist",
    "token-class-shared": "quotatokens in several pools have one storage class",
    "token-group-gone": "a quotatoken names a group that DPM does not have",
    "token-without-group": "nobody could reserve space where a quotatoken is",
}


@dataclass(frozen=True)
class Link:
    """pools: a pool group. is_for_reading: else it is for writing."""

    name: str
    stores: str
    pools: str
    is_for_reading: bool


@dataclass(frozen=True)
class LinkGroup:
    """fqans: who may reserve space in it."""

    name: str
    link: str
    fqans: tuple[str, ...]


@dataclass(frozen=True)
class PoolSetup:
    """stores: unit groups and their store units. pools: pool groups and their pools."""

    stores: Mapping[str, tuple[str, ...]]
    pools: Mapping[str, tuple[str, ...]]
    links: tuple[Link, ...]
    link_groups: tuple[LinkGroup, ...]
    findings: tuple[Finding, ...]

    @property
    def units(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(unit for units in self.stores.values() for unit in units))


def pool_group(dpm_pool: str) -> str:
    return _name(dpm_pool, "pools")


def _name(dpm_pool: str, kind: str) -> str:
    """Like the name of the link group, which the reservations are made in."""
    return f"{link_group_name(dpm_pool).removesuffix('linkgroup')}{kind}"


def make_setup(site: Site) -> PoolSetup:
    writable = _writable_pools(site)
    stores = {EVERY_STORE: (OTHER_UNITS, *_all_units(site))}
    pools = {EVERY_POOL: tuple(pool.name for pool in site.pools)}
    links = [Link(READING, EVERY_STORE, EVERY_POOL, is_for_reading=True)]
    for name in _pools_for_writing(site):
        stores[_name(name, "stores")] = _units_of(site, name)
        pools[pool_group(name)] = writable.get(name, ())
        link = Link(_name(name, "link"), _name(name, "stores"), pool_group(name), is_for_reading=False)
        links.append(link)
    return PoolSetup(
        stores=stores,
        pools=pools,
        links=tuple(links),
        link_groups=tuple(_link_groups(site)) if site.with_spaces else (),
        findings=tuple(_findings(site, writable)),
    )


def _writable_pools(site: Site) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(pool.name for pool in site.pools if pool.dpm_pool == name and pool.is_writable)
        for name in site.dpm_pools
    }


def _pools_for_writing(site: Site) -> list[str]:
    if not site.placed_tokens:
        return list(site.dpm_pools)
    named = {token.pool for token in site.placed_tokens}
    return [name for name in site.dpm_pools if name in named]


def _all_units(site: Site) -> tuple[str, ...]:
    units = {token.store_unit for token in site.placed_tokens}
    return tuple(sorted(units | {storage_unit(safe(vo), DEFAULT_GROUP) for vo in site.vo_dirs}))


def _units_of(site: Site, pool: str) -> tuple[str, ...]:
    if not site.placed_tokens:
        return (OTHER_UNITS, *_all_units(site))
    return tuple(sorted({token.store_unit for token in site.placed_tokens if token.pool == pool}))


def _link_groups(site: Site) -> Iterator[LinkGroup]:
    for name in _pools_for_writing(site):
        tokens = [token for token in site.placed_tokens if token.pool == name]
        fqans = sorted({fqan for token in tokens for fqan in fqans_of(site, token)})
        yield LinkGroup(link_group_name(name), _name(name, "link"), tuple(fqans))


def fqans_of(site: Site, token: QuotaToken) -> tuple[str, ...]:
    """Of the groups that may use it: those that DPM has; without any its VO, if DPM has that."""
    groups = [site.group_of_gid.get(gid) for gid in token.gids]
    if not groups:
        groups = [site.group_of_name.get(token.vo)]
    return tuple(group.fqan for group in groups if group is not None)


def _findings(site: Site, writable: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    if not site.pools:
        yield Finding("pool-none", Severity.ERROR, "DPM has no file systems", "add them to DPM first")
    if site.left_out:
        text = f"no layout can name {several(map(ascii, site.left_out))}: what is there would be out of reach"
        remedy = "correct the rows in dpm_fs: a plain host name and an absolute path of printable characters"
        yield Finding("pool-unusable", Severity.ERROR, text, remedy, len(site.left_out))
    if volatile := sorted(site.volatile & set(site.dpm_pools)):
        text = f"the DPM pools {several(volatile)} are for volatile files; dCache will keep them for good"
        yield Finding(
            "pool-volatile", Severity.INFO, text, "let them be empty before the cutover", len(volatile)
        )
    yield from _token_findings(site, writable)
    if site.with_spaces:
        yield from _authorization_findings(site)


def _token_findings(site: Site, writable: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    pools_of_unit: dict[str, set[str]] = {}
    for token in site.placed_tokens:
        pools_of_unit.setdefault(token.store_unit, set()).add(token.pool)
        if token.pool not in writable:
            yield _about(
                token, "token-pool-unknown", f"is in the pool {token.pool!a}, which has no file system"
            )
        elif not writable[token.pool]:
            yield _about(
                token, "pool-not-writable", f"is in {token.pool}, none of whose file systems takes files"
            )
        gone = [gid for gid in token.gids if gid not in site.group_of_gid]
        if gone:
            yield _about(
                token, "token-group-gone", f"names the gids {several(map(str, gone))}, which no group has"
            )
    for unit, pools in sorted(pools_of_unit.items()):
        if len(pools) > 1:
            yield Finding(
                "token-class-shared",
                Severity.WARNING,
                f"the storage class {unit} is of quotatokens in the pools {several(sorted(pools))}: new files"
                " of each of them go to all of these",
                "give the quotatokens different names, or let it be",
            )


def _about(token: QuotaToken, check: str, what: str) -> Finding:
    return Finding(
        check,
        Severity.ERROR,
        f"the quotatoken {token.name!a} of {token.path} {what}",
        "correct it with dmlite-shell's quotatokenmod",
    )


def _authorization_findings(site: Site) -> Iterable[Finding]:
    for token in site.placed_tokens:
        if not fqans_of(site, token):
            yield Finding(
                "token-without-group",
                Severity.ERROR,
                f"nobody may reserve space for the quotatoken {token.name!a} of {token.path}: DPM has none of"
                f" its groups, and no group {token.vo!a}",
                "correct its groups with dmlite-shell's quotatokenmod",
            )
