"""What it costs to find out who somebody is: handshakes, certificates, tokens, signed requests.

The checks alone are measured in this process, as fast as one core does them. For the rest `dome-bridge run
--only api` serves a made-up site over TLS in a process of its own, and this process plays the clients. Both
share the machine, so beside each rate stands what the server itself has spent: its processor time.

    .venv/bin/python -m benchmarks.auth --seconds 2 --rounds 3
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import ssl
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import uvloop

from benchmarks.dome_api import CNS, DPM, HOME, furnish, print_table, until_up
from dome_bridge.auth import xrdhttp
from dome_bridge.auth.chain import X509Policy, evaluate
from dome_bridge.auth.signed import SignedRequests
from dome_bridge.auth.tokens import TokenVerifier
from dome_bridge.auth.trust import Trust, load_trust
from dome_bridge.auth.voms import membership
from dome_bridge.config import AuthConfig, IssuerConfig
from sandbox.catalog import create_schemas, make_site
from sandbox.issuer import SigningKey
from sandbox.pki import Authority, Credential, Key, TrustDirectory, ec_key, rsa_key
from sandbox.servers import MariaServer, free_port
from sandbox.site import SiteOptions
from sandbox.voms import VomsServer

HEAD = "head.example.org"
ISSUER = "https://issuer.example.org"
AUDIENCE = f"https://{HEAD}"
SECRET = "a key of more than thirty-two characters"
TARGET = "/domehead/command/dome_getstatinfo"
WARM_UP_SECONDS = 0.3
BATCH = 50
"""Verifications between two looks at the clock."""

CONFIG = """\
[dpm]
domehead_conf = ""
host = "{host}"
port = {port}
user = "{user}"
password_file = "{directory}/password"
[exporter]
enabled = false
[api]
enabled = true
host_names = ["{head}"]
[[api.listen]]
port = {api_port}
protocol = "https"
[api.tls]
certificate = "{tls}/hostcert.pem"
key = "{tls}/hostkey.pem"
ca_dir = "{directory}/certificates"
vomsdir = "{directory}/vomsdir"
[auth]
audience = ["{audience}"]
jwks_cache_dir = ""
gridmap_file = "{directory}/mapfile"
connections_per_source = 1000
[[auth.issuer]]
name = "bench"
issuer = "{issuer}"
base_path = "{home}"
jwks_uri = "{jwks}"
[monitoring]
port = {monitoring_port}
"""


@dataclass(frozen=True)
class Grid:
    """A CA, a VOMS server and a user, with the directories that a site has of them."""

    directory: Path
    ca: Authority
    user: Credential
    member: Credential
    """The user with a proxy that has VOMS attributes."""

    @classmethod
    def make(cls, directory: Path) -> Grid:
        ca = Authority.root(key=rsa_key(1))
        trust = TrustDirectory(directory / "certificates")
        trust.add(ca, crl=ca.crl())
        server = VomsServer(ca.host("voms.example.org", key=rsa_key(2)))
        server.publish(directory / "vomsdir")
        user = ca.user(key=rsa_key(3))
        return cls(directory, ca, user, server.proxy(user, "/dteam/Role=production", "/dteam"))

    def trust(self) -> Trust:
        return load_trust(self.directory / "certificates", self.directory / "vomsdir")

    def client(self, credential: Credential | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.load_verify_locations(cadata=self.ca.pem.decode())
        if credential is not None:
            context.load_cert_chain(credential.write(self.directory / f"client-{id(credential)}.pem"))
        return context


# In this process


def per_second(work: Callable[[], object], seconds: float) -> float:
    """By the processor time of this process, so that others on the machine do not count."""
    for _ in range(BATCH):
        work()
    began = time.process_time()
    for done in itertools.count(BATCH, BATCH):
        for _ in range(BATCH):
            work()
        spent = time.process_time() - began
        if spent > seconds:
            return done / spent
    raise AssertionError("it counts without end")


async def awaits_per_second(work: Callable[[], Awaitable[object]], seconds: float) -> float:
    for _ in range(BATCH):
        await work()
    began = time.process_time()
    for done in itertools.count(BATCH, BATCH):
        for _ in range(BATCH):
            await work()
        spent = time.process_time() - began
        if spent > seconds:
            return done / spent
    raise AssertionError("it counts without end")


def claims() -> dict[str, object]:
    now = int(time.time())
    return {
        "iss": ISSUER,
        "sub": "b9127a85-ada",
        "aud": AUDIENCE,
        "exp": now + 6 * 3600,
        "nbf": now,
        "iat": now,
        "jti": "0123456789abcdef",
        "wlcg.ver": "1.0",
        "scope": "storage.read:/ storage.create:/data storage.stage:/",
    }


def publish(directory: Path, *keys: SigningKey) -> str:
    """The URL of a file with the keys."""
    file = directory / "jwks.json"
    file.write_text(json.dumps({"keys": [key.jwk for key in keys]}))
    return file.as_uri()


Figures = dict[str, list[float]]
"""Of each case, a figure a round."""


async def verify_tokens(keys: Mapping[str, SigningKey], jwks: str, seconds: float, figures: Figures) -> None:
    issuer = IssuerConfig(name="bench", issuer=ISSUER, base_path=(HOME,), jwks_uri=jwks)
    auth = AuthConfig(audience=(AUDIENCE,), issuers=(issuer,), jwks_cache_dir=None)
    verifier = TokenVerifier(auth)
    await verifier.start()
    try:
        for alg, key in keys.items():
            token = key.token(claims())

            async def anew(token: str = token) -> None:
                verifier.forget()
                await verifier.verify(token)

            async def again(token: str = token) -> None:
                await verifier.verify(token)

            _add(figures, f"token {alg}, seen for the first time", await awaits_per_second(anew, seconds))
            _add(figures, f"token {alg}, remembered", await awaits_per_second(again, seconds))
    finally:
        await verifier.stop()


def verify_signed_requests(seconds: float, figures: Figures) -> None:
    signed = SignedRequests((SECRET,))
    now = int(time.time())
    query = xrdhttp.sign(SECRET, "GET", TARGET, now=now, host="127.0.0.1", dn=f"/CN={HEAD}")
    rate = per_second(lambda: signed.verify("GET", f"{TARGET}?{query}", "127.0.0.1", now), seconds)
    _add(figures, "XrdHttp request", rate)


def evaluate_chains(grid: Grid, seconds: float, figures: Figures) -> None:
    trust, policy, now = grid.trust(), X509Policy(), datetime.now(UTC)

    def judged(ders: Sequence[bytes]) -> object:
        path = evaluate(ders, trust, policy, now)
        return membership(path, trust, policy, (HEAD,), now)

    for name, credential in (("certificate", grid.user), ("proxy with VOMS", grid.member)):
        ders = tuple(credential.ders)
        _add(figures, f"chain, {name}", per_second(partial(judged, ders), seconds))


def _add(figures: Figures, case: str, figure: float) -> None:
    figures.setdefault(case, []).append(figure)


# Over TLS


class Server(NamedTuple):
    port: int
    pid: int

    @property
    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Rate(NamedTuple):
    """cost: processor time of the server for each, in milliseconds."""

    per_second: float
    cost: float


Rates = dict[tuple[str, int], list[Rate]]
"""By case and number of clients, one a round."""


@asynccontextmanager
async def serving(maria: MariaServer, grid: Grid, host_key: Key, jwks: str) -> AsyncIterator[Server]:
    port, directory = free_port(), grid.directory
    tls = directory / f"tls-{port}"
    tls.mkdir()
    grid.ca.host(HEAD, key=host_key).write_pair(tls)
    (directory / "password").touch(mode=0o600)
    (directory / "password").write_text(maria.password)
    (directory / "mapfile").touch()
    config = directory / "dome-bridge.toml"
    text = CONFIG.format(
        host=maria.host,
        port=maria.port,
        user=maria.user,
        directory=directory,
        head=HEAD,
        api_port=port,
        tls=tls,
        audience=AUDIENCE,
        issuer=ISSUER,
        home=HOME,
        jwks=jwks,
        monitoring_port=free_port(),
    )
    config.write_text(text)
    with (directory / "api.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dome_bridge", "--config", str(config), "run", "--only", "api"),
            stdout=log,
            stderr=log,
        )
    try:
        await until_up(port, process, directory / "api.log")
        yield Server(port, process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


Play = Callable[[], Awaitable[object]]


async def measure(server: Server, plays: Sequence[Play], seconds: float) -> Rate:
    """Each client plays by itself, again and again."""
    counted = 0
    warm_up = min(WARM_UP_SECONDS, seconds)
    end = time.perf_counter() + warm_up + seconds

    async def client(play: Play) -> None:
        nonlocal counted
        while (now := time.perf_counter()) < end:
            await play()
            counted += now > end - seconds

    clients = [asyncio.create_task(client(play)) for play in plays]
    await asyncio.sleep(warm_up)
    before, began = server.processor_seconds, time.perf_counter()
    await asyncio.gather(*clients)
    spent, processor = time.perf_counter() - began, server.processor_seconds - before
    return Rate(counted / spent, 1000 * processor / max(counted, 1))


def request_of(token: str = "") -> bytes:
    body = json.dumps({"lfn": f"{HOME}/d100/entry00042.root"})
    credential = f"Authorization: Bearer {token}\r\n" if token else ""
    head = f"GET {TARGET} HTTP/1.1\r\nHost: {HEAD}\r\n{credential}Content-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


INFO = f"GET /domehead/command/dome_info HTTP/1.1\r\nHost: {HEAD}\r\nContent-Length: 0\r\n\r\n".encode()


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, server: Server, tls: ssl.SSLContext) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", server.port, ssl=tls))

    async def ask(self, request: bytes) -> None:
        """Raises RuntimeError for any answer but 200."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await self._reader.readexactly(length)
        if int(head[9:12]) != 200:
            raise RuntimeError(f"{head.decode()}{body.decode()}")

    def close(self) -> None:
        self._writer.transport.abort()


def handshaking(server: Server, tls: ssl.SSLContext) -> Play:
    """A connection for one small request: in TLS 1.3 the client is checked after its own part."""

    async def play() -> None:
        client = await Client.connect(server, tls)
        await client.ask(INFO)
        client.close()

    return play


def asking(client: Client, request: bytes) -> Play:
    return partial(client.ask, request)


async def measure_handshakes(
    server: Server, grid: Grid, host: str, clients: Sequence[int], seconds: float, rates: Rates
) -> None:
    whose = {"nobody": None, "certificate": grid.user, "proxy with VOMS": grid.member}
    for name, credential in whose.items():
        tls = grid.client(credential)
        for number in clients:
            rate = await measure(server, [handshaking(server, tls)] * number, seconds)
            rates.setdefault((f"connection, {host} host key, {name}", number), []).append(rate)


async def measure_requests(
    server: Server, grid: Grid, token: str, clients: Sequence[int], seconds: float, rates: Rates
) -> None:
    by = {"certificate": (grid.user, request_of()), "token": (None, request_of(token))}
    for name, (credential, request) in by.items():
        tls = grid.client(credential)
        for number in clients:
            open_clients = [await Client.connect(server, tls) for _ in range(number)]
            plays = [asking(client, request) for client in open_clients]
            rate = await measure(server, plays, seconds)
            rates.setdefault((f"getstatinfo by {name}", number), []).append(rate)
            for client in open_clients:
                client.close()


# All of it


async def run(files: int, clients: Sequence[int], seconds: float, rounds: int) -> None:
    keys = {"RS256": SigningKey("rsa", rsa_key()), "ES256": SigningKey.elliptic("ec")}
    figures: Figures = {}
    rates: Rates = {}
    async with MariaServer("--innodb-buffer-pool-size=512M") as maria:
        grid = await asyncio.to_thread(Grid.make, maria.directory)
        jwks = publish(maria.directory, *keys.values())
        await create_schemas(maria, CNS, DPM)
        await maria.grant(CNS, DPM)
        await make_site(maria, CNS, DPM, SiteOptions(files=files))
        await furnish(maria)
        for _ in range(rounds):
            await verify_tokens(keys, jwks, seconds, figures)
            verify_signed_requests(seconds, figures)
            evaluate_chains(grid, seconds, figures)
        for host, key in (("EC", ec_key()), ("RSA", rsa_key(4))):
            async with serving(maria, grid, key, jwks) as server:
                for _ in range(rounds):
                    await measure_handshakes(server, grid, host, clients, seconds, rates)
                    if host == "EC":
                        token = keys["RS256"].token(claims())
                        await measure_requests(server, grid, token, clients, seconds, rates)
    _print(figures, rates, rounds)


def _print(figures: Figures, rates: Rates, rounds: int) -> None:
    print(f"\nMedians of {rounds} round(s); {os.cpu_count()} cores\n")
    print("In one process, on one core\n")
    print_table([["check", "checks/s", "µs each"], *(_figure_row(*each) for each in figures.items())])
    print("\nOver TLS 1.3, with the clients on the same machine\n")
    head = ["case", "clients", "per second", "server ms each"]
    print_table([head, *(_rate_row(case, found) for case, found in rates.items())])


def _figure_row(case: str, found: Sequence[float]) -> list[str]:
    median = statistics.median(found)
    return [case, f"{median:,.0f}", f"{1e6 / median:,.0f}"]


def _rate_row(case: tuple[str, int], found: Sequence[Rate]) -> list[str]:
    name, clients = case
    rate, cost = (statistics.median(each) for each in zip(*found, strict=True))
    return [name, str(clients), f"{rate:,.0f}", f"{cost:,.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.auth", description="Speed of finding out who somebody is."
    )
    parser.add_argument("--files", type=int, default=2_000, help="regular files of the made-up site")
    parser.add_argument("--clients", default="1,16", help="numbers of clients at a time, with commas")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians are shown")
    given = parser.parse_args()
    clients = [int(number) for number in given.clients.split(",")]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(given.files, clients, given.seconds, given.rounds))


if __name__ == "__main__":
    main()
