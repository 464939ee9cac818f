"""The rooms a chat client is in: what comes next in line, what came before, and what is missing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from bridge.chat.client_events import (
    ChatError,
    Joined,
    Message,
    Resumed,
    RoomEvent,
    RoomLost,
    Sanctioned,
    event_of,
    joined_of,
)
from bridge.chat.client_queue import EventQueue
from bridge.chat.client_socket import Frame
from bridge.envelope import Position

log = logging.getLogger(__name__)


class Order(Enum):
    """Where an event stands, seen from where the client is."""

    NEXT = "next"
    SEEN = "seen"
    JUMP = "jump"  # something before it did not come
    ASIDE = "aside"  # to be shown, and not counted


def order(event: RoomEvent, offset: int, last: int) -> Order:
    # A message that its speaker alone is shown borrows an offset, and has the id of another.
    if isinstance(event, Message) and not event.message_id.startswith(f"{offset}-"):
        return Order.ASIDE
    if offset <= last:
        return Order.SEEN
    return Order.NEXT if offset == last + 1 else Order.JUMP


@dataclass(slots=True)
class Room:
    """A room that the client means to be in."""

    id: str
    position: Position  # of the last event that was queued for the reader; its own epoch, by which its place is known
    level: bool = True  # what comes is next in line; else a join gets it again, and nothing is queued until then
    here: bool = True  # this connection has joined it


class Rooms:
    """Puts what rooms are told in line.

    ``catch_up`` must have a room joined again since its ``place``; ``leave`` is told a room that was joined again
    although the client does not mean to be there any more, ``forgotten`` that there is one less to be joined.
    """

    def __init__(
        self,
        events: EventQueue,
        catch_up: Callable[[str], None],
        leave: Callable[[str], None],
        forgotten: Callable[[], None],
    ) -> None:
        self._events, self._catch_up, self._leave, self._forgotten = events, catch_up, leave, forgotten
        self._rooms: dict[str, Room] = {}
        self._behind: set[str] = set()  # not level because the queue was full

    def positions(self) -> dict[str, Position]:
        return {room.id: room.position for room in self._rooms.values()}

    def place(self, room_id: str) -> Position | None:
        """None if the client does not mean to be there any more."""
        room = self._rooms.get(room_id)
        return None if room is None else room.position

    def is_awaited(self, room_id: str) -> bool:
        room = self._rooms.get(room_id)
        return room is not None and not room.here

    def connected(self) -> None:
        """A new connection, which is in no room yet."""
        for room in self._rooms.values():
            room.here = room.level = False
        self._behind.clear()
        for room_id in tuple(self._rooms):
            self._catch_up(room_id)

    def enter(self, frame: Frame) -> Joined:
        """The answer to a join that somebody asked for, and is given."""
        joined = joined_of(frame)
        self._rooms[joined.room] = Room(joined.room, joined.position)
        self._behind.discard(joined.room)
        return joined

    def forget(self, room_id: str) -> None:
        self._rooms.pop(room_id, None)
        self._behind.discard(room_id)
        self._forgotten()

    def lose(self, room_id: str, error: ChatError) -> None:
        self.forget(room_id)
        self._events.offer(RoomLost(room_id, error.code, error.message))

    def resume(self, frame: Frame) -> None:
        """The answer to a join of ours: what was missed is put in line, as far as there is space."""
        joined = joined_of(frame)
        room = self._rooms.get(joined.room)
        if room is None:
            self._leave(joined.room)
            return
        room.here = True
        if not self._events.put(Resumed(room.id, joined.recovered, joined)):
            self._behind.add(room.id)
            return
        for push, event in zip(frame["messages"], joined.messages, strict=True):
            if joined.recovered and push["offset"] <= room.position.offset:
                continue  # whoever joined meanwhile was given it
            if not self._events.put(event):
                self._behind.add(room.id)
                return
            room.position = Position(push.get("epoch") or joined.position.epoch, push["offset"])
        room.position, room.level = joined.position, True

    def space(self) -> None:
        """The reader has taken something."""
        if self._behind and self._events.half_empty:
            behind, self._behind = self._behind, set()
            for room_id in behind:
                self._catch_up(room_id)

    def hear(self, frame: Frame) -> None:
        """A push of any kind."""
        room = self._rooms.get(frame.get("room") or "")
        offset = frame.get("offset")
        if offset is not None and (room is None or not room.level):
            return
        try:
            event = event_of(frame)
        except (KeyError, TypeError):
            log.warning("a push of type %r is not understood", frame.get("type"))
            return
        if offset is not None and isinstance(event, RoomEvent):
            assert room is not None
            self._take(room, event, Position(frame.get("epoch") or room.position.epoch, offset))
            return
        if isinstance(event, Sanctioned) and event.room is not None and event.kind in ("kick", "ban"):
            self.forget(event.room)
        self._events.offer(event)

    def _take(self, room: Room, event: RoomEvent, position: Position) -> None:
        match order(event, position.offset, room.position.offset):
            case Order.NEXT if self._events.put(event):
                room.position = position
            case Order.NEXT:
                room.level = False
                self._behind.add(room.id)
            case Order.JUMP:
                room.level = False
                self._catch_up(room.id)
            case Order.ASIDE:
                self._events.offer(event)
            case Order.SEEN:
                pass
