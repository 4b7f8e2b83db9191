"""Computed ids: the same in Python and in PostgreSQL, legal for dCache, never in each other's way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.chimera import ids
from dome_bridge.staging import MAX_FILEID
from tests.fixtures.mirror import Mirrored

fileids = st.integers(min_value=1, max_value=MAX_FILEID)


@given(fileids)
def test_pnfsid_is_legal_and_shows_the_fileid(fileid: int) -> None:
    pnfsid = ids.pnfsid("00C0FFEE00C0FFEE", fileid)
    assert len(pnfsid) == 36
    assert pnfsid == pnfsid.upper()
    assert not pnfsid.startswith("FFFF")
    assert int(pnfsid[-16:], 16) == fileid


@pytest.mark.parametrize("fileid", [0, -1, MAX_FILEID + 1])
def test_fileid_out_of_range_has_no_pnfsid(fileid: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        ids.pnfsid("00C0FFEE00C0FFEE", fileid)


@pytest.mark.parametrize("instance_id", ["", "00c0ffee00c0ffee", "00C0FFEE00C0FFE", "00C0FFEE00C0FFEEA"])
def test_instance_id_that_is_none_is_refused(instance_id: str) -> None:
    with pytest.raises(ValueError, match="instance id"):
        ids.pnfsid(instance_id, 1)


def test_instance_ids_differ() -> None:
    made = {ids.new_instance_id() for _ in range(100)}
    assert len(made) == 100
    assert all(ids.is_instance_id(instance_id) for instance_id in made)


@given(st.integers(min_value=0, max_value=2**61))
def test_offset_leaves_room_above_what_is_taken(highest: int) -> None:
    offset = ids.offset_beyond(highest)
    assert highest < offset <= highest + ids.OFFSET_STEP
    assert offset % ids.OFFSET_STEP == 0
    assert offset + MAX_FILEID < 2**63


async def test_postgresql_computes_the_same_ids(mirrored: Mirrored) -> None:
    site = mirrored.session.site
    for fileid in (1, 2, 255, 10**9, MAX_FILEID):
        row = await mirrored.mirror.conn.fetchrow(
            "SELECT pg_temp.pnfsid($1), pg_temp.inumber($1), pg_temp.fileid(pg_temp.inumber($1))", fileid
        )
        assert tuple(row) == (site.pnfsid(fileid), site.inumber(fileid), fileid)
