"""The dialogues recorded from an original DOME head, replayed against ours in the order of recording."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.disk_node import Call
from sandbox.servers import MariaServer
from tests.fixtures.dome import (
    catalog_faults,
    golden_databases,
    golden_head,
    load_golden_catalog,
)
from tests.fixtures.http import Answer
from tests.fixtures.replay import (
    RECORDING_START,
    Deviation,
    Expected,
    Matching,
    Replay,
    fields,
    recorded_answer,
)

DIALOGUES = (
    "head-01-stat",
    "head-03-replicas",
    "head-04-access",
    "head-05-get",
    "head-06-users-groups",
    "head-10-makedir-create",
    "head-11-unlink-rmdir",
    "head-12-rename-symlink",
    "head-13-setters",
    "head-20-auth",
    "head-21-protocol",
)

# Between head-13 and head-20 the original took uploads of 21 bytes and met a new group, in dialogues that are
# not among the recordings.
UNRECORDED = (
    "UPDATE {cns}.Cns_file_metadata SET filesize = filesize + 21 WHERE fileid IN (4, 5)",
    "UPDATE {cns}.Cns_unique_gid SET id = id + 1",
    "INSERT INTO {cns}.Cns_groupinfo (gid, groupname, banned)"
    " SELECT id, 'dteam/Role=x', 0 FROM {cns}.Cns_unique_gid",
)

ALICE = "/DC=test/DC=dmlite/OU=users/CN=Alice Tester"

REFUSED = Expected(403)
NOT_FOUND = Expected(404)
DONE = Expected(200)
TEAPOT = Expected(418)

BANNED = "A banned user is refused; the original looked at the ban without any effect."
NO_DIRECTORY = "Only a directory has children; the original made an entry below a file or a link."
FIRST_GROUP = "A new entry belongs to its maker's first group; the original read a number that was never set."
NO_REPLICAS = "A file without replicas is an empty list; the original called it an error until it was cached."
NOT_TRUNCATED = "A refused create leaves the file alone; the original answered and truncated it all the same."
KEEP_IDS = "4294967295 and -1 keep what is there, as chown does; the original knew nobody of that number."
WHOLE_BODY = "A body of up to 1 MiB is read; the original cut it after 4095 bytes and could not parse it."
BY_HTTPD = "The last component of the path is the command; this was answered by the httpd in front."
DIRECT_USERS = "Users are served by DPM's permissions; the original refused whoever was no server."
OF_NO_VO = "A peer makes no groups of VOs that this site does not serve; the original made any."
OWNS_NOTHING = "Who only reads gets no number; the original gave one to whoever was named."
GROUPS_OF_NOBODY = "Groups without a user are refused; the original took them for root's."
NO_CONTROL = "A NUL or control character in a path is refused; the original cut the path there."
NO_VERB = "Other verbs than GET, POST and HEAD are refused; the original wrote nothing at all."


def by_alice(entry: dict[str, Any]) -> dict[str, Any]:
    """A directory made by Alice, who is in the group dteam, below one that is not setgid."""
    owner, group, rest = entry["acl"].split(",", 2)
    return {**entry, "gid": "101", "acl": f"{owner},{group[:2]}101,{rest}"}


def of_dteam(listing: dict[str, Any]) -> dict[str, Any]:
    return {"entries": [_corrected(entry) for entry in listing["entries"] if entry["name"] != "by_banned"]}


def _corrected(entry: dict[str, Any]) -> dict[str, Any]:
    if entry["uid"] == "101" and entry["gid"] == "0":
        entry = by_alice(entry)
    changes = {
        "legacy_ad": {"nlink": "1", "mtime": "1496000002", "ctime": "1496000003"},
        "lnk_dir": {"nlink": "1", "mtime": "1496000000", "ctime": "1496000000"},
        "unié?": {"name": "unié中"},
    }
    return entry | changes.get(entry["name"], {})


def without(kind: str, *names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Lists of users or groups in which these are not."""
    key = f"{kind.removesuffix('s')}name"
    return lambda listing: {kind: [each for each in listing[kind] if each[key] not in names]}


# Every line whose answer is meant to differ, with the reason.
DEVIATIONS = (
    Deviation("head-01-stat", (*range(49, 58), 59), BANNED, REFUSED),
    Deviation(
        "head-01-stat",
        (79, 87, 98, 99, 100),
        "A path through a file or without a leading / leads to nothing; the original made up an entry.",
        NOT_FOUND,
    ),
    Deviation(
        "head-03-replicas",
        (4, 5, 12),
        "A replica is told with its own name; the original echoed the one in the request.",
        change=fields(rfn="disk1.test:/storage/disk1/fs1/dteam/2017-01-01/legacy_ad.1.1"),
    ),
    Deviation("head-03-replicas", (16, 18, 19, 20), NO_REPLICAS, Expected(200, {"replicas": ""})),
    Deviation(
        "head-04-access",
        (13, 14, 15, 16, 33, 35, 36, 53, 55, 56, 73, 93, 113, 133, 134, 136, 153, 154, 155, 156),
        BANNED,
        REFUSED,
    ),
    Deviation("head-04-access", (168,), "/ is the root; the original trimmed it to an empty path.", DONE),
    Deviation(
        "head-06-users-groups",
        (20,),
        "Group 0 is root and may be asked for by number; the original took 0 for nothing given.",
        Expected(200, {"groupname": "root", "gid": "0", "banned": "0", "xattr": ""}),
    ),
    Deviation(
        "head-06-users-groups",
        (48,),
        "A new user is known at once; the original reloaded its list once a minute.",
        Expected(200, {"username": "/CN=new1", "userid": "107", "banned": "0", "xattr": ""}),
    ),
    Deviation("head-06-users-groups", (27, 55), OF_NO_VO, change=without("groups", " atlas", "nosuchgroup")),
    Deviation("head-10-makedir-create", (12, 24), NO_DIRECTORY, Expected(400)),
    Deviation("head-10-makedir-create", (28,), BANNED, REFUSED),
    Deviation("head-10-makedir-create", (31,), f"{FIRST_GROUP} {BANNED} {NO_DIRECTORY}", change=of_dteam),
    Deviation("head-10-makedir-create", (33, 34, 35, 36), FIRST_GROUP, change=by_alice),
    Deviation("head-10-makedir-create", (37,), f"Without by_banned: {BANNED}", change=fields(nlink="32")),
    Deviation(
        "head-10-makedir-create",
        (44,),
        "A missing parent is not found; the original asked for rights on it, or made the file nowhere.",
        NOT_FOUND,
    ),
    Deviation("head-11-unlink-rmdir", (1,), f"{NO_REPLICAS} It is removed.", DONE),
    Deviation("head-11-unlink-rmdir", (2,), "The first request has removed it.", NOT_FOUND),
    Deviation(
        "head-11-unlink-rmdir", (16,), "Without c1, and by_banned never was.", change=fields(nlink="32")
    ),
    Deviation("head-12-rename-symlink", (20,), FIRST_GROUP, change=by_alice),
    Deviation(
        "head-12-rename-symlink", (22,), "Without c1, and by_banned never was.", change=fields(nlink="27")
    ),
    Deviation(
        "head-12-rename-symlink",
        (32,),
        "A link belongs to its maker; the original took the owner from the wrong field.",
        change=fields(uid="101"),
    ),
    Deviation(
        "head-13-setters",
        (*range(2, 27, 2), 30, 44, 48, 66, *range(102, 127, 2)),
        f"{NOT_TRUNCATED} {NO_DIRECTORY}",
        change=fields(size="1234", nlink="1", mtime="1496000002"),
    ),
    Deviation("head-13-setters", (53, 54), KEEP_IDS, DONE),
    Deviation("head-20-auth", (7, 21), DIRECT_USERS, Expected(200, body="ACCESS TO DOME GRANTED.")),
    Deviation("head-20-auth", (8,), DIRECT_USERS, recorded_answer("head-20-auth", 2)),
    Deviation("head-20-auth", (9, 20), f"{DIRECT_USERS} They are told what is no command.", TEAPOT),
    Deviation("head-20-auth", (19,), f"{DIRECT_USERS} This one may not write there.", REFUSED),
    Deviation("head-20-auth", (36, 37), GROUPS_OF_NOBODY, REFUSED),
    Deviation(
        "head-20-auth", (42,), OWNS_NOTHING, change=without("users", "/CN=unknown guy 1", "/CN=unknown guy 2")
    ),
    Deviation(
        "head-20-auth", (43,), OF_NO_VO, change=without("groups", " atlas", "nosuchgroup", "unknowngroup1")
    ),
    Deviation(
        "head-21-protocol",
        (9, 10),
        "A query is no part of the command, as in the XrdHttp releases, where it carries the token.",
        recorded_answer("head-21-protocol", 1),
    ),
    Deviation("head-21-protocol", (14, 15), BY_HTTPD, TEAPOT),
    Deviation("head-21-protocol", (17,), BY_HTTPD, Expected(200, body="{")),
    Deviation("head-21-protocol", (19,), BY_HTTPD, recorded_answer("head-21-protocol", 1)),
    Deviation("head-21-protocol", (24, 25, 26, 27, 30), NO_VERB, Expected(405)),
    Deviation("head-21-protocol", (28, 29), f"{NO_VERB} These are not even known to HTTP.", Expected(405)),
    Deviation("head-21-protocol", (56,), NO_CONTROL, Expected(400)),
    Deviation("head-21-protocol", (62, 63, 64), WHOLE_BODY, recorded_answer("head-21-protocol", 60)),
    Deviation("head-21-protocol", (65,), WHOLE_BODY, Expected(200, {"comment": "x" * 5000})),
)


@dataclass(frozen=True)
class Outcome:
    """What the whole replay came to; faults are those of the catalog, calls those that the disks got."""

    replay: Replay
    calls: list[Call]
    removed: set[str]
    faults_before: list[str]
    faults_after: list[str]


def files_in(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
async def outcome(maria: MariaServer, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """All dialogues, one after the other over one catalog, as they were recorded."""
    directory = tmp_path_factory.mktemp("disks")
    async with (
        golden_databases(maria) as site,
        golden_head(site, directory) as head,
    ):
        before, files = await catalog_faults(maria, site.cns), files_in(directory)
        replay = Replay(head.connection, DEVIATIONS)
        for name in DIALOGUES:
            if name == "head-20-auth":
                for statement in UNRECORDED:
                    await maria.execute(statement.format(cns=f"`{site.cns}`"))
            await replay.run(name)
        return Outcome(
            replay,
            calls=[call for disk in head.disks.values() for call in disk.calls],
            removed=files - files_in(directory),
            faults_before=before,
            faults_after=await catalog_faults(maria, site.cns),
        )


@pytest.mark.parametrize("name", DIALOGUES)
def test_recorded_dialogue_is_answered_as_by_the_original(outcome: Outcome, name: str) -> None:
    complaints = [*outcome.replay.complaints[name], *outcome.replay.never_replayed(name)]
    assert not complaints, "\n".join([f"{len(complaints)} lines of {name}", *complaints])


def test_catalog_is_as_sound_after_the_dialogues_as_before(outcome: Outcome) -> None:
    assert outcome.faults_after == outcome.faults_before


def test_disk_removes_the_one_file_that_a_user_has_unlinked(outcome: Outcome) -> None:
    assert outcome.removed == {"migrated.1.1"}
    (call,) = [call for call in outcome.calls if call.command == "dome_pfnrm"]
    assert (call.method, call.command, call.user.dn) == ("POST", "dome_pfnrm", ALICE)
    assert call.parameters["pfn"] == "/storage/disk1/fs1/dteam/2017-01-01/migrated.1.1"


def test_one_connection_serves_all_that_is_sound_http(outcome: Outcome) -> None:
    assert outcome.replay.connections["head-20-auth"] == 1


STARTED = 1_900_000_000


def _faults(recorded: object, ours: object, *, matching: Matching | None = None) -> list[str]:
    answer = Answer(200, {}, json.dumps(ours).encode())
    return (matching or Matching(STARTED, lambda: STARTED + 5)).faults(Expected(200, recorded), answer)


@pytest.mark.parametrize(
    ("recorded", "ours"),
    [
        ({"size": "1"}, {"size": "2"}),
        ({"size": "1"}, {"size": 1}),
        ({"size": "1"}, {}),
        ({}, {"size": "1"}),
        ({"entries": ""}, {"entries": []}),
        ([{"name": "a"}, {"name": "b"}], [{"name": "b"}, {"name": "a"}]),
        ({"groups": {"a": "", "b": ""}}, {"groups": {"b": "", "a": ""}}),
        ({"xattrs": '{"type": 0}'}, {"xattrs": '{"type": "0"}'}),
        ({"fileid": "20"}, {"fileid": "21"}),
        ({"fileid": "102"}, {"fileid": "20"}),
        ({"mtime": "1496000000"}, {"mtime": str(STARTED)}),
        ({"mtime": str(RECORDING_START)}, {"mtime": str(STARTED - 60)}),
    ],
)
def test_difference_is_noticed(recorded: object, ours: object) -> None:
    assert _faults(recorded, ours)


@pytest.mark.parametrize(
    ("recorded", "ours"),
    [
        ({"fileid": "102", "gid": "105"}, {"gid": "201", "fileid": "300"}),
        ({"xattrs": '{"a": "/"}'}, {"xattrs": '{"a":"\\/"}'}),
        ({"mtime": str(RECORDING_START + 9)}, {"mtime": str(STARTED + 5)}),
        (
            {"fileid": "102", "atime": "0", "mtime": "0", "ctime": "0", "xattrs": "{}"},
            {"fileid": "102", "atime": "5", "mtime": "6", "ctime": "7", "xattrs": '{"type": 0}'},
        ),
    ],
)
def test_what_cannot_be_the_same_twice_is_not_a_difference(recorded: object, ours: object) -> None:
    assert not _faults(recorded, ours)


def test_new_id_must_stand_for_one_thing_only() -> None:
    matching = Matching(STARTED)
    assert not _faults({"fileid": "102"}, {"fileid": "300"}, matching=matching)
    assert _faults({"fileid": "102"}, {"fileid": "301"}, matching=matching)
    assert _faults({"fileid": "103"}, {"fileid": "300"}, matching=matching)
    assert not _faults({"parentfileid": "102"}, {"parentfileid": "300"}, matching=matching)


def test_status_body_and_spoken_sentences_are_compared() -> None:
    matching = Matching(STARTED)
    assert matching.faults(Expected(200), Answer(202))
    assert matching.faults(Expected(200), Answer(200, {}, b"done"))
    assert matching.faults(Expected(200, {"a": ""}), Answer(200, {}, b"text"))
    assert matching.faults(Expected(200, {"a": ""}, '{\n    "a": ""\n}\n'), Answer(200, {}, b'{"a": ""}'))
    assert matching.faults(Expected(403, None, "/CN=x is unauthorized. Sorry :-)"), Answer(403, {}, b"no"))
    assert not matching.faults(Expected(404, None, "one text"), Answer(404, {}, b"another"))


SPOILED = (
    ("directory whose links", "UPDATE {cns}.Cns_file_metadata SET nlink = nlink + 1 WHERE fileid = 28"),
    ("other than one link", "UPDATE {cns}.Cns_file_metadata SET nlink = 2 WHERE fileid = 20"),
    ("something other than a dir", "UPDATE {cns}.Cns_file_metadata SET parent_fileid = 20 WHERE fileid = 21"),
    ("root does not lead to", "UPDATE {cns}.Cns_file_metadata SET parent_fileid = 28 WHERE fileid = 28"),
    ("fileid twice, or", "UPDATE {cns}.Cns_unique_id SET id = 100"),
    ("uid twice, or", "UPDATE {cns}.Cns_userinfo SET userid = 101 WHERE userid = 102"),
    ("gid twice, or", "UPDATE {cns}.Cns_groupinfo SET gid = 101 WHERE gid = 102"),
    ("counter of more", "INSERT INTO {cns}.Cns_unique_uid (id) VALUES (7)"),
    ("replica of something", "UPDATE {cns}.Cns_file_replica SET fileid = 28 WHERE rowid = 1"),
    ("replica registered", "INSERT INTO {cns}.Cns_file_replica (fileid, sfn) SELECT fileid, sfn"
     " FROM {cns}.Cns_file_replica WHERE rowid = 1"),
    ("target of something", "UPDATE {cns}.Cns_symlinks SET fileid = 20 WHERE fileid = 23"),
    ("symbolic link without", "DELETE FROM {cns}.Cns_symlinks WHERE fileid = 23"),
    ("comment of no entry", "SET foreign_key_checks = 0;"
     " UPDATE {cns}.Cns_user_metadata SET u_fileid = 999"),
    ("directory whose size", "UPDATE {cns}.Cns_file_metadata SET filesize = 1 WHERE fileid = 7"),
)  # fmt: skip


async def test_each_fault_of_a_catalog_is_found(maria: MariaServer) -> None:
    async with golden_databases(maria) as site:
        before = set(await catalog_faults(maria, site.cns, sizes=True))
        for defect, statements in SPOILED:
            await load_golden_catalog(maria, site.cns, site.dpm)
            await maria.run_sql(statements.format(cns=f"`{site.cns}`"))
            found = set(await catalog_faults(maria, site.cns, sizes=True)) - before
            assert any(defect in fault for fault in found), defect
