"""The kinds of checksums, their normal form, and the legacy columns beside the xattr."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.dpm import checksum
from dome_bridge.dpm.checksum import CHECKSUM_KINDS, ChecksumKind, LegacyChecksum
from dome_bridge.dpm.xattr import Json

MD5 = "d41d8cd98f00b204e9800998ecf8427e"
# What dCache's reader accepts, by type number.
CHIMERA_DIGITS = {1: 8, 2: 32, 3: 32, 4: 40, 5: 64, 6: 128}


def kind(name: str) -> ChecksumKind:
    found = checksum.find_kind(name)
    assert found is not None
    return found


def test_kinds_fit_both_systems() -> None:
    assert len({kind.name for kind in CHECKSUM_KINDS}) == len(CHECKSUM_KINDS)
    assert {kind.legacy_code for kind in CHECKSUM_KINDS} - {None} == {"AD", "CS", "MD"}
    for known in CHECKSUM_KINDS:
        assert known.name == known.name.lower()
        assert known.chimera_type is None or known.digits == CHIMERA_DIGITS[known.chimera_type]


def test_kind_is_found_in_any_case_and_under_both_spellings() -> None:
    assert kind("ADLER32").chimera_type == 1
    assert kind("SHA-256")[2:] == kind("sha256")[2:] == (5, 64)
    assert checksum.find_kind("whirlpool") is None


@given(st.sampled_from([kind for kind in CHECKSUM_KINDS if kind.digits]), st.data())
def test_normal_form_is_reached_at_once_and_kept(known: ChecksumKind, data: st.DataObject) -> None:
    size = known.digits or 0
    digits = data.draw(st.text("0123456789abcdefABCDEF", min_size=size, max_size=size))
    blanks = data.draw(st.text(" \t\n", max_size=3))
    assert checksum.normalise(known, blanks + digits + blanks) == digits.lower()
    assert checksum.normalise(known, digits.lower()) == digits.lower()


@given(st.integers(0, 2**32 - 1))
def test_adler32_without_leading_zeros_is_padded(value: int) -> None:
    assert checksum.normalise(kind("adler32"), f"{value:x}") == f"{value:08x}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("adler32", ""),
        ("adler32", "  "),
        ("adler32", "123456789"),
        ("adler32", "0x1234"),
        ("adler32", "-1"),
        ("adler32", "12 34"),
        ("adler32", "１２３４"),
        ("md5", MD5[:-1]),
        ("md5", MD5 + "0"),
        ("md5", MD5[:-1] + "g"),
        ("sha1", MD5),
        ("crc32", "12345678"),
    ],
)
def test_value_of_wrong_form_has_no_normal_form(name: str, value: str) -> None:
    assert checksum.normalise(kind(name), value) is None


@pytest.mark.parametrize(
    ("csumtype", "csumvalue", "attributes", "merged"),
    [
        (b"AD", b"1a2b", {}, {"adler32": "1a2b"}),
        (b"md", MD5.encode(), {}, {"md5": MD5}),
        (b"AD", b"1a2b", {"checksum.adler32": "ffff"}, {"adler32": "ffff"}),
        (b"AD", b"1a2b", {"checksum.ADLER32": "ffff"}, {"adler32": "ffff"}),
        (b"AD", b"1a2b", {"Checksum.adler32": "ffff"}, {"adler32": "1a2b"}),
        (b"AD", b"1a2b", {"checksum.md5": MD5}, {"md5": MD5, "adler32": "1a2b"}),
        (b"AD", b"", {"checksum.md5": MD5}, {"md5": MD5}),
        (b"", b"1a2b", {}, {}),
        (None, None, {"type": 0, "checksum.crc32": 123}, {"crc32": "123"}),
        (None, None, {"checksum.md5": {"nested": "1"}, "checksum.sha1": ["x"]}, {}),
        (None, None, {"checksum.MD5": "first", "checksum.md5": "second"}, {"md5": "first"}),
        (b"XX", b"1", {}, {"xx": "1"}),
    ],
)
def test_merge_lets_the_xattr_win(
    csumtype: bytes | None, csumvalue: bytes | None, attributes: dict[str, Json], merged: dict[str, str]
) -> None:
    assert checksum.merge(csumtype, csumvalue, attributes) == merged


@pytest.mark.parametrize(
    ("attributes", "pair"),
    [
        ({}, None),
        ({"checksum.sha1": "0" * 40}, None),
        ({"type": 0, "checksum.sha1": "0" * 40, "checksum.md5": MD5, "checksum.adler32": "1"}, ("MD", MD5)),
        ({"checksum.Adler32": "00000001", "checksum.md5": MD5}, ("AD", "00000001")),
        ({"checksum.crc32": "4294967295"}, ("CS", "4294967295")),
        ({"checksum.md5": "0" * 33, "checksum.adler32": "00000001"}, ("AD", "00000001")),
        ({"checksum.md5": ""}, None),
        ({"checksum.md5": "é" * 32}, None),
        ({"checksum.md5": "a\0"}, None),
    ],
)
def test_legacy_pair_is_the_first_that_has_a_code(
    attributes: dict[str, Json], pair: tuple[str, str] | None
) -> None:
    assert checksum.legacy_pair(attributes) == pair


@given(st.sampled_from(["adler32", "md5", "crc32"]), st.text("0123456789abcdef", min_size=1, max_size=32))
def test_written_legacy_pair_reads_back_as_the_same_checksum(name: str, value: str) -> None:
    pair = checksum.legacy_pair({f"checksum.{name}": value})
    assert isinstance(pair, LegacyChecksum)
    assert checksum.merge(pair.code.encode(), pair.value.encode(), {}) == {name: value}
