"""A made-up site with one of everything that the hand-over has rules for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dome_bridge.auth.bans import parse_bans
from dome_bridge.config import AuthConfig, DcacheConfig, IssuerConfig
from dome_bridge.handover.site import Database, DiskPool, Group, Owner, Person, QuotaToken, Site

ROBOT = "/DC=org/DC=example/OU=robots/CN=Robot: atlas production"
ANNA = "/DC=org/DC=example/OU=users/CN=Anna Example"
JOERG = "/DC=org/DC=example/OU=users/CN=J\\xC3\\xB6rg Example/emailAddress=joerg@example.org"
BANNED_IN_DPM = "/DC=org/DC=example/OU=users/CN=Banned in DPM"
BANNED_IN_FILE = "/DC=org/DC=example/OU=users/CN=Banned by file"
NEVER_SEEN = "/DC=org/DC=example/OU=users/CN=Banned before he came"
NUMBERED_SUB, BANNED_SUB = "3f2c-anna", "77aa-banned"

BAN_FILE = f"""
"{BANNED_IN_FILE}" # broke it
"{NEVER_SEEN}" # will break it
jwt:atlas:{BANNED_SUB} # lost his token
192.0.2.0/24 # scans
"""

GROUPS = (
    Group(101, "atlas"),
    Group(102, "atlas/Role=production"),
    Group(103, "atlas/de"),
    Group(104, "atlas/Role=pilot", is_banned=True),
    Group(105, "cms"),
    Group(106, "cms/Role=production"),
)

USERS = (
    Person(201, ROBOT),
    Person(202, ANNA),
    Person(203, JOERG),
    Person(204, BANNED_IN_DPM, is_banned=True),
    Person(205, BANNED_IN_FILE),
    Person(206, f"jwt:atlas:{NUMBERED_SUB}"),
)

ISSUERS = (
    IssuerConfig(
        name="atlas",
        issuer="https://atlas-auth.example.org/",
        base_path=("/dpm/example.org/home/atlas",),
        group_map={"/atlas/production": "atlas/Role=production"},
        subject_map={"robot": ROBOT},
    ),
)


def pool(name: str, number: int, dpm_pool: str, *, is_writable: bool = True) -> DiskPool:
    server = f"disk{number:02d}.example.org"
    fs = f"/srv/{name}"
    label = f"disk{number:02d}_{name}_{dpm_pool}"
    return DiskPool(label, server, fs, f"{fs}/dcache/{label}", dpm_pool, is_writable)


POOLS = (
    pool("fs1", 1, "data"),
    pool("fs2", 1, "scratch"),
    pool("fs1", 2, "data", is_writable=False),
    DiskPool("disk02_home_data", "disk02.example.org", "/home/dpm", "/home/dpm/dcache/x", "data"),
)

TOKENS = (
    QuotaToken("ATLASDATADISK", "data", "/dpm/example.org/home/atlas/data", 10**13, (101, 102)),
    QuotaToken("ATLAS SCRATCH", "scratch", "/dpm/example.org/home/atlas/scratch", 10**12, (101,)),
    QuotaToken("CMS", "data", "/dpm/example.org/home/cms", 10**12),
    QuotaToken("LEGACY", "data", "", 10**9, (101,)),
)


def sample_site(version: str = "10.2", **changes: Any) -> Site:
    site = Site(
        dcache=DcacheConfig(version=version),
        head="dpm.example.org",
        domains=("example.org",),
        vo_dirs=("atlas", "cms"),
        users=USERS,
        groups=GROUPS,
        tokens=TOKENS,
        pools=POOLS,
        owners=(Owner(201, 102, 900), Owner(201, 101, 1), Owner(202, 101, 50), Owner(203, 105, 7)),
        volatile=frozenset({"scratch"}),
        gridmap={ANNA: ("atlas", "cms")},
        bans=parse_bans(BAN_FILE),
        auth=AuthConfig(audience=("https://dpm.example.org",), issuers=ISSUERS),
        chimera=Database("localhost", "chimera", "dcache"),
    )
    return replace(site, **changes)


def plain_site(**changes: Any) -> Site:
    """Without tokens and bans."""
    return sample_site(**{"auth": AuthConfig(), "bans": parse_bans(""), **changes})
