"""Claims of tokens with a good signature: dates, audience, version, names, scopes, groups (T8 to T16, G)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from dome_bridge.auth.claims import ANY_AUDIENCE
from dome_bridge.auth.refusal import Reason
from dome_bridge.auth.scopes import Capability
from sandbox.issuer import AUDIENCE
from tests.fixtures.tokens import (
    DAY,
    HOUR,
    NOW,
    Site,
    plain_token_site,
    refusal,
    rule_against,
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


NUMBERS = [
    "true",
    "false",
    "null",
    '"1800003600"',
    "1e400",
    "-1e400",
    str(10**400),
    "[1800003600]",
    "{}",
    '""',
]
TOO_LARGE = [str(2**53), "9007199254740992.0", "1e300"]


@pytest.mark.parametrize("text", [*NUMBERS, *TOO_LARGE])
@pytest.mark.parametrize(("claim", "rule"), [("exp", "T8"), ("nbf", "T9"), ("iat", "T10")])
async def test_t8_date_that_is_no_number_is_refused(shared: Site, claim: str, rule: str, text: str) -> None:
    assert await rule_against(shared, with_text(shared.issuer(), claim, text)) == rule


async def test_t8_date_without_end_towards_the_past_is_refused(shared: Site) -> None:
    assert await rule_against(shared, with_text(shared.issuer(), "nbf", str(-(10**400)))) == "T9"


@pytest.mark.parametrize(("claim", "rule"), [("exp", "T8"), ("iat", "T10")])
async def test_t8_missing_date_is_refused(shared: Site, claim: str, rule: str) -> None:
    found = await refusal(shared.verifier, shared.issuer().token(**{claim: None}))
    assert (found.rule, found.reason) == (rule, Reason.MISSING)


@pytest.mark.parametrize("exp", [NOW - 5, NOW - 0.001, NOW, 0, -1, -1e300])
async def test_t8_expired_token_is_refused_without_leeway(shared: Site, exp: float) -> None:
    found = await refusal(shared.verifier, shared.issuer().token(exp=exp, iat=NOW - HOUR))
    assert (found.rule, found.reason) == ("T8", Reason.EXPIRED)


@pytest.mark.parametrize("exp", [NOW + 0.001, NOW + 1, float(NOW + HOUR)])
async def test_t8_token_that_is_about_to_expire_is_valid(shared: Site, exp: float) -> None:
    assert (await shared.verifier.verify(shared.issuer().token(exp=exp))).expires == exp


@pytest.mark.parametrize(("claim", "rule"), [("nbf", "T9"), ("iat", "T10")])
@pytest.mark.parametrize("ahead", [61, 600, DAY])
async def test_t9_token_from_the_future_is_refused(shared: Site, claim: str, rule: str, ahead: int) -> None:
    token = shared.issuer().token(**{claim: NOW + ahead}, exp=NOW + 2 * DAY)
    found = await refusal(shared.verifier, token)
    assert (found.rule, found.reason) == (rule, Reason.NOT_YET_VALID)


@pytest.mark.parametrize("claim", ["nbf", "iat"])
@pytest.mark.parametrize("ahead", [30, 60])
async def test_t9_issuers_clock_may_be_ahead_a_little(shared: Site, claim: str, ahead: int) -> None:
    assert await shared.verifier.verify(shared.issuer().token(**{claim: NOW + ahead}))


@pytest.mark.parametrize(("skew", "ahead", "is_valid"), [(0, 1, False), (300, 300, True), (9999, 301, False)])
async def test_t9_skew_is_configured_up_to_five_minutes(
    site: Site, skew: int, ahead: int, is_valid: bool
) -> None:
    issuer = site.issuer()
    await site.open(issuer.configured(), clock_skew_s=skew)
    token = issuer.token(nbf=NOW + ahead)
    if is_valid:
        assert await site.verifier.verify(token)
    else:
        assert await rule_against(site, token) == "T9"


async def test_t9_token_without_nbf_is_valid(shared: Site) -> None:
    assert await shared.verifier.verify(shared.issuer().token(nbf=None))


@pytest.mark.parametrize("lifetime", [6 * HOUR + 1, 30 * DAY])
async def test_t11_token_that_lives_too_long_is_refused(shared: Site, lifetime: int) -> None:
    token = shared.issuer().token(iat=NOW - 100, exp=NOW - 100 + lifetime)
    found = await refusal(shared.verifier, token)
    assert (found.rule, found.reason) == ("T11", Reason.LIFETIME)


async def test_t11_longest_lifetime_is_valid(shared: Site) -> None:
    assert await shared.verifier.verify(shared.issuer().token(exp=NOW + 6 * HOUR))


async def test_t11_limit_may_be_off_with_a_warning(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    issuer = site.issuer()
    with caplog.at_level(logging.WARNING):
        await site.open(issuer.configured(max_lifetime_s=0))
    assert "max_lifetime_s" in caplog.text
    assert await site.verifier.verify(issuer.token(exp=NOW + 3000 * DAY))


@pytest.mark.parametrize(
    "aud",
    [
        f"{AUDIENCE}/",
        f"{AUDIENCE}:443",
        AUDIENCE.upper(),
        AUDIENCE[:-1],
        f"{AUDIENCE} ",
        f"{AUDIENCE},https://elsewhere.example.org",
        "",
        [],
        [[AUDIENCE]],
        [AUDIENCE, 5],
        [AUDIENCE, None],
        {AUDIENCE: True},
        5,
        True,
        None,
        ["https://a.example.org", "https://b.example.org"],
        ANY_AUDIENCE + "/",
        "ANY",
    ],
)
async def test_t12_audience_that_is_not_ours_is_refused(shared: Site, aud: object) -> None:
    assert await rule_against(shared, shared.issuer().token(aud=aud)) == "T12"


async def test_t12_audience_null_is_refused(shared: Site) -> None:
    assert await rule_against(shared, with_text(shared.issuer(), "aud", "null")) == "T12"


@pytest.mark.parametrize(
    "aud", [AUDIENCE, [AUDIENCE], ["https://a.example.org", AUDIENCE], ANY_AUDIENCE, ["x", ANY_AUDIENCE]]
)
async def test_t12_one_audience_of_ours_is_enough(shared: Site, aud: object) -> None:
    assert await shared.verifier.verify(shared.issuer().token(aud=aud))


async def test_t12_any_audience_can_be_switched_off(site: Site) -> None:
    issuer = site.issuer()
    await site.open(issuer.configured(accept_any_audience=False))
    assert await rule_against(site, issuer.token(aud=ANY_AUDIENCE)) == "T12"
    assert await site.verifier.verify(issuer.token())


async def test_t18_id_token_of_a_client_fails_at_its_audience(shared: Site) -> None:
    token = shared.issuer().token(aud="client-4711", nonce="n", auth_time=NOW, at_hash="x")
    assert await rule_against(shared, token) == "T12"


@pytest.mark.parametrize("version", ["1.0", "1.3", "1.99", "1.007"])
async def test_t13_every_minor_version_is_accepted(shared: Site, version: str) -> None:
    assert await shared.verifier.verify(shared.issuer().token(wlcg_ver=version))


@pytest.mark.parametrize(
    "version",
    [None, "2.0", "0.9", "11.0", "1", "1.", ".1", "1.0.1", "1.x", "v1.0", " 1.0", "1.0\n", "١.٠", 1.0, 1, ""],
)
async def test_t13_other_version_is_refused(shared: Site, version: object) -> None:
    assert await rule_against(shared, shared.issuer().token(wlcg_ver=version)) == "T13"


async def test_t14_unknown_claims_change_nothing(shared: Site) -> None:
    token = shared.issuer().token(
        role="admin",
        groups=["/vo"],
        entitlements=["root"],
        uid=0,
        storage={"read": "/"},
        scp="storage.read:/",
    )
    valid = await shared.verifier.verify(token)
    assert (valid.has_capability, valid.groups) == (False, ())


@pytest.mark.parametrize("sub", ["a", "x" * 255, "host:disk1.example.org", 'quote" and blank'])
async def test_t15_printable_subject_is_accepted(shared: Site, sub: str) -> None:
    assert (await shared.verifier.verify(shared.issuer().token(sub=sub))).sub == sub


@pytest.mark.parametrize(
    "sub", [None, "", "x" * 256, 5, ["ada"], "jürgen", "a\r\nb", "a\0", "a\x7f", "\ud800"]
)
async def test_t15_other_subject_is_refused(shared: Site, sub: object) -> None:
    assert await rule_against(shared, shared.issuer().token(sub=sub)) == "T15"


@pytest.mark.parametrize("jti", [None, 5, ["x"], {}, True])
async def test_t16_missing_jti_is_refused(shared: Site, jti: object) -> None:
    assert await rule_against(shared, shared.issuer().token(jti=jti)) == "T16"


async def test_t16_jti_is_not_used_up(shared: Site) -> None:
    token = shared.issuer().token(jti="once")
    shared.verifier.forget()
    first = await shared.verifier.verify(token)
    shared.verifier.forget()
    assert await shared.verifier.verify(token) == first


# Scopes and groups; their rules in full are tested with scopes and groups.


@pytest.mark.parametrize(
    ("claims", "rule"),
    [
        ({"scope": 5}, "S1"),
        ({"scope": ["storage.read:/"]}, "S1"),
        ({"scope": "storage.read:/\tx"}, "S1"),
        ({"scope": "storage.read:/ok storage.read:/a/../b"}, "S3"),
        ({"scope": "storage.read"}, "S3"),
        ({"wlcg_groups": "/vo"}, "G1"),
        ({"wlcg_groups": ["/vo", 5]}, "G1"),
        ({"wlcg_groups": ["/vo/../root"], "scope": "storage.read:/"}, "G1"),
    ],
)
async def test_s3_malformed_scope_or_group_spoils_the_token(
    shared: Site, claims: Mapping[str, object], rule: str
) -> None:
    assert await rule_against(shared, shared.issuer().token(**claims)) == rule


@pytest.mark.parametrize(("claim", "rule"), [("scope", "S1"), ("wlcg.groups", "G1")])
async def test_s1_null_is_not_absence(shared: Site, claim: str, rule: str) -> None:
    assert await rule_against(shared, with_text(shared.issuer(), claim, "null")) == rule


@pytest.mark.parametrize("mode", ["capability+group", "capability", "group"])
@pytest.mark.parametrize(
    ("scope", "kind"), [("openid", "group"), ("storage.read:/", "storage"), ("compute.read", "compute")]
)
async def test_g5_mode_and_capability_decide_what_counts(
    site: Site, mode: str, scope: str, kind: str
) -> None:
    issuer = site.issuer()
    await site.open(issuer.configured(mode=mode))
    valid = await site.verifier.verify(issuer.token(scope=scope, wlcg_groups=["/vo/prod", "/vo"]))
    is_group = kind == "group" and mode != "capability"
    assert valid.groups == (("vo/prod", "vo") if is_group else ())
    assert valid.has_capability == (kind != "group" and mode != "group")
    can_read = valid.grants.permits({Capability.READ}, "/dpm/example.org/home/vo/file")
    assert can_read == (kind == "storage" and mode != "group")


async def test_g6_groups_are_those_of_the_issuers_vo_as_mapped(site: Site) -> None:
    issuer = site.issuer()
    await site.open(issuer.configured(group_map={"/vo/prod": "vo/Role=production"}))
    token = issuer.token(wlcg_groups=["/vo/prod", "/other", "/vox", "/vo", "/vo/prod", "/root"])
    assert (await site.verifier.verify(token)).groups == ("vo/Role=production", "vo")


@pytest.mark.parametrize(
    ("sub", "scope", "expected"),
    [
        ("host:disk1.example.org", "openid host.auth", True),
        ("host:disk1.example.org", "openid", False),
        ("host:disk1.example.org", "host.authx", False),
        ("host:disk2.example.org", "host.auth", False),
    ],
)
async def test_m6_host_scope_counts_for_listed_subjects(
    site: Site, sub: str, scope: str, expected: bool
) -> None:
    issuer = site.issuer()
    await site.open(issuer.configured(), host_auth=("host:disk1.example.org",))
    valid = await site.verifier.verify(issuer.token(sub=sub, scope=scope))
    assert (valid.is_host, valid.has_capability) == (expected, False)


# Names of users.


async def test_user_name_that_is_too_long_is_a_digest(shared: Site) -> None:
    longest = "x" * (255 - len("jwt:vo:"))
    assert (await shared.verifier.verify(shared.issuer().token(sub=longest))).username == f"jwt:vo:{longest}"
    too_long = longest + "x"
    valid = await shared.verifier.verify(shared.issuer().token(sub=too_long))
    assert valid.username == valid.jwt_name == f"jwt:vo:sha256:{sha256(too_long.encode()).hexdigest()}"


async def test_user_is_mapped_by_subject_before_issuer_and_keeps_the_name_it_is_banned_by(site: Site) -> None:
    issuer = site.issuer()
    await site.open(
        issuer.configured(subject_map={"ada": "/DC=org/CN=Ada"}, username="volunteers", groups=("vo", "x"))
    )
    ada = await site.verifier.verify(issuer.token(sub="ada"))
    bob = await site.verifier.verify(issuer.token(sub="bob"))
    assert (ada.username, ada.jwt_name) == ("/DC=org/CN=Ada", "jwt:vo:ada")
    assert (bob.username, bob.jwt_name) == ("volunteers", "jwt:vo:bob")
    assert ada.vo_groups == ("vo", "x")
