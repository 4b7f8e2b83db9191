"""The virtual organisations of the made-up site: groups, areas with quota tokens, names of files."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from sandbox.rows import Pool


@dataclass(frozen=True)
class Area:
    """A directory below a VO's home with a quota token of its own."""

    path: str
    u_token: str
    pool: str


@dataclass(frozen=True)
class Leaf:
    """Where files go: names below the area, and how the files there are called."""

    names: tuple[str, ...]
    file_name: str


@dataclass(frozen=True)
class Vo:
    name: str
    share: float
    roles: tuple[str, ...]
    areas: tuple[Area, ...]
    leaf: Callable[[random.Random], Leaf]
    mode: int = 0o775
    has_default_acl: bool = False


def _day(rng: random.Random) -> str:
    return f"{rng.randrange(2012, 2024)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}"


def _rucio_leaf(rng: random.Random) -> Leaf:
    scope = rng.choice(
        ("mc16_13TeV", "mc20_13TeV", "data18_13TeV", "data22_13p6TeV", "user.u0012", "group.phys-higgs")
    )
    digest = rng.getrandbits(16)
    task = rng.randrange(10**7, 10**8)
    stream = rng.choice(("DAOD_PHYS", "AOD", "log", "HITS", "DAOD_TOPQ1"))
    return Leaf(
        ("rucio", scope, f"{digest >> 8:02x}", f"{digest & 255:02x}"),
        f"{stream}.{task}._{{:06d}}.pool.root.1",
    )


def _cms_leaf(rng: random.Random) -> Leaf:
    campaign = rng.choice(("RunIISummer20UL18", "RunIIAutumn18", "Run3Winter22"))
    process = (
        rng.choice(("TTTo2L2Nu", "DYJetsToLL_M-50", "QCD_Pt_300to470", "ZprimeToTT_M4000")) + "_TuneCP5_13TeV"
    )
    tier = rng.choice(("MINIAODSIM", "NANOAODSIM", "AODSIM", "GEN-SIM"))
    version = f"106X_upgrade2018_realistic_v{rng.randrange(1, 17)}-v{rng.randrange(1, 4)}"
    block = f"{rng.randrange(100) * 10000:05d}"
    head, tail = f"{rng.getrandbits(32):08X}-{rng.getrandbits(16):04X}", f"0CC47A{rng.getrandbits(24):06X}"
    return Leaf(("store", "mc", campaign, process, tier, version, block), f"{head}-E911-{{:04X}}-{tail}.root")


def _belle_leaf(rng: random.Random) -> Leaf:
    run = f"r{rng.randrange(1000):05d}"
    names = (
        "MC",
        "release-06-00-08",
        f"DB{rng.randrange(20):08d}",
        "s00",
        "e1003",
        "4S",
        run,
        "mixed",
        "mdst",
        f"sub{rng.randrange(4):02d}",
    )
    return Leaf(names, f"mdst_{{:06d}}_prod{rng.randrange(10**8):08d}_task1.root")


def _probe_leaf(rng: random.Random) -> Leaf:
    return Leaf(("nagios", _day(rng)), "testfile-put-{}-" + f"{rng.getrandbits(48):012x}.txt")


def _local_leaf(rng: random.Random) -> Leaf:
    # composed and decomposed accents, scripts of two to four bytes, characters that careless quoting breaks
    subject = rng.choice(
        (
            "Übungen",
            "donne\u0301es",
            "данные",
            "観測データ",
            "étoiles 𝛼𝛽",
            'it\'s 100% "raw"',
            "a+b&c;d#e",
            "plain",
        )
    )
    kind = rng.choice(
        (
            "Spektrum {:04d} µm.fits",
            "image_{:05d}.fits",
            "obs {:d} — final (copy).txt",
            "%s_{:03d}.dat",
            "x={:d}~",
        )
    )
    return Leaf((f"run {rng.randrange(1, 30)}", subject, _day(rng)), kind)


VOS = (
    Vo(
        "atlas",
        0.45,
        ("Role=production", "Role=pilot", "de"),
        (
            Area("atlasdatadisk", "ATLASDATADISK", "data"),
            Area("atlasscratchdisk", "ATLASSCRATCHDISK", "scratch"),
            Area("atlaslocalgroupdisk/higgs", "ATLASLOCALGROUPDISK", "local"),
        ),
        _rucio_leaf,
        mode=0o2775,
    ),
    Vo("cms", 0.3, ("Role=production", "Role=lcgadmin"), (Area("cmsdisk", "CMSDISK", "data"),), _cms_leaf),
    Vo(
        "belle",
        0.15,
        ("Role=production",),
        (Area("DATA", "BELLEDATA", "data"), Area("TMP", "BELLETMP", "scratch")),
        _belle_leaf,
        has_default_acl=True,
    ),
    Vo("dteam", 0.02, (), (), _probe_leaf, mode=0o777),
    Vo(
        "astro.example.org",
        0.08,
        ("staff",),
        (Area("archive", "ASTROARCHIVE", "local"),),
        _local_leaf,
        mode=0o3775,
    ),
)

POOLS = (Pool("data", 4 << 30), Pool("local", 1 << 30), Pool("scratch", 512 << 20, "V"))
