"""A disk node of DPM: the DOME disk protocol over a real socket, real files, and faults to order.

It answers as the original disk daemon does (texts and codes), except that it never leaves its file systems
by way of "..", and verifies the token of every request, not only of a connection's first one. On the same
port it is the disk's web server: PUT, GET and DELETE of a pfn (`disk_data`).
Several nodes with one port, as the head expects them, listen on 127.0.0.2, 127.0.0.3 and so on.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias
from urllib.parse import quote

from aiohttp import web

from dome_bridge.auth.xrdhttp import Signed, TokenError, verify
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.wire import Answer, Parameters, Tree, command_of
from dome_bridge.dpm.checksum import PREFIX
from sandbox.acceptor import Acceptor
from sandbox.disk_data import DataPath, Transfer
from sandbox.disk_head import HeadAccess, HeadClient, Told, user_in
from sandbox.disk_store import DiskStore, Room
from sandbox.disk_work import BackgroundWork, PullHook, Sleep, checksum_job, pull_job

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """A request that was received and believed. headers: the remoteclient* ones, names as they came."""

    method: str
    command: str
    parameters: Mapping[str, Tree]
    headers: Mapping[str, str]
    signed: Signed | None

    @property
    def user(self) -> RemoteUser:
        return user_in(self.headers.items())


class _Ending(Enum):
    ANSWER = auto()
    HANG = auto()
    CUT = auto()


@dataclass(frozen=True)
class _Fault:
    seconds: float = 0.0
    until: asyncio.Event | None = None
    refusal: Answer | None = None
    executes: bool = True
    ending: _Ending = _Ending.ANSWER


@dataclass(frozen=True)
class SpaceReport:
    """What dome_getspaceinfo is to say instead of the truth.

    rooms: by file system. missing: file systems that are left out. server: the name the node goes by.
    body: the whole answer.
    """

    rooms: Mapping[str, Room] = field(default_factory=dict)
    missing: Collection[str] = ()
    server: str = ""
    body: bytes | None = None


_Command: TypeAlias = Callable[[Mapping[str, str], RemoteUser], Awaitable[Answer]]


class DiskNode:
    """The node `server`, from `start` to `stop`; started again it has the same port.

    file_systems: from the path that DPM knows to the directory that has the files. secret: the XrdHttp key;
    without one no token is asked for. Faults hold until another one of their kind or `heal`; those that
    say nothing else are of commands only.

    head: where reports go. learns: a file system is the node's own only after the head has named it, which
    the node asks at its start and every poll_seconds; what it has learned it forgets when it is stopped.
    capacities: of file systems that are to look smaller than what they lie on. sleep: between polls and
    the reports, every tick_seconds, on work that is not done.
    """

    def __init__(
        self,
        server: str,
        file_systems: Mapping[str, Path],
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        secret: str = "",
        now: Callable[[], float] = time.time,
        head: HeadAccess | None = None,
        learns: bool = False,
        capacities: Mapping[str, int] | None = None,
        pull_hook: PullHook | None = None,
        poll_seconds: float = 60.0,
        tick_seconds: float = 10.0,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.server = server
        self.address, self.port = address, port
        self.calls: list[Call] = []
        self.refused_tokens: list[TokenError] = []
        self.pull_hook = pull_hook
        self.store = DiskStore(file_systems, capacities, learns=learns)
        self._secret, self._now = secret, now
        self._learns, self._poll_seconds, self._sleep = learns, poll_seconds, sleep
        self._head = HeadClient(head or HeadAccess(), server)
        self._work = BackgroundWork(self._head, tick_seconds=tick_seconds, sleep=sleep)
        self._data = DataPath(self.store, self._putdone)
        self._fault = _Fault()
        self._report = SpaceReport()
        self._size_error = 0
        self._healed = asyncio.Event()
        self._runner: web.ServerRunner | None = None
        self._acceptor = Acceptor(self._connected)
        self._commands: Mapping[tuple[str, str], _Command] = {
            ("GET", "dome_getspaceinfo"): self._getspaceinfo,
            ("GET", "dome_statpfn"): self._statpfn,
            ("POST", "dome_pfnrm"): self._pfnrm,
            ("POST", "dome_putdone"): self._putdone,
            ("POST", "dome_dochksum"): self._dochksum,
            ("POST", "dome_pull"): self._pull,
            ("POST", "dome_makespace"): self._makespace,
        }

    @property
    def file_systems(self) -> dict[str, Path]:
        """May be changed: a disk is mounted, or is no more."""
        return self.store.mounts

    @property
    def told(self) -> list[Told]:
        """All calls to the head, with the answers."""
        return self._head.told

    @property
    def transfers(self) -> list[Transfer]:
        """All PUT, GET and DELETE of files that have ended."""
        return self._data.transfers

    def url(self, pfn: str) -> str:
        """Where a client puts and gets the file."""
        return f"http://{self.address}:{self.port}{quote(pfn)}"

    def use_head(self, access: HeadAccess) -> None:
        """From now on this is the head; for one that starts after the node."""
        self._head.access = access

    async def start(self) -> None:
        if self._runner is not None:
            raise RuntimeError(f"the disk node {self.server} is started already")
        runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=1.0)
        await runner.setup()
        try:
            self.port = self._acceptor.open(self.address, self.port)
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        await self._head.start()
        if self._learns:
            self._work.spawn(self._learn_forever())

    async def stop(self) -> None:
        """Like a machine that is off: connections are closed, new ones refused, unfinished work is lost.

        Harmless when not started.
        """
        self._end_waiting()
        self._data.cut()
        await self._work.stop()
        await self._acceptor.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        # A request that was still being answered may have begun work, or used the head.
        await self._work.stop()
        await self._head.close()
        self.store.forget()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def learn(self) -> None:
        """Ask the head once which file systems the node has; what it knows already it keeps."""
        told = await self._head.call("GET", "dome_getspaceinfo", {}, RemoteUser())
        try:
            mine = json.loads(told.text)["fsinfo"][self.server] if told.is_done else {}
        except (ValueError, KeyError, TypeError):
            mine = {}
        if not mine:
            logger.warning("no file systems from the head server=%s status=%d", self.server, told.status)
        self.store.learn(mine)

    async def _learn_forever(self) -> None:
        while True:
            await self.learn()
            await self._sleep(self._poll_seconds)

    def slow(self, seconds: float) -> None:
        """Do and answer everything, later."""
        self._set_fault(_Fault(seconds=seconds))

    def wait_for(self, event: asyncio.Event) -> None:
        """Do and answer everything, but not before the event."""
        self._set_fault(_Fault(until=event))

    def refuse(self, status: int, text: str) -> None:
        """Do nothing and say so."""
        self._set_fault(_Fault(refusal=Answer.text(text, status)))

    def hang(self) -> None:
        """Do nothing and never answer."""
        self._set_fault(_Fault(executes=False, ending=_Ending.HANG))

    def remove_then_hang(self) -> None:
        """Do what was asked and never answer."""
        self._set_fault(_Fault(ending=_Ending.HANG))

    def cut(self) -> None:
        """Do nothing and close the connection instead of an answer."""
        self._set_fault(_Fault(executes=False, ending=_Ending.CUT))

    def remove_then_cut(self) -> None:
        """Do what was asked and close the connection instead of an answer."""
        self._set_fault(_Fault(ending=_Ending.CUT))

    def report_space(self, report: SpaceReport) -> None:
        """Say this of its room. What is not named in it stays true."""
        self._report = report

    def fill(self) -> None:
        """No room: no byte more is taken, and none is reported free."""
        self.store.full = True

    def slow_data(self, seconds: float) -> None:
        """Files are taken, given and summed up at one piece (256 KiB at most) every so many seconds."""
        self._data.seconds_per_piece = seconds

    def lie_about_size(self, by: int) -> None:
        """Take files for larger by so many bytes when an upload is done."""
        self._size_error = by

    def heal(self) -> None:
        """End all faults; connections that wait for an answer are closed."""
        self._set_fault(_Fault())
        self._report = SpaceReport()
        self.store.full = False
        self._data.seconds_per_piece = 0.0
        self._size_error = 0

    def file(self, pfn: str) -> Path | None:
        """Where the file `pfn` is on this machine; None if it is in no file system of this node."""
        return self.store.file(pfn)

    def _set_fault(self, fault: _Fault) -> None:
        self._fault = fault
        self._end_waiting()

    def _end_waiting(self) -> None:
        self._healed.set()
        self._healed = asyncio.Event()

    async def _connected(self, client: socket.socket) -> None:
        runner = self._runner
        if runner is None or runner.server is None:
            client.close()
            return
        await asyncio.get_running_loop().connect_accepted_socket(runner.server, client)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if (pfn := self._data.pfn_of(request)) is not None:
            return await self._data.serve(request, pfn)
        fault, healed = self._fault, self._healed
        call = await self._received(request)
        if call is None:
            return _closed(request)
        self.calls.append(call)
        await asyncio.sleep(fault.seconds)
        if fault.until is not None:
            await fault.until.wait()
        answer = fault.refusal or Answer.EMPTY
        if fault.executes and fault.refusal is None:
            answer = await self._answer(call, request.raw_path)
        if fault.ending is _Ending.HANG:
            await healed.wait()
        if fault.ending is not _Ending.ANSWER:
            return _closed(request)
        return web.Response(status=answer.status, body=answer.body, content_type=answer.content_type)

    async def _received(self, request: web.BaseRequest) -> Call | None:
        """None: without a good token the connection is closed in silence, as by XrdHttp."""
        target = request.raw_path
        signed = None
        if self._secret:
            try:
                signed = verify(
                    self._secret, request.method, target, now=self._now(), peer=request.remote or ""
                )
            except TokenError as error:
                self.refused_tokens.append(error)
                return None
        return Call(
            method=request.method,
            command=command_of(target),
            parameters=Parameters.from_body(await request.read()).tree(),
            headers={k: v for k, v in request.headers.items() if k.lower().startswith("remoteclient")},
            signed=signed,
        )

    async def _answer(self, call: Call, target: str) -> Answer:
        parameters = {key: value for key, value in call.parameters.items() if isinstance(value, str)}
        if command := self._commands.get((call.method, call.command)):
            return await command(parameters, call.user)
        if call.method == "GET":
            return Answer.text(f"Command '{target}' unknown for a GET request. I like your style.", 418)
        return Answer.text(f"Command '{call.command}' unknown for a POST request.  Nice joke, eh ?", 418)

    async def _getspaceinfo(self, _: Mapping[str, str], __: RemoteUser) -> Answer:
        report = self._report
        if report.body is not None:
            return Answer(200, report.body, "application/json")
        if not self.store.own:
            return Answer.json({})
        paths = [path for path in self.store.own if path not in report.missing]
        rooms = {path: report.rooms.get(path) or await self._room(path) for path in paths}
        spaces = {path: _space(room) for path, room in rooms.items()}
        return Answer.json({"fsinfo": {report.server or self.server: spaces}})

    async def _room(self, path: str) -> Room:
        return await asyncio.to_thread(self.store.room, path)

    async def _statpfn(self, given: Mapping[str, str], _: RemoteUser) -> Answer:
        pfn, matchfs = given.get("pfn", ""), Parameters(given).flag("matchfs", True)
        if not pfn:
            return Answer.text("pfn is empty.", 422)
        file = self.store.file(pfn, own=matchfs)
        if file is None and matchfs:
            return Answer.text(f"Path '{pfn}' is not in any filesystem of this server.", 404)
        try:
            # Not a Path, which would tidy the pfn.
            found = await asyncio.to_thread(os.stat, file or pfn)
        except (OSError, ValueError) as error:
            return _no_stat(pfn, error)
        is_directory = "true" if stat.S_ISDIR(found.st_mode) else "false"
        return Answer.json({"size": str(found.st_size), "mode": str(found.st_mode), "isdir": is_directory})

    async def _pfnrm(self, given: Mapping[str, str], _: RemoteUser) -> Answer:
        pfn = given.get("pfn", "")
        if not pfn:
            return Answer.text("pfn is empty.", 422)
        if not pfn.startswith("/"):
            return Answer.text(f"Path '{pfn}' is not an absolute path.", 404)
        file = self.store.file(pfn, own=True)
        if file is None:
            return Answer.text(f"Path '{pfn}' is not a valid pfn.", 422)
        try:
            await asyncio.to_thread(_remove, file)
        except FileNotFoundError:
            return Answer.text(f"Rm successful. The file or dir '{pfn}' not there anyway.")
        except (OSError, ValueError) as error:
            return Answer.text(f"Rm of pfn:'{pfn}' failed, err: {_errno_text(error)}", 422)
        return Answer.text("Rm successful.")

    async def _putdone(self, given: Mapping[str, str], user: RemoteUser) -> Answer:
        """A finished upload: the size is compared with the file, and the head is told."""
        pfn, kind, value = (given.get(key, "") for key in ("pfn", "checksumtype", "checksumvalue"))
        if not pfn.startswith("/"):
            return Answer.text(f"Invalid pfn '{pfn}'.", 400)
        if bool(kind) != bool(value) or (kind and not kind.startswith(PREFIX)):
            return Answer.text(f"Invalid checksum hint. type:'{kind}' val: '{value}'", 400)
        try:
            size = await asyncio.to_thread(self._size, pfn)
        except OSError as error:
            return _no_stat(pfn, error)
        reported = Parameters(given).integer("size")
        if reported not in (0, size):
            text = f"Reported size ({reported}) does not match with the size of the file ({size})"
            return Answer.text(text, 400)
        server = given.get("server") or self.server
        confirmed = {**given, "server": server, "size": str(size), "lfn": given.get("lfn", "")}
        told = await self._head.call("POST", "dome_putdone", confirmed, user)
        if not told.is_done:
            text = f"Cannot forward dome_putdone to the head node: {told.status} what: '{told.text}'"
            return Answer.text(text, 500)
        return Answer.text(told.text)

    def _size(self, pfn: str) -> int:
        file = self.store.file(pfn, own=True)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return file.stat().st_size + self._size_error

    async def _dochksum(self, given: Mapping[str, str], user: RemoteUser) -> Answer:
        if empty := _empty(given, "checksum-type", "pfn", "lfn"):
            return Answer.text(f"{empty} cannot be empty.", 422)
        pfn, lfn, kind = given["pfn"], given["lfn"], given["checksum-type"]
        updates = Parameters(given).flag("update-lfn-checksum")
        job = checksum_job(
            self.store.file(pfn, own=True),
            kind,
            {"update-lfn-checksum": "true" if updates else "false"},
            pause=lambda: self._data.seconds_per_piece,
        )
        report = {"lfn": lfn, "pfn": f"{self.server}:{pfn}", "checksum-type": kind}
        self._work.report("dome_chksumstatus", report, user, job)
        return Answer.text(f"Initiated checksum calculation on '{pfn}', check back later.", 202)

    async def _pull(self, given: Mapping[str, str], user: RemoteUser) -> Answer:
        if empty := _empty(given, "lfn", "pfn"):
            return Answer.text(f"{empty} cannot be empty.", 422)
        lfn, pfn, kind = given["lfn"], given["pfn"], given.get("checksum-type", "")
        file, path = self.store.file(pfn, own=True), self.store.filesystem(pfn, own=True)
        if file is None or path is None:
            return Answer.text(f"pfn '{pfn}' is not in any filesystem of this server.", 422)
        if self.pull_hook is None:
            return Answer.text("File puller is disabled.", 500)
        needed = Parameters(given).integer("neededspace")
        if needed <= 0:
            return Answer.text("neededspace is not given, and the pool's defsize is not known here.", 500)
        if not await self._makes_room(path, pfn[len(path) :].lstrip("/").split("/")[0], needed, user):
            return Answer.text(f"Not enough space on '{path}' for {needed} bytes.", 422)
        try:
            await asyncio.to_thread(file.parent.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            return Answer.text(f"Cannot create the directory of '{pfn}': {_errno_text(error)}", 500)
        report = {"lfn": lfn, "pfn": pfn, "server": self.server, "checksum-type": kind}
        self._work.report("dome_pullstatus", report, user, pull_job(self.pull_hook, lfn, file, needed))
        return Answer.text(f"Initiated file pull into '{pfn}', check back later.", 202)

    async def _makespace(self, given: Mapping[str, str], user: RemoteUser) -> Answer:
        path, vo = given.get("fs", ""), given.get("vo", "")
        size = Parameters(given).integer("size", bits=32)
        is_own = bool(path) and self.store.filesystem(path, own=True) == path
        if not is_own or vo in ("", ".", "..") or "/" in vo or size <= 0:
            return Answer.text(f"Invalid parameters: fs '{path}', vo '{vo}', size {size}.", 400)
        if Parameters(given).flag("ensure-space", True):
            size -= (await self._room(path)).free
        if size > 0 and not await self._clears(path, vo, size, user):
            return Answer.text(f"Error: could not clear up the requested amount of space on '{path}'.", 422)
        return Answer.text(f"Cleared the requested amount of space on '{path}'.")

    async def _makes_room(self, path: str, vo: str, needed: int, user: RemoteUser) -> bool:
        lacking = needed - (await self._room(path)).free
        return lacking <= 0 or await self._clears(path, vo, lacking, user)

    async def _clears(self, path: str, vo: str, size: int, user: RemoteUser) -> bool:
        """Have the head delete a VO's oldest files until they come to `size`; whether they did."""
        for file in await asyncio.to_thread(self.store.oldest_files, path, vo):
            if size <= 0:
                break
            victim = {"pfn": file.pfn, "server": self.server}
            if (await self._head.call("POST", "dome_delreplica", victim, user)).is_done:
                size -= file.size
        return size <= 0


def _space(room: Room) -> Mapping[str, str]:
    return {
        "freespace": str(room.free),
        "physicalsize": str(room.physical),
        "activitystatus": str(room.activity),
    }


def _empty(given: Mapping[str, str], *keys: str) -> str | None:
    """The first of the keys that has no text."""
    return next((key for key in keys if not given.get(key)), None)


def _remove(file: Path) -> None:
    file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()


def _no_stat(pfn: str, error: OSError | ValueError) -> Answer:
    return Answer.text(f"Cannot stat pfn:'{pfn}' err: {_errno_text(error)}", 404)


def _errno_text(error: OSError | ValueError) -> str:
    return (error.strerror or "") if isinstance(error, OSError) else str(error)


def _closed(request: web.BaseRequest) -> web.Response:
    """Closes the connection; the answer goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
