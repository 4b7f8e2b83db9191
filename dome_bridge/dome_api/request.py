"""What a command is told: who calls, for whom, and with which parameters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dome_bridge.auth.principal import Kind, Principal, Role
from dome_bridge.dome_api.wire import Parameters


@dataclass(frozen=True, slots=True)
class Peer:
    """The daemon or tool at the other end of the connection.

    dn: its certificate's subject in the one-line form, "" if it has shown none. address: for the log.
    """

    dn: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class RemoteUser:
    """The person for whom the peer calls, as disk servers and the records are told. Without a DN: root."""

    dn: str = ""
    host: str = ""
    groups: tuple[str, ...] = ()


SYSTEM = Principal(Kind.NODE, Role.HEAD)
"""The head itself."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call. method: the verb in upper case; target: the raw request target, for messages.

    peer and user are what commands tell others of the principal.
    """

    method: str
    target: str
    command: str
    parameters: Parameters
    peer: Peer = field(default_factory=Peer)
    user: RemoteUser = field(default_factory=RemoteUser)
    principal: Principal = SYSTEM

    def on_behalf_of(self, user: RemoteUser) -> Request:
        return replace(self, user=user)
