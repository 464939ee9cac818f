"""Schedules that are rare by themselves: what happens while an answer of Redis is on its way to the node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bridge.channels import Channel
from chatserver.connection import OUTBOX_BYTES, Connection
from chatserver.state import ChatState
from tests.chatserver.client import ChatClient, connected, token
from tests.chatserver.conftest import Chat, RunningNode
from tests.waiting import until

Act = Callable[[], Awaitable[None]]


async def nothing() -> None:
    return None


def around(monkeypatch: pytest.MonkeyPatch, method: str, *, before: Act = nothing, after: Act = nothing) -> None:
    """The next call of this method of the chat state is held up while something happens, on either side of Redis."""
    original = getattr(ChatState, method)
    calls = 0

    async def slow(self: ChatState, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            return await original(self, *arguments)
        await before()
        answer = await original(self, *arguments)
        await after()
        return answer

    monkeypatch.setattr(ChatState, method, slow)


async def test_a_ban_that_overtakes_the_answer_to_auth_is_obeyed(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ban() -> None:
        await chat.done("user.ban", "user:u1")
        await until(lambda: any(client.must_check for client in node.node.hub.clients))

    around(monkeypatch, "keep_sessions", after=ban)
    async with connected(node.url) as client:
        await client.send(type="auth", id=1, token=token("u1"))
        assert await client.close_code() == 4504


async def test_a_kick_that_overtakes_the_answer_to_auth_is_obeyed(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def kick() -> None:
        now = (await ChatState(chat.bridge, "x").read_user("u1")).now
        await until(lambda: _later_than(chat, now))
        await chat.done("user.kick", "user:u1")
        await until(lambda: any(client.must_check for client in node.node.hub.clients))

    around(monkeypatch, "keep_sessions", after=kick)
    async with connected(node.url) as client:
        await client.send(type="auth", id=1, token=token("u1"))
        assert await client.close_code() == 4503


async def _later_than(chat: Chat, ms: int) -> bool:
    return (await ChatState(chat.bridge, "x").read_user("u1")).now > ms


async def test_what_is_said_around_the_reading_of_a_room_is_seen_once(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker, joiner = await chat.client(node, "u1", "lobby"), await chat.client(node, "u2")

    def held() -> list[tuple[int, bytes]]:
        room = node.node.rooms.get("lobby")
        assert room is not None
        return [frame for waiting in room.waiting.values() for frame in waiting.frames]

    async def say(text: str, then: int) -> None:
        await speaker.say("lobby", text)
        await until(lambda: len(held()) == then)

    around(monkeypatch, "join", before=lambda: say("before", 1), after=lambda: say("after", 2))
    joined = await joiner.ask("join", room="lobby")
    assert [m["text"] for m in joined["messages"]] == ["before"]
    await speaker.say("lobby", "later")
    assert [m["text"] for m in await joiner.pushes("message", 2)] == ["after", "later"]
    assert (await joiner.ask("ping"))["type"] == "pong"
    assert joiner.seen("message") == []


async def test_who_joins_again_misses_nothing_and_sees_nothing_twice(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker, member = await chat.client(node, "u1", "lobby"), await chat.client(node, "u2", "lobby")

    async def say(text: str) -> None:
        await speaker.say("lobby", text)
        await speaker.push("message", text=text)

    around(monkeypatch, "join", before=lambda: say("before"), after=lambda: say("after"))
    joined = await member.ask("join", room="lobby")
    assert [m["text"] for m in joined["messages"]] == ["before"]
    await say("later")
    assert [m["text"] for m in await member.pushes("message", 2)] == ["after", "later"]
    assert member.seen("message") == []


async def test_a_join_that_fails_leaves_a_member_where_it_was(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker, member = await chat.client(node, "u1", "lobby"), await chat.client(node, "u2", "lobby")

    async def close_the_room() -> None:
        await speaker.say("lobby", "last words")
        await speaker.push("message")
        await chat.done("room.close", "room:lobby")

    around(monkeypatch, "join", before=close_the_room)
    assert (await member.ask("join", room="lobby"))["code"] == "room_closed"
    assert (await member.push("message"))["text"] == "last words"
    assert (await member.push("room"))["state"] == "closed"
    await chat.done("room.open", "room:lobby")
    assert (await member.say("lobby", "still here"))["type"] == "ok"


@pytest.mark.parametrize("is_member", [False, True], ids=["newcomer", "member"])
async def test_a_ban_that_overtakes_the_answer_to_a_join_is_obeyed(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch, is_member: bool
) -> None:
    await chat.client(node, "u1", "lobby")
    banned = await chat.client(node, "u2", *(["lobby"] if is_member else []))

    async def ban() -> None:
        await chat.done("member.ban", "room:lobby", {"user": "u2"})
        room = node.node.rooms.get("lobby")
        assert room is not None
        await until(lambda: any(waiting.must_check for waiting in room.waiting.values()))

    around(monkeypatch, "join", after=ban)
    assert (await banned.ask("join", room="lobby"))["code"] == "banned"
    assert (await banned.say("lobby", "x"))["code"] == "not_joined"


async def test_a_mute_that_overtakes_a_say_is_obeyed(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two scripts of a say: the room's own mute is seen by the second one."""
    client = await chat.client(node, "u1", "lobby")

    async def mute() -> None:
        await chat.done("member.mute", "room:lobby", {"user": "u1"})

    around(monkeypatch, "read_user", after=mute)
    assert (await client.say("lobby", "x"))["code"] == "muted"


ANSWER = 550  # publications of 1.6 KB: more than an outbox and two kernels take, less than a client of this library


async def has_missed_much(chat: Chat, node: RunningNode) -> tuple[ChatClient, Connection, dict[str, Any]]:
    """A client that is about to resume in the room, its socket on the node, and where it was."""
    speaker = await chat.client(node, "u1", "lobby")
    await speaker.say("lobby", "first")
    said = await speaker.push("message")
    joined = await speaker.ask("join", room="lobby")
    await speaker.ask("leave", room="lobby")
    room = Channel.of_subject("room:lobby", chat.bridge.shards)
    for i in range(ANSWER):
        data = {"user": "u1", "name": "U1", "text": f"{i} " + "글" * 500}
        await chat.bridge.channels.publish(room, "message", data)
    reader = await chat.client(node, "reader")
    (here,) = (client.socket for client in node.node.hub.clients if client.user == "reader")
    return reader, here, {"epoch": joined["epoch"], "offset": said["offset"]}


async def test_a_client_that_reads_its_long_answer_is_not_closed_for_what_is_said_meanwhile(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, here, since = await has_missed_much(chat, node)
    speaker = await chat.client(node, "u2", "lobby")

    async def talk() -> None:
        reader.socket.transport.pause_reading()  # for as long as this takes
        assert here.transport.get_write_buffer_size() > OUTBOX_BYTES
        await speaker.say("lobby", "meanwhile")
        await speaker.push("message", text="meanwhile")
        heard_at = here.heard_at
        await reader.socket.ping()
        await until(lambda: here.heard_at > heard_at)
        reader.socket.transport.resume_reading()

    around(monkeypatch, "note_rooms", before=talk)
    joined = await reader.ask("join", room="lobby", since=since)
    assert (joined["recovered"], len(joined["messages"])) == (True, ANSWER)
    await reader.push("message", text="meanwhile")
    assert (await reader.ask("ping"))["type"] == "pong"


async def test_beside_a_long_answer_no_more_waits_for_a_client_than_beside_none(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf, here, since = await has_missed_much(chat, node)
    closed_after: list[int] = []

    async def push() -> None:
        deaf.socket.transport.pause_reading()
        pushed = 0
        while here.is_open and pushed < 2 * OUTBOX_BYTES:
            here.push(bytes(1024))
            pushed += 1024
        closed_after.append(pushed)

    around(monkeypatch, "note_rooms", before=push)
    await deaf.send(type="join", id=9, room="lobby", since=since)
    await until(lambda: closed_after)
    assert here.closed_with == 4001
    assert OUTBOX_BYTES < closed_after[0] <= OUTBOX_BYTES + 4096
    deaf.socket.transport.abort()
