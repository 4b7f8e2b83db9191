"""The JSON of DPM's xattr columns."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.dpm import xattr
from dome_bridge.dpm.xattr import Json, XattrError

characters = st.characters(exclude_categories=["Cs"])
keys = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'), max_size=10)
values: st.SearchStrategy[Json] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False).filter(
        lambda number: "E" in str(number) or "." in str(number)
    )
    | st.text(characters, max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=10,
)
attribute_sets = st.dictionaries(keys, values, max_size=5)


@given(attribute_sets)
def test_serialised_attributes_parse_to_themselves_in_order(attributes: dict[str, Json]) -> None:
    parsed = xattr.parse(xattr.serialise(attributes))
    assert parsed == attributes
    assert list(parsed) == list(attributes)


@given(st.binary(max_size=60) | attribute_sets.map(xattr.serialise))
def test_any_text_is_parsed_or_refused_with_one_line(text: bytes) -> None:
    assert isinstance(parsed_or_reason(text), dict | str)


def parsed_or_reason(text: bytes) -> dict[str, Json] | str:
    try:
        return xattr.parse(text)
    except XattrError as error:
        reason = str(error)
    return reason if "\n" not in reason else pytest.fail(reason)


def test_form_is_dmlites() -> None:
    attributes: dict[str, Json] = {
        "checksum.adler32": "0a1b2c3d",
        "type": 0,
        "text": 'v/al "x"\\',
        "user/key": "größe",
        "control": "\b\f\n\r\t\x01\x1f\x7f",
        "nested": {"a": [1, True, None, "x"], "b": {}},
        "real": 1.5,
    }
    assert (
        xattr.serialise(attributes)
        == (
            '{"checksum.adler32": "0a1b2c3d", "type": 0, "text": "v\\/al \\"x\\"\\\\", "user/key": "größe", '
            '"control": "\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f", '
            '"nested": {"a": [1, true, null, "x"], "b": {}}, "real": 1.5}'
        ).encode()
    )
    assert xattr.serialise({}) == b"{}"


@pytest.mark.parametrize("text", [None, b"", b"  \n", b"{}"])
def test_empty_column_has_no_attributes(text: bytes | None) -> None:
    assert xattr.parse(text) == {}


def test_slash_is_read_escaped_or_not() -> None:
    assert xattr.parse(rb'{"a": "x\/y", "b": "x/y"}') == {"a": "x/y", "b": "x/y"}


def test_first_of_equal_keys_counts() -> None:
    assert xattr.parse(b'{"a": 1, "b": {"c": 1, "c": 2}, "a": 2}') == {"a": 1, "b": {"c": 1}}


def test_bytes_that_are_not_utf8_survive() -> None:
    text = b'{"owner": "Andr\xe9\xff"}'
    assert xattr.serialise(xattr.parse(text)) == text


def test_lone_surrogate_stays_an_escape() -> None:
    text = rb'{"a": "\ud800"}'
    assert xattr.serialise(xattr.parse(text)) == text


def test_raw_control_characters_are_accepted() -> None:
    assert xattr.parse(b'{"a": "x\ty\n"}') == {"a": "x\ty\n"}


def test_numbers_keep_their_digits() -> None:
    text = b'{"a": 1.10, "b": 12345678901234567890123, "c": -0.0}'
    assert xattr.parse(text)["a"] == Decimal("1.10")
    assert xattr.serialise(xattr.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b'{"a": 1,}',
        b"{'a': 1}",
        b"[]",
        b'"text"',
        b"null",
        b"3",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"\xff",
        b'{"a": ' + b"[" * 100_000,
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
    ids=lambda text: text[:12].decode("latin1"),
)
def test_text_that_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(XattrError, match=r"^xattr .* is not (JSON|a JSON object)"):
        xattr.parse(text)


@pytest.mark.parametrize("key", ['a"b', "a\\b", "a\nb", "\ud800"])
def test_key_that_dmlite_would_write_broken_is_refused(key: str) -> None:
    with pytest.raises(XattrError, match="key"):
        xattr.serialise({key: "x"})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), Decimal("-Infinity")])
def test_number_that_json_lacks_is_refused(number: float | Decimal) -> None:
    with pytest.raises(XattrError, match="not a JSON number"):
        xattr.serialise({"a": number})
