"""How a DOME command is declared: one function, its signature being the list of parameters.

    @commands.get("dome_readlink", on_path("lfn", needs=SEEING))
    async def readlink(call: Call, lfn: Text = "") -> Answer:
        \"\"\"The target of a symbolic link.\"\"\"

What follows the name says who may call it; without it the head and the administrators may.
The types below say how a value is read from the JSON body; they follow the conversions of boost's
property tree, which silently takes the default for what it cannot convert. A parameter without a
default is demanded. A key that is no Python name is given with `Key`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, get_args, get_type_hints

from dome_bridge.dome_api.admission import CLOSED, Admission
from dome_bridge.dome_api.wire import Answer, Parameters
from dome_bridge.errors import ApiError

if TYPE_CHECKING:
    from dome_bridge.dome_api.head import Call

Handler = Callable[..., Awaitable[Answer]]
H = TypeVar("H", bound=Handler)


class Codec(NamedTuple):
    """label: for the reference. read: from parameters, key and default. demand: without a default."""

    label: str
    read: Callable[[Parameters, str, Any], Any]
    demand: Callable[[Parameters, str], Any]


class Key(NamedTuple):
    """The name of a parameter in the JSON body."""

    name: str


def _refuse_nul(key: str, value: object) -> None:
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, str) and "\0" in text for text in texts):
        raise ApiError(422, f"the value of '{key}' holds a NUL character: leave it out")


Text = Annotated[
    str,
    Codec(
        "text",
        lambda parameters, key, default: parameters.text(key, default),
        lambda parameters, key: parameters.required_text(key),
    ),
]
Texts = Annotated[
    list[str],
    Codec(
        "list of texts",
        lambda parameters, key, default: parameters.texts(key),
        lambda parameters, key: parameters.texts(key),
    ),
]
Integer = Annotated[
    int,
    Codec(
        "whole number",
        lambda parameters, key, default: parameters.integer(key, default),
        lambda parameters, key: parameters.required_integer(key),
    ),
]
Unsigned = Annotated[
    int,
    Codec(
        "whole number, not negative",
        lambda parameters, key, default: parameters.unsigned(key, default),
        lambda parameters, key: parameters.required_unsigned(key),
    ),
]
Flag = Annotated[
    bool,
    Codec(
        "true, 1 or yes",
        lambda parameters, key, default: parameters.flag(key, default),
        lambda parameters, key: parameters.flag(key),
    ),
]
Character = Annotated[
    str,
    Codec(
        "one character",
        lambda parameters, key, default: parameters.character(key, default),
        lambda parameters, key: parameters.character(key, ""),
    ),
]


class Parameter(NamedTuple):
    """argument: of the function; key: in the JSON body. default: `Parameter.DEMANDED` without one."""

    argument: str
    key: str
    codec: Codec
    default: Any

    @property
    def is_demanded(self) -> bool:
        return self.default is inspect.Parameter.empty

    def value(self, parameters: Parameters) -> Any:
        if self.is_demanded:
            return self.codec.demand(parameters, self.key)
        return self.codec.read(parameters, self.key, self.default)


@dataclass(frozen=True)
class Command:
    """A command as it is declared. summary: the first line of its docstring."""

    method: str
    name: str
    handler: Handler
    admission: Admission = CLOSED

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Raises TypeError for an argument without one of the types of this module."""
        hints = get_type_hints(self.handler, include_extras=True, localns=_LATE_NAMES)
        _, *arguments = inspect.signature(self.handler).parameters.values()
        return tuple(_parameter(argument, hints[argument.name]) for argument in arguments)

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.handler) or "").split("\n", 1)[0]

    async def run(self, call: Call) -> Answer:
        values = {}
        for each in self.parameters:
            value = values[each.argument] = each.value(call.request.parameters)
            # What is only looked up is found nowhere; what is written must not hold one.
            if self.method == "POST":
                _refuse_nul(each.key, value)
        return await self.handler(call, **values)


# What annotations name that this module must not import: it would be a circle.
_LATE_NAMES: Mapping[str, Any] = {"Call": object}


def _parameter(argument: inspect.Parameter, hint: Any) -> Parameter:
    # `Text | None`: the codec is on the member that is not None
    extras = [extra for member in (hint, *get_args(hint)) for extra in getattr(member, "__metadata__", ())]
    codec = next((extra for extra in extras if isinstance(extra, Codec)), None)
    if codec is None:
        raise TypeError(f"argument {argument.name} has none of the types of {__name__}")
    key = next((extra.name for extra in extras if isinstance(extra, Key)), argument.name)
    return Parameter(argument.name, key, codec, argument.default)


class Commands:
    """The commands of one theme, or of all."""

    def __init__(self, *themes: Commands) -> None:
        self._by_name: dict[str, Command] = {}
        for theme in themes:
            for command in theme:
                self._add(command)

    def __iter__(self) -> Iterator[Command]:
        return iter(self._by_name.values())

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def find(self, method: str, name: str) -> Command | None:
        """The command of that name if it is called with the right verb."""
        command = self._by_name.get(name)
        return command if command and command.method == method else None

    def get(self, name: str, admission: Admission = CLOSED) -> Callable[[H], H]:
        """Declares a command that is called with GET, its parameters in the body all the same."""
        return self._declared("GET", name, admission)

    def post(self, name: str, admission: Admission = CLOSED) -> Callable[[H], H]:
        """Declares a command that is called with POST."""
        return self._declared("POST", name, admission)

    def _declared(self, method: str, name: str, admission: Admission) -> Callable[[H], H]:
        def declare(handler: H) -> H:
            self._add(Command(method, name, handler, admission))
            return handler

        return declare

    def _add(self, command: Command) -> None:
        if command.name in self._by_name:
            raise ValueError(f"two commands are named {command.name}")
        self._by_name[command.name] = command
