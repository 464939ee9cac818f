"""The browser client where things happen in an unlucky order, against real nodes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from bridge.channels import Channel
from tests.browser.conftest import Connect, in_both
from tests.browser.relay import Relay
from tests.browser.runtimes import PATIENCE_S, CallFailed
from tests.chatserver.client import token
from tests.chatserver.conftest import Chat, RunningNode
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
