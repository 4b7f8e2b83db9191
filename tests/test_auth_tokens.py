"""Bearer tokens, good and bad: their form and header, limits and leaks (T1 to T4, L1, H4).

How keys are fetched is in test_auth_issuer_keys and test_auth_discovery.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dome_bridge.auth.jws import MAX_TOKEN_BYTES
from dome_bridge.auth.refusal import Reason
from dome_bridge.auth.scopes import Capability
from dome_bridge.auth.tokens import TokenRefusedError
from sandbox.issuer import SigningKey, compact
from sandbox.pki import rsa_key
from tests.fixtures.tokens import (
    HOUR,
    NOW,
    Site,
    leaked,
    plain_token_site,
    refusal,
    rule_against,
    signed,
    token_site,
    with_text,
)


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with plain_token_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with token_site(tmp_path) as site:
        yield site


# The good token.


async def test_t1_good_token_is_valid_and_says_who_and_what(shared: Site) -> None:
    token = shared.issuer().token(scope="openid storage.read:/data", jti="4711")
    valid = await shared.verifier.verify(token)
    assert (valid.issuer, valid.sub, valid.jti, valid.kid) == ("vo", "b9127a85-ada", "4711", "vo-1")
    assert valid.expires == NOW + HOUR
    assert valid.jwt_name == valid.username == "jwt:vo:b9127a85-ada"
    assert valid.has_capability
    assert valid.groups == ()
    assert valid.vo_groups == ("vo",)
    assert valid.grants.permits({Capability.READ}, "/dpm/example.org/home/vo/data/file")
    assert not valid.grants.permits({Capability.READ}, "/dpm/example.org/home/vo/other")


async def test_t1_every_check_is_told_in_order(shared: Site) -> None:
    told: list[tuple[str, str]] = []
    token = shared.issuer().token(scope="openid", wlcg_groups=["/vo"])
    await shared.verifier.verify(token, lambda rule, text, *args: told.append((rule, text % args)))
    rules = " ".join(rule for rule, _ in told)
    assert rules == "L1 T3 T4 T5 T2 T7 T6 T1 T8 T9 T10 T11 T12 T13 T15 T16 S1 S3 G1 G6"
    assert leaked(token, " ".join(text for _, text in told)) == []


async def test_t1_checks_are_told_up_to_the_one_that_fails(shared: Site) -> None:
    told: list[str] = []
    token = shared.issuer().token(aud="https://elsewhere.example.org")
    with pytest.raises(TokenRefusedError) as caught:
        await shared.verifier.verify(token, lambda rule, *_: told.append(rule))
    assert (told[-1], caught.value.rule) == ("T11", "T12")


async def test_t1_checks_are_told_again_for_a_remembered_token(shared: Site) -> None:
    told: list[str] = []
    token = shared.issuer().token()
    await shared.verifier.verify(token)
    await shared.verifier.verify(token, lambda rule, *_: told.append(rule))
    assert "T1" in told


@pytest.mark.parametrize("position", [0, 1, -1])
async def test_t1_changed_signature_is_refused(shared: Site, position: int) -> None:
    def broken(data: bytes) -> bytes:
        good = bytearray(shared.issuer().key.sign(data))
        good[position] ^= 1
        return bytes(good)

    issuer = shared.issuer()
    token = compact(json.dumps(issuer.key.header).encode(), json.dumps(issuer.claims()).encode(), broken)
    assert await rule_against(shared, token) == "T1"


@pytest.mark.parametrize("made", [b"\0", b"\0" * 64, b"\0" * 256, b"\xff" * 256, b"x" * 512])
@pytest.mark.parametrize("alg", ["RS256", "ES256"])
async def test_t1_made_up_signature_is_refused(site: Site, alg: str, made: bytes) -> None:
    key = SigningKey("vo-1", rsa_key()) if alg == "RS256" else SigningKey.elliptic("vo-1")
    issuer = site.issuer(key=key)
    await site.open(issuer.configured())
    token = compact(json.dumps(key.header).encode(), json.dumps(issuer.claims()).encode(), lambda _: made)
    assert await rule_against(site, token) == "T1"


async def test_t1_claims_are_not_looked_at_before_the_signature(shared: Site) -> None:
    issuer = shared.issuer()
    token = compact(
        json.dumps(issuer.key.header).encode(),
        json.dumps(issuer.claims(exp=1, aud=None, scope=5)).encode(),
        lambda _: b"none",
    )
    found = await refusal(shared.verifier, token)
    assert found.rule == "T1"
    assert (found.claimed.iss, found.claimed.sub, found.claimed.jti) == (issuer.url, "", "")


async def test_t1_refused_token_says_whose_it_was_once_its_signature_is_good(shared: Site) -> None:
    issuer = shared.issuer()
    found = await refusal(shared.verifier, issuer.token(exp=1, sub="ada", jti="7"))
    claimed = found.claimed
    assert (claimed.iss, claimed.kid, claimed.sub, claimed.jti) == (issuer.url, "vo-1", "ada", "7")


# Issuer.


@pytest.mark.parametrize(
    "change",
    [
        lambda url: url + "/",
        lambda url: url[:-1],
        lambda url: url.upper(),
        lambda url: url + "x",
        lambda url: url + "#",
        lambda url: url + "\0",
        lambda url: url.replace("https", "http"),
        lambda url: [url],
        lambda url: {"iss": url},
        lambda url: "",
        lambda url: 5,
        lambda url: None,
        lambda url: "https://unknown.example.org",
        lambda url: "vo",
        lambda url: "\ud800",
    ],
)
async def test_t2_other_issuer_is_refused_without_a_fetch(
    shared: Site, change: Callable[[str], object]
) -> None:
    before = shared.fetches
    issuer = shared.issuer()
    assert await rule_against(shared, issuer.token(iss=change(issuer.url))) == "T2"
    assert shared.fetches == before


# Form.


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


HEADER = '{"alg": "RS256", "kid": "vo-1"}'

MALFORMED_HEADERS: Mapping[str, bytes] = {
    "byte order mark": b"\xef\xbb\xbf" + HEADER.encode(),
    "utf-16": HEADER.encode("utf-16"),
    "utf-16-le": HEADER.encode("utf-16-le"),
    "utf-32": HEADER.encode("utf-32"),
    "latin-1": HEADER.replace("}", ', "x": "ü"}').encode("latin-1"),
    "surrogate in utf-8": HEADER.replace("}", ', "x": "\ud800"}').encode("utf-8", "surrogatepass"),
    "alg twice": b'{"alg": "none", "alg": "RS256", "kid": "vo-1"}',
    "alg twice, escaped": b'{"alg": "RS256", "\\u0061lg": "RS256", "kid": "vo-1"}',
    "kid twice": b'{"alg": "RS256", "kid": "vo-1", "kid": "vo-1"}',
    "array": b'[{"alg": "RS256", "kid": "vo-1"}]',
    "string": b'"RS256"',
    "null": b"null",
    "not JSON": b"alg=RS256",
    "cut off": HEADER[:-1].encode(),
    "more behind": HEADER.encode() + b"{}",
    "NUL behind": HEADER.encode() + b"\0",
    "NaN": HEADER.replace("}", ', "x": NaN}').encode(),
    "single quotes": HEADER.replace('"', "'").encode(),
    "deep": HEADER.replace("}", f', "x": {deep(33)}}}').encode(),
}


@pytest.mark.parametrize("case", MALFORMED_HEADERS)
async def test_t3_malformed_header_is_refused(shared: Site, case: str) -> None:
    assert await rule_against(shared, signed(shared.issuer(), header=MALFORMED_HEADERS[case])) == "T3"


MALFORMED_CLAIMS: Mapping[str, str] = {
    "NaN in an unknown claim": '"x": NaN',
    "Infinity": '"x": Infinity',
    "-Infinity": '"x": [-Infinity]',
    "sub twice": '"sub": "b9127a85-ada"',
    "duplicate below": '"x": {"a": 1, "a": 1}',
    "duplicate in an array": '"x": [[{"a": 1, "a": 2}]]',
    "deep": f'"x": {deep(32)}',
    "deeper": f'"x": {deep(2500)}',
    "deep objects": '"x": ' + '{"a":' * 600 + "1" + "}" * 600,
    "number without end": '"x": ' + "9" * 5000,
    "trailing comma": '"x": 1,',
    "comment": '"x": 1 /* y */',
    "control character": '"x": "\n"',
}


@pytest.mark.parametrize("case", MALFORMED_CLAIMS)
async def test_t3_malformed_payload_is_refused(shared: Site, case: str) -> None:
    claims = json.dumps(shared.issuer().claims())
    payload = f"{claims[:-1]}, {MALFORMED_CLAIMS[case]}}}".encode()
    assert await rule_against(shared, signed(shared.issuer(), payload=payload)) == "T3"


@pytest.mark.parametrize(
    "payload", [b"\xef\xbb\xbf{}", b"[]", b"{}".decode().encode("utf-16"), b'"{}"', b"1"]
)
async def test_t3_payload_that_is_no_object_is_refused(shared: Site, payload: bytes) -> None:
    assert await rule_against(shared, signed(shared.issuer(), payload=payload)) == "T3"


REWRITTEN: Mapping[str, Callable[[str], str]] = {
    "nothing": lambda token: "",
    "one segment": lambda token: token.replace(".", ""),
    "two segments": lambda token: token.rpartition(".")[0],
    "five segments": lambda token: token + ".AAAA.AAAA",
    "four segments": lambda token: token + ".",
    "dot in front": lambda token: "." + token,
    "no header": lambda token: "." + token.partition(".")[2],
    "no payload": lambda token: token.split(".")[0] + ".." + token.split(".")[2],
    "no signature": lambda token: token.rpartition(".")[0] + ".",
    "padding": lambda token: token + "==",
    "padding inside": lambda token: token.replace(".", "=."),
    "blank behind": lambda token: token + " ",
    "blank in front": lambda token: " " + token,
    "line end behind": lambda token: token + "\n",
    "line end inside": lambda token: token.replace(".", "\n."),
    "not ASCII": lambda token: token + "ü",
    "full-width dot": lambda token: token.replace(".", "\uff0e"),
    "lone surrogate": lambda token: token + "\ud800",
    "NUL": lambda token: token + "\0",
    "plus": lambda token: "+" + token[1:],
    "slash": lambda token: "/" + token[1:],
    "cut by one": lambda token: token[:-1],
    "scheme": lambda token: f"Bearer {token}",
    "JSON serialisation": lambda token: json.dumps({"payload": token}),
}


@pytest.mark.parametrize("case", REWRITTEN)
async def test_t3_text_that_is_no_compact_jws_is_refused(shared: Site, case: str) -> None:
    assert await rule_against(shared, REWRITTEN[case](shared.issuer().token())) == "T3"


async def test_t3_unused_bits_of_the_last_character_are_refused(shared: Site) -> None:
    token = shared.issuer().token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # 256 bytes leave four bits of the last character unused.
    other = token[:-1] + alphabet[alphabet.index(token[-1]) + 1]
    assert await rule_against(shared, other) == "T3"


async def test_t3_nesting_up_to_the_limit_is_accepted(shared: Site) -> None:
    assert await shared.verifier.verify(with_text(shared.issuer(), "x", deep(31)))


@given(data=st.data())
@settings(max_examples=150)
async def test_t3_mutated_token_is_never_accepted(shared: Site, data: st.DataObject) -> None:
    token = shared.issuer().token(scope="storage.read:/", jti="fixed")
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, min(len(token), start + 3)))
    mutated = token[:start] + data.draw(st.text(max_size=3)) + token[end:]
    if mutated != token:
        assert (await refusal(shared.verifier, mutated)).status == 401


@given(header=st.binary(max_size=40), payload=st.binary(max_size=40))
@settings(max_examples=50)
async def test_t3_any_bytes_under_a_good_signature_are_refused(
    shared: Site, header: bytes, payload: bytes
) -> None:
    assert (await refusal(shared.verifier, signed(shared.issuer(), header, payload))).status == 401


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
CLAIMS = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "wlcg.ver", "scope", "wlcg.groups"]
MEMBERS = ["alg", "kid", "typ", "cty", "crit", "b64", "jku", "jwk", "x5u", "x5c"]


async def verdict(site: Site, token: str) -> int:
    try:
        await site.verifier.verify(token)
    except TokenRefusedError as error:
        return error.status
    return 200


@given(name=st.sampled_from(CLAIMS), value=JSON_VALUES)
@settings(max_examples=150)
async def test_t3_any_value_of_a_claim_ends_in_a_verdict(shared: Site, name: str, value: object) -> None:
    issuer = shared.issuer()
    token = issuer.key.token({**issuer.claims(), name: value})
    assert await verdict(shared, token) in (200, 401)


@given(member=st.sampled_from(MEMBERS), value=JSON_VALUES)
@settings(max_examples=100)
async def test_t4_any_value_of_a_header_ends_in_a_verdict(shared: Site, member: str, value: object) -> None:
    issuer = shared.issuer()
    header = json.dumps({**issuer.key.header, member: value}).encode()
    assert await verdict(shared, signed(issuer, header=header)) in (200, 401)


# Header.


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"crit": ["b64"], "b64": False},
        {"b64": False},
        {"b64": True},
        {"cty": "JWT"},
        {"typ": "logout+jwt"},
        {"typ": "id+jwt"},
        {"typ": "application/jwt"},
        {"typ": "JWT "},
        {"typ": ""},
        {"typ": 5},
        {"typ": ["JWT"]},
    ],
)
async def test_t4_header_with_extension_or_other_type_is_refused(
    shared: Site, header: Mapping[str, object]
) -> None:
    assert await rule_against(shared, shared.issuer().token(header)) == "T4"


@pytest.mark.parametrize("member", ["crit", "b64", "cty", "typ"])
async def test_t4_null_in_the_header_is_not_absence(shared: Site, member: str) -> None:
    header = json.dumps({**shared.issuer().key.header, member: None}).encode()
    assert await rule_against(shared, signed(shared.issuer(), header=header)) == "T4"


@pytest.mark.parametrize("typ", [None, "JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
async def test_t4_types_of_access_tokens_are_accepted(shared: Site, typ: str | None) -> None:
    assert await shared.verifier.verify(shared.issuer().token({"typ": typ}))


# Limits and leaks.


async def test_l1_longest_token_is_read_and_a_longer_one_is_not(shared: Site) -> None:
    issuer = shared.issuer()
    spare = MAX_TOKEN_BYTES - len(issuer.token(pad=""))
    token = issuer.token(pad="x" * (spare * 3 // 4))
    assert MAX_TOKEN_BYTES - 8 < len(token) <= MAX_TOKEN_BYTES
    assert await shared.verifier.verify(token)
    found = await refusal(shared.verifier, issuer.token(pad="x" * (spare * 3 // 4 + 12)))
    assert (found.status, found.rule, found.reason) == (401, "L1", Reason.TOO_LARGE)


async def test_l1_megabytes_are_refused_at_once(shared: Site) -> None:
    assert await rule_against(shared, "a" * 10_000_000) == "L1"


async def test_h4_text_of_tokens_is_not_logged(shared: Site, caplog: pytest.LogCaptureFixture) -> None:
    issuer = shared.issuer()
    stranger = SigningKey("vo-1", rsa_key(7))
    made = [
        issuer.token(scope="storage.read:/"),
        issuer.token(wlcg_groups=["/other"]),
        issuer.token(exp=1),
        issuer.token({"kid": "unknown"}),
        issuer.token({"alg": "none"}),
        issuer.token(iss="https://unknown.example.org"),
        stranger.token(issuer.claims()),
        issuer.token() + "=",
        issuer.token(scope="storage.read:x"),
    ]
    with caplog.at_level(logging.DEBUG):
        for token in made:
            with contextlib.suppress(TokenRefusedError):
                await shared.verifier.verify(token)
    logged = caplog.text + repr([vars(record) for record in caplog.records])
    assert [part for token in made for part in leaked(token, logged)] == []
