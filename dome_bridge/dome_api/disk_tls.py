"""What the head shows to disk servers that are called over HTTPS, and whom it believes there."""

from __future__ import annotations

import ssl

from dome_bridge.config import DiskConfig
from dome_bridge.errors import ConfigError


def client_tls(disk: DiskConfig) -> ssl.SSLContext | None:
    """None for plain HTTP. Reads files, so not for the event loop. Raises ConfigError.

    Built by hand: the flags of Python's own defaults refuse certificates as grid CAs issue them.
    """
    if disk.scheme != "https":
        return None
    assert disk.certificate is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not disk.ca_dir.is_dir():
        raise ConfigError(f"disk.ca_dir: {disk.ca_dir} is no directory: set it to that of the trusted CAs")
    context.load_verify_locations(capath=str(disk.ca_dir))
    try:
        context.load_cert_chain(disk.certificate, disk.key)
    except OSError as exc:  # an SSLError, too
        raise ConfigError(
            f"disk.certificate {disk.certificate} and disk.key {disk.key} cannot be used"
            f" ({exc.strerror or exc}): set them to a certificate and its key that this account may read"
        ) from exc
    return context
