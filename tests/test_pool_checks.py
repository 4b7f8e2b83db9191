"""Pools against what their disk servers say: refused, flagged, or not asked at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from dome_bridge.config import AuthConfig, Config, DiskConfig
from dome_bridge.config_kinds import ServerAddress
from dome_bridge.disk_inquiry import disk_servers, may_ask
from dome_bridge.dpm.small_tables import FileSystem
from dome_bridge.exporter import pool_checks
from dome_bridge.exporter.disk_answers import FileSystemAnswer, PathAnswer, ServerAnswer
from dome_bridge.exporter.findings import Severity
from dome_bridge.exporter.pool_checks import Heard, PoolAnswers, Replica
from dome_bridge.exporter.pool_plan import PlannedPool, make_plan
from sandbox.disk_node import DiskNode, SpaceReport
from sandbox.disk_store import Room
from tests.test_pools import TEMPLATE, filesystem

SERVER = "disk01.example.org"
GOOD = FileSystemAnswer(60 * 10**12, 100 * 10**12)
MOUNT = PathAnswer(4096, is_directory=True)
SECRET = "a key of more than thirty-two characters"


def pools_on(*paths: bytes, used: int | None = None) -> tuple[PlannedPool, ...]:
    planned = make_plan([filesystem(path) for path in paths], {}, TEMPLATE).pools
    return tuple(replace(pool, bytes=used) for pool in planned)


def heard_of(
    pools: tuple[PlannedPool, ...], answers: Mapping[str, FileSystemAnswer], **more: object
) -> Heard:
    server = ServerAnswer(answers)
    about = {"mount": MOUNT, **more}
    return Heard({(pool.server, pool.fs): PoolAnswers(server, **about) for pool in pools})  # type: ignore[arg-type]


def ids(pools: tuple[PlannedPool, ...], heard: Heard) -> list[str]:
    return [finding.id for pool in pools for finding in pool_checks.judge(pool, heard, pools)]


def test_plausible_file_system_is_no_finding_and_gives_its_size() -> None:
    pools = pools_on(b"/srv/1", used=40 * 10**12)
    heard = heard_of(pools, {"/srv/1": GOOD})
    assert ids(pools, heard) == []
    assert heard.plausible(pools[0]) == GOOD


@pytest.mark.parametrize(
    "answer",
    [
        FileSystemAnswer(2**64 - 4096, 2**64 - 1),
        FileSystemAnswer(0, 0),
        FileSystemAnswer(-1, 10**12),
        FileSystemAnswer(2 * 10**12, 10**12),
        FileSystemAnswer(1, 2**58 + 1),
    ],
    ids=["underflow", "nothing", "negative", "more free than there is", "beyond all discs"],
)
def test_absurd_size_is_refused_and_counts_nowhere(answer: FileSystemAnswer) -> None:
    pools = pools_on(b"/srv/1")
    heard = heard_of(pools, {"/srv/1": answer})
    [finding] = pool_checks.judge(pools[0], heard, pools)
    assert (finding.id, finding.severity) == ("pool-absurd-size", Severity.ERROR)
    assert heard.plausible(pools[0]) is None


def test_silent_server_is_refused_for_each_of_its_pools() -> None:
    pools = pools_on(b"/srv/1", b"/srv/2")
    silent = PoolAnswers(ServerAnswer(problem="no connection in time"))
    heard = Heard({(pool.server, pool.fs): silent for pool in pools})
    assert ids(pools, heard) == ["pool-unreachable"] * 2


@pytest.mark.parametrize(
    ("answers", "mount", "expected"),
    [
        ({}, MOUNT, "pool-unknown"),
        ({"/srv/1": GOOD}, PathAnswer(problem="Cannot stat pfn"), "pool-unknown"),
        ({"/srv/1": GOOD}, PathAnswer(4096), "pool-unknown"),
        ({"/srv/1": GOOD._replace(is_broken=True)}, MOUNT, "pool-broken"),
    ],
)
def test_file_system_that_cannot_be_used_is_refused(
    answers: Mapping[str, FileSystemAnswer], mount: PathAnswer, expected: str
) -> None:
    pools = pools_on(b"/srv/1")
    assert ids(pools, heard_of(pools, answers, mount=mount)) == [expected]


def test_path_with_a_slash_at_its_end_is_found_in_the_answer() -> None:
    pools = pools_on(b"/srv/1/")
    assert ids(pools, heard_of(pools, {"/srv/1": GOOD})) == []


def test_more_bytes_in_dpm_than_are_in_use_is_a_warning() -> None:
    pools = pools_on(b"/srv/1", used=41 * 10**12)
    assert ids(pools, heard_of(pools, {"/srv/1": GOOD})) == ["pool-overfull"]


def test_two_paths_with_equal_figures_may_be_one_file_system() -> None:
    pools = pools_on(b"/srv/1", b"/srv/2", b"/srv/3")
    heard = heard_of(pools, {"/srv/1": GOOD, "/srv/2": GOOD, "/srv/3": GOOD._replace(free=1)})
    assert ids(pools, heard) == ["pool-same-device"] * 2


def test_file_system_below_another_is_a_warning() -> None:
    pools = pools_on(b"/srv", b"/srv/1")
    heard = heard_of(pools, {"/srv": GOOD, "/srv/1": GOOD._replace(free=1)})
    assert ids(pools, heard) == ["pool-nested"]


def test_replica_that_is_missing_or_of_another_size_is_a_warning() -> None:
    pools = pools_on(b"/srv/1")
    replica = Replica("/srv/1/a", 7)
    samples = ((replica, PathAnswer(7)), (replica, PathAnswer(8)), (replica, PathAnswer(problem="gone")))
    heard = heard_of(pools, {"/srv/1": GOOD}, samples=samples)
    [finding] = pool_checks.judge(pools[0], heard, pools)
    assert (finding.id, finding.count) == ("pool-sample", 2)
    assert "of 3 replicas" in finding.message


# Over a real socket


def config_for(node: DiskNode) -> Config:
    disk = DiskConfig(addresses=(ServerAddress(SERVER, "127.0.0.1", node.port),), connect_seconds=2.0)
    return Config(disk=disk, auth=AuthConfig(xrdhttp_secret=SECRET))


async def test_node_is_asked_with_signed_requests(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"seven!!")
    async with (
        DiskNode(SERVER, {"/srv/1": tmp_path}, secret=SECRET) as node,
        disk_servers(config_for(node)) as disks,
    ):
        assert disks is not None
        answer = await disks.space(SERVER)
        mount = await disks.stat(SERVER, "/srv/1")
        file = await disks.stat(SERVER, "/srv/1/file")
        missing = await disks.stat(SERVER, "/srv/1/other")
        elsewhere = await disks.stat(SERVER, "/srv/2/file")
        nobody = await disks.space("disk99.invalid")
    assert answer.filesystems["/srv/1"].size > 0
    assert mount.is_directory
    assert file == PathAnswer(7)
    assert missing.problem
    assert elsewhere.problem
    assert nobody.problem


async def test_lies_of_a_node_come_through_as_they_are(tmp_path: Path) -> None:
    async with (
        DiskNode(SERVER, {"/srv/1": tmp_path}, secret=SECRET) as node,
        disk_servers(config_for(node)) as disks,
    ):
        assert disks is not None
        node.report_space(SpaceReport(rooms={"/srv/1": Room(2**64 - 1, 2**64 - 1, 1)}))
        assert (await disks.space(SERVER)).filesystems["/srv/1"].size == 2**64 - 1
        node.report_space(SpaceReport(body=b'{"fsinfo": [1]}'))
        assert (await disks.space(SERVER)).problem


async def test_without_credentials_nobody_is_asked() -> None:
    assert not may_ask(Config())
    async with disk_servers(Config()) as disks:
        assert disks is None


def test_finding_tells_that_nobody_was_asked() -> None:
    assert pool_checks.NOT_ASKED.severity is Severity.INFO
    assert "not asked" in pool_checks.NOT_ASKED.message


def test_read_only_file_system_counts_as_known_to_dpm() -> None:
    [pool] = make_plan([FileSystem(b"data", b"d", b"/srv/1", 2)], {}, TEMPLATE).pools
    assert [finding.id for finding in pool.findings] == ["pool-disabled"]
