"""Algorithms and keys: what may sign a token, and what other tools sign (T5 to T7, I2, I3)."""

from __future__ import annotations

import hmac
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import joserfc.jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc.jwk import ECKey, RSAKey

from dome_bridge.auth.refusal import Reason
from sandbox.issuer import PrivateKey, SigningKey, TokenIssuer, base64url, compact, jwk_of
from sandbox.pki import rsa_key
from tests.fixtures.tokens import (
    DAY,
    NOW,
    Site,
    hmac_token,
    plain_token_site,
    refusal,
    rule_against,
    token_site,
)


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with plain_token_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with token_site(tmp_path) as site:
        yield site


@pytest.mark.parametrize(
    "alg",
    ["none", "nOnE", "None", "NONE", "", None, 5, ["RS256"], "rs256", "RS256 ", "HS256", "ES384", "PS256"],
)
async def test_t5_algorithm_that_is_not_admitted_is_refused(shared: Site, alg: object) -> None:
    assert await rule_against(shared, shared.issuer().token({"alg": alg})) == "T5"


@pytest.mark.parametrize("alg", ["none", "nOnE"])
async def test_t5_unsigned_token_is_refused(shared: Site, alg: str) -> None:
    issuer = shared.issuer()
    unsigned = compact(
        json.dumps({"alg": alg, "kid": "vo-1"}).encode(),
        json.dumps(issuer.claims()).encode(),
        lambda _: b"",
    )
    assert await rule_against(shared, unsigned) == "T3"
    assert await rule_against(shared, unsigned + "AAAA") == "T5"


def pem_of(issuer: TokenIssuer) -> bytes:
    return issuer.key.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


SECRETS: Mapping[str, Callable[[TokenIssuer], bytes]] = {
    "public PEM": pem_of,
    "public PEM without last line end": lambda issuer: pem_of(issuer).rstrip(),
    "public PEM with CR LF": lambda issuer: pem_of(issuer).replace(b"\n", b"\r\n"),
    "JWK": lambda issuer: json.dumps(issuer.key.jwk).encode(),
    "modulus": lambda issuer: str(issuer.key.jwk["n"]).encode(),
    "nothing": lambda issuer: b"",
}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("alg", ["HS256", "hs256", "RS256"])
async def test_t5_hmac_with_what_is_public_is_refused(shared: Site, secret: str, alg: str) -> None:
    issuer = shared.issuer()
    token = hmac_token(issuer, alg, SECRETS[secret](issuer))
    assert await rule_against(shared, token) == ("T1" if alg == "RS256" else "T5")


@pytest.mark.parametrize("alg", ["HS256", "RS256"])
async def test_t5_symmetric_key_in_the_key_set_is_of_no_use(site: Site, alg: str) -> None:
    issuer = site.issuer()
    issuer.published.append({"kty": "oct", "kid": "shared", "k": base64url(b"s" * 32), "alg": "HS256"})
    await site.open(issuer.configured())
    token = compact(
        json.dumps({"alg": alg, "kid": "shared"}).encode(),
        json.dumps(issuer.claims()).encode(),
        lambda data: hmac.digest(b"s" * 32, data, "sha256"),
    )
    assert await rule_against(site, token) == ("T5" if alg == "HS256" else "T7")


@pytest.mark.parametrize(
    "alg", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
)
async def test_t5_admitted_algorithms_of_another_library_are_verified(site: Site, alg: str) -> None:
    # joserfc makes the key set and the token.
    made: RSAKey | ECKey
    if alg.startswith("ES"):
        made = ECKey.generate_key({"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[alg])
    else:
        made = RSAKey.import_key(private_pem(rsa_key()))
    issuer = site.issuer()
    issuer.published = [{**made.as_dict(private=False), "kid": "theirs"}]
    await site.open(issuer.configured(), algorithms=("RS256", "ES256", alg))
    token = joserfc.jwt.encode({"alg": alg, "kid": "theirs"}, issuer.claims(), made, algorithms=[alg])
    assert (await site.verifier.verify(token)).kid == "theirs"
    await site.open(issuer.configured(), algorithms=tuple({"RS256", "ES256"} - {alg}))
    assert await rule_against(site, token) == "T5"


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize("kind", ["RSA", "EC"])
async def test_t5_token_signed_by_the_openssl_command_is_verified(
    site: Site, tmp_path: Path, kind: str
) -> None:
    key = SigningKey("vo-1", rsa_key()) if kind == "RSA" else SigningKey.elliptic("vo-1")
    issuer = site.issuer(key=key)
    await site.open(issuer.configured())
    pem = tmp_path / "key.pem"
    pem.write_bytes(private_pem(key.private))

    def sign(data: bytes) -> bytes:
        command = ["openssl", "dgst", "-sha256", "-sign", str(pem)]
        made = subprocess.run(command, input=data, capture_output=True, check=True).stdout
        if kind == "RSA":
            return made
        return b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(made))

    token = compact(json.dumps(key.header).encode(), json.dumps(issuer.claims()).encode(), sign)
    assert await site.verifier.verify(token)


async def test_t5_ecdsa_signature_in_der_is_refused(site: Site) -> None:
    key = SigningKey.elliptic("vo-1")
    issuer = site.issuer(key=key)
    await site.open(issuer.configured())
    private = key.private
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    token = compact(
        json.dumps(key.header).encode(),
        json.dumps(issuer.claims()).encode(),
        lambda data: private.sign(data, ec.ECDSA(hashes.SHA256())),
    )
    assert await rule_against(site, token) == "T1"


@pytest.mark.parametrize(
    ("key", "header"),
    [
        (SigningKey("k", rsa_key()), {"alg": "ES256"}),
        (SigningKey.elliptic("k"), {"alg": "RS256"}),
        (SigningKey.elliptic("k", ec.SECP384R1(), "ES384"), {"alg": "ES256"}),
        (SigningKey("k", rsa_key(), "RS512"), {"alg": "RS256"}),
    ],
)
@pytest.mark.parametrize("names_alg", [True, False])
async def test_t6_algorithm_that_does_not_fit_the_key_is_refused(
    site: Site, key: SigningKey, header: Mapping[str, object], names_alg: bool
) -> None:
    issuer = site.issuer(key=key)
    issuer.published = [key.jwk if names_alg else jwk_of(key.private, kid="k")]
    await site.open(issuer.configured())
    rule = "T6" if names_alg else "T7"
    expected = "T1" if key.alg == "RS512" and not names_alg else rule
    assert await rule_against(site, issuer.token(header)) == expected


@pytest.mark.parametrize(
    "kid",
    [None, "", 5, True, ["vo-1"], {"kid": "vo-1"}, "k" * 257],
)
async def test_t7_missing_or_malformed_kid_is_refused(shared: Site, kid: object) -> None:
    found = await refusal(shared.verifier, shared.issuer().token({"kid": kid}))
    assert (found.status, found.rule) == (401, "T7")
    assert found.reason is (Reason.MISSING if kid is None else Reason.MALFORMED)


@pytest.mark.parametrize(
    "kid", ["other", "VO-1", "vo-1 ", "../../../dev/null", "' OR '1'='1", "k" * 256, "\0", "\ud800"]
)
async def test_t7_unknown_kid_is_refused(shared: Site, kid: str) -> None:
    found = await refusal(shared.verifier, shared.issuer().token({"kid": kid}))
    assert (found.status, found.rule, found.reason) == (401, "T7", Reason.UNKNOWN_KEY)


@pytest.mark.parametrize("member", ["jwk", "x5c", "jku", "x5u", "x5t"])
async def test_t7_key_in_the_header_is_not_looked_at(shared: Site, member: str) -> None:
    issuer, mine = shared.issuer(), SigningKey("vo-1", rsa_key(7))
    value = mine.jwk if member == "jwk" else "https://attacker.example.org/keys"
    assert await rule_against(shared, mine.token(issuer.claims(), {member: value})) == "T1"
    assert await shared.verifier.verify(issuer.token({member: value}))


async def test_t7_two_issuers_may_use_one_kid(site: Site) -> None:
    first = site.issuer("first", SigningKey("same", rsa_key(0)))
    second = site.issuer("second", SigningKey("same", rsa_key(1)))
    await site.open(first.configured(), second.configured())
    assert (await site.verifier.verify(first.token())).issuer == "first"
    assert (await site.verifier.verify(second.token())).issuer == "second"


async def test_i2_token_signed_by_another_issuers_key_is_refused(site: Site) -> None:
    first = site.issuer("first", SigningKey("same", rsa_key(0)))
    second = site.issuer("second", SigningKey("same", rsa_key(1)))
    await site.open(first.configured(), second.configured())
    assert await rule_against(site, second.key.token(first.claims())) == "T1"


async def test_i2_settings_of_one_issuer_are_not_anothers(site: Site) -> None:
    first, second = site.issuer("first"), site.issuer("second")
    await site.open(
        first.configured(audience=("https://first.example.org",), max_lifetime_s=2 * DAY),
        second.configured(),
    )
    assert await site.verifier.verify(first.token(aud="https://first.example.org", exp=NOW + DAY))
    assert await rule_against(site, second.token(aud="https://first.example.org")) == "T12"
    assert await rule_against(site, second.token(exp=NOW + DAY)) == "T11"


async def test_i3_two_issuers_of_one_area_have_different_users(site: Site) -> None:
    old, new = site.issuer("atlas-old"), site.issuer("atlas")
    area = ("/dpm/example.org/home/atlas",)
    await site.open(old.configured(base_path=area, vo="atlas"), new.configured(base_path=area))
    found = [await site.verifier.verify(each.token(wlcg_groups=["/atlas"])) for each in (old, new)]
    assert [each.username for each in found] == ["jwt:atlas-old:b9127a85-ada", "jwt:atlas:b9127a85-ada"]
    assert [each.groups for each in found] == [("atlas",), ("atlas",)]
    assert found[0].grants.area == found[1].grants.area
