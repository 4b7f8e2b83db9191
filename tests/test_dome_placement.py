"""The rules by which a file system is chosen for a replica, and a name for it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.dome_api.catalog import Replica
from dome_bridge.dome_api.cluster import Activity, Cluster, FileSystem, Pool, Status
from dome_bridge.dome_api.placement import (
    MIB,
    NO_HINTS,
    Choice,
    Hints,
    candidates,
    choose,
    new_pfn,
    vo_of,
    with_room,
    without_replicas,
)
from dome_bridge.errors import ApiError

GIB = 1024 * MIB
POOLS = {name: Pool(name, GIB, kind) for name, kind in (("p", "P"), ("v", "V"))}

sizes = st.one_of(st.integers(0, 3 * GIB), st.integers(0, 2**60))
filesystems = st.builds(
    FileSystem,
    pool=st.sampled_from(("p", "v")),
    server=st.sampled_from(("disk1", "disk2")),
    path=st.sampled_from(("/fs1", "/fs10", "/fs2")),
    status=st.sampled_from(list(Status)),
    activity=st.sampled_from(list(Activity)),
    free=sizes,
    physical=sizes,
)
clusters = st.lists(filesystems, max_size=6).map(lambda found: Cluster(POOLS, tuple(found)))
hints = st.builds(
    Hints,
    pool=st.sampled_from(("", "", "p", "none")),
    host=st.sampled_from(("", "", "disk1", "none")),
    fs=st.sampled_from(("", "", "/fs1", "disk1:/fs1", "none:/fs1", "fs1")),
)


def filesystem(
    path: str = "/fs1", *, free: int = 10 * GIB, pool: str = "p", server: str = "disk1"
) -> FileSystem:
    return FileSystem(pool, server, path, Status.ACTIVE, Activity.ONLINE, free, 20 * GIB)


def replica(rfn: str) -> Replica:
    return Replica(1, 2, 0, 0, 0, 0, "-", "P", "", "", "", "", rfn, b"")


@given(clusters, hints, st.integers(0, 4 * GIB), st.randoms(use_true_random=False))
def test_nothing_is_placed_on_a_file_system_that_is_broken_not_writable_full_or_not_asked_for(
    cluster: Cluster, hints: Hints, needed: int, random: Random
) -> None:
    found = candidates(cluster, hints)
    choice = Choice(cluster, found, needed, random)
    if not with_room(cluster, found, needed):
        with pytest.raises(ApiError, match="are full"):
            choice.for_file()
        return
    chosen = choice.for_file()
    assert chosen.is_writable
    assert max(chosen.free, chosen.physical * cluster.can_pull(chosen)) >= needed
    assert hints.pool in ("", chosen.pool)
    assert hints.host in ("", chosen.server)
    assert hints.fs in ("", chosen.path, f"{chosen.server}:{chosen.path}")


@given(clusters)
def test_without_hints_every_writable_file_system_is_a_candidate(cluster: Cluster) -> None:
    assert candidates(cluster, NO_HINTS) == [
        each
        for each in cluster.filesystems
        if each.status == Status.ACTIVE and each.activity is Activity.ONLINE
    ]


@pytest.mark.parametrize(
    ("hints", "paths"),
    [
        (Hints(), ["/fs1", "/fs2", "/fs1"]),
        (Hints(pool="p"), ["/fs1", "/fs2"]),
        (Hints(pool="P"), []),
        (Hints(host="disk2"), ["/fs1"]),
        (Hints(fs="/fs1"), ["/fs1", "/fs1"]),
        (Hints(fs="disk1:/fs1"), ["/fs1"]),
        (Hints(pool="v", fs="disk1:/fs1"), []),
        (Hints(host="disk2", fs="disk1:/fs1"), []),
        (Hints(fs="/fs"), []),
        (Hints(fs="/fs1/"), []),
        (Hints(fs="disk1"), []),
    ],
)
def test_hints_are_compared_as_they_stand(hints: Hints, paths: list[str]) -> None:
    found = (filesystem(), filesystem("/fs2"), filesystem(pool="v", server="disk2"))
    assert [each.path for each in candidates(Cluster(POOLS, found), hints)] == paths


def test_volatile_file_system_needs_to_be_large_and_not_free() -> None:
    full = filesystem(free=0, pool="v")
    small = replace(full, physical=GIB)
    cluster = Cluster(POOLS, (full, small))
    assert with_room(cluster, cluster.filesystems, 20 * GIB) == [full]
    assert with_room(cluster, cluster.filesystems, 20 * GIB + 1) == []
    assert with_room(cluster, [replace(full, pool="p")], 1) == []


def test_file_system_with_as_much_as_needed_is_not_full() -> None:
    cluster = Cluster(POOLS, (filesystem(free=GIB),))
    assert with_room(cluster, cluster.filesystems, GIB)
    assert not with_room(cluster, cluster.filesystems, GIB + 1)


def test_file_system_that_has_a_replica_gets_no_other() -> None:
    first, tenth, other = filesystem(), filesystem("/fs10"), filesystem(server="disk2")
    left = without_replicas([first, tenth, other], [replica("disk1:/fs1/vo/f"), replica("disk3:/fs10/f")])
    assert left == [tenth, other]


def test_additional_replica_is_refused_where_every_file_system_has_one() -> None:
    found = [filesystem()]
    choice = Choice(Cluster(POOLS, tuple(found)), found, 0, Random(1))
    with pytest.raises(ApiError, match="additional replica for lfn:'/f'") as refusal:
        choice.beside([replica("disk1:/fs1/f")], "/f")
    assert refusal.value.status == 507


def test_file_systems_are_chosen_in_proportion_to_their_free_space() -> None:
    found = [filesystem("/fs1", free=GIB), filesystem("/fs2", free=3 * GIB), filesystem("/fs3", free=MIB - 1)]
    random = Random(7)
    counts = Counter(choose(found, random).path for _ in range(4000))
    assert counts["/fs3"] == 0
    assert 900 < counts["/fs1"] < 1100


def test_every_draw_hits_the_file_system_whose_share_it_is() -> None:
    class Drawn(Random):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
            assert start == 4
            return self.number

    found = [filesystem("/fs1", free=MIB), filesystem("/fs2", free=3 * MIB)]
    assert [choose(found, Drawn(number)).path for number in range(4)] == ["/fs2", "/fs2", "/fs2", "/fs1"]


def test_choice_is_even_where_no_file_system_has_a_mebibyte() -> None:
    found = [filesystem("/fs1", free=0), filesystem("/fs2", free=MIB - 1)]
    random = Random(7)
    counts = Counter(choose(found, random).path for _ in range(1000))
    assert min(counts["/fs1"], counts["/fs2"]) > 400


NOON = time.mktime((2026, 11, 22, 12, 0, 0, 0, 0, -1))


def test_pfn_has_vo_local_date_name_number_and_time() -> None:
    assert new_pfn(filesystem(), "dteam", "f", 7, NOON) == f"/fs1/dteam/2026-11-22/f.7.{int(NOON)}"
    assert new_pfn(filesystem("/"), "dteam", "f", 7, NOON).startswith("/dteam/2026")


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: len(name.encode()) <= 255
)


@given(names, st.integers(0, 2**41))
def test_pfn_of_any_name_can_be_a_file_and_is_no_others(name: str, number: int) -> None:
    pfn = new_pfn(filesystem(), "vo", name, number, NOON)
    directory, _, file = pfn.rpartition("/")
    assert directory == "/fs1/vo/2026-11-22"
    assert len(file.encode()) <= 255
    assert "\0" not in pfn
    stem, *suffix = file.rsplit(".", 2)
    assert suffix == [str(number), str(int(NOON))]
    assert name.startswith(stem)
    assert stem == name or len(file.encode()) > 251
    assert new_pfn(filesystem(), "vo", name, number + 1, NOON) != pfn


def test_name_with_bytes_that_are_not_utf8_is_cut_at_a_byte() -> None:
    pfn = new_pfn(filesystem(), "vo", "\udcff" * 255, 1, NOON)
    assert len(pfn.rpartition("/")[2].encode("utf-8", "surrogateescape")) == 255


def test_vo_is_the_fourth_name() -> None:
    assert vo_of("", ["dpm", "test", "home", "dteam", "f"]) == "dteam"
    assert vo_of("", ["dpm", "test", "home", "f"]) == "f"
    with pytest.raises(ApiError, match="vo name from the lfn: '/a/b/c'") as refusal:
        vo_of("/a/b/c", ["a", "b", "c"])
    assert refusal.value.status == 422
