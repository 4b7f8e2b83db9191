"""TLS of the listeners: the contexts, and the certificates that a client has sent.

Each connection has a context of its own. Sessions live in contexts, so none is ever resumed: of a
resumed one Python does not give the chain, and whose proxy it is would not be known. Clients' chains
are verified by OpenSSL in the handshake, where proxies are allowed; what else they must be is decided
elsewhere, from the chain as it came.
"""

from __future__ import annotations

import _ssl
import os
import ssl
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from cryptography import x509

from dome_bridge.config import TlsConfig
from dome_bridge.errors import ConfigError

CIPHERS = "DEFAULT:@SECLEVEL=2"
"""The level is given, since distributions differ: no RSA keys below 2048 bits, no SHA-1, no MD5."""

OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_READERS: tuple[type, ...] = (ssl.SSLObject, _ssl._SSLSocket)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class ServerTls:
    """What the server shows and whom it believes, as it was read; contexts are made from it alone.

    certificate: PEM, with its chain. ca_dir is looked at by OpenSSL in each handshake. not_after: of the
    certificate.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    ca_dir: Path
    not_after: datetime

    def context(self) -> ssl.SSLContext:
        """A fresh one, for one connection. Raises OSError, SSLError among them."""
        # Not create_default_context: since Python 3.13 its flags refuse real proxies.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
        context.num_tickets = 0
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS
        context.load_verify_locations(capath=str(self.ca_dir))
        self._show(context)
        return context

    def _show(self, context: ssl.SSLContext) -> None:
        """From memory, through a file without a name: Python reads key pairs from files only."""
        pair = os.memfd_create("host-certificate")
        try:
            with open(pair, "wb", closefd=False) as file:
                file.write(self.certificate + b"\n" + self.key)
            context.load_cert_chain(f"/proc/self/fd/{pair}", password=_refuse_password)
        finally:
            os.close(pair)


def _refuse_password() -> str:
    """Without it OpenSSL would ask on the terminal."""
    raise ssl.SSLError("the key is encrypted with a password")


def load_server_tls(tls: TlsConfig) -> ServerTls:
    """At start and at reload; reads files, so not for the event loop. Raises ConfigError."""
    certificate = _read(tls.certificate, "certificate")
    key = _read(tls.key, "key", is_secret=True)
    if not tls.ca_dir.is_dir():
        raise ConfigError(f"api.tls.ca_dir: {tls.ca_dir} is no directory: set it to that of the trusted CAs")
    try:
        shown = x509.load_pem_x509_certificate(certificate)
        server = ServerTls(certificate, key, tls.ca_dir, shown.not_valid_after_utc)
        server.context()
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"api.tls.certificate {tls.certificate} and api.tls.key {tls.key} cannot be used"
            f" ({_reason(exc)}): set them to a host certificate, its chain below it, and its key without a"
            " password, both in PEM"
        ) from exc
    return server


def _read(path: Path, name: str, *, is_secret: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if is_secret and mode & OPEN_TO_OTHERS:
                raise ConfigError(
                    f"api.tls.{name}: {path} is open to group or others (mode {stat.S_IMODE(mode):04o}):"
                    " chmod it to 0600, or 0400"
                )
            return file.read()
    except OSError as exc:
        raise ConfigError(
            f"api.tls.{name}: {path} cannot be read ({exc.strerror or exc}): set it to a file that this"
            " account may read"
        ) from exc


def _reason(exc: Exception) -> str:
    return " ".join(str(getattr(exc, "strerror", None) or exc).split())


def require_readable_chains() -> None:
    """Raises ConfigError if this Python cannot tell which certificates a client has sent."""
    if not any(hasattr(reader, "get_unverified_chain") for reader in _READERS):
        raise ConfigError(
            "this Python does not give the certificates that a client sends, so nobody could tell whose proxy"
            " a proxy is: run dome-bridge with CPython 3.11 or later"
        )


def client_chain(connection: ssl.SSLObject) -> tuple[bytes, ...]:
    """The certificates that the client has sent, DER, leaf first as they came; none without a certificate.

    For once per connection. Python has a public way since 3.13.
    """
    # Without a certificate either way yields a None, or fails on it.
    if not connection.getpeercert(binary_form=True):
        return ()
    public = getattr(connection, "get_unverified_chain", None)
    if public is not None:
        return tuple(cast(Sequence[bytes], public()))
    chain: Sequence[Any] = connection._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    return tuple(one.public_bytes(_ssl.ENCODING_DER) for one in chain)
