"""The settings: dome-bridge.toml, and DPM's domehead.conf for what the file leaves out.

`config_sections` and `config_auth` have the sections, `config_keys` what may stand in the file. What the
values mean together is said here; of listeners in `config_listen`, of who is believed in `config_issuers`.
`python -m dome_bridge.config` prints the tables of docs/reference/config.md. Nothing is read before `load` is
called.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dome_bridge.config_issuers import auth_config, check_inherited_key
from dome_bridge.config_keys import BY_NAME, KEYS, Key, heading, holds_secret, read_toml, typed
from dome_bridge.config_listen import check_listeners, listeners, proxied
from dome_bridge.config_secrets import (
    has_password,
    redact,
    warn_if_loose,
    with_secret,
)
from dome_bridge.config_sections import (
    SECTIONS,
    TABLES,
    ApiConfig,
    AuthConfig,
    ChimeraConfig,
    DcacheConfig,
    DiskConfig,
    DpmConfig,
    Endpoint,
    ExporterConfig,
    IssuerConfig,
    ListenConfig,
    MonitoringConfig,
    PlacementConfig,
    ProxiedConfig,
    QueueConfig,
    SpacemanagerConfig,
    TlsConfig,
    machine_zone,
)
from dome_bridge.dpm import domehead
from dome_bridge.dpm.domehead import DomeheadConf
from dome_bridge.errors import ConfigError

__all__ = [
    "CONFIG_VARIABLE",
    "KEYS",
    "SECTIONS",
    "TABLES",
    "ApiConfig",
    "AuthConfig",
    "ChimeraConfig",
    "Config",
    "DcacheConfig",
    "DiskConfig",
    "DpmConfig",
    "Endpoint",
    "ExporterConfig",
    "IssuerConfig",
    "Key",
    "ListenConfig",
    "MonitoringConfig",
    "PlacementConfig",
    "ProxiedConfig",
    "QueueConfig",
    "SpacemanagerConfig",
    "TlsConfig",
    "heading",
    "load",
    "machine_zone",
    "redact",
    "reference",
]

logger = logging.getLogger(__name__)

CONFIG_VARIABLE = "DOME_BRIDGE_CONFIG"


@dataclass(frozen=True)
class Config:
    """All settings. `path` is the file they come from, `domehead` all that DPM's own file says."""

    dpm: DpmConfig = field(default_factory=DpmConfig)
    chimera: ChimeraConfig = field(default_factory=ChimeraConfig)
    spacemanager: SpacemanagerConfig = field(default_factory=SpacemanagerConfig)
    exporter: ExporterConfig = field(default_factory=ExporterConfig)
    api: ApiConfig = field(default_factory=ApiConfig)
    auth: AuthConfig = field(default_factory=AuthConfig)
    disk: DiskConfig = field(default_factory=DiskConfig)
    monitoring: MonitoringConfig = field(default_factory=MonitoringConfig)
    dcache: DcacheConfig = field(default_factory=DcacheConfig)
    path: Path | None = None
    domehead: DomeheadConf | None = field(default=None, repr=False)


HTTPS_PORT = 443

_KEY_PAIR = frozenset({"certificate", "key"})

_DATABASE_OF_DOMEHEAD: Mapping[str, tuple[str, Callable[[DomeheadConf], object]]] = {
    "host": ("head.db.host", lambda conf: conf.host),
    "port": ("head.db.port", lambda conf: conf.port),
    "user": ("head.db.user", lambda conf: conf.user),
    "password": ("head.db.password", lambda conf: conf.password),
    "cns_db": ("head.db.cnsdbname", lambda conf: conf.cns_db),
    "dpm_db": ("head.db.dpmdbname", lambda conf: conf.dpm_db),
}


def _number(text: str) -> int | str:
    return int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else text


def _without_slash(text: str) -> str:
    return text.rstrip("/")


# Keys that stay as they are where DPM's file is silent, unlike those of its database.
_API_OF_DOMEHEAD: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "api.url_prefix": ("glb.auth.urlprefix", _without_slash),
    "api.host_names": ("glb.myhostname", lambda name: [name]),
    "auth.gridmap_file": ("head.gridmapfile", str),
    "api.directory_size_depth": ("head.dirspacereportdepth", _number),
    "api.tick_seconds": ("glb.tickfreq", _number),
    "api.stat_hook": ("head.filepuller.stathook", str),
    "api.stat_hook_seconds": ("head.filepuller.stathooktimeout", _number),
    "api.tls.certificate": ("glb.restclient.cli_certificate", str),
    "api.tls.key": ("glb.restclient.cli_private_key", str),
    "api.tls.ca_dir": ("glb.restclient.ca_path", str),
    "api.placement.min_free_mb": ("head.put.minfreespace_mb", _number),
    "api.checksums.max_total": ("head.checksum.maxtotal", _number),
    "api.checksums.max_per_server": ("head.checksum.maxpernode", _number),
    "api.checksums.timeout_seconds": ("head.checksum.qtmout", _number),
    "api.pulls.max_total": ("head.filepulls.maxtotal", _number),
    "api.pulls.max_per_server": ("head.filepulls.maxpernode", _number),
    "api.pulls.timeout_seconds": ("head.filepulls.qtmout", _number),
    "disk.certificate": ("glb.restclient.cli_certificate", str),
    "disk.key": ("glb.restclient.cli_private_key", str),
    "disk.ca_dir": ("glb.restclient.ca_path", str),
    "disk.url_prefix": ("head.diskdomemgmtsuffix", _without_slash),
    "disk.connect_seconds": ("glb.restclient.conn_timeout", _number),
    "disk.request_seconds": ("glb.restclient.ops_timeout", _number),
    "disk.poll_seconds": ("glb.fscheckinterval", _number),
}


# Tables of [api] whose values need no more than what the keys check.
_API_TABLES: Mapping[str, type[Any]] = {
    "placement": PlacementConfig,
    "checksums": QueueConfig,
    "pulls": QueueConfig,
}


def load(
    path: Path | None, environ: Mapping[str, str], *, etc: Path = Path("/etc"), serves: bool = True
) -> Config:
    """Read `path` (--config), else $DOME_BRIDGE_CONFIG, else /etc/dome-bridge/dome-bridge.toml.

    Without any of them the defaults hold, if /etc/domehead.conf is there to say where DPM's database is.
    serves: there must be keys and listeners to serve with, and no key that is open to others.
    Raises ConfigError, which names file, section and key.
    """
    file = _config_file(path, environ, etc)
    where = str(file) if file else "defaults"
    given = _given(file) if file else typed({}, where)
    dpm, conf = _dpm_config(given["dpm"], where, environ, etc)
    if file is None and conf is None:
        raise ConfigError(
            f"{_default_file(etc)}: no such file, nor {etc}/domehead.conf: write it,"
            f" name another with --config or {CONFIG_VARIABLE}, or run this on DPM's head node"
        )
    # Nothing in DPM's file that only the API needs may stop a mirror without it.
    head = conf if conf and given["api"].get("enabled") else DomeheadConf()
    config = Config(
        dpm=dpm,
        chimera=_chimera_config(given["chimera"], where),
        spacemanager=_spacemanager_config(given["spacemanager"], where),
        exporter=ExporterConfig(**given["exporter"]),
        api=_api_config(given["api"], head, where),
        auth=auth_config(_with_head("auth", given["auth"], head), head, where, serves=serves),
        disk=_disk_config(given["disk"], head, where),
        monitoring=MonitoringConfig(**given["monitoring"]),
        dcache=DcacheConfig(**given["dcache"]),
        path=file,
        domehead=conf,
    )
    _check_gates(config.exporter, where)
    if config.api.enabled and serves:
        check_listeners(config.api, config.auth, where)
        check_inherited_key(config.auth, head)
    return config


def _default_file(etc: Path) -> Path:
    return etc / "dome-bridge" / "dome-bridge.toml"


def _config_file(path: Path | None, environ: Mapping[str, str], etc: Path) -> Path | None:
    if path is not None:
        return path
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    return _present(_default_file(etc))


def _given(file: Path) -> dict[str, dict[str, Any]]:
    given = typed(read_toml(file, f"write it, or correct --config or {CONFIG_VARIABLE}"), str(file))
    if any(holds_secret(section, keys) for section, keys in given.items()):
        warn_if_loose(file)
    return given


def _dpm_config(
    given: Mapping[str, Any], where: str, environ: Mapping[str, str], etc: Path
) -> tuple[DpmConfig, DomeheadConf | None]:
    if given.get("unix_socket") and "host" in given:
        raise ConfigError(f"{where}: dpm.host and dpm.unix_socket are both given: keep one of them")
    if not given.get("admin_user") and (given.get("admin_password") or given.get("admin_password_file")):
        raise ConfigError(f"{where}: dpm.admin_password is given without dpm.admin_user: add whose it is")
    given = with_secret("dpm", "password", with_secret("dpm", "admin_password", given, where), where)
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
        name: BY_NAME[f"dpm.{name}"].parse(value_of(conf), f"{conf.source}: {origin}")
        for name, (origin, value_of) in _DATABASE_OF_DOMEHEAD.items()
        if name not in given
    }


def _chimera_config(given: Mapping[str, Any], where: str) -> ChimeraConfig:
    if given.get("password_file") and has_password(given.get("dsn", "")):
        raise ConfigError(f"{where}: chimera.password_file and a password in chimera.dsn: keep one of them")
    return ChimeraConfig(**with_secret("chimera", "password", given, where))


def _spacemanager_config(given: Mapping[str, Any], where: str) -> SpacemanagerConfig:
    if given.get("password_file") and has_password(given.get("dsn", "")):
        raise ConfigError(
            f"{where}: spacemanager.password_file and a password in spacemanager.dsn: keep one of them"
        )
    return SpacemanagerConfig(**with_secret("spacemanager", "password", given, where))


def _api_config(given: Mapping[str, Any], head: DomeheadConf, where: str) -> ApiConfig:
    settings = _with_head("api", given, head)
    settings["listen"] = listeners(given.get("listen", ()), where)
    settings["proxied"] = proxied(given.get("proxied", {}), where)
    settings["tls"] = _tls_config(given.get("tls", {}), head)
    for name, table in _API_TABLES.items():
        settings[name] = table(**_with_head(f"api.{name}", given.get(name, {}), head))
    return ApiConfig(**settings)


def _with_head(section: str, given: Mapping[str, Any], head: DomeheadConf) -> dict[str, Any]:
    """`given` with what DPM's file says about other keys of the section."""
    settings = dict(given)
    for name, (origin, value_of) in _API_OF_DOMEHEAD.items():
        key, text = BY_NAME[name], head.values.get(origin)
        if text and key.section == section and key.key not in given:
            settings[key.key] = key.parse(value_of(text), f"{head.source}: {origin}, taken for {name}")
    return settings


def _tls_config(given: Mapping[str, Any], head: DomeheadConf) -> TlsConfig:
    settings = _with_head("api.tls", given, head)
    # A certificate of one file and a key of the other would not fit.
    if not _KEY_PAIR.isdisjoint(given) or not settings.keys() >= _KEY_PAIR:
        for name in _KEY_PAIR - given.keys():
            settings.pop(name, None)
    return TlsConfig(**settings)


def _disk_config(given: Mapping[str, Any], head: DomeheadConf, where: str) -> DiskConfig:
    disk = DiskConfig(**_with_head("disk", given, head))
    if disk.scheme != "https":
        return disk
    if disk.certificate is None or disk.key is None:
        raise ConfigError(
            f"{where}: disk.scheme is https, which needs the head's certificate:"
            " add disk.certificate and disk.key"
        )
    return disk if "port" in given else replace(disk, port=HTTPS_PORT)


def _check_gates(exporter: ExporterConfig, where: str) -> None:
    # Lag is the age of a heartbeat: it reaches the interval even when nothing is behind.
    if exporter.max_lag_seconds <= exporter.heartbeat_seconds:
        raise ConfigError(
            f"{where}: exporter.max_lag_seconds: expected more than exporter.heartbeat_seconds"
            f" ({exporter.heartbeat_seconds:g}), got {exporter.max_lag_seconds:g}"
        )


def reference() -> str:
    """The tables of docs/reference/config.md, section by section."""
    return "\n".join(_reference_of(section, settings) for section, settings in TABLES.items())


def _reference_of(section: str, settings: type[Any]) -> str:
    rows = [
        f"| `{key.key}` | {key.type.label} | {key.default} | {key.doc} |"
        for key in KEYS
        if key.section == section
    ]
    table = "\n".join(("| key | takes | default | meaning |", "| --- | --- | --- | --- |", *rows))
    return f"## `{heading(section)}`\n\n{inspect.getdoc(settings)}\n\n{table}\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
