from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest

from bridge.channels import Channel
from bridge.chat.events import message_id
from bridge.chat.history import read_history
from bridge.chat.state import state_key
from bridge.client import Bridge
from tests.servers import Server


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Bridge]:
    async with Bridge.connect(server.url, shards=4) as connected:
        yield connected


async def test_history_is_newest_first_and_hides_what_was_deleted(store: Bridge) -> None:
    channel = Channel.of_subject("room:lobby", store.shards)
    places = []
    for type, data in (
        ("message", {"user": "u1", "name": "Ann", "text": "one"}),
        ("room", {"state": "open", "slow_mode_s": 0, "title": "x"}),
        ("message", {"user": "u2", "name": "Bea", "text": "two"}),
        ("notice", {"level": "info", "text": "three"}),
    ):
        places.append(await store.channels.publish(channel, type, data))
    gone = message_id(places[2].epoch, places[2].offset)
    await store.redis.call("SET", state_key(store, "room:lobby", "deleted"), orjson.dumps({gone: "op"}))
    history = await read_history(store, "lobby")
    assert [(item.offset, item.kind, item.text) for item in history] == [
        (4, "notice", "three"),
        (3, "message", None),
        (1, "message", "one"),
    ]
    assert (history[1].deleted_by, history[1].user, history[1].message_id) == ("op", "u2", gone)
    assert [item.offset for item in await read_history(store, "lobby", before=3)] == [1]
    assert [item.offset for item in await read_history(store, "lobby", limit=1)] == [4]


async def test_a_page_of_history_is_full_even_where_the_log_has_other_things(store: Bridge) -> None:
    channel = Channel.of_subject("room:lobby", store.shards)
    for i in range(10):
        await store.channels.publish(channel, "message", {"user": "u1", "name": "u1", "text": str(i)})
        for _ in range(20):
            await store.channels.publish(channel, "deleted", {"message_ids": [], "by": "op"})
    assert [item.text for item in await read_history(store, "lobby", limit=5)] == ["9", "8", "7", "6", "5"]


@pytest.mark.parametrize("data", [{"text": "You found a sword"}, {"user": 7, "name": "x", "text": "x"}, {}])
@pytest.mark.parametrize("type", ["message", "notice", "deleted", "room"])
async def test_a_publication_that_only_has_a_name_of_ours_is_no_history(
    store: Bridge, type: str, data: dict[str, object]
) -> None:
    channel = Channel.of_subject("room:lobby", store.shards)
    await store.channels.publish(channel, type, data)
    await store.channels.publish(channel, "message", {"user": "u1", "name": "u1", "text": "x"})
    assert [item.offset for item in await read_history(store, "lobby")] == [2]
