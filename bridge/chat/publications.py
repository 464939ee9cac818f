"""What a room's channel carries, decoded once for clients and operators. What does not have our shape is not ours."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.chat.events import message_id
from bridge.envelope import Publication


@dataclass(frozen=True, slots=True)
class Message:
    """What a user said."""

    id: str
    user: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Notice:
    """What an operator posted."""

    id: str
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """Messages and notices that are hidden from now on."""

    message_ids: list[str]


@dataclass(frozen=True, slots=True)
class RoomChanged:
    """The room's settings, as they are from now on."""

    state: str
    slow_mode_s: int
    title: str


def content_of(publication: Publication) -> Message | Notice | Deleted | RoomChanged | None:
    """None for a plugin's publication, and for one that only has a name of ours: it must not break the room."""
    match publication.type, publication.data:
        case "message", {"user": str(user), "name": str(name), "text": str(text)}:
            return Message(message_id(publication.epoch, publication.offset), user, name, text)
        case "notice", {"level": str(level), "text": str(text)}:
            return Notice(message_id(publication.epoch, publication.offset), level, text)
        case "deleted", {"message_ids": [*ids]} if all(isinstance(id, str) for id in ids):
            return Deleted(ids)
        case "room", {"state": str(state), "slow_mode_s": int(slow_mode_s), "title": str(title)}:
            return RoomChanged(state, slow_mode_s, title)
        case _:
            return None


def is_kept(publication: Publication) -> bool:
    """Whether it is part of the room's history."""
    return isinstance(content_of(publication), Message | Notice)
