"""DPM's own configuration file, /etc/domehead.conf, read the way DOME's `Config` class (dmlite) reads it.

The bridge must talk to the very database DOME talks to, so quirks are kept rather than mended: blanks are
removed around a value, never around a key; a line without a colon says nothing; an `include` is read after
the rest of the file that has it, whatever line it stands in.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dome_bridge.errors import ConfigError

logger = logging.getLogger(__name__)

MYSQL_PORT = 3306

_VARIABLE = re.compile(r"\$\{([^}]+)\}")
_BLANKS = " \t\r"


@dataclass(frozen=True)
class DomeheadConf:
    """All that the file says, and by name what the bridge needs of it, with DOME's own defaults.

    `values` and `lists` hold the database password and the key that signs requests: they stay out of `repr`.
    """

    source: str = "domehead.conf"
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    includes: tuple[Path, ...] = ()

    @property
    def host(self) -> str:
        return self.values.get("head.db.host") or "localhost"

    @property
    def user(self) -> str:
        return self.values.get("head.db.user", "guest")

    @property
    def password(self) -> str:
        return self.values.get("head.db.password", "none")

    @property
    def port(self) -> int:
        """The TCP port, MySQL's own where the file says 0 or nothing. Raises ConfigError if it is no port."""
        text = self.values.get("head.db.port", "") or "0"
        digits = re.fullmatch(r"0*(\d{1,5})", text, re.ASCII)
        if digits is None or int(digits[1]) > 65535:
            raise ConfigError(
                f"{self.source}: head.db.port: expected a whole number from 0 to 65535, got {text!r:.60}"
            )
        return int(digits[1]) or MYSQL_PORT

    @property
    def cns_db(self) -> str:
        return self.values.get("head.db.cnsdbname") or "cns_db"

    @property
    def dpm_db(self) -> str:
        return self.values.get("head.db.dpmdbname") or "dpm_db"

    def overlaid(self, later: DomeheadConf) -> DomeheadConf:
        """This file followed by `later`: its values win, its list items are appended."""
        lists = {
            key: self.lists.get(key, ()) + later.lists.get(key, ())
            for key in dict.fromkeys((*self.lists, *later.lists))
        }
        return DomeheadConf(self.source, {**self.values, **later.values}, lists, self.includes)


def parse(text: str, environ: Mapping[str, str], *, source: str = "domehead.conf") -> DomeheadConf:
    """Understand the text of one file; what it includes is only named.

    Never raises: DOME skips what it cannot read.
    `${NAME}` in a value becomes `environ[NAME]` and stays as it is where there is no such variable.
    """
    values: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    includes: list[Path] = []
    for line in text.split("\n"):
        if line.startswith("#"):
            continue
        if line[:7].lower() == "include":
            includes.extend(_included_directory(line))
            continue
        key, colon, value = line.partition(":")
        if not colon or not key:
            continue
        value = _substitute(value.strip(_BLANKS), environ)
        name, brackets, _ = key.partition("[]")
        if brackets and name:
            lists[name] = (*lists.get(name, ()), value)
        else:
            values[key] = value
    return DomeheadConf(source, values, lists, tuple(includes))


def read(path: Path, environ: Mapping[str, str]) -> DomeheadConf:
    """Read a file and what it includes.

    Bytes that are not UTF-8 come as lone surrogates (`surrogateescape`): a password keeps its bytes.
    Raises ConfigError for a file that cannot be read and for a file that includes itself.
    """
    return _read(path, environ, ())


def _read(path: Path, environ: Mapping[str, str], including: tuple[Path, ...]) -> DomeheadConf:
    text = _text_of(path)
    real = path.resolve()
    if real in including:
        raise ConfigError(
            f"{path}: is included by itself, through {including[-1]}: remove one of the include lines"
        )
    conf = parse(text, environ, source=str(path))
    for directory in conf.includes:
        for file in _files_in(directory, included_by=path):
            conf = conf.overlaid(_read(file, environ, (*including, real)))
    return conf


def _text_of(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}): let this account read it,"
            ' or set dpm.domehead_conf to the right file, or to "" to go without'
        ) from error


def _files_in(directory: Path, *, included_by: Path) -> list[Path]:
    # Config::ReadDirectory takes visible *.conf files only, which keeps *.rpmsave and editors' backups out.
    try:
        return sorted(
            file
            for file in directory.iterdir()
            if file.suffix == ".conf" and not file.name.startswith(".") and file.is_file()
        )
    except (FileNotFoundError, NotADirectoryError):
        logger.warning("include of a missing directory skipped file=%s directory=%s", included_by, directory)
        return []
    except OSError as error:
        raise ConfigError(
            f"{included_by}: cannot read the included {directory} ({error.strerror}): let this account do so"
        ) from error


def _included_directory(line: str) -> list[Path]:
    directory = line[7:].strip(_BLANKS)
    # DOME refuses a relative one; a NUL cannot be in a path.
    return [Path(directory)] if directory.startswith("/") and "\0" not in directory else []


def _substitute(value: str, environ: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: environ.get(found[1], found[0]), value)
