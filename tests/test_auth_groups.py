"""Groups of VOMS attributes and of tokens, as DPM's."""

from __future__ import annotations

import logging
import re
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.auth.groups import group_of_fqan, is_root, mapped, parse_groups, usable
from dome_bridge.auth.refusal import AuthError

NAMES = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,6}", fullmatch=True)
GROUPS = st.lists(NAMES | st.sampled_from(["vo", "vox", "root"]), min_size=1, max_size=3).map(
    lambda names: "/" + "/".join(names)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | GROUPS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    "claim",
    [[], ["/vo"], ["/vo/sub", "/vo"], ["/vo", "/vo"], ["/a.b-c_d/0"], ["/Vo"], ["/vo/a.."], ["/vo"] * 128],
)
def test_g1_well_formed_groups_are_taken_as_they_stand(claim: list[str]) -> None:
    assert parse_groups(claim) == tuple(claim)


@pytest.mark.parametrize(
    "claim",
    [
        None, "/vo", True, 5, {}, {"/vo": 1}, [5], [None], ["/vo", 5], ["/vo", ["/vo"]],
        [""], ["vo"], ["/"], ["//vo"], ["/vo/"], ["/vo//sub"], ["/vo/.."], ["/vo/."],
        ["/.vo"], ["/-vo"], ["/_vo"], ["/vo\n"], ["/vo "], [" /vo"],
        ["/vo/Role=production"], ["/vo/ü"], ["/vo\0"], ["/vo,/vo2"], ["/٣"], ["/vo"] * 129,
    ],
)  # fmt: skip
def test_g1_malformed_groups_make_the_token_invalid(claim: object) -> None:
    with pytest.raises(AuthError) as caught:
        parse_groups(claim)
    assert (caught.value.status, caught.value.rule) == (401, "G1")


@given(JSON)
def test_g1_any_claim_is_parsed_or_refused_with_401(claim: object) -> None:
    is_well_formed = isinstance(claim, list) and all(
        isinstance(group, str) and re.fullmatch(r"(/[a-zA-Z0-9][a-zA-Z0-9_.-]*)+", group) for group in claim
    )
    with nullcontext() if is_well_formed else pytest.raises(AuthError, match="groups"):
        assert list(parse_groups(claim)) == claim


@given(st.lists(GROUPS, max_size=6))
def test_g1_every_well_formed_list_is_taken(claim: list[str]) -> None:
    assert parse_groups(claim) == tuple(claim)


def test_g3_child_group_does_not_imply_its_parent() -> None:
    assert mapped(["/vo/sub"], "vo", (), {}) == ("vo/sub",)


def test_g4_order_is_kept_and_each_group_counts_once() -> None:
    groups = ["/vo/b", "/vo", "/vo/b", "/vo/a", "/vo"]
    assert mapped(groups, "vo", (), {}) == ("vo/b", "vo", "vo/a")


def test_g4_groups_that_map_to_one_count_once_in_the_first_place() -> None:
    group_map = {"/vo/prod": "vo/Role=production", "/vo/production": "vo/Role=production"}
    assert mapped(["/vo/production", "/vo", "/vo/prod"], "vo", (), group_map) == ("vo/Role=production", "vo")


def test_g6_groups_of_another_vo_are_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    groups = ["/vox", "/vo", "/other/vo", "/Vo", "/vox/vo", "/vo/sub"]
    with caplog.at_level(logging.WARNING):
        assert mapped(groups, "vo", (), {}) == ("vo", "vo/sub")
    (record,) = caplog.records
    assert record.getMessage().endswith("vo=vo dropped=/vox,/other/vo,/Vo,/vox/vo")


def test_g6_group_of_another_vo_is_dropped_whatever_the_map_says() -> None:
    assert mapped(["/vox"], "vo", (), {"/vox": "vo"}) == ()


def test_g6_groups_of_the_issuer_leave_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    mapped(["/vo", "/vo/sub"], "vo", ["/vo"], {})
    assert not caplog.records


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ((), ("vo", "vo/prod", "vo/prod/a", "vo/production")),
        (("/vo",), ("vo", "vo/prod", "vo/prod/a", "vo/production")),
        (("/vo/prod",), ("vo/prod", "vo/prod/a")),
        (("/vo/prod/",), ("vo/prod/a",)),
        (("/vo/production", "/vo/prod/a"), ("vo/prod/a", "vo/production")),
        (("/vo/pro",), ()),
        (("/other",), ()),
    ],
)
def test_g6_allow_list_restricts_by_component(allowed: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert mapped(["/vo", "/vo/prod", "/vo/prod/a", "/vo/production"], "vo", allowed, {}) == expected


@pytest.mark.parametrize(
    ("group", "vo", "group_map"),
    [
        ("/root", "root", {}),
        ("/ROOT", "ROOT", {}),
        ("/vo", "vo", {"/vo": "root"}),
        ("/vo", "vo", {"/vo": "/root"}),
        ("/vo", "vo", {"/vo": "Root "}),
        ("/vo", "vo", {"/vo": "/root/Role=NULL"}),
    ],
)
def test_g7_no_group_becomes_root(group: str, vo: str, group_map: dict[str, str]) -> None:
    assert mapped([group, f"/{vo}/sub"], vo, (), group_map) == (f"{vo}/sub",)


def test_g7_root_below_a_group_is_a_group_like_any_other() -> None:
    assert mapped(["/vo/root", "/root/sub"], "vo", (), {}) == ("vo/root",)
    assert not is_root("root/sub")


def test_g9_table_comes_first_else_the_name_without_its_slash() -> None:
    group_map = {"/dteam/production": "dteam/Role=production"}
    groups = ["/dteam/production", "/dteam/production/x", "/dteam"]
    assert mapped(groups, "dteam", (), group_map) == ("dteam/Role=production", "dteam/production/x", "dteam")


def test_g9_token_and_voms_role_meet_in_one_group() -> None:
    role = group_of_fqan("/dteam/Role=production/Capability=NULL")
    assert mapped(["/dteam/prod"], "dteam", (), {"/dteam/prod": "dteam/Role=production"}) == (role,)


def test_b3_primary_group_is_the_first_that_the_issuer_may_give() -> None:
    assert mapped(["/other", "/root", "/vo/b", "/vo/a"], "vo", (), {})[0] == "vo/b"


@given(st.lists(GROUPS, max_size=6), st.dictionaries(GROUPS, NAMES, max_size=3))
def test_g6_only_groups_of_the_vo_come_out_in_their_order(
    groups: list[str], group_map: dict[str, str]
) -> None:
    own = [group for group in groups if group.split("/")[1] == "vo"]
    names = [group_map.get(group, group[1:]) for group in own]
    expected = dict.fromkeys(name for name in names if name.lower() != "root")
    assert mapped(groups, "vo", (), group_map) == tuple(expected)


@pytest.mark.parametrize("name", ["vo/" + "n" * 253, "vo/" + "ü" * 127])
def test_u4_group_name_that_dpm_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(AuthError) as caught:
        usable(["vo", name])
    assert (caught.value.status, caught.value.rule) == (403, "U4")


def test_u4_longest_group_name_is_taken() -> None:
    assert mapped(["/vo/" + "n" * 252], "vo", (), {}) == ("vo/" + "n" * 252,)


@pytest.mark.parametrize(
    ("fqan", "group"),
    [
        ("/dteam/Role=production/Capability=NULL", "dteam/Role=production"),
        ("/dteam/Role=NULL/Capability=NULL", "dteam"),
        ("/dteam/Role=NULL", "dteam"),
        ("/dteam/Capability=NULL", "dteam"),
        ("/dteam", "dteam"),
        ("/dteam/sub/Role=x/Capability=y", "dteam/sub/Role=x/Capability=y"),
        ("/dteam/Role=NULL/Capability=y", "dteam/Capability=y"),
        ("/dteam/Role=NULLABLE", "dteam/Role=NULLABLE"),
        ("/dteam/Role=x/Capability=NULLABLE", "dteam/Role=x/Capability=NULLABLE"),
        ("/dteam/Role=null", "dteam/Role=null"),
        ("/dteam/NULL", "dteam/NULL"),
        ("/dteam/Role=NULL\n", "dteam/Role=NULL\n"),
        ("dteam/Role=production", "dteam/Role=production"),
    ],
)
def test_v7_fqan_has_one_normal_form(fqan: str, group: str) -> None:
    assert group_of_fqan(fqan) == group
    assert group_of_fqan("/" + group) == group


def test_v7_order_of_fqans_is_kept_each_counts_once_and_none_is_root() -> None:
    fqans = ["/vo/Role=a", "/root/Role=NULL", "/vo/Role=NULL", "/vo/Role=a/Capability=NULL", "/vo"]
    assert usable(map(group_of_fqan, fqans)) == ("vo/Role=a", "vo")
