"""What the API judges requests by, read at the start and kept up to date while it serves.

Certificates, revocation lists, VOMS servers, bans, issuers, the host's own certificate: each is read
again when its files change, and with any of them the standards are replaced as a whole. A request is
judged by one set of standards from its first check to its last.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

from dome_bridge.auth import audit
from dome_bridge.auth.authenticate import Authenticator, Method, Standards
from dome_bridge.auth.bans import Bans, load_bans
from dome_bridge.auth.chain import X509Policy
from dome_bridge.auth.dn import canonical
from dome_bridge.auth.expiry import ExpiryReminder
from dome_bridge.auth.proxied import ProxiedHeaders
from dome_bridge.auth.refusal import Reason
from dome_bridge.auth.reload import Reloader, ReloadObserver, Watched
from dome_bridge.auth.signed import SignedRequests
from dome_bridge.auth.throttle import Throttle
from dome_bridge.auth.tokens import TokenVerifier
from dome_bridge.auth.trust import Trust, load_trust
from dome_bridge.config import AuthConfig, Config, TlsConfig, load
from dome_bridge.dome_api.disk_hosts import DiskHosts
from dome_bridge.dome_api.late_settings import late_keys
from dome_bridge.dome_api.server_tls import ServerTls, load_server_tls
from dome_bridge.dpm.pool import ConnectionPool

logger = logging.getLogger(__name__)

TLS_PROTOCOLS = ("https", "mixed")


class AuthObserver(ReloadObserver, Protocol):
    """Is told of refusals, and of what expires. Times are seconds since 1970."""

    def auth_failed(self, method: Method, reason: Reason) -> None: ...

    def host_certificate_loaded(self, not_after: float) -> None: ...

    def crls_loaded(self, next_updates: Mapping[str, float]) -> None: ...

    def issuer_keys_from(self, fetched: Callable[[], Mapping[str, float | None]]) -> None: ...


class Doorkeeper:
    """Usable between `open` and the end of its stack.

    hosts: our own names. keeps_on_disk: whether fetched keys are kept for the next start.
    """

    def __init__(
        self,
        config: Config,
        database: ConnectionPool,
        observer: AuthObserver,
        *,
        hosts: Sequence[str],
        keeps_on_disk: bool = True,
    ) -> None:
        self._config = config
        self._auth = config.auth
        self._observer = observer
        self._hosts = tuple(host.lower() for host in hosts)
        self._generation = 0
        self._is_open = False
        self._standards: Standards | None = None
        self._tokens = TokenVerifier(config.auth, keeps_on_disk=keeps_on_disk)
        self._changing: asyncio.Task[None] | None = None
        self._first_read: Config | None = None
        self.disks = DiskHosts(database, own=self._hosts, networks=lambda: self._auth.plain_http_networks)
        self._throttle = Throttle(
            per_second=config.auth.failures_per_second, burst=config.auth.failures_burst
        )
        self._trust = self._watched_trust()
        self._bans = self._watched_bans(config.auth.ban_file)
        self._tls = self._watched_tls(config.api.tls) if self._has_tls else None
        self._settings = self._watched_settings()
        watched: list[Watched[Any] | None] = [self._trust, self._bans, self._tls, self._settings]
        self._reloader = Reloader(
            [each for each in watched if each is not None], within_seconds=config.auth.reload_seconds
        )
        proxied = config.api.proxied
        self.authenticator = Authenticator(
            lambda: self.standards,
            self.disks.names,
            proxied=ProxiedHeaders(proxied.verify_header, proxied.dn_header, proxied.cert_header),
            throttle=self._throttle,
            is_exempt=self.disks.is_unlimited,
        )

    @property
    def standards(self) -> Standards:
        assert self._standards is not None, "open() comes first"
        return self._standards

    @property
    def tls(self) -> TlsConfig | None:
        return self._config.api.tls if self._has_tls else None

    def tls_context(self) -> ssl.SSLContext:
        """A fresh one for each connection, of the certificate that was read last."""
        assert self._tls is not None
        return self._tls.value.context()

    def reload(self) -> None:
        """Has everything looked at now, as after SIGHUP."""
        self._reloader.request()

    async def open(self, stack: AsyncExitStack) -> None:
        """Reads all, and keeps it up to date until the stack is closed. Raises BridgeError."""
        await self._reloader.start()
        self._is_open = True
        self._renew()
        await self._tokens.start()
        stack.push_async_callback(self._tokens.stop)
        self._observer.issuer_keys_from(self._keys_fetched)
        stop = asyncio.Event()
        tasks = [
            asyncio.create_task(self._reloader.run(stop)),
            asyncio.create_task(self.disks.resolve_forever()),
        ]

        async def end() -> None:
            stop.set()
            pending = [*tasks, *([self._changing] if self._changing else [])]
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

        stack.push_async_callback(end)

    def handshake_failed(self, address: str, verify_code: int | None, reason: str) -> None:
        """A connection ended in its handshake. verify_code: OpenSSL's, of the client's certificate."""
        self._observer.auth_failed(Method.X509, Reason.HANDSHAKE)
        if verify_code is not None and not self.disks.is_unlimited(address):
            self._throttle.failed(address)
        text = reason if verify_code is None else f"verify code {verify_code}: {reason}"
        audit.handshake_failed(time.time(), address, text)

    def turned_away(self, address: str, rule: str, reason: str) -> None:
        """A connection was closed before there was a request."""
        self._observer.auth_failed(Method.NONE, Reason.TRANSPORT)
        audit.handshake_failed(time.time(), address, reason, rule=rule)

    @property
    def _has_tls(self) -> bool:
        return any(listen.protocol in TLS_PROTOCOLS for listen in self._config.api.listen)

    def _watched_trust(self) -> Watched[Trust] | None:
        """Without a TLS listener CAs are needed only for what a web server hands over, if it does."""
        tls = self._config.api.tls
        if not self._has_tls and not tls.ca_dir.is_dir():
            return None

        def read(before: Trust | None) -> Trust:
            return load_trust(tls.ca_dir, tls.vomsdir, previous=before)

        return Watched(
            "trust",
            read,
            [tls.ca_dir, tls.vomsdir],
            count=lambda trust: {"subjects": len(trust.anchors), "vos": len(trust.vos)},
            accepted=self._trust_accepted,
            observer=self._observer,
        )

    def _trust_accepted(self, trust: Trust) -> None:
        self._observer.crls_loaded(trust.next_updates)
        self._renew()

    def _watched_bans(self, file: Path | None) -> Watched[Bans]:
        return Watched(
            "bans",
            lambda _: load_bans(file),
            [file] if file else [],
            count=lambda bans: bans.counts,
            accepted=lambda _: self._renew(),
            observer=self._observer,
        )

    def _watched_tls(self, tls: TlsConfig) -> Watched[ServerTls]:
        reminder = ExpiryReminder(tls.certificate)
        return Watched(
            "host certificate",
            lambda _: load_server_tls(tls),
            [tls.certificate, tls.key],
            accepted=lambda server: self._observer.host_certificate_loaded(server.not_after.timestamp()),
            looked_at=lambda server: reminder.check(server.not_after.timestamp()),
            observer=self._observer,
        )

    def _watched_settings(self) -> Watched[Config] | None:
        """Of the tables [auth] and [[auth.issuer]]; what else changes needs a restart, and the log has it."""
        config = self._config
        if config.path is None:
            return None
        secrets = (config.auth.xrdhttp_secret_file, config.auth.xrdhttp_old_secret_file)
        files = [config.path, config.dpm.domehead_conf, *secrets]
        return Watched(
            "settings",
            lambda _: load(config.path, os.environ),
            [file for file in files if file is not None],
            count=lambda read: {
                "issuers": len(read.auth.issuers),
                "administrators": len(read.auth.authorize_dn),
                "frontends": len(read.auth.frontends),
            },
            accepted=self._settings_accepted,
            observer=self._observer,
        )

    def _settings_accepted(self, read: Config) -> None:
        """Takes them in the background; until that is done, those before stay in force."""
        if self._first_read is None:
            self._first_read = read
        if late := ",".join(late_keys(self._first_read, read)):
            logger.warning("settings have changed that count only after a restart keys=%s", late)
        auth = read.auth
        self._changing = asyncio.get_running_loop().create_task(self._take_settings(auth, self._changing))

    async def _take_settings(self, auth: AuthConfig, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        if auth == self._auth:
            return
        try:
            await self._tokens.reconfigure(auth)
        except Exception as exc:  # noqa: BLE001 - the boundary: nobody awaits it, and the old settings stay in force
            logger.error(
                "settings cannot be taken, those before stay in force error=%s: %s", type(exc).__name__, exc
            )
            self._observer.reload_ended("settings", failed=True)
            return
        self._auth = auth
        self._renew()

    def _renew(self) -> None:
        """Puts new standards in place of the old ones, once all parts are there."""
        if not self._is_open:
            return
        self._generation += 1
        self._tokens.forget()
        self._standards = standards_of(
            self._auth,
            generation=self._generation,
            trust=self._trust.value if self._trust else None,
            bans=self._bans.value,
            hosts=self._hosts,
            tokens=self._tokens,
        )

    def _keys_fetched(self) -> Mapping[str, float | None]:
        return {status.issuer: status.fetched for status in self._tokens.key_status()}


def standards_of(
    auth: AuthConfig,
    *,
    generation: int,
    trust: Trust | None,
    bans: Bans,
    hosts: tuple[str, ...],
    tokens: TokenVerifier,
) -> Standards:
    """Of the settings and of what was read from files. hosts: our own names, in lower case."""
    return Standards(
        generation=generation,
        auth=auth,
        policy=X509Policy(auth.crl_policy, auth.max_proxy_depth, auth.limited_proxy),
        trust=trust,
        hosts=hosts,
        tokens=tokens,
        signed=SignedRequests(tuple(filter(None, (auth.xrdhttp_secret, auth.xrdhttp_old_secret)))),
        bans=bans,
        frontends=frozenset(host.lower() for host in auth.frontends),
        administrators=frozenset(_administrators(auth)),
        vos=frozenset(issuer.vo for issuer in auth.issuers) | (trust.vos if trust else frozenset()),
    )


def _administrators(auth: AuthConfig) -> Iterator[str]:
    """In the form in which subjects are compared. One that is no name can be nobody's."""
    for dn in auth.authorize_dn:
        try:
            yield canonical(dn)
        except ValueError as exc:
            logger.warning("an administrator is not admitted dn=%r reason=%s", dn, exc)
