"""Writes that count once replicas have them, on connections of their own: WAIT holds up all that comes after it.

One batch at a time goes to each primary, with one WAIT behind it; what is asked for meanwhile makes up the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from bridge.connection import Redis
from bridge.errors import BridgeError, NotTaken
from bridge.link import Argument, Link
from bridge.scripts import Script


class _Write(NamedTuple):
    script: Script
    keys: Sequence[Argument]
    arguments: Sequence[Argument]
    answered: asyncio.Future[tuple[Any, int]]


class Replicated:
    """See the module. Connects when it is first used."""

    def __init__(self, connect: Callable[[], Awaitable[Redis]], wanted: int, within_s: float) -> None:
        self.wanted = wanted
        self._connect, self._within_s = connect, within_s
        self._redis: Redis | None = None
        self._connecting = asyncio.Lock()
        self._waiting: dict[object, list[_Write]] = {}  # by primary
        self._sending: dict[object, asyncio.Task[None]] = {}

    async def run(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]) -> tuple[Any, int]:
        """The script's answer, and how many replicas have what it wrote. Raises as ``Redis.run`` does."""
        redis = await self._connected()
        deadline = asyncio.get_running_loop().time() + redis.timeout
        while True:
            try:
                return await self._queue(redis, script, keys, arguments)
            except NotTaken:
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    raise
                await redis.look(left)

    async def close(self) -> None:
        for task in self._sending.values():
            task.cancel()
        await asyncio.gather(*self._sending.values(), return_exceptions=True)
        for write in [write for batch in self._waiting.values() for write in batch]:
            if not write.answered.done():
                write.answered.set_exception(NotTaken("closed; nothing was sent"))
        if self._redis is not None:
            await self._redis.close()

    async def _connected(self) -> Redis:
        async with self._connecting:
            if self._redis is None:
                self._redis = await self._connect()
        return self._redis

    def _queue(
        self, redis: Redis, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]
    ) -> asyncio.Future[tuple[Any, int]]:
        loop = asyncio.get_running_loop()
        write = _Write(script, keys, arguments, loop.create_future())
        primary = redis.placement.owner(str(keys[0]))
        self._waiting.setdefault(primary, []).append(write)
        if primary not in self._sending:
            self._sending[primary] = loop.create_task(self._send(redis, primary), name="replicated")
        return write.answered

    async def _send(self, redis: Redis, primary: object) -> None:
        try:
            while batch := self._waiting.pop(primary, []):
                await self._send_batch(redis, batch)
        finally:
            del self._sending[primary]

    def _wait(self, link: Link) -> asyncio.Future[int]:
        return link.send("WAIT", self.wanted, int(self._within_s * 1000))

    async def _send_batch(self, redis: Redis, batch: Sequence[_Write]) -> None:
        link = redis.link_to(batch[0].keys[0])
        if link is None:
            answers: list[Any] = [NotTaken("Redis is not connected; nothing was sent")] * len(batch)
            replicas: Any = 0
        else:
            resent = link.resent
            calls = [link.send_script(*write[:3]) for write in batch]
            *answers, replicas = await asyncio.gather(*calls, self._wait(link), return_exceptions=True)
            if link.resent != resent:  # that WAIT was answered before they ran
                (replicas,) = await asyncio.gather(self._wait(link), return_exceptions=True)
        for write, answer in zip(batch, answers, strict=True):
            if write.answered.done():
                continue
            if isinstance(answer, BaseException):
                write.answered.set_exception(answer if isinstance(answer, BridgeError) else NotTaken(str(answer)))
            else:  # it ran, whatever became of the WAIT: to run it again might be told as somebody else's doing
                write.answered.set_result((answer, 0 if isinstance(replicas, BaseException) else replicas))
