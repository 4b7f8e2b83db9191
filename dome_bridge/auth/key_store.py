"""Keeps the keys of issuers on disk, so that a restart while an issuer is down does no harm (D8).

What is there decides whose tokens are believed. So a file that others may write to counts as none, and what
is written is what was checked: the public members of usable keys.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import NamedTuple

from dome_bridge.auth import keyset, strict_json
from dome_bridge.auth.discovery import MAX_DOCUMENT_BYTES
from dome_bridge.auth.keyset import KeySet, KeySetError

log = logging.getLogger(__name__)


class Kept(NamedTuple):
    """A key set, and when its issuer was asked for it: seconds since 1970."""

    keys: KeySet
    fetched: float


class KeyStore:
    """The file of one issuer. Blocks, so it is not for the event loop."""

    def __init__(self, directory: Path, name: str, issuer: str, *, is_writable: bool = True) -> None:
        self._path = directory / f"{name}.json"
        self._issuer = issuer
        self._is_writable = is_writable

    def load(self) -> Kept | None:
        """What was saved last; None, with a warning, if it is no good."""
        try:
            return self._parsed(self._read())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeySetError) as error:
            log.warning("kept keys are ignored file=%s: %s", self._path, error)
            return None

    def save(self, keys: KeySet, fetched: float) -> None:
        """Replaces the file in one step; a warning if it cannot be written."""
        if not self._is_writable:
            return
        members = {"issuer": self._issuer, "fetched": fetched, **keys.as_document()}
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._replace(json.dumps(members, indent=1).encode())
        except OSError as error:
            log.warning(
                "keys are not kept over a restart file=%s: %s: let this account write to its directory",
                self._path,
                error.strerror,
            )

    def _read(self) -> bytes:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is no ordinary file")
            # Who only looks may be another account than the one that has written them.
            trusted = (0, os.geteuid()) if self._is_writable else (status.st_uid,)
            if status.st_mode & 0o022 or status.st_uid not in trusted:
                raise ValueError("others may write to it")
            return file.read(MAX_DOCUMENT_BYTES)

    def _parsed(self, document: bytes) -> Kept:
        members = strict_json.load_object(document)
        if members.get("issuer") != self._issuer:
            raise ValueError("it is of another issuer")
        fetched = members.get("fetched")
        if isinstance(fetched, bool) or not isinstance(fetched, (int, float)):
            raise ValueError("it does not say when its keys were fetched")
        return Kept(keyset.from_members(members), float(fetched))

    def _replace(self, document: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(document)
                file.flush()
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            Path(temporary).replace(self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
