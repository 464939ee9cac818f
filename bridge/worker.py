"""One owned shard's loop: take over, read, handle in order per subject, settle in batches.

After any error of the client nobody knows what the server did. So the worker first takes
its own lease again under a new epoch, which fences a late read or settle of its own, and
then claims its own pending entries: results of entries that are still pending are settled
again, and what is not pending any more is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from bridge.errors import BridgeError, ServerFull
from bridge.handling import Handling, Held, hold
from bridge.lanes import Lanes
from bridge.lines import Line, Lines
from bridge.settling import Settling
from bridge.shard_stream import READ_AT_MOST, Lease, RawEntry, ShardStream
from bridge.telemetry import (
    Buried,
    Claimed,
    DeadLettersDropped,
    LostLease,
    Read,
    Retried,
    Telemetry,
)
from bridge.verdict import Again, Bury, Limits, Refuse, Verdict, describe, must_bury

POLL_S = 1.0  # a lost ring is caught by then
_BACK_OFF_FIRST_S, _BACK_OFF_MOST_S = 0.05, 0.5


class Worker:
    """See the module. ``run`` ends when the shard is lost or handed over."""

    def __init__(
        self,
        stream: ShardStream,
        lease: Lease,
        *,
        owner: str,
        handling: Handling,
        lanes: Lanes,
        limits: Limits,
        telemetry: Telemetry,
    ) -> None:
        self.shard = stream.shard
        self.lease = lease
        self._stream, self._owner, self._handling = stream, owner, handling
        self._lanes, self._limits, self._telemetry = lanes, limits, telemetry
        self._node = handling.node
        self._buried = 0
        self._error: BridgeError | None = None  # what the client said last; a recovery is due
        self._pause_s = 0.0  # before the next recovery; grows while one follows the other
        self._stirred = asyncio.Event()  # something for the loop to look at
        self._lines = Lines(lanes, limits, self._handle, self._stirred)
        self._settling = Settling(
            stream, self._lines, handling.node, telemetry, lease=lambda: self.lease, failed=self.fail
        )
        self._taken_over = False
        self._rolled_back = False  # the server is another one, and may lack what handlers have read
        self._draining = False
        self._lost = False

    # what others tell it

    def ring(self) -> None:
        """Something was appended while the shard slept."""
        self._stirred.set()

    def drain(self) -> None:
        """Read and start nothing more; ``run`` ends once what was started has settled and the lease is given up."""
        self._draining = self._lines.closed = True
        self._stirred.set()

    def fail(self, error: BridgeError) -> None:
        """A call about this shard failed: nobody knows what the server did."""
        if self._error is None:
            self._error = error
        self._settling.hold_up()
        self._stirred.set()

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def handled(self) -> int:
        """Commands that ended here since the shard was taken."""
        return self._settling.settled + self._buried

    # the loop

    async def run(self) -> None:
        """Handle the shard until drained or lost."""
        try:
            await self._guarded(self._take_over())
            while not self._lost:
                if self._error is not None:
                    await self._recover()
                elif not self._draining:
                    await self.step()
                elif self._lines.any_started:
                    await self._wait(POLL_S)
                else:
                    await self._guarded(self._hand_over())
        finally:
            await self._abandon()

    async def step(self) -> None:
        """Read once, as much as there is room for; then wait for a ring where nothing is left."""
        room = await self._room()
        self._stirred.clear()
        if not room or self._draining or self._error is not None:
            return
        asked = min(room, READ_AT_MOST)
        try:
            now, entries, due_s = await self._stream.read(self.lease, self._node, asked)
        except BridgeError as error:
            self.fail(error)
            return
        self._handling.clock.heard(now)
        self._pause_s = 0.0
        if entries:
            if self._telemetry.active:
                self._telemetry.emit(Read(self._node, self.shard, len(entries)))
            self._lines.take(hold(self.shard, raw) for raw in entries)
        if due_s <= 0:
            due_s = await self._promote()
        if due_s > 0 and len(entries) < asked:
            await self._wait(min(POLL_S, due_s))

    async def _promote(self) -> float:
        """Put scheduled commands that are due on the stream; seconds until another read is worth it, 0 = at once."""
        try:
            moved, again_s = await self._stream.promote(self.lease)
        except ServerFull:
            return POLL_S  # they wait for room, while what is accepted drains
        except BridgeError as error:
            self.fail(error)
            return 0.0
        return 0.0 if moved else again_s

    async def _room(self) -> int:
        """How many entries may be read now; 0 after a wait: look again."""
        if self._lines.any_too_long:
            await self._wait(POLL_S)
            return 0
        if self._lanes.load < self._lanes.size:
            return self._lanes.size - self._lanes.load
        room, stirred = asyncio.ensure_future(self._lanes.room()), asyncio.ensure_future(self._stirred.wait())
        await asyncio.wait((room, stirred), timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        room.cancel()
        stirred.cancel()
        return 0

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        except TimeoutError:
            pass
        self._stirred.clear()

    async def _guarded(self, call: Awaitable[None]) -> None:
        try:
            await call
        except BridgeError as error:
            self.fail(error)

    # taking over, coming back, handing over

    async def _take_over(self) -> None:
        """Claim every pending entry of the shard before anything new is read; what is in memory already stays."""
        pending: dict[str, RawEntry] = {}
        page = "-"
        while page:
            claimed = await self._stream.claim(self.lease, self._node, page)
            self._handling.clock.heard(claimed.now)
            pending.update((raw.id, raw) for raw in claimed.entries)
            page = claimed.next
        for held in self._lines.held():
            found = pending.get(held.raw.id)
            # What was read from a server that lost it since must not settle on its successor, nor after the next error.
            if held.dropped or self._rolled_back or found is None or found.fields != held.raw.fields:
                held.dropped = True
            else:
                held.learn(pending.pop(held.raw.id), self._node)
        if pending:
            self._telemetry.emit(Claimed(self._node, self.shard, len(pending)))
        self._lines.take(hold(self.shard, raw, presumed_deaths=self._presumed(raw)) for raw in pending.values())
        self._taken_over, self._rolled_back = True, False

    def _presumed(self, raw: RawEntry) -> int:
        # What another process held may have been started there. What this one read without ever
        # hearing of it, because the answer was lost, was not.
        return 0 if self._taken_over and raw.inherited_from == self._node else 1

    async def _recover(self) -> None:
        """After an error: raise the own lease's epoch, then claim. The shard is lost where somebody else holds it.

        Nothing starts and nothing settles until that is done, since ``_error`` stands.
        """
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(max(self._pause_s * 2, _BACK_OFF_FIRST_S), _BACK_OFF_MOST_S)
        try:
            lease = await self._stream.acquire(self._owner)
            if isinstance(lease, Lease):
                self._rolled_back = self._rolled_back or lease.incarnation != self.lease.incarnation
                self.lease = lease
                await self._take_over()
        except BridgeError as error:
            self._error = error
            return
        self._lost = not isinstance(lease, Lease)
        self._lines.closed = self._draining or self._lost
        self._telemetry.emit(LostLease(self._node, self.shard, str(self._error), regained=not self._lost))
        self._error = None
        self._settling.drop_stale()
        self._lines.drop_stale()
        if not self._lost:
            self._settling.go_on()

    async def _hand_over(self) -> None:
        unstarted = {held.raw.id: held.deaths for held in self._lines.held() if not held.counted}
        await self._stream.release(self.lease, unstarted)
        self._lost = True

    async def _abandon(self) -> None:
        self._lost = True
        await self._settling.close()
        self._lines.clear()

    # one entry

    async def _handle(self, line: Line) -> None:
        """A job of the lanes: the head of a line, once."""
        held = line.entries[0]
        if held.dropped:
            return self._lines.finish(line)
        if self._draining or self._lost or self._error is not None:
            return self._lines.let_go(line)
        line.started = True
        try:
            verdict = await self._attempt(held)
            if self._stale(held):
                return self._drop(line)
            match verdict:
                case Again(after_s, cause):
                    await self._back_off(line, held, after_s, cause)
                case Bury():
                    await self._bury(held, verdict)
                    self._lines.finish(line)
                case _:
                    self._settling.add(line, held, self._handling.ended(held, verdict))
        except BridgeError as error:
            self._lines.let_go(line)
            self.fail(error)
        except asyncio.CancelledError:
            if self._handling.closing:
                raise
            self._lines.let_go(line)  # a handler cancelled the task it ran in, which is the lane's
            self._lines.submit(line)
        except Exception as error:
            # A fault of ours, not of the handler: its entry must not hold up the subject for ever.
            held.unreadable = Bury("effects_failed", describe(error))
            self._lines.let_go(line)
            self._lines.submit(line)

    def _drop(self, line: Line) -> None:
        """Forget a busy head, whose shard or entry is not ours any more."""
        if self._lost:
            self._lines.let_go(line)
        else:
            self._lines.finish(line)

    def _stale(self, held: Held) -> bool:
        """Whether the shard or the entry was lost while its handler ran."""
        return self._lost or held.dropped

    async def _attempt(self, held: Held) -> Verdict | None:
        """What becomes of the entry; None: it has expired."""
        if held.unreadable is not None:
            return held.unreadable
        too_deadly = must_bury(held.deaths, self._limits)
        if too_deadly is not None:
            return too_deadly
        if self._handling.expired(held):
            return None
        first = held.envelope.unless_done
        if first is not None and await self._stream.was_done_after_all(first):
            return Refuse(f"{first}, which it repeats, was done after all")
        if held.counted or held.raw.inherited_from is not None:
            held.counted = True
            await self._stream.start(self.lease, held.raw.id, starts=held.deaths + 1)
        return await self._handling.run(held)

    async def _back_off(self, line: Line, held: Held, after_s: float, cause: str) -> None:
        held.counted = True
        held.failures = await self._stream.retry(self.lease, held.raw.id, deaths=held.deaths)
        held.timeline.append(self._handling.step("retrying"))
        held.began = 0.0
        self._telemetry.emit(Retried(self._node, held.envelope.id, held.envelope.type, held.failures, after_s, cause))
        self._lines.back_off(line, after_s)

    async def _bury(self, held: Held, verdict: Bury) -> None:
        envelope = held.envelope
        attempts, outcome = self._handling.obituary(held, verdict)
        buried, dropped = await self._stream.bury(
            self.lease, self._node, held.raw.id, envelope.id, code=verdict.code, message=verdict.cause,
            attempts=attempts, outcome=outcome,
        )  # fmt: skip
        if buried:
            self._buried += 1
            self._telemetry.emit(Buried(self._node, envelope.id, envelope.type, verdict.code, verdict.cause))
        if dropped:
            self._telemetry.emit(DeadLettersDropped(self.shard, dropped))
