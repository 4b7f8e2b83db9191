"""Uploads that DPM had granted before the fence: they may end behind it, and nothing else may."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dome_bridge.dpm.fenced import is_fenced
from dome_bridge.dpm.schema import read_layout
from dome_bridge.dpm.source import Source, StatementError
from dome_bridge.exporter import cutover
from dome_bridge.exporter.cutover_plan import State
from dome_bridge.exporter.cutover_record import CutoverReport
from dome_bridge.exporter.cutover_steps import Options
from dome_bridge.exporter.fence import FenceState, lift_fence, raise_fence, shut_fence
from dome_bridge.exporter.triggers import Patience
from tests.fixtures.cutover import Ready, agreed, in_state, terms

BEGIN = (
    "INSERT INTO Cns_file_metadata (fileid, parent_fileid, name, filemode, nlink, owner_uid, gid, filesize,"
    " atime, mtime, ctime, fileclass, status, csumtype, csumvalue, acl, xattr) SELECT 9000001, 1, 'upload',"
    " 33204, 1, 1, 1, 0, 1700000000, 1700000000, 1700000000, 0, '-', '', '', '', '{{}}'",
    "INSERT INTO Cns_file_replica (fileid, nbaccesses, ctime, atime, ptime, ltime, status, f_type, poolname,"
    " host, fs, sfn, xattr) SELECT 9000001, 0, UNIX_TIMESTAMP(), 0, 0, 0, 'P', 'P', poolname, server, fs,"
    " CONCAT(server, ':', fs, '/dteam/upload.1'), '{{}}' FROM {dpm}.dpm_fs LIMIT 1",
)
DONE = (
    "UPDATE Cns_file_replica SET status = '-', atime = 1, ptime = 1, ltime = 1, ctime = UNIX_TIMESTAMP(),"
    ' xattr = \'{{"a": "b"}}\' WHERE fileid = 9000001',
    "UPDATE Cns_file_metadata SET csumtype = 'AD', csumvalue = '0a1b2c3d' WHERE fileid = 9000001",
    "UPDATE Cns_file_metadata SET filesize = 77, ctime = UNIX_TIMESTAMP() WHERE fileid = 9000001",
    "UPDATE Cns_file_metadata SET filesize = filesize + 77 WHERE fileid = 1",
    "UPDATE {dpm}.dpm_space_reserv SET u_space = u_space - 77",
)
REFUSED = (
    *BEGIN,
    "UPDATE Cns_file_metadata SET name = 'other' WHERE fileid = 9000001",
    "UPDATE Cns_file_metadata SET parent_fileid = 2 WHERE fileid = 9000001",
    "UPDATE Cns_file_metadata SET owner_uid = 7 WHERE fileid = 9000001",
    "UPDATE Cns_file_metadata SET filemode = 33279, filesize = 5 WHERE fileid = 9000001",
    "UPDATE Cns_file_replica SET sfn = 'elsewhere:/x', status = '-' WHERE fileid = 9000001",
    "UPDATE Cns_file_replica SET status = 'D' WHERE fileid = 9000001",
    "UPDATE Cns_file_replica SET setname = 'x' WHERE fileid <> 9000001",
    "DELETE FROM Cns_file_replica WHERE fileid = 9000001",
    "DELETE FROM Cns_file_metadata WHERE fileid = 9000001",
    "UPDATE {dpm}.dpm_space_reserv SET t_space = 1",
)


async def write(ready: Ready, *statements: str) -> None:
    async with await Source.connect(ready.config.dpm) as source:
        for statement in statements:
            await source.execute(statement.format(dpm=source.dpm))


async def test_open_fence_lets_an_upload_end_and_nothing_else(ready: Ready) -> None:
    await write(ready, *BEGIN)
    async with await Source.connect(ready.config.dpm) as source:
        layout = await read_layout(source)
        await raise_fence(source, layout, open_to_uploads=True)
        assert await ready.fence() is FenceState.OPEN_TO_UPLOADS
        for statement in REFUSED:
            with pytest.raises(StatementError) as refused:
                await write(ready, statement)
            assert is_fenced(refused.value), statement
        await write(ready, *DONE)
        await shut_fence(source, layout, patience=Patience())
        assert await ready.fence() is FenceState.STANDING
        for statement in DONE[1:]:
            with pytest.raises(StatementError):
                await write(ready, statement.replace("77", "78").replace("0a1b", "0a1c"))
        await lift_fence(source)


@asynccontextmanager
async def cutting_over(ready: Ready, wait: float) -> AsyncIterator[asyncio.Task[CutoverReport]]:
    """With an upload under way."""
    await write(ready, *BEGIN)
    options = terms(Options(upload_wait_seconds=wait))
    attempt = asyncio.create_task(cutover.cut_over(ready.config, confirm=agreed, terms=options))
    await in_state(ready, State.FENCED)
    yield attempt
    await attempt


async def size_in_chimera(ready: Ready) -> int | None:
    size: int | None = await ready.ask(
        "SELECT isize FROM t_inodes WHERE inumber = $1", await ready.inumber(9000001)
    )
    return size


async def test_upload_granted_before_the_fence_is_waited_for(ready: Ready) -> None:
    """What was open across the switch commits later on the old side (Vitess 9400).

    Seen failing with `open_to_uploads=False` in the step `raise-fence`: the end of the upload is refused.
    """
    async with cutting_over(ready, 30.0) as attempt:
        await asyncio.sleep(0.5)
        assert not attempt.done()
        await write(ready, *DONE)
    assert attempt.result().state is State.COMMITTED
    assert await size_in_chimera(ready) == 77
    await ready.assert_acceptable()


async def test_upload_that_does_not_end_is_left_out_and_listed(ready: Ready) -> None:
    async with cutting_over(ready, 1.0) as attempt:
        pass
    report = attempt.result()
    assert report.state is State.COMMITTED
    assert "uploads are left out" in report.details["drain"]
    assert "/upload" in report.details["drain"]
    assert await size_in_chimera(ready) is None
    listed = json.loads(await ready.ask("SELECT uploads FROM dome_bridge.cutover"))
    assert "/upload" in [upload["path"] for upload in listed if upload["fileid"] == 9000001]
    reason = await ready.ask(
        "SELECT reason FROM dome_bridge.quarantine WHERE fileid = 9000001 AND scope = 'entry'"
    )
    assert reason == "being-written"
