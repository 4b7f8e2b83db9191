"""Private, throw-away MariaDB and PostgreSQL servers for tests, demo and benchmarks.

Each server has its own temporary directory, Unix socket and loopback port, and runs as an
unprivileged account when we are root. Nothing of an installed system service is read or touched.
Servers can be killed and restarted on the same data: they never wait for the disk, but every
commit reaches the kernel, so what was committed survives SIGKILL (not a power cut).

    async with MariaServer() as maria, PostgresServer() as postgres: ...
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import aiomysql
import asyncpg

from sandbox import guardian

LOOPBACK = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 60.0
PORT_ATTEMPTS = 5
LONGEST_DIRECTORY = 80  # a socket path may have 107 bytes


class SandboxError(RuntimeError):
    """A private server cannot be found, started or used."""


class Account(NamedTuple):
    """Whom a server runs as; both None: as ourselves."""

    uid: int | None
    gid: int | None


def unprivileged_account(*preferred: str) -> Account:
    """The first account that exists, `nobody` last; ourselves when we are not root."""
    if os.geteuid() != 0:
        return Account(None, None)
    for name in (*preferred, "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise SandboxError("no unprivileged account to run a server as: create one, or do not run as root")


def find_program(names: Iterable[str], directories: Iterable[str], package: str) -> Path:
    """The first of the names in the directories or PATH."""
    search = os.pathsep.join([*directories, os.environ.get("PATH", os.defpath)])
    for name in names:
        if found := shutil.which(name, path=search):
            return Path(found)
    raise SandboxError(f"{' or '.join(names)} not found: install the system package {package}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def is_open_to_others(directory: Path) -> bool:
    """Whether another account may pass through the directory and all above it."""
    return all(path.stat().st_mode & 0o001 for path in (directory, *directory.parents))


def base_directory(account: Account) -> Path:
    """A temporary directory that is short enough for sockets and reachable for the account."""
    for candidate in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):
        short = len(os.fsencode(candidate)) < LONGEST_DIRECTORY - 16
        if candidate.is_dir() and short and (account.uid is None or is_open_to_others(candidate)):
            return candidate
    raise SandboxError("no short temporary directory that other accounts may enter: set TMPDIR to one")


class PrivateServer(ABC):
    """Life of one server process; what differs between the two kinds is in the subclasses."""

    kind: str
    accounts: tuple[str, ...]
    stop_signal: signal.Signals

    def __init__(self, *, base: Path | None = None) -> None:
        self.account = unprivileged_account(*self.accounts)
        self.host = LOOPBACK
        self.port = 0
        self.directory = Path()
        self.is_private = True
        self._base = base
        self._process: subprocess.Popen[bytes] | None = None
        self._guardian: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    async def start(self) -> None:
        """Create the data directory at the first call; return when the server answers."""
        if self.is_running or not self.is_private:
            return
        if self.port:
            await self._launch()
            return
        try:
            await asyncio.to_thread(self._create_directory)
            await asyncio.to_thread(self._initialise)
            await self._launch_on_free_port()
            await self._create_accounts()
        except BaseException:
            await self.close()
            raise

    async def stop(self) -> None:
        """End in order; the data stays for another start()."""
        await self._end(self.stop_signal)

    async def kill(self) -> None:
        """SIGKILL, as if the machine had crashed without losing its disk cache."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        """Start again on the same data, port and socket."""
        await self.stop()
        await self.start()

    async def close(self) -> None:
        """Kill the server and delete its directory."""
        if not self.is_private:
            return
        await self.kill()
        if self._guardian is not None:
            await asyncio.to_thread(self._guardian.communicate)
            self._guardian = None
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @abstractmethod
    def _initialise(self) -> None:
        """Create the data directory's content."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    async def _ping(self) -> None:
        """Raise unless the server takes an administrator's connection."""

    @abstractmethod
    async def _create_accounts(self) -> None: ...

    def _create_directory(self) -> None:
        base = self._base or base_directory(self.account)
        self.directory = Path(tempfile.mkdtemp(prefix="dbridge-", dir=base))
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        if self.account.uid is not None and self.account.gid is not None:
            os.chown(self.directory, self.account.uid, self.account.gid)

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "TZ", "LD_LIBRARY_PATH") if name in os.environ}
        # Installations side by side would take each other's temporary tables from a common directory.
        own = {"HOME": str(self.directory), "TMPDIR": str(self.directory), "LC_ALL": "C.UTF-8"}
        return kept | own

    def _spawn(self, command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=self.directory,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # an interrupt of the terminal is for us alone
            user=self.account.uid,
            group=self.account.gid,
            extra_groups=None if self.account.uid is None else [],
        )

    def _run(self, command: Sequence[str]) -> None:
        """Run a program of the server's package to its end, as the server's account."""
        with self.log.open("ab") as output:
            code = self._spawn(command, output).wait()
        if code:
            raise SandboxError(f"{self.kind}: {command[0]} ended with code {code}: {self._last_words()}")

    def _open_process(self) -> None:
        with self.log.open("ab") as output:
            self._process = self._spawn(self._command(), output)

    async def _launch_on_free_port(self) -> None:
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self.port = free_port()
            try:
                await self._launch()
            except SandboxError:
                if attempt == PORT_ATTEMPTS or not self._lost_port():
                    raise
            else:
                return

    def _lost_port(self) -> bool:
        """Whether someone took the port between our look and the server's."""
        return "address already in use" in self.log.read_text(errors="replace").lower()

    async def _launch(self) -> None:
        await asyncio.to_thread(self._open_process)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return await self._ping()
            except (OSError, aiomysql.Error, asyncpg.PostgresError) as error:
                reason = str(error)
            if not self.is_running:
                raise SandboxError(f"{self.kind} ended while starting: {self._last_words()}")
            if time.monotonic() > deadline:
                raise SandboxError(f"{self.kind} does not answer after {START_SECONDS:.0f} s: {reason}")
            await asyncio.sleep(0.03)

    async def _end(self, number: signal.Signals) -> None:
        if not self.is_private:
            raise SandboxError(f"{self.kind}: this server is not ours to stop")
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").split("\n")
        except OSError:
            return "it left no log"
        return " | ".join(line.strip() for line in lines[-8:] if line.strip())


class MariaServer(PrivateServer):
    """MariaDB with the account of DPM, `dpmmgr`, as a head node has it.

    Root has no password but can come through the socket only, and its directory is closed to others.
    """

    kind = "MariaDB"
    accounts = ("mysql",)
    stop_signal = signal.SIGTERM

    def __init__(self, *options: str, base: Path | None = None) -> None:
        """Options are arguments of the server, such as `--sql-mode=ANSI`."""
        super().__init__(base=base)
        self.options = options
        self.user, self.password = "dpmmgr", "dpm-secret"
        self.admin_user, self.admin_password = "root", ""
        self._socket = ""

    @classmethod
    def external(cls, url: str) -> MariaServer:
        """A server that runs already: `mysql://admin:password@host:port` or `...?unix_socket=PATH`.

        Its account `dpmmgr` is created, or given our password, at prepare_external().
        """
        parts = urlsplit(url)
        server = cls()
        server.is_private = False
        server.host, server.port = parts.hostname or "localhost", parts.port or 3306
        server.admin_user = unquote(parts.username or "root")
        server.admin_password = unquote(parts.password or "")
        server._socket = parse_qs(parts.query).get("unix_socket", [""])[0]
        return server

    async def prepare_external(self) -> None:
        if self._socket:  # the URL has no port then, but `dpmmgr` comes over TCP
            ((self.port,),) = await self.fetch("SELECT @@port")
            self.host = LOOPBACK
        await self._create_accounts()

    @property
    def unix_socket(self) -> str:
        """Path of the socket; empty when the server is reached over TCP only."""
        return str(self.directory / "sql.sock") if self.is_private else self._socket

    def _initialise(self) -> None:
        install = find_program(("mariadb-install-db", "mysql_install_db"), ("/usr/bin",), "mariadb-server")
        self._run(
            [
                str(install),
                "--no-defaults",
                f"--datadir={self.directory}/data",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ]
        )

    def _command(self) -> list[str]:
        places = ("/usr/sbin", "/usr/libexec", "/usr/local/sbin")
        return [
            str(find_program(("mariadbd", "mysqld"), places, "mariadb-server")),
            "--no-defaults",
            f"--datadir={self.directory}/data",
            f"--socket={self.unix_socket}",
            f"--port={self.port}",
            f"--pid-file={self.directory}/server.pid",
            f"--bind-address={LOOPBACK}",
            f"--tmpdir={self.directory}",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=128M",
            "--max-allowed-packet=64M",
            *self.options,
        ]

    async def _ping(self) -> None:
        async with self.connect():
            pass

    async def _create_accounts(self) -> None:
        statements = ["DROP USER IF EXISTS ''@'localhost'"] if self.is_private else []
        for host in ("localhost", LOOPBACK, "%"):
            account = f"'{self.user}'@'{host}'"
            statements.append(f"CREATE USER IF NOT EXISTS {account} IDENTIFIED BY '{self.password}'")
            statements.append(f"ALTER USER {account} IDENTIFIED BY '{self.password}'")
        statements.append("FLUSH PRIVILEGES")
        await self.run_sql(";\n".join(statements))
        await self.grant("cns_db", "dpm_db")

    async def grant(self, *databases: str, privileges: str = "ALL PRIVILEGES") -> None:
        """Give `dpmmgr` the privileges on each database, which need not exist yet."""
        await self._for_each_account("GRANT {privileges} ON `{name}`.* TO {account}", databases, privileges)

    async def revoke(self, *databases: str, privileges: str = "ALL PRIVILEGES") -> None:
        await self._for_each_account(
            "REVOKE {privileges} ON `{name}`.* FROM {account}", databases, privileges
        )

    async def _for_each_account(self, template: str, databases: Sequence[str], privileges: str) -> None:
        async with self.connect() as connection, connection.cursor() as cursor:
            for name in databases:
                for host in ("localhost", LOOPBACK, "%"):
                    account = f"'{self.user}'@'{host}'"
                    await cursor.execute(template.format(privileges=privileges, name=name, account=account))

    async def create_database(self, name: str, *, options: str = "") -> None:
        """Create a database and give `dpmmgr` all rights on it; options such as `CHARACTER SET latin1`."""
        await self.execute(f"CREATE DATABASE `{name}` {options}")
        await self.grant(name)

    async def drop_database(self, *names: str) -> None:
        """Drop what exists of the databases, and the rights of `dpmmgr` on them."""
        for name in names:
            await self.execute(f"DROP DATABASE IF EXISTS `{name}`")
            with contextlib.suppress(aiomysql.Error):
                await self.revoke(name)

    @contextlib.asynccontextmanager
    async def connect(
        self, database: str | None = None, *, as_dpmmgr: bool = False, **options: Any
    ) -> AsyncIterator[Any]:
        """An aiomysql connection with autocommit: of the administrator, or of `dpmmgr` over TCP."""
        user, password = (self.user, self.password) if as_dpmmgr else (self.admin_user, self.admin_password)
        connection = await aiomysql.connect(
            host=self.host,
            port=self.port,
            user=user,
            password=password,
            db=database,
            unix_socket=None if as_dpmmgr else self.unix_socket or None,
            autocommit=True,
            **options,
        )
        try:
            yield connection
        finally:
            connection.close()

    async def execute(
        self, sql: str, args: Sequence[object] | None = None, *, database: str | None = None
    ) -> int:
        """One statement of the administrator; returns the number of affected rows."""
        async with self.connect(database) as connection, connection.cursor() as cursor:
            return int(await cursor.execute(sql, args))

    async def fetch(
        self, sql: str, args: Sequence[object] | None = None, *, database: str | None = None
    ) -> list[tuple[Any, ...]]:
        async with self.connect(database) as connection, connection.cursor() as cursor:
            await cursor.execute(sql, args)
            return list(await cursor.fetchall())

    async def run_sql(self, text: str, database: str | None = None, *, charset: str = "utf8mb4") -> None:
        """A script through the client program: many statements, DELIMITER and the like are allowed."""
        await asyncio.to_thread(self._run_client, text, database, charset)

    def _run_client(self, text: str, database: str | None, charset: str) -> None:
        client = find_program(("mariadb", "mysql"), ("/usr/bin",), "mariadb-client")
        place = (
            [f"--socket={self.unix_socket}"]
            if self.unix_socket
            else [f"--host={self.host}", f"--port={self.port}", "--protocol=TCP"]
        )
        command = [str(client), "--no-defaults", *place, f"--user={self.admin_user}"]
        command += [f"--default-character-set={charset}", *([database] if database else [])]
        environment = self._environment() | {"MYSQL_PWD": self.admin_password}
        done = subprocess.run(command, input=text.encode(), capture_output=True, env=environment, check=False)
        if done.returncode:
            raise SandboxError(f"{self.kind}: script failed: {done.stderr.decode(errors='replace').strip()}")


class PostgresServer(PrivateServer):
    """PostgreSQL with dCache's role, `dcache`, which logs in over TCP with a password.

    Through the socket, in a directory closed to others, every role is trusted.
    """

    kind = "PostgreSQL"
    accounts = ("postgres",)
    stop_signal = signal.SIGINT

    def __init__(self, *, options: Mapping[str, str] | None = None, base: Path | None = None) -> None:
        """Options are settings of the server, such as `{"shared_buffers": "1GB"}`."""
        super().__init__(base=base)
        self.options = dict(options or {})
        self.user, self.password = "dcache", "dcache"
        self.admin_user, self.admin_password = "postgres", secrets.token_hex(16)
        self._socket_directory = ""

    @classmethod
    def external(cls, url: str) -> PostgresServer:
        """A server that runs already: `postgresql://admin:password@host:port` or `...?host=DIRECTORY`."""
        parts = urlsplit(url)
        server = cls()
        server.is_private = False
        query = parse_qs(parts.query)
        server.host = parts.hostname or "localhost"
        server.port = parts.port or int(query.get("port", ["5432"])[0])
        server.admin_user = unquote(parts.username or "postgres")
        server.admin_password = unquote(parts.password or "")
        server._socket_directory = query.get("host", [""])[0]
        return server

    async def prepare_external(self) -> None:
        await self._create_accounts()

    @property
    def socket_directory(self) -> str:
        """What libpq calls host; empty when the server is reached over TCP only."""
        return str(self.directory) if self.is_private else self._socket_directory

    def dsn(self, database: str, user: str = "dcache", *, unix_socket: bool = False) -> str:
        """A URL for asyncpg: over TCP with password, or through the socket without."""
        if unix_socket and self.socket_directory:
            query = urlencode({"host": self.socket_directory, "port": self.port})
            return f"postgresql://{quote(user)}@/{quote(database)}?{query}"
        password = self.admin_password if user == self.admin_user else self.password
        credentials = f"{quote(user)}:{quote(password, safe='')}"
        return f"postgresql://{credentials}@{self.host}:{self.port}/{quote(database)}"

    @contextlib.asynccontextmanager
    async def connect(self, database: str = "postgres", user: str = "") -> AsyncIterator[asyncpg.Connection]:
        """A connection of the administrator, or of another user."""
        connection = await asyncpg.connect(self.dsn(database, user or self.admin_user, unix_socket=True))
        try:
            yield connection
        finally:
            await connection.close()

    async def run_sql(self, text: str, database: str, user: str = "dcache") -> None:
        """Any number of statements, in one transaction unless they say otherwise."""
        async with self.connect(database, user) as connection:
            await connection.execute(text)

    async def create_database(self, name: str, template: str | None = None, *, owner: str = "dcache") -> None:
        """An empty database, or a copy of one that nobody is connected to."""
        source = f'TEMPLATE "{template}"' if template else "TEMPLATE template0 ENCODING 'UTF8'"
        async with self.connect() as connection:
            await connection.execute(f'CREATE DATABASE "{name}" OWNER "{owner}" {source}')

    async def drop_database(self, *names: str) -> None:
        """Drop what exists of the databases, ending connections to them."""
        async with self.connect() as connection:
            for name in names:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
                )
                force = " WITH (FORCE)" if connection.get_server_version().major >= 13 else ""
                await connection.execute(f'DROP DATABASE IF EXISTS "{name}"{force}')

    def _program(self, name: str) -> str:
        return str(find_program((name,), postgres_directories(), "postgresql"))

    def _initialise(self) -> None:
        self._run(
            [
                self._program("initdb"),
                f"--pgdata={self.directory}/data",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "--no-sync",
            ]
        )

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "password_encryption": "scram-sha-256",
            "max_wal_size": "2GB",
            "autovacuum_naptime": "10s",
        } | self.options
        command = [self._program("postgres"), "-D", f"{self.directory}/data"]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    async def _ping(self) -> None:
        async with self.connect():
            pass

    async def _create_accounts(self) -> None:
        async with self.connect() as connection:
            if self.is_private:
                await connection.execute(f"ALTER ROLE postgres PASSWORD '{self.admin_password}'")
            if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", self.user):
                await connection.execute(f'CREATE ROLE "{self.user}" LOGIN')
            await connection.execute(f"ALTER ROLE \"{self.user}\" LOGIN PASSWORD '{self.password}'")


def postgres_directories() -> list[str]:
    """Where distributions put the server's programs, newest version first."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    return [str(path) for path in sorted(found, key=_version, reverse=True)]


def _version(programs: Path) -> float:
    return float(re.sub(r"[^0-9.]", "", programs.parent.name) or 0)
