"""Nodes that were cut off while operators acted: they catch up, and until then nobody slips through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from bridge.channels import Channel
from tests.chatserver.client import ChatClient
from tests.chatserver.conftest import Chat, RunningNode
from tests.chatserver.unsent import publish_unsent
from tests.servers import Server
from tests.waiting import until


async def cut_off_node(chat: Chat, server: Server, start_proxy: Callable[..., Any]) -> tuple[RunningNode, Any]:
    """A second node, behind a proxy; the first one handles the commands."""
    proxy = await start_proxy(server)
    await chat.start_node("node-a")
    await chat.done("room.open", "room:lobby")
    return await chat.start_node("node-b", redis_url=proxy.url, drain_seconds=1), proxy


async def answers(client: ChatClient, wanted: str) -> bool:
    """The node may have lost Redis just now, or not have it back for another moment: then it is asked again."""

    async def answer() -> str | None:
        told = await client.say("lobby", "x")
        code: str = told.get("code", told["type"])
        return None if code == "unavailable" != wanted else code

    return bool(await until(answer) == wanted)


async def test_a_node_that_was_cut_off_catches_up_with_every_sanction(
    chat: Chat, server: Server, start_proxy: Callable[..., Any]
) -> None:
    node, proxy = await cut_off_node(chat, server, start_proxy)
    users = ["kicked", "banned", "muted", "turned-out", "barred"]
    clients = {user: await chat.client(node, user, "lobby") for user in users}
    proxy.cut()
    await chat.done("user.kick", "user:kicked")
    await chat.done("user.ban", "user:banned")
    await chat.done("user.mute", "user:muted")
    await chat.done("member.kick", "room:lobby", {"user": "turned-out"})
    await chat.done("member.ban", "room:lobby", {"user": "barred"})
    assert await answers(clients["muted"], "unavailable")
    proxy.heal()
    assert await clients["kicked"].close_code() == 4503
    assert await clients["banned"].close_code() == 4504
    await clients["muted"].push("sanction", kind="mute")
    await clients["turned-out"].push("sanction", kind="kick", room="lobby")
    await clients["barred"].push("sanction", kind="ban", room="lobby")
    assert await answers(clients["muted"], "muted")
    assert await answers(clients["turned-out"], "not_joined")
    assert (await clients["barred"].ask("join", room="lobby"))["code"] == "banned"


async def test_what_no_channel_tells_any_more_is_found_in_the_state(
    chat: Chat, server: Server, start_proxy: Callable[..., Any]
) -> None:
    node, proxy = await cut_off_node(chat, server, start_proxy)
    kicked, turned_out = await chat.client(node, "u1", "lobby"), await chat.client(node, "u2", "lobby")
    banned, barred = await chat.client(node, "u3", "lobby"), await chat.client(node, "u4", "lobby")
    warned = await chat.client(node, "u5", "lobby")
    await chat.done("user.warn", "user:u5", {"text": "one"})
    await warned.push("sanction", kind="warn", text="one")
    proxy.cut()
    await chat.done("user.kick", "user:u1")
    await chat.done("member.kick", "room:lobby", {"user": "u2"})
    await chat.done("user.ban", "user:u3")
    await chat.done("member.ban", "room:lobby", {"user": "u4"})
    await chat.done("user.warn", "user:u5", {"text": "two"})
    for shard in range(chat.bridge.shards):
        await chat.bridge.redis.call("DEL", chat.bridge.keys.log(shard, "control"))
    proxy.heal()
    assert await kicked.close_code() == 4503
    await turned_out.push("sanction", kind="kick", room="lobby")
    assert await answers(turned_out, "not_joined")
    assert await banned.close_code() == 4504
    await barred.push("sanction", kind="ban", room="lobby")
    assert await answers(barred, "not_joined")
    await warned.push("sanction", kind="warn", text="two")
    back = await chat.client(node, "u1", "lobby")
    assert await answers(back, "ok")


async def test_a_reload_that_no_channel_tells_any_more_is_made_up_for(
    chat: Chat, server: Server, start_proxy: Callable[..., Any], tmp_path: Path
) -> None:
    words, proxy = tmp_path / "words", await start_proxy(server)
    words.write_text("")
    node = await chat.start_node(redis_url=proxy.url, drain_seconds=1, words_file=words)
    await chat.done("room.open", "room:lobby")
    client = await chat.client(node, "u1", "lobby")
    assert await answers(client, "ok")
    await chat.bridge.broadcast("notice.flash", "all", {"text": "hear", "level": "info", "seconds": None})
    await client.push("notice", text="hear")
    proxy.cut()
    words.write_text("x")
    await chat.bridge.broadcast("config.reload", "all", {})
    for shard in range(chat.bridge.shards):
        await chat.bridge.redis.call("DEL", chat.bridge.keys.log(shard, "control"))
    proxy.heal()
    await until(lambda: answers(client, "forbidden"))


async def test_a_warning_is_given_once_and_to_nobody_who_came_later(chat: Chat, node: RunningNode) -> None:
    before = await chat.client(node, "u1")
    await chat.done("user.warn", "user:u1", {"text": "careful"})
    await before.push("sanction", kind="warn", text="careful")
    after, looked_at = await chat.client(node, "u1"), await chat.client(node, "u2")
    key = chat.bridge.keys.state(chat.bridge.shard_of("user:u2"), "user:u2", "kicked_at")
    await chat.bridge.redis.call("SET", key, 1 << 50)
    await chat.bridge.broadcast("cache.drop", "all", {"what": "users"})
    assert await looked_at.close_code() == 4503
    for client in (before, after):
        assert (await client.ask("ping"))["type"] == "pong"
    assert before.seen("sanction") == after.seen("sanction") == []


async def test_a_reload_while_a_node_starts_is_not_missed(chat: Chat, tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("")
    running = chat.make_node(words_file=words)  # which reads it
    words.write_text("x")
    await chat.bridge.broadcast("config.reload", "all", {})
    await running.start()
    chat.nodes.append(running)
    await chat.done("room.open", "room:lobby")
    assert await answers(await chat.client(running, "u1", "lobby"), "forbidden")


async def test_a_dropped_cache_of_rooms_concerns_members_and_one_of_users_sessions(
    chat: Chat, node: RunningNode
) -> None:
    client, bridge = await chat.client(node, "u1", "lobby"), chat.bridge
    for subject, name in (("room:lobby", "kicked:u1"), ("user:u1", "kicked_at")):
        await bridge.redis.call("SET", bridge.keys.state(bridge.shard_of(subject), subject, name), 1 << 50)
    await bridge.broadcast("cache.drop", "all", {"what": "rooms"})
    await client.push("sanction", kind="kick", room="lobby")
    assert (await client.ask("ping"))["type"] == "pong"
    await bridge.broadcast("cache.drop", "all", {"what": "users"})
    assert await client.close_code() == 4503


async def test_a_shard_that_gives_no_answer_holds_up_no_other(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.control.SIGN_OF_LIFE_S", 0.1)
    bridge, bad = chat.bridge, chat.bridge.shard_of("room:lobby")
    user, well = (
        next(f"{kind}{i}" for i in range(99) if bridge.shard_of(f"{kind}:{kind}{i}") != bad)
        for kind in ("user", "room")
    )
    ill = next(f"ill{i}" for i in range(99) if bridge.shard_of(f"user:ill{i}") == bad)
    await chat.done("room.open", f"room:{well}")
    client, _ = await chat.client(node, user, "lobby", well), await chat.client(node, ill, "lobby")
    names, redis = bridge.keys, bridge.redis
    for key in (
        names.channel(bad, "control"),
        names.state(bad, "room:lobby", "present"),
        names.state(bad, f"user:{ill}", "sessions"),
    ):
        await redis.call("DEL", key)
        await redis.call("SET", key, "something else")
    channel = Channel.of_subject(f"room:{well}", bridge.shards)
    await publish_unsent(bridge, channel, {"user": "u", "name": "U", "text": "unsent"})
    await client.push("message", text="unsent")
    flash = {"text": "unsent", "level": "info", "seconds": None}
    await publish_unsent(bridge, Channel.control(bridge.shard_of(f"user:{user}")), flash, type="notice.flash")
    await client.push("notice", text="unsent")
    await redis.call("SET", names.state(channel.shard, channel.name, f"kicked:{user}"), 1 << 50)
    await client.push("sanction", kind="kick", room=well)
    await redis.call("SET", names.state(bridge.shard_of(f"user:{user}"), f"user:{user}", "kicked_at"), 1 << 50)
    assert await client.close_code() == 4503


async def test_messages_that_a_cut_off_node_missed_reach_its_members_in_order(
    chat: Chat, server: Server, start_proxy: Callable[..., Any]
) -> None:
    node, proxy = await cut_off_node(chat, server, start_proxy)
    speaker, listener = await chat.client(chat.nodes[0], "u1", "lobby"), await chat.client(node, "u2", "lobby")
    await speaker.say("lobby", "0")
    proxy.cut()
    for i in range(1, 50):
        await speaker.say("lobby", str(i))
    proxy.heal()
    await speaker.say("lobby", "50")
    assert [m["text"] for m in await listener.pushes("message", 51)] == [str(i) for i in range(51)]


async def test_members_of_a_room_whose_history_is_gone_begin_anew(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    await client.say("lobby", "x")
    await chat.bridge.redis.call("FLUSHALL")
    await until(lambda: _opens(chat))
    assert await client.close_code() == 4004
    back = await chat.client(node, "u1", "lobby")
    assert await answers(back, "ok")


async def _opens(chat: Chat) -> bool:
    return (await chat.operate("room.open", "room:lobby")).state == "done"


async def test_sessions_and_members_are_listed_and_gone_when_they_go(chat: Chat, node: RunningNode) -> None:
    bridge, subject = chat.bridge, "user:u1"
    key = bridge.keys.state(bridge.shard_of(subject), subject, "sessions")
    rooms = bridge.keys.state(bridge.shard_of(subject), subject, "session:rooms")
    client = await chat.client(node, "u1", "lobby", name='Ann "the" 앤')
    (listed,) = await bridge.redis.call("ZRANGE", key, 0, -1)
    session = client.ready["session"]
    assert orjson.loads(listed)[:2] == [session, "node-a"]
    assert orjson.loads(listed)[3] == 'Ann "the" 앤'
    await until(lambda: _is(bridge.redis.call("HGET", rooms, session), b'["lobby"]'))
    await client.socket.close()
    await until(lambda: _is(bridge.redis.call("EXISTS", key, rooms), 0))


async def _is(call: Any, value: object) -> bool:
    return bool(await call == value)


LASTING = ("settings", "deleted", "rooms", "sanctions", "muted", "banned", "channel", "commands", "settled", "epoch",
           "incarnation", "history", "lease", "asleep", "{meta}", "{nodes}")  # fmt: skip


async def test_what_clients_leave_behind_goes_by_itself(chat: Chat, node: RunningNode) -> None:
    await chat.done("room.slow_mode", "room:lobby", {"seconds": 1})
    client = await chat.client(node, "u1", "lobby")
    await client.say("lobby", "x", nonce="n1")
    await chat.done("member.kick", "room:lobby", {"user": "u1"})
    await chat.done("user.mute", "user:u1", {"seconds": 60})
    await chat.done("user.warn", "user:u1", {"text": "x"})
    await chat.done("user.kick", "user:u1")
    await client.close_code()
    redis = chat.bridge.redis
    for raw in await redis.call("KEYS", "*"):
        name = raw.decode()
        if not any(word in name.removeprefix("chat:").split(":", 1)[-1] or word in name for word in LASTING):
            assert await redis.call("PTTL", raw) != -1, name
