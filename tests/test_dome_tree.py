"""Making and removing entries: every answer, what it does to the rows, and several clients at once."""

from __future__ import annotations

import asyncio
import stat
from typing import Any

import pytest

from dome_bridge.dome_api.request import RemoteUser
from tests.fixtures.tree import (
    ALICE,
    ALICE_UID,
    ATLAS,
    BOB,
    BOB_UID,
    CLIENTS,
    DTEAM,
    HOME,
    LONG_AGO,
    ROOT,
    Tree,
    room,
    tree,
)

__all__ = ["room", "tree"]


@pytest.mark.parametrize(
    ("path", "user", "status"),
    [
        ("", ALICE, 422),
        ("/", ALICE, 403),
        ("/", ROOT, 400),
        ("rel", ALICE, 403),
        (f"{HOME}/dteam/sub", ALICE, 400),
        (f"{HOME}/dteam/sub/", ALICE, 400),
        (f"{HOME}/dteam/sub/.", ALICE, 400),
        (f"{HOME}/dteam/sub/..", ALICE, 400),
        (f"{HOME}/dteam/legacy_ad", ALICE, 400),
        (f"{HOME}/dteam/legacy_ad/x", ALICE, 400),
        (f"{HOME}/dteam/lnk_dir/x", ALICE, 400),
        (f"{HOME}/dteam/none/x", ALICE, 404),
        (f"{HOME}/dteam/x", BOB, 403),
        (f"{HOME}/cms/x", ALICE, 403),
        (f"{HOME}/dteam/{'n' * 256}", ALICE, 400),
        (f"{HOME}/dteam/{'ü' * 128}", ALICE, 400),
        ("/x" * 300, ROOT, 404),
    ],
)
async def test_directory_that_cannot_be_made(tree: Tree, path: str, user: RemoteUser, status: int) -> None:
    assert await tree.post("dome_makedir", user, path=path, mode="493") == status


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("509", 0o775),
        ("493", 0o755),
        (448, 0o700),
        ("0755", 0o1361),
        ("16895", 0o775),
        ("-1", 0o7775),
        ("xyz", 0o7775),
        (None, 0o7775),
    ],
)
async def test_mode_of_a_new_directory_is_cut_by_the_acl_it_inherits(
    tree: Tree, mode: object, expected: int
) -> None:
    path = f"{HOME}/dteam/mode-{mode}"
    given: dict[str, Any] = {} if mode is None else {"mode": mode}
    assert await tree.post("dome_makedir", path=path, **given) == 200
    assert (await tree.entry(path)).mode == stat.S_IFDIR | expected


async def test_new_directory_hands_down_acl_and_belongs_to_its_makers_first_group(tree: Tree) -> None:
    await tree.make(f"{HOME}/dteam/heir/", mode=0o755)
    heir = await tree.entry(f"{HOME}/dteam/heir")
    assert (heir.uid, heir.gid, heir.nlink, heir.size, heir.status) == (ALICE_UID, DTEAM, 0, 0, "-")
    assert heir.acl_text == b"A7101,C5101,F50,a70,c7101,f50"


async def test_entries_below_a_setgid_directory_take_its_group(tree: Tree) -> None:
    await tree.make(f"{HOME}/atlas/sg/", f"{HOME}/atlas/sg/f", mode=0o664, user=ROOT)
    assert await tree.post("dome_symlink", ROOT, target="x", link=f"{HOME}/atlas/sg/l") == 200
    made = [await tree.entry(f"{HOME}/atlas/{name}") for name in ("sg", "sg/f", "sg/l")]
    assert [(entry.uid, entry.gid, entry.mode) for entry in made] == [
        (0, ATLAS, 0o042664),
        (0, ATLAS, 0o102664),
        (0, ATLAS, 0o122777),
    ]


async def test_new_entry_is_counted_and_its_directory_is_touched(tree: Tree, room: str) -> None:
    await tree.change(room, f"atime = {LONG_AGO}, mtime = {LONG_AGO}, ctime = {LONG_AGO}")
    await tree.make(f"{room}/d/", f"{room}/f")
    directory = await tree.entry(room)
    assert (directory.nlink, directory.atime) == (2, LONG_AGO)
    assert min(directory.mtime, directory.ctime) > LONG_AGO


async def test_longest_name_is_stored_whole(tree: Tree, room: str) -> None:
    name = "ü" * 127 + "n"
    await tree.make(f"{room}/{name}/")
    assert (await tree.entry(f"{room}/{name}")).name == name


async def test_name_that_differs_in_trailing_blanks_is_taken(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/a/", f"{room}/f")
    assert await tree.post("dome_makedir", path=f"{room}/a ", mode=493) == 400
    assert await tree.post("dome_create", path=f"{room}/f ", mode=420) == 422
    assert (await tree.entry(room)).nlink == 2


async def test_nothing_is_made_below_an_acl_that_cannot_be_read(tree: Tree, room: str) -> None:
    await tree.change(room, "acl = 'nonsense'")
    assert await tree.post("dome_makedir", path=f"{room}/d") == 400
    assert await tree.post("dome_create", path=f"{room}/f") == 422
    assert await tree.post("dome_makedir", BOB, path=f"{room}/d") == 403


async def test_fileid_that_is_in_use_is_named(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/d/")
    await tree.sql("UPDATE {cns}.Cns_unique_id SET id = id - 1")
    answer = await tree.answer("dome_makedir", path=f"{room}/e")
    await tree.sql("UPDATE {cns}.Cns_unique_id SET id = id + 1")
    assert answer.status == 400
    assert "set Cns_unique_id" in answer.text


async def test_counter_without_a_row_begins_at_one(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/d/")
    last = (await tree.entry(f"{room}/d")).fileid
    await tree.sql("DELETE FROM {cns}.Cns_unique_id")
    await tree.make(f"{room}/e/")
    await tree.sql(f"UPDATE {{cns}}.Cns_unique_id SET id = {last}")
    assert (await tree.entry(f"{room}/e")).fileid == 1


async def test_of_many_who_make_one_directory_one_does(tree: Tree, room: str) -> None:
    statuses = await asyncio.gather(
        *(tree.post("dome_makedir", path=f"{room}/d", mode=493) for _ in range(CLIENTS))
    )
    assert sorted(statuses) == [200] + [400] * (CLIENTS - 1)
    assert (await tree.entry(room)).nlink == 1


@pytest.mark.parametrize(
    ("path", "user", "status"),
    [
        ("", ALICE, 422),
        ("/", ALICE, 403),
        ("/", ROOT, 422),
        (f"{HOME}/dteam/sub", ALICE, 422),
        (f"{HOME}/dteam/sub/.", ALICE, 422),
        (f"{HOME}/dteam/legacy_ad", ALICE, 403),
        (f"{HOME}/dteam/sub/in_sub", ALICE, 403),
        (f"{HOME}/dteam/legacy_ad/x", ALICE, 422),
        (f"{HOME}/dteam/none/x", ALICE, 404),
        (f"{HOME}/dteam/c", BOB, 403),
        (f"{HOME}/dteam/{'n' * 256}", ALICE, 422),
    ],
)
async def test_file_that_cannot_be_made(tree: Tree, path: str, user: RemoteUser, status: int) -> None:
    assert await tree.post("dome_create", user, path=path, mode="436") == status


@pytest.mark.parametrize(
    ("mode", "expected", "acl"),
    [("436", 0o664, b"A6101,C6101,F40"), (None, 0, b"A0101,C0101,F00"), ("0644", 0o1204, b"A2101,C0101,F40")],
)
async def test_new_file_inherits_the_acl_that_its_mode_allows(
    tree: Tree, mode: object, expected: int, acl: bytes
) -> None:
    path = f"{HOME}/dteam/file-{mode}"
    given: dict[str, Any] = {} if mode is None else {"mode": mode}
    assert await tree.post("dome_create", path=path, **given) == 200
    file = await tree.entry(path)
    assert (file.mode, file.acl_text) == (stat.S_IFREG | expected, acl)
    assert (file.uid, file.gid, file.nlink, file.size, file.status) == (ALICE_UID, DTEAM, 1, 0, "-")


async def test_file_that_is_there_without_replicas_is_truncated(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/f", mode=0o640)
    await tree.change(f"{room}/f", f"filesize = 77, ctime = {LONG_AGO}")
    before = await tree.entry(f"{room}/f")
    assert await tree.post("dome_create", path=f"{room}/f", mode=420) == 200
    after = await tree.entry(f"{room}/f")
    assert (after.fileid, after.mode, after.size) == (before.fileid, before.mode, 0)
    assert after.ctime > LONG_AGO


async def test_file_of_another_is_truncated_only_by_who_may_write_it(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/mine", f"{room}/everybodys", mode=0o644)
    await tree.change(f"{room}/mine", "filesize = 77")
    await tree.change(f"{room}/everybodys", "filemode = filemode | 2")
    assert await tree.post("dome_create", BOB, path=f"{room}/mine") == 403
    assert await tree.post("dome_create", BOB, path=f"{room}/everybodys") == 200
    assert (await tree.entry(f"{room}/mine")).size == 77


async def test_file_with_replicas_keeps_its_size(tree: Tree) -> None:
    assert await tree.post("dome_create", path=f"{HOME}/dteam/legacy_ad") == 403
    assert (await tree.entry(f"{HOME}/dteam/legacy_ad")).size == 1234


async def test_of_many_who_create_one_file_one_makes_it_and_the_others_truncate(
    tree: Tree, room: str
) -> None:
    statuses = await asyncio.gather(
        *(tree.post("dome_create", path=f"{room}/f", mode=420) for _ in range(CLIENTS))
    )
    assert statuses == [200] * CLIENTS
    assert (await tree.entry(room)).nlink == 1


@pytest.mark.parametrize(
    ("target", "link", "user", "status"),
    [
        ("", f"{HOME}/dteam/l", ALICE, 422),
        ("x", "", ALICE, 422),
        ("x", "/", ROOT, 422),
        ("x", f"{HOME}/dteam/none/l", ALICE, 422),
        ("x", f"{HOME}/dteam/legacy_ad/l", ALICE, 403),
        ("x", f"{HOME}/dteam/legacy_ad/l", ROOT, 422),
        ("x", f"{HOME}/dteam/legacy_ad", ALICE, 422),
        ("x", f"{HOME}/dteam/{'n' * 256}", ALICE, 422),
        ("x" * 4096, f"{HOME}/dteam/l", ALICE, 422),
        ("x", f"{HOME}/dteam/l", BOB, 403),
    ],
)
async def test_link_that_cannot_be_made(
    tree: Tree, target: str, link: str, user: RemoteUser, status: int
) -> None:
    assert await tree.post("dome_symlink", user, target=target, link=link) == status


@pytest.mark.parametrize("target", [f"{HOME}/dteam/legacy_ad", "rel/../ü", "t" * 4095])
async def test_link_belongs_to_its_maker_and_may_lead_nowhere(tree: Tree, room: str, target: str) -> None:
    assert await tree.post("dome_symlink", target=target, link=f"{room}/l/") == 200
    link = await tree.entry(f"{room}/l")
    assert (link.mode, link.uid, link.gid, link.nlink, link.acl_text) == (0o120777, ALICE_UID, DTEAM, 1, b"")
    assert await tree.link_target(link.fileid) == target


async def test_link_needs_the_right_to_pass_through_its_directory(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/d/", mode=0o776)
    await tree.change(f"{room}/d", "acl = '', filemode = 16894")
    assert await tree.post("dome_symlink", BOB, target="x", link=f"{room}/d/l") == 403
    assert await tree.post("dome_create", BOB, path=f"{room}/d/f") == 200


@pytest.mark.parametrize(
    ("path", "user", "status"),
    [
        ("", ALICE, 422),
        ("/", ROOT, 422),
        ("//", ROOT, 422),
        ("rel", ROOT, 404),
        (f"{HOME}/dteam/none", ALICE, 404),
        (f"{HOME}/dteam/none/x", ALICE, 404),
        (f"{HOME}/dteam/sub/.", ALICE, 404),
        (f"{HOME}/dteam/sub/..", ALICE, 404),
        (f"{HOME}/dteam/legacy_ad", ALICE, 422),
        (f"{HOME}/dteam/lnk_dir", ALICE, 422),
        (f"{HOME}/dteam/sub", ALICE, 422),
        (f"{HOME}/cms", ALICE, 403),
    ],
)
async def test_directory_that_cannot_be_removed(tree: Tree, path: str, user: RemoteUser, status: int) -> None:
    assert await tree.post("dome_removedir", user, path=path) == status


async def test_empty_directory_is_removed_with_its_comment(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/d/")
    fileid = (await tree.entry(f"{room}/d")).fileid
    await tree.sql(f"INSERT INTO {{cns}}.Cns_user_metadata (u_fileid, comments) VALUES ({fileid}, 'x')")
    await tree.change(room, f"mtime = {LONG_AGO}")
    assert await tree.post("dome_removedir", path=f"{room}/d/") == 200
    assert await tree.post("dome_removedir", path=f"{room}/d") == 404
    assert await tree.comment(fileid) == ""
    parent = await tree.entry(room)
    assert parent.nlink == 0
    assert parent.mtime > LONG_AGO


async def test_directory_with_children_stays_even_if_its_links_say_it_is_empty(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/d/", f"{room}/d/f", f"{room}/e/")
    await tree.change(f"{room}/d", "nlink = 0")
    assert await tree.post("dome_removedir", path=f"{room}/d") == 422
    assert await tree.post("dome_rename", oldpath=f"{room}/e", newpath=f"{room}/d") == 422
    await tree.change(f"{room}/d", "nlink = 1")
    assert await tree.find(f"{room}/d/f")


async def test_directory_whose_links_say_it_has_children_stays(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/d/")
    await tree.change(f"{room}/d", "nlink = 1")
    assert await tree.post("dome_removedir", path=f"{room}/d") == 422
    await tree.change(f"{room}/d", "nlink = 0")


async def test_only_owners_remove_a_directory_from_a_sticky_one(tree: Tree, room: str) -> None:
    await tree.change(room, "filemode = filemode | 512")
    await tree.make(f"{room}/alices/", f"{room}/hers/", mode=0o755)
    await tree.make(f"{room}/bobs/", mode=0o755, user=BOB)
    assert await tree.post("dome_removedir", BOB, path=f"{room}/alices") == 403
    assert await tree.post("dome_removedir", BOB, path=f"{room}/bobs") == 200
    await tree.change(f"{room}/hers", f"owner_uid = {BOB_UID}")
    assert await tree.post("dome_removedir", ALICE, path=f"{room}/hers") == 200


async def test_making_an_entry_in_a_directory_that_is_removed_leaves_no_orphan(tree: Tree, room: str) -> None:
    async def race(number: int) -> tuple[int, int]:
        path = f"{room}/d{number}"
        await tree.make(f"{path}/")
        made, removed = await asyncio.gather(
            tree.post("dome_makedir", path=f"{path}/x"), tree.post("dome_removedir", path=path)
        )
        return made, removed

    outcomes = {await race(number) for number in range(12)}
    assert outcomes <= {(200, 422), (404, 200)}
