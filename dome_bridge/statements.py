"""Reads the `.sql` files that stand beside the code.

A file is a list of statements, each after a line `-- name: some_name`. What stands
before the first such line is a comment on the whole file.
"""

from __future__ import annotations

import re
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


def load(package: str, filename: str) -> dict[str, str]:
    """The statements of a file, by name and in the order of the file."""
    text = files(package).joinpath(filename).read_text(encoding="utf-8")
    parts = _NAME.split(text)
    names, bodies = parts[1::2], parts[2::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{package}/{filename} has two statements of one name")
    return {name: body.strip() for name, body in zip(names, bodies, strict=True)}
