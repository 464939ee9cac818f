"""Many members, many messages: what is written once, and what is not told to everybody."""

from __future__ import annotations

import asyncio

import pytest

from bridge.channels import Channel
from bridge.envelope import Publication
from tests.chatserver.conftest import Chat, RunningNode
from tests.chatserver.traveller import Traveller
from tests.waiting import until

ROOM = Channel.of_subject("room:lobby", 4)


def said(text: str) -> dict[str, str]:
    return {"user": "u9", "name": "U", "text": text}


async def test_what_comes_in_one_turn_goes_to_each_member_in_one_write(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await chat.client(node, "u1", "lobby")
    (here,) = node.node.hub.clients
    writes = 0
    write = here.socket.transport.write

    def count(data: bytes) -> None:
        nonlocal writes
        writes += 1
        write(data)

    monkeypatch.setattr(here.socket.transport, "write", count)
    room = node.node.rooms.get("lobby")
    assert room is not None
    await chat.bridge.channels.publish(ROOM, "message", said("0"))
    await client.push("message", text="0")
    assert room.follower.position is not None
    writes = 0
    # As they come in one read of the subscription.
    for i in range(1, 11):
        room._deliver(_publication(room.follower.position.offset + i, str(i)))
    assert [push["text"] for push in await client.pushes("message", 10)] == [str(i) for i in range(1, 11)]
    assert writes == 1


def _publication(offset: int, text: str) -> Publication:
    return Publication("room:lobby", "e", offset, "message", 0, said(text))


async def test_who_joins_while_much_is_said_misses_nothing_and_sees_nothing_twice(
    chat: Chat, node: RunningNode
) -> None:
    travellers = [Traveller(f"t{i}", "lobby", [node.url]) for i in range(12)]
    running = []
    for i, traveller in enumerate(travellers):
        running.append(asyncio.create_task(traveller.run()))
        calls = [chat.bridge.channels.publish(ROOM, "message", said(f"{i}/{n}")) for n in range(40)]
        last = (await asyncio.gather(*calls))[-1]
        if i % 3 == 0:
            await until(lambda traveller=traveller: traveller.position)
    await until(lambda: all(traveller.at >= last.offset for traveller in travellers))
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    for traveller in travellers:
        assert traveller.codes == []
        assert traveller.holes() == []
        assert traveller.offsets_of_joins_are_followed()


async def test_in_a_large_room_presence_is_a_number(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.rooms.LARGE_ROOM", 3)
    monkeypatch.setattr("chatserver.session.LARGE_ROOM", 3)
    monkeypatch.setattr("chatserver.state.MAX_LISTED", 3)
    first = await chat.client(node, "u0", "lobby")
    for i in range(1, 6):
        await chat.client(node, f"u{i}", "lobby")
    await first.push("presence", count=6, join=[], leave=[])
    seventh = await chat.client(node, "u6")
    assert (await seventh.ask("join", room="lobby"))["count"] == 7
    await seventh.push("presence", count=7, join=[], leave=[])
    answer = await seventh.ask("presence", room="lobby")
    assert answer["count"] == 7
    assert {each["user"] for each in answer["users"]} == {f"u{i}" for i in range(7)}
