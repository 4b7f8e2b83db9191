"""Who may call which command: what the commands declare, against lists that name every one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dome_bridge.auth.principal import Kind, Principal, Role
from dome_bridge.auth.refusal import AuthError
from dome_bridge.auth.scopes import Capability
from dome_bridge.config import AuthConfig
from dome_bridge.dome_api.admission import CLOSED, Tokens
from dome_bridge.dome_api.authorise import admitted
from dome_bridge.dome_api.command import Command, Commands
from dome_bridge.dome_api.commands import COMMANDS
from dome_bridge.dome_api.wire import Answer, Parameters

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

READ, CREATE, MODIFY = Capability.READ, Capability.CREATE, Capability.MODIFY
SEEING = {READ, CREATE, MODIFY, Capability.STAGE}
WRITING = {CREATE, MODIFY}

NEEDS = {
    "dome_access": SEEING,
    "dome_accessreplica": SEEING,
    "dome_getstatinfo": SEEING,
    "dome_get": {READ},
    "dome_getdir": {READ},
    "dome_put": WRITING,
    "dome_create": WRITING,
    "dome_makedir": WRITING,
    "dome_unlink": {MODIFY},
    "dome_removedir": {MODIFY},
    "dome_rename": WRITING,
    "dome_setsize": {MODIFY},
    "dome_getcomment": SEEING,
    "dome_setcomment": {MODIFY},
    "dome_readlink": SEEING,
    "dome_chksum": SEEING,
    "dome_getdirspaces": SEEING,
    "dome_getquotatoken": SEEING,
    "dome_getreplicavec": {READ},
    "dome_getreplicainfo": {READ},
}
"""What tokens with capabilities may call, and one of which they need."""

BY_RIGHTS = {"dome_setmode", "dome_setacl", "dome_setowner", "dome_updatexattr"}
"""Besides those above, for tokens without a capability."""

USERS = {*NEEDS, *BY_RIGHTS, "dome_symlink"}
DISKS = {
    "dome_putdone",
    "dome_addreplica",
    "dome_delreplica",
    "dome_updatereplica",
    "dome_updatexattr",
    "dome_chksumstatus",
    "dome_pullstatus",
    "dome_getspaceinfo",
    "dome_statpool",
    "dome_access",
    "dome_accessreplica",
    "dome_getreplicainfo",
    "dome_getreplicavec",
    "dome_getstatinfo",
}
FRONTENDS = {
    "dome_getidmap",
    "dome_getuser",
    "dome_getusersvec",
    "dome_getgroup",
    "dome_getgroupsvec",
    "dome_getspaceinfo",
    "dome_statpool",
    "dome_getquotatoken",
}
HEAD_ONLY = {
    "dome_addpool",
    "dome_modifypool",
    "dome_rmpool",
    "dome_addfstopool",
    "dome_modifyfs",
    "dome_rmfs",
    "dome_setquotatoken",
    "dome_modquotatoken",
    "dome_delquotatoken",
    "dome_newuser",
    "dome_updateuser",
    "dome_deleteuser",
    "dome_newgroup",
    "dome_updategroup",
    "dome_deletegroup",
    "dome_statpfn",
    "dome_pfnrm",
    "dome_dochksum",
    "dome_pull",
    "dome_makespace",
}
"""Head and administrators; the last five are for disk servers and refused by name."""

INFO = "dome_info"
ALL = {command.name for command in COMMANDS}

OPEN: dict[tuple[Kind, Role], set[str]] = {
    (Kind.NODE, Role.HEAD): ALL,
    (Kind.FRONTEND, Role.HEAD): ALL,
    (Kind.ADMIN, Role.HEAD): ALL,
    (Kind.NODE, Role.DISK): {*DISKS, *FRONTENDS, INFO},
    (Kind.FRONTEND, Role.DISK): {*DISKS, *FRONTENDS, *USERS, INFO},
    (Kind.NODE, Role.FRONTEND): {*FRONTENDS, INFO},
    (Kind.FRONTEND, Role.FRONTEND): {*FRONTENDS, *USERS, INFO},
    (Kind.USER, Role.USER): {*USERS, INFO},
    (Kind.CAPABILITY, Role.USER): {*NEEDS, INFO},
    (Kind.GROUP, Role.USER): {*NEEDS, *BY_RIGHTS, INFO},
    (Kind.POWERLESS, Role.USER): {INFO},
    (Kind.ANONYMOUS, Role.NOBODY): {INFO},
}

ANYWAY = {
    (Kind.NODE, Role.DISK): {*DISKS, INFO},
    (Kind.FRONTEND, Role.DISK): {*DISKS, INFO},
    (Kind.USER, Role.USER): {INFO},
    (Kind.CAPABILITY, Role.USER): {INFO},
    (Kind.GROUP, Role.USER): {INFO},
}
"""The same where neither users call by themselves nor disk servers for them."""

OPEN_SITE = AuthConfig(direct_users=True, disk_nodes_are_frontends=True)
CLOSED_SITE = AuthConfig(direct_users=False, disk_nodes_are_frontends=False)

NOTHING = Parameters()

undeclared = Commands()


@undeclared.post("dome_new")
async def new(call: Call) -> Answer:
    return Answer.EMPTY


def refusal(
    command: Command,
    principal: Principal,
    auth: AuthConfig = OPEN_SITE,
    parameters: Parameters = NOTHING,
) -> AuthError | None:
    try:
        admitted(command, parameters, principal, auth)
    except AuthError as exc:
        return exc
    return None


def test_every_command_is_declared_or_for_the_head_only() -> None:
    assert {command.name for command in COMMANDS if command.admission == CLOSED} == HEAD_ONLY
    assert {*USERS, *DISKS, *FRONTENDS, *HEAD_ONLY, INFO} == ALL


@pytest.mark.parametrize("standing", OPEN)
def test_n6_commands_that_are_open_to(standing: tuple[Kind, Role]) -> None:
    for auth, may in ((OPEN_SITE, OPEN[standing]), (CLOSED_SITE, ANYWAY.get(standing, OPEN[standing]))):
        refusals = {command.name: refusal(command, Principal(*standing), auth) for command in COMMANDS}
        assert {name for name, refused in refusals.items() if refused is None} == may
        statuses = {refused.status for refused in refusals.values() if refused}
        assert statuses <= {401 if standing[0] is Kind.ANONYMOUS else 403}


@pytest.mark.parametrize("standing", OPEN)
def test_m2_command_without_a_rule_is_closed_to_all_but_the_head(standing: tuple[Kind, Role]) -> None:
    (command,) = undeclared
    refused = refusal(command, Principal(*standing))
    assert (refused is None) is (standing[1] is Role.HEAD)


def test_m1_scopes_that_a_command_needs() -> None:
    declared = {
        command.name: set(command.admission.needs)
        for command in COMMANDS
        if command.admission.tokens is Tokens.SCOPES
    }
    assert declared == NEEDS


def test_m2_every_object_that_a_parameter_names_is_authorised() -> None:
    """M4: by path, number or replica. Other parameters that sound like a name are given here."""
    names = {"lfn", "path", "oldpath", "newpath", "link", "fileid", "replicaid", "rfn"}
    for command in COMMANDS:
        if not command.admission.users:
            continue
        named = {each.key for each in command.parameters} & names
        assert named == {*command.admission.paths, *command.admission.ids} - {"server:pfn"}, command.name


@pytest.mark.parametrize("name", ["pool", "host", "fs", "pfn", "additionalreplica"])
@pytest.mark.parametrize("standing", OPEN)
def test_m3_physical_parameters_are_for_servers(standing: tuple[Kind, Role], name: str) -> None:
    """Whatever the command makes of them."""
    (command,) = [command for command in COMMANDS if command.name == "dome_put"]
    refused = refusal(command, Principal(*standing), parameters=Parameters({"lfn": "/a", name: "x"}))
    is_server = command.name in OPEN[standing] and standing[1] in (Role.HEAD, Role.DISK, Role.FRONTEND)
    assert (refused is None) is is_server
    if standing[0] in (Kind.USER, Kind.CAPABILITY, Kind.GROUP):
        assert refused is not None
        assert (refused.status, refused.rule) == (403, "M3")


def test_m2_what_would_replace_or_remove_spares_the_top_of_the_area() -> None:
    sparing = {command.name for command in COMMANDS if command.admission.spares_base}
    assert sparing == {"dome_put", "dome_create", "dome_unlink", "dome_removedir", "dome_rename"}


def test_m6_service_with_host_auth_reads_only() -> None:
    served = [command for command in COMMANDS if command.admission.host_auth]
    assert {command.name for command in served} == {
        "dome_getspaceinfo",
        "dome_statpool",
        "dome_getquotatoken",
    }
    assert {command.method for command in served} == {"GET"}


def test_n5_reports_are_of_what_the_server_names() -> None:
    """The parameters are the command's own, and every report has one."""
    for command in COMMANDS:
        admission = command.admission
        keys = {each.key for each in command.parameters}
        assert set(admission.reports_for) <= keys
        if admission.disk and command.method == "POST":
            assert admission.reports_for or admission.owns_file, command.name
