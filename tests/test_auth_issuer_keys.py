"""Keys of issuers over time: refreshed, kept, given up, fetched on demand (D7 to D10, H9, R5)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dome_bridge.auth import keyset
from dome_bridge.auth.discovery import Fetched
from dome_bridge.auth.issuer_keys import DAY, HOUR, IssuerKeys, KeyStatus, Schedule
from dome_bridge.auth.key_store import KeyStore
from dome_bridge.auth.keyset import KeySetError
from dome_bridge.auth.refusal import AuthError, Reason
from sandbox.issuer import SigningKey
from sandbox.pki import rsa_key

URL = "https://iam.example.org"
START = 1_800_000_000.0

OLD = SigningKey("old", rsa_key())
NEW = SigningKey.elliptic("new")


class Night:
    """A clock, and sleepers who wake when a test lets their time pass."""

    def __init__(self) -> None:
        self.time = START
        self.pauses: list[float] = []
        self._until = 0.0
        self._alarm = asyncio.Event()
        self._asleep = asyncio.Event()

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._until = self.time + seconds
        self._alarm.clear()
        self._asleep.set()
        try:
            await self._alarm.wait()
        finally:
            self._asleep.clear()

    async def fallen(self) -> None:
        """Waits until the sleeper is asleep."""
        await self._asleep.wait()

    async def pass_on(self) -> float:
        """Wakes the sleeper at his time, and waits until he is asleep again; his pause then."""
        await self.fallen()
        self.time = self._until
        self._asleep.clear()
        self._alarm.set()
        await self.fallen()
        return self.pauses[-1]


class Server:
    """What an issuer publishes, and how it is just now."""

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = list(keys)
        self.max_age: float | None = None
        self.is_down = False
        self.error: Exception = KeySetError("the issuer is down")
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = asyncio.Event()
        self.fetches = 0

    async def fetch(self) -> Fetched:
        self.fetches += 1
        self.asked.set()
        await self.may_answer.wait()
        if self.is_down:
            raise self.error
        document = json.dumps({"keys": [key.jwk for key in self.keys]}).encode()
        return Fetched(keyset.load(document), self.max_age)


Open = Callable[..., AbstractAsyncContextManager[IssuerKeys]]


@pytest.fixture
def night() -> Night:
    return Night()


@pytest.fixture
def server() -> Server:
    return Server(OLD)


@pytest.fixture
def opened(night: Night, server: Server) -> Open:
    """Keys of the server, which sleep in the night."""

    @asynccontextmanager
    async def open_keys(**settings: Any) -> AsyncIterator[IssuerKeys]:
        keys = IssuerKeys("vo", server.fetch, now=night.now, sleep=night.sleep, **settings)
        await keys.start()
        try:
            yield keys
        finally:
            await keys.stop()

    return open_keys


async def refusal(keys: IssuerKeys, kid: str) -> AuthError:
    with pytest.raises(AuthError) as caught:
        await keys.key(kid)
    return caught.value


# Refreshed in the background.


async def test_d7_keys_are_fetched_every_six_hours(opened: Open, night: Night, server: Server) -> None:
    async with opened():
        assert await night.pass_on() == 6 * HOUR
        assert await night.pass_on() == 6 * HOUR
        assert server.fetches == 3


@pytest.mark.parametrize(
    ("max_age", "pause"),
    [(7200, 7200), (3600, 3600), (3599, 14400), (60, 14400), (18000, 14400), (86400, 14400), (None, 14400)],
)
async def test_d7_issuer_may_ask_for_an_earlier_refresh(
    opened: Open, night: Night, server: Server, max_age: float | None, pause: float
) -> None:
    server.max_age = max_age
    async with opened(schedule=Schedule(refresh=4 * HOUR)):
        await night.fallen()
        assert night.pauses == [pause]


async def test_d7_removed_key_is_refused_at_once_after_the_refresh(
    opened: Open, night: Night, server: Server
) -> None:
    async with opened() as keys:
        assert (await keys.key("old")).kid == "old"
        server.keys = [NEW]
        assert await keys.key("old")
        await night.pass_on()
        found = await refusal(keys, "old")
        assert (found.status, found.rule, found.reason) == (401, "T7", Reason.UNKNOWN_KEY)
        assert await keys.key("new")


async def test_d7_all_keys_removed_is_unknown_key_and_not_an_outage(
    opened: Open, night: Night, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as keys:
        server.keys = []
        await night.pass_on()
        assert (await refusal(keys, "old")).status == 401
        assert "none of its keys can be used issuer=vo" in caplog.text


async def test_d7_known_key_does_not_wait_for_a_scheduled_refresh(
    opened: Open, night: Night, server: Server
) -> None:
    async with opened() as keys:
        await night.fallen()
        server.may_answer.clear()
        server.asked.clear()
        passing = asyncio.create_task(night.pass_on())
        await server.asked.wait()
        async with asyncio.timeout(1):
            assert await keys.key("old")
        server.may_answer.set()
        await passing


async def test_d7_unchanged_key_set_stays_the_same_object(opened: Open, night: Night) -> None:
    async with opened() as keys:
        await night.fallen()
        before = keys.current
        await night.pass_on()
        assert keys.current is before


# An issuer that is down.


async def test_d8_failed_refresh_is_repeated_ever_less_often(
    opened: Open, night: Night, server: Server
) -> None:
    async with opened():
        await night.fallen()
        server.is_down = True
        assert [await night.pass_on() for _ in range(7)] == [60, 120, 240, 480, 900, 900, 900]
        server.is_down = False
        assert await night.pass_on() == 6 * HOUR


async def test_d8_last_keys_count_until_they_are_two_days_old(
    opened: Open, night: Night, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as keys:
        await night.fallen()
        server.is_down = True
        await night.pass_on()
        night.time = START + 2 * DAY - 1
        assert await keys.key("old")
        night.time = START + 2 * DAY
        found = await refusal(keys, "old")
        assert (found.status, found.rule, found.reason) == (503, "H9", Reason.NO_KEYS)
        assert "the issuer is down" in str(found)
        assert "its tokens are refused: keys_age_h=48.0" in caplog.text


async def test_d8_issuer_that_is_back_is_believed_again(opened: Open, night: Night, server: Server) -> None:
    server.is_down = True
    async with opened(schedule=Schedule(keep=HOUR)) as keys:
        assert (await refusal(keys, "old")).status == 503
        server.is_down = False
        await night.pass_on()
        assert await keys.key("old")


async def test_d8_keys_are_as_old_as_the_last_answer_even_if_it_brought_nothing_new(
    opened: Open, night: Night, server: Server
) -> None:
    async with opened() as keys:
        await night.pass_on()
        server.is_down = True
        night.time = START + 2 * DAY + 6 * HOUR - 1
        assert await keys.key("old")
        assert keys.status.fetched == START + 6 * HOUR


async def test_d8_time_that_keys_are_kept_is_configured(opened: Open, night: Night, server: Server) -> None:
    async with opened(schedule=Schedule(keep=4 * DAY)) as keys:
        await night.fallen()
        server.is_down = True
        night.time += 4 * DAY - 1
        assert await keys.key("old")
        night.time += 1
        assert (await refusal(keys, "old")).status == 503


async def test_d8_surprising_error_of_a_fetch_is_a_failed_refresh(
    opened: Open, night: Night, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as keys:
        await night.fallen()
        server.is_down, server.error = True, RuntimeError("never thought of")
        assert await night.pass_on() == 60
        assert await keys.key("old")
        assert "RuntimeError: never thought of" in caplog.text


async def test_h9_issuer_that_never_answered_is_503(opened: Open, server: Server) -> None:
    server.is_down = True
    async with opened() as keys:
        found = await refusal(keys, "old")
        assert (found.status, found.rule) == (503, "H9")


async def test_h9_first_request_waits_for_the_first_fetch(opened: Open, server: Server) -> None:
    server.may_answer.clear()
    async with opened() as keys:
        waiting = [asyncio.create_task(keys.key("old")) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        server.may_answer.set()
        assert [key.kid for key in await asyncio.gather(*waiting)] == ["old"] * 3
        assert server.fetches == 1


async def test_h9_requests_find_an_issuer_that_is_back_within_a_minute(
    opened: Open, night: Night, server: Server
) -> None:
    server.is_down = True
    async with opened() as keys:
        await night.fallen()
        assert (await refusal(keys, "old")).status == 503
        server.is_down = False
        night.time += 59
        assert (await refusal(keys, "old")).status == 503
        night.time += 1
        assert await keys.key("old")


# Kept on disk.


def store(directory: Path, issuer: str = URL, *, is_writable: bool = True) -> KeyStore:
    return KeyStore(directory, "vo", issuer, is_writable=is_writable)


async def test_d8_restart_while_the_issuer_is_down_works(
    opened: Open, night: Night, server: Server, tmp_path: Path
) -> None:
    async with opened(store=store(tmp_path)):
        await night.fallen()
    server.is_down = True
    night.time += DAY
    async with opened(store=store(tmp_path)) as keys:
        assert await keys.key("old")
        # Their age is that of the fetch, not of the restart.
        assert keys.status.fetched == START
        night.time = START + 2 * DAY
        assert (await refusal(keys, "old")).status == 503


async def test_d8_kept_keys_do_not_spare_the_fetch(
    opened: Open, night: Night, server: Server, tmp_path: Path
) -> None:
    async with opened(store=store(tmp_path)):
        await night.fallen()
    server.keys = [NEW]
    async with opened(store=store(tmp_path)) as keys:
        await night.fallen()
        assert (await refusal(keys, "old")).status == 401


@pytest.mark.parametrize("age", [2 * DAY, 30 * DAY, -HOUR])
async def test_d8_kept_keys_that_are_too_old_or_of_the_future_are_ignored(
    opened: Open, night: Night, server: Server, tmp_path: Path, age: float
) -> None:
    store(tmp_path).save((await server.fetch()).keys, START - age)
    server.is_down = True
    async with opened(store=store(tmp_path)) as keys:
        assert (await refusal(keys, "old")).status == 503


async def test_d8_kept_file_has_public_members_only_and_is_open_to_readers(
    server: Server, tmp_path: Path
) -> None:
    directory = tmp_path / "lib" / "jwks"
    store(directory).save((await server.fetch()).keys, START)
    file = directory / "vo.json"
    assert [path.name for path in directory.iterdir()] == ["vo.json"]
    assert file.stat().st_mode & 0o777 == 0o644
    assert set(json.loads(file.read_text())["keys"][0]) == {"kty", "n", "e", "alg", "kid"}
    kept = store(directory).load()
    assert kept is not None
    assert (set(kept.keys.keys), kept.fetched) == ({"old"}, START)


def _into_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _into_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def _into_link(file: Path) -> None:
    file.rename(file.with_name("else"))
    file.symlink_to("else")


SPOILT: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "not UTF-8": lambda file: file.write_bytes(b"\xff"),
    "array": lambda file: file.write_text("[]"),
    "without time": lambda file: file.write_text(json.dumps({"issuer": URL, "keys": []})),
    "time is text": lambda file: file.write_text(json.dumps({"issuer": URL, "keys": [], "fetched": "1"})),
    "without keys": lambda file: file.write_text(json.dumps({"issuer": URL, "fetched": 1})),
    "of another issuer": lambda file: file.write_text(file.read_text().replace(URL, f"{URL}/")),
    "group may write": lambda file: file.chmod(0o664),
    "everybody may write": lambda file: file.chmod(0o646),
    "directory": _into_directory,
    "pipe": _into_pipe,
    "link": _into_link,
}


@pytest.mark.parametrize("case", SPOILT)
async def test_d8_spoilt_kept_file_is_ignored_with_a_warning(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    store(tmp_path).save((await server.fetch()).keys, START)
    SPOILT[case](tmp_path / "vo.json")
    assert store(tmp_path).load() is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"kept keys are ignored file={tmp_path}/vo.json" in caplog.text


async def test_d8_keys_that_cannot_be_kept_are_used_all_the_same(
    opened: Open, night: Night, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    async with opened(store=store(tmp_path / "file")) as keys:
        await night.fallen()
        assert await keys.key("old")
        assert "keys are not kept over a restart" in caplog.text


async def test_d8_nothing_is_written_by_who_only_looks(server: Server, tmp_path: Path) -> None:
    store(tmp_path, is_writable=False).save((await server.fetch()).keys, START)
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240 - a directory of this test


# Fetched on demand.


async def test_d9_unknown_key_is_looked_for_at_once(opened: Open, night: Night, server: Server) -> None:
    async with opened() as keys:
        await night.fallen()
        server.keys = [OLD, NEW]
        assert (await keys.key("new")).kid == "new"
        assert server.fetches == 2


async def test_d9_thousand_unknown_keys_cost_one_fetch(opened: Open, night: Night, server: Server) -> None:
    async with opened() as keys:
        await night.fallen()
        for number in range(1000):
            assert (await refusal(keys, f"random-{number}")).status == 401
        assert server.fetches == 2
        night.time += 59
        await refusal(keys, "random")
        assert server.fetches == 2
        night.time += 1
        await refusal(keys, "random")
        assert server.fetches == 3


async def test_d9_concurrent_requests_share_a_fetch(opened: Open, night: Night, server: Server) -> None:
    async with opened() as keys:
        await night.fallen()
        server.keys, server.may_answer = [NEW], asyncio.Event()
        waiting = [asyncio.create_task(keys.key("new")) for _ in range(100)]
        await asyncio.sleep(0.01)
        server.may_answer.set()
        assert {key.kid for key in await asyncio.gather(*waiting)} == {"new"}
        assert server.fetches == 2


async def test_d9_request_that_is_cancelled_does_not_end_the_fetch(
    opened: Open, night: Night, server: Server
) -> None:
    async with opened() as keys:
        await night.fallen()
        server.keys, server.may_answer = [NEW], asyncio.Event()
        first, second = (asyncio.create_task(keys.key("new")) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        server.may_answer.set()
        assert (await second).kid == "new"
        assert first.cancelled()
        assert server.fetches == 2


async def test_d9_known_key_does_not_wait_for_one_that_is_looked_for(
    opened: Open, night: Night, server: Server
) -> None:
    async with opened() as keys:
        await night.fallen()
        server.may_answer.clear()
        looking = asyncio.create_task(keys.key("new"))
        await asyncio.sleep(0.01)
        async with asyncio.timeout(1):
            assert await keys.key("old")
        server.may_answer.set()
        with pytest.raises(AuthError):
            await looking


async def test_d9_clock_that_is_set_back_does_not_stop_fetches(
    opened: Open, night: Night, server: Server
) -> None:
    async with opened() as keys:
        await night.fallen()
        await refusal(keys, "new")
        night.time -= DAY
        server.keys = [NEW]
        assert await keys.key("new")


# Figures, start and stop.


async def test_r5_age_of_the_keys_and_the_last_failure_are_told(
    opened: Open, night: Night, server: Server
) -> None:
    async with opened() as keys:
        await night.fallen()
        assert keys.status == KeyStatus("vo", True, 1, START, 0, "")
        server.is_down = True
        await night.pass_on()
        await night.pass_on()
        assert keys.status == KeyStatus("vo", True, 1, START, 2, "the issuer is down")
        night.time = START + 3 * DAY
        assert keys.status == KeyStatus("vo", False, 0, START, 2, "the issuer is down")


async def test_change_of_keys_is_logged_with_what_came_and_went(
    opened: Open, night: Night, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with opened():
            await night.fallen()
            server.keys = [NEW]
            await night.pass_on()
            await night.pass_on()
    changes = [record.getMessage() for record in caplog.records if "keys are taken" in record.getMessage()]
    assert changes == [
        "keys are taken issuer=vo before=0 after=1 new=['old'] gone=[]",
        "keys are taken issuer=vo before=1 after=1 new=['new'] gone=['old']",
    ]


async def test_stopped_keys_leave_no_task_and_nobody_waiting(server: Server) -> None:
    before = asyncio.all_tasks()
    server.may_answer.clear()
    keys = IssuerKeys("vo", server.fetch)
    await keys.start()
    waiting = asyncio.create_task(keys.key("old"))
    await asyncio.sleep(0.01)
    await keys.stop()
    with pytest.raises(AuthError, match="no keys that can be used"):
        await waiting
    assert asyncio.all_tasks() <= before
    await keys.stop()
