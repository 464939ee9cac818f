"""How connections end, each with its code."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from bridge.errors import NameTaken
from tests.chatserver.client import ChatClient, connected, signed_in, token
from tests.chatserver.conftest import Chat, RunningNode
from tests.servers import Server
from tests.waiting import until


@pytest.mark.parametrize("frame", [{"type": "ping", "id": 1}, {"type": "join", "id": 1, "room": "lobby"}, {"id": 1}])
async def test_anything_before_auth_closes(node: RunningNode, frame: dict[str, Any]) -> None:
    async with connected(node.url) as client:
        await client.send(**frame)
        assert await client.close_code() == 4502


@pytest.mark.parametrize(
    "bad",
    [
        "nonsense",
        token(secret="another secret of more than 32 bytes"),
        token(seconds=-6),
        token(sub=None),
        token(exp=None),
        token("a user"),
        token(name=""),
        token(name="n" * 65),
    ],
    ids=["nonsense", "wrong secret", "expired", "no sub", "no exp", "bad sub", "empty name", "long name"],
)
async def test_a_bad_token_closes(node: RunningNode, bad: str) -> None:
    async with connected(node.url) as client:
        await client.send(type="auth", id=1, token=bad)
        assert await client.close_code() == 4501


@pytest.mark.parametrize("header", [rb'{"alg":"\ud800"}', rb'{"alg":"HS256","crit":["\ud800"]}'], ids=["alg", "crit"])
async def test_half_a_character_in_a_token_makes_it_a_bad_one_like_any_other(
    chat: Chat, node: RunningNode, header: bytes
) -> None:
    bad = base64.urlsafe_b64encode(header).rstrip(b"=").decode() + ".e30.x"
    member = await chat.client(node, "u1")
    refused = await member.ask("auth", token=bad)
    assert (refused["code"], refused["temporary"]) == ("unauthorized", False)
    assert (await member.ask("ping"))["type"] == "pong"
    async with connected(node.url) as stranger:
        await stranger.send(type="auth", id=1, token=bad)
        assert await stranger.close_code() == 4501


async def test_a_reason_that_cannot_be_sent_as_it_is_does_not_keep_a_close_from_its_code(
    chat: Chat, node: RunningNode
) -> None:
    client = await chat.client(node)
    (here,) = node.node.hub.clients
    here.socket.shut(4503, json.loads('"\\ud800"'))
    assert await client.close_code() == 4503


async def test_clocks_may_differ_by_five_seconds(node: RunningNode) -> None:
    async with signed_in(node.url, "u1", seconds=-1) as client:
        assert client.ready["type"] == "ready"


async def test_who_does_not_prove_who_they_are_in_time_is_closed(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.hub.AUTH_S", 0.2)
    async with connected(node.url) as client:
        assert await client.close_code() == 4502


async def test_an_expired_token_closes_unless_it_is_renewed(chat: Chat, node: RunningNode) -> None:
    renewed, lapsing = await chat.client(node, "u1"), await chat.client(node, "u2")
    await renewed.ask("auth", token=token("u1", seconds=7200))
    node.node.hub.clock = lambda: time.time() + 3610
    assert await lapsing.close_code() == 4003
    assert (await renewed.ask("ping"))["type"] == "pong"


async def test_a_node_that_was_held_up_gives_clients_time_to_be_heard(chat: Chat, node: RunningNode) -> None:
    client, hub = await chat.client(node), node.node.hub
    (here,) = hub.clients
    here.socket.heard_at -= 1000  # as if the process had been stopped for so long
    hub._swept_at -= 1000
    await hub.sweep()
    assert here.socket.closed_with is None
    assert (await client.ask("ping"))["type"] == "pong"


async def test_who_gives_no_sign_of_life_is_pinged_and_then_closed(chat: Chat) -> None:
    node = await chat.start_node(heartbeat_seconds=1)
    silent, alive = await chat.client(node, "u1"), await chat.client(node, "u2")
    answering = asyncio.create_task(_answer_pings(alive))
    await silent.push("ping")
    assert await silent.close_code() == 4002
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    assert (await alive.ask("ping"))["type"] == "pong"


async def _answer_pings(client: ChatClient) -> None:
    while True:
        await client.push("ping")
        await client.send(type="pong")


@pytest.mark.parametrize("kind", ["frames", "pings"])
async def test_too_many_frames_close(chat: Chat, kind: str) -> None:
    node = await chat.start_node(messages_per_s=1)
    client = await chat.client(node)
    for i in range(400):
        if kind == "frames":
            await client.send(type="ping", id=i)
        else:
            await client.socket.ping(str(i))
    assert await client.close_code() == 4005


async def test_a_client_that_does_not_read_is_closed_and_others_go_on(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.connection.CLOSE_TIMEOUT_S", 60.0)  # for all that it has not read yet
    slow = await chat.client(node, "slow", "lobby")
    slow.socket.transport.pause_reading()
    speaker, other = await chat.client(node, "u1", "lobby"), await chat.client(node, "u2", "lobby")
    text = "많은 글자 " * 80
    last: dict[str, Any] | None = None

    async def talk_until_it_is_cut() -> None:
        nonlocal last
        while any(client.user == "slow" and client.socket.closed_with is None for client in node.node.hub.clients):
            said = await speaker.say("lobby", text)
            if said["type"] == "error":
                assert said["temporary"], said
                continue
            last = said
            await other.push("message")
            await speaker.push("message")

    await asyncio.wait_for(talk_until_it_is_cut(), 120)
    assert [c.socket.closed_with for c in node.node.hub.clients if c.user == "slow"] in ([4001], [])
    assert last is not None
    slow.socket.transport.resume_reading()
    assert await slow.close_code() == 4001


async def test_a_client_that_asks_and_does_not_read_waits_for_itself(chat: Chat, node: RunningNode) -> None:
    greedy = await chat.client(node, "u1", "lobby")
    for _ in range(100):
        await greedy.say("lobby", "글" * 500)
        await greedy.push("message")
    greedy.socket.transport.pause_reading()
    for i in range(150):
        await greedy.send(type="history", id=i, room="lobby", limit=100)
    (client,) = node.node.hub.clients
    await until(lambda: client.socket.paused)
    assert client.socket.transport.get_write_buffer_size() < 1 << 20
    greedy.socket.transport.resume_reading()
    answers = [await greedy.answer(i) for i in range(150)]
    assert {len(a["messages"]) for a in answers} == {100}


async def test_a_sixth_session_takes_the_place_of_the_oldest_on_whatever_node(
    chat: Chat, two_nodes: tuple[RunningNode, RunningNode]
) -> None:
    clients = [await chat.client(two_nodes[i % 2], "u1") for i in range(5)]
    sixth = await chat.client(two_nodes[1], "u1", "lobby")
    assert await clients[0].close_code() == 4505
    for client in (*clients[1:], sixth):
        assert (await client.ask("ping"))["type"] == "pong"
    seventh = await chat.client(two_nodes[0], "u1")
    assert await clients[1].close_code() == 4505
    assert (await seventh.ask("ping"))["type"] == "pong"


@pytest.mark.parametrize("offered", [["bridge.v2"], ["chat", "bridge.v9"], []], ids=["newer", "others", "none"])
async def test_another_protocol_is_told_so(node: RunningNode, offered: list[str]) -> None:
    async with connected(node.url, subprotocols=offered) as client:
        assert await client.close_code() == 4506


async def test_ours_is_chosen_among_others(node: RunningNode) -> None:
    async with connected(node.url, subprotocols=["bridge.v2", "bridge.v1"]) as client:
        assert client.socket.subprotocol == "bridge.v1"
        assert json.loads(await client.socket.recv())["type"] == "hello"


async def test_no_page_may_connect_where_only_programs_may(chat: Chat) -> None:
    node = await chat.start_node(origins="none")
    for origin in ("https://chat.example", "none", "null"):
        with pytest.raises(InvalidStatus):
            async with connected(node.url, origin=origin):
                pass
    async with connected(node.url) as client:
        assert json.loads(await client.socket.recv())["type"] == "hello"


async def test_where_nothing_is_said_programs_and_pages_of_the_node_s_own_address_may(chat: Chat) -> None:
    node = await chat.start_node(origins="")
    here = node.http.removeprefix("http://")
    for origin in (None, f"http://{here}", f"https://{here.upper()}"):
        async with connected(node.url, origin=origin) as client:
            assert json.loads(await client.socket.recv())["type"] == "hello"
    for origin in ("https://evil.example", f"http://{here}.evil.example", "null", "http://[", f"http://{here}, null"):
        with pytest.raises(InvalidStatus) as refused:
            async with connected(node.url, origin=origin):
                pass
        assert refused.value.response.status_code == 403


async def test_pages_of_other_origins_may_not_connect(chat: Chat) -> None:
    node = await chat.start_node(origins="https://chat.example")
    async with connected(node.url, origin="https://chat.example") as client:
        assert json.loads(await client.socket.recv())["type"] == "hello"
    with pytest.raises(InvalidStatus) as refused:
        async with connected(node.url, origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403


async def test_a_node_that_stops_sends_its_clients_elsewhere_and_is_gone(chat: Chat, node: RunningNode) -> None:
    clients = [await chat.client(node, f"u{i}", "lobby") for i in range(3)]
    stopped = asyncio.create_task(node.stop())
    for client in clients:
        told = await client.push("reconnect")
        assert isinstance(told["after_ms"], int)
        assert told["reason"] == "restart"
        assert await client.close_code() == 1012
    await asyncio.wait_for(stopped, 15)  # of the 20 that it may take
    chat.nodes.clear()
    assert await chat.bridge.redis.call("ZCARD", chat.bridge.keys.live) == 0


async def test_a_node_asked_to_drain_sends_its_clients_away_until_it_may_take_part_again(
    chat: Chat, two_nodes: tuple[RunningNode, RunningNode]
) -> None:
    client = await chat.client(two_nodes[0], "u1", "lobby")
    await chat.bridge.drain("node-a", True)
    await client.push("reconnect", reason="drain")
    assert await client.close_code() == 1012
    with pytest.raises(InvalidStatus) as refused:
        async with connected(two_nodes[0].url):
            pass
    assert refused.value.response.status_code == 503
    await chat.bridge.drain("node-a", False)

    async def welcome() -> bool:
        try:
            async with connected(two_nodes[0].url):
                return True
        except InvalidStatus:
            return False

    await until(welcome)


async def test_a_second_node_of_one_name_refuses_to_start(chat: Chat, node: RunningNode) -> None:
    with pytest.raises(ExceptionGroup) as refused:
        await chat.start_node("node-a")
    assert refused.group_contains(NameTaken, depth=1)


async def test_redis_away_is_told_and_nobody_guesses(chat: Chat, start_proxy: Any, server: Server) -> None:
    proxy = await start_proxy(server)
    node = await chat.start_node("node-a", redis_url=proxy.url, drain_seconds=1)
    await chat.done("room.open", "room:lobby")
    client = await chat.client(node, "u1", "lobby")
    proxy.cut()
    for type, fields in (("say", {"text": "x"}), ("join", {}), ("history", {"limit": 5}), ("presence", {})):
        answer = await client.ask(type, room="lobby", **fields)
        assert (answer["code"], answer["temporary"]) == ("unavailable", True)
        assert answer["retry_after_ms"] > 0
    async with connected(node.url) as late:
        answer = await late.ask("auth", token=token("u2"))
        assert (answer["code"], answer["temporary"]) == ("unavailable", True)
        proxy.heal()
        await until(lambda: _answered(late, "auth", token=token("u2")))
    await until(lambda: _answered(client, "say", room="lobby", text="back"))


async def _answered(client: ChatClient, type: str, **fields: Any) -> bool:
    return (await client.ask(type, **fields))["type"] in ("ok", "ready")
