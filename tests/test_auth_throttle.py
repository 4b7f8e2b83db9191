"""Failed authentications: how many a source may have, what it costs others, and how much is remembered."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dome_bridge.auth.refusal import Reason
from dome_bridge.auth.throttle import Throttle, ThrottledError, source_of

HERE = "192.0.2.1"


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(clock=clock)


def is_let_in(throttle: Throttle, address: str = HERE) -> bool:
    try:
        throttle.require(address)
    except ThrottledError:
        return False
    return True


def fail(throttle: Throttle, times: int, address: str = HERE) -> int:
    """How many of so many attempts in a row were let in, and then failed."""
    let_in = 0
    for _ in range(times):
        if is_let_in(throttle, address):
            let_in += 1
            throttle.failed(address)
    return let_in


def test_l4_fifty_failures_at_once_and_then_ten_a_second(throttle: Throttle, clock: Clock) -> None:
    assert fail(throttle, 80) == 50
    clock.seconds += 1
    assert fail(throttle, 80) == 10
    clock.seconds += 5
    assert fail(throttle, 80) == 50
    clock.seconds += 3600
    assert fail(throttle, 80) == 50


def test_l4_refusal_is_429_with_the_seconds_to_wait(clock: Clock) -> None:
    throttle = Throttle(per_second=0.1, burst=1, clock=clock)
    throttle.failed(HERE)
    with pytest.raises(ThrottledError) as caught:
        throttle.require(HERE)
    error = caught.value
    assert (error.status, error.rule, error.reason, error.retry_after) == (429, "L4", Reason.RATE, 10)
    assert HERE in str(error)
    clock.seconds += 9.5
    with pytest.raises(ThrottledError) as caught:
        throttle.require(HERE)
    assert caught.value.retry_after == 1
    clock.seconds += 0.5
    throttle.require(HERE)


def test_l4_success_costs_nothing(throttle: Throttle) -> None:
    assert all(is_let_in(throttle) for _ in range(1000))
    assert len(throttle) == 0


def test_l4_refused_attempts_do_not_prolong_the_wait(throttle: Throttle, clock: Clock) -> None:
    fail(throttle, 50)
    for _ in range(100):
        assert not is_let_in(throttle)
    clock.seconds += 0.1
    assert is_let_in(throttle)


def test_l4_failures_side_by_side_are_owed_but_not_for_ever(throttle: Throttle, clock: Clock) -> None:
    for _ in range(1000):
        throttle.failed(HERE)
    clock.seconds += 5.0
    assert not is_let_in(throttle)
    clock.seconds += 0.1
    assert is_let_in(throttle)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("192.0.2.1", "wn1.example.org", False),
    ],
)
def test_l4_source_is_an_ipv4_address_or_an_ipv6_64(one: str, other: str, is_same: bool) -> None:
    throttle = Throttle(clock=lambda: 0.0)
    fail(throttle, 50, one)
    assert is_let_in(throttle, other) is not is_same


def test_l4_unix_socket_is_never_refused(throttle: Throttle) -> None:
    assert fail(throttle, 200, "") == 200
    assert len(throttle) == 0


def test_l4_sources_with_full_buckets_are_forgotten(throttle: Throttle, clock: Clock) -> None:
    for number in range(1000):
        throttle.failed(f"10.0.{number // 256}.{number % 256}")
    clock.seconds += 0.2
    for _ in range(500):
        throttle.failed(HERE)
    assert len(throttle) == 1


def test_l4_memory_is_bounded_and_the_latest_are_remembered(clock: Clock) -> None:
    throttle = Throttle(most_sources=100, clock=clock)
    for number in range(5000):
        throttle.failed(f"2001:db8:0:{number:x}::1")
        assert len(throttle) <= 100
    fail(throttle, 60)
    throttle.failed("198.51.100.1")
    assert not is_let_in(throttle)


def test_l4_long_text_in_place_of_an_address_is_not_remembered_as_a_whole() -> None:
    assert len(source_of("x" * 100_000)) <= 64


ADDRESSES = st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"])
STEPS = st.lists(
    st.tuples(ADDRESSES, st.integers(1, 40), st.floats(0, 3, allow_nan=False)), min_size=1, max_size=60
)


@settings(max_examples=100)
@given(STEPS, st.floats(0.5, 20), st.integers(1, 30))
def test_l4_in_no_span_of_time_more_than_burst_and_rate_allow(
    steps: list[tuple[str, int, float]], per_second: float, burst: int
) -> None:
    clock = Clock()
    throttle = Throttle(per_second=per_second, burst=burst, clock=clock)
    let_in: dict[str, list[tuple[float, int]]] = {}
    for address, times, pause in steps:
        let_in.setdefault(address, []).append((clock.seconds, fail(throttle, times, address)))
        clock.seconds += pause
    for history in let_in.values():
        for first in range(len(history)):
            allowed = 0
            for at, count in history[first:]:
                allowed += count
                assert allowed <= burst + per_second * (at - history[first][0]) + 1e-6


@settings(max_examples=100)
@given(STEPS)
def test_l4_others_do_not_notice_and_waiting_as_told_is_enough(steps: list[tuple[str, int, float]]) -> None:
    clock = Clock()
    throttle = Throttle(clock=clock)
    for address, times, pause in steps:
        for _ in range(times):
            throttle.failed(address)
        clock.seconds += pause
    assert is_let_in(throttle, "203.0.113.1")
    for address in {address for address, _, _ in steps}:
        clock.seconds += throttle.wait(address) + 1e-6
        assert is_let_in(throttle, address)
