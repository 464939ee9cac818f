"""A chat client for tests: asks and gets the answer, and waits for pushes without losing any."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from itertools import count
from typing import Any

from joserfc import jwt
from joserfc.jwk import OctKey
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.chatserver.schemas import check_received, check_sent
from tests.waiting import until

SECRET = "a secret of more than thirty-two bytes"
PATIENCE_S = 20


def token(user: str = "u1", *, secret: str = SECRET, seconds: float = 3600, **claims: Any) -> str:
    claims = {"sub": user, "exp": time.time() + seconds, **claims}
    return jwt.encode({"alg": "HS256"}, {k: v for k, v in claims.items() if v is not None}, OctKey.import_key(secret))


class ChatClient:
    """One websocket. ``ready`` and ``hello`` are the frames of those names."""

    def __init__(self, socket: ClientConnection, user: str) -> None:
        self.socket, self.user = socket, user
        self.hello: dict[str, Any] = {}
        self.ready: dict[str, Any] = {}
        self._ids = count(1)
        self.documented = True  # what comes must be as the protocol's document tells; False: somebody else made it up
        self._unread: list[dict[str, Any]] = []
        self._asked: dict[object, dict[str, Any]] = {}  # id → the frame that was sent with it

    async def send(self, **frame: Any) -> None:
        self._asked[frame.get("id")] = frame
        await self.socket.send(json.dumps(frame))

    async def receive(self) -> dict[str, Any]:
        """The next frame."""
        frame: dict[str, Any] = json.loads(await self.socket.recv())
        if self.documented:
            check_received(frame)
        asked = self._asked.pop(frame["id"], None) if isinstance(frame.get("id"), int) else None
        if asked is not None and frame.get("code") != "bad_request":
            check_sent(asked)
        return frame

    async def ask(self, type: str, **fields: Any) -> dict[str, Any]:
        """Send a frame and return its answer; pushes that come before are kept."""
        id = next(self._ids)
        await self.send(type=type, id=id, **fields)
        return await self._find(lambda frame: frame.get("id") == id)

    async def push(self, type: str, **fields: Any) -> dict[str, Any]:
        """The first push of this type with these fields that was not asked for before."""
        wanted = {"type": type, **fields}
        return await self._find(
            lambda frame: "id" not in frame and all(frame.get(name) == value for name, value in wanted.items())
        )

    async def answer(self, id: int) -> dict[str, Any]:
        """The answer to a frame that was sent with this id."""
        return await self._find(lambda frame: frame.get("id") == id)

    async def error(self) -> dict[str, Any]:
        """The next error, whatever it answers."""
        return await self._find(lambda frame: frame["type"] == "error")

    async def pushes(self, type: str, n: int) -> list[dict[str, Any]]:
        return [await self.push(type) for _ in range(n)]

    def seen(self, type: str) -> list[dict[str, Any]]:
        """Pushes of this type that came along the way and that nobody waited for."""
        return [frame for frame in self._unread if frame["type"] == type and "id" not in frame]

    def unread(self) -> list[dict[str, Any]]:
        """All that came along the way and that nobody waited for."""
        unread, self._unread = self._unread, []
        return unread

    async def say(self, room: str, text: str, **fields: Any) -> dict[str, Any]:
        return await self.ask("say", room=room, text=text, **fields)

    async def close_code(self) -> int | None:
        """Read until the server closes; with which code."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    self._unread.append(await self.receive())
        except ConnectionClosed:
            return self.socket.close_code

    async def _find(self, matches: Any) -> dict[str, Any]:
        for place, unread in enumerate(self._unread):
            if matches(unread):
                return self._unread.pop(place)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    frame = await self.receive()
                    if matches(frame):
                        return frame
                    self._unread.append(frame)
        except TimeoutError:
            raise AssertionError(f"it did not come; what came: {self._unread}") from None


@contextlib.asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[ChatClient]:
    """A connection that has said hello, and nothing else."""
    subprotocols = [Subprotocol(name) for name in options.pop("subprotocols", ["bridge.v1"])]
    async with connect(url, subprotocols=subprotocols or None, compression=None, **options) as socket:
        yield ChatClient(socket, "")


@contextlib.asynccontextmanager
async def signed_in(url: str, user: str = "u1", *rooms: str, **claims: Any) -> AsyncIterator[ChatClient]:
    """A client that is authenticated and in these rooms."""
    async with connected(url) as client:
        client.user = user
        client.hello = await client.push("hello")
        client.ready = await client.ask("auth", token=token(user, **claims))
        assert client.ready["type"] == "ready", client.ready
        for room in rooms:
            await until(partial(joined, client, room))
        yield client


async def joined(client: ChatClient, room: str) -> bool:
    """False: the node says to try again, as a busy one does."""
    answer = await client.ask("join", room=room)
    assert answer["type"] == "joined" or answer["temporary"], answer
    return bool(answer["type"] == "joined")
