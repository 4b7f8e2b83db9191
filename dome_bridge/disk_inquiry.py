"""Disk servers asked by the DOME API's client, for a part of the program that does not know it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from dome_bridge.config import Config
from dome_bridge.dome_api.cluster import Activity
from dome_bridge.dome_api.disk_client import DiskClient, Resolve
from dome_bridge.dome_api.disk_tls import client_tls
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.errors import DiskError
from dome_bridge.exporter.disk_answers import DiskServers, FileSystemAnswer, PathAnswer, ServerAnswer


def may_ask(config: Config) -> bool:
    """Whether disk servers would believe us: requests are signed, or come with a certificate."""
    return bool(config.auth.xrdhttp_secret) or config.disk.scheme == "https"


@asynccontextmanager
async def disk_servers(
    config: Config, *, resolve: Resolve | None = None
) -> AsyncIterator[DiskServers | None]:
    """None where no credentials for them are configured. resolve: address and port of a server."""
    if not may_ask(config):
        yield None
        return
    name = (config.api.host_names or (socket.getfqdn(),))[0]
    addresses = {each.server: (each.host, each.port) for each in config.disk.addresses}
    client = DiskClient(
        config.disk,
        secret=config.auth.xrdhttp_secret,
        dn=f"/CN={name}",
        host=name,
        resolve=resolve or (lambda server: addresses.get(server, (server, config.disk.port))),
        tls=await asyncio.to_thread(client_tls, config.disk),
    )
    async with client:
        yield _Inquiry(client)


class _Inquiry:
    """Answers instead of errors."""

    def __init__(self, client: DiskClient) -> None:
        self._client = client

    async def space(self, server: str) -> ServerAnswer:
        try:
            answer = await self._client.call(server, "GET", "dome_getspaceinfo", {}, RemoteUser())
            return _space(json.loads(answer.text), server)
        except DiskError as exc:
            return ServerAnswer(problem=str(exc))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return ServerAnswer(problem="its answer to dome_getspaceinfo cannot be read")

    async def stat(self, server: str, pfn: str) -> PathAnswer:
        try:
            answer = await self._client.call(
                server, "GET", "dome_statpfn", {"pfn": pfn, "matchfs": "true"}, RemoteUser()
            )
            found = json.loads(answer.text)
            return PathAnswer(int(found["size"]), str(found.get("isdir")).lower() == "true")
        except DiskError as exc:
            return PathAnswer(problem=getattr(exc, "text", "") or str(exc))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return PathAnswer(problem="its answer to dome_statpfn cannot be read")


def _space(answer: Any, server: str) -> ServerAnswer:
    mine = answer["fsinfo"].get(server, {})
    return ServerAnswer({str(path): _filesystem(values) for path, values in mine.items()})


def _filesystem(values: Mapping[str, Any]) -> FileSystemAnswer:
    broken = str(values.get("activitystatus")) == str(int(Activity.BROKEN))
    return FileSystemAnswer(int(str(values["freespace"])), int(str(values["physicalsize"])), broken)
