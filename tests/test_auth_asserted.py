"""For whom a peer calls: the headers, and what they must not say."""

from __future__ import annotations

import pytest

from dome_bridge.auth.asserted import Asserted
from dome_bridge.auth.refusal import AuthError

Headers = list[tuple[str, str]]
LONG = "x" * 256


@pytest.mark.parametrize(
    ("headers", "asserted"),
    [
        ([], Asserted()),
        ([("remote_client_dn", "/CN=a"), ("x-remoteclientdn", "/CN=a")], Asserted()),
        (
            [("RemoteClientDN", "/CN=a"), ("remoteclientgroups", "x,y/Role=p,x")],
            Asserted("/CN=a", ("x", "y/Role=p", "x"), has_identity=True),
        ),
        ([("remoteclientdn", ""), ("remoteclientgroups", "")], Asserted(has_identity=True)),
        (
            [("remoteclienthost", " 192.0.2.1 "), ("remoteclientaddr", "192.0.2.2")],
            Asserted(host="192.0.2.1"),
        ),
        ([("remoteclientdn", "\u3000")], Asserted("\u3000", has_identity=True)),
        ([("remoteclientdn", "/CN=a\u2003")], Asserted("/CN=a\u2003", has_identity=True)),
        ([("remoteclientgroups", ",")], Asserted(has_identity=True)),
        ([("remoteclientgroups", "a,,b ")], Asserted(groups=("a", "b"), has_identity=True)),
    ],
)
def test_headers_are_read_as_they_stand(headers: Headers, asserted: Asserted) -> None:
    assert Asserted.from_headers(headers) == asserted


@pytest.mark.parametrize(
    "headers",
    [
        [("remoteclientdn", "/CN=a"), ("RemoteClientDN", "/CN=a")],
        [("remoteclientgroups", ""), ("remoteclientgroups", "a")],
        [("remoteclienthost", "a"), ("remoteclienthost", "a")],
        [("remoteclientdn", "/CN=a\tb")],
        [("remoteclientdn", "/CN=a\x7f")],
        [("remoteclientdn", "/CN=\udcff")],
        [("remoteclientgroups", "a\u0085b")],
        [("remoteclienthost", "a\u2028")],
    ],
)
def test_n4_header_that_could_be_read_in_two_ways_is_refused(headers: Headers) -> None:
    with pytest.raises(AuthError) as info:
        Asserted.from_headers(headers)
    assert (info.value.status, info.value.rule) == (400, "N4")


@pytest.mark.parametrize("user", ["", "root"])
@pytest.mark.parametrize("groups", [(), ("root",), ("root", "root")])
def test_n4_root_is_nobody(user: str, groups: tuple[str, ...]) -> None:
    assert Asserted(user, groups).checked().is_nobody


@pytest.mark.parametrize(
    ("user", "groups"),
    [
        ("", ("dteam",)),
        ("root", ("dteam",)),
        ("", ("root", "dteam")),
        ("/CN=a", ("root",)),
        ("/CN=a", ("dteam", "root")),
        ("/CN=a", ("/root",)),
        ("/CN=a", ("ROOT",)),
        ("Root", ()),
        ("root ", ()),
    ],
)
def test_n4_nobody_else_is_root(user: str, groups: tuple[str, ...]) -> None:
    with pytest.raises(AuthError) as info:
        Asserted(user, groups).checked()
    assert info.value.status == 403


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("/DC=ch/CN=Ada", "/DC=ch/CN=Ada"),
        ("/DC=ch/CN=Ada/Email=a@b.ch", "/DC=ch/CN=Ada/emailAddress=a@b.ch"),
        ("/DC=ch/CN=J\xfcrgen", "/DC=ch/CN=J\\xC3\\xBCrgen"),
        ("jwt:atlas:8f2c", "jwt:atlas:8f2c"),
        ("nobody in particular", "nobody in particular"),
    ],
)
def test_n8_asserted_user_has_the_name_that_dpm_has(user: str, name: str) -> None:
    assert Asserted(user).checked().user == name


def test_n8_asserted_groups_are_those_of_fqans() -> None:
    fqans = ("/dteam/Role=NULL/Capability=NULL", "dteam", "/dteam/Role=production", "atlas/Role=x")
    assert Asserted("/CN=a", fqans).checked().groups == ("dteam", "dteam/Role=production", "atlas/Role=x")


@pytest.mark.parametrize(
    ("user", "groups"), [(f"/CN={LONG}", ()), (LONG, ()), ("/CN=a", (LONG,)), ("/CN=a", ("é" * 128,))]
)
def test_u4_longer_name_than_dpm_holds_is_refused(user: str, groups: tuple[str, ...]) -> None:
    with pytest.raises(AuthError) as info:
        Asserted(user, groups).checked()
    assert (info.value.status, info.value.rule) == (403, "U4")


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "2001:db8::1", "[2001:db8::1]", "fe80::1%eth0", "wn1.example.org"]
)
def test_host_of_the_user_is_taken_as_told(host: str) -> None:
    assert Asserted("/CN=a", host=host).checked().host == host


@pytest.mark.parametrize("host", ["a b", "a/b", "a,b", "é", "x" * 256, '"'])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(AuthError) as info:
        Asserted("/CN=a", host=host).checked()
    assert info.value.status == 400
