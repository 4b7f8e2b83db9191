"""The rights of an account on the source server, read from SHOW GRANTS.

information_schema would be tidier, but leaves out what comes through roles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dome_bridge.dpm.source import Source, quote_name
from dome_bridge.errors import PrivilegeError

_GRANT = re.compile(
    r"GRANT (?P<rights>.+?) ON (?:TABLE )?(?P<schema>`(?:[^`]|``)+`|\*)\.(?P<table>\S+) TO ", re.S
)
_ROLE = re.compile(r"GRANT (?P<roles>[`'].+?) TO ", re.S)
_ALL = frozenset({"ALL", "ALL PRIVILEGES"})
_LIKE = {"%": ".*", "_": "."}


class Grant(NamedTuple):
    """One line of SHOW GRANTS; `*` stands for every schema or table."""

    rights: frozenset[str]
    schema: str
    table: str

    def covers(self, right: str, schema: str, table: str) -> bool:
        return (
            (right in self.rights or bool(self.rights & _ALL))
            and _matches_schema(self.schema, schema)
            and self.table in ("*", table)
        )


class Need(NamedTuple):
    """A right that is needed on all (`*`) or one of a schema's tables."""

    right: str
    schema: str
    table: str = "*"


def parse_grant(line: str) -> Grant | None:
    """None for lines about roles, proxies, routines and the like."""
    match = _GRANT.match(line)
    if match is None:
        return None
    rights = frozenset(_split_rights(match["rights"]))
    return Grant(rights, _unquote(match["schema"]), _unquote(match["table"]))


def parse_roles(line: str) -> str | None:
    """The roles of a line "GRANT role, role TO account", as SQL."""
    match = None if _GRANT.match(line) else _ROLE.match(line)
    return match["roles"] if match else None


def _split_rights(text: str) -> list[str]:
    # a right on columns, "SELECT (a, b)", is no right on the table
    without_columns = re.sub(r"\w+(?: \w+)* ?\([^)]*\)", "", text)
    return [right.strip().upper() for right in without_columns.split(",") if right.strip()]


def _unquote(name: str) -> str:
    return name[1:-1].replace("``", "`") if name.startswith("`") else name


def _matches_schema(pattern: str, schema: str) -> bool:
    """Schema names in grants are LIKE patterns, and usually nobody meant them to be."""
    if pattern in ("*", schema):
        return True
    expression = re.sub(
        r"\\?.", lambda match: _LIKE.get(match.group(), re.escape(match.group()[-1])), pattern
    )
    return re.fullmatch(expression, schema, re.S) is not None


async def current_account(source: Source) -> str:
    """The account that the server took us for, quoted: `'dpmmgr'@'localhost'`."""
    account: bytes = await source.fetchval("SELECT CURRENT_USER()")
    user, _, host = account.decode().rpartition("@")
    return f"'{user}'@'{host}'"


async def read_grants(source: Source) -> list[Grant]:
    lines = await _lines(source, "SHOW GRANTS")
    roles = [roles for line in lines if (roles := parse_roles(line))]
    if roles and not source.is_mariadb:
        # MariaDB lists the rights of the active role by itself
        lines += await _lines(source, f"SHOW GRANTS FOR CURRENT_USER() USING {', '.join(roles)}")
    return [grant for line in lines if (grant := parse_grant(line))]


async def _lines(source: Source, statement: str) -> list[str]:
    return [row[0].decode(errors="replace") for row in await source.fetch(statement)]


def missing_rights(grants: Iterable[Grant], needs: Sequence[Need]) -> list[Need]:
    held = list(grants)
    return [need for need in needs if not any(grant.covers(*need) for grant in held)]


def grant_statements(missing: Sequence[Need], account: str) -> str:
    """What an administrator has to type, on one line."""
    rights: dict[tuple[str, str], list[str]] = {}
    for need in missing:
        rights.setdefault((need.schema, need.table), []).append(need.right)
    return "; ".join(
        f"GRANT {', '.join(names)} ON {_quote_or_star(schema)}.{_quote_or_star(table)} TO {account}"
        for (schema, table), names in rights.items()
    )


def _quote_or_star(name: str) -> str:
    return name if name == "*" else quote_name(name)


def lacking(missing: Sequence[Need], account: str, source: Source, purpose: str) -> PrivilegeError:
    """The error that has the GRANT statements."""
    return PrivilegeError(
        f"{account} lacks rights to {purpose}; as an administrator of {source.address}: "
        f"{grant_statements(missing, account)} (or set [dpm] admin_user)"
    )
