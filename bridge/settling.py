"""What the handlers of one shard came to, until it has settled: in batches, one after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from bridge.errors import BridgeError, ServerError
from bridge.handling import Held
from bridge.lines import Line, Lines
from bridge.shard_stream import SETTLE_AT_MOST, Ended, Lease, ShardStream
from bridge.telemetry import Buried, DeadLettersDropped, Settled, Telemetry

SETTLE_BYTES = 1 << 20
_UNSETTLED = b"settle:"  # how the script's answer begins where it failed in a way that it has no rule for

Result = tuple[Line, Held, Ended]


class Settling:
    """``failed`` is told of an error of the client. From ``hold_up`` to ``go_on`` nothing settles.

    Results that wait for that take no room in the lanes: their primary may be away for long, and others are not.
    """

    def __init__(
        self,
        stream: ShardStream,
        lines: Lines,
        node: str,
        telemetry: Telemetry,
        *,
        lease: Callable[[], Lease],
        failed: Callable[[BridgeError], None],
    ) -> None:
        self.settled = 0
        self._held_up = False  # until nobody doubts what is pending
        self._stream, self._lines, self._node, self._telemetry = stream, lines, node, telemetry
        self._lease, self._failed = lease, failed
        self._results: deque[Result] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, line: Line, held: Held, ended: Ended) -> None:
        self._results.append((line, held, ended))
        if self._held_up:
            self._lines.set_aside(line)
        self._soon()

    def hold_up(self) -> None:
        self._held_up = True
        for line, _, _ in self._results:
            self._lines.set_aside(line)

    def go_on(self) -> None:
        self._held_up = False
        for line, _, _ in self._results:
            self._lines.take_back(line)
        self._soon()

    def drop_stale(self) -> None:
        """Results of entries that are not pending any more must not settle what has their ids now, or out of turn.

        Others may have a record by now that goes with them.
        """
        kept: deque[Result] = deque()
        for line, held, ended in self._results:
            if held.dropped:
                line.entries.popleft()
                self._lines.let_go(line)
            else:
                kept.append((line, held, ended._replace(counted=held.counted)))
        self._results = kept

    async def close(self) -> None:
        """Settle nothing more."""
        self._held_up = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for line, _, _ in self._results:
            self._lines.let_go(line)
        self._results.clear()

    def _soon(self) -> None:
        if self._task is None and self._results and not self._held_up:
            name = f"settle-{self._stream.shard}"
            self._task = asyncio.get_running_loop().create_task(self._settle_all(), name=name)

    async def _settle_all(self) -> None:
        """As long as there are results; meanwhile the lanes fill the next batch."""
        try:
            while self._results and not self._held_up:
                batch = self._next_batch()
                try:
                    answers = await self._stream.settle(self._lease(), self._node, [ended for _, _, ended in batch])
                except BaseException as error:
                    self._results.extendleft(reversed(batch))
                    if not isinstance(error, BridgeError):
                        raise
                    return self._failed(error)
                for dropped in answers[len(batch) :]:
                    self._telemetry.emit(DeadLettersDropped(self._stream.shard, int(dropped)))
                for (line, held, ended), answer in zip(batch, answers, strict=False):
                    if isinstance(answer, bytes) and answer.startswith(_UNSETTLED):
                        self._results.append((line, held, ended))
                        self._failed(ServerError(answer.decode(errors="replace")))
                    else:
                        self._tell(held, ended, answer)
                        self._lines.finish(line)
        finally:
            self._task = None

    def _next_batch(self) -> list[Result]:
        """At most 50 results, and not much over a MiB: a batch has to get through within the connection's deadline."""
        batch: list[Result] = []
        size = 0
        while self._results and len(batch) < SETTLE_AT_MOST and size < SETTLE_BYTES:
            batch.append(self._results.popleft())
            size += batch[-1][2].effects.size
        return batch

    def _tell(self, held: Held, ended: Ended, answer: int | bytes) -> None:
        envelope = held.envelope
        if answer == 0:
            return
        self.settled += 1
        if not self._telemetry.active:
            return
        if answer == 1:
            waited = held.began - envelope.accepted_at / 1000 if held.began else 0.0
            self._telemetry.emit(
                Settled(self._node, envelope.id, envelope.type, envelope.subject, ended.state, waited, held.handled_s)
            )
        else:
            cause = answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
            self._telemetry.emit(Buried(self._node, envelope.id, envelope.type, "effects_failed", cause))
