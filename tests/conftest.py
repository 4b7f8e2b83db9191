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

# On a busy machine the time of a single example says nothing.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

__all__ = [
    "chimera_dsn",
    "chimera_version",
    "dpm_site",
    "maria",
    "mirrored",
    "mortal_maria",
    "mortal_postgres",
    "postgres",
    "spacemanager_dsn",
]
