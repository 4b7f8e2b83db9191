"""Whom a chain of certificates proves, and which chains prove nobody."""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path as File

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dome_bridge.auth.chain import Path, X509Policy, evaluate, evaluate_signer
from dome_bridge.auth.dn import DistinguishedName
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.trust import Trust, load_trust
from sandbox import pki
from sandbox.pki import Authority, Credential, TrustDirectory

ROOT = Authority.root()
SUB = ROOT.sub()
ADA = SUB.user()
# Certificates of the openssl command line begin when they are made.
NOW = datetime.now(UTC) + timedelta(minutes=5)

TrustOf = Callable[..., Trust]


@pytest.fixture
def trust_of(tmp_path: File) -> TrustOf:
    """Loads a trust directory with these CAs."""

    def loaded(*authorities: Authority) -> Trust:
        directory = pki.trust_directory(tmp_path / "certificates", *authorities)
        return load_trust(directory.path, tmp_path / "vomsdir")

    return loaded


@pytest.fixture
def trust(trust_of: TrustOf) -> Trust:
    return trust_of(ROOT)


class OpenSsl:
    """The command line tool at work in a directory of its own."""

    def __init__(self, directory: File) -> None:
        self.directory = directory

    def run(self, arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=self.directory, check=True, capture_output=True)

    def request(self, subject: str) -> pki.Key:
        """A new key, and a request for a certificate of it."""
        curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256"
        self.run(f"req -new {curve} -nodes -keyout key -out request -subj {subject}")
        key = load_pem_private_key((self.directory / "key").read_bytes(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        return key

    def signed(self, how: str) -> x509.Certificate:
        self.run(f"x509 -req -in request -days 2 -out certificate {how}")
        return x509.load_pem_x509_certificate((self.directory / "certificate").read_bytes())

    def signed_by(self, signer: Authority | Credential, how: str) -> x509.Certificate:
        Credential(signer.certificate, signer.key).write_pair(self.directory, "ca")
        return self.signed(f"-CA cacert.pem -CAkey cakey.pem {how}")


@pytest.fixture
def openssl(tmp_path: File) -> OpenSsl:
    (tmp_path / "openssl").mkdir()
    return OpenSsl(tmp_path / "openssl")


def of(who: Credential | Sequence[bytes], trust: Trust, *, now: datetime = NOW) -> Path:
    ders = who.ders if isinstance(who, Credential) else who
    return evaluate(ders, trust, X509Policy(), now)


def refused(who: Credential | Sequence[bytes], trust: Trust, *, now: datetime = NOW) -> tuple[str, Reason]:
    with pytest.raises(AuthError) as caught:
        of(who, trust, now=now)
    assert caught.value.status == 401
    assert "\n" not in str(caught.value)
    return caught.value.rule, caught.value.reason


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


# X1


def test_x1_user_of_a_sub_ca_that_is_sent_is_known(trust: Trust) -> None:
    path = of(ADA, trust)

    assert path.dn.slash == "/DC=org/DC=example/OU=People/CN=Ada Lovelace"
    assert [each.slash for each in path.issuer_names] == [SUB.dn, ROOT.dn]
    assert (path.proxies, path.hosts, path.is_limited) == ((), (), False)


def test_x1_sub_ca_may_be_in_the_directory_instead(trust_of: TrustOf) -> None:
    assert of(ADA.ders[:1], trust_of(ROOT, SUB)).dn.slash == ADA.dn


def test_x1_sub_ca_that_is_nowhere_is_missed(trust: Trust) -> None:
    assert refused(ADA.ders[:1], trust) == ("X1", Reason.UNTRUSTED)


def test_x1_sub_ca_in_the_directory_is_no_anchor_without_its_root(trust_of: TrustOf) -> None:
    assert refused(ADA, trust_of(SUB)) == ("X1", Reason.UNTRUSTED)


def test_x1_ca_of_the_same_name_with_another_key_is_nobody(trust: Trust) -> None:
    forger = Authority.root(ROOT.subject)

    assert refused(forger.user(), trust) == ("X3", Reason.SIGNATURE)


def test_x1_root_that_the_client_sends_is_not_trusted(trust: Trust) -> None:
    for forger in (Authority.root("/CN=Forger"), Authority.root(ROOT.subject)):
        user = forger.sub().user()
        assert refused([*user.ders, forger.der], trust) == ("X1", Reason.UNTRUSTED)


def test_x1_two_cas_of_the_same_name_both_work(trust_of: TrustOf) -> None:
    twin = Authority.root(ROOT.subject)
    trust = trust_of(ROOT, twin)

    assert of(ROOT.user("Ada"), trust).issuers[-1].der == ROOT.der
    assert of(twin.user("Bob"), trust).issuers[-1].der == twin.der


def test_x1_self_signed_user_is_nobody(trust: Trust) -> None:
    own = pki.ec_key()
    subject = ADA.subject
    forged = pki.sign(subject, own, subject, own, pki.around_now(timedelta(1), timedelta(1)))

    assert refused([der(forged)], trust) == ("X1", Reason.UNTRUSTED)


def test_x1_trust_anchor_itself_is_no_user(trust_of: TrustOf) -> None:
    assert refused([ROOT.der], trust_of(ROOT)) == ("X1", Reason.UNTRUSTED)


# X2


def test_x2_client_without_the_purpose_is_told_where_to_get_one(trust: Trust) -> None:
    server = ROOT.issue("/CN=www.example.org", purposes=(pki.SERVER_AUTH,))

    with pytest.raises(AuthError, match="lacks clientAuth; public web CAs have stopped") as caught:
        of(server, trust)
    assert (caught.value.status, caught.value.rule) == (401, "X2")


def test_x2_certificate_without_extended_key_usage_serves_any_purpose(trust: Trust) -> None:
    assert of(ROOT.issue("/CN=Ada", purposes=None), trust).dn.slash == "/CN=Ada"


def test_x2_any_extended_key_usage_is_not_client_auth(trust: Trust) -> None:
    anything = ROOT.issue("/CN=Ada", purposes=(x509.ObjectIdentifier("2.5.29.37.0"),))

    assert refused(anything, trust)[0] == "X2"


def test_x2_does_not_hold_for_who_signs_attribute_certificates(trust: Trust) -> None:
    server = ROOT.issue("/CN=voms.example.org", purposes=(pki.SERVER_AUTH,))

    assert evaluate_signer(server.ders, trust, X509Policy(), NOW).dn.slash == "/CN=voms.example.org"


# X3


def test_x3_shuffled_chain_with_junk_gives_the_same_path(trust: Trust) -> None:
    proxy = ADA.proxy().proxy()
    stranger = Authority.root("/CN=Stranger").sub().user()
    leaf, *rest = proxy.ders
    rest += [*stranger.ders, ROOT.der, ROOT.user("Bob").ders[0], rest[0], b"no certificate"]

    for seed in range(10):
        random.Random(seed).shuffle(rest)
        path = of([leaf, *rest], trust)
        assert [each.der for each in path.proxies] == proxy.ders[:2]
        assert path.eec.der == ADA.ders[0]


def test_x3_leaf_is_the_first_certificate_whatever_follows(trust: Trust) -> None:
    mallory = ROOT.user("Mallory")

    assert of([*mallory.ders, *ADA.ders], trust).dn.slash == mallory.dn


@pytest.mark.parametrize("which", ["leaf", "proxy", "eec", "sub", "root"])
@pytest.mark.parametrize(
    ("window", "reason"),
    [(pki.expired, Reason.EXPIRED), (pki.not_yet_valid, Reason.NOT_YET_VALID)],
)
def test_x3_validity_of_each_certificate_is_checked(
    trust_of: TrustOf, which: str, window: Callable[[], pki.Window], reason: Reason
) -> None:
    def when(name: str) -> pki.Window | None:
        return window() if name == which else None

    root = Authority.root(window=when("root"))
    user = root.sub(window=when("sub")).issue("/CN=Ada", window=when("eec"))
    leaf = user.proxy(window=when("proxy")).proxy(window=when("leaf"))

    assert refused(leaf, trust_of(root)) == ("X3", reason)


def test_x3_validity_includes_both_ends_to_the_second(trust: Trust) -> None:
    start, end = pki.around_now(timedelta(hours=1), timedelta(hours=1))
    user = ROOT.issue("/CN=Ada", window=pki.Window(start, end))

    assert of(user, trust, now=start).dn.slash == of(user, trust, now=end).dn.slash == "/CN=Ada"
    assert refused(user, trust, now=end + timedelta(seconds=1)) == ("X3", Reason.EXPIRED)
    assert refused(user, trust, now=start - timedelta(seconds=1)) == ("X3", Reason.NOT_YET_VALID)


def test_x3_names_of_other_string_types_chain(trust_of: TrustOf) -> None:
    def named(kind: _ASN1Type) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Old CA", kind)])

    ca = Authority.root(named(_ASN1Type.BMPString))
    window = pki.around_now(timedelta(1), timedelta(1))
    key = pki.ec_key()
    user = pki.sign(pki.name("/CN=Ada"), key, named(_ASN1Type.PrintableString), ca.key, window)

    assert of([der(user)], trust_of(ca)).dn.slash == "/CN=Ada"


def test_x3_issuers_are_told_apart_by_their_keys(trust: Trust) -> None:
    impostor = Authority.root("/CN=Other").sub(SUB.subject)

    assert of([*ADA.ders[:1], der(impostor.certificate), *ADA.ders[1:]], trust).issuers[0].der == SUB.der


def test_x3_cross_signed_ca_is_reached_by_the_path_that_is_trusted(trust_of: TrustOf) -> None:
    old, new = Authority.root("/CN=Old"), Authority.root("/CN=New")
    cross, back = old.sub(new.subject, key=new.key), new.sub(old.subject, key=old.key)
    user = new.user("Ada")

    path = of([*user.ders, der(back.certificate), der(cross.certificate), new.der], trust_of(old))

    assert [each.slash for each in path.issuer_names] == ["/CN=New", "/CN=Old"]


def test_x3_second_path_counts_if_the_first_is_no_good(trust_of: TrustOf) -> None:
    expired, new = Authority.root("/CN=Old", window=pki.expired()), Authority.root("/CN=New")
    cross = expired.sub(new.subject, key=new.key)
    user = new.user("Ada")

    assert of([*user.ders, der(cross.certificate)], trust_of(expired, new)).issuers[-1].der == new.der


def test_x3_certificates_of_one_name_that_sign_each_other_end_the_search(trust: Trust) -> None:
    key, name, window = pki.ec_key(), pki.name("/CN=Same"), pki.around_now(timedelta(1), timedelta(1))
    same = [der(pki.sign(name, key, name, key, window)) for _ in range(16)]

    assert refused(same, trust) == ("L3", Reason.TOO_LARGE)


def test_x3_user_can_not_sign_a_certificate(trust: Trust) -> None:
    window = pki.around_now(timedelta(1), timedelta(1))
    key = pki.ec_key()
    forged = pki.sign(pki.name("/CN=Bob"), key, ADA.subject, ADA.key, window)

    assert refused([der(forged), *ADA.ders], trust) == ("X3", Reason.UNTRUSTED)


def test_x3_ca_without_the_right_to_sign_certificates_is_none(trust: Trust) -> None:
    for extensions in (
        [(x509.BasicConstraints(ca=False, path_length=None), True)],
        [(pki.key_usage(ca=True), True)],
        [],
        [(x509.BasicConstraints(ca=True, path_length=None), True), (pki.key_usage(), True)],
    ):
        user = ROOT.sub(extensions=extensions).user()
        assert refused(user, trust) == ("X3", Reason.UNTRUSTED)


def test_x3_proxy_signs_no_certificate_of_another_name(trust: Trust) -> None:
    proxy = ADA.proxy(extensions=[(x509.BasicConstraints(ca=True, path_length=None), True)])
    forged = proxy.delegate(pki.name("/CN=Bob"), [])

    assert refused(forged, trust) == ("X3", Reason.UNTRUSTED)


@pytest.mark.parametrize(("lengths", "is_good"), [((0, None), False), ((1, None), True), ((None, 0), True)])
def test_x3_path_length_of_cas_is_kept(
    trust_of: TrustOf, lengths: tuple[int | None, int | None], is_good: bool
) -> None:
    root = Authority.root(path_length=lengths[0])
    user = root.sub("/CN=Sub", path_length=lengths[1]).user()

    if is_good:
        assert of(user, trust_of(root)).dn.slash == user.dn
    else:
        assert refused(user, trust_of(root)) == ("X3", Reason.UNTRUSTED)


def test_x3_path_length_counts_no_proxies(trust_of: TrustOf) -> None:
    root = Authority.root(path_length=0)

    assert len(of(root.user().proxy().proxy(), trust_of(root)).proxies) == 2


def test_x3_ca_is_no_end_entity(trust: Trust) -> None:
    marks = [
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (pki.key_usage(ca=True, digital_signature=True), True),
    ]
    sub = ROOT.sub(extensions=marks)

    assert refused([der(sub.certificate)], trust) == ("X3", Reason.UNTRUSTED)


def test_x3_root_from_before_version_3_is_one(trust_of: TrustOf, openssl: OpenSsl) -> None:
    """Without extensions; a CA below it needs them all the same."""
    key = openssl.request("/CN=Ancient")
    ancient = Authority(openssl.signed("-signkey ./key"), key)
    trust = trust_of(ancient)

    assert of(ancient.user(), trust).issuers[-1].der == ancient.der
    assert refused(ancient.sub("/CN=Sub", extensions=[]).user(), trust) == ("X3", Reason.UNTRUSTED)


def test_x3_wrong_authority_key_identifier_is_another_ca(trust: Trust) -> None:
    other = x509.AuthorityKeyIdentifier.from_issuer_public_key(pki.ec_key().public_key())
    user = ROOT.issue("/CN=Ada", standard=False, extensions=[(other, False)])

    assert refused(user, trust)[0] == "X3"


def test_x3_unknown_critical_extension_is_refused(trust: Trust) -> None:
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.7"), b"\x05\x00")

    assert of(ROOT.issue("/CN=Ada", extensions=[(strange, False)]), trust).dn.slash == "/CN=Ada"
    assert refused(ROOT.issue("/CN=Ada", extensions=[(strange, True)]), trust)[0] == "X3"


def test_x3_key_not_for_signatures_is_refused(trust: Trust) -> None:
    encipher = ROOT.issue("/CN=Ada", usage=pki.key_usage(digital_signature=False))

    assert refused(encipher, trust)[0] == "X3"


def test_x3_broken_certificate_is_refused_and_a_missing_one_too(trust: Trust) -> None:
    whole = ADA.ders[0]

    for ders in ([b""], [b"\x30\x00"], [whole[:-1]], [whole + b"\x00"]):
        assert refused(ders, trust) == ("X3", Reason.MALFORMED)
    assert refused([], trust) == ("X3", Reason.MISSING)


def test_x3_changed_certificate_has_a_bad_signature(trust: Trust) -> None:
    changed = ROOT.user("Bob").ders[0].replace(b"Bob", b"Eve")

    assert refused([changed], trust) == ("X3", Reason.SIGNATURE)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2), st.floats(0, 0.999), st.integers(1, 255))
def test_x3_changed_byte_proves_nobody_else(trust: Trust, which: int, place: float, change: int) -> None:
    ders = ADA.proxy().ders
    changed = bytearray(ders[which])
    changed[int(place * len(changed))] ^= change
    ders[which] = bytes(changed)

    with contextlib.suppress(AuthError):
        assert of(ders, trust).dn.slash == ADA.dn


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("serial", [0, -5])
def test_x3_serials_that_are_not_positive_do_not_matter(trust: Trust, openssl: OpenSsl, serial: int) -> None:
    openssl.request("/CN=Ada")
    certificate = openssl.signed_by(ROOT, f"-set_serial {serial}")

    assert of([der(certificate)], trust).eec.serial == serial


@pytest.mark.parametrize("bits", [0, 2048])
def test_tls2_sha_1_signature_is_refused(trust_of: TrustOf, openssl: OpenSsl, bits: int) -> None:
    """cryptography verifies those of RSA, not those of ECDSA."""
    ca = Authority.root("/CN=CA", key=pki.rsa_key(bits=bits) if bits else None)
    openssl.request("/CN=Ada")

    assert refused([der(openssl.signed_by(ca, "-sha1"))], trust_of(ca)) == ("TLS2", Reason.ALGORITHM)


def test_tls2_short_keys_are_refused(trust: Trust) -> None:
    assert refused(ROOT.issue("/CN=Ada", key=pki.rsa_key(bits=1024)), trust) == ("TLS2", Reason.ALGORITHM)
    assert of(ROOT.issue("/CN=Ada", key=pki.rsa_key()), trust).dn.slash == "/CN=Ada"


def test_l6_rsa_key_that_takes_long_to_verify_is_not_read(trust: Trust, openssl: OpenSsl) -> None:
    exponent = "-pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_pubexp:36893488147419103233"
    openssl.run(f"genpkey -algorithm RSA {exponent} -out key")
    openssl.run("req -new -key key -out request -subj /CN=Ada")

    assert refused([der(openssl.signed_by(ROOT, ""))], trust) == ("X3", Reason.MALFORMED)


# X4, U1


def test_x4_user_is_the_subject_as_it_stands_without_cutting(trust: Trust) -> None:
    numbered = ROOT.issue(f"{ADA.dn}/CN=123456")

    assert of(numbered, trust).dn.slash == f"{ADA.dn}/CN=123456"
    assert of(numbered.proxy(), trust).dn.slash == f"{ADA.dn}/CN=123456"


def test_u1_ambiguous_subject_is_refused_with_403(trust: Trust) -> None:
    two = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "People/CN=Ada Lovelace"),
        ]
    )

    with pytest.raises(AuthError) as caught:
        of(ROOT.issue(two), trust)
    assert (caught.value.status, caught.value.rule) == (403, "U1")


# X6


def _with_rules(
    tmp_path: File, ca: Authority, *, signing_policy: str | None = None, namespaces: str | None = None
) -> Trust:
    directory = TrustDirectory(tmp_path / "ruled")
    directory.add(ca, signing_policy=signing_policy, namespaces=namespaces)
    return load_trust(directory.path, tmp_path / "vomsdir")


def test_x6_ca_issuing_outside_its_signing_policy_is_refused(tmp_path: File) -> None:
    trust = _with_rules(tmp_path, ROOT, signing_policy=ROOT.signing_policy("/DC=org/DC=example/*"))

    assert of(ROOT.user(), trust).dn.slash == ROOT.user().dn
    assert refused(ROOT.issue("/DC=org/DC=elsewhere/CN=Ada"), trust) == ("X6", Reason.NAMESPACE)


def test_x6_namespaces_file_goes_before_the_signing_policy(tmp_path: File) -> None:
    trust = _with_rules(
        tmp_path,
        ROOT,
        signing_policy=ROOT.signing_policy("*"),
        namespaces=ROOT.namespaces("/DC=org/DC=example/.*"),
    )

    assert of(ROOT.user(), trust).dn.slash == ROOT.user().dn
    assert refused(ROOT.issue("/DC=org/DC=elsewhere/CN=Ada"), trust) == ("X6", Reason.NAMESPACE)


@pytest.mark.parametrize("broken", [{"namespaces": "PERMIT everything"}, {"signing_policy": "access to all"}])
def test_x6_file_that_does_not_parse_permits_nothing(tmp_path: File, broken: dict[str, str]) -> None:
    assert refused(ROOT.user(), _with_rules(tmp_path, ROOT, **broken)) == ("X6", Reason.NAMESPACE)


def test_x6_subject_of_a_sub_ca_has_to_match_as_well(tmp_path: File) -> None:
    sub = ROOT.sub("/DC=org/DC=elsewhere/CN=Sub")
    trust = _with_rules(tmp_path, ROOT, signing_policy=ROOT.signing_policy("/DC=org/DC=example/*"))

    assert refused(sub.user(), trust) == ("X6", Reason.NAMESPACE)


def test_x6_proxies_are_not_checked(tmp_path: File) -> None:
    trust = _with_rules(tmp_path, ROOT, signing_policy=ROOT.signing_policy(ROOT.user("Ada").dn))

    assert of(ROOT.user("Ada").proxy(), trust).dn.slash == ROOT.user("Ada").dn


# X7


def test_x7_path_expires_with_its_first_certificate(trust: Trust) -> None:
    soon, end = pki.around_now(timedelta(hours=1), timedelta(hours=2))
    proxy = ADA.proxy(window=pki.Window(soon, end))

    assert of(proxy, trust).expires == end.timestamp()
    assert of(proxy.proxy(), trust).expires == end.timestamp()


# N2, P5


def _hosts(trust: Trust, subject: pki.NameLike, *names: x509.GeneralName) -> tuple[str, ...]:
    marks: list[pki.Extra] = [(x509.SubjectAlternativeName(names), False)] if names else []
    return of(ROOT.issue(subject, extensions=marks), trust).hosts


@pytest.mark.parametrize(
    ("subject", "names", "hosts"),
    [
        ("/O=x/CN=a.example.org", (), ("a.example.org",)),
        ("/O=x/CN=host/A.Example.Org", (), ("a.example.org",)),
        ("/O=x/CN=a.example.org", ("B.example.org", "c.example.org"), ("b.example.org", "c.example.org")),
        ("/O=x/CN=a.example.org", ("*.example.org",), ()),
        ("/O=x/CN=*.example.org", (), ()),
        ("/O=x/CN=a.example.org/CN=b.example.org", (), ()),
        ("/O=x/CN=a.example.org/CN=Ada", (), ()),
        ("/O=x/CN=ldap/a.example.org", (), ()),
        ("/O=x/OU=CN\\=a.example.org", (), ()),
        ("/O=x/CN=Ada Lovelace", (), ()),
        ("/O=x/CN=a.example.org b.example.org", (), ()),
        ("/O=x/CN=x", ("a.example.org", "A.EXAMPLE.ORG"), ("a.example.org",)),
    ],
)
def test_n2_host_names_of_a_certificate(
    trust: Trust, subject: str, names: tuple[str, ...], hosts: tuple[str, ...]
) -> None:
    assert _hosts(trust, subject, *map(x509.DNSName, names)) == hosts


def test_n2_other_kinds_of_alternative_names_leave_the_common_name(trust: Trust) -> None:
    assert _hosts(trust, "/CN=a.example.org", x509.RFC822Name("root@a.example.org")) == ("a.example.org",)


def test_p5_proxy_of_a_host_is_no_host(trust: Trust) -> None:
    host = ROOT.host("a.example.org")

    assert of(host, trust).hosts == ("a.example.org",)
    assert of(host.proxy(), trust).hosts == ()


# L3


def test_l3_more_than_16_certificates_or_64_kib_are_not_looked_at(trust: Trust) -> None:
    assert refused([ADA.ders[0]] * 17, trust) == ("L3", Reason.TOO_LARGE)
    assert refused([ADA.ders[0], b"\x00" * 65536], trust) == ("L3", Reason.TOO_LARGE)
    assert of([*ADA.ders, *[ADA.ders[0]] * 14], trust).dn.slash == ADA.dn


# With what others make


def test_chain_made_by_openssl_alone_is_understood(
    trust_of: TrustOf, openssl: OpenSsl, tmp_path: File
) -> None:
    """A CA, a user, and a proxy with its extension from a configuration file."""
    (openssl.directory / "ca.cnf").write_text(
        "basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=hash\n"
    )
    (openssl.directory / "user.cnf").write_text(
        "keyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\n"
        "authorityKeyIdentifier=keyid,issuer:always\n"
    )
    (openssl.directory / "proxy.cnf").write_text(
        "proxyCertInfo=critical,language:id-ppl-inheritAll,pathlen:1\nkeyUsage=critical,digitalSignature\n"
    )
    ca = Authority(*_made(openssl, "/DC=org/CN=Made-by-openssl", "-signkey ./key -extfile ca.cnf"))
    openssl_key = openssl.request("/DC=org/CN=Ada")
    user = Credential(openssl.signed_by(ca, "-extfile user.cnf"), openssl_key)
    proxy_key = openssl.request("/DC=org/CN=Ada/CN=4711")
    proxy = Credential(openssl.signed_by(user, "-extfile proxy.cnf"), proxy_key, user.certificates)

    path = of(proxy, trust_of(ca))

    assert (path.dn.slash, len(path.proxies), path.is_limited) == ("/DC=org/CN=Ada", 1, False)
    assert refused(proxy.proxy().proxy(), trust_of()) == ("P3", Reason.PROXY)


def _made(openssl: OpenSsl, subject: str, how: str) -> tuple[x509.Certificate, pki.Key]:
    key = openssl.request(subject)
    return openssl.signed(how), key


def test_steps_of_a_decision_are_told_with_their_numbers(trust: Trust) -> None:
    told: list[str] = []

    evaluate(
        ADA.ders, trust, X509Policy(), NOW, lambda rule, text, *args: told.append(f"{rule} {text % args}")
    )

    assert [step.split()[0] for step in told] == ["X1", "X3", "X2", "X4", "X6", "C1", "N2"]
    assert f"X4 the end entity is '{ADA.dn}'" in told


def test_path_names_are_names(trust: Trust) -> None:
    assert of(ADA, trust).dn == DistinguishedName.from_x509(ADA.subject)
