"""The same chains before OpenSSL and before us: what it refuses we refuse, and where we are stricter.

Of a client behind a web server we see no handshake, only certificates.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path as File

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from dome_bridge.auth.chain import X509Policy, evaluate
from dome_bridge.auth.refusal import AuthError
from dome_bridge.auth.trust import load_trust
from sandbox import pki
from sandbox.pki import Authority, Credential, Extra, Policy

ROOT = Authority.root()
SUB = ROOT.sub()
ADA = SUB.user()
NOW = datetime.now(UTC) + timedelta(minutes=5)

CA: Extra = (x509.BasicConstraints(ca=True, path_length=None), True)
STRANGE: Extra = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.7"), b"\x05\x00"), True)
NAMED: Extra = (x509.SubjectAlternativeName([x509.DNSName("a.example.org")]), False)
EMAIL_ONLY: Extra = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
OTHER_KEY: Extra = (x509.AuthorityKeyIdentifier(b"another", None, None), False)
NO_SIGNATURE = pki.key_usage(digital_signature=False)


def _below(*extensions: Extra) -> Credential:
    """A user of a sub-CA with just these extensions."""
    return ROOT.sub("/CN=Odd CA", extensions=extensions).user()


def _subs(length: int, depth: int) -> Credential:
    """A user below so many CAs, the highest of which allows so many below it."""
    ca = ROOT.sub("/CN=CA", path_length=length)
    for level in range(depth):
        ca = ca.sub(f"/CN=CA {level}")
    return ca.user()


def _proxies(length: int, depth: int) -> Credential:
    proxy = ADA.proxy(path_length=length)
    for _ in range(depth):
        proxy = proxy.proxy()
    return proxy


GOOD: dict[str, Callable[[], Credential]] = {
    "user": lambda: ADA,
    "third proxy": lambda: ADA.proxy().proxy().proxy(Policy.LIMITED),
    "proxy of a host": lambda: SUB.host("a.example.org").proxy(),
    "user without extensions": lambda: SUB.issue("/CN=u", standard=False),
    "user for clients and servers": lambda: SUB.issue("/CN=u").proxy(),
    "ca with basic constraints only": lambda: _below(CA),
    "as many cas as allowed": lambda: _subs(1, 1),
    "as many proxies as allowed": lambda: _proxies(1, 1),
}

BAD: dict[str, Callable[[], Credential]] = {
    "expired": lambda: SUB.user(window=pki.expired()),
    "expired proxy": lambda: ADA.proxy(window=pki.expired()).proxy(),
    "not yet valid": lambda: SUB.user(window=pki.not_yet_valid()),
    "untrusted": lambda: Authority.root(ROOT.subject).user(),
    "proxy signed by another": lambda: ADA.proxy(signer=pki.ec_key()),
    "proxy with another subject": lambda: ADA.proxy(subject=pki.name("/CN=u")),
    "proxy with the same subject": lambda: ADA.proxy(subject=ADA.subject),
    "proxy with alternative name": lambda: ADA.proxy(extensions=[NAMED]),
    "proxy that is a ca": lambda: ADA.proxy(extensions=[CA]),
    "proxy of a ca": lambda: Credential(SUB.certificate, SUB.key).proxy(),
    "proxy of who may not sign": lambda: SUB.issue("/CN=u", usage=NO_SIGNATURE).proxy(),
    "proxy for mail only": lambda: ADA.proxy(extensions=[EMAIL_ONLY]),
    "too many proxies": lambda: _proxies(1, 2),
    "gt2 proxy": lambda: ADA.legacy_proxy(),
    "gt3 proxy": lambda: ADA.draft_proxy(),
    "user who may not sign": lambda: SUB.issue("/CN=u", usage=NO_SIGNATURE),
    "user for mail only": lambda: SUB.issue("/CN=u", purposes=(ExtendedKeyUsageOID.EMAIL_PROTECTION,)),
    "user with unknown critical": lambda: SUB.issue("/CN=u", extensions=[STRANGE]),
    "user of another key": lambda: SUB.issue("/CN=u", standard=False, extensions=[OTHER_KEY]),
    "ca with unknown critical": lambda: _below(CA, STRANGE),
    "ca for mail only": lambda: _below(CA, EMAIL_ONLY),
    "ca without extensions": lambda: _below(),
    "ca without basic constraints": lambda: _below((pki.key_usage(ca=True), True)),
    "ca without key usage for it": lambda: _below(CA, (pki.key_usage(), True)),
    "too many cas": lambda: _subs(0, 1),
    "short key": lambda: SUB.user(key=pki.rsa_key(bits=1024)),
    "short key of a ca": lambda: ROOT.sub("/CN=Short", key=pki.rsa_key(bits=1024)).user(),
}

STRICTER: dict[str, Callable[[], Credential]] = {
    "independent proxy": lambda: ADA.proxy(Policy.INDEPENDENT),
    "proxy of unknown policy": lambda: ADA.proxy(Policy.UNKNOWN).proxy(),
    "proxy info not critical": lambda: ADA.proxy(critical=False),
    "ca as user": lambda: Credential(SUB.certificate, SUB.key),
    "anchor as user": lambda: Credential(ROOT.certificate, ROOT.key),
}


@pytest.mark.parametrize("chain", GOOD.values(), ids=GOOD)
def test_y3_chain_that_both_accept(chain: Callable[[], Credential], tmp_path: File) -> None:
    assert _verdicts(chain(), tmp_path) == (True, True)


@pytest.mark.parametrize("chain", BAD.values(), ids=BAD)
def test_y3_chain_that_both_refuse(chain: Callable[[], Credential], tmp_path: File) -> None:
    assert _verdicts(chain(), tmp_path) == (False, False)


@pytest.mark.parametrize("chain", STRICTER.values(), ids=STRICTER)
def test_chain_that_only_openssl_accepts(chain: Callable[[], Credential], tmp_path: File) -> None:
    assert _verdicts(chain(), tmp_path) == (True, False)


def _verdicts(who: Credential, directory: File) -> tuple[bool, bool]:
    """Of OpenSSL and of us."""
    ca_dir = pki.trust_directory(directory / "ca", ROOT).path
    (directory / "chain").write_bytes(who.pem)
    command = (
        "openssl verify -allow_proxy_certs -purpose sslclient -auth_level 2 -CApath ca -untrusted chain chain"
    )
    told = subprocess.run(command.split(), cwd=directory, capture_output=True)
    try:
        evaluate(who.ders, load_trust(ca_dir, directory / "vomsdir"), X509Policy(), NOW)
    except AuthError:
        return told.returncode == 0, False
    return told.returncode == 0, True
