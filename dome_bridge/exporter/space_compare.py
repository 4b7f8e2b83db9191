"""The space manager's database beside Chimera: files, sums, and what the triggers would have kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import asyncpg

from dome_bridge.chimera import spacemanager, stage, target
from dome_bridge.chimera.spacemanager import SQL
from dome_bridge.exporter.session import Session


class Sum(NamedTuple):
    """Files of a reservation, and their bytes."""

    files: int
    used: int


NOTHING = Sum(0, 0)


async def compare_spaces(session: Session) -> list[str]:
    """What differs, in words; empty if nothing does. Goes through all files on both sides.

    What the mirror has changed since the last load differs, of course: load first, or behind the fence.
    """
    sql = stage.fill("dome_bridge.chimera", "spaces.sql", session.site)
    async with (
        spacemanager.opened(session.config.spacemanager) as spaces,
        target.told("comparing the space manager's database"),
    ):
        wanted = _sums(await session.conn.fetch(sql["used"]))
        async with spaces.transaction(isolation="repeatable_read", readonly=True):
            found = _sums(await spaces.fetch(SQL["files"]))
            reservations = await spaces.fetch(SQL["reservations"])
            link_groups = await spaces.fetch(SQL["link_groups"])
    tagged = {row["id"] for row in await session.conn.fetch(sql["tagged"])}
    waiting = await session.conn.fetchval(sql["count_changes"])
    differences = [
        *_of_reservations(tagged, reservations),
        *_of_files(wanted, found),
        *_of_sums(found, reservations),
        *_of_link_groups(reservations, link_groups),
    ]
    if differences and waiting:
        differences.append(f"{waiting} files and directories have changed since the last load")
    return differences


def _sums(rows: list[asyncpg.Record]) -> dict[int, Sum]:
    return {row["id"]: Sum(row["files"], int(row["used"] or 0)) for row in rows}


def _of_reservations(tagged: set[int], reservations: list[asyncpg.Record]) -> Iterator[str]:
    found = {row["id"] for row in reservations}
    for number in sorted(tagged - found):
        yield f"reservation {number} is named by directories and does not exist"
    for number in sorted(found - tagged):
        yield f"reservation {number} exists and is named by no directory"


def _of_files(wanted: Mapping[int, Sum], found: Mapping[int, Sum]) -> Iterator[str]:
    for number in sorted(wanted.keys() | found.keys()):
        there, here = wanted.get(number, NOTHING), found.get(number, NOTHING)
        if there != here:
            yield (
                f"reservation {number}: Chimera has {there.files} files with {there.used} bytes, the space "
                f"manager {here.files} with {here.used}"
            )


def _of_sums(found: Mapping[int, Sum], reservations: list[asyncpg.Record]) -> Iterator[str]:
    for row in reservations:
        used = found.get(row["id"], NOTHING).used
        if row["used"] != used:
            yield f"reservation {row['id']}: {row['used']} bytes used, its files have {used}"
        if row["used"] + row["allocated"] > row["size"]:
            yield f"reservation {row['id']}: more is in it than its size of {row['size']} bytes"


def _of_link_groups(reservations: list[asyncpg.Record], link_groups: list[asyncpg.Record]) -> Iterator[str]:
    reserved: defaultdict[str, int] = defaultdict(int)
    for row in reservations:
        if row["state"] == 0:
            reserved[row["link_group"]] += row["size"] - row["used"]
    for row in link_groups:
        if row["reserved"] != reserved[row["name"]]:
            yield (
                f"link group {row['name']}: {row['reserved']} bytes reserved, its reservations have "
                f"{reserved[row['name']]} unused"
            )
