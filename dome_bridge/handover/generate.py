"""From the settings and the databases to the files of dCache."""

from __future__ import annotations

import asyncio

from dome_bridge.config import Config
from dome_bridge.exporter.session import open_databases
from dome_bridge.handover.facts import read_site
from dome_bridge.handover.files import Configuration, make_configuration


async def generate(config: Config, *, with_spaces: bool | None = None) -> Configuration:
    """with_spaces: for dCache's space manager; None for what `[spacemanager] enabled` says."""
    async with open_databases(config) as databases:
        site = await read_site(databases, with_spaces=with_spaces)
    return await asyncio.to_thread(make_configuration, site)
