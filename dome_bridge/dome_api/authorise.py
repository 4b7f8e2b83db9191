"""May this principal call this command, on the objects that the request names?

For tokens this is decided by paths, before anybody looks whether something is there; an object that is
named in another way is looked up for its path first. Users have DPM's permissions, which the commands
ask for themselves. Servers report for themselves only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from dome_bridge.auth.paths import normal_path, resolved_path
from dome_bridge.auth.principal import Kind, Principal, Role
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.roles import speaks_for
from dome_bridge.config import AuthConfig
from dome_bridge.dome_api import catalog
from dome_bridge.dome_api.admission import PHYSICAL, Admission, Tokens, is_open
from dome_bridge.dome_api.catalog import Entry, Replica, split_rfn
from dome_bridge.dome_api.command import Command
from dome_bridge.dome_api.head import Call
from dome_bridge.dome_api.permissions import READ, Subject, can_see, may, require
from dome_bridge.dome_api.wire import MAX_DEPTH, Parameters
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError


def admitted(command: Command, parameters: Parameters, principal: Principal, auth: AuthConfig) -> Parameters:
    """The parameters with their paths as they are checked and used.

    Raises AuthError: 401 without any credential, 400 for paths that nobody may use, 403 for a command that
    is not for the principal; and ApiError 400 for a body that is nested too deeply.
    """
    if not command.admission.anybody:
        require_somebody(principal)
    if parameters.is_too_deep:
        raise ApiError(400, f"the request's body is nested deeper than {MAX_DEPTH} levels")
    parameters = normalised(command, parameters, principal)
    require_open(command, principal, auth, parameters)
    return parameters


def require_open(
    command: Command, principal: Principal, auth: AuthConfig, parameters: Parameters | None = None
) -> None:
    """Raises AuthError 403 for a command that is not for the principal, 401 without any credential.

    parameters: for telling a token what would do.
    """
    admission = command.admission
    is_let_in = is_open(
        admission,
        principal,
        disks_are_frontends=auth.disk_nodes_are_frontends,
        users_may=auth.direct_users or principal.is_passed_on,
    )
    if is_let_in or by_scope_of_hosts(principal, admission):
        return
    require_somebody(principal)
    raise _closed(command, parameters or Parameters(), principal)


def by_scope_of_hosts(principal: Principal, admission: Admission) -> bool:
    """Whether a token may call for the scope that is for services, and not for paths."""
    return principal.token is not None and principal.token.is_host and admission.host_auth


def require_somebody(principal: Principal) -> None:
    """Raises AuthError 401 without any credential."""
    if principal.kind is Kind.ANONYMOUS:
        raise AuthError(401, "H5", Reason.MISSING, "no credential is given")


def _closed(command: Command, parameters: Parameters, principal: Principal) -> AuthError:
    match principal.kind:
        case Kind.POWERLESS:
            wanted = _wanted(command.admission, parameters, principal)
            text = "the token has neither a capability nor a usable group"
            return AuthError(403, "S6", Reason.SCOPE, text, wanted=wanted)
        case Kind.CAPABILITY:
            return AuthError(403, "M2", Reason.SCOPE, f"no capability reaches {command.name}")
        case Kind.GROUP | Kind.USER:
            return AuthError(403, "N6", Reason.ROLE, f"{command.name} is not open to users")
    return AuthError(
        403,
        "N6",
        Reason.ROLE,
        f"{command.name} is not open to the role {principal.role}: if this server needs it, add its DN to"
        " authorize_dn in [auth], which gives it full trust",
    )


def _wanted(admission: Admission, parameters: Parameters, principal: Principal) -> str:
    """The scope that would do on the first path; "" where none would."""
    path = next(filter(None, map(parameters.text, admission.paths)), "")
    if not path or principal.grants is None or admission.tokens is not Tokens.SCOPES:
        return ""
    return principal.grants.needed(admission.needs, path)


def normalised(command: Command, parameters: Parameters, principal: Principal) -> Parameters:
    """With the paths in the form in which they are checked and used. Raises AuthError.

    Users and tokens may neither use dots nor name places on disk servers; for servers dots are resolved.
    """
    admission = command.admission
    given = {name: text for name in admission.paths if (text := parameters.text(name))}
    if principal.is_peer and principal.token is None:
        return parameters.with_texts({name: resolved_path(text) for name, text in given.items()})
    named = {part for name in admission.ids for part in name.split(":")}
    for name in PHYSICAL:
        if name not in named and parameters.text(name):
            raise AuthError(403, "M3", Reason.ROLE, f"only servers of this site may give {name!r}")
    return parameters.with_texts({name: normal_path(text) for name, text in given.items()})


async def require_objects(call: Call, command: Command) -> Sequence[str]:
    """The paths of what is named, as far as they were looked at.

    Raises AuthError 403 for an object that is beyond the principal.
    """
    principal = call.request.principal
    if principal.token is not None:
        return await _require_in_area(call, command)
    if principal.kind is Kind.USER and command.admission.is_unchecked:
        await _require_visible(call, command)
    elif principal.role is Role.DISK and command.admission.disk:
        await _require_own(call, command)
    return ()


async def _require_in_area(call: Call, command: Command) -> Sequence[str]:
    token = call.request.principal.token
    assert token is not None
    if by_scope_of_hosts(call.request.principal, command.admission):
        return ()
    objects = await _objects_of(call, command.admission)
    if not objects and command.admission.paths:
        raise ApiError(422, f"the request names nothing: give {' or '.join(command.admission.paths)}")
    for each in objects:
        _require_path(call, command.admission, each)
    if command.admission.is_unchecked and token.has_capability is False:
        await _require_visible(call, command)
    return [each.path for each in objects]


def _require_path(call: Call, admission: Admission, named: _Object) -> None:
    path, is_file = named
    token = call.request.principal.token
    assert token is not None
    grants = token.grants
    if not grants.covers(path):
        rule = "I1" if token.has_capability else "G8"
        raise AuthError(403, rule, Reason.PATH, f"{path!a} is outside of the area of issuer {token.issuer}")
    if admission.spares_base and grants.area.is_anchored(path):
        raise AuthError(403, "M2", Reason.PATH, f"{path!a} is the top of the area, or holds what is excluded")
    if not token.has_capability or admission.tokens is not Tokens.SCOPES:
        return
    if grants.permits(admission.needs, path, is_file=is_file):
        return
    if (admission.creates_leading or admission.sees_leading) and grants.leads_to(path):
        return
    wanted = grants.needed(admission.needs, path)
    raise AuthError(403, "S4", Reason.SCOPE, f"no scope of the token allows this on {path!a}", wanted=wanted)


class _Object(NamedTuple):
    """path: in full. is_file: whether it is known to be no directory."""

    path: str
    is_file: bool


async def _objects_of(call: Call, admission: Admission) -> list[_Object]:
    """All that the request names. What is named by a number or a replica and is not there is a 403."""
    parameters = call.request.parameters
    objects = [
        _Object(text, admission.is_file) for name in admission.paths if (text := parameters.text(name))
    ]
    for name in admission.ids:
        found = await call.database.read(partial(_named_object, parameters, name))
        if found is not None:
            objects.append(found)
    return objects


async def _named_object(parameters: Parameters, name: str, source: Source) -> _Object | None:
    """What one parameter names; None if it is not given. Raises AuthError 403."""
    if not _is_given(parameters, name):
        return None
    entry = await _entry_of(parameters, name, source)
    if entry is None:
        raise AuthError(403, "M4", Reason.PATH, f"{name!r} leads to nothing")
    try:
        return _Object(await catalog.path_of(entry, source), not entry.is_directory)
    except ApiError as exc:
        raise AuthError(403, "M4", Reason.PATH, f"{name!r} leads to what is not in the tree") from exc


def _is_given(parameters: Parameters, name: str) -> bool:
    if name in ("fileid", "replicaid"):
        return parameters.integer(name) != 0
    return all(parameters.text(each) for each in name.split(":"))


async def _entry_of(parameters: Parameters, name: str, source: Source) -> Entry | None:
    if name == "fileid":
        return await catalog.entry_by_fileid(source, parameters.integer(name))
    replica = await _replica_of(parameters, name, source)
    return await catalog.entry_by_fileid(source, replica.fileid) if replica else None


async def _replica_of(parameters: Parameters, name: str, source: Source) -> Replica | None:
    if name == "replicaid":
        return await catalog.replica_by_id(source, parameters.integer(name))
    # As the commands do, which the check must not lead elsewhere.
    rfn = ":".join(parameters.text(each) for each in name.split(":"))
    return await catalog.replica_by_rfn(source, rfn)


async def _require_visible(call: Call, command: Command) -> None:
    """For commands that ask for no right, since the original lets no user call them himself."""
    parameters, subject = call.request.parameters, await call.subject()
    await call.database.read(partial(_look, parameters, command.admission, subject))


async def _look(parameters: Parameters, admission: Admission, subject: Subject, source: Source) -> None:
    for name in (*admission.paths, *admission.ids):
        if not _is_given(parameters, name):
            continue
        if name in admission.paths:
            found = await catalog.walk(source, parameters.text(name))
            entry, lineage = found.entry, found.lineage
        else:
            entry = await _entry_of(parameters, name, source)
            lineage = await catalog.lineage_of(source, entry) if entry else ()
        _require_reach(subject, entry, lineage)


def _require_reach(subject: Subject, entry: Entry | None, lineage: tuple[Entry, ...]) -> None:
    text = "Permission denied: no right to pass through an ancestor, or to read the directory"
    require(can_see(subject, lineage), text)
    if not lineage and entry is not None:
        require(may(subject, entry, READ), text)


async def _require_own(call: Call, command: Command) -> None:
    """A disk server reports for itself, and on its own account it has to do with its own replicas only."""
    parameters, admission = call.request.parameters, command.admission
    acts_alone = not call.request.principal.user
    names = [*admission.reports_for, *(admission.ids if acts_alone else ())]
    for name in names:
        if not _is_given(parameters, name):
            continue
        server = await call.database.read(partial(_server_of, parameters, name))
        if server:
            _require_speaks_for(call, [server])
    if admission.owns_file and acts_alone:
        hosts = await call.database.read(partial(_hosts_of_file, parameters, admission))
        _require_speaks_for(call, hosts)


async def _server_of(parameters: Parameters, name: str, source: Source) -> str:
    match name:
        case "server" | "server:pfn":
            return parameters.text("server")
        case "fileid":
            # All replicas of a file are told, or none: `owns_file` is for what changes it.
            return ""
        case "replicaid":
            replica = await catalog.replica_by_id(source, parameters.integer(name))
            return replica.host or split_rfn(replica.rfn)[0] if replica else ""
    return split_rfn(parameters.text(name))[0]


async def _hosts_of_file(parameters: Parameters, admission: Admission, source: Source) -> list[str]:
    """Those that have a replica of what the parameters name."""
    if _is_given(parameters, "fileid"):
        entry = await catalog.entry_by_fileid(source, parameters.integer("fileid"))
    else:
        entry = (await catalog.walk(source, parameters.text(admission.paths[0]))).entry
    replicas = await catalog.replicas_of(source, entry.fileid) if entry else []
    return [split_rfn(each.rfn)[0] for each in replicas]


def _require_speaks_for(call: Call, servers: Sequence[str]) -> None:
    """That one of them is the disk server that calls."""
    channel, same = call.request.principal.channel, call.auth_settings.same_server
    if any(speaks_for(channel.hosts, server, same) for server in servers):
        return
    raise AuthError(
        403,
        "N5",
        Reason.ROLE,
        f"{channel.dn!a} acts for {' '.join(servers)!a}: if they are one server, name both in same_server of"
        " [auth]",
    )
