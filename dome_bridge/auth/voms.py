"""The groups that a VOMS server has given to the holder of a proxy, if it is a server that the site trusts.

Which servers speak for a VO is in `vomsdir`, read beforehand: nothing that an attribute certificate says
becomes the name of a file. An attribute certificate that does not hold refuses the whole request, for
who shows it has either been given a bad one or tries something.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from dome_bridge.auth import attribute_certificate
from dome_bridge.auth.attribute_certificate import AttributeCertificate, Authority, KeyIdentifier, refuse
from dome_bridge.auth.certificate import Certificate, weakness
from dome_bridge.auth.chain import Path, X509Policy, evaluate_signer
from dome_bridge.auth.dn import DistinguishedName
from dome_bridge.auth.groups import MAX_GROUPS, group_of_fqan, is_root, usable
from dome_bridge.auth.lsc import Chain
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.trace import Trace, shown, untold
from dome_bridge.auth.trust import Trust

logger = logging.getLogger(__name__)

CLOCK_SKEW = timedelta(seconds=300)
"""By which a VOMS server's clock may be ahead of ours."""

_NAME = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
_FQAN = re.compile(rf"(?:/{_NAME})+(?:/Role={_NAME})?(?:/Capability={_NAME})?")

# Only the digest is taken from it. VOMS servers copy the identifier from their own certificate's signature
# (voms, src/ac/write.c: writeac), whose issuer may have another kind of key than they have.
_DIGESTS: dict[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    "1.2.840.113549.1.1.11": hashes.SHA256,
    "1.2.840.113549.1.1.12": hashes.SHA384,
    "1.2.840.113549.1.1.13": hashes.SHA512,
    "1.2.840.10045.4.3.2": hashes.SHA256,
    "1.2.840.10045.4.3.3": hashes.SHA384,
    "1.2.840.10045.4.3.4": hashes.SHA512,
}
_REQUIRED = {
    attribute_certificate.NO_REVOCATION: "noRevAvail",
    attribute_certificate.KEY_IDENTIFIER: "authorityKeyIdentifier",
}


class Membership(NamedTuple):
    """groups: in DPM's form, the primary first. expires: seconds since 1970, when the first of the attribute
    certificates does, or something that vouches for one.
    """

    groups: tuple[str, ...] = ()
    expires: float = float("inf")


def fqans(
    path: Path,
    trust: Trust,
    policy: X509Policy,
    hosts: Collection[str],
    now: datetime,
    *,
    trace: Trace = untold,
) -> tuple[str, ...]:
    """The groups of a client, see `membership`."""
    return membership(path, trust, policy, hosts, now, trace=trace).groups


def membership(
    path: Path,
    trust: Trust,
    policy: X509Policy,
    hosts: Collection[str],
    now: datetime,
    *,
    trace: Trace = untold,
) -> Membership:
    """What the attribute certificates of the lowest proxy that has any say; `AuthError` if one does not hold.

    hosts: our own names, for attributes that are only meant for some servers.
    """
    value = _extension(path.proxies)
    if value is None:
        trace("V1", "no proxy has attribute certificates")
        return Membership()
    inquiry = _Inquiry(path, trust, policy, frozenset(host.lower() for host in hosts), now, trace)
    answers = [inquiry.answer(each) for each in attribute_certificate.split(value)]
    groups = usable(dict.fromkeys(group for answer in answers for group in answer.groups))
    if len(groups) > MAX_GROUPS:
        refuse("V7", Reason.TOO_LARGE, f"{len(groups)} groups, at most {MAX_GROUPS}")
    trace("V7", "groups %a", groups)
    return Membership(groups, min((answer.expires for answer in answers), default=float("inf")))


def _extension(proxies: Sequence[Certificate]) -> bytes | None:
    """Of the lowest proxy that has it. In an end-entity certificate nobody looks for it."""
    for proxy in proxies:
        if found := proxy.extension(attribute_certificate.EXTENSION):
            assert isinstance(found.value, x509.UnrecognizedExtension)
            return found.value.value
    return None


@dataclass(frozen=True, slots=True)
class _Inquiry:
    """Judges the attribute certificates of one client at one moment."""

    path: Path
    trust: Trust
    policy: X509Policy
    hosts: frozenset[str]
    now: datetime
    trace: Trace

    def answer(self, certificate: AttributeCertificate) -> Membership:
        vo, host = certificate.authority
        if vo not in self.trust.vos:
            logger.info(
                "attribute certificate ignored, vomsdir has nothing for its VO vo=%s host=%s", vo, host
            )
            self.trace("V1", "ignored, vomsdir has nothing for the VO %s", vo)
            return Membership()
        self._check_validity(certificate)
        self._check_holder(certificate)
        _check_extensions(certificate)
        signer = self._signer(certificate)
        groups = _groups(certificate.fqans, vo)
        self.trace("V6", "FQANs of the VO %s: %a", vo, certificate.fqans)
        self._check_targets(certificate)
        return Membership(groups, min(certificate.validity.not_after.timestamp(), signer.expires))

    def _check_validity(self, certificate: AttributeCertificate) -> None:
        not_before, not_after = certificate.validity
        if self.now + CLOCK_SKEW < not_before:
            refuse("V3", Reason.NOT_YET_VALID, f"it is valid from {not_before:%Y-%m-%d %H:%M:%S} UTC")
        if self.now > not_after:
            refuse("V3", Reason.EXPIRED, f"it has expired at {not_after:%Y-%m-%d %H:%M:%S} UTC")
        self.trace("V3", "valid until %s", not_after)

    def _check_holder(self, certificate: AttributeCertificate) -> None:
        name, serial = certificate.holder
        eec = self.path.eec
        if serial != eec.serial:
            refuse("V4", Reason.NAME, f"its holder has another serial number than the user, {eec.serial:x}")
        if name not in (_dn(eec.subject), _dn(eec.issuer)):
            refuse("V4", Reason.NAME, f"its holder is {name.slash[:256]!a}, the user {self.path.dn.slash!a}")
        self.trace("V4", "the holder is the user")

    def _signer(self, certificate: AttributeCertificate) -> Path:
        """The path of who has signed it, found good."""
        vo, host = certificate.authority
        listed = certificate.certificates
        candidates = self._candidates(certificate.authority, listed)
        issuer, identifier = certificate.issuer, certificate.key_identifier
        fitting = [each for each in candidates if _dn(each.subject) == issuer and _fits(identifier, each)]
        if not fitting:
            refuse("V5", Reason.UNTRUSTED, f"its issuer is none that {host} of the VO {vo} signs with")
        signer = max(fitting, key=lambda each: each.not_after)
        _check_signature(certificate, signer)
        path = self._path(signer, listed)
        self.trace("V5", "signed by %s of the VO %s", host, vo)
        return path

    def _candidates(self, authority: Authority, listed: Sequence[Certificate]) -> Sequence[Certificate]:
        """What the site believes this server to sign with."""
        if (chains := self.trust.voms_chains.get(authority)) is not None:
            return _of_lsc(listed, chains, authority)
        vo, host = authority
        if vo not in self.trust.voms_certificates:
            refuse("V5", Reason.UNTRUSTED, f"vomsdir has no {host}.lsc for the VO {vo}")
        return self.trust.voms_certificates[vo]

    def _path(self, signer: Certificate, listed: Sequence[Certificate]) -> Path:
        others = [each.der for each in listed if each.der != signer.der]
        try:
            return evaluate_signer([signer.der, *others], self.trust, self.policy, self.now)
        except AuthError as exc:
            raise AuthError(403, "V5", exc.reason, f"attribute certificate: its issuer: {exc}") from exc

    def _check_targets(self, certificate: AttributeCertificate) -> None:
        targets = certificate.targets
        if targets is not None and not self.hosts.intersection(map(_host_of_target, targets)):
            refuse("V8", Reason.UNTRUSTED, f"it is for other servers: {shown(', '.join(targets))}")
        self.trace("V8", "its extensions are in order")


def _of_lsc(
    listed: Sequence[Certificate], chains: Collection[Chain], authority: Authority
) -> Sequence[Certificate]:
    """The server's certificate out of the list that was sent along, if that is one of the chains."""
    if not listed:
        refuse("V5", Reason.MISSING, "it has no list of certificates to compare with the LSC file")
    names = [_dn(name) for each in listed for name in (each.subject, each.issuer)]
    if any(name.is_ambiguous for name in names) or tuple(name.slash for name in names) not in chains:
        vo, host = authority
        refuse("V5", Reason.UNTRUSTED, f"its certificates are no chain of {host}.lsc for the VO {vo}")
    return listed[:1]


def _fits(identifier: KeyIdentifier, signer: Certificate) -> bool:
    """By all that is said. VOMS servers hash the key themselves, whatever the certificate says that it is."""
    of_key = x509.SubjectKeyIdentifier.from_public_key(signer.key).digest
    return (
        identifier != (None, (), None)
        and identifier.key in (None, of_key, signer.subject_key_identifier)
        and identifier.serial in (None, signer.serial)
        and identifier.issuers in ((), (_dn(signer.issuer),))
    )


def _check_signature(certificate: AttributeCertificate, signer: Certificate) -> None:
    digest = _DIGESTS.get(certificate.algorithm)
    if digest is None:
        refuse("V5", Reason.ALGORITHM, f"the algorithm {shown(certificate.algorithm)} is not accepted")
    if trouble := weakness(signer):
        refuse("V5", Reason.ALGORITHM, f"the key of its issuer: {trouble}")
    try:
        match signer.key:
            case rsa.RSAPublicKey():
                signer.key.verify(certificate.signature, certificate.signed, padding.PKCS1v15(), digest())
            case ec.EllipticCurvePublicKey():
                signer.key.verify(certificate.signature, certificate.signed, ec.ECDSA(digest()))
            case _:
                refuse("V5", Reason.ALGORITHM, "the key of its issuer is neither of RSA nor of ECDSA")
    except InvalidSignature as exc:
        raise AuthError(403, "V5", Reason.SIGNATURE, "attribute certificate: the signature is wrong") from exc


def _check_extensions(certificate: AttributeCertificate) -> None:
    extensions = certificate.extensions
    for oid, name in _REQUIRED.items():
        if oid not in extensions or extensions[oid].is_critical:
            refuse("V8", Reason.MALFORMED, f"{name} is missing, or critical")
    for oid, extension in extensions.items():
        if extension.is_critical and oid != attribute_certificate.TARGETS:
            refuse("V8", Reason.MALFORMED, f"critical extension {shown(oid)} is not understood")


def _groups(fqans: Sequence[str], vo: str) -> tuple[str, ...]:
    """In DPM's form, from FQANs that are all the VO's to give."""
    for fqan in fqans:
        if fqan != f"/{vo}" and not fqan.startswith(f"/{vo}/"):
            refuse("V6", Reason.GROUP, f"the FQAN {shown(fqan)} is not of the VO {vo}")
        if not _FQAN.fullmatch(fqan):
            refuse("V6", Reason.GROUP, f"the FQAN {shown(fqan)} is malformed")
        if is_root(fqan):
            refuse("V7", Reason.GROUP, f"the FQAN {shown(fqan)} names the group root")
    return tuple(map(group_of_fqan, fqans))


def _host_of_target(target: str) -> str:
    """VOMS writes the bare name as if it were a URI."""
    if "/" not in target:
        return target.lower()
    try:
        return urlsplit(target).hostname or ""
    except ValueError:
        return ""


def _dn(name: x509.Name) -> DistinguishedName:
    return DistinguishedName.from_x509(name)
