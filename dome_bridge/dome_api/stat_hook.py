"""Asks a site's own program about a file that may exist elsewhere: the stat hook of volatile pools.

The program gets the path as its only argument. Exit status 0 means that the file exists; then it prints
a line `>>>>> STAT <size> <mode>`, both decimal, as for the original head (DomeCore's extract_stat), or
a JSON object: `{"size": 123, "mode": 33188}`, which may have mtime, atime and ctime as well. Without a
mode it is a file that everybody may read.

The program sees nothing of our environment, has a session of its own, and does not outlive its time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
from asyncio import StreamReader, StreamReaderProtocol
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from stat import S_IFMT, S_IFREG
from typing import BinaryIO

from dome_bridge.dome_api.catalog import bytes_of
from dome_bridge.errors import ApiError

logger = logging.getLogger(__name__)

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

LONGEST_OUTPUT = 64 * 1024
MOST_AT_ONCE = 32
"""Programs; who comes later waits."""

DEFAULT_MODE = S_IFREG | 0o444

_XSTAT_NUMBERS = (
    "fileid", "parentfileid", "size", "mode", "atime", "mtime", "ctime", "uid", "gid", "nlink",
)  # fmt: skip

_LINE = re.compile(r">>>>> STAT ([0-9]{1,19})(?:[ \t]+([0-9]{1,10}))?")


@dataclass(frozen=True, slots=True)
class ExternalStat:
    """What is known of a file that is not in the catalog. mode: with the type bits; times: Unix seconds."""

    size: int
    mode: int = DEFAULT_MODE
    atime: int = 0
    mtime: int = 0
    ctime: int = 0

    @property
    def xstat(self) -> dict[str, str]:
        """As dome_getstatinfo tells it: without an inode, a name or an owner."""
        told = dict.fromkeys(_XSTAT_NUMBERS, "0")
        told |= {each.name: str(getattr(self, each.name)) for each in fields(self)}
        return {**told, "acl": "", "name": "", "xattrs": "{}"}


def parsed(output: bytes) -> ExternalStat | None:
    """None for what says nothing about a file."""
    text = output.decode("utf-8", "replace")
    if found := _LINE.search(text):
        size, mode = found.groups()
        return _checked({"size": size, "mode": mode or DEFAULT_MODE})
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return _checked(document) if isinstance(document, dict) else None


def _checked(values: Mapping[str, object]) -> ExternalStat | None:
    names = {each.name for each in fields(ExternalStat)}
    try:
        numbers = {name: int(str(value)) for name, value in values.items() if name in names}
        found = ExternalStat(**numbers)
    except (ValueError, TypeError):
        return None
    if found.mode >= 2**32 or not all(0 <= number < 2**63 for number in numbers.values()):
        return None
    return found if S_IFMT(found.mode) else replace(found, mode=S_IFREG | found.mode)


class StatHook:
    """program: None if the site has none. seconds: what it gets, for one file."""

    def __init__(self, program: Path | None, seconds: float) -> None:
        self._program = program
        self._seconds = seconds
        self._places = asyncio.Semaphore(MOST_AT_ONCE)

    async def stat(self, lfn: str) -> ExternalStat:
        """Raises ApiError: 404 for a file that the program does not find, 500 if it cannot be asked."""
        if self._program is None:
            raise ApiError(500, "Invalid stat hook.")
        async with self._places:
            output = await self._output(self._program, lfn)
        if output is None:
            raise ApiError(404, f"Cannot remotely stat lfn: '{lfn}'")
        found = parsed(output)
        if found is None:
            logger.error("stat hook said nothing that can be read lfn=%r output=%r", lfn, output[:160])
            raise ApiError(500, f"Cannot remotely stat lfn: '{lfn}'")
        return found

    async def _output(self, program: Path, lfn: str) -> bytes | None:
        """None if the program says that there is no such file, or does not end in time."""
        argument = bytes_of(lfn)
        if b"\0" in argument:
            # No program can be given such a name.
            return None
        async with _pipe() as (printed, end):
            process = await _started(program, argument, end)
            try:
                async with asyncio.timeout(self._seconds):
                    return await _answer(process, printed)
            except TimeoutError:
                logger.error("stat hook ended: it took more than %g s lfn=%r", self._seconds, lfn)
                return None
            finally:
                await _end(process)


@asynccontextmanager
async def _pipe() -> AsyncIterator[tuple[StreamReader, BinaryIO]]:
    """Where to read what is written into the other end.

    One of our own: asyncio's does not let go of a program whose pipe is held open by somebody else.
    """
    reader = StreamReader()
    incoming, outgoing = os.pipe()
    with os.fdopen(outgoing, "wb") as end:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: StreamReaderProtocol(reader), os.fdopen(incoming, "rb", 0)
        )
        try:
            yield reader, end
        finally:
            transport.close()


async def _started(program: Path, argument: bytes, end: BinaryIO) -> Process:
    """end: where it prints to; ours is closed. Raises ApiError 500."""
    try:
        return await asyncio.create_subprocess_exec(
            *(program, argument),
            stdin=DEVNULL,
            stdout=end,
            stderr=DEVNULL,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as exc:
        logger.error("stat hook cannot be started program=%s error=%s", program, exc)
        raise ApiError(500, "Could not invoke stat hook.") from exc
    finally:
        end.close()


async def _answer(process: Process, printed: StreamReader) -> bytes | None:
    """What it prints if it succeeds; of too much nothing."""
    try:
        await printed.readexactly(LONGEST_OUTPUT + 1)
    except asyncio.IncompleteReadError as exc:
        return exc.partial if await process.wait() == 0 else None
    return b""


async def _end(process: Process) -> None:
    """With all that it has started; nothing remains of it in the process table."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
