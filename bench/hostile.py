"""Hostile clients: what others notice of them, what they make the node hold, and when the last one is cut.

As ``python -m bench.hostile URL`` it is the attacker: members that never read, handshakes that are never
finished, and a flood of pings whose answers nobody reads, which comes back when it is cut.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from urllib.parse import urlsplit

import orjson
import psutil
from websockets.asyncio.client import ClientConnection, connect

from bench.crowd import Client, Count, chat_node, open_rooms, token
from bench.measure import Figures, Row, Session, child, heard, percentile, say
from bench.workload import redis_server
from bridge.channels import Channel
from bridge.client import Bridge

DEAF, SLOW, FLOODS = 50, 250, 10
PER_S = 100  # messages in the room, before and during
BEFORE_S = 15.0
BAR_CUT_S, BAR_MIB, BAR_RATIO = 20.0, 20.0, 2.0
TEXT = "많은 말 " * 100
_PING = b"\x89\x80" + bytes(4)


async def bench(session: Session) -> AsyncIterator[Row]:
    cut: list[float] = []
    grown: list[float] = []
    before: list[float] = []
    during, _ = await session.rounds("hostile", partial(_round, before, cut, grown))
    what = f"{DEAF} that never read, {SLOW} slow handshakes, a ping flood"
    yield Row("hostile", f"{what}: all cut after", "s", Figures(tuple(cut)), None, BAR_CUT_S, more_is_better=False)
    yield Row("hostile", "the node grows by at most", "MiB", Figures(tuple(grown)), None, BAR_MIB, more_is_better=False)
    yield Row(
        "hostile", "say → another client, p99, against before", "ms", during, Figures(tuple(before)), BAR_RATIO,
        more_is_better=False,
    )  # fmt: skip


async def _round(before: list[float], cut: list[float], grown: list[float]) -> float:
    """The 99th percentile during the attack, in ms; the lists get that before it, seconds, and MiB."""
    async with redis_server() as server, Bridge.connect(server.url) as bridge, chat_node(server.url) as node:
        await open_rooms(bridge, 1)
        url, process = node.told["url"], psutil.Process(node.pid)
        async with _member(url, "good1") as speaker, _member(url, "good2") as hearer, _traffic(bridge):
            before.append(await _p99(speaker, hearer, asyncio.create_task(asyncio.sleep(BEFORE_S))))
            sockets, memory = process.num_fds(), process.memory_info().rss
            async with child("bench.hostile", url) as attacker:
                await attacker.hear()
                began = time.perf_counter()
                over = asyncio.create_task(_all_cut(process, sockets))
                p99 = await _p99(speaker, hearer, over)
                grown.append((over.result() - memory) / (1 << 20))
                cut.append(time.perf_counter() - began)
    return p99


@asynccontextmanager
async def _member(url: str, user: str) -> AsyncIterator[ClientConnection]:
    async with connect(url, subprotocols=["bridge.v1"], compression=None) as socket:  # type: ignore[list-item]
        await socket.send(orjson.dumps({"type": "auth", "id": 1, "token": token(user)}).decode())
        await socket.send(orjson.dumps({"type": "join", "id": 2, "room": "r0"}).decode())
        while orjson.loads(await socket.recv())["type"] != "joined":
            continue
        yield socket


@asynccontextmanager
async def _traffic(bridge: Bridge) -> AsyncIterator[None]:
    """What is said in the room anyway."""
    room = Channel.of_subject("room:r0", bridge.shards)

    async def go_on() -> None:
        while True:
            await bridge.channels.publish(room, "message", {"user": "u0", "name": "u0", "text": TEXT})
            await asyncio.sleep(1 / PER_S)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _p99(speaker: ClientConnection, hearer: ClientConnection, over: asyncio.Task[object]) -> float:
    """From one client's say to another's screen, ten times a second, until ``over``."""
    latencies = []
    answers = asyncio.create_task(_drain(speaker))
    while not over.done():
        began, text = time.perf_counter(), f"at {time.perf_counter()}"
        await speaker.send(orjson.dumps({"type": "say", "id": 3, "room": "r0", "text": text}).decode())
        while orjson.loads(await hearer.recv()).get("text") != text:
            continue
        latencies.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.1)
    answers.cancel()
    await asyncio.wait((answers,))
    return percentile(latencies, 0.99)


async def _drain(socket: ClientConnection) -> None:
    while True:
        await socket.recv()


async def _all_cut(process: psutil.Process, sockets: int) -> int:
    """Until the node has no more sockets than before; the most memory it had meanwhile."""
    most = 0
    while process.num_fds() > sockets:
        most = max(most, process.memory_info().rss)
        await asyncio.sleep(0.05)
    return most


async def _attack(url: str) -> None:
    parts, loop, count = urlsplit(url), asyncio.get_running_loop(), Count()
    where = (parts.hostname or "127.0.0.1", parts.port)
    tasks = []
    for i in range(SLOW):
        transport, _ = await loop.create_connection(asyncio.Protocol, *where)
        transport.write(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
        if i % 2:
            tasks.append(asyncio.create_task(_drip(transport)))
    for i in range(DEAF):
        transport, client = await loop.create_connection(lambda i=i: Client(count, "x", f"deaf{i}", "r0"), *where)  # type: ignore[misc]
        await client.there
        transport.pause_reading()
    say("attacking")
    tasks.append(asyncio.create_task(_flood(url)))
    await heard()


async def _drip(transport: asyncio.Transport) -> None:
    while not transport.is_closing():
        transport.write(b"X-Drip: 1\r\n")
        await asyncio.sleep(0.5)


async def _flood(url: str) -> None:
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    for i in range(FLOODS):
        transport, client = await loop.create_connection(
            lambda i=i: Client(Count(), "x", f"flood{i}", "r0"), parts.hostname, parts.port  # type: ignore[misc]
        )  # fmt: skip
        with suppress(ConnectionError):
            await client.there
        transport.pause_reading()
        # The node stops reading once it has closed: what is not taken any more says so.
        while not transport.is_closing() and transport.get_write_buffer_size() < 1 << 20:
            transport.write(_PING * 10_000)
            await asyncio.sleep(0.01)
        transport.abort()


if __name__ == "__main__":
    asyncio.run(_attack(sys.argv[1]))
