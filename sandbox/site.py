"""A made-up but realistic grid site: its tree, people, disks and files, from a seed.

Pure: it knows no database. `plan_site` draws the directory tree and deals out the files,
so that link counts and directory sizes are known before the first row; `SitePlan.rows`
then streams every row in the order of the fileids; memory is for the directories, and nine bytes a file.
The same options give the same site, byte for byte.

Nothing in it is rotten: each file has a replica on a known file system, a size and a name
that any namespace can hold. `sandbox.rotten` has the rest.
"""

from __future__ import annotations

import random
import stat
import uuid
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from sandbox.people import Population, named_acl
from sandbox.posix_acl import AclEntry, acl_text, as_defaults, inherited_entries, mode_of, plain_acl
from sandbox.rows import FileSystem, QuotaToken, Row
from sandbox.site_rows import RowMaker
from sandbox.vos import VOS, Vo

FIRST_SIZED_DEPTH, LAST_SIZED_DEPTH = 2, 6  # dmlite keeps directory sizes for these depths only
LONGEST_FS = 79
DAY = 86400
FIRST_DAY = 1_325_376_000  # 2012-01-01
DAYS = 4500
ROOT_FILEID = 1
FOREVER = 0x7FFFFFFF
HOLE = 250_000  # a gap in the fileids in the middle of the tree, as an old site's history leaves one


class SiteError(ValueError):
    """The options ask for a site that DPM's tables cannot hold."""


@dataclass(frozen=True)
class SiteOptions:
    """What to make up.

    `files`: regular files, besides about a tenth as many directories and some symlinks.
    `disk_root`: file systems are the directories `<disk_root>/<server>/<fs>`, and sizes stay below
    `largest_real_file` bytes, so that the files can really be written.
    """

    files: int = 10_000
    seed: int = 1
    domain: str = "example.org"
    disk_root: Path | None = None
    largest_real_file: int = 4096


def make_filesystems(options: SiteOptions) -> tuple[FileSystem, ...]:
    """Three disk servers; one file system is in two pools, one is read-only."""
    places = (
        ("data", 1, "fs1", 0),
        ("data", 1, "fs2", 0),
        ("local", 1, "fs3", 0),
        ("data", 2, "fs1", 0),
        ("data", 2, "fs2", 0),
        ("scratch", 2, "fs3", 2),
        ("data", 3, "fs1", 0),
        ("local", 3, "fs2", 0),
        ("scratch", 3, "fs2", 0),
    )
    made = []
    for pool, number, name, status in places:
        server = f"disk{number:02d}.{options.domain}"
        path = f"/srv/dpm/{name}" if options.disk_root is None else str(options.disk_root / server / name)
        if len(path.encode()) > LONGEST_FS:
            raise SiteError(
                f"file system path {path} has {len(path.encode())} bytes, dpm_fs.fs holds {LONGEST_FS}: "
                "choose a shorter disk_root"
            )
        made.append(FileSystem(pool, server, path, status))
    return tuple(made)


@dataclass(slots=True, eq=False)
class TokenPlan:
    """A quota token while its use is not yet known."""

    s_token: str
    u_token: str
    pool: str
    gids: tuple[int, ...]
    path: str | None
    used: int = 0

    def finish(self, spare: int) -> QuotaToken:
        total = self.used + spare
        return QuotaToken(self.s_token, self.u_token, self.pool, total, spare, self.gids, self.path)


@dataclass(slots=True, eq=False)
class Directory:
    name: str
    parent: Directory | None
    uid: int
    gid: int
    mode: int
    vo: Vo | None
    time: int
    fileid: int = 0
    children: int = 0
    size: int = 0
    acl: str = ""
    defaults: list[AclEntry] = field(default_factory=list)
    token: TokenPlan | None = None
    file_name: str = ""
    files: int = 0
    links: int = 0
    stride: int = 1

    def ancestry(self) -> list[Directory]:
        """From the root down to this one."""
        line: list[Directory] = []
        here: Directory | None = self
        while here is not None:
            line.append(here)
            here = here.parent
        return line[::-1]

    @property
    def path(self) -> str:
        return "/" + "/".join(directory.name for directory in self.ancestry()[1:])

    def inherit_acl(self, defaults: list[AclEntry]) -> None:
        """What a new directory gets from its parent's default entries."""
        if not defaults:
            return
        entries = inherited_entries(defaults, self.mode, self.uid, self.gid)
        self.defaults = [*defaults]
        self.acl = acl_text(entries + self.defaults)
        self.mode = self.mode & ~0o777 | mode_of(entries)


class Forest:
    """The directories, in the order of their creation; equal paths are one directory."""

    def __init__(self, options: SiteOptions, rng: random.Random) -> None:
        self.options = options
        self.rng = rng
        self.population = Population(options.domain, options.files)
        self.root = Directory("/", None, 0, 0, 0o755, None, FIRST_DAY)
        self.directories = [self.root]
        self.tokens: list[TokenPlan] = []
        self.leaves: list[Directory] = []
        self._children: dict[tuple[int, str], Directory] = {}

    def add(self, parent: Directory, name: str, vo: Vo | None = None, mode: int = 0o755) -> Directory:
        uid, gid = (0, 0) if vo is None else self._owner(parent, vo)
        age = parent.time if vo is None else FIRST_DAY + self.rng.randrange(DAYS * DAY)
        made = Directory(
            name, parent, uid, gid, mode | parent.mode & stat.S_ISGID, vo, age, token=parent.token
        )
        made.inherit_acl(parent.defaults)
        self._children[id(parent), name] = made
        self.directories.append(made)
        return made

    def descend(self, start: Directory, names: tuple[str, ...], vo: Vo) -> Directory:
        """The directory at the end of the names, made as far as it is missing."""
        here = start
        for name in names:
            known = self._children.get((id(here), name))
            here = known or self._decorated(self.add(here, name, vo, 0o775))
        return here

    def add_token(self, place: Directory, u_token: str, pool: str, gids: list[int]) -> None:
        token = TokenPlan(self._uuid(), u_token, pool, tuple(gids), place.path)
        self.tokens.append(token)
        place.token = token

    def add_vo(self, home: Directory, vo: Vo) -> list[Directory]:
        """The VO's directory and its areas; returns where its files may go."""
        gids = self.population.gids(vo)
        top = self.add(home, vo.name)
        top.gid, top.mode = gids[0], vo.mode
        if vo.has_default_acl:
            access = [*plain_acl(vo.mode, 0, gids[0]), AclEntry("D", 7, gids[-1]), AclEntry("E", 7, 0)]
            top.defaults = as_defaults(access)
            top.acl = acl_text(access + top.defaults)
        self.add_token(top, vo.name.split(".")[0].upper(), "data", gids)
        areas = []
        for area in vo.areas:
            place = self.descend(top, tuple(area.path.split("/")), vo)
            self.add_token(place, area.u_token, area.pool, gids)
            areas.append(place)
        return areas or [top]

    def add_leaf(self, vo: Vo, places: list[Directory]) -> None:
        leaf = vo.leaf(self.rng)
        directory = self.descend(self.rng.choice(places), leaf.names, vo)
        if not directory.file_name:
            directory.file_name = leaf.file_name
            directory.stride = self.rng.choice((2, 3, 4)) if self.rng.random() < 0.1 else 1
            self.leaves.append(directory)

    def archive(self, top: Directory, vo: Vo) -> None:
        """Move some old directories into a new one, so that their parent is younger than they are."""
        old = [place for place in self.leaves if place.vo is vo and place.parent is not top]
        newer = self.add(top, "old stuff", vo, 0o755)
        for number, place in enumerate(self.rng.sample(old, k=min(len(old), 1 + len(old) // 50))):
            place.parent, place.name = newer, f"{place.name}-{number}"

    def _owner(self, parent: Directory, vo: Vo) -> tuple[int, int]:
        gids = self.population.gids(vo)
        if parent.mode & stat.S_ISGID:
            return self.population.owner(self.rng, vo), parent.gid
        return self.population.owner(self.rng, vo), gids[0] if self.rng.random() < 0.8 else self.rng.choice(
            gids
        )

    def _decorated(self, place: Directory) -> Directory:
        """With an ACL of its own now and then, if it has inherited none."""
        draw = self.rng.random()
        if place.acl or draw > 0.03:
            return place
        entries = plain_acl(place.mode, place.uid, place.gid)
        if draw < 0.01:
            entries += named_acl(self.rng, self.population)
        if draw < 0.004:
            place.defaults = as_defaults(entries)
        place.acl = acl_text(entries + place.defaults)
        return place

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))


def plan_site(options: SiteOptions) -> SitePlan:
    """Draw the tree and deal out files, symlinks, sizes and fileids."""
    filesystems = make_filesystems(options)
    forest = Forest(options, random.Random(options.seed))
    home = forest.add(forest.add(forest.add(forest.root, "dpm"), options.domain), "home")
    places = {vo: forest.add_vo(home, vo) for vo in VOS}
    for vo in VOS:
        forest.add_leaf(vo, places[vo])
    shares = [vo.share for vo in VOS]
    while len(forest.directories) < options.files // 10:
        vo = forest.rng.choices(VOS, shares)[0]
        forest.add_leaf(vo, places[vo])
    for vo in VOS:
        forest.archive(
            next(top for top in forest.directories if top.parent is home and top.name == vo.name), vo
        )
    return SitePlan(options, forest, filesystems)


class SitePlan:
    """A site whose every row is determined; `rows` may be streamed any number of times."""

    def __init__(self, options: SiteOptions, forest: Forest, filesystems: tuple[FileSystem, ...]) -> None:
        self.options = options
        self.users, self.groups = forest.population.users, forest.population.groups
        self.filesystems = filesystems
        self.root = forest.root
        self.directories = forest.directories
        self.sizes = array("Q")
        self.copies = bytearray()
        self.population = forest.population
        self._deal_files(forest)
        self._count_children()
        self.last_fileid = self._number(forest.rng)
        self._deal_sizes(forest.rng)
        self.tokens = [token.finish(50 << 40) for token in forest.tokens]
        self.tokens.append(
            QuotaToken(str(uuid.UUID(int=options.seed)), "SRMTOKEN", "data", 1 << 40, 1 << 40, (0,), None)
        )

    @cached_property
    def symlinks(self) -> int:
        return sum(directory.links for directory in self.directories)

    @property
    def replicas(self) -> int:
        return sum(self.copies)

    def rows(self) -> Iterator[Row]:
        """All rows but the root's, entries in the order of their fileids, each before what refers to it."""
        maker = RowMaker(self, random.Random(f"rows {self.options.seed}"))
        first = 0
        for directory in self.directories:
            if directory.parent is not None:
                yield maker.directory(directory)
            yield from maker.contents(directory, first)
            first += directory.files

    def _deal_files(self, forest: Forest) -> None:
        """Unevenly: most directories have few files, some have very many."""
        rng, leaves, files = forest.rng, forest.leaves, self.options.files
        weights = list(accumulate(rng.paretovariate(1.2) for _ in leaves))
        dealt = 0
        for leaf, weight in zip(leaves, weights, strict=True):
            upto = files if weight == weights[-1] else int(files * weight / weights[-1])
            leaf.files, dealt = upto - dealt, upto
        filled = [leaf for leaf in leaves if leaf.files]
        for _ in range(max(6, files // 200) if filled else 0):
            rng.choice(filled).links += 1

    def _count_children(self) -> None:
        for directory in self.directories:
            directory.children += directory.files + directory.links
            if directory.parent is not None:
                directory.parent.children += 1

    def _number(self, rng: random.Random) -> int:
        """Give every directory its fileid and room for its files; returns the last one in use."""
        following = ROOT_FILEID
        last = ROOT_FILEID
        for position, directory in enumerate(self.directories):
            directory.fileid = following
            last = following + (directory.files + directory.links) * directory.stride
            following = last + 1 + (rng.randrange(40) if rng.random() < 0.3 else 0)
            if position == len(self.directories) // 2:
                following += HOLE
        return last

    def _deal_sizes(self, rng: random.Random) -> None:
        for directory in self.directories:
            total = 0
            for _ in range(directory.files):
                size, copies = self._draw_size(rng), self._draw_copies(rng)
                self.sizes.append(size)
                self.copies.append(copies)
                total += size * copies
            if total:
                self._account(directory, total)

    def _draw_size(self, rng: random.Random) -> int:
        if self.options.disk_root is not None:
            return rng.randrange(self.options.largest_real_file)
        draw = rng.random()
        return 0 if draw < 0.002 else min(int(rng.lognormvariate(18.5, 2.2)), 40 << 30)

    def _draw_copies(self, rng: random.Random) -> int:
        draw = rng.random()
        return 1 if draw > 0.032 else 2 if draw > 0.002 else 3

    def _account(self, directory: Directory, total: int) -> None:
        for ancestor in directory.ancestry()[FIRST_SIZED_DEPTH : LAST_SIZED_DEPTH + 1]:
            ancestor.size += total
        if directory.token is not None:
            directory.token.used += total
