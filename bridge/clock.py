"""The server's clock, as a process knows it, and the one periodic loop of the project."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from bridge.telemetry import StepFailed, Telemetry


class ServerClock:
    """Redis' time, carried on by the local monotonic clock between answers. A node's own wall clock is never asked."""

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()  # until the first answer

    def heard(self, seconds: float) -> None:
        """Redis said just now that it is ``seconds`` since the epoch."""
        self._ahead = seconds - time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.monotonic() + self._ahead

    def now_ms(self) -> int:
        return int(self.now() * 1000)


async def every(seconds: float, step: Callable[[], Awaitable[object]], *, name: str, telemetry: Telemetry) -> None:
    """Run ``step`` now and every ``seconds``, until cancelled. A failed step is reported, never fatal."""
    while True:
        try:
            await step()
        except Exception as error:
            telemetry.emit(StepFailed(name, f"{type(error).__name__}: {error}"))
        await asyncio.sleep(seconds)
