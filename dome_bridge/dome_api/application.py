"""From an HTTP request to a command and back: what all commands have in common.

Nothing is routed by path: the last component of the raw target names the command, as in DOME.
Answers have a Content-Length, are never chunked and never compressed, and leave the connection
open. Whatever a command raises becomes an answer here, and only here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web
from pymysql.constants import ER

from dome_bridge.dome_api.command import Access, Commands
from dome_bridge.dome_api.head import Call, Head
from dome_bridge.dome_api.request import Peer, RemoteUser, Request, is_plain
from dome_bridge.dome_api.wire import Answer, Parameters, command_of
from dome_bridge.dpm.fenced import is_fenced
from dome_bridge.dpm.source import ConnectionLostError, StatementError
from dome_bridge.errors import ApiError, BridgeError

logger = logging.getLogger(__name__)
access_log = logging.getLogger("dome_bridge.access")

MAX_BODY_BYTES = 1024 * 1024
BODY_SECONDS = 30.0
"""A body that has not arrived by then is given up, as in XrdHttp."""

RETRY_AFTER_SECONDS = 10
LOST_REASON = "the catalog's database cannot be reached: try again"

SERVER = "dome-bridge"
"""What answers call themselves."""

UNKNOWN = "unknown"
"""The label of a command that does not exist: a client must not be able to make metrics."""

_BUSY = frozenset({ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK, ER.CHECKREAD})

_PATH_KEYS = ("lfn", "path", "oldpath", "link", "rfn", "pfn", "username", "groupname", "poolname")

Identify = Callable[[web.BaseRequest], Peer]


class Observer(Protocol):
    """Is told of every answer. seconds: from the request's head to the answer."""

    def answered(self, command: str, status: int, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class _Outcome:
    command: str
    answer: Answer
    peer: Peer
    user: RemoteUser
    path: str


class Application:
    """Answers requests. clock: seconds that only go forward."""

    def __init__(
        self,
        head: Head,
        commands: Commands,
        observer: Observer,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._head = head
        self._commands = commands
        self._observer = observer
        self._clock = clock

    async def respond(self, request: web.BaseRequest, identify: Identify) -> web.Response:
        """identify: who the peer is, by the rules of the listener it came through."""
        began = self._clock()
        outcome = await self._outcome(request, identify)
        seconds = self._clock() - began
        self._observer.answered(outcome.command, outcome.answer.status, seconds)
        _log(outcome, seconds)
        response = _response(outcome.answer)
        await self._send(request, response)
        return response

    async def _send(self, request: web.BaseRequest, response: web.Response) -> None:
        """A client that does not take its answer must not keep it here for ever."""
        try:
            async with asyncio.timeout(self._head.config.api.request_seconds):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            logger.info("answer not taken address=%s", request.remote)
            if request.transport is not None:
                request.transport.abort()

    async def _outcome(self, request: web.BaseRequest, identify: Identify) -> _Outcome:
        peer, user, path = Peer(address=request.remote or ""), RemoteUser(), ""
        name = command_of(request.raw_path)
        known = name if name in self._commands else UNKNOWN
        try:
            body = await _body(request)
            peer = identify(request)
            user = _remote_user(request)
            call = Request(request.method, request.raw_path, name, Parameters.from_body(body), peer, user)
            path = _path_of(call.parameters)
            async with asyncio.timeout(self._head.config.api.request_seconds):
                answer = await self._answer(call)
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure is an answer to somebody
            answer = _answer_for(exc, name)
        return _Outcome(known, answer, peer, user, path)

    async def _answer(self, request: Request) -> Answer:
        is_authorised = await self._head.authoriser.is_authorised(request.peer)
        command = self._commands.find(request.method, request.command)
        if not is_authorised:
            anybody = self._commands.find("GET", request.command)
            if anybody is None or anybody.access is not Access.ANYBODY:
                raise ApiError(403, f"{request.peer.dn} is unauthorized. Sorry :-)")
            command = anybody
        if command is None:
            return _without_command(request)
        return await command.run(Call(self._head, request))


async def _body(request: web.BaseRequest) -> bytes:
    """Raises ApiError: 413 for one too long, 408 for one that does not arrive, 400 for a broken one."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise ApiError(413, f"the request's body is longer than {MAX_BODY_BYTES} bytes")
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while piece := await request.content.readany():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise ApiError(413, f"the request's body is longer than {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise ApiError(408, f"the request's body did not arrive within {BODY_SECONDS:g} s") from None
    except (web.RequestPayloadError, ConnectionError) as exc:
        raise ApiError(400, f"the request's body is broken: {exc}") from exc
    return bytes(body)


def _remote_user(request: web.BaseRequest) -> RemoteUser:
    """Raises ApiError 400 for identities that could be read in two ways."""
    given = [(name.lower(), value) for name, value in request.headers.items()]
    headers = [(name, value) for name, value in given if name.startswith("remoteclient")]
    if len({name for name, _ in headers}) < len(headers):
        raise ApiError(400, "a remoteclient header is given twice")
    for name, value in headers:
        if not is_plain(value):
            raise ApiError(400, f"the header {name} holds control characters or is not UTF-8")
    return RemoteUser.from_headers(headers)


def _without_command(request: Request) -> Answer:
    match request.method:
        case "HEAD":
            return Answer(200, b"You sent me a HEAD request. Nice, eh ?", "text/html")
        case "GET":
            text = f"Command '{request.target}' unknown for a GET request. I like your style."
        case "POST":
            text = f"Command '{request.command}' unknown for a POST request.  Nice joke, eh ?"
        case _:
            raise ApiError(405, f"{request.method} is no verb for commands: use GET or POST")
    logger.warning("unknown command method=%s command=%s", request.method, _quoted(request.command))
    return Answer.text(text, 418)


def _answer_for(exc: Exception, command: str) -> Answer:
    match exc:
        case ApiError():
            return Answer.text(exc.text, exc.status)
        case StatementError() if is_fenced(exc):
            return Answer.text("the catalog is read-only while this site moves to dCache: try again", 503)
        case StatementError() if exc.number in _BUSY:
            logger.warning("database busy command=%s error=%s", _quoted(command), exc)
            return Answer.text("others hold what the command needs to change: try again", 503)
        case ConnectionLostError():
            logger.warning("database lost command=%s error=%s", _quoted(command), exc)
            return Answer.text(LOST_REASON, 503)
        case TimeoutError():
            logger.warning("request took too long command=%s", _quoted(command))
            return Answer.text("the request took too long and was given up: try again", 503)
        case BridgeError():
            logger.error("command failed command=%s error=%s", _quoted(command), exc)
            return Answer.text(f"{command} failed: {' '.join(str(exc).split())}", 500)
    logger.error("command failed command=%s", _quoted(command), exc_info=exc)
    return Answer.text(f"{command} failed: internal error, see the log of dome-bridge", 500)


def _response(answer: Answer) -> web.Response:
    headers = {"Content-Type": answer.content_type, "Server": SERVER}
    if answer.status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    response = web.Response(status=answer.status, body=answer.body, headers=headers)
    if answer.status in (408, 413):
        response.force_close()
    return response


def _path_of(parameters: Parameters) -> str:
    key = next((key for key in _PATH_KEYS if key in parameters), None)
    try:
        return parameters.text(key) if key else ""
    except ApiError:
        return ""


def _log(outcome: _Outcome, seconds: float) -> None:
    access_log.info(
        "client=%s address=%s user=%s command=%s path=%s status=%d ms=%.1f",
        *(_quoted(outcome.peer.dn), outcome.peer.address or "-", _quoted(outcome.user.dn)),
        *(outcome.command, _quoted(outcome.path), outcome.answer.status, seconds * 1000),
    )


def _quoted(text: str) -> str:
    """For a line of a log: whatever a client sends stays within its quotes."""
    return json.dumps(text)
