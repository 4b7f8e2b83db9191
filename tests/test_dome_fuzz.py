"""Every command under requests that nobody would send: an answer that is meant, never an accident.

A deliberate refusal may be a 500, where the protocol says so; an exception that nobody expected
shows in its text, and in the log. The catalog must be as sound afterwards as it was before.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dome_bridge.dome_api.command import Command
from dome_bridge.dome_api.commands import COMMANDS
from sandbox.servers import MariaServer
from tests.fixtures.databases import DpmSite
from tests.fixtures.dome import FRONTEND, catalog_faults, golden_databases, golden_head, load_golden_catalog
from tests.fixtures.http import Answer, HttpConnection

EXAMPLES = 60
ANSWERS = (200, 202, 400, 403, 404, 409, 422, 500, 507)
HOME = "/dpm/test/home"
LONG = 300
FAILED_STATEMENT = re.compile(r"the database at .* refused .* \(error \d+\)")
"""Said of what is no refusal that the protocol knows: that one is not worth a warning."""

names = st.sampled_from(
    [
        "dteam",
        "atlas",
        "sub",
        "in_sub",
        "legacy_ad",
        "lnk_dir",
        "sticky",
        "new",
        "..",
        ".",
        "",
        " ",
        "a ",
        "é",
        "中",
    ]
) | st.sampled_from(
    ["\0", "\n", "\x7f", "%2F", "'", '"', "\\", "a'; DROP TABLE x; --", "x" * LONG, "é" * 128, "😀"]
)
paths = st.lists(names, max_size=5).map(lambda parts: f"{HOME}/" + "/".join(parts)) | st.sampled_from(
    ["/", "", "//", "dpm", "/..", "/" + "a/" * 400, HOME, f"{HOME}/dteam/legacy_ad", "/\udc80"]
)
rfns = st.sampled_from(
    [
        "disk1.test:/storage/disk1/fs1/dteam/2017-01-01/legacy_ad.1.1",
        "disk1.test:/storage/disk1/fs1/new",
        ":",
        "x",
        "disk1.test:",
        ":/x",
        "disk9.test:/srv/x",
    ]
)
numbers = st.sampled_from(
    [0, 1, -1, 7, 20, 101, 0o777, 0o40755, 2**31, 2**32 - 1, 2**63, 2**64, 10**400]
).map(lambda number: str(number)[:500])
json_texts = st.sampled_from(
    [
        "{}",
        "[]",
        "null",
        "{",
        '{"checksum.adler32": "1"}',
        '{"a": {"b": [1, null, 1e400]}}',
        '{"a": "' + "x" * 2000 + '"}',
    ]
)
acls = st.sampled_from(
    ["A70,C50,F50", "A7", "A71,C50,F50,a70", "B71,E7", ",".join(["B71"] * 2000), "A70,C50,F50," * 50]
)
values = st.one_of(
    paths,
    rfns,
    numbers,
    json_texts,
    acls,
    st.text(max_size=20),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)
users = st.sampled_from(
    [
        ("", ""),
        ("root", "root"),
        ("/DC=test/DC=dmlite/OU=users/CN=Alice Tester", "dteam"),
        ("/DC=test/DC=dmlite/OU=users/CN=Bob Tester", "atlas,dteam"),
        ("/DC=test/DC=dmlite/OU=users/CN=Banned Guy", "bannedvo"),
        ("/CN=fuzz", "fuzz,,/x/Role=NULL"),
        ("/CN=" + "x" * LONG, "g" * LONG),
        ("/CN=é", "\t"),
    ]
)

RFNS = (
    "disk1.test:/storage/disk1/fs1/dteam/2017-01-01/legacy_ad.1.1",
    "disk1.test:/storage/disk1/fs1/dteam/2017-01-01/in_sub.1.1",
    "disk1.test:/storage/disk1/fs1/dteam/2017-01-01/new",
)
FILES = (f"{HOME}/dteam/legacy_ad", f"{HOME}/dteam/sub/in_sub", f"{HOME}/dteam/sub/new")
POOLS = ("pool01", "pool02", "poolvol", "new")
SENSIBLE: dict[str, tuple[object, ...]] = {
    "path": (f"{HOME}/dteam", f"{HOME}/dteam/sub", f"{HOME}/dteam/lnk_dir", f"{HOME}/cms", *FILES),
    "lfn": (*FILES, f"{HOME}/dteam/lnk_abs"),
    "link": (f"{HOME}/dteam/link",),
    "oldpath": FILES,
    "newpath": (f"{HOME}/dteam/new", f"{HOME}/atlas/new", *FILES),
    "fileid": (0, 20, 29),
    "replicaid": (0, 1, 5),
    "username": ("/DC=test/DC=dmlite/OU=users/CN=Alice Tester", "/CN=new"),
    "groupname": ("dteam", "new"),
    "userid": (0, 101),
    "groupid": (0, 101),
    "banned": (0, 1),
    "uid": (101, 102, -1),
    "gid": (101, 102, -1),
    "follow": (True, False),
    "rfn": RFNS,
    "pfn": tuple(rfn.partition(":")[2] for rfn in RFNS),
    "server": ("disk1.test", "disk2.test"),
    "host": ("", "disk1.test"),
    "fs": ("", "/storage/disk1/fs1", "/storage/disk2/fs2"),
    "status": ("-", "0", "1", "done", "aborted", "pending"),
    "type": ("P", "V", ""),
    "pool": ("", *POOLS),
    "poolname": POOLS,
    "pool_defsize": (2**30,),
    "pool_stype": ("P", "V"),
    "tokenid": ("36a86b8b-e674-11f1-8e24-02fc00000001",),
    "quotaspace": (10**9,),
    "groups": ("dteam", "root", ""),
    "size": (0, 1, 100),
    "filesize": (0, 1),
    "checksumtype": ("", "checksum.adler32"),
    "checksum-type": ("checksum.adler32", "checksum.md5"),
    "checksumvalue": ("", "0000000f"),
    "checksum": ("0000000f",),
    "update-lfn-checksum": (True, False),
    "additionalreplica": ("", True),
}
"""Of what the catalog holds at the beginning: a request made of this is done, or nearly so."""

ORDERED = sorted(COMMANDS, key=lambda command: command.name in ("dome_rmfs", "dome_rmpool"))
"""Without pools many commands end early."""


def likely(key: str) -> st.SearchStrategy[object]:
    """Values that get beyond the first check more often than not."""
    if "rfn" in key:
        return rfns | values
    if key in ("acl", "xattr", "mode", "uid", "gid", "size", "fileid", "replicaid"):
        return {"acl": acls, "xattr": json_texts}.get(key, numbers) | values
    return paths | values


def bodies(command: Command) -> st.SearchStrategy[dict[str, object]]:
    keys = [parameter.key for parameter in command.parameters]
    optional = {key: likely(key) for key in keys} | {"stranger": values}
    return st.fixed_dictionaries({}, optional=optional) if keys else st.just({})


def sensible_bodies(command: Command) -> st.SearchStrategy[dict[str, object]]:
    keys = [parameter.key for parameter in command.parameters]
    return st.fixed_dictionaries(
        {key: st.sampled_from(SENSIBLE[key]) if key in SENSIBLE else likely(key) for key in keys}
    )


def requests(command: Command) -> st.SearchStrategy[tuple[dict[str, object], tuple[str, str]]]:
    return st.tuples(bodies(command), users) | st.tuples(sensible_bodies(command), st.just(("", "")))


@pytest.fixture(scope="module")
async def golden(maria: MariaServer) -> AsyncIterator[DpmSite]:
    async with golden_databases(maria) as site:
        yield site


@pytest.fixture(scope="module")
async def head(golden: DpmSite, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpConnection]:
    async with golden_head(golden, Path(tmp_path_factory.mktemp("fuzz"))) as golden_one:
        yield golden_one.connection


@pytest.fixture(scope="module")
async def faults_before(maria: MariaServer, golden: DpmSite) -> list[str]:
    return await catalog_faults(maria, golden.cns)


def raw(command: Command, body: dict[str, object], user: tuple[str, str]) -> bytes:
    content = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogateescape")
    lines = [
        f"{command.method} /domehead/command/{command.name} HTTP/1.1",
        "Host: head",
        "x-ssl-client-verify: SUCCESS",
        f"x-ssl-client-s-dn: {FRONTEND}",
        *([f"remoteclientdn: {user[0]}"] if user[0] else []),
        *([f"remoteclientgroups: {user[1]}"] if user[1] else []),
        f"Content-Length: {len(content)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


@pytest.mark.parametrize("command", ORDERED, ids=lambda command: command.name)
async def test_strange_request_is_answered_on_purpose(
    command: Command,
    head: HttpConnection,
    maria: MariaServer,
    golden: DpmSite,
    faults_before: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    await load_golden_catalog(maria, golden.cns, golden.dpm)
    loop = asyncio.get_running_loop()

    def wait(work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(request=requests(command))
    def ask(request: tuple[dict[str, object], tuple[str, str]]) -> None:
        answer = wait(head.exchange(raw(command, *request)))
        text = answer.body.decode("utf-8", "replace")
        assert answer.status in ANSWERS, text
        assert "internal error" not in text
        assert not text.startswith(f"{command.name} failed:"), text
        assert answer.framing_faults() == []
        if answer.status == 200 and answer.headers["content-type"].startswith("application/json"):
            json.loads(answer.body.decode("utf-8", "surrogateescape"))

    with caplog.at_level(logging.WARNING):
        await asyncio.to_thread(ask)
    assert [record for record in caplog.records if record.exc_info] == []
    assert [text for text in caplog.messages if FAILED_STATEMENT.search(text)] == []
    assert await catalog_faults(maria, golden.cns) == faults_before
