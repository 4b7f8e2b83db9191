"""The codec of DPM's ACL text, its validity rules, inheritance, and the permission check."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.dpm import acl as posix
from dome_bridge.dpm.acl import Acl, AclEntry, AclError, Tag
from dome_bridge.errors import BridgeError

EXTENDED = b"A7101,B7102,C5103,D7102,E50,F50"
WITH_DEFAULTS = b"A7101,C5103,F50,a7101,b6102,c7103,d5104,e60,f10"

perms = st.integers(0, 7)
ids = st.integers(0, posix.MAX_ID)


def half(default: bool) -> st.SearchStrategy[list[AclEntry]]:
    named = st.dictionaries(st.tuples(st.sampled_from([Tag.USER, Tag.GROUP]), ids), perms, max_size=4)

    def build(
        single: list[int], owner: int, group: int, named: dict[tuple[Tag, int], int], mask: bool
    ) -> list[AclEntry]:
        entries = [
            AclEntry(default, Tag.OWNER, owner, single[0]),
            AclEntry(default, Tag.OWNING_GROUP, group, single[1]),
            AclEntry(default, Tag.OTHER, 0, single[2]),
        ]
        if mask or named:
            entries.append(AclEntry(default, Tag.MASK, 0, single[3]))
        return entries + [AclEntry(default, tag, id_, perm) for (tag, id_), perm in named.items()]

    return st.builds(build, st.lists(perms, min_size=4, max_size=4), ids, ids, named, st.booleans())


acls = st.builds(
    lambda access, default: Acl((*access, *default)), half(False), st.one_of(st.just([]), half(True))
)


def test_parse_gives_entries_in_stored_order() -> None:
    acl = posix.parse(b"F50,C52,A71,E60,D4102,B3101,B3100")
    assert [(e.tag, e.id, e.perm) for e in acl.entries] == [
        (Tag.OWNER, 1, 7),
        (Tag.USER, 100, 3),
        (Tag.USER, 101, 3),
        (Tag.OWNING_GROUP, 2, 5),
        (Tag.GROUP, 102, 4),
        (Tag.MASK, 0, 6),
        (Tag.OTHER, 0, 5),
    ]


@given(acls)
def test_formatted_acl_parses_to_itself(acl: Acl) -> None:
    assert posix.parse(posix.format(acl)) == acl


@pytest.mark.parametrize(
    "text",
    [EXTENDED, WITH_DEFAULTS, b"A70,B71012,C50,D7102,E70,F50,a70,c70,e70,f50", b"A74294967295,C70,F70"],
)
def test_sorted_text_is_formatted_as_it_was(text: bytes) -> None:
    assert posix.format(posix.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "type letter"),
        (b"A70,C50,F50,", "type letter"),
        (b"A80,C50,F50", "type letter"),
        (b"A7,C50,F50", "type letter"),
        (b"G70,C50,F50", "type letter"),
        (b"A7-1,C50,F50", "type letter"),
        (b"A74294967296,C50,F50", "type letter"),
        (b"A7\xd9\xa3,C50,F50", "type letter"),
        (b"A70, C50,F50", "type letter"),
        (b"C50,F50", "each of A, C and F"),
        (b"A70,F50", "each of A, C and F"),
        (b"A70,C50", "each of A, C and F"),
        (b"A70,A71,C50,F50", "each of A, C and F"),
        (b"A70,B71,C50,F50", "an entry E"),
        (b"A70,C50,D71,F50", "an entry E"),
        (b"A70,B71,B71,C50,E70,F50", "same type and id"),
        (b"A70,B71,B51,C50,E70,F50", "same type and id"),
        (b"A70,B71,B701,C50,E70,F50", "same type and id"),
        (b"A70,C50,E70,E71,F50", "more than one mask"),
        (b"A70,C50,F50,a70,c50", "each of a, c and f"),
        (b"A70,C50,F50,e70", "each of a, c and f"),
        (b"A70,C50,F50,a70,b71,c50,f50", "an entry e"),
        (b"a70,c50,f50", "each of A, C and F"),
    ],
)
def test_text_against_the_rules_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(AclError, match=reason) as caught:
        posix.parse(text)
    assert isinstance(caught.value, BridgeError)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=40) | st.text("ABCDEFabcdef0123456789,", max_size=40).map(str.encode))
def test_garbage_is_refused_or_understood(text: bytes) -> None:
    try:
        acl = posix.parse(text)
    except AclError:
        return
    assert posix.parse(posix.format(acl)) == acl


def test_entries_out_of_range_are_refused() -> None:
    with pytest.raises(AclError, match="perms are 0 to 7"):
        Acl(tuple(AclEntry(False, tag, 0, 8) for tag in (Tag.OWNER, Tag.OWNING_GROUP, Tag.OTHER)))


@pytest.mark.parametrize(
    ("uid", "gids", "rights"),
    [
        (0, (), 7),
        (101, (102, 103), 7),  # owner: the mode, not the ACL
        (102, (103,), 5),  # named user: masked, and his groups do not matter
        (104, (103,), 5),
        (104, (102,), 5),
        (104, (104,), 1),  # other: the mode, not F
        (104, (), 1),
    ],
)
def test_extended_acl_decides_as_dmlite_does(uid: int, gids: tuple[int, ...], rights: int) -> None:
    acl = posix.parse(EXTENDED)
    assert posix.granted(acl, 0o100771, 101, 103, uid, gids) == rights


def test_member_of_several_groups_gets_the_union_under_the_mask() -> None:
    acl = posix.parse(b"A70,C10,D4102,D2103,E60,F00")
    assert posix.granted(acl, 0o100760, 1, 101, 9, (101, 102, 103)) == 6
    assert posix.granted(acl, 0o100760, 1, 101, 9, (101,)) == 0


def test_acl_without_mask_decides_by_its_group_entry_not_by_the_mode() -> None:
    acl = posix.parse(b"A70,C40,F70")
    assert posix.granted(acl, 0o100771, 1, 101, 9, (101,)) == 4
    assert posix.granted(acl, 0o100771, 1, 101, 9, (102,)) == 1


def test_mask_without_named_entries_limits_the_owning_group() -> None:
    acl = posix.parse(b"A70,C70,E40,F00")
    assert posix.granted(acl, 0o100770, 1, 101, 9, (101,)) == 4


def test_named_group_that_is_the_owning_group_adds_to_it() -> None:
    acl = posix.parse(b"A70,C4101,D2101,E70,F00")
    assert posix.granted(acl, 0o100770, 1, 101, 9, (101,)) == 6


def test_owning_group_is_the_entrys_whatever_id_the_acl_has() -> None:
    acl = posix.parse(b"A70,C4555,F00")
    assert posix.granted(acl, 0o100700, 1, 101, 9, (101,)) == 4
    assert posix.granted(acl, 0o100700, 1, 101, 9, (555,)) == 0


@pytest.mark.parametrize(("uid", "gids", "rights"), [(0, (), 7), (1, (2,), 7), (3, (9, 2), 5), (3, (), 1)])
def test_without_acl_the_mode_decides(uid: int, gids: tuple[int, ...], rights: int) -> None:
    assert posix.granted(None, 0o040751, 1, 2, uid, gids) == rights


def test_nothing_is_inherited_without_default_entries() -> None:
    mode = stat.S_IFREG | 0o664
    assert posix.inherit(None, mode, 1, 2) == (None, mode)
    assert posix.inherit(posix.parse(EXTENDED), mode, 1, 2) == (None, mode)


def test_file_inherits_access_entries_with_its_owner_and_masked_mode() -> None:
    acl, mode = posix.inherit(posix.parse(WITH_DEFAULTS), stat.S_IFREG | 0o664, 201, 202)
    assert acl is not None
    assert posix.format(acl) == b"A6201,B6102,C6202,D5104,E60,F00"
    assert mode == stat.S_IFREG | 0o660


def test_directory_inherits_the_default_entries_too() -> None:
    acl, mode = posix.inherit(posix.parse(WITH_DEFAULTS), stat.S_IFDIR | 0o2775, 201, 202)
    assert acl is not None
    assert posix.format(acl) == (b"A7201,B6102,C7202,D5104,E60,F10,a7101,b6102,c7103,d5104,e60,f10")
    assert mode == stat.S_IFDIR | 0o2771
