"""Every command of the chat: its payload's model, its type and the subject it is for. Importing registers them."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

from bridge.registry import default

MAX_SECONDS = 315_360_000  # ten years
MAX_TEXT_CHARS = 1000
MAX_TITLE_CHARS = 200
MAX_MESSAGE_IDS = 200

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9._@+-]{1,64}$")]
Seconds = Annotated[int, Field(ge=1, le=MAX_SECONDS)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]
Level = Literal["info", "warning"]


def _time(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53:
        return value
    if isinstance(value, str) and _RFC_3339.fullmatch(value):
        return int(datetime.fromisoformat(value).timestamp() * 1000)  # its ValueError names the impossible part
    raise ValueError("write a time as RFC 3339 with its zone, or as milliseconds since the epoch")


_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
# Kept as ms since the epoch. One validator, not a union: a fault then has one path.
_Written = Annotated[str, Field(json_schema_extra={"format": "date-time"})] | Annotated[int, Field(ge=0, lt=1 << 53)]
Time = Annotated[int, PlainValidator(_time, json_schema_input_type=_Written)]
MessageId = Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]  # those that no message has are no fault


class Payload(BaseModel):
    """Values are taken as they are written: no text for a number, no true for a one, no field that is not listed."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _OfUser(Payload):
    user: Id = Field(description="the user's id, without “user:”")


class _ForAWhile(Payload):
    seconds: Seconds | None = Field(None, description="how long; null or absent = without end")


@default.command("member.mute", subject="room", plugin=False)
class MemberMute(_OfUser, _ForAWhile):
    """The user may not speak in this room."""


@default.command("member.ban", subject="room", plugin=False)
class MemberBan(_OfUser, _ForAWhile):
    """The user leaves this room and may not join it."""


@default.command("member.unmute", subject="room", plugin=False)
class MemberUnmute(_OfUser):
    """The user may speak in this room again."""


@default.command("member.unban", subject="room", plugin=False)
class MemberUnban(_OfUser):
    """The user may join this room again."""


@default.command("member.kick", subject="room", plugin=False)
class MemberKick(_OfUser):
    """The user leaves this room, and may come back."""


@default.command("user.mute", subject="user", plugin=False)
class UserMute(_ForAWhile):
    """The user may not speak anywhere."""

    shadow: bool = Field(False, description="do not let the user notice: their messages reach only themselves")


@default.command("user.ban", subject="user", plugin=False)
class UserBan(_ForAWhile):
    """The user's connections are closed, and no new one is let in."""


@default.command("user.unmute", subject="user", plugin=False)
class UserUnmute(Payload):
    """The user may speak again; room mutes stay."""


@default.command("user.unban", subject="user", plugin=False)
class UserUnban(Payload):
    """The user may connect again."""


@default.command("user.kick", subject="user", plugin=False)
class UserKick(Payload):
    """The user's connections are closed."""


@default.command("user.warn", subject="user", plugin=False)
class UserWarn(Payload):
    """The user reads this warning."""

    text: Text


@default.command("room.open", subject="room", plugin=False)
class RoomOpen(Payload):
    """The room exists from now on, or is open again. What it had stays."""

    title: Annotated[str, Field(min_length=1, max_length=MAX_TITLE_CHARS)] | None = None


@default.command("room.close", subject="room", plugin=False)
class RoomClose(Payload):
    """Nobody may speak or join; members stay."""


@default.command("room.freeze", subject="room", plugin=False)
class RoomFreeze(Payload):
    """Nobody may speak; joining is allowed."""


@default.command("room.unfreeze", subject="room", plugin=False)
class RoomUnfreeze(Payload):
    """Members may speak again."""


@default.command("room.slow_mode", subject="room", plugin=False)
class RoomSlowMode(Payload):
    """Time between two messages of one user."""

    seconds: Annotated[int, Field(ge=0, le=MAX_SECONDS)] = Field(description="0 = off")


@default.command("room.clear", subject="room", plugin=False)
class RoomClear(Payload):
    """Everything said in the room so far is deleted."""


@default.command("message.delete", subject="room", plugin=False)
class MessageDelete(Payload):
    """These messages are deleted: named by id, or all of one user from a time on."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [
        {"required": ["message_ids"],
         "properties": {"message_ids": {"type": "array"}, "user": {"type": "null"}, "since": {"type": "null"}}},
        {"required": ["user", "since"],
         "properties": {"message_ids": {"type": "null"}, "user": {"type": "string"},
                        "since": {"type": ["string", "integer"]}}},
    ]})  # fmt: skip

    message_ids: Annotated[list[MessageId], Field(min_length=1, max_length=MAX_MESSAGE_IDS)] | None = None
    user: Id | None = None
    since: Time | None = Field(None, description="RFC 3339, or milliseconds since the epoch")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        by_user = self.user is not None, self.since is not None
        if (self.message_ids is not None, *by_user) not in ((True, False, False), (False, True, True)):
            raise ValueError("give message_ids, or user and since")
        return self


@default.command("notice.post", subject="room", plugin=False)
class NoticePost(Payload):
    """A notice to everyone in the room, kept in its history."""

    text: Text
    level: Level = "info"
