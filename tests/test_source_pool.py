"""The pool of connections: who gets one, what is done again, and what never is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pymysql
import pytest
from pymysql.constants import ER

from dome_bridge.dpm.pool import ConnectionPool
from dome_bridge.dpm.source import ConnectionLostError, Source, StatementError
from dome_bridge.errors import StateError
from sandbox.proxy import FaultyProxy
from sandbox.servers import MariaServer
from tests.fixtures.command import until
from tests.fixtures.databases import DpmSite
from tests.fixtures.source import dpm_config

USERS = "Cns_userinfo"


@pytest.fixture
async def pool(dpm_site: DpmSite) -> AsyncIterator[ConnectionPool]:
    made = ConnectionPool(dpm_config(dpm_site), 4)
    yield made
    await made.close()


def adding(name: str) -> str:
    return f"INSERT INTO {USERS} (userid, username, user_ca, banned) VALUES (7, '{name}', '', 0)"


async def count(source: Source) -> int:
    return int(await source.fetchval(f"SELECT COUNT(*) FROM {USERS}"))


async def connection_id(source: Source) -> int:
    return source.connection_id


async def test_connection_is_used_again(pool: ConnectionPool) -> None:
    first = await pool.read(connection_id)
    assert await pool.read(connection_id) == first


async def test_work_beyond_the_size_waits_for_a_connection(pool: ConnectionPool) -> None:
    in_use = most = 0

    async def work(source: Source) -> None:
        nonlocal in_use, most
        in_use += 1
        most = max(most, in_use)
        await source.fetchval("SELECT SLEEP(0.02)")
        in_use -= 1

    await asyncio.gather(*(pool.read(work) for _ in range(12)))
    assert most == 4


async def test_connection_killed_while_idle_is_replaced(pool: ConnectionPool, maria: MariaServer) -> None:
    await maria.execute(f"KILL {await pool.read(connection_id)}")
    assert await pool.read(count) == 0
    await maria.execute(f"KILL {await pool.read(connection_id)}")

    async def work(source: Source) -> int:
        await source.execute(adding("a"))
        return await count(source)

    assert await pool.transact(work) == 1


async def test_transaction_that_raises_leaves_nothing(pool: ConnectionPool) -> None:
    async def work(source: Source) -> None:
        await source.execute(adding("a"))
        raise StateError("enough")

    with pytest.raises(StateError):
        await pool.transact(work)
    assert await pool.read(count) == 0


async def test_transaction_that_is_cancelled_leaves_nothing(pool: ConnectionPool) -> None:
    begun = asyncio.Event()

    async def work(source: Source) -> None:
        await source.execute(adding("a"))
        begun.set()
        await source.fetchval("SELECT SLEEP(20)")

    task = asyncio.create_task(pool.transact(work))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await pool.read(count) == 0


async def test_loser_of_a_deadlock_is_done_again(pool: ConnectionPool) -> None:
    await pool.transact(lambda source: source.execute(adding("a")))
    await pool.transact(lambda source: source.execute(adding("b")))
    attempts = 0

    async def both(first: str, second: str) -> None:
        async def work(source: Source) -> None:
            nonlocal attempts
            attempts += 1
            await source.execute(f"UPDATE {USERS} SET userid = userid + 1 WHERE username = '{first}'")
            if attempts < 3:
                await asyncio.sleep(0.1)
            await source.execute(f"UPDATE {USERS} SET userid = userid + 1 WHERE username = '{second}'")

        await pool.transact(work)

    await asyncio.gather(both("a", "b"), both("b", "a"))
    assert attempts == 3
    assert await pool.read(lambda source: source.fetch(f"SELECT userid FROM {USERS}")) == [(9,), (9,)]


async def test_transaction_that_keeps_losing_fails_with_its_own_error(dpm_site: DpmSite) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def work(source: Source) -> None:
        raise StatementError("deadlock found", ER.LOCK_DEADLOCK)

    pool = ConnectionPool(dpm_config(dpm_site), 1, sleep=sleep)
    with pytest.raises(StatementError, match="deadlock found"):
        await pool.transact(work)
    await pool.close()
    assert len(pauses) > 5
    assert sum(pauses) < 2


async def test_reading_goes_on_while_all_transactions_wait(pool: ConnectionPool, maria: MariaServer) -> None:
    release = asyncio.Event()
    waiting = 0

    async def work(source: Source) -> None:
        nonlocal waiting
        waiting += 1
        await release.wait()

    pool = ConnectionPool(pool._dpm, 4)
    writers = [asyncio.create_task(pool.transact(work)) for _ in range(12)]
    await until(lambda: waiting == 3, 5, "all that may have begun")
    assert await asyncio.wait_for(pool.read(count), 5) == 0
    assert waiting == 3
    release.set()
    await asyncio.gather(*writers)
    await pool.close()


async def test_row_that_changed_since_the_first_read_can_be_locked_on_new_servers(
    pool: ConnectionPool, maria: MariaServer
) -> None:
    """MariaDB 11.6.2 and later refuse that unless they are told otherwise."""
    await pool.transact(lambda source: source.execute(adding("a")))
    changed = False

    async def work(source: Source) -> None:
        nonlocal changed
        await count(source)
        if not changed:
            await pool.read(lambda other: other.execute(f"UPDATE {USERS} SET userid = 8"))
            changed = True
        await source.fetch(f"SELECT * FROM {USERS} WHERE username = 'a' FOR UPDATE")
        await source.execute(f"UPDATE {USERS} SET userid = userid + 1")

    try:
        await maria.execute("SET GLOBAL innodb_snapshot_isolation = 1")
    except pymysql.err.OperationalError as exc:
        pytest.skip(f"this server has no such switch: {exc}")
    try:
        fresh = ConnectionPool(pool._dpm, 2)
        await fresh.transact(work)
        await fresh.close()
    finally:
        await maria.execute("SET GLOBAL innodb_snapshot_isolation = 0")
    assert await pool.read(lambda source: source.fetch(f"SELECT userid FROM {USERS}")) == [(9,)]


async def test_transaction_cut_before_its_commit_is_done_again(
    pool: ConnectionPool, maria: MariaServer
) -> None:
    attempts = 0

    async def work(source: Source) -> None:
        nonlocal attempts
        attempts += 1
        await source.execute(adding("a"))
        if attempts == 1:
            await maria.execute(f"KILL {source.connection_id}")
        await source.execute(f"UPDATE {USERS} SET userid = 8")

    await pool.transact(work)
    assert attempts == 2
    assert await pool.read(count) == 1


async def test_transaction_cut_in_its_commit_is_not_done_again(dpm_site: DpmSite) -> None:
    attempts = 0
    async with FaultyProxy(dpm_site.host, dpm_site.port) as proxy:
        config = replace(dpm_config(dpm_site), host=proxy.host, port=proxy.port, unix_socket="")
        pool = ConnectionPool(config, 1)

        async def work(source: Source) -> None:
            nonlocal attempts
            attempts += 1
            await source.execute(adding("a"))
            proxy.delay = 0.3
            asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(proxy.cut()))

        with pytest.raises(ConnectionLostError):
            await pool.transact(work)
        await pool.close()
    assert attempts == 1


async def test_server_out_of_reach_is_told_and_not_waited_for(dpm_site: DpmSite) -> None:
    async with FaultyProxy(dpm_site.host, dpm_site.port) as proxy:
        config = replace(dpm_config(dpm_site), host=proxy.host, port=proxy.port, unix_socket="")
        pool = ConnectionPool(config, 2)
        assert await pool.read(count) == 0
        await proxy.stop()
        for work in (pool.read, pool.transact):
            with pytest.raises(ConnectionLostError):
                await work(count)
        await proxy.heal()
        assert await pool.read(count) == 0
        await pool.close()


async def test_connection_given_back_after_the_close_is_closed(dpm_site: DpmSite) -> None:
    pool = ConnectionPool(dpm_config(dpm_site), 1)
    async with pool.connection() as source:
        await pool.close()
        assert not source.is_closed
    assert source.is_closed
