"""`./run serve`: the demo's site with a daemon that mirrors it and serves the DOME API, to try things out."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shlex
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dome_bridge.dome_api.request import RemoteUser
from sandbox import operations as op
from sandbox.api_clients import PROXIED, ApiUser, DomeClient, upload
from sandbox.people import Population
from sandbox.playground import CHIMERA, CNS, DPM, POLL_SECONDS, Playground, open_playground, play, site_size
from sandbox.servers import SandboxError
from sandbox.writer import TAME

START_SECONDS = 60.0
SLOW = 2.0
GUEST_VO = "dteam"

CALM: Mapping[op.Operation, float] = {
    operation: TAME[operation]
    for operation in (
        op.upload,
        op.abandon_upload,
        op.make_directory,
        op.make_tree,
        op.make_symlink,
        op.count_access,
        op.touch_replica,
        op.utime,
        op.touch_access_time,
        op.change_checksum,
        op.change_xattr,
        op.set_comment,
        op.change_directory_size,
        op.new_user,
        op.new_group,
        op.set_token,
    )
}
"""Changes that leave everything where it is: what is printed stays true."""


@dataclass(frozen=True)
class Guest:
    """A user who may be played with. upload: the path of a file of his; file: where a disk server has it."""

    user: RemoteUser
    home: str
    upload: str
    file: Path


def addresses(playground: Playground) -> Table:
    maria, postgres = playground.maria, playground.postgres
    rows = {
        "MariaDB": f"{maria.host}:{maria.port}, user {maria.user}, password {maria.password}",
        "": f"databases {CNS} and {DPM}; socket {maria.unix_socket}",
        "PostgreSQL": postgres.dsn(CHIMERA),
        "DOME API": playground.api,
        "monitoring": f"{playground.monitoring}/ and /status, /metrics, /healthz",
        "configuration": str(playground.config),
        "daemon's log": str(playground.daemon_log),
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    return table


def examples(playground: Playground) -> list[str]:
    maria = playground.maria
    return [
        f"export DOME_BRIDGE_CONFIG={playground.config} STATE_DIRECTORY={playground.directory}",
        ".venv/bin/dome-bridge status",
        ".venv/bin/dome-bridge verify",
        ".venv/bin/dome-bridge quarantine",
        ".venv/bin/dome-bridge rehearse",
        ".venv/bin/dome-bridge cutover",
        ".venv/bin/dome-bridge rollback",
        f"mysql --socket={maria.unix_socket} --user={maria.user} --password={maria.password} {CNS}",
        f"psql {playground.postgres.dsn(CHIMERA)}",
        f"curl -s {playground.monitoring}/metrics",
    ]


def api_examples(playground: Playground, guest: Guest) -> list[str]:
    """For a shell, one after the other."""
    headers = {"remoteclientdn": guest.user.dn, "remoteclientgroups": ",".join(guest.user.groups)}
    return [
        f"api={playground.api}",
        f"as_door() {{ curl -sS -w ' [%{{http_code}}]\\n' {_given(PROXIED)} \"$@\"; }}",
        f'as_user() {{ as_door {_given(headers)} "$@"; }}',
        _curl("as_door -X GET", "dome_getstatinfo", lfn=guest.home),
        _curl("as_door -X GET", "dome_getidmap", username=guest.user.dn, groupnames=list(guest.user.groups)),
        _curl("as_user", "dome_makedir", path=f"{guest.home}/mine", mode=str(0o755)),
        _curl("as_user -X GET", "dome_getdir", path=guest.home),
        f"ls -l {shlex.quote(str(guest.file))}",
        _curl("as_user", "dome_unlink", lfn=guest.upload),
        f"ls -l {shlex.quote(str(guest.file))}",
    ]


def _given(headers: Mapping[str, str]) -> str:
    return " ".join(f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers.items())


def _curl(begin: str, command: str, **parameters: str | list[str]) -> str:
    body = json.dumps(parameters, ensure_ascii=False)
    return f"{begin} -d {shlex.quote(body)} $api/{command}"


async def serve(files: int, console: Console) -> int:
    """Until it is stopped; 1 if the daemon does not come up."""
    async with AsyncExitStack() as stack:
        with console.status(f"making a site of {files} files on private, throw-away servers"):
            playground = await stack.enter_async_context(open_playground(files))
        await playground.bridge("init")
        await stack.enter_async_context(playground.writer(weights=CALM, connections=2, interval=SLOW))
        daemon = await stack.enter_async_context(playground.daemon())
        door = await stack.enter_async_context(DomeClient(playground.api))
        if not await _is_up(playground, daemon, door):
            console.print(Text(f"the daemon does not answer: {playground.daemon_words()}", style="bold red"))
            return 1
        _show(playground, await _welcome(playground, door), console)
        if await daemon.wait():
            console.print(Text(f"the daemon ended: {playground.daemon_words()}", style="bold red"))
            return 1
        console.print("the daemon ended; the servers stay until Ctrl-C")
        await asyncio.Event().wait()
    return 0


async def _is_up(playground: Playground, daemon: asyncio.subprocess.Process, door: DomeClient) -> bool:
    for _ in range(round(START_SECONDS / POLL_SECONDS)):
        if daemon.returncode is not None:
            return False
        if await playground.status() and await door.is_answered():
            return True
        await asyncio.sleep(POLL_SECONDS)
    return False


async def _welcome(playground: Playground, door: DomeClient) -> Guest:
    """Has a user upload a file through the API. SandboxError if that does not work."""
    home = f"{playground.site.home}/{GUEST_VO}"
    user = RemoteUser(_somebody(playground), groups=(GUEST_VO,))
    places = [place for place in playground.site.filesystems if place.pool == "data"]
    guest = ApiUser(door, user, home, places, random.Random(1), "guest")
    await guest.settle()
    await upload(guest)
    for path, files in guest.files.items():
        for file in files:
            return Guest(user, home, path, file)
    raise SandboxError(f"the DOME API does not take a file: {'; '.join(door.report.complaints)}")


def _somebody(playground: Playground) -> str:
    """The first of the guests' organisation who is a person."""
    site = playground.site
    people = [user for user in Population(site.domain, site.files).users if user.vo == GUEST_VO]
    return people[1].name


def _show(playground: Playground, guest: Guest, console: Console) -> None:
    console.print(addresses(playground))
    console.print("\nTry, in another terminal:\n")
    _print_lines(console, examples(playground))
    console.print("\nThe DOME API, for a front-end and for a user:\n")
    _print_lines(console, api_examples(playground, guest))
    console.print("\nA slow random writer changes the catalog. Ctrl-C ends everything and deletes it.")


def _print_lines(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(Text(f"  {line}"), soft_wrap=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run serve", description=__doc__)
    parser.add_argument("--files", type=site_size, default=2000, help="size of the site (default 2000)")
    console = Console(highlight=False)
    try:
        return play(serve(parser.parse_args().files, console))
    except SandboxError as exc:
        console.print(Text(f"{exc}", style="bold red"))
        return 2


if __name__ == "__main__":
    sys.exit(main())
