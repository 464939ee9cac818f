"""What commands did here, told to operators: which were applied, and to how many sessions.

A command is remembered after it was applied, because its event may come again (a settle that a
fail-over took back is repeated): nobody is told or disconnected twice, and the answer stays the same.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Final

import structlog

from bridge.envelope import shard_of_id
from bridge.errors import Invalid, ServerFull, Unreachable
from bridge.receipts import BATCH, Receipts
from bridge.verdict import describe

log = structlog.get_logger(__name__)

REMEMBERED: Final = 10_000  # commands
MAX_UNWRITTEN: Final = 10_000  # receipts while Redis is away; then the oldest go
_BACKOFF_FIRST_S, _BACKOFF_MOST_S = 0.05, 1.0


@dataclass(slots=True)
class _Command:
    at: float  # when its first event was applied, by the monotonic clock
    events: dict[str, int] = field(default_factory=dict)  # with the sessions that each touched


class Applied:
    """Which events of which commands were applied here lately, and how many sessions each touched."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._commands: OrderedDict[str, _Command] = OrderedDict()

    def knows(self, command_id: str, event: str) -> bool:
        command = self._commands.get(command_id)
        return command is not None and event in command.events

    def note(self, command_id: str, event: str, sessions: int) -> None:
        """A command may have several events, such as an unmute and the shadow mute that it hides."""
        if command_id not in self._commands:
            self._commands[command_id] = _Command(time.monotonic())
        self._commands[command_id].events[event] = sessions
        if len(self._commands) > self._most:
            self._commands.popitem(last=False)

    def sessions(self, command_id: str) -> int:
        """How many sessions the command touched; its events are about the same ones."""
        return max(self._commands[command_id].events.values())

    def within(self, seconds: float) -> list[str]:
        """Commands that were applied so lately, the last one first."""
        since = time.monotonic() - seconds
        return list(takewhile(lambda id: self._commands[id].at >= since, reversed(self._commands)))


class Reporter:
    """Writes receipts in the background, those of one turn of the loop together."""

    def __init__(self, receipts: Receipts, node: str, shards: int) -> None:
        self._receipts, self._node, self._shards = receipts, node, shards
        self._unwritten: OrderedDict[str, int] = OrderedDict()
        self._news = asyncio.Event()
        self.dropped = 0

    def report(self, command_id: str, sessions: int) -> None:
        """Tell operators, as soon as may be. An id that is none of this installation's is left alone."""
        try:
            ours = shard_of_id(command_id) < self._shards
        except Invalid:  # a plugin may put anything on a channel
            ours = False
        if ours:
            self._unwritten[command_id] = sessions
            self._trim()
            self._news.set()

    async def run(self) -> None:
        """Write whatever is reported, until cancelled."""
        pause = _BACKOFF_FIRST_S
        while True:
            await self._news.wait()
            try:
                await self.step()
                pause = _BACKOFF_FIRST_S
            except (Unreachable, ServerFull):
                await asyncio.sleep(pause)
                pause = min(pause * 2, _BACKOFF_MOST_S)

    async def step(self) -> None:
        """Write what was reported. Raises Unreachable or ServerFull: the rest is written next time."""
        self._news.clear()
        unwritten, self._unwritten = self._unwritten, OrderedDict()
        shards: defaultdict[int, dict[str, int]] = defaultdict(dict)
        for command_id, sessions in unwritten.items():
            shards[shard_of_id(command_id)][command_id] = sessions
        batches = [(shard, batch) for shard, all in shards.items() for batch in _batches(all)]
        answers = await asyncio.gather(
            *(self._receipts.write(self._node, shard, batch) for shard, batch in batches), return_exceptions=True
        )
        outage: BaseException | None = None
        again: dict[str, int] = {}
        for (_, batch), answer in zip(batches, answers, strict=True):
            if isinstance(answer, Unreachable | ServerFull):
                outage = answer
                again |= batch
            elif isinstance(answer, BaseException):  # it would be refused again
                self._drop(len(batch), describe(answer))
        if outage is not None:
            # What was reported meanwhile is newer: it stands, and is dropped last.
            self._unwritten = OrderedDict(
                {id: again[id] for id in unwritten if id in again and id not in self._unwritten} | self._unwritten
            )
            self._trim()
            self._news.set()
            raise outage

    def _trim(self) -> None:
        over = len(self._unwritten) - MAX_UNWRITTEN
        for _ in range(over):
            self._unwritten.popitem(last=False)
        if over > 0:
            self._drop(over, "Redis is away for too long")

    def _drop(self, count: int, why: str) -> None:
        if not self.dropped:
            log.warning("receipts of commands are dropped", why=why)
        self.dropped += count


def _batches(receipts: dict[str, int]) -> list[dict[str, int]]:
    items = iter(receipts.items())
    return [batch for _ in range(0, len(receipts), BATCH) if (batch := dict(islice(items, BATCH)))]
