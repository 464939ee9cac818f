"""What nodes send: the shape of every answer and push.

The protocol's document is made of these, and tests hold every frame against them; frames themselves are
built as plain objects and pass through no model on their way to clients.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from chatserver.frames import PROTOCOL

Millis = Annotated[int, Field(description="milliseconds since the epoch")]
Epoch = Annotated[str, Field(description="opaque; with offset what since takes")]
Offset = Annotated[int, Field(ge=0, description="place on the room's channel; grows by one")]
FrameId = Annotated[int, Field(description="of the frame that is answered")]
Text = Annotated[str | None, Field(description="null: deleted since")]


class Sent(BaseModel):
    """What all of them share: fields may be added, and unknown ones are to be ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class User(Sent):
    """Somebody, as others see them."""

    user: str
    name: str


# pushes on a room's channel


class Message(Sent):
    """What a user said."""

    type: Literal["message"]
    room: str
    epoch: Epoch
    offset: Offset
    message_id: Annotated[
        str, Field(description="begins with the offset; one that does not is shown, and does not count")
    ]
    user: str
    name: str
    text: Text
    ts: Millis


class Deleted(Sent):
    """Messages and notices that are not to be shown any more."""

    type: Literal["deleted"]
    room: str
    epoch: Epoch
    offset: Offset
    message_ids: list[str]


class Notice(Sent):
    """What an operator posted, and history keeps."""

    type: Literal["notice"]
    room: str
    epoch: Epoch
    offset: Offset
    message_id: str
    level: str
    text: Text
    ts: Millis


class RoomChanged(Sent):
    """The room's settings from now on."""

    type: Literal["room"]
    room: str
    epoch: Epoch
    offset: Offset
    state: Literal["open", "frozen", "closed"]
    slow_mode_s: Annotated[int, Field(ge=0)]
    title: str


class Published(Sent):
    """What a plugin published, under a type of its own: known by its data."""

    type: str
    room: str
    epoch: Epoch
    offset: Offset
    data: Any
    ts: Millis


OnChannel = Message | Deleted | Notice | RoomChanged | Published


# other pushes


class Hello(Sent):
    """The first frame of a connection."""

    type: Literal["hello"]
    protocol: Literal["bridge.v1"]
    node: str
    heartbeat_ms: Annotated[int, Field(gt=0, description="a client that is silent for so long is asked for a pong")]
    server_time: Millis


class Flash(Sent):
    """A notice that is shown once and kept nowhere."""

    type: Literal["notice"]
    room: Annotated[str | None, Field(description="null: to everybody")]
    level: str
    text: str
    seconds: Annotated[int | None, Field(description="how long to show it; null = as the client likes")]


class PresenceChange(Sent):
    """Who came and went within a second; in large rooms without names."""

    type: Literal["presence"]
    room: str
    count: Annotated[int, Field(ge=0)]
    join: list[User]
    leave: list[User]


class Sanctioned(Sent):
    """The news of what was done to this user. What holds is in the answer to a join."""

    type: Literal["sanction"]
    kind: Literal["mute", "unmute", "ban", "unban", "kick", "warn"]
    room: Annotated[str | None, Field(description="null: everywhere")]
    until: Annotated[int | None, Field(description="milliseconds since the epoch; null = without end")]
    reason: str | None
    command_id: str | None
    text: Annotated[str | None, Field(description="of a warning")] = None


class ServerPing(Sent):
    """Asks for a sign of life; answer with a pong."""

    type: Literal["ping"]


class Reconnect(Sent):
    """Connect again after this; the connection is closed with 1012 next."""

    type: Literal["reconnect"]
    after_ms: Annotated[int, Field(ge=0)]
    reason: str


# answers


class Limits(Sent):
    """What this node allows."""

    frame_bytes: int
    text_chars: int
    rooms: int
    messages_per_s: float


class Ready(Sent):
    """Who one is, and where."""

    type: Literal["ready"]
    id: FrameId
    user: User
    session: str
    node: str
    limits: Limits


class Joined(Sent):
    """The room as it is at this offset."""

    type: Literal["joined"]
    id: FrameId
    room: str
    epoch: Epoch
    offset: Offset
    recovered: Annotated[bool, Field(description="messages are all that came after since")]
    messages: Annotated[list[OnChannel], Field(description="oldest first")]
    count: Annotated[int, Field(ge=0)]
    state: Literal["open", "frozen", "closed"]
    slow_mode_s: int
    title: str
    sanctions: Annotated[list[Sanctioned], Field(description="that hold against this user here")]


class Left(Sent):
    """The room is left."""

    type: Literal["ok"]
    id: FrameId


class Said(Sent):
    """The message was accepted, now or before under the same nonce."""

    type: Literal["ok"]
    id: FrameId
    message_id: str
    offset: Offset
    ts: Millis


class HistoryPage(Sent):
    """Messages and notices, oldest first."""

    type: Literal["history"]
    id: FrameId
    room: str
    messages: list[OnChannel]
    more: bool


class Present(Sent):
    """Who is there; of many, the first thousand."""

    type: Literal["presence"]
    id: FrameId
    room: str
    count: Annotated[int, Field(ge=0)]
    users: list[User]


class PongAnswer(Sent):
    """The answer to a client's ping."""

    type: Literal["pong"]
    id: FrameId


class Error(Sent):
    """The frame was not carried out."""

    type: Literal["error"]
    id: Annotated[int | None, Field(description="of the frame that is answered; null if it had none")]
    code: Literal[
        "bad_request", "unauthorized", "forbidden", "not_joined", "room_not_found", "room_closed", "room_frozen",
        "muted", "banned", "too_large", "rate_limited", "slow_mode", "unavailable", "internal",
    ]  # fmt: skip
    message: str
    temporary: Annotated[bool, Field(description="the same frame may be accepted later")]
    retry_after_ms: Annotated[int, Field(ge=0)] | None = None


# By what they answer: a client's type → what may come.
ANSWERS: Final[dict[str, type[Sent]]] = {
    "auth": Ready,
    "join": Joined,
    "leave": Left,
    "say": Said,
    "history": HistoryPage,
    "presence": Present,
    "ping": PongAnswer,
}
PUSHES: Final[tuple[type[Sent], ...]] = (
    Hello, Message, Deleted, Notice, RoomChanged, Published, Flash, PresenceChange, Sanctioned, ServerPing, Reconnect,
)  # fmt: skip
assert PROTOCOL == "bridge.v1"  # in Hello
