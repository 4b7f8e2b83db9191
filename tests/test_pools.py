"""The pool plan: names, directories, contents, and what is wrong with them."""

from __future__ import annotations

import json

import pytest

from dome_bridge.chimera.pools import pool_name
from dome_bridge.config import Config
from dome_bridge.dpm.small_tables import FileSystem
from dome_bridge.exporter import pool_checks, pool_plan
from dome_bridge.exporter.findings import Severity
from dome_bridge.exporter.pool_plan import CHECKS, LONG_NAME, PoolPlan, make_plan, plan_pools
from dome_bridge.exporter.session import open_databases
from sandbox.catalog import make_site
from sandbox.servers import MariaServer
from sandbox.site import SiteOptions
from tests.fixtures.databases import DpmSite
from tests.fixtures.snapshot import bridge_config, copy_catalog

TEMPLATE = "{fs}/dcache/{pool}"


def filesystem(
    fs: bytes = b"/srv/1", server: bytes = b"disk01.example.org", pool: bytes = b"data", status: int = 0
) -> FileSystem:
    return FileSystem(pool, server, fs, status)


def plan(*filesystems: FileSystem, types: dict[bytes, bytes] | None = None) -> PoolPlan:
    return make_plan(filesystems, types or {}, TEMPLATE)


def ids(made: PoolPlan) -> list[str]:
    return [finding.id for finding in made.findings]


def test_pool_has_the_name_of_the_mirror_and_the_directory_of_the_template() -> None:
    [pool] = plan(filesystem(b"/srv/dpm/01/")).pools
    assert pool.name == pool_name("disk01.example.org", "/srv/dpm/01/", "data")
    assert pool.path == f"/srv/dpm/01/dcache/{pool.name}"
    assert (pool.server, pool.fs, pool.dpm_pool) == ("disk01.example.org", "/srv/dpm/01/", "data")
    assert pool.findings == ()


def test_pools_are_in_the_order_of_their_names() -> None:
    names = [pool.name for pool in plan(*(filesystem(b"/srv/%d" % n) for n in (3, 1, 2))).pools]
    assert names == sorted(names)
    assert len(names) == 3


def test_file_system_shared_by_pools_is_a_warning_for_each() -> None:
    made = plan(filesystem(), filesystem(b"/srv/1/", pool=b"scratch"), filesystem(b"/srv/2"))
    assert ids(made) == ["pool-shared-filesystem"] * 2
    assert made.ok


def test_same_path_on_another_server_is_not_shared() -> None:
    assert ids(plan(filesystem(), filesystem(server=b"disk02.example.org"))) == []


def test_server_in_two_cases_gives_one_pool() -> None:
    assert len(plan(filesystem(), filesystem(server=b"DISK01.example.org")).pools) == 1


@pytest.mark.parametrize("fs", [b"/home", b"/home/dpm", b"/usr/local/dpm", b"/root/x", b"/boot/1", b"/etc/1"])
def test_path_that_systemd_hides_is_a_warning(fs: bytes) -> None:
    assert ids(plan(filesystem(fs))) == ["pool-path-protected"]


@pytest.mark.parametrize("fs", [b"/home2", b"/srv/home", b"/userdata", b"/", b"/data 1"])
def test_other_paths_are_fine(fs: bytes) -> None:
    assert ids(plan(filesystem(fs))) == []


@pytest.mark.parametrize("fs", [b"", b"srv/1", b"/srv/../etc", b"/srv/./1", b"/srv/\xff", b"/srv/a\nb"])
def test_path_that_no_pool_can_have_is_an_error(fs: bytes) -> None:
    made = plan(filesystem(fs))
    assert "pool-path-unusable" in ids(made)
    assert not made.ok


def test_pool_of_another_kind_is_an_error() -> None:
    made = plan(filesystem(pool=b"hdfs01"), filesystem(b"/srv/2"), types={b"hdfs01": b"hdfs", b"data": b""})
    assert ids(made) == ["pool-type"]


@pytest.mark.parametrize(("status", "word"), [(1, "disabled"), (2, "read-only")])
def test_file_system_out_of_use_is_information(status: int, word: str) -> None:
    [finding] = plan(filesystem(status=status)).findings
    assert (finding.id, finding.severity) == ("pool-disabled", Severity.INFO)
    assert word in finding.message


def test_very_long_name_is_a_warning() -> None:
    made = plan(filesystem(b"/" + b"long/" * 15, server=b"d" * 60 + b".org"))
    assert ids(made) == ["pool-name-long"]
    assert len(made.pools[0].name) > LONG_NAME


def test_every_finding_is_in_the_list_of_checks() -> None:
    made = plan(
        filesystem(b"home", server=b"x" * 63, pool=b"a" * 15, status=1),
        filesystem(b"home", server=b"x" * 63, pool=b"b" * 15),
        filesystem(b"/home/" + b"y" * 70, server=b"x" * 63, pool=b"b" * 15),
        types={b"b" * 15: b"s3"},
    )
    assert set(ids(made)) == CHECKS.keys() - pool_checks.CHECKS.keys()


def test_plan_is_valid_json() -> None:
    made = json.loads(json.dumps(plan(filesystem(b"/home/\xff")).as_json()))
    keys = {"name", "server", "fs", "dpm_pool", "path", "files", "bytes", "size", "free", "findings"}
    assert all(set(pool) == keys for pool in made["pools"])


async def planned(config: Config) -> PoolPlan:
    return PoolPlan(await pool_plan.plan(config))


async def test_contents_are_the_same_before_and_after_the_copy(
    maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str
) -> None:
    site = await make_site(maria, dpm_site.cns, dpm_site.dpm, SiteOptions(files=300))
    config = bridge_config(dpm_site, chimera_dsn)
    before = await planned(config)
    assert sum(pool.files or 0 for pool in before.pools) == site.replicas
    assert sum(pool.bytes or 0 for pool in before.pools) > 0
    assert len(before.pools) == len(site.filesystems)
    await copy_catalog(config)
    assert await planned(config) == before


async def test_contents_of_a_rotten_site_can_be_counted(
    maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str
) -> None:
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SiteOptions(files=100), rotten=True)
    config = bridge_config(dpm_site, chimera_dsn)
    for _ in ("in DPM", "in Chimera"):
        largest = max(pool.bytes or 0 for pool in (await planned(config)).pools)
        assert 2**63 < largest < 2**64
        await copy_catalog(config)


async def test_plan_without_usage_leaves_it_open(
    maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str
) -> None:
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SiteOptions(files=100))
    async with open_databases(bridge_config(dpm_site, chimera_dsn)) as databases:
        made = await plan_pools(databases, usage=False)
    assert {(pool.files, pool.bytes) for pool in made.pools} == {(None, None)}
