"""What a holder has read and not ended: one line per subject, of which only the head may run.

The next command of a line starts only after the settle of the one before was answered;
otherwise it would read old state.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator

from bridge.handling import Held
from bridge.lanes import Lanes
from bridge.verdict import Limits, must_run_alone

WAITING_PER_SUBJECT = 1000  # read and waiting behind a command of the same subject; beyond it the shard is not read


class Line:
    """One subject's entries, oldest first. ``busy`` from the moment its head is given to the lanes until that ended."""

    __slots__ = ("alone", "aside", "busy", "entries", "key", "started", "timer")

    def __init__(self, key: str) -> None:
        self.key = key
        self.entries: deque[Held] = deque()
        self.busy = False
        self.alone = False  # its head was given to the lanes as a suspect
        self.started = False  # its head has left the queue of the lanes
        self.aside = False  # its head has ended, and takes no room in the lanes while its settle has to wait
        self.timer: asyncio.TimerHandle | None = None  # its head backs off

    def drop_stale(self) -> None:
        """Forget entries that are not pending any more, but for a busy head, which its own job lets go."""
        if self.timer is not None and self.entries[0].dropped:
            self.timer.cancel()
            self.timer = None
        head = [self.entries[0]] if self.busy else []
        rest = sorted((h for h in self.entries if not h.dropped and h not in head), key=lambda h: h.order)
        self.entries = deque(head + rest)


class Lines:
    """The lines of one shard. ``handle`` does one head, once, and calls ``finish``, ``let_go`` or ``back_off``."""

    def __init__(
        self, lanes: Lanes, limits: Limits, handle: Callable[[Line], Awaitable[None]], stirred: asyncio.Event
    ) -> None:
        self.closed = False  # nothing more starts
        self._lanes, self._limits, self._handle, self._stirred = lanes, limits, handle, stirred
        self._lines: dict[str, Line] = {}

    def held(self) -> Iterator[Held]:
        return (held for line in self._lines.values() for held in line.entries)

    @property
    def any_started(self) -> bool:
        return any(line.started for line in self._lines.values())

    @property
    def any_too_long(self) -> bool:
        return any(len(line.entries) > WAITING_PER_SUBJECT for line in self._lines.values())

    def take(self, entries: Iterable[Held]) -> None:
        """Append each to its subject's line; one that cannot be read stands in a line of its own."""
        for held in entries:
            key = held.envelope.subject if held.unreadable is None else held.raw.id
            line = self._lines.get(key)
            if line is None:
                line = self._lines[key] = Line(key)
            line.entries.append(held)
            self.submit(line)

    def submit(self, line: Line) -> None:
        """Give the line's head to the lanes, unless it is there, backs off, or there is none."""
        if not line.entries:
            if self._lines.get(line.key) is line:
                del self._lines[line.key]
        elif not (line.busy or line.timer or self.closed):
            line.busy, line.alone = True, must_run_alone(line.entries[0].deaths, self._limits)
            self._lanes.submit(lambda: self._handle(line), alone=line.alone)

    def let_go(self, line: Line) -> None:
        """The head does not run any more, and has not ended."""
        self.take_back(line)
        line.busy = line.started = False
        self._lanes.let_go(alone=line.alone)
        if self.closed:
            self._stirred.set()  # a drain waits for the last

    def set_aside(self, line: Line) -> None:
        """The head has ended, and its settle has to wait."""
        if not line.aside:
            line.aside = True
            self._lanes.set_aside(alone=line.alone)

    def take_back(self, line: Line) -> None:
        """Its settle has to wait no more."""
        if line.aside:
            line.aside = False
            self._lanes.take_back(alone=line.alone)

    def finish(self, line: Line) -> None:
        """The head ended; the next may start."""
        line.entries.popleft()
        if len(line.entries) == WAITING_PER_SUBJECT // 2:
            self._stirred.set()  # the shard may have stood still for this line
        self.let_go(line)
        self.submit(line)

    def back_off(self, line: Line, after_s: float) -> None:
        """The head runs again, and its subject waits, in ``after_s`` seconds."""
        line.timer = asyncio.get_running_loop().call_later(after_s, self._wake, line)
        self.let_go(line)

    def drop_stale(self) -> None:
        """Go on with what is still pending."""
        for line in list(self._lines.values()):
            line.drop_stale()
            self.submit(line)

    def clear(self) -> None:
        self.closed = True
        for line in self._lines.values():
            if line.timer is not None:
                line.timer.cancel()
        self._lines.clear()

    def _wake(self, line: Line) -> None:
        line.timer = None
        self.submit(line)
