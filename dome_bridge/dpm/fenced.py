"""How a statement looks that the write fence has refused.

The fence stands in the database and stops every writer, so whoever writes must know its words,
and not only the part of the program that raises it.
"""

from __future__ import annotations

from dome_bridge.dpm.source import ER_SIGNAL_EXCEPTION, StatementError

FENCE_SQLSTATE = "45DBF"
FENCE_MESSAGE = "dome-bridge fence: the catalog is read-only while this site moves to dCache"


def is_fenced(exc: BaseException) -> bool:
    """Whether a statement failed because the fence stands."""
    return (
        isinstance(exc, StatementError)
        and exc.number == ER_SIGNAL_EXCEPTION
        and exc.sqlstate in (FENCE_SQLSTATE, "")  # older drivers do not tell the SQLSTATE
        and FENCE_MESSAGE in str(exc)
    )
