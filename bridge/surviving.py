"""Whether what has ended would survive the loss of its primary: done is told of what a replica has, if there is one."""

from __future__ import annotations

import time

from bridge.connection import Redis
from bridge.errors import BridgeError
from bridge.keys import Keys
from bridge.replicated import Replicated
from bridge.scripts import script

REPLICA_LAGS_S = 10  # one that has been silent for longer is not waited for
_ALONE_FOR_S = 1.0  # a primary without replicas is believed to have none
_REMEMBERED = 10_000


class Surviving:
    """Outcomes of one process that replicas have confirmed."""

    def __init__(self, redis: Redis, keys: Keys, replicated: Replicated) -> None:
        self._redis, self._keys, self._replicated = redis, keys, replicated
        self._confirmed: dict[str, None] = {}  # ids, the oldest first
        self._alone: dict[int, float] = {}  # shard → when its primary had no replica

    async def close(self) -> None:
        await self._replicated.close()

    async def has(self, shard: int, id: str) -> bool:
        """Whether a replica has the outcome, or there is none to have it. False: perhaps later."""
        if id in self._confirmed or time.monotonic() - self._alone.get(shard, -_ALONE_FOR_S) < _ALONE_FOR_S:
            return True
        key = self._keys.outcome(shard, id)
        try:
            if not await self._redis.run(script("replicas"), (key,), (REPLICA_LAGS_S,)):
                self._alone[shard] = time.monotonic()
                return True
            _, replicas = await self._replicated.run(script("touch"), (key,), ())
        except BridgeError:
            return False
        if replicas:
            self._confirmed[id] = None
            while len(self._confirmed) > _REMEMBERED:
                del self._confirmed[next(iter(self._confirmed))]
        return bool(replicas)
