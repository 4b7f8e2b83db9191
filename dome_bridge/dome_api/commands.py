"""All DOME commands that there are."""

from __future__ import annotations

from dome_bridge.dome_api import (
    commands_info,
    commands_people,
    commands_read,
    commands_replicas,
    commands_set,
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
)
