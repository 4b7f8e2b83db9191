"""Entries that change their type under the same name, as when an admin mends mode bits by hand."""

from __future__ import annotations

import pytest

from sandbox.dpm_statements import DIRECTORY, FILE
from tests.fixtures.mirror import HOME, Mirrored


@pytest.mark.parametrize("chimera_version", ["7.2", "10.2"])
async def test_file_that_becomes_a_directory_is_counted_and_tagged(mirrored: Mirrored) -> None:
    entry = await mirrored.catalog.file(f"{HOME}/entry")
    await mirrored.snapshot_and_follow()
    await mirrored.catalog.update(entry, filemode=DIRECTORY | 0o755)
    await mirrored.follow()
    assert await mirrored.value(entry, "itype") == DIRECTORY
    await mirrored.require_agreement()


@pytest.mark.parametrize("chimera_version", ["7.2", "10.2"])
async def test_directory_that_becomes_a_file_loses_its_children_until_it_is_mended(
    mirrored: Mirrored,
) -> None:
    directory = await mirrored.catalog.mkdir(f"{HOME}/entry")
    inner = await mirrored.catalog.mkdir(f"{HOME}/entry/inner")
    child = await mirrored.catalog.file(f"{HOME}/entry/inner/child")
    await mirrored.snapshot_and_follow()
    await mirrored.catalog.replica(directory)
    await mirrored.catalog.update(directory, filemode=FILE | 0o644)
    await mirrored.follow()
    assert await mirrored.value(directory, "itype") == FILE
    assert await mirrored.quarantined(inner) == [("entry", "parent-absent")]
    assert await mirrored.quarantined(child) == [("entry", "parent-absent")]
    await mirrored.require_agreement()
    await mirrored.catalog.update(directory, filemode=DIRECTORY | 0o755)
    await mirrored.follow()
    assert await mirrored.path(child) == f"{HOME}/entry/inner/child"
    await mirrored.require_agreement()


async def test_directory_with_an_unknown_type_is_left_out_with_all_below(mirrored: Mirrored) -> None:
    directory = await mirrored.catalog.mkdir(f"{HOME}/entry")
    child = await mirrored.catalog.file(f"{HOME}/entry/child")
    await mirrored.snapshot_and_follow()
    await mirrored.catalog.update(directory, filemode=0o010755)
    await mirrored.follow()
    assert await mirrored.quarantined(directory) == [("entry", "type-unknown")]
    assert await mirrored.quarantined(child) == [("entry", "parent-absent")]
    await mirrored.require_agreement()
