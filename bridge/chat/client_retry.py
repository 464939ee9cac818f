"""When a chat client tries again, and where: judgement only."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from bridge.errors import Misconfigured

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MOST_S: Final = 20.0

Urls = str | Sequence[str] | Callable[[], Sequence[str]]


def backoff(attempt: int, rng: random.Random) -> float:
    """Seconds before the next attempt; ``attempt`` counts from 0.

    "Full Jitter" of M. Brooker, Exponential Backoff And Jitter (AWS Architecture Blog, 2015): anything between
    nothing and the doubling bound, so that those who lost one node together do not come to the next together.
    """
    return rng.uniform(0, min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(attempt, 16)))


class NoUrl(Exception):
    """There is nowhere to go at the moment."""


class Route:
    """Every URL once, in random order and the lost one last, before the bound of the pauses doubles.

    That one took us says little: only of those that lasted is it known that others may be good, too.
    """

    def __init__(self, urls: Urls, rng: random.Random) -> None:
        if not callable(urls) and not urls:
            raise Misconfigured("no URL of a chat node is given; one looks like ws://HOST:PORT/ws")
        self._urls, self._rng = urls, rng
        self._last = ""
        self._tried: set[str] = set()
        self._rounds = 0

    def next(self) -> str:
        """Where to try. Raises NoUrl, which counts like a round of attempts."""
        try:
            urls = self._urls() if callable(self._urls) else self._urls
        except Exception as error:  # whatever the caller's function raises, it may do better the next time
            self._rounds += 1
            raise NoUrl(f"no list of nodes: {type(error).__name__}: {error}") from error
        listed = [urls] if isinstance(urls, str) else list(urls)
        if not listed:
            self._rounds += 1
            raise NoUrl("the list of nodes is empty")
        left = [url for url in listed if url not in self._tried]
        if not left:
            self._rounds += 1
            self._tried.clear()
            left = [url for url in listed if url != self._last] or listed
        self._last = self._rng.choice(left)
        self._tried = {url for url in self._tried if url in listed} | {self._last}
        return self._last

    def went_well(self) -> None:
        """The connection to the last one lasted: of the others nothing is known any more."""
        self._tried, self._rounds = {self._last}, 0

    def pause(self) -> float:
        return backoff(self._rounds, self._rng)
