"""The settings of who is believed: TLS listeners, issuers of tokens, and what is checked before the start."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge import config_auth_kinds
from dome_bridge.config import AuthConfig, Config, Endpoint, IssuerConfig, ListenConfig, TlsConfig
from dome_bridge.config_cautions import cautions
from tests.fixtures.settings import ENABLED, load_text, logged_warnings, refusal, write

KEY = "0123456789abcdef0123456789abcdef"

ATLAS = """
[[auth.issuer]]
name = "atlas"
issuer = "https://atlas-auth.example/"
base_path = "/dpm/example.org/home/atlas"
"""

PLAIN = """
[[auth.issuer]]
name = "dteam"
issuer = "https://dteam-auth.example"
base_path = "/dpm/example.org/home/dteam"
"""


def changed(**keys: str) -> str:
    """A table like ATLAS; a key that is None is left out."""
    lines = dict(line.split(" = ", 1) for line in ATLAS.strip().splitlines()[1:])
    return "\n".join(["[[auth.issuer]]", *(f"{key} = {value}" for key, value in (lines | keys).items())])


def issuer_of(loaded: Config) -> IssuerConfig:
    (issuer,) = loaded.auth.issuers
    return issuer


# Listeners


@pytest.fixture
def served(tmp_path: Path) -> str:
    """All that listeners of any protocol need."""
    secret = write(tmp_path / "secret", KEY)
    certificate = write(tmp_path / "cert.pem", "certificate")
    key = write(tmp_path / "key.pem", "key", 0o600)
    return f"""
    auth.xrdhttp_secret_file = "{secret}"
    api.tls.certificate = "{certificate}"
    api.tls.key = "{key}"
    api.enabled = true
    """


def listening(protocol: str, more: str = "") -> str:
    return f'api.listen = [{{address = "0.0.0.0", port = 1094, protocol = "{protocol}"{more}}}]\n'


@pytest.mark.parametrize("protocol", ["mixed", "https", "http"])
def test_listener_of_every_protocol_is_taken(tmp_path: Path, served: str, protocol: str) -> None:
    loaded = load_text(tmp_path, served + listening(protocol))
    assert loaded.api.listen == (ListenConfig("0.0.0.0", 1094, protocol),)
    assert loaded.api.tls == TlsConfig(tmp_path / "cert.pem", tmp_path / "key.pem")


@pytest.mark.parametrize(
    ("text", "upstream", "shown"),
    [
        ("127.0.0.1:11094", Endpoint("127.0.0.1", 11094), "127.0.0.1:11094"),
        ("[0:0::1]:11094", Endpoint("::1", 11094), "[::1]:11094"),
        ("xrootd.example.org:1094", Endpoint("xrootd.example.org", 1094), "xrootd.example.org:1094"),
        ("", None, "None"),
    ],
)
def test_upstream_of_a_mixed_listener_is_taken_apart(
    tmp_path: Path, served: str, text: str, upstream: Endpoint | None, shown: str
) -> None:
    loaded = load_text(tmp_path, served + listening("mixed", f', xrootd_upstream = "{text}"'))
    assert loaded.api.listen[0].xrootd_upstream == upstream
    assert str(upstream) == shown


@pytest.mark.parametrize(
    ("protocol", "more", "message"),
    [
        ("mixed", ', xrootd_upstream = "11094"', "api.listen.xrootd_upstream: expected host:port, or empty"),
        ("mixed", ', xrootd_upstream = "h:0"', "api.listen.xrootd_upstream: expected host:port, or empty"),
        ("mixed", ', xrootd_upstream = "::1:11"', "api.listen.xrootd_upstream: expected host:port, or empty"),
        ("mixed", ', xrootd_upstream = "[::g]:1"', "api.listen.xrootd_upstream: expected host:port, or emp"),
        (
            "mixed",
            ', xrootd_upstream = "0.0.0.0:1094"',
            "api.listen.xrootd_upstream: 0.0.0.0:1094 is this li",
        ),
        ("mixed", ', xrootd_upstream = "localhost:1094"', "api.listen.xrootd_upstream: localhost:1094 is th"),
        ("https", ', xrootd_upstream = "h:1"', "api.listen.xrootd_upstream: only a mixed listener passes"),
        ("http", ', xrootd_upstream = "h:1"', "api.listen.xrootd_upstream: only a mixed listener passes"),
    ],
)
def test_wrong_upstream_is_refused(
    tmp_path: Path, served: str, protocol: str, more: str, message: str
) -> None:
    assert refusal(tmp_path, served + listening(protocol, more)).startswith(message)


@pytest.mark.parametrize("protocol", ["mixed", "https", "http"])
def test_y1_only_a_proxied_listener_may_have_a_socket(tmp_path: Path, protocol: str) -> None:
    message = refusal(tmp_path, f"api.listen = [{{unix_socket = '/run/s', protocol = '{protocol}'}}]")
    assert message.startswith(
        "api.listen.unix_socket: only a proxied listener may have a socket, this one is"
    )


@pytest.mark.parametrize("protocol", ["mixed", "http"])
def test_k4_plain_http_without_a_secret_does_not_start(tmp_path: Path, served: str, protocol: str) -> None:
    text = "\n".join(line for line in served.splitlines() if "secret" not in line)
    message = refusal(tmp_path, text + "\n" + listening(protocol))
    assert message.startswith(
        f"api.listen: {protocol} on 0.0.0.0:1094 takes signed requests, but there is no"
    )
    assert message.endswith("add auth.xrdhttp_secret_file")
    assert load_text(tmp_path, text + "\n" + listening("https")).auth.xrdhttp_secret == ""


def test_k4_secret_of_domehead_conf_lets_plain_http_start(tmp_path: Path) -> None:
    text = "api.enabled = true\n" + listening("http")
    assert load_text(tmp_path, text, f"glb.restclient.xrdhttpkey: {KEY}").auth.xrdhttp_secret == KEY


@pytest.mark.parametrize("protocol", ["mixed", "https"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_tls11_key_open_to_group_or_others_stops_the_start(
    tmp_path: Path, served: str, protocol: str, mode: int
) -> None:
    key = tmp_path / "key.pem"
    key.chmod(mode)
    message = refusal(tmp_path, served + listening(protocol))
    assert message.startswith(f"api.tls.key: {key} is open to group or others (mode {mode:04o}): chmod it to")
    assert load_text(tmp_path, served + listening("http")).api.tls.key == key


@pytest.mark.parametrize("name", ["certificate", "key"])
@pytest.mark.parametrize("protocol", ["mixed", "https"])
def test_tls_listener_needs_certificate_and_key(
    tmp_path: Path, served: str, protocol: str, name: str
) -> None:
    file = tmp_path / {"certificate": "cert.pem", "key": "key.pem"}[name]
    file.unlink()
    message = refusal(tmp_path, served + listening(protocol))
    assert message.startswith(f"api.tls.{name}: {file} cannot be read (No such file or directory)")


def test_tls_is_not_looked_at_while_the_api_is_off(tmp_path: Path) -> None:
    tls = load_text(tmp_path, "api.tls.key = '/nowhere/key.pem'\n" + listening("mixed")).api.tls
    assert tls == TlsConfig(key=Path("/nowhere/key.pem"))


HEAD_TLS = """\
glb.restclient.cli_certificate: /etc/grid-security/dpmmgr/dpmcert.pem
glb.restclient.cli_private_key: /etc/grid-security/dpmmgr/dpmkey.pem
glb.restclient.ca_path: /etc/ca
"""


def test_certificate_of_domehead_conf_is_taken_with_its_key(tmp_path: Path) -> None:
    directory = Path("/etc/grid-security/dpmmgr")
    tls = load_text(tmp_path, ENABLED, HEAD_TLS).api.tls
    assert tls == TlsConfig(directory / "dpmcert.pem", directory / "dpmkey.pem", Path("/etc/ca"))


@pytest.mark.parametrize("name", ["certificate", "key"])
def test_certificate_and_key_of_two_files_are_not_mixed(tmp_path: Path, name: str) -> None:
    tls = load_text(tmp_path, f"{ENABLED}api.tls.{name} = '/own.pem'", HEAD_TLS).api.tls
    assert tls == replace(TlsConfig(ca_dir=Path("/etc/ca")), **{name: Path("/own.pem")})


def test_certificate_of_domehead_conf_without_a_key_is_not_taken(tmp_path: Path) -> None:
    assert load_text(tmp_path, ENABLED, HEAD_TLS.splitlines()[0]).api.tls == TlsConfig()


# [auth]


def test_right_settings_are_taken(tmp_path: Path) -> None:
    text = """
    [auth]
    frontends = ["Web.example.org", "web.example.org", "dav"]
    disk_nodes_are_frontends = false
    same_server = [["Disk1", "disk1-data.example.org"], ["disk2", "d2"]]
    direct_users = false
    user_key = "dn+ca"
    gridmap_file = "/etc/grid-mapfile"
    ban_file = "/etc/dome-bridge/bans"
    plain_http_networks = ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"]
    crl_policy = "require"
    max_proxy_depth = 0
    limited_proxy = "deny"
    audience = ["https://head.example.org", "dpm storage"]
    algorithms = ["ES384", "RS256"]
    clock_skew_s = 0
    host_auth = ["host:monitor.example.org", "atlas:host:other.example.org"]
    jwks_cache_dir = ""
    reload_seconds = 5
    failures_per_second = 1
    failures_burst = 5
    connections_per_source = 1
    handshakes = 2
    handshake_seconds = 3
    first_byte_seconds = 0.5
    header_seconds = 4
    body_seconds = 6
    """
    assert load_text(tmp_path, text).auth == AuthConfig(
        frontends=("web.example.org", "dav"),
        disk_nodes_are_frontends=False,
        same_server=(("disk1", "disk1-data.example.org"), ("disk2", "d2")),
        direct_users=False,
        user_key="dn+ca",
        gridmap_file=Path("/etc/grid-mapfile"),
        ban_file=Path("/etc/dome-bridge/bans"),
        plain_http_networks=(
            ipaddress.ip_network("192.0.2.0/24"),
            ipaddress.ip_network("2001:db8::/32"),
            ipaddress.ip_network("198.51.100.7/32"),
        ),
        crl_policy="require",
        max_proxy_depth=0,
        limited_proxy="deny",
        audience=("https://head.example.org", "dpm storage"),
        algorithms=("RS256", "ES256", "ES384"),
        clock_skew_s=0,
        host_auth=("host:monitor.example.org", "atlas:host:other.example.org"),
        jwks_cache_dir=None,
        reload_seconds=5,
        failures_per_second=1,
        failures_burst=5,
        connections_per_source=1,
        handshakes=2,
        handshake_seconds=3,
        first_byte_seconds=0.5,
        header_seconds=4,
        body_seconds=6,
    )


def test_defaults_are_those_of_the_specification() -> None:
    auth, issuer, tls = AuthConfig(), IssuerConfig(name="vo"), TlsConfig()
    assert (auth.frontends, auth.direct_users, auth.clock_skew_s) == ((), True, 60)
    assert (auth.algorithms, auth.crl_policy, auth.max_proxy_depth) == (("RS256", "ES256"), "if-present", 10)
    assert (auth.limited_proxy, auth.disk_nodes_are_frontends) == ("data-only", True)
    assert (auth.plain_http_networks, auth.jwks_cache_dir) == ((), Path("/var/lib/dome-bridge/jwks"))
    assert (auth.failures_per_second, auth.failures_burst) == (10, 50)
    assert (auth.connections_per_source, auth.handshakes) == (200, 200)
    assert (auth.handshake_seconds, auth.first_byte_seconds) == (10, 10)
    assert (auth.header_seconds, auth.body_seconds, auth.reload_seconds) == (15, 60, 60)
    assert (issuer.accept_any_audience, issuer.max_lifetime_s, issuer.mode) == (
        True,
        21600,
        "capability+group",
    )
    assert (issuer.vo, issuer.groups, issuer.username) == ("vo", ("vo",), "")
    assert (issuer.refresh_hours, issuer.keep_days, issuer.allow_private_address) == (6, 2, False)
    assert tls == TlsConfig(
        Path("/etc/grid-security/hostcert.pem"),
        Path("/etc/grid-security/hostkey.pem"),
        Path("/etc/grid-security/certificates"),
        Path("/etc/grid-security/vomsdir"),
    )


@pytest.mark.parametrize("name", ["none", "nOnE", "HS256", "HS384", "HS512", "rs256", "EdDSA", ""])
def test_t5_algorithm_that_is_never_admitted_cannot_be_configured(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path, f'auth.algorithms = ["RS256", "{name}"]')
    assert message.startswith("auth.algorithms: expected array of RS256, ES256, RS384")
    assert message.endswith(f"('{name}' cannot be admitted)")


@given(st.lists(st.sampled_from(config_auth_kinds.ALGORITHMS_KNOWN)))
def test_t5_what_is_always_admitted_cannot_be_taken_away(names: list[str]) -> None:
    taken = config_auth_kinds.ALGORITHMS.parse(names)
    assert taken[:2] == ("RS256", "ES256")
    assert set(taken) == {"RS256", "ES256", *names}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frontends = ['a b']", "auth.frontends: expected array of host names, got an array"),
        ("same_server = ['disk1']", "auth.same_server: expected array of arrays of host names, got an array"),
        ("same_server = [['disk1']]", "auth.same_server: expected array of arrays of host names, got an"),
        ("same_server = [['a', 'b'], ['b', 'c']]", "auth.same_server: expected array of arrays of host nam"),
        ("user_key = 'ca'", 'auth.user_key: expected "dn" or "dn+ca", got "ca"'),
        ("ban_file = 'bans'", "auth.ban_file: expected absolute path, or empty"),
        ("plain_http_networks = ['192.0.2.1/24']", "auth.plain_http_networks: expected array of networks"),
        ("plain_http_networks = ['disk1']", "auth.plain_http_networks: expected array of networks such as"),
        ("crl_policy = 'never'", 'auth.crl_policy: expected "require" or "if-present" or "off", got "never"'),
        ("max_proxy_depth = -1", "auth.max_proxy_depth: expected whole number from 0 to 100, got -1"),
        ("limited_proxy = 'allow'", 'auth.limited_proxy: expected "data-only" or "deny", got "allow"'),
        ("audience = 'https://head'", "auth.audience: expected array of audiences, got "),
        ("audience = ['']", "auth.audience: expected array of audiences, got an array"),
        ("audience = [' a']", "auth.audience: expected array of audiences, got an array"),
        ("clock_skew_s = 301", "auth.clock_skew_s: expected whole number from 0 to 300, got 301"),
        ("host_auth = ['x.host:monitor']", "auth.host_auth: expected array of host:<name>, got an array"),
        ("host_auth = ['X:host:monitor']", "auth.host_auth: expected array of host:<name>, got an array"),
        ("host_auth = ['monitor']", "auth.host_auth: expected array of host:<name>, got an array"),
        ("reload_seconds = 0", "auth.reload_seconds: expected seconds, above 0, at most 3600, got 0"),
        ("failures_burst = 0", "auth.failures_burst: expected whole number from 1 to 1000000, got 0"),
        ("handshakes = 0", "auth.handshakes: expected whole number from 1 to 1000000, got 0"),
        ("handshake_seconds = 0", "auth.handshake_seconds: expected seconds, above 0, got 0"),
        ("issuer = 'https://a'", 'auth.issuer: expected [[auth.issuer]], got "https://a"'),
        ("issuer = {name = 'a'}", "auth.issuer: expected [[auth.issuer]], got a table"),
        ("audiences = []", "unknown key auth.audiences: did you mean auth.audience?"),
        ("base_path = '/x'", "unknown key auth.base_path: did you mean auth.issuer.base_path?"),
        ("xrdhttp_secret = 'x'", "unknown key auth.xrdhttp_secret: did you mean auth.xrdhttp_secret_file?"),
        ("[[auth.isuer]]", "unknown key auth.isuer: did you mean auth.issuer?"),
        ("[api.tsl]", "unknown key api.tsl: did you mean api.tls?"),
        ("[api.tls]\ncert = '/c'", "unknown key api.tls.cert: known are certificate, key, ca_dir"),
        ("[api.tls]\nkey = ''", 'api.tls.key: expected absolute path, got ""'),
        ("[[issuer]]", "unknown section [issuer]: did you mean [[auth.issuer]]?"),
    ],
)
def test_wrong_setting_is_refused_with_place_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, f"[auth]\n{text}").startswith(message)


# Issuers


def test_i3_issuers_of_one_vo_and_of_another_are_taken(tmp_path: Path) -> None:
    text = f"""
    [auth]
    audience = ["https://dpmhead.example.org"]
    {ATLAS}
    [[auth.issuer]]
    name = "atlas-old"
    vo = "atlas"
    issuer = "https://atlas-auth.web.example"
    base_path = ["/dpm/example.org/home/atlas", "/dpm/example.org/home/atlas2"]
    {PLAIN}
    group_map = {{ "/dteam/production" = "dteam/Role=production" }}
    """
    atlas, old, dteam = load_text(tmp_path, text).auth.issuers
    assert atlas == IssuerConfig(
        name="atlas", issuer="https://atlas-auth.example/", base_path=("/dpm/example.org/home/atlas",)
    )
    assert (old.vo, old.groups) == ("atlas", ("atlas",))
    assert old.base_path == ("/dpm/example.org/home/atlas", "/dpm/example.org/home/atlas2")
    assert (dteam.vo, dteam.groups) == ("dteam", ("dteam",))
    assert dteam.group_map == {"/dteam/production": "dteam/Role=production"}


def test_every_key_of_an_issuer_is_taken(tmp_path: Path) -> None:
    text = f"""{ATLAS}
    jwks_uri = "file:///etc/dome-bridge/atlas.jwks"
    vo = "ATLAS.example"
    audience = ["https://atlas.dpm.example.org"]
    accept_any_audience = false
    max_lifetime_s = 86400
    mode = "capability"
    allowed_groups = ["/atlas/prod", "/atlas/users/"]
    exclude_paths = ["/dpm/example.org/home/atlas/archive"]
    jwks_hosts = ["Keys.example", "keys.example:8443"]
    ca_file = "/etc/ssl/iam.pem"
    allow_private_address = true
    refresh_hours = 1
    keep_days = 4
    [auth.issuer.map]
    username = "/DC=org/E=a@b/CN=Ada"
    groups = ["atlas/Role=production", "atlas"]
    [auth.issuer.subject_map]
    "a.b-c" = "jwt:atlas-old:1"
    [auth.issuer.group_map]
    "/atlas/prod" = "/atlas/Role=production/Capability=NULL"
    """
    assert issuer_of(load_text(tmp_path, text)) == IssuerConfig(
        name="atlas",
        issuer="https://atlas-auth.example/",
        base_path=("/dpm/example.org/home/atlas",),
        jwks_uri="file:///etc/dome-bridge/atlas.jwks",
        vo="ATLAS.example",
        audience=("https://atlas.dpm.example.org",),
        accept_any_audience=False,
        max_lifetime_s=86400,
        mode="capability",
        allowed_groups=("/atlas/prod", "/atlas/users/"),
        exclude_paths=("/dpm/example.org/home/atlas/archive",),
        jwks_hosts=("keys.example", "keys.example:8443"),
        ca_file=Path("/etc/ssl/iam.pem"),
        allow_private_address=True,
        refresh_hours=1,
        keep_days=4,
        username="/DC=org/emailAddress=a@b/CN=Ada",
        groups=("atlas/Role=production", "atlas"),
        subject_map={"a.b-c": "jwt:atlas-old:1"},
        group_map={"/atlas/prod": "atlas/Role=production"},
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("issuer", "'http://atlas-auth.example/'", "issuer: expected https:// URL, got "),
        ("issuer", "'HTTPS://atlas-auth.example/'", "issuer: expected https:// URL, got "),
        ("issuer", "'https://'", "issuer: expected https:// URL, got "),
        ("issuer", "'https://a.example/?x=1'", "issuer: expected https:// URL, got "),
        ("issuer", "'https://a.example/#'", "issuer: expected https:// URL, got "),
        ("issuer", "'https://u@a.example/'", "issuer: expected https:// URL, got "),
        ("issuer", "'https://a.example:x/'", "issuer: expected https:// URL, got "),
        ("issuer", "'https://[::1/'", "issuer: expected https:// URL, got "),
        ("issuer", "'https://ä.example/'", "issuer: expected https:// URL, got "),
        ("issuer", "' https://a.example'", "issuer: expected https:// URL, got "),
        ("issuer", "['https://a.example']", "issuer: expected https:// URL, got an array"),
        ("base_path", "'/'", "base_path: expected absolute path other than /, or array of them"),
        ("base_path", "'//'", "base_path: expected absolute path other than /, or array of them"),
        ("base_path", "['/dpm', '/']", "base_path: expected absolute path other than /, or array of them"),
        ("base_path", "'dpm'", "base_path: expected absolute path other than /, or array of them"),
        ("base_path", "'/dpm/'", "base_path: expected absolute path other than /, or array of them"),
        ("base_path", "'/dpm//x'", "base_path: expected absolute path other than /, or array of them"),
        ("base_path", "'/dpm/../x'", "base_path: expected absolute path other than /, or array of them"),
        ("base_path", "'/dpm/./x'", "base_path: expected absolute path other than /, or array of them"),
        ("base_path", "[1]", "base_path: expected absolute path other than /, or array of them"),
        ("base_path", "[]", "base_path: expected absolute path other than /, or array of them"),
        ("exclude_paths", "['x']", "exclude_paths: the path 'x' cannot be used"),
        ("exclude_paths", "['/dpm/example.org/home/atlas']", "exclude_paths: the excluded path "),
        ("exclude_paths", "['/dpm/example.org/home/cms']", "exclude_paths: the excluded path "),
        ("map", "{groups = ['root']}", "map.groups: expected array of groups, got an array (nothing may be"),
        ("map", "{groups = ['atlas', '/root']}", "map.groups: expected array of groups, got an array (noth"),
        ("map", "{groups = ['Root']}", "map.groups: expected array of groups, got an array (nothing may"),
        ("map", "{groups = ['a,b']}", "map.groups: expected array of groups, got an array (a group has no"),
        ("map", "{username = 'root'}", "map.username: expected name of a user, or empty"),
        ("map", "{username = '/disk'}", "map.username: expected name of a user, or empty"),
        ("map", f"{{username = '{'a' * 256}'}}", "map.username: expected name of a user, or empty"),
        ("map", "{user = 'a'}", "unknown key auth.issuer.map.user: did you mean auth.issuer.map.username?"),
        ("map", "'atlas'", 'map: expected a section [auth.issuer.map], got "atlas"'),
        ("subject_map", "{a = 'root'}", "subject_map: expected table of sub = user, got a table (nothing"),
        ("subject_map", "{'ä' = 'a'}", "subject_map: expected table of sub = user, got a table (a sub is"),
        ("subject_map", "{a = 1}", "subject_map: expected table of sub = user, got a table"),
        ("subject_map", "['a']", "subject_map: expected table of sub = user, got an array"),
        ("group_map", "{'/atlas' = 'root'}", "group_map: expected table of token's group = group, got a"),
        ("group_map", "{'atlas' = 'a'}", "group_map: expected table of token's group = group, got a table"),
        ("vo", "'root'", "vo: nothing may be mapped to root"),
        ("vo", "'a/b'", "vo: expected name of a VO, or empty"),
        ("allowed_groups", "['atlas']", "allowed_groups: expected array of groups such as /vo/group"),
        ("allowed_groups", "['/atlas//']", "allowed_groups: expected array of groups such as /vo/group"),
        ("jwks_uri", "'http://a.example/jwks'", "jwks_uri: expected https: or file: URL, or empty"),
        ("jwks_uri", "'/etc/jwks'", "jwks_uri: expected https: or file: URL, or empty"),
        ("jwks_uri", "'file://host/jwks'", "jwks_uri: expected https: or file: URL, or empty"),
        ("jwks_uri", "'file:jwks'", "jwks_uri: expected https: or file: URL, or empty"),
        ("jwks_hosts", "['a:0']", "jwks_hosts: expected array of host or host:port"),
        ("max_lifetime_s", "-1", "max_lifetime_s: expected whole number from 0 to "),
        ("mode", "'groups'", 'mode: expected "capability+group" or "capability" or "group", got "groups"'),
        ("refresh_hours", "7", "refresh_hours: expected whole number from 1 to 6, got 7"),
        ("keep_days", "5", "keep_days: expected whole number from 1 to 4, got 5"),
        ("ca_file", "'ca.pem'", "ca_file: expected absolute path, or empty"),
        ("audiences", "[]", "unknown key auth.issuer.audiences: did you mean auth.issuer.audience?"),
    ],
)
@pytest.mark.parametrize("before", ["", PLAIN], ids=["alone", "second"])
def test_i5_wrong_issuer_is_refused_by_its_name_and_key(
    tmp_path: Path, before: str, key: str, value: str, message: str
) -> None:
    prefix = "" if message.startswith("unknown") else "auth.issuer."
    text = before + changed(**{key: value})
    assert refusal(tmp_path, text).startswith(f'table "atlas": {prefix}{message}')


@pytest.mark.parametrize(
    "name", ["", "Atlas", "-atlas", "_atlas", "a" * 33, "a.b", "a b", "ä", "a:b", "a\\nb", "1\\u0661"]
)
def test_i5_wrong_name_of_an_issuer_is_refused(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path, changed(name=f'"{name}"'))
    assert "auth.issuer.name: expected name of a-z, 0-9, _ and -, at most 32 characters, got" in message


@pytest.mark.parametrize("name", ["a", "0", "atlas-old_2", "a" * 32])
def test_right_name_of_an_issuer_is_taken(tmp_path: Path, name: str) -> None:
    assert issuer_of(load_text(tmp_path, changed(name=f"'{name}'"))).name == name


@pytest.mark.parametrize("key", ["name", "issuer", "base_path"])
def test_i5_issuer_without_a_demanded_key_is_refused(tmp_path: Path, key: str) -> None:
    text = "\n".join(line for line in ATLAS.splitlines() if not line.startswith(key))
    where = "" if key == "name" else 'table "atlas": '
    assert refusal(tmp_path, text).startswith(f"{where}auth.issuer.{key} is missing: add ")


def test_i5_two_issuers_of_one_name_or_url_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, ATLAS + changed(issuer="'https://other.example'"))
    assert message == "auth.issuer.name: two tables have atlas: put them into one"
    message = refusal(tmp_path, ATLAS + changed(name="'other'"))
    assert message.startswith("auth.issuer.issuer: two tables have https://atlas-auth.example/: ")


def test_i5_issuer_called_root_maps_to_root_unless_groups_are_given(tmp_path: Path) -> None:
    assert "auth.issuer.vo: nothing may be mapped to root" in refusal(tmp_path, changed(name="'root'"))
    text = changed(name="'root'", vo="'atlas'")
    assert issuer_of(load_text(tmp_path, text)).groups == ("atlas",)


def test_slash_at_the_end_makes_another_issuer(tmp_path: Path) -> None:
    other = changed(name="'other'", issuer="'https://atlas-auth.example'")
    atlas, other_one = load_text(tmp_path, ATLAS + other).auth.issuers
    assert atlas.issuer == other_one.issuer + "/"


# Issuers of domehead.conf

OIDC = """\
head.oidc.allowaudience[]: https://dpm.example.org
head.oidc.allowaudience[]: "dpm"
head.oidc.allowissuer[]: "/dpm/example.org/home/wlcg" "https://wlcg.example/"
head.oidc.allowissuer[]: "/dpm/example.org/home/wlcg2/" "https://wlcg.example/"
head.oidc.allowissuer[]: /dpm/example.org/home/wlcg https://other.example
head.oidc.allowissuer[]: "/dpm/example.org/home/Vo.Org" "https://vo.example"
"""


def test_issuers_and_audiences_of_domehead_conf_are_taken(tmp_path: Path) -> None:
    auth = load_text(tmp_path, ENABLED, OIDC).auth
    assert auth.audience == ("https://dpm.example.org", "dpm")
    home = "/dpm/example.org/home"
    assert auth.issuers == (
        IssuerConfig("wlcg", "https://wlcg.example/", (f"{home}/wlcg", f"{home}/wlcg2")),
        IssuerConfig("wlcg-2", "https://other.example", (f"{home}/wlcg",), vo="wlcg"),
        IssuerConfig("vo-org", "https://vo.example", (f"{home}/Vo.Org",), vo="Vo.Org"),
    )


def test_issuer_in_toml_leaves_none_of_domehead_conf(tmp_path: Path) -> None:
    text = f"{ENABLED}auth.audience = []\n{ATLAS}"
    auth = load_text(tmp_path, text, OIDC).auth
    assert [issuer.name for issuer in auth.issuers] == ["atlas"]
    assert auth.audience == ()


@pytest.mark.parametrize(
    "entry",
    [
        '"/" "https://a.example"',
        '"/dpm" "http://a.example"',
        '"https://a.example" "/dpm"',
        '"/dpm/../x" "https://a.example"',
        '"/dpm"',
        "",
    ],
)
def test_issuer_of_domehead_conf_that_cannot_be_used_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, entry: str
) -> None:
    domehead = f"head.oidc.allowissuer[]: {entry}\n{OIDC}"
    assert len(load_text(tmp_path, ENABLED, domehead).auth.issuers) == 3
    (warning,) = logged_warnings(caplog)
    assert f"key=head.oidc.allowissuer[] file={tmp_path}/domehead.conf value={entry!r}" in warning


# What is said at start


def said(loaded: Config) -> list[str]:
    return list(cautions(loaded.api, loaded.auth))


def test_x6_administrators_of_any_ca_are_pointed_out_where_users_are_told_apart_by_theirs(
    tmp_path: Path,
) -> None:
    both = f"{ENABLED}auth.user_key = 'dn+ca'\nauth.authorize_dn = ['/CN=Ada']"
    (caution,) = said(load_text(tmp_path, both))
    assert "auth.authorize_dn" in caution
    assert said(load_text(tmp_path, f"{ENABLED}auth.user_key = 'dn+ca'")) == []


def test_sound_settings_are_not_commented_on(tmp_path: Path, served: str) -> None:
    assert said(load_text(tmp_path, served + listening("https"))) == []
    assert said(load_text(tmp_path, f"{ENABLED}auth.audience = ['https://head']{ATLAS}")) == []
    assert said(load_text(tmp_path, f"{ENABLED}{ATLAS}audience = ['https://head']")) == []


@pytest.mark.parametrize("protocol", ["http", "mixed"])
def test_k6_plain_http_is_warned_of_and_tls_recommended(tmp_path: Path, served: str, protocol: str) -> None:
    (line,) = said(load_text(tmp_path, served + listening(protocol)))
    assert line.startswith(f"{protocol} on 0.0.0.0:1094 takes plain HTTP: ")
    assert line.endswith("let the other servers use TLS")


def test_t11_life_without_limit_is_warned_of(tmp_path: Path) -> None:
    text = f"{ENABLED}auth.audience = ['https://head']{ATLAS}max_lifetime_s = 0"
    assert said(load_text(tmp_path, text)) == [
        "tokens of issuer atlas may live for ever: max_lifetime_s is 0"
    ]


def test_t12_issuer_without_an_audience_is_warned_of(tmp_path: Path) -> None:
    (line,) = said(load_text(tmp_path, f"{ENABLED}{ATLAS}"))
    assert line.startswith("tokens of issuer atlas are accepted only if they are meant for any service")
    (line,) = said(load_text(tmp_path, f"{ENABLED}{ATLAS}accept_any_audience = false"))
    assert line.startswith("no token of issuer atlas can be accepted")
