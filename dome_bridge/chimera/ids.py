"""Ids that are computed, never looked up.

inumber = fileid + offset, pnfsid = `0000` + instance id + fileid in hexadecimal. Both
are the same in every run, need no table, and show the fileid to who reads them. DPM's
root is Chimera's root, which keeps its own inumber and its pnfsid of zeros.
"""

from __future__ import annotations

import re
import secrets

from dome_bridge.staging import MAX_FILEID

ROOT_PNFSID = "0" * 36
OFFSET_STEP = 1_000_000
"""The offset is a multiple of this, and at least this far from what dCache numbers itself."""

_INSTANCE = re.compile(r"[0-9A-F]{16}")


def new_instance_id() -> str:
    """16 random hexadecimal digits that tell this site's pnfsids from all others."""
    return secrets.token_hex(8).upper()


def is_instance_id(text: str) -> bool:
    return _INSTANCE.fullmatch(text) is not None


def pnfsid(instance_id: str, fileid: int) -> str:
    """The 36 upper case hexadecimal digits under which dCache knows a DPM file.

    >>> pnfsid("00C0FFEE00C0FFEE", 255)
    '000000C0FFEE00C0FFEE00000000000000FF'
    """
    if not is_instance_id(instance_id):
        raise ValueError(f"instance id {instance_id!r} is not 16 upper case hexadecimal digits")
    if not 0 < fileid <= MAX_FILEID:
        raise ValueError(f"fileid {fileid} is outside 1..{MAX_FILEID}")
    return f"0000{instance_id}{fileid:016X}"


def offset_beyond(highest: int) -> int:
    """An offset that leaves room above the highest inumber dCache has given so far."""
    return (highest // OFFSET_STEP + 1) * OFFSET_STEP
