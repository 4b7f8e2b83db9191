"""The form of attribute certificates: their extensions, limits, and DER to the last byte."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.auth import attribute_certificate
from dome_bridge.auth.attribute_certificate import AttributeCertificate
from dome_bridge.auth.chain import X509Policy, evaluate
from dome_bridge.auth.refusal import AuthError
from dome_bridge.auth.voms import membership
from sandbox import voms as forge
from sandbox.pki import (
    name,
)
from sandbox.voms import Statement, extension, sequence
from tests.fixtures.voms import (
    HEAD,
    Grid,
    asked,
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


@pytest.mark.parametrize("number", [forge.NO_REVOCATION_OID, forge.KEY_IDENTIFIER_OID])
def test_v8_required_extension_that_is_missing_or_critical_is_refused(grid: Grid, number: str) -> None:
    statement, key = grid.statement(), grid.server.key
    assert refused(grid, statement.without_extension(number).sign(key)).rule == "V8"
    value = {
        forge.NO_REVOCATION_OID: b"\5\0",
        forge.KEY_IDENTIFIER_OID: forge.key_identifier(forge.key_id(grid.server.credential.certificate)),
    }[number]
    assert refused(grid, statement.with_extension(number, value, critical=True).sign(key)).rule == "V8"


def test_v8_without_any_extensions_is_refused(grid: Grid) -> None:
    assert refused(grid, grid.statement().but(extensions={}).sign(grid.server.key)).rule in ("V8", "V9")


TARGETS: dict[str, tuple[bool, bytes]] = {
    "this one": (True, forge.voms_targets(HEAD)),
    "this one in capitals": (True, forge.voms_targets(HEAD.upper())),
    "this one among others": (True, forge.voms_targets("a.example.org", HEAD)),
    "as in the rfc": (True, forge.rfc_targets(forge.uri(HEAD))),
    "as a dns name": (True, forge.rfc_targets(forge.dns_name("a.example.org"), forge.dns_name(HEAD))),
    "as a proper uri": (True, forge.rfc_targets(forge.uri(f"https://{HEAD}:443/"))),
    "another": (False, forge.voms_targets("other.example.org")),
    "above this one": (False, forge.voms_targets("example.org")),
    "begins like this one": (False, forge.voms_targets(HEAD + ".net")),
    "ends like this one": (False, forge.voms_targets("x" + HEAD)),
    "this one as path": (False, forge.voms_targets(f"https://other.example.org/{HEAD}")),
    "this one as user": (False, forge.voms_targets(f"https://{HEAD}@other.example.org/")),
    "wildcard": (False, forge.voms_targets("*.example.org")),
    "empty name": (False, forge.voms_targets("")),
    "broken uri": (False, forge.voms_targets("https://[head.example.org/")),
    "no target": (False, forge.voms_targets()),
    "no list": (False, sequence()),
    "directory name": (False, forge.rfc_targets(forge.directory_name(name(f"/CN={HEAD}")))),
    "group": (False, sequence(sequence(forge.tagged(1, forge.uri(HEAD))))),
    "too deep": (False, sequence(sequence(sequence(sequence(forge.tagged(0, forge.uri(HEAD))))))),
    "trailing bytes": (False, forge.voms_targets(HEAD) + b"\0"),
    "nothing": (False, b""),
    "null": (False, b"\5\0"),
    "text": (False, HEAD.encode()),
}


@pytest.mark.parametrize("is_critical", [True, False])
@pytest.mark.parametrize("kind", TARGETS)
def test_v8_attributes_count_at_their_targets_only(grid: Grid, kind: str, is_critical: bool) -> None:
    is_good, value = TARGETS[kind]
    statement = grid.statement().with_extension(forge.TARGETS_OID, value, critical=is_critical)
    signed = statement.sign(grid.server.key)
    if is_good:
        assert groups_with(grid, signed) == ("dteam",)
    else:
        assert refused(grid, signed).rule == "V8"


def test_v8_any_of_our_names_is_a_good_target(grid: Grid) -> None:
    statement = grid.statement().with_extension(forge.TARGETS_OID, forge.voms_targets("alias.example.org"))
    proxy = grid.ada.proxy(extensions=[extension(statement.sign(grid.server.key))])
    assert asked(proxy, grid.trust, hosts=[HEAD, "Alias.example.org"]).groups == ("dteam",)
    with pytest.raises(AuthError):
        asked(proxy, grid.trust, hosts=[])


@pytest.mark.parametrize("number", ["1.2.3.4", forge.GENERIC_OID])
def test_v8_critical_extension_that_is_not_understood_is_refused(grid: Grid, number: str) -> None:
    statement = grid.statement()
    assert groups_with(grid, statement.with_extension(number, b"\5\0").sign(grid.server.key)) == ("dteam",)
    critical = statement.with_extension(number, b"\5\0", critical=True)
    assert refused(grid, critical.sign(grid.server.key)).rule == "V8"


def test_v8_extension_that_is_there_twice_is_refused(grid: Grid) -> None:
    statement = grid.statement()
    again = statement.extensions | {"again": statement.extensions[forge.NO_REVOCATION_OID]}
    assert refused(grid, statement.but(extensions=again).sign(grid.server.key)).rule == "V8"


@pytest.mark.parametrize("value", [b"", b"\5\0", sequence() + b"\0"])
def test_v8_key_identifier_that_is_none_is_refused(grid: Grid, value: bytes) -> None:
    statement = grid.statement().with_extension(forge.KEY_IDENTIFIER_OID, value)
    assert refused(grid, statement.sign(grid.server.key)).rule == "V8"


def test_v9_more_than_eight_attribute_certificates_are_refused(grid: Grid) -> None:
    good = grid.server.sign(grid.ada)
    assert groups_with(grid, *[good] * 8) == ("dteam",)
    assert refused(grid, *[good] * 9).rule == "V9"


def test_v9_extension_of_more_than_64_kib_is_refused_unread() -> None:
    with pytest.raises(AuthError, match="at most 65536") as caught:
        attribute_certificate.split(b"\xff" * (64 * 1024 + 1))
    assert caught.value.rule == "V9"


def test_v9_extension_with_an_empty_list_gives_no_groups(grid: Grid) -> None:
    assert groups_with(grid) == ()


def _long_form(der: bytes) -> bytes:
    """The same element with one byte more for its length than it needs."""
    assert der[1] == 0x82
    return bytes([der[0], 0x83, 0]) + der[2:]


def _indefinite(der: bytes) -> bytes:
    return bytes([der[0], 0x80]) + der[4:] + b"\0\0"


NOT_DER: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "null": lambda _: b"\5\0",
    "no list": lambda _: sequence(),
    "not wrapped": lambda ac: sequence(ac),
    "two lists": lambda ac: sequence(sequence(ac), sequence(ac)),
    "trailing garbage": lambda ac: sequence(sequence(ac)) + b"\0",
    "garbage in the wrapping": lambda ac: sequence(sequence(ac), b"\5\0"),
    "garbage in the list": lambda ac: sequence(sequence(ac, b"\5\0")),
    "garbage in the certificate": lambda ac: sequence(sequence(sequence(ac[4:], b"\5\0"))),
    "cut off": lambda ac: sequence(sequence(ac))[:-1],
    "long form of a length outside": lambda ac: _long_form(sequence(sequence(ac))),
    "long form of a length inside": lambda ac: sequence(sequence(_long_form(ac))),
    "long form of the signed length": lambda ac: sequence(sequence(sequence(_long_form(ac[4:])))),
    "indefinite length outside": lambda ac: _indefinite(sequence(sequence(ac))),
    "indefinite length inside": lambda ac: sequence(sequence(_indefinite(ac))),
    "set": lambda ac: forge.tlv(0x31, sequence(ac)),
    "nested deeply": lambda _: b"\x30\x80" * 30000,
}


@pytest.mark.parametrize("kind", NOT_DER)
def test_v9_anything_but_der_of_the_right_shape_is_refused(grid: Grid, kind: str) -> None:
    value = NOT_DER[kind](grid.server.sign(grid.ada))
    with pytest.raises(AuthError) as caught:
        attribute_certificate.split(value)
    assert (caught.value.rule, caught.value.status) == ("V9", 403)


SIGNED_BUT_NOT_DER: dict[str, Callable[[Statement], Statement]] = {
    "version 1": lambda s: s.but(version=forge.integer(0)),
    "version 3": lambda s: s.but(version=forge.integer(2)),
    "number with a leading zero": lambda s: s.but(serial=forge.tlv(0x02, b"\0\1")),
    "number without content": lambda s: s.but(serial=forge.tlv(0x02)),
    "garbage at the end": lambda s: s.but(tail=b"\5\0"),
    "critical false written down": lambda s: s.but(
        extensions=s.extensions
        | {"x": sequence(forge.oid("1.2.3"), forge.tlv(0x01, b"\0"), forge.octets(b""))}
    ),
    "critical true of another value": lambda s: s.but(
        extensions=s.extensions
        | {"x": sequence(forge.oid("1.2.3"), forge.tlv(0x01, b"\1"), forge.octets(b""))}
    ),
    "time without digits": lambda s: s.but(validity=sequence(forge.tlv(0x18, b"Z"), forge.tlv(0x18, b"Z"))),
    "validity without end": lambda s: s.but(validity=sequence(forge.time(datetime.now(UTC)))),
}


@pytest.mark.parametrize("kind", SIGNED_BUT_NOT_DER)
def test_v9_signed_information_has_to_be_der_too(grid: Grid, kind: str) -> None:
    statement = SIGNED_BUT_NOT_DER[kind](grid.statement())
    assert refused(grid, statement.sign(grid.server.key)).rule in ("V3", "V9")


def test_v9_changed_bytes_give_no_groups_and_no_other_error_than_a_refusal(grid: Grid) -> None:
    """Of which one may be none: that of the VO to another, which is as good as nothing."""
    rng, good = random.Random(9), grid.server.sign(grid.ada)
    now, policy = datetime.now(UTC), X509Policy()
    for _ in range(300):
        changed = bytearray(good)
        for place in rng.sample(range(len(good)), rng.randint(1, 3)):
            changed[place] ^= rng.randint(1, 255)
        proxy = grid.ada.proxy(extensions=[extension(bytes(changed))], key=grid.ada.key)
        path = evaluate(proxy.ders, grid.trust, policy, now)
        groups: tuple[str, ...] = ()
        with contextlib.suppress(AuthError):
            groups = membership(path, grid.trust, policy, [HEAD], now).groups
        assert groups == (), bytes(a ^ b for a, b in zip(good, changed, strict=True)).hex()


@given(st.binary(max_size=200))
def test_v9_random_bytes_are_refused_or_hold_nothing(data: bytes) -> None:
    certificates: tuple[AttributeCertificate, ...] = ()
    with contextlib.suppress(AuthError):
        certificates = attribute_certificate.split(data)
    assert certificates == ()
