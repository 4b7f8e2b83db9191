"""The text of the triggers that journal catalog changes. Pure.

AFTER triggers, so that only rows which were really written are journalled, in the same
transaction. An UPDATE is journalled only when something changed that Chimera holds; texts
are compared as bytes, because the columns' collations take `a` and `a ` for the same, and on
upgraded sites `A` and `a` too. There are no error handlers: a change that cannot be
journalled must fail. The SQL is plain enough for MariaDB 5.5 and MySQL 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dome_bridge.dpm.schema import S_IFDIR, S_IFMT, SourceLayout
from dome_bridge.dpm.source import quote_name
from dome_bridge.exporter.journal import JOURNAL_TABLE, JournalKind
from dome_bridge.exporter.triggers import CAPTURE_PREFIX, Trigger


class Watched(NamedTuple):
    """A catalog table, and the columns of which a change matters."""

    schema: str
    table: str
    kind: JournalKind
    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    """Further conditions under which OLD and NEW count as the same"""


# DOME and the legacy daemons add up sizes in directory rows at every write.
_SIZE_IS_SAME = f"(OLD.`filesize` <=> NEW.`filesize` OR (NEW.`filemode` & {S_IFMT}) <=> {S_IFDIR})"


def watched_tables(layout: SourceLayout, cns: str, dpm: str) -> tuple[Watched, ...]:
    """cns, dpm: the names of the two schemas."""
    return (
        Watched(
            cns,
            "Cns_file_metadata",
            JournalKind.METADATA,
            ("parent_fileid", "filemode", "owner_uid", "gid", "mtime", "ctime"),
            ("name", "status", "csumtype", "csumvalue", "acl", *_if(layout.has_xattr, "xattr")),
            (_SIZE_IS_SAME,),
        ),
        Watched(
            cns, "Cns_file_replica", JournalKind.REPLICA, (), ("status", "poolname", "host", "fs", "sfn")
        ),
        Watched(cns, "Cns_symlinks", JournalKind.SYMLINK, (), ("linkname",)),
        Watched(cns, "Cns_userinfo", JournalKind.USERS, ("userid", "banned"), ("username", "user_ca")),
        Watched(cns, "Cns_groupinfo", JournalKind.GROUPS, ("gid", "banned"), ("groupname",)),
        Watched(
            dpm,
            "dpm_pool",
            JournalKind.POOLS,
            ("defsize",),
            ("poolname", "s_type", *_if(layout.has_pooltype, "pooltype")),
        ),
        Watched(dpm, "dpm_fs", JournalKind.FILESYSTEMS, ("status",), ("poolname", "server", "fs")),
        Watched(
            dpm,
            "dpm_space_reserv",
            JournalKind.QUOTATOKENS,
            ("rowid", "t_space"),
            ("s_token", "u_token", "poolname", "groups", *_if(layout.has_path, "path")),
        ),
    )


def _if(has_column: bool, column: str) -> tuple[str, ...]:
    return (column,) if has_column else ()


def capture_triggers(layout: SourceLayout, cns: str, dpm: str) -> tuple[Trigger, ...]:
    """Three triggers for each watched table. cns, dpm: the names of the two schemas."""
    journal = f"{quote_name(cns)}.{JOURNAL_TABLE}"
    return tuple(
        trigger for watched in watched_tables(layout, cns, dpm) for trigger in _triggers_on(watched, journal)
    )


def _triggers_on(watched: Watched, journal: str) -> Iterator[Trigger]:
    bodies = {
        "INSERT": _insert(watched, journal, "I", "NEW"),
        "UPDATE": _update_body(watched, journal),
        "DELETE": _insert(watched, journal, "D", "OLD"),
    }
    for event, body in bodies.items():
        name = f"{CAPTURE_PREFIX}{watched.table.lower()}_{event.lower()}"
        yield Trigger(watched.schema, watched.table, name, "AFTER", event, body)


def _insert(watched: Watched, journal: str, op: str, *rows: str) -> str:
    """One journal row for each of OLD, NEW that is given."""
    if not watched.kind.has_fileid:
        return f"INSERT INTO {journal} (kind, op) VALUES ({int(watched.kind)}, '{op}')"
    values = ", ".join(f"({int(watched.kind)}, IFNULL({row}.`fileid`, 0), '{op}')" for row in rows)
    return f"INSERT INTO {journal} (kind, fileid, op) VALUES {values}"


def _update_body(watched: Watched, journal: str) -> str:
    same = " AND ".join(_same_conditions(watched))
    changed = f"IF NOT ({same}) THEN {_insert(watched, journal, 'U', 'NEW')};"
    if watched.kind.has_fileid:
        both = _insert(watched, journal, "U", "OLD", "NEW")
        changed = f"IF NOT (OLD.`fileid` <=> NEW.`fileid`) THEN {both}; ELSE{changed}"
    return f"BEGIN {changed} END IF; END"


def _same_conditions(watched: Watched) -> Iterator[str]:
    for column in map(quote_name, watched.numbers):
        yield f"OLD.{column} <=> NEW.{column}"
    for column in map(quote_name, watched.texts):
        yield f"CAST(OLD.{column} AS BINARY) <=> CAST(NEW.{column} AS BINARY)"
    yield from watched.conditions
