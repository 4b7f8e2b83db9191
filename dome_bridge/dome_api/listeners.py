"""Where requests come in, and what is spoken there.

`https`: TLS, a client certificate is optional. `http`: plain HTTP with requests signed as XrdHttp does.
`mixed`: both of these and xrootd's own protocol on one port, told apart by their first bytes.
`proxied`: plain HTTP behind a web server of this machine, which has authenticated the client and says
so in headers; the settings see to it that nobody else can reach it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence

from dome_bridge.config import ListenConfig
from dome_bridge.dome_api.front_door import Crowd, FrontDoor, bound_socket
from dome_bridge.dome_api.http_server import (
    HttpServer,
    ListenLimits,
    Observer,
    Respond,
    require_strict_parser,
)
from dome_bridge.dome_api.reception import Admits, MakeTls, Premises, Reception
from dome_bridge.dome_api.server_tls import require_readable_chains
from dome_bridge.errors import ConfigError

__all__ = ["Admits", "ListenLimits", "Listeners", "MakeTls", "Observer", "Respond"]

logger = logging.getLogger(__name__)

TLS_PROTOCOLS = frozenset({"https", "mixed"})


class Listeners:
    """All listeners, from `start` to `stop`. stop_seconds: what running requests get to finish.

    respond: answers a request and sends the answer. tls: what `https` and `mixed` need.
    long_fields: headers of `proxied` listeners that carry certificates, in lower case.
    """

    def __init__(
        self,
        listen: Sequence[ListenConfig],
        respond: Respond,
        *,
        tls: MakeTls | None,
        limits: ListenLimits,
        admits: Admits,
        observer: Observer,
        keepalive_seconds: float,
        stop_seconds: float,
        long_fields: frozenset[str] = frozenset(),
    ) -> None:
        self._listen = listen
        self._respond = respond
        self._tls = tls
        self._limits = limits
        self._admits = admits
        self._observer = observer
        self._keepalive_seconds = keepalive_seconds
        self._stop_seconds = stop_seconds
        self._long_fields = long_fields
        self._doors: list[FrontDoor] = []
        self._premises: Premises | None = None

    @property
    def ports(self) -> list[int]:
        """The TCP ports in use, in the order of the settings."""
        return [door.port for door in self._doors if door.port]

    async def start(self) -> None:
        """Raises ConfigError if an address cannot be had or something is missing; nothing listens then."""
        self._require_what_is_needed()
        listening = _all_bound(self._listen)
        self._premises = premises = self._make_premises()
        for listen, each in zip(self._listen, listening, strict=True):
            door = FrontDoor(each, Reception(listen, premises).receive)
            door.open()
            self._doors.append(door)
            logger.info("api listens place=%s protocol=%s", listen.place, listen.protocol)

    async def stop(self) -> None:
        """Takes no new requests, waits for those that run, then ends them. Harmless when not started.

        What xrootd has is cut off: its clients come again by themselves.
        """
        doors, self._doors = self._doors, []
        premises, self._premises = self._premises, None
        for door in doors:
            door.close()
        if premises is not None:
            await _cancelled({task for door in doors for task in door.serving} - premises.settled)
            await premises.server.finish(self._stop_seconds)
            await asyncio.gather(*premises.settled, return_exceptions=True)

    def _make_premises(self) -> Premises:
        limits = self._limits
        return Premises(
            server=HttpServer(
                self._respond, limits, self._observer, keepalive_seconds=self._keepalive_seconds
            ),
            tls=self._tls,
            limits=limits,
            admits=self._admits,
            observer=self._observer,
            crowd=Crowd(limits.connections_per_source),
            handshakes=Crowd(limits.handshakes),
            handshakes_of_source=Crowd(limits.handshakes_of_source),
            long_fields=self._long_fields,
        )

    def _require_what_is_needed(self) -> None:
        require_strict_parser()
        for listen in self._listen:
            if listen.protocol in TLS_PROTOCOLS:
                require_readable_chains()
                if self._tls is None:
                    raise ConfigError(
                        f"{listen.protocol} on {listen.place} needs a host certificate: set [api.tls]"
                    )


def _all_bound(listen: Sequence[ListenConfig]) -> list[socket.socket]:
    listening: list[socket.socket] = []
    try:
        for each in listen:
            listening.append(_bound(each))
    except BaseException:
        for bound in listening:
            bound.close()
        raise
    return listening


def _bound(listen: ListenConfig) -> socket.socket:
    try:
        return bound_socket(listen.unix_socket or (listen.address, listen.port))
    except OSError as exc:
        raise ConfigError(
            f"cannot listen on {listen.place}: {exc.strerror or exc}; "
            "set [[api.listen]] to a place that is free on this machine"
        ) from exc


async def _cancelled(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
