"""Clients sent elsewhere in groups, so that the nodes they go to are not run over by all of them at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from chatserver import frames
from chatserver.frames import Close
from chatserver.hub import Client, Hub

GROUP: Final = 50  # clients at once, where the time allows groups so small
PAUSE_S: Final = 0.25  # between two groups, on average, where the time allows it
RECONNECT_MS: Final = 2000  # clients come back within this, each at a time of its own


def schedule(clients: int, within_s: float, chance: random.Random) -> list[tuple[float, int]]:
    """When each group goes, in seconds from now, and how many clients it has; the first goes at once.

    The pauses are uneven, so that nodes that end together do not send their groups together.
    """
    if not clients:
        return []
    groups = max(1, min(-(-clients // GROUP), int(within_s / PAUSE_S) + 1))
    pauses = [chance.uniform(0.5, 1.5) for _ in range(groups - 1)]
    stretch = PAUSE_S * len(pauses) / sum(pauses) if pauses else 0.0
    sizes = [clients // groups + (i < clients % groups) for i in range(groups)]
    return list(zip((stretch * at for at in accumulate(pauses, initial=0.0)), sizes, strict=True))


class HandOver:
    """Sends everybody on a node elsewhere, within some seconds. One pass at a time."""

    def __init__(self, hub: Hub, within_s: float, chance: random.Random | None = None) -> None:
        self._hub, self._within_s, self._chance = hub, within_s, chance or random.Random()
        self._passing = asyncio.Lock()

    async def run(self, reason: str, wanted: Callable[[], bool]) -> None:
        """Until nobody is left whom nothing was told, or it is not ``wanted`` any more."""
        async with self._passing:
            while wanted() and (clients := self._to_be_told()):
                await self._pass(clients, reason, wanted)

    def _to_be_told(self) -> list[Client]:
        clients = [client for client in self._hub.clients if client.socket.is_open]
        self._chance.shuffle(clients)
        return clients

    async def _pass(self, clients: Sequence[Client], reason: str, wanted: Callable[[], bool]) -> None:
        began, done = asyncio.get_running_loop().time(), 0
        for at, size in schedule(len(clients), self._within_s, self._chance):
            await asyncio.sleep(began + at - asyncio.get_running_loop().time())
            if not wanted():
                return
            for client in clients[done : done + size]:
                client.socket.push(frames.reconnect(self._chance.randrange(RECONNECT_MS), reason))
                client.socket.shut(Close.RESTART, reason)
            done += size
