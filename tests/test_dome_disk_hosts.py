"""Which disk servers the site has, and from where requests in plain HTTP are taken."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from dome_bridge.dome_api.disk_hosts import DiskHosts, addresses_of, plain_address
from dome_bridge.dpm.pool import ConnectionPool
from dome_bridge.errors import SourceError
from sandbox.proxy import FaultyProxy
from sandbox.servers import MariaServer
from tests.fixtures.databases import DpmSite
from tests.fixtures.dome import golden_databases
from tests.fixtures.source import dpm_config

ADD = "INSERT INTO `{}`.dpm_fs (poolname, server, fs, status, weight) VALUES ('pool01', '{}', '/srv', 0, 1)"
REMOVE = "DELETE FROM `{}`.dpm_fs WHERE server = '{}'"


@dataclass
class Resolver:
    """Knows the addresses of some names."""

    known: dict[str, frozenset[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, name: str) -> frozenset[str]:
        self.asked.append(name)
        return self.known.get(name, frozenset())


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
async def golden(maria: MariaServer) -> AsyncIterator[DpmSite]:
    async with golden_databases(maria) as site:
        yield site


@pytest.fixture(scope="module")
async def pool(golden: DpmSite) -> AsyncIterator[ConnectionPool]:
    made = ConnectionPool(dpm_config(golden), 1)
    yield made
    await made.close()


@pytest.fixture
def resolver() -> Resolver:
    return Resolver({"disk1.test": frozenset({"192.0.2.1"}), "disk2.test": frozenset({"192.0.2.2"})})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hosts(pool: ConnectionPool, resolver: Resolver, clock: Clock) -> DiskHosts:
    networks = [ipaddress.ip_network("198.51.100.0/24"), ipaddress.ip_network("2001:db8::/64")]
    return DiskHosts(pool, own=["head.test"], networks=lambda: networks, lookup=resolver, clock=clock)


async def test_names_are_those_of_the_file_systems(hosts: DiskHosts) -> None:
    assert await hosts.names() == {"disk1.test", "disk2.test"}


async def test_r1_server_that_comes_or_goes_is_known_within_a_second(
    hosts: DiskHosts, clock: Clock, golden: DpmSite, maria: MariaServer
) -> None:
    assert "disk9.test" not in await hosts.names()
    await maria.execute(ADD.format(golden.dpm, "DISK9.test"))
    try:
        clock.now += 1.1
        assert "disk9.test" in await hosts.names()
    finally:
        await maria.execute(REMOVE.format(golden.dpm, "DISK9.test"))
    clock.now += 1.1
    assert "disk9.test" not in await hosts.names()


async def test_database_out_of_reach_is_no_list_of_servers(golden: DpmSite, resolver: Resolver) -> None:
    async with FaultyProxy(golden.host, golden.port) as proxy:
        config = dpm_config(golden)
        pool = ConnectionPool(replace(config, port=proxy.port, unix_socket=""), 1)
        hosts = DiskHosts(pool, own=[], networks=lambda: (), lookup=resolver)
        await proxy.stop()
        with pytest.raises(SourceError):
            await hosts.names()
        await pool.close()


async def test_n1_names_stay_while_the_database_is_away(
    golden: DpmSite, resolver: Resolver, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with FaultyProxy(golden.host, golden.port) as proxy:
        config = dpm_config(golden)
        pool = ConnectionPool(replace(config, port=proxy.port, unix_socket=""), 1)
        hosts = DiskHosts(pool, own=[], networks=lambda: (), lookup=resolver, clock=clock)
        known = await hosts.names()
        await proxy.stop()
        for _ in range(3):
            clock.now += 1.1
            assert await hosts.names() == known == {"disk1.test", "disk2.test"}
        assert caplog.text.count("disk servers cannot be read") == 1
        await pool.close()


async def test_names_are_read_once_for_all_who_ask_at_once(
    hosts: DiskHosts, pool: ConnectionPool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[object] = []
    read = pool.read

    async def counted(work: Any) -> Any:
        reads.append(work)
        return await read(work)

    monkeypatch.setattr(pool, "read", counted)
    for expected in (1, 2):
        await asyncio.gather(*(hosts.names() for _ in range(50)))
        assert len(reads) == expected
        clock.now += 1.1


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("192.0.2.1", True),
        ("::ffff:192.0.2.2", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("198.51.100.7", True),
        ("::ffff:198.51.100.7", True),
        ("2001:db8::1%eth0", True),
        ("2001:db8:0:1::1", False),
        ("192.0.2.3", False),
        ("198.51.101.1", False),
        ("disk1.test", False),
        ("", False),
    ],
)
async def test_k6_plain_http_comes_from_the_site_only(hosts: DiskHosts, address: str, may: bool) -> None:
    assert await hosts.may_speak_plainly(address) is may


async def test_k6_new_address_of_a_server_is_looked_up_when_it_calls(
    hosts: DiskHosts, resolver: Resolver, clock: Clock
) -> None:
    await hosts.resolve()
    resolver.known["disk1.test"] = frozenset({"192.0.2.11"})
    clock.now += 1.1
    assert await hosts.may_speak_plainly("192.0.2.11")
    assert not hosts.is_unlimited("192.0.2.1")


async def test_strangers_do_not_make_us_ask_the_resolver_for_each(
    hosts: DiskHosts, resolver: Resolver, clock: Clock
) -> None:
    await asyncio.gather(*(hosts.may_speak_plainly(f"192.0.2.{number}") for number in range(100, 200)))
    assert len(resolver.asked) == 3
    clock.now += 1.1
    await hosts.may_speak_plainly("192.0.2.100")
    assert len(resolver.asked) == 6


async def test_server_keeps_its_addresses_while_the_resolver_is_away(
    hosts: DiskHosts, resolver: Resolver, clock: Clock
) -> None:
    resolver.known["head.test"] = frozenset({"192.0.2.100"})
    await hosts.resolve()
    resolver.known.clear()
    clock.now += 0.1
    await hosts.resolve()
    assert hosts.is_unlimited("192.0.2.100")
    assert hosts.is_unlimited("::ffff:192.0.2.1")
    assert not hosts.is_unlimited("198.51.100.7")
    assert {"head.test", "disk1.test", "disk2.test"} == set(resolver.asked)


async def test_name_without_address_has_none() -> None:
    assert await addresses_of("localhost") & {"127.0.0.1", "::1"}
    assert await addresses_of(f"{'x' * 70}.invalid") == frozenset()


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("x", "x"),
    ],
)
def test_one_address_has_one_text(text: str, plain: str) -> None:
    assert plain_address(text) == plain
