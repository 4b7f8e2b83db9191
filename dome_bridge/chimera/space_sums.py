"""What reservations and link groups add up to; the same that the space manager's triggers would leave.

A reservation of size S with u bytes of files has grown to max(S, u), and S - u of it is reserved
in its link group. A link group has available what is free and not reserved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Reserved:
    """A reservation: bytes of the whole, and of the files in it."""

    size: int
    used: int = 0

    @property
    def rest(self) -> int:
        return self.size - self.used


@dataclass(frozen=True)
class LinkGroupSums:
    """In bytes. lacking: what is reserved beyond what is free; 0 where that is not known."""

    reserved: int
    available: int
    lacking: int = 0


def grown(size: int, used: int) -> Reserved:
    """A reservation is never smaller than what is in it."""
    return Reserved(max(size, used), used)


def sums(reservations: Mapping[int, Reserved], free: int | None) -> LinkGroupSums:
    """Of one link group. free: None if nobody could be asked; the space manager finds it out itself."""
    reserved = sum(reservation.rest for reservation in reservations.values())
    if free is None:
        return LinkGroupSums(reserved, 0)
    return LinkGroupSums(reserved, free - reserved, max(0, reserved - free))


def shrunk(reservations: Mapping[int, Reserved], free: int) -> dict[int, Reserved]:
    """With unused parts that fit into what is free, each by the same share."""
    reserved = sum(reservation.rest for reservation in reservations.values())
    if reserved <= free:
        return dict(reservations)
    return {
        number: Reserved(each.used + each.rest * max(free, 0) // reserved, each.used)
        for number, each in reservations.items()
    }
