"""Users and groups: the numbers behind their names, also for those who are seen for the first time.

The database decides who is who. What was found there is kept for a second, what was not found is not
kept at all; numbers are given out under the lock of DPM's own counters, so that any number of clients,
heads and processes that meet somebody new agree on one row. `root` is number 0 whether it has a row or
not, and nobody else ever is: whoever cannot be given a number is refused.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from pymysql.constants import ER

from dome_bridge.auth.groups import is_root, usable
from dome_bridge.dome_api.catalog import bytes_of, text_of
from dome_bridge.dome_api.gridmap import GridMap, group_of_fqan
from dome_bridge.dome_api.permissions import ROOT, Subject
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.sql import sql
from dome_bridge.dpm.fenced import is_fenced
from dome_bridge.dpm.pool import ConnectionPool
from dome_bridge.dpm.source import Row, Source, StatementError
from dome_bridge.errors import ApiError

logger = logging.getLogger(__name__)

ROOT_NAME = "root"

MAX_NAME_BYTES = 255

NOBODY = -1
"""A number that no entry has: ids in the catalog are not negative."""

SHOWN_CHARACTERS = 100
MAX_ID = 2**31 - 1
MOST_GROUPS = 1024
"""Of one person; each of them may have to be created."""

CREATE_ATTEMPTS = 3
"""While somebody who does not lock the counters creates the same names."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

T = TypeVar("T")


class Kind(StrEnum):
    """What a name stands for; part of the names in people.sql."""

    USER = "user"
    GROUP = "group"


class Person(NamedTuple):
    """A row of Cns_userinfo or Cns_groupinfo. banned: 0 no, 1 by ARGUS, 2 locally."""

    name: str
    id: int
    banned: int
    xattr: str

    @classmethod
    def from_row(cls, row: Sequence[bytes | int | None]) -> Person:
        """A row without a number has -1, not that of root."""
        name, number, banned, xattr = row
        assert not isinstance(name, int)
        assert not isinstance(xattr, int)
        return cls(text_of(name), -1 if number is None else int(number), int(banned or 0), text_of(xattr))

    @property
    def has_number(self) -> bool:
        return self.id > 0 or self.name == ROOT_NAME


BUILT_IN = Person(ROOT_NAME, 0, 0, "")


class IdMap(NamedTuple):
    """A user and the groups in the order they were asked for, banned ones included."""

    user: Person
    groups: tuple[Person, ...]


class IdentityError(ApiError):
    """Somebody cannot act here: banned, or without a number and not to be given one."""

    def __init__(self, text: str) -> None:
        super().__init__(403, text)


class Key(NamedTuple):
    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {shown(self.name)}"


_Found = dict[Key, Person]


def is_name(name: str) -> bool:
    """Whether a user or group can be called so."""
    return _fits(name) and not _CONTROL.search(name)


def shown(name: str) -> str:
    """For a message, which is one line and not the place for a name without end."""
    return repr(name if len(name) <= SHOWN_CHARACTERS else name[:SHOWN_CHARACTERS] + "…")


def _fits(name: str) -> bool:
    """Nobody in the database has a longer name, and a server may refuse to look for one."""
    return len(name) <= MAX_NAME_BYTES and len(bytes_of(name)) <= MAX_NAME_BYTES


class People:
    """Everybody whom the catalog's database knows, and will know. clock: seconds that only go forward."""

    def __init__(
        self,
        database: ConnectionPool,
        gridmap_file: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._gridmap = GridMap(gridmap_file, clock=clock)
        self._recent = _Recent(clock)
        self._flights: _Flights[_Found] = _Flights()
        self.users = Register(Kind.USER, database, self._forget)
        self.groups = Register(Kind.GROUP, database, self._forget)

    async def subject(self, user: RemoteUser, *, is_reading: bool = False) -> Subject:
        """On whose behalf a command runs. Raises IdentityError for somebody who may not act at all.

        is_reading: behind the fence, where nobody gets a number any more, who has none is let through
        as one to whom nothing belongs.
        """
        if not user.dn:
            return ROOT
        try:
            found = await self._identify(user.dn, user.groups)
        except StatementError as exc:
            if not (is_reading and is_fenced(exc)):
                raise
            found = await self._as_far_as_known(user)
        if found.user.banned:
            raise IdentityError(f"user {shown(found.user.name)} is banned ({found.user.banned})")
        is_root = found.user.name == ROOT_NAME
        gids = tuple(group.id for group in found.groups if not group.banned and (group.id or is_root))
        return Subject(found.user.id, gids, found.user.name)

    async def known(self, users: Iterable[Key], groups: Iterable[str]) -> Mapping[Key, Person]:
        """Those of them whom the database has; nobody gets a number. Raises IdentityError."""
        keys = [*users, *(Key(Kind.GROUP, name) for name in groups)]
        for key in keys:
            if not is_name(key.name):
                raise IdentityError(f"the name of {key} is too long or holds control characters")
        mark = self._recent.mark()
        kept = {key: person for key in keys if (person := self._recent.get(key))}
        wanted = [key for key in keys if key not in kept]
        if not wanted:
            return kept
        found = await self._database.read(lambda source: _read(source, wanted))
        self._recent.keep(found, mark)
        return kept | found

    async def groups_of(self, dn: str) -> tuple[str, ...]:
        """Those that the grid-mapfile has for somebody who shows none; it gives nobody the system's group."""
        return usable(await self._gridmap.groups_of(dn))

    async def _as_far_as_known(self, user: RemoteUser) -> IdMap:
        key = Key(Kind.USER, user.dn)
        groups = [Key(Kind.GROUP, name) for name in dict.fromkeys(user.groups)]
        found = await self._database.read(lambda source: _read(source, [key, *groups]))
        person = found.get(key, Person(user.dn, NOBODY, 0, ""))
        return IdMap(
            person, tuple(found[each] for each in groups if each in found and found[each].has_number)
        )

    async def without_strange(
        self, groups: Sequence[str], known: Mapping[Key, Person], vos: Iterable[str]
    ) -> tuple[str, ...]:
        """Those that are known, or of a VO that the site serves: peers could have any made.

        vos: those that are configured; the others that are served have a group already.
        """
        missing = [name for name in groups if Key(Kind.GROUP, name) not in known]
        if not missing:
            return tuple(groups)
        served = set(vos) | {_vo(person.name) for person in await self.groups.everybody()}
        strange = {name for name in missing if _vo(name) not in served}
        if strange:
            logger.warning("groups of no VO of this site are passed over groups=%r", sorted(strange))
        return tuple(name for name in groups if name not in strange)

    async def idmap(
        self, username: str, groupnames: Sequence[str] | None, *, vos: Iterable[str] | None = None
    ) -> IdMap:
        """groupnames: FQANs; without any, those that the grid-mapfile has. Raises IdentityError.

        vos: whose groups may be made, None for any.
        """
        if groupnames:
            names: Iterable[str] = map(group_of_fqan, groupnames)
        else:
            names = await self.groups_of(username)
        if vos is not None:
            names = await self._of_vos(username, list(names), vos)
        return await self._identify(username, names)

    async def _of_vos(self, username: str, groups: Sequence[str], vos: Iterable[str]) -> tuple[str, ...]:
        for name in (username, *groups):
            if name != ROOT_NAME and is_root(name):
                raise IdentityError(f"{shown(name)} is root but for case or blanks, which is nobody's name")
        _require_acceptable(Key(Kind.USER, username), [Key(Kind.GROUP, name) for name in groups])
        return await self.without_strange(groups, await self.known((), groups), vos)

    async def _identify(self, username: str, groupnames: Iterable[str]) -> IdMap:
        user = Key(Kind.USER, username)
        groups = [Key(Kind.GROUP, name) for name in dict.fromkeys(groupnames)]
        _require_acceptable(user, groups)
        found = await self._found([user, *groups])
        if not found[user].has_number:
            raise IdentityError(
                f"{user} has the number {found[user].id} in the database: give it one above 0 in Cns_userinfo"
            )
        return IdMap(found[user], tuple(found[key] for key in groups if found[key].has_number))

    async def _found(self, keys: Collection[Key]) -> _Found:
        """All of them: kept, read, or created now."""
        known = {key: person for key in keys if (person := self._recent.get(key))}
        if len(known) == len(keys):
            return known
        wanted = tuple(key for key in keys if key not in known)
        return known | await self._flights.join(wanted, lambda: self._looked_up(wanted))

    async def _looked_up(self, keys: Collection[Key]) -> _Found:
        mark = self._recent.mark()
        found = await self._read_or_created(keys)
        self._recent.keep(found, mark)
        return found

    async def _read_or_created(self, keys: Collection[Key]) -> _Found:
        missing = keys
        for _ in range(CREATE_ATTEMPTS):
            found = await self._database.read(lambda source: _read(source, keys))
            missing = [key for key in keys if key not in found]
            try:
                return found | await self._created(missing)
            except StatementError as exc:
                if exc.number != ER.DUP_ENTRY:
                    raise
        first = next(iter(missing))
        raise IdentityError(f"{first} cannot be created: the database takes it for one that is there already")

    async def _created(self, keys: Collection[Key]) -> _Found:
        if not keys:
            return {}
        return await self._database.transact(lambda source: _create(source, keys))

    def _forget(self, key: Key) -> None:
        self._recent.forget(key)
        self._flights.detach()


class Register:
    """Users or groups one by one, as the commands that administer them need it; never from memory."""

    def __init__(self, kind: Kind, database: ConnectionPool, forget: Callable[[Key], None]) -> None:
        self._kind = kind
        self._database = database
        self._forget = forget

    async def everybody(self) -> list[Person]:
        """The rows of the table, in the order they were made."""
        return [Person.from_row(row) for row in await self._rows(f"{self._kind}s")]

    async def by_name(self, name: str) -> Person | None:
        """None also for a row whose number would be mistaken for root's."""
        rows = await self._rows(f"{self._kind}_by_name", bytes_of(name)) if _fits(name) else []
        person = _exactly(name, rows)
        if name == ROOT_NAME:
            return person._replace(id=0) if person else BUILT_IN
        return person if person and person.has_number else None

    async def by_id(self, number: int) -> Person | None:
        """The oldest one, should several have the number."""
        if number == 0:
            return await self.by_name(ROOT_NAME)
        rows = await self._rows(f"{self._kind}_by_id", number)
        return Person.from_row(rows[0]) if rows else None

    async def create(self, name: str) -> Person:
        """Raises ApiError 400 if there is one already, or the name cannot be used."""
        key = Key(self._kind, name)
        if not is_name(name):
            raise ApiError(400, f"Can't create {key}: use at most {MAX_NAME_BYTES} bytes, none for control")
        if name == ROOT_NAME:
            raise ApiError(400, f"Can't create {key}: it is built in")
        try:
            return await self._database.transact(lambda source: _create_unknown(source, key))
        except StatementError as exc:
            if exc.number != ER.DUP_ENTRY:
                raise
            raise _exists(key) from exc

    async def update(self, name: str, *, banned: int, xattr: str) -> bool:
        """Replaces both; False if there is nobody of that name. xattr: a JSON object, or empty."""

        async def work(source: Source) -> bool:
            if not _fits(name):
                return False
            rows = await source.fetch(sql(source, f"{self._kind}_locked"), (bytes_of(name),))
            if _exactly(name, rows) is None:
                return False
            statement = sql(source, f"update_{self._kind}")
            await source.execute(statement, (banned, bytes_of(xattr), bytes_of(name)))
            return True

        return await self._changed(name, work)

    async def delete(self, name: str) -> None:
        """Files keep the number. Nothing if there is nobody of that name."""

        async def work(source: Source) -> None:
            await source.execute(sql(source, f"delete_{self._kind}"), (bytes_of(name), bytes_of(name)))

        if _fits(name):
            await self._changed(name, work)

    async def _changed(self, name: str, work: Callable[[Source], Awaitable[T]]) -> T:
        try:
            return await self._database.transact(work)
        finally:
            self._forget(Key(self._kind, name))

    async def _rows(self, statement: str, *args: object) -> list[Row]:
        return await self._database.read(lambda source: source.fetch(sql(source, statement), args))


class _Mark(NamedTuple):
    """The moment before a look-up. changes: how many of our own there had been."""

    time: float
    changes: int


class _Recent:
    """People as they were in the database at most `KEPT_SECONDS` ago, or since our own last change."""

    KEPT_SECONDS = 1.0
    MOST_KEPT = 10_000

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changes = 0
        self._kept: dict[Key, tuple[float, Person]] = {}

    def get(self, key: Key) -> Person | None:
        if key.name == ROOT_NAME:
            return BUILT_IN
        read, person = self._kept.get(key, (float("-inf"), None))
        return person if self._clock() - read < self.KEPT_SECONDS else None

    def mark(self) -> _Mark:
        return _Mark(self._clock(), self._changes)

    def keep(self, found: _Found, mark: _Mark) -> None:
        """Nothing if somebody was changed since the mark: the look-up may have come before."""
        if mark.changes != self._changes:
            return
        for key, person in found.items():
            self._kept[key] = (mark.time, person)
        while len(self._kept) > self.MOST_KEPT:
            del self._kept[next(iter(self._kept))]  # the one that came first

    def forget(self, key: Key) -> None:
        self._changes += 1
        self._kept.pop(key, None)


class _Flights(Generic[T]):
    """Who wants what somebody else is just looking up waits for the same answer, or the same error."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Future[T]] = {}

    async def join(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """If the one who does the work is cancelled, the next one does it."""
        while flight := self._under_way.get(key):
            await asyncio.wait([flight])
            if not flight.cancelled():
                return flight.result()
        return await self._lead(key, work)

    def detach(self) -> None:
        """Who comes from now on gets an answer of after now."""
        self._under_way.clear()

    async def _lead(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        flight = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            result = await work()
        except Exception as exc:
            flight.set_exception(exc)
            flight.exception()  # otherwise asyncio complains if nobody else waits
            raise
        else:
            flight.set_result(result)
            return result
        finally:
            flight.cancel()
            if self._under_way.get(key) is flight:
                del self._under_way[key]


def _require_acceptable(user: Key, groups: Collection[Key]) -> None:
    """Raises IdentityError."""
    for key in (user, *groups):
        if not is_name(key.name):
            raise IdentityError(
                f"the name of {key} is longer than {MAX_NAME_BYTES} bytes or holds control characters"
            )
    if len(groups) > MOST_GROUPS:
        raise IdentityError(f"{user} comes with {len(groups)} groups: {MOST_GROUPS} is the most")


async def _read(source: Source, keys: Collection[Key]) -> _Found:
    """Those of the keys that have a row. Raises IdentityError for one that could not be given one."""
    names: list[list[bytes | None]] = [
        # No row has the name NULL, and an empty list is no SQL.
        [bytes_of(key.name) for key in keys if key.kind is kind] or [None]
        for kind in (Kind.USER, Kind.GROUP)
    ]
    rows = await source.fetch(sql(source, "identities"), names)
    people = [(Kind(row[0].decode()), Person.from_row(row[1:])) for row in rows]
    found = {Key(kind, person.name): person for kind, person in people}
    similar = {Key(kind, person.name.rstrip(" ")): person.name for kind, person in people}
    for key in keys:
        other = similar.get(Key(key.kind, key.name.rstrip(" ")))
        if other is not None and key not in found:
            raise IdentityError(f"{key} is {shown(other)} but for trailing blanks: DPM cannot hold both")
    return {key: found[key] for key in keys if key in found}


async def _create(source: Source, keys: Collection[Key]) -> _Found:
    """Whoever of them is still missing gets a row; belongs into a transaction.

    The counters are locked before anything is read: the first plain read fixes what all others see.
    """
    kinds = [kind for kind in Kind if any(key.kind is kind for key in keys)]
    counters = {kind: await _locked_counter(source, kind) for kind in kinds}
    found = await _read(source, keys)
    for kind, counter in counters.items():
        missing = [key for key in keys if key.kind is kind and key not in found]
        if missing:
            found |= await _insert(source, missing, counter)
    return found


async def _create_unknown(source: Source, key: Key) -> Person:
    """Belongs into a transaction. Raises ApiError 400 if there is one already."""
    counter = await _locked_counter(source, key.kind)
    if await source.fetch(sql(source, f"{key.kind}_by_name"), (bytes_of(key.name),)):
        raise _exists(key)
    return (await _insert(source, [key], counter))[key]


async def _locked_counter(source: Source, kind: Kind) -> int | None:
    """The last number given out; None if the counter has no row."""
    rows = await source.fetch(sql(source, f"last_{kind}_id"))
    return max(int(row[0] or 0) for row in rows) if rows else None


async def _insert(source: Source, keys: Sequence[Key], counter: int | None) -> _Found:
    """Rows for keys of one kind, with numbers that neither the counter nor a row has had."""
    kind = keys[0].kind
    greatest = await source.fetchval(sql(source, f"greatest_{kind}_id"))
    last = max(counter or 0, int(greatest or 0))
    if last + len(keys) > MAX_ID:
        raise ApiError(
            500,
            f"{keys[0]} cannot be created: no number is left; correct the counter and the numbers of {kind}s",
        )
    created = {key: Person(key.name, last + nth, 0, "") for nth, key in enumerate(keys, 1)}
    for person in created.values():
        await source.execute(sql(source, f"insert_{kind}"), (person.id, bytes_of(person.name)))
    count = sql(source, f"{'first' if counter is None else 'next'}_{kind}_id")
    await source.execute(count, (last + len(keys),))
    return created


def _vo(group: str) -> str:
    return group.partition("/")[0]


def _exactly(name: str, rows: Iterable[Row]) -> Person | None:
    return next((person for person in map(Person.from_row, rows) if person.name == name), None)


def _exists(key: Key) -> ApiError:
    return ApiError(
        400, f"Can't create {key}: there is one already (names differ in more than trailing blanks)"
    )
