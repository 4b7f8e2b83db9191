"""Which protocol a connection speaks, told from its first bytes. In all of them the client speaks first."""

from __future__ import annotations

from enum import StrEnum


class Spoken(StrEnum):
    HTTP = "http"
    TLS = "tls"
    XROOTD = "xrootd"
    UNKNOWN = "unknown"


XROOTD_HANDSHAKE_BYTES = 20
"""xrootd looks once, and resets a connection of which fewer bytes have come by then."""

_TLS_HANDSHAKE, _TLS_MAJOR_VERSION = 0x16, 0x03
_XROOTD_MARK = bytes(4)


def spoken(first: bytes) -> Spoken | None:
    """None: more bytes are needed to tell, never more than those of xrootd's handshake.

    The same as XrdHttp decides by its first sixteen bytes (XrdHttpProtocol::Match), but that HTTP may have
    bytes beyond ASCII in its path, and that what is neither TLS nor anything else is not taken for TLS.
    """
    if not first:
        return None
    if _is_text(first[0]):
        return Spoken.HTTP
    if first[0] == _TLS_HANDSHAKE:
        if len(first) == 1:
            return None
        return Spoken.TLS if first[1] == _TLS_MAJOR_VERSION else Spoken.UNKNOWN
    if not _XROOTD_MARK.startswith(first[: len(_XROOTD_MARK)]):
        return Spoken.UNKNOWN
    return Spoken.XROOTD if len(first) >= XROOTD_HANDSHAKE_BYTES else None


def _is_text(byte: int) -> bool:
    return 0x20 <= byte < 0x7F or byte in b"\r\n"
