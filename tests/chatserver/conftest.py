"""Nodes in this process, and an operator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.record import Outcome
from chatserver.config import ChatSettings
from chatserver.node import ChatNode, Ready
from tests.chatserver.client import SECRET, ChatClient, signed_in
from tests.chatserver.process import Process, Spawn
from tests.servers import Server

SHARDS = 4


class RunningNode:
    """A node as a task of this test."""

    def __init__(self, node: ChatNode) -> None:
        self.node, self.stopping = node, asyncio.Event()
        self.where: Ready
        self._task: asyncio.Task[None]

    @property
    def url(self) -> str:
        return self.where.url

    @property
    def http(self) -> str:
        return self.where.health_url.removesuffix("/healthz")

    async def start(self) -> None:
        ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self.node.run(self.stopping, ready.set_result))
        await asyncio.wait((self._task, ready), return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            ready.cancel()
            await self._task
        self.where = ready.result()

    async def stop(self) -> None:
        self.stopping.set()
        await self._task


class Chat:
    """What a test of the chat needs: nodes, an operator, clients."""

    def __init__(self, bridge: Bridge, settings: BridgeSettings) -> None:
        self.bridge, self._settings = bridge, settings
        self.nodes: list[RunningNode] = []
        self._clients = contextlib.AsyncExitStack()

    async def start_node(self, name: str = "node-a", redis_url: str | None = None, **settings: Any) -> RunningNode:
        running = self.make_node(name, redis_url, **settings)
        await running.start()
        self.nodes.append(running)
        return running

    def make_node(self, name: str = "node-a", redis_url: str | None = None, **settings: Any) -> RunningNode:
        """One that has not begun yet."""
        load: Callable[[], ChatSettings] | None = settings.pop("load_settings", None)
        values = {"port": 0, "node_name": name, "jwt_key": SECRET, "messages_per_s": 1000, **settings}
        bridge_settings = self._settings
        if redis_url is not None:
            bridge_settings = BridgeSettings(redis_url=SecretStr(redis_url), shards=SHARDS)
        return RunningNode(ChatNode(ChatSettings(**values), bridge_settings, load_settings=load))

    async def operate(self, type: str, subject: str, payload: dict[str, Any] | None = None, **fields: Any) -> Outcome:
        """Issue a command and wait until it ended."""
        receipt = await self.bridge.publish(type, subject, payload or {}, by="op", **fields)
        outcome = await self.bridge.outcome(receipt.id, wait=30)
        assert outcome is not None
        assert outcome.ended, outcome
        return outcome

    async def done(self, type: str, subject: str, payload: dict[str, Any] | None = None, **fields: Any) -> Outcome:
        outcome = await self.operate(type, subject, payload, **fields)
        assert outcome.state == "done", outcome
        return outcome

    async def client(self, node: RunningNode, user: str = "u1", *rooms: str, **claims: Any) -> ChatClient:
        """A client that stays for the rest of the test."""
        return await self._clients.enter_async_context(signed_in(node.url, user, *rooms, **claims))

    async def close(self) -> None:
        await self._clients.aclose()
        await asyncio.gather(*(node.stop() for node in self.nodes))


@pytest.fixture
async def chat(server: Server) -> AsyncIterator[Chat]:
    settings = BridgeSettings(redis_url=SecretStr(server.url), shards=SHARDS)
    async with Bridge.connect(settings, timeout=10) as bridge:  # the operator's; nodes have the timeout of every day
        chat = Chat(bridge, settings)
        try:
            yield chat
        finally:
            await chat.close()


@pytest.fixture
async def node(chat: Chat) -> RunningNode:
    """One node, with the room ``lobby``."""
    running = await chat.start_node()
    await chat.done("room.open", "room:lobby", {"title": "Lobby"})
    return running


@pytest.fixture
async def two_nodes(chat: Chat) -> tuple[RunningNode, RunningNode]:
    """Two nodes, with the room ``lobby``."""
    both = await asyncio.gather(chat.start_node("node-a"), chat.start_node("node-b"))
    await chat.done("room.open", "room:lobby", {"title": "Lobby"})
    return both[0], both[1]


@pytest.fixture
async def spawn(tmp_path: Path) -> AsyncIterator[Spawn]:
    spawned: list[Process] = []

    def start(*arguments: str, **settings: str) -> Process:
        spawned.append(Process(tmp_path, *arguments, **settings))
        return spawned[-1]

    yield start
    for process in spawned:
        process.popen.kill()
        process.popen.wait()
        assert process.popen.stdout is not None
        process.popen.stdout.close()
