"""What differs between dCache's releases, as far as configuration is concerned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

OLDEST = (8, 2)
"""The oldest release that files are made for."""

NEWEST = (12, 0)
"""The newest one that was looked at; later ones are taken to be like it."""


@dataclass(frozen=True, order=True)
class Release:
    """`number`: such as (10, 2)."""

    number: tuple[int, int]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `[dcache] version`, whose form the settings have checked."""
        major, minor = text.split(".")
        return cls((int(major), int(minor)))

    def __str__(self) -> str:
        return ".".join(map(str, self.number))

    @property
    def is_supported(self) -> bool:
        return self.number >= OLDEST

    @property
    def is_known(self) -> bool:
        return OLDEST <= self.number <= NEWEST

    @property
    def cleaner(self) -> str:
        """The service that unlinks deleted files from the pools."""
        return "cleaner-disk" if self.number >= (9, 0) else "cleaner"

    @property
    def ban_file_may_keep_last_only(self) -> bool:
        """Of several bans of one type only the last counts in releases before dCache's change 7953, some of
        their patch releases have it.
        """
        return self.number < (11, 2)

    @property
    def java(self) -> int:
        """What the machine needs at least."""
        return 17 if self.number >= (10, 2) else 11
