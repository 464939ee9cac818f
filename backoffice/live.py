"""What happens, as it happens, for whoever listens: a bounded memory of events, from which a listener resumes.

Some topics are of things that are there, and change: each is told when a listener comes, and then whenever it changes;
who is slow hears the latest of each. The others are of what happens once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

# Events of a topic of what happened once, and bytes of them; who was away for more is told so.
KEPT, KEPT_BYTES = 2000, 16 * 1024 * 1024
QUEUE = 500  # of these that wait for one listener; one who is slower is cut off, and resumes
KEPT_GONE = 500  # things of a topic that were there, for those who were away


@dataclass(frozen=True, slots=True)
class Event:
    number: int
    topic: str
    data: bytes  # JSON
    key: str | None = None  # of a thing; None: this happened once


class TooSlow(Exception):
    """A listener does not keep up; it reconnects and resumes."""


@dataclass(slots=True)
class _Things:
    """What is there of a topic, and what was lately."""

    now: dict[str, tuple[Any, Event]] = field(default_factory=dict)
    gone: dict[str, Event] = field(default_factory=dict)  # the one that went first comes first


class _Listener:
    """What waits for one listener, in order; of a thing only how it is now."""

    def __init__(self, topics: Collection[str]) -> None:
        self.topics = topics
        self._waiting: dict[int | tuple[str, str], Event] = {}
        self._once = 0  # of these, what happened once
        self._stirred = asyncio.Event()

    def put(self, event: Event) -> None:
        if event.topic not in self.topics or self._once > QUEUE:
            return
        if event.key is None:
            self._once += 1
            self._waiting[event.number] = event
        else:
            self._waiting.pop((event.topic, event.key), None)
            self._waiting[event.topic, event.key] = event
        self._stirred.set()

    async def next(self) -> Event:
        """Raises TooSlow."""
        while not self._waiting:
            self._stirred.clear()
            await self._stirred.wait()
        if self._once > QUEUE:
            raise TooSlow
        event = self._waiting.pop(next(iter(self._waiting)))
        self._once -= event.key is None
        return event


class Live:
    """One memory and all its listeners. An event's id is ``boot-number``."""

    def __init__(self) -> None:
        self.boot = secrets.token_hex(4)
        self._number = 0
        self._kept: dict[str, deque[Event]] = {}  # by topic, so that none crowds another one out
        self._bytes: Counter[str] = Counter()  # of these
        self._dropped: dict[str, int] = {}  # topic → number of the last event that was
        self._things: dict[str, _Things] = {}
        self._listeners: set[_Listener] = set()

    def tell(self, topic: str, item: Any) -> None:
        """Something happened."""
        kept = self._kept.setdefault(topic, deque())
        kept.append(event := self._event(topic, item))
        self._bytes[topic] += len(event.data)
        while len(kept) > KEPT or self._bytes[topic] > KEPT_BYTES:
            oldest = kept.popleft()
            self._bytes[topic] -= len(oldest.data)
            self._dropped[topic] = oldest.number

    def tell_things(self, topic: str, items: Mapping[str, Any], gone: Callable[[Any], Any]) -> None:
        """What is there of a topic now, by key; told where it changed. ``gone``: how it is told that one went."""
        things = self._things.setdefault(topic, _Things())
        for key in [key for key in things.now if key not in items]:
            things.gone[key] = self._event(topic, gone(things.now.pop(key)[0]), key)
        for key, item in items.items():
            if key not in things.now or things.now[key][0] != item:
                things.gone.pop(key, None)
                things.now[key] = item, self._event(topic, item, key)
        while len(things.gone) > KEPT_GONE:
            oldest = things.gone.pop(next(iter(things.gone)))
            self._dropped[topic] = max(oldest.number, self._dropped.get(topic, 0))

    def id(self, event: Event) -> str:
        return f"{self.boot}-{event.number}"

    def place(self, after: str | None) -> str:
        """Where a listener is before it hears anything: there, if that is a place here, or else now."""
        since = self._since(after)
        return f"{self.boot}-{self._number if since is None else since}"

    async def listen(self, topics: Collection[str], after: str) -> AsyncIterator[Event | None]:
        """Events of these topics: those after the id, and all things that are there, then as they come.

        None first: some were missed. Raises TooSlow.
        """
        since = self._since(after)
        missed = since is None or any(since < self._dropped.get(topic, 0) for topic in topics)
        listener = _Listener(topics)
        first = self._first(topics, since or 0)
        self._listeners.add(listener)
        try:
            if missed:
                yield None
            for event in first:
                # Whoever is cut off in between has heard what came before it, and not more.
                yield replace(event, number=max(event.number, since or 0))
            while True:
                yield await listener.next()
        finally:
            self._listeners.discard(listener)

    def _first(self, topics: Collection[str], since: int) -> list[Event]:
        """What a listener hears first: what is there, and what happened or went since."""
        things = [self._things[topic] for topic in topics if topic in self._things]
        past = [event for topic in topics for event in self._kept.get(topic, ())]
        past += [event for each in things for event in each.gone.values()]
        there = [event for each in things for _, event in each.now.values()]
        return sorted(there + [event for event in past if event.number > since], key=lambda event: event.number)

    def _event(self, topic: str, item: Any, key: str | None = None) -> Event:
        self._number += 1
        event = Event(self._number, topic, orjson.dumps(item, option=orjson.OPT_UTC_Z), key)
        for listener in self._listeners:
            listener.put(event)
        return event

    def _since(self, after: str | None) -> int | None:
        """The number of an event that has been told here; None where it has not."""
        boot, _, number = (after or "").rpartition("-")
        known = boot == self.boot and number.isascii() and number.isdecimal() and len(number) < 16
        return int(number) if known and int(number) <= self._number else None
