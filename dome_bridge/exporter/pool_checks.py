"""What disk servers' answers say against a plan of pools; pure, but for the asking itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from dome_bridge.dpm.source import Source
from dome_bridge.exporter.disk_answers import DiskServers, FileSystemAnswer, PathAnswer, ServerAnswer
from dome_bridge.exporter.findings import Finding, Severity

if TYPE_CHECKING:
    from dome_bridge.exporter.pool_plan import PlannedPool

LARGEST_SIZE = 2**58
"""Bytes of a file system, 256 PiB: beyond it is an underflow, or a test volume without bounds."""

SAMPLES = 3
AT_ONCE = 16

CHECKS: Mapping[str, str] = {
    "pool-not-asked": "the disk servers were not asked, as no key for them is configured",
    "pool-unreachable": "a disk server does not answer",
    "pool-unknown": "a disk server does not know a file system that it should have",
    "pool-broken": "a disk server cannot use its file system",
    "pool-absurd-size": "the size of a file system is not plausible",
    "pool-same-device": "file systems of a server seem to be one",
    "pool-nested": "a file system lies below another one of its server",
    "pool-overfull": "DPM knows more bytes than the file system can hold",
    "pool-sample": "replicas that DPM knows are missing, or of another size",
}

_SAMPLE = """
SELECT r.sfn, m.filesize FROM {cns}.Cns_file_replica r JOIN {cns}.Cns_file_metadata m ON m.fileid = r.fileid
WHERE r.host = %s AND r.fs = %s AND r.status = '-' AND m.filemode & 61440 = 32768 LIMIT %s"""


class Replica(NamedTuple):
    """A file as DPM knows it: path on its server, and bytes."""

    pfn: str
    size: int


UNASKED = PathAnswer()


@dataclass(frozen=True)
class PoolAnswers:
    """What was heard of one file system. samples: some of its replicas, and what the server says of each."""

    server: ServerAnswer
    mount: PathAnswer = UNASKED
    samples: tuple[tuple[Replica, PathAnswer], ...] = ()

    def of(self, fs: str) -> FileSystemAnswer | None:
        return self.server.filesystems.get(fs) or self.server.filesystems.get(fs.rstrip("/"))


@dataclass
class Heard:
    """By server and file system."""

    answers: dict[tuple[str, str], PoolAnswers] = field(default_factory=dict)

    def plausible(self, pool: PlannedPool) -> FileSystemAnswer | None:
        answer = self.answers[pool.server, pool.fs].of(pool.fs)
        return None if answer is None or answer.is_broken or _is_absurd(answer) else answer


async def ask(pools: Sequence[PlannedPool], disks: DiskServers, source: Source | None) -> Heard:
    """All servers side by side. source: for samples of replicas; None to do without them."""
    limit = asyncio.Semaphore(AT_ONCE)
    servers = dict.fromkeys(pool.server for pool in pools)

    async def space(server: str) -> ServerAnswer:
        async with limit:
            return await disks.space(server)

    answers = dict(zip(servers, await asyncio.gather(*map(space, servers)), strict=True))
    heard = Heard()
    for pool in pools:
        answer = answers[pool.server]
        if answer.problem or source is None:
            heard.answers[pool.server, pool.fs] = PoolAnswers(answer)
        elif (pool.server, pool.fs) not in heard.answers:
            heard.answers[pool.server, pool.fs] = await _asked(pool, answer, disks, source)
    return heard


async def _asked(pool: PlannedPool, answer: ServerAnswer, disks: DiskServers, source: Source) -> PoolAnswers:
    mount = await disks.stat(pool.server, pool.fs)
    rows = await source.fetch(
        _SAMPLE.format(cns=source.cns), (pool.server.encode(), pool.fs.encode(), SAMPLES)
    )
    replicas = [
        Replica(sfn.decode("utf-8", "backslashreplace").partition(":")[2], int(size or 0))
        for sfn, size in rows
    ]
    samples = [(replica, await disks.stat(pool.server, replica.pfn)) for replica in replicas]
    return PoolAnswers(answer, mount, tuple(samples))


NOT_ASKED = Finding(
    "pool-not-asked",
    Severity.INFO,
    "the disk servers were not asked: nothing is known of their file systems but what DPM's database says",
    'give the key that signs requests ([auth] xrdhttp_secret_file), or set [disk] scheme = "https"',
)


def judge(pool: PlannedPool, heard: Heard, pools: Iterable[PlannedPool]) -> Iterator[Finding]:
    """The findings of one pool; `pools` are all of them."""
    where = f"{pool.server}:{pool.fs}"
    answers = heard.answers[pool.server, pool.fs]
    if answers.server.problem:
        yield Finding(
            "pool-unreachable",
            Severity.ERROR,
            f"{pool.server} does not answer: {answers.server.problem}",
            "start its daemon, or take its file systems out of dpm_fs if the server is gone",
        )
        return
    answer = answers.of(pool.fs)
    if answer is None or answers.mount.problem or (answers.mount.size and not answers.mount.is_directory):
        yield Finding(
            "pool-unknown",
            Severity.ERROR,
            f"{pool.server} knows no file system {pool.fs}"
            + (f": {answers.mount.problem}" if answers.mount.problem else ""),
            "mount it, or take it out of dpm_fs; a pool there would be empty",
        )
        return
    yield from _of_size(pool, where, answer)
    yield from _of_neighbours(pool, where, answer, heard, pools)
    yield from _of_samples(where, answers.samples)


def _of_size(pool: PlannedPool, where: str, answer: FileSystemAnswer) -> Iterator[Finding]:
    if answer.is_broken:
        yield Finding(
            "pool-broken",
            Severity.ERROR,
            f"{where} cannot be used, as its server says",
            "look at the file system and at the log of DPM's daemon there",
        )
    elif _is_absurd(answer):
        yield Finding(
            "pool-absurd-size",
            Severity.ERROR,
            f"{where} claims to have {answer.size} bytes, {answer.free} of them free",
            "find out what is mounted there: dCache would send every write to such a pool",
        )
    elif pool.bytes is not None and pool.bytes > answer.size - answer.free:
        yield Finding(
            "pool-overfull",
            Severity.WARNING,
            f"DPM knows {pool.bytes} bytes on {where}, where {answer.size - answer.free} are in use",
            "files are missing there, or their sizes are wrong: `dpm-pool-link` will tell which",
        )


def _is_absurd(answer: FileSystemAnswer) -> bool:
    return not (0 <= answer.free <= answer.size and 0 < answer.size <= LARGEST_SIZE)


def _of_neighbours(
    pool: PlannedPool, where: str, answer: FileSystemAnswer, heard: Heard, pools: Iterable[PlannedPool]
) -> Iterator[Finding]:
    others = {each.fs for each in pools if each.server == pool.server} - {pool.fs}
    if above := sorted(fs for fs in others if pool.fs.startswith(fs.rstrip("/") + "/")):
        yield Finding(
            "pool-nested",
            Severity.WARNING,
            f"{where} lies below {above[0]}, which is a file system of DPM, too",
            "see that both are mounted: else they are one, and its free space counts twice",
        )
    twins = sorted(
        fs
        for fs in others
        if (each := heard.answers[pool.server, fs].of(fs)) and each[:2] == answer[:2] and not _is_absurd(each)
    )
    if twins:
        yield Finding(
            "pool-same-device",
            Severity.WARNING,
            f"{where} and {twins[0]} have the same size and free space: they may be one file system",
            "if `df` says so, set pool.size of each of the pools to its share",
        )


def _of_samples(where: str, samples: Iterable[tuple[Replica, PathAnswer]]) -> Iterator[Finding]:
    wrong = [
        f"{replica.pfn} ({answer.problem or f'{answer.size} bytes, not {replica.size}'})"
        for replica, answer in samples
        if answer.problem or answer.size != replica.size
    ]
    if wrong:
        yield Finding(
            "pool-sample",
            Severity.WARNING,
            f"of {len(list(samples))} replicas on {where}, {len(wrong)} are not as DPM says: {wrong[0]}",
            "see that the right file system is mounted; `dpm-pool-link` checks each file",
            len(wrong),
        )
