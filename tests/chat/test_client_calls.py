"""Calls of the Python client that outlive a connection: none takes effect twice, none after it was taken back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from bridge.chat.client import ChatClient, ChatError, Connected, Message, Reconnecting
from bridge.chat.client_calls import REPEAT_MOST_S
from tests.chat.reading import Least, event
from tests.chat.relay import Relay, relayed
from tests.chatserver.client import token
from tests.chatserver.conftest import Chat, RunningNode
from tests.waiting import until


class Away:
    """A client that can be kept from connecting."""

    def __init__(self, relay: Relay, client: ChatClient, urls: list[str]) -> None:
        self.relay, self.client, self._urls = relay, client, urls

    async def cut(self, type_: str) -> None:
        """Cut it off at the next frame of this type, and keep it away, once that came."""
        self._urls.clear()
        self.relay.cut_at = lambda frame: frame["type"] == type_
        await event(self.client, Reconnecting)
        self.relay.cut_at = lambda frame: False

    def heal(self) -> None:
        self._urls.append(self.relay.url)

    def count(self, type_: str) -> int:
        """Frames of this type that were seen, either way."""
        return sum(frame["type"] == type_ for frame in self.relay.frames)


@contextlib.asynccontextmanager
async def around(node: RunningNode, patience_s: float = 30) -> AsyncIterator[Away]:
    async with relayed(node.url) as relay:
        urls = [relay.url]
        async with ChatClient(lambda: urls, token("u1"), rng=Least(), patience_s=patience_s) as client:
            yield Away(relay, client, urls)


@pytest.mark.parametrize(("patience_s", "slept_s"), [(30, 31), (100_000, REPEAT_MOST_S + 1)])
async def test_what_was_perhaps_said_before_the_machine_slept_is_not_said_again(
    node: RunningNode, patience_s: float, slept_s: float
) -> None:
    async with around(node, patience_s) as away:
        client, calls = away.client, away.client._calls
        await client.join("lobby")
        saying = asyncio.create_task(client.say("lobby", "once"))
        await away.cut("ok")
        now = calls.clock()
        calls.clock = lambda: now + slept_s  # timers stand still while a machine sleeps
        away.heal()
        with pytest.raises(ChatError) as unknown:
            await saying
        assert (unknown.value.code, unknown.value.temporary) == ("timeout", True)
        assert away.count("say") == 1
        assert [m.text for m in (await client.history("lobby")).messages if isinstance(m, Message)] == ["once"]


async def test_a_room_that_is_left_before_its_join_is_answered_is_not_joined(node: RunningNode) -> None:
    async with around(node) as away:
        client = away.client
        joining = asyncio.create_task(client.join("lobby"))
        leaving = asyncio.create_task(client.leave("lobby"))
        assert (await joining).room == "lobby"
        await leaving
        assert client.rooms == {}
        pinging = asyncio.create_task(client.ping())
        await away.cut("pong")
        away.heal()
        await event(client, Connected)
        await pinging
        assert away.count("join") == 1
        await asyncio.gather(client.leave("lobby"), client.join("lobby"))
        assert list(client.rooms) == ["lobby"], "a join behind it counts"


async def test_a_join_that_waits_for_a_connection_is_taken_back_by_a_leave(chat: Chat, node: RunningNode) -> None:
    await chat.done("room.open", "room:other")
    async with around(node) as away:
        client = away.client
        joining = asyncio.create_task(client.join("lobby"))
        other = asyncio.create_task(client.join("other"))
        await away.cut("joined")
        await client.leave("lobby")
        with pytest.raises(ChatError) as left:
            await joining
        assert (left.value.code, left.value.temporary) == ("not_joined", False)
        again = asyncio.create_task(client.join("lobby"))
        await until(lambda: len(client._calls._calls) == 2)
        await client.leave("lobby")
        away.heal()
        with pytest.raises(ChatError):
            await again
        await other
        assert list(client.rooms) == ["other"]
        assert (await client.presence("other")).count == 1
        with pytest.raises(ChatError):
            await client.presence("lobby")
