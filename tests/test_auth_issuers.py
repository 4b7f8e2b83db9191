"""Verification of tokens against issuers that are real servers (D7 to D10, T7, TH-jwks-flood)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dome_bridge.auth.refusal import AuthError
from dome_bridge.auth.tokens import TokenVerifier
from dome_bridge.config_auth import AuthConfig
from sandbox.issuer import AUDIENCE, SigningKey, TokenIssuer
from sandbox.pki import rsa_key


@asynccontextmanager
async def verifying(*issuers: TokenIssuer, directory: Path) -> AsyncIterator[TokenVerifier]:
    auth = AuthConfig(
        audience=(AUDIENCE,),
        issuers=tuple(issuer.configured() for issuer in issuers),
        jwks_cache_dir=directory / "jwks",
    )
    verifier = TokenVerifier(auth)
    await verifier.start()
    try:
        yield verifier
    finally:
        await verifier.stop()


async def status_of(verifier: TokenVerifier, token: str) -> int:
    try:
        await verifier.verify(token)
    except AuthError as error:
        return error.status
    return 200


async def test_d7_keys_are_rotated_by_a_real_issuer(tmp_path: Path) -> None:
    async with TokenIssuer(tmp_path, path="/vo") as issuer, verifying(issuer, directory=tmp_path) as verifier:
        old = issuer.token()
        assert await status_of(verifier, old) == 200
        issuer.rotate()
        assert await status_of(verifier, issuer.token()) == 200
        assert await status_of(verifier, old) == 401
        assert issuer.requests["/jwks"] == 2


async def test_d8_restart_while_a_real_issuer_is_down(tmp_path: Path) -> None:
    async with TokenIssuer(tmp_path) as issuer:
        async with verifying(issuer, directory=tmp_path) as verifier:
            token = issuer.token()
            assert await status_of(verifier, token) == 200
        await issuer.stop()
        async with verifying(issuer, directory=tmp_path) as verifier:
            assert await status_of(verifier, token) == 200


async def test_d9_flood_of_unknown_keys_and_issuers_reaches_a_real_issuer_twice(tmp_path: Path) -> None:
    async with TokenIssuer(tmp_path) as issuer, verifying(issuer, directory=tmp_path) as verifier:
        assert await status_of(verifier, issuer.token()) == 200
        made = [issuer.token({"kid": f"random-{number}"}) for number in range(50)]
        made += [issuer.token(iss=f"{issuer.url}/{number}") for number in range(50)]
        assert set(await asyncio.gather(*(status_of(verifier, token) for token in made))) == {401}
        assert issuer.requests["/jwks"] == 2


async def test_d10_hanging_issuer_does_not_delay_another(tmp_path: Path) -> None:
    async with (
        TokenIssuer(tmp_path, name="slow") as slow,
        TokenIssuer(tmp_path, name="quick") as quick,
    ):
        slow.behaviour.hangs = True
        async with verifying(slow, quick, directory=tmp_path) as verifier:
            waiting = asyncio.create_task(status_of(verifier, slow.token()))
            async with asyncio.timeout(2):
                assert await status_of(verifier, quick.token()) == 200
            assert not waiting.done()
            await verifier.stop()
            assert await waiting == 503


async def test_t7_addresses_in_a_header_are_not_asked(tmp_path: Path) -> None:
    async with (
        TokenIssuer(tmp_path) as issuer,
        TokenIssuer(tmp_path, name="attacker", key=SigningKey("vo-1", rsa_key(5))) as attacker,
        verifying(issuer, directory=tmp_path) as verifier,
    ):
        where = {"jku": attacker.jwks_uri, "x5u": attacker.jwks_uri, "jwk": attacker.key.jwk}
        assert await status_of(verifier, attacker.key.token(issuer.claims(), where)) == 401
        assert await status_of(verifier, attacker.token()) == 401
        assert await status_of(verifier, issuer.token(where)) == 200
        assert attacker.requests.total() == 0
