"""What revocation lists refuse, when they are needed, and which of them count."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path as File

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from dome_bridge.auth.chain import X509Policy, evaluate, evaluate_signer
from dome_bridge.auth.crls import CrlPolicy, read_crl
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.trust import Trust, load_trust
from sandbox import pki
from sandbox.pki import Authority, Credential, TrustDirectory

ROOT = Authority.root()
SUB = ROOT.sub()
ADA, BOB = SUB.user("Ada"), SUB.user("Bob")
NOW = datetime.now(UTC) + timedelta(minutes=5)
CRITICAL_STRANGER = (
    x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.8"), b"\x05\x00"),
    True,
)

Verdict = tuple[str, Reason] | None
GOOD: Verdict = None
REVOKED: Verdict = ("C1", Reason.REVOKED)
NO_ANSWER: Verdict = ("C1", Reason.CRL)

TrustOf = Callable[..., Trust]


@pytest.fixture
def directory(tmp_path: File) -> TrustDirectory:
    return pki.trust_directory(tmp_path / "ca", ROOT)


@pytest.fixture
def trust_of(directory: TrustDirectory, tmp_path: File) -> TrustOf:
    """Loads ROOT with these lists of ROOT and of SUB."""

    def loaded(root: Sequence[bytes] = (), sub: Sequence[bytes] = ()) -> Trust:
        for authority, crls in ((ROOT, root), (SUB, sub)):
            for index, crl in enumerate(crls):
                directory.set_crl(authority, crl, index)
        return load_trust(directory.path, tmp_path / "vomsdir")

    return loaded


def verdict(who: Credential, trust: Trust, crl_policy: str = CrlPolicy.IF_PRESENT) -> Verdict:
    try:
        evaluate(who.ders, trust, X509Policy(crl_policy), NOW)
    except AuthError as exc:
        return exc.rule, exc.reason
    return None


POLICIES = list(CrlPolicy)


# C1


@pytest.mark.parametrize("crl_policy", [CrlPolicy.REQUIRE, CrlPolicy.IF_PRESENT])
def test_c1_revoked_user_is_refused_and_so_are_his_proxies(trust_of: TrustOf, crl_policy: str) -> None:
    trust = trust_of([ROOT.crl()], [SUB.crl([ADA])])

    assert verdict(ADA, trust, crl_policy) == REVOKED
    assert verdict(ADA.proxy().proxy(), trust, crl_policy) == REVOKED
    assert verdict(BOB.proxy(), trust, crl_policy) == GOOD


@pytest.mark.parametrize("crl_policy", [CrlPolicy.REQUIRE, CrlPolicy.IF_PRESENT])
def test_c1_users_of_a_revoked_ca_are_refused(trust_of: TrustOf, crl_policy: str) -> None:
    trust = trust_of([ROOT.crl([SUB.certificate])], [SUB.crl()])

    assert verdict(ADA, trust, crl_policy) == REVOKED


def test_c1_who_signs_attribute_certificates_can_be_revoked(trust_of: TrustOf) -> None:
    trust = trust_of([ROOT.crl()], [SUB.crl([ADA])])

    with pytest.raises(AuthError) as caught:
        evaluate_signer(ADA.ders, trust, X509Policy(), NOW)
    assert (caught.value.rule, caught.value.reason) == REVOKED


@pytest.mark.parametrize(
    ("root", "sub", "verdicts"),
    [
        ("good", "good", (GOOD, GOOD, GOOD)),
        ("good", "none", (NO_ANSWER, GOOD, GOOD)),
        ("none", "good", (NO_ANSWER, GOOD, GOOD)),
        ("none", "none", (NO_ANSWER, GOOD, GOOD)),
        ("good", "expired", (NO_ANSWER, NO_ANSWER, GOOD)),
        ("expired", "good", (NO_ANSWER, NO_ANSWER, GOOD)),
        ("good", "future", (NO_ANSWER, NO_ANSWER, GOOD)),
        ("good", "forged", (NO_ANSWER, NO_ANSWER, GOOD)),
        ("good", "unreadable", (NO_ANSWER, NO_ANSWER, GOOD)),
        ("good", "revoking", (REVOKED, REVOKED, GOOD)),
        ("good", "expired and revoking", (NO_ANSWER, NO_ANSWER, GOOD)),
    ],
)
def test_c1_state_of_the_lists_decides(
    trust_of: TrustOf, root: str, sub: str, verdicts: tuple[Verdict, ...]
) -> None:
    """For require, if-present and off."""

    def listed(authority: Authority, state: str) -> list[bytes]:
        made: dict[str, Callable[[], bytes]] = {
            "good": authority.crl,
            "expired": lambda: authority.crl(window=pki.expired()),
            "future": lambda: authority.crl(window=pki.not_yet_valid()),
            "forged": lambda: authority.crl(signer=pki.ec_key()),
            "unreadable": lambda: authority.crl()[:200],
            "revoking": lambda: authority.crl([ADA]),
            "expired and revoking": lambda: authority.crl([ADA], window=pki.expired()),
        }
        return [] if state == "none" else [made[state]()]

    trust = trust_of(listed(ROOT, root), listed(SUB, sub))

    assert tuple(verdict(ADA.proxy(), trust, policy) for policy in POLICIES) == verdicts


def test_c1_missing_list_is_told_once_a_day(trust_of: TrustOf, caplog: pytest.LogCaptureFixture) -> None:
    trust = trust_of([ROOT.crl()])
    caplog.set_level(logging.WARNING)

    for hours in (0, 0, 1, 24, 24):
        evaluate(BOB.ders, trust, X509Policy(), NOW.replace(hour=3) + timedelta(hours=hours))

    assert [record.args for record in caplog.records] == [(SUB.dn,)] * 2


def test_c1_missing_list_is_told_once_a_day_over_reloads(
    directory: TrustDirectory, trust_of: TrustOf, tmp_path: File, caplog: pytest.LogCaptureFixture
) -> None:
    trust = trust_of([ROOT.crl()])
    evaluate(BOB.ders, trust, X509Policy(), NOW)
    directory.set_crl(ROOT, ROOT.crl(number=2))
    caplog.clear()

    evaluate(BOB.ders, load_trust(directory.path, tmp_path / "vomsdir", previous=trust), X509Policy(), NOW)

    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_c1_list_of_a_namesake_is_not_the_cas(directory: TrustDirectory, tmp_path: File) -> None:
    twin = Authority.root(ROOT.subject)
    directory.add(twin)
    user, other = ROOT.user("Ada"), twin.user("Ada", serial=1234)
    directory.set_crl(twin, twin.crl([other, user]))
    trust = load_trust(directory.path, tmp_path / "vomsdir")

    assert verdict(other, trust) == REVOKED
    assert verdict(user, trust) == GOOD
    assert verdict(user, trust, CrlPolicy.REQUIRE) == NO_ANSWER


def test_c1_ca_that_may_not_sign_lists_has_none(directory: TrustDirectory, tmp_path: File) -> None:
    certificates_only = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    ca = Authority.root(
        "/CN=No lists",
        extensions=[(x509.BasicConstraints(ca=True, path_length=None), True), (certificates_only, True)],
    )
    directory.add(ca, crl=ca.crl())

    assert verdict(ca.user(), load_trust(directory.path, tmp_path / "vomsdir")) == NO_ANSWER


def test_c1_path_expires_with_the_list_that_was_asked(trust_of: TrustOf) -> None:
    start, end = pki.around_now(timedelta(days=1), timedelta(hours=2))
    trust = trust_of([ROOT.crl()], [SUB.crl(window=pki.Window(start, end))])

    assert evaluate(ADA.ders, trust, X509Policy(), NOW).expires == end.timestamp()
    assert evaluate(ADA.ders, trust, X509Policy(CrlPolicy.OFF), NOW).expires > end.timestamp()


# C2


def test_c2_list_that_is_replaced_counts_at_the_next_load(
    directory: TrustDirectory, trust_of: TrustOf, tmp_path: File
) -> None:
    trust = trust_of([ROOT.crl()], [SUB.crl()])
    directory.set_crl(
        SUB, SUB.crl([ADA], number=2, window=pki.around_now(timedelta(hours=1), timedelta(days=9)))
    )

    assert verdict(ADA, trust) == GOOD
    assert verdict(ADA, load_trust(directory.path, tmp_path / "vomsdir", previous=trust)) == REVOKED


def test_c2_newest_of_several_valid_lists_counts(trust_of: TrustOf) -> None:
    def made(revoked: Sequence[Credential], hours: int) -> bytes:
        return SUB.crl(revoked, window=pki.around_now(timedelta(hours=hours), timedelta(days=1)))

    expired = SUB.crl([ADA, BOB], window=pki.expired())
    trust = trust_of([ROOT.crl()], [made([ADA], 5), expired, b"junk", made([BOB], 2)])

    assert (verdict(ADA, trust), verdict(BOB, trust)) == (GOOD, REVOKED)


def test_c2_lists_of_one_moment_are_told_apart_by_their_number(trust_of: TrustOf) -> None:
    window = pki.around_now(timedelta(hours=1), timedelta(days=1))
    trust = trust_of(
        [ROOT.crl()], [SUB.crl([ADA], window=window, number=2), SUB.crl([BOB], window=window, number=1)]
    )

    assert (verdict(ADA, trust), verdict(BOB, trust)) == (REVOKED, GOOD)


def test_c2_list_in_der_is_read_too(trust_of: TrustOf) -> None:
    der = x509.load_pem_x509_crl(SUB.crl([ADA])).public_bytes(Encoding.DER)

    assert verdict(ADA, trust_of([ROOT.crl()], [der])) == REVOKED


# C3


def _distribution(**marks: bool) -> pki.Extra:
    flags = dict.fromkeys(
        (
            "only_contains_user_certs",
            "only_contains_ca_certs",
            "indirect_crl",
            "only_contains_attribute_certs",
        ),
        False,
    )
    name = [x509.UniformResourceIdentifier("http://ca.example.org/crl")]
    point = x509.IssuingDistributionPoint(
        full_name=name, relative_name=None, only_some_reasons=None, **(flags | marks)
    )
    return point, True


@pytest.mark.parametrize(
    ("extension", "expected"),
    [
        (_distribution(), GOOD),
        (_distribution(only_contains_user_certs=True), GOOD),
        (_distribution(indirect_crl=True), NO_ANSWER),
        (_distribution(only_contains_attribute_certs=True), NO_ANSWER),
        (CRITICAL_STRANGER, NO_ANSWER),
        ((CRITICAL_STRANGER[0], False), GOOD),
        ((x509.DeltaCRLIndicator(1), True), NO_ANSWER),
        ((x509.DeltaCRLIndicator(1), False), NO_ANSWER),
    ],
)
@pytest.mark.parametrize("crl_policy", [CrlPolicy.REQUIRE, CrlPolicy.IF_PRESENT])
def test_c3_extension_of_a_list(
    trust_of: TrustOf, extension: pki.Extra, expected: Verdict, crl_policy: str
) -> None:
    trust = trust_of([ROOT.crl()], [SUB.crl(extensions=[extension])])

    assert verdict(ADA, trust, crl_policy) == expected


def test_c3_list_of_cas_says_nothing_of_users(trust_of: TrustOf) -> None:
    only_cas = SUB.crl(extensions=[_distribution(only_contains_ca_certs=True)])
    trust = trust_of([ROOT.crl(extensions=[_distribution(only_contains_ca_certs=True)])], [only_cas])

    assert verdict(ADA, trust) == GOOD
    assert verdict(ADA, trust, CrlPolicy.REQUIRE) == NO_ANSWER


@pytest.mark.parametrize("data", [b"", b"junk", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"])
def test_junk_is_no_list_and_the_reason_is_one_line(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\A.+\Z"):
        read_crl(data)
