"""Directory tags: where they begin, how far they reach, and what moves them."""

from __future__ import annotations

import pytest

from tests.fixtures.mirror import HOME, Mirrored

DISK_ONLY = {"AccessLatency": "ONLINE", "RetentionPolicy": "REPLICA"}


async def tags(mirrored: Mirrored, path: str) -> dict[str, str]:
    rows = await mirrored.conn.fetch(
        "SELECT itagname, convert_from(ivalue, 'UTF8') FROM t_tags JOIN t_tags_inodes USING (itagid)"
        " WHERE inumber = $1",
        mirrored.inumber(await mirrored.catalog.fileid(path)),
    )
    return dict(tuple(row) for row in rows)


async def group(mirrored: Mirrored, path: str) -> str:
    return (await tags(mirrored, path))["sGroup"]


def of_vo(group: str, vo: str = "dteam") -> dict[str, str]:
    return {"OSMTemplate": f"StoreName {vo}", "sGroup": group} | DISK_ONLY


async def test_root_and_everything_above_the_vo_has_latency_and_policy_only(mirrored: Mirrored) -> None:
    await mirrored.snapshot_and_follow()
    for path in ("", "/dpm", "/dpm/example.org/home"):
        assert await tags(mirrored, path) == DISK_ONLY
    await mirrored.require_agreement()


async def test_vo_directory_begins_a_storage_class_that_all_below_inherits(mirrored: Mirrored) -> None:
    await mirrored.catalog.mkdir(f"{HOME}/d")
    await mirrored.catalog.mkdir(f"{HOME}/d/inner")
    await mirrored.snapshot_and_follow()
    for path in (HOME, f"{HOME}/d", f"{HOME}/d/inner"):
        assert await tags(mirrored, path) == of_vo("default")
    await mirrored.require_agreement()


async def test_vo_that_arrives_later_is_tagged_too(mirrored: Mirrored) -> None:
    await mirrored.snapshot_and_follow()
    await mirrored.catalog.mkdir("/dpm/example.org/home/new vo+")
    await mirrored.follow()
    assert await tags(mirrored, "/dpm/example.org/home/new vo+") == of_vo("default", "new_vo_")
    await mirrored.require_agreement()


@pytest.mark.parametrize("chimera_version", ["8.2", "10.2"])
async def test_nested_tokens_each_rule_their_own_part(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    for path in ("outer", "outer/inner", "outer/inner/below", "outer/beside"):
        await catalog.mkdir(f"{HOME}/{path}")
    await catalog.token(f"{HOME}/outer", "OUTER")
    await catalog.token(f"{HOME}/outer/inner", "INNER TOKEN")
    await mirrored.snapshot_and_follow()
    assert await tags(mirrored, f"{HOME}/outer/beside") == of_vo("OUTER")
    assert await tags(mirrored, f"{HOME}/outer/inner/below") == of_vo("INNER_TOKEN")
    await mirrored.require_agreement(is_fresh=True)


async def test_token_of_the_vo_directory_names_its_group(mirrored: Mirrored) -> None:
    await mirrored.catalog.mkdir(f"{HOME}/d")
    await mirrored.catalog.token(HOME, "DTEAM")
    await mirrored.snapshot_and_follow()
    assert await tags(mirrored, f"{HOME}/d") == of_vo("DTEAM")
    await mirrored.require_agreement()


@pytest.mark.parametrize(
    ("path", "expected"), [("/", of_vo("TOKEN", "dpm")), ("/dpm", of_vo("TOKEN", "dpm"))]
)
async def test_token_above_every_vo_belongs_to_dpm(
    mirrored: Mirrored, path: str, expected: dict[str, str]
) -> None:
    await mirrored.catalog.token(path, "TOKEN")
    await mirrored.snapshot_and_follow()
    assert await tags(mirrored, "/dpm/example.org") == expected
    assert await tags(mirrored, HOME) == of_vo("default")
    await mirrored.require_agreement()


async def test_token_without_path_or_of_no_directory_tags_nothing(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    await catalog.file(f"{HOME}/file")
    await catalog.token(None, "LEGACY")
    for path in (f"{HOME}/nowhere", f"{HOME}/file", "relative", "/dpm/../dpm"):
        await catalog.token(path, "TOKEN")
    await mirrored.snapshot_and_follow()
    assert await tags(mirrored, HOME) == of_vo("default")
    await mirrored.require_agreement()


async def test_token_comes_changes_its_name_and_place_and_goes(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    for path in ("a", "a/below", "b", "b/below"):
        await catalog.mkdir(f"{HOME}/{path}")
    await mirrored.snapshot_and_follow()
    await catalog.token(f"{HOME}/a", "TOKEN")
    await mirrored.follow()
    assert await group(mirrored, f"{HOME}/a/below") == "TOKEN"
    changes = (
        ("SET u_token = 'RENAMED'", "RENAMED", "default"),
        (f"SET path = '{HOME}/b'", "default", "RENAMED"),
        ("SET path = NULL", "default", "default"),
        (f"SET path = '{HOME}/a/'", "RENAMED", "default"),
    )
    for change, in_a, in_b in changes:
        await catalog.execute(f"UPDATE {catalog.tokens} {change}")
        await mirrored.follow()
        assert [await group(mirrored, f"{HOME}/{path}/below") for path in "ab"] == [in_a, in_b]
        await mirrored.require_agreement()
    await catalog.execute(f"DELETE FROM {catalog.tokens}")
    await mirrored.follow()
    assert await group(mirrored, f"{HOME}/a/below") == "default"
    await mirrored.require_agreement()


async def test_directory_of_a_token_that_is_created_later_begins_it(mirrored: Mirrored) -> None:
    await mirrored.catalog.token(f"{HOME}/later", "LATER")
    await mirrored.snapshot_and_follow()
    await mirrored.catalog.mkdir(f"{HOME}/later")
    await mirrored.catalog.mkdir(f"{HOME}/later/below")
    await mirrored.follow()
    assert await group(mirrored, f"{HOME}/later/below") == "LATER"
    await mirrored.require_agreement()


@pytest.mark.parametrize("chimera_version", ["8.2", "10.2"])
@pytest.mark.parametrize("batch", [1, 500])
async def test_directory_moved_to_another_token_takes_its_tree_along(mirrored: Mirrored, batch: int) -> None:
    catalog = mirrored.catalog
    for path in ("a", "b", "a/moved", "a/moved/deep", "a/moved/deep/deeper"):
        await catalog.mkdir(f"{HOME}/{path}")
    for name in "ab":
        await catalog.token(f"{HOME}/{name}", name.upper())
    await mirrored.snapshot_and_follow()
    await catalog.move(f"{HOME}/a/moved", f"{HOME}/b/moved")
    await mirrored.follow(batch)
    for path in ("moved", "moved/deep", "moved/deep/deeper"):
        assert await group(mirrored, f"{HOME}/b/{path}") == "B"
    await mirrored.require_agreement()


async def test_token_stays_with_its_path_when_the_directory_moves_away(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    await catalog.mkdir(f"{HOME}/place")
    await catalog.mkdir(f"{HOME}/place/below")
    await catalog.token(f"{HOME}/place", "TOKEN")
    await mirrored.snapshot_and_follow()
    await catalog.move(f"{HOME}/place", f"{HOME}/away")
    await mirrored.follow()
    assert await group(mirrored, f"{HOME}/away/below") == "default"
    await mirrored.require_agreement()
    await catalog.mkdir(f"{HOME}/place")
    await mirrored.follow()
    assert await group(mirrored, f"{HOME}/place") == "TOKEN"
    await mirrored.require_agreement()


async def test_content_of_a_tag_goes_with_its_last_directory(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    await catalog.mkdir(f"{HOME}/d")
    await catalog.token(f"{HOME}/d", "TOKEN")
    await mirrored.snapshot_and_follow()
    before = await mirrored.conn.fetchval("SELECT count(*) FROM t_tags_inodes")
    await catalog.rmdir(f"{HOME}/d")
    await mirrored.follow()
    assert await mirrored.conn.fetchval("SELECT count(*) FROM t_tags_inodes") == before - 4
    await mirrored.require_agreement()


async def test_renamed_home_takes_the_storage_classes_along(mirrored: Mirrored) -> None:
    catalog = mirrored.catalog
    await catalog.mkdir(f"{HOME}/d")
    await mirrored.snapshot_and_follow()
    await catalog.move("/dpm/example.org/home", "/dpm/example.org/gone")
    await mirrored.follow()
    assert await tags(mirrored, "/dpm/example.org/gone/dteam/d") == DISK_ONLY
    await mirrored.require_agreement()
    await catalog.move("/dpm/example.org/gone", "/dpm/example.org/home")
    await mirrored.follow()
    assert await tags(mirrored, f"{HOME}/d") == of_vo("default")
    await mirrored.require_agreement()
