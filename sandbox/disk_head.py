"""How a disk node speaks to its head: over HTTP, as a host that a web server has authenticated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import aiohttp

from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.wire import render

_DONE = frozenset({200, 202})


def user_in(headers: Iterable[tuple[str, str]]) -> RemoteUser:
    """For whom a request was sent. Of a header that comes twice the last counts, as in XrdHttp."""
    found = {name.lower(): value.strip(" \t") for name, value in headers}
    groups = found.get("remoteclientgroups", "")
    return RemoteUser(
        dn=found.get("remoteclientdn", ""),
        host=found.get("remoteclienthost", ""),
        groups=tuple(filter(None, groups.split(","))),
    )


@dataclass(frozen=True)
class HeadAccess:
    """Where the head is and what the node shows there.

    url: with the prefix, `http://127.0.0.1:8094/domehead`, of a `proxied` listener. dn: of the node's host
    certificate; by default /DC=org/DC=example/CN=<server>. seconds: for a whole call.
    """

    url: str = ""
    dn: str = ""
    verify_header: str = "x-ssl-client-verify"
    dn_header: str = "x-ssl-client-s-dn"
    seconds: float = 15.0


@dataclass(frozen=True)
class Told:
    """A call to the head and its answer; status 0: there was none, and the text says why."""

    command: str
    parameters: Mapping[str, str]
    user: RemoteUser
    status: int
    text: str

    @property
    def is_done(self) -> bool:
        return self.status in _DONE


class HeadClient:
    """Usable from `start` to `close`. access: may be replaced at any time. told: all calls and answers."""

    def __init__(self, access: HeadAccess, server: str) -> None:
        self.access = access
        self.told: list[Told] = []
        self._server = server
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        # A connection per call: a head that was restarted is no reason for a report to be lost.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def call(self, method: str, command: str, parameters: Mapping[str, str], user: RemoteUser) -> Told:
        """Never raises for a head that refuses or cannot be reached: see the status."""
        try:
            status, text = await self._exchange(method, command, parameters, user)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            status, text = 0, f"the head cannot be reached: {error or type(error).__name__}"
        told = Told(command, dict(parameters), user, status, text)
        self.told.append(told)
        return told

    async def _exchange(
        self, method: str, command: str, parameters: Mapping[str, str], user: RemoteUser
    ) -> tuple[int, str]:
        if self._session is None or not self.access.url:
            raise aiohttp.ClientConnectionError("the node does not run" if self.access.url else "it has none")
        async with (
            asyncio.timeout(self.access.seconds),
            self._session.request(
                method,
                f"{self.access.url.rstrip('/')}/command/{command}",
                data=render(parameters) if parameters else None,
                headers=self._headers(user),
                allow_redirects=False,
            ) as response,
        ):
            return response.status, (await response.read()).decode("utf-8", "surrogateescape")

    def _headers(self, user: RemoteUser) -> dict[str, str]:
        access = self.access
        headers = {
            access.verify_header: "SUCCESS",
            access.dn_header: access.dn or f"/DC=org/DC=example/CN={self._server}",
            "remoteclientdn": user.dn,
            "remoteclienthost": user.host,
            "remoteclientgroups": ",".join(user.groups),
        }
        return {name: value for name, value in headers.items() if value}
