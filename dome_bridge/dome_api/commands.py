"""All DOME commands that there are."""

from __future__ import annotations

from dome_bridge.dome_api import (
    commands_checksum,
    commands_disk,
    commands_get,
    commands_info,
    commands_people,
    commands_pools,
    commands_pull,
    commands_put,
    commands_quota,
    commands_read,
    commands_replicas,
    commands_set,
    commands_spaces,
    commands_tree,
    commands_unlink,
)
from dome_bridge.dome_api.command import Commands

COMMANDS = Commands(
    commands_info.commands,
    commands_read.commands,
    commands_tree.commands,
    commands_set.commands,
    commands_unlink.commands,
    commands_replicas.commands,
    commands_people.commands,
    commands_pools.commands,
    commands_spaces.commands,
    commands_quota.commands,
    commands_put.commands,
    commands_get.commands,
    commands_checksum.commands,
    commands_pull.commands,
    commands_disk.commands,
)
