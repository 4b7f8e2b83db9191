"""Tells systemd how the daemon is: sd_notify(3) without its library.

Nothing happens when systemd did not start us. The watchdog is only fed while the caller says
that there is progress, so a daemon that hangs is restarted although its event loop turns.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping

logger = logging.getLogger(__name__)


class Notifier:
    """One datagram for each message, to the socket that systemd named.

    address: a path, or a name in the abstract namespace after `@`; empty for silence.
    watchdog_seconds: after so long without a ping systemd ends us; None if it does not watch.
    """

    def __init__(self, address: str = "", *, watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._last_status = ""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], *, pid: int | None = None) -> Notifier:
        """With NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID of the environment."""
        address = environ.get("NOTIFY_SOCKET", "")
        if address and address[0] not in "/@":
            logger.warning("NOTIFY_SOCKET is of a kind that is not known address=%s", address)
            address = ""
        return cls(address, watchdog_seconds=_watchdog_seconds(environ, os.getpid() if pid is None else pid))

    def ready(self, status: str = "") -> None:
        self._send(f"READY=1\nSTATUS={_one_line(status)}" if status else "READY=1")

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows; sent when it is another one."""
        if text != self._last_status:
            self._send(f"STATUS={_one_line(text)}")
            self._last_status = text

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def ping(self) -> None:
        self._send("WATCHDOG=1")

    async def feed_watchdog(
        self, is_alive: Callable[[], bool], *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """Pings at half of the interval while `is_alive`, until it is cancelled."""
        if self.watchdog_seconds is None or not self._address:
            return
        was_alive = True
        while True:
            alive = is_alive()
            if alive:
                self.ping()
            elif was_alive:
                logger.error("no progress: systemd will restart this within %.0f s", self.watchdog_seconds)
            was_alive = alive
            await sleep(self.watchdog_seconds / 2)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.connect(self._address)
                channel.send(message.encode())
        except OSError as exc:
            logger.warning("systemd was not told message=%s error=%s", message.partition("\n")[0], exc)


def _watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        logger.warning("WATCHDOG_USEC is no number value=%s", environ["WATCHDOG_USEC"])
        return None
    return microseconds / 1e6 if microseconds > 0 else None


def _one_line(text: str) -> str:
    return " ".join(text.split())
