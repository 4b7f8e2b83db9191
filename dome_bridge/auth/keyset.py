"""An issuer's public keys, read from its JWKS document (T6), and the verification with one of them (T7).

Keys come from JWK members alone and reach the library as key objects; neither PEM nor a symmetric key can
get in. Of each key only the members that make it are handed on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from dome_bridge.auth import strict_json
from dome_bridge.auth.jws import MAX_KID_CHARACTERS
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.trace import shown
from dome_bridge.errors import BridgeError

log = logging.getLogger(__name__)

MAX_KEYS = 100
MIN_RSA_BITS = 2048

_CURVE_OF = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_KEY_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y")}
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class KeySetError(BridgeError):
    """A key set cannot be had or not be used; the keys known so far stay."""


class _Algorithm(Protocol):
    def verify(self, msg: bytes, key: Any, sig: bytes) -> bool: ...


_LIBRARY = jwt.PyJWS(algorithms=[*_RSA_ALGORITHMS, *_CURVE_OF])


@dataclass(frozen=True, slots=True)
class Key:
    """A public key. algorithms: what signatures can be of it. members: the JWK it was made of."""

    kid: str
    algorithms: frozenset[str]
    public: RSAPublicKey | EllipticCurvePublicKey
    members: Mapping[str, str]

    def check_signature(self, alg: str, signing_input: bytes, signature: bytes) -> None:
        """Raises AuthError 401: by T7 if the key is not for `alg`, by T1 if the signature is not its own."""
        if alg not in self.algorithms:
            raise AuthError(
                401,
                "T6" if "alg" in self.members else "T7",
                Reason.ALGORITHM,
                f"token is signed by {alg}, its key {shown(self.kid)} is for {self.kind}",
            )
        if not self._is_signature(alg, signing_input, signature):
            raise AuthError(
                401, "T1", Reason.SIGNATURE, f"token's signature is not by the key {shown(self.kid)}"
            )

    @property
    def kind(self) -> str:
        """For people: the algorithm, or the type of the key."""
        return self.members.get("alg") or self.members.get("crv") or self.members["kty"]

    def _is_signature(self, alg: str, signing_input: bytes, signature: bytes) -> bool:
        algorithm: _Algorithm = _LIBRARY.get_algorithm_by_name(alg)
        try:
            return algorithm.verify(signing_input, self.public, signature)
        except Exception as error:  # noqa: BLE001 - whatever the libraries make of it, it is no signature
            log.warning(
                "key=%a alg=%s: %s while a signature was verified", self.kid, alg, type(error).__name__
            )
            return False


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of an issuer by their `kid`. skipped: why others are not used."""

    keys: Mapping[str, Key]
    skipped: tuple[str, ...] = ()

    def get(self, kid: str) -> Key | None:
        return self.keys.get(kid)

    def as_document(self) -> dict[str, object]:
        """A JWKS of the usable keys."""
        return {"keys": [dict(key.members) for key in self.keys.values()]}


def load(document: bytes) -> KeySet:
    """The key set of a JWKS document. Raises KeySetError if it is none; bad keys in it are left out."""
    try:
        members = strict_json.load_object(document)
    except ValueError as error:
        raise KeySetError(f"the key set cannot be read: {error}") from None
    return from_members(members)


def from_members(members: Mapping[str, object]) -> KeySet:
    """Like `load`, of a document that is parsed already."""
    listed = members.get("keys")
    if not isinstance(listed, list):
        raise KeySetError("the key set has no array `keys`")
    if len(listed) > MAX_KEYS:
        raise KeySetError(f"the key set has {len(listed)} keys, at most {MAX_KEYS} are read")
    names = Counter(kid for kid in map(_kid, listed) if kid is not None)
    skipped: list[str] = []
    keys = {key.kid: key for key in _usable(listed, names, skipped)}
    return KeySet(MappingProxyType(keys), tuple(skipped))


def _usable(listed: list[object], names: Mapping[str, int], skipped: list[str]) -> Iterator[Key]:
    for number, jwk in enumerate(listed, 1):
        try:
            yield _key(jwk, names)
        except ValueError as error:
            skipped.append(f"key {number} ({shown(_kid(jwk))}): {error}")


def _kid(jwk: object) -> str | None:
    kid = jwk.get("kid") if isinstance(jwk, dict) else None
    return kid if isinstance(kid, str) else None


def _key(jwk: object, names: Mapping[str, int]) -> Key:
    """ValueError says why it is not used."""
    if not isinstance(jwk, dict):
        raise ValueError("it is no JSON object")
    kid = _kid(jwk)
    if not kid or len(kid) > MAX_KID_CHARACTERS:
        raise ValueError(f"it has no kid of 1 to {MAX_KID_CHARACTERS} characters")
    if names[kid] > 1:
        raise ValueError("another key has the same kid")
    _check_purpose(jwk)
    return _made(kid, jwk)


def _check_purpose(jwk: Mapping[str, object]) -> None:
    if "use" in jwk and jwk["use"] != "sig":
        raise ValueError("its use is not sig")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("its key_ops do not contain verify")
    if not _PRIVATE_MEMBERS.isdisjoint(jwk):
        raise ValueError("it has private members: whoever published it must replace it")


def _made(kid: str, jwk: Mapping[str, object]) -> Key:
    kty = jwk.get("kty")
    if not isinstance(kty, str) or kty not in _KEY_MEMBERS:
        raise ValueError("its kty is neither RSA nor EC")
    members = {"kty": kty} | {name: _text(jwk, name) for name in _KEY_MEMBERS[kty]}
    public = _public_key(members)
    algorithms = _algorithms(public, members)
    if "alg" in jwk:
        members["alg"] = _text(jwk, "alg")
        algorithms &= {members["alg"]}
    if not algorithms:
        raise ValueError("its alg or crv is for no signature that is known here")
    return Key(kid, algorithms, public, MappingProxyType(members | {"kid": kid}))


def _text(jwk: Mapping[str, object], name: str) -> str:
    value = jwk.get(name)
    if not isinstance(value, str):
        raise ValueError(f"its {name} is missing or no string")
    return value


def _public_key(members: Mapping[str, str]) -> RSAPublicKey | EllipticCurvePublicKey:
    try:
        key = jwt.PyJWK(dict(members)).key
    except Exception as error:  # noqa: BLE001 - the libraries raise a dozen classes for broken keys
        raise ValueError(f"it is broken ({type(error).__name__})") from None
    if isinstance(key, RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise ValueError(f"it has {key.key_size} bits, fewer than {MIN_RSA_BITS}")
        return key
    if isinstance(key, EllipticCurvePublicKey):
        return key
    raise ValueError("it is no public key")


def _algorithms(public: RSAPublicKey | EllipticCurvePublicKey, members: Mapping[str, str]) -> frozenset[str]:
    if isinstance(public, RSAPublicKey):
        return _RSA_ALGORITHMS
    return frozenset(alg for alg, curve in _CURVE_OF.items() if curve == members["crv"])
