"""Writes the files into a directory, and compares them with a live /etc/dcache."""

from __future__ import annotations

import contextlib
import difflib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from dome_bridge.errors import ConfigError
from dome_bridge.handover.files import ConfigFile, Configuration

MANIFEST = ".dome-bridge-files"
"""What was written here before, so that files of a host that is gone go as well."""

MAX_BYTES = 64 * 1024 * 1024


def write(configuration: Configuration, directory: Path) -> None:
    """Blocking. A file that is as it should be is not touched. One that we wrote before and that is no longer
    needed is removed; whatever else is there stays. Raises ConfigError.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        before = _written_before(directory)
        for file in configuration.files:
            _write(directory / file.path, file.text.encode(), file.mode)
        paths = [file.path for file in configuration.files]
        for gone in before - set(paths):
            _remove(directory, gone)
        _write(directory / MANIFEST, "".join(f"{path}\n" for path in paths).encode(), 0o644)
    except OSError as exc:
        raise ConfigError(
            f"{exc.filename or directory}: cannot be written ({exc.strerror}): name a directory that this"
            " account may write to with --out"
        ) from exc


def _written_before(directory: Path) -> set[str]:
    try:
        listed = (directory / MANIFEST).read_text().split("\n")
    except FileNotFoundError:
        return set()
    return {path for path in listed if path and not path.startswith("/") and ".." not in path.split("/")}


def _write(path: Path, data: bytes, mode: int) -> None:
    """All or nothing, and never with a wider mode than in the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_there(path, data, mode):
        return
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(descriptor, mode)
        made.replace(path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def _is_there(path: Path, data: bytes, mode: int) -> bool:
    try:
        return not path.is_symlink() and path.stat().st_mode & 0o7777 == mode and path.read_bytes() == data
    except FileNotFoundError:
        return False


def _remove(directory: Path, name: str) -> None:
    (directory / name).unlink(missing_ok=True)
    for parent in (directory / name).parents:
        if parent == directory:
            break
        with contextlib.suppress(OSError):  # somebody else's files are there
            parent.rmdir()


def diff(configuration: Configuration, etc: Path) -> Iterator[str]:
    """Lines of a unified diff from what is live to what we would install. Blocking; raises ConfigError.

    On a host other than the head node only the common files and its own layout are there: a layout that is
    not, or that of another host, is no difference.
    """
    for file in configuration.files:
        if file.etc_path is None:
            continue
        live = read_live(etc / file.etc_path)
        if live is None and file.etc_path.startswith("layouts/"):
            continue
        yield from _unified(file, live or "", etc)


def _unified(file: ConfigFile, live: str, etc: Path) -> Iterator[str]:
    path = file.etc_path
    yield from difflib.unified_diff(
        live.splitlines(), file.text.splitlines(), f"{etc}/{path}", f"generated/{path}", lineterm=""
    )


def read_live(path: Path) -> str | None:
    """None if there is no such file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError(
            f"{path}: cannot be read ({exc.strerror}): run this as an account that may, or leave it out"
        ) from exc


def read_tree(directory: Path, names: Iterator[str]) -> dict[str, str]:
    """Those of the files that are there."""
    found = ((name, read_live(directory / name)) for name in names)
    return {name: text for name, text in found if text is not None}
