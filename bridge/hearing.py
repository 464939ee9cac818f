"""A connection that hears what its server says unasked: it comes back by itself, and silence is noticed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from bridge.errors import BridgeError, Unreachable
from bridge.link import Endpoint, Link

PING_EVERY_S = 1.0
_RECONNECT_FIRST_S, _RECONNECT_MOST_S = 0.02, 0.5


class Hearing:
    """See the module. ``on_open`` subscribes, ``on_push`` and ``on_refused`` are those of Link."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout: float,
        on_open: Callable[[Link], None],
        on_push: Callable[[list[Any]], None],
        on_refused: Callable[[BridgeError], bool],
        on_lost: Callable[[str], None] = lambda cause: None,
    ) -> None:
        self.link: Link | None = None
        self._endpoint, self._timeout = endpoint, timeout
        self._on_open, self._on_push, self._on_refused, self._on_lost = on_open, on_push, on_refused, on_lost
        self._over = False

    async def run(self) -> None:
        """Keep the connection up until cancelled, or ended."""
        loop, pause = asyncio.get_running_loop(), _RECONNECT_FIRST_S
        while True:
            lost: asyncio.Future[str] = loop.create_future()
            try:
                link = await self._open(lost)
            except BridgeError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RECONNECT_MOST_S)
                continue
            since = loop.time()
            try:
                await self._attend(link, lost)
            finally:
                self.link = None
                link.close()
            if self._over:
                return
            self._on_lost(lost.result())
            if loop.time() - since > PING_EVERY_S:
                pause = _RECONNECT_FIRST_S
            else:  # it takes connections, and refuses what we ask for
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RECONNECT_MOST_S)

    def end(self) -> None:
        """Close the connection and do not come back."""
        self._over = True
        if self.link is not None:
            self.link.close("not wanted any more")

    async def _open(self, lost: asyncio.Future[str]) -> Link:
        def on_lost(cause: str) -> None:
            if not lost.done():
                lost.set_result(cause)

        return await Link.open(
            self._endpoint,
            timeout=self._timeout,
            on_push=self._on_push,
            on_lost=on_lost,
            on_refused=self._on_refused,
        )

    async def _attend(self, link: Link, lost: asyncio.Future[str]) -> None:
        self.link = link
        self._on_open(link)
        while not (self._over or lost.done()):
            with contextlib.suppress(Unreachable):
                await link.send("PING")  # a half-open connection is silent for ever; the link's deadline cuts it
            await asyncio.wait((lost,), timeout=PING_EVERY_S)
