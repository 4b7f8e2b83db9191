"""What the bridge would decide of a credential or a request, step by step, and by which rule.

The same code decides as in the service, with a listener that is told of each check. Nothing is changed:
nobody gets a number, no keys are kept, no disk server is called. Neither the key of the host nor a database
that answers is needed; what could not be looked at for the lack of it is said.
"""

from __future__ import annotations

import asyncio
import socket
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from dome_bridge.auth import bearer, jws
from dome_bridge.auth.asserted import PREFIX
from dome_bridge.auth.authenticate import Authenticator, Method, Standards
from dome_bridge.auth.bans import Bans, load_bans
from dome_bridge.auth.principal import Kind, Principal, Role, Transport
from dome_bridge.auth.proxied import ProxiedHeaders
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.throttle import Throttle
from dome_bridge.auth.tokens import TokenVerifier
from dome_bridge.auth.trace import untold
from dome_bridge.auth.trust import Trust, load_trust
from dome_bridge.config import AuthConfig, Config, DpmConfig, IssuerConfig
from dome_bridge.dome_api import catalog
from dome_bridge.dome_api.application import ALLOWED_BY
from dome_bridge.dome_api.authorise import (
    admitted,
    by_scope_of_hosts,
    require_objects,
    require_open,
    require_somebody,
)
from dome_bridge.dome_api.catalog import Entry
from dome_bridge.dome_api.command import Command
from dome_bridge.dome_api.commands import COMMANDS
from dome_bridge.dome_api.disk_client import DiskClient
from dome_bridge.dome_api.disk_hosts import DiskHosts
from dome_bridge.dome_api.doorkeeper import standards_of
from dome_bridge.dome_api.explanation import Explanation, role_in_words
from dome_bridge.dome_api.head import Call, Head
from dome_bridge.dome_api.people import Key, People, Person
from dome_bridge.dome_api.permissions import EXECUTE, READ, WRITE, Subject, may, may_traverse
from dome_bridge.dome_api.question import Question
from dome_bridge.dome_api.request import Peer, Request
from dome_bridge.dome_api.standing import Records, Standing
from dome_bridge.dome_api.wire import Parameters, is_odd_target
from dome_bridge.dpm.pool import ConnectionPool, Work
from dome_bridge.dpm.source import Source
from dome_bridge.errors import ApiError, BridgeError, ConfigError, SourceError

Clock = Callable[[], float]
T = TypeVar("T")

LOOK_UP_SECONDS = 10.0
"""For the addresses of the site's servers."""

_SPOKEN = {
    Transport.TLS: ("https", "mixed"),
    Transport.PLAIN: ("http", "mixed"),
    Transport.PROXIED: ("proxied",),
}
_RIGHTS = {READ: "read", WRITE: "write", EXECUTE: "pass through"}
_BY_OPENSSL = frozenset({"TLS2", "X1", "X2", "X3", "P1", "P3", "P6"})


async def explain(config: Config, question: Question, *, clock: Clock = time.time) -> Explanation:
    """Raises ConfigError for settings that nothing can be decided by. clock: seconds since 1970."""
    hosts = config.api.host_names or (await asyncio.to_thread(socket.getfqdn),)
    explanation = Explanation(_asked(question), realm=hosts[0])
    _note_settings(config, question, explanation)
    async with _judges(config, hosts, question, explanation, clock) as judges:
        try:
            await _decide(judges, question, explanation)
        except AuthError as exc:
            explanation.refused(exc)
            _note_handshake(explanation, question, exc)
        except ApiError as exc:
            explanation.answered(exc)
    return explanation


class _Judges(NamedTuple):
    """disks: the names and addresses of disk servers. is_alone: the database does not answer."""

    head: Head
    standards: Standards
    authenticator: Authenticator
    disks: DiskHosts
    names: ProxiedHeaders
    is_alone: bool


@asynccontextmanager
async def _judges(
    config: Config, hosts: Sequence[str], question: Question, explanation: Explanation, clock: Clock
) -> AsyncIterator[_Judges]:
    async with AsyncExitStack() as stack:
        database, is_alone = await _database(config.dpm, explanation)
        stack.push_async_callback(database.close)
        auth = config.auth
        proxied = config.api.proxied
        names = ProxiedHeaders(proxied.verify_header, proxied.dn_header, proxied.cert_header)
        tokens = TokenVerifier(
            replace(auth, issuers=_issuers_of(question, auth)), now=clock, keeps_on_disk=False
        )
        await tokens.start()
        stack.push_async_callback(tokens.stop)
        standards = standards_of(
            auth,
            generation=1,
            trust=await _trust(config, question, names, explanation),
            bans=await _bans(auth.ban_file, explanation),
            hosts=tuple(host.lower() for host in hosts),
            tokens=tokens,
        )
        disks = DiskHosts(database, own=standards.hosts, networks=lambda: auth.plain_http_networks)
        authenticator = Authenticator(
            lambda: standards,
            _nobody if is_alone else disks.names,
            proxied=names,
            throttle=Throttle(per_second=auth.failures_per_second, burst=auth.failures_burst),
            clock=clock,
        )
        head = _head(config, database, hosts, is_alone)
        yield _Judges(head, standards, authenticator, disks, names, is_alone)


async def _database(dpm: DpmConfig, explanation: Explanation) -> tuple[ConnectionPool, bool]:
    database = ConnectionPool(dpm, 2)
    try:
        await database.read(lambda source: source.fetchval("SELECT 1"))
    except BridgeError as exc:
        await database.close()
        explanation.notes.append(
            f"DPM's database cannot be asked ({exc}): disk servers, bans, numbers and what a request names"
            " were not looked at"
        )
        explanation.is_alone = True
        return _Unreachable(dpm, exc), True
    return database, False


class _Unreachable(ConnectionPool):
    """Says at once what the first attempt has found out."""

    def __init__(self, dpm: DpmConfig, trouble: BridgeError) -> None:
        super().__init__(dpm, 1)
        self._trouble = trouble

    async def read(self, work: Work[T]) -> T:
        raise SourceError(str(self._trouble)) from self._trouble


class _Strangers(People):
    """Everybody, as long as the database does not answer."""

    async def known(self, users: object, groups: object) -> dict[Key, Person]:
        return {}


async def _nobody() -> frozenset[str]:
    return frozenset()


def _head(config: Config, database: ConnectionPool, hosts: Sequence[str], is_alone: bool) -> Head:
    disks = DiskClient(config.disk, secret="", dn="", host=hosts[0], resolve=_not_called)
    people = (_Strangers if is_alone else People)(database, config.auth.gridmap_file)
    return Head.over(config, database, disks, _Unobserved(), hosts=hosts, people=people)


def _not_called(server: str) -> NoReturn:
    raise ConfigError(f"{server} is not called while a decision is explained")


class _Unobserved:
    """Nobody counts what is only explained."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _issuers_of(question: Question, auth: AuthConfig) -> tuple[IssuerConfig, ...]:
    """Only the keys of the issuer that the token names are fetched."""
    try:
        token = bearer.token_of(question.headers, question.target)
        claims = jws.parse(token, untold).claims if token else {}
    except AuthError:
        return ()
    return tuple(issuer for issuer in auth.issuers if issuer.issuer == claims.get("iss"))


async def _trust(
    config: Config, question: Question, names: ProxiedHeaders, explanation: Explanation
) -> Trust | None:
    """Only if certificates come, or a peer names groups of VOs."""
    given = {name.lower() for name, _ in question.headers}
    is_needed = question.chain or names.certificate in given or any(each.startswith(PREFIX) for each in given)
    tls = config.api.tls
    if not is_needed or not tls.ca_dir.is_dir():
        return None
    try:
        return await asyncio.to_thread(load_trust, tls.ca_dir, tls.vomsdir)
    except BridgeError as exc:
        explanation.notes.append(f"the CAs cannot be used, and with them the service would not start: {exc}")
        return None


async def _bans(file: Path | None, explanation: Explanation) -> Bans:
    try:
        return await asyncio.to_thread(load_bans, file)
    except BridgeError as exc:
        explanation.notes.append(f"the ban file was not looked at, the service keeps its old list: {exc}")
        return Bans()


async def _decide(judges: _Judges, question: Question, explanation: Explanation) -> None:
    """In the order in which the service does it. Raises AuthError, ApiError."""
    trace = explanation.trace
    if question.target and is_odd_target(question.target):
        explanation.rule = "H8"
        raise ApiError(400, "the request's path has dots, an encoded slash or a host in it: leave them out")
    await _require_admitted_address(judges, question, explanation)
    principal = await judges.authenticator.principal(
        question.presented(judges.names), question.contact, explanation.evidence, trace
    )
    explanation.principal = principal
    explanation.rule = ALLOWED_BY[principal.kind]
    _note_unknown_host(judges, principal, explanation)
    if principal.asserted is not None and principal.user:
        trace("N4", "it calls for %a, groups %a", principal.user, principal.groups)
    if _is_info(question, principal):
        explanation.reason = "everybody is told whether he is let in"
        return
    explanation.standing = standing = await _standing(judges, principal, explanation)
    explanation.commands = tuple(_open_to(principal, judges.standards.auth))
    if not question.target:
        _require_any(principal, judges.standards.auth)
        explanation.reason = "he is believed; which command is allowed depends on it, see --command"
        return
    await _of_command(judges, question, principal, standing, explanation)


def _note_unknown_host(judges: _Judges, principal: Principal, explanation: Explanation) -> None:
    if judges.is_alone and principal.role is Role.USER and principal.channel.hosts:
        hosts = ", ".join(principal.channel.hosts)
        explanation.notes.append(f"if {hosts} is a disk server in DPM's database, its role is disk")


def _is_info(question: Question, principal: Principal) -> bool:
    command = COMMANDS.find("GET", question.command)
    is_usual = question.method == "GET" or not principal.is_peer
    return command is not None and command.admission.anybody and is_usual


async def _require_admitted_address(judges: _Judges, question: Question, explanation: Explanation) -> None:
    if question.way is not Transport.PLAIN or not question.address:
        return
    try:
        async with asyncio.timeout(LOOK_UP_SECONDS):
            is_admitted = await judges.disks.may_speak_plainly(question.address)
    except TimeoutError:
        explanation.notes.append(
            f"whether plain HTTP is taken from {question.address} was not found out in time"
        )
        return
    if not is_admitted:
        raise AuthError(0, "K6", Reason.TRANSPORT, f"plain HTTP is not taken from {question.address}")
    explanation.trace("K6", "plain HTTP is taken from %s", question.address)


async def _standing(judges: _Judges, principal: Principal, explanation: Explanation) -> Standing | None:
    if principal.kind is Kind.ANONYMOUS:
        return None
    records = Records(judges.head.people)
    standards = judges.standards
    try:
        standing = await records.standing(principal, standards.bans, standards.vos)
    except SourceError:
        return None
    explanation.trace("B1", "not banned%s", " by the ban file" if judges.is_alone else "")
    return None if judges.is_alone else standing


def _open_to(principal: Principal, auth: AuthConfig) -> Iterator[str]:
    for command in sorted(COMMANDS, key=lambda each: each.name):
        if not command.admission.anybody and _is_open(command, principal, auth):
            yield command.name


def _is_open(command: Command, principal: Principal, auth: AuthConfig) -> bool:
    try:
        require_open(command, principal, auth)
    except AuthError:
        return False
    return True


def _require_any(principal: Principal, auth: AuthConfig) -> None:
    """Raises AuthError for somebody to whom no command is open."""
    require_somebody(principal)
    if not any(True for _ in _open_to(principal, auth)):
        command = COMMANDS.find("GET", "dome_getstatinfo")
        assert command is not None
        require_open(command, principal, auth)


async def _of_command(
    judges: _Judges,
    question: Question,
    principal: Principal,
    standing: Standing | None,
    explanation: Explanation,
) -> None:
    command = COMMANDS.find(question.method, question.command)
    if command is None:
        require_somebody(principal)
        _refuse_unknown(question)
        explanation.reason = "HEAD requests are answered, and do nothing"
        return
    auth, vos = judges.standards.auth, judges.standards.vos
    parameters = admitted(command, Parameters.from_body(question.body), principal, auth)
    explanation.trace(
        "N6", "%s is open to %s, %s", command.name, principal.kind, role_in_words(principal.role)
    )
    peer = Peer(principal.channel.dn, principal.address)
    request = Request(question.method, question.target, command.name, parameters, peer, principal=principal)
    if standing is not None:
        request = request.on_behalf_of(standing.user)
    call = Call(judges.head, request, standing, auth, vos)
    if by_scope_of_hosts(principal, command.admission):
        explanation.rule = "M6"
    await _of_objects(call, command, judges, explanation)


def _refuse_unknown(question: Question) -> None:
    if question.method == "HEAD":
        return
    if question.method not in ("GET", "POST"):
        raise ApiError(405, "the verb is none for commands: use GET or POST")
    other = "POST" if question.method == "GET" else "GET"
    if COMMANDS.find(other, question.command):
        raise ApiError(418, f"{question.command} is called with {other}, not with {question.method}")
    # By mistake its name may be anything, a token too.
    raise ApiError(418, "there is no command of that name: see docs/reference/dome-commands.md")


async def _of_objects(call: Call, command: Command, judges: _Judges, explanation: Explanation) -> None:
    admission = command.admission
    try:
        await require_objects(call, command)
    except SourceError:
        explanation.reason = "as far as can be told without DPM's database, it may be called"
        return
    explanation.reason = "the command may be called"
    if not (admission.paths or admission.ids):
        return
    if call.request.principal.token is not None:
        explanation.trace("I1", "what it names is in the area, and within the scopes")
    explanation.reason = "the command may be called on this; what is there and its permissions come next"
    if call.standing is not None and not judges.is_alone:
        await _look(call, admission.paths, explanation)


async def _look(call: Call, names: Sequence[str], explanation: Explanation) -> None:
    """What the paths lead to, and what DPM's permissions say to him there."""
    assert call.standing is not None
    subject = call.standing.subject
    for path in filter(None, map(call.request.parameters.text, names)):
        look: Callable[[Source], Awaitable[str]] = partial(_sight, path, subject)
        explanation.there.append(f"{path!a}: {await call.database.read(look)}")


async def _sight(path: str, subject: Subject, source: Source) -> str:
    found = await catalog.walk(source, path)
    decides = subject.scopes is None and not subject.is_root
    if found.entry is None:
        parent = found.parent
        if parent is None:
            return "is not there, nor is its directory"
        return "is not there" + (f"; in its directory {_rights(subject, parent)}" if decides else "")
    if not decides:
        return _described(found.entry)
    way = (
        "the way there is open to him"
        if may_traverse(subject, found.lineage)
        else "the way there is CLOSED to him"
    )
    return f"{_described(found.entry)}; {way}; {_rights(subject, found.entry)}"


def _described(entry: Entry) -> str:
    kind = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symbolic link"}.get(
        stat.S_IFMT(entry.mode), "a file"
    )
    acl = " and an ACL" if entry.acl_text else ""
    return f"{kind} of uid {entry.uid}, gid {entry.gid}, mode {stat.S_IMODE(entry.mode):04o}{acl}"


def _rights(subject: Subject, entry: Entry) -> str:
    try:
        granted = [word for right, word in _RIGHTS.items() if may(subject, entry, right)]
    except ApiError as exc:
        return f"he may nothing: {exc.text}"
    return f"he may {', '.join(granted) or 'nothing'}"


def _asked(question: Question) -> str:
    what = [_named(question)] if question.target else []
    if any(name.lower() == "authorization" for name, _ in question.headers):
        what.append("a token")
    if question.chain:
        what.append(f"{len(question.chain)} certificate(s)")
    where = f" from {question.address!a}" if question.address else ""
    return f"{', '.join(what) or 'nothing'}, over {question.way}{where}"


def _named(question: Question) -> str:
    is_known = any(each.name == question.command for each in COMMANDS)
    return question.command if is_known else "a command that does not exist"


def _note_settings(config: Config, question: Question, explanation: Explanation) -> None:
    if not config.api.enabled:
        explanation.notes.append("the API is not enabled in this configuration, and does not serve anybody")
    elif not any(each.protocol in _SPOKEN[question.way] for each in config.api.listen):
        explanation.notes.append(f"no listener of this configuration takes requests over {question.way}")


def _note_handshake(explanation: Explanation, question: Question, exc: AuthError) -> None:
    is_of_chain = explanation.evidence.method is Method.X509 and question.way is Transport.TLS
    if is_of_chain and exc.rule in _BY_OPENSSL:
        explanation.notes.append(
            "OpenSSL looks at the certificates first: if it refuses them as well, the handshake ends without"
            " an answer, and the audit line has the rule TLS5"
        )
