"""Groups from VOMS: what a server has signed for this very user, in the form that DPM has them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.auth.chain import X509Policy, evaluate
from dome_bridge.auth.groups import group_of_fqan
from dome_bridge.auth.refusal import AuthError
from dome_bridge.auth.voms import fqans, membership
from sandbox import voms as forge
from sandbox.pki import (
    Authority,
    Credential,
    Window,
    around_now,
    ec_key,
    expired,
    name,
    sign,
)
from sandbox.voms import VomsServer, extension, raw_extension, sequence
from tests.fixtures.voms import (
    HEAD,
    HOUR,
    Grid,
    asked,
    base_certificate_id,
    directory_name_of_ada,
    groups_of,
    groups_with,
    make_grid,
    refused,
)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Nobody changes it."""
    return make_grid(tmp_path_factory.mktemp("grid"))


@pytest.fixture
def own_grid(tmp_path: Path) -> Grid:
    return make_grid(tmp_path)


def test_v1_proxy_without_attributes_has_no_groups(grid: Grid) -> None:
    assert groups_of(grid.ada.proxy(), grid) == ()


def test_v1_certificate_of_the_user_itself_has_no_groups(grid: Grid) -> None:
    assert groups_of(grid.ada, grid) == ()


def test_v1_good_attributes_give_groups_with_the_primary_first(grid: Grid) -> None:
    proxy = grid.server.proxy(grid.ada, "/dteam/Role=production/Capability=NULL", "/dteam/Role=NULL")
    assert groups_of(proxy, grid) == ("dteam/Role=production", "dteam")


def test_v1_attributes_of_an_unconfigured_vo_are_ignored_and_the_log_says_so(
    grid: Grid, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = VomsServer(Authority.root("/DC=net/CN=Elsewhere").host("voms.elsewhere.net"), vo="elsewhere")
    with caplog.at_level(logging.INFO, "dome_bridge.auth.voms"):
        assert groups_with(grid, foreign.sign(grid.bob), grid.server.sign(grid.ada)) == ("dteam",)
    assert "vo=elsewhere" in caplog.text


def test_v1_only_attributes_of_an_unconfigured_vo_give_no_groups(grid: Grid) -> None:
    foreign = VomsServer(grid.server.credential, vo="elsewhere")
    assert groups_with(grid, foreign.sign(grid.ada, "/dteam")) == ()


def test_v1_a_bad_one_beside_a_good_one_refuses_the_request(grid: Grid) -> None:
    good, bad = grid.server.sign(grid.ada), grid.statement("/dteam/x").valid(expired()).sign(grid.server.key)
    assert refused(grid, good, bad).rule == "V3"
    assert refused(grid, bad, good).rule == "V3"


def test_v1_fqans_function_gives_the_groups(grid: Grid) -> None:
    now, policy = datetime.now(UTC), X509Policy()
    path = evaluate(grid.server.proxy(grid.ada).ders, grid.trust, policy, now)
    assert fqans(path, grid.trust, policy, [HEAD], now) == ("dteam",)


def test_membership_ends_with_its_attributes(grid: Grid) -> None:
    window = around_now(HOUR, HOUR)
    proxy = grid.ada.proxy(extensions=[extension(grid.statement().valid(window).sign(grid.server.key))])
    assert asked(proxy, grid.trust).expires == window.end.timestamp()


def test_trace_tells_each_step_in_order(grid: Grid) -> None:
    told: list[str] = []

    def trace(rule: str, text: str, *args: object) -> None:
        assert text % args
        told.append(rule)

    now, policy = datetime.now(UTC), X509Policy()
    path = evaluate(grid.server.proxy(grid.ada).ders, grid.trust, policy, now)
    membership(path, grid.trust, policy, [HEAD], now, trace=trace)
    assert told == ["V3", "V4", "V5", "V6", "V8", "V7"]


def test_v2_attributes_count_through_further_delegations(grid: Grid) -> None:
    assert groups_of(grid.server.proxy(grid.ada).proxy().proxy(), grid) == ("dteam",)


def test_v2_the_lowest_proxy_with_attributes_counts_alone(grid: Grid) -> None:
    again = extension(grid.server.sign(grid.ada, "/dteam/lower"))
    assert groups_of(grid.server.proxy(grid.ada, "/dteam").proxy(extensions=[again]), grid) == (
        "dteam/lower",
    )


def test_v2_bad_attributes_above_those_that_count_are_not_looked_at(grid: Grid) -> None:
    upper = grid.ada.proxy(extensions=[raw_extension(b"garbage")])
    assert groups_of(upper.proxy(extensions=[extension(grid.server.sign(grid.ada))]), grid) == ("dteam",)


def test_v2_bad_attributes_below_good_ones_refuse_the_request(grid: Grid) -> None:
    proxy = grid.server.proxy(grid.ada).proxy(extensions=[raw_extension(b"garbage")])
    with pytest.raises(AuthError, match="not DER"):
        groups_of(proxy, grid)


def test_v2_all_attribute_certificates_of_a_proxy_count_in_their_order(own_grid: Grid) -> None:
    other = VomsServer(own_grid.ca.host("voms2.example.org"), vo="atlas", host="voms2.example.org")
    other.publish(own_grid.vomsdir)
    first = other.sign(own_grid.ada, "/atlas/Role=pilot", "/atlas")
    second = own_grid.server.sign(own_grid.ada)
    assert groups_with(own_grid, first, second, trust=own_grid.load()) == (
        "atlas/Role=pilot",
        "atlas",
        "dteam",
    )


def test_v2_attributes_in_the_users_own_certificate_give_nothing(grid: Grid) -> None:
    serial = 4242
    window, subject = around_now(HOUR, HOUR), name("/DC=org/DC=example/OU=People/CN=Ada Lovelace")
    bare = Credential(sign(subject, ec_key(), subject, ec_key(), window, serial=serial), ec_key())
    ada = grid.ca.user("Ada Lovelace", serial=serial, extensions=[extension(grid.server.sign(bare))])
    assert groups_of(ada, grid) == ()
    assert groups_of(ada.proxy(), grid) == ()


@pytest.mark.parametrize(
    ("begins", "ends", "is_valid"),
    [
        (timedelta(seconds=290), HOUR, True),
        (timedelta(seconds=330), HOUR, False),
        (HOUR, 2 * HOUR, False),
        (-HOUR, timedelta(seconds=30), True),
        (-HOUR, timedelta(seconds=-2), False),
    ],
)
def test_v3_validity_has_leeway_at_its_beginning_only(
    grid: Grid, begins: timedelta, ends: timedelta, is_valid: bool
) -> None:
    certificate = grid.statement().valid(around_now(-begins, ends)).sign(grid.server.key)
    if is_valid:
        assert groups_with(grid, certificate) == ("dteam",)
    else:
        assert refused(grid, certificate).rule == "V3"


def test_v3_years_at_the_ends_of_the_calendar_are_only_dates(grid: Grid) -> None:
    forever = Window(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert groups_with(grid, grid.statement().valid(forever).sign(grid.server.key)) == ("dteam",)
    future = Window(forever.end, forever.end)
    assert refused(grid, grid.statement().valid(future).sign(grid.server.key)).rule == "V3"


def test_v3_attributes_expire_before_the_proxy_does(grid: Grid) -> None:
    window = around_now(HOUR, HOUR)
    proxy = grid.ada.proxy(extensions=[extension(grid.statement().valid(window).sign(grid.server.key))])
    with pytest.raises(AuthError, match="expired"):
        asked(proxy, grid.trust, after=2 * HOUR)


@pytest.mark.parametrize(
    "text",
    [b"20261122203107", b"20261122203107+0100", b"20261122203107.5Z", b"20261322203107Z", b"2611222031Z"],
)
def test_v3_unusual_spelling_of_a_time_is_refused(grid: Grid, text: bytes) -> None:
    start = forge.time(datetime.now(UTC))
    statement = grid.statement().but(validity=sequence(start, forge.tlv(0x18, text)))
    assert refused(grid, statement.sign(grid.server.key)).rule in ("V3", "V9")


def test_v4_holder_may_be_named_by_subject_or_by_issuer(grid: Grid) -> None:
    for holder in (grid.ada.certificate.subject, grid.ada.certificate.issuer):
        statement = grid.statement().held_by(holder, grid.ada.certificate.serial_number)
        assert groups_with(grid, statement.sign(grid.server.key)) == ("dteam",)


def test_v4_names_are_compared_whatever_their_string_types(grid: Grid) -> None:
    types = x509.name._ASN1Type
    for kind in (types.PrintableString, types.BMPString, types.T61String, types.UniversalString):
        subject = x509.Name(
            [x509.NameAttribute(part.oid, part.value, _type=kind) for part in grid.ada.certificate.subject]
        )
        statement = grid.statement().held_by(subject, grid.ada.certificate.serial_number)
        assert groups_with(grid, statement.sign(grid.server.key)) == ("dteam",)


def test_v4_attributes_of_another_user_are_refused(grid: Grid) -> None:
    assert refused(grid, grid.server.sign(grid.bob)).rule == "V4"


def _digest(_: Grid) -> bytes:
    algorithm = forge.algorithm_identifier(ec_key(), "sha256")
    return forge.tagged(2, forge.tlv(0x0A, b"\0"), algorithm, forge.bits(b"x"))


def _good_base(grid: Grid) -> bytes:
    return base_certificate_id(grid, directory_name_of_ada(grid))


def _named(grid: Grid, subject: x509.Name) -> bytes:
    """A holder of Ada's serial number and this name."""
    return sequence(base_certificate_id(grid, forge.directory_name(subject)))


OTHER_HOLDERS: dict[str, Callable[[Grid], bytes]] = {
    "other serial": lambda g: forge.holder(g.ada.subject, g.ada.certificate.serial_number + 1),
    "negative serial": lambda g: forge.holder(g.ada.subject, -g.ada.certificate.serial_number),
    "other name": lambda g: _named(g, g.bob.subject),
    "other letters": lambda g: _named(g, name("/DC=org/DC=example/OU=People/CN=ADA LOVELACE")),
    "name of her proxy": lambda g: _named(g, g.ada.proxy().subject),
    "beginning of her name": lambda g: _named(g, name("/DC=org/DC=example/OU=People")),
    "empty name": lambda g: _named(g, x509.Name([])),
    "two names": lambda g: sequence(base_certificate_id(g, directory_name_of_ada(g) * 2)),
    "no name": lambda g: sequence(base_certificate_id(g)),
    "dns name": lambda g: sequence(base_certificate_id(g, forge.dns_name("ada"))),
    "entity name": lambda g: sequence(forge.tagged(1, directory_name_of_ada(g))),
    "entity name besides": lambda g: sequence(_good_base(g), forge.tagged(1, directory_name_of_ada(g))),
    "digest": lambda g: sequence(_digest(g)),
    "digest besides": lambda g: sequence(_good_base(g), _digest(g)),
    "unique identifier besides": lambda g: sequence(
        base_certificate_id(g, directory_name_of_ada(g), more=forge.bits(b"\1"))
    ),
    "nothing": lambda _: sequence(),
}


@pytest.mark.parametrize("kind", OTHER_HOLDERS)
def test_v4_other_holder_is_refused(grid: Grid, kind: str) -> None:
    statement = grid.statement().but(holder=OTHER_HOLDERS[kind](grid))
    assert refused(grid, statement.sign(grid.server.key)).rule in ("V4", "V9")


@pytest.mark.parametrize(
    "fqan",
    [
        "/vox",
        "/dteamx",
        "/dteam2/Role=production",
        "/atlas",
        "/atlas/dteam",
        "/DTEAM",
        "dteam",
        "//dteam",
        "/dteam/",
        "/dteam//x",
        "/dteam/.",
        "/dteam/..",
        "/dteam/../atlas",
        "/dteam/a b",
        "/dteam/a,b",
        "/dteam/a\n",
        "/dteam\n",
        "/dteam\0",
        "/dteam/gr\u00fcn",
        "/dteam/Role=",
        "/dteam/Role=a/b",
        "/dteam/Role=a/Role=b",
        "/dteam/role=a",
        "/dteam/Capability=a/Role=b",
        "/dteam/Capability=a b",
        "/dteam/Role=NULL/Capability=NULL/x",
        "/dteam/x=y",
        "/Role=production",
        "/",
        "",
        " /dteam",
    ],
)
def test_v6_fqan_that_is_not_the_vos_or_malformed_is_refused(grid: Grid, fqan: str) -> None:
    assert refused(grid, grid.server.sign(grid.ada, "/dteam", fqan)).rule == "V6"


def _values(*values: bytes, authority: bytes | None = None) -> bytes:
    names = forge.uri("dteam://voms.example.org:15000") if authority is None else authority
    return sequence(forge.tagged(0, names), sequence(*values))


_DTEAM = forge.octets(b"/dteam")
_GOOD = forge.attribute(_values(_DTEAM))
OTHER_ATTRIBUTES = {
    "none": sequence(),
    "two": sequence(_GOOD, _GOOD),
    "of another kind": sequence(forge.attribute(_values(_DTEAM), number="1.3.6.1.5.5.7.10.4")),
    "without value": sequence(forge.attribute()),
    "with two values": sequence(forge.attribute(_values(_DTEAM), _values(_DTEAM, _DTEAM))),
    "utf-8 string": sequence(forge.attribute(_values(forge.tlv(0x0C, b"/dteam")))),
    "a utf-8 string too": sequence(forge.attribute(_values(_DTEAM, forge.tlv(0x0C, b"/dteam")))),
    "object identifier": sequence(forge.attribute(_values(forge.oid("1.2.3")))),
    "printable string": sequence(forge.attribute(_values(forge.tlv(0x13, b"/dteam")))),
    "no authority": sequence(forge.attribute(sequence(sequence(_DTEAM)))),
    "empty authority": sequence(forge.attribute(_values(_DTEAM, authority=b""))),
    "two authorities": sequence(
        forge.attribute(_values(_DTEAM, authority=forge.uri("dteam://voms.example.org:15000") * 2))
    ),
    "authority is a dns name": sequence(
        forge.attribute(_values(_DTEAM, authority=forge.dns_name("dteam://voms.example.org:15000")))
    ),
    "trailing bytes": sequence(forge.attribute(_values(_DTEAM) + b"\0")),
}


@pytest.mark.parametrize("kind", OTHER_ATTRIBUTES)
def test_v6_anything_but_one_list_of_fqans_is_refused(grid: Grid, kind: str) -> None:
    statement = grid.statement().but(attributes=OTHER_ATTRIBUTES[kind])
    assert refused(grid, statement.sign(grid.server.key)).rule in ("V6", "V9")


def test_v6_other_attributes_beside_the_list_are_ignored(grid: Grid) -> None:
    other = forge.attribute(forge.octets(b"/dteam/Role=root"), number="1.3.6.1.4.1.8005.100.100.1")
    statement = grid.statement().but(attributes=sequence(other, _GOOD))
    assert groups_with(grid, statement.sign(grid.server.key)) == ("dteam",)


@pytest.mark.parametrize(
    ("fqan", "group"),
    [
        ("/dteam", "dteam"),
        ("/dteam/Role=NULL", "dteam"),
        ("/dteam/Capability=NULL", "dteam"),
        ("/dteam/Role=NULL/Capability=NULL", "dteam"),
        ("/dteam/Role=production", "dteam/Role=production"),
        ("/dteam/Role=production/Capability=NULL", "dteam/Role=production"),
        ("/dteam/Role=production/Capability=read", "dteam/Role=production/Capability=read"),
        ("/dteam/Role=NULL/Capability=read", "dteam/Capability=read"),
        ("/dteam/Role=NULLified", "dteam/Role=NULLified"),
        ("/dteam/sub.group/a_b-c", "dteam/sub.group/a_b-c"),
        ("/dteam/root", "dteam/root"),
    ],
)
def test_v7_normal_form(grid: Grid, fqan: str, group: str) -> None:
    assert groups_with(grid, grid.server.sign(grid.ada, fqan)) == (group,)


def test_v7_order_is_kept_and_duplicates_are_dropped(grid: Grid) -> None:
    first = grid.server.sign(grid.ada, "/dteam/b", "/dteam", "/dteam/Role=NULL", "/dteam/a", "/dteam/b")
    second = grid.server.sign(grid.ada, "/dteam/c", "/dteam")
    assert groups_with(grid, first, second) == ("dteam/b", "dteam", "dteam/a", "dteam/c")


def test_v7_role_does_not_imply_its_group(grid: Grid) -> None:
    assert groups_with(grid, grid.server.sign(grid.ada, "/dteam/Role=lcgadmin")) == ("dteam/Role=lcgadmin",)


def test_v7_more_than_128_groups_are_refused(grid: Grid) -> None:
    names = [f"/dteam/g{number}" for number in range(129)]
    assert len(groups_with(grid, grid.server.sign(grid.ada, *names[:128], names[0]))) == 128
    assert refused(grid, grid.server.sign(grid.ada, *names)).rule == "V7"
    halves = [grid.server.sign(grid.ada, *part) for part in (names[:70], names[70:])]
    assert refused(grid, *halves).rule == "V7"


@pytest.mark.parametrize("fqan", ["/root", "/root/Role=NULL", "/root/Role=NULL/Capability=NULL"])
def test_v7_group_root_is_refused_even_to_a_vo_of_that_name(own_grid: Grid, fqan: str) -> None:
    server = replace(own_grid.server, vo="root")
    server.publish(own_grid.vomsdir)
    error = refused(own_grid, server.sign(own_grid.ada, "/root/x", fqan), trust=own_grid.load())
    assert error.rule == "V7"


def test_v7_name_that_does_not_fit_the_group_table_is_refused(grid: Grid) -> None:
    assert refused(grid, grid.server.sign(grid.ada, "/dteam/" + "x" * 250)).status == 403


_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,9}", fullmatch=True)


@given(st.lists(_NAMES, min_size=1, max_size=4), st.none() | _NAMES, st.none() | _NAMES)
def test_v7_group_is_the_fqan_without_slash_and_empty_parts(
    path: list[str], role: str | None, capability: str | None
) -> None:
    base = "/" + "/".join(path)
    parts = [f"/Role={role}" if role else "", f"/Capability={capability}" if capability else ""]
    kept = [part for part in parts if not part.endswith("=NULL")]
    assert group_of_fqan(base + "".join(parts)) == (base + "".join(kept))[1:]
