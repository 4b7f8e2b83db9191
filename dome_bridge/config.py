"""The settings: dome-bridge.toml, and DPM's domehead.conf for what the file leaves out.

One frozen dataclass per section. Each field carries what its key takes and a line for the reference, so the
dataclasses are the only list of keys: `KEYS` and the tables of docs/reference/config.md come from them
(`python -m dome_bridge.config` prints those). Nothing is read before `load` is called.
"""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from zoneinfo import ZoneInfo

import tzlocal

from dome_bridge.config_kinds import (
    DCACHE_VERSION,
    DSN,
    FLAG,
    FREE_TEXT,
    PATH,
    POOL_DIR,
    PORT,
    SCHEMA_NAME,
    SOCKET,
    TEXT,
    ZONE,
    Kind,
    iana_zone,
    not_yet,
    seconds,
    whole,
)
from dome_bridge.dpm import domehead
from dome_bridge.dpm.domehead import DomeheadConf
from dome_bridge.errors import ConfigError

logger = logging.getLogger(__name__)

CONFIG_VARIABLE = "DOME_BRIDGE_CONFIG"
SECRET_MODE = 0o640


def _key(kind: Kind, doc: str, *, default: str | None = None) -> dict[str, Any]:
    """A field's metadata. `default` is for the reference where the value is only known on the machine."""
    return {"kind": kind, "doc": doc, "default": default}


def machine_zone() -> str:
    """The IANA name of this machine's time zone. Raises ConfigError if it has a zone without a name."""
    try:
        name = tzlocal.get_localzone_name()
    except (LookupError, ValueError, OSError):
        name = None
    if name is None and not Path("/etc/localtime").exists():
        name = "UTC"
    try:
        return iana_zone(name)
    except ValueError:
        raise ConfigError(
            "the time zone of this machine has no IANA name: set chimera.timezone to the dCache head node's"
        ) from None


@dataclass(frozen=True)
class DpmConfig:
    """DPM's database server, with the catalog and the pools.

    Keys marked * are taken from `domehead_conf` if they are not given here.
    """

    domehead_conf: Path | None = field(
        default=None,
        metadata=_key(
            PATH, "DPM's own configuration; empty: do without", default="/etc/domehead.conf, if it is there"
        ),
    )
    host: str = field(default="localhost", metadata=_key(TEXT, "* MariaDB's host"))
    unix_socket: str = field(
        default="", metadata=_key(SOCKET, "MariaDB's socket, instead of `host` and `port`")
    )
    port: int = field(default=domehead.MYSQL_PORT, metadata=_key(PORT, "* MariaDB's port"))
    user: str = field(
        default="dpmmgr", metadata=_key(TEXT, "* account that reads the catalog and the journal")
    )
    password: str = field(default="", repr=False, metadata=_key(FREE_TEXT, "* its password"))
    password_file: Path | None = field(default=None, metadata=_key(PATH, "file with the password, instead"))
    cns_db: str = field(default="cns_db", metadata=_key(SCHEMA_NAME, "* database of the name server"))
    dpm_db: str = field(default="dpm_db", metadata=_key(SCHEMA_NAME, "* database of the pool manager"))
    admin_user: str = field(
        default="",
        metadata=_key(FREE_TEXT, "account for init, fence and complete if `user` may not create triggers"),
    )
    admin_password: str = field(default="", repr=False, metadata=_key(FREE_TEXT, "its password"))
    admin_password_file: Path | None = field(
        default=None, metadata=_key(PATH, "file with the admin's password, instead")
    )


@dataclass(frozen=True)
class ChimeraConfig:
    """dCache's namespace database, which the bridge fills.

    Without a password here PostgreSQL's own ways hold: peer authentication, or the account's `~/.pgpass`.
    """

    dsn: str = field(
        default="postgresql://dcache@localhost/chimera",
        repr=False,
        metadata=_key(DSN, "the Chimera database"),
    )
    password_file: Path | None = field(
        default=None, metadata=_key(PATH, "file with the password, instead of one in the URL")
    )
    timezone: str = field(
        default_factory=machine_zone,
        metadata=_key(ZONE, "time zone of dCache's head node", default="this machine's"),
    )
    # From password_file. Empty: what the URL has.
    password: str = field(default="", repr=False)

    @property
    def redacted_dsn(self) -> str:
        """The URL for logs and messages, any password in it replaced by ***."""
        return redact(self.dsn)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)


@dataclass(frozen=True)
class SpacemanagerConfig:
    """dCache's space manager. This version of dome-bridge does not fill it yet."""

    enabled: bool = field(
        default=False, metadata=_key(not_yet("the space manager"), "reserved for a later version")
    )
    dsn: str = field(
        default="postgresql://dcache@localhost/spacemanager",
        repr=False,
        metadata=_key(DSN, "the space manager's database"),
    )


@dataclass(frozen=True)
class ExporterConfig:
    """The mirror: snapshot, follow, verify and the gates of the cutover."""

    enabled: bool = field(default=True, metadata=_key(FLAG, "whether `dome-bridge run` mirrors"))
    batch: int = field(default=20000, metadata=_key(whole(1, 1_000_000), "journal rows applied at a time"))
    heartbeat_seconds: float = field(
        default=1.0, metadata=_key(seconds(), "interval of the heartbeats that lag is measured with")
    )
    snapshot_workers: int = field(
        default=2, metadata=_key(whole(1, 64), "ranges of the first copy in work at the same time")
    )
    snapshot_range: int = field(
        default=50000, metadata=_key(whole(1, 10_000_000), "entries in one range of the first copy")
    )
    lock_wait_seconds: float = field(
        default=5.0,
        metadata=_key(seconds(60), "wait for a lock to create triggers; DPM's writers queue that long"),
    )
    verify_interval_seconds: float = field(
        default=3600.0, metadata=_key(seconds(), "pause between two verify passes in the background")
    )
    verify_entries_per_second: int = field(
        default=20000, metadata=_key(whole(1, 100_000_000), "speed limit of verify in the background")
    )
    max_lag_seconds: float = field(
        default=30.0, metadata=_key(seconds(), "gate of the cutover: greatest lag of the mirror")
    )
    verify_max_age_seconds: float = field(
        default=21600.0,
        metadata=_key(seconds(), "gate of the cutover: greatest age of the last clean verify"),
    )
    max_fence_seconds: float = field(
        default=600.0,
        metadata=_key(seconds(), "longest time the fence may stand before the cutover is aborted"),
    )


@dataclass(frozen=True)
class ApiConfig:
    """The DOME API. This version of dome-bridge does not have it yet; DPM's own head goes on serving."""

    enabled: bool = field(
        default=False, metadata=_key(not_yet("the DOME API"), "reserved for a later version")
    )


@dataclass(frozen=True)
class MonitoringConfig:
    """The listener for Prometheus, health checks and the status page."""

    address: str = field(default="127.0.0.1", metadata=_key(TEXT, "address to listen on"))
    port: int = field(default=9740, metadata=_key(PORT, "port to listen on"))


@dataclass(frozen=True)
class DcacheConfig:
    """The dCache that is to come."""

    version: str = field(default="10.2", metadata=_key(DCACHE_VERSION, "release to write configuration for"))
    pool_dir: str = field(
        default="{fs}/dcache/{pool}",
        metadata=_key(POOL_DIR, "directory of a pool on the file system {fs} of DPM"),
    )


@dataclass(frozen=True)
class Config:
    """All settings. `path` is the file they come from, `domehead` all that DPM's own file says."""

    dpm: DpmConfig = field(default_factory=DpmConfig)
    chimera: ChimeraConfig = field(default_factory=ChimeraConfig)
    spacemanager: SpacemanagerConfig = field(default_factory=SpacemanagerConfig)
    exporter: ExporterConfig = field(default_factory=ExporterConfig)
    api: ApiConfig = field(default_factory=ApiConfig)
    monitoring: MonitoringConfig = field(default_factory=MonitoringConfig)
    dcache: DcacheConfig = field(default_factory=DcacheConfig)
    path: Path | None = None
    domehead: DomeheadConf | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Key:
    """One row of the reference. `default` is written as in TOML; a secret's value is never shown."""

    section: str
    key: str
    type: Kind
    default: str
    doc: str
    secret: bool

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"

    def parse(self, value: object, where: str) -> Any:
        """The setting that `value` means; ConfigError says what was expected at `where`."""
        try:
            return self.type.parse(value)
        except ValueError as error:
            got = "" if self.secret else f", got {_shown(value)}"
            reason = f" ({error})" if str(error) else ""
            # From None: the cause might quote a secret.
            raise ConfigError(f"{where}: expected {self.type.label}{got}{reason}") from None


SECTIONS: Mapping[str, type[Any]] = {
    "dpm": DpmConfig,
    "chimera": ChimeraConfig,
    "spacemanager": SpacemanagerConfig,
    "exporter": ExporterConfig,
    "api": ApiConfig,
    "monitoring": MonitoringConfig,
    "dcache": DcacheConfig,
}


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    return f"{json.dumps(value, default=str):.60}"


def _keys_of(section: str, settings: type[Any]) -> Iterable[Key]:
    for one in fields(settings):
        if "kind" not in one.metadata:
            continue
        default = one.metadata["default"]
        if default is None:
            default = _shown("" if one.default is None or one.default is MISSING else one.default)
        yield Key(section, one.name, one.metadata["kind"], default, one.metadata["doc"], not one.repr)


KEYS: tuple[Key, ...] = tuple(key for section in SECTIONS for key in _keys_of(section, SECTIONS[section]))

_BY_NAME: Mapping[str, Key] = {key.name: key for key in KEYS}

# What a later version will have, so that the message is not "unknown".
_LATER: Mapping[str, frozenset[str]] = {
    "api": frozenset({"url_prefix", "host_names", "stat_hook", "listen", "proxied", "tls"}),
    "auth": frozenset(),
    "disk": frozenset(),
}

_FROM_DOMEHEAD: Mapping[str, tuple[str, Callable[[DomeheadConf], object]]] = {
    "host": ("head.db.host", lambda conf: conf.host),
    "port": ("head.db.port", lambda conf: conf.port),
    "user": ("head.db.user", lambda conf: conf.user),
    "password": ("head.db.password", lambda conf: conf.password),
    "cns_db": ("head.db.cnsdbname", lambda conf: conf.cns_db),
    "dpm_db": ("head.db.dpmdbname", lambda conf: conf.dpm_db),
}


def load(path: Path | None, environ: Mapping[str, str], *, etc: Path = Path("/etc")) -> Config:
    """Read `path` (--config), else $DOME_BRIDGE_CONFIG, else /etc/dome-bridge/dome-bridge.toml.

    Without any of them the defaults hold, if /etc/domehead.conf is there to say where DPM's database is.
    Raises ConfigError, which names file, section and key.
    """
    file = _config_file(path, environ, etc)
    given = _given(file) if file else {section: {} for section in SECTIONS}
    where = str(file) if file else "defaults"
    dpm, conf = _dpm_config(given["dpm"], where, environ, etc)
    if file is None and conf is None:
        raise ConfigError(
            f"{_default_file(etc)}: no such file, nor {etc}/domehead.conf: write it,"
            f" name another with --config or {CONFIG_VARIABLE}, or run this on DPM's head node"
        )
    config = Config(
        dpm=dpm,
        chimera=_chimera_config(given["chimera"], where),
        spacemanager=SpacemanagerConfig(**given["spacemanager"]),
        exporter=ExporterConfig(**given["exporter"]),
        api=ApiConfig(**given["api"]),
        monitoring=MonitoringConfig(**given["monitoring"]),
        dcache=DcacheConfig(**given["dcache"]),
        path=file,
        domehead=conf,
    )
    _check_gates(config.exporter, where)
    return config


def redact(dsn: str) -> str:
    """A database URL with every password in it replaced by ***."""
    try:
        parts = urlsplit(dsn)
        parameters = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return "postgresql://***"
    account, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = account.partition(":")
    query = urlencode(
        [(name, "***" if _is_password(name) else value) for name, value in parameters], safe="*/,"
    )
    return f"{parts.scheme}://{user}{colon and ':***'}{at}{hosts}{parts.path}{query and '?' + query}"


def _is_password(parameter: str) -> bool:
    return "password" in parameter.lower()


def _has_password(dsn: str) -> bool:
    parts = urlsplit(dsn)
    return bool(parts.password) or any(_is_password(name) for name, _ in parse_qsl(parts.query))


def _default_file(etc: Path) -> Path:
    return etc / "dome-bridge" / "dome-bridge.toml"


def _config_file(path: Path | None, environ: Mapping[str, str], etc: Path) -> Path | None:
    if path is not None:
        return path
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    return _present(_default_file(etc))


def _given(file: Path) -> dict[str, dict[str, Any]]:
    """The keys of the file by section, checked and typed; a section that is not there is empty."""
    tables = _read_toml(file)
    for section, table in tables.items():
        _check_section(section, table, file)
    given = {section: _typed(section, tables.get(section, {}), file) for section in SECTIONS}
    if any(_holds_secret(section, keys) for section, keys in given.items()):
        _warn_if_loose(file)
    return given


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read ({error.strerror}): write it, or correct --config or {CONFIG_VARIABLE}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from error


def _check_section(section: str, table: object, file: Path) -> None:
    if section in SECTIONS:
        if not isinstance(table, dict):
            raise ConfigError(f"{file}: {section}: expected a section, got {_shown(table)}")
    elif section in _LATER:
        raise ConfigError(
            f"{file}: section [{section}] is not available in this version of dome-bridge yet: remove it"
        )
    elif isinstance(table, dict | list):
        close = difflib.get_close_matches(section, SECTIONS, 1)
        hint = f"did you mean [{close[0]}]?" if close else f"known are {', '.join(SECTIONS)}"
        raise ConfigError(f"{file}: unknown section [{_one_line(section)}]: {hint}")
    else:
        raise ConfigError(
            f"{file}: key {_one_line(section)} stands outside of a section{_suggestion('', section)}"
        )


def _typed(section: str, table: Mapping[str, object], file: Path) -> dict[str, Any]:
    typed = {}
    for name, value in table.items():
        key = _BY_NAME.get(f"{section}.{name}")
        if key is None:
            raise _unknown_key(section, name, file)
        typed[name] = key.parse(value, f"{file}: {key.name}")
    return typed


def _unknown_key(section: str, name: str, file: Path) -> ConfigError:
    if name in _LATER.get(section, ()):
        return ConfigError(
            f"{file}: {section}.{name}: section [{section}] is not available"
            " in this version of dome-bridge yet: remove the key"
        )
    return ConfigError(f"{file}: unknown key {section}.{_one_line(name)}{_suggestion(section, name)}")


def _suggestion(section: str, name: str) -> str:
    """The key meant: the most similar one of the section, else the same one of another section."""
    in_section = [key.key for key in KEYS if key.section == section]
    close = [f"{section}.{key}" for key in difflib.get_close_matches(name, in_section, 1)]
    meant = close or [key.name for key in KEYS if key.key == name]
    if len(meant) == 1:
        return f": did you mean {meant[0]}?"
    return f": known are {', '.join(meant or in_section or SECTIONS)}"


def _one_line(name: str) -> str:
    return name.encode("unicode_escape").decode()


def _dpm_config(
    given: Mapping[str, Any], where: str, environ: Mapping[str, str], etc: Path
) -> tuple[DpmConfig, DomeheadConf | None]:
    if given.get("unix_socket") and "host" in given:
        raise ConfigError(f"{where}: dpm.host and dpm.unix_socket are both given: keep one of them")
    if not given.get("admin_user") and (given.get("admin_password") or given.get("admin_password_file")):
        raise ConfigError(f"{where}: dpm.admin_password is given without dpm.admin_user: add whose it is")
    given = _with_secret("dpm", "password", _with_secret("dpm", "admin_password", given, where), where)
    path = given["domehead_conf"] if "domehead_conf" in given else _present(etc / "domehead.conf")
    if path is None:
        return DpmConfig(**given), None
    conf = domehead.read(path, environ)
    settings = {**_inherited(conf, given), **given, "domehead_conf": path}
    return DpmConfig(**settings), conf


def _present(path: Path) -> Path | None:
    """`path` unless there is no such file; one we may not look at counts, so that reading it tells why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass
    return path


def _inherited(conf: DomeheadConf, given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _BY_NAME[f"dpm.{name}"].parse(value_of(conf), f"{conf.source}: {origin}")
        for name, (origin, value_of) in _FROM_DOMEHEAD.items()
        if name not in given
    }


def _chimera_config(given: Mapping[str, Any], where: str) -> ChimeraConfig:
    if given.get("password_file") and _has_password(given.get("dsn", "")):
        raise ConfigError(f"{where}: chimera.password_file and a password in chimera.dsn: keep one of them")
    return ChimeraConfig(**_with_secret("chimera", "password", given, where))


def _with_secret(section: str, name: str, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`given` with the secret `name` read from its file, if the key for one is set."""
    file = given.get(f"{name}_file")
    if file is None:
        return dict(given)
    if given.get(name):
        raise ConfigError(
            f"{where}: {section}.{name} and {section}.{name}_file are both given: keep one of them"
        )
    return {**given, name: _read_secret(file, f"{where}: {section}.{name}_file")}


def _read_secret(file: Path, where: str) -> str:
    try:
        secret = re.sub(r"\r?\n\Z", "", file.read_bytes().decode())
    except OSError as error:
        raise ConfigError(
            f"{where}: {file} cannot be read ({error.strerror}): write it, readable by this account"
        ) from error
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: {file} is not UTF-8: write the password alone into it") from None
    if not secret or any(sign in secret for sign in "\0\n"):
        raise ConfigError(f"{where}: {file} must hold one line, the password: write it alone into it")
    _warn_if_loose(file)
    return secret


def _warn_if_loose(file: Path) -> None:
    mode = file.stat().st_mode & 0o777
    if mode & ~SECRET_MODE & 0o077:
        logger.warning("a secret is open to others, chmod it to 0640 file=%s mode=%04o", file, mode)


def _holds_secret(section: str, given: Mapping[str, Any]) -> bool:
    keys = {_BY_NAME[f"{section}.{name}"]: value for name, value in given.items()}
    return any(
        _has_password(value) if key.type is DSN else value for key, value in keys.items() if key.secret
    )


def _check_gates(exporter: ExporterConfig, where: str) -> None:
    # Lag is the age of a heartbeat: it reaches the interval even when nothing is behind.
    if exporter.max_lag_seconds <= exporter.heartbeat_seconds:
        raise ConfigError(
            f"{where}: exporter.max_lag_seconds: expected more than exporter.heartbeat_seconds"
            f" ({exporter.heartbeat_seconds:g}), got {exporter.max_lag_seconds:g}"
        )


def reference() -> str:
    """The tables of docs/reference/config.md, section by section."""
    return "\n".join(_reference_of(section, settings) for section, settings in SECTIONS.items())


def _reference_of(section: str, settings: type[Any]) -> str:
    rows = [
        f"| `{key.key}` | {key.type.label} | {key.default} | {key.doc} |"
        for key in KEYS
        if key.section == section
    ]
    table = "\n".join(("| key | takes | default | meaning |", "| --- | --- | --- | --- |", *rows))
    return f"## `[{section}]`\n\n{inspect.getdoc(settings)}\n\n{table}\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
