"""Who else is connected to DPM's database, by the server's process list.

The fence stops them all; but daemons that go on trying fill logs, and one that somebody starts
again after the commit serves an old catalog.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dome_bridge.dpm.grants import Need, missing_rights, read_grants
from dome_bridge.dpm.source import Source

STATEMENT_LENGTH = 60
LISTED = 5

_PROCESSES = """
SELECT ID, USER, HOST, DB, INFO FROM information_schema.PROCESSLIST
WHERE COMMAND NOT IN ('Daemon', 'Binlog Dump') AND USER NOT IN ('system user', 'event_scheduler')"""


class Connection(NamedTuple):
    """host: without port."""

    number: int
    user: str
    host: str
    schema: str
    statement: str


@dataclass(frozen=True)
class Writers:
    """others: in words. unseen: what of the list cannot be told."""

    others: tuple[str, ...]
    unseen: str


async def other_writers(admin: Source, account: str) -> Writers:
    """account: the user of the bridge itself, besides the administrator's."""
    rows = await admin.fetch(_PROCESSES)
    connections = [_connection(*row) for row in rows]
    sees_all = not missing_rights(await read_grants(admin), [Need("PROCESS", "*")])
    schemas = {admin.cns_name, admin.dpm_name}
    return judge(
        connections,
        own=admin.connection_id,
        accounts={account, admin.user},
        schemas=schemas,
        sees_all=sees_all,
    )


def judge(
    connections: Collection[Connection],
    *,
    own: int,
    accounts: Collection[str],
    schemas: Collection[str],
    sees_all: bool,
) -> Writers:
    """Of our own account, only what comes from another host is certainly not ours."""
    here = {each.host for each in connections if each.number == own} | {"localhost", "127.0.0.1", "::1"}
    others = [
        each
        for each in connections
        if each.schema in schemas and (each.user not in accounts or each.host not in here)
    ]
    alike = [each for each in connections if each.schema in schemas and each not in others]
    unseen = f"{len(alike)} connections of our own account on this host may be DPM's or ours"
    if not sees_all:
        unseen = "connections of other accounts cannot be seen without the PROCESS privilege"
    return Writers(tuple(_described(others)), unseen)


def _connection(number: int, user: bytes, host: bytes, schema: bytes, statement: bytes) -> Connection:
    name = _text(host)
    if name.count(":") == 1 or name.startswith("["):
        name = name.rpartition(":")[0].strip("[]")
    return Connection(int(number), _text(user), name, _text(schema), " ".join(_text(statement).split()))


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "backslashreplace")


def _described(others: Iterable[Connection]) -> list[str]:
    grouped: defaultdict[tuple[str, str], list[Connection]] = defaultdict(list)
    for each in others:
        grouped[each.user, each.host].append(each)
    told = [_group(user, host, same) for (user, host), same in sorted(grouped.items())]
    return told if len(told) <= LISTED else [*told[:LISTED], f"{len(told) - LISTED} more accounts"]


def _group(user: str, host: str, same: list[Connection]) -> str:
    at_work = [each.statement for each in same if each.statement]
    doing = f"at work with {at_work[0][:STATEMENT_LENGTH]!r}" if at_work else "idle"
    return f"{len(same)} connections of {user} from {host}, {doing}"
