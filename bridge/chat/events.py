"""What travels on channels: broadcasts that operators send, and the shapes of room and control publications.

Room channels (``room:<id>``) carry ``message``, ``deleted``, ``notice`` and ``room``; their offsets are what
clients count. The control channel of each shard carries ``sanction``, ``replaced``, ``shadow`` (a message that
its speaker alone sees) and the broadcasts below. Plugins may publish there, too, under other names.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from bridge.channels import CONTROL
from bridge.chat.commands import Level, Payload, Seconds, Text
from bridge.errors import InvalidPayload, UnknownType
from bridge.registry import default, faults

SanctionKind = Literal["mute", "unmute", "ban", "unban", "kick", "warn"]


class NoticeFlash(Payload):
    """Shown once to whoever is there, and kept nowhere."""

    text: Text
    level: Level = "info"
    seconds: Seconds | None = Field(None, description="how long clients show it; null or absent = they decide")


class ConfigReload(Payload):
    """Nodes read their word list and limits again."""


class CacheDrop(Payload):
    """Nodes look at once whether everybody may still be in their rooms, or connected."""

    what: Literal["rooms", "users"]


BROADCASTS: Final[dict[str, type[BaseModel]]] = {
    "notice.flash": NoticeFlash,
    "config.reload": ConfigReload,
    "cache.drop": CacheDrop,
}
# As well as what a node tells a client by itself, on the same socket, and a client its application.
default.reserve("room:", ("message", "deleted", "notice", "room", "hello", "ping", "pong", "presence", "reconnect",
                          "sanction", "left", "connected", "reconnecting", "resumed", "lagged"))  # fmt: skip
default.reserve(CONTROL, ("sanction", "replaced", "shadow", *BROADCASTS))
_ADAPTERS: Final = {name: TypeAdapter[Any](model) for name, model in BROADCASTS.items()}


def check_broadcast(type_: str, payload: bytes) -> dict[str, Any]:
    """The payload with its defaults filled in. Raises UnknownType or InvalidPayload."""
    adapter = _ADAPTERS.get(type_)
    if adapter is None:
        raise UnknownType(type_)
    try:
        model: BaseModel = adapter.validate_json(payload)
    except ValidationError as error:
        raise InvalidPayload(type_, faults(error)) from None
    return model.model_dump()


def sanction_event(
    kind: SanctionKind,
    *,
    user: str,
    room: str | None,
    command_id: str,
    until: int | None = None,
    reason: str | None = None,
    by: str | None = None,
    text: str | None = None,
    shadow: bool = False,
) -> dict[str, Any]:
    """Data of a control publication ``sanction``; ``until`` in ms since the epoch, None = without end."""
    event: dict[str, Any] = {
        "kind": kind,
        "user": user,
        "room": room,
        "until": until,
        "reason": reason,
        "by": by,
        "command_id": command_id,
    }
    if text is not None:
        event["text"] = text
    if shadow:
        event["shadow"] = True
    return event


def message_id(epoch: str, offset: int) -> str:
    """The public id of a message or kept notice; its offset can be read off it."""
    return f"{offset}-{epoch[:8]}"
