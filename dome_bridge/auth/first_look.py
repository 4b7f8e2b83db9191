"""Whom a request says that it comes from, before anything of that is checked.

It decides nothing but whether the check is worth its price, for a source that has failed too often.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from dome_bridge.auth.certificate import read_certificate
from dome_bridge.auth.chain import hosts_of
from dome_bridge.auth.contact import Contact
from dome_bridge.auth.dn import DistinguishedName, canonical, host_of, parse
from dome_bridge.auth.principal import Channel, Transport
from dome_bridge.auth.proxied import ProxiedHeaders, identity_of
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.xrdhttp import TokenError, signer_of


def named_channels(
    headers: Sequence[tuple[str, str]], raw_target: str, contact: Contact, proxied: ProxiedHeaders
) -> list[Channel]:
    """One for each name that is shown. Nothing is raised for what cannot be read: it names nobody."""
    with suppress(AuthError, TokenError):
        match contact.transport:
            case Transport.TLS:
                return _of_chain(contact.chain)
            case Transport.PLAIN:
                return [channel_of_name(signer_of(raw_target), "K3")]
            case Transport.PROXIED:
                told = identity_of(headers, proxied)
                return _of_chain(told.chain) or [channel_of_name(told.dn, "Y3")]
    return []


def channel_of_name(dn: str, rule: str) -> Channel:
    """A DN that somebody else has checked, as text: its host counts only if it has exactly one CN.

    Raises AuthError 403.
    """
    try:
        name = canonical(dn)
    except ValueError as exc:
        raise AuthError(403, rule, Reason.NAME, f"{dn!a} is no DN: {exc}") from exc
    host = host_of(name)
    return Channel(
        dn=name, user=name, hosts=(host,) if host else (), is_multivalued=parse(name).is_multivalued
    )


def _of_chain(chain: Sequence[bytes]) -> list[Channel]:
    """Of each certificate: whose proxies there are is not known yet."""
    found = []
    for der in chain:
        with suppress(ValueError):
            certificate = read_certificate(der)
            name = DistinguishedName.from_x509(certificate.subject)
            found.append(Channel(dn=name.slash, hosts=hosts_of(certificate, name)))
    return found
