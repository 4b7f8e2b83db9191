"""Fixtures of all tests; they live by theme in tests/fixtures."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.fixtures.cutover import state_directory
from tests.fixtures.databases import (
    chimera_dsn,
    chimera_version,
    dpm_site,
    maria,
    mortal_maria,
    mortal_postgres,
    postgres,
    spacemanager_dsn,
)
from tests.fixtures.mirror import mirrored
from tests.fixtures.ready_site import originals, ready
from tests.fixtures.storage import golden_disk_servers, storage
from tests.fixtures.uploads import golden_upload_servers, uploads

# On a busy machine the time of a single example says nothing.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

KILLS = 26
"""Of a cutover, in a normal run; a long one has hundreds."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=KILLS, metavar="N", help=f"times a cutover is killed ({KILLS})"
    )


__all__ = [
    "chimera_dsn",
    "chimera_version",
    "dpm_site",
    "golden_disk_servers",
    "golden_upload_servers",
    "maria",
    "mirrored",
    "mortal_maria",
    "mortal_postgres",
    "originals",
    "postgres",
    "ready",
    "spacemanager_dsn",
    "state_directory",
    "storage",
    "uploads",
]
