"""Back from a commit: as long as the data shows that dCache has written nothing, and not a step further."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dome_bridge.chimera.state import Phase
from dome_bridge.errors import CutoverError, StateError
from dome_bridge.exporter import fence
from dome_bridge.exporter.cutover_plan import State
from dome_bridge.exporter.dcache_writes import CANNOT_SEE, FILE
from dome_bridge.exporter.fence import FenceState
from dome_bridge.exporter.initialise import complete
from dome_bridge.exporter.rollback import roll_back
from tests.fixtures.cutover import Ready


async def agreed(what: str) -> bool:
    assert CANNOT_SEE in what
    return True


@pytest.fixture
async def committed(ready: Ready) -> Ready:
    assert (await ready.cut_over()).state is State.COMMITTED
    return ready


async def test_rolled_back_site_follows_and_cuts_over_again(committed: Ready) -> None:
    done = await roll_back(committed.config, confirm=agreed)
    assert done.phase is Phase.FOLLOWING
    await committed.assert_given_back()
    assert await committed.ask("SELECT state FROM dome_bridge.cutover") == State.RETURNED
    with pytest.raises(CutoverError, match="verify-clean: there was no verify yet"):
        await committed.cut_over()
    assert await committed.verify() == 0
    assert (await committed.cut_over()).state is State.COMMITTED
    await committed.assert_acceptable()


def listed_in(directory: Path) -> list[dict[str, Any]]:
    [journal] = directory.rglob(FILE)
    return [json.loads(line) for line in journal.read_text().splitlines()]


Damage = Callable[[Ready], Awaitable[None]]


async def make_file(ready: Ready) -> None:
    """As a door and a pool do it."""
    await ready.alter(
        "SELECT f_create_inode95((SELECT inumber FROM t_inodes WHERE ipnfsid = repeat('0', 36)), 'new.root',"
        " '0000AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA', 32768, 420, 1, 1, 1, 0, 2, now()::timestamp)"
    )
    await ready.alter("UPDATE t_inodes SET isize = 77, iio = 3 WHERE ipnfsid LIKE '0000AAAA%'")
    await ready.alter(
        "INSERT INTO t_locationinfo (inumber, itype, ipriority, ictime, iatime, istate, ilocation)"
        " SELECT inumber, 1, 10, now(), now(), 1, 'disk01_pool' FROM t_inodes WHERE ipnfsid LIKE '0000AAAA%'"
    )


async def change_mode(ready: Ready) -> None:
    [fileid] = await ready.files(1)
    inumber = await ready.inumber(fileid)
    await ready.alter(
        "UPDATE t_inodes SET imode = 0, igeneration = igeneration + 1 WHERE inumber = $1", inumber
    )


async def add_location(ready: Ready) -> None:
    [fileid] = await ready.files(1)
    await ready.alter(
        "INSERT INTO t_locationinfo (inumber, itype, ipriority, ictime, iatime, istate, ilocation)"
        " VALUES ($1, 1, 10, (now() + interval '1 s') AT TIME ZONE 'Europe/Zurich', now(), 1, 'other_pool')",
        await ready.inumber(fileid),
    )


async def delete_file(ready: Ready) -> None:
    [fileid] = await ready.files(1)
    inumber = await ready.inumber(fileid)
    await ready.alter("DELETE FROM t_dirs WHERE ichild = $1", inumber)
    await ready.alter("DELETE FROM t_inodes WHERE inumber = $1", inumber)


async def delete_file_and_clean(ready: Ready) -> None:
    await delete_file(ready)
    await ready.alter("DELETE FROM t_locationinfo_trash")


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (make_file, "made"),
        (change_mode, "changed"),
        (add_location, "located"),
        (delete_file, "deleted"),
        (delete_file_and_clean, "missing"),
    ],
)
async def test_what_dcache_wrote_is_listed_and_there_is_no_way_back(
    committed: Ready, damage: Damage, kind: str, state_directory: Path
) -> None:
    await damage(committed)
    with pytest.raises(CutoverError, match="dCache has written since the commit") as refused:
        await roll_back(committed.config, confirm=agreed)
    assert FILE in str(refused.value)
    assert kind in {each["kind"] for each in listed_in(state_directory)}
    assert (await committed.progress()).phase is Phase.COMMITTED
    assert await committed.fence() is FenceState.STANDING


async def test_new_file_is_listed_with_path_size_and_pool(committed: Ready, state_directory: Path) -> None:
    await make_file(committed)
    with pytest.raises(CutoverError, match="1 made"):
        await roll_back(committed.config, confirm=agreed)
    made = listed_in(state_directory)[0]
    assert (made["path"], made["size"], made["pools"]) == ("/new.root", 77, "disk01_pool")


async def test_rollback_that_was_cut_short_is_finished(
    committed: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*args: object, **kwargs: object) -> bool:
        raise RuntimeError("cut short")

    with monkeypatch.context() as patched:
        patched.setattr(fence, "lift_fence", fails)
        with pytest.raises(RuntimeError, match="cut short"):
            await roll_back(committed.config, confirm=agreed)
    assert (await committed.progress()).phase is Phase.ROLLED_BACK
    with pytest.raises(StateError, match="dome-bridge rollback"):
        await committed.cut_over()
    assert (await roll_back(committed.config, confirm=agreed)).again
    await committed.assert_given_back()


async def test_rollback_without_a_commit_is_refused(ready: Ready) -> None:
    with pytest.raises(StateError, match="cutover --abort"):
        await roll_back(ready.config, confirm=agreed)


async def test_rollback_after_complete_is_refused(committed: Ready) -> None:
    await complete(committed.config)
    with pytest.raises(StateError, match="dome-bridge init"):
        await roll_back(committed.config, confirm=agreed)


async def test_rollback_that_is_declined_changes_nothing(committed: Ready) -> None:
    async def declined(what: str) -> bool:
        return False

    with pytest.raises(CutoverError, match="nothing was done"):
        await roll_back(committed.config, confirm=declined)
    assert await committed.fence() is FenceState.STANDING
    assert (await committed.progress()).phase is Phase.COMMITTED
