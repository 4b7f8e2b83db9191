"""The disk servers of the playground when they are linked: the program for them, and a look at its work.

The look asks neither the bridge nor the program: Chimera has ids, sizes, checksums and pools, DPM's catalog
has paths, and the disks have the files.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

PROGRAM = Path(__file__).parent.parent / "packaging" / "dpm-pool-link"


class Said(NamedTuple):
    """What a run has printed; `words` are for people."""

    code: int
    output: str
    words: str


@dataclass(frozen=True)
class DiskServer:
    """Where `dpm-pool-link` runs as if on that server. directory: for what it remembers."""

    name: str
    directory: Path

    @property
    def report(self) -> Path:
        return self.directory / "report"

    async def link(self, feed: str) -> Said:
        return await self._run(
            "link", "--state", str(self.directory), "--report", str(self.report), feed=feed
        )

    async def verify(self, feed: str) -> Said:
        return await self._run("verify", "--adler32", "1000", "--report", str(self.report), feed=feed)

    async def cursor(self) -> str:
        return (await self._run("cursor", "--state", str(self.directory))).output.strip()

    async def _run(self, *arguments: str, feed: str = "") -> Said:
        self.directory.mkdir(parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(PROGRAM), *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, words = await process.communicate(feed.encode())
        return Said(process.returncode or 0, output.decode(), words.decode(errors="replace"))


class PoolLinks:
    """What stands in the pools, beside what Chimera says and DPM has.

    A file counts as real if it is on disk in the size that DPM's catalog says. What the random writer
    adds, moves or resizes is not: it changes rows and has no disks. replicas: in the order of their rowids;
    fileid, size, pool, host, sfn, checksum and extended attributes of the file, as DPM's catalog has them.
    """

    def __init__(self, pools: Iterable[Mapping[str, Any]], replicas: Iterable[tuple[Any, ...]]) -> None:
        self._pools = {pool["name"]: pool for pool in pools}
        self._files: set[tuple[int, str]] = set()
        self._sums: dict[int, str] = {}
        self._pathless: set[int] = set()
        seen: set[tuple[int, str]] = set()
        for fileid, size, dpm_pool, host, sfn, *sums in replicas:
            self._sums[fileid] = " ".join(map(_text, sums))
            path = Path(_text(sfn).partition(":")[2])
            if not path.is_file():
                self._pathless.add(fileid)
            places = {
                (fileid, pool["name"])
                for pool in self._pools.values()
                if _is_on(pool, _text(dpm_pool), _text(host), path)
            } - seen
            # Of several replicas in a pool the oldest is the one that is mirrored.
            seen |= places
            if path.is_file() and path.stat().st_size == size:
                self._files |= places
        self._linked: set[tuple[int, str]] = set()
        self.summed = 0
        self.without_file = 0
        self.complaints: list[str] = []
        self.examples: list[str] = []

    @property
    def links(self) -> int:
        return len(self._linked)

    def look(self, located: Iterable[tuple[str, int, str, str | None]]) -> None:
        """located: pnfsid, size, pool and adler32, as Chimera has them."""
        for pnfsid, size, pool, adler32 in located:
            fileid = int(pnfsid[20:], 16)
            link = Path(self._pools[pool]["path"]) / "data" / pnfsid
            if link.is_file():
                self._linked.add((fileid, pool))
                self._compare(link, fileid, size, adler32)
            elif (fileid, pool) in self._files:
                self.complaints.append(f"no link for fileid {fileid} in {pool}")
            else:
                self.without_file += 1

    def _compare(self, link: Path, fileid: int, size: int, adler32: str | None) -> None:
        content = link.read_bytes()
        found = f"{zlib.adler32(content):08x}"
        if len(content) != size and fileid in self._pathless:
            # The catalog was told of another place, where nothing is: the program reports it, and keeps data.
            self.without_file += 1
        elif len(content) != size:
            self.complaints.append(f"{link.name}: {size} bytes in Chimera, {len(content)} in the pool")
        if adler32 is not None:
            self.summed += found == adler32
            # The random writer puts any checksum into DPM's catalog; Chimera then has the same.
            if found != adler32 and adler32 not in self._sums.get(fileid, ""):
                self.complaints.append(f"{link.name}: adler32 {adler32} in Chimera, {found} in the pool")
        if not self.examples and found == adler32:
            self.examples = [f"{link}", f"{len(content)} bytes, adler32 {found}, as Chimera says"]

    def expect_no_other(self, located: Iterable[tuple[str, int, str, str | None]]) -> None:
        """A starting pool deletes what the namespace does not know."""
        known = {(pnfsid, pool) for pnfsid, _, pool, _ in located}
        for name, pool in self._pools.items():
            for link in (Path(pool["path"]) / "data").glob("*"):
                if (link.name, name) not in known:
                    self.complaints.append(f"{link.name} in {name} is not located there by Chimera")

    def expect_all_linked(self, *, except_for: set[int]) -> None:
        """Every real file must have been found through Chimera, unless the quarantine says why not."""
        lost = {place for place in self._files - self._linked if place[0] not in except_for}
        self.complaints += [f"no link for fileid {fileid} in {pool}" for fileid, pool in sorted(lost)]


def _is_on(pool: Mapping[str, Any], dpm_pool: str, host: str, path: Path) -> bool:
    return (pool["dpm_pool"], pool["server"]) == (dpm_pool, host) and path.is_relative_to(pool["fs"])


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "surrogateescape")
