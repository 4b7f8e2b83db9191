"""What is read from a trust directory, and what stays trusted while somebody changes it."""

from __future__ import annotations

import logging
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path as File

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from dome_bridge.auth.chain import X509Policy, evaluate
from dome_bridge.auth.refusal import AuthError
from dome_bridge.auth.subject_hash import subject_hash
from dome_bridge.auth.trust import Trust, TrustError, load_trust
from sandbox import pki
from sandbox.pki import Authority, Credential, TrustDirectory

ROOT = Authority.root()
OTHER = Authority.root("/DC=org/DC=example/CN=Other CA")
NOW = datetime.now(UTC) + timedelta(minutes=5)


@pytest.fixture
def directory(tmp_path: File) -> TrustDirectory:
    return pki.trust_directory(tmp_path / "ca", ROOT)


@pytest.fixture
def vomsdir(tmp_path: File) -> File:
    (tmp_path / "vomsdir").mkdir()
    return tmp_path / "vomsdir"


def load(directory: TrustDirectory, previous: Trust | None = None, *, vomsdir: File | None = None) -> Trust:
    return load_trust(directory.path, vomsdir or directory.path.parent / "vomsdir", previous=previous)


def knows(trust: Trust, who: Credential) -> bool:
    try:
        evaluate(who.ders, trust, X509Policy(), NOW)
    except AuthError:
        return False
    return True


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


# Hashes of OpenSSL


def _string(text: str, kind: _ASN1Type) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, text, kind, _validate=False),
        ]
    )


@pytest.mark.parametrize(
    "name",
    [
        ROOT.subject,
        pki.name("/O=  Two   Blanks /CN=UPPER and lower"),
        pki.name("/O=Jürgen ÄÖÜ/CN=数"),
        pki.name("/DC=Org/emailAddress=CA@Example.ORG"),
        pki.name("/O=" + "long " * 12 + "/CN=" + "x" * 64),
        _string("Ümlaut", _ASN1Type.BMPString),
        _string("Latin", _ASN1Type.T61String),
        _string("12  34", _ASN1Type.NumericString),
        x509.Name(
            [
                x509.RelativeDistinguishedName(
                    [
                        x509.NameAttribute(NameOID.COMMON_NAME, "a"),
                        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "b" * 20),
                    ]
                )
            ]
        ),
    ],
)
def test_hash_of_a_subject_is_openssls(name: x509.Name) -> None:
    told = subprocess.run(
        ["openssl", "x509", "-noout", "-subject_hash"],
        input=Authority.root(name).pem,
        check=True,
        capture_output=True,
    )

    assert subject_hash(name) == told.stdout.decode().strip()


# 11.4: layout


def test_directory_as_igtf_packages_make_it_is_read(directory: TrustDirectory) -> None:
    directory.add(OTHER, crl=OTHER.crl(), signing_policy=OTHER.signing_policy("/DC=org/*"), alias="Other-CA")
    (directory.path / "Other-CA.crl_url").write_text("http://ca.example.org/crl\n")
    (directory.path / "0123abcd.0").symlink_to("Other-CA.pem")
    (directory.path / "README").write_text("nothing\n")

    trust = load(directory)

    assert set(trust.anchors) == {ROOT.subject, OTHER.subject}
    assert len(trust.named(OTHER.subject)) == 1
    assert knows(trust, OTHER.user())
    assert not knows(trust, OTHER.issue("/O=elsewhere/CN=Ada"))


def test_file_without_a_hash_for_a_name_is_not_read(directory: TrustDirectory) -> None:
    for name in ("other.pem", "other.0", "0123abcd.pem", "0123abcd.0.bak", "0123ABCD.0", "0123abcd"):
        (directory.path / name).write_bytes(OTHER.pem)

    assert not load(directory).named(OTHER.subject)


def test_certificates_are_known_by_content_and_not_by_file_name(directory: TrustDirectory) -> None:
    (directory.path / "0123abcd.7").write_bytes(b"Certificate:\n  some text\n" + OTHER.pem)
    (directory.path / "0123abcd.signing_policy").write_text(OTHER.signing_policy("/DC=org/*"))
    (directory.path / "0123abcd.r4").write_bytes(b"junk")

    trust = load(directory)

    with pytest.raises(AuthError) as caught:
        evaluate(OTHER.user().ders, trust, X509Policy(), NOW)
    assert caught.value.rule == "C1"
    with pytest.raises(AuthError) as caught:
        evaluate(OTHER.issue("/O=elsewhere/CN=Ada").ders, trust, X509Policy(), NOW)
    assert caught.value.rule == "X6"


def test_rules_of_an_old_hash_do_not_replace_those_of_the_right_one(directory: TrustDirectory) -> None:
    directory.set_rules(ROOT, signing_policy=ROOT.signing_policy("/DC=org/*"))
    (directory.path / "0123abcd.0").write_bytes(ROOT.pem)
    (directory.path / "0123abcd.signing_policy").write_text(ROOT.signing_policy("/O=nobody"))

    assert knows(load(directory), ROOT.user())


def test_cas_of_equal_name_share_a_hash(directory: TrustDirectory) -> None:
    twin = Authority.root(ROOT.subject)
    directory.add(twin)

    assert sorted(path.name for path in directory.path.iterdir()) == [f"{ROOT.hash}.0", f"{ROOT.hash}.1"]
    assert [each.der for each in load(directory).named(ROOT.subject)] == [ROOT.der, twin.der]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "PEM"),
        (b"junk", "PEM"),
        (OTHER.pem[:300], "PEM"),
        (ROOT.user().pem, "not the certificate of a CA"),
        (OTHER.der, "PEM"),
    ],
)
def test_bad_certificate_is_skipped_with_one_warning(
    directory: TrustDirectory, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    bad = directory.path / "0123abcd.0"
    bad.write_bytes(content)

    trust = load(directory)

    (warning,) = warnings(caplog)
    assert warning.startswith(f"{bad} cannot be used, skipped: ")
    assert reason in warning
    assert load(directory, trust) is trust
    assert len(warnings(caplog)) == 1
    assert knows(trust, ROOT.user())


def test_link_to_nowhere_is_skipped_with_one_warning(
    directory: TrustDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    (directory.path / "0123abcd.0").symlink_to("gone.pem")

    trust = load(directory)

    assert load(directory, trust) is trust
    assert len(warnings(caplog)) == 1


def test_list_that_no_ca_has_signed_is_told(
    directory: TrustDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    path = directory.set_crl(ROOT, ROOT.crl(signer=pki.ec_key()))

    trust = load(directory)
    directory.add(OTHER)
    load(directory, trust)

    assert warnings(caplog) == [f"{path} is signed by no CA of this directory"]


# R2, R3: changes


def test_r2_only_a_change_makes_another_generation(directory: TrustDirectory) -> None:
    first = load(directory)
    assert load(directory, first) is first

    directory.add(OTHER)
    second = load(directory, first)

    assert (first.generation, second.generation) == (1, 2)
    assert not first.named(OTHER.subject)
    directory.remove(OTHER)
    assert (load(directory, second).generation, bool(load(directory, second).named(OTHER.subject))) == (
        3,
        False,
    )


def test_r2_unchanged_files_are_not_read_again(directory: TrustDirectory) -> None:
    first = load(directory)
    directory.add(OTHER)

    assert load(directory, first).named(ROOT.subject)[0] is first.named(ROOT.subject)[0]


def test_r2_file_changed_in_place_to_the_same_size_is_seen(directory: TrustDirectory) -> None:
    directory.set_rules(ROOT, signing_policy=ROOT.signing_policy("/DC=org/*"))
    first = load(directory)

    directory.set_rules(ROOT, signing_policy=ROOT.signing_policy("/DC=com/*"))

    assert knows(first, ROOT.user())
    assert not knows(load(directory, first), ROOT.user())


def test_r3_directory_without_any_ca_is_an_error(directory: TrustDirectory, tmp_path: File) -> None:
    trust = load(directory)
    directory.remove(ROOT)

    for previous in (None, trust):
        with pytest.raises(TrustError, match=r"no usable CA certificate .* install the CAs' certificates"):
            load(directory, previous)
    (directory.path / "0123abcd.0").write_bytes(b"junk")
    with pytest.raises(TrustError, match="no usable CA"):
        load(directory)


def test_r3_directory_that_is_not_there_is_an_error(tmp_path: File) -> None:
    with pytest.raises(TrustError, match=r"cannot read the directory .*nowhere: No such file"):
        load_trust(tmp_path / "nowhere", tmp_path / "vomsdir")


def test_r3_half_written_files_count_as_last_read(
    directory: TrustDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    ada, bob = ROOT.user("Ada"), ROOT.user("Bob")
    directory.set_rules(ROOT, namespaces=ROOT.namespaces("/DC=org/.*"))
    directory.set_crl(ROOT, ROOT.crl([ada]))
    before = load(directory)
    for path in list(directory.path.iterdir()):
        path.write_bytes(path.read_bytes()[:-60])
    caplog.clear()

    half = load(directory, before)

    assert knows(half, bob)
    assert not knows(half, ada)
    assert not knows(half, ROOT.issue("/O=elsewhere/CN=Ada"))
    assert len(warnings(caplog)) == 3
    assert all("as last read it counts on" in warning for warning in warnings(caplog))
    assert load(directory, half) is half


def test_r3_half_written_list_is_replaced_by_the_whole_one(directory: TrustDirectory) -> None:
    ada = ROOT.user("Ada")
    path = directory.set_crl(ROOT, ROOT.crl())
    trust = load(directory)
    whole = ROOT.crl([ada], number=2, window=pki.around_now(timedelta(hours=1), timedelta(days=9)))
    path.write_bytes(whole[:100])
    half = load(directory, trust)
    path.write_bytes(whole)

    assert knows(half, ada)
    assert not knows(load(directory, half), ada)


def test_r3_list_that_cannot_be_read_does_not_outlive_its_next_update(directory: TrustDirectory) -> None:
    ada = ROOT.user("Ada")
    path = directory.set_crl(ROOT, ROOT.crl(window=pki.around_now(timedelta(days=1), timedelta(days=2))))
    trust = load(directory)
    path.write_bytes(b"junk")
    trust = load(directory, trust)

    assert knows(trust, ada)
    with pytest.raises(AuthError) as caught:
        evaluate(ada.ders, trust, X509Policy(), NOW + timedelta(days=3))
    assert caught.value.rule == "C1"


# R5


def test_r5_next_update_is_known_by_ca(directory: TrustDirectory) -> None:
    windows = [pki.around_now(timedelta(days=1), timedelta(days=days)) for days in (5, 9, 7)]
    for index, window in enumerate(windows):
        directory.set_crl(ROOT, ROOT.crl(window=window), index)
    directory.add(OTHER, crl=OTHER.crl(window=windows[0]))

    assert load(directory).next_updates == {
        ROOT.dn: windows[1].end.timestamp(),
        OTHER.dn: windows[0].end.timestamp(),
    }


def test_a5_changes_of_trust_are_told_with_counts(
    directory: TrustDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    trust = load(directory)
    directory.add(OTHER, crl=OTHER.crl())

    load(directory, trust)

    assert caplog.messages[-1] == "trust generation=2 cas=2 (1) crls=1 (0) policies=0 (0) vos=0 (0)"


# vomsdir


def test_vomsdir_is_read_into_tables(directory: TrustDirectory, vomsdir: File) -> None:
    server = ROOT.host("voms.example.org")
    for vo in ("dteam", "atlas", "..", "bad vo", ".hidden"):
        (vomsdir / vo).mkdir(exist_ok=True)
    (vomsdir / "dteam" / "VOMS.example.org.lsc").write_text(f"{server.dn}\n{ROOT.dn}\n")
    (vomsdir / "atlas" / "server.pem").write_bytes(server.pem)
    (vomsdir / "bad vo" / "voms.example.org.lsc").write_text(f"{server.dn}\n{ROOT.dn}\n")
    (vomsdir / "dteam" / "README").write_text("nothing")

    trust = load(directory, vomsdir=vomsdir)

    assert trust.voms_chains == {("dteam", "voms.example.org"): ((server.dn, ROOT.dn),)}
    assert {vo: [each.der for each in found] for vo, found in trust.voms_certificates.items()} == {
        "atlas": [server.certificate.public_bytes(Encoding.DER)]
    }
    assert trust.vos == {"dteam", "atlas"}


def test_broken_lsc_file_leaves_its_vo_configured(
    directory: TrustDirectory, vomsdir: File, caplog: pytest.LogCaptureFixture
) -> None:
    (vomsdir / "dteam").mkdir()
    (vomsdir / "dteam" / "voms.example.org.lsc").write_text("/CN=only a subject\n")

    trust = load(directory, vomsdir=vomsdir)

    assert not trust.voms_chains
    assert trust.vos == {"dteam"}
    assert len(warnings(caplog)) == 1


def test_missing_vomsdir_is_an_empty_one(directory: TrustDirectory) -> None:
    trust = load(directory)

    assert not any((trust.vos, trust.voms_chains, trust.voms_certificates))
