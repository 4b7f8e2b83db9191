"""Fixtures of all tests; they live by theme in tests/fixtures."""

from __future__ import annotations

from hypothesis import settings

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
from tests.fixtures.storage import golden_disk_servers, storage
from tests.fixtures.uploads import golden_upload_servers, uploads

# On a busy machine the time of a single example says nothing.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

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
    "postgres",
    "spacemanager_dsn",
    "storage",
    "uploads",
]
