"""What the demo found out, and the table at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from sandbox.api_clients import ClientReport

NAMED = 3
"""Of complaints, so many are shown."""


@dataclass
class Score:
    """What the summary shows, and what the exit code depends on."""

    source: int = 0
    mirrored: int = 0
    quarantined: int = 0
    dropped_facts: int = 0
    copy_seconds: float = 0.0
    changes: int = 0
    operations: int = 0
    refused: int = 0
    api: ClientReport = field(default_factory=ClientReport)
    compared: int = 0
    mismatches: int = 0
    lag: float | None = None
    predicted_fence: float = 0.0
    fence_seconds: float = 0.0
    steps: list[Mapping[str, Any]] = field(default_factory=list)
    acceptance: list[str] = field(default_factory=list)
    links: int = 0
    summed: int = 0
    bad_links: list[str] = field(default_factory=list)
    without_file: int = 0
    returned: bool = False
    """Rolled back: DPM is written to, the mirror follows and agrees."""

    @property
    def agrees(self) -> bool:
        return self.source == self.mirrored + self.quarantined and self.mismatches == 0

    @property
    def ok(self) -> bool:
        return (
            self.agrees
            and not self.acceptance
            and not self.bad_links
            and self.summed > 0
            and self.api_ok
            and self.fence_ok
            and self.returned
        )

    @property
    def api_ok(self) -> bool:
        return self.api.taken > 0 and not self.api.complaints

    @property
    def fence_ok(self) -> bool:
        """Whether clients of the API met it as the protocol says: writes refused, reads answered."""
        return self.api.refused > 0 and self.api.read_meanwhile > 0


def summary(score: Score, seconds: float) -> Table:
    """One row a fact, good ones in green."""
    table = Table(title="Summary", title_justify="left", show_header=False, expand=True)
    table.add_column(min_width=30)
    table.add_column()
    for name, value, good in _facts(score):
        style = {True: "green", False: "bold red", None: ""}[good]
        table.add_row(name, Text(value, style=style))
    table.add_section()
    for step in score.steps:
        table.add_row(f"step {step['name']}", f"{step['seconds']:.2f} s")
    table.add_section()
    verdict = "source and target agree" if score.ok else "NOT GOOD: see the red lines"
    table.add_row(verdict, f"in {seconds:.0f} s, building the site included")
    return table


def _facts(score: Score) -> Iterable[tuple[str, str, bool | None]]:
    agrees = score.source == score.mirrored + score.quarantined
    yield "source entries", f"{score.source}", None
    yield "mirrored", f"{score.mirrored}", agrees
    yield "quarantined", f"{score.quarantined} entries, and {score.dropped_facts} single facts", agrees
    yield "mismatches", f"{score.mismatches} of {score.compared} compared", score.mismatches == 0
    yield "acceptance queries", ", ".join(score.acceptance) or "all clean", not score.acceptance
    yield "first copy", f"{score.copy_seconds:.0f} s, under load", None
    writes = f"{score.operations} SQL operations, {score.api.taken} API writes"
    yield "changes followed", f"{score.changes} journal rows, of {writes}", None
    yield (
        "lag before the fence",
        "unknown" if score.lag is None else f"{score.lag:.0f} s",
        score.lag is not None,
    )
    fence = f"{score.fence_seconds:.2f} s, predicted {score.predicted_fence:.2f} s"
    yield "fence", f"{fence}; {score.refused} writes with SQL refused", None
    yield from _api_facts(score)
    complaints = f", {len(score.bad_links)} complaints" if score.bad_links else ""
    linked = f"{score.links}, {score.summed} with the adler32 that Chimera says{complaints}"
    yield "links made", linked, score.summed > 0 and not score.bad_links
    back = "DPM is written to, and followed without a mismatch" if score.returned else "failed"
    yield "rolled back", back, score.returned


def _api_facts(score: Score) -> Iterable[tuple[str, str, bool | None]]:
    api = score.api
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(api.by_status.items()))
    yield "DOME API, requests", f"{api.requests} ({statuses})", api.requests > 0
    yield "answers unknown to DOME", "; ".join(api.complaints[:NAMED]) or "none", not api.complaints
    yield "writes through the API", f"{api.taken}; {api.files_removed} files removed from disk", api.taken > 0
    fenced = f"{api.refused} writes; {api.read_meanwhile} reads answered meanwhile"
    yield "refused by the fence with 503", fenced, score.fence_ok
