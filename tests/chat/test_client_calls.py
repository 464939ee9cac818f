"""Calls of the Python client that outlive a connection: none takes effect twice, none after it was taken back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridge.chat.client import (
    ChatClient,
    ChatError,
    Connected,
    Message,
    Reconnecting,
    Resumed,
    RoomLost,
    Sanctioned,
)
from bridge.chat.client_calls import REPEAT_MOST_S
from tests.chat.reading import Least, event, texts
from tests.chat.relay import Relay, relayed
from tests.chatserver.client import signed_in, token
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


async def test_of_what_was_perhaps_said_a_node_that_did_not_look_tells_nothing(chat: Chat, node: RunningNode) -> None:
    async with around(node) as away:
        client = away.client
        await client.join("lobby")
        saying = asyncio.create_task(client.say("lobby", "once"))
        await away.cut("ok")
        await chat.done("room.close", "room:lobby")
        away.heal()
        await event(client, RoomLost)
        with pytest.raises(ChatError, match="not_joined") as unknown:
            await saying
        assert (unknown.value.code, unknown.value.temporary) == ("timeout", True)
        with pytest.raises(ChatError) as refused:
            await client.say("lobby", "never said")
        assert refused.value.code == "not_joined", "what was not sent before was not said"


@pytest.mark.parametrize("code", ["rate_limited", "unavailable"])
async def test_what_was_perhaps_said_is_repeated_where_the_node_cannot_look(node: RunningNode, code: str) -> None:
    async with around(node) as away:
        client = away.client
        await client.join("lobby")
        saying = asyncio.create_task(client.say("lobby", "once"))
        await away.cut("ok")
        refusal = {"type": "error", "code": code, "message": "", "temporary": True, "retry_after_ms": 1}
        refused: list[dict[str, Any]] = []

        def instead(frame: dict[str, Any]) -> Any:
            if frame["type"] != "ok" or refused:
                return frame
            refused.append(frame)
            return refusal | {"id": frame["id"]}

        away.relay.instead = instead
        away.heal()
        said = await saying
        assert (away.count("say"), len(refused)) == (3, 1)
        found = [m for m in (await client.history("lobby")).messages if isinstance(m, Message)]
        assert [(m.text, m.offset) for m in found] == [("once", said.offset)]


async def test_a_node_that_is_slow_and_alive_is_waited_for(node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.chat.client_socket.ANSWER_S", 1.5)
    async with around(node) as away:
        client, loop = away.client, asyncio.get_running_loop()
        lost: list[dict[str, Any]] = []

        def lose(frame: dict[str, Any]) -> bool:
            if frame["type"] == "ping" and not lost:
                lost.append(frame)
                return True
            return False

        away.relay.lose = lose
        slow, alive = asyncio.create_task(client.ping()), asyncio.create_task(client.ping())
        asked_at = loop.time()
        await alive
        await until(lambda: loop.time() > asked_at + 1.6)
        assert not slow.done(), "no answer is not the end of it where the node is alive"
        assert (away.relay.visits, len(lost)) == (1, 1)
        slow.cancel()


async def test_a_say_that_waits_for_a_room_is_told_when_the_room_is_left(node: RunningNode) -> None:
    async with around(node) as away:
        client = away.client
        await client.join("lobby")
        pinging = asyncio.create_task(client.ping())
        await away.cut("pong")
        away.relay.lose = lambda frame: frame["type"] == "join"
        away.heal()
        await event(client, Connected)
        await pinging
        saying = asyncio.create_task(client.say("lobby", "never sent"))
        await until(lambda: len(client._calls._calls) == 1)
        await client.leave("lobby")
        with pytest.raises(ChatError) as refused:
            await saying
        assert refused.value.code == "not_joined"


async def test_who_is_kicked_while_being_joined_again_is_out_at_the_node_too(chat: Chat, node: RunningNode) -> None:
    async with around(node) as away, signed_in(node.url, "u2", "lobby") as other:
        client = away.client
        await client.join("lobby")
        pinging = asyncio.create_task(client.ping())
        await away.cut("pong")
        kick = {"type": "sanction", "kind": "kick", "room": "lobby", "until": None, "reason": None, "command_id": None}
        away.relay.before = lambda frame: [kick] if frame["type"] == "joined" else []
        away.heal()
        assert (await event(client, Sanctioned)).kind == "kick"
        await pinging
        assert client.rooms == {}
        await until(lambda: away.count("leave") == 1)

        async def alone() -> bool:
            return bool((await other.ask("presence", room="lobby"))["count"] == 1)

        await until(alone)


async def test_what_a_join_gave_is_not_told_again(chat: Chat, node: RunningNode) -> None:
    speaker = await chat.client(node, "u2", "lobby")
    async with around(node) as away:
        client, relay = away.client, away.relay
        await client.join("lobby")
        relay.held.clear()

        def lose(frame: dict[str, Any]) -> bool:
            if frame.get("text") == "1" and frame["type"] == "message":
                relay.held.clear()  # what comes behind it waits until the hole is seen
            return frame["type"] == "message" and frame["text"] == "0"

        relay.lose = lose
        await speaker.say("lobby", "0")
        await speaker.say("lobby", "1")
        joining = asyncio.create_task(client.join("lobby"))
        await until(lambda: away.count("join") == 2)
        relay.held.set()
        await until(lambda: away.count("join") == 3)
        relay.held.set()
        joined = await joining
        assert [m.text for m in joined.messages if isinstance(m, Message)] == ["0", "1"]
        assert (await event(client, Resumed)).recovered is True
        await speaker.say("lobby", "2")
        assert await texts(client, "2") == ["2"]


async def test_a_reader_may_read_on_while_the_connection_comes_down(chat: Chat, node: RunningNode) -> None:
    speaker = await chat.client(node, "u2", "lobby")
    asked, ending, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    lives = [0.5]  # the node forgives 5 s

    async def source() -> str:
        if lives:
            return token("u1", seconds=lives.pop())
        if not asked.is_set():
            asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ending.set()
                await ended.wait()
                raise
        return token("u1")

    async with relayed(node.url) as relay, ChatClient(relay.url, source, rng=Least(), max_events=10) as client:
        await client.join("lobby")
        for number in range(20):
            await speaker.say("lobby", str(number))
        await until(lambda: client._rooms._behind)
        await asked.wait()
        relay.cut_at = lambda frame: frame["type"] == "message" and frame["text"] == "20"
        await speaker.say("lobby", "20")
        await ending.wait()
        relay.cut_at = lambda frame: False
        first = [await anext(client) for _ in range(8)]
        ended.set()
        assert [m.text for m in first if isinstance(m, Message)] == [str(number) for number in range(8)]
        assert await texts(client, "20") == [str(number) for number in range(8, 21)]
