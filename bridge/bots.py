"""Bots: users of the demo who chat over real websockets, and come back as clients of the protocol should."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from bridge.errors import BridgeError

# Who, and in which rooms they are.
CAST: Mapping[str, tuple[str, ...]] = {
    "ada": ("lobby", "trade"),
    "bert": ("lobby", "quests"),
    "cleo": ("trade", "quests"),
    "dina": ("lobby", "trade"),
    "emil": ("lobby", "quests"),
    "fay": ("trade", "lobby"),
}
ROOMS: Mapping[str, str] = {"lobby": "Lobby", "trade": "Trading post", "quests": "Quests"}

_LINES: Mapping[str, tuple[str, ...]] = {
    "lobby": ("hi all", "who is new here?", "brb", "back again", "that update was worth it", "anyone up for a match?",
              "gg", "my ping is fine today", "see you at the gate", "lol", "who won last night?", "good morning"),
    "trade": ("selling a bronze shield", "looking for 12 iron ore", "60 gold for the lot?", "deal", "too much for me",
              "anybody got a spare lantern?", "price check on a silver ring", "sold, thanks", "still for sale"),
    "quests": ("need one more for the tower", "healer here", "left door or right door?", "we are at the bridge",
               "the troll is down", "wait for me", "take the torch", "that was close", "who has the key?"),
}  # fmt: skip
_PAUSE_S = 1.5, 5.0  # between two messages of one bot
_BACK_S = 0.2, 1.5  # until it connects again
_PENSIVE_S = 15.0  # the same, after it was kicked or banned
_TOKEN_IS_BAD = 4003, 4501
_STAY_AWAY = range(4500, 5000)  # close codes after which a client does not come back by itself; a bot's owner does


class Bot:
    """One user. ``run`` until cancelled; nodes that are gone, kicks, mutes and bans do not end it."""

    def __init__(
        self,
        name: str,
        nodes: Callable[[], Sequence[str]],
        token: Callable[[], Awaitable[str]],
        say: Callable[[str], None],
    ) -> None:
        self.name = name
        self._nodes, self._ask_token, self._say = nodes, token, say
        self._told = ""  # why it is turned away, until it is let in again
        self._turn = itertools.count(list(CAST).index(name))  # so that all nodes have guests
        self._token = ""  # asked for once, so that bots stay when the back office does not
        self._rooms = CAST[name]
        self._ids = itertools.count(1)
        self._random = random.Random(name)

    async def run(self) -> None:
        while True:
            pause = self._random.uniform(*_BACK_S)
            try:
                nodes = self._nodes()
                await self._visit(nodes[next(self._turn) % len(nodes)])
            except ConnectionClosed as closed:
                code, why = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else (0, "")
                if code in _STAY_AWAY:
                    self._tell_once(f"{self.name} is turned away: {code} {why}".rstrip())
                if code in _TOKEN_IS_BAD:
                    self._token = ""
                elif code in _STAY_AWAY:
                    pause = _PENSIVE_S
            except (OSError, TimeoutError, InvalidHandshake, BridgeError):
                pass
            await asyncio.sleep(pause)

    async def _visit(self, url: str) -> None:
        """One connection, from its first frame to its end."""
        self._token = self._token or await self._ask_token()
        async with connect(
            url, subprotocols=[Subprotocol("bridge.v1")], compression=None, proxy=None, open_timeout=5
        ) as socket:
            await self._send(socket, "auth", token=self._token, client={"name": "demo bot"})
            talking = asyncio.create_task(self._talk(socket), name=f"{self.name} talks")
            try:
                async for message in socket:
                    await self._hear(socket, orjson.loads(message))
            finally:
                talking.cancel()
                await asyncio.gather(talking, return_exceptions=True)
            await socket.recv()  # raises: how it was closed

    async def _hear(self, socket: ClientConnection, frame: Mapping[str, Any]) -> None:
        match frame:
            case {"type": "ready"} | {"type": "error", "code": "not_joined"}:
                self._told = ""
                for room in self._rooms:
                    await self._send(socket, "join", room=room)
            case {"type": "ping"}:
                await socket.send(b'{"type":"pong"}', text=True)

    def _tell_once(self, line: str) -> None:
        if line != self._told:
            self._say(line)
        self._told = line

    async def _talk(self, socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(*_PAUSE_S))
            room = self._random.choice(self._rooms)
            await self._send(socket, "say", room=room, text=self._random.choice(_LINES[room]))

    async def _send(self, socket: ClientConnection, type: str, **fields: Any) -> None:
        frame = {"type": type, "id": next(self._ids), **fields}
        await socket.send(orjson.dumps(frame), text=True)
