"""What is remembered of tokens, and several issuers that are changed or down (T17, I4, I5, H9, D10)."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from dome_bridge.auth import keyset, tokens
from dome_bridge.auth.discovery import Fetched, KeySource
from dome_bridge.auth.issuer_keys import Fetch
from dome_bridge.auth.refusal import Reason
from dome_bridge.auth.tokens import TokenVerifier
from dome_bridge.errors import ConfigError
from tests.fixtures.tokens import (
    NOW,
    Site,
    refusal,
    rule_against,
    token_site,
)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with token_site(tmp_path) as site:
        yield site


async def test_t17_valid_token_is_remembered_for_a_minute(site: Site) -> None:
    issuer = site.issuer()
    await site.open(issuer.configured())
    token = issuer.token()
    first = await site.verifier.verify(token)
    site.clock.time += 59.9
    assert await site.verifier.verify(token) is first
    site.clock.time += 0.2
    again = await site.verifier.verify(token)
    assert again == first
    assert again is not first


async def test_t17_remembered_token_expires(site: Site) -> None:
    issuer = site.issuer()
    await site.open(issuer.configured())
    token = issuer.token(exp=NOW + 10)
    await site.verifier.verify(token)
    site.clock.time += 10
    assert await rule_against(site, token) == "T8"


async def test_t17_refusals_are_not_remembered(site: Site) -> None:
    issuer = site.issuer()
    await site.open(issuer.configured())
    token = issuer.token(nbf=NOW + 70)
    assert await rule_against(site, token) == "T9"
    site.clock.time += 15
    assert await site.verifier.verify(token)


async def test_t17_remembered_token_falls_with_its_key(site: Site) -> None:
    issuer = site.issuer()
    await site.open(issuer.configured())
    token = issuer.token()
    await site.verifier.verify(token)
    issuer.rotate()
    # The new kid makes the verifier fetch.
    await site.verifier.verify(issuer.token())
    assert await rule_against(site, token) == "T7"


async def test_t17_memory_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "REMEMBERED_TOKENS", 2)
    issuer = site.issuer()
    await site.open(issuer.configured())
    made = [issuer.token() for _ in range(3)]
    found = [await site.verifier.verify(token) for token in made]
    kept = [
        await site.verifier.verify(token) is valid for token, valid in zip(made[1:], found[1:], strict=True)
    ]
    assert kept == [True, True]
    assert await site.verifier.verify(made[0]) is not found[0]


async def test_t17_memory_ends_with_the_configuration(site: Site) -> None:
    issuer = site.issuer()
    await site.open(issuer.configured())
    token = issuer.token()
    await site.verifier.verify(token)
    await site.verifier.reconfigure(replace(site.auth, audience=("https://other.example.org",)))
    assert await rule_against(site, token) == "T12"


async def test_t17_judgement_by_the_configuration_before_is_not_remembered(site: Site) -> None:
    issuer = site.issuer()
    released = asyncio.Event()

    def slow(_: KeySource) -> Fetch:
        async def fetch() -> Fetched:
            await released.wait()
            return Fetched(keyset.load(json.dumps({"keys": issuer.published}).encode()))

        return fetch

    auth = replace(site.auth, issuers=(issuer.configured(),))
    site.verifier = TokenVerifier(auth, now=site.clock, open_source=slow)
    await site.verifier.start()
    token = issuer.token()
    waiting = asyncio.create_task(site.verifier.verify(token))
    await asyncio.sleep(0.01)
    await site.verifier.reconfigure(replace(auth, audience=("https://other.example.org",)))
    released.set()
    assert await waiting
    assert await rule_against(site, token) == "T12"


# Several issuers, changed and down.


async def test_i4_removed_issuer_is_unknown_to_the_next_request(site: Site) -> None:
    first, second = site.issuer("first"), site.issuer("second")
    await site.open(first.configured(), second.configured())
    token = first.token()
    await site.verifier.verify(token)
    await site.verifier.reconfigure(replace(site.auth, issuers=(second.configured(),)))
    assert await rule_against(site, token) == "T2"
    assert [status.issuer for status in site.verifier.key_status()] == ["second"]


async def test_i4_kept_issuer_keeps_its_keys_and_a_new_one_gets_them(site: Site) -> None:
    first, second = site.issuer("first"), site.issuer("second")
    await site.open(first.configured())
    await site.verifier.verify(first.token())
    before = site.fetches
    changed = first.configured(vo="other", max_lifetime_s=100)
    await site.verifier.reconfigure(replace(site.auth, issuers=(changed, second.configured())))
    assert await site.verifier.verify(second.token())
    assert await rule_against(site, first.token()) == "T11"
    assert site.fetches == before + 1


async def test_a5_change_of_issuers_is_logged_and_that_of_others_is_not(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = site.issuer("first"), site.issuer("second")
    await site.open(first.configured(), second.configured())
    with caplog.at_level(logging.INFO, "dome_bridge.auth.tokens"):
        await site.verifier.reconfigure(replace(site.auth, audience=("https://other.example.org",)))
        assert caplog.messages == []
        await site.verifier.reconfigure(replace(site.auth, issuers=(second.configured(),)))
    assert "issuers are changed before=2 after=1" in caplog.messages


async def test_i5_wrong_configuration_is_refused_and_the_old_one_stays(site: Site) -> None:
    issuer = site.issuer()
    await site.open(issuer.configured())
    token = issuer.token()
    twice = (issuer.configured(), issuer.configured(name="again"))
    with pytest.raises(ConfigError, match="two tables have the same `issuer`"):
        await site.verifier.reconfigure(replace(site.auth, issuers=twice))
    with pytest.raises(ConfigError, match=r"auth\.issuer vo: .*base path"):
        await site.verifier.reconfigure(replace(site.auth, issuers=(issuer.configured(base_path=("/",)),)))
    assert await site.verifier.verify(token)


async def test_h9_issuer_that_was_never_reached_is_503(site: Site) -> None:
    issuer = site.issuer()
    site.down.add("vo")
    await site.open(issuer.configured())
    found = await refusal(site.verifier, issuer.token())
    assert (found.status, found.rule, found.reason) == (503, "H9", Reason.NO_KEYS)
    assert "is down" in str(found)


async def test_h9_bad_token_of_an_issuer_without_keys_is_401(site: Site) -> None:
    issuer = site.issuer()
    site.down.add("vo")
    await site.open(issuer.configured())
    assert await rule_against(site, issuer.token({"alg": "none"})) == "T5"
    assert await rule_against(site, issuer.token({"kid": None})) == "T7"


async def test_d10_issuer_that_is_down_does_not_touch_another(site: Site) -> None:
    first, second = site.issuer("first"), site.issuer("second")
    site.down.add("first")
    await site.open(first.configured(), second.configured())
    assert await site.verifier.verify(second.token())
    assert (await refusal(site.verifier, first.token())).status == 503
