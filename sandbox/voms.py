"""A VOMS server's signing desk: attribute certificates and proxies with them, good ones and bad ones.

Written down byte by byte and without the library that reads them, so that anything can be wrong with them:

    server = VomsServer(ca.host("voms.example.org"), vo="dteam")
    proxy = server.proxy(ada, "/dteam", "/dteam/Role=production")
    server.publish(tmp_path / "vomsdir")
    bad = ada.proxy(extensions=[extension(server.statement(ada, not_after=yesterday).sign(server.key))])

Whatever is not said of a `Statement` is as a VOMS server has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from sandbox.pki import Credential, Digest, Extra, Key, Window, around_now, slash

ATTRIBUTES_OID = "1.3.6.1.4.1.8005.100.100.4"
EXTENSION_OID = "1.3.6.1.4.1.8005.100.100.5"
CERTIFICATES_OID = "1.3.6.1.4.1.8005.100.100.10"
GENERIC_OID = "1.3.6.1.4.1.8005.100.100.11"
NO_REVOCATION_OID = "2.5.29.56"
KEY_IDENTIFIER_OID = "2.5.29.35"
TARGETS_OID = "2.5.29.55"

_RSA = {"sha1": 5, "sha256": 11, "sha384": 12, "sha512": 13}
_ECDSA = {"sha1": "1", "sha256": "3.2", "sha384": "3.3", "sha512": "3.4"}
_IMPLICIT = 0x80
_CONSTRUCTED = 0x20


def tlv(tag: int, *contents: bytes) -> bytes:
    """One element of DER."""
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def sequence(*contents: bytes) -> bytes:
    return tlv(0x30, *contents)


def tagged(number: int, *contents: bytes) -> bytes:
    """A constructed element with a tag of the context."""
    return tlv(_IMPLICIT | _CONSTRUCTED | number, *contents)


def integer(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    return tlv(0x06, b"".join(_base128(number) for number in (40 * first + second, *rest)))


def octets(value: bytes) -> bytes:
    return tlv(0x04, value)


def bits(value: bytes, unused: int = 0) -> bytes:
    return tlv(0x03, bytes([unused]), value)


def time(moment: datetime) -> bytes:
    return tlv(0x18, f"{moment.year:04}{moment:%m%d%H%M%SZ}".encode())


def uri(text: str) -> bytes:
    """A general name."""
    return tlv(_IMPLICIT | 6, text.encode())


def dns_name(text: str) -> bytes:
    return tlv(_IMPLICIT | 2, text.encode())


def directory_name(name: x509.Name) -> bytes:
    return tagged(4, name.public_bytes())


def algorithm_identifier(key: Key, digest: str) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return sequence(oid(f"1.2.840.113549.1.1.{_RSA[digest]}"), tlv(0x05))
    return sequence(oid(f"1.2.840.10045.4.{_ECDSA[digest]}"))


def add_on(number: str, value: bytes, *, critical: bool = False) -> bytes:
    """An extension of an attribute certificate."""
    return sequence(oid(number), tlv(0x01, b"\xff") if critical else b"", octets(value))


def voms_targets(*names: str) -> bytes:
    """As VOMS servers write them: without names as `voms-proxy-fake -target` does."""
    return sequence(sequence(*(sequence(tagged(0, uri(name))) for name in names)))


def rfc_targets(*names: bytes) -> bytes:
    """As RFC 5755 has them, of general names."""
    return sequence(sequence(*(tagged(0, name) for name in names)))


def certificate_list(certificates: Iterable[x509.Certificate]) -> bytes:
    return sequence(sequence(*(one.public_bytes(serialization.Encoding.DER) for one in certificates)))


def key_id(certificate: x509.Certificate) -> bytes:
    """SHA-1 of the public key."""
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def key_identifier(key: bytes | None, issuer: x509.Name | None = None, serial: int | None = None) -> bytes:
    return sequence(
        b"" if key is None else tlv(_IMPLICIT | 0, key),
        b"" if issuer is None else tagged(1, directory_name(issuer)),
        b"" if serial is None else tlv(_IMPLICIT | 2, integer(serial)[2:]),
    )


@dataclass(frozen=True, slots=True)
class Statement:
    """What an attribute certificate says; each field is the DER of a part of the signed information.

    Change it with the methods that say what, or with `dataclasses.replace` for what nobody foresaw.
    """

    holder: bytes
    issuer: bytes
    algorithm: bytes
    validity: bytes
    attributes: bytes
    extensions: dict[str, bytes]
    version: bytes = integer(1)
    serial: bytes = integer(4711)
    tail: bytes = b""

    @property
    def information(self) -> bytes:
        return sequence(
            self.version,
            self.holder,
            self.issuer,
            self.algorithm,
            self.serial,
            self.validity,
            self.attributes,
            sequence(*self.extensions.values()),
            self.tail,
        )

    def but(self, **parts: Any) -> Self:
        return replace(self, **parts)

    def held_by(self, name: x509.Name, serial: int) -> Self:
        return self.but(holder=holder(name, serial))

    def valid(self, window: Window) -> Self:
        return self.but(validity=sequence(time(window.start), time(window.end)))

    def naming(self, authority: str, *fqans: str) -> Self:
        return self.but(attributes=attributes(authority, *fqans))

    def with_extension(self, number: str, value: bytes, *, critical: bool = False) -> Self:
        """One more, or another one of this number."""
        return self.but(extensions=self.extensions | {number: add_on(number, value, critical=critical)})

    def without_extension(self, number: str) -> Self:
        return self.but(extensions={key: der for key, der in self.extensions.items() if key != number})

    def sign(self, key: Key, digest: Digest | hashes.SHA1 | None = None, *, outer: bytes = b"") -> bytes:
        """The attribute certificate. outer: another algorithm identifier than the one that is signed."""
        information = self.information
        signature = signed(key, information, digest or hashes.SHA256())
        return sequence(information, outer or self.algorithm, bits(signature))


def holder(name: x509.Name, serial: int) -> bytes:
    """By the name and serial number of its certificate."""
    return sequence(tagged(0, sequence(directory_name(name)), integer(serial)))


def attributes(authority: str, *fqans: str) -> bytes:
    values = sequence(*(octets(fqan.encode()) for fqan in fqans))
    return sequence(attribute(sequence(tagged(0, uri(authority)), values)))


def attribute(*values: bytes, number: str = ATTRIBUTES_OID) -> bytes:
    return sequence(oid(number), tlv(0x31, *values))


def signed(key: Key, data: bytes, digest: Digest | hashes.SHA1) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), digest)
    return key.sign(data, ec.ECDSA(digest))


def extension(*certificates: bytes) -> Extra:
    """Of a proxy: with these attribute certificates."""
    return raw_extension(sequence(sequence(*certificates)))


def raw_extension(value: bytes) -> Extra:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(EXTENSION_OID), value), False


@dataclass(frozen=True, slots=True)
class VomsServer:
    """Signs for one VO. host: in the URI of what it signs, and of its LSC file."""

    credential: Credential
    vo: str = "dteam"
    host: str = "voms.example.org"
    port: int = 15000

    @property
    def key(self) -> Key:
        return self.credential.key

    @property
    def authority(self) -> str:
        return f"{self.vo}://{self.host}:{self.port}"

    def statement(self, user: Credential, *fqans: str) -> Statement:
        """For the holder of this certificate, without FQANs: a member of the VO."""
        certificate = self.credential.certificate
        window = around_now(timedelta(minutes=5), timedelta(hours=12))
        return Statement(
            holder=holder(user.certificate.subject, user.certificate.serial_number),
            issuer=tagged(0, sequence(directory_name(certificate.subject))),
            algorithm=algorithm_identifier(self.key, "sha256"),
            validity=sequence(time(window.start), time(window.end)),
            attributes=attributes(self.authority, *(fqans or (f"/{self.vo}",))),
            extensions={
                CERTIFICATES_OID: add_on(CERTIFICATES_OID, certificate_list([certificate])),
                NO_REVOCATION_OID: add_on(NO_REVOCATION_OID, tlv(0x05)),
                KEY_IDENTIFIER_OID: add_on(KEY_IDENTIFIER_OID, key_identifier(key_id(certificate))),
            },
        )

    def sign(self, user: Credential, *fqans: str) -> bytes:
        """A good attribute certificate."""
        return self.statement(user, *fqans).sign(self.key)

    def proxy(self, user: Credential, *fqans: str) -> Credential:
        """As of `voms-proxy-init -voms`. user: an end-entity credential."""
        return user.proxy(extensions=[extension(self.sign(user, *fqans))])

    @property
    def lsc(self) -> str:
        """The text of its LSC file."""
        certificate = self.credential.certificate
        return f"{slash(certificate.subject)}\n{slash(certificate.issuer)}\n"

    def publish(self, vomsdir: Path, text: str | None = None) -> Path:
        """Writes its LSC file, or another text in its place."""
        path = vomsdir / self.vo / f"{self.host}.lsc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.lsc if text is None else text)
        return path

    def publish_certificate(self, vomsdir: Path) -> Path:
        """In the way from before LSC files."""
        path = vomsdir / self.vo / f"{self.host}.pem"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.credential.certificate.public_bytes(serialization.Encoding.PEM))
        return path


def lsc(*chains: Sequence[x509.Certificate]) -> str:
    """The text of an LSC file that allows these chains."""
    return "------ NEXT CHAIN ------\n".join(
        "".join(f"{slash(one.subject)}\n{slash(one.issuer)}\n" for one in chain) for chain in chains
    )


def _base128(number: int) -> bytes:
    parts = [number & 0x7F]
    while number := number >> 7:
        parts.append(0x80 | number & 0x7F)
    return bytes(reversed(parts))
