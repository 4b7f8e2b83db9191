"""Declaring commands: how a signature becomes the list of parameters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, cast

import pytest

from dome_bridge.dome_api.admission import ANYBODY, CLOSED
from dome_bridge.dome_api.command import (
    Character,
    Command,
    Commands,
    Flag,
    Integer,
    Key,
    Text,
    Texts,
    Unsigned,
)
from dome_bridge.dome_api.request import Request
from dome_bridge.dome_api.wire import Answer, Parameters
from dome_bridge.errors import ApiError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

commands = Commands()


@commands.post("dome_everything", ANYBODY)
async def everything(
    call: Call,
    path: Text,
    mode: Unsigned = 0o755,
    size: Integer = -1,
    follow: Flag = False,
    status: Character = "-",
    groupnames: Texts = [],  # noqa: B006 - never changed
    checksum_type: Annotated[Text, Key("checksum-type")] = "md5",
    hint: Text | None = None,
) -> Answer:
    """Says what it was given.

    More than one line.
    """
    values = [path, mode, size, follow, status, groupnames, checksum_type, hint]
    return Answer.text(json.dumps(values))


@commands.get("dome_nothing")
async def nothing(call: Call) -> Answer:
    return Answer.EMPTY


class StandIn:
    """A call that nobody looks into."""

    def __init__(self, body: bytes) -> None:
        self.request = Request("POST", "/x/dome_everything", "dome_everything", Parameters.from_body(body))


async def run(body: str) -> list[Any]:
    command = commands.find("POST", "dome_everything")
    assert command is not None
    answer = await command.run(cast("Call", StandIn(body.encode())))
    values: list[Any] = json.loads(answer.body)
    return values


async def test_missing_parameters_take_the_defaults_of_the_signature() -> None:
    assert await run('{"path": "/a"}') == ["/a", 0o755, -1, False, "-", [], "md5", None]


async def test_values_are_converted_to_the_types_of_the_signature() -> None:
    body = (
        '{"path": "/b", "mode": "511", "size": 12, "follow": "yes", "status": "P", "groupnames": ["a", "b"],'
        ' "checksum-type": "adler32", "hint": "", "checksum_type": "not this"}'
    )
    assert await run(body) == ["/b", 511, 12, True, "P", ["a", "b"], "adler32", ""]


async def test_value_that_does_not_convert_counts_as_missing() -> None:
    assert await run('{"path": "/b", "mode": "x", "size": [], "status": "45"}') == [
        *("/b", 0o755, -1, False, "-", [], "md5", None)
    ]


async def test_parameter_without_default_is_demanded() -> None:
    with pytest.raises(ApiError) as info:
        await run("{}")
    assert info.value.status == 422


@pytest.mark.parametrize("body", ['{"path": "/a\\u0000b"}', '{"path": "/", "groupnames": ["a\\u0000"]}'])
async def test_text_with_a_nul_is_refused(body: str) -> None:
    with pytest.raises(ApiError, match="NUL") as info:
        await run(body)
    assert info.value.status == 422


def test_command_is_found_by_name_and_verb_only() -> None:
    assert commands.find("POST", "dome_everything") is not None
    assert commands.find("GET", "dome_everything") is None
    undeclared = commands.find("GET", "dome_nothing")
    assert undeclared is not None
    assert undeclared.admission is CLOSED
    assert commands.find("GET", "dome_no") is None
    assert "dome_nothing" in commands
    assert "dome_no" not in commands


def test_declaration_tells_what_the_reference_needs() -> None:
    command = commands.find("POST", "dome_everything")
    assert command is not None
    assert command.summary == "Says what it was given."
    assert command.admission is ANYBODY
    keys = [(each.key, each.is_demanded) for each in command.parameters]
    assert keys[0] == ("path", True)
    assert ("checksum-type", False) in keys


def test_two_commands_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="dome_everything"):
        Commands(commands, commands)


def test_argument_of_a_type_that_no_body_has_is_refused() -> None:
    async def strange(call: Call, when: float = 0.0) -> Answer:
        return Answer.EMPTY

    with pytest.raises(TypeError, match="when"):
        _ = Command("GET", "dome_strange", strange).parameters
