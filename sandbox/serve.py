"""`./run serve`: the demo's site with a daemon that mirrors it, left running to try things out."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sandbox.playground import CHIMERA, CNS, DPM, POLL_SECONDS, Playground, open_playground, play, site_size
from sandbox.servers import SandboxError

START_SECONDS = 60.0
SLOW = 2.0


def addresses(playground: Playground) -> Table:
    maria, postgres = playground.maria, playground.postgres
    rows = {
        "MariaDB": f"{maria.host}:{maria.port}, user {maria.user}, password {maria.password}",
        "": f"databases {CNS} and {DPM}; socket {maria.unix_socket}",
        "PostgreSQL": postgres.dsn(CHIMERA),
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
        f"export DOME_BRIDGE_CONFIG={playground.config}",
        ".venv/bin/dome-bridge status",
        ".venv/bin/dome-bridge verify",
        ".venv/bin/dome-bridge quarantine",
        ".venv/bin/dome-bridge cutover",
        f"mysql --socket={maria.unix_socket} --user={maria.user} --password={maria.password} {CNS}",
        f"psql {playground.postgres.dsn(CHIMERA)}",
        f"curl -s {playground.monitoring}/metrics",
    ]


async def serve(files: int, console: Console) -> int:
    """Until it is stopped; 1 if the daemon does not come up."""
    async with AsyncExitStack() as stack:
        with console.status(f"making a site of {files} files on private, throw-away servers"):
            playground = await stack.enter_async_context(open_playground(files))
        await playground.bridge("init")
        await stack.enter_async_context(playground.writer(connections=2, interval=SLOW))
        daemon = await stack.enter_async_context(playground.daemon())
        if not await _is_up(playground, daemon):
            console.print(Text(f"the daemon does not answer: {playground.daemon_words()}", style="bold red"))
            return 1
        _show(playground, console)
        if await daemon.wait():
            console.print(Text(f"the daemon ended: {playground.daemon_words()}", style="bold red"))
            return 1
        console.print("the daemon ended; the servers stay until Ctrl-C")
        await asyncio.Event().wait()
    return 0


async def _is_up(playground: Playground, daemon: asyncio.subprocess.Process) -> bool:
    for _ in range(round(START_SECONDS / POLL_SECONDS)):
        if daemon.returncode is not None:
            return False
        if await playground.status():
            return True
        await asyncio.sleep(POLL_SECONDS)
    return False


def _show(playground: Playground, console: Console) -> None:
    console.print(addresses(playground))
    console.print("\nTry, in another terminal:\n")
    for line in examples(playground):
        console.print(Text(f"  {line}"), soft_wrap=True)
    console.print("\nA slow random writer changes the catalog. Ctrl-C ends everything and deletes it.")


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
