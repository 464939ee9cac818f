"""The server's clock, as a process knows it, a time limit of many tasks, and the one periodic loop of the project."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

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


class TimeLimit:
    """One limit for many tasks, on one timer. ``asyncio.timeout`` sets a timer each time and takes it back.

    Between ``start`` and ``stop``, a task that runs longer than ``seconds`` is cancelled.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._due: dict[asyncio.Task[Any], float] = {}  # loop time, the next one first
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> asyncio.Task[Any]:
        """The limit begins for the current task, which is returned."""
        task = asyncio.current_task()
        assert task is not None, "only tasks have a time limit"
        loop = asyncio.get_running_loop()
        self._due[task] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._cancel_overdue)
        return task

    def stop(self, task: asyncio.Task[Any]) -> bool:
        """The limit ends; whether it was exceeded. The task does not count as cancelled for that any more."""
        if self._due.pop(task, None) is not None:
            return False
        task.uncancel()
        return True

    def _cancel_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._due:
            task, due = next(iter(self._due.items()))
            if due > loop.time():
                self._timer = loop.call_at(due, self._cancel_overdue)
                return
            del self._due[task]
            task.cancel()


async def every(seconds: float, step: Callable[[], Awaitable[object]], *, name: str, telemetry: Telemetry) -> None:
    """Run ``step`` now and every ``seconds``, until cancelled. A failed step is reported, never fatal."""
    while True:
        try:
            await step()
        except Exception as error:
            telemetry.emit(StepFailed(name, f"{type(error).__name__}: {error}"))
        await asyncio.sleep(seconds)
