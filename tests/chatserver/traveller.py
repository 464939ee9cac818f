"""A client that goes where it is sent, resumes, and notes every message: for tests that move or break nodes."""

from __future__ import annotations

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
        self.messages: list[tuple[int, str]] = []  # offset and text of each, as they came
        self.moves: list[dict[str, Any]] = []  # each join after the first
        self.codes: list[int | None] = []  # with which the server closed
        self.told: list[dict[str, Any]] = []  # to go elsewhere
        self.position: dict[str, Any] | None = None

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
        if self.position is not None:
            self.moves.append(joined)
        if joined["recovered"]:
            for push in joined["messages"]:
                self._note(push)
        self.position = {"epoch": joined["epoch"], "offset": joined["offset"]}
        for push in client.seen("message"):  # what came before the answer was read
            self._note(push)
        while True:
            self._note(json.loads(await client.socket.recv()))

    def _note(self, push: dict[str, Any]) -> None:
        if push["type"] == "reconnect":
            self.told.append(push)
        elif "offset" in push and push.get("room") == self.room:
            self.messages.append((push["offset"], push.get("text") or ""))
            if self.position is not None:
                self.position["offset"] = max(push["offset"], self.position["offset"])

    @property
    def last(self) -> int:
        return self.messages[-1][0] if self.messages else 0

    def holes(self) -> list[tuple[int, int]]:
        """Neighbours that are not consecutive: something between them was missed, repeated or out of order."""
        offsets = [offset for offset, _ in self.messages]
        return [(before, after) for before, after in pairwise(offsets) if after != before + 1]
