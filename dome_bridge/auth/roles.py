"""What a peer is to the site: by the host names that it proves, or the DN that the site trusts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dome_bridge.auth.principal import Channel, Kind, Role
from dome_bridge.auth.refusal import AuthError, Reason

Standing = tuple[Role, Kind]


@dataclass(frozen=True)
class Peers:
    """All whom the site trusts. Host names are in lower case, administrators in canonical slash form."""

    own: frozenset[str] = frozenset()
    disks: frozenset[str] = frozenset()
    frontends: frozenset[str] = frozenset()
    administrators: frozenset[str] = frozenset()

    def standing(self, channel: Channel) -> Standing:
        """Role and kind of a peer without an asserted user.

        Raises AuthError 403 for a subject that could be read as a trusted one.
        """
        if not channel.dn:
            return Role.NOBODY, Kind.ANONYMOUS
        found = self._as_administrator(channel) or self._as_host(channel)
        if found is None:
            return Role.USER, Kind.USER
        if channel.is_multivalued:
            raise AuthError(
                403,
                "U1",
                Reason.NAME,
                f"{channel.dn}: no server or administrator may have an RDN of several attributes",
            )
        return found

    def _as_administrator(self, channel: Channel) -> Standing | None:
        # A limited proxy may be anywhere: it is its owner for data only.
        if channel.is_limited or channel.dn not in self.administrators:
            return None
        return Role.HEAD, Kind.ADMIN

    def _as_host(self, channel: Channel) -> Standing | None:
        if channel.is_proxy:
            return None
        for hosts, role in ((self.own, Role.HEAD), (self.disks, Role.DISK), (self.frontends, Role.FRONTEND)):
            if not hosts.isdisjoint(channel.hosts):
                return role, Kind.NODE
        return None


def speaks_for(hosts: Collection[str], server: str, same_server: Collection[Collection[str]]) -> bool:
    """Whether a disk server that proves `hosts` may report for `server`.

    same_server: names that belong together, where one certificate is shared.
    """
    server = server.lower()
    if server in hosts:
        return True
    return any(server in names and not set(hosts).isdisjoint(names) for names in same_server)
