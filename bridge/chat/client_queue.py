"""Events that wait for a chat client's reader: in order, bounded, nothing lost without a word."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from bridge.chat.client_events import Event, Lagged

LEAST: Final = 10  # below it, catching up would not get on


class EventQueue:
    """At most ``size`` events. ``put`` says whether there was room; what ``offer`` drops is counted and told."""

    def __init__(self, size: int) -> None:
        if size < LEAST:
            raise ValueError(f"max_events={size!r}: at least {LEAST}")
        self._size = size
        self._events: deque[Event] = deque()
        self._dropped = 0
        self._ended: BaseException | None = None
        self._readable = asyncio.Event()

    @property
    def full(self) -> bool:
        return len(self._events) >= self._size

    @property
    def half_empty(self) -> bool:
        return len(self._events) <= self._size // 2

    def put(self, event: Event) -> bool:
        if self._dropped and len(self._events) < self._size - 1:
            self._tell_dropped()
        if self.full:
            return False
        self._events.append(event)
        self._readable.set()
        return True

    def offer(self, event: Event) -> None:
        if not self.put(event):
            self._dropped += 1

    def end(self, error: BaseException) -> None:
        """No more will come; who reads gets what is there, and then ``error``."""
        self._ended = error
        self._readable.set()

    def clear(self) -> None:
        self._events.clear()
        self._dropped = 0

    async def get(self) -> Event:
        while not self._events:
            if self._dropped:
                self._tell_dropped()
            elif self._ended is not None:
                raise self._ended
            else:
                self._readable.clear()
                await self._readable.wait()
        return self._events.popleft()

    def _tell_dropped(self) -> None:
        self._events.append(Lagged(self._dropped))
        self._dropped = 0
