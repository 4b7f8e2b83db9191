"""`check`: whether a site can be migrated, and what it would find out on the way. Read only.

Each look yields findings under ids that stay the same; docs/reference/checks.md has them all
(`python -m dome_bridge.exporter.check` prints its table). A database that is out of reach or
not of the right kind is no finding but an error, as everywhere. A rotten catalog is a warning:
it costs entries, not the migration.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from dome_bridge.chimera import state, target
from dome_bridge.chimera.quarantine import REASONS
from dome_bridge.chimera.space_plan import LeftOutReason, plain_path
from dome_bridge.chimera.state import Site
from dome_bridge.config import Config
from dome_bridge.dpm import small_tables
from dome_bridge.dpm.grants import (
    Need,
    current_account,
    grant_statements,
    missing_rights,
    read_grants,
)
from dome_bridge.dpm.source import AccessError, Source
from dome_bridge.dpm.xattr import DELETION_MARK
from dome_bridge.errors import PrivilegeError, StateError
from dome_bridge.exporter import (
    capture,
    fence,
    forecast,
    gate_findings,
    pool_plan,
    space_findings,
    space_survey,
    triggers,
)
from dome_bridge.exporter.capture import CaptureStatus
from dome_bridge.exporter.directory_sizes import directory_sizes
from dome_bridge.exporter.disk_answers import DiskServers
from dome_bridge.exporter.findings import Finding, Severity
from dome_bridge.exporter.forecast import Advance, Foreseen
from dome_bridge.exporter.session import Databases, admin_source, open_databases
from dome_bridge.statements import load

logger = logging.getLogger(__name__)

_SQL = load("dome_bridge.chimera", "check.sql")

CHECKS: Mapping[str, str] = MappingProxyType(
    {
        "source": "what DPM's database server and schemas are",
        "source-sql-mode": "the server's sql_mode, which our triggers run under",
        "source-size": "rows and bytes of the catalog; room that Chimera will need",
        "source-unique-names": "the catalog lacks the unique index on (parent_fileid, name)",
        "source-transactions": "transactions are open that would hold up `init` and the fence",
        "source-init-rights": "the account of `init` lacks rights",
        "source-fence-rights": "the account that raises the fence lacks rights",
        "source-follow-rights": "the account of the daemon lacks rights",
        "source-binary-log": "the binary log keeps the account from creating triggers",
        "source-foreign-triggers": "the catalog has triggers that are not ours",
        "source-definers": "our triggers run as an account that is gone, or may be",
        "capture": "whether changes are captured, as far as `init` has been run",
        "site": "a fact that was fixed at `init` is another now",
        "chimera": "what version of dCache made the Chimera database",
        "chimera-content": "Chimera has entries of its own",
        "chimera-root-tags": "Chimera's root has tags already",
        "chimera-create-right": "the account may not create the schema dome_bridge",
        "chimera-temporary-right": "the account may not create temporary tables",
        "chimera-timezone": "PostgreSQL does not know the configured time zone",
        "chimera-trash": "the work list of dCache's cleaner names our files",
        "chimera-clients": "others are connected to Chimera now, dCache perhaps",
        "daemon": "a mirror is at work now",
        "pool-none": "DPM has no file systems",
        "pool-server-names": "a server is written in several ways in dpm_fs",
        **pool_plan.CHECKS,
        "quotatoken-path": "a quotatoken's path leads to no directory",
        "quotatoken-depth": "a quotatoken lies where DPM keeps no directory sizes",
        **space_findings.CHECKS,
        "abandoned-uploads": "uploads began long ago (api.abandoned_upload_hours) and never ended",
        "interrupted-deletions": "the DOME API has begun deletions that are not finished",
        **gate_findings.CHECKS,
        "quarantine-REASON": "entries or facts that would be left out, for each reason of quarantine.md",
    }
)

BYTES_PER_ENTRY = 1_000
"""Tables and indexes of Chimera for one DPM entry, measured on a made-up site."""

SIZED_DEPTHS = range(2, 7)
"""Depths of directories whose sizes DOME keeps (dmlite, `addFilesizeToDirs`)."""

_SIZES = """
SELECT TABLE_NAME, TABLE_ROWS, DATA_LENGTH + INDEX_LENGTH FROM information_schema.TABLES
WHERE TABLE_SCHEMA = %s AND TABLE_NAME IN ('Cns_file_metadata', 'Cns_file_replica', 'Cns_symlinks')"""
_LONG_TRANSACTIONS = """
SELECT COUNT(*), MAX(TIMESTAMPDIFF(SECOND, trx_started, NOW())) FROM information_schema.INNODB_TRX
WHERE trx_mysql_thread_id <> CONNECTION_ID() AND TIMESTAMPDIFF(SECOND, trx_started, NOW()) >= %s"""
_ABANDONED = """
SELECT COUNT(*) FROM {cns}.Cns_file_replica
WHERE status = 'P' AND ctime < UNIX_TIMESTAMP() - %s"""
_INTERRUPTED = "SELECT COUNT(*) FROM {cns}.Cns_file_replica WHERE status = 'D' AND LOCATE(%s, xattr) > 0"
_ACCOUNTS_VISIBLE = "SELECT 1 FROM mysql.user LIMIT 1"


@dataclass(frozen=True)
class CheckReport:
    """All findings, in the order of `CHECKS`."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not any(finding.severity is Severity.ERROR for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "findings": [finding.as_json() for finding in self.findings]}


@dataclass
class _Look:
    """What the looks share. `site` is None before `init`."""

    databases: Databases
    admin: Source
    site: Site | None
    advance: Advance
    disks: DiskServers | None = None
    may_forecast: bool = True
    free: dict[str, int] = field(default_factory=dict)

    @property
    def source(self) -> Source:
        return self.databases.source

    async def ask(self, name: str, *args: object) -> Any:
        return await self.databases.conn.fetchval(_SQL[name], *args)


_Findings = AsyncIterator[Finding]
_TOLD = frozenset({LeftOutReason.NO_DIRECTORY, LeftOutReason.PATH, LeftOutReason.ROOT})


async def check(
    config: Config,
    *,
    forecast: bool = True,
    advance: Advance | None = None,
    disks: DiskServers | None = None,
) -> CheckReport:
    """Looks at both databases and writes to neither.

    forecast: predict the quarantine as well, which goes through the whole catalog. disks: are asked for
    their file systems. Raises what connecting raises (exit code 2).
    """
    found: list[Finding] = []
    looks = (*_LOOKS, _quarantine) if forecast else _LOOKS
    async with (
        open_databases(config) as databases,
        admin_source(config) as admin,
        target.told("checking the Chimera database"),
    ):
        shared = _Look(databases, admin, await _site(databases), advance or _silent, disks)
        for look in looks:
            found += [finding async for finding in look(shared)]
        found += gate_findings.as_findings(await gate_findings.as_they_stand(databases, admin, shared.site))
    order = {name: place for place, name in enumerate(CHECKS)}
    return CheckReport(tuple(sorted(found, key=lambda finding: order.get(finding.id, len(order)))))


def _silent(step: str, entries: int, expected: int) -> None:
    """Nobody watches."""


async def _site(databases: Databases) -> Site | None:
    if not await state.exists(databases.conn):
        return None
    return await state.load_site(databases.conn)


async def _server(look: _Look) -> _Findings:
    source, layout = look.source, look.databases.layout
    version = ".".join(map(str, source.server_version))
    kind = "MariaDB" if source.is_mariadb else "MySQL"
    schemas = ", ".join(
        f"{name} {'.'.join(map(str, number))}"
        for name, number in ((source.cns_name, layout.cns_version), (source.dpm_name, layout.dpm_version))
    )
    yield Finding("source", Severity.INFO, f"{kind} {version} at {source.address} with {schemas}")
    mode = (await source.fetchval("SELECT @@GLOBAL.sql_mode") or b"").decode()
    yield Finding("source-sql-mode", Severity.INFO, f"sql_mode is {mode or 'empty'}")


async def _catalog(look: _Look) -> _Findings:
    rows = await look.source.fetch(_SIZES, (look.source.cns_name,))
    entries = sum(int(count or 0) for name, count, _ in rows if name.lower() == b"cns_file_metadata")
    size = sum(int(length or 0) for _, _, length in rows)
    yield Finding(
        "source-size",
        Severity.INFO,
        f"about {entries:,} entries in {_gigabytes(size)}; Chimera will need about "
        f"{_gigabytes(entries * BYTES_PER_ENTRY)}, and as much again for its write-ahead log meanwhile",
        count=entries,
    )
    if not await forecast.has_unique_names(look.source):
        yield Finding(
            "source-unique-names",
            Severity.WARNING,
            "Cns_file_metadata has no unique index on (parent_fileid, name): names may be there twice",
            "remove the duplicates that are reported, and create the index file_full_id again",
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


async def _transactions(look: _Look) -> _Findings:
    seconds = look.databases.config.exporter.lock_wait_seconds
    try:
        row = await look.admin.fetchrow(_LONG_TRANSACTIONS, (seconds,))
    except AccessError:
        yield Finding(
            "source-transactions",
            Severity.INFO,
            "whether long transactions are open cannot be seen without the PROCESS privilege",
            f"GRANT PROCESS ON *.* TO {await current_account(look.admin)}",
        )
        return
    count, longest = row or (0, 0)
    if count:
        holders = await triggers.describe_holders(look.admin)
        yield Finding(
            "source-transactions",
            Severity.WARNING,
            f"{count} transactions are open for {seconds:g} s or more, the oldest for {longest} s: {holders}",
            "run `dome-bridge init` when they have ended (a dump, a backup)",
            int(count),
        )


async def _rights(look: _Look) -> _Findings:
    admin, source = look.admin, look.source
    wanted = (
        ("source-init-rights", admin, capture.rights_needed(admin), "install the change capture"),
        ("source-fence-rights", admin, fence.rights_needed(admin), "raise the fence"),
        ("source-follow-rights", source, capture.rights_to_follow(source), "follow the journal"),
    )
    for name, connection, needs, purpose in wanted:
        if missing := missing_rights(await read_grants(connection), needs):
            later = name == "source-follow-rights" and look.site is None
            severity = Severity.WARNING if later else Severity.ERROR
            yield await _lacking(name, severity, connection, missing, purpose)


async def _lacking(
    name: str, severity: Severity, connection: Source, missing: Sequence[Need], purpose: str
) -> Finding:
    account = await current_account(connection)
    return Finding(
        name,
        severity,
        f"{account} lacks {len(missing)} rights to {purpose}",
        f"as an administrator of {connection.address}: {grant_statements(missing, account)}",
        len(missing),
    )


async def _binary_log(look: _Look) -> _Findings:
    try:
        await triggers.require_rights(look.admin, (), "create triggers")
    except PrivilegeError as exc:
        yield Finding(
            "source-binary-log",
            Severity.ERROR,
            str(exc),
            "SET GLOBAL log_bin_trust_function_creators = 1, and the same in my.cnf",
        )


async def _capture(look: _Look) -> _Findings:
    found = await capture.inspect(look.admin, look.databases.layout)
    if found.foreign:
        names = [f"{trigger.name} on {trigger.schema}.{trigger.table}" for trigger in found.foreign]
        yield Finding(
            "source-foreign-triggers",
            Severity.ERROR,
            f"the catalog has triggers that are not ours: {_some(names)}",
            "find out who made them, and drop them before the migration",
            len(names),
        )
    yield _capture_finding(found.status, initialised=look.site is not None)


def _capture_finding(status: CaptureStatus, *, initialised: bool) -> Finding:
    again = "run `dome-bridge init`"
    if status is CaptureStatus.UNKNOWN:
        return Finding("capture", Severity.WARNING, "the account may not see triggers", "GRANT TRIGGER to it")
    if not initialised:
        left = "" if status is CaptureStatus.MISSING else f"; {status} triggers are left from an earlier one"
        return Finding("capture", Severity.INFO, f"`dome-bridge init` has not been run{left}", again)
    if status is CaptureStatus.CURRENT:
        return Finding("capture", Severity.INFO, "changes are captured")
    severity = Severity.WARNING if status is CaptureStatus.OUTDATED else Severity.ERROR
    lost = "" if status is CaptureStatus.OUTDATED else ", then `dome-bridge verify --repair`"
    return Finding("capture", severity, f"the change capture is {status}", again + lost)


async def _definers(look: _Look) -> _Findings:
    findings = await capture.definer_findings(look.admin)
    if findings:
        known = await _sees_accounts(look.admin)
        yield Finding(
            "source-definers",
            Severity.ERROR if known else Severity.WARNING,
            "; ".join(finding.message for finding in findings),
            "create the account again, or run `dome-bridge complete --abandon` and `init` with another one"
            if known
            else "keep the account for as long as the triggers stand",
            len(findings),
        )


async def _sees_accounts(source: Source) -> bool:
    try:
        await source.fetch(_ACCOUNTS_VISIBLE)
    except AccessError:
        return False
    return True


async def _initialised(look: _Look) -> _Findings:
    if look.site is None:
        return
    databases = look.databases
    try:
        state.require_same(
            look.site,
            layout=databases.chimera,
            root_fileid=databases.layout.root_fileid,
            timezone=databases.config.chimera.timezone,
        )
    except StateError as exc:
        yield Finding("site", Severity.ERROR, str(exc), "see the message")
    if trash := await look.ask("trash", look.site.instance_id):
        yield Finding(
            "chimera-trash",
            Severity.WARNING,
            f"t_locationinfo_trash has {trash} rows of mirrored files: dCache's cleaner would delete them",
            "keep dCache's cleaner stopped; `dome-bridge verify --repair` takes such rows away",
            trash,
        )


async def _chimera(look: _Look) -> _Findings:
    databases = look.databases
    yield Finding(
        "chimera", Severity.INFO, f"Chimera database as dCache {databases.chimera.version} makes it"
    )
    offset = look.site.inumber_offset if look.site else None
    if entries := await look.ask("own_content", offset):
        yield Finding(
            "chimera-content",
            Severity.WARNING,
            f"Chimera has {entries} entries of its own besides lost+found; they stay, and keep their names",
            "use a new Chimera database unless this is meant",
            entries,
        )
    tags = [
        row["itagname"] for row in await databases.conn.fetch(_SQL["tags"], databases.chimera.root_inumber)
    ]
    if tags and look.site is None:
        yield Finding(
            "chimera-root-tags",
            Severity.ERROR,
            f"Chimera's root has tags already ({', '.join(tags)}), and the bridge sets all tags of the tree",
            "remove them with `chimera rmtag / NAME`",
            len(tags),
        )
    zone = databases.config.chimera.timezone
    if not await look.ask("knows_zone", zone):
        yield Finding(
            "chimera-timezone",
            Severity.ERROR,
            f"PostgreSQL does not know the time zone {zone} of [chimera] timezone",
            "install tzdata on its host, or write the zone by another of its names",
        )


async def _chimera_rights(look: _Look) -> _Findings:
    rights = [("chimera-temporary-right", "TEMPORARY", "temporary tables")]
    if look.site is None:
        rights.insert(0, ("chimera-create-right", "CREATE", "the schema dome_bridge"))
    for name, right, what in rights:
        if not await look.ask("may", right):
            database, account = await look.databases.conn.fetchrow("SELECT current_database(), current_user")
            look.may_forecast &= right != "TEMPORARY"
            yield Finding(
                name,
                Severity.ERROR,
                f"account {account} may not create {what} in database {database}",
                f'as the owner of the database: GRANT {right} ON DATABASE "{database}" TO "{account}"',
            )


async def _clients(look: _Look) -> _Findings:
    rows = await look.databases.conn.fetch(_SQL["clients"])
    if rows:
        who = [f"{row['sessions']} of {row['application']} as {row['account']}" for row in rows]
        is_dcache = any("JDBC" in row["application"] for row in rows)
        yield Finding(
            "chimera-clients",
            Severity.WARNING if is_dcache else Severity.INFO,
            f"others are connected to the Chimera database: {_some(who)}",
            "keep dCache's doors and cleaner stopped until the cutover is committed",
            sum(row["sessions"] for row in rows),
        )
    if await look.ask("lock_held", target.LOCKS, target.APPLIER):
        yield Finding("daemon", Severity.INFO, "a mirror is at work: it holds the applier lock")


async def _pools(look: _Look) -> _Findings:
    plan = await pool_plan.plan_pools(look.databases, usage=False, disks=look.disks)
    look.free = {pool.name: pool.free for pool in plan.pools if pool.free is not None}
    if not plan.pools:
        yield Finding(
            "pool-none",
            Severity.WARNING,
            "dpm_fs has no rows: no file could be located, and all would be left out",
            "check [dpm] dpm_db",
        )
    for finding in _merged(plan.findings):
        yield finding
    servers = {filesystem.server for filesystem in await small_tables.filesystems(look.source)}
    for finding in _server_names(servers):
        yield finding


def _merged(findings: Iterable[Finding]) -> Iterator[Finding]:
    """One finding for each id, with the messages of the first few."""
    by_id: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_id[finding.id].append(finding)
    for name, same in by_id.items():
        first = same[0]
        messages = list(dict.fromkeys(one.message for one in same))
        yield Finding(name, first.severity, _some(messages, "; "), first.remedy, len(same))


def _server_names(servers: Iterable[bytes]) -> Iterator[Finding]:
    names = sorted(map(_text, servers))
    hosts = Counter(name.lower().split(".")[0] for name in names)
    alike = [name for name in names if hosts[name.lower().split(".")[0]] > 1]
    if alike:
        yield Finding(
            "pool-server-names",
            Severity.WARNING,
            f"these servers in dpm_fs may be one: {_some(alike)}; a replica lies where its path says",
            "if they are one server, use one name in dpm_fs and in the replicas",
            len(alike),
        )


async def _quotatokens(look: _Look) -> _Findings:
    tokens = await small_tables.quotatokens(look.source, look.databases.layout)
    paths = {token: plain_path(token.path) for token in tokens if token.path is not None}
    plain = [path for path in paths.values() if not isinstance(path, LeftOutReason)]
    sizes = await directory_sizes(look.source, look.databases.layout.root_fileid, plain)
    lost, outside = [], []
    for token, path in paths.items():
        name = f"{_text(token.u_token or b'')} at {_text(token.path or b'')}"
        if path is not LeftOutReason.ROOT and path not in sizes:
            lost.append(name)
        elif path is LeftOutReason.ROOT or path.count("/") not in SIZED_DEPTHS:
            outside.append(name)
    if lost:
        yield Finding(
            "quotatoken-path",
            Severity.WARNING,
            f"quotatokens whose path is no directory: {_some(lost)}; no tags are set for them",
            "correct their paths, or delete them with `quotatokendel` of dmlite-shell",
            len(lost),
        )
    if outside:
        yield Finding(
            "quotatoken-depth",
            Severity.WARNING,
            f"quotatokens at a depth for which DPM counts no used space: {_some(outside)}",
            "nothing; their used space is known only after the migration",
            len(outside),
        )


async def _spaces(look: _Look) -> _Findings:
    """After `_pools`, which asks the disk servers, and `_quotatokens`."""
    found = await space_survey.survey(look.databases, free=look.free or None, deep=False)
    for finding in space_findings.judge(found, told=_TOLD):
        yield finding


async def _uploads(look: _Look) -> _Findings:
    hours = look.databases.config.api.abandoned_upload_hours
    count = await look.source.fetchval(_ABANDONED.format(cns=look.source.cns), (hours * 3600,))
    if count:
        yield Finding(
            "abandoned-uploads",
            Severity.WARNING,
            f"{count} replicas are being written for more than {hours} hours: abandoned uploads",
            "delete these files with dmlite-shell; they are left out otherwise",
            int(count),
        )


async def _deletions(look: _Look) -> _Findings:
    if not look.databases.layout.has_replica_xattr:
        return
    count = await look.source.fetchval(_INTERRUPTED.format(cns=look.source.cns), (DELETION_MARK.encode(),))
    if count:
        yield Finding(
            "interrupted-deletions",
            Severity.WARNING,
            f"{count} replicas are marked by the DOME API as being deleted",
            "let `dome-bridge run` finish them; the log names the disk servers that do not answer or refuse",
            int(count),
        )


async def _quarantine(look: _Look) -> _Findings:
    if not look.may_forecast:
        return
    made = await forecast.forecast(look.databases, advance=look.advance)
    for reason, parts in forecast.by_reason(made).items():
        yield Finding(
            f"quarantine-{reason}",
            Severity.WARNING,
            f"{' and '.join(map(_foreseen, parts))}: {REASONS[reason].meaning}",
            REASONS[reason].remedy,
            sum(part.count for part in parts),
        )


_FATES = {"entry": ("entry", "entries", "left out"), "fact": ("fact", "facts", "dropped")}


def _foreseen(part: Foreseen) -> str:
    one, many, fate = _FATES[part.scope]
    what = f"{one if part.count == 1 else many} would be {fate}"
    examples = ", ".join(dict.fromkeys(str(example.fileid) for example in part.examples))
    return f"{part.count} {what} (fileid {examples})"


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _some(names: Sequence[str], glue: str = ", ", *, most: int = 5) -> str:
    more = f"{glue}and {len(names) - most} more" if len(names) > most else ""
    return glue.join(names[:most]) + more


_LOOKS: tuple[Callable[[_Look], _Findings], ...] = (
    _server,
    _catalog,
    _transactions,
    _rights,
    _binary_log,
    _capture,
    _definers,
    _initialised,
    _chimera,
    _chimera_rights,
    _clients,
    _pools,
    _quotatokens,
    _spaces,
    _uploads,
    _deletions,
)


def reference() -> str:
    """The table of docs/reference/checks.md."""
    rows = (f"| `{name}` | {what} |" for name, what in CHECKS.items())
    return "\n".join(("| id | is about |", "| --- | --- |", *rows, ""))


if __name__ == "__main__":
    sys.stdout.write(reference())
