"""What a chat client is told: answers and events as values, decoded once from the frames of ``bridge.v1``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.envelope import Position
from bridge.errors import BridgeError


class ChatError(BridgeError):
    """The node refused a frame, or nobody answered in time (code ``timeout``: the outcome is unknown).

    ``temporary`` ones may be tried again, after ``retry_after_ms`` if there is one.
    """

    def __init__(self, code: str, message: str, *, temporary: bool, retry_after_ms: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.temporary, self.retry_after_ms = code, message, temporary, retry_after_ms


class Closed(BridgeError):
    """The server ended the session for good (close codes 4500–4999); a client does not come back by itself."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code}: {reason}")
        self.code, self.reason = code, reason


@dataclass(frozen=True, slots=True)
class User:
    """Somebody, as others see them."""

    user: str
    name: str


# on a room's channel, each with the offset that it has there


@dataclass(frozen=True, slots=True)
class Message:
    """What a user said."""

    room: str
    offset: int
    message_id: str
    user: str
    name: str
    text: str | None  # None: deleted since
    ts: int  # ms since the epoch


@dataclass(frozen=True, slots=True)
class Deleted:
    """Messages and notices that are not to be shown any more."""

    room: str
    offset: int
    message_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """What an operator posted. One that was flashed has no offset: it is kept nowhere."""

    room: str | None  # None: to everybody
    level: str
    text: str | None  # None: deleted since
    offset: int | None = None
    message_id: str | None = None
    ts: int | None = None
    seconds: int | None = None  # how long to show a flashed one; None = as one likes


@dataclass(frozen=True, slots=True)
class RoomChanged:
    """The room's settings from now on."""

    room: str
    offset: int
    state: str  # open, frozen, closed
    slow_mode_s: int
    title: str


@dataclass(frozen=True, slots=True)
class Published:
    """What a plugin published on the room's channel."""

    room: str
    offset: int
    type: str
    data: Any
    ts: int


# without an offset


@dataclass(frozen=True, slots=True)
class Presence:
    """Who came and went; in large rooms only how many are there."""

    room: str
    count: int
    joined: tuple[User, ...]
    left: tuple[User, ...]


@dataclass(frozen=True, slots=True)
class Sanctioned:
    """Something was done to this user: the news of it. What holds is in ``Joined.sanctions``."""

    kind: str  # mute, unmute, ban, unban, kick, warn
    room: str | None  # None: everywhere
    until: int | None  # ms since the epoch; None = without end
    reason: str | None
    command_id: str | None
    text: str | None = None  # of a warning


# of the client itself


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The connection is gone, or could not be made; the next attempt comes in ``after_s``."""

    attempt: int  # 1 for the first since things went well
    after_s: float
    url: str  # that was tried; empty if there was none to try
    code: int | None  # that the server closed with
    reason: str


@dataclass(frozen=True, slots=True)
class Connected:
    """A new connection took the place of the one before; rooms are resumed next."""

    url: str
    node: str
    session: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """The client is level with the room again. What it missed follows as ordinary events.

    ``recovered`` False: not all of it can be had; forget what was shown, ``joined`` is the room as it is now.
    """

    room: str
    recovered: bool
    joined: Joined


@dataclass(frozen=True, slots=True)
class RoomLost:
    """The client could not get back into the room, and has given it up."""

    room: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Lagged:
    """So many events without an offset were dropped, because nobody read them."""

    events: int


RoomEvent = Message | Deleted | Notice | RoomChanged | Published
Event = RoomEvent | Presence | Sanctioned | Reconnecting | Connected | Resumed | RoomLost | Lagged


# answers


@dataclass(frozen=True, slots=True)
class Joined:
    """A room as it is at ``position``."""

    room: str
    position: Position
    recovered: bool  # ``messages`` are all that came since the place that was named
    messages: tuple[RoomEvent, ...]  # oldest first
    count: int
    state: str
    slow_mode_s: int
    title: str
    sanctions: tuple[Sanctioned, ...]  # that hold against this user


@dataclass(frozen=True, slots=True)
class Said:
    """A message that everybody in the room is shown, once."""

    message_id: str
    offset: int
    ts: int


@dataclass(frozen=True, slots=True)
class History:
    """A page of a room's past, oldest first."""

    messages: tuple[RoomEvent, ...]
    more: bool  # there are older ones


@dataclass(frozen=True, slots=True)
class Present:
    """Who is in a room; of many, the list has the first thousand."""

    count: int
    users: tuple[User, ...]


def event_of(frame: Mapping[str, Any]) -> Event:
    """The event that a push is. Raises KeyError or TypeError where the frame lacks what its type has."""
    match frame:
        case {"data": data}:
            return Published(frame["room"], frame["offset"], frame["type"], data, frame["ts"])
        case {"type": "message"}:
            return Message(*(frame[n] for n in ("room", "offset", "message_id", "user", "name", "text", "ts")))
        case {"type": "deleted"}:
            return Deleted(frame["room"], frame["offset"], tuple(frame["message_ids"]))
        case {"type": "notice"}:
            kept = (frame.get(name) for name in ("offset", "message_id", "ts", "seconds"))
            return Notice(frame["room"], frame["level"], frame["text"], *kept)
        case {"type": "room"}:
            title = frame.get("title", "")
            return RoomChanged(frame["room"], frame["offset"], frame["state"], frame["slow_mode_s"], title)
        case {"type": "presence"}:
            return Presence(frame["room"], frame["count"], _users(frame["join"]), _users(frame["leave"]))
        case {"type": "sanction"}:
            return _sanctioned(frame)
        case _:
            raise KeyError(frame.get("type"))


def joined_of(frame: Mapping[str, Any]) -> Joined:
    return Joined(
        frame["room"],
        Position(frame["epoch"], frame["offset"]),
        frame["recovered"],
        _room_events(frame["messages"]),
        frame["count"],
        frame["state"],
        frame.get("slow_mode_s", 0),
        frame.get("title", ""),
        tuple(_sanctioned(each) for each in frame["sanctions"]),
    )


def history_of(frame: Mapping[str, Any]) -> History:
    return History(_room_events(frame["messages"]), frame["more"])


def present_of(frame: Mapping[str, Any]) -> Present:
    return Present(frame["count"], _users(frame["users"]))


def error_of(frame: Mapping[str, Any]) -> ChatError:
    return ChatError(
        frame["code"], frame["message"], temporary=frame["temporary"], retry_after_ms=frame.get("retry_after_ms")
    )


def _room_events(pushes: list[Mapping[str, Any]]) -> tuple[RoomEvent, ...]:
    events = (event_of(push) for push in pushes)
    return tuple(event for event in events if isinstance(event, RoomEvent))


def _users(listed: list[Mapping[str, Any]]) -> tuple[User, ...]:
    return tuple(User(each["user"], each["name"]) for each in listed)


def _sanctioned(frame: Mapping[str, Any]) -> Sanctioned:
    fields = {name: frame[name] for name in ("kind", "room", "until", "reason", "command_id")}
    return Sanctioned(**fields, text=frame.get("text"))
