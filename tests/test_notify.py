"""What reaches systemd's socket, on a real one."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dome_bridge.notify import Notifier


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.environ = {"NOTIFY_SOCKET": address}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def messages(self) -> list[str]:
        found = []
        try:
            while True:
                found.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    abstract = f"@dome-bridge-test-{secrets.token_hex(8)}"
    listener = Systemd(abstract if request.param == "abstract" else str(tmp_path / "notify"))
    yield listener
    listener.close()


class Sleeps:
    """Lets a loop turn so many times, then ends it as a cancellation would."""

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if len(self.seconds) == self.turns:
            raise asyncio.CancelledError


def watched(systemd: Systemd, **environ: str) -> Notifier:
    return Notifier.from_environ(systemd.environ | {"WATCHDOG_USEC": "30000000"} | environ, pid=42)


def test_life_of_a_daemon_is_told(systemd: Systemd) -> None:
    notifier = Notifier.from_environ(systemd.environ)
    notifier.ready("snapshot")
    notifier.status("following, lag 1 s")
    notifier.stopping()
    assert systemd.messages() == ["READY=1\nSTATUS=snapshot", "STATUS=following, lag 1 s", "STOPPING=1"]


def test_ready_without_a_status_is_one_line(systemd: Systemd) -> None:
    Notifier.from_environ(systemd.environ).ready()
    assert systemd.messages() == ["READY=1"]


def test_same_status_is_sent_once(systemd: Systemd) -> None:
    notifier = Notifier.from_environ(systemd.environ)
    for text in ("waiting", "waiting", "following"):
        notifier.status(text)
    assert systemd.messages() == ["STATUS=waiting", "STATUS=following"]


def test_newline_in_a_status_cannot_become_another_message(systemd: Systemd) -> None:
    Notifier.from_environ(systemd.environ).status("following\nWATCHDOG=1")
    assert systemd.messages() == ["STATUS=following WATCHDOG=1"]


def test_nothing_happens_without_systemd(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier.from_environ({})
    notifier.ready()
    notifier.status("following")
    notifier.ping()
    notifier.stopping()
    assert not caplog.records


def test_socket_that_is_gone_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier(str(tmp_path / "gone")).ready()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_unknown_kind_of_socket_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    Notifier.from_environ({"NOTIFY_SOCKET": "vsock:2:1234"}).ready()
    assert len(caplog.records) == 1


async def test_watchdog_is_fed_at_half_of_its_interval(systemd: Systemd) -> None:
    sleeps = Sleeps(3)
    with pytest.raises(asyncio.CancelledError):
        await watched(systemd).feed_watchdog(lambda: True, sleep=sleeps)
    assert sleeps.seconds == [15, 15, 15]
    assert systemd.messages() == ["WATCHDOG=1"] * 3


async def test_watchdog_is_not_fed_while_nothing_moves(
    systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    alive = iter([True, False, False, True])
    with pytest.raises(asyncio.CancelledError):
        await watched(systemd).feed_watchdog(lambda: next(alive), sleep=Sleeps(4))
    assert systemd.messages() == ["WATCHDOG=1"] * 2
    assert [record.message for record in caplog.records] == [
        "no progress: systemd will restart this within 30 s"
    ]


@pytest.mark.parametrize(
    "environ",
    [{"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_PID": "43"}],
    ids=["empty", "zero", "no number", "of another process"],
)
async def test_watchdog_that_is_not_ours_is_not_fed(systemd: Systemd, environ: dict[str, str]) -> None:
    notifier = watched(systemd, **environ)
    assert notifier.watchdog_seconds is None
    await notifier.feed_watchdog(lambda: True)
    assert systemd.messages() == []


async def test_watchdog_of_this_process_is_fed(systemd: Systemd) -> None:
    assert watched(systemd, WATCHDOG_PID="42").watchdog_seconds == 30
