"""What a node was told of users, sessions and rooms, as values: each as it was at one moment of its server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.chat.state import Member, RoomInfo, Sanction, SanctionType
from bridge.envelope import Position, Publication


@dataclass(frozen=True, slots=True)
class UserNow:
    """What holds against a user everywhere, at one moment of their shard's server."""

    now: int
    sanctions: Mapping[SanctionType, Sanction]
    kicked_at: int | None


@dataclass(frozen=True, slots=True)
class SessionKey:
    """A session as it is listed among its user's."""

    user: str
    session: str
    name: str
    began: int | None = None  # None: it begins now
    rooms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionNow:
    """What a sign of life was answered with."""

    began: int
    user: UserNow
    replaced: bool  # younger sessions of this user took its place
    warning: Mapping[str, Any] | None = None  # the last one's event, if it was given after the session began


@dataclass(frozen=True, slots=True)
class Membership:
    """A session in a room."""

    room: str
    member: Member
    joined: int  # ms, the server's clock


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A room as it was at one offset."""

    now: int
    info: RoomInfo
    position: Position
    recovered: bool  # publications are all that came since the place the client named
    publications: list[Publication]  # oldest first
    deleted: Mapping[str, str]
    mute: Sanction | None
    present: list[Member] | int  # of a large room only how many sessions


@dataclass(frozen=True, slots=True)
class RoomNow:
    """What a node asks of its rooms each second."""

    place: Position | None  # of the last publication
    version: bytes  # of who is present
    present: list[Member] | None  # None: nobody came or went since the version that was known


@dataclass(frozen=True, slots=True)
class Said:
    """A say that was accepted, this time or before under the same nonce."""

    message_id: str
    offset: int
    ts: int
    shadow: bool  # nobody but the speaker is to see it, and has not been shown it yet
