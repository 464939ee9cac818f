"""Everybody who works on a topology in one test: publisher, nodes and a listener; and the books of what they did."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

from bridge.channels import Channel
from bridge.client import Bridge
from bridge.envelope import Position, Publication
from bridge.errors import BridgeError
from bridge.telemetry import Joined
from tests.faults.audit import Audit, audit, drained, ledger
from tests.faults.ledger import registry
from tests.faults.load import Load
from tests.faults.pace import elapsed
from tests.recorder import Recorder
from tests.servers import Server
from tests.waiting import answered, until

SHARDS = 12  # on three primaries some of them each
TIMEOUT_S = 0.5  # half of the servers' own detection time
ROOMS = 12


class Party:
    """``publisher`` issues, ``nodes`` handle, ``listener`` receives broadcasts."""

    def __init__(self, publisher: Bridge, listener: Bridge, nodes: dict[str, Bridge]) -> None:
        self.publisher, self.listener, self.nodes = publisher, listener, nodes

    @classmethod
    @contextlib.asynccontextmanager
    async def meet(
        cls,
        url: str,
        events: Recorder,
        *,
        nodes: Iterable[str] = ("node-a", "node-b"),
        publisher: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> AsyncIterator[Self]:
        """``publisher``: settings of its own, its ``url`` among them."""
        async with contextlib.AsyncExitStack() as stack:

            async def connect(own: Mapping[str, Any] | None = None) -> Bridge:
                options = {"shards": SHARDS, "timeout": TIMEOUT_S, "url": url, **settings, **(own or {})}
                return await stack.enter_async_context(
                    Bridge.connect(options.pop("url"), registry=registry, telemetry=events.telemetry, **options)
                )

            # Asked again: on a busy machine half a second may be too short for it.
            party = cls(
                await answered(partial(connect, publisher)),
                await answered(connect),
                {name: await answered(connect) for name in nodes},
            )
            for name, bridge in party.nodes.items():
                serving = asyncio.create_task(bridge.serve(name, drain_s=2), name=f"serve-{name}")
                stack.push_async_callback(_end, serving)
                await events.wait_for(Joined, node=name, timeout=30)
            yield party

    async def all_rooms_go_on(self, load: Load) -> None:
        """Until every room has had commands accepted that were sent from now on."""
        before = {room: len(ids) for room, ids in load.accepted.items()}

        def gone_on() -> bool:
            return all(len(ids) > before[room] + 1 for room, ids in load.accepted.items())

        await until(gone_on, 60, what="all rooms go on")

    async def all_follow(self, primary: Server) -> None:
        """Until everybody works with it. While the one before it takes writes still, nothing else forces them to."""

        def with_it() -> bool:
            everybody = (self.publisher, self.listener, *self.nodes.values())
            return all(primary.port in {each.port for each in bridge.redis.placement.primaries} for bridge in everybody)

        await until(with_it, 60, what=f"all work with the primary at {primary.port}")

    def load(self, *, per_s: float = 150) -> Load:
        return Load(self.publisher, rooms=ROOMS, per_s=per_s)

    def broadcasts(self, *, per_s: float = 150) -> Broadcasts:
        return Broadcasts(self.publisher, self.listener, [f"room:r{i}" for i in range(ROOMS)], per_s)

    async def drained(self, timeout: float = 60) -> None:
        """Until no accepted command is left that has not ended."""
        await drained(self.publisher, timeout)

    async def audit(self, load: Load) -> Audit:
        """Compare what was accepted with the ledgers."""
        return await audit(self.publisher, load)

    async def ledger(self, room: str) -> list[tuple[str, dict[bytes, bytes]]]:
        """What took effect in a room, in order."""
        return await ledger(self.publisher, room)

    async def survivors(self, books: Audit) -> list[str]:
        """Of the lost commands those that the servers know of: none may be."""
        return [id for id in books.lost if await answered(partial(self.publisher.outcome, id)) is not None]


@dataclass(slots=True)
class Heard:
    """What the listener got."""

    missed: list[str] = field(default_factory=list)  # in the log, and never received
    twice: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    received: int = 0
    silence_s: float = 0.0  # longest time without any publication
    gap_s: float = 0.0  # longest time in which none was accepted

    def clean(self) -> None:
        found = {name: getattr(self, name) for name in ("missed", "twice", "out_of_order")}
        assert not any(found.values()), f"of {self.received}: " + "; ".join(
            f"{len(places)} {name} ({', '.join(places[:5])})" for name, places in found.items() if places
        )


class Broadcasts:
    """While entered: publications on every room's channel, and somebody who subscribes to each."""

    def __init__(self, publisher: Bridge, listener: Bridge, rooms: list[str], per_s: float) -> None:
        self._publisher, self._listener, self._rooms = publisher, listener, rooms
        self._every_s = len(rooms) / per_s
        self.received: dict[str, list[Publication]] = {room: [] for room in rooms}
        self._received_at: dict[str, list[float]] = {room: [] for room in rooms}
        self._accepted_at: dict[str, list[float]] = {room: [] for room in rooms}
        self.refusals: Counter[str] = Counter()
        self._over = asyncio.Event()
        self._listening: list[asyncio.Task[None]] = []
        self._publishing: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._listening = [asyncio.create_task(self._listen(room)) for room in self._rooms]
        self._publishing = [asyncio.create_task(self._publish(i, room)) for i, room in enumerate(self._rooms)]
        await until(lambda: all(self.received.values()), 30, what="every listener hears something")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        await asyncio.gather(*self._publishing, return_exceptions=True)
        try:
            if error is None:
                await self._all_arrived()
        finally:
            for task in self._listening:
                task.cancel()
            await asyncio.gather(*self._listening, return_exceptions=True)

    async def _all_arrived(self) -> None:
        """Until the last publication of each room was received."""
        for room in self._rooms:
            channel = Channel.of_subject(room, self._publisher.shards)
            last = await answered(partial(self._publisher.channels.position, channel))
            with contextlib.suppress(AssertionError):  # the books tell what is missing
                await until(partial(self._has, room, last), 20)

    def _has(self, room: str, last: Position | None) -> bool:
        received = self.received[room][-1]
        return last == Position(received.epoch, received.offset)

    async def heard(self) -> Heard:
        """The books; what the log has is the truth."""
        books = Heard()
        for room, received in self.received.items():
            places = [(each.epoch, each.offset) for each in received]
            channel = Channel.of_subject(room, self._publisher.shards)
            log = await answered(partial(self._publisher.channels.log, channel))
            # With what it says: a place that was lost may come back with something else.
            had = {(each.epoch, each.offset, each.data["n"]) for each in received}
            kept = [(each.epoch, each.offset, each.data["n"]) for each in log if each.offset >= received[0].offset]
            books.received += len(received)
            books.missed += [f"{room} {place}" for place in kept if place not in had]
            books.twice += [f"{room} {place}" for place, count in Counter(places).items() if count > 1]
            books.out_of_order += [
                f"{room} {before} {after}"
                for before, after in pairwise(places)
                if before[0] == after[0] and after[1] != before[1] + 1
            ]
            books.silence_s = max(books.silence_s, _gap(self._received_at[room]))
            books.gap_s = max(books.gap_s, _gap(self._accepted_at[room]))
        return books

    async def _listen(self, room: str) -> None:
        async for publication in self._listener.subscribe(room):
            self.received[room].append(publication)
            self._received_at[room].append(asyncio.get_running_loop().time())

    async def _publish(self, index: int, room: str) -> None:
        loop = asyncio.get_running_loop()
        channel = Channel.of_subject(room, self._publisher.shards)
        due, n = loop.time() + self._every_s * index / len(self._rooms), 0
        while not self._over.is_set():
            await elapsed(max(0, due - loop.time()))
            due = max(due + self._every_s, loop.time())
            try:
                await self._publisher.channels.publish(channel, "note", {"n": n})
            except BridgeError as error:  # it may have been published or not: the log knows
                self.refusals[type(error).__name__] += 1
            else:
                self._accepted_at[room].append(loop.time())
            n += 1


def write_gap(load: Load) -> float:
    """Longest time in which a room's commands were not accepted, in seconds."""
    return max(gap_of(load, room) for room in load.rooms)


def gap_of(load: Load, room: str) -> float:
    """The same for one room."""
    return _gap([int(id.split("-")[1]) / 1000 for id in load.accepted[room]])


def longest_wait(books: Audit) -> float:
    """Longest wait of a command for its effect, in seconds."""
    return max((done - accepted for accepted, done in books.times), default=0) / 1000


def _gap(times: list[float]) -> float:
    return max((later - earlier for earlier, later in pairwise(times)), default=0.0)


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
