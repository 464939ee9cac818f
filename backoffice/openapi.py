"""The API's document (OpenAPI 3.1), from the routes and the very models that validate, plugins' commands included."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

from aiohttp import web
from apispec import APISpec
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from backoffice.access import PLAIN_COOKIE
from backoffice.api.broadcasts import BroadcastIn
from backoffice.api.commands import BatchedCommandIn
from backoffice.api.issuing import CommandIn
from backoffice.intake import NoQuery
from backoffice.operators import Role, role_to_issue
from backoffice.problems import CODES, CONTENT_TYPE, ProblemDocument
from backoffice.routes import PREFIX, Call, ListOf, Route, TextIn, TextOf, reply
from bridge.chat.events import BROADCASTS
from bridge.registry import CommandType, Registry

REF = "#/components/schemas/"
DESCRIPTION = """\
Operators' side of the chat: issue commands and see what becomes of them, send broadcasts, look at nodes, shards,
dead letters, rooms, users and sanctions.

Times are RFC 3339 in UTC. Integers have 64 bits and are written without a fraction: 60, not 60.0 or 6e1.
Of a key that a JSON object has twice, the last one counts. A 429 or 503 answer to a command
has `idempotency_key` beside the problem's own members: repeat the command with it."""

_SEARCHED = {  # how far a search went
    "searched_until": {"type": "string", "format": "date-time"},
    "complete": {"type": "boolean"},
    "rebuilt": {"type": "number", "minimum": 0, "maximum": 1},
}
Schemas = dict[str, Any]


def route(described: tuple[Route, ...], registry: Registry) -> Route:
    """The route of the document itself."""

    @cache
    def document() -> dict[str, Any]:
        return build((*described, this), registry)

    async def openapi(_call: Call[NoQuery, None]) -> web.Response:
        """This document."""
        return reply(document())

    this = Route("GET", "/openapi.json", openapi, Role.VIEWER, {200: dict[str, Any]})
    return this


def build(described: Iterable[Route], registry: Registry) -> dict[str, Any]:
    """The document for these routes and all command types that are registered by now."""
    routes = tuple(described)
    spec = APISpec(
        title="Chat back office",
        version=version("chat-backoffice-bridge"),
        openapi_version="3.1.0",
        info={"description": DESCRIPTION},
        servers=[{"url": PREFIX}],
        security=[{"bearer": []}, {"session": []}],
    )
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    spec.components.security_scheme("session", {"type": "apiKey", "in": "cookie", "name": PLAIN_COOKIE})
    refs = _Schemas(routes, registry)
    for name, schema in refs.components.items():
        spec.components.schema(name, schema)
    for path in dict.fromkeys(route.path for route in routes):
        here = [route for route in routes if route.path == path]
        spec.path(path, operations={route.method.lower(): _operation(route, refs) for route in here})
    document: dict[str, Any] = spec.to_dict()
    return document


class _Schemas:
    """Every model's schema: inline or as a reference by model, and the definitions that go into the components."""

    def __init__(self, routes: tuple[Route, ...], registry: Registry) -> None:
        models: list[tuple[Any, JsonSchemaMode]] = [(ProblemDocument, "serialization")]
        for route in routes:
            answers = (answer.item if isinstance(answer, ListOf) else answer for answer in route.answers.values())
            models += [(answer, "serialization") for answer in answers if not isinstance(answer, TextOf)]
            models += [(route.body, "validation")] if route.body is not None else []
        models += [(known.model, "validation") for known in registry.types()]
        models += [(model, "validation") for model in (BatchedCommandIn, *BROADCASTS.values())]
        inputs = [(model, mode, TypeAdapter(model)) for model, mode in dict.fromkeys(models)]
        found, definitions = TypeAdapter.json_schemas(inputs, ref_template=REF + "{model}")
        self._found: Mapping[tuple[Any, JsonSchemaMode], Schemas] = found
        self.components: Schemas = dict(definitions.get("$defs", {}))
        self._add_commands(registry)
        self._add_broadcasts()

    def of(self, model: Any, mode: JsonSchemaMode = "serialization") -> Schemas:
        return self._found[model, mode]

    def answer(self, answer: Any) -> Schemas:
        if not isinstance(answer, ListOf):
            return self.of(answer)
        return {
            "type": "object",
            "required": ["items", "next_cursor", *answer.more],
            "properties": {
                **{name: _SEARCHED[name] for name in answer.more},
                "items": {"type": "array", "items": self.of(answer.item)},
                "next_cursor": {"type": ["string", "null"]},
            },
        }

    def body(self, model: Any) -> Schemas:
        special = {CommandIn: self.any_command, BroadcastIn: self.any_broadcast}
        return special[model] if model in special else self.of(model, "validation")

    def _add_commands(self, registry: Registry) -> None:
        """One schema for each command type, and ``any_command``, told apart by ``type``."""
        general = self.components.pop(CommandIn.__name__)
        names = {known.name: f"Command.{known.name}" for known in registry.types()}
        for known in registry.types():
            self.components[names[known.name]] = self._command(general, known)
        self.any_command = _by_type(names)

    def _add_broadcasts(self) -> None:
        general = self.components.pop(BroadcastIn.__name__)
        names = {type_: f"Broadcast.{type_}" for type_ in BROADCASTS}
        for type_, model in BROADCASTS.items():
            own = {"type": {"const": type_}, "payload": self.of(model, "validation")}
            self.components[names[type_]] = {**general, "title": type_, "properties": {**general["properties"], **own}}
        self.any_broadcast = _by_type(names)

    def _command(self, general: Schemas, known: CommandType) -> Schemas:
        own = {
            "type": {"const": known.name},
            "subject": {"type": "string", "pattern": f"^{known.subject}:[A-Za-z0-9._@+-]{{1,64}}$"},
            "payload": self.of(known.model, "validation"),
        }
        described = (known.model.__doc__ or "").strip()
        return {
            **general,
            "title": known.name,
            "description": f"{described}\n\nTakes the role {role_to_issue(known)}.".strip(),
            "properties": {**general["properties"], **own},
        }


def _by_type(names: Mapping[str, str]) -> Schemas:
    """One of several schemas, told apart by ``type``."""
    return {
        "oneOf": [{"$ref": REF + name} for name in names.values()],
        "discriminator": {"propertyName": "type", "mapping": {type_: REF + name for type_, name in names.items()}},
    }


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    summary, _, more = (route.handler.__doc__ or "").strip().partition("\n")
    operation: dict[str, Any] = {
        "operationId": f"{route.handler.__module__.rpartition('.')[2]}.{route.handler.__name__}",
        "summary": summary.rstrip("."),
        "description": f"{' '.join(more.split())} {_who(route)}".strip(),
        **({"security": []} if route.role is None else {}),
        "parameters": _parameters(route),
        "responses": {
            **{str(status): _response(status, answer, schemas) for status, answer in route.answers.items()},
            **_problems(route, schemas.of(ProblemDocument)),
        },
    }
    if route.body is not None:
        content = {"application/json": {"schema": schemas.body(route.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _who(route: Route) -> str:
    return "For everybody." if route.role is None else f"Takes the role {route.role}."


def _parameters(route: Route) -> list[dict[str, Any]]:
    path = [_text(name, "path", route.parts.get(name, TextIn(""))) for name in re.findall(r"{(\w+)}", route.path)]
    schema = route.query.model_json_schema()
    query = [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": _text_of(parameter)}
        for name, parameter in schema.get("properties", {}).items()
    ]
    return path + query + [_text(name, "header", text) for name, text in route.headers.items()]


def _text_of(schema: Schemas) -> Schemas:
    """A parameter's schema, with what no text of a query may hold."""
    if schema.keys() & {"pattern", "format", "enum", "const"}:
        return schema
    if "anyOf" in schema:
        return {**schema, "anyOf": [_text_of(each) for each in schema["anyOf"]]}
    return {**schema, "pattern": r"^[^\x00]*$"} if schema.get("type") == "string" else schema


def _text(name: str, place: str, text: TextIn) -> dict[str, Any]:
    schema = {"type": "string"} if text.pattern is None else {"type": "string", "pattern": text.pattern}
    described = {"description": text.description} if text.description else {}
    return {"name": name, "in": place, "required": place == "path", **described, "schema": schema}


def _response(status: int, answer: Any, schemas: _Schemas) -> dict[str, Any]:
    described = {200: "Done", 201: "Made", 202: "Accepted", 207: "Each with its own status"}
    if isinstance(answer, TextOf):
        content: dict[str, Any] = {type_.partition(";")[0]: {"schema": answer.schema} for type_ in answer.types}
    else:
        content = {"application/json": {"schema": schemas.answer(answer)}}
    return {"description": described[status], "content": content}


def _problems(route: Route, document: Schemas) -> dict[str, Any]:
    """The answers that are problem documents, by status."""
    codes = ["malformed", "unauthorized", "forbidden", "unsupported_media_type", "invalid", "unavailable"]
    codes += [*route.problems, "timeout", "too_large"]
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(CODES[code][0], []).append(f"`{code}`")
    return {
        str(status): {"description": ", ".join(names), "content": {CONTENT_TYPE: {"schema": document}}}
        for status, names in sorted(by_status.items())
    }
