"""A chat client's token: asked for, kept while it is good, and replaced before it ends."""

from __future__ import annotations

import asyncio
import base64
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final

import orjson

TokenSource = str | Callable[[], str | Awaitable[str]]

RENEW_AT: Final = 0.8  # of the time that a token has left when it is got
ASK_S: Final = 10.0  # for the caller's function to give one


class Tokens:
    """Where a client's tokens come from. A string is all there is; a callable is asked again in time."""

    def __init__(self, source: TokenSource, *, clock: Callable[[], float] = time.time) -> None:
        self._source, self.clock = source, clock
        self._ahead_s = 0.0  # of the nodes' clock, by which tokens end
        self._token = ""
        self.kept = False  # the last one that was given had been used before
        self._end: float | None = None  # by the nodes' clock; None: unknown, so every connection asks
        self._got_at = 0.0  # by ours

    async def get(self) -> str:
        """A token that is good for some time yet, as far as can be told."""
        if self._token and self.renew_in():
            self.kept = True
            return self._token
        return await self.renew()

    async def renew(self) -> str:
        """Ask for another one. Raises TimeoutError where there is no answer, and what the caller's function raises."""
        self.kept = False
        if isinstance(self._source, str):
            return self._source
        got = self._source()
        if inspect.isawaitable(got):
            async with asyncio.timeout(ASK_S):
                got = await got
        self._token, self._end, self._got_at = got, expiry(got), self.clock()
        return got

    def told(self, server_time: float) -> None:
        """A node has told its time, in seconds since the epoch."""
        self._ahead_s = self.clock() - server_time

    def forget(self) -> None:
        """The server does not take it any more."""
        self._token = ""

    def renew_in(self) -> float | None:
        """Seconds until it should be replaced; None if that cannot be told, or there is no other."""
        if isinstance(self._source, str) or self._end is None:
            return None
        left = self._end - (self._got_at - self._ahead_s)
        return max(0.0, self._got_at + RENEW_AT * left - self.clock())


def expiry(token: str) -> float | None:
    """When a JWT ends, in seconds since the epoch; None if it cannot be read off. Nothing is verified."""
    try:
        part = token.split(".")[1]
        end = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["exp"]
    except (IndexError, ValueError, KeyError, TypeError):
        return None
    return float(end) if isinstance(end, int | float) else None
