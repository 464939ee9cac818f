"""Sanctions are state: they hold on every node, for who connects later, and after restarts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.chatserver.client import connected, signed_in, token
from tests.chatserver.conftest import Chat, RunningNode
from tests.waiting import until

Pair = tuple[RunningNode, RunningNode]


async def test_a_room_mute_is_told_and_holds_on_every_node_until_it_is_lifted(chat: Chat, two_nodes: Pair) -> None:
    clients = [await chat.client(node, "u1", "lobby") for node in two_nodes]
    outcome = await chat.done("member.mute", "room:lobby", {"user": "u1", "seconds": 60}, reason="spam")
    assert outcome.result is not None
    assert outcome.result["until"].endswith("Z")
    for client in clients:
        refused = await client.say("lobby", "hello?")
        assert (refused["code"], refused["temporary"]) == ("muted", False)
        assert 30_000 < refused["retry_after_ms"] <= 60_000
        sanction = await client.push("sanction")
        assert (sanction["kind"], sanction["room"], sanction["reason"]) == ("mute", "lobby", "spam")
        assert sanction["command_id"] == outcome.id
        assert isinstance(sanction["until"], int)
    lifted = await chat.done("member.unmute", "room:lobby", {"user": "u1"})
    assert lifted.result == {"lifted": True}
    for client in clients:
        assert (await client.say("lobby", "hello!"))["type"] == "ok"
        await client.push("sanction", kind="unmute", room="lobby")


@pytest.mark.parametrize(
    ("here", "everywhere", "longest"), [(50, 1000, 1000), (1000, 50, 1000), (None, 50, None), (50, None, None)]
)
async def test_of_two_mutes_the_later_end_is_told(
    chat: Chat, node: RunningNode, here: int | None, everywhere: int | None, longest: int | None
) -> None:
    client = await chat.client(node, "u1", "lobby")
    await chat.done("member.mute", "room:lobby", {"user": "u1", "seconds": here})
    await chat.done("user.mute", "user:u1", {"seconds": everywhere})
    refused = await client.say("lobby", "x")
    if longest is None:
        assert "retry_after_ms" not in refused
    else:
        assert (longest - 100) * 1000 < refused["retry_after_ms"] <= longest * 1000


async def test_a_mute_ends_by_itself(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    await chat.done("member.mute", "room:lobby", {"user": "u1", "seconds": 1})
    mute = await client.push("sanction", kind="mute")

    async def said() -> dict[str, Any] | None:
        answer = await client.say("lobby", "x")
        assert answer.get("code") in ("muted", None)
        return answer if answer["type"] == "ok" else None

    assert (await until(said))["ts"] >= mute["until"]


async def test_a_room_mute_concerns_one_room(chat: Chat, node: RunningNode) -> None:
    await chat.done("room.open", "room:other")
    client = await chat.client(node, "u1", "lobby", "other")
    await chat.done("member.mute", "room:lobby", {"user": "u1"})
    assert (await client.say("lobby", "x"))["code"] == "muted"
    assert (await client.say("other", "x"))["type"] == "ok"


async def test_a_user_mute_holds_in_every_room_on_every_node(chat: Chat, two_nodes: Pair) -> None:
    await chat.done("room.open", "room:other")
    clients = [await chat.client(node, "u1", "lobby", "other") for node in two_nodes]
    await chat.done("user.mute", "user:u1", {"seconds": 3600})
    for client in clients:
        for room in ("lobby", "other"):
            assert (await client.say(room, "x"))["code"] == "muted"
        assert (await client.push("sanction", kind="mute"))["room"] is None
    await chat.done("user.unmute", "user:u1")
    for client in clients:
        assert (await client.say("lobby", "x"))["type"] == "ok"


async def test_a_shadow_muted_user_alone_sees_what_they_say(chat: Chat, two_nodes: Pair) -> None:
    speaker, other = await chat.client(two_nodes[0], "u1", "lobby"), await chat.client(two_nodes[1], "u2", "lobby")
    elsewhere = await chat.client(two_nodes[1], "u1", "lobby")
    before = await speaker.say("lobby", "before")
    await chat.done("user.mute", "user:u1", {"shadow": True})
    said = await speaker.say("lobby", "in the shadow", nonce="n1")
    assert (said["type"], said["offset"]) == ("ok", before["offset"])
    assert said["message_id"] != before["message_id"]
    mine = await speaker.push("message", text="in the shadow")
    assert mine["message_id"] == said["message_id"]
    assert said["message_id"].partition("-")[2] == before["message_id"].partition("-")[2]
    assert await elsewhere.push("message", text="in the shadow") == mine
    assert await speaker.say("lobby", "in the shadow", nonce="n1") == {**said, "id": said["id"] + 1}
    after = await other.say("lobby", "after")
    assert after["offset"] == before["offset"] + 1
    assert (await other.push("message", text="after")).keys() == mine.keys()
    assert [m["text"] for m in other.seen("message")] == ["before"]
    joined = await speaker.ask("join", room="lobby")
    assert joined["sanctions"] == []
    await chat.done("user.unmute", "user:u1")
    assert (await speaker.say("lobby", "aloud"))["offset"] == after["offset"] + 1
    await speaker.push("message", text="aloud")
    assert speaker.seen("sanction") == []


async def test_a_mute_that_becomes_a_shadow_s_is_over_as_far_as_its_user_can_see(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    await chat.done("user.mute", "user:u1", {"seconds": 60})
    await client.push("sanction", kind="mute")
    await chat.done("user.mute", "user:u1", {"shadow": True})
    await client.push("sanction", kind="unmute")
    await chat.done("user.unmute", "user:u1")
    assert (await client.say("lobby", "x"))["type"] == "ok"
    assert client.seen("sanction") == []


async def test_a_banned_member_leaves_keeps_the_socket_and_cannot_join(chat: Chat, two_nodes: Pair) -> None:
    banned, other = await chat.client(two_nodes[0], "u1", "lobby"), await chat.client(two_nodes[1], "u2", "lobby")
    await chat.done("member.ban", "room:lobby", {"user": "u1"}, reason="enough")
    sanction = await banned.push("sanction", kind="ban")
    assert (sanction["room"], sanction["until"], sanction["reason"]) == ("lobby", None, "enough")
    assert (await banned.say("lobby", "x"))["code"] in ("not_joined", "banned")
    for node in two_nodes:
        async with signed_in(node.url, "u1") as again:
            assert (await again.ask("join", room="lobby"))["code"] == "banned"
    await other.say("lobby", "gone?")
    assert (await banned.ask("ping"))["type"] == "pong"
    assert banned.seen("message") == []
    await chat.done("member.unban", "room:lobby", {"user": "u1"})
    assert (await banned.ask("join", room="lobby"))["type"] == "joined"


async def test_a_kicked_member_leaves_and_may_come_back(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    other = await chat.client(node, "u2", "lobby")
    await chat.done("member.kick", "room:lobby", {"user": "u1"})
    await client.push("sanction", kind="kick", room="lobby")
    assert (await client.say("lobby", "x"))["code"] == "not_joined"
    await other.push("presence", leave=[{"user": "u1", "name": "u1"}])
    assert (await client.ask("join", room="lobby"))["type"] == "joined"
    assert (await client.say("lobby", "back"))["type"] == "ok"


async def test_a_kicked_user_is_disconnected_from_every_node_and_may_come_back(chat: Chat, two_nodes: Pair) -> None:
    clients = [await chat.client(node, "u1", "lobby") for node in two_nodes]
    await chat.done("user.kick", "user:u1", reason="cool down")
    for client in clients:
        await client.push("sanction", kind="kick", room=None, reason="cool down")
        assert await client.close_code() == 4503
    back = await chat.client(two_nodes[0], "u1", "lobby")
    assert (await back.say("lobby", "sorry"))["type"] == "ok"


async def test_a_banned_user_is_disconnected_and_refused_on_every_node(chat: Chat, two_nodes: Pair) -> None:
    clients = [await chat.client(node, "u1", "lobby") for node in two_nodes]
    await chat.done("user.ban", "user:u1", {"seconds": 3600})
    for client in clients:
        await client.push("sanction", kind="ban", room=None)
        assert await client.close_code() == 4504
    for node in two_nodes:
        async with connected(node.url) as again:
            await again.send(type="auth", id=1, token=token("u1"))
            assert await again.close_code() == 4504
    await chat.done("user.unban", "user:u1")
    assert (await chat.client(two_nodes[1], "u1")).ready["type"] == "ready"


async def test_a_warning_is_read_by_its_user(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node)
    await chat.done("user.warn", "user:u1", {"text": "mind your words"})
    warning = await client.push("sanction", kind="warn")
    assert (warning["room"], warning["text"], warning["reason"]) == (None, "mind your words", "mind your words")


async def test_sanctions_hold_for_who_connects_later_and_after_a_restart_of_every_node(chat: Chat) -> None:
    first = await chat.start_node("node-a")
    await chat.done("room.open", "room:lobby")
    await chat.done("member.mute", "room:lobby", {"user": "muted", "seconds": 600})
    await chat.done("member.ban", "room:lobby", {"user": "banned"})
    await chat.done("user.mute", "user:silenced", {"seconds": 600})
    await chat.done("user.ban", "user:gone", {"seconds": 600})
    await first.stop()
    chat.nodes.clear()
    second = await chat.start_node("node-b")
    for user, room_answer, say_answer in (("muted", "joined", "muted"), ("silenced", "joined", "muted")):
        client = await chat.client(second, user)
        joined = await client.ask("join", room="lobby")
        assert joined["type"] == room_answer
        assert [s["kind"] for s in joined["sanctions"]] == ["mute"]
        assert (await client.say("lobby", "x"))["code"] == say_answer
    assert (await (await chat.client(second, "banned")).ask("join", room="lobby"))["code"] == "banned"
    async with connected(second.url) as client:
        await client.send(type="auth", id=1, token=token("gone"))
        assert await client.close_code() == 4504


async def test_nothing_said_after_done_is_accepted_anywhere(chat: Chat, two_nodes: Pair) -> None:
    """Both kinds of mute, again and again, while both nodes are asked all the time."""
    clients = [await chat.client(node, "u1", "lobby") for node in two_nodes]
    for subject, mute, unmute, payload in (
        ("room:lobby", "member.mute", "member.unmute", {"user": "u1"}),
        ("user:u1", "user.mute", "user.unmute", {}),
    ):
        for _ in range(20):
            await chat.done(mute, subject, payload)
            answers = await asyncio.gather(*(client.say("lobby", "x") for client in clients))
            assert [a.get("code") for a in answers] == ["muted", "muted"]
            await chat.done(unmute, subject, payload)
            answers = await asyncio.gather(*(client.say("lobby", "x") for client in clients))
            assert [a["type"] for a in answers] == ["ok", "ok"]


@pytest.mark.parametrize("command", ["freeze", "close"])
async def test_a_room_that_is_shut_refuses_what_is_said(chat: Chat, node: RunningNode, command: str) -> None:
    client = await chat.client(node, "u1", "lobby")
    await chat.done(f"room.{command}", "room:lobby")
    state = "frozen" if command == "freeze" else "closed"
    assert (await client.push("room"))["state"] == state
    assert (await client.say("lobby", "x"))["code"] == f"room_{state}"
    late = await chat.client(node, "u2")
    answer = await late.ask("join", room="lobby")
    assert answer.get("code", answer.get("state")) == ("frozen" if command == "freeze" else "room_closed")
    await chat.done("room.unfreeze" if command == "freeze" else "room.open", "room:lobby")
    assert (await client.push("room"))["state"] == "open"
    assert (await client.say("lobby", "x"))["type"] == "ok"


@pytest.mark.parametrize(
    ("type", "payload"),
    [
        ("room.close", {}),
        ("room.freeze", {}),
        ("room.unfreeze", {}),
        ("room.clear", {}),
        ("room.slow_mode", {"seconds": 5}),
    ],
)
async def test_what_is_done_to_a_room_needs_a_room(
    chat: Chat, node: RunningNode, type: str, payload: dict[str, Any]
) -> None:
    outcome = await chat.operate(type, "room:nowhere", payload)
    assert outcome.state == "rejected"
    assert outcome.error is not None
    assert "open it first" in outcome.error.message


@pytest.mark.parametrize("command", ["freeze", "unfreeze"])
async def test_a_closed_room_is_not_opened_by_the_way(chat: Chat, node: RunningNode, command: str) -> None:
    await chat.done("room.close", "room:lobby")
    assert (await chat.operate(f"room.{command}", "room:lobby")).state == "rejected"


async def test_sanctions_and_notices_work_on_rooms_nobody_opened(chat: Chat, node: RunningNode) -> None:
    await chat.done("member.mute", "room:new", {"user": "u1"})
    await chat.done("notice.post", "room:new", {"text": "soon"})
    await chat.done("room.open", "room:new")
    client = await chat.client(node)
    joined = await client.ask("join", room="new")
    assert [m["text"] for m in joined["messages"]] == ["soon"]
    assert (await client.say("new", "x"))["code"] == "muted"


async def test_a_user_s_messages_since_a_time_are_deleted_and_the_rest_stays(chat: Chat, node: RunningNode) -> None:
    bad, good = await chat.client(node, "bad", "lobby"), await chat.client(node, "good", "lobby")
    early = await bad.say("lobby", "early")
    kept = await good.say("lobby", "kept")
    while (said := await bad.say("lobby", "late"))["ts"] == early["ts"]:
        pass
    outcome = await chat.done("message.delete", "room:lobby", {"user": "bad", "since": said["ts"]})
    assert outcome.result == {"deleted": 1}
    assert (await good.push("deleted"))["message_ids"] == [said["message_id"]]
    history = await good.ask("history", room="lobby", limit=10)
    texts = {m["message_id"]: m["text"] for m in history["messages"]}
    assert texts[early["message_id"]] == "early"
    assert texts[kept["message_id"]] == "kept"
    assert texts[said["message_id"]] is None


async def test_deleting_the_unknown_is_done_and_deletes_nothing(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    said = await client.say("lobby", "x")
    payload = {"message_ids": ["99-abcdef01", "nope", "m:5", said["message_id"]]}
    assert (await chat.done("message.delete", "room:lobby", payload)).result == {"deleted": 1}
    assert (await chat.done("message.delete", "room:lobby", payload)).result == {"deleted": 0}


async def test_two_hundred_messages_are_deleted_at_once_and_a_room_is_cleared(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    ids = [(await client.say("lobby", str(i)))["message_id"] for i in range(260)]
    assert (await chat.done("message.delete", "room:lobby", {"message_ids": ids[:200]})).result == {"deleted": 200}
    assert (await chat.done("room.clear", "room:lobby")).result == {"deleted": 60}
    history = await client.ask("history", room="lobby", limit=100)
    assert {m["text"] for m in history["messages"]} == {None}
