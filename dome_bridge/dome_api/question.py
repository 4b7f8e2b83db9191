"""What an administrator wants explained: as much of a request as he has, from files or standard input.

A token, certificates in PEM, or a request as it stands on the wire; several belong together. Nothing is
judged here, and no message repeats what was read: it may be a credential.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

from dome_bridge.auth.authenticate import Presented
from dome_bridge.auth.contact import Contact
from dome_bridge.auth.principal import Transport
from dome_bridge.auth.proxied import VERIFIED, ProxiedHeaders, certificates_in
from dome_bridge.auth.refusal import AuthError
from dome_bridge.dome_api.wire import command_of
from dome_bridge.errors import ConfigError

_REQUEST_LINE = re.compile(r"([A-Za-z]+) (\S+) HTTP/1\.[01]")
_BEARER = re.compile(r"(?:authorization:\s*)?bearer\s+", re.IGNORECASE)
_KINDS = "a token, certificates in PEM, or an HTTP request"

Header = tuple[str, str]


@dataclass(frozen=True)
class Question:
    """target: raw, of a request; "" if only a credential is asked about. chain: of the connection, DER.

    transport: None for the usual one.
    """

    headers: tuple[Header, ...] = ()
    chain: tuple[bytes, ...] = ()
    method: str = ""
    target: str = ""
    body: bytes = b""
    transport: Transport | None = None
    address: str = ""

    @property
    def command(self) -> str:
        """ "" without a request."""
        return command_of(self.target)

    @property
    def way(self) -> Transport:
        """How it would come in: signed requests are for plain HTTP, all else is for TLS."""
        is_signed = "xrdhttptk=" in self.target.partition("?")[2]
        return self.transport or (Transport.PLAIN if is_signed else Transport.TLS)

    def presented(self, names: ProxiedHeaders) -> Presented:
        """names: of the headers in which a web server hands certificates on, as it is then done for them."""
        headers = self.headers
        if self.way is Transport.PROXIED and self.chain:
            pem = " ".join(map(_pem, self.chain))
            headers = (*headers, (names.verify, VERIFIED), (names.certificate, pem))
        return Presented(self.method or "GET", self.target or "/", headers)

    @property
    def contact(self) -> Contact:
        return Contact(self.way, self.address, self.chain if self.way is Transport.TLS else ())

    def asking(self, method: str, command: str, parameters: bytes) -> Question:
        """The same credentials on a request for a command. Raises ConfigError if it is one already."""
        if self.target:
            raise ConfigError("the request says itself which command it is for: leave --command out")
        _require_object(parameters)
        return replace(self, method=method, target=f"/domehead/command/{command}", body=parameters)


def question_of(text: str) -> Question:
    """From the text of a file. Raises ConfigError for what is none of the three."""
    text = text.removeprefix("\ufeff").lstrip()
    first, _, _ = text.partition("\n")
    if found := _REQUEST_LINE.fullmatch(first.strip()):
        return _request(found[1], found[2], text)
    if "-----BEGIN " in text:
        return Question(chain=_chain(text))
    token = _BEARER.sub("", text.strip(), count=1)
    if not token or any(sign.isspace() for sign in token):
        raise ConfigError(f"what was given is neither {_KINDS}: give one of these, and nothing beside it")
    return Question(headers=(("Authorization", f"Bearer {token}"),))


def joined(questions: Iterable[Question]) -> Question:
    """Of several files: a token and the certificate of its connection, say. Raises ConfigError."""
    return reduce(_joined, questions)


def _joined(one: Question, other: Question) -> Question:
    if one.target and other.target:
        raise ConfigError("two requests were given: explain one after the other")
    request = one if one.target else other
    return replace(request, headers=(*one.headers, *other.headers), chain=(*one.chain, *other.chain))


def _request(method: str, target: str, text: str) -> Question:
    head, _, body = text.replace("\r\n", "\n").partition("\n\n")
    pairs = (line.partition(":") for line in head.split("\n")[1:] if line.strip())
    headers = tuple((name.strip(), value.strip(" \t")) for name, _, value in pairs)
    return Question(headers=headers, method=method.upper(), target=target, body=body.encode())


def _chain(text: str) -> tuple[bytes, ...]:
    try:
        chain = certificates_in(text)
    except AuthError as exc:
        raise ConfigError(f"{exc}: give the file as the CA or voms-proxy-init has written it") from None
    if not chain:
        raise ConfigError("there is PEM, but no certificate in it: give the certificate or the proxy")
    return chain


def _pem(der: bytes) -> str:
    """In one line, as httpd hands it on."""
    return f"-----BEGIN CERTIFICATE----- {b64encode(der).decode()} -----END CERTIFICATE-----"


def _require_object(parameters: bytes) -> None:
    try:
        is_object = isinstance(json.loads(parameters), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise ConfigError("""--body is no JSON object: write it like '{"path": "/dpm"}'""")
