"""A websocket between a client and a node that loses single frames, or breaks at one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.chatserver.schemas import check_received, check_sent

Frame = dict[str, Any]
PROTOCOLS = [Subprotocol("bridge.v1")]


class Relay:
    """``lose`` and ``cut_at`` look at every frame: those that clients send have an ``id``, as their answers do."""

    def __init__(self, target: str) -> None:
        self.target, self.url = target, ""
        self.frames: list[Frame] = []  # as they came, either way
        self.lose: Callable[[Frame], bool] = lambda frame: False
        self.cut_at: Callable[[Frame], bool] = lambda frame: False  # the frame is lost, and both sides are reset
        self.before: Callable[[Frame], list[Frame]] = lambda frame: []  # what is passed on before it
        self.instead: Callable[[Frame], Any] = lambda frame: frame  # what is passed on
        self.held = asyncio.Event()  # clear it, and what nodes send waits
        self.held.set()
        self.visits = 0

    async def visit(self, client: ServerConnection) -> None:
        self.visits += 1
        async with connect(self.target, subprotocols=PROTOCOLS, compression=None) as node:
            ways = [asyncio.create_task(self._carry(*way)) for way in ((client, node), (node, client))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for task in ways:
                task.cancel()
            await asyncio.wait(ways)

    async def _carry(
        self, source: ServerConnection | ClientConnection, sink: ServerConnection | ClientConnection
    ) -> None:
        try:
            async for message in source:
                frame = json.loads(message)
                self.frames.append(frame)
                (check_received if isinstance(source, ClientConnection) else check_sent)(frame)
                if isinstance(source, ClientConnection):
                    await self.held.wait()
                if self.cut_at(frame):
                    source.transport.abort()
                    sink.transport.abort()
                elif not self.lose(frame):
                    for first in self.before(frame):
                        await sink.send(json.dumps(first))
                    passed_on = self.instead(frame)
                    await sink.send(message if passed_on is frame else json.dumps(passed_on))
            await sink.close(source.close_code or 1000, source.close_reason or "")
        except ConnectionClosed:
            await sink.close(source.close_code or 1011) if source.close_code != 1006 else sink.transport.abort()


@contextlib.asynccontextmanager
async def relayed(target: str) -> AsyncIterator[Relay]:
    relay = Relay(target)
    async with serve(relay.visit, "127.0.0.1", 0, subprotocols=PROTOCOLS, compression=None) as server:
        relay.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
        yield relay
        for connection in server.connections:
            connection.transport.abort()
