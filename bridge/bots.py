"""Bots: users of the demo who chat over real websockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

from bridge.chat.client import ChatClient, ChatError, Closed

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
_BACK_S = 0.2, 1.5  # until it tries again
_PENSIVE_S = 15.0  # the same, after it was turned away: a bot's owner has it come back
_BAD_TOKEN = 4501


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
        self._nodes, self._token, self._say = nodes, token, say
        self._told = ""  # why it is turned away, until it is let in again
        self._turn = itertools.count(list(CAST).index(name))  # so that all nodes have guests
        self._rooms = CAST[name]
        self._random = random.Random(name)

    async def run(self) -> None:
        while True:
            pause = self._random.uniform(*_BACK_S)
            try:
                async with ChatClient(self._next_node, self._token, name="demo bot", rng=self._random) as client:
                    self._told = ""
                    await self._chat(client)
            except Closed as closed:
                self._tell_once(f"{self.name} is turned away: {closed.code} {closed.reason}".rstrip())
                pause = pause if closed.code == _BAD_TOKEN else _PENSIVE_S
            except ChatError:  # no node lets it in
                pass
            await asyncio.sleep(pause)

    def _next_node(self) -> list[str]:
        nodes = self._nodes()
        return [nodes[next(self._turn) % len(nodes)]]

    async def _chat(self, client: ChatClient) -> None:
        """Until the session ends for good. It does not read what others say: what waits for it is bounded."""
        while True:
            for room in self._rooms:
                if room not in client.rooms:
                    await _if_allowed(client.join(room))
            room = self._random.choice(self._rooms)
            await _if_allowed(client.say(room, self._random.choice(_LINES[room])))
            await asyncio.sleep(self._random.uniform(*_PAUSE_S))

    def _tell_once(self, line: str) -> None:
        if line != self._told:
            self._say(line)
        self._told = line


async def _if_allowed(call: Awaitable[object]) -> None:
    with contextlib.suppress(ChatError):  # muted, banned, frozen; or nobody answers
        await call
