"""`./run demo`: a whole migration of a made-up site, played with the real command line.

Everything that is said about the bridge comes out of its own commands; what the demo adds is
the site, its users (a random writer, and clients of the DOME API), and at the end a judgement that
does not ask the bridge: the acceptance queries for Chimera, and the files on the disks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pymysql
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dome_bridge.chimera import target
from dome_bridge.config import load
from dome_bridge.exporter.session import open_session
from dome_bridge.exporter.verify import Verifier
from sandbox.acceptance import acceptance_failures
from sandbox.api_clients import ApiWriter, ClientReport
from sandbox.bulk import connected
from sandbox.playground import (
    CHIMERA,
    CNS,
    POLL_SECONDS,
    CommandError,
    Outcome,
    Playground,
    end,
    open_playground,
    play,
    site_size,
)
from sandbox.servers import SandboxError
from sandbox.writer import CatalogWriter

WIDTH = 100
FOLLOW_SECONDS = 3.0
PATIENCE_SECONDS = 300.0
MAX_LINKS = 50_000
EXAMPLES = 3
FENCED_SECONDS = 10.0

LOCATED = """
SELECT n.ipnfsid, n.isize, l.ilocation AS pool FROM t_inodes n
  JOIN t_locationinfo l ON l.inumber = n.inumber AND l.itype = 1
 WHERE n.itype = 32768 ORDER BY n.inumber, l.ilocation"""
REPLICAS = f"""
SELECT r.fileid, m.filesize, r.poolname, r.host, r.sfn
  FROM {CNS}.Cns_file_replica r JOIN {CNS}.Cns_file_metadata m ON m.fileid = r.fileid
 WHERE r.status = '-' ORDER BY r.rowid"""
WRITE = f"UPDATE {CNS}.Cns_file_metadata SET mtime = mtime + 1 WHERE fileid = 1"


@dataclass
class Score:
    """What the summary shows, and what the exit code depends on."""

    source: int = 0
    mirrored: int = 0
    quarantined: int = 0
    dropped_facts: int = 0
    copy_seconds: float = 0.0
    changes: int = 0
    operations: int = 0
    refused: int = 0
    api: ClientReport = field(default_factory=ClientReport)
    compared: int = 0
    mismatches: int = 0
    lag: float | None = None
    fence_seconds: float = 0.0
    steps: list[Mapping[str, Any]] = field(default_factory=list)
    acceptance: list[str] = field(default_factory=list)
    links: int = 0
    bad_links: list[str] = field(default_factory=list)
    without_file: int = 0

    @property
    def agrees(self) -> bool:
        return self.source == self.mirrored + self.quarantined and self.mismatches == 0

    @property
    def ok(self) -> bool:
        return (
            self.agrees
            and not self.acceptance
            and not self.bad_links
            and self.links > 0
            and self.api_ok
            and self.fence_ok
        )

    @property
    def api_ok(self) -> bool:
        return self.api.taken > 0 and not self.api.complaints

    @property
    def fence_ok(self) -> bool:
        """Whether clients of the API met it as the protocol says: writes refused, reads answered."""
        return self.api.refused > 0 and self.api.read_meanwhile > 0


class Stage:
    """What the audience sees: numbered steps, each a sentence, then commands and what they printed."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._step = 0

    def step(self, title: str, sentence: str) -> None:
        self._step += 1
        self.console.print()
        self.console.rule(f"[bold]{self._step}  {title}", align="left", characters="─", style="dim")
        self.console.print(Text(sentence, style="italic"))

    def say(self, text: str) -> None:
        self.console.print(Text(f"  {text}"))

    def command(self, *arguments: str) -> None:
        self.console.print(Text(f"  $ dome-bridge {' '.join(arguments)}", style="bold cyan"))

    def output(self, text: str) -> None:
        for line in text.splitlines():
            self.console.print(Text(f"    {line.rstrip()}"), no_wrap=True, overflow="ellipsis")


class Demo:
    """The play; one method for each step."""

    def __init__(self, playground: Playground, stage: Stage) -> None:
        self.playground = playground
        self.stage = stage
        self.score = Score()

    async def run(self) -> Score:
        await self._check()
        await self._init()
        async with (
            self.playground.writer() as writer,
            self.playground.daemon() as daemon,
            self.playground.clients() as clients,
        ):
            await self._copy(daemon)
            await self._follow(writer, clients)
            await self._verify()
            await self._pools()
            await self._quarantine()
            await self._rehearse_abort()
            await self._cut_over(writer, clients)
        self.score.operations = writer.report.attempted
        self.score.refused = writer.report.refused.total()
        self.score.api = clients.report
        await self._judge()
        await self._link()
        return self.score

    async def _bridge(self, *arguments: str, wanted: int = 0) -> Outcome:
        self.stage.command(*arguments)
        return await self.playground.bridge(*arguments, wanted=wanted)

    async def _check(self) -> None:
        self.stage.step(
            "Check", "Looks at both databases, changes nothing, and predicts what will be left out."
        )
        report = (await self._bridge("--json", "check")).json()
        for severity, count in Counter(found["severity"] for found in report["findings"]).items():
            self.stage.say(f"{count} findings of severity {severity}")
        foreseen = [found for found in report["findings"] if found["id"].startswith("quarantine-")]
        self.stage.say(f"{len(foreseen)} of them are reasons why entries or facts will be left out, such as")
        for found in foreseen[:EXAMPLES]:
            self.stage.output(f"{found['id']}: {found['message']}")

    async def _init(self) -> None:
        self.stage.step(
            "Initialise",
            "Fixes the ids, makes the bridge's tables, and sets triggers that note every change.",
        )
        self.stage.output((await self._bridge("init")).output)

    async def _copy(self, daemon: asyncio.subprocess.Process) -> None:
        self.stage.step(
            "First copy",
            "The daemon copies the catalog in ranges and serves the DOME API, while others write: a random "
            "writer with SQL, and users through the API.",
        )
        self.stage.command("run", "&")
        columns = (
            TextColumn("    {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.stage.console, transient=True) as bar:
            task = bar.add_task("copying", total=None)
            async for status in self._statuses(daemon):
                copy = status["snapshot"]
                if copy:
                    bar.update(
                        task,
                        description=f"copying {copy['step']}",
                        completed=copy["entries"],
                        total=max(copy["entries"], copy["expected"] or 0),
                    )
                if status["phase"] == "following":
                    break
        self.stage.say(f"copied; phase {status['phase']}")

    async def _statuses(self, process: asyncio.subprocess.Process) -> AsyncIterator[dict[str, Any]]:
        """What the daemon's listener says, again and again, while a process works; it must not end."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and process.returncode is None:
            if status := await self.playground.status():
                yield status
            await asyncio.sleep(POLL_SECONDS)
        said = (await process.stderr.read()).decode() if process.stderr and process.returncode else ""
        raise CommandError(f"ended too early, or took too long: {said}\n{self.playground.daemon_words()}")

    async def _follow(self, writer: CatalogWriter, clients: ApiWriter) -> None:
        self.stage.step("Follow", "Users go on writing; the daemon applies their changes a moment later.")
        await asyncio.sleep(FOLLOW_SECONDS)
        self.stage.say(f"the random writer has tried {writer.report.attempted} operations so far")
        self.stage.say(
            f"the API has answered {clients.report.requests} requests, {clients.report.taken} writes"
        )
        self.stage.output((await self._bridge("status")).output)

    async def _verify(self) -> None:
        self.stage.step(
            "Verify", "Projects every entry again and compares it with Chimera, still under load."
        )
        report = (await self._bridge("--json", "verify")).json()
        self.stage.say(
            f"compared {report['compared']} entries in {report['seconds']:.1f} s: "
            f"{report['missing']} missing, {report['extra']} extra, {report['different']} different"
        )

    async def _pools(self) -> None:
        self.stage.step(
            "Pools", "One dCache pool for each DPM pool on each file system, under a stable name."
        )
        pools = (await self._bridge("--json", "pools")).json()["pools"]
        for pool in pools:
            self.stage.output(
                f"{pool['files']:7} files  {pool['server']:20} {Path(pool['fs']).name:5} {pool['dpm_pool']:8}"
            )
        self.stage.say("name and directory of the first of them:")
        self.stage.output(f"{pools[0]['name']}\n{pools[0]['path']}")

    async def _quarantine(self) -> None:
        self.stage.step(
            "Quarantine", "What dCache cannot hold is left out and listed; the site has old rot planted."
        )
        rows = (await self._bridge("quarantine")).lines()
        reasons = Counter((row["scope"], row["reason"]) for row in rows)
        for (scope, reason), count in sorted(reasons.items(), key=lambda item: -item[1])[:6]:
            self.stage.say(f"{count:5} {scope:5} {reason}")
        self.stage.say(f"{len(rows)} lines in all; the first of an entry:")
        for row in [row for row in rows if row["scope"] == "entry"][:1]:
            self.stage.output(json.dumps({key: row[key] for key in ("fileid", "reason", "path", "detail")}))

    async def _rehearse_abort(self) -> None:
        self.stage.step(
            "Rehearse the way back", "A cutover is killed (SIGKILL) just before its commit, then taken back."
        )
        async with self._batch_under_way():
            self.stage.command("cutover", "--yes", "&")
            process = await self.playground.start("cutover", "--yes")
            try:
                await self._until_rechecked(process)
                await self._try_to_write()
            finally:
                await end(process, signal.SIGKILL)
        self.stage.say("the cutover is killed; its fence still stands")
        aborted = (await self._bridge("--json", "cutover", "--abort")).json()
        self.stage.say(f"{aborted['state']} after a fence of {aborted['fence_seconds']:.1f} s")
        await self._try_to_write()

    @asynccontextmanager
    async def _batch_under_way(self) -> AsyncIterator[None]:
        """Holds the gate as a batch does, so that no cutover can commit meanwhile."""
        config = load(self.playground.config, os.environ)
        conn = await target.connect(config.chimera)
        try:
            async with target.passing_gate(conn):
                yield
        finally:
            await target.close(conn)

    async def _until_rechecked(self, process: asyncio.subprocess.Process) -> None:
        async for status in self._statuses(process):
            cutover = status["cutover"] or {"steps": []}
            if any(step["name"] == "recheck" for step in cutover["steps"]):
                return

    async def _try_to_write(self) -> None:
        """Shows what DPM's database says to a small change."""
        try:
            async with self.playground.maria.connect(as_dpmmgr=True) as conn, conn.cursor() as cursor:
                await cursor.execute(WRITE)
        except pymysql.err.MySQLError as exc:
            self.stage.say("a user's write is refused:")
            self.stage.output(f"{exc.args[-1]}")
        else:
            self.stage.say("a user's write is taken")

    async def _cut_over(self, writer: CatalogWriter, clients: ApiWriter) -> None:
        self.stage.step("Cutover", "Fence, drain, recheck, commit; users write until the fence stops them.")
        status = (await self._bridge("--json", "status")).json()
        self.score.lag, self.score.changes = status["lag_seconds"], status["journal_applied"]
        self.score.copy_seconds = _seconds_of(status["snapshot"])
        outcome = await self._bridge("--json", "cutover", "--yes")
        self.stage.output(outcome.said)
        report = outcome.json()
        self.score.fence_seconds, self.score.steps = report["fence_seconds"], report["steps"]
        self.stage.say(
            f"{report['state']}; DPM was read-only for {report['fence_seconds']:.1f} s until the commit"
        )
        self.stage.say(f"writes refused by the fence so far: {writer.report.refused.total()}")
        await self._until_fenced(clients.report)
        self.stage.say(
            f"writes that the API has answered with 503 and Retry-After: {clients.report.refused}; "
            f"it goes on reading: {clients.report.read_meanwhile}"
        )

    async def _until_fenced(self, report: ClientReport) -> None:
        """The fence stays, so the users meet it if the API tells them, and read on."""
        refused, read = report.refused, report.read_meanwhile
        for _ in range(round(FENCED_SECONDS / POLL_SECONDS)):
            if report.refused > refused and report.read_meanwhile > read:
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _judge(self) -> None:
        self.stage.step(
            "Judge", "DPM stands still now, so both sides can be compared entry by entry and in number."
        )
        status = (await self._bridge("--json", "status")).json()
        entries, score = status["entries"], self.score
        score.source, score.mirrored = entries["source"], entries["mirrored"]
        score.quarantined, score.dropped_facts = status["quarantined"], status["dropped_facts"]
        await self._compare_everything()
        async with self.playground.postgres.connect(CHIMERA) as conn:
            score.acceptance = sorted(await acceptance_failures(conn))
        self.stage.say(
            f"{score.source} entries in DPM = {score.mirrored} in Chimera + {score.quarantined} quarantined"
        )
        self.stage.say(f"{score.compared} entries compared, {score.mismatches} mismatches")
        self.stage.say(f"acceptance queries on Chimera: {', '.join(score.acceptance) or 'all clean'}")

    async def _compare_everything(self) -> None:
        """`verify` refuses after the commit, because dCache may have written; here there is no dCache."""
        config = load(self.playground.config, os.environ)
        async with open_session(config) as session, session.mirror() as mirror:
            verifier = Verifier(mirror, range_entries=config.exporter.snapshot_range, settle=_settle)
            report = await verifier.run(kind="demo")
        self.score.compared = report.compared
        self.score.mismatches = report.missing + report.extra + report.different

    async def _link(self) -> None:
        self.stage.step(
            "Hard links",
            "The pool plan and the ids in Chimera lead to the real files. The links are made by this demo: "
            "this release of dome-bridge has no tool for the disk nodes yet.",
        )
        async with self.playground.postgres.connect(CHIMERA) as conn:
            located = await conn.fetch(LOCATED)
        pools = (await self._bridge("--json", "pools")).json()["pools"]
        disks = await asyncio.to_thread(Disks, pools, await self._replicas())
        await asyncio.to_thread(disks.link_all, [tuple(row) for row in located[:MAX_LINKS]])
        if len(located) > MAX_LINKS:
            self.stage.say(f"a sample: the first {MAX_LINKS} of {len(located)} locations")
        else:
            disks.expect_all_linked(except_for=await self._listed())
        self.score.links, self.score.bad_links = disks.links, disks.complaints
        self.score.without_file = disks.without_file
        self.stage.say(
            f"{disks.links} links made, each size checked with Chimera; {len(disks.complaints)} complaints"
        )
        self.stage.say(
            f"{disks.without_file} locations without a file of that size: random writer and rot are rows only"
        )
        for line in (disks.complaints or disks.examples)[:EXAMPLES]:
            self.stage.output(line)

    async def _listed(self) -> set[int]:
        """Fileids of which something is in the quarantine."""
        return {row["fileid"] for row in (await self._bridge("quarantine")).lines()}

    async def _replicas(self) -> list[tuple[Any, ...]]:
        async with connected(self.playground.maria) as conn, conn.cursor() as cursor:
            await cursor.execute(REPLICAS)
            return list(await cursor.fetchall())


async def _settle() -> None:
    """Nothing is under way that could be waited for."""


def _seconds_of(copy: Mapping[str, Any] | None) -> float:
    if not copy or not copy["finished_at"]:
        return 0.0
    began, ended = (datetime.fromisoformat(copy[key]) for key in ("started_at", "finished_at"))
    return (ended - began).total_seconds()


class Disks:
    """The disk nodes' directories: finds DPM's file for a location, and links it into the pool.

    A file counts as real if it is on disk in the size that DPM's catalog says. What the random
    writer adds, moves or resizes is not: it changes rows and has no disks.
    """

    def __init__(self, pools: Iterable[Mapping[str, Any]], replicas: Iterable[tuple[Any, ...]]) -> None:
        self._pools = {pool["name"]: pool for pool in pools}
        self._files: dict[tuple[int, str], Path] = {}
        for fileid, size, dpm_pool, host, sfn in replicas:
            path = Path(_text(sfn).partition(":")[2])
            if path.is_file() and path.stat().st_size == size:
                for pool in self._pools.values():
                    if _is_on(pool, _text(dpm_pool), _text(host), path):
                        self._files.setdefault((fileid, pool["name"]), path)
        self._linked: set[tuple[int, str]] = set()
        self.without_file = 0
        self.complaints: list[str] = []
        self.examples: list[str] = []

    @property
    def links(self) -> int:
        return len(self._linked)

    def link_all(self, located: Iterable[tuple[str, int, str]]) -> None:
        """located: pnfsid, size and pool, as Chimera has them."""
        for pnfsid, size, pool in located:
            fileid = int(pnfsid[20:], 16)
            path = self._files.get((fileid, pool))
            if path is None:
                self.without_file += 1
            elif path.stat().st_size != size:
                self.complaints.append(f"{pnfsid}: {size} bytes in Chimera, not so {path}")
            else:
                self._link(pnfsid, pool, path)
                self._linked.add((fileid, pool))

    def _link(self, pnfsid: str, pool: str, path: Path) -> None:
        link = Path(self._pools[pool]["path"]) / "data" / pnfsid
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(path)
        if not self.examples:
            self.examples = [f"{path}", f"= {link}"]

    def expect_all_linked(self, *, except_for: set[int]) -> None:
        """Every real file must have been found through Chimera, unless the quarantine says why not."""
        lost = {place for place in self._files.keys() - self._linked if place[0] not in except_for}
        self.complaints += [f"no link for fileid {fileid} in {pool}" for fileid, pool in sorted(lost)]


def _is_on(pool: Mapping[str, Any], dpm_pool: str, host: str, path: Path) -> bool:
    return (pool["dpm_pool"], pool["server"]) == (dpm_pool, host) and path.is_relative_to(pool["fs"])


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "surrogateescape")


def summary(score: Score, seconds: float) -> Table:
    """One row a fact, good ones in green."""
    table = Table(title="Summary", title_justify="left", show_header=False, expand=True)
    table.add_column(min_width=30)
    table.add_column()
    for name, value, good in _facts(score):
        style = {True: "green", False: "bold red", None: ""}[good]
        table.add_row(name, Text(value, style=style))
    table.add_section()
    for step in score.steps:
        table.add_row(f"step {step['name']}", f"{step['seconds']:.2f} s")
    table.add_section()
    verdict = "source and target agree" if score.ok else "NOT GOOD: see the red lines"
    table.add_row(verdict, f"in {seconds:.0f} s, building the site included")
    return table


def _facts(score: Score) -> Iterable[tuple[str, str, bool | None]]:
    agrees = score.source == score.mirrored + score.quarantined
    yield "source entries", f"{score.source}", None
    yield "mirrored", f"{score.mirrored}", agrees
    yield "quarantined", f"{score.quarantined} entries, and {score.dropped_facts} single facts", agrees
    yield "mismatches", f"{score.mismatches} of {score.compared} compared", score.mismatches == 0
    yield "acceptance queries", ", ".join(score.acceptance) or "all clean", not score.acceptance
    yield "first copy", f"{score.copy_seconds:.0f} s, under load", None
    writes = f"{score.operations} SQL operations, {score.api.taken} API writes"
    yield "changes followed", f"{score.changes} journal rows, of {writes}", None
    yield (
        "lag before the fence",
        "unknown" if score.lag is None else f"{score.lag:.0f} s",
        score.lag is not None,
    )
    yield "fence", f"{score.fence_seconds:.2f} s; {score.refused} writes with SQL refused", None
    yield from _api_facts(score)
    complaints = f", {len(score.bad_links)} complaints" if score.bad_links else ""
    yield "links made (by the demo)", f"{score.links}{complaints}", score.links > 0 and not score.bad_links


def _api_facts(score: Score) -> Iterable[tuple[str, str, bool | None]]:
    api = score.api
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(api.by_status.items()))
    yield "DOME API, requests", f"{api.requests} ({statuses})", api.requests > 0
    yield "answers unknown to DOME", "; ".join(api.complaints[:EXAMPLES]) or "none", not api.complaints
    yield "writes through the API", f"{api.taken}; {api.files_removed} files removed from disk", api.taken > 0
    fenced = f"{api.refused} writes; {api.read_meanwhile} reads answered meanwhile"
    yield "refused by the fence with 503", fenced, score.fence_ok


def banner(playground: Playground, stage: Stage) -> None:
    site = playground.site
    stage.say(
        f"{site.files} files, {site.directories} directories, {site.symlinks} symbolic links, "
        f"{site.replicas} replicas on {len(site.filesystems)} file systems"
    )
    stage.say(f"everything is in {playground.directory} and will be deleted")
    stage.say("every command below is run with the configuration that is there")


async def demo(files: int, console: Console) -> int:
    """Plays it; 0 only if both sides agree and dCache could take over."""
    begun = time.monotonic()
    stage = Stage(console)
    async with AsyncExitStack() as stack:
        with console.status(f"making a site of {files} files on private, throw-away servers"):
            playground = await stack.enter_async_context(open_playground(files))
        console.print(Text("A made-up DPM site, and an empty Chimera of dCache 10.2"))
        banner(playground, stage)
        try:
            score = await Demo(playground, stage).run()
        except CommandError as exc:
            console.print(Text(f"{exc}", style="bold red"))
            return 1
    console.print()
    console.print(summary(score, time.monotonic() - begun))
    return 0 if score.ok else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run demo", description=__doc__)
    parser.add_argument("--files", type=site_size, default=2000, help="size of the site (default 2000)")
    terminal = Console()
    width = min(WIDTH, terminal.width) if terminal.is_terminal else WIDTH
    console = Console(width=width, highlight=False)
    try:
        return play(demo(parser.parse_args().files, console))
    except SandboxError as exc:
        console.print(Text(f"{exc}", style="bold red"))
        return 2


if __name__ == "__main__":
    sys.exit(main())
