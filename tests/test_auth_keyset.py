"""Key sets of issuers: which keys are used, and which are not (T6, D6, D8's form on disk)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import KeySet as JoserfcKeySet

from dome_bridge.auth import keyset
from dome_bridge.auth.keyset import KeySet, KeySetError
from dome_bridge.auth.refusal import AuthError
from sandbox.issuer import SigningKey, base64url, jwk_of, signature
from sandbox.pki import rsa_key

GOOD = jwk_of(rsa_key(), kid="good", use="sig", alg="RS256")
RSA = jwk_of(rsa_key(1), kid="k")
EC_KEY = ec.generate_private_key(ec.SECP256R1())
EC = jwk_of(EC_KEY, kid="k")


def loaded(*keys: object) -> KeySet:
    return keyset.load(json.dumps({"keys": keys}).encode())


def without(jwk: Mapping[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in jwk.items() if key != name}


USABLE: Mapping[str, Mapping[str, object]] = {
    "RSA": RSA,
    "EC": EC,
    "with its use": {**RSA, "use": "sig"},
    "with key_ops": {**RSA, "key_ops": ["verify"]},
    "with more key_ops": {**RSA, "key_ops": ["sign", "verify"]},
    "with its algorithm": {**EC, "alg": "ES256"},
    "of another algorithm": {**RSA, "alg": "PS512"},
    "with a certificate that is none": {**RSA, "x5c": ["!"], "x5t": 5, "x5u": "http://localhost/"},
    "with unknown members": {**EC, "exp": 1, "iat": None, "x-y": {}},
    "P-384": jwk_of(ec.generate_private_key(ec.SECP384R1()), kid="k"),
    "P-521": jwk_of(ec.generate_private_key(ec.SECP521R1()), kid="k"),
}


@pytest.mark.parametrize("case", USABLE)
def test_t6_usable_key_is_loaded(case: str) -> None:
    found = loaded(USABLE[case], GOOD)
    assert set(found.keys) == {"k", "good"}
    assert found.skipped == ()


@pytest.fixture(scope="module")
def weak_key() -> rsa.RSAPrivateKey:
    return rsa_key(0, 1024)


UNUSABLE: Mapping[str, object] = {
    "no kid": without(RSA, "kid"),
    "empty kid": {**RSA, "kid": ""},
    "number as kid": {**RSA, "kid": 5},
    "kid of 257 characters": {**RSA, "kid": "k" * 257},
    "for encryption": {**RSA, "use": "enc"},
    "use of another type": {**RSA, "use": ["sig"]},
    "use null": {**RSA, "use": None},
    "only to sign": {**RSA, "key_ops": ["sign"]},
    "key_ops empty": {**RSA, "key_ops": []},
    "key_ops is text": {**RSA, "key_ops": "verify"},
    "key_ops null": {**RSA, "key_ops": None},
    "alg of encryption": {**RSA, "alg": "RSA-OAEP"},
    "alg none": {**RSA, "alg": "none"},
    "alg HS256": {**RSA, "alg": "HS256"},
    "alg of the other kind": {**RSA, "alg": "ES256"},
    "alg of another curve": {**EC, "alg": "ES384"},
    "alg null": {**RSA, "alg": None},
    "private exponent": {**RSA, "d": base64url(b"\x01" * 256)},
    "private prime": {**RSA, "p": "AQAB"},
    "private EC": {**EC, "d": base64url(b"\x01" * 32)},
    "oct": {"kty": "oct", "kid": "k", "k": base64url(b"s" * 32)},
    "OKP": {"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": base64url(b"\x01" * 32)},
    "k beside a public key": {**RSA, "k": "AAAA"},
    "unknown kty": {**RSA, "kty": "XYZ"},
    "kty in lower case": {**RSA, "kty": "rsa"},
    "no kty": without(RSA, "kty"),
    "kty is a list": {**RSA, "kty": ["RSA"]},
    "no modulus": without(RSA, "n"),
    "modulus is a number": {**RSA, "n": 5},
    "modulus is no base64": {**RSA, "n": "!!!"},
    "modulus is empty": {**RSA, "n": ""},
    "no exponent": without(RSA, "e"),
    "exponent 1": {**RSA, "e": "AQ"},
    "even exponent": {**RSA, "e": "Ag"},
    "no x": without(EC, "x"),
    "no curve": without(EC, "crv"),
    "other curve": {**EC, "crv": "P-384"},
    "unknown curve": {**EC, "crv": "P-257"},
    "secp256k1": jwk_of(EC_KEY, kid="k", crv="secp256k1"),
    "not on the curve": {**EC, "y": base64url(b"\x01" * 32)},
    "short coordinate": {**EC, "x": base64url(b"\x01" * 31)},
    "no object": "k",
    "null": None,
    "list": [RSA],
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_t6_bad_key_is_left_out_and_the_good_one_is_used(case: str) -> None:
    found = loaded(UNUSABLE[case], GOOD)
    assert set(found.keys) == {"good"}
    assert [reason.startswith("key 1 (") for reason in found.skipped] == [True]


def test_t6_rsa_key_of_fewer_than_2048_bits_is_left_out(weak_key: rsa.RSAPrivateKey) -> None:
    found = loaded(jwk_of(weak_key, kid="weak"), GOOD)
    assert set(found.keys) == {"good"}
    assert "1024 bits" in found.skipped[0]


@pytest.mark.parametrize("other", [RSA, EC, {"kid": "k", "kty": "oct", "k": "AAAA"}, {"kid": "k"}])
def test_t6_of_two_keys_of_one_name_neither_is_used(other: Mapping[str, object]) -> None:
    found = loaded(RSA, GOOD, other)
    assert set(found.keys) == {"good"}
    assert len(found.skipped) == 2


def test_t6_key_with_a_private_member_is_left_out_without_quoting_it() -> None:
    canary = base64url(b"canary" * 8)
    assert canary not in str(loaded({**RSA, "d": canary}).skipped)


@pytest.mark.parametrize(
    ("jwk", "key", "algorithms"),
    [
        (RSA, rsa_key(1), {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        ({**RSA, "alg": "RS256"}, rsa_key(1), {"RS256"}),
        (EC, EC_KEY, {"ES256"}),
    ],
)
def test_t7_key_decides_which_algorithms_it_verifies(
    jwk: Mapping[str, object], key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, algorithms: set[str]
) -> None:
    found = loaded(jwk).get("k")
    assert found is not None
    assert found.algorithms == algorithms
    for alg in algorithms:
        found.check_signature(alg, b"data", signature(key, alg, b"data"))
        with pytest.raises(AuthError):
            found.check_signature(alg, b"date", signature(key, alg, b"data"))
    for alg in ("HS256", "none", "ES512", ""):
        with pytest.raises(AuthError):
            found.check_signature(alg, b"data", b"x")


NO_KEY_SETS: Mapping[str, bytes] = {
    "nothing": b"",
    "HTML": b"<html></html>",
    "array": b"[]",
    "no keys": b"{}",
    "keys is an object": b'{"keys": {}}',
    "keys null": b'{"keys": null}',
    "keys twice": b'{"keys": [], "keys": []}',
    "NaN": b'{"keys": [], "x": NaN}',
    "deep": b'{"keys": ' + b"[" * 40 + b"]" * 40 + b"}",
    "very deep": b'{"keys": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "byte order mark": b'\xef\xbb\xbf{"keys": []}',
    "UTF-16": '{"keys": []}'.encode("utf-16"),
}


@pytest.mark.parametrize("case", NO_KEY_SETS)
def test_d6_document_that_is_no_key_set_is_refused(case: str) -> None:
    with pytest.raises(KeySetError):
        keyset.load(NO_KEY_SETS[case])


def test_d6_more_than_a_hundred_keys_are_refused() -> None:
    assert len(loaded(*({**RSA, "kid": str(n)} for n in range(100))).keys) == 100
    with pytest.raises(KeySetError, match="101 keys, at most 100"):
        loaded(*({**RSA, "kid": str(n)} for n in range(101)))


def test_key_set_without_keys_is_one_for_whoever_revokes_all() -> None:
    assert loaded().keys == {}


def test_usable_keys_are_written_as_they_are_read() -> None:
    found = loaded(EC, GOOD, {**RSA, "kid": "bad", "use": "enc"})
    again = keyset.load(json.dumps(found.as_document()).encode())
    assert again.keys == found.keys
    assert again.skipped == ()


def test_same_keys_are_equal_and_others_are_not() -> None:
    assert loaded(EC, GOOD) == loaded(EC, GOOD)
    assert loaded(EC, GOOD) != loaded({**EC, "alg": "ES256"}, GOOD)
    assert loaded(EC) != loaded({**jwk_of(ec.generate_private_key(ec.SECP256R1())), "kid": "k"})


def test_key_set_of_another_library_is_loaded() -> None:
    made = JoserfcKeySet.generate_key_set("EC", "P-256", count=3, private=False)
    found = keyset.load(json.dumps(made.as_dict(private=False)).encode())
    assert (len(found.keys), found.skipped) == (3, ())


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(st.binary(max_size=60) | JSON_VALUES.map(lambda value: json.dumps({"keys": value}).encode()))
def test_any_document_is_a_key_set_or_refused(document: bytes) -> None:
    with contextlib.suppress(KeySetError):
        assert keyset.load(document).keys == {}


@given(name=st.sampled_from(sorted({*RSA, *EC, "use", "alg", "key_ops"})), value=JSON_VALUES)
def test_any_value_of_a_member_is_usable_or_left_out(name: str, value: object) -> None:
    for jwk in (RSA, EC):
        found = loaded({**jwk, name: value}, SigningKey("good", EC_KEY, "ES256").jwk)
        assert len(found.keys) + len(found.skipped) == 2
