"""A steady stream of ledger commands, each accepted in order in its room, whatever Redis does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from types import TracebackType
from typing import Self

from bridge.client import Bridge
from bridge.errors import Overloaded, ServerFull, Unreachable
from tests.faults.pace import elapsed

ROOMS, PER_S = 24, 150
SLOW_EVERY, SLOW_S = 3, 0.1  # so that a node always has something in its hands when it dies
_AGAIN_S = 0.02


class Load:
    """While entered: ``per_s`` commands a second, spread evenly over ``rooms``.

    A room's next command is sent when the one before was accepted, so numbers and
    acceptance agree; one whose outcome is unknown is repeated with its key.
    """

    def __init__(self, bridge: Bridge, *, rooms: int = ROOMS, per_s: float = PER_S) -> None:
        self.rooms = [f"room:r{i}" for i in range(rooms)]
        self.accepted: dict[str, list[str]] = {room: [] for room in self.rooms}  # ids, in the order of their numbers
        self.refusals: Counter[str] = Counter()
        self._bridge, self._every_s = bridge, rooms / per_s
        self._over, self._grown = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def count(self) -> int:
        return sum(map(len, self.accepted.values()))

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._room(i, room)) for i, room in enumerate(self.rooms)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if error is not None:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=error is not None)

    async def more(self, count: int, timeout: float = 60) -> None:
        """Until so many more commands were accepted."""
        goal = self.count + count
        async with asyncio.timeout(timeout):
            while self.count < goal:
                self._grown.clear()
                await self._grown.wait()

    async def _room(self, index: int, room: str) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._every_s * index / len(self.rooms)
        while not await self._wait(due - loop.time()):
            await self._publish(room, len(self.accepted[room]))
            due = max(due + self._every_s, loop.time())  # what an outage or a busy machine held up is not made up for

    async def _publish(self, room: str, n: int) -> None:
        kind, payload = "ledger.add", dict[str, float](n=n)
        if n % SLOW_EVERY == 0:
            kind, payload = "fault.linger", {"n": n, "seconds": SLOW_S}
        while True:
            try:
                receipt = await self._bridge.publish(kind, room, payload, by="load", idempotency_key=f"n{n}")
            except (Unreachable, ServerFull, Overloaded) as error:
                self.refusals[type(error).__name__] += 1
                await elapsed(_AGAIN_S)
            else:
                self.accepted[room].append(receipt.id)
                return self._grown.set()

    async def _wait(self, seconds: float) -> bool:
        """Until it is over, or so long; whether it is over."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._over.wait()
        return self._over.is_set()
