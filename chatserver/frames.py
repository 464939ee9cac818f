"""The frames of protocol bridge.v1: what clients send, decoded and checked; what they are sent, encoded once.

Nothing here knows of sockets or Redis.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Annotated, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bridge.chat.commands import Id
from bridge.chat.publications import Deleted, Message, Notice, RoomChanged, content_of
from bridge.chat.state import Sanction
from bridge.envelope import Publication
from bridge.registry import faults

PROTOCOL: Final = "bridge.v1"
MAX_FRAME_BYTES: Final = 16 * 1024  # of one client message; more is closed with 1009 by the websocket layer
MAX_NONCE_CHARS: Final = 64
MAX_PAGE: Final = 100

TEMPORARY: Final = frozenset({"rate_limited", "slow_mode", "unavailable", "internal"})


class Close:
    """Close codes of our own. Below 4500 clients reconnect and resume, from 4500 on they do not."""

    RESTART: Final = 1012
    TRY_LATER: Final = 1013
    SLOW_READER: Final = 4001
    NO_PONG: Final = 4002
    TOKEN_EXPIRED: Final = 4003
    STATE_LOST: Final = 4004
    TOO_MANY_FRAMES: Final = 4005
    NOT_A_FRAME: Final = 4500
    BAD_TOKEN: Final = 4501
    NOT_AUTHENTICATED: Final = 4502
    KICKED: Final = 4503
    BANNED: Final = 4504
    REPLACED: Final = 4505
    VERSION: Final = 4506


class NotAFrame(Exception):
    """Not JSON, or not an object: the connection is closed with 4500."""


class Refused(Exception):
    """A client's frame is answered with an error of this code; the connection stays."""

    def __init__(self, code: str, message: str, *, id: int | None = None, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.code, self.id, self.retry_after_ms = code, id, retry_after_ms


class ClientFrame(BaseModel):
    """What all client frames share. Fields that a type does not have are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    id: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]


class ClientInfo(BaseModel):
    """What program the client is; for logs."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    name: Annotated[str, Field(max_length=64)] | None = None
    version: Annotated[str, Field(max_length=64)] | None = None


class Auth(ClientFrame):
    token: Annotated[str, Field(min_length=1, max_length=MAX_FRAME_BYTES)]
    client: ClientInfo | None = None


class Since(BaseModel):
    """The place on a room's channel up to which the client has everything."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    epoch: Annotated[str, Field(max_length=64)]
    offset: Annotated[int, Field(ge=0, lt=1 << 53)]


class Join(ClientFrame):
    room: Id
    since: Since | None = None


class Leave(ClientFrame):
    room: Id


class Say(ClientFrame):
    room: Id
    text: Annotated[str, Field(min_length=1)]
    nonce: Annotated[str, Field(min_length=1, max_length=MAX_NONCE_CHARS)] | None = None


class History(ClientFrame):
    room: Id
    before: Annotated[int, Field(ge=0, lt=1 << 53)] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 50


class Presence(ClientFrame):
    room: Id


class Ping(ClientFrame):
    pass


class Pong(BaseModel):
    """The answer to our ping, which has no id; it needs none either."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: Any = None


CLIENT_FRAMES: Final[dict[str, type[BaseModel]]] = {
    "auth": Auth,
    "join": Join,
    "leave": Leave,
    "say": Say,
    "history": History,
    "presence": Presence,
    "ping": Ping,
    "pong": Pong,
}
AnyFrame = Auth | Join | Leave | Say | History | Presence | Ping | Pong


def decode_object(message: bytes) -> dict[str, Any]:
    """The JSON object of one text message. Raises NotAFrame."""
    try:
        value = orjson.loads(message)
    except orjson.JSONDecodeError as error:
        value = _decode_slowly(message, error)
    if not isinstance(value, dict):
        raise NotAFrame("not a JSON object")
    return value


def _decode_slowly(message: bytes, error: orjson.JSONDecodeError) -> Any:
    """What a script writes when it cuts a text inside an emoji is JSON, too: then the field is bad, not the frame."""

    def refuse(constant: str) -> Any:
        raise NotAFrame(f"not JSON: {constant}")

    try:
        return json.loads(message.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise NotAFrame(f"not JSON: {error}") from None


def id_of(value: Mapping[str, Any]) -> int | None:
    """The id that an answer echoes; None if there is none that could be."""
    id = value.get("id")
    return id if type(id) is int and -(1 << 63) <= id < 1 << 63 else None


def decode_frame(value: Mapping[str, Any]) -> AnyFrame:
    """One client frame. Raises Refused ``bad_request`` with every fault."""
    type_, known_id = value.get("type"), id_of(value)
    model = CLIENT_FRAMES.get(type_) if isinstance(type_, str) else None
    if model is None:
        raise Refused("bad_request", f"unknown type; known are {', '.join(CLIENT_FRAMES)}", id=known_id)
    try:
        frame: Any = model.model_validate(value)
    except ValidationError as error:
        listed = "; ".join(f"{path or '/'}: {message}" for path, _, message in faults(error)[:5])
        raise Refused("bad_request", listed, id=known_id) from None
    return frame  # type: ignore[no-any-return]


# Server → client. Every function gives the bytes of one websocket text frame, ready for a transport.


def encode(frame: Mapping[str, Any]) -> bytes:
    """A whole websocket text frame (RFC 6455, 5.2): final, unmasked, with its header."""
    body = orjson.dumps(frame)
    size = len(body)
    if size < 126:
        return struct.pack("!BB", 0x81, size) + body
    if size < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, size) + body
    return struct.pack("!BBQ", 0x81, 127, size) + body


def hello(node: str, heartbeat_ms: int, server_time: int) -> bytes:
    return encode({
        "type": "hello",
        "protocol": PROTOCOL,
        "node": node,
        "heartbeat_ms": heartbeat_ms,
        "server_time": server_time,
    })  # fmt: skip


def error(refused: Refused) -> bytes:
    frame = {
        "type": "error",
        "id": refused.id,
        "code": refused.code,
        "message": str(refused),
        "temporary": refused.code in TEMPORARY,
    }
    if refused.retry_after_ms is not None:
        frame["retry_after_ms"] = refused.retry_after_ms
    return encode(frame)


def push_of(room: str, publication: Publication, deleted: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What members see of a publication on their room's channel; one that is a plugin's as it is, under ``data``.

    ``deleted`` hides the text of messages deleted since; the push stays, because offsets are consecutive.
    """
    push: dict[str, Any] = {
        "type": publication.type, "room": room, "epoch": publication.epoch, "offset": publication.offset,
    }  # fmt: skip
    match content_of(publication):
        case Message(id, user, name, text):
            shown = None if deleted and id in deleted else text
            push |= {"message_id": id, "user": user, "name": name, "text": shown, "ts": publication.at}
        case Notice(id, level, text):
            shown = None if deleted and id in deleted else text
            push |= {"message_id": id, "level": level, "text": shown, "ts": publication.at}
        case Deleted(message_ids):
            push["message_ids"] = message_ids
        case RoomChanged(state, slow_mode_s, title):
            push |= {"state": state, "slow_mode_s": slow_mode_s, "title": title}
        case None:
            push |= {"data": publication.data, "ts": publication.at}
    return push


def sanction_push(event: Mapping[str, Any]) -> bytes:
    """What a user sees of a control event ``sanction``."""
    push = {"type": "sanction"} | {name: event[name] for name in ("kind", "room", "until", "reason", "command_id")}
    if event.get("text") is not None:
        push["text"] = event["text"]
        push["reason"] = push["reason"] or event["text"]
    return encode(push)


def sanction_shown(sanction: Sanction) -> dict[str, Any]:
    """A sanction that holds, in the answer to a join."""
    return {
        "type": "sanction",
        "kind": sanction.kind,
        "room": sanction.room,
        "until": sanction.until,
        "reason": sanction.reason,
        "command_id": sanction.command_id,
    }


def flash(event: Mapping[str, Any]) -> bytes:
    return encode({
        "type": "notice",
        "room": event.get("room"),
        "level": event["level"],
        "text": event["text"],
        "seconds": event.get("seconds"),
    })  # fmt: skip


def presence_push(room: str, count: int, join: list[dict[str, str]], leave: list[dict[str, str]]) -> bytes:
    return encode({"type": "presence", "room": room, "count": count, "join": join, "leave": leave})


def reconnect(after_ms: int, reason: str) -> bytes:
    return encode({"type": "reconnect", "after_ms": after_ms, "reason": reason})


PING: Final = encode({"type": "ping"})
