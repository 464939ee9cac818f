"""The browser client where things happen in an unlucky order, against real nodes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from bridge.channels import Channel
from tests.browser.conftest import Connect, ForPages, in_both, ws_url
from tests.browser.relay import Relay
from tests.browser.runtimes import PATIENCE_S, CallFailed
from tests.chatserver.client import token
from tests.chatserver.conftest import Chat, RunningNode
from tests.proxy import Proxy
from tests.waiting import until


@in_both
async def test_a_room_that_cannot_be_joined_again_holds_up_its_own_calls_only(
    chat: Chat, node: RunningNode, connect: Connect
) -> None:
    await chat.done("room.open", "room:trade", {})
    async with Relay.start(node.url) as relay:
        client = await connect(relay.url, "u1", "lobby", "trade")
        kept: list[dict[str, Any]] = []
        said: list[str] = []

        def keep(frame: dict[str, Any]) -> bool:
            if frame["type"] == "say":
                said.append(frame["text"])
            if (frame["type"], frame.get("room")) == ("joined", "trade"):
                kept.append(frame)
            return frame in kept

        relay.swallow = keep
        await relay.close(1012)
        await until(lambda: kept, PATIENCE_S)
        waiting = await client.start("say", "trade", "when I am back")
        await client.call("say", "lobby", "now")
        await client.call("history", "lobby")
        await client.call("ping")
        assert await client.call("state") == "open"
        assert said == ["now"]
        await relay.push(kept[0])
        await asyncio.wait_for(waiting, PATIENCE_S)
        assert said == ["now", "when I am back"]


async def test_it_is_open_as_soon_as_it_is_connected(node: RunningNode, create: Connect) -> None:
    client = await create(node.url)
    assert await client.call("stateOnceConnected") == "open"


@in_both
async def test_a_token_that_cannot_be_read_is_asked_for_again(chat: Chat, node: RunningNode, connect: Connect) -> None:
    client = await connect(node.url, tokens=["<html>", json.dumps(token("u1"))], json=True)
    lost = await client.event("reconnecting", code=1006)
    assert lost["reason"].startswith("SyntaxError")
    await client.event("connected")
    assert await client.call("asked") == 2


async def test_an_address_that_is_none_ends_it(create: Connect) -> None:
    client = await create("no address")
    with pytest.raises(CallFailed) as refused:
        await client.call("connect")
    assert refused.value.name == "SyntaxError"
    assert (await client.end() or {})["name"] == "SyntaxError"


@pytest.mark.parametrize("type", ["message", "hello", "ping", "reconnect"])
async def test_what_a_plugin_publishes_under_a_name_of_ours_is_an_event_like_any_other(
    chat: Chat, node: RunningNode, connect: Connect, type: str
) -> None:
    lobby = Channel.of_subject("room:lobby", chat.bridge.shards)
    joins: list[dict[str, Any]] = []

    def count(frame: dict[str, Any]) -> bool:
        if frame["type"] == "join":
            joins.append(frame)
        return False

    async with Relay.start(node.url, count) as relay:
        client = await connect(relay.url, "u1", "lobby")
        for data in ({"odd": 1}, {"odd": 2}, {"user": "ada", "name": "Ada", "text": "after"}):
            await chat.bridge.channels.publish(lobby, "message" if "text" in data else type, data)
        assert [(await client.event(type))["data"] for _ in range(2)] == [{"odd": 1}, {"odd": 2}]
        await client.event("message", text="after")
        await client.call("ping")
        assert len(joins) == 1
        assert relay.accepted == 1


async def test_who_joins_and_leaves_in_one_breath_is_out_and_stays_out(
    chat: Chat, node: RunningNode, cable: Proxy, connect: Connect
) -> None:
    await chat.done("room.open", "room:trade", {})
    client = await connect(ws_url(cable), "u1", "trade")
    assert (await client.call("joinAndLeave", "lobby"))["type"] == "joined"
    cable.drop()
    await client.event("resumed", room="trade")
    await client.call("ping")
    await until(lambda: [set(session.rooms) for session in node.node.hub.clients] == [{"trade"}], PATIENCE_S)
    assert not [event for event in client.events if event.get("room") == "lobby"]


@pytest.mark.parametrize("when", ["both were under way", "nobody was reached"])
async def test_who_left_a_room_before_the_connection_was_back_is_out(
    chat: Chat, node: RunningNode, connect: Connect, when: str
) -> None:
    async with Relay.start(node.url) as relay:
        client = await connect(relay.url, "u1", random=0.01 if when == "both were under way" else 0.9)
        asked: list[str] = []

        def lose(frame: dict[str, Any]) -> bool:
            asked.append(frame["type"])
            return frame["type"] in ("join", "leave")

        relay.swallow = lose
        if when == "nobody was reached":
            await relay.close(1012)
            await client.event("reconnecting")
        joining, leaving = await client.start("join", "lobby"), await client.start("leave", "lobby")
        if when == "both were under way":
            await until(lambda: {"join", "leave"} <= set(asked), PATIENCE_S)
            await relay.close(1012)
        await asyncio.wait_for(leaving, PATIENCE_S)
        with pytest.raises(CallFailed):
            await asyncio.wait_for(joining, PATIENCE_S)
        asked.clear()
        await client.event("connected") if when == "nobody was reached" else await client.event("reconnecting")
        await client.call("ping")
        assert "join" not in asked


async def test_a_room_that_one_is_not_in_is_left_already(node: RunningNode, connect: Connect) -> None:
    client = await connect(node.url, "u1", "lobby")
    await client.call("leave", "trade")
    await client.call("leave", "lobby")
    await client.call("leave", "lobby")


async def test_what_was_said_before_a_long_sleep_is_not_said_again_after_it(
    chat: Chat, node: RunningNode, connect: Connect
) -> None:
    async with Relay.start(node.url) as relay:
        client = await connect(relay.url, "u1", "lobby")
        said: list[str] = []

        def lose(frame: dict[str, Any]) -> bool:
            if frame["type"] == "say":
                said.append(frame["text"])
            return frame["type"] == "ok"

        relay.swallow = lose
        saying = await client.start("say", "lobby", "once")
        await client.event("message", text="once")
        await client.call("oversleep", 11 * 60_000)
        await relay.close(1012)
        with pytest.raises(CallFailed) as refused:
            await asyncio.wait_for(saying, PATIENCE_S)
        assert (refused.value.code, refused.value.temporary) == ("unavailable", True)
        relay.swallow = lambda frame: False
        await client.call("say", "lobby", "awake")
        assert said == ["once"]


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_its_signal_keeps_nothing_of_it(node: RunningNode, connect: Connect, end: str) -> None:
    client = await connect(node.url)
    assert await client.call("abortListeners") == 1
    await client.call(end)
    assert await client.call("abortListeners") == 0


@pytest.mark.parametrize("why", ["kicked meanwhile", "too many a second"])
async def test_a_repeated_say_is_not_told_to_be_unsaid(
    chat: Chat, node: RunningNode, connect: Connect, why: str
) -> None:
    slow = await chat.start_node("slow", messages_per_s=0.5, **ForPages)  # a burst of one
    await chat.client(slow, "u1")  # whose bucket is kept, therefore
    async with Relay.start(slow.url) as relay:
        client = await connect(relay.url, "u1", "lobby", random=0.01)
        relay.swallow = lambda frame: frame["type"] == "ok"
        saying = await client.start("say", "lobby", "once")
        said = await client.event("message", text="once")
        if why == "kicked meanwhile":
            await chat.done("member.kick", "room:lobby", {"user": "u1"}, reason="spam")
            await client.event("sanction", kind="kick")
        relay.swallow = lambda frame: False
        await relay.close(1012)
        if why == "kicked meanwhile":
            with pytest.raises(CallFailed) as refused:
                await asyncio.wait_for(saying, PATIENCE_S)
            assert (refused.value.code, refused.value.temporary) == ("unavailable", True), "nobody knows"
        else:
            assert (await asyncio.wait_for(saying, PATIENCE_S))["message_id"] == said["message_id"]


class TestAShortHistory:
    @pytest.fixture
    def bridge_settings(self) -> dict[str, Any]:
        return {"history_length": 20}

    async def test_that_much_was_missed_is_told_to_who_reads_late(
        self, chat: Chat, node: RunningNode, connect: Connect
    ) -> None:
        speaker = await chat.client(node, "ada", "lobby")
        async with Relay.start(node.url) as relay:
            client = await connect(relay.url, "u1", "lobby")
            await client.call("hold")
            for number in range(2010):
                await relay.push({"type": "notice", "room": None, "level": "info", "text": f"{number}", "seconds": 1})
            back = asyncio.Event()

            def lose(frame: dict[str, Any]) -> bool:
                if frame["type"] == "joined":
                    back.set()
                return frame["type"] == "message"

            relay.swallow = lose
            for number in range(300):
                await speaker.say("lobby", f"message {number}")
            await relay.close(1012)
            await asyncio.wait_for(back.wait(), PATIENCE_S)
            await client.call("ping")  # what was sent before has arrived
            relay.swallow = lambda frame: False
            await client.call("read")
            assert (await client.event("lagged"))["events"] >= 11, "more than 2,000, reconnecting, connected"
            resumed = await client.event("resumed", recovered=False)
            assert resumed["messages"][-1]["text"] == "message 299"
            await speaker.say("lobby", "after")
            assert await client.messages(1) == ["after"]
