from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.chatserver.client import connected
from tests.chatserver.conftest import Chat, RunningNode
from tests.servers import Server
from tests.waiting import until


async def get(url: str, method: str = "GET", **options: Any) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.request(method, url, **options) as response:
        return response.status, await response.text()


async def test_a_node_that_serves_is_alive_and_ready(node: RunningNode) -> None:
    assert await get(node.where.health_url) == (200, '{"status":"ok"}')
    status, text = await get(f"{node.http}/readyz")
    assert status == 200
    assert text == '{"status":"ready","checks":{"redis":"ok","subscriptions":"ok","clock":"ok","serving":"ok"}}'


async def test_without_redis_it_is_alive_and_not_ready_until_redis_is_back(
    chat: Chat, server: Server, start_proxy: Callable[..., Any]
) -> None:
    proxy = await start_proxy(server)
    node = await chat.start_node(redis_url=proxy.url, drain_seconds=1)
    proxy.cut()
    status, text = await get(f"{node.http}/readyz")
    assert status == 503
    assert '"status":"unavailable"' in text
    assert (await get(node.where.health_url))[0] == 200
    proxy.heal()

    async def ready() -> bool:
        return (await get(f"{node.http}/readyz"))[0] == 200

    await until(ready)


async def test_a_node_whose_clock_goes_wrong_gets_no_new_clients_and_says_so(
    node: RunningNode, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 60)
    await server.client().client_kill_filter(_type="normal", skipme=True)  # a reason to look
    _, text = await until(lambda: readiness(node, 503, " s off the server's"))
    assert '"redis":"ok"' in text
    figure = 'bridge_self_check_findings{code="clock_skew",severity="refuse"}'
    assert f"{figure} 1.0" in (await get(f"{node.http}/metrics"))[1]
    monkeypatch.undo()
    await server.client().client_kill_filter(_type="normal", skipme=True)
    await until(lambda: readiness(node, 200, ""))
    assert f"{figure} 0.0" in (await get(f"{node.http}/metrics"))[1]


async def readiness(node: RunningNode, wanted: int, word: str) -> tuple[int, str] | None:
    status, text = await get(f"{node.http}/readyz")
    return (status, text) if status == wanted and word in text else None


async def test_metrics_count_sessions_and_name_nobody(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "somebody", "lobby")
    await client.ask("say", room="elsewhere", text="x")
    await chat.done("member.mute", "room:lobby", {"user": "somebody"})
    status, text = await get(f"{node.http}/metrics")
    assert status == 200
    assert "chat_sessions 1.0" in text
    assert "chat_rooms 1.0" in text
    assert 'chat_refused_total{code="not_joined"} 1.0' in text
    assert 'chat_commands_total{state="done",type="member.mute"} 1.0' in text
    assert not re.search("somebody|lobby", text)


async def test_metrics_count_dead_letters_and_no_types_that_nobody_knows(chat: Chat, node: RunningNode) -> None:
    keys = chat.bridge.keys
    fields = ("v", "1", "type", "made.up", "subject", "room:lobby", "payload", "{}")
    await chat.bridge.redis.call("XADD", keys.commands(0), "*", *fields)
    await chat.bridge.redis.call("SPUBLISH", keys.ring(0), "new")
    await until(lambda: counted(node, 'chat_commands_total{state="dead",type="-"} 1.0'))
    assert "made.up" not in (await get(f"{node.http}/metrics"))[1]


async def counted(node: RunningNode, line: str) -> bool:
    return line in (await get(f"{node.http}/metrics"))[1]


@pytest.mark.parametrize("path", ["/", "/nope", "/ws/", "/healthz/x", "/..%2f", "/api/v1/commands", "/ws%20"])
async def test_other_paths_are_not_found(node: RunningNode, path: str) -> None:
    assert (await get(node.http + path))[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("HEAD", "/healthz", 200), ("POST", "/healthz", 405), ("DELETE", "/metrics", 405), ("GET", "/ws", 426)],
)
async def test_methods(node: RunningNode, method: str, path: str, status: int) -> None:
    assert (await get(node.http + path, method))[0] == status


@pytest.mark.parametrize(
    "request_text",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /ws HTTP/3\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /healthz HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"GET /ws HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /ws HTTP/1.1\r\n" + b"A: b\r\n" * 300 + b"\r\n",
        b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
    ],
    ids=["blank", "no path", "HTTP/3", "TLS", "a body", "chunked", "long path", "many headers", "no key", "bad key"],
)
async def test_broken_requests_are_refused_and_closed(node: RunningNode, request_text: bytes) -> None:
    port = int(node.http.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_text)
    if request_text.startswith(b"\x16"):
        writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer == b"" or re.match(rb"HTTP/1\.1 4\d\d ", answer), answer[:200]
    assert b"Traceback" not in answer
    writer.close()
    async with connected(node.url) as client:
        assert (await client.push("hello"))["type"] == "hello"


async def test_a_request_with_a_body_is_told_that_it_is_bad(node: RunningNode) -> None:
    assert (await get(node.where.health_url, "POST", data=b"x"))[0] == 400
