"""What DPM's own domehead.conf says about the settings of the DOME API."""

from __future__ import annotations

import re
from operator import attrgetter
from pathlib import Path

import pytest

from dome_bridge.config import ApiConfig, AuthConfig, Config, DiskConfig, ListenConfig, QueueConfig
from tests.fixtures.settings import ENABLED, load_text, refusal

REFERENCE = Path(__file__).parent.parent / "docs" / "reference" / "config.md"

KEY = "0123456789abcdef0123456789abcdef"
DN = "/DC=org/CN=disk1.example.org"

PAIR = "glb.restclient.cli_certificate: /etc/cert.pem\nglb.restclient.cli_private_key: /etc/key.pem"

HEAD = {
    "api.url_prefix": ("glb.auth.urlprefix: /dpm-rest/", "/dpm-rest"),
    "api.host_names": ("glb.myhostname: head.example.org", ("head.example.org",)),
    "auth.gridmap_file": ("head.gridmapfile: /etc/grid-mapfile", Path("/etc/grid-mapfile")),
    "api.directory_size_depth": ("head.dirspacereportdepth: 8", 8),
    "api.tick_seconds": ("glb.tickfreq: 5", 5.0),
    "api.stat_hook": ("head.filepuller.stathook: /usr/libexec/stathook", Path("/usr/libexec/stathook")),
    "api.stat_hook_seconds": ("head.filepuller.stathooktimeout: 90", 90.0),
    "api.tls.certificate": (PAIR, Path("/etc/cert.pem")),
    "api.tls.key": ("\n".join(reversed(PAIR.splitlines())), Path("/etc/key.pem")),
    "api.tls.ca_dir": ("glb.restclient.ca_path: /etc/ca", Path("/etc/ca")),
    "api.placement.min_free_mb": ("head.put.minfreespace_mb: 0", 0),
    "api.checksums.max_total": ("head.checksum.maxtotal: 1000", 1000),
    "api.checksums.max_per_server": ("head.checksum.maxpernode: 40", 40),
    "api.checksums.timeout_seconds": ("head.checksum.qtmout: 181", 181.0),
    "api.pulls.max_total": ("head.filepulls.maxtotal: 1001", 1001),
    "api.pulls.max_per_server": ("head.filepulls.maxpernode: 41", 41),
    "api.pulls.timeout_seconds": ("head.filepulls.qtmout: 182", 182.0),
    "auth.authorize_dn": (f'glb.auth.authorizeDN[]: "{DN}"', (DN,)),
    "auth.audience": ("head.oidc.allowaudience[]: https://dpm.example.org", ("https://dpm.example.org",)),
    "auth.xrdhttp_secret_file": (f"glb.restclient.xrdhttpkey: {KEY}", None),
    "disk.certificate": (PAIR, Path("/etc/cert.pem")),
    "disk.key": ("glb.restclient.cli_private_key: /etc/key.pem", Path("/etc/key.pem")),
    "disk.ca_dir": ("glb.restclient.ca_path: /etc/ca", Path("/etc/ca")),
    "disk.url_prefix": ("head.diskdomemgmtsuffix: /fcgi-disk/", "/fcgi-disk"),
    "disk.connect_seconds": ("glb.restclient.conn_timeout: 30", 30.0),
    "disk.request_seconds": ("glb.restclient.ops_timeout: 020", 20.0),
    "disk.poll_seconds": ("glb.fscheckinterval: 30", 30.0),
}


def setting(loaded: Config, name: str) -> object:
    return attrgetter(name)(loaded)


@pytest.mark.parametrize("name", HEAD)
def test_key_of_domehead_conf_is_taken(tmp_path: Path, name: str) -> None:
    line, value = HEAD[name]
    assert setting(load_text(tmp_path, ENABLED, line), name) == value


def test_reference_names_every_key_that_is_taken() -> None:
    table = REFERENCE.read_text().partition("With the API enabled these keys")[2].partition("\n\nWhere")[0]
    named = dict(re.findall(r"^\| `([a-z_.]+)` \| `([A-Za-z_.]+)", table, re.M))
    origins = {name: re.split(r"[:\[]", line)[0] for name, (line, _) in HEAD.items()}
    assert named == {**origins, "auth.issuer": "head.oidc.allowissuer"}


def test_key_in_toml_wins_over_domehead_conf(tmp_path: Path) -> None:
    domehead = "\n".join(line for line, _ in HEAD.values())
    text = """
    api.url_prefix = "/domehead"
    api.host_names = []
    auth.gridmap_file = "/etc/lcgdm-mapfile"
    api.directory_size_depth = 6
    api.tick_seconds = 10
    api.stat_hook = ""
    api.stat_hook_seconds = 60
    api.placement.min_free_mb = 4096
    api.checksums = {max_total = 10, max_per_server = 2, timeout_seconds = 180}
    api.pulls = {max_total = 10, max_per_server = 2, timeout_seconds = 180}
    api.tls.certificate = "/etc/grid-security/hostcert.pem"
    api.tls.key = "/etc/grid-security/hostkey.pem"
    api.tls.ca_dir = "/etc/grid-security/certificates"
    disk.certificate = ""
    disk.key = ""
    disk.ca_dir = "/etc/grid-security/certificates"
    disk.url_prefix = "/domedisk"
    disk.connect_seconds = 15
    disk.request_seconds = 15
    disk.poll_seconds = 60
    """
    loaded = load_text(tmp_path, ENABLED + text, domehead)
    assert loaded.api == ApiConfig(enabled=True, listen=(ListenConfig(port=8094),))
    assert loaded.disk == DiskConfig()


def test_empty_value_of_domehead_conf_leaves_the_default(tmp_path: Path) -> None:
    domehead = "\n".join(line.partition(":")[0] + ":" for line, _ in HEAD.values() if "[]" not in line)
    loaded = load_text(tmp_path, ENABLED, domehead)
    assert loaded.api == ApiConfig(enabled=True, listen=(ListenConfig(port=8094),))
    assert (loaded.auth, loaded.disk) == (AuthConfig(), DiskConfig())


def test_pool_of_domehead_conf_is_not_ours(tmp_path: Path) -> None:
    assert load_text(tmp_path, ENABLED, "head.db.poolsz: 128").api.database_connections == 16


WRONG_HEAD = {
    "glb.auth.urlprefix: dome head": "glb.auth.urlprefix, taken for api.url_prefix: expected path such as",
    "glb.auth.urlprefix: /": "glb.auth.urlprefix, taken for api.url_prefix: expected path such as",
    "head.dirspacereportdepth: six": "head.dirspacereportdepth, taken for api.directory_size_depth: expected",
    "head.gridmapfile: mapfile": "head.gridmapfile, taken for auth.gridmap_file: expected absolute path",
    "glb.restclient.conn_timeout: 0": "glb.restclient.conn_timeout, taken for disk.connect_seconds: expected",
    "glb.tickfreq: often": "glb.tickfreq, taken for api.tick_seconds: expected seconds, above 0, got",
    "glb.fscheckinterval: 60s": "glb.fscheckinterval, taken for disk.poll_seconds: expected seconds, above 0",
    "head.filepuller.stathook: none": "head.filepuller.stathook, taken for api.stat_hook: expected absolute",
    "head.put.minfreespace_mb: -1": "head.put.minfreespace_mb, taken for api.placement.min_free_mb: expected",
    "head.checksum.maxtotal: 0": "head.checksum.maxtotal, taken for api.checksums.max_total: expected whole",
    "head.filepulls.qtmout: 1e3": "head.filepulls.qtmout, taken for api.pulls.timeout_seconds: expected sec",
}


@pytest.mark.parametrize("line", WRONG_HEAD)
def test_wrong_value_of_domehead_conf_is_refused_with_the_key_that_would_mend_it(
    tmp_path: Path, line: str
) -> None:
    assert refusal(tmp_path, ENABLED, line, file="domehead.conf").startswith(WRONG_HEAD[line])


NUMBERS = {
    name: line.partition(":")[0] for name, (line, value) in HEAD.items() if type(value) in (int, float)
}


@pytest.mark.parametrize("name", NUMBERS)
def test_text_for_a_number_in_domehead_conf_is_refused_unless_the_toml_has_the_key(
    tmp_path: Path, name: str
) -> None:
    line = f"{NUMBERS[name]}: many"
    message = refusal(tmp_path, ENABLED, line, file="domehead.conf")
    assert message.startswith(f"{NUMBERS[name]}, taken for {name}: expected ")
    assert message.endswith(', got "many"')
    assert setting(load_text(tmp_path, f"{ENABLED}{name} = 7", line), name) == 7


def test_limit_missing_in_toml_is_taken_from_domehead_conf_beside_those_given(tmp_path: Path) -> None:
    text = f"{ENABLED}api.checksums.max_total = 5"
    domehead = "head.checksum.maxtotal: 1000\nhead.checksum.maxpernode: 40"
    assert load_text(tmp_path, text, domehead).api.checksums == QueueConfig(5, 40)


def test_wrong_value_of_domehead_conf_does_no_harm_while_the_api_is_off(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, "", "\n".join([*WRONG_HEAD, 'glb.auth.authorizeDN[]: "/CN=a']))
    assert (loaded.api, loaded.auth, loaded.disk) == (ApiConfig(), AuthConfig(), DiskConfig())
