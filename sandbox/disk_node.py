"""A disk node of DPM: the DOME disk protocol over a real socket, real files, and faults to order.

It answers as the original disk daemon does (texts and codes), except that it never leaves its file systems
by way of "..", and verifies the token of every request, not only of a connection's first one.
Several nodes with one port, as the head expects them, listen on 127.0.0.2, 127.0.0.3 and so on.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.wire import Answer, Parameters, Tree, command_of
from dome_bridge.dome_api.xrdhttp import Signed, TokenError, verify


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
        return RemoteUser.from_headers(self.headers.items())


class _Ending(Enum):
    ANSWER = auto()
    HANG = auto()
    CUT = auto()


@dataclass(frozen=True)
class _Fault:
    seconds: float = 0.0
    refusal: Answer | None = None
    executes: bool = True
    ending: _Ending = _Ending.ANSWER


class DiskNode:
    """The node `server`, from `start` to `stop`; started again it has the same port.

    file_systems: from the path that DPM knows to the directory that has the files. secret: the XrdHttp key;
    without one no token is asked for. A fault holds until another one or `heal`.
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
    ) -> None:
        self.server = server
        self.file_systems = dict(file_systems)
        self.address, self.port = address, port
        self.calls: list[Call] = []
        self.refused_tokens: list[TokenError] = []
        self._secret, self._now = secret, now
        self._fault = _Fault()
        self._healed = asyncio.Event()
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        if self._runner is not None:
            raise RuntimeError(f"the disk node {self.server} is started already")
        runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.address, self.port, reuse_address=True).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self.port = int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Like a machine that is off: connections are closed, new ones refused. Harmless when not started."""
        self._end_waiting()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def slow(self, seconds: float) -> None:
        """Do and answer everything, later."""
        self._set_fault(_Fault(seconds=seconds))

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

    def heal(self) -> None:
        """End all faults; connections that wait for an answer are closed."""
        self._set_fault(_Fault())

    def file(self, pfn: str) -> Path | None:
        """Where the file `pfn` is on this machine; None if it is in no file system of this node."""
        if "\0" in pfn or ".." in pfn.split("/"):
            return None
        for path, directory in self.file_systems.items():
            if pfn == path or pfn.startswith(f"{path.rstrip('/')}/"):
                return directory / pfn[len(path) :].lstrip("/")
        return None

    def _set_fault(self, fault: _Fault) -> None:
        self._fault = fault
        self._end_waiting()

    def _end_waiting(self) -> None:
        self._healed.set()
        self._healed = asyncio.Event()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        fault, healed = self._fault, self._healed
        call = await self._received(request)
        if call is None:
            return _closed(request)
        self.calls.append(call)
        await asyncio.sleep(fault.seconds)
        answer = fault.refusal or Answer.EMPTY
        if fault.executes and fault.refusal is None:
            answer = await asyncio.to_thread(self._answer, call, request.raw_path)
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

    def _answer(self, call: Call, target: str) -> Answer:
        parameters = Parameters(
            {key: value for key, value in call.parameters.items() if isinstance(value, str)}
        )
        match call.method, call.command:
            case "GET", "dome_getspaceinfo":
                return self._getspaceinfo()
            case "GET", "dome_statpfn":
                return self._statpfn(parameters.text("pfn"), parameters.flag("matchfs", True))
            case "POST", "dome_pfnrm":
                return self._pfnrm(parameters.text("pfn"))
            case "GET", _:
                return Answer.text(f"Command '{target}' unknown for a GET request. I like your style.", 418)
            case _:
                return Answer.text(
                    f"Command '{call.command}' unknown for a POST request.  Nice joke, eh ?", 418
                )

    def _getspaceinfo(self) -> Answer:
        if not self.file_systems:
            return Answer.json({})
        spaces = {path: _space(directory) for path, directory in self.file_systems.items()}
        return Answer.json({"fsinfo": {self.server: spaces}})

    def _statpfn(self, pfn: str, matchfs: bool) -> Answer:
        if not pfn:
            return Answer.text("pfn is empty.", 422)
        file = self.file(pfn)
        if file is None and matchfs:
            return Answer.text(f"Path '{pfn}' is not in any filesystem of this server.", 404)
        try:
            found = os.stat(file or pfn)  # noqa: PTH116 - a Path would tidy the pfn
        except (OSError, ValueError) as error:
            return Answer.text(f"Cannot stat pfn:'{pfn}' err: {_errno_text(error)}", 404)
        is_directory = "true" if stat.S_ISDIR(found.st_mode) else "false"
        return Answer.json({"size": str(found.st_size), "mode": str(found.st_mode), "isdir": is_directory})

    def _pfnrm(self, pfn: str) -> Answer:
        if not pfn:
            return Answer.text("pfn is empty.", 422)
        if not pfn.startswith("/"):
            return Answer.text(f"Path '{pfn}' is not an absolute path.", 404)
        file = self.file(pfn)
        if file is None:
            return Answer.text(f"Path '{pfn}' is not a valid pfn.", 422)
        try:
            file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
        except FileNotFoundError:
            return Answer.text(f"Rm successful. The file or dir '{pfn}' not there anyway.")
        except (OSError, ValueError) as error:
            return Answer.text(f"Rm of pfn:'{pfn}' failed, err: {_errno_text(error)}", 422)
        return Answer.text("Rm successful.")


def _space(directory: Path) -> Mapping[str, str]:
    """activitystatus: 1 online, 2 broken."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return {"freespace": "0", "physicalsize": "0", "activitystatus": "2"}
    return {
        "freespace": str(found.f_bavail * found.f_frsize),
        "physicalsize": str(found.f_blocks * found.f_frsize),
        "activitystatus": "1",
    }


def _errno_text(error: OSError | ValueError) -> str:
    return (error.strerror or "") if isinstance(error, OSError) else str(error)


def _closed(request: web.BaseRequest) -> web.Response:
    """Closes the connection; the answer goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
