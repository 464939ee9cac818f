"""The Python client, on real nodes: it stays in its rooms and says things once, whatever becomes of its connection."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import pytest

from bridge.chat.client import (
    ChatClient,
    ChatError,
    Connected,
    Message,
    Reconnecting,
    Resumed,
)
from tests.chatserver.client import token
from tests.chatserver.conftest import Chat, RunningNode

Pair = tuple[RunningNode, RunningNode]
E = TypeVar("E")


async def event(client: ChatClient, kind: type[E], **fields: Any) -> E:
    """The next event of this kind with these fields; others are passed over."""
    async with asyncio.timeout(20):
        async for each in client:
            if isinstance(each, kind) and all(getattr(each, name) == value for name, value in fields.items()):
                return each
    raise AssertionError("the client ended")


async def test_what_one_says_the_others_are_told(two_nodes: Pair) -> None:
    first, second = two_nodes
    async with (
        ChatClient(first.url, token("u1", name="Ann")) as speaker,
        ChatClient([second.url], lambda: token("u2")) as listener,
    ):
        joined = await listener.join("lobby")
        assert (joined.room, joined.state, joined.recovered) == ("lobby", "open", False)
        await speaker.join("lobby")
        said = await speaker.say("lobby", "hello ☀")
        message = await event(listener, Message)
        assert message == Message("lobby", said.offset, said.message_id, "u1", "Ann", "hello ☀", said.ts)
        assert (await listener.history("lobby")).messages == (message,)
        assert {user.user for user in (await speaker.presence("lobby")).users} == {"u1", "u2"}
        assert await speaker.ping() < 10
        await speaker.leave("lobby")
        with pytest.raises(ChatError) as refused:
            await speaker.say("lobby", "gone")
        assert (refused.value.code, refused.value.temporary) == ("not_joined", False)


async def test_a_node_that_stops_hands_its_client_to_another_without_a_gap(chat: Chat, two_nodes: Pair) -> None:
    first, second = two_nodes
    speaker = await chat.client(second, "u2", "lobby")
    urls = [first.url]
    async with ChatClient(lambda: urls, token("u1")) as client:
        await client.join("lobby")
        urls.append(second.url)
        before = await speaker.say("lobby", "before")
        leaving = asyncio.create_task(first.stop())
        gone = await event(client, Reconnecting)
        assert (gone.code, gone.url) == (1012, first.url)
        said = [await speaker.say("lobby", f"message {i}") for i in range(500)]
        assert (await event(client, Connected)).node == "node-b"
        assert (await event(client, Resumed)).recovered is True
        for answer in said:
            assert (await event(client, Message)).offset == answer["offset"]
        assert said[0]["offset"] == before["offset"] + 1
        await leaving
    chat.nodes.remove(first)
