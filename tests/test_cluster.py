"""The state of the cluster, by rules that hold for any."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.dome_api.cluster import (
    Activity,
    Cluster,
    FileSystem,
    Pool,
    PoolStatus,
    Report,
    Space,
    Status,
    reports_of,
)

SERVERS = ("one.test", "two.test", "three.test")
PATHS = ("/srv/fs1", "/srv/fs2")
POOLS = ("main", "spare")

reports = st.builds(
    lambda free, used, activity: Report(free, free + used, activity),
    st.integers(0, 2**50),
    st.integers(0, 2**50),
    st.sampled_from([Activity.ONLINE, Activity.BROKEN]),
)
rows = st.builds(
    FileSystem,
    st.sampled_from(POOLS),
    st.sampled_from(SERVERS),
    st.sampled_from(PATHS),
    st.sampled_from([*map(int, Status), 7]),
)
some_rows = st.lists(rows, max_size=8, unique_by=lambda each: (each.pool, each.server, each.path))
some_pools = st.lists(
    st.builds(Pool, st.sampled_from(POOLS), st.integers(0, 2**40), st.sampled_from(["P", "V", "v", "-"])),
    max_size=2,
    unique_by=lambda each: each.name,
)


class Heard(NamedTuple):
    """A poll that was answered."""

    server: str
    reports: dict[str, Report]


class Lost(NamedTuple):
    """A poll that was not."""

    server: str


class Reread(NamedTuple):
    """What the database has now."""

    rows: list[FileSystem]


Event = Heard | Lost | Reread
heard = st.builds(
    Heard, st.sampled_from(SERVERS), st.dictionaries(st.sampled_from([*PATHS, "/else"]), reports)
)
lost = st.builds(Lost, st.sampled_from(SERVERS))
reread = st.builds(Reread, some_rows)
histories = st.builds(
    lambda first, more: [first, *more], reread, st.lists(st.one_of(heard, lost, reread), max_size=12)
)


def after(history: list[Event], pools: list[Pool] | None = None) -> Cluster:
    cluster = Cluster()
    for event in history:
        match event:
            case Heard(server, answer):
                cluster = cluster.heard(server, answer)
            case Lost(server):
                cluster = cluster.lost(server)
            case Reread(rows):
                cluster = cluster.reread(pools or [], rows)
    return cluster


clusters = st.builds(after, histories, some_pools)


@given(histories)
def test_file_system_is_what_was_last_heard_of_it_since_it_is_known(history: list[Event]) -> None:
    model: list[FileSystem] = []
    for event in history:
        if isinstance(event, Reread):
            model = [_kept(row, model) for row in event.rows]
        else:
            model = [_changed(each, event) if each.server == event.server else each for each in model]
    assert after(history).filesystems == tuple(model)


def _changed(each: FileSystem, event: Heard | Lost) -> FileSystem:
    if isinstance(event, Lost):
        return replace(each, activity=Activity.BROKEN)
    if report := event.reports.get(each.path):
        return replace(each, free=report.free, physical=report.physical, activity=report.activity)
    return each


def _kept(row: FileSystem, model: list[FileSystem]) -> FileSystem:
    """What the database says, with what was known; a file system may be in two pools."""
    places = {(each.server, each.path): each for each in model}
    known = places.get((row.server, row.path), row)
    return replace(row, activity=known.activity, free=known.free, physical=known.physical)


@given(clusters)
def test_rereading_what_is_there_changes_nothing(cluster: Cluster) -> None:
    rows = [FileSystem(each.pool, each.server, each.path, each.status) for each in cluster.filesystems]
    assert cluster.reread(cluster.pools.values(), rows) == cluster


@given(clusters)
def test_pool_has_the_room_of_its_file_systems(cluster: Cluster) -> None:
    for pool in POOLS:
        online = [each for each in cluster.of_pool(pool) if each.activity == 1]
        writable = [each for each in online if each.status == 0]
        readable = [each for each in online if each.status != 1]
        space = cluster.space(pool)
        assert space == Space(sum(e.free for e in writable), sum(e.physical for e in readable))
        assert 0 <= space.free <= space.total
        expected = (
            PoolStatus.WRITABLE if writable else PoolStatus.READ_ONLY if readable else PoolStatus.DISABLED
        )
        assert cluster.pool_status(pool) is expected


@given(clusters)
def test_server_answers_if_one_of_its_file_systems_is_online(cluster: Cluster) -> None:
    assert sorted(cluster.servers) == sorted({each.server for each in cluster.filesystems})
    for server in SERVERS:
        online = [e for e in cluster.filesystems if e.server == server and e.activity is Activity.ONLINE]
        assert cluster.is_answering(server) is bool(online)


@given(clusters, st.sampled_from(SERVERS), st.sampled_from([*PATHS, "/srv/fs10", "/srv", ""]))
def test_file_lies_on_the_first_file_system_that_is_above_it(
    cluster: Cluster, server: str, place: str
) -> None:
    pfn = f"{place}/vo/2024-05-01/f"
    on = [each for each in cluster.filesystems if each.server == server and each.path == place]
    assert cluster.find(server, pfn) == (on[0] if on else None)
    assert cluster.is_broken(server, pfn) is bool(on and on[0].activity is Activity.BROKEN)


@pytest.mark.parametrize(
    ("path", "pfn", "holds"),
    [
        ("/srv/fs1", "/srv/fs1/f", True),
        ("/srv/fs1/", "/srv/fs1/f", True),
        ("/srv/fs1", "/srv/fs1", True),
        ("/srv/fs1", "/srv/fs10/f", False),
        ("/srv/fs1", "/srv/f", False),
        ("/", "/srv/f", True),
    ],
)
def test_file_system_holds_what_is_below_its_path(path: str, pfn: str, holds: bool) -> None:
    each = FileSystem("main", "one.test", path)
    assert each.holds("one.test", pfn) is holds
    assert not each.holds("ONE.test", pfn)
    assert not each.holds("two.test", pfn)


@pytest.mark.parametrize(
    ("kind", "physical", "can_pull"),
    [("V", 101, True), ("v", 101, True), ("V", 100, False), ("P", 101, False)],
)
def test_files_are_pulled_onto_large_file_systems_of_volatile_pools(
    kind: str, physical: int, can_pull: bool
) -> None:
    each = FileSystem("main", "one.test", "/srv/fs1", physical=physical)
    assert Cluster({"main": Pool("main", 100, kind)}).can_pull(each) is can_pull
    assert not Cluster().can_pull(each)


GOOD = {"freespace": "3", "physicalsize": "5", "activitystatus": "1"}


@pytest.mark.parametrize(
    ("values", "report"),
    [
        (GOOD, Report(3, 5)),
        ({**GOOD, "activitystatus": "2"}, Report(3, 5, Activity.BROKEN)),
        ({**GOOD, "freespace": 3, "physicalsize": 5}, Report(3, 5)),
        ({"freespace": "3", "physicalsize": "5"}, Report(3, 5)),
        ({"freespace": "5", "physicalsize": "5"}, Report(5, 5)),
        ({"freespace": "6", "physicalsize": "5"}, None),
        ({"freespace": "-1", "physicalsize": "5"}, None),
        ({"freespace": "", "physicalsize": "5"}, None),
        ({"freespace": "3"}, None),
        ("", None),
        (None, None),
    ],
)
def test_report_that_makes_no_sense_counts_as_none(values: object, report: Report | None) -> None:
    document = {"fsinfo": {"one.test": {"/srv/fs1": values, "/srv/fs2": GOOD}}}
    expected = {"/srv/fs1": report, "/srv/fs2": Report(3, 5)}
    assert reports_of(document, "one.test") == {path: each for path, each in expected.items() if each}


@pytest.mark.parametrize(
    "document",
    [{}, {"fsinfo": ""}, {"fsinfo": {}}, {"fsinfo": {"ONE.test": {}}}, {"fsinfo": {"one.test": ""}}],
)
def test_answer_about_other_servers_says_nothing(document: dict[str, object]) -> None:
    assert reports_of(document, "one.test") is None


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
trees = st.recursive(
    scalars,
    lambda some: st.dictionaries(
        st.sampled_from(["fsinfo", "one.test", "/srv/fs1", "freespace", "physicalsize", "x"]), some
    ),
)


@given(st.dictionaries(st.sampled_from(["fsinfo", "x"]), trees))
def test_no_answer_is_too_strange(document: dict[str, Any]) -> None:
    for report in (reports_of(document, "one.test") or {}).values():
        assert 0 <= report.free <= report.physical
