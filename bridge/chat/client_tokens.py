"""A chat client's token: asked for, kept while it is good, and replaced before it ends."""

from __future__ import annotations

import base64
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final

import orjson

TokenSource = str | Callable[[], str | Awaitable[str]]

RENEW_AT: Final = 0.8  # of the time that a token has left when it is got


class Tokens:
    """Where a client's tokens come from. A string is all there is; a callable is asked again in time."""

    def __init__(self, source: TokenSource, *, clock: Callable[[], float] = time.time) -> None:
        self._source, self._clock = source, clock
        self._token = ""
        self.kept = False  # the last one that was given had been used before
        self._renew_at: float | None = None  # by the clock; None: unknown, so every connection asks

    async def get(self) -> str:
        """A token that is good for some time yet, as far as can be told."""
        if self._token and self._renew_at is not None and self._clock() < self._renew_at:
            self.kept = True
            return self._token
        return await self.renew()

    async def renew(self) -> str:
        """Ask for another one."""
        self.kept = False
        if isinstance(self._source, str):
            return self._source
        got = self._source()
        self._token = await got if inspect.isawaitable(got) else got
        end, now = expiry(self._token), self._clock()
        self._renew_at = None if end is None else now + RENEW_AT * (end - now)
        return self._token

    def forget(self) -> None:
        """The server does not take it any more."""
        self._token = ""

    def renew_in(self) -> float | None:
        """Seconds until it should be replaced; None if that cannot be told, or there is no other."""
        if isinstance(self._source, str) or self._renew_at is None:
            return None
        return max(0.0, self._renew_at - self._clock())


def expiry(token: str) -> float | None:
    """When a JWT ends, in seconds since the epoch; None if it cannot be read off. Nothing is verified."""
    try:
        part = token.split(".")[1]
        end = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["exp"]
    except (IndexError, ValueError, KeyError, TypeError):
        return None
    return float(end) if isinstance(end, int | float) else None
