"""Reading files again: when, what stays in force meanwhile, and what is said about it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dome_bridge.auth.bans import load_bans
from dome_bridge.auth.expiry import DAY, ExpiryReminder
from dome_bridge.auth.reload import SETTLE_LOOKS, Reloader, Watched, stamp_of
from dome_bridge.errors import ConfigError
from tests.fixtures.command import until

Words = tuple[str, ...]


def load_words(path: Path) -> Callable[[Words | None], Words]:
    """A file that holds no word is an error."""

    def load(previous: Words | None) -> Words:
        words = tuple(path.read_text().split())
        if not words:
            raise ConfigError(f"{path}: no\nword")
        return words

    return load


def write(path: Path, text: str) -> None:
    path.write_text(text)


@dataclass
class Seen:
    """What the observer and the listeners were told."""

    ended: list[bool] = field(default_factory=list)
    accepted: list[Words] = field(default_factory=list)
    looked_at: list[Words] = field(default_factory=list)

    def reload_ended(self, what: str, *, failed: bool) -> None:
        assert what == "words"
        self.ended.append(failed)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "words"
    path.write_text("one")
    return path


@pytest.fixture
async def words(path: Path, seen: Seen) -> Watched[Words]:
    watched = Watched(
        "words",
        load_words(path),
        [path],
        count=lambda words: {"words": len(words)},
        accepted=seen.accepted.append,
        looked_at=seen.looked_at.append,
        observer=seen,
    )
    await watched.start()
    return watched


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


# R1: what is noticed


def rewrite(path: Path) -> None:
    path.write_text("other")


def replace_atomically(path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_text("two")
    new.replace(path)


def rewrite_keeping_size_and_time(path: Path) -> None:
    before = path.stat()
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_rights(path: Path) -> None:
    path.chmod(0o600 if path.stat().st_mode & 0o077 else 0o644)


@pytest.mark.parametrize(
    "change",
    [rewrite, replace_atomically, rewrite_keeping_size_and_time, change_rights, Path.unlink],
    ids=lambda change: change.__name__,
)
def test_r1_changed_file_has_another_stamp(path: Path, change: Callable[[Path], None]) -> None:
    before = stamp_of([path])
    assert stamp_of([path]) == before
    change(path)
    assert stamp_of([path]) != before


def add(directory: Path) -> None:
    (directory / "new.0").write_text("x")


def add_below(directory: Path) -> None:
    (directory / "vo" / "new.lsc").write_text("x")


def change_below(directory: Path) -> None:
    (directory / "vo" / "host.lsc").write_text("xx")


def remove(directory: Path) -> None:
    (directory / "a.r0").unlink()


def change_behind_link(directory: Path) -> None:
    (directory / "ca.pem").write_text("xx")


@pytest.mark.parametrize(
    "change", [add, add_below, change_below, remove, change_behind_link], ids=lambda change: change.__name__
)
def test_r1_changed_directory_has_another_stamp(tmp_path: Path, change: Callable[[Path], None]) -> None:
    for name in ("ca.pem", "a.r0", "vo/host.lsc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "hash.0").symlink_to("ca.pem")
    (tmp_path / "loop").symlink_to(".")
    before = stamp_of([tmp_path])
    assert stamp_of([tmp_path]) == before
    change(tmp_path)
    after = stamp_of([tmp_path])
    assert after != before
    assert len(after) < 50


def test_r1_file_that_appears_has_another_stamp(tmp_path: Path) -> None:
    before = stamp_of([tmp_path / "later", tmp_path / "later" / "below"])
    (tmp_path / "later").write_text("x")
    assert stamp_of([tmp_path / "later", tmp_path / "later" / "below"]) != before


# R2: what is in force


async def test_r2_changed_file_is_another_object_with_the_next_generation(
    words: Watched[Words], path: Path, seen: Seen
) -> None:
    before = words.current
    await words.look()
    assert words.current is before
    write(path, "two words")
    await words.look()
    assert words.current == (("two", "words"), 2)
    assert before == (("one",), 1)
    assert seen.accepted == [("one",), ("two", "words")]
    assert seen.looked_at == [("one",), ("one",), ("two", "words")]


async def test_r2_reading_leaves_the_event_loop_alone_and_the_old_object_in_force(path: Path) -> None:
    going_on, threads = threading.Event(), []

    def load(previous: Words | None) -> Words:
        threads.append(threading.current_thread())
        assert previous is None or going_on.wait(10)
        return tuple(path.read_text().split())

    watched = Watched("words", load, [path])
    await watched.start()
    write(path, "two")
    looking = asyncio.create_task(watched.look())
    await until(lambda: len(threads) == 2, 5, "the reading")
    assert watched.current == (("one",), 1)
    going_on.set()
    await looking
    assert watched.current == (("two",), 2)
    assert threading.main_thread() not in threads


async def test_r2_what_was_read_before_is_given_to_the_next_reading(path: Path) -> None:
    given: list[int | None] = []

    def load(previous: int | None) -> int:
        given.append(previous)
        return len(given)

    watched = Watched("count", load, [path])
    await watched.start()
    write(path, "two")
    await watched.look()
    assert given == [None, 1]


async def test_r2_change_during_the_reading_is_seen_at_the_next_look(path: Path) -> None:
    def load(previous: str | None) -> str:
        text = path.read_text()
        if text == "two":
            write(path, "three")
        return text

    watched = Watched("text", load, [path])
    await watched.start()
    write(path, "two")
    await watched.look()
    assert watched.value == "two"
    await watched.look()
    assert watched.current == ("three", 3)


# R3: errors


async def test_r3_error_keeps_the_old_and_is_logged_once_per_change(
    words: Watched[Words], path: Path, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    write(path, "")
    for _ in range(3):
        await words.look()
    assert words.current == (("one",), 1)
    assert words.is_failing
    (message,) = messages(caplog, logging.ERROR)
    assert "what=words generation=1" in message
    assert message.endswith("words: no word")
    write(path, " ")
    await words.look()
    await asyncio.to_thread(path.unlink)
    await words.look()
    assert len(messages(caplog, logging.ERROR)) == 3
    assert seen.ended == [False, True, True, True, True, True]
    write(path, "two")
    await words.look()
    assert (words.value, words.generation, words.is_failing) == (("two",), 2, False)
    assert seen.ended[-1] is False
    assert seen.accepted == [("one",), ("two",)]


async def test_r3_what_failed_for_another_reason_than_the_file_is_tried_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    troubles = iter([OSError(24, "Too many open files"), OSError(24, "Too many open files"), None])

    def load(previous: str | None) -> str:
        if previous is not None and (trouble := next(troubles)):
            raise trouble
        return path.read_text()

    watched = Watched("text", load, [path])
    await watched.start()
    write(path, "two")
    for _ in range(3):
        await watched.look()
    assert watched.value == "two"
    assert len(messages(caplog, logging.ERROR)) == 1


async def test_r3_first_reading_that_fails_is_an_error_of_the_start(path: Path) -> None:
    write(path, "")
    with pytest.raises(ConfigError):
        await Reloader([Watched("words", load_words(path), [path])]).start()


async def test_r3_listener_that_fails_does_not_undo_the_reading(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(words: Words) -> None:
        raise RuntimeError("it")

    watched = Watched("words", load_words(path), [path], accepted=fail)
    await watched.start()
    write(path, "two")
    await watched.look()
    assert watched.value == ("two",)
    assert len(messages(caplog, logging.ERROR)) == 2


@dataclass
class Pair:
    """Two files that are good only together."""

    first: Path
    second: Path
    readings: int = 0

    def load(self, previous: Words | None) -> Words:
        self.readings += 1
        if self.first.read_text() != self.second.read_text():
            raise ConfigError("the key does not fit the certificate")
        return (self.first.read_text(),)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    for name in ("certificate", "key"):
        (tmp_path / name).write_text("old")
    return Pair(tmp_path / "certificate", tmp_path / "key")


async def test_r3_set_that_is_half_written_is_read_when_it_is_complete(pair: Pair, seen: Seen) -> None:
    watched = Watched("words", pair.load, [pair.first, pair.second], observer=seen)
    await watched.start()
    write(pair.first, "new")
    still_to_come = [(pair.first, "newer"), (pair.second, "newer")]

    async def pause(seconds: float) -> None:
        if still_to_come:
            write(*still_to_come.pop(0))

    await watched.look(settle_seconds=0.5, sleep=pause)
    assert (watched.value, pair.readings, seen.ended) == (("newer",), 2, [False, False])


async def test_r3_key_that_does_not_fit_keeps_the_pair_until_one_does(pair: Pair, seen: Seen) -> None:
    watched = Watched("words", pair.load, [pair.first, pair.second], observer=seen)
    await watched.start()
    write(pair.first, "new")
    await watched.look()
    assert (watched.value, seen.ended) == (("old",), [False, True])
    write(pair.second, "new")
    await watched.look()
    assert (watched.value, seen.ended) == (("new",), [False, True, False])


async def test_r3_set_that_never_stops_changing_is_read_nevertheless(
    words: Watched[Words], path: Path
) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        write(path, "word " * (len(pauses) + 1))

    write(path, "two")
    await words.look(settle_seconds=2.0, sleep=pause)
    assert pauses == [2.0] * SETTLE_LOOKS
    assert len(words.value) == SETTLE_LOOKS + 1


# A5


async def test_a5_figures_before_and_after_are_logged(
    words: Watched[Words], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(path, "one two three")
    with caplog.at_level(logging.INFO):
        await words.look()
    assert messages(caplog) == ["read again what=words generation=2 words=1->3"]


async def test_a5_ban_file_tells_how_many_are_banned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bans"
    write(path, "/CN=a # one\n")
    bans = Watched("bans", lambda _: load_bans(path), [path], count=lambda bans: bans.counts)
    with caplog.at_level(logging.INFO):
        await bans.start()
        write(path, "/CN=a # one\n192.0.2.1 # two\n")
        await bans.look()
        write(path, "/CN=a # one\n192.0.2.1\n")
        await bans.look()
    start, again, error = messages(caplog)
    assert start == "read what=bans generation=1 names=1 groups=0 addresses=0"
    assert again == "read again what=bans generation=2 names=1->1 groups=0->0 addresses=0->1"
    assert re.search(r"BanFileError: ban file .*bans: line 2: ", error)
    assert bans.value.reason_against([], [], "192.0.2.1") == "two"


# The rounds


class Rounds:
    """Pauses of the reloader, which end when a test says so."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self._ended = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if seconds >= 5:
            await self._ended.acquire()

    def end_pause(self) -> None:
        self._ended.release()


@asynccontextmanager
async def running(reloader: Reloader) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    await reloader.start()
    task = asyncio.create_task(reloader.run(stop))
    yield stop
    stop.set()
    await asyncio.wait_for(task, 5)


async def test_r1_changes_are_in_force_within_the_time_and_wait_for_half_of_a_set(
    words: Watched[Words], path: Path
) -> None:
    rounds = Rounds()
    async with running(Reloader([words], within_seconds=60, sleep=rounds.sleep)):
        write(path, "two")
        await asyncio.sleep(0.05)
        assert words.value == ("one",)
        rounds.end_pause()
        await until(lambda: words.value == ("two",), 5, "the change")
        rounds.end_pause()
        await until(lambda: len(rounds.pauses) >= 4, 5, "another round")
    assert rounds.pauses[:4] == [30, 2, 30, 30]
    assert 30 + SETTLE_LOOKS * 2 < 60


async def test_r1_request_has_it_read_at_once_and_without_waiting(words: Watched[Words], path: Path) -> None:
    rounds = Rounds()
    reloader = Reloader([words], sleep=rounds.sleep)
    async with running(reloader):
        for text in ("two", "three", "four"):
            write(path, text)
            reloader.request()
            await until(lambda: words.value == (text,), 5, "the change")  # noqa: B023 - awaited here
    assert set(rounds.pauses) == {30}


async def test_r3_one_that_cannot_be_read_does_not_hinder_the_others(
    words: Watched[Words], path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write(other, "x")
    watched = Watched("other", load_words(other), [other])
    reloader = Reloader([watched, words], sleep=Rounds().sleep)
    async with running(reloader):
        write(other, "")
        write(path, "two")
        reloader.request()
        await until(lambda: words.value == ("two",) and watched.is_failing, 5, "both")
    assert watched.value == ("x",)


async def test_reloader_ends_during_a_pause(words: Watched[Words]) -> None:
    async with running(Reloader([words], within_seconds=3600)):
        await asyncio.sleep(0)


async def test_readers_always_see_one_whole_object(path: Path) -> None:
    write(path, "0 0")
    watched = Watched("words", load_words(path), [path])
    await watched.start()
    reloader, torn, seen = Reloader([watched], sleep=Rounds().sleep), [], set()

    def put(number: int) -> None:
        new = path.with_suffix(".new")
        write(new, f"{number} {number}")
        new.replace(path)

    async with running(reloader):
        for number in range(1, 30):
            await asyncio.to_thread(put, number)
            reloader.request()
            for _ in range(20):
                (first, second), generation = watched.current
                seen.add(generation)
                torn += [first] if first != second else []
                await asyncio.sleep(0)
        await until(lambda: watched.value == ("29", "29"), 5, "the last one")
    assert torn == []
    assert len(seen) > 2


# R5: the reminder


@pytest.mark.parametrize(
    ("days", "level", "words"),
    [
        (14.01, 0, ""),
        (14, logging.WARNING, "expires in 14 days"),
        (1.2, logging.WARNING, "expires in 1 days"),
        (0, logging.ERROR, "has expired"),
        (-3, logging.ERROR, "has expired"),
    ],
)
def test_r5_host_certificate_is_warned_of_14_days_before_its_end(
    caplog: pytest.LogCaptureFixture, days: float, level: int, words: str
) -> None:
    now = 1_795_000_000.0
    ExpiryReminder("/etc/hostcert.pem", now=lambda: now).check(now + days * DAY)
    found = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert len(found) == bool(level)
    for found_level, message in found:
        assert found_level == level
        assert words in message
        assert "file=/etc/hostcert.pem not_after=20" in message


def test_r5_reminder_comes_once_a_day_and_at_once_for_another_certificate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    reminder = ExpiryReminder("x", now=lambda: now[0])

    def said(at: float, not_after: float) -> int:
        caplog.clear()
        now[0] = at
        reminder.check(not_after)
        return len(caplog.records)

    end = 3 * DAY
    assert [said(hour * 3600, end) for hour in (0, 1, 23, 24, 25)] == [1, 0, 0, 1, 0]
    assert said(DAY + 7200, end + 1) == 1
    assert said(end + 2, end + 1) == 1
    assert said(end + 100, end + 1) == 0
    assert said(end + 200, end + 300 * DAY) == 0
