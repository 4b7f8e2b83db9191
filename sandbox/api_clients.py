"""Users who write into DPM's catalog through the DOME API, at random, as front-ends do for them.

Where `sandbox.writer` changes rows, these know only what the protocol tells them, and put real files on
the disk servers' file systems. Every answer is judged: it must be one that the protocol has for the
command. A write that the fence refuses is repeated by nobody, reading goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import random
import stat
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from dome_bridge.dome_api.request import RemoteUser
from sandbox.dpm_statements import Sleep
from sandbox.rows import FileSystem

FRONT_END = "/DC=org/DC=example/OU=hosts/CN=door.example.org"
"""The subject of the certificate that a front-end would show to httpd."""

PROXIED = {"x-ssl-client-verify": "SUCCESS", "x-ssl-client-s-dn": FRONT_END}
"""What httpd says about a client that has shown it."""

ADMINISTRATOR = RemoteUser()
"""Nobody in particular is root, as dmlite-shell is."""

READS: Mapping[str, frozenset[int]] = {
    "dome_info": frozenset({200}),
    "dome_getstatinfo": frozenset({200, 403, 404}),
    "dome_getdir": frozenset({200, 403, 404, 500}),
    "dome_access": frozenset({200, 403, 404}),
    "dome_getreplicavec": frozenset({200, 400}),
    "dome_readlink": frozenset({200, 400, 404}),
    "dome_getcomment": frozenset({200, 404}),
    "dome_getidmap": frozenset({200}),
}
WRITES: Mapping[str, frozenset[int]] = {
    "dome_create": frozenset({200, 403, 404, 422}),
    "dome_makedir": frozenset({200, 400, 403, 404}),
    "dome_symlink": frozenset({200, 403, 422}),
    "dome_removedir": frozenset({200, 403, 404, 422}),
    "dome_rename": frozenset({200, 403, 422}),
    "dome_unlink": frozenset({200, 403, 404, 422, 500}),
    "dome_setmode": frozenset({200, 403, 404}),
    "dome_setsize": frozenset({200, 403, 404}),
    "dome_setacl": frozenset({200, 403, 404, 422}),
    "dome_setcomment": frozenset({200, 403, 404}),
    "dome_updatexattr": frozenset({200, 403, 404, 422}),
    "dome_addreplica": frozenset({200, 400, 403, 404}),
}
DOCUMENTED = {**READS, **WRITES}
"""What the protocol answers to sound requests, while others may move and close what they are about."""

MOST_COMPLAINTS = 20
ANSWER_SECONDS = 60.0
START_PAUSE = 0.1
LARGEST_FILE = 2048
DIRECTORY_ACLS = ("A70,C50,F50", "A70,C70,F50,a70,c70,f50")
FILE_ACLS = ("A60,C40,F40", "A60,C60,F00")


@dataclass(frozen=True)
class DomeAnswer:
    """status: 0 if there was none."""

    status: int
    text: str = ""
    retry_after: str = ""

    @property
    def is_taken(self) -> bool:
        return self.status == 200

    @property
    def is_fenced(self) -> bool:
        """A write refused for now, as a client may expect it."""
        return self.status == 503 and bool(self.retry_after) and "read-only" in self.text

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class ClientReport:
    """taken: writes done. refused: by the fence. read_meanwhile: answers got while writes were refused."""

    by_status: Counter[int] = field(default_factory=Counter)
    taken: int = 0
    refused: int = 0
    read_meanwhile: int = 0
    files_removed: int = 0
    complaints: list[str] = field(default_factory=list)
    _is_fenced: bool = field(default=False, init=False)

    @property
    def requests(self) -> int:
        return self.by_status.total()

    def note(self, command: str, answer: DomeAnswer) -> None:
        self.by_status[answer.status] += 1
        if command in WRITES and answer.is_fenced:
            self.refused += 1
            self._is_fenced = True
        elif not is_documented(command, answer):
            self._complain(f"{command}: {answer.status} {' '.join(answer.text.split())}")
        elif answer.is_taken and command in WRITES:
            self.taken += 1
            self._is_fenced = False
        elif answer.is_taken:
            self.read_meanwhile += self._is_fenced

    def _complain(self, text: str) -> None:
        if len(self.complaints) < MOST_COMPLAINTS:
            self.complaints.append(text)


def is_documented(command: str, answer: DomeAnswer) -> bool:
    """Whether the protocol has such an answer; what the bridge says about faults of its own is none."""
    return answer.status in DOCUMENTED[command] and not answer.text.startswith(f"{command} failed:")


class DomeClient:
    """A front-end with its connections: asks for users, in the way httpd would pass it on.

    address: of the API, up to the name of the command.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.report = ClientReport()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        self._session = aiohttp.ClientSession(headers=PROXIED, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, command: str, user: RemoteUser, **parameters: str) -> DomeAnswer:
        answer = await self.answer(command, user, **parameters)
        self.report.note(command, answer)
        return answer

    async def is_answered(self) -> bool:
        """Whether the API is up; leaves no trace in the report."""
        return (await self.answer("dome_info", ADMINISTRATOR)).is_taken

    async def answer(self, command: str, user: RemoteUser, **parameters: str) -> DomeAnswer:
        assert self._session is not None
        method = "GET" if command in READS else "POST"
        body = json.dumps(parameters).encode() if parameters else b""
        try:
            async with self._session.request(
                method, f"{self.address}/{command}", data=body, headers=_headers(user)
            ) as response:
                text = (await response.read()).decode(errors="replace")
                return DomeAnswer(response.status, text, response.headers.get("Retry-After", ""))
        except (aiohttp.ClientError, TimeoutError) as exc:
            return DomeAnswer(0, f"no answer: {type(exc).__name__}: {exc}")


def _headers(user: RemoteUser) -> dict[str, str]:
    headers = {"remoteclientdn": user.dn, "remoteclientgroups": ",".join(user.groups)}
    return {name: value for name, value in headers.items() if value}


class ApiUser:
    """Somebody who works below his home directory, and what he believes to have there.

    home: of his organisation. filesystems: where front-ends put the files that he uploads. serial: what
    makes his names unlike others'.
    """

    def __init__(
        self,
        door: DomeClient,
        user: RemoteUser,
        home: str,
        filesystems: Sequence[FileSystem],
        rng: random.Random,
        serial: str,
    ) -> None:
        self.door = door
        self.user = user
        self.home = home
        self.rng = rng
        self.directories: list[str] = []
        self.files: dict[str, list[Path]] = {}
        self.links: list[str] = []
        self.has_files_in_transit = True
        """Whether he uploads and removes files, which for an instant have no replica."""
        self._filesystems = filesystems
        self._serial = serial
        self._names = 0

    async def step(self) -> None:
        """Does one thing."""
        if not self.directories:
            await self.settle()
            await look(self)
        else:
            weights = OPERATIONS if self.has_files_in_transit else IN_PLACE
            await self.rng.choices(list(weights), list(weights.values()))[0](self)

    async def settle(self) -> None:
        """In a directory of his own; at the top, made by an administrator, if his home cannot be found.

        Another writer may have moved the home, or closed it.
        """
        name = self.new_name("work")
        for user, parent in ((self.user, self.home), (ADMINISTRATOR, "")):
            path = f"{parent}/{name}"
            if (await self.door.ask("dome_makedir", user, path=path, mode=str(0o777))).is_taken:
                self.directories = [path]
                return

    def new_name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}-{self._serial}-{self._names}"

    def new_path(self, kind: str) -> str:
        return f"{self.rng.choice(self.directories)}/{self.new_name(kind)}"

    def any_of(self, *paths: Sequence[str]) -> str:
        """One of them; one of his directories if there are none."""
        return self.rng.choice([path for some in paths for path in some] or self.directories or ["/"])

    async def reads(self, command: str, *, about: str, **parameters: str) -> DomeAnswer:
        """about: the path that is forgotten if it is not what it was."""
        return self._learned(await self.door.ask(command, self.user, **parameters), about)

    async def writes(self, command: str, *, about: str, **parameters: str) -> bool:
        """Whether it was done. about: as in `reads`."""
        return self._learned(await self.door.ask(command, self.user, **parameters), about).is_taken

    def _learned(self, answer: DomeAnswer, path: str) -> DomeAnswer:
        if not answer.is_taken and not answer.is_fenced:
            self.forget(path)
        return answer

    def forget(self, path: str) -> None:
        """With all that is below."""
        self.directories = [each for each in self.directories if not _is_at(each, path)]
        self.links = [each for each in self.links if not _is_at(each, path)]
        self.files = {each: pfns for each, pfns in self.files.items() if not _is_at(each, path)}

    def moved(self, old: str, new: str) -> None:
        """With all that is below."""

        def place(path: str) -> str:
            return new + path.removeprefix(old) if _is_at(path, old) else path

        self.directories = [place(path) for path in self.directories]
        self.links = [place(path) for path in self.links]
        self.files = {place(path): pfns for path, pfns in self.files.items()}

    async def add_replica(self, path: str, content: bytes) -> bool:
        """Puts a file on disk, then registers it; takes it away again if that is refused."""
        stated = await self.reads("dome_getstatinfo", about=path, lfn=path)
        if not stated.is_taken:
            return False
        place = self.rng.choice(self._filesystems)
        file = Path(place.fs) / "api" / self.new_name("replica")
        await asyncio.to_thread(put_file, file, content)
        if await self._register(path, stated.json()["fileid"], place, file):
            self.files[path].append(file)
            return True
        await asyncio.to_thread(file.unlink)
        return False

    async def _register(self, path: str, fileid: str, place: FileSystem, file: Path) -> bool:
        return await self.writes(
            "dome_addreplica",
            about=path,
            rfn=f"{place.server}:{file}",
            fileid=fileid,
            status=str(ord("-")),
            type=str(ord("P")),
            xattr=json.dumps({"pool": place.pool, "filesystem": place.fs}),
        )


def _is_at(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


def put_file(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


async def look(user: ApiUser) -> None:
    path = user.any_of(user.directories, list(user.files), user.links)
    await user.reads("dome_getstatinfo", about=path, lfn=path)


async def list_directory(user: ApiUser) -> None:
    path = user.any_of(user.directories)
    await user.reads("dome_getdir", about=path, path=path)


async def check_access(user: ApiUser) -> None:
    path = user.any_of(user.directories)
    await user.reads("dome_access", about=path, path=path, mode=str(user.rng.choice((4, 5, 6))))


async def log_in(user: ApiUser) -> None:
    """What a front-end asks for everybody whom it has not seen for five minutes."""
    await user.door.ask("dome_getidmap", ADMINISTRATOR, username=user.user.dn)


async def read_replicas(user: ApiUser) -> None:
    path = user.any_of(list(user.files))
    await user.reads("dome_getreplicavec", about=path, lfn=path)


async def read_link(user: ApiUser) -> None:
    if user.links:
        path = user.any_of(user.links)
        await user.reads("dome_readlink", about=path, lfn=path)


async def make_directory(user: ApiUser) -> None:
    path = user.new_path("directory")
    if await user.writes("dome_makedir", about=_parent(path), path=path, mode=str(0o775)):
        user.directories.append(path)


async def upload(user: ApiUser) -> None:
    """As a file comes about by the commands of the name space alone."""
    path = user.new_path("file")
    content = user.rng.randbytes(user.rng.randrange(1, LARGEST_FILE))
    if not await user.writes("dome_create", about=_parent(path), path=path, mode=str(0o664)):
        return
    user.files[path] = []
    if await user.add_replica(path, content):
        await user.writes("dome_setsize", about=path, path=path, size=str(len(content)))
        xattr = json.dumps({"checksum.adler32": f"{zlib.adler32(content):08x}"})
        await user.writes("dome_updatexattr", about=path, lfn=path, xattr=xattr)


async def replicate(user: ApiUser) -> None:
    files = {path: pfns for path, pfns in user.files.items() if pfns}
    if files:
        path = user.any_of(list(files))
        content = await asyncio.to_thread(_content, files[path][0])
        if content is not None:
            await user.add_replica(path, content)


def _content(file: Path) -> bytes | None:
    """None for one that is gone: another writer may have had its entry removed and a new one made there."""
    return file.read_bytes() if file.is_file() else None


async def make_link(user: ApiUser) -> None:
    path = user.new_path("link")
    target = user.any_of(list(user.files), user.directories)
    if await user.writes("dome_symlink", about=_parent(path), target=target, link=path):
        user.links.append(path)


async def rename(user: ApiUser) -> None:
    old = user.any_of(list(user.files), user.links, user.directories[1:])
    new = user.new_path("renamed")
    if await user.writes("dome_rename", about=old, oldpath=old, newpath=new):
        user.moved(old, new)


async def change_mode(user: ApiUser) -> None:
    path = user.any_of(list(user.files), user.directories[1:])
    mode = user.rng.choice((0o700, 0o755, 0o775)) | user.rng.choice((0, stat.S_ISVTX))
    await user.writes("dome_setmode", about=path, path=path, mode=str(mode))


async def set_acl(user: ApiUser) -> None:
    path = user.any_of(list(user.files), user.directories[1:])
    acl = user.rng.choice(FILE_ACLS if path in user.files else DIRECTORY_ACLS)
    await user.writes("dome_setacl", about=path, path=path, acl=acl)


async def set_comment(user: ApiUser) -> None:
    path = user.any_of(list(user.files))
    comment = f"seen by {user.new_name('check')}, déjà vu"
    if await user.writes("dome_setcomment", about=path, lfn=path, comment=comment):
        await user.reads("dome_getcomment", about=path, lfn=path)


async def set_attributes(user: ApiUser) -> None:
    path = user.any_of(list(user.files))
    xattr = json.dumps({"checksum.md5": f"{user.rng.getrandbits(128):032x}", "campaign": "mc/23"})
    await user.writes("dome_updatexattr", about=path, lfn=path, xattr=xattr)


async def unlink(user: ApiUser) -> None:
    if not user.files and not user.links:
        return
    path = user.any_of(list(user.files), user.links)
    files = user.files.get(path, [])
    if await user.writes("dome_unlink", about=path, lfn=path):
        user.forget(path)
        user.door.report.files_removed += await asyncio.to_thread(_gone, files)


def _gone(files: Sequence[Path]) -> int:
    return sum(not file.exists() for file in files)


async def remove_directory(user: ApiUser) -> None:
    """Empty or not: what is not cannot be removed, and is forgotten with what it holds."""
    if len(user.directories) > 1:
        path = user.any_of(user.directories[1:])
        if await user.writes("dome_removedir", about=path, path=path):
            user.forget(path)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


OPERATIONS: Mapping[Callable[[ApiUser], Awaitable[None]], float] = {
    look: 8,
    list_directory: 6,
    read_replicas: 4,
    read_link: 2,
    check_access: 2,
    log_in: 1,
    make_directory: 4,
    upload: 8,
    replicate: 2,
    make_link: 2,
    rename: 4,
    change_mode: 2,
    set_acl: 2,
    set_comment: 2,
    set_attributes: 2,
    unlink: 4,
    remove_directory: 1,
}


IN_PLACE = {operation: OPERATIONS[operation] for operation in OPERATIONS if operation not in (upload, unlink)}


class ApiWriter:
    """Some users at work at once, from when the API answers. interval: their pause between two things."""

    def __init__(
        self,
        door: DomeClient,
        users: Sequence[ApiUser],
        *,
        interval: float = 0.0,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._door = door
        self._users = users
        self._interval = interval
        self._sleep = sleep

    @property
    def report(self) -> ClientReport:
        return self._door.report

    def end_transfers(self) -> None:
        """From now on users leave their files where they are, but go on writing."""
        for user in self._users:
            user.has_files_in_transit = False

    async def run(self, *, stop: asyncio.Event) -> None:
        """Until `stop` is set; what is under way then is finished."""
        while not stop.is_set() and not await self._door.is_answered():
            await self._sleep(START_PAUSE)
        async with asyncio.TaskGroup() as group:
            for user in self._users:
                group.create_task(self._work(user, stop))

    async def _work(self, user: ApiUser, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await user.step()
            await self._sleep(self._interval)
