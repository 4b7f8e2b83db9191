"""The audit log: one line for each request and each failed handshake; and no credential in any log.

A line has all fields in one order, each in quotes and in printable ASCII, so that nothing that a client
sends can begin another line or another field. The filter is a second line of defence: nobody should log a
credential in the first place, but the HTTP library does, in the errors about what it could not parse.
"""

from __future__ import annotations

import logging
import re
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from aiohttp.http_exceptions import HttpProcessingError

from dome_bridge.auth.principal import ANONYMOUS, Principal

if TYPE_CHECKING:
    from dome_bridge.auth.tokens import Claimed

audit_log = logging.getLogger("dome.audit")

MAX_VALUE_BYTES = 512
"""Of a value as it is written, without its quotes."""

FIELDS = (
    "ts",
    "req",
    "peer",
    "cmd",
    "path",
    "dst",
    "auth",
    "user",
    "groups",
    "iss",
    "sub",
    "jti",
    "kid",
    "chan",
    "role",
    "decision",
    "rule",
    "status",
    "ms",
    "reason",
)

CUT = "(cut)"
"""What stands in the place of a credential."""

_CUT_MARK = "..."

LONGEST_VALUE = 4096
"""Characters of a value that are looked at; what is written of it is shorter still."""

LONGEST_MESSAGE = 64 * 1024
"""Characters of a message in any log of ours."""

# Of a credential that a cut has halved, so many may be left without what they are known by.
_HALVED = 64

# A backslash takes the character after it along: no quote of the text around becomes one more or less.
_REST = r"(?:\\.|[^'\"\\\r\n])*"
_WORD = r"(?:\\.|[^\s'\"\\&#])"
# Also after a character in URL encoding.
_START = r"(?:\b|(?<=%[0-9A-F][0-9A-F]))"
_CREDENTIALS = re.compile(
    rf"""
      (?P<query>{_START}(?:authz|xrdhttptk)(?:=|%3D)(?:['"](?=[\w(]))?)(?:Bearer(?:%20|[ +]))?{_WORD}*
    | (?P<header>{_START}(?:authz|xrdhttptk|(?:proxy-)?authorization)
        (?:\\?['"]\s*,\s*|\\?['"]?\s*[:=]\s*)b?(?:\\?['"])?){_REST}
    | (?P<bearer>{_START}Bearer(?:\s|%20)+)(?!(?:tokens?|credentials?|realm)\b){_WORD}+
    | (?P<scheme>\b(?:Basic|Negotiate)(?:\s|%20)+)[A-Za-z0-9+/=_-]{{20,}}
    | {_START}(?-i:eyJ|eyAi|ewog)[A-Za-z0-9_-]{{8,}}(?:\.[A-Za-z0-9_-]*){{0,4}}
    | (?P<pem>-----BEGIN\ [A-Z ]*PRIVATE\ KEY-----).*?(?:-----END\ [A-Z ]*-----|\Z)
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


class Decision(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class AuditLine:
    """at: seconds since 1970. req: an identifier of the request. peer: address. dst: a second path.

    rule: the number of the requirement that decided. reason: precise, in a denial. status: of the answer,
    0 if there was none. claimed: what a token that was refused says of itself.
    """

    at: float
    decision: Decision
    req: str = ""
    peer: str = ""
    cmd: str = ""
    path: str = ""
    dst: str = ""
    who: Principal = ANONYMOUS
    rule: str = ""
    status: int = 0
    seconds: float = 0.0
    reason: str = ""
    claimed: Claimed | None = None

    def values(self) -> dict[str, str]:
        """By field, in order, as they are."""
        token = self.who.token
        said = token or self.claimed
        return {
            "ts": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds"),
            "req": self.req,
            "peer": self.peer,
            "cmd": self.cmd,
            "path": self.path,
            "dst": self.dst,
            "auth": self.who.kind.value,
            "user": self.who.user,
            "groups": ",".join(self.who.groups or ()),
            "iss": token.issuer if token else self.claimed.iss if self.claimed else "",
            "sub": said.sub if said else "",
            "jti": said.jti if said else "",
            "kid": said.kid if said else "",
            "chan": self.who.channel.dn,
            "role": self.who.role.value,
            "decision": self.decision.value,
            "rule": self.rule,
            "status": str(self.status or ""),
            "ms": f"{self.seconds * 1000:.1f}",
            "reason": self.reason,
        }

    def __str__(self) -> str:
        """The line."""
        return " ".join(
            f'{name}="{escaped(_clean(value, LONGEST_VALUE))}"' for name, value in self.values().items()
        )


def write(line: AuditLine) -> None:
    """Denials are warnings, so that a site may keep these alone."""
    level = logging.INFO if line.decision is Decision.ALLOW else logging.WARNING
    if audit_log.isEnabledFor(level):
        audit_log.log(level, "%s", line)


def handshake_failed(at: float, peer: str, reason: str, *, rule: str = "TLS5", seconds: float = 0.0) -> None:
    """The line of a connection that ended before its first request. reason: OpenSSL's code and text."""
    write(AuditLine(at, Decision.DENY, peer=peer, rule=rule, seconds=seconds, reason=reason))


def escaped(value: str) -> str:
    """What may stand between quotes: printable ASCII of limited length, other bytes as \\xHH."""
    pieces: list[str] = []
    length = 0
    for byte in _bytes(value):
        piece = _PIECES[byte]
        length += len(piece)
        pieces.append(piece)
        if length > MAX_VALUE_BYTES:
            return _shortened(pieces)
    return "".join(pieces)


def _shortened(pieces: list[str]) -> str:
    """Cut between two characters, never inside an escape."""
    length = sum(map(len, pieces))
    while length > MAX_VALUE_BYTES - len(_CUT_MARK):
        length -= len(pieces.pop())
    return "".join(pieces) + _CUT_MARK


def _bytes(value: str) -> bytes:
    """Bytes that are not UTF-8 come as lone surrogates; JSON can have others, too."""
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


def _piece(byte: int) -> str:
    character = chr(byte)
    if character in '"\\':
        return "\\" + character
    return character if 0x20 <= byte <= 0x7E else f"\\x{byte:02X}"


_PIECES = tuple(map(_piece, range(256)))


def without_credentials(text: str) -> str:
    """The same text, with `authz` values, the contents of Authorization, tokens and private keys cut out."""
    return _CREDENTIALS.sub(_cut, text)


def _clean(text: str, longest: int) -> str:
    """Of a text of any length at the cost of a short one."""
    if len(text) <= longest:
        return without_credentials(text)
    return without_credentials(text[:longest])[:-_HALVED] + _CUT_MARK


def _cut(found: re.Match[str]) -> str:
    return next(filter(None, found.groups()), "") + CUT


class CredentialFilter(logging.Filter):
    """Cuts credentials out of records, their arguments and exceptions; lets every record pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            return True  # the handler will say so, without the arguments' text being lost
        if (clean := _clean(message, LONGEST_MESSAGE)) != message:
            record.msg, record.args = clean, None
        self._clean_exception(record)
        if record.stack_info:
            record.stack_info = without_credentials(record.stack_info)
        return True

    @staticmethod
    def _clean_exception(record: logging.LogRecord) -> None:
        """Handlers must not format it again, so it goes if there is anything to cut."""
        if not record.exc_info or record.exc_info[1] is None:
            return
        error = record.exc_info[1]
        if isinstance(error, HttpProcessingError):
            # Its text is what the client has sent, which may begin or end within a credential.
            record.exc_info, record.exc_text = None, f"{type(error).__name__}: {error.code}"
            return
        text = "".join(traceback.format_exception(error)).rstrip("\n")
        if (clean := without_credentials(text)) != text:
            record.exc_info, record.exc_text = None, clean


_WATCHED = ("dome_bridge", "dome", "aiohttp", "asyncio")


def keep_credentials_out_of_logs() -> None:
    """For all loggers of ours, of aiohttp and of asyncio, whatever handlers they have. Once is enough.

    Where records are made, as filters of a logger do not see what the loggers below it log.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "cuts_credentials", False):
        return
    guard = CredentialFilter()

    def make_clean(name: str, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(name, *args, **kwargs)
        if name.partition(".")[0] in _WATCHED:
            guard.filter(record)
        return record

    make_clean.cuts_credentials = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_clean)
