"""Proxy certificates of RFC 3820: what each one of a chain has to be, and what it makes of the whole.

OpenSSL accepts any policy language and a proxyCertInfo that is not critical; here neither passes. The rules
that OpenSSL does check are checked again, for chains that come from a web server.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID
from pyasn1.codec.der import decoder, encoder
from pyasn1.error import PyAsn1Error
from pyasn1_modules import rfc3820

from dome_bridge.auth.certificate import DRAFT_PROXY_CERT_INFO, PROXY_CERT_INFO, Certificate
from dome_bridge.auth.dn import DistinguishedName
from dome_bridge.auth.refusal import AuthError, Reason

INHERIT_ALL = "1.3.6.1.5.5.7.21.1"
LIMITED = "1.3.6.1.4.1.3536.1.1.1.9"
LEGACY_NAMES = ("proxy", "limited proxy")

_KNOWN_LANGUAGES = {
    "1.3.6.1.5.5.7.21.0": "id-ppl-anyLanguage",
    "1.3.6.1.5.5.7.21.2": "id-ppl-independent",
}


class ProxyInfo(NamedTuple):
    """path_length: how many proxies may follow; None: any number."""

    is_limited: bool
    path_length: int | None


def examine(proxies: Sequence[Certificate], eec: Certificate, max_depth: int) -> bool:
    """Whether the chain is limited. proxies: the leaf first, the last is the EEC's. Raises AuthError."""
    if len(proxies) > max_depth:
        raise _refusal("P3", proxies[0], f"{len(proxies)} proxies are more than {max_depth}")
    is_limited = False
    for below, (proxy, issuer) in enumerate(pairwise((*proxies, eec))):
        info = proxy_info(proxy)
        _require_delegation(proxy, issuer)
        if info.path_length is not None and below > info.path_length:
            raise _refusal("P3", proxy, f"it allows {info.path_length} proxies below it and has {below}")
        is_limited = is_limited or info.is_limited
    return is_limited


def proxy_info(proxy: Certificate) -> ProxyInfo:
    """Raises AuthError."""
    extension = proxy.extension(PROXY_CERT_INFO)
    if extension is None or not isinstance(extension.value, x509.UnrecognizedExtension):
        raise _refusal("P1", proxy, "it has no proxyCertInfo")
    if not extension.critical:
        raise _refusal("P1", proxy, "its proxyCertInfo is not critical")
    try:
        language, policy, path_length = _decoded(extension.value.value)
    except ValueError as exc:
        raise _refusal("P1", proxy, f"its proxyCertInfo cannot be read ({exc})") from exc
    if language not in (INHERIT_ALL, LIMITED):
        name = _KNOWN_LANGUAGES.get(language, language)
        raise _refusal("P2", proxy, f"its policy language {name} is none that grants anything here")
    if policy:
        raise _refusal("P2", proxy, "it has a policy, which its policy language does not allow")
    return ProxyInfo(language == LIMITED, path_length)


def refuse_other_kinds(certificate: Certificate, issuer: Certificate | None) -> None:
    """Proxies from before RFC 3820, which are certificates without proxyCertInfo that no CA has signed."""
    if certificate.extension(DRAFT_PROXY_CERT_INFO):
        raise _refusal("P6", certificate, "it is a GT3 proxy of the draft before RFC 3820: make an RFC proxy")
    if _has_legacy_name(certificate) and (issuer is None or not issuer.is_ca):
        raise _refusal("P6", certificate, "it is a GT2 (legacy) proxy: make an RFC 3820 proxy")


def _decoded(der: bytes) -> tuple[str, bool, int | None]:
    """Policy language, whether there is a policy, and the path length."""
    try:
        info, rest = decoder.decode(der, asn1Spec=rfc3820.ProxyCertInfoExtension())
        again = encoder.encode(info)
    except PyAsn1Error as exc:
        raise ValueError("no ASN.1 of that kind") from exc
    if rest:
        raise ValueError(f"{len(rest)} bytes follow it")
    if again != der:
        raise ValueError("not DER")
    length = int(info["pCPathLenConstraint"]) if info["pCPathLenConstraint"].isValue else None
    if length is not None and length < 0:
        raise ValueError("a negative path length")
    policy = info["proxyPolicy"]
    return str(policy["policyLanguage"]), bool(policy["policy"].isValue), length


def _require_delegation(proxy: Certificate, issuer: Certificate) -> None:
    """What RFC 3820 asks besides: a name below the issuer's, no other name, no CA on either side."""
    if not _is_one_common_name_below(proxy, issuer):
        raise _refusal("P6", proxy, "its subject is not its issuer's and one CN more")
    for kind in (x509.SubjectAlternativeName, x509.IssuerAlternativeName):
        if proxy.extension(kind.oid):
            raise _refusal("P6", proxy, "it has an alternative name, which proxies must not have")
    if proxy.is_ca or (proxy.key_usage is not None and proxy.key_usage.key_cert_sign):
        raise _refusal("P6", proxy, "it is marked as a CA")
    if issuer.is_ca:
        raise _refusal("P6", proxy, "its issuer is a CA, which cannot delegate")
    if issuer.key_usage is not None and not issuer.key_usage.digital_signature:
        raise _refusal("P6", proxy, "the key of its issuer is not for signatures (keyUsage)")


def _is_one_common_name_below(proxy: Certificate, issuer: Certificate) -> bool:
    rdns = proxy.subject.rdns
    return bool(rdns) and rdns[:-1] == issuer.subject.rdns and _only_common_name(rdns[-1]) is not None


def _only_common_name(rdn: x509.RelativeDistinguishedName) -> str | None:
    attributes = list(rdn)
    is_common_name = len(attributes) == 1 and attributes[0].oid == NameOID.COMMON_NAME
    return str(attributes[0].value) if is_common_name else None


def _has_legacy_name(certificate: Certificate) -> bool:
    rdns = certificate.subject.rdns
    return bool(rdns) and rdns[:-1] == certificate.issuer.rdns and _only_common_name(rdns[-1]) in LEGACY_NAMES


def _refusal(rule: str, proxy: Certificate, trouble: str) -> AuthError:
    subject = DistinguishedName.from_x509(proxy.subject).slash
    return AuthError(401, rule, Reason.PROXY, f"the proxy {subject!a} is refused: {trouble}")
