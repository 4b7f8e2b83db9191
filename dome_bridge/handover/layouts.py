"""Layout files: which domains and services run on which host, with what settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from dome_bridge.exporter.findings import Finding, Severity
from dome_bridge.exporter.pool_plan import PROTECTED
from dome_bridge.handover.pool_manager import pool_group
from dome_bridge.handover.site import DiskPool, Site, several, short_name

WEBDAV_PORT, XROOTD_PORT, FTP_PORT, SRM_PORT, SRR_PORT = 443, 1094, 2811, 8446, 3880
PRIVILEGED = 1024
SCAN_THREADS = 10
HEAP_MB, HEAP_MB_PER_POOL, HEAD_HEAP_MB = 4096, 512, 8192
"""Of a domain of pools at least, of each pool beyond the first eight, and of each domain of the head node."""

DOORS = "doorsDomain"
HIDDEN = ("/home", "/root", "/run/user")
"""What ProtectHome hides."""

CHECKS: Mapping[str, str] = {
    "host-name-shared": "two hosts have one short name, so one layout file",
    "srr-pool-shared": "the accounting cannot tell the VOs in a pool apart",
}

Settings = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Service:
    name: str
    settings: Settings = ()


@dataclass(frozen=True)
class Domain:
    name: str
    services: tuple[Service, ...]
    settings: Settings = ()


@dataclass(frozen=True)
class Host:
    """pools: none if it is the head node alone."""

    name: str
    domains: tuple[Domain, ...]
    pools: tuple[DiskPool, ...] = field(default=())

    @property
    def layout(self) -> str:
        return short_name(self.name)

    @property
    def pool_domain(self) -> str:
        return f"poolsDomain_{self.layout}"

    @property
    def has_doors(self) -> bool:
        return any(domain.name == DOORS for domain in self.domains)

    @property
    def filesystems(self) -> tuple[str, ...]:
        return tuple(sorted({pool.fs for pool in self.pools}))

    @property
    def is_hidden(self) -> bool:
        return self._is_below(HIDDEN)

    @property
    def is_protected(self) -> bool:
        return self._is_below(tuple(set(PROTECTED) - set(HIDDEN)))

    def _is_below(self, folders: tuple[str, ...]) -> bool:
        return any(PurePosixPath(fs).is_relative_to(top) for fs in self.filesystems for top in folders)


def make_hosts(site: Site) -> tuple[Host, ...]:
    """The head node first."""
    names = dict.fromkeys((site.head, *site.servers))
    return tuple(_host(site, name) for name in names)


def findings(site: Site) -> Iterator[Finding]:
    hosts = make_hosts(site)
    by_layout: dict[str, list[str]] = {}
    for host in hosts:
        by_layout.setdefault(host.layout, []).append(host.name)
    for layout, names in by_layout.items():
        if len(names) > 1:
            yield Finding(
                "host-name-shared",
                Severity.ERROR,
                f"{' and '.join(names)} would both take the layout {layout}",
                "are they one host? Then write its name in one way (dcache.head_host, dpm_fs); else give one"
                " of them another dcache.layout by hand",
            )
    shared = [pool for pool, vos in _vos_by_pool(site).items() if len(vos) > 1]
    if shared and not site.with_spaces:
        yield Finding(
            "srr-pool-shared",
            Severity.INFO,
            f"the storage summary can name one VO for each pool; {several(shared)} serve several VOs, of"
            " which the one with the greatest quotatokens is named",
            "use the space manager if each VO's share must be reported, or split the pools later",
            len(shared),
        )


def _host(site: Site, name: str) -> Host:
    pools = site.pools_of(name)
    head = tuple(_head_domains(site)) if name == site.head else ()
    plain = Host(name, head, pools)
    domains = (_pool_domain(site, plain),) if pools else ()
    return Host(name, (*head, *domains), pools)


def _head_domains(site: Site) -> Iterator[Domain]:
    # Of its own, so that it need not be restarted with the others.
    yield Domain("zookeeperDomain", (Service("zookeeper"),))
    yield Domain(
        "centralDomain",
        tuple(_central_services(site)),
        (
            ("dcache.broker.scheme", "core"),
            ("dcache.java.memory.heap", f"{HEAD_HEAP_MB}m"),
        ),
    )
    yield Domain(DOORS, tuple(_doors(site)), (("dcache.java.memory.heap", f"{HEAD_HEAP_MB}m"),))


def _central_services(site: Site) -> Iterator[Service]:
    yield Service("poolmanager")
    if site.with_spaces:
        authorization = "${dcache.paths.etc}/LinkGroupAuthorization.conf"
        yield Service("spacemanager", (("spacemanager.authz.link-group-file-name", authorization),))
    # Pools that start for the first time ask for every file.
    yield Service("pnfsmanager", (("pnfsmanager.db.connections.max", "60"),))
    names = (site.release.cleaner, "gplazma", "topo", "billing", "pinmanager", "info", "httpd", "admin")
    yield from map(Service, names)
    # Without it HTTP third-party copies fail.
    yield Service("transfermanagers")
    if site.dcache.srm:
        yield Service("srmmanager")


def _doors(site: Site) -> Iterator[Service]:
    yield Service("webdav", (("webdav.net.port", str(WEBDAV_PORT)), ("webdav.authn.protocol", "https")))
    yield Service("xrootd", (("xrootd.net.port", str(XROOTD_PORT)), ("xrootd.authz.write-paths", "/")))
    yield Service("ftp", (("ftp.authn.protocol", "gsi"), ("ftp.net.port", str(FTP_PORT))))
    if site.dcache.srm:
        yield Service("srm", (("srm.net.port", str(SRM_PORT)),))
    yield Service("frontend", _frontend(site))


def _frontend(site: Site) -> Settings:
    public = (("frontend.net.port", str(SRR_PORT)), ("frontend.srr.public", "true"))
    shares = [f"{pool_group(pool)}:/{vos[0]}" for pool, vos in _vos_by_pool(site).items() if vos]
    if site.with_spaces or not shares:
        return public
    return (*public, ("frontend.srr.shares", ",".join(shares)))


def _vos_by_pool(site: Site) -> dict[str, list[str]]:
    """Of each DPM pool that quotatokens are in; the VO with the greatest share first."""
    sizes: dict[str, dict[str, int]] = {}
    for token in site.placed_tokens:
        if token.pool in site.dpm_pools and token.vo in site.group_of_name:
            of_pool = sizes.setdefault(token.pool, {})
            of_pool[token.vo] = of_pool.get(token.vo, 0) + token.size
    return {
        pool: sorted(of_pool, key=lambda vo: (-of_pool[vo], vo)) for pool, of_pool in sorted(sizes.items())
    }


def _pool_domain(site: Site, host: Host) -> Domain:
    heap = f"{max(HEAP_MB, HEAP_MB_PER_POOL * len(host.pools))}m"
    settings = (
        ("dcache.user", site.dcache.pool_user),
        ("dcache.java.memory.heap", heap),
        ("dcache.java.memory.direct", heap),
    )
    return Domain(host.pool_domain, tuple(map(_pool, host.pools)), settings)


def _pool(pool: DiskPool) -> Service:
    return Service(
        "pool",
        (
            ("pool.name", pool.name),
            ("pool.path", pool.path),
            # A file system that is not mounted makes it wait, instead of losing all its files.
            ("pool.wait-for-files", "${pool.path}/data"),
            ("pool.limits.scan-threads", str(SCAN_THREADS)),
            ("pool.tags", f"hostname=${{host.name}} poolgroup={pool_group(pool.dpm_pool)}"),
        ),
    )
