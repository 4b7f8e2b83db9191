"""The statements on the journal, on a real MariaDB."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from dome_bridge.dpm.source import Source
from dome_bridge.exporter.journal import (
    CHUNK,
    CREATE_JOURNAL,
    JOURNAL_TABLE,
    Journal,
    JournalKind,
    JournalRow,
)
from tests.fixtures.databases import DpmSite
from tests.fixtures.source import dpm_config, writer

INSERT = f"INSERT INTO {JOURNAL_TABLE} (seq, kind, fileid, op) VALUES "


@pytest.fixture
async def source(dpm_site: DpmSite) -> AsyncIterator[Source]:
    async with await Source.connect(dpm_config(dpm_site)) as source:
        await source.execute(CREATE_JOURNAL.format(cns=source.cns))
        yield source


@pytest.fixture
def journal(source: Source) -> Journal:
    return Journal(source)


async def test_batch_has_the_lowest_numbers_in_order(source: Source, journal: Journal) -> None:
    await source.execute(INSERT + "(30, 1, 7, 'U'), (10, 2, 8, 'I'), (20, 10, 0, 'D')")
    assert await journal.read_batch(2) == [
        JournalRow(10, JournalKind.REPLICA, 8, "I", 0, None),
        JournalRow(20, JournalKind.USERS, 0, "D", 0, None),
    ]


async def test_only_the_given_rows_are_deleted(source: Source, journal: Journal) -> None:
    await source.execute(INSERT + "(1, 1, 7, 'U'), (2, 1, 7, 'U'), (3, 1, 7, 'U')")
    assert await journal.delete([3, 1, 99]) == 2
    assert [row.seq for row in await journal.read_batch(10)] == [2]


async def test_deleting_nothing_is_no_statement(journal: Journal) -> None:
    assert await journal.delete([]) == 0


async def test_many_rows_are_deleted_in_chunks(source: Source, journal: Journal) -> None:
    count = 2 * CHUNK + 7
    await source.execute(INSERT + ",".join(f"({seq}, 1, {seq}, 'U')" for seq in range(1, count + 1)))
    rows = await journal.read_batch(count)
    assert await journal.delete(row.seq for row in rows) == count


async def test_delete_waits_for_no_writer(source: Source, journal: Journal, dpm_site: DpmSite) -> None:
    await source.execute(INSERT + ",".join(f"({seq}, 1, {seq}, 'U')" for seq in range(1, 20, 2)))
    await source.execute("SET SESSION innodb_lock_wait_timeout = 1")
    async with writer(dpm_site, autocommit=False) as cursor:
        await cursor.execute(INSERT + "(4, 1, 4, 'U'), (100, 1, 100, 'U')")
        assert await journal.delete(range(1, 20, 2)) == 10


async def test_writer_waits_for_no_delete(source: Source, journal: Journal, dpm_site: DpmSite) -> None:
    await source.execute(INSERT + ",".join(f"({seq}, 1, {seq}, 'U')" for seq in range(1, 20, 2)))
    async with writer(dpm_site) as cursor:
        await cursor.execute("SET SESSION innodb_lock_wait_timeout = 1")
        await source.execute("BEGIN")
        await journal.delete(range(1, 20, 2))
        await cursor.execute(INSERT + "(4, 1, 4, 'U'), (100, 1, 100, 'U')")
        await source.execute("COMMIT")


async def test_late_commit_appears_below_what_was_read(
    source: Source, journal: Journal, dpm_site: DpmSite
) -> None:
    async with writer(dpm_site, autocommit=False) as cursor:
        await cursor.execute(INSERT + "(5, 1, 50, 'U')")
        await source.execute(INSERT + "(6, 1, 60, 'U')")
        first = await journal.read_batch(10)
        await cursor.execute("COMMIT")
        await journal.delete(row.seq for row in first)
    assert [row.fileid for row in first] == [60]
    assert [row.fileid for row in await journal.read_batch(10)] == [50]


async def test_heartbeat_has_the_servers_clock(journal: Journal) -> None:
    before = time.time()
    await journal.write_heartbeat()
    [row] = await journal.read_batch(10)
    assert (row.kind, row.op) == (JournalKind.HEARTBEAT, "-")
    assert before - 2 <= row.at <= time.time() + 2


async def test_marker_keeps_its_nonce(journal: Journal) -> None:
    await journal.write_marker(b"\0\xff'\\")
    [row] = await journal.read_batch(10)
    assert (row.kind, row.op, row.nonce) == (JournalKind.MARKER, "-", b"\0\xff'\\")


@pytest.mark.parametrize("nonce", [b"", b"x" * 65])
async def test_nonce_that_does_not_fit_is_refused(journal: Journal, nonce: bytes) -> None:
    with pytest.raises(ValueError, match="1 to 64 bytes"):
        await journal.write_marker(nonce)


async def test_backlog_counts_changes_only_and_no_further_than_asked(
    source: Source, journal: Journal
) -> None:
    assert await journal.backlog() == 0
    await source.execute(INSERT + "(1, 1, 7, 'U'), (2, 14, 0, 'U'), (3, 3, 7, 'D')")
    await journal.write_heartbeat()
    await journal.write_marker(b"m")
    assert await journal.backlog() == 3
    assert await journal.backlog(limit=2) == 2


async def test_pending_rows_of_entries_are_found(source: Source, journal: Journal) -> None:
    await source.execute(INSERT + "(1, 1, 7, 'U'), (2, 2, 8, 'U'), (3, 3, 7, 'D'), (4, 10, 0, 'U')")
    await journal.write_heartbeat()
    assert [row.seq for row in await journal.pending([7, 0])] == [1, 3]
    assert await journal.pending([]) == []


async def test_old_heartbeats_are_pruned_and_changes_kept(source: Source, journal: Journal) -> None:
    await source.execute(
        f"INSERT INTO {JOURNAL_TABLE} (kind, op, at) VALUES (20, '-', UNIX_TIMESTAMP() - 100)"
    )
    await source.execute(INSERT + "(50, 1, 7, 'U')")
    await journal.write_heartbeat()
    assert await journal.prune_heartbeats(60) == 1
    assert [row.kind for row in await journal.read_batch(10)] == [JournalKind.METADATA, JournalKind.HEARTBEAT]
