"""The settings of the DOME API: its listeners, its limits, and whom it trusts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dome_bridge import config_kinds
from dome_bridge.auth.dn import canonical
from dome_bridge.config import (
    ApiConfig,
    AuthConfig,
    DiskConfig,
    ListenConfig,
    PlacementConfig,
    ProxiedConfig,
    QueueConfig,
)
from dome_bridge.config_secrets import read_signing_key
from dome_bridge.errors import ConfigError
from tests.fixtures.settings import ENABLED, load_text, logged_warnings, refusal, write

REFERENCE = Path(__file__).parent.parent / "docs" / "reference" / "config.md"
HOWTO = REFERENCE.parent.parent / "howto/dome-api.md"

KEY = "0123456789abcdef0123456789abcdef"
DN = "/DC=org/CN=disk1.example.org"


# Listeners


def test_without_anything_the_api_is_off_and_has_the_documented_defaults(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, "")
    assert (loaded.api, loaded.auth, loaded.disk) == (ApiConfig(), AuthConfig(), DiskConfig())
    assert not loaded.api.enabled


def test_listeners_are_taken_in_their_order(tmp_path: Path) -> None:
    text = """
    [api]
    enabled = true
    [[api.listen]]
    port = 8094
    protocol = "proxied"
    [[api.listen]]
    unix_socket = "/run/dome-bridge/api.sock"
    [[api.listen]]
    address = "0:0::1"
    port = 8094
    """
    listeners = load_text(tmp_path, text).api.listen
    assert listeners == (
        ListenConfig("127.0.0.1", 8094),
        ListenConfig(unix_socket=Path("/run/dome-bridge/api.sock")),
        ListenConfig("::1", 8094),
    )
    assert [each.place for each in listeners] == [
        "127.0.0.1:8094",
        "/run/dome-bridge/api.sock",
        "[::1]:8094",
    ]
    assert {each.protocol for each in listeners} == {"proxied"}


def test_empty_socket_leaves_address_and_port(tmp_path: Path) -> None:
    text = "api.listen = [{address = '127.1.2.3', port = 1, unix_socket = ''}]"
    assert load_text(tmp_path, text).api.listen == (ListenConfig("127.1.2.3", 1),)


def test_enabled_api_without_a_listener_is_told_the_lines_to_add(tmp_path: Path) -> None:
    message = refusal(tmp_path, "api.enabled = true")
    lines = re.findall("`(.+?)`", message)
    assert lines == ["[[api.listen]]", "port = 8094", 'protocol = "proxied"']
    assert load_text(tmp_path, "\n".join(["[api]\nenabled = true", *lines])).api.listen[0].port == 8094


def test_example_of_the_reference_is_understood(tmp_path: Path) -> None:
    prose = REFERENCE.read_text().partition("## Listeners of the DOME API")[2]
    example = prose.partition("```toml\n")[2].partition("```")[0]
    for name in ("cert", "key"):
        write(tmp_path / name, name, 0o600)
    tls = f'[api.tls]\ncertificate = "{tmp_path}/cert"\nkey = "{tmp_path}/key"\n'
    api = load_text(tmp_path, example + tls, f"glb.restclient.xrdhttpkey: {KEY}").api
    assert api.enabled
    assert [listener.protocol for listener in api.listen] == ["mixed", "proxied"]
    httpd = HOWTO.read_text().partition("```apache\n")[2].partition("```")[0]
    assert f'ProxyPass "http://{api.listen[1].place}{api.url_prefix}"' in httpd
    assert re.search("^ *SSLOptions .*[+]ExportCertData", httpd, re.M)
    set_by_httpd = re.findall(r"RequestHeader set (\S+)", httpd)
    assert set_by_httpd == [api.proxied.verify_header, api.proxied.dn_header, api.proxied.cert_header]


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "10.0.0.1", "169.254.0.1"])
def test_proxied_listener_that_others_can_reach_is_refused_with_the_reason(
    tmp_path: Path, address: str
) -> None:
    message = refusal(tmp_path, f"api.listen = [{{address = '{address}', port = 8094}}]")
    assert message.startswith("api.listen.address: a proxied listener must be on the loopback interface")
    assert f"got {address}: whoever reaches it can claim to be any DN" in message


@given(st.ip_addresses())
def test_only_loopback_addresses_may_be_proxied(
    tmp_path_factory: pytest.TempPathFactory, address: Any
) -> None:
    assume(not address.is_loopback)
    assert "loopback" in refusal(
        tmp_path_factory.getbasetemp(), f"api.listen = [{{address = '{address}', port = 1}}]"
    )


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        ("port = 8094", "address = '127.0.0.1', port = 8094", "127.0.0.1:8094"),
        ("address = '::1', port = 1", "address = '0:0:0:0:0:0:0:1', port = 1", "[::1]:1"),
        ("unix_socket = '/run/a.sock'", "unix_socket = '/run/./a.sock'", "/run/a.sock"),
    ],
)
def test_two_listeners_in_one_place_are_refused(tmp_path: Path, one: str, other: str, place: str) -> None:
    message = refusal(tmp_path, f"api.listen = [{{{one}}}, {{{other}}}]")
    assert message == f"api.listen: two listeners on {place}: remove one of them"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("api.listen = [{}]", "api.listen: nowhere to listen: add port = 8094, or a unix_socket"),
        ("api.listen = [{address = '::1'}]", "api.listen: nowhere to listen: add port"),
        (
            "api.listen = [{port = 1, unix_socket = '/s'}]",
            "api.listen: port and unix_socket are both given: keep one of them",
        ),
        (
            "api.listen = [{address = '127.0.0.1', unix_socket = '/s'}]",
            "api.listen: address and unix_socket are both given",
        ),
        ("api.listen = [{port = 0}]", "api.listen.port: expected whole number from 1 to 65535, got 0"),
        (
            "api.listen = [{port = 1}, {port = 0}]",
            "table 2 of 2: api.listen.port: expected whole number from 1 to 65535, got 0",
        ),
        ("api.listen = [{port = 1}, {}]", "table 2 of 2: api.listen: nowhere to listen"),
        ("api.listen = [{port = 1, address = 'localhost'}]", "api.listen.address: expected IP address such"),
        ("api.listen = [{unix_socket = 'a.sock'}]", "api.listen.unix_socket: expected absolute path,"),
        (
            f"api.listen = [{{unix_socket = '/{'a' * 107}'}}]",
            "api.listen.unix_socket: expected absolute path",
        ),
        ("api.listen = {port = 1}", "api.listen: expected [[api.listen]], got a table"),
        ("[api.listen]\nport = 1", "api.listen: expected [[api.listen]], got a table"),
        ("api.listen = 8094", "api.listen: expected [[api.listen]], got 8094"),
        ("api.listen = [8094]", "api.listen: expected a section [[api.listen]], got 8094"),
        ("[[api.proxied]]", "api.proxied: expected a section [api.proxied], got an array"),
        ("[[api]]", "api: expected a section [api], got an array"),
    ],
)
def test_wrong_listener_is_refused_with_place_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text).startswith(message)


@pytest.mark.parametrize("protocol", ["'fcgi'", "''", "1", "['mixed']", "'PROXIED'"])
def test_unknown_protocol_is_refused_with_the_known_ones(tmp_path: Path, protocol: str) -> None:
    message = refusal(tmp_path, f"api.listen = [{{port = 1094, protocol = {protocol}}}]")
    known = '"proxied" or "mixed" or "https" or "http"'
    assert message.startswith(f"api.listen.protocol: expected {known}, got ")


def test_disks_over_https_need_a_certificate_and_have_a_port_of_their_own(tmp_path: Path) -> None:
    assert "add disk.certificate and disk.key" in refusal(tmp_path, "disk.scheme = 'https'")
    text = "[disk]\nscheme = 'https'\ncertificate = '/etc/c.pem'\nkey = '/etc/k.pem'\n"
    disk = load_text(tmp_path, text).disk
    assert (disk.scheme, disk.port, disk.key) == ("https", 443, Path("/etc/k.pem"))
    assert load_text(tmp_path, f"{text}port = 1095").disk.port == 1095


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("api.listen = [{prot = 1}]", "unknown key api.listen.prot: did you mean api.listen.port?"),
        (
            "api.proxied.dn_heder = 'x'",
            "unknown key api.proxied.dn_heder: did you mean api.proxied.dn_header?",
        ),
        ('[api]\n"listen.port" = 1', "unknown key api.listen.port: did you mean api.listen?"),
        ("[[api.listn]]\nport = 1", "unknown key api.listn: did you mean api.listen?"),
        ("[api.proxid]", "unknown key api.proxid: did you mean api.proxied?"),
        ("[api]\ndn_header = 'x'", "unknown key api.dn_header: did you mean api.proxied.dn_header?"),
        (
            "api.placement.min_free_gb = 4",
            "unknown key api.placement.min_free_gb: did you mean api.placement.min_free_mb?",
        ),
        (
            "api.pulls.max_per_node = 2",
            "unknown key api.pulls.max_per_node: did you mean api.pulls.max_per_server?",
        ),
        ("api.min_free_mb = 1", "unknown key api.min_free_mb: did you mean api.placement.min_free_mb?"),
        (
            "api.max_total = 1",
            "unknown key api.max_total: known are api.checksums.max_total, api.pulls.max_t",
        ),
        ("[api.checksum]", "unknown key api.checksum: did you mean api.checksums?"),
        ("[disk]\npoll_second = 1", "unknown key disk.poll_second: did you mean disk.poll_seconds?"),
        ("[[api_listen]]", "unknown section [api_listen]: did you mean [[api.listen]]?"),
        ("[auth]\nauthorise_dn = []", "unknown key auth.authorise_dn: did you mean auth.authorize_dn?"),
        (
            "[auth]\nxrdhttp_secret = 'x'",
            "unknown key auth.xrdhttp_secret: did you mean auth.xrdhttp_secret_file",
        ),
        ("[disk]\nscheem = 'x'", "unknown key disk.scheem: did you mean disk.scheme?"),
    ],
)
def test_unknown_key_of_a_table_gets_a_suggestion(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text).startswith(message)


# The other values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("api.enabled = 1", "api.enabled: expected true or false, got 1"),
        ("api.url_prefix = 'domehead'", 'api.url_prefix: expected path such as /domehead, got "domehead"'),
        ("api.url_prefix = '/domehead/'", "api.url_prefix: expected path such as /domehead, got "),
        ("api.url_prefix = '/'", "api.url_prefix: expected path such as /domehead, got "),
        ("api.url_prefix = ''", "api.url_prefix: expected path such as /domehead, got "),
        ("api.url_prefix = '/dome?head'", "api.url_prefix: expected path such as /domehead, got "),
        ("api.host_names = 'head'", "api.host_names: expected array of host names, got "),
        ("api.host_names = ['head', '']", "api.host_names: expected array of host names, got an array"),
        ("api.host_names = ['head/x']", "api.host_names: expected array of host names, got an array"),
        ("auth.gridmap_file = ''", 'auth.gridmap_file: expected absolute path, got ""'),
        ("api.directory_size_depth = -1", "api.directory_size_depth: expected whole number from 0"),
        ("api.database_connections = 0", "api.database_connections: expected whole number from 1 to 128"),
        ("api.database_connections = 129", "api.database_connections: expected whole number from 1 to 128"),
        ("api.keepalive_seconds = 0", "api.keepalive_seconds: expected seconds, above 0, got 0"),
        ("api.request_seconds = inf", "api.request_seconds: expected seconds, above 0, got "),
        ("api.tick_seconds = 0", "api.tick_seconds: expected seconds, above 0, got 0"),
        ("api.stat_hook = 'hook'", 'api.stat_hook: expected absolute path, or empty, got "hook" (it must'),
        ("api.stat_hook_seconds = 0", "api.stat_hook_seconds: expected seconds, above 0, got 0"),
        ("api.abandoned_upload_hours = 0", "api.abandoned_upload_hours: expected whole number from 1"),
        ("api.abandoned_upload_hours = 1.5", "api.abandoned_upload_hours: expected whole number from 1"),
        ("api.placement.min_free_mb = -1", "api.placement.min_free_mb: expected whole number from 0 to"),
        ("api.placement.min_free_mb = true", "api.placement.min_free_mb: expected whole number from 0 to"),
        ("[[api.placement]]", "api.placement: expected a section [api.placement], got an array"),
        ("api.checksums = 10", "api.checksums: expected a section [api.checksums], got 10"),
        ("api.checksums.max_total = 0", "api.checksums.max_total: expected whole number from 1 to"),
        ("api.checksums.max_per_server = 0", "api.checksums.max_per_server: expected whole number from 1"),
        ("api.pulls.max_total = 0", "api.pulls.max_total: expected whole number from 1 to"),
        ("api.pulls.timeout_seconds = 0", "api.pulls.timeout_seconds: expected seconds, above 0, got 0"),
        ("api.proxied.dn_header = ''", "api.proxied.dn_header: expected name of an HTTP header"),
        ("api.proxied.dn_header = 'x dn'", "api.proxied.dn_header: expected name of an HTTP header"),
        ("api.proxied.dn_header = 'x-dn:'", "api.proxied.dn_header: expected name of an HTTP header"),
        ("api.proxied.dn_header = 'dñ'", "api.proxied.dn_header: expected name of an HTTP header"),
        (
            "api.proxied.dn_header = 'RemoteClientDN'",
            "api.proxied.dn_header: expected name of an HTTP header",
        ),
        ("api.proxied.dn_header = 'X-SSL-Client-Cert'", "api.proxied: two of its headers are the same"),
        ("auth.authorize_dn = '/CN=a'", "auth.authorize_dn: expected array of DNs, got "),
        (
            "auth.authorize_dn = ['']",
            "auth.authorize_dn: expected array of DNs, got an array (a DN is empty)",
        ),
        ("auth.authorize_dn = [1]", "auth.authorize_dn: expected array of DNs, got an array"),
        ("disk.port = 0", "disk.port: expected whole number from 1 to 65535, got 0"),
        ("disk.url_prefix = '/domedisk/'", "disk.url_prefix: expected path such as"),
        ('disk.addresses = ["disk1"]', "disk.addresses: expected array of server=host:port"),
        (
            'disk.addresses = ["disk1=h:0"]',
            "disk.addresses: expected array of server=host:port, got an array (not of the form",
        ),
        (
            'disk.addresses = ["disk1=h:1", "disk1=h:2"]',
            "disk.addresses: expected array of server=host:port, got an array (a server stands there twice)",
        ),
        ("disk.poll_seconds = 0", "disk.poll_seconds: expected seconds, above 0, got 0"),
        ("disk.connections_per_server = 0", "disk.connections_per_server: expected whole number from 1"),
    ],
)
def test_wrong_setting_is_refused_with_place_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text).startswith(message)


def test_names_of_headers_are_compared_without_case(tmp_path: Path) -> None:
    proxied = load_text(tmp_path, "api.proxied.dn_header = 'X-DN'").api.proxied
    assert proxied == ProxiedConfig(dn_header="x-dn")


def test_right_settings_are_taken(tmp_path: Path) -> None:
    text = """
    [api]
    url_prefix = "/dpm-rest/v1"
    host_names = ["head.example.org", "dpm", "dpm"]
    directory_size_depth = 0
    tick_seconds = 0.5
    stat_hook = "/usr/libexec/stat hook"
    stat_hook_seconds = 5
    abandoned_upload_hours = 72
    [api.placement]
    min_free_mb = 0
    [api.checksums]
    max_total = 1000
    max_per_server = 40
    timeout_seconds = 60
    [api.pulls]
    max_total = 1
    [disk]
    port = 8095
    connect_seconds = 2
    poll_seconds = 15
    """
    loaded = load_text(tmp_path, text)
    assert loaded.api == ApiConfig(
        url_prefix="/dpm-rest/v1",
        host_names=("head.example.org", "dpm"),
        directory_size_depth=0,
        tick_seconds=0.5,
        stat_hook=Path("/usr/libexec/stat hook"),
        stat_hook_seconds=5.0,
        abandoned_upload_hours=72,
        placement=PlacementConfig(min_free_mb=0),
        checksums=QueueConfig(max_total=1000, max_per_server=40, timeout_seconds=60.0),
        pulls=QueueConfig(max_total=1),
    )
    assert loaded.disk == DiskConfig(port=8095, connect_seconds=2.0, poll_seconds=15.0)


def test_defaults_are_those_of_dome() -> None:
    assert ApiConfig().placement == PlacementConfig(min_free_mb=4096)
    assert ApiConfig().checksums == ApiConfig().pulls == QueueConfig(10, 2, 180.0)
    assert (ApiConfig().tick_seconds, ApiConfig().stat_hook, ApiConfig().stat_hook_seconds) == (10, None, 60)
    assert DiskConfig().poll_seconds == 60


@given(st.text("/ab~ ?#%\n", max_size=6))
def test_prefix_is_taken_if_it_is_a_path_without_a_last_slash(text: str) -> None:
    try:
        taken = config_kinds.URL_PREFIX.parse(text)
    except ValueError:
        taken = None
    assert taken == (text if re.fullmatch(r"(/[ab~]+)+", text) else None)


# Who is trusted


def test_clients_of_both_files_are_authorised_once_each(tmp_path: Path) -> None:
    domehead = f'glb.auth.authorizeDN[]: {DN}\nglb.auth.authorizeDN[]: "/CN=a: b"'
    loaded = load_text(tmp_path, f"""{ENABLED}auth.authorize_dn = ["CN=own", '"{DN}"']""", domehead)
    assert loaded.auth.authorize_dn == ("/CN=own", DN, "/CN=a: b")


@pytest.mark.parametrize("value", ['"/CN=a', '/CN=a"', '"', '""', "", '" "', "disk1.example.org", "/disk1"])
def test_client_that_is_wrong_in_domehead_conf_is_skipped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    domehead = f"glb.auth.authorizeDN[]: {value}\nglb.auth.authorizeDN[]: {DN}"
    assert load_text(tmp_path, ENABLED, domehead).auth.authorize_dn == (DN,)
    (warning,) = logged_warnings(caplog)
    assert f"key=glb.auth.authorizeDN[] file={tmp_path}/domehead.conf value={value!r}" in warning


@given(st.sampled_from(['"', "", "CN=", "/CN=", '"/CN=']), st.text('/CN=a, "+\\\n', max_size=8))
def test_no_text_authorises_a_client_without_a_name(start: str, rest: str) -> None:
    try:
        subject = config_kinds.subject(start + rest)
    except ValueError:
        return
    assert subject
    assert canonical(subject) == subject
    assert subject.startswith("/")


# The key that signs requests


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (KEY.encode(), KEY),
        (b"# key of 2019\n" + KEY.encode() + b"\n", KEY),
        (b"  " + KEY.encode() + b"  \r\n", KEY),
        (b"+/" + KEY.encode() + b"==\n", KEY),
        (b"a/+" + KEY.encode() + b"=", "a/+" + KEY),
        (b'"' + KEY.encode()[:31] + b'"\n' + KEY.encode() + b"2\n", KEY + "2"),
        (KEY.encode() + b"1\n" + KEY.encode() + b"2\n", KEY + "1"),
        (b"a" * 20 + b"\xe4\0" + b"b" * 20, "a" * 20 + "\udce4\0" + "b" * 20),
    ],
)
def test_signing_key_is_the_first_long_line_between_letters_or_digits(
    tmp_path: Path, content: bytes, key: str
) -> None:
    file = write(tmp_path / "key", content)
    auth = load_text(tmp_path, f"auth.xrdhttp_secret_file = '{file}'").auth
    assert auth.xrdhttp_secret == key
    assert auth.xrdhttp_secret_file == file


@given(st.lists(st.text("aZ9=/+ \t-", max_size=40), max_size=4))
def test_signing_key_is_long_enough_and_neither_end_is_a_sign(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    file = write(tmp_path_factory.getbasetemp() / "signing-key", "\n".join(lines))
    long = [line for line in (line.strip("=/+ \t-") for line in lines) if len(line) >= 32]
    if long:
        assert read_signing_key(file, "here") == long[0]
    else:
        with pytest.raises(ConfigError, match="has no line with a key of 32 or more"):
            read_signing_key(file, "here")


@pytest.mark.parametrize("content", [b"", b"\n", KEY[:31].encode() + b"=\n", b"=" * 40])
def test_file_without_a_signing_key_is_refused_without_being_shown(tmp_path: Path, content: bytes) -> None:
    file = write(tmp_path / "key", content)
    message = refusal(tmp_path, f"auth.xrdhttp_secret_file = '{file}'")
    assert message.startswith(f"auth.xrdhttp_secret_file: {file} has no line with a key of 32 or more")
    assert KEY[:31] not in message


def test_signing_key_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, f"auth.xrdhttp_secret_file = '{tmp_path}/none'")
    assert message.startswith(f"auth.xrdhttp_secret_file: {tmp_path}/none cannot be read (No such file")


@pytest.mark.parametrize("key", [KEY, f"{KEY}=", f"/{KEY}"])
def test_signing_key_of_domehead_conf_is_taken_as_it_stands(tmp_path: Path, key: str) -> None:
    loaded = load_text(tmp_path, ENABLED, f"glb.restclient.xrdhttpkey: {key}")
    assert loaded.auth == AuthConfig(xrdhttp_secret=key)


def test_k4_signing_key_of_domehead_conf_that_is_too_short_stops_the_start(tmp_path: Path) -> None:
    line = f"glb.restclient.xrdhttpkey: hunter2{KEY[:24]}"
    message = refusal(tmp_path, ENABLED, line, file="domehead.conf")
    assert message.startswith("glb.restclient.xrdhttpkey: has 31 characters, XrdHttp takes no key of fewer")
    assert message.endswith("auth.xrdhttp_secret_file")
    assert "hunter2" not in message
    assert load_text(tmp_path, "", line).auth.xrdhttp_secret == ""
    file = write(tmp_path / "key", KEY)
    text = f"{ENABLED}auth.xrdhttp_secret_file = '{file}'"
    assert load_text(tmp_path, text, line).auth.xrdhttp_secret == KEY


@pytest.mark.parametrize(("mode", "warned"), [(0o640, False), (0o644, True)])
def test_domehead_conf_with_a_signing_key_open_to_others_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    conf = tmp_path / "domehead.conf"
    load_text(tmp_path, ENABLED, f"glb.restclient.xrdhttpkey: {KEY}")
    conf.chmod(mode)
    load_text(tmp_path, ENABLED)
    assert any(f"file={conf} mode={mode:04o}" in warning for warning in logged_warnings(caplog)) == warned


def test_file_with_the_signing_key_wins_over_domehead_conf(tmp_path: Path) -> None:
    file = write(tmp_path / "key", KEY)
    text = f"{ENABLED}auth.xrdhttp_secret_file = '{file}'"
    loaded = load_text(tmp_path, text, "glb.restclient.xrdhttpkey: another-one")
    assert loaded.auth.xrdhttp_secret == KEY


@pytest.mark.parametrize("name", ["xrdhttp_secret_file", "xrdhttp_old_secret_file"])
@pytest.mark.parametrize("mode", [0o644, 0o604, 0o606, 0o641])
def test_k4_signing_key_open_to_others_stops_the_start(tmp_path: Path, name: str, mode: int) -> None:
    file = write(tmp_path / "key", KEY, mode)
    message = refusal(tmp_path, f"auth.{name} = '{file}'")
    assert message.startswith(f"auth.{name}: {file} is open to others (mode {mode:04o}): chmod it to 0600")
    assert KEY not in message


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o660, True)])
def test_signing_key_that_its_group_may_write_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    file = write(tmp_path / "key", KEY, mode)
    load_text(tmp_path, f"auth.xrdhttp_secret_file = '{file}'")
    assert any(f"file={file} mode={mode:04o}" in warning for warning in logged_warnings(caplog)) == warned


def test_k4_older_key_is_taken_beside_the_present_one(tmp_path: Path) -> None:
    now, before = write(tmp_path / "key", KEY), write(tmp_path / "old", KEY[::-1])
    text = f"auth.xrdhttp_secret_file = '{now}'\nauth.xrdhttp_old_secret_file = '{before}'"
    auth = load_text(tmp_path, text).auth
    assert (auth.xrdhttp_secret, auth.xrdhttp_old_secret) == (KEY, KEY[::-1])
    assert KEY[::-1] not in repr(auth)


def test_older_key_alone_is_refused(tmp_path: Path) -> None:
    before = write(tmp_path / "old", KEY)
    message = refusal(tmp_path, f"auth.xrdhttp_old_secret_file = '{before}'")
    assert message.startswith("auth.xrdhttp_old_secret_file is given, but no key that is in use: add ")


def test_signing_key_stays_out_of_repr(tmp_path: Path) -> None:
    file = write(tmp_path / "key", KEY)
    for text, domehead in (
        (f"auth.xrdhttp_secret_file = '{file}'", ""),
        (ENABLED, f"glb.restclient.xrdhttpkey: {KEY}"),
    ):
        loaded = load_text(tmp_path, text, domehead)
        assert loaded.auth.xrdhttp_secret == KEY
        assert KEY not in repr(loaded)


def test_addresses_of_disk_servers_are_taken_apart(tmp_path: Path) -> None:
    config = load_text(tmp_path, '[disk]\naddresses = ["d1.test=192.0.2.1:18001", "d2=[::1]:2"]')
    assert config.disk.addresses == (("d1.test", "192.0.2.1", 18001), ("d2", "::1", 2))
