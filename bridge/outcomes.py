"""What became of a command: by id, and waiting for its end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from bridge.envelope import shard_of_id
from bridge.errors import Invalid, Unreachable
from bridge.inspector import Inspector, Settled
from bridge.keys import Keys
from bridge.record import Outcome
from bridge.subscriptions import Subscriptions
from bridge.surviving import Surviving

MAX_WAIT_S = 30.0
_LOOK_EVERY_S = 0.5  # in case the word that it ended was lost


class Outcomes:
    """One process' view of outcomes. It hears what ends in a shard once somebody waited for a command there."""

    def __init__(
        self, inspector: Inspector, keys: Keys, shards: int, subscriptions: Subscriptions, surviving: Surviving
    ) -> None:
        self._surviving = surviving
        self._inspector, self._keys, self._shards, self._subscriptions = inspector, keys, shards, subscriptions
        self._heard: dict[int, asyncio.Task[object]] = {}  # shard → its subscription
        self._waiters: dict[str, set[asyncio.Event]] = {}

    async def get(self, id: str, *, wait: float = 0) -> Outcome | None:
        """Where a command stands, at its end or after ``wait`` seconds (0 to 30), whichever is first.

        None: no such command, or it ended longer ago than outcomes are kept. Raises Invalid, Unreachable.
        """
        if not 0 <= wait <= MAX_WAIT_S:
            raise Invalid(f"wait is 0 to {MAX_WAIT_S:g} seconds", path="?wait")
        shard = shard_of_id(id)
        if shard >= self._shards:
            return None
        if not wait:
            return await self._look(shard, id)
        deadline = asyncio.get_running_loop().time() + wait
        ended = asyncio.Event()
        self._waiters.setdefault(id, set()).add(ended)
        try:
            return await self._wait(shard, id, ended, deadline)
        finally:
            self._waiters[id].discard(ended)
            if not self._waiters[id]:
                del self._waiters[id]

    async def settled(self, shard: int, after: str, limit: int) -> Settled:
        """A page of the shard's record; empty for now where a fail-over might undo a part of it."""
        page = await self._inspector.settled(shard, after, limit)
        if page.ended and not await self._surviving.has(shard, page.ended[-1][1].id):
            return replace(page, ended=[], withheld=True)
        return page

    async def _wait(self, shard: int, id: str, ended: asyncio.Event, deadline: float) -> Outcome | None:
        await self._hear(shard, deadline)
        while True:
            ended.clear()
            left = deadline - asyncio.get_running_loop().time()
            try:
                outcome = await self._look(shard, id)
                if outcome is None or outcome.ended or left <= 0:
                    return outcome
            except Unreachable:  # it comes back by itself, perhaps in time
                if left <= 0:
                    raise
            try:
                async with asyncio.timeout(min(left, _LOOK_EVERY_S)):
                    await ended.wait()
            except TimeoutError:
                continue

    async def _look(self, shard: int, id: str) -> Outcome | None:
        """As the server tells it; but done is what a fail-over would not undo, as far as that can be known."""
        outcome = await self._inspector.command(shard, id)
        if outcome is None or outcome.state != "done" or await self._surviving.has(shard, id):
            return outcome
        return replace(outcome, state="handling", result=None, timeline=outcome.timeline[:-1])

    async def _hear(self, shard: int, deadline: float) -> None:
        if shard not in self._heard:
            subscribing = self._subscriptions.subscribe(self._keys.ended(shard), self._told)
            self._heard[shard] = asyncio.get_running_loop().create_task(subscribing, name=f"ended-{shard}")
        left = deadline - asyncio.get_running_loop().time()
        await asyncio.wait((self._heard[shard],), timeout=min(left, _LOOK_EVERY_S))

    def _told(self, message: bytes) -> None:
        for id in message.decode().split():
            for waiter in self._waiters.get(id, ()):
                waiter.set()

    async def close(self) -> None:
        for task in self._heard.values():
            task.cancel()
        await asyncio.gather(*self._heard.values(), return_exceptions=True)
