"""Many cheap clients of a chat node, or of any websocket server, in a process of their own.

``python -m bench.crowd URL CLIENTS ROOMS [FIRST]``: each client is a user of its own in one of so many rooms;
without rooms it only opens a websocket. Says when all are there; then, for each number it is told, when
so many messages more have arrived in all.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import orjson

import bridge.chat.commands  # noqa: F401 - registers room.open
from bench.measure import heard, say
from bridge.child import Child
from bridge.client import Bridge

SECRET = "bench-secret-0123456789abcdef-0123"
END = "^"  # ends the text of each message that is counted, and is nowhere else: no length of a frame either
END_BYTE = END.encode()
_AT_ONCE = 100  # connections being made
_ADDRESSES = 8  # of this machine, so that ports do not run out
_UPGRADE = (
    "GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: bridge.v1\r\n\r\n"
)


def masked(message: object) -> bytes:
    """A text frame as clients send it, with a mask of zeros."""
    body = orjson.dumps(message)
    head = struct.pack("!BB", 0x81, 0x80 | len(body)) if len(body) < 126 else struct.pack("!BBH", 0x81, 0xFE, len(body))
    return head + bytes(4) + body


def token(user: str) -> str:
    """Good for an hour; a library would take longer than the node does to check it."""
    claims = {"sub": user, "exp": int(time.time()) + 3600}
    head, body = (base64.urlsafe_b64encode(orjson.dumps(part)).rstrip(b"=") for part in ({"alg": "HS256"}, claims))
    signature = hmac.digest(SECRET.encode(), head + b"." + body, hashlib.sha256)
    return b".".join((head, body, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()


class Count:
    """Of all clients together."""

    def __init__(self) -> None:
        self.left = 0
        self.reached = asyncio.Event()

    def add(self, messages: int) -> None:
        self.left -= messages
        if self.left <= 0:
            self.reached.set()


class Client(asyncio.Protocol):
    """Says what it has to, then counts."""

    def __init__(self, count: Count, host: str, user: str, room: str | None) -> None:
        self._count = count
        self.there: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._heard = b""
        self._steps = [(b"\r\n\r\n", b"")]
        if room is not None:
            auth = masked({"type": "auth", "id": 1, "token": token(user)})
            join = masked({"type": "join", "id": 2, "room": room})
            self._steps = [(b'"type":"hello"', auth), (b'"type":"ready"', join), (b'"type":"joined"', b"")]
        self._upgrade = _UPGRADE.format(host=host).encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:

        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._upgrade)

    def data_received(self, data: bytes) -> None:
        if not self._steps:
            if found := data.count(END_BYTE):
                self._count.add(found)
            elif b'"type":"ping"' in data:
                self.transport.write(masked({"type": "pong"}))
            return
        self._heard += data
        while self._steps and self._steps[0][0] in self._heard:
            if answer := self._steps.pop(0)[1]:
                self.transport.write(answer)
        if not self._steps:
            self._heard = b""
            if not self.there.done():
                self.there.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.there.done():
            self.there.set_exception(ConnectionError(f"closed early: {self._heard[-300:]!r}"))


async def crowd(url: str, clients: int, rooms: int, first: int) -> None:
    parts, loop, count, gate = urlsplit(url), asyncio.get_running_loop(), Count(), asyncio.Semaphore(_AT_ONCE)
    host, port = parts.hostname or "127.0.0.1", parts.port

    async def enter(i: int) -> Client:
        async with gate:
            room = f"r{i % rooms}" if rooms else None
            _, client = await loop.create_connection(
                lambda: Client(count, host, f"u{first + i}", room), host, port,
                local_addr=(f"127.0.0.{1 + i % _ADDRESSES}", 0),
            )  # fmt: skip
            await client.there
        return client

    present = await asyncio.gather(*(enter(i) for i in range(clients)))
    say({"clients": len(present)})
    while (expected := await heard()) is not None:
        count.left += expected
        count.reached.clear()
        say({"expecting": expected})
        await count.reached.wait()
        say({"at": time.perf_counter()})
    for client in present:
        client.transport.abort()


@asynccontextmanager
async def chat_node(redis_url: str, **settings: str) -> AsyncIterator[Child]:
    """A node as a process, on the kind of loop that this one runs on."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        environment = {
            **os.environ,
            "BRIDGE_REDIS_URL": redis_url,
            "CHATSERVER_JWT_KEY": SECRET,
            "CHATSERVER_NODE_NAME": "bench",
            "CHATSERVER_ORIGINS": "none",
            "CHATSERVER_UVLOOP": str(on_uvloop()),
            "CHATSERVER_DRAIN_SECONDS": "2",
            **settings,
        }
        node = Child("bench", "chatserver", Path(directory), environment)
        await node.start()
        try:
            yield node
        finally:
            await node.stop()


async def open_rooms(bridge: Bridge, rooms: int) -> None:
    receipts = await asyncio.gather(*(bridge.publish("room.open", f"room:r{i}", {}, by="bench") for i in range(rooms)))
    for receipt in receipts:
        await bridge.outcome(receipt.id, wait=10)


def on_uvloop() -> bool:
    return type(asyncio.get_running_loop()).__module__.startswith("uvloop")


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has had, to the nanosecond."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def _loop_factory() -> asyncio.AbstractEventLoop:
    with contextlib.suppress(ImportError):
        return import_module("uvloop").new_event_loop()  # type: ignore[no-any-return]
    return asyncio.new_event_loop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_loop_factory) as runner:
        runner.run(crowd(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int((*sys.argv, "0")[4])))
