"""The Python client, on real nodes: it stays in its rooms and says things once, whatever becomes of its connection."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.channels import Channel
from bridge.chat.client import (
    RENEWAL_LEAST_S,
    ChatClient,
    ChatError,
    Closed,
    Connected,
    Event,
    Lagged,
    Message,
    Notice,
    Position,
    Published,
    Reconnecting,
    Resumed,
    RoomChanged,
    RoomLost,
    Sanctioned,
)
from bridge.errors import Misconfigured
from tests.chat.reading import Least, event, texts
from tests.chat.relay import relayed
from tests.chatserver.client import signed_in, token
from tests.chatserver.conftest import Chat, RunningNode
from tests.chatserver.process import Spawn, settings
from tests.servers import Server
from tests.waiting import until

Pair = tuple[RunningNode, RunningNode]
ROOT = Path(__file__).parents[2]
NOBODY = "ws://127.0.0.1:9/ws"


async def ending(client: ChatClient) -> Closed:
    """What ends the events."""
    with pytest.raises(Closed) as closed:
        await event(client, Message)
    return closed.value


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
        assert (speaker.url, speaker.ready["node"]) == (first.url, "node-a")
        await speaker.leave("lobby")
        await speaker.leave("lobby")
        with pytest.raises(ChatError) as refused:
            await speaker.say("lobby", "gone")
        assert (refused.value.code, refused.value.temporary) == ("not_joined", False)


async def test_operators_doings_come_as_events(chat: Chat, node: RunningNode) -> None:
    async with ChatClient(node.url, token("u1")) as client:
        await client.join("lobby")
        said = await client.say("lobby", "one")
        await chat.done("notice.post", "room:lobby", {"text": "kept", "level": "warning"})
        await chat.done("message.delete", "room:lobby", {"message_ids": [said.message_id]})
        await chat.done("room.slow_mode", "room:lobby", {"seconds": 3})
        await chat.done("member.mute", "room:lobby", {"user": "u1"}, reason="spam")
        await chat.bridge.broadcast("notice.flash", "all", {"text": "seen once", "level": "info", "seconds": 9})
        notice = await event(client, Notice)
        assert (notice.text, notice.level, notice.offset) == ("kept", "warning", said.offset + 1)
        changed = await event(client, RoomChanged)
        assert (changed.slow_mode_s, changed.offset) == (3, said.offset + 3)
        sanctioned = await event(client, Sanctioned)
        assert (sanctioned.kind, sanctioned.room, sanctioned.reason) == ("mute", "lobby", "spam")
        flashed = await event(client, Notice)
        assert (flashed.room, flashed.offset, flashed.seconds) == (None, None, 9)
        with pytest.raises(ChatError) as refused:
            await client.say("lobby", "two")
        assert refused.value.code == "muted"
        assert [m.text for m in (await client.history("lobby")).messages if isinstance(m, Message)] == [None]


# away and back


async def test_a_node_that_stops_hands_its_client_to_another_without_a_gap(chat: Chat, two_nodes: Pair) -> None:
    first, second = two_nodes
    speaker = await chat.client(second, "u2", "lobby")
    urls = [first.url]
    async with ChatClient(lambda: urls, token("u1")) as client:
        await client.join("lobby")
        last_seen = await client.say("lobby", "before")
        assert await texts(client, "before") == ["before"]
        leaving = asyncio.create_task(first.stop())
        gone = await event(client, Reconnecting)
        assert (gone.code, gone.url) == (1012, first.url)
        said = [await speaker.say("lobby", f"message {i}") for i in range(500)]
        assert client.url is None
        urls[:] = [second.url]
        assert (await event(client, Connected)).node == "node-b"
        assert (await event(client, Resumed)).recovered is True
        missed = [await event(client, Message) for _ in said]
        assert [m.offset for m in missed] == [last_seen.offset + 1 + i for i in range(500)]
        assert [m.message_id for m in missed] == [answer["message_id"] for answer in said]
        await leaving
    chat.nodes.remove(first)


async def test_a_client_comes_back_when_the_node_told_it_to(chat: Chat, two_nodes: Pair) -> None:
    first, second = two_nodes
    async with relayed(first.url) as relay:
        urls = [relay.url]
        async with ChatClient(lambda: urls, token("u1")) as client:
            urls.append(second.url)
            await first.stop()
            chat.nodes.remove(first)
            gone = await event(client, Reconnecting)
            (told,) = [frame for frame in relay.frames if frame["type"] == "reconnect"]
            assert gone.after_s == told["after_ms"] / 1000
            assert (await event(client, Connected)).url == second.url


async def test_who_comes_back_too_late_is_told_so_and_shown_the_room_as_it_is(chat: Chat, two_nodes: Pair) -> None:
    first, second = two_nodes
    speaker = await chat.client(second, "u2", "lobby")
    urls = [first.url]
    async with ChatClient(lambda: urls, token("u1")) as client:
        await client.join("lobby")
        await first.stop()
        chat.nodes.remove(first)
        said = [await speaker.say("lobby", f"message {i}") for i in range(30)]
        channel = Channel.of_subject("room:lobby", chat.bridge.shards)
        await chat.bridge.redis.call("XTRIM", chat.bridge.keys.log(channel.shard, channel.name), "MAXLEN", 10)
        urls[:] = [second.url]
        resumed = await event(client, Resumed)
        assert resumed.recovered is False
        assert resumed.joined.position.offset == said[-1]["offset"]
        assert await texts(client, "message 29") == [f"message {i}" for i in range(20, 30)]
        following = await speaker.say("lobby", "following")
        assert (await event(client, Message)).offset == following["offset"]
        assert client.rooms["lobby"].offset == following["offset"]


async def test_a_place_that_was_kept_is_resumed_or_told_to_be_unknown(chat: Chat, node: RunningNode) -> None:
    speaker = await chat.client(node, "u2", "lobby")
    await speaker.say("lobby", "seen")
    async with ChatClient(node.url, token("u1")) as client:
        await client.join("lobby")
        place = client.rooms["lobby"]
    await speaker.say("lobby", "missed")
    async with ChatClient(node.url, token("u1")) as client:
        joined = await client.join("lobby", place)
        assert joined.recovered is True
        assert [m.text for m in joined.messages if isinstance(m, Message)] == ["missed"]
        await speaker.say("lobby", "live")
        assert await texts(client, "live") == ["live"]
        joined = await client.join("lobby", Position("another life", place.offset))
        assert joined.recovered is False
        assert [m.text for m in joined.messages if isinstance(m, Message)] == ["seen", "missed", "live"]


async def test_a_room_that_closed_meanwhile_is_given_up_with_a_word(chat: Chat, two_nodes: Pair) -> None:
    first, second = two_nodes
    urls = [first.url]
    async with ChatClient(lambda: urls, token("u1")) as client:
        await client.join("lobby")
        await first.stop()
        chat.nodes.remove(first)
        await chat.done("room.close", "room:lobby")
        urls[:] = [second.url]
        lost = await event(client, RoomLost)
        assert (lost.room, lost.code) == ("lobby", "room_closed")
        assert client.rooms == {}
        with pytest.raises(ChatError):
            await client.say("lobby", "anybody?")


class TestARestartOfTheServer:
    @pytest.fixture
    def server(self, own_server: Server) -> Server:
        return own_server

    async def test_who_stayed_through_it_misses_nothing_later(
        self, chat: Chat, server: Server, node: RunningNode
    ) -> None:
        channel = Channel.of_subject("room:lobby", chat.bridge.shards)

        async def say_all(first: int, last: int) -> None:
            for number in range(first, last):
                said = {"user": "u2", "name": "u2", "text": str(number)}
                await chat.bridge.channels.publish(channel, "message", said)

        async with relayed(node.url) as relay:
            urls = [relay.url]
            async with ChatClient(lambda: urls, token("u1"), rng=Least()) as client:
                await client.join("lobby")
                await say_all(0, 5)
                assert await texts(client, "4") == [str(i) for i in range(5)]
                before = client.rooms["lobby"].epoch
                await server.restart()
                await until(lambda: chat.bridge.redis.connected)
                await say_all(5, 10)
                assert await texts(client, "9") == [str(i) for i in range(5, 10)]
                assert client.rooms["lobby"].epoch != before
                urls.clear()
                relay.cut_at = lambda frame: frame["type"] == "ping" and relay.visits == 1
                pinging = asyncio.create_task(client.ping())
                await event(client, Reconnecting)
                await say_all(10, 130)
                urls.append(relay.url)
                assert (await event(client, Resumed)).recovered is True
                assert await texts(client, "129") == [str(i) for i in range(10, 130)]
                await pinging


# faults


async def test_a_say_whose_answer_was_lost_is_said_once(node: RunningNode) -> None:
    async with relayed(node.url) as relay, ChatClient(relay.url, token("u1")) as client:
        await client.join("lobby")
        relay.cut_at = lambda frame: frame["type"] == "ok" and relay.visits < 3
        said = await client.say("lobby", "once")
        assert relay.visits == 3
        messages = (await client.history("lobby")).messages
        assert [(m.offset, m.text) for m in messages if isinstance(m, Message)] == [(said.offset, "once")]
        assert await texts(client, "once") == ["once"]


async def test_a_killed_node_loses_nothing_that_was_said(chat: Chat, server: Server, spawn: Spawn) -> None:
    doomed = spawn(**settings(server))
    url = (await doomed.ready())["url"]
    second = await chat.start_node("node-b")
    await chat.done("room.open", "room:lobby")
    urls = [url]
    async with ChatClient(lambda: urls, token("u1")) as client:
        await client.join("lobby")
        urls.append(second.url)

        async def talk() -> list[int]:
            offsets = []
            for i in range(40):
                offsets.append((await client.say("lobby", str(i))).offset)
                if i == 10:
                    doomed.popen.send_signal(signal.SIGKILL)
            return offsets

        offsets = await talk()
        assert [offset - offsets[0] for offset in offsets] == list(range(40))
        assert await texts(client, "39") == [str(i) for i in range(40)]


async def test_a_push_that_did_not_come_is_got_from_the_history(chat: Chat, node: RunningNode) -> None:
    speaker = await chat.client(node, "u2", "lobby")
    async with relayed(node.url) as relay, ChatClient(relay.url, token("u1")) as client:
        await client.join("lobby")
        relay.lose = lambda frame: frame["type"] == "message" and frame["text"] == "3"
        for i in range(10):
            await speaker.say("lobby", str(i))
        assert await texts(client, "2") == ["0", "1", "2"]
        assert (await event(client, Resumed)).recovered is True
        assert await texts(client, "9") == [str(i) for i in range(3, 10)]
        assert relay.visits == 1, "on the same connection"


async def test_nothing_is_said_in_a_room_before_the_client_is_back_in_it(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.chat.client_socket.ANSWER_S", 2.0)
    async with relayed(node.url) as relay, ChatClient(relay.url, token("u1")) as client:
        await client.join("lobby")
        await chat.done("room.freeze", "room:lobby")
        relay.lose = lambda frame: frame["type"] == "join" and relay.visits == 2
        relay.cut_at = lambda frame: frame["type"] == "say" and relay.visits == 1
        with pytest.raises(ChatError) as refused:
            await client.say("lobby", "hello")
        assert (refused.value.code, relay.visits) == ("room_frozen", 3)


async def test_a_node_that_falls_silent_is_left(chat: Chat) -> None:
    first = await chat.start_node("node-a", heartbeat_seconds=0.3)
    second = await chat.start_node("node-b")
    async with relayed(first.url) as relay:
        urls = [relay.url]
        async with ChatClient(lambda: urls, token("u1")) as client:
            urls.append(second.url)
            relay.held.clear()
            assert "no answer to ping" in (await event(client, Reconnecting)).reason
            assert (await event(client, Connected)).node == "node-b"


async def test_a_silent_room_is_no_reason_to_leave_a_node(chat: Chat) -> None:
    node = await chat.start_node(heartbeat_seconds=0.5)
    async with relayed(node.url) as relay, ChatClient(relay.url, token("u1")):
        await until(lambda: relay.frames.count({"type": "pong"}) >= 4)
        assert relay.visits == 1


async def test_clients_that_a_node_cannot_let_in_do_not_come_back_in_step(
    chat: Chat, server: Server, start_proxy: Callable[..., Any]
) -> None:
    redis = await start_proxy(server)
    node = await chat.start_node(redis_url=redis.url, drain_seconds=1)
    async with relayed(node.url) as relay, ChatClient(relay.url, token("u1"), rng=Least()) as client:
        redis.cut()
        relay.cut_at = lambda frame: frame["type"] == "ping"
        pinging = asyncio.create_task(client.ping())
        refused = [await event(client, Reconnecting) for _ in range(3)][1:]
        assert [each.reason for each in refused] == ["unavailable: try again"] * 2
        assert [each.after_s for each in refused] == [1.001, 1.002], "what all are told, and a pause of its own"
        redis.heal()
        relay.cut_at = lambda frame: False
        await pinging


async def test_nodes_that_let_it_in_and_break_at_once_are_tried_less_and_less_often(node: RunningNode) -> None:
    rng = Least()
    async with (
        relayed(node.url) as one,
        relayed(node.url) as other,
        ChatClient([one.url, other.url], token("u1"), rng=rng) as client,
    ):
        for relay in (one, other):
            relay.cut_at = lambda frame: frame["type"] == "pong" and rng.bounds.count(20.0) < 2
        await client.ping()
        pauses = rng.bounds[: rng.bounds.index(20.0) + 1]
        assert sorted(set(pauses)) == [0.5, 1, 2, 4, 8, 16, 20]
        assert all(pauses.count(bound) == 2 for bound in (1, 2, 4, 8, 16)), "each node once before they grow"
        assert abs(one.visits - other.visits) <= 1


async def test_a_list_of_nodes_that_is_empty_or_fails_for_a_while_is_asked_again(two_nodes: Pair) -> None:
    first, second = two_nodes
    answers: dict[str, list[str]] = {}

    async with relayed(first.url) as relay:
        answers["nodes"] = [relay.url]
        async with ChatClient(lambda: answers["nodes"], token("u1"), rng=Least()) as client:
            await client.join("lobby")
            answers["nodes"] = []
            relay.cut_at = lambda frame: frame["type"] == "ping"
            pinging = asyncio.create_task(client.ping())
            assert (await event(client, Reconnecting)).reason == "the connection broke"
            assert (await event(client, Reconnecting, url="")).reason == "the list of nodes is empty"
            del answers["nodes"]
            await event(client, Reconnecting, reason="no list of nodes: KeyError: 'nodes'")
            answers["nodes"] = [second.url]
            assert (await event(client, Resumed)).recovered is True
            await pinging
    with pytest.raises(ChatError, match="the list of nodes is empty"):
        async with ChatClient(list, token("u1"), patience_s=0.5):
            pass


# turned away


@pytest.mark.parametrize(("order", "code"), [("user.kick", 4503), ("user.ban", 4504)])
async def test_who_is_kicked_or_banned_does_not_come_back(chat: Chat, node: RunningNode, order: str, code: int) -> None:
    async with ChatClient(node.url, token("u1")) as client:
        await client.join("lobby")
        await chat.done(order, "user:u1", reason="enough")
        closed = await ending(client)
        assert (closed.code, closed.reason) == (code, "enough")
        assert (await ending(client)) is closed, "and it stays so"
        with pytest.raises(Closed):
            await client.say("lobby", "still here?")


async def test_the_oldest_of_too_many_sessions_is_replaced_for_good(chat: Chat, node: RunningNode) -> None:
    async with ChatClient(node.url, token("u1")) as client:
        for _ in range(5):
            await chat.client(node, "u1")
        assert (await ending(client)).code == 4505


async def test_a_bad_token_is_told_at_once(node: RunningNode) -> None:
    with pytest.raises(Closed) as closed:
        async with ChatClient(node.url, "no token"):
            pass
    assert closed.value.code == 4501


async def test_who_is_kicked_from_a_room_is_out_of_it_and_may_come_back(chat: Chat, node: RunningNode) -> None:
    async with ChatClient(node.url, token("u1")) as client:
        await client.join("lobby")
        await chat.done("member.kick", "room:lobby", {"user": "u1"})
        assert (await event(client, Sanctioned)).kind == "kick"
        assert client.rooms == {}
        await client.join("lobby")
        await client.say("lobby", "here again")
        assert await texts(client, "here again") == ["here again"]


async def test_no_node_is_an_error_in_time_and_a_wrong_address_one_at_once() -> None:
    with pytest.raises(ChatError) as refused:
        async with ChatClient(NOBODY, "t", patience_s=1.5):
            pass
    assert (refused.value.code, refused.value.temporary) == ("unavailable", True)
    assert "Connect call failed" in refused.value.message
    with pytest.raises(Misconfigured, match="ws://HOST:PORT/ws"):
        async with ChatClient("http://127.0.0.1", "t"):
            pass


# tokens


async def test_a_token_is_replaced_before_it_ends(node: RunningNode) -> None:
    asked = 0

    async def source() -> str:
        nonlocal asked
        asked += 1
        return token("u1", seconds=1.3)

    began = time.monotonic()
    async with ChatClient(node.url, source) as client:
        (session,) = node.node.hub.clients
        first_end = session.expires_at
        await until(lambda: asked >= 3 and session.expires_at > first_end + 1.5)
        assert asked <= 1 + (time.monotonic() - began) / RENEWAL_LEAST_S
        assert client.url == node.url


async def test_a_source_of_tokens_that_fails_is_asked_again(node: RunningNode) -> None:
    tokens: list[str] = []

    def source() -> str:
        tokens.append(token("u1"))
        return tokens[1]  # there is none yet when it is asked first

    async with ChatClient(node.url, source) as client:
        assert client.ready["user"]["user"] == "u1"
    with pytest.raises(ChatError, match="no token: ZeroDivisionError"):
        async with ChatClient(node.url, lambda: str(1 // 0), patience_s=1):
            pass


async def test_a_source_of_tokens_that_hangs_is_asked_again(node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.chat.client_tokens.ASK_S", 0.2)
    asked = 0

    async def source() -> str:
        nonlocal asked
        asked += 1
        if asked in (1, 3):
            await asyncio.Event().wait()
        return token("u1", seconds=1.3 if asked == 2 else 3600)

    with pytest.raises(ChatError, match="no token: TimeoutError"):
        async with ChatClient(node.url, lambda: asyncio.Event().wait(), patience_s=1):  # type: ignore[arg-type,return-value]
            pass
    async with ChatClient(node.url, source) as client:
        (session,) = node.node.hub.clients
        first_end = session.expires_at
        await until(lambda: session.expires_at > first_end + 1000)
        assert (asked, client.url) == (4, node.url)


async def test_a_client_whose_clock_is_wrong_asks_for_tokens_no_more_than_others(node: RunningNode) -> None:
    client = ChatClient(node.url, lambda: token("u1", seconds=3600))
    client._tokens.clock = lambda: time.time() + 7200
    async with client:
        assert (client._tokens.renew_in() or 0) > 2000


async def test_a_source_that_gives_old_tokens_is_asked_less_and_less_often(node: RunningNode) -> None:
    rng = Least()
    async with ChatClient(node.url, lambda: token("u1", seconds=-1), rng=rng) as client:  # nodes forgive 5 s
        await until(lambda: len(rng.bounds) == 2)
        assert (rng.bounds, client.url) == ([1, 2], node.url)


# readers


async def test_a_reader_who_is_late_gets_everything_once_and_in_order(chat: Chat, node: RunningNode) -> None:
    speaker = await chat.client(node, "u2", "lobby")
    async with ChatClient(node.url, token("u1"), max_events=20) as client:
        await client.join("lobby")
        for i in range(100):
            await speaker.say("lobby", str(i))
        await client.say("lobby", "answers come while nobody reads")
        assert client._events.full
        assert await texts(client, "answers come while nobody reads") == [
            *map(str, range(100)), "answers come while nobody reads",
        ]  # fmt: skip


async def test_a_reader_is_told_how_much_of_the_news_was_dropped(chat: Chat, node: RunningNode) -> None:
    async with ChatClient(node.url, token("u1"), max_events=10) as client:
        for i in range(25):
            flash = {"text": str(i), "level": "info", "seconds": None}
            await chat.bridge.broadcast("notice.flash", "all", flash)
        await until(lambda: client._events._dropped == 15)
        seen: list[Event] = [await anext(client) for _ in range(11)]
        assert [e.text for e in seen if isinstance(e, Notice)] == [str(i) for i in range(10)]
        assert seen[-1] == Lagged(15)


async def test_a_message_that_its_speaker_alone_sees_does_not_count(chat: Chat, two_nodes: Pair) -> None:
    other = await chat.client(two_nodes[1], "u2", "lobby")
    async with ChatClient(two_nodes[0].url, token("u1")) as client:
        await client.join("lobby")
        await chat.done("user.mute", "user:u1", {"shadow": True})
        said = await client.say("lobby", "in the shadow")
        assert (await event(client, Message)).message_id == said.message_id
        place = client.rooms["lobby"]
        after = await other.say("lobby", "after")
        assert after["offset"] == place.offset + 1
        assert (await anext(client)) == Message(
            "lobby", after["offset"], after["message_id"], "u2", "u2", "after", after["ts"]
        )


async def test_an_event_loop_ends_when_the_client_is_closed(node: RunningNode) -> None:
    client = ChatClient(node.url, token("u1"))
    async with client:
        reading = asyncio.create_task(anext(client, None))
        joining = await client.join("lobby")
    assert await reading is None
    assert joining.room == "lobby"
    assert [each async for each in client] == []
    with pytest.raises(Closed):
        await client.ping()


async def test_what_is_too_large_is_refused_here_and_the_connection_stays(node: RunningNode) -> None:
    async with ChatClient(node.url, token("u1")) as client:
        await client.join("lobby")
        for text in ("x" * 20_000, "x" * 501):
            with pytest.raises(ChatError) as refused:
                await client.say("lobby", text)
            assert refused.value.code == "too_large"
        assert await client.ping() < 10
        async with signed_in(node.url, "u2", "lobby"):
            assert client.url == node.url


async def test_the_example_of_the_manual_does_what_it_says(node: RunningNode) -> None:
    (piece,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "clients.md").read_text(), re.DOTALL)
    example: dict[str, Any] = {}
    exec(piece, example)
    assert await example["greet"]([node.url], token("u1")) == ["hello"]


async def test_what_is_no_message_in_spite_of_its_name_breaks_nothing(chat: Chat, node: RunningNode) -> None:
    async with ChatClient(node.url, token("u1")) as client:
        await client.join("lobby")
        channel = Channel.of_subject("room:lobby", chat.bridge.shards)
        for type_, data in (("message", {"who": "knows"}), ("gift.given", [1])):
            await chat.bridge.channels.publish(channel, type_, data)
            published = await event(client, Published)
            assert (published.type, published.data, published.offset) == (type_, data, client.rooms["lobby"].offset)
        joined = await client.join("lobby", Position(client.rooms["lobby"].epoch, published.offset - 2))
        assert (joined.recovered, joined.messages[-1]) == (True, published)


async def test_what_a_plugin_publishes_is_no_frame_of_the_protocol_whatever_its_name(
    chat: Chat, node: RunningNode
) -> None:
    channel = Channel.of_subject("room:lobby", chat.bridge.shards)
    async with ChatClient(node.url, token("u1")) as client:
        await client.join("lobby")
        for type_ in ("reconnect", "ping", "hello", "pong", "presence", "sanction", "error"):
            await chat.bridge.channels.publish(channel, type_, {"kind": "kick"})
            published = await event(client, Published)
            assert (published.type, published.offset) == (type_, client.rooms["lobby"].offset)


async def test_a_frame_that_cannot_be_read_costs_a_connection_and_not_the_client(node: RunningNode) -> None:
    misread: list[tuple[str, Any]] = [
        ("hello", {"type": "hello", "protocol": "bridge.v1"}),
        ("hello", {"type": "hello", "protocol": "bridge.v1", "heartbeat_ms": 0, "server_time": 0}),
        ("ready", {"type": "ready", "id": 1, "limits": {}}),
        ("ready", ["ready"]),
        ("history", {"type": "reconnect"}),
        ("history", {"type": "reconnect", "after_ms": "soon"}),
        ("history", {"type": "error"}),
        ("history", {"type": "history", "id": [3]}),
        ("history", {"type": "message", "room": ["lobby"], "offset": 2}),
        ("history", {"type": "gift", "room": "lobby", "offset": "two", "data": {}, "ts": 0}),
        ("history", 5),
    ]
    async with relayed(node.url) as relay, ChatClient(relay.url, token("u1"), rng=Least()) as client:
        await client.join("lobby")

        def instead(frame: dict[str, Any]) -> Any:
            if not misread or frame["type"] != misread[0][0] or frame.get("limit"):
                return frame
            return misread[0][1] if misread[0][1] != {"type": "error"} else {"type": "error", "id": frame["id"]}

        relay.instead = instead
        misread.insert(0, ("history", None))
        asking = asyncio.create_task(client.history("lobby"))
        while misread:
            gone = await event(client, Reconnecting)
            assert gone.reason.startswith("a frame is not understood"), misread[0]
            misread.pop(0)
        assert (await asking).messages == ()
        assert (await client.say("lobby", "still here")).offset
