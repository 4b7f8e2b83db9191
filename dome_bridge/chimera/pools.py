"""Names of dCache pools: one for each DPM pool on each file system of each server.

The name is written into every location row and must equal `pool.name` in the layout of the
disk node, so it depends on nothing but the three names: the same in every run, whatever
other file systems come or go.
"""

from __future__ import annotations

import hashlib
import re

_UNSAFE = re.compile(r"[^A-Za-z0-9.]+")
DIGEST_DIGITS = 6


def pool_name(server: str, fs: str, dpm_pool: str) -> str:
    """The dCache pool for a DPM pool's share of a file system.

    Readable parts first; the digest keeps apart what the readable parts cannot
    (`/srv/a-b` and `/srv/a/b`, two domains with a `disk01`).

    >>> pool_name("disk01.example.org", "/srv/dpm/01", "atlas")
    'disk01_srv-dpm-01_atlas_60a591'
    """
    server = server.lower()
    key = "\0".join((server, fs, dpm_pool)).encode("utf-8", "surrogateescape")
    digest = hashlib.sha256(key).hexdigest()[:DIGEST_DIGITS]
    return "_".join((_safe(server.split(".")[0]), _safe(fs), _safe(dpm_pool), digest))


def _safe(text: str) -> str:
    return _UNSAFE.sub("-", text).strip("-.") or "x"
