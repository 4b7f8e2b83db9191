"""What the database refuses because of what a client asks for, told from what goes wrong by itself.

The protocol knows a status of its own for a change that the catalog cannot take. Only that has it:
the fence, a lost deadlock or a lock that did not come are for the client to try again, and a
statement that is wrong is our fault. All of these pass on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pymysql.constants import ER

from dome_bridge.dpm.source import StatementError
from dome_bridge.errors import ApiError

logger = logging.getLogger(__name__)

_ER_DUP_ENTRY_WITH_KEY_NAME = 1586
_ER_DATA_OUT_OF_RANGE = 1690

_TWICE = frozenset({ER.DUP_KEY, ER.DUP_ENTRY, ER.DUP_UNIQUE, _ER_DUP_ENTRY_WITH_KEY_NAME})
_UNFIT = frozenset(
    {
        ER.DATA_TOO_LONG,
        ER.WARN_DATA_OUT_OF_RANGE,
        ER.WARN_DATA_TRUNCATED,
        ER.TRUNCATED_WRONG_VALUE,
        ER.TRUNCATED_WRONG_VALUE_FOR_FIELD,
        _ER_DATA_OUT_OF_RANGE,
    }
)
_REFERRED = frozenset(
    {ER.NO_REFERENCED_ROW, ER.NO_REFERENCED_ROW_2, ER.ROW_IS_REFERENCED, ER.ROW_IS_REFERENCED_2}
)
_DESERVED = _TWICE | _UNFIT | _REFERRED
"""Keys that are taken, values that do not fit, and rows that others refer to or that are not there for it."""


@contextmanager
def refused_with(status: int, what: str, *, twice: str = "") -> Iterator[None]:
    """Raises ApiError for a change that the catalog cannot take; every other error passes.

    what: could not be done. twice: the whole text if there is one of the same key already.
    """
    try:
        yield
    except StatementError as exc:
        if exc.number not in _DESERVED:
            raise
        logger.info("change refused by the database status=%d error=%s", status, exc)
        text = twice if twice and exc.number in _TWICE else f"{what}: {exc}"
        raise ApiError(status, text) from exc
