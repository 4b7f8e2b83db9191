"""What the site's own records say about a principal: his numbers, and whether he is banned.

Nobody gets a number here. Who has none yet passes for one to whom nothing belongs, until a command that
he may run needs to write down whose the new entry is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dome_bridge.auth.bans import Bans, Caller, unbanned_groups
from dome_bridge.auth.principal import Kind, Principal
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.dome_api.people import BUILT_IN, NOBODY, ROOT_NAME, Key, People, Person
from dome_bridge.dome_api.people import Kind as Of
from dome_bridge.dome_api.permissions import ROOT, Subject
from dome_bridge.dome_api.request import RemoteUser

_Known = Mapping[Key, Person]


class Standing(NamedTuple):
    """subject: as far as he is known. user: whom to enrol, should the subject not be."""

    subject: Subject
    user: RemoteUser


class Records:
    """vos: those whose groups may be made for a peer that names them, besides those that have groups."""

    def __init__(self, people: People) -> None:
        self._people = people

    async def standing(self, principal: Principal, bans: Bans, vos: Iterable[str]) -> Standing:
        """Raises AuthError 403 for somebody who is banned."""
        names = _names_of(principal)
        named = await self._groups_of(principal)
        known = await self._people.known([Key(Of.USER, name) for name in names], named)
        caller = Caller(
            names=(*names, *_own_name(principal)),
            authorities=principal.channel.issuers,
            groups=named,
            addresses=(principal.address, principal.host),
        )
        groups = unbanned_groups(caller, bans, _status(known, Of.USER), _status(known, Of.GROUP))
        if not principal.user:
            return Standing(ROOT, _remote_user(principal, ()))
        groups = await self._admitted(principal, groups, known, vos)
        return Standing(_subject(principal, groups, known), _remote_user(principal, groups))

    async def _groups_of(self, principal: Principal) -> tuple[str, ...]:
        if principal.groups is not None:
            return principal.groups
        return await self._people.groups_of(principal.channel.dn)

    async def _admitted(
        self, principal: Principal, groups: tuple[str, ...], known: _Known, vos: Iterable[str]
    ) -> tuple[str, ...]:
        if principal.kind is not Kind.FRONTEND:
            return groups
        return await self._people.without_strange(groups, known, vos)


def _names_of(principal: Principal) -> tuple[str, ...]:
    """All under which he could be banned; a server is no user."""
    token = principal.token
    names = [principal.user, token.jwt_name if token else ""]
    if principal.kind is not Kind.NODE:
        # DPM's own tools ban by the subject alone, also where users are told apart by their CAs.
        names += [principal.channel.user, principal.channel.dn]
    return tuple(dict.fromkeys(filter(None, names)))


def _own_name(principal: Principal) -> tuple[str, ...]:
    """Of a server, which only the ban file could name."""
    return (principal.channel.dn,) if principal.channel.dn else ()


def _status(known: _Known, kind: Of) -> dict[str, int]:
    return {key.name: person.banned for key, person in known.items() if key.kind is kind}


def _subject(principal: Principal, groups: tuple[str, ...], known: _Known) -> Subject:
    person = BUILT_IN if principal.user == ROOT_NAME else known.get(Key(Of.USER, principal.user))
    if person is not None and not person.has_number:
        raise AuthError(
            403,
            "U4",
            Reason.NAME,
            f"user {principal.user!a} has the number {person.id} in the database: give it one above 0",
        )
    found = [known.get(Key(Of.GROUP, name)) for name in groups]
    # Number 0 is the system's, whatever has mapped somebody to it.
    gids = tuple(group.id for group in found if group is not None and group.id > 0)
    scopes = principal.grants if principal.kind is Kind.CAPABILITY else None
    uid = person.id if person else NOBODY
    return Subject(uid, gids, principal.user, person is not None and None not in found, scopes)


def _remote_user(principal: Principal, groups: tuple[str, ...]) -> RemoteUser:
    """As commands and disk servers are told of him; the built-in root keeps the name that he came with."""
    asserted = principal.asserted
    if not principal.user and asserted is not None:
        return RemoteUser(asserted.user, principal.host, asserted.groups)
    return RemoteUser(principal.user, principal.host, groups)
