"""The rows of a planned site: draws what the plan leaves open, such as checksums, times and places."""

from __future__ import annotations

import hashlib
import random
import stat
import time
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.people import named_acl
from sandbox.posix_acl import acl_text, inherited_entries, mode_of, plain_acl
from sandbox.rows import Comment, DiskFile, Entry, FileSystem, Replica, Row, Symlink
from sandbox.vos import VOS

if TYPE_CHECKING:
    from sandbox.site import Directory, SitePlan, TokenPlan

DAY = 86400


class RowMaker:
    """Turns the plan into rows; draws what nothing else depends on."""

    def __init__(self, plan: SitePlan, rng: random.Random) -> None:
        self.plan = plan
        self.rng = rng
        self.population = plan.population
        self.serial = 0
        self.by_pool: dict[str, list[FileSystem]] = {}
        for place in plan.filesystems:
            self.by_pool.setdefault(place.pool, []).append(place)

    def directory(self, made: Directory) -> Entry:
        parent = made.parent.fileid if made.parent else 0
        changed = made.time + self.rng.randrange(DAY)
        return Entry(
            made.fileid, parent, None, made.name, stat.S_IFDIR | made.mode, made.children,
            made.uid, made.gid, made.size, made.time, changed, changed,
            0, "-", "", "", made.acl, self.rng.choice(("", "{}", None)),
        )  # fmt: skip

    def contents(self, parent: Directory, first: int) -> Iterator[Row]:
        fileid = parent.fileid
        for number in range(parent.files):
            fileid += parent.stride
            yield from self.file(parent, fileid, number, first + number)
        for number in range(parent.links):
            fileid += parent.stride
            yield from self.symlink(parent, fileid, number)

    def file(self, parent: Directory, fileid: int, number: int, index: int) -> Iterator[Row]:
        rng, size = self.rng, self.plan.sizes[index]
        name = parent.file_name.format(number)
        uid, gid, mode, acl = self._ownership(parent)
        content = rng.randbytes(size) if self.plan.options.disk_root is not None else None
        csumtype, csumvalue, xattr = self._checksums(content)
        born = parent.time + number + rng.randrange(DAY)
        guid = str(uuid.UUID(int=rng.getrandbits(128), version=4)) if rng.random() < 0.004 else None
        status = "m" if rng.random() < 0.002 else "-"
        yield Entry(
            fileid, parent.fileid, guid, name, mode, 1, uid, gid, size,
            born + rng.randrange(DAY), born, born + 1, 0, status, csumtype, csumvalue, acl, xattr,
        )  # fmt: skip
        yield from self._replicas(parent, fileid, name, born, self.plan.copies[index], content)
        if rng.random() < 0.001:
            yield Comment(fileid, f"checked in run {number}")

    def symlink(self, parent: Directory, fileid: int, number: int) -> Iterator[Row]:
        mode = stat.S_IFLNK | 0o777
        target = self.rng.choice(self._targets(parent, number))
        yield Entry(
            fileid, parent.fileid, None, f"link-{number}", mode, 1, parent.uid, parent.gid, 0,
            parent.time, parent.time, parent.time, 0, "-", "", "", "", None,
        )  # fmt: skip
        yield Symlink(fileid, target)

    def _targets(self, parent: Directory, number: int) -> list[str]:
        """Absolute and relative, of files and directories, dangling too; ASCII, as symlinks of sites are."""
        candidates = [
            parent.file_name.format(number % parent.files),
            f"{parent.path}/{parent.file_name.format(0)}",
            "../",
            f"/dpm/{self.plan.options.domain}/home/{VOS[0].name}",
            "../../no/longer/there",
        ]
        return [target for target in candidates if target.isascii()]

    def _ownership(self, parent: Directory) -> tuple[int, int, int, str]:
        rng, vo = self.rng, parent.vo
        assert vo is not None
        uid = self.population.owner(rng, vo)
        gid = parent.gid if parent.mode & stat.S_ISGID else self.population.gids(vo)[0]
        mode = rng.choice((0o664, 0o664, 0o644, 0o640))
        if parent.defaults:
            entries = inherited_entries(parent.defaults, 0o664, uid, gid)
        elif rng.random() < 0.01:
            entries = plain_acl(mode, uid, gid)
            entries += named_acl(rng, self.population) if rng.random() < 0.5 else []
        else:
            return uid, gid, stat.S_IFREG | mode, ""
        return uid, gid, stat.S_IFREG | mode_of(entries), acl_text(entries)

    def _checksums(self, content: bytes | None) -> tuple[str, str, str | None]:
        """csumtype, csumvalue and xattr, as the different tools of DPM's history leave them."""
        draw = self.rng.random()
        if draw > 0.93:
            return "", "", self.rng.choice(("", "{}", None))
        adler = f"{self.rng.getrandbits(32) if content is None else zlib.adler32(content):08x}"
        if draw < 0.8:
            return "AD", adler, f'{{"checksum.adler32": "{adler}"}}'
        if draw < 0.84:
            return "AD", adler, None
        if draw < 0.87:
            return "", "", f'{{"type": 0, "checksum.adler32": "{adler}", "note": "a\\/b \\"c\\""}}'
        md5 = f"{self.rng.getrandbits(128):032x}" if content is None else hashlib.md5(content).hexdigest()
        if draw < 0.91:
            return "MD", md5, f'{{"checksum.md5": "{md5}", "checksum.adler32": "{adler}"}}'
        return "MD", md5, ""

    def _replicas(
        self, parent: Directory, fileid: int, name: str, born: int, copies: int, content: bytes | None
    ) -> Iterator[Row]:
        vo = parent.vo.name if parent.vo else ""
        folder = f"{vo}/{time.strftime('%Y-%m-%d', time.gmtime(born))}"
        for place in self._places(parent.token.pool if parent.token else "data", copies):
            self.serial += 1
            path = f"{place.fs}/{folder}/{name}.{self.serial}.{born}"
            yield self._replica(parent.token, fileid, place, path, born)
            if content is not None:
                yield DiskFile(Path(path), content)

    def _places(self, pool: str, copies: int) -> list[FileSystem]:
        """One file system for each copy, on different servers."""
        first = self.rng.choice(self.by_pool[pool])
        if copies == 1:
            return [first]
        others: dict[str, FileSystem] = {}
        for place in self.rng.sample(self.plan.filesystems, len(self.plan.filesystems)):
            others.setdefault(place.server, place)
        others.pop(first.server)
        return [first, *others.values()][:copies]

    def _replica(
        self, token: TokenPlan | None, fileid: int, place: FileSystem, path: str, born: int
    ) -> Replica:
        rng = self.rng
        sfn = f"{place.server}:{path}"
        f_type = "V" if place.pool == "scratch" else "P"
        if rng.random() < 0.1:
            pinned = born + rng.randrange(DAY)
            return Replica(
                fileid, rng.randrange(90), born, pinned, pinned, born + 7 * DAY, rng.choice("PS"), "-",
                f_type, None, place.pool, place.server, place.fs, sfn, None,
            )  # fmt: skip
        escaped = place.fs.replace("/", "\\/")
        u_token = token.u_token if token else ""
        xattr = (
            f'{{"pool": "{place.pool}", "filesystem": "{escaped}", "accountedspacetokenname": "{u_token}"}}'
        )
        return Replica(
            fileid, 0, born + 1, born, born, born, None, "-", f_type,
            token.s_token if token else None, place.pool, place.server, place.fs, sfn, xattr,
        )  # fmt: skip
