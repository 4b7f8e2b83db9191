"""The listener, asked over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest

from dome_bridge.config import MonitoringConfig
from dome_bridge.errors import ConfigError, SourceError
from dome_bridge.metrics import Metrics
from dome_bridge.monitoring import MonitoringListener, Providers, page

LOOPBACK = MonitoringConfig(address="127.0.0.1")
PATHS = ("/", "/metrics", "/status", "/healthz")


class Site:
    """Providers whose answers a test sets; `failure` is raised instead, `hangs` never answers."""

    def __init__(self) -> None:
        self.answer: Mapping[str, object] = {"phase": "following", "lag_seconds": 0.5, "cutover": None}
        self.sickness: str | None = None
        self.failure: Exception | None = None
        self.hangs = False
        self.cancelled = 0

    def providers(self) -> Providers:
        return Providers(metrics=self.metrics, status=self.status, health=self.health)

    async def metrics(self) -> bytes:
        await self._trouble()
        return Metrics().exposition()

    async def status(self) -> Mapping[str, object]:
        await self._trouble()
        return self.answer

    async def health(self) -> str | None:
        await self._trouble()
        return self.sickness

    async def _trouble(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
async def http(site: Site) -> AsyncIterator[aiohttp.ClientSession]:
    listener = MonitoringListener(LOOPBACK, site.providers(), port=0, provider_seconds=0.2)
    await listener.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{listener.port}") as session:
            yield session
    finally:
        await listener.stop()


async def get(http: aiohttp.ClientSession, path: str, method: str = "GET") -> tuple[int, str]:
    async with http.request(method, path) as response:
        return response.status, await response.text()


# Answers


async def test_metrics_come_in_the_text_format(http: aiohttp.ClientSession) -> None:
    async with http.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "dome_bridge_mirror_lag_seconds NaN" in await response.text()


async def test_status_is_the_json_of_the_provider(http: aiohttp.ClientSession, site: Site) -> None:
    async with http.get("/status") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        assert await response.json() == site.answer


async def test_healthy_daemon_says_ok(http: aiohttp.ClientSession) -> None:
    assert await get(http, "/healthz") == (200, "ok\n")


async def test_sick_daemon_says_why_in_one_line(http: aiohttp.ClientSession, site: Site) -> None:
    site.sickness = "the mirror is 99 s behind,\nthe limit is 30 s"
    assert await get(http, "/healthz") == (503, "the mirror is 99 s behind, the limit is 30 s\n")


async def test_page_shows_the_status(http: aiohttp.ClientSession) -> None:
    async with http.get("/") as response:
        assert (response.status, response.content_type) == (200, "text/html")
        text = await response.text()
    assert "<th>lag seconds</th><td>0.5</td>" in text
    assert "<title>dome-bridge: following</title>" in text


# The page's safety


async def test_page_takes_nothing_for_markup(http: aiohttp.ClientSession, site: Site) -> None:
    attack = '<script>alert("1")</script>\'&'
    site.answer = {"phase": attack, attack: [attack, {attack: attack}]}
    _, text = await get(http, "/")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 6


async def test_page_allows_its_own_style_and_nothing_else(http: aiohttp.ClientSession) -> None:
    async with http.get("/") as response:
        policy = response.headers["Content-Security-Policy"]
        text = await response.text()
    style = re.search("<style>(.*)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert not re.search(r"\b(src|href|style|on\w+)=", text)


def test_page_refreshes_itself() -> None:
    assert '<meta http-equiv="refresh" content="10">' in page({})


def test_unknown_values_are_dashes_on_the_page() -> None:
    assert "<th>last clean</th><td>–</td>" in page({"verify": {"last_clean": None}})


@pytest.mark.parametrize("path", [*PATHS, "/none"])
async def test_every_answer_forbids_guessing_and_caching(http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(path) as response:
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Server"] == "dome-bridge"


# What else is asked


@pytest.mark.parametrize("path", ["/none", "/metrics/", "/status/x", "/../etc/passwd"])
async def test_other_paths_are_not_found(http: aiohttp.ClientSession, path: str) -> None:
    assert (await get(http, path))[0] == 404


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_are_not_allowed(http: aiohttp.ClientSession, path: str, method: str) -> None:
    assert (await get(http, path, method))[0] == 405


@pytest.mark.parametrize("path", PATHS)
async def test_head_has_no_body(http: aiohttp.ClientSession, path: str) -> None:
    assert await get(http, path, "HEAD") == (200, "")


# Trouble


@pytest.mark.parametrize("path", PATHS)
async def test_failure_of_ours_is_told_in_one_line(
    http: aiohttp.ClientSession, site: Site, path: str
) -> None:
    site.failure = SourceError("lost the database server;\nis it up?")
    code, text = await get(http, path)
    assert code == 503
    assert "lost the database server; is it up?" in text


@pytest.mark.parametrize("path", PATHS)
async def test_unexpected_failure_is_logged_and_its_details_kept(
    http: aiohttp.ClientSession, site: Site, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    site.failure = KeyError("a secret")
    code, text = await get(http, path)
    assert code == 503
    assert "KeyError, see the log" in text
    assert "secret" not in text
    assert "Traceback" not in text
    assert [record.exc_info is not None for record in caplog.records] == [True]


@pytest.mark.parametrize("path", PATHS)
async def test_provider_that_hangs_is_cut_short(http: aiohttp.ClientSession, site: Site, path: str) -> None:
    site.hangs = True
    code, text = await get(http, path)
    assert code == 503
    assert "within 0.2 s" in text
    assert site.cancelled == 1


async def test_listener_answers_others_while_one_hangs(http: aiohttp.ClientSession, site: Site) -> None:
    site.hangs = True
    hanging = asyncio.create_task(get(http, "/status"))
    await asyncio.sleep(0.05)
    site.hangs = False
    assert await get(http, "/healthz") == (200, "ok\n")
    assert not hanging.done()
    assert (await hanging)[0] == 503


# Life


async def test_stopped_listener_gives_its_port_back_and_starts_again(site: Site) -> None:
    listener = MonitoringListener(LOOPBACK, site.providers(), port=0)
    for _ in range(2):
        await listener.start()
        port = listener.port
        await listener.stop()
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))


async def test_stop_without_start_is_harmless(site: Site) -> None:
    listener = MonitoringListener(LOOPBACK, site.providers())
    await listener.stop()
    with pytest.raises(RuntimeError, match="not started"):
        _ = listener.port


async def test_second_start_is_refused(site: Site) -> None:
    listener = MonitoringListener(LOOPBACK, site.providers(), port=0)
    await listener.start()
    try:
        with pytest.raises(RuntimeError, match="already"):
            await listener.start()
    finally:
        await listener.stop()


async def test_port_in_use_is_a_wrong_setting(site: Site) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = MonitoringConfig(address="127.0.0.1", port=taken.getsockname()[1])
        listener = MonitoringListener(config, site.providers())
        with pytest.raises(ConfigError, match=r"\[monitoring\] address and port") as caught:
            await listener.start()
        assert "\n" not in str(caught.value)
        await listener.stop()


@pytest.mark.parametrize("address", ["192.0.2.1", "no-such-host.invalid"])
async def test_address_of_another_machine_is_a_wrong_setting(site: Site, address: str) -> None:
    listener = MonitoringListener(MonitoringConfig(address=address), site.providers(), port=0)
    with pytest.raises(ConfigError, match="cannot listen on"):
        await listener.start()


async def test_stop_does_not_wait_for_a_slow_client(site: Site, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    site.hangs = True
    listener = MonitoringListener(LOOPBACK, site.providers(), port=0, provider_seconds=60)
    await listener.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{listener.port}") as session:
        asking = asyncio.create_task(get(session, "/status"))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(10):
            await listener.stop()
        with pytest.raises(aiohttp.ClientError):
            await asking
    assert site.cancelled == 1
