"""The head's client for disk nodes: one request, and what is known of its outcome.

Whoever deletes must know whether a failed request may have been carried out, so a failure is one of three:
refused (the disk says: not done), unreachable (nothing was sent) and unknown (sent, no full answer). What is
not certain is unknown: cut answers, answers that are none of DOME's, a gateway's own 502 to 504.

Every request has a connection of its own. On a kept one the disk may hang up at the moment of sending, so
that nobody knows whether it was heard; and a disk that leaves a body unread answers that as a further
request, which would pass for the answer to our next one. It costs a quarter of a millisecond.
No POST is sent twice. Whoever gets DiskUnknownError from `remove` may ask again: an absent file is success.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from dome_bridge.auth import xrdhttp
from dome_bridge.config_sections import DiskConfig
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.wire import Tree, render
from dome_bridge.errors import ConfigError, DiskError

Resolve = Callable[[str], tuple[str, int]]
"""From a disk server's name to the address and port to connect to."""

_DONE = frozenset({200, 202})
# What a gateway in front of the daemon says when it got no answer itself.
_GATEWAY_WITHOUT_ANSWER = frozenset({502, 503, 504})

_ANSWER_BYTES = 4 * 1024 * 1024
_SHOWN_CHARACTERS = 200

_SERVER = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_][\w-]{0,62}(?:\.[A-Za-z0-9_][\w-]{0,62})*\Z", re.ASCII)
_COMMAND = re.compile(r"[a-z0-9_]+\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TOKEN = re.compile(r"(xrdhttptk=)[^&\s'\"<>]+", re.IGNORECASE)


class DiskRefusedError(DiskError):
    """The disk answered: not done. `text` is its answer."""

    def __init__(self, message: str, *, status: int, text: str) -> None:
        super().__init__(message)
        self.status = status
        self.text = text


class DiskUnreachableError(DiskError):
    """Nothing was sent, so nothing was done."""


class DiskUnknownError(DiskError):
    """Sent, but no complete answer came: it may have been done."""


@dataclass(frozen=True, slots=True)
class DiskAnswer:
    """The answer to a request that was done: status 200 or 202."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class _Order:
    server: str
    method: str
    command: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def __str__(self) -> str:
        return f"disk server {self.server}: {self.command}"


@dataclass(slots=True)
class _Progress:
    """How far a request came. With a connection it counts as sent, to be on the safe side."""

    connected: bool = False


@dataclass(frozen=True, slots=True)
class _Loss:
    """No complete answer came, and why."""

    reason: str
    was_sent: bool


class DiskClient:
    """Talks to all disk servers; usable from `start` to `close`.

    secret: the XrdHttp key; without one requests go out unsigned. dn, host: what the token calls the head.
    resolve: for servers whose name and port are not those of the network. tls: for https, with the client
    certificate; the default has none.
    """

    def __init__(
        self,
        disk: DiskConfig,
        *,
        secret: str,
        dn: str,
        host: str,
        now: Callable[[], float] = time.time,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if secret and not host:
            raise ConfigError(
                "requests to disk servers cannot be signed without the head's host name: set it"
            )
        self._disk = disk
        self._secret, self._dn, self._host = secret, dn, host
        self._now = now
        self._resolve = resolve or (lambda server: (server, disk.port))
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        if self._session is not None:
            raise RuntimeError("the disk client is started already")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                limit_per_host=self._disk.connections_per_server,
                force_close=True,
                ssl=self._tls or True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "dome-bridge"},
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self._disk.connect_seconds, sock_connect=self._disk.connect_seconds
            ),
            trace_configs=[_tracing()],
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Requests under way end with DiskUnknownError. Harmless when not started."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def call(
        self,
        server: str,
        method: str,
        command: str,
        body: Mapping[str, Tree],
        user: RemoteUser,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it decides between two errors, a caller's could not
    ) -> DiskAnswer:
        """Have `server` do `command` for `user`. Raises one of the three DiskErrors if it is not done.

        timeout: seconds for all of it; by default the configured ones for connection and answer together.
        """
        order = _Order(
            server=_checked_server(server),
            method=method,
            command=command,
            path=self._path(command),
            headers=_user_headers(server, user),
            body=_document(server, body),
        )
        if timeout is None:
            timeout = self._disk.connect_seconds + self._disk.request_seconds
        return _settled(order, await self._outcome(order, timeout))

    async def remove(
        self, server: str, pfn: str, user: RemoteUser, *, body: Mapping[str, Tree] | None = None
    ) -> None:
        """Delete the file `pfn`; an absent one is success. body: sent along, with the pfn, by delreplica."""
        if not pfn.startswith("/") or ".." in pfn.split("/"):
            raise _unsendable(server, "the pfn is not an absolute path without ..")
        await self.call(server, "POST", "dome_pfnrm", {**(body or {}), "pfn": pfn}, user)

    def _path(self, command: str) -> str:
        if not _COMMAND.match(command):
            raise ValueError(f"{command!r} is not the name of a command")
        return f"{self._disk.url_prefix.rstrip('/')}/command/{command}"

    async def _outcome(self, order: _Order, seconds: float) -> DiskAnswer | _Loss:
        progress = _Progress()
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(order, progress)
        except TimeoutError:
            reason = "no answer in time" if progress.connected else "no connection in time"
        except (aiohttp.ClientError, OSError) as error:
            reason = _reason(error)
        # The error must not become the context of ours: it has the URL, and that has the token.
        return _Loss(reason, progress.connected)

    async def _exchange(self, order: _Order, progress: _Progress) -> DiskAnswer:
        if self._session is None or self._session.closed:
            raise aiohttp.ClientConnectionError("the client is closed")
        async with self._session.request(
            order.method,
            self._url(order),
            data=order.body,
            headers=order.headers,
            allow_redirects=False,
            # the certificate is for the name that DPM knows, wherever that leads
            server_hostname=order.server if self._tls else None,
            trace_request_ctx=progress,
        ) as response:
            return DiskAnswer(response.status, await _text(response))

    def _url(self, order: _Order) -> URL:
        address, port = self._resolve(order.server)
        token = ""
        if self._secret:
            token = xrdhttp.sign(
                self._secret, order.method, order.path, now=int(self._now()), host=self._host, dn=self._dn
            )
        # Encoded: yarl's own quoting would undo the second encoding of a DN.
        return URL.build(
            scheme=self._disk.scheme,
            host=address,
            port=port,
            path=quote(order.path),
            query_string=token,
            encoded=True,
        )


def _tracing() -> aiohttp.TraceConfig:
    tracing = aiohttp.TraceConfig()
    tracing.on_connection_create_end.append(_note_connection)
    return tracing


async def _note_connection(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    progress: _Progress = context.trace_request_ctx
    progress.connected = True


async def _text(response: aiohttp.ClientResponse) -> str:
    """The answer without tokens: a disk that knows no such command quotes the URL of the request."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > _ANSWER_BYTES:
            raise aiohttp.ClientPayloadError("too long")
    return _TOKEN.sub(r"\1***", data.decode("utf-8", "surrogateescape"))


def _settled(order: _Order, outcome: DiskAnswer | _Loss) -> DiskAnswer:
    """The answer, if it says done; else what is certain is raised."""
    if isinstance(outcome, _Loss):
        if outcome.was_sent:
            raise _unknown(order, outcome.reason)
        raise DiskUnreachableError(
            f"{order}: nothing was sent: {outcome.reason}: see that its daemon runs and can be reached"
        )
    if outcome.status in _DONE:
        return outcome
    said = f"it answered {outcome.status} {_on_one_line(outcome.text)!r}"
    if not _is_refusal(outcome):
        raise _unknown(order, said)
    raise DiskRefusedError(
        f"{order}: not done: {said}: see the log of its daemon", status=outcome.status, text=outcome.text
    )


def _is_refusal(outcome: DiskAnswer) -> bool:
    """DOME's errors are plain text: a page of HTML about a server error is a gateway's, who cannot know."""
    if 400 <= outcome.status <= 499:
        return True
    is_page = outcome.text.lstrip().startswith("<")
    return 500 <= outcome.status <= 599 and outcome.status not in _GATEWAY_WITHOUT_ANSWER and not is_page


def _unknown(order: _Order, reason: str) -> DiskUnknownError:
    return DiskUnknownError(f"{order}: may have been done: {reason}: see the log of its daemon, ask again")


def _reason(error: Exception) -> str:
    """In our words, as aiohttp's have the URL with the token."""
    match error:
        case aiohttp.ClientConnectorError(os_error=socket.gaierror()):
            return "its name has no address"
        case aiohttp.ClientSSLError():
            return "TLS was not agreed on"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "its answer was cut off or too long"
        case aiohttp.ClientResponseError():
            return "its answer is not HTTP"
        case OSError(errno=int() as number):
            return os.strerror(number)
    return f"the connection failed ({type(error).__name__})"


def _checked_server(server: str) -> str:
    if not _SERVER.match(server):
        raise _unsendable(server, "this is not a host name")
    return server


def _user_headers(server: str, user: RemoteUser) -> dict[str, str]:
    """In lower case, as XrdHttp passes names on as they come. An absent DN means root to a disk node."""
    headers = {
        "remoteclientdn": user.dn,
        "remoteclienthost": user.host,
        "remoteclientgroups": ",".join(user.groups),
    }
    for name, value in headers.items():
        if problem := _header_problem(value):
            raise _unsendable(server, f"{name} {problem}")
    if user.dn and not xrdhttp.trimmed(user.dn):
        raise _unsendable(server, "remoteclientdn would be taken for an empty one, which is root's")
    if any("," in group for group in user.groups):
        raise _unsendable(server, "a group with a comma would be taken for two")
    return {name: value for name, value in headers.items() if value}


def _header_problem(value: str) -> str:
    if _CONTROL.search(value):
        return "has control characters"
    try:
        value.encode()
    except UnicodeEncodeError:
        # aiohttp would leave such bytes out without a word: another name.
        return "is not UTF-8"
    return ""


def _document(server: str, body: Mapping[str, Tree]) -> bytes:
    # A C++ disk node ends a path at a NUL, and would act on another file.
    if _has_nul(body):
        raise _unsendable(server, "a parameter has a NUL byte")
    return render(body) if body else b""


def _has_nul(tree: Tree) -> bool:
    if isinstance(tree, str):
        return "\0" in tree
    if isinstance(tree, Mapping):
        return any("\0" in key or _has_nul(value) for key, value in tree.items())
    return any(_has_nul(item) for item in tree)


def _unsendable(server: str, problem: str) -> DiskUnreachableError:
    return DiskUnreachableError(
        f"disk server {server[:_SHOWN_CHARACTERS]!a}: nothing was sent: {problem}: correct what names it"
    )


def _on_one_line(text: str) -> str:
    shown = "".join(character if character.isprintable() else " " for character in text[:_SHOWN_CHARACTERS])
    return " ".join(shown.split())
