"""Which protocol a connection speaks is told from its first bytes, as XrdHttp tells it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.dome_api.first_bytes import XROOTD_HANDSHAKE_BYTES, Spoken, spoken

XROOTD = bytes(12) + b"\0\0\0\4\0\0\7\xdc"


@pytest.mark.parametrize(
    ("first", "verdict"),
    [
        (b"GET / HTTP/1.1\r\n", Spoken.HTTP),
        (b"P", Spoken.HTTP),
        (b"\r\nGET /", Spoken.HTTP),
        (b"GET /caf\xc3\xa9", Spoken.HTTP),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Spoken.TLS),
        (b"\x16\x03", Spoken.TLS),
        (b"\x16", None),
        (b"\x16\x02", Spoken.UNKNOWN),
        (b"\x80\x2e\x01\x00\x02", Spoken.UNKNOWN),
        (XROOTD, Spoken.XROOTD),
        (XROOTD + b"\0\0\x0b\xbe\0\0\5\x11", Spoken.XROOTD),
        (XROOTD[:19], None),
        (b"\0", None),
        (b"\0\0\0\0", None),
        (b"\0\0\0\1", Spoken.UNKNOWN),
        (b"\0\0G", Spoken.UNKNOWN),
        (b"", None),
    ],
)
def test_protocol_is_told_by_the_first_bytes(first: bytes, verdict: Spoken | None) -> None:
    assert spoken(first) is verdict


FIRST = st.one_of(
    st.binary(max_size=40),
    st.builds(bytes.__add__, st.sampled_from([b"\x16\x03", b"GET /", XROOTD, bytes(4)]), st.binary()),
)


@given(FIRST, st.binary())
def test_verdict_stays_whatever_comes_after(first: bytes, more: bytes) -> None:
    verdict = spoken(first)
    if verdict is not None:
        assert spoken(first + more) is verdict


@given(st.binary(min_size=XROOTD_HANDSHAKE_BYTES))
def test_bytes_of_a_handshake_are_always_enough(first: bytes) -> None:
    assert spoken(first) is not None


@given(FIRST.filter(lambda first: len(first) >= XROOTD_HANDSHAKE_BYTES))
def test_verdict_is_that_of_xrdhttp(first: bytes) -> None:
    """XrdHttp takes for TLS whatever is neither text nor begins with four zeros."""
    is_text = all(0x20 <= byte < 0x7F or byte in b"\r\n" for byte in first[:15])
    theirs = Spoken.HTTP if is_text else Spoken.XROOTD if first[:4] == bytes(4) else Spoken.TLS
    ours = spoken(first)
    if is_text or theirs is Spoken.XROOTD:
        assert ours is theirs
    if ours in (Spoken.TLS, Spoken.XROOTD):
        assert ours is theirs
