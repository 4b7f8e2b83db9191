"""The XrdHttp token, against what a real XrdHttp made and judged, and against itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dome_bridge.auth.xrdhttp import VALID_SECONDS, Signed, TokenError, TokenFault, sign, trimmed, verify

VECTORS: Mapping[str, Any] = json.loads((Path(__file__).parent / "golden/xrdhttp-tokens.json").read_text())
FROM_SERVER: list[Mapping[str, Any]] = VECTORS["from_server"]
TO_SERVER: list[Mapping[str, Any]] = VECTORS["to_server"]

KEY = "0123456789abcdef0123456789abcdef"
NOW = 1700000000
DISK = "/DC=org/CN=disk1.example.org"
COMMAND = "/domehead/command/dome_getspaceinfo"

STRICTER: Mapping[str, str] = {
    "time as +%d": "the time is digits only",
    "time as %dabc": "the time is digits only",
    "time + 2**32": "the time is a number, not one modulo 2**32",
    "path invalid %zz literal": "a % without two hexadecimal digits is refused, it does not cut the text",
    "q dup dn, right last": "of two values either could be meant, whichever the original takes",
}
"""Accepted by the original and refused here, each with the reason."""

TOKENS_NOT_MADE: Mapping[str, str] = {
    "fields: emptyvorg": "an empty value is left out, since a verifier reads it back as absent",
}
"""Made by the original, which nobody can verify, and otherwise here."""


def text(value: Any) -> str:
    """A string of the vectors: UTF-8, or bytes in hex."""
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]).decode("utf-8", "surrogateescape")
    return str(value or "")


def labels(vectors: list[Mapping[str, Any]]) -> list[str]:
    return [vector["label"] for vector in vectors]


def judged(vector: Mapping[str, Any], target: str | None = None) -> Signed:
    return verify(
        vector["secret"],
        vector["method"],
        text(vector["request_target"]) if target is None else target,
        now=vector["now"] if target is None else vector["hashed"]["time"],
        peer=vector["peer_text"],
    )


def fault(target: str, method: str = "GET", now: float = NOW, secret: str = KEY) -> TokenFault:
    with pytest.raises(TokenError) as refusal:
        verify(secret, method, target, now=now, peer="192.0.2.10")
    return refusal.value.fault


def signed_target(method: str = "GET", path: str = COMMAND, **values: str) -> str:
    return f"{quote(path)}?{sign(KEY, method, path, now=NOW, **{'host': '192.0.2.10', **values})}"


def forged(target: str) -> str:
    """With another token of the right form."""
    path, name, rest = target.partition("xrdhttptk=")
    first = unquote(rest)[0]
    return path + name + ("B" if first == "A" else "A") + rest[len(quote(first, safe="")) :]


@pytest.mark.parametrize("vector", TO_SERVER, ids=labels(TO_SERVER))
def test_request_is_judged_as_by_the_original(vector: Mapping[str, Any]) -> None:
    if vector["result"] == "reject" or vector["label"] in STRICTER:
        with pytest.raises(TokenError):
            judged(vector)
        return
    hashed, seen, signed = vector["verifier"], vector.get("handler_saw"), judged(vector)
    assert signed == Signed(*(text(hashed[field]) for field in ("dn", "name", "vorg", "host")))
    if seen is not None:
        assert [trimmed(value) for value in (signed.dn, signed.host, signed.vorg)] == [
            text(seen[field]) for field in ("dn", "host", "groups")
        ]


def test_stricter_than_the_original_only_where_that_may_be() -> None:
    lenient = {v["label"] for v in TO_SERVER if v.get("may_differ") and v["result"] == "accept"}
    assert set(STRICTER) <= lenient


@pytest.mark.parametrize("vector", FROM_SERVER, ids=labels(FROM_SERVER))
def test_token_is_the_one_that_the_original_made(vector: Mapping[str, Any]) -> None:
    hashed = vector["hashed"]
    values = {field: text(hashed[field]) for field in ("host", "dn", "name", "vorg")}
    query = sign(vector["secret"], vector["method"], hashed["path"], now=hashed["time"], **values)
    token = unquote(query.partition("&")[0].removeprefix("xrdhttptk="))
    assert (token == vector["token"]) == (vector["label"] not in TOKENS_NOT_MADE)


@pytest.mark.parametrize("vector", FROM_SERVER, ids=labels(FROM_SERVER))
def test_redirect_of_the_original_is_judged_as_by_itself(vector: Mapping[str, Any]) -> None:
    location, _, query = vector["location"].partition("?xrdhttptk=")
    path = quote("/" + location.split("/", 3)[3])
    target = f"{path}?xrdhttptk={query}"
    if vector["sent_back"]["path_escaped_anew"].startswith("HTTP/1.1"):
        assert judged(vector, target).host == vector["hashed"]["host"]
    else:
        with pytest.raises(TokenError):
            judged(vector, target)


@pytest.mark.parametrize(
    ("method", "path", "values", "token"),
    [
        ("GET", COMMAND, {"host": "192.0.2.10"}, "xv46DE2tPnaMVBZcqNyjlA=="),
        (
            "POST",
            "/domehead/command/dome_putdone",
            {"host": "[::ffff:192.0.2.10]", "name": "disk1"},
            "pEqIDdTMGuxLAraIks5x2Q==",
        ),
    ],
)
def test_known_tokens(method: str, path: str, values: Mapping[str, str], token: str) -> None:
    query = sign(KEY, method, path, now=NOW, dn=DISK, **values)
    assert f"xrdhttptk={quote(token, safe='')}&" in query


bytes_without_nul = st.lists(st.integers(1, 255)).map(bytes)
any_text = st.one_of(st.text(), bytes_without_nul.map(lambda b: b.decode("utf-8", "surrogateescape"))).filter(
    lambda value: "\0" not in value
)
awkward_text = st.one_of(any_text, st.text(alphabet="%&+ =ë2541/?#"))
signable = st.builds(
    Signed,
    dn=awkward_text,
    name=awkward_text,
    vorg=awkward_text.map(lambda value: value.replace("&", "")),
    host=awkward_text.filter(bool),
)


@given(
    signable,
    awkward_text,
    st.sampled_from(["GET", "POST", "COPY"]),
    st.integers(-VALID_SECONDS, VALID_SECONDS),
)
def test_what_was_signed_is_read_back(signed: Signed, path: str, method: str, skew: int) -> None:
    values = {field: getattr(signed, field) for field in ("dn", "name", "vorg", "host")}
    query = sign(KEY, method, "/" + path, now=NOW, **values)
    target = quote(("/" + path).encode("utf-8", "surrogateescape")) + "?" + query
    assert query.isascii()
    assert all(piece.partition("=")[2] for piece in query.split("&"))
    assert verify(KEY, method, target, now=NOW + skew + 0.9, peer="peer") == signed


@given(st.binary(max_size=200))
def test_any_target_is_refused_with_a_reason(target: bytes) -> None:
    assert fault("/x?" + target.decode("utf-8", "surrogateescape")) in TokenFault


@given(st.binary(max_size=60), st.sampled_from(["xrdhttptime", "xrdhttpdn", "xrdhttphost", "xrdhttptk"]))
@example(DISK.encode(), "xrdhttpdn")
@example(b"", "xrdhttphost")
def test_k2_parameter_that_is_given_twice_is_refused(value: bytes, key: str) -> None:
    assert fault(f"{signed_target(dn=DISK)}&{key}={quote(value)}") is TokenFault.MALFORMED
    path, _, query = signed_target(dn=DISK).partition("?")
    assert fault(f"{path}?{key}={quote(value)}&{query}") is TokenFault.MALFORMED


@pytest.mark.parametrize(
    ("values", "escaped"),
    [
        ({"dn": "50% R&D"}, "xrdhttpdn=50%2525%2520R%2526D"),
        ({"dn": "/CN=a b"}, "xrdhttpdn=%2FCN%3Da%20b"),
        ({"name": "a+b"}, "xrdhttpname=a%2Bb"),
        ({"vorg": "50%"}, "xrdhttpvorg=50%25"),
        ({"host": "[2001:db8::1]"}, "xrdhttphost=%5B2001%3Adb8%3A%3A1%5D"),
    ],
)
def test_values_are_escaped_as_often_as_they_are_decoded(values: Mapping[str, str], escaped: str) -> None:
    assert escaped in signed_target(**values).partition("?")[2].split("&")


@pytest.mark.parametrize(
    "values", [{"dn": "a\0b"}, {"path": "/a\0"}, {"vorg": "R&D"}, {"host": ""}, {"host": "\0"}]
)
def test_what_cannot_be_read_back_is_not_signed(values: Mapping[str, str]) -> None:
    with pytest.raises(ValueError, match=r"NUL|vorg|host"):
        signed_target(**values)


def test_empty_secret_signs_and_verifies_nothing() -> None:
    with pytest.raises(ValueError, match="empty secret"):
        sign("", "GET", COMMAND, now=NOW, host="h")
    with pytest.raises(ValueError, match="empty secret"):
        verify("", "GET", signed_target(), now=NOW, peer="192.0.2.10")


@pytest.mark.parametrize("seconds", [-601, -600.1, 601, 700])
def test_token_out_of_its_time_is_stale(seconds: float) -> None:
    assert fault(signed_target(), now=NOW + seconds) is TokenFault.STALE


@pytest.mark.parametrize("seconds", [-600, 600, 600.9])
def test_token_at_either_end_of_its_time_is_good(seconds: float) -> None:
    assert verify(KEY, "GET", signed_target(), now=NOW + seconds, peer="").host == "192.0.2.10"


@pytest.mark.parametrize(
    "time", ["-1700000000", "17e8", "1700000000%00", "١٧٠٠٠٠٠٠٠٠", "1" * 5000, "0x6553f100", "%201700000000"]
)
def test_time_that_is_not_digits_is_malformed(time: str) -> None:
    target = signed_target().replace(f"xrdhttptime={NOW}", f"xrdhttptime={time}")
    assert fault(target) is TokenFault.MALFORMED


def test_leading_zeros_are_read_as_the_number_that_was_signed() -> None:
    target = signed_target().replace("xrdhttptime=", "xrdhttptime=000")
    assert verify(KEY, "GET", target, now=NOW, peer="").host == "192.0.2.10"


@pytest.mark.parametrize("addition", ["&xrdhttpdn=%25zz", "&x=%zz", "&x=%", "&x=%4", "&xrdhttpname=%2500"])
def test_invalid_pairs_and_nul_are_malformed(addition: str) -> None:
    assert fault(signed_target() + addition) is TokenFault.MALFORMED


@pytest.mark.parametrize("query", ["", "?", "?xrdhttptk=&xrdhttptime=1700000000", "?xrdhttptk=x"])
def test_request_without_token_or_time_is_missing_it(query: str) -> None:
    assert fault(COMMAND + query) is TokenFault.MISSING


@pytest.mark.parametrize("change", ["secret", "method", "path", "token"])
def test_token_of_another_request_is_wrong(change: str) -> None:
    target = signed_target(dn=DISK)
    assert (
        TokenFault.WRONG
        is {
            "secret": lambda: fault(target, secret=KEY[:-1]),
            "method": lambda: fault(target, method="POST"),
            "path": lambda: fault(target.replace("getspaceinfo", "info")),
            "token": lambda: fault(forged(target)),
        }[change]()
    )


@pytest.mark.parametrize("cut", [1, 2, 21, 22, 23])
def test_k2_token_of_another_length_is_malformed(cut: int) -> None:
    path, _, query = signed_target(dn=DISK).partition("?xrdhttptk=")
    token, _, rest = query.partition("&")
    short = unquote(token)[:cut]
    for each in (short, "A" + unquote(token), unquote(token) + "="):
        assert fault(f"{path}?xrdhttptk={quote(each, safe='')}&{rest}") is TokenFault.MALFORMED


def test_unsigned_host_stands_for_the_peer() -> None:
    target = signed_target().replace("&xrdhttphost=192.0.2.10", "")
    assert verify(KEY, "GET", target, now=NOW, peer="192.0.2.10").host == "192.0.2.10"
    with pytest.raises(TokenError):
        verify(KEY, "GET", target, now=NOW, peer="192.0.2.11")


def test_refusal_shows_neither_token_nor_secret() -> None:
    target = signed_target(dn=DISK)
    expected = unquote(target.partition("xrdhttptk=")[2].partition("&")[0])
    with pytest.raises(TokenError) as refusal:
        verify(KEY, "GET", forged(target), now=NOW, peer="")
    assert expected not in str(refusal.value)
    assert KEY not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "kept"), [(" /CN=x ", "/CN=x"), ("/CN=Zoë", "/CN=Zo"), ("\t\udce4", ""), ("a ë b", "a ë b")]
)
def test_trimmed_keeps_from_first_to_last_printable_sign(text: str, kept: str) -> None:
    assert trimmed(text) == kept
