"""Ends a throw-away server, and deletes its directory, when its parent is gone.

Run as a process of its own: `python guardian.py DIRECTORY`. It waits for the end of its standard
input, a pipe that only the parent holds, so even a SIGKILL of the parent ends the wait.
A death signal (prctl) would be shorter, but the kernel drops it for a binary with file
capabilities, as some packages of MariaDB have, and nobody would delete the directory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

GRACE_SECONDS = 10.0


def server_pids(directory: str) -> list[int]:
    """The processes that were started with the directory in an argument."""
    own = os.getpid()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == own:
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            if os.fsencode(directory) + b"/" in command:
                found.append(int(entry.name))
    return found


def end_servers(directory: str) -> None:
    """Kill until nothing is left; a postmaster's children follow it by themselves."""
    deadline = time.monotonic() + GRACE_SECONDS
    while (pids := server_pids(directory)) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def delete(directory: str) -> None:
    """Delete, trying again while a dying process still creates files."""
    deadline = time.monotonic() + GRACE_SECONDS
    while Path(directory).exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.01)


def main() -> None:
    directory = sys.argv[1]
    sys.stdin.read()
    end_servers(directory)
    delete(directory)


if __name__ == "__main__":
    main()
