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
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pymysql
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from dome_bridge.config import load
from dome_bridge.exporter.session import open_session
from dome_bridge.exporter.verify import Verifier
from sandbox import operations as op
from sandbox.acceptance import acceptance_failures
from sandbox.api_clients import ApiWriter, ClientReport
from sandbox.bulk import connected
from sandbox.demo_score import Score, summary
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
from sandbox.pool_links import DiskServer, PoolLinks, Said
from sandbox.servers import SandboxError
from sandbox.writer import TAME, CatalogWriter

WIDTH = 100
FOLLOW_SECONDS = 3.0
PATIENCE_SECONDS = 300.0
EXAMPLES = 3
FENCED_SECONDS = 10.0
FRESH = 3.0
"""Seconds of lag."""

LOCATED = """
SELECT n.ipnfsid, n.isize, l.ilocation AS pool, c.isum FROM t_inodes n
  JOIN t_locationinfo l ON l.inumber = n.inumber AND l.itype = 1
  LEFT JOIN t_inodes_checksum c ON c.inumber = n.inumber AND c.itype = 1
 WHERE n.itype = 32768 ORDER BY n.inumber, l.ilocation"""
REPLICAS = f"""
SELECT r.fileid, m.filesize, r.poolname, r.host, r.sfn, m.csumvalue, m.xattr
  FROM {CNS}.Cns_file_replica r JOIN {CNS}.Cns_file_metadata m ON m.fileid = r.fileid
 WHERE r.status = '-' ORDER BY r.rowid"""
WRITE = f"UPDATE {CNS}.Cns_file_metadata SET mtime = mtime + 1 WHERE fileid = 1"


CUTOVER_OPTIONS = ("--yes", "--wait-uploads", "3")
"""The random writer leaves uploads that never end."""

TOKEN = re.compile(r"(?:--accept|it is) (\d+:\w+)")
"""Of the quarantine, in a gate or in a refusal."""

ATTEMPTS = 5

ORDERLY: Mapping[op.Operation, float] = {
    operation: TAME[operation]
    for operation in (
        *(op.finish_abandoned_upload, op.drain_replica, op.touch_replica, op.count_access),
        *(op.chmod, op.set_acl, op.clear_acl, op.utime, op.touch_access_time),
        *(op.change_checksum, op.change_legacy_checksum, op.change_xattr, op.set_guid, op.set_comment),
        *(op.change_directory_size, op.recompute_directory_sizes, op.correct_link_count),
        *(op.new_user, op.new_group, op.set_token, op.change_token),
    )
}
"""Changes that neither make rot nor mend it: that would ask again whether the quarantine is accepted."""


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
        async with self.playground.daemon() as daemon, self.playground.clients() as clients:
            async with self.playground.writer() as writer:
                await self._copy(daemon)
                await self._follow(writer, clients)
                await self._verify()
                await self._pools()
                await self._link()
                await self._quarantine()
            clients.end_transfers()
            async with self.playground.writer(weights=ORDERLY, seed=2) as orderly:
                await self._rehearse()
                await self._accepting(self._rehearse_abort)
                await self._accepting(partial(self._cut_over, orderly, clients))
        self.score.operations = writer.report.attempted + orderly.report.attempted
        self.score.refused = writer.report.refused.total() + orderly.report.refused.total()
        self.score.api = clients.report
        await self._judge()
        await self._judge_links()
        await self._roll_back()
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
        pools = await self._planned()
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

    async def _rehearse(self) -> None:
        self.stage.step(
            "Rehearse", "All of the cutover that changes nothing, on the live site, judged by its gates."
        )
        found = (await self._bridge("--json", "rehearse", wanted=1)).json()
        for gate in found["gates"]:
            self.stage.output(f"{'yes' if gate['ok'] else 'NO '}  {gate['id']:19}  {gate['message']}")
        self.score.predicted_fence = found["predicted_fence_seconds"]
        self.stage.say(f"predicted: the fence stands for {self.score.predicted_fence:.1f} s")
        self.stage.say("what is left out must be accepted, by its number and its hash:")
        await self._accept(next(gate["message"] for gate in found["gates"] if not gate["ok"]))

    async def _accept(self, message: str) -> None:
        """As often as it changes in between."""
        for _ in range(ATTEMPTS):
            if not (told := TOKEN.findall(message)):
                break
            try:
                await self._bridge("quarantine", "--accept", told[-1])
                return
            except CommandError as exc:
                message = str(exc)
        raise CommandError(message)

    async def _accepting(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """What is left out anew makes the gate ask again; then it is accepted, too."""
        for _ in range(ATTEMPTS):
            try:
                return await attempt()
            except CommandError as exc:
                await self._accept(str(exc))
        raise CommandError(f"the quarantine has changed {ATTEMPTS} times while the cutover was begun")

    async def _rehearse_abort(self) -> None:
        self.stage.step(
            "Rehearse the way back", "A cutover is killed (SIGKILL) just before its commit, then taken back."
        )
        postponed = self.playground.config.with_name("postpone-the-commit")
        postponed.touch()
        command = ("cutover", *CUTOVER_OPTIONS, "--postpone-file", str(postponed))
        self.stage.command(*command, "&")
        process = await self.playground.start(*command)
        try:
            await self._until_rechecked(process)
            await self._try_to_write()
        finally:
            await end(process, signal.SIGKILL)
            postponed.unlink()
        self.stage.say("the cutover is killed; its fence still stands")
        aborted = (await self._bridge("--json", "cutover", "--abort")).json()
        self.stage.say(f"{aborted['state']} after a fence of {aborted['fence_seconds']:.1f} s")
        await self._try_to_write()

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
        status = await self._status()
        self.score.lag, self.score.changes = status["lag_seconds"], status["journal_applied"]
        self.score.copy_seconds = _seconds_of(status["snapshot"])
        outcome = await self._bridge("--json", "cutover", *CUTOVER_OPTIONS)
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

    async def _status(self) -> dict[str, Any]:
        """As the daemon's listener says it."""
        if (status := await self.playground.status()) is None:
            raise CommandError(f"the daemon does not answer: {self.playground.daemon_words()}")
        return status

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
            "Beside each of DPM's files a link is made in a pool directory, while DPM serves. What has to be "
            "there comes from `links`, made it is by `dpm-pool-link` on each disk server.",
        )
        for name in self._servers():
            said = await self._link_on(name)
            self.stage.say(f"{name}: {said.words.splitlines()[0].partition(': links: ')[2]}")

    async def _planned(self) -> list[dict[str, Any]]:
        """Servers that the random writer adds do not answer, which is an error of the plan."""
        self.stage.command("--json", "pools")
        process = await self.playground.start("--json", "pools")
        output, said = await process.communicate()
        if process.returncode not in (0, 1):
            raise CommandError(f"`dome-bridge pools` ended with code {process.returncode}: {said.decode()}")
        return list(json.loads(output)["pools"])

    def _servers(self) -> list[str]:
        """Those that have disks here; the random writer adds others."""
        return sorted({place.server for place in self.playground.site.filesystems})

    async def _link_on(self, name: str) -> Said:
        server = self._disk_server(name)
        since = await server.cursor()
        feed = await self._bridge("links", "--server", name, *(["--since", since] if since else []))
        return await server.link(feed.output)

    def _disk_server(self, name: str) -> DiskServer:
        return DiskServer(name, self.playground.directory / "links" / name)

    async def _judge_links(self) -> None:
        self.stage.step(
            "The last links",
            "Only what changed since is left to do. Then size and adler32 of each are compared with Chimera.",
        )
        for name in self._servers():
            said = await self._link_on(name)
            self.stage.say(f"{name}: {said.words.splitlines()[0].partition(': links: ')[2]}")
        async with self.playground.postgres.connect(CHIMERA) as conn:
            located = [tuple(row) for row in await conn.fetch(LOCATED)]
        pools = await self._planned()
        links = await asyncio.to_thread(PoolLinks, pools, await self._replicas())
        await asyncio.to_thread(links.look, located)
        links.expect_no_other(located)
        links.expect_all_linked(except_for=await self._listed())
        self.score.links, self.score.summed, self.score.bad_links = (
            links.links,
            links.summed,
            links.complaints,
        )
        self.score.without_file = links.without_file
        self.stage.say(
            f"{links.links} links, each of the size that Chimera says; adler32 computed and equal for "
            f"{links.summed}; {len(links.complaints)} complaints"
        )
        self.stage.say(
            f"{links.without_file} locations without a file of that size: random writer and rot are rows only"
        )
        for line in (links.complaints or links.examples)[:EXAMPLES]:
            self.stage.output(line)

    async def _roll_back(self) -> None:
        self.stage.step(
            "Roll back",
            "dCache has written nothing yet, as Chimera's data show: so the commit can be taken back.",
        )
        self.stage.output((await self._bridge("rollback", "--yes")).output)
        await self._try_to_write()
        self.stage.command("run", "&")
        async with self.playground.daemon() as daemon:
            async for status in self._statuses(daemon):
                if status["phase"] == "following" and (status["lag_seconds"] or FRESH) < FRESH:
                    break
            self.stage.say(f"phase {status['phase']}, {status['lag_seconds']:.0f} s behind")
            report = (await self._bridge("--json", "verify")).json()
        self.score.returned = report["missing"] + report["extra"] + report["different"] == 0
        self.stage.say(f"compared {report['compared']} entries, with what was written since")

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
