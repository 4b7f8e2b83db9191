"""Scopes of tokens, the area of their issuer, and the paths that they are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.auth.refusal import AuthError
from dome_bridge.auth.scopes import (
    COMPUTE,
    MEANING,
    Area,
    Capability,
    Grants,
    Operation,
    Scopes,
    granting,
    normal_path,
    parse_scopes,
    resolved_path,
)

T = TypeVar("T")

BASE = "/dpm/test/home/vo"
READ, CREATE, MODIFY, STAGE, POLL = EVERY = tuple(Capability)

NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"), exclude_characters="/"))
PARTS = st.lists(
    st.sampled_from(["a", "ab", "b", "%20", "a b", "ä", "\udcff"])
    | NAMES.filter(lambda name: name.strip(".")),
    max_size=4,
).map(tuple)
FEW_PARTS = st.lists(st.sampled_from(["a", "ab", "b", "ä"]), max_size=3).map(tuple)
CAPABILITIES = st.sampled_from(Capability)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def written(parts: tuple[str, ...], *, slash: bool = False) -> str:
    """A scope path with every character escaped that may be."""
    names = [quote(part.encode("utf-8", "surrogateescape"), safe="") for part in parts]
    return "/" + "/".join(names) + ("/" if slash and names else "")


def full(parts: tuple[str, ...]) -> str:
    return "/".join([BASE, *parts])


def grants(scope: str, *bases: str, exclude: tuple[str, ...] = ()) -> Grants:
    return Grants(Area(bases or (BASE,), exclude), *parse_scopes(scope))


def attempt(read: Callable[[Any], T], given: object) -> T | AuthError:
    try:
        return read(given)
    except AuthError as exc:
        return exc


def refusal(claim: object) -> tuple[int, str]:
    with pytest.raises(AuthError) as caught:
        parse_scopes(claim)
    assert "\n" not in str(caught.value)
    return caught.value.status, caught.value.rule


@pytest.mark.parametrize("claim", ["", " ", "openid", "  openid   profile ", "offline_access !#$%&'()*+,-./"])
def test_s1_words_that_are_no_capability_grant_nothing(claim: str) -> None:
    assert parse_scopes(claim) == Scopes((), False)


@pytest.mark.parametrize(
    "claim",
    [
        None, True, 5, 0.5, [], ["storage.read:/"], {"storage.read": "/"},
        "openid\tprofile", "openid\n", "storage.read:/ü", "storage.read:/\xa0", 'say"', "back\\slash",
        "\x7f", "\x00", "storage.read:/\udcff", "\ufeffopenid",
    ],
)  # fmt: skip
def test_s1_claim_that_is_no_string_of_words_is_refused(claim: object) -> None:
    assert refusal(claim) == (401, "S1")


@pytest.mark.parametrize(
    "word",
    ["Storage.Read:/", "STORAGE.READ:/", "storage.foo:/", "storage.readx:/", "storage:/", "storage.", ":/",
     "storage.foo:", "storage.write:/../..", "Compute.read", "compute.foo", "xcompute.read"],
)  # fmt: skip
def test_s1_undefined_names_are_no_capability_whatever_follows(word: str) -> None:
    assert parse_scopes(word) == Scopes((), False)


@pytest.mark.parametrize("word", [*sorted(COMPUTE), "compute.read:/anywhere", "compute.create:"])
def test_s1_compute_capability_grants_nothing_but_is_one(word: str) -> None:
    found = grants(f"openid {word}")
    assert found.has_capability
    assert not any(found.permits(EVERY, path) for path in (BASE, full(("anywhere",))))


@pytest.mark.parametrize("name", Capability)
def test_g5_any_storage_capability_makes_a_token_one_of_capabilities(name: Capability) -> None:
    assert parse_scopes(f"openid {name}:/x").has_capability


def test_s1_several_blanks_separate_like_one() -> None:
    assert parse_scopes("  storage.read:/a   storage.poll:/b ") == parse_scopes(
        "storage.read:/a storage.poll:/b"
    )


def test_l1_more_scopes_than_a_token_may_have_are_refused() -> None:
    assert len(parse_scopes(" ".join(["storage.read:/"] * 256)).storage) == 256
    assert refusal(" ".join(["x"] * 257)) == (401, "L1")


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/", ()),
        ("/a", ("a",)),
        ("/a/b/", ("a", "b")),
        ("/%61", ("a",)),
        ("/a%20b", ("a b",)),
        ("/%2520", ("%20",)),
        ("/%25252F", ("%252F",)),
        ("/%c3%A4", ("ä",)),
        ("/a:b", ("a:b",)),
        ("/a+b?c#d", ("a+b?c#d",)),
        ("/...", ("...",)),
        ("/%2E%2E%2E", ("...",)),
        ("/%0A", ("\n",)),
    ],
)
def test_s2_components_are_decoded_once(path: str, parts: tuple[str, ...]) -> None:
    (scope,) = parse_scopes(f"storage.read:{path}").storage
    assert (scope.capability, scope.parts) == (READ, parts)


BAD_PATHS = [
    "", "a", "a/b", "%2Fa", "./a",
    "//", "//a", "/a//", "/a//b",
    "/.", "/..", "/./a", "/a/.", "/a/..", "/a/../b", "/../",
    "/%2e", "/%2E%2e", "/.%2e", "/%2e./a", "/a/%2e%2E/b",
    "/a%2Fb", "/a%2fb", "/%2f", "/%00", "/a%00b",
    "/%", "/a%", "/%2", "/%g0", "/%0g", "/%zz/a", "/%u0041", "/%-41", "/%+1",
    "/%ff", "/%c3", "/%c3/%a4", "/%c0%af", "/%c0%ae", "/%ed%a0%80", "/%f5%80%80%80", "/%E4",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS)
def test_s3_one_wrong_path_makes_the_whole_token_invalid(path: str) -> None:
    for name in Capability:
        assert refusal(f"{name}:{path}") == (401, "S3")
    assert refusal(f"storage.read:/ openid storage.modify:{path} storage.poll:/") == (401, "S3")


@pytest.mark.parametrize("name", Capability)
def test_s3_capability_without_path_makes_the_token_invalid(name: Capability) -> None:
    assert refusal(name) == (401, "S3")
    assert refusal(f"storage.read:/ {name}") == (401, "S3")


@given(JSON)
def test_s1_any_claim_is_parsed_or_refused_with_401(claim: object) -> None:
    found = attempt(parse_scopes, claim)
    assert isinstance(found, Scopes) or (found.status == 401 and found.rule in ("S1", "S3", "L1"))


@given(st.lists(CAPABILITIES), st.text(st.sampled_from("/.%2ef0ca\\ \udcff")))
def test_s3_odd_path_beside_good_scopes_is_in_normal_form_or_refuses_all(
    good: list[Capability], path: str
) -> None:
    claim = " ".join([*(f"{name}:/" for name in good), f"storage.stage:{path}"])
    found = attempt(parse_scopes, claim)
    if isinstance(found, AuthError):
        assert (found.status, found.rule) in [(401, "S1"), (401, "S3")]
    else:
        assert all(part not in ("", ".", "..") and "/" not in part for part in found.storage[-1].parts)


@given(PARTS.filter(lambda parts: "\udcff" not in parts), st.booleans(), CAPABILITIES)
def test_s2_every_name_can_be_written_in_a_scope(
    parts: tuple[str, ...], slash: bool, capability: Capability
) -> None:
    (scope,) = parse_scopes(f"{capability}:{written(parts, slash=slash)}").storage
    assert scope == (capability, parts, slash or not parts)


@given(PARTS.filter(bool))
def test_s3_name_that_is_not_utf8_cannot_be_written_in_a_scope(parts: tuple[str, ...]) -> None:
    assert refusal(f"storage.read:{written((*parts, chr(0xDCFF)))}") == (401, "S3")


S4 = [
    # scope path, request path below the base, permitted, permitted for a file to be created
    ("/", "", True, False),
    ("/", "/a", True, True),
    ("/", "/a/b", True, True),
    ("/foo", "/foo", True, True),
    ("/foo", "/foo/x", True, True),
    ("/foo", "/foobar", False, False),
    ("/foo", "/foobar/file", False, False),
    ("/foo", "/fo", False, False),
    ("/foo", "", False, False),
    ("/foo", "/Foo", False, False),
    ("/foo", "/x/foo", False, False),
    ("/foo/", "/foo", True, False),
    ("/foo/", "/foo/x", True, True),
    ("/foo/", "/foo/x/y", True, True),
    ("/foo/", "/foobar", False, False),
    ("/foo/bar", "/foo/bar/x", True, True),
    ("/foo/bar", "/foo", False, False),
    ("/foo/bar", "/foo/b", False, False),
    ("/a%20b", "/a b", True, True),
    ("/a%20b", "/a%20b", False, False),
    ("/%2520", "/%20", True, True),
    ("/%2520", "/ ", False, False),
    ("/%252e%252e", "/%2e%2e", True, True),
    ("/%C3%A4", "/ä", True, True),
    ("/%C3%A4", "/a\u0308", False, False),
    ("/%C3%A4", "/\udce4", False, False),
    ("/foo", "/foo/\udcff", True, True),
]


@pytest.mark.parametrize(("scope", "request_path", "permitted", "file"), S4)
def test_s4_scope_matches_by_components(scope: str, request_path: str, permitted: bool, file: bool) -> None:
    found = grants(f"storage.modify:{scope}")
    path = normal_path(BASE + request_path)
    assert found.permits({MODIFY}, path) is permitted
    assert found.permits({MODIFY}, path, is_file=True) is file


def test_s2_scopes_of_one_name_are_a_union() -> None:
    found = grants("storage.read:/a storage.read:/b/c storage.read:/b/c/d/")
    assert [found.permits({READ}, full((name,))) for name in ("a", "b", "c")] == [True, False, False]
    assert found.permits({READ}, full(("b", "c")), is_file=True)


def test_s2_different_names_do_not_combine() -> None:
    found = grants("storage.read:/a storage.modify:/b")
    assert found.permits({READ}, full(("a", "x")))
    assert found.permits({MODIFY}, full(("b", "x")))
    assert not found.permits({MODIFY}, full(("a", "x")))
    assert not found.permits({READ}, full(("b", "x")))
    assert found.permits({READ, MODIFY}, full(("a", "x")))


def is_below(path: str, top: str) -> bool:
    """The naive rule, over text with a slash at the end of every directory."""
    return f"{path}/".startswith(f"{top}/" if top != "/" else "/")


@given(
    st.lists(st.tuples(CAPABILITIES, FEW_PARTS, st.booleans()), max_size=4),
    st.frozensets(CAPABILITIES),
    FEW_PARTS,
    st.booleans(),
)
def test_s4_decision_is_that_of_the_naive_rule(
    scopes: list[tuple[Capability, tuple[str, ...], bool]],
    wanted: frozenset[Capability],
    parts: tuple[str, ...],
    file: bool,
) -> None:
    found = grants(" ".join(f"{name}:{written(path, slash=slash)}" for name, path, slash in scopes))
    expected = any(
        name in wanted
        and is_below(full(parts), full(path))
        and not (file and parts == path and (slash or not path))
        for name, path, slash in scopes
    )
    assert found.permits(wanted, full(parts), is_file=file) is expected


@given(FEW_PARTS.filter(bool), st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1))
def test_s4_longer_name_is_never_matched_by_its_beginning(parts: tuple[str, ...], more: str) -> None:
    found = grants(f"storage.read:{written(parts)} storage.read:{written(parts, slash=True)}")
    longer = (*parts[:-1], parts[-1] + more)
    assert not found.permits({READ}, full(longer))
    assert not found.permits({READ}, full((*longer, "file")))


S5 = [
    ("/a/b/c", "", True),
    ("/a/b/c", "/a", True),
    ("/a/b/c", "/a/b", True),
    ("/a/b/c", "/a/b/c", False),
    ("/a/b/c", "/a/b/c/d", False),
    ("/a/b/c", "/ax", False),
    ("/a/b/c", "/a/x", False),
    ("/a/b/c", "/a/bx", False),
    ("/a/b/c/", "/a/b", True),
    ("/a/b/c/", "/a/b/c", False),
    ("/a/b%20b/c", "/a/b b", True),
    ("/a", "", True),
    ("/", "", False),
    ("/", "/a", False),
]


@pytest.mark.parametrize(("scope", "path", "leads"), S5)
def test_s5_leading_directories_of_a_creating_scope(scope: str, path: str, leads: bool) -> None:
    for capability in Capability:
        found = grants(f"{capability}:{scope}")
        assert found.leads_to(BASE + path) is (leads and capability in (CREATE, MODIFY))


def test_s5_leading_directory_is_nothing_that_the_scope_matches() -> None:
    found = grants("storage.create:/a/b/c")
    assert found.leads_to(full(("a",)))
    assert not found.permits({CREATE}, full(("a",)), is_file=True)
    assert not found.permits(EVERY, full(("a",)))
    assert not found.leads_to("/dpm/test/home")
    assert not found.leads_to("/")


def test_s6_token_without_capability_permits_nothing_in_its_area() -> None:
    found = grants("openid")
    assert not found.has_capability
    assert found.covers(full(("a",)))
    assert not found.permits(EVERY, full(("a",)))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/a", "/a"),
        ("/a/", "/a"),
        ("//a///b//", "/a/b"),
        ("/%2e%2e", "/%2e%2e"),
        ("/a/...", "/a/..."),
        ("/.a", "/.a"),
        ("/a b", "/a b"),
        ("/\udcff", "/\udcff"),
        ("/\udcc3\udca4", "/ä"),
        ("/" + "n" * 255, "/" + "n" * 255),
        ("/" + "n/" * 2047, "/" + "n/" * 2046 + "n"),
    ],
)
def test_s7_path_of_a_request_is_put_into_normal_form(text: str, normal: str) -> None:
    assert normal_path(text) == normal


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "a/b", " /a", ".", "/.", "/..", "/foo/../bar", "/foo/./bar", "/foo/..", "/foo/../", "/a\0",
        "/a\n", "/a\r\nb", "/\x1f", "/\x7f", "/\x85", "/\udcc2\udc85", "/\ud800", "/" + chr(0xDC00),
        "/" + "n" * 256, "/" + "ä" * 128, "/" + "\udcff" * 256, "/" + "n/" * 2048, "/" + "ä/" * 1366,
    ],
)  # fmt: skip
def test_s7_unfit_path_of_a_request_is_refused(text: str) -> None:
    with pytest.raises(AuthError) as caught:
        normal_path(text)
    assert (caught.value.status, caught.value.rule) == (400, "S7")
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@given(st.text(st.characters() | st.sampled_from("/.%")))
def test_s7_any_text_has_a_normal_form_or_is_refused_with_400(text: str) -> None:
    found = attempt(normal_path, text)
    if isinstance(found, AuthError):
        assert (found.status, found.rule) == (400, "S7")
    else:
        assert normal_path(found) == normal_path(f"/{found}/") == found
        assert found == "/" or all(name not in ("", ".", "..") for name in found[1:].split("/"))


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("/", "/"),
        ("/..", "/"),
        ("/../a", "/a"),
        ("/a/./b/", "/a/b"),
        ("/a/../b", "/b"),
        ("/a//../b", "/b"),
        ("/a/b/../../../c", "/c"),
        ("/a/...", "/a/..."),
        ("/%2e%2e", "/%2e%2e"),
        ("a/../b", "a/../b"),
        ("", ""),
    ],
)
def test_s7_path_of_a_trusted_peer_is_resolved_as_text(text: str, resolved: str) -> None:
    assert resolved_path(text) == resolved


@given(st.lists(st.sampled_from(["a", "b", ".", "..", ""])).map("/".join))
def test_s7_resolved_path_is_in_normal_form(path: str) -> None:
    assert normal_path(resolved_path("/" + path)) == resolved_path("/" + path)


@pytest.mark.parametrize(
    ("path", "covered"),
    [
        ("/home/vo", True),
        ("/home/vo/a", True),
        ("/home/vo2", False),
        ("/home/vo2/a", False),
        ("/home", False),
        ("/", False),
        ("/other/home/vo", False),
        ("/second/area/x", True),
    ],
)
def test_i1_base_paths_match_by_component(path: str, covered: bool) -> None:
    found = grants("storage.read:/", "/home/vo", "/second/area")
    assert found.covers(path) is covered
    assert found.permits({READ}, path) is covered


def test_i1_scope_is_relative_to_each_base_path() -> None:
    found = grants("storage.read:/data storage.create:/b/data", "/a", "/a/b")
    permitted = ["/a/data", "/a/b/data/x"]
    assert all(found.permits({READ}, path) for path in permitted)
    assert not any(found.permits({READ}, path) for path in ("/data", "/a", "/a/b", "/a/c/data"))
    assert found.permits({CREATE}, "/a/b/data")
    assert found.leads_to("/a/b")
    assert [found.is_base(path) for path in ("/a", "/a/b", "/a/data", "/")] == [True, True, False, False]


@pytest.mark.parametrize("exclude", [(f"{BASE}/keep/out",), ("/keep/out",)])
def test_excluded_path_is_out_of_reach_with_all_below_it(exclude: tuple[str, ...]) -> None:
    found = grants("storage.modify:/ storage.modify:/keep/out/x/y", exclude=exclude)
    for path in ("/keep/out", "/keep/out/x"):
        assert not found.covers(BASE + path)
        assert not found.permits({MODIFY}, BASE + path)
        assert not found.leads_to(BASE + path)
        assert not found.needed({MODIFY}, BASE + path)
    assert found.permits({MODIFY}, BASE + "/keep/outside")
    assert found.permits({MODIFY}, BASE + "/keep")


def test_directory_above_a_base_or_excluded_path_is_anchored() -> None:
    area = Area(("/home/vo", "/home/vo/sub/area"), ("/keep/out",))
    anchored = ["/", "/home", "/home/vo", "/home/vo/sub", "/home/vo/keep", "/home/vo/keep/out"]
    assert all(area.is_anchored(path) for path in anchored)
    assert not any(area.is_anchored(path) for path in ("/home/vo/x", "/home/vo/keep/outside", "/home/vo2"))


@pytest.mark.parametrize(
    ("base", "exclude"),
    [
        ([], []),
        (["/"], []),
        ([""], []),
        (["home/vo"], []),
        (["/home/vo/"], []),
        (["/home//vo"], []),
        (["/home/../vo"], []),
        (["/home/./vo"], []),
        (["/home/vo\n"], []),
        (["/home/vo", "/"], []),
        (["/home/vo"], ["keep/out"]),
        (["/home/vo"], ["/keep/"]),
        (["/home/vo"], ["/"]),
        (["/home/vo"], ["/home"]),
        (["/home/vo"], ["/home/vo"]),
        (["/home/vo"], ["/home/v0/keep"]),
        (["/home/vo"], ["/home/vo/../x"]),
    ],
)
def test_i5_area_that_no_configuration_may_have_is_refused(base: list[str], exclude: list[str]) -> None:
    with pytest.raises(ValueError, match="path"):
        Area(tuple(base), tuple(exclude))


@given(PARTS, st.frozensets(CAPABILITIES, min_size=1))
def test_h5_scope_that_a_refusal_names_would_be_enough(
    parts: tuple[str, ...], wanted: frozenset[Capability]
) -> None:
    path = full(parts)
    needed = grants("").needed(wanted, path)
    assert not needed if "\udcff" in parts else grants(needed).permits(wanted, path)


def test_h5_no_scope_is_named_outside_of_the_area() -> None:
    assert not grants("").needed({READ}, "/dpm/test/home/vo2")
    assert not grants("").needed((), BASE)


def test_meaning_of_the_capabilities() -> None:
    """The table once more, by what one wants to do."""
    assert {operation: set(granting(operation)) for operation in Operation} == {
        Operation.READ: {READ},
        Operation.STAT: {READ, CREATE, MODIFY, STAGE},
        Operation.LIST: {READ},
        Operation.CREATE: {CREATE, MODIFY},
        Operation.MOVE_FILE: {CREATE, MODIFY},
        Operation.OVERWRITE: {MODIFY},
        Operation.DELETE: {MODIFY},
        Operation.RENAME: {MODIFY},
        Operation.COMMENT: {MODIFY},
        Operation.RECALL: {STAGE},
        Operation.POLL: {STAGE, POLL},
    }
    assert set(MEANING) == set(Capability)
