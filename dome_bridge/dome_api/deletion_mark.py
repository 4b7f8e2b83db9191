"""What stands on a replica while it is being deleted, so that nobody has to remember it.

The status D alone may have been written by anybody; with the mark in its attributes it is ours. The
mark tells enough to bring the deletion to its end, by another process and without the client.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from dome_bridge.dome_api.catalog import Replica
from dome_bridge.dome_api.request import RemoteUser
from dome_bridge.dome_api.wire import Tree
from dome_bridge.dpm import xattr
from dome_bridge.dpm.xattr import XattrError

MARK = xattr.DELETION_MARK
"""The key of the mark in a replica's xattr; clients cannot set it."""

BEING_DELETED = "D"
BEING_POPULATED = "P"

MAX_XATTR_BYTES = 1022
"""DPM's own readers cut longer texts, which then do not parse."""

_MARK = re.compile(r"(unlink|delreplica),(.?),([0-9]{1,12}),([0-9a-f]+)", re.DOTALL)


class Deletion(StrEnum):
    """What was asked for; it decides which space is given back."""

    UNLINK = "unlink"
    DELREPLICA = "delreplica"


@dataclass(frozen=True, slots=True)
class Mark:
    """What is written to a replica. status: before; since: Unix time; attempt: a name of its own."""

    deletion: Deletion
    status: str
    since: int
    attempt: str

    @classmethod
    def of(cls, replica: Replica) -> Mark | None:
        """None for a replica that is not being deleted, or not by us."""
        if replica.status != BEING_DELETED or MARK.encode() not in replica.xattr_text:
            return None
        try:
            text = replica.attributes.get(MARK)
        except XattrError:
            return None
        found = _MARK.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            return None
        deletion, status, since, attempt = found.groups()
        return cls(Deletion(deletion), status, int(since), attempt)

    def __str__(self) -> str:
        return f"{self.deletion},{self.status},{self.since},{self.attempt}"

    def written_into(self, xattr_text: bytes) -> bytes:
        """The attributes with the mark; the mark alone where they leave no room or cannot be read."""
        try:
            text = xattr.serialise({**xattr.parse(xattr_text), MARK: str(self)})
        except (XattrError, RecursionError):
            text = b""
        if 0 < len(text) <= MAX_XATTR_BYTES:
            return text
        return xattr.serialise({MARK: str(self)})


@dataclass(frozen=True, slots=True)
class Doomed:
    """A replica that is to be deleted. replica: as it was before, perhaps with another's mark."""

    replica: Replica
    mark: Mark

    @classmethod
    def by(cls, attempt: Attempt, replica: Replica) -> Doomed:
        """An unlink that is under way stays one, as its file will go in any case."""
        earlier = Mark.of(replica)
        if earlier is None:
            return cls(replica, Mark(attempt.deletion, replica.status, attempt.since, attempt.name))
        is_unlink = Deletion.UNLINK in (earlier.deletion, attempt.deletion)
        deletion = Deletion.UNLINK if is_unlink else Deletion.DELREPLICA
        return cls(replica, Mark(deletion, earlier.status, attempt.since, attempt.name))

    def over(self, refused: Doomed) -> Doomed:
        """To be given back as it was before an attempt that was certainly refused had marked it."""
        before = refused.replica
        replica = replace(self.replica, status=before.status, xattr_text=before.xattr_text)
        return replace(self, replica=replica)

    @property
    def counts_in_directories(self) -> bool:
        """An upload's size is added when it is done. DOME's unlink does not look, so its sizes drift."""
        return self.mark.status != BEING_POPULATED

    @property
    def token(self) -> str:
        """The quotatoken that gets its space back: DOME's unlink gives back none."""
        is_charged = self.mark.deletion is Deletion.DELREPLICA and self.mark.status != BEING_POPULATED
        return self.replica.setname if is_charged else ""


@dataclass(frozen=True)
class Attempt:
    """Somebody's wish to delete. name: no other attempt has it. body: of the client, for the disk."""

    deletion: Deletion
    user: RemoteUser
    body: Mapping[str, Tree] | None = None
    since: int = field(default_factory=lambda: int(time.time()))
    name: str = field(default_factory=lambda: secrets.token_hex(4))
