"""Decides whether a bearer token is valid, and what it says: the whole of section 4, for several issuers.

All is done offline, with keys that are there. The order: form, header, issuer, key, signature, and only then
the claims. Each issuer has keys, audiences, mappings and limits of its own. What was found is remembered for
at most a minute, and not longer than the keys that it was checked with stay the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from dome_bridge.auth import claims, discovery, jws
from dome_bridge.auth.claims import ANY_AUDIENCE, Terms
from dome_bridge.auth.discovery import KeySource
from dome_bridge.auth.entitlements import entitled
from dome_bridge.auth.issuer_http import IssuerHttp
from dome_bridge.auth.issuer_keys import DAY, FILE_REFRESH, HOUR, Fetch, IssuerKeys, KeyStatus, Schedule
from dome_bridge.auth.jws import MAX_KID_CHARACTERS
from dome_bridge.auth.key_store import KeyStore
from dome_bridge.auth.keyset import KeySet
from dome_bridge.auth.principal import ValidToken
from dome_bridge.auth.refusal import AuthError, Reason
from dome_bridge.auth.scopes import Area
from dome_bridge.auth.trace import Trace, shown, untold
from dome_bridge.config_auth import AuthConfig, IssuerConfig
from dome_bridge.errors import ConfigError

log = logging.getLogger(__name__)

REMEMBERED_SECONDS = 60.0
REMEMBERED_TOKENS = 4096

Now = Callable[[], float]
Sleep = Callable[[float], Awaitable[object]]
OpenSource = Callable[[KeySource], Fetch]


@dataclass(slots=True)
class Claimed:
    """What a token says of itself, for the audit line; sub and jti only once its signature is found good."""

    iss: str = ""
    kid: str = ""
    sub: str = ""
    jti: str = ""


class TokenRefusedError(AuthError):
    """A token is not valid. claimed: what was read of it before it fell."""

    def __init__(self, error: AuthError, claimed: Claimed) -> None:
        super().__init__(error.status, error.rule, error.reason, str(error))
        self.claimed = claimed


class _Origin(NamedTuple):
    """What the keys of an issuer depend on; while it is the same, they are kept."""

    source: KeySource
    schedule: Schedule
    cache_dir: Path | None


class _Issuer(NamedTuple):
    config: IssuerConfig
    origin: _Origin
    keys: IssuerKeys
    terms: Terms
    area: Area


class _Checked(NamedTuple):
    """A token and the keys that it was checked with."""

    token: ValidToken
    keys: IssuerKeys
    key_set: KeySet | None


class _Remembered(NamedTuple):
    checked: _Checked
    until: float


class TokenVerifier:
    """Judges tokens by `[auth]`; usable between `start` and `stop`.

    now: seconds since 1970. keeps_on_disk: fetched keys are written to `jwks_cache_dir`, not only read there.
    """

    def __init__(
        self,
        auth: AuthConfig,
        *,
        now: Now = time.time,
        sleep: Sleep = asyncio.sleep,
        open_source: OpenSource | None = None,
        keeps_on_disk: bool = True,
    ) -> None:
        self._now, self._sleep = now, sleep
        self._open_source = open_source or over_https
        self._keeps_on_disk = keeps_on_disk
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._auth = auth
        self._issuers: Mapping[str, _Issuer] = {}
        self._issuers = self._prepared(auth)

    async def start(self) -> None:
        """Does not wait for any issuer."""
        await asyncio.gather(*(issuer.keys.start() for issuer in self._issuers.values()))

    async def stop(self) -> None:
        """Harmless when not started."""
        await asyncio.gather(*(issuer.keys.stop() for issuer in self._issuers.values()))

    async def reconfigure(self, auth: AuthConfig) -> None:
        """Goes by another configuration from the next request on. Raises ConfigError, and keeps the old one.

        Issuers whose keys come from the same place as before keep them.
        """
        before, issuers = self._issuers, self._prepared(auth)
        if auth.issuers != self._auth.issuers:
            log.info("issuers are changed before=%d after=%d", len(before), len(issuers))
        self._auth, self._issuers = auth, issuers
        self.forget()
        old, new = ({issuer.origin: issuer.keys for issuer in each.values()} for each in (before, issuers))
        await asyncio.gather(
            *(keys.start() for origin, keys in new.items() if origin not in old),
            *(keys.stop() for origin, keys in old.items() if origin not in new),
        )

    def forget(self) -> None:
        """Checks every token anew, after a change of what tokens are judged by."""
        self._remembered = OrderedDict()

    def key_status(self) -> tuple[KeyStatus, ...]:
        """Where the keys of each issuer stand, for metrics."""
        return tuple(issuer.keys.status for issuer in self._issuers.values())

    async def verify(self, token: str, trace: Trace = untold) -> ValidToken:
        """What a valid token says. Raises TokenRefusedError: 401, or 503 if its issuer's keys are not there.

        trace: is told of every check that holds, in order, and nothing that is remembered shortens them.
        """
        remembered = self._remembered
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        if trace is untold and (known := self._known(digest)) is not None:
            return known
        claimed = Claimed()
        try:
            checked = await self._checked(token, claimed, trace)
        except AuthError as error:
            raise TokenRefusedError(error, claimed) from None
        # What was forgotten meanwhile is another memory's: a judgement by older rules does not get into it.
        self._remember(remembered, digest, checked)
        return checked.token

    async def _checked(self, token: str, claimed: Claimed, trace: Trace) -> _Checked:
        auth = self._auth
        parts = jws.parse(token, trace)
        signing = jws.check_header(parts.header, auth.algorithms, trace)
        issuer = self._issuer(parts.claims.get("iss"), claimed, trace)
        claimed.kid = kid = _kid(signing.kid)
        key = await issuer.keys.key(kid)
        key_set = issuer.keys.current
        trace("T7", "its key is %a of this issuer", kid)
        key.check_signature(signing.alg, parts.signing_input, parts.signature)
        trace("T6", "the key is for %s", key.kind)
        trace("T1", "its signature is good; the claims follow")
        claimed.sub, claimed.jti = (_text(parts.claims.get(name)) for name in ("sub", "jti"))
        found = claims.check(parts.claims, issuer.terms, self._now(), trace)
        token_found = entitled(
            parts.claims,
            found,
            kid=kid,
            issuer=issuer.config,
            area=issuer.area,
            hosts=auth.host_auth,
            trace=trace,
        )
        return _Checked(token_found, issuer.keys, key_set)

    def _issuer(self, iss: object, claimed: Claimed, trace: Trace) -> _Issuer:
        claimed.iss = _text(iss)
        issuer = self._issuers.get(claimed.iss)
        if issuer is None:
            raise AuthError(
                401, "T2", Reason.UNKNOWN_ISSUER, f"token's issuer is {shown(iss)}, which is not configured"
            )
        trace("T2", "its issuer %s is configured by the name %s", issuer.config.issuer, issuer.config.name)
        return issuer

    def _known(self, digest: bytes) -> ValidToken | None:
        entry = self._remembered.get(digest)
        if entry is None:
            return None
        checked = entry.checked
        if self._now() < entry.until and checked.keys.current is checked.key_set:
            return checked.token
        del self._remembered[digest]
        return None

    def _remember(self, memory: OrderedDict[bytes, _Remembered], digest: bytes, checked: _Checked) -> None:
        if checked.key_set is None:
            return
        memory[digest] = _Remembered(checked, min(checked.token.expires, self._now() + REMEMBERED_SECONDS))
        while len(memory) > REMEMBERED_TOKENS:
            memory.popitem(last=False)

    def _prepared(self, auth: AuthConfig) -> Mapping[str, _Issuer]:
        kept = {issuer.origin: issuer.keys for issuer in self._issuers.values()}
        issuers = {config.issuer: self._opened(config, auth, kept) for config in auth.issuers}
        if len(issuers) < len(auth.issuers):
            raise ConfigError("auth.issuer: two tables have the same `issuer`: keep one of them")
        return issuers

    def _opened(self, config: IssuerConfig, auth: AuthConfig, kept: Mapping[_Origin, IssuerKeys]) -> _Issuer:
        if not config.max_lifetime_s:
            log.warning("tokens of any lifetime are accepted issuer=%s: set max_lifetime_s", config.name)
        origin = _origin(config, auth)
        keys = kept.get(origin) or self._keys(origin)
        return _Issuer(config, origin, keys, _terms(config, auth), _area(config))

    def _keys(self, origin: _Origin) -> IssuerKeys:
        source = origin.source
        store = None
        if origin.cache_dir is not None and source.file is None:
            store = KeyStore(origin.cache_dir, source.name, source.issuer, is_writable=self._keeps_on_disk)
        return IssuerKeys(
            source.name,
            self._open_source(source),
            schedule=origin.schedule,
            store=store,
            now=self._now,
            sleep=self._sleep,
        )


def over_https(source: KeySource) -> Fetch:
    """Fetches from the issuer, or reads the local file if that is where its keys are."""
    get = IssuerHttp(ca_file=source.ca_file, allow_private_address=source.allow_private_address)
    return partial(discovery.fetch, source, get)


def _origin(config: IssuerConfig, auth: AuthConfig) -> _Origin:
    source = KeySource(
        name=config.name,
        issuer=config.issuer,
        jwks_uri=config.jwks_uri,
        jwks_hosts=config.jwks_hosts,
        ca_file=config.ca_file,
        allow_private_address=config.allow_private_address,
    )
    keep = config.keep_days * DAY
    refresh = FILE_REFRESH if source.file is not None else config.refresh_hours * HOUR
    return _Origin(source, Schedule(refresh, keep), auth.jwks_cache_dir)


def _terms(config: IssuerConfig, auth: AuthConfig) -> Terms:
    any_audience = {ANY_AUDIENCE} if config.accept_any_audience else set()
    return Terms(
        audiences=frozenset({*auth.audience, *config.audience} | any_audience),
        max_lifetime=config.max_lifetime_s,
        skew=auth.clock_skew_s,
    )


def _area(config: IssuerConfig) -> Area:
    try:
        return Area(config.base_path, config.exclude_paths)
    except ValueError as error:
        raise ConfigError(f"auth.issuer {config.name}: {error}") from None


def _kid(kid: object) -> str:
    if not isinstance(kid, str) or not 1 <= len(kid) <= MAX_KID_CHARACTERS:
        raise AuthError(
            401,
            "T7",
            Reason.MISSING if kid is None else Reason.MALFORMED,
            f"token's kid is missing, or no string of 1 to {MAX_KID_CHARACTERS} characters",
        )
    return kid


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
