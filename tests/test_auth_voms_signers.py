"""Who may sign VOMS attributes, and which signatures count; with proxies of VOMS's own client at the end."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from dome_bridge.auth.chain import X509Policy, evaluate
from dome_bridge.auth.refusal import AuthError
from dome_bridge.auth.voms import membership
from sandbox import voms as forge
from sandbox.pki import (
    SERVER_AUTH,
    Authority,
    Key,
    around_now,
    ec_key,
    expired,
    rsa_key,
)
from sandbox.voms import VomsServer, sequence
from tests.fixtures.voms import (
    HEAD,
    HOUR,
    Grid,
    asked,
    base_certificate_id,
    directory_name_of_ada,
    groups_with,
    make_grid,
    refused,
)

FAKE = shutil.which("voms-proxy-fake")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Nobody changes it."""
    return make_grid(tmp_path_factory.mktemp("grid"))


@pytest.fixture
def own_grid(tmp_path: Path) -> Grid:
    return make_grid(tmp_path)


def test_v5_names_of_the_server_with_the_key_of_a_stranger_are_refused(grid: Grid) -> None:
    """Subject, issuer and LSC file agree; the CA of the same name is not the site's."""
    stranger = replace(grid.server, credential=Authority.root(grid.ca.dn).host("voms.example.org"))
    error = refused(grid, stranger.sign(grid.ada))
    assert (error.rule, error.status) == ("V5", 403)


def test_v5_strangers_certificate_does_not_become_good_by_the_real_one_behind_it(grid: Grid) -> None:
    stranger = Authority.root(grid.ca.dn).host("voms.example.org")
    listed = forge.certificate_list([stranger.certificate, grid.server.credential.certificate])
    statement = replace(grid.server, credential=stranger).statement(grid.ada)
    signed = statement.with_extension(forge.CERTIFICATES_OID, listed).sign(stranger.key)
    assert refused(grid, signed).rule == "V5"


def test_v5_signature_of_another_key_is_refused(grid: Grid) -> None:
    assert "signature is wrong" in str(refused(grid, grid.statement().sign(ec_key())))


def test_v5_signature_of_the_users_own_certificate_is_refused(grid: Grid) -> None:
    own = replace(grid.server, credential=grid.ada)
    assert refused(grid, own.sign(grid.ada, "/dteam/Role=production")).rule == "V5"


def test_v5_any_change_after_signing_is_refused(grid: Grid) -> None:
    good = grid.server.sign(grid.ada, "/dteam/Role=pilot")
    assert refused(grid, good.replace(b"Role=pilot", b"Role=admin")).rule == "V5"


def test_v5_server_without_lsc_file_is_refused(grid: Grid) -> None:
    other = VomsServer(grid.ca.host("voms2.example.org"), host="voms2.example.org")
    assert "voms2.example.org.lsc" in str(refused(grid, other.sign(grid.ada)))


def test_v5_server_that_calls_itself_another_one_is_refused(grid: Grid) -> None:
    other = VomsServer(grid.ca.host("voms2.example.org"), host="voms.example.org")
    assert refused(grid, other.sign(grid.ada)).rule == "V5"


def test_v5_server_of_one_vo_cannot_speak_for_another(own_grid: Grid) -> None:
    atlas = VomsServer(own_grid.ca.host("voms-atlas.example.org"), vo="atlas", host="voms-atlas.example.org")
    atlas.publish(own_grid.vomsdir)
    trust = own_grid.load()
    assert groups_with(own_grid, atlas.sign(own_grid.ada), trust=trust) == ("atlas",)
    assert refused(own_grid, replace(atlas, vo="dteam").sign(own_grid.ada), trust=trust).rule == "V5"
    liar = replace(own_grid.server, credential=atlas.credential)
    assert refused(own_grid, liar.sign(own_grid.ada), trust=trust).rule == "V5"


@pytest.mark.parametrize(
    "authority",
    [
        "../dteam://voms.example.org:15000",
        "dteam/../dteam://voms.example.org:15000",
        "/etc://voms.example.org:15000",
        "..://voms.example.org:15000",
        ".dteam://voms.example.org:15000",
        "-dteam://voms.example.org:15000",
        "dt eam://voms.example.org:15000",
        "dteam\0://voms.example.org:15000",
        "dteam\n://voms.example.org:15000",
        "dteam%2f://voms.example.org:15000",
        "dte\u00e4m://voms.example.org:15000",
        "://voms.example.org:15000",
        "dteam://../../etc/passwd:15000",
        "dteam://voms.example.org/../x:15000",
        "dteam://voms.example.org/:15000",
        "dteam://voms.example.org\0.lsc:15000",
        "dteam://.voms.example.org:15000",
        "dteam://voms..example.org:15000",
        "dteam://voms.example.org.:15000",
        "dteam://-voms.example.org:15000",
        "dteam://voms_.example.org:15000",
        "dteam://user@voms.example.org:15000",
        "dteam://192.0.2.1:15000",
        "dteam://[::1]:15000",
        f"dteam://{'a.' * 127}a:15000",
        f"dteam://{'a' * 64}.example.org:15000",
        "dteam://:15000",
        "dteam://voms.example.org",
        "dteam://voms.example.org:",
        "dteam://voms.example.org:0",
        "dteam://voms.example.org:65536",
        "dteam://voms.example.org:15000/",
        "dteam://voms.example.org:15000\n",
        "dteam://voms.example.org:15000:1",
        "dteam:/voms.example.org:15000",
        "dteam",
        "",
    ],
)
def test_v5_authority_that_is_no_vo_host_and_port_is_refused(grid: Grid, authority: str) -> None:
    statement = grid.statement().naming(authority, "/dteam")
    assert refused(grid, statement.sign(grid.server.key)).rule in ("V5", "V6", "V9")


def test_v5_host_of_the_authority_is_found_in_any_case(grid: Grid) -> None:
    statement = grid.statement().naming("dteam://VOMS.Example.ORG:15000", "/dteam")
    assert groups_with(grid, statement.sign(grid.server.key)) == ("dteam",)


def test_v5_vo_in_other_case_is_another_vo(grid: Grid) -> None:
    statement = grid.statement().naming("DTEAM://voms.example.org:15000", "/DTEAM")
    assert groups_with(grid, statement.sign(grid.server.key)) == ()


def test_v5_without_a_list_of_certificates_an_lsc_file_is_of_no_use(grid: Grid) -> None:
    statement = grid.statement().without_extension(forge.CERTIFICATES_OID)
    assert refused(grid, statement.sign(grid.server.key)).rule == "V5"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\5\0",
        sequence(),
        sequence(sequence()),
        sequence(sequence(b"\5\0")),
        sequence(sequence(), sequence()),
    ],
)
def test_v5_list_without_a_certificate_is_refused(grid: Grid, value: bytes) -> None:
    statement = grid.statement().with_extension(forge.CERTIFICATES_OID, value)
    assert refused(grid, statement.sign(grid.server.key)).rule == "V5"


def test_v5_list_of_too_many_certificates_is_refused(grid: Grid) -> None:
    listed = forge.certificate_list([grid.server.credential.certificate] * 17)
    statement = grid.statement().with_extension(forge.CERTIFICATES_OID, listed)
    assert "at most 16" in str(refused(grid, statement.sign(grid.server.key)))


def test_v5_list_has_to_be_a_chain_of_the_lsc_file_line_by_line(own_grid: Grid) -> None:
    sub = own_grid.ca.sub()
    server = replace(own_grid.server, credential=sub.host("voms.example.org"))
    both = [server.credential.certificate, sub.certificate]
    as_listed = server.statement(own_grid.ada).with_extension(
        forge.CERTIFICATES_OID, forge.certificate_list(both)
    )
    long, short = as_listed.sign(server.key), server.sign(own_grid.ada)
    swapped = as_listed.with_extension(forge.CERTIFICATES_OID, forge.certificate_list(both[::-1])).sign(
        server.key
    )
    server.publish(own_grid.vomsdir, forge.lsc(both))
    trust = own_grid.load()
    assert groups_with(own_grid, long, trust=trust) == ("dteam",)
    assert refused(own_grid, short, trust=trust).rule == "V5"
    assert refused(own_grid, swapped, trust=trust).rule == "V5"
    server.publish(own_grid.vomsdir)
    assert refused(own_grid, long, trust=own_grid.load()).rule == "V5"


def test_v5_any_chain_of_an_lsc_file_will_do(own_grid: Grid) -> None:
    former = [own_grid.ca.host("voms-old.example.org").certificate]
    own_grid.server.publish(own_grid.vomsdir, forge.lsc(former, [own_grid.server.credential.certificate]))
    assert groups_with(own_grid, own_grid.server.sign(own_grid.ada), trust=own_grid.load()) == ("dteam",)
    own_grid.server.publish(own_grid.vomsdir, forge.lsc(former))
    assert refused(own_grid, own_grid.server.sign(own_grid.ada), trust=own_grid.load()).rule == "V5"


def test_v5_names_in_the_lsc_file_are_read_as_names(own_grid: Grid) -> None:
    server = VomsServer(
        own_grid.ca.issue("/DC=org/DC=example/CN=host/voms.example.org/emailAddress=voms@example.org")
    )
    issuer = own_grid.ca.dn
    for text in (
        f"\n'/DC=org/DC=example/CN=host\\/voms.example.org/Email=voms@example.org'\n\n{issuer}\n",
        f'"/DC=org/DC=example/CN=host/voms.example.org/E=voms@example.org"\r\n"{issuer}"\r\n',
    ):
        server.publish(own_grid.vomsdir, text)
        assert groups_with(own_grid, server.sign(own_grid.ada), trust=own_grid.load()) == ("dteam",)


def test_v5_ambiguous_name_of_a_server_is_not_taken_for_the_one_in_the_lsc_file(own_grid: Grid) -> None:
    value = "voms/CN=voms.example.org"
    look_alike = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, value)])
    server = replace(own_grid.server, credential=own_grid.ca.issue(look_alike))
    server.publish(own_grid.vomsdir, f"/O={value}\n{own_grid.ca.dn}\n")
    assert refused(own_grid, server.sign(own_grid.ada), trust=own_grid.load()).rule == "V5"


def test_v5_certificate_in_vomsdir_serves_where_there_is_no_lsc_file(own_grid: Grid) -> None:
    server = replace(own_grid.server, vo="atlas")
    server.publish_certificate(own_grid.vomsdir)
    trust = own_grid.load()
    without_list = server.statement(own_grid.ada).without_extension(forge.CERTIFICATES_OID)
    for certificate in (server.sign(own_grid.ada), without_list.sign(server.key)):
        assert groups_with(own_grid, certificate, trust=trust) == ("atlas",)
    stranger = replace(server, credential=Authority.root(own_grid.ca.dn).host("voms.example.org"))
    assert refused(own_grid, stranger.sign(own_grid.ada), trust=trust).rule == "V5"
    assert refused(own_grid, without_list.sign(ec_key()), trust=trust).rule == "V5"


def test_v5_renewed_certificate_in_vomsdir_counts_beside_the_expired_one(own_grid: Grid) -> None:
    key, subject = ec_key(), "/DC=org/DC=example/OU=Hosts/CN=voms.example.org"
    old, new = own_grid.ca.issue(subject, key=key, window=expired()), own_grid.ca.issue(subject, key=key)
    for host, credential in (("a", old), ("b", new)):
        VomsServer(credential, vo="atlas", host=host).publish_certificate(own_grid.vomsdir)
    server = VomsServer(new, vo="atlas")
    assert groups_with(own_grid, server.sign(own_grid.ada), trust=own_grid.load()) == ("atlas",)


def test_v5_expired_certificate_of_a_server_is_refused(grid: Grid) -> None:
    server = replace(grid.server, credential=grid.ca.host("voms.example.org", window=expired()))
    assert refused(grid, server.sign(grid.ada)).rule == "V5"


def test_v5_server_certificate_that_expires_ends_the_membership(grid: Grid) -> None:
    window = around_now(HOUR, HOUR)
    server = replace(grid.server, credential=grid.ca.host("voms.example.org", window=window))
    proxy = server.proxy(grid.ada)
    assert asked(proxy, grid.trust).expires == window.end.timestamp()


def test_v5_revoked_server_is_refused(own_grid: Grid) -> None:
    own_grid.certificates.set_crl(own_grid.ca, own_grid.ca.crl([own_grid.server.credential]))
    error = refused(own_grid, own_grid.server.sign(own_grid.ada), trust=own_grid.load())
    assert (error.rule, error.reason) == ("V5", "revoked")


def test_v5_server_below_a_ca_without_crl_is_refused_if_crls_are_required(own_grid: Grid) -> None:
    other = Authority.root("/DC=net/DC=example/CN=Other CA")
    own_grid.certificates.add(other)
    own_grid.certificates.set_crl(own_grid.ca, own_grid.ca.crl())
    server = replace(own_grid.server, credential=other.host("voms.example.org"))
    server.publish(own_grid.vomsdir)
    proxy, trust = server.proxy(own_grid.ada), own_grid.load()
    assert asked(proxy, trust).groups == ("dteam",)
    with pytest.raises(AuthError, match="CRL") as caught:
        asked(proxy, trust, policy=X509Policy(crl_policy="require"))
    assert (caught.value.rule, caught.value.status) == ("V5", 403)


def test_v5_server_outside_the_namespace_of_its_ca_is_refused(own_grid: Grid) -> None:
    own_grid.certificates.set_rules(
        own_grid.ca, signing_policy=own_grid.ca.signing_policy("/DC=org/DC=example/OU=People/*")
    )
    assert refused(own_grid, own_grid.server.sign(own_grid.ada), trust=own_grid.load()).reason == "namespace"


def test_v5_proxy_of_a_server_does_not_sign_for_it(own_grid: Grid) -> None:
    deputy = own_grid.server.credential.proxy()
    server = replace(own_grid.server, credential=deputy)
    listed = forge.certificate_list(deputy.certificates)
    signed = server.statement(own_grid.ada).with_extension(forge.CERTIFICATES_OID, listed).sign(deputy.key)
    server.publish(own_grid.vomsdir, forge.lsc(deputy.certificates))
    assert refused(own_grid, signed, trust=own_grid.load()).rule == "V5"


def test_v5_server_certificate_needs_no_client_purpose(grid: Grid) -> None:
    subject = grid.server.credential.subject
    server = replace(grid.server, credential=grid.ca.issue(subject, purposes=(SERVER_AUTH,)))
    assert groups_with(grid, server.sign(grid.ada)) == ("dteam",)


@pytest.mark.parametrize(
    "digest", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda one: one.name
)
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_v5_rsa_and_ecdsa_signatures_count(grid: Grid, kind: str, digest: hashes.SHA256) -> None:
    key = rsa_key() if kind == "rsa" else ec_key()
    server = replace(grid.server, credential=grid.ca.host("voms.example.org", key=key))
    statement = server.statement(grid.ada).but(algorithm=forge.algorithm_identifier(key, digest.name))
    assert groups_with(grid, statement.sign(key, digest)) == ("dteam",)
    assert refused(grid, statement.sign(key, hashes.SHA384() if digest.name == "sha256" else hashes.SHA256()))


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_v5_sha1_signature_is_refused(grid: Grid, kind: str) -> None:
    key = rsa_key() if kind == "rsa" else ec_key()
    server = replace(grid.server, credential=grid.ca.host("voms.example.org", key=key))
    statement = server.statement(grid.ada).but(algorithm=forge.algorithm_identifier(key, "sha1"))
    assert refused(grid, statement.sign(key, hashes.SHA1())).reason == "algorithm"


def test_v5_short_rsa_key_of_a_server_is_refused(grid: Grid) -> None:
    server = replace(grid.server, credential=grid.ca.host("voms.example.org", key=rsa_key(bits=1024)))
    assert refused(grid, server.sign(grid.ada)).reason == "algorithm"


def test_v5_algorithm_may_be_copied_from_the_servers_certificate(grid: Grid) -> None:
    """By servers in C, whose CA may have an RSA key when they have another one."""
    statement = grid.statement().but(algorithm=forge.algorithm_identifier(rsa_key(), "sha256"))
    assert groups_with(grid, statement.sign(grid.server.key)) == ("dteam",)


def test_v5_other_algorithm_outside_than_inside_is_refused(grid: Grid) -> None:
    outer = forge.algorithm_identifier(grid.server.key, "sha512")
    assert refused(grid, grid.statement().sign(grid.server.key, outer=outer)).rule == "V5"


def test_v5_signature_of_broken_bytes_is_refused(grid: Grid) -> None:
    information, algorithm = grid.statement().information, grid.statement().algorithm
    signature = forge.signed(grid.server.key, information, hashes.SHA256())
    for bits in (forge.bits(b""), forge.bits(signature[:-1]), forge.bits(signature + b"\0")):
        assert refused(grid, sequence(information, algorithm, bits)).rule == "V5"
    assert (
        refused(grid, sequence(information, algorithm, forge.bits(signature[:-1] + b"\0", unused=4))).rule
        == "V5"
    )


def _server_name(grid: Grid) -> bytes:
    return forge.directory_name(grid.server.credential.subject)


OTHER_ISSUERS: dict[str, Callable[[Grid], bytes]] = {
    "other name": lambda g: forge.tagged(0, sequence(forge.directory_name(g.ca.subject))),
    "two names": lambda g: forge.tagged(0, sequence(_server_name(g) * 2)),
    "no name": lambda _: forge.tagged(0, sequence()),
    "nothing": lambda _: forge.tagged(0),
    "dns name": lambda _: forge.tagged(0, sequence(forge.dns_name("voms.example.org"))),
    "version 1 form": lambda g: sequence(_server_name(g)),
    "certificate besides": lambda g: forge.tagged(
        0,
        sequence(forge.directory_name(g.server.credential.subject)),
        base_certificate_id(g, directory_name_of_ada(g)),
    ),
}


@pytest.mark.parametrize("kind", OTHER_ISSUERS)
def test_v5_issuer_that_is_not_the_signers_name_is_refused(grid: Grid, kind: str) -> None:
    statement = grid.statement().but(issuer=OTHER_ISSUERS[kind](grid))
    assert refused(grid, statement.sign(grid.server.key)).rule in ("V5", "V9")


KEY_IDENTIFIERS: dict[str, tuple[bool, Callable[[x509.Certificate], bytes]]] = {
    "key": (True, lambda c: forge.key_identifier(forge.key_id(c))),
    "certificate": (True, lambda c: forge.key_identifier(None, c.issuer, c.serial_number)),
    "all": (True, lambda c: forge.key_identifier(forge.key_id(c), c.issuer, c.serial_number)),
    "other key": (False, lambda _: forge.key_identifier(b"x" * 20)),
    "empty key": (False, lambda _: forge.key_identifier(b"")),
    "beginning of the key": (False, lambda c: forge.key_identifier(forge.key_id(c)[:8])),
    "other serial": (False, lambda c: forge.key_identifier(forge.key_id(c), c.issuer, c.serial_number + 1)),
    "other issuer": (False, lambda c: forge.key_identifier(forge.key_id(c), c.subject, c.serial_number)),
    "nothing": (False, lambda _: forge.key_identifier(None)),
}


@pytest.mark.parametrize("kind", KEY_IDENTIFIERS)
def test_v5_key_identifier_has_to_fit_the_signer(grid: Grid, kind: str) -> None:
    fits, make = KEY_IDENTIFIERS[kind]
    value = make(grid.server.credential.certificate)
    signed = grid.statement().with_extension(forge.KEY_IDENTIFIER_OID, value).sign(grid.server.key)
    if fits:
        assert groups_with(grid, signed) == ("dteam",)
    else:
        assert refused(grid, signed).rule == "V5"


def test_v5_key_identifier_may_be_the_one_that_the_signers_certificate_says(grid: Grid) -> None:
    own = (x509.SubjectKeyIdentifier(b"of its own"), False)
    credential = grid.ca.issue(grid.server.credential.subject, standard=False, extensions=[own])
    server = replace(grid.server, credential=credential)
    for key in (b"of its own", forge.key_id(credential.certificate)):
        statement = server.statement(grid.ada)
        signed = statement.with_extension(forge.KEY_IDENTIFIER_OID, forge.key_identifier(key)).sign(
            server.key
        )
        assert groups_with(grid, signed) == ("dteam",)


needs_voms_clients = pytest.mark.skipif(
    FAKE is None, reason="voms-proxy-fake (Debian voms-clients) is missing"
)


def grid_for_fake(grid: Grid, key: Key) -> Grid:
    """With a CA that has an RSA key, by whose algorithm the tool signs. key: the server's."""
    ca = Authority.root("/DC=org/DC=example/CN=RSA CA", key=rsa_key(2))
    grid.certificates.add(ca)
    server = VomsServer(ca.host("voms.example.org", key=key))
    server.publish(grid.vomsdir)
    return replace(grid, ca=ca, server=server)


def fake_proxy(grid: Grid, directory: Path, *options: str) -> list[bytes]:
    """The chain of a proxy of `voms-proxy-fake`, the leaf first. The tool wants a user with an RSA key."""
    assert FAKE
    server = grid.server
    certificate, key = grid.ca.user("Grace Hopper", key=rsa_key(1)).write_pair(directory, "user")
    host_certificate, host_key = server.credential.write_pair(directory)
    out = directory / "proxy.pem"
    command = [
        FAKE, "-quiet", "-rfc", "-newformat", "-bits", "2048", "-certdir", str(grid.certificates.path),
        "-cert", str(certificate), "-key", str(key),
        "-hostcert", str(host_certificate), "-hostkey", str(host_key),
        "-voms", server.vo, "-uri", f"{server.host}:{server.port}", "-out", str(out), *options,
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(out.read_bytes())]


def groups_of_chain(ders: list[bytes], grid: Grid) -> tuple[str, ...]:
    policy, now = X509Policy(), datetime.now(UTC)
    return membership(evaluate(ders, grid.trust, policy, now), grid.trust, policy, [HEAD], now).groups


@needs_voms_clients
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_proxy_of_voms_proxy_fake_gives_its_groups(own_grid: Grid, tmp_path: Path, kind: str) -> None:
    """With ECDSA the tool, as VOMS servers do, says that it has signed with RSA as its CA did."""
    grid = grid_for_fake(own_grid, rsa_key() if kind == "rsa" else ec_key())
    options = ("-fqan", "/dteam/Role=production/Capability=NULL", "-fqan", "/dteam/Role=NULL/Capability=NULL")
    ders = fake_proxy(grid, tmp_path, *options)
    assert groups_of_chain(ders, grid) == ("dteam/Role=production", "dteam")


@needs_voms_clients
@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (("-fqan", "/atlas"), "V6"),
        (("-fqan", "/dteam", "-uri", "../../etc/passwd:1"), "V5"),
        (("-fqan", "/dteam", "-uri", "voms2.example.org:15000"), "V5"),
        (("-fqan", "/dteam", "-pastac", "20:00", "-vomslife", "1"), "V3"),
        (("-fqan", "/dteam", "-acextension", "1.2.3.4/true:x"), "V8"),
    ],
)
def test_bad_proxy_of_voms_proxy_fake_is_refused(
    own_grid: Grid, tmp_path: Path, options: tuple[str, ...], rule: str
) -> None:
    grid = grid_for_fake(own_grid, rsa_key())
    ders = fake_proxy(grid, tmp_path, *options)
    with pytest.raises(AuthError) as caught:
        groups_of_chain(ders, grid)
    assert (caught.value.rule, caught.value.status) == (rule, 403)
