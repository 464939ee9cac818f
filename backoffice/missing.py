"""Commands of open rows that the servers do not know: lost in a fail-over, or ended and forgotten meanwhile."""

from __future__ import annotations

import time

LOST_AFTER_S = 30.0  # what a journal still has is back long before
MOST = 10_000


class Missing:
    """Since when no server has known them, as far as they were asked for. Bounded, in memory."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}  # by id, the longest missed first

    def note(self, id: str, *, known: bool) -> None:
        """The servers were asked for this one just now."""
        if known:
            self._since.pop(id, None)
            return
        self._since.setdefault(id, time.monotonic())
        while len(self._since) > MOST:
            del self._since[next(iter(self._since))]

    def __contains__(self, id: str) -> bool:
        """Whether it has been missing for so long that it will not come back by itself."""
        since = self._since.get(id)
        return since is not None and time.monotonic() - since >= LOST_AFTER_S
