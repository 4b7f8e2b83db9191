"""What disk servers say of their file systems, as far as the exporter wants to know it.

The exporter does not know how disk servers are spoken to; whoever calls it does, and passes a
`DiskServers` in, or None where no key for them is configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class FileSystemAnswer(NamedTuple):
    """Bytes, as they were said: nothing is checked. is_broken: the server itself cannot use it."""

    free: int
    size: int
    is_broken: bool = False


@dataclass(frozen=True)
class ServerAnswer:
    """By path. problem: why there is no answer; empty if there is one."""

    filesystems: Mapping[str, FileSystemAnswer] = field(default_factory=dict)
    problem: str = ""


class PathAnswer(NamedTuple):
    """problem: why nothing is known of the path; empty if it is there."""

    size: int = 0
    is_directory: bool = False
    problem: str = ""


class DiskServers(Protocol):
    """Asks; never raises for what a server does or does not say."""

    async def space(self, server: str) -> ServerAnswer: ...

    async def stat(self, server: str, pfn: str) -> PathAnswer: ...
