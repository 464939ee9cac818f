"""Command types, their models and handlers: ``@command``, ``@handles`` and plugins."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from bridge.envelope import TYPE, Command
from bridge.errors import InvalidPayload, Misconfigured, UnknownType
from bridge.keys import RESERVED

M = TypeVar("M", bound=BaseModel)
Handler = Callable[[Command[Any]], Awaitable[Any]]  # Effects or None; anything else is a failure
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_NO_OBJECT = ("dict_type", "model_type", "model_attributes_type", "dataclass_type")  # pydantic's codes


@dataclass(frozen=True, slots=True)
class CommandType:
    """One type of command: its name, the kind of subject it is for, and its payload's model."""

    name: str
    subject: str  # kind: room, user, …
    model: type[BaseModel]
    adapter: TypeAdapter[Any]
    plugin: bool  # not of the chat vocabulary; issuing it takes the role operator

    def validate(self, payload: bytes) -> Any:
        """The payload as its model; unknown fields are refused. Raises InvalidPayload."""
        try:
            return self.adapter.validator.validate_json(payload)
        except ValidationError as error:
            raise InvalidPayload(self.name, faults(error)) from None


class Registry:
    """What a process knows. Decorators fill the ``default`` one; tests make their own."""

    def __init__(self) -> None:
        self._types: dict[str, CommandType] = {}
        self._by_model: dict[type[BaseModel], CommandType] = {}
        self._handlers: dict[str, Handler] = {}
        self._reserved: list[tuple[str, frozenset[str]]] = []

    def reserve(self, channel: str, publications: Iterable[str]) -> None:
        """Keep these names of publications, on channels that begin so, from the handlers of plugins."""
        self._reserved.append((channel, frozenset(publications)))

    def is_reserved(self, channel: str, publication: str) -> bool:
        return any(channel.startswith(prefix) and publication in names for prefix, names in self._reserved)

    def command(self, name: str, *, subject: str, plugin: bool = True) -> Callable[[type[M]], type[M]]:
        """Register a pydantic model as the payload of command type ``name`` for subjects ``subject:…``."""

        def register(model: type[M]) -> type[M]:
            self._check(name, subject)
            if model.model_config.get("extra") is None:
                model.model_config["extra"] = "forbid"
                model.model_rebuild(force=True)
            known = CommandType(name, subject, model, TypeAdapter(model), plugin)
            self._types[name] = self._by_model[model] = known
            return model

        return register

    def handles(self, model: type[BaseModel]) -> Callable[[Handler], Handler]:
        """Register the one handler of a command type. A second one is refused."""

        def register(handler: Handler) -> Handler:
            known = self._by_model.get(model)
            if known is None:
                raise Misconfigured(f"{model.__name__} is no command: put @command(…) above it")
            if not inspect.iscoroutinefunction(handler):
                raise Misconfigured(f"the handler of {known.name} must be an async function")
            if known.name in self._handlers:
                raise Misconfigured(f"{known.name} has a handler already: {self._handlers[known.name]!r}")
            self._handlers[known.name] = handler
            return handler

        return register

    def get(self, name: str) -> CommandType:
        """Raises UnknownType."""
        try:
            return self._types[name]
        except KeyError:
            raise UnknownType(name) from None

    def handler(self, name: str) -> Handler | None:
        return self._handlers.get(name)

    def types(self) -> list[CommandType]:
        return sorted(self._types.values(), key=lambda t: t.name)

    def handled(self) -> list[str]:
        """Names of the types that have a handler here, sorted."""
        return sorted(self._handlers)

    def _check(self, name: str, subject: str) -> None:
        if not TYPE.fullmatch(name):
            raise Misconfigured(f"command type {name!r}: write lower-case words with dots, such as item.grant")
        if not _KIND.fullmatch(subject) or subject in RESERVED:
            raise Misconfigured(f"subject kind {subject!r} of {name}: [a-z][a-z0-9_]*, and none of {sorted(RESERVED)}")
        if name in self._types:
            raise Misconfigured(f"command type {name} is registered twice, by {self._types[name].model!r}")


def faults(error: ValidationError, prefix: str = "") -> list[tuple[str, str, str]]:
    """Every fault of a validation as (JSON pointer, code, message), in words that do not speak of Python."""
    return [
        (prefix + "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in fault["loc"]),
         fault["type"], message_of(fault["type"], fault["msg"]))
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]  # fmt: skip


def message_of(code: str, message: str) -> str:
    """What pydantic says of a fault, without the name of a Python type."""
    if code in _NO_OBJECT:
        return "Input should be an object"
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")


def load_plugins(modules: Iterable[str]) -> None:
    """Import the modules that BRIDGE_PLUGINS names. Raises Misconfigured with the module and the cause."""
    for module in modules:
        try:
            importlib.import_module(module)
        except Misconfigured:
            raise
        except Exception as error:
            raise Misconfigured(f"BRIDGE_PLUGINS names {module!r}, which does not import: {error!r}") from error


default = Registry()
command = default.command
handles = default.handles
