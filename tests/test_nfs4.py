"""How dCache's rules for NFSv4 entries are followed."""

from __future__ import annotations

import pytest

from dome_bridge.chimera import nfs4
from dome_bridge.chimera.nfs4 import Access, Ace, AceFlag, AceType, RsType, Who

OWNER, GROUP = 101, 201
READ_FILE = Access.READ_DATA


def allow(mask: int, who: Who, who_id: int = nfs4.NO_ID, flags: int = 0) -> Ace:
    return Ace(RsType.FILE, AceType.ALLOW, mask, who, who_id, flags)


def deny(mask: int, who: Who, who_id: int = nfs4.NO_ID) -> Ace:
    return Ace(RsType.FILE, AceType.DENY, mask, who, who_id)


def rights(
    *aces: Ace, imode: int = 0, uid: int = 9, gids: tuple[int, ...] = (), directory: bool = False
) -> int:
    return nfs4.evaluate(aces, imode, OWNER, GROUP, directory, uid, gids)


@pytest.mark.parametrize(
    ("uid", "gids", "expected"), [(OWNER, (GROUP,), 6), (9, (8, GROUP), 5), (9, (8,), 1), (0, (), 7)]
)
def test_without_entries_the_mode_decides(uid: int, gids: tuple[int, ...], expected: int) -> None:
    assert rights(imode=0o651, uid=uid, gids=gids) == expected


def test_first_entry_that_mentions_a_bit_decides() -> None:
    first_allowed = allow(READ_FILE, Who.USER, 9), deny(READ_FILE, Who.EVERYONE)
    assert rights(*first_allowed) == 4
    assert rights(*reversed(first_allowed)) == 0


def test_bits_that_no_entry_mentions_are_left_to_the_mode() -> None:
    assert rights(deny(READ_FILE, Who.EVERYONE), imode=0o007) == 3
    assert rights(allow(READ_FILE, Who.EVERYONE), imode=0o001) == 5


@pytest.mark.parametrize(
    ("who", "who_id", "uid", "gids", "matches"),
    [
        (Who.USER, 9, 9, (), True),
        (Who.USER, 9, 8, (9,), False),
        (Who.GROUP, 7, 9, (6, 7), True),
        (Who.GROUP, 7, 7, (), False),
        (Who.OWNER, -1, OWNER, (), True),
        (Who.OWNER, -1, 9, (), False),
        (Who.OWNING_GROUP, -1, 9, (6, GROUP), True),
        (Who.OWNING_GROUP, -1, OWNER, (6,), False),
        (Who.EVERYONE, -1, 9, (), True),
        (Who.AUTHENTICATED, -1, 9, (), True),
        (Who.ANONYMOUS, -1, 9, (), False),
    ],
)
def test_entry_matches_its_principal_only(
    who: Who, who_id: int, uid: int, gids: tuple[int, ...], matches: bool
) -> None:
    assert rights(allow(READ_FILE, who, who_id), uid=uid, gids=gids) == (4 if matches else 0)


def test_inherit_only_entry_is_skipped_on_directories_alone() -> None:
    ace = allow(READ_FILE, Who.EVERYONE, flags=AceFlag.FILE_INHERIT | AceFlag.INHERIT_ONLY)
    assert rights(ace, directory=True) == 0
    assert rights(ace) == 4


def test_unknown_type_is_deny() -> None:
    assert rights(Ace(RsType.FILE, 3, READ_FILE, Who.EVERYONE), imode=0o777) == 3


def test_right_with_a_denied_part_does_not_count() -> None:
    assert rights(deny(Access.APPEND_DATA, Who.EVERYONE), imode=0o777) == 5
    assert rights(deny(Access.DELETE_CHILD, Who.EVERYONE), imode=0o777, directory=True) == 5
    assert rights(deny(Access.DELETE_CHILD, Who.EVERYONE), imode=0o777) == 7


def test_write_on_a_directory_includes_deleting_its_entries() -> None:
    assert nfs4.access_mask(nfs4.WRITE, RsType.DIRECTORY) == 0x46
    assert nfs4.access_mask(nfs4.WRITE, RsType.FILE) == 0x6
    assert nfs4.access_mask(nfs4.ALL_RIGHTS, RsType.DIRECTORY) == 0x67


def test_file_inherits_without_flags_and_directory_keeps_handing_down() -> None:
    everything = AceFlag.FILE_INHERIT | AceFlag.DIRECTORY_INHERIT | AceFlag.INHERIT_ONLY
    aces = [
        Ace(RsType.DIRECTORY, AceType.ALLOW, 1, Who.GROUP, 7, everything | AceFlag.IDENTIFIER_GROUP),
        Ace(RsType.DIRECTORY, AceType.ALLOW, 2, Who.USER, 7),
        Ace(RsType.DIRECTORY, AceType.ALLOW, 4, Who.USER, 8, AceFlag.DIRECTORY_INHERIT),
    ]
    assert nfs4.inherited(aces, is_directory=False) == (Ace(1, 0, 1, 1, 7, 0x40),)
    assert nfs4.inherited(aces, is_directory=True) == (Ace(0, 0, 1, 1, 7, 0x43), Ace(0, 0, 4, 0, 8, 0x2))
