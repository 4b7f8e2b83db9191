"""The statements of the API, each in one place: the `.sql` files beside this module.

`{cns}` and `{dpm}` stand for the two databases, so that a statement says which it means.
"""

from __future__ import annotations

from functools import cache

from dome_bridge import statements
from dome_bridge.dpm.source import Source

_FILES = ("catalog.sql", "changes.sql", "people.sql", "pools.sql", "quotatokens.sql", "replicas.sql")


@cache
def _texts() -> dict[str, str]:
    texts: dict[str, str] = {}
    for file in _FILES:
        loaded = statements.load(__package__, file)
        if double := texts.keys() & loaded.keys():
            raise ValueError(f"two statements are named {', '.join(sorted(double))}")
        texts |= loaded
    return texts


@cache
def _bound(name: str, cns: str, dpm: str) -> str:
    return _texts()[name].replace("{cns}", cns).replace("{dpm}", dpm)


def sql(source: Source, name: str) -> str:
    """The statement of that name for the databases of `source`."""
    return _bound(name, source.cns, source.dpm)
