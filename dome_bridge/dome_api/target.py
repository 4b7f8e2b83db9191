"""An entry that a look-up has found, on its way into the transaction that changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dome_bridge.dome_api import catalog
from dome_bridge.dome_api.catalog import Entry
from dome_bridge.dome_api.changes import GoneError, locked_again
from dome_bridge.dpm.source import Source

Check = Callable[[Entry, Entry], None]
"""Raises ApiError unless the directory and the entry in it are such that the command may go on."""


@dataclass(frozen=True)
class Target:
    """entry: as a look-up has found it. check: made again under lock, as rights may have been taken away."""

    entry: Entry
    check: Check

    async def locked(self, source: Source) -> Entry:
        """The entry as it is now; neither it nor its directory changes until the transaction ends.

        Raises GoneError if it is not where it was found, and what `check` raises.
        """
        parent = await catalog.shared_entry(source, self.entry.parent)
        entry = await locked_again(source, self.entry)
        if parent is None:
            raise GoneError(f"the directory of '{entry.name}' (fileid {entry.fileid})")
        self.check(parent, entry)
        return entry
