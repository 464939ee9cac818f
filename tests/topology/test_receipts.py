"""Chat nodes on a cluster: every node answers every command, also after a fail-over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from pydantic import SecretStr

from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.errors import BridgeError
from bridge.receipts import Answers
from tests.chatserver.conftest import Chat
from tests.topologies import ManyServers
from tests.waiting import until

USERS = [f"u{i}" for i in range(24)]


@pytest.fixture
async def slow_cluster(start_topology: Callable[..., Awaitable[ManyServers]]) -> ManyServers:
    return await start_topology(ManyServers, node_timeout_ms=2000)  # a node's calls take up to a second


@pytest.fixture
async def chat(slow_cluster: ManyServers) -> AsyncIterator[Chat]:
    settings = BridgeSettings(redis_url=SecretStr(slow_cluster.url), shards=12)
    async with Bridge.connect(settings) as bridge:
        chat = Chat(bridge, settings)
        try:
            yield chat
        finally:
            await chat.close()


async def answered(chat: Chat, type: str, user: str, **payload: Any) -> dict[str, int]:
    """What the nodes say of a command that is repeated until it was accepted, once all have said it."""

    async def outcome() -> Any:
        try:
            return await chat.operate(type, f"user:{user}", payload, idempotency_key=type)
        except (BridgeError, AssertionError):  # its server is being replaced
            return None

    ended = await until(outcome, 30)
    answers: Answers = await until(lambda: _complete(chat, ended), 30)
    return {touched.node: touched.sessions for touched in answers.receipts}


async def _complete(chat: Chat, outcome: Any) -> Answers | None:
    try:
        answers = await chat.bridge.receipts.read(outcome)
    except BridgeError:
        return None
    return None if answers.missing else answers


async def test_every_node_answers_every_command_also_after_a_fail_over(slow_cluster: ManyServers, chat: Chat) -> None:
    here, _ = await asyncio.gather(chat.start_node("node-a"), chat.start_node("node-b"))
    clients = [await chat.client(here, user) for user in USERS]
    both = {"node-a": 1, "node-b": 0}
    warned = await asyncio.gather(*(answered(chat, "user.warn", user, text="x") for user in USERS))
    assert warned == [both] * len(USERS)
    primary = await slow_cluster.owner(chat.bridge.keys.commands(0))
    primary.kill()
    await slow_cluster.promoted(primary)
    kicked = await asyncio.gather(*(answered(chat, "user.kick", user) for user in USERS))
    assert kicked == [both] * len(USERS)
    assert await asyncio.gather(*(client.close_code() for client in clients)) == [4503] * len(USERS)
