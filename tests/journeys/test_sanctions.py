"""What an operator does at the API is what a user sees on the websocket, on every node, also later."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.chatserver.client import ChatClient, connected, token
from tests.journeys.installation import NODES, Installation

pytestmark = pytest.mark.timeout(180)


async def say(clients: list[ChatClient], text: str = "hello") -> list[str]:
    """Everybody says it; the type of each answer, or the code of its error."""
    answers = [await client.say("lobby", text) for client in clients]
    return [answer.get("code", answer["type"]) for answer in answers]


async def knock(chat: Installation, user: str) -> list[Any]:
    """Authenticate on every node: ``ready``, or the code that the socket was closed with."""
    answers: list[Any] = []
    for node in NODES:
        async with connected(chat.nodes[node].url) as client:
            await client.push("hello")
            await client.send(type="auth", id=1, token=token(user))
            try:
                answers.append((await client.answer(1))["type"])
            except Exception:
                answers.append(await client.close_code())
    return answers


@pytest.mark.parametrize(("kind", "subject"), [("member", "room:lobby"), ("user", "user:u1")])
async def test_a_muted_user_is_told_and_refused_everywhere_until_unmuted(
    chat: Installation, kind: str, subject: str
) -> None:
    clients = await chat.clients("u1", "lobby")
    whom = {"user": "u1"} if kind == "member" else {}
    assert await say(clients) == ["ok"] * 3

    muted = await chat.done(f"{kind}.mute", subject, **whom, seconds=600)
    assert await say(clients) == ["muted"] * 3
    for client in clients:
        assert (await client.push("sanction", kind="mute"))["command_id"] == muted["id"]
    later = await chat.clients("u1", "lobby")
    assert await say(later) == ["muted"] * 3
    others = await chat.clients("u2", "lobby")
    assert await say(others) == ["ok"] * 3

    await chat.restart()
    clients = await chat.clients("u1", "lobby")
    assert await say(clients) == ["muted"] * 3

    await chat.done(f"{kind}.unmute", subject, **whom)
    assert await say(clients) == ["ok"] * 3
    for client in clients:
        await client.push("sanction", kind="unmute")


async def test_a_kicked_user_is_disconnected_everywhere_and_may_come_back(chat: Installation) -> None:
    clients = await chat.clients("u1", "lobby")
    await chat.done("user.kick", "user:u1")
    assert await asyncio.gather(*(client.close_code() for client in clients)) == [4503] * 3
    assert await knock(chat, "u1") == ["ready"] * 3


async def test_a_banned_user_is_disconnected_and_refused_everywhere_until_unbanned(chat: Installation) -> None:
    clients = await chat.clients("u1", "lobby")
    await chat.done("user.ban", "user:u1", seconds=600)
    assert await asyncio.gather(*(client.close_code() for client in clients)) == [4504] * 3
    assert await knock(chat, "u1") == [4504] * 3
    assert await knock(chat, "u2") == ["ready"] * 3

    await chat.restart()
    assert await knock(chat, "u1") == [4504] * 3
    await chat.done("user.unban", "user:u1")
    assert await knock(chat, "u1") == ["ready"] * 3


async def test_a_member_banned_from_a_room_keeps_the_socket_and_cannot_join(chat: Installation) -> None:
    clients = await chat.clients("u1", "lobby")
    await chat.done("member.ban", "room:lobby", user="u1", seconds=600)
    for client in clients:
        await client.push("sanction", kind="ban")
        assert (await client.ask("join", room="lobby"))["code"] == "banned"
    await chat.restart()
    for client in await chat.clients("u1"):
        assert (await client.ask("join", room="lobby"))["code"] == "banned"
        assert (await client.ask("ping"))["type"] == "pong"
    await chat.done("member.unban", "room:lobby", user="u1")
    await chat.clients("u1", "lobby")
