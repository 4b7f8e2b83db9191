"""Stages DPM rows in a PostgreSQL session and projects them into Chimera rows.

This drives the one mapping (`chimera/project.sql`) for everybody: the mirror applies the
result, verify compares it, check only counts it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import asyncpg

from dome_bridge.chimera import stage
from dome_bridge.chimera.state import Site
from dome_bridge.dpm import read
from dome_bridge.dpm.checksum import CHECKSUM_KINDS
from dome_bridge.dpm.schema import SourceLayout
from dome_bridge.dpm.source import Source
from dome_bridge.exporter.acl_mapping import ChimeraAcl, Untranslatable, chimera_acl
from dome_bridge.staging import ENTRY, MAX_FILEID

logger = logging.getLogger(__name__)

_ACE_COLUMNS = (
    "acl",
    "mode",
    "ace_order",
    "rs_type",
    "type",
    "access_msk",
    "who",
    "who_id",
    "flags",
)


class Projection:
    """A pair of connections: rows are read from `source` and projected in `conn`.

    Everything happens in the caller's transaction on `conn`, whose end empties the staging
    tables. Use `source.snapshot()` around it, so that all three readings see one state.
    """

    def __init__(self, source: Source, layout: SourceLayout, conn: asyncpg.Connection, site: Site) -> None:
        self.source = source
        self.layout = layout
        self.conn = conn
        self.site = site
        self._sql = stage.fill("dome_bridge.chimera", "project.sql", site)

    @classmethod
    async def open(
        cls,
        source: Source,
        layout: SourceLayout,
        conn: asyncpg.Connection,
        site: Site,
        *,
        permanent: bool = True,
    ) -> Projection:
        """Prepares a fresh session for projections of a mirrored Chimera, or of a forecast."""
        await stage.prepare(conn, site, CHECKSUM_KINDS, permanent=permanent)
        return cls(source, layout, conn, site)

    async def stage_range(self, lo: int, hi: int, *, directories: bool | None = None) -> None:
        """Copies all rows with lo <= fileid <= hi; only directories (True) or all else (False) on demand."""
        for reading in read.readings(self.source, self.layout, directories=directories):
            if directories and reading.staged is not ENTRY:
                continue
            await stage.copy(self.conn, reading.staged, read.lines_of_range(self.source, reading, lo, hi))
        await self._execute("staged")

    async def stage_ids(self, fileids: Sequence[int]) -> None:
        """Copies the rows of these fileids, which need not exist any more."""
        fitting = [fileid for fileid in fileids if 0 < fileid <= MAX_FILEID]
        await self._execute("requested", fitting)
        for reading in read.readings(self.source, self.layout):
            await stage.copy(self.conn, reading.staged, read.lines_of_ids(self.source, reading, fitting))

    async def widen_to_mirrored(self, lo: int, hi: int) -> None:
        """Takes what Chimera and the quarantine hold of a range into the scope."""
        await self._execute("mirrored_in_range", lo, hi)
        await self._execute("quarantined_in_range", lo, hi)

    async def project_rows(self, *, unique_names: bool) -> None:
        """What each entry becomes by its own rows. `unique_names`: the source is trusted to have no two."""
        await self._translate_acls()
        for name in (
            "replicas",
            "replicas_by_sfn",
            "replicas_unplaced",
            "replicas_at_fault",
            "locations",
            "entries",
            "checksums",
            "facts",
        ):
            await self._execute(name)
        if not unique_names:
            await self._execute("duplicate_names")

    async def recall_decisions(self) -> None:
        """Leaves out what was left out for Chimera's sake, which the rows alone do not show."""
        await self._execute("recalled")

    async def project_taken(self) -> None:
        """Which entries cannot be because dCache made something of its own there."""
        await self._execute("inumber_taken")
        await self._execute("name_taken")

    async def project_presence(self, *, mirrored: bool) -> None:
        """Which entries hang on the root, given what is known of directories outside the scope.

        mirrored: Chimera holds entries of the scope, which may have to go with all below them.
        """
        if mirrored:
            await self.project_taken()
        await self._execute("parents")
        if mirrored and await self.conn.fetchval(self._sql["endangered"]):
            await self._execute("anchors")
        await self._execute("present_directories")
        await self._execute("absent_parents")

    async def _execute(self, name: str, *args: object) -> None:
        await self.conn.execute(self._sql[name], *args)

    async def _translate_acls(self) -> None:
        """ACL text is parsed once per distinct value, in Python; the cache lives in `chimera_acl`."""
        forms, aces = [], []
        for acl, mode in await self.conn.fetch(self._sql["distinct_acls"]):
            translated = chimera_acl(acl, mode)
            reason = translated.reason if isinstance(translated, Untranslatable) else None
            forms.append((acl, mode, translated.imode, reason))
            if isinstance(translated, ChimeraAcl):
                aces += [(acl, mode, order, *ace) for order, ace in enumerate(translated.aces)]
        if forms:
            await self.conn.copy_records_to_table(
                "acl_form", records=forms, columns=["acl", "mode", "imode", "reason"]
            )
        if aces:
            await self.conn.copy_records_to_table("acl_ace", records=aces, columns=list(_ACE_COLUMNS))
