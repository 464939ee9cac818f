"""A node's slots for handling: at most ``max_in_flight`` commands at once, over all its shards.

Tasks are reused: one lane handles command after command, and another is woken only when
the loop gets a turn while work waits, that is, when a handler really awaits something. So
handlers that never wait cost no task switch, and those that do run side by side.

A suspect (a command beside which a process died twice) runs alone. Others go first, so
that they are done before it kills again; after a second nothing else starts until it had
its turn. While the result of one waits for a primary that is away, others go on, and no
second suspect starts: it might kill, and the first would be blamed once more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

Job = Callable[[], Awaitable[None]]
PATIENCE_S = 1.0  # for so long a suspect lets others go first
_YIELD_EVERY = 25  # jobs of one lane between two turns it gives to the loop


class Lanes:
    """See the module. A job runs in one of the lanes; ``hold``/``let_go`` bracket what counts as in flight."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._jobs: deque[Job] = deque()
        self._suspects: deque[tuple[float, Job]] = deque()  # with the loop time at which they are overdue
        self._idle: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._alone = False
        self._suspect_aside = False
        self._wake_scheduled = False
        self._room = asyncio.Event()
        self._room.set()

    @property
    def load(self) -> int:
        """Commands that run, are about to, or are being settled."""
        return self._in_flight + len(self._jobs) + len(self._suspects)

    async def room(self) -> int:
        """Wait until something more may be read; how much."""
        while self.load >= self.size:
            self._room.clear()
            await self._room.wait()
        return self.size - self.load

    def submit(self, job: Job, *, alone: bool = False) -> None:
        """Run a job as soon as there is a lane for it. It must call ``let_go`` when its command is settled or waits."""
        if alone:
            self._suspects.append((asyncio.get_running_loop().time() + PATIENCE_S, job))
        else:
            self._jobs.append(job)
        self._wake_soon()

    def let_go(self, *, alone: bool) -> None:
        """A command that was in flight is no more; ``alone`` as it was submitted."""
        self._in_flight -= 1
        if alone:
            self._alone = False
        self._wake_soon()
        if self.load < self.size:
            self._room.set()

    def set_aside(self, *, alone: bool) -> None:
        """A command that was in flight has ended, and its settle has to wait: it takes no room until ``take_back``."""
        self._suspect_aside = self._suspect_aside or alone
        self.let_go(alone=alone)

    def take_back(self, *, alone: bool) -> None:
        """It is in flight again, over ``size`` where others took its room, so that no more is read."""
        self._in_flight += 1
        if alone:
            self._suspect_aside = False

    async def close(self) -> None:
        """Cancel what runs."""
        self._jobs.clear()
        self._suspects.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _wake_soon(self) -> None:
        if not self._wake_scheduled and (self._jobs or self._suspects):
            self._wake_scheduled = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._wake_scheduled = False
        if self._alone or (self._in_flight and not self._jobs):
            return
        if self._idle:
            lane = self._idle.pop()
            if not lane.done():
                lane.set_result(None)
        elif len(self._tasks) < self.size:
            task = asyncio.get_running_loop().create_task(self._lane(), name="lane")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _next(self) -> Job | None:
        """What may start now, if anything."""
        if self._alone:
            return None
        overdue = self._suspects and asyncio.get_running_loop().time() >= self._suspects[0][0]
        if self._suspects and not self._suspect_aside and (overdue or not self._jobs):
            if self._in_flight:
                return None
            self._alone = True
            return self._suspects.popleft()[1]
        return self._jobs.popleft() if self._jobs else None

    async def _lane(self) -> None:
        handled = 0
        while True:
            while (job := self._next()) is not None:
                self._in_flight += 1
                self._wake_soon()
                await job()
                handled += 1
                if handled % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle
