"""What a command is told: who calls, for whom, and with which parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from dome_bridge.dome_api.wire import Parameters

_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def is_plain(value: str) -> bool:
    """Whether a header's value is UTF-8 text without control characters."""
    return not _UNFIT.search(value)


@dataclass(frozen=True, slots=True)
class Peer:
    """The daemon or tool at the other end of the connection.

    dn: its certificate's subject in the one-line form, "" if it has shown none. address: for the log.
    """

    dn: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class RemoteUser:
    """The person for whom the peer calls (headers `remoteclient…`). Without a DN: root."""

    dn: str = ""
    host: str = ""
    groups: tuple[str, ...] = ()

    @classmethod
    def from_headers(cls, headers: Iterable[tuple[str, str]]) -> RemoteUser:
        """Of a header that comes twice the last counts, as in XrdHttp; groups without a name are none.

        Only HTTP's own blanks are cut off: any other is part of a name, and a name of its own.
        """
        found = {name.lower(): value.strip(" \t") for name, value in headers}
        groups = found.get("remoteclientgroups", "")
        return cls(
            dn=found.get("remoteclientdn", ""),
            host=found.get("remoteclienthost", ""),
            groups=tuple(filter(None, groups.split(","))),
        )


@dataclass(frozen=True, slots=True)
class Request:
    """One call. method: the verb in upper case; target: the raw request target, for messages."""

    method: str
    target: str
    command: str
    parameters: Parameters
    peer: Peer = field(default_factory=Peer)
    user: RemoteUser = field(default_factory=RemoteUser)
