"""The settings: where they come from, what is refused, and that the reference tells the truth."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dome_bridge import config, config_kinds
from dome_bridge.config import KEYS, SECTIONS, TABLES, ChimeraConfig, Config, DpmConfig, load
from dome_bridge.errors import ConfigError

REFERENCE = Path(__file__).parent.parent / "docs" / "reference" / "config.md"

DOMEHEAD = """\
head.db.host: db.example.org
head.db.port: 3307
head.db.user: dpmmgr
head.db.password: from-domehead
head.db.cnsdbname: cns_live
glb.auth.authorizeDN[]: CN=disk1
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    directory = tmp_path / "etc"
    directory.mkdir()
    return directory


def write(directory: Path, text: str, name: str = "bridge.toml", mode: int = 0o640) -> Path:
    file = directory / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def load_text(etc: Path, text: str, environ: Mapping[str, str] | None = None) -> Config:
    return load(write(etc, text), environ or {}, etc=etc)


def refusal(etc: Path, text: str) -> str:
    """The message for a refused file: one line that begins with the file."""
    with pytest.raises(ConfigError) as caught:
        load_text(etc, text)
    message = str(caught.value)
    assert message.startswith(f"{etc}/bridge.toml: ")
    assert "\n" not in message
    return message.removeprefix(f"{etc}/bridge.toml: ")


# Where the settings come from


def test_head_node_without_a_file_takes_domehead_conf_and_defaults(etc: Path) -> None:
    write(etc, DOMEHEAD, "domehead.conf")
    loaded = load(None, {}, etc=etc)
    assert loaded.path is None
    assert (loaded.dpm.host, loaded.dpm.port, loaded.dpm.user) == ("db.example.org", 3307, "dpmmgr")
    assert (loaded.dpm.password, loaded.dpm.cns_db, loaded.dpm.dpm_db) == (
        "from-domehead",
        "cns_live",
        "dpm_db",
    )
    assert loaded.dpm.domehead_conf == etc / "domehead.conf"
    assert loaded.domehead is not None
    assert loaded.domehead.lists == {"glb.auth.authorizeDN": ("CN=disk1",)}
    assert loaded.exporter == config.ExporterConfig()


def test_machine_without_any_file_is_told_which_to_write(etc: Path) -> None:
    with pytest.raises(ConfigError, match=r"etc/dome-bridge/dome-bridge\.toml: no such file") as caught:
        load(None, {}, etc=etc)
    assert caught.value.exit_code == 2


def test_argument_goes_before_environment_and_environment_before_default(etc: Path) -> None:
    argument = write(etc, "exporter.batch = 1", "argument.toml")
    variable = {"DOME_BRIDGE_CONFIG": str(write(etc, "exporter.batch = 2", "variable.toml"))}
    default = write(etc, "exporter.batch = 3", "dome-bridge/dome-bridge.toml")
    assert load(argument, variable, etc=etc).exporter.batch == 1
    assert load(None, variable, etc=etc).exporter.batch == 2
    assert load(None, {"DOME_BRIDGE_CONFIG": ""}, etc=etc).exporter.batch == 3
    assert load(None, {}, etc=etc).path == default


def test_named_file_that_is_missing_is_refused(etc: Path) -> None:
    write(etc, DOMEHEAD, "domehead.conf")
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read .*--config"):
        load(etc / "none.toml", {}, etc=etc)
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load(None, {"DOME_BRIDGE_CONFIG": str(etc / "none.toml")}, etc=etc)


@pytest.mark.parametrize("name", ["dome-bridge.toml", "domehead.conf"])
def test_default_file_that_cannot_be_opened_is_not_taken_for_missing(etc: Path, name: str) -> None:
    file = etc / "dome-bridge" / name if name.endswith("toml") else etc / name
    file.parent.mkdir(exist_ok=True)
    file.symlink_to(file)
    with pytest.raises(ConfigError, match=rf"{name}: cannot be read \(Too many levels"):
        load(None, {}, etc=etc)


def test_file_without_domehead_conf_has_the_documented_defaults(etc: Path) -> None:
    loaded = load_text(etc, "")
    assert loaded.dpm == DpmConfig()
    assert (loaded.dpm.host, loaded.dpm.port, loaded.dpm.user) == ("localhost", 3306, "dpmmgr")
    assert loaded.chimera.dsn == "postgresql://dcache@localhost/chimera"
    assert (loaded.dcache.version, loaded.dcache.pool_dir) == ("10.2", "{fs}/dcache/{pool}")
    assert (loaded.monitoring.address, loaded.monitoring.port) == ("127.0.0.1", 9740)
    assert loaded.domehead is None


def test_key_in_toml_wins_over_domehead_conf(etc: Path) -> None:
    write(etc, DOMEHEAD, "domehead.conf")
    dpm = load_text(etc, '[dpm]\nhost = "other"\npassword = ""\n').dpm
    assert (dpm.host, dpm.password, dpm.port) == ("other", "", 3307)


def test_password_file_wins_over_domehead_conf(etc: Path) -> None:
    write(etc, DOMEHEAD, "domehead.conf")
    secret = write(etc, "from-file\n", "secret")
    assert load_text(etc, f'dpm.password_file = "{secret}"').dpm.password == "from-file"


def test_domehead_conf_elsewhere_is_read_with_the_environment(etc: Path) -> None:
    other = write(etc, "head.db.host: ${DB_HOST}\n", "other.conf")
    dpm = load_text(etc, f'dpm.domehead_conf = "{other}"', {"DB_HOST": "tank"}).dpm
    assert (dpm.host, dpm.user, dpm.password, dpm.domehead_conf) == ("tank", "guest", "none", other)


def test_domehead_conf_named_but_missing_is_refused(etc: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.conf: cannot be read .*dpm\.domehead_conf"):
        load_text(etc, f'dpm.domehead_conf = "{etc}/none.conf"')


def test_empty_domehead_conf_leaves_the_file_alone(etc: Path) -> None:
    write(etc, DOMEHEAD, "domehead.conf")
    loaded = load_text(etc, 'dpm.domehead_conf = ""')
    assert loaded.dpm == DpmConfig()
    assert loaded.domehead is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("head.db.port: mysql", "head.db.port: expected a whole number from 0 to 65535"),
        ("head.db.cnsdbname: a`b", "head.db.cnsdbname: expected name of a database"),
        ("head.db.user:", "head.db.user: expected text without blanks"),
    ],
)
def test_wrong_value_of_domehead_conf_is_refused_with_its_place(etc: Path, line: str, message: str) -> None:
    write(etc, line, "domehead.conf")
    with pytest.raises(ConfigError) as caught:
        load(None, {}, etc=etc)
    assert str(caught.value).startswith(f"{etc}/domehead.conf: {message}")


def test_wrong_value_of_domehead_conf_does_no_harm_when_toml_has_the_key(etc: Path) -> None:
    write(etc, "head.db.port: mysql", "domehead.conf")
    assert load_text(etc, "dpm.port = 3308").dpm.port == 3308


def test_socket_is_kept_beside_the_host_of_domehead_conf(etc: Path) -> None:
    write(etc, DOMEHEAD, "domehead.conf")
    dpm = load_text(etc, 'dpm.unix_socket = "/run/mysqld/mysqld.sock"').dpm
    assert dpm.unix_socket == "/run/mysqld/mysqld.sock"


# What is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[dpm", "is not TOML: "),
        ("[dpm]\nport = 1\nport = 2", "is not TOML: "),
        ("dpm = 3", "dpm: expected a section [dpm], got 3"),
        ("[exportr]\nbatch = 1", "unknown section [exportr]: did you mean [exporter]?"),
        ("[zzz]", "unknown section [zzz]: known are dpm, chimera,"),
        ('["a\\nb"]', "unknown section [a\\nb]: known are"),
        ('timezone = "UTC"', "key timezone stands outside of a section: did you mean chimera.timezone?"),
        ("port = 1", "key port stands outside of a section: known are dpm.port, api.listen.port,"),
        ("[dpm]\nhots = 1", "unknown key dpm.hots: did you mean dpm.host?"),
        ('[dpm]\ntimezone = "UTC"', "unknown key dpm.timezone: did you mean chimera.timezone?"),
        ('[chimera]\npassword = "x"', "unknown key chimera.password: did you mean chimera.password_file?"),
        ('[monitoring]\nzzz = "x"', "unknown key monitoring.zzz: known are address, port"),
        ("[dpm]\nhost = 3", "dpm.host: expected text without blanks, got 3"),
        ("[dpm]\nhost = ''", 'dpm.host: expected text without blanks, got ""'),
        ("[dpm]\nhost = [1]", "dpm.host: expected text without blanks, got an array"),
        ("[dpm]\nhost.a = 1", "dpm.host: expected text without blanks, got a table"),
        ("[dpm]\nport = 0", "dpm.port: expected whole number from 1 to 65535, got 0"),
        ("[dpm]\nport = 65536", "dpm.port: expected whole number from 1 to 65535, got 65536"),
        ("[dpm]\nport = '3306'", 'dpm.port: expected whole number from 1 to 65535, got "3306"'),
        ("[dpm]\nport = true", "dpm.port: expected whole number from 1 to 65535, got true"),
        ("[dpm]\nport = 1.0", "dpm.port: expected whole number from 1 to 65535, got 1.0"),
        ("[dpm]\ncns_db = 'a`b'", 'dpm.cns_db: expected name of a database, got "a`b"'),
        ("[dpm]\nunix_socket = 'a.sock'", "dpm.unix_socket: expected absolute path, or empty,"),
        ("[dpm]\nhost = 'h'\nunix_socket = '/s'", "dpm.host and dpm.unix_socket are both given"),
        ("[dpm]\nadmin_password = 'x'", "dpm.admin_password is given without dpm.admin_user"),
        ("[dpm]\nadmin_password_file = '/x'", "dpm.admin_password is given without dpm.admin_user"),
        ("[dpm]\npassword_file = 'x'", "dpm.password_file: expected absolute path, or empty,"),
        ("[exporter]\nenabled = 'yes'", 'exporter.enabled: expected true or false, got "yes"'),
        ("[exporter]\nbatch = 0", "exporter.batch: expected whole number from 1 to 1000000, got 0"),
        ("[exporter]\nheartbeat_seconds = 0", "exporter.heartbeat_seconds: expected seconds, above 0, got 0"),
        ("[exporter]\nheartbeat_seconds = -1.5", "exporter.heartbeat_seconds: expected seconds, above 0,"),
        ("[exporter]\nheartbeat_seconds = nan", "exporter.heartbeat_seconds: expected seconds, above 0,"),
        ("[exporter]\nmax_fence_seconds = inf", "exporter.max_fence_seconds: expected seconds, above 0,"),
        ("[exporter]\nmax_uploads = -1", "exporter.max_uploads: expected whole number from 0 to 1000000"),
        ("[exporter]\nartifacts_dir = 'here'", "exporter.artifacts_dir: expected absolute path, or empty"),
        ("[exporter]\nmax_lag_seconds = true", "exporter.max_lag_seconds: expected seconds, above 0,"),
        (
            "[exporter]\nlock_wait_seconds = 61",
            "exporter.lock_wait_seconds: expected seconds, above 0, at most",
        ),
        ("[exporter]\nheartbeat_seconds = 30", "exporter.max_lag_seconds: expected more than exporter.heart"),
        ("[chimera]\ntimezone = 'Europe/Zürich'", "chimera.timezone: expected IANA time zone, got "),
        ("[chimera]\ntimezone = 'Europe/Zurch'", "chimera.timezone: expected IANA time zone, got "),
        ("[chimera]\ntimezone = 'Europe'", "chimera.timezone: expected IANA time zone, got "),
        ("[chimera]\ntimezone = '../UTC'", "chimera.timezone: expected IANA time zone, got "),
        ("[chimera]\ntimezone = 'right/UTC'", "chimera.timezone: expected IANA time zone, got "),
        ("[monitoring]\nport = 0", "monitoring.port: expected whole number from 1 to 65535, got 0"),
        ("[dcache]\nversion = 10.2", "dcache.version: expected dCache release such as "),
        ("[dcache]\nversion = '10'", "dcache.version: expected dCache release such as "),
        ("[dcache]\nversion = '6.2'", "dcache.version: expected dCache release such as "),
        ("[dcache]\npool_dir = '/pools/{pool}'", "dcache.pool_dir: expected path with {fs} and {pool}, got "),
        (
            "[dcache]\npool_dir = '/x/{fs}/{pool}'",
            "dcache.pool_dir: expected path with {fs} and {pool}, got ",
        ),
        (
            "[dcache]\npool_dir = '{fs}/../{pool}'",
            "dcache.pool_dir: expected path with {fs} and {pool}, got ",
        ),
        ("[dcache]\npool_dir = '{fs}/{pool'", "dcache.pool_dir: expected path with {fs} and {pool}, got "),
        ("[dcache]\npool_dir = '{fs}/{pool!r}'", "dcache.pool_dir: expected path with {fs} and {pool}, got "),
        (
            "[dcache]\npool_dir = '{fs}/{pool}/{}'",
            "dcache.pool_dir: expected path with {fs} and {pool}, got ",
        ),
    ],
)
def test_wrong_setting_is_refused_with_place_and_remedy(etc: Path, text: str, message: str) -> None:
    assert refusal(etc, text).startswith(message)


def test_zone_with_a_slip_gets_a_suggestion(etc: Path) -> None:
    assert refusal(etc, "chimera.timezone = 'Europe/Zurch'").endswith("(did you mean Europe/Zurich?)")


def test_version_without_quotes_is_told_to_take_them(etc: Path) -> None:
    assert refusal(etc, "dcache.version = 10.2").endswith("(write it in quotes)")


def test_file_that_is_not_utf8_is_refused(etc: Path) -> None:
    write(etc, "").write_bytes(b'[dpm]\nhost = "\xe4"\n')
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 14"):
        load(etc / "bridge.toml", {}, etc=etc)


def test_space_manager_has_two_passwords_at_most_one_of_which_is_taken(etc: Path) -> None:
    text = "spacemanager.dsn = 'postgresql://u:pw@h/s'\nspacemanager.password_file = '/etc/pw'\n"
    assert refusal(etc, text).startswith("spacemanager.password_file and a password in spacemanager.dsn")


def test_space_manager_takes_its_password_from_a_file(etc: Path) -> None:
    write(etc, "hunter2\n", "space.pw")
    text = f"spacemanager.enabled = true\nspacemanager.password_file = '{etc}/space.pw'\n"
    loaded = load_text(etc, text)
    assert loaded.spacemanager.enabled
    assert loaded.spacemanager.password == "hunter2"


# Values that are taken


@pytest.mark.parametrize(
    ("name", "toml", "value"),
    [
        ("exporter.heartbeat_seconds", "2", 2.0),
        ("exporter.heartbeat_seconds", "0.25", 0.25),
        ("exporter.batch", "500", 500),
        ("exporter.enabled", "false", False),
        ("chimera.timezone", "'America/Argentina/Buenos_Aires'", "America/Argentina/Buenos_Aires"),
        ("chimera.timezone", "'UTC'", "UTC"),
        ("dcache.version", "'12.0'", "12.0"),
        ("dcache.pool_dir", "'{fs}/pools/{pool}/x'", "{fs}/pools/{pool}/x"),
        ("monitoring.address", "'::1'", "::1"),
        ("dpm.cns_db", "'cns-db_2'", "cns-db_2"),
        ("dpm.password", "' with blanks '", " with blanks "),
    ],
)
def test_right_setting_is_taken(etc: Path, name: str, toml: str, value: object) -> None:
    section, _, key = name.partition(".")
    settings = getattr(load_text(etc, f"{name} = {toml}"), section)
    taken = getattr(settings, key)
    assert (taken, type(taken)) == (value, type(value))


def test_zone_is_the_machine_s_by_default_and_known(etc: Path) -> None:
    chimera = load_text(etc, "").chimera
    assert chimera.timezone == config.machine_zone()
    assert chimera.zone == ZoneInfo(chimera.timezone)


@pytest.mark.parametrize("name", ["local", "Nowhere/Else", ""])
def test_machine_zone_without_a_name_asks_for_the_key(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("tzlocal.get_localzone_name", lambda: name)
    with pytest.raises(ConfigError, match=r"set chimera\.timezone"):
        config.machine_zone()


def test_machine_zone_that_cannot_be_told_does_no_harm_when_the_key_is_set(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tzlocal.get_localzone_name", lambda: "local")
    assert load_text(etc, "chimera.timezone = 'Europe/Zurich'").chimera.timezone == "Europe/Zurich"


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://dcache@localhost/chimera",
        "postgres://dcache:pw@db.example.org:5433/chimera?sslmode=require",
        "postgresql:///chimera?host=/run/postgresql&user=dcache",
        "postgresql://%2Frun%2Fpostgresql/chimera",
        "postgresql://dcache@[2001:db8::1]:5432/chimera",
        "postgresql://dcache@one,two:5433/chimera?target_session_attrs=read-write",
        "postgresql://localhost?dbname=chimera",
    ],
)
def test_postgresql_url_is_taken(etc: Path, dsn: str) -> None:
    assert load_text(etc, f'chimera.dsn = "{dsn}"').chimera.dsn == dsn


@pytest.mark.parametrize(
    "dsn",
    [
        "",
        "host=localhost dbname=chimera",
        "mysql://dcache:hunter2@localhost/chimera",
        "postgresql://dcache:hunter2@localhost",
        "postgresql://dcache:hunter2@localhost/",
        "postgresql://dcache:hunter2@localhost:port/chimera",
        "postgresql://dcache:hunter2@localhost:0/chimera",
        "postgresql://dcache:hunter2@localhost:65536/chimera",
        "postgresql://dcache:hunter2@one,/chimera",
        "postgresql://dcache:hunter2/x@localhost/chimera",
        "postgresql://dcache:1/hunter2@localhost/chimera",
        "postgresql://dcache:1?hunter2@localhost/chimera",
        "postgresql://dcache:hunter2#x@localhost/chimera",
        "postgresql://dcache:hunter2@x@localhost/chimera",
        "postgresql://dcache:hunter2[x@localhost/chimera",
        "postgresql://dcache:hunter2 x@localhost/chimera",
        "postgresql://dcache:hunter2@localhost/chimera?sslmode",
    ],
)
def test_url_that_is_wrong_is_refused_without_being_shown(etc: Path, dsn: str) -> None:
    message = refusal(etc, f'chimera.dsn = "{dsn}"')
    assert message.startswith("chimera.dsn: expected postgresql:// URL")
    assert "hunter2" not in message
    assert "dcache" not in message


# Secrets


@pytest.mark.parametrize(
    ("content", "password"),
    [("pw", "pw"), ("pw\n", "pw"), ("pw\r\n", "pw"), (" p w \n", " p w "), ("pä\n", "pä")],
)
def test_password_file_loses_its_final_newline_only(etc: Path, content: str, password: str) -> None:
    secret = write(etc, "", "secret")
    secret.write_bytes(content.encode())
    text = f"""
    dpm.password_file = "{secret}"
    dpm.admin_user = "root"
    dpm.admin_password_file = "{secret}"
    chimera.password_file = "{secret}"
    """
    loaded = load_text(etc, text)
    assert loaded.dpm.password == loaded.dpm.admin_password == loaded.chimera.password == password


@pytest.mark.parametrize("content", [b"", b"\n", b"pw\n\n", b"user\npw\n", b"p\0w", b"p\xe4"])
def test_password_file_that_is_not_one_line_is_refused(etc: Path, content: bytes) -> None:
    secret = write(etc, "", "secret")
    secret.write_bytes(content)
    assert refusal(etc, f'dpm.password_file = "{secret}"').startswith(f"dpm.password_file: {secret} ")


def test_password_file_that_is_missing_is_refused(etc: Path) -> None:
    message = refusal(etc, f'chimera.password_file = "{etc}/none"')
    assert message.startswith(f"chimera.password_file: {etc}/none cannot be read (No such file or directory)")


@pytest.mark.parametrize(
    "text",
    [
        'dpm.password = "hunter2"\ndpm.password_file = "{secret}"',
        'dpm.admin_user = "root"\ndpm.admin_password = "hunter2"\ndpm.admin_password_file = "{secret}"',
        'chimera.dsn = "postgresql://u:hunter2@h/c"\nchimera.password_file = "{secret}"',
        'chimera.dsn = "postgresql://h/c?password=hunter2"\nchimera.password_file = "{secret}"',
    ],
)
def test_password_in_two_places_is_refused(etc: Path, text: str) -> None:
    message = refusal(etc, text.format(secret=write(etc, "hunter2", "secret")))
    assert message.endswith("keep one of them")
    assert "hunter2" not in message


def test_empty_password_beside_a_password_file_is_no_second_one(etc: Path) -> None:
    secret = write(etc, "pw", "secret")
    assert load_text(etc, f'dpm.password = ""\ndpm.password_file = "{secret}"').dpm.password == "pw"


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, False), (0o640, False), (0o400, False), (0o644, True), (0o660, True)]
)
def test_password_file_open_to_others_is_warned_of(
    etc: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    secret = write(etc, "hunter2", "secret", mode)
    load_text(etc, f'dpm.password_file = "{secret}"')
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [f"file={secret} mode={mode:04o}" in message for message in messages] == ([True] if warned else [])
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ('dpm.password = "hunter2"', True),
        ('dpm.password = "a://b"', True),
        ('chimera.dsn = "postgresql://u:hunter2@h/c"', True),
        ('chimera.dsn = "postgresql://u@h/c"', False),
        ('dpm.password = ""', False),
    ],
)
def test_file_with_a_password_open_to_others_is_warned_of(
    etc: Path, caplog: pytest.LogCaptureFixture, text: str, warned: bool
) -> None:
    load(write(etc, text, mode=0o644), {}, etc=etc)
    assert ("a secret is open to others" in caplog.text) == warned


def test_secrets_stay_out_of_repr(etc: Path) -> None:
    write(etc, "head.db.user: dpmmgr\nglb.restclient.xrdhttpkey: hunter2\n", "domehead.conf")
    text = """
    dpm.password = "hunter2"
    dpm.admin_user = "root"
    dpm.admin_password = "hunter2"
    chimera.dsn = "postgresql://dcache:hunter2@localhost/chimera"
    spacemanager.dsn = "postgresql://dcache:hunter2@localhost/space"
    """
    assert "hunter2" not in repr(load_text(etc, text))
    assert "hunter2" not in repr(ChimeraConfig(password="hunter2"))


@pytest.mark.parametrize("key", [key for key in KEYS if key.secret], ids=lambda key: key.name)
def test_secret_of_a_wrong_type_is_not_shown(etc: Path, key: config.Key) -> None:
    message = refusal(etc, f"{key.name} = 271828")
    assert message.startswith(f"{key.name}: expected ")
    assert "271828" not in message


@pytest.mark.parametrize(
    ("dsn", "redacted"),
    [
        ("postgresql://dcache@localhost/chimera", "postgresql://dcache@localhost/chimera"),
        ("postgresql://dcache:pw@h:5433/c", "postgresql://dcache:***@h:5433/c"),
        ("postgresql://dcache:p@w@h/c", "postgresql://dcache:***@h/c"),
        ("postgresql://h/c?password=pw&sslmode=require", "postgresql://h/c?password=***&sslmode=require"),
        ("postgresql:///c?host=/run/pg&sslpassword=pw", "postgresql:///c?host=/run/pg&sslpassword=***"),
        ("postgresql://h/c?p%61ssword=pw", "postgresql://h/c?password=***"),
        ("postgresql://dcache:pw[@h/c", "postgresql://***"),
    ],
)
def test_redacted_url_shows_all_but_the_passwords(dsn: str, redacted: str) -> None:
    assert ChimeraConfig(dsn=dsn, timezone="UTC").redacted_dsn == redacted


@given(st.text("ab:/@?#[]%=&. ", max_size=12))
def test_any_text_as_password_is_either_refused_or_redacted(noise: str) -> None:
    dsn = f"postgresql://dcache:hunter2{noise}@localhost/chimera"
    try:
        config_kinds.DSN.parse(dsn)
    except ValueError as error:
        shown = str(error)
    else:
        shown = config.redact(dsn)
    assert "hunter2" not in shown


# The reference


# They must be given, or follow from another key.
NO_DEFAULT = {
    "api.listen.port",
    "auth.issuer.name",
    "auth.issuer.issuer",
    "auth.issuer.base_path",
    "auth.issuer.vo",
}

# Filled in when the file is loaded.
DERIVED = {
    "chimera.password",
    "spacemanager.password",
    "auth.xrdhttp_secret",
    "auth.xrdhttp_old_secret",
    "auth.issuers",
    "auth.issuer.username",
    "auth.issuer.groups",
}


def toml_of(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return json.dumps(default)
    return f'"{default or ""}"' if isinstance(default, str | Path | None) else str(default)


def test_every_section_is_a_field_of_the_config() -> None:
    settings = Config(chimera=ChimeraConfig(timezone="UTC"))
    assert {name: type(getattr(settings, name)) for name in SECTIONS} == dict(SECTIONS)


@pytest.mark.parametrize("section", TABLES)
def test_every_field_is_a_key_with_its_default(section: str) -> None:
    settings = TABLES[section]()
    keys = {key.name: key for key in KEYS if key.section == section}
    names = {f"{section}.{one.name}" for one in fields(settings)}
    assert names - set(TABLES) - DERIVED == set(keys)
    for name in set(keys) - {"dpm.domehead_conf", "chimera.timezone"} - NO_DEFAULT:
        assert keys[name].default == toml_of(getattr(settings, keys[name].key))


@pytest.mark.parametrize("key", [key for key in KEYS if key.name not in NO_DEFAULT], ids=lambda key: key.name)
def test_default_is_a_value_the_key_takes(key: config.Key) -> None:
    default = getattr(TABLES[key.section](), key.key)
    given = str(default or "") if isinstance(default, Path | None) else default
    assert key.parse(given, "here") == default


@pytest.mark.parametrize("section", TABLES)
def test_reference_has_every_key_with_its_default(section: str) -> None:
    heading = config.heading(section)
    documented = REFERENCE.read_text().partition(f"## `{heading}`\n")[2].partition("\n## ")[0]
    rows = [line for line in documented.splitlines() if line.startswith("| `")]
    cells = [tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in rows]
    assert cells == [
        (f"`{key.key}`", key.type.label, key.default, key.doc) for key in KEYS if key.section == section
    ]


def test_reference_ends_with_what_the_module_prints() -> None:
    assert REFERENCE.read_text().endswith(config.reference())
