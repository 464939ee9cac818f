"""Mute: from the operator's POST to the user's websocket, against the bare path XADD → blocking read → SPUBLISH.

As ``python -m bench.mute URL`` it is the bare node in the middle.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import orjson
from joserfc import jwt
from joserfc.jwk import OctKey
from redis.asyncio import Redis as RedisPy
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket

from bench.measure import Row, Session, child, percentile, say
from bench.workload import redis_py, redis_server
from bridge.child import Child

MUTES = 400  # a round, one after the other
BAR = 3.0  # of the 99th percentiles
TOKEN, SECRET, USER = "bench-token-0123456789abcdef", "bench-secret-0123456789abcdef-0123", "u7"
_STREAM, _GROUP, _CHANNEL = "bench:stream", "bench", "bench:channel"


async def bench(session: Session) -> AsyncIterator[Row]:
    mutes = session.some(MUTES, 100)
    async with redis_server() as server, _services(server.url) as (office, node), AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}))
        socket = await stack.enter_async_context(open_websocket(node.told["url"], subprotocols=["bridge.v1"]))  # type: ignore[list-item]
        await _sign_in(socket)
        await (await stack.enter_async_context(child("bench.mute", server.url))).hear()
        url = f"{office.told['url']}/api/v1/commands"
        ours, theirs = await session.rounds(
            "mute", partial(_ours, http, url, socket, mutes), partial(_theirs, server.url, mutes)
        )
        yield Row("mute", "p99 from POST to the user's socket", "ms", ours, theirs, BAR, more_is_better=False)


@asynccontextmanager
async def _services(redis_url: str) -> AsyncIterator[tuple[Child, Child]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        settings = {
            "BRIDGE_REDIS_URL": redis_url,
            "BACKOFFICE_DATABASE_URL": f"sqlite+aiosqlite:///{name}/backoffice.sqlite3",
            "BACKOFFICE_API_TOKENS": f"bench:admin:{TOKEN}",
            "CHATSERVER_JWT_KEY": SECRET,
            "CHATSERVER_ORIGINS": "none",
            "CHATSERVER_NODE_NAME": "bench",
        }
        children = [Child(m, m, Path(name), {**os.environ, **settings}) for m in ("backoffice", "chatserver")]
        try:
            await asyncio.gather(*(each.start() for each in children))
            yield children[0], children[1]
        finally:
            await asyncio.gather(*(each.stop() for each in children))


async def _sign_in(socket: ClientConnection) -> None:
    token = jwt.encode({"alg": "HS256"}, {"sub": USER, "exp": int(time.time()) + 3600}, OctKey.import_key(SECRET))
    await socket.send(orjson.dumps({"type": "auth", "id": 1, "token": token}).decode())
    await _pushed(socket, "ready")


async def _pushed(socket: ClientConnection, type: str) -> None:
    while orjson.loads(await socket.recv())["type"] != type:
        continue


async def _ours(http: aiohttp.ClientSession, url: str, socket: ClientConnection, mutes: int) -> float:
    latencies = []
    body = {"type": "member.mute", "subject": "room:lobby", "payload": {"user": USER, "seconds": 60}}
    for _ in range(mutes):
        began = time.perf_counter()
        answer = asyncio.ensure_future(_post(http, url, body))
        await _pushed(socket, "sanction")
        latencies.append(time.perf_counter() - began)
        await answer
    return percentile(latencies, 0.99) * 1000


async def _post(http: aiohttp.ClientSession, url: str, body: object) -> None:
    async with http.post(url, json=body) as answer:
        assert answer.status == 202, await answer.text()


async def _theirs(url: str, mutes: int) -> float:
    latencies = []
    async with redis_py(url) as client, client.pubsub() as heard:
        await heard.execute_command("SSUBSCRIBE", _CHANNEL)
        await heard.parse_response()
        for _ in range(mutes):
            began = time.perf_counter()
            await client.xadd(_STREAM, {"type": "member.mute", "user": USER})
            await heard.parse_response()
            latencies.append(time.perf_counter() - began)
    return percentile(latencies, 0.99) * 1000


async def _bare_node(url: str) -> None:
    client: RedisPy
    async with redis_py(url) as client:
        await client.xgroup_create(_STREAM, _GROUP, "0", mkstream=True)
        say("ready")
        while True:
            for _, entries in await client.xreadgroup(_GROUP, "me", {_STREAM: ">"}, block=1000) or ():
                for id, fields in entries:
                    await client.execute_command("SPUBLISH", _CHANNEL, orjson.dumps(fields[b"user"].decode()))
                    await client.xack(_STREAM, _GROUP, id)


if __name__ == "__main__":
    asyncio.run(_bare_node(sys.argv[1]))
