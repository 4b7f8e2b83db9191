"""Who may call a command: declared next to the command, decided here.

The head's own certificate and the administrators may call everything. For all others a command says
which roles it is open to, and what a bearer token must allow on the objects that it names. What
nothing is said of is closed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from dome_bridge.auth.principal import Kind, Principal, Role
from dome_bridge.auth.scopes import Capability

READ, CREATE, MODIFY = Capability.READ, Capability.CREATE, Capability.MODIFY
STAGE, POLL = Capability.STAGE, Capability.POLL

SEEING = frozenset({READ, CREATE, MODIFY, STAGE})
"""Any of these lets a token look at an entry's attributes."""

WRITING = frozenset({CREATE, MODIFY})
CHANGING = frozenset({MODIFY})
READING = frozenset({READ})


PHYSICAL = ("pool", "host", "fs", "pfn", "additionalreplica")
"""Parameters that say where a replica is or is to lie: for the site's own servers only."""


class Tokens(Enum):
    """What bearer tokens may do with a command that users may call."""

    NEVER = "never"
    GROUPS = "groups"
    """Tokens without capabilities, by the rights that their groups have."""
    SCOPES = "scopes"
    """Tokens with a capability on the objects that are named, and those of GROUPS."""


@dataclass(frozen=True)
class Admission:
    """users: people, by DPM's own permissions. disk, frontend: servers of that role on their own account.

    paths, ids: the parameters that name objects; each that is given is authorised. needs: one of these
    capabilities is needed on each object. reports_for: parameters that name the server for which a disk
    server speaks.
    """

    anybody: bool = False
    users: bool = False
    disk: bool = False
    frontend: bool = False
    tokens: Tokens = Tokens.NEVER
    paths: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    needs: frozenset[Capability] = frozenset()
    owns_file: bool = False
    """A disk server that names no user may do this to files of which it has a replica."""
    spares_base: bool = False
    """A token must not do this to the top of its own area."""
    is_file: bool = False
    """What the paths name is never a directory."""
    creates_leading: bool = False
    """Directories on the way to what a scope names may be made, too."""
    sees_leading: bool = False
    """Type and existence of these may be asked for."""
    is_unchecked: bool = False
    """DPM asks for no right at all: people who call by themselves must be able to reach the object."""
    host_auth: bool = False
    """Services that are named in `[auth] host_auth` may call it with a token."""
    reports_for: tuple[str, ...] = ()


CLOSED = Admission()
ANYBODY = Admission(anybody=True)


def on_path(
    *paths: str,
    needs: Collection[Capability],
    ids: tuple[str, ...] = (),
    disk: bool = False,
    frontend: bool = False,
    spares_base: bool = False,
    is_file: bool = False,
    creates_leading: bool = False,
    sees_leading: bool = False,
    is_unchecked: bool = False,
    host_auth: bool = False,
) -> Admission:
    """Open to users, and to tokens with one of the capabilities on each object that is named."""
    return Admission(
        users=True,
        tokens=Tokens.SCOPES,
        paths=paths,
        ids=ids,
        needs=frozenset(needs),
        disk=disk,
        frontend=frontend,
        spares_base=spares_base,
        is_file=is_file,
        creates_leading=creates_leading,
        sees_leading=sees_leading,
        is_unchecked=is_unchecked,
        host_auth=host_auth,
    )


def from_disks(*reports_for: str) -> Admission:
    """Open to disk servers, which report for themselves: what these parameters name must be theirs."""
    return Admission(disk=True, paths=("lfn",), reports_for=reports_for)


def on_rights(
    *paths: str, ids: tuple[str, ...] = (), disk: bool = False, owns_file: bool = False
) -> Admission:
    """Open to users and to tokens with groups, by DPM's permissions; to no capability."""
    return Admission(users=True, tokens=Tokens.GROUPS, paths=paths, ids=ids, disk=disk, owns_file=owns_file)


def is_open(
    admission: Admission, principal: Principal, *, disks_are_frontends: bool, users_may: bool
) -> bool:
    """Whether the principal may call the command at all. Which objects he may touch is asked later."""
    if admission.anybody or principal.role is Role.HEAD:
        return True
    match principal.kind:
        case Kind.CAPABILITY:
            return users_may and admission.users and admission.tokens is Tokens.SCOPES
        case Kind.GROUP:
            return users_may and admission.users and admission.tokens is not Tokens.NEVER
        case Kind.USER:
            return users_may and admission.users
        case Kind.NODE | Kind.FRONTEND:
            return _is_open_to_server(admission, principal, disks_are_frontends)
    return False


def _is_open_to_server(admission: Admission, principal: Principal, disks_are_frontends: bool) -> bool:
    is_disk = principal.role is Role.DISK
    if is_disk and admission.disk:
        return True
    if is_disk and not disks_are_frontends:
        return False
    return admission.frontend or (admission.users and principal.kind is Kind.FRONTEND)
