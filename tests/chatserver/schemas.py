"""Every frame that tests send and receive, held against the protocol's document."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from chatserver.asyncapi import document

Frame = dict[str, Any]
_REQUEST: Final = "Request"


class Undocumented(AssertionError):
    """A frame that the document does not describe."""


def check_received(frame: Frame) -> None:
    """What a node sent: as an answer or a push of its type, and with no field that is not told."""
    _check(_sent_as(frame), frame)


def check_sent(frame: Frame) -> None:
    """A client's frame that a node took."""
    _check(f"{frame['type']}{_REQUEST}", frame)


def _sent_as(frame: Frame) -> str:
    type_ = frame.get("type")
    if "data" in frame:
        return "published"
    if "id" in frame:
        kinds = {"ready": "ready", "joined": "joined", "history": "historyPage", "presence": "present",
                 "pong": "pongAnswer", "error": "error", "ok": "said" if "message_id" in frame else "left"}  # fmt: skip
    else:
        kinds = {"hello": "hello", "message": "message", "deleted": "deleted", "room": "roomChanged",
                 "notice": "notice" if "offset" in frame else "flash", "presence": "presenceChange",
                 "sanction": "sanctioned", "ping": "serverPing", "reconnect": "reconnect"}  # fmt: skip
    if type_ not in kinds:
        raise Undocumented(f"no such frame is told of: {frame}")
    return kinds[type_]


def _check(message: str, frame: Frame) -> None:
    validator = _validators()[message]
    if not validator.is_valid(frame):
        fault = best_match(validator.iter_errors(frame))
        raise Undocumented(f"{message}: {fault.json_path}: {fault.message}: {frame}")


@cache
def _validators() -> dict[str, Draft202012Validator]:
    told = closed(document())
    registry = Registry().with_resource("urn:protocol", Resource(told, DRAFT202012))
    return {
        name: Draft202012Validator(
            {"$ref": f"urn:protocol{told['components']['messages'][name]['payload']['$ref']}"}, registry=registry
        )
        for name in told["components"]["messages"]
    }


def closed(told: dict[str, Any]) -> dict[str, Any]:
    """The document, with no room for fields that it does not tell of in what nodes send."""
    told = copy.deepcopy(told)
    messages, schemas = told["components"]["messages"], told["components"]["schemas"]
    theirs = {m["payload"]["$ref"].rsplit("/", 1)[1] for name, m in messages.items() if name.endswith(_REQUEST)}
    for name, schema in schemas.items():
        if name not in theirs | {"Since", "ClientInfo"}:
            schema["additionalProperties"] = False
    return told
