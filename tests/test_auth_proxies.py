"""Which proxies are delegations of their end entity, and what they are worth."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path as File

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge.auth.certificate import read_certificate
from dome_bridge.auth.chain import LimitedProxy, Path, X509Policy, evaluate
from dome_bridge.auth.proxies import proxy_info
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.trust import Trust, load_trust
from sandbox import pki
from sandbox.pki import Authority, Credential, Policy

ROOT = Authority.root()
ADA = ROOT.user()
NOW = datetime.now(UTC) + timedelta(minutes=5)
FULL_INFO = pki.proxy_cert_info()


@pytest.fixture
def trust(tmp_path: File) -> Trust:
    return load_trust(pki.trust_directory(tmp_path / "ca", ROOT).path, tmp_path / "vomsdir")


def of(who: Credential, trust: Trust, policy: X509Policy = X509Policy()) -> Path:  # noqa: B008 - immutable
    return evaluate(who.ders, trust, policy, NOW)


def refused(who: Credential, trust: Trust, policy: X509Policy = X509Policy()) -> str:  # noqa: B008
    """The rule."""
    with pytest.raises(AuthError) as caught:
        of(who, trust, policy)
    assert (caught.value.status, caught.value.reason) == (401, Reason.PROXY), caught.value
    return caught.value.rule


def delegated(languages: Sequence[str]) -> Credential:
    """A chain of proxies with these policy languages, the EEC's first."""
    holder = ADA
    for language in languages:
        holder = holder.proxy(language)
    return holder


# P1


@pytest.mark.parametrize("position", [0, 1, 2])
def test_p1_proxy_cert_info_that_is_not_critical_is_refused(trust: Trust, position: int) -> None:
    holder = ADA
    for place in range(3):
        holder = holder.proxy(critical=place != position)

    assert refused(holder, trust) == "P1"


@pytest.mark.parametrize(
    "info",
    [
        b"",
        b"garbage",
        b"\x30\x00",
        b"\x30\x80" + FULL_INFO[2:] + b"\x00\x00",
        b"\x30\x81" + FULL_INFO[1:],
        FULL_INFO + b"\x00",
        FULL_INFO[:-1],
        pki.proxy_cert_info(path_length=-1),
        pki.proxy_cert_info().replace(b"\x30", b"\x31"),
    ],
)
@pytest.mark.parametrize("position", [0, 1])
def test_p1_proxy_cert_info_that_is_no_der_is_refused(trust: Trust, info: bytes, position: int) -> None:
    holder = ADA
    for place in range(2):
        holder = holder.proxy(info=info) if place == position else holder.proxy()

    assert refused(holder, trust) == "P1"


@given(
    st.binary(max_size=60) | st.binary(min_size=1, max_size=4).map(lambda end: FULL_INFO[: -len(end)] + end)
)
def test_p1_whatever_is_in_it_is_read_or_refused(info: bytes) -> None:
    assert _verdict(info) in ({""} if info == FULL_INFO else {"", "P1", "P2"})


def _verdict(info: bytes) -> str:
    try:
        proxy_info(read_certificate(ADA.proxy(info=info).ders[0]))
    except AuthError as exc:
        return exc.rule
    return ""


# P2


@pytest.mark.parametrize("language", [Policy.INDEPENDENT, Policy.ANY_LANGUAGE, Policy.UNKNOWN, "1.2"])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_p2_policy_language_that_grants_nothing_is_refused(
    trust: Trust, language: str, position: int
) -> None:
    languages = [Policy.FULL, Policy.LIMITED, Policy.FULL]

    assert refused(delegated([*languages[:position], language, *languages[position:]]), trust) == "P2"


@pytest.mark.parametrize("language", [Policy.FULL, Policy.LIMITED])
@pytest.mark.parametrize("policy", [b"", b"only reading"])
def test_p2_policy_besides_its_language_is_refused(trust: Trust, language: str, policy: bytes) -> None:
    assert refused(ADA.proxy(language, policy=policy), trust) == "P2"
    assert refused(ADA.proxy(language, policy=policy).proxy(), trust) == "P2"


# P3


def test_p3_more_proxies_than_allowed_are_refused(trust: Trust) -> None:
    assert len(of(delegated([Policy.FULL] * 10), trust).proxies) == 10
    assert refused(delegated([Policy.FULL] * 11), trust) == "P3"
    assert refused(delegated([Policy.FULL] * 12), trust) == "P3"
    assert refused(delegated([Policy.FULL] * 2), trust, X509Policy(max_proxy_depth=1)) == "P3"
    assert of(ADA, trust, X509Policy(max_proxy_depth=0)).dn.slash == ADA.dn


@pytest.mark.parametrize(
    ("length", "below", "is_good"), [(0, 0, True), (0, 1, False), (1, 1, True), (1, 2, False)]
)
def test_p3_path_length_of_a_proxy_is_kept(trust: Trust, length: int, below: int, is_good: bool) -> None:
    holder = ADA.proxy().proxy(path_length=length)
    for _ in range(below):
        holder = holder.proxy()

    if is_good:
        assert len(of(holder, trust).proxies) == below + 2
    else:
        assert refused(holder, trust) == "P3"


# P4


@pytest.mark.parametrize(
    ("languages", "is_limited"),
    [
        ([Policy.FULL], False),
        ([Policy.FULL, Policy.FULL], False),
        ([Policy.LIMITED], True),
        ([Policy.LIMITED, Policy.FULL], True),
        ([Policy.FULL, Policy.LIMITED, Policy.FULL], True),
        ([Policy.FULL, Policy.LIMITED], True),
    ],
)
def test_p4_one_limited_proxy_limits_the_chain(trust: Trust, languages: list[str], is_limited: bool) -> None:
    path = of(delegated(languages), trust)

    assert (path.is_limited, path.dn.slash) == (is_limited, ADA.dn)


def test_p4_limited_proxies_can_be_denied(trust: Trust) -> None:
    denying = X509Policy(limited_proxy=LimitedProxy.DENY)

    assert refused(delegated([Policy.LIMITED, Policy.FULL]), trust, denying) == "P4"
    assert of(delegated([Policy.FULL]), trust, denying).dn.slash == ADA.dn


# P6


def test_p6_proxies_from_before_rfc_3820_are_refused_by_name(trust: Trust) -> None:
    for limited in (False, True):
        with pytest.raises(AuthError, match="GT2") as caught:
            of(ADA.legacy_proxy(limited=limited), trust)
        assert caught.value.rule == "P6"
    with pytest.raises(AuthError, match="GT3") as caught:
        of(ADA.draft_proxy(), trust)
    assert caught.value.rule == "P6"
    assert refused(ADA.legacy_proxy().proxy(), trust) == "P6"
    assert refused(ADA.proxy().legacy_proxy(), trust) == "P6"


def test_p6_legacy_proxy_without_its_chain_is_named_too(trust: Trust) -> None:
    alone = ADA.legacy_proxy()

    assert refused(Credential(alone.certificate, alone.key), trust) == "P6"


def test_p6_user_whose_ca_calls_him_proxy_is_a_user(trust: Trust) -> None:
    named = ROOT.issue(f"{ROOT.dn}/CN=proxy")

    assert of(named, trust).dn.slash == f"{ROOT.dn}/CN=proxy"


def _last(*attributes: x509.NameAttribute[str]) -> x509.Name:
    return x509.Name([*ADA.subject.rdns, x509.RelativeDistinguishedName(attributes)])


CN_1, CN_2 = x509.NameAttribute(NameOID.COMMON_NAME, "1"), x509.NameAttribute(NameOID.COMMON_NAME, "2")
OU = x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "1")


@pytest.mark.parametrize(
    "subject",
    [
        ADA.subject,
        pki.name("/CN=somebody else"),
        _last(OU),
        _last(CN_1, OU),
        _last(CN_1, CN_2),
        pki.name(f"{ADA.dn}/CN=1/CN=2"),
        pki.name(ADA.dn.replace("Ada", "Bob") + "/CN=1"),
        x509.Name(ADA.subject.rdns[:-1]),
    ],
)
def test_p6_subject_is_the_issuers_and_one_common_name(trust: Trust, subject: x509.Name) -> None:
    assert refused(ADA.proxy(subject=subject), trust) == "P6"


@pytest.mark.parametrize(
    "extension",
    [
        x509.SubjectAlternativeName([x509.DNSName("dpmhead.example.org")]),
        x509.IssuerAlternativeName([x509.DNSName("dpmhead.example.org")]),
        x509.BasicConstraints(ca=True, path_length=None),
    ],
)
def test_p6_proxy_with_another_name_or_ca_flag_is_refused(
    trust: Trust, extension: x509.ExtensionType
) -> None:
    assert refused(ADA.proxy(extensions=[(extension, False)]), trust) == "P6"


def test_p6_ca_can_not_delegate(trust: Trust) -> None:
    root = Credential(ROOT.certificate, ROOT.key)

    with pytest.raises(AuthError) as caught:
        of(root.proxy(), trust)
    assert caught.value.status == 401


def test_p6_sub_ca_can_not_delegate(trust: Trust) -> None:
    sub = ROOT.sub()
    proxy = Credential(sub.certificate, sub.key, sub.above[1:]).proxy()

    with pytest.raises(AuthError, match="is a CA") as caught:
        of(proxy, trust)
    assert caught.value.status == 401


def test_x3_proxy_that_another_key_has_signed_is_nobodys(trust: Trust) -> None:
    mallory = ROOT.user("Mallory")

    with pytest.raises(AuthError) as caught:
        of(ADA.proxy(signer=mallory.key), trust)
    assert (caught.value.rule, caught.value.reason) == ("X3", Reason.SIGNATURE)
    with pytest.raises(AuthError) as caught:
        evaluate([*mallory.proxy(issuer=ADA.subject).ders, *ADA.ders], trust, X509Policy(), NOW)
    assert (caught.value.rule, caught.value.reason) == ("X3", Reason.SIGNATURE)


def test_x3_proxy_without_its_end_entity_is_nobodys(trust: Trust) -> None:
    with pytest.raises(AuthError) as caught:
        evaluate(ADA.proxy().proxy().ders[:2], trust, X509Policy(), NOW)
    assert (caught.value.rule, caught.value.reason) == ("X1", Reason.UNTRUSTED)


def test_x4_user_of_a_proxy_is_the_end_entity(trust: Trust) -> None:
    chain = delegated([Policy.FULL] * 3)

    path = of(chain, trust)

    assert path.dn.slash == ADA.dn
    assert [each.der for each in (*path.proxies, path.eec)] == chain.ders


def test_x2_proxy_for_servers_only_is_refused(trust: Trust) -> None:
    server_only = x509.ExtendedKeyUsage([pki.SERVER_AUTH])

    with pytest.raises(AuthError) as caught:
        of(ADA.proxy(extensions=[(server_only, False)]).proxy(), trust)
    assert caught.value.rule == "X2"


# What a real tool makes


@pytest.mark.skipif(not shutil.which("voms-proxy-fake"), reason="voms-proxy-fake of voms-clients is missing")
@pytest.mark.parametrize("limited", [False, True])
def test_proxy_of_voms_proxy_fake_is_understood(tmp_path: File, limited: bool) -> None:
    """It signs with the digest of the user's certificate, if an RSA key has signed that, else with SHA-1."""
    root = Authority.root(key=pki.rsa_key(2))
    trust = load_trust(pki.trust_directory(tmp_path / "ca", root).path, tmp_path / "vomsdir")
    user = root.issue(ADA.subject, key=pki.rsa_key(0))
    server = root.issue("/DC=org/DC=example/CN=voms.example.org", key=pki.rsa_key(1))
    user.write_pair(tmp_path, "user")
    server.write_pair(tmp_path, "host")
    command = (
        "voms-proxy-fake -quiet -rfc -cert usercert.pem -key userkey.pem -hostcert hostcert.pem "
        "-hostkey hostkey.pem -certdir ca -voms dteam -fqan /dteam -uri voms.example.org:15000 -out proxy"
    )
    subprocess.run(
        [*command.split(), *["-limited"] * limited], cwd=tmp_path, check=True, capture_output=True, timeout=60
    )
    certificates = x509.load_pem_x509_certificates((tmp_path / "proxy").read_bytes())

    path = evaluate([each.public_bytes(Encoding.DER) for each in certificates], trust, X509Policy(), NOW)

    assert (path.dn.slash, len(path.proxies), path.is_limited) == (ADA.dn, 1, limited)
