"""The driver's clock, and pauses that the end of a run cuts short."""

from __future__ import annotations

import asyncio
import contextlib
import time


class Clock:
    """Seconds since the run began; ``over`` is set when the load has to end."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.began_wall = time.time()
        self.over = asyncio.Event()

    def now(self) -> float:
        return time.monotonic() - self.began

    def of_wall(self, seconds: float) -> float:
        """A time of this machine's wall clock, in seconds of the run."""
        return seconds - self.began_wall

    async def pause(self, seconds: float) -> bool:
        """That long, or until the run is over; whether it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self.over.wait()
        return self.over.is_set()
