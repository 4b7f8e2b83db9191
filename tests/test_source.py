"""The connection to DPM's database server, on a real MariaDB."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from dome_bridge.dpm.source import (
    AccessError,
    ConnectionLostError,
    MissingDatabaseError,
    Source,
    StatementError,
    is_lost,
    literal,
    parse_version,
)
from dome_bridge.errors import PrivilegeError, SchemaError, SourceError
from sandbox.servers import MariaServer, free_port
from tests.fixtures.databases import DpmSite
from tests.fixtures.source import dpm_config

METADATA = "Cns_file_metadata"
ALL_BYTES = bytes(range(256))[1:]


@pytest.fixture
async def source(dpm_site: DpmSite) -> AsyncIterator[Source]:
    async with await Source.connect(dpm_config(dpm_site)) as source:
        yield source


async def add_entry(source: Source, fileid: int, name: bytes, acl: bytes = b"") -> None:
    await source.execute(
        f"INSERT INTO {METADATA} (fileid, parent_fileid, name, acl) VALUES (%s, 1, %s, %s)",
        (fileid, name, acl),
    )


@pytest.mark.parametrize(
    ("value", "sql"),
    [
        (None, b"NULL"),
        (True, b"1"),
        (-5, b"-5"),
        (1.5, b"1.5"),
        (Decimal("1.10"), b"1.10"),
        (b"a'\\", b"x'61275c'"),
        ("é", b"x'c3a9'"),
        (b"", b"x''"),
        ([1, b"a"], b"(1,x'61')"),
        ({7}, b"(7)"),
    ],
)
def test_parameter_becomes_literal(value: object, sql: bytes) -> None:
    assert literal(value) == sql


def test_parameter_of_unknown_type_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        literal(object())


def test_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        literal([])


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("5.5.68-MariaDB", (5, 5, 68)),
        ("10.11.19-MariaDB-0+deb12u1", (10, 11, 19)),
        ("8.0.36", (8, 0, 36)),
        ("8.4.2-log", (8, 4, 2)),
        ("unknown", ()),
    ],
)
def test_server_version_is_parsed(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


async def test_connection_knows_its_server(source: Source, maria: MariaServer) -> None:
    [(version, packet)] = await maria.fetch("SELECT VERSION(), @@max_allowed_packet")
    assert source.server_version == parse_version(version)
    assert source.is_mariadb == ("MariaDB" in version)
    assert source.max_allowed_packet == packet
    assert source.connection_id == await source.fetchval("SELECT CONNECTION_ID()")


async def test_session_is_prepared_and_sql_mode_left_alone(source: Source, maria: MariaServer) -> None:
    row = await source.fetchrow(
        "SELECT @@autocommit, @@character_set_client, @@character_set_results, @@collation_connection, "
        "@@tx_isolation, @@group_concat_max_len, @@sql_mode"
    )
    assert row is not None
    assert row[:3] == (1, b"latin1", None)
    assert row[3:5] == (b"latin1_bin", b"REPEATABLE-READ")
    assert row[5] >= 64 * 1024 * 1024
    assert row[6].decode() == (await maria.fetch("SELECT @@GLOBAL.sql_mode"))[0][0]


async def test_every_byte_survives_the_way_in_and_out(source: Source) -> None:
    await add_entry(source, 2, ALL_BYTES, b"\0" + ALL_BYTES)
    sql = f"SELECT name, acl, HEX(name) FROM {METADATA} WHERE name = %s"
    assert await source.fetch(sql, (ALL_BYTES,)) == [
        (ALL_BYTES, b"\0" + ALL_BYTES, ALL_BYTES.hex().upper().encode())
    ]


@pytest.mark.parametrize("charset", ["latin1", "utf8mb4"])
async def test_bytes_survive_in_a_table_of_any_character_set(source: Source, charset: str) -> None:
    await source.execute(f"CREATE TABLE t (name VARCHAR(50) BINARY) CHARACTER SET {charset}")
    await source.execute("INSERT INTO t VALUES (%s)", ("Zürich",))
    assert await source.fetchval("SELECT name FROM t WHERE name = %s", ("Zürich",)) == "Zürich".encode()


async def test_types_of_columns(source: Source) -> None:
    row = await source.fetchrow(
        "SELECT 1, 18446744073709551615, SUM(3), 1.50, 2e0, NULL, 'a', DATE('2020-01-02')"
    )
    assert row == (1, 2**64 - 1, 3, Decimal("1.50"), 2.0, None, b"a", b"2020-01-02")


async def test_percent_sign_is_plain_without_parameters_and_doubled_with_them(source: Source) -> None:
    assert await source.fetchval("SELECT 'ab' LIKE 'a%'") == 1
    assert await source.fetchval("SELECT %s LIKE 'a%%'", ("ab",)) == 1


@pytest.mark.parametrize(
    ("condition", "args", "index"),
    [
        ("parent_fileid = 1 AND name = %s", (b"n17",), b"file_full_id"),
        ("parent_fileid = 1 AND name IN %s", ((b"n17", b"n18", b"n19"),), b"file_full_id"),
        ("parent_fileid = 1 AND name > %s", (b"n2999",), b"file_full_id"),
        ("guid = %s", ("0" * 36,), b"file_guid"),
        ("fileid IN %s", ((5, 6, 7),), b"pk_fileid"),
    ],
)
async def test_index_is_used_for_bytes(
    source: Source, condition: str, args: tuple[object, ...], index: bytes
) -> None:
    await source.execute(
        f"INSERT INTO {METADATA} (fileid, parent_fileid, name) VALUES "
        + ",".join(f"({number}, 1, 'n{number}')" for number in range(2, 3001))
    )
    await source.fetch(f"ANALYZE TABLE {METADATA}")
    [plan] = await source.fetch(f"EXPLAIN SELECT acl FROM {METADATA} WHERE {condition}", args)
    assert plan[5] == index or plan[9] == b"Impossible WHERE noticed after reading const tables"
    assert plan[3] in (b"const", b"ref", b"range", None)


async def test_one_value_of_tens_of_megabytes_comes_whole(source: Source) -> None:
    value = await source.fetchval(
        "SELECT GROUP_CONCAT(REPEAT('x', 1000000), %s SEPARATOR '') FROM "
        "(SELECT COLUMN_NAME FROM information_schema.COLUMNS LIMIT 40) AS forty",
        (b"\xff",),
    )
    assert value == (b"x" * 1_000_000 + b"\xff") * 40


async def test_group_concat_that_the_server_cut_is_an_error(source: Source) -> None:
    with pytest.raises(StatementError, match="max_allowed_packet") as info:
        await source.fetch(
            "SELECT GROUP_CONCAT(REPEAT('x', 1000000)) FROM "
            "(SELECT COLUMN_NAME FROM information_schema.COLUMNS LIMIT 100) AS hundred"
        )
    assert info.value.number == 1260
    assert await source.fetchval("SELECT 1") == 1


async def test_execute_returns_changed_rows(source: Source) -> None:
    await add_entry(source, 2, b"a")
    update = f"UPDATE {METADATA} SET nlink = 1 WHERE fileid = 2"
    assert [await source.execute(update), await source.execute(update)] == [1, 0]


async def test_absent_row_is_none(source: Source) -> None:
    assert await source.fetchrow("SELECT 1 FROM schema_version WHERE major = 99") is None
    assert await source.fetchval("SELECT 1 FROM schema_version WHERE major = 99") is None


async def test_snapshot_shows_one_state_of_both_databases(source: Source, dpm_site: DpmSite) -> None:
    count_pools = f"SELECT COUNT(*) FROM {source.dpm}.dpm_pool"
    async with await Source.connect(dpm_config(dpm_site)) as other, source.snapshot():
        await add_entry(other, 2, b"late")
        await other.execute(f"INSERT INTO {other.dpm}.dpm_pool (poolname) VALUES ('late')")
        assert await source.fetchval(f"SELECT COUNT(*) FROM {METADATA}") == 1
        assert await source.fetchval(count_pools) == 0
    assert await source.fetchval(f"SELECT COUNT(*) FROM {METADATA}") == 2
    assert await source.fetchval(count_pools) == 1


async def test_failed_snapshot_leaves_no_transaction(source: Source) -> None:
    with pytest.raises(StatementError):
        async with source.snapshot():
            await source.fetch("SELECT nothing FROM nowhere")
    assert await source.fetchval("SELECT @@in_transaction") == 0


async def test_statements_of_several_tasks_queue(source: Source) -> None:
    answers = await asyncio.gather(*(source.fetchval("SELECT %s", (number,)) for number in range(20)))
    assert answers == list(range(20))


async def test_refused_statement_names_it_and_leaves_the_connection_usable(source: Source) -> None:
    with pytest.raises(StatementError, match="SELECT nothing FROM nowhere") as info:
        await source.fetch("SELECT nothing FROM nowhere WHERE 1 = %s", (b"secret",))
    assert info.value.number == 1146
    assert not is_lost(info.value)
    assert "\n" not in str(info.value)
    assert b"secret".hex() not in str(info.value)
    assert await source.fetchval("SELECT 1") == 1


async def test_timeout_closes_the_connection(source: Source) -> None:
    with pytest.raises(ConnectionLostError, match=r"within 0\.1 s for: SELECT SLEEP") as info:
        await source.fetch("SELECT SLEEP(30)", timeout=0.1)
    assert is_lost(info.value)
    assert source.is_closed
    with pytest.raises(ConnectionLostError):
        await source.fetch("SELECT 1")


async def test_cancellation_inside_a_statement_closes_the_connection(source: Source) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await source.fetch("SELECT SLEEP(30)")
    assert source.is_closed


async def test_cancellation_while_queueing_leaves_the_connection_open(source: Source) -> None:
    slow = asyncio.create_task(source.fetchval("SELECT SLEEP(0.3)"))
    await asyncio.sleep(0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await source.fetch("SELECT 1")
    assert await slow == 0
    assert not source.is_closed


async def test_connection_killed_by_an_administrator_is_lost(source: Source, maria: MariaServer) -> None:
    await maria.execute(f"KILL {source.connection_id}")
    with pytest.raises(ConnectionLostError) as info:
        await source.fetch("SELECT 1")
    assert is_lost(info.value)
    assert source.is_closed


async def test_server_killed_inside_a_statement_is_lost(dpm_site: DpmSite, mortal_maria: MariaServer) -> None:
    source = await Source.connect(dpm_config(dpm_site))
    slow = asyncio.create_task(source.fetch("SELECT SLEEP(30)"))
    await asyncio.sleep(0.1)
    await mortal_maria.kill()
    with pytest.raises(ConnectionLostError):
        await slow
    with pytest.raises(ConnectionLostError, match="cannot connect"):
        await Source.connect(dpm_config(dpm_site))
    await mortal_maria.start()
    async with await Source.connect(dpm_config(dpm_site)) as source:
        assert await source.fetchval("SELECT 1") == 1


async def test_closing_twice_is_harmless(source: Source) -> None:
    await source.close()
    await source.close()
    assert source.is_closed


@pytest.mark.parametrize(
    ("changes", "kind", "base", "number", "words"),
    [
        (
            {"unix_socket": "/nonexistent/sql.sock"},
            ConnectionLostError,
            SourceError,
            2003,
            ["/nonexistent/sql.sock", "[dpm] unix_socket"],
        ),
        (
            {"unix_socket": "", "host": "127.0.0.1", "port": free_port()},
            ConnectionLostError,
            SourceError,
            2003,
            ["127.0.0.1:", "[dpm] host and port"],
        ),
        (
            {"unix_socket": "", "host": "no-such-host.invalid"},
            ConnectionLostError,
            SourceError,
            2003,
            ["no-such-host.invalid"],
        ),
        ({"password": "wröng€"}, AccessError, PrivilegeError, 1045, ["'dpmmgr'", "[dpm] password"]),
        (
            {"admin_user": "nobody", "admin_password": "x"},
            AccessError,
            PrivilegeError,
            1045,
            ["'nobody'", "[dpm] admin_password"],
        ),
        ({"dpm_db": "forgotten"}, AccessError, PrivilegeError, 1044, ["'forgotten'", "[dpm] dpm_db"]),
    ],
)
async def test_failed_connection_says_what_to_do(
    dpm_site: DpmSite,
    changes: dict[str, Any],
    kind: type[Exception],
    base: type[Exception],
    number: int,
    words: list[str],
) -> None:
    with pytest.raises(kind) as info:
        await Source.connect(dpm_config(dpm_site, **changes), admin=True)
    message = str(info.value)
    assert isinstance(info.value, base)
    assert getattr(info.value, "number", None) == number
    assert all(word in message for word in words), message
    assert "wröng€" not in message
    assert "\n" not in message


async def test_missing_database_is_named_with_its_key(dpm_site: DpmSite, maria: MariaServer) -> None:
    config = dpm_config(
        dpm_site, cns_db="forgotten", admin_user=maria.admin_user, admin_password=maria.admin_password
    )
    with pytest.raises(MissingDatabaseError, match=r"'forgotten'.*\[dpm\] cns_db") as info:
        await Source.connect(config, admin=True)
    assert isinstance(info.value, SchemaError)
    assert info.value.number == 1049


async def test_deaf_server_is_out_of_time(dpm_site: DpmSite) -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        config = dpm_config(dpm_site, unix_socket="", host="127.0.0.1", port=port)
        with pytest.raises(ConnectionLostError, match=r"within 0\.2 s"):
            await Source.connect(config, timeout=0.2)


async def test_server_of_another_kind_is_refused(dpm_site: DpmSite) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        config = dpm_config(dpm_site, unix_socket="", host="127.0.0.1", port=port)
        with pytest.raises(SourceError, match=f"127.0.0.1:{port}"):
            await Source.connect(config, timeout=5.0)


async def test_password_of_any_script_is_sent_as_utf8(dpm_site: DpmSite, maria: MariaServer) -> None:
    await maria.execute("CREATE USER 'zoe'@'localhost' IDENTIFIED BY 'pässword€'", database=None)
    try:
        await maria.execute(f"GRANT SELECT ON `{dpm_site.cns}`.* TO 'zoe'@'localhost'")
        await maria.execute(f"GRANT SELECT ON `{dpm_site.dpm}`.* TO 'zoe'@'localhost'")
        config = dpm_config(dpm_site, user="zoe", password="pässword€")
        async with await Source.connect(config) as source:
            assert source.user == "zoe"
    finally:
        await maria.execute("DROP USER 'zoe'@'localhost'")
