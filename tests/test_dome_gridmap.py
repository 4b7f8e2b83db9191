"""The names of groups: from FQANs, and from a grid-mapfile that changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.dome_api.gridmap import GridMap, group_of_fqan, parse


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("fqan", "group"),
    [
        ("dteam", "dteam"),
        ("/dteam", "dteam"),
        ("/dteam/Role=NULL/Capability=NULL", "dteam"),
        ("/dteam/sub/Role=NULL", "dteam/sub"),
        ("/dteam/Role=production/Capability=NULL", "dteam/Role=production"),
        ("/dteam/Role=production", "dteam/Role=production"),
        ("//dteam", "/dteam"),
        ("", ""),
    ],
)
def test_fqan_becomes_the_name_of_a_group(fqan: str, group: str) -> None:
    assert group_of_fqan(fqan) == group


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="/= "), min_size=1, max_size=8)
ROLES = WORDS.filter(lambda role: role != "NULL")


@given(st.lists(WORDS, min_size=1, max_size=4), st.none() | ROLES, st.booleans(), st.booleans())
def test_fqan_keeps_what_says_something(path: list[str], role: str | None, slash: bool, full: bool) -> None:
    """full: as voms-proxy-info prints it, with what is NULL."""
    name = "/".join(path) + (f"/Role={role}" if role else "")
    nulls = ("" if role else "/Role=NULL") + "/Capability=NULL" if full else ""
    assert group_of_fqan(("/" if slash else "") + name + nulls) == name
    assert group_of_fqan(name) == name


# Without = they are no DNs, and have one spelling only.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters='"\r\n='), min_size=1, max_size=12)
VOS = st.text(st.characters(categories=("Ll", "Nd"), include_characters="./_-"), min_size=1, max_size=8)


@given(st.lists(st.tuples(NAMES, st.lists(VOS, min_size=1, max_size=3)), max_size=8))
def test_gridmap_gives_the_first_vo_of_every_line(lines: list[tuple[str, list[str]]]) -> None:
    text = "# made by hand\n\n" + "".join(f'"{dn}"\t{",".join(vos)}\n' for dn, vos in lines)
    expected: dict[str, tuple[str, ...]] = {}
    for dn, (vo, *_) in lines:
        expected[dn] = tuple(dict.fromkeys([*expected.get(dn, ()), vo]))
    assert parse(text) == expected


@given(st.text(st.characters(codec="utf-8", exclude_characters="=") | st.sampled_from('"#, \n'), max_size=60))
def test_gridmap_of_any_text_gives_only_what_stands_in_it(text: str) -> None:
    for dn, groups in parse(text).items():
        assert dn in text
        assert all(group and group in text and "," not in group for group in groups)


def test_gridmap_passes_over_what_makes_no_sense() -> None:
    text = (
        '"/CN=a" vo1\n#"/CN=a" vo2\n  # c\n"/CN=b"\n"/CN=c\n/CN=bare vo3\n"/CN=d" # none\n"/CN=a" vo4,vo5\r\n'
    )
    assert parse(text) == {"/CN=a": ("vo1", "vo4"), "/CN=bare": ("vo3",)}


SPELLINGS = (
    "/DC=org/CN=Robot: a/b +1/CN=J\\xC3\\xBCrgen/emailAddress=j@x",
    "/DC=org/CN=Robot: a\\/b \\+1/CN=J\\xC3\\xBCrgen/emailAddress=j@x",
    "/DC=org/CN=Robot: a/b +1/CN=J\\xc3\\xbcrgen/Email=j@x",
    "/DC=org/CN=Robot: a/b +1/CN=Jürgen/E=j@x",
    "emailAddress=j@x,CN=J\\C3\\BCrgen,CN=Robot: a/b \\+1,DC=org",
)


@pytest.mark.parametrize("asked", SPELLINGS)
async def test_u5_every_spelling_of_a_dn_finds_the_lines_of_all_spellings(asked: str, tmp_path: Path) -> None:
    file = tmp_path / "mapfile"
    lines = [f'"{dn}" vo{number}\n' for number, dn in enumerate(SPELLINGS)] + [f'"{SPELLINGS[0]}" last\n']
    file.write_text("# by hand\n" + "".join(lines), encoding="utf-8")
    assert await GridMap(file).groups_of(asked) == ("vo0", "vo1", "vo2", "vo3", "vo4", "last")


async def test_u5_name_with_an_escaped_attribute_is_not_the_dn_that_it_looks_like(tmp_path: Path) -> None:
    file = tmp_path / "mapfile"
    file.write_text('"/OU=People/CN=Ada" vo\n')
    gridmap = GridMap(file)
    assert await gridmap.groups_of("/OU=People/CN=Ada") == ("vo",)
    assert await gridmap.groups_of("/OU=People\\/CN=Ada") == ()


async def test_u5_user_whose_name_is_no_dn_is_found_as_he_is_written(tmp_path: Path) -> None:
    file = tmp_path / "mapfile"
    file.write_text('"jwt:atlas:a b" vo\n')
    assert await GridMap(file).groups_of("jwt:atlas:a b") == ("vo",)


async def test_gridmap_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file, clock = tmp_path / "mapfile", Clock()
    gridmap = GridMap(file, clock=clock)
    assert await gridmap.groups_of("/CN=a") == ()
    file.write_text('"/CN=a" vo1\n')
    assert await gridmap.groups_of("/CN=a") == ()
    clock.now += 1
    assert await gridmap.groups_of("/CN=a") == ("vo1",)
    file.write_text('"/CN=a" vo2\n')
    os.utime(file, (0, 0))
    clock.now += 1
    assert await gridmap.groups_of("/CN=a") == ("vo2",)
    file.unlink()
    clock.now += 1
    assert await gridmap.groups_of("/CN=a") == ()


async def test_gridmap_that_cannot_be_read_stays_in_force_and_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, clock = tmp_path / "mapfile", Clock()
    file.write_text('"/CN=a" vo1\n')
    gridmap = GridMap(file, clock=clock)
    assert await gridmap.groups_of("/CN=a") == ("vo1",)
    file.unlink()
    file.mkdir()
    for _ in range(3):
        clock.now += 1
        assert await gridmap.groups_of("/CN=a") == ("vo1",)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
