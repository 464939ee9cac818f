"""How much of the records a history has read since it began to feed, as a share."""

from __future__ import annotations

from collections.abc import Iterable


class CatchingUp:
    """Of each shard: where its record was first read, where it ended then, and how far that is read.

    Shares are of time, as a record tells when each of its entries was written but not how many are left.
    """

    def __init__(self, shards: Iterable[int]) -> None:
        self._shares = dict.fromkeys(shards, 0.0)
        self._spans: dict[int, tuple[int, int]] = {}  # shard → ms of the first entry and of the last one then
        self._done = not self._shares

    @property
    def share(self) -> float:
        """1 from the moment on when the end of every record was reached once."""
        return 1.0 if self._done else min(0.99, sum(self._shares.values()) / len(self._shares))

    def wants_end(self, shard: int) -> bool:
        """Whether it has to be told where the shard's record ends."""
        return not self._done and shard not in self._spans

    def begins(self, shard: int, first_ms: int, last_ms: int) -> None:
        """A record that one look does not read whole."""
        self._spans[shard] = first_ms, last_ms

    def reached(self, shard: int, at_ms: int) -> None:
        """Read up to here, and there is more."""
        first, last = self._spans.get(shard, (at_ms, at_ms))
        self._shares[shard] = min(1.0, (at_ms - first) / (last - first)) if last > first else 0.0

    def ended(self, shard: int) -> None:
        """Read to its end."""
        self._shares[shard] = 1.0
        self._done = self._done or all(share == 1.0 for share in self._shares.values())
