"""What an operator does at the API is what a user sees on the websocket, on every node, also later."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.chatserver.client import ChatClient, connected, token
from tests.journeys.installation import NODES, Installation
from tests.waiting import until

pytestmark = pytest.mark.timeout(180)


async def say(clients: list[ChatClient], text: str = "hello") -> list[str]:
    """Everybody says it; the type of each answer, or the code of its error."""
    return [await until(partial(_said, client, text), 30) for client in clients]


async def _said(client: ChatClient, text: str) -> str | None:
    """None: the node asks to be asked again, as on a machine that stalls."""
    answer = await client.say("lobby", text)
    code: str = answer.get("code", answer["type"])
    return None if code == "unavailable" else code


async def knock(chat: Installation, user: str) -> list[Any]:
    """Authenticate on every node: ``ready``, or the code that the socket was closed with."""
    return [await until(partial(_entered, chat.nodes[node].url, user), 30) for node in NODES]


async def _entered(url: str, user: str) -> Any:
    """None: the node asks to be asked again, see above."""
    async with connected(url) as client:
        await client.push("hello")
        await client.send(type="auth", id=1, token=token(user))
        try:
            answer = await client.answer(1)
        except ConnectionClosed:
            code = await client.close_code()
            return None if code == 1013 else code
        return None if answer.get("code") == "unavailable" else answer["type"]


async def test_a_muted_user_is_told_and_refused_everywhere_until_unmuted(chat: Installation) -> None:
    for user, kind, subject in (("u1", "member", "room:lobby"), ("u2", "user", "user:u2")):
        clients = await chat.clients(user, "lobby")
        whom = {"user": user} if kind == "member" else {}
        assert await say(clients) == ["ok"] * 3
        muted = await chat.done(f"{kind}.mute", subject, **whom, seconds=600)
        assert await say(clients) == ["muted"] * 3
        for client in clients:
            assert (await client.push("sanction", kind="mute"))["command_id"] == muted["id"]
        assert await say([await chat.client("node-b", user, "lobby")]) == ["muted"]  # who comes later, too
        assert await say(await chat.clients("u3", "lobby")) == ["ok"] * 3
        await chat.done(f"{kind}.unmute", subject, **whom)
        assert await say(clients) == ["ok"] * 3
        for client in clients:
            await client.push("sanction", kind="unmute")


async def test_a_kicked_user_may_come_back_and_a_banned_one_not(chat: Installation) -> None:
    clients = await chat.clients("u1", "lobby")
    await chat.done("user.kick", "user:u1")
    assert await asyncio.gather(*(client.close_code() for client in clients)) == [4503] * 3
    assert await knock(chat, "u1") == ["ready"] * 3

    clients = await chat.clients("u1", "lobby")
    await chat.done("user.ban", "user:u1", seconds=600)
    assert await asyncio.gather(*(client.close_code() for client in clients)) == [4504] * 3
    assert await knock(chat, "u1") == [4504] * 3
    assert await knock(chat, "u2") == ["ready"] * 3
    await chat.done("user.unban", "user:u1")
    assert await knock(chat, "u1") == ["ready"] * 3


async def test_sanctions_outlive_every_process(chat: Installation) -> None:
    await chat.done("member.mute", "room:lobby", user="muted-here", seconds=600)
    await chat.done("user.mute", "user:muted")
    await chat.done("member.ban", "room:lobby", user="banned-here", seconds=600)
    await chat.done("user.ban", "user:banned")
    for restarted in (False, True):
        assert await say(await chat.clients("muted-here", "lobby")) == ["muted"] * 3
        assert await say(await chat.clients("muted", "lobby")) == ["muted"] * 3
        for client in await chat.clients("banned-here"):
            assert (await client.ask("join", room="lobby"))["code"] == "banned"
            assert (await client.ask("ping"))["type"] == "pong"
        assert await knock(chat, "banned") == [4504] * 3
        if not restarted:
            await chat.restart()
    await chat.done("user.unban", "user:banned")
    assert await knock(chat, "banned") == ["ready"] * 3
