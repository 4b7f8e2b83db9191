"""JSON of which two readers cannot see different things (auth requirement T3).

Python's parser takes the last of two members of one name, NaN and Infinity, a BOM, UTF-16 and UTF-32, and
what is nested ever so deep. Here each of these is a ValueError, whose text never quotes the document.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

MAX_NESTING = 32


def loads(document: bytes) -> object:
    """The value of a UTF-8 document. Raises ValueError."""
    try:
        value: object = json.loads(
            document.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at character {error.pos})") from None
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_NESTING} levels deep") from None
    if _is_too_deep(value):
        raise ValueError(f"it is nested more than {MAX_NESTING} levels deep")
    return value


def load_object(document: bytes) -> dict[str, object]:
    """The members of a UTF-8 document that is an object. Raises ValueError."""
    value = loads(document)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def _object(members: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(members)
    if len(result) < len(members):
        raise ValueError("two members of an object have the same name")
    return result


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _is_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_NESTING):
        level = [child for one in level for child in _children(one)]
        if not level:
            return False
    return any(isinstance(one, (dict, list)) for one in level)


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
