"""A fence that has outlived its command: the daemon lifts it, and never that of a command at work."""

from __future__ import annotations

import asyncio

import pytest

from dome_bridge.chimera.state import Phase
from dome_bridge.exporter import service
from dome_bridge.exporter.cutover import lift_orphaned
from dome_bridge.exporter.cutover_plan import State
from dome_bridge.exporter.fence import FenceState
from dome_bridge.exporter.service import MirrorService, Unobserved
from tests.fixtures.cutover import Ready, at_the_decision, in_state


async def leave_fence(ready: Ready) -> None:
    async with at_the_decision(ready) as attempt:
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
    assert not await ready.is_writable()


async def age_fence(ready: Ready) -> None:
    await ready.alter("UPDATE dome_bridge.cutover SET fenced_at = fenced_at - interval '1 day'")


async def test_fence_that_stands_too_long_without_its_command_is_lifted_by_the_daemon(
    ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "FENCE_SECONDS", 0.2)
    await leave_fence(ready)
    await age_fence(ready)
    stop = asyncio.Event()
    mirror = asyncio.create_task(MirrorService(ready.config, stop=stop, observer=Unobserved()).run())
    try:
        await in_state(ready, State.ABORTED)
    finally:
        stop.set()
        await asyncio.wait_for(mirror, 15)
    assert await ready.ask("SELECT reason FROM dome_bridge.cutover") == (
        "its command is gone, and the fence stood longer than 600 s"
    )
    await ready.assert_given_back()


async def test_fence_of_a_killed_command_stands_as_long_as_it_may(ready: Ready) -> None:
    await leave_fence(ready)
    assert await lift_orphaned(ready.config) is None
    assert await ready.fence() is FenceState.STANDING
    assert (await ready.cut_over()).state is State.COMMITTED


async def test_fence_of_a_command_at_work_is_its_own(ready: Ready) -> None:
    async with at_the_decision(ready) as attempt:
        await age_fence(ready)
        assert await lift_orphaned(ready.config) is None
        assert await ready.fence() is FenceState.STANDING
    assert (await attempt).state is State.COMMITTED


async def test_fence_of_a_committed_site_is_never_lifted(ready: Ready) -> None:
    assert (await ready.cut_over()).state is State.COMMITTED
    await age_fence(ready)
    assert await lift_orphaned(ready.config) is None
    assert await ready.fence() is FenceState.STANDING
    assert (await ready.progress()).phase is Phase.COMMITTED
