"""dCache's files: read back by their grammar, the same in every run, and compared with golden ones.

`python -m tests.handover.test_files` writes the golden directories anew.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dome_bridge.config import AuthConfig, DcacheConfig
from dome_bridge.exporter.findings import Severity
from dome_bridge.handover import accounting, reference, tree
from dome_bridge.handover.files import Configuration, make_configuration
from dome_bridge.handover.releases import Release
from dome_bridge.handover.site import DiskPool, Group, QuotaToken, Site
from tests.handover import grammar
from tests.handover.sites import GROUPS, ISSUERS, POOLS, TOKENS, pool, sample_site

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = ("8.2", "9.2", "10.2", "11.2", "12.0")
VARIANTS = {
    **{version: sample_site(version) for version in VERSIONS},
    "10.2-spaces": sample_site("10.2", with_spaces=True),
    "10.2-plain": sample_site(
        "10.2", auth=AuthConfig(), dcache=DcacheConfig(version="10.2", srm=False), tokens=()
    ),
}


def texts(site: Site) -> dict[str, str]:
    return {file.path: file.text for file in make_configuration(site).files}


def ids(made: Configuration, *severities: Severity) -> list[str]:
    return [finding.id for finding in made.findings if not severities or finding.severity in severities]


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_are_the_golden_ones(variant: str) -> None:
    directory = GOLDEN / variant
    golden = {str(path.relative_to(directory)): path for path in directory.rglob("*") if path.is_file()}
    made = texts(VARIANTS[variant])
    assert set(made) == set(golden)
    for path, text in made.items():
        assert text == golden[path].read_text(), f"{variant}/{path}: run python -m tests.handover.test_files"


def test_every_file_says_where_it_comes_from_and_belongs() -> None:
    for file in make_configuration(sample_site()).files:
        head = file.text.split("\n\n")[0]
        assert all(line.startswith("# ") for line in head.split("\n"))
        assert f"# Install: {file.install} on {file.host}, {file.owner}, mode {file.mode:04o}" in head
        assert file.text.endswith("\n")
        assert not file.text.endswith("\n\n")


# --- layouts


def layouts_of(site: Site) -> dict[str, dict[str, grammar.Domain]]:
    return {
        Path(path).stem: grammar.layout(text)
        for path, text in texts(site).items()
        if path.startswith("layouts/")
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_layouts_start_every_pool_on_its_host_and_the_doors_on_the_old_ports(version: str) -> None:
    site = sample_site(version)
    found = layouts_of(site)
    assert set(found) == {"dpm", "disk01", "disk02"}
    for server in ("disk01", "disk02"):
        [domain] = found[server].values()
        assert domain.settings["dcache.user"] == "dpmmgr"
        started = {one.settings["pool.name"]: one.settings for one in domain.services}
        expected = {one.name: one.path for one in POOLS if one.server.startswith(server)}
        assert {name: one["pool.path"] for name, one in started.items()} == expected
        assert {one["pool.wait-for-files"] for one in started.values()} == {"${pool.path}/data"}
    doors = found["dpm"]["doorsDomain"]
    assert doors.service("webdav").settings == {"webdav.net.port": "443", "webdav.authn.protocol": "https"}
    assert doors.service("xrootd").settings == {"xrootd.net.port": "1094", "xrootd.authz.write-paths": "/"}
    assert doors.service("ftp").settings == {"ftp.authn.protocol": "gsi", "ftp.net.port": "2811"}
    assert doors.service("srm").settings == {"srm.net.port": "8446"}


@pytest.mark.parametrize(
    ("version", "cleaner"), [("8.2", "cleaner"), ("9.0", "cleaner-disk"), ("12.0", "cleaner-disk")]
)
def test_central_services_are_those_of_the_release(version: str, cleaner: str) -> None:
    central = layouts_of(sample_site(version))["dpm"]["centralDomain"]
    names = [service.name for service in central.services]
    assert len(names) == len(set(names))
    assert {name for name in names if name.startswith("cleaner")} == {cleaner}
    assert {"poolmanager", "pnfsmanager", "gplazma", "transfermanagers", "srmmanager"} <= set(names)
    assert "spacemanager" not in names


def test_zookeeper_has_a_domain_of_its_own() -> None:
    [service] = layouts_of(sample_site())["dpm"]["zookeeperDomain"].services
    assert service.name == "zookeeper"


def test_space_manager_runs_where_it_is_wanted() -> None:
    site = sample_site(with_spaces=True)
    central = layouts_of(site)["dpm"]["centralDomain"]
    assert "spacemanager" in [service.name for service in central.services]
    assert grammar.properties(texts(site)["dcache.conf"])["dcache.enable.space-reservation"] == "true"


def test_head_node_with_pools_has_one_layout() -> None:
    site = sample_site(pools=(replace(POOLS[0], server="dpm.example.org"), *POOLS[1:]))
    assert set(layouts_of(site)["dpm"]) == {
        "zookeeperDomain",
        "centralDomain",
        "doorsDomain",
        "poolsDomain_dpm",
    }


def test_hosts_of_one_short_name_are_an_error() -> None:
    site = sample_site(pools=(*POOLS, replace(POOLS[0], server="disk01.example.net")))
    assert "host-name-shared" in ids(make_configuration(site), Severity.ERROR)


def test_units_of_systemd_open_low_ports_and_protected_file_systems() -> None:
    made = texts(sample_site())
    doors = made["systemd/dpm/dcache@doorsDomain.service.d/dome-bridge.conf"]
    assert list(grammar.meaningful(doors)) == ["[Service]", "AmbientCapabilities=CAP_NET_BIND_SERVICE"]
    plain = list(
        grammar.meaningful(made["systemd/disk01/dcache@poolsDomain_disk01.service.d/dome-bridge.conf"])
    )
    assert {"User=dpmmgr", "ReadWritePaths=-/srv/fs1", "RequiresMountsFor=/srv/fs2"} <= set(plain)
    assert "ProtectHome=false" not in plain
    hidden = list(
        grammar.meaningful(made["systemd/disk02/dcache@poolsDomain_disk02.service.d/dome-bridge.conf"])
    )
    assert {"ProtectHome=false", "ReadWritePaths=-/home/dpm"} <= set(hidden)
    assert "ProtectSystem=false" not in hidden


def test_path_with_blanks_and_percent_signs_is_one_word_for_systemd() -> None:
    strange = DiskPool("p", "disk01.example.org", "/srv/a %b", "/srv/a %b/dcache", "data")
    made = texts(sample_site(pools=(strange,)))
    lines = made["systemd/disk01/dcache@poolsDomain_disk01.service.d/dome-bridge.conf"].split("\n")
    assert 'RequiresMountsFor="/srv/a %%b"' in lines


@pytest.mark.parametrize("path", ["/srv/a\nb", "/srv/${x}", "srv", "/srv/a\\b", "/srv/ "])
def test_path_that_would_say_something_else_in_a_layout_is_not_plain(path: str) -> None:
    assert not DiskPool("p", "disk01.example.org", path, path, "data").is_plain


# --- the pool manager


def selection_of(site: Site) -> grammar.PoolSelection:
    return grammar.PoolSelection.fed(texts(site)["poolmanager.conf"])


CLASSES = {
    "data": ("atlas:ATLASDATADISK", "cms:CMS"),
    "scratch": ("atlas:ATLAS_SCRATCH",),
}


@pytest.mark.parametrize("with_spaces", [False, True])
def test_everything_is_read_from_everywhere_and_written_where_its_quotatoken_is(with_spaces: bool) -> None:
    site = sample_site(with_spaces=with_spaces)
    selection = selection_of(site)
    names = {one.name for one in POOLS}
    for classes in (*CLASSES.values(), ("atlas:default", "cms:default", "dpm:unheard-of")):
        for store_class in classes:
            assert selection.select("readpref", store_class) == names
    for dpm_pool, classes in CLASSES.items():
        writable = {one.name for one in POOLS if one.dpm_pool == dpm_pool and one.is_writable}
        for store_class in classes:
            assert selection.select("writepref", store_class) == writable
    # As in DPM, which refuses a file that no quotatoken covers.
    assert selection.select("writepref", "atlas:default") == set()
    assert selection.regex is False
    for link in selection.links.values():
        assert (link.preferences["cachepref"], link.preferences["p2ppref"]) == (0, -1)


def test_without_any_placed_quotatoken_everything_is_writable_everywhere() -> None:
    selection = selection_of(sample_site(tokens=(TOKENS[3],)))
    writable = {one.name for one in POOLS if one.is_writable}
    assert selection.select("writepref", "atlas:default") == writable
    assert selection.select("writepref", "dpm:other") == writable


def test_link_groups_take_online_replicas_and_no_pool_is_in_two() -> None:
    site = sample_site(with_spaces=True)
    selection = selection_of(site)
    assert set(selection.link_groups) == {"data-linkgroup", "scratch-linkgroup"}
    members = [
        pool
        for group in selection.link_groups.values()
        for link in group
        for pgroup in selection.links[link].pgroups
        for pool in selection.pgroups[pgroup]
    ]
    assert len(members) == len(set(members))
    for flags in selection.allowed.values():
        assert {flag for flag, is_allowed in flags.items() if is_allowed} == {
            "onlineAllowed",
            "replicaAllowed",
        }


def test_reservations_are_for_groups_that_dpm_has() -> None:
    groups = grammar.link_group_authorization(
        texts(sample_site(with_spaces=True))["LinkGroupAuthorization.conf"]
    )
    assert groups == {
        "data-linkgroup": ["/atlas", "/atlas/Role=production", "/cms"],
        "scratch-linkgroup": ["/atlas"],
    }


def test_quotatoken_of_groups_that_dpm_does_not_have_is_an_error_and_names_nobody() -> None:
    token = QuotaToken("BELLE", "data", "/dpm/example.org/home/belle", 1, (999,))
    vo_only = QuotaToken("LSST", "data", "/dpm/example.org/home/lsst", 1)
    site = sample_site(tokens=(*TOKENS, token, vo_only), with_spaces=True)
    made = make_configuration(site)
    assert not made.ok
    assert ids(made, Severity.ERROR) == ["token-group-gone", "token-without-group", "token-without-group"]
    assert "belle" not in texts(site)["LinkGroupAuthorization.conf"]
    assert "lsst" not in texts(site)["LinkGroupAuthorization.conf"]


def test_quotatoken_in_a_pool_without_room_is_an_error() -> None:
    nowhere = QuotaToken("X", "gone", "/dpm/example.org/home/atlas/x", 1, (101,))
    read_only = QuotaToken("Y", "old", "/dpm/example.org/home/atlas/y", 1, (101,))
    site = sample_site(tokens=(nowhere, read_only), pools=(*POOLS, pool("fs9", 9, "old", is_writable=False)))
    assert {"token-pool-unknown", "pool-not-writable"} <= set(ids(make_configuration(site), Severity.ERROR))


NAMES = st.text("abcAB._-:@ é", max_size=6)
POOL_NAMES = st.sampled_from(["data", "scratch", "a b", "every", "x@y"])


@st.composite
def _tokens(draw: st.DrawFn) -> QuotaToken:
    place = draw(st.sampled_from(["/dpm/example.org/home/atlas", "/dpm/example.org/home/cms", "/other"]))
    return QuotaToken(draw(NAMES), draw(POOL_NAMES), f"{place}/{draw(st.integers(0, 3))}", 1, (101,))


@settings(max_examples=60)
@given(st.lists(_tokens(), max_size=6), st.booleans())
def test_whatever_the_quotatokens_no_file_is_out_of_reach(
    tokens: list[QuotaToken], with_spaces: bool
) -> None:
    pools = tuple(
        pool(f"fs{number}", number, name) for number, name in enumerate(("data", "a b", "every", "x@y"))
    )
    pools = tuple(replace(one, name=f"p{number}") for number, one in enumerate(pools))
    selection = selection_of(sample_site(tokens=tuple(tokens), pools=pools, with_spaces=with_spaces))
    everything = {one.name for one in pools}
    for unit in selection.units["-store"]:
        assert selection.select("readpref", unit.partition("@")[0]) == everything
    for token in tokens:
        written = selection.select("writepref", token.store_unit.partition("@")[0])
        assert {one.name for one in pools if one.dpm_pool == token.pool} <= written


# --- dcache.conf and the rest


def test_common_settings_keep_files_on_disk_and_know_the_issuers() -> None:
    found = grammar.properties(texts(sample_site())["dcache.conf"])
    assert found["dcache.default-access-latency"] == "ONLINE"
    assert found["dcache.default-retention-policy"] == "REPLICA"
    assert found["pnfsmanager.enable.acl"] == "true"
    assert found["dcache.enable.space-reservation"] == "false"
    provider = "https://atlas-auth.example.org/ -profile=wlcg -prefix=/dpm/example.org/home/atlas"
    assert found["gplazma.oidc.provider!atlas"] == provider
    audiences = found["gplazma.oidc.audience-targets"].split()
    assert audiences[:2] == ["https://wlcg.cern.ch/jwt/v1/any", "https://dpm.example.org"]
    assert "https://dpm.example.org:443" in audiences


def test_accounting_counts_every_gid_once() -> None:
    twice = Group(101, "atlas/again")
    found = grammar.properties(texts(sample_site(groups=(*GROUPS, twice, Group(0, "root"))))["dcache.conf"])
    pairs = [pair.strip().split("=", 1) for pair in found["star.gid-mapping"].split(",")]
    assert pairs[0] == ["101", "/atlas"]
    assert [int(gid) for gid, _ in pairs] == [101, 102, 103, 104, 105, 106]


def test_accounting_producers_are_always_named() -> None:
    assert set(accounting.CHECKS) <= set(ids(make_configuration(sample_site()), Severity.INFO))


def test_storage_summary_has_one_vo_for_each_pool_group() -> None:
    settings = layouts_of(sample_site())["dpm"]["doorsDomain"].service("frontend").settings
    assert settings["frontend.srr.shares"] == "data-pools:/atlas,scratch-pools:/atlas"
    assert settings["frontend.srr.public"] == "true"
    assert "srr-pool-shared" in ids(make_configuration(sample_site()))


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"exclude_paths": ("/x",)}, "issuer-rules"),
        ({"mode": "group"}, "issuer-rules"),
        ({"base_path": ("/dpm/a", "/dpm/b")}, "issuer-paths"),
    ],
)
def test_rules_of_issuers_that_dcache_does_not_have_are_named(changes: dict[str, object], check: str) -> None:
    auth = AuthConfig(issuers=(replace(ISSUERS[0], **changes),))  # type: ignore[arg-type]
    assert check in ids(make_configuration(sample_site(auth=auth)), Severity.WARNING)


def test_issuers_of_several_vos_can_name_each_others_groups() -> None:
    other = replace(ISSUERS[0], name="cms", vo="cms", groups=("cms",), issuer="https://cms.example.org/")
    made = make_configuration(sample_site(auth=AuthConfig(issuers=(*ISSUERS, other))))
    assert "issuer-groups-shared" in ids(made, Severity.WARNING)


@pytest.mark.parametrize(("version", "check"), [("7.2", "release-unsupported"), ("13.1", "release-unknown")])
def test_release_that_nobody_looked_at_is_named(version: str, check: str) -> None:
    assert check in ids(make_configuration(sample_site(version)))


def test_site_without_full_name_homes_and_pools_is_told_what_to_set() -> None:
    made = make_configuration(sample_site(head="localhost", domains=(), vo_dirs=(), pools=(), tokens=()))
    assert {"head-host-unknown", "domain-none", "pool-none"} <= set(ids(made))
    assert not made.ok


def test_sound_site_has_no_error() -> None:
    assert ids(make_configuration(sample_site()), Severity.ERROR) == []


def test_releases_differ_as_dcache_says() -> None:
    assert [Release.parse(text).cleaner for text in ("8.2", "9.0", "10.2")] == [
        "cleaner",
        *["cleaner-disk"] * 2,
    ]
    assert [Release.parse(text).java for text in ("9.2", "10.2")] == [11, 17]
    assert not Release.parse("11.2").ban_file_may_keep_last_only


# --- on disk


def test_second_run_touches_nothing_and_a_vanished_host_goes(tmp_path: Path) -> None:
    made = make_configuration(sample_site())
    tree.write(made, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    own = tmp_path / "layouts" / "mine.conf"
    own.write_text("kept\n")
    tree.write(make_configuration(sample_site()), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    tree.write(make_configuration(sample_site(pools=POOLS[:2])), tmp_path)
    assert not (tmp_path / "layouts/disk02.conf").exists()
    assert not (tmp_path / "systemd/disk02").exists()
    assert own.read_text() == "kept\n"


def test_names_of_people_are_closed_to_others(tmp_path: Path) -> None:
    tree.write(make_configuration(sample_site()), tmp_path)
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        is_open = path.stat().st_mode & 0o004
        assert not (is_open and re.search(r"/CN=|3f2c-anna", path.read_text())), path
    assert (tmp_path / "multi-mapfile.users").stat().st_mode & 0o777 == 0o640


def test_difference_from_the_live_directory_is_what_was_edited(tmp_path: Path) -> None:
    made = make_configuration(sample_site())
    for path, text in made.etc_texts.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    assert list(tree.diff(made, tmp_path)) == []
    live = tmp_path / "dcache.conf"
    live.write_text(live.read_text().replace("= ONLINE", "= NEARLINE"))
    (tmp_path / "layouts/disk02.conf").unlink()  # as on every host but that one
    (tmp_path / "ban.conf").unlink()
    lines = list(tree.diff(made, tmp_path))
    assert "-dcache.default-access-latency = NEARLINE" in lines
    assert "+dcache.default-access-latency = ONLINE" in lines
    assert "+ban group:dpm-banned" in lines
    assert not any("disk02" in line for line in lines)


# --- documentation


def test_every_finding_is_in_the_reference() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/hand-over.md").read_text()
    assert page.endswith(reference.reference()), (
        "replace the tables of findings by the output of `python -m dome_bridge.handover.reference`"
    )


def test_every_finding_that_is_made_is_listed() -> None:
    listed = reference.reference()
    code = "".join(path.read_text() for path in Path(reference.__file__).parent.glob("*.py"))
    made = set(re.findall(r'Finding\(\s*"([a-z0-9-]+)"|_about\(token, "([a-z-]+)"', code))
    assert len(made) > 25
    for name in (one or other for one, other in made):
        assert f"| `{name}` |" in listed


def write_golden() -> None:
    for variant, site in VARIANTS.items():
        shutil.rmtree(GOLDEN / variant, ignore_errors=True)
        for path, text in texts(site).items():
            (GOLDEN / variant / path).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / variant / path).write_text(text)


if __name__ == "__main__":
    write_golden()
