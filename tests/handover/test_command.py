"""`dcache-config` and `logins` on made-up sites with real databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from dome_bridge.cli import cli
from dome_bridge.config import AuthConfig, Config, DcacheConfig
from dome_bridge.exporter.findings import Severity
from dome_bridge.exporter.session import open_databases
from dome_bridge.handover.facts import head_host, read_site
from dome_bridge.handover.generate import generate
from dome_bridge.handover.logins import check_logins
from sandbox.catalog import make_site
from sandbox.servers import MariaServer
from sandbox.site import SiteOptions
from tests.fixtures.command import Bridge, assert_tidy, bridge_for
from tests.fixtures.databases import DpmSite
from tests.fixtures.snapshot import bridge_config, copy_catalog
from tests.fixtures.source import writer
from tests.handover import grammar

SMALL = SiteOptions(files=150)
HEAD = "dpm.example.org"


@pytest.fixture
async def config(maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str) -> Config:
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SMALL)
    return replace(bridge_config(dpm_site, chimera_dsn), dcache=DcacheConfig(head_host=HEAD))


@pytest.fixture
async def bridge(
    maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str, tmp_path: Path
) -> AsyncIterator[Bridge]:
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SMALL)
    async with bridge_for(tmp_path, dpm_site, chimera_dsn) as bridge:
        bridge.configure({"dcache": {"head_host": HEAD}})
        yield bridge


async def execute(site: DpmSite, *statements: str) -> None:
    async with writer(site) as cursor:
        for statement in statements:
            await cursor.execute(statement)


def files_in(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


async def test_sound_site_is_written_twice_alike_and_everybody_can_log_in(
    bridge: Bridge, dpm_site: DpmSite
) -> None:
    out = bridge.directory / "out"
    first = await bridge.good("dcache-config", "--out", str(out))
    written = files_in(out)
    assert sorted(first["files"]) == sorted(written)
    assert {"dcache.conf", "layouts/dpm.conf", "gplazma.conf", "poolmanager.conf"} <= set(written)
    assert not any(dpm_site.password in text for text in written.values())
    # The directory is laid out like /etc/dcache.
    again = await bridge("dcache-config", "--out", str(out), "--diff", str(out), as_json=False)
    assert again.code == 0, again.out
    assert_tidy(again.out + again.err)
    assert files_in(out) == written
    rehearsed = await bridge.good("logins", "--check")
    assert rehearsed["ok"]
    assert rehearsed["attempts"] > 30
    await edited_files_are_judged_where_they_are(bridge, out)


async def edited_files_are_judged_where_they_are(bridge: Bridge, out: Path) -> None:
    file = out / "multi-mapfile.groups"
    file.write_text(file.read_text().replace("gid:101\n", "gid:101 username:atlas\n"))
    judged = await bridge("logins", "--check", "--etc", str(out))
    assert judged.code == 1
    [finding] = [one for one in judged.json["findings"] if one["severity"] == "error"]
    assert finding["id"] == "login-ambiguous"
    different = await bridge("dcache-config", "--diff", str(out), as_json=False)
    assert different.code == 1
    assert "-fqan:/atlas gid:101 username:atlas" in different.out


def test_neither_directory_is_wrong_usage() -> None:
    done = CliRunner().invoke(cli, ["dcache-config"])
    assert done.exit_code == 2
    assert "--out" in done.output


async def test_group_that_dpm_does_not_have_is_an_error(config: Config, dpm_site: DpmSite) -> None:
    await execute(dpm_site, f"UPDATE {dpm_site.dpm}.dpm_space_reserv SET `groups` = '0,999' LIMIT 1")
    for with_spaces in (False, True):
        made = await generate(config, with_spaces=with_spaces)
        errors = {finding.id for finding in made.findings if finding.severity is Severity.ERROR}
        assert "token-group-gone" in errors
        assert not made.ok


async def test_every_directory_of_the_catalog_has_a_unit_and_every_pool_a_layout(config: Config) -> None:
    """What the mirror writes, and what PoolManager and the disk nodes are told, fit together."""
    await copy_catalog(config)
    texts = {file.path: file.text for file in (await generate(config)).files}
    selection = grammar.PoolSelection.fed(texts["poolmanager.conf"])
    async with open_databases(config) as databases:
        tags = await databases.conn.fetch(
            "SELECT DISTINCT split_part(convert_from(s.ivalue, 'UTF8'), ' ', 2) || ':' ||"
            " convert_from(g.ivalue, 'UTF8') AS class FROM t_tags a"
            " JOIN t_tags_inodes s ON s.itagid = a.itagid JOIN t_tags b ON b.inumber = a.inumber"
            " JOIN t_tags_inodes g ON g.itagid = b.itagid"
            " WHERE a.itagname = 'OSMTemplate' AND b.itagname = 'sGroup'"
        )
        located = await databases.conn.fetch("SELECT DISTINCT ilocation FROM t_locationinfo")
    classes = {row["class"] for row in tags}
    assert len(classes) > 5
    assert {f"{one}@osm" for one in classes} <= selection.units["-store"]
    pools = {
        service.settings["pool.name"]
        for path, text in texts.items()
        if path.startswith("layouts/")
        for domain in grammar.layout(text).values()
        for service in domain.services
        if service.name == "pool"
    }
    assert {row["ilocation"] for row in located} <= pools == selection.pools


async def test_owners_are_the_same_from_both_databases(config: Config) -> None:
    async with open_databases(config) as databases:
        before = (await read_site(databases)).owners
    await copy_catalog(config)
    async with open_databases(config) as databases:
        assert (await read_site(databases)).owners == before
    assert sum(owner.files for owner in before) == SMALL.files


async def test_rotten_site_names_what_is_wrong_and_lets_nobody_be_root(
    maria: MariaServer, dpm_site: DpmSite, chimera_dsn: str, tmp_path: Path
) -> None:
    await make_site(maria, dpm_site.cns, dpm_site.dpm, SMALL, rotten=True)
    people, groups = f"{dpm_site.cns}.Cns_userinfo", f"{dpm_site.cns}.Cns_groupinfo"
    await execute(
        dpm_site,
        f"INSERT INTO {people} (userid, username, user_ca, banned) VALUES"
        " (0, '/CN=zero', '', 0), (901, '/CN=a\\nban dn:/CN=b', '', 2), (902, '/CN=c/Email=d', '', 0),"
        " (903, '/CN=c/emailAddress=d', '', 0), (904, _binary 0x2f434e3dff, '', NULL),"
        " (905, 'jwt:x:a\\nban dn:/CN=c', '', 1)",
        f"INSERT INTO {groups} (gid, groupname, banned) VALUES (0, 'zero', 0),"
        " (901, 'a b\\nfqan:/c gid:0', 1)",
        f"UPDATE {dpm_site.dpm}.dpm_fs SET fs = '/srv/${{x}}' LIMIT 1",
    )
    gridmap = tmp_path / "mapfile"
    gridmap.write_bytes(b'"/CN=c/Email=d" nobody\n"/CN=\xff" atlas\n')
    config = replace(
        bridge_config(dpm_site, chimera_dsn),
        dcache=DcacheConfig(head_host=HEAD),
        auth=AuthConfig(gridmap_file=gridmap),
    )
    made = await generate(config)
    assert {
        "user-uid-0",
        "user-twice",
        "group-gid-0",
        "group-unusable",
        "gridmap-group-unknown",
        "pool-unusable",
    } <= {finding.id for finding in made.findings}
    assert not made.ok
    texts = made.etc_texts
    for suffix in ("groups", "users", "fallback"):
        for _, targets in grammar.multi_map(texts[f"multi-mapfile.{suffix}"]):
            assert {"uid:0", "gid:0", "gid:0,true"}.isdisjoint(targets)
    assert "\nban dn:/CN=b" not in texts["ban.conf"]
    assert "\nban dn:/CN=c" not in texts["ban.conf"]
    report = await check_logins(config)
    assert "owner-unknown" in {finding.id for finding in report.findings}
    assert report.ok


def test_head_node_is_what_the_settings_say() -> None:
    assert head_host(Config(dcache=DcacheConfig(head_host="a.example.org"))) == "a.example.org"
