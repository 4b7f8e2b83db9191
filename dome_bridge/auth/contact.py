"""How a request came in: what the listener knows before anybody looks at a credential."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dome_bridge.auth.principal import Transport


@dataclass(slots=True)
class Kept:
    """What the authenticator has found out about a connection; it begins empty and lives as long."""

    evaluation: Any = None


@dataclass(frozen=True, slots=True)
class Contact:
    """transport: what was spoken. address: the other end's, as text, "" for a Unix socket.

    chain: the certificates that the client has sent, DER, as they came.
    """

    transport: Transport
    address: str = ""
    chain: tuple[bytes, ...] = ()
    kept: Kept = field(default_factory=Kept)
