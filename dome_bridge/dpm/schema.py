"""What kind of DPM catalog this is: versions, columns and engines of the tables that we read.

Told by the actual columns, because sites were upgraded by hand; the version tables must fit
to them. Everything else that varies between sites (contents) is no business of this module.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from dome_bridge.dpm.source import Row, Source, StatementError
from dome_bridge.errors import SchemaError

Version = tuple[int, int, int]

CNS_VERSIONS: tuple[Version, ...] = ((3, 1, 0), (3, 2, 0))
DPM_VERSIONS: tuple[Version, ...] = ((3, 4, 0), (3, 5, 0))

S_IFMT = 0o170000
S_IFDIR = 0o040000

ER_NO_SUCH_TABLE = 1146

CNS_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "Cns_file_metadata": (
        *("rowid", "fileid", "parent_fileid", "guid", "name", "filemode", "nlink", "owner_uid", "gid"),
        *("filesize", "atime", "mtime", "ctime", "fileclass", "status", "csumtype", "csumvalue", "acl"),
    ),
    "Cns_file_replica": (
        *("rowid", "fileid", "nbaccesses", "ctime", "atime", "ptime", "ltime", "r_type", "status"),
        *("f_type", "setname", "poolname", "host", "fs", "sfn"),
    ),
    "Cns_symlinks": ("rowid", "fileid", "linkname"),
    "Cns_userinfo": ("rowid", "userid", "username", "user_ca", "banned"),
    "Cns_groupinfo": ("rowid", "gid", "groupname", "banned"),
    "Cns_unique_id": ("id",),
}
DPM_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "dpm_pool": ("rowid", "poolname", "defsize", "s_type"),
    "dpm_fs": ("rowid", "poolname", "server", "fs", "status", "weight"),
    "dpm_space_reserv": (
        *("rowid", "s_token", "client_dn", "s_uid", "s_gid", "ret_policy", "ac_latency", "s_type"),
        *("u_token", "t_space", "g_space", "u_space", "poolname", "assign_time", "expire_time", "groups"),
    ),
}
OPTIONAL_CNS_TABLES = ("Cns_user_metadata",)

_VERSION = "SELECT major, minor, patch FROM {table}"
_COLUMNS = """
SELECT t.TABLE_SCHEMA, t.TABLE_NAME, t.ENGINE, c.COLUMN_NAME
FROM information_schema.TABLES t
JOIN information_schema.COLUMNS c ON c.TABLE_SCHEMA = t.TABLE_SCHEMA AND c.TABLE_NAME = t.TABLE_NAME
WHERE t.TABLE_SCHEMA = %s AND c.TABLE_SCHEMA = %s AND t.TABLE_TYPE = 'BASE TABLE'
ORDER BY c.TABLE_NAME, c.ORDINAL_POSITION"""
_ROOT = "SELECT fileid, filemode FROM {cns}.Cns_file_metadata WHERE parent_fileid = 0 AND name = '/'"


@dataclass(frozen=True)
class SourceLayout:
    """A catalog that we know how to read."""

    cns_version: Version
    dpm_version: Version
    has_xattr: bool
    """Cns_file_metadata.xattr (since 3.2.0)"""
    has_replica_xattr: bool
    has_account_xattr: bool
    """xattr of both Cns_userinfo and Cns_groupinfo"""
    has_path: bool
    """dpm_space_reserv.path (since 3.5.0)"""
    has_pooltype: bool
    root_fileid: int
    cns_columns: Mapping[str, tuple[str, ...]]
    """Every column of the catalog tables that exist, in table order"""
    dpm_columns: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Table:
    engine: str
    columns: tuple[str, ...]


async def read_layout(source: Source) -> SourceLayout:
    """Raises SchemaError, naming found and expected, for anything that is not a DPM we know."""
    cns_version = await _read_version(source, source.cns, "schema_version", CNS_VERSIONS)
    dpm_version = await _read_version(source, source.dpm, "schema_version_dpm", DPM_VERSIONS)
    cns = await _read_tables(source, source.cns_name, (*CNS_COLUMNS, *OPTIONAL_CNS_TABLES))
    dpm = await _read_tables(source, source.dpm_name, tuple(DPM_COLUMNS))
    _check_tables(source.cns_name, cns, CNS_COLUMNS)
    _check_tables(source.dpm_name, dpm, DPM_COLUMNS)
    layout = SourceLayout(
        cns_version=cns_version,
        dpm_version=dpm_version,
        has_xattr="xattr" in cns["Cns_file_metadata"].columns,
        has_replica_xattr="xattr" in cns["Cns_file_replica"].columns,
        has_account_xattr=all("xattr" in cns[name].columns for name in ("Cns_userinfo", "Cns_groupinfo")),
        has_path="path" in dpm["dpm_space_reserv"].columns,
        has_pooltype="pooltype" in dpm["dpm_pool"].columns,
        root_fileid=await _read_root(source),
        cns_columns=_columns_of(cns),
        dpm_columns=_columns_of(dpm),
    )
    _check_promises(layout, source)
    return layout


def _columns_of(tables: Mapping[str, _Table]) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType({name: table.columns for name, table in tables.items()})


async def _read_version(source: Source, schema: str, table: str, known: Sequence[Version]) -> Version:
    expected = " or ".join(_dotted(version) for version in known)
    try:
        rows = await source.fetch(_VERSION.format(table=f"{schema}.{table}"))
    except StatementError as exc:
        if exc.number != ER_NO_SUCH_TABLE:
            raise
        raise SchemaError(
            f"{schema} at {source.address} has no table {table}: it is no DPM database; "
            f"expected one of version {expected}, check [dpm] cns_db and dpm_db"
        ) from exc
    if len(rows) != 1:
        raise SchemaError(
            f"{schema}.{table} has {len(rows)} rows, expected one with version {expected}; "
            "leave only the row of the schema that is in use"
        )
    if rows[0] not in known:
        raise SchemaError(
            f"{schema} has schema version {_dotted(rows[0])}, expected {expected}; "
            "upgrade DPM's databases with the scripts of its own release first"
        )
    major, minor, patch = rows[0]
    return major, minor, patch


def _dotted(version: Row) -> str:
    return ".".join(str(part) for part in version)


async def _read_tables(source: Source, schema: str, names: Sequence[str]) -> dict[str, _Table]:
    """Those of the named tables that exist, under the names as given (a server may fold their case)."""
    columns: defaultdict[str, list[str]] = defaultdict(list)
    engines: dict[str, str] = {}
    for _, table, engine, column in await source.fetch(_COLUMNS, (schema, schema)):
        key = table.decode().lower()
        engines[key] = (engine or b"none").decode()
        columns[key].append(column.decode().lower())
    return {
        name: _Table(engines[name.lower()], tuple(columns[name.lower()]))
        for name in names
        if name.lower() in engines
    }


def _check_tables(schema: str, tables: Mapping[str, _Table], expected: Mapping[str, tuple[str, ...]]) -> None:
    for name, columns in expected.items():
        if name not in tables:
            raise SchemaError(
                f"{schema} has no table {name}, or this user may not see it; "
                f"expected the tables of a DPM head node, check [dpm] and GRANT SELECT ON `{schema}`.*"
            )
        if missing := [column for column in columns if column not in tables[name].columns]:
            raise SchemaError(
                f"{schema}.{name} lacks {', '.join(missing)} (it has {', '.join(tables[name].columns)}); "
                "upgrade DPM's databases with the scripts of its own release first"
            )
    for name, table in tables.items():
        if table.engine.lower() != "innodb":
            raise SchemaError(
                f"{schema}.{name} is a table of engine {table.engine}, expected InnoDB; "
                f"stop DPM and run ALTER TABLE `{schema}`.`{name}` ENGINE=InnoDB"
            )


def _check_promises(layout: SourceLayout, source: Source) -> None:
    """A version that says more than the columns hold is a broken upgrade."""
    if layout.cns_version >= (3, 2, 0) and not (layout.has_xattr and layout.has_replica_xattr):
        raise SchemaError(
            f"{source.cns} says schema version 3.2.0, but Cns_file_metadata or Cns_file_replica has no "
            "column xattr; finish the upgrade of DPM's databases first"
        )
    if layout.dpm_version >= (3, 5, 0) and not layout.has_path:
        raise SchemaError(
            f"{source.dpm} says schema version 3.5.0, but dpm_space_reserv has no column path; "
            "finish the upgrade of DPM's databases first"
        )


ROOT_LOOKS = 4
ROOT_PAUSE = 0.25
"""Seconds."""


async def _read_root(source: Source) -> int:
    for _ in range(ROOT_LOOKS):
        rows = await source.fetch(_ROOT.format(cns=source.cns))
        if rows:
            break
        # After a crash of the server the row was not seen for a moment, while it was being written.
        await asyncio.sleep(ROOT_PAUSE)
    if len(rows) != 1:
        raise SchemaError(
            f"{source.cns}.Cns_file_metadata has {len(rows)} rows with parent_fileid 0 and name '/', "
            "expected exactly one: the root of the tree; repair it with DPM's own tools"
        )
    fileid, filemode = rows[0]
    if not fileid or (filemode or 0) & S_IFMT != S_IFDIR:
        raise SchemaError(
            f"the root of {source.cns} (fileid {fileid}, filemode {filemode}) is no directory with a fileid; "
            "repair it with DPM's own tools"
        )
    return int(fileid)
