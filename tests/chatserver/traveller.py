"""A client that goes where it is sent, resumes, and notes every message: for tests that move or break nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.chatserver.client import ChatClient, connected, token
from tests.faults.pace import elapsed


class Traveller:
    """In one room. ``run`` until cancelled."""

    def __init__(self, user: str, room: str, urls: Sequence[str]) -> None:
        self.user, self.room, self._urls = user, room, list(urls)
        self.stays: list[list[int]] = []  # offsets as they came; a new list where it was told that some are lost
        self.joins: list[dict[str, Any]] = []
        self.codes: list[int | None] = []  # with which the server closed
        self.told: list[dict[str, Any]] = []  # to go elsewhere
        self.position: dict[str, Any] | None = None
        self._noted_at: list[float] = []

    async def run(self) -> None:
        while True:
            try:
                async with connected(self._urls[0]) as client:
                    await self._stay(client)
            except ConnectionClosed:
                self.codes.append(client.socket.close_code)
            except (OSError, InvalidHandshake):
                await elapsed(0.05)
            self._urls.append(self._urls.pop(0))
            if self.told:
                await elapsed(self.told[-1]["after_ms"] / 1000)

    async def _stay(self, client: ChatClient) -> None:
        ready = await client.ask("auth", token=token(self.user))
        assert ready["type"] == "ready", ready
        since = {} if self.position is None else {"since": self.position}
        joined = await client.ask("join", room=self.room, **since)
        assert joined["type"] == "joined", joined
        self.joins.append(joined)
        if joined["recovered"] and self.stays:
            for push in joined["messages"]:
                self._note(push)
        else:
            self.stays.append([])
        self.position = {"epoch": joined["epoch"], "offset": joined["offset"]}
        for push in client.unread():
            self._note(push)
        while True:
            self._note(json.loads(await client.socket.recv()))

    def _note(self, push: dict[str, Any]) -> None:
        if push["type"] == "reconnect":
            self.told.append(push)
        elif "offset" in push and push.get("room") == self.room:
            self.stays[-1].append(push["offset"])
            self._noted_at.append(asyncio.get_running_loop().time())
            if self.position is not None and push["offset"] > self.position["offset"]:
                self.position = {"epoch": push["epoch"], "offset": push["offset"]}

    @property
    def silence_s(self) -> float:
        """The longest time between two messages."""
        return max((after - before for before, after in pairwise(self._noted_at)), default=0.0)

    def silence_after(self, moment: float) -> float:
        """Seconds from ``moment`` of the loop's clock to the next message."""
        return min(at for at in self._noted_at if at >= moment) - moment

    @property
    def moves(self) -> list[dict[str, Any]]:
        """Each join after the first."""
        return self.joins[1:]

    @property
    def losses(self) -> int:
        """How often it was told that something cannot be had any more."""
        return max(0, len(self.stays) - 1)

    @property
    def at(self) -> int:
        """The offset up to which it has everything, or knows of its loss."""
        return self.position["offset"] if self.position is not None else -1

    def holes(self) -> list[tuple[int, int]]:
        """Neighbours that are not consecutive: something between them was missed untold, repeated or out of order."""
        return [(before, after) for stay in self.stays for before, after in pairwise(stay) if after != before + 1]

    def offsets_of_joins_are_followed(self) -> bool:
        """Whether what came first after a join with a loss is what came next in the room."""
        fresh = [join["offset"] for i, join in enumerate(self.joins) if i == 0 or not join["recovered"]]
        return all(stay[0] == offset + 1 for stay, offset in zip(self.stays, fresh, strict=True) if stay)
