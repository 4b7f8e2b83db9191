"""What quotatokens become in dCache: the plan, its sums, its findings, and quotas of groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.chimera.quota_plan import GroupQuota, QuotaPlan, Used, plan_quotas
from dome_bridge.chimera.space_plan import (
    LeftOutReason,
    Model,
    SpacePlan,
    TokenRow,
    covering,
    group_of,
    link_group_name,
    plan_spaces,
)
from dome_bridge.chimera.space_sums import Reserved, grown, shrunk, sums
from dome_bridge.dpm.small_tables import FileSystem
from dome_bridge.errors import StateError
from dome_bridge.exporter.findings import Severity
from dome_bridge.exporter.group_quotas import load_quotas
from dome_bridge.exporter.session import open_databases
from dome_bridge.exporter.small_tables import dcache_pool
from dome_bridge.exporter.space_findings import CHECKS, judge
from dome_bridge.exporter.space_survey import Content, Survey, counted, survey
from dome_bridge.exporter.spaces import free_by_link_group
from sandbox.catalog import make_site
from sandbox.servers import MariaServer
from sandbox.site import SiteOptions
from tests.fixtures.command import bridge_for
from tests.fixtures.databases import DpmSite
from tests.fixtures.mirror import HOME, PLACES, Mirrored

GROUPS = {101: "dteam", 102: "atlas", 103: "atlas/Role=production"}
POOLS = {"main": ("p1", "p2"), "spare": ("p3",)}


def token(
    path: str | bytes | None, name: str = "T", pool: str = "main", size: int | None = 100, gids: str = "0,101"
) -> TokenRow:
    raw = path.encode() if isinstance(path, str) else path
    return TokenRow(f"uuid-{path!r}-{name}".encode(), name.encode(), pool.encode(), raw, size, gids.encode())


def plan(*tokens: TokenRow, model: Model = Model.SPACE_MANAGER, **more: Any) -> SpacePlan:
    return plan_spaces(tokens, model=model, pools=POOLS, groups=GROUPS, **more)


def surveyed(made: SpacePlan, **more: Any) -> Survey:
    return Survey(made, {space.token: 0 for space in made.spaces}, None, {}, QuotaPlan((), ()), **more)


def ids(survey: Survey) -> set[str]:
    return {finding.id for finding in judge(survey)}


# The plan


def test_token_becomes_a_reservation_in_the_link_group_of_its_pool() -> None:
    made = plan(token("/dpm/example.org/home/atlas/data", "ATLAS DATA", gids="0,103,102"))
    [space] = made.spaces
    assert (space.link_group, space.unit) == ("main-linkgroup", "atlas:ATLAS_DATA@osm")
    assert (space.owner, space.fqans, space.gids) == (
        "/atlas",
        ("/atlas/Role=production", "/atlas"),
        (103, 102),
    )
    assert [(group.dpm_pool, group.link_group) for group in made.pool_groups] == [
        ("main", "main-linkgroup"),
        ("spare", None),
    ]
    assert made.pool_groups[0].fqans == space.fqans


def test_token_of_root_alone_is_owned_by_the_vo_of_its_path() -> None:
    [space] = plan(token("/dpm/example.org/home/dteam/x", gids="0")).spaces
    assert (space.owner, space.fqans) == ("/dteam", ())


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (None, LeftOutReason.NO_PATH),
        ("", LeftOutReason.NO_PATH),
        ("/", LeftOutReason.ROOT),
        ("relative", LeftOutReason.PATH),
        ("/dpm/../x", LeftOutReason.PATH),
        (b"/dpm/\xff", LeftOutReason.PATH),
        ("/dpm/missing", LeftOutReason.NO_DIRECTORY),
    ],
)
def test_token_without_a_directory_is_left_out(path: str | bytes | None, reason: LeftOutReason) -> None:
    made = plan(token(path), directories={"/dpm/there"})
    assert [each.reason for each in made.left_out] == [reason]
    assert made.spaces == ()


def test_of_two_tokens_of_one_directory_the_first_by_its_text_counts() -> None:
    made = plan(token("/dpm/x", "SECOND"), token("//dpm/x/", "FIRST"))
    assert [space.name for space in made.spaces] == ["FIRST"]
    assert [each.reason for each in made.left_out] == [LeftOutReason.SAME_DIRECTORY]


def test_token_of_a_pool_without_file_systems_keeps_its_link_group() -> None:
    made = plan(token("/dpm/x", pool="gone"))
    assert {group.dpm_pool: group.pools for group in made.pool_groups}["gone"] == ()


@pytest.mark.parametrize(
    ("paths", "model"),
    [
        (["/dpm/e/home/a", "/dpm/e/home/b"], Model.STORAGE_UNITS),
        (["/dpm/e/home/a/1", "/dpm/e/home/a/2"], Model.SPACE_MANAGER),
        (["/dpm/e/home", "/dpm/e/home/b"], Model.SPACE_MANAGER),
        ([], Model.STORAGE_UNITS),
    ],
)
def test_space_manager_is_recommended_where_quotas_of_groups_would_not_do(
    paths: list[str], model: Model
) -> None:
    assert plan(*map(token, paths)).recommended is model


def test_names_that_look_alike_stay_apart() -> None:
    names = {link_group_name(name) for name in ("a b", "a_b", "a/b")}
    assert len(names) == 3
    assert link_group_name("atlas") == "atlas-linkgroup"


@pytest.mark.parametrize(
    ("name", "group"),
    [(b"A-b.c_1", "A-b.c_1"), (b"a b\\", "a_b__"), ("é".encode(), "_303_251"), (b"", "default")],
)
def test_storage_group_is_what_the_tag_says(name: bytes, group: str) -> None:
    assert group_of(name) == group


def test_units_have_those_of_tokens_and_of_vos_without_any() -> None:
    made = plan(token("/dpm/e/home/atlas", "A"), vos=["atlas", "dteam"])
    assert made.units == ("atlas:A@osm", "atlas:default@osm", "dteam:default@osm")


# Sums

SIZES = st.integers(0, 2**50)


@given(st.lists(st.tuples(SIZES, SIZES), max_size=8), st.integers(0, 2**52))
def test_shrunk_reservations_fit_hold_their_files_and_are_never_larger(
    pairs: list[tuple[int, int]], free: int
) -> None:
    before = {number: grown(*pair) for number, pair in enumerate(pairs)}
    after = shrunk(before, free)
    assert sums(after, free).lacking == 0
    for number, each in after.items():
        assert each.used == before[number].used <= each.size <= before[number].size
    if sums(before, free).lacking == 0:
        assert after == before
    else:
        assert free - len(pairs) < sums(after, free).reserved <= free


def test_unknown_free_space_books_nothing_as_available() -> None:
    found = sums({1: Reserved(10, 4)}, None)
    assert (found.reserved, found.available, found.lacking) == (6, 0, 0)


def test_free_space_of_a_shared_file_system_is_divided() -> None:
    rows = [
        FileSystem(b"a", b"d1", b"/srv/1", 0),
        FileSystem(b"b", b"D1", b"/srv/1/", 0),
        FileSystem(b"a", b"d1", b"/srv/2", 2),
    ]
    free = {dcache_pool(row): 100 for row in rows}
    assert free_by_link_group(rows, free) == {"a-linkgroup": 50, "b-linkgroup": 50}
    assert free_by_link_group(rows, {}) == {}


# What DPM counts


def test_dpm_counts_a_directory_without_the_topmost_tokens_below() -> None:
    made = plan(token("/d/a", "A"), token("/d/a/b", "B"), token("/d/a/b/c", "C"))
    sizes = {"/d/a": 100, "/d/a/b": 60, "/d/a/b/c": 70}
    used = {space.name: counted(space, made.spaces, sizes) for space in made.spaces}
    assert used == {"A": 40, "B": 0, "C": 70}


# Quotas of groups


def quotas(tokens: Iterable[TokenRow], usage: Iterable[Used]) -> QuotaPlan:
    return plan_quotas(plan(*tokens, model=Model.STORAGE_UNITS).spaces, usage)


def test_group_whose_files_are_all_below_its_token_gets_a_quota() -> None:
    made = quotas([token("/d/a", gids="0,101")], [Used(101, "/d/a", 2, 30), Used(101, "/d/a/x", 1, 5)])
    assert [(each.gid, each.limit, each.used) for each in made.quotas] == [(101, 100, 35)]
    assert made.lost == ()


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        ([Used(101, "/d/a", 1, 1), Used(102, "/d/a", 1, 1)], "2 groups"),
        ([Used(101, "/d/a", 1, 1), Used(101, "/d", 1, 0)], "elsewhere"),
        ([Used(101, "/d/a", 1, 1), Used(101, None, 1, 0)], "elsewhere"),
        ([Used(0, "/d/a", 1, 1)], "root"),
    ],
)
def test_token_that_no_quota_can_stand_for_is_told(usage: list[Used], reason: str) -> None:
    made = quotas([token("/d/a", gids="101")], usage)
    assert made.quotas == ()
    assert reason in made.lost[0].reason


def test_group_that_may_write_below_two_tokens_gets_no_quota() -> None:
    made = quotas([token("/d/a", "A", gids="101"), token("/d/b", "B", gids="101,102")], [])
    assert [each.space.name for each in made.lost] == ["A", "B"]


@given(
    st.lists(
        st.builds(
            Used,
            st.integers(1, 3),
            st.sampled_from(["/d", "/d/a", "/d/a/x", "/d/b", None]),
            st.just(1),
            st.integers(0, 99),
        ),
        max_size=8,
    ),
    st.lists(st.sampled_from(["/d/a", "/d/a/x", "/d/b"]), unique=True),
)
def test_a_quota_limits_exactly_the_files_of_its_token(usage: list[Used], paths: list[str]) -> None:
    tokens = [token(path, path, gids="0") for path in paths]
    spaces = plan(*tokens, model=Model.STORAGE_UNITS).spaces
    for quota in plan_quotas(spaces, usage).quotas:
        below = [each for each in usage if each.path and covering(each.path, spaces) == quota.space]
        assert below == [each for each in usage if each.gid == quota.gid]
        assert isinstance(quota, GroupQuota)
        assert quota.used == sum(each.used for each in below)


# Findings


def test_findings_of_reservations() -> None:
    made = plan(token("/d/a", size=100), token("/d/b", size=10), token(None))
    contents = {space.token: Content(1, 50, 60, 5) for space in made.spaces}
    found = surveyed(made, problem="dCache is connected to it (2 sessions)")
    found = replace(found, contents=contents, link_groups={"main-linkgroup": sums({1: Reserved(100)}, 40)})
    assert ids(found) == CHECKS.keys() - {"space-quota-lost"}
    errors = {finding.id for finding in judge(found) if finding.severity is Severity.ERROR}
    assert errors == {"space-overbooked", "space-manager"}
    shrinking = replace(found, overbooked="shrink", problem="")
    assert all(finding.severity is not Severity.ERROR for finding in judge(shrinking))


def test_findings_of_storage_units() -> None:
    made = plan(token("/d/a", gids="101,102"), model=Model.STORAGE_UNITS)
    lost = replace(surveyed(made), quotas=plan_quotas(made.spaces, []))
    assert ids(lost) == {"space-model", "space-quota-lost"}


# With databases


async def test_survey_counts_and_quotas_are_written_once(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    for name in "ab":
        await catalog.mkdir(f"{HOME}/{name}")
    await catalog.token(f"{HOME}/a", "A", groups="0,101")
    await catalog.token(f"{HOME}/b", "B", groups="0,102")
    first = await catalog.file(f"{HOME}/a/file", size=10, gid=101)
    await catalog.replica(first, 1)
    await catalog.execute(
        f"UPDATE {catalog.filesystems} SET poolname = %s WHERE server = %s", PLACES[0].pool, PLACES[1].server
    )
    with pytest.raises(StateError, match="first copy"):
        await load_quotas(mirrored.session)
    async with open_databases(mirrored.config) as databases:
        assert (await survey(databases)).contents is None
    await mirrored.snapshot_and_follow()
    async with open_databases(mirrored.config) as databases:
        seen = await survey(databases)
    by_name = {space.name: (seen.contents or {})[space.token] for space in seen.plan.spaces}
    assert by_name["A"][:3] == (1, 10, 20)
    assert "space-used-differs" in ids(seen)
    await mirrored.conn.execute("INSERT INTO t_group_quota VALUES (102, 0, 0, 0, NULL, NULL, 5)")
    written = await load_quotas(mirrored.session)
    assert written.foreign == (102,)
    assert await limits(mirrored) == {101: (10, 1 << 40), 102: (0, 5)}
    await catalog.execute(f"DELETE FROM {catalog.tokens} WHERE u_token = 'A'")
    await mirrored.follow()
    await load_quotas(mirrored.session)
    assert await limits(mirrored) == {102: (0, 5)}


async def limits(mirrored: Mirrored) -> dict[int, tuple[int, int]]:
    rows = await mirrored.conn.fetch("SELECT igid, ireplica_used, ireplica_limit FROM t_group_quota")
    return {row[0]: (row[1], row[2]) for row in rows}


async def test_command_shows_loads_and_compares(
    maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str, spacemanager_dsn: str, tmp_path: Path
) -> None:
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SiteOptions(files=100))
    async with bridge_for(tmp_path, dpm_site, chimera_dsn) as bridge:
        bridge.configure({"spacemanager": {"enabled": True, "dsn": spacemanager_dsn}})
        bridge.file.chmod(0o600)
        await bridge.good("init")
        early = await bridge("spaces", "--load")
        assert (early.code, early.err.count("\n")) == (2, 1)
        assert "first copy is not complete" in early.err
        await bridge.good("sync", "--once")
        shown = await bridge.good("spaces", "--load", "--compare")
        assert shown["model"] == "space-manager"
        assert shown["differences"] == []
        assert shown["loaded"]["whole"]
        assert shown["loaded"]["rows"] == sum(space["files"] for space in shown["spaces"]) > 0
        assert all(space["id"] >= 2 for space in shown["spaces"])
        words = await bridge("spaces", as_json=False)
        assert words.code == 0
        assert "space-free-unknown" in words.out
