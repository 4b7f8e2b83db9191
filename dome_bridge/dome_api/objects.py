"""How an entry and a replica look on the wire: DOME's "xstat" and "replica" objects.

All values are text. `xattrs` is JSON within the text, in dmlite's form: the slashes in its values
are escaped. An `xattr` column may hold anything; what cannot be told is left out and noted, so that
one bad row hides neither its entry nor the directory that it is in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from json.encoder import encode_basestring as _quoted

from dome_bridge.dome_api.catalog import Entry, Replica, bytes_of, text_of
from dome_bridge.dome_api.wire import render
from dome_bridge.dpm import checksum, xattr
from dome_bridge.dpm.xattr import Json, XattrError

_NUMBERS = ("fileid", "parentfileid", "size", "mode", "atime", "mtime", "ctime", "uid", "gid", "nlink")
_TEXTS = ("acl", "name", "xattrs")

# What nearly every file has, written as dmlite does: nothing, or one checksum and perhaps a file class.
_PLAIN_XATTR = re.compile(rb'(?:\{(?:"checksum\.([0-9a-z]+)": "([0-9A-Za-z]*)"(?:, "type": (?:0|"0"))?)?\})?')

# Cut out of what `render` prints, which thus remains the one place that knows the form.
_MARK = "@"
_MARKED = b'"@"'
_ARRAY_BEGIN, _ARRAY_END = render([_MARK]).split(_MARKED)
_LISTING_BEGIN, _BETWEEN, _LISTING_END = render({"entries": [_MARK, _MARK]}).split(_MARKED)
_LINE = (
    render({"entries": [{**dict.fromkeys(_NUMBERS, "%d"), **dict.fromkeys(_TEXTS, _MARK)}]})
    .removeprefix(_LISTING_BEGIN)
    .removesuffix(_LISTING_END)
    .replace(_MARKED, b"%s")
    .decode()
)


class Unreadable:
    """Attributes that could not be told: one line for the log, however many there are."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""

    def note(self, owner: str, error: Exception) -> None:
        self.count += 1
        self.first = self.first or f"{owner}: {error}"


def xstat(entry: Entry, unreadable: Unreadable) -> dict[str, str]:
    """An entry as dome_getstatinfo and dome_getdir tell it."""
    values = (*map(str, _numbers(entry)), *_texts(entry, unreadable))
    return dict(zip((*_NUMBERS, *_TEXTS), values, strict=True))


def replica_object(replica: Replica, unreadable: Unreadable) -> dict[str, str]:
    """A replica as dome_getreplicainfo and dome_getreplicavec tell it."""
    return {
        "replicaid": str(replica.replicaid),
        "fileid": str(replica.fileid),
        "nbaccesses": str(replica.nbaccesses),
        "atime": str(replica.atime),
        "ptime": str(replica.ptime),
        "ltime": str(replica.ltime),
        "status": character_code(replica.status),
        "type": character_code(replica.kind),
        "server": replica.host,
        "rfn": replica.rfn,
        "setname": replica.setname,
        "xattrs": _attributes_of_replica(replica, unreadable),
    }


def character_code(letter: str) -> str:
    """The decimal code that DOME tells for a column of one letter; 0 for an empty one."""
    return str(next(iter(bytes_of(letter)), 0))


class Listing:
    """The body of dome_getdir's answer, made in pieces so that a huge directory keeps nobody waiting.

    The bytes are those that `render` would make, at a third of its price.
    """

    def __init__(self) -> None:
        self.unreadable = Unreadable()
        self._pieces: list[bytes] = []

    def add(self, entries: Iterable[Entry]) -> None:
        self._pieces += [self._line(entry).encode("utf-8", "surrogateescape") for entry in entries]

    def body(self) -> bytes:
        if not self._pieces:
            return render({"entries": []})
        return b"".join((_LISTING_BEGIN, _BETWEEN.join(self._pieces), _LISTING_END))

    def _line(self, entry: Entry) -> str:
        acl_text, name, attributes = _texts(entry, self.unreadable)
        return _LINE % (*_numbers(entry), _in_json(acl_text), _in_json(name), _in_json(attributes))


def _numbers(entry: Entry) -> tuple[int, ...]:
    return (
        entry.fileid, entry.parent, entry.size, entry.mode, entry.atime, entry.mtime, entry.ctime,
        entry.uid, entry.gid, entry.nlink,
    )  # fmt: skip


def _texts(entry: Entry, unreadable: Unreadable) -> tuple[str, str, str]:
    attributes = _plain_attributes(entry) or _attributes_of_entry(entry, unreadable)
    return text_of(entry.acl_text), entry.name, attributes


def _in_json(text: str) -> str:
    """Quoted; `render` itself is asked about control characters and what has no UTF-8."""
    if text.isprintable():
        return _quoted(text)
    return text_of(render([text]).removeprefix(_ARRAY_BEGIN).removesuffix(_ARRAY_END))


def _plain_attributes(entry: Entry) -> str:
    """The attributes that most entries have, told without parsing them; "" for all others."""
    found = _PLAIN_XATTR.fullmatch(entry.xattr_text)
    if found is None:
        return ""
    name, value = (text_of(group) for group in found.groups())
    if entry.csumvalue and _legacy_name(entry.csumtype) not in ("", name):
        return ""
    stored = f'"checksum.{name}": "{value}", ' if name else ""
    return f'{{{stored}"type": {entry.fileclass}}}'


@lru_cache(maxsize=64)
def _legacy_name(csumtype: bytes) -> str:
    """The name of the checksum that the legacy columns hold; "" if they hold none."""
    return next(iter(checksum.merge(csumtype, b"0", {})), "")


def _attributes_of_entry(entry: Entry, unreadable: Unreadable) -> str:
    owner = f"fileid {entry.fileid}"
    attributes = _parsed(entry.xattr_text, owner, unreadable)
    for name, value in checksum.merge(entry.csumtype, entry.csumvalue, {}).items():
        if name not in _checksum_names(attributes):
            attributes[checksum.PREFIX + name] = value
    attributes["type"] = entry.fileclass
    return _serialised(attributes, owner, unreadable)


def _attributes_of_replica(replica: Replica, unreadable: Unreadable) -> str:
    owner = f"replica {replica.replicaid}"
    attributes = _parsed(replica.xattr_text, owner, unreadable)
    attributes["pool"] = replica.pool
    attributes["filesystem"] = replica.fs
    return _serialised(attributes, owner, unreadable)


def _checksum_names(attributes: Iterable[str]) -> set[str]:
    return {
        key.removeprefix(checksum.PREFIX).lower() for key in attributes if key.startswith(checksum.PREFIX)
    }


def _parsed(text: bytes, owner: str, unreadable: Unreadable) -> dict[str, Json]:
    try:
        return xattr.parse(text)
    except XattrError as error:
        unreadable.note(owner, error)
        return {}


def _serialised(attributes: dict[str, Json], owner: str, unreadable: Unreadable) -> str:
    try:
        return text_of(xattr.serialise(attributes))
    except (XattrError, RecursionError) as error:
        unreadable.note(owner, error)
    return text_of(xattr.serialise({key: attributes[key] for key in attributes if _fits(key, attributes)}))


def _fits(key: str, attributes: dict[str, Json]) -> bool:
    try:
        xattr.serialise({key: attributes[key]})
    except (XattrError, RecursionError):
        return False
    return True
