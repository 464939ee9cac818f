"""The browser client against real nodes, in Node.js and in Chromium."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bridge.channels import Channel
from bridge.child import Child
from chatserver.pages import STATIC
from tests.browser import runtimes
from tests.browser.conftest import Connect, ForPages, in_both, require, ws_url
from tests.browser.relay import Relay
from tests.browser.runtimes import CLIENT, PATIENCE_S, CallFailed
from tests.chat.relay import relayed
from tests.chatserver.client import ChatClient, token
from tests.chatserver.conftest import Chat, RunningNode
from tests.proxy import Proxy
from tests.servers import Server
from tests.waiting import until

MAX_GZIP_BYTES = 5 * 1024


async def say_all(speaker: ChatClient, texts: list[str], room: str = "lobby") -> None:
    """All at once."""
    for id, text in enumerate(texts, 1_000_000):
        await speaker.send(type="say", id=id, room=room, text=text)
    for id in range(1_000_000, 1_000_000 + len(texts)):
        assert (await speaker.answer(id))["type"] == "ok"


def numbered(n: int) -> list[str]:
    return [f"message {number}" for number in range(n)]


def test_it_is_small_and_needs_nothing() -> None:
    source = CLIENT.read_bytes()
    assert len(gzip.compress(source, 9)) <= MAX_GZIP_BYTES, "of the file as it is served, comments too"
    assert not re.search(rb"^\s*import\b|\bimport\(|\brequire\(", source, re.MULTILINE)


def test_its_types_name_what_it_has() -> None:
    code, types = CLIENT.read_text(), (STATIC / "client.d.ts").read_text()
    assert set(re.findall(r"^export class (\w+)", code, re.M)) == set(re.findall(r"^export class (\w+)", types, re.M))
    body = code[code.index("export class ChatClient") :]
    methods = set(re.findall(r"^  (?:async |get )?(\w+)\([^\n]*\) \{$", body, re.M))
    declared = types[types.index("export class ChatClient") :]
    assert methods == set(re.findall(r"^  (?:readonly )?(\w+)[(:]", declared, re.M))


@in_both
async def test_it_signs_in_joins_says_and_hears(chat: Chat, node: RunningNode, create: Connect) -> None:
    other = await chat.client(node, "ada", "lobby")
    client = await create(node.url, "mina", tokens=token("mina", name="김미나"))
    assert await client.call("state") == "new"
    ready = await client.call("connect")
    assert (ready["user"], ready["node"]) == ({"user": "mina", "name": "김미나"}, "node-a")
    assert await client.call("state") == "open"
    joined = await client.call("join", "lobby")
    assert (joined["state"], joined["title"], joined["recovered"]) == ("open", "Lobby", False)
    said = await client.call("say", "lobby", "안녕 <b>&")
    heard = await client.event("message", text="안녕 <b>&")
    assert (heard["user"], heard["offset"], heard["message_id"]) == ("mina", said["offset"], said["message_id"])
    assert (await other.push("message", user="mina"))["text"] == "안녕 <b>&"
    await other.say("lobby", "hello")
    await client.event("message", user="ada", text="hello")
    page = await client.call("history", "lobby", {"limit": 1})
    assert ([m["text"] for m in page["messages"]], page["more"]) == (["hello"], True)
    assert (await client.call("presence", "lobby"))["count"] == 2
    await client.call("ping")
    await client.call("leave", "lobby")
    with pytest.raises(CallFailed) as refused:
        await client.call("say", "lobby", "still here?")
    assert (refused.value.name, refused.value.code, refused.value.temporary) == ("ChatError", "not_joined", False)


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_closing_ends_the_iterator_and_the_session(node: RunningNode, connect: Connect, how: str) -> None:
    client = await connect(node.url, "u1", "lobby")
    await client.call(how)
    assert await client.end() is None
    await until(lambda: not node.node.hub.clients)
    with pytest.raises(CallFailed, match="closed by this client"):
        await client.call("ping")
    assert await client.call("state") == "closed"


async def test_a_bad_token_is_final(node: RunningNode, create: Connect) -> None:
    client = await create(node.url, tokens=token(secret="another secret of more than 32 bytes"))
    with pytest.raises(CallFailed) as refused:
        await client.call("connect")
    assert (refused.value.name, refused.value.code) == ("Closed", 4501)
    end = await client.end()
    assert end is not None
    assert end["code"] == 4501
    assert client.events == []


async def test_a_token_is_renewed_before_it_is_out(node: RunningNode, connect: Connect) -> None:
    client = await connect(node.url, tokens=[token(seconds=10), token(seconds=3600)])
    (session,) = node.node.hub.clients
    soon = session.expires_at
    await until(lambda: session.expires_at > soon + 1000, PATIENCE_S)
    assert await client.call("asked") == 2
    assert [event["type"] for event in client.events] == ["connected"]


@in_both
async def test_a_lost_connection_is_resumed_with_all_that_was_missed(
    chat: Chat, node: RunningNode, cable: Proxy, connect: Connect
) -> None:
    client = await connect(ws_url(cable), "u1", "lobby")
    speaker = await chat.client(node, "ada", "lobby")
    await speaker.say("lobby", "before")
    await client.event("message", text="before")
    cable.cut()
    lost = await client.event("reconnecting")
    assert lost["code"] == 1006
    await say_all(speaker, numbered(500))
    cable.heal()
    resumed = await client.event("resumed", room="lobby")
    assert resumed["recovered"] is True
    await speaker.say("lobby", "after")
    assert await client.messages(501) == [*numbered(500), "after"]


@in_both
async def test_a_killed_node_is_left_for_another(chat: Chat, processes: list[Child], create: Connect) -> None:
    first, second = (node.told["url"] for node in processes)
    client, speaker = await create([first, second], "u1"), await create(second, "ada")
    for each in (client, speaker):
        await each.call("connect")
        await each.call("join", "lobby")
    os.kill(processes[0].pid, signal.SIGKILL)
    await speaker.call("say", "lobby", "meanwhile")
    assert (await client.event("connected", node="node-b"))["user"]["user"] == "u1"
    await client.event("resumed", room="lobby", recovered=True)
    await client.call("say", "lobby", "back")
    assert await client.messages(2) == ["meanwhile", "back"]


async def test_the_example_of_the_manual_works(chat: Chat, node: RunningNode, tmp_path: Path) -> None:
    require(runtimes.node)
    page = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
    example = page.partition("```js\n")[2].partition("```")[0]
    for there, here in (
        ("https://chat-1.example/client.js", CLIENT.as_uri()),
        ("wss://chat-1.example/ws", node.url),
        ("wss://chat-2.example/ws", node.url),
        ("await fetch('/chat-token', { method: 'POST' })", f"new Response('{token('u1', name='Mina')}')"),
    ):
        assert there in example
        example = example.replace(there, here)
    script = tmp_path / "example.mjs"
    script.write_text(example)
    process = await asyncio.create_subprocess_exec(runtimes.node(), script, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    lines = [(await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)).decode() for _ in range(3)]
    assert lines[0] == "Lobby, 1 here; last said: undefined\n"
    assert lines[1].startswith("said ")
    assert lines[2] == "Mina: hello\n"
    await chat.done("user.kick", "user:u1", reason="enough")
    assert (await process.stdout.read()).decode() == "over: 4503 enough\n"
    assert await process.wait() == 0


class TestAShortHistory:
    @pytest.fixture
    def bridge_settings(self) -> dict[str, Any]:
        return {"history_length": 20}

    @in_both
    async def test_what_cannot_be_made_up_for_is_told(
        self, chat: Chat, node: RunningNode, cable: Proxy, connect: Connect
    ) -> None:
        client = await connect(ws_url(cable), "u1", "lobby")
        speaker = await chat.client(node, "ada", "lobby")
        cable.cut()
        await client.event("reconnecting")
        await say_all(speaker, numbered(300))
        cable.heal()
        resumed = await client.event("resumed", room="lobby")
        assert resumed["recovered"] is False
        shown = [message["text"] for message in resumed["messages"]]
        assert shown[-1] == "message 299"
        assert len(shown) < 300
        await speaker.say("lobby", "after")
        assert await client.messages(1) == ["after"]


class TestARestartOfTheServer:
    @pytest.fixture
    def server(self, own_server: Server) -> Server:
        return own_server

    @in_both
    async def test_who_stayed_through_it_misses_nothing_later(
        self, chat: Chat, server: Server, cable: Proxy, connect: Connect
    ) -> None:
        channel = Channel.of_subject("room:lobby", chat.bridge.shards)

        async def publish(texts: list[str]) -> None:
            for text in texts:
                await chat.bridge.channels.publish(channel, "message", {"user": "ada", "name": "Ada", "text": text})

        client = await connect(ws_url(cable), "u1", "lobby", random=0.01)
        await publish(["one", "two"])
        assert await client.messages(2) == ["one", "two"]
        await server.restart()
        await until(lambda: chat.bridge.redis.connected)
        await publish(["three", "four"])
        assert await client.messages(2) == ["three", "four"]
        cable.cut()
        await client.event("reconnecting")
        await publish(numbered(120))
        cable.heal()
        assert (await client.event("resumed"))["recovered"] is True
        await publish(["after"])
        assert await client.messages(121) == [*numbered(120), "after"]


@in_both
async def test_what_is_said_while_the_answer_is_lost_is_said_once(
    chat: Chat, node: RunningNode, cable: Proxy, connect: Connect
) -> None:
    client = await connect(ws_url(cable), "u1", "lobby")
    other = await chat.client(node, "ada", "lobby")
    cable.black_hole(requests=False)
    saying = await client.start("say", "lobby", "once")
    first = await other.push("message", text="once")
    cable.drop()
    cable.heal()
    said = await asyncio.wait_for(saying, PATIENCE_S)
    assert said["message_id"] == first["message_id"]
    await client.event("resumed", recovered=True)
    await client.call("say", "lobby", "twice")
    await other.push("message", text="twice")
    assert other.seen("message") == []
    assert await client.messages(2) == ["once", "twice"]


async def test_what_is_said_while_nobody_is_reached_is_said_when_somebody_is(
    chat: Chat, node: RunningNode, cable: Proxy, connect: Connect
) -> None:
    client = await connect(ws_url(cable), "u1", "lobby")
    cable.cut()
    await client.event("reconnecting")
    assert await client.call("state") == "reconnecting"
    saying = [await client.start("say", "lobby", text) for text in ("first", "second")]
    cable.heal()
    said = await asyncio.wait_for(asyncio.gather(*saying), PATIENCE_S)
    assert said[0]["offset"] + 1 == said[1]["offset"]
    assert await client.messages(2) == ["first", "second"]


async def test_a_swallowed_push_is_fetched(chat: Chat, node: RunningNode, connect: Connect) -> None:
    async with Relay.start(node.url, lambda frame: frame.get("text") == "swallowed") as relay:
        client = await connect(relay.url, "u1", "lobby")
        speaker = await chat.client(node, "ada", "lobby")
        await say_all(speaker, ["first", "swallowed", "third"])
        relay.swallow = lambda frame: False
        await say_all(speaker, ["fourth"])
        assert await client.messages(4) == ["first", "swallowed", "third", "fourth"]
        assert relay.connections == 1


@in_both
async def test_silence_is_a_loss(chat: Chat, connect: Connect) -> None:
    node = await chat.start_node(heartbeat_seconds=0.6, **ForPages)
    await chat.done("room.open", "room:lobby", {})
    cable = await Proxy.start(node.http)
    try:
        client = await connect([ws_url(cable), node.url], "u1", "lobby")
        cable.black_hole()
        await client.event("reconnecting", reason="silence")
        await client.event("resumed", recovered=True)
    finally:
        await cable.close()


async def test_a_client_is_not_lost_by_its_own_silence(chat: Chat, connect: Connect) -> None:
    node = await chat.start_node(heartbeat_seconds=2.5, **ForPages)
    client = await connect(node.url)
    (session,) = node.node.hub.clients
    pings = []
    for _ in range(2):
        pings.append(session.socket.pinged_at)
        await until(lambda: session.socket.heard_at > session.socket.pinged_at > pings[-1], PATIENCE_S)
    assert [event["type"] for event in client.events] == ["connected"]


@in_both
async def test_a_node_that_drains_sends_it_to_another(chat: Chat, node: RunningNode, connect: Connect) -> None:
    other = await chat.start_node("node-b", **ForPages)
    client = await connect([node.url, other.url], "u1", "lobby", random=None)
    await chat.bridge.drain("node-a", True)
    lost = await client.event("reconnecting")
    assert lost["code"] == 1012
    assert lost["after_ms"] == int(lost["after_ms"]), "what the node said, in whole ms"
    assert (await client.event("connected"))["node"] == "node-b"
    await client.event("resumed", recovered=True)


async def test_it_honours_the_time_that_a_node_gives_it(chat: Chat, node: RunningNode, connect: Connect) -> None:
    async with Relay.start(node.url) as relay:
        client = await connect(relay.url, "u1", "lobby")
        await relay.push({"type": "reconnect", "after_ms": 7, "reason": "restart"})
        await relay.close(1012)
        assert (await client.event("reconnecting"))["after_ms"] == 7
        await client.event("resumed", recovered=True)


@pytest.mark.parametrize("code", [1001, 1012, 1013, 4001, 4004, 4499, 4500, 4503, 4999])
async def test_which_close_codes_are_final(chat: Chat, node: RunningNode, connect: Connect, code: int) -> None:
    async with Relay.start(node.url) as relay:
        client = await connect(relay.url, "u1", "lobby")
        await relay.close(code)
        if code >= 4500:
            end = await client.end()
            assert end is not None
            assert (end["name"], end["code"]) == ("Closed", code)
            assert relay.accepted == 1
        else:
            assert (await client.event("reconnecting"))["code"] == code
            await client.event("resumed", recovered=True)


@in_both
async def test_a_kick_is_final(chat: Chat, node: RunningNode, connect: Connect) -> None:
    client = await connect(node.url, "u1", "lobby")
    saying = await client.start("history", "lobby")
    await saying
    await chat.done("user.kick", "user:u1", reason="spam")
    assert (await client.event("sanction", kind="kick"))["reason"] == "spam"
    end = await client.end()
    assert end is not None
    assert (end["name"], end["code"]) == ("Closed", 4503)
    with pytest.raises(CallFailed) as over:
        await client.call("say", "lobby", "x")
    assert (over.value.name, over.value.code) == ("Closed", 4503)


async def test_who_is_removed_from_a_room_does_not_come_back_by_itself(
    chat: Chat, node: RunningNode, cable: Proxy, connect: Connect
) -> None:
    await chat.done("room.open", "room:trade", {})
    client = await connect(ws_url(cable), "u1", "lobby", "trade")
    await chat.done("member.kick", "room:lobby", {"user": "u1"}, reason="spam")
    await client.event("sanction", kind="kick", room="lobby")
    cable.drop()
    await client.event("resumed", room="trade")
    await until(lambda: len(node.node.hub.clients) == 1, what="the lost connection is gone")
    (session,) = node.node.hub.clients
    assert set(session.rooms) == {"trade"}


async def test_a_room_that_is_closed_meanwhile_is_left_and_told(
    chat: Chat, node: RunningNode, cable: Proxy, connect: Connect
) -> None:
    client = await connect(ws_url(cable), "u1", "lobby")
    cable.cut()
    await chat.done("room.close", "room:lobby")
    cable.heal()
    assert (await client.event("left", room="lobby"))["code"] == "room_closed"


async def test_without_redis_it_keeps_trying_less_and_less_often(
    chat: Chat, server: Server, connect: Connect, start_proxy: Any
) -> None:
    redis = await start_proxy(server)
    node = await chat.start_node(redis_url=redis.url, drain_seconds=1, **ForPages)
    await chat.done("room.open", "room:lobby", {})
    cable = await Proxy.start(node.http)
    try:
        client = await connect(ws_url(cable), "u1", "lobby", random=0.01)
        redis.cut()
        cable.drop()
        assert (await client.event("reconnecting", code=1006))["after_ms"] == 10
        told = [(await client.event("reconnecting", code=1013))["after_ms"] for _ in range(2)]
        assert told == [1020, 1040], "what the node tells all alike, and jitter of its own behind it"
        redis.heal()
        await client.event("resumed", recovered=True)
        assert (await client.call("say", "lobby", "back"))["type"] == "ok"
    finally:
        await cable.close()


@in_both
async def test_a_mute_is_an_error_with_its_end(chat: Chat, node: RunningNode, connect: Connect) -> None:
    client = await connect(node.url, "u1", "lobby")
    await chat.done("member.mute", "room:lobby", {"user": "u1", "seconds": 60}, reason="spam")
    with pytest.raises(CallFailed) as refused:
        await client.call("say", "lobby", "x")
    assert (refused.value.name, refused.value.code, refused.value.temporary) == ("ChatError", "muted", False)
    assert 50_000 < refused.value.retry_after_ms <= 60_000
    assert (await client.event("sanction", kind="mute"))["reason"] == "spam"


async def test_a_shadow_muted_user_sees_their_own_messages_and_all_others(
    chat: Chat, node: RunningNode, connect: Connect
) -> None:
    client = await connect(node.url, "u1", "lobby")
    speaker = await chat.client(node, "ada", "lobby")
    await chat.done("user.mute", "user:u1", {"shadow": True})
    await speaker.say("lobby", "one")
    await client.call("say", "lobby", "to myself")
    await client.event("message", text="to myself")
    await say_all(speaker, ["two", "three"])
    assert await client.messages(2) == ["two", "three"]
    assert speaker.seen("message")[-1]["text"] != "to myself"


@in_both
async def test_who_does_not_read_keeps_a_bounded_number_and_gets_all_later(
    chat: Chat, node: RunningNode, connect: Connect
) -> None:
    client = await connect(node.url, "u1", "lobby")
    speaker = await chat.client(node, "ada", "lobby")
    await client.call("hold")
    await say_all(speaker, numbered(1200))
    await client.call("ping")  # what was sent before has arrived
    await client.call("read")
    await until(lambda: len(client.texts()) == 1200, PATIENCE_S, what=lambda: f"{len(client.texts())}")
    assert client.texts() == numbered(1200)
    (place,) = (n for n, event in enumerate(client.events) if event["type"] == "resumed")
    assert len([e for e in client.events[:place] if e["type"] == "message"]) <= 1001, "only so many had waited"


async def test_a_room_whose_events_were_read_while_another_was_not_back_yet_catches_up(
    chat: Chat, node: RunningNode, connect: Connect
) -> None:
    await chat.done("room.open", "room:trade", {})
    speaker = await chat.client(node, "ada", "lobby")
    async with Relay.start(node.url) as relay:
        client = await connect(relay.url, "u1", "lobby", "trade")
        kept: list[dict[str, Any]] = []
        passed: Counter[str] = Counter()

        def keep(frame: dict[str, Any]) -> bool:
            passed[frame["type"]] += 1
            if (frame["type"], frame.get("room")) == ("joined", "trade"):
                kept.append(frame)
            return frame in kept

        relay.swallow = keep
        await client.call("hold")
        await relay.close(1012)
        await until(lambda: kept, PATIENCE_S)
        await say_all(speaker, numbered(1200))
        await until(lambda: passed["message"] == 1200, PATIENCE_S)
        await relay.push({"type": "ping"})
        await until(lambda: passed["pong"], PATIENCE_S, what="all that was pushed has arrived")
        await client.call("read")
        await until(lambda: len(client.events) > 1000, PATIENCE_S, what="all that waited is read")
        await relay.push(kept[0])
        await until(lambda: len(client.texts()) == 1200, PATIENCE_S, what=lambda: f"{len(client.texts())}")
        assert client.texts() == numbered(1200)


async def test_who_leaves_while_a_hole_is_filled_and_comes_back_is_in(
    chat: Chat, node: RunningNode, connect: Connect
) -> None:
    speaker = await chat.client(node, "ada", "lobby")
    async with relayed(node.url) as relay:
        client = await connect(relay.url, "u1", "lobby")

        def lose(frame: dict[str, Any]) -> bool:
            if frame["type"] == "join":
                relay.held.clear()
            return frame.get("text") == "lost"

        def asked() -> list[str]:
            return [frame["type"] for frame in relay.frames if frame["type"] in ("join", "leave")]

        relay.lose = lose
        await say_all(speaker, ["lost", "behind it"])
        await until(lambda: asked() == ["join", "join"], PATIENCE_S)
        calls = [await client.start("leave", "lobby"), await client.start("join", "lobby")]
        await until(lambda: len(asked()) == 4, PATIENCE_S)
        relay.lose = lambda frame: False
        relay.held.set()
        await asyncio.wait_for(asyncio.gather(*calls), PATIENCE_S)
        await client.call("ping")
        assert asked() == ["join", "join", "leave", "join"]
        await speaker.say("lobby", "still here?")
        await client.event("message", text="still here?")


async def test_who_leaves_while_being_brought_back_is_out(chat: Chat, node: RunningNode, connect: Connect) -> None:
    async with relayed(node.url) as relay:
        client = await connect(relay.url, "u1", "lobby")

        def lose(frame: dict[str, Any]) -> bool:
            if frame["type"] == "join":
                relay.held.clear()
            return False

        relay.lose = lose
        relay.cut_at = lambda frame: frame["type"] == "ping" and relay.visits == 1
        pinging = await client.start("ping")
        await until(lambda: not relay.held.is_set(), PATIENCE_S)
        leaving = await client.start("leave", "lobby")
        relay.held.set()
        await asyncio.wait_for(asyncio.gather(pinging, leaving), PATIENCE_S)
        await until(lambda: all(not session.rooms for session in node.node.hub.clients), PATIENCE_S)


async def test_calls_that_wait_are_bounded_too(node: RunningNode, cable: Proxy, connect: Connect) -> None:
    client = await connect(ws_url(cable), "u1", "lobby")
    cable.black_hole()
    waiting = [await client.start("ping") for _ in range(100)]
    with pytest.raises(CallFailed) as refused:
        await client.call("ping")
    assert (refused.value.code, refused.value.temporary) == ("rate_limited", True)
    cable.heal()
    await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)


async def test_a_frame_that_no_node_would_take_is_refused_here(node: RunningNode, connect: Connect) -> None:
    client = await connect(node.url, "u1", "lobby")
    with pytest.raises(CallFailed) as refused:
        await client.call("say", "lobby", "가" * 6000)
    assert refused.value.code == "too_large"
    await client.call("ping")
