"""What a peer is to the site, by the host names or the DN that it proves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dome_bridge.auth.principal import Channel, Kind, Role
from dome_bridge.auth.refusal import AuthError
from dome_bridge.auth.roles import Peers, speaks_for

ADMIN = "/DC=test/OU=users/CN=Ada Admin"
PEERS = Peers(
    own=frozenset({"head.test", "head"}),
    disks=frozenset({"disk1.test", "disk10.test"}),
    frontends=frozenset({"door.test", "disk1.test"}),
    administrators=frozenset({ADMIN}),
)
STRANGER = (Role.USER, Kind.USER)


def host(*names: str) -> Channel:
    return Channel(dn=f"/DC=test/OU=hosts/CN={names[0] if names else 'x'}", hosts=names)


@pytest.mark.parametrize(
    ("channel", "standing"),
    [
        (Channel(), (Role.NOBODY, Kind.ANONYMOUS)),
        (Channel(hosts=("disk1.test",)), (Role.NOBODY, Kind.ANONYMOUS)),
        (host("head.test"), (Role.HEAD, Kind.NODE)),
        (host("alias.test", "head"), (Role.HEAD, Kind.NODE)),
        (host("disk10.test"), (Role.DISK, Kind.NODE)),
        (host("disk1.test"), (Role.DISK, Kind.NODE)),
        (host("head.test", "disk1.test"), (Role.HEAD, Kind.NODE)),
        (host("door.test"), (Role.FRONTEND, Kind.NODE)),
        (Channel(dn=ADMIN), (Role.HEAD, Kind.ADMIN)),
        (replace(host("disk1.test"), dn=ADMIN), (Role.HEAD, Kind.ADMIN)),
    ],
)
def test_n1_peer_is_what_it_proves(channel: Channel, standing: tuple[Role, Kind]) -> None:
    assert PEERS.standing(channel) == standing


@pytest.mark.parametrize(
    "channel",
    [
        host(),
        host("disk1.tes"),
        host("disk1.test0"),
        host("1.test"),
        host("*.test"),
        host("disk1.test.evil.test"),
        Channel(dn="/DC=test/OU=hosts/CN=disk1.test"),
        Channel(dn=f"{ADMIN} "),
        Channel(dn=ADMIN.lower()),
        Channel(dn=f"{ADMIN}/CN=1234"),
        Channel(dn=f"/DC=org{ADMIN}"),
        Channel(dn="/CN=x", user=ADMIN, issuers=(ADMIN,)),
    ],
)
def test_n2_whatever_only_looks_like_a_peer_is_a_user(channel: Channel) -> None:
    assert PEERS.standing(channel) == STRANGER


@pytest.mark.parametrize("is_limited", [False, True])
@pytest.mark.parametrize("name", ["head.test", "disk1.test", "door.test"])
def test_n3_proxy_proves_no_host(name: str, is_limited: bool) -> None:
    channel = replace(host(name), is_proxy=True, is_limited=is_limited)
    assert PEERS.standing(channel) == STRANGER


def test_n3_administrator_acts_through_full_proxies_only() -> None:
    proxy = Channel(dn=ADMIN, is_proxy=True)
    assert PEERS.standing(proxy) == (Role.HEAD, Kind.ADMIN)
    assert PEERS.standing(replace(proxy, is_limited=True)) == STRANGER


@pytest.mark.parametrize("channel", [host("disk1.test"), host("head.test"), Channel(dn=ADMIN)])
def test_u1_peer_of_several_attributes_in_one_place_is_refused(channel: Channel) -> None:
    with pytest.raises(AuthError) as info:
        PEERS.standing(replace(channel, is_multivalued=True))
    assert (info.value.status, info.value.rule) == (403, "U1")


def test_u1_user_may_have_such_a_name() -> None:
    assert PEERS.standing(Channel(dn="/CN=a+UID=b", is_multivalued=True)) == STRANGER


@pytest.mark.parametrize(
    ("server", "speaks"),
    [
        ("disk1.test", True),
        ("DISK1.test", True),
        ("disk1-data.test", True),
        ("disk2.test", False),
        ("disk1.tes", False),
        ("disk3.test", False),
        ("", False),
    ],
)
def test_n5_disk_server_speaks_for_its_own_names(server: str, speaks: bool) -> None:
    same = [("disk1.test", "disk1-data.test"), ("disk2.test", "disk3.test")]
    assert speaks_for(("disk1.test",), server, same) is speaks
