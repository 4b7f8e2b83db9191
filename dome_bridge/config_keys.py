"""The keys of dome-bridge.toml: the list of them, and how a file becomes checked and typed values.

What the values mean together, and where the others come from, is decided in `config`.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from dome_bridge.config_kinds import DSN, Kind
from dome_bridge.config_secrets import has_password
from dome_bridge.config_sections import REPEATED, SECTIONS, TABLES
from dome_bridge.errors import ConfigError


@dataclass(frozen=True)
class Key:
    """One row of the reference. `default` is written as in TOML; a secret's value is never shown.

    A table in a section, such as [api.proxied], is a section of its own here: "api.proxied".
    """

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


KEYS: tuple[Key, ...] = tuple(key for section in TABLES for key in _keys_of(section, TABLES[section]))

BY_NAME: Mapping[str, Key] = {key.name: key for key in KEYS}


def heading(section: str) -> str:
    """The line that begins the table in TOML."""
    return f"[[{section}]]" if section in REPEATED else f"[{section}]"


def read_toml(file: Path, remedy: str) -> dict[str, Any]:
    """What the file says. Raises ConfigError, with `remedy` if it cannot be read."""
    try:
        return tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}): {remedy}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from error


def typed(tables: Mapping[str, object], where: str) -> dict[str, dict[str, Any]]:
    """The keys by section, checked and typed; a section that is not there is empty.

    A table in a section is a value of its section: a mapping, or a list of them.
    """
    for section, table in tables.items():
        if section not in SECTIONS:
            raise _unknown_section(section, table, where)
    return {section: _typed_section(section, tables.get(section, {}), where) for section in SECTIONS}


def holds_secret(section: str, given: Mapping[str, Any]) -> bool:
    keys = {BY_NAME[f"{section}.{name}"]: given[name] for name in given if f"{section}.{name}" in BY_NAME}
    return any(has_password(value) if key.type is DSN else value for key, value in keys.items() if key.secret)


def _unknown_section(section: str, table: object, where: str) -> ConfigError:
    if isinstance(table, dict | list):
        close = difflib.get_close_matches(section, TABLES, 1)
        hint = f"did you mean {heading(close[0])}?" if close else f"known are {', '.join(SECTIONS)}"
        return ConfigError(f"{where}: unknown section [{_one_line(section)}]: {hint}")
    return ConfigError(
        f"{where}: key {_one_line(section)} stands outside of a section{_suggestion('', section)}"
    )


def _typed_section(section: str, table: object, where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: {section}: expected a section {heading(section)}, got {_shown(table)}")
    return {name: _typed_value(section, name, value, where) for name, value in table.items()}


def _typed_value(section: str, name: str, value: object, where: str) -> Any:
    full = f"{section}.{name}"
    if full in REPEATED:
        return _typed_repeated(full, value, where)
    if full in TABLES:
        return _typed_section(full, value, where)
    # In quotes, a name may have a dot.
    if full not in BY_NAME or "." in name:
        raise _unknown_key(section, name, where)
    return BY_NAME[full].parse(value, f"{where}: {full}")


def _typed_repeated(section: str, tables: object, where: str) -> list[dict[str, Any]]:
    if not isinstance(tables, list):
        raise ConfigError(f"{where}: {section}: expected {heading(section)}, got {_shown(tables)}")
    return [
        _typed_section(section, table, nth(where, n, len(tables), table)) for n, table in enumerate(tables, 1)
    ]


def nth(where: str, number: int, count: int, table: object) -> str:
    """`where` for messages about one of `count` tables: by the name that it gives itself, else by number."""
    name = table.get("name") if isinstance(table, Mapping) else None
    if isinstance(name, str) and name:
        return f'{where}: table "{_one_line(name):.60}"'
    return f"{where}: table {number} of {count}" if count > 1 else where


def _unknown_key(section: str, name: str, where: str) -> ConfigError:
    return ConfigError(f"{where}: unknown key {section}.{_one_line(name)}{_suggestion(section, name)}")


def _suggestion(section: str, name: str) -> str:
    """The key meant: the most similar one of the section, else the same one of another section."""
    split = [name.rpartition(".") for name in (*BY_NAME, *TABLES)]
    in_section = [key for table, dot, key in split if dot and table == section]
    close = [f"{section}.{key}" for key in difflib.get_close_matches(name, in_section, 1)]
    meant = close or [key.name for key in KEYS if key.key == name]
    if len(meant) == 1:
        return f": did you mean {meant[0]}?"
    return f": known are {', '.join(meant or in_section or SECTIONS)}"


def _one_line(name: str) -> str:
    return name.encode("unicode_escape").decode()
