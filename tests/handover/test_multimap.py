"""The model of multi-map files and gPlazma, rule by rule, and against a naive reading of the rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.errors import ConfigError
from dome_bridge.handover.gplazma import (
    Gplazma,
    LoginRefusedError,
    Sessions,
    parse_bans,
    parse_steps,
)
from dome_bridge.handover.multimap import (
    MultiMap,
    Principal,
    fqan_in_normal_form,
    matcher,
    principal,
    quoted,
    text_of,
    words,
)
from tests.handover import grammar


def mapped(text: str, *presented: str) -> set[str] | None:
    found = MultiMap.parse(text).map([principal(word) for word in presented])
    return None if found is None else {str(one) for one in found}


def test_all_lines_that_fit_apply() -> None:
    text = "dn:/CN=a username:a\nfqan:/atlas gid:1\nfqan:/cms gid:2\n"
    assert mapped(text, "dn:/CN=a", "fqan:/atlas") == {"username:a", "gid:1"}


def test_nothing_that_fits_is_a_failure() -> None:
    assert mapped("dn:/CN=a username:a\n", "dn:/CN=b") is None


def test_true_asks_for_the_primary_one_and_without_it_any_place_will_do() -> None:
    text = "fqan:/atlas,true gid:1,true\nfqan:/atlas gid:1\n"
    assert mapped(text, "fqan:/atlas") == {"gid:1"}
    assert mapped(text, "fqan:/atlas,true") == {"gid:1,true", "gid:1"}
    assert mapped("fqan:/atlas,false gid:1\n", "fqan:/atlas,true") is None


def test_first_line_gives_the_primary_gid_and_the_others_become_plain() -> None:
    text = "op:x gid:2,true\ndn:/CN=a gid:1,true\n"
    assert mapped(text, "dn:/CN=a", "op:x") == {"gid:2,true", "gid:1"}


def test_primary_gid_of_an_earlier_plugin_stays() -> None:
    assert mapped("dn:/CN=a gid:1,true\n", "dn:/CN=a", "gid:9,true") == {"gid:1"}


def test_lines_of_one_file_do_not_see_each_others_targets() -> None:
    assert mapped("dn:/CN=a group:g\ngroup:g uid:1\n", "dn:/CN=a") == {"group:g"}


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("/atlas/Role=NULL/Capability=NULL", "/atlas"),
        ("/atlas/Role=pilot/Capability=NULL", "/atlas/Role=pilot"),
        ("/atlas/Role=NULL", "/atlas"),
        ("/atlas/Role=NULLED", "/atlas/Role=NULLED"),
    ],
)
def test_fqans_are_compared_without_what_says_nothing(written: str, normal: str) -> None:
    assert fqan_in_normal_form(written) == normal
    assert mapped(f"fqan:{normal} gid:1\n", f"fqan:{written}") == {"gid:1"}


def test_fqans_have_no_wild_cards() -> None:
    assert mapped("fqan:/atlas gid:1\n", "fqan:/atlas/de") is None


@pytest.mark.parametrize(
    "line",
    [
        "dn:/CN=a",
        "nothing gid:1",
        "who:x gid:1",
        "dn:/CN=a gid:x",
        "dn:/CN=a uid:-1",
        "dn:/CN=a gid:1,true,true",
        '"dn:/CN=a b gid:1',
        'dn:/CN=a"b" gid:1',
        "fqan:atlas gid:1",
    ],
)
def test_line_that_makes_no_sense_is_passed_over_with_a_warning(line: str) -> None:
    read = MultiMap.parse(f"# comment\n\n{line}\nop:x gid:1\n")
    assert [one.number for one in read.lines] == [4]
    assert len(read.warnings) == 1
    assert read.warnings[0].startswith("line 3: ")


DNS = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters='"\\'), min_size=1
).map(lambda text: f"/CN={text} x")


@given(DNS)
def test_what_is_quoted_is_read_back(dn: str) -> None:
    assert words(f"{quoted(f'dn:{dn}')} uid:1") == [f"dn:{dn}", "uid:1"]


@pytest.mark.parametrize("word", ['a"b', "a\\b", "a\nb"])
def test_what_no_file_can_hold_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        quoted(word)


GROUP_WORDS = st.builds(
    lambda kind, flag: f"{kind}{flag}",
    st.sampled_from(["fqan:/a", "fqan:/b", "fqan:/a/Role=x"]),
    st.sampled_from(["", ",true"]),
)
FIRST_WORDS = GROUP_WORDS | st.sampled_from(["dn:/CN=a", "dn:/CN=b c", "op:x", "oidc:s@x", "oidcgrp:/a"])
TARGETS = st.builds(lambda n, flag: f"gid:{n}{flag}", st.integers(1, 4), st.sampled_from(["", ",true"])) | (
    st.sampled_from(["uid:1", "uid:2", "username:a", "username:b", "group:g"])
)
# In one line the order of two primary gids is nobody's promise.
LINES = st.tuples(
    FIRST_WORDS,
    st.lists(TARGETS, min_size=1, max_size=3).filter(lambda all_: sum(",true" in t for t in all_) < 2),
)


@given(st.lists(LINES, max_size=8), st.sets(FIRST_WORDS | st.just("gid:9,true"), min_size=1, max_size=4))
def test_mapping_is_that_of_the_rules_word_by_word(
    lines: list[tuple[str, list[str]]], presented: set[str]
) -> None:
    text = "".join(f"{' '.join(quoted(word) for word in (first, *targets))}\n" for first, targets in lines)
    naive = grammar.naive_mapping(grammar.multi_map(text), presented)
    assert mapped(text, *presented) == naive
    again = "".join(f"{text_of(line)}\n" for line in MultiMap.parse(text).lines)
    assert MultiMap.parse(again).lines == MultiMap.parse(text).lines


# --- gPlazma


CHAIN = """
auth optional x509
auth optional voms
auth optional oidc
map optional multimap gplazma.multimap.file=/etc/dcache/groups
map sufficient multimap gplazma.multimap.file=/etc/dcache/users
map requisite multimap gplazma.multimap.file=/etc/dcache/others
account requisite banfile
session requisite omnisession
"""
TEXTS = {
    "gplazma.conf": CHAIN,
    "groups": "fqan:/a,true gid:1,true\nfqan:/a gid:1\nfqan:/b gid:2\n",
    "users": "dn:/CN=known username:known uid:7\n",
    "others": "fqan:/a,true username:others uid:9\n",
    "ban.conf": "ban dn:/CN=bad\nban dn:/CN=worse\n",
    "omnisession.conf": "DEFAULT root:/ home:/\n",
}


def login(*presented: str, **changes: str) -> tuple[str, int, int, set[int]]:
    texts = TEXTS | {name.replace("_", "."): text for name, text in changes.items()}
    found = Gplazma(texts).login(map(principal, presented))
    return found.username, found.uid, found.gid, set(found.gids)


def refusal(*presented: str, **changes: str) -> str:
    with pytest.raises(LoginRefusedError) as caught:
        login(*presented, **changes)
    return str(caught.value)


def test_known_user_gets_his_number_and_the_groups_of_his_proxy() -> None:
    assert login("dn:/CN=known", "fqan:/a,true", "fqan:/b") == ("known", 7, 1, {1, 2})


def test_sufficient_ends_the_phase_so_that_nobody_has_two_names() -> None:
    assert login("dn:/CN=stranger", "fqan:/a,true") == ("others", 9, 1, {1})
    both = refusal("dn:/CN=known", "fqan:/a,true", gplazma_conf=CHAIN.replace("sufficient", "optional"))
    assert both == "exactly one user name is needed, there is known, others"


def test_requisite_ends_the_login() -> None:
    assert refusal("dn:/CN=stranger", "fqan:/b,true") == "no line of others fits"


def test_required_fails_only_at_the_end_of_the_phase() -> None:
    chain = CHAIN.replace("map optional", "map required")
    assert refusal("dn:/CN=known", gplazma_conf=chain) == "no line of groups fits"


def test_primary_group_is_needed() -> None:
    assert refusal("dn:/CN=known", "fqan:/c,true", "fqan:/b") == (
        "exactly one primary gid is needed, there is none"
    )


def test_credentials_of_a_plugin_that_is_not_there_do_not_count() -> None:
    assert "none" in refusal(
        "dn:/CN=known", "fqan:/a,true", gplazma_conf=CHAIN.replace("auth optional voms", "")
    )
    assert refusal("op:x") == "no line of others fits"


def test_attributes_of_the_session_are_needed() -> None:
    presented = ("dn:/CN=known", "fqan:/a,true")
    assert (
        refusal(*presented, omnisession_conf="DEFAULT root:/\n") == "omnisession.conf gives no home directory"
    )


def test_line_that_fits_goes_before_the_defaults() -> None:
    found = Sessions.parse("DEFAULT root:/ home:/\nusername:a home:/x read-only\n")
    assert found.attributes(frozenset({Principal("username", "a")})) == {
        "home": "/x",
        "root": "/",
        "read-only": "",
    }


def test_one_bad_session_line_stops_every_login() -> None:
    with pytest.raises(ConfigError, match="no login works"):
        Gplazma(TEXTS | {"omnisession.conf": "who:x root:/\nDEFAULT root:/ home:/\n"})


def test_bans_hold_for_all_or_for_the_last_of_a_type_where_the_plugin_has_the_fault() -> None:
    both = {Principal("dn", "/CN=bad"), Principal("dn", "/CN=worse")}
    assert parse_bans(TEXTS["ban.conf"], keeps_last_only=False) == both
    assert parse_bans(TEXTS["ban.conf"], keeps_last_only=True) == {Principal("dn", "/CN=worse")}


def test_bans_by_class_and_alias() -> None:
    text = "alias g=org.dcache.auth.GroupNamePrincipal\nban g:x\nban org.dcache.auth.UidPrincipal:7\n"
    assert parse_bans(text, keeps_last_only=True) == {Principal("group", "x"), Principal("uid", "7")}


@pytest.mark.parametrize("text", ["ban uid:7\n", "band dn:x\n", "alias a=com.example.None\nban a:x\n"])
def test_ban_file_that_stops_every_login_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"ban\.conf"):
        parse_bans(text, keeps_last_only=False)


@pytest.mark.parametrize("text", ["map optional\n", "mop optional x\n", "map perhaps x\n"])
def test_step_that_gplazma_does_not_understand_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="line 1"):
        parse_steps(text)


def test_plugin_that_is_not_modelled_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="vorolemap"):
        Gplazma(TEXTS | {"gplazma.conf": CHAIN + "map optional vorolemap\n"})


def test_missing_file_is_named() -> None:
    texts = {name: text for name, text in TEXTS.items() if name != "users"}
    with pytest.raises(ConfigError, match="users is missing"):
        Gplazma(texts)


def test_matcher_knows_types_without_a_primary_one() -> None:
    assert matcher("dn:/CN=a,true").value == "/CN=a,true"
