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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Protocol

from aiohttp import web
from pymysql.constants import ER

from dome_bridge.auth.audit import AuditLine, Decision, without_credentials, write
from dome_bridge.auth.authenticate import Authenticator, Evidence, Method, Presented, Standards
from dome_bridge.auth.bearer import without_token
from dome_bridge.auth.contact import Contact
from dome_bridge.auth.principal import ANONYMOUS, Kind, Principal
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.dome_api.answers import forbidden, refusal
from dome_bridge.dome_api.authorise import (
    admitted,
    by_scope_of_hosts,
    require_objects,
    require_somebody,
)
from dome_bridge.dome_api.command import Command, Commands
from dome_bridge.dome_api.head import Call, Head
from dome_bridge.dome_api.http_server import SERVER
from dome_bridge.dome_api.people import IdentityError
from dome_bridge.dome_api.request import Peer, Request
from dome_bridge.dome_api.standing import Records, Standing
from dome_bridge.dome_api.wire import Answer, Parameters, command_of, is_odd_target
from dome_bridge.dpm.fenced import is_fenced
from dome_bridge.dpm.source import ConnectionLostError, StatementError
from dome_bridge.errors import ApiError, BridgeError

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
RETRY_AFTER_SECONDS = 10
LOST_REASON = "the catalog's database cannot be reached: try again"

UNKNOWN = "unknown"
"""The label of a command that does not exist: a client must not be able to make metrics."""

_BUSY = frozenset({ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK, ER.CHECKREAD})

ALLOWED_BY: Mapping[Kind, str] = {
    Kind.NODE: "N6",
    Kind.FRONTEND: "N6",
    Kind.USER: "N1",
    Kind.ADMIN: "N3",
    Kind.CAPABILITY: "M1",
    Kind.GROUP: "G2",
    Kind.POWERLESS: "H7",
    Kind.ANONYMOUS: "H7",
}
"""What lets each kind of principal in, for the log."""

_RULES_OF_BODIES = {413: "L2", 408: "L7"}

_PATH_KEYS = ("lfn", "path", "oldpath", "link", "rfn", "pfn", "username", "groupname", "poolname")


class Observer(Protocol):
    """Is told of every answer. seconds: from the request's head to the answer."""

    def answered(self, command: str, status: int, seconds: float) -> None: ...

    def auth_failed(self, method: Method, reason: Reason) -> None: ...


@dataclass
class _Case:
    """A request on its way through; what is known of it is there for the log however it ends."""

    command: str
    evidence: Evidence = field(default_factory=Evidence)
    principal: Principal = ANONYMOUS
    parameters: Parameters = field(default_factory=Parameters)
    paths: Sequence[str] = ()
    """Of what the request names by a number, where that was looked up."""
    rule: str = ""
    reason: str = ""
    decision: Decision = Decision.ALLOW

    def refused(self, exc: AuthError) -> None:
        """What has been found out by then is for the log, though nothing of it counts."""
        self.decision, self.rule, self.reason = Decision.DENY, exc.rule, str(exc)
        if self.principal is ANONYMOUS:
            found = self.evidence
            self.principal = replace(
                ANONYMOUS,
                kind=found.kind,
                role=found.role,
                user=found.asserted.user,
                groups=found.asserted.groups,
                channel=found.channel,
                token=found.token,
            )

    def answered(self, exc: ApiError) -> None:
        """DPM's own permissions refuse, too, and so does a request that could be read in two ways."""
        if exc.status == 403 or self.principal is ANONYMOUS:
            self.decision, self.reason = Decision.DENY, exc.text
            self.rule = self.rule or _RULES_OF_BODIES.get(exc.status, "")
        if isinstance(exc, IdentityError):
            self.rule = "U4"


class Application:
    """Answers requests. standards: by which requests are judged now. clock: seconds that only go forward."""

    def __init__(
        self,
        head: Head,
        commands: Commands,
        observer: Observer,
        authenticator: Authenticator,
        standards: Callable[[], Standards],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._head = head
        self._commands = commands
        self._observer = observer
        self._authenticator = authenticator
        self._standards = standards
        self._records = Records(head.people)
        self._numbers = count(1)
        self._clock = clock

    async def respond(self, request: web.BaseRequest, contact: Contact) -> web.Response:
        began = self._clock()
        name = command_of(request.raw_path)
        case = _Case(name if name in self._commands else UNKNOWN)
        case.evidence.address = self._authenticator.address_of(tuple(request.headers.items()), contact)
        answer = await self._outcome(request, contact, name, case)
        seconds = self._clock() - began
        self._observer.answered(case.command, answer.status, seconds)
        self._log(case, answer.status, seconds)
        response = _response(answer)
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

    async def _outcome(self, request: web.BaseRequest, contact: Contact, name: str, case: _Case) -> Answer:
        try:
            body = await _body(request, self._head.config.auth.body_seconds)
            async with asyncio.timeout(self._head.config.api.request_seconds):
                return await self._answer(request, contact, name, body, case)
        except AuthError as exc:
            case.refused(exc)
            self._observer.auth_failed(case.evidence.method, exc.reason)
            return refusal(exc, case.principal, case.evidence, realm=self._head.fqdn)
        except ApiError as exc:
            case.answered(exc)
            if exc.status == 403:
                return forbidden(exc, case.principal, realm=self._head.fqdn)
            return Answer.text(exc.text, exc.status)
        except Exception as exc:  # noqa: BLE001 - the boundary: every failure is an answer to somebody
            return _answer_for(exc, name)

    async def _answer(
        self, request: web.BaseRequest, contact: Contact, name: str, body: bytes, case: _Case
    ) -> Answer:
        if is_odd_target(request.raw_path):
            case.rule = "H8"
            raise ApiError(
                400, "the request's path has dots, an encoded slash or a host in it: leave them out"
            )
        presented = Presented(request.method, request.raw_path, tuple(request.headers.items()))
        case.principal = await self._authenticator.principal(presented, contact, case.evidence)
        case.rule = ALLOWED_BY[case.principal.kind]
        command = self._commands.find("GET", name)
        if command is not None and command.admission.anybody and _is_for_anybody(request, case.principal):
            return await self._run(request, command, Parameters(), case, None)
        standing = await self._standing(case.principal)
        if standing is not None and case.principal.groups is None:
            case.principal = replace(case.principal, groups=standing.user.groups)
        command = self._commands.find(request.method, name)
        if command is None or not command.admission.anybody:
            # Nothing of what strangers send is read, nor are they told which commands there are.
            require_somebody(case.principal)
        case.parameters = Parameters.from_body(body)
        if command is None:
            return _without_command(request, name)
        return await self._run(request, command, case.parameters, case, standing)

    async def _standing(self, principal: Principal) -> Standing | None:
        standards = self._standards()
        if principal.kind is Kind.ANONYMOUS:
            return None
        return await self._records.standing(principal, standards.bans, standards.vos)

    async def _run(
        self,
        request: web.BaseRequest,
        command: Command,
        parameters: Parameters,
        case: _Case,
        standing: Standing | None,
    ) -> Answer:
        principal = case.principal
        standards = self._standards()
        parameters = case.parameters = admitted(command, parameters, principal, standards.auth)
        peer = Peer(principal.channel.dn, principal.address)
        known = Request(request.method, request.raw_path, command.name, parameters, peer, principal=principal)
        if standing is not None:
            known = known.on_behalf_of(standing.user)
        call = Call(self._head, known, standing, standards.auth, standards.vos)
        if by_scope_of_hosts(principal, command.admission):
            case.rule = "M6"
        case.paths = await require_objects(call, command)
        return await command.run(call)

    def _log(self, case: _Case, status: int, seconds: float) -> None:
        paths = [*(text for key in _PATH_KEYS if (text := _text(case.parameters, key))), *case.paths]
        write(
            AuditLine(
                at=time.time(),
                decision=case.decision,
                req=str(next(self._numbers)),
                peer=case.evidence.address,
                cmd=case.command,
                path=paths[0] if paths else "",
                dst=_text(case.parameters, "newpath"),
                who=case.principal,
                rule=case.rule,
                status=status,
                seconds=seconds,
                reason=case.reason,
                claimed=case.evidence.claimed,
            )
        )


async def _body(request: web.BaseRequest, seconds: float) -> bytes:
    """Raises ApiError: 413 for one too long, 408 for one that does not arrive, 400 for a broken one."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise ApiError(413, f"the request's body is longer than {MAX_BODY_BYTES} bytes")
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while piece := await request.content.readany():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise ApiError(413, f"the request's body is longer than {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise ApiError(408, f"the request's body did not arrive within {seconds:g} s") from None
    except (web.RequestPayloadError, ConnectionError) as exc:
        raise ApiError(400, f"the request's body is broken: {exc}") from exc
    return bytes(body)


def _is_for_anybody(request: web.BaseRequest, principal: Principal) -> bool:
    """Others than the site's own servers may take any verb, as in DOME."""
    return request.method == "GET" or not principal.is_peer


def _without_command(request: web.BaseRequest, name: str) -> Answer:
    target = without_token(request.raw_path)
    match request.method:
        case "HEAD":
            return Answer(200, b"You sent me a HEAD request. Nice, eh ?", "text/html")
        case "GET":
            text = f"Command '{target}' unknown for a GET request. I like your style."
        case "POST":
            text = f"Command '{name}' unknown for a POST request.  Nice joke, eh ?"
        case _:
            raise ApiError(405, f"{request.method} is no verb for commands: use GET or POST")
    logger.warning("unknown command method=%s command=%s", request.method, json.dumps(name))
    # Whoever puts a token in the wrong place has it in the path.
    return Answer.text(without_credentials(text), 418)


def _answer_for(exc: Exception, command: str) -> Answer:
    match exc:
        case StatementError() if is_fenced(exc):
            return Answer.text("the catalog is read-only while this site moves to dCache: try again", 503)
        case StatementError() if exc.number in _BUSY:
            logger.warning("database busy command=%s error=%s", json.dumps(command), exc)
            return Answer.text("others hold what the command needs to change: try again", 503)
        case ConnectionLostError():
            logger.warning("database lost command=%s error=%s", json.dumps(command), exc)
            return Answer.text(LOST_REASON, 503)
        case TimeoutError():
            logger.warning("request took too long command=%s", json.dumps(command))
            return Answer.text("the request took too long and was given up: try again", 503)
        case BridgeError():
            logger.error("command failed command=%s error=%s", json.dumps(command), exc)
            return Answer.text(f"{command} failed: {' '.join(str(exc).split())}", 500)
    logger.error("command failed command=%s", json.dumps(command), exc_info=exc)
    return Answer.text(f"{command} failed: internal error, see the log of dome-bridge", 500)


def _response(answer: Answer) -> web.Response:
    headers = {"Content-Type": answer.content_type, "Server": SERVER, **dict(answer.headers)}
    if answer.status == 503:
        headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    response = web.Response(status=answer.status, body=answer.body, headers=headers)
    if answer.status in (408, 413):
        response.force_close()
    return response


def _text(parameters: Parameters, key: str) -> str:
    try:
        return parameters.text(key)
    except ApiError:
        return ""
