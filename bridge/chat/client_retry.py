"""When a chat client tries again, and where: judgement only."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MOST_S: Final = 20.0

Urls = str | Sequence[str] | Callable[[], Sequence[str]]


def backoff(attempt: int, rng: random.Random) -> float:
    """Seconds before the next attempt; ``attempt`` counts from 0.

    "Full Jitter" of M. Brooker, Exponential Backoff And Jitter (AWS Architecture Blog, 2015): anything between
    nothing and the doubling bound, so that those who lost one node together do not come to the next together.
    """
    return rng.uniform(0, min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(attempt, 16)))


class Route:
    """Every URL once, in random order and the lost one last, before the bound of the pauses doubles."""

    def __init__(self, urls: Urls, rng: random.Random) -> None:
        self._urls, self._rng = urls, rng
        self._last = ""
        self._tried: set[str] = set()
        self._rounds = 0

    def next(self) -> str:
        urls = self._urls() if callable(self._urls) else self._urls
        listed = [urls] if isinstance(urls, str) else list(urls)
        left = [url for url in listed if url not in self._tried]
        if not left:
            self._rounds += 1
            self._tried.clear()
            left = [url for url in listed if url != self._last] or listed
        self._last = self._rng.choice(left)
        self._tried = {url for url in self._tried if url in listed} | {self._last}
        return self._last

    def connected(self) -> None:
        """The last one took us: of the others nothing is known any more."""
        self._tried = {self._last}

    def went_well(self) -> None:
        self._rounds = 0

    def pause(self) -> float:
        return backoff(self._rounds, self._rng)
