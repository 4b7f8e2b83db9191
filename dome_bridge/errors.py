"""The exceptions of dome-bridge.

A message says what happened, where (fileid, path, key) and what to do about it.
`exit_code` is what the command line returns: 2 for wrong usage, configuration or
surroundings (nothing was written), 1 for a finding or a step that failed.

    BridgeError
    ├── ConfigError        a setting is unknown, missing or wrong
    ├── SourceError        DPM's MariaDB cannot be reached or refused a statement
    ├── TargetError        the Chimera database cannot be reached or refused a statement
    ├── SchemaError        a database is not of the kind or version we know
    ├── PrivilegeError     an account lacks a right; the message has the GRANT
    ├── StateError         the command does not fit the phase the bridge is in
    ├── CaptureError       triggers or journal are not as they must be
    ├── FenceError         the write fence could not be raised or lifted
    ├── CutoverError       a gate refused, or a step of the cutover failed
    ├── VerifyError        a comparison could not be finished
    ├── ApiError           a DOME command is refused; carries the HTTP status
    └── DiskError          a disk node cannot be reached or did not do what it was asked
"""

from __future__ import annotations


class BridgeError(Exception):
    """Base of everything that dome-bridge raises on purpose."""

    exit_code = 1


class ConfigError(BridgeError):
    """A setting is unknown, missing or wrong."""

    exit_code = 2


class SourceError(BridgeError):
    """DPM's MariaDB cannot be reached or refused a statement."""

    exit_code = 2


class TargetError(BridgeError):
    """The Chimera database cannot be reached or refused a statement."""

    exit_code = 2


class SchemaError(BridgeError):
    """A database is not of the kind or version we know."""

    exit_code = 2


class PrivilegeError(BridgeError):
    """An account lacks a right; the message has the GRANT that gives it."""

    exit_code = 2


class StateError(BridgeError):
    """The command does not fit the phase the bridge is in."""

    exit_code = 2


class CaptureError(BridgeError):
    """Triggers or journal are not as they must be."""

    exit_code = 2


class FenceError(BridgeError):
    """The write fence could not be raised or lifted."""


class CutoverError(BridgeError):
    """A gate refused, or a step of the cutover failed."""


class VerifyError(BridgeError):
    """A comparison could not be finished."""


class ApiError(BridgeError):
    """A DOME command is refused: `status` is the HTTP status, the message the plain-text answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class DiskError(BridgeError):
    """A disk node cannot be reached or did not do what it was asked."""
