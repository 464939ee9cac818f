"""What happens, as it happens, for whoever listens: a bounded memory of events, from which a listener resumes."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Any

import orjson

KEPT = 2000  # events; who was away for more is told so
QUEUE = 500  # events that wait for one listener; one who is slower is cut off, and resumes


@dataclass(frozen=True, slots=True)
class Event:
    number: int
    topic: str
    data: bytes  # JSON


class TooSlow(Exception):
    """A listener does not keep up; it reconnects and resumes."""


class Live:
    """One memory and all its listeners. An event's id is ``boot-number``."""

    def __init__(self) -> None:
        self.boot = secrets.token_hex(4)
        self._number = 0
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._listeners: set[asyncio.Queue[Event | None]] = set()
        self._last: dict[str, bytes] = {}

    def tell(self, topic: str, item: Any) -> None:
        """Something happened."""
        self._number += 1
        event = Event(self._number, topic, orjson.dumps(item, option=orjson.OPT_UTC_Z))
        self._kept.append(event)
        for queue in self._listeners:
            if queue.full():
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    def tell_change(self, topic: str, item: Any) -> None:
        """How something is now; told where it differs from the last time."""
        data = orjson.dumps(item, option=orjson.OPT_UTC_Z)
        if self._last.get(topic) != data:
            self._last[topic] = data
            self.tell(topic, item)

    def id(self, event: Event) -> str:
        return f"{self.boot}-{event.number}"

    async def listen(self, topics: Collection[str], after: str | None = None) -> AsyncIterator[Event | None]:
        """Events of these topics: those after the id, then as they come. None first: some were missed.

        Raises TooSlow.
        """
        queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE)
        kept = tuple(self._kept)
        self._listeners.add(queue)
        try:
            if after is not None:
                boot, _, number = after.rpartition("-")
                since = int(number) if boot == self.boot and number.isdecimal() else -1
                if since < 0 or (kept and since < kept[0].number - 1):
                    yield None
                for event in kept:
                    if event.number > max(since, 0) and event.topic in topics:
                        yield event
            while True:
                queued = await queue.get()
                if queued is None:
                    raise TooSlow
                if queued.topic in topics:
                    yield queued
        finally:
            self._listeners.discard(queue)
