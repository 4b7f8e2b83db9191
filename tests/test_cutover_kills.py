"""A cutover killed at every boundary of its steps and at random instants, under live writers.

`--kills N` says how many; those at the boundaries are always among them. Afterwards the site follows
or is committed, both sides never take writes at once, and nothing that DPM confirmed is missing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dome_bridge.chimera.state import Phase
from dome_bridge.exporter.cutover_plan import FORWARD, MOVES, STEPS, State
from dome_bridge.exporter.fence import FenceState
from dome_bridge.exporter.follow import Batch, Follower
from sandbox.servers import MariaServer, PostgresServer
from tests.fixtures.attacked import COMMAND, Attacked
from tests.fixtures.cutover import Ready
from tests.fixtures.databases import DpmSite
from tests.fixtures.strikes import KINDS, Strike, struck

SIDES = ("before", "after")
BOUNDARIES = tuple(f"{name} {side}" for name in ("begin", *STEPS) for side in SIDES)
ROUND = 8
"""Strikes in a round; each round has a site of its own."""

BACK = ("back before", "back after")
LIFT = ("lift-fence in", "lift-fence before", "lift-fence after")
ROLLBACK = ("back before", "back after", "give-back in", "give-back before", "give-back after")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A round for each of the kills that are left; its number is its seed."""
    if "round_number" in metafunc.fixturenames:
        left = metafunc.config.getoption("--kills") - len(BOUNDARIES)
        metafunc.parametrize("round_number", range(max(1, round(left / ROUND))))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The number of the round; shown when it fails."""
    number = int(request.node.callspec.params["round_number"]) if hasattr(request.node, "callspec") else 0
    print(f"seed={number}")
    return number


@pytest.fixture
async def attacked(
    ready: Ready,
    mortal_maria: MariaServer,
    mortal_postgres: PostgresServer,
    dpm_site: DpmSite,
    tmp_path: Path,
    seed: int,
) -> AsyncIterator[Attacked]:
    site = Attacked(ready, dpm_site, tmp_path, random.Random(seed))
    async with site.behind_proxies((mortal_maria, mortal_postgres)):
        yield site
    print(f"strikes={site.strikes}")


@pytest.mark.long
async def test_cutover_killed_at_every_boundary_is_continued_to_the_commit(attacked: Attacked) -> None:
    async with attacked.writers() as witness:
        for point in BOUNDARIES:
            assert await struck(attacked, Strike("kill", point), "cutover", *COMMAND), attacked.history
            await attacked.look()
        assert await attacked.look() is State.COMMITTED
    assert witness.refused > 0
    await attacked.assert_agreement(witness)


@pytest.mark.long
async def test_cutover_struck_at_random_follows_or_is_committed(
    attacked: Attacked, round_number: int
) -> None:
    """Kills of the command, kills of a database, cut and deaf networks; in odd rounds a daemon follows."""
    rng = attacked.rng
    async with attacked.writers(is_followed=round_number % 2 == 1) as witness:
        for number in range(ROUND):
            if await attacked.look() is State.COMMITTED:
                break
            await strike_once(attacked, KINDS[(round_number * ROUND + number) % len(KINDS)])
            await attacked.look()
        if rng.random() < 0.4 and await attacked.state() is not State.COMMITTED:
            await attacked.abort()
            await attacked.assert_writable(witness)
        else:
            await attacked.cut_over()
    await attacked.assert_agreement(witness)
    if await attacked.state() is State.COMMITTED and rng.random() < 0.5:
        await roll_back_killed(attacked)


async def strike_once(attacked: Attacked, kind: str) -> None:
    """In a step that is still ahead, of a cutover or of its abort."""
    rng, found = attacked.rng, await attacked.state()
    if found is State.ABORTING:
        point = rng.choice(LIFT)
        command = rng.choice((COMMAND, ("--abort",)))
    elif found in FORWARD and rng.random() < 0.25:
        point = rng.choice(BACK + LIFT)
        command = ("--abort",)
    else:
        ahead = STEPS.index(MOVES[found].step) if found in FORWARD else 0
        point = f"{rng.choice(STEPS[ahead:])} {rng.choice(('in', 'in', 'before', 'after'))}"
        command = COMMAND
    await struck(attacked, Strike(kind, point, rng.uniform(0.0, 0.1)), "cutover", *command)


async def roll_back_killed(attacked: Attacked) -> None:
    point = attacked.rng.choice(ROLLBACK)
    await struck(attacked, Strike("kill", point, attacked.rng.uniform(0.0, 0.05)), "rollback", "--yes")
    found = await attacked.look()
    if found is not State.RETURNED:
        assert found in (State.COMMITTED, State.RETURNING)
        assert await attacked.command("rollback", "--yes") == 0, attacked.history
    assert (await attacked.ready.progress()).phase is Phase.FOLLOWING
    assert await attacked.ready.is_writable()
    await attacked.ready.sync()
    assert await attacked.ready.verify() == 0


async def test_cutover_without_a_daemon_begins_although_writers_never_pause(
    ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen failing with a drain that waits for an empty journal before the fence: it never began."""
    [fileid] = await ready.files(1)
    apply_batch = Follower.apply_batch

    async def never_idle(follower: Follower) -> Batch:
        if await ready.fence() is FenceState.ABSENT:
            await ready.write("UPDATE Cns_file_metadata SET mtime = mtime + 1 WHERE fileid = %s", fileid)
        return await apply_batch(follower)

    monkeypatch.setattr(Follower, "apply_batch", never_idle)
    async with asyncio.timeout(60):
        assert (await ready.cut_over()).state is State.COMMITTED
