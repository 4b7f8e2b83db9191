"""DPM's rights and dCache's after the translation, compared for everybody."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dome_bridge.chimera import nfs4
from dome_bridge.chimera.nfs4 import Ace, RsType
from dome_bridge.dpm import acl as posix
from dome_bridge.dpm.acl import Acl, AclEntry, AclError, Tag
from dome_bridge.exporter.acl_mapping import ChimeraAcl, Untranslatable, chimera_acl, to_chimera

# Few ids, so that a named user is often the owner, a named group the owning group,
# and a user in several of the groups.
UIDS = (1, 2, 3)
GIDS = (1, 2, 3)
GID_SETS = [set(some) for size in range(len(GIDS) + 1) for some in itertools.combinations(GIDS, size)]

DIRECTORY = stat.S_IFDIR
FILE = stat.S_IFREG

perms = st.integers(0, 7)
modes = st.integers(0, 0o7777)


@st.composite
def halves(draw: st.DrawFn, default: bool) -> list[AclEntry]:
    users = draw(st.dictionaries(st.sampled_from((0, *UIDS)), perms, max_size=3))
    groups = draw(st.dictionaries(st.sampled_from((0, *GIDS)), perms, max_size=3))
    entries = [AclEntry(default, tag, 1, draw(perms)) for tag in (Tag.OWNER, Tag.OWNING_GROUP)]
    entries.append(AclEntry(default, Tag.OTHER, 0, draw(perms)))
    masked = draw(st.booleans())
    if users or groups or masked:
        entries.append(AclEntry(default, Tag.MASK, 0, draw(perms)))
    entries += [AclEntry(default, Tag.USER, id_, perm) for id_, perm in users.items()]
    return entries + [AclEntry(default, Tag.GROUP, id_, perm) for id_, perm in groups.items()]


access_acls = halves(default=False).map(lambda entries: Acl(tuple(entries)))
directory_acls = st.tuples(halves(default=False), halves(default=True)).map(
    lambda both: Acl((*both[0], *both[1]))
)


def everybody() -> Iterator[tuple[int, int, int, set[int]]]:
    """Every owner, owning group, user and set of groups; 0 may own, but nobody here is root."""
    return itertools.product((0, *UIDS), (0, *GIDS), UIDS, GID_SETS)


def assert_same_rights(acl: Acl | None, mode: int, translated: ChimeraAcl) -> None:
    directory = stat.S_ISDIR(mode)
    for owner, group, uid, gids in everybody():
        in_dpm = posix.granted(acl, mode, owner, group, uid, gids)
        in_dcache = nfs4.evaluate(translated.aces, translated.imode, owner, group, directory, uid, gids)
        assert in_dcache == in_dpm, (owner, group, uid, gids)


def assert_no_partial_right(translated: ChimeraAcl) -> None:
    """Each entry speaks of whole rights: w never without append or, on a directory, delete child."""
    for ace in translated.aces:
        table = nfs4.DIRECTORY_ACCESS if ace.rs_type == RsType.DIRECTORY else nfs4.FILE_ACCESS
        for bits in table.values():
            assert ace.access_msk & bits in (0, bits)


@settings(max_examples=300, deadline=None)
@given(access_acls, modes, st.sampled_from([FILE, DIRECTORY]))
def test_everybody_has_the_same_rights_in_both(acl: Acl, mode: int, kind: int) -> None:
    translated = to_chimera(acl, kind | mode)
    assert_same_rights(acl, kind | mode, translated)
    assert_no_partial_right(translated)
    assert translated.imode & ~0o070 == mode & ~0o070


@settings(max_examples=100, deadline=None)
@given(directory_acls, modes)
def test_default_entries_do_not_change_the_rights_on_the_directory_itself(acl: Acl, mode: int) -> None:
    assert_same_rights(acl, DIRECTORY | mode, to_chimera(acl, DIRECTORY | mode))


@settings(max_examples=100, deadline=None)
@given(directory_acls, modes)
def test_directories_created_below_have_the_same_rights_in_both(acl: Acl, mode: int) -> None:
    translated = to_chimera(acl, DIRECTORY | mode)
    parent: Acl | None = acl
    for _generation in range(2):
        parent, dpm_mode = posix.inherit(parent, DIRECTORY | 0o777, 1, 1)
        # A door that sends no mode gets the directory's.
        translated = ChimeraAcl(translated.imode & 0o777, nfs4.inherited(translated.aces, is_directory=True))
        assert_same_rights(parent, dpm_mode, translated)


@settings(max_examples=100, deadline=None)
@given(directory_acls, modes)
def test_files_created_below_can_be_read_and_written_by_the_same_users(acl: Acl, mode: int) -> None:
    directory = to_chimera(acl, DIRECTORY | mode)
    aces = nfs4.inherited(directory.aces, is_directory=False)
    inherited, dpm_mode = posix.inherit(acl, FILE | 0o666, 1, 1)
    for owner, group, uid, gids in everybody():
        in_dpm = posix.granted(inherited, dpm_mode, owner, group, uid, gids)
        in_dcache = nfs4.evaluate(aces, directory.imode & 0o666, owner, group, False, uid, gids)
        # x means nothing on a dCache file.
        assert in_dcache & 6 == in_dpm & 6, (owner, group, uid, gids)


@given(perms, st.none() | perms, perms, modes, st.sampled_from([FILE, DIRECTORY]))
def test_acl_without_named_entries_is_carried_by_the_mode(
    group: int, mask: int | None, other: int, mode: int, kind: int
) -> None:
    text = f"A71,C{group}1{'' if mask is None else f',E{mask}0'},F{other}0".encode()
    translated = chimera_acl(text, kind | mode)
    effective = group if mask is None else group & mask
    assert translated == ChimeraAcl(mode & ~0o070 | effective << 3, ())


def test_default_entries_equal_to_the_mode_need_no_entries() -> None:
    translated = chimera_acl(b"A70,C70,F50,a70,c70,f50", DIRECTORY | 0o775)
    assert translated == ChimeraAcl(0o775, ())


def test_default_for_the_owning_group_beyond_the_mode_is_handed_down() -> None:
    translated = chimera_acl(b"A70,C50,F50,a70,c70,f50", DIRECTORY | 0o755)
    assert translated == ChimeraAcl(0o755, (Ace(0, 0, 0x200C6, 3, -1, 0xB),))


def test_default_that_closes_to_others_is_handed_down() -> None:
    translated = chimera_acl(b"A70,C50,F50,a70,c50,f00", DIRECTORY | 0o755)
    assert translated == ChimeraAcl(
        0o755,
        (
            Ace(0, 0, 0x200A1, 2, -1, 0xB),
            Ace(0, 0, 0x200A1, 3, -1, 0xB),
            Ace(0, 1, 0x21, 4, -1, 0xB),
        ),
    )


def test_named_entries_of_a_file() -> None:
    translated = chimera_acl(b"A6101,B4102,C6101,D4102,E60,F00", FILE | 0o660)
    assert translated == ChimeraAcl(
        0o660,
        (
            Ace(1, 0, 0x20086, 2, -1, 0),  # the owner, were he user 102, keeps w
            Ace(1, 0, 0x20081, 0, 102, 0),
            Ace(1, 1, 0x6, 0, 102, 0),  # w, which the owning group has
            Ace(1, 0, 0x20081, 1, 102, 0x40),
        ),
    )


def test_users_come_before_groups_and_denies_of_groups_last() -> None:
    translated = chimera_acl(b"A70,B01,B72,C40,D01,D72,E70,F50", FILE | 0o775)
    assert isinstance(translated, ChimeraAcl)
    assert [(ace.who, ace.who_id, ace.type) for ace in translated.aces] == [
        (2, -1, 0),
        (0, 1, 1),
        (0, 2, 0),
        (3, -1, 0),
        (1, 2, 0),
        (1, 1, 1),
    ]
    assert_same_rights(posix.parse(b"A70,B01,B72,C40,D01,D72,E70,F50"), FILE | 0o775, translated)


def test_root_needs_no_entry() -> None:
    assert chimera_acl(b"A71,B00,C71,E70,F70", FILE | 0o777) == ChimeraAcl(0o777, ())


def test_mode_keeps_its_special_bits() -> None:
    assert chimera_acl(b"A71,C51,F00", DIRECTORY | 0o7770) == ChimeraAcl(0o7750, ())


@given(modes)
def test_empty_text_leaves_the_mode_alone(mode: int) -> None:
    assert chimera_acl(b"", FILE | mode) == ChimeraAcl(mode, ())


def test_symbolic_link_has_no_acl() -> None:
    assert chimera_acl(b"A70,B71,C70,E70,F70", stat.S_IFLNK | 0o755) == ChimeraAcl(0o777, ())


def test_garbage_is_untranslatable_and_keeps_the_mode() -> None:
    result = chimera_acl(b"nonsense", FILE | 0o640)
    assert isinstance(result, Untranslatable)
    assert result.imode == 0o640
    assert "'nonsense'" in result.reason


@pytest.mark.parametrize("text", [b"A70,C40,F00,a70,c70,f50", b"A70,B42147483648,C40,E70,F00"])
def test_untranslatable_acl_that_can_be_read_still_corrects_the_group_bits(text: bytes) -> None:
    result = chimera_acl(text, FILE | 0o670)
    assert isinstance(result, Untranslatable)
    assert result.imode == 0o640
    assert "\n" not in result.reason


def test_default_entries_on_a_file_are_refused() -> None:
    with pytest.raises(AclError, match="not a directory"):
        to_chimera(posix.parse(b"A70,C70,F50,a70,c70,f50"), FILE | 0o775)


def test_largest_id_of_chimera_is_kept() -> None:
    result = chimera_acl(b"A70,C40,D42147483647,E70,F00", FILE | 0o640)
    assert isinstance(result, ChimeraAcl)
    assert [ace.who_id for ace in result.aces] == [2147483647]


@given(st.binary(max_size=30), st.integers(0, 0o177777))
def test_no_text_raises(text: bytes, filemode: int) -> None:
    assert chimera_acl(text, filemode).imode & ~0o7777 == 0
