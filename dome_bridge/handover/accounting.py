"""Whose accounting reports must stop at the cutover, and whose must begin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dome_bridge.exporter.findings import Finding, Severity
from dome_bridge.handover.layouts import SRR_PORT
from dome_bridge.handover.site import Site

CHECKS: Mapping[str, str] = {
    "accounting-srr": "the storage summary (SRR)",
    "accounting-star": "the accounting records (StAR) that go to APEL",
    "accounting-bdii": "what the information system (BDII) publishes",
}


def findings(site: Site) -> Iterator[Finding]:
    yield Finding(
        "accounting-srr",
        Severity.INFO,
        "DPM's dpm-storage-summary.py must stop writing the storage summary, and dCache's frontend starts"
        f" to publish it at https://{site.head}:{SRR_PORT}/api/v1/srr; the namespace paths in it stay",
        "remove DPM's cron job; enter the new address in the experiments' and WLCG's configuration databases,"
        " and open the port",
    )
    yield Finding(
        "accounting-star",
        Severity.INFO,
        "DPM's star-accounting.py must stop after its last record, and dCache's dcache-star starts with the"
        " gids of star.gid-mapping in dcache.conf: both at a time count everything twice",
        "remove DPM's cron job, then let cron run dcache-star; star.site and star.storage-system must name"
        " what DPM's records named",
    )
    yield Finding(
        "accounting-bdii",
        Severity.INFO,
        "DPM's providers (dpm-listspaces, lcg-info-provider-dpm) must stop, and dCache's"
        " dcache-info-provider starts",
        "remove DPM's scripts from /var/lib/bdii/gip/provider and link dcache-info-provider there; edit"
        " /etc/dcache/info-provider.xml, or take the storage element out of the site's BDII",
    )
