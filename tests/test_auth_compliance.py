"""The WLCG JWT compliance suite, spoken in DOME commands.

Of the suite's numbers P9 is missing: it contradicts P3 and the profile.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from itertools import count, repeat
from pathlib import Path
from typing import NamedTuple

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from dome_bridge.config import Config, DiskConfig, IssuerConfig
from dome_bridge.dome_api.commands import COMMANDS
from dome_bridge.dome_api.service import ApiService
from sandbox.disk_node import DiskNode
from sandbox.servers import MariaServer
from tests.fixtures.databases import DpmSite
from tests.fixtures.dome import (
    ADMIN,
    FILE_SYSTEMS,
    HEAD,
    SECRET,
    Silent,
    catalog_faults,
    golden_config,
    golden_databases,
)
from tests.fixtures.http import Answer, HttpConnection

ISSUER = "https://wlcg.test/"
KID = "signing-1"
ENDPOINT = f"https://{HEAD}"
ELSEWHERE = "https://f3c1.test"
BASE = "/dpm/test/home/wlcg"
TOP = "/wlcg-jwt-compliance"
PROTECTED = "/protected"
TEST_ROLE = "wlcg/Role=test"
ROOM = 10**12
CONTENT = b"a file of the compliance suite"

METHODS = {command.name: command.method for command in COMMANDS}

Claims = Mapping[str, object]
Ask = Callable[[Claims | None, str, Mapping[str, str]], Awaitable[Answer]]
"""A request by a token, or without one by the head itself: claims, command, parameters."""

DONE = (200, 201)
DELETED = (200, 204)


class Verb(Enum):
    """What the suite does with a path: command and parameter."""

    STAT = "dome_getstatinfo", "lfn"
    READ = "dome_get", "lfn"
    WRITE = "dome_put", "lfn"
    DELETE = "dome_unlink", "lfn"
    MAKE = "dome_makedir", "path"


STAT, READ, WRITE, DELETE, MAKE = Verb


class Token(NamedTuple):
    """scope: with {SA} for the path of the test's directory. groups: None for no such claim."""

    scope: str = "openid"
    groups: tuple[str, ...] | None = None
    audience: str | tuple[str, ...] = ENDPOINT


class Step(NamedTuple):
    """path: relative to the area, {SA} as in a scope."""

    token: Token
    verb: Verb
    path: str
    statuses: tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """files, directories: what is in the test's directory before."""

    number: str
    steps: tuple[Step, ...]
    files: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()


def case(number: str, *steps: Step, files: tuple[str, ...] = (), directories: tuple[str, ...] = ()) -> Case:
    return Case(f"CT-{number}", steps, files, directories)


MISSING = "{SA}/missing"
NEW = "{SA}/new"
OLD = "{SA}/old"

NOBODY = Token()
READER = Token("storage.read:/")
CREATOR = Token("storage.create:/")
MODIFIER = Token("storage.modify:/")
EDITOR = Token("storage.read:/ storage.modify:/")
MEMBER = Token(groups=("/wlcg",))
TESTER = Token(groups=("/wlcg/test", "/wlcg"))
INSIDE = f"storage.{{}}:{TOP}"
FOOBAR = {"files": ("foobar/file",), "directories": ("foobar", "foo")}


def reads(scope: str, status: int) -> Step:
    """The file foobar/file, by a token with that path."""
    return Step(Token(f"storage.read:{scope}"), READ, "{SA}/foobar/file", (status,))


CASES = (
    case("A1", Step(READER._replace(audience=ELSEWHERE), READ, MISSING, (401,))),
    case("A2", Step(READER, READ, MISSING, (404,))),
    case("A3", Step(READER._replace(audience=(ENDPOINT, ELSEWHERE)), READ, MISSING, (404,))),
    case("A4", Step(READER._replace(audience=(ELSEWHERE, f"{ENDPOINT}/")), READ, MISSING, (401,))),
    case("B1", Step(NOBODY, READ, MISSING, (403,))),
    case("B2", Step(NOBODY, WRITE, NEW, (403,))),
    case("B3", Step(MEMBER, READ, MISSING, (404,))),
    case("B4", Step(MEMBER, WRITE, NEW, DONE)),
    case("B5", Step(EDITOR, WRITE, NEW, DONE)),
    case("B6", Step(EDITOR, WRITE, NEW, DONE), Step(EDITOR, DELETE, NEW, DELETED)),
    case("B7", Step(EDITOR, MAKE, NEW, DONE)),
    case("B8", Step(READER, READ, MISSING, (404,))),
    case("B9", Step(READER, WRITE, NEW, (403,))),
    case("B10", Step(MODIFIER, READ, OLD, (403,)), files=("old",)),
    case("B11", Step(CREATOR, READ, OLD, (403,)), files=("old",)),
    case("B12", Step(CREATOR, WRITE, OLD, (403,)), files=("old",)),
    case("B13", Step(CREATOR, DELETE, OLD, (403,)), files=("old",)),
    case(
        "B14",
        Step(MEMBER, READ, f"{PROTECTED}/missing", (404,)),
        Step(MEMBER, WRITE, f"{PROTECTED}/new", (403,)),
    ),
    case(
        "B15",
        Step(TESTER, READ, f"{PROTECTED}/missing", (404,)),
        Step(TESTER, WRITE, f"{PROTECTED}/new", DONE),
        Step(TESTER, DELETE, f"{PROTECTED}/new", DELETED),
    ),
    case(
        "P1",
        Step(Token(INSIDE.format("read")), READ, "/outside/missing", (403,)),
        Step(Token(INSIDE.format("read")), READ, MISSING, (404,)),
    ),
    case(
        "P2",
        Step(Token(INSIDE.format("modify")), WRITE, "/outside/new", (403,)),
        Step(Token(INSIDE.format("modify")), WRITE, "/new", (403,)),
        Step(Token(INSIDE.format("modify")), WRITE, NEW, DONE),
    ),
    case("P3", reads("{SA}/foobar", 200), **FOOBAR),
    case("P4", reads("{SA}/foo", 403), **FOOBAR),
    case("P5", Step(Token("storage.create:{SA}/dir"), MAKE, "{SA}/dir/foobar", DONE), directories=("dir",)),
    case("P6", Step(Token("storage.create:{SA}/di"), MAKE, "{SA}/dir/foobar", (403,)), directories=("dir",)),
    case("P7", reads("/foobar", 403), reads("/foo", 403), **FOOBAR),
    case("P8", reads("{SA}/foobar/", 200), reads("{SA}/foo/", 403), **FOOBAR),
)


def claims(token: Token, sa: str) -> Claims:
    """What the issuer puts into a token; sa: the path of the test's directory in the area."""
    now = int(time.time())
    found: dict[str, object] = {
        "iss": ISSUER,
        "sub": "0a1b2c3d-tester",
        "aud": token.audience if isinstance(token.audience, str) else list(token.audience),
        "iat": now,
        "nbf": now,
        "exp": now + 1200,
        "jti": secrets.token_hex(8),
        "wlcg.ver": "1.0",
        "scope": token.scope.replace("{SA}", sa),
    }
    return found if token.groups is None else {**found, "wlcg.groups": list(token.groups)}


@dataclass
class Suite:
    """Goes through the cases, as the suite does with any storage. content: of what an answer leads to."""

    ask: Ask
    put_content: Callable[[Answer], None]
    content: Callable[[Answer], bytes]
    _numbers: Callable[[], int] = field(default_factory=lambda: partial(next, count(1)))

    async def take(self, step: Step, sa: str) -> Answer:
        """What is written is a whole file afterwards."""
        command, parameter = step.verb.value
        path = BASE + step.path.replace("{SA}", sa)
        answer = await self.ask(claims(step.token, sa), command, {parameter: path})
        if step.verb is WRITE and answer.status in DONE:
            await self._finish_upload(answer)
        return answer

    async def _finish_upload(self, place: Answer) -> None:
        self.put_content(place)
        told = json.loads(place.body)
        size = str(len(CONTENT))
        done = await self.ask(
            None, "dome_putdone", {"server": told["host"], "pfn": told["pfn"], "size": size}
        )
        assert done.status == 200, done

    async def prepared(self, files: tuple[str, ...] = (), directories: tuple[str, ...] = ()) -> str:
        """A new directory with these in it, made in the way of the suite (CT-S)."""
        sa = f"{TOP}/sa{self._numbers()}"
        for path in (TOP, sa, *(f"{sa}/{name}" for name in directories)):
            await self._make_unless_there(path)
        for name in files:
            assert (await self.take(Step(EDITOR, WRITE, f"{sa}/{name}", DONE), sa)).status in DONE
        return sa

    async def _make_unless_there(self, path: str) -> None:
        found = await self.take(Step(EDITOR, STAT, path, (200, 404)), "")
        assert found.status in (200, 404), found
        if found.status == 404:
            made = await self.take(Step(EDITOR, MAKE, path, DONE), "")
            assert made.status in DONE, made

    async def faults(self, case: Case) -> list[str]:
        """The steps of a case that ended in another way than they must."""
        sa = await self.prepared(case.files, case.directories)
        faults = []
        for step in case.steps:
            answer = await self.take(step, sa)
            if answer.status not in step.statuses:
                faults.append(f"{case.number}: {answer.status} {answer.body!r} for {step}")
            elif step.verb is READ and answer.status == 200 and self.content(answer) != CONTENT:
                faults.append(f"{case.number}: another content for {step}")
        return faults


class Api:
    """Requests over a `proxied` listener. key: of the issuer."""

    def __init__(self, connection: HttpConnection, key: ECKey) -> None:
        self._connection = connection
        self._key = key

    async def ask(self, claims: Claims | None, command: str, parameters: Mapping[str, str]) -> Answer:
        body = json.dumps(parameters).encode()
        lines = [
            f"{METHODS[command]} /domehead/command/{command} HTTP/1.1",
            f"Host: {HEAD}",
            *self._credential(claims),
            f"Content-Length: {len(body)}",
        ]
        return await self._connection.exchange("\r\n".join([*lines, "", ""]).encode() + body)

    def _credential(self, claims: Claims | None) -> list[str]:
        if claims is None:
            return ["x-ssl-client-verify: SUCCESS", f"x-ssl-client-s-dn: {ADMIN}"]
        header = {"alg": "ES256", "kid": KID, "typ": "at+jwt"}
        return [f"Authorization: Bearer {jwt.encode(header, dict(claims), self._key)}"]


def configured(site: DpmSite, directory: Path, key: ECKey) -> Config:
    """The golden head with one issuer, whose keys are in a file."""
    key_file = directory / "jwks.json"
    key_file.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    issuer = IssuerConfig(
        name="wlcg",
        issuer=ISSUER,
        base_path=(BASE,),
        jwks_uri=key_file.as_uri(),
        group_map={"/wlcg/test": TEST_ROLE},
    )
    config = golden_config(site, directory)
    auth = replace(config.auth, audience=(ENDPOINT,), issuers=(issuer,), jwks_cache_dir=None)
    return replace(config, auth=auth, disk=DiskConfig(poll_seconds=0.1))


def disk_nodes(directory: Path) -> dict[str, DiskNode]:
    """The servers of the golden catalog, with room to spare."""
    disks = {}
    for server, paths in FILE_SYSTEMS.items():
        places = {path: directory / server / path.rpartition("/")[2] for path in paths}
        for place in places.values():
            place.mkdir(parents=True)
        disks[server] = DiskNode(server, places, secret=SECRET, capacities=dict.fromkeys(paths, ROOM))
    return disks


def file_of(disks: Mapping[str, DiskNode], place: Mapping[str, str]) -> Path:
    """place: of an answer to dome_put, or of a replica in one to dome_get."""
    file = disks[place.get("host") or place["server"]].file(place["pfn"])
    assert file is not None, place
    return file


def write_content(disks: Mapping[str, DiskNode], answer: Answer) -> None:
    file = file_of(disks, json.loads(answer.body))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(CONTENT)


def read_content(disks: Mapping[str, DiskNode], answer: Answer) -> bytes:
    (place,) = json.loads(answer.body).values()
    return file_of(disks, place).read_bytes()


async def set_up(api: Api) -> None:
    """The area: all of the VO's but one directory, which is for testers. Both are readable by all of them."""

    async def do(command: str, **parameters: object) -> Answer:
        answer = await api.ask(None, command, {key: str(value) for key, value in parameters.items()})
        assert answer.status == 200, (command, parameters, answer)
        return answer

    for path, group in ((BASE, "wlcg"), (BASE + PROTECTED, TEST_ROLE)):
        await do("dome_newgroup", groupname=group)
        gid = json.loads((await _group(api, group)).body)["gid"]
        await do("dome_makedir", path=path)
        await do("dome_setowner", path=path, uid=0, gid=gid)
        await do("dome_setacl", path=path, acl=f"A70,C7{gid},F50,a70,c7{gid},f50")
    await do(
        "dome_setquotatoken",
        path=BASE,
        poolname="pool01",
        quotaspace=ROOM,
        description="WLCG",
        groups=f"wlcg,{TEST_ROLE}",
    )
    await _wait_for_disks(api)


async def _group(api: Api, name: str) -> Answer:
    return await api.ask(None, "dome_getgroup", {"groupname": name})


async def _wait_for_disks(api: Api) -> None:
    """Until the head has heard of them, there is no place for a file."""
    path = f"{BASE}/first"
    async with asyncio.timeout(10):
        for put in repeat(partial(api.ask, None, "dome_put", {"lfn": path, "pool": "pool01"})):
            if (await put()).status == 200:
                break
            await asyncio.sleep(0.05)
    assert (await api.ask(None, "dome_unlink", {"lfn": path})).status == 200


@pytest.fixture(scope="module")
async def suite(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    directory, key = (
        tmp_path_factory.mktemp("compliance"),
        ECKey.generate_key("P-256", {"kid": KID, "use": "sig"}),
    )
    async with golden_databases(maria) as site, AsyncExitStack() as stack:
        before = await catalog_faults(maria, site.cns)
        disks = disk_nodes(directory)
        for disk in disks.values():
            await stack.enter_async_context(disk)
        service = ApiService(
            configured(site, directory, key),
            Silent(),
            resolve=lambda server: (disks[server].address, disks[server].port),
        )
        (port,) = (await stack.enter_async_context(service)).ports
        api = Api(await stack.enter_async_context(HttpConnection("127.0.0.1", port)), key)
        await set_up(api)
        yield Suite(api.ask, partial(write_content, disks), partial(read_content, disks))
        assert await catalog_faults(maria, site.cns) == before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
async def test_compliance_suite_is_passed(suite: Suite, case: Case) -> None:
    assert await suite.faults(case) == []


async def test_ct_s_storage_is_prepared_by_tokens(suite: Suite) -> None:
    sa = await suite.prepared(directories=("a",))
    for path in (TOP, sa, f"{sa}/a"):
        assert (await suite.take(Step(EDITOR, STAT, path, (200,)), sa)).status == 200
