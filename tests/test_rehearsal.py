"""The rehearsal: it measures, predicts, proves the way back, and leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from dome_bridge.chimera.state import Phase
from dome_bridge.errors import StateError
from dome_bridge.exporter import fence_forecast
from dome_bridge.exporter.cutover_plan import State
from dome_bridge.exporter.fence import PROBE_TABLE, FenceState
from dome_bridge.exporter.gates import GATES
from dome_bridge.exporter.rehearsal import rehearse
from dome_bridge.exporter.service import MirrorService, Unobserved
from tests.fixtures.cutover import Ready, at_the_decision


async def test_rehearsal_passes_measures_and_changes_nothing(ready: Ready) -> None:
    before = await ready.ask("SELECT md5(string_agg(t_inodes::text, '' ORDER BY inumber)) FROM t_inodes")
    found = await rehearse(ready.config)
    assert found.ok
    assert [gate.id for gate in found.gates] == list(GATES)
    measured = dict(found.steps)
    assert {"count", "raise-fence", "drain", "recheck", "commit"} <= set(measured)
    assert 0 < found.predicted_fence_seconds < 60
    assert (
        await ready.ask("SELECT md5(string_agg(t_inodes::text, '' ORDER BY inumber)) FROM t_inodes") == before
    )
    await ready.assert_untouched()
    assert (await ready.progress()).phase is Phase.FOLLOWING
    tables = await ready.maria.fetch(
        "SELECT 1 FROM information_schema.TABLES WHERE TABLE_NAME = %s", (PROBE_TABLE,)
    )
    assert not tables


async def test_rehearsal_beside_the_daemon_leaves_it_the_journal(ready: Ready) -> None:
    stop = asyncio.Event()
    mirror = asyncio.create_task(MirrorService(ready.config, stop=stop, observer=Unobserved()).run())
    try:
        await asyncio.sleep(0.5)
        assert (await rehearse(ready.config)).ok
        assert not mirror.done()
    finally:
        stop.set()
        await asyncio.wait_for(mirror, 15)


async def test_prediction_is_kept_and_is_near_what_comes(ready: Ready) -> None:
    assert await predicted(ready) is None
    found = await rehearse(ready.config)
    assert await predicted(ready) == pytest.approx(found.predicted_fence_seconds)
    report = await ready.cut_over()
    assert report.state is State.COMMITTED
    assert report.fence_seconds < 10 * found.predicted_fence_seconds + 5


async def predicted(ready: Ready) -> float | None:
    async with ready.chimera() as conn:
        return await fence_forecast.predicted_fence_seconds(conn)


async def test_rights_that_lack_for_the_way_back_are_found_before(ready: Ready) -> None:
    """A switch whose way back cannot work must not begin (Vitess 16794)."""
    await ready.maria.revoke(ready.config.dpm.cns_db, privileges="TRIGGER")
    found = await rehearse(ready.config)
    failed = {gate.id for gate in found.gates if not gate.ok}
    assert {"fence-possible", "rollback-proven"} <= failed
    assert not found.ok


async def test_difference_between_the_sides_is_told(ready: Ready) -> None:
    [fileid] = await ready.files(1)
    await ready.alter("UPDATE t_inodes SET isize = isize + 1 WHERE inumber = $1", await ready.inumber(fileid))
    found = await rehearse(ready.config)
    assert not found.ok
    assert any("copies with" in difference for difference in found.differences)


async def test_rehearsal_beside_a_cutover_or_after_it_is_refused(ready: Ready) -> None:
    async with at_the_decision(ready):
        with pytest.raises(StateError, match="at work"):
            await rehearse(ready.config)
    assert await ready.fence() is FenceState.STANDING
    with pytest.raises(StateError, match="nothing to rehearse"):
        await rehearse(ready.config)
