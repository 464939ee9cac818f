"""Forms made from the JSON schema of a command's payload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

_LONG = 100  # characters; beyond it a text has several lines


@dataclass(frozen=True, slots=True)
class Input:
    """One input; ``name`` points into the body."""

    name: str
    label: str
    kind: str  # text long number check list json, as the scripts read them
    help: str = ""
    required: bool = False
    value: str = ""
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None


def inputs(model: type[BaseModel], values: Mapping[str, str]) -> list[Input]:
    """An input a field of the payload; ``values`` fill them in."""
    schema = model.model_json_schema()
    required, definitions = schema.get("required", ()), schema.get("$defs", {})
    found = [
        _input(name, _resolved(part, definitions), name in required, values.get(name))
        for name, part in schema.get("properties", {}).items()
    ]
    return sorted(found, key=lambda each: not each.required)


def _resolved(part: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of the value itself, without null and references."""
    whole = dict(part)
    if "$ref" in whole:
        whole |= _resolved(definitions[whole.pop("$ref").rpartition("/")[2]], definitions)
    others = [each for each in whole.pop("anyOf", ()) if each.get("type") != "null"]
    if len(others) == 1:
        whole = _resolved(others[0], definitions) | whole
    elif others and all(each.get("type") in ("string", "integer") for each in others):
        whole["type"] = "string"
    return whole


def _input(name: str, part: Mapping[str, Any], required: bool, value: str | None) -> Input:
    kind, choices = _kind(part)
    default = part.get("default")
    shown = value if value is not None else "" if default is None else str(default)
    number = kind == "number"
    return Input(
        name=f"/payload/{name}",
        label=name.replace("_", " "),
        kind=kind,
        help=str(part.get("description", "")),
        required=required,
        value=shown,
        choices=tuple(map(str, choices)),
        least=part.get("minimum") if number else part.get("minLength"),
        most=part.get("maximum") if number else part.get("maxLength"),
    )


def _kind(part: Mapping[str, Any]) -> tuple[str, list[Any]]:
    match part:
        case {"enum": choices} if all(isinstance(choice, str) for choice in choices):
            return "text", choices
        case {"type": "string", "maxLength": most} if most > _LONG:
            return "long", []
        case {"type": "string"}:
            return "text", []
        case {"type": "integer" | "number"}:
            return "number", []
        case {"type": "boolean"}:
            return "check", []
        case {"type": "array", "items": {"type": "string"}}:
            return "list", []
        case _:
            return "json", []
