"""A node's websockets by way of this process, where frames can be swallowed and connections closed with a code."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

PROTOCOL = Subprotocol("bridge.v1")


class Relay:
    """Clients connect to ``url``; ``swallow`` says which frames do not arrive."""

    def __init__(self, target: str, swallow: Callable[[dict[str, Any]], bool]) -> None:
        self._target, self.swallow = target, swallow
        self.url = ""
        self.accepted = 0
        self._clients: set[ServerConnection] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, target: str, swallow: Callable[[dict[str, Any]], bool] = lambda frame: False
    ) -> AsyncIterator[Self]:
        relay = cls(target, swallow)
        async with serve(relay._serve, "127.0.0.1", 0, subprotocols=[PROTOCOL]) as server:
            relay.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
            yield relay

    @property
    def connections(self) -> int:
        return len(self._clients)

    async def push(self, frame: dict[str, Any]) -> None:
        """A frame of ours to every client."""
        for client in self._clients:
            await client.send(json.dumps(frame))

    async def close(self, code: int) -> None:
        """Close every connection as a node would."""
        for client in tuple(self._clients):
            await client.close(code, "by the relay")

    async def _serve(self, client: ServerConnection) -> None:
        self.accepted += 1
        async with connect(self._target, subprotocols=[PROTOCOL], compression=None) as node:
            self._clients.add(client)
            forth = asyncio.create_task(self._forward(client, node))
            back = asyncio.create_task(self._forward(node, client))
            await asyncio.wait((forth, back), return_when=asyncio.FIRST_COMPLETED)
            self._clients.discard(client)
            for task in (forth, back):
                task.cancel()
            await asyncio.gather(forth, back, return_exceptions=True)

    async def _forward(self, source: Any, sink: Any) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in source:
                if not self.swallow(json.loads(text)):
                    await sink.send(text)
