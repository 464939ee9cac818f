"""Where a listener is in each of its topics, as the id of an event says it.

That is ``boot-number``, then ``,ROOM=EPOCH:OFFSET`` for each room; the epoch is empty where nothing had been published.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bridge.envelope import Position

MAX_ID = 2000  # characters; ten rooms with the longest names have fewer
_ROOM = re.compile(r"([A-Za-z0-9._@+-]{1,64})=([A-Za-z0-9_-]{0,64}):([0-9]{1,15})", re.ASCII)
BEGINNING = Position("", 0)


class Places:
    """The places of one stream: ``live`` in its back office's memory, and one in each room."""

    def __init__(self, live: str, rooms: Iterable[tuple[str, Position]] = ()) -> None:
        self.live, self.rooms = live, dict(rooms)

    def id(self) -> str:
        rooms = (f",{room}={place.epoch}:{place.offset}" for room, place in self.rooms.items())
        return self.live + "".join(rooms)


def read_places(id: str) -> Places:
    """What can be read of an id that a listener sends; the rest is left out."""
    live, *rooms = id[:MAX_ID].split(",")
    found = (_ROOM.fullmatch(room) for room in rooms)
    return Places(live, ((each[1], Position(each[2], int(each[3]))) for each in found if each is not None))


def follows(place: Position, after: Position) -> bool:
    """Whether nothing is between the two."""
    if after.epoch in (place.epoch, BEGINNING.epoch):
        return place.offset == after.offset + 1
    return False
