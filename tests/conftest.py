"""Fixtures of all tests; they live by theme in tests/fixtures."""

from __future__ import annotations

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

__all__ = [
    "chimera_dsn",
    "chimera_version",
    "dpm_site",
    "maria",
    "mortal_maria",
    "mortal_postgres",
    "postgres",
    "spacemanager_dsn",
]
