"""From what a request shows to the one principal that it runs for.

The order is fixed: what the connection shows, the token, contradictions between them, whom a peer
names. A credential that is there but no good ends the request; it is never passed over for another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

from dome_bridge.auth import bearer
from dome_bridge.auth.asserted import Asserted
from dome_bridge.auth.bans import Bans
from dome_bridge.auth.chain import Path, X509Policy, evaluate
from dome_bridge.auth.contact import Contact
from dome_bridge.auth.dn import user_name
from dome_bridge.auth.first_look import channel_of_name, named_channels
from dome_bridge.auth.principal import PEERS, Channel, Kind, Principal, Role, Transport, ValidToken
from dome_bridge.auth.proxied import ProxiedHeaders, identity_of, last_hop
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.roles import Peers
from dome_bridge.auth.signed import SignedRequests
from dome_bridge.auth.throttle import Throttle, ThrottledError
from dome_bridge.auth.tokens import Claimed, TokenRefusedError, TokenVerifier
from dome_bridge.auth.trace import Trace, untold
from dome_bridge.auth.trust import Trust
from dome_bridge.auth.voms import Membership, membership
from dome_bridge.config import AuthConfig

logger = logging.getLogger(__name__)

REFUSED_SECONDS = 60.0
"""So long a chain that was refused is not looked at again."""

KEPT_CHAINS = 1000
"""Of clients behind the web server, whose connections we do not see."""


EVALUATIONS = 4
"""Chains that are looked at at the same time."""


class Method(StrEnum):
    """The `method` of `dome_bridge_auth_failures_total`: which credential was refused."""

    X509 = "x509"
    XRDHTTP = "xrdhttp"
    PROXIED = "proxied"
    TOKEN = "token"  # noqa: S105 - a label
    ASSERTED = "asserted"
    NONE = "none"


class Presented(NamedTuple):
    """A request as far as it matters here. target: raw, as it stood in the request line."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Standards:
    """What requests are judged by; replaced as a whole when anything of it changes.

    auth: the settings. trust: None where no certificates are taken. hosts: our own names. generation: another
    for each.
    """

    generation: int
    auth: AuthConfig
    policy: X509Policy
    trust: Trust | None
    hosts: tuple[str, ...]
    tokens: TokenVerifier
    signed: SignedRequests
    bans: Bans
    frontends: frozenset[str] = frozenset()
    administrators: frozenset[str] = frozenset()
    vos: frozenset[str] = frozenset()
    """Those whose groups are made for a peer that names them."""


@dataclass
class Evidence:
    """What is found on the way, for the log: it is there even when the request is refused."""

    address: str = ""
    method: Method = Method.NONE
    kind: Kind = Kind.ANONYMOUS
    role: Role = Role.NOBODY
    """Of the connection, and with the user whom it names."""
    channel: Channel = field(default_factory=Channel)
    token: ValidToken | None = None
    claimed: Claimed = field(default_factory=Claimed)
    """What a token that is refused says of itself."""
    asserted: Asserted = field(default_factory=Asserted)


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """Of a chain. A refusal is kept for a moment, too: showing it again and again must cost nothing."""

    generation: int
    channel: Channel
    refusal: AuthError | None = None

    def believed(self) -> Channel:
        """Raises AuthError."""
        refusal = self.refusal
        if refusal is not None:
            raise AuthError(refusal.status, refusal.rule, refusal.reason, str(refusal))
        return self.channel


class Authenticator:
    """standards: the newest. disk_hosts: names of the disk servers in DPM's database.

    is_exempt: whether one of the site's own servers has an address. clock: seconds since 1970.
    """

    def __init__(
        self,
        standards: Callable[[], Standards],
        disk_hosts: Callable[[], Awaitable[frozenset[str]]],
        *,
        proxied: ProxiedHeaders,
        throttle: Throttle,
        is_exempt: Callable[[str], bool] = lambda address: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._standards = standards
        self._disk_hosts = disk_hosts
        self._proxied = proxied
        self._throttle = throttle
        self._is_exempt = is_exempt
        self._clock = clock
        self.has_missed_addresses = False
        """The web server in front does not say who its clients are, and the log has it."""
        self._chains: OrderedDict[bytes, _Evaluation] = OrderedDict()
        self._evaluations = asyncio.Semaphore(EVALUATIONS)

    async def principal(
        self, presented: Presented, contact: Contact, evidence: Evidence, trace: Trace = untold
    ) -> Principal:
        """Who it is. Raises AuthError; SourceError if the disk servers cannot be read.

        trace: is told of each check; nothing that is remembered shortens them then.
        """
        standards = self._standards()
        evidence.address = address = self.address_of(presented.headers, contact)
        throttled = self._throttled(address)
        if throttled is not None and not await self._may_be_peer(standards, presented, contact):
            raise throttled
        try:
            principal = await self._judged(standards, presented, contact, evidence, trace)
        except AuthError as exc:
            if _is_guess(exc, evidence) and not await self._is_spared(standards, address, evidence.channel):
                self._throttle.failed(address)
                if throttled is not None:
                    raise throttled from exc
            raise
        if throttled is not None and not (principal.is_peer or principal.is_passed_on):
            raise throttled
        return principal

    def address_of(self, headers: Sequence[tuple[str, str]], contact: Contact) -> str:
        """Of the client, which behind a web server is another than that of the connection."""
        if contact.transport is not Transport.PROXIED:
            return contact.address
        address = last_hop(headers)
        if not address and not self.has_missed_addresses:
            self.has_missed_addresses = True
            logger.warning(
                "the web server in front names no client address, so that all of its clients share one limit"
                " for bad credentials: have it send X-Forwarded-For"
            )
        return address or contact.address

    def _throttled(self, address: str) -> ThrottledError | None:
        """What a source is told that has failed too often; not the site's own servers."""
        if self._is_exempt(address):
            return None
        try:
            self._throttle.require(address)
        except ThrottledError as exc:
            return exc
        return None

    async def _may_be_peer(self, standards: Standards, presented: Presented, contact: Contact) -> bool:
        """Whether one of the site's own servers may have sent this: it may share an address with who fails.

        By names alone: no signature is looked at for it.
        """
        kept = contact.kept.evaluation
        if isinstance(kept, _Evaluation) and self._holds(kept, standards):
            shown: Sequence[Channel] = [kept.channel]
        else:
            shown = named_channels(presented.headers, presented.target, contact, self._proxied)
        peers = await self._peers(standards) if shown else Peers()
        return any(_role(peers, channel) in PEERS for channel in shown)

    async def _judged(
        self,
        standards: Standards,
        presented: Presented,
        contact: Contact,
        evidence: Evidence,
        trace: Trace,
    ) -> Principal:
        await self._take_channel(standards, presented, contact, evidence, trace)
        # Who shows nothing is nobody's server, whichever there are.
        peers = await self._peers(standards) if evidence.channel.dn else Peers()
        role, kind = peers.standing(evidence.channel)
        trace("N1", "the connection shows %s: role %s", evidence.channel.dn or "nobody", role)
        if contact.transport is not Transport.PLAIN:
            with _blaming(evidence, Method.TOKEN):
                evidence.token = await _token(standards, presented, evidence, trace)
        with _blaming(evidence, Method.ASSERTED):
            evidence.asserted = Asserted.from_headers(presented.headers)
        if evidence.token is not None:
            with _blaming(evidence, Method.TOKEN):
                return _of_token(evidence.token, role, evidence)
        evidence.role, evidence.kind = role, kind
        self._require_peer_on_plain(contact, role, evidence)
        with _blaming(evidence, Method.ASSERTED):
            return _of_channel(standards, role, kind, evidence)

    async def _take_channel(
        self,
        standards: Standards,
        presented: Presented,
        contact: Contact,
        evidence: Evidence,
        trace: Trace,
    ) -> None:
        """Raises AuthError."""
        try:
            match contact.transport:
                case Transport.TLS:
                    evidence.method = Method.X509 if contact.chain else Method.NONE
                    evidence.channel = await self._of_connection(standards, contact, trace)
                case Transport.PLAIN:
                    with _blaming(evidence, Method.TOKEN):
                        self._refuse_token_in_clear(presented)
                    evidence.method = Method.XRDHTTP
                    evidence.channel = _of_signed(standards, presented, contact, self._clock())
                    trace("K2", "the request is signed with the site's key")
                case Transport.PROXIED:
                    evidence.method = Method.PROXIED
                    await self._take_proxied(standards, presented, evidence, trace)
        except AuthError as exc:
            if bearer.is_given(presented.headers, presented.target):
                raise _beside_token(exc) from exc
            raise

    @staticmethod
    def _refuse_token_in_clear(presented: Presented) -> None:
        if bearer.is_given(presented.headers, presented.target):
            raise AuthError(
                400,
                "K5",
                Reason.TRANSPORT,
                "a bearer token came over plain HTTP, where anybody could read it: have it revoked, use TLS",
            )

    async def _of_connection(self, standards: Standards, contact: Contact, trace: Trace) -> Channel:
        kept = contact.kept.evaluation
        if not (isinstance(kept, _Evaluation) and self._holds(kept, standards)):
            kept = contact.kept.evaluation = await self._evaluated(standards, contact.chain, trace)
        return kept.believed()

    async def _take_proxied(
        self, standards: Standards, presented: Presented, evidence: Evidence, trace: Trace
    ) -> None:
        told = identity_of(presented.headers, self._proxied)
        if told.chain:
            evidence.channel = await self._of_chain(standards, told.chain, trace)
        elif told.dn:
            evidence.channel = channel_of_name(told.dn, "Y3")

    async def _of_chain(self, standards: Standards, chain: tuple[bytes, ...], trace: Trace) -> Channel:
        """As of a connection, for clients whose connections end at the web server."""
        key = sha256(b"".join(len(one).to_bytes(4) + one for one in chain)).digest()
        kept = self._chains.get(key)
        if kept is None or not self._holds(kept, standards):
            kept = self._chains[key] = await self._evaluated(standards, chain, trace)
        self._chains.move_to_end(key)
        if len(self._chains) > KEPT_CHAINS:
            self._chains.popitem(last=False)
        return kept.believed()

    def _holds(self, kept: _Evaluation, standards: Standards) -> bool:
        return kept.generation == standards.generation and self._clock() < kept.channel.expires

    async def _evaluated(self, standards: Standards, chain: tuple[bytes, ...], trace: Trace) -> _Evaluation:
        """In a thread, a few at a time: what a hostile client may send takes up to half a second."""
        if not chain:
            return _Evaluation(standards.generation, Channel())
        now = self._clock()
        try:
            async with self._evaluations:
                channel = await asyncio.to_thread(channel_of, standards, chain, now, trace)
        except AuthError as exc:
            return _Evaluation(standards.generation, Channel(expires=now + REFUSED_SECONDS), exc)
        return _Evaluation(standards.generation, channel)

    async def _peers(self, standards: Standards) -> Peers:
        return Peers(
            own=frozenset(standards.hosts),
            disks=await self._disk_hosts(),
            frontends=standards.frontends,
            administrators=standards.administrators,
        )

    async def _is_spared(self, standards: Standards, address: str, channel: Channel) -> bool:
        """A server of the site that is refused is misconfigured, not guessing."""
        if self._is_exempt(address):
            return True
        return bool(channel.dn) and _role(await self._peers(standards), channel) in PEERS

    @staticmethod
    def _require_peer_on_plain(contact: Contact, role: Role, evidence: Evidence) -> None:
        if contact.transport is Transport.PLAIN and role in (Role.USER, Role.NOBODY):
            raise AuthError(
                403, "K1", Reason.ROLE, f"{evidence.channel.dn!a} has signed, but is no server of this site"
            )


async def _token(
    standards: Standards, presented: Presented, evidence: Evidence, trace: Trace
) -> ValidToken | None:
    given = bearer.token_of(presented.headers, presented.target)
    if given is None:
        return None
    try:
        return await standards.tokens.verify(given, trace)
    except TokenRefusedError as exc:
        names = {issuer.issuer: issuer.name for issuer in standards.auth.issuers}
        evidence.claimed = replace(exc.claimed, iss=names.get(exc.claimed.iss, exc.claimed.iss))
        raise


def _role(peers: Peers, channel: Channel) -> Role:
    try:
        return peers.standing(channel)[0]
    except AuthError:
        return Role.USER


def _beside_token(error: AuthError) -> AuthError:
    """Beside a token a certificate that is no good is a request that is not authenticated."""
    return AuthError(401, "MX7", error.reason, str(error)) if error.status == 403 else error


def _is_guess(exc: AuthError, evidence: Evidence) -> bool:
    """A credential that is no good; none at all is no attempt."""
    return (
        exc.status in (401, 403) and exc.reason is not Reason.MISSING and evidence.method is not Method.NONE
    )


def channel_of(standards: Standards, chain: tuple[bytes, ...], now: float, trace: Trace = untold) -> Channel:
    """What a chain of certificates proves. Raises AuthError."""
    if standards.trust is None:
        raise AuthError(
            401, "X1", Reason.UNTRUSTED, "no CAs are configured: set ca_dir in [api.tls] to take certificates"
        )
    moment = datetime.fromtimestamp(now, UTC)
    path = evaluate(chain, standards.trust, standards.policy, moment, trace)
    member = membership(path, standards.trust, standards.policy, standards.hosts, moment, trace=trace)
    return _channel(path, member, names_ca=standards.auth.user_key == "dn+ca")


def _channel(path: Path, member: Membership, *, names_ca: bool) -> Channel:
    issuers = tuple(each.slash for each in path.issuer_names)
    dn = user_name(path.dn)
    return Channel(
        dn=dn,
        user=f"{dn}:{issuers[0]}" if names_ca and issuers else dn,
        hosts=path.hosts,
        issuers=issuers,
        fqans=member.groups,
        is_proxy=bool(path.proxies),
        is_limited=path.is_limited,
        is_multivalued=path.dn.is_multivalued,
        expires=min(path.expires, member.expires),
    )


def _of_signed(standards: Standards, presented: Presented, contact: Contact, now: float) -> Channel:
    dn = standards.signed.verify(presented.method, presented.target, contact.address, now)
    channel = channel_of_name(dn, "K3")
    # In another form it may be an administrator's, but no server signs so.
    return channel if dn.startswith("/") else replace(channel, hosts=())


def _of_token(token: ValidToken, role: Role, evidence: Evidence) -> Principal:
    """role: of the peer, of whose rights nothing is left but that it may pass tokens on."""
    if evidence.asserted.has_identity:
        raise AuthError(400, "MX4", Reason.CONTRADICTION, "a token and an asserted user in one request")
    if token.has_capability:
        kind, groups = Kind.CAPABILITY, token.vo_groups
    else:
        kind, groups = (Kind.GROUP if token.groups else Kind.POWERLESS), token.groups
    return Principal(
        kind,
        Role.USER,
        user=token.username,
        groups=groups,
        address=evidence.address,
        host=evidence.address,
        channel=evidence.channel,
        token=token,
        is_passed_on=role in PEERS,
    )


def _of_channel(standards: Standards, role: Role, kind: Kind, evidence: Evidence) -> Principal:
    asserted, channel = evidence.asserted, evidence.channel
    principal = Principal(kind, role, address=evidence.address, host=evidence.address, channel=channel)
    if not principal.is_peer:
        _refuse_assertion(kind, asserted)
        return principal if kind is Kind.ANONYMOUS else _of_user(principal)
    if not asserted.is_nobody:
        evidence.kind = Kind.FRONTEND
    evidence.asserted = asserted = asserted.checked()
    host = asserted.host or evidence.address
    if asserted.is_nobody:
        return replace(principal, host=host, asserted=asserted)
    return replace(
        principal,
        kind=Kind.FRONTEND,
        user=asserted.user,
        groups=asserted.groups,
        host=host,
        asserted=asserted,
    )


def _of_user(principal: Principal) -> Principal:
    channel = principal.channel
    if len(channel.user) > 255:
        raise AuthError(403, "U4", Reason.NAME, "the subject is longer than the 255 bytes of a user's name")
    return replace(principal, user=channel.user, groups=channel.fqans or None)


def _refuse_assertion(kind: Kind, asserted: Asserted) -> None:
    if not asserted.has_identity:
        return
    status = 401 if kind is Kind.ANONYMOUS else 403
    raise AuthError(status, "N4", Reason.ROLE, "only servers of this site may name a user in a header")


@contextmanager
def _blaming(evidence: Evidence, method: Method) -> Iterator[None]:
    """Which credential is at fault if one is refused inside."""
    before, evidence.method = evidence.method, method
    yield
    # not after an error: the last one named is the one refused
    evidence.method = before
