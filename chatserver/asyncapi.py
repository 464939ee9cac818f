"""The protocol's document (AsyncAPI 3.0), from the models that validate clients' frames and those of what nodes send.

``python -m chatserver.asyncapi FILE`` writes it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from chatserver import frames
from chatserver.sent_frames import ANSWERS, PUSHES, Error

REF: Final = "#/components/schemas/"
DESCRIPTION: Final = """\
Chat over websockets: one JSON object per text frame, subprotocol `bridge.v1`. A client's frames carry an integer `id`
that the answer echoes; pushes have none. The first frame is `auth`. Unknown fields are ignored on both sides.

What is on a room's channel has an `offset` that grows by one: keep the last one and the `epoch` beside it (in `joined`
and in each push, as it changes with restarts of the server), and give them as `since` when joining again."""
CLOSE_CODES: Final = {
    1001: "the node goes away: connect again",
    1009: "a frame over 16 KiB",
    frames.Close.RESTART: "the node restarts or drains: connect again",
    frames.Close.TRY_LATER: "try again later",
    frames.Close.SLOW_READER: "the client does not read",
    frames.Close.NO_PONG: "no sign of life",
    frames.Close.TOKEN_EXPIRED: "the token has expired",
    frames.Close.STATE_LOST: "the room's history was lost: join afresh",
    frames.Close.TOO_MANY_FRAMES: "too many frames",
    frames.Close.NOT_A_FRAME: "not JSON, not an object, or binary",
    frames.Close.BAD_TOKEN: "bad token",
    frames.Close.NOT_AUTHENTICATED: "something came before auth, or no auth in time",
    frames.Close.KICKED: "kicked",
    frames.Close.BANNED: "banned",
    frames.Close.REPLACED: "replaced by a newer session",
    frames.Close.VERSION: "bridge.v1 was not offered",
}

Json = dict[str, Any]
Models = dict[str, type[BaseModel]]


def document() -> Json:
    """The whole of it, as JSON has it."""
    requests: Models = {f"{type_}Request": model for type_, model in frames.CLIENT_FRAMES.items()}
    answers: Models = {"error": Error, **{_camel(model): model for model in ANSWERS.values()}}
    pushes: Models = {_camel(model): model for model in PUSHES}
    messages = requests | answers | pushes
    schemas, names = _schemas(messages.values())
    for type_, model in frames.CLIENT_FRAMES.items():  # which model it is, the type alone says
        schema = schemas[names[model]]
        schema["properties"] = {"type": {"const": type_, "type": "string"}} | schema["properties"]
        schema["required"] = ["type", *schema.get("required", ())]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Chat node",
            "version": "1.0.0",
            "description": DESCRIPTION,
            "license": {"name": "MIT"},
            "x-close-codes": {str(code): text for code, text in sorted(CLOSE_CODES.items())},
        },
        "defaultContentType": "application/json",
        "servers": {
            "node": {"host": "chat.example", "protocol": "wss", "description": "any node; all of them are alike"},
        },
        "channels": {"socket": _channel(messages)},
        "operations": _operations(answers, pushes),
        "components": {
            "messages": {name: _message(name, model, names[model]) for name, model in messages.items()},
            "schemas": schemas,
        },
    }


def _schemas(models: Iterable[type[BaseModel]]) -> tuple[Json, Mapping[type[BaseModel], str]]:
    """Schemas by name, and each model's name among them."""
    listed = list(dict.fromkeys(models))
    by_model, together = models_json_schema([(m, "validation") for m in listed], ref_template=REF + "{model}")
    names = {model: by_model[model, "validation"]["$ref"].removeprefix(REF) for model in listed}
    return together["$defs"], names


def _channel(messages: Iterable[str]) -> Json:
    offered = {"Sec-WebSocket-Protocol": {"const": frames.PROTOCOL, "type": "string"}}
    return {
        "address": "/ws",
        "description": "One websocket; in as many rooms as `ready` allows.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"ws": {"method": "GET", "headers": {"type": "object", "properties": offered}}},
    }


def _operations(answers: Mapping[str, type[BaseModel]], pushes: Iterable[str]) -> Json:
    names = {model: name for name, model in answers.items()}
    channel = {"$ref": "#/channels/socket"}

    def on(*messages: str) -> list[Json]:
        return [{"$ref": f"#/channels/socket/messages/{name}"} for name in messages]

    operations: Json = {
        type_: {
            "action": "receive",
            "channel": channel,
            "summary": _first_line(frames.CLIENT_FRAMES[type_]),
            "messages": on(f"{type_}Request"),
            "reply": {"channel": channel, "messages": on(names[answer], "error")},
        }
        for type_, answer in ANSWERS.items()
    }
    pong = {"action": "receive", "channel": channel, "summary": "The answer to a node's ping.",
            "messages": on("pongRequest")}  # fmt: skip
    told = {"action": "send", "channel": channel, "summary": "What a node says by itself.", "messages": on(*pushes)}
    return operations | {"pong": pong, "pushes": told}


def _message(name: str, model: type[BaseModel], schema: str) -> Json:
    return {"name": name, "summary": _first_line(model), "payload": {"$ref": REF + schema}}


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]


def _camel(model: type[BaseModel]) -> str:
    return model.__name__[0].lower() + model.__name__[1:]


def main() -> None:
    """Write the document to the file that is named."""
    Path(sys.argv[1]).write_text(json.dumps(document(), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
