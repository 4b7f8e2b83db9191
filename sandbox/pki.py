"""A grid's public key infrastructure in a few lines: CAs, certificates, RFC 3820 proxies, CRLs, directories.

Makes what a site meets, and on request what it must refuse; nothing is checked here.

    ca = Authority.root("/DC=org/DC=example/CN=Example CA")
    ada = ca.sub("/DC=org/DC=example/CN=Example User CA").user("Ada Lovelace")
    limited = ada.proxy().proxy(Policy.LIMITED)
    trust = TrustDirectory(tmp_path / "certificates")
    trust.add(ca, crl=ca.crl(revoked=[ada]))
    limited.write(tmp_path / "x509up")          # key and chain as a grid user has them, mode 0600

Keys are of P-256 unless told otherwise; RSA keys are slow to make, so `rsa_key` keeps a few for the session.
Times count from the moment of the call: OpenSSL's checks have no other clock.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, TypedDict, Unpack

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pyasn1.codec.der import encoder
from pyasn1_modules import rfc3820

from dome_bridge.auth.subject_hash import subject_hash

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
NameLike = str | x509.Name
Extra = tuple[x509.ExtensionType, bool]
"""An extension and whether it is critical."""

PROXY_CERT_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
DRAFT_PROXY_CERT_INFO = x509.ObjectIdentifier("1.3.6.1.4.1.3536.1.222")
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
SHORT_NAMES = {
    "DC": NameOID.DOMAIN_COMPONENT,
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
    "UID": NameOID.USER_ID,
    "emailAddress": NameOID.EMAIL_ADDRESS,
}


class Policy(StrEnum):
    """Policy languages of proxies."""

    FULL = "1.3.6.1.5.5.7.21.1"
    INDEPENDENT = "1.3.6.1.5.5.7.21.2"
    ANY_LANGUAGE = "1.3.6.1.5.5.7.21.0"
    LIMITED = "1.3.6.1.4.1.3536.1.1.1.9"
    UNKNOWN = "1.3.6.1.4.1.99999.1"


Digest = hashes.SHA256 | hashes.SHA384 | hashes.SHA512


class Window(NamedTuple):
    """From when until when something is valid."""

    start: datetime
    end: datetime


def around_now(before: timedelta, after: timedelta) -> Window:
    """Begins `before` ago and ends `after` from now; either may be negative."""
    now = datetime.now(UTC).replace(microsecond=0)
    return Window(now - before, now + after)


def expired() -> Window:
    return around_now(timedelta(days=30), -timedelta(days=1))


def not_yet_valid() -> Window:
    return around_now(-timedelta(days=1), timedelta(days=30))


def _ca_window() -> Window:
    return around_now(timedelta(days=3650), timedelta(days=3650))


def _certificate_window() -> Window:
    return around_now(timedelta(days=30), timedelta(days=365))


def _proxy_window() -> Window:
    return around_now(timedelta(minutes=5), timedelta(hours=12))


def _crl_window() -> Window:
    return around_now(timedelta(days=1), timedelta(days=30))


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def rsa_key(slot: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The same key for the same arguments, as long as the process lives."""
    return rsa.generate_private_key(65537, bits)


def name(text: NameLike) -> x509.Name:
    """Of `/DC=org/CN=…`; a slash that no short name and `=` follows belongs to the value."""
    if isinstance(text, x509.Name):
        return text
    parts = re.split(f"/({'|'.join(SHORT_NAMES)})=", text)[1:]
    return x509.Name(
        [
            x509.NameAttribute(SHORT_NAMES[key], value)
            for key, value in zip(parts[::2], parts[1::2], strict=True)
        ]
    )


def slash(subject: x509.Name) -> str:
    short = {oid: key for key, oid in SHORT_NAMES.items()}
    return "".join(f"/{short[attribute.oid]}={attribute.value!s}" for attribute in subject)


def with_common_name(subject: x509.Name, common_name: str) -> x509.Name:
    """The subject of a proxy: its issuer's and one CN more."""
    last = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return x509.Name([*subject.rdns, last])


def key_usage(*, ca: bool = False, digital_signature: bool = True) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=not ca,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def proxy_cert_info(
    language: str = Policy.FULL, path_length: int | None = None, policy: bytes | None = None
) -> bytes:
    """The DER of the extension's value."""
    info = rfc3820.ProxyCertInfoExtension()
    if path_length is not None:
        info["pCPathLenConstraint"] = path_length
    info["proxyPolicy"]["policyLanguage"] = str(language)
    if policy is not None:
        info["proxyPolicy"]["policy"] = policy
    return bytes(encoder.encode(info))


def sign(
    subject: x509.Name,
    key: Key,
    issuer: x509.Name,
    issuer_key: Key,
    window: Window,
    *,
    extensions: Iterable[Extra] = (),
    serial: int | None = None,
    digest: Digest | None = None,
) -> x509.Certificate:
    """Any certificate at all."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(window.start)
        .not_valid_after(window.end)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, digest or hashes.SHA256())


@dataclass(frozen=True, slots=True, eq=False)
class Credential:
    """A certificate, its key, and what is sent along: its issuers, nearest first, without the root."""

    certificate: x509.Certificate
    key: Key
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def subject(self) -> x509.Name:
        return self.certificate.subject

    @property
    def dn(self) -> str:
        """In slash form; for names of ordinary text only."""
        return slash(self.subject)

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        return (self.certificate, *self.chain)

    @property
    def ders(self) -> list[bytes]:
        """What a TLS server is sent."""
        return [one.public_bytes(serialization.Encoding.DER) for one in self.certificates]

    @property
    def pem(self) -> bytes:
        """Certificate and chain."""
        return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in self.certificates)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )

    def write(self, path: Path) -> Path:
        """Certificate, key and chain in one file, as a proxy file has them; `ssl` takes it as it is."""
        leaf = self.certificate.public_bytes(serialization.Encoding.PEM)
        _write_private(path, leaf + self.key_pem + self.pem[len(leaf) :])
        return path

    def write_pair(self, directory: Path, stem: str = "host") -> tuple[Path, Path]:
        """`hostcert.pem` (with chain) and `hostkey.pem`, the latter readable by its owner only."""
        certificate, key = directory / f"{stem}cert.pem", directory / f"{stem}key.pem"
        certificate.write_bytes(self.pem)
        _write_private(key, self.key_pem)
        return certificate, key

    def proxy(
        self,
        language: str = Policy.FULL,
        *,
        path_length: int | None = None,
        policy: bytes | None = None,
        critical: bool = True,
        info: bytes | None = None,
        common_name: str = "",
        subject: x509.Name | None = None,
        issuer: x509.Name | None = None,
        signer: Key | None = None,
        key: Key | None = None,
        window: Window | None = None,
        extensions: Sequence[Extra] = (),
    ) -> Credential:
        """A delegation one level further down. Without arguments a good one; `info`: DER instead of a proper
        proxyCertInfo; signer: another key than ours; subject, issuer: other names than RFC 3820 wants."""
        value = proxy_cert_info(language, path_length, policy) if info is None else info
        marks: list[Extra] = [
            (x509.UnrecognizedExtension(PROXY_CERT_INFO, value), critical),
            (key_usage(), True),
        ]
        return self.delegate(
            subject or with_common_name(self.subject, common_name or str(x509.random_serial_number())[:9]),
            [*marks, *extensions],
            issuer=issuer,
            signer=signer,
            key=key,
            window=window,
        )

    def legacy_proxy(self, *, limited: bool = False) -> Credential:
        """GT2's: known by its name only."""
        return self.delegate(with_common_name(self.subject, "limited proxy" if limited else "proxy"), [])

    def draft_proxy(self) -> Credential:
        """GT3's: the extension of the draft, whose number RFC 3820 changed."""
        value = x509.UnrecognizedExtension(DRAFT_PROXY_CERT_INFO, proxy_cert_info())
        return self.delegate(with_common_name(self.subject, "123456"), [(value, True)])

    def delegate(
        self,
        subject: x509.Name,
        extensions: Sequence[Extra],
        *,
        issuer: x509.Name | None = None,
        signer: Key | None = None,
        key: Key | None = None,
        window: Window | None = None,
    ) -> Credential:
        """A certificate that this one's key has signed, whatever it is."""
        key = key or ec_key()
        window = window or _proxy_window()
        issuer_name = self.subject if issuer is None else issuer
        certificate = sign(subject, key, issuer_name, signer or self.key, window, extensions=extensions)
        return Credential(certificate, key, self.certificates)


class Options(TypedDict, total=False):
    """Of `Authority.issue`."""

    key: Key
    window: Window
    serial: int
    extensions: Sequence[Extra]


@dataclass(frozen=True, slots=True, eq=False)
class Authority:
    """A CA. above: certificates of its own and of higher CAs that its clients send, without the root."""

    certificate: x509.Certificate
    key: Key
    above: tuple[x509.Certificate, ...] = ()

    @classmethod
    def root(
        cls,
        subject: NameLike = "/DC=org/DC=example/CN=Example CA",
        *,
        key: Key | None = None,
        window: Window | None = None,
        path_length: int | None = None,
        serial: int | None = None,
        extensions: Sequence[Extra] | None = None,
    ) -> Authority:
        """Each call makes another CA, be the subject the same. extensions: instead of the usual."""
        key, subject = key or ec_key(), name(subject)
        marks = _ca_extensions(key, key, path_length) if extensions is None else extensions
        window = window or _ca_window()
        return cls(sign(subject, key, subject, key, window, extensions=marks, serial=serial), key)

    @property
    def subject(self) -> x509.Name:
        return self.certificate.subject

    @property
    def dn(self) -> str:
        return slash(self.subject)

    @property
    def hash(self) -> str:
        return subject_hash(self.subject)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def sub(
        self,
        subject: NameLike = "/DC=org/DC=example/CN=Example Sub CA",
        *,
        key: Key | None = None,
        window: Window | None = None,
        path_length: int | None = None,
        extensions: Sequence[Extra] | None = None,
    ) -> Authority:
        """A CA below this one. Given another root's key and subject: a cross-signed one."""
        key = key or ec_key()
        marks = _ca_extensions(key, self.key, path_length) if extensions is None else extensions
        window = window or _ca_window()
        certificate = sign(name(subject), key, self.subject, self.key, window, extensions=marks)
        return Authority(certificate, key, (certificate, *self.above))

    def issue(
        self,
        subject: NameLike,
        *,
        hosts: Iterable[str] = (),
        purposes: Sequence[x509.ObjectIdentifier] | None = (CLIENT_AUTH, SERVER_AUTH),
        usage: x509.KeyUsage | None = None,
        key: Key | None = None,
        window: Window | None = None,
        serial: int | None = None,
        extensions: Sequence[Extra] = (),
        standard: bool = True,
    ) -> Credential:
        """An end-entity certificate. hosts: dNSName SANs; purposes None: no extended key usage; standard
        False: no extension but the given ones."""
        key, window = key or ec_key(), window or _certificate_window()
        marks = [*_entity_extensions(key, self.key, tuple(hosts), purposes, usage)] if standard else []
        certificate = sign(
            name(subject),
            key,
            self.subject,
            self.key,
            window,
            extensions=[*marks, *extensions],
            serial=serial,
        )
        return Credential(certificate, key, self.above)

    def user(self, common_name: str = "Ada Lovelace", **options: Unpack[Options]) -> Credential:
        """`/DC=org/DC=example/OU=People/CN=…`."""
        return self.issue(_below_organisation("People", common_name), purposes=(CLIENT_AUTH,), **options)

    def robot(self, common_name: str = "Robot: data mover", **options: Unpack[Options]) -> Credential:
        return self.issue(_below_organisation("Robots", common_name), purposes=(CLIENT_AUTH,), **options)

    def host(self, *hosts: str, **options: Unpack[Options]) -> Credential:
        """With the first name as CN and all of them as SANs."""
        return self.issue(_below_organisation("Hosts", hosts[0]), hosts=hosts, **options)

    def crl(
        self,
        revoked: Iterable[Credential | x509.Certificate | int] = (),
        *,
        window: Window | None = None,
        number: int = 1,
        signer: Key | None = None,
        issuer: x509.Name | None = None,
        extensions: Sequence[Extra] = (),
    ) -> bytes:
        """PEM. signer: another key than the CA's."""
        window = window or _crl_window()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer or self.subject)
            .last_update(window.start)
            .next_update(window.end)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        for one in revoked:
            builder = builder.add_revoked_certificate(_revocation(one, window.start))
        return builder.sign(signer or self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def signing_policy(self, *patterns: str) -> str:
        """The text of an EACL file that lets this CA sign what matches one of the patterns."""
        subjects = " ".join(f'"{pattern}"' for pattern in patterns)
        return (
            f" access_id_CA      X509         '{self.dn}'\n"
            " pos_rights        globus        CA:sign\n"
            f" cond_subjects     globus     '{subjects}'\n"
        )

    def namespaces(self, *expressions: str) -> str:
        """The text of a namespaces file that permits subjects of these regular expressions."""
        lines = (f'TO Issuer "{self.dn}" \\\n  PERMIT Subject "{one}"\n' for one in expressions)
        return "#NAMESPACES-VERSION: 1.0\n" + "".join(lines)


@dataclass(frozen=True, slots=True)
class TrustDirectory:
    """`/etc/grid-security/certificates` of a test: files by hash, as the IGTF's packages lay them out."""

    path: Path

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def add(
        self,
        authority: Authority,
        *,
        crl: bytes | None = None,
        signing_policy: str | None = None,
        namespaces: str | None = None,
        alias: str = "",
    ) -> None:
        """alias: the certificate is `<alias>.pem`, with an `.info` beside it, and the hash a link to it."""
        certificate = self._free(authority.hash, "")
        if alias:
            (self.path / f"{alias}.pem").write_bytes(authority.pem)
            (self.path / f"{alias}.info").write_text(f"alias = {alias}\nsubjectdn = {authority.dn}\n")
            certificate.symlink_to(f"{alias}.pem")
        else:
            certificate.write_bytes(authority.pem)
        self.set_rules(authority, signing_policy=signing_policy, namespaces=namespaces)
        if crl is not None:
            self.set_crl(authority, crl)

    def set_crl(self, authority: Authority, crl: bytes, index: int = 0) -> Path:
        """Replaces it in one step, as fetch-crl does."""
        path = self.path / f"{authority.hash}.r{index}"
        fresh = path.with_suffix(".new")
        fresh.write_bytes(crl)
        return fresh.replace(path)

    def set_rules(
        self, authority: Authority, *, signing_policy: str | None = None, namespaces: str | None = None
    ) -> None:
        if signing_policy is not None:
            (self.path / f"{authority.hash}.signing_policy").write_text(signing_policy)
        if namespaces is not None:
            (self.path / f"{authority.hash}.namespaces").write_text(namespaces)

    def remove(self, authority: Authority) -> None:
        """All files of its hash."""
        for path in list(self.path.glob(f"{authority.hash}.*")):
            path.unlink()

    def _free(self, stem: str, kind: str) -> Path:
        index = 0
        while (path := self.path / f"{stem}.{kind}{index}").exists():
            index += 1
        return path


def trust_directory(path: Path, *authorities: Authority) -> TrustDirectory:
    """With these anchors, and neither CRLs nor rules."""
    directory = TrustDirectory(path)
    for authority in authorities:
        directory.add(authority)
    return directory


def _below_organisation(unit: str, common_name: str) -> str:
    return f"/DC=org/DC=example/OU={unit}/CN={common_name}"


def _ca_extensions(key: Key, issuer_key: Key, path_length: int | None) -> list[Extra]:
    return [
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (key_usage(ca=True), True),
        *_key_identifiers(key, issuer_key),
    ]


def _entity_extensions(
    key: Key,
    issuer_key: Key,
    hosts: Sequence[str],
    purposes: Sequence[x509.ObjectIdentifier] | None,
    usage: x509.KeyUsage | None,
) -> Iterable[Extra]:
    yield x509.BasicConstraints(ca=False, path_length=None), True
    yield usage or key_usage(), True
    if purposes is not None:
        yield x509.ExtendedKeyUsage(purposes), False
    if hosts:
        yield x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), False
    yield from _key_identifiers(key, issuer_key)


def _key_identifiers(key: Key, issuer_key: Key) -> list[Extra]:
    return [
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False),
    ]


def _revocation(what: Credential | x509.Certificate | int, since: datetime) -> x509.RevokedCertificate:
    certificate = what.certificate if isinstance(what, Credential) else what
    serial = certificate if isinstance(certificate, int) else certificate.serial_number
    return x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_bytes(content)
