"""The rules of the properties of an entry: what is stored of the attributes and ACLs that clients send."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.dome_api.catalog import Entry
from dome_bridge.dome_api.properties import MAX_ACL_BYTES, MAX_XATTR_BYTES, Access, Attributes
from dome_bridge.dpm import acl, checksum, xattr
from dome_bridge.dpm.acl import Tag
from dome_bridge.errors import ApiError

T = TypeVar("T")


def unless_refused(make: Callable[[], T]) -> T | None:
    try:
        return make()
    except ApiError as exc:
        status = exc.status
    assert status == 422
    return None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["checksum.md5", "checksum.Adler32", "type"]) | st.text(max_size=9),
        VALUES,
        max_size=6,
    )
)
def test_stored_attributes_are_short_texts_that_read_back_as_they_are(document: dict[str, object]) -> None:
    stored = unless_refused(lambda: Attributes.from_json(json.dumps(document)))
    if stored is None:
        return
    values = xattr.parse(stored.text)
    assert len(stored.text) <= MAX_XATTR_BYTES
    assert list(values) == list(document)
    assert _is_all_text(values)
    assert stored.checksum == checksum.legacy_pair(values)
    assert Attributes.from_json(stored.text.decode()) == stored


def _is_all_text(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_all_text, value.values()))
    return all(map(_is_all_text, value)) if isinstance(value, list) else isinstance(value, str)


def an_entry(mode: int, uid: int, gid: int) -> Entry:
    return Entry(1, 0, "x", mode, 0, uid, gid, 0, 0, 0, 0, 0, "-", b"", b"", b"", b"")


LETTERS = st.text("ABCDEFabcdef", min_size=1, max_size=1)
ITEMS = st.builds(
    lambda letter, perm, id_: f"{letter}{perm}{id_}", LETTERS, st.integers(0, 7), st.integers(0, 9)
)


@given(
    st.lists(ITEMS, max_size=6),
    st.booleans(),
    st.sampled_from([stat.S_IFDIR, stat.S_IFREG]),
    st.integers(0, 0o7777),
)
def test_accepted_acl_belongs_to_the_owner_and_agrees_with_the_mode(
    items: list[str], is_complete: bool, kind: int, mode: int
) -> None:
    entry = an_entry(kind | mode, 101, 102)
    text = ",".join([*items, "A60", "C50", "F40", *(["E30"] if is_complete else [])])
    access = unless_refused(lambda: Access.from_acl(entry, text))
    if access is None:
        return
    stored = acl.parse(access.acl_text)
    own = {item.tag: item.id for item in stored.entries if not item.default}
    assert (own[Tag.OWNER], own[Tag.OWNING_GROUP]) == (101, 102)
    assert len(access.acl_text) <= MAX_ACL_BYTES
    assert access.mode & ~0o777 == mode & ~0o777
    rights = stored.rights()
    assert access.mode & 0o777 == rights.owner << 6 | rights.group << 3 | rights.other
    assert Access.from_acl(entry, access.acl_text.decode()) == access
