"""The listener for Prometheus, health checks and people: read only, no databases of its own.

It asks async providers and gives each a limited time, so a hanging database makes an answer of
503 with a reason and not a hanging scrape. Only GET and HEAD, only four paths.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from dome_bridge.config import MonitoringConfig
from dome_bridge.errors import BridgeError, ConfigError
from dome_bridge.metrics import CONTENT_TYPE

logger = logging.getLogger(__name__)

T = TypeVar("T")

PROVIDER_SECONDS = 5.0
"""Less than Prometheus' usual scrape timeout of ten."""

REFRESH_SECONDS = 10

_STYLE = """
body { font-family: sans-serif; margin: 2em auto; max-width: 50em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3em .8em; border-bottom: 1px solid #ddd }
th { font-weight: normal; color: #666; white-space: nowrap }
.bad { color: #a00 }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_SECURITY_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Providers:
    """Where the answers come from.

    metrics: the exposition text. status: what `status --json` prints. health: None when all is
    well, else one line of why not.
    """

    metrics: Callable[[], Awaitable[bytes]]
    status: Callable[[], Awaitable[Mapping[str, object]]]
    health: Callable[[], Awaitable[str | None]]


class _UnavailableError(Exception):
    """A provider has no answer; the message is for the client."""


class MonitoringListener:
    """Serves from `start` to `stop`. provider_seconds: the time that a provider may take.

    port: instead of the configured one; 0 takes any free one, see `port` after the start.
    """

    def __init__(
        self,
        config: MonitoringConfig,
        providers: Providers,
        *,
        port: int | None = None,
        provider_seconds: float = PROVIDER_SECONDS,
    ) -> None:
        self._address = config.address
        self._wanted_port = config.port if port is None else port
        self._providers = providers
        self._provider_seconds = provider_seconds
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port in use; RuntimeError unless started."""
        if self._runner is None or not self._runner.addresses:
            raise RuntimeError("the monitoring listener is not started")
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Raises ConfigError if the address cannot be had."""
        if self._runner is not None:
            raise RuntimeError("the monitoring listener is started already")
        runner = web.AppRunner(
            self._application(), access_log=None, handle_signals=False, shutdown_timeout=1.0
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._address, self._wanted_port).start()
        except OSError as exc:
            await runner.cleanup()
            raise ConfigError(
                f"cannot listen on {self._address}:{self._wanted_port}: {exc.strerror or exc}; "
                "set [monitoring] address and port to ones that are free on this machine"
            ) from exc
        self._runner = runner
        logger.info("monitoring listens address=%s port=%d", self._address, self.port)

    async def stop(self) -> None:
        """Harmless when not started."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=1024)
        application.on_response_prepare.append(_add_security_headers)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/status", self._status)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/", self._page)
        return application

    async def _metrics(self, request: web.Request) -> web.Response:
        try:
            body = await self._ask("metrics", self._providers.metrics)
        except _UnavailableError as why:
            return _plain(503, str(why))
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def _status(self, request: web.Request) -> web.Response:
        try:
            status = await self._ask("status", self._providers.status)
        except _UnavailableError as why:
            return web.json_response({"error": str(why)}, status=503)
        return web.json_response(status)

    async def _healthz(self, request: web.Request) -> web.Response:
        try:
            why = await self._ask("health", self._providers.health)
        except _UnavailableError as unavailable:
            why = str(unavailable)
        return _plain(200, "ok") if why is None else _plain(503, _one_line(why))

    async def _page(self, request: web.Request) -> web.Response:
        try:
            status = await self._ask("status", self._providers.status)
        except _UnavailableError as why:
            return _html(503, page({}, error=str(why)))
        return _html(200, page(status))

    async def _ask(self, name: str, provider: Callable[[], Awaitable[T]]) -> T:
        """The boundary: whatever goes wrong in a provider ends as a reason."""
        try:
            async with asyncio.timeout(self._provider_seconds):
                return await provider()
        except TimeoutError:
            logger.warning("no answer in time provider=%s seconds=%g", name, self._provider_seconds)
            raise _UnavailableError(f"no {name} within {self._provider_seconds:g} s") from None
        except BridgeError as exc:
            logger.warning("provider failed provider=%s error=%s", name, exc)
            raise _UnavailableError(_one_line(str(exc))) from exc
        except Exception as exc:
            logger.exception("provider failed provider=%s", name)
            raise _UnavailableError(f"no {name}: {type(exc).__name__}, see the log") from exc


async def _add_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_SECURITY_HEADERS)
    response.headers["Server"] = "dome-bridge"


def page(status: Mapping[str, Any], *, error: str = "") -> str:
    """The status page: self-contained, refreshed by the browser, nothing in it is taken for markup."""
    message = f'<p class="bad">{html.escape(error)}</p>' if error else ""
    rows = "".join(_row(key, value) for key, value in status.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="{REFRESH_SECONDS}">
<title>dome-bridge: {html.escape(str(status.get("phase", "no status")))}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>dome-bridge</h1>
{message}
<table>{rows}</table>
</body>
</html>
"""


def _row(key: str, value: object) -> str:
    return f"<tr><th>{html.escape(key.replace('_', ' '))}</th><td>{_cell(value)}</td></tr>"


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        return f"<table>{''.join(_row(str(key), each) for key, each in value.items())}</table>"
    if isinstance(value, list | tuple):
        return "<br>".join(_cell(each) for each in value)
    if value is None:
        return "–"
    return html.escape(value if isinstance(value, str) else json.dumps(value))


def _html(code: int, text: str) -> web.Response:
    return web.Response(status=code, text=text, content_type="text/html", charset="utf-8")


def _plain(code: int, line: str) -> web.Response:
    return web.Response(status=code, text=line + "\n")


def _one_line(text: str) -> str:
    return " ".join(text.split())
