"""Which groups somebody is in: from VOMS attributes (FQANs), or from the grid-mapfile without them.

A grid-mapfile has lines `"<DN>" <vo>[,<vo>…]`. Of a line only the first VO counts; a DN on several
lines is in several groups, however each of them spells it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from dome_bridge.auth.dn import canonical
from dome_bridge.auth.groups import group_of_fqan as group_of_fqan

logger = logging.getLogger(__name__)

LOOKED_AT_SECONDS = 1.0
"""The file is looked at once in this time, and read if its size or time of change is another."""

# The DN may hold blanks if it is in quotes; a comment begins with #.
_LINE = re.compile(r'\s*(?:"(?P<quoted>[^"]+)"|(?P<bare>[^\s"#]\S*))\s+(?P<vo>[^\s,#][^\s,]*)')

Groups = Mapping[str, tuple[str, ...]]
Stamp = tuple[int, int, int]


def parse(text: str) -> dict[str, tuple[str, ...]]:
    """The groups of each DN, in canonical form, in the order of their lines. A line that makes no sense is
    passed over.
    """
    groups: dict[str, dict[str, None]] = {}
    # Only these end a line: others that Python knows may stand in a DN.
    for line in re.split(r"[\r\n]+", text):
        if found := _LINE.match(line):
            groups.setdefault(_canonical_or_same(found["quoted"] or found["bare"]), {})[found["vo"]] = None
    return {dn: tuple(names) for dn, names in groups.items()}


def _canonical_or_same(name: str) -> str:
    """Users may have other names than DNs, and those have one spelling."""
    try:
        return canonical(name)
    except ValueError:
        return name


class GridMap:
    """The grid-mapfile as it is now, give or take a second. clock: seconds that only go forward."""

    def __init__(self, file: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._stamp: Stamp | None = None
        self._groups: Groups = {}
        self._trouble = ""

    async def groups_of(self, dn: str) -> tuple[str, ...]:
        """None for somebody who is not in the file, and for everybody if there is no file."""
        async with self._looking:
            if self._clock() - self._looked_at >= LOOKED_AT_SECONDS:
                await self._look()
                self._looked_at = self._clock()
        return self._groups.get(_canonical_or_same(dn), ())

    async def _look(self) -> None:
        try:
            stamp, groups = await asyncio.to_thread(_read, self._file, self._stamp)
        except FileNotFoundError:
            stamp, groups = None, {}
        except OSError as exc:
            self._complain(str(exc))
            return
        self._trouble = ""
        self._stamp = stamp
        if groups is not None:
            self._groups = groups

    def _complain(self, trouble: str) -> None:
        """Once, not at every look; what was read before stays in force."""
        if trouble != self._trouble:
            logger.warning("the grid-mapfile cannot be read file=%s error=%s", self._file, trouble)
        self._trouble = trouble


def _read(file: Path, known: Stamp | None) -> tuple[Stamp, Groups | None]:
    """The file's stamp, and its groups unless that is the known one."""
    status = file.stat()
    stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
    if stamp == known:
        return stamp, None
    return stamp, parse(file.read_bytes().decode("utf-8", "surrogateescape"))
