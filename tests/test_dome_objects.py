"""Entries and replicas as DOME tells them: every byte, and whatever the columns hold."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.dome_api.catalog import Entry, Replica
from dome_bridge.dome_api.objects import Listing, Unreadable, replica_object, xstat
from dome_bridge.dome_api.wire import render
from dome_bridge.dpm import xattr

FILE = Entry(
    fileid=20,
    parent=6,
    name="legacy_ad",
    mode=0o100664,
    nlink=1,
    uid=101,
    gid=102,
    size=9_999_999_999,
    atime=1_496_000_001,
    mtime=1_496_000_002,
    ctime=1_496_000_003,
    fileclass=0,
    status="-",
    csumtype=b"",
    csumvalue=b"",
    acl_text=b"",
    xattr_text=b"",
)
REPLICA = Replica(
    replicaid=1,
    fileid=20,
    nbaccesses=3,
    atime=1_496_000_001,
    ptime=1_496_000_002,
    ltime=1_496_000_003,
    status="-",
    kind="P",
    setname="",
    pool="pool01",
    host="disk1.test",
    fs="/storage/disk1/fs1",
    rfn="disk1.test:/storage/disk1/fs1/dteam/2017-01-01/legacy_ad.1.1",
    xattr_text=b"",
)

names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'), max_size=8)
stored_attributes = st.dictionaries(
    names.filter(lambda name: name != "type"),
    st.text(max_size=12) | st.integers() | st.booleans(),
    max_size=4,
)
column_texts = st.binary(max_size=12) | st.text(max_size=12).map(lambda text: text.encode("utf-8", "replace"))
plain_texts = st.sampled_from(
    [
        b"",
        b"{}",
        b'{"checksum.adler32": "0a1b2c3d"}',
        b'{"checksum.adler32": "0a1b2c3d", "type": 0}',
        b'{"checksum.md5": "", "type": "0"}',
        b'{"checksum.sha256": "FF", "type": 1}',
        b'{"checksum.ADLER32": "0a1b2c3d"}',
        b'{"type": 0}',
        b'{"type": 0, "checksum.md5": "00"}',
        b' {"checksum.md5": "00"}',
        b'{"checksum.md5": "0\\/0"}',
    ]
)
entries = st.builds(
    lambda **changes: replace(FILE, **changes),
    name=column_texts.map(lambda text: text.decode("utf-8", "surrogateescape")),
    acl_text=column_texts,
    csumtype=st.sampled_from([b"", b"AD", b"md", b"CS", b"XX", b'"', b" "]),
    csumvalue=st.sampled_from([b"", b"0a1b2c3d", b'\xff"\\', b" "]),
    fileclass=st.integers(-3, 3),
    xattr_text=plain_texts | column_texts | stored_attributes.map(xattr.serialise),
)


def attributes_of(entry: Entry) -> dict[str, Any]:
    attributes: dict[str, Any] = json.loads(xstat(entry, Unreadable())["xattrs"])
    return attributes


def test_entry_has_every_key_of_xstat_as_text() -> None:
    entry = replace(FILE, acl_text=b"A6101,C60,F40", csumtype=b"AD", csumvalue=b"0a1b2c3d")
    assert xstat(entry, Unreadable()) == {
        "fileid": "20",
        "parentfileid": "6",
        "size": "9999999999",
        "mode": "33204",
        "atime": "1496000001",
        "mtime": "1496000002",
        "ctime": "1496000003",
        "uid": "101",
        "gid": "102",
        "nlink": "1",
        "acl": "A6101,C60,F40",
        "name": "legacy_ad",
        "xattrs": '{"checksum.adler32": "0a1b2c3d", "type": 0}',
    }


def test_slash_in_an_attribute_is_escaped_within_the_text_and_the_text_within_the_document() -> None:
    entry = replace(FILE, xattr_text=b'{"type": 0, "custom": "v/al \\"x\\""}')
    document = render(xstat(entry, Unreadable()))
    assert rb'"xattrs": "{\"type\": 0, \"custom\": \"v\\/al \\\"x\\\"\"}"' in document


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({}, {"type": 0}),
        ({"fileclass": 7}, {"type": 7}),
        ({"xattr_text": b'{"type": "5", "k": "v"}'}, {"type": 0, "k": "v"}),
        ({"csumtype": b"AD", "csumvalue": b"01"}, {"checksum.adler32": "01", "type": 0}),
        ({"csumtype": b"md", "csumvalue": b"01"}, {"checksum.md5": "01", "type": 0}),
        ({"csumtype": b"CS", "csumvalue": b"01"}, {"checksum.crc32": "01", "type": 0}),
        ({"csumtype": b"AD"}, {"type": 0}),
        ({"csumvalue": b"01"}, {"type": 0}),
        (
            {"csumtype": b"AD", "csumvalue": b"01", "xattr_text": b'{"checksum.adler32": "02"}'},
            {"checksum.adler32": "02", "type": 0},
        ),
        (
            {"csumtype": b"AD", "csumvalue": b"01", "xattr_text": b'{"checksum.Adler32": "02"}'},
            {"checksum.Adler32": "02", "type": 0},
        ),
        (
            {"csumtype": b"AD", "csumvalue": b"01", "xattr_text": b'{"checksum.md5": "02"}'},
            {"checksum.md5": "02", "checksum.adler32": "01", "type": 0},
        ),
    ],
)
def test_legacy_checksum_and_file_class_join_the_attributes(
    columns: dict[str, Any], told: dict[str, Any]
) -> None:
    found = attributes_of(replace(FILE, **columns))
    assert found == told
    assert list(found) == list(told)


@given(stored_attributes)
def test_stored_attributes_reach_the_client_unchanged_and_in_order(attributes: dict[str, Any]) -> None:
    document = render(xstat(replace(FILE, xattr_text=xattr.serialise(attributes)), Unreadable()))
    told = json.loads(json.loads(document)["xattrs"])
    assert told == {**attributes, "type": 0}
    assert list(told) == [*attributes, "type"]


@given(entries)
def test_shortcut_for_plain_attributes_tells_what_parsing_tells(entry: Entry) -> None:
    parsed = replace(entry, xattr_text=entry.xattr_text + b" " if entry.xattr_text else b" ")
    assert xstat(entry, Unreadable()) == xstat(parsed, Unreadable())


@given(entries)
def test_whatever_the_columns_hold_becomes_json_in_json(entry: Entry) -> None:
    told = json.loads(render(xstat(entry, Unreadable())).decode("utf-8", "surrogateescape"))
    assert json.loads(told["xattrs"])["type"] == entry.fileclass


@given(st.lists(st.lists(entries, max_size=3), max_size=3))
def test_listing_made_in_pieces_is_what_render_makes_of_the_whole(pieces: list[list[Entry]]) -> None:
    listing = Listing()
    for piece in pieces:
        listing.add(piece)
    objects = [xstat(entry, Unreadable()) for piece in pieces for entry in piece]
    assert listing.body() == render({"entries": objects})


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b'"text"',
        b"\xff",
        b'{"k": NaN}',
        b"[" * 100_000,
        b'{"k": ' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)
def test_attributes_that_cannot_be_read_are_noted_and_do_not_hide_the_rest(text: bytes) -> None:
    unreadable = Unreadable()
    entry = replace(FILE, csumtype=b"AD", csumvalue=b"01", xattr_text=text)
    assert json.loads(xstat(entry, unreadable)["xattrs"]) == {"checksum.adler32": "01", "type": 0}
    assert unreadable.count == 1
    assert unreadable.first.startswith("fileid 20: ")
    assert "\n" not in unreadable.first


def test_only_the_first_of_many_unreadable_entries_is_put_in_words() -> None:
    listing = Listing()
    listing.add(replace(FILE, fileid=fileid, xattr_text=b"{") for fileid in (7, 8, 9))
    assert listing.unreadable.count == 3
    assert listing.unreadable.first.startswith("fileid 7: ")


def test_attribute_that_dmlite_could_not_write_is_left_out_and_its_neighbours_told() -> None:
    unreadable = Unreadable()
    entry = replace(FILE, xattr_text=b'{"a": "1", "quoted\\"key": "2", "nested": {"x\\"": 1}, "z": "3"}')
    assert json.loads(xstat(entry, unreadable)["xattrs"]) == {"a": "1", "z": "3", "type": 0}
    assert unreadable.count == 1


def test_replica_has_every_key_as_text() -> None:
    told = replica_object(REPLICA, Unreadable())
    assert told == {
        "replicaid": "1",
        "fileid": "20",
        "nbaccesses": "3",
        "atime": "1496000001",
        "ptime": "1496000002",
        "ltime": "1496000003",
        "status": "45",
        "type": "80",
        "server": "disk1.test",
        "rfn": "disk1.test:/storage/disk1/fs1/dteam/2017-01-01/legacy_ad.1.1",
        "setname": "",
        "xattrs": '{"pool": "pool01", "filesystem": "\\/storage\\/disk1\\/fs1"}',
    }


def test_pool_and_file_system_of_a_replica_are_those_of_the_columns() -> None:
    stale = b'{"pool": "old", "k": "v", "filesystem": "\\/old"}'
    told = replica_object(replace(REPLICA, xattr_text=stale), Unreadable())
    assert told["xattrs"] == '{"pool": "pool01", "k": "v", "filesystem": "\\/storage\\/disk1\\/fs1"}'


def test_replica_with_unreadable_attributes_keeps_pool_and_file_system() -> None:
    unreadable = Unreadable()
    told = replica_object(replace(REPLICA, xattr_text=b"{]"), unreadable)
    assert json.loads(told["xattrs"]) == {"pool": "pool01", "filesystem": "/storage/disk1/fs1"}
    assert unreadable.first.startswith("replica 1: ")


@pytest.mark.parametrize(
    ("letter", "code"), [("-", "45"), ("P", "80"), ("D", "68"), ("V", "86"), ("", "0"), ("\udcff", "255")]
)
def test_one_letter_columns_are_told_as_character_codes(letter: str, code: str) -> None:
    told = replica_object(replace(REPLICA, status=letter, kind=letter), Unreadable())
    assert (told["status"], told["type"]) == (code, code)
