"""Renaming entries; and what many clients do to one tree, with all the commands that change it."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dpm.fenced import FENCE_MESSAGE, FENCE_SQLSTATE
from dome_bridge.dpm.source import StatementError
from tests.fixtures.source import writer
from tests.fixtures.tree import ALICE, BOB, CLIENTS, HOME, LONG_AGO, ROOT, Answered, Tree, room, tree

__all__ = ["room", "tree"]

DOCUMENTED = {
    "dome_create": {200, 403, 404, 422},
    "dome_makedir": {200, 400, 403, 404},
    "dome_removedir": {200, 403, 404, 422},
    "dome_rename": {200, 403, 422},
    "dome_symlink": {200, 403, 422},
}


@pytest.mark.parametrize(
    ("oldpath", "newpath", "user", "status"),
    [
        ("", "/x", ROOT, 422),
        ("/x", "", ROOT, 422),
        ("/", "/x", ROOT, 422),
        (f"{HOME}/dteam/sub", "//", ROOT, 422),
        ("dpm", "/x", ROOT, 422),
        (f"{HOME}/dteam/none", f"{HOME}/dteam/x", ALICE, 422),
        (f"{HOME}/dteam/none/x", f"{HOME}/dteam/x", ALICE, 422),
        (f"{HOME}/dteam/sub", f"{HOME}/dteam/none/x", ALICE, 422),
        (f"{HOME}/dteam/sub", f"{HOME}/dteam/legacy_ad/x", ALICE, 422),
        (f"{HOME}/dteam/sub", f"{HOME}/dteam/sub/y", ALICE, 422),
        (f"{HOME}/dteam", f"{HOME}/dteam/sub/y", ROOT, 422),
        (f"{HOME}/dteam/sub/.", f"{HOME}/dteam/y", ALICE, 422),
        (f"{HOME}/dteam/sub", f"{HOME}/dteam/.", ALICE, 422),
        (f"{HOME}/dteam/sub", f"{HOME}/dteam/..", ALICE, 422),
        (f"{HOME}/dteam/sub", f"{HOME}/dteam/{'n' * 256}", ALICE, 422),
        (f"{HOME}/dteam/legacy_ad", f"{HOME}/dteam/sub", ALICE, 422),
        (f"{HOME}/dteam/sub", f"{HOME}/dteam/legacy_ad", ALICE, 422),
        (f"{HOME}/dteam/sub", f"{HOME}/dteam/lnk_dir", ALICE, 422),
        (f"{HOME}/dteam/legacy_ad", f"{HOME}/dteam/xattr_ck", ALICE, 422),
        (f"{HOME}/dteam/sub/in_sub", f"{HOME}/dteam/sub", ALICE, 422),
        (f"{HOME}/dteam/bob_private", f"{HOME}/dteam/sub", ROOT, 422),
        (f"{HOME}/dteam/legacy_ad", f"{HOME}/cms/x", ALICE, 403),
        (f"{HOME}/dteam/legacy_ad", f"{HOME}/atlas/x", ALICE, 403),
        (f"{HOME}/dteam/legacy_ad", f"{HOME}/dteam/x", BOB, 403),
        (f"{HOME}/dteam/sticky/bobs", f"{HOME}/dteam/x", ALICE, 403),
        (f"{HOME}/dteam/bob_private", f"{HOME}/dteam/x", ALICE, 403),
    ],
)
async def test_entry_that_cannot_be_renamed(
    tree: Tree, oldpath: str, newpath: str, user: RemoteUser, status: int
) -> None:
    before = await tree.find(oldpath)
    assert await tree.post("dome_rename", user, oldpath=oldpath, newpath=newpath) == status
    assert await tree.find(oldpath) == before


@pytest.mark.parametrize("newpath", ["legacy_ad", "legacy_ad/", "sub/../legacy_ad"])
async def test_entry_that_has_the_name_already_stays_as_it_is(tree: Tree, newpath: str) -> None:
    before = await tree.entry(f"{HOME}/dteam/legacy_ad")
    answer = await tree.answer(
        "dome_rename", oldpath=f"{HOME}/dteam/legacy_ad", newpath=f"{HOME}/dteam/{newpath}"
    )
    assert answer == Answered(200, "Source is the same as destination, that's funny.")
    assert await tree.entry(f"{HOME}/dteam/legacy_ad") == before


async def test_new_name_in_the_same_directory_sets_all_its_times(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/d/", f"{room}/d/f")
    await tree.change(f"{room}/d", f"ctime = {LONG_AGO}, mtime = {LONG_AGO}")
    await tree.change(room, f"atime = {LONG_AGO}, mtime = {LONG_AGO}, ctime = {LONG_AGO}")
    fileid = (await tree.entry(f"{room}/d")).fileid
    assert await tree.post("dome_rename", oldpath=f"{room}/d", newpath=f"{room}/e/") == 200
    moved, parent = await tree.entry(f"{room}/e"), await tree.entry(room)
    assert (moved.fileid, moved.nlink, moved.mtime) == (fileid, 1, LONG_AGO)
    assert min(moved.ctime, parent.atime, parent.mtime, parent.ctime) > LONG_AGO
    assert parent.nlink == 1
    assert await tree.find(f"{room}/e/f")
    assert await tree.find(f"{room}/d") is None


async def test_move_counts_links_on_both_sides_and_leaves_sizes_where_they_are(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/from/", f"{room}/to/", f"{room}/from/d/", f"{room}/from/d/f")
    for path in ("from", "to"):
        await tree.change(
            f"{room}/{path}", f"filesize = 9, atime = {LONG_AGO}, mtime = {LONG_AGO}, ctime = {LONG_AGO}"
        )
    assert await tree.post("dome_rename", oldpath=f"{room}/from/d", newpath=f"{room}/to/e") == 200
    old, new = await tree.entry(f"{room}/from"), await tree.entry(f"{room}/to")
    assert (old.nlink, new.nlink) == (0, 1)
    assert (old.size, new.size, old.atime, new.atime) == (9, 9, LONG_AGO, LONG_AGO)
    assert min(old.mtime, old.ctime, new.mtime, new.ctime) > LONG_AGO
    assert await tree.find(f"{room}/to/e/f")


async def test_renamed_link_keeps_its_target_and_a_replaced_one_is_gone(tree: Tree, room: str) -> None:
    for name in ("one", "two"):
        assert await tree.post("dome_symlink", target=f"to-{name}", link=f"{room}/{name}") == 200
    one, two = await tree.entry(f"{room}/one"), await tree.entry(f"{room}/two")
    assert await tree.post("dome_rename", oldpath=f"{room}/one", newpath=f"{room}/two") == 200
    assert (await tree.entry(f"{room}/two")).fileid == one.fileid
    assert await tree.link_target(one.fileid) == "to-one"
    assert await tree.link_target(two.fileid) is None
    assert (await tree.entry(room)).nlink == 1


@pytest.mark.parametrize("slash", ["", "/"], ids=["file", "directory"])
async def test_empty_entry_of_the_new_name_is_replaced(tree: Tree, room: str, slash: str) -> None:
    await tree.make(f"{room}/x/", f"{room}/old{slash}", f"{room}/x/new{slash}")
    kept = await tree.entry(f"{room}/old")
    assert await tree.post("dome_rename", oldpath=f"{room}/old", newpath=f"{room}/x/new") == 200
    assert (await tree.entry(f"{room}/x/new")).fileid == kept.fileid
    assert [(await tree.entry(path)).nlink for path in (room, f"{room}/x")] == [1, 1]


async def test_file_takes_the_place_of_a_link(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/f")
    assert await tree.post("dome_symlink", target="x", link=f"{room}/l") == 200
    assert await tree.post("dome_rename", oldpath=f"{room}/f", newpath=f"{room}/l") == 200
    assert (await tree.entry(f"{room}/l")).is_file


async def test_rename_that_fails_leaves_what_it_would_have_replaced(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/f", f"{room}/unwanted")
    before = [await tree.entry(f"{room}/{name}") for name in ("f", "unwanted")]
    async with tree.refusing("unwanted", "45000", "not that name"):
        with pytest.raises(StatementError, match="not that name"):
            await tree.post("dome_rename", oldpath=f"{room}/f", newpath=f"{room}/unwanted")
    assert [await tree.entry(f"{room}/{name}") for name in ("f", "unwanted")] == before


async def test_fence_is_not_taken_for_a_bad_request(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/f")
    async with tree.refusing("fenced", FENCE_SQLSTATE, FENCE_MESSAGE):
        with pytest.raises(StatementError, match="fence"):
            await tree.post("dome_rename", oldpath=f"{room}/f", newpath=f"{room}/fenced")
    assert await tree.find(f"{room}/f")


async def test_what_is_replaced_in_a_sticky_directory_must_be_ones_own(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/sticky/", f"{room}/f", mode=0o644)
    await tree.change(f"{room}/sticky", "acl = '', filemode = 17407, owner_uid = 0")
    await tree.make(f"{room}/sticky/bobs", mode=0o644, user=BOB)
    await tree.make(f"{room}/sticky/hers", mode=0o644)
    assert await tree.post("dome_rename", oldpath=f"{room}/f", newpath=f"{room}/sticky/bobs") == 403
    assert await tree.post("dome_rename", oldpath=f"{room}/f", newpath=f"{room}/sticky/hers") == 200


async def test_directory_is_renamed_only_by_who_may_write_into_it(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/d/", f"{room}/f", mode=0o755)
    assert await tree.post("dome_rename", BOB, oldpath=f"{room}/d", newpath=f"{room}/e") == 403
    assert await tree.post("dome_rename", BOB, oldpath=f"{room}/f", newpath=f"{room}/g") == 200


async def test_new_name_may_differ_from_the_old_in_trailing_blanks(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/a")
    assert await tree.post("dome_rename", oldpath=f"{room}/a", newpath=f"{room}/a  ") == 200
    assert await tree.find(f"{room}/a") is None
    assert (await tree.entry(f"{room}/a  ")).name == "a  "


async def test_name_that_another_has_but_for_trailing_blanks_is_refused(tree: Tree, room: str) -> None:
    await tree.make(f"{room}/a", f"{room}/b")
    assert await tree.post("dome_rename", oldpath=f"{room}/a", newpath=f"{room}/b ") == 422
    assert await tree.find(f"{room}/b")


async def test_of_two_directories_moved_into_each_other_one_moves(tree: Tree, room: str) -> None:
    async def race(number: int) -> list[int]:
        one, other = f"{room}/{number}/x/one", f"{room}/{number}/other"
        await tree.make(f"{room}/{number}/", f"{room}/{number}/x/", f"{one}/", f"{other}/", f"{other}/deep/")
        statuses = await asyncio.gather(
            tree.post("dome_rename", oldpath=one, newpath=f"{other}/deep/one"),
            tree.post("dome_rename", oldpath=other, newpath=f"{one}/other"),
        )
        return sorted(statuses)

    outcomes = await asyncio.gather(*(race(number) for number in range(8)))
    assert outcomes == [[200, 422]] * 8


@pytest.mark.parametrize(
    ("command", "parameters", "status"),
    [
        ("dome_makedir", {"path": "{d}/sub/new"}, 404),
        ("dome_create", {"path": "{d}/sub/new"}, 404),
        ("dome_symlink", {"link": "{d}/sub/new", "target": "x"}, 422),
        ("dome_removedir", {"path": "{d}/sub/empty"}, 404),
        ("dome_removedir", {"path": "{d}/sub"}, 404),
        ("dome_rename", {"oldpath": "{d}/sub/empty", "newpath": "{d}/e"}, 422),
        ("dome_rename", {"oldpath": "{d}/e", "newpath": "{d}/sub/e"}, 422),
        ("dome_rename", {"oldpath": "{d}/sub", "newpath": "{d}/e"}, 422),
        ("dome_rename", {"oldpath": "{d}/e", "newpath": "{d}/sub/empty/e"}, 422),
    ],
)
async def test_directory_that_somebody_renames_after_the_look_up_is_gone(
    tree: Tree, room: str, command: str, parameters: dict[str, Any], status: int
) -> None:
    await tree.make(f"{room}/e/", f"{room}/sub/", f"{room}/sub/empty/")
    sub = await tree.entry(f"{room}/sub")
    if command == "dome_removedir" and parameters["path"].endswith("sub"):
        assert await tree.post("dome_removedir", path=f"{room}/sub/empty") == 200
    async with writer(tree.site, autocommit=False) as cursor:
        await cursor.execute(
            "UPDATE Cns_file_metadata SET name = 'elsewhere' WHERE fileid = %s", (sub.fileid,)
        )
        late = asyncio.create_task(
            tree.post(command, **{key: value.format(d=room) for key, value in parameters.items()})
        )
        await asyncio.sleep(0.05)
        assert not late.done()
        await cursor.execute("COMMIT")
        assert await late == status
    assert (await tree.entry(room)).nlink == 2


async def test_right_that_is_lost_after_the_look_up_is_missed(tree: Tree, room: str) -> None:
    directory = await tree.entry(room)
    async with writer(tree.site, autocommit=False) as cursor:
        await cursor.execute(
            "UPDATE Cns_file_metadata SET filemode = 16832 WHERE fileid = %s", (directory.fileid,)
        )
        late = asyncio.create_task(tree.post("dome_makedir", BOB, path=f"{room}/d"))
        await asyncio.sleep(0.05)
        await cursor.execute("COMMIT")
        assert await late == 403


# Nothing here removes files; with many of them nothing else would find room.
DRAWN = (
    *["dome_makedir"] * 10,
    *["dome_rename"] * 8,
    *["dome_removedir"] * 6,
    "dome_create",
    "dome_symlink",
)


class Client:
    """Does at random what clients do, in directories that any of them knows, some of which are gone."""

    def __init__(self, tree: Tree, room: str, known: list[str], seed: int) -> None:
        self._tree = tree
        self._room = room
        self._known = known
        self._random = random.Random(seed)
        self._user = self._random.choice([ALICE, ALICE, ROOT, BOB])
        self.undocumented: list[tuple[str, Answered]] = []
        self.done = 0

    async def work(self, operations: int) -> None:
        for _ in range(operations):
            command, parameters = self._draw()
            answer = await self._tree.answer(command, self._user, **parameters)
            self.done += answer.status == 200
            if answer.status not in DOCUMENTED[command]:
                self.undocumented.append((command, answer))
            if answer.status == 200:
                self._note(command, parameters)

    def _note(self, command: str, parameters: dict[str, str]) -> None:
        gone = parameters["path"] if command == "dome_removedir" else parameters.get("oldpath")
        made = parameters.get("newpath") if command == "dome_rename" else parameters.get("path")
        if gone in self._known and len(self._known) > 1:
            self._known.remove(gone)
        if made and command in ("dome_makedir", "dome_rename"):
            self._known.append(made)

    def _draw(self) -> tuple[str, dict[str, str]]:
        old, new = self._random.choice(self._known), self._new()
        match self._random.choice(DRAWN):
            case "dome_rename":
                return "dome_rename", {"oldpath": old, "newpath": new}
            case "dome_symlink":
                return "dome_symlink", {"target": old, "link": new}
            case "dome_removedir":
                return "dome_removedir", {"path": old}
            case command:
                return command, {"path": new, "mode": "511"}

    def _new(self) -> str:
        parent = self._random.choice(self._known)
        if parent.count("/") > 8 or self._random.random() < 0.3:
            parent = self._room
        return f"{parent}/{self._random.choice('abcdef')}"


async def test_catalog_stays_sound_under_many_clients(tree: Tree, room: str) -> None:
    before, known = await tree.faults(), [f"{room}/{name}" for name in "abcd"]
    await tree.make(*(f"{path}/" for path in known), mode=0o777)
    clients = [Client(tree, room, known, seed) for seed in range(CLIENTS)]
    await asyncio.gather(*(client.work(50) for client in clients))
    assert [each for client in clients for each in client.undocumented] == []
    assert sum(client.done for client in clients) > 3 * CLIENTS
    assert await tree.faults() == before
