"""Bans: what the ban file may say and what it must not, and whom it and the tables of DPM stop."""

from __future__ import annotations

import hashlib
import ipaddress
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dome_bridge.auth.bans import BanFileError, Bans, Caller, load_bans, parse_bans, unbanned_groups
from dome_bridge.auth.refusal import AuthError, Reason

ADA = "/DC=org/DC=example/OU=People/CN=Ada Lovelace"
JURGEN = r"/DC=org/CN=J\xC3\xBCrgen"
CA = "/DC=org/DC=example/CN=Grid CA"
LONG_SUB = "s" * 255
LONG_NAME = f"jwt:atlas:sha256:{hashlib.sha256(LONG_SUB.encode()).hexdigest()}"


def refusal(
    caller: Caller,
    bans: Bans | None = None,
    users: dict[str, int] | None = None,
    groups: dict[str, int] | None = None,
) -> AuthError:
    with pytest.raises(AuthError) as caught:
        unbanned_groups(caller, bans or Bans(), users or {}, groups or {})
    assert (caught.value.status, caught.value.reason) == (403, Reason.BANNED)
    return caught.value


# B1


@pytest.mark.parametrize("status", [1, 2, 3, -1])
@pytest.mark.parametrize(
    "caller",
    [
        Caller((ADA,), (CA,), ("atlas",), ("192.0.2.1",)),
        Caller((ADA,)),
        Caller(("/CN=frontend", ADA)),
        Caller((ADA, "jwt:atlas:1", "/CN=mapped")),
    ],
    ids=["with groups", "without groups", "asserted", "with a token"],
)
def test_b1_every_status_but_0_bans_a_user_however_he_comes(caller: Caller, status: int) -> None:
    error = refusal(caller, users={ADA: status})
    assert error.rule == "B1"
    assert f"status {status}" in str(error)


def test_b1_status_0_and_no_row_ban_nobody() -> None:
    caller = Caller((ADA, "jwt:atlas:1"), (CA,), ("atlas", "dteam"), ("192.0.2.1",))
    assert unbanned_groups(caller, Bans(), {ADA: 0, "/CN=else": 1}, {"atlas": 0}) == ("atlas", "dteam")


# B2


def test_b2_mapped_token_is_banned_by_its_own_name_and_by_that_of_the_user() -> None:
    caller = Caller(("jwt:atlas:1234", ADA))
    assert refusal(caller, users={"jwt:atlas:1234": 2}).rule == "B2"
    assert refusal(caller, users={ADA: 1}).rule == "B1"
    assert refusal(caller, parse_bans("jwt:atlas:1234 # stolen")).rule == "B2"
    assert refusal(caller, parse_bans(f"{ADA} # left")).rule == "B4"


@pytest.mark.parametrize("name", ["jwt:atlas:1235", "jwt:atlas:123", "jwt:atlas2:1234", "jwt:atlas:1234 "])
def test_b2_other_subject_or_issuer_is_not_meant(name: str) -> None:
    assert parse_bans("jwt:atlas:1234 # stolen").reason_against([name]) is None


@pytest.mark.parametrize("entry", [f"jwt:atlas:{LONG_SUB}", LONG_NAME])
@pytest.mark.parametrize("name", [f"jwt:atlas:{LONG_SUB}", LONG_NAME])
def test_b2_long_subject_is_the_same_in_full_and_as_a_digest(entry: str, name: str) -> None:
    assert parse_bans(f"{entry} # stolen").reason_against([name]) == "stolen"


# B3


@pytest.mark.parametrize("by_file", [True, False])
@pytest.mark.parametrize(
    ("groups", "left"),
    [
        (("atlas", "bad"), ("atlas",)),
        (("atlas", "bad", "dteam"), ("atlas", "dteam")),
        (("atlas",), ("atlas",)),
        ((), ()),
        (("bad",), None),
        (("bad", "atlas"), None),
    ],
)
def test_b3_banned_primary_group_bans_and_others_are_dropped(
    groups: tuple[str, ...], left: tuple[str, ...] | None, by_file: bool
) -> None:
    bans = parse_bans("bad # misused") if by_file else Bans()
    status = {} if by_file else {"bad": 1}
    caller = Caller((ADA,), groups=groups)
    if left is None:
        assert refusal(caller, bans, groups=status).rule == "B3"
    else:
        assert unbanned_groups(caller, bans, {}, status) == left


def test_b3_role_is_another_group_than_the_one_it_is_in() -> None:
    bans = parse_bans("/atlas/Role=production # stolen")
    assert bans.reason_against([], ["atlas/Role=production"]) == "stolen"
    assert bans.reason_against([], ["atlas"]) is None
    assert parse_bans("atlas # all of it").reason_against([], ["atlas/Role=production"]) is None


# B4


@pytest.mark.parametrize(
    "entry",
    [
        ADA,
        f'"{ADA}"',
        "CN=Ada Lovelace,OU=People,DC=example,DC=org",
        '"CN=Ada Lovelace, OU=People, DC=example, DC=org"',
    ],
)
def test_b4_dn_in_any_form_bans(entry: str) -> None:
    bans = parse_bans(f"{entry} # laptop stolen, ticket 4711")
    assert bans.reason_against([ADA]) == "laptop stolen, ticket 4711"
    assert bans.reason_against([f"{ADA}/CN=proxy"]) is None
    assert bans.reason_against(["/DC=org/DC=example/OU=People/CN=ada lovelace"]) is None


@pytest.mark.parametrize("entry", [JURGEN, "/DC=org/CN=Jürgen", "CN=Jürgen,DC=org", r"CN=J\C3\BCrgen,DC=org"])
@pytest.mark.parametrize("name", [JURGEN, "/DC=org/CN=Jürgen", "CN=Jürgen,DC=org"])
def test_b4_spelling_of_file_and_request_may_differ(entry: str, name: str) -> None:
    assert parse_bans(f"{entry} # why").reason_against([name]) == "why"


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("/C=x/Email=a@b.org", "/C=x/emailAddress=a@b.org"),
        (r"/C=x/CN=host\/h.org", "/C=x/CN=host/h.org"),
        ("/C=x/USERID=ada", "/C=x/UID=ada"),
        ("/C=x/OU=a+CN=b", "/C=x/CN=b+OU=a"),
        ('"/C=x/CN=a #1"', "/C=x/CN=a #1"),
        ("2.5.4.3=Ada", "/CN=Ada"),
    ],
)
def test_b4_spellings_of_openssl_and_globus_are_one_name(entry: str, name: str) -> None:
    assert parse_bans(f"{entry} # why").reason_against([name]) == "why"


def test_b4_subject_of_a_ca_bans_all_that_it_has_issued() -> None:
    bans = parse_bans(f"{CA} # compromised")
    assert bans.reason_against([ADA, CA]) == "compromised"
    error = refusal(Caller((ADA,), (CA,)), bans)
    assert error.rule == "B4"
    assert "compromised" in str(error)


@pytest.mark.parametrize(
    "entry",
    [
        "/atlas",
        "atlas",
        "/atlas/Role=NULL",
        "/atlas/Role=NULL/Capability=NULL",
        "/atlas/Capability=NULL",
        '"atlas"',
    ],
)
@pytest.mark.parametrize("group", ["atlas", "/atlas", "/atlas/Role=NULL/Capability=NULL"])
def test_b4_fqan_and_group_are_the_same(entry: str, group: str) -> None:
    assert parse_bans(f"{entry} # why").reason_against([], [group]) == "why"


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("192.0.2.7", ["192.0.2.7", "::ffff:192.0.2.7"], ["192.0.2.6", "::192.0.2.7", "", "wn7.example.org"]),
        ("192.0.2.0/24", ["192.0.2.0", "192.0.2.255"], ["192.0.3.0", "192.0.1.255"]),
        ("192.0.2.128/25", ["192.0.2.128"], ["192.0.2.127"]),
        ("2001:db8::/32", ["2001:db8::1", "2001:db8:ffff::", "2001:db8::1%eth0"], ["2001:db9::"]),
        ("2001:db8::7", ["2001:db8::7", "2001:DB8:0::7"], ["2001:db8::8"]),
        ("128.0.0.0/1", ["192.0.2.1"], ["127.0.0.1", "8000::"]),
    ],
)
def test_b4_address_or_prefix_bans_what_is_inside(entry: str, inside: list[str], outside: list[str]) -> None:
    bans = parse_bans(f"{entry} # scans")
    assert [bans.reason_against([], [], address) for address in inside] == ["scans"] * len(inside)
    assert [bans.reason_against([], [], address) for address in outside] == [None] * len(outside)


@given(st.ip_addresses(), st.integers(1, 128), st.ip_addresses())
def test_b4_prefix_bans_what_the_standard_library_says_is_inside(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    length: int,
    other: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    network = ipaddress.ip_network((address, min(length, address.max_prefixlen)), strict=False)
    assume(not getattr(address, "ipv4_mapped", None))
    bans = parse_bans(f"{network} # why")
    assert bans.reason_against([], [], str(address)) == "why"
    plain = getattr(other, "ipv4_mapped", None) or other
    assert (bans.reason_against([], [], str(other)) is not None) == (plain in network)


def test_b4_several_prefixes_each_have_their_reason() -> None:
    bans = parse_bans("192.0.2.0/24 # one\n198.51.100.0/24 # two\n192.0.0.0/8 # three\n2001:db8::/32 # four")
    found = [bans.against_address(each) for each in ("198.51.100.1", "192.0.99.1", "2001:db8::", "10.0.0.1")]
    assert found == ["two", "three", "four", None]
    assert bans.counts == {"names": 0, "groups": 0, "addresses": 4}


def test_b4_client_that_a_peer_speaks_for_is_banned_by_his_address() -> None:
    bans = parse_bans("192.0.2.7 # scans")
    error = refusal(Caller((ADA,), addresses=("198.51.100.1", "192.0.2.7")), bans)
    assert (error.rule, "192.0.2.7" in str(error)) == ("B4", True)


def test_b4_file_has_comments_blank_lines_and_both_ends_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "bans"
    path.write_bytes(
        b'\xef\xbb\xbf# the list\r\n\r\n  /CN=a # one  \r\n\t\n  # indented\n"/CN=b" two\n/CN=c\t#three'
    )
    bans = load_bans(path)
    assert [bans.reason_against([name]) for name in ("/CN=a", "/CN=b", "/CN=c")] == ["one", "two", "three"]
    assert bans.counts == {"names": 3, "groups": 0, "addresses": 0}


def test_b4_example_of_the_reference_is_a_good_file() -> None:
    page = (Path(__file__).parent.parent / "docs/reference/ban-file.md").read_text()
    bans = parse_bans(page.split("```")[1])
    assert bans.counts == {"names": 5, "groups": 2, "addresses": 3}
    robot = "/DC=org/DC=example/OU=Robots/CN=Robot: transfers"
    assert bans.reason_against([robot]) == "deletes what it should not"
    assert bans.reason_against(["/DC=org/DC=example/CN=Number #1"]) == 'an entry with " #" is put in quotes'
    assert bans.reason_against([], ["atlas/Role=production"]) == "proxy of a pilot leaked"
    assert bans.reason_against([], [], "2001:db8:17:1::1") == "and over IPv6"


@pytest.mark.parametrize("text", ["", "\n", "# nobody\n"])
def test_b4_empty_file_bans_nobody(text: str) -> None:
    assert parse_bans(text) == Bans()
    assert Bans().reason_against([ADA, "jwt:a:b", "root", ""], ["atlas"], "192.0.2.1") is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/DC=org/CN=Ada Lovelace left the lab", "followed by"),
        ("/DC=org/CN=Ada Lovelace", "followed by"),
        ("192.0.2.7", "followed by"),
        ("/CN=a #", "followed by"),
        ("/CN=a # ", "followed by"),
        ('"/CN=a # why', "followed by"),
        ('"/CN=a"', "followed by"),
        ('"/CN=a"why', "followed by"),
        ('"" # why', "followed by"),
        ("192.0.2.7/24 # why", "host bits"),
        ("192.0.2.0/33 # why", "write an address"),
        ("192.0.2 # why", "write an address"),
        ("192.0.2.256 # why", "write an address"),
        ("192.0.2.0-9 # why", "write an address"),
        ("2001:db8::/129 # why", "write an address"),
        ("2001:db8:::1 # why", "write an address"),
        ("[2001:db8::1] # why", "write an address"),
        ("0.0.0.0/0 # why", "everybody"),
        ("::/0 # why", "everybody"),
        ("::ffff:192.0.2.0/120 # why", "IPv4's own form"),
        ("jwt:atlas # why", "an issuer's name"),
        ("jwt:atlas: # why", "an issuer's name"),
        ("jwt:ATLAS:1 # why", "an issuer's name"),
        ("jwt:at/las:1 # why", "an issuer's name"),
        ("JWT:atlas:1 # why", "no DN"),
        ("CN=a,b # why", "no attribute"),
        ("NOSUCH=a # why", "no attribute"),
        ("Ada Lovelace # why", "no DN"),
        ("/atlas//x # why", "no DN"),
        ("/ # why", "no DN"),
        ("atlas,dteam # why", "no DN"),
        ("/CN=a\x00 # why", "control character"),
        ("/CN=a # why\x1b[2J", "control character"),
        (f"/CN={'a' * 5000} # why", "longer than"),
    ],
)
def test_b4_line_that_could_mean_something_else_is_an_error_with_its_number(line: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_bans(f"# first\n{ADA} # good\n{line}\n")
    assert str(caught.value).startswith("line 3: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"/CN=a\n", "line 1"),
        (b"\n/CN=J\xfcrgen # why\n", "line 2 is not UTF-8"),
        (b"#" * (4 * 1024**2 + 1), "longer"),
    ],
)
def test_b4_error_names_file_line_and_remedy(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bans"
    path.write_bytes(content)
    with pytest.raises(BanFileError, match=words) as caught:
        load_bans(path)
    assert str(path) in str(caught.value)


def test_b4_file_that_is_away_is_an_error_and_no_file_is_none(tmp_path: Path) -> None:
    with pytest.raises(BanFileError, match=r"cannot be read .*No such file"):
        load_bans(tmp_path / "missing")
    with pytest.raises(BanFileError, match="Is a directory"):
        load_bans(tmp_path)
    assert load_bans(None) == Bans()


@given(st.text(st.characters()) | st.sampled_from(["jwt:a:" + "\ud800" * 300, "/CN=\ud800"]), st.text())
def test_names_of_requests_never_raise(name: str, address: str) -> None:
    bans = parse_bans(f"{ADA} # one\n192.0.2.0/24 # two\njwt:a:b # three\natlas # four")
    assert bans.reason_against([name], [name], address) in (None, "one", "two", "three", "four")
