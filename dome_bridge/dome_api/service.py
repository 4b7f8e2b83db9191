"""The DOME API as a whole: put together, started, and ended in order."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import AsyncExitStack
from typing import Protocol, Self

from dome_bridge.auth.audit import keep_credentials_out_of_logs
from dome_bridge.config import AuthConfig, Config, DiskConfig
from dome_bridge.config_cautions import cautions
from dome_bridge.dome_api.application import Application, Observer
from dome_bridge.dome_api.cluster_watch import ClusterObserver
from dome_bridge.dome_api.command import Commands
from dome_bridge.dome_api.commands import COMMANDS
from dome_bridge.dome_api.commands_links import LinkSource, link_commands
from dome_bridge.dome_api.disk_client import DiskClient, Resolve
from dome_bridge.dome_api.disk_tls import client_tls
from dome_bridge.dome_api.doorkeeper import AuthObserver, Doorkeeper
from dome_bridge.dome_api.head import Head
from dome_bridge.dome_api.leftovers import LeftoverObserver, count_forever
from dome_bridge.dome_api.listeners import Listeners, ListenLimits
from dome_bridge.dome_api.removal import finish_forever
from dome_bridge.dpm.pool import ConnectionPool
from dome_bridge.dpm.schema import read_layout
from dome_bridge.dpm.source import Source
from dome_bridge.errors import SchemaError

logger = logging.getLogger(__name__)

STOP_SECONDS = 20.0
"""What running requests get to finish when the service ends."""


class ServiceObserver(Observer, AuthObserver, ClusterObserver, LeftoverObserver, Protocol):
    """Is told of answers and refusals, and of what is heard of the disk servers."""


class ApiService:
    """An asynchronous context: listens inside of it. observer: is told of answers and disk servers.

    resolve: address and port of a disk server, if not its name and the configured port. links: what
    disk servers may ask for their pool directories.
    """

    def __init__(
        self,
        config: Config,
        observer: ServiceObserver,
        *,
        stop_seconds: float = STOP_SECONDS,
        resolve: Resolve | None = None,
        links: LinkSource | None = None,
    ) -> None:
        self._config = config
        self._links = links
        self._observer = observer
        self._stop_seconds = stop_seconds
        self._resolve = resolve
        self._stack = AsyncExitStack()
        self._listeners: Listeners | None = None
        self._doorkeeper: Doorkeeper | None = None

    def reload(self) -> None:
        """Has certificates, bans, issuers and the like looked at now, as after SIGHUP."""
        if self._doorkeeper is not None:
            self._doorkeeper.reload()

    @property
    def ports(self) -> list[int]:
        """The TCP ports in use, in the order of the settings."""
        return self._listeners.ports if self._listeners else []

    async def __aenter__(self) -> Self:
        """Raises BridgeError if the database or a file cannot be used, or an address cannot be had."""
        keep_credentials_out_of_logs()
        for caution in cautions(self._config.api, self._config.auth):
            logger.warning("%s", caution)
        async with AsyncExitStack() as stack:
            head = await self._make_head(stack)
            self._own(stack, head)
            self._doorkeeper = Doorkeeper(self._config, head.database, self._observer, hosts=head.hosts)
            await self._doorkeeper.open(stack)
            self._listeners = await self._listen(stack, head, self._doorkeeper)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def _make_head(self, stack: AsyncExitStack) -> Head:
        config = self._config
        database = ConnectionPool(config.dpm, config.api.database_connections)
        stack.push_async_callback(database.close)
        await database.read(_require_known_catalog)
        names = config.api.host_names or (socket.getfqdn(),)
        fqdn = names[0]
        disks = DiskClient(
            config.disk,
            secret=config.auth.xrdhttp_secret,
            dn=f"/CN={fqdn}",
            host=fqdn,
            resolve=self._resolve or _resolve(config.disk),
            tls=await asyncio.to_thread(client_tls, config.disk),
        )
        await stack.enter_async_context(disks)
        head = Head.over(config, database, disks, self._observer, hosts=names)
        await head.watch.reread()
        return head

    async def _listen(self, stack: AsyncExitStack, head: Head, doorkeeper: Doorkeeper) -> Listeners:
        api = self._config.api
        commands = Commands(COMMANDS, link_commands(self._links)) if self._links else COMMANDS
        application = Application(
            head, commands, self._observer, doorkeeper.authenticator, lambda: doorkeeper.standards
        )
        listeners = Listeners(
            api.listen,
            application.respond,
            tls=doorkeeper.tls_context if doorkeeper.tls else None,
            limits=_limits(self._config.auth),
            admits=doorkeeper.disks,
            observer=doorkeeper,
            keepalive_seconds=api.keepalive_seconds,
            stop_seconds=self._stop_seconds,
            long_fields=frozenset({api.proxied.cert_header}),
        )
        await listeners.start()
        stack.push_async_callback(listeners.stop)
        return listeners

    def _own(self, stack: AsyncExitStack, head: Head) -> None:
        """What goes on in the background as long as the service lasts."""
        stop = asyncio.Event()
        tasks = [
            asyncio.create_task(finish_forever(head, stop=stop)),
            asyncio.create_task(head.watch.run_forever()),
            asyncio.create_task(count_forever(head, self._observer)),
            asyncio.create_task(head.checksums.run_forever()),
            asyncio.create_task(head.pulls.run_forever()),
        ]

        async def end() -> None:
            stop.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        stack.push_async_callback(end)


def _limits(auth: AuthConfig) -> ListenLimits:
    return ListenLimits(
        connections_per_source=auth.connections_per_source,
        handshakes=auth.handshakes,
        first_byte_seconds=auth.first_byte_seconds,
        handshake_seconds=auth.handshake_seconds,
        header_seconds=auth.header_seconds,
    )


def _resolve(disk: DiskConfig) -> Resolve:
    addresses = {address.server: (address.host, address.port) for address in disk.addresses}
    return lambda server: addresses.get(server, (server, disk.port))


async def _require_known_catalog(source: Source) -> None:
    layout = await read_layout(source)
    has_xattrs = layout.has_xattr and layout.has_replica_xattr and layout.has_account_xattr
    if not (has_xattrs and layout.has_path):
        raise SchemaError(
            "the DOME API needs the xattr columns of schema version 3.2.0 and the paths of quotatokens of "
            "3.5.0: upgrade DPM's databases with the scripts of its own release first"
        )
