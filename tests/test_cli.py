"""The command line as scripts and people meet it: keys and types, exit codes, words, questions."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dome_bridge import __version__
from dome_bridge.chimera.quarantine import REASONS
from dome_bridge.chimera.state import Phase
from dome_bridge.config import load
from dome_bridge.dpm.source import Source
from dome_bridge.exporter.findings import Severity
from dome_bridge.exporter.initialise import initialise
from dome_bridge.exporter.journal import JOURNAL_TABLE, Journal
from dome_bridge.exporter.service import sync_once
from sandbox.catalog import Site, make_site
from sandbox.servers import MariaServer, free_port
from sandbox.site import SiteOptions
from tests.fixtures.command import PROJECT, Bridge, Finished, assert_tidy, bridge_for, until
from tests.fixtures.databases import DpmSite
from tests.fixtures.source import dpm_config

FILES = 150

COUNTS = ("compared", "missing", "extra", "different", "repaired")

Shape = Mapping[str, Any]
NUMBER = (int, float)

CHECK: Shape = {"ok": bool, "findings": list}
FINDING: Shape = {"id": str, "severity": str, "message": str, "remedy": str, "count": int}
INIT: Shape = {"instance_id": str, "inumber_offset": int, "chimera_version": str, "already": bool}
SYNC: Shape = {
    "snapshot": {"entries": int, "seconds": float},
    "journal_applied": int,
    "quarantined": int,
    "phase": str,
}
UNKNOWN_STATUS: Shape = {
    "phase": str,
    "lag_seconds": None,
    "journal_backlog": None,
    "entries": {"source": None, "mirrored": None},
    "quarantined": None,
    "dropped_facts": None,
    "verify": {"last_clean": None, "mismatches": None},
    "cutover": None,
}
STATUS: Shape = {
    "phase": str,
    "lag_seconds": float,
    "journal_backlog": int,
    "entries": {"source": int, "mirrored": int},
    "quarantined": int,
    "dropped_facts": int,
    "verify": {"last_clean": str, "mismatches": int},
    "cutover": None,
}
VERIFY: Shape = {**dict.fromkeys(COUNTS, int), "seconds": float, "examples": list}
QUARANTINE: Shape = {
    "fileid": int,
    "path": str,
    "scope": str,
    "reason": str,
    "detail": str,
    "first_seen": str,
    "last_seen": str,
}
POOL: Shape = {
    **dict.fromkeys(("name", "server", "fs", "dpm_pool", "path"), str),
    **dict.fromkeys(("files", "bytes"), int),
    **dict.fromkeys(("size", "free"), None),
    "findings": list,
}
CUTOVER: Shape = {"state": str, "fence_seconds": NUMBER, "steps": list, "reason": str}
STEP: Shape = {"name": str, "seconds": NUMBER}


def assert_shape(value: Mapping[str, Any], shape: Shape, *, exact: bool = False) -> None:
    """Every key is there with its type; None stands for null, and only `exact` forbids further keys."""
    assert set(shape) <= set(value)
    assert not exact or set(shape) == set(value)
    for key, kind in shape.items():
        if isinstance(kind, Mapping):
            assert_shape(value[key], kind)
        elif kind is None:
            assert value[key] is None, key
        else:
            kinds = kind if isinstance(kind, tuple) else (kind,)
            assert type(value[key]) in kinds, f"{key}: {value[key]!r}"


def assert_for_people(done: Finished, *words: str) -> None:
    """Says these words, and shows nothing of Python."""
    assert_tidy(done.out + done.err)
    shown = re.search(r"\bNone\b|\bTrue\b|\bFalse\b|\{'|\[\(|\bb'|<\w+[. ]|\b\w+\(\w+=", done.out + done.err)
    assert not shown, f"{shown} in {done.out} {done.err}"
    assert done.out.strip()
    for word in words:
        assert word in done.out


def only_line(done: Finished) -> str:
    """The one line on standard error of a command that prints nothing else."""
    assert done.out == ""
    [line] = done.err.splitlines()
    return line


@dataclass(frozen=True)
class Place:
    """A site with rot in it, its two databases at hand."""

    bridge: Bridge
    made: Site
    dpm_site: DpmSite
    conn: asyncpg.Connection

    async def write(self, statement: str, *args: object) -> int:
        """As DPM writes."""
        async with await Source.connect(dpm_config(self.dpm_site)) as source:
            return await source.execute(statement, args)

    async def beat(self) -> None:
        async with await Source.connect(dpm_config(self.dpm_site)) as source:
            await Journal(source).write_heartbeat()

    async def traces(self) -> tuple[int, int, bool]:
        """What `init` leaves: triggers, journal tables, and whether the state exists."""
        async with await Source.connect(dpm_config(self.dpm_site)) as source:
            schemas = (source.cns_name, source.dpm_name)
            triggers = await source.fetchval(
                "SELECT COUNT(*) FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA IN %s", (schemas,)
            )
            tables = await source.fetchval(
                "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA IN %s AND TABLE_NAME = %s",
                (schemas, JOURNAL_TABLE),
            )
        state = await self.conn.fetchval("SELECT to_regclass('dome_bridge.site') IS NOT NULL")
        return int(triggers), int(tables), bool(state)


@pytest.fixture
async def place(
    maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str, tmp_path: Path
) -> AsyncIterator[Place]:
    """Nothing has been done with it yet."""
    made = await make_site(maria, dpm_site.cns, dpm_site.dpm, SiteOptions(files=FILES), rotten=True)
    conn = await asyncpg.connect(chimera_dsn)
    try:
        async with bridge_for(tmp_path, dpm_site, chimera_dsn) as bridge:
            yield Place(bridge, made, dpm_site, conn)
    finally:
        await conn.close()


@pytest.fixture
async def copied(place: Place) -> Place:
    """After `init` and `sync --once`, one heartbeat applied; no daemon runs."""
    config = load(place.bridge.file, {})
    await initialise(config)
    await place.beat()
    await sync_once(config, advance=lambda step, entries, expected: None)
    return place


async def run_program(*command: str) -> tuple[int | None, str, str]:
    """Exit code, output and errors; the program is that of this working tree."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


# --- before init


async def test_check_shows_a_rotten_catalog_as_warnings_and_ends_with_0(place: Place) -> None:
    done = await place.bridge("check")
    assert (done.code, done.err) == (0, "")
    assert_shape(done.json, CHECK, exact=True)
    assert done.json["ok"] is True
    for finding in done.json["findings"]:
        assert_shape(finding, FINDING, exact=True)
        assert finding["severity"] in {severity.value for severity in Severity}
    shown = await place.bridge("check", "--no-forecast", as_json=False)
    assert shown.code == 0
    assert_for_people(shown, "severity", "remedy", "source-size", "run `dome-bridge init`")
    assert await place.traces() == (0, 0, False)


async def test_check_with_an_error_ends_with_1_and_shows_text_in_brackets(
    place: Place, maria: MariaServer
) -> None:
    await maria.execute(
        "CREATE TRIGGER `[site]` AFTER INSERT ON Cns_symlinks FOR EACH ROW SET @a = 1",
        database=place.dpm_site.cns,
    )
    done = await place.bridge("check", "--no-forecast")
    assert done.code == 1
    assert done.json["ok"] is False
    errors = [finding["id"] for finding in done.json["findings"] if finding["severity"] == "error"]
    assert errors == ["source-foreign-triggers"]
    shown = await place.bridge("check", "--no-forecast", as_json=False)
    assert shown.code == 1
    assert_for_people(shown, "error", "source-foreign-triggers", "[site] on")


async def test_site_before_init_is_uninitialised_and_other_commands_name_init(place: Place) -> None:
    done = await place.bridge("status")
    assert done.code == 0
    assert_shape(done.json, UNKNOWN_STATUS)
    assert done.json["phase"] == "uninitialised"
    assert_for_people(await place.bridge("status", as_json=False), "uninitialised")
    probed = await place.bridge("status", "--nagios")
    assert probed.code == 3
    assert probed.out.startswith("DOME-BRIDGE UNKNOWN - uninitialised: run `dome-bridge init` first | lag=")
    needing = (("sync", "--once"), ("verify",), ("quarantine",), ("cutover", "--yes"), ("run",))
    for done in await asyncio.gather(*(place.bridge(*arguments) for arguments in needing)):
        assert done.code == 2
        assert "run `dome-bridge init` first" in only_line(done)


# --- init and sync


async def test_second_init_changes_nothing_and_says_so(place: Place) -> None:
    first = await place.bridge.good("init")
    assert_shape(first, INIT, exact=True)
    assert first["already"] is False
    assert re.fullmatch("[0-9A-F]{16}", first["instance_id"])
    traces = await place.traces()
    assert traces[0] > 0
    assert traces[1:] == (1, True)
    assert await place.bridge.good("init") == {**first, "already": True}
    shown = await place.bridge("init", as_json=False)
    assert shown.code == 0
    assert_for_people(shown, first["instance_id"])
    assert re.search(r"already +yes", shown.out)
    assert await place.traces() == traces


async def test_verify_before_the_first_copy_names_what_makes_it(place: Place) -> None:
    await place.bridge.good("init")
    done = await place.bridge("verify")
    assert done.code == 2
    assert "sync --once" in only_line(done)


async def test_second_sync_copies_nothing_and_applies_what_changed(place: Place) -> None:
    await initialise(load(place.bridge.file, {}))
    shown = await place.bridge("sync", "--once", as_json=False)
    assert (shown.code, shown.err) == (0, "")
    assert_for_people(shown, "entries in", "following")
    again = await place.bridge.good("sync", "--once")
    assert_shape(again, SYNC, exact=True)
    assert (again["snapshot"]["entries"], again["journal_applied"], again["phase"]) == (0, 0, "following")
    assert again["quarantined"] > 0
    await place.write(
        "UPDATE Cns_file_metadata SET mtime = mtime + 1 WHERE fileid = %s", place.made.last_fileid
    )
    assert await place.bridge.good("sync", "--once") == {**again, "journal_applied": 1}


async def test_first_sync_says_how_much_it_copied(place: Place) -> None:
    await initialise(load(place.bridge.file, {}))
    first = await place.bridge("-v", "sync", "--once")
    assert first.code == 0
    assert_shape(first.json, SYNC, exact=True)
    assert first.json["snapshot"]["entries"] >= place.made.entries
    assert re.search(r"^\S+ \S+ INFO dome_bridge\.\S+: snapshot finished entries=\d+", first.err, re.M)
    assert_tidy(first.err)
    assert place.dpm_site.password not in first.err


# --- looking at a copied site


async def test_status_of_a_copied_site_has_all_numbers(copied: Place) -> None:
    await copied.bridge.good("verify")
    done = await copied.bridge("status")
    assert (done.code, done.err) == (0, "")
    assert_shape(done.json, STATUS)
    found = done.json
    assert found["phase"] in {phase.value for phase in Phase}
    assert found["entries"]["source"] == found["entries"]["mirrored"] + found["quarantined"]
    assert found["journal_backlog"] == 0
    assert datetime.fromisoformat(found["verify"]["last_clean"]).tzinfo is not None
    shown = await copied.bridge("status", as_json=False)
    assert shown.code == 0
    assert_for_people(shown, "following since", "in quarantine", "last clean verify")


async def test_quarantine_is_an_object_a_line_with_valid_paths(copied: Place) -> None:
    done = await copied.bridge("quarantine")
    assert (done.code, done.err) == (0, "")
    for row in done.lines:
        assert_shape(row, QUARANTINE, exact=True)
        assert row["scope"] in REASONS[row["reason"]].scopes
        assert row["path"].startswith(("/", "?/"))
        assert datetime.fromisoformat(row["first_seen"]) <= datetime.fromisoformat(row["last_seen"])
    fileids = [row["fileid"] for row in done.lines]
    assert fileids == sorted(fileids)
    left_out = {row["fileid"] for row in done.lines if row["scope"] == "entry"}
    assert len(left_out) == (await copied.bridge.good("status"))["quarantined"]
    assert (await copied.bridge("quarantine", as_json=False)).out == done.out


async def test_pools_of_a_site_have_names_directories_and_contents(copied: Place) -> None:
    done = await copied.bridge("pools")
    assert done.code == 0
    pools = done.json["pools"]
    assert len({pool["name"] for pool in pools}) == len(copied.made.filesystems)
    for pool in pools:
        assert_shape(pool, POOL, exact=True)
        assert pool["path"].startswith(pool["fs"])
        for finding in pool["findings"]:
            assert_shape(finding, FINDING, exact=True)
    shown = await copied.bridge("pools", as_json=False)
    assert shown.code == 0
    assert_for_people(shown, "DPM pool", pools[0]["name"], "pool-shared-filesystem")


async def test_pools_with_an_unusable_file_system_end_with_1(copied: Place) -> None:
    assert await copied.write(
        f"UPDATE `{copied.dpm_site.dpm}`.dpm_fs SET fs = '[/srv' WHERE poolname = 'data' LIMIT 1"
    )
    done = await copied.bridge("pools")
    assert done.code == 1
    assert "error" in {finding["severity"] for pool in done.json["pools"] for finding in pool["findings"]}
    shown = await copied.bridge("pools", as_json=False)
    assert shown.code == 1
    assert_for_people(shown, "[/srv")


# --- verify


async def damage(place: Place) -> None:
    """One entry is missing in Chimera and another one differs."""
    sizes = "SELECT inumber FROM t_inodes WHERE itype = 32768 AND inumber > 1000000 ORDER BY 1"
    changed, missing = [row[0] for row in await place.conn.fetch(f"{sizes} LIMIT 2")]
    await place.conn.execute("UPDATE t_inodes SET isize = isize + 1 WHERE inumber = $1", changed)
    await place.conn.execute("DELETE FROM t_dirs WHERE ichild = $1", missing)
    await place.conn.execute("DELETE FROM t_inodes WHERE inumber = $1", missing)


async def test_verify_finds_damage_twice_the_same_and_repair_ends_it(copied: Place) -> None:
    bridge = copied.bridge
    await damage(copied)
    found = await bridge("verify")
    assert (found.code, found.err) == (1, "")
    assert_shape(found.json, VERIFY)
    assert found.json["missing"] == 1
    assert found.json["different"] >= 1
    assert (found.json["extra"], found.json["repaired"]) == (0, 0)
    shown = await bridge("verify", as_json=False)
    assert shown.code == 1
    assert_for_people(shown, "missing fileid", "different fileid")
    again = await bridge("verify")
    assert again.code == 1
    assert counts_of(again) == counts_of(found)
    repaired = await bridge("verify", "--repair")
    assert repaired.code == 0, repaired.out
    assert repaired.json["repaired"] == found.json["missing"] + found.json["different"]
    clean = [await bridge("verify") for _ in range(2)]
    assert [done.code for done in clean] == [0, 0]
    assert counts_of(clean[0]) == counts_of(clean[1])
    assert counts_of(clean[0])[1:] == [0, 0, 0, 0]
    assert clean[0].json["examples"] == []


def counts_of(done: Finished) -> list[int]:
    return [done.json[key] for key in COUNTS]


# --- nagios


async def nagios(place: Place) -> tuple[int, str]:
    done = await place.bridge("status", "--nagios")
    [line] = done.out.splitlines()
    return done.code, line


async def test_nagios_is_ok_while_the_daemon_follows_and_it_ends_with_0(copied: Place) -> None:
    daemon = copied.bridge.start("run")
    await daemon.logged("verify finished")
    code, line = await nagios(copied)
    assert (code, line[:27]) == (0, "DOME-BRIDGE OK - following:")
    assert re.search(r" \| lag=\d+s;30;300;0 backlog=\d+;;;0 source=\d+;;;0 mirrored=\d+;", line)
    daemon.terminate()
    done = await daemon.wait(20)
    assert (done.code, done.out) == (0, "")
    assert_tidy(done.err)


async def test_nagios_tells_lag_and_no_daemon_and_mismatches(copied: Place) -> None:
    conn = copied.conn
    await conn.execute("UPDATE dome_bridge.progress SET heartbeat_at = heartbeat_at - 100")
    assert (await nagios(copied))[0] == 1
    await conn.execute("UPDATE dome_bridge.progress SET heartbeat_at = heartbeat_at - 1000")
    code, line = await nagios(copied)
    assert code == 2
    assert re.search("the mirror is 11[0-9][0-9] s behind", line)
    await conn.execute("UPDATE dome_bridge.progress SET heartbeat_at = NULL")
    code, line = await nagios(copied)
    assert code == 1
    assert "is `dome-bridge run` running?" in line
    await damage(copied)
    assert (await copied.bridge("verify")).code == 1
    code, line = await nagios(copied)
    assert code == 1
    assert "2 mismatches; `dome-bridge verify --repair`" in line


async def test_nagios_is_critical_without_dpm_and_unknown_without_chimera_or_settings(
    copied: Place,
) -> None:
    gone = f"postgresql://dcache@127.0.0.1:{free_port()}/chimera"
    copied.bridge.configure({"dpm": {"port": free_port()}})
    code, line = await nagios(copied)
    assert (code, line[:20]) == (2, "DOME-BRIDGE CRITICAL")
    assert "DPM's database cannot be reached" in line
    copied.bridge.configure({"dpm": {"port": free_port()}, "chimera": {"dsn": gone}})
    code, line = await nagios(copied)
    assert (code, line[:19]) == (3, "DOME-BRIDGE UNKNOWN")
    assert "is PostgreSQL running" in line
    copied.bridge.configure({"dpm": {"hots": "head.example.org"}})
    code, line = await nagios(copied)
    assert (code, line[:19]) == (3, "DOME-BRIDGE UNKNOWN")
    assert "did you mean dpm.host?" in line


# --- cutover and complete


async def test_cutover_refused_by_gates_names_them_and_leaves_no_trace(copied: Place) -> None:
    await copied.conn.execute(
        "INSERT INTO t_locationinfo_trash (ipnfsid, itype, ilocation, ipriority, ictime, iatime, istate)"
        " VALUES (repeat('A', 36), 1, 'pool', 10, now(), now(), 1)"
    )
    done = await copied.bridge("cutover", "--yes")
    assert done.code == 1
    line = only_line(done)
    assert "trash-empty: 1 rows of t_locationinfo_trash" in line
    assert "verify-clean: there was no verify yet: run `dome-bridge verify`" in line
    assert "snapshot-complete" not in line
    assert (await copied.bridge.good("status"))["cutover"] is None
    undone = await copied.bridge("cutover", "--abort")
    assert undone.code == 0
    assert_shape(undone.json, CUTOVER)
    assert undone.json["state"] == "aborted"
    shown = await copied.bridge("cutover", "--abort", as_json=False)
    assert shown.code == 0
    assert_for_people(shown, "fence in all", "aborted: there was no cutover under way")


async def test_cutover_asks_then_commits_and_complete_removes_everything(copied: Place) -> None:
    bridge = copied.bridge
    await bridge.good("verify")
    await bridge.accept_quarantine()
    asked = await bridge("cutover", answer="n\n")
    assert (asked.code, asked.out) == (1, "")
    assert "snapshot-complete: " in asked.err
    assert "Go on? [y/N]: dome-bridge: the cutover was not confirmed; nothing was done" in asked.err
    declined = await bridge("cutover", answer="y\nn\n")
    assert (declined.code, declined.json["state"]) == (1, "aborted")
    assert "DPM is read-only. Commit? [y/N]: " in declined.err
    assert declined.json["reason"] == "decide: the commit was declined"
    done = await bridge("cutover", answer="y\ny\n")
    assert done.code == 0, done.err
    assert (Path(done.json["artifacts"]) / "report.md").exists()
    assert_shape(done.json, CUTOVER)
    assert done.json["state"] == "committed"
    for step in done.json["steps"]:
        assert_shape(step, STEP, exact=True)
    status = await bridge.good("status")
    assert (status["phase"], status["cutover"]["state"]) == ("committed", "committed")
    assert_for_people(await bridge("status", as_json=False), "committed", "raise-fence")
    assert (await nagios(copied))[0] == 0
    over = (("sync", "--once"), ("verify",), ("cutover", "--abort"))
    for refused in await asyncio.gather(*(bridge(*arguments) for arguments in over)):
        assert refused.code == 2
        assert "the cutover is committed" in only_line(refused)
    given_up = await bridge("complete", "--abandon", "--yes")
    assert given_up.code == 2
    assert "run `complete` without --abandon" in given_up.err
    completed = await bridge("complete", "--yes")
    assert completed.code == 0
    assert_shape(completed.json, {"removed": list}, exact=True)
    triggers, tables, state = await copied.traces()
    assert triggers > 0, "the fence stays"
    assert (tables, state) == (0, False)


async def test_complete_asks_and_before_a_commit_wants_abandon(copied: Place) -> None:
    bridge = copied.bridge
    traces = await copied.traces()
    declined = await bridge("complete", "--abandon", answer="n\n")
    assert declined.code == 1
    assert f"- the table {JOURNAL_TABLE} in {copied.dpm_site.cns}\n" in declined.err
    assert declined.err.endswith("dome-bridge: not confirmed; nothing was removed\n")
    refused = await bridge("complete", "--yes")
    assert refused.code == 2
    assert "dome-bridge complete --abandon" in only_line(refused)
    assert await copied.traces() == traces
    done = await bridge("complete", "--abandon", answer="y\n")
    assert done.code == 0
    assert len(done.json["removed"]) == 4
    assert await copied.traces() == (0, 0, False)
    assert (await bridge.good("status"))["phase"] == "uninitialised"


async def test_complete_refuses_while_the_daemon_runs(copied: Place) -> None:
    daemon = copied.bridge.start("run")
    await daemon.logged("verify finished")
    refused = await copied.bridge("complete", "--abandon", "--yes")
    assert refused.code == 2
    assert "systemctl stop dome-bridge" in refused.err
    synced = await copied.bridge("sync", "--once")
    assert synced.code == 2
    assert "stop the daemon" in only_line(synced)
    await until(lambda: daemon.is_running, 1, "the daemon goes on")


# --- the program itself


async def test_check_config_says_which_file_was_read(place: Place) -> None:
    assert await place.bridge.good("check-config") == {"ok": True, "file": str(place.bridge.file)}
    shown = await place.bridge("check-config", as_json=False)
    assert (shown.code, shown.out) == (0, f"good: {place.bridge.file}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("sync",),
        ("verify", "--bogus"),
        ("run", "--only", "head"),
        ("status", "extra"),
        (),
    ],
    ids=lambda arguments: " ".join(arguments) or "nothing",
)
async def test_wrong_usage_ends_with_2_and_shows_the_usage(arguments: tuple[str, ...]) -> None:
    code, out, err = await run_program(sys.executable, "-m", "dome_bridge", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: dome-bridge ")
    assert_tidy(err)


@pytest.mark.parametrize(
    "arguments", [("--version",), ("--help",), ("sync",), ("--config", "/none", "status")]
)
async def test_module_and_console_script_are_the_same_program(arguments: tuple[str, ...]) -> None:
    script = shutil.which("dome-bridge", path=sysconfig.get_path("scripts"))
    assert script is not None, "install the project into this environment: pip install -e ."
    by_name, by_module = await asyncio.gather(
        run_program(script, *arguments), run_program(sys.executable, "-m", "dome_bridge", *arguments)
    )
    assert by_name == by_module
    if arguments == ("--version",):
        assert by_name == (0, f"dome-bridge, version {__version__}\n", "")
